"""Tests of the builder for own features."""

import json
import pathlib
import re
import shutil
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from a2net_tf import records
from a2net_tf.datasets.feature_folder import feature_folder_dataset_builder as own
from a2net_tf.errors import UserError

SIZE = 5
STEPS = {"goal_1": 40, "goal_2": 25, "match": 60}


def make_features(name: str) -> np.ndarray:
    rng = np.random.default_rng(list(name.encode()))
    return rng.normal(size=(STEPS[name], SIZE)).astype(np.float32)


def make_content() -> dict:
    """Half a second per step."""
    return {
        "database": {
            "goal_1": {"subset": "train", "duration": 20.0, "annotations": [{"segment": [1, 2.5], "label": "shot"}]},
            "goal_2": {"subset": "train", "duration": 12.5, "annotations": []},
            "match": {
                "subset": "held_out",
                "duration": 30.0,
                "annotations": [{"segment": [29, 30.5], "label": "save"}, {"segment": [4, 4], "label": "shot"}],
            },
        }
    }


def write_all(folder: pathlib.Path) -> pathlib.Path:
    """One file of each kind."""
    (folder / "more").mkdir(parents=True)
    np.save(folder / "goal_1.npy", make_features("goal_1"))
    np.savez(folder / "goal_2.npz", features=make_features("goal_2"), fps=30)
    np.savez(folder / "more" / "match.npz", make_features("match"))
    write_content(folder, make_content())
    return folder


def write_content(folder: pathlib.Path, content: dict) -> None:
    (folder / "labels.json").write_text(json.dumps(content))


def write_settings(folder: pathlib.Path, **settings) -> None:
    (folder / "settings.json").write_text(json.dumps(settings))


class FeatureFolderTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own test of a builder."""

    DATASET_CLASS = own.Builder
    SPLITS = {"train": 2, "held_out": 1}

    @classmethod
    def setUpClass(cls):
        cls.EXAMPLE_DIR = tempfile.mkdtemp()
        write_all(pathlib.Path(cls.EXAMPLE_DIR))
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(cls.EXAMPLE_DIR)


@pytest.fixture
def raw(tmp_path):
    """A ``manual_dir`` that tests may change."""
    return write_all(tmp_path / "raw")


@pytest.fixture
def open_own(tmp_path):
    def open_folder(manual_dir: pathlib.Path, data_dir: str = "data"):
        return records.open_dataset("feature_folder", data_dir=str(tmp_path / data_dir), manual_dir=str(manual_dir))

    return open_folder


def read(builder: tfds.core.DatasetBuilder, split: str = "train+held_out") -> dict[str, dict]:
    """Records by id, as numpy."""
    return {record["id"].decode(): record for record in tfds.as_numpy(records.read_records(builder, split))}


# Contents


def test_records(raw, open_own, capsys):
    builder = open_own(raw)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 2, "held_out": 1}
    assert records.class_names(builder) == ["save", "shot"]
    found = read(builder)
    for name, record in found.items():
        np.testing.assert_array_equal(record["features"], make_features(name))
        assert record["feature_stride_seconds"] == 0.5
        assert (record["first_step_seconds"], record["duration_seconds"]) == (0.0, STEPS[name] / 2)
    assert found["goal_1"]["labels"].tolist() == [1]
    assert found["goal_2"]["segments"].shape == (0, 2)
    assert found["match"]["segments"].tolist() == [[29, 30]]
    printed = capsys.readouterr().out
    assert "feature_folder: 3 feature files, 5 values per step, 2 classes\n" in printed
    assert "held_out: actions clipped to the recording: 1; of no length, dropped: 1\n" in printed
    assert "train: 2 videos, 1 actions of 1 classes: save 0, shot 1\n" in printed


def test_reopened_without_the_builder(raw, open_own):
    reopened = records.open_dataset(str(open_own(raw).data_path))
    assert records.class_names(reopened) == ["save", "shot"]
    assert records.num_features(reopened) == SIZE
    assert records.read_metadata(reopened)["counts"]["held_out"]["per_class"] == {"save": 1, "shot": 0}
    assert len(read(reopened)) == 3


def test_reopened_by_name_alone(raw, open_own, tmp_path):
    """The files need not be there any more."""
    open_own(raw)
    shutil.rmtree(raw)
    for again in (open_own(raw), records.open_dataset("feature_folder", data_dir=str(tmp_path / "data"))):
        assert records.class_names(again) == ["save", "shot"]
        assert len(read(again)) == 3


def test_changed_files_are_noticed(raw, open_own):
    path = open_own(raw).data_path
    np.save(raw / "new.npy", make_features("match"))
    message = (
        rf"manual_dir={re.escape(str(raw))}: its files have changed since {re.escape(str(path))} was written \(then 4 "
        r"files of .* MB, now 5 files of .* MB\); delete that directory to prepare it again"
    )
    with pytest.raises(UserError, match=message):
        open_own(raw)
    config = tfds.download.DownloadConfig(manual_dir=raw)
    with pytest.raises(UserError, match=message):  # also where TFDS itself would reuse the directory
        own.Builder(data_dir=path.parent.parent).download_and_prepare(download_config=config)
    (raw / "new.npy").unlink()
    assert len(read(open_own(raw))) == 3
    shutil.rmtree(path)
    content = make_content()
    content["classes"] = ["shot", "corner", "save"]
    write_content(raw, content)
    assert records.class_names(open_own(raw)) == ["shot", "corner", "save"]


def test_prepared_inside_the_folder(raw):
    for _ in range(2):
        builder = records.open_dataset("feature_folder", data_dir=str(raw / "prepared"), manual_dir=str(raw))
        assert len(read(builder)) == 3


# Time


@pytest.mark.parametrize(
    ("settings", "top_level", "own_entry", "stride", "first"),
    [
        ({}, {}, {}, 0.5, 0.0),
        ({"feature_stride_seconds": 0.48}, {}, {}, 0.48, 0.0),
        ({}, {"feature_stride_seconds": 0.48}, {}, 0.48, 0.0),
        ({}, {}, {"feature_stride_seconds": 0.48}, 0.48, 0.0),
        ({"feature_stride_frames": 12}, {"fps": 25}, {}, 0.48, 0.0),
        ({"feature_stride_frames": 12, "fps": 25}, {"fps": 30}, {}, 0.48, 0.0),
        ({"feature_stride_frames": 12, "fps": 30}, {}, {"fps": 24}, 0.5, 0.0),
        ({"feature_stride_seconds": 0.1}, {"fps": 25}, {"feature_stride_frames": 12}, 0.48, 0.0),
        ({"first_step_seconds": 0.2, "feature_stride_seconds": 0.48}, {}, {}, 0.48, 0.2),
        ({"first_step_seconds": 0.4}, {}, {}, 19.6 / 40, 0.4),
    ],
)
def test_time_base(raw, open_own, settings, top_level, own_entry, stride, first):
    content = make_content()
    for name in ("goal_2", "match"):
        del content["database"][name]
    content["database"]["goal_1"].update(own_entry)
    write_content(raw, {**content, **top_level})
    write_settings(raw, **settings)
    record = read(open_own(raw), "train")["goal_1"]
    assert record["feature_stride_seconds"] == pytest.approx(stride)
    assert record["first_step_seconds"] == first


def test_without_a_duration(raw, open_own):
    content = make_content()
    for entry in content["database"].values():
        del entry["duration"]
    write_content(raw, content)
    with pytest.raises(UserError, match=r"video 'match': no usable 'duration' \(0 s\), and neither 'feature_stride_s"):
        open_own(raw)
    write_settings(raw, feature_stride_seconds=0.5)
    record = read(open_own(raw))["match"]
    assert record["duration_seconds"] == 30.0
    assert record["segments"].tolist() == [[29, 30]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_stride_frames": 12}, "video 'match': 'feature_stride_frames' needs 'fps' too"),
        (
            {"feature_stride_seconds": 0.4},
            r"match\.npz: 60 vectors, one every 0.4 s, end at 24 s, but the video's duration is 30 s; wrong fps or",
        ),
        ({"feature_stride_seconds": 0.6}, "end at 36 s, but the video's duration is 30 s"),
        ({"feature_stride_seconds": -0.5}, "'feature_stride_seconds' is -0.5"),
        ({"fps": float("inf")}, "'fps' is inf"),
        ({"stride": 4}, r"settings\.json: unknown key 'stride'; known are fps, "),
    ],
)
def test_wrong_time(raw, open_own, settings, message):
    write_settings(raw, **settings)
    with pytest.raises(UserError, match=message):
        open_own(raw)


def test_a_larger_rest_may_be_allowed(raw, open_own):
    write_settings(raw, feature_stride_seconds=0.4, receptive_field_seconds=6.0)
    assert read(open_own(raw))["goal_1"]["feature_stride_seconds"] == 0.4


# Mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["shot"]}, "video 'match' has the label 'save', which is none of the 1 classes"),
        ({"classes": ["shot", "save", "shot"]}, "'classes' has a name twice"),
        ({"classes": "shot"}, r"labels\.json: 'classes' must be a list of texts"),
        ({"fps": "fast"}, r"labels\.json: 'fps' must be a number"),
        ({"database": {}}, "'database' is empty"),
        ({"database": []}, "'database': expected an object"),
        (
            {"database": {"a": {"subset": "x", "duration": 1, "annotations": []}}},
            "no annotations at all, so no classes",
        ),
    ],
)
def test_wrong_content(raw, open_own, changes, message):
    write_content(raw, {**make_content(), **changes})
    with pytest.raises(UserError, match=message):
        open_own(raw)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subset": "held-out"}, "video 'goal_1' is in the subset 'held-out'; a split's name has letters"),
        ({"subset": "all"}, "video 'goal_1' is in the subset 'all'"),
        ({"annotations": [{"segment": [3, 2], "label": "shot"}]}, "video 'goal_1': 'shot' from 3 to 2 s does not end"),
        ({"annotations": [{"segment": [3, 25], "label": "shot"}]}, "'shot' from 3 to 25 s lies outside the recording"),
        ({"fps": "25"}, "video 'goal_1': 'fps' must be a number"),
    ],
)
def test_wrong_entry(raw, open_own, changes, message):
    content = make_content()
    content["database"]["goal_1"].update(changes)
    write_content(raw, content)
    with pytest.raises(UserError, match=message):
        open_own(raw)


def test_which_json(raw, open_own):
    (raw / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r'raw: several JSON files \(labels.json, other.json\); name one with "annot'):
        open_own(raw)
    write_settings(raw, annotations="other.json")
    with pytest.raises(UserError, match=r"other\.json: no key 'database', found none"):
        open_own(raw)
    write_settings(raw, annotations="labels.json")
    assert len(read(open_own(raw))) == 3


def test_no_json(raw, open_own):
    (raw / "labels.json").unlink()
    with pytest.raises(UserError, match="raw: no annotations; looked for a .json file with"):
        open_own(raw)


def test_missing_features(raw, open_own, capsys):
    (raw / "goal_2.npz").unlink()
    message = 'feature_folder train: 1 of 2 annotated videos have no features: goal_2; complete the .*"allow_missing"'
    with pytest.raises(UserError, match=message):
        open_own(raw)
    write_settings(raw, allow_missing=True)
    assert read(open_own(raw)).keys() == {"goal_1", "match"}
    assert "1 of 2 annotated videos have no features: goal_2; left out" in capsys.readouterr().out
    for name in ("goal_1.npy", "more/match.npz"):
        (raw / name).unlink()
    with pytest.raises(UserError, match="no video is left that could be prepared"):
        open_own(raw, "other_data")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.full((40, SIZE), np.inf), "40 steps hold NaN or infinite values"),
        (np.ones((40, SIZE + 1)), r"6 values per step but 5 are expected$"),
        (np.ones((SIZE, 40)), r"40 values per step but 5 are expected; is the matrix transposed\?"),
    ],
)
def test_features_that_cannot_be(raw, open_own, features, message):
    write_settings(raw, num_features=SIZE)
    np.save(raw / "goal_1.npy", features)
    with pytest.raises(UserError, match=rf"goal_1\.npy: {message}"):
        open_own(raw)


def test_files_of_two_sizes(raw, open_own):
    np.save(raw / "goal_1.npy", np.ones((40, SIZE + 1)))
    with pytest.raises(UserError, match=r"(goal_1|match)\.np.: \d values per step, but (match|goal_1)\.np. has \d"):
        open_own(raw)

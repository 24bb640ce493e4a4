"""Tests of the builder for own features."""

import json
import pathlib
import pickle
import re
import shutil
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from a2net_tf.data import prepared
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


def write_all(folder: pathlib.Path, suffix: str = "") -> pathlib.Path:
    """One file of each kind, or all with ``suffix``."""
    (folder / "more").mkdir(parents=True)
    write_features(folder / f"goal_1{suffix or '.npy'}", make_features("goal_1"))
    write_features(folder / f"goal_2{suffix or '.npz'}", make_features("goal_2"))
    if suffix:
        write_features(folder / "more" / f"match{suffix}", make_features("match"))
    else:
        np.savez(folder / "more" / "match.npz", make_features("match"))  # an only array may have any name
    write_content(folder, make_content())
    return folder


def write_features(file: pathlib.Path, features: np.ndarray) -> None:
    if file.suffix == ".npy":
        np.save(file, features)
    else:
        np.savez(file, features=features, fps=30)


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
        return prepared.open_dataset("feature_folder", data_dir=str(tmp_path / data_dir), manual_dir=str(manual_dir))

    return open_folder


def read(builder: tfds.core.DatasetBuilder, split: str = "train+held_out") -> dict[str, dict]:
    """Records by id, as numpy."""
    return {record["id"].decode(): record for record in tfds.as_numpy(prepared.read_records(builder, split))}


# Contents


def test_records(raw, open_own, capsys):
    builder = open_own(raw)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 2, "held_out": 1}
    assert prepared.class_names(builder) == ["save", "shot"]
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
    reopened = prepared.open_dataset(str(open_own(raw).data_path))
    assert prepared.class_names(reopened) == ["save", "shot"]
    assert prepared.num_features(reopened) == SIZE
    assert prepared.read_metadata(reopened)["counts"]["held_out"]["per_class"] == {"save": 1, "shot": 0}
    (line,) = prepared.describe_changes(reopened, "train+held_out[:50%]")
    assert "split 'held_out': actions clipped to the recording: 1; of no length, dropped: 1" in line
    assert len(read(reopened)) == 3


def test_reopened_by_name_alone(raw, open_own, tmp_path):
    """The files need not be there any more."""
    open_own(raw)
    shutil.rmtree(raw)
    for again in (open_own(raw), prepared.open_dataset("feature_folder", data_dir=str(tmp_path / "data"))):
        assert prepared.class_names(again) == ["save", "shot"]
        assert len(read(again)) == 3


def test_changed_files_are_noticed(raw, open_own):
    path = open_own(raw).data_path
    np.save(raw / "new.npy", make_features("match"))
    message = (
        rf"manual_dir={re.escape(str(raw))}: its files have changed since {re.escape(str(path))} was written \("
        r"new.npy is new\); delete that directory to prepare it again"
    )
    with pytest.raises(UserError, match=message):
        open_own(raw)
    config = tfds.download.DownloadConfig(manual_dir=raw)
    with pytest.raises(UserError, match=message):  # also where TFDS itself would reuse the directory
        own.Builder(data_dir=path.parent.parent).download_and_prepare(download_config=config)
    (raw / "new.npy").unlink()
    assert len(read(open_own(raw))) == 3
    metadata = json.loads((path / "metadata.json").read_text())
    metadata["fingerprint"]["digest"] = "0123456789abcdef"  # as an earlier version wrote it
    (path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r"was written \(it does not say from which files\); delete"):
        open_own(raw)
    shutil.rmtree(path)
    content = make_content()
    content["classes"] = ["shot", "corner", "save"]
    write_content(raw, content)
    assert prepared.class_names(open_own(raw)) == ["shot", "corner", "save"]


def test_prepared_inside_the_folder(raw):
    for _ in range(2):
        builder = prepared.open_dataset("feature_folder", data_dir=str(raw / "prepared"), manual_dir=str(raw))
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


SIGNAL = {"samples_per_step": 5, "samples_between_steps": 2, "channels": 1}


@pytest.mark.parametrize("where", ["settings", "annotations"])
def test_a_signal_is_declared(raw, open_own, where):
    assert prepared.read_metadata(open_own(raw))["signal"] == {}
    if where == "settings":
        write_settings(raw, signal=SIGNAL)
    else:
        write_content(raw, {**make_content(), "signal": SIGNAL})
    assert prepared.read_metadata(open_own(raw, data_dir="again"))["signal"] == SIGNAL


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        ([5, 2, 1], r"settings\.json: 'signal' must be an object, found \[5, 2, 1\]"),
        (
            {**SIGNAL, "channels": 2},
            r"settings\.json or labels\.json: 'signal': 5 samples of 2 .* the feature .* have 5",
        ),
        ({"channels": 5}, r"settings\.json or labels\.json: 'signal' has no key 'samples_per_step'"),
    ],
)
def test_a_wrong_signal(raw, open_own, signal, message):
    write_settings(raw, signal=signal)
    with pytest.raises(UserError, match=message):
        open_own(raw)


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
        (
            {"annotations": "../labels.json"},
            r"settings\.json: 'annotations': expected the name of a file in this folder",
        ),
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
        ({"database": []}, "database: expected an object"),
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
    with pytest.raises(UserError, match=r"other\.json: key 'database' is missing; found no keys"):
        open_own(raw)
    write_settings(raw, annotations="labels.json")
    assert len(read(open_own(raw))) == 3


def test_no_json(raw, open_own):
    (raw / "labels.json").unlink()
    with pytest.raises(UserError, match="raw: no annotations; looked for a .json file with"):
        open_own(raw)


def test_missing_features(raw, open_own, capsys):
    (raw / "goal_2.npz").unlink()
    message = 'raw: 1 of 3 annotated videos have no features: goal_2; complete the .*"allow_missing"'
    with pytest.raises(UserError, match=message):
        open_own(raw)
    write_settings(raw, allow_missing=True)
    assert read(open_own(raw)).keys() == {"goal_1", "match"}
    assert "1 of 3 annotated videos have no features: goal_2; left out" in capsys.readouterr().out


def test_missing_features_of_both_splits_are_listed(raw, open_own, capsys):
    """The line names ten; all are printed before."""
    for name in ("goal_2.npz", "more/match.npz"):
        (raw / name).unlink()
    content = make_content()
    with pytest.raises(UserError, match="raw: 2 of 3 annotated videos have no features: goal_2, match; complete"):
        open_own(raw)
    assert "without features" not in capsys.readouterr().out
    more = {f"x{number:02}": content["database"]["goal_2"] for number in range(9)}
    write_content(raw, {"database": {**content["database"], **more}})
    with pytest.raises(
        UserError, match=r"raw: 11 of 12 .*: goal_2, .*, x07 and 1 more \(all are printed above\); comp"
    ):
        open_own(raw)
    names = ", ".join(["goal_2", "match", *more])
    assert f"raw: the 11 annotated videos without features: {names}\n" in capsys.readouterr().out


def test_no_features(raw, open_own):
    content = make_content()
    write_content(raw, {"database": {f"{name}.mp4": video for name, video in content["database"].items()}})
    message = r"raw: no features of an annotated video; looked for goal_1\.mp4\.npy, goal_1\.mp4\.npz and so on "
    there = r"1 \.npy \(such as goal_1\.npy\), 2 \.npz \(such as goal_2\.npz\), 1 \.json \(such as labels\.json\)$"
    with pytest.raises(UserError, match=f"{message}here and in the folders here; what is there: {there}"):
        open_own(raw)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.full((40, SIZE), np.inf), "40 steps hold NaN or infinite values"),
        (np.ones((40, SIZE + 1)), r"6 values per step but 5 are expected$"),
        (np.ones((SIZE, 40)), r"40 values per step but 5 are expected; is the matrix transposed\?"),
        (np.ones((0, SIZE)), "0 feature steps"),
        (np.ones(SIZE), r"expected a number matrix \[steps, features\], found shape \[5\]"),
        (np.array([None]), r"not a readable \.npy array \(it holds Python objects, and allow_pickle is off"),
    ],
)
def test_features_that_cannot_be(raw, open_own, features, message):
    write_settings(raw, num_features=SIZE)
    np.save(raw / "goal_1.npy", features)
    with pytest.raises(UserError, match=rf"goal_1\.npy: {message}"):
        open_own(raw)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"features": np.array([None])},
            r"not a readable \.npz file \(it holds Python objects, and allow_pickle is off",
        ),
        ({"rgb": np.ones((25, SIZE)), "flow": np.ones((25, SIZE))}, "no array named 'features', found rgb, flow"),
        ({}, "no array named 'features', found none"),
    ],
)
def test_archives_that_cannot_be(raw, open_own, arrays, message):
    np.savez(raw / "goal_2.npz", **arrays)
    with pytest.raises(UserError, match=rf"goal_2\.npz: {message}"):
        open_own(raw)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("goal_1.npy", b"", r"not a readable \.npy array \(No data left in file\)"),
        ("goal_2.npz", b"", r"not a readable \.npz file \(No data left in file\)"),
        ("goal_2.npz", pickle.dumps({"features": [1.0]}), r"not a readable \.npz file \(it holds Python objects"),
    ],
)
def test_files_that_cannot_be(raw, open_own, name, content, message):
    (raw / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{re.escape(name)}: {message}"):
        open_own(raw)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("goal_1.npy", "goal_1.npz", r"not a readable \.npz file \(it is a single \.npy array: save it with np\.savez"),
        (
            "goal_2.npz",
            "goal_2.npy",
            r"not a readable \.npy array \(it is an \.npz archive: save its matrix with np\.s",
        ),
    ],
)
def test_another_suffix(raw, open_own, old, new, message):
    (raw / old).rename(raw / new)
    with pytest.raises(UserError, match=rf"{re.escape(new)}: {message}"):
        open_own(raw)


@pytest.mark.parametrize("num_features", [0, SIZE])
def test_one_transposed_file(raw, open_own, num_features):
    write_settings(raw, num_features=num_features)
    np.save(raw / "goal_1.npy", make_features("goal_1").T)
    with pytest.raises(UserError, match=r"goal_1\.npy: 40 values per step.*transposed\?"):
        open_own(raw)


def test_two_files_for_one_video(raw, open_own):
    shutil.copy(raw / "goal_1.npy", raw / "more")
    with pytest.raises(UserError, match=r"more/goal_1\.npy: .*raw/goal_1\.npy is there as well; which of them"):
        open_own(raw)


def test_files_of_two_sizes(raw, open_own):
    np.save(raw / "goal_1.npy", np.ones((40, SIZE + 1)))
    with pytest.raises(UserError, match=r"(goal_1|match)\.np.: \d values per step, but (match|goal_1)\.np. has \d"):
        open_own(raw)


# Annotations of other tools


def write_table(folder: pathlib.Path, rows: str) -> None:
    (folder / "labels.json").unlink(missing_ok=True)
    (folder / "labels.csv").write_text("video,start,end,label,subset\n" + rows)


def test_a_table(raw, open_own):
    """Durations are those of the features, and what lies a little beyond is clipped."""
    write_table(raw, "goal_1.mp4,1,2.5,shot,train\ngoal_2,,,,train\nmatch,29,30.5,save,held_out\n")
    write_settings(raw, feature_stride_seconds=0.5)
    builder = open_own(raw)
    found = read(builder)
    assert {name: record["segments"].tolist() for name, record in found.items()} == {
        "goal_1": [[1.0, 2.5]],
        "goal_2": [],
        "match": [[29.0, 30.0]],
    }
    assert found["match"]["duration_seconds"] == 30.0


def test_times_beyond_the_end(raw, open_own):
    write_table(raw, "goal_1,1,2.5,shot,train\nmatch,29,31.5,save,train\n")
    write_settings(raw, feature_stride_seconds=0.5)
    with pytest.raises(UserError, match=r"video 'match': 'save' from 29 to 31.5 s lies outside the recording of 30 s"):
        open_own(raw)


def test_a_folder_of_annotations(raw, open_own, capsys):
    """A file for each recording; what settings.json says of them; an edit is noticed."""
    (raw / "labels.json").unlink()
    (raw / "annotations" / "held_out").mkdir(parents=True)
    (raw / "annotations" / "goal_1.txt").write_text("1.0\t2.5\tshot\n5.0\t5.0\tsave\n")
    (raw / "annotations" / "held_out" / "match.txt").write_text("29\t30\tsave\n")
    write_settings(raw, feature_stride_seconds=0.5)
    with pytest.raises(UserError, match=r"goal_1.txt, line 2: 'save' at 5 s has no length"):
        open_own(raw)
    write_settings(raw, feature_stride_seconds=0.5, reading={"point_seconds": 2})
    builder = open_own(raw)
    assert "2 recordings of 2 label tracks of Audacity" in capsys.readouterr().out
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"training": 1, "held_out": 1}
    assert read(builder, "training")["goal_1"]["segments"].tolist() == [[1.0, 2.5], [4.0, 6.0]]
    (raw / "annotations" / "goal_1.txt").write_text("1.0\t2.6\tshot\n5.0\t5.0\tsave\n")
    with pytest.raises(UserError, match=r"annotations/goal_1.txt"):
        open_own(raw)


def test_subsets_in_settings(raw, open_own):
    write_table(raw, "goal_1,1,2.5,shot,\ngoal_2,1,2,shot,\nmatch,29,30,save,\n")
    write_settings(raw, feature_stride_seconds=0.5, reading={"subsets": {"test": ["ma*"]}})
    builder = open_own(raw)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"training": 2, "test": 1}


def test_which_annotations(raw, open_own):
    (raw / "annotations").mkdir()
    with pytest.raises(UserError, match=r"several annotations \(labels.json, annotations/\); name one with"):
        open_own(raw)
    (raw / "labels.json").unlink()
    with pytest.raises(UserError, match=r"annotations: no annotations; looked for .json, .csv"):
        open_own(raw)
    (raw / "a.eaf").write_text("")
    (raw / "b.eaf").write_text("")
    with pytest.raises(
        UserError, match=r"several files of annotations \(a.eaf, b.eaf\); put those that belong together"
    ):
        open_own(raw)


def test_settings_of_reading_that_make_no_sense(raw, open_own):
    write_settings(raw, reading={"tier": ["a"]})
    with pytest.raises(UserError, match=r"settings.json: reading: unknown key 'tier'; known are kind, columns, tiers"):
        open_own(raw)

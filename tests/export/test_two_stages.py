"""Networks of two stages find the same in every exported form."""

import importlib
import importlib.util

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection.localizer import Localizer
from a2net_tf.export import freezing, reload, tflite, tflite_run
from a2net_tf.training.run_directory import Run
from tests.export.recordings import FEATURES, assert_same, found_by, random_features

WINDOW = 32
CLASSES = ["jump", "run", "sit"]
TWO = {"stages": 2, "proposal_channels": 6, "proposals": 16, "nms_tiou": 0.4, "num_levels": 2}
STEPS = {"step_classifier": True, "step_channels": 6, "step_layers": 4, "step_stages": 2}
KINDS = {
    "both": {},
    "both and steps": {**STEPS, "classes_per_candidate": 2, "refined_score": "root", "voting_tiou": 0.5},
    "anchor-based": {"anchor_free": False, "refined_score": "second"},
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, slow, make_config, make_network):
    """A localizer with random weights, and its run."""
    config = make_config(**TWO, **KINDS[request.param])
    network = make_network(config, FEATURES, len(CLASSES))
    run = Run(config, CLASSES, FEATURES, None, 10, seconds_per_step=0.5, first_step_seconds=0.25)
    return Localizer(network, config, CLASSES, 0.25), run


def test_saved_model_and_constants(trained, tmp_path):
    pytest.importorskip("tensorflow_serving", reason="saved_model needs it")
    saved_model = importlib.import_module("a2net_tf.export.saved_model")
    localizer, run = trained
    features = random_features(150)
    samples = [{"features": features, "num_steps": 150, "feature_stride_seconds": 0.5}]
    differences = saved_model.export(localizer, run, str(tmp_path / "m"), samples)  # compares in a fresh process
    assert differences.detections < 1e-4
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    expected = found_by(localizer, features)
    assert_same(found_by(loaded.signatures["serving_default"], features), expected)
    assert_same(found_by(freezing.freeze(localizer), features), expected)


def test_candidates_in_another_order_are_the_same(trained, tmp_path):
    """Rounding reverses proposals that score alike: each candidate is compared with the nearest one."""
    localizer, _ = trained
    windows = random_features(2 * WINDOW).reshape(2, WINDOW, FEATURES)
    raw = {name: value.numpy() for name, value in localizer.predict(tf.constant(windows))[0]._asdict().items()}

    class Model:
        signatures = {"raw": lambda features: {name: tf.constant(value[:, ::-1]) for name, value in raw.items()}}

    arrays = {"windows": windows, "raw_segments": raw["segments"], "raw_scores": raw["scores"]}
    assert reload.raw_difference(Model, {**arrays, "raw_in_order": True}) > 0.01
    assert reload.raw_difference(Model, {**arrays, "raw_in_order": False}) == 0
    moved = {**arrays, "raw_scores": raw["scores"] + np.float32(0.25), "raw_in_order": False}
    assert 0.1 < reload.raw_difference(Model, moved) <= 0.2501


def test_tflite(trained, tmp_path):
    localizer, run = trained
    written = tflite.export_tflite(localizer, run, str(tmp_path / "m.tflite"), quantization="float32")
    assert written.score_difference < 1e-5
    model = tflite_run.Model(tmp_path / "m.tflite")
    for num_steps in (20, WINDOW, 150):
        features = random_features(num_steps)
        assert_same(model.detect(features), found_by(localizer, features))


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["float16", "int8"])
def test_smaller_types_find_most_of_it(quantization, trained, tmp_path):
    """Rounding can put another proposal into a place, so candidates are not compared one by one."""
    localizer, run = trained
    samples = [{"features": random_features(150, seed)} for seed in range(3)]
    tflite.export_tflite(localizer, run, str(tmp_path / "m.tflite"), quantization=quantization, samples=samples)
    found, expected = (
        serve(samples[0]["features"])
        for serve in (tflite_run.Model(tmp_path / "m.tflite").detect, lambda features: found_by(localizer, features))
    )
    best = expected["segments"][0]
    distances = np.abs(found["segments"] - best).max(axis=1)[: len(expected["scores"])]
    assert distances.min() < 0.5  # a step


@pytest.mark.skipif(importlib.util.find_spec("tf2onnx") is None, reason='pip install ".[onnx]" in the checkout')
def test_onnx(trained, tmp_path):
    onnx_export = importlib.import_module("a2net_tf.export.onnx")
    saved_model = importlib.import_module("a2net_tf.export.saved_model")
    localizer, run = trained
    windows = np.stack([random_features(WINDOW, seed) for seed in range(4)])
    assert onnx_export.export_onnx(localizer, run, str(tmp_path / "m.onnx"), windows=windows) < 1e-4
    found = onnx_export.run_session(onnx_export.load_session(str(tmp_path / "m.onnx")), windows)
    expected = saved_model.window_detections(localizer, tf.constant(windows))
    assert int(expected["num_detections"].numpy().min()) > 3
    for name in ("scores", "segments", "class_ids"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4, err_msg=name)

"""Networks that tell the class of every step find the same in every exported form."""

import importlib
import importlib.util
import json

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection import windows
from a2net_tf.detection.localizer import Localizer
from a2net_tf.export import tflite, tflite_run
from a2net_tf.training.run_directory import Run
from tests.export.recordings import FEATURES, assert_same, found_by, random_features

WINDOW = 32
CLASSES = ["jump", "run", "sit"]
STEPS = {"step_classifier": True, "step_channels": 6, "step_layers": 4, "step_stages": 2, "classes_per_candidate": 2}
STEPS |= {"num_levels": 2}  # converting takes as long as a graph is large
BRANCHES = [{}, {"anchor_based": False}, {"anchor_free": False, "step_exponent": 0.5, "voting_tiou": 0.5}]


@pytest.fixture(scope="module", params=BRANCHES, ids=["both", "anchor-free", "anchor-based"])
def trained(request, slow, make_config, make_network):
    """A localizer with random weights, and its run."""
    config = make_config(**STEPS, **request.param)
    network = make_network(config, FEATURES, len(CLASSES))
    run = Run(config, CLASSES, FEATURES, None, 10, seconds_per_step=0.5, first_step_seconds=0.25)
    return Localizer(network, config, CLASSES, 0.25), run


def test_saved_model(trained, tmp_path):
    pytest.importorskip("tensorflow_serving", reason="saved_model needs it")
    saved_model = importlib.import_module("a2net_tf.export.saved_model")
    localizer, run = trained
    features = random_features(150)
    samples = [{"features": features, "num_steps": 150, "feature_stride_seconds": 0.5}]
    differences = saved_model.export(localizer, run, str(tmp_path / "m"), samples)  # compares in a fresh process
    assert differences.detections < 1e-4
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    assert_same(found_by(loaded.signatures["serving_default"], features), found_by(localizer, features))
    raw = loaded.signatures["raw"](features=tf.constant(features[None, :WINDOW]))
    np.testing.assert_allclose(raw["step_scores"], localizer.predict(features[None, :WINDOW])[1], atol=1e-5)


@pytest.mark.parametrize("stride", [3, 8, 16, 30, 32])
def test_the_single_file_asks_the_windows_that_the_graph_asks(stride):
    for num_steps in range(1, 150, 7):
        starts = tflite_run.window_starts(num_steps, 32, stride)
        expected = windows.side_by_side(tf.constant(starts), 32, stride)
        assert sorted(tflite_run.side_by_side(starts, 32, stride)) == expected.numpy().tolist()


@pytest.fixture(scope="module")
def in_tflite(trained, tmp_path_factory):
    """The same in a file."""
    localizer, run = trained
    path = tmp_path_factory.mktemp("tflite") / "m.tflite"
    written = tflite.export_tflite(localizer, run, str(path), quantization="float32")
    assert written.score_difference < 1e-5
    return tflite_run.Model(path)


@pytest.mark.parametrize("num_steps", [20, WINDOW, 150])
def test_tflite(num_steps, trained, in_tflite):
    localizer, _ = trained
    features = random_features(num_steps)
    assert_same(in_tflite.detect(features), found_by(localizer, features))


def test_tflite_window_is_that_of_the_saved_model(trained, in_tflite):
    pytest.importorskip("tensorflow_serving", reason="saved_model needs it")
    saved_model = importlib.import_module("a2net_tf.export.saved_model")
    localizer, _ = trained
    window = random_features(WINDOW)
    found = in_tflite.window(window)
    expected = saved_model.window_detections(localizer, tf.constant(window[None]))
    for name in ("scores", "segments", "class_ids"):
        np.testing.assert_allclose(found[name], expected[name][0], atol=1e-4, err_msg=name)


def test_stablehlo(trained, tmp_path):
    """The export compares with what jaxlib finds."""
    pytest.importorskip("jaxlib", reason="JAX is not installed")
    stablehlo = importlib.import_module("a2net_tf.export.stablehlo")
    localizer, run = trained
    assert stablehlo.export_stablehlo(localizer, run, str(tmp_path / "m")) < 1e-5
    outputs = json.loads((tmp_path / "m.json").read_text())["outputs"]
    (steps,) = [output["shape"] for output in outputs if output["name"] == "step_scores"]
    assert steps == [run.config.inference_batch, WINDOW, len(CLASSES)]


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["float16", "dynamic", "int8"])
def test_smaller_types_stay_close(quantization, trained, tmp_path):
    localizer, run = trained
    samples = [{"features": random_features(150, seed)} for seed in range(3)]
    written = tflite.export_tflite(
        localizer, run, str(tmp_path / "m.tflite"), quantization=quantization, samples=samples
    )
    assert written.score_difference < 0.05


@pytest.mark.skipif(importlib.util.find_spec("tf2onnx") is None, reason='pip install ".[onnx]" in the checkout')
def test_onnx(trained, tmp_path):
    onnx_export = importlib.import_module("a2net_tf.export.onnx")
    saved_model = importlib.import_module("a2net_tf.export.saved_model")
    localizer, run = trained
    windows = np.stack([random_features(WINDOW, seed) for seed in range(4)])
    assert onnx_export.export_onnx(localizer, run, str(tmp_path / "m.onnx"), windows=windows) < 1e-4
    session = onnx_export.load_session(str(tmp_path / "m.onnx"))
    found = onnx_export.run_session(session, windows)
    expected = saved_model.window_detections(localizer, tf.constant(windows))
    assert int(expected["num_detections"].numpy().min()) > 3
    for name in ("scores", "segments", "class_ids"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4, err_msg=name)
    raw = saved_model.window_candidates(localizer, tf.constant(windows))
    np.testing.assert_allclose(found["step_scores"], raw["step_scores"], atol=1e-5)
    np.testing.assert_allclose(found["candidate_scores"], raw["scores"], atol=1e-5)
    candidates_only = str(tmp_path / "c.onnx")
    onnx_export.export_onnx(localizer, run, candidates_only, windows=windows, detections=False)
    assert {"step_scores", "window_scores"} <= set(
        onnx_export.run_session(onnx_export.load_session(candidates_only), windows)
    )

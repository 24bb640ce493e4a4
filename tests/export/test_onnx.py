"""One ONNX file finds what the localizer finds."""

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection.localizer import Localizer
from a2net_tf.detection.postprocess import Candidates, suppress
from a2net_tf.errors import UserError
from a2net_tf.export.saved_model import Exported
from a2net_tf.training.run_directory import Run
from tests import tiny

MISSING = 'pip install ".[onnx]" in the checkout'
onnx = pytest.importorskip("onnx", reason=MISSING)
onnxruntime = pytest.importorskip("onnxruntime", reason=MISSING)
pytest.importorskip("tf2onnx", reason=MISSING)
onnx_export = importlib.import_module("a2net_tf.export.onnx")

FEATURES, CANDIDATES = 5, 120  # of the small network: 30 cells and 90 anchors
CLASSES = ["jump", "run", "höher"]
MEAN, VARIANCE = np.linspace(-2, 2, FEATURES), np.linspace(0.5, 3, FEATURES)
CANDIDATE_OUTPUTS = ("candidate_class_ids", "candidate_scores", "candidate_segments")
DETECTION_OUTPUTS = ("segments", "scores", "class_ids", "num_detections")

# What somebody without TensorFlow writes.
SCRIPT = """
import json
import sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
class_ids, count = session.run(["class_ids", "num_detections"], {"features": np.load(sys.argv[2])})
print(ascii([names[i] for i in class_ids[0, : count[0]]]))
assert not any(name.split(".")[0] in ("a2net_tf", "tensorflow") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def make_localizer(make_config, make_network):
    """A localizer and its run with a small random network that normalises, with the given settings."""

    def make(**changes):
        config = make_config(**changes)
        network = make_network(config, FEATURES, len(CLASSES), statistics=(MEAN, VARIANCE), for_inference=True)
        run = Run(config, CLASSES, FEATURES, (MEAN, VARIANCE), 10, seconds_per_step=0.5, first_step_seconds=0.25)
        return Localizer(network, config, CLASSES), run

    return make


@pytest.fixture(scope="module")
def converted(slow, make_localizer):
    """A localizer, its run, and the candidates as ONNX: converting takes seconds."""
    localizer, run = make_localizer()
    return localizer, run, onnx_export._convert_candidates(localizer, Exported(localizer, run))


def export(converted, path, **changes):
    """``export_onnx`` without the time of another conversion; ``changes`` replace what it calls."""
    localizer, run, candidates = converted
    model = onnx.ModelProto()
    model.CopyFrom(candidates)
    with pytest.MonkeyPatch.context() as patch:
        for name, function in {"_convert_candidates": lambda *_: model, **changes}.items():
            patch.setattr(onnx_export, name, function)
        return onnx_export.export_onnx(localizer, run, str(path))


@pytest.fixture(scope="module")
def exported(converted, tmp_path_factory):
    """The signatures as TensorFlow runs them, and the path of the ONNX file."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert export(converted, path) < 1e-5
    return Exported(*converted[:2]), path


@pytest.fixture(scope="module")
def session(exported):
    return onnx_export.load_session(str(exported[1]))


def windows(count, seed=0):
    shape = (count, 32, FEATURES)
    return np.random.default_rng(seed).normal(MEAN, np.sqrt(VARIANCE), shape).astype(np.float32)


# --- the file


def test_interface(session):
    def specs(values):
        return {value.name: (value.type, value.shape) for value in values}

    assert specs(session.get_inputs()) == {"features": ("tensor(float)", ["N", 32, FEATURES])}
    assert specs(session.get_outputs()) == {
        "candidate_segments": ("tensor(float)", ["N", CANDIDATES, 2]),
        "candidate_scores": ("tensor(float)", ["N", CANDIDATES]),
        "candidate_class_ids": ("tensor(int32)", ["N", CANDIDATES]),
        "segments": ("tensor(float)", ["N", 20, 2]),
        "scores": ("tensor(float)", ["N", 20]),
        "class_ids": ("tensor(int32)", ["N", 20]),
        "num_detections": ("tensor(int32)", ["N"]),
    }


def test_only_standard_operators(exported):
    model = onnx.load(exported[1])
    assert {node.domain for node in model.graph.node} == {""}
    assert {node.op_type for node in model.graph.node} >= {"Conv", "NonMaxSuppression"}


def test_metadata(session):
    found = session.get_modelmeta().custom_metadata_map
    assert json.loads(found["class_names"]) == CLASSES
    assert {name: float(found[name]) for name in found if name.endswith(("steps", "step", "seconds"))} == {
        "window_steps": 32,
        "stride_steps": 16,
        "seconds_per_step": 0.5,
        "first_step_seconds": 0.25,
    }
    settings = json.loads(found["settings"])
    assert (settings["nms_tiou"], settings["max_detections"], settings["min_score"]) == (0.2, 20, 0.0)


def test_script_without_tensorflow(exported, session, tmp_path):
    np.save(tmp_path / "windows.npy", windows(1))
    (tmp_path / "use.py").write_text(SCRIPT)
    command = [sys.executable, "use.py", str(exported[1]), "windows.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = onnx_export.run_session(session, windows(1))
    ids = found["class_ids"][0, : found["num_detections"][0]]
    assert len(ids)
    assert done.stdout.strip() == ascii([CLASSES[i] for i in ids])


# --- the same results


@pytest.mark.parametrize("count", [1, 3])
def test_candidates_are_those_of_raw(count, exported, session):
    batch = windows(count, seed=count)
    found = onnx_export.run_session(session, batch)
    for name, value in exported[0].raw(tf.constant(batch)).items():
        np.testing.assert_allclose(found[f"candidate_{name}"], value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("count", [1, 3])
def test_detections_are_those_of_windows(count, exported, session):
    batch = windows(count, seed=count)
    found = onnx_export.run_session(session, batch)
    expected = exported[0].windows(tf.constant(batch))
    assert (expected["num_detections"].numpy() > 5).all()
    for name in DETECTION_OUTPUTS:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=name)


def test_windows_of_a_batch_do_not_touch_each_other(session):
    batch = windows(3)
    together = onnx_export.run_session(session, batch)
    for i in range(3):
        alone = onnx_export.run_session(session, batch[i : i + 1])
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][i], value[0], atol=1e-5, err_msg=name)


# --- suppression by itself


def suppressed(candidates, config):
    """Detections of ONNX, as numpy."""
    graph = onnx_export.suppression(config, candidates.scores.shape[1])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(DETECTION_OUTPUTS, {f"candidate_{k}": v for k, v in candidates._asdict().items()})


def random_candidates(num_windows, num_candidates):
    random = np.random.default_rng(3)
    return Candidates(
        np.sort(random.uniform(size=(num_windows, num_candidates, 2)), axis=-1).astype(np.float32),
        random.uniform(size=(num_windows, num_candidates)).astype(np.float32),
        random.integers(0, 4, (num_windows, num_candidates)).astype(np.int32),
    )


def test_suppression_by_hand(make_config):
    candidates = Candidates(
        np.float32([[[0.0, 0.5], [0.1, 0.5], [0.1, 0.5], [-0.4, 0.1], [0.9, 0.2], [0.6, 0.8], [1.1, 1.3]]]),
        np.float32([[0.6, 0.9, 0.5, 0.3, 0.8, 0.1, 0.7]]),
        np.int32([[1, 1, 0, 2, 0, 0, 0]]),
    )
    # 0 overlaps 1 of the same class; 2 is of another; 3 is cut at 0; 4 is reversed; 5 is too weak; 6 lies outside
    segments, scores, class_ids, count = suppressed(candidates, make_config(max_detections=5, min_score=0.1))
    np.testing.assert_allclose(segments, np.float32([[[0.1, 0.5], [0.1, 0.5], [0.0, 0.1], [0, 0], [0, 0]]]))
    np.testing.assert_allclose(scores, np.float32([[0.9, 0.5, 0.3, 0, 0]]))
    assert class_ids.tolist() == [[1, 0, 2, 0, 0]]
    assert count.tolist() == [3]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nms_tiou": 0.0},
        {"nms_tiou": 0.7},
        {"nms_tiou": 1.0},
        {"min_score": 0.5},
        {"max_detections": 1},
        {"max_detections": 100},  # as many as there are candidates
        {"max_detections": 300, "nms_tiou": 1.0},  # more
        {"voting_tiou": 0.5},
        {"voting_tiou": 0.1, "min_score": 0.3, "nms_tiou": 0.6, "max_detections": 300},
        {"voting_tiou": 1.0},
    ],
    ids=str,
)
def test_suppression_is_that_of_tensorflow(changes, make_config):
    candidates, config = random_candidates(3, 100), make_config(**changes)
    expected = suppress(
        Candidates(*map(tf.constant, candidates)),
        tiou=config.nms_tiou,
        max_detections=config.max_detections,
        min_score=config.min_score,
        voting_tiou=config.voting_tiou,
    )
    for name, found in zip(DETECTION_OUTPUTS, suppressed(candidates, config), strict=True):
        np.testing.assert_allclose(found, getattr(expected, name), atol=1e-6, err_msg=name)


@pytest.mark.parametrize("voting_tiou", [0.0, 0.5])
def test_windows_without_a_detection(voting_tiou, make_config):
    candidates, config = random_candidates(3, 10), make_config(voting_tiou=voting_tiou)
    for silent in ([0, 1, 2], [1]):  # all, and one between others
        scores = candidates.scores.copy()
        scores[silent] = 0
        found = dict(zip(DETECTION_OUTPUTS, suppressed(candidates._replace(scores=scores), config), strict=True))
        assert not any(value[silent].any() for value in found.values())
        assert (np.delete(found["num_detections"], silent) > 0).all()


# --- writing


@pytest.mark.slow
def test_candidates_only(make_localizer, tmp_path):
    """For runtimes without NonMaxSuppression; also the way with Soft-NMS and with one head."""
    localizer, run = make_localizer(soft_nms_sigma=0.5, anchor_free=False, num_levels=2)
    path = tmp_path / "raw.onnx"
    with pytest.raises(UserError, match="--soft_nms_sigma=0.5: ONNX has no Soft-NMS"):
        onnx_export.export_onnx(localizer, run, str(path))
    assert onnx_export.export_onnx(localizer, run, str(path), detections=False) < 1e-5
    model = onnx.load(path)
    assert sorted(output.name for output in model.graph.output) == sorted(CANDIDATE_OUTPUTS)
    assert "NonMaxSuppression" not in {node.op_type for node in model.graph.node}
    found = onnx_export.run_session(onnx_export.load_session(str(path)), windows(2))
    expected = Exported(localizer, run).raw(tf.constant(windows(2)))
    np.testing.assert_allclose(found["candidate_scores"], expected["scores"], atol=1e-5)


@pytest.mark.slow
def test_independent_classes_several_of_them_and_votes(make_localizer, tmp_path):
    settings = {"class_scores": "sigmoid", "classes_per_candidate": 2, "voting_tiou": 0.4}
    localizer, run = make_localizer(**settings)
    path = tmp_path / "model.onnx"
    assert onnx_export.export_onnx(localizer, run, str(path)) < 1e-5
    session = onnx_export.load_session(str(path))
    assert {tuple(value.shape[1:]) for value in session.get_outputs()} == {(240, 2), (240,), (20, 2), (20,), ()}
    found, expected = onnx_export.run_session(session, windows(3)), Exported(localizer, run).windows(windows(3))
    for name in DETECTION_OUTPUTS:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=name)


def test_older_file_is_kept(converted, tmp_path):
    target = tmp_path / "model.onnx"
    target.write_text("older")
    export(converted, target)
    assert sorted(os.listdir(tmp_path)) == ["model.1.onnx", "model.onnx"]
    assert (tmp_path / "model.1.onnx").read_text() == "older"
    onnxruntime.InferenceSession(target)


def test_other_weights_are_noticed(converted, tmp_path):
    model = onnx.ModelProto()
    model.CopyFrom(converted[2])
    kernel = max(model.graph.initializer, key=lambda value: len(value.raw_data))
    kernel.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(kernel) * np.float32(1.01), kernel.name))
    refused(converted, tmp_path, _convert_candidates=lambda *_: model)


@pytest.mark.parametrize("settings", [{"nms_tiou": 0.6}, {"min_score": 0.9}, {"voting_tiou": 0.3}], ids=str)
def test_other_suppression_is_noticed(settings, converted, tmp_path):
    right = onnx_export.suppression
    refused(
        converted, tmp_path, suppression=lambda config, count: right(dataclasses.replace(config, **settings), count)
    )


def refused(converted, folder, **changes):
    """The export must fail and leave what was there."""
    (folder / "model.onnx").write_text("older")
    before = tiny.files_below(folder)
    with pytest.raises(
        UserError, match=r"model.onnx: not written: the ONNX model differs by (\d|inf).* from the trained"
    ):
        export(converted, folder / "model.onnx", **changes)
    assert tiny.files_below(folder) == before


def test_lower_precision_is_refused(make_localizer, tmp_path):
    localizer, run = make_localizer(precision="bfloat16")
    with pytest.raises(UserError, match="--precision=bfloat16: ONNX is written in float32; add --precision=floa"):
        onnx_export.export_onnx(localizer, run, str(tmp_path / "model.onnx"))


def test_folder_as_path_is_refused(converted, tmp_path):
    with pytest.raises(UserError, match="is a folder; expected the name of a file"):
        export(converted, tmp_path)


@pytest.mark.parametrize("package", ["tf2onnx", "onnx", "onnxruntime"])
def test_missing_package_is_one_line(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    spec = importlib.util.spec_from_file_location("onnx_export_again", onnx_export.__file__)
    with pytest.raises(
        UserError, match=rf'^ONNX needs more packages \(.*{package}.*\): pip install "\.\[onnx\]" in the checkout$'
    ):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

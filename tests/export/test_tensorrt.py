"""Both ways to TensorRT, as far as they go without a GPU."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection.localizer import Localizer
from a2net_tf.export import onnx_to_tensorrt, saved_model
from a2net_tf.export import tensorrt as tf_trt
from a2net_tf.training.run_directory import Run

FEATURES, CANDIDATES, KEPT = 5, 120, 20  # of the small network: 30 cells and 90 anchors; max_detections
CLASSES = ["jump", "run", "stand"]
HAS_TF_TRT = tuple(map(int, tf.__version__.split(".")[:2])) <= (2, 17)

# Runs a script as ``python SCRIPT ARGUMENTS`` does, and tells afterwards what it imported and what it hides.
AS_SCRIPT = """
import importlib.util, pathlib, runpy, sys
del sys.argv[0]
script = pathlib.Path(sys.argv[0])
sys.path[0] = str(script.parent)
try:
    runpy.run_path(str(script), run_name="__main__")
except SystemExit as stop:
    print("status", stop.code)
print("package", any(name.split(".")[0] == "a2net_tf" for name in sys.modules))
found = importlib.util.find_spec("tensorrt")
print("hides", found is not None and found.origin == str(script.with_name("tensorrt.py")))
"""


@pytest.fixture(scope="module")
def export(slow, make_config, make_network, tmp_path_factory):
    """Writes the SavedModel of a small random network with the given settings; returns its directory."""

    def write(**changes):
        config = make_config(**changes)
        localizer = Localizer(make_network(config, FEATURES, len(CLASSES)), config, CLASSES)
        run = Run(config, CLASSES, FEATURES, None, 10, seconds_per_step=0.5, first_step_seconds=0.25)
        module = saved_model.Exported(localizer, run)
        path = str(tmp_path_factory.mktemp("saved_model"))
        tf.saved_model.save(module, path, signatures={"windows": module.windows, "raw": module.raw})
        return path

    return write


@pytest.fixture(scope="module")
def path(export):
    return export()


@pytest.fixture(scope="module")
def model(path):
    return tf.saved_model.load(path)


def windows(count):
    return np.random.default_rng(0).normal(size=(count, 32, FEATURES)).astype(np.float32)


@pytest.fixture
def windows_file(tmp_path):
    np.save(tmp_path / "windows.npy", windows(3))
    return str(tmp_path / "windows.npy")


def run_alone(script, folder, *arguments):
    """Runs a copy of ``script`` and its neighbours in ``folder``, where this package is not to be found."""
    source = pathlib.Path(script.__file__)
    for name in ("tensorrt.py", "onnx_to_tensorrt.py", "onnx.py"):
        shutil.copy(source.with_name(name), folder / name)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", AS_SCRIPT, str(folder / source.name), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


# --- TF-TRT: what the signature must be


def nodes(function):
    """All nodes of the signature as TF-TRT sees it."""
    frozen = tf_trt.convert_variables_to_constants_v2(function)
    return frozen, frozen.graph.as_graph_def().node


def test_signature_is_accepted(model, capsys):
    assert tf_trt.check_signature(tf_trt.find_signature(model, "")) == (32, FEATURES)
    assert not capsys.readouterr().out


def test_shapes_are_static_but_for_the_batch(model):
    outputs = model.signatures["windows"].structured_outputs
    assert {name: tuple(spec.shape) for name, spec in outputs.items()} == {
        "segments": (None, KEPT, 2),
        "scores": (None, KEPT),
        "class_ids": (None, KEPT),
        "labels": (None, KEPT),
        "num_detections": (None,),
    }


def test_suppression_is_one_operator_on_normalised_times(model):
    function, graph = nodes(model.signatures["windows"])
    (name,) = [node.name for node in graph if node.op == "CombinedNonMaxSuppression"]
    boxes, scores, *_ = function.graph.get_operation_by_name(name).inputs
    assert boxes.shape.as_list() == [None, CANDIDATES, 1, 4]
    assert scores.shape.as_list() == [None, CANDIDATES, 1]
    found = function.prune(function.inputs[0].name, boxes.name)(tf.constant(100 * windows(8)))  # far beyond training
    times = np.asarray(found)[..., ::2]
    assert (times >= 0).all()
    assert (times <= 1).all()
    assert {0.0, 1.0} <= set(times.flatten().tolist())  # some had to be cut


@pytest.mark.skipif(not HAS_TF_TRT, reason="only TensorFlow up to 2.17 knows what TF-TRT converts")
def test_every_operator_has_a_converter(model):
    from tensorflow.compiler.tf2tensorrt import _pywrap_py_utils

    known = set(_pywrap_py_utils.get_registered_op_converters())
    _, graph = nodes(model.signatures["windows"])
    assert {node.op for node in graph} - known <= {"Placeholder", "NoOp"}


@pytest.mark.skipif(not HAS_TF_TRT, reason="only TensorFlow up to 2.17 has the pass")
def test_suppression_and_network_go_into_engines(path, monkeypatch):
    """The real pass of TF-TRT over the graph, which needs no GPU as long as no engine is built."""
    from tensorflow.python.compiler.tensorrt import trt_convert

    class OnGpu:
        device = "/device:GPU:0"

    monkeypatch.setattr(trt_convert, "_check_trt_version_compatibility", lambda: None)
    monkeypatch.setattr(trt_convert.trt_utils, "is_loaded_tensorrt_version_greater_equal", lambda *_: True)
    monkeypatch.setattr(trt_convert.array_ops, "zeros", lambda _: OnGpu)
    converter = tf.experimental.tensorrt.Converter(
        input_saved_model_dir=path, input_saved_model_signature_key="windows", use_dynamic_shape=True
    )
    converter.convert()
    left = [node.op for node in converter._converted_graph_def.node]
    assert "TRTEngineOp" in left
    assert not {"CombinedNonMaxSuppression", "Conv2D", "Softmax"} & set(left)


def test_bfloat16_is_refused(export):
    model = tf.saved_model.load(export(precision="bfloat16"))
    with pytest.raises(tf_trt.CannotConvertError, match="computes in bfloat16, .* export it in float32"):
        tf_trt.check_signature(tf_trt.find_signature(model, ""))


def test_soft_nms_is_mentioned(export, capsys):
    model = tf.saved_model.load(export(soft_nms_sigma=0.5))
    tf_trt.check_signature(tf_trt.find_signature(model, ""))
    assert "suppression stays in TensorFlow: no CombinedNonMaxSuppression" in capsys.readouterr().out


def test_other_models_are_refused(tmp_path):
    def load(**signatures):
        module = tf.Module()
        module.functions = signatures
        tf.saved_model.save(module, str(tmp_path), signatures=signatures)
        return tf.saved_model.load(str(tmp_path))

    def identity(features):
        return {"features": features}

    anything = tf.function(identity, input_signature=[tf.TensorSpec((None, None, 5), tf.float32)])
    with pytest.raises(tf_trt.CannotConvertError, match="DIR: no signature windows, found other; was it written by"):
        tf_trt.find_signature(load(other=anything), "DIR")
    model = load(windows=anything)
    with pytest.raises(tf_trt.CannotConvertError, match=r"expected the input features \[N, W, D\] with W and D, got"):
        tf_trt.check_signature(tf_trt.find_signature(model, ""))


# --- TF-TRT: the command


@pytest.mark.slow
def test_without_tensorrt_there_is_one_sentence(path, tmp_path):
    """In a folder of its own: neither this package nor the package ``tensorrt`` may be mistaken."""
    if HAS_TF_TRT and tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine may have TensorRT")
    done = run_alone(tf_trt, tmp_path, f"--saved_model={path}", "--output=engines")
    lines = done.stderr.strip().splitlines()
    expected = (
        "this TensorFlow 2.17" if HAS_TF_TRT else f"TF-TRT ended with TensorFlow 2.17 and this is {tf.__version__}"
    )
    assert lines[-1].startswith(f"error: {expected}"), done.stderr
    assert [line for line in lines if line.startswith(("error", "Traceback"))] == lines[-1:]
    assert done.stdout.split("\n")[:3] == ["status 1", "package False", "hides False"]
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"saved_model": "nowhere"}, "--saved_model=nowhere: no SavedModel here"),
        ({"output": "."}, r"--output=\.: exists already"),
        ({"precision": "INT8"}, "--precision=INT8 needs --windows=FILE with real windows to calibrate with"),
        ({"windows": "nowhere.npy"}, r"--windows=nowhere\.npy: no such file"),
        ({"batch_sizes": "0,4"}, "--batch_sizes=0,4: expected whole numbers"),
        ({"batch_sizes": "1,,4"}, "--batch_sizes=1,,4: expected whole numbers"),
        ({"batch_sizes": "-1"}, "--batch_sizes=-1: expected whole numbers"),
    ],
    ids=str,
)
def test_bad_arguments_of_tf_trt(arguments, message, path, capsys):
    check_refused(tf_trt, {"saved_model": path, "output": "new", **arguments}, message, capsys)


def check_refused(script, arguments, message, capsys):
    status = script.main([f"--{name}={value}" for name, value in arguments.items()])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert status == 1
    assert re.match(f"error: {message}", line), line


@pytest.mark.parametrize("script", [tf_trt, onnx_to_tensorrt])
def test_unknown_precision_shows_the_choices(script, capsys):
    with pytest.raises(SystemExit, match="2"):
        script.main(["--saved_model=a", "--onnx=a", "--output=b", "--precision=FP8"])
    assert "invalid choice: 'FP8'" in capsys.readouterr().err


# --- windows


@pytest.mark.parametrize("script", [tf_trt, onnx_to_tensorrt])
def test_windows_are_read(script, windows_file, tmp_path):
    np.savez(tmp_path / "windows.npz", anything=windows(3).astype(np.float64))
    for path in (windows_file, str(tmp_path / "windows.npz")):
        found = script.read_windows(path, (32, FEATURES))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, windows(3))


@pytest.mark.parametrize("script", [tf_trt, onnx_to_tensorrt])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([windows(3)[:, :31]], r"expected one array of shape \(M, 32, 5\), got \(3, 31, 5\)"),
        ([windows(1)[0]], r"expected one array of shape \(M, 32, 5\), got \(32, 5\)"),
        ([windows(0)], r"expected one array .*, got \(0, 32, 5\)"),
        ([windows(1), windows(1)], r"expected one array .*, got \(1, 32, 5\), \(1, 32, 5\)"),
        ([np.full((1, 32, 5), np.nan)], "holds NaN or infinite values"),
        (b"anything", "not a readable .npy or .npz file"),
    ],
    ids=["steps", "one window", "none", "two arrays", "NaN", "no array"],
)
def test_bad_windows(script, content, message, tmp_path):
    path = tmp_path / "windows.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, *content)
    error = tf_trt.CannotConvertError if script is tf_trt else onnx_to_tensorrt.CannotBuildError
    with pytest.raises(error, match=f"windows.npz: {message}"):
        script.read_windows(str(path), (32, FEATURES))


@pytest.mark.parametrize("script", [tf_trt, onnx_to_tensorrt])
def test_batches_have_one_size(script):
    five = np.arange(5)[:, None, None] * np.ones((5, 2, 1))
    firsts = [[batch[:, 0, 0].tolist() for batch in script.batches(five, size)] for size in (1, 2, 5, 7)]
    assert firsts == [
        [[0], [1], [2], [3], [4]],
        [[0, 1], [2, 3]],
        [[0, 1, 2, 3, 4]],
        [[0, 1, 2, 3, 4, 0, 1]],
    ]
    assert script.batches(five, 7)[0].shape == (7, 2, 1)


# --- comparing


def detections(*rows):
    """One window's detections from (start, end, score, class)."""
    table = np.array(rows)
    return {"segments": table[None, :, :2], "scores": table[None, :, 2], "class_ids": table[None, :, 3].astype(int)}


def test_agreement_by_hand():
    expected = detections((0.0, 0.5, 0.9, 1), (0.5, 0.6, 0.8, 0), (0.1, 0.3, 0.5, 2), (0.0, 0.1, 0.05, 1))
    found = detections((0.5, 0.6, 0.7, 1), (0.0, 0.49, 0.88, 1), (0.1, 0.2, 0.5, 2), (0.0, 0.5, 0.6, 1))
    # The first is found twice, and the nearer score counts; the second is of another class; the third is too short; the
    # fourth is too weak to be looked for.
    same, compared, largest = tf_trt.agreement(expected, found)
    assert (same, compared) == (1, 3)
    assert largest == pytest.approx(0.02)
    assert tf_trt.agreement(found, found) == (4, 4, 0.0)


def test_agreement_of_a_signature_with_itself(model, capsys):
    function = model.signatures["windows"]
    tf_trt._compare(function, function, tf_trt.batches(windows(6), 3))
    printed = capsys.readouterr().out
    assert re.search(r"(\d\d+) of \1 found again", printed)
    assert "differ by at most 0.0e+00" in printed


def test_other_detections_are_refused(model):
    function = model.signatures["windows"]

    def reversed_in_time(features):
        return function(features=features[:, ::-1])

    with pytest.raises(tf_trt.CannotConvertError, match="finds less than half of the same detections; nothing was wri"):
        tf_trt._compare(function, reversed_in_time, [windows(3)])


def test_latency_table(model, capsys):
    function = model.signatures["windows"]
    tf_trt._print_latencies(function, function, [windows(1), windows(2)])
    header, one, two = capsys.readouterr().out.splitlines()
    assert header.split()[:5] == ["windows", "TensorFlow", "ms", "TensorRT", "ms"]
    assert [row.split()[0] for row in (one, two)] == ["1", "2"]
    assert all(float(text) > 0 for row in (one, two) for text in row.split()[1:])


# --- a native engine from ONNX


@pytest.fixture
def onnx_file(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"whatever: it is not read before TensorRT is there")
    return str(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"onnx": "nowhere.onnx"}, r"--onnx=nowhere\.onnx: no such file"),
        ({"output": "."}, r"--output=\.: exists already"),
        ({"precision": "INT8"}, "--precision=INT8 needs --windows=FILE with real windows to calibrate with"),
        ({"precision": "INT8", "windows": "nowhere.npy"}, r"--windows=nowhere\.npy: no such file"),
        ({"batch_sizes": "1,32"}, "--batch_sizes=1,32: expected three increasing numbers, such as 1,8,32"),
        ({"batch_sizes": "8,1,32"}, "--batch_sizes=8,1,32: expected three increasing numbers"),
        ({"batch_sizes": "0,1,2"}, "--batch_sizes=0,1,2: expected three increasing numbers"),
        ({"batch_sizes": "1,b,4"}, "--batch_sizes=1,b,4: expected three increasing numbers"),
    ],
    ids=str,
)
def test_bad_arguments_of_onnx_to_tensorrt(arguments, message, onnx_file, capsys):
    check_refused(onnx_to_tensorrt, {"onnx": onnx_file, "output": "new", **arguments}, message, capsys)


@pytest.mark.slow
def test_engine_without_tensorrt_is_one_sentence(onnx_file, tmp_path):
    done = run_alone(onnx_to_tensorrt, tmp_path, f"--onnx={onnx_file}", "--output=model.engine")
    (line,) = done.stderr.strip().splitlines()
    if "finds no NVIDIA GPU" not in line:  # TensorRT may be installed, without a GPU
        assert line.startswith("error: the Python package tensorrt cannot be loaded (No module named 'tensorrt'): pip ")
    assert done.stdout.split("\n")[:3] == ["status 1", "package False", "hides False"]
    assert not (tmp_path / "model.engine").exists()


def test_an_engine_is_written_whole(tmp_path):
    path = tmp_path / "new" / "model.engine"
    onnx_to_tensorrt._write(str(path), memoryview(b"engine"))
    assert path.read_bytes() == b"engine"
    with pytest.raises(TypeError):
        onnx_to_tensorrt._write(str(path), "no bytes")
    assert path.read_bytes() == b"engine"
    with pytest.raises(onnx_to_tensorrt.CannotBuildError, match="new: cannot be written: "):
        onnx_to_tensorrt._write(str(path.parent), b"")
    assert os.listdir(path.parent) == ["model.engine"]
    assert os.listdir(tmp_path) == ["new"]

"""Turns an exported SavedModel's signature ``windows`` into TensorRT engines with TF-TRT.

python tensorrt.py --saved_model=DIRECTORY --output=DIRECTORY --precision=FP16 --windows=windows.npy

TF-TRT exists in TensorFlow up to 2.17, on NVIDIA GPUs; for every later one see ``onnx_to_tensorrt.py``. This file needs
TensorFlow and NumPy only: copy it with the SavedModel into one of NVIDIA's TensorFlow containers. The result is a
SavedModel with the one signature ``windows``; its engines fit the kind of GPU and the TensorRT that built them, take
any number of windows from the smallest to the largest of --batch_sizes, and leave other numbers to TensorFlow.

It has not been run on a GPU yet: there was none. What is known without one: TensorFlow 2.17's own conversion pass puts
94 of 100 operators of the network into 8 engines, suppression among them. It leaves the labels, which are text, and
the five paddings (TF-TRT pads arrays of rank 4 only), around which the engines split. CombinedNonMaxSuppression is
converted in dynamic-shape (explicit batch) mode only since TensorRT 8.2, which is why that mode is used.
"""

import argparse
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

if __name__ == "__main__":
    # A script's folder comes first on the path, where this very file would pass for the package ``tensorrt``.
    _FOLDER = pathlib.Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if pathlib.Path(entry).resolve() != _FOLDER]

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

SIGNATURE = "windows"
_LAST_MINOR = 17  # of TensorFlow 2
_COMPARED_SCORE = 0.1  # weaker detections come and go with rounding
_SAME_TIOU = 0.9
_REPEATS = 50


class CannotConvertError(Exception):
    """Something the user can mend, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--saved_model", required=True, help="directory that --mode=export wrote, in float32")
    parser.add_argument("--output", required=True, help="directory to write; must not exist")
    parser.add_argument("--precision", default="FP16", choices=("FP32", "FP16", "INT8"))
    parser.add_argument("--batch_sizes", default="1,32", help="numbers of windows per call that matter to you")
    parser.add_argument("--windows", help=".npy or .npz, f32[M, W, D]: real windows to compare on and, for INT8, to "
                        "calibrate with; default: random ones")  # fmt: skip
    parser.add_argument("--minimum_segment_size", type=int, default=3, help="smallest part worth an engine, in nodes")
    parser.add_argument("--workspace_mib", type=int, default=4096, help="GPU memory that an engine may use")
    options = parser.parse_args(arguments)
    try:
        convert(options)
    except CannotConvertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def convert(options: argparse.Namespace) -> None:
    """Converts, compares with the original, prints both latencies and moves the result to ``options.output``.

    Raises:
        CannotConvertError: wrong options or files, no TensorRT here, or a result that disagrees with the original.
    """
    sizes = _check_options(options)
    require_tensorrt()
    model = tf.saved_model.load(options.saved_model)
    original = find_signature(model, options.saved_model)
    shape = check_signature(original)
    windows = read_windows(options.windows, shape) if options.windows else _random_windows(shape)
    target = pathlib.Path(options.output)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        written = pathlib.Path(folder, "saved_model")
        _run_converter(options, sizes, windows, written)
        converted_model = tf.saved_model.load(str(written))
        converted = converted_model.signatures[SIGNATURE]
        _compare(original, converted, batches(windows, max(sizes)))
        _print_latencies(original, converted, [batches(windows, size)[0] for size in sizes])
        shutil.move(written, target)
    print(f"written: {target}")


def _check_options(options: argparse.Namespace) -> list[int]:
    """The batch sizes, if everything that needs no TensorFlow is right."""
    if not pathlib.Path(options.saved_model, "saved_model.pb").exists():
        raise CannotConvertError(f"--saved_model={options.saved_model}: no SavedModel here (saved_model.pb is missing)")
    if pathlib.Path(options.output).exists():
        raise CannotConvertError(f"--output={options.output}: exists already; name a new directory")
    if options.precision == "INT8" and not options.windows:
        raise CannotConvertError("--precision=INT8 needs --windows=FILE with real windows to calibrate with")
    if options.windows and not pathlib.Path(options.windows).is_file():
        raise CannotConvertError(f"--windows={options.windows}: no such file")
    sizes = [int(text) if text.strip().isdecimal() else 0 for text in options.batch_sizes.split(",")]
    if min(sizes) < 1:
        raise CannotConvertError(f"--batch_sizes={options.batch_sizes}: expected whole numbers >= 1, such as 1,32")
    return sorted(set(sizes))


def require_tensorrt() -> None:
    """Raises CannotConvertError unless this TensorFlow can build TensorRT engines on this machine."""
    if tuple(map(int, tf.__version__.split(".")[:2])) > (2, _LAST_MINOR):
        raise CannotConvertError(
            f"TF-TRT ended with TensorFlow 2.{_LAST_MINOR} and this is {tf.__version__}: export ONNX and build an "
            "engine from it with onnx_to_tensorrt.py, or run this file in an NVIDIA container with an older TensorFlow"
        )
    from tensorflow.compiler.tf2tensorrt import _pywrap_py_utils as tensorrt  # asking for the version first would abort

    if not tensorrt.is_tensorrt_enabled():
        linked = ".".join(map(str, tensorrt.get_linked_tensorrt_version()))
        raise CannotConvertError(
            f"this TensorFlow {tf.__version__} finds no TensorRT libraries (built with version {linked}; 0.0.0 means "
            "without): run this file in an NVIDIA TensorFlow container"
        )
    if not tf.config.list_physical_devices("GPU"):
        raise CannotConvertError("no NVIDIA GPU is visible here: engines are built on the kind of GPU that runs them")


def find_signature(model: tf.Module, where: str) -> Callable:
    """The signature ``windows`` of a loaded SavedModel, which must stay referenced.

    Raises:
        CannotConvertError: there is none.
    """
    if SIGNATURE not in model.signatures:
        names = ", ".join(model.signatures) or "none"
        raise CannotConvertError(f"{where}: no signature {SIGNATURE}, found {names}; was it written by --mode=export?")
    return model.signatures[SIGNATURE]


def check_signature(function: Callable) -> tuple[int, int]:
    """Window steps W and features D of the signature; prints what will stay in TensorFlow.

    Raises:
        CannotConvertError: shapes that TensorRT cannot plan for, or bfloat16 in the graph.
    """
    spec = function.structured_input_signature[1].get("features")
    if spec is None or spec.shape.rank != 3 or None in spec.shape[1:]:
        raise CannotConvertError(
            f"signature {SIGNATURE}: expected the input features [N, W, D] with W and D, got {spec}"
        )
    nodes = convert_variables_to_constants_v2(function).graph.as_graph_def().node
    if any(value.type == tf.bfloat16.as_datatype_enum for node in nodes for value in node.attr.values()):
        raise CannotConvertError("the SavedModel computes in bfloat16, which TF-TRT cannot take; export it in float32")
    if "CombinedNonMaxSuppression" not in {node.op for node in nodes}:
        print("suppression stays in TensorFlow: no CombinedNonMaxSuppression (was it exported with --soft_nms_sigma?)")
    return int(spec.shape[1]), int(spec.shape[2])


# The same functions stand in onnx_to_tensorrt.py: each script is copied alone to where it runs.


def read_windows(path: str, shape: tuple[int, int]) -> np.ndarray:
    """Windows f32[M, W, D] of an .npy file, or of the only array in an .npz file.

    Args:
        path: the file.
        shape: W and D.

    Raises:
        CannotConvertError: damaged, of another shape, or with NaN.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = [loaded] if isinstance(loaded, np.ndarray) else list(loaded.values())
    except (OSError, ValueError, EOFError) as error:
        raise CannotConvertError(f"--windows={path}: not a readable .npy or .npz file ({error})") from None
    if len(arrays) != 1 or arrays[0].ndim != 3 or arrays[0].shape[1:] != shape or not len(arrays[0]):
        shapes = ", ".join(str(array.shape) for array in arrays) or "nothing"
        raise CannotConvertError(
            f"--windows={path}: expected one array of shape (M, {shape[0]}, {shape[1]}), got {shapes}"
        )
    windows = arrays[0].astype(np.float32)
    if not np.isfinite(windows).all():
        raise CannotConvertError(f"--windows={path}: holds NaN or infinite values")
    return windows


def _random_windows(shape: tuple[int, int]) -> np.ndarray:
    print("comparing on random windows: give real ones with --windows")
    return np.random.default_rng(0).normal(size=(64, *shape)).astype(np.float32)


def batches(windows: np.ndarray, size: int) -> list[np.ndarray]:
    """Windows f32[M, W, D] in batches of exactly ``size``; too few are repeated, a rest is left out."""
    enough = np.resize(windows, (max(size, len(windows)), *windows.shape[1:]))
    return [enough[i : i + size] for i in range(0, len(enough) - size + 1, size)]


def _run_converter(
    options: argparse.Namespace, sizes: Sequence[int], windows: np.ndarray, written: pathlib.Path
) -> None:
    """Builds the engines and writes the converted SavedModel."""
    converter = tf.experimental.tensorrt.Converter(
        input_saved_model_dir=options.saved_model,
        input_saved_model_signature_key=SIGNATURE,
        use_dynamic_shape=True,  # CombinedNonMaxSuppression is converted in this mode only
        dynamic_shape_profile_strategy="Range",  # one engine for all sizes from the smallest to the largest
        max_workspace_size_bytes=options.workspace_mib << 20,
        precision_mode=options.precision,
        minimum_segment_size=options.minimum_segment_size,
        use_calibration=options.precision == "INT8",
        allow_build_at_runtime=False,  # a server must not stall for minutes at an unforeseen batch size
    )

    def calibration() -> list[dict[str, np.ndarray]]:
        return [{"features": batch} for batch in batches(windows, max(sizes))]  # all of one shape, as it wants them

    converter.convert(calibration_input_fn=calibration if options.precision == "INT8" else None)
    converter.build(lambda: [{"features": batches(windows, size)[0]} for size in sizes])
    converter.summary(detailed=False)
    converter.save(str(written))


def _compare(original: Callable, converted: Callable, inputs: Sequence[np.ndarray]) -> None:
    """Prints how well the detections agree; raises CannotConvertError if most of them are lost."""
    results = [agreement(_run(original, batch), _run(converted, batch)) for batch in inputs]
    same, compared = (sum(result[i] for result in results) for i in (0, 1))
    largest = max(result[2] for result in results)
    print(
        f"detections with a score of {_COMPARED_SCORE} or more: {same} of {compared} found again (same class, tIoU >= "
        f"{_SAME_TIOU}); their scores differ by at most {largest:.1e}"
    )
    if same < compared / 2:
        raise CannotConvertError("the converted model finds less than half of the same detections; nothing was written")


def agreement(expected: dict[str, np.ndarray], detections: dict[str, np.ndarray]) -> tuple[int, int, float]:
    """Compares two answers of ``windows``, whose order may differ.

    Args:
        expected: ``segments`` f32[N, K, 2], ``scores`` f32[N, K] and ``class_ids`` i32[N, K].
        detections: the same.

    Returns:
        number of expected detections that were found, number of those looked for, largest difference of their scores.
    """
    same, compared, largest = 0, 0, 0.0
    for window, row in zip(*np.nonzero(expected["scores"] >= _COMPARED_SCORE)):  # noqa: B905 (of equal length)
        compared += 1
        overlap = _tiou(expected["segments"][window, row], detections["segments"][window])
        matches = (overlap >= _SAME_TIOU) & (detections["class_ids"][window] == expected["class_ids"][window, row])
        if matches.any():
            same += 1
            difference = np.abs(detections["scores"][window] - expected["scores"][window, row])
            largest = max(largest, float(difference[matches].min()))
    return same, compared, largest


def _tiou(segment: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Temporal IoU of a segment f32[2] with f32[K, 2]: f32[K]."""
    inside = np.minimum(segment[1], others[:, 1]) - np.maximum(segment[0], others[:, 0])
    union = np.maximum(segment[1], others[:, 1]) - np.minimum(segment[0], others[:, 0])
    return np.maximum(inside, 0) / np.maximum(union, 1e-9)


def _run(function: Callable, batch: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in function(features=tf.constant(batch)).items()}


def _print_latencies(original: Callable, converted: Callable, inputs: Sequence[np.ndarray]) -> None:
    print("windows  TensorFlow ms  TensorRT ms   (median)")
    for batch in inputs:
        print(f"{len(batch):7d}  {median_ms(original, batch):13.2f}  {median_ms(converted, batch):11.2f}")


def median_ms(function: Callable, batch: np.ndarray) -> float:
    """Median time of a call in milliseconds, with the copies to and from the device, after a few that warm up."""
    times = []
    for _ in range(5 + _REPEATS):
        start = time.perf_counter()
        _run(function, batch)
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times[5:]))


if __name__ == "__main__":
    sys.exit(main())

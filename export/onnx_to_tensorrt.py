"""Builds a TensorRT engine from an ONNX file of ``onnx.py``: the way to TensorRT for every TensorFlow after 2.17.

python onnx_to_tensorrt.py --onnx=model.onnx --output=model.engine --precision=FP16 --batch_sizes=1,8,32

Needs an NVIDIA GPU, NumPy and the Python package of TensorRT 10 (pip install "tensorrt<11"), nothing else: copy it with
the ONNX file to where the engine shall run. TensorRT 11 takes the precision from the ONNX file, so that FP32 is all
that this script can ask of it. INT8 calibrates on real windows and needs libcudart.

An engine fits the kind of GPU and the TensorRT version that built it. If TensorRT refuses the suppression in the file,
export candidates only (``export_onnx(..., detections=False)``) and suppress in the program that calls the engine.

It has not been run on a GPU yet: there was none. Written from the documentation of TensorRT 10; the names and arguments
of all calls were checked against the Python bindings of version 10.16.
"""

import argparse
import ctypes
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

if __name__ == "__main__":
    # A script's folder comes first on the path, where its neighbour tensorrt.py would pass for the package.
    _FOLDER = pathlib.Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if pathlib.Path(entry).resolve() != _FOLDER]

import numpy as np

_INPUT = "features"


class CannotBuildError(Exception):
    """Something the user can mend, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--onnx", required=True, help="file of export_onnx")
    parser.add_argument("--output", required=True, help="engine file to write; must not exist")
    parser.add_argument("--precision", default="FP16", choices=("FP32", "FP16", "INT8"))
    parser.add_argument(
        "--batch_sizes", default="1,8,32", help="smallest, usual and largest number of windows per call"
    )
    parser.add_argument("--windows", help=".npy or .npz, f32[M, W, D]: real windows to calibrate INT8 with")
    parser.add_argument("--timing_cache", help="file that makes a second build faster; read if there, then written")
    parser.add_argument("--workspace_mib", type=int, default=4096, help="GPU memory that the engine may use")
    options = parser.parse_args(arguments)
    try:
        build(options)
    except CannotBuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def build(options: argparse.Namespace) -> None:
    """Builds the engine beside ``options.output`` and moves it there.

    Raises:
        CannotBuildError: wrong options or files, no TensorRT or GPU here, or an ONNX file that TensorRT refuses.
    """
    sizes = _check_options(options)
    tensorrt = _import_tensorrt(options.precision)
    builder = _builder(tensorrt)
    network, parser = _parse(tensorrt, builder, options.onnx)  # the parser owns the weights: both must live on
    shape = _window_shape(network, options.onnx)
    config, calibrator = _configure(tensorrt, builder, options, sizes=sizes, shape=shape)  # and so must the calibrator
    start = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise CannotBuildError("TensorRT could not build an engine; its own messages above say why")
    _write(options.output, engine)
    if options.timing_cache:
        _write(options.timing_cache, config.get_timing_cache().serialize())
    size = pathlib.Path(options.output).stat().st_size / 2**20
    print(f"written: {options.output}, {size:.0f} MiB, built in {time.perf_counter() - start:.0f} s")
    print(f"time it: trtexec --loadEngine={options.output} --shapes={_INPUT}:{sizes[1]}x{shape[0]}x{shape[1]}")


def _check_options(options: argparse.Namespace) -> list[int]:
    """Smallest, usual and largest batch, if everything that needs no TensorRT is right."""
    for name in ("onnx", "windows"):
        path = getattr(options, name)
        if path and not pathlib.Path(path).is_file():
            raise CannotBuildError(f"--{name}={path}: no such file")
    if pathlib.Path(options.output).exists():
        raise CannotBuildError(f"--output={options.output}: exists already; name a new file")
    if options.precision == "INT8" and not options.windows:
        raise CannotBuildError("--precision=INT8 needs --windows=FILE with real windows to calibrate with")
    sizes = [int(text) if text.strip().isdecimal() else 0 for text in options.batch_sizes.split(",")]
    if len(sizes) != 3 or sizes != sorted(sizes) or sizes[0] < 1:
        raise CannotBuildError(
            f"--batch_sizes={options.batch_sizes}: expected three increasing numbers, such as 1,8,32"
        )
    return sizes


def _import_tensorrt(precision: str) -> ModuleType:
    """The package ``tensorrt``.

    Raises:
        CannotBuildError: it is missing, too old, or too new for this precision.
    """
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise CannotBuildError(
            f'the Python package tensorrt cannot be loaded ({error}): pip install "tensorrt<11" on a machine with an '
            "NVIDIA GPU"
        ) from None
    major = int(tensorrt.__version__.split(".")[0])
    if major < 10:
        raise CannotBuildError(f"TensorRT {tensorrt.__version__} is too old: expected 10 or later")
    if precision != "FP32" and not hasattr(tensorrt.BuilderFlag, precision):
        raise CannotBuildError(
            f"--precision={precision}: TensorRT {tensorrt.__version__} takes the precision from the ONNX file: use "
            "TensorRT 10, or convert the file with NVIDIA ModelOpt and give --precision=FP32"
        )
    return tensorrt


def _builder(tensorrt: ModuleType) -> Any:
    try:
        return tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.WARNING))
    except TypeError:  # what the binding makes of a builder that could not be created
        raise CannotBuildError(
            "TensorRT finds no NVIDIA GPU here: an engine is built on the GPU that runs it"
        ) from None


def _parse(tensorrt: ModuleType, builder: Any, path: str) -> tuple[Any, Any]:
    """The network of an ONNX file, and the parser."""
    network = builder.create_network(0)  # the batch is always an explicit dimension since TensorRT 10
    parser = tensorrt.OnnxParser(network, builder.logger)
    if not parser.parse_from_file(path):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise CannotBuildError(f"--onnx={path}: TensorRT refuses it: {reasons}")
    return network, parser


def _window_shape(network: Any, path: str) -> tuple[int, int]:
    """W and D of the network's one input ``features`` [N, W, D]."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    shapes = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    if list(shapes) != [_INPUT] or len(shapes[_INPUT]) != 3 or min(shapes[_INPUT][1:]) < 1:
        raise CannotBuildError(f"--onnx={path}: expected the one input {_INPUT} [N, W, D], found {shapes}")
    return shapes[_INPUT][1], shapes[_INPUT][2]


def _configure(
    tensorrt: ModuleType, builder: Any, options: argparse.Namespace, *, sizes: Sequence[int], shape: tuple[int, int]
) -> tuple[Any, Any]:
    """The builder's configuration, and the calibrator of INT8 or None."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    profile = builder.create_optimization_profile()
    profile.set_shape(_INPUT, *((size, *shape) for size in sizes))
    config.add_optimization_profile(profile)
    if options.timing_cache:
        file = pathlib.Path(options.timing_cache)
        cache = config.create_timing_cache(file.read_bytes() if file.exists() else b"")
        config.set_timing_cache(cache, False)  # False: a cache of another GPU is refused
    if options.precision != "FP32":
        config.set_flag(tensorrt.BuilderFlag.FP16)  # with INT8 too: some layers have no INT8 form
    if options.precision != "INT8":
        return config, None
    config.set_flag(tensorrt.BuilderFlag.INT8)
    config.set_calibration_profile(profile)
    # Calibration runs at the usual size of the profile.
    config.int8_calibrator = _calibrator(tensorrt, batches(read_windows(options.windows, shape), sizes[1]))
    return config, config.int8_calibrator


# The same functions stand in tensorrt.py: each script is copied alone to where it runs.


def read_windows(path: str, shape: tuple[int, int]) -> np.ndarray:
    """Windows f32[M, W, D] of an .npy file, or of the only array in an .npz file.

    Args:
        path: the file.
        shape: W and D.

    Raises:
        CannotBuildError: damaged, of another shape, or with NaN.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = [loaded] if isinstance(loaded, np.ndarray) else list(loaded.values())
    except (OSError, ValueError, EOFError) as error:
        raise CannotBuildError(f"--windows={path}: not a readable .npy or .npz file ({error})") from None
    if len(arrays) != 1 or arrays[0].ndim != 3 or arrays[0].shape[1:] != shape or not len(arrays[0]):
        shapes = ", ".join(str(array.shape) for array in arrays) or "nothing"
        raise CannotBuildError(
            f"--windows={path}: expected one array of shape (M, {shape[0]}, {shape[1]}), got {shapes}"
        )
    windows = arrays[0].astype(np.float32)
    if not np.isfinite(windows).all():
        raise CannotBuildError(f"--windows={path}: holds NaN or infinite values")
    return windows


def batches(windows: np.ndarray, size: int) -> list[np.ndarray]:
    """Windows f32[M, W, D] in batches of exactly ``size``; too few are repeated, a rest is left out."""
    enough = np.resize(windows, (max(size, len(windows)), *windows.shape[1:]))
    return [enough[i : i + size] for i in range(0, len(enough) - size + 1, size)]


def _calibrator(tensorrt: ModuleType, inputs: Sequence[np.ndarray]) -> Any:
    """Feeds batches f32[size, W, D] to TensorRT's entropy calibration."""
    runtime = _cuda_runtime()
    memory = ctypes.c_void_p()
    _check_cuda(runtime.cudaMalloc(ctypes.byref(memory), ctypes.c_size_t(inputs[0].nbytes)))
    waiting = iter(inputs)

    class Calibrator(tensorrt.IInt8EntropyCalibrator2):
        def get_batch_size(self) -> int:
            return len(inputs[0])

        def get_batch(self, names: Sequence[str]) -> list[int] | None:
            batch = next(waiting, None)
            if batch is None:
                return None
            host = np.ascontiguousarray(batch)
            to_device = 1  # cudaMemcpyHostToDevice
            _check_cuda(runtime.cudaMemcpy(memory, ctypes.c_void_p(host.ctypes.data), ctypes.c_size_t(host.nbytes),
                                           to_device))  # fmt: skip
            return [memory.value]

        def read_calibration_cache(self) -> None:
            return None

        def write_calibration_cache(self, cache: bytes) -> None:
            pass

    return Calibrator()


def _cuda_runtime() -> ctypes.CDLL:
    for name in ("libcudart.so", "libcudart.so.13", "libcudart.so.12"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise CannotBuildError("INT8 calibration needs libcudart.so: put the CUDA runtime's folder on LD_LIBRARY_PATH")


def _check_cuda(status: int) -> None:
    if status != 0:
        raise CannotBuildError(f"CUDA error {status} while copying windows to the GPU")


def _write(path: str, content: Any) -> None:
    """Writes bytes beside ``path``, then moves them there: never half a file."""
    target = pathlib.Path(path)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, target)
    except OSError as error:
        raise CannotBuildError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())

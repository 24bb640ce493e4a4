"""Writes a trained model as StableHLO, the portable form of programs of JAX, IREE and XLA, and runs it in jaxlib.

FILE        the artifact, in which weights are constants. Input: ``features`` f32[N, W, D], N as --window_batch says.
            Outputs, in this order: ``class_ids`` i32[N, P], ``scores`` f32[N, P], ``segments`` f32[N, P, 2] as
            fractions of the window, what the SavedModel's signature ``raw`` answers; with --step_classifier also
            ``step_scores`` f32[N, W, C].
FILE.json   shapes, classes, time base, settings, and the SHA-256 of FILE.

The artifact is StableHLO's own bytecode, of version 1.0.0, which later releases are meant to read. Its text would take
two letters for each byte of the weights, and has no version. ``stablehlo_run.py`` makes and runs it without TensorFlow,
in a process of its own: TensorFlow and jaxlib bring the same libraries and disturb each other in one.

Needs JAX: pip install ".[stablehlo]" in the checkout.
"""

import hashlib
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from a2net_tf import safe_files, settings
from a2net_tf.detection.localizer import Localizer
from a2net_tf.detection.model import Network, plain_copy
from a2net_tf.errors import UserError
from a2net_tf.export.freezing import FrozenNetwork
from a2net_tf.export.saved_model import window_candidates
from a2net_tf.training import run_directory
from a2net_tf.training.run_directory import Run

if importlib.util.find_spec("jaxlib") is None:
    raise UserError('StableHLO needs JAX, which makes the file and runs it: pip install ".[stablehlo]" in the checkout')

_TOLERANCE = 1e-4  # scores, and segments as fractions of the window
_MAX_OTHER_CLASSES = 1e-3  # share of candidates: where two classes are equally likely, rounding decides


def description_path(path: str) -> str:
    """Of what goes with the artifact."""
    return f"{path}.json"


def export_stablehlo(localizer: Localizer, run: Run, path: str) -> float:
    """Writes the artifact beside ``path``, compares it with the localizer, then moves it there with its description.

    Args:
        localizer: of the trained network, in float32.
        run: its description.
        path: of the artifact; an older one there, and its description, are kept under numbered names.

    Returns:
        Largest difference of scores, or of segments as fractions of the window.

    Raises:
        UserError: a path that cannot be written, or a program that jaxlib does not take or that disagrees.
    """
    for name in (path, description_path(path)):
        safe_files.check_writable(name)
    plain = localizer.with_networks(_constant_copy)
    windows = run_directory.random_features(run, run.config.inference_batch, run.config.inference_steps)
    program, outputs = _program(plain, windows.shape)
    with (
        safe_files.replace_file(description_path(path), keep_earlier=True) as description,
        safe_files.replace_file(path, keep_earlier=True) as artifact,
    ):
        answers = _run_in_jaxlib(program, windows, artifact)
        expected = {name: value.numpy() for name, value in window_candidates(plain, tf.constant(windows)).items()}
        difference = _difference(expected, dict(zip(outputs, answers, strict=True)))
        if not difference <= _TOLERANCE:
            raise UserError(f"{path}: not written: the StableHLO program differs by {difference:.1e} from the network")
        digest = hashlib.sha256(artifact.read_bytes()).hexdigest()
        safe_files.write_json(description, {**_describe(run, windows.shape, expected), "sha256": digest})
    return difference


def _constant_copy(network: Network) -> FrozenNetwork:
    return FrozenNetwork(plain_copy(network))


def _program(localizer: Localizer, shape: tuple[int, ...]) -> tuple[str, list[str]]:
    """StableHLO as text, of windows of ``shape``, and the names of its outputs."""
    window = tf.TensorSpec(shape, tf.float32, name="features")
    traced = tf.function(
        lambda features: window_candidates(localizer, features),
        input_signature=[window],
        jit_compile=True,
        autograph=False,
    )
    zeros = tf.zeros(shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "device_name is being deprecated")
        # Without it TensorFlow draws a random number to see where that lies, and fails if it is to be deterministic.
        text = traced.experimental_get_compiler_ir(zeros)(stage="stablehlo", device_name=zeros.device)
    # What TensorFlow says to its own XLA and no other reader knows: attributes of the module, and copies.
    text = re.sub(r"^(module @\S+) attributes \{.*\} \{", r"\1 {", text, count=1, flags=re.MULTILINE)
    text = re.sub(r"= mhlo\.copy (%\S+) : (tensor<\S+>)", r"= stablehlo.reshape \1 : (\2) -> \2", text)
    # The order in which TensorFlow flattens a dict.
    return text, sorted(traced.get_concrete_function().structured_outputs)


def _run_in_jaxlib(program: str, windows: np.ndarray, artifact: pathlib.Path) -> list[np.ndarray]:
    """Writes the artifact and runs it, in a process of its own; its outputs."""
    with tempfile.TemporaryDirectory(prefix="a2net_tf_stablehlo_") as folder:
        source, given, answers = (pathlib.Path(folder, name) for name in ("program.mlir", "windows.npy", "answers.npz"))
        source.write_text(program)
        np.save(given, windows)
        script = pathlib.Path(__file__).with_name("stablehlo_run.py")
        command = [sys.executable, str(script), str(artifact), str(given), str(answers), f"--program={source}"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise UserError(f"jaxlib does not take the StableHLO program: {last[:300]}")
        with np.load(answers) as arrays:
            return [arrays[f"output{i}"] for i in range(len(arrays.files))]


def _difference(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float:
    """Largest difference of the candidates; infinite for other classes."""
    if (expected["class_ids"] != found["class_ids"]).mean() > _MAX_OTHER_CLASSES:
        return float("inf")
    compared = [name for name in expected if name != "class_ids"]
    return max(float(np.abs(expected[name] - found[name]).max()) for name in compared)


def _describe(run: Run, shape: tuple[int, ...], outputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a program needs to make sense of the outputs, JSON-ready."""
    return {
        "inputs": [{"name": "features", "shape": list(shape), "dtype": "float32"}],
        "outputs": [
            {"name": name, "shape": list(outputs[name].shape), "dtype": outputs[name].dtype.name}
            for name in sorted(outputs)
        ],
        "class_names": run.class_names,
        "also_reported": dict(run.also_reported),
        "window_steps": run.config.inference_steps,
        "stride_steps": run.config.inference_stride_steps,
        "seconds_per_step": float(run.seconds_per_step),
        "first_step_seconds": float(run.first_step_seconds),
        "settings": settings.exported_settings(run.config),
        "extraction": dict(run.extraction),
        "versions": run_directory.versions(),
    }

"""Runs a StableHLO file of a trained model with jaxlib and numpy alone, on whatever device JAX has:

    python stablehlo_run.py model.stablehlo windows.npy candidates.npz

windows.npy holds f32[M, W, D], any number of windows. candidates.npz gets what model.stablehlo.json lists: segments as
fractions of each window, scores, class ids. With --program=FILE, which holds StableHLO as text, the model is made of it
first and its outputs are called output0, output1, ...: so the export does. This file works without the package.
"""

import argparse
import hashlib
import json
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np
from jaxlib import _jax, xla_client

TARGET_VERSION = "1.0.0"  # of StableHLO: an old one, so that many releases of other programs read it


class CannotRunError(Exception):
    """What is wrong with a file, in one sentence."""


class Model:
    """A StableHLO artifact, compiled for a device.

    Args:
        path: of the artifact.
        device: of JAX; None: the first.

    Raises:
        CannotRunError: the artifact is damaged.
    """

    def __init__(self, path: pathlib.Path, device: jax.Device | None = None):
        self.device = device or jax.devices()[0]
        devices = _jax.DeviceList((self.device,))
        try:
            self._compiled = self.device.client.compile_and_load(
                path.read_bytes(), devices, xla_client.CompileOptions()
            )
        except (ValueError, RuntimeError) as error:  # JaxRuntimeError is one of the latter
            raise CannotRunError(f"{path}: no StableHLO that this jaxlib takes ({str(error)[:200]})") from None

    def run(self, windows: np.ndarray) -> list[np.ndarray]:
        """All outputs, of exactly as many windows as the model takes at a time."""
        placed = jax.device_put(windows, self.device)
        results = self._compiled.execute_sharded([placed]).disassemble_into_single_device_arrays()
        return [np.asarray(result[0]) for result in results]


def serialize(program: str) -> bytes:
    """The portable artifact of StableHLO as text."""
    return _jax.mlir.serialize_portable_artifact(program, TARGET_VERSION)


def read_description(path: pathlib.Path) -> dict:
    """What ``path``.json says.

    Raises:
        CannotRunError: it is missing, or about another file.
    """
    described = pathlib.Path(f"{path}.json")
    try:
        description = json.loads(described.read_text())
        if description["sha256"] != hashlib.sha256(path.read_bytes()).hexdigest():
            raise CannotRunError(f"{path}: not the file that {described} describes; export both again")
    except (OSError, ValueError, KeyError) as error:
        raise CannotRunError(f"{described}: cannot be read ({error})") from None
    return description


def find_candidates(path: pathlib.Path, windows: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs by name, of any number of windows f32[M, W, D]; the last batch is filled up with its last window.

    Raises:
        CannotRunError: the files are damaged, or the windows have another shape.
    """
    description = read_description(path)
    batch, *shape = description["inputs"][0]["shape"]
    if windows.ndim != 3 or list(windows.shape[1:]) != shape or not len(windows):
        raise CannotRunError(f"expected windows of shape [M, {shape[0]}, {shape[1]}], found {list(windows.shape)}")
    model, parts = Model(path), []
    for first in range(0, len(windows), batch):
        part = windows[first : first + batch].astype(np.float32)
        filled = np.pad(part, ((0, batch - len(part)), (0, 0), (0, 0)), mode="edge")
        parts.append([output[: len(part)] for output in model.run(filled)])
    names = [output["name"] for output in description["outputs"]]
    return dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("windows", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--program", type=pathlib.Path, help="StableHLO as text, of which MODEL is made first")
    options = parser.parse_args(arguments)
    try:
        windows = np.load(options.windows)
        if options.program:
            options.model.write_bytes(serialize(options.program.read_text()))
            outputs = {f"output{i}": value for i, value in enumerate(Model(options.model).run(windows))}
        else:
            outputs = find_candidates(options.model, windows)
        np.savez(options.output, **outputs)
    except (CannotRunError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

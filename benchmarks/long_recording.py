"""How long a recording of many hours takes, and how much memory: by the run itself, and by exported models.

    python benchmarks/long_recording.py --hours=10

writes random features into a temporary folder (2,048 values every 4 frames at 30 per second: 0.22 GB an hour), makes
a run with random weights and exports it, and detects with each in a fresh process, as --mode=predict does. The network
is that of configs/thumos14.flags; settings of a2net_tf.main may follow, such as --inference_window_steps=512.
"""

import argparse
import concurrent.futures
import contextlib
import math
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout runs without being installed

SECONDS_PER_STEP = 4 / 30
_NETWORK = "--flagfile=configs/thumos14.flags"
_STEPS_AT_ONCE = 4096
_EXPORTS = {"constants": "--freeze", "variables": "--nofreeze"}


class Prepared(NamedTuple):
    """What is measured: {name: flag that says where the weights are}, and what it takes."""

    ways: dict[str, str]
    num_features: int
    window_steps: int
    stride_steps: int


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=10.0, help="length of the recording (default %(default)g)")
    parser.add_argument("--folder", help="where the temporary folder is made (default: the system's)")
    options, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = pathlib.Path(name)
        prepared = in_fresh_process(prepare, folder, [_NETWORK, *flags])
        steps = max(prepared.window_steps, round(options.hours * 3600 / SECONDS_PER_STEP))
        windows = math.ceil((steps - prepared.window_steps) / prepared.stride_steps) + 1
        gigabytes = 4e-9 * steps * prepared.num_features
        print(f"{steps:,} steps x {prepared.num_features} features: {gigabytes:.2f} GB, {windows:,} windows")
        print(f"{'':<24}{'seconds':>10}{'windows/s':>10}{'peak MB':>10}{'of 1 window':>13}")
        files = [
            in_fresh_process(write_features, folder / f"{length}.npy", (length, prepared.num_features))
            for length in (prepared.window_steps, steps)
        ]
        for way, weights in prepared.ways.items():
            (_, base), (seconds, peak) = (in_fresh_process(measure, weights, file) for file in files)
            print(f"{way:<24}{seconds:>10.1f}{windows / seconds:>10.1f}{peak:>10.0f}{base:>13.0f}", flush=True)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` in a process of its own."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def prepare(folder: pathlib.Path, flags: Sequence[str], kinds: Sequence[str] = tuple(_EXPORTS)) -> Prepared:
    """Makes a run with random weights below ``folder`` and exports it with constants and with variables.

    Args:
        folder: exists.
        flags: settings of the network, with --num_features and --num_classes.
        kinds: of the exports that are wanted: "constants", "variables".
    """
    from a2net_tf import main, settings
    from a2net_tf.detection import precision
    from a2net_tf.training import run_directory

    workdir = folder / "run"
    config, _ = settings.parse([*flags, f"--workdir={workdir}", "--dataset=", "--nonormalize"])
    names = [f"class{i}" for i in range(config.num_classes)]
    run = run_directory.Run(config, names, config.num_features, None, 0, SECONDS_PER_STEP, 0.0)
    run = run._replace(precision=precision.resolve(config.precision))
    run_directory.save(run)
    run_directory.save_weights(run_directory.build_network(run), run_directory.weights_path(run, "last"))
    ways = {"run": f"--workdir={workdir}"}
    for kind in kinds:
        ways[f"exported, {kind}"] = f"--saved_model={folder / kind}"
        with _silence():
            status = main.main(
                ["--mode=export", f"--workdir={workdir}", f"--saved_model={folder / kind}", _EXPORTS[kind]]
            )
        if status:
            raise SystemExit(status)
    return Prepared(ways, config.num_features, config.inference_steps, config.inference_stride_steps)


def write_features(path: pathlib.Path, shape: tuple[int, int]) -> pathlib.Path:
    """Random features f32[*shape] in a .npy file, written bit by bit."""
    random = np.random.default_rng(0)
    file = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for start in range(0, len(file), _STEPS_AT_ONCE):
        part = file[start : start + _STEPS_AT_ONCE]
        part[:] = random.standard_normal(part.shape, np.float32)
    return path


def measure(weights: str, features: pathlib.Path) -> tuple[float, float]:
    """Detects in a file: seconds after start-up, and the most megabytes that this process ever had."""
    from a2net_tf import main
    from benchmarks.measure import peak_bytes

    started = time.perf_counter()
    with _silence():
        flags = [weights, f"--features={features}", f"--output={features.with_suffix('.json')}"]
        status = main.main(["--mode=predict", *flags])
    if status:
        raise SystemExit(status)
    return time.perf_counter() - started, peak_bytes() / 1e6


@contextlib.contextmanager
def _silence():
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        yield


if __name__ == "__main__":
    main()

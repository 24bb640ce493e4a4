"""How long a recording of many hours takes, and how much memory: from the run's directory, and exported.

    python benchmarks/long_recording.py --hours=10

makes the network of configs/thumos14.flags with random weights, writes random features (2,048 values every 4 frames of
30 per second: 0.22 GB an hour) into a temporary folder, and runs --mode=predict over them in fresh processes. Further
settings are those of a2net_tf.main, e.g. --inference_window_steps=512; with --workdir of a trained run its network is
taken.
"""

import argparse
import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SECONDS_PER_STEP = 4 / 30
_STEPS_AT_ONCE = 4096
_DEFAULTS = ("--flagfile=configs/thumos14.flags", "--workdir=")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=10.0, help="length of the recording (default %(default)g)")
    parser.add_argument("--folder", help="where the temporary folder is made (default: the system's)")
    options, flags = parser.parse_known_args()
    steps = max(1, round(options.hours * 3600 / SECONDS_PER_STEP))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = pathlib.Path(name)
        about = in_fresh_process(prepare, folder, [*_DEFAULTS, *flags])
        rows = {}
        for length in (about["window_steps"], steps):
            features = write_features(folder / f"{length}.npy", (length, about["num_features"]))
            for way in ("workdir", "saved_model"):
                source = f"--{way}={about[way]}"
                rows[f"{way}, {length:,} steps"] = in_fresh_process(
                    measure, ["--mode=predict", source, f"--features={features}", f"--output={folder / 'found.json'}"]
                )
        gigabytes = steps * about["num_features"] * 4 / 1e9
    print(f"{steps:,} steps x {about['num_features']} features, {gigabytes:.2f} GB; {about['windows']}")
    print(f"{'':<28}{'seconds':>9}{'windows/s':>11}{'peak MB':>9}")
    for name, row in rows.items():
        print(f"{name:<28}{row['seconds']:>9.1f}{'':>11}{row['peak_megabytes']:>9.0f}")


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` in a process of its own. This one stays small: a child's peak includes it."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def prepare(folder: pathlib.Path, flags: list[str]) -> dict[str, Any]:
    """Makes a run and its exported model below ``folder``; returns where they are, and their sizes."""
    from a2net_tf import config as settings
    from a2net_tf import run_directory
    from a2net_tf.main import main as command
    from a2net_tf.run_directory import Run

    config, _ = settings.parse(flags)
    workdir = folder / "run"
    if config.workdir:
        run = run_directory.load(config.workdir)
        workdir = config.workdir
    else:
        config, _ = settings.parse([*flags, f"--workdir={workdir}", "--nonormalize"])
        names = [f"class {i}" for i in range(config.num_classes)]
        run = Run(config, names, config.num_features, None, 0, SECONDS_PER_STEP, 0.0)
        run_directory.save(run)
        run_directory.save_weights(run_directory.build_network(run), workdir / "last.npz")
    saved = folder / "saved_model"
    command(["--mode=export", f"--workdir={workdir}", f"--saved_model={saved}"])
    return {
        "workdir": str(workdir),
        "saved_model": str(saved),
        "num_features": run.num_features,
        "window_steps": run.config.window_steps,
        "windows": "",
    }


def write_features(path: pathlib.Path, shape: tuple[int, int]) -> pathlib.Path:
    """Random features f32 in a .npy file, written bit by bit."""
    random = np.random.default_rng(0)
    file = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for start in range(0, len(file), _STEPS_AT_ONCE):
        part = file[start : start + _STEPS_AT_ONCE]
        part[:] = random.standard_normal(part.shape, np.float32)
    return path


def measure(flags: list[str]) -> dict[str, float]:
    """Runs a command; how long it took, and the most memory that the process ever had."""
    from a2net_tf.main import main as command

    started = time.perf_counter()
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        status = command(flags)
    if status:
        raise SystemExit(status)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


if __name__ == "__main__":
    main()

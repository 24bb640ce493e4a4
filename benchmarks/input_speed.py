"""How fast, and in how much memory, prepared recordings become batches of training windows.

    python benchmarks/input_speed.py
    python benchmarks/input_speed.py --steps=20000 --videos=1     (and --steps=200000: memory does not follow)

prepares random recordings in a temporary folder, in each type that features can be stored in, and reads batches of 32
windows of 128 steps from them. One line per type, each measured in a process of its own:

  disk MB     of the prepared recordings
  windows/s   after the first batch, which waits for the shuffle buffer
  MB/s        of windows in float32, as training takes them
  first s     until the first batch
  scan s      of the pass over the data that precedes training
  peak MB     of the whole process; TensorFlow alone is the line "nothing"
"""

import argparse
import contextlib
import io
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout runs without being installed

from a2net_tf.native_logs import quiet_native_logs
from a2net_tf.report.text_tables import align
from benchmarks import measure

with quiet_native_logs():
    from a2net_tf import settings
    from a2net_tf.data import input_pipeline, prepared, schema

STRIDE_SECONDS = 4 / 30


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=24, help="recordings (default %(default)s)")
    parser.add_argument("--steps", type=int, default=3000, help="of each (default %(default)s)")
    parser.add_argument("--num_features", type=int, default=2048, help="values per step (default %(default)s)")
    parser.add_argument("--batches", type=int, default=100, help="that are read (default %(default)s)")
    parser.add_argument("--shuffle_buffer", type=int, default=1024, help="windows (default %(default)s)")
    options = parser.parse_args(arguments)
    rows = [["stored as", "disk MB", "windows/s", "MB/s", "first s", "scan s", "peak MB"]]
    _, alone = measure.in_fresh_process("benchmarks.input_speed", "nothing")
    rows.append(["nothing", "", "", "", "", "", f"{alone / 1e6:.0f}"])
    for stored in schema.STORED_FEATURES:
        with tempfile.TemporaryDirectory(prefix="a2net_tf_input_") as folder:
            path = prepare(pathlib.Path(folder), options, stored)
            disk = sum(file.stat().st_size for file in pathlib.Path(path).glob("*tfrecord*"))
            measured, peak = measure.in_fresh_process(
                "benchmarks.input_speed", "read", path=path, batches=options.batches, buffer=options.shuffle_buffer
            )
        megabytes = measured["windows_per_second"] * 128 * options.num_features * 4 / 1e6
        numbers = [
            measured["windows_per_second"],
            megabytes,
            measured["first_seconds"],
            measured["scan_seconds"],
            peak / 1e6,
        ]
        rows.append(
            [
                stored,
                f"{disk / 1e6:.0f}",
                *(f"{number:.{d}f}" for number, d in zip(numbers, (0, 0, 1, 1, 0), strict=True)),
            ]
        )
    print(align(rows))


def prepare(folder: pathlib.Path, options: argparse.Namespace, stored: str) -> str:
    """Writes the recordings as a user's own would be, with an action every 32 steps; returns the prepared directory."""
    random, source = np.random.default_rng(0), folder / "features"
    source.mkdir()
    shape, seconds = (options.steps, options.num_features), options.steps * STRIDE_SECONDS
    actions = [
        {"segment": [start * STRIDE_SECONDS, (start + 16) * STRIDE_SECONDS], "label": "action"}
        for start in range(0, options.steps - 16, 32)
    ]
    entry = {"subset": "train", "duration": seconds, "annotations": actions}
    for number in range(options.videos):
        array = np.lib.format.open_memmap(source / f"video{number}.npy", "w+", np.float32, shape)
        for start in range(0, options.steps, 4096):
            part = array[start : start + 4096]
            part[:] = random.random(part.shape, np.float32)
        del array
    database = {f"video{number}": entry for number in range(options.videos)}
    content = {"database": database, "feature_stride_seconds": STRIDE_SECONDS, "classes": ["action"]}
    (source / "annotations.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return str(prepared.open_dataset("feature_folder", str(folder / "prepared"), str(source), stored).data_path)


def nothing() -> None:
    """For the memory of an idle process."""


def read(path: str, batches: int, buffer: int) -> dict[str, float]:
    """Scans the recordings, then reads batches."""
    config = settings.Config(random_offsets=True, epochs=10**6, shuffle_buffer=buffer)
    dataset = prepared.read_records(prepared.open_dataset(path), "train")
    start = time.perf_counter()
    scan = input_pipeline.scan(dataset, config)
    scanned = time.perf_counter()
    steps = -(-scan.num_windows // config.batch_size)
    stream = iter(input_pipeline.training_batches(dataset, config, first_epoch=0, steps_per_epoch=steps))
    next(stream)
    first = time.perf_counter()
    for _ in range(batches):
        next(stream)
    rate = batches * config.batch_size / (time.perf_counter() - first)
    return {"windows_per_second": rate, "first_seconds": first - scanned, "scan_seconds": scanned - start}


if __name__ == "__main__":
    main()

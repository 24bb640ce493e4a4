"""How time and memory grow with classes, levels, window length, batch and video length: one table.

    python benchmarks/scaling.py --flagfile=configs/thumos14.flags
    python benchmarks/scaling.py --flagfile=configs/thumos14.flags --axes=classes,videos --json=scaling.json

Every setting of a2net_tf.main may be given; along an axis one of them changes. Each line is measured in a process of
its own, whose peak memory it tells. Weights and features are random. Columns:

  forward      --batch_size windows (32) through the network
  step         a training step on as many
  suppression  of the candidates of a video of as many windows; on the axis "videos", of all candidates of the video
  video        from a .npy file to detections, through a localizer with a mid-size network (that of configs/hapt.flags
               with 128 features, one every 4/30 s)
"""

import argparse
import dataclasses
import functools
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout runs without being installed

from a2net_tf import safe_files, settings
from a2net_tf.errors import UserError
from a2net_tf.native_logs import quiet_native_logs
from a2net_tf.report.text_tables import align
from a2net_tf.settings import Config
from benchmarks import measure, synthetic

with quiet_native_logs():
    import numpy as np
    import tensorflow as tf

    from a2net_tf.detection.localizer import Localizer
    from a2net_tf.detection.postprocess import Candidates
    from a2net_tf.inference import localization
    from a2net_tf.training import run_directory
    from benchmarks import workloads

AXES = {
    "classes": (20, 200, 1000),
    "levels": (3, 4, 5, 6, 7),
    "window_steps": (128, 256, 512, 1024),
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "videos": ("10 min", "1 h", "10 h"),
}
QUICK = {"classes": (50,), "levels": (2,), "window_steps": (128,), "batch": (2,), "videos": ("1 min",)}
MID_SIZE = {
    "num_features": 128,
    "num_classes": 20,
    "base_channels": 128,
    "level_channels": (128, 128, 256, 256, 256, 256),
    "num_levels": 6,
    "head_channels": 128,
    "feature_columns": (),
}
COLUMNS = ("forward_ms", "step_ms", "suppression_ms", "video_ms", "peak_megabytes")
_SECONDS = {"min": 60, "h": 3600}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    try:
        options, config = parse(sys.argv[1:] if arguments is None else list(arguments))
        rows = [row for axis in options.axes for row in measure_axis(axis, config, options)]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_rows(rows))
    if options.json:
        origin = {"machine": measure.machine(options.threads), "versions": run_directory.versions()}
        safe_files.write_json(
            options.json, {**origin, "settings": settings.to_dict(config), "rows": rows}, keep_earlier=True
        )
        print(f"written: {options.json}")
    return 0


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, Config]:
    """This command's options, and the settings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--axes", default=",".join(AXES), help="between commas (default %(default)s)")
    parser.add_argument("--json", default="", help="file to write everything to")
    parser.add_argument("--threads", type=int, default=measure.default_threads(), help="of TensorFlow (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="see that everything runs, with small values")
    options, rest = parser.parse_known_args(arguments)
    options.axes = options.axes.split(",")
    if unknown := [axis for axis in options.axes if axis not in AXES]:
        raise UserError(f"--axes: no axis '{unknown[0]}'; there are {', '.join(AXES)}")
    if options.threads < 1:
        raise UserError(f"--threads={options.threads}: must be >= 1")
    config, _ = settings.parse(rest)
    if not (config.num_features and config.num_classes):
        raise UserError("--num_features and --num_classes are needed, for example 150 and 12 with configs/hapt.flags")
    if options.json:
        safe_files.check_writable(options.json)
    return options, config


def measure_axis(axis: str, config: Config, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row per value, each from a process of its own."""
    for value in (QUICK if options.quick else AXES)[axis]:
        print(f"measuring {axis} {value}", file=sys.stderr, flush=True)
        call, flags = functools.partial(measure.in_fresh_process, "benchmarks.scaling"), {"threads": options.threads}
        if axis == "videos":
            amount, unit = value.split()
            changed = dataclasses.replace(config, **MID_SIZE)
            flags |= {"flags": settings.to_dict(changed), "seconds": float(amount) * _SECONDS[unit]}
            measured, peak = call("measure_video", **flags)
        else:
            flags |= {"flags": settings.to_dict(change(config, axis, value)), "rounds": 1 if options.quick else 5}
            measured, peak = call("measure_network", **flags)
        yield {"axis": axis, "value": value, **measured, "peak_megabytes": peak / 1e6}


def change(config: Config, axis: str, value: int) -> Config:
    """The settings at one value of an axis."""
    if axis == "levels":  # a level beyond those that the settings have is as wide as their last one
        channels = (*config.level_channels, *[config.level_channels[-1]] * value)[:value]
        changes = {"num_levels": value, "level_channels": channels}
    else:
        changes = {{"classes": "num_classes", "batch": "batch_size"}.get(axis, axis): value}
    changed = dataclasses.replace(config, **changes)
    settings.check(changed)
    return changed


# In the process of a row


def measure_network(flags: dict, threads: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a forward pass, a training step and a suppression, one after the other: medians."""
    config = settings.from_dict(flags)
    measure.use_cores(threads)
    workloads.start(config, threads)
    training = workloads.Training(config)
    windows = synthetic.random_windows(config, config.batch_size)
    calls = {
        "forward_ms": workloads.forward_function(training.trainer.network, config)(windows),
        "step_ms": training.step,
        "suppression_ms": suppression(training.trainer.network, config),
    }
    return {name: 1000 * _median(call, rounds) for name, call in calls.items()}


def _median(call: Callable[[], object], rounds: int) -> float:
    call()  # traces
    call()
    return statistics.median(measure.timed(call) for _ in range(rounds))


def suppression(network, config: Config) -> Callable[[], object]:
    """Merging and suppression of random candidates, as many as ``config.batch_size`` windows have."""
    localizer = Localizer(network, config, workloads.class_names(config))
    steps = (config.batch_size + 1) * (config.window_steps // 2)
    per_window = localizer.window_candidates(tf.zeros((1, config.window_steps, config.num_features))).scores.shape[1]
    random, number = np.random.default_rng(0), config.batch_size * per_window
    starts = random.uniform(0, steps, number)
    segments = np.stack([starts, starts + random.uniform(1, config.window_steps / 2, number)], axis=-1)
    candidates = Candidates(
        tf.constant(segments[None], tf.float32),
        tf.constant(random.uniform(size=(1, number)), tf.float32),
        tf.constant(random.integers(config.num_classes, size=(1, number)), tf.int32),
    )
    others = (tf.constant([steps]), tf.constant([1.0]), tf.constant([0.0]), tf.constant(config.anchor_based_lambda))
    detect = localizer.detect[localizer.branches[-1]]
    return lambda: detect(candidates, *others).scores.numpy()


def measure_video(flags: dict, threads: int, seconds: float) -> dict[str, float]:
    """Milliseconds from a .npy file of so many seconds of video to its detections, and of the suppression in it."""
    config = settings.from_dict(flags)
    measure.use_cores(threads)
    workloads.start(config, threads)
    localizer = Localizer(workloads.build(config), config, workloads.class_names(config))
    with tempfile.TemporaryDirectory(prefix="a2net_tf_scaling_") as folder:
        short, video = (str(pathlib.Path(folder, f"{name}.npy")) for name in ("short", "video"))
        write_features(short, config, config.window_steps)
        write_features(video, config, int(seconds / workloads.SECONDS_PER_STEP))
        localize(localizer, short)  # traces
        spent = time_suppression(localizer)
        total = measure.timed(lambda: localize(localizer, video))
    return {"video_ms": 1000 * total, "suppression_ms": 1000 * sum(spent)}


def write_features(path: str, config: Config, num_steps: int) -> None:
    """Writes random features f32[num_steps, D], piece by piece: they must not count as memory of the localizer."""
    random, piece = np.random.default_rng(0), 10_000
    header = {"descr": "<f4", "fortran_order": False, "shape": (num_steps, config.num_features)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, num_steps, piece):
            shape = (min(piece, num_steps - first), config.num_features)
            file.write(random.normal(size=shape).astype("<f4").tobytes())


def localize(localizer: Localizer, path: str) -> None:
    """As ``--mode=predict`` does."""
    [records] = localization.read_feature_files(
        path,
        num_features=localizer.num_features,
        seconds_per_step=workloads.SECONDS_PER_STEP,
        first_step_seconds=0.0,
    )
    list(localization.localize(localizer, records))


def time_suppression(localizer: Localizer) -> list[float]:
    """From now on the localizer adds the seconds of each suppression to the list."""
    branch, spent = localizer.branches[-1], []
    detect = localizer.detect[branch]

    def timed(*arguments):
        detections = []
        spent.append(measure.timed(lambda: detections.append(tf.nest.map_structure(tf.identity, detect(*arguments)))))
        return detections[0]

    localizer.detect[branch] = timed
    return spent


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """The table."""
    lines = [["", *(name.replace("_", " ").replace("megabytes", "MB") for name in COLUMNS)]]
    for row in rows:
        cells = [f"{row[name]:.1f}" if name in row else "-" for name in COLUMNS]
        lines.append([f"{row['axis']:<12}  {row['value']}", *cells])
    return align(lines)


if __name__ == "__main__":
    sys.exit(main())

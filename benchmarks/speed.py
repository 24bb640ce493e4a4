"""How fast this package is on this machine, next to PyTorch and to what the machine can do at most: one table.

    python benchmarks/speed.py --flagfile=configs/thumos14.flags --json=speed.json
    python benchmarks/speed.py --flagfile=configs/thumos14.flags --parts=limits,forward --compare=speed.json
    python benchmarks/speed.py --flagfile=configs/hapt.flags --num_features=150 --num_classes=12

Every setting of a2net_tf.main may be given. Everything in a part takes turns (A B C A B C ...), so that a busy moment
meets all of it; ratios are medians over the turns, and "x PyTorch f32" is PyTorch's time (or memory) over the row's.
"of limit" is the time that the row's multiply-adds (or, if that is longer, reading the weights once) take at the best
rate of the part "limits", over the row's time. Weights, features and videos are random. Parts:

  limits      products and convolutions of matrices, and memory: what the machine can do
  forward     1 and 32 windows (--sizes): Keras as trained, frozen as exported, PyTorch
  training    the whole step on a batch in memory, and what its parts add (from steps that end earlier)
  evaluation  synthetic videos from files to metrics and JSON. windows/s counts half overlapping windows of
              --window_steps, also where longer ones are used; PyTorch works as the authors' release does, one window at
              a time
  input       the training pipeline alone, and a step that it feeds
  memory      peak of a fresh process
  exports     every exported form (a2net_tf.export.compare; takes minutes, so only when asked for)
"""

import argparse
import dataclasses
import functools
import gc
import importlib.util
import pathlib
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout runs without being installed

from a2net_tf import safe_files, settings
from a2net_tf.errors import UserError
from a2net_tf.native_logs import quiet_native_logs
from a2net_tf.settings import Config
from benchmarks import measure, synthetic
from benchmarks.measure import RIVAL, Limit, Work, difference, make_row, take_turns

with quiet_native_logs():
    from a2net_tf.data.schema import CHUNK_OVERLAP_STEPS
    from a2net_tf.report import profiler
    from a2net_tf.training import run_directory
    from benchmarks import workloads

    try:
        from benchmarks import pytorch_a2net as rival
    except ModuleNotFoundError as missing:
        if missing.name != "torch":
            raise
        rival = None

NO_TORCH = 'no rows of PyTorch: torch is not installed (pip install ".[release]")'
NO_PANDAS = "no rows of PyTorch's evaluation: pandas is not installed (pip install pandas)"
HAS_PANDAS = importlib.util.find_spec("pandas") is not None
BARE = "Keras float32, bare forward pass"
DEFAULT_ADAM = "update, PyTorch float32 with Adam's defaults"
STEP_PARTS = ("forward", "losses", "gradients", "step")  # each does what the one before does, and more


class Bench(NamedTuple):
    """What the parts need.

    Attributes:
        config: settings of the network.
        options: of this command.
        limits: best rates of this machine: ``float32``, ``bfloat16``, and ``memory`` in pieces as large as the weights.
        multiply_adds: of one window.
        parameters: of the network.
        folder: for temporary files.
        videos: in that folder.
        rival: ``pytorch_a2net``, or None if torch is not installed or the settings are none that it has.
    """

    config: Config
    options: argparse.Namespace
    limits: dict[str, Limit]
    multiply_adds: int
    parameters: int
    folder: pathlib.Path
    videos: workloads.Videos
    rival: types.ModuleType | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    try:
        options, config = parse(sys.argv[1:] if arguments is None else list(arguments))
        stored = load_stored(options, config)
        measure.use_cores(options.threads)
        workloads.start(config, options.threads)
        rows, notes, origin = run(config, options)
        print("\n".join(["", measure.format_rows(rows), origin["machine"]["processor"], *notes]))
        if options.json:
            safe_files.write_json(options.json, {**origin, "notes": notes, "rows": rows}, keep_earlier=True)
            print(f"written: {options.json}")
        return report_changes(rows, stored) if stored else 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, Config]:
    """This command's options, and the settings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--parts", default=",".join(DEFAULT_PARTS), help="between commas (default %(default)s)")
    parser.add_argument("--json", default="", help="file to write everything to")
    parser.add_argument(
        "--compare", default="", help="such a file: exit status 1 if a ratio is now more than 15 %% worse than there"
    )
    parser.add_argument(
        "--threads", type=int, default=measure.default_threads(), help="of TensorFlow and of PyTorch (%(default)s)"
    )
    parser.add_argument("--sizes", default="1,32", help="windows at a time in the part forward (default %(default)s)")
    parser.add_argument(
        "--precisions",
        default=",".join(workloads.PRECISIONS),
        choices=(",".join(workloads.PRECISIONS), "float32"),
        help="float32 leaves out bfloat16, which processors without it emulate for minutes (default %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="see that everything runs; the figures mean little")
    options, rest = parser.parse_known_args(arguments)
    options.parts, options.precisions = options.parts.split(","), options.precisions.split(",")
    if unknown := [part for part in options.parts if part not in PARTS]:
        raise UserError(f"--parts: no part '{unknown[0]}'; there are {', '.join(PARTS)}")
    if options.threads < 1:
        raise UserError(f"--threads={options.threads}: must be >= 1")
    if not all(size.isdigit() and int(size) for size in options.sizes.split(",")):
        raise UserError(f"--sizes={options.sizes}: expected whole numbers >= 1 between commas")
    options.sizes = [int(size) for size in options.sizes.split(",")]
    config, _ = settings.parse(rest)
    if not (config.num_features and config.num_classes):
        raise UserError("--num_features and --num_classes are needed, for example 150 and 12 with configs/hapt.flags")
    if options.json:
        safe_files.check_writable(options.json)
    return options, config


def load_stored(options: argparse.Namespace, config: Config) -> dict[str, Any] | None:
    """What ``--compare`` names; refused before anything is measured if it cannot be compared."""
    if not options.compare:
        return None
    stored = safe_files.read_json(options.compare)
    if not isinstance(stored, dict) or not {"rows", "settings", "quick"} <= stored.keys():
        raise UserError(f"{options.compare}: not written by --json of this command")
    now = _network_settings(config)
    different = [f"--{name}" for name, value in now.items() if stored["settings"].get(name) != value]
    different += ["--quick"] * (stored["quick"] != options.quick)
    if different:
        raise UserError(f"{options.compare}: measured with other settings: {', '.join(different)}")
    return stored


def _network_settings(config: Config) -> dict[str, Any]:
    """The settings that decide what is computed. How it is computed may change: that is what is compared."""
    values = settings.to_dict(config)
    return {name: values[name] for name in (*settings.MODEL_SETTINGS, "batch_size")}


def report_changes(rows: Sequence[dict], stored: dict[str, Any]) -> int:
    """Prints both runs' ratios; 1 if one became worse."""
    table, worse = measure.compare(rows, stored["rows"])
    print("\n".join(["", table, *(f"worse: {line}" for line in worse)]))
    return 1 if worse else 0


def run(config: Config, options: argparse.Namespace) -> tuple[list[dict], list[str], dict[str, Any]]:
    """Rows, further lines, and what they belong to."""
    network = profiler.profile(workloads.build(config))
    if rival:
        rival.start(options.threads)
    theirs, notes = find_rival(config)
    rows, limits = measure_limits(options, network["parameters"])
    rows = rows if "limits" in options.parts else []
    with tempfile.TemporaryDirectory(prefix="a2net_tf_speed_") as name:
        folder = pathlib.Path(name)
        number, each = (2, 4) if options.quick else (4, 25)  # videos of THUMOS14 have about 25 windows
        videos = workloads.write_videos(folder, config, number=number, windows_each=each)
        bench = Bench(config, options, limits, network["multiply_adds"], network["parameters"], folder, videos, theirs)
        for part in options.parts:
            print(f"measuring {part}", file=sys.stderr, flush=True)
            part_rows, lines = PARTS[part](bench)
            rows, notes = rows + part_rows, notes + lines
            gc.collect()  # networks are cycles, of gigabytes
    origin = {
        "machine": {**measure.machine(options.threads), "gpus": workloads.devices()},
        "versions": {**run_directory.versions(), **({"torch": rival.torch.__version__} if rival else {})},
        "commit": run_directory.commit(),
        "quick": options.quick,
        "settings": settings.to_dict(config),
        "multiply_adds": network["multiply_adds"],
        "parameters": network["parameters"],
    }
    return rows, notes, origin


def find_rival(config: Config) -> tuple[types.ModuleType | None, list[str]]:
    """PyTorch's side of the comparison, and lines about what of it is missing."""
    if not rival:
        return None, [NO_TORCH]
    if reason := rival.unsupported(config):
        return None, [f"no rows of PyTorch: {reason}"]
    return rival, [] if HAS_PANDAS else [NO_PANDAS]


def turns(bench: Bench, calls: Mapping[str, Callable], *, limits: Sequence[str], rounds: int = 5) -> measure.Times:
    """Measures the calls, the named limits among them."""
    every = {**calls, **{f"limit {name}": bench.limits[name].call for name in limits}}
    if bench.options.quick:
        return take_turns(every, rounds=2, seconds=0.0)
    return take_turns(every, rounds=rounds, seconds=0.3)


# The parts. Each returns rows and further lines.


def measure_limits(options: argparse.Namespace, parameters: int) -> tuple[list[dict], dict[str, Limit]]:
    """Rows of what this machine can do, and the best of each kind."""
    size, channels, floats = (256, 64, 2**16) if options.quick else (2048, 1024, 2**26)
    limits = {}
    for precision in options.precisions:
        limits[f"product {size}, {precision}"] = precision, workloads.product_limit(size, precision)
        limits[f"convolution {channels}, {precision}"] = precision, workloads.convolution_limit(channels, precision)
        if rival:
            limits[f"PyTorch product {size}, {precision}"] = precision, rival_product(size, precision)
    limits[f"memory, {12 * floats / 1e6:.0f} MB"] = "memory", workloads.memory_limit(floats)
    rounds, seconds = (2, 0.0) if options.quick else (5, 0.3)
    times = take_turns({name: limit.call for name, (_, limit) in limits.items()}, rounds=rounds, seconds=seconds)
    rows, best = [], {}
    for name, (kind, limit) in limits.items():
        work = Work(multiply_adds=limit.amount) if kind != "memory" else Work()
        rows.append(make_row("limits", name, times, work, {}))
        rate = 1000 * limit.amount / rows[-1]["ms"]["median"]
        if kind == "memory":
            rows[-1]["name"] += f": {rate / 1e9:.1f} GB/s"
            rows[-1]["bytes_per_second"] = rate
        elif rate > best.get(kind, (0, None))[0]:
            best[kind] = rate, limit
    return rows, {**{kind: limit for kind, (_, limit) in best.items()}, "memory": workloads.memory_limit(parameters)}


def rival_product(size: int, precision: str) -> Limit:
    """A product of two square matrices in PyTorch."""
    a = rival.torch.randn(size, size).to(rival.start(rival.torch.get_num_threads()))
    a = a.to(getattr(rival.torch, precision))

    def call():
        rival.torch.mm(a, a)
        rival.synchronize()

    return Limit(call, size**3)


def measure_forward(bench: Bench) -> tuple[list[dict], list[str]]:
    """Windows of ``--sizes`` through the network."""
    precisions = bench.options.precisions
    functions = workloads.forward_functions(bench.config, precisions)
    if bench.rival:
        device = bench.rival.start(bench.options.threads)
        functions |= bench.rival.forward_functions(bench.config, device, precisions)
    rows = []
    for size in bench.options.sizes:
        windows = synthetic.random_windows(bench.config, size)
        times = turns(bench, {name: bind(windows) for name, bind in functions.items()}, limits=(*precisions, "memory"))
        for name in functions:
            precision = name.split()[-1]
            weights = bench.parameters * (4 if precision == "float32" else 2)
            work = Work(size, size * bench.multiply_adds, weights, precision)
            row = make_row("forward", name, times, work, bench.limits)
            rows.append({**row, "name": f"{size} window{'s' * (size > 1)}, {name}"})
    return rows, []


def measure_training(bench: Bench) -> tuple[list[dict], list[str]]:
    """The step in each precision, and its parts in float32."""
    steps, parts = training_calls(bench)
    times = turns(bench, {**steps, **parts}, limits=(*bench.options.precisions, "memory"), rounds=4)
    size, config = bench.config.batch_size, bench.config
    forward = size * bench.multiply_adds
    backward = workloads.backward_multiply_adds(config, forward)
    rows = []
    for name in steps:
        work = Work(size, forward + backward, precision="bfloat16" if "bfloat16" in name else "float32")
        row = make_row("training", name, times, work, bench.limits)
        rows.append({**row, "name": f"step of {size}, {name}"})
    update = Work(bytes=7 * 4 * bench.parameters)  # reads weight, gradient and two moments, writes all but the gradient
    works = {"forward": Work(0, forward), "losses": Work(), "gradients": Work(0, backward), "step": update}
    for part, work in works.items():
        rows += _split_rows(times, part, work, bench.limits)
    if DEFAULT_ADAM in times:
        row = make_row("training", DEFAULT_ADAM, times, update, bench.limits, judged=False)
        rows.append({**row, "name": f"  {row['name']}"})
    return rows, []


def training_calls(bench: Bench) -> tuple[dict[str, Callable], dict[str, Callable]]:
    """Whole steps by name, and the beginnings of the float32 ones as ``NAME PART``."""
    own = {f"Keras {p}": workloads.Training(bench.config, p) for p in bench.options.precisions}
    steps = {name: training.step for name, training in own.items()}
    sides, more = {"Keras float32": own["Keras float32"]}, {}
    if bench.rival:
        device, batch = bench.rival.start(bench.options.threads), synthetic.training_batch(bench.config)
        sides[RIVAL] = bench.rival.Training(bench.config, batch, device)
        steps[RIVAL] = sides[RIVAL].step
        more[DEFAULT_ADAM] = sides[RIVAL].update_by_default
    parts = {f"{name} {part}": getattr(side, part) for name, side in sides.items() for part in STEP_PARTS[:-1]}
    return steps, {**parts, **more}


def _split_rows(times: measure.Times, part: str, work: Work, limits: Mapping[str, Limit]) -> Iterator[dict]:
    """What a part of the step takes on each side: the difference to the step that ends before it."""
    titles = {"forward": "forward", "losses": "targets and losses", "gradients": "backward", "step": "update"}
    alone = {name: values for name, values in times.items() if name.startswith("limit")}
    before = STEP_PARTS[STEP_PARTS.index(part) - 1]
    sides = [name for name in ("Keras float32", RIVAL) if name in times]
    for side in sides:
        ends = {**times, f"{side} step": times[side]}
        first = part == STEP_PARTS[0]
        alone[side] = ends[f"{side} {part}"] if first else difference(ends, f"{side} {part}", f"{side} {before}")
    for side in sides:
        # Not judged: differences of noisy figures are no reason to refuse a run.
        row = make_row("training", side, alone, work, limits, judged=False)
        yield {**row, "name": f"  {titles[part]}, {side}"}


def measure_evaluation(bench: Bench) -> tuple[list[dict], list[str]]:
    """Synthetic videos, from files to metrics."""
    calls, videos = evaluation_calls(bench), bench.videos
    times = turns(bench, calls, limits=bench.options.precisions, rounds=3)
    rows = []
    for name in calls:
        # Longer windows overlap less, so they need fewer multiply-adds for the same video.
        multiply_adds = 0 if "windows of" in name else videos.num_windows * bench.multiply_adds
        precision = "bfloat16" if "bfloat16" in name else "float32"
        row = make_row(
            "evaluation", name, times, Work(videos.num_windows, multiply_adds, precision=precision), bench.limits
        )
        rows.append({**row, "name": f"{name}, as the release" if name == RIVAL else name})
    ms = {row["name"]: row["ms"]["median"] for row in rows}
    share = ms[BARE] / ms["Keras float32"]
    return rows, [f"evaluation, Keras float32: {share:.0%} of the speed of the bare forward pass"]


def evaluation_calls(bench: Bench) -> dict[str, Callable]:
    """By name, a call that evaluates all videos once."""
    output, config = str(bench.folder / "own.json"), bench.config
    evaluate = functools.partial(workloads.evaluation, dataset=bench.videos.dataset, output=output)
    faithful = workloads.with_windows(config, config.window_steps)
    calls = {f"Keras {p}": evaluate(faithful, precision=p) for p in bench.options.precisions}
    calls["Keras float32, each branch too"] = evaluate(faithful, precision="float32", branches=True)
    steps = config.window_steps * max(1, min(8, CHUNK_OVERLAP_STEPS // config.window_steps))
    longer = workloads.with_windows(config, steps)
    calls |= {f"Keras {p}, windows of {steps} steps": evaluate(longer, precision=p) for p in bench.options.precisions}
    calls[BARE] = bare_forward(bench)
    if bench.rival and HAS_PANDAS:
        calls[RIVAL] = rival_evaluation(bench)
    return calls


def bare_forward(bench: Bench) -> Callable[[], None]:
    """The network alone on as many windows, in the localizer's batches."""
    bind = workloads.forward_function(workloads.build(bench.config), bench.config)
    whole, rest = divmod(bench.videos.num_windows, bench.config.window_batch)
    sizes = [bench.config.window_batch] * whole + [rest] * (rest > 0)
    batches = {size: bind(synthetic.random_windows(bench.config, size)) for size in set(sizes)}

    def call():
        for size in sizes:
            batches[size]()

    return call


def rival_evaluation(bench: Bench) -> Callable[[], None]:
    """The videos in PyTorch, as the release evaluates."""
    config, device = bench.config, bench.rival.start(bench.options.threads)
    network = bench.rival.A2Net(config, config.num_features, config.num_classes).to(device).eval()
    return functools.partial(
        bench.rival.evaluate,
        network,
        bench.rival.Losses(config, device),
        bench.videos.files,
        class_names=workloads.class_names(config),
        seconds_per_step=workloads.SECONDS_PER_STEP,
        output=str(bench.folder / "pytorch.json"),
    )


def measure_input(bench: Bench) -> tuple[list[dict], list[str]]:
    """The pipeline against what training consumes.

    Not in turns of single calls: a pipeline works ahead while others are measured.
    """
    training = workloads.Training(bench.config)
    rounds, number, steps = (1, 2, 1) if bench.options.quick else (3, 24, 3)
    times = {"pipeline alone": [], "step that it feeds": [], "step on a batch in memory": []}
    training.step()
    for _ in range(rounds):
        batches = workloads.training_batches(bench.config, bench.videos.dataset)
        _take(batches, number)  # fills its buffers
        alone = measure.timed(lambda batches=batches: _take(batches, number)) / number
        fed = [measure.timed(lambda batches=batches: training.step(next(batches))) for _ in range(steps)]
        del batches  # ends its work
        bare = [measure.timed(training.step) for _ in range(steps)]
        for name, turn in zip(times, ([alone], fed, bare), strict=True):
            times[name].append(turn)
    rows = [make_row("input", name, times, Work(bench.config.batch_size), {}, judged=False) for name in times]
    alone, fed, bare = (row["ms"]["median"] for row in rows)
    return rows, [
        f"input: the pipeline alone gives {bare / alone:.1f} times what a step consumes; a step that it feeds takes "
        f"{fed / bare - 1:+.1%}"
    ]


def _take(batches: Iterator, number: int) -> None:
    for _ in range(number):
        next(batches)


def measure_memory(bench: Bench) -> tuple[list[dict], list[str]]:
    """Peaks of fresh processes."""
    rows, groups = [], list(memory_calls(bench).items())
    for title, calls in groups[:1] if bench.options.quick else groups:
        peaks = {name: call() for name, call in calls.items()}  # on the GPU, and of the process
        for name, (gpu, process) in peaks.items():
            row = {"part": "memory", "name": f"{title}, {name}", "judged": name != RIVAL}
            row.update(peak_megabytes=process / 1e6, gpu_peak_megabytes=gpu / 1e6)
            if RIVAL in peaks and name != RIVAL:
                row["pytorch_ratio"] = measure.spread([peaks[RIVAL][0] / gpu if gpu else peaks[RIVAL][1] / process])
            rows.append(row)
    on_gpu = [row for row in rows if row["gpu_peak_megabytes"]]
    return rows, [f"memory, {row['name']}: {row['gpu_peak_megabytes']:.0f} MB on the GPU" for row in on_gpu]


def memory_calls(bench: Bench) -> dict[str, dict[str, Callable]]:
    """By what is done and by whom: a process that does it."""
    config, videos, output = bench.config, bench.videos, str(bench.folder / "memory.json")
    batch = str(bench.folder / "batch.npz")
    workloads.np.savez(batch, **synthetic.training_batch(config))

    in_fresh_process = functools.partial(
        measure.in_fresh_process, flags=settings.to_dict(config), threads=bench.options.threads
    )
    own = functools.partial(functools.partial, in_fresh_process, "benchmarks.workloads")
    groups = {
        "forward, 32 windows": {f"Keras {p}": own("peak_forward", precision=p) for p in bench.options.precisions},
        f"training, batch {config.batch_size}": {
            f"Keras {p}": own("peak_training", precision=p) for p in bench.options.precisions
        },
        "evaluation": {
            f"Keras {p}": own("peak_evaluation", dataset=videos.dataset, output=output, precision=p)
            for p in bench.options.precisions
        },
    }
    if bench.rival:
        theirs = [("peak_forward", {}), ("peak_training", {"batch_file": batch})]
        theirs += [("peak_evaluation", {"files": videos.files, "output": output})] * HAS_PANDAS
        for calls, (function, arguments) in zip(groups.values(), theirs, strict=False):
            calls[RIVAL] = functools.partial(in_fresh_process, "benchmarks.pytorch_a2net", function, **arguments)
    return groups


def measure_exports(bench: Bench) -> tuple[list[dict], list[str]]:
    """Every exported form, as ``a2net_tf.export.compare`` measures them."""
    from a2net_tf.export import compare

    folder = bench.folder / "exports"
    config = dataclasses.replace(bench.config, workdir="", output=str(folder))
    compare.compare(config, frozenset())
    rows = []
    for form in safe_files.read_json(folder / "compare.json")["rows"]:
        for size, key in ((1, "one_window_ms"), (form["batch_ms"]["windows"], "batch_ms")):
            ms = form[key]["median"]
            row = {"part": "exports", "name": f"{size} window{'s' * (size > 1)}, {form['form']}", "judged": False}
            rows.append({**row, "ms": {"median": ms, "low": ms, "high": form[key]["p99"]}})
            rows[-1]["windows_per_second"] = 1000 * size / ms
    return rows, ["exports: decoding included; the upper bound of the milliseconds is the 99th percentile"]


PARTS = {
    "limits": lambda bench: ([], []),  # measured first in any case: the other parts need them
    "forward": measure_forward,
    "training": measure_training,
    "evaluation": measure_evaluation,
    "input": measure_input,
    "memory": measure_memory,
    "exports": measure_exports,
}
DEFAULT_PARTS = [part for part in PARTS if part != "exports"]


if __name__ == "__main__":
    sys.exit(main())

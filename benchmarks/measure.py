"""What all benchmarks share: measuring in turns, ratios, the table, and processes of their own for memory.

Nothing heavy is imported here, because this file is also the fresh process whose memory is measured:

    python -m benchmarks.measure MODULE FUNCTION JSON

calls ``MODULE.FUNCTION(**JSON)`` and prints what it returned and the peak of its memory.
"""

import importlib
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from a2net_tf.errors import UserError
from a2net_tf.processor import num_cores
from a2net_tf.report.text_tables import align

REPO = pathlib.Path(__file__).resolve().parent.parent
RIVAL = "PyTorch float32"  # what ratios are taken to
RATIOS = {"pytorch_ratio": "x PyTorch f32", "limit_share": "of limit"}

_LONG_SECONDS = 2.0  # a call that takes longer is counted at once

Times = dict[str, list[list[float]]]  # seconds by name, round and call


class Limit(NamedTuple):
    """Something that this machine cannot do faster: ``amount`` multiply-adds, or bytes, per call."""

    call: Callable[[], object]
    amount: float


class Work(NamedTuple):
    """What one call has to do at least."""

    windows: float = 0
    multiply_adds: float = 0
    bytes: float = 0  # that must come from memory
    precision: str = "float32"


# Time


def default_threads() -> int:
    """Cores that this process may use."""
    return num_cores()


def use_cores(threads: int) -> None:
    """Confines this process, with all threads that it starts later, to ``threads`` cores (where the system can)."""
    if hasattr(os, "sched_getaffinity") and threads < default_threads():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def take_turns(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, seconds: float, budget_seconds: float = 40.0
) -> Times:
    """Measures every call in every round, A B C A B C ..., so that a busy moment meets all of them.

    Args:
        calls: by name; each returns when its work is done.
        rounds: turns of each.
        seconds: that a turn lasts; at least one call.
        budget_seconds: no round but the first two begins later than this.
    """
    for call in calls.values():
        call()  # traces, plans, lays out weights
    times, start = {name: [] for name in calls}, time.perf_counter()
    for finished in range(rounds):
        if finished >= 2 and time.perf_counter() - start > budget_seconds:
            break
        for name, call in calls.items():
            times[name].append(_turn(call, seconds))
    return times


def _turn(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call. The first is not counted: threads of the one before may still spin, caches are cold."""
    first = timed(call)
    if first > _LONG_SECONDS:
        return [first]
    times = []
    while not times or sum(times) < seconds:
        times.append(timed(call))
    return times


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def difference(times: Times, later: str, earlier: str) -> list[list[float]]:
    """What ``later`` takes beyond ``earlier``, in each round: a part that cannot be measured alone."""
    pairs = zip(times[later], times[earlier], strict=True)
    return [[statistics.median(a) - statistics.median(b)] for a, b in pairs]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = (float(v) for v in np.percentile(values, (25, 50, 75)))
    return {"median": median, "low": low, "high": high}


# Rows


def make_row(
    part: str, name: str, times: Times, work: Work, limits: Mapping[str, Limit], *, judged: bool = True
) -> dict[str, Any]:
    """One line of the table, JSON-ready.

    Args:
        part: of the benchmark.
        name: in ``times``; ratios are taken to RIVAL, where it took turns with it.
        times: of ``take_turns``; shares are taken to its calls ``limit NAME``.
        work: of one call.
        limits: by name: float32, bfloat16, memory.
        judged: whether a later run may be refused for this row (the rival's own rows never are).
    """
    rounds = [statistics.median(turn) for turn in times[name]]
    usable = min(rounds) > 0  # a difference of two may be less than the noise
    median = statistics.median(rounds)
    row = {
        "part": part,
        "name": name,
        "judged": judged and not name.startswith("PyTorch"),
        "ms": spread([1000 * t for turn in times[name] for t in turn]),
    }
    if work.windows and usable:
        row["windows_per_second"] = work.windows / median
    if work.multiply_adds and usable:
        row["multiply_adds_per_second"] = work.multiply_adds / median
    least = _least_seconds(times, work, limits)
    if least and usable:
        row["limit_share"] = spread([a / b for a, b in zip(least, rounds, strict=True)])
    rival = [statistics.median(turn) for turn in times.get(RIVAL, ())]
    if rival and usable and min(rival) > 0 and name != RIVAL:
        row["pytorch_ratio"] = spread([a / b for a, b in zip(rival, rounds, strict=True)])
    return row


def _least_seconds(times: Times, work: Work, limits: Mapping[str, Limit]) -> list[float]:
    """By round: what the work would take at the measured limits; [] if no limit took turns with it."""
    amounts = {work.precision: work.multiply_adds, "memory": work.bytes}
    bounds = [
        [amount / limits[name].amount * statistics.median(turn) for turn in times[f"limit {name}"]]
        for name, amount in amounts.items()
        if amount and f"limit {name}" in times
    ]
    return [max(least) for least in zip(*bounds, strict=True)]


def format_rows(rows: Sequence[dict]) -> str:
    """The table."""
    header = ["", "ms", "quartiles", "windows/s", "G madd/s", "of limit", "x PyTorch f32", "quartiles", "peak MB"]
    return align([header, *map(_cells, rows)])


def _cells(row: dict) -> list[str]:
    ms, ratio = row.get("ms"), row.get("pytorch_ratio")
    return [
        f"{row['part']:<10}  {row['name']}",
        _digits(ms and ms["median"]),
        f"{_digits(ms['low'])} to {_digits(ms['high'])}" if ms else "-",
        _digits(row.get("windows_per_second")),
        _digits(row.get("multiply_adds_per_second", 0) / 1e9 or None),
        f"{row['limit_share']['median']:.0%}" if "limit_share" in row else "-",
        f"{ratio['median']:.2f}" if ratio else "-",
        f"{ratio['low']:.2f} to {ratio['high']:.2f}" if ratio else "-",
        _digits(row.get("peak_megabytes")),
    ]


def _digits(value: float | None) -> str:
    """Three digits are more than a measurement has."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def compare(now: Sequence[dict], then: Sequence[dict], *, tolerance: float = 0.15) -> tuple[str, list[str]]:
    """Ratio rows of two runs side by side, and those that got worse by more than ``tolerance``.

    Only ratios that were measured within one run are compared: milliseconds of two machines, or two days, say little.
    """
    before = {(row["part"], row["name"]): row for row in then}
    lines, worse = [["", "figure", "then", "now", "change"]], []
    for row in now:
        old = before.get((row["part"], row["name"]), {})
        for key, title in RATIOS.items():
            if not (row["judged"] and key in row and key in old):
                continue
            a, b = old[key]["median"], row[key]["median"]
            label = f"{row['part']}: {row['name']}"
            lines.append([label, title, f"{a:.3f}", f"{b:.3f}", f"{b / a - 1:+.0%}"])
            if b < (1 - tolerance) * a:
                worse.append(f"{label}: {title} fell from {a:.3f} to {b:.3f}")
    return align(lines), worse


# Machine and memory


# Variables that hold oneDNN (of TensorFlow and PyTorch), MKL and PyTorch's own kernels to older instruction sets.
_HELD_BY = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY")


def machine(threads: int) -> dict[str, Any]:
    """What the figures belong to."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gigabytes": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
    }


def _processor() -> str:
    """Model, instruction sets as far as they matter here, and what libraries are kept from using."""
    if not os.path.exists("/proc/cpuinfo"):
        return platform.processor()
    lines = [line.partition(":") for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()]
    facts = {name.strip(): value.strip() for name, _, value in lines}
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
    found = [flag for flag in wanted if flag in facts.get("flags", "").split()]
    held = [f"{name}={os.environ[name]}" for name in _HELD_BY if name in os.environ]
    return " ".join([facts.get("model name", platform.machine()), *found, *held])


def in_fresh_process(module: str, function: str, **arguments: Any) -> tuple[Any, int]:
    """``module.function(**arguments)`` in a process that has done nothing else.

    Args:
        module: dotted name, imported there.
        function: its arguments and its value are JSON.
        arguments: of it.

    Returns:
        the value, and the peak of its resident memory in bytes.

    Raises:
        UserError: it failed; with its last line.
    """
    command = [sys.executable, "-m", "benchmarks.measure", module, function, json.dumps(arguments)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"{module}.{function} in a process of its own failed: {last}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["value"], answer["peak_bytes"]


def peak_bytes() -> int:
    """The most memory that this process has had in RAM.

    Linux carries the peak that ``getrusage`` tells over from the process that started this one; VmHWM begins anew.
    """
    if pathlib.Path("/proc/self/status").exists():
        return peak_bytes_of("self")
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_bytes_of(process: int | str) -> int:
    """The same of a process that runs, by its number, on Linux."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def _answer(module: str, function: str, arguments: str) -> None:
    """The fresh process."""
    value = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    print(json.dumps({"value": value, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    _answer(*sys.argv[1:])

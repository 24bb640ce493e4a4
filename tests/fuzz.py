"""Damaged and odd files for every reader of the package: python -m tests.fuzz --cases=10000 --seed=0

Each case is one number: it draws a kind of input (``tests/fuzz_kinds.py``), makes a good one, damages it
(``tests/fuzz_damage.py``) and reads it as the commands do, in one of a few processes. It fails if anything but a
one-line refusal that names a file, or a result that a plain reading of the same files confirms, comes out; if a file is
lost or changed; if the process ends; after 20 seconds; or beyond 2 GB. What failed is printed with the command that
repeats it: python -m tests.fuzz --only=SEED --kinds=KIND
"""

import argparse
import collections
import contextlib
import logging as standard_logging
import multiprocessing
import os
import pathlib
import random
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tqdm

from tests import tiny
from tests.fuzz_kinds import ACCEPTED, KINDS, REFUSED

MAX_SECONDS, MAX_BYTES = 20.0, 2e9
_START_SECONDS = 120.0  # until TensorFlow is loaded
_WAIT_SECONDS = 60.0  # for a case, of a machine that may be busy
FAILED = "failed"


class Result(NamedTuple):
    """What became of one case."""

    seed: int
    kind: str
    outcome: str  # of a kind, or FAILED
    seconds: float
    num_bytes: float  # that the process grew by at its highest
    detail: str = ""


def draw_kind(seed: int, kinds: Sequence[str]) -> tuple[str, random.Random]:
    """The kind of a case, and the source of all its chance; with one kind to choose from it is the same source."""
    rng = random.Random(f"fuzz {seed}")
    number = rng.random()
    weights = [KINDS[kind][1] for kind in kinds]
    kind = random.Random(number).choices(kinds, weights)[0]
    return kind, rng


def run_case(seed: int, kinds: Sequence[str]) -> Result:
    """One case in this process."""
    kind, rng = draw_kind(seed, kinds)
    outcome, detail = FAILED, ""
    with tempfile.TemporaryDirectory(prefix="fuzzed_", dir=tiny.folder()) as folder:
        before, started = _start_of_memory(), (time.monotonic(), time.process_time())
        try:
            outcome = KINDS[kind][0](rng, pathlib.Path(folder))
        except BaseException:
            detail = traceback.format_exc()[-3000:]
        # Of both, since other processes may keep this one waiting; one that hangs is found by whoever waits for it.
        seconds = min(time.monotonic() - started[0], time.process_time() - started[1])
        num_bytes = _highest_memory() - before
    if num_bytes > MAX_BYTES:
        outcome, detail = FAILED, f"{num_bytes / 1e9:.1f} GB\n{detail}"
    if seconds > MAX_SECONDS:
        outcome, detail = FAILED, f"{seconds:.1f} s\n{detail}"
    return Result(seed, kind, outcome, seconds, num_bytes, detail)


def _start_of_memory() -> float:
    """Bytes in use; from here on the highest is measured anew."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _highest_memory() -> float:
    return _memory("VmHWM")


def _memory(name: str) -> float:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1]) * 1024
    return 0.0


# Processes


def _work(connection: Connection, log: str) -> None:
    """Runs the cases that are asked for until there are none."""
    with open(log, "w") as file:  # what native code says when it dies
        os.dup2(file.fileno(), 2)
    import a2net_tf.modes.command  # noqa: F401

    standard_logging.basicConfig(stream=sys.__stderr__)  # else the first warning of a silenced case makes a handler
    _limit_memory()
    connection.send("ready")
    while (asked := connection.recv()) is not None:
        connection.send(run_case(*asked))


def _limit_memory() -> None:
    """Of addresses, far above what is allowed: so that a mistake ends this process, not the machine."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (int(_memory("VmSize") + 6 * MAX_BYTES), resource.RLIM_INFINITY))


class Worker:
    """A process for cases one after the other; a new one takes its place if it ends or takes too long."""

    def __init__(self):
        self._process = None

    def run(self, seed: int, kinds: Sequence[str]) -> Result:
        """One case, whatever it does."""
        if self._process is None:
            self._start()
        self._connection.send((seed, kinds))
        with contextlib.suppress(EOFError, ConnectionResetError):
            if self._connection.poll(_WAIT_SECONDS):
                return self._connection.recv()
        self._process.join(10.0)
        ended = not self._process.is_alive()
        self.stop()
        told = pathlib.Path(self._log).read_text(errors="replace")[-2000:]
        detail = (
            f"the process ended with {self._process_code}\n{told}" if ended else f"no answer for {_WAIT_SECONDS:.0f} s"
        )
        return Result(seed, draw_kind(seed, kinds)[0], FAILED, MAX_SECONDS, 0.0, detail)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        handle, self._log = tempfile.mkstemp(dir=tiny.folder())
        os.close(handle)
        self._process = context.Process(target=_work, args=(other, self._log), daemon=True)
        self._process.start()
        other.close()
        if not (self._connection.poll(_START_SECONDS) and self._connection.recv() == "ready"):
            raise RuntimeError("a process for cases does not start")

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process_code, self._process = self._process.exitcode, None


def run_cases(seeds: Sequence[int], kinds: Sequence[str], processes: int) -> Iterator[Result]:
    """The cases in any order, as soon as they are done."""
    waiting, done = iter(seeds), collections.deque()
    turn = threading.Lock()

    def work() -> None:
        worker = Worker()
        try:
            while True:
                with turn:
                    seed = next(waiting, None)
                if seed is None:
                    return
                done.append(worker.run(seed, kinds))
        finally:
            worker.stop()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(processes)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or done:
        if done:
            yield done.popleft()
        else:
            time.sleep(0.005)


# The command


def summarize(results: Sequence[Result]) -> str:
    """A table by kind."""
    lines = [f"{'kind':<12}{'cases':>8}{REFUSED:>10}{ACCEPTED:>10}{FAILED:>8}{'s/case':>9}{'longest':>9}{'MB':>7}"]
    for kind in (*KINDS, "all"):
        rows = [result for result in results if kind in (result.kind, "all")]
        if rows:
            counts = collections.Counter(row.outcome for row in rows)
            numbers = "".join(f"{counts[o]:>{w}}" for o, w in ((REFUSED, 10), (ACCEPTED, 10), (FAILED, 8)))
            seconds = [row.seconds for row in rows]
            most = max(row.num_bytes for row in rows) / 1e6
            lines.append(
                f"{kind:<12}{len(rows):>8}{numbers}{sum(seconds) / len(rows):>9.3f}{max(seconds):>9.2f}{most:>7.0f}"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suite; returns the exit status: 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the others follow (default 0)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="separated by commas (default: all)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", type=int, metavar="CASE_SEED", help="one case, in this process")
    options = parser.parse_args(arguments)
    kinds = options.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"--kinds: {', '.join(sorted(unknown))} is none of {', '.join(KINDS)}")
    if options.only is not None:
        result = run_case(options.only, kinds)
        print(result.kind, result.outcome, result.detail)
        return int(result.outcome == FAILED)
    _make_what_is_shared(kinds)
    seeds = [options.seed * 10**9 + number for number in range(options.cases)]
    started, results = time.monotonic(), []
    with tqdm.tqdm(total=len(seeds), unit="case", disable=None) as bar:
        for result in run_cases(seeds, kinds, options.processes):
            results.append(result)
            bar.update()
            if result.outcome == FAILED:
                tqdm.tqdm.write(f"FAILED: python -m tests.fuzz --only={result.seed} --kinds={result.kind}")
                tqdm.tqdm.write(result.detail.rstrip() + "\n")
    seconds = time.monotonic() - started
    print(summarize(results))
    failed = sum(result.outcome == FAILED for result in results)
    print(f"{len(results)} cases in {seconds:.0f} s, {len(results) / seconds:.0f} per second; {failed} failed")
    return int(failed > 0)


def _make_what_is_shared(kinds: Sequence[str]) -> None:
    """Once, before the processes need it."""
    from tests import fuzz_kinds

    tiny.trained()
    if "prepared" in kinds:
        fuzz_kinds.small_dataset()
    if "exported" in kinds:
        tiny.exported("trained")


if __name__ == "__main__":
    sys.exit(main())

"""Bringing many runs to their end, several at the same time.

A small network cannot use many cores: processes of one core each, as many as there are cores, train the most.
"""

import collections
import contextlib
import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf
import tqdm

from a2net_tf import safe_files, settings
from a2net_tf.compat import op_determinism
from a2net_tf.data import prepared
from a2net_tf.errors import UserError
from a2net_tf.modes import evaluate, train
from a2net_tf.processor import num_cores
from a2net_tf.settings import Config
from a2net_tf.training import by_device, run_directory

_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_END = 30.0  # for a process that was asked to
# What the numbers of an evaluation depend on.
_EVALUATED = (
    *settings.SCORE_SETTINGS,
    *("eval_split", "checkpoint", "protocol", "tiou_thresholds", "duration_edges", "lambda_sweep"),
)
_TRACED_ANEW = ("Localizer", "scan.<locals>")  # functions of a2net_tf that every run and every network has its own of

logging.getLogger("tensorflow").addFilter(lambda entry: not _is_expected(entry.getMessage()))


def _is_expected(warning: str) -> bool:
    """Whether TensorFlow warns that it traces the functions of many runs."""
    return "triggered tf.function retracing" in warning and any(name in warning for name in _TRACED_ANEW)


class _Job(NamedTuple):
    """A run in a process of its own; what it prints from ``log_start`` on is in the run's log.txt."""

    config: Config
    process: subprocess.Popen
    log_start: int
    started: float


def run_all(configs: Sequence[Config], jobs: int) -> None:
    """Brings every run to its end: trained, and evaluated if its mode is train_and_evaluate.

    What is finished already, with the same settings, is not done again. With one job everything happens in this
    process; with more, each run gets a process with its share of the cores, whose output goes to ``log.txt`` in the
    run's directory.

    Args:
        configs: mode train or train_and_evaluate, each with a ``workdir`` of its own.
        jobs: runs at the same time.

    Raises:
        UserError: a run failed, or its directory holds one with other settings. The others are stopped and go on with
            the next call.
    """
    if len({config.workdir for config in configs}) < len(configs):
        raise ValueError("two runs in one directory")
    unfinished = []
    for config in configs:
        if _is_finished(config):
            print(f"{config.workdir}: finished earlier{_score(config)}")
        else:
            unfinished.append(config)
    sources = {(c.dataset, c.data_dir, c.manual_dir, c.stored_features): c for c in unfinished}
    for config in sources.values():
        prepared.open_dataset_of(config)  # now: two processes must not prepare the same directory
    if jobs == 1:
        _run_here(unfinished)
    else:
        _run_in_processes(unfinished, jobs)


def _is_finished(config: Config) -> bool:
    """Whether nothing is left to do; raises UserError if the directory holds a run with other settings."""
    if not run_directory.exists(config.workdir):
        return False
    run_directory.to_continue(run_directory.load(config.workdir), config)
    state = tf.train.latest_checkpoint(str(pathlib.Path(config.workdir, "state")))  # written last, after the weights
    trained = state is not None and int(state.rpartition("-")[2]) >= config.epochs
    return trained and (config.mode == "train" or _is_evaluated(config))


def _is_evaluated(config: Config) -> bool:
    """Whether metrics.json was written with these settings, and after the weights."""
    folder = pathlib.Path(config.workdir)
    metrics, weights = folder / "metrics.json", folder / f"{config.checkpoint}.npz"
    if not (metrics.exists() and weights.exists()) or metrics.stat().st_mtime_ns < weights.stat().st_mtime_ns:
        return False
    computed = run_directory.load(config.workdir)._replace(config=config).computed
    then, now = safe_files.read_json_object(metrics).get("settings", {}), settings.to_dict(computed)
    return all(then.get(name) == now[name] for name in _EVALUATED)


def _score(config: Config) -> str:
    """What a run's line says about its evaluation."""
    if config.mode == "train":
        return ""
    metrics = safe_files.read_json_object(pathlib.Path(config.workdir, "metrics.json"))
    return f", average mAP {100 * metrics['average_mAP']:.1f} ({config.eval_split})"


def _run_here(configs: Sequence[Config]) -> None:
    for number, config in enumerate(configs, start=1):
        print(f"run {number} of {len(configs)}: {config.workdir}", flush=True)
        started = time.monotonic()
        try:
            deterministic = by_device.is_deterministic(config.deterministic, by_device.kind())
            with op_determinism(deterministic):  # a row of an ablation may differ from the command in it
                train.train(config)
                if config.mode == "train_and_evaluate":
                    evaluate.evaluate(config, frozenset(settings.FIELDS))
        except UserError as error:
            raise UserError(f"{config.workdir}: {error}") from error
        keras.backend.clear_session()  # the networks and graphs of many runs would stay in memory
        print(_finished_line(config, time.monotonic() - started), flush=True)


def _finished_line(config: Config, seconds: float) -> str:
    return f"{config.workdir}: finished in {seconds:.1f} s{_score(config)}"


def _run_in_processes(configs: Sequence[Config], jobs: int) -> None:
    """``_run_here`` with processes. However it ends, none of them is left behind."""
    waiting, running = collections.deque(configs), []
    with (
        _noted_signals() as signals,
        tqdm.tqdm(total=len(configs), unit="run", leave=False, disable=None) as bar,
    ):
        try:
            while (waiting or running) and not signals:
                while waiting and len(running) < jobs:
                    running.append(_start(waiting.popleft(), jobs))
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                for job in [job for job in running if job.process.poll() is not None]:
                    running.remove(job)
                    _check_ended_well(job)
                    bar.write(_finished_line(job.config, time.monotonic() - job.started))
                    sys.stdout.flush()
                    bar.update()
        finally:
            _stop(running)


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """A list that Ctrl-C and SIGTERM are added to; they take effect when the block has ended.

    Raised in the middle of starting a process, they would leave it behind.
    """
    noted: list[int] = []
    previous = {}
    if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, lambda received, frame: noted.append(received))
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if noted:
        signal.raise_signal(noted[0])


def _start(config: Config, jobs: int) -> _Job:
    """Starts a run's process; its log goes on after what earlier commands have left there.

    The process ends when its standard input does (see ``main``), so not even SIGKILL of this one leaves it behind.
    """
    log = pathlib.Path(config.workdir, "log.txt")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "a2net_tf.main", *settings.to_flagfile(config).splitlines()]
    environment = {**_environment(jobs), "A2NET_TF_ENDS_WITH_STDIN": "1"}
    with open(log, "ab") as file:
        start = file.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    return _Job(config, process, start, time.monotonic())


def _environment(jobs: int) -> dict[str, str]:
    """That of this process, with a share of the cores."""
    threads = str(max(1, num_cores() // jobs))
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    together = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}  # else the first takes all memory of a GPU
    return {**together, **os.environ, "PYTHONUNBUFFERED": "1", **dict.fromkeys(names, threads)}


def _check_ended_well(job: _Job) -> None:
    """Raises UserError with the last line of the log that begins with ``error:``."""
    status, log = job.process.returncode, pathlib.Path(job.config.workdir, "log.txt")
    if status == 0:
        return
    text = log.read_bytes()[job.log_start :].decode(errors="replace")
    errors = [line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")]
    killed = f"killed by signal {-status}{' (out of memory?)' if status == -signal.SIGKILL else ''}"
    reason = errors[-1] if errors else killed if status < 0 else f"ended with status {status}"
    raise UserError(f"{job.config.workdir}: {reason} (see {log}; the same command goes on)")


def _stop(running: Sequence[_Job]) -> None:
    """Ends processes; their runs go on later with the last finished epoch."""
    for job in running:
        job.process.terminate()
    for job in running:
        try:
            job.process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            job.process.kill()
            job.process.wait()

"""Kills commands at random moments, again and again, and looks whether anything is lost, locked out or left behind.

    python -m tests.kill --kills=200 --seed=0

For each kind of command a folder with earlier work is copied, the command is started there and killed (SIGKILL) at a
random moment, up to four times in a row. After each kill what was there before must be there still, whole; then the
same command must come to its end with what it gives without a kill, and no file may be left that nobody knows.

A command runs in a fork of this process, which has imported TensorFlow but has never run an operator: TensorFlow makes
its threads, devices and graphs, and everything else that a command does, in the child, as in a process of its own. What
is missing are the seconds in which Python loads libraries and no file is touched. One attempt of many starts
Python anew all the same.
"""

import argparse
import collections
import contextlib
import csv
import io
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from a2net_tf.main import main as run_command
from a2net_tf.modes import command as _loaded  # noqa: F401 (before the forks)
from tests import tiny

with contextlib.suppress(ImportError):
    import matplotlib.figure  # noqa: F401 (before the forks)

# tqdm's own lock lies in memory that forks share: of a killed one that held it, all others would wait for ever.
tqdm.tqdm.set_lock(threading.RLock())

_NETWORK = (
    *("--window_steps=32", "--num_levels=2", "--base_channels=4", "--level_channels=4,4", "--head_channels=4"),
    *("--anchor_ratios=1.0", "--max_actions=20", "--precision=float32"),
)
_SPLITS = ("--train_split=train[:2]", "--eval_split=test[:1]")
_VALIDATION = "--validation_split=validation[:1]"
_SECONDS_BETWEEN_LOOKS = 0.003
_SECONDS_AT_MOST = 180.0  # for one command
_SECONDS_TO_END = 60.0  # for processes that a killed command has started
_FRESH = 25  # one attempt of so many starts Python anew
_UNFINISHED = re.compile(r"\.partial|_temp|\.tempstate|\.tmp|incomplete\.")
# In the folder for temporary files: TensorFlow removes its own when a process ends by itself, TFDS leaves an empty one
# whenever it looks for a dataset that is not prepared.
_NOT_OURS = re.compile(r"__autograph_generated_file|tmp\w+tfds$")
# A command that finds its dataset prepared does not look for the lock of one that was killed when all was done.
_ONE_LOCK = re.compile(r"data/toy_actions/\.lock$")

Files = Mapping[str, bytes | None]


class Kind(NamedTuple):
    """A kind of command.

    Attributes:
        share: how many kills, relative to the other kinds.
        flags: folder -> the command.
        start: fills a folder with earlier work.
        answers: folder -> what else to compare beside the files; run in a process of its own.
    """

    share: float
    flags: Callable[[pathlib.Path], list[str]]
    start: Callable[[pathlib.Path], None]
    answers: Callable[[pathlib.Path], dict[str, np.ndarray]] | None = None


# The commands


def _data(folder: pathlib.Path) -> list[str]:
    return ["--dataset=toy_actions", f"--data_dir={folder}"]


def _train(folder: pathlib.Path, *more: str) -> list[str]:
    data = _data(_scratch() / "kill_data")
    return ["--mode=train", f"--workdir={folder / 'run'}", *data, *_SPLITS, *_NETWORK, *more]


def _start_nothing(folder: pathlib.Path) -> None:
    (folder / "data" / "other").mkdir(parents=True)
    (folder / "data" / "other" / "incomplete.notes").write_text("of somebody else")


def _start_empty(folder: pathlib.Path) -> None:
    del folder


def _start_run(folder: pathlib.Path) -> None:
    _must_end_well(_train(folder, "--epochs=1", _VALIDATION))


def _start_results(folder: pathlib.Path) -> None:
    if (run := _scratch() / _start_run.__name__).exists():
        shutil.copytree(run, folder, dirs_exist_ok=True)
    else:
        _start_run(folder)
    for name in ("run/metrics.json", "run/detections.json"):
        (folder / name).write_text('{"earlier": 1}')
    for name in ("found.json", "found.srt", "model.tflite", "saved_model/saved_model.pb", "saved_model/variables/x"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"an earlier {name}")


def _use(mode: str, *outputs: str) -> Callable[[pathlib.Path], list[str]]:
    """A command that uses the run; outputs as ``flag=name`` of a file below the folder."""

    def flags(folder: pathlib.Path) -> list[str]:
        pairs = [output.split("=") for output in outputs]
        return [f"--mode={mode}", f"--workdir={folder / 'run'}", *(f"--{flag}={folder / name}" for flag, name in pairs)]

    return flags


def _answers_of_saved_model(folder: pathlib.Path) -> dict[str, np.ndarray]:
    model = tf.saved_model.load(str(folder / "saved_model"))
    size = int(model.signatures["raw"].structured_input_signature[1]["features"].shape[-1])
    windows = tf.constant(np.random.default_rng(0).normal(size=(2, 32, size)).astype(np.float32))
    arrays = {f"raw_{name}": value.numpy() for name, value in model.signatures["raw"](features=windows).items()}
    found = model.signatures["windows"](features=windows)
    return {**arrays, **{name: value.numpy() for name, value in found.items() if name != "labels"}}


KINDS = {
    "prepare": Kind(5.0, lambda folder: ["--mode=check", *_data(folder / "data"), *_NETWORK], _start_nothing),
    "train": Kind(2.0, lambda folder: _train(folder, "--epochs=3"), _start_empty),
    "resume": Kind(1.0, lambda folder: _train(folder, "--epochs=3", _VALIDATION), _start_run),
    "evaluate": Kind(0.8, _use("evaluate"), _start_results),
    "predict": Kind(1.0, _use("predict", "output=found.json"), _start_results),
    "export": Kind(0.4, _use("export", "saved_model=saved_model"), _start_results, _answers_of_saved_model),
    "export_tflite": Kind(0.4, _use("export", "tflite=model.tflite"), _start_results),
}


# Running them


class Command:
    """A command in a process group of its own.

    Args:
        flags: of a2net_tf.main; or a function, which is called instead.
        fresh: whether Python is started anew.
    """

    def __init__(self, flags: list[str] | Callable[[], None], *, fresh: bool = False):
        self.log, self.temporary = _scratch() / "log.txt", _scratch() / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.status: int | None = None
        self.pid = self._start(flags) if fresh else self._fork(flags)

    def _start(self, flags: list[str]) -> int:
        environment = {**os.environ, "TMPDIR": str(self.temporary)}
        arguments = [sys.executable, "-m", "a2net_tf.main", *flags]
        with open(self.log, "wb") as log:
            return subprocess.Popen(
                arguments, cwd=tiny.REPO, stdout=log, stderr=log, env=environment, start_new_session=True
            ).pid

    def _fork(self, flags: list[str] | Callable[[], None]) -> int:
        sys.stdout.flush()
        if pid := os.fork():
            return pid
        status = 1
        try:
            os.setsid()
            os.environ["TMPDIR"] = tempfile.tempdir = str(self.temporary)
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            status = flags() or 0 if callable(flags) else run_command(flags)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # what this process has to do at its end is not the child's

    def has_ended(self) -> bool:
        """Also takes note of the exit status."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def wait(self) -> int:
        """The exit status."""
        end = time.monotonic() + _SECONDS_AT_MOST
        while not self.has_ended():
            if time.monotonic() > end:
                self.kill(whole_group=True)
                raise Failure(f"has not ended in {_SECONDS_AT_MOST:.0f} s: {self.last_lines()}")
            time.sleep(0.01)
        return self.status

    def kill(self, *, whole_group: bool) -> None:
        """SIGKILL; afterwards nothing of the group runs any more."""
        with contextlib.suppress(ProcessLookupError):  # it has ended just now
            (os.killpg if whole_group else os.kill)(self.pid, signal.SIGKILL)
        while not self.has_ended():
            time.sleep(0.001)
        end = time.monotonic() + _SECONDS_TO_END
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < end:
                os.killpg(self.pid, 0)
                time.sleep(0.01)
            os.killpg(self.pid, signal.SIGKILL)
            raise Failure("a process that the killed command had started has not ended")

    def last_lines(self) -> str:
        """Of what it printed."""
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-3:])


def _scratch() -> pathlib.Path:
    return tiny.folder()


def _must_end_well(flags: list[str] | Callable[[], None]) -> None:
    command = Command(flags)
    if command.wait() != 0:
        raise Failure(f"exit status {command.status}: {command.last_lines()}")


# Looking at files


class Failure(Exception):
    """Something was lost, locked out or left behind."""


def _look(folder: pathlib.Path) -> tuple:
    """What changes whenever a file below the folder does."""
    seen = []
    with contextlib.suppress(FileNotFoundError):  # gone while it was looked at
        for place, _, names in os.walk(folder):
            for name in names:
                stat = os.lstat(os.path.join(place, name))
                seen.append((place, name, stat.st_size, stat.st_mtime_ns))
    return tuple(seen)


def _essence(name: str, content: bytes | None) -> object:
    """What must be equal in two runs that are: not the times that are noted down, and not TensorFlow's random names."""
    if re.search(r"(^|/)logs/|/state/|saved_model.*/(saved_model\.pb|fingerprint\.pb|variables\.index)$", name):
        return None  # a state is compared by its tensors, a SavedModel by its answers
    if name.endswith("history.csv"):
        rows = csv.DictReader(io.StringIO(content.decode()))
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    if ".tfrecord" in name:
        return _records(content)
    return content


def _records(content: bytes) -> list[bytes]:
    """The examples of a record file, each as bytes in which the order of its features is fixed."""
    found, position = [], 0
    while position < len(content):
        length = int.from_bytes(content[position : position + 8], "little")
        example = tf.train.Example.FromString(content[position + 12 : position + 12 + length])
        found.append(example.SerializeToString(deterministic=True))
        position += 16 + length  # with two checksums
    return found


def _check_readable(folder: pathlib.Path) -> None:
    """That every file that has its final name is whole."""
    for path in folder.rglob("*"):
        if _UNFINISHED.search(str(path)) or not path.is_file():
            continue
        try:
            if path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    dict(arrays)
            elif path.suffix == ".json" and "earlier" not in path.read_text():
                json.loads(path.read_text())
            elif path.name == "checkpoint" and (newest := tf.train.latest_checkpoint(str(path.parent))):
                _tensors(newest)
            elif path.name == "dataset_info.json" and not list(path.parent.glob("*test.tfrecord*")):
                raise ValueError("no records beside it")
        except Exception as error:
            raise Failure(f"{path.relative_to(folder)} is not whole: {type(error).__name__}: {error}") from error


def _tensors(checkpoint: str) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(checkpoint)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if name[0] != "_"}


def _check_intact(before: Files, now: Files, done: Files, *, steps: list[Files]) -> None:
    """That every earlier file is there: as it was, as the command leaves it, or of an epoch between."""
    for name, content in before.items():
        if re.search(r"/(state|logs)(/|$)", name) and "run/" in name:
            continue  # old states are removed in their turn; see _check_readable
        if name not in now:
            if content in _numbered(name, now):  # in a folder that was replaced as a whole
                continue
            raise Failure(f"{name} is gone")
        allowed = [content, *(files.get(name) for files in (done, *steps))]
        if now[name] in allowed or _essence(name, now[name]) in [_essence(name, c) for c in allowed if c is not None]:
            if now[name] == content or _is_of_training(name) or content in _numbered(name, now):
                continue
            raise Failure(f"{name} was replaced and is not kept under a numbered name")
        raise Failure(f"{name} is neither as it was nor as it becomes")


def _is_of_training(name: str) -> bool:
    """These are replaced; results are kept."""
    return (
        re.search(r"run/(last|best|statistics)\.npz|run/(run\.json|flags\.txt|history\.csv|timelines/)", name)
        is not None
    )


def _numbered(name: str, files: Files) -> list[bytes | None]:
    """The contents of ``name`` that are kept as earlier ones."""
    return [content for other, content in files.items() if _original(other) == name]


def _original(name: str) -> str | None:
    """Of what path a numbered one is the earlier state, if it is one: a/b.1.json of a/b.json, a.2/c of a/c."""
    match = re.fullmatch(r"(.*?[^/.]+)\.\d+(\.\w+|/.*)?", name)
    return match and match[1] + (match[2] or "")


def _check_no_litter(now: Files, before: Files, done: Files) -> None:
    """That nothing is there that an undisturbed command does not leave, but whole earlier results."""
    for name in now.keys() - done.keys():
        original = _original(name)
        if re.search(r"run/logs/.*events\.out", name) or _ONE_LOCK.search(name):
            continue  # TensorBoard's files: one for each start
        known = [files[original] for files in (before, done) if original in files]
        if not known or _essence(original, now[name]) not in [_essence(original, content) for content in known]:
            raise Failure(f"{name} is left behind")
    for path in (_scratch() / "tmp").iterdir():
        if not _NOT_OURS.match(path.name):
            raise Failure(f"{path.name} is left behind in the folder for temporary files")


def _check_equal(now: Files, done: Files) -> None:
    for name in done:
        if name not in now and "run/logs/" not in name:
            raise Failure(f"{name} is missing at the end")
        if name in now and _essence(name, now[name]) != _essence(name, done[name]):
            raise Failure(f"{name} differs from that of a command that was not killed")


# One kind


class Bench:
    """A kind of command with the folder that it works in, and what it gives when nobody kills it."""

    def __init__(self, name: str):
        self.name, self.kind = name, KINDS[name]
        self.folder = _scratch() / "work"  # of all kinds: a run's files say where it is
        self.saved = _scratch() / self.kind.start.__name__
        if not (_scratch() / "kill_data").exists():
            _must_end_well(["--mode=check", *_data(_scratch() / "kill_data"), *_NETWORK])
        if not self.saved.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            self.kind.start(self.folder)
            shutil.copytree(self.folder, self.saved)
        self.restore()
        self.before = tiny.files_below(self.folder)
        self.steps = self._epochs() if name in ("train", "resume") else []
        self.seconds, self.changes, self.done, self.answers = self._undisturbed()

    def _epochs(self) -> list[Files]:
        """The files after each epoch that is not the last."""
        found = []
        for epochs in (1, 2):
            _must_end_well([*self.kind.flags(self.folder), f"--epochs={epochs}"])
            found.append(tiny.files_below(self.folder))
        return found

    def restore(self) -> None:
        """The folder as it was before the first command."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.saved, self.folder)
        shutil.rmtree(_scratch() / "tmp", ignore_errors=True)

    def _undisturbed(self) -> tuple[float, int, Files, dict[str, np.ndarray]]:
        """How long the command takes, how often files are seen to change, its files and its answers."""
        self.restore()
        started, changes, seen = time.monotonic(), 0, _look(self.folder)
        command = Command(self.kind.flags(self.folder))
        while not command.has_ended():
            changes += seen != (seen := _look(self.folder))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if command.status != 0:
            raise Failure(f"not killed, and yet exit status {command.status}: {command.last_lines()}")
        return time.monotonic() - started, changes, tiny.files_below(self.folder), self._ask()

    def _ask(self) -> dict[str, np.ndarray]:
        """The answers of what was written, and the tensors of the newest state."""
        state = self.folder / "run" / "state"
        tensors = _tensors(tf.train.latest_checkpoint(str(state))) if state.exists() else {}
        if self.kind.answers is None:
            return tensors
        file = _scratch() / "answers.npz"
        _must_end_well(lambda: np.savez(file, **self.kind.answers(self.folder)))
        with np.load(file) as arrays:
            return {**tensors, **arrays}

    def scenario(self, number: int, seed: int, most_kills: int) -> collections.Counter:
        """Two to four kills and the end; returns how often which moment was reached."""
        draw = random.Random(f"{seed}/{self.name}/{number}")
        self.restore()
        moments = collections.Counter()
        for attempt in range(min(most_kills, draw.choice((2, 3, 4)))):
            moments[self._kill_once(draw, fresh=(number + attempt) % _FRESH == _FRESH - 1)] += 1
        command = Command(self.kind.flags(self.folder))
        if command.wait() != 0:
            raise Failure(f"the command after the kill: exit status {command.status}: {command.last_lines()}")
        now = tiny.files_below(self.folder)
        _check_equal(now, self.done)
        _check_no_litter(now, self.before, self.done)
        _check_same_arrays(self._ask(), self.answers)
        return moments

    def _kill_once(self, draw: random.Random, *, fresh: bool) -> str:
        """Starts the command, kills it and looks at what is there; returns the moment."""
        # By the clock, more often late; or at the n-th change of files, and a little later.
        by_clock = draw.random() < 0.4 and not fresh
        seconds = 0.8 * self.seconds * draw.random() ** 0.5 if by_clock else _SECONDS_AT_MOST
        changes = draw.randint(1, max(self.changes, 1))
        later = draw.choice((0.0, draw.uniform(0, 0.02)))
        whole_group = draw.random() < 0.75
        before, seen, end = tiny.files_below(self.folder), _look(self.folder), time.monotonic() + seconds
        command = Command(self.kind.flags(self.folder), fresh=fresh)
        while not command.has_ended() and time.monotonic() < end and (changes or by_clock):
            changes -= changes > 0 and seen != (seen := _look(self.folder))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        time.sleep(0 if by_clock else later)
        ended = command.has_ended()
        command.kill(whole_group=whole_group)
        now = tiny.files_below(self.folder)
        _check_intact(self.before, now, self.done, steps=self.steps)
        _check_readable(self.folder)
        return "too late" if ended else self._moment(before, now)

    def _moment(self, before: Files, now: Files) -> str:
        changed = {name for name in now if now[name] != before.get(name)}
        if any(_UNFINISHED.search(name) for name in changed):
            return "half a file"
        if not changed or changed == {"run/.lock"}:
            return "nothing yet"
        done = all(name in now and _essence(name, now[name]) == _essence(name, self.done[name]) for name in self.done)
        return "all is there" if done else "some files"


def _check_same_arrays(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name in found.keys() | expected.keys():
        if name not in found or name not in expected or not np.array_equal(found[name], expected[name]):
            raise Failure(f"{name} differs from that of a command that was not killed: {found.get(name)}")


# All together

_MOMENTS = ("nothing yet", "half a file", "some files", "all is there", "too late")


def main(arguments: list[str] | None = None) -> int:
    """Runs the suite; returns 1 if anything was lost, locked out or left behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many commands are killed, all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(KINDS), help="kinds of commands, with commas between them")
    parser.add_argument("--first", type=int, default=0, help="number of the first scenario of each kind")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    counts = {name: collections.Counter() for name in names}
    failures = _run_all(names, options, counts)
    print(_table(counts))
    return int(bool(failures))


def _run_all(names: list[str], options: argparse.Namespace, counts: dict[str, collections.Counter]) -> list[str]:
    """Kills until there were enough; returns a line for each failure."""
    benches: dict[str, Bench] = {}
    numbers = dict.fromkeys(names, options.first)
    failures = []
    with contextlib.suppress(KeyboardInterrupt), tqdm.tqdm(total=options.kills, unit="kill", disable=None) as bar:
        while (done := sum(map(_num_kills, counts.values()))) < options.kills:
            bar.update(done - bar.n)
            name = min(names, key=lambda name: _num_kills(counts[name]) / KINDS[name].share)
            bar.set_postfix_str(name)
            if name not in benches:
                benches[name] = Bench(name)
            try:
                moments = benches[name].scenario(numbers[name], options.seed, options.kills - done)
            except Failure as failure:
                moments = collections.Counter({"failures": 1})
                again = f"python -m tests.kill --kills=1 --seed={options.seed} --only={name} --first={numbers[name]}"
                failures.append(f"{name}: {failure} (again: {again})")
                bar.write(failures[-1])
            counts[name] += moments
            numbers[name] += 1
    return failures


def _num_kills(moments: collections.Counter) -> int:
    """Without those that came too late."""
    return sum(moments.values()) - moments["too late"]


def _table(counts: Mapping[str, collections.Counter]) -> str:
    lines = [f"{'command':14}{'kills':>7}" + "".join(f"{moment:>14}" for moment in (*_MOMENTS, "failures"))]
    for name, moments in (*counts.items(), ("all", sum(counts.values(), collections.Counter()))):
        kills = _num_kills(moments) - moments["failures"]
        lines.append(f"{name:14}{kills:7}" + "".join(f"{moments[moment]:14}" for moment in (*_MOMENTS, "failures")))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

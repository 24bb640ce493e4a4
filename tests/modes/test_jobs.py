"""Runs in this process and in processes of their own."""

import csv
import dataclasses
import os
import pathlib
import signal
import sys
import time

import numpy as np
import pytest

from a2net_tf import settings
from a2net_tf.errors import UserError
from a2net_tf.modes import jobs
from a2net_tf.training import run_directory
from tests import forks, tiny

pytestmark = pytest.mark.slow

SMALLEST = ("--num_levels=1", "--noanchor_based")  # graph: what is trained does not matter here

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


def processes_of(folder):
    """Ids of the processes of runs below ``folder``."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/fd/1"):
        try:
            if os.readlink(path).startswith(str(folder)):
                found.append(int(path.parts[2]))
        except OSError:  # ended, or not ours
            continue
    return found


def start(folder, *names):
    """A command that trains without end, two runs at a time, once each has finished an epoch."""
    flags = ("--epochs=100000", "--train_split=train[:2]", *SMALLEST)
    runs = [tiny.train_flags(folder / name, *flags) for name in names]
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job has none
        "from a2net_tf import settings\nfrom a2net_tf.modes import jobs\n"
        f"jobs.run_all([settings.parse(run)[0] for run in {runs!r}], 2)\n"
    )
    command = forks.Fork([sys.executable, "-c", script], cwd=tiny.REPO)
    while not all((folder / name / "history.csv").exists() for name in names):
        assert command.poll() is None
        time.sleep(0.1)
    assert len(processes_of(folder)) == len(names)
    return command


def run_of(folder, name, *flags, mode="train"):
    return settings.parse([*tiny.train_flags(folder / name, f"--mode={mode}", "--noplots", *SMALLEST, *flags)])[0]


def weights(folder, name):
    with np.load(folder / name / "last.npz") as arrays:
        return dict(arrays)


def times(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Two runs, trained and evaluated at the same time."""
    folder = tmp_path_factory.mktemp("processes")
    with tiny.silence():
        jobs.run_all([run_of(folder, f"seed{n}", f"--seed={n}", mode="train_and_evaluate") for n in (0, 1)], 2)
    return folder


def test_a_process_gives_the_weights_that_its_command_alone_gives(processes, tmp_path):
    """To the last bit with as many threads; with other numbers of them sums are rounded in another order."""
    command = [sys.executable, "-m", "a2net_tf.main", *tiny.train_flags(tmp_path / "seed1", *SMALLEST, "--seed=1")]
    assert forks.run(command, cwd=tiny.REPO, env=jobs._environment(2)).returncode == 0
    there, here, other = weights(processes, "seed1"), weights(tmp_path, "seed1"), weights(processes, "seed0")
    assert there.keys() == here.keys()
    for key in here:
        np.testing.assert_array_equal(there[key], here[key], err_msg=key)
    assert any((here[key] != other[key]).any() for key in here)


def test_this_process_trains_as_the_processes_do(processes, tmp_path, capsys):
    jobs.run_all([run_of(tmp_path, f"seed{n}", f"--seed={n}") for n in (0, 1)], 1)
    for name in ("seed0", "seed1"):
        there, here = (
            float(next(csv.DictReader((folder / name / "history.csv").read_text().splitlines()))["loss"])
            for folder in (processes, tmp_path)
        )
        assert there == pytest.approx(here, rel=1e-5)
    lines = [line for line in capsys.readouterr().out.splitlines() if ": finished in" in line]
    assert [line.partition(":")[0] for line in lines] == [str(tmp_path / "seed0"), str(tmp_path / "seed1")]


def test_output_of_a_process_is_in_its_log(processes):
    text = (processes / "seed1" / "log.txt").read_text()
    assert "epoch 1/1" in text
    assert "mAP (%) at tIoU" in text


@pytest.mark.parametrize("number", [1, 2])
def test_what_is_finished_is_said_and_not_done_again(processes, capsys, number):
    before = times(processes)
    jobs.run_all([run_of(processes, f"seed{n}", f"--seed={n}", mode="train_and_evaluate") for n in (0, 1)], number)
    assert times(processes) == before
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(", average mAP")[0] for line in lines] == [
        f"{processes / name}: finished earlier" for name in ("seed0", "seed1")
    ]
    assert all("average mAP" in line for line in lines)


def test_only_the_evaluation_is_done_for_other_settings_of_it(processes, capsys):
    before, weights_before = times(processes / "seed0"), weights(processes, "seed0")
    config = run_of(processes, "seed0", "--min_score=0.01", mode="train_and_evaluate")
    for _ in range(2):  # the second time it is there
        jobs.run_all([config], 1)
    assert "finished earlier" in capsys.readouterr().out.splitlines()[-1]
    assert (processes / "seed0" / "metrics.1.json").exists()
    assert not (processes / "seed0" / "metrics.2.json").exists()
    assert times(processes / "seed0")[processes / "seed0" / "last.npz"] == before[processes / "seed0" / "last.npz"]
    assert weights_before.keys() == weights(processes, "seed0").keys()


def test_an_evaluation_of_older_weights_is_not_taken(processes):
    config, file = run_of(processes, "seed1", "--seed=1", mode="train_and_evaluate"), processes / "seed1" / "last.npz"
    assert jobs._is_finished(config)
    before = file.stat()
    os.utime(file)
    assert not jobs._is_finished(config)
    assert jobs._is_finished(dataclasses.replace(config, mode="train"))
    assert not jobs._is_finished(dataclasses.replace(config, mode="train", epochs=2))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert jobs._is_finished(config)


@pytest.mark.parametrize("number", [1, 2])
def test_another_run_in_the_directory_is_refused_before_anything_starts(processes, tmp_path, number):
    configs = [run_of(tmp_path, "new"), run_of(processes, "seed0", "--clip_norm=1")]
    with pytest.raises(UserError, match="--clip_norm=1.0"):
        jobs.run_all(configs, number)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("number", [1, 2])
def test_a_failing_run_is_named_with_its_error(tmp_path, number):
    """The run beside it is stopped, those after it are not started; what is left goes on with the next call."""
    long = run_of(tmp_path, "long", "--epochs=100000")
    bad = run_of(tmp_path, "bad", "--train_split=nothing")
    late = run_of(tmp_path, "late")
    configs = [bad, late] if number == 1 else [long, bad, late]
    with tiny.silence(), pytest.raises(UserError, match=f"^{tmp_path / 'bad'}: split 'nothing' is not in"):
        jobs.run_all(configs, number)
    assert not (tmp_path / "late").exists()
    assert processes_of(tmp_path) == []


@LINUX
def test_a_run_that_is_killed_is_named(tmp_path):
    """From the side, as the system does when memory is short."""
    command = start(tmp_path, "run")
    os.kill(processes_of(tmp_path)[0], signal.SIGKILL)
    assert f"{tmp_path / 'run'}: killed by signal 9 (out of memory?)" in command.communicate(timeout=60)[1]


@LINUX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_processes_too_and_leaves_nothing_half_written(tmp_path, number):
    command = start(tmp_path, "a", "b")
    command.send_signal(number)
    command.communicate(timeout=60)
    assert command.returncode == -number
    assert processes_of(tmp_path) == []
    for name in ("a", "b"):
        assert weights(tmp_path, name)
        assert run_directory.exists(str(tmp_path / name))


@LINUX
def test_processes_end_with_the_command_that_is_killed(tmp_path):
    """SIGKILL leaves it no time to stop them."""
    command = start(tmp_path, "a", "b")
    command.kill()
    command.communicate()
    end = time.monotonic() + 20
    while processes_of(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.1)
    for name in ("a", "b"):
        assert "the command that started this run has ended" in (tmp_path / name / "log.txt").read_text()
    with tiny.silence():  # and nothing keeps the directory
        jobs.run_all(
            [run_of(tmp_path, "a", "--train_split=train[:2]", f"--epochs={len(epochs(tmp_path / 'a')) + 1}")], 1
        )
    assert epochs(tmp_path / "a") == list(range(1, len(epochs(tmp_path / "a")) + 1))


def epochs(run):
    return [row["epoch"] for row in run_directory.read_history(str(run))]


def test_two_runs_in_one_directory_are_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="two runs in one directory"):
        jobs.run_all([run_of(tmp_path, "a"), run_of(tmp_path, "a", "--seed=1")], 1)


def test_no_runs():
    jobs.run_all([], 1)
    jobs.run_all([], 2)


def test_cores_are_shared(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    for number, expected in ((2, "3"), (4, "1"), (6, "1"), (7, "1")):
        environment = jobs._environment(number)
        assert [environment[name] for name in names] == [expected] * 3

"""Runs in this process and in processes of their own."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from a2net_tf import config as settings
from a2net_tf import jobs
from a2net_tf.errors import UserError
from tests import tiny


def run_of(folder, name, *flags, mode="train"):
    return settings.parse([*tiny.train_flags(folder / name, f"--mode={mode}", "--noplots", *flags)])[0]


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


def test_processes_give_the_weights_that_this_process_gives(processes, tmp_path, capsys):
    jobs.run_all([run_of(tmp_path, f"seed{n}", f"--seed={n}") for n in (0, 1)], 1)
    for name in ("seed0", "seed1"):
        there, here = weights(processes, name), weights(tmp_path, name)
        assert there.keys() == here.keys()
        for key in here:
            np.testing.assert_array_equal(there[key], here[key], err_msg=key)
    assert any((here[key] != value).any() for key, value in weights(tmp_path, "seed0").items())
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


def test_an_evaluation_of_older_weights_is_not_taken(tmp_path):
    config = run_of(tmp_path, "run", mode="train_and_evaluate")
    with tiny.silence():
        jobs.run_all([config], 1)
    assert jobs._is_finished(config)
    os.utime(tmp_path / "run" / "last.npz")
    assert not jobs._is_finished(config)
    assert jobs._is_finished(dataclasses.replace(config, mode="train"))
    assert not jobs._is_finished(dataclasses.replace(config, mode="train", epochs=2))


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


def test_a_run_that_is_killed_is_named(tmp_path):
    """From the side, as the system does when memory is short."""
    script = f"""
import os, pathlib, signal, sys, threading, time
sys.path.insert(0, {str(tiny.REPO)!r})
from a2net_tf import config, jobs
from tests import tiny
configs = [config.parse(arguments)[0] for arguments in {[tiny.train_flags(tmp_path / "run", "--epochs=100000")]!r}]
def kill():
    while not (found := [int(p) for p in os.listdir("/proc") if p.isdigit() and
                         b"a2net_tf.main" in pathlib.Path("/proc", p, "cmdline").read_bytes() and
                         pathlib.Path("/proc", p, "stat").read_text().rsplit(")", 1)[1].split()[1] == str(os.getpid())]):
        time.sleep(0.1)
    os.kill(found[0], signal.SIGKILL)
threading.Thread(target=kill, daemon=True).start()
jobs.run_all(configs, 2)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tiny.REPO, capture_output=True, text=True, check=False)
    assert f"{tmp_path / 'run'}: killed by signal 9 (out of memory?)" in done.stderr


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_processes_too_and_the_runs_go_on(tmp_path, number):
    arguments = [[*tiny.train_flags(tmp_path / name, "--epochs=100000")] for name in ("a", "b")]
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job has none
        "from a2net_tf import config, jobs\n"
        f"jobs.run_all([config.parse(a)[0] for a in {arguments!r}], 2)\n"
    )
    command = subprocess.Popen([sys.executable, "-c", script], cwd=tiny.REPO, stderr=subprocess.DEVNULL)
    while not all((tmp_path / name / "history.csv").exists() for name in ("a", "b")):
        assert command.poll() is None
        time.sleep(0.1)
    assert len(processes_of(tmp_path)) == 2
    command.send_signal(number)
    assert command.wait(timeout=60) == -number
    assert processes_of(tmp_path) == []
    for name in ("a", "b"):
        assert not list((tmp_path / name).glob("*.tmp"))
        assert weights(tmp_path, name)


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

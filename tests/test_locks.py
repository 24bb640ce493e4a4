import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from a2net_tf import locks
from a2net_tf.errors import UserError
from tests import forks, tiny

HOLDER = """
import sys, time
from a2net_tf import locks
with locks.hold(sys.argv[1], "the run"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start_holder(path, seconds=60.0):
    """A process that holds the lock."""
    command = [sys.executable, "-c", HOLDER, str(path), str(seconds)]
    holder = subprocess.Popen(command, cwd=tiny.REPO, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def test_nothing_is_left(tmp_path):
    with locks.hold(tmp_path / "a" / "b" / ".lock", "it"):
        assert f"process {os.getpid()} on " in (tmp_path / "a" / "b" / ".lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_stays(tmp_path):
    with locks.hold(tmp_path / "a" / ".lock", "it"):
        (tmp_path / "a" / "result").write_text("x")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["result"]


def test_the_second_is_told_who_holds_it(tmp_path):
    """Also within one process: the lock belongs to the block."""
    path = tmp_path / ".lock"
    with locks.hold(path, "runs/a"):
        told = rf"^runs/a: in use by process {os.getpid()} on \S+ since 20.*\(.*python"
        with pytest.raises(UserError, match=told), locks.hold(path, "runs/a"):
            pytest.fail("two in one block")
        assert path.exists()
    with locks.hold(path, "runs/a"):
        pass


@pytest.mark.slow
def test_a_killed_holder_locks_nothing(tmp_path):
    path = tmp_path / ".lock"
    holder = start_holder(path)
    with pytest.raises(UserError, match=f"in use by process {holder.pid} "), locks.hold(path, "it"):
        pass
    holder.kill()
    holder.wait()
    assert f"process {holder.pid} " in path.read_text()  # the file is there, and nobody holds it
    with locks.hold(path, "it"):
        assert f"process {os.getpid()} " in path.read_text()
    assert not path.exists()


@pytest.mark.slow
def test_waiting(tmp_path, capsys):
    """The one that waits does not take the file that the other removes for the lock."""
    path = tmp_path / "new" / ".lock"
    holder = start_holder(path, locks._SECONDS_TO_END + 1)
    started = time.monotonic()
    with locks.hold(path, "it", wait=True):
        assert time.monotonic() - started > 0.2
        assert f"process {os.getpid()} " in path.read_text()
        with pytest.raises(UserError, match="in use"), locks.hold(path, "it"):
            pass
    assert holder.wait() == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"it: in use by process {holder.pid} on ")
    assert line.endswith("; waiting for its end")


@pytest.mark.slow
def test_many_take_turns(tmp_path):
    code = (
        "import pathlib, sys\nfrom a2net_tf import locks\ncount = pathlib.Path(sys.argv[1], 'count')\n"
        "for _ in range(50):\n    with locks.hold(pathlib.Path(sys.argv[1], 'folder', '.lock'), 'it', wait=True):\n"
        "        count.write_text(str(int(count.read_text()) + 1))\n"
    )
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=tiny.REPO, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "200"


def test_a_lock_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="^the run: cannot be written: "),
        locks.hold(tmp_path / "file" / "x", "the run"),
    ):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def refuse(handle, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with locks.hold(tmp_path / ".lock", "it"):
        pass
    assert capsys.readouterr().out.startswith("it: no locks on this file system (No locks available)")


# --- commands


SMALLEST = ("--train_split=train[:2]", "--num_levels=1", "--noanchor_based")


@contextlib.contextmanager
def training(workdir):
    """A training without end, after an epoch of its own."""
    arguments = tiny.train_flags(workdir, "--epochs=100000", *SMALLEST)
    command = [sys.executable, "-m", "a2net_tf.main", *arguments]
    before = num_epochs(workdir)
    process = forks.Fork(command, cwd=tiny.REPO)
    try:
        while num_epochs(workdir) == before or not (workdir / "state" / "checkpoint").exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


def epochs(workdir):
    return [int(row.partition(",")[0]) for row in (workdir / "history.csv").read_text().splitlines()[1:]]


def num_epochs(workdir):
    return len(epochs(workdir)) if (workdir / "history.csv").exists() else 0


@pytest.mark.slow
def test_a_second_trainer_is_refused_and_readers_are_not_and_a_stopped_training_goes_on(tmp_path, capsys):
    """Stopped twice, by SIGTERM and by Ctrl-C. It goes on in a process, and then in this one."""
    workdir = tmp_path / "run"
    with training(workdir) as process:
        refuses_a_second_trainer_and_no_reader(process, workdir, capsys)
        says_that_it_was_stopped(process, workdir, signal.SIGTERM)
    done = num_epochs(workdir)
    with training(workdir) as process:
        says_that_it_was_stopped(process, workdir, signal.SIGINT)
    assert num_epochs(workdir) > done
    assert epochs(workdir) == list(range(1, num_epochs(workdir) + 1))
    done = num_epochs(workdir)
    tiny.train(workdir, f"--epochs={done + 1}", *SMALLEST)
    assert epochs(workdir) == list(range(1, done + 2))


def refuses_a_second_trainer_and_no_reader(training, workdir, capsys):
    assert tiny.main(tiny.train_flags(workdir, "--epochs=100000", *SMALLEST)) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {workdir}: in use by process {training.pid} on ")
    assert "--mode=train" in line
    with tiny.silence():
        assert tiny.main(["--mode=evaluate", f"--workdir={workdir}", "--noplots"]) == 0
    assert training.poll() is None


def says_that_it_was_stopped(training, workdir, number):
    training.send_signal(number)
    lines = training.communicate(timeout=60)[1].splitlines()
    assert lines[-1] == "stopped; the same command goes on with what is not finished"
    assert not any("Traceback" in line for line in lines)
    assert training.returncode == 128 + number
    assert not [path for path in workdir.rglob("*") if path.name.endswith((".partial", ".lock"))]


PREPARES = """
import sys
from a2net_tf.data import prepared
builder = prepared.open_dataset("toy_actions", data_dir=sys.argv[1])
print("splits", *builder.info.splits, flush=True)
"""


def test_two_that_prepare_one_dataset_take_turns(slow, tmp_path):
    """What a killed one has left is removed; what others keep there is not."""
    (tmp_path / "toy_actions" / "incomplete.ABC123_1.0.0" / "x").mkdir(parents=True)
    (tmp_path / "hapt" / "incomplete.ABC123_1.0.0").mkdir(parents=True)
    command = [sys.executable, "-c", PREPARES, str(tmp_path)]
    processes = [forks.Fork(command, cwd=tiny.REPO) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert all("splits train validation test" in output for output in outputs)
    assert sum("prepared toy_actions/1.0.0: later commands read it" in output for output in outputs) == 1
    assert [path.name for path in (tmp_path / "toy_actions").iterdir()] == ["1.0.0"]
    assert [path.name for path in (tmp_path / "hapt").iterdir()] == ["incomplete.ABC123_1.0.0"]


def test_prepared_by_another_command_just_after_this_one_has_looked(monkeypatch, tmp_path):
    """Whoever looked before the directory was there must look again, and not read it with a builder without splits."""
    from a2net_tf.data import prepared

    builder_class, looked = prepared.find_builder_class("toy_actions"), []
    look = builder_class.__init__

    def look_too_early(builder, **arguments):
        look(builder, **arguments)
        if not looked:
            looked.append(builder)
            builder_class(**arguments).download_and_prepare()

    monkeypatch.setattr(builder_class, "__init__", look_too_early)
    assert list(prepared.open_dataset("toy_actions", data_dir=str(tmp_path)).info.splits)
    assert not looked[0].info.splits

"""Python processes that need not load TensorFlow first: forks of one that has loaded it and has never run an operator.

TensorFlow makes its threads, devices and graphs in the fork, as in a process of its own; only the five seconds in which
Python loads libraries are not spent each time. A test of how a process starts uses ``subprocess`` instead.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from types import SimpleNamespace, TracebackType
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tensorflow", "keras"])


class Fork:
    """A running process, with what tests need of ``subprocess.Popen``.

    Args:
        command: this Python, with a script or ``-m`` a module or ``-c`` a program, and its arguments.
        cwd: the folder in which it runs.
        env: all of its environment; the default is that of this process.
        into: a file for all that it writes; the default keeps it for ``communicate``.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: str | os.PathLike = ".",
        env: Mapping[str, str] | None = None,
        into: IO | None = None,
    ):
        assert command[0] == sys.executable
        environment = dict(os.environ if env is None else env)
        if into is None:
            ends, ours = zip(*(_CONTEXT.Pipe(duplex=False) for _ in range(2)), strict=True)
        else:
            ends, ours = (), [connection.Connection(os.dup(into.fileno()), readable=False) for _ in range(2)]
        self._process = _CONTEXT.Process(target=_run, args=(list(command), str(cwd), environment, *ours))
        self._process.start()
        self._outputs = [_Reader(end) for end in ends]
        for end in ours:
            end.close()
        self.pid = self._process.pid
        self.kill, self.terminate = self._process.kill, self._process.terminate
        self.poll = lambda: self._process.exitcode

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the signal; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a fork", timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has written to stdout and stderr, once it has ended."""
        self.wait(timeout)
        return tuple(output.text() for output in self._outputs)


class _Reader(threading.Thread):
    """Reads a pipe until nobody writes to it any more."""

    def __init__(self, pipe: connection.Connection):
        super().__init__(daemon=True)
        self._pipe, self._read = pipe, b""
        self.start()

    def run(self) -> None:
        while read := os.read(self._pipe.fileno(), 1 << 16):
            self._read += read

    def text(self) -> str:
        self.join()
        return self._read.decode()


def run(command: Sequence[str], **where) -> subprocess.CompletedProcess:
    """What ``subprocess.run(command, capture_output=True, text=True)`` gives; arguments are those of ``Fork``."""
    fork = Fork(command, **where)
    printed = fork.communicate()
    return subprocess.CompletedProcess(command, fork.returncode, *printed)


def reloads_of_exports() -> None:
    """From now on each export of this process is reloaded in a fork; half of its time would be the import."""
    new_process = subprocess.run

    def run_or_fork(command, *args, **kwargs):
        is_reload = command[:1] == [sys.executable] and os.path.basename(command[1]) == "reload.py"
        return run(command) if is_reload else new_process(command, *args, **kwargs)

    subprocess.run = run_or_fork


def runs_of_jobs(patch: "pytest.MonkeyPatch") -> None:
    """From now on the runs of ``--jobs`` are forks; tests/modes/test_jobs.py is about the processes that they are."""
    from a2net_tf.modes import jobs

    def start(command, *, stdin, stdout, stderr, env):
        del env["A2NET_TF_ENDS_WITH_STDIN"]  # a fork has none
        return Fork(command, env=env, into=stdout)

    patch.setattr(jobs, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": start}))


def _interrupted(kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
    """Ctrl-C ends Python by the signal itself, so that a shell knows of it."""
    if kind is KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _run(
    command: list[str],
    cwd: str,
    environment: Mapping[str, str],
    stdout: connection.Connection,
    stderr: connection.Connection,
) -> None:
    """In the fork."""
    sys.orig_argv, arguments = command, command[1:]
    for pipe, descriptor in ((stdout, 1), (stderr, 2)):
        os.dup2(pipe.fileno(), descriptor)
        pipe.close()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    with contextlib.ExitStack() as stack:
        stack.callback(atexit._run_exitfuncs)  # a fork does not run them when it ends
        stack.push(_interrupted)
        if arguments[0] == "-m":
            sys.argv, sys.path[:0] = arguments[1:], [cwd]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv, sys.path[:0] = ["-c", *arguments[2:]], [cwd]
            exec(arguments[1], {"__name__": "__main__"})
        else:
            sys.argv, sys.path[:0] = arguments, [os.path.dirname(arguments[0])]
            runpy.run_path(arguments[0], run_name="__main__")

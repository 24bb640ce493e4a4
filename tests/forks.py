"""Python processes that need not load TensorFlow first: forks of one that has loaded it and has never run an operator.

TensorFlow makes its threads, devices and graphs in the fork, as in a process of its own; only the five seconds in which
Python loads libraries are not spent each time. A test of how a process starts uses ``subprocess`` instead.
"""

import atexit
import contextlib
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tensorflow", "keras"])


def run(
    command: Sequence[str], *, cwd: str | os.PathLike = ".", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """What ``subprocess.run(command, capture_output=True, text=True)`` gives.

    Args:
        command: this Python, with a script or ``-m`` a module or ``-c`` a program, and its arguments.
        cwd: the folder in which it runs.
        env: all of its environment; the default is that of this process.
    """
    assert command[0] == sys.executable
    with tempfile.TemporaryDirectory() as folder:
        outputs = [pathlib.Path(folder, name) for name in ("stdout", "stderr")]
        environment = dict(os.environ if env is None else env)
        process = _CONTEXT.Process(target=_run, args=(list(command[1:]), str(cwd), environment, *map(str, outputs)))
        process.start()
        process.join()
        return subprocess.CompletedProcess(command, process.exitcode, *(path.read_text() for path in outputs))


def reloads_of_exports() -> None:
    """From now on each export of this process is reloaded in a fork; half of its time would be the import."""
    new_process = subprocess.run

    def run_or_fork(command, *args, **kwargs):
        is_reload = command[:1] == [sys.executable] and os.path.basename(command[1]) == "reload.py"
        return run(command) if is_reload else new_process(command, *args, **kwargs)

    subprocess.run = run_or_fork


def _run(arguments: Sequence[str], cwd: str, environment: Mapping[str, str], stdout: str, stderr: str) -> None:
    """In the fork."""
    for path, descriptor in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    with contextlib.ExitStack() as stack:
        stack.callback(atexit._run_exitfuncs)  # a fork does not run them when it ends
        if arguments[0] == "-m":
            sys.argv, sys.path[:0] = list(arguments[1:]), [cwd]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv, sys.path[:0] = ["-c", *arguments[2:]], [cwd]
            exec(arguments[1], {"__name__": "__main__"})
        else:
            sys.argv, sys.path[:0] = list(arguments), [os.path.dirname(arguments[0])]
            runpy.run_path(arguments[0], run_name="__main__")

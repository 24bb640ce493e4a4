"""A2Net: find when actions happen in long sequences of feature vectors.

A command does what its mode says, with settings from flags and from files of flags:

    python -m a2net_tf.main --flagfile=configs/quickstart.flags --mode=MODE

``a2net`` is the same command, where the package is installed.
"""

import contextlib
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence

from a2net_tf import settings
from a2net_tf.errors import UserError, one_line
from a2net_tf.native_logs import quiet_native_logs, without_garbage_collection


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if os.environ.pop("A2NET_TF_ENDS_WITH_STDIN", ""):  # a run of modes/jobs
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        with _terminated_as_interrupted(), _no_interrupt_lost():
            return _run(arguments)
    except UserError as error:
        _print_error(one_line(error))
        return 1
    except KeyboardInterrupt as stopped:
        print("stopped; the same command goes on with what is not finished", file=sys.stderr)
        return 128 + _signal_of(stopped)  # as shells count
    except Exception as error:  # a defect of ours; whoever meets it gets one line too
        _print_error(f"{one_line(f'{type(error).__name__}: {error}')[:300]} (not expected; {_keep_traceback()})")
        return 1


def _run(arguments: Sequence[str]) -> int:
    help_text = settings.help_asked_for(__doc__, arguments)
    if help_text is not None:
        sys.stdout.write(help_text)
        return 0
    config, given = settings.parse(arguments)
    with quiet_native_logs(), without_garbage_collection():
        from a2net_tf.modes import command
    command.run(config, given)
    return 0


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, by which schedulers end a job, ends this block as Ctrl-C does: with files in order and one line."""

    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    usual = (
        threading.current_thread() is threading.main_thread()  # Python allows it nowhere else
        and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )
    if usual:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if usual:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _signal_of(stopped: BaseException) -> int:
    return stopped.args[0] if stopped.args else signal.SIGINT


@contextlib.contextmanager
def _no_interrupt_lost() -> Iterator[None]:
    """Sends a signal again whose exception came where Python ignores exceptions.

    That is in a destructor, or in a callback of the garbage collector: JAX, which TensorFlow imports where it is
    installed, has one that runs many times in the first epoch.
    """
    usual = sys.unraisablehook

    def again(unraisable):
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            # A moment later: at once it would come in the same place.
            threading.Timer(0.1, os.kill, (os.getpid(), _signal_of(unraisable.exc_value))).start()
        else:
            usual(unraisable)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = usual


def _end_with_stdin() -> None:
    """Ends this process when the other end of its standard input is closed, as happens however its owner ends.

    At once: what is being written is left behind as after any kill, whole or not at all.
    """
    while os.read(0, 4096):
        pass
    os.write(2, b"error: the command that started this run has ended\n")
    os._exit(1)


def _print_error(text: str) -> None:
    """A terminal that has not all letters shows escapes for the others."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    print(f"error: {text}".encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


def _keep_traceback() -> str:
    """Writes the traceback of the exception at hand to a file; returns the words that say where."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="a2net_tf_", suffix=".txt", delete=False, errors="replace"
        ) as file:
            traceback.print_exc(file=file)
    except OSError:
        traceback.print_exc()
        return "the traceback is above"
    return f"the traceback is in {file.name}"


if __name__ == "__main__":
    sys.exit(main())

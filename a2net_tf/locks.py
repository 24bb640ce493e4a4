"""One command at a time where two would destroy each other's work. Pure.

A lock is a file that its holder keeps locked, with a line in it that says who that is. The system opens the lock when
the holder ends, however it ends: a file that a killed process, or a machine without power, has left locks nothing.
"""

import contextlib
import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Iterator

from a2net_tf.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_LONGEST_COMMAND = 300  # letters
_SECONDS_TO_END = 1.0  # a process that was killed has its files open for a moment more


@contextlib.contextmanager
def hold(path: str | os.PathLike, what: str, *, wait: bool = False) -> Iterator[None]:
    """Only one process, on whatever machine, is in this block for a path. Systems without such locks go on without.

    Args:
        path: of the lock. It is there during the block only, and so is its folder if that is made for it.
        what: that is locked, for messages.
        wait: for the end of another's block, after a line that says whose; else that is refused.

    Raises:
        UserError: another process is in its block, or the file cannot be written.
    """
    if fcntl is None:
        yield
        return
    path = pathlib.Path(path)
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        handle = _take(path, what, wait=wait)
    except OSError as error:
        raise UserError(f"{what}: cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        _remove(path, made)
        os.close(handle)


def _take(path: pathlib.Path, what: str, *, wait: bool) -> int:
    """The open and locked file, once it is the one that is found under ``path``."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the last holder has just removed the folder that it had made
            continue
        try:
            _lock(handle, what, wait=wait)
            if _is_at(handle, path):  # else the holder that this one waited for has removed it
                os.truncate(handle, 0)
                os.pwrite(handle, _own_description().encode(errors="backslashreplace"), 0)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, what: str, *, wait: bool) -> None:
    """Locks an open file, or says who has."""
    end = time.monotonic() + _SECONDS_TO_END
    try:
        while not _try(handle) and time.monotonic() < end:
            time.sleep(0.02)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 4096, 0).decode(errors="replace").strip() or "another process"
        if not wait:
            raise UserError(f"{what}: in use by {holder}; wait for its end, or stop it") from None
        print(f"{what}: in use by {holder}; waiting for its end", flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:  # some network file systems
        print(f"{what}: no locks on this file system ({error.strerror}): start no second command for it", flush=True)


def _try(handle: int) -> bool:
    """Whether this process has locked the file now."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(handle: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _own_description() -> str:
    command = " ".join(shlex.join(sys.orig_argv).split())
    if len(command) > _LONGEST_COMMAND:
        command = f"{command[:_LONGEST_COMMAND]} ..."
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return f"process {os.getpid()} on {platform.node()} since {since} ({command})"


def _remove(path: pathlib.Path, folders: list[pathlib.Path]) -> None:
    """Removes the file, while it is locked still, and those folders that hold nothing."""
    with contextlib.suppress(OSError):
        path.unlink()
        for folder in folders:
            folder.rmdir()

"""What is asked of the disk itself: that something has reached it, that two names are swapped, how much fits. Pure."""

import contextlib
import ctypes
import errno
import os
import pathlib
import shutil

from a2net_tf.errors import UserError

Path = str | os.PathLike


def is_full(error: BaseException) -> bool:
    """Whether an error, of whatever library, says that the disk, a quota or a file can hold no more."""
    text = str(error).lower()
    return any(words in text for words in ("no space left", "quota exceeded", "file too large"))


def sync_below(path: Path) -> None:
    """Brings a file, or a folder with all that is in it, to the disk: else a power cut may leave names without content.

    Raises:
        OSError: the disk is full or broken.
    """
    for folder, _, names in os.walk(path):
        for name in names:
            _sync_file(os.path.join(folder, name))
        sync_names(folder)
    if not os.path.isdir(path):
        _sync_file(path)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_names(folder: Path) -> None:
    """Brings the names in a folder to the disk: without it a new name may be gone after a power cut."""
    with contextlib.suppress(OSError):  # a folder cannot be opened on Windows
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def swap(first: Path, second: Path) -> None:
    """Swaps two names in one step, by a call of Linux that Python does not offer.

    Raises:
        OSError: it cannot be done, here or on this file system.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    from_current_folder, exchange_both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if renameat2(from_current_folder, os.fsencode(first), from_current_folder, os.fsencode(second), exchange_both):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it, if it is there and can be removed."""
    path = pathlib.Path(path)
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink()


def check_free(folder: Path, num_bytes: int, what: str) -> None:
    """Refuses what the disk cannot hold.

    Args:
        folder: that is to be written to; it exists.
        num_bytes: to be written.
        what: takes them, for the message.

    Raises:
        UserError: less is free.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise UserError(
            f"{folder}: {free / 1e6:.1f} MB are free on this disk, but {what} need {num_bytes / 1e6:.1f} MB"
        )

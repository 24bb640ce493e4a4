"""The one entrance of numpy's .npy and .npz files. Objects in them are refused: loading those can run any code."""

import contextlib
import pathlib
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from a2net_tf.errors import UserError

_DAMAGED = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)


def map_array(file: pathlib.Path) -> np.ndarray:
    """The array of a .npy file, mapped, not loaded: its parts come into memory when they are looked at.

    Raises:
        UserError: missing or damaged, or no .npy file.
    """
    with contextlib.suppress(*_DAMAGED):  # np.load says better what is wrong
        return np.lib.format.open_memmap(file, mode="r")
    try:
        with file.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
    except _DAMAGED as error:
        raise UserError(f"{file}: not a readable .npy array ({_explain(error)})") from None
    if not isinstance(loaded, np.ndarray):
        raise UserError(f"{file}: not a readable .npy array (it is an .npz archive: save its matrix with np.save)")
    return loaded


def read_arrays(
    file: pathlib.Path, keys: Sequence[str] | None = None, *, only_one: bool = False
) -> dict[str, np.ndarray]:
    """The arrays of a .npz file.

    Args:
        file: the file.
        keys: names of the arrays; None: all.
        only_one: a file's only array may have any name.

    Raises:
        UserError: missing or damaged, no .npz file, or without one of ``keys``.
    """
    try:
        with file.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is a single .npy array: save it with np.savez")
            members = archive.files
            keys = members if keys is None or (only_one and len(members) == 1) else keys
            arrays = {key: archive[key] for key in keys if key in members}
    except _DAMAGED as error:
        raise UserError(f"{file}: not a readable .npz file ({_explain(error)})") from None
    for key in keys:
        if key not in arrays:
            raise UserError(f"{file}: no array named '{key}', found {', '.join(members) or 'none'}")
    return arrays


def _explain(error: Exception) -> str:
    """What numpy said; of pickled objects it would advise to load them in spite of the danger."""
    if "pickle" not in str(error):
        return str(error)
    return "it holds Python objects, and allow_pickle is off because loading those can run any code: save numbers only"

"""The one entrance of numpy's .npy and .npz files. Objects in them are refused: loading those can run any code."""

import contextlib
import math
import pathlib
import zipfile
from collections.abc import Iterable, Sequence
from typing import BinaryIO

import numpy as np

from a2net_tf.errors import UserError, reason_of

_LARGE = 2**30  # bytes of an unpacked array, from which on it is looked at twice
_MOST_PACKED = 100  # times that numbers are packed; constant ones reach 1000


def map_array(file: pathlib.Path) -> np.ndarray:
    """The array of a .npy file, mapped, not loaded: its parts come into memory when they are looked at.

    Raises:
        UserError: missing or damaged, or no .npy file.
    """
    with contextlib.suppress(Exception):  # np.load says better what is wrong
        return np.lib.format.open_memmap(file, mode="r")
    try:
        with file.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
    except Exception as error:  # numpy's reader of headers lets through whatever Python's parser raises
        raise UserError(f"{file}: not a readable .npy array ({_explain(error, file)})") from None
    if not isinstance(loaded, np.ndarray):
        raise UserError(f"{file}: not a readable .npy array (it is an .npz archive: save its matrix with np.save)")
    return loaded


def write_rows(file: pathlib.Path, parts: Iterable[np.ndarray], num_columns: int, dtype: np.dtype) -> int:
    """Writes a matrix as .npy whose rows come part by part, of which one is in memory at a time.

    Args:
        file: to write; what is there is lost.
        parts: numbers [N, num_columns] each, of any N.
        num_columns: D.
        dtype: to write them in.

    Returns:
        T, how many rows there were.
    """
    with file.open("wb") as stream:
        _write_header(stream, 0, num_columns, dtype)
        begin, rows = stream.tell(), 0
        for part in parts:
            if part.shape[1:] != (num_columns,):
                raise ValueError(f"{part.shape}: expected rows of {num_columns}")
            stream.write(np.ascontiguousarray(part, dtype).data)
            rows += len(part)
        stream.seek(0)
        _write_header(stream, rows, num_columns, dtype)
        if stream.tell() != begin:  # numpy leaves room for any number of rows
            raise ValueError(f"the header of {rows} rows is longer than that of none")
    return rows


def _write_header(stream: BinaryIO, rows: int, num_columns: int, dtype: np.dtype) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
    np.lib.format.write_array_header_1_0(stream, {**described, "shape": (rows, num_columns)})


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
            for key in keys:
                if key in members:
                    _check_size(archive.zip, key)
            arrays = {key: archive[key] for key in keys if key in members}
    except Exception as error:
        raise UserError(f"{file}: not a readable .npz file ({_explain(error, file)})") from None
    for key in keys:
        if key not in arrays:
            raise UserError(f"{file}: no array named '{key}', found {', '.join(members) or 'none'}")
    return arrays


def _check_size(archive: zipfile.ZipFile, key: str) -> None:
    """Raises ValueError if an array would be larger than what is packed, or is packed as no measurements can be."""
    entry = archive.getinfo(f"{key}.npy" if f"{key}.npy" in archive.namelist() else key)
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        packed = entry.file_size - stream.tell()
    declared = math.prod(shape) * dtype.itemsize
    if declared != packed and not dtype.hasobject:  # what is not read to its end is not compared with its checksum
        raise ValueError(f"'{key}' declares {declared} bytes, but {packed} are packed")
    if declared > _LARGE and declared > _MOST_PACKED * entry.compress_size:
        raise ValueError(f"'{key}' would unpack to {declared / 2**30:.1f} GiB from {entry.compress_size} bytes")


def _explain(error: Exception, file: pathlib.Path) -> str:
    """What numpy said; of pickled objects it would advise to load them in spite of the danger."""
    if "pickle" not in str(error):
        return reason_of(error)
    with file.open("rb") as stream:  # numpy takes whatever it does not know for pickled objects
        if not stream.read(6).startswith((b"\x93NUMPY", b"PK", b"\x80")):
            return "numpy has not written it: save a matrix with np.save, or name a text with commas .csv"
    return "it holds Python objects, and allow_pickle is off because loading those can run any code: save numbers only"

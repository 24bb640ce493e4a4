"""Weights in files of ``torch.save``, read without PyTorch and without running anything that a file brings along.

Such a file is a pickle, and a pickle is a program. This reader allows it only the few calls that a dict of tensors
needs, each replaced by a function of this file.

    until PyTorch 1.5   pickles one after the other (magic number, protocol, system, the object, names of its
                        storages), then each storage: its length as i64, its numbers
    since then          a zip archive with ``data.pkl``, and a file ``data/NAME`` for each storage
"""

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from a2net_tf.errors import UserError, reason_of

_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


class _Storage(NamedTuple):
    """Numbers that tensors of the file look into."""

    name: str
    dtype: np.dtype
    length: int


class _Tensor(NamedTuple):
    """A tensor whose numbers have not been read yet: in old files they come after it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_tensors(path: str) -> dict[str, np.ndarray]:
    """The tensors of a dict that ``torch.save`` wrote, by name; what else is in it is left out.

    Raises:
        UserError: not there, damaged, not such a file, or it would have to run code.
    """
    try:
        with open(path, "rb") as file:
            read = _read_zip if zipfile.is_zipfile(file) else _read_old
            file.seek(0)
            loaded, numbers = read(file)
            named = {key: value for key, value in loaded.items() if isinstance(value, _Tensor)}
            tensors = {str(name): _to_array(tensor, numbers) for name, tensor in named.items()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except _Refused as error:
        raise UserError(
            f"{path}: refused: it holds more than tensors ({error}), and reading that would run code that the file "
            "brings along"
        ) from None
    except Exception as error:  # a damaged pickle makes Python raise anything
        raise UserError(f"{path}: damaged, or no file of weights of PyTorch ({reason_of(error)})") from None
    if not tensors:
        raise UserError(f"{path}: no tensors in it; expected a dict of them, torch.save(model.state_dict(), FILE)")
    return tensors


class _Refused(Exception):
    """What a file asks for by name is none of what tensors need."""


class _Unpickler(pickle.Unpickler):
    """Finds nothing but what a dict of tensors is made of."""

    def find_class(self, module: str, name: str) -> Any:
        """A function or a type in the place of what the file names."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module in ("torch", "torch.storage") and name in _TYPES:
            return _TYPES[name]
        raise _Refused(f"{module}.{name}"[:80])

    def persistent_load(self, described: Any) -> _Storage:
        """The storage that is described as ("storage", type, name, device, length), with a view of it in old files."""
        kind, dtype, name, _, length, *view = described
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(part is not None for part in view):
            raise ValueError(f"an unknown kind of storage: {described!r}"[:120])
        return _Storage(str(name), dtype, int(length))


def _rebuild_tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


Numbers = Callable[[_Storage], np.ndarray]


def _read_zip(file: BinaryIO) -> tuple[dict, Numbers]:
    archive = zipfile.ZipFile(file)
    (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    loaded = _Unpickler(io.BytesIO(archive.read(pickled))).load()
    return loaded, lambda storage: np.frombuffer(archive.read(f"{folder}data/{storage.name}"), storage.dtype)


def _read_old(file: BinaryIO) -> tuple[dict, Numbers]:
    if _Unpickler(file).load() != _MAGIC:
        raise ValueError("it does not begin as one")
    _Unpickler(file).load()  # the protocol
    if _Unpickler(file).load().get("little_endian") is not True:
        raise ValueError("its numbers begin with the highest byte")
    loaded = _Unpickler(file).load()
    dtypes = {t.storage.name: t.storage.dtype for t in loaded.values() if isinstance(t, _Tensor)}
    arrays = {}
    for name in _Unpickler(file).load():
        length = int.from_bytes(file.read(8), "little")
        dtype = dtypes[str(name)]
        arrays[str(name)] = np.frombuffer(file.read(length * dtype.itemsize), dtype)
    return loaded, lambda storage: arrays[storage.name]


def _to_array(tensor: _Tensor, numbers: Numbers) -> np.ndarray:
    values = numbers(tensor.storage)
    if len(values) != tensor.storage.length:
        raise ValueError(f"{tensor.storage.length} numbers expected, {len(values)} found")
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if math.prod(tensor.shape) and not 0 <= tensor.offset <= last < len(values):
        raise ValueError("a tensor reaches beyond its numbers")
    strides = [step * values.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides, writeable=False).copy()

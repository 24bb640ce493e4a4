"""Files that users bring along: feature arrays and the settings of a folder. Numpy only.

Shared by the dataset folders whose features cannot be downloaded (``thumos14``, ``activitynet13``, ``feature_folder``).
"""

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

import numpy as np

from a2net_tf import safe_files
from a2net_tf.data.files import array_files
from a2net_tf.errors import UserError, list_some

SETTINGS_FILE = "settings.json"
FEATURE_SUFFIXES = (".npy", ".npz", ".csv")
ANNOTATION_SUFFIXES = (".json", ".csv", ".tsv", ".eaf", ".textgrid", ".txt", ".vtt", ".srt")  # in any case of letters

Settings = TypeVar("Settings")


# Settings


def read_settings(folder: pathlib.Path, defaults: Settings) -> Settings:
    """``defaults`` (a frozen dataclass) with the values of ``folder``/settings.json in their place, if there is one."""
    file = folder / SETTINGS_FILE
    return with_values(defaults, safe_files.read_json_object(file), str(file)) if file.exists() else defaults


def with_values(settings: Settings, values: dict[str, Any], where: str) -> Settings:
    """``settings`` (a frozen dataclass) with ``values`` of a JSON file.

    Raises:
        UserError: names ``where`` and the key that is unknown or has a value of another type.
    """
    known = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    for key in values:
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'; known are {', '.join(known)}")
    typed = {key: _as_type_of(known[key], value, f"{where}: '{key}'") for key, value in values.items()}
    return dataclasses.replace(settings, **typed)


def _as_type_of(default: Any, value: Any, where: str) -> Any:
    """``value`` of a JSON file with the type of ``default``; whole numbers may stand for others, lists for tuples."""
    if isinstance(default, tuple) and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if isinstance(default, float) and type(value) in (int, float):
        return float(value)
    if type(value) is type(default):
        return value
    names = {
        tuple: "a list of texts",
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "a text",
        dict: "an object",
    }
    raise UserError(f"{where} must be {names[type(default)]}, found {json.dumps(value)}")


def check_choice(value: str, choices: Sequence[str], where: str) -> None:
    """Raises UserError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise UserError(f"{where} must be one of {', '.join(choices)}, found '{value}'")


# Reading


def read_features(file: pathlib.Path, key: str = "features") -> np.ndarray:
    """The array of a .npy file, of a .npz file (``key``, or its only array) or of a .csv file, as it is stored.

    A .npy file is mapped, not loaded.

    Raises:
        UserError: damaged, or a .npz file with several arrays none of which is named ``key``.
    """
    if file.suffix == ".csv":
        return read_csv(file)
    if file.suffix == ".npz":
        return next(iter(array_files.read_arrays(file, [key], only_one=True).values()))
    return array_files.map_array(file)


def read_csv(file: pathlib.Path) -> np.ndarray:
    """f32[rows, columns] of numbers between commas, semicolons or tabs, with or without a header row.

    Lines that are empty or begin with # are passed over. Between semicolons or tabs numbers may have decimal commas. A
    first column without a name that counts the rows (the index that pandas writes) is left out.

    Raises:
        UserError: names the line with an empty cell, another number of cells, or no number; or the first row, where it
            may be a header of numbers.
    """
    lines = [
        (number, line)
        for number, line in enumerate(safe_files.read_text(file).split("\n"), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise UserError(f"{file}: no rows of numbers")
    separator = next((c for c in "\t;" if c in lines[0][1]), ",")
    rows = [(number, [cell.strip().strip('"') for cell in line.split(separator)]) for number, line in lines]
    header = None if all(_number(cell, separator) is not None for cell in rows[0][1]) else rows.pop(0)[1]
    if not rows:
        raise UserError(f"{file}: no rows of numbers")
    matrix = _to_matrix(file, rows, separator, header or rows[0][1])
    if header is None:
        _refuse_counting_header(file, matrix)
        return matrix
    if header[0].lower() in ("", "unnamed: 0", "index"):
        return _without_index(file, matrix)
    return matrix


def _to_matrix(
    file: pathlib.Path, rows: Sequence[tuple[int, list[str]]], separator: str, first: Sequence[str]
) -> np.ndarray:
    matrix = np.empty((len(rows), len(first)), np.float32)
    for row, (number, cells) in enumerate(rows):
        if len(cells) != len(first):
            raise UserError(f"{file}, line {number}: {len(cells)} cells, but the first line has {len(first)}")
        values = [_number(cell, separator) for cell in cells]
        if None in values:
            column = values.index(None)
            found = cells[column][:40]
            raise UserError(f"{file}, line {number}: expected a number in column {column + 1}, found {found!r}")
        with np.errstate(over="ignore"):  # what float32 cannot hold is found where values are checked
            matrix[row] = values
    return matrix


def _number(cell: str, separator: str) -> float | None:
    """What a cell says; None if it is no number."""
    try:
        return float(cell if separator == "," else cell.replace(",", "."))
    except ValueError:
        return None


def _refuse_counting_header(file: pathlib.Path, matrix: np.ndarray) -> None:
    """A first row 0, 1, 2, ... is what pandas writes where columns have no names; as a vector it shifts all others."""
    columns = matrix.shape[1]
    if columns > 1 and np.array_equal(matrix[0], np.arange(columns)):
        raise UserError(
            f"{file}: the first row is 0 to {columns - 1}: a header of numbers, as pandas writes it? Write the file "
            "with header=False, or give the columns names"
        )


def _without_index(file: pathlib.Path, matrix: np.ndarray) -> np.ndarray:
    if matrix.shape[1] < 2 or not np.array_equal(matrix[:, 0], np.arange(len(matrix))):
        raise UserError(
            f"{file}: the first column has no name and does not count the rows; is it an index or a feature?"
        )
    return matrix[:, 1:]


def find_num_features(files: Sequence[pathlib.Path]) -> int:
    """D: the columns of the first of ``files``, which the second must share (the others are checked when stored).

    It is 0 if there are no files.

    Raises:
        UserError: not matrices, or they differ.
    """
    shapes = [read_features(file).shape for file in files[:2]]
    for file, shape in zip(files, shapes, strict=False):
        if len(shape) != 2:
            raise UserError(f"{file}: expected a matrix [steps, features], found shape {list(shape)}")
    if len({columns for _, columns in shapes}) > 1:
        (rows, columns), (other_rows, other_columns) = shapes
        transposed = rows in (other_rows, other_columns) or columns == other_rows  # both of them, or one
        raise UserError(
            f"{files[1]}: {other_columns} values per step, but {files[0].name} has {columns}"
            + ("; are the matrices transposed? They must be [steps, features]" if transposed else "")
        )
    return shapes[0][1] if shapes else 0


def find_feature_files(folder: pathlib.Path, suffixes: Sequence[str] = FEATURE_SUFFIXES) -> dict[str, pathlib.Path]:
    """Feature files in ``folder`` and the folders in it, by their names without suffix.

    Raises:
        UserError: two files have the same name.
    """
    by_name = {}
    for file in list_files(folder, suffixes):
        if file.stem in by_name:
            raise UserError(f"{file}: {by_name[file.stem]} is there as well; which of them are the features?")
        by_name[file.stem] = file
    return by_name


def describe_files(folder: pathlib.Path) -> str:
    """For messages: how many files of which kinds ``list_files`` finds in ``folder``, with an example of each."""
    if not folder.is_dir():
        return "no such folder"
    by_suffix = collections.defaultdict(list)
    for file in list_files(folder):
        by_suffix[file.suffix].append(file.relative_to(folder).as_posix())
    kinds = [f"{len(names)} {suffix or 'without a suffix'} (such as {names[0]})" for suffix, names in by_suffix.items()]
    return list_some(kinds, 5) or "an empty folder"


def list_files(folder: pathlib.Path, suffixes: Collection[str] | None = None) -> list[pathlib.Path]:
    """Files in ``folder`` and the folders in it, sorted; hidden ones are left out, linked folders are entered.

    Without ``suffixes``, files of any.
    """
    files, entered = [], set()
    for path, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        if real in entered:  # a link to a folder above it would go round and round
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [pathlib.Path(path, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if suffixes is None or file.suffix in suffixes)


# Features


def resize_linear(features: np.ndarray, num_steps: int) -> np.ndarray:
    """Resamples a sequence to ``num_steps`` vectors that share the same time, by linear interpolation.

    A vector stands for a *stretch* of time, its value for the middle: new step i, whose middle is at (i + 0.5) / N of
    the sequence, is read between the middles of the old steps. (Image libraries call this half-pixel centres, or
    ``align_corners=False``. Their other convention makes the first and last vectors fall together and so shifts
    everything between by up to half a step.) Before the first and after the last middle the vector there is repeated.
    There is no smoothing when the sequence gets shorter.

    Args:
        features: f[T, D], T >= 1.
        num_steps: N >= 1.

    Returns:
        f32[N, D].
    """
    if num_steps < 1 or len(features) < 1:
        raise ValueError(f"cannot resize {len(features)} steps to {num_steps}")
    features = np.asarray(features, np.float32)
    position = (np.arange(num_steps) + 0.5) * len(features) / num_steps - 0.5
    position = np.clip(position, 0, len(features) - 1)
    before = np.floor(position).astype(np.int64)
    after = np.minimum(before + 1, len(features) - 1)
    share = (position - before).astype(np.float32)[:, None]
    return features[before] * (1 - share) + features[after] * share

"""The texts of the THUMOS14 challenge: its list of classes, and annotations by class.

    detclasslist.txt                     lines ``7 BaseballPitch``: the challenge's number of a class, and its name
    BaseballPitch_val.txt, ..._test.txt  lines ``video start end`` in seconds, one text for each class
    Ambiguous_val.txt, Ambiguous_test.txt  the same: stretches where detections are not judged

Nothing here knows the challenge's own classes and videos, so that own data may be written in this format as well.
"""

import math
import pathlib
from collections.abc import Collection, Iterator
from typing import NamedTuple

from a2net_tf.errors import UserError
from a2net_tf.safe_files import Path, check_file_name, read_text

CLASS_LIST = "detclasslist.txt"
AMBIGUOUS = "Ambiguous"
SUBSETS = {"validation": "val", "test": "test"}  # subset -> as in the names of files
_HINT = "copied only in part?"


class Row(NamedTuple):
    """A row of an annotation text."""

    start_seconds: float
    end_seconds: float
    label: str  # a class, or AMBIGUOUS
    video: str
    where: str  # file and line


def find_folder(path: Path, suffix: str) -> pathlib.Path:
    """The folder with the class list and the texts of ``suffix`` ("val" or "test"): ``path``, or up to three below it.

    Raises:
        UserError: there is none.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected the THUMOS14 annotations ({CLASS_LIST} and so on)")
    for depth in range(4):
        for class_list in sorted(path.glob("*/" * depth + CLASS_LIST)):
            if any(class_list.parent.glob(f"*_{suffix}.txt")):
                return class_list.parent
    raise UserError(f"{path}: holds no THUMOS14 annotations of this subset ({CLASS_LIST} and CLASS_{suffix}.txt)")


def read_class_list(folder: pathlib.Path) -> dict[str, int]:
    """The challenge's number of each class, in the order of the list.

    Raises:
        UserError: names the line that is malformed, repeats a name or a number, or whose name leads out of the folder.
    """
    numbers: dict[str, int] = {}
    for where, (number, name) in read_fields(folder / CLASS_LIST, "number name", hint=_HINT):
        class_number = whole_number(number, f"{where}: number")
        check_file_name(name, f"{where}: name")  # its texts are opened by it
        if name in numbers or class_number in numbers.values():
            raise UserError(f"{where}: {number} {name}: this name or this number is there already")
        numbers[name] = class_number
    return numbers


def read_annotations(folder: pathlib.Path, suffix: str, class_names: Collection[str]) -> list[Row]:
    """The rows of all classes, in the order of ``class_names`` and of the lines; then those of Ambiguous.

    Args:
        folder: with the texts.
        suffix: "val" or "test".
        class_names: of ``read_class_list``, in its order.

    Raises:
        UserError: names the text that is missing or is of no such class, or its line that is wrong.
    """
    labels = [*class_names, AMBIGUOUS]
    for file in sorted(folder.glob(f"*_{suffix}.txt")):
        label = file.name.removesuffix(f"_{suffix}.txt")
        if label not in labels:
            raise UserError(f"{file}: '{label}' is none of the {len(class_names)} classes of {CLASS_LIST}")
    return [row for label in labels for row in _read_rows(folder / f"{label}_{suffix}.txt", label)]


def _read_rows(file: pathlib.Path, label: str) -> Iterator[Row]:
    """The rows of one text; raises UserError naming the line that is malformed, reversed or there twice."""
    seen: dict[tuple[str, ...], int] = {}
    rows = read_fields(file, "video start end", unit=" in seconds", hint=_HINT)
    for number, (where, fields) in enumerate(rows, start=1):
        video, start, end = fields
        row = Row(finite_number(start, f"{where}: start"), finite_number(end, f"{where}: end"), label, video, where)
        if not 0 <= row.start_seconds < row.end_seconds < math.inf:
            raise UserError(f"{where}: from {start} to {end} s, expected 0 <= start < end (reversed?)")
        if tuple(fields) in seen:
            raise UserError(f"{where}: the same as line {seen[tuple(fields)]}")
        seen[tuple(fields)] = number
        yield row


def read_fields(path: Path, names: str, *, unit: str = "", hint: str = "") -> Iterator[tuple[str, list[str]]]:
    """("FILE, line N", the fields) of each line of a text; empty lines may only stand at its end.

    Args:
        path: the text.
        names: of the fields that a line must have.
        unit: for the message about them.
        hint: for the message if there is no such file.

    Raises:
        UserError: names the line with more or fewer fields.
    """
    for number, line in enumerate(read_text(path, hint=hint).rstrip().splitlines(), start=1):
        fields = line.split()
        if len(fields) != len(names.split()):
            raise UserError(f"{path}, line {number}: expected '{names}'{unit}, found '{line.strip()[:80]}'")
        yield f"{path}, line {number}", fields


def finite_number(text: str, where: str) -> float:
    """The number that ``text`` says; raises UserError if it says none, or one that is not finite."""
    try:
        number = float(text)
    except ValueError:
        raise UserError(f"{where}: expected a number, found '{text[:40]}'") from None
    if not math.isfinite(number):
        raise UserError(f"{where}: expected a finite number, found '{text[:40]}'")
    return number


def whole_number(text: str, where: str) -> int:
    """The same for a whole number."""
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{where}: expected a whole number, found '{text[:40]}'") from None

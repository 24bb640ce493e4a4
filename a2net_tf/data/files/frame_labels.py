"""Labels of every step of a recording, in files and as segments, and back."""

import pathlib
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from a2net_tf import safe_files
from a2net_tf.data.labels import check_label
from a2net_tf.errors import UserError, list_some


class Run(NamedTuple):
    """A stretch of steps with one label; the end is the first step after it."""

    start: int
    end: int
    label: int


def runs(labels: np.ndarray) -> list[Run]:
    """The stretches of equal labels i64[T], one after the other: together they are all T steps."""
    labels = np.asarray(labels)
    if not len(labels):
        return []
    starts = np.concatenate([[0], np.flatnonzero(labels[1:] != labels[:-1]) + 1])
    ends = np.concatenate([starts[1:], [len(labels)]])
    return [Run(*row) for row in zip(starts.tolist(), ends.tolist(), labels[starts].tolist(), strict=True)]


# Labels that are no action in the datasets of this layout; none of them has another one as an action.
BACKGROUND = ("background", "SIL", "action_start", "action_end")
_BUNDLE = re.compile(r"(train|val|test)\.split(\d+)\.bundle")


def find_labels(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The files of labels by name of the recording; raises UserError if there are none."""
    files = {file.stem: file for file in sorted((folder / "groundTruth").glob("*.txt"))}
    if not files:
        raise UserError(f"{folder / 'groundTruth'}: no .txt files; expected NAME.txt with a label on each line")
    return files


def find_bundles(folder: pathlib.Path, known: Collection[str]) -> dict[str, tuple[str, list[str]]]:
    """{split: (its number, names of its recordings)} of splits/*.bundle, the numbers in order.

    Raises:
        UserError: there are none, or one names a recording that is not in ``known``.
    """
    found = {}
    for file in (folder / "splits").glob("*.bundle"):
        if match := _BUNDLE.fullmatch(file.name):
            subset, number = match.groups()
            found[f"{subset}_split{number}"] = (number, read_bundle(file, known))
    if not found:
        raise UserError(f"{folder / 'splits'}: no bundles; expected train.split1.bundle, test.split1.bundle and so on")
    return dict(sorted(found.items(), key=lambda item: (int(item[1][0]), item[0])))


def read_mapping(file: pathlib.Path) -> list[str]:
    """The labels of mapping.txt, ``NUMBER LABEL`` on each line, in the order of their numbers.

    Raises:
        UserError: a line that is none, a number or a label twice, a label that a dataset could not keep.
    """
    labels: dict[int, str] = {}
    for where, line in _lines(file):
        number, _, label = line.partition(" ")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise UserError(f"{where}: expected NUMBER LABEL, found '{line[:80]}'")
        label = check_label(label, where)
        if int(number) in labels or label in labels.values():
            raise UserError(f"{where}: '{line[:80]}': this number or this label was there before")
        labels[int(number)] = label
    if not labels:
        raise UserError(f"{file}: no labels")
    return [labels[number] for number in sorted(labels)]


def read_labels(file: pathlib.Path, names: Sequence[str]) -> np.ndarray:
    """i64[T]: the label of each step, by its place in ``names``, from a file with one on each line.

    Raises:
        UserError: the file is empty, has an empty line, or a label that is not in ``names``.
    """
    numbers = {name: number for number, name in enumerate(names)}
    lines = list(_lines(file))
    for where, line in lines:
        if line not in numbers:
            raise UserError(f"{where}: the label '{line[:80]}' is none of mapping.txt: {list_some(names)}")
    if not lines:
        raise UserError(f"{file}: no labels; expected one on each line")
    return np.array([numbers[line] for _, line in lines], np.int64)


def read_bundle(file: pathlib.Path, known: Collection[str]) -> list[str]:
    """The names of the recordings of a split: a file name on each line, of which the ending does not matter.

    Raises:
        UserError: no names, one twice, or one that is not in ``known``.
    """
    names: list[str] = []
    for where, line in _lines(file):
        name = pathlib.PurePosixPath(line).name.removesuffix(".txt")
        if name in names:
            raise UserError(f"{where}: '{name}' was there before")
        if name not in known:
            raise UserError(f"{where}: no labels for '{name}'; looked for groundTruth/{name}.txt")
        names.append(name)
    if not names:
        raise UserError(f"{file}: no recordings; expected the name of a file on each line")
    return names


def _lines(file: pathlib.Path) -> list[tuple[str, str]]:
    """Where each line stands, and the line without blanks around it; an empty last line is none."""
    lines = [line.strip() for line in safe_files.read_text(file).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not line:
            raise UserError(f"{file}, line {number}: empty")
    return [(f"{file}, line {number}", line) for number, line in enumerate(lines, start=1)]

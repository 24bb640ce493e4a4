"""Plain texts with a line per label: label tracks of Audacity, and a label for every frame."""

import re

import numpy as np

from a2net_tf.annotations.marks import Mark, Recording
from a2net_tf.annotations.reading import Reading, example
from a2net_tf.annotations.texts import parse_seconds
from a2net_tf.data.files.frame_labels import runs
from a2net_tf.errors import UserError

_TRACK_LINE = re.compile(r"[-+]?[\d.,:]+\t[-+]?[\d.,:]+(\t.*)?|\\\t.*")


def is_label_track(text: str) -> bool:
    """Whether every line is START, END and LABEL between tabs."""
    lines = [line for line in text.split("\n") if line.strip()]
    return bool(lines) and all(_TRACK_LINE.fullmatch(line) for line in lines)


def read_label_track(text: str, reading: Reading, path: str, *, own_name: str) -> list[Recording]:
    """The recording of a label track: START, END and LABEL between tabs; equal times are an event without a length.

    Lines that begin with a backslash, with the frequencies of the label before them, are passed over; so are labels
    without a text.
    """
    recording = Recording(own_name, path)
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path}, line {number}"
        start, *rest = line.split("\t", 2)
        if not line.strip() or start == "\\":
            continue
        if len(rest) < 1:
            raise UserError(f"{where}: expected START, END and LABEL between tabs, found {line[:80]!r}")
        if len(rest) == 2 and rest[1].strip():
            times = parse_seconds(start, reading, where), parse_seconds(rest[0], reading, where)
            recording.marks.append(Mark(*times, rest[1], where))
    return [recording]


def read_frame_labels(text: str, reading: Reading, path: str, *, own_name: str) -> list[Recording]:
    """The recording of a file with a label on each line, one for each frame: runs of a label are actions.

    Raises:
        UserError: no rate is given, or a line is empty.
    """
    if not reading.rate:
        raise UserError(f"{path}: a label on each line; say how many a second has: {example('rate', 25)}")
    labels = [line.strip() for line in text.rstrip("\n").split("\n")]
    if "" in labels:
        raise UserError(f"{path}, line {labels.index('') + 1}: empty; expected the label of a frame")
    names, numbers = np.unique(labels, return_inverse=True)
    recording = Recording(own_name, path, duration=len(labels) / reading.rate)
    for run in runs(numbers):
        label = str(names[run.label])
        if label not in reading.background:
            where = f"{path}, line {run.start + 1}"
            recording.marks.append(Mark(run.start / reading.rate, run.end / reading.rate, label, where))
    return [recording]

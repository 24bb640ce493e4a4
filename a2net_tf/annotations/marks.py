"""What people (or detectors) have marked in recordings, as the tools' files say it, and the rules that all share."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from a2net_tf.annotations.reading import Reading, example
from a2net_tf.data.files.annotation_files import Entry, LabelledSegment, check_order
from a2net_tf.data.labels import check_label
from a2net_tf.errors import UserError

# Of videos, sound and features: a recording is known by its name without them.
MEDIA_ENDINGS = (
    *(".mp4", ".mkv", ".avi", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".ogv", ".mts", ".3gp"),
    *(".wav", ".mp3", ".flac", ".ogg", ".m4a", ".aac", ".aif", ".aiff"),
    *(".npy", ".npz", ".csv"),
)


class Mark(NamedTuple):
    """A label somewhere in a recording."""

    start: float  # seconds
    end: float | None  # seconds; None: an event without a length
    label: str
    where: str  # file and line, tier or number, for messages
    score: float | None = None


@dataclasses.dataclass
class Recording:
    """What a source says about one recording."""

    name: str
    where: str
    marks: list[Mark] = dataclasses.field(default_factory=list)
    subset: str = ""
    duration: float = 0.0  # seconds; 0: not said

    def entry(self, reading: Reading) -> Entry:
        """The same as of ActivityNet's JSON; raises UserError for a mark that cannot be an action."""
        actions = tuple(action_of(mark, reading) for mark in self.marks)
        return Entry(self.name, self.subset, self.duration, actions, {})


class Found(NamedTuple):
    """A detection to write."""

    start: float  # seconds
    end: float  # seconds
    label: str
    score: float


def action_of(mark: Mark, reading: Reading) -> LabelledSegment:
    """The action that a mark stands for.

    An event without a length becomes ``reading.point_seconds`` long: half before its time, half after it, or less
    before it at the beginning of the recording.

    Raises:
        UserError: no length and no width for it, an end before the start, numbers that are not finite, a bad label.
    """
    start, end, label = mark.start, mark.end, check_label(one_line(mark.label), mark.where)
    if end is None or end == start:
        if not reading.point_seconds:
            raise UserError(
                f"{mark.where}: '{label}' at {start:g} s has no length; say how long such events are to become: "
                + example("point_seconds", 2)
            )
        start, end = max(start - reading.point_seconds / 2, 0.0), start + reading.point_seconds / 2
    action = LabelledSegment(start, end, label)
    check_order(action, mark.where, may_be_empty=False)
    return action


def one_line(label: str) -> str:
    """A label without blanks at its ends; tabs and line breaks in it become a blank, since no class may have them."""
    return re.sub(r"\s*[\t\r\n\v\f\u2028\u2029]\s*", " ", label.strip())


def recording_name(text: str, where: str) -> str:
    """The name of a recording in a file of annotations: that of a media file without its folders and its ending."""
    name = text.strip()
    path = pathlib.PurePosixPath(name.replace("\\", "/"))
    if path.suffix.lower() in MEDIA_ENDINGS:
        name = path.stem
    if not name:
        raise UserError(f"{where}: the name of the recording is blank")
    return name


def group(rows: Iterable[tuple[str, Mark | None]], where: str) -> list[Recording]:
    """Recordings of (name, mark) rows, in the order in which they are named first; None is no mark."""
    recordings: dict[str, Recording] = {}
    for name, mark in rows:
        recording = recordings.setdefault(name, Recording(name, where))
        if mark is not None:
            recording.marks.append(mark)
    return list(recordings.values())


class Milliseconds(NamedTuple):
    """A detection on the time line of a tool that counts whole milliseconds."""

    start: int
    end: int
    label: str
    score: float


def in_milliseconds(rows: Sequence[Found]) -> list[Milliseconds]:
    """By start and end; what begins before the recording is cut, and what has no length then is left out."""
    rounded = [
        Milliseconds(round(max(row.start, 0.0) * 1000), round(max(row.end, 0.0) * 1000), row.label, row.score)
        for row in rows
    ]
    return sorted((row for row in rounded if row.start < row.end), key=lambda row: row[:2])

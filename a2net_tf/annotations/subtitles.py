"""WebVTT: detections as subtitles of a player or of a page's <video>. What was written is read; SubRip is read too."""

import html
import re
from collections.abc import Sequence

from a2net_tf.annotations.marks import Found, Mark, Recording, in_milliseconds, recording_name
from a2net_tf.errors import UserError
from a2net_tf.safe_files import Path, write_text

_TIMES = re.compile(
    r"\s*(?:(\d{1,5}):)?(\d\d):(\d\d)[.,](\d{3})\s+-->\s+(?:(\d{1,5}):)?(\d\d):(\d\d)[.,](\d{3})(\s.*)?"
)
_SCORED = re.compile(r"(.*\S)\s{2}(\d+(?:\.\d+)?)", re.DOTALL)
_NAME = "NOTE recording: "


def read(text: str, path: str, *, own_name: str) -> list[Recording]:
    """The recording of subtitles: a cue is an action, its text the label, with two blanks and a score after it or not.

    Raises:
        UserError: a line of times that cannot be read.
    """
    is_vtt = text.startswith("WEBVTT")
    recording = Recording(own_name, path)
    number = 1
    for block in re.split(r"(\n(?:[ \t]*\n)+)", text):
        lines = block.split("\n")
        times = next((i for i, line in enumerate(lines[:2]) if "-->" in line), None)
        if lines[0].startswith(_NAME):
            recording.name = recording_name(html.unescape(lines[0].removeprefix(_NAME)), path)
        elif times is not None and not lines[0].startswith("NOTE"):
            where = f"{path}, line {number + times}"
            recording.marks += _cue(lines[times], "\n".join(lines[times + 1 :]), where, is_vtt=is_vtt)
        number += block.count("\n")
    return [recording]


def _cue(times: str, label: str, where: str, *, is_vtt: bool) -> list[Mark]:
    match = _TIMES.fullmatch(times)
    if not match:
        raise UserError(f"{where}: expected HH:MM:SS.mmm --> HH:MM:SS.mmm, found {times[:80]!r}")
    start, end = (_seconds(match.groups()[i : i + 4]) for i in (0, 4))
    label = html.unescape(re.sub(r"<[^>]*>", "", label)) if is_vtt else label
    scored = _SCORED.fullmatch(label.strip())
    if not label.strip():
        return []
    return [Mark(start, end, scored[1] if scored else label, where, float(scored[2]) if scored else None)]


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, milliseconds = (int(part or 0) for part in parts)
    return (((hours * 60) + minutes) * 60_000 + seconds * 1000 + milliseconds) / 1000


def write_vtt(path: Path, name: str, rows: Sequence[Found]) -> None:
    """Writes the detections of one recording as WebVTT, in order of their start; an earlier file is kept.

    Args:
        path: of the file.
        name: of the recording.
        rows: its detections; they may overlap.
    """
    blocks = ["WEBVTT\n", f"{_NAME}{html.escape(name, quote=False)}\n"]
    for row in in_milliseconds(rows):
        label = html.escape(row.label, quote=False)
        blocks.append(f"{clock(row.start)} --> {clock(row.end)}\n{label}  {row.score:.3f}\n")
    write_text(path, "\n".join(blocks), keep_earlier=True)


def clock(milliseconds: int, point: str = ".") -> str:
    """HH:MM:SS.mmm, with another sign before the milliseconds if one is given."""
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{milliseconds:03d}"

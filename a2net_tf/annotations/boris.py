"""Exports of BORIS: aggregated events, with a row per action, and tabular events, with a row per start and stop."""

import math
from collections.abc import Sequence

from a2net_tf.annotations.marks import Mark, Recording, recording_name
from a2net_tf.annotations.reading import Reading
from a2net_tf.annotations.tables import Rows
from a2net_tf.annotations.texts import cell, parse_number, plain
from a2net_tf.errors import UserError, list_some

_BEFORE_THE_HEADER = 60  # rows that older versions write about the observation
_NONE = ("", "na", "nan", "none")


def find_header(rows: Rows) -> int | None:
    """Which row names the columns of an export of BORIS; None if it is no such export."""
    for number, (_, row) in enumerate(rows[:_BEFORE_THE_HEADER]):
        named = {plain(name) for name in row}
        aggregated = {"behavior", "start_s", "stop_s"} <= named
        if aggregated or ({"behavior", "time"} <= named and named & {"behavior_type", "status"}):
            return number
    return None


def read(rows: Rows, reading: Reading, path: str, *, own_name: str) -> list[Recording]:
    """The observations of an export; their names are those of the recordings, unless "columns" names another column.

    Args:
        rows: "FILE, line N" and cells.
        reading: settings; times are seconds in any case.
        path: for messages.
        own_name: of the recording, where the export names no observation.

    Raises:
        UserError: a START without STOP or the other way round, or a cell that is not what it should be.
    """
    number = find_header(rows) or 0
    _, header = rows[number]
    columns = {plain(name): place for place, name in reversed(list(enumerate(header)))}
    before = {plain(row[0]): row[1] for _, row in rows[:number] if len(row) > 1}
    own_name = before.get("observation_id") or own_name
    name_column = _name_column(header, columns, reading, path)
    recordings: dict[str, Recording] = {}
    kept = []
    for where, row in rows[number + 1 :]:
        name = own_name if name_column is None else cell(row, name_column, where)
        recording = recordings.setdefault(name, Recording(recording_name(name, where), path))
        recording.duration = recording.duration or _duration(row, columns)
        kept.append((where, row, recording))
    if "start_s" in columns:
        _add_aggregated(kept, columns)
    else:
        _add_tabular(kept, columns)
    return list(recordings.values())


def _name_column(header: Sequence[str], columns: dict[str, int], reading: Reading, path: str) -> int | None:
    wanted = reading.columns.get("video")
    if wanted and wanted not in header:
        raise UserError(f"{path}: no column '{wanted}' ('columns' in settings.json); found {list_some(header)}")
    return list(header).index(wanted) if wanted else columns.get("observation_id")


def _duration(row: Sequence[str], columns: dict[str, int]) -> float:
    """Of the media file, if there is one only; 0 if the export does not say."""
    column = columns.get("media_duration_s", columns.get("total_length"))
    try:
        seconds = float(row[column]) if column is not None and column < len(row) else 0.0
    except ValueError:
        return 0.0
    return seconds if 0 < seconds < math.inf else 0.0


def _add_aggregated(rows: list, columns: dict[str, int]) -> None:
    for where, row, recording in rows:
        label = cell(row, columns["behavior"], where)
        start = _time(cell(row, columns["start_s"], where), f"{where}: '{label}': Start (s)")
        is_point = "behavior_type" in columns and cell(row, columns["behavior_type"], where).upper() == "POINT"
        stop = None if is_point else _time(cell(row, columns["stop_s"], where), f"{where}: '{label}': Stop (s)")
        recording.marks.append(Mark(start, stop, label, where))


def _add_tabular(rows: list, columns: dict[str, int]) -> None:
    """Pairs each START with the next STOP of the same observation, subject, behaviour and modifiers."""
    modifiers = [place for name, place in columns.items() if name.startswith("modifier")]
    status_column = columns.get("status", columns.get("behavior_type"))
    begun: dict[tuple, tuple[float, str, Recording]] = {}
    for where, row, recording in rows:
        label = cell(row, columns["behavior"], where)
        status = cell(row, status_column, where).upper()
        time = _time(cell(row, columns["time"], where), f"{where}: Time")
        subject = row[columns["subject"]] if columns.get("subject", len(row)) < len(row) else ""
        key = (recording.name, subject, label, *(row[place] for place in modifiers if place < len(row)))
        if status == "POINT":
            recording.marks.append(Mark(time, None, label, where))
        elif status == "START":
            if key in begun:
                raise UserError(f"{begun[key][1]}: START of '{label}' ({subject}) without STOP before the next START")
            begun[key] = time, where, recording
        elif status == "STOP":
            if key not in begun:
                raise UserError(f"{where}: STOP of '{label}' ({subject}) without START; was an interval exported?")
            start, _, _ = begun.pop(key)
            recording.marks.append(Mark(start, time, label, where))
        else:
            raise UserError(f"{where}: expected START, STOP or POINT, found {status[:40]!r}")
    for (_, subject, label, *_), (_, where, _) in begun.items():
        raise UserError(f"{where}: START of '{label}' ({subject}) without STOP; end it in BORIS and export again")


def _time(text: str, where: str) -> float:
    if text.lower() in _NONE:
        raise UserError(f"{where}: there is no time; observations of pictures have none that could be used")
    return parse_number(text, where)

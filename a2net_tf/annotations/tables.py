"""Tables, CSV or TSV, with a row per action below a header: ``video,start,end,label``."""

from collections.abc import Mapping, Sequence

from a2net_tf.annotations.marks import Mark, Recording, recording_name
from a2net_tf.annotations.reading import Reading
from a2net_tf.annotations.texts import cell, parse_number, parse_seconds, plain
from a2net_tf.errors import UserError, list_some

_NAMES = {  # of columns, as ``texts.plain`` writes them; the first is sure, of the others only one may be there
    "video": ("video", "recording", "video_name", "video_id", "videoid", "file", "file_name", "filename", "name"),
    "start": ("start", "start_seconds", "start_s", "start_time", "t_start", "tstart", "begin", "begin_time", "onset"),
    "end": ("end", "end_seconds", "end_s", "end_time", "t_end", "tend", "stop", "stop_time", "offset"),
    "label": ("label", "class", "action", "activity", "behavior", "behaviour", "category", "event"),
    "score": ("score", "confidence", "probability"),
    "subset": ("subset", "split"),
    "duration": ("video_duration", "recording_duration", "duration_of_video"),
}
Rows = Sequence[tuple[str, list[str]]]


def is_table(header: Sequence[str], reading: Reading) -> bool:
    """Whether a first row names the columns of actions."""
    named = {plain(name) for name in header}
    given = reading.columns.values()
    return all(
        named & set(_NAMES[role]) or reading.columns.get(role) in header for role in ("start", "end", "label")
    ) or any(name in header for name in given)


def read(rows: Rows, reading: Reading, path: str, *, own_name: str) -> list[Recording]:
    """The recordings of a table.

    A row with a recording alone says that it was looked at. An empty end is an event without a length.

    Args:
        rows: "FILE, line N" and cells; the first names the columns.
        reading: settings.
        path: for messages.
        own_name: of the recording, if no column says it.

    Raises:
        UserError: a column is missing, or a cell is not what it should be.
    """
    (_, header), *rows = rows
    columns = find_columns(header, reading, path)
    recordings: dict[str, Recording] = {}
    for where, row in rows:
        of_row = {role: cell(row, column, where) for role, column in columns.items()}
        name = recording_name(of_row.get("video", own_name), where)
        recording = recordings.setdefault(name, Recording(name, path))
        _add_facts(recording, of_row, reading, where)
        if of_row["start"] or of_row["end"] or of_row["label"]:
            recording.marks.append(_mark(of_row, reading, where))
    return list(recordings.values())


def _mark(of_row: Mapping[str, str], reading: Reading, where: str) -> Mark:
    score = of_row.get("score")
    return Mark(
        parse_seconds(of_row["start"], reading, where),
        parse_seconds(of_row["end"], reading, where) if of_row["end"] else None,
        of_row["label"],
        where,
        parse_number(score, f"{where}: score") if score else None,
    )


def _add_facts(recording: Recording, of_row: Mapping[str, str], reading: Reading, where: str) -> None:
    """Subset and duration, which all rows of a recording must agree on."""
    if subset := of_row.get("subset"):
        if recording.subset not in ("", subset):
            raise UserError(f"{where}: '{recording.name}' is in '{subset}', but above in '{recording.subset}'")
        recording.subset = subset
    if duration := of_row.get("duration"):
        seconds = parse_seconds(duration, reading, where)
        if recording.duration not in (0.0, seconds):
            raise UserError(f"{where}: '{recording.name}' lasts {seconds:g} s, but above {recording.duration:g} s")
        recording.duration = seconds


def find_columns(header: Sequence[str], reading: Reading, path: str) -> dict[str, int]:
    """{role: its column}; raises UserError if one is missing or could be several."""
    columns = {}
    for role in _NAMES:
        column = _find(header, role, reading, path)
        if column is not None:
            columns[role] = column
    for role in ("start", "end", "label"):
        if role not in columns:
            raise UserError(
                f"{path}: no column '{role}' (nor {list_some(_NAMES[role][1:])}); found {list_some(header)}; name it: "
                f'{{"reading": {{"columns": {{"{role}": "NAME"}}}}}} in settings.json'
            )
    return columns


def _find(header: Sequence[str], role: str, reading: Reading, path: str) -> int | None:
    if role in reading.columns:
        name = reading.columns[role]
        if list(header).count(name) != 1:
            raise UserError(
                f"{path}: no single column '{name}' ('columns' in settings.json); found {list_some(header)}"
            )
        return list(header).index(name)
    taken = [plain(name) for name in reading.columns.values()]
    named = [plain(name) for name in header]
    present = [name for name in _NAMES[role] if name in named and name not in taken]
    if len(present) > 1 and present[0] != role:
        raise UserError(
            f"{path}: '{role}' could be the columns {list_some(present)}; name it with 'columns' in settings.json"
        )
    return named.index(present[0]) if present else None

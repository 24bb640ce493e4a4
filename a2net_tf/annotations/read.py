"""The one reader of annotations: which kind a file is, by its ending and its content, and what it says.

A source is one file, or a folder of files that hold a recording each: then a file's name is the recording's, and the
name of the folder in which it lies, below the source, is its subset.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence

from a2net_tf.annotations import boris, elan, label_studio, lines, soccernet, subtitles, tables, textgrid
from a2net_tf.annotations.marks import Recording, action_of
from a2net_tf.annotations.reading import Reading, choose_subsets
from a2net_tf.annotations.texts import read_rows, read_text
from a2net_tf.data.files import annotation_files
from a2net_tf.data.files.annotation_files import Entry, LabelledSegment
from a2net_tf.data.files.feature_files import (
    ANNOTATION_SUFFIXES,
    SETTINGS_FILE,
    check_choice,
    describe_files,
    list_files,
)
from a2net_tf.errors import UserError, list_some
from a2net_tf.safe_files import Path, get_value, parse_json

KINDS = {
    "activitynet": "ActivityNet's JSON",
    "table": "tables",
    "elan": "files of ELAN",
    "boris": "exports of BORIS",
    "label_studio": "exports of Label Studio",
    "label_track": "label tracks of Audacity",
    "textgrid": "TextGrids of Praat",
    "frames": "texts with a label per frame",
    "soccernet": "SoccerNet's JSON",
    "subtitles": "subtitles",
}
ENDINGS = ANNOTATION_SUFFIXES
# What a file may be, by its ending, for the message where none fits.
_LOOKED_FOR = {
    ".json": 'ActivityNet\'s {"database": ...}, Label Studio\'s tasks with "data" and "annotations" (its JSON, not '
    'JSON-MIN), SoccerNet\'s {"annotations": [{"gameTime", "label"}]}',
    ".csv": "a header with start, end and label (and video), an export of BORIS (aggregated or tabular events)",
    ".txt": "a label track of Audacity (START, END and LABEL between tabs), a TextGrid, a table with a header, or, "
    "with a rate, a label per line",
}


def read_annotations(path: Path, reading: Reading) -> list[Entry]:
    """The recordings of a source, in its order; a subset that nothing says is "".

    Args:
        path: of a file or a folder.
        reading: what the files do not say themselves.

    Raises:
        UserError: there are none, their kind cannot be told, or one is not what its kind should be.
    """
    entries = [
        part if isinstance(part, Entry) else part.entry(reading)
        for part in _read_source(path, reading, predicted=False)
    ]
    subsets = choose_subsets([entry.name for entry in entries], reading, str(path))
    return [dataclasses.replace(entry, subset=subsets.get(entry.name, entry.subset)) for entry in entries]


def read_detections(path: Path, reading: Reading) -> dict[str, list[tuple[str, LabelledSegment, float]]]:
    """{recording: where, action and score of each of its detections} of a source.

    Raises:
        UserError: as ``read_annotations``; or a mark has no score.
    """
    found = {}
    for part in _read_source(path, reading, predicted=True):
        if isinstance(part, Entry):
            raise UserError(f"{path}: holds annotations of ActivityNet's form, not detections")
        for mark in part.marks:
            if mark.score is None:
                raise UserError(f"{mark.where}: '{mark.label}' has no score; are these annotations, not detections?")
        found[part.name] = [(mark.where, action_of(mark, reading), mark.score) for mark in part.marks]
    return found


def find_kind(path: Path, reading: Reading) -> str:
    """The kind of a file, a key of ``KINDS``; raises UserError if it is none of them."""
    return open_file(pathlib.Path(path), reading)[0]


def _read_source(path: Path, reading: Reading, *, predicted: bool) -> list[Recording | Entry]:
    path = pathlib.Path(path)
    if not path.is_dir():
        kind, parts = _read_file(path, reading, predicted=predicted)
        if kind != "activitynet":
            if not parts:
                raise UserError(f"{path}: no recordings; there are no rows or tasks")
            print(f"{path}: {len(parts)} recordings of {KINDS[kind]}")
        return _unique(parts, [path] * len(parts), path)
    files = [file for file in list_files(path) if file.suffix.lower() in ENDINGS and file.name != SETTINGS_FILE]
    if not files:
        raise UserError(f"{path}: no annotations; looked for {list_some(ENDINGS)}; there is {describe_files(path)}")
    parts, sources, kinds = [], [], collections.Counter()
    for file in files:
        kind, of_file = _read_file(file, reading, predicted=predicted)
        kinds[kind] += 1
        parts += [_with_folder(part, file.relative_to(path)) for part in of_file]
        sources += [file] * len(of_file)
    told = ", ".join(f"{number} {KINDS[kind]}" for kind, number in kinds.items())
    print(f"{path}: {len(parts)} recordings of {told}")
    return _unique(parts, sources, path)


def _with_folder(part: Recording | Entry, relative: pathlib.Path) -> Recording | Entry:
    """A file in a folder of the source is of the subset that the folder is called."""
    if part.subset or len(relative.parts) < 2:
        return part
    return dataclasses.replace(part, subset=relative.parts[0])


def _unique(
    parts: list[Recording | Entry], sources: Sequence[pathlib.Path], path: pathlib.Path
) -> list[Recording | Entry]:
    first: dict[str, pathlib.Path] = {}
    for part, source in zip(parts, sources, strict=True):
        if part.name in first:
            raise UserError(f"{source}: '{part.name}' is annotated in {first[part.name].name} too; which one counts?")
        first[part.name] = source
    return parts


def _read_file(file: pathlib.Path, reading: Reading, *, predicted: bool) -> tuple[str, list[Recording | Entry]]:
    kind, content = open_file(file, reading)
    path, own = str(file), {"own_name": file.stem}
    match kind:
        case "activitynet":
            return kind, annotation_files.entries_of(content, path)
        case "label_studio":
            return kind, label_studio.read(content, reading, path, predicted=predicted)
        case "soccernet":
            return kind, soccernet.read(content, path, predicted=predicted, **own)
        case "elan":
            return kind, elan.read(file, reading, **own)
        case "textgrid":
            return kind, textgrid.read(content, reading, path, **own)
        case "subtitles":
            return kind, subtitles.read(content, path, **own)
        case "label_track":
            return kind, lines.read_label_track(content, reading, path, **own)
        case "frames":
            return kind, lines.read_frame_labels(content, reading, path, **own)
        case "boris":
            return kind, boris.read(content, reading, path, **own)
        case _:
            return kind, tables.read(content, reading, path, **own)


def open_file(file: pathlib.Path, reading: Reading) -> tuple[str, object]:
    """The kind of a file, and its content: a JSON value, the rows of a table, a text; nothing of ELAN's.

    Raises:
        UserError: it cannot be read, or is of no kind.
    """
    if reading.kind:
        check_choice(reading.kind, tuple(KINDS), "reading: 'kind'")
    ending = file.suffix.lower()
    if reading.kind == "elan" or (not reading.kind and ending == ".eaf"):
        return "elan", None
    if ending == ".boris":
        raise UserError(f"{file}: is a project of BORIS; export its events (aggregated or tabular) as CSV or TSV")
    text = read_text(file, reading.encoding)
    if reading.kind in ("activitynet", "label_studio", "soccernet") or (not reading.kind and ending == ".json"):
        content = parse_json(text, str(file))
        return reading.kind or _kind_of_json(content, file), content
    if reading.kind in ("table", "boris"):
        return reading.kind, _rows(text, file)
    return (reading.kind, text) if reading.kind else _kind_of_text(text, file, ending, reading)


def _kind_of_json(content: object, file: pathlib.Path) -> str:
    if isinstance(content, dict) and "database" in content:
        return "activitynet"
    if label_studio.is_label_studio(content):
        return "label_studio"
    if soccernet.is_soccernet(content):
        return "soccernet"
    try:
        get_value(content, "database", str(file), kind=dict)
    except UserError as error:
        raise UserError(f"{error}; looked for {_LOOKED_FOR['.json']}") from None
    raise _unknown(file, ".json")


def _kind_of_text(text: str, file: pathlib.Path, ending: str, reading: Reading) -> tuple[str, object]:
    if textgrid.is_textgrid(text):
        return "textgrid", text
    if text.startswith("WEBVTT") or ending == ".srt":
        return "subtitles", text
    if lines.is_label_track(text):
        return "label_track", text
    if ending in (".csv", ".tsv", ".txt") and text.strip():
        rows = _rows(text, file)
        if boris.find_header(rows) is not None:
            return "boris", rows
        if ending != ".txt" or tables.is_table(rows[0][1], reading):
            return "table", rows
        if reading.rate or len(rows[0][1]) == 1:
            return "frames", text
    raise _unknown(file, ending)


def _rows(text: str, file: pathlib.Path) -> tables.Rows:
    rows = read_rows(text, file)
    if not rows:
        raise UserError(f"{file}: is empty; looked for {_LOOKED_FOR['.csv']}")
    return rows


def _unknown(file: pathlib.Path, ending: str) -> UserError:
    looked_for = _LOOKED_FOR.get(".csv" if ending == ".tsv" else ending)
    if looked_for is None:
        looked_for = f"content that suits {ending}" if ending in ENDINGS else f"an ending of {', '.join(ENDINGS)}"
    return UserError(f"{file}: its kind of annotations cannot be told; looked for {looked_for}")

"""Texts and tables that other programs have written: encodings, separators, numbers, clock times."""

import codecs
import csv
import io
import math
import pathlib
import re
from collections.abc import Sequence

from a2net_tf.annotations.reading import Reading, example
from a2net_tf.errors import UserError
from a2net_tf.safe_files import Path

_MARKS = {  # the longer ones first: that of UTF-16 begins that of UTF-32
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_CLOCK = re.compile(r"(?:(\d{1,5}):)?(\d{1,2}):(\d{1,2}(?:[.,]\d*)?)")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][-+]?\d+)?")


def read_text(path: Path, encoding: str = "") -> str:
    """The content of a text file, with ``\\n`` at the end of each line.

    Args:
        path: the file.
        encoding: its encoding; empty: UTF-8, or UTF-16 or UTF-32 if it begins with their mark.

    Raises:
        UserError: it cannot be read, or is in another encoding.
    """
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    marked = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "")
    try:
        text = content.decode(marked or encoding or "utf-8")
    except LookupError:
        raise UserError(f"{path}: reading: 'encoding': Python knows no '{encoding}'; latin-1, cp1252, ...?") from None
    except UnicodeError as error:
        raise UserError(
            f"{path}: is not a text in {marked or encoding or 'UTF-8'} ({error.reason}); save it as UTF-8, or say what "
            f"it is in: {example('encoding', 'cp1252')}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_rows(text: str, path: Path) -> list[tuple[str, list[str]]]:
    """ "FILE, line N" and the cells of each row that is not blank; the separator is what the first line has most of."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    separator = max("\t;,", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        rows = [(f"{path}, line {reader.line_num}", [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: damaged ({error})") from None
    return [(where, row) for where, row in rows if any(row)]


def plain(name: str) -> str:
    """The name of a column as it is compared: "Start (s)" and "start_s" are the same."""
    return re.sub(r"[\W_]+", "_", name.lower()).strip("_")


def cell(row: Sequence[str], column: int, where: str) -> str:
    """What a row holds in a column; raises UserError if the row is too short."""
    if column >= len(row):
        raise UserError(f"{where}: {len(row)} cells, but column {column + 1} is needed")
    return row[column]


def parse_seconds(text: str, reading: Reading, where: str) -> float:
    """A time in seconds: a number in ``reading.time_unit``, with a decimal point or comma, or a clock time."""
    text = text.strip()
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, seconds = clock.groups()
        return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
    return reading.seconds(parse_number(text, where), where)


def parse_number(text: str, where: str) -> float:
    """A finite number; raises UserError for another text."""
    value = float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: expected a time, found {text[:40]!r}")
    return value

"""Reading and writing of text, JSON and CSV: the one entrance of each.

What is written is there whole or not at all, and a later result never destroys an earlier one.
"""

import contextlib
import csv
import io
import json
import os
import pathlib
import re
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Sequence

from a2net_tf.errors import UserError, list_some

Path = str | os.PathLike


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside ``path``; it becomes ``path`` when the block ends well and is removed otherwise.

    Raises:
        UserError: the folder cannot be created or written, the disk is full, or ``path`` is not a regular file.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        _refuse_other_than_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _refuse_other_than_file(path: pathlib.Path) -> None:
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected the name of a file to write")
    if path.exists() and not path.is_file():  # replacing a device such as /dev/null would destroy it
        raise UserError(f"{path}: is not a regular file and cannot be replaced")


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8, whole or not at all. Raises UserError as ``replace_file`` does."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Writes ``value`` as JSON, whole or not at all. Raises UserError as ``replace_file`` does."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def check_writable(path: Path) -> None:
    """Fails early if ``path`` could not be written later; leaves nothing behind.

    Raises:
        UserError: ``path`` is a folder, or the nearest folder that exists above it takes no files.
    """
    path = pathlib.Path(path)
    try:
        _refuse_other_than_file(path)
        folder = next(p for p in path.absolute().parents if p.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_text(path: Path | zipfile.Path, *, hint: str = "") -> str:
    """The content of a UTF-8 file, which may lie inside a zip file.

    Raises:
        UserError: it is missing (the message ends with ``hint``), damaged, or no text.
    """
    file = path if isinstance(path, zipfile.Path) else pathlib.Path(path)
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not a text file (byte {error.start} is not UTF-8)") from None
    except FileNotFoundError:
        raise UserError(f"{path}: cannot be read: No such file or directory{hint and '; '}{hint}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: damaged ({error}); an incomplete download?") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_json(path: Path) -> object:
    """The content of a JSON file; raises UserError if it is missing or is none."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> object:
    """The value of a JSON text that came from ``where``; raises UserError if it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: damaged JSON at line {error.lineno}: {error.msg}; is it cut off?") from None


def read_json_object(path: Path) -> dict:
    """The same for a file that must hold an object."""
    return check_kind(read_json(path), dict, str(path))


_KINDS = {dict: "an object {...}", list: "a list [...]", str: "a text", float: "a number"}


def check_kind(value: object, kind: type, where: str) -> object:
    """``value`` of a JSON file if it is a ``kind`` (dict, list, str, or float for any number); else UserError."""
    if not (type(value) in (int, float) if kind is float else isinstance(value, kind)):
        found = _KINDS[type(value)] if isinstance(value, dict | list) else json.dumps(value)[:80]
        raise UserError(f"{where}: expected {_KINDS[kind]}, found {found}")
    return value


def get_value(entry: object, key: str, where: str, *, kind: type) -> object:
    """``entry[key]`` of a JSON object; raises UserError if there is no such key or its value is not of ``kind``."""
    if key not in check_kind(entry, dict, where):
        raise UserError(f"{where}: key '{key}' is missing; found {list_some(entry) or 'no keys'}")
    return check_kind(entry[key], kind, f"{where}: {key}")


def read_table(path: Path, columns: Sequence[str], *, hint: str = "") -> list[tuple[str, dict[str, str | None]]]:
    """The rows of a CSV file whose first line names its columns.

    Args:
        path: the file.
        columns: that it must have; it may have others.
        hint: as for ``read_text``.

    Returns:
        For each row "FILE, line N" and {column: text}, None where a row is too short.

    Raises:
        UserError: no readable file, or a column is missing.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, hint=hint)))
    try:
        rows = [(f"{path}, line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: damaged ({error})") from None
    for column in columns:
        if column not in (reader.fieldnames or ()):
            raise UserError(f"{path}: no column '{column}'; found {list_some(reader.fieldnames or ()) or 'none'}")
    return rows


def keep_previous(*paths: Path) -> None:
    """Renames what is already there to ``name.1.json``, ``name.2.json``, ...: no command destroys an earlier result."""
    for path in map(pathlib.Path, paths):
        if path.exists():
            number = 1
            while (older := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
                number += 1
            os.replace(path, older)


def file_name(video: str) -> str:
    """A sequence's name without what file systems dislike."""
    return re.sub(r"[^\w.-]", "_", video)


def write_metrics(path: str, metrics: dict) -> None:
    """Writes metrics as JSON where the user asked for them, and says so; does nothing if ``path`` is empty."""
    if not path:
        return
    keep_previous(path)
    write_json(path, metrics)
    print(f"written: {path}")

"""Reading and writing of text, JSON and CSV: the one entrance of each.

What is written is there whole or not at all, and a later result never destroys an earlier one.
"""

import codecs
import contextlib
import csv
import io
import json
import os
import pathlib
import platform
import re
import sys
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Sequence

from a2net_tf import disk
from a2net_tf.errors import UserError, list_some

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Path = str | os.PathLike


@contextlib.contextmanager
def replace_file(path: Path, *, keep_earlier: bool = False) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside ``path``; it becomes ``path`` when the block ends well and is removed otherwise.

    Args:
        path: the file.
        keep_earlier: what is there stays as ``name.1.json``, ``name.2.json``, ...: for results, of which no command
            destroys an earlier one, not for the state of a run.

    Raises:
        UserError: the folder cannot be created or written, the disk is full, or ``path`` is not a regular file.
    """
    path = pathlib.Path(path)
    temporary = _temporary_path(path)
    try:
        _refuse_other_than_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        yield temporary
        exchange(temporary, path, keep_earlier=keep_earlier)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        disk.remove(temporary)


@contextlib.contextmanager
def folder_beside(path: Path) -> Iterator[pathlib.Path]:
    """Gives an empty folder beside ``path``, to make in it what ``exchange`` then takes; it is gone after the block.

    What such blocks have left whose process was killed is removed first.

    Raises:
        UserError: the folder cannot be made, or the disk is full.
    """
    path = pathlib.Path(path)
    temporary = _temporary_path(path)
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary.mkdir()
        yield temporary
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        disk.remove(temporary)


def exchange(written: Path, path: Path, *, keep_earlier: bool) -> None:
    """Puts a file, or a folder, that is complete in the place of ``path``; see ``replace_file``.

    Two commands that end at once take turns, and at no moment is a file missing that was there before.
    """
    path = pathlib.Path(path)
    disk.sync_below(written)
    with _locked(path.parent):
        if keep_earlier and path.is_dir():
            _exchange_folders(pathlib.Path(written), path, _free_name(path))
        else:
            if keep_earlier and path.exists():
                _keep(path, _free_name(path))
            os.replace(written, path)
        disk.sync_names(path.parent)


def _keep(path: pathlib.Path, older: pathlib.Path) -> None:
    """Gives a file a second name where the file system can, so that the first one stays until it is replaced."""
    if older.exists():  # by a process that was killed before it could replace the first
        return
    try:
        os.link(path, older)
    except OSError:
        os.rename(path, older)


def _exchange_folders(written: pathlib.Path, path: pathlib.Path, older: pathlib.Path) -> None:
    """Puts a folder in the place of another, which gets the name ``older``.

    Where the system can swap two names in one step, ``path`` is there at every moment.
    """
    os.rename(written, older)
    try:
        disk.swap(older, path)
    except OSError:
        os.rename(older, written)
        os.rename(path, older)
        os.rename(written, path)


def _free_name(path: pathlib.Path) -> pathlib.Path:
    """The first numbered name that is not taken, or is another name of this very file."""
    number = 1
    while (older := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists() and not older.samefile(path):
        number += 1
    return older


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Only one process at a time is in this block for a folder. Systems without such locks go on without."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _temporary_path(path: pathlib.Path) -> pathlib.Path:
    """A name that tells whose it is: what a killed process leaves is swept by the next one that writes ``path``."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")


def _sweep(path: pathlib.Path) -> None:
    """Removes what processes of this machine that were killed have left of ``path``."""
    prefix = f".{path.name}.{platform.node()}."
    for file in path.parent.iterdir():
        if file.name.startswith(prefix) and file.name.endswith(".partial"):
            process = file.name.removeprefix(prefix).partition(".")[0]
            if process.isdigit() and not _is_alive(int(process)):
                disk.remove(file)


def sweep(folder: Path, names: Sequence[str]) -> None:
    """Removes what killed processes, of whatever machine, have left of these files; no other must be writing them."""
    for name in names:
        for file in pathlib.Path(folder).glob(f".{name}.*.partial"):
            disk.remove(file)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _refuse_other_than_file(path: pathlib.Path) -> None:
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected the name of a file to write")
    if path.exists() and not path.is_file():  # replacing a device such as /dev/null would destroy it
        raise UserError(f"{path}: is not a regular file and cannot be replaced")


def write_text(path: Path, text: str, *, keep_earlier: bool = False) -> None:
    """Writes ``text`` as UTF-8, whole or not at all; arguments and errors as of ``replace_file``."""
    with replace_file(path, keep_earlier=keep_earlier) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, *, indent: int | None = 2, keep_earlier: bool = False) -> None:
    """Writes ``value`` as JSON, whole or not at all; arguments and errors as of ``replace_file``."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n", keep_earlier=keep_earlier)


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
        return _decode(file.read_bytes(), path)
    except FileNotFoundError:
        raise UserError(f"{path}: cannot be read: No such file or directory{hint and '; '}{hint}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: damaged ({error}); an incomplete download?") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the path
        if isinstance(error, UserError):
            raise
        raise UserError(f"{str(path)!r}: is no path ({error})") from None


_OTHER_MARKS = {  # the longer ones first: that of UTF-16 begins that of UTF-32
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def _decode(content: bytes, path: object) -> str:
    """UTF-8 with or without a byte order mark, with line ends of any system."""
    for mark, encoding in _OTHER_MARKS.items():
        if content.startswith(mark):
            raise UserError(
                f"{path}: is not a text file in UTF-8 but in {encoding} (PowerShell's > writes that); save it as UTF-8"
            )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: is not a text file in UTF-8 (byte {error.start} is not UTF-8; Latin-1 or Windows-1252?); save it "
            "as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> object:
    """The content of a JSON file; raises UserError if it is missing or is none."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> object:
    """The value of a JSON text that came from ``where``; raises UserError if it is none."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise UserError(f"{where}: the key '{twice}' stands twice in one object; only one of them could be read")
        return content

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_int=_parse_int)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: damaged JSON at line {error.lineno}: {error.msg}; is it cut off?") from None
    except RecursionError:
        raise UserError(f"{where}: objects or lists in it are nested too deeply") from None
    if "\\ud" in text.lower():
        _refuse_half_characters(value, where)
    return value


def _parse_int(digits: str) -> int | float:
    """Of a number with thousands of digits, which Python refuses, an infinite float: other checks say where it is."""
    return int(digits) if len(digits) <= 300 else float(digits)


def _refuse_half_characters(value: object, where: str) -> None:
    """One half of a pair of UTF-16 can neither be printed nor written."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: a text in it holds half a character ({error.object[error.start]!r})") from None


def read_json_object(path: Path) -> dict:
    """The same for a file that must hold an object."""
    return check_kind(read_json(path), dict, str(path))


_KINDS = {dict: "an object {...}", list: "a list [...]", str: "a text", float: "a number"}


def check_kind(value: object, kind: type, where: str) -> object:
    """``value`` of a JSON file if it is a ``kind`` (dict, list, str, object, or float for any finite number).

    Raises:
        UserError: it is not.
    """
    if not (type(value) in (int, float) if kind is float else isinstance(value, kind)):
        found = _KINDS[type(value)] if isinstance(value, dict | list) else json.dumps(value)[:80]
        raise UserError(f"{where}: expected {_KINDS[kind]}, found {found}")
    if kind is float and not abs(value) <= sys.float_info.max:
        raise UserError(f"{where}: expected a finite number, found {_shortened(value)}")
    return value


def _shortened(value: float) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:8]}... of {len(text)} digits"


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


def read_parts(path: Path) -> Iterator[bytes]:
    """What a file holds, a part at a time: files of features and weights are large."""
    with open(path, "rb") as file:
        while part := file.read(2**20):
            yield part


def pattern_letters(path: Path) -> list[str]:
    """Which of [ ] * ? a path holds. TensorFlow takes the path of a SavedModel for a pattern of names."""
    return sorted(set(os.fspath(path)) & set("[]*?"))


def check_file_name(name: str, where: str) -> str:
    """``name`` of a file's content, if it can only be that of a file in one folder.

    Raises:
        UserError: it is empty, or leads to another folder: a file of somebody else must not choose what is read.
    """
    if not name or name in (".", "..") or set(name) & set("/\\:\0"):
        raise UserError(f"{where}: expected the name of a file in this folder, found {name[:80]!r}")
    return name


def file_names(names: Sequence[str]) -> list[str]:
    """A file name for each of ``names``, without what file systems dislike, and without two that are the same.

    Names that are file names already keep them. Where others would become the same, numbers are put behind them. Case
    is not looked at: some file systems do not either.
    """
    chosen, taken = {}, {name.casefold() for name in names if _plain_name(name) == name}
    for name in names:
        plain, number = _plain_name(name), 1
        candidate = plain
        while candidate != name and candidate.casefold() in taken:
            number += 1
            candidate = f"{plain}-{number}"
        taken.add(candidate.casefold())
        chosen[name] = candidate
    return [chosen[name] for name in names]


def _plain_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)[:150]


def write_metrics(path: str, metrics: dict) -> None:
    """Writes metrics as JSON where the user asked for them, and says so; does nothing if ``path`` is empty."""
    if not path:
        return
    write_json(path, metrics, keep_earlier=True)
    print(f"written: {path}")

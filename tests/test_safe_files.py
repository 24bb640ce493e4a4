import json
import multiprocessing
import os
import subprocess
import sys
import zipfile

import pytest

from a2net_tf import safe_files
from a2net_tf.errors import UserError


def test_text_inside_a_zip_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/a.txt", "grün\n" * 100)
    inside = zipfile.Path(tmp_path / "a.zip", "folder/a.txt")
    assert safe_files.read_text(inside) == "grün\n" * 100
    with pytest.raises(UserError, match=r"a\.zip/folder/b\.txt: cannot be read: No such file or directory; unpacked\?"):
        safe_files.read_text(inside.parent / "b.txt", hint="unpacked?")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[45] ^= 255  # within the packed text, behind 30 bytes of header and 12 of name
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.zip/folder/a\.txt: damaged \("):
        safe_files.read_text(zipfile.Path(tmp_path / "a.zip", "folder/a.txt"))


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ([], dict, r"expected an object \{\.\.\.\}, found a list \[\.\.\.\]"),
        (None, list, r"expected a list \[\.\.\.\], found null"),
        (1, str, "expected a text, found 1"),
        (True, float, "expected a number, found true"),
        ("1.5", float, 'expected a number, found "1.5"'),
    ],
)
def test_json_values_of_another_kind(value, kind, message):
    with pytest.raises(UserError, match=f"^x: key: {message}$"):
        safe_files.get_value({"key": value}, "key", "x", kind=kind)


def test_json_values():
    assert safe_files.get_value({"a": 1}, "a", "x", kind=float) == 1
    with pytest.raises(UserError, match="^x: key 'a' is missing; found no keys$"):
        safe_files.get_value({}, "a", "x", kind=str)
    with pytest.raises(UserError, match="^x: expected an object"):
        safe_files.get_value([], "a", "x", kind=str)


def test_table(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('video,fps,note\na,30,"two\nlines"\nb\n')
    rows = safe_files.read_table(file, ("video", "fps"))
    assert rows == [
        (f"{file}, line 3", {"video": "a", "fps": "30", "note": "two\nlines"}),
        (f"{file}, line 4", {"video": "b", "fps": None, "note": None}),
    ]
    with pytest.raises(UserError, match=r"a\.csv: no column 'count'; found video, fps, note"):
        safe_files.read_table(file, ("video", "count"))
    file.write_text("")
    with pytest.raises(UserError, match=r"a\.csv: no column 'video'; found none"):
        safe_files.read_table(file, ("video",))
    file.write_text("video\n" + "x" * 200_000)
    with pytest.raises(UserError, match=r"a\.csv, line \d: damaged \(field larger than"):
        safe_files.read_table(file, ("video",))


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfa\r\nb\n", b"a\nb\n", b"a\rb\n"])
def test_text_with_a_mark_and_line_ends_of_other_systems(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    assert safe_files.read_text(tmp_path / "a.txt") == "a\nb\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("--epochs=3".encode("utf-16"), "in UTF-16"),
        ("--epochs=3".encode("utf-32"), "in UTF-32"),
        ("grün".encode("latin-1"), r"byte 2 is not UTF-8; Latin-1 or Windows-1252\?"),
    ],
)
def test_another_encoding_is_named(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.txt: is not a text file in UTF-8.*{message}"):
        safe_files.read_text(tmp_path / "a.txt")


def test_a_path_that_is_none():
    with pytest.raises(UserError, match="is no path"):
        safe_files.read_text("a\0b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": "\\ud800"}', "half a character"),
        ('{"\\udc00": 1}', "half a character"),
    ],
)
def test_json_that_python_reads_in_unusual_ways(text, message):
    with pytest.raises(UserError, match=f"^x: .*{message}"):
        safe_files.parse_json(text, "x")


def test_a_whole_character_of_two_halves():
    assert safe_files.parse_json('"\\ud83d\\ude00"', "x") == "\U0001f600"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "9" * 9000])
def test_numbers_that_are_none(number):
    content = safe_files.parse_json(f'{{"score": {number}}}', "x")
    with pytest.raises(UserError, match="^x: score: expected a finite number, found .{1,40}$"):
        safe_files.get_value(content, "score", "x", kind=float)


def test_earlier_results_stay(tmp_path):
    file = tmp_path / "m.json"
    for number in range(3):
        safe_files.write_json(file, number, keep_earlier=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "m.json": "2\n",
        "m.1.json": "0\n",
        "m.2.json": "1\n",
    }


def test_a_result_that_cannot_be_written_leaves_the_earlier_one(tmp_path):
    file = tmp_path / "m.json"
    safe_files.write_json(file, 1, keep_earlier=True)
    with pytest.raises(ValueError, match="JSON"):
        safe_files.write_json(file, float("nan"), keep_earlier=True)
    with pytest.raises(RuntimeError), safe_files.replace_file(file, keep_earlier=True):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]


def write_many(file, who):
    for number in range(100):
        safe_files.write_json(file, f"{who}{number}", keep_earlier=True)


@pytest.mark.slow
def test_two_commands_at_once_lose_no_result(tmp_path):
    file = tmp_path / "m.json"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_many, args=(file, who)) for who in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    kept = {json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert kept == {f"{who}{number}" for who in "ab" for number in range(100)}


@pytest.mark.slow
def test_what_a_killed_process_leaves_is_swept(tmp_path):
    file = tmp_path / "m.json"
    code = (
        "import os, sys\nfrom a2net_tf import safe_files\n"
        "with safe_files.replace_file(sys.argv[1]) as t:\n    t.write_text('half')\n    os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".m.json.")
    own = tmp_path / f".m.json.{os.uname().nodename}.{os.getpid()}.x.partial"
    own.write_text("of a process that lives")
    safe_files.write_json(file, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([own.name, "m.json"])


def test_file_names_without_two_that_are_the_same():
    names = ["a b", "a_b", "a_b-2", "A/B", "c", "d" * 400, "d" * 401]
    files = safe_files.file_names(names)
    assert files[1:3] == ["a_b", "a_b-2"]  # names that are file names keep them
    assert files[0] == "a_b-3"
    assert len({file.casefold() for file in files}) == len(files)
    assert max(map(len, files)) < 200


def test_names_that_lead_out_of_a_folder():
    assert safe_files.check_file_name("a b.json", "x") == "a b.json"
    assert safe_files.check_file_name("..a", "x") == "..a"
    for name in ("", ".", "..", "../a", "a/b", "/a", "a\\b", "C:a", "a\0"):
        with pytest.raises(UserError, match="^x: expected the name of a file in this folder, found "):
            safe_files.check_file_name(name, "x")

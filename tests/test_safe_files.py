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
    assert safe_files.get_value({"a": float("inf")}, "a", "x", kind=float) == float("inf")
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

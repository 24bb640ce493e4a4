import pytest

from a2net_tf.data.files import thumos14_files
from a2net_tf.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "detclasslist.txt").write_text("21 run\n7 jump\n")
    (tmp_path / "jump_val.txt").write_text("v 10 20\nw  1.5 2 \n")
    (tmp_path / "run_val.txt").write_text("v\t0 4\r\n\n")
    (tmp_path / "Ambiguous_val.txt").write_text("")
    return tmp_path


def read(folder):
    return thumos14_files.read_annotations(folder, "val", thumos14_files.read_class_list(folder))


def test_rows_by_class_then_line(folder):
    assert thumos14_files.read_class_list(folder) == {"run": 21, "jump": 7}
    assert [row[:4] for row in read(folder)] == [(0, 4, "run", "v"), (10, 20, "jump", "v"), (1.5, 2, "jump", "w")]
    assert read(folder)[-1].where == f"{folder / 'jump_val.txt'}, line 2"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("detclasslist.txt", "21 run\nseven jump\n", "line 2: number: expected a whole number, found 'seven'"),
        ("detclasslist.txt", "21 run\n21 jump\n", "line 2: 21 jump: this name or this number is there already"),
        ("detclasslist.txt", "21 run\n7 run\n", "line 2: 7 run: this name or this number is there already"),
        ("detclasslist.txt", "21 run fast\n", "line 1: expected 'number name', found '21 run fast'"),
        (
            "detclasslist.txt",
            "21 run\n7 ../jump\n",
            r"line 2: name: expected the name of a file in this folder, found '\.\./j",
        ),
        ("detclasslist.txt", "21 run\n7 /tmp/jump\n", "line 2: name: expected the name of a file in this folder"),
        ("run_val.txt", "v 0 4\n\nv 5 6\n", "line 2: expected 'video start end' in seconds, found ''"),
        ("run_val.txt", "v 0 four\n", "line 1: end: expected a number, found 'four'"),
        ("run_val.txt", "v 4 4\n", r"line 1: from 4 to 4 s, expected 0 <= start < end \(reversed\?\)"),
        ("run_val.txt", "v 0 inf\n", "line 1: end: expected a finite number, found 'inf'"),
        ("Ambiguous_val.txt", "v 0 4\nw 0 4\nv 0  4\n", "line 3: the same as line 1"),
    ],
)
def test_wrong_lines(folder, file, text, message):
    (folder / file).write_text(text)
    with pytest.raises(UserError, match=f"{file}, {message}"):
        read(folder)


def test_a_text_of_no_class(folder):
    (folder / "swim_val.txt").touch()
    (folder / "swim_test.txt").touch()
    with pytest.raises(UserError, match=r"swim_val\.txt: 'swim' is none of the 2 classes of detclasslist\.txt"):
        read(folder)

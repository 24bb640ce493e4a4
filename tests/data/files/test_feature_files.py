"""Tests of reading feature files, settings and annotations that users bring."""

import dataclasses
import json
import os
import re

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.data import fingerprints
from a2net_tf.data.files import annotation_files, array_files, feature_files
from a2net_tf.data.files.annotation_files import LabelledSegment
from a2net_tf.errors import UserError, list_some


@dataclasses.dataclass(frozen=True)
class Settings:
    number: float = 1.5
    count: int = 4
    name: str = "auto"
    names: tuple[str, ...] = ()
    allowed: bool = False


# Settings


def test_settings_by_hand(tmp_path):
    assert feature_files.read_settings(tmp_path, Settings()) == Settings()
    (tmp_path / "settings.json").write_text('{"number": 2, "names": ["a"], "allowed": true}')
    found = feature_files.read_settings(tmp_path, Settings())
    assert found == Settings(number=2.0, names=("a",), allowed=True)
    assert type(found.number) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"nunber": 2}', "unknown key 'nunber'; known are number, count, name, names, allowed"),
        ('{"count": 2.5}', "'count' must be a whole number, found 2.5"),
        ('{"count": true}', "'count' must be a whole number, found true"),
        ('{"allowed": 1}', "'allowed' must be true or false, found 1"),
        ('{"number": "2"}', "'number' must be a number, found \"2\""),
        ('{"number": null}', "'number' must be a number, found null"),
        ('{"names": "a"}', "'names' must be a list of texts, found \"a\""),
        ('{"names": [1]}', "'names' must be a list of texts"),
        ('{"name": ["a"]}', "'name' must be a text"),
        ('{\n"name": }', "damaged JSON at line 2"),
        ("[1]", "expected an object {...}, found a list"),
    ],
)
def test_wrong_settings(tmp_path, text, message):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(UserError, match=rf"settings\.json[:,] .*{message}"):
        feature_files.read_settings(tmp_path, Settings())


def test_check_choice():
    feature_files.check_choice("a", ("a", "b"), "x")
    with pytest.raises(UserError, match="^x must be one of a, b, found 'c'$"):
        feature_files.check_choice("c", ("a", "b"), "x")


# Feature files

MATRIX = np.arange(1, 13, dtype=np.float32).reshape(4, 3)


def test_the_same_matrix_in_every_format(tmp_path):
    np.save(tmp_path / "a.npy", MATRIX)
    np.savez(tmp_path / "b.npz", features=MATRIX, other=MATRIX[:1])
    np.savez(tmp_path / "c.npz", anything=MATRIX)
    np.savetxt(tmp_path / "d.csv", MATRIX, delimiter=",")
    np.savetxt(tmp_path / "e.csv", MATRIX, delimiter=",", header="rgb0,rgb1,flow0", comments="")
    for file in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(feature_files.read_features(file), MATRIX)


NUMBERS = [[5, 1.5], [6, -2], [7, 0.25]]


@pytest.mark.parametrize(
    "text",
    [
        "5,1.5\n6,-2\n7,.25\n",
        "\ufeff5,1.5\n6,-2\n7,.25\n",  # Windows tools put a byte order mark first
        "5,1.5\r\n6,-2\r\n7,.25",
        "a,b\n5,1.5\n6,-2\n7,.25\n",
        '"a","b"\n5,1.5\n6,-2\n7,.25\n',
        "5;1,5\n6;-2\n7;0,25\n",  # decimal commas
        "a;b\n5;1.5\n6;-2\n7;0.25\n",
        "5\t1.5\n6\t-2\n7\t.25\n",
        "# made by hand\n\n5,1.5\n6,-2\n# so far\n7,.25\n\n",
        ",a,b\n0,5,1.5\n1,6,-2\n2,7,.25\n",  # DataFrame.to_csv()
        "Unnamed: 0,a,b\n0,5,1.5\n1,6,-2\n2,7,.25\n",
    ],
)
def test_csv_as_people_write_it(tmp_path, text):
    (tmp_path / "x.csv").write_bytes(text.encode())
    np.testing.assert_array_equal(feature_files.read_features(tmp_path / "x.csv"), np.float32(NUMBERS))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1,2\n5,6,7\n", "the first row is 0 to 2: a header of numbers, as pandas writes it"),
        ("5,,7\n5,6,7\n8,,9\n", "line 3: expected a number in column 2, found ''"),  # the first is taken for a header
        ("5,6\n7,\n", "line 2: expected a number in column 2, found ''"),
        ("a,b,c\n5,6\n", "line 2: 2 cells, but the first line has 3"),
        (",a,b\n3,5,1\n8,6,2\n", "the first column has no name and does not count the rows"),
        ("a,b\n", "no rows of numbers"),
        ("5,1.5\n6,two\n", "line 2: expected a number in column 2, found 'two'"),
    ],
)
def test_csv_that_could_mean_something_else(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UserError, match=f"x.csv.*{message}"):
        feature_files.read_features(tmp_path / "x.csv")


def test_a_link_to_the_folder_itself_is_entered_once(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "current").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path)
    assert list(feature_files.find_feature_files(tmp_path)) == ["a"]


def test_csv_of_one_row_and_of_one_column(tmp_path):
    (tmp_path / "row.csv").write_text("1,2,3")
    (tmp_path / "column.csv").write_text("f0\n1\n2\n")
    assert feature_files.read_features(tmp_path / "row.csv").shape == (1, 3)
    assert feature_files.read_features(tmp_path / "column.csv").shape == (2, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"\x93NUMPY broken", "not a readable .npy array"),
        ("x.npy", b"", "not a readable .npy array"),
        ("x.npz", b"PK broken", "not a readable .npz file"),
        ("x.npz", b"", "not a readable .npz file"),
        ("x.csv", b"1,2\n3,x\n", "line 2: expected a number in column 2, found 'x'"),
        ("x.csv", b"1,2\n3\n", "line 2: 1 cells, but the first line has 2"),
        ("x.csv", b"", "no rows of numbers"),
        ("x.csv", b"f0,f1\n", "no rows of numbers"),
        ("x.csv", b"\xff\xfe\x00", "is not a text file"),
    ],
)
def test_damaged_feature_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.\w+[:,] {message}"):
        feature_files.read_features(tmp_path / name)


def test_half_an_archive(tmp_path):
    np.savez(tmp_path / "x.npz", features=np.ones((100, 100)))
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"x\.npz: not a readable"):
        feature_files.read_features(tmp_path / "x.npz")


def test_pickled_objects_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object))
    np.savez(tmp_path / "x.npz", features=np.array([None], dtype=object))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(UserError, match="not a readable .*allow_pickle"):
            feature_files.read_features(tmp_path / name)


def test_array_that_is_not_there(tmp_path):
    np.savez(tmp_path / "x.npz", a=MATRIX, b=MATRIX)
    with pytest.raises(UserError, match=r"x\.npz: no array named 'features', found a, b"):
        feature_files.read_features(tmp_path / "x.npz")
    with pytest.raises(UserError, match=r"x\.npz: no array named 'c', found a, b"):
        array_files.read_arrays(tmp_path / "x.npz", ["a", "c"])


def save_shapes(folder, *shapes):
    files = [folder / f"{number}.npy" for number in range(len(shapes))]
    for file, shape in zip(files, shapes, strict=True):
        np.save(file, np.zeros(shape))
    return files


def test_find_num_features(tmp_path):
    assert feature_files.find_num_features([]) == 0
    assert feature_files.find_num_features(save_shapes(tmp_path, (7, 3))) == 3
    assert feature_files.find_num_features(save_shapes(tmp_path, (7, 3), (2, 3), (2, 9))) == 3


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((7, 3), (7, 4)), r"1\.npy: 4 values per step, but 0\.npy has 3; are the matrices transposed\?"),
        (((7, 3), (9, 4)), r"1\.npy: 4 values per step, but 0\.npy has 3$"),
        (((7, 3), (9,)), r"1\.npy: expected a matrix \[steps, features\], found shape \[9\]"),
    ],
)
def test_files_that_differ(tmp_path, shapes, message):
    with pytest.raises(UserError, match=message):
        feature_files.find_num_features(save_shapes(tmp_path, *shapes))


def test_find_feature_files(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("sub/b.npz", "a.npy", ".hidden/c.npy", "d.txt"):
        (tmp_path / name).touch()
    assert feature_files.find_feature_files(tmp_path) == {"a": tmp_path / "a.npy", "b": tmp_path / "sub" / "b.npz"}
    (tmp_path / "b.npy").touch()
    with pytest.raises(UserError, match="b.npz: .*b.npy is there as well"):
        feature_files.find_feature_files(tmp_path)


def test_linked_folders_are_entered(tmp_path):
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "disk" / "deep" / "a.npy").touch()
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "rgb").symlink_to(tmp_path / "disk")
    assert feature_files.list_files(tmp_path / "features", (".npy",)) == [tmp_path / "features/rgb/deep/a.npy"]
    assert feature_files.list_files(tmp_path / "nowhere", (".npy",)) == []


def test_fingerprint(tmp_path):
    np.save(tmp_path / "a.npy", MATRIX)
    first = fingerprints.fingerprint(tmp_path)
    assert (first["files"], first["bytes"]) == (1, (tmp_path / "a.npy").stat().st_size)
    assert json.loads(json.dumps(first)) == first
    (tmp_path / "film.mp4").touch()  # nothing that a builder reads
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "dataset_info.json").touch()
    (tmp_path / "prepared" / "labels.txt").touch()
    assert fingerprints.fingerprint(tmp_path) == first
    assert fingerprints.find_difference(tmp_path, first) is None


def test_the_first_file_that_has_changed_is_named(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("a.npy", "more/b.npy"):
        np.save(tmp_path / name, MATRIX)
    then, content = fingerprints.fingerprint(tmp_path), (tmp_path / "more/b.npy").read_bytes()
    os.utime(tmp_path / "a.npy", (1, 1))
    os.utime(tmp_path / "more/b.npy", (1, 1))
    assert fingerprints.find_difference(tmp_path, then) is None
    (tmp_path / "more/b.npy").write_bytes(content[:-1] + b"x")
    assert fingerprints.find_difference(tmp_path, then) == "more/b.npy has another content"
    (tmp_path / "more/b.npy").write_bytes(content + b"x")
    found = fingerprints.find_difference(tmp_path, then)
    assert found == f"more/b.npy has {len(content) + 1} bytes, then {len(content)}"
    (tmp_path / "settings.json").touch()
    assert fingerprints.find_difference(tmp_path, then) == "settings.json is new"
    (tmp_path / "a.npy").rename(tmp_path / "c.npy")
    assert fingerprints.find_difference(tmp_path, then) == "a.npy is gone"


# Annotations


JUMP = [{"segment": [1, 2], "label": "jump"}]


def entry(**fields):
    return {"subset": "training", "duration": 10, "annotations": JUMP, **fields}


def test_read_entries():
    first, second = annotation_files.read_entries({"b": entry(fps=25), "a": entry(annotations=[], duration=None)}, "x")
    assert (first.name, first.duration_seconds, first.fields["fps"]) == ("b", 10.0, 25)
    assert first.actions == (LabelledSegment(1.0, 2.0, "jump"),)
    assert (second.name, second.duration_seconds, second.actions) == ("a", 0.0, ())


def test_reading_does_not_clean():
    """Reversed, empty and repeated actions are for the building and the scoring to judge, each in its way."""
    rows = [[2, 1], [3, 3], [-5, 99], [3, 3]]
    [found] = annotation_files.read_entries({"a": entry(annotations=[{"segment": r, "label": "j"} for r in rows])}, "x")
    assert [list(action[:2]) for action in found.actions] == rows


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"annotations": [*JUMP, {"segment": [1, 2]}]}, "annotations[1]: key 'label' is missing; found segment"),
        (
            {"annotations": [{"segment": [1], "label": "j"}]},
            "annotations[0]: segment: expected [start, end], found [1]",
        ),
        (
            {"annotations": [{"segment": [1, "2"], "label": "j"}]},
            'annotations[0]: segment: expected a number, found "2"',
        ),
        (
            {"annotations": [{"segment": [1, True], "label": "j"}]},
            "annotations[0]: segment: expected a number, found true",
        ),
        (
            {"annotations": [{"segment": [1, 2], "label": 7.5}]},
            "annotations[0]: label: expected a text or a whole number",
        ),
        ({"annotations": ["jump"]}, 'annotations[0]: expected an object {...}, found "jump"'),
        ({"annotations": None}, "annotations: expected a list [...], found null"),
        ({"duration": "long"}, 'duration: expected a number, found "long"'),
        ({"subset": 1}, "subset: expected a text, found 1"),
    ],
)
def test_wrong_entries(fields, message):
    with pytest.raises(UserError, match=f"^x: video 'a': {re.escape(message)}"):
        annotation_files.read_entries({"a": entry(**fields)}, "x")


def test_missing_keys():
    with pytest.raises(UserError, match="video 'a': key 'subset' is missing; found annotations"):
        annotation_files.read_entries({"a": {"annotations": []}}, "x")
    with pytest.raises(UserError, match="video 'a': key 'annotations' is missing; found subset"):
        annotation_files.read_entries({"a": {"subset": "training"}}, "x")
    with pytest.raises(UserError, match="x: expected an object"):
        annotation_files.read_entries([], "x")


def segments(*rows):
    return [LabelledSegment(*row, "jump") for row in rows]


def test_clean_actions_by_hand():
    kept, counts = annotation_files.clean_actions(
        segments((1, 2), (3, 3), (-0.25, 4), (9, 10.5), (1, 2)), 10.0, where="x", max_clip_seconds=0.5
    )
    assert kept == segments((1, 2), (0, 4), (9, 10), (1, 2))
    assert counts == {"of no length, dropped": 1, "clipped to the recording": 2, "repeated, kept": 1}
    assert annotation_files.clean_actions([], 10.0, where="x") == ([], {})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((2, 1), r"'jump' from 2 to 1 s does not end after its start \(reversed\?\)"),
        ((1, float("nan")), "does not end after its start"),
        ((1, float("inf")), "does not end after its start"),
        ((1, 10.6), "lies outside the recording of 10 s"),
        ((10, 10.2), "lies outside the recording of 10 s"),
        ((-0.6, 1), "lies outside the recording of 10 s"),
    ],
)
def test_actions_that_cannot_be(row, message):
    with pytest.raises(UserError, match=f"^x: .*{message}"):
        annotation_files.clean_actions(segments(row), 10.0, where="x", max_clip_seconds=0.5)


def test_clean_entries(capsys):
    database = {"a": entry(annotations=[{"segment": [1, 10.5], "label": "j"}]), "b": entry(duration=0), "c": entry()}
    cleaned, changed = annotation_files.clean_entries(annotation_files.read_entries(database, "x"), "x")
    assert changed == {"clipped to the recording": 1}
    assert [e.actions[0].end_seconds for e in cleaned] == [10.0, 2.0, 2.0]
    assert capsys.readouterr().out == "x: actions clipped to the recording: 1\n"
    annotation_files.clean_entries(cleaned, "x")
    assert capsys.readouterr().out == ""


def test_check_labels():
    entries = annotation_files.read_entries({"a": entry()}, "x")
    annotation_files.check_labels(entries, ["jump"], "x")
    with pytest.raises(UserError, match="x: video 'a' has the label 'jump', which is none of the 1 classes"):
        annotation_files.check_labels(entries, ["run"], "x")


def test_check_missing(capsys):
    annotation_files.check_missing(["a", "b"], {"a", "b", "c"}, allow_missing=False, where="x")
    with pytest.raises(UserError, match=r'x: 1 of 2 annotated videos have no features: b; .*"allow_missing": true'):
        annotation_files.check_missing(["a", "b"], {"a"}, allow_missing=False, where="x")
    annotation_files.check_missing(["a", "b"], {"a"}, allow_missing=True, where="x")
    assert "no features: b; left out" in capsys.readouterr().out


def test_counts():
    counts = annotation_files.count_actions([["run", "jump"], [], ["run"]], ["jump", "run", "sit"])
    assert counts == {"videos": 3, "actions": 3, "classes": 2, "per_class": {"jump": 1, "run": 2, "sit": 0}}
    assert json.loads(json.dumps(counts)) == counts
    assert annotation_files.describe_counts(counts) == "3 videos, 3 actions of 2 classes: jump 1, run 2, sit 0"
    assert annotation_files.describe_counts(counts, max_classes=2) == "3 videos, 3 actions of 2 classes"


def test_list_some():
    assert list_some("abc") == "a, b, c"
    assert list_some("abcd", 2) == "a, b and 2 more"


# resize_linear


def test_resize_by_hand():
    features = np.float32([[0, 10], [4, 50]])
    np.testing.assert_allclose(feature_files.resize_linear(features, 4), [[0, 10], [1, 20], [3, 40], [4, 50]])
    np.testing.assert_allclose(feature_files.resize_linear(np.float32([[0], [1], [5], [6]]), 2), [[0.5], [5.5]])


def test_resize_to_the_same_length_changes_nothing():
    features = np.random.default_rng(0).normal(size=(37, 5)).astype(np.float32)
    np.testing.assert_array_equal(feature_files.resize_linear(features, 37), features)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 128])
def test_resize_a_single_step(num_steps):
    np.testing.assert_array_equal(feature_files.resize_linear(np.float32([[3, 4]]), num_steps), [[3, 4]] * num_steps)


@pytest.mark.parametrize(("old", "new"), [(100, 128), (300, 128), (7, 128), (128, 64)])
def test_resize_keeps_time(old, new):
    """A feature that tells the time still tells it, wherever there is something on both sides."""
    middles = ((np.arange(old) + 0.5) / old)[:, None]
    expected = np.clip((np.arange(new) + 0.5) / new, middles[0, 0], middles[-1, 0])
    np.testing.assert_allclose(feature_files.resize_linear(middles, new)[:, 0], expected, atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [(100, 128), (501, 128), (2, 5), (9, 4)])
def test_resize_as_image_libraries_do(old, new):
    features = np.random.default_rng(1).normal(size=(old, 6)).astype(np.float32)
    image = tf.image.resize(features[:, None], [new, 1])
    np.testing.assert_allclose(feature_files.resize_linear(features, new), image[:, 0], atol=1e-5)


def test_resize_refuses_nothing():
    for steps, new in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match="cannot resize"):
            feature_files.resize_linear(np.zeros((steps, 2)), new)


def test_a_text_is_not_called_a_file_of_objects(tmp_path):
    (tmp_path / "x.npy").write_text("1,2,3\n4,5,6\n")
    with pytest.raises(UserError, match=r"x\.npy: not a readable \.npy array \(numpy has not written it"):
        feature_files.read_features(tmp_path / "x.npy")


@pytest.mark.parametrize("lengths", [[], [0], [1], [3, 0, 2], [1] * 1001])
def test_rows_that_come_part_by_part(tmp_path, lengths):
    whole = np.random.default_rng(0).normal(size=(sum(lengths), 5)).astype(np.float32)
    parts = np.split(whole, np.cumsum(lengths))
    assert array_files.write_rows(tmp_path / "x.npy", parts, 5, np.dtype(np.float16)) == len(whole)
    found = np.load(tmp_path / "x.npy")
    assert (found.dtype, found.shape) == (np.float16, whole.shape)
    np.testing.assert_array_equal(found, whole.astype(np.float16))


def test_rows_of_another_length(tmp_path):
    with pytest.raises(ValueError, match="expected rows of 5"):
        array_files.write_rows(tmp_path / "x.npy", [np.ones((2, 4))], 5, np.dtype(np.float32))

"""A prepared directory of a stranger, or a damaged one, is refused before TFDS and TensorFlow open it."""

import json
import shutil
import struct
import time

import pytest
import tensorflow as tf
from tensorflow.core.example import example_pb2

from a2net_tf.data import prepared
from a2net_tf.errors import UserError
from a2net_tf.main import main
from tests import fuzz_kinds, tiny

CHECK = ("--mode=check", "--window_steps=16", "--num_levels=2", "--level_channels=8,8")


@pytest.fixture
def directory(tmp_path):
    """A copy of a small prepared dataset, to be damaged at will."""
    return shutil.copytree(next(fuzz_kinds.small_dataset().glob("feature_folder/*")), tmp_path / "prepared")


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_the_copy_is_whole(directory):
    builder = prepared.open_dataset(str(directory))
    names = {split: [r["id"] for r in prepared.read_records(builder, split)] for split in builder.info.splits}
    assert {split: len(found) for split, found in names.items()} == {"train": 2, "test": 1}
    assert prepared.find_damaged_file(builder, "train") is None


# --- what TFDS would import, and where it would read


@pytest.mark.parametrize("where", ["top", "field", "old form"])
def test_no_module_of_the_current_folder_is_imported(directory, tmp_path, monkeypatch, capsys, where):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evilmod.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')")

    def change(content):
        if where == "old form":
            content.update(type="evilmod.X", content={})
        else:
            holder = content if where == "top" else content["featuresDict"]["features"]["num_steps"]
            holder["pythonClassName"] = "evilmod.X"

    edit(directory / "features.json", change)
    line = tiny.refused(capsys, tmp_path, *CHECK, f"--dataset={directory}")
    assert f"{directory / 'features.json'}: names the class 'evilmod.X', which is none of those that describe" in line
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("dataset_info.json", lambda c: c.update(name="../other"), "name: expected the name of a file in this folder"),
        ("dataset_info.json", lambda c: c.update(fileFormat="riegeli"), "expected 'tfrecord', found 'riegeli'"),
        ("dataset_info.json", lambda c: c.update(splits=3), r"splits: expected a list \[\.\.\.\], found 3"),
        (
            "dataset_info.json",
            lambda c: c["splits"][0].update(filepathTemplate="/tmp/{SPLIT}"),
            r"splits\[0\]: filepathTemplate: expected the name of a file in this folder, found '/tmp/\{SPLIT\}'",
        ),
        (
            "dataset_info.json",
            lambda c: c["splits"][0].update(filepathTemplate=None),
            r"filepathTemplate: expected a text, found null",
        ),
        ("dataset_info.json", lambda c: c["splits"][0].update(name="../x"), "name of a file in this folder"),
        ("dataset_info.json", lambda c: c["splits"][0].update(name="train"), "two have the same name"),
        ("dataset_info.json", lambda c: c["splits"][0].update(shardLengths=["-1"]), "expected whole numbers, found"),
        ("dataset_info.json", lambda c: c.update(version="x"), r"damaged, or not prepared by TFDS \("),
        ("dataset_info.json", lambda c: c.update(nonsense=1), r"damaged, or not prepared by TFDS \("),
        ("features.json", lambda c: c["featuresDict"]["features"].pop("labels"), "its records have no labels"),
        (
            "features.json",
            lambda c: c["featuresDict"]["features"]["num_steps"]["tensor"].update(dtype="float32"),
            r"features\.json: num_steps: expected .*int64.*, found .*float32",
        ),
        (
            "features.json",
            lambda c: c["featuresDict"]["features"]["labels"]["sequence"]["feature"]["classLabel"].update(
                numClasses=str(2**40)
            ),
            r"labels: expected .*num_classes=3.*, found .*num_classes=1099511627776",
        ),
        ("metadata.json", lambda c: c.update(also_reported={"jump": "fly"}), "also_reported: 'fly' is none of the"),
        ("metadata.json", lambda c: c.update(counts={"train": 3}), r"counts: train: expected an object"),
        ("metadata.json", lambda c: c.update(fingerprint={"files": 3}), "fingerprint: key 'bytes' is missing"),
    ],
)
def test_files_of_tfds(directory, file, change, message):
    edit(directory / file, change)
    with pytest.raises(UserError, match=message) as error:
        prepared.open_dataset(str(directory))
    assert str(directory) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["jump\nrun\n", "jump\n\nrun\nsit\n", " jump\nrun\nsit\n", "jump\nrun\nrun\n", ""])
def test_class_names_that_tfds_would_read_in_another_way(directory, text):
    """It passes over empty lines and blanks, and so would shift or merge classes."""
    (directory / "labels.labels.txt").write_text(text)
    with pytest.raises(UserError, match=str(directory)):
        prepared.open_dataset(str(directory))


def test_class_names_that_are_missing(directory):
    """TFDS would call the classes 0, 1, 2."""
    (directory / "labels.labels.txt").unlink()
    with pytest.raises(UserError, match=r"labels\.labels\.txt: cannot be read"):
        prepared.open_dataset(str(directory))


def test_a_builder_looks_at_its_own_directory_too(tmp_path):
    path = shutil.copytree(tiny.data_dir(), tmp_path / "data") / "toy_actions" / "1.0.0"
    (path / "dataset_info.json").write_text('{"name": ')
    with pytest.raises(UserError, match=rf"{path / 'dataset_info.json'}: damaged JSON"):
        prepared.open_dataset("toy_actions", data_dir=str(tmp_path / "data"))


# --- records whose checksums are right


def write_first_record(directory, payload, *, length=None):
    """In the place of the first training record; ``length`` says something else than the payload has."""
    [file] = directory.glob("*-train.tfrecord*")
    content = file.read_bytes()
    (old,) = struct.unpack_from("<Q", content)
    header = struct.pack("<Q", len(payload) if length is None else length)
    written = header + fuzz_kinds.checksum(header) + payload + fuzz_kinds.checksum(payload)
    file.write_bytes(written + content[16 + old :])
    return file


def first_record(directory):
    [file] = directory.glob("*-train.tfrecord*")
    return next(iter(tf.data.TFRecordDataset(str(file)))).numpy()


def test_checksums_are_those_of_the_format(directory):
    [file] = directory.glob("*-train.tfrecord*")
    before = file.read_bytes()
    assert write_first_record(directory, first_record(directory)).read_bytes() == before


@pytest.mark.parametrize("length", [2**40, 2**64 - 1, 2**31, 0])
def test_a_length_beyond_the_file(directory, tmp_path, capsys, length):
    """TensorFlow would reserve it: that is the end of the process."""
    file = write_first_record(directory, first_record(directory), length=length)
    started = time.monotonic()
    line = tiny.refused(capsys, tmp_path, *CHECK, f"--dataset={directory}")
    assert line.startswith(f"error: {file}: missing, truncated or damaged record file")
    assert time.monotonic() - started < 20


def change_feature(name, kind, values):
    def change(example):
        example.features.feature[name].Clear()
        getattr(example.features.feature[name], kind).value.extend(values)

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (change_feature("labels", "int64_list", [0, 1, 3]), "its labels are those of classes"),
        (change_feature("labels", "int64_list", [0, 1, -1]), "its labels are those of classes"),
        (change_feature("labels", "int64_list", [0]), "its labels are one for each action"),
        (change_feature("segments", "float_list", [1, 2, 5, 4, 6, 7]), "its actions are finite and in order"),
        (change_feature("segments", "float_list", [1, 2, 3, float("nan"), 6, 7]), "its actions are finite"),
        (change_feature("segments", "float_list", [1, 2, 3]), ""),
        (change_feature("num_steps", "int64_list", [2**40]), "its chunk lies in the sequence"),
        (change_feature("num_steps", "int64_list", [1]), "its chunk lies in the sequence"),
        (change_feature("chunk_start_step", "int64_list", [-1]), "its chunk lies in the sequence"),
        (change_feature("chunk_owned_steps", "int64_list", [0]), "its chunk lies in the sequence"),
        (change_feature("feature_stride_seconds", "bytes_list", [struct.pack("<d", 0)]), "its times are finite"),
        (change_feature("duration_seconds", "bytes_list", [struct.pack("<d", float("inf"))]), "its times are finite"),
        (change_feature("first_step_seconds", "bytes_list", [b"short"]), ""),
        (change_feature("features", "bytes_list", [b"\0" * 33]), ""),
        (change_feature("features", "bytes_list", [b""]), "its chunk lies in the sequence"),
        (change_feature("features", "int64_list", [1]), ""),
        (change_feature("id", "bytes_list", [b"\xff\xfe"]), "its texts are in UTF-8"),
        (lambda example: example.features.feature.pop("labels") and None, "its labels are one for each action"),
        (lambda example: example.features.feature.pop("num_steps") and None, ""),
    ],
)
def test_content_that_makes_no_sense(directory, tmp_path, capsys, change, told):
    example = example_pb2.Example.FromString(first_record(directory))
    change(example)
    file = write_first_record(directory, example.SerializeToString())
    line = tiny.refused(capsys, tmp_path, *CHECK, f"--dataset={directory}", alone=False)
    assert line.startswith(f"error: {file}: missing, truncated or damaged record file")
    assert prepared.find_damaged_file(prepared.open_dataset(str(directory)), "train") == str(file)


@pytest.mark.parametrize("payload", [b"", b"\xff\xfe\xd8 no protocol buffer", bytes(range(256))])
def test_content_that_is_no_record(directory, tmp_path, payload, capsys):
    """TensorFlow quotes it in its message, which then is no text in UTF-8."""
    file = write_first_record(directory, payload)
    flags = [f"--dataset={directory}", "--train_split=train", f"--workdir={tmp_path / 'run'}", *tiny.NETWORK]
    assert main(["--mode=train", *flags]) == 1
    assert f"error: {file}: missing, truncated or damaged record file" in capsys.readouterr().err
    assert not (tmp_path / "run" / "run.json").exists()

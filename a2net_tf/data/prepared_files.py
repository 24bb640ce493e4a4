"""The files of a prepared dataset, looked at before TFDS and TensorFlow open them.

A prepared directory may be damaged or come from a stranger. TFDS imports the modules that features.json names and reads
the record files that dataset_info.json names, wherever they are; TensorFlow reserves as much memory as a record says it
is long. Files on remote file systems are looked at too, but for the lengths of records.
"""

import functools
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds

from a2net_tf.data import schema
from a2net_tf.data.labels import check_also_reported, check_class_names
from a2net_tf.errors import UserError, list_some
from a2net_tf.safe_files import check_file_name, check_kind, get_value, read_json_object, read_text

INFO_FILE = "dataset_info.json"
_FEATURES = tfds.features
# Of TFDS's classes, those that a record is described with.
_KNOWN_CLASSES = {
    f"{known.__module__}.{known.__qualname__}"
    for known in (_FEATURES.FeaturesDict, _FEATURES.Tensor, _FEATURES.Text, _FEATURES.Sequence, _FEATURES.ClassLabel)
}
_AROUND_A_RECORD = 16  # bytes: its length, the length's checksum, and after it its own checksum
_AGAIN = "delete the prepared dataset and prepare it again"


def check_directory(folder: tfds.core.Path) -> None:
    """Raises UserError, naming the file, if TFDS must not open this directory or could not.

    Args:
        folder: that holds dataset_info.json.
    """
    _check_info(folder / INFO_FILE)
    file = folder / "features.json"
    for name in _class_names_in(read_json_object(file)):
        if str(name) not in _KNOWN_CLASSES:
            raise UserError(
                f"{file}: names the class {str(name)[:80]!r}, which is none of those that describe records "
                f"({list_some(sorted(known.rpartition('.')[2] for known in _KNOWN_CLASSES))}); it is not loaded, since "
                "that could run any code"
            )
    if (folder / "metadata.json").exists():
        read_json_object(folder / "metadata.json")


def _check_info(file: tfds.core.Path) -> None:
    """Names in dataset_info.json become names of files."""
    info = read_json_object(file)
    check_file_name(get_value(info, "name", str(file), kind=str), f"{file}: name")
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise UserError(f"{file}: fileFormat: expected 'tfrecord', found {str(info['fileFormat'])[:80]!r}")
    names = []
    for number, split in enumerate(get_value(info, "splits", str(file), kind=list)):
        where = f"{file}: splits[{number}]"
        names.append(check_file_name(get_value(split, "name", where, kind=str), f"{where}: name"))
        template = check_kind(split.get("filepathTemplate", "default"), str, f"{where}: filepathTemplate")
        check_file_name(template, f"{where}: filepathTemplate")
        for length in get_value(split, "shardLengths", where, kind=list):
            if not re.fullmatch(r"\d{1,18}", str(length)):  # written as texts
                raise UserError(f"{where}: shardLengths: expected whole numbers, found {str(length)[:80]!r}")
    if len(set(names)) < len(names):
        raise UserError(f"{file}: splits: two have the same name, found {list_some(names)}")


def _class_names_in(content: Any) -> Iterator[object]:
    """What features.json names as classes, at any depth, in the form of today's TFDS and of older ones."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "pythonClassName" or (key == "type" and not isinstance(value, dict)):
                yield value
            yield from _class_names_in(value)
    elif isinstance(content, list):
        for value in content:
            yield from _class_names_in(value)


def check_schema(builder: tfds.core.DatasetBuilder) -> None:
    """Raises UserError if an opened dataset does not hold records, or says something else of them beside."""
    path, present = builder.data_path, builder.info.features or {}
    expected = schema.record_features(1, ["any"])
    if missing := [name for name in expected if name not in present]:
        raise UserError(
            f"{path}: its records have no {list_some(missing)}; was it prepared by another program? "
            "a2net_tf/data/schema.py says what a record holds"
        )
    names = _read_names(path, present["labels"])
    shape, dtype = present["features"].shape or (0,), str(present["features"].np_dtype)
    if not (type(shape[-1]) is int and shape[-1] > 0 and dtype in schema.STORED_FEATURES):
        raise UserError(f"{path / 'features.json'}: features: expected [steps, D], found {shape} of {dtype}")
    expected = schema.record_features(shape[-1], names, dtype)
    for name, feature in expected.items():
        if _described(present[name]) != _described(feature):
            raise UserError(f"{path / 'features.json'}: {name}: expected {feature!r}, found {present[name]!r}")
    _check_metadata(path, names, builder.info.metadata)


def _read_names(path: tfds.core.Path, labels: tfds.features.FeatureConnector) -> list[str]:
    """The class names, if the labels have any and TFDS has read them as they stand in their file."""
    file = path / "labels.labels.txt"
    names = read_text(file).rstrip("\n").split("\n")
    read = getattr(getattr(labels, "feature", None), "names", None)
    if check_class_names(names, str(file)) != read:
        raise UserError(f"{file}: its lines are not the classes that features.json counts; {_AGAIN}")
    return names


def _described(feature: Any) -> Any:
    """What a feature is as JSON, without the words of explanation."""

    def plain(value: Any) -> Any:
        return {k: plain(v) for k, v in value.items() if k != "description"} if isinstance(value, dict) else value

    return plain(feature.to_json())


def _check_metadata(path: tfds.core.Path, class_names: Sequence[str], metadata: dict | None) -> None:
    """What modes use of metadata.json without another check."""
    file, said = path / "metadata.json", dict((metadata or {}).items())
    where = f"{file}: also_reported"
    check_also_reported(check_kind(said.get("also_reported", {}), dict, where), class_names, where)
    for split, counts in check_kind(said.get("counts", {}), dict, f"{file}: counts").items():
        for key, kind in {"videos": float, "actions": float, "classes": float, "per_class": dict}.items():
            get_value(counts, key, f"{file}: counts: {split}", kind=kind)
    for key in ("files", "bytes") if said.get("fingerprint") is not None else ():
        get_value(said["fingerprint"], key, f"{file}: fingerprint", kind=float)


def check_record_files(builder: tfds.core.DatasetBuilder, split: str) -> None:
    """Raises UserError for a file of ``split`` that is not there, not whole, or has another number of records."""
    for instruction in builder.info.splits[split].file_instructions:
        if not is_whole(str(instruction.filename), instruction.examples_in_shard):
            raise UserError(f"{instruction.filename}: missing, truncated or damaged record file; {_AGAIN}")


def is_whole(path: str, num_records: int) -> bool:
    """Whether a file is there and holds ``num_records``, each as long as it says; of a remote file, True."""
    if "://" in path:
        return True
    try:
        status = os.stat(path)
        return _count_records(path, status.st_size, status.st_mtime_ns) == num_records
    except OSError:
        return False


@functools.lru_cache(maxsize=100_000)
def _count_records(path: str, size: int, _changed: int) -> int | None:
    """How many records follow one another to the end of a file; None if one would end beyond it. Reads no content."""
    number = position = 0
    with open(path, "rb", buffering=0) as file:
        while position < size:
            file.seek(position)
            position += int.from_bytes(file.read(8), "little") + _AROUND_A_RECORD
            number += 1
    return number if position == size else None

"""Tests of the record schema, its checks, chunks, and of opening prepared datasets."""

import pathlib
import pickle
import re

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from a2net_tf.data import prepared, schema
from a2net_tf.errors import UserError

CLASS_NAMES = ("jump", "run", "sit")


def make(
    features: object = None, segments: object = ((1.0, 2.5), (3.0, 4.0)), labels: object = (0, 2), **settings
) -> dict:
    """A record of 10 steps, half a second each; arguments replace single fields."""
    features = np.arange(30, dtype=np.float32).reshape(10, 3) if features is None else features
    settings = {"num_classes": 3, "feature_stride_seconds": 0.5, "source": "video.npy", **settings}
    return schema.make_record("video", features, segments, labels, **settings)


# make_record


def test_make_record_by_hand():
    record = make(first_step_seconds=0.25, ambiguous_segments=[[0, 1]])
    assert record["features"].shape == (10, 3)
    assert (record["num_steps"], record["chunk_start_step"], record["chunk_owned_steps"]) == (10, 0, 10)
    assert record["duration_seconds"] == 0.25 + 10 * 0.5
    np.testing.assert_array_equal(record["segments"], np.float32([[1, 2.5], [3, 4]]))
    np.testing.assert_array_equal(record["labels"], [0, 2])
    np.testing.assert_array_equal(record["ambiguous_segments"], np.float32([[0, 1]]))


def test_make_record_without_actions():
    record = make(segments=np.zeros((0, 2)), labels=[])
    assert record["segments"].shape == (0, 2)
    assert record["labels"].shape == (0,)
    assert record["ambiguous_segments"].shape == (0, 2)


@pytest.mark.parametrize(("given", "stored"), [("f2", "f2"), ("f4", "f4"), ("f8", "f4"), ("i4", "f4"), ("u1", "f4")])
def test_make_record_stores_16_or_32_bits(given, stored):
    assert make(np.ones((4, 3), given), segments=[], labels=[])["features"].dtype == np.dtype(stored)


def test_action_may_end_with_the_recording():
    assert make(segments=[[0, 5.0]], labels=[1])["segments"][0, 1] == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": np.ones(10)}, r"expected a number matrix \[steps, features\], found shape \[10\] of float64"),
        ({"features": np.ones((1, 2, 3))}, r"found shape \[1, 2, 3\]"),
        ({"features": np.array([["a", "b"]])}, r"expected a number matrix .* of <U1"),
        ({"features": np.zeros((0, 3))}, "0 feature steps; an empty recording cannot be used"),
        ({"features": [[0.0], [np.nan], [np.inf]]}, "2 steps hold NaN or infinite values, the first is step 1"),
        (
            {"features": [[0.0], [-1e25], [2e20]]},
            r"step 1 holds a value of size 1e\+25, whose square is beyond float32",
        ),
        ({"features": np.full((3, 1), 1e30)}, r"step 0 holds a value of size 1e\+30"),
        ({"feature_stride_seconds": 0.0}, "feature_stride_seconds must be > 0 and finite, got 0.0"),
        ({"feature_stride_seconds": np.nan}, "feature_stride_seconds must be > 0 and finite, got nan"),
        ({"feature_stride_seconds": np.inf}, "feature_stride_seconds must be > 0 and finite, got inf"),
        ({"first_step_seconds": np.nan}, "first_step_seconds must be finite, got nan"),
        ({"duration_seconds": 0.0}, "duration_seconds must be > 0 and finite, got 0.0"),
        ({"duration_seconds": np.nan}, "duration_seconds must be > 0 and finite, got nan"),
        ({"segments": [[1, np.nan], [3, 4]]}, "action from 1.0 to nan s is not finite"),
        ({"segments": [[2.5, 1], [3, 4]]}, r"action from 2.5 to 1 s does not end after its start \(reversed\?\)"),
        ({"segments": [[1, 1], [3, 4]]}, "action from 1 to 1 s does not end after its start"),
        ({"segments": [[-0.5, 1], [3, 4]]}, r"action from -0.5 to 1 s lies outside the recording \(0 to 5 s\)"),
        ({"segments": [[1, 2], [3, 5.1]]}, r"action from 3 to 5.1 s lies outside .*; wrong unit or sampling rate\?"),
        ({"segments": [1, 2, 3, 4]}, r"expected segments as \[actions, 2\], start and end, found shape \[4\]"),
        ({"segments": np.ones((2, 3))}, r"expected segments as .* found shape \[2, 3\]"),
        ({"ambiguous_segments": [[4, 9]]}, "action from 4 to 9 s lies outside"),
        ({"labels": [0]}, "2 segments but 1 labels"),
        ({"labels": [0, 3]}, "unknown class id 3, the dataset has ids 0 to 2"),
        ({"labels": [-1, 0]}, "unknown class id -1"),
    ],
)
def test_make_record_refuses(fields, message):
    with pytest.raises(UserError, match=rf"^video\.npy: .*{message}"):
        make(**fields)


def test_error_names_the_record_if_there_is_no_source():
    with pytest.raises(UserError, match="^video: 2 segments but 1 labels"):
        make(labels=[0], source="")


def test_check_features_compares_the_size():
    with pytest.raises(UserError, match=r"^x: 4 values per step but 8 are expected$"):
        schema.check_features(np.ones((5, 4)), "x", num_features=8)
    with pytest.raises(UserError, match=r"^x: 4 values per step but 8 are expected; is the matrix transposed\?$"):
        schema.check_features(np.ones((8, 4)), "x", num_features=8)


# split_into_chunks


def chunks_of(num_steps: int, max_steps: int = 16, overlap_steps: int = 6) -> list[tuple[str, dict]]:
    features = np.arange(num_steps, dtype=np.float32)[:, None]
    record = make(features, segments=[], labels=[])
    return list(schema.split_into_chunks(record, max_steps=max_steps, overlap_steps=overlap_steps))


@pytest.mark.parametrize("num_steps", [1, 15, 16])
def test_short_record_stays_whole(num_steps):
    [(key, record)] = chunks_of(num_steps)
    assert key == "video"
    assert len(record["features"]) == record["chunk_owned_steps"] == num_steps


def test_chunks_by_hand():
    chunks = chunks_of(27)
    assert [key for key, _ in chunks] == ["video#0", "video#10", "video#20"]
    assert [len(chunk["features"]) for _, chunk in chunks] == [16, 16, 7]
    assert [chunk["chunk_owned_steps"] for _, chunk in chunks] == [10, 10, 7]
    assert all(chunk["num_steps"] == 27 and chunk["id"] == "video" for _, chunk in chunks)


@pytest.mark.parametrize("window", [1, 4, 6])
@pytest.mark.parametrize("num_steps", [16, 17, 20, 25, 26, 27, 36, 37, 100])
def test_every_window_is_owned_once_and_lies_inside_its_chunk(num_steps, window):
    chunks = [chunk for _, chunk in chunks_of(num_steps)]
    for start in range(num_steps - window + 1):  # the last one is flush with the end
        owners = [c for c in chunks if 0 <= start - c["chunk_start_step"] < c["chunk_owned_steps"]]
        assert len(owners) == 1
        offset = start - owners[0]["chunk_start_step"]
        cut = owners[0]["features"][offset : offset + window, 0]
        np.testing.assert_array_equal(cut, np.arange(start, start + window))


def test_chunks_of_the_default_size():
    chunks = chunks_of(40_000, schema.MAX_CHUNK_STEPS, schema.CHUNK_OVERLAP_STEPS)
    assert [len(chunk["features"]) for _, chunk in chunks] == [16384, 16384, 40_000 - 2 * 15360]


# Round trip through TFDS


class TinySequences(prepared.RecordBuilder, skip_registration=True):
    """One record without actions, one with, and one in chunks."""

    code_path = tfds.core.Path(__file__)
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = schema.record_features(3, CLASS_NAMES, self.stored_features)
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for record in tiny_records():
            for _, chunk in schema.split_into_chunks(record, max_steps=8, overlap_steps=4):
                yield from ((f"{key}#{chunk['chunk_start_step']}", part) for key, part in self.store(chunk))


def tiny_records(stored: str = "float32") -> list[dict]:
    rng = np.random.default_rng(0)
    names_and_steps = (("empty", 4), ("two", 7), ("long", 11))
    times = {"num_classes": 3, "feature_stride_seconds": 4 / 29.97, "first_step_seconds": 1 / 3}
    actions = {"empty": ([], []), "two": ([[0.1, 0.5], [0.2, 0.6]], [2, 0]), "long": ([[0.3, 1.7]], [1])}
    return [
        schema.make_record(name, rng.normal(size=(steps, 3)).astype(schema.numpy_type(stored)), *actions[name], **times)
        for name, steps in names_and_steps
    ]


@pytest.fixture(params=schema.STORED_FEATURES)
def tiny(request, tmp_path):
    builder = TinySequences(data_dir=tmp_path, stored_features=request.param)
    builder.download_and_prepare()
    return builder


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        value = np.asarray(value.encode() if isinstance(value, str) else value)
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        if name in ("features", "segments", "ambiguous_segments", "labels"):
            assert found[name].dtype == value.dtype
            assert found[name].shape == value.shape


def test_round_trip(tiny):
    """Whole records come back bit by bit, with seconds in full precision."""
    found = {r["id"]: r for r in tfds.as_numpy(prepared.read_records(tiny, "train")) if r["id"] != b"long"}
    expected = {r["id"].encode(): r for r in tiny_records(tiny.stored_features)}
    assert found.keys() == {b"empty", b"two"}
    for name, record in found.items():
        assert_same(record, expected[name])


def test_round_trip_of_chunks(tiny):
    found = [r for r in tfds.as_numpy(prepared.read_records(tiny, "train")) if r["id"] == b"long"]
    expected = dict(schema.split_into_chunks(tiny_records(tiny.stored_features)[2], max_steps=8, overlap_steps=4))
    assert len(found) == len(expected) == 2
    for record in found:
        assert_same(record, expected[f"long#{record['chunk_start_step']}"])


def test_reopened_without_the_builder(tiny):
    reopened = prepared.open_dataset(str(tiny.data_path))
    assert prepared.class_names(reopened) == list(CLASS_NAMES)
    assert prepared.num_features(reopened) == 3
    first, second = (
        [record["features"] for record in tfds.as_numpy(prepared.read_records(builder, "train"))]
        for builder in (tiny, reopened)
    )
    for one, other in zip(first, second, strict=True):  # also the order is the same
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("split", ["test", "train+test", "train[:", ""])
def test_unknown_split(tiny, split):
    with pytest.raises(UserError, match=rf"split '{re.escape(split)}' is not in tiny_sequences.*; it has train"):
        prepared.read_records(tiny, split)


@pytest.mark.parametrize("split", ["train[:0]", "train[1:1]", "train[1:0]"])
def test_empty_split(tiny, split):
    with pytest.raises(UserError, match=rf"split '{re.escape(split)}' of tiny_sequences/.* is empty"):
        prepared.read_records(tiny, split)


def test_more_records_than_there_are(tiny):
    with pytest.raises(UserError, match=r"split 'train\[:99\]' is not in .*it has train \(.*\[:99\] incompatible with"):
        prepared.read_records(tiny, "train[:99]")


@pytest.mark.parametrize("split", ["train+train", "train[:2]+train[1:]", "train+train[:1]", "all+train"])
def test_a_record_counts_once(tiny, split):
    with pytest.raises(UserError, match=rf"split '{re.escape(split)}' names some records twice"):
        prepared.read_records(tiny, split)
    assert len(list(prepared.read_records(tiny, "train[1:]+train[:1]"))) == len(
        list(prepared.read_records(tiny, "all"))
    )


def test_nothing_said_beside_the_records(tiny):
    assert prepared.read_metadata(tiny) == prepared.read_metadata(prepared.open_dataset(str(tiny.data_path))) == {}


# open_dataset


@pytest.mark.parametrize("dataset", ["nothing", "nothing/config", "/nowhere/prepared/1.0.0", "no such", "", "../hapt"])
def test_unknown_dataset(dataset, tmp_path):
    with pytest.raises(UserError, match=rf"^--dataset={dataset}: no such dataset; have .*hapt.*toy_actions"):
        prepared.open_dataset(dataset, data_dir=str(tmp_path))


def test_unknown_config(tmp_path):
    with pytest.raises(UserError, match="--dataset=hapt/gyroscope: no config 'gyroscope'; have accelerometer, all_se"):
        prepared.open_dataset("hapt/gyroscope", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="--dataset=toy_actions/small: no config 'small'; have none"):
        prepared.open_dataset("toy_actions/small", data_dir=str(tmp_path))


def test_prepared_once(tmp_path):
    path = prepared.open_dataset("toy_actions", data_dir=str(tmp_path)).data_path
    written = (path / "dataset_info.json").stat().mtime
    again = prepared.open_dataset("toy_actions", data_dir=str(tmp_path))
    assert (path / "dataset_info.json").stat().mtime == written
    assert again.info.splits["train"].num_examples == 60
    by_path = prepared.open_dataset(str(path))
    assert by_path.info.splits["train"].num_examples == 60


def test_directory_that_only_looks_prepared(tmp_path):
    path = pathlib.Path(prepared.open_dataset("toy_actions", data_dir=str(tmp_path)).data_path)
    (path / "dataset_info.json").unlink()
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: exists but holds no dataset_info.json"):
        prepared.open_dataset("toy_actions", data_dir=str(tmp_path))


def test_dataset_names():
    assert {"hapt", "toy_actions"} <= set(prepared.dataset_names())


# find_damaged_file


def record_file(builder: tfds.core.DatasetBuilder) -> pathlib.Path:
    [path] = builder.info.splits["train"].filepaths
    return pathlib.Path(path)


def test_intact_files(tiny):
    assert prepared.find_damaged_file(tiny, "train") is None
    assert prepared.find_damaged_file(tiny, "train[:50%]") is None


def test_truncated_file(tiny):
    path = record_file(tiny)
    path.write_bytes(path.read_bytes()[:-20])
    assert prepared.find_damaged_file(tiny, "train") == str(path)


def test_changed_byte(tiny):
    path = record_file(tiny)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert prepared.find_damaged_file(tiny, "train") == str(path)


def test_file_cut_between_two_records(tiny):
    path = record_file(tiny)
    contents = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content in contents[:-1]:
            writer.write(content)
    assert prepared.find_damaged_file(tiny, "train") == str(path)


def test_missing_file(tiny):
    path = record_file(tiny)
    path.unlink()
    assert prepared.find_damaged_file(tiny, "train") == str(path)


# stored types


@pytest.mark.parametrize("stored", schema.STORED_FEATURES)
def test_features_are_rounded_to_the_stored_type(stored, tmp_path):
    builder = TinySequences(data_dir=tmp_path, stored_features=stored)
    builder.download_and_prepare()
    reopened = TinySequences(data_dir=tmp_path)  # says nothing of the type: takes what is there
    assert prepared.stored_type(builder) == prepared.stored_type(reopened) == reopened.stored_features == stored
    exact = {record["id"].encode(): record["features"] for record in tiny_records()}
    for record in tfds.as_numpy(prepared.read_records(reopened, "train")):
        start = int(record["chunk_start_step"])
        expected = exact[record["id"]][start : start + len(record["features"])].astype(schema.numpy_type(stored))
        assert record["features"].dtype == expected.dtype
        np.testing.assert_array_equal(record["features"], expected)
        np.testing.assert_array_equal(schema.check_features(record["features"], "v"), expected)


def test_a_copy_for_another_process_stores_the_same_type(tmp_path):
    builder = TinySequences(data_dir=tmp_path, stored_features="float16")
    copy = pickle.loads(pickle.dumps(builder))
    assert (copy.stored_features, copy.data_path) == ("float16", builder.data_path)


def test_sixteen_bits_take_half_the_disk(tmp_path):
    sizes = {}
    for stored in schema.STORED_FEATURES:
        path = prepared.open_dataset("toy_actions", str(tmp_path / stored), stored_features=stored).data_path
        sizes[stored] = sum(file.stat().st_size for file in pathlib.Path(path).glob("*tfrecord*"))
    assert sizes["float16"] == sizes["bfloat16"] < 0.55 * sizes["float32"]


def test_another_type_than_the_prepared_one(tmp_path):
    path = prepared.open_dataset("toy_actions", str(tmp_path), stored_features="bfloat16").data_path
    for dataset in ("toy_actions", str(path)):
        with pytest.raises(UserError, match=rf"{path}: its features are stored as bfloat16, not float16.*drop that"):
            prepared.open_dataset(dataset, str(tmp_path), stored_features="float16")
        assert prepared.stored_type(prepared.open_dataset(dataset, str(tmp_path))) == "bfloat16"


def test_unknown_type(tmp_path):
    with pytest.raises(UserError, match="--stored_features=int8: expected float32, float16, bfloat16"):
        prepared.open_dataset("toy_actions", str(tmp_path), stored_features="int8")


@pytest.mark.parametrize(
    ("value", "stored", "advice"), [(7e4, "float16", "bfloat16"), (-3.5e38, "bfloat16", "float32")]
)
def test_overflow_of_the_stored_type(value, stored, advice):
    features = np.zeros((9, 3), np.float64)
    features[4, 1] = value
    message = rf"video.npy: step 104 holds {features[4, 1]:g}, and {stored} ends at .*use --stored_features={advice}"
    with pytest.raises(UserError, match=re.escape(message).replace(r"\.\*", ".*")):
        schema.convert_features(features, stored, "video.npy", first_step=100)

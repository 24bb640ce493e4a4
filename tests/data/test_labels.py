import numpy as np
import pytest

from a2net_tf.data import prepared, schema
from a2net_tf.data.files import annotation_files
from a2net_tf.data.labels import check_class_names, check_label
from a2net_tf.errors import UserError


@pytest.mark.parametrize(
    ("value", "label"), [("jump", "jump"), ("high jump", "high jump"), ("跳", "跳"), (0, "0"), (12, "12")]
)
def test_texts_and_whole_numbers(value, label):
    assert check_label(value, "x") == label


BAD = [
    ("", "is blank"),
    (" ", "is blank"),
    ("hum ", "has blanks at an end"),
    ("\thum", "has blanks at an end"),
    ("up\ndown", "holds a line break or control character"),
    ("up\u2028down", "holds a line break"),
    ("up\x1b[2J", "holds a line break or control character"),
    (None, "expected a text or a whole number, found null"),
    (float("nan"), "expected a text or a whole number, found nan"),
    (1.5, "expected a text or a whole number, found 1.5"),
    (True, "expected a text or a whole number"),
    (["a"], r"found a list \[...\]"),
    ({}, r"found an object \{...\}"),
]


@pytest.mark.parametrize(("value", "message"), BAD)
def test_what_no_dataset_could_keep_is_refused_with_video_and_key(value, message):
    database = {"rec0": {"subset": "training", "annotations": [{"label": value, "segment": [0, 1]}]}}
    with pytest.raises(UserError, match=f"own.json: video 'rec0': annotations.0.: label: .*{message}"):
        annotation_files.read_entries(database, "own.json")


@pytest.mark.parametrize("names", [("a", "b\nc"), ("a", ""), ("a", "b "), ("a", "a")])
def test_own_builders_go_through_the_same_rule(names):
    with pytest.raises(UserError, match="class names of the dataset"):
        schema.record_features(3, names)


def test_names_are_the_same_when_a_dataset_is_opened_again(tmp_path):
    features = schema.record_features(3, check_class_names(["b", "a c", "7"], "x"))
    features.save_config(tmp_path)
    read = type(features).from_config(str(tmp_path))
    assert read["labels"].feature.names == ["b", "a c", "7"]
    assert np.dtype(read["features"].np_dtype) == np.float32
    assert prepared.dataset_names()

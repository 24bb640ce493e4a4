"""The comparison of all exported forms: its arithmetic by hand, and the whole command on a tiny model."""

import json

import numpy as np
import pytest

from a2net_tf.evaluation.instances import Detections
from a2net_tf.export import compare
from tests import tiny

FORMS = (
    "Keras float32",
    "Keras bfloat16",
    "SavedModel float32",
    "SavedModel bfloat16",
    "SavedModel constants",
    "TFLite float32",
    "TFLite float16",
    "TFLite dynamic",
    "TFLite int8",
    "ONNX float32",
)


def table(*rows):
    segments, labels, scores = zip(*rows, strict=True)
    return Detections(["v"] * len(rows), segments, labels, scores)


def test_differences_by_hand():
    expected = table(((1, 2), 0, 0.9), ((5, 8), 0, 0.5), ((5, 8), 1, 0.4))
    found = table(((5, 8.25), 0, 0.5), ((1, 2), 0, 0.8), ((5, 8), 1, 0.4), ((0, 1), 1, 0.1))  # another order, and more
    assert compare.detection_differences(expected, found) == (pytest.approx(0.25), pytest.approx(0.1))
    assert compare.detection_differences(expected, expected) == (0.0, 0.0)
    assert compare.detection_differences(Detections.empty(), found) == (0.0, 0.0)


def test_a_class_that_is_missing_is_infinitely_far():
    expected, found = table(((1, 2), 0, 0.9)), table(((1, 2), 1, 0.9))
    assert compare.detection_differences(expected, found) == (np.inf, np.inf)


@pytest.fixture(scope="module")
def compared(slow, tmp_path_factory):
    """Everything that the command wrote for a tiny model of the modern recipe, which has more to get wrong."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch, tiny.silence():
        patch.setattr(compare, "_ROUNDS", 1)
        patch.setattr(compare, "_TOGETHER", [[*compare._SAVED_MODELS, *compare._TFLITES, compare._ONNX]])
        assert compare.main([f"--workdir={tiny.modern()}", f"--output={folder}"]) == 0
    return folder, json.loads((folder / "compare.json").read_text())


def test_every_form_is_measured(compared):
    _, written = compared
    assert tuple(row["form"] for row in written["rows"]) == FORMS
    for row in written["rows"]:
        assert 0 < row["one_window_ms"]["median"] <= row["one_window_ms"]["p99"]
        assert row["windows_per_second"] > 0
        assert row["bytes"] > 0


def test_forms_in_float32_find_the_same(compared):
    _, written = compared
    rows = {row["form"]: row for row in written["rows"]}
    for name in ("SavedModel float32", "SavedModel constants", "TFLite float32", "ONNX float32"):
        assert rows[name]["detection_difference"]["seconds"] < 1e-3, name
        assert rows[name]["detection_difference"]["score"] < 1e-4, name
        assert rows[name]["average_mAP"] == pytest.approx(rows["Keras float32"]["average_mAP"], abs=1e-4), name


def test_table_has_a_line_per_form(compared):
    _, written = compared
    lines = compare.format_rows(written["rows"]).splitlines()
    assert len(lines) == 1 + len(FORMS)
    assert lines[1].startswith("Keras float32")
    assert lines[0].split()[-2:] == ["average", "mAP"]


def test_files_of_every_form_lie_there(compared):
    folder, _ = compared
    names = {path.name for path in folder.iterdir()}
    assert {"SavedModel_bfloat16", "TFLite_int8.tflite", "ONNX_float32.onnx", "compare.json"} <= names


def test_mistakes_are_one_line(tmp_path, capsys):
    assert compare.main([f"--workdir={tmp_path}", f"--output={tmp_path / 'out'}"]) == 1
    assert capsys.readouterr().err.startswith(f"error: --workdir={tmp_path}: no trained model here")
    assert compare.main([f"--output={tmp_path / 'out'}"]) == 1
    assert "or --num_features and --num_classes for random weights" in capsys.readouterr().err

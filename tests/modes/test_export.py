"""--mode=export in every form, and its mistakes."""

import contextlib
import dataclasses
import importlib.util
import io
import json
import math

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection.postprocess import Candidates, suppress
from a2net_tf.export import tflite_run
from a2net_tf.main import main
from tests import tiny

pytestmark = pytest.mark.slow

needs_onnx = pytest.mark.skipif(importlib.util.find_spec("tf2onnx") is None, reason="tf2onnx is not installed")


def export(capsys, *flags):
    assert main(["--mode=export", f"--workdir={tiny.trained()}", *flags]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


LONGER = ("--inference_window_steps=128", "--inference_overlap=0.25")  # windows of 64


@dataclasses.dataclass
class AllForms:
    """Files in every form for longer windows, by flag, and what the command that wrote them printed."""

    paths: dict
    printed: str


@pytest.fixture(scope="module")
def all_forms(tmp_path_factory):
    folder, printed = tmp_path_factory.mktemp("all_forms"), io.StringIO()
    paths = {name: folder / f"model.{name}" for name in ("saved_model", "tflite", "onnx")}
    flags = [*LONGER, *(f"--{name}={path}" for name, path in paths.items())]
    with contextlib.redirect_stdout(printed):
        assert main(["--mode=export", f"--workdir={tiny.trained()}", *flags]) == 0
    return AllForms(paths, printed.getvalue())


@needs_onnx
def test_all_forms_by_one_command(all_forms):
    paths, printed = all_forms.paths, all_forms.printed
    assert [line.split(";")[0].split(",")[0] for line in printed.splitlines() if line.startswith("written")] == [
        f"written: {path}" for path in paths.values()
    ]
    folder = paths["onnx"].parent
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in paths.values())


def test_tflite_finds_what_predict_finds(tmp_path, capsys):
    features = np.random.default_rng(0).normal(size=(300, tiny.FEATURES)).astype(np.float32)
    np.save(tmp_path / "walk.npy", features)
    export(capsys, f"--tflite={tmp_path / 'm.tflite'}")
    flags = [
        f"--workdir={tiny.trained()}",
        f"--features={tmp_path / 'walk.npy'}",
        f"--output={tmp_path / 'found.json'}",
    ]
    assert main(["--mode=predict", *flags]) == 0
    expected = json.loads((tmp_path / "found.json").read_text())["results"]["walk"]
    found = tflite_run.detect(str(tmp_path / "m.tflite"), features)
    assert [entry["label"] for entry in expected] == list(found["labels"])
    np.testing.assert_allclose([entry["score"] for entry in expected], found["scores"], atol=1e-4)
    np.testing.assert_allclose([entry["segment"] for entry in expected], found["segments"], atol=1e-3)


@needs_onnx
def test_longer_windows_in_every_form(all_forms, tmp_path, capsys):
    """Every file says how long its windows are and how far apart, and finds what predict finds with these settings."""
    features = np.random.default_rng(0).normal(size=(500, tiny.FEATURES)).astype(np.float32)
    np.save(tmp_path / "walk.npy", features)
    paths = all_forms.paths
    predict = ["--mode=predict", f"--features={tmp_path / 'walk.npy'}", f"--output={tmp_path / 'found.json'}"]

    def found(*flags):
        assert main([*predict, *flags]) == 0, capsys.readouterr().err
        rows = json.loads((tmp_path / "found.json").read_text())["results"]["walk"]
        return [row["label"] for row in rows], [(row["score"], *row["segment"]) for row in rows]

    labels, numbers = found(f"--workdir={tiny.trained()}", *LONGER)
    assert found(f"--workdir={tiny.trained()}")[0] != labels  # other windows find other things
    for exported in (
        found(f"--saved_model={paths['saved_model']}"),
        by_tflite(paths["tflite"], features),
        by_onnx(paths["onnx"], features),
    ):
        assert exported[0] == labels
        np.testing.assert_allclose(exported[1], numbers, atol=1e-3)
    card = json.loads((paths["saved_model"] / "assets.extra" / "model_card.json").read_text())
    assert (card["window_steps"], card["stride_steps"]) == (128, 112)
    windows = tf.saved_model.load(str(paths["saved_model"])).signatures["windows"]
    assert windows.structured_input_signature[1]["features"].shape == (None, 128, tiny.FEATURES)


def by_tflite(path, features):
    """Labels and (score, start, end)."""
    found = tflite_run.detect(str(path), features)
    return list(found["labels"]), np.column_stack([found["scores"], found["segments"]])


def by_onnx(path, features):
    """The same from nothing but the file: its metadata say how to cut."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    about = session.get_modelmeta().custom_metadata_map
    size, stride, total = int(about["window_steps"]), int(about["stride_steps"]), len(features)
    assert (size, stride) == (128, 112)
    starts = [*range(0, total - size, stride), total - size]
    cut = np.stack([features[start : start + size] for start in starts])
    segments, scores, ids = session.run(
        ["candidate_segments", "candidate_scores", "candidate_class_ids"], {"features": cut}
    )
    segments = np.clip(size * segments + np.array(starts)[:, None, None], 0, total).astype(np.float32)
    scores = np.where(segments[..., 1] > segments[..., 0], scores, 0)
    candidates = Candidates(*(tf.constant(a.reshape(1, -1, *a.shape[2:])) for a in (segments, scores, ids)))
    used = json.loads(about["settings"])
    assert used["max_detections"] == 0  # so many as the length says
    most = max(200, math.ceil(100 * total / used["window_steps"]))
    found = suppress(candidates, tiou=0.2, max_detections=most)
    count = int(found.num_detections[0])
    names = [json.loads(about["class_names"])[i] for i in found.class_ids[0, :count]]
    seconds = found.segments[0, :count].numpy() * float(about["seconds_per_step"])
    return names, np.column_stack([found.scores[0, :count], seconds])


def test_a_run_in_bfloat16_becomes_a_file_in_float32(tmp_path, capsys):
    run = tiny.train(tmp_path / "run", "--precision=bfloat16")
    assert main(["--mode=export", f"--workdir={run}", f"--tflite={tmp_path / 'm.tflite'}"]) == 0
    assert "scores of candidates differ by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--mode=export needs --saved_model, --tflite, --onnx or --stablehlo: what to write"),
        (["--tflite={}/m.tflite", "--precision=bfloat16"], "--precision=bfloat16 is for --saved_model; --tflite"),
        (["--stablehlo={}/m", "--precision=float16"], "--precision=float16 is for --saved_model; --stablehlo"),
        (["--onnx={}/m.onnx", "--precision=float16"], "--precision=float16 is for --saved_model; --onnx"),
        (["--tflite={}/m.tflite", "--tflite_type=int8", "--dataset={}/gone"], "no such dataset"),
        (["--tflite={}"], "is a folder"),
        (["--saved_model=."], "expected the name of a folder to write"),
        (["--saved_model=/"], "expected the name of a folder to write"),
        (["--saved_model={}/a[1]"], "TensorFlow takes [ ] * ? in the path of a SavedModel for a pattern"),
        ([f"--saved_model={tiny.REPO / 'docs'}"], "this folder is there and is no SavedModel"),
        (["--saved_model={}/m", "--nms_tiou=0.5", "--num_levels=1"], "--num_levels=1 (was 2)"),
    ],
)
def test_mistakes_write_nothing(flags, message, tmp_path, capsys):
    flags = [flag.format(tmp_path) for flag in flags]
    line = tiny.refused(capsys, tmp_path, "--mode=export", f"--workdir={tiny.trained()}", *flags, alone=False)
    assert message in line


def test_an_older_file_is_kept(tmp_path, capsys):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"older")
    export(capsys, f"--tflite={path}")
    assert (tmp_path / "m.1.tflite").read_bytes() == b"older"
    assert path.stat().st_size > 5

"""--mode=export in every form, and its mistakes."""

import importlib.util
import json

import numpy as np
import pytest

from a2net_tf.export import tflite_run
from a2net_tf.main import main
from tests import tiny

needs_onnx = pytest.mark.skipif(importlib.util.find_spec("tf2onnx") is None, reason="tf2onnx is not installed")


def export(capsys, *flags):
    assert main(["--mode=export", f"--workdir={tiny.trained()}", *flags]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@needs_onnx
def test_all_forms_by_one_command(tmp_path, capsys):
    paths = {name: tmp_path / f"model.{name}" for name in ("saved_model", "tflite", "onnx")}
    printed = export(capsys, *(f"--{name}={path}" for name, path in paths.items()))
    assert [line.split(";")[0].split(",")[0] for line in printed.splitlines() if line.startswith("written")] == [
        f"written: {path}" for path in paths.values()
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths.values())


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


def test_a_run_in_bfloat16_becomes_a_file_in_float32(tmp_path, capsys):
    run = tiny.train(tmp_path / "run", "--precision=bfloat16")
    assert main(["--mode=export", f"--workdir={run}", f"--tflite={tmp_path / 'm.tflite'}"]) == 0
    assert "scores of candidates differ by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--mode=export needs --saved_model, --tflite or --onnx: what to write"),
        (["--tflite={}/m.tflite", "--precision=bfloat16"], "--precision=bfloat16 is for --saved_model; --tflite"),
        (["--onnx={}/m.onnx", "--precision=float16"], "--precision=float16 is for --saved_model; --onnx"),
        (["--tflite={}/m.tflite", "--tflite_type=int8", "--dataset={}/gone"], "no such dataset"),
        (["--tflite={}"], "is a folder"),
        (["--saved_model={}/m", "--nms_tiou=0.5", "--num_levels=2"], "--num_levels=2 (was 3)"),
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

"""StableHLO of a trained run: jaxlib, in a process of its own, finds what TensorFlow finds."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf import settings
from a2net_tf.export.saved_model import window_candidates
from a2net_tf.inference.trained import load_trained
from a2net_tf.main import main
from a2net_tf.training import run_directory
from tests import tiny

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jaxlib") is None, reason="JAX is not installed")
RUN = tiny.REPO / "export/stablehlo_run.py"


@pytest.fixture(scope="module")
def exported(slow, tmp_path_factory):
    path = tmp_path_factory.mktemp("stablehlo") / "model.stablehlo"
    flags = ["--mode=export", f"--workdir={tiny.trained()}", f"--stablehlo={path}", "--window_batch=4"]
    tf.random.set_seed(None)  # as where nothing was trained before
    with tiny.silence():
        assert main(flags) == 0
    return path


def run_alone(folder, *arguments):
    """``stablehlo_run.py`` where this package cannot be imported."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(RUN), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_jaxlib_finds_what_the_network_finds(exported, tmp_path):
    """For windows that fill no whole batch, without TensorFlow."""
    config, given = settings.parse(["--mode=export", f"--workdir={tiny.trained()}"])
    run, localizer = load_trained(config, given)
    windows = run_directory.random_features(run, 6, run.config.inference_steps)
    np.save(tmp_path / "windows.npy", windows)
    done = run_alone(tmp_path, exported, "windows.npy", "found.npz")
    assert done.returncode == 0, done.stderr
    found, expected = np.load(tmp_path / "found.npz"), window_candidates(localizer, windows)
    assert set(found.files) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)
    assert np.ptp(found["scores"]) > 0


def test_description(exported):
    content = json.loads((exported.parent / "model.stablehlo.json").read_text())
    assert content["inputs"] == [{"name": "features", "shape": [4, 64, tiny.FEATURES], "dtype": "float32"}]
    assert [output["name"] for output in content["outputs"]] == ["class_ids", "scores", "segments"]
    assert content["class_names"] == list(tiny.CLASSES)
    run = run_directory.load(str(tiny.trained()))
    assert content["seconds_per_step"] == run.seconds_per_step
    assert content["settings"] == json.loads(json.dumps(settings.exported_settings(run.config))) | {"window_batch": 4}
    assert sorted(path.name for path in exported.parent.iterdir()) == ["model.stablehlo", "model.stablehlo.json"]


def test_earlier_files_are_kept_and_mixed_ones_refused(exported, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"older")
    (tmp_path / "m.json").write_text("{}")
    np.save(tmp_path / "windows.npy", np.zeros((1, 64, tiny.FEATURES), np.float32))
    with tiny.silence():
        assert main(["--mode=export", f"--workdir={tiny.trained()}", f"--stablehlo={path}", "--window_batch=1"]) == 0
    assert (tmp_path / "m.1").read_bytes() == b"older"
    assert (tmp_path / "m.1.json").read_text() == "{}"
    path.write_bytes(exported.read_bytes())
    done = run_alone(tmp_path, path, "windows.npy", "found.npz")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "not the file that" in done.stderr
    wrong = np.zeros((1, 32, tiny.FEATURES), np.float32)
    np.save(tmp_path / "windows.npy", wrong)
    done = run_alone(tmp_path, exported, "windows.npy", "found.npz")
    assert done.stderr == f"error: expected windows of shape [M, 64, {tiny.FEATURES}], found [1, 32, {tiny.FEATURES}]\n"
    assert not (tmp_path / "found.npz").exists()


def test_a_program_that_disagrees_is_not_written(exported, tmp_path, capsys, monkeypatch):
    from a2net_tf.export import stablehlo

    right = stablehlo._program
    monkeypatch.setattr(stablehlo, "_program", lambda *given: _without_relu(*right(*given)))
    path = tmp_path / "m"
    flags = ["--mode=export", f"--workdir={tiny.trained()}", f"--stablehlo={path}", "--window_batch=1"]
    assert "differs by" in tiny.refused(capsys, tmp_path, *flags, alone=False)


def _without_relu(text, outputs):
    """A program in which ReLU adds 0 instead."""
    changed = text.replace("stablehlo.maximum", "stablehlo.add")
    assert changed != text
    return changed, outputs

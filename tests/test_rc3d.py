"""Whole commands on raw video: rendered films in, actions out, one network from pixels to segments."""

import csv
import json
import shutil

import numpy as np
import pytest

from a2net_tf.main import main
from tests import films, tiny

EXTRA = "(the extra [video]) is not installed"
pytest.importorskip("av", reason=f"PyAV {EXTRA}")
pytest.importorskip("cv2", reason=f"OpenCV {EXTRA}")
pytestmark = pytest.mark.slow

NETWORK = (
    *("--extractor=frames", "--frame_rate=8", "--frame_size=24", "--frame_fit=crop", "--stored_features=float16"),
    *("--backbone=c3d", "--stages=2", "--num_levels=3", "--first_level=3", "--crop_size=16"),
    *("--backbone_channels=4,8,8,8,8", "--base_channels=16", "--head_channels=16", "--proposal_channels=16"),
    *("--anchor_ratios=1,2,3,4", "--center_scale=1", "--width_scale=1", "--window_steps=48", "--match_tiou=0.7"),
    *("--train_proposals=24", "--proposals=24", "--proposal_dropout=0", "--second_stage_weight=1"),
    *("--anchor_free_classification_weight=1", "--anchor_regression_weight=1", "--precision=float32"),
)
TRAINING = (
    *("--train_stride_steps=12", "--batch_size=4", "--learning_rate=3e-3", "--epochs=12", "--clip_norm=5"),
    *("--shuffle_buffer=32", "--noplots", "--noreport", "--train_split=training", "--eval_split=validation"),
)
SECONDS = 16


def render(path, random):
    """A film of 8 frames a second, in which a bright square on the left, or on top, is an action: its segments."""
    segments, start = [], random.uniform(0.5, 2)
    while start < SECONDS - 3.5:
        end = start + random.uniform(1.5, 3.5)
        segments.append((start, end, str(random.choice(["white", "red"]))))
        start = end + random.uniform(1.5, 3)
    images = []
    for frame in range(8 * SECONDS):
        image = random.integers(0, 60, (32, 32, 3)).astype(np.uint8)
        for begin, end, label in segments:
            if begin <= (frame + 0.5) / 8 < end:
                image[8:24, 8:24] = (250, 250, 250) if label == "white" else (250, 20, 20)
        images.append(image)
    films.write(path, images, rate=8)
    return segments


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Films, and a run that was trained and scored on them."""
    folder, random, database = tmp_path_factory.mktemp("rc3d"), np.random.default_rng(0), {}
    (folder / "films").mkdir()
    for number in range(10):
        actions = render(folder / "films" / f"film{number}.mp4", random)
        database[f"film{number}"] = {
            "subset": "training" if number < 8 else "validation",
            "duration": SECONDS,
            "annotations": [{"segment": [start, end], "label": label} for start, end, label in actions],
        }
    (folder / "films" / "actions.json").write_text(json.dumps({"database": database}))
    flags = ["--mode=train_and_evaluate", f"--workdir={folder / 'run'}", f"--videos={folder / 'films'}"]
    with tiny.silence():
        assert main([*flags, *NETWORK, *TRAINING]) == 0
    return folder, database


def test_it_learns(trained):
    folder, _ = trained
    rows = list(csv.DictReader((folder / "run" / "history.csv").open()))
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert metrics["average_mAP"] > 0.3
    assert set(metrics["branches"]) == {"anchor_free", "anchor_based", "both"}
    assert metrics["first_stage"]["both"]["area_to_1000"] > 0.3


def test_predict_on_a_video_finds_what_evaluate_has_found(trained, tmp_path):
    folder, _ = trained
    flags = [f"--workdir={folder / 'run'}", f"--videos={folder / 'films' / 'film9.mp4'}"]
    with tiny.silence():
        assert main(["--mode=predict", *flags, f"--output={tmp_path / 'found.json'}"]) == 0
    predicted, evaluated = (
        json.loads(file.read_text())["results"]["film9"][:5]
        for file in (tmp_path / "found.json", folder / "run" / "detections.json")
    )
    for found, expected in zip(predicted, evaluated, strict=True):
        assert found["label"] == expected["label"]
        np.testing.assert_allclose(found["segment"], expected["segment"], atol=1e-3)


def test_an_exported_one_agrees(trained, tmp_path, capsys):
    folder, _ = trained
    assert main(["--mode=export", f"--workdir={folder / 'run'}", f"--saved_model={tmp_path / 'model'}"]) == 0
    assert "reloaded in a fresh process, 2 sequences agree" in capsys.readouterr().out
    for name in ("tflite", "onnx"):
        flags = ["--mode=export", f"--workdir={folder / 'run'}", f"--{name}={tmp_path / name}"]
        assert "exported as --saved_model alone" in tiny.refused(capsys, tmp_path, *flags)


def test_it_can_be_tuned(trained, tmp_path):
    run = shutil.copytree(trained[0] / "run", tmp_path / "run")
    with tiny.silence():
        assert main(["--mode=tune", f"--workdir={run}", "--validation_split=validation"]) == 0
    assert json.loads((run / "tuning.json").read_text())["split"] == "validation"


def test_profile_counts_all_of_it(tmp_path):
    flags = ["--mode=profile", *NETWORK, f"--num_features={3 * 24 * 24}", "--num_classes=2"]
    with tiny.silence():
        assert main([*flags, f"--metrics={tmp_path / 'costs.json'}"]) == 0
    costs = json.loads((tmp_path / "costs.json").read_text())
    assert list(costs["parts"]) == ["base", "features", "anchor_free", "anchor_based", "second_stage"]
    first = 48 * 16 * 16 * 27 * 3 * 4  # multiply-adds of conv1a alone
    assert costs["parts"]["base"]["multiply_adds"] > first
    assert costs["parts"]["second_stage"]["multiply_adds"] == 24 * (16 * 8 * 16 + 16 * 3 + 16 * 4)


def test_modes_that_know_levels_alone(tmp_path, capsys):
    for mode in ("check", "import_release"):
        told = tiny.refused(capsys, tmp_path, f"--mode={mode}", *NETWORK)
        assert f"--mode={mode} knows A2Net's levels alone" in told

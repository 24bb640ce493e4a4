"""``--protocol=segmentation``: a labelling that was turned into detections is judged as the labelling itself."""

import json
import pathlib

import numpy as np
import pytest

from a2net_tf.data.files import frame_labels
from a2net_tf.evaluation import segmentation
from a2net_tf.main import main
from tests import tiny

REAL = tiny.REPO.parent / "shared" / "data" / "50salads"
NAMES = ["cut", "background", "mix", "peel"]


def write_truth(folder: pathlib.Path, labels: dict[str, np.ndarray]) -> pathlib.Path:
    (folder / "groundTruth").mkdir(parents=True)
    (folder / "splits").mkdir()
    (folder / "mapping.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(NAMES)))
    for name, of_steps in labels.items():
        (folder / "groundTruth" / f"{name}.txt").write_text("".join(f"{NAMES[label]}\n" for label in of_steps))
    (folder / "splits" / "test.split1.bundle").write_text("".join(f"{name}.txt\n" for name in list(labels)[:2]))
    return folder


def write_detections(file: pathlib.Path, labels: dict[str, np.ndarray], names, rate: float, scores) -> pathlib.Path:
    """Every run of a label that is no background as a detection."""
    results = {
        name: [
            {"label": names[run.label], "score": float(next(scores)), "segment": [run.start / rate, run.end / rate]}
            for run in frame_labels.runs(of_steps)
            if names[run.label] != "background"
        ]
        for name, of_steps in labels.items()
    }
    file.write_text(json.dumps({"results": results}))
    return file


def random_labels(random, length):
    return np.resize(np.repeat(random.integers(0, len(NAMES), 40), random.integers(1, 20, 40)), length)


def score(tmp_path, truth, detections, *more):
    output = tmp_path / "metrics.json"
    arguments = [f"--ground_truth={truth}", f"--detections={detections}", f"--metrics={output}", *more]
    assert main(["--mode=score", "--protocol=segmentation", *arguments]) == 0
    return json.loads(output.read_text())


@pytest.fixture
def case(tmp_path):
    random = np.random.default_rng(0)
    true = {name: random_labels(random, length) for name, length in (("a", 300), ("b", 217), ("c", 150))}
    predicted = {name: np.where(random.random(len(of)) < 0.7, of, np.roll(of, 5)) for name, of in true.items()}
    truth = write_truth(tmp_path / "truth", true)
    scores = iter(random.uniform(0.1, 1, 10_000))
    return true, predicted, truth, write_detections(tmp_path / "found.json", predicted, NAMES, 29.97, scores)


def test_a_labelling_as_detections(case, tmp_path, capsys):
    true, predicted, truth, found = case
    expected = segmentation.evaluate(predicted, true, background=1)
    metrics = score(tmp_path, truth, found, "--label_rate=29.97")
    assert {key: metrics[key] for key in expected} == expected
    assert 20 < metrics["f1"]["10"] < 100
    printed = capsys.readouterr().out
    assert "protocol segmentation (background left out of F1 and edit), 3 recordings, 667 steps" in printed
    assert f"{expected['edit']:.1f}" in printed


def test_of_a_split_at_the_rate_of_settings_json(case, tmp_path):
    true, predicted, truth, found = case
    (truth / "settings.json").write_text('{"label_rate": 29.97}')
    first = [{name: of[name] for name in ("a", "b")} for of in (predicted, true)]
    expected = segmentation.evaluate(*first, background=1)
    metrics = score(tmp_path, truth, found, "--subset=test_split1")
    assert {key: metrics[key] for key in expected} == expected


def test_faint_detections_label_nothing(case, tmp_path):
    _, _, truth, found = case
    metrics = score(tmp_path, truth, found, "--label_rate=29.97", "--segmentation_score=1")
    assert metrics["f1"] == {"10": 0, "25": 0, "50": 0}


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (lambda f: (f / "mapping.txt").unlink(), [], "mapping.txt: cannot be read: No such file"),
        (lambda f: (f / "mapping.txt").write_text("0 cut\n1 mix\n"), [], "is none of mapping.txt: cut, mix"),
        (lambda f: None, ["--subset=test_split9"], "no split 'test_split9'; there are test_split1"),
        (lambda f: (f / "settings.json").write_text('{"label_rate": "x"}'), [], "label_rate: expected a number"),
    ],
)
def test_mistakes(case, tmp_path, capsys, change, more, message):
    _, _, truth, found = case
    change(truth)
    arguments = [f"--ground_truth={truth}", f"--detections={found}", *more]
    assert message in tiny.refused(capsys, tmp_path, "--mode=score", "--protocol=segmentation", *arguments)


def test_evaluate_reports_it_beside_the_map(slow, tmp_path, capsys):
    run = tiny.trained()
    arguments = ["--mode=evaluate", f"--workdir={run}", f"--output={tmp_path}", "--noplots", "--eval_split=test[:2]"]
    assert main([*arguments, "--protocol=segmentation", "--segmentation_score=0.02"]) == 0
    assert "protocol segmentation" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["protocol"] == "activitynet"
    assert metrics["segmentation"]["num_recordings"] == 2
    assert 0 < metrics["branches"]["anchor_free"]["segmentation"]["accuracy"] <= 100


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not there")
def test_labels_of_50_salads_as_detections_are_perfect(tmp_path):
    names = frame_labels.read_mapping(REAL / "mapping.txt")
    true = {name: frame_labels.read_labels(file, names) for name, file in frame_labels.find_labels(REAL).items()}
    found = write_detections(tmp_path / "found.json", true, names, 3.0, iter(np.full(2000, 0.5)))
    metrics = score(tmp_path, REAL, found, "--label_rate=3")
    assert (metrics["f1"]["50"], metrics["edit"], metrics["accuracy"]) == (100, 100, 100)
    assert metrics["num_recordings"] == 50

"""Settings of localization chosen on a validation split."""

import contextlib
import json
import pathlib
import shutil

import numpy as np
import pytest

from a2net_tf.main import main
from a2net_tf.modes import tune
from tests import tiny

pytestmark = pytest.mark.slow
FEW = {"anchor_based_lambda": (0.0, 0.5, 1.0), "classes_per_candidate": (1, 2), "step_exponent": (0.0, 1.0)}


@tiny.once
def _trained(path):
    tiny.train(
        path, "--step_classifier", "--step_channels=8", "--step_layers=4", "--step_stages=1", "--epochs=3", "--seed=3"
    )


@pytest.fixture(autouse=True)
def few_values(monkeypatch):
    monkeypatch.setattr(tune, "VALUES", FEW)


def tune_flags(run):
    return ["--mode=tune", f"--workdir={run}", "--validation_split=validation[:3]"]


@tiny.once
def _tuned(path):
    shutil.copytree(_trained(), path)
    with open(path / "printed.txt", "w") as printed, contextlib.redirect_stdout(printed):
        assert main(tune_flags(path)) == 0


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(_trained(), tmp_path / "run")


@pytest.fixture
def tuned_run(tmp_path):
    return shutil.copytree(_tuned(), tmp_path / "run")


def tuning_of(run):
    return json.loads((run / "tuning.json").read_text())


def evaluated(run, capsys, *flags):
    capsys.readouterr()
    assert main(["--mode=evaluate", f"--workdir={run}", "--noplots", "--eval_split=validation[:3]", *flags]) == 0
    return json.loads((pathlib.Path(run) / "metrics.json").read_text()), capsys.readouterr().out


def as_flags(values):
    return [f"--{name}={value}" for name, value in values.items()]


def test_each_row_is_what_evaluate_finds_with_its_settings(tuned_run, capsys):
    run, printed = tuned_run, (tuned_run / "printed.txt").read_text()
    found = tuning_of(run)
    assert len(found["tried"]) >= 1 + 2 + 1 + 1
    best = max(found["tried"], key=lambda row: row["average_mAP"])
    assert f"{100 * best['average_mAP']:.1f}" in printed
    for row in (found["tried"][0], found["tried"][-1], best):
        metrics, _ = evaluated(run, capsys, "--notuned", *as_flags(row["settings"]))
        np.testing.assert_allclose(metrics["average_mAP"], row["average_mAP"], atol=1e-9)
    for name, flags in (("own", ["--notuned"]), ("tuned", [])):
        metrics, _ = evaluated(run, capsys, *flags)
        for branch, score in found[name].items():
            np.testing.assert_allclose(metrics["branches"][branch]["average_mAP"], score, atol=1e-9)
    assert list(found["tuned"].values())[-1] == best["average_mAP"]


def test_the_choice_stays_with_the_run_unless_a_flag_says_otherwise(tuned_run, capsys):
    run = tuned_run
    tuning = tuning_of(run)
    tuning["chosen"] = {"nms_tiou": 0.45, "classes_per_candidate": 2}
    (run / "tuning.json").write_text(json.dumps(tuning))
    metrics, printed = evaluated(run, capsys)
    assert metrics["settings"]["nms_tiou"] == 0.45
    assert "tuned on validation[:3]: --nms_tiou=0.45 --classes_per_candidate=2" in printed
    metrics, _ = evaluated(run, capsys, "--nms_tiou=0.3")
    assert (metrics["settings"]["nms_tiou"], metrics["settings"]["classes_per_candidate"]) == (0.3, 2)
    metrics, printed = evaluated(run, capsys, "--notuned")
    assert metrics["settings"]["nms_tiou"] == 0.2
    assert "tuned on" not in printed


def test_what_is_given_is_not_tuned(run, capsys):
    assert main([*tune_flags(run), "--classes_per_candidate=2", "--step_exponent=0.5"]) == 0
    found, printed = tuning_of(run), capsys.readouterr().out
    assert "gives them: --classes_per_candidate, --step_exponent" in printed
    assert {name for row in found["tried"] for name in row["settings"]} == {"anchor_based_lambda"}


def test_a_single_branch_that_is_better_is_named(tuned_run, capsys):
    run, found = tuned_run, tuning_of(tuned_run)
    found["own"] = {"anchor_free": 0.2, "anchor_based": 0.6, "both": 0.5}
    (run / "tuning.json").write_text(json.dumps(found))
    _, printed = evaluated(run, capsys, "--notuned")
    assert "on validation[:3] anchor_based alone is better than both" in printed
    found["own"]["both"], found["tuned"] = 0.7, {"anchor_free": 0.5, "anchor_based": 0.3, "both": 0.4}
    (run / "tuning.json").write_text(json.dumps(found))
    _, printed = evaluated(run, capsys)
    assert "on validation[:3] anchor_free alone is better than both" in printed
    _, printed = evaluated(run, capsys, "--notuned")
    assert "alone is better" not in printed


def test_a_choice_for_an_earlier_state_of_the_run_is_not_followed(tuned_run, capsys):
    run, found = tuned_run, tuning_of(tuned_run)
    found["chosen"], found["epochs"] = {"nms_tiou": 0.45}, 2
    (run / "tuning.json").write_text(json.dumps(found))
    metrics, printed = evaluated(run, capsys)
    assert "not followed, because it was made after 2 epochs and the run has 3 now" in printed
    assert metrics["settings"]["nms_tiou"] == 0.2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"chosen": {"epochs": 3}}, "'epochs'"),
        ({"chosen": {"nms_tiou": "x"}}, "--nms_tiou"),
        ({"chosen": 3}, "chosen"),
        ({"own": {"both": "x"}}, "own"),
        ({"tuned": {"both": "x"}}, "tuned"),
        ({"epochs": "3"}, "epochs"),
    ],
)
def test_a_damaged_file_is_one_line(change, told, tuned_run, capsys):
    run = tuned_run
    (run / "tuning.json").write_text(json.dumps({**tuning_of(run), **change}))
    line = tiny.refused(capsys, run, "--mode=evaluate", f"--workdir={run}", "--noplots", alone=False)
    assert "tuning.json" in line
    assert told in line


def test_tune_needs_a_validation_split_and_one_run(run, capsys):
    line = tiny.refused(capsys, run, "--mode=tune", f"--workdir={run}", alone=False)
    assert "--validation_split" in line
    assert "one directory" in tiny.refused(capsys, run, "--mode=tune", f"--workdir={run},{run}", alone=False)

"""Whole commands with a network of two stages."""

import json
import shutil

import numpy as np
import pytest

import a2net_tf
from a2net_tf.main import main
from tests import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A copy of the run, scored, and its metrics."""
    run = shutil.copytree(tiny.two_stages(), tmp_path_factory.mktemp("two_stages") / "run")
    with tiny.silence():
        assert main(["--mode=evaluate", f"--workdir={run}", "--noplots", "--min_score=0"]) == 0
    return run, json.loads((run / "metrics.json").read_text())


def test_scores_by_branch_and_by_stage(evaluated):
    _, metrics = evaluated
    assert list(metrics["branches"]) == ["anchor_free", "anchor_based", "both"]
    assert list(metrics["first_stage"]) == ["anchor_free", "anchor_based", "both"]
    assert set(metrics["per_class"]) == set(tiny.CLASSES)
    assert metrics["first_stage"]["both"]["area_to_1000"] > 0  # many proposals meet something by chance
    numbers = [entry["num_proposals"] for entry in metrics["first_stage"].values()]
    assert numbers[2] > max(numbers[:2])


def test_history_has_its_losses():
    names = (tiny.two_stages() / "history.csv").read_text().splitlines()[0].split(",")
    assert {"anchor_free_overlap", "second_stage_foreground", "second_stage_background"} <= set(names)
    assert {"second_stage_regression", "second_stage_positives"} <= set(names)


def test_number_of_proposals_may_change_after_training(evaluated):
    run, _ = evaluated
    features = np.random.default_rng(0).normal(size=(100, tiny.FEATURES)).astype(np.float32)
    few, more = (a2net_tf.load(str(run), proposals=number).detect(features) for number in (4, 32))
    assert len(more) > len(few) > 0


def test_what_two_stages_cannot_do(tmp_path, capsys):
    for flags, message in (
        (("--class_scores=sigmoid",), "--stages=2 knows softmax only"),
        (("--fusion=outputs",), "--fusion=outputs: networks of --stages=2"),
        (("--proposal_bins=6",), "--proposal_bins=6: must be a multiple of 4"),
        (("--jit_compile", "--nodeterministic", "--distribute=mirrored"), "--proposal_dropout"),
    ):
        told = tiny.refused(capsys, tmp_path, *tiny.train_flags(tmp_path / "run", *tiny.TWO_STAGES, *flags))
        assert message in told


@pytest.mark.slow
def test_profile_counts_the_second_stage_of_the_paper_s_network(tmp_path):
    """At most 0.35 of the first one's multiply-adds, with 128 proposals."""
    flags = ["--mode=profile", "--flagfile=configs/thumos14.flags", "--stages=2", f"--metrics={tmp_path / 'm.json'}"]
    with tiny.silence():
        assert main(flags) == 0
    costs = json.loads((tmp_path / "m.json").read_text())
    inner, whole = 4 * 512 * 512 + 512 * 21, 8 * 512 * 512 + 512 * 40
    second = costs["parts"]["second_stage"]["multiply_adds"]
    assert second == 128 * (inner + whole)
    assert second < 0.35 * (costs["multiply_adds"] - second)

"""Several trained networks in one evaluation, and several merge weights in one pass."""

import csv
import json

import numpy as np
import pytest

from a2net_tf.main import main
from tests import tiny

pytestmark = pytest.mark.slow

SMALLEST = ("--num_levels=1", "--noanchor_based")  # graph, where numbers do not matter


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
    """One run with the anchor-free branch alone, one with the anchor-based branch alone."""
    folder = tmp_path_factory.mktemp("singles")
    tiny.train(folder / "free", "--noanchor_based")
    tiny.train(folder / "based", "--noanchor_free")
    return folder


def evaluate(capsys, workdir, *flags):
    assert main(["--mode=evaluate", f"--workdir={workdir}", "--noplots", *flags]) == 0, capsys.readouterr().err


def test_fuse_reports_each_network_and_both(singles, tmp_path, capsys):
    evaluate(capsys, f"{singles / 'free'},{singles / 'based'}", f"--output={tmp_path / 'fused'}")
    fused = json.loads((tmp_path / "fused" / "metrics.json").read_text())
    assert list(fused["branches"]) == ["anchor_free", "anchor_based", "both"]
    for name, branch in (("free", "anchor_free"), ("based", "anchor_based")):
        evaluate(capsys, singles / name)
        alone = json.loads((singles / name / "metrics.json").read_text())
        np.testing.assert_allclose(fused["branches"][branch]["mAP"], alone["mAP"], atol=1e-9)
    assert fused["mAP"] == fused["branches"]["both"]["mAP"]


def test_fuse_of_a_network_with_itself_changes_nothing(singles, tmp_path, capsys):
    """Every candidate comes twice, and suppression leaves one of each pair."""
    evaluate(capsys, f"{singles / 'free'},{singles / 'free'}", f"--output={tmp_path / 'twice'}")
    evaluate(capsys, singles / "free")
    twice, once = (
        json.loads((folder / "detections.json").read_text())["results"]
        for folder in (tmp_path / "twice", singles / "free")
    )
    assert twice.keys() == once.keys()
    for video, rows in once.items():
        assert [row["label"] for row in twice[video]] == [row["label"] for row in rows]
        for name in ("score", "segment"):  # in both copies of the network to rounding
            found, expected = ([row[name] for row in found] for found in (twice[video], rows))
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_fuse_needs_a_place_for_the_results(singles, capsys):
    assert main(["--mode=evaluate", f"--workdir={singles / 'free'},{singles / 'based'}"]) == 1
    assert "--output" in capsys.readouterr().err


def test_networks_for_other_windows_cannot_be_merged(singles, tmp_path, capsys):
    tiny.train(tmp_path / "short", "--window_steps=32", *SMALLEST)
    flags = ["--mode=evaluate", f"--workdir={singles / 'free'},{tmp_path / 'short'}", f"--output={tmp_path / 'out'}"]
    assert main(flags) == 1
    assert "differ in --window_steps: 64 and 32" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_longer_windows(tmp_path, capsys):
    """The same weights in windows twice as long: about the same score, and both branches are there."""
    run = tiny.train(tmp_path / "run", "--epochs=15", "--learning_rate=0.01", *tiny.data("train"))
    scores = []
    for flags in ([], ["--inference_window_steps=128"], ["--inference_window_steps=256", "--inference_overlap=0.75"]):
        evaluate(capsys, run, *flags)
        metrics = json.loads((run / "metrics.json").read_text())
        assert list(metrics["branches"]) == ["anchor_free", "anchor_based", "both"]
        scores.append(metrics["average_mAP"])
    assert len(set(scores)) == 3  # the settings arrived
    assert min(scores) > 0.6 * max(scores) > 0.1


def test_validation_looks_through_inference_windows(tmp_path, capsys):
    """The logged score of the last epoch is what evaluate finds with the weights of that epoch."""
    flags = ["--validation_split=validation[:2]", "--epochs=3", "--learning_rate=0.01", "--inference_window_steps=128"]
    run = tiny.train(tmp_path / "run", *flags)
    evaluate(capsys, run, "--validation_split=", "--eval_split=validation[:2]")
    last = list(csv.DictReader((run / "history.csv").open()))[-1]
    score = json.loads((run / "metrics.json").read_text())["average_mAP"]
    assert float(last["validation_mAP"]) == pytest.approx(score, abs=1e-6)
    assert score > 0


def test_networks_for_other_inference_windows_cannot_be_merged(tmp_path, capsys):
    run = tiny.copy_of_trained(tmp_path)
    tiny.train(tmp_path / "long", "--inference_window_steps=128", *SMALLEST)
    flags = ["--mode=evaluate", f"--workdir={run},{tmp_path / 'long'}", f"--output={tmp_path / 'out'}"]
    assert main(flags) == 1
    assert "differ in --inference_window_steps: 64 and 128" in capsys.readouterr().err
    assert main([*flags, "--inference_window_steps=192", "--noplots"]) == 0  # said for both


def test_late_fusion_needs_the_same_outputs(singles, tmp_path, capsys):
    flags = ["--mode=evaluate", f"--workdir={singles / 'free'},{singles / 'based'}", f"--output={tmp_path / 'out'}"]
    assert main([*flags, "--fusion=outputs"]) == 1
    assert "cannot be averaged (--fusion=candidates" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_late_fusion_of_a_network_with_itself_changes_nothing(tmp_path, capsys):
    run = tiny.copy_of_trained(tmp_path)
    evaluate(capsys, f"{run},{run}", f"--output={tmp_path / 'twice'}", "--fusion=outputs")
    evaluate(capsys, run)
    twice, once = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "twice", run))
    np.testing.assert_allclose(twice["mAP"], once["mAP"], atol=1e-9)


def test_training_takes_one_directory(tmp_path, capsys):
    assert main(tiny.train_flags(f"{tmp_path / 'a'},{tmp_path / 'b'}")) == 1
    assert "takes one directory" in capsys.readouterr().err


def test_lambda_sweep_equals_separate_evaluations(tmp_path, capsys):
    workdir = tiny.copy_of_trained(tmp_path)
    evaluate(capsys, workdir, "--lambda_sweep=0.2,0.8")
    swept = json.loads((workdir / "metrics.json").read_text())["branches"]
    assert list(swept) == ["anchor_free", "anchor_based", "lambda 0.2", "lambda 0.8", "both"]
    for value in ("0.2", "0.8"):
        evaluate(capsys, workdir, f"--anchor_based_lambda={value}")
        alone = json.loads((workdir / "metrics.json").read_text())
        assert swept[f"lambda {value}"]["mAP"] == alone["mAP"]

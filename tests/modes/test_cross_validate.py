"""Cross-validation: how splits become folds, and that its numbers are those of single commands taken together."""

import csv
import json
import os
import shutil
import signal
import sys
import time

import numpy as np
import pytest

from a2net_tf import settings
from a2net_tf.data import prepared
from a2net_tf.errors import UserError
from a2net_tf.evaluation import instances, protocols, results_files
from a2net_tf.evaluation.instances import Detections
from a2net_tf.inference import scoring, trained
from a2net_tf.main import main
from a2net_tf.modes import cross_validate
from a2net_tf.training import run_directory
from tests import forks, tiny

SPLITS = ("train[:2]", "train[2:5]", "validation[:2]")
NAMES = ("fold_train__2_", "fold_train_2_5_", "fold_validation__2_")
# Enough training for detections that are right, in every fold.
TRAINED = ("--num_levels=2", "--epochs=20", "--batch_size=8", "--learning_rate=0.01", "--decay_epochs=15")


def flags(workdir, *more, splits=SPLITS):
    return [
        "--mode=cross_validate",
        *tiny.train_flags(workdir)[1:],
        f"--fold_splits={','.join(splits)}",
        *TRAINED,
        *more,
    ]


def run_folds(workdir, *more, **kwargs):
    with tiny.silence():
        assert main(flags(workdir, *more, **kwargs)) == 0
    return json.loads((workdir / "cross_validation.json").read_text())


def weight_files(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.rglob("last.npz"))}


@tiny.once
def _three(path):
    run_folds(path)


@pytest.fixture(scope="module")
def three(slow):
    """Three folds: their folder, which is not to be changed, and cross_validation.json."""
    folder = _three()
    return folder, json.loads((folder / "cross_validation.json").read_text())


# --- folds


def test_one_fold_per_split():
    folds = cross_validate.make_folds(["user01", "user02", "user03"], 0)
    assert folds == [
        ("fold_user01", "user02+user03", "user01"),
        ("fold_user02", "user01+user03", "user02"),
        ("fold_user03", "user01+user02", "user03"),
    ]
    assert cross_validate.make_folds(["user01", "user02", "user03"], 3) == folds


def test_splits_are_dealt_out_in_turn():
    assert cross_validate.make_folds(list("abcde"), 2) == [
        ("fold_1_of_2", "b+d", "a+c+e"),
        ("fold_2_of_2", "a+c+e", "b+d"),
    ]


@pytest.mark.parametrize("count", [2, 3, 7, 10])
def test_every_split_is_scored_once_and_never_by_its_own_network(count):
    splits = [f"user{i:02d}" for i in range(10)]
    folds = cross_validate.make_folds(splits, count)
    assert sorted("+".join(fold.eval_split for fold in folds).split("+")) == splits
    for fold in folds:
        assert sorted(f"{fold.train_split}+{fold.eval_split}".split("+")) == splits
    sizes = [len(fold.eval_split.split("+")) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    assert len({fold.name for fold in folds}) == count


@pytest.mark.parametrize(("splits", "count"), [("ab", 1), ("ab", 3)])
def test_numbers_of_folds_that_cannot_be(splits, count):
    with pytest.raises(UserError, match=rf"--num_folds={count}: must be 2 to 2"):
        cross_validate.make_folds(list(splits), count)


def test_one_split_cannot_be_divided():
    with pytest.raises(UserError, match=r"train alone leaves nothing to train on.*train\[:50%\],train\[50%:\]"):
        cross_validate.make_folds(["train"], 0)


def test_the_run_of_a_fold_is_an_ordinary_training():
    config = settings.from_dict({"mode": "cross_validate", "workdir": "w", "num_folds": 2, "jobs": 3})
    run = cross_validate.run_of(config, cross_validate.Fold("fold_a", "b+c", "a"))
    assert run == settings.from_dict({"mode": "train", "workdir": "w/fold_a", "train_split": "b+c", "eval_split": "a"})


# --- numbers


def metrics_of(*averages):
    return [
        {
            "average_mAP": average,
            "average_mAP_normalized": average / 2,
            "mAP": [average, average],
            "mAP_normalized": [0.5, average],
            "per_class": {"jump": {"AP": [average, 0.0]}, "fall": {"AP": None}},
        }
        for average in averages
    ]


def test_mean_and_deviation_over_folds():
    spread = cross_validate.over_folds(metrics_of(0.2, 0.4, 0.9))
    assert spread["average_mAP"] == {"mean": 0.5, "deviation": pytest.approx(0.13**0.5), "num_folds": 3}
    assert spread["average_mAP_normalized"]["mean"] == 0.25
    assert [entry["deviation"] for entry in spread["mAP_normalized"]] == [0, pytest.approx(0.13**0.5)]
    assert spread["per_class_average_AP"]["jump"]["mean"] == pytest.approx(0.25)
    assert spread["per_class_average_AP"]["fall"] == {"mean": None, "deviation": None, "num_folds": 0}


def test_table_of_folds():
    scored = [
        cross_validate.Scored(cross_validate.Fold(name, "", ""), [None] * 2, {"both": metrics}, seconds)
        for name, metrics, seconds in zip(("a", "b"), metrics_of(0.2, 0.4), (None, 7.4), strict=True)
    ]
    rows = [line.split("  ") for line in cross_validate.format_folds(scored).splitlines()[1:]]
    cells = [[cell.strip() for cell in row if cell] for row in rows]
    assert cells == [
        ["average mAP (%)", "recordings", "both", "both, normalized", "training (s)"],
        ["a", "2", "20.0", "10.0", "-"],
        ["b", "2", "40.0", "20.0", "7"],
        ["mean of folds", "30.0", "15.0"],
        ["+- folds", "14.1", "7.1"],
    ]


@pytest.fixture(scope="module")
def by_hand(three):
    """Ground truth, detections by branch, and names of classes: of all folds, by the command for one run."""
    folder, _ = three
    builder = prepared.open_dataset("toy_actions", data_dir=str(tiny.data_dir()))
    class_names = prepared.class_names(builder)
    truths, detections = [], {"anchor_free": [], "anchor_based": [], "both": []}
    for name, split in zip(NAMES, SPLITS, strict=True):
        config = run_directory.load(str(folder / name)).config
        current, localizer = trained.load_trained(config, frozenset())
        _, found = scoring.localize_split(current, localizer)
        for branch, of_branch in detections.items():
            of_branch += [item.detections[branch] for item in found]
        for record in prepared.read_records(builder, split).as_numpy_iterator():
            rows = zip(record["segments"].tolist(), record["labels"].tolist(), strict=True)
            truths += [(record["id"].decode(), segment, label) for segment, label in rows]
    videos, segments, labels = zip(*truths, strict=True)
    together = {branch: Detections.concatenate(of_branch) for branch, of_branch in detections.items()}
    return instances.GroundTruth(videos, segments, labels), together, class_names


@pytest.mark.parametrize("branch", ["anchor_free", "anchor_based", "both"])
def test_pooled_numbers_are_those_of_all_detections_put_together_by_hand(three, by_hand, branch):
    _, written = three
    truth, found, class_names = by_hand
    detections = found[branch]
    expected = protocols.evaluate(
        truth, detections, protocol="activitynet", tiou_thresholds=written["tiou_thresholds"], class_names=class_names
    )
    pooled = written["branches"][branch]
    assert pooled["average_mAP"] > 0.02  # so that something is compared
    for name in ("mAP", "mAP_normalized", "average_mAP", "average_mAP_normalized"):
        np.testing.assert_allclose(pooled[name], expected[name], atol=1e-9)
    assert pooled["per_class"].keys() == expected["per_class"].keys()
    assert pooled["num_ground_truths"] == len(truth.videos)
    assert pooled["num_detections"] == len(detections)


def test_pooled_is_what_is_written_at_the_top_and_all_recordings_are_in_it(three):
    folder, written = three
    assert written["mAP"] == written["branches"]["both"]["mAP"]
    assert [len(fold["recordings"]) for fold in written["folds"]] == [2, 3, 2]
    detections = json.loads((folder / "detections.json").read_text())["results"]
    assert list(detections) == [name for fold in written["folds"] for name in fold["recordings"]]
    assert len(detections) == 7
    assert sum(map(len, detections.values())) == written["num_detections"]


def test_a_fold_is_scored_as_the_evaluation_of_its_run_scores_it(three, tmp_path):
    folder, written = three
    for fold in written["folds"]:
        with tiny.silence():
            output = tmp_path / fold["name"]
            assert (
                main(["--mode=evaluate", f"--workdir={folder / fold['name']}", f"--output={output}", "--noplots"]) == 0
            )
        alone = json.loads((output / "metrics.json").read_text())
        assert alone["split"] == fold["eval_split"]
        for branch, metrics in fold["branches"].items():
            np.testing.assert_allclose(metrics["mAP"], alone["branches"][branch]["mAP"], atol=1e-9)
    means = [fold["branches"]["both"]["average_mAP"] for fold in written["folds"]]
    assert written["over_folds"]["both"]["average_mAP"]["mean"] == pytest.approx(np.mean(means))
    assert written["over_folds"]["both"]["average_mAP"]["deviation"] == pytest.approx(np.std(means, ddof=1))


def test_detections_are_those_that_score_reads(three, by_hand):
    """The file of all detections, judged without a model."""
    folder, written = three
    truth, _, class_names = by_hand
    detections = results_files.read_activitynet_detections(folder / "detections.json", class_names)
    expected = protocols.evaluate(
        truth, detections, protocol="activitynet", tiou_thresholds=[0.5], class_names=class_names
    )
    at = written["tiou_thresholds"].index(0.5)
    assert written["mAP"][at] == pytest.approx(expected["mAP"][0], abs=1e-6)


def test_csv_has_a_line_per_fold_and_branch(three):
    folder, written = three
    with open(folder / "cross_validation.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["fold"], line["branch"]) for line in lines] == [
        (fold, branch) for fold in (*NAMES, "pooled") for branch in ("anchor_free", "anchor_based", "both")
    ]
    assert float(lines[0]["average_mAP"]) == written["folds"][0]["branches"]["anchor_free"]["average_mAP"]
    assert float(lines[-1]["average_mAP_normalized"]) == written["average_mAP_normalized"]
    assert [int(line["recordings"]) for line in lines[::3]] == [2, 3, 2, 7]


def test_picture(three):
    pytest.importorskip("matplotlib")
    assert (three[0] / "cross_validation.png").read_bytes()[:4] == b"\x89PNG"


def test_other_scores_need_no_training_and_keep_the_first_result(three, tmp_path, capsys):
    folder, written = shutil.copytree(three[0], tmp_path / "three"), three[1]
    before = weight_files(folder)
    capsys.readouterr()
    assert main(flags(folder, "--min_score=0.3", "--protocol=thumos14", "--noplots")) == 0
    out = capsys.readouterr().out
    assert out.count(": finished earlier") == 3
    assert "protocol thumos14" in out
    assert "--train_split and --eval_split: replaced by those of 3 folds" in out
    assert weight_files(folder) == before
    assert json.loads((folder / "cross_validation.1.json").read_text()) == written
    again = json.loads((folder / "cross_validation.json").read_text())
    assert again["settings"]["min_score"] == 0.3
    assert again["num_detections"] < written["num_detections"]
    scores = [
        row["score"]
        for rows in json.loads((folder / "detections.json").read_text())["results"].values()
        for row in rows
    ]
    assert min(scores) > 0.3


# --- going on, and several at the same time


def test_after_a_kill_what_is_finished_is_not_trained_again(three, tmp_path):
    """The second fold is killed in the middle; it ends with the weights that it has without the kill."""
    arguments = flags(tmp_path, "--jobs=1", "--noplots")
    command = forks.Fork([sys.executable, "-m", "a2net_tf.main", *arguments], cwd=tiny.REPO)
    while not (tmp_path / NAMES[1] / "history.csv").exists():
        assert command.poll() is None
        time.sleep(0.02)
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    assert not (tmp_path / "cross_validation.json").exists()
    first = weight_files(tmp_path / NAMES[0])
    written = run_folds(tmp_path, "--noplots")
    assert weight_files(tmp_path / NAMES[0]) == first
    for name in NAMES:
        with np.load(tmp_path / name / "last.npz") as here, np.load(three[0] / name / "last.npz") as there:
            for key in there:
                np.testing.assert_array_equal(here[key], there[key], err_msg=key)
    assert written["mAP"] == three[1]["mAP"]


@pytest.mark.slow
def test_folds_at_the_same_time(tmp_path, monkeypatch):
    """Each has as many recordings of both splits as the others; all of them are scored."""
    forks.runs_of_jobs(monkeypatch)
    written = run_folds(tmp_path, "--jobs=2", "--num_folds=2", "--epochs=1", "--noplots", "--num_levels=1")
    assert [fold["name"] for fold in written["folds"]] == ["fold_1_of_2", "fold_2_of_2"]
    assert [fold["eval_split"] for fold in written["folds"]] == ["train[:2]+validation[:2]", "train[2:5]"]
    assert [len(fold["recordings"]) for fold in written["folds"]] == [4, 3]
    assert "epoch 1/1" in (tmp_path / "fold_1_of_2" / "log.txt").read_text()


@pytest.mark.slow
def test_all_splits_of_the_dataset_are_the_default(tmp_path):
    small = ("--epochs=1", "--train_stride_steps=64", "--noplots", "--num_levels=1")
    written = run_folds(tmp_path, *small, splits=())
    assert [fold["name"] for fold in written["folds"]] == ["fold_train", "fold_validation", "fold_test"]
    assert [fold["train_split"] for fold in written["folds"]] == ["validation+test", "train+test", "train+validation"]


# --- what is refused, before anything is trained


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--fold_splits=train[:2],user07"], "split 'user07' is not in toy_actions"),
        (["--fold_splits=train[:2],train[1:3]"], "is in train[:2] and in train[1:3]"),
        (["--fold_splits=train[:2],train[:2]"], "is in train[:2] and in train[:2]"),
        (["--fold_splits=train"], "train alone leaves nothing to train on"),
        (["--num_folds=4"], "--num_folds=4: must be 2 to 3"),
        (["--num_folds=1"], "--num_folds=1: must be 2 to 3"),
        (["--validation_split=validation"], "--validation_split=validation: its recordings are trained on"),
        (["--dataset="], "--mode=cross_validate needs --dataset"),
        (["--workdir="], "--mode=cross_validate needs --workdir"),
        (["--workdir=a,b"], "takes one directory"),
    ],
)
def test_refused(tmp_path, capsys, more, message):
    assert message in tiny.refused(capsys, tmp_path, *flags(tmp_path / "out", *more))


def test_a_fold_of_other_settings_is_refused(three, capsys):
    line = tiny.refused(capsys, three[0], *flags(three[0], "--clip_norm=1"), alone=False)
    assert f"{NAMES[0]} holds a run with other settings: --clip_norm=1.0 (was 0.0)" in line


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_fold_that_cannot_be_trained_is_named(tmp_path, capsys, number, monkeypatch):
    forks.runs_of_jobs(monkeypatch)
    assert main(flags(tmp_path, "--max_actions=1", f"--jobs={number}")) == 1
    out, err = capsys.readouterr()
    line = err.strip().splitlines()[-1]
    assert "--max_actions" in line
    assert f"{tmp_path}/fold_" in (line if number > 1 else out)
    assert not (tmp_path / "cross_validation.json").exists()

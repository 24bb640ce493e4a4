"""Ablations: what each of them trains and scores, and that its table is that of the single commands."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from a2net_tf import ablation
from a2net_tf import config as settings
from a2net_tf.errors import UserError
from a2net_tf.main import main
from tests import tiny


def config_of(name, **changes):
    return settings.from_dict({"mode": "ablate", "ablation": name, "dataset": "d", "workdir": "w", **changes})


def labels_and_networks(plan):
    return [(part.label, part.networks) for part in plan.parts]


# --- plans


def test_branches_trains_each_module_alone_and_both():
    plan = ablation.plan_of(config_of("branches"))
    assert plan.networks == {
        "anchor_free": {"anchor_based": False},
        "anchor_based": {"anchor_free": False},
        "a2net": {},
    }
    assert labels_and_networks(plan) == [
        ("anchor_free alone", ("anchor_free",)),
        ("anchor_based alone", ("anchor_based",)),
        ("fuse", ("anchor_free", "anchor_based")),
        ("A2Net", ("a2net",)),
    ]


def test_levels_are_three_to_seven_and_the_seventh_is_as_wide_as_the_sixth():
    plan = ablation.plan_of(config_of("levels"))
    assert [changes["num_levels"] for changes in plan.networks.values()] == [3, 4, 5, 6, 7]
    assert plan.networks["levels7"]["level_channels"] == (512, 1024, 1024, 2048, 2048, 4096, 4096)
    assert plan.networks["levels3"]["level_channels"] == (512, 1024, 1024, 2048, 2048, 4096)


def test_lambda_trains_one_network():
    plan = ablation.plan_of(config_of("lambda"))
    assert plan.networks == {"a2net": {}}
    assert [part.changes for part in plan.parts] == [{"lambda_sweep": (0.2, 0.4, 0.5, 0.6, 0.8)}]


def test_a_training_setting_trains_one_network_per_value():
    plan = ablation.plan_of(config_of("anchor_ratios 1 0.5,1,2"))
    assert plan.networks == {
        "anchor_ratios_1": {"anchor_ratios": (1.0,)},
        "anchor_ratios_0.5_1_2": {"anchor_ratios": (0.5, 1.0, 2.0)},
    }


def test_a_localization_setting_trains_one_network_in_all():
    plan = ablation.plan_of(config_of("nms_tiou 0.2 0.4"))
    assert plan.networks == {"a2net": {}}
    assert [part.changes for part in plan.parts] == [{"nms_tiou": 0.2}, {"nms_tiou": 0.4}]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("brunches", "--ablation=brunches: expected branches, lambda, levels, streams"),
        ("mode train", "--ablation=mode: expected branches"),
        ("tiou_thresholds 0.5", "--ablation=tiou_thresholds: expected branches"),
        ("learning_rate", "--ablation=learning_rate: give the values too"),
        ("learning_rate fast slow", "learning_rate"),
        ("precision int8", "precision"),
    ],
)
def test_unknown_ablations(name, message):
    with pytest.raises(UserError, match=message):
        ablation.plan_of(config_of(name))


# --- whole commands


def ablate(workdir, name, *flags):
    with tiny.silence():
        assert main(["--mode=ablate", f"--ablation={name}", *tiny.train_flags(workdir, *flags)[1:]]) == 0
    return json.loads(next(workdir.glob("ablation_*.json")).read_text())


@pytest.fixture(scope="module")
def branches(tmp_path_factory):
    """Branches with two seeds."""
    folder = tmp_path_factory.mktemp("branches")
    return folder, ablate(folder, "branches", "--ablation_seeds=3,4")


def test_rows_are_those_of_single_evaluations(branches, tmp_path):
    folder, written = branches
    rows = {row["label"]: row for row in written["rows"]}
    assert list(rows) == [
        "anchor_free alone",
        "anchor_based alone",
        "fuse",
        "A2Net: anchor_free",
        "A2Net: anchor_based",
        "A2Net: both",
    ]
    both = f"{folder / 'anchor_free_seed4'},{folder / 'anchor_based_seed4'}"
    with tiny.silence():
        assert main(["--mode=evaluate", f"--workdir={both}", f"--output={tmp_path}", "--noplots"]) == 0
    fused = json.loads((tmp_path / "metrics.json").read_text())
    np.testing.assert_allclose(rows["fuse"]["seeds"]["4"]["mAP"], fused["mAP"], atol=1e-9)
    assert rows["fuse"]["multiply_adds"] == sum(
        rows[f"{name} alone"]["multiply_adds"] for name in ("anchor_free", "anchor_based")
    )


def test_a_row_is_what_training_alone_gives(branches, tmp_path):
    """Earlier trainings in the same process change nothing."""
    folder, _ = branches
    alone = tiny.train(tmp_path / "alone", "--seed=4")
    with np.load(folder / "a2net_seed4" / "last.npz") as there, np.load(alone / "last.npz") as here:
        assert set(there) == set(here)
        for name in here:
            np.testing.assert_array_equal(there[name], here[name], err_msg=name)


def test_table_has_means_and_deviation(branches):
    _, written = branches
    table = ablation.format_ablation(written["rows"]).splitlines()
    assert "+- seeds" in table[1]
    assert "G multiply-adds" in table[1]
    row = written["rows"][-1]
    averages = [100 * metrics["average_mAP"] for metrics in row["seeds"].values()]
    cells = table[-1].removeprefix("A2Net: both").split()
    assert float(cells[5]) == pytest.approx(np.mean(averages), abs=0.051)
    assert float(cells[7]) == pytest.approx(np.std(averages, ddof=1), abs=0.051)


def test_csv_has_a_line_per_row_and_seed(branches):
    folder, written = branches
    with open(folder / "ablation_branches.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12
    expected = written["rows"][0]["seeds"]["3"]
    assert float(lines[0]["mAP@0.5"]) == expected["mAP"][expected["tiou_thresholds"].index(0.5)]


def test_picture(branches):
    pytest.importorskip("matplotlib")
    assert (branches[0] / "ablation_branches.png").read_bytes()[:4] == b"\x89PNG"


def test_again_trains_nothing_and_reuses_the_networks_of_another_table(branches):
    folder, _ = branches
    before = {path: path.read_bytes() for path in folder.rglob("last.npz")}
    with tiny.silence():
        flags = tiny.train_flags(folder, "--ablation=lambda", "--ablation_seeds=3,4")[1:]
        assert main(["--mode=ablate", *flags]) == 0
    assert {path: path.read_bytes() for path in folder.rglob("last.npz")} == before
    rows = json.loads((folder / "ablation_lambda.json").read_text())["rows"]
    assert [row["label"] for row in rows] == [
        "anchor_free",
        "anchor_based",
        *(f"lambda {value:g}" for value in (0.2, 0.4, 0.5, 0.6, 0.8)),
        "both",
    ]
    assert rows[4]["seeds"]["3"]["mAP"] == rows[-1]["seeds"]["3"]["mAP"]  # 0.5 is the default


def test_streams(tmp_path):
    rows = ablate(tmp_path, "streams")["rows"]
    assert [row["label"] for row in rows] == [
        "features 0 to 7 (spatial)",
        "features 8 to 15 (temporal)",
        "late fusion",
        "A2Net (early fusion)",
    ]
    assert rows[2]["changes"] == {"fusion": "outputs"}
    assert rows[0]["parameters"] < rows[3]["parameters"]
    run = json.loads((tmp_path / "second_seed0" / "run.json").read_text())
    assert run["config"]["feature_columns"] == [8, 16]


def test_values_of_a_setting(tmp_path):
    rows = ablate(tmp_path, "nms_tiou 0.1 0.9", "--noanchor_based", "--max_detections=5000")["rows"]
    assert [row["label"] for row in rows] == ["nms_tiou 0.1: anchor_free", "nms_tiou 0.9: anchor_free"]
    counts = [sum(entry["num_detections"] for entry in row["seeds"]["0"]["per_class"].values()) for row in rows]
    assert counts[0] < counts[1]


def test_what_cannot_be_trained_is_refused_before_anything_is(tmp_path, capsys):
    flags = [*tiny.train_flags(tmp_path / "out")[1:], "--mode=ablate", "--ablation=levels"]
    line = tiny.refused(capsys, tmp_path, *flags)  # windows of 64 steps do not halve seven times
    assert "--window_steps=64 does not halve 7 times" in line


def test_ablation_needs_a_name(tmp_path, capsys):
    line = tiny.refused(capsys, tmp_path, *tiny.train_flags(tmp_path / "out")[1:], "--mode=ablate")
    assert line == "error: --mode=ablate needs --ablation"


def test_a_folder_of_other_settings_is_refused(branches, capsys):
    folder, _ = branches
    flags = [
        *tiny.train_flags(folder, "--ablation=branches", "--ablation_seeds=3")[1:],
        "--mode=ablate",
        "--clip_norm=1",
    ]
    assert "--clip_norm=1.0 (was 0.0)" in tiny.refused(capsys, folder, *flags, alone=False)


def test_seeds_are_the_only_difference_between_runs_of_a_network():
    config = config_of("branches")
    plan = ablation.plan_of(config)
    first, second = (ablation._run(config, plan, "anchor_free", seed) for seed in (0, 1))
    assert dataclasses.replace(first, seed=1, workdir=second.workdir) == second

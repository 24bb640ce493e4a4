"""Ablations: what each of them trains and scores, and that its table is that of the single commands."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from a2net_tf import settings
from a2net_tf.errors import UserError
from a2net_tf.main import main
from a2net_tf.modes import ablate
from a2net_tf.training import ablation_plans
from tests import forks, tiny


def config_of(name, **changes):
    return settings.from_dict({"mode": "ablate", "ablation": name, "dataset": "d", "workdir": "w", **changes})


def labels_and_networks(plan):
    return [(part.label, part.networks) for part in plan.parts]


# --- plans


def test_branches_trains_each_module_alone_and_both():
    plan = ablation_plans.plan_of(config_of("branches"))
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
    plan = ablation_plans.plan_of(config_of("levels"))
    assert [changes["num_levels"] for changes in plan.networks.values()] == [3, 4, 5, 6, 7]
    assert plan.networks["levels7"]["level_channels"] == (512, 1024, 1024, 2048, 2048, 4096, 4096)
    assert plan.networks["levels3"]["level_channels"] == (512, 1024, 1024, 2048, 2048, 4096)


def test_proposals_compares_modules_with_one_stage_and_with_two():
    plan = ablation_plans.plan_of(config_of("proposals"))
    free, based = {"anchor_free": True, "anchor_based": False}, {"anchor_free": False, "anchor_based": True}
    more = {**based, "anchor_ratios": (0.5, 0.612, 0.75, 0.866, 1.0, 1.225, 1.5, 1.732, 2.0)}
    both = {"anchor_free": True, "anchor_based": True}
    expected = {"anchor_based": based, "anchor_free": free, "a2net": both, "anchor_based_more": more}
    assert plan.networks == {
        **{name: {**changes, "stages": 1} for name, changes in expected.items()},
        **{f"{name}_stages2": {**changes, "stages": 2} for name, changes in expected.items()},
    }
    rows = ("anchors", "anchor-free", "both", "anchors of 9 widths")
    assert [part.label for part in plan.parts] == [
        f"{row}, {stages}" for stages in ("one stage", "two stages") for row in rows
    ]
    assert plan.recall
    assert "a2net_stages1" in ablation_plans.plan_of(config_of("proposals", stages=2)).networks


def test_proposals_with_values_is_the_setting():
    plan = ablation_plans.plan_of(config_of("proposals 64 256"))
    assert [part.changes for part in plan.parts] == [{"proposals": 64}, {"proposals": 256}]


def test_lambda_trains_one_network():
    plan = ablation_plans.plan_of(config_of("lambda"))
    assert plan.networks == {"a2net": {}}
    assert [part.changes for part in plan.parts] == [{"lambda_sweep": (0.2, 0.4, 0.5, 0.6, 0.8)}]


def test_a_training_setting_trains_one_network_per_value():
    plan = ablation_plans.plan_of(config_of("anchor_ratios 1 0.5,1,2"))
    assert plan.networks == {
        "anchor_ratios_1": {"anchor_ratios": (1.0,)},
        "anchor_ratios_0.5_1_2": {"anchor_ratios": (0.5, 1.0, 2.0)},
    }


def test_a_localization_setting_trains_one_network_in_all():
    plan = ablation_plans.plan_of(config_of("nms_tiou 0.2 0.4"))
    assert plan.networks == {"a2net": {}}
    assert [part.changes for part in plan.parts] == [{"nms_tiou": 0.2}, {"nms_tiou": 0.4}]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("brunches", "--ablation=brunches: expected branches, lambda, levels, streams, proposals, recipe"),
        ("mode train", "--ablation=mode: expected branches"),
        ("tiou_thresholds 0.5", "--ablation=tiou_thresholds: expected branches"),
        ("learning_rate", "--ablation=learning_rate: give the values too"),
        ("learning_rate fast slow", "learning_rate"),
        ("precision int8", "precision"),
    ],
)
def test_unknown_ablations(name, message):
    with pytest.raises(UserError, match=message):
        ablation_plans.plan_of(config_of(name))


# --- plans of a recipe


def recipe_of(tmp_path, name, baseline, **changes):
    """The plan of ``changes`` compared with a flagfile of the lines ``baseline``."""
    path = tmp_path / "baseline.flags"
    path.write_text("\n".join(baseline) + "\n")
    return ablation_plans.plan_of(config_of(name, baseline=str(path), **changes))


def test_every_ingredient_is_of_settings_that_rows_may_differ_in_and_no_setting_is_in_two():
    names = [name for group in ablation_plans.INGREDIENTS.values() for name in group]
    assert len(set(names)) == len(names)
    assert set(names) <= set(settings.SCORE_SETTINGS)
    assert not set(names) & set(ablation_plans._COMMON)
    assert not any(" " in name for name in ablation_plans.INGREDIENTS)


def test_recipe_adds_each_ingredient_to_the_baseline_and_takes_each_from_the_recipe(tmp_path):
    """Three ingredients: two of training, of which one has a setting of localization too, and one of localization."""
    changes = {"random_offsets": True, "class_scores": "sigmoid", "classes_per_candidate": 2, "nms_tiou": 0.5}
    plan = recipe_of(tmp_path, "recipe", ["--focal_gamma=2"], **changes)
    faithful = {"random_offsets": False, "class_scores": "softmax", "classes_per_candidate": 1, "nms_tiou": 0.2}

    def without(*names):
        return {name: value for name, value in faithful.items() if name not in names}

    assert plan.networks == {
        "baseline": faithful,
        "baseline_with_random-offsets": without("random_offsets"),
        "baseline_with_focal-loss": without("class_scores", "classes_per_candidate"),
        "a2net": {},
        "anchor_free": {"anchor_based": False},
        "anchor_based": {"anchor_free": False},
    }
    two, nms = {"classes_per_candidate": 1}, {"nms_tiou": 0.2}
    assert [(part.label, *part.networks, part.changes) for part in plan.parts] == [
        ("baseline", "baseline", {**two, **nms}),
        ("baseline + random-offsets", "baseline_with_random-offsets", {**two, **nms}),
        ("baseline + focal-loss", "baseline_with_focal-loss", nms),
        ("baseline + inference", "baseline", two),
        ("recipe without random-offsets", "baseline_with_focal-loss", {}),
        ("recipe without focal-loss", "baseline_with_random-offsets", two),
        ("recipe without inference", "a2net", nms),
        ("recipe", "a2net", {}),
        ("anchor_free alone", "anchor_free", {}),
        ("anchor_based alone", "anchor_based", {}),
        ("fuse", "anchor_free", "anchor_based", {}),
    ]
    assert [part.every_branch for part in plan.parts] == [True] * 8 + [False] * 3
    assert plan.notes == [
        "random-offsets: --random_offsets=True (False)",
        "focal-loss: --class_scores=sigmoid (softmax), --classes_per_candidate=2 (1)",
        "inference: --nms_tiou=0.5 (0.2)",
    ]


def test_chosen_ingredients_use_the_networks_of_the_whole_table(tmp_path):
    changes = {"random_offsets": True, "class_scores": "sigmoid", "nms_tiou": 0.5}
    whole = recipe_of(tmp_path, "recipe", [], **changes)
    for chosen in (["focal-loss"], ["modules", "inference"], ["random-offsets"]):
        part = recipe_of(tmp_path, " ".join(["recipe", *chosen]), [], **changes)
        assert part.networks.items() <= whole.networks.items()
        names = [f"baseline + {name}" for name in chosen if name != "modules"]
        names += [f"recipe without {name}" for name in chosen if name != "modules"]
        alone = ["anchor_free alone", "anchor_based alone", "fuse"] if "modules" in chosen else []
        assert [row.label for row in part.parts] == ["baseline", *names, "recipe", *alone]
        assert all(row in whole.parts for row in part.parts)


def test_data_and_seed_are_those_of_the_command(tmp_path):
    baseline = ["--dataset=other", "--train_split=a", "--validation_split=b", "--seed=7", "--workdir=x", "--epochs=3"]
    plan = recipe_of(tmp_path, "recipe", baseline, train_split="c", epochs=9, decay_epochs=(5,))
    assert plan.networks["baseline"] == {"epochs": 3, "decay_epochs": (30,)}
    assert [row.label for row in plan.parts][1:2] == ["baseline + longer-training"]


def test_a_setting_in_no_ingredient_is_one_by_itself(tmp_path):
    plan = recipe_of(tmp_path, "recipe", ["--train_stride_steps=16"], random_offsets=True)
    assert plan.notes == [
        "random-offsets: --random_offsets=True (False)",
        "train_stride_steps: --train_stride_steps=32 (16)",
    ]
    assert plan.networks["baseline_with_random-offsets"] == {"train_stride_steps": 16}


def test_one_module_is_not_trained_alone_again(tmp_path):
    plan = recipe_of(tmp_path, "recipe", ["--noanchor_based"], random_offsets=True, anchor_based=False)
    assert [part.label for part in plan.parts] == [
        "baseline",
        "baseline + random-offsets",
        "recipe without random-offsets",
        "recipe",
    ]
    assert set(plan.networks) == {"a2net", "baseline"}  # with one ingredient, the rows between are the two ends


def test_a_module_that_the_baseline_lacks_leaves_fuse_as_it_is(tmp_path):
    plan = recipe_of(tmp_path, "recipe", ["--noanchor_based"], random_offsets=True)
    assert labels_and_networks(plan)[-1] == ("fuse", ("anchor_free", "anchor_based"))
    assert ("recipe without anchor_based", ("anchor_free",)) in labels_and_networks(plan)


def test_rows_that_cannot_be_are_named_with_the_reason(tmp_path):
    """Windows of 96 steps halve five times, not six."""
    changes = {"window_steps": 96, "num_levels": 5, "random_offsets": True}
    plan = recipe_of(tmp_path, "recipe", [], **changes)
    reason = "--window_steps=96 does not halve 6 times (--num_levels): it must be a multiple of 64"
    assert plan.notes[-2:] == [
        f"no row 'baseline + window_steps': {reason}",
        f"no row 'recipe without size': {reason}",
    ]
    labels = [part.label for part in plan.parts]
    assert "baseline + size" in labels
    assert not {"baseline + window_steps", "recipe without size"} & set(labels)
    assert len(recipe_of(tmp_path, "recipe random-offsets", [], **changes).notes) == 3  # the ingredients


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("recipe", ["--nms_tiou=0.5", "--workdir=a", "--seed=3"], "its settings are those of the command"),
        ("recipe", ["--nms_tiuo=0.5"], "Unknown command line flag 'nms_tiuo'"),
        ("recipe", ["--nms_tiou=2"], "--nms_tiou=2.0: must be >= 0"),
        ("recipe speed", [], "recipe speed: speed is no ingredient that differs .*; expected inference, or modules"),
        ("recipe focal-loss", [], "focal-loss is no ingredient that differs"),
    ],
)
def test_recipes_that_are_refused(tmp_path, name, lines, message):
    with pytest.raises(UserError, match=message):
        recipe_of(tmp_path, name, lines, nms_tiou=0.5)


def test_recipe_needs_a_baseline():
    with pytest.raises(UserError, match="--mode=ablate needs --baseline"):
        ablation_plans.plan_of(config_of("recipe"))


def test_missing_baseline(tmp_path):
    with pytest.raises(UserError, match=r"--baseline=.*/none\.flags: .*No such file"):
        ablation_plans.plan_of(config_of("recipe", baseline=str(tmp_path / "none.flags")))


# --- whole commands


ONE_LEVEL = ("--num_levels=1", "--level_channels=8")  # graphs of tens of networks take long to make


def train_flags(workdir, *more):
    return tiny.train_flags(workdir, *ONE_LEVEL, *more)


def run_ablation(workdir, name, *flags):
    with tiny.silence():
        assert main(["--mode=ablate", f"--ablation={name}", *train_flags(workdir, *flags)[1:]]) == 0
    return json.loads(next(workdir.glob("ablation_*.json")).read_text())


@pytest.fixture(scope="module")
def branches(slow, tmp_path_factory):
    """Branches with two seeds."""
    folder = tmp_path_factory.mktemp("branches")
    return folder, run_ablation(folder, "branches", "--ablation_seeds=3,4")


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
    alone = tiny.train(tmp_path / "alone", *ONE_LEVEL, "--seed=4")
    with np.load(folder / "a2net_seed4" / "last.npz") as there, np.load(alone / "last.npz") as here:
        assert set(there) == set(here)
        for name in here:
            np.testing.assert_array_equal(there[name], here[name], err_msg=name)


def test_table_has_means_and_deviation(branches):
    _, written = branches
    table = ablate.format_ablation(written["rows"]).splitlines()
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
        flags = train_flags(folder, "--ablation=lambda", "--ablation_seeds=3,4")[1:]
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


@pytest.mark.slow
def test_streams(tmp_path):
    rows = run_ablation(tmp_path, "streams")["rows"]
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


@pytest.mark.slow
def test_values_of_a_setting(tmp_path):
    rows = run_ablation(tmp_path, "nms_tiou 0.1 0.9", "--noanchor_based", "--max_detections=5000")["rows"]
    assert [row["label"] for row in rows] == ["nms_tiou 0.1: anchor_free", "nms_tiou 0.9: anchor_free"]
    counts = [sum(entry["num_detections"] for entry in row["seeds"]["0"]["per_class"].values()) for row in rows]
    assert counts[0] < counts[1]


@pytest.fixture(scope="module")
def recipe(slow, tmp_path_factory):
    """Two ingredients, one of training and one of localization; two trainings at the same time."""
    folder = tmp_path_factory.mktemp("recipe")
    baseline = folder / "baseline.flags"
    baseline.write_text("\n".join([*tiny.NETWORK, *ONE_LEVEL, "--epochs=1"]) + "\n")
    flags = (f"--baseline={baseline}", "--random_offsets", "--nms_tiou=0.9", "--max_detections=5000", "--jobs=2")
    with pytest.MonkeyPatch.context() as patch:
        forks.runs_of_jobs(patch)
        return folder, flags, run_ablation(folder, "recipe", *flags)


def test_recipe_trains_each_network_once_and_scores_every_branch(recipe):
    folder, _, written = recipe
    ends = ["baseline", "baseline + random-offsets", "baseline + inference"]
    ends += ["recipe without random-offsets", "recipe without inference", "recipe"]
    branches = ("anchor_free", "anchor_based", "both")
    expected = [f"{label}: {branch}" for label in ends for branch in branches]
    assert [row["label"] for row in written["rows"]] == [
        *expected,
        "anchor_free alone",
        "anchor_based alone",
        "fuse",
    ]
    trained = sorted(path.parent.name for path in folder.glob("*/last.npz"))
    assert trained == ["a2net_seed0", "anchor_based_seed0", "anchor_free_seed0", "baseline_seed0"]


def test_recipe_rows_are_those_of_single_evaluations(recipe, tmp_path):
    """The baseline's network with the recipe's suppression, and the other way round."""
    folder, _, written = recipe
    rows = {row["label"]: row for row in written["rows"]}
    for label, network, flags in (
        ("baseline", "baseline", ["--nms_tiou=0.2", "--max_detections=0"]),
        ("baseline + inference", "baseline", ["--nms_tiou=0.9", "--max_detections=5000"]),
        ("recipe without inference", "a2net", ["--nms_tiou=0.2", "--max_detections=0"]),
        ("recipe", "a2net", []),
    ):
        run = shutil.copytree(folder / f"{network}_seed0", tmp_path / label)
        with tiny.silence():
            assert main(["--mode=evaluate", f"--workdir={run}", "--noplots", *flags]) == 0
        branches = json.loads((run / "metrics.json").read_text())["branches"]
        for branch, metrics in branches.items():
            found = rows[f"{label}: {branch}"]["seeds"]["0"]
            np.testing.assert_allclose(found["mAP"], metrics["mAP"], atol=1e-9, err_msg=label)
            assert found["per_class"] == metrics["per_class"]
    kept = [rows[f"{label}: both"]["seeds"]["0"] for label in ("baseline", "baseline + inference")]
    counts = [sum(entry["num_detections"] for entry in metrics["per_class"].values()) for metrics in kept]
    assert counts[0] < counts[1]


def test_training_time_is_the_sum_of_the_history(recipe):
    folder, _, written = recipe
    seconds = {}
    for path in folder.glob("*/history.csv"):
        with open(path, newline="") as file:
            seconds[path.parent.name] = sum(float(row["seconds"]) for row in csv.DictReader(file))
    rows = {row["label"]: row["seeds"]["0"]["training_seconds"] for row in written["rows"]}
    assert rows["recipe: both"] == rows["recipe without inference: both"] == pytest.approx(seconds["a2net_seed0"])
    assert rows["fuse"] == pytest.approx(seconds["anchor_free_seed0"] + seconds["anchor_based_seed0"])
    with open(folder / "ablation_recipe.csv", newline="") as file:
        assert [float(line["training_seconds"]) for line in csv.DictReader(file)] == pytest.approx(list(rows.values()))


def test_recipe_again_prints_a_table_per_branch_and_trains_nothing(recipe, capsys):
    folder, flags, _ = recipe
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("last.npz")}
    name = "--ablation=recipe inference"
    assert main([*train_flags(folder, *flags)[1:], "--mode=ablate", name]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("last.npz")} == before
    printed = capsys.readouterr().out.splitlines()
    tables = [i for i, line in enumerate(printed) if line.endswith("train min")]
    assert [printed[i - 2] for i in tables] == ["anchor_free", "anchor_based", "both"]
    assert sum(line.startswith("recipe without inference ") for line in printed) == 3
    assert sum(line.startswith("recipe without random-offsets ") for line in printed) == 0
    assert "inference: --nms_tiou=0.9 (0.2), --max_detections=5000 (0)" in printed
    assert (folder / "ablation_recipe_inference.json").exists()


def test_runs_of_more_epochs_do_not_pass_for_fewer(recipe, capsys):
    folder, flags, _ = recipe
    longer = shutil.copytree(folder / "a2net_seed0", folder / "longer" / "a2net_seed0")
    text = (longer / "run.json").read_text()
    (longer / "run.json").write_text(text.replace('"epochs": 1', '"epochs": 2'))
    command = [*train_flags(folder / "longer", *flags)[1:], "--mode=ablate", "--ablation=lambda"]
    line = tiny.refused(capsys, folder, *command, alone=False)
    assert line.endswith("a2net_seed0 holds a run of 2 epochs, not 1: use another --workdir")


def test_time_of_a_run_that_did_not_measure_it(recipe):
    _, _, written = recipe
    row = written["rows"][0]
    unknown = {**row, "seeds": {"0": {**row["seeds"]["0"], "training_seconds": None}}}
    table = ablate.format_ablation([{**row, "label": "a"}, {**unknown, "label": "b"}]).splitlines()
    assert table[1].endswith("train min")
    assert [line.split()[-1] for line in table[2:]] == [f"{row['seeds']['0']['training_seconds'] / 60:.2f}", "-"]


def test_a_wrong_split_does_not_wait_until_all_is_trained(tmp_path, capsys):
    flags = [*train_flags(tmp_path / "out")[1:], "--mode=ablate", "--ablation=lambda", "--eval_split=nothing"]
    assert "split 'nothing' is not in" in tiny.refused(capsys, tmp_path, *flags, alone=False)


def test_what_cannot_be_trained_is_refused_before_anything_is(tmp_path, capsys):
    flags = [*train_flags(tmp_path / "out")[1:], "--mode=ablate", "--ablation=levels"]
    line = tiny.refused(capsys, tmp_path, *flags)  # windows of 64 steps do not halve seven times
    assert "--window_steps=64 does not halve 7 times" in line


def test_ablation_needs_a_name(tmp_path, capsys):
    line = tiny.refused(capsys, tmp_path, *train_flags(tmp_path / "out")[1:], "--mode=ablate")
    assert line == "error: --mode=ablate needs --ablation"


def test_a_folder_of_other_settings_is_refused(branches, capsys):
    folder, _ = branches
    flags = [
        *train_flags(folder, "--ablation=branches", "--ablation_seeds=3")[1:],
        "--mode=ablate",
        "--clip_norm=1",
    ]
    assert "--clip_norm=1.0 (was 0.0)" in tiny.refused(capsys, folder, *flags, alone=False)


def test_seeds_are_the_only_difference_between_runs_of_a_network():
    config = config_of("branches")
    plan = ablation_plans.plan_of(config)
    first, second = (ablate._run(config, plan, "anchor_free", seed) for seed in (0, 1))
    assert dataclasses.replace(first, seed=1, workdir=second.workdir) == second


@pytest.mark.slow
def test_proposals(tmp_path):
    """Rows of one stage and of two, with the recall of what both propose."""
    written = run_ablation(tmp_path, "proposals", *tiny.TWO_STAGES)
    assert len(written["rows"]) == 8
    for row in written["rows"]:
        proposed = row["seeds"]["0"]["proposed"]
        assert proposed["num_proposals"] > 0
        assert proposed["tiou_thresholds"][0] == 0.5
    table = ablate.format_ablation(written["rows"]).splitlines()
    assert {"AR@50", "AR@1000"} <= set(table[1].split())
    with open(tmp_path / "ablation_proposals.csv", newline="") as file:
        first = next(csv.DictReader(file))
    expected = written["rows"][0]["seeds"]["0"]["proposed"]["area_to_1000"]
    assert float(first["area 1000"]) == pytest.approx(expected)

"""Tests of --mode=check: its arithmetic on segments made by hand, and whole commands on small datasets."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from a2net_tf.data import input_pipeline, prepared, reach, schema, statistics
from a2net_tf.data.statistics import FeatureStatistics
from a2net_tf.detection import geometry, pyramid, targets, windows
from a2net_tf.errors import UserError
from a2net_tf.main import main
from a2net_tf.modes import check
from a2net_tf.report import check_report
from tests import tiny

# Quantiles and overlaps


def test_quantiles_by_hand():
    assert reach.quantiles(np.arange(101.0)) == {
        "min": 0, "5%": 5, "25%": 25, "50%": 50, "75%": 75, "95%": 95, "max": 100,
    }  # fmt: skip
    assert reach.quantiles(np.array([1.0, 2.0]))["25%"] == 1.25
    assert set(reach.quantiles(np.array([3.0])).values()) == {3.0}
    assert reach.quantiles(np.zeros(0)) is None


def test_overlapping_by_hand():
    segments = [[10, 12], [0, 5], [5, 6], [20, 40], [22, 23], [39, 41], [50, 51]]
    found = reach.find_overlapping(np.array(segments, float))
    assert found.tolist() == [False, False, False, True, True, True, False]  # touching at 5 is not overlapping
    assert reach.find_overlapping(np.array([[1.0, 2.0], [1.0, 2.0]])).all()
    assert reach.find_overlapping(np.array([[1.0, 2.0]])).tolist() == [False]
    assert reach.find_overlapping(np.zeros((0, 2))).tolist() == []


def test_overlapping_is_what_all_pairs_say():
    rng = np.random.default_rng(0)
    start = rng.integers(0, 60, 40).astype(float)
    segments = np.stack([start, start + rng.integers(1, 6, 40)], axis=1)
    pairs = (segments[:, None, 0] < segments[None, :, 1]) & (segments[None, :, 0] < segments[:, None, 1])
    np.fill_diagonal(pairs, False)
    expected = pairs.any(axis=1)
    assert 0 < expected.sum() < 40
    np.testing.assert_array_equal(reach.find_overlapping(segments), expected)


# Windows


def test_room_by_hand():
    segments = np.array([[100, 110], [100, 132], [100, 150], [100, 133]], float)
    low, high = reach.find_room(segments, 32, 1.0)
    np.testing.assert_allclose(low[:2], [78, 100], atol=1e-3)  # the end of the window must reach 110 and 132
    np.testing.assert_allclose(high[:2], [100, 100], atol=1e-3)
    assert (low > high).tolist() == [False, False, True, True]
    low, high = reach.find_room(segments, 32, 0.5)
    np.testing.assert_allclose([low[2], high[2]], [93, 125], atol=1e-3)  # 25 of 50 steps are enough


@pytest.mark.parametrize("min_inside", [0.0, 0.3, 0.9, 1.0])
def test_windows_hold_what_clip_actions_says(make_config, min_inside):
    rng = np.random.default_rng(1)
    start = rng.uniform(-5, 205, 100)
    segments = np.stack([start, start + rng.uniform(0.1, 60, 100)], axis=1)
    config = make_config(min_action_inside=min_inside, train_stride_steps=7)
    starts = windows.window_starts(tf.constant(200), window_steps=32, stride_steps=7)
    _, kept = windows.clip_actions(
        tf.constant(segments, tf.float32), starts, window_steps=32, min_inside=min_inside
    )  # fmt: skip
    met = reach.measure_reach(segments, 200, config, training=True)
    assert 0 < met.of_actions["in_window"].sum() < 100
    np.testing.assert_array_equal(met.of_actions["in_window"], kept.numpy().any(axis=0))
    np.testing.assert_array_equal(met.actions_in_windows, kept.numpy().sum(axis=1))
    assert met.most_actions == kept.numpy().sum(axis=1).max()


def test_why_an_action_is_in_no_window(make_config):
    config = make_config(min_action_inside=1.0, train_stride_steps=8)
    segments = np.array([[10, 20], [12, 40], [10, 50], [195, 205], [202, 204]], float)
    found = reach.measure_reach(segments, 200, config, training=False).of_actions
    assert found["in_window"].tolist() == [True, False, False, False, False]
    assert found["too_long"].tolist() == [False, False, True, False, False]
    assert found["outside"].tolist() == [False, False, False, True, True]
    assert found["room"][1] == pytest.approx(4, abs=0.01)  # a window of 32 steps from 8 to 12
    training = reach.measure_reach(segments, 200, config, training=True).of_actions
    assert training["in_window"].tolist() == [True, True, False, False, False]  # the one at 8


def test_longer_inference_windows_reach_more(make_config):
    """Windows of 64 steps every 48: what they hold does not concern training."""
    segments = np.array([[10, 50], [10, 80], [40, 70]], float)
    config = make_config(min_action_inside=1.0, inference_window_steps=64)
    found = reach.measure_reach(segments, 200, config, training=False)
    assert found.of_actions["in_window"].tolist() == [True, False, False]
    assert found.of_actions["too_long"].tolist() == [False, True, False]
    assert len(found.actions_in_windows) == 4  # at 0, 48, 96 and 136
    training = reach.measure_reach(segments, 200, config, training=True)
    assert training.of_actions["too_long"].tolist() == [True, True, False]
    trained_so = make_config(min_action_inside=1.0, window_steps=64, inference_overlap=0.25)
    same = reach.measure_reach(segments, 200, trained_so, training=False)
    np.testing.assert_array_equal(found.of_actions["tiou"], same.of_actions["tiou"])
    np.testing.assert_array_equal(found.of_actions["in_cell"], same.of_actions["in_cell"])


def test_random_offsets_reach_between_the_grid(make_config):
    flags = {"min_action_inside": 1.0, "train_stride_steps": 30}
    segments = np.array([[12, 42], [40, 41]], float)  # the first fits from 10 to 12
    fixed, shifted = (
        reach.measure_reach(segments, 200, make_config(random_offsets=offsets, **flags), training=True)
        for offsets in (False, True)
    )
    assert fixed.of_actions["in_window"].tolist() == [False, True]
    assert shifted.of_actions["in_window"].tolist() == [True, True]
    np.testing.assert_array_equal(fixed.actions_in_windows, shifted.actions_in_windows)  # an epoch has no more windows
    assert (fixed.most_actions, shifted.most_actions) == (1, 2)


def test_no_actions_at_all(make_config):
    met = reach.measure_reach(np.zeros((0, 2)), 200, make_config(), training=True)
    assert met.actions_in_windows.tolist() == [0] * 22
    assert met.most_actions == 0
    assert all(len(values) == 0 for values in met.of_actions.values())


# Cells and anchors


def test_cells_by_hand(make_config):
    """A window of 32 steps has 16 grid units, and cells of level 1 at 0, 1, 2, ... of them."""
    segments = np.array([[1.1, 1.9], [0.9, 1.1], [1, 1.5], [2.5, 3], [2.5, 3.01], [0, 16]]) / 16
    assert reach.contain_cell(segments, make_config()).tolist() == [False, True, True, False, True, True]
    assert reach.contain_cell(segments[:0], make_config()).tolist() == []


def make_segments(number):
    """Fractions of a window: one half of any length, the other half short ones."""
    rng = np.random.default_rng(2)
    start, length = rng.uniform(0, 1, number), rng.uniform(0.01, 1, number)
    length[::2] *= 0.1
    return np.stack([start, start + (1 - start) * length], axis=1)


@pytest.mark.parametrize("changes", [{}, {"num_levels": 1}, {"num_levels": 5}])
def test_cells_are_those_of_training(make_config, changes):
    config, segments = make_config(**changes), make_segments(500)
    cells = targets.assign_cells(
        tf.constant(segments[:, None], tf.float32),
        tf.ones((500, 1), tf.int32),
        centers=pyramid.cell_centers(config.window_steps, config.num_levels),
        levels=pyramid.cell_levels(config.window_steps, config.num_levels),
        grid_units=16,
    )
    expected = cells.labels.numpy().any(axis=1)
    assert 0 < expected.sum() < 500
    np.testing.assert_array_equal(reach.contain_cell(segments, config), expected)


def test_anchors_by_hand(make_config):
    """Anchors of level 1 are centred at 1, 3, 5, ... steps and 1, 2 or 4 steps wide."""
    segments = np.array([[0, 2], [0.5, 1.5], [1, 2], [0.75, 1.25]]) / 32
    np.testing.assert_allclose(reach.best_anchor_tiou(segments, make_config()), [1, 1, 0.5, 0.5], atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"num_levels": 1}, {"num_levels": 5, "anchor_ratios": (0.3, 2.5)}])
def test_the_best_anchor_is_the_best_of_all(make_config, changes):
    config, segments = make_config(**changes), make_segments(500)
    default = pyramid.default_anchors(config.window_steps, config.num_levels, config.anchor_ratios)
    matches = targets.match_anchors(
        geometry.from_center_width(default)[None],
        tf.constant(segments[:, None], tf.float32),
        tf.ones((500, 1), tf.int32),
    )
    expected = matches.overlap.numpy().max(axis=1)
    assert 0 < (expected > 0.5).sum() < 500
    np.testing.assert_allclose(reach.best_anchor_tiou(segments, config), expected, rtol=1e-4)


def test_targets_over_all_windows(make_config, monkeypatch):
    """An action of 1.6 steps lies between two cells in windows from an even step, and holds one from an odd step."""
    segments = np.array([[20.2, 21.8], [101.2, 102.8], [60, 70]])
    even = make_config(train_stride_steps=8)
    assert reach.measure_reach(segments, 200, even, training=True).of_actions["in_cell"].tolist() == [
        False,
        True,  # step 102 is even
        True,
    ]
    odd = make_config(train_stride_steps=7)
    found = reach.measure_reach(segments, 200, odd, training=True).of_actions
    assert found["in_cell"].tolist() == [True, True, True]
    monkeypatch.setattr(reach, "_PAIRS_AT_ONCE", 1)  # one action after the other
    again = reach.measure_reach(segments, 200, odd, training=True).of_actions
    np.testing.assert_array_equal(again["in_cell"], found["in_cell"])
    np.testing.assert_array_equal(again["tiou"], found["tiou"])
    assert (found["tiou"] > 0.5).all()


# Suggested values


def test_suggested_window_holds_enough(make_config):
    steps = np.arange(1, 101.0)
    config = make_config(min_action_inside=1.0, num_levels=2)
    assert reach.needed_window_steps(steps, config) == 96  # 95 of 100 actions fit 95 steps; multiples of 4
    assert reach.needed_window_steps(steps, make_config(min_action_inside=1.0, num_levels=2, window_steps=96)) == 100
    assert reach.needed_window_steps(np.zeros(0), config) == 32


def test_suggested_bound_is_exceeded():
    tious = np.array([0.9] * 95 + [0.37] * 4 + [0.2])
    assert reach.needed_match_tiou(tious, 0.95) == 0.89
    assert reach.needed_match_tiou(tious, 0.5) == 0.19
    assert reach.needed_match_tiou(np.array([0.0]), 0.5) is None
    assert reach.needed_match_tiou(np.zeros(0), 0.5) is None


# Features


def test_features_are_those_of_numpy(monkeypatch):
    monkeypatch.setattr(statistics, "_STEPS_AT_ONCE", 7)
    features = np.random.default_rng(3).normal(2, 3, (50, 4)).astype(np.float32)
    features[:, 1], features[:, 2] = 5, 0
    totals = FeatureStatistics(4)
    for start in range(0, 50, 25):
        totals.add(features[start : start + 25])
    found = check.summarize_features(totals, {})
    exact = features.astype(np.float64)
    assert found["mean"] == pytest.approx(exact.mean())
    assert found["deviation"] == pytest.approx(exact.std())
    assert (found["min"], found["max"]) == (exact.min(), exact.max())
    np.testing.assert_allclose(found["means_of_dimensions"], [0, 5])
    np.testing.assert_allclose(found["deviations_of_dimensions"], [0, exact.std(axis=0).max()], atol=1e-9)
    assert found["zero_share"] == 0.25
    assert (found["constant_dimensions"], found["zero_dimensions"], found["non_finite"]) == ([1, 2], [2], {})


def test_values_that_are_not_finite_are_left_out():
    totals = FeatureStatistics(3)
    non_finite = {
        "good": totals.add(np.array([[1, 2, np.nan]], np.float32)),
        "bad": totals.add(np.array([[np.inf, 4, np.nan], [3, -np.inf, np.nan]], np.float16)),
    }
    found = check.summarize_features(totals, non_finite)
    assert found["non_finite"] == {"good": 1, "bad": 4}
    assert (found["min"], found["max"], found["mean"]) == (1, 4, 2.5)
    assert found["means_of_dimensions"] == [2, 3]
    assert (found["constant_dimensions"], found["zero_dimensions"]) == ([], [])


def test_no_finite_value_at_all():
    totals = FeatureStatistics(2)
    found = check.summarize_features(totals, {"a": totals.add(np.full((3, 2), np.nan))})
    assert (found["min"], found["max"], found["means_of_dimensions"]) == (None, None, None)
    json.dumps(found, allow_nan=False)


# Sequences


def make_sequence(segments, labels, *, name="a", steps=200, **settings):
    features = np.random.default_rng(steps).normal(size=(steps, 3)).astype(np.float32)
    settings = {"num_classes": 3, "feature_stride_seconds": 0.5, **settings}
    return schema.make_record(name, features, segments, labels, **settings)


def add_up(config, *added, role="training"):
    totals = check.GroupTotals(check.Group("train", "train", role), config, 3, 3)
    for record in added:
        totals.add({**record, "id": record["id"].encode(), **{k: np.asarray(record[k]) for k in TIMES}})
    return totals.summarize(("jump", "run", "sit"))


TIMES = ("feature_stride_seconds", "first_step_seconds", "num_steps")


def test_sequence_by_hand(make_config):
    """Half a second per step from second 1 on; a level-1 cell is one second wide."""
    segments = [[2, 3.5], [3, 5], [10, 18], [20, 21.9], [30, 60]]  # 3, 4, 16, 3.8 and 60 steps
    ambiguous = [[0, 1], [2, 3]]
    record = make_sequence(segments, [0, 0, 1, 0, 1], first_step_seconds=1.0, ambiguous_segments=ambiguous)
    found = add_up(make_config(), record, make_sequence([], [], name="b", steps=50, feature_stride_seconds=0.25))
    assert (found["sequences"], found["sequences_without_actions"], found["steps"]) == (2, ["b"], 250)
    assert found["hours"] == pytest.approx((200 * 0.5 + 50 * 0.25) / 3600)
    assert (found["stride_seconds"], found["first_step_seconds"]) == ([0.25, 0.5], [0, 1])
    assert (found["actions"], found["overlapping_actions"], found["ambiguous_segments"]) == (5, 2, 2)
    assert found["per_class"] == {"jump": 3, "run": 2, "sit": 0}
    assert (found["seconds_of_actions"]["min"], found["seconds_of_actions"]["max"]) == (1.5, 30)
    assert found["steps_of_actions"]["50%"] == 4
    assert (found["too_long"], found["in_window"], found["with_cell"], found["with_anchor"]) == (1, 4, 4, 4)
    assert found["levels"] == [2, 1, 0, 1]  # by grid units of two steps: 1.5 and 1.9, 2, -, 8
    assert found["windows"] == 22 + 4
    json.dumps(found, allow_nan=False)


def test_chunks_count_once(make_config):
    """As one sequence, but for the names of what is not finite."""
    record = make_sequence([[2, 3.5], [30, 34], [80, 82]], [0, 1, 1], steps=300)
    chunks = [chunk for _, chunk in schema.split_into_chunks(record, 120, 32)]
    assert len(chunks) == 4
    whole, parts = add_up(make_config(), record), add_up(make_config(), *chunks)
    assert whole["features"]["mean"] == pytest.approx(parts["features"]["mean"])
    del whole["features"], parts["features"]
    assert whole == parts


def test_beginning_of_the_sequence_is_missing(make_config):
    chunks = [chunk for _, chunk in schema.split_into_chunks(make_sequence([], [], steps=300), 120, 32)]
    with pytest.raises(UserError, match="split 'train' holds only later chunks of a sequence"):
        add_up(make_config(), *chunks[1:])


@pytest.mark.parametrize("role", ["training", "evaluation"])
def test_the_role_chooses_the_grid(make_config, role):
    found = add_up(make_config(), make_sequence([[2, 3]], [0]), role=role)
    assert found["windows"] == {"training": 22, "evaluation": 12}[role]  # a window every 8 steps, or every 16


def test_of_many_classes_only_the_rarest_and_commonest_are_printed(monkeypatch):
    monkeypatch.setattr(check_report, "_MOST_CLASSES", 4)
    text = check_report._format_classes({"training": {"per_class": {"a": 5, "b": 1, "c": 9, "d": 0, "e": 3}}})
    assert [line.split() for line in text.splitlines()[1:]] == [["d", "0"], ["c", "9"]]
    text = check_report._format_classes({"training": {"per_class": {"a": 5, "b": 1}}})
    assert [line.split() for line in text.splitlines()[1:]] == [["a", "5"], ["b", "1"]]


# Whole commands

SMALL = ("--window_steps=32", "--num_levels=4", "--train_stride_steps=8")


def run(capsys, *flags, status=0):
    """Output and error lines of ``--mode=check``."""
    capsys.readouterr()
    assert main(["--mode=check", *flags]) == status
    captured = capsys.readouterr()
    return captured.out, captured.err


def warnings_in(output):
    return [line.removeprefix("warning: ") for line in output.splitlines() if line.startswith("warning: ")]


def prepare(folder, splits, features=None):
    """A directory with the records ``splits`` {name: list} that was prepared elsewhere; returns its path."""

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        code_path, pkg_dir_path = tfds.core.Path(__file__), tfds.core.Path(__file__).parent

        def _info(self):
            own = features or schema.record_features(3, ("jump", "run", "sit"))
            return tfds.core.DatasetInfo(builder=self, features=own)

        def _split_generators(self, dl_manager):
            return {name: ((str(i), record) for i, record in enumerate(found)) for name, found in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    with tiny.silence():
        builder = Builder(data_dir=str(folder / "data"))
        builder.download_and_prepare()
    return str(builder.data_path)


def test_toy_dataset(capsys, tmp_path):
    file = tmp_path / "check.json"
    flags = ["--dataset=toy_actions", f"--data_dir={tiny.data_dir()}", "--train_split=train[:8]", "--random_offsets"]
    output, _ = run(capsys, *flags, f"--metrics={file}")
    assert output.startswith("toy_actions/1.0.0: 16 features (D), 6 classes (C)\n")
    assert output.endswith(f"\nwritten: {file}\ncheck: 1 warning\n")
    report = json.loads(file.read_text())
    assert {name: split["split"] for name, split in report["splits"].items()} == {
        "training": "train[:8]", "evaluation": "test", "other": "validation",
    }  # fmt: skip
    builder = prepared.open_dataset("toy_actions", data_dir=str(tiny.data_dir()))
    stored = list(prepared.read_records(builder, "train[:8]").as_numpy_iterator())
    training = report["splits"]["training"]
    assert (training["sequences"], training["features"]["non_finite"]) == (8, {})
    assert training["actions"] == sum(len(record["labels"]) for record in stored) == sum(training["per_class"].values())
    assert training["features"]["mean"] == pytest.approx(
        np.concatenate([record["features"] for record in stored]).mean(dtype=np.float64)
    )
    assert warnings_in(output) == report["warnings"]
    assert max(len(line) for line in output.splitlines() if not line.startswith("warning")) <= 130


def test_training_scans_the_same(make_config):
    """Windows and actions too long are those that ``train`` finds."""
    config = make_config(dataset="toy_actions", data_dir=str(tiny.data_dir()), train_split="train[:8]")
    builder = prepared.open_dataset("toy_actions", data_dir=str(tiny.data_dir()))
    found = check.make_report(builder, config)["splits"]["training"]
    scan = input_pipeline.scan(prepared.read_records(builder, "train[:8]"), config)
    assert found["too_long"] == scan.num_too_long > 0
    assert (found["actions"], found["windows_with_actions"]) == (scan.num_actions, scan.num_windows)
    np.testing.assert_allclose(found["features"]["means_of_dimensions"], [scan.mean.min(), scan.mean.max()], rtol=1e-4)


def write_own(folder):
    """Videos with features of half a second per step; what is wrong with them is in the test that follows."""
    videos = {
        "a": ("training", 200, [(1, 3, "jump"), (5, 55, "run"), (60, 64.5, "jump")]),
        "b": ("training", 60, []),
        "gone": ("training", 60, []),
        "c": ("validation", 200, [(1, 3.2, "jump"), (10, 15, "sit"), (50, 50.2, "jump")]),
    }
    database = {}
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name, (subset, steps, actions) in videos.items():
        listed = [{"segment": [start, end], "label": label} for start, end, label in actions]
        database[name] = {"subset": subset, "duration": steps / 2, "annotations": listed}
        if name != "gone":
            np.save(folder / f"{name}.npy", rng.normal(size=(steps, 5)).astype(np.float32))
    content = {"feature_stride_seconds": 0.5, "classes": ["jump", "run", "sit", "fly"], "database": database}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def own(tmp_path):
    """Flags for the folder of ``write_own``."""
    folder = write_own(tmp_path / "own")
    (folder / "settings.json").write_text('{"allow_missing": true}')
    return ["--dataset=feature_folder", f"--manual_dir={folder}", f"--data_dir={tmp_path / 'data'}", *SMALL]


SPLITS = ("--train_split=training", "--eval_split=validation")


def test_own_folder(capsys, own):
    output, _ = run(capsys, *own, *SPLITS)
    share = "(33.3%) are"
    *found, last = warnings_in(output)
    assert found[0].endswith("1 of 4 annotated videos have no features: gone; left out")
    assert found[1:] == [
        "1 class without any action: fly",
        "1 class of --eval_split without training actions cannot be learned: sit",
        "1 class without actions in --eval_split cannot be scored: run",
        f"training: 1 of 3 actions {share} too long for any window: --window_steps=96 holds 95%",
    ]
    assert last == "training: no action for pyramid levels 1, 4 (by length): --num_levels=3 would do"
    assert output.endswith("check: 6 warnings\n")
    assert "sequences without actions: b\n" in output
    assert "\ncounts of training: videos 2, actions 3, classes 2\n" in output
    assert "\nsettings: " in output


def test_missing_features_are_refused_by_name(capsys, own, tmp_path):
    (tmp_path / "own" / "settings.json").unlink()
    _, error = run(capsys, *own, *SPLITS, status=1)
    assert error.splitlines()[-1].startswith("error: ")
    assert "annotated videos have no features: gone" in error


def write_equal_lengths(folder, make_features):
    """Six recordings of 8 steps and 100 values."""
    folder.mkdir()
    database = {}
    for number in range(6):
        np.save(folder / f"r{number}.npy", make_features(np.random.default_rng(number)).astype(np.float32))
        actions = [{"segment": [5, 20], "label": "jump"}, {"segment": [25, 33], "label": "run"}]
        subset = "training" if number < 4 else "validation"
        database[f"r{number}"] = {"subset": subset, "duration": 40, "annotations": actions}
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    return ["--dataset=feature_folder", f"--manual_dir={folder}", f"--data_dir={folder}_prepared", *SMALL]


def test_equal_lengths_that_look_transposed(capsys, tmp_path):
    def in_time(rng):  # changes slowly
        return np.repeat(rng.normal(size=(2, 100)), 4, axis=0) + 0.1 * rng.normal(size=(8, 100))

    right = write_equal_lengths(tmp_path / "right", in_time)
    output, _ = run(capsys, *right, *SPLITS)
    assert "transposed" not in output
    noise = write_equal_lengths(tmp_path / "noise", lambda rng: rng.normal(size=(8, 100)))
    slow_along_values = write_equal_lengths(tmp_path / "wrong", lambda rng: rng.normal(size=(100, 8)).cumsum(axis=0).T)
    for flags in (noise, slow_along_values):
        found = [line for line in warnings_in(run(capsys, *flags, *SPLITS)[0]) if "transposed" in line]
        assert [line.split(" sequences have 8 steps of 100 values")[0] for line in found] == [
            "training: all 4",
            "evaluation: all 2",
        ]


def test_more_actions_than_are_kept(capsys, own):
    output, _ = run(capsys, *own, *SPLITS, "--max_detections=2")
    (line, other) = [line for line in warnings_in(output) if "than detections are kept" in line]
    assert line.startswith("training: 1 sequence with more actions than detections are kept of it (a: 3 actions, 2 det")
    assert "--max_detections=6, or 0" in line
    assert other.startswith("evaluation: 1 sequence")
    output, _ = run(capsys, *own, *SPLITS)
    assert "than detections are kept" not in output


def test_suggestions_help(capsys, own):
    """What a warning suggests makes it go away."""
    output, _ = run(capsys, *own, *SPLITS, "--window_steps=96")
    assert "too long for any" not in output
    output, _ = run(capsys, *own, *SPLITS, "--num_levels=3")
    assert "training: no action for pyramid level 1 (by length)" in warnings_in(output)
    output, _ = run(capsys, *own, *SPLITS, "--train_stride_steps=31")
    [line] = [line for line in warnings_in(output) if "between" in line]
    flag = line.split(": ")[-1]
    assert flag.startswith("--train_stride_steps=")
    output, _ = run(capsys, *own, *SPLITS, flag)
    assert "between the windows" not in output


def test_overlap_that_would_have_to_exceed_a_window(make_config):
    config = make_config(inference_window_steps=64)
    assert check_report._suggest_overlap(35, config) == "--inference_overlap=0.91"
    assert "no --inference_overlap below 1 would do" in check_report._suggest_overlap(32, config)


def test_longer_inference_windows_are_named(capsys, own):
    output, _ = run(capsys, *own, *SPLITS, "--inference_window_steps=64")
    assert (
        "windows of 32 steps that hold 90% of an action: one every 8 steps for training, of 64 steps every 48 for"
        in output
    )


def test_unknown_splits_are_named_and_all_are_shown(capsys, own):
    output, _ = run(capsys, *own)
    assert [line for line in warnings_in(output) if line.startswith("--")] == [
        f"--{flag}={name}: split '{name}' is not in feature_folder/1.0.0; it has training, validation"
        for flag, name in (("train_split", "train"), ("eval_split", "test"))
    ]
    [header] = [line for line in output.splitlines() if line.startswith("actions by class")]
    assert header.split()[3:] == ["training", "validation"]
    assert "validation: 1 of 3 actions (33.3%) are not reached by a default anchor (tIoU > 0.5): " in output


def test_later_results_do_not_replace_earlier_ones(capsys, own, tmp_path):
    file = tmp_path / "check.json"
    for stride in (8, 16):
        run(capsys, *own, *SPLITS, f"--train_stride_steps={stride}", f"--metrics={file}")
    kept = [json.loads(f.read_text())["settings"]["train_stride_steps"] for f in (tmp_path / "check.1.json", file)]
    assert kept == [8, 16]


@pytest.fixture
def prepared_flags(tmp_path):
    """Flags for a prepared directory with the given splits."""
    return lambda splits: [f"--dataset={prepare(tmp_path, splits)}", *SMALL]


def test_nan_in_a_prepared_directory(capsys, prepared_flags, tmp_path):
    bad, good = make_sequence([[2, 4]], [0], name="bad"), make_sequence([[2, 4]], [1], name="good")
    bad["features"][7, 1:] = np.nan, np.inf
    file = tmp_path / "check.json"
    output, error = run(capsys, *prepared_flags({"train": [bad], "test": [good]}), f"--metrics={file}", status=1)
    assert "training: 2 feature values are NaN or infinite, in 1 sequence: bad" in warnings_in(output)
    assert output.splitlines()[-1].startswith("check: ")
    assert "sequence bad: 2 of its feature values are NaN or infinite" in error.splitlines()[-1]
    assert json.loads(file.read_text())["splits"]["training"]["features"]["non_finite"] == {"bad": 2}


def test_crowded_window_and_shared_sequences(capsys, prepared_flags):
    times = np.arange(0, 12) / 2
    record = make_sequence(np.stack([times, times + 1], axis=1), [0, 1, 2] * 4)
    flags = prepared_flags({"train": [record], "test": [record]})
    output, _ = run(capsys, *flags, "--max_actions=11")
    assert "training: a window holds 12 actions, which training refuses: --max_actions=12" in warnings_in(output)
    assert "1 sequence both in --train_split and in --eval_split: a" in warnings_in(output)
    output, _ = run(capsys, *flags, "--max_actions=12")
    assert "--max_actions" not in output


@pytest.mark.slow
def test_actions_without_cell_or_anchor(capsys, prepared_flags):
    """Actions of 1.6 and 0.4 steps, a quarter of a step before and after an even step."""
    short = make_sequence([[10.1, 10.9], [20.3, 20.5], [30, 40]], [0, 1, 2])
    flags = prepared_flags({"train": [short], "test": [make_sequence([[3, 9]], [2])]})
    output, _ = run(capsys, *flags)
    told = "training: 2 of 3 actions (66.7%) are too short to hold the centre of a cell, so the anchor-free branch does"
    assert f"{told} not learn them: features every 0.1 s instead of 0.5 s would do" in warnings_in(output)
    assert "training: 1 of 3 actions (33.3%) are not reached by a default anchor" in output
    [line] = [line for line in warnings_in(output) if "--match_tiou=" in line]
    output, _ = run(capsys, *flags, line.split(": ")[-1])
    assert "default anchor (tIoU" not in output
    output, _ = run(capsys, *flags, "--noanchor_based", "--random_offsets")
    assert "anchor >" not in output
    assert "1 of 3 actions (33.3%) are too short" in output
    output, _ = run(capsys, *flags, "--noanchor_free")
    assert "with a cell" not in output
    assert "level" not in output


def test_wider_anchors_are_suggested(capsys, prepared_flags):
    flags = prepared_flags({"train": [make_sequence([[2, 15]], [0])], "test": [make_sequence([[3, 9]], [0])]})
    output, _ = run(capsys, *flags, "--num_levels=2")
    assert "are not reached by a default anchor (tIoU > 0.5): --num_levels=4 has wider ones" in output
    assert "are not reached by a default anchor" not in run(capsys, *flags, "--num_levels=4")[0]


def test_actions_outside_of_the_features(capsys, prepared_flags):
    late = make_sequence([[2, 8], [104, 109]], [0, 0], duration_seconds=110.0)
    output, _ = run(capsys, *prepared_flags({"train": [late], "test": [late]}))
    assert "training: 1 of 2 actions (50.0%) are not where the features are" in output


def test_nothing_to_train_on(capsys, prepared_flags):
    output, _ = run(capsys, *prepared_flags({"train": [make_sequence([], [])], "test": [make_sequence([[2, 8]], [1])]}))
    assert "training: no window holds an action, there is nothing to train on" in warnings_in(output)
    assert "1 class of --eval_split without training actions cannot be learned: run" in warnings_in(output)


def test_no_problem(capsys, prepared_flags):
    lengths = np.array([1.5, 3, 6, 12])
    ends = 5 + np.cumsum(lengths + 5)
    segments = np.stack([ends - lengths, ends], axis=1)
    split = [make_sequence(segments, labels, name=str(labels)) for labels in ([0, 1, 2, 0], [1, 2, 0, 1])]
    output, _ = run(capsys, *prepared_flags({"train": split[:1], "test": split[1:]}), "--inference_overlap=0.875")
    assert warnings_in(output) == []
    assert output.endswith("\ncheck: no problem found\n")


def test_suggested_overlap_helps(capsys, prepared_flags):
    """Actions of 12 steps every 20: some lie across the borders of windows of 32 that share nothing."""
    starts = np.arange(2, 90, 10.0)
    segments, labels = np.stack([starts, starts + 6], axis=1), np.arange(len(starts)) % 3
    splits = {key: [make_sequence(segments, labels, name=key)] for key in ("train", "test")}
    flags = [*prepared_flags(splits), "--noanchor_based"]
    output, _ = run(capsys, *flags, "--inference_overlap=0")
    [line] = [line for line in warnings_in(output) if "between the windows" in line]
    flag = line.split(": ")[-1]
    assert line.startswith("evaluation: ")
    assert flag.startswith("--inference_overlap=0.")
    output, _ = run(capsys, *flags, flag)
    assert "between the windows" not in output


def test_many_splits_are_summed_up(capsys, prepared_flags):
    splits = {f"user{i}": [make_sequence([[2, 4]], [i % 3], name=str(i))] for i in range(7)}
    output, _ = run(capsys, *prepared_flags(splits))
    assert "\nall splits: user0+user1+user2+user3+user4+user5+user6\n" in output
    output, _ = run(capsys, *prepared_flags(splits), "--train_split=user0+user1", "--eval_split=user5")
    for line in (
        "training: --train_split=user0+user1",
        "evaluation: --eval_split=user5",
        "other: user2+user3+user4+user6",
    ):
        assert f"\n{line}\n" in output


def test_other_sizes_than_the_settings_say(capsys, prepared_flags):
    split = [make_sequence([[2, 4]], [0])]
    output, _ = run(capsys, *prepared_flags({"train": split}), "--num_features=4", "--feature_columns=1,5")
    assert "--num_features=4, but the dataset has 3: --num_features=3" in warnings_in(output)
    assert "--feature_columns=1,5 reach beyond the 3 values of a step: --feature_columns=1,3" in warnings_in(output)


def test_damaged_file_is_named(capsys, prepared_flags, tmp_path):
    flags = prepared_flags({"train": [make_sequence([[2, 4]], [0])]})
    [file] = (tmp_path / "data").rglob("*.tfrecord*")
    file.write_bytes(file.read_bytes()[:-100])
    _, error = run(capsys, *flags, status=1)
    assert error.splitlines()[-1].startswith(f"error: {file}: missing, truncated or damaged record file")


def test_records_of_another_kind(capsys, tmp_path):
    features = tfds.features.FeaturesDict({"id": tfds.features.Text()})
    _, error = run(capsys, f"--dataset={prepare(tmp_path, {'train': [{'id': 'a'}]}, features)}", status=1)
    assert "its records have no features, num_steps, " in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--mode=check needs --dataset"),
        (["--dataset=toy_action"], "no such dataset"),
        (["--dataset=toy_actions", "--window_steps=2048"], "--window_steps=2048: at most 1024"),
        (["--dataset=toy_actions", "--metrics=/"], "/: is a folder"),
    ],
)
def test_refused_before_anything_is_read(capsys, flags, message):
    output, error = run(capsys, *flags, f"--data_dir={tiny.data_dir()}", status=1)
    assert output == ""
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(("mode", "flag"), [("train_and_evaluate", "eval"), ("train", "validation")])
def test_a_split_without_actions_is_told_before_training(capsys, tmp_path, mode, flag):
    """What evaluate would refuse is refused before hours are spent."""
    path = prepare(tmp_path, {"train": [make_sequence([[3, 9]], [2])], "test": [make_sequence([], [])]})
    flags = [f"--dataset={path}", f"--{flag}_split=test", f"--workdir={tmp_path / 'run'}", *tiny.NETWORK]
    flags += ["--eval_split=train"] if flag == "validation" else []
    line = tiny.refused(capsys, tmp_path, f"--mode={mode}", *flags)
    assert f"split 'test' (--{flag}_split) of" in line
    assert "has no actions" in line

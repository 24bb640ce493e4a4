"""Tests of the generated data set: its contents, its determinism and its difficulty."""

import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from a2net_tf.datasets.toy_actions import toy_actions_dataset_builder as toy


class ToyActionsTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own test of a builder."""

    DATASET_CLASS = toy.Builder
    SPLITS = toy.NUM_SEQUENCES
    EXAMPLE_DIR = pathlib.Path(__file__).parent  # no raw files


@pytest.fixture(scope="module")
def sequences() -> dict[str, list[dict]]:
    return {split: [toy.make_sequence(split, i) for i in range(n)] for split, n in toy.NUM_SEQUENCES.items()}


def constant(time: np.ndarray, duration: float) -> np.ndarray:
    return np.ones_like(time)


def render(*actions: tuple[float, float, str], num_steps: int = 80) -> np.ndarray:
    """Signal along each of the four directions, f64[num_steps, 4]."""
    listed = [toy.Action(start, end, toy.CLASS_NAMES.index(name)) for start, end, name in actions]
    return toy.render_actions(listed, num_steps) @ toy.DIRECTIONS.T


def overlaps(segments: np.ndarray) -> np.ndarray:
    """bool[G, G]: which two different actions share some time."""
    start, end = segments[:, 0], segments[:, 1]
    shared = (start[:, None] < end) & (end[:, None] > start)
    return shared & ~np.eye(len(segments), dtype=bool)


def test_step_holds_average_of_its_quarter_second():
    first, values = toy.average_over_steps(constant, 0.35, 0.85)
    assert first == 1
    np.testing.assert_allclose(values, [0.6, 1.0, 0.4])


def test_action_within_one_step():
    first, values = toy.average_over_steps(constant, 1.05, 1.15)
    assert first == 4
    np.testing.assert_allclose(values, [0.4])


def test_action_on_the_grid_touches_no_further_step():
    first, values = toy.average_over_steps(constant, 0.5, 1.0)
    assert first == 2
    np.testing.assert_allclose(values, [1.0, 1.0])


def test_directions_are_orthonormal():
    np.testing.assert_allclose(toy.DIRECTIONS @ toy.DIRECTIONS.T, np.eye(4))


@pytest.mark.parametrize("name", toy.CLASS_NAMES)
def test_signal_is_zero_outside_the_action(name):
    signal = render((3.1, 9.6, name))
    assert not signal[:12].any()
    assert not signal[39:].any()
    assert np.abs(signal[13:38]).sum(axis=1).all()


def test_signals_of_overlapping_actions_add_up():
    both = render((1.0, 6.0, "rise"), (4.2, 15.0, "stall"))
    np.testing.assert_allclose(both, render((1.0, 6.0, "rise")) + render((4.2, 15.0, "stall")))


def test_fall_is_rise_backwards():
    rise, fall = render((4.0, 16.0, "rise")), render((4.0, 16.0, "fall"))
    np.testing.assert_allclose(rise, fall[::-1], atol=1e-12)
    assert rise[60, 1] > 2 * rise[20, 1]


def test_stall_begins_like_slow_wave():
    wave, stall = render((2.0, 18.0, "slow_wave")), render((2.0, 14.0, "stall"))
    same = slice(0, int((2.0 + toy.STALL_AFTER * 12.0) / toy.STEP_SECONDS))
    np.testing.assert_allclose(wave[same], stall[same])
    assert np.abs(wave - stall)[same.stop + 1 : 56].sum(axis=1).min() > 0.1


def test_waves_differ_only_in_time():
    slow, fast = render((0.0, 12.0, "slow_wave")), render((0.0, 12.0, "fast_wave"))
    assert not slow[:, [0, 1, 3]].any()
    assert not fast[:, [0, 1, 3]].any()
    np.testing.assert_allclose(slow[:48].mean(), fast[:48].mean(), atol=1e-3)


def test_same_arguments_same_sequence():
    first, second, other = toy.make_sequence("test", 3), toy.make_sequence("test", 3), toy.make_sequence("train", 3)
    np.testing.assert_array_equal(first["features"], second["features"])
    np.testing.assert_array_equal(first["segments"], second["segments"])
    assert first["num_steps"] != other["num_steps"]


def test_frozen_sequence():
    """A change of the generator must raise VERSION: prepared data would no longer be what the code describes."""
    record = toy.make_sequence("train", 0)
    assert record["num_steps"] == 698
    assert record["labels"].tolist() == [3, 1, 5, 4, 4, 4, 0, 0, 2, 4, 2, 1, 4, 3, 2, 4, 5]
    np.testing.assert_allclose(record["segments"][0], [0.72535437, 8.39917946], rtol=1e-6)
    np.testing.assert_allclose(record["features"][0, :3], [-0.23382582, -0.14965206, 0.41500205], rtol=1e-5)


def test_sequences_have_the_documented_lengths(sequences):
    for record in sum(sequences.values(), []):
        shortest, longest = toy.SEQUENCE_SECONDS
        assert shortest - toy.STEP_SECONDS < record["duration_seconds"] <= longest
        assert record["features"].shape == (record["duration_seconds"] / toy.STEP_SECONDS, toy.NUM_FEATURES)


def test_actions_have_the_documented_lengths(sequences):
    lengths = [[] for _ in toy.CLASSES]
    for record in sum(sequences.values(), []):
        for (start, end), label in zip(record["segments"], record["labels"], strict=True):
            lengths[label].append(end - start)
    for action_class, seconds in zip(toy.CLASSES, lengths, strict=True):
        shortest, longest = action_class.seconds
        assert shortest - 1e-4 < min(seconds) < 1.1 * shortest
        assert longest + 1e-4 > max(seconds) > 0.9 * longest


def test_every_split_has_every_class(sequences):
    for split, count in (("train", 854), ("validation", 137), ("test", 219)):
        labels = np.concatenate([record["labels"] for record in sequences[split]])
        assert len(labels) == count
        assert np.bincount(labels).min() >= 15


def test_about_15_percent_overlap_and_never_the_same_class(sequences):
    overlapping = total = 0
    for record in sequences["train"]:
        shared = overlaps(record["segments"])
        same_class = record["labels"][:, None] == record["labels"]
        assert not (shared & same_class).any()
        overlapping += shared.any(axis=1).sum()
        total += len(shared)
    assert 0.12 < overlapping / total < 0.18


def test_starts_are_not_on_the_grid(sequences):
    starts = np.concatenate([record["segments"][:, 0] for record in sequences["train"]]) / toy.STEP_SECONDS
    counts = np.histogram(starts % 1, bins=4, range=(0, 1))[0]
    assert counts.min() > 0.2 * len(starts)


def test_single_steps_are_ambiguous(sequences):
    """Least squares on single steps finds some of every class, and far from all."""
    weights, thresholds = fit_probe(*steps_and_classes(sequences["train"]))
    steps, truth = steps_and_classes(sequences["test"])
    scores = f1(steps @ weights > thresholds, truth)
    assert 0.4 < scores.mean() < 0.7
    assert scores.min() > 0.25


def steps_and_classes(sequences: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """All steps with a constant f64[steps, D + 1], and which classes go on in their middle, bool[steps, C]."""
    steps, truth = [], []
    for record in sequences:
        middle = (np.arange(record["num_steps"]) + 0.5)[:, None] * toy.STEP_SECONDS
        inside = (middle >= record["segments"][:, 0]) & (middle < record["segments"][:, 1])  # [steps, G]
        truth.append(inside @ np.eye(len(toy.CLASSES), dtype=bool)[record["labels"]])
        steps.append(np.insert(record["features"].astype(np.float64), 0, 1.0, axis=1))
    return np.concatenate(steps), np.concatenate(truth)


def fit_probe(steps: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One-against-the-rest least squares, and the threshold of each class that has the best F1."""
    weights = np.linalg.lstsq(steps, truth.astype(np.float64), rcond=None)[0]
    candidates = np.linspace(0, 1, 101)
    scores = np.array([f1(steps @ weights > threshold, truth) for threshold in candidates])
    return weights, candidates[scores.argmax(axis=0)]


def f1(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """F1 of each class, f64[C], of bool[steps, C] decisions."""
    return 2 * (found & truth).sum(axis=0) / (found.sum(axis=0) + truth.sum(axis=0))

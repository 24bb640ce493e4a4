"""Measures of action segmentation, beside hand-made cases and plain restatements of their definitions."""

import itertools

import numpy as np
import pytest

from a2net_tf.evaluation import segmentation
from a2net_tf.evaluation.segmentation import Segments

BACKGROUND = 9


def plain_segments(labels):
    groups = itertools.groupby(enumerate(labels), key=lambda pair: pair[1])
    rows = [(label, [position for position, _ in group]) for label, group in groups]
    return [(label, places[0], places[-1] + 1) for label, places in rows if label != BACKGROUND]


def plain_f1(predicted, true, overlap):
    """Over recordings, step by step with sets."""
    right = wrong = missed = 0
    for one, other in zip(predicted, true, strict=True):
        unused = dict.fromkeys(range(len(plain_segments(other))), True)
        for label, start, end in plain_segments(one):
            scores = []
            for name, first, last in plain_segments(other):
                a, b = set(range(start, end)), set(range(first, last))
                hull = max(end, last) - min(start, first)
                scores.append(len(a & b) / hull if name == label else 0)
            best = scores.index(max(scores)) if scores else None
            if best is not None and scores[best] >= overlap and unused[best]:
                unused[best] = False
                right += 1
            else:
                wrong += 1
        missed += sum(unused.values())
    return 200 * right / (2 * right + wrong + missed) if right else 0.0


def plain_distance(a, b):
    table = [[max(i, j) if not i or not j else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i, j in itertools.product(range(1, len(a) + 1), range(1, len(b) + 1)):
        changed = table[i - 1][j - 1] + (a[i - 1] != b[j - 1])
        table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, changed)
    return table[-1][-1]


def random_labels(random, num_classes=3):
    classes = [*range(num_classes), BACKGROUND]
    return np.repeat(random.choice(classes, 12), random.integers(1, 9, 12))[:40]


def test_by_hand():
    """One of three found exactly, one with a tIoU of 2/5, one under another name; a stretch of background is filled."""
    true = {"a": np.array([0] * 4 + [1] * 4 + [9] * 2 + [2] * 5)}
    predicted = {"a": np.array([0] * 4 + [2] * 4 + [9] * 2 + [9] * 3 + [2] * 2)}
    found = segmentation.evaluate(predicted, true, background=BACKGROUND)
    assert found["f1"] == pytest.approx({"10": 200 * 2 / 6, "25": 200 * 2 / 6, "50": 200 / 6})
    assert found["edit"] == pytest.approx(100 * (1 - 1 / 3))  # 0 2 2 for 0 1 2
    assert found["accuracy"] == pytest.approx(100 * 8 / 15)
    assert (found["num_recordings"], found["num_steps"]) == (1, 15)


@pytest.mark.parametrize("seed", range(30))
def test_restatement(seed):
    random = np.random.default_rng(seed)
    true = {name: random_labels(random) for name in "abc"}
    predicted = {name: np.resize(random_labels(random), len(labels)) for name, labels in true.items()}
    found = segmentation.evaluate(predicted, true, background=BACKGROUND)
    for k in (10, 25, 50):
        expected = plain_f1(list(predicted.values()), list(true.values()), k / 100)
        assert found["f1"][str(k)] == pytest.approx(expected)
    orders = [[[row[0] for row in plain_segments(of[name])] for of in (predicted, true)] for name in true]
    edits = [100 * (1 - plain_distance(*pair) / max(map(len, pair))) for pair in orders]
    assert found["edit"] == pytest.approx(np.mean(edits))
    for name, labels in true.items():
        segments = segmentation.segments_of(labels, BACKGROUND)
        rows = [(label, *bounds) for label, bounds in zip(segments.labels, segments.bounds.tolist(), strict=True)]
        assert rows == plain_segments(labels)
        assert segmentation.edit_score(segments.labels, segments.labels) == 100
        assert name in predicted


def test_each_true_segment_counts_once():
    """Two predictions of one action: the second is wrong, as is a third that overlaps nothing."""
    true = Segments(np.array([[0, 10]]), np.array([1]))
    predicted = Segments(np.array([[0, 5], [5, 10], [20, 30]]), np.array([1, 1, 1]))
    assert segmentation.count_hits(predicted, true, 0.5) == (1, 2, 0)
    assert segmentation.count_hits(predicted, true, 0.6) == (0, 3, 1)


def test_nothing_predicted_and_nothing_there():
    empty = {"a": np.full(5, BACKGROUND)}
    full = {"a": np.zeros(5, np.int64)}
    assert segmentation.evaluate(empty, full, background=BACKGROUND)["f1"]["50"] == 0
    assert segmentation.evaluate(empty, full, background=BACKGROUND)["edit"] == 0
    same = segmentation.evaluate(empty, empty, background=BACKGROUND)
    assert (same["edit"], same["accuracy"], same["f1"]["10"]) == (100, 100, 0)
    assert len(segmentation.segments_of(np.array([], np.int64), BACKGROUND).labels) == 0


@pytest.mark.parametrize("seed", range(40))
def test_choice_is_the_best_of_all(seed):
    """Beside every subset of nine segments."""
    random = np.random.default_rng(seed)
    segments = np.sort(random.integers(0, 12, (9, 2)), axis=1).astype(float)
    values = random.normal(1, 1, 9).round(1)

    def fits(rows):
        bounds = segments[list(rows)]
        bounds = bounds[np.argsort(bounds[:, 0], kind="stable")]
        return (bounds[:, 1] > bounds[:, 0]).all() and (bounds[1:, 0] >= bounds[:-1, 1]).all()

    subsets = itertools.chain.from_iterable(itertools.combinations(range(9), n) for n in range(10))
    best = max(sum(values[list(rows)]) for rows in subsets if fits(rows))
    chosen = segmentation.choose(segments, values)
    assert fits(chosen)
    assert values[chosen].sum() == pytest.approx(max(best, 0))
    assert (np.diff(segments[chosen, 0]) >= 0).all()


def test_choice_of_many_is_quick_enough_to_be_used():
    random = np.random.default_rng(0)
    starts = random.uniform(0, 1e4, 200_000)
    segments = np.stack([starts, starts + random.uniform(0, 30, 200_000)], axis=1)
    chosen = segmentation.choose(segments, random.uniform(size=200_000))
    assert (segments[chosen[1:], 0] >= segments[chosen[:-1], 1]).all()


def test_recordings_that_differ():
    with pytest.raises(ValueError, match="a: 3 and 4 steps"):
        segmentation.evaluate({"a": np.zeros(3)}, {"a": np.zeros(4)}, background=1)
    with pytest.raises(ValueError, match="recordings"):
        segmentation.evaluate({"b": np.zeros(3)}, {"a": np.zeros(3)}, background=1)

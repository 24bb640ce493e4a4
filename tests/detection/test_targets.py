import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection import pyramid, targets

PADDING = [0.0, 0.0]


def assign(segments, labels, window_steps=64, num_levels=4):
    return targets.assign_cells(
        segments,
        labels,
        centers=pyramid.cell_centers(window_steps, num_levels),
        levels=pyramid.cell_levels(window_steps, num_levels),
        grid_units=window_steps // 2,
    )


def match(predicted, segments, labels):
    return targets.match_anchors(
        tf.constant(predicted, tf.float32), tf.constant(segments, tf.float32), tf.constant(labels)
    )


# --- padding


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[1, 2, 0, 0], [3, 0, 0, 0]], [[1, 2], [3, 0]]),
        ([[0, 0, 0, 0], [0, 0, 3, 0]], [[0, 0, 0], [0, 0, 3]]),  # what lies before an action stays
        ([[1, 2, 3], [1, 0, 0]], [[1, 2, 3], [1, 0, 0]]),
        ([[0, 0], [0, 0]], [[], []]),
        ([[], []], [[], []]),
    ],
)
def test_without_padding(labels, expected, same_in_graph):
    labels = np.array(labels, np.int32)
    segments = np.arange(2 * labels.size, dtype=np.float32).reshape((*labels.shape, 2))
    found = same_in_graph(targets.without_padding, segments, labels)
    np.testing.assert_array_equal(found[1], expected)
    np.testing.assert_array_equal(found[0], segments[:, : np.shape(expected)[1]])


# --- levels


@pytest.mark.parametrize(
    ("length", "level"),
    [
        (0, 0),
        (1, 0),
        (1.9999, 0),
        (2, 1),
        (3.9, 1),
        (4, 2),
        (8, 3),
        (15.99, 3),
        (16, 4),
        (32, 5),
        (63, 5),
        (64, 5),
        (99, 5),
    ],
)
def test_levels_by_hand(length, level, same_in_graph):
    assert same_in_graph(lambda x: targets.assign_levels(x, 6), np.float32([length])) == [level]


@pytest.mark.parametrize("num_levels", [1, 2, 6])
def test_levels_double(num_levels):
    lengths = np.float32([2.0**i for i in range(8)])
    np.testing.assert_array_equal(targets.assign_levels(lengths, num_levels), np.clip(np.arange(8), 0, num_levels - 1))
    below = np.nextafter(lengths, np.float32(0))
    np.testing.assert_array_equal(
        targets.assign_levels(below, num_levels), np.clip(np.arange(8) - 1, 0, num_levels - 1)
    )


# --- cells


def test_cells_by_hand(same_in_graph):
    # 16 steps are 8 grid units; levels of 8, 4 and 2 cells. One action of 1.5 units and one of 5, which is level 3.
    segments, labels = np.float32([[[2.0, 3.5], [1.0, 6.0]]]) / 8, np.int32([[3, 1]])
    found = same_in_graph(lambda s, x: assign(s, x, 16, 3), segments, labels)
    np.testing.assert_array_equal(found.labels[0], [0, 0, 3, 3, 0, 0, 0, 0] + [0] * 4 + [1, 0])
    np.testing.assert_allclose(found.distances[0, [2, 3, 12]], [[0, 1.5], [1, 0.5], [1, 4]], atol=1e-6)
    assert not found.distances[0, [0, 1, 4, 11, 13]].any()


def slow_cells(segments, labels, num_levels, window_steps):
    """The paper's rule, in loops: level i takes lengths in [2**(i-1), 2**i), the shorter of two actions wins."""
    num_units = window_steps // 2
    cell_labels, distances = [], []
    for level in range(1, num_levels + 1):
        stride = 2 ** (level - 1)
        low = 0 if level == 1 else 2 ** (level - 1)
        high = float("inf") if level == num_levels else 2**level
        for j in range(num_units // stride):
            center, best = stride // 2 + j * stride, None
            for (start, end), label in zip(segments * num_units, labels, strict=True):
                if label == 0 or not start <= center < end or not low <= end - start < high:
                    continue
                if best is None or end - start < best[1] - best[0]:
                    best = (start, end, label)
            cell_labels.append(best[2] if best else 0)
            distances.append((center - best[0], best[1] - center) if best else (0, 0))
    return cell_labels, distances


@pytest.mark.parametrize("seed", range(6))
def test_cells_equal_a_slow_restatement(seed):
    # On a grid of quarter units, lengths and centres fall exactly on the bounds again and again.
    random = np.random.default_rng(seed)
    start = random.integers(0, 120, (3, 9))
    length = random.choice([1, 2, 4, 7, 8, 9, 16, 31, 32, 64], (3, 9))
    segments = np.stack([start, np.minimum(start + length, 128)], axis=-1).astype(np.float32) / 128
    labels = random.integers(0, 4, (3, 9)).astype(np.int32)
    found = assign(segments, labels)
    for b in range(3):
        expected_labels, expected_distances = slow_cells(segments[b], labels[b], num_levels=4, window_steps=64)
        np.testing.assert_array_equal(found.labels[b], expected_labels)
        np.testing.assert_allclose(found.distances[b], expected_distances, atol=1e-6)
    assert (found.labels.numpy() > 0).any()


def test_the_shorter_action_wins():
    long, short = [4 / 32, 7.5 / 32], [5 / 32, 7 / 32]  # both of level 2, centres 1, 3, 5, ...
    for order in ([0, 1], [1, 0]):
        segments, labels = np.float32([[long, short]])[:, order], np.int32([[1, 2]])[:, order]
        assert assign(segments, labels).labels[0, 32 + 2] == 2


def test_an_action_that_fills_the_window_belongs_to_the_last_level():
    found = assign(np.float32([[[0, 1]]]), np.int32([[2]])).labels.numpy()[0]
    np.testing.assert_array_equal(found, np.where(pyramid.cell_levels(64, 4) == 3, 2, 0))


def test_distances_decode_to_the_action():
    random = np.random.default_rng(0)
    start = random.uniform(0, 0.5, (2, 5))
    segments = np.stack([start, start + random.uniform(0.05, 0.5, (2, 5))], axis=-1).astype(np.float32)
    labels = np.tile(np.arange(1, 6, dtype=np.int32), (2, 1))
    found = assign(segments, labels)
    decoded = pyramid.decode_distances(found.distances, pyramid.cell_centers(64, 4)).numpy() / 32
    for b, cell in np.argwhere(found.labels.numpy() > 0):
        np.testing.assert_allclose(decoded[b, cell], segments[b, found.labels[b, cell] - 1], atol=1e-6)


@pytest.mark.parametrize("num_actions", [0, 1, 5])
def test_padding_is_background_everywhere(num_actions, same_in_graph):
    # The stale segments must not matter: label 0 alone makes padding.
    segments = np.tile(np.float32([[0, 1]]), (2, num_actions, 1))
    labels = np.zeros((2, num_actions), np.int32)
    cells = same_in_graph(assign, segments, labels)
    assert not cells.labels.any()
    assert not cells.distances.any()
    predicted = np.tile(np.float32([0, 1]), (2, 7, 1))
    matches = same_in_graph(lambda s, x: targets.match_anchors(predicted, s, x), segments, labels)
    assert not matches.positive.any()
    assert not matches.overlap.any()
    assert not matches.labels.any()


# --- anchors


def test_match_by_hand(same_in_graph):
    predicted = np.float32([[[0, 0.5], [0, 0.5001], [0.1, 0.9], [0.5, 0.4], [2, 3]]])
    segments, labels = np.float32([[[0, 1], [0.2, 0.9], PADDING]]), np.int32([[4, 2, 0]])
    found = same_in_graph(targets.match_anchors, predicted, segments, labels)
    np.testing.assert_allclose(found.overlap, [[0.5, 0.5001, 0.875, 0, 0]], rtol=1e-5)
    np.testing.assert_array_equal(found.positive, [[False, True, True, False, False]])  # exactly 0.5 is not enough
    np.testing.assert_array_equal(found.labels, [[0, 4, 2, 0, 0]])
    np.testing.assert_allclose(found.segments[0, 1:3], [[0, 1], [0.2, 0.9]])


@pytest.mark.parametrize("seed", range(4))
def test_matching_equals_a_slow_restatement(seed):
    random = np.random.default_rng(seed)
    start = random.uniform(-0.1, 0.9, (3, 36))
    boxes = np.stack([start, start + random.uniform(-0.05, 0.5, start.shape)], axis=-1).astype(np.float32)
    predicted, segments = boxes[:, :30], boxes[:, 30:]
    labels = random.integers(0, 3, (3, 6)).astype(np.int32)
    found = match(predicted, segments, labels)
    for b, a in np.ndindex(3, 30):
        best, label, target = 0.0, 0, None
        for g in range(6):
            (s, e), (t, f) = predicted[b, a], segments[b, g]
            both = max(0.0, min(e, f) - max(s, t))
            overlap = both / (e - s + f - t - both) if e > s and f > t and labels[b, g] > 0 else 0.0
            if overlap > best:
                best, label, target = overlap, labels[b, g], segments[b, g]
        np.testing.assert_allclose(found.overlap[b, a], best, atol=1e-6)
        assert bool(found.positive[b, a]) == (best > 0.5)
        assert found.labels[b, a] == (label if best > 0.5 else 0)
        if best > 0.5:
            np.testing.assert_array_equal(found.segments[b, a], target)
    assert found.positive.numpy().any()


def test_another_bound():
    found = targets.match_anchors(
        tf.constant([[[0.0, 0.6], [0.0, 0.8]]]), tf.constant([[[0.0, 1.0]]]), tf.constant([[1]]), min_tiou=0.7
    )
    np.testing.assert_array_equal(found.positive, [[False, True]])


def test_matching_passes_no_gradient():
    predicted = tf.Variable([[[0.0, 0.9]]])
    with tf.GradientTape() as tape:
        overlap = targets.match_anchors(predicted, tf.constant([[[0.0, 1.0]]]), tf.constant([[1]])).overlap
    assert tape.gradient(overlap, predicted) is None


# --- negatives


def matches_with(positive):
    """Matches of which only ``positive`` matters here."""
    positive = np.asarray(positive, bool)
    zeros = np.zeros(positive.shape, np.float32)
    segments = tf.zeros((*positive.shape, 2))
    return targets.AnchorMatches(
        tf.constant(zeros), tf.constant(positive.astype(np.int32)), segments, tf.constant(positive)
    )


# Three windows of 400 anchors: 20 positive, none, and 1. The last 10 anchors claim a high overlap.
POSITIVE = np.arange(400) < np.array([[20], [0], [1]])
PREDICTED_OVERLAP = np.where(np.arange(400) >= 390, 0.51, 0.5) * np.ones((3, 1))
PREDICTED_OVERLAP[:, 0] = 0.9  # where positive, not a negative at all


def choose(seed, ratio=1.0, windows=slice(None), part=(0, 1)):
    matches = matches_with(POSITIVE[windows])
    overlap = tf.constant(PREDICTED_OVERLAP[windows], tf.float32)
    return targets.choose_negatives(matches, overlap, ratio=ratio, seed=seed, part=part).numpy()


@pytest.mark.parametrize("ratio", [0.0, 1.0, 3.0, 1000.0])
def test_negatives(ratio):
    hard = ~POSITIVE & (PREDICTED_OVERLAP > 0.5)
    easy = ~POSITIVE & ~hard
    draws = np.stack([choose([0, seed], ratio) for seed in range(150)])
    assert (draws[:, hard]).all()
    assert not draws[:, POSITIVE].any()
    found = (draws & easy).sum(axis=2).mean(axis=0)
    num_easy = easy.sum(axis=1)
    expected = np.minimum(ratio * POSITIVE.sum(axis=1), num_easy)
    expected[1] = num_easy[1] / 2  # no positive: half
    chance = expected / num_easy
    five_standard_errors = 5 * np.sqrt(num_easy * chance * (1 - chance) / len(draws))
    assert (np.abs(found - expected) <= five_standard_errors + 1e-9).all()


def test_every_easy_negative_gets_its_turn():
    draws = np.stack([choose([1, seed], ratio=10.0) for seed in range(100)])
    assert (draws[:, 0, 20:390].any(axis=0)).all()


def test_draw_depends_on_the_seed_alone():
    np.testing.assert_array_equal(choose([3, 4]), choose([3, 4]))
    assert (choose([3, 4]) != choose([3, 5])).any()
    assert (choose([3, 4]) != choose([4, 4])).any()


def test_draw_is_the_same_in_a_graph(same_in_graph):
    overlap = np.float32(PREDICTED_OVERLAP)
    found = same_in_graph(
        lambda seed: targets.choose_negatives(matches_with(POSITIVE), overlap, ratio=5.0, seed=seed), np.int32([3, 4])
    )
    np.testing.assert_array_equal(found, choose([3, 4], ratio=5.0))


def test_windows_draw_independently():
    whole = choose([5, 6], ratio=5.0)
    np.testing.assert_array_equal(choose([5, 6], ratio=5.0, windows=slice(0, 1)), whole[:1])
    np.testing.assert_array_equal(choose([5, 6], ratio=5.0, windows=[0, 2, 2])[0], whole[0])
    both = choose([5, 6], windows=[1, 1])
    assert (both[0] != both[1]).any()


@pytest.mark.parametrize("num_parts", [1, 3])
def test_parts_of_a_batch_draw_what_the_whole_draws(num_parts):
    """Each part has its own windows, as each of several devices has."""
    whole, size = choose([5, 6], ratio=5.0), 3 // num_parts
    for i in range(num_parts):
        own = slice(i * size, (i + 1) * size)
        np.testing.assert_array_equal(choose([5, 6], ratio=5.0, windows=own, part=(i, num_parts)), whole[own])


def test_negatives_of_empty_batches():
    assert choose([0, 0], windows=slice(0, 0)).shape == (0, 400)
    everything = targets.choose_negatives(matches_with(np.ones((2, 4))), tf.ones((2, 4)), ratio=1.0, seed=[0, 0])
    assert not everything.numpy().any()


# --- anchors: which are matched


def test_defaults_decide_what_is_positive_and_predictions_what_overlap_to_predict():
    defaults = np.float32([[0.0, 0.4], [0.5, 1.0]])
    predicted = np.float32([[[0.5, 0.9], [0.4, 0.8]]])
    found = targets.match_anchors(
        tf.constant(predicted), tf.constant([[[0.0, 0.5]]]), tf.constant([[3]]), defaults=defaults
    )
    np.testing.assert_array_equal(found.positive, [[True, False]])  # 0.4 / 0.5; no overlap at all
    np.testing.assert_array_equal(found.labels, [[3, 0]])
    np.testing.assert_allclose(found.overlap, [[0.0, 0.1 / 0.8]], atol=1e-6)
    np.testing.assert_allclose(found.segments[0, 0], [0, 0.5])


def test_every_action_forces_its_best_anchor():
    anchors = np.float32([[[0.0, 0.4], [0.3, 0.7], [0.6, 1.0]]])
    segments = np.float32([[[0.0, 0.1], [0.05, 0.45], [0.0, 0.0]]])  # tIoU of the second: 0.35 / 0.45 with anchor 0
    labels = np.int32([[1, 2, 0]])
    free = targets.match_anchors(*map(tf.constant, (anchors, segments, labels)))
    forced = targets.match_anchors(*map(tf.constant, (anchors, segments, labels)), force=True)
    np.testing.assert_array_equal(free.labels, [[2, 0, 0]])
    # Both actions have anchor 0 as their best one; the one that overlaps it more has it.
    np.testing.assert_array_equal(forced.labels, [[2, 0, 0]])
    short = np.float32([[[0.1, 0.15], [0.45, 0.5], [0.9, 0.95]]])  # none overlaps an anchor by half
    forced = targets.match_anchors(*map(tf.constant, (anchors, short, np.int32([[1, 2, 3]]))), force=True)
    np.testing.assert_array_equal(forced.labels, [[1, 2, 3]])
    np.testing.assert_allclose(forced.overlap, np.full((1, 3), 0.05 / 0.4), atol=1e-6)
    np.testing.assert_allclose(forced.segments, short)


@pytest.mark.parametrize("seed", range(3))
def test_forced_matches_add_to_the_others(seed):
    random = np.random.default_rng(seed)

    def make(*shape):
        start = random.uniform(0, 0.8, shape)
        return np.stack([start, start + random.uniform(0.01, 0.2, shape)], axis=-1).astype(np.float32)

    arguments = [tf.constant(make(4, 30)), tf.constant(make(4, 6)), tf.constant(random.integers(0, 4, (4, 6)))]
    arguments[2] = tf.cast(arguments[2], tf.int32)
    free, forced = (targets.match_anchors(*arguments, force=force) for force in (False, True))
    assert (free.positive.numpy() <= forced.positive.numpy()).all()
    overlaps = targets.geometry.pairwise_tiou(arguments[0], arguments[1]).numpy()
    for b, g in np.argwhere(arguments[2].numpy() > 0):
        best = overlaps[b, :, g].argmax()
        assert forced.positive[b, best] or overlaps[b, best, g] == 0


@pytest.mark.parametrize("num_actions", [0, 2])
@pytest.mark.parametrize("with_defaults", [False, True])
def test_nothing_is_forced_without_actions(num_actions, with_defaults, same_in_graph):
    anchors = np.float32([[[0, 1], [0.2, 0.4]]])
    found = same_in_graph(
        lambda s, x: targets.match_anchors(
            tf.constant(anchors), s, x, force=True, defaults=anchors[0] if with_defaults else None
        ),
        np.ones((1, num_actions, 2), np.float32),
        np.zeros((1, num_actions), np.int32),
    )
    assert not found.positive.any()
    assert not found.labels.any()
    assert not found.overlap.any()


# --- several classes of one action


def test_classes_of_by_hand(same_in_graph):
    dive, run = [0.2, 0.4], [0.1, 0.6]
    segments, labels = np.float32([[dive, dive, run, dive]]), np.int32([[1, 3, 2, 0]])
    chosen = np.float32([[dive, run, [0, 0]]])
    found = same_in_graph(lambda c, s, x: targets.classes_of(c, s, x, 3), chosen, segments, labels)
    np.testing.assert_array_equal(found, [[[1, 0, 1], [0, 1, 0], [0, 0, 0]]])
    empty = same_in_graph(lambda c, s, x: targets.classes_of(c, s, x, 3), chosen, segments[:, :0], labels[:, :0])
    assert not empty.any()
    twice = targets.classes_of(chosen, segments, np.int32([[1, 1, 2, 0]]), 3)
    assert np.max(twice) == 1

import math

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection import postprocess, pyramid
from a2net_tf.detection.postprocess import (
    Candidates,
    anchor_based_candidates,
    anchor_free_candidates,
    suppress,
    suppress_sequences,
    vote,
)

CENTERS = np.float32([2, 4])
ARRAYS = ((tf.float32, (2,)), (tf.float32, ()), (tf.int32, ()))  # of candidates


def logits_of(probabilities):
    return np.log(np.float32(probabilities) + 1e-30)


# --- candidates


def test_anchor_free_by_hand(same_in_graph):
    logits = logits_of([[[0.1, 0.2, 0.7], [0.7, 0.2, 0.1]]])
    distances = np.float32([[[1, 2], [0, 4]]])
    found = same_in_graph(lambda x, d: anchor_free_candidates(x, d, centers=CENTERS, grid_units=8), logits, distances)
    np.testing.assert_allclose(found.segments, [[[1 / 8, 4 / 8], [4 / 8, 1]]])
    np.testing.assert_allclose(found.scores, [[0.7, 0.2]], rtol=1e-5)  # background is never the best class
    np.testing.assert_array_equal(found.class_ids, [[1, 0]])


@pytest.mark.parametrize("distances", [[-1, 0.5], [0, 0], [-2, 2]])
def test_reversed_and_empty_anchor_free_segments_score_nothing(distances):
    both = np.float32([[distances, [1, 1]]])
    found = anchor_free_candidates(logits_of([[[0, 1], [0, 1]]]), both, centers=CENTERS, grid_units=8)
    np.testing.assert_allclose(found.scores, [[0, 1]], rtol=1e-5)


def based(probabilities, overlap, segments, overlap_score="raw", max_background=0.98):
    settings = {"overlap_score": overlap_score, "max_background": max_background}
    arguments = logits_of([probabilities]), np.float32([overlap]), np.float32([segments])
    return anchor_based_candidates(*arguments, **settings)


@pytest.mark.parametrize(
    ("overlap_score", "expected"),
    [("raw", [0, 0.25, 0.5]), ("sigmoid", [0.5 / (1 + math.e), 0.5 / (1 + math.exp(-0.5)), 0.5 / (1 + math.exp(-2))])],
)
def test_anchor_based_by_hand(overlap_score, expected):
    found = based([[0.2, 0.3, 0.5]] * 3, [-1, 0.5, 2], [[0.1, 0.4]] * 3, overlap_score)
    np.testing.assert_allclose(found.scores[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(found.class_ids, [[1, 1, 1]])
    np.testing.assert_allclose(found.segments[0], [[0.1, 0.4]] * 3)


@pytest.mark.parametrize(
    ("max_background", "expected"), [(0.98, [0, 0.1, 0]), (0.9999, [0.01, 0.1, 0]), (1.0, [0.01, 0.1, 0])]
)
def test_background_filter(max_background, expected):
    segments = [[0, 1], [0, 1], [1, 0]]
    found = based([[0.99, 0.01], [0.9, 0.1], [0, 1]], [1, 1, 1], segments, max_background=max_background)
    np.testing.assert_allclose(found.scores[0], expected, rtol=1e-4)


def test_background_equal_to_the_bound_is_dropped():
    np.testing.assert_array_equal(based([[0.5, 0.5]], [1], [[0, 1]], max_background=0.5).scores, [[0]])
    np.testing.assert_allclose(based([[0.5, 0.5]], [1], [[0, 1]], max_background=0.51).scores, [[0.5]])


def test_certain_background_is_kept_only_without_a_filter():
    assert based([[1, 0]], [1], [[0, 1]], max_background=1.0).class_ids.shape == (1, 1)
    np.testing.assert_allclose(based([[1, 0]], [1], [[0, 1]], max_background=0.5).scores, [[0]])


def test_candidates_of_no_window(same_in_graph):
    free = same_in_graph(
        lambda x, d: anchor_free_candidates(x, d, centers=CENTERS, grid_units=8),
        np.zeros((0, 2, 3), np.float32),
        np.zeros((0, 2, 2), np.float32),
    )
    assert free.segments.shape == (0, 2, 2)
    assert free.scores.shape == free.class_ids.shape == (0, 2)


# --- independent classes, and several of a candidate


def test_sigmoid_scores_by_hand(same_in_graph):
    logits = np.float32([[[0, 2, -1], [-3, -2, -4]]])  # one per class and none for background
    found = same_in_graph(
        lambda x, d: anchor_free_candidates(x, d, centers=CENTERS, grid_units=8, class_scores="sigmoid"),
        logits,
        np.ones((1, 2, 2), np.float32),
    )
    np.testing.assert_allclose(found.scores, [[1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))]], rtol=1e-6)
    np.testing.assert_array_equal(found.class_ids, [[1, 1]])


@pytest.mark.parametrize("max_background", [1.0, 0.5, 0.0])
def test_sigmoid_scores_of_anchors_know_no_background(max_background, same_in_graph):
    settings = {"overlap_score": "raw", "max_background": max_background, "class_scores": "sigmoid"}
    arguments = np.float32([[[5, 0, -1]]]), np.float32([[0.5]]), np.float32([[[0.1, 0.4]]])
    found = same_in_graph(lambda *values: anchor_based_candidates(*values, **settings), *arguments)
    np.testing.assert_allclose(found.scores, [[0.5 / (1 + math.exp(-5))]], rtol=1e-6)
    np.testing.assert_array_equal(found.class_ids, [[0]])


def test_several_classes_by_hand(same_in_graph):
    """By cell, then by rank of the class; all with the cell's segment."""
    logits = logits_of([[[0.1, 0.2, 0.5, 0.2], [0.05, 0.6, 0.15, 0.2]]])
    distances = np.float32([[[1, 2], [0, 4]]])
    found = same_in_graph(
        lambda x, d: anchor_free_candidates(x, d, centers=CENTERS, grid_units=8, num_best=2), logits, distances
    )
    np.testing.assert_allclose(found.scores, [[0.5, 0.2, 0.6, 0.2]], rtol=1e-5)
    np.testing.assert_array_equal(found.class_ids, [[1, 0, 0, 2]])
    np.testing.assert_allclose(found.segments, [[[1 / 8, 4 / 8]] * 2 + [[4 / 8, 1]] * 2])


def test_several_classes_of_anchors_by_hand():
    settings = {"overlap_score": "raw", "max_background": 0.9, "num_best": 2}
    logits = logits_of([[[0.2, 0.3, 0.5], [0.92, 0.05, 0.03], [0.2, 0.3, 0.5]]])
    segments = np.float32([[[0.1, 0.4], [0.2, 0.3], [0.3, 0.3]]])
    found = anchor_based_candidates(logits, np.float32([[0.5, 1, 1]]), segments, **settings)
    np.testing.assert_allclose(found.scores, [[0.25, 0.15, 0, 0, 0, 0]], rtol=1e-5)  # background; empty
    np.testing.assert_array_equal(found.class_ids, [[1, 0, 0, 1, 1, 0]])


@pytest.mark.parametrize("class_scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize("num_best", [2, 5])
def test_the_first_of_several_classes_is_the_best(class_scores, num_best):
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 7, 5 + (class_scores == "softmax"))).astype(np.float32)
    overlap = random.uniform(size=(3, 7)).astype(np.float32)
    segments = np.sort(random.uniform(size=(3, 7, 2)), axis=-1).astype(np.float32)
    settings = {"overlap_score": "raw", "max_background": 0.3, "class_scores": class_scores}
    one = anchor_based_candidates(logits, overlap, segments, **settings)
    several = anchor_based_candidates(logits, overlap, segments, **settings, num_best=num_best)
    for best, values in zip(one, several, strict=True):
        by_rank = tf.reshape(values, (3, 7, num_best, *values.shape[2:]))
        np.testing.assert_array_equal(by_rank[:, :, 0], best)
    assert (np.diff(tf.reshape(several.scores, (3, 7, num_best))) <= 0).all()
    classes = np.sort(tf.reshape(several.class_ids, (3, 7, num_best)))
    assert (np.diff(classes) > 0).all()  # each class once


def test_several_classes_of_no_window(same_in_graph):
    found = same_in_graph(
        lambda x, d: anchor_free_candidates(x, d, centers=CENTERS, grid_units=8, num_best=2),
        np.zeros((0, 2, 3), np.float32),
        np.zeros((0, 2, 2), np.float32),
    )
    assert found.segments.shape == (0, 4, 2)
    assert found.scores.shape == found.class_ids.shape == (0, 4)


# --- suppression by hand


def kept(segments, scores, class_ids, **settings):
    """Kept (start, end, score, class) of one sequence, and the raw detections."""
    settings = {"tiou": 0.25, "max_detections": 5, **settings}
    candidates = Candidates(
        tf.constant([segments], tf.float32), tf.constant([scores], tf.float32), tf.constant([class_ids])
    )
    found = suppress(candidates, **settings)
    count = int(found.num_detections[0])
    assert not found.segments[0, count:].numpy().any()
    assert not found.scores[0, count:].numpy().any()
    assert not found.class_ids[0, count:].numpy().any()
    columns = [
        found.segments[0, :count, 0],
        found.segments[0, :count, 1],
        found.scores[0, :count],
        found.class_ids[0, :count],
    ]
    return [tuple(round(float(value), 5) for value in row) for row in zip(*columns, strict=True)]


SOFT = [0.0, 0.5]


def test_the_weaker_of_a_class_goes():
    assert kept([[0, 10], [1, 10], [20, 30]], [0.5, 0.9, 0.4], [3, 3, 3]) == [(1, 10, 0.9, 3), (20, 30, 0.4, 3)]


def test_a_suppressed_candidate_suppresses_nothing():
    # The second overlaps both neighbours; once it is gone, the third stays.
    assert [row[2] for row in kept([[0, 10], [5, 15], [10, 20]], [0.9, 0.8, 0.7], [0, 0, 0])] == [0.9, 0.7]


@pytest.mark.parametrize("soft_sigma", SOFT)
def test_classes_do_not_touch_each_other(soft_sigma):
    rows = kept([[0, 10], [0, 10], [0, 10]], [0.5, 0.9, 0.7], [0, 1, 19], soft_sigma=soft_sigma)
    assert rows == [(0, 10, 0.9, 1), (0, 10, 0.7, 19), (0, 10, 0.5, 0)]


@pytest.mark.parametrize(("end", "expected"), [(8, 2), (7.9, 1)])
def test_an_overlap_equal_to_the_bound_is_kept(end, expected):
    start = end - 5
    assert len(kept([[0, 5], [start, end]], [0.9, 0.8], [0, 0])) == expected  # [0, 5] and [3, 8]: 2 / 8


@pytest.mark.parametrize("soft_sigma", SOFT)
def test_the_best_are_kept_over_all_classes(soft_sigma):
    rows = kept(
        [[10 * i, 10 * i + 5] for i in range(6)],
        [0.1, 0.6, 0.2, 0.5, 0.3, 0.4],
        [0, 0, 0, 1, 1, 2],
        max_detections=3,
        soft_sigma=soft_sigma,
    )
    assert [row[2:] for row in rows] == [(0.6, 0), (0.5, 1), (0.4, 2)]


@pytest.mark.parametrize("soft_sigma", SOFT)
def test_scores_of_zero_are_never_reported(soft_sigma):
    assert kept([[0, 1], [5, 6]], [0.0, 0.0], [0, 1], soft_sigma=soft_sigma) == []
    assert len(kept([[0, 1], [5, 6]], [0.0, 1e-6], [0, 1], soft_sigma=soft_sigma)) == 1


@pytest.mark.parametrize("soft_sigma", SOFT)
def test_min_score_is_strict(soft_sigma):
    assert [row[2] for row in kept([[0, 1], [5, 6]], [0.5, 0.75], [0, 1], min_score=0.5, soft_sigma=soft_sigma)] == [
        0.75
    ]


@pytest.mark.parametrize("soft_sigma", SOFT)
def test_reversed_segments_are_never_reported(soft_sigma):
    distances = np.float32([[[-3, 1], [1, 1]]])
    candidates = anchor_free_candidates(logits_of([[[0, 1], [0, 1]]]), distances, centers=CENTERS, grid_units=8)
    found = suppress(candidates, tiou=0.5, max_detections=4, soft_sigma=soft_sigma)
    assert found.num_detections.numpy() == [1]
    np.testing.assert_allclose(found.segments[0, 0], [3 / 8, 5 / 8])


# --- suppression against restatements


def random_candidates(seed, num_sequences=3, num_candidates=80, num_classes=4):
    """Distinct scores: the order of equal ones is nobody's promise."""
    random = np.random.default_rng(seed)
    start = random.uniform(-20, 100, (num_sequences, num_candidates))
    segments = np.stack([start, start + random.uniform(0.5, 30, start.shape)], axis=-1)
    scores = np.stack([random.permutation(num_candidates) + 1 for _ in range(num_sequences)]) / (num_candidates + 1)
    class_ids = random.integers(0, num_classes, start.shape)
    return Candidates(
        tf.constant(segments, tf.float32), tf.constant(scores, tf.float32), tf.constant(class_ids, tf.int32)
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("settings", [{}, {"max_detections": 7}, {"min_score": 0.6}, {"tiou": 0.0}, {"tiou": 1.0}])
def test_equals_the_usual_form_with_a_score_per_class(seed, settings):
    settings = {"tiou": 0.2, "max_detections": 60, "min_score": 0.0, **settings}
    candidates = random_candidates(seed)
    found = suppress(candidates, **settings)
    start, end = candidates.segments[..., 0], candidates.segments[..., 1]
    usual = tf.image.combined_non_max_suppression(
        tf.stack([start, tf.zeros_like(start), end, tf.ones_like(start)], axis=-1)[:, :, None],
        tf.one_hot(candidates.class_ids, 4) * candidates.scores[..., None],
        max_output_size_per_class=settings["max_detections"],
        max_total_size=settings["max_detections"],
        iou_threshold=settings["tiou"],
        score_threshold=settings["min_score"],
        clip_boxes=False,
    )
    np.testing.assert_array_equal(found.num_detections, usual.valid_detections)
    assert (found.num_detections.numpy() > 5).all()
    np.testing.assert_array_equal(found.scores, usual.nmsed_scores)
    np.testing.assert_array_equal(found.segments, tf.gather(usual.nmsed_boxes, [0, 2], axis=-1))
    np.testing.assert_array_equal(found.class_ids, tf.cast(usual.nmsed_classes, tf.int32))


def slow_soft_nms(segments, scores, class_ids, *, sigma, max_detections, min_score):
    """Bodla et al. 2017, Gaussian form: take the best, decay what overlaps it by exp(-tiou**2 / sigma), again."""
    left = [[score, *segment, name] for segment, score, name in zip(segments, scores, class_ids, strict=True)]
    taken = []
    while left and len(taken) < max_detections:
        best = max(left)
        if best[0] <= min_score:
            break
        taken.append(best)
        left.remove(best)
        for other in left:
            both = max(0, min(best[2], other[2]) - max(best[1], other[1]))
            overlap = both / (best[2] - best[1] + other[2] - other[1] - both)
            if other[3] == best[3]:
                other[0] *= math.exp(-(overlap**2) / sigma)
    return taken


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("sigma", "max_detections", "min_score"), [(0.5, 80, 0.0), (0.2, 20, 0.0), (1.0, 80, 0.3)])
def test_soft_suppression_equals_a_slow_restatement(seed, sigma, max_detections, min_score):
    candidates = random_candidates(seed)
    found = suppress(candidates, tiou=0.2, max_detections=max_detections, min_score=min_score, soft_sigma=sigma)
    for b in range(3):
        expected = slow_soft_nms(
            *(np.float64(values[b]).tolist() for values in candidates),
            sigma=sigma,
            max_detections=max_detections,
            min_score=min_score,
        )
        count = int(found.num_detections[b])
        rows = np.column_stack([found.scores[b, :count], found.segments[b, :count], found.class_ids[b, :count]])
        np.testing.assert_allclose(rows, expected, atol=1e-4)
        assert len(expected) > 10


@pytest.mark.parametrize("soft_sigma", SOFT)
def test_suppression_in_a_graph_is_sorted_and_padded(soft_sigma, same_in_graph):
    candidates = random_candidates(5)
    settings = {"tiou": 0.2, "max_detections": 100, "soft_sigma": soft_sigma}
    found = same_in_graph(lambda *values: suppress(Candidates(*values), **settings), *candidates)
    assert found.segments.shape == (3, 100, 2)
    assert found.scores.shape == found.class_ids.shape == (3, 100)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    np.testing.assert_array_equal((found.scores > 0).sum(axis=1), found.num_detections)


@pytest.mark.parametrize("soft_sigma", SOFT)
@pytest.mark.parametrize("shape", [(2, 9), (0, 9)])
def test_suppressing_unusable_candidates(soft_sigma, shape, same_in_graph):
    nothing = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    settings = {"tiou": 0.2, "max_detections": 4, "soft_sigma": soft_sigma}
    found = same_in_graph(lambda *values: suppress(Candidates(*values), **settings), *nothing)
    assert found.segments.shape == (shape[0], 4, 2)
    assert not any(values.any() for values in found)


def test_decoded_anchors_are_never_reversed():
    anchors = pyramid.default_anchors(32, 4, (0.5, 2.0))
    offsets = np.random.default_rng(0).normal(size=(3, len(anchors), 2), scale=30).astype(np.float32)
    segments = pyramid.decode_anchors(offsets, anchors, 0.1, 0.1).numpy()
    assert (segments[..., 1] > segments[..., 0]).all()


# --- voting on boundaries


def test_votes_by_hand():
    """The mean of [0, 10] and [2, 10], three to one; [5, 10] overlaps by 0.5 only, the last is of another class."""
    rows = kept([[0, 10], [2, 10], [5, 10], [1, 10]], [0.6, 0.2, 0.5, 0.4], [1, 1, 1, 0], voting_tiou=0.6)
    assert rows == [(0.5, 10, 0.6, 1), (1, 10, 0.4, 0)]
    rows = kept([[0, 10], [2, 10], [5, 10], [1, 10]], [0.6, 0.2, 0.5, 0.4], [1, 1, 1, 0], voting_tiou=0.5)
    assert rows == [(round((0.4 + 2.5) / 1.3, 5), 10, 0.6, 1), (1, 10, 0.4, 0)]  # an overlap at the bound votes


def test_who_does_not_take_part_does_not_vote():
    segments = [[0, 10], [2, 10], [4, 10], [10, 0]]
    assert kept(segments, [0.6, 0.2, 0.0, 0.0], [1, 1, 1, 1], voting_tiou=0.1, min_score=0.2) == [(0, 10, 0.6, 1)]
    assert kept(segments, [0.6, 0.2, 0.0, 0.0], [1, 1, 1, 1], voting_tiou=0.1) == [(0.5, 10, 0.6, 1)]


def test_votes_have_their_weight_before_it_decays():
    rows = kept([[0, 10], [2, 10]], [0.6, 0.2], [1, 1], voting_tiou=0.5, soft_sigma=0.5)
    assert [row[:2] for row in rows] == [(0.5, 10)] * 2
    assert rows[1][2] == pytest.approx(0.2 * math.exp(-(0.8**2) / 0.5), abs=1e-5)


def slow_votes(found, candidates, *, tiou, min_score):
    """Segments f64[B, K, 2], one detection at a time."""
    moved = found.segments.numpy().astype(np.float64)
    for b, count in enumerate(found.num_detections):
        segments, scores, class_ids = (values[b].numpy().astype(np.float64) for values in candidates)
        for i in range(count):
            start, end = moved[b, i]
            both = np.minimum(segments[:, 1], end) - np.maximum(segments[:, 0], start)
            either = np.maximum(segments[:, 1], end) - np.minimum(segments[:, 0], start)
            own = class_ids == found.class_ids[b, i].numpy()
            weights = scores * (own & (scores > min_score) & (np.maximum(both, 0) >= tiou * either))
            moved[b, i] = (weights[:, None] * segments).sum(axis=0) / weights.sum()
    return moved


@pytest.fixture(params=[suppress, suppress_sequences])
def suppression(request, monkeypatch):
    """Either form; the one for sequences looks at few pairs at a time."""
    monkeypatch.setattr(postprocess, "_PAIRS_AT_ONCE", 37)
    return request.param


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("soft_sigma", SOFT)
@pytest.mark.parametrize(("voting_tiou", "min_score"), [(0.5, 0.0), (0.05, 0.3), (0.9, 0.0), (1.0, 0.0)])
def test_votes_equal_a_slow_restatement(seed, soft_sigma, voting_tiou, min_score, suppression):
    candidates = random_candidates(seed, num_candidates=300)
    settings = {"tiou": 0.3, "max_detections": 40, "min_score": min_score, "soft_sigma": soft_sigma}
    before = suppress(candidates, **settings)
    found = suppression(candidates, **settings, voting_tiou=voting_tiou)
    expected = slow_votes(before, candidates, tiou=voting_tiou, min_score=min_score)
    np.testing.assert_allclose(found.segments, expected, rtol=1e-5, atol=1e-5)
    for name in ("scores", "class_ids", "num_detections"):
        np.testing.assert_array_equal(getattr(found, name), getattr(before, name))
    changed = np.abs(expected - before.segments).max(axis=-1) > 1e-3
    assert changed.any() == (voting_tiou < 1)


def test_votes_in_a_graph(suppression, same_in_graph):
    """Padding stays 0, and a sequence without any candidate stays empty."""
    candidates = random_candidates(7)
    candidates = candidates._replace(scores=candidates.scores * tf.constant([[1.0], [0.0], [1.0]]))
    settings = {"tiou": 0.2, "max_detections": 100, "voting_tiou": 0.4}
    found = same_in_graph(lambda *values: suppression(Candidates(*values), **settings), *candidates)
    assert found.segments.shape == (3, 100, 2)
    assert found.num_detections[1] == 0 < found.num_detections[0] < 100
    for b, count in enumerate(found.num_detections):
        assert not found.segments[b, count:].any()
        assert (found.segments[b, :count, 1] > found.segments[b, :count, 0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 9), (0, 9), (1, 0)])
def test_votes_of_unusable_candidates(shape, suppression, same_in_graph):
    nothing = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    settings = {"tiou": 0.2, "max_detections": 4, "voting_tiou": 0.5}
    found = same_in_graph(lambda *values: suppression(Candidates(*values), **settings), *nothing)
    assert found.segments.shape == (shape[0], 4, 2)
    assert not any(values.any() for values in found)


def test_votes_hours_into_a_recording(suppression):
    """A sum of positions in float32 would be off by many steps, and one candidate alone must stay where it is."""
    first = 2.0**20
    start = first + np.arange(0, 64, 0.5)
    segments = np.stack([start, start + 200], axis=-1)[None].astype(np.float32)
    scores, class_ids = np.full((1, 128), 0.3, np.float32), np.zeros((1, 128), np.int32)
    scores[0, 64] = 0.9
    candidates = Candidates(*map(tf.constant, (segments, scores, class_ids)))
    found = suppression(candidates, tiou=0.1, max_detections=3, voting_tiou=0.5)
    expected = (start * scores[0]).sum() / scores.sum(dtype=np.float64)
    np.testing.assert_allclose(found.segments[0, 0], [expected, expected + 200], atol=0.13)  # two neighbours in float32
    alone = Candidates(*(values[:, 64:65] for values in candidates))
    found = suppression(alone, tiou=0.1, max_detections=3, voting_tiou=0.5)
    np.testing.assert_array_equal(found.segments[0, 0], segments[0, 64])


@pytest.mark.parametrize("seed", range(20))
def test_votes_of_any_kind_of_sequence(seed):
    """Long and short actions, ties, zeros, bounds met exactly: both forms see the same pairs."""
    random = np.random.default_rng(seed)
    segments = np.sort(random.integers(0, 30, (1, 150, 2)), axis=-1).astype(np.float32)
    scores = np.where(segments[..., 1] > segments[..., 0], random.integers(0, 9, (1, 150)) / 8, 0).astype(np.float32)
    candidates = Candidates(*map(tf.constant, (segments, scores, random.integers(0, 3, (1, 150)).astype(np.int32))))
    before = suppress(candidates, tiou=0.5, max_detections=50)
    for tiou in (0.25, 0.5, 0.75):
        near, every = (f(before, candidates, tiou=tiou, min_score=0.0) for f in (postprocess._vote_nearby, vote))
        np.testing.assert_allclose(near.segments, every.segments, atol=1e-5)


# --- suppression of many candidates


@pytest.fixture
def in_rounds(monkeypatch):
    """Long sequences begin at one candidate, and few are decided at a time."""
    monkeypatch.setattr(postprocess, "_FEW_COMPARISONS", 0)
    monkeypatch.setattr(postprocess, "_ROUND", 4)


def slow_hard_nms(segments, scores, class_ids, *, tiou, max_detections, min_score):
    """Indices of what greedy suppression keeps; of equal scores the first one counts as the higher."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] <= min_score or len(kept) == max_detections:
            break
        same = segments[[j for j in kept if class_ids[j] == class_ids[i]]]
        both = np.minimum(same[:, 1], segments[i, 1]) - np.maximum(same[:, 0], segments[i, 0])
        either = np.maximum(same[:, 1], segments[i, 1]) - np.minimum(same[:, 0], segments[i, 0])
        if not (both > tiou * either).any():
            kept.append(i)
    return kept


def many_candidates(seed):
    """One sequence of any kind: some or no gaps, one or many lengths, one or many classes, ties, zeros."""
    random = np.random.default_rng(seed)
    count, num_classes = int(random.integers(1, 200)), int(random.choice([1, 2, 20]))
    start = random.uniform(0, random.choice([5, 50, 500]), count)
    length = np.exp(random.normal(1, random.choice([0.1, 1.5]), count))
    segments = np.stack([start, start + length], axis=-1).astype(np.float32)
    scores = random.uniform(0, 1, count)
    if random.random() < 0.5:
        scores = np.floor(scores * 4) / 4
    return segments, scores.astype(np.float32), random.integers(0, num_classes, count).astype(np.int32)


@pytest.mark.slow
@pytest.mark.parametrize("max_detections", [1, 3, 40, 300])
@pytest.mark.parametrize(("tiou", "min_score"), [(0.2, 0.0), (0.6, 0.3), (0.0, 0.0), (1.0, 0.0)])
def test_rounds_equal_a_slow_restatement(max_detections, tiou, min_score, in_rounds):
    settings = {"tiou": tiou, "max_detections": max_detections, "min_score": min_score}
    run = tf.function(lambda *values: suppress_sequences(Candidates(*values), **settings), reduce_retracing=True)
    for seed in range(60):
        arrays = many_candidates(seed)
        expected = slow_hard_nms(*(a.astype(np.float64) for a in arrays), **settings)
        found = run(*(tf.constant(a[None]) for a in arrays))
        assert found.segments.shape == (1, max_detections, 2)
        count = int(found.num_detections[0])
        for values, array in zip((found.segments, found.scores, found.class_ids), arrays, strict=True):
            np.testing.assert_array_equal(values[0, :count], array[expected], err_msg=f"seed {seed}")
            assert not values[0, count:].numpy().any()


def test_rounds_of_a_batch(in_rounds):
    """Sequences do not touch each other, and one may have nothing to keep."""
    candidates = random_candidates(3, num_sequences=3)
    candidates = candidates._replace(scores=candidates.scores * tf.constant([[1.0], [0.0], [1.0]]))
    expected = suppress(candidates, tiou=0.2, max_detections=30)
    found = suppress_sequences(candidates, tiou=0.2, max_detections=30)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert found.num_detections[1] == 0 < found.num_detections[0]


def test_the_cheap_look_takes_out_most_and_never_a_kept_one():
    settings = {"tiou": 0.2, "max_detections": 1000}
    segments, scores, class_ids = (values[0] for values in random_candidates(0, 1, 2000))
    expected = suppress(Candidates(segments[None], scores[None], class_ids[None]), **settings)
    kept = Candidates(*(values[0, : int(expected.num_detections[0])] for values in expected[:3]))
    found = postprocess._surely_suppressed(Candidates(segments, scores, class_ids), kept, 0.2).numpy()
    alone = Candidates(*(values[:1] for values in kept))
    assert postprocess._surely_suppressed(kept, alone, 0.2).numpy().tolist() == [True] + [False] * (
        len(kept.scores) - 1
    )
    assert found[~np.isin(scores, kept.scores)].mean() > 0.8


def test_soft_suppression_has_no_rounds(in_rounds):
    candidates = random_candidates(1)
    settings = {"tiou": 0.2, "max_detections": 20, "soft_sigma": 0.5}
    for a, b in zip(suppress_sequences(candidates, **settings), suppress(candidates, **settings), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("voting_tiou", [0.0, 0.5])
def test_rounds_in_a_saved_model(voting_tiou, in_rounds, tmp_path):
    module, settings = tf.Module(), {"tiou": 0.2, "max_detections": 30, "voting_tiou": voting_tiou}
    module.run = tf.function(
        lambda *values: suppress_sequences(Candidates(*values), **settings)._asdict(),
        input_signature=[tf.TensorSpec((None, None, *rest), dtype) for dtype, rest in ARRAYS],
    )
    candidates = random_candidates(4)
    tf.saved_model.save(module, str(tmp_path))
    found = tf.saved_model.load(str(tmp_path)).run(*candidates)
    for name, values in suppress(candidates, **settings)._asdict().items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6 if voting_tiou else 0)

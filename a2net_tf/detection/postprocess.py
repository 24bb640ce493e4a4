"""From raw outputs to candidates, and from candidates to detections by non-maximum suppression, in the graph."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from a2net_tf.detection import geometry, pyramid

_FEW_COMPARISONS = 2**28  # of candidates with kept ones: at most a second's work
_ROUND = 16384  # candidates that are decided together; fewer would make more rounds, more would make them slow
_ROUNDING = 1e-4  # of an overlap
_BEYOND_ANY_STEP = 1e9
_PAIRS_AT_ONCE = 2**20  # of two segments that may overlap: some tens of MB
_ROUND_NUMBER = 1024.0  # a power of two: its multiples are subtracted exactly
_LESS = 0.999  # of an overlap: beyond rounding
Number = tf.Tensor | float  # a setting: f64[] in a graph that serves many of its values (see ``merging.graph_of``)


class Candidates(NamedTuple):
    """Of each cell and each anchor its k best classes, the best one first. A score of 0 marks an unusable one."""

    segments: tf.Tensor  # f32[..., N, 2], unit as the function says
    scores: tf.Tensor  # f32[..., N]
    class_ids: tf.Tensor  # i32[..., N], 0-based (background is not counted)


class Detections(NamedTuple):
    """What is left after suppression, by descending score, padded with zeros."""

    segments: tf.Tensor  # f32[B, K, 2]
    scores: tf.Tensor  # f32[B, K]
    class_ids: tf.Tensor  # i32[B, K]
    num_detections: tf.Tensor  # i32[B]


def anchor_free_candidates(
    logits: tf.Tensor,
    distances: tf.Tensor,
    *,
    centers: tf.Tensor,
    grid_units: int,
    overlap: tf.Tensor | None = None,
    class_scores: str = "softmax",
    num_best: int = 1,
) -> Candidates:
    """Candidates of the anchor-free branch (inverse of Eq. 3), in fractions of the window: N = L k.

    Args:
        logits: f32[B, L, C+1], or f32[B, L, C] for ``sigmoid``.
        distances: f32[B, L, 2] in grid units.
        centers: f32[L] in grid units.
        grid_units: of one window.
        overlap: f32[B, L], predicted tIoU, which scores are multiplied with if there is one.
        class_scores: ``softmax`` over background and classes, or ``sigmoid`` of each class by itself.
        num_best: k, classes of each cell that become candidates, at most C.
    """
    segments = pyramid.decode_distances(distances, centers) / float(grid_units)
    scores, class_ids = _best_classes(_class_probabilities(logits, class_scores), num_best)
    if overlap is not None:
        overlap = tf.clip_by_value(overlap, 0.0, 1.0)
        scores *= overlap if num_best == 1 else tf.expand_dims(overlap, -1)
    return _usable(segments, scores, class_ids, num_best)


def anchor_based_candidates(
    logits: tf.Tensor,
    overlap: tf.Tensor,
    segments: tf.Tensor,
    *,
    overlap_score: str,
    max_background: float,
    class_scores: str = "softmax",
    num_best: int = 1,
) -> Candidates:
    """Candidates of the anchor-based branch: score = overlap x class probability (Eq. 11); N = A k.

    Args:
        logits: f32[B, A, C+1], or f32[B, A, C] for ``sigmoid``.
        overlap: f32[B, A] as the network gives it.
        segments: f32[B, A, 2] decoded anchors, fractions of the window.
        overlap_score: ``raw``: clipped to [0, 1], as it was trained; ``sigmoid``: as the release does.
        max_background: candidates with at least this background probability are dropped, unless it is 1; without
            meaning for ``class_scores=sigmoid``, which knows no background.
        class_scores: ``softmax`` over background and classes, or ``sigmoid`` of each class by itself.
        num_best: k, classes of each anchor that become candidates, at most C.
    """
    overlap = tf.sigmoid(overlap) if overlap_score == "sigmoid" else tf.clip_by_value(overlap, 0.0, 1.0)
    if max_background < 1.0 and class_scores == "softmax":
        overlap = tf.where(tf.nn.softmax(logits)[..., 0] < max_background, overlap, 0.0)
    scores, class_ids = _best_classes(_class_probabilities(logits, class_scores), num_best)
    overlap = overlap if num_best == 1 else tf.expand_dims(overlap, -1)
    return _usable(segments, overlap * scores, class_ids, num_best)


def _class_probabilities(logits: tf.Tensor, class_scores: str) -> tf.Tensor:
    """f32[B, N, C]: of the actions, without background."""
    return tf.sigmoid(logits) if class_scores == "sigmoid" else tf.nn.softmax(logits)[..., 1:]


def _best_classes(action: tf.Tensor, num_best: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Highest probabilities and their classes: f32 and i32 [B, N], or [B, N, k] by descending probability."""
    if num_best == 1:
        return tf.reduce_max(action, axis=-1), tf.argmax(action, axis=-1, output_type=tf.int32)
    return tf.math.top_k(action, k=num_best)


def _usable(segments: tf.Tensor, scores: tf.Tensor, class_ids: tf.Tensor, num_best: int) -> Candidates:
    """Gives each of k classes the segment; marks what ends before it starts or at once: it is never reported."""
    if num_best > 1:
        count = segments.shape[1]
        segments = tf.gather(segments, np.repeat(np.arange(count), num_best), axis=1)
        scores, class_ids = (tf.reshape(values, (-1, count * num_best)) for values in (scores, class_ids))
    return Candidates(segments, tf.where(segments[..., 1] > segments[..., 0], scores, 0.0), class_ids)


def _is_on(setting: Number) -> bool:
    """Whether Soft-NMS or voting is wanted; a tensor, whose value a graph does not know, says yes."""
    return tf.is_tensor(setting) or setting > 0


def _as_float32(setting: Number) -> tf.Tensor:
    """A number of Python, or f64[], rounded once, after what was computed with it."""
    return tf.cast(setting, tf.float32)


def suppress(
    candidates: Candidates,
    *,
    tiou: Number,
    max_detections: tf.Tensor | int,
    min_score: Number = 0.0,
    soft_sigma: Number = 0.0,
    voting_tiou: Number = 0.0,
) -> Detections:
    """Class-wise non-maximum suppression of each sequence's candidates.

    Args:
        candidates: segments f32[B, N, 2] in any unit, scores f32[B, N], class_ids i32[B, N].
        tiou: overlap above which the weaker one of a class goes.
        max_detections: K, best ones kept over all classes.
        min_score: only higher scores take part, so never a candidate of score 0.
        soft_sigma: if > 0, weaker scores decay by exp(-tiou**2 / soft_sigma) instead (Soft-NMS, Bodla et al. 2017).
        voting_tiou: if > 0, all candidates vote on the boundaries of what is kept: see ``vote``.
    """
    start, end = candidates.segments[..., 0], candidates.segments[..., 1]
    class_ids = tf.cast(candidates.class_ids, start.dtype)
    # The class as the second coordinate keeps classes apart: boxes [start, class, end, class + 1] of different classes
    # do not overlap, and no [B, N, C] score matrix is needed.
    boxes = tf.stack([start, class_ids, end, class_ids + 1.0], axis=-1)
    if _is_on(soft_sigma):
        boxes, scores, valid = _soft_suppress(boxes, candidates.scores, max_detections, min_score, soft_sigma)
    else:
        boxes, scores, _, valid = tf.image.combined_non_max_suppression(
            tf.expand_dims(boxes, 2),  # not boxes[:, :, None], which TF-TRT does not convert
            tf.expand_dims(candidates.scores, 2),
            max_output_size_per_class=max_detections,
            max_total_size=max_detections,
            iou_threshold=_as_float32(tiou),
            score_threshold=_as_float32(min_score),
            clip_boxes=False,
        )
    segments = tf.stack([boxes[..., 0], boxes[..., 2]], axis=-1)
    detections = Detections(segments, scores, tf.cast(tf.round(boxes[..., 1]), tf.int32), valid)
    return vote(detections, candidates, tiou=voting_tiou, min_score=min_score) if _is_on(voting_tiou) else detections


def suppress_sequences(
    candidates: Candidates,
    *,
    tiou: Number,
    max_detections: tf.Tensor | int,
    min_score: Number = 0.0,
    soft_sigma: Number = 0.0,
    voting_tiou: Number = 0.0,
) -> Detections:
    """``suppress`` for whole sequences in steps, which may have millions of candidates: the same result in less time.

    The operator behind ``suppress`` takes candidates by score and compares each with all that it has kept. With a
    million that overlap, and ten thousand to keep, that takes many seconds.
    """
    settings = {"tiou": tiou, "max_detections": max_detections, "min_score": min_score}
    if _is_on(soft_sigma):
        detections = suppress(candidates, **settings, soft_sigma=soft_sigma)
    else:
        detections = tf.cond(
            tf.shape(candidates.scores)[1] <= _FEW_COMPARISONS // max_detections,
            lambda: suppress(candidates, **settings),
            lambda: _suppress_in_rounds(candidates, **settings),
        )
    if not _is_on(voting_tiou):
        return detections
    return _vote_nearby(detections, candidates, tiou=voting_tiou, min_score=min_score)


def _suppress_in_rounds(
    candidates: Candidates, *, tiou: Number, max_detections: tf.Tensor | int, min_score: Number
) -> Detections:
    """``suppress``, one sequence after the other. Of equal scores the first one counts as the higher."""
    size = _static(max_detections)

    def pad(values: tf.Tensor) -> tf.Tensor:
        missing = [[0, max_detections - tf.shape(values)[0]], *[[0, 0]] * (values.shape.rank - 1)]
        return tf.ensure_shape(tf.pad(values, missing), (size, *values.shape[1:]))

    def suppress_one(sequence: Candidates) -> Detections:
        usable = _select(sequence, sequence.scores > _as_float32(min_score))
        kept = _keep_best(usable, tiou=tiou, max_detections=max_detections)
        return Detections(*map(pad, kept), tf.size(kept.scores))

    signature = Detections(
        tf.TensorSpec((size, 2), tf.float32),
        tf.TensorSpec((size,), tf.float32),
        tf.TensorSpec((size,), tf.int32),
        tf.TensorSpec((), tf.int32),
    )
    return tf.map_fn(suppress_one, candidates, fn_output_signature=signature)


def _static(max_detections: tf.Tensor | int) -> int | None:
    """K as a dimension of shapes, None if only the graph knows it."""
    return max_detections if isinstance(max_detections, int) else None


def _keep_best(candidates: Candidates, *, tiou: Number, max_detections: tf.Tensor | int) -> Candidates:
    """What suppression keeps of one sequence's candidates [N, ...], by descending score: [at most K, ...].

    In each round the best ones decide among themselves: nothing of a lower score can touch them, and what was kept
    before has been looked at first. What they keep suppresses most of the others, which is cheap to see.
    """

    def decide(kept: Candidates, others: Candidates) -> tuple[Candidates, Candidates]:
        order = tf.math.top_k(others.scores, k=tf.minimum(_ROUND, tf.size(others.scores))).indices
        best = _gather(others, order)
        best = _select(best, ~_suppressed(best, kept, tiou))
        more = max_detections - tf.size(kept.scores)
        new = _gather(best, _kept_places(best, tiou=tiou, max_detections=more))
        is_other = tf.tensor_scatter_nd_update(
            tf.ones_like(others.scores, tf.bool), order[:, None], tf.zeros_like(order, tf.bool)
        )
        others = _select(others, is_other)
        others = _select(others, ~_surely_suppressed(others, new, tiou))
        return Candidates(*(tf.concat(pair, axis=0) for pair in zip(kept, new, strict=True))), others

    shapes = Candidates(tf.TensorShape((None, 2)), tf.TensorShape((None,)), tf.TensorShape((None,)))
    kept, _ = tf.while_loop(
        lambda kept, others: (tf.size(others.scores) > 0) & (tf.size(kept.scores) < max_detections),
        decide,
        (_gather(candidates, tf.range(0)), candidates),
        shape_invariants=(shapes, shapes),
    )
    return kept


def _kept_places(candidates: Candidates, *, tiou: Number, max_detections: tf.Tensor | int) -> tf.Tensor:
    """i32[at most K]: which of ``candidates`` [N, ...], by descending score, suppression keeps."""
    count = tf.size(candidates.scores)
    ranks = tf.cast(tf.range(count, 0, -1), tf.float32)  # as scores: no two are equal, and they come back as places
    detections = suppress(
        Candidates(candidates.segments[None], ranks[None], candidates.class_ids[None]),
        tiou=tiou,
        max_detections=max_detections,
    )
    return count - tf.cast(detections.scores[0, : detections.num_detections[0]], tf.int32)


def _suppressed(candidates: Candidates, kept: Candidates, tiou: Number) -> tf.Tensor:
    """bool[N]: which of ``candidates`` [N, ...] overlap one of the kept ones [K, ...] of their class too much."""
    kept = _gather(kept, tf.argsort(_place_in_class(kept.class_ids, kept.segments[:, 0])))
    first, counts = _near(candidates, kept, tiou)
    count = tf.size(candidates.scores)

    def look(found: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        candidate, other = _gather(candidates, rows), _gather(kept, columns)
        too_much = geometry.tiou(candidate.segments, other.segments) > _as_float32(tiou)
        too_much &= candidate.class_ids == other.class_ids
        return tf.maximum(found, tf.math.unsorted_segment_max(tf.cast(too_much, tf.int32), rows, count))

    return _over_pairs(look, tf.zeros((count,), tf.int32), first, counts) > 0


def _surely_suppressed(candidates: Candidates, kept: Candidates, tiou: Number) -> tf.Tensor:
    """bool[N]: which of ``candidates`` [N, ...] overlap one of four kept ones, those of their class nearest by centre.

    What is not found here is no mistake, only work for the next round. What is found must be beyond doubt for the
    operator too, hence the margin for rounding.
    """
    kept = _gather(kept, tf.argsort(_class_and_center(kept)))
    next_place = tf.searchsorted(_class_and_center(kept), _class_and_center(candidates))
    suppressed = tf.zeros_like(candidates.scores, tf.bool)
    for offset in (-2, -1, 0, 1):
        near = _gather(kept, tf.clip_by_value(next_place + offset, 0, tf.size(kept.scores) - 1))
        overlap = geometry.tiou(near.segments, candidates.segments)
        suppressed |= (near.class_ids == candidates.class_ids) & (overlap > _as_float32(tiou + _ROUNDING))
    return suppressed


def _class_and_center(candidates: Candidates) -> tf.Tensor:
    return _place_in_class(candidates.class_ids, tf.reduce_mean(candidates.segments, axis=-1))


def _place_in_class(class_ids: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """f64[N]: sorts by class, and by position within a class."""
    return tf.cast(class_ids, tf.float64) * _BEYOND_ANY_STEP + tf.cast(positions, tf.float64)


def _gather(candidates: Candidates, places: tf.Tensor) -> Candidates:
    return Candidates(*(tf.gather(values, places) for values in candidates))


def _select(candidates: Candidates, wanted: tf.Tensor) -> Candidates:
    return _gather(candidates, tf.cast(tf.where(wanted)[:, 0], tf.int32))


def _soft_suppress(boxes, scores, max_detections, min_score, sigma):
    """Soft-NMS one sequence at a time, as the operator wants it: boxes f32[B, K, 4], scores f32[B, K], valid i32[B]."""
    size = _static(max_detections)

    def one(inputs):
        selected, kept_scores, valid = tf.raw_ops.NonMaxSuppressionV5(
            boxes=inputs[0],
            scores=inputs[1],
            max_output_size=max_detections,
            iou_threshold=1.0,  # no hard suppression beside the soft one
            score_threshold=_as_float32(min_score),
            soft_nms_sigma=_as_float32(sigma / 2),  # the operator computes exp(-tiou**2 / (2 sigma))
            pad_to_max_output_size=True,
        )
        there = tf.cast(tf.range(max_detections) < valid, tf.float32)
        return tf.gather(inputs[0], selected) * there[:, None], kept_scores * there, valid

    signature = (
        tf.TensorSpec((size, 4), tf.float32),
        tf.TensorSpec((size,), tf.float32),
        tf.TensorSpec((), tf.int32),
    )
    return tf.map_fn(one, (boxes, scores), fn_output_signature=signature)


def vote(detections: Detections, candidates: Candidates, *, tiou: Number, min_score: Number = 0.0) -> Detections:
    """Moves each detection's boundaries to the mean of those that vote for it, weighted by their scores.

    The candidates of its class that overlap it enough vote, the one that it was made of among them. Scores and order
    stay. Compares every detection with every candidate: for windows.

    Args:
        detections: what suppression keeps of ``candidates``; padding stays 0.
        candidates: [B, N, ...], before suppression, in the same unit.
        tiou: > 0, overlap with the detection from which a candidate votes.
        min_score: only higher scores vote, as in suppression.
    """
    rows = Candidates(*(tf.expand_dims(values, 2) for values in detections[:3]))
    columns = Candidates(*(tf.expand_dims(values, 1) for values in candidates))
    votes = tf.cast(_may_vote(rows, columns, tiou), tf.float32)  # B, K, N
    weights = tf.expand_dims(tf.where(candidates.scores > _as_float32(min_score), candidates.scores, 0.0), 2)
    # Far from 0, a sum of many positions would round away how far each moves, so they are taken from a round number
    # near the best detection: 0 for windows in fractions.
    origin = _ROUND_NUMBER * tf.round(detections.segments[:, :1, :1] / _ROUND_NUMBER)
    # One matrix product instead of sums over pairs: TFLite and ONNX have fast ones.
    sums = tf.matmul(votes, tf.concat([weights * (candidates.segments - origin), weights], axis=2))
    positions, weights = sums[..., :2], sums[..., 2:]
    return _moved(detections, positions - weights * (detections.segments - origin), tf.squeeze(weights, 2))


def _may_vote(detections: Candidates, candidates: Candidates, tiou: Number) -> tf.Tensor:
    """bool[...]: whether a candidate is of a detection's class and overlaps it enough; of shapes that broadcast."""
    (start, end), (other_start, other_end) = (tf.unstack(v.segments, axis=-1) for v in (detections, candidates))
    shared_or_gap = tf.minimum(end, other_end) - tf.maximum(start, other_start)
    # shared >= tiou * union, without a division for every pair
    both, tiou = _as_float32(1.0 + tiou), _as_float32(tiou)
    enough = shared_or_gap * both >= (end - start) * tiou + (other_end - other_start) * tiou
    return enough & tf.equal(detections.class_ids, candidates.class_ids)


def _moved(detections: Detections, moves: tf.Tensor, weights: tf.Tensor) -> Detections:
    """Detections moved by the sums f32[B, K, 2] over those of the weights f32[B, K]; padding has none."""
    weights = tf.expand_dims(weights, 2)
    return detections._replace(segments=detections.segments + moves / tf.where(weights > 0, weights, 1.0))


def _vote_nearby(detections: Detections, candidates: Candidates, *, tiou: Number, min_score: Number) -> Detections:
    """``vote`` for whole sequences in steps, one after the other; looks only at candidates that begin near enough."""

    def vote_one(inputs: tuple[Candidates, Candidates]) -> tuple[tf.Tensor, tf.Tensor]:
        chosen, others = inputs
        others = _select(others, others.scores > _as_float32(min_score))
        others = _gather(others, tf.argsort(_place_in_class(others.class_ids, others.segments[:, 0])))
        first, counts = _near(chosen, others, tiou)
        return _sum_votes(chosen, others, first, counts, tiou)

    kept = detections.scores.shape[1]  # None where it grows with the sequences
    signature = tf.TensorSpec((kept, 2), tf.float32), tf.TensorSpec((kept,), tf.float32)
    sums = tf.map_fn(vote_one, (Candidates(*detections[:3]), candidates), fn_output_signature=signature)
    return _moved(detections, *sums)


def _near(detections: Candidates, others: Candidates, tiou: Number) -> tuple[tf.Tensor, tf.Tensor]:
    """Which of ``others`` [N, ...], sorted by class and start, may overlap each detection [K, ...] by ``tiou``.

    What overlaps a detection so much shares that part of it, and with it covers at most 1 / tiou of its length.

    Returns:
        i32[K] the first one, i32[K] how many follow from there; none for padding.
    """
    tiou = tiou * _LESS  # what only rounding takes over the bound counts too
    start, end = tf.unstack(tf.cast(detections.segments, tf.float64), axis=-1)
    other_starts, other_ends = tf.unstack(tf.cast(others.segments, tf.float64), axis=-1)
    longest = tf.reduce_max(tf.concat([other_ends - other_starts, [0.0]], axis=0))
    lowest, highest = tf.maximum(end - (end - start) / tiou, start - longest), end - (end - start) * tiou
    places = _place_in_class(others.class_ids, other_starts)
    first = tf.searchsorted(places, _place_in_class(detections.class_ids, lowest), side="left")
    last = tf.searchsorted(places, _place_in_class(detections.class_ids, highest), side="right")
    return first, tf.where(detections.scores > 0, last - first, 0)


def _over_pairs(add: Callable, value: tf.Tensor, first: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """``value = add(value, rows, columns)`` over the pairs that ``_near`` names, as many at once as memory shall hold.

    Every pair has a number, those of the first row come first.
    """
    ends = tf.cumsum(tf.cast(counts, tf.int64))
    begins = ends - tf.cast(counts, tf.int64)
    total = tf.reduce_sum(tf.cast(counts, tf.int64))

    def add_some(done: tf.Tensor, value: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pairs = tf.range(done, tf.minimum(done + _PAIRS_AT_ONCE, total))
        rows = tf.searchsorted(ends, pairs, side="right")
        columns = tf.gather(first, rows) + tf.cast(pairs - tf.gather(begins, rows), tf.int32)
        return done + _PAIRS_AT_ONCE, add(value, rows, columns)

    start = tf.constant(0, tf.int64), value
    return tf.while_loop(lambda done, _: done < total, add_some, start, parallel_iterations=1)[1]


def _sum_votes(
    detections: Candidates, others: Candidates, first: tf.Tensor, counts: tf.Tensor, tiou: Number
) -> tuple[tf.Tensor, tf.Tensor]:
    """The sums f32[K, 2] of weighted moves and f32[K] of weights, over the pairs that ``_near`` names."""
    number = tf.size(detections.scores)

    def add(sums: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        detection, other = _gather(detections, rows), _gather(others, columns)
        weight = tf.where(_may_vote(detection, other, tiou), other.scores, 0.0)[:, None]
        # How far each moves and not where it ends: far from 0, a sum of many positions would round away the difference.
        moves = weight * (other.segments - detection.segments)
        return sums + tf.math.unsorted_segment_sum(tf.concat([moves, weight], axis=1), rows, number)

    sums = _over_pairs(add, tf.zeros((number, 3)), first, counts)
    return sums[:, :2], sums[:, 2]

"""From raw outputs to candidates, and from candidates to detections by non-maximum suppression, in the graph."""

from typing import NamedTuple

import tensorflow as tf

from a2net_tf import anchors as pyramid
from a2net_tf import segments as geometry

_FEW_COMPARISONS = 2**28  # of candidates with kept ones: at most a second's work
_FIRST_ROUND = 16384  # candidates that are decided at first; fewer would only make more rounds
_MOST_RANKS = 2**24  # that are different numbers in float32
_ROUNDING = 1e-4  # of an overlap
_BEYOND_ANY_STEP = 1e9


class Candidates(NamedTuple):
    """One per cell and one per anchor: the best class that is not background. A score of 0 marks an unusable one."""

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
    logits: tf.Tensor, distances: tf.Tensor, *, centers: tf.Tensor, grid_units: int
) -> Candidates:
    """Candidates of the anchor-free head (inverse of Eq. 3), in fractions of the window.

    Args:
        logits: f32[B, L, C+1].
        distances: f32[B, L, 2] in grid units.
        centers: f32[L] in grid units.
        grid_units: of one window.
    """
    segments = pyramid.decode_distances(distances, centers) / float(grid_units)
    action = tf.nn.softmax(logits)[..., 1:]
    return _usable(segments, tf.reduce_max(action, axis=-1), _best_class(action))


def anchor_based_candidates(
    logits: tf.Tensor,
    overlap: tf.Tensor,
    segments: tf.Tensor,
    *,
    overlap_score: str,
    max_background: float,
) -> Candidates:
    """Candidates of the anchor-based head: score = overlap x best class probability (Eq. 11).

    Args:
        logits: f32[B, A, C+1].
        overlap: f32[B, A] as the network gives it.
        segments: f32[B, A, 2] decoded anchors, fractions of the window.
        overlap_score: ``raw``: clipped to [0, 1], as it was trained; ``sigmoid``: as the release does.
        max_background: candidates with at least this background probability are dropped, unless it is 1.
    """
    probability = tf.nn.softmax(logits)
    action = probability[..., 1:]
    overlap = tf.sigmoid(overlap) if overlap_score == "sigmoid" else tf.clip_by_value(overlap, 0.0, 1.0)
    scores = overlap * tf.reduce_max(action, axis=-1)
    if max_background < 1.0:
        scores = tf.where(probability[..., 0] < max_background, scores, 0.0)
    return _usable(segments, scores, _best_class(action))


def _best_class(action: tf.Tensor) -> tf.Tensor:
    return tf.argmax(action, axis=-1, output_type=tf.int32)


def _usable(segments: tf.Tensor, scores: tf.Tensor, class_ids: tf.Tensor) -> Candidates:
    """Marks candidates whose end is not after their start: they are never reported."""
    return Candidates(segments, tf.where(segments[..., 1] > segments[..., 0], scores, 0.0), class_ids)


def suppress(
    candidates: Candidates, *, tiou: float, max_detections: int, min_score: float = 0.0, soft_sigma: float = 0.0
) -> Detections:
    """Class-wise non-maximum suppression of each sequence's candidates.

    Args:
        candidates: segments f32[B, N, 2] in any unit, scores f32[B, N], class_ids i32[B, N].
        tiou: overlap above which the weaker one of a class goes.
        max_detections: K, best ones kept over all classes.
        min_score: only higher scores take part, so never a candidate of score 0.
        soft_sigma: if > 0, overlapping scores decay by exp(-tiou**2 / soft_sigma) instead (Soft-NMS, Bodla
            et al. 2017).
    """
    start, end = candidates.segments[..., 0], candidates.segments[..., 1]
    class_ids = tf.cast(candidates.class_ids, start.dtype)
    # The class as the second coordinate keeps classes apart: boxes [start, class, end, class + 1] of different classes
    # do not overlap, and no [B, N, C] score matrix is needed.
    boxes = tf.stack([start, class_ids, end, class_ids + 1.0], axis=-1)
    if soft_sigma > 0:
        boxes, scores, valid = _soft_suppress(boxes, candidates.scores, max_detections, min_score, soft_sigma)
    else:
        boxes, scores, _, valid = tf.image.combined_non_max_suppression(
            tf.expand_dims(boxes, 2),  # not boxes[:, :, None], which TF-TRT does not convert
            tf.expand_dims(candidates.scores, 2),
            max_output_size_per_class=max_detections,
            max_total_size=max_detections,
            iou_threshold=tiou,
            score_threshold=min_score,
            clip_boxes=False,
        )
    segments = tf.stack([boxes[..., 0], boxes[..., 2]], axis=-1)
    return Detections(segments, scores, tf.cast(tf.round(boxes[..., 1]), tf.int32), valid)


def suppress_sequences(
    candidates: Candidates, *, tiou: float, max_detections: int, min_score: float = 0.0, soft_sigma: float = 0.0
) -> Detections:
    """``suppress`` for whole sequences, which may have millions of candidates: the same result in less time.

    The operator behind ``suppress`` takes candidates by score and compares each with all that it has kept. With a
    million that overlap, and ten thousand to keep, that takes many seconds.
    """
    settings = {"tiou": tiou, "max_detections": max_detections, "min_score": min_score}
    if soft_sigma > 0:
        return suppress(candidates, **settings, soft_sigma=soft_sigma)
    return tf.cond(
        tf.shape(candidates.scores)[1] <= _FEW_COMPARISONS // max_detections,
        lambda: suppress(candidates, **settings),
        lambda: _suppress_in_rounds(candidates, **settings),
    )


def _suppress_in_rounds(candidates: Candidates, *, tiou: float, max_detections: int, min_score: float) -> Detections:
    """``suppress``, one sequence after the other. Of equal scores the first one counts as the higher."""

    def pad(values: tf.Tensor) -> tf.Tensor:
        missing = [[0, max_detections - tf.shape(values)[0]], *[[0, 0]] * (values.shape.rank - 1)]
        return tf.ensure_shape(tf.pad(values, missing), (max_detections, *values.shape[1:]))

    def suppress_one(sequence: Candidates) -> Detections:
        usable = _select(sequence, sequence.scores > min_score)
        kept = _keep_best(usable, tiou=tiou, max_detections=max_detections)
        return Detections(*map(pad, kept), tf.size(kept.scores))

    signature = Detections(
        tf.TensorSpec((max_detections, 2), tf.float32),
        tf.TensorSpec((max_detections,), tf.float32),
        tf.TensorSpec((max_detections,), tf.int32),
        tf.TensorSpec((), tf.int32),
    )
    return tf.map_fn(suppress_one, candidates, fn_output_signature=signature)


def _keep_best(candidates: Candidates, *, tiou: float, max_detections: int) -> Candidates:
    """What suppression keeps of one sequence's candidates [N, ...], by descending score: [at most K, ...].

    In each round the best ones decide among themselves: nothing of a lower score can touch them. What they keep
    suppresses most of the others, which is cheap to see. The best that are left follow in the next round, together with
    what is kept already.
    """

    def decide(kept: Candidates, others: Candidates, size: tf.Tensor) -> tuple[Candidates, Candidates, tf.Tensor]:
        undecided = Candidates(*(tf.concat(pair, axis=0) for pair in zip(kept, others, strict=True)))
        order = tf.math.top_k(undecided.scores, k=tf.minimum(size, tf.size(undecided.scores))).indices
        best = _gather(undecided, order)
        kept = _gather(best, _kept_places(best, tiou=tiou, max_detections=max_detections))
        is_other = tf.tensor_scatter_nd_update(
            tf.ones_like(undecided.scores, tf.bool), order[:, None], tf.zeros_like(order, tf.bool)
        )
        others = _select(undecided, is_other)
        others = _select(others, ~_surely_suppressed(others, kept, tiou))
        return kept, others, tf.minimum(2 * size, _MOST_RANKS)

    shapes = Candidates(tf.TensorShape((None, 2)), tf.TensorShape((None,)), tf.TensorShape((None,)))
    kept, _, _ = tf.while_loop(
        lambda kept, others, _: (tf.size(others.scores) > 0) & (tf.size(kept.scores) < max_detections),
        decide,
        (
            _gather(candidates, tf.range(0)),
            candidates,
            tf.constant(min(max(4 * max_detections, _FIRST_ROUND), _MOST_RANKS)),
        ),
        shape_invariants=(shapes, shapes, tf.TensorShape(())),
    )
    return kept


def _kept_places(candidates: Candidates, *, tiou: float, max_detections: int) -> tf.Tensor:
    """i32[at most K]: which of ``candidates`` [N, ...], by descending score, suppression keeps."""
    count = tf.size(candidates.scores)
    ranks = tf.cast(tf.range(count, 0, -1), tf.float32)  # as scores: no two are equal, and they come back as places
    found = suppress(
        Candidates(candidates.segments[None], ranks[None], candidates.class_ids[None]),
        tiou=tiou,
        max_detections=max_detections,
    )
    return count - tf.cast(found.scores[0, : found.num_detections[0]], tf.int32)


def _surely_suppressed(candidates: Candidates, kept: Candidates, tiou: float) -> tf.Tensor:
    """bool[N]: which of ``candidates`` [N, ...] overlap one of four kept ones, those of their class nearest by centre.

    What is not found here is no mistake, only work for the operator. What is found must be beyond doubt for the
    operator too, hence the margin for rounding.
    """
    kept = _gather(kept, tf.argsort(_class_and_center(kept)))
    next_place = tf.searchsorted(_class_and_center(kept), _class_and_center(candidates))
    found = tf.zeros_like(candidates.scores, tf.bool)
    for offset in (-2, -1, 0, 1):
        near = _gather(kept, tf.clip_by_value(next_place + offset, 0, tf.size(kept.scores) - 1))
        overlap = geometry.tiou(near.segments, candidates.segments)
        found |= (near.class_ids == candidates.class_ids) & (overlap > tiou + _ROUNDING)
    return found


def _class_and_center(candidates: Candidates) -> tf.Tensor:
    """f64[N]: sorts by class, and by centre within a class."""
    center = tf.cast(tf.reduce_mean(candidates.segments, axis=-1), tf.float64)
    return tf.cast(candidates.class_ids, tf.float64) * _BEYOND_ANY_STEP + center


def _gather(candidates: Candidates, places: tf.Tensor) -> Candidates:
    return Candidates(*(tf.gather(values, places) for values in candidates))


def _select(candidates: Candidates, wanted: tf.Tensor) -> Candidates:
    return _gather(candidates, tf.cast(tf.where(wanted)[:, 0], tf.int32))


def _soft_suppress(boxes, scores, max_detections, min_score, sigma):
    """Soft-NMS one sequence at a time, as the operator wants it: boxes f32[B, K, 4], scores f32[B, K], valid i32[B]."""

    def one(inputs):
        selected, kept_scores, valid = tf.raw_ops.NonMaxSuppressionV5(
            boxes=inputs[0],
            scores=inputs[1],
            max_output_size=max_detections,
            iou_threshold=1.0,  # no hard suppression beside the soft one
            score_threshold=min_score,
            soft_nms_sigma=sigma / 2,  # the operator computes exp(-tiou**2 / (2 sigma))
            pad_to_max_output_size=True,
        )
        there = tf.cast(tf.range(max_detections) < valid, tf.float32)
        return tf.gather(inputs[0], selected) * there[:, None], kept_scores * there, valid

    signature = (
        tf.TensorSpec((max_detections, 4), tf.float32),
        tf.TensorSpec((max_detections,), tf.float32),
        tf.TensorSpec((), tf.int32),
    )
    return tf.map_fn(one, (boxes, scores), fn_output_signature=signature)

"""From raw outputs to candidates, and from candidates to detections by non-maximum suppression, in the graph."""

from typing import NamedTuple

import tensorflow as tf

from a2net_tf import anchors as pyramid


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

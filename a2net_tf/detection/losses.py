"""The five losses of A2Net and their weighted sum (Section III-E, Eqs. 4 to 10). Pure.

Each mean is over what it says; the mean over nothing is 0 (with a gradient of 0), never NaN. Until ``means`` they are
kept as sum and count: where several devices share a batch, counts have to be added up before the division.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from a2net_tf.detection import geometry
from a2net_tf.detection.targets import AnchorMatches, CellTargets

_LARGEST_CHANGE = 4.0  # of a logarithm, that the smoothing still pulls at: a change of class costs no more


class Sum(NamedTuple):
    """A mean before the division."""

    total: tf.Tensor  # f32[]
    count: tf.Tensor  # f32[]


def masked_sum(values: tf.Tensor, mask: tf.Tensor) -> Sum:
    """Sum of ``values`` where ``mask`` (bool, same shape) holds, and at how many places it does."""
    # Unchosen values may be inf or NaN and 0 * inf is NaN, so they are replaced, not multiplied away.
    return Sum(tf.reduce_sum(tf.where(mask, values, 0.0)), tf.reduce_sum(tf.cast(mask, values.dtype)))


def means(sums: dict[str, Sum], add_up: Callable[[tf.Tensor], tf.Tensor] = tf.identity) -> dict[str, tf.Tensor]:
    """Divides each total by its count; 0 where the count is 0.

    Args:
        sums: by name, of the windows at hand.
        add_up: sums the counts, f32[N] in the order of ``sums``, over the devices that share a batch. What is returned
            is then this device's share: added up over the devices, the shares are the means of the whole batch.
    """
    counts = tf.maximum(add_up(tf.stack([part.count for part in sums.values()])), 1.0)
    return {name: part.total / count for (name, part), count in zip(sums.items(), tf.unstack(counts), strict=True)}


def smooth_l1(difference: tf.Tensor, sigma: float = 1.0) -> tf.Tensor:
    """0.5 (sigma x)**2 below |x| = 1 / sigma**2 and |x| - 0.5 / sigma**2 above, element by element."""
    size, bound = tf.abs(difference), 1.0 / sigma**2
    return tf.where(size < bound, 0.5 / bound * tf.square(difference), size - 0.5 * bound)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy of f32[..., C+1] logits with i32[...] labels: f32[...]."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


class Focal(NamedTuple):
    """Classification of each class by itself, with the focus on what is hard (Lin et al. 2017).

    Attributes:
        classes: f32[B, N, C] of ``targets.classes_of``.
        gamma: how much; 0 is plain cross-entropy.
        alpha: weight of the positives, 1 - alpha of the others; -1: both 1.
    """

    classes: tf.Tensor
    gamma: float
    alpha: float


def focal_cross_entropy(logits: tf.Tensor, focal: Focal) -> tf.Tensor:
    """Sum over classes of (1 - p)**gamma * -log p, p being the probability of the truth: f32[..., C] -> f32[...]."""
    truth = focal.classes
    surprise = tf.nn.sigmoid_cross_entropy_with_logits(labels=truth, logits=logits)  # -log p
    if focal.gamma:
        probability = tf.sigmoid(logits)
        missing = truth + probability * (1.0 - 2.0 * truth)  # 1 - p
        surprise *= tf.square(missing) if focal.gamma == 2 else tf.pow(tf.maximum(missing, 1e-8), focal.gamma)
    if focal.alpha >= 0:
        surprise *= focal.alpha * truth + (1.0 - focal.alpha) * (1.0 - truth)
    return tf.reduce_sum(surprise, axis=-1)


def iou_loss(predicted: tf.Tensor, target: tf.Tensor, kind: str) -> tf.Tensor:
    """1 - tIoU plus what still pulls where nothing overlaps, in [0, 2].

    Args:
        predicted: f32[..., 2] start and end; may be reversed.
        target: f32[..., 2] in the same unit; where it is empty the loss means nothing but is finite.
        kind: ``diou``: plus the squared distance of the centres (Zheng et al. 2020); ``giou``: plus the gap between
            both (Rezatofighi et al. 2019); relative to what encloses both.
    """
    start, end = tf.unstack(predicted, axis=-1)
    target_start, target_end = tf.unstack(target, axis=-1)
    ends = tf.concat([predicted, target], axis=-1)
    enclosing = tf.maximum(tf.reduce_max(ends, axis=-1) - tf.reduce_min(ends, axis=-1), 1e-6)
    if kind == "diou":
        penalty = tf.square((start + end - target_start - target_end) / (2.0 * enclosing))
    else:
        gap = tf.maximum(tf.maximum(start, target_start) - tf.minimum(end, target_end), 0.0)
        penalty = gap / enclosing
    return 1.0 - geometry.tiou(predicted, target) + penalty


def anchor_free_losses(
    logits: tf.Tensor,
    distances: tf.Tensor,
    targets: CellTargets,
    *,
    regression: str = "smooth_l1",
    focal: Focal | None = None,
) -> dict[str, Sum]:
    """Classification over all cells (Eq. 6) and regression of both distances over foreground cells (Eq. 7).

    Args:
        logits: f32[B, L, C+1], or f32[B, L, C] with ``focal``.
        distances: f32[B, L, 2], grid units.
        targets: of ``assign_cells``.
        regression: ``smooth_l1``, ``diou`` or ``giou``.
        focal: in place of softmax cross-entropy; the mean is then over foreground cells.
    """
    foreground = targets.labels > 0
    if focal is not None:
        classification = _focal_sum(logits, focal, foreground)
    else:
        surprise = cross_entropy(logits, targets.labels)
        classification = Sum(tf.reduce_sum(surprise), tf.cast(tf.size(surprise), tf.float32))
    if regression == "smooth_l1":
        error = tf.reduce_sum(smooth_l1(distances - targets.distances), axis=-1)
    else:  # segments relative to the cell
        signs = tf.constant([-1.0, 1.0])
        error = iou_loss(signs * distances, signs * targets.distances, regression)
    return {
        "anchor_free_classification": classification,
        "anchor_free_regression": masked_sum(error, foreground),
    }


def _focal_sum(logits: tf.Tensor, focal: Focal, positive: tf.Tensor) -> Sum:
    """Over all cells or anchors, counted by the positive ones: the many easy ones add next to nothing."""
    return Sum(tf.reduce_sum(focal_cross_entropy(logits, focal)), tf.reduce_sum(tf.cast(positive, tf.float32)))


def anchor_based_losses(
    logits: tf.Tensor,
    overlap: tf.Tensor,
    *,
    predicted: tf.Tensor,
    regression_target: tf.Tensor,
    matches: AnchorMatches,
    negatives: tf.Tensor,
    overlap_loss: str,
    regression: str = "smooth_l1",
    focal: Focal | None = None,
) -> dict[str, Sum]:
    """Classification (Eq. 8), overlap (Eq. 9) and regression (Eq. 10) of the anchors.

    Args:
        logits: f32[B, A, C+1], or f32[B, A, C] with ``focal``.
        overlap: f32[B, A], predicted tIoU.
        predicted: f32[B, A, 2], what is regressed: decoded boundaries (release) or offsets (paper).
        regression_target: f32[B, A, 2] of the same kind.
        matches: of ``match_anchors``.
        negatives: bool[B, A] of ``choose_negatives``.
        overlap_loss: ``smooth_l1`` over positives and negatives (release) or ``mse`` over positives (paper).
        regression: ``smooth_l1``, or ``diou`` or ``giou`` of boundaries.
        focal: in place of softmax cross-entropy; over all anchors then, and the mean is over the positive ones.
    """
    chosen = matches.positive | negatives
    difference = overlap - matches.overlap
    if overlap_loss == "mse":
        overlap_part = masked_sum(tf.square(difference), matches.positive)
    else:
        overlap_part = masked_sum(smooth_l1(difference), chosen)
    # Targets of unmatched anchors can be log(0): they must not reach the subtraction, nor its gradient.
    target = tf.where(matches.positive[..., None], regression_target, tf.stop_gradient(predicted))
    if regression == "smooth_l1":
        error = tf.reduce_sum(smooth_l1(predicted - target), axis=-1)
    else:
        error = iou_loss(predicted, target, regression)
    if focal is not None:
        classification = _focal_sum(logits, focal, matches.positive)
    else:
        classification = masked_sum(cross_entropy(logits, matches.labels), chosen)
    return {
        "anchor_based_classification": classification,
        "anchor_based_overlap": overlap_part,
        "anchor_based_regression": masked_sum(error, matches.positive),
    }


def anchor_free_overlap(overlap: tf.Tensor, segments: tf.Tensor, targets: CellTargets) -> dict[str, Sum]:
    """Eq. 9 for cells: how far the predicted overlap is from that of what they predict, over foreground cells.

    Args:
        overlap: f32[B, L], predicted tIoU.
        segments: f32[B, L, 2], decoded predictions, fractions of the window. No gradient flows into them.
        targets: of ``assign_cells``.
    """
    reached = geometry.tiou(tf.stop_gradient(segments), targets.segments)
    return {"anchor_free_overlap": masked_sum(smooth_l1(overlap - reached), targets.labels > 0)}


def second_stage_losses(
    logits: tf.Tensor, offsets: tf.Tensor, *, target: tf.Tensor, matches: AnchorMatches, background: tf.Tensor
) -> dict[str, Sum]:
    """Classification of proposals, those with an action and those without each by itself, and their refinement.

    Means of their own, in place of as many draws of both, cannot fail where there is nothing to draw from.

    Args:
        logits: f32[B, R, C+1].
        offsets: f32[B, R, 2 C], two of each class; those of the proposal's action learn.
        target: f32[B, R, 2] of the same kind; anything where nothing matches.
        matches: of ``match_anchors``.
        background: bool[B, R], proposals that shall be called background; what is neither that nor positive has no
            loss.
    """
    surprise = cross_entropy(logits, matches.labels)
    num_classes = logits.shape[-1] - 1
    chosen = tf.one_hot(matches.labels - 1, num_classes)[..., None]  # no class where nothing matches
    own = tf.reduce_sum(chosen * tf.reshape(offsets, (-1, offsets.shape[1], num_classes, 2)), axis=2)
    target = tf.where(matches.positive[..., None], target, tf.stop_gradient(own))
    error = tf.reduce_sum(smooth_l1(own - target), axis=-1)
    return {
        "second_stage_foreground": masked_sum(surprise, matches.positive),
        "second_stage_background": masked_sum(surprise, background),
        "second_stage_regression": masked_sum(error, matches.positive),
    }


def step_losses(logits: tf.Tensor, labels: tf.Tensor) -> dict[str, Sum]:
    """Classification of every step, and how much neighbouring steps differ (Farha and Gall, Eqs. 6 and 8).

    Both are summed over stages: each of them learns.

    Args:
        logits: f32[B, S, T, C+1], of S stages.
        labels: i32[B, T] of ``targets.label_steps``; -1: no step, which counts for nothing.
    """
    there = labels >= 0
    surprise = cross_entropy(logits, tf.repeat(tf.maximum(labels, 0)[:, None], logits.shape[1], axis=1))
    log_probability = tf.nn.log_softmax(logits)
    # A step is to follow the one before it, not the other way round: else both would settle in between.
    change = tf.abs(log_probability[:, :, 1:] - tf.stop_gradient(log_probability[:, :, :-1]))
    change = tf.reduce_mean(tf.square(tf.minimum(change, _LARGEST_CHANGE)), axis=-1)
    return {
        "step_classification": masked_sum(tf.reduce_sum(surprise, axis=1), there),
        "step_smoothing": masked_sum(tf.reduce_sum(change, axis=1), there[:, 1:] & there[:, :-1]),
    }


def total_loss(
    parts: dict[str, tf.Tensor],
    *,
    anchor_based_weight: float = 1.0,
    anchor_free_classification_weight: float = 30.0,
    anchor_free_regression_weight: float = 1.0,
    overlap_weight: float = 10.0,
    anchor_regression_weight: float = 10.0,
    step_weight: float = 1.0,
    step_smoothing: float = 0.0,
    second_stage_weight: float = 1.0,
) -> tf.Tensor:
    """L = Laf_reg + g_af Laf_cls + g (Lab_cls + g_ab1 Lab_o + g_ab2 Lab_reg), of the parts there are (Eqs. 4, 5)."""
    weights = {
        "anchor_free_regression": anchor_free_regression_weight,
        "anchor_free_classification": anchor_free_classification_weight,
        "anchor_based_classification": anchor_based_weight,
        "anchor_based_overlap": anchor_based_weight * overlap_weight,
        "anchor_based_regression": anchor_based_weight * anchor_regression_weight,
        "step_classification": step_weight,
        "step_smoothing": step_weight * step_smoothing,
        "anchor_free_overlap": overlap_weight,
        "second_stage_foreground": second_stage_weight / 2,
        "second_stage_background": second_stage_weight / 2,
        "second_stage_regression": second_stage_weight,
    }
    return tf.add_n([weights[name] * value for name, value in parts.items()])

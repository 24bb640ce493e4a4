"""The five losses of A2Net and their weighted sum (Section III-E, Eqs. 4 to 10). Pure.

Each mean is over what it says; the mean over nothing is 0 (with a gradient of 0), never NaN. Until ``means`` they are
kept as sum and count: where several devices share a batch, counts have to be added up before the division.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from a2net_tf.targets import AnchorMatches, CellTargets


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
    counts = tf.maximum(add_up(tf.stack([found.count for found in sums.values()])), 1.0)
    return {name: found.total / count for (name, found), count in zip(sums.items(), tf.unstack(counts), strict=True)}


def smooth_l1(difference: tf.Tensor) -> tf.Tensor:
    """0.5 x**2 below |x| = 1 and |x| - 0.5 above, element by element."""
    size = tf.abs(difference)
    return tf.where(size < 1.0, 0.5 * tf.square(difference), size - 0.5)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy of f32[..., C+1] logits with i32[...] labels: f32[...]."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def anchor_free_losses(logits: tf.Tensor, distances: tf.Tensor, targets: CellTargets) -> dict[str, Sum]:
    """Classification over all cells (Eq. 6) and smooth L1 on both distances over foreground cells (Eq. 7).

    Args:
        logits: f32[B, L, C+1].
        distances: f32[B, L, 2], grid units.
        targets: of ``assign_cells``.
    """
    classification = cross_entropy(logits, targets.labels)
    regression = tf.reduce_sum(smooth_l1(distances - targets.distances), axis=-1)
    return {
        "anchor_free_classification": Sum(tf.reduce_sum(classification), tf.cast(tf.size(classification), tf.float32)),
        "anchor_free_regression": masked_sum(regression, targets.labels > 0),
    }


def anchor_based_losses(
    logits: tf.Tensor,
    overlap: tf.Tensor,
    *,
    predicted: tf.Tensor,
    regression_target: tf.Tensor,
    matches: AnchorMatches,
    negatives: tf.Tensor,
    overlap_loss: str,
) -> dict[str, Sum]:
    """Classification (Eq. 8), overlap (Eq. 9) and regression (Eq. 10) of the anchors.

    Args:
        logits: f32[B, A, C+1].
        overlap: f32[B, A], predicted tIoU.
        predicted: f32[B, A, 2], what is regressed: decoded boundaries (release) or offsets (paper).
        regression_target: f32[B, A, 2] of the same kind.
        matches: of ``match_anchors``.
        negatives: bool[B, A] of ``choose_negatives``.
        overlap_loss: ``smooth_l1`` over positives and negatives (release) or ``mse`` over positives (paper).
    """
    chosen = matches.positive | negatives
    difference = overlap - matches.overlap
    if overlap_loss == "mse":
        overlap_part = masked_sum(tf.square(difference), matches.positive)
    else:
        overlap_part = masked_sum(smooth_l1(difference), chosen)
    # Targets of unmatched anchors can be log(0): they must not reach the subtraction, nor its gradient.
    target = tf.where(matches.positive[..., None], regression_target, tf.stop_gradient(predicted))
    regression = tf.reduce_sum(smooth_l1(predicted - target), axis=-1)
    return {
        "anchor_based_classification": masked_sum(cross_entropy(logits, matches.labels), chosen),
        "anchor_based_overlap": overlap_part,
        "anchor_based_regression": masked_sum(regression, matches.positive),
    }


def total_loss(
    parts: dict[str, tf.Tensor],
    *,
    anchor_based_weight: float = 1.0,
    anchor_free_classification_weight: float = 30.0,
    overlap_weight: float = 10.0,
    anchor_regression_weight: float = 10.0,
) -> tf.Tensor:
    """L = Laf_reg + g_af Laf_cls + g (Lab_cls + g_ab1 Lab_o + g_ab2 Lab_reg), of the parts there are (Eqs. 4, 5)."""
    weights = {
        "anchor_free_regression": 1.0,
        "anchor_free_classification": anchor_free_classification_weight,
        "anchor_based_classification": anchor_based_weight,
        "anchor_based_overlap": anchor_based_weight * overlap_weight,
        "anchor_based_regression": anchor_based_weight * anchor_regression_weight,
    }
    return tf.add_n([weights[name] * value for name, value in parts.items()])

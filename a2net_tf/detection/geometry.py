"""One-dimensional geometry: overlap of segments, centre/width, and the time base. Pure TensorFlow.

A segment is ``[start, end)``; every function accepts any unit as long as all arguments use the same one.
"""

import tensorflow as tf


def tiou(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Temporal intersection over union of matching segments.

    Args:
        first: f32[..., 2] start and end; broadcast against ``second``.
        second: f32[..., 2].

    Returns:
        f32[...] in [0, 1]; 0 where either segment is empty or reversed.
    """
    intersection = tf.minimum(first[..., 1], second[..., 1]) - tf.maximum(first[..., 0], second[..., 0])
    intersection = tf.maximum(intersection, 0.0)
    union = (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0]) - intersection
    valid = (first[..., 1] > first[..., 0]) & (second[..., 1] > second[..., 0])
    # Division by a safe number, not where() around a NaN: the gradient of the unchosen side would be NaN too.
    return tf.where(valid, intersection / tf.where(valid, union, 1.0), 0.0)


def pairwise_tiou(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """tIoU of each segment of ``first`` f32[..., N, 2] with each of ``second`` f32[..., M, 2]: f32[..., N, M]."""
    return tiou(first[..., :, None, :], second[..., None, :, :])


def to_center_width(segments: tf.Tensor) -> tf.Tensor:
    """f32[..., 2] (start, end) -> f32[..., 2] (centre, width)."""
    start, end = segments[..., 0], segments[..., 1]
    return tf.stack([(start + end) / 2, end - start], axis=-1)


def from_center_width(center_width: tf.Tensor) -> tf.Tensor:
    """f32[..., 2] (centre, width) -> f32[..., 2] (start, end)."""
    center, width = center_width[..., 0], center_width[..., 1]
    return tf.stack([center - width / 2, center + width / 2], axis=-1)


def steps_to_seconds(steps: tf.Tensor, seconds_per_step: tf.Tensor, first_step_seconds: tf.Tensor) -> tf.Tensor:
    """Position in feature steps -> seconds; step 0 begins at ``first_step_seconds``. Arguments broadcast."""
    return first_step_seconds + steps * seconds_per_step


def seconds_to_steps(seconds: tf.Tensor, seconds_per_step: tf.Tensor, first_step_seconds: tf.Tensor) -> tf.Tensor:
    """Seconds -> position in feature steps (not rounded); the inverse of ``steps_to_seconds``."""
    return (seconds - first_step_seconds) / seconds_per_step

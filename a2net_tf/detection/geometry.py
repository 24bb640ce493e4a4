"""One-dimensional geometry: overlap of segments, centre/width, means over segments, and the time base. Pure TensorFlow.

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


def running_sums(values: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Sums of f32[B, T, C] over the steps before each step, and over all: [B, T + 1, C] of ``dtype``."""
    return tf.cumsum(tf.pad(tf.cast(values, dtype), [[0, 0], [1, 0], [0, 0]]), axis=1)


def segment_means(values: tf.Tensor, sums: tf.Tensor, segments: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """The mean over each segment of one column of a function that is constant within a step.

    Args:
        values: f32[B, T, C], of each step.
        sums: of ``running_sums``; in float64 the length of a sequence does not matter.
        segments: f32[B, N, 2] in steps, within [0, T]; ends may lie within a step, which then counts in part.
        columns: i32[B, N], which of the C.

    Returns:
        f32[B, N]; 0 where a segment is empty or reversed.
    """
    batch, steps, width = tf.unstack(tf.shape(values, out_type=tf.int64))
    first, columns = tf.range(batch)[:, None], tf.cast(columns, tf.int64)

    def up_to(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        below = tf.minimum(tf.cast(position, tf.int64), steps - 1)
        value = tf.gather(tf.reshape(values, [-1]), (first * steps + below) * width + columns)
        within = (position - tf.cast(below, tf.float32)) * value
        return tf.gather(tf.reshape(sums, [-1]), (first * (steps + 1) + below) * width + columns), within

    (sum_to_start, start), (sum_to_end, end) = up_to(segments[..., 0]), up_to(segments[..., 1])
    # Whole steps apart from parts of steps: within one step the large sums must not be seen.
    total = tf.cast(sum_to_end - sum_to_start, tf.float32) + (end - start)
    length = segments[..., 1] - segments[..., 0]
    return tf.where(length > 0, total / tf.where(length > 0, length, 1.0), 0.0)

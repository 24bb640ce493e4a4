"""Cutting a sequence into windows, inside the graph. The same for training, evaluation and exported models. Pure."""

from collections.abc import Callable

import tensorflow as tf


def window_starts(num_steps: tf.Tensor, *, window_steps: int, stride_steps: int) -> tf.Tensor:
    """First steps of the windows of a sequence: every ``stride_steps``, and one flush with the end.

    Args:
        num_steps: i32[] >= 1, T of the sequence. A sequence shorter than a window has the one window [0].
        window_steps: steps of a window.
        stride_steps: from one window to the next.

    Returns:
        i32[N], increasing, N >= 1.
    """
    last = tf.maximum(num_steps - window_steps, 0)
    # The grid up to `last`, with `last` itself exactly once.
    return tf.concat([tf.range(0, last, stride_steps), [last]], axis=0)


def side_by_side(starts: tf.Tensor, window_steps: int, stride_steps: int) -> tf.Tensor:
    """Those of ``window_starts`` that see every step with as little overlap as the stride allows, and the last one."""
    apart = max(window_steps // stride_steps, 1) * stride_steps
    return tf.boolean_mask(starts, (starts % apart == 0) | (starts == starts[-1]))


def of_each(starts_of: Callable[[tf.Tensor], tf.Tensor], num_steps: tf.Tensor) -> tf.RaggedTensor:
    """First steps of windows of each of several sequences, of i32[B]: i32[B, N]."""
    return tf.map_fn(
        lambda n: tf.RaggedTensor.from_tensor(starts_of(n)[None]),
        num_steps,
        fn_output_signature=tf.RaggedTensorSpec((1, None), tf.int32),
    ).merge_dims(1, 2)


def owned_starts(starts: tf.Tensor, chunk_start_step: tf.Tensor, chunk_owned_steps: tf.Tensor) -> tf.Tensor:
    """Those of ``starts`` (i32[N], in the whole sequence) that a chunk owns, relative to the chunk's first step."""
    owned = (starts >= chunk_start_step) & (starts < chunk_start_step + chunk_owned_steps)
    return tf.boolean_mask(starts, owned) - chunk_start_step


def cut_windows(features: tf.Tensor, starts: tf.Tensor, window_steps: int) -> tf.Tensor:
    """Windows of ``features`` f32[T, D] at ``starts`` i32[N]: f32[N, window_steps, D].

    Steps beyond the end repeat the last vector.
    """
    steps = starts[:, None] + tf.range(window_steps)
    return tf.gather(features, tf.minimum(steps, tf.shape(features)[0] - 1))


def clip_actions(
    segments: tf.Tensor, starts: tf.Tensor, *, window_steps: int | tf.Tensor, min_inside: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Which actions belong to which window, and where in it.

    Args:
        segments: f32[G, 2] start and end in steps of the sequence.
        starts: i32[N] first step of each window.
        window_steps: steps of a window, or f32[N] of each window.
        min_inside: share of an action that must lie inside a window for it to count.

    Returns:
        f32[N, G, 2] clipped segments in fractions of the window, and bool[N, G] whether the action counts.
    """
    relative = segments[None] - tf.cast(starts, segments.dtype)[:, None, None]  # N, G, 2
    lengths = tf.reshape(tf.cast(window_steps, segments.dtype), [-1, 1, 1])  # N or 1
    clipped = tf.clip_by_value(relative, 0.0, lengths)
    inside = clipped[..., 1] - clipped[..., 0]
    length = segments[:, 1] - segments[:, 0]
    # The tolerance is for rounding: an action that fits exactly must count at min_inside = 1.
    kept = (inside > 0) & (inside >= (min_inside - 1e-5) * length)
    return clipped / lengths, kept


def add_windows(
    total: tf.Tensor, values: tf.Tensor, *, sequence: tf.Tensor, starts: tf.Tensor, num_steps: tf.Tensor
) -> tf.Tensor:
    """Adds what windows say of their steps to what is known of the steps of sequences.

    Args:
        total: f32[B, T, V].
        values: f32[N, W, V], of each step of each window.
        sequence: i32[N], of each window.
        starts: i32[N], the first step of each window.
        num_steps: i32[B]; what a window says of steps beyond the end of its sequence is left out.

    Returns:
        f32[B, T, V].
    """
    steps = starts[:, None] + tf.range(tf.shape(values)[1])
    last = tf.gather(num_steps, sequence)[:, None] - 1
    values = tf.where((steps <= last)[..., None], values, 0.0)
    rows = tf.broadcast_to(sequence[:, None], tf.shape(steps))
    return tf.tensor_scatter_nd_add(total, tf.stack([rows, tf.minimum(steps, last)], axis=-1), values)


def check_sequences(features: tf.Tensor, num_steps: tf.Tensor, seconds_per_step: tf.Tensor) -> list[tf.Operation]:
    """Graph checks of sequences that answer a bad request with an error status instead of nonsense."""
    steps = tf.shape(features)[1]
    return [
        tf.debugging.assert_positive(num_steps, "num_steps must be at least 1: an empty sequence has no detections"),
        tf.debugging.assert_less_equal(num_steps, steps, "num_steps exceeds the steps of features"),
        tf.debugging.Assert(
            # Times the steps: an end beyond the largest float32 would be answered as infinite.
            tf.reduce_all((seconds_per_step > 0) & tf.math.is_finite(seconds_per_step * tf.cast(steps, tf.float32))),
            ["seconds_per_step must be > 0 and finite, got", seconds_per_step],
        ),
        tf.debugging.assert_equal(
            tf.shape(num_steps)[0], tf.shape(features)[0], "num_steps needs one value per sequence"
        ),
        tf.debugging.assert_equal(
            tf.shape(seconds_per_step)[0], tf.shape(features)[0], "seconds_per_step needs one value per sequence"
        ),
    ]

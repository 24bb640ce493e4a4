"""Pooling of proposals from a volume of features, as R-C3D has it. Pure.

A bin is the maximum over the steps, rows and columns that it touches; neighbouring bins share what lies between them.
"""

import numpy as np
import tensorflow as tf

BINS = (4, 2, 2)  # steps, rows, columns


def pool(volume: tf.Tensor, segments: tf.Tensor, frames_per_step: int) -> tf.Tensor:
    """The maximum in each of 4 x 2 x 2 bins of each segment, whole frames high and wide.

    Ends are rounded to steps as R-C3D does it: from the step that the first frame is nearest to, to that which the last
    frame is nearest to, and at least one step. What lies outside the window is left out; a bin with nothing is 0.

    Args:
        volume: f[B, T, H, W, C].
        segments: f32[B, R, 2], fractions of the window.
        frames_per_step: of the video.

    Returns:
        f[B, R, 4 * 2 * 2 * C], by step, row, column and channel.
    """
    places = _pool_places(volume)  # B, T, 2 * 2 * C
    steps, values = places.shape[1:]
    starts, ends = _bins(segments, steps, frames_per_step)  # B, R, 4
    number = segments.shape[1] * BINS[0]
    found = _largest_between(places, tf.reshape(starts, (-1, number)), tf.reshape(ends, (-1, number)))
    return tf.reshape(found, (-1, segments.shape[1], BINS[0] * values))


def _pool_places(volume: tf.Tensor) -> tf.Tensor:
    """The maximum over rows and columns of each bin of a picture: [B, T, H, W, C] -> [B, T, 2 * 2 * C]."""
    _, steps, height, width, channels = volume.shape
    parts = [
        tf.reduce_max(volume[:, :, top:bottom, left:right], axis=(2, 3))
        for top, bottom in _edges(height, BINS[1])
        for left, right in _edges(width, BINS[2])
    ]
    return tf.reshape(tf.stack(parts, axis=2), (-1, steps, len(parts) * channels))


def _edges(length: int, bins: int) -> list[tuple[int, int]]:
    """From where to where each bin reaches."""
    return [(i * length // bins, -(-(i + 1) * length // bins)) for i in range(bins)]


def _bins(segments: tf.Tensor, steps: int, frames_per_step: int) -> tuple[tf.Tensor, tf.Tensor]:
    """First steps of bins, and the steps behind their last ones: i32[B, R, 4] each."""
    first = tf.floor(segments[..., 0] * steps + 0.5)
    last = tf.floor(segments[..., 1] * steps - 1.0 / frames_per_step + 0.5)
    length = tf.maximum(last - first + 1.0, 1.0)[..., None]
    numbers = np.arange(BINS[0] + 1, dtype=np.float32) / BINS[0]
    starts = first[..., None] + tf.floor(numbers[:-1] * length)
    ends = first[..., None] + tf.math.ceil(numbers[1:] * length)
    return tuple(tf.cast(tf.clip_by_value(edge, 0.0, float(steps)), tf.int32) for edge in (starts, ends))


def _largest_between(values: tf.Tensor, starts: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
    """The maximum of f[B, T, C] over the steps [start, end) of each stretch i32[B, N]; 0 over none: f[B, N, C].

    Of two stretches, each as long as a power of two, which together are the one that is asked for: their maxima are
    made once for all places. So long stretches cost no more than short ones, and all sizes are static.
    """
    steps, length = values.shape[1], 1
    doubled = [values]  # [k][t]: over the 2**k steps from t on; at the end fewer, which nobody asks for
    while 2 * length <= steps:
        shifted = tf.concat([doubled[-1][:, length:], doubled[-1][:, -length:]], axis=1)
        doubled.append(tf.maximum(doubled[-1], shifted))
        length *= 2
    number = tf.maximum(ends - starts, 1)
    powers = 2 ** np.arange(1, len(doubled))
    level = tf.reduce_sum(tf.cast(number[..., None] >= powers, tf.int32), axis=-1)
    size = tf.bitwise.left_shift(tf.ones_like(level), level)
    table, last = tf.concat(doubled, axis=1), steps - 1
    first_part = tf.gather(table, level * steps + tf.minimum(starts, last), batch_dims=1)
    second_part = tf.gather(table, level * steps + tf.clip_by_value(ends - size, 0, last), batch_dims=1)
    return tf.where((ends > starts)[..., None], tf.maximum(first_part, second_part), 0)

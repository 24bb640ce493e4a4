"""Random numbers that depend on a seed alone, however many devices share a batch. Pure."""

from collections.abc import Sequence

import tensorflow as tf


def uniform(shape: Sequence[int | tf.Tensor], seed: tf.Tensor, part: tuple[int | tf.Tensor, int] = (0, 1)) -> tf.Tensor:
    """Uniform numbers in [0, 1) for some windows of a batch.

    They are drawn for the whole batch, so that a window's numbers do not depend on how many devices share it.

    Args:
        shape: of the windows at hand: B, ...
        seed: i32[2].
        part: which of how many equal parts of a batch these windows are; (1, 4) is its second quarter.

    Returns:
        f32[*shape].
    """
    (index, num_parts), (num_windows, *rest) = part, shape
    draws = tf.random.stateless_uniform((num_parts * num_windows, *rest), seed)
    return draws[index * num_windows : (index + 1) * num_windows]

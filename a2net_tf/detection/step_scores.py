"""What the classes of steps (``--step_classifier``) say of candidates: the scores are multiplied with it."""

import functools
from collections.abc import Callable

import tensorflow as tf

from a2net_tf.detection import geometry
from a2net_tf.detection.postprocess import Candidates

_SCORED_AT_ONCE = 2**18  # candidates: their numbers in 64 bits take some tens of MB


def scored(candidates: Candidates, seen: tf.Tensor, num_steps: tf.Tensor, exponent: tf.Tensor | float) -> Candidates:
    """Candidates of whole sequences, scored by the classes of their steps.

    Args:
        candidates: [B, N, ...], in steps.
        seen: f32[B, T, 1 + C]: of each step, how many windows see it, and the sums of their probabilities.
        num_steps: i32[B].
        exponent: ``--step_exponent``.

    Returns:
        The same with scores times the mean probability of their class, to the power of ``exponent``.
    """
    steps = seen[..., 1:] / tf.maximum(seen[..., :1], 1.0)
    sums = geometry.running_sums(steps, tf.float64)
    inside = tf.clip_by_value(candidates.segments, 0.0, tf.cast(num_steps, tf.float32)[:, None, None])
    total = tf.shape(candidates.scores)[1]
    count = (total + _SCORED_AT_ONCE - 1) // _SCORED_AT_ONCE
    shares = tf.TensorArray(tf.float32, size=count, infer_shape=False, element_shape=(None, None))

    def score(i, shares):
        part = slice(i * _SCORED_AT_ONCE, tf.minimum((i + 1) * _SCORED_AT_ONCE, total))
        of_part = share(steps, sums, inside[:, part], candidates.class_ids[:, part], exponent)
        return i + 1, shares.write(i, tf.transpose(of_part))

    _, shares = tf.while_loop(lambda i, _: i < count, score, (0, shares), parallel_iterations=1)
    return candidates._replace(scores=candidates.scores * tf.transpose(shares.concat()))


def share(
    steps: tf.Tensor, sums: tf.Tensor, segments: tf.Tensor, class_ids: tf.Tensor, exponent: tf.Tensor | float
) -> tf.Tensor:
    """What the scores of candidates are multiplied with: f32[B, N].

    Args:
        steps: f32[B, T, C], probabilities.
        sums: their ``geometry.running_sums``.
        segments: f32[B, N, 2] in steps, inside the sequence.
        class_ids: i32[B, N].
        exponent: ``--step_exponent``.
    """
    means = geometry.segment_means(steps, sums, segments, class_ids)
    return tf.pow(tf.maximum(means, 0.0), exponent)  # rounding may leave a little less than 0


@functools.cache
def graph_of_scored() -> Callable[..., Candidates]:
    """``scored`` as a graph for any exponent and any number of classes."""
    candidates = Candidates(
        tf.TensorSpec((None, None, 2), tf.float32),
        tf.TensorSpec((None, None), tf.float32),
        tf.TensorSpec((None, None), tf.int32),
    )
    others = [((None, None, None), tf.float32), ((None,), tf.int32), ((), tf.float32)]
    return tf.function(
        scored, input_signature=[candidates, *(tf.TensorSpec(*other) for other in others)], autograph=False
    )

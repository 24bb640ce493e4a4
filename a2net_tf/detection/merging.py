"""From the candidates of whole sequences to detections in seconds: scored by the classes of their steps, merged,
suppressed and voted on.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from a2net_tf.detection import geometry
from a2net_tf.detection.postprocess import Candidates, Detections, Number, suppress_sequences

_SCORED_AT_ONCE = 2**18  # candidates: their numbers in 64 bits take some tens of MB
# Of suppression, in the order in which ``graph_of`` takes them.
NUMBERS = ("tiou", "min_score", "soft_sigma", "voting_tiou")

_ANY_CANDIDATES = Candidates(
    tf.TensorSpec((None, None, 2), tf.float32),
    tf.TensorSpec((None, None), tf.float32),
    tf.TensorSpec((None, None), tf.int32),
)


def weighted(scores: tf.Tensor, segments: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Scores as they enter suppression: times their branch's merge weight, and 0 for empty or reversed segments.

    Args:
        scores: f32[B, N], N a multiple of P.
        segments: f32[B, N, 2] clipped to the sequence or window.
        weights: f32[P], of a window's candidates.
    """
    by_window = tf.reshape(scores, (tf.shape(scores)[0], -1, tf.shape(weights)[0]))
    return tf.where(segments[..., 1] > segments[..., 0], tf.reshape(by_window * weights, tf.shape(scores)), 0.0)


def merge(
    candidates: Candidates,
    num_steps: tf.Tensor,
    seconds_per_step: tf.Tensor,
    first_step_seconds: tf.Tensor,
    weights: tf.Tensor,
    *,
    suppression: Mapping[str, Number],
    limits: tf.Tensor | None = None,
    also: Sequence[int] = (),
) -> Detections:
    """Merges and suppresses the candidates of each sequence, and lets them vote on boundaries if that is set.

    Args:
        candidates: in steps, [B, N, ...], N a multiple of P.
        num_steps: i32[B]; segments are clipped to the sequence.
        seconds_per_step: f32[B].
        first_step_seconds: f32[B].
        weights: f32[P], merge weights of a window's candidates.
        suppression: keyword arguments of ``suppress_sequences``.
        limits: i32[B], the most detections of each sequence, with the greatest of them as ``max_detections``; None: as
            many of each as ``suppression`` says.
        also: of each class another that its detections have too, or -1; none at all where it is empty.

    Returns:
        Detections in seconds.
    """
    segments = tf.clip_by_value(candidates.segments, 0.0, tf.cast(num_steps, tf.float32)[:, None, None])
    scores = weighted(candidates.scores, segments, weights)
    detections = suppress_sequences(Candidates(segments, scores, candidates.class_ids), **suppression)
    if max(also, default=-1) >= 0:
        detections = _report_also(detections, also)
    if limits is not None:
        detections = _best(detections, limits)
    there = tf.range(tf.shape(detections.scores)[1]) < detections.num_detections[:, None]
    seconds = geometry.steps_to_seconds(
        detections.segments, seconds_per_step[:, None, None], first_step_seconds[:, None, None]
    )
    return detections._replace(segments=tf.where(there[..., None], seconds, 0.0))


def _report_also(detections: Detections, also: Sequence[int]) -> Detections:
    """Adds a copy of each detection whose class implies another, as that other class; the best K of all stay."""
    other = tf.gather(tf.constant(also), detections.class_ids)  # B, K
    scores = tf.concat([detections.scores, tf.where(other >= 0, detections.scores, 0.0)], axis=1)
    scores, order = tf.math.top_k(scores, k=tf.shape(detections.scores)[1])
    segments = tf.gather(tf.concat([detections.segments, detections.segments], axis=1), order, batch_dims=1)
    class_ids = tf.gather(tf.concat([detections.class_ids, tf.maximum(other, 0)], axis=1), order, batch_dims=1)
    class_ids = tf.where(scores > 0, class_ids, 0)
    return Detections(segments, scores, class_ids, tf.reduce_sum(tf.cast(scores > 0, tf.int32), axis=1))


def _best(detections: Detections, limits: tf.Tensor) -> Detections:
    """The first ``limits`` i32[B] of each sequence's detections [B, K, ...]; the rest becomes padding."""
    there = tf.range(tf.shape(detections.scores)[1]) < limits[:, None]
    return Detections(
        tf.where(there[..., None], detections.segments, 0.0),
        tf.where(there, detections.scores, 0.0),
        tf.where(there, detections.class_ids, 0),
        tf.minimum(detections.num_detections, limits),
    )


@functools.cache
def graph_of(soft: bool, voting: bool, also: tuple[int, ...]) -> Callable[..., Detections]:
    """``merge`` as a graph for any numbers, of any network: making it is most of a short evaluation.

    Args:
        soft: Soft-NMS, so ``soft_sigma`` > 0.
        voting: ``voting_tiou`` > 0.
        also: as ``merge`` takes it.

    Returns:
        A function of the arguments of ``merge`` up to ``weights``, ``limits`` and f64[4], the NUMBERS of suppression.
        In float64, as Python computes with them: graphs with constants give the same to the last bit.
    """

    def run(candidates, num_steps, seconds_per_step, first_step_seconds, weights, limits, numbers):
        suppression = dict(zip(NUMBERS, tf.unstack(numbers), strict=True))
        suppression |= {"max_detections": tf.reduce_max(limits)}
        suppression |= {} if soft else {"soft_sigma": 0.0}
        suppression |= {} if voting else {"voting_tiou": 0.0}
        base = (candidates, num_steps, seconds_per_step, first_step_seconds, weights)
        return merge(*base, suppression=suppression, limits=limits, also=also)

    signature = [
        _ANY_CANDIDATES,
        tf.TensorSpec((None,), tf.int32),
        *[tf.TensorSpec((None,), tf.float32)] * 3,
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((len(NUMBERS),), tf.float64),
    ]
    return tf.function(run, input_signature=signature, autograph=False)


def scored(candidates: Candidates, seen: tf.Tensor, num_steps: tf.Tensor, exponent: Number) -> Candidates:
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


def share(steps: tf.Tensor, sums: tf.Tensor, segments: tf.Tensor, class_ids: tf.Tensor, exponent: Number) -> tf.Tensor:
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
    others = [((None, None, None), tf.float32), ((None,), tf.int32), ((), tf.float32)]
    return tf.function(
        scored, input_signature=[_ANY_CANDIDATES, *(tf.TensorSpec(*other) for other in others)], autograph=False
    )

"""What the network should have said: cell assignment, anchor matching, choice of negatives. Pure and vectorised.

Ground truth comes padded: segments f32[B, G, 2] in fractions of the window, labels i32[B, G] with 0 for padding and
class ids 1..C (0 is also the label of background).
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from a2net_tf.detection import draws, geometry

# Actions that overlap this much are one action with several classes.
_SAME_ACTION_TIOU = 0.95


class CellTargets(NamedTuple):
    """Targets of the anchor-free branch."""

    labels: tf.Tensor  # i32[B, L], 0 = background
    distances: tf.Tensor  # f32[B, L, 2], to start and end in grid units; 0 at background cells
    segments: tf.Tensor  # f32[B, L, 2], the action of each cell, fractions of the window; 0 at background cells


class AnchorMatches(NamedTuple):
    """Best ground truth of each anchor."""

    overlap: tf.Tensor  # f32[B, A], tIoU of the prediction with the best ground truth, 0 if there is none
    labels: tf.Tensor  # i32[B, A], class of the best ground truth, 0 unless positive
    segments: tf.Tensor  # f32[B, A, 2], the best ground truth, fractions of the window
    positive: tf.Tensor  # bool[B, A]


def without_padding(segments: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts f32[B, G, 2] segments and i32[B, G] labels behind the last action of any window: less to compare with."""
    places = tf.range(1, tf.shape(labels)[1] + 1)
    most = tf.maximum(tf.reduce_max(tf.where(labels > 0, places, 0)), 0)  # G = 0 has no largest place
    return segments[:, :most], labels[:, :most]


def assign_levels(lengths: tf.Tensor, num_levels: int) -> tf.Tensor:
    """0-based pyramid level of actions by length in grid units: [0, 2) -> 0, [2**i, 2**(i+1)) -> i.

    The last level also takes whatever is longer: an action that fills the window (64 units) belongs to level 6.
    """
    # Comparisons, not a logarithm: log(8) / log(2) is not 3 in float32.
    bounds = tf.constant([2.0**i for i in range(1, num_levels)])
    return tf.reduce_sum(tf.cast(lengths[..., None] >= bounds, tf.int32), axis=-1)


def assign_cells(
    segments: tf.Tensor,
    labels: tf.Tensor,
    *,
    centers: tf.Tensor,
    levels: np.ndarray,
    grid_units: int,
) -> CellTargets:
    """Assigns ground truths to pyramid cells (Section III-D, Eqs. 2 and 3).

    A cell is foreground if its centre lies in [start, end) of an action whose length belongs to the cell's level; where
    several do, the shortest is taken.

    Args:
        segments: f32[B, G, 2], fractions of the window.
        labels: i32[B, G], 0 = padding.
        centers: f32[L] cell centres in grid units.
        levels: i32[L] 0-based level of each cell.
        grid_units: of one window (64 for 128 steps).
    """
    segments = segments * float(grid_units)
    length = segments[..., 1] - segments[..., 0]  # B, G
    action_level = assign_levels(length, int(levels.max()) + 1)  # B, G
    inside = (segments[:, None, :, 0] <= centers[:, None]) & (centers[:, None] < segments[:, None, :, 1])  # B, L, G
    candidate = inside & (action_level[:, None] == levels[:, None]) & (labels[:, None] > 0)  # B, L, G
    cost = tf.where(candidate, length[:, None], tf.float32.max)
    # A column that never wins keeps argmin and gather legal when a batch has room for no action at all (G = 0).
    cost = tf.pad(cost, [[0, 0], [0, 0], [0, 1]], constant_values=tf.float32.max)
    best = tf.argmin(cost, axis=-1, output_type=tf.int32)  # B, L
    foreground = tf.reduce_any(candidate, axis=-1)  # B, L
    chosen = tf.gather(tf.pad(segments, [[0, 0], [0, 1], [0, 0]]), best, batch_dims=1)  # B, L, 2
    distances = tf.stack([centers - chosen[..., 0], chosen[..., 1] - centers], axis=-1)
    cell_labels = tf.gather(tf.pad(labels, [[0, 0], [0, 1]]), best, batch_dims=1)
    return CellTargets(
        tf.where(foreground, cell_labels, 0),
        tf.where(foreground[..., None], distances, 0.0),
        tf.where(foreground[..., None], chosen / float(grid_units), 0.0),
    )


def match_anchors(
    predicted: tf.Tensor,
    segments: tf.Tensor,
    labels: tf.Tensor,
    *,
    min_tiou: float = 0.5,
    defaults: tf.Tensor | None = None,
    force: bool = False,
) -> AnchorMatches:
    """Matches anchors with ground truth: positive where the best tIoU > ``min_tiou`` (Section III-C).

    No gradient flows through the matching.

    Args:
        predicted: f32[B, A, 2] decoded anchors, fractions of the window. They are what is matched, unless there are
            ``defaults``; their overlap is what the network should predict in any case.
        segments: f32[B, G, 2], fractions of the window.
        labels: i32[B, G], 0 = padding.
        min_tiou: overlap that an anchor must exceed.
        defaults: f32[A, 2] start and end of the default anchors, to match these instead of the predictions.
        force: the best anchor of each ground truth is positive whatever its overlap, as long as there is any.
    """
    overlaps = _overlaps(tf.stop_gradient(predicted), segments, labels)  # B, A, G + 1
    judged = overlaps if defaults is None else _overlaps(tf.convert_to_tensor(defaults)[None], segments, labels)
    positive = tf.reduce_max(judged, axis=-1) > min_tiou
    if force:
        forced = _best_of_each_action(judged)
        positive |= tf.reduce_any(forced, axis=-1)
        judged += 2.0 * tf.cast(forced, tf.float32)  # whoever is forced comes before whoever overlaps more
    best = tf.argmax(judged, axis=-1, output_type=tf.int32)  # B, A
    overlap = tf.reduce_max(overlaps, axis=-1)
    if defaults is not None or force:
        overlap = tf.where(positive, tf.gather(overlaps, best, batch_dims=2), overlap)
    matched_labels = tf.gather(tf.pad(labels, [[0, 0], [0, 1]]), best, batch_dims=1)
    matched = tf.gather(tf.pad(segments, [[0, 0], [0, 1], [0, 0]]), best, batch_dims=1)
    return AnchorMatches(overlap, tf.where(positive, matched_labels, 0), matched, positive)


def _overlaps(anchors: tf.Tensor, segments: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """f32[B, A, G + 1]: tIoU of f32[B or 1, A, 2] with f32[B, G, 2]; 0 with padding and, legal for G = 0, the last."""
    overlaps = tf.where(labels[:, None] > 0, geometry.pairwise_tiou(anchors, segments), 0.0)
    return tf.pad(overlaps, [[0, 0], [0, 0], [0, 1]])


def _best_of_each_action(overlaps: tf.Tensor) -> tf.Tensor:
    """bool[B, A, G]: whether an anchor is the (first) one that overlaps an action most, and at all."""
    best = tf.argmax(overlaps, axis=1, output_type=tf.int32)  # B, G
    is_best = tf.range(tf.shape(overlaps)[1])[None, :, None] == best[:, None]
    return is_best & (overlaps > 0)


def classes_of(chosen: tf.Tensor, segments: tf.Tensor, labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Every class of the actions that cells or anchors were given: an action may be annotated with several.

    Args:
        chosen: f32[B, N, 2] the action of each cell or anchor, fractions of the window; empty where there is none.
        segments: f32[B, G, 2], all actions.
        labels: i32[B, G], 0 = padding.
        num_classes: C.

    Returns:
        f32[B, N, C], 1 for the classes of all actions that are the chosen one (tIoU above 0.95), else 0.
    """
    same = (geometry.pairwise_tiou(chosen, segments) > _SAME_ACTION_TIOU) & (labels[:, None] > 0)  # B, N, G
    counts = tf.matmul(tf.cast(same, tf.float32), tf.one_hot(labels - 1, num_classes))
    return tf.minimum(counts, 1.0)


def choose_negatives(
    matches: AnchorMatches,
    predicted_overlap: tf.Tensor,
    *,
    ratio: float,
    seed: tf.Tensor,
    min_tiou: float = 0.5,
    part: tuple[int, int] = (0, 1),
) -> tf.Tensor:
    """Chooses the negatives that take part in the anchor-based losses.

    All hard negatives (predicted overlap > ``min_tiou`` although nothing matches), plus easy ones drawn at random so
    that their expected number is ``ratio`` times the positives of the *same window*; in a window without positives,
    half of them. The draw depends on the window and its place in the batch only, not on what else the batch holds.

    Args:
        matches: of ``match_anchors``.
        predicted_overlap: f32[B, A], the network's overlap output.
        ratio: easy negatives per positive.
        seed: i32[2] of the stateless draw.
        min_tiou: the bound of ``match_anchors``.
        part: which of how many equal parts of a batch these windows are; (1, 4) is its second quarter.

    Returns:
        bool[B, A].
    """
    negative = ~matches.positive
    hard = negative & (tf.stop_gradient(predicted_overlap) > min_tiou)
    easy = negative & ~hard
    num_positive = tf.reduce_sum(tf.cast(matches.positive, tf.float32), axis=1, keepdims=True)  # B, 1
    num_easy = tf.reduce_sum(tf.cast(easy, tf.float32), axis=1, keepdims=True)  # B, 1
    probability = tf.where(num_positive > 0, ratio * num_positive / tf.maximum(num_easy, 1.0), 0.5)
    return hard | (easy & (draws.uniform(tf.unstack(tf.shape(easy)), seed, part) < probability))


def label_steps(positions: tf.Tensor, segments: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The class of each position in time; where actions overlap, the shorter one's: it is the rarer sight.

    Args:
        positions: f32[T], the middles of steps.
        segments: f32[G, 2] in the same unit; G may be 0.
        labels: i32[G], class ids.

    Returns:
        i32[T]: class id + 1, or 0 where there is no action.
    """
    # An empty action at the end, which holds no position: of no actions at all there is no shortest one.
    segments, labels = tf.pad(segments, [[0, 1], [0, 0]]), tf.pad(labels, [[0, 1]], constant_values=-1)
    start, end = segments[:, 0], segments[:, 1]
    inside = (positions[:, None] >= start) & (positions[:, None] < end)
    shortest = tf.argmin(tf.where(inside, end - start, np.inf), axis=1)
    return tf.where(tf.reduce_any(inside, axis=1), tf.gather(labels, shortest) + 1, 0)

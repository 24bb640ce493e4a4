"""What the network should have said: cell assignment, anchor matching, choice of negatives. Pure and vectorised.

Ground truth comes padded: segments f32[B, G, 2] in fractions of the window, labels i32[B, G] with 0 for padding and
class ids 1..C (0 is also the label of background).
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from a2net_tf import segments as geometry


class CellTargets(NamedTuple):
    """Targets of the anchor-free head."""

    labels: tf.Tensor  # i32[B, L], 0 = background
    distances: tf.Tensor  # f32[B, L, 2], to start and end in grid units; 0 at background cells


class AnchorMatches(NamedTuple):
    """Best ground truth of each anchor, judged by the anchor's current prediction."""

    overlap: tf.Tensor  # f32[B, A], tIoU with the best ground truth, 0 if there is none
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
    segments: tf.Tensor, labels: tf.Tensor, *, centers: tf.Tensor, levels: np.ndarray, grid_units: int
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
    return CellTargets(tf.where(foreground, cell_labels, 0), tf.where(foreground[..., None], distances, 0.0))


def match_anchors(
    predicted: tf.Tensor, segments: tf.Tensor, labels: tf.Tensor, *, min_tiou: float = 0.5
) -> AnchorMatches:
    """Matches anchor *predictions* with ground truth: positive where the best tIoU > ``min_tiou`` (Section III-C).

    No gradient flows through the matching.

    Args:
        predicted: f32[B, A, 2] decoded anchors, fractions of the window.
        segments: f32[B, G, 2], fractions of the window.
        labels: i32[B, G], 0 = padding.
        min_tiou: overlap that an anchor must exceed.
    """
    overlaps = geometry.pairwise_tiou(tf.stop_gradient(predicted), segments)  # B, A, G
    overlaps = tf.where(labels[:, None] > 0, overlaps, 0.0)
    overlaps = tf.pad(overlaps, [[0, 0], [0, 0], [0, 1]])  # legal for G = 0
    best = tf.argmax(overlaps, axis=-1, output_type=tf.int32)  # B, A
    overlap = tf.reduce_max(overlaps, axis=-1)  # B, A
    positive = overlap > min_tiou
    matched_labels = tf.gather(tf.pad(labels, [[0, 0], [0, 1]]), best, batch_dims=1)
    matched = tf.gather(tf.pad(segments, [[0, 0], [0, 1], [0, 0]]), best, batch_dims=1)
    return AnchorMatches(overlap, tf.where(positive, matched_labels, 0), matched, positive)


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
    index, num_parts = part
    num_windows, num_anchors = tf.unstack(tf.shape(easy))
    # Drawn for the whole batch, so that a window's draw does not depend on how many devices share the batch.
    draws = tf.random.stateless_uniform((num_parts * num_windows, num_anchors), seed)
    return hard | (easy & (draws[index * num_windows : (index + 1) * num_windows] < probability))

"""Geometry of the pyramid: cells, default anchors, and what the two branches' numbers mean. Pure.

Level ``i`` (0-based here) of a window of W steps has ``W / 2 / 2**i`` cells of ``2**i`` grid units; a grid unit is one
cell of the first level, i.e. 2 steps. An n-level pyramid is the first n levels. Everything is level-major.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from a2net_tf.detection import geometry

STEPS_PER_GRID_UNIT = 2
# How far an offset of 1 moves a proposal, as Fast R-CNN has it: alpha and beta of Eq. 1 for the second of two stages.
REFINEMENT_SCALES = (0.1, 0.2)

# exp(10) times an anchor is thousands of windows: only a diverged network gets there, and it must not make inf or NaN.
_MAX_LOG_WIDTH = 10.0


def level_lengths(window_steps: int, num_levels: int) -> list[int]:
    """Cells of each level: [64, 32, 16, 8, 4, 2] for 128 steps and six levels."""
    return [window_steps // STEPS_PER_GRID_UNIT // 2**i for i in range(num_levels)]


def cell_levels(window_steps: int, num_levels: int) -> np.ndarray:
    """i32[L]: the 0-based level of each cell."""
    return np.repeat(np.arange(num_levels, dtype=np.int32), level_lengths(window_steps, num_levels))


def cell_centers(window_steps: int, num_levels: int, first_level: int = 1) -> np.ndarray:
    """f32[L]: where each cell lies, in grid units: floor(s / 2) + j * s with stride s (Eq. 2).

    Those of levels before ``first_level`` (1-based) are left out.
    """
    centers = [2**i // 2 + 2**i * np.arange(n) for i, n in enumerate(level_lengths(window_steps, num_levels))]
    return np.concatenate(centers[first_level - 1 :]).astype(np.float32)


def default_anchors(window_steps: int, num_levels: int, ratios: Sequence[float], first_level: int = 1) -> np.ndarray:
    """f32[A, 2]: (centre, width) of each anchor in fractions of the window: ((i + 0.5) / n, ratio / n) on n cells.

    Levels before ``first_level`` (1-based) have none.
    """
    levels = []
    for n in level_lengths(window_steps, num_levels)[first_level - 1 :]:
        centers = np.repeat((np.arange(n) + 0.5) / n, len(ratios))
        widths = np.tile(np.asarray(ratios) / n, n)
        levels.append(np.stack([centers, widths], axis=-1))
    return np.concatenate(levels).astype(np.float32)


def decode_anchors(offsets: tf.Tensor, anchors: tf.Tensor, center_scale: float, width_scale: float) -> tf.Tensor:
    """Eq. 1: predicted offsets -> segments.

    Args:
        offsets: f32[..., A, 2] (delta centre, delta width) as the network gives them.
        anchors: f32[A, 2] (centre, width), fractions of the window; or any shape that broadcasts with the offsets.
        center_scale: alpha.
        width_scale: beta.

    Returns:
        f32[..., A, 2] start and end, fractions of the window (may lie outside [0, 1]).
    """
    center = anchors[..., 0] + center_scale * anchors[..., 1] * offsets[..., 0]
    width = anchors[..., 1] * tf.exp(tf.minimum(width_scale * offsets[..., 1], _MAX_LOG_WIDTH))
    return geometry.from_center_width(tf.stack([center, width], axis=-1))


def encode_anchors(segments: tf.Tensor, anchors: tf.Tensor, center_scale: float, width_scale: float) -> tf.Tensor:
    """Inverse of ``decode_anchors``: f32[..., A, 2] segments (end > start) -> f32[..., A, 2] offsets."""
    center_width = geometry.to_center_width(segments)
    delta_center = (center_width[..., 0] - anchors[..., 0]) / (center_scale * anchors[..., 1])
    delta_width = tf.math.log(center_width[..., 1] / anchors[..., 1]) / width_scale
    return tf.stack([delta_center, delta_width], axis=-1)


def decode_distances(distances: tf.Tensor, centers: tf.Tensor) -> tf.Tensor:
    """Inverse of Eq. 3: f32[..., L, 2] distances -> f32[..., L, 2] start and end, all in grid units."""
    return tf.stack([centers - distances[..., 0], centers + distances[..., 1]], axis=-1)

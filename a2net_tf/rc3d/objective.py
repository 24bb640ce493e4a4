"""What R-C3D's network learns from: its proposal network's targets, draws and losses; the second stage's are A2Net's.

Pure.
"""

import numpy as np
import tensorflow as tf

from a2net_tf.detection import draws, geometry, losses, pyramid, targets
from a2net_tf.detection.objective import Objective
from a2net_tf.settings import Config

_CHOSEN_ANCHORS = 64  # of a window, that the proposal network learns from
_BACKGROUND_TIOU = 0.3  # anchors with less are background
_SIGMA = 3.0  # of the smooth L1 of its offsets
_LEAST_DISTANCE = 0.5  # grid units, a frame: of nothing there is no logarithm


def objective_of(config: Config) -> Objective:
    """What training minimises with these settings."""
    return ProposalObjective(config) if config.looks_at_pixels else Objective(config)


class ProposalObjective(Objective):
    """``Objective`` of R-C3D's network: one level, no overlaps, negatives drawn by number."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.names = [name for name in self.names if not name.endswith("_overlap")]
        anchors = geometry.from_center_width(tf.constant(self._anchors)).numpy()
        inside = (anchors[:, 0] >= -1e-6) & (anchors[:, 1] <= 1.0 + 1e-6)
        # Those that reach beyond the window neither learn nor match: what is empty overlaps nothing.
        self._inside, self._default_segments = inside, np.where(inside[:, None], anchors, 0.0).astype(np.float32)

    def _anchor_based(
        self, outputs: dict, batch: dict, seed: tf.Tensor, part: tuple
    ) -> tuple[dict[str, losses.Sum], tf.Tensor]:
        config, logits = self.config, outputs["anchor_logits"]
        matches = targets.match_anchors(
            tf.broadcast_to(self._default_segments, outputs["anchor_offsets"].shape[1:])[None]
            + tf.zeros_like(outputs["anchor_offsets"]),
            batch["segments"],
            batch["labels"],
            min_tiou=config.match_tiou,
            force=True,
        )
        background = self._inside & ~matches.positive & (matches.overlap < _BACKGROUND_TIOU)
        positive, negative = choose_anchors(matches.positive, background, seed, part)
        chosen = positive | negative
        target = pyramid.encode_anchors(
            matches.segments, tf.constant(self._anchors), config.center_scale, config.width_scale
        )
        predicted = outputs["anchor_offsets"]
        target = tf.where(positive[..., None], target, tf.stop_gradient(predicted))
        error = tf.reduce_sum(losses.smooth_l1(predicted - target, _SIGMA), axis=-1)
        classification = losses.masked_sum(losses.cross_entropy(logits, matches.labels), chosen)
        regression = losses.masked_sum(error, positive)._replace(count=classification.count)
        return {"anchor_based_classification": classification, "anchor_based_regression": regression}, positive

    def _anchor_free(
        self, outputs: dict, batch: dict, seed: tf.Tensor, part: tuple
    ) -> tuple[dict[str, losses.Sum], tf.Tensor]:
        """All cells that lie in an action, and as many of the others; distances as logarithms."""
        distances = outputs["anchor_free_distances"]
        cells = targets.assign_cells(
            batch["segments"],
            batch["labels"],
            centers=self._centers,
            levels=np.zeros(len(self._centers), np.int32),  # the one level has actions of all lengths
            grid_units=self.config.window_steps // pyramid.STEPS_PER_GRID_UNIT,
        )
        foreground = cells.labels > 0
        number = tf.maximum(tf.reduce_sum(tf.cast(foreground, tf.int32), axis=1), 1)
        other = _draw(~foreground, number, tf.random.experimental.stateless_fold_in(seed, 2), part)
        surprise = losses.cross_entropy(outputs["anchor_free_logits"], cells.labels)
        target = tf.math.log(tf.maximum(cells.distances, _LEAST_DISTANCE))
        error = tf.reduce_sum(losses.smooth_l1(tf.math.log(distances) - target), axis=-1)
        return {
            "anchor_free_classification": losses.masked_sum(surprise, foreground | other),
            "anchor_free_regression": losses.masked_sum(error, foreground),
        }, foreground


def choose_anchors(
    positive: tf.Tensor, background: tf.Tensor, seed: tf.Tensor, part: tuple = (0, 1)
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws 64 anchors of each window, at most half of them positive, the rest background: two bool[B, A].

    Args:
        positive: bool[B, A].
        background: bool[B, A].
        seed: i32[2].
        part: which of how many equal parts of a batch these windows are.
    """
    positive = _draw(positive, _CHOSEN_ANCHORS // 2, seed, part)
    number = _CHOSEN_ANCHORS - tf.reduce_sum(tf.cast(positive, tf.int32), axis=1)
    return positive, _draw(background, number, tf.random.experimental.stateless_fold_in(seed, 1), part)


def _draw(usable: tf.Tensor, number: tf.Tensor | int, seed: tf.Tensor, part: tuple) -> tf.Tensor:
    """At most ``number`` (i32[B] or one for all) of bool[B, N], all alike: bool[B, N]."""
    drawn = draws.uniform(tf.unstack(tf.shape(usable)), seed, part)
    order = tf.argsort(tf.where(usable, drawn, 2.0), axis=1)
    ranks = tf.argsort(order, axis=1)
    return usable & (ranks < tf.reshape(number, (-1, 1)))

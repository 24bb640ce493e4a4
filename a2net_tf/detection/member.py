"""From windows to candidates: one trained network, or the average of several, and how its outputs are decoded."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from a2net_tf.detection import pyramid
from a2net_tf.detection.postprocess import Candidates, anchor_based_candidates, anchor_free_candidates
from a2net_tf.settings import Config


class Member(tf.Module):
    """One trained network, or the average of several, with its settings, as a source of candidates.

    Args:
        networks: of ``build_model`` for windows of W = ``config.inference_steps`` steps, with outputs of the same
            shapes; their raw outputs are averaged.
        config: of the (first) network's run.
    """

    def __init__(self, networks: Sequence[keras.Model], config: Config):
        super().__init__(name="member")
        self.networks = list(networks)
        self.config = config
        self._anchors = pyramid.default_anchors(config.inference_steps, config.num_levels, config.anchor_ratios)
        self._centers = pyramid.cell_centers(config.inference_steps, config.num_levels)
        origins = [[False] * len(self._centers)] * config.anchor_free + [
            [True] * len(self._anchors)
        ] * config.anchor_based
        self.is_anchor_based = np.repeat(np.concatenate(origins), config.classes_per_candidate)  # bool[P]

    @property
    def scores_steps(self) -> bool:
        """Whether the classes of steps have a say in the scores of candidates."""
        return self.config.step_classifier and self.config.step_exponent > 0

    def predict(self, features: tf.Tensor) -> tuple[Candidates, tf.Tensor | None]:
        """Candidates of windows f32[N, W, D] before suppression, in fractions of the window: [N, P, ...].

        And, with ``scores_steps``, the probability of each class at each step: f32[N, W, C].
        """
        each = [network(features, training=False) for network in self.networks]
        outputs = each[0] if len(each) == 1 else tf.nest.map_structure(lambda *same: tf.add_n(same) / len(same), *each)
        classes = {"class_scores": self.config.class_scores, "num_best": self.config.classes_per_candidate}
        parts = []
        if self.config.anchor_free:
            parts.append(
                anchor_free_candidates(
                    outputs["anchor_free_logits"],
                    outputs["anchor_free_distances"],
                    centers=self._centers,
                    grid_units=self.config.inference_steps // pyramid.STEPS_PER_GRID_UNIT,
                    **classes,
                )
            )
        if self.config.anchor_based:
            parts.append(
                anchor_based_candidates(
                    outputs["anchor_logits"],
                    outputs["anchor_overlap"],
                    pyramid.decode_anchors(
                        outputs["anchor_offsets"], self._anchors, self.config.center_scale, self.config.width_scale
                    ),
                    overlap_score=self.config.overlap_score,
                    max_background=self.config.max_background,
                    **classes,
                )
            )
        steps = tf.nn.softmax(outputs["step_logits"][:, -1])[..., 1:] if self.scores_steps else None
        return joined(parts), steps


def joined(parts: Sequence[Candidates]) -> Candidates:
    """All candidates of each window: several [N, P, ...] become one."""
    return Candidates(*(tf.concat(values, axis=1) for values in zip(*parts, strict=True)))

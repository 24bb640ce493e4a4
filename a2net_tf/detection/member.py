"""From windows to candidates: one trained network, or the average of several, and how its outputs are decoded."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from a2net_tf.detection import pyramid
from a2net_tf.detection.postprocess import Candidates
from a2net_tf.detection.proposals import branch_candidates, refined_candidates
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
        lengths = pyramid.level_lengths(config.inference_steps, config.num_levels)
        self._num_cells = sum(lengths[config.first_level - 1 :])
        free, based = self._numbers()
        origins = [[False] * free] * config.anchor_free + [[True] * based] * config.anchor_based
        self.is_anchor_based = np.repeat(np.concatenate(origins), config.classes_per_candidate)  # bool[P]

    def _numbers(self) -> tuple[int, int]:
        """How many candidates of a window come from either branch, of one class each."""
        num_anchors = len(self.config.anchor_ratios) * self._num_cells
        if self.config.stages == 1:
            return self._num_cells, num_anchors
        of_branches = self._num_cells * self.config.anchor_free + num_anchors * self.config.anchor_based
        return (min(self.config.proposals, of_branches),) * 2  # each proposal has a place in both

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
        if self.config.stages == 2:
            parts = [refined_candidates(outputs, self.config, self._num_cells * self.config.anchor_free)]
        else:
            parts = branch_candidates(outputs, self.config, self.config.inference_steps)
        steps = tf.nn.softmax(outputs["step_logits"][:, -1])[..., 1:] if self.scores_steps else None
        return joined(parts), steps


def joined(parts: Sequence[Candidates]) -> Candidates:
    """All candidates of each window: several [N, P, ...] become one."""
    return Candidates(*(tf.concat(values, axis=1) for values in zip(*parts, strict=True)))

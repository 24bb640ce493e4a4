"""Streams in this package: ``live/`` by itself knows nothing of runs and of ``UserError``."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from a2net_tf import settings
from a2net_tf.data import schema
from a2net_tf.detection.localizer import Localizer
from a2net_tf.errors import UserError
from a2net_tf.inference.live import stream


class LiveStream(stream.Stream):
    """See ``stream.Stream``; mistakes are UserErrors."""

    def __init__(self, model: stream.Model, **arguments: float | None):
        try:
            super().__init__(model, **arguments)
        except ValueError as error:
            raise UserError(str(error)) from None

    def push(self, features: np.ndarray) -> list[stream.Found]:
        """See ``stream.Stream.push``."""
        try:
            return super().push(features)
        except ValueError as error:
            raise UserError(str(error)) from None

    def _checked(self, features: np.ndarray) -> np.ndarray:
        return schema.check_features(features, "features", self._model.num_features, first_step=self.num_steps)


def of_localizer(localizer: Localizer, seconds_per_step: float, also_reported: Mapping[str, str]) -> stream.Model:
    """A run in this process.

    Args:
        localizer: of the run.
        seconds_per_step: from one vector to the next, unless a stream is told otherwise.
        also_reported: as for ``Localizer``.
    """
    window = tf.TensorSpec((None, localizer.config.inference_steps, localizer.num_features), tf.float32)

    @tf.function(input_signature=[window], autograph=False)
    def ask(windows: tf.Tensor) -> dict[str, tf.Tensor]:
        candidates, steps = localizer.predict(windows)
        weight = tf.constant(localizer.config.anchor_based_lambda)
        scores = localizer.merged_scores(
            candidates.scores, candidates.segments, branch=localizer.branches[-1], anchor_based_lambda=weight
        )
        found = {**candidates._asdict(), "scores": scores}
        return found if steps is None else {**found, "step_scores": steps}

    return stream.Model(
        ask=ask,
        settings=settings.exported_settings(localizer.config),
        class_names=localizer.class_names,
        num_features=localizer.num_features,
        seconds_per_step=seconds_per_step,
        first_step_seconds=localizer.first_step_seconds,
        also_reported=also_reported,
        classifies_steps=localizer.scores_steps,
    )

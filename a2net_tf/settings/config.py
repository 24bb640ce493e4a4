"""All settings together: a field of ``Config`` is an absl flag of the same name, its default and its help text."""

import dataclasses

from a2net_tf.settings.data_fields import DataFields
from a2net_tf.settings.training_fields import TrainingFields
from a2net_tf.settings.use_fields import UseFields
from a2net_tf.settings.video_fields import VideoFields

# Where no number of detections is set. A fixed one, as the release has for videos of a few minutes, loses clear actions
# of long recordings.
LEAST_DETECTIONS = 200  # of a short sequence, and of a window
DETECTIONS_PER_WINDOW = 100  # of a long one, for every length of a training window


@dataclasses.dataclass(frozen=True)
class Config(VideoFields, UseFields, TrainingFields, DataFields):  # dataclasses take the fields of the last base first
    """All settings of one command. Tuples are comma-separated on the command line."""

    @property
    def inference_steps(self) -> int:
        """Feature steps of an inference window."""
        return self.inference_window_steps or self.window_steps

    @property
    def inference_stride_steps(self) -> int:
        """From one inference window to the next."""
        return self.inference_steps - round(self.inference_overlap * self.window_steps)

    @property
    def inference_batch(self) -> int:
        """Inference windows that go through the network at once: as many steps as in training, so as much memory."""
        return max(1, self.window_batch * self.window_steps // self.inference_steps)

    @property
    def drops_in_step(self) -> bool:
        """Whether the network of a training step leaves values out at random."""
        of_proposals = self.stages == 2 and self.proposal_dropout
        moves_frames = self.looks_at_pixels
        return bool(self.input_dropout or self.step_dropout or of_proposals or moves_frames)

    @property
    def looks_at_pixels(self) -> bool:
        """Whether a backbone makes the features, of raw video."""
        return self.backbone != "none"

    def most_detections(self, num_steps: int) -> int:
        """How many detections are kept of a sequence of ``num_steps``: as set, or by its length."""
        by_length = -(-DETECTIONS_PER_WINDOW * num_steps // self.window_steps)
        return self.max_detections or max(by_length, LEAST_DETECTIONS)

    @property
    def suppression(self) -> dict[str, float]:
        """The settings of suppression of a window, as keyword arguments of ``postprocess.suppress``."""
        return {
            "tiou": self.nms_tiou,
            "max_detections": self.max_detections or LEAST_DETECTIONS,
            "min_score": self.min_score,
            "soft_sigma": self.soft_nms_sigma,
            "voting_tiou": self.voting_tiou,
        }


FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def _bound_to(*things: str) -> tuple[str, ...]:
    return tuple(name for name, field in FIELDS.items() if field.metadata["binds"] in things)


# Names of settings, by what is bound to their values (see ``setting.BINDS``).
MODEL_SETTINGS = _bound_to("model")
EXPORTED_SETTINGS = _bound_to("model", "localization")
TRAINING_SETTINGS = _bound_to("data", "model", "training")
# What the score of a network depends on.
SCORE_SETTINGS = _bound_to("data", "model", "training", "progress", "localization")
# What an evaluation may have its own values of, whatever the run has.
EVALUATION_SETTINGS = _bound_to("localization", "nothing")

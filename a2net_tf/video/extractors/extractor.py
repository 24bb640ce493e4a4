"""What every extractor is: clips of frames in, feature vectors out."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A network that makes a vector of a clip.

    Attributes:
        name: as it is chosen by.
        origin: where its weights come from; features of two origins must not be mixed.
        frame_rate: frames per second that it takes, unless another rate is asked for.
        clip_frames: frames that it looks at for one vector.
        stride_frames: from one clip to the next, unless another stride is asked for.
        size: height and width of its frames.
        num_features: D.
        preprocess: f32[N, clip_frames, size, size, channels] of 0 to 255 to what the network takes.
        network: what it takes to [N, D].
        looks_at: rgb, red first; flow, whose 0 to 255 are -20 to 20 pixels to the right and downwards; or rgb+flow.
    """

    name: str
    origin: str
    frame_rate: float
    clip_frames: int
    stride_frames: int
    size: int
    num_features: int
    preprocess: Callable[[tf.Tensor], tf.Tensor]
    network: Callable[[tf.Tensor], tf.Tensor]
    looks_at: str = "rgb"

    @property
    def channels(self) -> int:
        """Values of a pixel."""
        return {"rgb": 3, "flow": 2, "rgb+flow": 5}[self.looks_at]

    def __call__(self, clips: np.ndarray | tf.Tensor) -> np.ndarray:
        """f32[N, D] of clips [N, clip_frames, size, size, channels], u8 or f32 of 0 to 255; N may be 0."""
        if not len(clips):  # some operators take no empty batches
            return np.zeros((0, self.num_features), np.float32)
        return self._run(tf.convert_to_tensor(clips)).numpy()

    @functools.cached_property
    def _run(self) -> Callable[[tf.Tensor], tf.Tensor]:
        @tf.function(reduce_retracing=True)  # with AutoGraph: somebody's own network may count on it
        def run(clips: tf.Tensor) -> tf.Tensor:
            return tf.cast(self.network(self.preprocess(tf.cast(clips, tf.float32))), tf.float32)

        return run


def of_single_frames(network: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """``network``, which takes frames [N, H, W, 3], for clips of one frame [N, 1, H, W, 3]."""
    return lambda clips: network(clips[:, 0])

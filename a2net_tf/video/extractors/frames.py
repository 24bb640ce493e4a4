"""No network at all: the vector of a frame is its pixels, for a network that looks at them itself (--backbone=c3d)."""

import tensorflow as tf

from a2net_tf.video.extractors.extractor import Extractor

_FRAME_RATE = 25.0


def open_extractor(size: int) -> Extractor:
    """The extractor: whole numbers of 0 to 255, size x size x 3, row by row, red first. float16 holds them exactly."""
    num_features = size * size * 3
    return Extractor(
        name="frames",
        origin="pixels",
        frame_rate=_FRAME_RATE,
        clip_frames=1,
        stride_frames=1,
        size=size,
        num_features=num_features,
        preprocess=tf.identity,
        network=lambda clips: tf.reshape(clips, (-1, num_features)),
    )

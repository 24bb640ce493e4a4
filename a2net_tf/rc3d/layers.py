"""Layers of R-C3D's network: frames of vectors, pooling of proposals."""

import keras
import numpy as np
import tensorflow as tf

from a2net_tf.detection.layers import Drawing
from a2net_tf.rc3d import pooling

_MEAN = (90.0, 98.0, 102.0)  # of blue, green and red, in the order in which C3D takes them
_LARGEST_LOG = 10.0  # only a diverged network gets there, and it must not make inf or NaN


class Frames(Drawing):
    """Pictures of the vectors of ``--extractor=frames``: the middle of each, blue first, less C3D's mean.

    In training each window shows any one part of its frames, and one in two is mirrored.

    Args:
        side: height and width of the frames.
        crop: height and width of the part that is seen.
        subtract_mean: whether C3D's mean is subtracted: not of what was normalised before.
    """

    def __init__(self, side: int, crop: int, *, subtract_mean: bool, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.side, self.crop, self.subtract_mean = side, crop, subtract_mean

    def call(self, inputs, training=False):
        """[B, W, side * side * 3], red first -> [B, W, crop, crop, 3], blue first."""
        frames = tf.reshape(inputs, (-1, inputs.shape[1], self.side, self.side, 3))[..., ::-1]
        frames = self._any_part(frames) if training else self._middle(frames)
        return frames - np.float32(_MEAN) if self.subtract_mean else frames

    def _middle(self, frames):
        first = (self.side - self.crop) // 2
        return frames[:, :, first : first + self.crop, first : first + self.crop]

    def _any_part(self, frames):
        drawn = self.draw([tf.shape(frames)[0], 3])
        first = tf.cast(drawn[:, :2] * float(self.side - self.crop + 1), tf.int32)  # B, 2
        rows, columns = (first[:, i, None] + tf.range(self.crop) for i in (0, 1))  # B, crop
        columns = tf.where(drawn[:, 2:] < 0.5, columns, tf.reverse(columns, axis=[1]))
        # One window after the other: a gather along an axis further in would copy all that lies before it.
        return tf.map_fn(
            lambda one: tf.gather(tf.gather(one[0], one[1], axis=1), one[2], axis=2),
            (frames, rows, columns),
            fn_output_signature=tf.TensorSpec((frames.shape[1], self.crop, self.crop, 3), frames.dtype),
        )

    def compute_output_shape(self, input_shape):
        """[B, W, crop, crop, 3]."""
        return (input_shape[0], input_shape[1], self.crop, self.crop, 3)


class Distances(keras.layers.Layer):
    """Distances of their logarithms: on one level they reach from a frame to the whole window.

    Args:
        unit: the distance whose logarithm is 0.
    """

    def __init__(self, unit: float, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.unit = unit

    def call(self, inputs):
        """[...] -> [...]."""
        return self.unit * tf.exp(tf.minimum(inputs, _LARGEST_LOG))


class PoolVolumes(keras.layers.Layer):
    """``pooling.pool`` as a layer.

    Args:
        frames_per_step: of the video.
    """

    def __init__(self, frames_per_step: int, **kwargs):
        super().__init__(**kwargs)
        self.frames_per_step = frames_per_step

    def call(self, volume, segments):
        """Features [B, T, H, W, C] and segments f32[B, R, 2] -> [B, R, 16 C]."""
        return pooling.pool(volume, tf.cast(segments, tf.float32), self.frames_per_step)

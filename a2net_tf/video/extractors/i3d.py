"""I3D (Carreira and Zisserman, 2017), Inception-v1 with kernels in time too: one stream, up to its 1024 values.

A unit is a convolution without bias, batch normalisation without scale, and ReLU. All padding is TensorFlow's SAME, of
any length and size, odd ones too. Names of units are DeepMind's, with the branches of a block as its port to PyTorch
calls them: Mixed_3b_b1a is the first convolution of the second branch.
"""

import keras
import tensorflow as tf

SIZE = 224
NUM_FEATURES = 1024
EPSILON = 1e-3
# Channels of the branches b0, b1a, b1b, b2a, b2b, b3b of each block. Before 4b and 5b a pool halves time and space.
BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
LOGITS = "Logits"


def preprocess(clips: tf.Tensor) -> tf.Tensor:
    """Values of 0 to 255 in [-1, 1]."""
    return clips / 127.5 - 1.0


def build(
    num_frames: int, *, channels: int = 3, size: int = SIZE, precision: str = "float32", num_classes: int = 0
) -> keras.Model:
    """The network with random weights: clips f32[N, num_frames, size, size, channels] in [-1, 1] to f32[N, 1024].

    Args:
        num_frames: of a clip, at least 9: of fewer the halvings leave one step, and the last pool takes two. Of more
            than 16 the result is a mean over time.
        channels: 3 of RGB, 2 of optical flow.
        size: height and width, at least 193.
        precision: float32, bfloat16 or float16: the type of weights and computation.
        num_classes: C; if there are any, the result is their logits f32[N, C].
    """
    units = _Units(precision)
    clips = keras.Input((num_frames, size, size, channels), name="clips", dtype="float32")
    x = units.unit(clips, "Conv3d_1a_7x7", 64, kernel=7, strides=2)
    x = units.pool(x, "MaxPool3d_2a_3x3", (1, 3, 3), (1, 2, 2))
    x = units.unit(x, "Conv3d_2b_1x1", 64)
    x = units.unit(x, "Conv3d_2c_3x3", 192, kernel=3)
    x = units.pool(x, "MaxPool3d_3a_3x3", (1, 3, 3), (1, 2, 2))
    for name, channels in BLOCKS.items():
        if name == "Mixed_4b":
            x = units.pool(x, "MaxPool3d_4a_3x3", (3, 3, 3), (2, 2, 2))
        if name == "Mixed_5b":
            x = units.pool(x, "MaxPool3d_5a_2x2", (2, 2, 2), (2, 2, 2))
        x = units.block(x, name, channels)
    x = keras.layers.AveragePooling3D((2, 7, 7), 1, dtype="float32", name="average")(x)
    if num_classes:
        x = keras.layers.Conv3D(num_classes, 1, dtype="float32", name=LOGITS)(x)
    return keras.Model(clips, keras.layers.GlobalAveragePooling3D(dtype="float32", name="mean")(x), name="i3d")


class _Units:
    """The parts that the network repeats, all computed in one type."""

    def __init__(self, precision: str):
        self.precision = precision

    def unit(self, x: keras.KerasTensor, name: str, channels: int, *, kernel: int = 1, strides: int = 1):
        """Convolution, normalisation, ReLU."""
        convolution = keras.layers.Conv3D(
            channels, kernel, strides, padding="same", use_bias=False, dtype=self.precision, name=name
        )
        norm = keras.layers.BatchNormalization(scale=False, epsilon=EPSILON, dtype=self.precision, name=f"{name}_norm")
        return keras.layers.ReLU(dtype=self.precision, name=f"{name}_relu")(norm(convolution(x)))

    def pool(self, x: keras.KerasTensor, name: str, size: tuple[int, ...], strides: tuple[int, ...] | int = 1):
        """The largest values."""
        return keras.layers.MaxPooling3D(size, strides, padding="same", dtype=self.precision, name=name)(x)

    def block(self, x: keras.KerasTensor, name: str, channels: tuple[int, ...]):
        """Four branches beside each other."""
        b0, b1a, b1b, b2a, b2b, b3b = channels
        branches = [
            self.unit(x, f"{name}_b0", b0),
            self.unit(self.unit(x, f"{name}_b1a", b1a), f"{name}_b1b", b1b, kernel=3),
            self.unit(self.unit(x, f"{name}_b2a", b2a), f"{name}_b2b", b2b, kernel=3),
            self.unit(self.pool(x, f"{name}_b3a", (3, 3, 3)), f"{name}_b3b", b3b),
        ]
        return keras.layers.Concatenate(dtype=self.precision, name=name)(branches)

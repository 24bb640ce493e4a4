"""Layers of the network: convolution, group normalisation of joined levels, dropout that repeats, a learned scale, and
the two between two stages.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from a2net_tf.detection import draws, proposals
from a2net_tf.settings import Config

_NORM_EPSILON = 1e-5


class Convolution(keras.layers.Layer):
    """A convolution over steps, padded by (kernel - 1) / 2 on both sides whatever the stride ("same" pads 0 + 1 at 2).

    Args:
        filters: output channels.
        size: steps of the kernel: 1, or an odd number.
        stride: 1; or 2, for kernels of three steps and an even number of steps.
        activation: after the bias, or None.
        form: how it is computed; the arithmetic is the same. ``direct``: by the operator for convolutions. ``product``:
            kernels of one step, and strides of two, as one matrix product; on CPUs the operator is up to ten times
            slower there, above all backwards. ``unrolled``: all kernels as one product, their steps side by side; on
            GPUs the operator's gradients are slow.
        dilation: from one step that a kernel looks at to the next.
        joined: lengths of the levels that the input holds one after the other, a step of zeros after each. The output
            gets zeros there too: the padding that the next convolution would see if each level came alone.
        initial_kernel: Keras's name of what draws the first weights.
        initial_bias: of the first output channels; repeated for the others. Empty: zeros.
    """

    def __init__(
        self,
        filters: int,
        size: int,
        stride: int,
        *,
        activation: str | None,
        form: str,
        dilation: int = 1,
        joined: Sequence[int] = (),
        initial_kernel: str = "he_uniform",
        initial_bias: Sequence[float] = (),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters, self.size, self.stride, self.dilation = filters, size, stride, dilation
        self.initial_kernel, self.initial_bias = initial_kernel, list(initial_bias) or [0.0]
        self.activation = keras.activations.get(activation)
        self.as_product = form == "unrolled" or (form == "product" and (size == 1 or stride == 2))
        self.joined = list(joined)

    def build(self, input_shape):
        """Creates kernel [size, in, filters], by default with the release's initial weights, and bias [filters]."""
        shape = (self.size, input_shape[-1], self.filters)
        self.kernel = self.add_weight(shape, self.initial_kernel, name="kernel")
        self.bias = self.add_weight((self.filters,), self._first_bias, name="bias")

    def _first_bias(self, shape, dtype=None):
        return tf.cast(tf.tile(self.initial_bias, [shape[0] // len(self.initial_bias)]), dtype)

    def call(self, inputs):
        """[B, T, in] -> [B, T / stride, filters]."""
        steps = inputs.shape[1] // self.stride
        # Bias and activation directly after the operator, so that TensorFlow computes all three as one.
        x = self._product(inputs) if self.as_product else self._convolve(inputs)
        x = self.activation(tf.nn.bias_add(x, self.bias))
        x = tf.reshape(x, (-1, steps, self.filters))
        if self.joined:
            x *= tf.constant([[inside] for length in self.joined for inside in (1,) * length + (0,)], x.dtype)
        return x

    def _convolve(self, inputs):
        if self.stride == 1:
            x, kernel = tf.expand_dims(inputs, 1), tf.expand_dims(self.kernel, 0)
            return tf.nn.conv2d(x, kernel, 1, "SAME", dilations=[1, self.dilation])
        padded = _pad(inputs, self.size // 2)
        return tf.nn.conv2d(tf.expand_dims(padded, 1), tf.expand_dims(self.kernel, 0), [1, self.stride], "VALID")

    def _product(self, inputs):
        rows = _triples(inputs) if self.stride == 2 else _neighbours(inputs, self.size, self.dilation)
        return tf.matmul(
            tf.reshape(rows, (-1, rows.shape[-1])), tf.reshape(self.kernel, (rows.shape[-1], self.filters))
        )

    def compute_output_shape(self, input_shape):
        """[B, T / stride, filters]."""
        return (input_shape[0], input_shape[1] // self.stride, self.filters)


def _pad(inputs, steps: int):
    return tf.pad(inputs, [[0, 0], [steps, steps], [0, 0]])


def _triples(inputs):
    """The steps 2j - 1, 2j and 2j + 1 side by side: [B, T, C] -> [B, T / 2, 3 C]; T is even.

    Two neighbours already lie side by side in memory, so only the third has to be brought to them.
    """
    steps, channels = inputs.shape[1:]
    pairs = tf.reshape(_pad(inputs, 1), (-1, steps // 2 + 1, 2 * channels))
    # tf.slice, because the gradient of pairs[:, 1:] is many times slower.
    first, third = tf.slice(pairs, [0, 0, 0], [-1, steps // 2, -1]), tf.slice(pairs, [0, 1, 0], [-1, -1, channels])
    return tf.concat([first, third], axis=-1)


def _neighbours(inputs, size: int, dilation: int):
    """The ``size`` steps around each step, ``dilation`` apart, side by side: [B, T, C] -> [B, T, size C]."""
    if size == 1:
        return inputs
    padded = _pad(inputs, size // 2 * dilation)
    first = range(0, size * dilation, dilation)
    return tf.concat([tf.slice(padded, [0, i, 0], [-1, inputs.shape[1], -1]) for i in first], axis=-1)


class GroupNorm(keras.layers.Layer):
    """Group normalisation (Wu and He 2018) of [B, T, channels], with an activation behind it.

    Args:
        groups: of channels, which share mean and variance.
        activation: after scale and offset, or None.
        joined: lengths of the levels that the input holds one after the other, a gap of one step after each. Each level
            is normalised by itself, and gaps become zeros. Empty: one level, no gap.
    """

    def __init__(self, groups: int, *, activation: str | None, joined: Sequence[int] = (), **kwargs):
        super().__init__(**kwargs)
        self.groups = groups
        self.activation = keras.activations.get(activation)
        self.joined = list(joined)

    def build(self, input_shape):
        """Creates scale (ones) and offset (zeros) [channels]."""
        self.gamma = self.add_weight((input_shape[-1],), "ones", name="gamma")
        self.beta = self.add_weight((input_shape[-1],), "zeros", name="beta")

    def call(self, inputs):
        """[B, T, channels] -> [B, T, channels]."""
        x = tf.cast(inputs, tf.float32)
        # Not the mean of squares less the square of the mean: it is all rounding where the mean is large.
        x = x - self._of_steps(self._of_channels(self._means(x)))
        scale = self._of_channels(tf.math.rsqrt(self._means(tf.square(x)) + _NORM_EPSILON))
        scale *= tf.cast(self.gamma, tf.float32)
        offset = self._of_steps(tf.ones_like(scale) * tf.cast(self.beta, tf.float32))
        x = self.activation(x * self._of_steps(scale) + offset)
        return tf.cast(x, self.compute_dtype)

    def _means(self, x):
        """Over the channels of a group and all steps of a level: [B, levels, groups]."""
        channels = x.shape[-1]
        x = tf.matmul(self._membership(by_length=True), x) if self.joined else tf.reduce_mean(x, 1, keepdims=True)
        return tf.reduce_mean(tf.reshape(x, (-1, x.shape[1], self.groups, channels // self.groups)), axis=-1)

    def _of_channels(self, x):
        """[B, levels, groups] -> [B, levels, channels]."""
        each = self.gamma.shape[0] // self.groups
        return tf.reshape(tf.tile(x[..., None], (1, 1, 1, each)), (-1, x.shape[1], self.groups * each))

    def _of_steps(self, x):
        """[B, levels, channels] -> [B, T or 1, channels]; 0 in gaps."""
        if not self.joined:
            return x
        return tf.matmul(self._membership(), x, transpose_a=True)

    def _membership(self, *, by_length: bool = False):
        """f32[levels, T]: 1 (or 1 / length) where a step belongs to a level."""
        places, rows = np.cumsum([0, *[length + 1 for length in self.joined]]), len(self.joined)
        matrix = np.zeros((rows, places[-1]), np.float32)
        for row, length in enumerate(self.joined):
            matrix[row, places[row] : places[row] + length] = 1.0 / length if by_length else 1.0
        return tf.constant(matrix)

    def compute_output_shape(self, input_shape):
        """As the input."""
        return input_shape


# The draw of each layer that draws, by its name, within ``drawing``. Each device that shares a
# batch runs in a thread, which has its own.
_DRAWS: contextvars.ContextVar[dict | None] = contextvars.ContextVar("draws", default=None)


class Drawing(keras.layers.Layer):
    """A layer that draws random numbers in training.

    The draw depends on what ``drawing`` is given alone: a resumed run repeats it, and devices that share a batch draw
    as one.
    """

    def draw(self, shape: Sequence[int | tf.Tensor]) -> tf.Tensor:
        """Uniform numbers in [0, 1), f32[*shape], for the windows at hand, which are as many as ``shape`` begins with.

        Raises:
            RuntimeError: not within ``drawing``.
        """
        draws_by_name = _DRAWS.get()
        if draws_by_name is None or self.name not in draws_by_name:
            raise RuntimeError(f"{self.name}: in training, call the network within `with layers.drawing(network, ...)`")
        return draws.uniform(shape, *draws_by_name[self.name])


class Drop(Drawing):
    """Sets values to 0 at random in training, and scales the others so that the mean stays (dropout).

    Args:
        rate: share of the values.
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, inputs, training=False):
        """[B, T, channels] -> [B, T, channels]; as it is unless in training.

        Raises:
            RuntimeError: in training, but not within ``drawing``.
        """
        if not training:
            return inputs
        drawn = self.draw(tf.unstack(tf.shape(inputs)))
        kept = tf.cast(drawn >= self.rate, inputs.dtype)
        return inputs * kept / (1.0 - self.rate)

    def compute_output_shape(self, input_shape):
        """As the input."""
        return input_shape


@contextlib.contextmanager
def drawing(network: keras.Model, seed: tf.Tensor, part: tuple[tf.Tensor | int, int] = (0, 1)) -> Iterator[None]:
    """Within it, the network may be called in training: its layers draw from ``seed``, each something else.

    Args:
        network: of ``build_model``.
        seed: i32[2], another one for each training step.
        part: which of how many equal parts of a batch the call is given.
    """
    names = [layer.name for layer in network.layers if isinstance(layer, Drawing)]
    fold_in = tf.random.experimental.stateless_fold_in
    token = _DRAWS.set({name: (fold_in(seed, number), part) for number, name in enumerate(names)})
    try:
        yield
    finally:
        _DRAWS.reset(token)


class LevelScale(keras.layers.Layer):
    """Multiplies by one learned number, 1 at first."""

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def build(self, input_shape):
        """Creates the number."""
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs):
        """[...] -> [...]."""
        return inputs * self.scale


class Propose(keras.layers.Layer):
    """Chooses proposals among all cells and anchors of a window. No gradient flows through it.

    Args:
        config: of the network; its windows are those of the layer.
    """

    def __init__(self, config: Config, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.config = config

    def call(self, outputs, training=False):
        """Outputs of the first stage -> ``proposals`` [B, K, 2], ``proposal_scores`` and ``proposal_places`` [B, K]."""
        config = self.config
        outputs = {name: tf.stop_gradient(value) for name, value in outputs.items()}
        parts = proposals.branch_candidates(outputs, proposals.first_stage(config), config.window_steps)
        chosen = proposals.choose(
            tf.clip_by_value(tf.concat([part.segments for part in parts], axis=1), 0.0, 1.0),
            tf.concat([part.scores for part in parts], axis=1),
            tiou=config.train_proposal_tiou if training else config.proposal_tiou,
            number=config.train_proposals if training else config.proposals,
        )
        return {"proposals": chosen.segments, "proposal_scores": chosen.scores, "proposal_places": chosen.places}


class PoolProposals(keras.layers.Layer):
    """``proposals.pool`` as a layer, in float32.

    Args:
        bins: P.
    """

    def __init__(self, bins: int, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.bins = bins

    def call(self, features, segments):
        """Features [B, T, C] and segments [B, R, 2] -> [B, R, P C]."""
        pooled = proposals.pool(features, segments, bins=self.bins)
        return tf.reshape(pooled, (-1, segments.shape[1], self.bins * features.shape[2]))

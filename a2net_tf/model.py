"""The network of Table II as a functional Keras model with named outputs. Knows nothing of targets or losses."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from a2net_tf import anchors, draws
from a2net_tf.config import Config
from a2net_tf.errors import UserError

_NORM_EPSILON = 1e-5


def build_model(
    config: Config,
    num_features: int,
    num_classes: int,
    *,
    statistics: tuple[np.ndarray, np.ndarray] | None = None,
) -> keras.Model:
    """Builds A2Net.

    Args:
        config: levels, channels, ratios, which heads, precision.
        num_features: D.
        num_classes: C, without background.
        statistics: mean and variance f32[D] of the training features; the first layer normalises with them.

    Raises:
        UserError: ``config.feature_columns`` reach beyond D.

    Returns:
        A model from features f32[B, T, D] (T = config.window_steps) to a dict of float32 tensors, as far as the heads
        exist: ``anchor_free_logits`` [B, L, C+1], ``anchor_free_distances`` [B, L, 2] in grid units, ``anchor_logits``
        [B, A, C+1], ``anchor_overlap`` [B, A], ``anchor_offsets`` [B, A, 2]. Class 0 is background; with
        ``config.class_scores`` = sigmoid there is no background, and logits have C entries.
    """
    inputs = keras.Input((config.window_steps, num_features), name="features", dtype="float32")
    x = inputs
    if statistics is not None:
        x = keras.layers.Normalization(mean=statistics[0], variance=statistics[1], dtype="float32", name="normalize")(x)
    if config.feature_columns:
        first, end = config.feature_columns
        if end > num_features:
            raise UserError(f"--feature_columns={first},{end}: the features have only {num_features} columns")
        x = x[..., first:end]
    if config.input_dropout:
        x = Drop(config.input_dropout, dtype="float32", name="input_dropout")(x)
    levels = _pyramid(x, config)
    num_logits = num_classes + (config.class_scores == "softmax")
    outputs = {}
    if config.anchor_free:
        outputs.update(_anchor_free_head(levels, num_logits, config))
    if config.anchor_based:
        outputs.update(_anchor_based_head(levels, num_logits, config))
    return keras.Model(inputs, outputs, name="a2net")


class Convolution(keras.layers.Layer):
    """A convolution over steps, padded by (kernel - 1) / 2 on both sides whatever the stride ("same" pads 0 + 1 at 2).

    Args:
        filters: output channels.
        size: steps of the kernel: 1, or an odd number.
        stride: 1; or 2, for kernels of three steps and an even number of steps.
        activation: after the bias, or None.
        as_product: compute kernels of one step, and strides of two, as one matrix product. The arithmetic is the same;
            on CPUs the operator for convolutions is up to ten times slower there, above all backwards.
        joined: lengths of the levels that the input holds one after the other, a step of zeros after each. The output
            gets zeros there too: the padding that the next convolution would see if each level came alone.
        initial_bias: of the first output channels; repeated for the others. Empty: zeros.
    """

    def __init__(
        self,
        filters: int,
        size: int,
        stride: int,
        *,
        activation: str | None,
        as_product: bool,
        joined: Sequence[int] = (),
        initial_bias: Sequence[float] = (),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters, self.size, self.stride = filters, size, stride
        self.initial_bias = list(initial_bias) or [0.0]
        self.activation = keras.activations.get(activation)
        self.as_product = as_product and (size == 1 or stride == 2)
        self.joined = list(joined)

    def build(self, input_shape):
        """Creates kernel [size, in, filters] with the release's initial weights, and bias [filters]."""
        self.kernel = self.add_weight((self.size, input_shape[-1], self.filters), "he_uniform", name="kernel")
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
            return tf.nn.conv2d(tf.expand_dims(inputs, 1), tf.expand_dims(self.kernel, 0), 1, "SAME")
        padded = _pad(inputs, self.size // 2)
        return tf.nn.conv2d(tf.expand_dims(padded, 1), tf.expand_dims(self.kernel, 0), [1, self.stride], "VALID")

    def _product(self, inputs):
        rows = inputs if self.size == 1 else _triples(inputs)
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


class GroupNorm(keras.layers.Layer):
    """Group normalisation (Wu and He 2018) of [B, T, channels], with an activation behind it.

    Args:
        groups: of channels, which share mean and variance.
        per_step: mean and variance of each step by itself, instead of over all steps.
        activation: after scale and offset, or None.
        joined: lengths of the levels that the input holds one after the other, a gap of one step after each. Each level
            is normalised by itself, and gaps become zeros. Empty: one level, no gap.
    """

    def __init__(self, groups: int, *, per_step: bool, activation: str | None, joined: Sequence[int] = (), **kwargs):
        super().__init__(**kwargs)
        self.groups, self.per_step = groups, per_step
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
        """Over the channels of a group, and over steps as they belong together: [B, levels or T, groups]."""
        channels = x.shape[-1]
        if not self.per_step:
            x = tf.matmul(self._membership(by_length=True), x) if self.joined else tf.reduce_mean(x, 1, keepdims=True)
        return tf.reduce_mean(tf.reshape(x, (-1, x.shape[1], self.groups, channels // self.groups)), axis=-1)

    def _of_channels(self, x):
        """[B, levels or T, groups] -> [B, levels or T, channels]."""
        each = self.gamma.shape[0] // self.groups
        return tf.reshape(tf.tile(x[..., None], (1, 1, 1, each)), (-1, x.shape[1], self.groups * each))

    def _of_steps(self, x):
        """[B, levels or T, channels] -> [B, T or 1, channels]; 0 in gaps."""
        if not self.joined:
            return x
        if self.per_step:
            return x * tf.reduce_sum(self._membership(), axis=0)[:, None]
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


class Drop(keras.layers.Layer):
    """Sets values to 0 at random in training, and scales the others so that the mean stays (dropout, drop path).

    The draw depends on ``seed_drops`` alone: a resumed run repeats it, and devices that share a batch draw as one.

    Args:
        rate: share of what is dropped.
        whole_windows: all values of a window or none (stochastic depth, Huang et al. 2016), instead of each by itself.
    """

    def __init__(self, rate: float, *, whole_windows: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.whole_windows = rate, whole_windows
        self.draw = None

    def call(self, inputs, training=False):
        """[B, T, channels] -> [B, T, channels]; as it is unless in training."""
        if not training or self.draw is None:
            return inputs
        seed, part = self.draw
        shape = tf.unstack(tf.shape(inputs))
        drawn = draws.uniform([shape[0], 1, 1] if self.whole_windows else shape, seed, part)
        kept = tf.cast(drawn >= self.rate, inputs.dtype)
        return inputs * kept / (1.0 - self.rate)

    def compute_output_shape(self, input_shape):
        """As the input."""
        return input_shape


def seed_drops(network: keras.Model, seed: tf.Tensor, part: tuple[tf.Tensor | int, int]) -> None:
    """Says what the network's dropouts of the next call in training are drawn from.

    Args:
        network: of ``build_model``.
        seed: i32[2], another one for each training step.
        part: which of how many equal parts of a batch the call is given.
    """
    for number, layer in enumerate(layer for layer in network.layers if isinstance(layer, Drop)):
        # A tuple: Keras would look for layers in a list.
        layer.draw = (tf.random.experimental.stateless_fold_in(seed, number), part)


def _block(
    x: keras.KerasTensor,
    filters: int,
    size: int,
    config: Config,
    *,
    name: str,
    stride: int = 1,
    joined: Sequence[int] = (),
) -> keras.KerasTensor:
    """A convolution with what the settings put behind it: normalisation, ReLU, the way around it."""
    y = x
    if config.convolution_norm == "none":
        y = _convolution(filters, size, config, stride=stride, joined=joined, name=name)(y)
    else:
        y = _convolution(filters, size, config, stride=stride, activation=None, name=name)(y)
        per_step = config.convolution_norm == "group_per_step"
        y = GroupNorm(
            config.norm_groups,
            per_step=per_step,
            activation="relu",
            joined=joined,
            dtype=dtype_policy(config),
            name=f"{name}_norm",
        )(y)
    if not (config.residual and y.shape == x.shape):
        return y
    if config.drop_path:
        y = Drop(config.drop_path, whole_windows=True, dtype=dtype_policy(config), name=f"{name}_drop_path")(y)
    return keras.layers.Add(dtype=dtype_policy(config), name=f"{name}_add")([x, y])


def _convolution(filters: int, size: int, config: Config, *, stride: int = 1, **kwargs) -> Convolution:
    """A convolution as the settings have it."""
    kwargs = {"activation": "relu", "dtype": dtype_policy(config), **kwargs}
    as_product = config.convolution == "product"
    if config.convolution == "auto":
        as_product = not tf.config.list_physical_devices("GPU")
    return Convolution(filters, size, stride, as_product=as_product, **kwargs)


def _pyramid(x: keras.KerasTensor, config: Config) -> list[keras.KerasTensor]:
    """Base layers and hierarchical features: one [B, cells, channels] per level."""
    x = _block(x, config.base_channels, 1, config, name="base1")
    x = _block(x, config.base_channels, 9, config, name="base2")
    x = keras.layers.MaxPooling1D(2, dtype=dtype_policy(config), name="pool")(x)
    levels = []
    for i, channels in enumerate(config.level_channels[: config.num_levels], start=1):
        x = _block(x, channels, 3, config, stride=1 if i == 1 else 2, name=f"conv{i}")
        levels.append(x)
    return levels


def _anchor_free_head(levels: Sequence[keras.KerasTensor], num_logits: int, config: Config) -> dict:
    """Per-level reduction, two branches shared by all levels, one learned scale of the distances per level.

    The levels go through the branches as one sequence with a step of zeros after each, which is what padding would put
    there: one large convolution instead of many small ones.
    """
    reduced = []
    for i, level in enumerate(levels, start=1):
        x = _block(level, config.head_channels, 1, config, name=f"anchor_free_reduce{i}")
        reduced.append(keras.layers.ZeroPadding1D((0, 1), dtype=dtype_policy(config), name=f"gap{i}")(x))
    joined = keras.layers.Concatenate(axis=1, dtype=dtype_policy(config), name="joined")(reduced)
    lengths = anchors.level_lengths(config.window_steps, config.num_levels)
    bias = [_prior_bias(config)] * num_logits
    logits = _split(_branch(joined, lengths, num_logits, config, name="anchor_free_class", bias=bias), lengths)
    distances = _split(_branch(joined, lengths, 2, config, name="anchor_free_distance"), lengths)
    scaled = [LevelScale(name=f"anchor_free_scale{i}")(part) for i, part in enumerate(distances, start=1)]
    all_distances = keras.layers.Concatenate(axis=1, dtype="float32", name="anchor_free_distances_raw")(scaled)
    activation = None if config.distance_activation == "none" else config.distance_activation
    activate = keras.layers.Activation(activation, dtype="float32", name="anchor_free_distances")
    return {
        "anchor_free_logits": keras.layers.Concatenate(axis=1, dtype="float32", name="anchor_free_logits")(logits),
        "anchor_free_distances": activate(all_distances),
    }


def _branch(
    x: keras.KerasTensor,
    lengths: Sequence[int],
    outputs: int,
    config: Config,
    *,
    name: str,
    bias: Sequence[float] = (),
) -> keras.KerasTensor:
    """Two hidden convolutions and a prediction, on joined levels."""
    for i in (1, 2):
        x = _block(x, config.head_channels, 3, config, joined=lengths, name=f"{name}_conv{i}")
    predict = {"activation": None, "dtype": "float32", "joined": lengths, "initial_bias": bias}
    return _convolution(outputs, 3, config, **predict, name=f"{name}_predict")(x)


def _prior_bias(config: Config) -> float:
    """The logit with which each class begins (Lin et al. 2017): else the many negatives fill the first epochs."""
    if config.class_scores == "softmax":
        return 0.0
    return math.log(config.prior_probability / (1.0 - config.prior_probability))


def _split(joined: keras.KerasTensor, lengths: Sequence[int]) -> list[keras.KerasTensor]:
    """The levels of a joined sequence, without the gaps."""
    bounds = np.cumsum([part for length in lengths for part in (length, 1)])
    return keras.ops.split(joined, bounds[:-1].tolist(), axis=1)[::2]


def dtype_policy(config: Config) -> str:
    """Keras's name for computing in ``config.precision`` with weights in float32."""
    return "float32" if config.precision == "float32" else f"mixed_{config.precision}"


def _anchor_based_head(levels: Sequence[keras.KerasTensor], num_logits: int, config: Config) -> dict:
    """One convolution per level; channels are anchors x (class logits, overlap, centre, width)."""
    values = num_logits + 3
    num_ratios = len(config.anchor_ratios)
    bias = [_prior_bias(config)] * num_logits + [0.0] * 3
    rows = []
    for i, level in enumerate(levels, start=1):
        predict = {"activation": None, "dtype": "float32", "initial_bias": bias}
        layer = _convolution(num_ratios * values, 3, config, **predict, name=f"anchor_based_predict{i}")
        rows.append(keras.layers.Reshape((-1, values), dtype="float32", name=f"anchors{i}")(layer(level)))
    x = keras.layers.Concatenate(axis=1, dtype="float32", name="anchors")(rows)
    logits, overlap, offsets = keras.ops.split(x, [num_logits, num_logits + 1], axis=-1)
    return {"anchor_logits": logits, "anchor_overlap": keras.ops.squeeze(overlap, -1), "anchor_offsets": offsets}


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


def inference_copy(network: keras.Model) -> keras.Model:
    """A copy whose weights have the type that they are computed in: cast once, not in every call. Not for training.

    A network in float32 is returned as it is.
    """
    if not any(layer.dtype_policy.name.startswith("mixed") for layer in network.layers):
        return network
    return _copy(network, {f'"mixed_{name}"': f'"{name}"' for name in ("bfloat16", "float16")})


def plain_copy(network: keras.Model) -> keras.Model:
    """A copy with direct convolutions in float32, however the network was trained: what other formats convert well."""
    types = ("mixed_bfloat16", "mixed_float16", "bfloat16", "float16")
    return _copy(network, {'"as_product": true': '"as_product": false', **{f'"{t}"': '"float32"' for t in types}})


def _copy(network: keras.Model, changes: dict[str, str]) -> keras.Model:
    """A copy with other settings of its layers: ``changes`` says what replaces what in the network's JSON."""
    description = network.to_json()
    for old, new in changes.items():
        description = description.replace(old, new)
    layers = {layer.__name__: layer for layer in (Convolution, GroupNorm, Drop, LevelScale)}
    copy = keras.models.model_from_json(description, custom_objects=layers)
    copy.set_weights(network.get_weights())
    return copy

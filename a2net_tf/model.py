"""The network of Table II as a functional Keras model with named outputs. Knows nothing of targets or losses."""

from collections.abc import Sequence

import keras
import numpy as np

from a2net_tf.config import Config
from a2net_tf.errors import UserError


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
        [B, A, C+1], ``anchor_overlap`` [B, A], ``anchor_offsets`` [B, A, 2]. Class 0 is background.
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
    levels = _pyramid(x, config)
    outputs = {}
    if config.anchor_free:
        outputs.update(_anchor_free_head(levels, num_classes + 1, config))
    if config.anchor_based:
        outputs.update(_anchor_based_head(levels, num_classes + 1, config))
    return keras.Model(inputs, outputs, name="a2net")


def _convolution(
    filters: int, kernel: int, config: Config, *, stride: int = 1, name: str, **kwargs
) -> keras.layers.Conv1D:
    """Conv1D with the release's initial weights.

    "same" pads an odd kernel by (kernel - 1) / 2 on both sides at stride 1. At stride 2 it would pad 0 + 1, so there
    the caller pads and the convolution is "valid".
    """
    kwargs = {"activation": "relu", "dtype": dtype_policy(config), **kwargs}
    return keras.layers.Conv1D(
        filters,
        kernel,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        kernel_initializer="he_uniform",
        name=name,
        **kwargs,
    )


def _pyramid(x: keras.KerasTensor, config: Config) -> list[keras.KerasTensor]:
    """Base layers and hierarchical features: one [B, cells, channels] per level."""
    x = _convolution(config.base_channels, 1, config, name="base1")(x)
    x = _convolution(config.base_channels, 9, config, name="base2")(x)
    x = keras.layers.MaxPooling1D(2, dtype=dtype_policy(config), name="pool")(x)
    levels = []
    for i, channels in enumerate(config.level_channels[: config.num_levels], start=1):
        stride = 1 if i == 1 else 2
        if stride == 2:
            x = keras.layers.ZeroPadding1D(1, dtype=dtype_policy(config), name=f"pad{i}")(x)
        x = _convolution(channels, 3, config, stride=stride, name=f"conv{i}")(x)
        levels.append(x)
    return levels


def _anchor_free_head(levels: Sequence[keras.KerasTensor], num_logits: int, config: Config) -> dict:
    """Per-level reduction, two branches shared by all levels, one learned scale of the distances per level."""
    classify = _branch(num_logits, config, name="anchor_free_class")
    regress = _branch(2, config, name="anchor_free_distance")
    logits, distances = [], []
    for i, level in enumerate(levels, start=1):
        reduced = _convolution(config.head_channels, 1, config, name=f"anchor_free_reduce{i}")(level)
        logits.append(classify(reduced))
        distances.append(LevelScale(name=f"anchor_free_scale{i}")(regress(reduced)))
    all_distances = keras.layers.Concatenate(axis=1, dtype="float32", name="anchor_free_distances_raw")(distances)
    activation = None if config.distance_activation == "none" else config.distance_activation
    activate = keras.layers.Activation(activation, dtype="float32", name="anchor_free_distances")
    return {
        "anchor_free_logits": keras.layers.Concatenate(axis=1, dtype="float32", name="anchor_free_logits")(logits),
        "anchor_free_distances": activate(all_distances),
    }


def _branch(outputs: int, config: Config, *, name: str) -> keras.Model:
    """Two hidden convolutions and a prediction. Its length is free: one branch serves all levels."""
    inputs = keras.Input((None, config.head_channels), dtype=config.precision)
    x = _convolution(config.head_channels, 3, config, name=f"{name}_conv1")(inputs)
    x = _convolution(config.head_channels, 3, config, name=f"{name}_conv2")(x)
    x = _convolution(outputs, 3, config, activation=None, dtype="float32", name=f"{name}_predict")(x)
    return keras.Model(inputs, x, name=name)


def dtype_policy(config: Config) -> str:
    """Keras's name for computing in ``config.precision`` with weights in float32."""
    return "float32" if config.precision == "float32" else f"mixed_{config.precision}"


def _anchor_based_head(levels: Sequence[keras.KerasTensor], num_logits: int, config: Config) -> dict:
    """One convolution per level; channels are anchors x (class logits, overlap, centre, width)."""
    values = num_logits + 3
    num_ratios = len(config.anchor_ratios)
    rows = []
    for i, level in enumerate(levels, start=1):
        layer = _convolution(
            num_ratios * values, 3, config, activation=None, dtype="float32", name=f"anchor_based_predict{i}"
        )
        rows.append(keras.layers.Reshape((-1, values), dtype="float32", name=f"anchors{i}")(layer(level)))
    x = keras.layers.Concatenate(axis=1, dtype="float32", name="anchors")(rows)
    return {
        "anchor_logits": x[..., :num_logits],
        "anchor_overlap": x[..., num_logits],
        "anchor_offsets": x[..., num_logits + 1 :],
    }


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

"""The network of Table II as a functional Keras model with named outputs. Knows nothing of targets or losses."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from a2net_tf.detection import pyramid
from a2net_tf.detection.layers import Convolution, Drop, GroupNorm, LevelScale
from a2net_tf.detection.precision import AUTO
from a2net_tf.errors import UserError
from a2net_tf.settings import Config


def build_model(
    config: Config,
    num_features: int,
    num_classes: int,
    *,
    statistics: tuple[np.ndarray, np.ndarray] | None = None,
) -> keras.Model:
    """Builds A2Net.

    Args:
        config: levels, channels, ratios, which branches, precision.
        num_features: D.
        num_classes: C, without background.
        statistics: mean and variance f32[D] of the training features; the first layer normalises with them.

    Raises:
        UserError: ``config.feature_columns`` reach beyond D.
        ValueError: ``config.precision`` is auto: which type that is, ``precision.resolve`` says.

    Returns:
        A model from features f32[B, T, D] (T = config.window_steps) to a dict of float32 tensors, of the branches that
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
    lengths = pyramid.level_lengths(config.window_steps, config.num_levels)
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
    """Keras's name for computing in ``config.precision`` with weights in float32; raises ValueError for auto."""
    if config.precision == AUTO:  # decided once, where a run is made or loaded: all parts of a network must agree
        raise ValueError(
            "precision is auto: expected float32, bfloat16 or float16, as detection.precision.resolve says"
        )
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

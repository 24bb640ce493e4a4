"""The network of R-C3D (Xu et al., ICCV 2017; the re-production in PyTorch), with A2Net's anchor-free module beside its
anchors. Knows nothing of targets or losses.
"""

import math

import keras
import numpy as np

from a2net_tf.detection.layers import Convolution, Drop, Propose
from a2net_tf.detection.model import Blueprint, Cuts, Network, build_model, dtype_policy, prepare
from a2net_tf.errors import UserError
from a2net_tf.rc3d.layers import Distances, Frames, PoolVolumes
from a2net_tf.settings import Config

# Convolutions of C3D between its pools, up to conv5b.
CONVOLUTIONS = (("conv1a",), ("conv2a",), ("conv3a", "conv3b"), ("conv4a", "conv4b"), ("conv5a", "conv5b"))
_FROZEN = ("conv1a", "conv2a")  # where weights are given that have been learned before
FRAMES_PER_STEP = 8  # of conv5b


def build_network(
    config: Config,
    num_features: int,
    num_classes: int,
    *,
    statistics: tuple[np.ndarray, np.ndarray] | None = None,
    for_inference: bool = False,
) -> Network:
    """The network that the settings describe: A2Net's (see ``build_model``, also for arguments), or with
    ``config.backbone`` = c3d R-C3D's.

    Raises:
        UserError: features that are no square frames, or too small ones.

    Returns:
        With c3d a model from frames f32[B, W, S * S * 3] of 0 to 255, red first, to the outputs of two stages that
        ``build_model`` names, with W / 8 cells, as many anchors on each as ``config.anchor_ratios`` has, and no
        overlaps.
    """
    if not config.looks_at_pixels:
        return build_model(config, num_features, num_classes, statistics=statistics, for_inference=for_inference)
    blueprint = Blueprint(config, num_features, num_classes, statistics)
    return _build(blueprint, dtype_policy(config, for_inference))


def _build(blueprint: Blueprint, policy: str) -> Network:
    config = blueprint.config
    inputs = keras.Input((config.window_steps, blueprint.num_features), name="features", dtype="float32")
    frames = _frames(inputs, blueprint)
    volume = _backbone(frames, config, policy)
    cells = _proposal_features(volume, config, policy)
    outputs, predictions = {}, {}
    if config.anchor_free:
        found = _anchor_free_module(cells, config, policy)
        predictions["anchor_free"] = list(found.values())
        outputs.update(found)
    if config.anchor_based:
        found = _anchors(cells, config)
        predictions["anchor_based"] = list(found.values())
        outputs.update(found)
    outputs.update(Propose(config, name="propose")(dict(outputs)))
    second_stage = Head(config, blueprint.num_classes, policy)
    refined = second_stage(volume, outputs["proposals"])
    outputs.update(refined)
    cuts = Cuts(frames, volume, volume, (cells,), None, predictions, tuple(refined.values()))
    return Network(inputs, outputs, blueprint=blueprint, cuts=cuts, second_stage=second_stage)


def _frames(inputs: keras.KerasTensor, blueprint: Blueprint) -> keras.KerasTensor:
    """[B, W, D] -> [B, W, crop, crop, 3]."""
    side, crop = math.isqrt(blueprint.num_features // 3), blueprint.config.crop_size
    if 3 * side * side != blueprint.num_features:
        raise UserError(
            f"--backbone=c3d takes the pixels of square frames (--extractor=frames), 3 x size x size values a step; "
            f"these features have {blueprint.num_features}"
        )
    if crop > side:
        raise UserError(f"--crop_size={crop}: the frames have {side} x {side} pixels (--frame_size)")
    raw = blueprint.statistics is None
    return Frames(side, crop, subtract_mean=raw, name="frames")(prepare(inputs, blueprint))


def _backbone(x: keras.KerasTensor, config: Config, policy: str) -> keras.KerasTensor:
    """C3D (Tran et al. 2015) up to conv5b: [B, W, crop, crop, 3] -> [B, W / 8, crop / 16, crop / 16, channels]."""
    learned_before = bool(config.backbone_weights)
    for number, (names, channels) in enumerate(zip(CONVOLUTIONS, config.backbone_channels, strict=True)):
        if number:
            size = (1, 2, 2) if number == 1 else (2, 2, 2)
            x = keras.layers.MaxPooling3D(size, dtype=policy, name=f"pool{number}")(x)
        for name in names:
            x = keras.layers.Conv3D(
                channels,
                3,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
                trainable=not (learned_before and name in _FROZEN),
                dtype=policy,
                name=name,
            )(x)
    return x


def _proposal_features(x: keras.KerasTensor, config: Config, policy: str) -> keras.KerasTensor:
    """What anchors and anchor-free module see of each cell: [B, T, H, W, C] -> [B, T, base_channels]."""
    for i in (1, 2):
        # By one pixel on each side whatever the size, which "same" is not at a stride.
        x = keras.layers.ZeroPadding3D(1, dtype=policy, name=f"proposal_pad{i}")(x)
        x = keras.layers.Conv3D(
            config.base_channels,
            3,
            strides=(1, 2, 2),
            activation="relu",
            kernel_initializer="he_normal",
            dtype=policy,
            name=f"proposal_conv{i}",
        )(x)
    return keras.ops.max(x, axis=(2, 3))


def _anchors(cells: keras.KerasTensor, config: Config) -> dict[str, keras.KerasTensor]:
    """Background or action, and offsets, of each anchor of each cell."""
    number = len(config.anchor_ratios)
    scores = _predict(2 * number, 1, name="anchor_based_class")(cells)
    offsets = _predict(2 * number, 1, name="anchor_based_boundary")(cells)
    return {
        "anchor_logits": keras.layers.Reshape((-1, 2), dtype="float32", name="anchor_logits")(scores),
        "anchor_offsets": keras.layers.Reshape((-1, 2), dtype="float32", name="anchor_offsets")(offsets),
    }


def _anchor_free_module(cells: keras.KerasTensor, config: Config, policy: str) -> dict[str, keras.KerasTensor]:
    """Background or action of each cell, and the distances from its centre to start and end, in grid units."""
    towers = []
    for name in ("anchor_free_class", "anchor_free_distance"):
        x = cells
        for i in (1, 2):
            x = _convolution(config.head_channels, 3, policy, name=f"{name}_conv{i}")(x)
        towers.append(_predict(2, 3, name=f"{name}_predict")(x))
    stride = 2.0 ** (config.first_level - 1)
    return {
        "anchor_free_logits": towers[0],
        "anchor_free_distances": Distances(stride, name="anchor_free_distances")(towers[1]),
    }


def _convolution(filters: int, size: int, policy: str, *, name: str) -> Convolution:
    return Convolution(filters, size, 1, activation="relu", form="direct", dtype=policy, name=name)


def _predict(filters: int, size: int, *, name: str, deviation: float = 0.01) -> Convolution:
    initial = keras.initializers.RandomNormal(stddev=deviation)
    linear = {"activation": None, "form": "direct", "initial_kernel": initial, "dtype": "float32"}
    return Convolution(filters, size, 1, **linear, name=name)


class Head:
    """Tells the class of each proposal and moves its ends: layers of a network, to be called on others than its own.

    Args:
        config: sizes.
        num_classes: C.
        policy: Keras's name for the types of weights and computation.
    """

    def __init__(self, config: Config, num_classes: int, policy: str):
        self.pool = PoolVolumes(FRAMES_PER_STEP, dtype=policy, name="proposal_pool")
        self.hidden = _convolution(config.proposal_channels, 1, policy, name="fc6")
        rate = config.proposal_dropout
        self.drop = Drop(rate, dtype=policy, name="fc6_dropout") if rate else None
        self.predict = {
            "refined_logits": _predict(num_classes + 1, 1, name="proposal_class_predict"),
            "refined_offsets": _predict(2 * num_classes, 1, name="proposal_boundary_predict", deviation=0.001),
        }

    def __call__(self, volume, proposals, training: bool | None = None) -> dict:
        """The network's ``refined_`` outputs for proposals [B, R, 2] over conv5b [B, T, H, W, C]."""
        x = self.hidden(self.pool(volume, proposals))
        if self.drop is not None:
            x = self.drop(x, training=training)
        return {name: predict(x) for name, predict in self.predict.items()}

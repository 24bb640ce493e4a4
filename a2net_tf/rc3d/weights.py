"""Weights of C3D that others have trained, as R-C3D's network begins with them."""

import keras
import numpy as np

from a2net_tf.errors import UserError
from a2net_tf.rc3d.network import CONVOLUTIONS
from a2net_tf.rc3d.pooling import BINS
from a2net_tf.settings import Config
from a2net_tf.video.extractors import torch_files

_KERNEL = (2, 3, 4, 1, 0)  # from [out, in, step, row, column] to the order of Keras


def check_backbone(config: Config) -> None:
    """Refuses ``config.backbone_weights`` before hours are spent on frames.

    Raises:
        UserError: as ``load_backbone``; or the network has no backbone.
    """
    path, sizes = config.backbone_weights, [3]
    if not config.looks_at_pixels:
        raise UserError(f"--backbone_weights={path}: is for --backbone=c3d")
    for group, channels in zip(CONVOLUTIONS, config.backbone_channels, strict=True):
        sizes += [channels] * len(group)
    tensors = torch_files.read_tensors(path)
    for kernel, inputs, outputs in zip(_kernels(tensors, path), sizes, sizes[1:], strict=False):
        _check(tensors[kernel].transpose(_KERNEL), (3, 3, 3, inputs, outputs), kernel, path)


def load_backbone(network: keras.Model, path: str) -> None:
    """Gives the network the convolutions of a PyTorch file of C3D, and fc6 where it has one of this size.

    The convolutions are the first eight of the file in the order of its names' numbers, whatever they are called:
    ``features.0.weight`` and so on in the files of R-C3D's re-production, or ``conv1.weight``, ``conv2.weight``,
    ``conv3a.weight``.

    Raises:
        UserError: the file cannot be read, or holds convolutions of other sizes.
    """
    tensors = torch_files.read_tensors(path)
    names = [name for group in CONVOLUTIONS for name in group]
    for name, kernel in zip(names, _kernels(tensors, path), strict=False):
        layer = network.get_layer(name)
        _assign(layer.kernel, tensors[kernel].transpose(_KERNEL), kernel, path)
        _assign(layer.bias, _bias_of(tensors, kernel, path), kernel, path)
    _load_fc6(network, tensors, path)


def _kernels(tensors: dict[str, np.ndarray], path: str) -> list[str]:
    """Names of convolutions over time, in the order of their numbers."""
    kernels = sorted((name for name, value in tensors.items() if value.ndim == 5), key=_by_number)
    number = sum(len(group) for group in CONVOLUTIONS)
    if len(kernels) < number:
        raise UserError(f"--backbone_weights={path}: {len(kernels)} convolutions over time; C3D has {number}")
    return kernels


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts features.2 before features.10, and conv3a before conv3b."""
    digits = "".join(letter if letter.isdigit() else " " for letter in name).split()
    return [(int(digits[0]) if digits else 0, name)]


def _load_fc6(network: keras.Model, tensors: dict[str, np.ndarray], path: str) -> None:
    """Its input is by channel, step, row and column there, and by step, row, column and channel here."""
    kernel = network.get_layer("fc6").kernel
    _, inputs, hidden = kernel.shape
    fitting = [name for name, value in tensors.items() if value.shape == (hidden, inputs)]
    if not fitting:
        print(f"--backbone_weights={path}: no fc6 of {inputs} x {hidden} in it; that layer begins with random weights")
        return
    name = fitting[0]
    values = tensors[name].reshape(hidden, -1, *BINS).transpose(2, 3, 4, 1, 0)
    _assign(kernel, values.reshape(1, inputs, hidden), name, path)
    _assign(network.get_layer("fc6").bias, _bias_of(tensors, name, path), name, path)


def _bias_of(tensors: dict[str, np.ndarray], name: str, path: str) -> np.ndarray:
    bias = name.removesuffix("weight") + "bias"
    if bias not in tensors:
        raise UserError(f"--backbone_weights={path}: no '{bias}' beside '{name}'")
    return tensors[bias]


def _assign(weight: keras.Variable, values: np.ndarray, name: str, path: str) -> None:
    _check(values, tuple(weight.shape), name, path)
    weight.assign(values)


def _check(values: np.ndarray, shape: tuple[int, ...], name: str, path: str) -> None:
    if values.shape != shape or not np.isfinite(values).all():
        raise UserError(
            f"--backbone_weights={path}: '{name}': expected finite numbers of shape {list(shape)}, found "
            f"{list(values.shape)} (as this package orders them; another --backbone_channels?)"
        )

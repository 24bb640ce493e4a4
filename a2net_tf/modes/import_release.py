"""``--mode=import_release``: a PyTorch checkpoint of the authors' release becomes a run that all other modes can use.

| release | here |
|---|---|
| features.base_feature_net.conv1, conv2 | base1, base2 |
| features.conv1..6 | conv1..6 |
| af.reduce_channels.conv1..6 | anchor_free_reduce1..6 |
| af.pred.cls_branch.conv1, conv2, pred | anchor_free_class_conv1, _conv2, _predict |
| af.pred.reg_branch.conv1, conv2, pred | anchor_free_distance_conv1, _conv2, _predict |
| af.scale0..5.scale (it has a seventh, unused) | anchor_free_scale1..6 |
| ab.pred1..6 | anchor_based_predict1..6 |

A ``weight`` [out, in, kernel] becomes a kernel [kernel, in, out]. The channels of ``ab.pred`` are in our order already:
anchor by anchor, and of each the class scores (background first), overlap, centre and width.
"""

import dataclasses
import pathlib
import re
import zipfile
from typing import Any

import keras
import numpy as np

from a2net_tf import safe_files, settings
from a2net_tf.data import prepared
from a2net_tf.errors import UserError
from a2net_tf.settings import Config
from a2net_tf.training import run_directory
from a2net_tf.training.run_directory import Run

SECONDS_PER_STEP = 4 / 30  # the release takes every video for one of 30 fps, with a feature vector every 4 frames
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")


def import_release(config: Config, given: frozenset[str]) -> None:
    """Writes the weights of ``config.release_checkpoint`` as a run to ``config.workdir``.

    Class names are those of ``config.dataset``, whose classes must be in the release's order (on THUMOS14 that of the
    challenge's ``detclasslist.txt``); without one they are class0, class1, ... The sizes of the network are read from
    the shapes of the tensors; the length of a window, the anchor ratios and which branches to take are settings.

    Args:
        config: settings of this command.
        given: names of those that the user gave; the file must not contradict them.

    Raises:
        UserError: an unreadable file, tensors that are missing or have wrong shapes, contradicted settings, or a
            working directory that holds a run already.
    """
    settings.require(config, "release_checkpoint", "workdir")
    safe_files.check_writable(pathlib.Path(config.workdir) / "run.json")
    with run_directory.only_writer(config.workdir):
        _import_release(config, given)


def _import_release(config: Config, given: frozenset[str]) -> None:
    if run_directory.exists(config.workdir):
        raise UserError(f"--workdir={config.workdir}: holds a run already; import into another one")
    tensors = read_checkpoint(config.release_checkpoint)
    current = describe(tensors, config, given)
    network = run_directory.build_network(current)
    left_out = assign(network, tensors, current.config)
    run_directory.save_weights(network, run_directory.weights_path(current, "last"))
    run_directory.save(current)  # last: its run.json says that all is there
    _report(current, len(tensors), network.count_params(), left_out)


def read_checkpoint(path: str) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch checkpoint by name, as float32. Nothing in the file is ever run.

    Args:
        path: a file of ``torch.save``: a state dict, or a dict with one under ``state_dict``, ``model``,
            ``model_state_dict`` or ``net``. A ``module.`` before every name is taken off.

    Raises:
        UserError: torch is missing, the file cannot be read, would have to run code, or holds no tensors, or one that
            is not all there.
    """
    try:
        import torch
    except ImportError:
        raise UserError('reading a PyTorch checkpoint needs torch: pip install ".[release]" in the checkout') from None
    if not pathlib.Path(path).is_file():
        raise UserError(f"--release_checkpoint={path}: no such file")
    named = _unwrap(_load(torch, path))
    tensors = {name: t for name, t in named.items() if isinstance(t, torch.Tensor)}
    for name, tensor in tensors.items():
        _check_tensor(torch, name, tensor, path)
    if not tensors:
        listed = ", ".join(map(str, list(named)[:8])) or "nothing"
        raise UserError(f"{path}: no tensors in it, found {listed}; expected a state dict, or one under {_WRAPPERS}")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): t for name, t in tensors.items()}
    return {name: t.detach().to(torch.float32).numpy() for name, t in tensors.items()}


def _check_tensor(torch: Any, name: object, tensor: Any, path: str) -> None:
    """Raises UserError unless a tensor has a name and holds real numbers, each of them in the file.

    A few bytes can declare gigabytes: a tensor without data, or one whose numbers are all the same byte.
    """
    where = f"{path}: tensor {str(name)[:80]!r}"
    if not isinstance(name, str):
        raise UserError(f"{where}: its name is no text; expected a state dict, torch.save(model.state_dict(), FILE)")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise UserError(f"{where}: expected a dense tensor of real numbers, found {kind}".replace("torch.", ""))
    stored = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > stored:
        raise UserError(f"{where}: declares {list(tensor.shape)} numbers, but only {stored} bytes are in the file")


def _load(torch: Any, path: str) -> Any:
    """What ``torch.save`` wrote, if it is tensors and plain Python values."""
    try:
        if zipfile.is_zipfile(path):  # torch.save packs nothing; what is packed may unpack to any size
            with zipfile.ZipFile(path) as archive:
                declared = sum(entry.file_size for entry in archive.infolist())
            if declared > pathlib.Path(path).stat().st_size:
                raise ValueError(f"its members declare {declared} bytes, more than the file has")
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged file makes torch raise anything: KeyError, EOFError, RuntimeError, ...
        if type(error).__name__ == "UnpicklingError":
            raise UserError(
                f"{path}: refused: it holds more than tensors, and reading that would run code that the file brings "
                "along; save the weights alone, torch.save(model.state_dict(), FILE)"
            ) from None
        detail = str(error).splitlines()[0][:200] if str(error) else "it ends too early"
        raise UserError(f"{path}: damaged, or no PyTorch checkpoint ({detail})") from None


def _unwrap(loaded: Any) -> dict[str, Any]:
    """The state dict in ``loaded``; empty if that is no dict."""
    if not isinstance(loaded, dict):
        return {}
    for _ in _WRAPPERS:  # one inside another, but not for ever: a dict can hold itself
        inner = [loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict)]
        loaded = inner[0] if inner else loaded
    return loaded


def tensor_names(config: Config) -> dict[str, str]:
    """The release's tensor -> our layer and weight (``conv1/kernel``), for the levels and branches of ``config``."""
    levels = range(1, config.num_levels + 1)
    layers = {f"features.base_feature_net.conv{i}": f"base{i}" for i in (1, 2)}
    layers.update({f"features.conv{i}": f"conv{i}" for i in levels})
    if config.anchor_free:
        layers.update({f"af.reduce_channels.conv{i}": f"anchor_free_reduce{i}" for i in levels})
        for theirs, ours in (("cls_branch", "anchor_free_class"), ("reg_branch", "anchor_free_distance")):
            layers.update({f"af.pred.{theirs}.conv{i}": f"{ours}_conv{i}" for i in (1, 2)})
            layers[f"af.pred.{theirs}.pred"] = f"{ours}_predict"
    if config.anchor_based:
        layers.update({f"ab.pred{i}": f"anchor_based_predict{i}" for i in levels})
    names = {}
    for theirs, ours in layers.items():
        names.update({f"{theirs}.weight": f"{ours}/kernel", f"{theirs}.bias": f"{ours}/bias"})
    if config.anchor_free:
        names.update({f"af.scale{i - 1}.scale": f"anchor_free_scale{i}/scale" for i in levels})
    return names


def describe(tensors: dict[str, np.ndarray], config: Config, given: frozenset[str]) -> Run:
    """The run that the tensors belong to; its shapes are not checked yet.

    Args:
        tensors: of ``read_checkpoint``.
        config: settings of this command.
        given: names of the settings that the file must not contradict.

    Raises:
        UserError: missing tensors, contradicted settings, or a dataset with other sizes.
    """
    sizes = _read_sizes(tensors, config)
    _refuse_contradictions(config, given, sizes)
    config = dataclasses.replace(config, **sizes, normalize=False, checkpoint="last")
    settings.check(config)
    return Run(
        config=config,
        class_names=_class_names(config),
        num_features=config.num_features,
        statistics=None,
        num_windows=0,
        seconds_per_step=config.seconds_per_step or SECONDS_PER_STEP,
        first_step_seconds=0.0,
        precision="float32",  # of the release
    )


def _read_sizes(tensors: dict[str, np.ndarray], config: Config) -> dict[str, Any]:
    """The settings that the shapes of the tensors decide."""
    matches = [re.fullmatch(r"features\.conv(\d+)\.weight", name) for name in tensors]
    num_levels = max((int(match[1]) for match in matches if match), default=config.num_levels)
    missing = [name for name in tensor_names(dataclasses.replace(config, num_levels=num_levels)) if name not in tensors]
    if missing:
        raise UserError(
            f"{config.release_checkpoint}: {len(missing)} tensors of the release's network are missing: "
            f"{', '.join(missing)}; it has {len(tensors)}: {', '.join(list(tensors)[:4])}, ..."
        )

    def size(name: str, axis: int) -> int:
        return (*tensors[f"{name}.weight"].shape, 1, 1)[axis]  # of a wrong number of dimensions, so as to go on

    if config.anchor_free:
        num_logits = size("af.pred.cls_branch.pred", 0)
        head_channels = size("af.reduce_channels.conv1", 0)
    else:
        num_logits = size("ab.pred1", 0) // len(config.anchor_ratios) - 3
        head_channels = config.head_channels
    return {
        "num_features": size("features.base_feature_net.conv1", 1),
        "num_classes": max(num_logits - 1, 1),
        "num_levels": num_levels,
        "base_channels": size("features.base_feature_net.conv1", 0),
        "level_channels": tuple(size(f"features.conv{i}", 0) for i in range(1, num_levels + 1)),
        "head_channels": head_channels,
    }


def _refuse_contradictions(config: Config, given: frozenset[str], sizes: dict[str, Any]) -> None:
    wrong = []
    for name, size in {**sizes, "normalize": False}.items():
        wanted = getattr(config, name)
        if name == "level_channels":
            wanted = wanted[: sizes["num_levels"]]
        if name in given and wanted != size:
            wrong.append(f"--{name}={_as_flag(wanted)} (the file: {_as_flag(size)})")
    if wrong:
        raise UserError(f"{config.release_checkpoint} contradicts {', '.join(wrong)}; drop these flags")


def _as_flag(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _class_names(config: Config) -> list[str]:
    """Those of the dataset, or else class0, class1, ..."""
    if not config.dataset:
        return [f"class{i}" for i in range(config.num_classes)]
    builder = prepared.open_dataset_of(config)
    names, num_features = prepared.class_names(builder), prepared.num_features(builder)
    if (len(names), num_features) != (config.num_classes, config.num_features):
        raise UserError(
            f"{builder.info.full_name} has {len(names)} classes and {num_features} values per step, but the network in "
            f"{config.release_checkpoint} {config.num_classes} and {config.num_features}"
        )
    return names


def assign(network: keras.Model, tensors: dict[str, np.ndarray], config: Config) -> list[str]:
    """Puts the tensors in their places; returns the names of those for which there is none.

    Args:
        network: of ``build_model``; changed in place, and left as it is after an error.
        tensors: of ``read_checkpoint``.
        config: levels and branches of the network.

    Raises:
        UserError: tensors of another shape, all in one message, or numbers that are not finite.
    """
    weights = {"/".join(w.path.split("/")[-2:]): w for w in network.trainable_variables}
    names = tensor_names(config)
    wrong, values = [], {}
    for theirs, ours in names.items():
        expected = list(weights[ours].shape)[::-1] or [1]  # reversed, [kernel, in, out] is [out, in, kernel]
        shape = list(tensors[theirs].shape) or [1]
        if shape != expected:
            wrong.append(f"{theirs} is {shape}, expected {expected}")
        elif not np.isfinite(tensors[theirs]).all():
            wrong.append(f"{theirs} holds NaN or infinite numbers")
        else:
            values[ours] = tensors[theirs].transpose().reshape(weights[ours].shape)
    if wrong:
        raise UserError(f"{config.release_checkpoint}: {len(wrong)} tensors do not fit: {'; '.join(wrong)}")
    for ours, value in values.items():
        weights[ours].assign(value)
    return sorted(set(tensors) - set(names))


def _report(current: Run, num_tensors: int, num_weights: int, left_out: list[str]) -> None:
    config = current.config
    print(
        f"{config.release_checkpoint}: {num_tensors} tensors, {num_tensors - len(left_out)} of them used "
        f"({num_weights:,} weights); left out: {', '.join(left_out) or 'none'}"
    )
    print(
        f"network: {current.num_features} features, {config.num_levels} levels of {_as_flag(config.level_channels)} "
        f"channels, {len(current.class_names)} classes; one step is {current.seconds_per_step:.4f} s"
    )
    if not config.dataset:
        print("classes are called class0, class1, ...; to evaluate, import with the --dataset that names them")
    print(f"written: {config.workdir}; the release squashes overlaps: --overlap_score=sigmoid gives its scores")

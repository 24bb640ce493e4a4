"""What a training run leaves in its working directory, and how later commands read it.

flags.txt             resolved settings, usable with --flagfile
run.json              settings, what auto has become of some, classes, time base, versions, commit
statistics.npz        mean and variance of the training features
last.npz              network weights after the last finished epoch (averaged if --ema_momentum), by name
best.npz              ... of the epoch with the best validation mAP, if there is a --validation_split
state/                everything that resuming needs
tuning.json           settings that --mode=tune has chosen, and all that it has tried
history.csv, logs/    per-epoch numbers, seconds among them, and the same for TensorBoard
.lock                 while a command trains here: which one
"""

import contextlib
import dataclasses
import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np

from a2net_tf import __version__, locks, safe_files, settings
from a2net_tf.data.files.array_files import read_arrays
from a2net_tf.data.labels import check_also_reported, check_class_names
from a2net_tf.detection.precision import AUTO
from a2net_tf.errors import UserError
from a2net_tf.rc3d.network import build_network as build_described
from a2net_tf.safe_files import check_kind, read_json_object, read_table, replace_file, write_json, write_text
from a2net_tf.settings import Config


class Run(NamedTuple):
    """A training run as its directory describes it."""

    config: Config
    class_names: list[str]
    num_features: int
    statistics: tuple[np.ndarray, np.ndarray] | None
    num_windows: int
    seconds_per_step: float
    first_step_seconds: float
    also_reported: Mapping[str, str] = MappingProxyType({})  # {class: a class that each of its detections also has}
    precision: str = ""  # that --precision=auto has become
    folder: str = ""  # in which it was trained: relative paths of the settings begin there
    extraction: Mapping[str, Any] = MappingProxyType({})  # how its features are made of videos, if that is known
    jit_compile: bool = False  # that auto has become, as the next
    deterministic: bool = True

    @property
    def computed(self) -> Config:
        """The settings with what their auto has become, where the run was started."""
        left_open = [name for name in _DECIDED if getattr(self.config, name) == AUTO and getattr(self, name) != ""]
        return dataclasses.replace(self.config, **{name: getattr(self, name) for name in left_open})


# Settings whose auto is decided by the device that a run is started on.
_DECIDED = ("precision", "jit_compile", "deterministic")
# Settings that are gone, which runs of older versions still have, with the value that had no effect.
_REMOVED = {"residual": False, "drop_path": 0.0, "center_sampling": 0.0}
# What training writes beside the state.
TUNING = "tuning.json"
_FILES = ("flags.txt", "run.json", "statistics.npz", "last.npz", "best.npz", "history.csv")


@contextlib.contextmanager
def only_writer(workdir: str) -> Iterator[None]:
    """Only one command at a time trains in a directory; what killed ones have left half written there is removed.

    Those that only read a run are not hindered: every file is replaced in one step.

    Raises:
        UserError: another command is at it, or the directory cannot be written.
    """
    with locks.hold(pathlib.Path(workdir, ".lock"), workdir):
        safe_files.sweep(workdir, _FILES)
        yield


def exists(workdir: str) -> bool:
    """Whether ``workdir`` holds a run."""
    return pathlib.Path(workdir, "run.json").exists()


def save(run: Run) -> None:
    """Writes flags.txt, statistics.npz and, last, run.json (its presence marks the others as complete)."""
    folder = pathlib.Path(run.config.workdir)
    write_text(folder / "flags.txt", settings.to_flagfile(run.config))
    if run.statistics is not None:
        _save_arrays(folder / "statistics.npz", {"mean": run.statistics[0], "variance": run.statistics[1]})
    description = run._asdict()
    description.pop("statistics")
    description.update(also_reported=dict(run.also_reported), extraction=dict(run.extraction))
    description.update({name: getattr(run.computed, name) for name in _DECIDED})
    description.update(config=settings.to_dict(run.config), versions=versions(), commit=commit())
    write_json(folder / "run.json", description)


def load(workdir: str) -> Run:
    """Reads a run.

    Raises:
        UserError: there is none, or its files are damaged.
    """
    path = pathlib.Path(workdir, "run.json")
    if not path.exists():
        raise UserError(f"--workdir={workdir}: no trained model here (run.json is missing)")
    description = read_json_object(path)
    try:
        config = settings.from_dict(_without_removed(description["config"], path))
        for name in _DECIDED:
            description.setdefault(name, getattr(config, name))  # runs of older versions: there was no auto
        description.setdefault("folder", "")
        description.setdefault("extraction", {})
        values = {name: description[name] for name in Run._fields if name not in ("config", "statistics")}
        _check_description(values, str(path))
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: damaged ({error})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error})") from None
    statistics = _load_statistics(path.parent / "statistics.npz", values["num_features"]) if config.normalize else None
    return Run(config=config, statistics=statistics, **values)


def _without_removed(config: dict[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """Raises UserError for a run that was trained with what is gone."""
    for name, unused in _REMOVED.items():
        if config.get(name, unused) != unused:
            raise UserError(
                f"{path}: trained with --{name}={config[name]}, which this version no longer has: use an older one"
            )
    return {name: value for name, value in config.items() if name not in _REMOVED}


def _check_description(values: dict[str, Any], path: str) -> None:
    """Raises UserError unless everything that a run says of itself has the type that it was written with."""
    where = f"{path}: class_names"
    names = [check_kind(name, str, where) for name in check_kind(values["class_names"], list, where)]
    check_class_names(names, where)
    for name, least in (("num_features", 1), ("num_windows", 0)):
        if type(values[name]) is not int or not least <= values[name] < 2**31:
            raise UserError(f"{path}: {name}: expected a whole number from {least} on, found {values[name]!r}")
    for name in ("seconds_per_step", "first_step_seconds"):
        check_kind(values[name], float, f"{path}: {name}")
    if values["seconds_per_step"] <= 0:
        raise UserError(f"{path}: seconds_per_step: expected a number above 0, found {values['seconds_per_step']}")
    for name in ("precision", "folder"):
        check_kind(values[name], str, f"{path}: {name}")
    for name in ("jit_compile", "deterministic"):
        if not isinstance(values[name], bool):
            raise UserError(f"{path}: {name}: expected true or false, found {values[name]!r}")
    check_kind(values["extraction"], dict, f"{path}: extraction")
    where = f"{path}: also_reported"
    check_also_reported(check_kind(values["also_reported"], dict, where), names, where)


def write_tuning(run: Run, tuning: Mapping[str, Any]) -> pathlib.Path:
    """Keeps what ``--mode=tune`` has found with the run, and for how many epochs of it; an earlier file is kept."""
    path = pathlib.Path(run.config.workdir, TUNING)
    write_json(path, {**tuning, "epochs": run.config.epochs}, keep_earlier=True)
    return path


def read_tuning(workdir: str) -> dict[str, Any] | None:
    """What ``--mode=tune`` has written, with ``chosen`` as settings have it; None if it was not run.

    Raises:
        UserError: the file is damaged.
    """
    path = pathlib.Path(workdir, TUNING)
    if not path.exists():
        return None
    tuning = read_json_object(path)
    chosen = safe_files.get_value(tuning, "chosen", str(path), kind=dict)
    if unknown := sorted(chosen.keys() - set(settings.EVALUATION_SETTINGS)):
        raise UserError(f"{path}: damaged ('chosen' has '{unknown[0]}', which is no setting of localization)")
    safe_files.get_value(tuning, "split", str(path), kind=str)
    safe_files.get_value(tuning, "epochs", str(path), kind=float)
    for scores in ("own", "tuned"):
        for branch, score in safe_files.get_value(tuning, scores, str(path), kind=dict).items():
            check_kind(score, float, f"{path}: {scores}: {branch}")
    return tuning


def to_continue(saved: Run, requested: Config) -> Config:
    """The settings with which a command goes on with a run: always in the precision that it was started in, and with
    XLA and op determinism as then.

    Raises:
        UserError: another value is asked for of a setting that a run is bound to.
    """
    left_open = [name for name in _DECIDED if getattr(requested, name) == AUTO]
    as_started = {name: getattr(saved.computed, name) for name in left_open}
    settings.refuse_changes(saved.computed, dataclasses.replace(requested, **as_started), settings.TRAINING_SETTINGS)
    return dataclasses.replace(requested, **{name: getattr(saved.config, name) for name in _DECIDED})


def with_found_paths(run: Run) -> Run:
    """The run with the paths of its data as they are called from the current folder, if it was trained in another.

    What lies where the run was trained counts, and not what happens to have the same relative path here. Says so where
    there are both. A run that was moved to another machine together with its data finds it here.
    """
    if not run.folder or pathlib.Path(run.folder) == pathlib.Path.cwd():
        return run
    found = {}
    for name in ("data_dir", "manual_dir", "dataset"):
        given = getattr(run.config, name)
        here, there = pathlib.Path(given), pathlib.Path(run.folder, given)
        if not given or here.is_absolute() or not there.is_dir():
            continue
        found[name] = str(there)
        if here.is_dir() and not here.samefile(there):
            print(f"{run.config.workdir}: --{name}={there}, as when it was trained, and not {given} here")
    return run._replace(config=dataclasses.replace(run.config, **found))


def _load_statistics(path: pathlib.Path, num_features: int) -> tuple[np.ndarray, np.ndarray]:
    arrays = read_arrays(path, ["mean", "variance"])
    for name, array in arrays.items():
        if array.shape != (num_features,):
            raise UserError(f"{path}: damaged; expected {name} of shape {(num_features,)}, found {array.shape}")
    _check_numbers(arrays, f"{path}: damaged")
    if (arrays["variance"] < 0).any():
        raise UserError(f"{path}: damaged; a variance is below 0")
    return arrays["mean"], arrays["variance"]


def random_features(run: Run, *shape: int) -> np.ndarray:
    """f32[*shape, D] that resemble the training features; the same in every call."""
    mean, variance = run.statistics or (0.0, 1.0)
    return np.random.default_rng(0).normal(mean, np.sqrt(variance), (*shape, run.num_features)).astype(np.float32)


def read_history(workdir: str) -> list[dict[str, Any]]:
    """The rows of history.csv as texts, but ``epoch`` as int and ``seconds``, where it is there, as float.

    Raises:
        UserError: the file is damaged.
    """
    path = pathlib.Path(workdir, "history.csv")
    rows = read_table(path, ["epoch"]) if path.exists() else []
    for where, row in rows:
        try:
            row["epoch"] = int(row["epoch"])
            if row.get("seconds"):
                row["seconds"] = float(row["seconds"])
        except (ValueError, TypeError) as error:
            raise UserError(f"{where}: damaged ({error})") from None
    return [row for _, row in rows]


def training_seconds(workdir: str) -> float | None:
    """Wall time of all epochs in history.csv; None if that of an epoch is not in it.

    Raises:
        UserError: the file is damaged.
    """
    rows = read_history(workdir)
    seconds = [row["seconds"] for row in rows if row.get("seconds")]
    return sum(seconds) if seconds and len(seconds) == rows[-1]["epoch"] else None


def build_network(run: Run) -> keras.Model:
    """The run's network for training windows, with fresh weights."""
    return build_described(run.computed, run.num_features, len(run.class_names), statistics=run.statistics)


def build_inference_network(run: Run) -> keras.Model:
    """The same for inference: its windows' length changes no weight, nor the name of one; weights in the precision."""
    config = dataclasses.replace(run.computed, window_steps=run.config.inference_steps)
    names = run.class_names
    return build_described(config, run.num_features, len(names), statistics=run.statistics, for_inference=True)


def load_network(run: Run) -> keras.Model:
    """The run's network for inference windows, with the weights of ``run.config.checkpoint``.

    Raises:
        UserError: no such checkpoint, or one of another architecture.
    """
    path = weights_path(run, run.config.checkpoint)
    if not path.exists():
        hint = (
            "best is kept only with --validation_split" if run.config.checkpoint == "best" else "no epoch has finished"
        )
        raise UserError(f"{path}: no such checkpoint ({hint})")
    arrays = read_arrays(path)
    _check_sizes(run, arrays, path)
    network = build_inference_network(run)
    expected = {weight.path: tuple(weight.shape) for weight in network.weights}
    stored = {name: array.shape for name, array in arrays.items()}
    wrong = sorted(name for name in expected.keys() | stored.keys() if expected.get(name) != stored.get(name))
    if wrong:
        first = f"{wrong[0]}: expected {expected.get(wrong[0], 'nothing')}, found {stored.get(wrong[0], 'nothing')}"
        raise UserError(
            f"{path}: damaged, or of another architecture than run.json says: {len(wrong)} weights differ ({first})"
        )
    _check_numbers(arrays, f"{path}: damaged")
    for weight in network.weights:
        weight.assign(arrays[weight.path])
    return network


def _check_sizes(run: Run, arrays: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Raises UserError before a network is built that has nothing to do with the weights, and may fit no memory."""
    config = run.config
    first, end = config.feature_columns or (0, run.num_features)
    sizes = {"classes": len(run.class_names), "--base_channels": config.base_channels}
    if not config.looks_at_pixels:
        sizes["features"] = end - first
        sizes["--level_channels"] = max(config.level_channels[: config.num_levels])
    else:
        sizes["--backbone_channels"] = max(config.backbone_channels)
    if config.anchor_free:
        sizes["--head_channels"] = config.head_channels
    if config.stages == 2:
        sizes["--proposal_channels"] = config.proposal_channels
    if config.step_classifier:
        sizes["--step_channels"] = config.step_channels
    if config.anchor_based:
        sizes["--anchor_ratios"] = len(config.anchor_ratios)
    largest = max((size for array in arrays.values() for size in array.shape), default=0)
    for name, size in sizes.items():
        if size > largest:
            raise UserError(
                f"{path}: damaged, or of another architecture than run.json says: {name}: {size}, but no weight is "
                f"larger than {largest}"
            )


def weights_path(run: Run, checkpoint: str) -> pathlib.Path:
    """Where the network's weights of a checkpoint (last or best) are."""
    return pathlib.Path(run.config.workdir, f"{checkpoint}.npz")


def save_weights(network: keras.Model, path: pathlib.Path) -> None:
    """Writes all weights by their names; a killed run leaves the old file or the new one, never half of one.

    Not Keras's HDF5 format: its library brings the process down when the disk is full, and loading it takes the weights
    of another architecture as far as names agree.
    """
    arrays = {weight.path: np.asarray(weight) for weight in network.weights}
    _check_numbers(
        arrays, f"{path}: not written; training has diverged (a lower --learning_rate or --clip_norm=1 helps)"
    )
    _save_arrays(path, arrays)


def _check_numbers(arrays: dict[str, np.ndarray], where: str) -> None:
    """Raises UserError for the first array that holds anything but finite numbers: detections would mean nothing."""
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
            raise UserError(f"{where}: {name}: expected numbers, found {array.dtype}")
        bad = ~np.isfinite(array.astype(np.float32))
        if bad.any():
            raise UserError(f"{where}: {name}: {int(bad.sum())} of {array.size} numbers are NaN or infinite")


def _save_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    with replace_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("tensorflow", "keras", "numpy", "tfds-nightly")
    installed = {name: importlib.metadata.version(name) for name in names}
    return {"a2net-tf": __version__, "python": platform.python_version(), **installed}


def commit() -> str | None:
    """Commit of the checkout that the package runs from, or None."""
    folder = pathlib.Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None

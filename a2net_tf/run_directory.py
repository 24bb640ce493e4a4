"""What a training run leaves in its working directory, and how later commands read it.

flags.txt             resolved settings, usable with --flagfile
run.json              settings, classes, time base, versions, commit
statistics.npz        mean and variance of the training features
last.weights.h5       network weights after the last finished epoch (averaged ones if --ema_momentum)
best.weights.h5       ... of the epoch with the best validation mAP, if there is a --validation_split
state/                everything that resuming needs
history.csv, logs/    per-epoch numbers, and the same for TensorBoard
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from typing import NamedTuple

import keras
import numpy as np

from a2net_tf import __version__
from a2net_tf import config as settings
from a2net_tf.config import Config
from a2net_tf.errors import UserError
from a2net_tf.model import build_model
from a2net_tf.results import write_json, write_text


class Run(NamedTuple):
    """A training run as its directory describes it."""

    config: Config
    class_names: list[str]
    num_features: int
    statistics: tuple[np.ndarray, np.ndarray] | None
    num_windows: int
    seconds_per_step: float
    first_step_seconds: float


def exists(workdir: str) -> bool:
    """Whether ``workdir`` holds a run."""
    return pathlib.Path(workdir, "run.json").exists()


def save(run: Run) -> None:
    """Writes flags.txt, statistics.npz and, last, run.json (its presence marks the others as complete)."""
    folder = pathlib.Path(run.config.workdir)
    write_text(folder / "flags.txt", settings.to_flagfile(run.config))
    if run.statistics is not None:
        temporary = folder / "statistics.tmp.npz"
        np.savez(temporary, mean=run.statistics[0], variance=run.statistics[1])
        os.replace(temporary, folder / "statistics.npz")
    description = run._asdict()
    description.pop("statistics")
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
    try:
        description = json.loads(path.read_text())
        config = settings.from_dict(description["config"])
        values = {name: description[name] for name in Run._fields if name not in ("config", "statistics")}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error!r})") from None
    return Run(config=config, statistics=_load_statistics(path.parent, config), **values)


def _load_statistics(folder: pathlib.Path, config: Config) -> tuple[np.ndarray, np.ndarray] | None:
    if not config.normalize:
        return None
    try:
        with np.load(folder / "statistics.npz", allow_pickle=False) as arrays:
            return arrays["mean"], arrays["variance"]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{folder / 'statistics.npz'}: cannot be read ({error})") from None


def build_network(run: Run) -> keras.Model:
    """The run's network with fresh weights."""
    return build_model(run.config, run.num_features, len(run.class_names), statistics=run.statistics)


def load_network(run: Run) -> keras.Model:
    """The run's network with the weights of ``run.config.checkpoint``.

    Raises:
        UserError: no such checkpoint, or one of another architecture.
    """
    path = pathlib.Path(run.config.workdir, f"{run.config.checkpoint}.weights.h5")
    if not path.exists():
        reason = (
            "best is kept only with --validation_split" if run.config.checkpoint == "best" else "no epoch has finished"
        )
        raise UserError(f"{path}: no such checkpoint ({reason})")
    network = build_network(run)
    try:
        network.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        detail = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: damaged, or of another architecture than run.json says: {detail}") from None
    return network


def save_weights(network: keras.Model, path: pathlib.Path) -> None:
    """Writes beside, then renames: a killed run leaves the old weights or the new ones, never half."""
    temporary = path.with_name(path.name.replace(".weights.h5", ".tmp.weights.h5"))
    network.save_weights(temporary)
    os.replace(temporary, path)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("tensorflow", "keras", "numpy", "tfds-nightly")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"a2net-tf": __version__, "python": platform.python_version(), **found}


def commit() -> str | None:
    """Commit of the checkout that the package runs from, or None."""
    folder = pathlib.Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None

"""The commands from Python: settings are keyword arguments, results are returned, mistakes are UserErrors.

``a2net_tf`` itself offers these names; TensorFlow is loaded when one of them is called. Messages name settings as the
command line does (``--epochs``).
"""

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from a2net_tf import settings
from a2net_tf.errors import UserError
from a2net_tf.native_logs import quiet_native_logs, without_garbage_collection
from a2net_tf.settings import Config

if TYPE_CHECKING:
    from a2net_tf.inference.detector import Detector

Path = str | os.PathLike


def load(model: Path | Sequence[Path], **changes: Any) -> "Detector":
    """A trained or exported model, ready to detect.

    Args:
        model: folder of a run, or of a SavedModel; or several runs, whose candidates are merged: a list, or "A,B".
        **changes: settings that win over those of training: ``nms_tiou=0.5``, ``checkpoint="best"``, ... A SavedModel
            was exported with them and takes none that differ.

    Raises:
        UserError: no model there, a damaged one, or a setting that is fixed in it.
    """
    folder = os.fspath(model) if isinstance(model, Path) else ",".join(map(os.fspath, model))
    if pathlib.Path(folder, "saved_model.pb").exists():
        setting = "saved_model"
    elif pathlib.Path(folder.split(",")[0], "run.json").exists():
        setting = "workdir"
    else:
        raise UserError(f"{folder}: neither a trained run (run.json is missing) nor a SavedModel (saved_model.pb is)")
    config, given = settings.parse_keywords({"mode": "predict", setting: folder, **changes})
    with quiet_native_logs(), without_garbage_collection():
        from a2net_tf.inference import detector
    return detector.load(config, given)


def train(*, flagfile: Path | None = None, **changes: Any) -> pathlib.Path:
    """Trains a run, or goes on with it where it was stopped, as ``--mode=train`` does.

    The seeds of Python, numpy and TensorFlow are set, as a run is to depend on its settings alone.

    Args:
        flagfile: settings in a file, such as ``configs/hapt.flags``.
        **changes: settings, which win over the flagfile: ``workdir="runs/mine"``, ``epochs=5``, ...

    Returns:
        The folder of the run, for ``load``.

    Raises:
        UserError: an unknown or contradictory setting, data that cannot be used, a run with other settings.
    """
    config, given = settings.parse_keywords({"mode": "train", **changes}, flagfile=flagfile)
    _run(config, given)
    return pathlib.Path(config.workdir)


def evaluate(*, flagfile: Path | None = None, **changes: Any) -> dict:
    """Scores a run on ``eval_split``, prints the tables and writes the files of ``--mode=evaluate``.

    Args:
        flagfile: as for ``train``.
        **changes: as for ``train``; those that are not given are as in training.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        UserError: no run in ``workdir``, or a setting that contradicts it.
    """
    return command("evaluate", flagfile=flagfile, **changes)


def command(mode: str, *, flagfile: Path | None = None, **changes: Any) -> Any:
    """Any other mode of the command line: ``command("export", workdir="runs/mine", saved_model="model")``.

    Args:
        mode: as ``--mode``.
        flagfile: as for ``train``.
        **changes: as for ``train``.

    Returns:
        The metrics that are written, of evaluate, train_and_evaluate, score and profile; else None.

    Raises:
        UserError: anything that the user can mend.
    """
    config, given = settings.parse_keywords({"mode": mode, **changes}, flagfile=flagfile)
    return _run(config, given)


def _run(config: Config, given: frozenset[str]) -> Any:
    with quiet_native_logs(), without_garbage_collection():
        from a2net_tf.modes import command as commands
    return commands.run(config, given)

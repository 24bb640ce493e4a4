"""Opening an exported model (SavedModel) and asking it what it is.

TensorFlow runs what a SavedModel says, and that can read and write any file. Nothing here makes a stranger's model
safe; the checks find damage, and models that were written by something else.
"""

import hashlib
import math
import pathlib
from typing import NamedTuple

import tensorflow as tf

from a2net_tf import safe_files
from a2net_tf.data.labels import check_class_names
from a2net_tf.errors import UserError, reason_of

MODEL_CARD = "assets.extra/model_card.json"
_INPUTS = {"features": tf.float32, "num_steps": tf.int32, "seconds_per_step": tf.float32}
_OUTPUTS = {
    "segments": tf.float32,
    "scores": tf.float32,
    "class_ids": tf.int32,
    "labels": tf.string,
    "num_detections": tf.int32,
}


class Description(NamedTuple):
    """What an exported model says of itself."""

    settings: dict  # those that are fixed in it
    class_names: list[str]
    num_features: int
    seconds_per_step: float
    first_step_seconds: float
    extraction: dict  # how its features are made of videos; {} if that is unknown


def open_exported(path: str) -> tuple[tf.Module, Description]:
    """Loads the SavedModel at ``path``, which thereby may do anything: see the note above.

    Raises:
        UserError: there is none, it is damaged, or it is not one of ``--mode=export``.
    """
    if not pathlib.Path(path, "saved_model.pb").exists():
        raise UserError(f"--saved_model={path}: no SavedModel here (saved_model.pb is missing)")
    _refuse_pattern(path)
    try:
        _check_digests(pathlib.Path(path))
        model = tf.saved_model.load(path)
        _check_signature(model)
        return model, _describe(model, f"--saved_model={path}")
    except Exception as error:  # TensorFlow raises almost anything where a SavedModel is damaged
        told = f"damaged, or not written by --mode=export ({reason_of(error)})"
        raise UserError(f"--saved_model={path}: {told}") from None


def _refuse_pattern(path: str) -> None:
    """TensorFlow takes the path of a SavedModel for a pattern of file names, and would find nothing."""
    if letters := safe_files.pattern_letters(path):
        raise UserError(
            f"--saved_model={path}: TensorFlow cannot open a SavedModel whose path holds {' or '.join(letters)}; "
            "rename or move it, or name it by a path without them"
        )


def digests(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of the graph and of each file of variables, by their paths below ``folder``."""
    files = [folder / "saved_model.pb", *sorted((folder / "variables").glob("variables.*"))]
    return {file.relative_to(folder).as_posix(): _digest(file) for file in files}


def _digest(file: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for part in safe_files.read_parts(file):
        digest.update(part)
    return digest.hexdigest()


def _check_digests(folder: pathlib.Path) -> None:
    """Raises ValueError if files are not those that were exported: TensorFlow would not see a changed weight or graph.

    Models without a card, or of older versions, are not looked at.
    """
    card = folder / MODEL_CARD
    written = safe_files.read_json_object(card).get("sha256") if card.exists() else None
    if written is None:
        return
    found = digests(folder)
    if changed := [name for name in sorted(found.keys() | written) if found.get(name) != written.get(name)]:
        raise ValueError(f"{changed[0]} is not the file that {MODEL_CARD} was written with; copied only in part?")


def _check_signature(model: tf.Module) -> None:
    """Raises ValueError unless ``serving_default`` takes and returns what an exported model does."""
    serve = model.signatures["serving_default"]
    inputs = {name: spec.dtype for name, spec in serve.structured_input_signature[1].items()}
    outputs = {name: spec.dtype for name, spec in serve.structured_outputs.items()}
    if (inputs, outputs) != (_INPUTS, _OUTPUTS):
        raise ValueError(f"its serving_default takes {sorted(inputs)} and returns {sorted(outputs)}")


def _describe(model: tf.Module, where: str) -> Description:
    said = {name: value.numpy() for name, value in model.describe().items()}
    description = Description(
        settings=_json_object(said["settings"], f"{where}: settings"),
        class_names=check_class_names([name.decode() for name in said["class_names"]], f"{where}: class names"),
        num_features=int(said["num_features"]),
        seconds_per_step=float(said["seconds_per_step"]),
        first_step_seconds=float(said["first_step_seconds"]),
        extraction=_json_object(said.get("extraction", b"{}"), f"{where}: extraction"),
    )
    size = model.signatures["serving_default"].structured_input_signature[1]["features"].shape[-1]
    if description.num_features != size:
        raise ValueError(f"it says {description.num_features} values per step, and its signature {size}")
    if not (0 < description.seconds_per_step < math.inf and math.isfinite(description.first_step_seconds)):
        raise ValueError(f"its time base is {description.seconds_per_step}, {description.first_step_seconds}")
    return description


def _json_object(text: bytes, where: str) -> dict:
    return safe_files.check_kind(safe_files.parse_json(text.decode(), where), dict, where)

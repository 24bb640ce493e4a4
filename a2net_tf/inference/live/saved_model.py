"""An exported model in a stream."""

import json
import os
from typing import Any

from .stream import Model


def open_saved_model(path: str) -> Model:
    """An exported model. It is a program that can read and write any file: open none of a stranger."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    return of_saved_model(tf.saved_model.load(path))


def of_saved_model(loaded: Any) -> Model:
    """The same of what ``tf.saved_model.load`` returns."""
    import tensorflow as tf

    said = {name: value.numpy() for name, value in loaded.describe().items()}
    raw = loaded.signatures["raw"]
    return Model(
        ask=lambda windows: raw(features=tf.constant(windows)),
        settings=json.loads(said["settings"]),
        class_names=[name.decode() for name in said["class_names"]],
        num_features=int(said["num_features"]),
        seconds_per_step=float(said["seconds_per_step"]),
        first_step_seconds=float(said["first_step_seconds"]),
        also_reported=json.loads(said.get("also_reported", b"{}")),
        classifies_steps="step_scores" in raw.structured_outputs,
    )

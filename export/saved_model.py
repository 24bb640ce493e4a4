"""Writes a trained model as a SavedModel that needs nothing but TensorFlow, and proves it in a fresh process."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from a2net_tf import config as settings
from a2net_tf import results
from a2net_tf.errors import UserError
from a2net_tf.localizer import Localizer
from a2net_tf.postprocess import Candidates, suppress
from a2net_tf.run_directory import Run

_TOLERANCE = 1e-3  # seconds and scores; a wrong unit or weight shows as much more


class Exported(tf.Module):
    """The signatures of an exported model.

    Args:
        localizer: what is evaluated is what is exported.
        run: classes and time base.
    """

    def __init__(self, localizer: Localizer, run: Run):
        super().__init__(name="a2net")
        self.localizer = localizer
        self._description = {
            "class_names": tf.constant(run.class_names),
            "settings": tf.constant(json.dumps(settings.exported_settings(run.config))),
            "num_features": tf.constant(run.num_features),
            "window_steps": tf.constant(run.config.window_steps),
            "seconds_per_step": tf.constant(run.seconds_per_step),
            "first_step_seconds": tf.constant(run.first_step_seconds),
        }
        window = tf.TensorSpec((None, run.config.window_steps, run.num_features), tf.float32, name="features")
        self.serving_default = tf.function(
            localizer.__call__,
            input_signature=[
                tf.TensorSpec((None, None, run.num_features), tf.float32, name="features"),
                tf.TensorSpec((None,), tf.int32, name="num_steps"),
                tf.TensorSpec((None,), tf.float32, name="seconds_per_step"),
            ],
        )
        self.windows = tf.function(self._windows, input_signature=[window])
        self.raw = tf.function(self._raw, input_signature=[window])

    @tf.function(input_signature=[])
    def describe(self) -> dict[str, tf.Tensor]:
        """Classes, feature size, time base, and the settings that are fixed in this model as JSON."""
        return self._description

    def _windows(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detections of each window f32[N, W, D] by itself; ``segments`` are fractions of the window, in [0, 1]."""
        localizer = self.localizer
        found = localizer.window_candidates(features)
        segments = tf.clip_by_value(found.segments, 0.0, 1.0)
        scores = self._merged_scores(found.scores, segments)
        config = localizer.config
        kept = suppress(
            Candidates(segments, scores, found.class_ids),
            tiou=config.nms_tiou,
            max_detections=config.max_detections,
            min_score=config.min_score,
            soft_sigma=config.soft_nms_sigma,
        )
        return localizer.named(kept)

    def _raw(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Candidates of each window f32[N, W, D] before suppression; ``segments`` are fractions of the window."""
        found = self.localizer.window_candidates(features)
        return {**found._asdict(), "scores": self._merged_scores(found.scores, found.segments)}

    def _merged_scores(self, scores: tf.Tensor, segments: tf.Tensor) -> tf.Tensor:
        localizer = self.localizer
        weight = tf.constant(localizer.config.anchor_based_lambda)
        return localizer.merged_scores(scores, segments, branch=localizer.branches[-1], anchor_based_lambda=weight)

    @property
    def signatures(self) -> dict:
        """By name, as ``tf.saved_model.save`` takes them."""
        return {name: getattr(self, name) for name in ("serving_default", "windows", "raw")}


def export(localizer: Localizer, run: Run, path: str, samples: Sequence[dict]) -> float:
    """Writes the SavedModel beside ``path``, checks it in a fresh process, then moves it there.

    Args:
        localizer: of the trained network.
        run: its description.
        path: directory of the SavedModel; an older one there is kept under a numbered name.
        samples: sequences (features f32[T, D], num_steps, feature_stride_seconds) to compare on.

    Returns:
        Largest difference between the detections (seconds or score) of this process and of the fresh one.

    Raises:
        UserError: the path cannot be written, or the reloaded model disagrees.
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    module = Exported(localizer, run)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        written = pathlib.Path(temporary, "saved_model")
        tf.saved_model.save(module, str(written), signatures=module.signatures)
        difference = _check_in_fresh_process(module, written, samples)
        if not difference <= _TOLERANCE:
            raise UserError(
                f"the exported model differs by {difference} from the trained one; nothing was written to {path}"
            )
        results.keep_previous(target)
        shutil.move(written, target)
    return difference


def _check_in_fresh_process(module: Exported, written: pathlib.Path, samples: Sequence[dict]) -> float:
    """Runs ``reload.py`` on the written model; returns the largest difference to this process."""
    arrays = {}
    for i, sample in enumerate(samples):
        features = np.asarray(sample["features"], np.float32)
        arrays[f"features{i}"] = features
        arrays[f"seconds_per_step{i}"] = np.float32(sample["feature_stride_seconds"])
        expected = module.serving_default(
            features[None], np.int32([len(features)]), np.float32([sample["feature_stride_seconds"]])
        )
        arrays.update({f"{name}{i}": value.numpy() for name, value in expected.items() if name != "labels"})
    file = written.parent / "samples.npz"
    np.savez(file, **arrays)
    script = pathlib.Path(__file__).with_name("reload.py")
    command = [sys.executable, str(script), str(written), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"the exported model cannot be used in a fresh process: {done.stderr.strip()[-500:]}")
    return float(done.stdout.split()[-1])

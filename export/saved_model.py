"""Writes a trained model as a SavedModel that needs nothing but TensorFlow, and proves it in a fresh process.

saved_model.pb, variables/                       the signatures; weights as variables, or as constants with --freeze
fingerprint.pb                                   TensorFlow's checksums of the above
assets.extra/model_card.json                     classes, time base, settings, training data, metrics, versions,
                                                 SHA-256 of the above
assets.extra/tf_serving_warmup_requests          requests that TensorFlow Serving sends itself before it answers others
"""

import functools
import json
import logging
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from a2net_tf import safe_files, settings
from a2net_tf.detection.localizer import Localizer
from a2net_tf.detection.postprocess import Candidates, suppress
from a2net_tf.errors import UserError
from a2net_tf.export import freezing
from a2net_tf.inference.exported import MODEL_CARD, digests
from a2net_tf.training import run_directory
from a2net_tf.training.run_directory import Run

_TOLERANCE = 1e-3  # seconds and scores; a wrong unit or weight shows as much more
# Constant weights may reach other kernels than variables do: rounding, of which bfloat16 has more.
_RAW_TOLERANCES = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}
_COMPARED_WINDOWS = 8
# Of one request, recordings times the steps of the longest: ten hours of 100 steps a second. A tensor may declare any
# shape and bring one number, so without a bound a few bytes could ask for work and memory without end.
MAX_STEPS = 2**22

# In a notebook TensorFlow says where it has written: the temporary folder, which is gone a moment later.
logging.getLogger("tensorflow").addFilter(lambda entry: not entry.getMessage().startswith("Assets written to"))


class Exported(tf.Module):
    """The signatures of an exported model.

    Args:
        localizer: what is evaluated is what is exported.
        run: classes and time base.
    """

    def __init__(self, localizer: Localizer, run: Run):
        super().__init__(name="a2net")
        networks = [network for member in localizer.members for network in member.networks]
        # The TensorFlow variables inside Keras's own: tracked by the network alone, they are restored by
        # tf.saved_model.load but not by the graph, so that TensorFlow Serving would not find them.
        self.weights = [w.value for n in networks if isinstance(n, keras.Model) for w in n.variables]
        self._description = {
            "class_names": tf.constant(run.class_names),
            "settings": tf.constant(json.dumps(settings.exported_settings(run.config))),
            "num_features": tf.constant(run.num_features),
            "window_steps": tf.constant(run.config.inference_steps),
            "seconds_per_step": tf.constant(run.seconds_per_step),
            "first_step_seconds": tf.constant(run.first_step_seconds),
            "max_steps": tf.constant(MAX_STEPS),
            "extraction": tf.constant(json.dumps(dict(run.extraction))),
            "also_reported": tf.constant(json.dumps(dict(run.also_reported))),
        }
        window = tf.TensorSpec((None, run.config.inference_steps, run.num_features), tf.float32, name="features")

        # The default goes into the signature, where a client of a server finds it; Python callers give the value.
        time_base = tf.constant([run.seconds_per_step], tf.float32)

        def serve(features, num_steps, seconds_per_step=time_base):
            with tf.control_dependencies([_check_steps(features)]):
                features = tf.identity(features)
            return localizer(features, num_steps, seconds_per_step)

        # The localizer itself is no attribute: its other functions would be traced and saved too.
        self.serving_default = tf.function(
            serve,
            input_signature=[
                tf.TensorSpec((None, None, run.num_features), tf.float32, name="features"),
                tf.TensorSpec((None,), tf.int32, name="num_steps"),
                tf.TensorSpec((None,), tf.float32, name="seconds_per_step"),
            ],
            autograph=False,
        )
        self.windows, self.raw = (
            tf.function(functools.partial(of_windows, localizer), input_signature=[window], autograph=False)
            for of_windows in (window_detections, window_candidates)
        )

    @tf.function(input_signature=[], autograph=False)
    def describe(self) -> dict[str, tf.Tensor]:
        """Classes, feature size, time base, and the settings that are fixed in this model as JSON."""
        return self._description

    @property
    def signatures(self) -> dict:
        """By name, as ``tf.saved_model.save`` takes them."""
        return {name: getattr(self, name) for name in ("serving_default", "windows", "raw")}


def window_detections(localizer: Localizer, features: tf.Tensor) -> dict[str, tf.Tensor]:
    """Detections of each window f32[N, W, D] by itself; ``segments`` are fractions of the window, in [0, 1]."""
    candidates = localizer.scored_in_window(*localizer.predict(_checked(localizer, features)))
    segments = tf.clip_by_value(candidates.segments, 0.0, 1.0)
    config = localizer.config
    kept = suppress(
        Candidates(segments, _merged_scores(localizer, candidates.scores, segments), candidates.class_ids),
        **config.suppression,
    )
    return localizer.named(kept)


def window_candidates(localizer: Localizer, features: tf.Tensor) -> dict[str, tf.Tensor]:
    """Candidates of each window f32[N, W, D] before suppression; ``segments`` are fractions of the window.

    With --step_classifier also ``step_scores`` f32[N, W, C], which have not entered the scores: of a sequence of many
    windows each candidate's score is to be multiplied by their mean over windows side by side and over its own steps.
    """
    candidates, steps = localizer.predict(_checked(localizer, features))
    found = {**candidates._asdict(), "scores": _merged_scores(localizer, candidates.scores, candidates.segments)}
    return found if steps is None else {**found, "step_scores": steps}


def _checked(localizer: Localizer, features: tf.Tensor) -> tf.Tensor:
    """Windows f32[N, W, D]; a server compares no shapes with the signature."""
    with tf.control_dependencies([_check_steps(features)]):
        features = tf.identity(features)
    return tf.ensure_shape(features, (None, localizer.config.inference_steps, localizer.num_features))


def _check_steps(features: tf.Tensor) -> tf.Operation:
    """Answers a request of more than ``MAX_STEPS`` with an error status before anything is made of it."""
    steps = tf.reduce_prod(tf.shape(features, out_type=tf.int64)[:2])
    return tf.debugging.Assert(
        steps <= MAX_STEPS,
        [f"a request holds at most {MAX_STEPS} steps, sequences times the steps of the longest; found", steps],
    )


def _merged_scores(localizer: Localizer, scores: tf.Tensor, segments: tf.Tensor) -> tf.Tensor:
    weight = tf.constant(localizer.config.anchor_based_lambda)
    return localizer.merged_scores(scores, segments, branch=localizer.branches[-1], anchor_based_lambda=weight)


class Differences(NamedTuple):
    """How far the written model is from this process: largest differences of detections (seconds or score) and of 99 %
    of the candidates (fractions of a window or score).
    """

    detections: float
    candidates: float


def export(
    localizer: Localizer,
    run: Run,
    path: str,
    samples: Sequence[dict],
    *,
    freeze: bool = False,
    origin: Mapping[str, Any] = MappingProxyType({}),
) -> Differences:
    """Writes the SavedModel beside ``path``, checks it in a fresh process, then moves it there.

    Args:
        localizer: of the trained network.
        run: its description.
        path: directory of the SavedModel; an older one there is kept under a numbered name.
        samples: sequences (features f32[T, D], num_steps, feature_stride_seconds) to compare on.
        freeze: store the weights as constants, which is a little faster but takes much more memory; else as variables.
        origin: what else the model card should say, JSON-ready: training data, metrics.

    Returns:
        The largest differences found in the fresh process: detections against this process's written model,
        candidates against the trained network.

    Raises:
        UserError: the path cannot be written, or the reloaded model disagrees.
    """
    target = pathlib.Path(path)
    module = Exported(freezing.freeze(localizer) if freeze else localizer, run)
    with safe_files.folder_beside(target) as temporary:
        written = temporary / "saved_model"
        # Of a tf.function TensorFlow would trace one graph to save and another one to compare with.
        module.serving_default = module.serving_default.get_concrete_function()
        tf.saved_model.save(module, str(written), signatures=module.signatures)
        differences = _check_in_fresh_process(module, localizer, written, samples)
        allowed = Differences(_TOLERANCE, _RAW_TOLERANCES[run.computed.precision])
        for name, difference, most in zip(Differences._fields, differences, allowed, strict=True):
            if not difference <= most:
                raise UserError(
                    f"the exported model's {name} differ by {difference} from the trained one's (allowed: {most}); "
                    f"nothing was written to {path}"
                )
        _write_extras(written, run, origin, freeze=freeze)
        safe_files.exchange(written, target, keep_earlier=True)
    return differences


def _check_in_fresh_process(
    module: Exported, localizer: Localizer, written: pathlib.Path, samples: Sequence[dict]
) -> Differences:
    """Runs ``reload.py`` on the written model."""
    file = written.parent / "samples.npz"
    np.savez(file, **_expected(module, localizer, samples))
    script = pathlib.Path(__file__).with_name("reload.py")
    command = [sys.executable, str(script), str(written), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"the exported model cannot be used in a fresh process: {done.stderr.strip()[-500:]}")
    return Differences(*map(float, done.stdout.split()[-2:]))


def _expected(module: Exported, localizer: Localizer, samples: Sequence[dict]) -> dict[str, np.ndarray]:
    """What ``reload.py`` compares with."""
    arrays = {}
    for i, sample in enumerate(samples):
        features = np.asarray(sample["features"], np.float32)
        arrays[f"features{i}"] = features
        arrays[f"seconds_per_step{i}"] = np.float32(sample["feature_stride_seconds"])
        expected = module.serving_default(
            features[None], np.int32([len(features)]), np.float32([sample["feature_stride_seconds"]])
        )
        arrays.update({f"{name}{i}": value.numpy() for name, value in expected.items() if name != "labels"})
    windows = _windows(samples, localizer.config.inference_steps)
    raw = window_candidates(localizer, tf.constant(windows))
    arrays.update({f"raw_{name}": raw[name].numpy() for name in ("segments", "scores")})
    return {**arrays, "windows": windows, "raw_in_order": np.bool_(localizer.config.stages == 1)}


def _windows(samples: Sequence[dict], window_steps: int) -> np.ndarray:
    """The first window of the first sequences, f32[N, W, D]; short ones repeat their last vector."""
    first = [np.asarray(sample["features"][:window_steps], np.float32) for sample in samples[:_COMPARED_WINDOWS]]
    return np.stack([np.pad(f, ((0, window_steps - len(f)), (0, 0)), mode="edge") for f in first])


def _write_extras(written: pathlib.Path, run: Run, origin: Mapping[str, Any], *, freeze: bool) -> None:
    card = {**model_card(run, origin, freeze=freeze), "sha256": digests(written)}
    safe_files.write_json(written / MODEL_CARD, card)
    _write_warmup(written / "assets.extra/tf_serving_warmup_requests", run)


def model_card(run: Run, origin: Mapping[str, Any], *, freeze: bool) -> dict:
    """What somebody who gets only the exported model wants to know, JSON-ready."""
    config = run.config
    return {
        "task": "temporal action localization: from feature vectors in equal time steps to actions in seconds",
        "architecture": "A2Net (Yang et al., Revisiting Anchor Mechanisms for Temporal Action Localization, 2020)",
        "classes": run.class_names,
        "also_reported": dict(run.also_reported),
        "num_features": run.num_features,
        "window_steps": config.inference_steps,
        "stride_steps": config.inference_stride_steps,
        "seconds_per_step": run.seconds_per_step,
        "first_step_seconds": run.first_step_seconds,
        "max_steps_of_a_request": MAX_STEPS,
        "extraction": dict(run.extraction),
        "features_are_normalized_inside": config.normalize,
        "precision": run.computed.precision,
        "weights": "constants" if freeze else "variables",
        "settings": settings.exported_settings(config),
        "trained_on": {"dataset": config.dataset, "split": config.train_split, "seed": config.seed},
        "checkpoint": config.checkpoint,
        "versions": run_directory.versions(),
        "commit": run_directory.commit(),
        **origin,
    }


def _write_warmup(path: pathlib.Path, run: Run) -> None:
    """Requests for both detecting signatures, one window and a full batch of windows: each size is planned once."""
    steps, num_features = run.config.inference_steps, run.num_features
    with tf.io.TFRecordWriter(str(path)) as file:
        for n in (1, run.config.inference_batch):
            numbers = {"num_steps": np.int32([n * steps]), "seconds_per_step": np.float32([run.seconds_per_step])}
            file.write(_warmup_request("windows", (n, steps, num_features)))
            file.write(_warmup_request("serving_default", (1, n * steps, num_features), **numbers))


def _warmup_request(signature: str, shape: tuple[int, ...], **numbers: np.ndarray) -> bytes:
    """A request whose features are zeros of ``shape``, written as a single 0 that fills it."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "a2net"
    request.model_spec.signature_name = signature
    request.inputs["features"].CopyFrom(tf.make_tensor_proto(0.0, tf.float32, shape))
    for name, value in numbers.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    return log.SerializeToString()

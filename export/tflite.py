"""Writes a trained model as one .tflite file (TensorFlow Lite, LiteRT) for devices; ``tflite_run.py`` runs it.

The file takes one window and needs built-in operators only. It answers with the window's detections and with its
candidates before suppression: a long recording is many windows, whose candidates must be suppressed together.
"""

import collections
import json
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flatbuffers
import keras
import numpy as np
import tensorflow as tf

from a2net_tf import safe_files
from a2net_tf.compat import tflite_schema as schema
from a2net_tf.compat import with_constant_weights
from a2net_tf.detection import pyramid
from a2net_tf.detection.localizer import Localizer
from a2net_tf.detection.model import Network, plain_copy
from a2net_tf.detection.postprocess import Candidates, Detections, vote
from a2net_tf.errors import UserError
from a2net_tf.export import tflite_run
from a2net_tf.settings import Config
from a2net_tf.settings.config import DETECTIONS_PER_WINDOW, LEAST_DETECTIONS
from a2net_tf.training import run_directory
from a2net_tf.training.run_directory import Run

# name: bytes per weight
QUANTIZATIONS = {"float32": 4, "float16": 2, "dynamic": 1, "int8": 1}

_CALIBRATION_WINDOWS = 256
_COMPARED_WINDOWS = 8
_TOLERANCE = 1e-3  # of a float32 file's scores; a wrong weight shows as much more

# int8 has 256 values from the lowest to the highest; without the far ends they lie closer together. Of 0, 0.001, 0.01
# and 0.1, this one kept the scores of HAPT's training windows closest to those in float32.
_CLIPPED_PERCENTILE = 0.01


class Converted(NamedTuple):
    """What ``export_tflite`` wrote."""

    num_bytes: int
    operators: dict[str, int]  # how often each is used
    score_difference: float  # mean over the candidates of the compared windows


def export_tflite(
    localizer: Localizer, run: Run, path: str, *, quantization: str, samples: Sequence[dict] = ()
) -> Converted:
    """Writes ``path``, after running the file and comparing it with the localizer; an older file there is kept.

    Args:
        localizer: of the trained network, or of several.
        run: its description.
        path: the file, usually ``NAME.tflite``.
        quantization: ``float32``; ``float16``: half the size; ``dynamic``: int8 weights, a quarter of the size;
            ``int8``: the convolutions in integers too, calibrated on the windows of ``samples``.
        samples: sequences (features f32[T, D]) of the *training* split; without them the file is compared on random
            windows, and ``int8`` is refused.

    Raises:
        UserError: unknown quantization, no samples for int8, the file cannot be written, lacks its weights, needs
            operators that are not built in, or disagrees with the localizer.
    """
    if quantization not in QUANTIZATIONS:
        raise UserError(f"quantization '{quantization}': expected one of {', '.join(QUANTIZATIONS)}")
    if quantization == "int8" and not samples:
        raise UserError("int8 needs sequences of the training split to calibrate on; is --data_dir wrong?")
    safe_files.check_writable(path)
    windows, copy = _windows(localizer, run, samples), localizer.with_networks(plain_copy)
    compared = windows[_spread(len(windows), _COMPARED_WINDOWS)]
    expected = _window_scores(copy, compared)
    least_bytes = _num_kernel_weights(copy) * QUANTIZATIONS[quantization]
    content = _convert_to_int8(copy, windows) if quantization == "int8" else _convert_window(copy, quantization)
    used = _check_content(content, least_bytes)
    with safe_files.replace_file(path, keep_earlier=True) as temporary:
        _write(temporary, content, _describe(localizer, run, quantization))
        difference = _compare(temporary, compared, expected, quantization)
    return Converted(len(content), dict(used), difference)


def _windows(localizer: Localizer, run: Run, samples: Sequence[dict]) -> np.ndarray:
    """f32[N, W, D]: at most _CALIBRATION_WINDOWS of the samples' windows; random ones if there are no samples."""
    config = localizer.config
    if not samples:
        return run_directory.random_features(run, _COMPARED_WINDOWS, config.inference_steps)
    places = [
        (number, start)
        for number, sample in enumerate(samples)
        for start in tflite_run.window_starts(
            len(sample["features"]), config.inference_steps, config.inference_stride_steps
        )
    ]
    windows = []
    for number, start in (places[i] for i in _spread(len(places), _CALIBRATION_WINDOWS)):
        features = samples[number]["features"]
        steps = np.minimum(np.arange(start, start + config.inference_steps), len(features) - 1)
        windows.append(np.asarray(features[steps], np.float32))
    return np.stack(windows)


def _spread(total: int, most: int) -> np.ndarray:
    """i64[n]: all of 0..total-1, or ``most`` of them from the first to the last."""
    return np.linspace(0, total - 1, min(total, most)).astype(int)


def _convert_window(localizer: Localizer, quantization: str) -> bytes:
    """The flatbuffer of the whole network in one conversion."""
    window = (1, localizer.config.inference_steps, localizer.num_features)
    return _convert(lambda inputs: _detect(localizer, inputs["features"]), {"features": window}, quantization)


def _convert_to_int8(localizer: Localizer, windows: np.ndarray) -> bytes:
    """The flatbuffer with the convolutions in integers, and in float32 what comes before and after them.

    Decoded in int8, boundaries would have 256 places and scores 256 values. The converter cannot be told reliably to
    leave operators alone, so each part is converted by itself, and the three are put into one file.

    Args:
        localizer: its networks are changed.
        windows: f32[N, W, D] to calibrate on.
    """
    parts = [_Parts(network, member.config, windows) for member in localizer.members for network in member.networks]
    decoders = iter([_Decoder(part.decode, i) for i, part in enumerate(parts)])
    for member in localizer.members:
        member.networks = [next(decoders) for _ in member.networks]

    def prepare(inputs):
        return {f"prepared{i}": part.prepare(inputs["features"]) for i, part in enumerate(parts)}

    def convolve(inputs):
        outputs = [tf.nest.flatten(part.convolve(inputs[f"prepared{i}"])) for i, part in enumerate(parts)]
        return {_prediction(i, j): tensor for i, tensors in enumerate(outputs) for j, tensor in enumerate(tensors)}

    window = {"features": (1, *windows.shape[1:])}
    prepared = {f"prepared{i}": (1, *part.convolve.input.shape[1:]) for i, part in enumerate(parts)}
    shapes = [[(1, *tensor.shape[1:]) for tensor in part.convolve.outputs] for part in parts]
    predictions = {_prediction(i, j): shape for i, row in enumerate(shapes) for j, shape in enumerate(row)}
    calibration = [prepare({"features": window[None]}) for window in windows]
    return _chain(
        _convert(prepare, window, "float32"),
        _convert(convolve, prepared, "int8", calibration),
        _convert(lambda inputs: _detect(localizer, inputs), predictions, "float32"),
    )


def _prediction(network: int, number: int) -> str:
    return f"prediction{network}_{number:02}"


class _Parts:
    """A network in three: what comes before the first convolution, the convolutions, what becomes of predictions.

    Args:
        network: its anchors' convolutions are changed.
        config: of the same network.
        windows: f32[N, W, D] on which ranges are looked up.
    """

    def __init__(self, network: Network, config: Config, windows: np.ndarray):
        scales = _equalize_anchors(network, config, windows) if config.anchor_based else []
        entry = network.cuts.first
        values = keras.Model(network.input, entry).predict(windows, batch_size=32, verbose=0)
        low, high = np.percentile(values, [_CLIPPED_PERCENTILE, 100 - _CLIPPED_PERCENTILE])
        predictions = [tensor for branch in network.cuts.predictions.values() for tensor in branch]
        if network.second_stage:  # it looks at these features where proposals are, in float32
            predictions = [network.cuts.base_features, *predictions]
        self.prepare = keras.Model(network.input, keras.ops.clip(entry, low, high))
        self.convolve = keras.Model(entry, predictions)
        finish = keras.Model(predictions, network.output)
        scales = [1.0] * (len(predictions) - len(scales)) + scales
        self.decode = lambda outputs: finish([x * scale for x, scale in zip(outputs, scales, strict=True)])


class _Decoder:
    """Takes a network's place in a ``Localizer`` that is given predictions instead of features.

    Args:
        decode: predictions of one network -> its outputs.
        number: of the network.
    """

    def __init__(self, decode: Callable[[list[tf.Tensor]], dict[str, tf.Tensor]], number: int):
        self._decode, self._own = decode, _prediction(number, 0)[:-2]

    def __call__(self, predictions: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """The network's outputs."""
        del training  # no layer depends on it
        return self._decode([predictions[name] for name in sorted(predictions) if name.startswith(self._own)])


def _equalize_anchors(network: keras.Model, config: Config, windows: np.ndarray) -> list[np.ndarray]:
    """Scales what the anchors' convolutions predict to [-1, 1], number by number.

    An int8 tensor has one scale. One convolution predicts class logits and offsets of several tens beside overlaps
    below 1, which would all become 0.

    Args:
        network: its convolutions are changed.
        config: of the same network.
        windows: f32[N, W, D] on which the largest predictions are looked up.

    Returns:
        what to multiply each level's predictions with, f32[anchors of the level, logits + 3].
    """
    largest = _largest_anchor_outputs(network, windows)  # A, values
    num_ratios, scales, row = len(config.anchor_ratios), [], 0
    lengths = list(enumerate(pyramid.level_lengths(config.inference_steps, config.num_levels), start=1))
    for i, cells in lengths[config.first_level - 1 :]:
        rows = largest[row : (row := row + cells * num_ratios)]
        scale = np.maximum(rows.reshape(cells, num_ratios, -1).max(axis=0), 1e-6)  # ratios, values
        layer = network.get_layer(f"anchor_based_predict{i}")
        layer.set_weights([weight / scale.reshape(-1) for weight in layer.get_weights()])
        scales.append(np.tile(scale, (cells, 1)).astype(np.float32))
    return scales


def _largest_anchor_outputs(network: keras.Model, windows: np.ndarray) -> np.ndarray:
    """f32[A, logits + 3]: largest magnitude of each logit, the overlap and both offsets, over the windows."""
    outputs = network.predict(windows, batch_size=32, verbose=0)
    parts = [outputs["anchor_logits"], outputs["anchor_overlap"][..., None], outputs["anchor_offsets"]]
    return np.abs(np.concatenate(parts, axis=-1)).max(axis=0)


def _detect(localizer: Localizer, features: tf.Tensor) -> dict[str, tf.Tensor]:
    """One window f32[1, W, D] -> the outputs that ``tflite_run.Model.window`` describes."""
    candidates, steps = localizer.predict(features)
    inside = localizer.scored_in_window(candidates, steps)
    inside = inside._replace(segments=tf.clip_by_value(candidates.segments, 0.0, 1.0))
    inside = inside._replace(scores=_candidate_scores(localizer, inside))
    return {
        **_suppress(inside, localizer.config),
        "candidate_segments": candidates.segments[0],
        "candidate_scores": _candidate_scores(localizer, candidates)[0],
        "candidate_class_ids": candidates.class_ids[0],
        **({} if steps is None else {"step_scores": steps[0]}),
    }


def _window_scores(localizer: Localizer, windows: np.ndarray) -> np.ndarray:
    """f32[N, M]: of windows f32[N, W, D], the scores of all candidates, and of all classes at all steps."""
    candidates, steps = localizer.predict(tf.constant(windows))
    found = [_candidate_scores(localizer, candidates)]
    found += [] if steps is None else [tf.reshape(steps, (len(windows), -1))]
    return tf.concat(found, axis=1).numpy()


def _candidate_scores(localizer: Localizer, candidates: Candidates) -> tf.Tensor:
    """f32[N, P]: the scores with which candidates of all branches are merged."""
    weight = tf.constant(localizer.config.anchor_based_lambda)
    branch = localizer.branches[-1]
    return localizer.merged_scores(candidates.scores, candidates.segments, branch=branch, anchor_based_lambda=weight)


def _suppress(candidates: Candidates, config: Config) -> dict[str, tf.Tensor]:
    """``postprocess.suppress`` of one window with an operator that TFLite has: [1, P, ...] -> padded to K."""
    segments, scores, class_ids = (values[0] for values in candidates)
    start, end = segments[:, 0], segments[:, 1]
    lowest = tf.cast(class_ids, tf.float32)
    soft, most = config.soft_nms_sigma > 0, config.suppression["max_detections"]
    selected, kept_scores, valid = tf.raw_ops.NonMaxSuppressionV5(
        boxes=tf.stack([start, lowest, end, lowest + 1.0], axis=-1),
        scores=scores,
        max_output_size=most,
        iou_threshold=1.0 if soft else config.nms_tiou,
        score_threshold=config.min_score,
        soft_nms_sigma=config.soft_nms_sigma / 2,  # the operator computes exp(-tiou**2 / (2 sigma))
        pad_to_max_output_size=True,
    )
    there = tf.range(most) < valid
    detections = Detections(
        tf.where(there[:, None], tf.gather(segments, selected), 0.0),
        tf.where(there, kept_scores, 0.0),
        tf.where(there, tf.gather(class_ids, selected), 0),
        valid,
    )
    if config.voting_tiou > 0:
        batch = Detections(*(tf.expand_dims(values, 0) for values in detections))
        batch = vote(batch, candidates, tiou=config.voting_tiou, min_score=config.min_score)
        detections = detections._replace(segments=batch.segments[0])
    return detections._asdict()


def _convert(
    function: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]],
    inputs: dict[str, tuple[int, ...]],
    quantization: str,
    calibration: Sequence[dict[str, tf.Tensor]] = (),
) -> bytes:
    """The flatbuffer of a function, with a signature that names its inputs and outputs.

    Variables become constants first: the converter, given Keras 3's variables, leaves them out without a word.

    Args:
        function: named tensors -> named tensors.
        inputs: name and shape of its float32 inputs.
        quantization: one of QUANTIZATIONS.
        calibration: inputs, for int8.
    """
    specs = [tf.TensorSpec(shape, tf.float32, name=name) for name, shape in inputs.items()]
    by_name = tf.function(
        lambda *tensors: function(dict(zip(inputs, tensors, strict=True))), input_signature=specs, autograph=False
    )
    traced = by_name.get_concrete_function()
    frozen, names = with_constant_weights(traced), sorted(traced.structured_outputs)
    module = tf.Module()  # the function comes with a module, or the converter drops the names
    module.run = tf.function(
        lambda *x: dict(zip(names, frozen(*x), strict=True)), input_signature=specs, autograph=False
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.run.get_concrete_function()], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantization != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        converter.representative_dataset = lambda: calibration
    return converter.convert()


def _chain(*contents: bytes) -> bytes:
    """One flatbuffer of several: the outputs of each become the inputs of the same names of the next."""
    first, *others = (schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0)) for content in contents)
    for other in others:
        _append(first, other)
    first.buffers = [_AlignedBuffer(buffer.data) for buffer in first.buffers]
    builder = flatbuffers.Builder(1024)
    builder.Finish(first.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _append(model: schema.ModelT, other: schema.ModelT) -> None:
    """Appends a model's graph to that of another: numbers of tensors, operator codes, buffers and loops move on."""
    graph, added = model.subgraphs[0], other.subgraphs[0]
    signature = model.signatureDefs[0]
    known = {output.name: output.tensorIndex for output in signature.outputs}
    moved = {entry.tensorIndex: known[entry.name] for entry in other.signatureDefs[0].inputs}
    for tensor in (tensor for each in other.subgraphs for tensor in each.tensors):
        tensor.buffer += len(model.buffers)
    for number, tensor in enumerate(added.tensors):
        if number not in moved:
            moved[number] = len(graph.tensors)
            graph.tensors.append(tensor)
    for operator in (operator for each in other.subgraphs for operator in each.operators):
        operator.opcodeIndex += len(model.operatorCodes)
        if isinstance(operator.builtinOptions, schema.WhileOptionsT):  # by other graphs, the first of which is merged
            operator.builtinOptions.condSubgraphIndex += len(model.subgraphs) - 1
            operator.builtinOptions.bodySubgraphIndex += len(model.subgraphs) - 1
    for operator in added.operators:
        operator.inputs = [moved.get(int(number), -1) for number in operator.inputs]  # -1: an input left out
        operator.outputs = [moved[int(number)] for number in operator.outputs]
    graph.operators += added.operators
    graph.outputs = [moved[int(number)] for number in added.outputs]
    model.subgraphs += other.subgraphs[1:]
    model.operatorCodes += other.operatorCodes
    model.buffers += other.buffers
    signature.outputs = other.signatureDefs[0].outputs
    for output in signature.outputs:
        output.tensorIndex = moved[output.tensorIndex]


class _AlignedBuffer(schema.BufferT):
    """Weights, written at a multiple of 16 bytes as TFLite's schema wants it (and its Python code does not)."""

    def __init__(self, data: np.ndarray | None):
        super().__init__()
        self.data = data

    def Pack(self, builder: flatbuffers.Builder) -> int:
        """Writes the weights; returns where."""
        if self.data is not None:
            builder.Prep(16, len(self.data))
        return super().Pack(builder)


def operators(content: bytes) -> collections.Counter:
    """How often a flatbuffer uses each operator; one that is not built in appears by its own name."""
    model, names, used = schema.Model.GetRootAsModel(content, 0), _operator_names(), collections.Counter()
    codes = []
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # old files know the second only
        custom = code.CustomCode()
        codes.append(names[number] if custom is None else custom.decode())
    for subgraph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        used.update(codes[subgraph.Operators(i).OpcodeIndex()] for i in range(subgraph.OperatorsLength()))
    return used


def _operator_names() -> dict[int, str]:
    return {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}


def _num_kernel_weights(localizer: Localizer) -> int:
    """Weights without biases, which a file may share if they are equal, and without what constants are folded into."""
    networks = [network for member in localizer.members for network in member.networks]
    return sum(int(np.prod(w.shape)) for network in networks for w in network.weights if len(w.shape) > 1)


def _check_content(content: bytes, least_bytes: int) -> collections.Counter:
    """The operators of a flatbuffer; refuses one that cannot hold the weights or needs more than built-in operators."""
    if len(content) < least_bytes:
        raise UserError(
            f"the converted model has {len(content)} bytes, but its weights alone need {least_bytes}: the converter "
            "left them out; nothing was written"
        )
    used = operators(content)
    foreign = sorted(set(used) - set(_operator_names().values()))
    if foreign:
        raise UserError(f"the converted model needs operators that TFLite does not have: {', '.join(foreign)}")
    return used


def _describe(localizer: Localizer, run: Run, quantization: str) -> dict:
    """What ``tflite_run.py`` must know beside the network."""
    config = localizer.config
    return {
        "class_names": list(localizer.class_names),
        "num_features": run.num_features,
        "window_steps": config.inference_steps,
        "stride_steps": config.inference_stride_steps,
        "seconds_per_step": run.seconds_per_step,
        "first_step_seconds": localizer.first_step_seconds,
        "nms_tiou": config.nms_tiou,
        "soft_nms_sigma": config.soft_nms_sigma,
        "voting_tiou": config.voting_tiou,
        **({"step_exponent": config.step_exponent} if localizer.scores_steps else {}),
        "max_detections": config.max_detections,
        "least_detections": LEAST_DETECTIONS,  # these three count where max_detections is 0
        "detections_per_window": DETECTIONS_PER_WINDOW,
        "trained_window_steps": config.window_steps,
        "min_score": config.min_score,
        "also_reported": dict(run.also_reported),
        "quantization": quantization,
        "extraction": dict(run.extraction),
    }


def _write(path: pathlib.Path, content: bytes, description: dict) -> None:
    """The flatbuffer with the description behind it, as TFLite's metadata convention adds files: a zip archive."""
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(tflite_run.DESCRIPTION), json.dumps(description, indent=2))


def _compare(path: pathlib.Path, windows: np.ndarray, expected: np.ndarray, quantization: str) -> float:
    """Mean difference from what ``_window_scores`` gives; refuses a float32 file that differs."""
    model, found = tflite_run.Model(path), []
    for outputs in map(model.window, windows):
        parts = [outputs[name].reshape(-1) for name in ("candidate_scores", "step_scores") if name in outputs]
        found.append(np.concatenate(parts))
    differences = np.abs(np.stack(found) - expected)
    if quantization == "float32" and not differences.max() <= _TOLERANCE:
        raise UserError(f"the converted model's scores differ by {differences.max()} from the trained one's")
    return float(differences.mean())

"""One trained model in every exported form: size, speed, and whether all find the same.

    python -m a2net_tf.export.compare --workdir=runs/hapt --output=runs/hapt/compare

writes every form into the folder --output, runs them all in turns on the same windows and on the recordings of
--eval_split, prints one table and writes compare.json. Settings are those of a2net_tf.main. With --num_features and
--num_classes instead of --workdir the network has random weights, and the windows are random too:

    python -m a2net_tf.export.compare --flagfile=configs/thumos14.flags --workdir= --output=compare
"""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from a2net_tf import settings
from a2net_tf.errors import UserError
from a2net_tf.native_logs import quiet_native_logs, without_garbage_collection
from a2net_tf.settings import Config

with quiet_native_logs(), without_garbage_collection():
    import keras
    import numpy as np
    import tensorflow as tf

    from a2net_tf import safe_files
    from a2net_tf.data import prepared, schema
    from a2net_tf.detection import windows
    from a2net_tf.detection.localizer import Localizer
    from a2net_tf.detection.postprocess import Candidates, suppress_sequences
    from a2net_tf.evaluation.instances import Detections
    from a2net_tf.export import onnx, saved_model, tflite, tflite_run
    from a2net_tf.inference import localization, scoring, trained
    from a2net_tf.inference.localization import SequenceDetections
    from a2net_tf.report.text_tables import align
    from a2net_tf.training import run_directory
    from a2net_tf.training.run_directory import Run

_SAVED_MODELS = ("SavedModel float32", "SavedModel bfloat16", "SavedModel constants")
_TFLITES = tuple(f"TFLite {quantization}" for quantization in tflite.QUANTIZATIONS)
_ONNX = "ONNX float32"
# What one process writes: converters need many times the memory of a network and keep it.
_TOGETHER = (_SAVED_MODELS, *((name,) for name in (*_TFLITES, _ONNX)))
_BATCH = 32
_ROUNDS, _SINGLES = 12, 5  # each round measures every form: that many single windows, and one batch
_CALIBRATION_SEQUENCES = 64
_CONFIDENT = 0.1  # detections with a higher score are compared; of weaker ones, rounding decides which are kept


class Form(NamedTuple):
    """One exported form, loaded.

    Attributes:
        name: row of the table.
        num_bytes: on disk.
        load_seconds: until it can answer.
        candidates: windows f32[N, W, D] -> segments f32[N, P, 2] in fractions of the window, scores f32[N, P].
        find: a whole sequence (record with ``features``) -> its detections in seconds.
    """

    name: str
    num_bytes: int
    load_seconds: float
    candidates: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    find: Callable[[dict], Detections]


class Answers(NamedTuple):
    """What a form gives for the compared windows (segments f32[N, P, 2], scores f32[N, P]) and for every sequence."""

    segments: np.ndarray
    scores: np.ndarray
    detections: list[Detections]


class Model(NamedTuple):
    """What is compared: the trained network in float32 and bfloat16, and sequences to compare on."""

    run: Run
    localizer: Localizer
    bfloat16: tuple[Run, Localizer]
    calibration: list[dict]  # of the training split
    sequences: list[dict]  # of the evaluation split


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or {"--help", "-h"} & set(arguments):
        print(__doc__.strip())
        return 0
    try:
        config, given = settings.parse(arguments)
        compare(config, given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def compare(config: Config, given: frozenset[str]) -> None:
    """Writes every form to ``config.output``, measures all, prints the table and writes compare.json there."""
    if not config.output:
        raise UserError("--output is needed: the folder to write to")
    folder = pathlib.Path(config.output)
    safe_files.check_writable(folder / "compare.json")
    model = _model(config, given)
    for names in _TOGETHER:
        print(f"writing {', '.join(names)}", flush=True)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            process.submit(_write, names, config, given, folder).result()
    forms = list(_forms(model, folder))
    batch = _windows(model, _BATCH)
    times = _measure(forms, batch)
    reference = _answers(forms[0], model, batch)
    rows = [_row(form, _answers(form, model, batch), reference, model, times[form.name]) for form in forms]
    origin = {"workdir": config.workdir, "dataset": model.run.config.dataset, "split": model.run.config.eval_split}
    print(format_rows(rows))
    versions = run_directory.versions()
    about = {**origin, "threads": os.cpu_count(), "versions": versions, "rows": rows}
    safe_files.write_metrics(str(folder / "compare.json"), about)


def _model(config: Config, given: frozenset[str]) -> Model:
    return _load(config, given) if config.workdir else _random(config)


def _load(config: Config, given: frozenset[str]) -> Model:
    """A trained run with the recordings of its dataset."""
    run, localizer = trained.load_trained(_with(config, "float32"), given | {"precision"})
    half = trained.load_trained(_with(config, "bfloat16"), given | {"precision"})
    builder = prepared.open_dataset_of(run.config)
    training, evaluation = (
        list(localization.stitched(prepared.read_records(builder, split).as_numpy_iterator()))
        for split in (run.config.train_split, run.config.eval_split)
    )
    return Model(run, localizer, half, training[:_CALIBRATION_SEQUENCES], evaluation)


def _random(config: Config) -> Model:
    """Random weights and sequences of normally distributed features."""
    if not (config.num_features and config.num_classes):
        raise UserError("--workdir of a trained run is needed, or --num_features and --num_classes for random weights")
    names = [f"class {i}" for i in range(config.num_classes)]
    pairs = []
    for precision in ("float32", "bfloat16"):
        changed = _with(config, precision)
        keras.utils.set_random_seed(config.seed)
        run = Run(changed, names, config.num_features, None, 0, 1.0, 0.0)
        pairs.append((run, Localizer(run_directory.build_inference_network(run), changed, names)))
    random = np.random.default_rng(config.seed)
    lengths = (_BATCH * config.inference_steps, 100)
    sequences = [
        {
            "id": f"random {n}",
            "features": random.normal(size=(n, config.num_features)).astype(np.float32),
            "num_steps": n,
            "chunk_start_step": 0,
            "chunk_owned_steps": n,
            "feature_stride_seconds": 1.0,
            "first_step_seconds": 0.0,
            "duration_seconds": float(n),
        }
        for n in lengths
    ]
    return Model(*pairs[0], pairs[1], sequences, sequences)


def _with(config: Config, precision: str) -> Config:
    return dataclasses.replace(config, precision=precision)


def _windows(model: Model, number: int) -> np.ndarray:
    """f32[number, W, D]: spread over all windows of the sequences."""
    config = model.run.config
    cut = np.concatenate([_cut(sequence, config)[1] for sequence in model.sequences])
    return cut[np.linspace(0, len(cut) - 1, number).astype(int)]


def _cut(sequence: dict, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """First steps i32[N] and features f32[N, W, D] of a sequence's test windows."""
    features = sequence["features"]
    starts = windows.window_starts(
        tf.constant(len(features)), window_steps=config.inference_steps, stride_steps=config.inference_stride_steps
    )
    return starts.numpy(), windows.cut_windows(tf.constant(features), starts, config.inference_steps).numpy()


# The forms


def _file_name(name: str) -> str:
    """Below the folder: a directory for a SavedModel, else a file."""
    return name.replace(" ", "_") + {"TFLite": ".tflite", "ONNX": ".onnx"}.get(name.split()[0], "")


def _write(names: Sequence[str], config: Config, given: frozenset[str], folder: pathlib.Path) -> None:
    """Writes forms of one model."""
    model = _model(config, given)
    for name in names:
        _write_one(name, model, str(folder / _file_name(name)))


def _write_one(name: str, model: Model, path: str) -> None:
    run, localizer = model.run, model.localizer
    if name in _SAVED_MODELS:
        if "bfloat16" in name:
            run, localizer = model.bfloat16
        saved_model.export(localizer, run, path, model.sequences[:2], freeze="constants" in name)
    elif name in _TFLITES:
        tflite.export_tflite(localizer, run, path, quantization=name.split()[1], samples=model.calibration)
    else:
        onnx.export_onnx(localizer, run, path)


def _forms(model: Model, folder: pathlib.Path) -> Iterator[Form]:
    """Loads one form after the other, the trained network itself first."""
    yield _keras_form("Keras float32", model.run, model.localizer)
    yield _keras_form("Keras bfloat16", *model.bfloat16)
    for name in _SAVED_MODELS:
        yield _saved_model_form(name, folder / _file_name(name))
    for name in _TFLITES:
        yield _tflite_form(name, folder / _file_name(name))
    yield _onnx_form(_ONNX, folder / _file_name(_ONNX), model)


def _keras_form(name: str, run: Run, localizer: Localizer) -> Form:
    """As evaluate runs it: variables, traced by TensorFlow; on disk, the weights of the run."""
    window = tf.TensorSpec((None, run.config.inference_steps, run.num_features), tf.float32)
    call = tf.function(
        functools.partial(saved_model.window_candidates, localizer), input_signature=[window], autograph=False
    )
    weights = sum(weight.value.numpy().nbytes for weight in localizer.members[0].networks[0].weights)

    def find(sequence):
        (located,) = localization.localize(localizer, [sequence])
        return located.merged

    return Form(name, weights, 0.0, lambda batch: _arrays(call(tf.constant(batch))), find)


def _saved_model_form(name: str, path: pathlib.Path) -> Form:
    start = time.perf_counter()
    loaded = tf.saved_model.load(str(path))
    seconds = time.perf_counter() - start

    def find(sequence):
        (located,) = localization.localize_exported(loaded, [sequence])
        return located.merged

    raw = loaded.signatures["raw"]
    return Form(name, _bytes_below(path), seconds, lambda batch: _arrays(raw(features=tf.constant(batch))), find)


def _tflite_form(name: str, path: pathlib.Path) -> Form:
    start = time.perf_counter()
    loaded = tflite_run.Model(str(path), num_threads=os.cpu_count())
    seconds = time.perf_counter() - start

    def candidates(batch):
        outputs = [loaded.window(features) for features in batch]  # these files take one window at a time
        return tuple(np.stack([f[f"candidate_{key}"] for f in outputs]) for key in ("segments", "scores"))

    def find(sequence):
        detections = loaded.detect(sequence["features"], float(sequence["feature_stride_seconds"]))
        videos = [schema.sequence_name(sequence)] * len(detections["scores"])
        return Detections(videos, detections["segments"], detections["class_ids"], detections["scores"])

    return Form(name, path.stat().st_size, seconds, candidates, find)


def _onnx_form(name: str, path: pathlib.Path, model: Model) -> Form:
    start = time.perf_counter()
    session = onnx.load_session(str(path))
    seconds = time.perf_counter() - start

    run = functools.partial(onnx.run_session, session)

    def candidates(batch):
        outputs = run(batch)
        return outputs["candidate_segments"], outputs["candidate_scores"]

    return Form(name, path.stat().st_size, seconds, candidates, lambda s: _merge_windows(run, s, model))


def _merge_windows(run: Callable[[np.ndarray], dict[str, np.ndarray]], sequence: dict, model: Model) -> Detections:
    """Detections of a whole sequence from the candidates of its windows, as ``Localizer`` merges them."""
    config = model.run.config
    starts, features = _cut(sequence, config)
    parts = [run(features[i : i + _BATCH]) for i in range(0, len(features), _BATCH)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    segments, scores, class_ids = (found[f"candidate_{key}"] for key in Candidates._fields)
    if "step_scores" in found:
        scores = _scored_by_steps(found, starts, len(sequence["features"]), model.localizer)
    steps = np.clip(segments * config.inference_steps + starts[:, None, None], 0, len(sequence["features"]))
    scores = np.where(steps[..., 1] > steps[..., 0], scores, 0)
    detections = suppress_sequences(
        Candidates(*(tf.constant(a.reshape(1, -1, *a.shape[2:])) for a in (np.float32(steps), scores, class_ids))),
        **config.suppression | {"max_detections": config.most_detections(len(sequence["features"]))},
    )
    number = int(detections.num_detections[0])
    stride, first = float(sequence["feature_stride_seconds"]), float(sequence["first_step_seconds"])
    seconds = detections.segments[0, :number].numpy() * stride + first
    videos = [schema.sequence_name(sequence)] * number
    return Detections(videos, seconds, detections.class_ids[0, :number].numpy(), detections.scores[0, :number].numpy())


def _scored_by_steps(
    found: dict[str, np.ndarray], starts: np.ndarray, num_steps: int, localizer: Localizer
) -> np.ndarray:
    """f32[N, P]: the scores of the windows' candidates, once all that windows say of the steps is known."""
    seen = np.zeros((1, num_steps, 1 + found["step_scores"].shape[-1]), np.float32)
    asked = np.isin(starts, localizer.step_starts(tf.constant(num_steps)))
    for start, steps in zip(starts[asked], found["step_scores"][asked], strict=True):
        inside = seen[0, start : start + len(steps)]
        inside += np.pad(steps[: len(inside)], ((0, 0), (1, 0)), constant_values=1)
    segments = found["candidate_segments"] * localizer.config.inference_steps + starts[:, None, None]
    arrays = np.float32(segments), found["candidate_scores"], found["candidate_class_ids"]
    candidates = Candidates(*(tf.constant(array.reshape(1, -1, *array.shape[2:])) for array in arrays))
    return localizer.score(candidates, seen, [num_steps]).scores.numpy().reshape(arrays[1].shape)


def _arrays(candidates: dict[str, tf.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    return candidates["segments"].numpy(), candidates["scores"].numpy()


def _bytes_below(path: pathlib.Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


# Measuring


def _measure(forms: Sequence[Form], batch: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """Seconds by form, of one window and of a batch. The forms take turns, so that a busy moment meets all of them."""
    times = {form.name: {"one": [], "batch": []} for form in forms}
    for turn in range(_ROUNDS + 1):
        for form in forms:
            one = [_seconds(form, batch[i : i + 1]) for i in range(_SINGLES)]
            many = _seconds(form, batch)
            if turn:  # the first turn plans and lays out weights
                times[form.name]["one"] += one
                times[form.name]["batch"].append(many)
    return times


def _seconds(form: Form, batch: np.ndarray) -> float:
    start = time.perf_counter()
    form.candidates(batch)
    return time.perf_counter() - start


def _answers(form: Form, model: Model, batch: np.ndarray) -> Answers:
    return Answers(*form.candidates(batch), [form.find(sequence) for sequence in model.sequences])


def _row(
    form: Form, answers: Answers, reference: Answers, model: Model, times: dict[str, list[float]]
) -> dict[str, Any]:
    """Everything about one form, JSON-ready."""
    raw = {name: getattr(answers, name) - getattr(reference, name) for name in ("segments", "scores")}
    confident = [e.select(e.scores > _CONFIDENT) for e in reference.detections]
    off_seconds, off_score = np.max(
        [detection_differences(e, f) for e, f in zip(confident, answers.detections, strict=True)], axis=0
    )
    return {
        "form": form.name,
        "bytes": form.num_bytes,
        "load_seconds": form.load_seconds,
        "one_window_ms": {"median": _ms(times["one"], 50), "p99": _ms(times["one"], 99)},
        "batch_ms": {"windows": _BATCH, "median": _ms(times["batch"], 50), "p99": _ms(times["batch"], 99)},
        "windows_per_second": _BATCH / statistics.median(times["batch"]),
        "raw_difference": {name: float(np.abs(difference).max()) for name, difference in raw.items()},
        "detection_difference": {"seconds": float(off_seconds), "score": float(off_score)},
        "average_mAP": _average_map(answers.detections, model),
    }


def detection_differences(expected: Detections, detections: Detections) -> tuple[float, float]:
    """How far the detection of ``detections`` that is nearest to each of ``expected`` is off: in seconds, in score.

    Nearest among those of the same class, by the sum of both. Detections whose scores are almost equal may come in
    another order, so they are not compared by rank; infinite where a class is missing.
    """
    worst = (0.0, 0.0)
    for label in np.unique(expected.labels):
        ours, theirs = expected.select(expected.labels == label), detections.select(detections.labels == label)
        if not len(theirs):
            return float("inf"), float("inf")
        seconds = np.abs(ours.segments[:, None] - theirs.segments[None]).max(axis=-1)
        score = np.abs(ours.scores[:, None] - theirs.scores[None])
        nearest = (seconds + score).argmin(axis=1)[:, None]
        pairs = (np.take_along_axis(values, nearest, axis=1).max() for values in (seconds, score))
        worst = tuple(max(a, float(b)) for a, b in zip(worst, pairs, strict=True))
    return worst


def _average_map(detections: list[Detections], model: Model) -> float | None:
    """Average mAP of the evaluation split by the run's protocol; None without ground truth."""
    if "segments" not in model.sequences[0]:
        return None
    wrapped = [
        SequenceDetections(schema.sequence_name(s), float(s["duration_seconds"]), len(f), {"both": f}, s)
        for s, f in zip(model.sequences, detections, strict=True)
    ]
    return scoring.metrics_by_branch(wrapped, model.run)["both"]["average_mAP"]


def _ms(seconds: Sequence[float], percentile: float) -> float:
    return 1000 * float(np.percentile(seconds, percentile))


def format_rows(rows: Sequence[dict]) -> str:
    """The table; the first row's network is what the others are compared with.

    Boundaries and scores are those of detections above 0.1. With less precision single differences are large: rounding
    reverses a segment, takes a candidate over the bound of background probability, or decides which of two overlapping
    detections is kept. What this costs is the last column.
    """
    batch = rows[0]["batch_ms"]["windows"]
    header = ["form", "MB", "load s", "1 window ms", "p99", f"{batch} windows ms", "p99", "windows/s", "raw segments"]
    header += ["raw scores", "boundaries s", "scores", "average mAP"]
    lines = [header]
    for row in rows:
        mean = row["average_mAP"]
        lines.append(
            [
                row["form"],
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['load_seconds']:.2f}",
                *(f"{row['one_window_ms'][key]:.1f}" for key in ("median", "p99")),
                *(f"{row['batch_ms'][key]:.0f}" for key in ("median", "p99")),
                f"{row['windows_per_second']:.0f}",
                *(f"{row['raw_difference'][key]:.1e}" for key in ("segments", "scores")),
                *(f"{row['detection_difference'][key]:.1e}" for key in ("seconds", "score")),
                "-" if mean is None else f"{100 * mean:.2f}",
            ]
        )
    return align(lines)


if __name__ == "__main__":
    sys.exit(main())

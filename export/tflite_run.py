"""Runs a file written by ``export_tflite`` over whole recordings.

Needs numpy and ai-edge-litert (or TensorFlow) and nothing of this package: copy this one file to the device.

python tflite_run.py MODEL.tflite FEATURES.npy > found.json
"""

import argparse
import importlib.util
import json
import pathlib
import sys
import warnings
import zipfile
from collections.abc import Sequence

import numpy as np

DESCRIPTION = "a2net.json"  # appended to the flatbuffer as a zip archive: unzip -p MODEL.tflite a2net.json
RUNTIMES = ("ai_edge_litert", "tensorflow")
CLEAR = 0.3  # a score of something that is worth showing


class Model:
    """One .tflite file, ready to run.

    Args:
        path: the file.
        num_threads: that one window may use.
        runtime: one of RUNTIMES; by default the first that is installed.

    Attributes:
        description: ``class_names``, ``num_features``, the time base and the settings of windows and suppression.

    Raises:
        ValueError: not such a file, or no runtime.
    """

    def __init__(self, path: str, *, num_threads: int = 1, runtime: str | None = None):
        self.description = read_description(path)
        make_interpreter = _find_interpreter(runtime)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tf.lite advises ai-edge-litert each time
            interpreter = make_interpreter(model_path=str(path), num_threads=num_threads)
        self._run = interpreter.get_signature_runner()

    def window(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """All outputs for one window f32[window_steps, D]; segments are fractions of the window.

        Returns:
            ``segments`` f32[K, 2], ``scores`` f32[K], ``class_ids`` i32[K] and ``num_detections`` i32[] of the window
            by itself; ``candidate_segments`` f32[P, 2], ``candidate_scores`` f32[P] and ``candidate_class_ids`` i32[P]
            before suppression, to be merged with those of other windows. Implied classes are left to ``detect``. If the
            network classifies steps, also ``step_scores`` f32[window_steps, C], which have not entered the candidates'.
        """
        return self._run(features=np.ascontiguousarray(features[None], np.float32))

    def detect(self, features: np.ndarray, seconds_per_step: float | None = None) -> dict[str, np.ndarray | list[str]]:
        """Detections of a whole recording.

        Args:
            features: number[T, D], T >= 1; may be memory-mapped.
            seconds_per_step: time between two rows; that of training by default.

        Returns:
            ``segments`` f32[n, 2] start and end in seconds, ``scores`` f32[n], descending, ``class_ids`` i32[n] and
            ``labels``, n names.

        Raises:
            ValueError: features or seconds_per_step cannot be used; says what was expected.
        """
        about = self.description
        seconds_per_step = about["seconds_per_step"] if seconds_per_step is None else seconds_per_step
        _check(features, seconds_per_step, about["num_features"])
        segments, scores, class_ids, seen = self._candidates(features)
        segments = np.clip(segments, np.float32(0), np.float32(len(features)))
        if about.get("step_exponent", 0) > 0:  # older files do not say
            scores = scores * step_means(segments, class_ids, seen) ** np.float32(about["step_exponent"])
        scores = np.where(segments[:, 1] > segments[:, 0], scores, np.float32(0))
        most = most_detections(len(features), about)
        kept, kept_scores = suppress(
            segments,
            scores,
            class_ids,
            tiou=about["nms_tiou"],
            max_detections=most,
            min_score=about["min_score"],
            soft_sigma=about["soft_nms_sigma"],
        )
        boundaries, voting_tiou = segments[kept], about.get("voting_tiou", 0)  # older files do not say
        if voting_tiou > 0:
            boundaries = vote(kept, segments, scores, class_ids, tiou=voting_tiou, min_score=about["min_score"])
        rows, scores, class_ids = report_also(kept_scores, class_ids[kept], most, about)
        seconds = np.float32(about["first_step_seconds"]) + boundaries[rows] * np.float32(seconds_per_step)
        labels = [about["class_names"][i] for i in class_ids]
        return {"segments": seconds, "scores": scores, "class_ids": class_ids, "labels": labels}

    def _candidates(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of all windows together: segments f32[N, 2] in steps of the recording, scores f32[N], class_ids i32[N].

        And f32[T, 1 + C]: of each step, how many of ``side_by_side`` see it, and the sums of their class scores.
        """
        window_steps, parts = self.description["window_steps"], []
        classifies = self.description.get("step_exponent", 0) > 0
        seen = np.zeros((len(features), 1 + len(self.description["class_names"])) if classifies else (0, 1), np.float32)
        starts = window_starts(len(features), window_steps, self.description["stride_steps"])
        asked = side_by_side(starts, window_steps, self.description["stride_steps"])
        for start in starts:
            steps = np.minimum(np.arange(start, start + window_steps), len(features) - 1)
            window = np.asarray(features[steps], np.float32)
            finite = np.isfinite(window).all(axis=1)
            if not finite.all():
                raise ValueError(f"features: step {steps[np.argmin(finite)]} holds NaN or infinite values")
            outputs = self.window(window)
            segments = outputs["candidate_segments"] * np.float32(window_steps) + np.float32(start)
            parts.append((segments, outputs["candidate_scores"], outputs["candidate_class_ids"]))
            if classifies and start in asked:
                inside = seen[start : start + window_steps]
                inside[:, 0] += 1
                inside[:, 1:] += outputs["step_scores"][: len(inside)]
        segments, scores, class_ids = zip(*parts, strict=True)
        return np.concatenate(segments), np.concatenate(scores), np.concatenate(class_ids), seen


def detect(model_path: str, features: np.ndarray, seconds_per_step: float | None = None) -> dict:
    """Detections of one recording; for several, make a ``Model`` once and use its ``detect``, which see."""
    return Model(model_path).detect(features, seconds_per_step)


def read_description(path: str) -> dict:
    """What stands in the file beside the network; raises ValueError if it is no such file."""
    if not pathlib.Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(DESCRIPTION))
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError):
        raise ValueError(f"{path}: no {DESCRIPTION} inside; cut off, or not written by export_tflite") from None


def _find_interpreter(runtime: str | None) -> type:
    installed = [name for name in RUNTIMES if importlib.util.find_spec(name) and runtime in (None, name)]
    if not installed:
        raise ValueError(f"{runtime or 'no TFLite runtime'} is not installed: pip install ai-edge-litert")
    if installed[0] == "ai_edge_litert":
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter
    import tensorflow as tf

    return tf.lite.Interpreter


def _check(features: np.ndarray, seconds_per_step: float, num_features: int) -> None:
    if features.ndim != 2 or features.dtype.kind not in "fiu":
        shape = list(features.shape)
        raise ValueError(f"features: expected a number matrix [steps, features], found shape {shape} {features.dtype}")
    if len(features) == 0:
        raise ValueError("features: 0 steps; an empty recording has no detections")
    if features.shape[1] != num_features:
        hint = "; is the matrix transposed?" if len(features) == num_features else ""
        raise ValueError(f"features: {features.shape[1]} values per step but the model takes {num_features}{hint}")
    if not 0 < seconds_per_step < float("inf"):
        raise ValueError(f"seconds_per_step must be > 0 and finite, got {seconds_per_step}")


def window_starts(num_steps: int, window_steps: int, stride_steps: int) -> list[int]:
    """First steps of the windows: every ``stride_steps``, and one flush with the end (or the one window 0)."""
    last = max(num_steps - window_steps, 0)
    return [*range(0, last, stride_steps), last]


def side_by_side(starts: list[int], window_steps: int, stride_steps: int) -> set[int]:
    """Those of ``starts`` that see every step with as little overlap as the stride allows, and the last one."""
    apart = max(window_steps // stride_steps, 1) * stride_steps
    return {start for start in starts if start % apart == 0 or start == starts[-1]}


def most_detections(num_steps: int, description: dict) -> int:
    """How many detections of a recording of ``num_steps`` are kept: as set, or by its length."""
    if description["max_detections"]:
        return description["max_detections"]
    by_length = -(-description["detections_per_window"] * num_steps // description["trained_window_steps"])
    return max(description["least_detections"], by_length)


def step_means(segments: np.ndarray, class_ids: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The mean score of a candidate's class over its steps.

    Args:
        segments: f32[N, 2] in steps, within the recording.
        class_ids: i32[N].
        seen: f32[T, 1 + C] of ``Model._candidates``.

    Returns:
        f32[N]; 0 where a segment is empty or reversed.
    """
    steps = seen[:, 1:] / np.maximum(seen[:, :1], 1)
    sums = np.pad(np.cumsum(steps, axis=0, dtype=np.float64), ((1, 0), (0, 0)))

    def up_to(position: np.ndarray) -> np.ndarray:
        below = np.minimum(position.astype(np.int64), len(steps) - 1)
        return sums[below, class_ids] + (position - below) * steps[below, class_ids]

    length = segments[:, 1] - segments[:, 0]
    total = up_to(segments[:, 1]) - up_to(segments[:, 0])
    return np.maximum(np.where(length > 0, total / np.where(length > 0, length, 1), 0), 0).astype(np.float32)


def suppress(
    segments: np.ndarray,
    scores: np.ndarray,
    class_ids: np.ndarray,
    *,
    tiou: float,
    max_detections: int,
    min_score: float,
    soft_sigma: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Class-wise non-maximum suppression, for all classes together the best ``max_detections``.

    Args:
        segments: f32[N, 2].
        scores: f32[N].
        class_ids: i32[N].
        tiou: overlap above which the weaker one of a class goes.
        max_detections: K.
        min_score: only higher scores take part.
        soft_sigma: if > 0, overlapping scores decay by exp(-tiou**2 / soft_sigma) instead.

    Returns:
        i64[n] kept candidates by descending score, and their scores f32[n].
    """
    kept, kept_scores = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for class_id in np.unique(class_ids):
        index = np.flatnonzero((class_ids == class_id) & (scores > min_score))
        if soft_sigma > 0:
            places, values = _decay(segments[index], scores[index], max_detections, min_score, soft_sigma)
        else:
            places = _keep(segments[index], scores[index], max_detections, tiou)
            values = scores[index[places]]
        kept.append(index[places])
        kept_scores.append(values)
    kept, kept_scores = np.concatenate(kept), np.concatenate(kept_scores)
    order = np.argsort(-kept_scores, kind="stable")[:max_detections]
    return kept[order], kept_scores[order]


def _keep(segments: np.ndarray, scores: np.ndarray, most: int, tiou: float) -> np.ndarray:
    """i64[n]: the candidates of one class that overlap no better one too much, best first."""
    by_start = np.argsort(segments[:, 0], kind="stable")
    places, ordered = np.argsort(by_start), segments[by_start]
    longest = (segments[:, 1] - segments[:, 0]).max(initial=0)
    # Only what begins here can overlap a candidate: without this, hours of recording would take hours.
    first = np.searchsorted(ordered[:, 0], segments[:, 0] - longest)
    last = np.searchsorted(ordered[:, 0], segments[:, 1], side="right")
    there, kept = np.ones(len(segments), bool), []
    for best in np.argsort(-scores, kind="stable"):
        if len(kept) == most:
            break
        if there[places[best]]:
            kept.append(best)
            near = slice(first[best], last[best])
            there[near] &= _tiou(segments[best], ordered[near]) <= tiou
    return np.asarray(kept, np.int64)


def _decay(
    left: np.ndarray, value: np.ndarray, most: int, min_score: float, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """i64[n], f32[n]: the candidates of one class whose score stays high enough beside better ones, best first."""
    index, kept, kept_scores = np.arange(len(value)), [], []
    while len(index) and len(kept) < most:
        best = np.argmax(value)
        kept.append(index[best])
        kept_scores.append(value[best])
        value = value * np.exp(-(_tiou(left[best], left) ** 2) / np.float32(sigma))
        stays = value > min_score
        stays[best] = False
        index, left, value = index[stays], left[stays], value[stays]
    return np.asarray(kept, np.int64), np.asarray(kept_scores, np.float32)


def vote(
    kept: np.ndarray,
    segments: np.ndarray,
    scores: np.ndarray,
    class_ids: np.ndarray,
    *,
    tiou: float,
    min_score: float,
) -> np.ndarray:
    """Mean boundaries of all candidates of its class that overlap a kept one enough, weighted by their scores.

    Args:
        kept: i64[n] of ``suppress``.
        segments: f32[N, 2].
        scores: f32[N], before any decay.
        class_ids: i32[N].
        tiou: > 0, overlap with the kept one from which a candidate votes.
        min_score: only higher scores vote.

    Returns:
        f32[n, 2].
    """
    boundaries = segments[kept]
    for class_id in np.unique(class_ids[kept]):
        voters = np.flatnonzero((class_ids == class_id) & (scores > min_score))
        voters = voters[np.argsort(segments[voters, 0], kind="stable")]
        own, weights = segments[voters], scores[voters]
        longest = (own[:, 1] - own[:, 0]).max(initial=0)
        for row in np.flatnonzero(class_ids[kept] == class_id):
            first = np.searchsorted(own[:, 0], boundaries[row, 0] - longest)
            near = slice(first, np.searchsorted(own[:, 0], boundaries[row, 1], side="right"))
            votes = np.where(_tiou(boundaries[row], own[near]) >= np.float32(tiou), weights[near], 0)[:, None]
            boundaries[row] += (votes / votes.sum() * (own[near] - boundaries[row])).sum(axis=0)
    return boundaries


def _tiou(one: np.ndarray, many: np.ndarray) -> np.ndarray:
    """Overlap of f32[2] with each of f32[N, 2], none of them empty: f32[N]."""
    both = np.minimum(one[1], many[:, 1]) - np.maximum(one[0], many[:, 0])
    both = np.maximum(both, np.float32(0))
    return both / (one[1] - one[0] + many[:, 1] - many[:, 0] - both)


def report_also(
    scores: np.ndarray, class_ids: np.ndarray, max_detections: int, description: dict
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Adds a copy of each detection whose class implies another, as that other class; the best K of all stay.

    Args:
        scores: f32[n], descending.
        class_ids: i32[n].
        max_detections: K.
        description: its ``also_reported`` says which class implies which.

    Returns:
        i64[m] rows of the arguments, their scores f32[m] and their classes i32[m].
    """
    names, implied = description["class_names"], description["also_reported"]
    other = np.asarray([names.index(implied[n]) if n in implied else -1 for n in names], np.int32)[class_ids]
    copies = np.flatnonzero(other >= 0)
    rows = np.concatenate([np.arange(len(scores)), copies])
    class_ids = np.concatenate([class_ids, other[copies]])
    order = np.argsort(-scores[rows], kind="stable")[:max_detections]
    return rows[order], scores[rows[order]], class_ids[order]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: prints detections as ActivityNet JSON; returns the exit status."""
    parser = argparse.ArgumentParser(description="Detections of a recording, as JSON in the ActivityNet format.")
    parser.add_argument("model", help="file written by export_tflite")
    parser.add_argument("features", help=".npy file of a matrix [steps, features]")
    parser.add_argument("--seconds_per_step", type=float, help="time between two rows; default: as in training")
    parser.add_argument("--threads", type=int, default=1, help="that one window may use")
    parser.add_argument("--runtime", choices=RUNTIMES, help="default: the first that is installed")
    options = parser.parse_args(arguments)
    try:
        model = Model(options.model, num_threads=options.threads, runtime=options.runtime)
        features = _load(options.features)
        detections = model.detect(features, options.seconds_per_step)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    most, scores = most_detections(len(features), model.description), detections["scores"]
    if len(scores) >= most and scores[-1] >= CLEAR:
        print(
            f"warning: {most} detections are as many as the model keeps of such a recording, and the last one has a "
            f"score of {scores[-1]:.2f}: convert it with a higher --max_detections, or 0",
            file=sys.stderr,
        )
    rows = zip(detections["labels"], detections["scores"].tolist(), detections["segments"].tolist(), strict=True)
    entries = [{"label": label, "score": score, "segment": segment} for label, score, segment in rows]
    name = pathlib.Path(options.features).stem
    print(json.dumps({"version": "VERSION 1.3", "results": {name: entries}, "external_data": {}}))
    return 0


def _load(path: str) -> np.ndarray:
    """Maps the file: a recording of many hours need not fit in memory."""
    # As a2net_tf.data.files.array_files does, which is not there where this file is copied alone.
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).split(". ")[0]  # numpy goes on to advise unpickling
        raise ValueError(f"{path}: not a readable .npy matrix ({reason})") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: not a readable .npy matrix (it is an .npz archive: save its matrix with np.save)")
    return array


if __name__ == "__main__":
    sys.exit(main())

"""Detections as a label for every step, and the measures of action segmentation; numpy only.

F1@k counts segments over all recordings: a predicted one is right if its tIoU with the true one of its class that it
overlaps best is at least k %, and no other has taken that one before. The edit score of a recording is 100 (1 - d / n):
d is the least number of segments to put in, leave out or rename to turn one order of classes into the other, and n the
number of the longer; the mean over recordings counts. Accuracy is the share of all steps with the right label,
background included.

F1 and edit leave background out. Sources: Lea et al., "Temporal Convolutional Networks for Action Segmentation and
Detection", CVPR 2017 (F1@k; edit is that of Lea et al., ICRA 2016), in the form that the evaluation of MS-TCN gave
them, by which the field compares.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from a2net_tf.data.files.frame_labels import runs
from a2net_tf.evaluation.instances import Detections, group_rows, number_videos

OVERLAPS = (0.1, 0.25, 0.5)


class Segments(NamedTuple):
    """Stretches of steps, one after the other, without background."""

    bounds: np.ndarray  # i64[N, 2], first step and the one after the last
    labels: np.ndarray  # i64[N]


def segments_of(labels: np.ndarray, background: int) -> Segments:
    """The stretches of equal labels i64[T] that are not ``background``."""
    found = np.array([run for run in runs(labels) if run.label != background], np.int64).reshape(-1, 3)
    return Segments(found[:, :2], found[:, 2])


def choose(segments: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of segments that overlap, those that do not and have the highest total value together: exactly.

    Args:
        segments: f64[N, 2]; one may begin where another ends. Empty ones are not chosen.
        values: f64[N]; those of 0 or less are not chosen.

    Returns:
        i64[n], their rows, by time.
    """
    segments, values = np.asarray(segments, float).reshape(-1, 2), np.asarray(values, float)
    rows = np.flatnonzero((segments[:, 1] > segments[:, 0]) & (values > 0))
    rows = rows[np.lexsort((segments[rows, 0], segments[rows, 1]))]  # by end
    before = np.searchsorted(segments[rows, 1], segments[rows, 0], side="right")  # so many end when it begins
    best = np.zeros(len(rows) + 1)  # of the first n
    for n, row in enumerate(rows):
        best[n + 1] = max(best[n], best[before[n]] + values[row])
    chosen, n = [], len(rows)
    while n:
        if best[n] == best[n - 1]:
            n -= 1
        else:
            chosen.append(rows[n - 1])
            n = int(before[n - 1])
    return np.array(chosen[::-1], np.int64)


def label_steps(
    segments: np.ndarray, labels: np.ndarray, scores: np.ndarray, *, num_steps: int, rate: float, background: int
) -> np.ndarray:
    """A label for every step from detections that may overlap: those with the highest total score over all steps.

    Each step has the score of the detection that holds it, or 0. Of all choices of detections that do not overlap, the
    one with the highest sum is taken, so a long detection wins over a short one inside it unless that is surer by more
    than it is shorter.

    Args:
        segments: f64[N, 2] in seconds; a step belongs to a segment that holds its middle.
        labels: i64[N].
        scores: f64[N].
        num_steps: T.
        rate: steps per second.
        background: the label of steps that no chosen detection holds.

    Returns:
        i64[T].
    """
    # Rounding of the seconds must not move a segment by a step.
    steps = np.ceil(np.asarray(segments, float).reshape(-1, 2) * rate - 0.5 - 1e-6)
    steps = np.clip(steps, 0, num_steps).astype(np.int64)
    found = np.full(num_steps, background, np.int64)
    for row in choose(steps, np.asarray(scores, float) * (steps[:, 1] - steps[:, 0])):
        found[steps[row, 0] : steps[row, 1]] = labels[row]
    return found


def from_detections(
    detections: Detections, num_steps: Mapping[str, int], *, rate: float, background: int, min_score: float
) -> dict[str, np.ndarray]:
    """``label_steps`` of every recording; those without detections are all background.

    Args:
        detections: of all recordings, and perhaps of others.
        num_steps: {recording: T}.
        rate: steps per second.
        background: the label of steps without a detection.
        min_score: detections with a lower score label nothing.
    """
    kept = detections.select(detections.scores >= min_score)
    [numbers, known] = number_videos(kept.videos, np.array(list(num_steps), str))
    rows = group_rows(numbers)
    labelled = {}
    for number, (name, steps) in zip(known.tolist(), num_steps.items(), strict=True):
        of_one = kept.select(rows.get(number, np.zeros(0, np.int64)))
        labelled[name] = label_steps(
            of_one.segments, of_one.labels, of_one.scores, num_steps=steps, rate=rate, background=background
        )
    return labelled


def count_hits(predicted: Segments, true: Segments, overlap: float) -> tuple[int, int, int]:
    """Right predictions, wrong ones, and true segments that are missed, in one recording."""
    used = np.zeros(len(true.labels), bool)
    right = 0
    for (start, end), label in zip(predicted.bounds, predicted.labels, strict=True):
        shared = np.minimum(end, true.bounds[:, 1]) - np.maximum(start, true.bounds[:, 0])
        covered = np.maximum(end, true.bounds[:, 1]) - np.minimum(start, true.bounds[:, 0])
        tious = np.where(true.labels == label, shared / covered, 0.0)
        best = int(tious.argmax()) if len(tious) else -1
        if best >= 0 and tious[best] >= overlap and not used[best]:
            used[best] = True
            right += 1
    return right, len(predicted.labels) - right, int((~used).sum())


def edit_score(predicted: np.ndarray, true: np.ndarray) -> float:
    """100 (1 - d / n) of two orders of classes i64[n], i64[m]; 100 if both are empty."""
    longer = max(len(predicted), len(true))
    if not longer:
        return 100.0
    distance = np.arange(len(true) + 1, dtype=float)
    for row, label in enumerate(predicted, start=1):
        # Left out or renamed; then, from left to right, put in.
        changed = np.minimum(distance[1:] + 1, distance[:-1] + (np.asarray(true) != label))
        line = np.concatenate([[row], changed])
        steps = np.arange(len(line))
        distance = np.minimum.accumulate(line - steps) + steps
    return 100.0 * (1 - distance[-1] / longer)


def evaluate(
    predicted: Mapping[str, np.ndarray],
    true: Mapping[str, np.ndarray],
    *,
    background: int,
    overlaps: Sequence[float] = OVERLAPS,
) -> dict[str, Any]:
    """The measures over all recordings.

    Args:
        predicted: {recording: i64[T]}, the label of each step.
        true: the same of the annotations, with the same recordings and lengths.
        background: the label that is no action.
        overlaps: k / 100 of F1@k.

    Returns:
        ``f1`` {"10": ...}, ``edit``, ``accuracy``, in percent; ``num_recordings``, ``num_steps``.

    Raises:
        ValueError: recordings or lengths differ, or there are none.
    """
    if predicted.keys() != true.keys() or not true:
        raise ValueError(f"recordings {sorted(predicted)} and {sorted(true)}")
    counts = np.zeros((len(overlaps), 3))
    edits, right, steps = [], 0, 0
    for name in true:
        if len(predicted[name]) != len(true[name]):
            raise ValueError(f"{name}: {len(predicted[name])} and {len(true[name])} steps")
        found, wanted = segments_of(predicted[name], background), segments_of(true[name], background)
        counts += [count_hits(found, wanted, overlap) for overlap in overlaps]
        edits.append(edit_score(found.labels, wanted.labels))
        right += int((np.asarray(predicted[name]) == np.asarray(true[name])).sum())
        steps += len(true[name])
    return {
        "f1": {f"{100 * overlap:g}": _f1(*row) for overlap, row in zip(overlaps, counts, strict=True)},
        "edit": float(np.mean(edits)),
        "accuracy": 100.0 * right / max(steps, 1),
        "num_recordings": len(true),
        "num_steps": steps,
    }


def _f1(right: float, wrong: float, missed: float) -> float:
    """In percent; 0 where nothing is right."""
    return 200.0 * right / (2 * right + wrong + missed) if right else 0.0

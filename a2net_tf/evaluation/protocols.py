"""Mean average precision by the rules of THUMOS14 and of ActivityNet; numpy only.

The two protocols of mean average precision give different numbers for the same detections, so every result carries the
protocol's name.

| | thumos14 | activitynet |
|---|---|---|
| who chooses | each ground truth, in file order | each detection, by descending score |
| takes | the unused detection with the highest tIoU | the unmatched ground truth with the highest tIoU |
| it counts if | tIoU > threshold | tIoU >= threshold |
| unmatched detections | wrong, unless they overlap an Ambiguous interval: then left out | wrong |
| average precision | sum of the precision at each true positive / ground truths | area under the interpolated curve |
| equal scores | true positives first | the order in which the detections are given |

The third protocol, ``proposals``, looks at no class: which share of the actions does some proposal cover, as a function
of the average number of proposals per video (AR@AN)? See ``proposals.average_recall``.

Sources: the evaluation kit of the THUMOS 2014 challenge, the evaluation code of the ActivityNet challenge (detections
and proposals), and for the normalised mAP Alwassel et al., "Diagnosing Error in Temporal Action Detectors" (DETAD),
ECCV 2018.

Letters used here: M ground truths, N detections, R tIoU thresholds.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from a2net_tf.errors import UserError
from a2net_tf.evaluation.instances import (
    Detections,
    GroundTruth,
    check_ground_truth,
    check_thresholds,
    group_rows,
    is_proper,
    number_videos,
    shared_groups,
    tiou_matrix,
)


def match_thumos14(tious: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Matches one class in one video: each ground truth in order takes the best unused detection.

    Args:
        tious: f64[M, N], ground truths in file order, detections by descending score.
        thresholds: f64[R]; a match has a greater tIoU.

    Returns:
        i64[R, N], the row of the matched ground truth for each detection, or -1.
    """
    matched = np.full((len(thresholds), tious.shape[1]), -1)
    every_threshold = np.arange(len(thresholds))
    for row in np.flatnonzero(tious.max(axis=1, initial=0) > thresholds.min()):
        unused = np.where(matched < 0, tious[row], -1.0)  # R x N
        best = unused.argmax(axis=1)
        hit = unused[every_threshold, best] > thresholds
        matched[hit, best[hit]] = row
    return matched


def match_activitynet(tious: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Matches one class in one video: each detection by descending score takes the best unmatched ground truth.

    Pooling the detections of all videos first would change nothing, since each takes ground truths of its own video.

    Args:
        tious: f64[M, N], detections by descending score.
        thresholds: f64[R], > 0; a match has at least this tIoU.

    Returns:
        i64[R, N], the row of the matched ground truth for each detection, or -1.
    """
    matched = np.full((len(thresholds), tious.shape[1]), -1)
    unmatched = np.ones((len(thresholds), tious.shape[0]), bool)
    every_threshold = np.arange(len(thresholds))
    for column in np.flatnonzero(tious.max(axis=0, initial=0) >= thresholds.min()):
        candidates = np.where(unmatched, tious[:, column], -1.0)  # R x M
        best = candidates.argmax(axis=1)
        hit = candidates[every_threshold, best] >= thresholds
        matched[hit, column] = best[hit]
        unmatched[every_threshold[hit], best[hit]] = False
    return matched


_MATCHERS = {"thumos14": match_thumos14, "activitynet": match_activitynet}
PROTOCOLS = tuple(_MATCHERS)


def precision_and_recall(
    is_true_positive: np.ndarray, num_ground_truths: int, instances_per_class: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall after each detection.

    Args:
        is_true_positive: bool[n], detections by descending score; the others are false positives.
        num_ground_truths: of the class, > 0.
        instances_per_class: for DETAD's normalised precision R N / (R N + F) of a class: N, the mean number of ground
            truths per class; R is the recall and F the number of false positives so far. None for the usual precision.

    Returns:
        precision f64[n], recall f64[n].
    """
    true_positives = np.cumsum(is_true_positive)
    false_positives = np.arange(1, len(is_true_positive) + 1) - true_positives
    recall = true_positives / num_ground_truths
    positives = true_positives if instances_per_class is None else recall * instances_per_class
    return positives / (positives + false_positives), recall


def average_precision_thumos14(
    is_true_positive: np.ndarray, num_ground_truths: int, instances_per_class: float | None = None
) -> float:
    """Sum of the precision at each true positive / number of ground truths: not interpolated.

    Args: see ``precision_and_recall``.
    """
    precision, _ = precision_and_recall(is_true_positive, num_ground_truths, instances_per_class)
    return float(precision[is_true_positive].sum() / num_ground_truths)


def average_precision_activitynet(
    is_true_positive: np.ndarray, num_ground_truths: int, instances_per_class: float | None = None
) -> float:
    """Area under the interpolated curve: the precision at a recall is the best at this or any higher recall.

    Args: see ``precision_and_recall``.
    """
    precision, recall = precision_and_recall(is_true_positive, num_ground_truths, instances_per_class)
    interpolated = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * interpolated).sum())


@dataclasses.dataclass(frozen=True, eq=False)
class _ClassMatches:
    """Which detections of one class found which of its ground truths; detections by descending score.

    scores f64[N]; matched i64[R, N], row among the class's ground truths or -1; ambiguous bool[N], overlaps an
    Ambiguous interval; detection_seconds f64[N] and truth_seconds f64[M], durations.
    """

    scores: np.ndarray
    matched: np.ndarray
    ambiguous: np.ndarray
    detection_seconds: np.ndarray
    truth_seconds: np.ndarray


def evaluate(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    protocol: str,
    tiou_thresholds: Sequence[float],
    class_names: Sequence[str],
    duration_edges: Sequence[float] = (),
) -> dict:
    """Scores detections; all numbers are fractions, not percent.

    Classes without ground truth are left out of every mean (their AP is None); a class with ground truth but without
    detections has AP 0. Detections that are reversed, empty or hold a number that is not finite overlap nothing: they
    are false positives, and counted in ``num_reversed_detections``.

    By duration, all ground truths take part in the matching; then the AP of a bucket sees its own ground truths, the
    detections matched to them, and the unmatched detections whose own duration (end - start) lies in the bucket.

    Args:
        ground_truth: of all classes and videos.
        detections: of all classes and videos, in any order.
        protocol: "thumos14" or "activitynet".
        tiou_thresholds: R numbers in (0, 1].
        class_names: C names; labels are positions in it.
        duration_edges: rising, in seconds: (1.5, 2.5) makes the buckets [0, 1.5), [1.5, 2.5) and [2.5, no limit).

    Returns:
        A dict that can be written as JSON: protocol; tiou_thresholds; mAP, mAP_normalized (R numbers each);
        average_mAP, average_mAP_normalized; per_class {name: {AP, AP_normalized, num_ground_truths, num_detections}};
        by_duration [{from_seconds, to_seconds, num_ground_truths, mAP, average_mAP}] with to_seconds None for no limit
        and None for the mAP of an empty bucket; num_ground_truths, num_detections, num_reversed_detections; num_videos,
        those with an annotation (Ambiguous ones too).

    Raises:
        UserError: no ground truth, an unknown protocol or class id, bad thresholds or edges.
    """
    thresholds = _check_settings(protocol, tiou_thresholds, duration_edges)
    _check_labels(ground_truth, detections, class_names)
    classes = _match_classes(ground_truth, detections, protocol, thresholds, num_classes=len(class_names))
    counts = [len(c.truth_seconds) for c in classes]
    instances_per_class = sum(counts) / np.count_nonzero(counts)
    plain = [_average_precisions(c, protocol) for c in classes]
    normalized = [_average_precisions(c, protocol, instances_per_class) for c in classes]
    return {
        "protocol": protocol,
        "tiou_thresholds": thresholds.tolist(),
        **_means("mAP", plain),
        **_means("mAP_normalized", normalized),
        "per_class": {
            name: {
                "AP": plain[i],
                "AP_normalized": normalized[i],
                "num_ground_truths": counts[i],
                "num_detections": len(classes[i].scores),
            }
            for i, name in enumerate(class_names)
        },
        "by_duration": [_score_bucket(classes, protocol, bucket) for bucket in _buckets(duration_edges)],
        "num_ground_truths": len(ground_truth.videos),
        "num_detections": len(detections),
        "num_reversed_detections": int((~is_proper(detections)).sum()),
        "num_videos": len({*ground_truth.videos.tolist(), *ground_truth.ambiguous_videos.tolist()}),
    }


def _check_settings(protocol: str, tiou_thresholds: Sequence[float], duration_edges: Sequence[float]) -> np.ndarray:
    """Returns the thresholds as f64[R]."""
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol: expected {' or '.join(PROTOCOLS)}, got '{protocol}'")
    thresholds = check_thresholds(tiou_thresholds)
    edges = np.asarray(duration_edges, float).reshape(-1)
    if not (np.isfinite(edges).all() and (np.diff(edges, prepend=0.0) > 0).all()):
        raise UserError(f"duration_edges: expected rising numbers of seconds above 0, got {edges.tolist()}")
    return thresholds


def _check_labels(ground_truth: GroundTruth, detections: Detections, class_names: Sequence[str]) -> None:
    check_ground_truth(ground_truth)
    if len(set(class_names)) != len(class_names):
        raise UserError("class_names: a name occurs twice")
    for kind, labels in (("ground truth", ground_truth.labels), ("detections", detections.labels)):
        unknown = labels[(labels < 0) | (labels >= len(class_names))]
        if len(unknown):
            raise UserError(f"{kind}: class id {unknown[0]} is outside 0 to {len(class_names) - 1}; are ids 0-based?")


def _match_classes(
    ground_truth: GroundTruth, detections: Detections, protocol: str, thresholds: np.ndarray, *, num_classes: int
) -> list[_ClassMatches]:
    """Matches every class on its own."""
    detections = detections.select(np.argsort(-detections.scores, kind="stable"))  # NaN goes last
    segments = np.where(is_proper(detections)[:, None], detections.segments, 0.0)  # empty: overlaps nothing
    truth_videos, detection_videos, ambiguous_videos = number_videos(
        ground_truth.videos, detections.videos, ground_truth.ambiguous_videos
    )
    ambiguous = np.zeros(len(segments), bool)
    if protocol == "thumos14":
        for d, p in shared_groups(detection_videos, ambiguous_videos):
            ambiguous[d] = (tiou_matrix(segments[d], ground_truth.ambiguous_segments[p]) > 0).any(axis=1)
    truth_of, detections_of = group_rows(ground_truth.labels), group_rows(detections.labels)
    none, classes = np.empty(0, np.int64), []
    for label in range(num_classes):
        truth, chosen = truth_of.get(label, none), detections_of.get(label, none)
        matched = np.full((len(thresholds), len(chosen)), -1)
        for t, d in shared_groups(truth_videos[truth], detection_videos[chosen]):
            tious = tiou_matrix(ground_truth.segments[truth[t]], segments[chosen[d]])
            inside = _MATCHERS[protocol](tious, thresholds)
            matched[:, d] = np.where(inside >= 0, t[inside], -1)
        classes.append(
            _ClassMatches(
                scores=detections.scores[chosen],
                matched=matched,
                ambiguous=ambiguous[chosen],
                detection_seconds=_durations(detections.segments[chosen]),
                truth_seconds=_durations(ground_truth.segments[truth]),
            )
        )
    return classes


def _durations(segments: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return segments[:, 1] - segments[:, 0]


def _average_precisions(
    matches: _ClassMatches,
    protocol: str,
    instances_per_class: float | None = None,
    *,
    bucket: tuple[float, float] | None = None,
) -> list[float] | None:
    """AP at each threshold, or None for a class without ground truth (in the bucket of seconds [from, to))."""
    truth_counts, detection_counts = np.ones(len(matches.truth_seconds), bool), ~matches.ambiguous
    if bucket is not None:
        truth_counts = _is_inside(matches.truth_seconds, bucket)
        detection_counts = detection_counts & _is_inside(matches.detection_seconds, bucket)
    num_ground_truths = int(truth_counts.sum())
    if num_ground_truths == 0:
        return None
    is_thumos = protocol == "thumos14"
    average_precision = average_precision_thumos14 if is_thumos else average_precision_activitynet
    result = []
    for matched in matches.matched:
        kept = np.where(matched >= 0, truth_counts[matched], detection_counts)
        is_true, scores = matched[kept] >= 0, matches.scores[kept]
        if is_thumos:  # the challenge's kit lists all true positives before the false ones, then sorts by score
            is_true = is_true[np.lexsort((~is_true, -scores))]
        result.append(average_precision(is_true, num_ground_truths, instances_per_class))
    return result


def _is_inside(seconds: np.ndarray, bucket: tuple[float, float]) -> np.ndarray:
    return (seconds >= bucket[0]) & (seconds < bucket[1])


def _buckets(duration_edges: Sequence[float]) -> list[tuple[float, float]]:
    if len(duration_edges) == 0:
        return []
    edges = [0.0, *map(float, duration_edges), float("inf")]
    return list(zip(edges, edges[1:], strict=False))


def _score_bucket(classes: list[_ClassMatches], protocol: str, bucket: tuple[float, float]) -> dict:
    """One entry of ``by_duration``."""
    return {
        "from_seconds": bucket[0],
        "to_seconds": bucket[1] if np.isfinite(bucket[1]) else None,
        "num_ground_truths": int(sum(_is_inside(c.truth_seconds, bucket).sum() for c in classes)),
        **_means(
            "mAP",
            [_average_precisions(c, protocol, bucket=bucket) for c in classes],
            num_thresholds=len(classes[0].matched),
        ),
    }


def _means(name: str, per_class: list[list[float] | None], num_thresholds: int = 0) -> dict:
    """Mean over the classes that have ground truth, and the mean of that over thresholds; None if no class has any."""
    rows = [row for row in per_class if row is not None]
    if not rows:
        return {name: [None] * num_thresholds, f"average_{name}": None}
    means = np.mean(rows, axis=0)
    return {name: means.tolist(), f"average_{name}": float(means.mean())}

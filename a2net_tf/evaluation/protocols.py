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
| equal scores | videos in order of their names, within a video as given | as given |
| by duration | of the action, of any class, that a detection overlaps best | its own |

Of equal scores the kit that A2Net and most published THUMOS14 numbers were made with (that of the S-CNN lineage) keeps
each video's detections together. The first kit of the challenge put true positives first, which flatters detectors
whose scores are rounded.

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
DURATION_RULES = {"thumos14": "nearest_action", "activitynet": "own_duration"}
DURATION_EDGES = (1.5, 2.5, 4.2, 6.9)  # seconds; of Table I
_FIFTHS = (0.2, 0.4, 0.6, 0.8)


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
    duration_edges: Sequence[float] | None = (),
) -> dict:
    """Scores detections; all numbers are fractions, not percent.

    Classes without ground truth are left out of every mean (their AP is None); a class with ground truth but without
    detections has AP 0. Detections that are reversed, empty or hold a number that is not finite overlap nothing: they
    are false positives, and counted in ``num_reversed_detections``.

    By duration, two rules. thumos14, that of Table I of the paper: a detection belongs to the bucket of the action, of
    any class, of its video with the highest tIoU, and to none if it overlaps none; each bucket is judged by itself.
    activitynet: all ground truths take part in the matching; then the AP of a bucket sees its own ground truths, the
    detections matched to them, and the unmatched detections whose own duration (end - start) lies in the bucket.

    Args:
        ground_truth: of all classes and videos.
        detections: of all classes and videos, in any order.
        protocol: "thumos14" or "activitynet".
        tiou_thresholds: R numbers in (0, 1].
        class_names: C names; labels are positions in it.
        duration_edges: rising, in seconds: (1.5, 2.5) makes the buckets [0, 1.5), [1.5, 2.5) and [2.5, no limit).
            Empty: no buckets. None: the protocol's own: ``DURATION_EDGES`` for activitynet, and for thumos14 the
            fifths of the actions by duration, as in Table I of the paper (1.5, 2.5, 4.2 and 6.9 s part those).

    Returns:
        A dict that can be written as JSON: protocol; tiou_thresholds; mAP, mAP_normalized (R numbers each);
        average_mAP, average_mAP_normalized; per_class {name: {AP, AP_normalized, num_ground_truths, num_detections}};
        duration_rule, ``nearest_action`` or ``own_duration``; by_duration [{from_seconds, to_seconds,
        num_ground_truths, mAP, average_mAP}] with to_seconds None for no limit and None for the mAP of an empty bucket;
        num_ground_truths, num_detections, num_reversed_detections; num_videos,
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
        "duration_rule": DURATION_RULES[protocol],
        "by_duration": (
            _score_nearest_actions(ground_truth, detections, thresholds, duration_edges, num_classes=len(class_names))
            if protocol == "thumos14"
            else _score_own_durations(classes, DURATION_EDGES if duration_edges is None else duration_edges)
        ),
        "num_ground_truths": len(ground_truth.videos),
        "num_detections": len(detections),
        "num_reversed_detections": int((~is_proper(detections)).sum()),
        "num_videos": len({*ground_truth.videos.tolist(), *ground_truth.ambiguous_videos.tolist()}),
    }


def _check_settings(
    protocol: str, tiou_thresholds: Sequence[float], duration_edges: Sequence[float] | None
) -> np.ndarray:
    """Returns the thresholds as f64[R]."""
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol: expected {' or '.join(PROTOCOLS)}, got '{protocol}'")
    thresholds = check_thresholds(tiou_thresholds)
    edges = np.asarray(() if duration_edges is None else duration_edges, float).reshape(-1)
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
    detections = detections.select(_ranking(detections, protocol))
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


def _ranking(detections: Detections, protocol: str) -> np.ndarray:
    """i64[N], the rows by descending score, NaN last; equal scores as the protocol has them."""
    if protocol == "activitynet":
        return np.argsort(-detections.scores, kind="stable")
    _, place_of_video = np.unique(detections.videos, return_inverse=True)  # in order of their names
    return np.lexsort((place_of_video, -detections.scores))


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
    average_precision = average_precision_thumos14 if protocol == "thumos14" else average_precision_activitynet
    result = []
    for matched in matches.matched:
        kept = np.where(matched >= 0, truth_counts[matched], detection_counts)
        result.append(average_precision(matched[kept] >= 0, num_ground_truths, instances_per_class))
    return result


def _is_inside(seconds: np.ndarray, bucket: tuple[float, float]) -> np.ndarray:
    return (seconds >= bucket[0]) & (seconds < bucket[1])


def _buckets(duration_edges: Sequence[float]) -> list[tuple[float, float]]:
    if len(duration_edges) == 0:
        return []
    edges = [0.0, *map(float, duration_edges), float("inf")]
    return list(zip(edges, edges[1:], strict=False))


def _score_own_durations(classes: list[_ClassMatches], duration_edges: Sequence[float]) -> list[dict]:
    """``by_duration`` where unmatched detections belong to the bucket of their own duration."""
    return [
        _describe_bucket(
            bucket,
            sum(int(_is_inside(c.truth_seconds, bucket).sum()) for c in classes),
            [_average_precisions(c, "activitynet", bucket=bucket) for c in classes],
            num_thresholds=len(classes[0].matched),
        )
        for bucket in _buckets(duration_edges)
    ]


def _score_nearest_actions(
    ground_truth: GroundTruth,
    detections: Detections,
    thresholds: np.ndarray,
    duration_edges: Sequence[float] | None,
    *,
    num_classes: int,
) -> list[dict]:
    """``by_duration`` where a detection belongs to the bucket of the action that it overlaps best."""
    bounds, of_action = _fifths(ground_truth) if duration_edges is None else _between(ground_truth, duration_edges)
    nearest, rows = _nearest_actions(ground_truth, detections), []
    of_detection = np.where(nearest >= 0, of_action[nearest], -1)
    for number, bucket in enumerate(bounds):
        inside, taken = ground_truth.select(of_action == number), detections.select(of_detection == number)
        matches = _match_classes(inside, taken, "thumos14", thresholds, num_classes=num_classes)
        precisions = [_average_precisions(c, "thumos14") for c in matches]
        rows.append(_describe_bucket(bucket, len(inside.videos), precisions, num_thresholds=len(thresholds)))
    return rows


def _between(
    ground_truth: GroundTruth, duration_edges: Sequence[float]
) -> tuple[list[tuple[float, float]], np.ndarray]:
    """The buckets [from, to) of the edges, and i64[M], which of them each action is in."""
    return _buckets(duration_edges), np.searchsorted(duration_edges, _durations(ground_truth.segments), side="right")


def _fifths(ground_truth: GroundTruth) -> tuple[list[tuple[float, float]], np.ndarray]:
    """The same for buckets of equally many actions, as far as there are actions enough.

    Equal durations, which a fifth may part, are ordered by the first class of their video, its name, and the start: the
    order of the challenge's files, in whatever order the ground truth is given.
    """
    seconds, starts = _durations(ground_truth.segments), ground_truth.segments[:, 0]
    _, videos = np.unique(ground_truth.videos, return_inverse=True)
    first_labels = np.full(videos.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first_labels, videos, ground_truth.labels)
    ranked = np.lexsort((ground_truth.labels, starts, videos, first_labels[videos], seconds))
    parts = [part for part in np.split(ranked, [int(f * len(ranked)) for f in _FIFTHS]) if len(part)]
    of_action = np.empty(len(ranked), np.int64)
    for number, part in enumerate(parts):
        of_action[part] = number
    edges = [0.0, *(float(seconds[part[0]]) for part in parts[1:]), float("inf")]
    return list(zip(edges, edges[1:], strict=False)), of_action


def _nearest_actions(ground_truth: GroundTruth, detections: Detections) -> np.ndarray:
    """i64[N]: the row of the action, of any class, that each detection overlaps best; -1: it overlaps none.

    Of several that it overlaps equally the shortest counts.
    """
    nearest = np.full(len(detections), -1)
    segments = np.where(is_proper(detections)[:, None], detections.segments, 0.0)
    for t, d in shared_groups(*number_videos(ground_truth.videos, detections.videos)):
        t = t[np.argsort(_durations(ground_truth.segments[t]), kind="stable")]
        tious = tiou_matrix(ground_truth.segments[t], segments[d])
        nearest[d] = np.where(tious.max(axis=0) > 0, t[tious.argmax(axis=0)], -1)
    return nearest


def _describe_bucket(
    bucket: tuple[float, float],
    num_ground_truths: int,
    per_class: list[list[float] | None],
    *,
    num_thresholds: int,
) -> dict:
    """One entry of ``by_duration``."""
    return {
        "from_seconds": bucket[0],
        "to_seconds": bucket[1] if np.isfinite(bucket[1]) else None,
        "num_ground_truths": num_ground_truths,
        **_means("mAP", per_class, num_thresholds=num_thresholds),
    }


def _means(name: str, per_class: list[list[float] | None], num_thresholds: int = 0) -> dict:
    """Mean over the classes that have ground truth, and the mean of that over thresholds; None if no class has any."""
    rows = [row for row in per_class if row is not None]
    if not rows:
        return {name: [None] * num_thresholds, f"average_{name}": None}
    means = np.mean(rows, axis=0)
    return {name: means.tolist(), f"average_{name}": float(means.mean())}

"""What keeps the mAP from being higher, by the definitions of DETAD; numpy only.

Detections are matched as in the ``activitynet`` protocol: by descending score each takes the action of its class and
video with the highest tIoU that is not taken yet, if that is at least the threshold. What is matched is a true
positive. Of any other detection the action of its video with the highest tIoU, of any class and taken or not, says what
is wrong with it:

| the tIoU with it | of its own class | of another class |
|---|---|---|
| at least the threshold | double detection | wrong label |
| below, at least 0.1 | localization | confusion |
| below 0.1 | background | background |

Errors are counted among the 10 G best detections of each class, G being the number of its actions, and the mAP without
a type of error is that of these detections when those of the type are taken away. Missed actions are counted with all
detections, but one whose normalised precision is 0.05 or less finds nothing. The sensitivity to a property of the
actions is the normalised mAP of each bucket: all detections but those that are matched, at any of the thresholds, to an
action outside of it. The normalised mAP has, in place of the number of actions of a class, the mean over classes.

Actions without length, and those longer than their video, are left out; Ambiguous intervals play no part.

Source: Alwassel, Caba Heilbron, Escorcia, Ghanem, "Diagnosing Error in Temporal Action Detectors", ECCV 2018, and the
code that its authors have published. It differs where properties hardly differ: see ``_edges``.

Letters used here: M ground truths, N detections, R tIoU thresholds, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

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
from a2net_tf.evaluation.protocols import match_activitynet

TYPES = ("true_positive", "double_detection", "wrong_label", "localization", "confusion", "background")
TOP = 10  # times as many detections of a class as it has actions are looked at
LEAST_TIOU = 0.1  # with less a detection has nothing to do with an action
LEAST_PRECISION = 0.05  # a detection must have more to find an action
SIZES = ("XS", "S", "M", "L", "XL")  # names of buckets
EDGES = {  # between the buckets; a value on an edge belongs to the bucket below it
    "activitynet": {
        "coverage": tuple(np.linspace(0, 1, 6)[1:-1].tolist()),
        "length": (30.0, 60.0, 120.0, 180.0),
        "num_instances": (1.0, 4.0, 8.0),
    },
    "thumos14": {
        "coverage": (0.02, 0.04, 0.06, 0.08),
        "length": (3.0, 6.0, 12.0, 18.0),
        "num_instances": (1.0, 40.0, 80.0),
    },
}
_FIFTHS = (0.2, 0.4, 0.6, 0.8)
_MOST_IN_ONE = 0.9  # of the actions; with more the buckets tell nothing


class Outcomes(NamedTuple):
    """What each detection turned out to be; detections by descending score, equal ones as given.

    rows i64[N], which of the given detections; matched i64[R, N], row of the ground truth or -1; types i64[R, N],
    positions in ``TYPES``; nearest i64[N], row of the ground truth of any class with the highest tIoU or -1, and that
    tious f64[N]; ranks i64[N], how many better ones there are of the class.
    """

    rows: np.ndarray
    matched: np.ndarray
    types: np.ndarray
    nearest: np.ndarray
    tious: np.ndarray
    ranks: np.ndarray


def judge(ground_truth: GroundTruth, detections: Detections, tiou_thresholds: Sequence[float]) -> Outcomes:
    """Matches detections with actions, and says what is wrong with the others.

    Args:
        ground_truth: of all classes and videos.
        detections: of all classes and videos, in any order. Reversed ones, empty ones and those with a number that is
            not finite overlap nothing: they are background.
        tiou_thresholds: R numbers in (0, 1].

    Raises:
        UserError: no ground truth, bad thresholds.
    """
    check_ground_truth(ground_truth)
    thresholds = check_thresholds(tiou_thresholds)
    rows = np.argsort(-detections.scores, kind="stable")
    ranked = detections.select(rows)
    segments = np.where(is_proper(ranked)[:, None], ranked.segments, 0.0)
    truth_videos, videos = number_videos(ground_truth.videos, ranked.videos)
    nearest, tious = np.full(len(ranked), -1), np.zeros(len(ranked))
    matched = np.full((len(thresholds), len(ranked)), -1)
    for t, d in shared_groups(truth_videos, videos):
        in_video = tiou_matrix(ground_truth.segments[t], segments[d])
        best = in_video.argmax(axis=0)
        nearest[d], tious[d] = t[best], in_video[best, np.arange(len(d))]
        for own_t, own_d in shared_groups(ground_truth.labels[t], ranked.labels[d]):
            inside = match_activitynet(in_video[np.ix_(own_t, own_d)], thresholds)
            matched[:, d[own_d]] = np.where(inside >= 0, t[own_t][inside], -1)
    nearest[tious == 0] = -1
    types = _types(matched, tious, ground_truth.labels[nearest] == ranked.labels, thresholds)
    return Outcomes(rows, matched, types, nearest, tious, _ranks(ranked.labels))


def _types(matched: np.ndarray, tious: np.ndarray, own_class: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """i64[R, N], positions in ``TYPES``."""
    near, some = tious >= thresholds[:, None], np.broadcast_to(tious >= LEAST_TIOU, matched.shape)
    cases = [matched >= 0, near & own_class, near, some & own_class, some]
    return np.select(cases, range(5), default=5)


def _ranks(labels: np.ndarray) -> np.ndarray:
    ranks = np.zeros(len(labels), np.int64)
    for rows in group_rows(labels).values():
        ranks[rows] = np.arange(len(rows))
    return ranks


def analyze(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    tiou_thresholds: Sequence[float],
    num_classes: int,
    durations: Mapping[str, float] | None = None,
    protocol: str = "activitynet",
) -> dict[str, Any] | None:
    """Errors, what they cost, and which actions are missed; all numbers are fractions, means over the thresholds.

    Args:
        ground_truth: of all classes and videos.
        detections: of all classes and videos, in any order.
        tiou_thresholds: R numbers in (0, 1].
        num_classes: C; those without ground truth are left out.
        durations: {video: seconds}; coverage is only there if all videos with ground truth are in it.
        protocol: a key of ``EDGES``, for the buckets; the matching is the same for all.

    Returns:
        A dict that can be written as JSON: tiou_thresholds; average_mAP, average_mAP_normalized of the 10 G best
        detections of each class; false_positives {type: {share, gain, gain_normalized}}, with the share of true
        positives too, where a gain is what the mean of the mAP rises by without that type; profile, for the G best of
        each class, the G after those, ...: [{num_detections, share {type: ..}}], where a share is None if there are
        none; missed, the share of actions that are not found; by_property {coverage, length (seconds), num_instances
        (of the class in the video)}: {edges, "detad" or "fifths"; buckets [{name, above, up_to, num_ground_truths,
        missed, average_mAP_normalized}]}, None for what an empty bucket does not have.
        None if all actions are left out.

    Raises:
        UserError: bad thresholds.
    """
    durations = durations or {}
    ground_truth = ground_truth.select(_is_judged(ground_truth, durations))
    if not len(ground_truth.videos):
        return None
    found = _Found(ground_truth, detections, judge(ground_truth, detections, tiou_thresholds), num_classes)
    is_found = _is_found(found)
    return {
        "tiou_thresholds": check_thresholds(tiou_thresholds).tolist(),
        **_cost(found),
        "profile": _profile(found),
        "missed": float(1 - is_found.mean()),
        "by_property": {
            name: _by_bucket(found, is_found, values, EDGES[protocol][name])
            for name, values in _properties(ground_truth, durations).items()
        },
    }


class _Found:
    """Outcomes of the detections of every class that has actions."""

    def __init__(self, ground_truth: GroundTruth, detections: Detections, outcomes: Outcomes, num_classes: int):
        self.outcomes = outcomes
        self.truth_labels = ground_truth.labels
        self.counts = np.bincount(ground_truth.labels, minlength=num_classes)
        self.labels = detections.labels[outcomes.rows]
        self.instances = len(ground_truth.labels) / np.count_nonzero(self.counts)  # the mean over classes
        rows = group_rows(self.labels)
        self.by_class = {c: rows.get(c, np.zeros(0, np.int64)) for c in np.flatnonzero(self.counts).tolist()}


def _is_judged(ground_truth: GroundTruth, durations: Mapping[str, float]) -> np.ndarray:
    """bool[M]: of some length, and not longer than the video."""
    seconds = ground_truth.segments[:, 1] - ground_truth.segments[:, 0]
    most = np.array([durations.get(video, np.inf) for video in ground_truth.videos.tolist()], float)
    return (seconds > 0) & (seconds <= most)


def _properties(ground_truth: GroundTruth, durations: Mapping[str, float]) -> dict[str, np.ndarray]:
    """f64[M] each, by the names in ``EDGES``."""
    videos, seconds = ground_truth.videos.tolist(), ground_truth.segments[:, 1] - ground_truth.segments[:, 0]
    [numbers] = number_videos(ground_truth.videos)
    keys = np.stack([numbers, ground_truth.labels], axis=1)
    _, places, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    properties = {"length": seconds, "num_instances": counts[places.reshape(-1)].astype(float)}
    if set(videos) <= durations.keys():
        return {"coverage": seconds / np.array([durations[video] for video in videos]), **properties}
    return properties


def _average_precisions(right: np.ndarray, wrong: np.ndarray, num_ground_truths: int, instances: float) -> np.ndarray:
    """f64[...]: interpolated AP of detections by descending score.

    Args:
        right: bool[..., n], the true positives.
        wrong: bool[..., n], the false ones; what is in neither is left out.
        num_ground_truths: of the class.
        instances: the number that precision is computed with: of the class, or the mean over classes (normalised).
    """
    precision = _precisions(right, wrong, num_ground_truths, instances)
    interpolated = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    rises = right / num_ground_truths
    return (rises * interpolated).sum(axis=-1)


def _precisions(right: np.ndarray, wrong: np.ndarray, num_ground_truths: int, instances: float) -> np.ndarray:
    positives = np.cumsum(right, axis=-1) * (instances / num_ground_truths)
    everything = positives + np.cumsum(wrong, axis=-1)
    return positives / np.where(everything > 0, everything, 1.0)


def _cost(found: _Found) -> dict[str, Any]:
    """Shares of the types, the mAP, and what it gains without each."""
    plain, normalized = [], []  # per class: f64[6, R], first with all detections, then without each type of error
    num_taken, counts = 0, np.zeros(len(TYPES))
    for label, rows in found.by_class.items():
        most = int(found.counts[label])
        rows = rows[: TOP * most]
        types = found.outcomes.types[:, rows]
        kept = np.stack([np.ones_like(types, bool), *(types != t for t in range(1, len(TYPES)))])
        right, wrong = kept & (types == 0), kept & (types != 0)
        plain.append(_average_precisions(right, wrong, most, most))
        normalized.append(_average_precisions(right, wrong, most, found.instances))
        num_taken += types.size
        counts += np.bincount(types.reshape(-1), minlength=len(TYPES))
    plain, normalized = np.mean(plain, axis=(0, 2)), np.mean(normalized, axis=(0, 2))
    shares = counts / max(num_taken, 1)
    by_type = {
        name: {
            "share": float(shares[t]),
            "gain": float(plain[t] - plain[0]),
            "gain_normalized": float(normalized[t] - normalized[0]),
        }
        for t, name in enumerate(TYPES)
    }
    by_type[TYPES[0]] = {"share": float(shares[0])}
    return {
        "average_mAP": float(plain[0]),
        "average_mAP_normalized": float(normalized[0]),
        "false_positives": by_type,
    }


def _profile(found: _Found) -> list[dict[str, Any]]:
    """Shares of the types among the detections of ranks [0, G), [G, 2 G), ..."""
    counts = found.counts[found.labels]
    groups = np.where(counts > 0, found.outcomes.ranks // np.maximum(counts, 1), TOP)
    rows = []
    for group in range(TOP):
        types = found.outcomes.types[:, groups == group]
        shares = np.bincount(types.reshape(-1), minlength=len(TYPES)) / max(types.size, 1)
        rows.append(
            {
                "num_detections": types.shape[1],
                "share": dict(zip(TYPES, shares.tolist(), strict=True)) if types.size else None,
            }
        )
    return rows


def _is_found(found: _Found) -> np.ndarray:
    """bool[R, M]: a detection of enough precision is matched to the action."""
    is_found = np.zeros((len(found.outcomes.matched), len(found.truth_labels)), bool)
    for label, rows in found.by_class.items():
        matched = found.outcomes.matched[:, rows]
        precision = _precisions(matched >= 0, matched < 0, int(found.counts[label]), found.instances)
        r, n = np.nonzero((matched >= 0) & (precision > LEAST_PRECISION))
        is_found[r, matched[r, n]] = True
    return is_found


def _by_bucket(found: _Found, is_found: np.ndarray, values: np.ndarray, edges: Sequence[float]) -> dict[str, Any]:
    """Missed actions and normalised mAP by buckets of a property f64[M]."""
    edges, origin = _edges(values, edges)
    bucket_of = np.searchsorted(edges, values, side="left")
    above, up_to = (0.0, *edges), (*edges, None)
    buckets = []
    for number in range(len(above)):
        inside = bucket_of == number
        buckets.append(
            {
                "name": SIZES[number],
                "above": above[number],
                "up_to": up_to[number],
                "num_ground_truths": int(inside.sum()),
                "missed": float(1 - is_found[:, inside].mean()) if inside.any() else None,
                "average_mAP_normalized": _mean_inside(found, inside) if inside.any() else None,
            }
        )
    return {"edges": origin, "buckets": buckets}


def _edges(values: np.ndarray, edges: Sequence[float]) -> tuple[tuple[float, ...], str]:
    """DETAD's edges and "detad"; if nearly all actions would be in one bucket, those of their fifths and "fifths".

    DETAD's suit the videos of two challenges: all activities of a sensor are shorter than its shortest actions.
    """
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    fifths = np.unique(np.quantile(values, _FIFTHS, method="lower"))
    fifths = fifths[fifths < values.max()]
    if counts.max() <= _MOST_IN_ONE * len(values) or len(fifths) == 0:
        return tuple(edges), "detad"
    return tuple(fifths.tolist()), "fifths"


def _mean_inside(found: _Found, inside: np.ndarray) -> float:
    """The normalised mAP, mean over thresholds, of the actions in bool[M] ``inside``."""
    precisions = []
    for label, rows in found.by_class.items():
        num_inside = int((inside & (found.truth_labels == label)).sum())
        if num_inside:
            matched = found.outcomes.matched[:, rows]
            kept = ((matched < 0) | inside[matched]).all(axis=0)
            right = matched[:, kept] >= 0
            precisions.append(_average_precisions(right, ~right, num_inside, found.instances).mean())
    return float(np.mean(precisions))

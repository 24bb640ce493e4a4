"""Mean average precision by the rules of THUMOS14 and of ActivityNet, average recall of proposals; numpy only.

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
of the average number of proposals per video (AR@AN)? See ``average_recall``.

Sources: the evaluation kit of the THUMOS 2014 challenge, the evaluation code of the ActivityNet challenge (detections
and proposals), and for the normalised mAP Alwassel et al., "Diagnosing Error in Temporal Action Detectors" (DETAD),
ECCV 2018.

Letters used here: M ground truths, N detections, R tIoU thresholds.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from a2net_tf.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class GroundTruth:
    """Annotated actions of many videos; row i of each array belongs to action i.

    Lists are accepted and become arrays. The order of the rows matters in the THUMOS14 protocol: keep the file's.

    Attributes:
        videos: str[M], the video of each action.
        segments: f64[M, 2], start and end in seconds.
        labels: i64[M], 0-based class ids.
        ambiguous_videos: str[P], the video of each Ambiguous interval.
        ambiguous_segments: f64[P, 2] in seconds; the activitynet protocol does not look at them.
    """

    videos: np.ndarray
    segments: np.ndarray
    labels: np.ndarray
    ambiguous_videos: np.ndarray = ()
    ambiguous_segments: np.ndarray = ()

    def __post_init__(self):
        _make_rows(self, "videos", segments=(float, (2,)), labels=(np.int64, ()))
        _make_rows(self, "ambiguous_videos", ambiguous_segments=(float, (2,)))


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """Detected actions of many videos; row i of each array belongs to detection i. Lists are accepted.

    Attributes:
        videos: str[N], the video of each detection.
        segments: f64[N, 2], start and end in seconds.
        labels: i64[N], 0-based class ids.
        scores: f64[N], higher is more certain.
    """

    videos: np.ndarray
    segments: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    def __post_init__(self):
        _make_rows(self, "videos", segments=(float, (2,)), labels=(np.int64, ()), scores=(float, ()))

    @classmethod
    def empty(cls) -> "Detections":
        """No detections at all."""
        return cls([], [], [], [])

    @classmethod
    def concatenate(cls, parts: Iterable["Detections"]) -> "Detections":
        """The rows of all ``parts``, one after the other."""
        parts = [cls.empty(), *parts]
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(cls)))

    def select(self, rows: np.ndarray) -> "Detections":
        """The given rows: i64[n] row numbers in the wanted order, or bool[N]."""
        return Detections(self.videos[rows], self.segments[rows], self.labels[rows], self.scores[rows])

    def __len__(self) -> int:
        return len(self.videos)


def _make_rows(table, key: str, **columns: tuple[type, tuple[int, ...]]) -> None:
    """Turns the attributes of a frozen ``table`` into arrays with one row per entry of the attribute ``key``."""
    videos = np.asarray(getattr(table, key), str)
    object.__setattr__(table, key, videos)
    for name, (dtype, row_shape) in columns.items():
        values = np.asarray(getattr(table, name), dtype)
        expected = (*videos.shape, *row_shape)
        if values.size == 0 and videos.size == 0:
            values = values.reshape(expected)
        if videos.ndim != 1 or values.shape != expected:
            raise ValueError(f"{name}: expected shape {list(expected)} beside {key}, got {list(values.shape)}")
        object.__setattr__(table, name, values)


def tiou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Temporal intersection over union of every pair.

    A segment that is reversed, empty or not finite has 0 with everything, even with itself.

    Args:
        a: f64[n, 2], start and end in any unit.
        b: f64[m, 2], in the same unit.

    Returns:
        f64[n, m] in [0, 1].
    """
    a, b = a[:, None], b[None]
    with np.errstate(invalid="ignore", divide="ignore"):
        shared = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
        covered = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
        return np.where(shared > 0, shared / covered, 0.0)  # two segments that meet have no gap in what they cover


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
        "num_reversed_detections": int((~_is_proper(detections)).sum()),
        "num_videos": len({*ground_truth.videos.tolist(), *ground_truth.ambiguous_videos.tolist()}),
    }


def _check_settings(protocol: str, tiou_thresholds: Sequence[float], duration_edges: Sequence[float]) -> np.ndarray:
    """Returns the thresholds as f64[R]."""
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol: expected {' or '.join(PROTOCOLS)}, got '{protocol}'")
    thresholds = _check_thresholds(tiou_thresholds)
    edges = np.asarray(duration_edges, float).reshape(-1)
    if not (np.isfinite(edges).all() and (np.diff(edges, prepend=0.0) > 0).all()):
        raise UserError(f"duration_edges: expected rising numbers of seconds above 0, got {edges.tolist()}")
    return thresholds


def _check_thresholds(tiou_thresholds: Sequence[float]) -> np.ndarray:
    """Returns them as f64[R]."""
    thresholds = np.asarray(tiou_thresholds, float).reshape(-1)
    if len(thresholds) == 0 or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise UserError(f"tiou_thresholds: expected numbers above 0 and up to 1, got {thresholds.tolist()}; percent?")
    return thresholds


def _check_ground_truth(ground_truth: GroundTruth) -> None:
    if len(ground_truth.videos) == 0:
        raise UserError("there is no ground truth to evaluate against; is it the right subset?")


def _check_labels(ground_truth: GroundTruth, detections: Detections, class_names: Sequence[str]) -> None:
    _check_ground_truth(ground_truth)
    if len(set(class_names)) != len(class_names):
        raise UserError("class_names: a name occurs twice")
    for kind, labels in (("ground truth", ground_truth.labels), ("detections", detections.labels)):
        unknown = labels[(labels < 0) | (labels >= len(class_names))]
        if len(unknown):
            raise UserError(f"{kind}: class id {unknown[0]} is outside 0 to {len(class_names) - 1}; are ids 0-based?")


def _is_proper(detections: Detections) -> np.ndarray:
    """bool[N]: all numbers are finite and the end lies after the start."""
    finite = np.isfinite(detections.segments).all(axis=1) & np.isfinite(detections.scores)
    return finite & (detections.segments[:, 1] > detections.segments[:, 0])


def _match_classes(
    ground_truth: GroundTruth, detections: Detections, protocol: str, thresholds: np.ndarray, *, num_classes: int
) -> list[_ClassMatches]:
    """Matches every class on its own."""
    detections = detections.select(np.argsort(-detections.scores, kind="stable"))  # NaN goes last
    segments = np.where(_is_proper(detections)[:, None], detections.segments, 0.0)  # empty: overlaps nothing
    truth_videos, detection_videos, ambiguous_videos = _number_videos(
        ground_truth.videos, detections.videos, ground_truth.ambiguous_videos
    )
    ambiguous = np.zeros(len(segments), bool)
    if protocol == "thumos14":
        for d, p in _shared_groups(detection_videos, ambiguous_videos):
            ambiguous[d] = (tiou_matrix(segments[d], ground_truth.ambiguous_segments[p]) > 0).any(axis=1)
    truth_of, detections_of = group_rows(ground_truth.labels), group_rows(detections.labels)
    none, classes = np.empty(0, np.int64), []
    for label in range(num_classes):
        truth, found = truth_of.get(label, none), detections_of.get(label, none)
        matched = np.full((len(thresholds), len(found)), -1)
        for t, d in _shared_groups(truth_videos[truth], detection_videos[found]):
            tious = tiou_matrix(ground_truth.segments[truth[t]], segments[found[d]])
            inside = _MATCHERS[protocol](tious, thresholds)
            matched[:, d] = np.where(inside >= 0, t[inside], -1)
        classes.append(
            _ClassMatches(
                scores=detections.scores[found],
                matched=matched,
                ambiguous=ambiguous[found],
                detection_seconds=_durations(detections.segments[found]),
                truth_seconds=_durations(ground_truth.segments[truth]),
            )
        )
    return classes


def group_rows(keys: np.ndarray) -> dict[int, np.ndarray]:
    """The rows of i64[n] ``keys`` that hold each key, in rising order."""
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=False))


def _shared_groups(a: np.ndarray, b: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Row numbers in ``a`` and in ``b`` of every key that is in both."""
    rows_a, rows_b = group_rows(a), group_rows(b)
    return [(rows_a[key], rows_b[key]) for key in rows_a if key in rows_b]


def _number_videos(*columns: np.ndarray) -> list[np.ndarray]:
    """i64[n] for each str[n], with the same number for the same name."""
    numbers: dict[str, int] = {}
    return [np.array([numbers.setdefault(v, len(numbers)) for v in c.tolist()], np.int64) for c in columns]


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


PROPOSAL_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())  # as the challenge computes them, bit for bit
AVERAGE_NUMBERS = (50, 100, 200, 500, 1000)  # of Table XIII
TOP_PROPOSALS = 200  # of Section IV-C
_CURVE_LEVELS = 100  # the curve has the average numbers 1, 2, ..., 100


def average_recall(
    ground_truth: GroundTruth, proposals: Detections, *, tiou_thresholds: Sequence[float] = PROPOSAL_THRESHOLDS
) -> dict:
    """Average recall against the average number of proposals per video (AR@AN), as the ActivityNet challenge has it.

    Classes are not looked at. A ground truth is recalled if any of the proposals taken from its video has a tIoU of at
    least the threshold; one proposal may recall several. Videos get no equal numbers of proposals but equal *shares*:
    at the average number AN each gives its best n x AN x videos / (all proposals), rounded down, of its n. All
    proposals of the file count there, also those in videos without ground truth. Where there are fewer than AN per
    video, all are taken.

    Proposals that are reversed, empty or hold a number that is not finite overlap nothing, but count as proposals. Of
    equal scores the first given comes first.

    Args:
        ground_truth: of all classes and videos; an action annotated in two classes counts twice.
        proposals: of all videos, in any order; labels are ignored.
        tiou_thresholds: R numbers in (0, 1]; the challenge has 0.5:0.05:0.95.

    Returns:
        A dict that can be written as JSON, recalls as fractions: protocol; tiou_thresholds; average_number (1 to 100)
        and average_recall, the curve, 100 numbers each; AR@ {"50": ..}, for those of 50, 100, 200, 500 and 1000 that
        the proposals reach; area_under_curve, divided by the largest average number: a fraction too; recall_of_top_200,
        R numbers: of the 200 best proposals of each video; num_ground_truths, num_videos (with ground truth),
        num_proposals, num_reversed_proposals; proposals_per_video (in the videos with ground truth).

    Raises:
        UserError: no ground truth, bad thresholds.
    """
    thresholds = _check_thresholds(tiou_thresholds)
    _check_ground_truth(ground_truth)
    videos, proposal_videos = _number_videos(ground_truth.videos, proposals.videos)
    num_videos = int(videos.max()) + 1
    available = np.bincount(proposal_videos, minlength=num_videos)[:num_videos]
    ranks = _first_ranks(ground_truth, proposals, thresholds)

    def curve(average_number: int) -> np.ndarray:
        counts = _proposals_taken(available, len(proposals), average_number)
        return np.mean([(row[:, None] < counts[videos]).mean(axis=0) for row in ranks], axis=0)

    recalls = curve(_CURVE_LEVELS)
    reached = [n for n in AVERAGE_NUMBERS if available.sum() >= n * num_videos]
    numbers = np.arange(1, _CURVE_LEVELS + 1)
    top = np.minimum(available, TOP_PROPOSALS)[videos]
    return {
        "protocol": "proposals",
        "tiou_thresholds": thresholds.round(9).tolist(),
        "average_number": numbers.tolist(),
        "average_recall": recalls.tolist(),
        "AR@": {str(n): float(recalls[n - 1] if n <= _CURVE_LEVELS else curve(n)[-1]) for n in reached},
        "area_under_curve": float(((recalls[1:] + recalls[:-1]) / 2).sum() / _CURVE_LEVELS),  # trapezoids from 1 to 100
        f"recall_of_top_{TOP_PROPOSALS}": (ranks < top).mean(axis=1).tolist(),
        "num_ground_truths": len(videos),
        "num_videos": num_videos,
        "num_proposals": len(proposals),
        "num_reversed_proposals": int((~_is_proper(proposals)).sum()),
        "proposals_per_video": float(available.sum() / num_videos),
    }


def _first_ranks(ground_truth: GroundTruth, proposals: Detections, thresholds: np.ndarray) -> np.ndarray:
    """i64[R, M]: how many proposals of its video are better scored than the first that reaches each ground truth.

    Where none does, it is the number of proposals of the video.
    """
    ranked = proposals.select(np.argsort(-proposals.scores, kind="stable"))  # NaN goes last
    segments = np.where(_is_proper(ranked)[:, None], ranked.segments, 0.0)  # empty: overlaps nothing
    ranks = np.zeros((len(thresholds), len(ground_truth.videos)), np.int64)
    for t, p in _shared_groups(*_number_videos(ground_truth.videos, ranked.videos)):
        best_so_far = np.maximum.accumulate(tiou_matrix(ground_truth.segments[t], segments[p]), axis=1)
        ranks[:, t] = (best_so_far < thresholds[:, None, None]).sum(axis=-1)
    return ranks


def _proposals_taken(available: np.ndarray, num_proposals: int, average_number: int) -> np.ndarray:
    """i64[V, 100]: the proposals taken from each video at 1/100, 2/100, ... 100/100 of ``average_number``.

    The order of the operations is that of the challenge's code, since rounding down makes 28 of 28.999999999999996.

    Args:
        available: i64[V], the proposals of each video with ground truth.
        num_proposals: in the whole file.
        average_number: per video.
    """
    most = average_number * float(len(available))
    kept = np.minimum((available * (most / max(num_proposals, 1))).astype(np.int64), available)
    shares = np.arange(1, _CURVE_LEVELS + 1) / 100.0 * (most / max(kept.sum(), 1))
    return np.minimum((kept[:, None] * shares).astype(np.int64), kept[:, None])


def format_proposals(metrics_by_branch: dict[str, dict]) -> str:
    """A plain-text table in percent, one row per branch; ``-`` where there are fewer proposals than that per video.

    Args:
        metrics_by_branch: name of the row -> what ``average_recall`` returned, all with the same thresholds.
    """
    first = next(iter(metrics_by_branch.values()))
    thresholds = first["tiou_thresholds"]
    header = [
        "recall (%)",
        f"top {TOP_PROPOSALS} at tIoU {thresholds[0]:g}",
        *[f"AR@{n}" for n in AVERAGE_NUMBERS],
        "area under AR-AN",
        "per video",
    ]
    rows = []
    for name, metrics in metrics_by_branch.items():
        recalls = [metrics[f"recall_of_top_{TOP_PROPOSALS}"][0], *(metrics["AR@"].get(str(n)) for n in AVERAGE_NUMBERS)]
        rows.append(
            [name, *_percents([*recalls, metrics["area_under_curve"]]), f"{metrics['proposals_per_video']:.1f}"]
        )
    span = f"{thresholds[0]:g} to {thresholds[-1]:g}"
    counts = f"{first['num_videos']} videos, {first['num_ground_truths']} ground truths"
    return f"protocol proposals (tIoU >= threshold, AR over {span}, no classes), {counts}\n{align([header, *rows])}"


def format_table(
    metrics_by_branch: dict[str, dict], columns: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> str:
    """A plain-text table of mAP in percent, one row per branch; the first line names the protocol.

    Args:
        metrics_by_branch: name of the row -> what ``evaluate`` returned, all with the same protocol and thresholds.
        columns: further columns: header -> one cell per row.

    Raises:
        UserError: no rows, or rows of different protocols or thresholds.
    """
    settings = {(m["protocol"], tuple(m["tiou_thresholds"])) for m in metrics_by_branch.values()}
    if len(settings) != 1:
        raise UserError(f"one table needs one protocol and one list of tIoU thresholds, got {len(settings)}")
    first = next(iter(metrics_by_branch.values()))
    rows = [
        [
            name,
            *_percents([*m["mAP"], m["average_mAP"], m["average_mAP_normalized"]]),
            *(cells[i] for cells in columns.values()),
        ]
        for i, (name, m) in enumerate(metrics_by_branch.items())
    ]
    header = ["mAP (%) at tIoU", *_numbers(first["tiou_thresholds"]), "average", "normalized average", *columns]
    counts = f"{first['num_videos']} videos, {first['num_ground_truths']} ground truths"
    return f"{_title(first)}, {counts}\n{align([header, *rows])}"


def format_classes(metrics: dict) -> str:
    """A plain-text table of AP in percent, one row per class; ``-`` for a class without ground truth."""
    header = ["AP (%) at tIoU", *_numbers(metrics["tiou_thresholds"]), "average", "ground truths", "detections"]
    rows = []
    for name, entry in metrics["per_class"].items():
        precisions = entry["AP"] or [None] * len(metrics["tiou_thresholds"])
        average = sum(entry["AP"]) / len(entry["AP"]) if entry["AP"] else None
        counts = [str(entry["num_ground_truths"]), str(entry["num_detections"])]
        rows.append([name, *_percents([*precisions, average]), *counts])
    return f"{_title(metrics)}\n{align([header, *rows])}"


def format_durations(metrics_by_branch: dict[str, dict]) -> str:
    """A plain-text table in percent, one row per branch, one column per range of durations; ``-`` for an empty one.

    mAP at tIoU 0.5, as in Table I, or the average mAP where 0.5 is not among the thresholds.
    """
    first = next(iter(metrics_by_branch.values()))
    index = next((i for i, t in enumerate(first["tiou_thresholds"]) if abs(t - 0.5) < 1e-9), None)
    what = "average mAP" if index is None else "mAP at tIoU 0.5"
    ranges = [(entry["from_seconds"], entry["to_seconds"]) for entry in first["by_duration"]]
    header = [f"{what} (%)", *(f"{a:g} s or longer" if b is None else f"{a:g} to {b:g} s" for a, b in ranges)]
    rows = [["ground truths", *(str(entry["num_ground_truths"]) for entry in first["by_duration"])]]
    for name, metrics in metrics_by_branch.items():
        entries = metrics["by_duration"]
        rows.append([name, *_percents([e["average_mAP"] if index is None else e["mAP"][index] for e in entries])])
    return f"{_title(first)}, by duration of the action\n{align([header, *rows])}"


def _title(metrics: dict) -> str:
    rule = {"thumos14": "tIoU > threshold, AP not interpolated", "activitynet": "tIoU >= threshold, AP interpolated"}
    return f"protocol {metrics['protocol']} ({rule[metrics['protocol']]})"


def _percents(fractions: Sequence[float | None]) -> list[str]:
    return ["-" if f is None else f"{100 * f:.1f}" for f in fractions]


def _numbers(values: Sequence[float]) -> list[str]:
    return [f"{v:g}" for v in values]


def align(rows: list[list[str]]) -> str:
    """Columns as wide as their longest cell: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for name, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)

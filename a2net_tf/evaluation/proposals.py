"""Recall of proposals: AR@AN of the ActivityNet challenge. Pure."""

from collections.abc import Sequence

import numpy as np

from a2net_tf.evaluation.instances import (
    Detections,
    GroundTruth,
    check_ground_truth,
    check_thresholds,
    is_proper,
    number_videos,
    shared_groups,
    tiou_matrix,
)

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
        the proposals reach; area_under_curve, divided by the largest average number: a fraction too; area_to_1000, the
        same from 0 to 1000, as Table XIII seems to have it, all taken where there are fewer; recall_of_top_200, R
        numbers: of the 200 best proposals of each video; num_ground_truths, num_videos (with ground truth),
        num_proposals, num_reversed_proposals; proposals_per_video (in the videos with ground truth).

    Raises:
        UserError: no ground truth, bad thresholds.
    """
    thresholds = check_thresholds(tiou_thresholds)
    check_ground_truth(ground_truth)
    videos, proposal_videos = number_videos(ground_truth.videos, proposals.videos)
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
        "area_to_1000": _area_from_nothing(curve(AVERAGE_NUMBERS[-1])),
        f"recall_of_top_{TOP_PROPOSALS}": (ranks < top).mean(axis=1).tolist(),
        "num_ground_truths": len(videos),
        "num_videos": num_videos,
        "num_proposals": len(proposals),
        "num_reversed_proposals": int((~is_proper(proposals)).sum()),
        "proposals_per_video": float(available.sum() / num_videos),
    }


def _area_from_nothing(recalls: np.ndarray) -> float:
    """Area by trapezoids under f64[100] at 1/100, 2/100, ... of a number, from (0, 0), divided by that number."""
    recalls = np.append(0.0, recalls)
    return float(((recalls[1:] + recalls[:-1]) / 2).sum() / _CURVE_LEVELS)


def _first_ranks(ground_truth: GroundTruth, proposals: Detections, thresholds: np.ndarray) -> np.ndarray:
    """i64[R, M]: how many proposals of its video are better scored than the first that reaches each ground truth.

    Where none does, it is the number of proposals of the video.
    """
    ranked = proposals.select(np.argsort(-proposals.scores, kind="stable"))  # NaN goes last
    segments = np.where(is_proper(ranked)[:, None], ranked.segments, 0.0)  # empty: overlaps nothing
    ranks = np.zeros((len(thresholds), len(ground_truth.videos)), np.int64)
    for t, p in shared_groups(*number_videos(ground_truth.videos, ranked.videos)):
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

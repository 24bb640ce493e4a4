"""Precision against recall, and how far scores can be taken for probabilities; numpy only.

Detections come by descending score, with whether each found an action (``error_analysis.judge``).
"""

from typing import Any

import numpy as np

RECALL_LEVELS = 101  # 0, 0.01, ..., 1
NUM_BINS = 10


def precision_curve(is_true_positive: np.ndarray, num_ground_truths: int) -> list[float]:
    """The best precision at each of the recalls 0, 0.01, ..., 1 or at any higher one, as far as recall gets.

    Args:
        is_true_positive: bool[N], detections by descending score.
        num_ground_truths: at least 1.

    Returns:
        Up to 101 fractions; the recall ends where the list does.
    """
    right = np.cumsum(is_true_positive)
    if not len(right):
        return []
    precision = right / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    wanted = np.arange(RECALL_LEVELS) * num_ground_truths / (RECALL_LEVELS - 1)
    first = np.searchsorted(right, wanted - 1e-9, side="left")  # rounding must not ask for one more
    return best[first[first < len(right)]].tolist()


def reliability(scores: np.ndarray, is_true_positive: np.ndarray) -> dict[str, Any]:
    """Scores in ten equal bins of [0, 1] beside the share of detections that are right.

    Args:
        scores: f64[N]; those outside of [0, 1] are in the outer bins.
        is_true_positive: bool[N].

    Returns:
        ``bins`` [{num_detections, mean_score, precision}], None for what an empty bin does not have, and
        ``expected_error``: the mean distance of the two, over detections (None without any).
    """
    bin_of = np.clip((scores * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
    bins, distance = [], 0.0
    for number in range(NUM_BINS):
        inside = bin_of == number
        count = int(inside.sum())
        mean, right = (float(scores[inside].mean()), float(is_true_positive[inside].mean())) if count else (None, None)
        bins.append({"num_detections": count, "mean_score": mean, "precision": right})
        distance += count * abs(mean - right) if count else 0.0
    return {"bins": bins, "expected_error": distance / len(scores) if len(scores) else None}

"""The classes of the steps of a recording that is still going on. Pure."""

import numpy as np


class Steps:
    """What windows side by side say of the classes of steps, as running sums.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int):
        self._first = 0  # step of the first entry of values and sums
        self._values = np.zeros((0, num_classes), np.float32)  # of steps that are settled
        self._sums = np.zeros((1, num_classes), np.float64)  # before each of these, and after the last
        self._seen = np.zeros((0, 1 + num_classes), np.float32)  # of later steps: how many windows, and their sums

    def add(self, step_scores: np.ndarray, start: int, num_steps: int) -> None:
        """Of a window f32[W, C] that begins at step ``start``."""
        settled = self._first + len(self._values)
        missing = num_steps - settled - len(self._seen)
        self._seen = np.pad(self._seen, ((0, missing), (0, 0)))
        inside = self._seen[start - settled : start - settled + len(step_scores)]
        inside[:, 0] += 1
        inside[:, 1:] += step_scores[: len(inside)]

    def settle(self, until: int, *, needed_from: int) -> None:
        """No window to come says anything of steps before ``until``; of those before ``needed_from`` nobody asks."""
        new = self._seen[: max(until - self._first - len(self._values), 0)]
        self._seen = self._seen[len(new) :]
        values = new[:, 1:] / np.maximum(new[:, :1], 1)
        sums = np.cumsum(np.concatenate([self._sums[-1:], values]), axis=0, dtype=np.float64)[1:]
        self._values, self._sums = np.concatenate([self._values, values]), np.concatenate([self._sums, sums])
        old = max(needed_from - self._first, 0)
        self._first += old
        self._values, self._sums = self._values[old:], self._sums[old:]

    def means(self, rows: np.ndarray) -> np.ndarray:
        """f32[N]: the mean score of the class of each candidate over its steps; 0 if it is empty."""

        def up_to(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            below = np.minimum(positions.astype(np.int64), self._first + len(self._values) - 1)
            places = np.maximum(below - self._first, 0)
            within = (positions - below.astype(np.float32)) * self._values[places, rows["class_id"]]
            return self._sums[places, rows["class_id"]], within

        (sum_to_start, start), (sum_to_end, end) = up_to(rows["start"]), up_to(rows["end"])
        length = rows["end"] - rows["start"]
        total = (sum_to_end - sum_to_start).astype(np.float32) + (end - start)
        return np.maximum(np.where(length > 0, total / np.where(length > 0, length, 1), 0), 0).astype(np.float32)

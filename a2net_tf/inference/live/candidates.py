"""Candidates of a recording that is still going on, and their suppression as far as it is certain. Pure."""

from collections.abc import Mapping

import numpy as np

from .steps import Steps

_OPEN, _KEPT, _SUPPRESSED = range(3)
_ROW = np.dtype(
    {
        "names": ["start", "end", "score", "class_id", "state", "final", "met", "told"],
        "formats": ["f4", "f4", "f4", "i4", "i1", "?", "?", "?"],
    },
    align=True,
)


class Pool:
    """The candidates that may still matter, and class-wise non-maximum suppression of them as far as it is certain.

    A candidate is ``final`` when its score and its segment are: at first the score may be an upper bound, and the
    segment may reach beyond what has been recorded. It is kept when it is final, no candidate to come can overlap it
    too much, and neither does a better one that is open or kept.

    Args:
        settings: of localization, by name.
        window_steps: W.
        reach_steps: candidates of a window begin at most so many steps before it.
        latency_steps: so long after its end a candidate is decided at the latest.

    Attributes:
        unsure: see ``stream.Stream``.
    """

    def __init__(self, settings: Mapping[str, float], window_steps: int, reach_steps: int, latency_steps: int):
        self.unsure = 0
        self._tiou = np.float32(settings["nms_tiou"])
        self._voting = np.float32(settings["voting_tiou"])
        self._min_score = np.float32(settings["min_score"])
        self._exponent = np.float32(settings["step_exponent"])
        self._reach_steps, self._latency_steps = reach_steps, latency_steps
        self._remembered_steps = reach_steps + window_steps  # before a window; nothing should begin earlier
        self._rows = np.zeros(0, _ROW)

    def add(self, segments: np.ndarray, scores: np.ndarray, class_ids: np.ndarray, window_start: int) -> None:
        """Candidates of one window, segments f32[P, 2] in steps of the recording."""
        new = np.zeros(len(scores), _ROW)
        new["start"], new["end"] = np.maximum(segments, 0).T
        new["score"], new["class_id"] = scores, class_ids
        new = new[(new["score"] > self._min_score) & (new["end"] > new["start"])]
        # Their neighbours may be forgotten.
        self.unsure += int((new["start"] < window_start - self._remembered_steps).sum())
        self._rows = np.concatenate([self._rows, new])

    def reaches_back_to(self, next_window: int) -> int:
        """The step before which no candidate begins whose score is open, nor one to come."""
        begins = self._rows["start"][~self._rows["final"]].min(initial=next_window - self._remembered_steps)
        return max(int(begins), 0)

    def settle(self, num_steps: int, next_window: int, steps: Steps | None, closed: bool) -> tuple[np.ndarray, int]:
        """Decides what can be decided after ``num_steps``.

        Returns:
            The rows that are to be told, and after how many steps there may be more to decide.
        """
        horizon = np.inf if closed else next_window - self._reach_steps  # nothing to come begins before it
        known_until = next_window if steps else num_steps
        self._finish(num_steps, known_until, steps, closed)
        self._meet_kept(num_steps)
        rows = self._rows
        may_keep = rows["final"] & (self._safe_from(self._tiou) <= horizon)
        for class_id in np.unique(rows["class_id"][may_keep & (rows["state"] == _OPEN)]):
            self._decide(class_id, may_keep, num_steps)
        if not closed:
            self._decide_late(num_steps)
        told = self._tell(num_steps, horizon)
        self._forget(num_steps, horizon)
        return told, 0 if closed else self._quiet_steps(num_steps, horizon, known_until)

    def _quiet_steps(self, num_steps: int, horizon: float, known_until: int) -> int:
        """After how many steps something becomes final, safe or late."""
        rows = self._rows
        is_open, waits = rows["state"] == _OPEN, (rows["state"] == _KEPT) & ~rows["told"]
        missing = (
            self._safe_from(self._tiou)[is_open & rows["final"]] - horizon,
            self._safe_from(self._voting)[waits] - horizon,
            rows["end"][~rows["final"]] - known_until,
            rows["end"][is_open | waits] + self._latency_steps - num_steps,
        )
        return min(int(np.ceil(steps[steps >= 0].min(initial=self._latency_steps))) for steps in missing)

    def _safe_from(self, tiou: np.float32) -> np.ndarray:
        """f32[N]: what begins here or later overlaps a candidate at most by ``tiou``."""
        return self._rows["end"] - tiou * (self._rows["end"] - self._rows["start"])

    def _finish(self, num_steps: int, known_until: int, steps: Steps | None, closed: bool) -> None:
        """Gives scores and segments their final values where these are known."""
        rows = self._rows
        due = np.flatnonzero(~rows["final"] & ((rows["end"] < known_until) | closed))
        if not len(due):
            return
        rows["end"][due] = np.minimum(rows["end"][due], np.float32(num_steps))
        if steps:
            rows["score"][due] *= steps.means(rows[due]) ** self._exponent
        rows["final"][due], rows["met"][due] = True, False
        usable = (rows["score"] > self._min_score) & (rows["end"] > rows["start"])
        self._rows = rows[usable]

    def _meet_kept(self, num_steps: int) -> None:
        """Compares open candidates that are new, or final since then, with what is kept."""
        rows = self._rows
        new = np.flatnonzero((rows["state"] == _OPEN) & ~rows["met"])
        rows["met"][new] = True
        for kept in rows[(rows["state"] == _KEPT) & np.isin(rows["class_id"], rows["class_id"][new])]:
            others = new[rows["class_id"][new] == kept["class_id"]]
            segments = self._clipped(others, num_steps)
            near = _tiou(kept["start"], kept["end"], *segments) > self._tiou
            better = rows["score"][others] > kept["score"]
            known = rows["end"][others] <= num_steps
            rows["state"][others[near & ~better & known]] = _SUPPRESSED
            # It comes too late to suppress what is kept, or to vote on what is told.
            too_late = near & better
            if self._voting > 0 and kept["told"]:
                too_late |= _may_vote(kept["start"], kept["end"], *segments, self._voting)
            self.unsure += int((too_late & rows["final"][others]).sum())

    def _clipped(self, places: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts and ends as far as there are steps."""
        starts, ends = self._rows["start"][places], self._rows["end"][places]
        return starts, np.maximum(np.minimum(ends, np.float32(num_steps)), starts)

    def _decide(self, class_id: int, may_keep: np.ndarray, num_steps: int, late: np.ndarray | None = None) -> None:
        """Keeps and suppresses candidates of a class, the best first, where nothing better is open.

        Args:
            class_id: the class.
            may_keep: bool[N], those that may be kept.
            num_steps: so far.
            late: bool[N], those that must be decided, as if only those that may be kept were there; None: none must.
        """
        rows = self._rows
        here = (rows["state"] == _OPEN) & (rows["class_id"] == class_id)
        here = np.flatnonzero(here if late is None else here & may_keep)
        here = here[np.argsort(-rows["score"][here], kind="stable")]
        starts, ends = self._clipped(here, num_steps)
        known = rows["end"][here] <= num_steps
        states, suppressor = np.full(len(here), _OPEN), np.arange(len(here))
        for place in np.flatnonzero(may_keep[here]):
            if states[place] != _OPEN:
                continue
            near = (states == _OPEN) & (_tiou(starts[place], ends[place], starts, ends) > self._tiou)
            if near[:place].any():
                continue  # a better one may be kept, or not
            states[near & known], suppressor[near & known] = _SUPPRESSED, place
            states[place] = _KEPT
        chosen = np.arange(len(here)) if late is None else suppressor[late[here]]
        rows["state"][here[chosen]] = states[chosen]

    def _decide_late(self, num_steps: int) -> None:
        """Decides what has waited too long, as if the recording ended here."""
        rows = self._rows
        late = (rows["state"] == _OPEN) & (rows["end"] <= num_steps - self._latency_steps)
        if not late.any():
            return
        self.unsure += int(late.sum())
        for class_id in np.unique(rows["class_id"][late]):
            self._decide(class_id, rows["final"], num_steps, late)
        rows["met"][rows["state"] == _OPEN] = False  # what is kept now suppresses the others
        self._meet_kept(num_steps)

    def _tell(self, num_steps: int, horizon: float) -> np.ndarray:
        """Copies of the kept rows whose boundaries are certain too, moved by the votes if there are any."""
        rows = self._rows
        waiting = np.flatnonzero((rows["state"] == _KEPT) & ~rows["told"])
        if self._voting > 0:
            safe = self._safe_from(self._voting) <= horizon
            waiting = np.asarray([i for i in waiting if self._has_all_votes(i, safe[i], num_steps)], np.int64)
        rows["told"][waiting] = True
        told = rows[waiting]
        if self._voting > 0:
            for row in told:
                self._vote(row)
        return told

    def _has_all_votes(self, place: int, safe: bool, num_steps: int) -> bool:
        rows = self._rows
        kept = rows[place]
        others = np.flatnonzero(~rows["final"] & (rows["class_id"] == kept["class_id"]))
        segments = self._clipped(others, num_steps)
        if safe and not _may_vote(kept["start"], kept["end"], *segments, self._voting).any():
            return True
        late = bool(kept["end"] <= num_steps - self._latency_steps)
        self.unsure += late
        return late

    def _vote(self, row: np.void) -> None:
        """Moves the ends of ``row`` to the mean of the candidates that overlap it enough, weighted by score."""
        others = self._rows[self._rows["class_id"] == row["class_id"]]
        votes = _may_vote(row["start"], row["end"], others["start"], others["end"], self._voting)
        weights = np.where(votes, others["score"], np.float32(0))
        moves = [(weights * (others[name] - row[name])).sum() / weights.sum() for name in ("start", "end")]
        row["start"], row["end"] = row["start"] + moves[0], row["end"] + moves[1]

    def _forget(self, num_steps: int, horizon: float) -> None:
        """Drops what can neither suppress nor vote any more.

        What waits and began more than twice the latency ago is longer than the latency, so that only what is long too
        can overlap it enough.
        """
        rows = self._rows
        waits = (rows["state"] == _OPEN) | ((rows["state"] == _KEPT) & ~rows["told"])
        needed_from = min(horizon, rows["start"][waits].min(initial=np.inf))
        needed_from -= self._remembered_steps - self._reach_steps
        tiou = min(self._tiou, self._voting) if self._voting > 0 else self._tiou
        is_long = rows["end"] - rows["start"] >= tiou * self._latency_steps
        needed = (rows["end"] > needed_from) & (is_long | (rows["end"] > num_steps - 2 * self._latency_steps))
        if not self._voting > 0:
            needed &= rows["state"] != _SUPPRESSED
        self._rows = rows[waits | needed]


def _tiou(start: np.float32, end: np.float32, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """f32[N]: the overlap of one segment with each of N."""
    both = np.maximum(np.minimum(end, ends) - np.maximum(start, starts), np.float32(0))
    both_or_either = (end - start) + (ends - starts) - both
    return both / np.where(both_or_either > 0, both_or_either, np.float32(1))


def _may_vote(start: np.float32, end: np.float32, starts: np.ndarray, ends: np.ndarray, tiou: np.float32) -> np.ndarray:
    """bool[N]: which of N segments overlap one enough to vote on it."""
    shared_or_gap = np.minimum(end, ends) - np.maximum(start, starts)
    return shared_or_gap * (np.float32(1) + tiou) >= (end - start) * tiou + (ends - starts) * tiou

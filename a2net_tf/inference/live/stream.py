"""A stream: vectors go in, windows are cut and asked, candidates settle, detections come out. Pure."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .candidates import Pool
from .steps import Steps

MAX_STEPS = 2**24  # beyond it, float32 cannot tell neighbouring steps apart
DETECTIONS_PER_WINDOW, LEAST_DETECTIONS = 100, 200  # of a recording, where --max_detections does not say


class Found(NamedTuple):
    """An action that was found."""

    start_seconds: float
    end_seconds: float
    label: str
    score: float  # in [0, 1], higher is more certain


@dataclasses.dataclass(frozen=True)
class Model:
    """What a stream must know of a trained network.

    Attributes:
        ask: windows f32[N, W, D] -> ``segments`` f32[N, P, 2] in fractions of the window, ``scores`` f32[N, P] and
            ``class_ids`` i32[N, P], and ``step_scores`` f32[N, W, C] of a network that classifies steps: the signature
            ``raw`` of an exported model.
        settings: those of windows and localization, by name.
        class_names: C names.
        num_features: D.
        seconds_per_step: from one vector to the next, as in training.
        first_step_seconds: where the first step begins.
        also_reported: {class: a class that each of its detections also has}.
        classifies_steps: whether ``ask`` returns ``step_scores``, by which scores are then multiplied.
    """

    ask: Callable[[np.ndarray], Mapping[str, np.ndarray]]
    settings: Mapping[str, float]
    class_names: Sequence[str]
    num_features: int
    seconds_per_step: float
    first_step_seconds: float
    also_reported: Mapping[str, str]
    classifies_steps: bool

    @property
    def window_steps(self) -> int:
        """W, steps of a window."""
        return self.settings["inference_window_steps"] or self.settings["window_steps"]

    @property
    def stride_steps(self) -> int:
        """From one window to the next."""
        return self.window_steps - round(self.settings["inference_overlap"] * self.settings["window_steps"])

    @property
    def window_batch(self) -> int:
        """Windows that are asked at once at most."""
        return max(1, self.settings["window_batch"] * self.settings["window_steps"] // self.window_steps)


class Stream:
    """Detections of one recording whose end is not known yet.

    A detection is told when no window that is still to come can change it. Windows look ``W`` steps back from the
    newest one, and their candidates may begin earlier still: that they begin at most ``reach_steps`` before their
    window is what a stream relies on. Whether a candidate is kept depends on better ones that it overlaps, which depend
    on others in turn, so that in theory one end of a recording could decide about the other. What such a chain has not
    decided after ``latency_steps`` is decided as if the recording ended there.

    Both are rare, and counted: while ``unsure`` is 0, all detections of the stream together are exactly those of the
    whole recording. The limit on their number is one of whole recordings and not known here: the best
    ``most_detections`` of all are what is kept of the whole.

    Args:
        model: the network.
        seconds_per_step: from one vector to the next; None: as in training.
        reach_steps: how far before its window a candidate may begin; None: W.
        latency_steps: a detection is told at the latest so many steps after its end; None: 4 (W + reach_steps).

    Raises:
        ValueError: a setting that cannot be used in a stream.
    """

    def __init__(
        self,
        model: Model,
        *,
        seconds_per_step: float | None = None,
        reach_steps: int | None = None,
        latency_steps: int | None = None,
    ):
        self.seconds_per_step = model.seconds_per_step if seconds_per_step is None else float(seconds_per_step)
        if not 0 < self.seconds_per_step < float("inf"):
            raise ValueError(f"seconds_per_step={seconds_per_step}: must be > 0 and finite")
        if model.settings["soft_nms_sigma"] > 0:
            raise ValueError(
                f"--soft_nms_sigma={model.settings['soft_nms_sigma']}: lowers each score by all that overlap it, "
                "those too that are still to come, so nothing could be told before the end; a stream needs 0"
            )
        self.reach_steps = model.window_steps if reach_steps is None else int(reach_steps)
        least = model.window_steps + self.reach_steps
        self.latency_steps = 4 * least if latency_steps is None else int(latency_steps)
        if self.reach_steps < 0 or self.latency_steps < least:
            raise ValueError(
                f"reach_steps={self.reach_steps}, latency_steps={self.latency_steps}: expected at least 0, and at "
                f"least that and a window of {model.window_steps} steps together"
            )
        self.num_steps = 0
        self._model = model
        self._closed = False
        self._features = np.zeros((0, model.num_features), np.float32)  # the last ones
        self._next_start = 0
        self._steps = Steps(len(model.class_names)) if model.classifies_steps else None
        self._pool = Pool(model.settings, model.window_steps, self.reach_steps, self.latency_steps)
        self._settle_at = 0  # before so many steps nothing changes, unless a window is complete

    @property
    def latency_seconds(self) -> float:
        """A detection is told at the latest so long after its end."""
        return self.latency_steps * self.seconds_per_step

    @property
    def unsure(self) -> int:
        """How often something was decided that the whole recording could decide otherwise; see above."""
        return self._pool.unsure

    @property
    def most_detections(self) -> int:
        """How many are kept of a whole recording of as many steps as there have been."""
        by_length = -(-DETECTIONS_PER_WINDOW * self.num_steps // self._model.settings["window_steps"])
        return self._model.settings["max_detections"] or max(LEAST_DETECTIONS, by_length)

    def push(self, features: np.ndarray) -> list[Found]:
        """The next vectors of the recording.

        Args:
            features: number[n, D] of any n, or [D] for a single one.

        Returns:
            The detections that cannot change any more, those that begin first first.

        Raises:
            ValueError: features that cannot be used, or a stream that is closed.
        """
        if self._closed:
            raise ValueError("the stream is closed: a new recording needs a new one")
        features = np.asarray(features)
        features = self._checked(features[None] if features.ndim == 1 else features)
        if self.num_steps + len(features) > MAX_STEPS:
            raise ValueError(f"a stream takes at most {MAX_STEPS} steps: close it and go on with a new one")
        found = []
        at_once = self._model.window_batch * self._model.stride_steps
        for begin in range(0, len(features), at_once):
            self._take(np.asarray(features[begin : begin + at_once], np.float32))
            if self.num_steps >= self._settle_at:
                found += self._settle()
        return found

    def close(self) -> list[Found]:
        """The recording has ended: the detections that were still open, as ``push`` returns them."""
        if self._closed or not self.num_steps:
            self._closed = True
            return []
        self._closed = True
        last = max(self.num_steps - self._model.window_steps, 0)
        if self._next_start - self._model.stride_steps != last:  # none of the others ends with the recording
            self._look([last])
        if self._steps and last % self._apart:  # the last one is asked for the classes of steps wherever it lies
            self._steps.add(self._last_step_scores, last, self.num_steps)
        return self._settle()

    def _checked(self, features: np.ndarray) -> np.ndarray:
        if features.ndim != 2 or features.dtype.kind not in "fiu" or features.shape[1] != self._model.num_features:
            expected = f"expected numbers [steps, {self._model.num_features}]"
            raise ValueError(f"features: {expected}, found shape {list(features.shape)} of {features.dtype}")
        if not np.isfinite(features.astype(np.float32, copy=False)).all():
            raise ValueError(f"features: NaN or infinite values after step {self.num_steps}")
        return features

    def _take(self, features: np.ndarray) -> None:
        """Keeps what later windows need, and looks at the windows that are complete."""
        window, stride = self._model.window_steps, self._model.stride_steps
        self._features = np.concatenate([self._features, features])
        self.num_steps += len(features)
        starts = range(self._next_start, self.num_steps - window + 1, stride)
        if starts:
            self._look(starts)
            self._next_start = starts[-1] + stride
            self._settle_at = 0
        self._features = self._features[-window:].copy()

    def _look(self, starts: Sequence[int]) -> None:
        """Asks the network about the windows that begin at ``starts``."""
        first, window = self.num_steps - len(self._features), self._model.window_steps
        # A recording that is shorter than a window repeats its last vector.
        rows = np.minimum(np.asarray(starts)[:, None] - first + np.arange(window), len(self._features) - 1)
        outputs = {name: np.asarray(value) for name, value in self._model.ask(self._features[rows]).items()}
        for i, start in enumerate(starts):
            segments = outputs["segments"][i] * np.float32(window) + np.float32(start)
            self._pool.add(segments, outputs["scores"][i], outputs["class_ids"][i], start)
            if self._steps and start % self._apart == 0:
                self._steps.add(outputs["step_scores"][i], start, self.num_steps)
        self._last_step_scores = outputs["step_scores"][-1] if self._steps else None

    @property
    def _apart(self) -> int:
        """From one window that is asked for the classes of steps to the next: those that lie side by side."""
        return max(self._model.window_steps // self._model.stride_steps, 1) * self._model.stride_steps

    def _settle(self) -> list[Found]:
        """What can be told now."""
        # The next window may begin here, if the recording ends with the next vector.
        next_window = self.num_steps if self._closed else max(self.num_steps - self._model.window_steps, 0)
        if self._steps:
            self._steps.settle(next_window, needed_from=self._pool.reaches_back_to(next_window))
        told, quiet = self._pool.settle(self.num_steps, next_window, self._steps, self._closed)
        self._settle_at = self.num_steps + quiet
        return list(self._in_seconds(told))

    def _in_seconds(self, told: np.ndarray) -> Iterator[Found]:
        names, stride = self._model.class_names, np.float32(self.seconds_per_step)
        for row in told[np.argsort(told["start"], kind="stable")]:
            start, end = (float(np.float32(self._model.first_step_seconds) + row[x] * stride) for x in ("start", "end"))
            label = names[row["class_id"]]
            yield Found(start, end, label, float(row["score"]))
            if label in self._model.also_reported:
                yield Found(start, end, self._model.also_reported[label], float(row["score"]))

"""Ground truth and detections as tables, and their overlaps. Pure."""

import dataclasses
from collections.abc import Iterable, Sequence

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

    def select(self, rows: np.ndarray) -> "GroundTruth":
        """The given actions, bool[M], with all Ambiguous intervals."""
        actions = {name: getattr(self, name)[rows] for name in ("videos", "segments", "labels")}
        return dataclasses.replace(self, **actions)


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


def check_thresholds(tiou_thresholds: Sequence[float]) -> np.ndarray:
    """Returns them as f64[R]."""
    thresholds = np.asarray(tiou_thresholds, float).reshape(-1)
    if len(thresholds) == 0 or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise UserError(f"tiou_thresholds: expected numbers above 0 and up to 1, got {thresholds.tolist()}; percent?")
    return thresholds


def check_ground_truth(ground_truth: GroundTruth) -> None:
    """Raises UserError if there is none."""
    if len(ground_truth.videos) == 0:
        raise UserError("there is no ground truth to evaluate against; is it the right subset?")


def is_proper(detections: Detections) -> np.ndarray:
    """bool[N]: all numbers are finite and the end lies after the start."""
    finite = np.isfinite(detections.segments).all(axis=1) & np.isfinite(detections.scores)
    return finite & (detections.segments[:, 1] > detections.segments[:, 0])


def group_rows(keys: np.ndarray) -> dict[int, np.ndarray]:
    """The rows of i64[n] ``keys`` that hold each key, in rising order."""
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=False))


def shared_groups(a: np.ndarray, b: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Row numbers in ``a`` and in ``b`` of every key that is in both."""
    rows_a, rows_b = group_rows(a), group_rows(b)
    return [(rows_a[key], rows_b[key]) for key in rows_a if key in rows_b]


def number_videos(*columns: np.ndarray) -> list[np.ndarray]:
    """i64[n] for each str[n], with the same number for the same name."""
    numbers: dict[str, int] = {}
    return [np.array([numbers.setdefault(v, len(numbers)) for v in c.tolist()], np.int64) for c in columns]

"""What an evaluation looked at and found, of every branch, as one file: recordings.npz, beside its metrics.json."""

import pathlib
from typing import NamedTuple

import numpy as np

from a2net_tf.data.files.array_files import read_arrays
from a2net_tf.errors import UserError
from a2net_tf.evaluation.instances import Detections, GroundTruth
from a2net_tf.safe_files import replace_file

FILE = "recordings.npz"
_BRANCH = "branch/"


class Evaluated(NamedTuple):
    """The recordings of a split, their annotations and what every branch found in them."""

    names: list[str]  # V recordings, in the order of the split
    durations: np.ndarray  # f64[V], seconds
    class_names: list[str]  # C
    ground_truth: GroundTruth
    detections: dict[str, Detections]  # by branch; the last one is the merged result


def write_evaluated(path: pathlib.Path, evaluated: Evaluated) -> None:
    """Writes ``path``, whole or not at all; an earlier one is kept.

    Raises:
        UserError: it cannot be written.
    """
    places = {name: place for place, name in enumerate(evaluated.names)}

    def columns(table: GroundTruth | Detections, names: tuple[str, ...], prefix: str) -> dict[str, np.ndarray]:
        recordings = np.array([places[name] for name in table.videos.tolist()], np.int32)
        return {f"{prefix}recordings": recordings, **{f"{prefix}{name}": getattr(table, name) for name in names}}

    arrays = {
        "names": np.array(evaluated.names, str),
        "durations": np.asarray(evaluated.durations, np.float64),
        "class_names": np.array(evaluated.class_names, str),
        "branches": np.array(list(evaluated.detections), str),
        **columns(evaluated.ground_truth, ("segments", "labels"), "truth/"),
    }
    for branch, table in evaluated.detections.items():
        arrays |= columns(table, ("segments", "labels", "scores"), f"{_BRANCH}{branch}/")
    with replace_file(path, keep_earlier=True) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_evaluated(path: pathlib.Path) -> Evaluated:
    """Reads what ``write_evaluated`` has written; without Ambiguous intervals.

    Raises:
        UserError: no such file, or a damaged one.
    """
    arrays = read_arrays(path)
    try:
        names = arrays["names"].astype(str)
        class_names = arrays["class_names"].astype(str).tolist()
        truth = GroundTruth(**_rows(arrays, "truth/", names, ("segments", "labels")))
        found = {
            branch: Detections(**_rows(arrays, f"{_BRANCH}{branch}/", names, ("segments", "labels", "scores")))
            for branch in arrays["branches"].astype(str).tolist()
        }
        evaluated = Evaluated(names.tolist(), arrays["durations"].astype(float), class_names, truth, found)
        _check(evaluated)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); evaluate again") from None
    return evaluated


def _rows(
    arrays: dict[str, np.ndarray], prefix: str, names: np.ndarray, columns: tuple[str, ...]
) -> dict[str, np.ndarray]:
    recordings = arrays[f"{prefix}recordings"]
    if len(recordings) and not 0 <= recordings.min() <= recordings.max() < len(names):
        raise ValueError(f"{prefix}recordings: a number that is no recording's")
    return {"videos": names[recordings], **{column: arrays[f"{prefix}{column}"] for column in columns}}


def _check(evaluated: Evaluated) -> None:
    """Raises ValueError for numbers that no evaluation writes."""
    if not evaluated.names or not evaluated.detections or evaluated.durations.shape != (len(evaluated.names),):
        raise ValueError("no recordings, no branches, or another number of durations")
    if len(set(evaluated.names)) != len(evaluated.names):
        raise ValueError("a recording is there twice")
    if not (np.isfinite(evaluated.durations).all() and (evaluated.durations > 0).all()):
        raise ValueError("durations: expected numbers above 0")
    for table in (evaluated.ground_truth, *evaluated.detections.values()):
        if len(table.labels) and not 0 <= table.labels.min() <= table.labels.max() < len(evaluated.class_names):
            raise ValueError("a label that is no class")
        if not np.isfinite(table.segments).all():
            raise ValueError("segments that are not finite")
    for table in evaluated.detections.values():
        if not np.isfinite(table.scores).all():
            raise ValueError("scores that are not finite")

"""Ground truth from the annotations of both challenges: what ``data`` reads, as a table, with nothing left out.

Formats: those of ``data.files``: ``annotation_files`` (ActivityNet's JSON), ``thumos14_files`` (THUMOS14's folder of
texts) and ``frame_labels`` (a label for every step).
"""

import math
import pathlib
from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

from a2net_tf import safe_files
from a2net_tf.data.files import annotation_files, frame_labels, thumos14_files
from a2net_tf.data.files.annotation_files import Entry
from a2net_tf.data.files.feature_files import SETTINGS_FILE
from a2net_tf.errors import UserError, list_some
from a2net_tf.evaluation.instances import GroundTruth
from a2net_tf.safe_files import Path


def read_thumos14_ground_truth(path: Path, subset: str) -> tuple[GroundTruth, list[str], dict[int, int]]:
    """Reads the challenge's annotation texts, keeping the order of their lines.

    Args:
        path: the folder with the class files, or one up to three levels above it.
        subset: "test", or "val" (also "validation").

    Returns:
        ground truth, the C class names, and {the challenge's class id: label}.

    Raises:
        UserError: no such subset, a missing class file, a malformed line.
    """
    suffix = thumos14_files.SUBSETS.get(subset, subset)
    if suffix not in thumos14_files.SUBSETS.values():
        raise UserError(f"subset '{subset}': THUMOS14 has 'test' and 'validation'")
    folder = thumos14_files.find_folder(path, suffix)
    numbers = thumos14_files.read_class_list(folder)
    names = list(numbers)
    rows = thumos14_files.read_annotations(folder, suffix, names)
    actions = [row for row in rows if row.label != thumos14_files.AMBIGUOUS]
    ambiguous = [row for row in rows if row.label == thumos14_files.AMBIGUOUS]
    ground_truth = GroundTruth(
        [row.video for row in actions],
        [row[:2] for row in actions],
        [names.index(row.label) for row in actions],
        [row.video for row in ambiguous],
        [row[:2] for row in ambiguous],
    )
    return ground_truth, names, {number: label for label, number in enumerate(numbers.values())}


def read_activitynet_ground_truth(path: Path, subset: str) -> tuple[GroundTruth, list[str]]:
    """Reads the annotations of one subset.

    Actions of no length stay, since the official numbers count them as missed: the validation subset holds three.

    Args:
        path: JSON with the key ``database``.
        subset: "training", "validation" or another that the file has.

    Returns:
        ground truth, and the sorted names of the classes that occur in the subset.

    Raises:
        UserError: damaged file, missing key, no such subset, a reversed segment.
    """
    return select_subset(annotation_files.read_database(path), subset, path)


def select_subset(entries: Iterable[Entry], subset: str, path: Path) -> tuple[GroundTruth, list[str]]:
    """See ``read_activitynet_ground_truth``."""
    chosen = [entry for entry in entries if entry.subset == subset]
    if not chosen:
        found = list_some(sorted({entry.subset for entry in entries}))
        raise UserError(f"{path}: no video of subset '{subset}'; the file has {found}")
    names = sorted(labels_of(chosen))
    ids = {name: i for i, name in enumerate(names)}
    videos, segments, labels = [], [], []
    for entry in chosen:
        for action in entry.actions:
            annotation_files.check_order(action, f"{path}: video '{entry.name}'", may_be_empty=True)
            videos.append(entry.name)
            segments.append(action[:2])
            labels.append(ids[action.label])
    return GroundTruth(videos, segments, labels), names


class StepLabels(NamedTuple):
    """Annotations that give every step a label."""

    labels: dict[str, np.ndarray]  # by recording, i64[T]; C is background
    class_names: list[str]  # C
    rate: float  # steps per second


def read_step_labels(path: Path, subset: str, rate: float) -> StepLabels:
    """Reads a folder in the layout of MS-TCN, see ``datasets/frame_labels``. Several labels may be background.

    Args:
        path: the folder with mapping.txt and groundTruth/.
        subset: a split such as "test_split1"; empty: all recordings.
        rate: labels per second; 0: "label_rate" of the folder's settings.json, or 1.

    Raises:
        UserError: a bad file, or no such split.
    """
    folder = pathlib.Path(path)
    names = frame_labels.read_mapping(folder / "mapping.txt")
    class_names = [name for name in names if name not in frame_labels.BACKGROUND]
    ids = np.array([class_names.index(name) if name in class_names else len(class_names) for name in names])
    files = frame_labels.find_labels(folder)
    if subset:
        bundles = frame_labels.find_bundles(folder, files)
        if subset not in bundles:
            raise UserError(f"{folder / 'splits'}: no split '{subset}'; there are {list_some(bundles)}")
        files = {name: files[name] for name in bundles[subset][1]}
    settings = folder / SETTINGS_FILE
    said = safe_files.read_json_object(settings).get("label_rate", 1.0) if settings.exists() else 1.0
    rate = rate or float(safe_files.check_kind(said, float, f"{settings}: label_rate"))
    if not 0 < rate < math.inf:
        raise UserError(f"{settings}: label_rate: expected labels per second, found {rate:g}")
    labels = {name: ids[frame_labels.read_labels(file, names)] for name, file in files.items()}
    return StepLabels(labels, class_names, rate)


def labels_of(entries: Collection[Entry]) -> set[str]:
    """The class names in the annotations of ``entries``."""
    return {action.label for entry in entries for action in entry.actions}

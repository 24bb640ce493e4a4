"""Ground truth from the annotations of both challenges: what ``data`` reads, as a table, with nothing left out.

Formats: ``data.annotation_files`` (ActivityNet's JSON) and ``data.thumos14_files`` (THUMOS14's folder of texts).
"""

from collections.abc import Collection, Iterable

from a2net_tf.data import annotation_files, thumos14_files
from a2net_tf.data.annotation_files import Entry
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


def labels_of(entries: Collection[Entry]) -> set[str]:
    """The class names in the annotations of ``entries``."""
    return {action.label for entry in entries for action in entry.actions}

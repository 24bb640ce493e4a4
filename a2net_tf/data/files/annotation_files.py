"""Annotations of action instances in ActivityNet's format: reading them strictly, cleaning and counting them.

    {"database": {VIDEO: {"subset": "training", "duration": 61.7, "annotations": [{"label": "a", "segment": [1, 4]}]}}}

All times are seconds. Both the dataset folders and the scoring of detections read through this module; what they do
about actions that make no sense differs, so that is for them to say.
"""

import collections
import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from a2net_tf.data.files.feature_files import SETTINGS_FILE
from a2net_tf.data.labels import check_label
from a2net_tf.errors import MAX_LISTED, UserError, list_some
from a2net_tf.safe_files import Path, check_kind, get_value, read_json_object

MAX_CLIP_SECONDS = 1.0  # an action may exceed its recording by this much: rounding, or another decoder's frame count


# Annotations


class LabelledSegment(NamedTuple):
    """One annotated action."""

    start_seconds: float
    end_seconds: float
    label: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """A video of an ActivityNet-format JSON."""

    name: str
    subset: str
    duration_seconds: float  # 0 if not given
    actions: tuple[LabelledSegment, ...]
    fields: dict  # everything that the file says about the video


def read_database(path: Path) -> list[Entry]:
    """The videos of a JSON file, in its order; see ``read_entries``."""
    return entries_of(read_json_object(path), path)


def entries_of(content: dict, path: Path) -> list[Entry]:
    """The videos below "database" in the ``content`` of ``path``, in the file's order; see ``read_entries``."""
    return read_entries(get_value(content, "database", str(path), kind=dict), str(path))


def database_of(entries: Iterable[Entry]) -> dict:
    """The content of a JSON file in this form that says the same as ``entries``; a duration only where it is known."""
    return {
        "database": {
            entry.name: {
                "subset": entry.subset,
                **({"duration": entry.duration_seconds} if entry.duration_seconds else {}),
                "annotations": [
                    {"segment": [action.start_seconds, action.end_seconds], "label": action.label}
                    for action in entry.actions
                ],
            }
            for entry in entries
        }
    }


def read_entries(database: object, where: str, *, duration_key: str = "duration") -> list[Entry]:
    """The videos of ``{VIDEO: {"subset", "duration", "annotations": [{"label", "segment"}]}}``, in its order.

    Only the form is looked at: segments may be reversed or lie anywhere. A duration need not be given.

    Raises:
        UserError: names the video, the annotation (counted from 0) and what is missing or has a wrong type.
    """
    videos = check_kind(database, dict, where)
    return [_read_entry(name, fields, f"{where}: video '{name}'", duration_key) for name, fields in videos.items()]


def _read_entry(name: str, fields: object, where: str, duration_key: str) -> Entry:
    subset = get_value(fields, "subset", where, kind=str)
    annotations = get_value(fields, "annotations", where, kind=list)
    actions = tuple(_read_action(value, f"{where}: annotations[{i}]") for i, value in enumerate(annotations))
    has_duration = fields.get(duration_key) is not None
    duration = get_value(fields, duration_key, where, kind=float) if has_duration else 0.0
    return Entry(name, subset, float(duration), actions, fields)


def _read_action(annotation: object, where: str) -> LabelledSegment:
    segment = get_segment(annotation, where)
    return LabelledSegment(*segment, check_label(get_value(annotation, "label", where, kind=object), where))


def get_segment(entry: object, where: str) -> list[float]:
    """The start and end below "segment" of a JSON object; raises UserError if they are not two numbers."""
    segment = get_value(entry, "segment", where, kind=list)
    if len(segment) != 2:
        raise UserError(f"{where}: segment: expected [start, end], found {str(segment)[:80]}")
    return [float(check_kind(value, float, f"{where}: segment")) for value in segment]


def check_order(action: LabelledSegment, where: str, *, may_be_empty: bool) -> None:
    """Raises UserError unless both ends are finite and the end comes after the start, or with it if it may."""
    start, end, label = action
    in_order = start < end or (may_be_empty and start == end)
    if not (math.isfinite(start) and math.isfinite(end) and in_order):
        raise UserError(f"{where}: '{label}' from {start:g} to {end:g} s does not end after its start (reversed?)")


def clean_actions(
    actions: Iterable[LabelledSegment],
    duration_seconds: float,
    *,
    where: str,
    max_clip_seconds: float = MAX_CLIP_SECONDS,
) -> tuple[list[LabelledSegment], collections.Counter]:
    """Drops actions of no length and clips those that exceed [0, duration] by at most ``max_clip_seconds``.

    Returns:
        What is left, and how many were "of no length, dropped", "clipped to the recording" or "repeated, kept".

    Raises:
        UserError: an action is reversed, not finite, or further outside.
    """
    kept, counts = [], collections.Counter()
    for action in actions:
        start, end, label = action
        if start == end:
            counts["of no length, dropped"] += 1
            continue
        check_order(action, where, may_be_empty=False)
        if start < -max_clip_seconds or end > duration_seconds + max_clip_seconds or start >= duration_seconds:
            raise UserError(
                f"{where}: '{label}' from {start:g} to {end:g} s lies outside the recording of {duration_seconds:g} s; "
                "wrong unit or wrong video?"
            )
        counts["clipped to the recording"] += start < 0 or end > duration_seconds
        counts["repeated, kept"] += action in kept
        kept.append(LabelledSegment(max(start, 0.0), min(end, duration_seconds), label))
    return kept, +counts


def clean_entries(
    entries: Iterable[Entry], where: str, max_clip_seconds: float = MAX_CLIP_SECONDS
) -> tuple[list[Entry], dict[str, int]]:
    """``clean_actions`` for every video; prints what was changed. Without a duration only lengths are looked at.

    Returns:
        The entries, and how many actions were changed in which way.
    """
    total, cleaned = collections.Counter(), []
    for entry in entries:
        told, duration = f"{where}, video '{entry.name}'", entry.duration_seconds or math.inf
        actions, counts = clean_actions(entry.actions, duration, where=told, max_clip_seconds=max_clip_seconds)
        total += counts
        cleaned.append(dataclasses.replace(entry, actions=tuple(actions)))
    if total:
        print(f"{where}: actions {describe_changes(total)}")
    return cleaned, dict(total)


def describe_changes(changed: Mapping[str, int]) -> str:
    """One line of text for the second value of ``clean_entries``."""
    return "; ".join(f"{what}: {number}" for what, number in sorted(changed.items()))


def choose_entries(
    entries: Sequence[Entry],
    available: Collection[str],
    class_names: Sequence[str],
    *,
    splits: Iterable[str],
    dataset: str,
    max_clip_seconds: float,
) -> tuple[dict[str, list[Entry]], dict[str, dict]]:
    """Cleans what is to be prepared, and counts it; prints both.

    Args:
        entries: of all subsets.
        available: names of the videos that have features; the others are left out.
        class_names: C names.
        splits: the subsets to prepare.
        dataset: its name, for what is printed.
        max_clip_seconds: see ``clean_actions``.

    Returns:
        The entries by split, and their ``count_actions`` by split, with what ``clean_entries`` ``changed``.
    """
    chosen, counts = {}, {}
    for split in splits:
        where = f"{dataset} {split}"
        kept = [entry for entry in entries if entry.subset == split and entry.name in available]
        chosen[split], changed = clean_entries(kept, where, max_clip_seconds)
        labels = [[action.label for action in entry.actions] for entry in chosen[split]]
        counts[split] = {**count_actions(labels, class_names), "changed": changed}
        print(f"{where}: {describe_counts(counts[split])}")
    return chosen, counts


def check_labels(entries: Iterable[Entry], class_names: Collection[str], where: str) -> None:
    """Raises UserError for the first label that is not in ``class_names``."""
    for entry in entries:
        for action in entry.actions:
            if action.label not in class_names:
                raise UserError(
                    f"{where}: video '{entry.name}' has the label '{action.label}', which is none of the "
                    f"{len(class_names)} classes ({list_some(class_names, 5)})"
                )


def check_missing(names: Sequence[str], available: Collection[str], *, allow_missing: bool, where: str) -> None:
    """Raises UserError for annotated videos ``names`` without features, unless they are allowed; prints them all."""
    missing = [name for name in names if name not in available]
    if not missing:
        return
    told = f"{where}: {len(missing)} of {len(names)} annotated videos have no features: {list_some(missing)}"
    if len(missing) > MAX_LISTED:
        print(f"{where}: the {len(missing)} annotated videos without features: {', '.join(missing)}")
        told += " (all are printed above)"
    if not allow_missing:
        raise UserError(f'{told}; complete the folder, or allow it with "allow_missing": true in {SETTINGS_FILE}')
    print(f"{told}; left out")


def count_actions(labels: Sequence[Sequence[str]], class_names: Sequence[str]) -> dict:
    """Counts of a split, given the labels of each of its videos: videos, actions, classes and actions per class."""
    per_class = collections.Counter(label for of_video in labels for label in of_video)
    return {
        "videos": len(labels),
        "actions": sum(per_class.values()),
        "classes": len(per_class),
        "per_class": {name: per_class[name] for name in class_names},
    }


def describe_counts(counts: dict, *, max_classes: int = 40) -> str:
    """One line of text for ``count_actions``; classes are listed if there are not too many."""
    text = f"{counts['videos']} videos, {counts['actions']} actions of {counts['classes']} classes"
    if len(counts["per_class"]) > max_classes:
        return text
    return f"{text}: {', '.join(f'{name} {number}' for name, number in counts['per_class'].items())}"

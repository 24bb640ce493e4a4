"""Files of results: writing without halves, detections and ground truth in the formats of both challenges, subtitles.

Formats:
    ActivityNet detections: {"version", "results": {video: [{"label", "score", "segment": [s, e]}]}, "external_data"}.
    ActivityNet ground truth: {"database": {video: {"subset", "annotations": [{"label", "segment": [s, e]}]}}}.
    THUMOS14 detections: one line ``video start end class_id score`` each, with the challenge's class ids (7, 9, ...).
    THUMOS14 ground truth: a folder with ``detclasslist.txt`` (``7 BaseballPitch`` lines), ``BaseballPitch_test.txt``
    (``video start end`` lines) and so on, and ``Ambiguous_test.txt``.
All times are seconds.
"""

import collections
import csv
import io
import pathlib
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from absl import logging

from a2net_tf.errors import UserError, list_some
from a2net_tf.evaluation.instances import Detections, GroundTruth
from a2net_tf.safe_files import Path, read_json, read_text, write_json, write_text


def write_activitynet(
    path: Path, detections: Detections, class_names: Sequence[str], *, videos: Sequence[str] = ()
) -> None:
    """Writes detections as ActivityNet JSON, for each video by descending score.

    Args:
        path: the file.
        detections: of all videos; every number finite.
        class_names: C names; labels are positions in it.
        videos: these come first and appear even without detections.
    """
    _check_finite(path, detections)
    results = {video: [] for video in videos}
    ranked = detections.select(np.argsort(-detections.scores, kind="stable"))
    for video in dict.fromkeys(detections.videos.tolist()):
        results.setdefault(video, [])
    for video, segment, label, score in _rows(ranked):
        results[video].append({"label": class_names[label], "score": score, "segment": segment})
    write_json(path, {"version": "VERSION 1.3", "results": results, "external_data": {}}, indent=None)


def write_thumos14(path: Path, detections: Detections, class_ids: dict[int, int]) -> None:
    """Writes detections as the THUMOS14 challenge wants them, for each video by descending score.

    Args:
        path: the file.
        detections: of all videos; every number finite.
        class_ids: the challenge's class id -> label, as ``read_thumos14_ground_truth`` returns it.

    Raises:
        UserError: a video's name with a space in it cannot be written in this format.
    """
    _check_finite(path, detections)
    challenge_ids = {label: class_id for class_id, label in class_ids.items()}
    lines = collections.defaultdict(list)
    for video in dict.fromkeys(detections.videos.tolist()):
        if video.split() != [video]:
            raise UserError(f"{path}: video '{video}': the THUMOS14 text format allows no spaces in a name")
        lines[video] = []
    for video, (start, end), label, score in _rows(detections.select(np.argsort(-detections.scores, kind="stable"))):
        lines[video].append(f"{video} {start!r} {end!r} {challenge_ids[label]} {score!r}\n")
    write_text(path, "".join(line for group in lines.values() for line in group))


def write_csv(path: Path, detections: Detections, class_names: Sequence[str]) -> None:
    """Writes a line ``video,start_seconds,end_seconds,label,score`` per detection, in their order, below that header.

    Args:
        path: the file.
        detections: of all videos; every number finite.
        class_names: C names; labels are positions in it.
    """
    _check_finite(path, detections)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("video", "start_seconds", "end_seconds", "label", "score"))
    for video, (start, end), label, score in _rows(detections):
        writer.writerow((video, start, end, class_names[label], score))
    write_text(path, text.getvalue())


def _rows(detections: Detections) -> Iterator[tuple[str, list[float], int, float]]:
    """(video, [start, end], label, score) of each detection, as plain Python values."""
    columns = (detections.videos, detections.segments, detections.labels, detections.scores)
    return zip(*(c.tolist() for c in columns), strict=True)


def _check_finite(path: Path, detections: Detections) -> None:
    bad = ~(np.isfinite(detections.segments).all(axis=1) & np.isfinite(detections.scores))
    if bad.any():
        video = detections.videos[bad][0]
        raise UserError(f"{path}: not written: {bad.sum()} detections hold NaN or infinite numbers, first in {video}")


def read_activitynet_detections(
    path: Path, class_names: Sequence[str] | None, *, dropped_labels: Collection[str] = ()
) -> Detections:
    """Reads ActivityNet JSON; a ``v_`` before a video's name is taken off, as in the ground truth.

    Args:
        path: the file.
        class_names: C names; a label is the position in it. None for proposals: labels need not be there, all become 0.
        dropped_labels: detections of these classes are left out, with a warning that counts them.

    Raises:
        UserError: damaged file, missing key, unknown label.
    """
    results = _get(read_json(path), "results", path, kind=dict)
    ids = {name: i for i, name in enumerate(class_names or ())}
    videos, segments, labels, scores, num_dropped = [], [], [], [], 0
    for video, entries in results.items():
        where = f"{path}: video {video}"
        for entry in _checked(entries, list, f"{where}: results"):
            label = None if class_names is None else _get(entry, "label", where)
            if label in dropped_labels:
                num_dropped += 1
                continue
            if class_names is not None and label not in ids:
                raise UserError(f"{where}: unknown label '{label}'; the annotations have {list_some(class_names)}")
            videos.append(_strip_prefix(video))
            segments.append(_get_segment(entry, where))
            labels.append(ids.get(label, 0))
            scores.append(_number(_get(entry, "score", where), f"{where}: score"))
    if num_dropped:
        logging.warning("%s: %d detections of classes that only other subsets have are not scored", path, num_dropped)
    return Detections(videos, segments, labels, scores)


def read_thumos14_detections(path: Path, class_ids: dict[int, int]) -> Detections:
    """Reads ``video start end class_id score`` lines; a ``.mp4`` after a video's name is taken off.

    Args:
        path: the file.
        class_ids: the challenge's class id -> label, as ``read_thumos14_ground_truth`` returns it.

    Raises:
        UserError: a malformed line or an unknown class id, with its line number.
    """
    videos, segments, labels, scores = [], [], [], []
    for where, fields in _read_fields(path, "video start end class_id score"):
        video, start, end, class_id, score = fields
        videos.append(video.removesuffix(".mp4"))
        segments.append([_number(start, f"{where}: start"), _number(end, f"{where}: end")])
        labels.append(_thumos14_label(class_id, class_ids, where))
        scores.append(_number(score, f"{where}: score"))
    return Detections(videos, segments, labels, scores)


def _thumos14_label(text: str, class_ids: dict[int, int], where: str) -> int:
    class_id = _whole_number(text, f"{where}: class_id")
    if class_id not in class_ids:
        raise UserError(f"{where}: unknown class id {class_id}; the ground truth has {list_some(class_ids)}")
    return class_ids[class_id]


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
    suffixes = {"test": "test", "val": "val", "validation": "val"}
    if subset not in suffixes:
        raise UserError(f"subset '{subset}': THUMOS14 has 'test' and 'validation'")
    folder, suffix = _find_thumos14_folder(pathlib.Path(path), suffixes[subset]), suffixes[subset]
    classes = [
        (_whole_number(class_id, f"{where}: class id"), name)
        for where, (class_id, name) in _read_fields(folder / "detclasslist.txt", "class_id name")
    ]
    videos, segments, labels = [], [], []
    for label, (_, name) in enumerate(classes):
        class_videos, class_segments = _read_thumos14_actions(folder / f"{name}_{suffix}.txt")
        videos += class_videos
        segments += class_segments
        labels += [label] * len(class_videos)
    ambiguous = _read_thumos14_actions(folder / f"Ambiguous_{suffix}.txt")
    class_ids = {class_id: label for label, (class_id, _) in enumerate(classes)}
    return GroundTruth(videos, segments, labels, *ambiguous), [name for _, name in classes], class_ids


def _find_thumos14_folder(path: pathlib.Path, suffix: str) -> pathlib.Path:
    """The folder with ``detclasslist.txt`` and the class files of the subset."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected the THUMOS14 annotations (detclasslist.txt and so on)")
    for depth in range(4):
        for class_list in sorted(path.glob("*/" * depth + "detclasslist.txt")):
            if any(class_list.parent.glob(f"*_{suffix}.txt")):
                return class_list.parent
    raise UserError(f"{path}: holds no THUMOS14 annotations of this subset (detclasslist.txt and CLASS_{suffix}.txt)")


def _read_thumos14_actions(path: pathlib.Path) -> tuple[list[str], list[list[float]]]:
    """Videos and segments of one class file."""
    videos, segments = [], []
    for where, (video, start, end) in _read_fields(path, "video start end"):
        videos.append(video)
        segments.append([_number(start, f"{where}: start"), _number(end, f"{where}: end")])
        _check_order(segments[-1], where)
    return videos, segments


def read_activitynet_ground_truth(path: Path, subset: str) -> tuple[GroundTruth, list[str]]:
    """Reads the annotations of one subset; a ``v_`` before a video's name is taken off, as in the detections.

    Actions of no length stay, since the official numbers count them as missed: the validation subset holds three.

    Args:
        path: JSON with the key ``database``.
        subset: "training", "validation" or another that the file has.

    Returns:
        ground truth, and the sorted names of the classes that occur in the subset.

    Raises:
        UserError: damaged file, missing key, no such subset, a reversed segment.
    """
    return select_subset(read_database(path), subset, path)


def read_database(path: Path) -> dict[str, dict]:
    """The entries by video, each with ``subset`` and a list of ``annotations``."""
    database = _get(read_json(path), "database", path, kind=dict)
    for video, entry in database.items():
        _get(entry, "subset", f"{path}: video {video}", kind=str)
        entry["annotations"] = _checked(entry.get("annotations") or [], list, f"{path}: video {video}: annotations")
    return database


def select_subset(database: dict[str, dict], subset: str, path: Path) -> tuple[GroundTruth, list[str]]:
    """See ``read_activitynet_ground_truth``."""
    subsets = {entry["subset"] for entry in database.values()}
    if subset not in subsets:
        raise UserError(f"{path}: no video of subset '{subset}'; the file has {list_some(sorted(subsets))}")
    names = sorted(labels_of(database, {subset}, path))
    ids = {name: i for i, name in enumerate(names)}
    videos, segments, labels = [], [], []
    for video, entry in database.items():
        for annotation in entry["annotations"] if entry["subset"] == subset else ():
            where = f"{path}: video {video}"
            videos.append(_strip_prefix(video))
            segments.append(_get_segment(annotation, where))
            labels.append(ids[annotation["label"]])
            _check_order(segments[-1], where)
    return GroundTruth(videos, segments, labels), names


def labels_of(database: dict[str, dict], subsets: Collection[str], path: Path) -> set[str]:
    """The class names in the annotations of the given subsets."""
    return {
        _get(annotation, "label", f"{path}: video {video}", kind=str)
        for video, entry in database.items()
        if entry["subset"] in subsets
        for annotation in entry["annotations"]
    }


def write_srt(path: Path, detections: Detections, class_names: Sequence[str], *, min_score: float) -> None:
    """Writes the detections of one video as SubRip subtitles that a video player shows, in order of their start.

    Args:
        path: the file.
        detections: of one video; they may overlap. Those without a length on the video's time line are left out.
        class_names: C names; labels are positions in it.
        min_score: detections below it are left out.
    """
    shown = detections.select(detections.scores >= min_score)
    shown = shown.select(np.isfinite(shown.segments).all(axis=1))
    milliseconds = np.rint(np.maximum(shown.segments, 0.0) * 1000).astype(np.int64)
    blocks = []
    for row in np.lexsort((milliseconds[:, 1], milliseconds[:, 0])):
        start, end = milliseconds[row].tolist()
        if start < end:
            times = f"{_srt_time(start)} --> {_srt_time(end)}"
            blocks.append(f"{len(blocks) + 1}\n{times}\n{class_names[shown.labels[row]]}  {shown.scores[row]:.2f}\n")
    write_text(path, "\n".join(blocks))


def _srt_time(milliseconds: int) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d},{milliseconds:03d}"


def _read_fields(path: Path, names: str) -> Iterator[tuple[str, list[str]]]:
    """(where, fields) of each line that is not blank; ``names`` are the fields that a line must have."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = line.split()
        if fields and len(fields) != len(names.split()):
            raise UserError(f"{path}: line {number}: expected '{names}', found '{line.strip()[:80]}'")
        if fields:
            yield f"{path}: line {number}", fields


def _checked(value: object, kind: type, where: str) -> object:
    if not isinstance(value, kind):
        raise UserError(f"{where}: expected {_KINDS[kind]}, found {_KINDS.get(type(value), value)}")
    return value


_KINDS = {dict: "an object {...}", list: "a list [...]", str: "a text"}


def _get(entry: object, key: str, where: Path, *, kind: type = object) -> object:
    """``entry[key]`` of a JSON object, or UserError."""
    if key not in _checked(entry, dict, str(where)):
        raise UserError(f"{where}: key '{key}' is missing; found {list_some(entry) or 'no keys'}")
    return _checked(entry[key], kind, f"{where}: {key}")


def _get_segment(entry: object, where: str) -> list[float]:
    segment = _get(entry, "segment", where, kind=list)
    if len(segment) != 2:
        raise UserError(f"{where}: segment: expected [start, end], found {segment}")
    return [_number(value, f"{where}: segment") for value in segment]


def _number(value: object, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{where}: expected a number, found '{value}'") from None


def _whole_number(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{where}: expected a whole number, found '{text}'") from None


def _check_order(segment: list[float], where: str) -> None:
    """Ground truth must be finite and not reversed."""
    if not (np.isfinite(segment).all() and segment[0] <= segment[1]):
        raise UserError(f"{where}: action from {segment[0]:g} to {segment[1]:g} s ends before it starts (reversed?)")


def _strip_prefix(video: str) -> str:
    return video.removeprefix("v_")

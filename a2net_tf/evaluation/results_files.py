"""Files of detections in the formats of both challenges, and as subtitles.

Formats:
    ActivityNet: {"version", "results": {video: [{"label", "score", "segment": [s, e]}]}, "external_data"}.
    THUMOS14: one line ``video start end class_id score`` each, with the challenge's class ids (7, 9, ...).
All times are seconds.
"""

import collections
import csv
import io
import pathlib
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from absl import logging

from a2net_tf.annotations import label_studio, read, soccernet
from a2net_tf.annotations.marks import Found, in_milliseconds
from a2net_tf.annotations.reading import find_reading
from a2net_tf.annotations.subtitles import clock
from a2net_tf.data.files.annotation_files import get_segment
from a2net_tf.data.files.thumos14_files import finite_number, read_fields, whole_number
from a2net_tf.data.labels import check_label
from a2net_tf.errors import UserError, list_some
from a2net_tf.evaluation.instances import Detections
from a2net_tf.safe_files import Path, check_kind, get_value, read_json, write_json, write_text


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
    write_json(
        path, {"version": "VERSION 1.3", "results": results, "external_data": {}}, indent=None, keep_earlier=True
    )


def write_thumos14(path: Path, detections: Detections, class_ids: dict[int, int]) -> None:
    """Writes detections as the THUMOS14 challenge wants them, for each video by descending score.

    Args:
        path: the file.
        detections: of all videos; every number finite.
        class_ids: the challenge's class id -> label, as ``ground_truth_files`` reads it.

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
    write_text(path, "".join(line for group in lines.values() for line in group), keep_earlier=True)


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
    write_text(path, text.getvalue(), keep_earlier=True)


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
    """Reads ActivityNet JSON, or what ``annotations`` reads. Names stay as they are, see ``video_names.match_names``.

    Args:
        path: the file.
        class_names: C names; a label is the position in it. None for proposals: labels need not be there, all become 0.
        dropped_labels: detections of these classes are left out, with a warning that counts them.

    Raises:
        UserError: damaged file, missing key, unknown label.
    """
    content = _activitynet_content(path)
    rows = _annotated_rows(path) if content is None else _activitynet_rows(content, path)
    ids = {name: i for i, name in enumerate(class_names or ())}
    videos, segments, labels, scores, num_dropped = [], [], [], [], 0
    for where, video, entry in rows:
        label = None if class_names is None else check_label(get_value(entry, "label", where, kind=object), where)
        if label in dropped_labels:
            num_dropped += 1
            continue
        if class_names is not None and label not in ids:
            raise UserError(f"{where}: unknown label '{label}'; the annotations have {list_some(class_names)}")
        videos.append(video)
        segments.append(get_segment(entry, where))
        labels.append(ids.get(label, 0))
        scores.append(get_value(entry, "score", where, kind=float))
    if num_dropped:
        logging.warning("%s: %d detections of classes that only other subsets have are not scored", path, num_dropped)
    return Detections(videos, segments, labels, scores)


def _activitynet_content(path: Path) -> object | None:
    """The JSON of ActivityNet's results, or of none of the kinds that others write; None of theirs."""
    path = pathlib.Path(path)
    if path.is_dir() or (path.suffix.lower() in read.ENDINGS and path.suffix.lower() != ".json"):
        return None
    content = read_json(path)
    return None if label_studio.is_label_studio(content) or soccernet.is_soccernet(content) else content


def _activitynet_rows(content: object, path: Path) -> Iterator[tuple[str, str, object]]:
    """Where each detection stands, its video, and its JSON object."""
    for video, entries in get_value(content, "results", str(path), kind=dict).items():
        for i, entry in enumerate(check_kind(entries, list, f"{path}: video '{video}': results")):
            yield f"{path}: video '{video}': results[{i}]", video, entry


def _annotated_rows(path: Path) -> Iterator[tuple[str, str, object]]:
    """The same of another tool's file or folder."""
    for video, found in read.read_detections(path, find_reading(path)).items():
        for where, (start, end, label), score in found:
            yield where, video, {"label": label, "segment": [start, end], "score": score}


def read_thumos14_detections(path: Path, class_ids: dict[int, int]) -> Detections:
    """Reads ``video start end class_id score`` lines. Names of videos stay as they are, as above.

    Args:
        path: the file.
        class_ids: the challenge's class id -> label, as ``ground_truth_files`` reads it.

    Raises:
        UserError: a malformed line or an unknown class id, with its line number.
    """
    videos, segments, labels, scores = [], [], [], []
    for where, fields in read_fields(path, "video start end class_id score"):
        video, start, end, class_id, score = fields
        videos.append(video)
        segments.append([finite_number(start, f"{where}: start"), finite_number(end, f"{where}: end")])
        labels.append(_thumos14_label(class_id, class_ids, where))
        scores.append(finite_number(score, f"{where}: score"))
    return Detections(videos, segments, labels, scores)


def _thumos14_label(text: str, class_ids: dict[int, int], where: str) -> int:
    class_id = whole_number(text, f"{where}: class_id")
    if class_id not in class_ids:
        raise UserError(f"{where}: unknown class id {class_id}; the ground truth has {list_some(class_ids)}")
    return class_ids[class_id]


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
    rows = [
        Found(start, end, class_names[label], score)
        for (start, end), label, score in zip(shown.segments.tolist(), shown.labels, shown.scores.tolist(), strict=True)
    ]
    blocks = [
        f"{number}\n{clock(row.start, ',')} --> {clock(row.end, ',')}\n{row.label}  {row.score:.2f}\n"
        for number, row in enumerate(in_milliseconds(rows), start=1)
    ]
    write_text(path, "\n".join(blocks), keep_earlier=True)

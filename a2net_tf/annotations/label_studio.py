"""Label Studio's JSON: timeline labels of videos, labels of time series and of sound; and detections as predictions.

A timeline label counts frames from 1, and both ends of its range belong to it: at 25 frames a second, frames 3 to 5 are
0.08 to 0.2 s. Whole frames cannot say milliseconds: what this module writes also holds the seconds, below "meta", which
Label Studio keeps. They count as long as the range is the one that they belong to.
"""

import json
import pathlib
import re
import urllib.parse
from collections.abc import Mapping, Sequence

from a2net_tf.annotations.marks import Found, Mark, Recording, in_milliseconds, recording_name
from a2net_tf.annotations.reading import Reading
from a2net_tf.errors import UserError, list_some
from a2net_tf.safe_files import Path, check_kind, get_value, write_json

ENDING = ".labelstudio.json"
NAME_KEY = "recording"  # of a task's data: the name as it is, which a URL need not hold
_MEDIA_KEYS = ("video", "audio", "timeseries", "ts", "csv", "url")
_KINDS = ("timelinelabels", "timeserieslabels", "labels")  # keys of a value, in which the labels are

_HIGHEST_RATE, _LONGEST = 1e6, 1e9  # frames per second and seconds that are possible


def is_label_studio(content: object) -> bool:
    """Whether a JSON value is a task, or a list of tasks."""
    tasks = content if isinstance(content, list) else [content]
    return bool(tasks) and all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) and {"annotations", "predictions"} & task.keys()
        for task in tasks
    )


def read(content: list | dict, reading: Reading, path: str, *, predicted: bool) -> list[Recording]:
    """The recordings of the tasks that are annotated; of several annotations the last that is not cancelled.

    Args:
        content: of the file.
        reading: settings; ``columns["video"]`` is the key of a task's data that names the recording.
        path: for messages.
        predicted: the predictions are read, not the annotations.

    Raises:
        UserError: no task is annotated, a recording has two tasks, or a result is not what it should be.
    """
    recordings: dict[str, Recording] = {}
    passed, others = [], 0
    for number, task in enumerate(content if isinstance(content, list) else [content]):
        where = f"{path}: task {task.get('id', number)}"
        recording = Recording(_name(task, reading, where), where)
        results = _results(task, where, predicted=predicted)
        if results is None:
            passed.append(recording.name)
            continue
        for place, result in enumerate(results):
            others += not _add(recording, result, reading, f"{where}: result[{place}]")
        if recording.name in recordings:
            raise UserError(f"{where}: '{recording.name}' has another task in this file")
        recordings[recording.name] = recording
    kind = "predictions" if predicted else "annotations"
    if not recordings:
        raise UserError(f"{path}: no task has {kind}; were they submitted?")
    if passed:
        print(f"{path}: {len(passed)} tasks without {kind} are left out: {list_some(passed)}")
    if others:
        print(f"{path}: {others} results that label no stretch of time are left out")
    return list(recordings.values())


def _name(task: dict, reading: Reading, where: str) -> str:
    data = task["data"]
    key = reading.columns.get("video")
    if not key and NAME_KEY in data:
        return check_kind(data[NAME_KEY], str, f"{where}: data: {NAME_KEY}")
    texts = [name for name, value in data.items() if isinstance(value, str)]
    key = key or next((name for name in _MEDIA_KEYS if name in texts), texts[0] if len(texts) == 1 else "")
    if not key:
        raise UserError(
            f"{where}: which of its data names the recording? Found {list_some(data)}; say it with 'columns'"
        )
    return _name_of_url(get_value(data, key, f"{where}: data", kind=str), where)


def _name_of_url(url: str, where: str) -> str:
    """The name of the file that a URL leads to, without the eight letters that an upload puts before it."""
    parts = urllib.parse.urlsplit(url)
    local = urllib.parse.parse_qs(parts.query).get("d")
    file = pathlib.PurePosixPath(local[0] if local else urllib.parse.unquote(parts.path)).name
    return recording_name(re.sub(r"^[0-9a-f]{8}-(?=.)", "", file), where)


def _results(task: dict, where: str, *, predicted: bool) -> list | None:
    """The results of the annotation to take; None if there is none. One without results says: no actions."""
    key = "predictions" if predicted else "annotations"
    entries = check_kind(task.get(key) or [], list, f"{where}: {key}")
    entries = [check_kind(entry, dict, f"{where}: {key}") for entry in entries]
    entries = [entry for entry in entries if not entry.get("was_cancelled")]
    if not entries:
        return None
    chosen = next((entry for entry in entries if entry.get("ground_truth")), entries[-1])
    return get_value(chosen, "result", f"{where}: {key}", kind=list)


def _add(recording: Recording, result: dict, reading: Reading, where: str) -> bool:
    """Adds the marks of a result; False if it labels no stretch of time."""
    value = check_kind(check_kind(result, dict, where).get("value", {}), dict, f"{where}: value")
    kind = next((key for key in _KINDS if key in value), None)
    if kind is None or (kind != "timelinelabels" and not {"start", "end"} <= value.keys()):
        return False
    labels = [check_kind(label, str, f"{where}: {kind}") for label in get_value(value, kind, where, kind=list)]
    score = result.get("score")
    score = None if score is None else float(check_kind(score, float, f"{where}: score"))
    for start, end in _stretches(value, kind, result.get("meta"), reading, where):
        recording.marks += [Mark(start, end, label, where, score) for label in labels]
    length = result.get("original_length")
    if kind == "labels" and isinstance(length, int | float) and length > 0:
        recording.duration = float(length)  # of sound, in seconds
    return True


def _stretches(value: dict, kind: str, meta: object, reading: Reading, where: str) -> list[tuple[float, float | None]]:
    if kind == "timelinelabels":
        ranges = get_value(value, "ranges", where, kind=list)
        exact = meta.get("seconds") if isinstance(meta, dict) else None
        rate = meta.get("rate") if exact else None
        return [_of_frames(span, exact, rate, reading, where) for span in ranges]
    start, end = (_number(value[key], f"{where}: {key}") for key in ("start", "end"))
    if kind == "timeserieslabels":
        start, end = reading.seconds(start, where), reading.seconds(end, where)
    return [(start, None if value.get("instant") else end)]


def _of_frames(span: object, exact: object, rate: object, reading: Reading, where: str) -> tuple[float, float]:
    """The seconds of a range of frames: those of "meta" if a person has not moved the range since."""
    frames = tuple(int(get_value(span, key, f"{where}: ranges", kind=float)) for key in ("start", "end"))
    known = type(rate) in (int, float) and 0 < rate <= _HIGHEST_RATE
    if known and isinstance(exact, list) and len(exact) == 2:
        start, end = (float(check_kind(value, float, f"{where}: meta: seconds")) for value in exact)
        if max(abs(start), abs(end)) < _LONGEST and _frames(start, end, rate) == frames:
            return start, end
    used = reading.rate or (rate if known else reading.needed_rate(where))
    return (frames[0] - 1) / used, frames[1] / used


def _frames(start: float, end: float, rate: float) -> tuple[int, int]:
    first = round(start * rate) + 1
    return first, max(round(end * rate), first)


def _number(value: object, where: str) -> float:
    if isinstance(value, str):
        raise UserError(
            f"{where}: found {json.dumps(value)[:60]}, a date; label against a timeColumn that counts seconds, without "
            "timeFormat"
        )
    return float(check_kind(value, float, where))


# Writing


def write(path: Path, by_name: Mapping[str, Sequence[Found]], *, rate: float, url: str) -> None:
    """Writes tasks with predictions, to be imported and corrected; an earlier file is kept.

    They suit a labelling configuration with <Video name="video"> and <TimelineLabels name="label">, or, without a rate,
    with <TimeSeries name="ts"> and <TimeSeriesLabels name="label"> along seconds.

    Args:
        path: of the file.
        by_name: {recording: its detections}.
        rate: the frameRate of <Video>; 0: time series.
        url: of a recording, for its task's data, in which {name} stands for its name.
    """
    media = "video" if rate else "ts"
    tasks = []
    for name, rows in by_name.items():
        where = url.replace("{name}", urllib.parse.quote(name))
        results = [_result(number, row, rate) for number, row in enumerate(in_milliseconds(rows))]
        scores = [row.score for row in rows]
        prediction = {"model_version": "a2net_tf", "score": max(scores, default=0.0), "result": results}
        tasks.append({"data": {media: where, NAME_KEY: name}, "predictions": [prediction]})
    write_json(path, tasks, indent=1, keep_earlier=True)


def _result(number: int, row, rate: float) -> dict:
    start, end = row.start / 1000, row.end / 1000
    common = {"id": f"detection{number}", "from_name": "label", "score": row.score}
    if not rate:
        value = {"start": start, "end": end, "instant": False, "timeserieslabels": [row.label]}
        return {**common, "to_name": "ts", "type": "timeserieslabels", "value": value}
    first, last = _frames(start, end, rate)
    value = {"ranges": [{"start": first, "end": last}], "timelinelabels": [row.label]}
    meta = {"seconds": [start, end], "rate": rate}
    return {**common, "to_name": "video", "type": "timelinelabels", "value": value, "meta": meta}

"""Files as the tools write them, by the tools' own packages where there are any."""

import json

import pympi
from praatio import textgrid


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def write_json(path, content):
    return write(path, json.dumps(content))


def write_eaf(path, tiers, referring=()):
    """``tiers``: {name: [(start, end, value)] in milliseconds}; ``referring``: (name, parent, [(time, value)])."""
    eaf = pympi.Eaf(author="somebody")
    eaf.remove_tier("default")
    eaf.add_linguistic_type("notes", constraints="Symbolic_Association", timealignable=False)
    for name, annotations in tiers.items():
        eaf.add_tier(name, ling="default-lt")
        for annotation in annotations:
            eaf.add_annotation(name, *annotation)
    for name, parent, annotations in referring:
        eaf.add_tier(name, ling="notes", parent=parent)
        for time, value in annotations:
            eaf.add_ref_annotation(name, parent, time, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    eaf.to_file(str(path))
    return path


def write_textgrid(path, intervals, points=(), *, duration, form="long_textgrid"):
    """By praatio: a tier "acts" of intervals, which it fills up with empty ones, and a tier "hits" of points."""
    grid = textgrid.Textgrid(0, duration)
    grid.addTier(textgrid.IntervalTier("acts", intervals, 0, duration))
    if points:
        grid.addTier(textgrid.PointTier("hits", points, 0, duration))
    grid.save(str(path), format=form, includeBlankSpaces=True)
    return path


AGGREGATED = (
    *("Observation id", "Observation date", "Description", "Observation type", "Source", "Time offset (s)"),
    *(
        "Coding duration",
        "Media duration (s)",
        "FPS (frame/s)",
        "Subject",
        "Observation duration by subject by observation",
    ),
    *("Behavior", "Behavioral category", "Behavior type", "Start (s)", "Stop (s)", "Duration (s)", "Media file name"),
    *("Image index start", "Image index stop", "Image file path start", "Image file path stop", "Comment start"),
    "Comment stop",
)
TABULAR = (
    *("Observation id", "Observation date", "Description", "Observation duration", "Observation type", "Source"),
    *("Time offset (s)", "Media duration (s)", "FPS", "Subject", "Behavior", "Behavioral category", "Modifier #1"),
    *("Behavior type", "Time", "Media file name", "Image index", "Image file path", "Comment"),
)


def write_boris(path, columns, rows, separator="\t", line_end="\r\n"):
    """``rows``: of {column: value}; the others are empty."""
    lines = [columns, *([str(row.get(column, "")) for column in columns] for row in rows)]
    return write(path, "".join(separator.join(line) + line_end for line in lines))


def task(number, name, results, *, cancelled=False, **more):
    """Of Label Studio, whose file was uploaded."""
    annotation = {"id": number, "completed_by": 1, "result": results, "was_cancelled": cancelled, "ground_truth": False}
    return {
        "id": number,
        "annotations": [annotation],
        "file_upload": f"0123abcd-{name}.mp4",
        "drafts": [],
        "predictions": [],
        "data": {"video": f"/data/upload/3/0123abcd-{name}.mp4"},
        "meta": {},
        **more,
    }


def timeline(start, end, *labels):
    value = {"ranges": [{"start": start, "end": end}], "timelinelabels": list(labels)}
    return {
        "value": value,
        "id": f"r{start}",
        "from_name": "label",
        "to_name": "video",
        "type": "timelinelabels",
        "origin": "manual",
    }


def series(start, end, *labels, instant=False):
    value = {"start": start, "end": end, "instant": instant, "timeserieslabels": list(labels)}
    return {"value": value, "id": f"s{start}", "from_name": "label", "to_name": "ts", "type": "timeserieslabels"}

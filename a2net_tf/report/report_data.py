"""What a report in the browser shows, as one dictionary for JSON; drawn by the files of ``page/``.

Names of keys are those that the JavaScript reads. Detections are many: each column of them is one array of numbers in
base64, recording after recording, with the number of rows of each recording beside it.
"""

import base64
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from a2net_tf import safe_files, settings
from a2net_tf.errors import UserError
from a2net_tf.evaluation import curves, error_analysis, evaluated_file
from a2net_tf.evaluation.evaluated_file import Evaluated
from a2net_tf.evaluation.instances import check_thresholds, group_rows, number_videos
from a2net_tf.settings import Config

_NONE = 2**16 - 1  # in u16
_MOST = 20, 10  # detections of a recording and branch that are drawn: so many, and so many for each of its actions
_NEEDED = {"mAP": list, "average_mAP": float, "per_class": dict, "by_duration": list, "errors": object}


class Results(NamedTuple):
    """What an evaluation has left in a folder."""

    name: str
    metrics: dict[str, Any]
    evaluated: Evaluated
    history: dict[str, list[float | None]]  # by column of history.csv
    about: dict[str, Any]  # of run.json: what the training was


def read_results(folder: pathlib.Path, *, run_folder: pathlib.Path | None = None, name: str = "") -> Results:
    """Reads what ``--mode=evaluate`` has written to ``folder``.

    Args:
        folder: with metrics.json and recordings.npz.
        run_folder: the trained run, for its training curves; None: ``folder``.
        name: of the run; empty: that of the folder.

    Raises:
        UserError: a file is missing or damaged, or they do not belong together.
    """
    path, run_folder = folder / evaluated_file.FILE, run_folder or folder
    if not path.exists():
        raise UserError(f"{path}: no such file; run --mode=evaluate, without --noreport, before --mode=report")
    metrics = safe_files.read_json_object(folder / "metrics.json")
    evaluated = evaluated_file.read_evaluated(path)
    _check_metrics(metrics, evaluated, folder / "metrics.json")
    about = run_folder / "run.json"
    return Results(
        name or folder.absolute().name,
        metrics,
        evaluated,
        _read_history(run_folder / "history.csv"),
        safe_files.read_json_object(about) if about.exists() else {},
    )


def _check_metrics(metrics: dict[str, Any], evaluated: Evaluated, path: pathlib.Path) -> None:
    """Raises UserError for metrics that are damaged, older than reports, or of another evaluation."""
    where = str(path)
    branches = safe_files.get_value(metrics, "branches", where, kind=dict)
    thresholds = safe_files.get_value(metrics, "tiou_thresholds", where, kind=list)
    check_thresholds([safe_files.check_kind(t, float, f"{where}: tiou_thresholds") for t in thresholds])
    counts = {name: safe_files.get_value(of, "num_detections", where, kind=object) for name, of in branches.items()}
    if counts != {name: len(table) for name, table in evaluated.detections.items()}:
        raise UserError(f"{path} and {evaluated_file.FILE} are of different evaluations; evaluate again")
    for name, of in branches.items():
        for key, kind in _NEEDED.items():
            safe_files.get_value(of, key, f"{where}: {name}", kind=kind)


def _read_history(path: pathlib.Path) -> dict[str, list[float | None]]:
    rows = [row for _, row in safe_files.read_table(path, ["epoch"])] if path.exists() else []
    columns = [name for name in (rows[0] if rows else ()) if name]
    return {name: [_number(row.get(name)) for row in rows] for name in columns}


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return float(f"{value:.5g}") if math.isfinite(value) else None


def check_comparable(results: Sequence[Results]) -> None:
    """Raises UserError unless all runs were judged on the same actions of the same recordings."""
    first = results[0].evaluated
    for other in results[1:]:
        where = f"--workdir: {results[0].name} and {other.name} cannot be compared: "
        for key in ("protocol", "tiou_thresholds"):
            if other.metrics.get(key) != results[0].metrics.get(key):
                raise UserError(f"{where}they were evaluated with another --{key}")
        if other.evaluated.class_names != first.class_names:
            raise UserError(f"{where}their classes differ")
        if set(other.evaluated.names) != set(first.names):
            raise UserError(f"{where}they were evaluated on different recordings")
        if _actions(other.evaluated) != _actions(first):
            raise UserError(f"{where}the annotations of their recordings differ")


def _actions(evaluated: Evaluated) -> list[tuple]:
    truth = evaluated.ground_truth
    rows = zip(truth.videos.tolist(), truth.segments.round(3).tolist(), truth.labels.tolist(), strict=True)
    return sorted((video, *segment, label) for video, segment, label in rows)


def report_data(results: Sequence[Results], *, min_score: float, media: Mapping[str, str]) -> dict[str, Any]:
    """Everything that the page shows.

    Args:
        results: of one or more runs, see ``check_comparable``.
        min_score: where the slider stands at first.
        media: {recording: address of its video or sound}.
    """
    first = results[0].evaluated
    threshold = main_threshold(results[0].metrics["tiou_thresholds"])
    level = results[0].metrics["tiou_thresholds"].index(threshold)
    runs, tracks = [], []
    for number, result in enumerate(results):
        outcomes = _judge(result)
        runs.append(_describe(result, outcomes, level))
        for branch, found in outcomes.items():
            track = _track(result.evaluated, branch, found, level, first.names)
            tracks.append({"run": number, "branch": branch, **track})
    return {
        "classNames": first.class_names,
        "tiou": threshold,
        "minScore": min_score,
        "types": list(error_analysis.TYPES),
        "runs": runs,
        "recordings": _recordings(first, media),
        "tracks": tracks,
    }


def main_threshold(thresholds: Sequence[float]) -> float:
    """The one at which the page says what is right and what is wrong: 0.5, or the one in the middle."""
    near = [t for t in thresholds if abs(t - 0.5) < 1e-9]
    return near[0] if near else sorted(thresholds)[len(thresholds) // 2]


def _judge(result: Results) -> dict[str, error_analysis.Outcomes]:
    thresholds, evaluated = result.metrics["tiou_thresholds"], result.evaluated
    return {
        branch: error_analysis.judge(evaluated.ground_truth, table, thresholds)
        for branch, table in evaluated.detections.items()
    }


def _describe(result: Results, outcomes: Mapping[str, error_analysis.Outcomes], level: int) -> dict[str, Any]:
    """A run: what it was, its metrics and its curves; those for one threshold are for that at place ``level``."""
    metrics, truth = result.metrics, result.evaluated.ground_truth
    branches = {}
    for branch, found in outcomes.items():
        scores = result.evaluated.detections[branch].scores[found.rows]
        branches[branch] = {
            **metrics["branches"][branch],
            "curves": [curves.precision_curve(hits, len(truth.labels)) for hits in found.matched >= 0],
            "reliability": curves.reliability(scores, found.matched[level] >= 0),
        }
    last = list(outcomes)[-1]
    keep = ("protocol", "tiou_thresholds", "dataset", "split", "checkpoint", "seed", "versions", "num_videos")
    return {
        "name": result.name,
        **{name: metrics.get(name) for name in (*keep, "num_ground_truths")},
        "settings": _changed_settings(metrics.get("settings", {})),
        "commit": result.about.get("commit"),
        "precision": result.about.get("precision"),
        "trainingSeconds": sum(seconds or 0 for seconds in result.history.get("seconds", ())) or None,
        "history": result.history,
        "branches": branches,
        "classCurves": _class_curves(result.evaluated, last, outcomes[last], level),
    }


def _class_curves(
    evaluated: Evaluated, branch: str, found: error_analysis.Outcomes, level: int
) -> dict[str, list[float]]:
    labels, counts = evaluated.detections[branch].labels[found.rows], np.bincount(evaluated.ground_truth.labels)
    return {
        evaluated.class_names[label]: curves.precision_curve(found.matched[level, labels == label] >= 0, int(count))
        for label, count in enumerate(counts)
        if count
    }


def _changed_settings(used: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not at their default."""
    defaults = settings.to_dict(Config())
    return {name: value for name, value in used.items() if name in defaults and defaults[name] != value}


def _recordings(evaluated: Evaluated, media: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every recording with its actions."""
    truth, recordings = evaluated.ground_truth, []
    for (name, rows), duration in zip(_rows_by_start(evaluated).items(), evaluated.durations.tolist(), strict=True):
        actions = zip(truth.segments[rows].round(3).tolist(), truth.labels[rows].tolist(), strict=True)
        recordings.append(
            {
                "name": name,
                "seconds": round(duration, 3),
                "media": media.get(name),
                "actions": [[*segment, label] for segment, label in actions],
            }
        )
    return recordings


def _rows_by_start(evaluated: Evaluated) -> dict[str, np.ndarray]:
    """The rows of the ground truth of each recording, in the order in which the page has the actions."""
    truth = evaluated.ground_truth
    in_order = np.lexsort((truth.labels, *truth.segments.T[::-1]))
    return {name: in_order[rows] for name, rows in _rows_of(truth.videos[in_order], evaluated.names).items()}


def _rows_of(videos: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    [numbers, known] = number_videos(videos, np.array(names, str))
    rows = group_rows(numbers)
    return {name: rows.get(number, np.zeros(0, np.int64)) for name, number in zip(names, known.tolist(), strict=True)}


def _track(
    evaluated: Evaluated, branch: str, found: error_analysis.Outcomes, level: int, names: Sequence[str]
) -> dict[str, Any]:
    """The detections of one branch of one run, those of a recording by descending score."""
    ranked, actions = evaluated.detections[branch].select(found.rows), _rows_by_start(evaluated)
    kept, left_out = [], []
    for name, rows in _rows_of(ranked.videos, names).items():
        most = _MOST[0] + _MOST[1] * len(actions[name])
        kept.append(rows[:most])
        left_out.append(max(len(rows) - most, 0))
    rows = np.concatenate(kept)
    nearest = np.where(found.matched[level] >= 0, found.matched[level], found.nearest)[rows]
    tious = _tious(ranked.segments[rows], evaluated.ground_truth.segments[nearest]) * (nearest >= 0)
    return {
        "counts": [len(part) for part in kept],
        "leftOut": left_out,
        "starts": _packed(ranked.segments[rows, 0], "<f4"),
        "ends": _packed(ranked.segments[rows, 1], "<f4"),
        "scores": _packed(np.rint(np.clip(ranked.scores[rows], 0, 1) * 10000), "<u2"),
        "labels": _packed(ranked.labels[rows], "<u2"),
        "tious": _packed(np.rint(tious * 10000), "<u2"),
        "nearest": _packed(_places(actions, len(evaluated.ground_truth.labels))[nearest], "<u2"),
        "outcomes": _packed(found.types[level, rows], "u1"),
    }


def _tious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """f64[N] of f64[N, 2] and f64[N, 2], row by row."""
    shared = np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0])
    covered = np.maximum(a[:, 1], b[:, 1]) - np.minimum(a[:, 0], b[:, 0])
    return np.clip(shared / np.where(covered > 0, covered, 1), 0, 1)


def _places(actions: Mapping[str, np.ndarray], num_actions: int) -> np.ndarray:
    """i64[M + 1]: the place of each action among those of its recording; the last, which -1 finds, is none's."""
    places = np.full(num_actions + 1, _NONE)
    for rows in actions.values():
        places[rows] = np.minimum(np.arange(len(rows)), _NONE)
    return places


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()

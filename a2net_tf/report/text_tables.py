"""Metrics as plain-text tables."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from a2net_tf.errors import UserError
from a2net_tf.evaluation.error_analysis import TOP, TYPES
from a2net_tf.evaluation.proposals import AVERAGE_NUMBERS, TOP_PROPOSALS


def format_proposals(metrics_by_branch: dict[str, dict]) -> str:
    """A plain-text table in percent, one row per branch; ``-`` where there are fewer proposals than that per video.

    Args:
        metrics_by_branch: name of the row -> what ``average_recall`` returned, all with the same thresholds.
    """
    first = next(iter(metrics_by_branch.values()))
    thresholds = first["tiou_thresholds"]
    header = [
        "recall (%)",
        f"top {TOP_PROPOSALS} at tIoU {thresholds[0]:g}",
        *[f"AR@{n}" for n in AVERAGE_NUMBERS],
        "area under AR-AN",
        "per video",
    ]
    rows = []
    for name, metrics in metrics_by_branch.items():
        recalls = [metrics[f"recall_of_top_{TOP_PROPOSALS}"][0], *(metrics["AR@"].get(str(n)) for n in AVERAGE_NUMBERS)]
        rows.append(
            [name, *_percents([*recalls, metrics["area_under_curve"]]), f"{metrics['proposals_per_video']:.1f}"]
        )
    span = f"{thresholds[0]:g} to {thresholds[-1]:g}"
    counts = f"{first['num_videos']} videos, {first['num_ground_truths']} ground truths"
    return f"protocol proposals (tIoU >= threshold, AR over {span}, no classes), {counts}\n{align([header, *rows])}"


def format_table(
    metrics_by_branch: dict[str, dict], columns: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> str:
    """A plain-text table of mAP in percent, one row per branch; the first line names the protocol.

    Args:
        metrics_by_branch: name of the row -> what ``evaluate`` returned, all with the same protocol and thresholds.
        columns: further columns: header -> one cell per row.

    Raises:
        UserError: no rows, or rows of different protocols or thresholds.
    """
    settings = {(m["protocol"], tuple(m["tiou_thresholds"])) for m in metrics_by_branch.values()}
    if len(settings) != 1:
        raise UserError(f"one table needs one protocol and one list of tIoU thresholds, got {len(settings)}")
    first = next(iter(metrics_by_branch.values()))
    rows = [
        [
            name,
            *_percents([*m["mAP"], m["average_mAP"], m["average_mAP_normalized"]]),
            *(cells[i] for cells in columns.values()),
        ]
        for i, (name, m) in enumerate(metrics_by_branch.items())
    ]
    header = ["mAP (%) at tIoU", *_numbers(first["tiou_thresholds"]), "average", "normalized average", *columns]
    counts = f"{first['num_videos']} videos, {first['num_ground_truths']} ground truths"
    return f"{_title(first)}, {counts}\n{align([header, *rows])}"


def format_classes(metrics: dict) -> str:
    """A plain-text table of AP in percent, one row per class; ``-`` for a class without ground truth."""
    header = ["AP (%) at tIoU", *_numbers(metrics["tiou_thresholds"]), "average", "ground truths", "detections"]
    rows = []
    for name, entry in metrics["per_class"].items():
        precisions = entry["AP"] or [None] * len(metrics["tiou_thresholds"])
        average = sum(entry["AP"]) / len(entry["AP"]) if entry["AP"] else None
        counts = [str(entry["num_ground_truths"]), str(entry["num_detections"])]
        rows.append([name, *_percents([*precisions, average]), *counts])
    return f"{_title(metrics)}\n{align([header, *rows])}"


def format_durations(metrics_by_branch: dict[str, dict]) -> str:
    """A plain-text table in percent, one row per branch, one column per range of durations; ``-`` for an empty one.

    mAP at tIoU 0.5, as in Table I, or the average mAP where 0.5 is not among the thresholds.
    """
    first = next(iter(metrics_by_branch.values()))
    index = next((i for i, t in enumerate(first["tiou_thresholds"]) if abs(t - 0.5) < 1e-9), None)
    what = "average mAP" if index is None else "mAP at tIoU 0.5"
    ranges = [(entry["from_seconds"], entry["to_seconds"]) for entry in first["by_duration"]]
    header = [f"{what} (%)", *(f"{a:g} s or longer" if b is None else f"{a:g} to {b:g} s" for a, b in ranges)]
    rows = [["ground truths", *(str(entry["num_ground_truths"]) for entry in first["by_duration"])]]
    for name, metrics in metrics_by_branch.items():
        entries = metrics["by_duration"]
        rows.append([name, *_percents([e["average_mAP"] if index is None else e["mAP"][index] for e in entries])])
    return f"{_title(first)}, by duration of the action\n{align([header, *rows])}"


def format_segmentation(metrics_by_branch: dict[str, dict]) -> str:
    """A plain-text table of F1@k, edit score and accuracy in percent, one row per branch."""
    first = next(iter(metrics_by_branch.values()))
    header = ["segmentation", *(f"F1@{k}" for k in first["f1"]), "edit", "accuracy"]
    rows = [
        [name, *(f"{value:.1f}" for value in (*m["f1"].values(), m["edit"], m["accuracy"]))]
        for name, m in metrics_by_branch.items()
    ]
    counts = f"{first['num_recordings']} recordings, {first['num_steps']} steps"
    return f"protocol segmentation (background left out of F1 and edit), {counts}\n{align([header, *rows])}"


def format_errors(metrics_by_branch: dict[str, dict]) -> str:
    """A plain-text table in percent, two rows per branch: shares of the types of errors, and what each costs.

    Args:
        metrics_by_branch: name of the row -> metrics with the key ``errors``, see ``error_analysis.analyze``.
    """
    header = ["errors (%)", *(name.replace("_", " ") for name in TYPES), "missed actions"]
    rows, thresholds = [], []
    for name, metrics in metrics_by_branch.items():
        if errors := metrics["errors"]:
            thresholds = errors["tiou_thresholds"]
            by_type = [errors["false_positives"][kind] for kind in TYPES]
            shares = _percents([*(kind["share"] for kind in by_type), errors["missed"]])
            gains = [f"+{100 * kind['gain']:.1f}" if "gain" in kind else "" for kind in by_type]
            rows += [[f"{name}: share", *shares], [f"{name}: mAP without", *gains, ""]]
    if not rows:
        return "no error analysis: no action has a length"
    span = f"{thresholds[0]:g} to {thresholds[-1]:g}" if len(thresholds) > 1 else f"{thresholds[0]:g}"
    title = f"errors of the {TOP} G best detections of each class, G being its actions (DETAD, tIoU {span})"
    return f"{title}\n{align([header, *rows])}"


def _title(metrics: dict) -> str:
    rule = {"thumos14": "tIoU > threshold, AP not interpolated", "activitynet": "tIoU >= threshold, AP interpolated"}
    return f"protocol {metrics['protocol']} ({rule[metrics['protocol']]})"


def _percents(fractions: Sequence[float | None]) -> list[str]:
    return ["-" if f is None else f"{100 * f:.1f}" for f in fractions]


def _numbers(values: Sequence[float]) -> list[str]:
    return [f"{v:g}" for v in values]


def align(rows: list[list[str]]) -> str:
    """Columns as wide as their longest cell: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for name, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)

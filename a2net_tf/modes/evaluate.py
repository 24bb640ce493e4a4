"""``--mode=evaluate``: from a trained run to metrics, detections and time lines of a split."""

import importlib.util
import pathlib

import numpy as np

from a2net_tf import locks, safe_files, settings
from a2net_tf.detection import precision
from a2net_tf.errors import UserError
from a2net_tf.evaluation import evaluated_file, results_files
from a2net_tf.evaluation.evaluated_file import Evaluated
from a2net_tf.evaluation.instances import Detections
from a2net_tf.inference.localization import SequenceDetections
from a2net_tf.inference.scoring import (
    errors_by_branch,
    ground_truth_of,
    localize_split,
    metrics_by_branch,
    recall_of_first_stage,
)
from a2net_tf.inference.trained import load_trained
from a2net_tf.report import media, plots, report_data, report_page, text_tables
from a2net_tf.safe_files import file_names
from a2net_tf.settings import Config
from a2net_tf.training import run_directory
from a2net_tf.training.run_directory import Run

OUTPUTS = ("metrics.json", "detections.json", "timelines/a.png")
_NUM_TIMELINES = 3


def evaluate(config: Config, given: frozenset[str]) -> dict:
    """Scores ``config.eval_split`` with the model in ``config.workdir``; prints tables and writes the results there.

    Args:
        config: settings of this command.
        given: names of those that win over the trained run's.

    Returns:
        What metrics.json holds.
    """
    settings.require(config, "workdir")
    if "," in config.workdir:
        settings.require(config, "output")
    # A run that cannot be written to, somebody else's, can be evaluated with --output.
    folder = (config.mode == "evaluate" and config.output) or config.workdir
    for name in OUTPUTS:
        safe_files.check_writable(pathlib.Path(folder, name))
    if config.report:
        _check_report(config, pathlib.Path(folder))
    current, localizer = load_trained(config, given)
    precision.announce(current.config.precision, current.computed.precision)
    dataset, sequences = localize_split(current, localizer)
    errors = errors_by_branch(sequences, current)
    by_branch = {
        name: {**metrics, "errors": errors[name]} for name, metrics in metrics_by_branch(sequences, current).items()
    }
    first_stage = recall_of_first_stage(current, localizer)
    with locks.hold(pathlib.Path(folder, ".results.lock"), f"{folder} (results)", wait=True):  # all of one command
        metrics = _write_evaluation(sequences, by_branch, current, dataset, pathlib.Path(folder), first_stage)
        report = _write_report(sequences, current, config, pathlib.Path(folder)) if config.report else None
    print(text_tables.format_table(by_branch))
    print(text_tables.format_classes(by_branch[localizer.branches[-1]]))
    print(text_tables.format_durations(by_branch))
    if current.config.protocol == "segmentation":
        print(text_tables.format_segmentation({name: metrics["segmentation"] for name, metrics in by_branch.items()}))
    print(text_tables.format_proposals({branch: metrics["proposals"] for branch, metrics in by_branch.items()}))
    if first_stage:
        print(f"first stage: {text_tables.format_proposals(first_stage)}")
    print(text_tables.format_errors(by_branch))
    print(f"written: {pathlib.Path(folder, 'metrics.json')} and detections.json")
    if report:
        print(f"written: {report}; open it in a browser")
    return metrics


def _check_report(config: Config, folder: pathlib.Path) -> None:
    """What would be in its way is said before the work; a missing library only leaves it out."""
    report_page.check_possible(folder)
    safe_files.check_writable(folder / evaluated_file.FILE)
    if config.videos and not pathlib.Path(config.videos).exists():
        raise UserError(f"--videos={config.videos}: no such file or folder")
    if not report_page.is_possible():
        print(f"no report will be written: {report_page.MISSING}")


def _write_evaluation(
    sequences: list[SequenceDetections],
    by_branch: dict[str, dict],
    current: Run,
    dataset: str,
    folder: pathlib.Path,
    first_stage: dict[str, dict],
) -> dict:
    config = current.computed
    merged = by_branch[list(by_branch)[-1]]
    origin = {
        "dataset": dataset,
        "split": config.eval_split,
        "checkpoint": config.checkpoint,
        "seed": config.seed,
        "settings": settings.to_dict(config),
        "versions": run_directory.versions(),
    }
    videos = [f.video for f in sequences]
    detections = Detections.concatenate([f.merged for f in sequences])
    results_files.write_activitynet(folder / "detections.json", detections, current.class_names, videos=videos)
    stages = {"first_stage": first_stage} if first_stage else {}
    metrics = {**merged, "branches": by_branch, **stages, **origin}
    safe_files.write_json(folder / "metrics.json", metrics, keep_earlier=True)
    if config.plots:
        _plot_timelines(sequences[:_NUM_TIMELINES], current, folder / "timelines")
    return metrics


def _write_report(
    sequences: list[SequenceDetections], current: Run, config: Config, folder: pathlib.Path
) -> pathlib.Path | None:
    """Writes recordings.npz, and the report if its library is there."""
    names = [item.video for item in sequences]
    found = {
        branch: Detections.concatenate([item.detections[branch] for item in sequences])
        for branch in sequences[0].detections
    }
    durations = np.array([item.duration_seconds for item in sequences])
    evaluated = Evaluated(names, durations, current.class_names, ground_truth_of(sequences), found)
    evaluated_file.write_evaluated(folder / evaluated_file.FILE, evaluated)
    if not report_page.is_possible():
        return None
    workdirs = [pathlib.Path(workdir) for workdir in config.workdir.split(",")]
    name = " + ".join(workdir.absolute().name for workdir in workdirs)
    results = report_data.read_results(folder, run_folder=workdirs[0], name=name)
    try:
        files = media.find_media(config.videos, names)
    except UserError as error:  # not a reason to lose the report
        print(f"the report plays no videos: {error}")
        files = {}
    return report_page.write_report(folder, [results], min_score=config.subtitle_score, files=files)


def _plot_timelines(sequences: list[SequenceDetections], current: Run, folder: pathlib.Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        print('no time lines drawn: matplotlib is missing (pip install ".[plots]" in the checkout, or --noplots)')
        return
    for item, name in zip(sequences, file_names([item.video for item in sequences]), strict=True):
        actions = zip(item.record["segments"], item.record["labels"], strict=True)
        tracks = {"ground truth": [(float(s), float(e), int(label), None) for (s, e), label in actions]}
        for branch, table in item.detections.items():
            rows = zip(table.segments, table.labels, table.scores, strict=True)
            best = [(s, e, int(label), float(score)) for (s, e), label, score in rows]
            tracks[branch] = [row for row in best if row[3] >= current.config.subtitle_score]
        plots.plot_timeline(
            folder / f"{name}.png", item.video, tracks, current.class_names, duration_seconds=item.duration_seconds
        )

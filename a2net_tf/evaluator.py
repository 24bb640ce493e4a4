"""``--mode=evaluate``: from a trained run to metrics, detections and time lines of a split."""

import dataclasses
import importlib.util
import pathlib
import re
from typing import Any

import keras
import numpy as np
import tensorflow_datasets as tfds

from a2net_tf import config as settings
from a2net_tf import evaluation, inference, plots, results, run_directory
from a2net_tf import records as schema
from a2net_tf.config import Config
from a2net_tf.errors import UserError
from a2net_tf.evaluation import Detections, GroundTruth
from a2net_tf.inference import Found
from a2net_tf.localizer import Localizer
from a2net_tf.run_directory import Run

_NUM_TIMELINES = 3


def evaluate(config: Config, given: frozenset[str]) -> None:
    """Scores ``config.eval_split`` with the model in ``config.workdir``; prints tables and writes the results there.

    Args:
        config: settings of this command.
        given: names of those that win over the trained run's.
    """
    settings.require(config, "workdir")
    folder = config.workdir
    if "," in config.workdir:
        settings.require(config, "output")
        folder = config.output
    results.check_writable(pathlib.Path(folder) / "metrics.json")
    current, localizer = load_trained(config, given)
    dataset, found = localize_split(current, localizer)
    by_branch = metrics_by_branch(found, current)
    _write_evaluation(found, by_branch, current, dataset, pathlib.Path(folder))
    print(evaluation.format_table(by_branch))
    print(evaluation.format_classes(by_branch[localizer.branches[-1]]))
    print(evaluation.format_durations(by_branch))
    print(evaluation.format_proposals({branch: metrics["proposals"] for branch, metrics in by_branch.items()}))
    print(f"written: {pathlib.Path(folder, 'metrics.json')} and detections.json")


def localize_split(current: Run, localizer: Localizer) -> tuple[str, list[Found]]:
    """The dataset's full name, and what every view of the localizer finds in ``--eval_split``."""
    config = current.config
    builder = schema.open_dataset(config.dataset, config.data_dir, config.manual_dir, config.stored_features)
    check_same_kind(builder, current)
    records = schema.read_records(builder, config.eval_split)
    views = localizer.views(config.lambda_sweep)
    found = inference.collect(inference.localize(localizer, records.as_numpy_iterator(), views))
    return builder.info.full_name, found


def load_trained(config: Config, given: frozenset[str]) -> tuple[Run, Localizer]:
    """The run in the working directory with its localizer; settings given now win where they may.

    Several working directories: the first one's settings, and the candidates of all.
    """
    first, *others = config.workdir.split(",")
    current, network = _load(first, config, given)
    loaded = [_load(workdir, config, given) for workdir in others]
    for other, _ in loaded:
        _check_mergeable(current, other)
    for other, other_network in loaded if current.config.fusion == "outputs" else []:
        _check_averageable(current, network, other, other_network)
    others = [(other_network, other.config) for other, other_network in loaded]
    localizer = Localizer(
        network,
        current.config,
        current.class_names,
        current.first_step_seconds,
        others=others,
        also_reported=current.also_reported,
    )
    return current, localizer


def _load(workdir: str, config: Config, given: frozenset[str]) -> tuple[Run, keras.Model]:
    current = run_directory.load(workdir)
    requested = dataclasses.replace(config, workdir=workdir)
    current = current._replace(config=settings.merge(current.config, requested, given))
    return current, run_directory.load_network(current)


def _check_mergeable(first: Run, other: Run) -> None:
    """Merged runs must see the same features, in windows of the same length, and know the same classes."""
    for name, a, b in (
        ("features per step", first.num_features, other.num_features),
        ("classes", first.class_names, other.class_names),
        ("--window_steps", first.config.window_steps, other.config.window_steps),
        ("--inference_window_steps", first.config.inference_steps, other.config.inference_steps),
    ):
        if a != b:
            raise UserError(
                f"--workdir: {first.config.workdir} and {other.config.workdir} differ in {name}: {a} and {b}"
            )


def _check_averageable(first: Run, network: keras.Model, other: Run, other_network: keras.Model) -> None:
    """Averaged outputs must mean the same: the same cells and anchors, decoded in the same way."""
    pairs = {
        "outputs": [{name: tuple(out.shape) for name, out in n.output.items()} for n in (network, other_network)],
        **{
            f"--{name}": [getattr(run.config, name) for run in (first, other)]
            for name in ("anchor_ratios", "center_scale", "width_scale")
        },
    }
    for name, (a, b) in pairs.items():
        if a != b:
            raise UserError(
                f"--fusion=outputs: {first.config.workdir} and {other.config.workdir} differ in {name}: {a} and {b}; "
                "their outputs cannot be averaged (--fusion=candidates merges what they find)"
            )


def check_same_kind(builder: tfds.core.DatasetBuilder, current: Run) -> None:
    """A model only fits data with its feature size and its classes."""
    found = schema.num_features(builder)
    if found != current.num_features:
        raise UserError(
            f"{builder.info.full_name} has {found} values per step but the model in {current.config.workdir} takes "
            f"{current.num_features}"
        )
    names = schema.class_names(builder)
    if names != current.class_names:
        raise UserError(
            f"{builder.info.full_name} has the classes {', '.join(names)}, but the model in {current.config.workdir} "
            f"was trained on {', '.join(current.class_names)}"
        )


def _ground_truth(found: list[Found]) -> GroundTruth:
    def column(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.concatenate([np.reshape(f.record[name], shape) for f in found])

    def videos(name: str) -> np.ndarray:
        return np.concatenate([np.full(len(f.record[name]), f.video) for f in found])

    return GroundTruth(
        videos=videos("segments"),
        segments=column("segments", (-1, 2)).astype(np.float64),
        labels=column("labels", (-1,)).astype(np.int64),
        ambiguous_videos=videos("ambiguous_segments"),
        ambiguous_segments=column("ambiguous_segments", (-1, 2)).astype(np.float64),
    )


def metrics_by_branch(found: list[Found], current: Run) -> dict[str, dict[str, Any]]:
    """Metrics by branch; ``proposals`` is the recall of its detections, whatever their class (Section IV-C)."""
    truth, config = _ground_truth(found), current.config
    by_branch = {}
    for branch in found[0].detections:
        detections = Detections.concatenate([f.detections[branch] for f in found])
        metrics = evaluation.evaluate(
            truth,
            detections,
            protocol=config.protocol,
            tiou_thresholds=config.tiou_thresholds,
            class_names=current.class_names,
            duration_edges=config.duration_edges,
        )
        by_branch[branch] = {**metrics, "proposals": evaluation.average_recall(truth, detections)}
    return by_branch


def _write_evaluation(
    found: list[Found], by_branch: dict[str, dict], current: Run, dataset: str, folder: pathlib.Path
) -> None:
    config = current.config
    merged = by_branch[list(by_branch)[-1]]
    origin = {
        "dataset": dataset,
        "split": config.eval_split,
        "checkpoint": config.checkpoint,
        "seed": config.seed,
        "settings": settings.to_dict(config),
        "versions": run_directory.versions(),
    }
    results.keep_previous(folder / "metrics.json", folder / "detections.json")
    videos = [f.video for f in found]
    detections = Detections.concatenate([f.merged for f in found])
    results.write_activitynet(folder / "detections.json", detections, current.class_names, videos=videos)
    results.write_json(folder / "metrics.json", {**merged, "branches": by_branch, **origin})
    if config.plots:
        _plot_timelines(found[:_NUM_TIMELINES], current, folder / "timelines")


def _plot_timelines(found: list[Found], current: Run, folder: pathlib.Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        print('no time lines drawn: matplotlib is missing (pip install "a2net-tf[plots]", or --noplots)')
        return
    for item in found:
        actions = zip(item.record["segments"], item.record["labels"], strict=True)
        tracks = {"ground truth": [(float(s), float(e), int(label), None) for (s, e), label in actions]}
        for branch, table in item.detections.items():
            rows = zip(table.segments, table.labels, table.scores, strict=True)
            best = [(s, e, int(label), float(score)) for (s, e), label, score in rows]
            tracks[branch] = [row for row in best if row[3] >= current.config.subtitle_score]
        path = folder / f"{file_name(item.video)}.png"
        plots.plot_timeline(path, item.video, tracks, current.class_names, duration_seconds=item.duration_seconds)


def file_name(video: str) -> str:
    """A sequence's name without what file systems dislike."""
    return re.sub(r"[^\w.-]", "_", video)

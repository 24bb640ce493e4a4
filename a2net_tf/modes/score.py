"""``--mode=score``: judges a file of detections without a model."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

from absl import logging

from a2net_tf import safe_files, settings
from a2net_tf.annotations.read import read_annotations
from a2net_tf.annotations.reading import find_reading
from a2net_tf.data.files.annotation_files import Entry
from a2net_tf.errors import UserError, list_some
from a2net_tf.evaluation import error_analysis, ground_truth_files, proposals, protocols, results_files, segmentation
from a2net_tf.evaluation.instances import Detections, GroundTruth
from a2net_tf.evaluation.video_names import match_names
from a2net_tf.report import text_tables
from a2net_tf.settings import Config


def score(config: Config, given: frozenset[str]) -> dict:
    """Judges ``config.detections`` against ``config.ground_truth``; prints tables, writes and returns the metrics.

    Args:
        config: settings of this command.
        given: names of those that the user gave.
    """
    settings.require(config, "detections", "ground_truth")
    if config.metrics:
        safe_files.check_writable(config.metrics)
    if config.protocol == "segmentation":
        return _score_segmentation(config)
    thresholds = config.tiou_thresholds
    if config.protocol == "proposals" and "tiou_thresholds" not in given:
        thresholds = proposals.PROPOSAL_THRESHOLDS  # the default of the setting is that of mAP
    metrics = score_file(
        config.detections,
        config.ground_truth,
        protocol=config.protocol,
        subset=config.subset or None,
        tiou_thresholds=thresholds,
        duration_edges=config.duration_edges or None,
    )
    name = pathlib.Path(config.detections).name
    if config.protocol == "proposals":
        print(text_tables.format_proposals({name: metrics}))
    else:
        print(text_tables.format_table({name: metrics}))
        print(text_tables.format_classes(metrics))
        print(text_tables.format_durations({name: metrics}))
        print(text_tables.format_errors({name: metrics}))
    safe_files.write_metrics(config.metrics, metrics)
    return metrics


def _score_segmentation(config: Config) -> dict:
    """Judges a labelling of all steps by F1@k, edit score and accuracy."""
    where = config.detections
    truth = ground_truth_files.read_step_labels(config.ground_truth, config.subset, config.label_rate)
    detections = results_files.read_activitynet_detections(where, truth.class_names)
    matched = match_names(list(dict.fromkeys(detections.videos.tolist())), set(truth.labels), where)
    _tell_of_unknown(detections, matched, where, config.ground_truth)
    detections = dataclasses.replace(detections, videos=[matched.get(v, v) for v in detections.videos.tolist()])
    background = len(truth.class_names)
    predicted = segmentation.from_detections(
        detections,
        {name: len(labels) for name, labels in truth.labels.items()},
        rate=truth.rate,
        background=background,
        min_score=config.segmentation_score,
    )
    metrics = {"protocol": "segmentation", **segmentation.evaluate(predicted, truth.labels, background=background)}
    print(text_tables.format_segmentation({pathlib.Path(where).name: metrics}))
    safe_files.write_metrics(config.metrics, metrics)
    return metrics


def score_file(
    detections_path: str | pathlib.Path,
    ground_truth_path: str | pathlib.Path,
    *,
    protocol: str,
    tiou_thresholds: Sequence[float],
    subset: str | None = None,
    duration_edges: Sequence[float] | None = (),
) -> dict:
    """Scores a file of detections against annotations, both in the formats of one challenge.

    Args:
        detections_path: THUMOS14 text, or ActivityNet JSON or another kind that ``annotations`` reads.
        ground_truth_path: THUMOS14 folder, or ActivityNet JSON or another source that ``annotations`` reads.
        protocol: "thumos14" or "activitynet", which say the formats too; or "proposals": THUMOS14's formats if the
            ground truth is a folder, else ActivityNet's, where proposals need no label.
        tiou_thresholds: see ``protocols.evaluate`` and ``proposals.average_recall``.
        subset: "test" by default for THUMOS14's formats, "validation" for others; all where the source names none.
        duration_edges: see ``protocols.evaluate``.

    Returns:
        what ``protocols.evaluate`` returns, with ``errors`` as ``error_analysis.analyze`` has them, or
        ``proposals.average_recall`` for proposals.

    Raises:
        UserError: a bad file, or what they refuse. A label that the annotations have nowhere is refused; one
            that only other subsets have is left out, with a warning.
    """
    class_agnostic, durations = protocol == "proposals", {}
    if protocol == "thumos14" or (class_agnostic and pathlib.Path(ground_truth_path).is_dir()):
        ground_truth, class_names, class_ids = ground_truth_files.read_thumos14_ground_truth(
            ground_truth_path, subset or "test"
        )
        detections = results_files.read_thumos14_detections(detections_path, class_ids)
    elif protocol == "activitynet" or class_agnostic:
        entries = read_annotations(ground_truth_path, find_reading(ground_truth_path))
        names_none = bool(entries) and not any(entry.subset for entry in entries)
        subset = subset or ("" if names_none else "validation")
        ground_truth, class_names = ground_truth_files.select_subset(entries, subset, ground_truth_path)
        _tell_of_odd_actions(entries, subset, ground_truth_path)
        durations = {entry.name: entry.duration_seconds for entry in entries if entry.duration_seconds > 0}
        elsewhere = ground_truth_files.labels_of(entries) - set(class_names)
        known = None if class_agnostic else class_names
        detections = results_files.read_activitynet_detections(detections_path, known, dropped_labels=elsewhere)
    else:
        raise UserError(f"protocol: expected {', '.join(protocols.PROTOCOLS)} or proposals, got '{protocol}'")
    if len(ground_truth.videos) == 0:
        raise UserError(f"{ground_truth_path}: there is no ground truth to evaluate against; is it the right subset?")
    detections = _with_names_of(ground_truth, detections, str(detections_path), str(ground_truth_path))
    if class_agnostic:
        return proposals.average_recall(ground_truth, detections, tiou_thresholds=tiou_thresholds)
    metrics = protocols.evaluate(
        ground_truth,
        detections,
        protocol=protocol,
        tiou_thresholds=tiou_thresholds,
        class_names=class_names,
        duration_edges=duration_edges,
    )
    errors = error_analysis.analyze(
        ground_truth,
        detections,
        tiou_thresholds=tiou_thresholds,
        num_classes=len(class_names),
        durations=durations,
        protocol=protocol,
    )
    return {**metrics, "errors": errors}


def _tell_of_odd_actions(entries: Sequence[Entry], subset: str, where: str | pathlib.Path) -> None:
    """Counts what a prepared dataset drops or clips, so that ``evaluate`` may print other numbers."""
    rows = [
        (action, entry.duration_seconds or math.inf)
        for entry in entries
        if entry.subset == subset
        for action in entry.actions
    ]
    empty = sum(action.start_seconds == action.end_seconds for action, _ in rows)
    beyond = sum(action.start_seconds < 0 or action.end_seconds > duration for action, duration in rows)
    if empty or beyond:
        print(
            f"{where}: actions of no length, which count as missed: {empty}; beyond their recording, judged as they "
            f"are: {beyond}, as in the challenge's own code; a prepared dataset drops and clips them, so evaluate may "
            "differ"
        )


def _with_names_of(ground_truth: GroundTruth, detections: Detections, where: str, truth_where: str) -> Detections:
    """The detections, with videos called as the ground truth calls them; says which of them it does not have."""
    annotated = {*ground_truth.videos.tolist(), *ground_truth.ambiguous_videos.tolist()}
    matched = match_names(list(dict.fromkeys(detections.videos.tolist())), annotated, where)
    _tell_of_unknown(detections, matched, where, truth_where)
    videos = [matched.get(video, video) for video in detections.videos.tolist()]
    return dataclasses.replace(detections, videos=videos)


def _tell_of_unknown(detections: Detections, matched: Mapping[str, str], where: str, truth_where: str) -> None:
    names = list(dict.fromkeys(detections.videos.tolist()))
    unknown = [name for name in names if name not in matched]
    if names and not matched:
        logging.warning("%s: no video of it has ground truth in %s", where, truth_where)
    elif unknown:
        logging.warning(
            "%s: %d of %d videos have no ground truth in %s, so all their detections count as wrong: %s",
            *(where, len(unknown), len(names), truth_where, list_some(unknown)),
        )

"""Scores what a localizer finds in a split of a dataset."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from a2net_tf.data import prepared
from a2net_tf.detection.localizer import Localizer
from a2net_tf.detection.proposals import first_stage
from a2net_tf.evaluation import error_analysis, proposals, protocols, segmentation
from a2net_tf.evaluation.instances import Detections, GroundTruth
from a2net_tf.inference import localization
from a2net_tf.inference.localization import SequenceDetections
from a2net_tf.inference.trained import check_same_kind
from a2net_tf.settings import Config
from a2net_tf.training.run_directory import Run


def localize_split(current: Run, localizer: Localizer) -> tuple[str, list[SequenceDetections]]:
    """The dataset's full name, and what is found by every branch that is reported in ``--eval_split``."""
    config = current.config
    builder = prepared.open_dataset_of(config)
    check_same_kind(builder, current)
    for line in prepared.describe_changes(builder, config.eval_split):
        print(line)
    records = _records(builder, config)
    branches = localizer.reported(config.lambda_sweep)
    sequences = localization.collect(localization.localize(localizer, records, branches))
    return builder.info.full_name, sequences


def _records(builder: tfds.core.DatasetBuilder, config: Config) -> Iterator[dict]:
    return prepared.read_records(builder, config.eval_split).as_numpy_iterator()


def recall_of_first_stage(current: Run, localizer: Localizer) -> dict[str, dict[str, Any]]:
    """``recall_of_proposals`` of a network with two stages; nothing of one with one."""
    return recall_of_proposals(current, localizer) if current.config.stages == 2 else {}


def recall_of_proposals(current: Run, localizer: Localizer) -> dict[str, dict[str, Any]]:
    """AR@AN in ``--eval_split`` of what the network proposes before classes matter, by branch (Table XIII).

    Of two stages that is what the first one says, of one all candidates as if they had one class. The best 1000 of each
    sequence are looked at, suppressed by ``--proposal_tiou``.
    """
    proposer = _proposer(localizer)
    found = localization.find_candidates(proposer, _records(prepared.open_dataset_of(current.config), current.config))
    branches, sequences = proposer.reported(), []
    for sequence in found:
        candidates = sequence.candidates._replace(class_ids=tf.zeros_like(sequence.candidates.class_ids))
        sequences.append(localization.detect(proposer, sequence._replace(candidates=candidates), branches))
    truth = ground_truth_of(sequences)
    proposed = {name: Detections.concatenate([f.detections[name] for f in sequences]) for name in branches}
    return {name: proposals.average_recall(truth, table) for name, table in proposed.items()}


def _proposer(localizer: Localizer) -> Localizer:
    """The same networks, of which the first stage is decoded, or the only one with the best class of each candidate."""
    pairs = [(network, _proposing(member.config)) for member in localizer.members for network in member.networks]
    (network, config), *others = pairs
    return Localizer(network, config, localizer.class_names, localizer.first_step_seconds, others=others)


def _proposing(config: Config) -> Config:
    config = first_stage(config) if config.stages == 2 else config
    return dataclasses.replace(
        config,
        step_classifier=False,
        classes_per_candidate=1,
        min_score=0.0,
        nms_tiou=config.proposal_tiou,
        soft_nms_sigma=0.0,
        voting_tiou=0.0,
        max_detections=proposals.AVERAGE_NUMBERS[-1],
    )


def ground_truth_of(sequences: list[SequenceDetections]) -> GroundTruth:
    """The annotations that come with the sequences, in their order."""

    def column(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.concatenate([np.reshape(f.record[name], shape) for f in sequences])

    def videos(name: str) -> np.ndarray:
        return np.concatenate([np.full(len(f.record[name]), f.video) for f in sequences])

    return GroundTruth(
        videos=videos("segments"),
        segments=column("segments", (-1, 2)).astype(np.float64),
        labels=column("labels", (-1,)).astype(np.int64),
        ambiguous_videos=videos("ambiguous_segments"),
        ambiguous_segments=column("ambiguous_segments", (-1, 2)).astype(np.float64),
    )


def metrics_by_branch(sequences: list[SequenceDetections], current: Run) -> dict[str, dict[str, Any]]:
    """Metrics by branch; ``proposals`` is the recall of its detections, whatever their class (Section IV-C)."""
    truth, config = ground_truth_of(sequences), current.config
    by_steps = config.protocol == "segmentation"
    by_branch = {}
    for branch in sequences[0].detections:
        detections = Detections.concatenate([f.detections[branch] for f in sequences])
        metrics = protocols.evaluate(
            truth,
            detections,
            protocol="activitynet" if by_steps else config.protocol,
            tiou_thresholds=config.tiou_thresholds,
            class_names=current.class_names,
            duration_edges=config.duration_edges or None,
        )
        by_branch[branch] = {**metrics, "proposals": proposals.average_recall(truth, detections)}
        if by_steps:
            by_branch[branch]["segmentation"] = _segmentation(sequences, branch, current)
    return by_branch


def errors_by_branch(sequences: list[SequenceDetections], current: Run) -> dict[str, dict[str, Any] | None]:
    """What ``error_analysis.analyze`` says of each branch."""
    truth, config = ground_truth_of(sequences), current.config
    return {
        branch: error_analysis.analyze(
            truth,
            Detections.concatenate([f.detections[branch] for f in sequences]),
            tiou_thresholds=config.tiou_thresholds,
            num_classes=len(current.class_names),
            durations={f.video: f.duration_seconds for f in sequences},
            protocol="thumos14" if config.protocol == "thumos14" else "activitynet",
        )
        for branch in sequences[0].detections
    }


def _segmentation(sequences: list[SequenceDetections], branch: str, current: Run) -> dict[str, Any]:
    """Measures of the labelling of all feature steps that the detections of a branch make."""
    background, predicted, true = len(current.class_names), {}, {}
    for f in sequences:
        rate = 1 / float(f.record["feature_stride_seconds"])
        grid = {"num_steps": round(f.duration_seconds * rate), "rate": rate, "background": background}
        found = f.detections[branch].select(f.detections[branch].scores >= current.config.segmentation_score)
        actions, labels = f.record["segments"], f.record["labels"]
        predicted[f.video] = segmentation.label_steps(found.segments, found.labels, found.scores, **grid)
        true[f.video] = segmentation.label_steps(actions, labels, np.ones(len(labels)), **grid)
    return segmentation.evaluate(predicted, true, background=background)

"""``--mode=cross_validate``: every recording is scored by a network that has not seen its subject.

The splits of a dataset are divided into folds. For each fold an ordinary run below --workdir trains on the splits of
all others; then each run localizes its own fold, and the detections of all folds are scored together.
"""

import csv
import dataclasses
import importlib.util
import io
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow_datasets as tfds

from a2net_tf import locks, safe_files, settings
from a2net_tf.data import input_pipeline, prepared, schema
from a2net_tf.detection import precision
from a2net_tf.errors import UserError
from a2net_tf.evaluation import results_files
from a2net_tf.evaluation.instances import Detections
from a2net_tf.inference import scoring, trained
from a2net_tf.inference.localization import SequenceDetections
from a2net_tf.modes import jobs
from a2net_tf.report import plots, text_tables
from a2net_tf.settings import Config
from a2net_tf.training import run_directory
from a2net_tf.training.run_directory import Run

_AVERAGES = ("average_mAP", "average_mAP_normalized")
_OUTPUTS = ("cross_validation.json", "cross_validation.csv", "cross_validation.png", "detections.json")


class Fold(NamedTuple):
    """What one network is trained on and what it is scored on, both in TFDS syntax."""

    name: str
    train_split: str
    eval_split: str


class Scored(NamedTuple):
    """A fold with what its network finds in it.

    Attributes:
        fold: it.
        sequences: detections of its recordings.
        by_branch: their metrics, of this fold alone.
        seconds: that its training took, or None if the run does not say.
    """

    fold: Fold
    sequences: list[SequenceDetections]
    by_branch: dict[str, dict[str, Any]]
    seconds: float | None


def cross_validate(config: Config, given: frozenset[str]) -> None:
    """Trains and scores every fold below ``config.workdir``; prints tables and writes the results there.

    Args:
        config: all settings; those of a fold's run but for its splits.
        given: names of those that the user gave.

    Raises:
        UserError: splits that cannot be divided, unusable data, or a fold's training failed. The same command goes on.
    """
    settings.require(config, "workdir", "dataset")
    for name in _OUTPUTS:
        safe_files.check_writable(pathlib.Path(config.workdir, name))
    _refuse_validation(config)
    with locks.hold(pathlib.Path(config.workdir, ".lock"), config.workdir):
        _cross_validate(config, given)


def _cross_validate(config: Config, given: frozenset[str]) -> None:
    input_pipeline.check_window_fits_chunks(config)
    builder = prepared.open_dataset_of(config)
    splits = config.fold_splits or tuple(builder.info.splits)
    folds = make_folds(splits, config.num_folds)
    _check_recordings(builder, splits)
    if replaced := [f"--{name}" for name in ("train_split", "eval_split") if name in given]:
        print(f"{' and '.join(replaced)}: replaced by those of {len(folds)} folds")
    precision.announce(config.precision, precision.resolve(config.precision))
    jobs.run_all([run_of(config, fold) for fold in folds], config.jobs)
    current, scored = _score_folds(config, folds)
    _report(current, scored, builder.info.full_name, pathlib.Path(config.workdir))


def make_folds(splits: Sequence[str], num_folds: int) -> list[Fold]:
    """Divides ``splits``: the i-th goes to fold i modulo ``num_folds``, which is the number of splits if it is 0.

    Raises:
        UserError: fewer than two folds, or more than splits.
    """
    if len(splits) < 2:
        raise UserError(
            f"--fold_splits: {splits[0]} alone leaves nothing to train on; name at least two, or cut it: "
            f"--fold_splits={splits[0]}[:50%],{splits[0]}[50%:]"
        )
    if num_folds == 1 or num_folds > len(splits):
        raise UserError(f"--num_folds={num_folds}: must be 2 to {len(splits)}, the number of splits, or 0: one each")
    count = num_folds or len(splits)
    each = safe_files.file_names(splits) if count == len(splits) else [f"{i + 1}_of_{count}" for i in range(count)]
    folds = []
    for i, name in enumerate(each):
        inside = splits[i::count]
        outside = [split for j, split in enumerate(splits) if j % count != i]
        folds.append(Fold(f"fold_{name}", "+".join(outside), "+".join(inside)))
    return folds


def run_of(config: Config, fold: Fold) -> Config:
    """Settings of a fold's run: those of an ordinary training."""
    return dataclasses.replace(
        config,
        mode="train",
        workdir=str(pathlib.Path(config.workdir, fold.name)),
        train_split=fold.train_split,
        eval_split=fold.eval_split,
        fold_splits=(),
        num_folds=0,
        jobs=1,
    )


def _refuse_validation(config: Config) -> None:
    if config.validation_split:
        raise UserError(
            f"--validation_split={config.validation_split}: its recordings are trained on in most folds; give "
            "--validation_split= for --mode=cross_validate"
        )


def _check_recordings(builder: tfds.core.DatasetBuilder, splits: Iterable[str]) -> None:
    """Refuses a recording that is in two splits, a network would be scored on what it has seen, and unusable splits."""
    split_of: dict[str, str] = {}
    for split in splits:
        num_actions, names = 0, set()
        for record in prepared.read_records(builder, split).as_numpy_iterator():
            names.add(schema.sequence_name(record))
            num_actions += len(record["labels"])
        for name in sorted(names & split_of.keys()):
            raise UserError(
                f"--fold_splits: recording {name} is in {split_of[name]} and in {split}; a network must not be scored "
                "on what it was trained on"
            )
        if not num_actions:
            raise UserError(f"--fold_splits: {split} holds no actions to score; leave it out")
        split_of.update(dict.fromkeys(names, split))


def _score_folds(config: Config, folds: Sequence[Fold]) -> tuple[Run, list[Scored]]:
    """All folds, and the last one's run, for what they have in common. Networks are in memory one at a time."""
    scored = []
    for fold in folds:
        requested = dataclasses.replace(run_of(config, fold), mode="evaluate")
        current, localizer = trained.load_trained(requested, frozenset(settings.FIELDS))
        _, sequences = scoring.localize_split(current, localizer)
        by_branch = scoring.metrics_by_branch(sequences, current)
        scored.append(Scored(fold, sequences, by_branch, run_directory.training_seconds(requested.workdir)))
        print(f"{fold.name}: {len(sequences)} recordings localized", flush=True)
        del localizer
        keras.backend.clear_session()
    return current, scored


def _report(current: Run, scored: Sequence[Scored], dataset: str, folder: pathlib.Path) -> None:
    """Prints and writes everything."""
    sequences = [item for one in scored for item in one.sequences]
    pooled = scoring.metrics_by_branch(sequences, current)
    merged = list(pooled)[-1]
    print(f"{len(scored)} folds of {dataset}, all detections scored together")
    print(text_tables.format_table(pooled))
    print(text_tables.format_classes(pooled[merged]))
    print(text_tables.format_durations(pooled))
    print(text_tables.format_proposals({branch: metrics["proposals"] for branch, metrics in pooled.items()}))
    print(format_folds(scored))
    times = [one.seconds for one in scored]
    total = None if None in times else sum(times)
    if total is not None:
        print(f"training took {total:.0f} s, summed over the folds")
    paths = [folder / name for name in _OUTPUTS]
    safe_files.write_text(paths[1], _csv(pooled, scored), keep_earlier=True)
    _plot(paths[2], pooled, scored, current, dataset)
    detections = Detections.concatenate([item.merged for item in sequences])
    results_files.write_activitynet(
        paths[3], detections, current.class_names, videos=[item.video for item in sequences]
    )
    safe_files.write_json(
        paths[0],
        {**_description(pooled, scored, current), "training_seconds": total, "dataset": dataset},
        keep_earlier=True,
    )
    print(f"written: {', '.join(str(path) for path in paths if path.exists())}")


def format_folds(scored: Sequence[Scored]) -> str:
    """A plain-text table of average mAP in percent, one row per fold, with mean and deviation over them."""
    branches = list(scored[0].by_branch)
    columns = [(branch, average) for average in _AVERAGES for branch in branches]
    header = [
        "average mAP (%)",
        "recordings",
        *branches,
        *(f"{branch}, normalized" for branch in branches),
        "training (s)",
    ]
    rows = []
    for one in scored:
        numbers = [f"{100 * one.by_branch[branch][average]:.1f}" for branch, average in columns]
        seconds = "-" if one.seconds is None else f"{one.seconds:.0f}"
        rows.append([one.fold.name, str(len(one.sequences)), *numbers, seconds])
    for name, function in (("mean of folds", statistics.fmean), ("+- folds", statistics.stdev)):
        values = [function(one.by_branch[branch][average] for one in scored) for branch, average in columns]
        rows.append([name, "", *(f"{100 * value:.1f}" for value in values), ""])
    return f"each fold by itself: mAP over the classes that occur in it\n{text_tables.align([header, *rows])}"


def over_folds(metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation (n - 1) over folds of the metrics of one branch, JSON-ready.

    Args:
        metrics: of each fold, as ``protocols.evaluate`` returns them. A class counts in the folds that have it.
    """

    def spread(values: Sequence[float]) -> dict[str, Any]:
        return {
            "mean": statistics.fmean(values) if values else None,
            "deviation": statistics.stdev(values) if len(values) > 1 else None,
            "num_folds": len(values),
        }

    precisions = {name: [m["per_class"][name]["AP"] for m in metrics] for name in metrics[0]["per_class"]}
    return {
        **{name: spread([m[name] for m in metrics]) for name in _AVERAGES},
        "mAP": [spread(column) for column in zip(*(m["mAP"] for m in metrics), strict=True)],
        "mAP_normalized": [spread(column) for column in zip(*(m["mAP_normalized"] for m in metrics), strict=True)],
        "per_class_average_AP": {
            name: spread([statistics.fmean(values) for values in of_folds if values])
            for name, of_folds in precisions.items()
        },
    }


def _description(pooled: Mapping[str, dict], scored: Sequence[Scored], current: Run) -> dict[str, Any]:
    """cross_validation.json but for what only the command knows; of folds, without the curves of proposals."""
    folds = [
        {
            **one.fold._asdict(),
            "recordings": [item.video for item in one.sequences],
            "training_seconds": one.seconds,
            "branches": {
                branch: {name: value for name, value in metrics.items() if name != "proposals"}
                for branch, metrics in one.by_branch.items()
            },
        }
        for one in scored
    ]
    config = current.computed
    return {
        **pooled[list(pooled)[-1]],
        "branches": pooled,
        "over_folds": {branch: over_folds([one.by_branch[branch] for one in scored]) for branch in pooled},
        "folds": folds,
        "checkpoint": config.checkpoint,
        "seed": config.seed,
        "settings": settings.to_dict(config),
        "versions": run_directory.versions(),
    }


def _csv(pooled: Mapping[str, dict], scored: Sequence[Scored]) -> str:
    """One line per fold and branch, and those of all folds pooled; mAP as fractions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    thresholds = next(iter(pooled.values()))["tiou_thresholds"]
    writer.writerow(["fold", "recordings", "branch", *(f"mAP@{t:g}" for t in thresholds), *_AVERAGES])
    total = sum(len(one.sequences) for one in scored)
    groups = [*((one.fold.name, len(one.sequences), one.by_branch) for one in scored), ("pooled", total, pooled)]
    for name, count, by_branch in groups:
        for branch, metrics in by_branch.items():
            writer.writerow([name, count, branch, *metrics["mAP"], *(metrics[average] for average in _AVERAGES)])
    return text.getvalue()


def _plot(path: pathlib.Path, pooled: Mapping[str, dict], scored: Sequence[Scored], current: Run, dataset: str) -> None:
    """For each branch a bar per fold, one of their mean with a dot each, and the pooled one."""
    if not (current.config.plots and importlib.util.find_spec("matplotlib")):
        return
    panels = {}
    for branch, metrics in pooled.items():
        averages = {one.fold.name: [one.by_branch[branch]["average_mAP"]] for one in scored}
        mean = {"mean of folds": [value for values in averages.values() for value in values]}
        panels[branch] = {**averages, **mean, "pooled": [metrics["average_mAP"]]}
    plots.plot_bars(path, f"{len(scored)} folds of {dataset}", panels, axis="average mAP (%)")

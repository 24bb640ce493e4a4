"""``--mode=check``: what a dataset holds, and whether the current settings can reach its actions.

One pass over the records; only some numbers per action and the sequences' names are kept.
"""

import collections
import contextlib
import io
import math
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm

from a2net_tf import safe_files, settings
from a2net_tf.data import input_pipeline, prepared, reach, schema
from a2net_tf.data.files import annotation_files
from a2net_tf.data.statistics import FeatureStatistics
from a2net_tf.detection import pyramid, targets
from a2net_tf.errors import UserError, list_some
from a2net_tf.report.check_report import ROLES, describe_number, format_report, judge
from a2net_tf.settings import Config

_STEPS_LOOKED_AT = 1024  # of each sequence, for the smoothness in time
_SMOOTHER = 0.9
_MOST_SPLITS = 6  # more are summed up where no setting says which belong together


class Group(NamedTuple):
    """What is reported together: one split in TFDS syntax."""

    name: str
    split: str
    role: str  # a key of ROLES, or "other"


def check(config: Config) -> None:
    """Prints what ``config.dataset`` holds and warns of what the settings cannot reach; writes ``config.metrics``.

    Raises:
        UserError: the dataset cannot be prepared or read, or, after the report, its features hold NaN or infinity.
    """
    settings.require(config, "dataset")
    if config.metrics:
        safe_files.check_writable(config.metrics)
    input_pipeline.check_window_fits_chunks(config)
    builder = prepared.open_dataset_of(config)
    report = make_report(builder, config)
    print(format_report(report, config))
    if config.metrics:
        safe_files.write_metrics(config.metrics, report)
    number = len(report["warnings"])
    print(f"check: {number} warning{'s' if number > 1 else ''}" if number else "check: no problem found")
    _refuse_non_finite(report)


def _refuse_non_finite(report: dict[str, Any]) -> None:
    for split in report["splits"].values():
        for name, number in split["features"]["non_finite"].items():
            raise UserError(
                f"{report['data_path']}: sequence {name}: {number} of its feature values are NaN or infinite; such "
                "records cannot be trained on, mend the features and prepare them again"
            )


def make_report(builder: tfds.core.DatasetBuilder, config: Config) -> dict[str, Any]:
    """Everything that ``check`` prints, JSON-ready. Raises UserError for damaged files."""
    groups, warnings = choose_groups(builder, config)
    totals = _read_groups(builder, groups, config)
    class_names = prepared.class_names(builder)
    report = {
        "dataset": builder.info.full_name,
        "data_path": str(builder.data_path),
        "num_features": prepared.num_features(builder),
        "class_names": class_names,
        "metadata": prepared.read_metadata(builder),
        "manual_dir": _look_into_folder(builder, config.manual_dir),
        "settings": settings.to_dict(config),
        "splits": {group.name: totals[group.name].summarize(class_names) for group in groups},
    }
    shared = _shared_sequences(totals)
    return {**report, "warnings": [*warnings, *judge(report, config), *shared]}


def _look_into_folder(builder: tfds.core.DatasetBuilder, manual_dir: str) -> list[str]:
    """What the builder says about the user's files: number, layout, what it changes, what it leaves out."""
    if not (isinstance(builder, prepared.FolderBuilder) and manual_dir and pathlib.Path(manual_dir).is_dir()):
        return []
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            builder.read_folder(pathlib.Path(manual_dir))
    except UserError:
        print(printed.getvalue(), end="")  # the message may say "above"
        raise
    counts = [annotation_files.describe_counts(of) for of in prepared.read_metadata(builder).get("counts", {}).values()]
    return [line for line in printed.getvalue().splitlines() if not any(text in line for text in counts)]


# Splits


def choose_groups(builder: tfds.core.DatasetBuilder, config: Config) -> tuple[list[Group], list[str]]:
    """The splits of the settings as far as the dataset has them, and the others together; without any, each split.

    Returns:
        The groups, and a warning for each split of the settings that is not there.
    """
    groups, warnings = [], []
    for role, setting in ROLES.items():
        split = getattr(config, setting)
        try:
            if split:
                prepared.check_split(builder, split)
                groups.append(Group(role, split, role))
        except UserError as error:
            warnings.append(f"--{setting}={split}: {error}")
    used = {name for group in groups for name in re.findall(r"\w+", group.split)}
    rest = [name for name, info in builder.info.splits.items() if name not in used and info.num_examples]
    if "all" in used:
        rest = []
    if rest and (groups or len(rest) > _MOST_SPLITS):
        groups.append(Group("other" if groups else "all splits", "+".join(rest), "other"))
    else:
        groups += [Group(name, name, "other") for name in rest]
    if not groups:
        raise UserError(f"{builder.data_path}: holds no records at all")
    return groups, warnings


def _read_groups(
    builder: tfds.core.DatasetBuilder, groups: Sequence[Group], config: Config
) -> dict[str, "GroupTotals"]:
    sizes = prepared.num_features(builder), len(prepared.class_names(builder))
    totals = {group.name: GroupTotals(group, config, *sizes) for group in groups}
    number = sum(builder.info.splits[group.split].num_examples for group in groups)
    with tqdm.tqdm(total=number, unit="sequence", leave=False, disable=None) as bar:
        for group in groups:
            for record in _read_split(builder, group.split):
                totals[group.name].add(record)
                bar.update()
    return totals


def _read_split(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[dict]:
    """The records as numpy; raises UserError naming a damaged file."""
    try:
        yield from prepared.read_records(builder, split).as_numpy_iterator()
    except tf.errors.OpError as error:
        damaged = prepared.find_damaged_file(builder, split)
        if not damaged:
            raise
        raise UserError(f"{damaged}: missing, truncated or damaged record file; prepare the dataset again") from error


def _shared_sequences(totals: dict[str, "GroupTotals"]) -> list[str]:
    """A warning if sequences are both trained and judged on."""
    training = set(totals["training"].names) if "training" in totals else set()
    messages = []
    for role in ("validation", "evaluation"):
        names = sorted(training.intersection(totals[role].names)) if role in totals else []
        if names:
            where = f"both in --train_split and in --{ROLES[role]}"
            messages.append(f"{describe_number(len(names), 'sequence')} {where}: {list_some(names)}")
    return messages


# Counting


def summarize_features(totals: FeatureStatistics, non_finite: dict[str, int]) -> dict[str, Any]:
    """JSON-ready; None where no value is finite.

    Args:
        totals: of all features.
        non_finite: how many values of which sequence are NaN or infinite.
    """
    seen = totals.count > 0
    number = max(totals.count.sum(), 1)
    mean = totals.sum.sum() / number
    return {
        "mean": float(mean),
        "deviation": math.sqrt(max(totals.sum_of_squares.sum() / number - mean**2, 0.0)),
        "min": float(totals.lowest[seen].min()) if seen.any() else None,
        "max": float(totals.highest[seen].max()) if seen.any() else None,
        "means_of_dimensions": _span(totals.mean[seen]),
        "deviations_of_dimensions": _span(np.sqrt(totals.variance[seen])),
        "zero_share": float(totals.zeros.sum() / number),
        "zero_dimensions": np.flatnonzero(seen & (totals.zeros == totals.count)).tolist(),
        "constant_dimensions": np.flatnonzero(seen & (totals.lowest == totals.highest)).tolist(),
        "non_finite": non_finite,
    }


class GroupTotals:
    """Everything about the records of one group. Training (and other) splits are cut as for training, the rest as
    for testing.
    """

    def __init__(self, group: Group, config: Config, num_features: int, num_classes: int):
        self.group, self.config = group, config
        self.features = FeatureStatistics(num_features)
        self.non_finite: collections.Counter[str] = collections.Counter()
        self.names: list[str] = []
        self.without_actions: list[str] = []
        self.beyond_cap: dict[str, list[int]] = {}
        self.step_counts: set[int] = set()
        self.change_of_steps = self.change_of_values = 0.0
        self.per_class = np.zeros(num_classes, np.int64)
        self.steps = self.seconds = self.ambiguous = self.num_windows = self.useful_windows = self.most_actions = 0
        self.strides, self.first_steps = [np.inf, -np.inf], [np.inf, -np.inf]
        self.actions: list[dict[str, np.ndarray]] = []

    def add(self, record: dict[str, Any]) -> None:
        """Adds a record; of chunks, the steps that each owns, and the rest with the first."""
        name = schema.sequence_name(record)
        self.non_finite[name] += self.features.add(record["features"][: record["chunk_owned_steps"]])
        if record["chunk_start_step"] == 0:
            self._add_sequence(name, record)

    def _add_sequence(self, name: str, record: dict[str, Any]) -> None:
        stride, first, steps = (
            record[key].item() for key in ("feature_stride_seconds", "first_step_seconds", "num_steps")
        )
        self.names.append(name)
        self.step_counts.add(steps)
        self._add_changes(record["features"])
        self.without_actions += [] if len(record["labels"]) else [name]
        if len(record["labels"]) > (most := self.config.most_detections(steps)):
            self.beyond_cap[name] = [len(record["labels"]), most]
        self.steps += steps
        self.seconds += steps * stride
        self.ambiguous += len(record["ambiguous_segments"])
        self.strides = [min(self.strides[0], stride), max(self.strides[1], stride)]
        self.first_steps = [min(self.first_steps[0], first), max(self.first_steps[1], first)]
        np.add.at(self.per_class, record["labels"], 1)
        self._add_actions(record["segments"].astype(np.float64), stride, first, num_steps=steps)

    def _add_changes(self, features: np.ndarray) -> None:
        """How much a value changes from one step to the next, and from one value of a step to the next."""
        part = features[:_STEPS_LOOKED_AT].astype(np.float64)
        if min(part.shape) > 1:
            self.change_of_steps += float(np.square(np.diff(part, axis=0)).mean())
            self.change_of_values += float(np.square(np.diff(part, axis=1)).mean())

    def _add_actions(self, seconds: np.ndarray, stride: float, first: float, *, num_steps: int) -> None:
        segments = (seconds - first) / stride
        met = reach.measure_reach(
            segments, num_steps, self.config, training=self.group.role not in ("validation", "evaluation")
        )
        self.num_windows += len(met.actions_in_windows)
        self.useful_windows += int((met.actions_in_windows > 0).sum())
        self.most_actions = max(self.most_actions, met.most_actions)
        lengths = {"seconds": seconds[:, 1] - seconds[:, 0], "steps": segments[:, 1] - segments[:, 0]}
        self.actions.append({**lengths, "overlapping": reach.find_overlapping(seconds), **met.of_actions})

    def summarize(self, class_names: Sequence[str]) -> dict[str, Any]:
        """JSON-ready."""
        if not self.actions:
            raise UserError(
                f"split '{self.group.split}' holds only later chunks of a sequence, and no beginning of one"
            )
        actions = {key: np.concatenate([of[key] for of in self.actions]) for key in self.actions[0]}
        levels = targets.assign_levels(
            tf.constant(actions["steps"] / pyramid.STEPS_PER_GRID_UNIT, tf.float32), self.config.num_levels
        ).numpy()
        return {
            "split": self.group.split,
            "role": self.group.role,
            "sequences": len(self.names),
            "sequences_without_actions": self.without_actions,
            "more_actions_than_detections": self.beyond_cap,
            "steps": self.steps,
            "steps_of_each": self.step_counts.pop() if len(self.step_counts) == 1 else None,
            "steps_are_smoother_than_values": self.change_of_steps < _SMOOTHER * self.change_of_values,
            "hours": self.seconds / 3600,
            "stride_seconds": self.strides,
            "first_step_seconds": self.first_steps,
            "features": summarize_features(self.features, dict(+self.non_finite)),
            "actions": len(actions["steps"]),
            "overlapping_actions": int(actions["overlapping"].sum()),
            "ambiguous_segments": self.ambiguous,
            "per_class": dict(zip(class_names, self.per_class.tolist(), strict=True)),
            "seconds_of_actions": reach.quantiles(actions["seconds"]),
            "steps_of_actions": reach.quantiles(actions["steps"]),
            "windows": self.num_windows,
            "windows_with_actions": self.useful_windows,
            "most_actions_in_a_window": self.most_actions,
            "levels": np.bincount(levels[actions["in_window"]], minlength=self.config.num_levels).tolist(),
            **reach.summarize_reach(actions, self.config),
        }


def _span(values: np.ndarray) -> list[float] | None:
    return [float(values.min()), float(values.max())] if len(values) else None

"""``--mode=check``: what a dataset holds, and whether the current settings can reach its actions.

One pass over the records; only some numbers per action and the sequences' names are kept.
"""

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

from a2net_tf import anchors as pyramid
from a2net_tf import config as settings
from a2net_tf import feature_files, input_pipeline, results, targets, windows
from a2net_tf import records as schema
from a2net_tf import segments as geometry
from a2net_tf.config import Config
from a2net_tf.errors import UserError
from a2net_tf.evaluation import align

QUANTILES = {"min": 0.0, "5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
ENOUGH = 0.95  # a suggested value reaches so many actions, or all if the current one does that already

_ROLES = {"training": "train_split", "validation": "validation_split", "evaluation": "eval_split"}
_MOST_SPLITS = 6  # more are summed up where no setting says which belong together
_MOST_CLASSES = 40  # of more, only the rarest and commonest are printed
_STEPS_AT_ONCE = 1024
_PAIRS_AT_ONCE = 2**15  # of an action and a window that holds it


class Group(NamedTuple):
    """What is reported together: one split in TFDS syntax."""

    name: str
    split: str
    role: str  # a key of _ROLES, or "other"


def check(config: Config) -> None:
    """Prints what ``config.dataset`` holds and warns of what the settings cannot reach; writes ``config.metrics``.

    Raises:
        UserError: the dataset cannot be prepared or read, or, after the report, its features hold NaN or infinity.
    """
    settings.require(config, "dataset")
    if config.metrics:
        results.check_writable(config.metrics)
    input_pipeline.check_window_fits_chunks(config)
    builder = schema.open_dataset(config.dataset, config.data_dir, config.manual_dir)
    report = make_report(builder, config)
    print(format_report(report, config))
    if config.metrics:
        results.keep_previous(config.metrics)
        results.write_json(config.metrics, report)
        print(f"written: {config.metrics}")
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
    """Everything that ``check`` prints, JSON-ready. Raises UserError for records of another kind or damaged files."""
    _check_schema(builder)
    groups, warnings = choose_groups(builder, config)
    totals = _read_groups(builder, groups, config)
    class_names = schema.class_names(builder)
    report = {
        "dataset": builder.info.full_name,
        "data_path": str(builder.data_path),
        "num_features": schema.num_features(builder),
        "class_names": class_names,
        "metadata": schema.read_metadata(builder),
        "manual_dir": _look_into_folder(builder, config.manual_dir),
        "settings": settings.to_dict(config),
        "splits": {group.name: totals[group.name].summarize(class_names) for group in groups},
    }
    shared = _shared_sequences(totals)
    return {**report, "warnings": [*warnings, *judge(report, config), *shared]}


def _check_schema(builder: tfds.core.DatasetBuilder) -> None:
    """Raises UserError for a prepared directory of somebody else's schema."""
    expected, found = schema.record_features(1, ["any"]), builder.info.features or {}
    missing = [name for name in expected if name not in found]
    if missing:
        raise UserError(
            f"{builder.data_path}: its records have no {feature_files.list_some(missing)}; was it prepared by another "
            "program? a2net_tf/records.py says what a record holds"
        )


def _look_into_folder(builder: tfds.core.DatasetBuilder, manual_dir: str) -> list[str]:
    """What the builder says about the user's files: number, layout, what it changes, what it leaves out."""
    if not (isinstance(builder, schema.FolderBuilder) and manual_dir and pathlib.Path(manual_dir).is_dir()):
        return []
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            builder.read_folder(pathlib.Path(manual_dir))
    except UserError:
        print(printed.getvalue(), end="")  # the message may say "above"
        raise
    counts = [feature_files.describe_counts(of) for of in schema.read_metadata(builder).get("counts", {}).values()]
    return [line for line in printed.getvalue().splitlines() if not any(text in line for text in counts)]


# Splits


def choose_groups(builder: tfds.core.DatasetBuilder, config: Config) -> tuple[list[Group], list[str]]:
    """The splits of the settings as far as the dataset has them, and the others together; without any, each split.

    Returns:
        The groups, and a warning for each split of the settings that is not there.
    """
    groups, warnings = [], []
    for role, setting in _ROLES.items():
        split = getattr(config, setting)
        try:
            if split:
                schema.read_records(builder, split)
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
    sizes = schema.num_features(builder), len(schema.class_names(builder))
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
        yield from schema.read_records(builder, split).as_numpy_iterator()
    except tf.errors.OpError as error:
        damaged = schema.find_damaged_file(builder, split)
        if not damaged:
            raise
        raise UserError(f"{damaged}: missing, truncated or damaged record file; prepare the dataset again") from error


def _shared_sequences(totals: dict[str, "GroupTotals"]) -> list[str]:
    """A warning if sequences are both trained and judged on."""
    training = set(totals["training"].names) if "training" in totals else set()
    found = []
    for role in ("validation", "evaluation"):
        names = sorted(training.intersection(totals[role].names)) if role in totals else []
        if names:
            where = f"both in --train_split and in --{_ROLES[role]}"
            found.append(f"{_number(len(names), 'sequence')} {where}: {feature_files.list_some(names)}")
    return found


# Counting


class FeatureTotals:
    """Running statistics of features [T, D] in float64; NaN and infinite values are counted and left out."""

    def __init__(self, num_features: int):
        self.sum, self.sum_of_squares, self.count, self.zeros = np.zeros((4, num_features))
        self.lowest, self.highest = np.full(num_features, np.inf), np.full(num_features, -np.inf)
        self.non_finite: dict[str, int] = {}

    def add(self, name: str, features: np.ndarray) -> None:
        """Adds steps of the sequence ``name``, some at a time: a float64 copy of all would be large."""
        for start in range(0, len(features), _STEPS_AT_ONCE):
            values = features[start : start + _STEPS_AT_ONCE].astype(np.float64)
            finite = np.isfinite(values)
            if not finite.all():
                self.non_finite[name] = self.non_finite.get(name, 0) + int((~finite).sum())
            self.count += finite.sum(axis=0)
            self.sum += values.sum(axis=0, where=finite)
            self.sum_of_squares += np.square(values).sum(axis=0, where=finite)
            self.zeros += (values == 0).sum(axis=0)
            self.lowest = np.minimum(self.lowest, values.min(axis=0, where=finite, initial=np.inf))
            self.highest = np.maximum(self.highest, values.max(axis=0, where=finite, initial=-np.inf))

    def summarize(self) -> dict[str, Any]:
        """JSON-ready; None where no value is finite."""
        seen = self.count > 0
        count = np.maximum(self.count, 1)
        means = self.sum / count
        deviations = np.sqrt(np.maximum(self.sum_of_squares / count - means**2, 0))
        total = max(self.count.sum(), 1)
        mean = self.sum.sum() / total
        return {
            "mean": float(mean),
            "deviation": math.sqrt(max(self.sum_of_squares.sum() / total - mean**2, 0.0)),
            "min": float(self.lowest[seen].min()) if seen.any() else None,
            "max": float(self.highest[seen].max()) if seen.any() else None,
            "means_of_dimensions": _span(means[seen]),
            "deviations_of_dimensions": _span(deviations[seen]),
            "zero_share": float(self.zeros.sum() / total),
            "zero_dimensions": np.flatnonzero(seen & (self.zeros == self.count)).tolist(),
            "constant_dimensions": np.flatnonzero(seen & (self.lowest == self.highest)).tolist(),
            "non_finite": self.non_finite,
        }


class GroupTotals:
    """Everything about the records of one group. Training (and other) splits are cut as for training, the rest as
    for testing.
    """

    def __init__(self, group: Group, config: Config, num_features: int, num_classes: int):
        self.group, self.config = group, config
        self.features = FeatureTotals(num_features)
        self.names: list[str] = []
        self.without_actions: list[str] = []
        self.per_class = np.zeros(num_classes, np.int64)
        self.steps = self.seconds = self.ambiguous = self.num_windows = self.useful_windows = self.most_actions = 0
        self.strides, self.first_steps = [np.inf, -np.inf], [np.inf, -np.inf]
        self.actions: list[dict[str, np.ndarray]] = []

    def add(self, record: dict[str, Any]) -> None:
        """Adds a record; of chunks, the steps that each owns, and the rest with the first."""
        name = record["id"].decode()
        self.features.add(name, record["features"][: record["chunk_owned_steps"]])
        if record["chunk_start_step"] == 0:
            self._add_sequence(name, record)

    def _add_sequence(self, name: str, record: dict[str, Any]) -> None:
        stride, first, steps = (
            record[key].item() for key in ("feature_stride_seconds", "first_step_seconds", "num_steps")
        )
        self.names.append(name)
        self.without_actions += [] if len(record["labels"]) else [name]
        self.steps += steps
        self.seconds += steps * stride
        self.ambiguous += len(record["ambiguous_segments"])
        self.strides = [min(self.strides[0], stride), max(self.strides[1], stride)]
        self.first_steps = [min(self.first_steps[0], first), max(self.first_steps[1], first)]
        np.add.at(self.per_class, record["labels"], 1)
        self._add_actions(record["segments"].astype(np.float64), stride, first, num_steps=steps)

    def _add_actions(self, seconds: np.ndarray, stride: float, first: float, *, num_steps: int) -> None:
        segments = (seconds - first) / stride
        reach = measure_reach(
            segments, num_steps, self.config, training=self.group.role not in ("validation", "evaluation")
        )
        self.num_windows += len(reach.actions_in_windows)
        self.useful_windows += int((reach.actions_in_windows > 0).sum())
        self.most_actions = max(self.most_actions, reach.most_actions)
        lengths = {"seconds": seconds[:, 1] - seconds[:, 0], "steps": segments[:, 1] - segments[:, 0]}
        self.actions.append({**lengths, "overlapping": find_overlapping(seconds), **reach.of_actions})

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
            "steps": self.steps,
            "hours": self.seconds / 3600,
            "stride_seconds": self.strides,
            "first_step_seconds": self.first_steps,
            "features": self.features.summarize(),
            "actions": len(actions["steps"]),
            "overlapping_actions": int(actions["overlapping"].sum()),
            "ambiguous_segments": self.ambiguous,
            "per_class": dict(zip(class_names, self.per_class.tolist(), strict=True)),
            "seconds_of_actions": quantiles(actions["seconds"]),
            "steps_of_actions": quantiles(actions["steps"]),
            "windows": self.num_windows,
            "windows_with_actions": self.useful_windows,
            "most_actions_in_a_window": self.most_actions,
            "levels": np.bincount(levels[actions["in_window"]], minlength=self.config.num_levels).tolist(),
            **summarize_reach(actions, self.config),
        }


def _span(values: np.ndarray) -> list[float] | None:
    return [float(values.min()), float(values.max())] if len(values) else None


def quantiles(values: np.ndarray) -> dict[str, float] | None:
    """``QUANTILES`` of ``values``, interpolated linearly; None if there are none."""
    if not len(values):
        return None
    return dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values())).tolist(), strict=True))


def find_overlapping(segments: np.ndarray) -> np.ndarray:
    """bool[G]: which of ``segments`` f[G, 2] share time with another one (touching is not sharing)."""
    order = np.argsort(segments[:, 0], kind="stable")
    start, end = segments[order].T
    found = np.zeros(len(segments), bool)
    found[order[1:]] = start[1:] < np.maximum.accumulate(end)[:-1]
    found[order[:-1]] |= start[1:] < end[:-1]  # of all that begin later, the next one begins first
    return found


# Windows, cells and anchors


class Reach(NamedTuple):
    """How windows, cells and anchors meet the G actions of one sequence.

    ``of_actions`` holds, as arrays [G]:
        too_long: for any window.
        outside: too little of it lies where the features are, for any window.
        in_window: a window holds it.
        room: steps over which a window may be shifted and still holds it.
        in_cell: the centre of a cell of its level lies inside, in at least one window that holds it.
        tiou: of the best default anchor, over the windows that hold it (clipped to them, as in training).
    """

    of_actions: dict[str, np.ndarray]
    actions_in_windows: np.ndarray  # i64[N], of the grid of windows
    most_actions: int  # in one window, wherever random offsets may put it


def measure_reach(segments: np.ndarray, num_steps: int, config: Config, *, training: bool) -> Reach:
    """Lays windows over a sequence: the training grid (with random offsets: every start) or the test grid.

    Args:
        segments: f64[G, 2] start and end in steps.
        num_steps: of the whole sequence.
        config: of windows, pyramid and anchors.
        training: whether --train_stride_steps or --test_stride_steps applies.
    """
    size, stride = config.window_steps, config.train_stride_steps if training else config.test_stride_steps
    low, high = find_room(segments, size, config.min_action_inside)
    grid = windows.window_starts(tf.constant(num_steps, tf.int32), window_steps=size, stride_steps=stride).numpy()
    starts = np.arange(grid[-1] + 1) if training and config.random_offsets else grid
    first, end = _holding_windows(starts, low, high)
    in_cell, tiou = _meet_targets(segments, starts, np.stack([first, end], axis=1), config)
    too_long = low > high
    possible = np.ceil(np.maximum(low, 0)) <= np.floor(np.minimum(high, grid[-1]))
    of_actions = {
        "too_long": too_long,
        "outside": ~too_long & ~possible,
        "in_window": first < end,
        "room": high - low,
        "in_cell": in_cell,
        "tiou": tiou,
    }
    counts = count_in_windows(*_holding_windows(grid, low, high), len(grid))
    return Reach(of_actions, counts, int(count_in_windows(first, end, len(starts)).max()))


def find_room(segments: np.ndarray, window_steps: int, min_inside: float) -> tuple[np.ndarray, np.ndarray]:
    """Where windows must start to hold ``min_inside`` of each of ``segments`` f64[G, 2]: low, high f64[G], inclusive.

    The rule is that of ``windows.clip_actions``. Low is above high where no window can hold so much.
    """
    start, end = segments[:, 0], segments[:, 1]
    needed = np.maximum((min_inside - 1e-5) * (end - start), 1e-6)
    low, high = start + needed - window_steps, end - needed
    return low, np.where(needed > window_steps, low - 1, high)


def _holding_windows(starts: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and end (i64[G]) of the windows at ``starts`` (increasing) that hold each action."""
    first = np.searchsorted(starts, low, side="left")
    return first, np.maximum(np.searchsorted(starts, high, side="right"), first)


def count_in_windows(first: np.ndarray, end: np.ndarray, num_windows: int) -> np.ndarray:
    """i64[N]: how many of the ranges [first, end) of windows, one per action, each window lies in."""
    change = np.zeros(num_windows + 1, np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, end, -1)
    return np.cumsum(change)[:-1]


def _meet_targets(
    segments: np.ndarray, starts: np.ndarray, holding: np.ndarray, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Whether a cell lies in each action (bool[G]), and the tIoU of its best anchor (f32[G]), over all its windows.

    Args:
        segments: f64[G, 2] in steps.
        starts: i[N] of the windows.
        holding: i64[G, 2], first and end of the windows that hold each action.
        config: of windows, pyramid and anchors.
    """
    in_cell, tiou = np.zeros(len(segments), bool), np.zeros(len(segments), np.float32)
    number = holding[:, 1] - holding[:, 0]
    at_once = max(1, _PAIRS_AT_ONCE // max(1, number.max(initial=0)))
    for begin in range(0, len(segments), at_once):
        part = slice(begin, begin + at_once)
        action = np.repeat(np.arange(len(segments))[part], number[part])
        window = np.arange(len(action)) - np.repeat(np.cumsum(number[part]) - number[part], number[part])
        start = starts[window + holding[action, 0]]
        clipped = np.clip(segments[action] - start[:, None], 0, config.window_steps) / config.window_steps
        np.logical_or.at(in_cell, action, contain_cell(clipped, config))
        np.maximum.at(tiou, action, best_anchor_tiou(clipped, config))
    return in_cell, tiou


def contain_cell(segments: np.ndarray, config: Config) -> np.ndarray:
    """bool[P]: whether each of ``segments`` f[P, 2], fractions of a window and alone in it, gets a foreground cell.

    The rule is that of ``targets.assign_cells``, which would look at all cells.
    """
    start, end = (segments.astype(np.float32) * (config.window_steps // pyramid.STEPS_PER_GRID_UNIT)).T
    level = targets.assign_levels(tf.constant(end - start), config.num_levels).numpy()
    centers = pyramid.cell_centers(config.window_steps, config.num_levels)
    levels = pyramid.cell_levels(config.window_steps, config.num_levels)
    found = np.zeros(len(segments), bool)
    for number in range(config.num_levels):
        of_level = np.append(centers[levels == number], np.inf)
        next_center = of_level[np.searchsorted(of_level, start, side="left")]
        found |= (level == number) & (next_center < end)
    return found


def best_anchor_tiou(segments: np.ndarray, config: Config) -> np.ndarray:
    """f32[P]: highest tIoU of a default anchor with each of ``segments`` f[P, 2], fractions of a window.

    Of the anchors of one width the one with the nearest centre overlaps most, so only the cell at the segment's centre
    is looked at on each level.
    """
    default = pyramid.default_anchors(config.window_steps, config.num_levels, config.anchor_ratios)
    by_cell = default.reshape(-1, len(config.anchor_ratios), 2)  # L, ratios, 2
    cells = np.array(pyramid.level_lengths(config.window_steps, config.num_levels))  # levels
    column = np.floor(segments.mean(axis=1, keepdims=True) * cells).astype(np.int64)  # P, levels
    column = np.clip(column, 0, cells - 1) + np.cumsum(cells) - cells
    nearest = geometry.from_center_width(tf.constant(by_cell[column]))  # P, levels, ratios, 2
    tious = geometry.tiou(nearest, tf.constant(segments[:, None, None], tf.float32))
    return tf.reduce_max(tious, axis=[1, 2]).numpy()


def summarize_reach(actions: dict[str, np.ndarray], config: Config) -> dict[str, Any]:
    """How many actions windows, cells and anchors reach, and which settings would reach more.

    Args:
        actions: ``Reach.of_actions`` and ``steps`` of all sequences.
        config: of windows and anchors.
    """
    inside = actions["in_window"]
    between = ~(actions["too_long"] | actions["outside"] | inside)
    with_anchor = actions["tiou"] > config.match_tiou
    return {
        "too_long": int(actions["too_long"].sum()),
        "outside_features": int(actions["outside"].sum()),
        "between_windows": int(between.sum()),
        "in_window": int(inside.sum()),
        "with_cell": int(actions["in_cell"].sum()) if config.anchor_free else None,
        "with_anchor": int(with_anchor.sum()) if config.anchor_based else None,
        "steps_without_cell": quantiles(actions["steps"][inside & ~actions["in_cell"]]),
        "steps_without_anchor": quantiles(actions["steps"][inside & ~with_anchor]),
        "needed_window_steps": needed_window_steps(actions["steps"], config),
        "needed_stride_steps": int(max(actions["room"][between].min(), 1)) if between.any() else None,
        "needed_match_tiou": needed_match_tiou(actions["tiou"][inside], config.match_tiou),
    }


def needed_window_steps(steps: np.ndarray, config: Config) -> int:
    """The shortest window that ``ENOUGH`` actions of ``steps`` f[G] fit; that all fit, if enough fit already."""
    needed = np.sort((config.min_action_inside - 1e-5) * steps)
    if not len(needed):
        return config.window_steps
    enough = needed[math.ceil(ENOUGH * len(needed)) - 1]
    longest = needed[-1] if enough <= config.window_steps else enough
    unit = 2**config.num_levels  # the pyramid must halve so often
    return max(math.ceil(longest / unit), 1) * unit


def needed_match_tiou(tious: np.ndarray, match_tiou: float) -> float | None:
    """A bound with two decimals that ``ENOUGH`` of ``tious`` f[G] exceed; that all exceed, if enough exceed the current
    one; None if nothing does.
    """
    if not len(tious):
        return None
    ranked = np.sort(tious)[::-1]
    enough = ranked[math.ceil(ENOUGH * len(ranked)) - 1]
    lowest = ranked[-1] if enough > match_tiou else enough
    bound = math.ceil(100 * float(lowest) - 1e-4) - 1
    return bound / 100 if bound > 0 else None


# Warnings


def judge(report: dict[str, Any], config: Config) -> list[str]:
    """Warnings: what is wrong with the data, and what these settings cannot reach."""
    splits = report["splits"]
    by_role = {split["role"]: split for split in splits.values()}
    role = "training" if "training" in by_role else "other"
    trained_on = {name: split for name, split in splits.items() if split["role"] == role}
    found = [line for line in report["manual_dir"] if line.endswith("; left out")]
    found += _judge_sizes(report, config)
    found += _judge_classes(splits, by_role)
    for name, split in splits.items():
        found += _judge_features(name, split["features"])
        if name in trained_on or split["role"] != "other":
            found += _judge_windows(name, split, config)
    for name, split in trained_on.items():
        found += _judge_targets(name, split, config)
        found += _judge_levels(name, split, config)
    return found


def _judge_sizes(report: dict[str, Any], config: Config) -> Iterator[str]:
    for setting, size in (("num_features", report["num_features"]), ("num_classes", len(report["class_names"]))):
        if getattr(config, setting) not in (0, size):
            yield f"--{setting}={getattr(config, setting)}, but the dataset has {size}: --{setting}={size}"
    if config.feature_columns and config.feature_columns[1] > report["num_features"]:
        first = config.feature_columns[0]
        yield (
            f"--feature_columns={first},{config.feature_columns[1]} reach beyond the {report['num_features']} values "
            f"of a step: --feature_columns={first},{report['num_features']}"
        )


def _judge_classes(splits: dict[str, dict], by_role: dict[str, dict]) -> Iterator[str]:
    counts = [split["per_class"] for split in splits.values()]
    unused = [name for name in counts[0] if not any(of[name] for of in counts)]
    if unused:
        yield f"{_number(len(unused), 'class')} without any action: {feature_files.list_some(unused)}"
    if "training" not in by_role or "evaluation" not in by_role:
        return
    training, evaluation = by_role["training"]["per_class"], by_role["evaluation"]["per_class"]
    unlearned = [name for name in training if evaluation[name] and not training[name]]
    unjudged = [name for name in training if training[name] and not evaluation[name]]
    if unlearned:
        yield (
            f"{_number(len(unlearned), 'class')} of --eval_split without training actions cannot be learned: "
            f"{feature_files.list_some(unlearned)}"
        )
    if unjudged:
        yield (
            f"{_number(len(unjudged), 'class')} without actions in --eval_split cannot be scored: "
            f"{feature_files.list_some(unjudged)}"
        )


def _judge_features(name: str, features: dict[str, Any]) -> Iterator[str]:
    bad = features["non_finite"]
    if bad:
        yield (
            f"{name}: {sum(bad.values())} feature values are NaN or infinite, in {_number(len(bad), 'sequence')}: "
            f"{feature_files.list_some(bad)}"
        )


def _judge_windows(name: str, split: dict[str, Any], config: Config) -> Iterator[str]:
    trains = split["role"] in ("training", "other")
    if split["too_long"]:
        yield f"{name}: {_share(split, 'too_long')} too long for any window: {_suggest_window(split, config)}"
    if split["outside_features"]:
        yield (
            f"{name}: {_share(split, 'outside_features')} not where the features are (before the first or after the "
            "last step): wrong stride or first step of the features?"
        )
    if split["between_windows"]:
        setting = "train_stride_steps" if trains else "test_stride_steps"
        yield (
            f"{name}: {_share(split, 'between_windows')} short enough, but fall between the windows: "
            f"--{setting}={split['needed_stride_steps']}"
        )
    if trains and split["most_actions_in_a_window"] > config.max_actions:
        most = split["most_actions_in_a_window"]
        yield f"{name}: a window holds {most} actions, which training refuses: --max_actions={most}"


def _suggest_window(split: dict[str, Any], config: Config) -> str:
    enough = split["too_long"] <= (1 - ENOUGH) * split["actions"]
    limit = schema.CHUNK_OVERLAP_STEPS // 2**config.num_levels * 2**config.num_levels
    needed = split["needed_window_steps"]
    if needed <= limit:
        return f"--window_steps={needed} holds {'all' if enough else f'{ENOUGH:.0%}'}"
    return f"even --window_steps={limit}, the most, would not do; use features that are further apart in time"


def _judge_targets(name: str, split: dict[str, Any], config: Config) -> Iterator[str]:
    stride = split["stride_seconds"][1]
    if split["in_window"] == 0:
        yield f"{name}: no window holds an action, there is nothing to train on"
        return
    if config.anchor_free and split["with_cell"] < split["in_window"]:
        shortest = split["steps_without_cell"]["min"]
        helps = shortest >= 1 and not config.random_offsets  # cells are two steps apart, offsets may be odd
        offsets = "--random_offsets gives them one in some windows"
        closer = f"features every {shortest * stride / 2:.2g} s instead of {stride:.2g} s would do"
        yield (
            f"{name}: {_share(split, 'in_window', 'with_cell')} too short to hold the centre of a cell, so the "
            f"anchor-free head does not learn them: {offsets if helps else closer}"
        )
    if config.anchor_based and split["with_anchor"] < split["in_window"]:
        yield (
            f"{name}: {_share(split, 'in_window', 'with_anchor')} not reached by a default anchor (tIoU > "
            f"{config.match_tiou:g}): {_suggest_anchors(split, config)}"
        )


def _suggest_anchors(split: dict[str, Any], config: Config) -> str:
    """More levels for long actions; a lower bound for others."""
    longest, widest = split["steps_without_anchor"]["95%"], max(config.anchor_ratios) * 2**config.num_levels
    most_levels = (config.window_steps & -config.window_steps).bit_length() - 1  # how often it halves
    if longest > widest and config.num_levels < most_levels:
        levels = config.num_levels + math.ceil(math.log2(longest / widest))
        return f"--num_levels={min(levels, most_levels)} has wider ones"
    if split["needed_match_tiou"]:
        return f"--match_tiou={split['needed_match_tiou']:g}"
    return f"features closer in time than {split['stride_seconds'][1]:.2g} s would do"


def _judge_levels(name: str, split: dict[str, Any], config: Config) -> Iterator[str]:
    empty = [level for level, number in enumerate(split["levels"], 1) if not number]
    if not (config.anchor_free and empty and split["in_window"]):
        return
    longest = max(level for level, number in enumerate(split["levels"], 1) if number)
    wording = "level" if len(empty) == 1 else "levels"
    hint = f": --num_levels={longest} would do" if longest < config.num_levels else ""
    yield f"{name}: no action for pyramid {wording} {', '.join(map(str, empty))} (by length){hint}"


def _share(split: dict[str, Any], of: str, without: str | None = None) -> str:
    """``12 of 480 actions (2.5%) are``: how many ``of`` there are, less those of ``without``."""
    number = split[of] - (split[without] if without else 0)
    return f"{number} of {split['actions']} actions ({100 * number / split['actions']:.1f}%) are"


def _number(number: int, what: str) -> str:
    plural = {"class": "classes"}.get(what, f"{what}s")
    return f"{number} {what if number == 1 else plural}"


# Printing


def format_report(report: dict[str, Any], config: Config) -> str:
    """The report as text: tables with one row per split, then the warnings."""
    splits = report["splits"]
    parts = [
        _format_head(report, config),
        _format_sequences(splits),
        _format_features(splits),
        _format_durations(splits),
        _format_classes(splits),
        _format_levels(splits, config) if config.anchor_free else "",
        _format_reach(splits, config),
        "\n".join(f"warning: {warning}" for warning in report["warnings"]),
    ]
    return "\n\n".join(part for part in parts if part)


def _format_head(report: dict[str, Any], config: Config) -> str:
    lines = [
        f"{report['dataset']}: {report['num_features']} features (D), {len(report['class_names'])} classes (C)",
        f"prepared in {report['data_path']}",
    ]
    lines += [f"{key}: {text}" for key, text in _describe(report["metadata"])]
    lines += [f"manual_dir: {line}" for line in report["manual_dir"]]
    for name, split in report["splits"].items():
        flag = f"--{_ROLES[split['role']]}=" if split["role"] in _ROLES else ""
        lines += [f"{name}: {flag}{_shorten(split['split'])}"] if name != split["split"] else []
    without = [name for split in report["splits"].values() for name in split["sequences_without_actions"]]
    lines += [f"sequences without actions: {feature_files.list_some(without)}"] if without else []
    return "\n".join(lines)


def _shorten(split: str) -> str:
    first, *others = split.split("+")
    return f"{first}+...+{others[-1]} ({len(others) + 1} splits)" if len(split) > 60 and others else split


def _describe(metadata: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Key and one line of text for everything in ``metadata`` that is not empty; classes are counted below."""
    for key, value in metadata.items():
        if value in ({}, [], (), "", None):
            continue
        if isinstance(value, dict) and all(isinstance(item, dict) for item in value.values()):
            yield from _describe({f"{key} of {name}": item for name, item in value.items()})
        elif isinstance(value, dict):
            pairs = [f"{name} {_text(item)}" for name, item in value.items() if name not in ("per_class", "digest")]
            yield key, ", ".join(pairs)
        else:
            yield key, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return align([[title, *header], *[list(row) for row in rows]])


def _format_sequences(splits: dict[str, dict]) -> str:
    header = ["sequences", "no actions", "hours", "steps", "step (s)", "first step (s)"]
    header += ["actions", "overlapping", "ambiguous"]
    rows = [
        [
            name,
            f"{s['sequences']:,}",
            f"{len(s['sequences_without_actions']):,}",
            f"{s['hours']:,.2f}",
            f"{s['steps']:,}",
            _range(s["stride_seconds"]),
            _range(s["first_step_seconds"]),
            f"{s['actions']:,}",
            _percent(s["overlapping_actions"], s["actions"]),
            f"{s['ambiguous_segments']:,}",
        ]
        for name, s in splits.items()
    ]
    return _table("split", header, rows)


def _format_features(splits: dict[str, dict]) -> str:
    header = ["mean", "deviation", "min", "max", "means of dims", "deviations of dims"]
    header += ["zeros", "constant", "all 0", "not finite"]
    rows = []
    for name, split in splits.items():
        f = split["features"]
        numbers = [_real(f[key]) for key in ("mean", "deviation", "min", "max")]
        spans = [_range(f[key]) for key in ("means_of_dimensions", "deviations_of_dimensions")]
        counts = [
            str(len(f["constant_dimensions"])),
            str(len(f["zero_dimensions"])),
            str(sum(f["non_finite"].values())),
        ]
        rows.append([name, *numbers, *spans, f"{100 * f['zero_share']:.1f}%", *counts])
    return _table("features", header, rows)


def _format_durations(splits: dict[str, dict]) -> str:
    rows = [
        [f"{name}, {unit}", *("-" if s[key] is None else _real(s[key][q]) for q in QUANTILES)]
        for name, s in splits.items()
        for key, unit in (("seconds_of_actions", "seconds"), ("steps_of_actions", "steps"))
    ]
    return _table("length of actions", list(QUANTILES), rows)


def _format_classes(splits: dict[str, dict]) -> str:
    names = list(next(iter(splits.values()))["per_class"])
    total = {name: sum(split["per_class"][name] for split in splits.values()) for name in names}
    title = "actions by class"
    if len(names) > _MOST_CLASSES:
        ranked = sorted(names, key=total.get)
        names = [*ranked[: _MOST_CLASSES // 4], *ranked[-_MOST_CLASSES // 4 :]]
        title = f"rarest and commonest of {len(total)} classes"
    rows = [[name, *(f"{split['per_class'][name]:,}" for split in splits.values())] for name in names]
    return _table(title, list(splits), rows)


def _format_levels(splits: dict[str, dict], config: Config) -> str:
    """Levels take actions by length; seconds are given if all features have the same stride."""
    strides = {stride for split in splits.values() for stride in split["stride_seconds"]}
    seconds = strides.pop() if len(strides) == 1 else None
    cells = pyramid.level_lengths(config.window_steps, config.num_levels)
    rows = []
    for level in range(config.num_levels):
        bounds = [2 ** (level + 1) if level else 0, 2 ** (level + 2) if level + 1 < config.num_levels else math.inf]
        told = [_bounds(bounds), *([_bounds([b * seconds for b in bounds])] if seconds else [])]
        shares = [_percent(split["levels"][level], split["in_window"]) for split in splits.values()]
        rows.append([f"level {level + 1}", str(cells[level]), *told, *shares])
    return _table("actions by level", ["cells", "steps", *(["seconds"] if seconds else []), *splits], rows)


def _format_reach(splits: dict[str, dict], config: Config) -> str:
    header = ["windows", "used", "most in one", "actions", "too long", "outside", "between", "in a window"]
    keys = ["too_long", "outside_features", "between_windows", "in_window"]
    legend = []
    if config.anchor_free:
        header, keys = [*header, "with a cell"], [*keys, "with_cell"]
        legend.append("with a cell: its level has a cell centre inside it")
    if config.anchor_based:
        header, keys = [*header, f"anchor > {config.match_tiou:g}"], [*keys, "with_anchor"]
        legend.append("anchor: tIoU of the best default one")
    rows = [
        [
            name,
            f"{s['windows']:,}",
            _percent(s["windows_with_actions"], s["windows"]),
            str(s["most_actions_in_a_window"]),
            f"{s['actions']:,}",
            *(_percent(s[key], s["actions"]) for key in keys),
        ]
        for name, s in splits.items()
    ]
    offsets = " and shifted at random" if config.random_offsets else ""
    title = (
        f"windows of {config.window_steps} steps that hold {config.min_action_inside:.0%} of an action: one every "
        f"{config.train_stride_steps} steps{offsets} for training, every {config.test_stride_steps} for testing"
    )
    return f"{title}\n{_table('reach', header, rows)}\n({'; '.join(legend)}; over all windows that hold it)"


def _percent(number: int, total: int) -> str:
    return f"{100 * number / total:.1f}%" if total else "-"


def _real(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _range(span: Sequence[float] | None) -> str:
    if span is None:
        return "-"
    return _real(span[0]) if span[0] == span[1] else f"{_real(span[0])} to {_real(span[1])}"


def _bounds(bounds: Sequence[float]) -> str:
    low, high = bounds
    if not low:
        return "any" if math.isinf(high) else f"< {high:g}"
    return f">= {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"

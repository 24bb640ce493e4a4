"""Which actions windows, cells and default anchors can reach with the current settings; numpy, vectorised."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from a2net_tf.detection import geometry, pyramid, targets, windows
from a2net_tf.settings import Config

QUANTILES = {"min": 0.0, "5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
ENOUGH = 0.95  # a suggested value reaches so many actions, or all if the current one does that already
_PAIRS_AT_ONCE = 2**15  # of an action and a window that holds it


def quantiles(values: np.ndarray) -> dict[str, float] | None:
    """``QUANTILES`` of ``values``, interpolated linearly; None if there are none."""
    if not len(values):
        return None
    return dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values())).tolist(), strict=True))


def find_overlapping(segments: np.ndarray) -> np.ndarray:
    """bool[G]: which of ``segments`` f[G, 2] share time with another one (touching is not sharing)."""
    order = np.argsort(segments[:, 0], kind="stable")
    start, end = segments[order].T
    overlaps = np.zeros(len(segments), bool)
    overlaps[order[1:]] = start[1:] < np.maximum.accumulate(end)[:-1]
    overlaps[order[:-1]] |= start[1:] < end[:-1]  # of all that begin later, the next one begins first
    return overlaps


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
        training: whether windows of training apply, or those of inference.
    """
    stride = config.train_stride_steps if training else config.inference_stride_steps
    if not training:
        config = dataclasses.replace(config, window_steps=config.inference_steps)
    size = config.window_steps
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
    contains = np.zeros(len(segments), bool)
    for number in range(config.num_levels):
        of_level = np.append(centers[levels == number], np.inf)
        next_center = of_level[np.searchsorted(of_level, start, side="left")]
        contains |= (level == number) & (next_center < end)
    return contains


def best_anchor_tiou(segments: np.ndarray, config: Config) -> np.ndarray:
    """f32[P]: highest tIoU of a default anchor with each of ``segments`` f[P, 2], fractions of a window.

    Of the anchors of one width the one with the nearest centre overlaps most, so only the cell at the segment's centre
    is looked at on each level.
    """
    levels = config.window_steps, config.num_levels, config.anchor_ratios, config.first_level
    default = pyramid.default_anchors(*levels)
    by_cell = default.reshape(-1, len(config.anchor_ratios), 2)  # L, ratios, 2
    lengths = pyramid.level_lengths(config.window_steps, config.num_levels)
    cells = np.array(lengths[config.first_level - 1 :])  # levels with anchors
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

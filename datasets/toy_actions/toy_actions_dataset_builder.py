"""Generated sequences with six kinds of actions, for trying the package out: nothing to download, seconds to prepare.

    features = sum of the actions' signals            a function of class, start and end only
             + drift + distractor bumps + white noise

An action's signal is a *profile* (a number per moment) times its class's *direction* (a unit vector over D features).
Every step holds the average over its quarter of a second, so an action's boundaries are visible to less than a step.
The same seed always gives the same sequence: it is made of the split's and the sequence's number.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from a2net_tf.data import prepared, schema

NUM_SEQUENCES = {"train": 60, "validation": 12, "test": 16}

NUM_FEATURES = 16
STEP_SECONDS = 0.25
SEQUENCE_SECONDS = (60.0, 240.0)
GAP_SECONDS = (0.5, 6.0)  # background between actions
OVERLAP_PROBABILITY = 0.09  # that an action begins inside the one before it; both then count as overlapping

NOISE = 0.4  # standard deviation per feature and step
DRIFT_AMPLITUDE = 0.25
DRIFT_PERIOD_SECONDS = (40.0, 160.0)
BUMPS_PER_SECOND = 0.1  # single-feature bursts that are no action
BUMP_AMPLITUDE = (1.0, 2.5)
BUMP_SECONDS = (0.5, 6.0)

SLOW_PERIOD_SECONDS = 4.0
FAST_PERIOD_SECONDS = 1.5
STALL_AFTER = 0.4  # fraction of a "stall" that looks like a "slow_wave"

# Four unit vectors at right angles to each other: rows of a Hadamard matrix, so every entry is +-0.25.
_HADAMARD_2 = np.array([[1, 1], [1, -1]])
_HADAMARD_16 = np.kron(np.kron(_HADAMARD_2, _HADAMARD_2), np.kron(_HADAMARD_2, _HADAMARD_2))
DIRECTIONS = _HADAMARD_16[[1, 6, 11, 12]] / 4

POINTS_PER_STEP = 16  # at which a profile is evaluated to average it


class ActionClass(NamedTuple):
    """One kind of action: its shortest and longest duration, and (direction, profile) pairs that add up.

    A profile maps seconds since the start and the action's duration to a value, vectorised.
    """

    name: str
    seconds: tuple[float, float]
    parts: tuple[tuple[int, Callable[[np.ndarray, float], np.ndarray]], ...]


def pulse(time: np.ndarray, duration: float) -> np.ndarray:
    """As strong from the first moment to the last."""
    return np.full_like(time, 2.2)


def rising_ramp(time: np.ndarray, duration: float) -> np.ndarray:
    """From a little to much."""
    return 0.2 + 2.2 * time / duration


def falling_ramp(time: np.ndarray, duration: float) -> np.ndarray:
    """From much to a little: ``rising_ramp`` played backwards."""
    return rising_ramp(duration - time, duration)


def slow_wave(time: np.ndarray, duration: float) -> np.ndarray:
    """A slow oscillation around a low level."""
    return 0.6 + 1.2 * np.sin(2 * np.pi * time / SLOW_PERIOD_SECONDS)


def fast_wave(time: np.ndarray, duration: float) -> np.ndarray:
    """The same oscillation, faster."""
    return 0.6 + 1.2 * np.sin(2 * np.pi * time / FAST_PERIOD_SECONDS)


def wave_before_stall(time: np.ndarray, duration: float) -> np.ndarray:
    """``slow_wave`` in the first part of the action, then nothing."""
    return np.where(time < STALL_AFTER * duration, slow_wave(time, duration), 0.0)


def level_of_stall(time: np.ndarray, duration: float) -> np.ndarray:
    """Nothing in the first part of the action, then a level."""
    return np.where(time < STALL_AFTER * duration, 0.0, 1.2)


# Directions: 0 pulse, 1 ramps, 2 waves, 3 level.
CLASSES = (
    ActionClass("tap", (0.5, 2.0), ((0, pulse),)),
    ActionClass("rise", (2.0, 8.0), ((1, rising_ramp),)),
    ActionClass("fall", (2.0, 8.0), ((1, falling_ramp),)),
    ActionClass("slow_wave", (7.5, 30.0), ((2, slow_wave),)),
    ActionClass("fast_wave", (6.0, 24.0), ((2, fast_wave),)),
    ActionClass("stall", (4.0, 16.0), ((2, wave_before_stall), (3, level_of_stall))),
)
CLASS_NAMES = tuple(action_class.name for action_class in CLASSES)


class Action(NamedTuple):
    """A labelled stretch of time, half-open [start, end) in seconds."""

    start: float
    end: float
    label: int


class Builder(prepared.RecordBuilder):
    """Builds the splits train, validation and test."""

    # TFDS would guess both below a2net_tf/, but in a checkout datasets/ lies beside it.
    code_path = tfds.core.Path(__file__)
    pkg_dir_path = code_path.parent

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        features = schema.record_features(NUM_FEATURES, CLASS_NAMES, self.stored_features)
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in NUM_SEQUENCES}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        for index in range(NUM_SEQUENCES[split]):
            yield from self.store(make_sequence(split, index))


def make_sequence(split: str, index: int) -> dict:
    """Sequence ``index`` of ``split`` as a record; the same two arguments always give the same sequence."""
    rng = np.random.default_rng([list(NUM_SEQUENCES).index(split), index])
    num_steps = int(rng.uniform(*SEQUENCE_SECONDS) / STEP_SECONDS)
    actions = draw_actions(rng, num_steps * STEP_SECONDS)
    features = render_actions(actions, num_steps) + draw_background(rng, num_steps)
    return schema.make_record(
        f"{split}_{index:03d}",
        features.astype(np.float32),
        np.array([[action.start, action.end] for action in actions]),
        [action.label for action in actions],
        num_classes=len(CLASSES),
        feature_stride_seconds=STEP_SECONDS,
        source=f"toy_actions {split} {index}",
    )


def draw_actions(rng: np.random.Generator, duration_seconds: float) -> list[Action]:
    """Actions in the order of their starts; never three at a time, never two of one class."""
    actions = []
    while True:
        ends = [0.0, 0.0] + sorted(action.end for action in actions)
        label = int(rng.integers(len(CLASSES)))
        start = ends[-1] + rng.uniform(*GAP_SECONDS)
        if actions and rng.random() < OVERLAP_PROBABILITY:
            # One of the other classes, beginning where only the action that ends last is going on.
            last = max(actions, key=lambda action: action.end)
            label = (last.label + int(rng.integers(1, len(CLASSES)))) % len(CLASSES)
            start = rng.uniform(max(last.start, ends[-2]), last.end)
        shortest, longest = CLASSES[label].seconds
        end = start + shortest * (longest / shortest) ** rng.random()
        if end > duration_seconds:
            return sorted(actions)
        actions.append(Action(start, end, label))


def render_actions(actions: list[Action], num_steps: int) -> np.ndarray:
    """The actions' signal without any noise, f64[num_steps, D]; zero outside [start, end)."""
    signal = np.zeros((num_steps, NUM_FEATURES))
    for action in actions:
        for direction, profile in CLASSES[action.label].parts:
            first, values = average_over_steps(profile, action.start, action.end)
            signal[first : first + len(values)] += values[: num_steps - first, None] * DIRECTIONS[direction]
    return signal


def average_over_steps(profile: Callable, start: float, end: float) -> tuple[int, np.ndarray]:
    """The first step that [start, end) touches, and the mean of ``profile`` over that step and each further one."""
    first, stop = int(np.floor(start / STEP_SECONDS)), int(np.ceil(end / STEP_SECONDS))
    edges = np.clip(np.arange(first, stop + 1) * STEP_SECONDS, start, end)
    widths = np.diff(edges)  # of the action's share of each step
    fractions = (np.arange(POINTS_PER_STEP) + 0.5) / POINTS_PER_STEP
    moments = edges[:-1, None] + widths[:, None] * fractions - start  # [steps, points]
    return first, profile(moments, end - start).mean(axis=1) * widths / STEP_SECONDS


def draw_background(rng: np.random.Generator, num_steps: int) -> np.ndarray:
    """White noise, slow drift of every feature and bumps of single features, f64[num_steps, D]."""
    times = (np.arange(num_steps) + 0.5) * STEP_SECONDS
    periods = rng.uniform(*DRIFT_PERIOD_SECONDS, size=NUM_FEATURES)
    phases = rng.uniform(0, 2 * np.pi, size=NUM_FEATURES)
    background = rng.normal(0, NOISE, size=(num_steps, NUM_FEATURES))
    background += DRIFT_AMPLITUDE * np.sin(2 * np.pi * times[:, None] / periods + phases)
    for _ in range(rng.poisson(BUMPS_PER_SECOND * num_steps * STEP_SECONDS)):
        center, width = rng.uniform(0, times[-1]), rng.uniform(*BUMP_SECONDS)
        size = rng.uniform(*BUMP_AMPLITUDE) * rng.choice([-1, 1])
        background[np.abs(times - center) < width / 2, rng.integers(NUM_FEATURES)] += size
    return background

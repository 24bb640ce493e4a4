"""Random changes of training windows: faster or slower, turned, noisy, with columns left out. Pure.

Where feature vectors are pieces of a sampled signal, they overlap: one sample stands in several of them. What happens
to the signal is therefore done to the signal, and the vectors are cut from it anew:

    samples      0    1    2    3    4    5    6    7    ...
    vector 0     |---- samples_per_step ----|
    vector 1               |---- samples_per_step ----|
                 |---------| samples_between_steps

A vector holds all channels of its first sample, then of its second, and so on. It describes its middle (see
``schema``), so time is stretched about the middle of vectors. Features that are no signal are the simplest
case: one sample per vector, with as many channels as the vector has values.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from a2net_tf.errors import UserError


class SignalLayout(NamedTuple):
    """How a feature vector is made of a sampled signal.

    Attributes:
        samples_per_step: samples in one feature vector.
        samples_between_steps: from the first sample of a vector to that of the next, at most ``samples_per_step``.
        channels: numbers in one sample; D = samples_per_step * channels.
        axes: the channels that are x, y and z of one sensor, a triple for each sensor.
    """

    samples_per_step: int
    samples_between_steps: int
    channels: int
    axes: tuple[tuple[int, int, int], ...] = ()

    @property
    def samples_before(self) -> float:
        """From the middle of a vector's first sample to where its step begins: (P - H) / 2, less half a sample."""
        return (self.samples_per_step - self.samples_between_steps - 1) / 2

    def num_samples(self, num_steps: int) -> int:
        """Samples that ``num_steps`` vectors span."""
        return (num_steps - 1) * self.samples_between_steps + self.samples_per_step


class Augmentation(NamedTuple):
    """What is done to training windows, all of it after they have been chosen.

    Attributes:
        window_steps: W, feature steps of a window.
        layout: of the signal.
        time_scaling: largest difference of a window's scale from 1.
        axis_rotation: largest angle, degrees.
        signal_noise: standard deviation, in the unit of the samples.
        feature_noise: standard deviation, in ``deviation``.
        feature_dropout: share of columns that are replaced by ``mean``.
        mean: f32[D] of the columns, or one number for all.
        deviation: f32[D], standard deviation of the columns, or one number for all.
    """

    window_steps: int
    layout: SignalLayout
    time_scaling: float = 0.0
    axis_rotation: float = 0.0
    signal_noise: float = 0.0
    feature_noise: float = 0.0
    feature_dropout: float = 0.0
    mean: np.ndarray | float = 0.0
    deviation: np.ndarray | float = 1.0

    @property
    def changes_signal(self) -> bool:
        """Whether vectors must be cut anew from the signal."""
        return bool(self.time_scaling or self.axis_rotation or self.signal_noise)

    @property
    def source_steps(self) -> tuple[int, int]:
        """Steps of a recording that a window may be made of: how many before its own first one, and all together."""
        if not self.changes_signal:
            return 0, self.window_steps
        layout, before = self.layout, self.layout.samples_before
        steps_before = math.ceil(abs(before) * self.time_scaling / layout.samples_between_steps)
        farthest = before + (1 + self.time_scaling) * (layout.num_samples(self.window_steps) - 1 - before)
        return steps_before, steps_before + int(farthest + 1) // layout.samples_between_steps + 1

    @property
    def changes_anything(self) -> bool:
        """Whether a window may differ from what is stored."""
        return bool(self.changes_signal or self.feature_noise or self.feature_dropout)


def read_layout(declared: Mapping[str, Any] | None, num_features: int, where: str) -> SignalLayout:
    """The layout that a dataset declares.

    Args:
        declared: the fields of ``SignalLayout`` as in JSON; empty or None: the features are no signal.
        num_features: D.
        where: dataset or file, for the message.

    Raises:
        UserError: unknown or missing fields, or values that contradict each other or D.
    """
    if not declared:
        return SignalLayout(1, 1, num_features)
    if not isinstance(declared, Mapping):
        raise UserError(f"{where}: 'signal' must be an object like {_EXAMPLE}, found {declared!r}")
    unknown = sorted(set(declared) - set(SignalLayout._fields))
    missing = [name for name in SignalLayout._fields[:3] if name not in declared]
    if unknown or missing:
        raise UserError(
            f"{where}: 'signal' has {f'an unknown key {unknown[0]!r}' if unknown else f'no key {missing[0]!r}'}; "
            f"expected something like {_EXAMPLE}"
        )
    for name in SignalLayout._fields[:3]:
        if type(declared[name]) is not int or declared[name] < 1:
            raise UserError(f"{where}: 'signal': '{name}' must be a whole number >= 1, found {declared[name]!r}")
    axes = _read_axes(declared.get("axes", ()), declared["channels"], where)
    layout = SignalLayout(**{**declared, "axes": axes})
    _check_sizes(layout, num_features, where)
    return layout


_EXAMPLE = '{"samples_per_step": 50, "samples_between_steps": 25, "channels": 3, "axes": [[0, 1, 2]]}'


def _read_axes(axes: Any, channels: int, where: str) -> tuple[tuple[int, int, int], ...]:
    shaped = isinstance(axes, Sequence) and all(isinstance(triple, Sequence) and len(triple) == 3 for triple in axes)
    numbers = [number for triple in axes for number in triple] if shaped else []
    if not shaped or not all(type(n) is int and 0 <= n < channels for n in numbers):
        raise UserError(
            f"{where}: 'signal': 'axes' must be triples of channels from 0 to {channels - 1}, like [[0, 1, 2]], found "
            f"{axes!r}"
        )
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{where}: 'signal': 'axes' has a channel twice: {axes!r}")
    return tuple(tuple(triple) for triple in axes)


def _check_sizes(layout: SignalLayout, num_features: int, where: str) -> None:
    size, hop = layout.samples_per_step, layout.samples_between_steps
    if hop > size:
        raise UserError(
            f"{where}: 'signal': 'samples_between_steps' ({hop}) must be at most 'samples_per_step' ({size}): "
            "what lies between two vectors is not stored"
        )
    if size * layout.channels != num_features:
        raise UserError(
            f"{where}: 'signal': {size} samples of {layout.channels} channels are {size * layout.channels} values per "
            f"step, but the feature vectors have {num_features}"
        )


# Everything random depends on the seed alone


def random_scales(count: tf.Tensor, time_scaling: float, seed: tf.Tensor) -> tf.Tensor:
    """f32[count] uniform in [1 - time_scaling, 1 + time_scaling): steps of a recording per step of a window."""
    return tf.random.stateless_uniform([count], seed, 1 - time_scaling, 1 + time_scaling)


def cut_source(features: tf.Tensor, start: tf.Tensor, augmentation: Augmentation) -> dict[str, tf.Tensor]:
    """What of a recording a window may be made of.

    Args:
        features: [T, D] of the recording, in any of the types in which they are stored.
        start: i32[], first step of the window.
        augmentation: what will be done to it.

    Returns:
        ``features`` [N, D] in their type, N the same for all windows; ``first`` i32[], which step of the recording they
        begin with; ``recorded_steps`` i32[], T. Steps beyond the ends repeat the first or last vector.
    """
    steps_before, count = augmentation.source_steps
    steps = tf.range(count) + start - steps_before
    num_steps = tf.shape(features)[0]
    cut = tf.gather(features, tf.clip_by_value(steps, 0, num_steps - 1))
    return {"features": cut, "first": steps[0], "recorded_steps": num_steps}


def augment_windows(
    source: dict[str, tf.Tensor], starts: tf.Tensor, scales: tf.Tensor, seed: tf.Tensor, augmentation: Augmentation
) -> tf.Tensor:
    """A batch of training windows.

    Args:
        source: of ``cut_source``, batched.
        starts: i32[B], first step of each window in its recording.
        scales: f32[B], steps of the recording per step of the window.
        seed: [2] of this batch.
        augmentation: what is done to it.

    Returns:
        f32[B, W, D]. Steps or samples beyond the ends of a recording repeat its last or first.
    """
    seeds = tf.unstack(tf.random.split(seed, 4))
    layout, num_steps = augmentation.layout, augmentation.window_steps
    windows = tf.cast(source["features"], tf.float32)
    if augmentation.changes_signal:
        signal = cut_signal(source, starts, scales, layout=layout, num_samples=layout.num_samples(num_steps))
        if augmentation.axis_rotation:
            rotations = random_rotations(tf.size(starts), augmentation.axis_rotation, seeds[0])
            signal = rotate(signal, layout.axes, rotations)
        if augmentation.signal_noise:
            signal = add_noise(signal, augmentation.signal_noise, seeds[1])
        windows = cut_vectors(signal, layout, num_steps)
    if augmentation.feature_noise:
        windows = add_noise(windows, augmentation.feature_noise * augmentation.deviation, seeds[2])
    if augmentation.feature_dropout:
        windows = drop_columns(windows, augmentation.feature_dropout, augmentation.mean, seed=seeds[3])
    return windows


def cut_signal(
    source: dict[str, tf.Tensor], starts: tf.Tensor, scales: tf.Tensor, *, layout: SignalLayout, num_samples: int
) -> tf.Tensor:
    """The signal that lies under windows, faster (scale > 1) or slower, between samples by linear interpolation.

    Args:
        source: of ``cut_source``, batched.
        starts: i32[B], first step of each window.
        scales: f32[B], samples of the recording per sample of the result.
        layout: of the signal.
        num_samples: of the result, S.

    Returns:
        f32[B, S, channels].
    """
    # float64: a long recording has more samples than float32 has whole numbers to spare
    samples = tf.range(num_samples, dtype=tf.float64) - layout.samples_before
    first = tf.cast(starts * layout.samples_between_steps, tf.float64) + layout.samples_before
    last = ((source["recorded_steps"] - 1) * layout.samples_between_steps + layout.samples_per_step - 1)[:, None]
    position = first[:, None] + tf.cast(scales, tf.float64)[:, None] * samples
    position = tf.clip_by_value(position, 0.0, tf.cast(last, tf.float64))
    below = tf.cast(position, tf.int32)
    fraction = tf.cast(position - tf.cast(below, tf.float64), tf.float32)[..., None]
    low = _samples_at(source, below, layout)
    high = _samples_at(source, tf.minimum(below + 1, last), layout)
    return low + fraction * (high - low)


def _samples_at(source: dict[str, tf.Tensor], samples: tf.Tensor, layout: SignalLayout) -> tf.Tensor:
    """The samples with these numbers, i32[B, S], as f32[B, S, channels]; each from the last vector that begins with or
    before it."""
    num_windows, num_steps = tf.unstack(tf.shape(source["features"])[:2])
    step = tf.minimum(samples // layout.samples_between_steps, source["recorded_steps"][:, None] - 1)
    step_in_source = step - source["first"][:, None]
    row = step_in_source * layout.samples_per_step + samples - step * layout.samples_between_steps
    # One gather over the rows of all windows is faster than one per window.
    row += tf.range(num_windows)[:, None] * (num_steps * layout.samples_per_step)
    return tf.cast(tf.gather(tf.reshape(source["features"], [-1, layout.channels]), row), tf.float32)


def cut_vectors(signal: tf.Tensor, layout: SignalLayout, num_steps: int) -> tf.Tensor:
    """Feature vectors f32[B, num_steps, D] of signals f32[B, layout.num_samples(num_steps), channels]."""
    size, hop = layout.samples_per_step * layout.channels, layout.samples_between_steps * layout.channels
    flat = tf.reshape(signal, [-1, signal.shape[1] * layout.channels])
    return tf.ensure_shape(tf.signal.frame(flat, size, hop), [None, num_steps, size])


def random_rotations(count: tf.Tensor, largest_degrees: float, seed: tf.Tensor) -> tf.Tensor:
    """f32[count, 3, 3]: about any axis alike, by angles uniform in [-largest_degrees, largest_degrees)."""
    axis_seed, angle_seed = tf.unstack(tf.random.split(seed, 2))
    axis = tf.random.stateless_normal([count, 3], axis_seed)
    x, y, z = tf.unstack(axis / tf.maximum(tf.norm(axis, axis=-1, keepdims=True), 1e-12), axis=-1)
    largest = float(np.deg2rad(largest_degrees))
    angle = tf.random.stateless_uniform([count], angle_seed, -largest, largest)[:, None, None]
    # Rodrigues: I + sin(angle) K + (1 - cos(angle)) K^2, where K v is the cross product of the axis with v.
    zero = tf.zeros_like(x)
    cross = tf.reshape(tf.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1), [-1, 3, 3])
    return tf.eye(3) + tf.sin(angle) * cross + (1 - tf.cos(angle)) * (cross @ cross)


def rotate(signal: tf.Tensor, axes: Sequence[tuple[int, int, int]], rotations: tf.Tensor) -> tf.Tensor:
    """f32[B, S, channels] with each triple of ``axes`` turned by the window's rotation f32[B, 3, 3]: all alike, as they
    sit in one device."""
    channels = list(tf.unstack(signal, axis=-1))
    for triple in axes:
        old = [channels[number] for number in triple]
        for row, number in enumerate(triple):
            channels[number] = tf.add_n([rotations[:, row, column, None] * old[column] for column in range(3)])
    return tf.stack(channels, axis=-1)


def add_noise(values: tf.Tensor, deviation: np.ndarray | float, seed: tf.Tensor) -> tf.Tensor:
    """f32[..., M] with Gaussian noise; ``deviation`` f32[M], or one for all."""
    return values + tf.cast(deviation, tf.float32) * tf.random.stateless_normal(tf.shape(values), seed)


def drop_columns(features: tf.Tensor, share: float, mean: np.ndarray | float, *, seed: tf.Tensor) -> tf.Tensor:
    """f32[B, W, D] with a ``share`` of the columns of each window replaced by their ``mean``, f32[D] or one for all."""
    num_windows, _, num_columns = tf.unstack(tf.shape(features))
    dropped = tf.random.stateless_uniform([num_windows, 1, num_columns], seed) < share
    return tf.where(dropped, mean, features)

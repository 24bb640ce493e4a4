"""From prepared records to batches of training windows: cut, labelled, shuffled and batched in the graph.

Everything streams: a record (one sequence, or one chunk of a very long one) is the largest thing in memory, times the
number of records that are shuffled together.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from a2net_tf.data import augment, schema
from a2net_tf.data.augment import Augmentation, SignalLayout
from a2net_tf.data.schema import CHUNK_OVERLAP_STEPS
from a2net_tf.data.statistics import FeatureStatistics
from a2net_tf.detection import geometry, targets, windows
from a2net_tf.errors import UserError
from a2net_tf.settings import Config

# Recordings (or chunks of long ones) in memory: those that are shuffled, and those whose windows are being cut.
_SHUFFLED_RECORDS = 8
_OPEN_RECORDS = 4
_SCALES, _WINDOWS = 1, 2  # what numbers are drawn for, beside offsets
# AutoGraph, which tf.data asks by default, would find nothing to rewrite, and look for more than a second.
_AS_WRITTEN = tf.autograph.experimental.do_not_convert


class Scan(NamedTuple):
    """What one pass over the training records tells."""

    mean: np.ndarray  # f32[D]
    variance: np.ndarray  # f32[D], 1 where a feature never changes
    num_windows: int  # of the fixed grid, that hold at least one action
    num_actions: int
    num_too_long: int  # actions that no window can hold
    seconds_per_step: float
    first_step_seconds: float


def choose_windows(record: dict[str, tf.Tensor], config: Config, seed: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """Chooses the training windows of one record: those that hold an action.

    Args:
        record: as ``schema.record_features`` describes.
        config: window settings.
        seed: [2] for random offsets and time scales, as ``config`` asks for them; None: the fixed grid.

    Returns:
        ``starts`` i32[N] in steps of the record, ``scales`` f32[N] (a window holds window_steps * scale steps of the
        record), ``segments`` f32[N, G, 2] in fractions of the window, ``labels`` i32[N, G] (0 = padding, class id + 1
        otherwise).
    """
    starts = windows.window_starts(
        tf.cast(record["num_steps"], tf.int32), window_steps=config.window_steps, stride_steps=config.train_stride_steps
    )
    chunk_start = tf.cast(record["chunk_start_step"], tf.int32)
    starts = windows.owned_starts(starts, chunk_start, tf.cast(record["chunk_owned_steps"], tf.int32))
    scales = tf.ones(tf.shape(starts))
    if seed is not None:
        starts, scales = _move_windows(starts, tf.shape(record["features"])[0], config, seed)
    clipped, kept = windows.clip_actions(
        _segments_in_steps(record),
        starts,
        window_steps=config.window_steps * scales,
        min_inside=config.min_action_inside,
    )
    useful = tf.reduce_any(kept, axis=1)
    clipped, kept = tf.boolean_mask(clipped, useful), tf.boolean_mask(kept, useful)
    segments, labels = _pack_actions(clipped, kept, record, config.max_actions)
    starts, scales = tf.boolean_mask(starts, useful), tf.boolean_mask(scales, useful)
    return {"starts": starts, "scales": scales, "segments": segments, "labels": labels}


def _segments_in_steps(record: dict[str, tf.Tensor]) -> tf.Tensor:
    """f32[G, 2]: the actions of a record in steps, from its own first one on."""
    segments = geometry.seconds_to_steps(
        record["segments"],
        tf.cast(record["feature_stride_seconds"], tf.float32),
        tf.cast(record["first_step_seconds"], tf.float32),
    )
    return segments - tf.cast(record["chunk_start_step"], tf.float32)


def _label_steps(record: dict[str, tf.Tensor], window: dict[str, tf.Tensor], config: Config) -> tf.Tensor:
    """i32[W]: the class id + 1 of each step of a window, 0 for background, -1 beyond the end of the recording.

    Of all actions, also those that reach too far beyond the window to be targets of the branches.
    """
    middles = (tf.range(config.window_steps, dtype=tf.float32) + 0.5) * window["scales"]
    positions = tf.cast(window["starts"], tf.float32) + middles
    labels = targets.label_steps(positions, _segments_in_steps(record), tf.cast(record["labels"], tf.int32))
    return tf.where(positions < tf.cast(tf.shape(record["features"])[0], tf.float32), labels, -1)


def _move_windows(
    starts: tf.Tensor, num_steps: tf.Tensor, config: Config, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Random offsets and scales of the windows at ``starts`` i32[N], which end within ``num_steps`` if they can."""
    scales = tf.ones(tf.shape(starts))
    if config.random_offsets:
        starts += tf.random.stateless_uniform(tf.shape(starts), seed, 0, config.train_stride_steps, tf.int32)
    if config.time_scaling:
        scales = augment.random_scales(tf.size(starts), config.time_scaling, tf.random.fold_in(seed, _SCALES))
    lengths = tf.cast(tf.math.ceil(config.window_steps * scales), tf.int32)
    return tf.minimum(starts, tf.maximum(num_steps - lengths, 0)), scales


def training_windows(
    record: dict[str, tf.Tensor],
    config: Config,
    seed: tf.Tensor | None = None,
    *,
    augmentation: Augmentation | None = None,
) -> tf.data.Dataset:
    """The windows of ``choose_windows`` one by one, each with ``features`` [W, D] in the type in which they are stored.

    With ``config.step_classifier`` they also have ``step_labels`` i32[W] (see ``_label_steps``).

    One by one, because the windows of a record overlap: together they are several times as large as the record.

    Args:
        record: as ``schema.record_features`` describes.
        config: window settings.
        seed: [2] for all that is random; None: the fixed grid.
        augmentation: what will be done to the windows, for which there must be a seed: they then hold what
            ``augment_batch`` needs instead of ``features``. None: nothing.
    """
    chosen = choose_windows(record, config, seed)
    if augmentation is not None:
        chosen["seeds"] = tf.random.split(tf.random.fold_in(seed, _WINDOWS), tf.size(chosen["starts"]))

    @_AS_WRITTEN
    def cut(window):
        if config.step_classifier:
            window["step_labels"] = _label_steps(record, window, config)
        if augmentation is not None:
            return {**window, "source": augment.cut_source(record["features"], window["starts"], augmentation)}
        del window["scales"]
        features = windows.cut_windows(record["features"], window.pop("starts")[None], config.window_steps)[0]
        return {"features": features, **window}

    return tf.data.Dataset.from_tensor_slices(chosen).map(cut)


def augment_batch(batch: dict, augmentation: Augmentation) -> dict[str, tf.Tensor]:
    """A batch of ``training_windows`` with ``features`` f32[B, W, D]. All at once: one by one it takes twice as long.

    What is drawn depends on the seed of the first window, so on (seed, epoch) and the windows' order.
    """
    source, starts, scales, seeds = (batch.pop(name) for name in ("source", "starts", "scales", "seeds"))
    return {"features": augment.augment_windows(source, starts, scales, seeds[0], augmentation), **batch}


def _augmentation(
    config: Config, layout: SignalLayout, statistics: tuple[np.ndarray, np.ndarray] | None
) -> Augmentation | None:
    """What the settings say is done to windows; None: nothing."""
    mean, variance = statistics or (0.0, 1.0)
    made = Augmentation(
        window_steps=config.window_steps,
        layout=layout,
        time_scaling=config.time_scaling,
        axis_rotation=config.axis_rotation,
        signal_noise=config.signal_noise,
        feature_noise=config.feature_noise,
        feature_dropout=config.feature_dropout,
        mean=mean,
        deviation=np.sqrt(variance),
    )
    return made if made.changes_anything else None


def _pack_actions(clipped: tf.Tensor, kept: tf.Tensor, record: dict, max_actions: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Moves the kept actions of each window to the front and pads them to ``max_actions``."""
    most = tf.reduce_max(tf.reduce_sum(tf.cast(kept, tf.int32), axis=1, keepdims=True))
    check = tf.debugging.Assert(
        most <= max_actions, ["sequence", record["id"], "has a window with", most, "actions; raise --max_actions"]
    )
    with tf.control_dependencies([check]):
        order = tf.argsort(tf.cast(kept, tf.int32), axis=1, direction="DESCENDING", stable=True)[:, :max_actions]
    labels = tf.where(kept, tf.cast(record["labels"], tf.int32)[None] + 1, 0)
    labels = tf.gather(labels, order, batch_dims=1)
    segments = tf.where(labels[..., None] > 0, tf.gather(clipped, order, batch_dims=1), 0.0)
    missing = max_actions - tf.shape(order)[1]
    labels = tf.ensure_shape(tf.pad(labels, [[0, 0], [0, missing]]), (None, max_actions))
    segments = tf.ensure_shape(tf.pad(segments, [[0, 0], [0, missing], [0, 0]]), (None, max_actions, 2))
    return segments, labels


def training_batches(
    records: tf.data.Dataset,
    config: Config,
    *,
    first_epoch: int,
    steps_per_epoch: int,
    layout: SignalLayout | None = None,
    statistics: tuple[np.ndarray, np.ndarray] | None = None,
    narrow_type: str = "",
) -> tf.data.Dataset:
    """Batches of all epochs from ``first_epoch`` on, ``steps_per_epoch`` each.

    The order, the offsets and all other chance of an epoch depend on (seed, epoch) alone, so a run that starts again at
    an epoch sees what an uninterrupted one sees. tf.data takes a seed that differs by epoch only while the global seed
    (``tf.random.set_seed``) is unset or not 0.

    Args:
        records: training records.
        config: window, augmentation and batch settings.
        first_epoch: counted from 0.
        steps_per_epoch: batches of an epoch.
        layout: how feature vectors are made of a signal; None: they are no signal.
        statistics: mean and variance f32[D] of the training features, in which augmentation measures; None: 0 and 1.
        narrow_type: into which features are cast that are not in 16 bits already; "": all become float32.
    """
    indexed = records.enumerate()
    layout = layout or SignalLayout(1, 1, records.element_spec["features"].shape[-1])
    augmentation = _augmentation(config, layout, statistics)
    draws = config.random_offsets or augmentation is not None

    @_AS_WRITTEN
    def epoch_batches(epoch):
        seed = tf.cast(config.seed, tf.int64) * 100_003 + epoch

        @_AS_WRITTEN
        def cut(index, record):
            pair = tf.stack([seed, index]) if draws else None
            return training_windows(record, config, pair, augmentation=augmentation)

        # From several records at a time, so that neighbouring windows meet even with a small shuffle buffer.
        single = indexed.shuffle(_SHUFFLED_RECORDS, seed=seed).interleave(cut, cycle_length=_OPEN_RECORDS)
        # Random offsets change the number of useful windows from epoch to epoch; steps_per_epoch does not.
        batches = (
            single.shuffle(config.shuffle_buffer, seed=seed).repeat().batch(config.batch_size, drop_remainder=True)
        )
        return batches.take(steps_per_epoch)

    epochs = tf.data.Dataset.range(first_epoch, config.epochs)
    # Up to here in the type in which they are stored: half the memory with one of 16 bits.
    batches = epochs.flat_map(epoch_batches)
    if augmentation is not None:
        batches = batches.map(_AS_WRITTEN(functools.partial(augment_batch, augmentation=augmentation)))
    return batches.map(_AS_WRITTEN(functools.partial(_cast, narrow_type=narrow_type))).prefetch(2)


def _cast(batch: dict[str, tf.Tensor], narrow_type: str) -> dict[str, tf.Tensor]:
    features = batch["features"]
    if narrow_type and features.dtype.size == 2:
        return batch
    return {**batch, "features": tf.cast(features, narrow_type or tf.float32)}


def scan(records: tf.data.Dataset, config: Config) -> Scan:
    """Checks the training records and collects statistics in one streaming pass.

    Raises:
        UserError: NaN features, or no usable window.
    """
    totals = _Totals(config, records.element_spec["features"].shape[-1])
    count = tf.function(
        lambda record: tf.shape(choose_windows(record, config)["starts"])[0],
        input_signature=[records.element_spec],  # traced once for all lengths
        autograph=False,
    )
    for record in tqdm.tqdm(records, unit="sequence", leave=False, disable=None):
        totals.add({name: value.numpy() for name, value in record.items()}, int(count(record)))
    if totals.num_windows == 0:
        raise UserError(
            f"no window of {config.window_steps} steps (--window_steps) holds {config.min_action_inside:.0%} of an "
            f"action; {config.dataset} {config.train_split} has {totals.num_actions} actions"
        )
    return totals.result()


class _Totals:
    """Running sums of ``scan``."""

    def __init__(self, config: Config, num_features: int):
        self.longest_steps = config.window_steps / max(config.min_action_inside, 1e-6)
        self.statistics = FeatureStatistics(num_features)
        self.num_windows = self.num_actions = self.num_too_long = 0
        self.time_base = None

    def add(self, record: dict[str, np.ndarray], num_windows: int) -> None:
        if self.statistics.add(record["features"][: int(record["chunk_owned_steps"])]):
            raise UserError(f"sequence {schema.sequence_name(record)}: features hold NaN or infinite values")
        base = (float(record["feature_stride_seconds"]), float(record["first_step_seconds"]))
        self.time_base = self.time_base or base
        if int(record["chunk_start_step"]) == 0:
            lengths = np.diff(record["segments"], axis=1) / base[0]
            self.num_actions += len(lengths)
            self.num_too_long += int((lengths > self.longest_steps).sum())
        self.num_windows += num_windows

    def result(self) -> Scan:
        mean, variance = self.statistics.mean, self.statistics.variance
        constant = variance < 1e-12 * np.maximum(mean**2, 1e-12)
        variance[constant] = 1.0  # else rounding noise would be blown up to unit size
        return Scan(
            mean.astype(np.float32),
            variance.astype(np.float32),
            self.num_windows,
            self.num_actions,
            self.num_too_long,
            *self.time_base,
        )


def check_window_fits_chunks(config: Config) -> None:
    """Raises UserError if windows could not be cut from chunked sequences."""
    longest = math.ceil(config.window_steps * (1 + config.time_scaling))
    if longest > CHUNK_OVERLAP_STEPS:
        scaled = f" with --time_scaling={config.time_scaling:g} is up to {longest}" if config.time_scaling else ""
        raise UserError(
            f"--window_steps={config.window_steps}{scaled}: at most {CHUNK_OVERLAP_STEPS} (the overlap of "
            "stored chunks)"
        )

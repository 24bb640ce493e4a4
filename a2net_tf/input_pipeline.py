"""From prepared records to batches of training windows: cut, labelled, shuffled and batched in the graph.

Everything streams: a record (one sequence, or one chunk of a very long one) is the largest thing in memory, times the
number of records that are shuffled together.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from a2net_tf import segments as geometry
from a2net_tf import windows
from a2net_tf.config import Config
from a2net_tf.errors import UserError
from a2net_tf.records import CHUNK_OVERLAP_STEPS

_PARALLEL_RECORDS = 8
_WINDOWS_PER_SHUFFLED_RECORD = 16


class Scan(NamedTuple):
    """What one pass over the training records tells."""

    mean: np.ndarray  # f32[D]
    variance: np.ndarray  # f32[D], 1 where a feature never changes
    num_windows: int  # of the fixed grid, that hold at least one action
    num_actions: int
    num_too_long: int  # actions that no window can hold
    seconds_per_step: float
    first_step_seconds: float


def training_windows(
    record: dict[str, tf.Tensor], config: Config, seed: tf.Tensor | None = None
) -> dict[str, tf.Tensor]:
    """Cuts the training windows of one record that hold an action.

    Args:
        record: as ``records.record_features`` describes.
        config: window settings.
        seed: i32[2] for random offsets; None: the fixed grid.

    Returns:
        ``features`` f32[N, W, D], ``segments`` f32[N, G, 2] in fractions of the window, ``labels`` i32[N, G] (0 =
        padding, class id + 1 otherwise).
    """
    starts = windows.window_starts(
        tf.cast(record["num_steps"], tf.int32), window_steps=config.window_steps, stride_steps=config.train_stride_steps
    )
    chunk_start = tf.cast(record["chunk_start_step"], tf.int32)
    starts = windows.owned_starts(starts, chunk_start, tf.cast(record["chunk_owned_steps"], tf.int32))
    if seed is not None:
        shift = tf.random.stateless_uniform(tf.shape(starts), seed, 0, config.train_stride_steps, tf.int32)
        last = tf.maximum(tf.shape(record["features"])[0] - config.window_steps, 0)
        starts = tf.minimum(starts + shift, last)
    segments = geometry.seconds_to_steps(
        record["segments"],
        tf.cast(record["feature_stride_seconds"], tf.float32),
        tf.cast(record["first_step_seconds"], tf.float32),
    ) - tf.cast(chunk_start, tf.float32)
    clipped, kept = windows.clip_actions(
        segments, starts, window_steps=config.window_steps, min_inside=config.min_action_inside
    )
    useful = tf.reduce_any(kept, axis=1)
    clipped, kept = tf.boolean_mask(clipped, useful), tf.boolean_mask(kept, useful)
    segments, labels = _pack_actions(clipped, kept, record, config.max_actions)
    features = windows.cut_windows(
        tf.cast(record["features"], tf.float32), tf.boolean_mask(starts, useful), config.window_steps
    )
    return {"features": features, "segments": segments, "labels": labels}


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
    records: tf.data.Dataset, config: Config, *, first_epoch: int, steps_per_epoch: int
) -> tf.data.Dataset:
    """Batches of all epochs from ``first_epoch`` on, ``steps_per_epoch`` each.

    The order and the offsets of an epoch depend on (seed, epoch) alone, so a run that starts again at an epoch sees
    what an uninterrupted one sees. tf.data takes a seed that differs by epoch only while the global seed
    (``tf.random.set_seed``) is unset or not 0.
    """
    indexed = records.enumerate()

    def epoch_batches(epoch):
        seed = tf.cast(config.seed, tf.int64) * 100_003 + epoch

        def cut(index, record):
            pair = tf.stack([seed, index]) if config.random_offsets else None
            return tf.data.Dataset.from_tensor_slices(training_windows(record, config, pair))

        shuffled = indexed.shuffle(max(2, config.shuffle_buffer // _WINDOWS_PER_SHUFFLED_RECORD), seed=seed)
        # From several records at a time, so that neighbouring windows meet even with a small shuffle buffer.
        single = shuffled.interleave(
            cut, cycle_length=_PARALLEL_RECORDS, num_parallel_calls=_PARALLEL_RECORDS, deterministic=True
        )
        # Random offsets change the number of useful windows from epoch to epoch; steps_per_epoch does not.
        batches = (
            single.shuffle(config.shuffle_buffer, seed=seed).repeat().batch(config.batch_size, drop_remainder=True)
        )
        return batches.take(steps_per_epoch)

    epochs = tf.data.Dataset.range(first_epoch, config.epochs)
    return epochs.flat_map(epoch_batches).prefetch(tf.data.AUTOTUNE)


def scan(records: tf.data.Dataset, config: Config) -> Scan:
    """Checks the training records and collects statistics in one streaming pass.

    Raises:
        UserError: NaN features, or no usable window.
    """
    totals = _Totals(config)
    cut = tf.function(lambda record: _scan_record(record, config), reduce_retracing=True)
    for record in tqdm.tqdm(records, unit="sequence", leave=False, disable=None):
        totals.add(record, cut(record))
    if totals.num_windows == 0:
        raise UserError(
            f"no window of {config.window_steps} steps (--window_steps) holds {config.min_action_inside:.0%} of an "
            f"action; {config.dataset} {config.train_split} has {totals.num_actions} actions"
        )
    return totals.result()


def _scan_record(record: dict[str, tf.Tensor], config: Config) -> dict[str, tf.Tensor]:
    found = training_windows(record, config)
    features = tf.cast(record["features"], tf.float64)[: tf.cast(record["chunk_owned_steps"], tf.int32)]
    return {
        "sum": tf.reduce_sum(features, axis=0),
        "sum_of_squares": tf.reduce_sum(tf.square(features), axis=0),
        "steps": tf.shape(features)[0],
        "num_windows": tf.shape(found["labels"])[0],
    }


class _Totals:
    """Running sums of ``scan``."""

    def __init__(self, config: Config):
        self.longest_steps = config.window_steps / max(config.min_action_inside, 1e-6)
        self.sum = self.sum_of_squares = 0.0
        self.steps = self.num_windows = self.num_actions = self.num_too_long = 0
        self.time_base = None

    def add(self, record: dict[str, tf.Tensor], found: dict[str, tf.Tensor]) -> None:
        name = record["id"].numpy().decode()
        total = found["sum"].numpy()
        if not np.isfinite(total).all():
            raise UserError(f"sequence {name}: features hold NaN or infinite values")
        base = (float(record["feature_stride_seconds"]), float(record["first_step_seconds"]))
        self.time_base = self.time_base or base
        if int(record["chunk_start_step"]) == 0:
            lengths = np.diff(record["segments"].numpy(), axis=1) / base[0]
            self.num_actions += len(lengths)
            self.num_too_long += int((lengths > self.longest_steps).sum())
        self.sum = self.sum + total
        self.sum_of_squares = self.sum_of_squares + found["sum_of_squares"].numpy()
        self.steps += int(found["steps"])
        self.num_windows += int(found["num_windows"])

    def result(self) -> Scan:
        mean = self.sum / self.steps
        variance = np.maximum(self.sum_of_squares / self.steps - mean**2, 0.0)
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
    if config.window_steps > CHUNK_OVERLAP_STEPS:
        raise UserError(
            f"--window_steps={config.window_steps}: at most {CHUNK_OVERLAP_STEPS} (the overlap of stored chunks)"
        )

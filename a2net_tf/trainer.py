"""Training: a keras.Model with a custom train step, and the callbacks that validate, save, resume and stop.

With several devices (``--distribute=mirrored``) each runs ``train_step`` on its part of the batch. They meet twice per
step: counts are summed before losses are divided by them, and gradients (and what is logged) before they are clipped
and applied. So every device makes the same update, which is that of one device on the whole batch, to rounding.
"""

import csv
import functools
import io
import pathlib
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
import tqdm

from a2net_tf import anchors as pyramid
from a2net_tf import input_pipeline, losses, results, run_directory, targets
from a2net_tf import segments as geometry
from a2net_tf.augmentation import SignalLayout
from a2net_tf.config import Config
from a2net_tf.errors import UserError
from a2net_tf.model import seed_drops
from a2net_tf.optimizer import FusedAdam, WarmUp
from a2net_tf.run_directory import Run


def choose_strategy(config: Config) -> tf.distribute.Strategy:
    """The devices to train on; TensorFlow's default strategy where that is one.

    Raises:
        UserError: the batch cannot be divided among the devices.
    """
    if config.distribute == "none":
        return tf.distribute.get_strategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) == 1:
        return tf.distribute.get_strategy()
    if config.batch_size % len(devices):
        raise UserError(
            f"--batch_size={config.batch_size}: with --distribute={config.distribute} it must be a multiple of "
            f"{len(devices)}, the number of visible {devices[0].device_type}s"
        )
    return _mirrored(tuple(device.name for device in devices))


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    """One per process: two would number their reductions alike, and TensorFlow refuses a number with another shape."""
    return tf.distribute.MirroredStrategy(devices)


class Trainer(keras.Model):
    """Joins network, targets and losses in one step. To be made, and compiled, in the scope of its strategy.

    Args:
        network: of ``build_model``.
        config: losses and geometry.
    """

    def __init__(self, network: keras.Model, config: Config):
        super().__init__(name="trainer")
        self.network = network
        self.config = config
        self._anchors = pyramid.default_anchors(config.window_steps, config.num_levels, config.anchor_ratios)
        self._centers = pyramid.cell_centers(config.window_steps, config.num_levels)
        self._levels = pyramid.cell_levels(config.window_steps, config.num_levels)
        self._forward = network
        self._means = {name: keras.metrics.Mean(name=name) for name in self._logged_names()}
        self.built = True  # there is nothing to build but the network

    def compile(self, optimizer: keras.optimizers.Optimizer, *, jit_compile: bool = False, **kwargs):
        """As Keras's, and ready for several devices."""
        if self.distribute_strategy.num_replicas_in_sync > 1:
            # Keras would clip, and look for overflow, on each device's own gradients, and sum them afterwards.
            # train_step hands them over summed.
            inner = getattr(optimizer, "inner_optimizer", optimizer)
            inner._all_reduce_sum_gradients = list
            if jit_compile:  # XLA compiles for one device; the losses, where the devices meet, are left out
                self._forward = tf.function(self.network, jit_compile=True)
                jit_compile = False
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Keras's own reads a batch with several devices, to build layers; here, everything is built."""

    def _logged_names(self) -> list[str]:
        names = ["loss", "gradient_norm"]
        levels = range(1, self.config.num_levels + 1)
        if self.config.anchor_free:
            names += ["anchor_free_classification", "anchor_free_regression"]
            names += [f"anchor_free_positives_level{i}" for i in levels]
        if self.config.anchor_based:
            names += ["anchor_based_classification", "anchor_based_overlap", "anchor_based_regression"]
            names += [f"anchor_based_positives_level{i}" for i in levels]
        return names

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Epoch means of the losses and of positives per window and level."""
        return list(self._means.values())

    def call(self, features):
        """Raw outputs of the network."""
        return self.network(features)

    def losses_of(
        self, outputs: dict[str, tf.Tensor], batch: dict[str, tf.Tensor], seed: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Loss parts with their weighted sum as ``loss``, and the number of positives per window and level.

        On one of several devices: its shares of these, which add up to those of the whole batch.

        Args:
            outputs: of the network.
            batch: ``segments`` f32[B, G, 2] and ``labels`` i32[B, G] of ``input_pipeline``.
            seed: i32[2], of the draw of negatives.
        """
        if not self.config.jit_compile:  # XLA needs to know every size
            segments, labels = targets.without_padding(batch["segments"], batch["labels"])
            batch = {"segments": segments, "labels": labels}
        sums, positives = {}, {}
        if self.config.anchor_free:
            found, foreground = self._anchor_free(outputs, batch)
            sums.update(found)
            positives.update(self._per_level("anchor_free", foreground))
        if self.config.anchor_based:
            found, positive = self._anchor_based(outputs, batch, seed)
            sums.update(found)
            positives.update(self._per_level("anchor_based", positive))
        shares = losses.means({**sums, **positives}, _add_up)
        parts = {name: shares[name] for name in sums}
        parts["loss"] = losses.total_loss(
            parts,
            anchor_based_weight=self.config.anchor_based_weight,
            anchor_free_classification_weight=self.config.anchor_free_classification_weight,
            anchor_free_regression_weight=self.config.anchor_free_regression_weight,
            overlap_weight=self.config.overlap_weight,
            anchor_regression_weight=self.config.anchor_regression_weight,
        )
        return parts, {name: shares[name] for name in positives}

    def _anchor_free(self, outputs: dict, batch: dict) -> tuple[dict[str, losses.Sum], tf.Tensor]:
        cells = targets.assign_cells(
            batch["segments"],
            batch["labels"],
            centers=self._centers,
            levels=self._levels,
            grid_units=self.config.window_steps // pyramid.STEPS_PER_GRID_UNIT,
            center_radius=self.config.center_sampling,
        )
        found = losses.anchor_free_losses(
            outputs["anchor_free_logits"],
            outputs["anchor_free_distances"],
            cells,
            regression=self.config.anchor_free_regression,
            focal=self._focal(outputs["anchor_free_logits"], cells.segments, batch),
        )
        return found, cells.labels > 0

    def _focal(self, logits: tf.Tensor, chosen: tf.Tensor, batch: dict) -> losses.Focal | None:
        """What the classification by sigmoids needs; None for softmax."""
        if self.config.class_scores == "softmax":
            return None
        classes = targets.classes_of(chosen, batch["segments"], batch["labels"], logits.shape[-1])
        return losses.Focal(classes, self.config.focal_gamma, self.config.focal_alpha)

    def _anchor_based(self, outputs: dict, batch: dict, seed: tf.Tensor) -> tuple[dict[str, losses.Sum], tf.Tensor]:
        config, offsets = self.config, outputs["anchor_offsets"]
        decoded = pyramid.decode_anchors(offsets, self._anchors, config.center_scale, config.width_scale)
        matches = targets.match_anchors(
            decoded,
            batch["segments"],
            batch["labels"],
            min_tiou=config.match_tiou,
            defaults=geometry.from_center_width(self._anchors) if config.anchor_matching == "defaults" else None,
            force=config.force_matches,
        )
        negatives = targets.choose_negatives(
            matches,
            outputs["anchor_overlap"],
            ratio=config.negative_ratio,
            seed=seed,
            min_tiou=config.match_tiou,
            part=_part(),
        )
        predicted, target = decoded, matches.segments
        if config.anchor_regression == "offsets":
            predicted = offsets
            target = pyramid.encode_anchors(matches.segments, self._anchors, config.center_scale, config.width_scale)
        chosen = tf.where(matches.positive[..., None], matches.segments, 0.0)
        found = losses.anchor_based_losses(
            outputs["anchor_logits"],
            outputs["anchor_overlap"],
            predicted=predicted,
            regression_target=target,
            matches=matches,
            negatives=negatives,
            overlap_loss=config.overlap_loss,
            regression=config.anchor_regression if config.anchor_regression in ("diou", "giou") else "smooth_l1",
            focal=self._focal(outputs["anchor_logits"], chosen, batch),
        )
        return found, matches.positive

    def _per_level(self, head: str, positive: tf.Tensor) -> dict[str, losses.Sum]:
        """Positives per window of bool[B, L or A], by level."""
        num_windows = tf.cast(tf.shape(positive)[0], tf.float32)
        counts = tf.reduce_sum(tf.cast(positive, tf.float32), axis=0)
        lengths = pyramid.level_lengths(self.config.window_steps, self.config.num_levels)
        per_cell = positive.shape[1] // sum(lengths)
        levels = tf.split(counts, [per_cell * length for length in lengths])
        return {
            f"{head}_positives_level{i}": losses.Sum(tf.reduce_sum(level), num_windows)
            for i, level in enumerate(levels, start=1)
        }

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One update on a batch of ``input_pipeline.training_batches``, or on this device's part of it."""
        # A draw that depends on the step alone: a resumed run repeats it.
        seed = tf.stack([self.config.seed, tf.cast(self.optimizer.iterations, tf.int32)])
        weights = self.network.trainable_variables
        seed_drops(self.network, seed, _part())
        with tf.GradientTape() as tape:
            parts, positives = self.losses_of(self._forward(batch["features"], training=True), batch, seed)
            scaled = self.optimizer.scale_loss(parts["loss"])
        logged = {**parts, **positives}
        gradients = tape.gradient(scaled, [w.value for w in weights])
        *gradients, values = _add_up([*gradients, tf.stack(list(logged.values()))])
        # A step that overflows float16 is skipped by the optimizer; it has no norm to log.
        norm = tf.linalg.global_norm(gradients) / self.optimizer.scale_loss(1.0)
        usable = tf.math.is_finite(norm)
        self._means["gradient_norm"].update_state(
            tf.where(usable, norm, 0.0), sample_weight=tf.cast(usable, tf.float32)
        )
        self.optimizer.apply(gradients, weights)
        for name, value in zip(logged, tf.unstack(values), strict=True):
            self._means[name].update_state(value)
        return {"loss": self._means["loss"].result()}

    def epoch_means(self) -> dict[str, float]:
        """Everything that is logged, averaged over the epoch so far."""
        return {name: float(mean.result()) for name, mean in self._means.items()}


def _part() -> tuple[tf.Tensor | int, int]:
    """Which of how many equal parts of a batch this device has."""
    replica = tf.distribute.get_replica_context()
    return replica.replica_id_in_sync_group, replica.num_replicas_in_sync


def _add_up(values: tf.Tensor | list[tf.Tensor]) -> tf.Tensor | list[tf.Tensor]:
    """Sums a tensor, or each of a list, over the devices that share a batch."""
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return values
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, values)


def make_optimizer(config: Config, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Adam with the schedule, weight decay, clipping, averaging and loss scaling that are set."""
    optimizer = FusedAdam(
        _learning_rate(config, steps_per_epoch),
        weight_decay=config.weight_decay or None,
        global_clipnorm=config.clip_norm or None,
        use_ema=config.ema_momentum > 0,
        ema_momentum=config.ema_momentum,
    )
    if config.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "scale"])
    if config.precision == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _learning_rate(config: Config, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule | float:
    """The step decay of the paper, or a cosine; after the warm-up."""
    rate = config.learning_rate
    # A schedule keeps a rate up to and including its boundary, and the first step is number 0.
    boundaries = [epoch * steps_per_epoch - 1 for epoch in config.decay_epochs]
    if config.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, config.epochs * steps_per_epoch)
    elif boundaries:
        rates = [rate * config.decay_factor**i for i in range(len(boundaries) + 1)]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
    return WarmUp(rate, config.warmup_epochs * steps_per_epoch) if config.warmup_epochs else rate


class EpochEnd(keras.callbacks.Callback):
    """Validates, writes weights for use, then the state for resuming. A kill at any point loses at most one epoch.

    Args:
        run: whose directory is written.
        validate: network -> mAP, or None without a validation split.
    """

    def __init__(self, run: Run, validate: Callable[[keras.Model], float] | None):
        super().__init__()
        self.run = run
        self.validate = validate
        self.epoch = tf.Variable(0, dtype=tf.int64)
        self.best = tf.Variable(-1.0, dtype=tf.float64)
        self.averages = None

    def set_model(self, model):
        """Sets up what is saved once Keras says which model it is."""
        super().set_model(model)
        state = tf.train.Checkpoint(network=model.network, optimizer=model.optimizer, epoch=self.epoch, best=self.best)
        self.manager = tf.train.CheckpointManager(
            state, str(pathlib.Path(self.run.config.workdir, "state")), max_to_keep=2
        )
        if self.run.config.ema_momentum > 0:
            self.averages = keras.callbacks.SwapEMAWeights()
            self.averages.set_model(model)

    def resume(self) -> int:
        """Restores the newest state, if any; returns the first epoch to run.

        Raises:
            UserError: the state cannot be read or belongs to another architecture.
        """
        newest = self.manager.latest_checkpoint
        if newest is None:
            weights = run_directory.weights_path(self.run, "last")
            if weights.exists():
                raise UserError(
                    f"{self.manager.directory}: no readable state to resume from, although {weights} is there; use "
                    "another --workdir, or delete this one to start over"
                )
            return 0
        try:
            self.manager.checkpoint.restore(newest).assert_consumed()
        except (ValueError, AssertionError, IndexError, tf.errors.OpError) as error:
            detail = " ".join(str(error).split())[:300]
            raise UserError(f"{newest}: damaged, or of another architecture than run.json says: {detail}") from None
        return int(self.epoch.numpy())

    def on_epoch_end(self, epoch, logs=None):
        """Validates and saves; adds what is logged but not shown to ``logs``."""
        logs.update(self.model.epoch_means())
        self._swap_averages("on_test_begin")
        run_directory.save_weights(self.model.network, run_directory.weights_path(self.run, "last"))
        if self.validate is not None and self._validates(epoch):
            score = self.validate(self.model.network)
            logs["validation_mAP"] = score
            if score > self.best.numpy():
                self.best.assign(score)
                run_directory.save_weights(self.model.network, run_directory.weights_path(self.run, "best"))
        self._swap_averages("on_test_end")
        self.epoch.assign(epoch + 1)
        self.manager.save(checkpoint_number=epoch + 1)

    def _validates(self, epoch: int) -> bool:
        return (epoch + 1) % self.run.config.validate_every == 0 or epoch + 1 == self.run.config.epochs

    def _swap_averages(self, event: str) -> None:
        # Averages are 0 until the first step that float16 does not overflow.
        if self.averages is not None and self.model.optimizer.iterations.numpy() > 0:
            getattr(self.averages, event)()


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends training at the first step whose loss is NaN or infinite. Nothing of that epoch is saved."""

    def __init__(self):
        super().__init__()
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        """Remembers the epoch for the message."""
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Checks the loss."""
        if np.isfinite(logs["loss"]):
            return
        broken = [name for name, value in self.model.epoch_means().items() if not np.isfinite(value)]
        raise UserError(
            f"the loss is no longer finite at epoch {self.epoch + 1}, step {batch + 1} ({', '.join(broken)}); the last "
            "finished epoch is kept. A lower --learning_rate or --clip_norm=1 usually helps"
        )


class History(keras.callbacks.Callback):
    """One row of numbers per finished epoch in a CSV file; resuming drops the rows of epochs that are run again."""

    def __init__(self, path: pathlib.Path, first_epoch: int):
        super().__init__()
        self.path = path
        self.rows = []
        if first_epoch and path.exists():
            with open(path, newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= first_epoch]

    def on_epoch_end(self, epoch, logs=None):
        """Writes the file anew, whole: it is small."""
        self.rows.append({"epoch": epoch + 1, **logs})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        results.write_text(self.path, text.getvalue())

    def on_train_end(self, logs=None):
        """Prints the time of all epochs, those before a resume included."""
        seconds = run_directory.training_seconds(str(self.path.parent))
        if seconds is not None:
            print(f"trained {len(self.rows)} epochs in {seconds:.1f} s", flush=True)


class Progress(keras.callbacks.Callback):
    """A bar over the steps of an epoch on a terminal, and one line per finished epoch everywhere.

    It also measures: ``logs["seconds"]``, of an epoch's training, validation and saving, is for callbacks that follow.
    """

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the bar."""
        self.started = time.monotonic()
        self.bar = tqdm.tqdm(
            total=self.params["steps"],
            desc=f"epoch {epoch + 1}/{self.params['epochs']}",
            unit="step",
            leave=False,
            disable=None,
        )

    def on_train_batch_end(self, batch, logs=None):
        """Moves the bar."""
        self.bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        """Prints the epoch's line; adds its ``seconds`` to ``logs``."""
        seconds = logs["seconds"] = round(time.monotonic() - self.started, 3)
        self.bar.close()
        score = f"  validation mAP {logs['validation_mAP']:.4f}" if "validation_mAP" in logs else ""
        print(f"epoch {epoch + 1}/{self.params['epochs']}  loss {logs['loss']:.4f}{score}  {seconds:.1f} s", flush=True)


def train(
    run: Run,
    records: tf.data.Dataset,
    validate: Callable[[keras.Model], float] | None = None,
    *,
    strategy: tf.distribute.Strategy | None = None,
    layout: SignalLayout | None = None,
) -> None:
    """Trains, or goes on where an earlier call was stopped.

    Args:
        run: of ``run_directory``; its directory must exist.
        records: training records.
        validate: network -> mAP on the validation split.
        strategy: of ``choose_strategy``; None: one device.
        layout: how feature vectors are made of a signal, for augmentation; None: they are no signal.
    """
    # Here, not when the command starts: preparing a dataset draws numbers too. Not 0: for tf.data that is no seed.
    keras.utils.set_random_seed(run.config.seed + 1)
    steps_per_epoch = -(-run.num_windows // run.config.batch_size)
    with (strategy or tf.distribute.get_strategy()).scope():
        trainer = _compiled(run, steps_per_epoch)
        epoch_end = EpochEnd(run, validate)
        epoch_end.set_model(trainer)
        _fit(trainer, epoch_end, records, steps_per_epoch, layout=layout)


def _compiled(run: Run, steps_per_epoch: int) -> Trainer:
    """A trainer with fresh weights, ready for ``fit``."""
    trainer = Trainer(run_directory.build_network(run), run.config)
    optimizer = make_optimizer(run.config, steps_per_epoch)
    trainer.compile(optimizer, jit_compile=run.config.jit_compile, auto_scale_loss=False)
    # else the first step creates its variables and is traced twice
    optimizer.build(trainer.network.trainable_variables)
    return trainer


def _fit(
    trainer: Trainer,
    epoch_end: EpochEnd,
    records: tf.data.Dataset,
    steps_per_epoch: int,
    *,
    layout: SignalLayout | None,
) -> None:
    config, first_epoch = trainer.config, epoch_end.resume()
    if first_epoch:
        print(f"{config.workdir}: {first_epoch} epochs are done, --epochs={config.epochs}")
    if first_epoch >= config.epochs:
        return
    batches = input_pipeline.training_batches(
        records,
        config,
        first_epoch=first_epoch,
        steps_per_epoch=steps_per_epoch,
        layout=layout,
        statistics=epoch_end.run.statistics,
    )
    trainer.fit(
        batches,
        initial_epoch=first_epoch,
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        callbacks=_callbacks(epoch_end.run, epoch_end, first_epoch),
        verbose=0,
        shuffle=False,  # the pipeline has done it
    )


def _callbacks(run: Run, epoch_end: EpochEnd, first_epoch: int) -> list[keras.callbacks.Callback]:
    folder = pathlib.Path(run.config.workdir)
    return [
        StopOnNonFiniteLoss(),
        epoch_end,
        Progress(),
        keras.callbacks.TensorBoard(str(folder / "logs"), write_graph=False),
        History(folder / "history.csv", first_epoch),
    ]

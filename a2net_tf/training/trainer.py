"""Training: a keras.Model with a custom train step, and the callbacks that validate, save, resume and stop.

With several devices (``--distribute``) each runs ``train_step`` on its part of the batch. They meet twice per
step: counts are summed before losses are divided by them, and gradients (and what is logged) before they are clipped
and applied. So every device makes the same update, which is that of one device on the whole batch, to rounding.
"""

import functools
import importlib.util
import itertools
import math
import pathlib
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from a2net_tf import disk
from a2net_tf.compat import AlreadyBuilt, take_gradients_as_summed
from a2net_tf.data import input_pipeline
from a2net_tf.data.augment import SignalLayout
from a2net_tf.detection.layers import drawing
from a2net_tf.detection.proposals import with_actions
from a2net_tf.errors import UserError
from a2net_tf.rc3d.objective import objective_of
from a2net_tf.rc3d.weights import load_backbone
from a2net_tf.settings import Config
from a2net_tf.training import by_device, run_directory, workers
from a2net_tf.training.callbacks import EpochEnd, History, Progress, SaveState, StopOnNonFiniteLoss
from a2net_tf.training.optimizers import make_optimizer
from a2net_tf.training.run_directory import Run


def choose_strategy(config: Config) -> tf.distribute.Strategy:
    """The devices to train on; TensorFlow's default strategy where that is one.

    Raises:
        UserError: the batch cannot be divided among the devices.
    """
    if config.distribute == "none":
        return tf.distribute.get_strategy()
    if config.distribute == "multi_worker":
        strategy = workers.start()
        _check_divisible(config, strategy.num_replicas_in_sync, "devices of all workers")
        return strategy
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) == 1:
        return tf.distribute.get_strategy()
    _check_divisible(config, len(devices), f"visible {devices[0].device_type}s")
    return _mirrored(tuple(device.name for device in devices))


def _check_divisible(config: Config, number: int, what: str) -> None:
    if config.batch_size % number:
        raise UserError(
            f"--batch_size={config.batch_size}: with --distribute={config.distribute} it must be a multiple of "
            f"{number}, the number of {what}"
        )


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    """One per process: two would number their reductions alike, and TensorFlow refuses a number with another shape."""
    return tf.distribute.MirroredStrategy(devices)


class Trainer(AlreadyBuilt, keras.Model):
    """Joins network, targets and losses in one step. To be made, and compiled, in the scope of its strategy.

    Args:
        network: of ``build_model``.
        config: losses and geometry.
    """

    def __init__(self, network: keras.Model, config: Config):
        super().__init__(name="trainer")
        self.network = network
        self.config = config
        self.objective = objective_of(config)
        self._first_stage = network.first_stage() if config.stages == 2 else None
        self._forward = self.forward
        self._means = {name: keras.metrics.Mean(name=name) for name in ("loss", "gradient_norm", *self.objective.names)}
        self.built = True  # there is nothing to build but the network

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer,
        *,
        jit_compile: bool = False,
        steps_per_look: int = 1,
        steps_per_epoch: int = 1,
        **kwargs,
    ):
        """As Keras's, and ready for several devices; callbacks see the loss of every ``steps_per_look``-th step alone.

        And of the last step of an epoch. Keras reads what a step returns, and waits for the device to have computed it.
        """
        self._steps_per_look, self._steps_per_epoch = steps_per_look, steps_per_epoch
        if self.distribute_strategy.num_replicas_in_sync > 1:
            # Keras would clip, and look for overflow, on each device's own gradients, and sum them afterwards.
            take_gradients_as_summed(optimizer)
            if jit_compile:  # XLA compiles for one device; the losses, where the devices meet, are left out
                self._forward = tf.function(self.forward, jit_compile=True, autograph=False)
                jit_compile = False
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def make_train_function(self, force=False):
        """As Keras's; see ``compile``."""
        if self.train_function and not force:
            return
        super().make_train_function(force)
        run_step, steps = self.train_function, itertools.count(1)

        def run_and_look(iterator):
            logs, step = run_step(iterator), next(steps)
            looks = step % self._steps_per_look == 0 or step % self._steps_per_epoch == 0
            return logs if looks else {}

        self.train_function = run_and_look

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Epoch means of the losses and of positives per window and level."""
        return list(self._means.values())

    def call(self, features):
        """Raw outputs of the network."""
        return self.network(features)

    def forward(
        self,
        features: tf.Tensor,
        seed: tf.Tensor,
        part: tuple[tf.Tensor | int, int] = (0, 1),
        actions: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Raw outputs of the network in training; see ``layers.drawing``.

        Of two stages the second one also looks at ``actions`` f32[B, G, 2], as if they had been proposed.
        """
        with drawing(self.network, seed, part):
            if self._first_stage is None:
                return self.network(features, training=True)
            outputs = self._first_stage(features, training=True)
            seen = with_actions(outputs["proposals"], actions)
            refined = self.network.second_stage(outputs.pop("base"), seen, training=True)
            return {**outputs, "proposals": seen, **refined}

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One update on a batch of ``input_pipeline.training_batches``, or on this device's part of it."""
        # A draw that depends on the step alone: a resumed run repeats it.
        seed = tf.stack([self.config.seed, tf.cast(self.optimizer.iterations, tf.int32)])
        weights = self.network.trainable_variables
        with tf.GradientTape() as tape:
            # From the type in which they came to the device, see ``by_device.narrow_type``.
            features = tf.cast(batch["features"], tf.float32)
            outputs = self._forward(features, seed, _part(), batch["segments"])
            parts, positives = self.objective(outputs, batch, seed, part=_part(), add_up=_add_up)
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
        return {"loss": workers.for_keras(self._means["loss"].result(), self.distribute_strategy)}

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
    strategy = strategy or tf.distribute.get_strategy()
    with workers.losses_named(strategy), strategy.scope():
        trainer = _compiled(run, steps_per_epoch)
        epoch_end = EpochEnd(run, validate, writes=workers.is_chief(strategy))
        epoch_end.set_model(trainer)
        _fit(trainer, epoch_end, records, steps_per_epoch, layout=layout)


def _compiled(run: Run, steps_per_epoch: int) -> Trainer:
    """A trainer with fresh weights, ready for ``fit``."""
    config = run.computed
    trainer = Trainer(run_directory.build_network(run), config)
    trainer.compile(
        make_optimizer(config, steps_per_epoch),
        jit_compile=config.jit_compile,
        steps_per_look=by_device.steps_per_look(by_device.kind()),
        steps_per_epoch=steps_per_epoch,
        auto_scale_loss=False,
    )
    # else the first step creates its variables and is traced twice
    trainer.optimizer.build(trainer.network.trainable_variables)
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
    workers.check_agreement(trainer.distribute_strategy, epoch_end.run, first_epoch)
    if epoch_end.writes:
        epoch_end.sweep()
    if first_epoch:
        print(f"{config.workdir}: {first_epoch} epochs are done, --epochs={config.epochs}")
    if first_epoch >= config.epochs:
        return
    if config.backbone_weights and not first_epoch:
        load_backbone(trainer.network, config.backbone_weights)
    if epoch_end.writes:
        _check_disk(trainer, epoch_end)
    batches = input_pipeline.training_batches(
        records,
        config,
        first_epoch=first_epoch,
        steps_per_epoch=steps_per_epoch,
        layout=layout,
        statistics=epoch_end.run.statistics,
        narrow_type=by_device.narrow_type(config, by_device.kind()),
    )
    trainer.fit(
        _shared(batches, trainer.distribute_strategy, config),
        initial_epoch=first_epoch,
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        callbacks=_callbacks(epoch_end.run, epoch_end, first_epoch),
        verbose=0,
        shuffle=False,  # the pipeline has done it
    )


def _shared(batches: tf.data.Dataset, strategy: tf.distribute.Strategy, config: Config) -> tf.data.Dataset:
    """What of the batches this process computes on, and for one GPU, on their way to it."""
    if config.distribute == "none":
        return by_device.prefetched(batches, by_device.kind())
    return workers.share(batches, strategy, config.batch_size)


def _check_disk(trainer: Trainer, epoch_end: EpochEnd) -> None:
    """Refuses a disk that the first epochs would fill: better now than after an hour.

    There are the last and the best weights, two states, which hold the optimizer's numbers too, and one more of the
    largest while it is written. A run that goes on has most of it already.
    """
    weights = _num_bytes(trainer.network.variables)
    state = weights + _num_bytes(trainer.optimizer.variables)
    folder = pathlib.Path(trainer.config.workdir)
    there = [*folder.glob("*.npz"), *folder.glob("state/*")]
    needed = (2 if epoch_end.validate else 1) * weights + 3 * state - sum(path.stat().st_size for path in there)
    disk.check_free(folder, needed, "the weights and states of a run")


def _num_bytes(variables: Sequence[keras.Variable]) -> int:
    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)


def _callbacks(run: Run, epoch_end: EpochEnd, first_epoch: int) -> list[keras.callbacks.Callback]:
    folder = pathlib.Path(run.config.workdir)
    if not epoch_end.writes:
        return [StopOnNonFiniteLoss(), epoch_end]
    return [
        StopOnNonFiniteLoss(),
        epoch_end,
        Progress(),
        *_logs(folder / "logs"),
        History(folder / "history.csv", first_epoch),
        SaveState(epoch_end),
    ]


def _logs(folder: pathlib.Path) -> list[keras.callbacks.Callback]:
    """Those for TensorBoard, where that is installed: TensorFlow can be without it."""
    if importlib.util.find_spec("tensorboard") is None:
        print(
            "no logs for TensorBoard, which is not installed; history.csv has the same numbers "
            '(pip install ".[tensorboard]" in the checkout)'
        )
        return []
    return [keras.callbacks.TensorBoard(str(folder), write_graph=False)]

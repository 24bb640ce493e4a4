"""Adam with one operator per weight, plain gradient descent, and a schedule that warms up."""

import functools
from collections.abc import Sequence

import keras
import tensorflow as tf

from a2net_tf.compat import adam_moments
from a2net_tf.settings import Config

_MOMENTUM = 0.9  # of gradient descent


class FusedAdam(keras.optimizers.Adam):
    """``keras.optimizers.Adam`` whose update reads and writes every number once.

    Keras writes the update as a dozen operators with temporaries as large as the weights, which on a CPU takes about
    four times as long. The numbers agree to rounding. Everything else (schedule, clipping, weight decay, averages, loss
    scale, distribution) is Keras's.
    """

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """As Keras's. What depends on the step alone is computed once, not for every variable."""
        step = tf.cast(self.iterations + 1, tf.float32)
        self._powers = tf.pow(self.beta_1, step), tf.pow(self.beta_2, step)
        super().apply(grads, trainable_variables)

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates ``variable`` and its two moments in place."""
        momentum, velocity = adam_moments(self, variable)
        beta1_power, beta2_power = self._powers
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=momentum.value.handle,
            v=velocity.value.handle,
            beta1_power=tf.cast(beta1_power, variable.dtype),
            beta2_power=tf.cast(beta2_power, variable.dtype),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule whose first rates rise in a straight line from almost 0.

    Args:
        schedule: of all steps, the first ones included; or a constant.
        num_steps: after which it has its own rate, > 0.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule | float, num_steps: int):
        self.schedule, self.num_steps = schedule, num_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The rate of a step, counted from 0."""
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        return rate * tf.minimum((tf.cast(step, tf.float32) + 1.0) / self.num_steps, 1.0)

    def get_config(self) -> dict:
        """The arguments."""
        return {"schedule": self.schedule, "num_steps": self.num_steps}


def make_optimizer(config: Config, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """What is set, with the schedule, weight decay, clipping, averaging and loss scaling that are set."""
    kind = FusedAdam if config.optimizer == "adam" else functools.partial(keras.optimizers.SGD, momentum=_MOMENTUM)
    optimizer = kind(
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

"""Adam with one operator per weight, and a schedule that warms up."""

import keras
import tensorflow as tf


class FusedAdam(keras.optimizers.Adam):
    """``keras.optimizers.Adam`` whose update reads and writes every number once.

    Keras writes the update as a dozen operators with temporaries as large as the weights, which on a CPU takes about
    four times as long. The numbers agree to rounding. Everything else (schedule, clipping, weight decay, averages, loss
    scale, distribution) is Keras's.
    """

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates ``variable`` and its two moments in place."""
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
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

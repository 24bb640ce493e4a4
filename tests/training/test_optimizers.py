import keras
import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.settings import Config
from a2net_tf.training.optimizers import FusedAdam, WarmUp, make_optimizer

RANDOM = np.random.default_rng(0)
SHAPES = [(3, 4, 5), (7,), ()]
GRADIENTS = [[RANDOM.normal(size=shape).astype(np.float32) for shape in SHAPES] for _ in range(5)]


def weights_after_training(optimizer_class, **settings):
    variables = [keras.Variable(np.full(shape, 0.5, np.float32)) for shape in SHAPES]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.01])
    optimizer = optimizer_class(schedule, **settings)
    optimizer.build(variables)
    step = tf.function(lambda *gradients: optimizer.apply(gradients, variables))
    for gradients in GRADIENTS:
        step(*map(tf.constant, gradients))
    moments = [variable.numpy() for variable in optimizer.variables if variable.name.split("_")[-1] != "rate"]
    return [variable.numpy() for variable in variables], moments


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
        {"global_clipnorm": 0.7},
        {"weight_decay": 0.01},
        {"use_ema": True, "ema_momentum": 0.9},
    ],
)
def test_equals_the_adam_of_keras(settings):
    for ours, theirs in zip(
        weights_after_training(FusedAdam, **settings),
        weights_after_training(keras.optimizers.Adam, **settings),
        strict=True,
    ):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_first_step_moves_every_weight_by_the_learning_rate():
    variable = keras.Variable([1.0, 1.0, 1.0])
    optimizer = FusedAdam(0.25)
    optimizer.build([variable])
    optimizer.apply([tf.constant([2.0, -0.1, 30.0])], [variable])
    np.testing.assert_allclose(variable.numpy(), [0.75, 1.25, 0.75], atol=1e-5)


def test_loss_scaling_skips_a_step_that_overflows():
    variable = keras.Variable([1.0])
    optimizer = keras.optimizers.LossScaleOptimizer(FusedAdam(0.25))
    optimizer.build([variable])
    optimizer.apply([tf.constant([np.inf])], [variable])
    assert variable.numpy() == [1.0]
    optimizer.apply([tf.constant([1e6])], [variable])
    assert variable.numpy() == pytest.approx([0.75], abs=1e-4)


def test_moments_keep_their_names():
    """A run that was started with Adam of Keras goes on with this one."""
    names = []
    for optimizer in (FusedAdam(), keras.optimizers.Adam()):
        optimizer.build([keras.Variable([1.0], name="kernel")])
        names.append([variable.name for variable in optimizer.variables])
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (0.8, [0.2, 0.4, 0.6, 0.8, 0.8]),
        (keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.8, 0.4]), [0.2, 0.4, 0.3, 0.4, 0.4]),
    ],
)
def test_warm_up_by_hand(schedule, expected):
    rate = WarmUp(schedule, 4)
    np.testing.assert_allclose([rate(tf.constant(step, tf.int64)) for step in range(5)], expected, rtol=1e-6)
    np.testing.assert_allclose(WarmUp(**rate.get_config())(tf.constant(2)), expected[2], rtol=1e-6)


def test_gradient_descent_by_hand():
    """Momentum 0.9, the decay beside the gradient, and none of biases."""
    optimizer = make_optimizer(Config(optimizer="sgd", learning_rate=0.1, decay_epochs=(1,), weight_decay=0.5), 2)
    kernel, bias = (keras.Variable(np.ones(1, np.float32), name=name) for name in ("kernel", "bias"))
    optimizer.build([kernel, bias])
    values, velocity = np.ones(2), 0.0
    for step in range(3):
        optimizer.apply([tf.constant([2.0])] * 2, [kernel, bias])
        rate = 0.1 if step < 2 else 0.01
        velocity = 0.9 * velocity - rate * 2.0
        values = values * (1 - rate * np.array([0.5, 0.0])) + velocity
        np.testing.assert_allclose([kernel.numpy()[0], bias.numpy()[0]], values, rtol=1e-5)

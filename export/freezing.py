"""Networks as functions with constant weights, which CPU kernels lay out once and keep (prepacking)."""

import math
from collections.abc import Callable

import keras
import tensorflow as tf

from a2net_tf.compat import with_constant_weights
from a2net_tf.detection.localizer import Localizer
from a2net_tf.errors import UserError

_MOST_BYTES = 2**31 - 2**26  # what is not weights takes a few MB


class FrozenNetwork:
    """A network with constants for weights, to take its place in a ``Localizer``.

    Args:
        network: of ``build_model``; later changes of its weights are not seen.
    """

    def __init__(self, network: keras.Model):
        self.inputs = network.inputs
        self.output_names = sorted(network.output)  # the order in which TensorFlow flattens a dict
        self._function = constant_function(network)

    def __call__(self, features: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """The network's outputs for windows f32[N, W, D]."""
        del training  # no layer depends on it
        return dict(zip(self.output_names, self._function(features), strict=True))


def constant_function(network: keras.Model) -> Callable[[tf.Tensor], list[tf.Tensor]]:
    """A concrete function of windows f32[N, W, D] to the network's outputs, ordered by name, with constant weights."""
    window = tf.TensorSpec((None, *network.inputs[0].shape[1:]), tf.float32, name="features")
    traced = tf.function(lambda features: network(features, training=False), autograph=False)
    return with_constant_weights(traced.get_concrete_function(window))


def freeze(localizer: Localizer) -> Localizer:
    """The same localizer with constants for weights.

    Raises:
        UserError: they do not fit into a graph, which is one message of at most 2 GiB.
    """
    weights = [w for member in localizer.members for network in member.networks for w in network.weights]
    size = sum(4 * math.prod(weight.shape) for weight in weights)
    if size > _MOST_BYTES:
        raise UserError(f"{size / 1e9:.1f} GB of weights do not fit into a graph as constants: leave out --freeze")
    return localizer.with_networks(FrozenNetwork)

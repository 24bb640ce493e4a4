"""Networks as functions with constant weights, which CPU kernels lay out once and keep (prepacking)."""

import math
from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from a2net_tf.errors import UserError
from a2net_tf.localizer import Localizer

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
    constant = convert_variables_to_constants_v2(traced.get_concrete_function(window))
    graph_def = constant.graph.as_graph_def()
    _store_casts(graph_def)
    graph_def = _without_unused(graph_def, [output.op.name for output in constant.outputs])
    whole = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
    tensors = whole.graph.get_tensor_by_name
    return whole.prune(tensors(constant.inputs[0].name), [tensors(output.name) for output in constant.outputs])


def _store_casts(graph_def: tf.compat.v1.GraphDef) -> None:
    """Stores weights in the type in which the convolutions take them: half the size with bfloat16.

    Every cast of a constant becomes an identity of the constant in its new type; the old one is left without a user.
    """
    nodes = {node.name: node for node in graph_def.node}
    for node in list(graph_def.node):
        if node.op != "Cast":
            continue
        source = nodes[node.input[0]]
        while source.op == "Identity":  # what reading a variable leaves
            source = nodes[source.input[0]]
        if source.op != "Const":
            continue
        dtype = tf.dtypes.as_dtype(node.attr["DstT"].type)
        name = f"{source.name}/{dtype.name}"
        if name not in nodes:  # the heads use theirs once per level
            nodes[name] = graph_def.node.add(name=name, op="Const")
            value = tf.make_ndarray(source.attr["value"].tensor).astype(dtype.as_numpy_dtype)
            nodes[name].attr["dtype"].type = dtype.as_datatype_enum
            nodes[name].attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        node.op = "Identity"
        node.input[:] = [name]
        node.attr.clear()
        node.attr["T"].type = dtype.as_datatype_enum


def _without_unused(graph_def: tf.compat.v1.GraphDef, outputs: list[str]) -> tf.compat.v1.GraphDef:
    """Without the constants that were cast. Nothing here has side effects, so no node needs to wait for another."""
    for node in graph_def.node:
        node.input[:] = [name for name in node.input if not name.startswith("^")]
    inputs = {node.name: [name.split(":")[0] for name in node.input] for node in graph_def.node}
    needed, found = set(), list(outputs)
    while found:
        name = found.pop()
        if name not in needed:
            needed.add(name)
            found += inputs[name]
    kept = [node for node in graph_def.node if node.name in needed]
    return tf.compat.v1.GraphDef(node=kept, versions=graph_def.versions)


def freeze(localizer: Localizer) -> Localizer:
    """The same localizer with constants for weights.

    Raises:
        UserError: they do not fit into a graph, which is one message of at most 2 GiB.
    """
    weights = [w for member in localizer.members for network in member.networks for w in network.weights]
    size = sum(4 * math.prod(weight.shape) for weight in weights)
    if size > _MOST_BYTES:
        raise UserError(f"{size / 1e9:.1f} GB of weights do not fit into a graph as constants: add --nofreeze")
    return localizer.with_networks(FrozenNetwork)

"""Counts parameters and multiply-adds on the built network, by part."""

import re
import statistics
import time
from collections import Counter

import keras
import tensorflow as tf

from a2net_tf.detection.layers import Convolution

_PARTS = {
    "base": r"base\d(_norm)?$",
    "features": r"conv\d+(_norm)?$",
    "anchor_free": r"anchor_free",
    "anchor_based": r"anchor_based",
}


def profile(network: keras.Model) -> dict:
    """Counts what one window costs.

    Multiply-adds are those of the convolutions: kernel size x input channels x output channels x output length, of all
    levels where they share a layer. Activations, pooling and biases are not counted, as is usual.

    Returns:
        ``parameters`` and ``multiply_adds`` in total, and ``parts``: {name: {"parameters", "multiply_adds"}}. Only
        trainable weights count as parameters.
    """
    parameters = Counter()
    for weight in network.trainable_variables:
        parameters[_part(weight.path)] += int(weight.value.shape.num_elements())
    multiply_adds = Counter()
    for name, count in _convolutions(network):
        multiply_adds[_part(name)] += count
    parts = {p: {"parameters": parameters[p], "multiply_adds": multiply_adds[p]} for p in _PARTS if parameters[p]}
    return {
        "parameters": sum(parameters.values()),
        "multiply_adds": sum(multiply_adds.values()),
        "window_steps": int(network.inputs[0].shape[1]),
        "num_features": int(network.inputs[0].shape[2]),
        "parts": parts,
    }


def window_milliseconds(network: keras.Model, *, repetitions: int = 30) -> float:
    """Median time of one window through the network on this machine, in milliseconds (Table XI), after a warm-up."""
    run = tf.function(lambda x: network(x, training=False))
    window = tf.zeros((1, *network.inputs[0].shape[1:]))
    times = []
    for _ in range(repetitions + 3):
        start = time.perf_counter()
        tf.nest.map_structure(lambda output: output.numpy(), run(window))
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def _convolutions(network: keras.Model) -> list[tuple[str, int]]:
    """(name, multiply-adds) of every convolution, for one window."""
    layers = [layer for layer in network.layers if isinstance(layer, Convolution)]
    # What joins levels is not counted: nothing reads the output there.
    joined = next((sum(layer.joined) for layer in layers if layer.joined), 0)
    shared = re.compile("anchor_free_(class|distance)_")
    steps = [joined if shared.match(layer.name) else layer.output.shape[1] for layer in layers]
    return [(layer.name, layer.kernel.shape.num_elements() * n) for layer, n in zip(layers, steps, strict=True)]


def _part(path: str) -> str:
    """The part of the network that a weight's or operation's slash-separated name belongs to."""
    for part, pattern in _PARTS.items():
        if any(re.match(pattern, re.sub(r"_\d+$", "", scope)) for scope in path.split("/")):
            return part
    raise ValueError(f"{path} belongs to no known part of the network")


def format_profile(counts: dict) -> str:
    """A table of ``profile``, with ``window_milliseconds`` if it was measured."""
    rows = [*counts["parts"].items(), ("total", counts)]
    lines = [f"one window of {counts['window_steps']} steps x {counts['num_features']} features"]
    lines.append(f"{'part':<14}{'parameters':>16}{'multiply-adds':>18}")
    lines += [f"{name:<14}{row['parameters']:>16,}{row['multiply_adds']:>18,}" for name, row in rows]
    if "window_milliseconds" in counts:
        lines.append(f"one window takes {counts['window_milliseconds']:.1f} ms here (median, network alone)")
    return "\n".join(lines)

"""Counts parameters and multiply-adds on the built network, by part."""

import math
import statistics
import time
from collections.abc import Sequence

import keras
import tensorflow as tf

from a2net_tf.detection.layers import Convolution
from a2net_tf.detection.model import Network


def profile(network: Network) -> dict:
    """Counts what one window costs.

    Multiply-adds are those of the convolutions: kernel size x input channels x output channels x output length, of all
    levels where they share a layer. Activations, pooling and biases are not counted, as is usual.

    Returns:
        ``parameters`` and ``multiply_adds`` in total, and ``parts``: {name: {"parameters", "multiply_adds"}}. Only
        trainable weights count as parameters.
    """
    shared, parts = _shared_by_levels(network), {}
    # What joins levels is not counted: nothing reads the output there.
    all_levels = sum(level.shape[1] for level in network.cuts.levels)
    for name, layers in _layers_of_parts(network).items():
        steps = {
            layer: all_levels if layer in shared else math.prod(layer.output.shape[1:-1])
            for layer in _convolutions(layers)
        }
        parts[name] = {
            "parameters": sum(w.shape.num_elements() for layer in layers for w in layer.trainable_variables),
            "multiply_adds": sum(layer.kernel.shape.num_elements() * n for layer, n in steps.items()),
        }
    return {
        **{what: sum(part[what] for part in parts.values()) for what in ("parameters", "multiply_adds")},
        "window_steps": int(network.inputs[0].shape[1]),
        "num_features": int(network.inputs[0].shape[2]),
        "parts": parts,
    }


def window_milliseconds(network: keras.Model, *, repetitions: int = 30) -> float:
    """Median time of one window through the network on this machine, in milliseconds (Table XI), after a warm-up."""
    run = tf.function(lambda x: network(x, training=False), autograph=False)
    window = tf.zeros((1, *network.inputs[0].shape[1:]))
    times = []
    for _ in range(repetitions + 3):
        start = time.perf_counter()
        tf.nest.map_structure(lambda output: output.numpy(), run(window))
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def _layers_of_parts(network: Network) -> dict[str, list[keras.layers.Layer]]:
    """What each part of the network computes with, by its name."""
    cuts, before, parts = network.cuts, [], {}
    second_stage = {"second_stage": cuts.second_stage} if cuts.second_stage else {}
    for name, end in {"base": cuts.base, "features": cuts.levels, **cuts.predictions, **second_stage}.items():
        layers = _layers_before(network, end)
        parts[name] = [layer for layer in layers if layer not in before]
        before += layers
    return parts


def _shared_by_levels(network: Network) -> list[keras.layers.Layer]:
    """Layers that run on all levels at once, joined to one sequence."""
    if network.cuts.joined is None:
        return []
    before = _layers_before(network, network.cuts.joined)
    after = _layers_before(network, network.cuts.predictions["anchor_free"])
    return [layer for layer in after if layer not in before]


def _layers_before(network: Network, end: keras.KerasTensor | Sequence[keras.KerasTensor]) -> list[keras.layers.Layer]:
    return keras.Model(network.inputs, end).layers


def _convolutions(layers: Sequence[keras.layers.Layer]) -> list[Convolution | keras.layers.Conv3D]:
    return [layer for layer in layers if isinstance(layer, Convolution | keras.layers.Conv3D)]


def format_profile(counts: dict) -> str:
    """A table of ``profile``, with ``window_milliseconds`` if it was measured."""
    rows = [*counts["parts"].items(), ("total", counts)]
    lines = [f"one window of {counts['window_steps']} steps x {counts['num_features']} features"]
    lines.append(f"{'part':<14}{'parameters':>16}{'multiply-adds':>18}")
    lines += [f"{name:<14}{row['parameters']:>16,}{row['multiply_adds']:>18,}" for name, row in rows]
    if "window_milliseconds" in counts:
        lines.append(f"one window takes {counts['window_milliseconds']:.1f} ms here (median, network alone)")
    return "\n".join(lines)

"""The package's training step and inference as XLA programs in files, with all that running them elsewhere needs.

A program is an HLO module (a protobuf) and an entry of ``programs.json``: which values its parameters have, which of
its outputs are the variables after the step, and what TensorFlow computed with the same values on this machine. Values
are not stored but described (see ``benchmarks/synthetic.py``), so that the files are small enough to carry.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from a2net_tf import safe_files, settings
from a2net_tf.native_logs import quiet_native_logs
from a2net_tf.settings import Config
from benchmarks import synthetic

with quiet_native_logs():
    import keras
    import numpy as np
    import tensorflow as tf

    from a2net_tf.detection import windows
    from a2net_tf.detection.member import Member
    from a2net_tf.detection.model import build_model
    from a2net_tf.report import profiler
    from benchmarks import workloads

COMPARED_STEPS = 2
SEQUENCE_WINDOWS = 128  # of the long sequence: half an hour to an hour of video


def dump(
    config: Config, folder: pathlib.Path, *, batches: Sequence[int], sizes: Sequence[int], precisions: Sequence[str]
) -> None:
    """Writes the programs to ``folder``.

    Args:
        config: of the network.
        folder: made if it does not exist.
        batches: windows of a training step.
        sizes: windows of a forward pass.
        precisions: of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(config, jit_compile=True, deterministic=False, convolution=_convolution(config))
    counts = profiler.profile(workloads.build(config))
    entries = []
    for precision in precisions:
        chosen = dataclasses.replace(config, precision=precision)
        for batch in batches:
            entries.append(_dump_step(dataclasses.replace(chosen, batch_size=batch), folder, counts["multiply_adds"]))
        for size in sizes:
            entries.append(_dump_forward(chosen, folder, size, counts["multiply_adds"]))
        entries.append(_dump_sequence(chosen, folder, counts["multiply_adds"]))
    content = {"settings": settings.to_dict(config), "parameters": counts["parameters"], "programs": entries}
    safe_files.write_json(folder / "programs.json", content)


def _convolution(config: Config) -> str:
    """As ``auto`` would be on a GPU."""
    return "unrolled" if config.convolution == "auto" else config.convolution


def _dump_step(config: Config, folder: pathlib.Path, multiply_adds: int) -> dict[str, Any]:
    """The whole training step: losses, gradients, update, logged means."""
    training = workloads.Training(config, config.precision, network=_network(config))
    traced = tf.function(training.trainer.train_step, jit_compile=True)
    weights = [*training.trainer.network.weights, *training.trainer.optimizer.variables]
    entry = _write(folder, f"step_{config.batch_size}_{config.precision}", traced, {"batch": training.batch}, weights)
    forward = config.batch_size * multiply_adds
    return {
        **entry,
        "kind": "step",
        "windows": config.batch_size,
        "precision": config.precision,
        "multiply_adds": forward + workloads.backward_multiply_adds(config, forward),
        "mean_losses": _losses(config),
    }


def _losses(config: Config) -> list[float]:
    """Mean losses after the first steps as TensorFlow computes them here, with XLA, whose random draws are its own."""
    config = dataclasses.replace(config, convolution="auto")
    training = workloads.Training(config, config.precision, network=_network(config))
    return [float(training.step()) for _ in range(COMPARED_STEPS)]


def _dump_forward(config: Config, folder: pathlib.Path, size: int, multiply_adds: int) -> dict[str, Any]:
    """Windows through the network as it is exported."""
    network = _network(config, for_inference=True)
    features = tf.constant(synthetic.random_windows(config, size))
    plain = _network(dataclasses.replace(config, convolution="auto"), for_inference=True)
    traced = tf.function(lambda features: network(features, training=False), jit_compile=True)
    entry = _write(folder, f"forward_{size}_{config.precision}", traced, {"features": features}, network.weights)
    return _described(entry, "forward", size, config, multiply_adds, plain(features))


def _dump_sequence(config: Config, folder: pathlib.Path, multiply_adds: int) -> dict[str, Any]:
    """A whole sequence from features to the candidates of all its windows, as the localizer computes them."""
    network = _network(config, for_inference=True)
    member = Member([network], config)
    plain = Member([_network(dataclasses.replace(config, convolution="auto"), for_inference=True)], config)
    stride = config.inference_stride_steps
    num_steps = config.inference_steps + (SEQUENCE_WINDOWS - 1) * stride
    features = np.random.default_rng(0).standard_normal((num_steps, config.num_features), np.float32)
    starts = windows.window_starts(num_steps, window_steps=config.inference_steps, stride_steps=stride)
    steps = tf.constant(np.asarray(starts)[:, None] + np.arange(config.inference_steps))

    traced = tf.function(lambda sequence: member.predict(tf.gather(sequence, steps))[0]._asdict(), jit_compile=True)
    entry = _write(folder, f"sequence_{config.precision}", traced, {"sequence": tf.constant(features)}, network.weights)
    expected = plain.predict(tf.gather(features, steps))[0]._asdict()
    return _described(entry, "sequence", len(starts), config, multiply_adds, expected)


def _described(
    entry: dict[str, Any], kind: str, size: int, config: Config, multiply_adds: int, outputs: Mapping[str, tf.Tensor]
) -> dict[str, Any]:
    """``entry`` with what was computed: the mean size of each float output."""
    return {
        **entry,
        "kind": kind,
        "windows": size,
        "precision": config.precision,
        "multiply_adds": size * multiply_adds,
        "mean_sizes": [float(tf.reduce_mean(tf.abs(tf.cast(x, tf.float32)))) for x in tf.nest.flatten(outputs)],
    }


def _network(config: Config, *, for_inference: bool = False) -> keras.Model:
    """With the weights of ``synthetic.kernel``, which other frameworks can draw too."""
    network = build_model(config, config.num_features, config.num_classes, for_inference=for_inference)
    for number, weight in enumerate(network.weights):
        if weight.path.endswith("kernel"):
            weight.assign(synthetic.kernel(number, tuple(weight.shape)))
    return network


def _write(
    folder: pathlib.Path, name: str, function: Callable, inputs: Mapping[str, Any], weights: Sequence[keras.Variable]
) -> dict[str, Any]:
    """Writes the HLO of ``function(*inputs.values())``; its entry."""
    arguments = list(inputs.values())
    serialized = function.experimental_get_compiler_ir(*arguments)(stage="hlo_serialized")
    header = function.experimental_get_compiler_ir(*arguments)(stage="hlo").partition("\n")[0]
    (folder / f"{name}.hlo").write_bytes(serialized)
    captures = _describe_captures(function.get_concrete_function(*arguments), weights)
    # {1}: (3, {}, may-alias): output 1 is what parameter 3 has become
    aliases = [[int(a), int(b)] for a, b in re.findall(r"\{(\d+)\}: \((\d+), \{\}", header)]
    return {"name": name, "parameters": [*_describe_inputs(inputs), *captures], "aliases": aliases}


def _describe_inputs(inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The function's own parameters, in the order in which TensorFlow flattens them."""
    for name, value in inputs.items():
        parts = {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        for key in sorted(parts):
            yield {"input": key, "shape": list(parts[key].shape), "dtype": parts[key].dtype.name}


def _describe_captures(graph: Any, weights: Sequence[keras.Variable]) -> Iterator[dict[str, Any]]:
    """Variables and constants that a concrete function refers to: the parameters behind its own."""
    kernels = {id(w.value.handle): i for i, w in enumerate(weights) if w.path.endswith("/kernel")}
    variables = {id(v.handle): v for v in (*graph.graph.variables, *(w.value for w in weights))}
    for captured in graph.captured_inputs:
        value = variables.get(id(captured), captured).numpy()
        described = {"shape": list(value.shape), "dtype": tf.as_dtype(value.dtype).name}
        if id(captured) in kernels:
            yield {**described, "kernel": kernels[id(captured)]}
        elif (value == value.flat[0]).all():
            yield {**described, "fill": value.flat[0].item()}
        else:  # of the geometry: a few numbers
            yield {**described, "values": value.tolist()}

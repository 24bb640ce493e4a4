"""Fixtures that several test files share. TensorFlow is imported inside them: not every test file needs it."""

import dataclasses
import gc
import os

import numpy as np
import pytest

from tests import forks, tiny

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Where oneDNN is held below AVX-512 on a processor that has it, TensorFlow still chooses oneDNN for bfloat16, and that
# ends the process. A processor without AVX-512 computes bfloat16 without oneDNN, so the tests do here too.
if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper().startswith(("SSE", "AVX2")):
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
tiny.folder()  # before pytest-xdist starts its processes: they share it
forks.reloads_of_exports()
gc.disable()  # until all is imported: that is no garbage

SMALL = {
    "window_steps": 32,
    "train_stride_steps": 8,
    "max_actions": 6,
    "num_levels": 4,
    "base_channels": 8,
    "level_channels": (8, 7, 6, 8, 8, 8, 8),
    "head_channels": 8,
    "anchor_ratios": (0.5, 1.0, 2.0),
    "batch_size": 4,
    "epochs": 3,
    "decay_epochs": (),
    "shuffle_buffer": 32,
    "max_detections": 20,
    "precision": "float32",  # auto depends on the machine
}


@pytest.fixture(scope="session")
def slow():
    """Named by fixtures that train, convert or start a process: all tests that use these are marked slow."""


# Files with tests, or with fixtures, that take longest.
LONG = (
    {"test_compare", "test_tour", "test_end_to_end", "test_long_recordings", "test_kill", "test_locks", "test_spark"},
    {"test_distribution", "test_ablate", "test_versions", "test_benchmarks", "test_cross_validate", "test_jobs"}
    | {"test_workers", "test_beam"},
)


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by markers
def pytest_collection_modifyitems(items):
    for item in items:
        if "slow" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    _long_ones_first(items)


def _long_ones_first(items):
    """In both halves of the tests, with which two processes begin: else one is alone with a long one at the end."""
    first, second = ([item for item in items if item.path.stem in names] for names in LONG)
    others = [item for item in items if item.path.stem not in LONG[0] | LONG[1]]
    middle = len(items) // 2 - len(first)
    items[:] = [*first, *others[:middle], *second, *others[middle:]]


def pytest_collection_finish():
    """Tracing makes many objects that live on; looking through all modules for garbage again and again costs time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session")
def make_config():
    """A checked Config with a small network, with the given changes."""
    from a2net_tf import settings

    return lambda **changes: settings.from_dict({**SMALL, **changes})


@pytest.fixture(scope="session")
def make_network():
    """build_model for inference windows, with random weights, biases and scales: none can be left out unnoticed."""
    import keras

    from a2net_tf.detection.model import build_model

    def make(config, num_features=5, num_classes=3, **kwargs):
        keras.utils.set_random_seed(1)
        windows = dataclasses.replace(config, window_steps=config.inference_steps)
        network = build_model(windows, num_features, num_classes, **kwargs)
        random = np.random.default_rng(2)
        for weight in network.trainable_variables:
            weight.assign(weight + 0.1 * random.normal(size=weight.shape))
        return network

    return make


@pytest.fixture(scope="session")
def same_in_graph():
    """Runs a function eagerly and as a tf.function, checks that both agree, and returns the result as numpy."""
    import tensorflow as tf

    def run(function, *arguments):
        tensors = [tf.convert_to_tensor(a) for a in arguments]
        eager = tf.nest.map_structure(np.asarray, function(*tensors))
        graph = tf.nest.map_structure(np.asarray, tf.function(function)(*tensors))
        tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), eager, graph)
        return eager

    return run

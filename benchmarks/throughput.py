"""How fast a network trains and localizes on this machine, next to what its matrix multiplication can do.

    python benchmarks/throughput.py --flagfile=configs/thumos14.flags

prints one table: windows per second, and the share of the own float32 GEMM rate that the convolutions reach on this
machine. Weights and features are random: speed does not depend on them. Compare rows of one run only.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from a2net_tf import config as settings
from a2net_tf import profiler
from a2net_tf.config import Config
from a2net_tf.localizer import Localizer
from a2net_tf.model import build_model
from a2net_tf.trainer import Trainer, make_optimizer

SECONDS_PER_ROW = 8.0


def rate(call: Callable[[], object]) -> float:
    """Calls per second, after two calls that are not counted (tracing, first allocations)."""
    call(), call()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS_PER_ROW:
        call()
        count += 1
    return count / (time.perf_counter() - started)


def gemm_multiply_adds_per_second(size: int = 2048) -> float:
    """What float32 matrix multiplication reaches here."""
    a = tf.random.normal((size, size))
    return rate(lambda: tf.linalg.matmul(a, a).numpy()) * size**3


def localize_windows_per_second(config: Config, num_windows: int) -> float:
    """Whole-sequence localization, suppression included, of a sequence with ``num_windows`` test windows."""
    localizer = Localizer(build_model(config, config.num_features, config.num_classes), config, _classes(config))
    steps = config.window_steps + (num_windows - 1) * config.test_stride_steps
    features = np.random.default_rng(0).normal(size=(1, steps, config.num_features)).astype(np.float32)
    serve = tf.function(localizer.__call__)
    arguments = tf.constant(features), tf.constant([steps]), tf.constant([1.0])
    return rate(lambda: serve(*arguments)["scores"].numpy()) * num_windows


def train_windows_per_second(config: Config) -> float:
    """Training steps times batch size."""
    random = np.random.default_rng(0)
    trainer = Trainer(build_model(config, config.num_features, config.num_classes), config)
    trainer.compile(optimizer=make_optimizer(config, 100), jit_compile=config.jit_compile, auto_scale_loss=False)
    starts = random.uniform(0, 0.7, (config.batch_size, config.max_actions))
    segments = np.stack([starts, starts + random.uniform(0.02, 0.3, starts.shape)], axis=-1)
    batch = {
        "features": random.normal(size=(config.batch_size, config.window_steps, config.num_features)),
        "segments": segments,
        "labels": random.integers(1, config.num_classes + 1, starts.shape) * (np.arange(config.max_actions) < 4),
    }
    batch = {name: tf.constant(value, tf.int32 if name == "labels" else tf.float32) for name, value in batch.items()}
    step = tf.function(trainer.train_step, jit_compile=config.jit_compile)
    return rate(lambda: step(batch)["loss"].numpy()) * config.batch_size


def _classes(config: Config) -> list[str]:
    return [f"class{i}" for i in range(config.num_classes)]


def main() -> None:
    """Prints the table."""
    config, _ = settings.parse(sys.argv[1:])
    settings.require(config, "num_features", "num_classes")
    network = build_model(config, config.num_features, config.num_classes)
    per_window = profiler.profile(network)["multiply_adds"]
    limit = gemm_multiply_adds_per_second()
    rows = [
        ("localize, 1 window", localize_windows_per_second(config, 1), 1),
        ("localize, 32 windows", localize_windows_per_second(config, 32), 1),
        (f"train, batch {config.batch_size}", train_windows_per_second(config), 3),  # backward costs twice the forward
    ]
    print(f"{per_window / 1e9:.2f} G multiply-adds per window; GEMM reaches {limit / 1e9:.0f} G per second")
    print(f"{'':<22}{'windows/s':>10}{'of GEMM rate':>14}")
    for name, windows, passes in rows:
        print(f"{name:<22}{windows:>10.1f}{windows * per_window * passes / limit:>14.0%}")


if __name__ == "__main__":
    main()

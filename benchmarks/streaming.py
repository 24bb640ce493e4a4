"""How late detections come in a stream, and what it costs beside ``detect`` on the whole recording.

    python benchmarks/streaming.py MODEL --steps=2000

MODEL is a run or a SavedModel of --mode=export. The features are made: a smooth random signal, normalised. Each line is
one way: the whole at once, or pieces of so many steps. Latency is counted in steps from the end of a detection.
"""

import argparse
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout runs without being installed

import a2net_tf
from a2net_tf.inference.detector import Detector

PIECES = (1, 10, 100)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run or SavedModel")
    parser.add_argument("--steps", type=int, default=2000, help="length of the recording (default %(default)s)")
    parser.add_argument("--reach_steps", type=int, help="of the stream (default: a window)")
    options = parser.parse_args()
    detector = a2net_tf.load(options.model)
    features = make_features(options.steps, detector.num_features)
    detector.detect(features)  # traces the graph
    started = time.perf_counter()
    detector.detect(features)
    seconds = time.perf_counter() - started
    print(
        f"{'':<10}{'steps/s':>9}{'ms/push':>9}{'99 %':>8}{'latency':>9}{'99 %':>7}{'bound':>7}{'found':>7}{'unsure':>8}"
    )
    print(f"{'detect':<10}{options.steps / seconds:>9.0f}")
    for size in PIECES:
        print(f"{f'push {size}':<10}{row(detector, features, size, options.reach_steps)}", flush=True)


def make_features(num_steps: int, num_features: int) -> np.ndarray:
    """f32[T, D]: means over 16 steps of random numbers, with variance 1."""
    noise = np.random.default_rng(0).normal(size=(num_steps + 16, num_features))
    sums = np.cumsum(noise, axis=0)
    return ((sums[16:] - sums[:-16]) / 4).astype(np.float32)


def row(detector: Detector, features: np.ndarray, size: int, reach_steps: int | None) -> str:
    """Streams the recording in pieces of ``size`` steps; the numbers of a line."""
    stream = detector.stream(reach_steps=reach_steps)
    stream.push(features[:1])
    took, delays, found = [], [], 0
    for begin in range(1, len(features), size):
        started = time.perf_counter()
        told = stream.push(features[begin : begin + size])
        took.append(time.perf_counter() - started)
        ends = np.asarray([action.end_seconds - detector.first_step_seconds for action in told])
        delays += list(stream.num_steps - ends / detector.seconds_per_step)
        found += len(told)
    started = time.perf_counter()
    found += len(stream.close())
    total = sum(took) + time.perf_counter() - started
    times = f"{1e3 * np.mean(took):>9.2f}{1e3 * np.quantile(took, 0.99):>8.1f}"
    latency = f"{np.median(delays):>9.0f}{np.quantile(delays, 0.99):>7.0f}{stream.latency_steps:>7}"
    return f"{len(features) / total:>9.0f}{times}{latency}{found:>7}{stream.unsure:>8}"


if __name__ == "__main__":
    main()

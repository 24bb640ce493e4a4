"""What the classes of steps cost at inference: whole recordings and single windows, with the branch and without.

    python benchmarks/step_classifier.py --flagfile=configs/50salads_modern.flags --num_features=128
    python benchmarks/step_classifier.py --flagfile=configs/thumos14_modern.flags --num_features=2048

Random features and weights. A recording is detected as evaluation and a SavedModel do, a window as ONNX and TFLite run
it: with all its steps, although of windows that overlap only those side by side are asked.
"""

import argparse
import dataclasses
import os
import pathlib
import statistics
import sys
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout runs without being installed

import numpy as np
import tensorflow as tf

from a2net_tf import settings
from a2net_tf.detection import precision
from a2net_tf.detection.localizer import Localizer
from a2net_tf.detection.model import build_model
from a2net_tf.settings import Config
from benchmarks import measure

_NUM_CLASSES = 17
_WITH = {True: "with", False: "without"}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_features", type=int, required=True, help="values of a feature step")
    parser.add_argument("--steps", default="1200,20000", help="lengths of the recordings (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default %(default)s)")
    options, flags = parser.parse_known_args()
    config, _ = settings.parse(flags)
    config = dataclasses.replace(config, precision=precision.resolve(config.precision))
    localizers = {
        name: _localizer(dataclasses.replace(config, step_classifier=on), options.num_features)
        for on, name in _WITH.items()
    }
    weights = {name: each.members[0].networks[0].count_params() / 1e6 for name, each in localizers.items()}
    print(f"M weights: {weights['without']:.2f} without the branch, {weights['with']:.2f} with it")
    print(f"{'':<24}{'ms without':>12}{'ms with':>12}{'more':>8}")
    for steps in map(int, options.steps.split(",")):
        calls = {name: _detection(each, steps) for name, each in localizers.items()}
        print(_row(f"{steps:,} steps", calls, options.rounds), flush=True)
    calls = {name: _window(each) for name, each in localizers.items()}
    print(_row("a window by itself", calls, options.rounds))


def _localizer(config: Config, num_features: int) -> Localizer:
    classes = [f"class {i}" for i in range(_NUM_CLASSES)]
    return Localizer(build_model(config, num_features, _NUM_CLASSES), config, classes)


def _detection(localizer: Localizer, steps: int) -> Callable[[], object]:
    features = tf.constant(np.random.default_rng(0).normal(size=(1, steps, localizer.num_features)), tf.float32)
    detect = tf.function(lambda x: localizer(x, tf.constant([steps]), tf.constant([0.5])))
    return lambda: detect(features)["scores"].numpy()


def _window(localizer: Localizer) -> Callable[[], object]:
    shape = (1, localizer.config.inference_steps, localizer.num_features)
    features = tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)
    predict = tf.function(localizer.predict)
    return lambda: predict(features)[0].scores.numpy()


def _row(title: str, calls: dict[str, Callable[[], object]], rounds: int) -> str:
    times = measure.take_turns(calls, rounds=rounds, seconds=0.5)
    medians = {name: [statistics.median(turn) for turn in turns] for name, turns in times.items()}
    more = statistics.median(a / b for a, b in zip(medians["with"], medians["without"], strict=True)) - 1
    milliseconds = [1000 * statistics.median(medians[name]) for name in ("without", "with")]
    return f"{title:<24}{milliseconds[0]:>12.1f}{milliseconds[1]:>12.1f}{more:>8.0%}"


if __name__ == "__main__":
    main()

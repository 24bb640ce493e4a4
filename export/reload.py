"""Loads a SavedModel with nothing but TensorFlow and compares it with detections computed elsewhere.

python reload.py SAVED_MODEL SAMPLES.npz prints the largest difference in seconds or score; SAMPLES.npz holds, for each
sample i, features{i}, seconds_per_step{i} and the expected outputs of ``serving_default``.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf


def largest_difference(saved_model: str, samples: str) -> float:
    """Largest absolute difference over all samples; infinite where the number of detections differs."""
    serve = tf.saved_model.load(saved_model).signatures["serving_default"]
    largest = 0.0
    with np.load(samples, allow_pickle=False) as arrays:
        for i in range(sum(name.startswith("features") for name in arrays)):
            features = arrays[f"features{i}"]
            found = serve(
                features=tf.constant(features[None]),
                num_steps=tf.constant([len(features)], tf.int32),
                seconds_per_step=tf.constant([arrays[f"seconds_per_step{i}"]], tf.float32),
            )
            largest = max(largest, _difference(found, arrays, i))
    return largest


def _difference(found: dict, arrays: dict, i: int) -> float:
    if not np.array_equal(found["num_detections"].numpy(), arrays[f"num_detections{i}"]):
        return float("inf")
    pairs = [(found[name].numpy(), arrays[f"{name}{i}"]) for name in ("segments", "scores", "class_ids")]
    return float(max(np.abs(a - b).max(initial=0) for a, b in pairs))


if __name__ == "__main__":
    print(largest_difference(*sys.argv[1:3]))

"""Loads a SavedModel with nothing but TensorFlow and compares it with numbers computed elsewhere.

python reload.py SAVED_MODEL SAMPLES.npz prints two numbers: the largest difference of the detections of whole sequences
(seconds or score) and of 99 % of the candidates of single windows (fractions or score). SAMPLES.npz holds, for each
sequence i, features{i}, seconds_per_step{i} and the expected outputs of ``serving_default``; and windows, raw_segments,
raw_scores, and raw_in_order: whether candidate for candidate must be the same.
"""

import gc
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if __name__ == "__main__":
    gc.disable()  # a process so short needs no collector; the import takes less time

import numpy as np
import tensorflow as tf


def largest_difference(model, arrays) -> float:
    """Of the detections of all sequences; infinite where their number differs."""
    serve = model.signatures["serving_default"]
    largest = 0.0
    for i in range(sum(name.startswith("features") for name in arrays)):
        features = arrays[f"features{i}"]
        detections = serve(
            features=tf.constant(features[None]),
            num_steps=tf.constant([len(features)], tf.int32),
            seconds_per_step=tf.constant([arrays[f"seconds_per_step{i}"]], tf.float32),
        )
        largest = max(largest, _difference(detections, arrays, i))
    return largest


def _difference(detections, arrays, i: int) -> float:
    if not np.array_equal(detections["num_detections"].numpy(), arrays[f"num_detections{i}"]):
        return float("inf")
    pairs = [(detections[name].numpy(), arrays[f"{name}{i}"]) for name in ("segments", "scores", "class_ids")]
    return float(max(np.abs(a - b).max(initial=0) for a, b in pairs))


def raw_difference(model, arrays) -> float:
    """Of the candidates of all windows: the largest among 99 of 100.

    Rounding alone can take a candidate over the bound of background probability, or reverse its segment: then its score
    is 0 on one side only. A second stage has its candidates in the order of its proposals, which rounding changes where
    these score alike: there each is compared with the one that is nearest to it.
    """
    candidates = model.signatures["raw"](features=tf.constant(arrays["windows"]))
    pairs = [(candidates[name].numpy(), arrays[f"raw_{name}"]) for name in ("segments", "scores")]
    if arrays["raw_in_order"]:
        return float(max(np.quantile(np.abs(a - b), 0.99) for a, b in pairs))
    found, expected = (
        np.concatenate([segments, scores[..., None]], axis=-1) for segments, scores in zip(*pairs, strict=True)
    )
    both_ways = [(a, b) for one in zip(found, expected, strict=True) for a, b in (one, one[::-1])]
    return float(np.quantile(np.concatenate([_distances(a, b) for a, b in both_ways]), 0.99))


def _distances(rows, others):
    """f32[N]: from each of [N, K] to the nearest of [M, K], the largest difference of a value."""
    return np.stack([np.abs(others - row).max(axis=-1).min() for row in rows])


if __name__ == "__main__":
    loaded = tf.saved_model.load(sys.argv[1])
    with np.load(sys.argv[2], allow_pickle=False) as file:
        samples = dict(file)
    print(largest_difference(loaded, samples), raw_difference(loaded, samples))

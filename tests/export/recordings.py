"""What tests of exported forms share: features of a recording, what a form finds in it, whether two found the same."""

import numpy as np
import tensorflow as tf

FEATURES = 5


def random_features(num_steps, seed=0):
    return np.random.default_rng(seed).normal(size=(num_steps, FEATURES)).astype(np.float32)


def found_by(serve, features):
    """Detections of one sequence as rows of score, segment and class."""
    found = serve(
        features=tf.constant(features[None]),
        num_steps=tf.constant([len(features)], tf.int32),
        seconds_per_step=tf.constant([0.5], tf.float32),
    )
    count = int(found["num_detections"][0])
    return {name: found[name].numpy()[0, :count] for name in ("scores", "segments", "class_ids")}


def assert_same(found, expected):
    assert len(expected["scores"]) > 3
    np.testing.assert_array_equal(found["class_ids"], expected["class_ids"])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(found["segments"], expected["segments"], atol=1e-3)

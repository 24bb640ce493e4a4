"""One graph for all settings gives what a graph with the settings as constants gives, to the last bit."""

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection import merging, postprocess
from a2net_tf.detection.postprocess import Candidates

SETTINGS = [
    {"tiou": 0.2},
    {"tiou": 0.35, "min_score": 0.1, "voting_tiou": 0.7},
    {"tiou": 0.2, "soft_sigma": 0.3, "min_score": 0.05},
    {"tiou": 0.5, "soft_sigma": 0.7, "voting_tiou": 0.55},
]
ALSO = (-1, 0, -1)


def random_input(number=240):
    random = np.random.default_rng(3)
    start = random.uniform(-5, 95, (2, number))
    segments = np.stack([start, start + random.uniform(-1, 20, start.shape)], axis=-1)
    candidates = Candidates(
        tf.constant(segments, tf.float32),
        tf.constant(random.uniform(size=start.shape), tf.float32),
        tf.constant(random.integers(3, size=start.shape), tf.int32),
    )
    weights = tf.constant(random.uniform(0.5, 1, 12), tf.float32)
    return candidates, tf.constant([100, 60]), tf.constant([0.5, 0.25]), tf.constant([0.0, 3.0]), weights


def with_constants(settings, limits, also):
    """The graph of these settings alone."""
    suppression = {**settings, "max_detections": max(limits)}

    def run(*arguments):
        return merging.merge(*arguments, suppression=suppression, limits=tf.constant(limits), also=also)

    return tf.function(run, autograph=False)(*random_input())


@pytest.mark.parametrize("few", [2**28, 0], ids=["by the operator", "in rounds"])
@pytest.mark.parametrize("also", [(), ALSO])
def test_numbers_may_be_arguments(also, few, monkeypatch):
    monkeypatch.setattr(postprocess, "_FEW_COMPARISONS", few)
    merging.graph_of.cache_clear()
    for settings in SETTINGS:
        graph = merging.graph_of("soft_sigma" in settings, "voting_tiou" in settings, also)
        for limits in ([30, 30], [40, 20]):
            numbers = [settings.get(name, 0.0) for name in merging.NUMBERS]
            found, expected = graph(*random_input(), limits, numbers), with_constants(settings, limits, also)
            assert expected.num_detections.numpy().min() > 10
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)
        assert graph.experimental_get_tracing_count() == 1
    merging.graph_of.cache_clear()


def test_limits_are_those_of_each_sequence():
    found = merging.graph_of(False, False, ())(*random_input(), [5, 3], [0.9, 0.0, 0.0, 0.0])
    assert found.num_detections.numpy().tolist() == [5, 3]
    assert not found.scores[1, 3:].numpy().any()


def test_another_class_is_reported_too():
    """Each run of class 1 is a jump as well, with the same score."""
    found = merging.graph_of(False, False, ALSO)(*random_input(), [200, 200], [0.1, 0.0, 0.0, 0.0])
    rows = set(zip(found.segments[0, :, 0].numpy(), found.scores[0].numpy(), found.class_ids[0].numpy(), strict=True))
    ones = [(start, score) for start, score, label in rows if label == 1 and score > 0]
    assert ones
    assert all((start, score, 0) in rows for start, score in ones)

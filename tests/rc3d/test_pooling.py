"""Pooling of proposals from a volume, against a plain restatement."""

import math

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.rc3d import pooling

RANDOM = np.random.default_rng(0)
STEPS, FRAMES = 12, 8


def plainly(volume, segment):
    """[4, 2, 2, C] of [T, H, W, C]: R-C3D's loops, for frames that are counted from 0 to the last one."""
    steps, height, width, channels = volume.shape
    first_frame, last_frame = segment[0] * steps * FRAMES, segment[1] * steps * FRAMES - 1
    first, last = (math.floor(frame / FRAMES + 0.5) for frame in (first_frame, last_frame))
    length = max(last - first + 1, 1)
    found = np.zeros((*pooling.BINS, channels), np.float32)
    for place in np.ndindex(pooling.BINS):
        edges = []
        for i, start, size, whole in zip(range(3), (first, 0, 0), (length, height, width), volume.shape, strict=False):
            bins = pooling.BINS[i]
            begin, end = math.floor(place[i] * size / bins), math.ceil((place[i] + 1) * size / bins)
            edges.append(slice(*(min(max(start + edge, 0), whole) for edge in (begin, end))))
        part = volume[tuple(edges)].reshape(-1, channels)
        found[place] = part.max(axis=0) if len(part) else 0.0
    return found


def assert_pooled(volume, segments):
    segments = np.asarray(segments, np.float32)
    found = tf.function(lambda v, s: pooling.pool(v, s, FRAMES))(volume, segments).numpy()
    for b, r in np.ndindex(segments.shape[:2]):
        expected = plainly(volume[b], segments[b, r].astype(np.float64))
        np.testing.assert_array_equal(found[b, r].reshape(expected.shape), expected, err_msg=str(segments[b, r]))


def volume(windows=1, size=7, steps=STEPS):
    return RANDOM.normal(size=(windows, steps, size, size, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_random_segments_are_pooled_as_plain_loops_do(size):
    assert_pooled(volume(2, size), np.sort(RANDOM.uniform(0, 1, (2, 60, 2)), axis=-1))


@pytest.mark.parametrize("steps", [1, 5, 96])
def test_the_whole_window(steps):
    assert_pooled(volume(steps=steps), [[[0.0, 1.0]]])


def test_no_length_and_one_frame_and_beyond_the_ends():
    frame = 1 / (STEPS * FRAMES)
    assert_pooled(
        volume(), [[[0, 0], [0.5, 0.5], [1, 1], [0.5, 0.5 + 2 * frame], [-0.5, 0.2], [0.9, 1.6], [-1, 2], [1.2, 1.5]]]
    )


def test_a_bin_that_sees_a_negative_maximum_keeps_it():
    assert (pooling.pool(-1.0 - tf.abs(volume()), tf.constant([[[0.25, 0.75]]]), FRAMES).numpy() < -1).all()


def test_the_gradient_goes_to_the_largest_values():
    values, segments = tf.constant(volume()), tf.constant([[[0.0, 1.0]]])
    with tf.GradientTape() as tape:
        tape.watch(values)
        pooled = pooling.pool(values, segments, FRAMES)
    gradient = tape.gradient(pooled, values).numpy()
    assert gradient.sum() == pooled.shape[-1]
    assert set(np.unique(values.numpy()[gradient > 0])) == set(np.unique(pooled))

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection import geometry

RANDOM = np.random.default_rng(0)


def random_segments(*shape):
    start = RANDOM.uniform(-1, 1, shape)
    return np.stack([start, start + RANDOM.uniform(0.01, 1, shape)], axis=-1).astype(np.float32)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0, 2], [0, 2], 1),
        ([0, 2], [1, 3], 1 / 3),
        ([0, 4], [1, 2], 1 / 4),
        ([-3, -1], [-2, 2], 1 / 5),
        ([0, 1], [1, 2], 0),
        ([0, 1], [5, 6], 0),
        ([1, 1], [0, 2], 0),  # empty
        ([1, 1], [1, 1], 0),
        ([2, 0], [0, 2], 0),  # reversed
        ([0, 2], [2, 0], 0),
        ([2, 0], [2, 0], 0),
        ([0, 0], [0, 0], 0),  # padding
    ],
)
def test_tiou_by_hand(first, second, expected, same_in_graph):
    found = same_in_graph(geometry.tiou, np.float32(first), np.float32(second))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_tiou_is_symmetric_bounded_and_knows_no_unit():
    first, second = random_segments(50), random_segments(50)
    found = geometry.tiou(first, second).numpy()
    np.testing.assert_array_equal(found, geometry.tiou(second, first))
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert 0 < (found > 0).sum() < 50
    np.testing.assert_allclose(found, geometry.tiou(30 * first + 7, 30 * second + 7), atol=1e-5)


def test_pairwise_tiou_is_tiou_of_each_pair(same_in_graph):
    first, second = random_segments(2, 4), random_segments(2, 3)
    found = same_in_graph(geometry.pairwise_tiou, first, second)
    assert found.shape == (2, 4, 3)
    for b, n, m in np.ndindex(2, 4, 3):
        np.testing.assert_allclose(found[b, n, m], geometry.tiou(first[b, n], second[b, m]), rtol=1e-6)


@pytest.mark.parametrize(("num_first", "num_second"), [(4, 0), (0, 4), (0, 0)])
def test_pairwise_tiou_with_nothing(num_first, num_second, same_in_graph):
    found = same_in_graph(geometry.pairwise_tiou, random_segments(2, num_first), random_segments(2, num_second))
    assert found.shape == (2, num_first, num_second)


@pytest.mark.parametrize("value", [[0.0, 0.0], [1.0, 0.0], [0.2, 0.4]])
def test_tiou_gradient_is_finite(value):
    first = tf.Variable([value] * 3)
    with tf.GradientTape() as tape:
        overlap = tf.reduce_sum(geometry.tiou(first, tf.constant([[0.0, 0.0], [0.3, 0.6], [0.6, 0.3]])))
    assert np.isfinite(tape.gradient(overlap, first)).all()


def test_center_width_by_hand(same_in_graph):
    np.testing.assert_allclose(
        same_in_graph(geometry.to_center_width, np.float32([[1, 4], [0, 0]])), [[2.5, 3], [0, 0]]
    )
    np.testing.assert_allclose(same_in_graph(geometry.from_center_width, np.float32([[2.5, 3]])), [[1, 4]])


def test_seconds_by_hand(same_in_graph):
    steps = np.float32([0, 1, 10])
    seconds = same_in_graph(geometry.steps_to_seconds, steps, np.float32(0.5), np.float32(0.25))
    np.testing.assert_allclose(seconds, [0.25, 0.75, 5.25])
    np.testing.assert_allclose(
        same_in_graph(geometry.seconds_to_steps, seconds, np.float32(0.5), np.float32(0.25)), steps
    )


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (geometry.to_center_width, geometry.from_center_width),
        (geometry.from_center_width, geometry.to_center_width),
        (lambda x: geometry.steps_to_seconds(x, 4 / 30, -0.2), lambda x: geometry.seconds_to_steps(x, 4 / 30, -0.2)),
    ],
)
@pytest.mark.parametrize("shape", [(2, 5), (0,)])
def test_round_trip(there, back, shape, same_in_graph):
    given = random_segments(*shape)
    np.testing.assert_allclose(same_in_graph(lambda x: back(there(x)), given), given, atol=1e-6)

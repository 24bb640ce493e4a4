import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection import pyramid

RATIOS = (0.5, 0.75, 1.0, 1.5, 2.0)
ANCHORS = pyramid.default_anchors(32, 4, RATIOS)
RANDOM = np.random.default_rng(0)


def test_level_lengths():
    assert pyramid.level_lengths(128, 6) == [64, 32, 16, 8, 4, 2]
    assert pyramid.level_lengths(128, 3) == [64, 32, 16]
    assert pyramid.level_lengths(2, 1) == [1]


def test_cells_by_hand():
    np.testing.assert_array_equal(pyramid.cell_levels(16, 3), [0] * 8 + [1] * 4 + [2] * 2)
    np.testing.assert_array_equal(pyramid.cell_centers(16, 3), [0, 1, 2, 3, 4, 5, 6, 7, 1, 3, 5, 7, 2, 6])


def test_anchors_by_hand():
    expected = [[0.25, 0.25], [0.25, 1.0], [0.75, 0.25], [0.75, 1.0], [0.5, 0.5], [0.5, 2.0]]
    np.testing.assert_array_equal(pyramid.default_anchors(4, 2, (0.5, 2.0)), expected)


def test_counts_of_the_paper():
    assert len(pyramid.cell_centers(128, 6)) == len(pyramid.cell_levels(128, 6)) == 126
    assert pyramid.default_anchors(128, 6, RATIOS).shape == (630, 2)


@pytest.mark.parametrize(("window_steps", "num_levels"), [(128, 6), (128, 7), (96, 4), (2, 1)])
def test_anchor_centers_lie_evenly_in_the_window(window_steps, num_levels):
    anchors = pyramid.default_anchors(window_steps, num_levels, (1.0,))
    levels = pyramid.cell_levels(window_steps, num_levels)
    for i, n in enumerate(pyramid.level_lengths(window_steps, num_levels)):
        centers, widths = anchors[levels == i].T
        np.testing.assert_allclose(centers - widths / 2, np.arange(n) / n, atol=1e-6)  # ratio 1 tiles the window
        np.testing.assert_allclose(widths, 1 / n)


def test_decode_by_hand(same_in_graph):
    anchors = np.float32([[0.5, 0.2]])
    offsets = np.float32([[[1.0, 0.0]], [[0.0, np.log(2) / 0.1]], [[0.0, 0.0]]])
    found = same_in_graph(lambda x: pyramid.decode_anchors(x, anchors, 0.1, 0.1), offsets)
    np.testing.assert_allclose(found[:, 0], [[0.42, 0.62], [0.3, 0.7], [0.4, 0.6]], rtol=1e-6)


@pytest.mark.parametrize(("center_scale", "width_scale"), [(0.1, 0.1), (1.0, 0.3)])
def test_encode_and_decode_are_inverse(center_scale, width_scale, same_in_graph):
    scales = (ANCHORS, center_scale, width_scale)
    offsets = RANDOM.normal(size=(2, len(ANCHORS), 2)).astype(np.float32)
    again = same_in_graph(lambda x: pyramid.encode_anchors(pyramid.decode_anchors(x, *scales), *scales), offsets)
    np.testing.assert_allclose(again, offsets, atol=2e-4)
    start = RANDOM.uniform(0, 0.8, (2, len(ANCHORS)))
    segments = np.stack([start, start + RANDOM.uniform(0.02, 0.2, start.shape)], axis=-1).astype(np.float32)
    again = same_in_graph(lambda x: pyramid.decode_anchors(pyramid.encode_anchors(x, *scales), *scales), segments)
    np.testing.assert_allclose(again, segments, atol=1e-5)


def test_distances_by_hand_and_back(same_in_graph):
    centers = pyramid.cell_centers(32, 4)
    np.testing.assert_allclose(
        pyramid.decode_distances(np.float32([[1, 2], [-1, 3]]), np.float32([4, 5])), [[3, 6], [6, 8]]
    )
    segments = RANDOM.uniform(0, 16, (2, len(centers), 2)).astype(np.float32)
    distances = np.stack([centers - segments[..., 0], segments[..., 1] - centers], axis=-1)  # Eq. 3
    found = same_in_graph(lambda x: pyramid.decode_distances(x, centers), distances)
    np.testing.assert_allclose(found, segments, atol=1e-5)


def test_decoding_nothing(same_in_graph):
    none = np.zeros((0, len(ANCHORS), 2), np.float32)
    assert same_in_graph(lambda x: pyramid.decode_anchors(x, ANCHORS, 0.1, 0.1), none).shape == none.shape
    assert same_in_graph(lambda x: pyramid.encode_anchors(x, ANCHORS, 0.1, 0.1), none).shape == none.shape
    assert same_in_graph(lambda x: pyramid.decode_distances(x, ANCHORS[:, 0]), none).shape == none.shape


@pytest.mark.parametrize("value", [-1e6, 1e6])
def test_absurd_offsets_stay_finite(value):
    offsets = tf.Variable(np.full((len(ANCHORS), 2), value, np.float32))
    with tf.GradientTape() as tape:
        segments = pyramid.decode_anchors(offsets, ANCHORS, 0.1, 0.1)
    assert np.isfinite(segments).all()
    assert np.isfinite(tape.gradient(segments, offsets)).all()


def test_levels_without_anchors():
    """The first ones; the others keep theirs."""
    without = pyramid.default_anchors(32, 4, RATIOS, first_level=3)
    np.testing.assert_array_equal(without, ANCHORS[-len(RATIOS) * (4 + 2) :])


def test_cells_of_later_levels_alone():
    np.testing.assert_array_equal(pyramid.cell_centers(64, 3, 3), 2 + 4 * np.arange(8))
    np.testing.assert_array_equal(pyramid.cell_centers(64, 3, 2), pyramid.cell_centers(64, 3)[32:])

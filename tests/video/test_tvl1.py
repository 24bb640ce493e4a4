"""TV-L1 on motion that is known, and against OpenCV's. All pictures have one size: each size is compiled anew."""

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.video import tvl1
from a2net_tf.video.decoding import Video
from tests import tiny

KTH = tiny.REPO.parent / "shared" / "data" / "kth"
SHAPE = (3, 40, 56)  # 17 x 23 at the fifth scale
Y, X = np.mgrid[: SHAPE[1], : SHAPE[2]].astype(np.float64)
INSIDE = (slice(6, -6), slice(6, -6))


def texture(x, y):
    """Grey of a smooth pattern at any places: what moves can be rendered exactly."""
    waves = [(0.31, 0.12, 0.5), (-0.17, 0.41, 1.9), (0.52, -0.33, 0.1), (0.07, 0.71, 2.2), (0.83, 0.29, 4.0)]
    return 127 + 22 * sum(np.sin(a * x + b * y + c) for a, b, c in waves)


def moved(u, v):
    """A picture, and the one in which each pixel of the first has moved by about (u, v), which change slowly."""
    return texture(X, Y), texture(X - u, Y - v)


def stacked(pairs):
    return [tf.constant(np.stack(pictures), tf.float32) for pictures in zip(*pairs, strict=True)]


TURN = (-0.05 * (Y - 20), 0.05 * (X - 28))
PAIRS = {"still": moved(0, 0), "shift": moved(2.5, -1.25), "turn": moved(*TURN)}


@pytest.fixture(scope="module")
def found():
    """The flow of all pairs in one batch."""
    return dict(zip(PAIRS, tvl1.tvl1(*stacked(PAIRS.values())).numpy(), strict=True))


def test_nothing_moves(found):
    np.testing.assert_array_equal(found["still"], np.zeros((*SHAPE[1:], 2), np.float32))


def test_right_and_down_are_positive(found):
    away = np.linalg.norm(found["shift"] - (2.5, -1.25), axis=-1)[INSIDE]
    assert away.mean() < 0.1
    assert away.max() < 0.5


def test_a_turn(found):
    away = np.linalg.norm(found["turn"] - np.stack(TURN, axis=-1), axis=-1)[INSIDE]
    assert away.mean() < 0.15


def test_a_pair_does_not_see_the_others_of_its_batch(found):
    """They need different numbers of iterations; one that has converged is left as it is."""
    for name, pair in PAIRS.items():
        alone = tvl1.tvl1(*stacked([pair] * SHAPE[0])).numpy()
        np.testing.assert_array_equal(alone[0], alone[2])
        np.testing.assert_allclose(alone[1], found[name], atol=1e-4)


def opencv(first, second):
    cv2 = pytest.importorskip("cv2", reason="OpenCV (the extra [video]) is not installed")
    if not hasattr(cv2, "optflow"):
        pytest.skip("this package of OpenCV has no TV-L1: it is in those with contrib in their names")
    return cv2.optflow.DualTVL1OpticalFlow_create().calc(first.astype(np.float32), second.astype(np.float32), None)


@pytest.mark.parametrize("name", PAIRS)
def test_equals_opencv(found, name):
    first, second = (picture / 255 for picture in PAIRS[name])  # it takes 8 bits, or floats of 0 to 1
    assert np.linalg.norm(found[name] - opencv(first, second), axis=-1).mean() < 0.05


def test_equals_opencv_on_a_film():
    cv2 = pytest.importorskip("cv2", reason="OpenCV (the extra [video]) is not installed")
    path = KTH / "person01_handclapping_d1_uncomp.avi"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    frames = [frame.to_rgb() for _, frame in zip(range(34), Video(path).frames(), strict=False)]
    grey = [cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), (56, 40), interpolation=cv2.INTER_AREA) for f in frames]
    pairs = [(grey[i], grey[i + 1]) for i in (12, 22, 32)]
    flow = tvl1.tvl1(*stacked(pairs)).numpy()
    for pair, ours in zip(pairs, flow, strict=True):
        theirs = opencv(*(picture / np.float32(255) for picture in pair))
        assert np.abs(theirs).max() > 0.5  # the arms move
        assert np.linalg.norm(ours - theirs, axis=-1).mean() < 0.05


# Its parts, each against OpenCV's


def test_pictures_become_smaller_as_opencv_makes_them():
    cv2 = pytest.importorskip("cv2", reason="OpenCV (the extra [video]) is not installed")
    image = np.random.default_rng(0).uniform(0, 255, (1, 41, 57)).astype(np.float32)
    sizes = [first.shape for first, _ in tvl1._pyramid(tf.constant(image), tf.constant(image))]
    expected, pictures = image[0], []
    for _ in range(5):
        pictures.append(expected)
        expected = cv2.resize(expected, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_LINEAR)
    assert sizes == [(1, *picture.shape) for picture in pictures]
    for (first, _), picture in zip(tvl1._pyramid(tf.constant(image), tf.constant(image)), pictures, strict=True):
        np.testing.assert_allclose(first[0], picture, atol=1e-3)
    larger = tvl1._resize(tf.constant(pictures[1][None]), 41, 57)[0]
    np.testing.assert_allclose(larger, cv2.resize(pictures[1], (57, 41), interpolation=cv2.INTER_LINEAR), atol=1e-3)


@pytest.mark.parametrize(("sides", "count"), [((16, 16), 1), ((20, 40), 2), ((3, 3), 1), ((340, 256), 5)])
def test_no_scale_is_smaller_than_sixteen_pixels(sides, count):
    picture = tf.zeros((1, *sides))
    assert len(tvl1._pyramid(picture, picture)) == count


def test_the_median_is_opencvs():
    cv2 = pytest.importorskip("cv2", reason="OpenCV (the extra [video]) is not installed")
    image = np.random.default_rng(1).normal(size=(2, 9, 11)).astype(np.float32)
    image[1] = np.round(image[1])  # equal values
    for ours, one in zip(tvl1._median(tf.constant(image)), image, strict=True):
        np.testing.assert_array_equal(ours, cv2.medianBlur(one, 5))


@pytest.mark.parametrize("count", range(2, 14))
def test_exchanges_sort(count):
    values = np.random.default_rng(count).integers(0, 4, (200, count)).astype(np.float32)
    found = tvl1._sorted(list(tf.constant(values.T)))
    np.testing.assert_array_equal(np.stack(found, axis=-1), np.sort(values, axis=-1))


def test_warping_is_opencvs():
    """Places outside of the picture, far ones too, count as 0. Before version 5 OpenCV rounded to 1/32 of a pixel."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV (the extra [video]) is not installed")
    random = np.random.default_rng(2)
    image = random.uniform(0, 255, (2, 18, 23)).astype(np.float32)
    u, v = random.normal(0, 6, (2, 2, 18, 23)).astype(np.float32)
    u[0, 0, :2] = 1e4, -1e4
    ix, iy, difference, _ = tvl1._warped(tf.zeros(image.shape), tvl1._planes(tf.constant(image)), u, v)
    warped = difference + ix * u + iy * v
    y, x = np.mgrid[:18, :23].astype(np.float32)
    for i in range(2):
        expected = cv2.remap(image[i], x + u[i], y + v[i], cv2.INTER_CUBIC)
        np.testing.assert_allclose(warped[i], expected, atol=0.02 if int(cv2.__version__[0]) >= 5 else 8)

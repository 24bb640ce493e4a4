import itertools

import numpy as np
import pytest

from a2net_tf.video import optical_flow

cv2 = pytest.importorskip("cv2", reason="OpenCV (the extra [video]) is not installed")


def film(count, height=64, width=80):
    """A smooth pattern that moves 2 pixels to the right and 1 up with each picture."""
    y, x = np.mgrid[:height, :width]
    waves = [(0.31, 0.12, 0.5), (-0.17, 0.41, 1.9), (0.52, -0.33, 0.1), (0.23, 0.51, 2.2)]
    pictures = [127 + 30 * sum(np.sin(a * (x - 2 * t) + b * (y + t) + c) for a, b, c in waves) for t in range(count)]
    return [np.clip(picture, 0, 255).astype(np.uint8) for picture in pictures]


@pytest.mark.parametrize("algorithm", ["dis", "farneback"])
def test_flows_of_opencv_are_in_the_order_of_the_pairs(algorithm):
    pictures = film(9)
    pictures[5] = pictures[4]
    found = list(optical_flow.flows(itertools.pairwise(pictures), algorithm))
    assert [flow.shape for flow in found] == [(64, 80, 2)] * 8
    for number, flow in enumerate(found):
        expected = {4: (0, 0), 5: (4, -2)}.get(number, (2, -1))
        assert np.abs(np.median(flow, axis=(0, 1)) - expected).max() < 0.2, number


@pytest.fixture(scope="module")
def small():
    return list(itertools.pairwise(film(3, 16, 20)))


def test_flows_of_tvl1(small):
    found = list(optical_flow.flows(small, "tvl1"))
    assert [flow.shape for flow in found] == [(16, 20, 2)] * 2
    for flow in found:
        assert np.abs(np.median(flow, axis=(0, 1)) - (2, -1)).max() < 0.5


def test_pairs_that_go_through_together_are_the_same(small):
    """As on a GPU: fewer pairs than fit are filled up, so that nothing is compiled anew."""
    single = np.stack(list(optical_flow.flows(small, "tvl1")))
    filled = optical_flow.tvl1_flow(*map(np.stack, zip(*small, strict=True)), num_pairs=4)
    np.testing.assert_allclose(filled, single, atol=1e-4)


@pytest.mark.parametrize(("count", "pairs"), [(0, 1), (1, 1), (4, 1), (4, 3), (6, 3), (3, 3), (2, 8)])
def test_every_pair_once_whatever_goes_together(count, pairs):
    together = []

    def of_pairs(first, second):
        together.append(len(first))
        return 10 * first + second

    given = [(np.array([number]), np.array([number + 1])) for number in range(count)]
    found = list(optical_flow.in_threads(given, of_pairs, threads=3, num_pairs=pairs))
    assert [int(value[0]) for value in found] == [11 * number + 1 for number in range(count)]
    assert max(together, default=0) == min(count, pairs)


def test_pairs_are_taken_when_they_are_needed():
    """Memory is constant: no more than a few pairs are ahead of what is asked for."""
    taken = itertools.count()
    pairs = ((np.array([next(taken)]),) * 2 for _ in range(1000))
    found = optical_flow.in_threads(pairs, lambda first, second: first, threads=2)
    for _ in range(10):
        next(found)
    found.close()
    assert next(taken) < 20


def test_an_error_in_a_film_comes_out():
    def broken():
        yield from itertools.pairwise(film(3))
        raise OSError("damaged")

    with pytest.raises(OSError, match="damaged"):
        list(optical_flow.flows(broken(), "dis"))


@pytest.mark.parametrize(
    ("pixels", "byte", "kept"),
    [
        (0, 128, 127.5),
        (20, 255, 255),
        (-20, 0, 0),
        (1e6, 255, 255),
        (-33, 0, 0),
        (0.05, 128, 127.81875),
        (10, 191, 191.25),
    ],
)
def test_flow_as_a_picture(pixels, byte, kept):
    """round(255 (v + 20) / 40), as the released features: no motion comes back as 128 / 255 * 2 - 1 = 0.0039."""
    flow = np.full((2, 3, 2), pixels, np.float32)
    eight, exact = (optical_flow.as_picture(flow, values) for values in optical_flow.VALUES)
    assert eight.dtype == np.uint8
    assert exact.dtype == np.float32
    assert set(eight.flat) == {byte}
    np.testing.assert_allclose(exact, kept, atol=1e-4)
    np.testing.assert_allclose(exact / 127.5 - 1, np.clip(flow, -20, 20) / 20, atol=1e-6)


def test_every_byte_comes_back():
    values = np.arange(256, dtype=np.float32)
    flow = values * np.float32(40 / 255) - 20
    np.testing.assert_array_equal(optical_flow.as_picture(flow[:, None], "8bit")[:, 0], values)

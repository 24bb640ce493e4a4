import itertools

import numpy as np
import pytest

from a2net_tf.data import schema
from a2net_tf.detection import windows

RANDOM = np.random.default_rng(0)


def starts_of(num_steps, window_steps, stride_steps):
    return windows.window_starts(num_steps, window_steps=window_steps, stride_steps=stride_steps).numpy()


@pytest.mark.parametrize(
    ("num_steps", "stride_steps", "expected"),
    [
        (1, 64, [0]),
        (127, 64, [0]),
        (128, 64, [0]),
        (129, 64, [0, 1]),
        (192, 64, [0, 64]),
        (193, 64, [0, 64, 65]),
        (256, 64, [0, 64, 128]),
        (300, 128, [0, 128, 172]),
        (500, 200, [0, 200, 372]),
    ],
)
def test_starts_by_hand(num_steps, stride_steps, expected, same_in_graph):
    found = same_in_graph(
        lambda n: windows.window_starts(n, window_steps=128, stride_steps=stride_steps), np.int32(num_steps)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("window_steps", "stride_steps"), [(8, 3), (8, 8), (4, 1)])
def test_windows_cover_every_step_and_end_flush(window_steps, stride_steps):
    for num_steps in range(1, 40):
        starts = starts_of(num_steps, window_steps, stride_steps)
        covered = set(itertools.chain(*(range(s, s + window_steps) for s in starts)))
        assert set(range(num_steps)) <= covered
        assert starts[-1] == max(num_steps - window_steps, 0)
        assert (np.diff(starts) > 0).all()
        assert (starts[:-1] == stride_steps * np.arange(len(starts) - 1)).all()


@pytest.mark.parametrize("stride_steps", [3, 16, 50])
@pytest.mark.parametrize("num_steps", [40, 41, 100, 143])
def test_chunks_own_every_window_exactly_once(num_steps, stride_steps):
    features = np.arange(num_steps, dtype=np.float32)[:, None]
    record = schema.make_record("v", features, (), (), num_classes=1, feature_stride_seconds=1)
    starts = starts_of(num_steps, 16, stride_steps)
    found = []
    for _, chunk in schema.split_into_chunks(record, max_steps=40, overlap_steps=16):
        owned = windows.owned_starts(starts, chunk["chunk_start_step"], chunk["chunk_owned_steps"]).numpy()
        cut = windows.cut_windows(chunk["features"], owned, 16).numpy()
        assert (owned + 16 <= len(chunk["features"])).all()
        found += list(cut[:, 0, 0])
    np.testing.assert_array_equal(found, starts)


def test_owned_starts_by_hand(same_in_graph):
    arguments = np.int32([0, 4, 8, 12, 13]), np.int32(4), np.int32(8)
    np.testing.assert_array_equal(same_in_graph(windows.owned_starts, *arguments), [0, 4])
    assert same_in_graph(windows.owned_starts, np.int32([]), np.int32(4), np.int32(8)).shape == (0,)


def test_cut_windows_repeats_the_last_vector(same_in_graph):
    features = np.float32([[0, 10], [1, 11], [2, 12]])
    found = same_in_graph(lambda x, s: windows.cut_windows(x, s, 4), features, np.int32([0, 2]))
    np.testing.assert_array_equal(found[..., 0], [[0, 1, 2, 2], [2, 2, 2, 2]])
    np.testing.assert_array_equal(found[..., 1], found[..., 0] + 10)
    assert same_in_graph(lambda x, s: windows.cut_windows(x, s, 4), features, np.int32([])).shape == (0, 4, 2)


def clip(segments, starts, min_inside=0.9):
    return windows.clip_actions(segments, starts, window_steps=16, min_inside=min_inside)


def test_clip_by_hand(same_in_graph):
    segments = np.float32([[2, 6], [7, 17], [8, 18], [20, 24]])
    clipped, kept = same_in_graph(clip, segments, np.int32([0, 16]))
    np.testing.assert_array_equal(kept, [[1, 1, 0, 0], [0, 0, 0, 1]])  # [7, 17) has exactly 90 % inside
    np.testing.assert_allclose(clipped[0, :2], [[2 / 16, 6 / 16], [7 / 16, 1]])
    np.testing.assert_allclose(clipped[1, 3], [4 / 16, 8 / 16])


def test_clip_to_windows_of_different_lengths(same_in_graph):
    segments, lengths = np.float32([[2, 6], [7, 17]]), np.float32([12, 20])
    clipped, kept = same_in_graph(
        lambda s, n, w: windows.clip_actions(s, n, window_steps=w, min_inside=0.9), segments, np.int32([0, 2]), lengths
    )
    np.testing.assert_array_equal(kept, [[1, 0], [1, 1]])  # of [7, 17) the first window has half
    np.testing.assert_allclose(clipped, [[[2 / 12, 6 / 12], [7 / 12, 1]], [[0, 4 / 20], [5 / 20, 15 / 20]]])
    equal = windows.clip_actions(segments, np.int32([0, 2]), window_steps=np.float32([16, 16]), min_inside=0.9)
    for one, other in zip(equal, clip(segments, np.int32([0, 2])), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("segment", "min_inside", "expected"),
    [
        ([0, 16], 1.0, True),
        ([0.1, 15.9], 1.0, True),
        ([0, 16.1], 1.0, False),
        ([-1, 9], 0.9, True),
        ([-1.01, 9], 0.9, False),
        ([15, 25], 0.0, True),  # any overlap will do
        ([16, 20], 0.0, False),  # but there must be one
        ([-4, 0], 0.0, False),
    ],
)
def test_share_inside(segment, min_inside, expected):
    _, kept = clip(np.float32([segment]), np.int32([0]), min_inside)
    assert bool(kept[0, 0]) == expected


def test_clip_equals_a_loop():
    start = RANDOM.uniform(0, 60, 40)
    segments = np.stack([start, start + RANDOM.uniform(0.1, 20, 40)], axis=1).astype(np.float32)
    starts = np.int32([0, 5, 16, 48])
    clipped, kept = (value.numpy() for value in clip(segments, starts))
    for n, g in np.ndindex(kept.shape):
        low, high = (min(max(t - starts[n], 0), 16) for t in segments[g])
        assert kept[n, g] == (high - low >= 0.9 * (segments[g, 1] - segments[g, 0]))
        np.testing.assert_allclose(clipped[n, g], [low / 16, high / 16], atol=1e-6)
    assert kept.any()
    assert not kept.all()


def test_clip_nothing(same_in_graph):
    clipped, kept = same_in_graph(clip, np.zeros((0, 2), np.float32), np.int32([0, 16]))
    assert clipped.shape == (2, 0, 2)
    assert kept.shape == (2, 0)


def test_empty_actions_never_count(same_in_graph):
    clipped, kept = same_in_graph(clip, np.zeros((3, 2), np.float32), np.int32([0]))
    assert not kept.any()
    assert np.isfinite(clipped).all()

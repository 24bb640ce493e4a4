"""What of which frames stands in a clip of optical flow, and what statistics of flow mean."""

import numpy as np
import pytest

from a2net_tf.video import clips, flow_clips, optical_flow
from a2net_tf.video.decoding import Frame
from a2net_tf.video.flow_clips import Flow

cv2 = pytest.importorskip("cv2", reason="OpenCV (the extra [video]) is not installed")
DIS = Flow("dis", "8bit")


class Picture:
    """A frame of a pattern at some place; says how often it was made a picture."""

    rotation = 0

    def __init__(self, number, image):
        self.number, self.image, self.asked = number, image, 0

    def to_ndarray(self, format):
        self.asked += 1
        return self.image


def film(count, height=256, width=340, u=4.0, v=-2.0):
    """A pattern that moves by (u, v) pixels from each frame to the next; red says the frame's number, in no flow."""
    y, x = np.mgrid[:height, :width]
    waves = [(0.11, 0.02, 0.5), (-0.07, 0.14, 1.9), (0.15, -0.11, 0.1), (0.05, 0.12, 2.2)]
    pictures = []
    for t in range(count):
        grey = 127 + 30 * sum(np.sin(a * (x - u * t) + b * (y - v * t) + c) for a, b, c in waves)
        image = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
        image[0, 0] = t
        pictures.append(Picture(t, image))
    return pictures


def frames_of(pictures):
    return [Frame(picture.number / 25, 1 / 25, picture) for picture in pictures]


def made(pictures, flow=DIS, with_rgb=True, size=64, fit="squash", clip_frames=4, stride_frames=2):
    how = {"clip_frames": clip_frames, "stride_frames": stride_frames, "size": size, "fit": fit}
    return list(flow_clips.flow_clips(frames_of(pictures), flow, with_rgb=with_rgb, **how))


@pytest.mark.parametrize(("num_frames", "num_clips"), [(0, 0), (1, 0), (4, 0), (5, 1), (6, 1), (7, 2), (12, 4)])
def test_the_last_frame_is_only_for_the_flow_to_it(num_frames, num_clips):
    pictures = film(num_frames, 64, 80)
    found = made(pictures)
    assert [clip.shape for clip in found] == [(4, 64, 64, 5)] * num_clips
    assert all(clip.dtype == np.uint8 for clip in found)
    assert all(picture.asked <= 1 + (picture.number == 0) for picture in pictures)  # the first one says the size too


@pytest.mark.parametrize("fit", clips.FITS)
def test_rgb_of_both_streams_is_that_of_one(fit):
    pictures = film(9, 90, 120)
    how = {"clip_frames": 4, "stride_frames": 2, "size": 64, "fit": fit}
    both, rgb = made(pictures, fit=fit), list(clips.clips(frames_of(pictures), **how))
    assert len(both) == len(rgb) == 3  # of 8 images, and of 9
    np.testing.assert_array_equal(np.stack(both)[..., :3], rgb)
    np.testing.assert_array_equal(np.stack(made(pictures, fit=fit, with_rgb=False)), np.stack(both)[..., 3:])


def test_flow_k_is_that_from_frame_k_to_the_next():
    pictures = film(8)
    pictures[3].image = pictures[2].image
    clip = made(pictures, clip_frames=7, stride_frames=1)[0]
    pixels = np.median(clip[..., 3:].astype(np.float32), axis=(1, 2)) / 127.5 * 20 - 20
    expected = [(4, -2), (4, -2), (0, 0), (8, -4), (4, -2), (4, -2), (4, -2)]
    np.testing.assert_allclose(pixels, expected, atol=0.2)


@pytest.mark.parametrize(
    ("fit", "sides", "ratio"),
    [
        # Squashed to 340 x 256 for the flow, and the flow not changed when that is squashed to a square.
        ("squash", (256, 340), (1, 1)),
        ("squash", (512, 680), (1 / 2, 1 / 2)),
        ("squash", (128, 340), (1, 2)),
        # The shorter side becomes 256 pixels long for the middle 224; the size of the square otherwise.
        ("center", (256, 340), (1, 1)),
        ("center", (512, 680), (1 / 2, 1 / 2)),
        ("crop", (224, 340), (1, 1)),
        ("crop", (448, 500), (1 / 2, 1 / 2)),
        ("crop", (340, 224), (1, 1)),
    ],
)
def test_flow_is_computed_at_the_size_that_networks_were_trained_on(fit, sides, ratio):
    clip = made(film(2, *sides), Flow("dis", "float"), False, 224, fit, 1, 1)[0]
    assert clip.shape == (1, 224, 224, 2)
    assert clip.dtype == np.float32
    pixels = np.median(clip / 127.5 - 1, axis=(0, 1, 2)) * optical_flow.BOUND
    np.testing.assert_allclose(pixels, np.array([4, -2]) * ratio, atol=0.1)


@pytest.mark.parametrize("fit", clips.FITS)
def test_the_square_of_flow_is_that_of_rgb(fit):
    """Only a bright part of the frame moves; the two show it at the same place."""
    texture = np.random.default_rng(0).integers(0, 256, (256, 340)).astype(np.float32)
    texture = cv2.GaussianBlur(texture, (0, 0), 2)[..., None].repeat(3, 2)
    frames = [(texture / 2).astype(np.uint8) for _ in range(2)]
    for frame, shift in zip(frames, (0, 3), strict=True):
        frame[100:160, 200 + shift : 260 + shift] = texture[:60, :60] / 2 + 127
    clip = made([Picture(0, frames[0]), Picture(1, frames[1])], Flow("dis", "float"), True, 224, fit, 1, 1)[0][0]
    moves, shown = clip[..., 3] > 127.5 + 6, clip[..., 0] > 140
    for axis in (0, 1):
        places = [np.flatnonzero(mask.mean(axis) > 0.1).mean() for mask in (moves, shown)]
        assert abs(places[0] - places[1]) < 4


def test_frames_may_change_their_size():
    pictures = film(3, 90, 120) + film(3, 120, 90) + film(2, 91, 121)
    for fit in clips.FITS:
        assert len(made(pictures, fit=fit)) == 2


# Statistics


def beside(pictures, stride_frames=1, rate=5.0, fit="squash", size=32):
    how = {"frame_rate": rate, "stride_frames": stride_frames, "size": size, "fit": fit}
    found = list(flow_clips.frames_with_statistics(frames_of(pictures), DIS, **how))
    return [frame for frame, _ in found], np.array([values for _, values in found]).reshape(-1, 4, 4, 5)


def test_statistics_by_hand():
    """The upper left quarter moves right and up, the lower half left, in a picture of 40 x 20 pixels, 10 frames/s."""
    flow = np.zeros((20, 40, 2), np.float32)
    flow[:10, :20] = 4, -2
    flow[10:, :] = -1, 0
    found = flow_clips.statistics(flow, 10.0).reshape(4, 4, 5)
    np.testing.assert_allclose(found[:2, :2], np.broadcast_to([1, 0, 0, 1, np.sqrt(2)], (2, 2, 5)), rtol=1e-6)
    np.testing.assert_allclose(found[:2, 2:], 0)
    np.testing.assert_allclose(found[2:], np.broadcast_to([0, 0.25, 0, 0, 0.25], (2, 4, 5)), rtol=1e-6)


def test_opposite_motion_in_a_cell_does_not_cancel():
    flow = np.zeros((8, 8, 2), np.float32)
    flow[:, ::2, 0], flow[:, 1::2, 0] = 3, -3
    found = flow_clips.statistics(flow, 8.0).reshape(16, 5)
    np.testing.assert_allclose(found, np.broadcast_to([1.5, 1.5, 0, 0, 3], (16, 5)), rtol=1e-6)


def test_statistics_are_of_the_frame_before_and_the_first_has_none():
    frames, values = beside(film(5))
    assert [frame.shape for frame in frames] == [(1, 32, 32, 3)] * 5
    np.testing.assert_array_equal(values[0], 0)
    expected = [4 * 5 / 340, 0, 0, 2 * 5 / 256, np.hypot(4 * 5 / 340, 2 * 5 / 256)]
    np.testing.assert_allclose(values[1:, 1:3, 1:3], np.broadcast_to(expected, (4, 2, 2, 5)), atol=0.004)


@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_statistics_at_a_stride_are_those_of_the_frames_that_are_wanted(stride):
    pictures = film(8)
    frames, values = beside(pictures, stride)
    wanted = [number for number in range(8) if number % stride == 0]
    assert len(frames) == len(wanted)
    asked = {picture.number for picture in pictures if picture.asked}
    assert asked == {number for number in range(8) if number % stride in (0, stride - 1)}
    np.testing.assert_allclose(values[1:], beside(film(8))[1][wanted[1:]], atol=1e-6)


def test_statistics_do_not_depend_on_the_resolution_or_the_rate():
    _, plain = beside(film(4))
    _, larger = beside(film(4, 512, 680, 8.0, -4.0))  # the same motion of twice as many pixels, and a finer pattern
    _, slower = beside(film(4, u=8.0, v=-4.0), rate=2.5)
    for other in (larger, slower):
        np.testing.assert_allclose(other[1:, 1:3, 1:3], plain[1:, 1:3, 1:3], atol=0.006)


@pytest.mark.parametrize("count", [0, 1])
def test_statistics_of_no_or_one_frame(count):
    frames, values = beside(film(count))
    assert len(frames) == len(values) == count
    assert not values.any()

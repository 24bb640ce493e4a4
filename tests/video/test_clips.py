import numpy as np
import pytest

from a2net_tf.video import clips
from a2net_tf.video.decoding import Frame

cv2 = pytest.importorskip("cv2", reason="OpenCV (the extra [video]) is not installed")


class Picture:
    """A frame of one colour that says how often it was made a picture."""

    rotation = 0

    def __init__(self, number):
        self.number, self.asked = number, 0

    def to_ndarray(self, format):
        self.asked += 1
        return np.full((6, 8, 3), self.number, np.uint8)


def numbers_of(num_frames, clip_frames, stride_frames):
    pictures = [Picture(number) for number in range(num_frames)]
    frames = [Frame(picture.number / 25, 1 / 25, picture) for picture in pictures]
    found = clips.clips(frames, clip_frames=clip_frames, stride_frames=stride_frames, size=4, fit="squash")
    return [clip[:, 0, 0, 0].tolist() for clip in found], [picture.asked for picture in pictures]


@pytest.mark.parametrize("num_frames", [0, 1, 3, 4, 15, 16, 17, 19, 20, 50])
@pytest.mark.parametrize(("clip", "stride"), [(1, 1), (1, 4), (16, 4), (4, 4), (3, 5)])
def test_clips_begin_at_multiples_of_the_stride(num_frames, clip, stride):
    found, asked = numbers_of(num_frames, clip, stride)
    starts = range(0, num_frames - clip + 1, stride)
    assert found == [list(range(start, start + clip)) for start in starts]
    assert len(found) == max(0, (num_frames - clip) // stride + 1)
    used = {number for start in starts for number in range(start, start + clip)}
    assert all(asked[number] == 1 for number in used)  # resized once, though it is in several clips
    assert sum(asked) < len(used) + clip


def test_squash_keeps_all_and_crop_keeps_the_middle():
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, :10, 0] = 255
    image[:, 20:, 2] = 255
    squashed = clips.resize(image, 6, "squash", cv2)
    assert squashed[:, :2, 0].min() == 255
    assert squashed[:, 4:, 2].min() == 255
    assert clips.resize(image, 6, "crop", cv2).max() == 0
    assert clips.resize(image.transpose(1, 0, 2), 6, "crop", cv2).max() == 0


def test_center_is_the_middle_of_the_square():
    image = np.zeros((256, 300, 3), np.uint8)
    image[16:240, 38:262] = 255  # 224 x 224 in the middle
    assert clips.resize(image, 224, "center", cv2).min() == 255
    assert clips.resize(image, 224, "crop", cv2).min() == 0
    wider = clips.resize(np.arange(300, dtype=np.float32)[None].repeat(256, 0), 224, "center", cv2)
    assert wider[0].tolist() == list(range(38, 262))


def test_smaller_pictures_are_averages_and_larger_ones_are_smooth():
    stripes = np.tile(np.array([[0, 255]], np.uint8), (32, 16))[..., None].repeat(3, 2)
    assert set(np.unique(clips.resize(stripes, 8, "squash", cv2))) <= {127, 128}
    assert clips.resize(np.full((2, 2, 3), 7, np.uint8), 8, "squash", cv2).tolist() == np.full((8, 8, 3), 7).tolist()


def test_differences_do_not_depend_on_batches():
    vectors = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    whole = np.concatenate(list(clips.with_differences([vectors])))
    np.testing.assert_array_equal(whole[:, :3], vectors)
    np.testing.assert_array_equal(whole[0, 3:], 0)
    np.testing.assert_array_equal(whole[1:, 3:], np.diff(vectors, axis=0))
    for cuts in ([1], [3, 3, 5], [1, 2, 3, 4, 5, 6]):
        parts = np.split(vectors, cuts)
        np.testing.assert_array_equal(np.concatenate(list(clips.with_differences(parts))), whole)
    assert list(clips.with_differences([])) == []


def test_without_opencv_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(Exception, match=r'needs OpenCV: pip install "\.\[video\]"'):
        numbers_of(1, 1, 1)

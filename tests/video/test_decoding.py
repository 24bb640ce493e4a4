"""Times of frames. Every film is rendered here; its pictures say their own numbers."""

import fractions
import pathlib
import sys

import numpy as np
import pytest

from a2net_tf.errors import UserError
from a2net_tf.video.decoding import Video, resample
from tests import films, tiny

pytest.importorskip("av", reason="PyAV (the extra [video]) is not installed")

KTH = tiny.REPO.parent / "shared" / "data" / "kth"
NTSC = fractions.Fraction(30000, 1001)
UNEVEN = [0.0, 0.04, 0.2, 0.21, 0.5, 1.0, 1.04]


def read(path):
    """The numbers of the pictures, their times, and the video itself."""
    video = Video(pathlib.Path(path))
    shown = [(films.number_of(frame.to_rgb()), frame.seconds) for frame in video.frames()]
    return [number for number, _ in shown], [seconds for _, seconds in shown], video


def resampled(path, rate):
    frames = list(resample(Video(pathlib.Path(path)).frames(), rate))
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(len(frames)) / rate, atol=1e-9)
    return [films.number_of(frame.to_rgb()) for frame in frames]


def expected_numbers(seconds, end, rate):
    """The rule itself, written as it is said: the last frame with time <= k / rate + half a period."""
    count = max(1, int(end * rate + 0.5 + 1e-6))
    return [max(i for i, t in enumerate(seconds) if t <= (k + 0.5) / rate + 1e-6) for k in range(count)]


# --- the clock


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.avi", "mpeg4"), ("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.mov", "mpeg4"), ("a.webm", "libvpx")],
)
def test_all_frames_and_their_times(tmp_path, name, codec):
    numbers, seconds, video = read(films.write(tmp_path / name, codec=codec))
    assert numbers == list(range(50))  # the last one too, which decoders keep back
    np.testing.assert_allclose(seconds, np.arange(50) / 25, atol=1e-3)  # mkv and webm count milliseconds
    assert (video.num_frames, video.skipped, video.damaged, video.complaints()) == (50, 0, 0, "")
    assert video.seconds == pytest.approx(2.0, abs=2e-3)


def test_29_97_frames_per_second_are_not_30(tmp_path):
    _, seconds, video = read(films.write(tmp_path / "a.mp4", 60, rate=NTSC))
    np.testing.assert_allclose(seconds, np.arange(60) * 1001 / 30000, atol=1e-9)
    assert video.seconds == pytest.approx(60 * 1001 / 30000)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_variable_frame_rate(tmp_path, codec):
    path = films.write(tmp_path / "a.mkv", len(UNEVEN), seconds=UNEVEN, codec=codec)
    numbers, seconds, video = read(path)
    assert numbers == list(range(len(UNEVEN)))
    np.testing.assert_allclose(seconds, UNEVEN, atol=1e-9)
    assert resampled(path, 10) == expected_numbers(UNEVEN, video.seconds, 10)


def test_a_start_that_is_not_0_is_subtracted(tmp_path):
    later = [7.3 + t for t in UNEVEN]
    path = films.write(tmp_path / "a.mkv", len(later), seconds=later, open_options={"avoid_negative_ts": "disabled"})
    import av

    with av.open(str(path)) as container:
        assert container.streams.video[0].start_time == 7300  # the trap is there
    numbers, seconds, _ = read(path)
    assert numbers == list(range(len(UNEVEN)))
    np.testing.assert_allclose(seconds, UNEVEN, atol=1e-9)


def test_reordered_frames_come_in_the_order_of_their_times(tmp_path):
    path = films.write(tmp_path / "a.mp4", codec="libx264", options={"bf": "3", "b-adapt": "0"})
    numbers, seconds, _ = read(path)
    assert numbers == list(range(50))
    np.testing.assert_allclose(seconds, np.arange(50) / 25, atol=1e-9)


def test_a_bare_stream_without_times(tmp_path):
    numbers, seconds, _ = read(films.write(tmp_path / "a.m4v", 20))
    assert numbers == list(range(20))
    np.testing.assert_allclose(seconds, np.arange(20) / 25, atol=1e-9)


def test_the_headers_number_of_frames_is_not_used(tmp_path):
    path = films.write(tmp_path / "a.avi")
    content = path.read_bytes()
    for place in (content.index(b"avih") + 24, content.index(b"strh") + 40):  # total frames; length of the stream
        content = content[:place] + (467).to_bytes(4, "little") + content[place + 4 :]
    path.write_bytes(content)
    import av

    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 467  # the trap is there
    numbers, seconds, video = read(path)
    assert numbers == list(range(50))
    assert seconds[-1] == pytest.approx(49 / 25)
    assert "ends at 2.0 s of 18.7 s" in video.complaints()


@pytest.mark.parametrize(("name", "frames"), [("person01_jogging_d1_uncomp.avi", 415)])
def test_a_recording_of_kth(name, frames):
    if not (KTH / name).exists():
        pytest.skip(f"{KTH / name} is not there")
    seconds = [frame.seconds for frame in Video(KTH / name).frames()]
    np.testing.assert_allclose(seconds, np.arange(frames) / 25, atol=1e-9)


def test_all_recordings_of_kth_end_where_their_labels_end():
    if not KTH.is_dir():
        pytest.skip(f"{KTH} is not there")
    rows = [line.split(",") for line in (KTH / "labels.csv").read_text().splitlines()[1:]]
    last = {name: max(int(row[2]) for row in rows if row[0] == name) for name in {row[0] for row in rows}}
    assert len(last) == 6
    for name, frames in last.items():  # each of these has an action that ends with its last frame
        seconds = [frame.seconds for frame in Video(KTH / name).frames()]
        np.testing.assert_allclose(seconds, np.arange(frames) / 25, atol=1e-9, err_msg=name)


# --- resampling


@pytest.mark.parametrize("rate", [1, 5, 7.3, 10, 24, 25, 30, 50, 60])
def test_resampling_follows_its_rule(tmp_path, rate):
    path = films.write(tmp_path / "a.mp4", 60, rate=NTSC, codec="libx264")
    times = [k * 1001 / 30000 for k in range(60)]
    assert resampled(path, rate) == expected_numbers(times, 60 * 1001 / 30000, rate)


def test_resampling_by_hand(tmp_path):
    path = films.write(tmp_path / "a.mp4", 10, rate=10)  # at 0, 0.1, ... 0.9 s
    assert resampled(path, 10) == list(range(10))
    assert resampled(path, 5) == [1, 3, 5, 7, 9]  # by 0.1, 0.3, ...
    assert resampled(path, 20) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    assert resampled(path, 0.1) == [9]  # at least one


def test_resampling_milliseconds_makes_no_extra_frame(tmp_path):
    path = films.write(tmp_path / "a.mkv", 31, rate=30)
    assert resampled(path, 30) == list(range(31))


def test_resampling_nothing():
    assert list(resample([], 25)) == []


def test_outputs_are_made_when_they_are_asked_for(tmp_path):
    path = films.write(tmp_path / "a.mkv", 12, seconds=[600.0 * k for k in range(12)])
    frames = resample(Video(path).frames(), 1)
    assert films.number_of(next(frames).to_rgb()) == 0
    assert sum(1 for _ in frames) == 11 * 600 - 1  # the file gives the last one 40 ms


# --- what a picture can be


def turned_file(path, matrix):
    """A film whose header says by ``matrix`` (a, b, c, d of its first two rows) how to turn it."""
    films.write(path, [films.picture(5)] * 10)
    content = path.read_bytes()
    place = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (int(65536 * value).to_bytes(4, "big", signed=True) for value in matrix)
    rows = a + b + bytes(4) + c + d + bytes(4)
    path.write_bytes(content[:place] + rows + content[place + len(rows) :])
    return path


@pytest.mark.parametrize(
    ("matrix", "turns"),  # x' = a x + c y, y' = b x + d y, with y downwards
    [((1, 0, 0, 1), 0), ((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
)
def test_rotation_is_applied(tmp_path, matrix, turns):
    frame = next(Video(turned_file(tmp_path / "a.mp4", matrix)).frames())
    upright = np.rot90(films.picture(5), turns)  # anticlockwise, as numpy counts
    assert frame.to_rgb().shape == upright.shape
    assert np.abs(frame.to_rgb().astype(int) - upright).mean() < 20


@pytest.mark.parametrize(
    ("codec", "pixels"),
    [("libx264", "yuv420p10le"), ("libx264", "gray"), ("ffv1", "gray"), ("ffv1", "bgr0"), ("mjpeg", "yuvj422p")],
)
def test_ten_bits_and_grey(tmp_path, codec, pixels):
    path = films.write(tmp_path / "a.mkv", 20, codec=codec, pixels=pixels)
    numbers, _, _ = read(path)
    assert numbers == list(range(20))
    assert next(Video(path).frames()).to_rgb().dtype == np.uint8


def test_colours_are_red_green_blue(tmp_path):
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 255
    image = next(Video(films.write(tmp_path / "a.mp4", [red] * 3)).frames()).to_rgb()
    assert np.abs(image.reshape(-1, 3).mean(0) - (255, 0, 0)).max() < 12


def test_a_colour_space_that_there_is_not(tmp_path):
    frame = next(Video(films.write(tmp_path / "a.mp4", 10)).frames())
    frame.picture.colorspace = 3  # reserved
    with pytest.raises(OSError, match="not supported"):
        frame.picture.to_ndarray(format="rgb24")  # the trap is there
    assert films.number_of(frame.to_rgb()) == 0


@pytest.mark.parametrize("size", [(63, 47), (64, 47), (33, 65)])
def test_odd_sizes(tmp_path, size):
    images = [films.picture(n, *size) for n in range(10)]
    path = films.write(tmp_path / "a.mkv", images, codec="ffv1", pixels="bgr0")
    numbers, _, _ = read(path)
    assert numbers == list(range(10))
    assert next(Video(path).frames()).to_rgb().shape == (size[1], size[0], 3)


def test_a_size_that_changes(tmp_path):
    small = films.write(tmp_path / "a.mjpeg", 10, codec="mjpeg", pixels="yuvj420p").read_bytes()
    large = [films.picture(n, 96, 80) for n in range(10, 20)]
    other = films.write(tmp_path / "b.mjpeg", large, codec="mjpeg", pixels="yuvj420p").read_bytes()
    (tmp_path / "both.mjpeg").write_bytes(small + other)
    numbers, seconds, _ = read(tmp_path / "both.mjpeg")
    assert numbers == list(range(20))
    np.testing.assert_allclose(np.diff(seconds), 1 / 25)
    assert {f.to_rgb().shape for f in Video(tmp_path / "both.mjpeg").frames()} == {(48, 64, 3), (80, 96, 3)}


@pytest.mark.parametrize("name", ["a b [1] (2).mp4", "ü ö 動画.mp4", "50%d.mp4", "http:x.mp4", "-y.mp4", "a'b\"c.mp4"])
def test_names(tmp_path, name):
    path = films.write(tmp_path / "plain.mp4", 5).rename(tmp_path / name)
    assert read(path)[0] == list(range(5))


# --- damaged and missing


def packets(content):
    """Where the packets of a film in AVI begin and end."""
    place, found = content.index(b"movi") + 4, []
    while content[place : place + 4] == b"00dc":
        length = int.from_bytes(content[place + 4 : place + 8], "little")
        found.append((place + 8, place + 8 + length))
        place += 8 + length + length % 2
    return found


def zero(path, numbers):
    content = path.read_bytes()
    for number in numbers:
        start, end = packets(content)[number]
        content = content[:start] + bytes(end - start) + content[end:]
    path.write_bytes(content)


def test_damaged_packets_in_the_middle_leave_the_clock_right(tmp_path):
    path = films.write(tmp_path / "a.avi", 60, codec="ffv1", pixels="bgr0", options={"g": "1", "slicecrc": "1"})
    content = path.read_bytes()
    for number in (20, 21, 30):  # the beginning of a packet
        start, _ = packets(content)[number]
        content = content[:start] + b"\xff" * 12 + content[start + 12 :]
    path.write_bytes(content)
    numbers, seconds, video = read(path)
    sound = [(n, s) for n, s in zip(numbers, seconds, strict=True) if n == round(25 * s)]
    assert {n for n, _ in sound} >= set(range(60)) - {20, 21, 30}
    assert video.skipped + video.damaged == 3
    assert "3 " in video.complaints()


def test_zeroed_packets_are_skipped_counted_and_said(tmp_path):
    path = films.write(tmp_path / "a.avi", 60, codec="mjpeg", pixels="yuvj420p")
    zero(path, (10, 11, 40))
    numbers, seconds, video = read(path)
    assert numbers == [n for n in range(60) if n not in (10, 11, 40)]
    np.testing.assert_allclose(seconds, np.array(numbers) / 25, atol=1e-9)
    assert video.skipped == 3
    assert video.complaints() == "3 packets or frames that could not be decoded are left out"


def test_one_damaged_timestamp_costs_one_frame(tmp_path):
    """Of Matroska, whose blocks have their time in two bytes, counted from their cluster's."""
    path = films.write(tmp_path / "a.mkv", 50, codec="mjpeg", pixels="yuvj420p")
    content = path.read_bytes()
    block = content.index(b"\x81" + (400).to_bytes(2, "big") + b"\x80")  # track 1, 0.4 s, a key frame
    path.write_bytes(content[: block + 1] + (30000).to_bytes(2, "big") + content[block + 3 :])
    numbers, seconds, video = read(path)
    assert numbers == [number for number in range(50) if number != 10]
    np.testing.assert_allclose(seconds, np.array(numbers) / 25, atol=1e-9)
    assert video.skipped == 1


def test_timestamps_that_jump_by_weeks_are_refused(tmp_path):
    path = films.write(tmp_path / "a.mkv", 4, seconds=[0.0, 0.04, 1e6, 1e6 + 0.04], codec="mjpeg", pixels="yuvj420p")
    with pytest.raises(UserError, match=r"a\.mkv: its timestamps jump from 0\.04 s to 1000000\.00 s: damaged"):
        list(Video(path).frames())


def test_a_file_that_was_cut_off(tmp_path):
    path = films.write(tmp_path / "a.mkv", 250)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    numbers, seconds, video = read(path)
    assert numbers == list(range(len(numbers)))
    assert 80 < len(numbers) < 170
    assert seconds[-1] == pytest.approx((len(numbers) - 1) / 25)
    assert "s of 10.0 s that its header claims (cut off?)" in video.complaints()


def test_one_frame(tmp_path):
    numbers, seconds, video = read(films.write(tmp_path / "a.mp4", 1))
    assert (numbers, seconds) == ([0], [0.0])
    assert video.seconds == pytest.approx(1 / 25)


def cut_mp4(path):
    content = films.write(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])  # its index is at the end


def no_frames(path):
    films.write(path, 3, codec="mjpeg", pixels="yuvj420p")
    zero(path, range(3))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.wav", films.write_sound, "no video in this file, found audio"),
        ("a.mp4", cut_mp4, "no video, or damaged at its beginning"),
        ("a.mp4", lambda path: path.write_bytes(b""), "no video, or damaged at its beginning"),
        ("a.mp4", lambda path: path.write_text("not a video\n" * 50), "no video"),
        ("a.avi", no_frames, "no frame of its video stream can be decoded"),
        ("a.mp4", lambda path: None, "cannot be read: No such file or directory"),
        ("a.mp4", lambda path: path.mkdir(), "cannot be read: Is a directory"),
    ],
)
def test_what_is_no_video_is_refused_by_name(tmp_path, name, make, message):
    path = tmp_path / name
    make(path)
    with pytest.raises(UserError) as caught:
        list(Video(path).frames())
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_cover_is_no_video(tmp_path):
    import av

    path = tmp_path / "a.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("mp3", rate=44100)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        container.mux(cover.encode(av.VideoFrame.from_ndarray(films.picture(1), format="rgb24")))
        container.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.int16), format="s16", layout="mono")
        frame.sample_rate = 44100
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1  # the trap is there
    with pytest.raises(UserError, match="no video in this file, found audio, video"):
        list(Video(path).frames())


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r'needs PyAV: pip install "\.\[video\]"'):
        next(Video(tmp_path / "a.mp4").frames())


def test_ffmpeg_logs_nothing_through_python(tmp_path):
    """With a level of logging, closing a damaged film in its middle waits for ever, once in some hundred times."""
    import av

    av.logging.set_level(av.logging.PANIC)  # as another part of a program may
    path = films.write(tmp_path / "a.mkv", 60, codec="libx264")
    content = bytearray(path.read_bytes())
    content[1200::97] = bytes(len(content[1200::97]))
    path.write_bytes(content)
    frames = Video(path).frames()
    next(frames)
    assert av.logging.get_level() is None
    frames.close()

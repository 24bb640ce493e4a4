"""Detections drawn on the video in which they were found; needs PyAV, OpenCV and matplotlib."""

import fractions
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from a2net_tf import safe_files
from a2net_tf.errors import UserError, one_line
from a2net_tf.report.plots import Bar, colour_of
from a2net_tf.video.clips import import_cv2
from a2net_tf.video.decoding import Video, import_av

SUFFIX = ".mp4"
_LEAST_HEIGHT = 360  # smaller pictures are enlarged, so that names can be read on them
_ROWS_HEIGHT = 120  # of all classes together, in the band below the picture
_MOST_ROW_HEIGHT = 20
_TICKS_PER_SECOND = 1000  # of the clock in the file
_FAINTEST = 0.25  # a detection with score 0 can still be seen
_BACKGROUND = 24
_CODECS = {"libx264": {"crf": "23", "preset": "veryfast"}, "mpeg4": {"qscale": "4"}}


class _Band(NamedTuple):
    """What is below the picture: a row for each class, and in it its detections over the whole time."""

    image: np.ndarray  # u8[height, width, 3]
    seconds: float  # that its width stands for

    def at(self, seconds: float) -> np.ndarray:
        """The band with a line where the video is now."""
        image = self.image.copy()
        column = min(int(seconds / self.seconds * image.shape[1]), image.shape[1] - 1)
        image[:, max(column - 1, 0) : column + 1] = 255
        return image


class _Tag(NamedTuple):
    """A detection and how it is named on the picture while it lasts."""

    start: float
    end: float
    image: np.ndarray  # u8[height, width, 3]


def check_target(path: str) -> None:
    """Raises UserError unless an annotated video can be written there, before hours are spent on detections."""
    if pathlib.Path(path).suffix.lower() != SUFFIX:
        raise UserError(f"--annotated_video={path}: names the film to write; expected an ending of {SUFFIX}")
    import_av()
    import_cv2()
    _font(12)
    safe_files.check_writable(path)


def write(path: str, video: pathlib.Path, bars: Sequence[Bar], class_names: Sequence[str], seconds: float) -> None:
    """Writes a film with the video's pictures at their own times, without its sound.

    Args:
        path: of the film, written whole or not at all.
        video: in which the actions were found.
        bars: start and end in seconds since the first frame, class id and score of each.
        class_names: C names.
        seconds: that the video lasts.

    Raises:
        UserError: the video cannot be read, or the film not be written.
    """
    av = import_av()
    tags = [_tag(bar, class_names) for bar in sorted(bars, key=lambda bar: -(bar[3] or 0))]
    output = band = None
    with (
        safe_files.replace_file(path) as temporary,
        av.open(str(temporary), "w", format="mp4") as container,
        tqdm.tqdm(desc=one_line(path), unit=" frames", leave=False, disable=None) as bar,
    ):
        for frame in Video(video).frames():
            picture = frame.to_rgb()
            if output is None:
                height, width = _size(picture)
                band = _band(bars, class_names, width, seconds)
                output = _Output.open(av, container, (height, width), height + len(band.image))
            shown = [tag for tag in tags if tag.start <= frame.seconds < tag.end]
            output.add(_drawn(picture, height, width, shown), band.at(frame.seconds), frame.seconds)
            bar.update()
        output.close()


class _Output:
    """A video stream that is being written. Its pictures have one size and increasing times."""

    def __init__(self, av: Any, container: Any, stream: Any):
        self._av, self._container, self._stream, self._tick = av, container, stream, -1

    @classmethod
    def open(cls, av: Any, container: Any, size: tuple[int, int], height: int) -> "_Output":
        """A stream of the best codec that this build of FFmpeg has."""
        codec = next(name for name in _CODECS if name in av.codecs_available)
        stream = container.add_stream(codec, options=_CODECS[codec])
        stream.width, stream.height, stream.pix_fmt = size[1], height, "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, _TICKS_PER_SECOND)
        return cls(av, container, stream)

    def add(self, picture: np.ndarray, band: np.ndarray, seconds: float) -> None:
        """Writes a picture u8[H, W, 3] with the band below it."""
        frame = self._av.VideoFrame.from_ndarray(np.concatenate([picture, band]), format="rgb24")
        self._tick = max(round(seconds * _TICKS_PER_SECOND), self._tick + 1)
        frame.pts, frame.time_base = self._tick, fractions.Fraction(1, _TICKS_PER_SECOND)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Writes what the encoder holds back."""
        self._container.mux(self._stream.encode(None))


def _size(picture: np.ndarray) -> tuple[int, int]:
    """Height and width of the film's pictures: even, as the codecs want it."""
    factor = max(1.0, _LEAST_HEIGHT / picture.shape[0])
    return round(picture.shape[0] * factor / 2) * 2, round(picture.shape[1] * factor / 2) * 2


def _drawn(picture: np.ndarray, height: int, width: int, tags: Sequence[_Tag]) -> np.ndarray:
    """The picture in the film's size, with the tags one above the other in its lower left corner."""
    picture = import_cv2().resize(np.ascontiguousarray(picture), (width, height))
    bottom = height - 4
    for tag in tags:
        rows, columns = tag.image.shape[:2]
        if bottom - rows < 0:
            break
        picture[bottom - rows : bottom, 4 : 4 + columns] = tag.image[:, : width - 4]
        bottom -= rows + 2
    return picture


def _tag(bar: Bar, class_names: Sequence[str]) -> _Tag:
    start, end, label, score = bar
    text = f"{class_names[label]} {score:.2f}" if score is not None else class_names[label]
    return _Tag(start, end, _text(text, 16, _bytes(colour_of(label))))


def _band(bars: Sequence[Bar], class_names: Sequence[str], width: int, seconds: float) -> _Band:
    labels = sorted({label for _, _, label, _ in bars})
    row = min(_MOST_ROW_HEIGHT, max(3, _ROWS_HEIGHT // max(len(labels), 1)))
    height = -(-(row * max(len(labels), 1) + 4) // 2) * 2
    image = np.full((height, width, 3), _BACKGROUND, np.uint8)
    for start, end, label, score in sorted(bars, key=lambda bar: bar[3] or 0):
        top = 2 + row * labels.index(label)
        first, last = int(start / seconds * width), int(np.ceil(end / seconds * width))
        strength = _FAINTEST + (1 - _FAINTEST) * (1 if score is None else score)
        colour = _BACKGROUND + strength * (_bytes(colour_of(label)) - _BACKGROUND)
        image[top : top + row - 1, max(first, 0) : max(last, first + 1)] = colour
    if row >= 12:
        for number, label in enumerate(labels):
            _write_over(image, _text(class_names[label], row - 6, None), 2 + row * number, 4)
    return _Band(image, seconds)


def _write_over(image: np.ndarray, text: np.ndarray, top: int, left: int) -> None:
    """Letters in white, what is below them stays."""
    part = image[top : top + len(text), left : left + text.shape[1]]
    np.maximum(part, text[: len(part), : part.shape[1]], out=part)


def _text(text: str, size: int, background: np.ndarray | None) -> np.ndarray:
    """u8[height, width, 3]: white letters on a colour, or on black."""
    from PIL import Image, ImageDraw

    font = _font(size)
    left, top, right, bottom = font.getbbox(one_line(text))
    colour = (0, 0, 0) if background is None else tuple(int(value) for value in background * 0.8)
    image = Image.new("RGB", (max(right - left, 1) + 8, size + 6), colour)
    ImageDraw.Draw(image).text((4 - left, (size + 6 - bottom - top) // 2), one_line(text), "white", font)
    return np.asarray(image)


def _font(size: int) -> Any:
    """The letters that matplotlib brings along: those of OpenCV are ASCII only."""
    try:
        import matplotlib
        from PIL import ImageFont
    except ImportError:
        raise UserError(
            'names on a film need matplotlib, which is not installed: pip install ".[plots]" in the checkout'
        ) from None
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _bytes(colour: tuple[float, float, float]) -> np.ndarray:
    return np.round(255 * np.array(colour))

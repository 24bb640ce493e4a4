"""Video files as frames with the times at which they are shown.

Times are the presentation timestamps of the file, less that of the first frame. Neither the number of frames nor the
frame rate that a header claims is used: both are often wrong, and a rate says nothing where frames are not evenly
spaced.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from a2net_tf.errors import UserError

_UNSPECIFIED = 2  # FFmpeg's number for a colour space that is not known
_LONGEST_GAP_SECONDS = 3600.0  # that a picture may be shown: damaged timestamps jump by weeks
_MISSING_SECONDS = 1.0  # a header may claim so much more than there is before the file is called incomplete


class Frame(NamedTuple):
    """A decoded frame. Its picture is turned into numbers only when it is asked for."""

    seconds: float  # since the first frame
    duration_seconds: float  # that the file gives it; 0 if it gives none
    picture: Any  # av.VideoFrame

    def to_rgb(self) -> np.ndarray:
        """u8[H, W, 3], upright: phones store the sensor's picture and say how it is to be turned."""
        try:
            image = self.picture.to_ndarray(format="rgb24")
        except OSError:  # the file names a colour space that there is not
            self.picture.colorspace = _UNSPECIFIED
            image = self.picture.to_ndarray(format="rgb24")
        return np.rot90(image, round(self.picture.rotation / 90) % 4)


@dataclasses.dataclass
class Video:
    """One file. What its fields say holds when ``frames`` has come to its end.

    Attributes:
        path: the file.
        num_frames: that were decoded.
        seconds: when the last frame ends, counted from the first one.
        skipped: packets that could not be decoded, and frames whose time is not after that of the frame before.
        damaged: frames that the decoder has repaired as well as it could.
        missing_seconds: that the header claims beyond ``seconds``, if they are many; else 0.
    """

    path: pathlib.Path
    num_frames: int = 0
    seconds: float = 0.0
    skipped: int = 0
    damaged: int = 0
    missing_seconds: float = 0.0

    def frames(self) -> Iterator[Frame]:
        """The frames in the order of their times; one is in memory at once.

        Raises:
            UserError: PyAV is missing, the file cannot be read, or no frame of a video stream can be decoded.
        """
        av = import_av()
        try:
            # An open file, not its name: FFmpeg takes a name with : for an address and one with % for a pattern.
            file = open(self.path, "rb")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        try:
            with file, av.open(file, metadata_errors="ignore") as container:
                stream = _video_stream(container, self.path)
                stream.thread_type = "AUTO"
                claimed = _claimed_seconds(container, stream)
                yield from self._timed(av, container, stream)
        except (av.FFmpegError, OSError) as error:
            raise UserError(f"{self.path}: no video, or damaged at its beginning ({error.strerror or error})") from None
        if not self.num_frames:
            raise UserError(f"{self.path}: no frame of its video stream can be decoded (damaged, or cut off too early)")
        missing = claimed - self.seconds
        self.missing_seconds = missing if missing > _MISSING_SECONDS else 0.0

    def _timed(self, av: ModuleType, container: Any, stream: Any) -> Iterator[Frame]:
        """Frames whose times increase, the first at 0."""
        usual = 1 / float(stream.guessed_rate or stream.average_rate or 25)
        first = before = None
        for shown, picture in self._increasing(self._shown(av, container, stream, usual)):
            if first is None:
                first = before = shown
            gap = shown - before
            if gap > _LONGEST_GAP_SECONDS:
                jump = f"from {before - first:.2f} s to {shown - first:.2f} s"
                raise UserError(f"{self.path}: its timestamps jump {jump}: damaged, or two recordings in one file")
            before = shown
            duration = _duration(picture)
            self.num_frames += 1
            self.damaged += picture.is_corrupt
            self.seconds = shown - first + (duration or gap or usual)
            yield Frame(shown - first, duration, picture)

    def _increasing(self, shown: Iterable[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
        """Leaves out what goes back in time. A single frame that is much too late goes, not all that follow it."""
        last, waiting = -math.inf, None
        for new in shown:
            if waiting is None or new[0] > waiting[0]:
                if waiting is not None:
                    yield waiting
                    last = waiting[0]
                waiting = new
                continue
            self.skipped += 1
            if new[0] > last:
                waiting = new
        if waiting is not None:
            yield waiting

    def _shown(self, av: ModuleType, container: Any, stream: Any, usual: float) -> Iterator[tuple[float, Any]]:
        """Pictures with their times in seconds, as the file counts them."""
        previous = None
        for picture in self._decoded(av, container, stream):
            shown = _shown_at(picture)
            if shown is None:  # a bare stream without a container has no times: its frames follow each other
                shown = 0.0 if previous is None else previous + (_duration(picture) or usual)
            previous = shown
            yield shown, picture

    def _decoded(self, av: ModuleType, container: Any, stream: Any) -> Iterator[Any]:
        """Pictures of all packets that can be decoded. Those that cannot are counted; the next ones have own times."""
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except IndexError:  # PyAV's, at the end, of a stream that has appeared in the middle of the file
                return
            except av.FFmpegError:  # the container is damaged here, and what follows cannot be found
                self.skipped += 1
                return
            if packet is None:
                return
            try:
                pictures = packet.decode()
            except av.FFmpegError:
                self.skipped += 1
                continue
            yield from pictures

    def complaints(self) -> str:
        """What is to be said about a file that was read; empty if it is sound."""
        told = []
        if self.skipped:
            told.append(f"{self.skipped} packets or frames that could not be decoded are left out")
        if self.damaged:
            told.append(f"{self.damaged} frames are damaged")
        if self.missing_seconds:
            claimed = self.seconds + self.missing_seconds
            told.append(f"it ends at {self.seconds:.1f} s of {claimed:.1f} s that its header claims (cut off?)")
        return "; ".join(told)


def import_av() -> ModuleType:
    """PyAV; raises UserError if it is not installed."""
    try:
        import av
    except ImportError:
        raise UserError('reading videos needs PyAV: pip install ".[video]" in the checkout') from None
    # No level: PyAV is silent then. With one, FFmpeg's threads ask for Python's lock whenever they complain, and a file
    # that is closed meanwhile waits for them for ever.
    av.logging.set_level(None)
    return av


def _video_stream(container: Any, path: pathlib.Path) -> Any:
    """The first stream of moving pictures; the cover of a piece of music is a stream too, but none of those."""
    import av

    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
        raise UserError(f"{path}: no video in this file, found {kinds}")
    if streams[0].codec_context is None:
        raise UserError(f"{path}: its video is in a format that this PyAV has no decoder for")
    return streams[0]


def _claimed_seconds(container: Any, stream: Any) -> float:
    """How long the file says it is; 0 if it does not. Only good for doubts."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def _shown_at(picture: Any) -> float | None:
    """Seconds; without a presentation time the decoding time, which is the same where no frame waits for another."""
    ticks = picture.dts if picture.pts is None else picture.pts
    return None if ticks is None or picture.time_base is None else float(ticks * picture.time_base)


def _duration(picture: Any) -> float:
    """Seconds that the file gives a picture; 0 if it gives none, or nonsense."""
    if not picture.duration or picture.time_base is None:
        return 0.0
    seconds = float(picture.duration * picture.time_base)
    return seconds if 0 < seconds <= _LONGEST_GAP_SECONDS else 0.0


def resample(frames: Iterable[Frame], rate: float) -> Iterator[Frame]:
    """Frames at even distances, true to the clock of ``frames`` at any rate, even or not.

    Output k stands for the time from k / rate to (k + 1) / rate and is the last frame that is shown by the middle of
    it, at the latest. So a frame may come several times or not at all. There are as many outputs as the time from the
    first frame to the end of the last one holds, rounded, and at least one.

    Args:
        frames: in the order of their times, the first at 0.
        rate: frames per second.

    Yields:
        Frames whose ``seconds`` are k / rate.
    """
    count, shown, gap = 0, None, 0.0
    for frame in frames:
        while shown is not None and (count + 0.5) / rate < frame.seconds - _ROUNDING_SECONDS:
            yield Frame(count / rate, 1 / rate, shown.picture)
            count += 1
        gap = frame.seconds - shown.seconds if shown is not None else 0.0
        shown = frame
    if shown is None:
        return
    end = shown.seconds + (shown.duration_seconds or gap or 1 / rate)
    for number in range(count, max(1, math.floor(end * rate + 0.5 + _ROUNDING_SECONDS))):
        yield Frame(number / rate, 1 / rate, shown.picture)


_ROUNDING_SECONDS = 1e-6  # timestamps are sums of fractions

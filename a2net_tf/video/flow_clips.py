"""Clips that hold optical flow, alone or behind RGB, and statistics of the flow beside single frames."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from a2net_tf.video import clips, optical_flow
from a2net_tf.video.decoding import Frame

CELLS = 4  # of the grid of statistics, along each side
NUM_STATISTICS = CELLS * CELLS * 5
_SQUASHED = 256, 340  # height and width at which the authors computed flow
_SIZE_OF_STATISTICS = 224  # of what is looked at, whatever the network takes


@dataclasses.dataclass(frozen=True)
class Flow:
    """Which flow is wanted of a video.

    Attributes:
        algorithm: of ``optical_flow.ALGORITHMS``.
        values: of ``optical_flow.VALUES``; statistics do not ask for them.
    """

    algorithm: str
    values: str


@dataclasses.dataclass(frozen=True)
class _View:
    """What is looked at of a video's frames: the part of a square of ``size`` pixels, and flow at one size for all."""

    size: int
    fit: str
    height: int  # of the frames that flow is computed of
    width: int

    def rgb(self, image: np.ndarray) -> np.ndarray:
        """u8[S, S, 3] of a frame u8[H, W, 3]."""
        return clips.resize(image, self.size, self.fit, clips.import_cv2())

    def grey(self, image: np.ndarray) -> np.ndarray:
        """u8[height, width] of a frame u8[H, W, 3]."""
        cv2 = clips.import_cv2()
        return cv2.cvtColor(clips.scale(image, self.width, self.height, cv2), cv2.COLOR_RGB2GRAY)

    def seen(self, flow: np.ndarray) -> np.ndarray:
        """The part of a flow [height, width, 2] that ``rgb`` shows: all of it, or the square in its middle."""
        if self.fit == "squash":
            return flow
        top, left = (self.height - self.size) // 2, (self.width - self.size) // 2
        return flow[top : top + self.size, left : left + self.size]

    def flow_picture(self, flow: np.ndarray, values: str) -> np.ndarray:
        """[S, S, 2] of a flow. As the authors did, its values stay as they are where its sides are squashed."""
        picture = optical_flow.as_picture(self.seen(flow), values)
        return clips.scale(picture, self.size, self.size, clips.import_cv2())


def _look(frames: Iterable[Frame], size: int, fit: str) -> tuple[_View, Iterator[Frame]]:
    """The view that fits to the first frame (later ones may have other sizes), and all frames.

    Flow is computed of all of a frame, at the size that its square has then: DeepMind resizes before flow, too.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None or fit == "squash":
        height, width = _SQUASHED
    else:
        sides = np.array(first.to_rgb().shape[:2])
        shorter = round(size / clips.CENTER) if fit == "center" else size
        height, width = (max(shorter, round(side)) for side in sides * shorter / sides.min())
    return _View(size, fit, height, width), itertools.chain([first] if first else [], frames)


def flow_clips(
    frames: Iterable[Frame], flow: Flow, *, with_rgb: bool, clip_frames: int, stride_frames: int, size: int, fit: str
) -> Iterator[np.ndarray]:
    """As ``clips.clips``, of the flow from each frame to the next one. Of n frames n - 1 are used, as the authors did.

    Yields:
        u8[F, S, S, 2], or with RGB before it u8[F, S, S, 5]; f32 of 0 to 255 where flow is wanted as floats.
    """
    view, frames = _look(frames, size, fit)
    waiting: collections.deque = collections.deque()  # for their flow

    def pairs() -> Iterator[optical_flow.Pair]:
        before = None
        for frame in frames:
            image = frame.to_rgb()
            grey = view.grey(image)
            if before is not None:
                yield before, grey
            before = grey
            waiting.append(view.rgb(image) if with_rgb else np.zeros((size, size, 0), np.uint8))

    pictures = (
        np.concatenate([waiting.popleft(), view.flow_picture(field, flow.values)], axis=-1)
        for field in optical_flow.flows(pairs(), flow.algorithm)
    )
    return clips.windows(pictures, clip_frames, stride_frames)


def frames_with_statistics(
    frames: Iterable[Frame], flow: Flow, *, frame_rate: float, stride_frames: int, size: int, fit: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Single frames, each with statistics of the flow to it from the frame before. The first one has none before it.

    Args:
        frames: evenly spaced.
        flow: how it is computed.
        frame_rate: of ``frames``.
        stride_frames: from one frame that is wanted to the next.
        size: S, height and width of a frame.
        fit: of ``clips.FITS``.

    Yields:
        u8[1, S, S, 3] and f32[NUM_STATISTICS].
    """
    view, frames = _look(frames, _SIZE_OF_STATISTICS, fit)
    waiting: collections.deque = collections.deque()

    def pairs() -> Iterator[optical_flow.Pair]:
        before = None
        for number, frame in enumerate(frames):
            if (number + 1) % stride_frames > 1:
                continue  # neither wanted nor before one that is
            image = frame.to_rgb()
            grey = view.grey(image)
            if number % stride_frames == 0:
                waiting.append(clips.resize(image, size, fit, clips.import_cv2())[None])
                yield grey if before is None else before, grey
            before = grey

    for field in optical_flow.flows(pairs(), flow.algorithm):
        yield waiting.popleft(), statistics(view.seen(field), frame_rate)


def statistics(flow: np.ndarray, frame_rate: float) -> np.ndarray:
    """How much moves where, in what direction.

    Args:
        flow: f32[H, W, 2], pixels from one frame to the next.
        frame_rate: frames per second.

    Returns:
        f32[NUM_STATISTICS], five values for each cell of a grid of 4 x 4, line by line: means over the cell of the
        motion to the right, to the left, downwards and upwards (what moves the other way counts as 0), and of the
        length of the motion; in widths (for downwards and upwards heights) of the picture per second.
    """
    height, width = flow.shape[:2]
    right, down = np.moveaxis(flow * (frame_rate / np.array([width, height], np.float32)), -1, 0)
    parts = [np.maximum(right, 0), np.maximum(-right, 0), np.maximum(down, 0), np.maximum(-down, 0)]
    cv2 = clips.import_cv2()
    means = [
        cv2.resize(part.astype(np.float32), (CELLS, CELLS), interpolation=cv2.INTER_AREA)
        for part in (*parts, np.hypot(right, down))
    ]
    return np.stack(means, axis=-1).ravel()

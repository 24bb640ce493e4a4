"""From frames to the clips that an extractor looks at, and to vectors with the differences between them."""

import collections
from collections.abc import Iterable, Iterator
from types import ModuleType

import numpy as np

from a2net_tf.errors import UserError
from a2net_tf.video.decoding import Frame

FITS = ("squash", "crop", "center")
CENTER = 224 / 256  # DeepMind makes the shorter side 256 pixels long and takes the middle 224


def clips(
    frames: Iterable[Frame], *, clip_frames: int, stride_frames: int, size: int, fit: str
) -> Iterator[np.ndarray]:
    """Clips that are complete; clip k begins with frame k * stride_frames.

    Each frame is made a picture once, and not at all if it lies between two clips. A clip is in memory at a time.

    Args:
        frames: evenly spaced.
        clip_frames: F, frames of a clip.
        stride_frames: from one clip to the next.
        size: S, height and width of a frame.
        fit: of ``FITS``, see ``resize``.

    Yields:
        u8[F, S, S, 3], red first.
    """
    cv2 = import_cv2()
    pictures = (
        # of a stride longer than a clip the rest is in none
        resize(frame.to_rgb(), size, fit, cv2) if number % stride_frames < clip_frames else None
        for number, frame in enumerate(frames)
    )
    return windows(pictures, clip_frames, stride_frames)


def windows(pictures: Iterable[np.ndarray], clip_frames: int, stride_frames: int) -> Iterator[np.ndarray]:
    """[F, ...] of pictures [...] that follow each other; those between two clips may be anything."""
    recent: collections.deque = collections.deque(maxlen=clip_frames)
    for number, picture in enumerate(pictures):
        recent.append(picture)
        first = number - clip_frames + 1
        if first >= 0 and first % stride_frames == 0:
            yield np.stack(recent)


def resize(image: np.ndarray, size: int, fit: str, cv2: ModuleType) -> np.ndarray:
    """u8[S, S, 3] of u8[H, W, 3]: all of it with its sides squashed, the largest square in its middle (crop), or
    of that square the middle, as DeepMind did (center).
    """
    if fit != "squash":
        height, width = image.shape[:2]
        side = round(min(height, width) * (CENTER if fit == "center" else 1))
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    return scale(image, size, size, cv2)


def scale(image: np.ndarray, width: int, height: int, cv2: ModuleType) -> np.ndarray:
    """[height, width, C] of [H, W, C]."""
    # Where pictures get smaller, averages: taking single pixels out of them would make fine patterns flicker.
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    return cv2.resize(
        np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )


def import_cv2() -> ModuleType:
    """OpenCV; raises UserError if it is not installed."""
    try:
        import cv2
    except ImportError:
        raise UserError('resizing frames needs OpenCV: pip install ".[video]" in the checkout') from None
    return cv2


def with_differences(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Vectors [N, D] as [N, 2 D]: each with what changed since the vector before it; of the first one, nothing."""
    before = None
    for vectors in batches:
        if not len(vectors):
            continue
        earlier = np.concatenate([vectors[:1] if before is None else before, vectors[:-1]])
        before = vectors[-1:]
        yield np.concatenate([vectors, vectors - earlier], axis=1)

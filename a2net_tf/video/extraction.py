"""One video through an extractor: vectors, batch by batch, in constant memory."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from a2net_tf.errors import UserError
from a2net_tf.video.clips import clips, with_differences
from a2net_tf.video.decoding import Video, resample
from a2net_tf.video.extractors.extractor import Extractor

_FRAMES_AT_ONCE = 64  # that go through the network together


@dataclasses.dataclass(frozen=True)
class Extraction:
    """An extractor and how it is used; all that the features of a folder have in common.

    Attributes:
        extractor: makes vectors of clips.
        frame_rate: frames per second that are taken of a video.
        stride_frames: from one clip to the next.
        fit: how frames become square, see ``clips.resize``.
        motion: none, or difference: what has changed since the vector before stands beside each vector.
    """

    extractor: Extractor
    frame_rate: float
    stride_frames: int
    fit: str
    motion: str

    @property
    def num_features(self) -> int:
        """D."""
        return self.extractor.num_features * (2 if self.motion == "difference" else 1)

    @property
    def stride_seconds(self) -> float:
        """From one vector to the next."""
        return self.stride_frames / self.frame_rate

    @property
    def seen_seconds(self) -> float:
        """The time that a vector is made of."""
        before = self.stride_frames if self.motion == "difference" else 0
        return (self.extractor.clip_frames + before) / self.frame_rate

    @property
    def first_step_seconds(self) -> float:
        """Where the stretch begins that the first vector stands for: as long as a stride, in the middle of its clip."""
        return (self.extractor.clip_frames - self.stride_frames) / 2 / self.frame_rate

    def vectors(self, video: Video) -> Iterator[np.ndarray]:
        """f32[N, D] of one batch of clips after the other. Decoding goes on while the network computes.

        Raises:
            UserError: the video cannot be read or is shorter than a clip, or a vector holds no finite numbers.
        """
        batches = map(self.extractor, self._clips(video))
        count = 0
        for vectors in with_differences(batches) if self.motion == "difference" else batches:
            if not np.isfinite(vectors).all():
                raise UserError(f"{video.path}: {self.extractor.name} makes NaN or infinite values of it")
            count += len(vectors)
            yield vectors
        if not count:
            raise UserError(
                f"{video.path}: {video.seconds:.2f} s at {self.frame_rate:g} frames per second are too short for a "
                f"clip of {self.extractor.clip_frames} frames"
            )

    def _clips(self, video: Video) -> Iterator[tf.Tensor]:
        """u8[N, frames, size, size, 3] of one batch after the other."""
        shape = (self.extractor.clip_frames, self.extractor.size, self.extractor.size, 3)

        def make() -> Iterator[np.ndarray]:
            return clips(
                resample(video.frames(), self.frame_rate),
                clip_frames=self.extractor.clip_frames,
                stride_frames=self.stride_frames,
                size=self.extractor.size,
                fit=self.fit,
            )

        errors: list[Exception] = []
        dataset = tf.data.Dataset.from_generator(
            lambda: _until_error(make, errors), output_signature=tf.TensorSpec(shape, tf.uint8)
        )
        yield from dataset.batch(max(1, _FRAMES_AT_ONCE // shape[0])).prefetch(2)
        if errors and isinstance(errors[0], OSError):
            raise UserError(f"{video.path}: a frame cannot be made a picture ({errors[0]})") from None
        if errors:
            raise errors[0]


def _until_error(make: Callable[[], Iterator[np.ndarray]], errors: list[Exception]) -> Iterator[np.ndarray]:
    """What ``make`` gives up to an error, which is kept: TensorFlow would make one of its own of it."""
    try:
        yield from make()
    except Exception as error:
        errors.append(error)

"""One video through an extractor: vectors, batch by batch, in constant memory."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from a2net_tf.errors import UserError
from a2net_tf.video.clips import clips, with_differences
from a2net_tf.video.decoding import Frame, Video, resample
from a2net_tf.video.extractors.extractor import Extractor
from a2net_tf.video.flow_clips import NUM_STATISTICS, Flow, flow_clips, frames_with_statistics

_FRAMES_AT_ONCE = 64  # that go through the network together


@dataclasses.dataclass(frozen=True)
class Extraction:
    """An extractor and how it is used; all that the features of a folder have in common.

    Attributes:
        extractor: makes vectors of clips.
        frame_rate: frames per second that are taken of a video.
        stride_frames: from one clip to the next.
        fit: how frames become square, see ``clips.resize``.
        motion: what stands beside each vector: none; difference: what has changed since the vector before; or
            flow_statistics: of the flow since the frame before.
        flow: which flow, for extractors that look at it and for flow_statistics.
    """

    extractor: Extractor
    frame_rate: float
    stride_frames: int
    fit: str
    motion: str
    flow: Flow = Flow("tvl1", "8bit")

    @property
    def looks_at_flow(self) -> bool:
        """Whether optical flow is computed."""
        return self.extractor.looks_at != "rgb" or self.motion == "flow_statistics"

    @property
    def num_features(self) -> int:
        """D."""
        beside = {"none": 0, "difference": self.extractor.num_features, "flow_statistics": NUM_STATISTICS}
        return self.extractor.num_features + beside[self.motion]

    @property
    def stride_seconds(self) -> float:
        """From one vector to the next."""
        return self.stride_frames / self.frame_rate

    @property
    def seen_seconds(self) -> float:
        """The time that a vector is made of."""
        more = self.stride_frames if self.motion == "difference" else int(self.looks_at_flow)
        return (self.extractor.clip_frames + more) / self.frame_rate

    @property
    def first_step_seconds(self) -> float:
        """Where the stretch begins that the first vector stands for: as long as a stride, in the middle of its clip."""
        return (self.extractor.clip_frames - self.stride_frames) / 2 / self.frame_rate

    def vectors(self, video: Video) -> Iterator[np.ndarray]:
        """f32[N, D] of one batch of clips after the other. Decoding goes on while the network computes.

        Raises:
            UserError: the video cannot be read or is shorter than a clip, or a vector holds no finite numbers.
        """
        batches = (np.concatenate([self.extractor(clips), beside], axis=1) for clips, beside in self.batches(video))
        count = 0
        for vectors in with_differences(batches) if self.motion == "difference" else batches:
            if not np.isfinite(vectors).all():
                raise UserError(f"{video.path}: {self.extractor.name} makes NaN or infinite values of it")
            count += len(vectors)
            yield vectors
        if not count:
            raise UserError(
                f"{video.path}: {video.seconds:.2f} s at {self.frame_rate:g} frames per second are too short for a "
                f"clip of {self.extractor.clip_frames + ('flow' in self.extractor.looks_at)} frames"
            )

    def batches(self, video: Video) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Clips [N, frames, size, size, channels], and f32[N, values beside their vectors], batch by batch."""
        shape = (self.extractor.clip_frames, self.extractor.size, self.extractor.size, self.extractor.channels)
        as_floats = self.extractor.looks_at != "rgb" and self.flow.values == "float"
        beside = NUM_STATISTICS if self.motion == "flow_statistics" else 0
        errors: list[Exception] = []
        dataset = tf.data.Dataset.from_generator(
            lambda: _until_error(lambda: self._looked_at(resample(video.frames(), self.frame_rate)), errors),
            output_signature=(
                tf.TensorSpec(shape, tf.float32 if as_floats else tf.uint8),
                tf.TensorSpec((beside,), tf.float32),
            ),
        )
        yield from dataset.batch(max(1, _FRAMES_AT_ONCE // shape[0])).prefetch(2)
        if errors and isinstance(errors[0], OSError):
            raise UserError(f"{video.path}: a frame cannot be made a picture ({errors[0]})") from None
        if errors:
            raise errors[0]

    def _looked_at(self, frames: Iterator[Frame]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each clip, and the values that stand beside its vector."""
        extractor, nothing = self.extractor, np.zeros(0, np.float32)
        how = {"stride_frames": self.stride_frames, "size": extractor.size, "fit": self.fit}
        if self.motion == "flow_statistics":
            return frames_with_statistics(frames, self.flow, frame_rate=self.frame_rate, **how)
        how["clip_frames"] = extractor.clip_frames
        if extractor.looks_at == "rgb":
            found = clips(frames, **how)
        else:
            found = flow_clips(frames, self.flow, with_rgb=extractor.looks_at == "rgb+flow", **how)
        return ((clip, nothing) for clip in found)


def _until_error(make: Callable[[], Iterator[Any]], errors: list[Exception]) -> Iterator[Any]:
    """What ``make`` gives up to an error, which is kept: TensorFlow would make one of its own of it."""
    try:
        yield from make()
    except Exception as error:
        errors.append(error)

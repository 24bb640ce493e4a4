"""Video files given to a trained or exported model: their features are made as those were that it was trained on."""

import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from a2net_tf.errors import UserError
from a2net_tf.inference import localization
from a2net_tf.settings import Config
from a2net_tf.video import description
from a2net_tf.video.decoding import Video
from a2net_tf.video.extract_videos import with_progress
from a2net_tf.video.extraction import Extraction

# What vectors depend on and their size does not tell, in the words of the command line.
_TO_BE_SAID = ("frame_rate", "frame_stride", "frame_fit", "motion")


def open_extraction(
    words: Mapping[str, Any], config: Config, given: frozenset[str], *, source: str, num_features: int, stride: float
) -> Extraction:
    """What makes the features that a model takes.

    Args:
        words: how those were made that it was trained on (``video.description``); {} if that is unknown.
        config: of this command.
        given: names of the settings that were given.
        source: of the model, for messages.
        num_features: D of the model.
        stride: seconds from one of its feature vectors to the next.

    Raises:
        UserError: that is unknown and not said now, or contradicts what is said now or what the model takes.
    """
    open_again = description.open_again if words else _open_as_said
    extraction = open_again(words, config, given, source)
    made = extraction.num_features
    if made != num_features:
        raise UserError(
            f"{source} takes {num_features} values per step, but --extractor={config.extractor} with "
            f"--motion={config.motion} makes {made}"
        )
    if not math.isclose(extraction.stride_seconds, stride, rel_tol=1e-3):
        raise UserError(
            f"{source} takes a vector every {stride:g} s, but --frame_stride={extraction.stride_frames} at "
            f"--frame_rate={extraction.frame_rate:g} makes one every {extraction.stride_seconds:g} s"
        )
    return extraction


def _open_as_said(words: Mapping[str, Any], config: Config, given: frozenset[str], source: str) -> Extraction:
    """As ``description.open_again``, without words."""
    asked = _TO_BE_SAID + (("flow",) if config.motion == "flow_statistics" else ())
    asked += ("flow", "flow_values") if config.flow_weights else ()
    left = [name for name in asked if name not in given]
    if "extractor" not in given:
        raise UserError(
            f"{source} was trained on features of which nobody has said how they were made of videos; say it, exactly "
            f"as it was, with --extractor, {', '.join(f'--{name}' for name in left)}"
        )
    extraction = description.open_extraction(config)
    if left:
        taken = {"frame_rate": f"{extraction.frame_rate:g}", "frame_stride": extraction.stride_frames}
        values = ", ".join(f"--{name}={taken.get(name, getattr(config, name))}" for name in left)
        print(f"warning: {source} does not say how its features were made; taken for granted: {values}")
    return extraction


def records(path: pathlib.Path, name: str, extraction: Extraction, base: Mapping[str, Any]) -> Iterator[dict]:
    """Records of one video, whose frames are looked at when the first is asked for.

    Args:
        path: of the video.
        name: of the sequence.
        extraction: makes its features, which are in memory until all records are read.
        base: ``num_features``, ``seconds_per_step`` and ``first_step_seconds`` of the model.

    Raises:
        UserError: the video cannot be read, or is shorter than a clip.
    """
    video = Video(path)
    vectors = list(with_progress(extraction.vectors(video), name, extraction.stride_seconds))
    if complaints := video.complaints():
        print(f"{path}: {complaints}")
    for record in localization.array_records(name, np.concatenate(vectors), str(path), **base):
        yield {**record, "duration_seconds": video.seconds}

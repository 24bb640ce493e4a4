"""A trained run or an exported model as one object that finds actions in whatever is given to it."""

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from a2net_tf import settings
from a2net_tf.detection import precision
from a2net_tf.errors import UserError
from a2net_tf.inference import localization, streams, videos
from a2net_tf.inference.detection_table import DetectionTable
from a2net_tf.inference.exported import open_exported
from a2net_tf.inference.live import saved_model, stream
from a2net_tf.inference.localization import SequenceDetections
from a2net_tf.inference.trained import load_trained
from a2net_tf.settings import Config
from a2net_tf.video import video_files
from a2net_tf.video.extraction import Extraction


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Detector:
    """A trained or exported model. ``a2net_tf.load`` makes one.

    Attributes:
        source: the run, the runs, or the SavedModel that it was loaded from.
        class_names: C names of actions.
        num_features: D, the size of a feature vector.
        seconds_per_step: from one feature vector to the next, unless ``detect`` is told otherwise.
        first_step_seconds: where the first step begins.
        config: the settings in force.
        extraction: how its features are made of videos (see ``video.description``); {} if that is unknown.
    """

    source: str
    class_names: list[str]
    num_features: int
    seconds_per_step: float
    first_step_seconds: float
    config: Config
    extraction: Mapping[str, Any]
    _given: frozenset[str]  # names of the settings that win over what the model says
    _localize: Callable[[Iterable[dict]], Iterator[SequenceDetections]]
    _streamed: stream.Model

    def __repr__(self) -> str:
        """The source and what goes in and out."""
        return (
            f"Detector({self.source}: {len(self.class_names)} classes, {self.num_features} features per step of "
            f"{self.seconds_per_step:g} s)"
        )

    def detect(
        self,
        features: Any,
        *,
        seconds_per_step: float | None = None,
        names: str | Sequence[str] | None = None,
    ) -> DetectionTable:
        """Finds the actions of one or more sequences.

        Args:
            features: numbers [T, D] (numpy or what numpy takes), a path of a file or of a folder of files as
                ``--features`` takes them, a path of a video, or a list of such matrices and paths. T may differ and be
                of any length. Features of videos are made as those were that the model was trained on.
            seconds_per_step: from one feature vector to the next; None: as in training, the only one that
                videos have.
            names: what to call the sequences; by default files have their names without ending, and matrices
                ``sequence`` or, in a list, ``sequence_0`` and so on.

        Returns:
            All detections, in seconds.

        Raises:
            UserError: which of ``features`` is no matrix [T, D] of finite numbers, what it is, and what was expected;
                or ``seconds_per_step`` of a video is not the model's.
        """
        seconds = self.seconds_per_step if seconds_per_step is None else seconds_per_step
        if not 0 < seconds < math.inf:
            raise UserError(f"seconds_per_step={seconds}: must be > 0 and finite")
        base = {**self._base, "seconds_per_step": float(seconds)}
        if isinstance(features, list | tuple):
            sources = [record for i, item in enumerate(features) for record in self._records(item, base, i)]
        else:
            sources = self._records(features, base)
        if not sources:
            raise UserError("features: an empty list; expected matrices [steps, features] or paths")
        return self.detect_records(sources if names is None else _renamed(sources, names))

    def detect_videos(self, source: str) -> DetectionTable:
        """Finds the actions of videos: a file, a folder, or a list in a .txt file, as ``--videos`` takes them.

        Returns:
            All detections, in seconds since the first frame of each video.

        Raises:
            UserError: there are none, one cannot be read, or how to make their features is not known.
        """
        files = video_files.find_videos(source)
        extraction = self._makes_features
        return self.detect_records(videos.records(path, name, extraction, self._base) for name, path in files.items())

    def stream(
        self,
        seconds_per_step: float | None = None,
        *,
        reach_steps: int | None = None,
        latency_steps: int | None = None,
    ) -> streams.LiveStream:
        """For a recording that is still going on: vectors go in as they come, detections come out early.

        Args:
            seconds_per_step: from one feature vector to the next; None: as in training.
            reach_steps: how far before its window a candidate may begin, see ``live.stream.Stream``; None: as long as
                the window. Less makes detections come sooner.
            latency_steps: how many steps after its end a detection comes at the latest; None: four times the window
                and ``reach_steps`` together.

        Returns:
            An open stream, with ``push(features)`` and ``close()``.

        Raises:
            UserError: a setting that cannot be used in a stream (Soft-NMS).
        """
        seconds = self.seconds_per_step if seconds_per_step is None else seconds_per_step
        arguments = {"reach_steps": reach_steps, "latency_steps": latency_steps}
        return streams.LiveStream(self._streamed, seconds_per_step=seconds, **arguments)

    @property
    def _base(self) -> dict[str, Any]:
        """What all sequences share, as ``localization.array_records`` takes it."""
        return {
            "num_features": self.num_features,
            "seconds_per_step": self.seconds_per_step,
            "first_step_seconds": self.first_step_seconds,
        }

    @functools.cached_property
    def _makes_features(self) -> Extraction:
        """Of videos; opened when the first one is given."""
        return videos.open_extraction(
            self.extraction,
            self.config,
            self._given,
            source=self.source,
            num_features=self.num_features,
            stride=self.seconds_per_step,
        )

    def _records(self, item: Any, base: dict[str, Any], position: int | None = None) -> list[Iterator[dict]]:
        """Of a matrix, of a video, of a file of features, or of each such file in a folder.

        Args:
            item: matrix or path.
            base: arguments that all sequences share.
            position: of ``item`` in a list, if it is in one.
        """
        if isinstance(item, str | os.PathLike) and video_files.is_video(pathlib.Path(item)):
            if base != self._base:
                raise UserError(
                    f"{item}: seconds_per_step={base['seconds_per_step']:g} is for features; a video's are made as "
                    f"those that the model was trained on, every {self.seconds_per_step:g} s"
                )
            path = pathlib.Path(item)
            return [videos.records(path, path.stem, self._makes_features, base)]
        return _records_of_features(item, base, position)

    def detect_records(self, sources: Iterable[Iterable[dict]]) -> DetectionTable:
        """Finds the actions of records (see ``data.schema``), each source holding all chunks of its sequences.

        Raises:
            UserError: two sequences have one name.
        """
        found = localization.collect(_distinct(sequence for records in sources for sequence in self._localize(records)))
        return DetectionTable(
            by_video={sequence.video: sequence.merged for sequence in found},
            durations_seconds={sequence.video: sequence.duration_seconds for sequence in found},
            class_names=self.class_names,
        )


def _distinct(sequences: Iterable[SequenceDetections]) -> Iterator[SequenceDetections]:
    seen = set()
    for sequence in sequences:
        if sequence.video in seen:
            raise UserError(f"two sequences are called '{sequence.video}'; give each a name of its own: names=[...]")
        seen.add(sequence.video)
        yield sequence


def _records_of_features(item: Any, base: dict[str, Any], position: int | None) -> list[Iterator[dict]]:
    """See ``Detector._records``."""
    if isinstance(item, str | os.PathLike):
        return localization.read_feature_files(os.fspath(item), **base)
    name, where = ("sequence", "features") if position is None else (f"sequence_{position}", f"features[{position}]")
    try:
        matrix = np.asarray(item)
    except (ValueError, TypeError) as error:  # rows of different lengths, say
        raise UserError(f"{where}: expected a number matrix [steps, features] ({error})") from None
    try:
        return [localization.array_records(name, matrix, where, **base)]
    except UserError as error:
        raise UserError(f"{error}{_hint(where, matrix.shape, base['num_features'])}") from None


def _hint(where: str, shape: tuple[int, ...], num_features: int) -> str:
    expected = f" (expected shape [steps, {num_features}], found {list(shape)})"
    if len(shape) == 2 and shape[0] == num_features != shape[1]:
        return f" Use {where}.T{expected}"
    if len(shape) == 3:
        return f"{expected}; give several sequences as a list of matrices: list({where})"
    return expected


def _renamed(sources: list[Iterator[dict]], names: str | Sequence[str]) -> list[Iterator[dict]]:
    names = [names] if isinstance(names, str) else [str(name) for name in names]
    if len(names) != len(sources):
        raise UserError(f"names: expected {len(sources)}, one for each sequence, found {len(names)}")

    def rename(records: Iterator[dict], name: str) -> Iterator[dict]:
        return ({**record, "id": name} for record in records)

    return [rename(source, name) for source, name in zip(sources, names, strict=True)]


def load(config: Config, given: frozenset[str]) -> Detector:
    """The exported model ``config.saved_model``, or else the run or the runs in ``config.workdir``.

    Args:
        config: settings of this command.
        given: names of those that win over the trained run's.

    Raises:
        UserError: there is none, it is damaged, or a setting was given that is fixed in it.
    """
    return _load_exported(config, given) if config.saved_model else _load_run(config, given)


def _load_run(config: Config, given: frozenset[str]) -> Detector:
    current, localizer = load_trained(config, given)
    precision.announce(current.config.precision, current.computed.precision)
    return Detector(
        source=config.workdir,
        class_names=list(current.class_names),
        num_features=current.num_features,
        seconds_per_step=current.config.seconds_per_step or current.seconds_per_step,
        first_step_seconds=current.first_step_seconds,
        config=current.config,
        extraction=current.extraction,
        _given=given,
        _localize=lambda records: localization.localize(localizer, records),
        _streamed=streams.of_localizer(localizer, current.seconds_per_step, current.also_reported),
    )


def _load_exported(config: Config, given: frozenset[str]) -> Detector:
    model, description = open_exported(config.saved_model)
    settings.refuse_exported_changes(description.settings, config, given)
    return Detector(
        source=config.saved_model,
        class_names=description.class_names,
        num_features=description.num_features,
        seconds_per_step=config.seconds_per_step or description.seconds_per_step,
        first_step_seconds=description.first_step_seconds,
        config=config,
        extraction=description.extraction,
        _given=given,
        _localize=lambda records: localization.localize_exported(model, records),
        _streamed=saved_model.of_saved_model(model),
    )

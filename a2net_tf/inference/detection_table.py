"""What a detector has found in one or more sequences, as rows, as a pandas table and as files."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from a2net_tf import safe_files, settings
from a2net_tf.errors import UserError
from a2net_tf.evaluation import results_files
from a2net_tf.evaluation.instances import Detections
from a2net_tf.safe_files import Path, file_names

_SHOWN_ROWS = 10


class Detection(NamedTuple):
    """One action that was found."""

    video: str
    start_seconds: float
    end_seconds: float
    label: str
    score: float  # in [0, 1], higher is more certain


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DetectionTable:
    """The detections of one or more sequences: sequence after sequence, in each by descending score.

    ``len(table)`` counts the detections, and ``for row in table`` gives each as a ``Detection``.

    Attributes:
        by_video: {name of the sequence: its detections as arrays}; sequences without any are there too.
        durations_seconds: {name of the sequence: how long it is}.
        class_names: C names; ``labels`` of the arrays are positions in it.
    """

    by_video: dict[str, Detections]
    durations_seconds: dict[str, float]
    class_names: list[str]

    @property
    def arrays(self) -> Detections:
        """The detections of all sequences as arrays: videos, segments f64[N, 2] in seconds, labels, scores."""
        return Detections.concatenate(self.by_video.values())

    def __len__(self) -> int:
        return sum(map(len, self.by_video.values()))

    def __iter__(self) -> Iterator[Detection]:
        for video, found in self.by_video.items():
            rows = zip(found.segments.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
            for (start, end), label, score in rows:
                yield Detection(video, start, end, self.class_names[label], score)

    def __repr__(self) -> str:
        """The size, and the first rows as text."""
        sequences = f"{len(self.by_video)} sequence{'s' if len(self.by_video) != 1 else ''}"
        lines = [f"{len(self)} detections in {sequences}"]
        for row, _ in zip(self, range(_SHOWN_ROWS), strict=False):
            times = f"{row.start_seconds:9.2f} - {row.end_seconds:9.2f} s"
            lines.append(f"  {row.video}  {times}  {row.score:.3f}  {row.label}")
        if len(self) > _SHOWN_ROWS:
            lines.append(f"  ... and {len(self) - _SHOWN_ROWS} more")
        return "\n".join(lines)

    def above(self, score: float) -> "DetectionTable":
        """The detections with at least this score."""
        kept = {video: found.select(found.scores >= score) for video, found in self.by_video.items()}
        return dataclasses.replace(self, by_video=kept)

    def to_pandas(self):
        """A pandas.DataFrame with the columns video, start_seconds, end_seconds, label and score.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError(
                'tables need pandas, which is not installed: pip install ".[pandas]" in the checkout'
            ) from None
        return pandas.DataFrame(list(self), columns=Detection._fields)

    def save(self, path: Path, *, subtitle_score: float | None = None) -> list[pathlib.Path]:
        """Writes a file whose ending says the format; an earlier one is kept under a numbered name.

        Args:
            path: ``.json``: ActivityNet results, as ``--mode=predict`` writes them. ``.csv``: one line per detection
                below a header. ``.srt``: subtitles; of several sequences ``found.srt`` becomes ``found.NAME.srt``.
            subtitle_score: detections below it are left out of subtitles; None: the default of ``--subtitle_score``.

        Returns:
            The files written.

        Raises:
            UserError: another ending, or the file cannot be written.
        """
        if subtitle_score is None:
            subtitle_score = settings.FIELDS["subtitle_score"].default
        writers: dict[str, Callable[[Path], list[pathlib.Path]]] = {
            ".json": self.write_json,
            ".csv": self.write_csv,
            ".srt": lambda path: self.write_subtitles(path, min_score=subtitle_score),
        }
        suffix = pathlib.Path(path).suffix.lower()
        if suffix not in writers:
            raise UserError(f"{path}: cannot tell the format from its ending; expected {', '.join(writers)}")
        return writers[suffix](path)

    def write_json(self, path: Path) -> list[pathlib.Path]:
        """Writes ActivityNet results, whatever the ending; see ``save``."""
        _check_all(path)
        results_files.write_activitynet(path, self.arrays, self.class_names, videos=list(self.by_video))
        return [pathlib.Path(path)]

    def write_csv(self, path: Path) -> list[pathlib.Path]:
        """Writes a line per detection, whatever the ending; see ``save``."""
        _check_all(path)
        results_files.write_csv(path, self.arrays, self.class_names)
        return [pathlib.Path(path)]

    def write_subtitles(self, path: Path, *, min_score: float) -> list[pathlib.Path]:
        """Writes subtitles, a file per sequence, with the ending .srt; see ``save``."""
        paths = _subtitle_paths(pathlib.Path(path), list(self.by_video))
        _check_all(*paths)
        for written, found in zip(paths, self.by_video.values(), strict=True):
            results_files.write_srt(written, found, self.class_names, min_score=min_score)
        return paths


def _check_all(*paths: Path) -> None:
    """Refuses all before one is written, if one of them could not be."""
    for path in paths:
        safe_files.check_writable(path)


def _subtitle_paths(path: pathlib.Path, videos: list[str]) -> list[pathlib.Path]:
    """One sequence: found.srt. Several: found.NAME.srt, numbered where file names would clash."""
    if len(videos) == 1:
        return [path.with_suffix(".srt")]
    return [path.with_suffix(f".{name}.srt") for name in file_names(videos)]

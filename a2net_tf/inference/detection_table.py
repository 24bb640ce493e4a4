"""What a detector has found in one or more sequences, as rows, as a pandas table and as files."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from a2net_tf import safe_files, settings
from a2net_tf.annotations import elan, label_studio, subtitles
from a2net_tf.annotations.marks import Found
from a2net_tf.errors import UserError
from a2net_tf.evaluation import results_files
from a2net_tf.evaluation.instances import Detections
from a2net_tf.safe_files import Path, file_names

_SHOWN_ROWS = 10
# What a file of detections may end in; the two that hold every detection come first.
ENDINGS = (".json", ".csv", ".srt", ".vtt", ".eaf", label_studio.ENDING)


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

    def save(
        self,
        path: Path,
        *,
        subtitle_score: float | None = None,
        label_studio_rate: float = 0.0,
        label_studio_url: str | None = None,
    ) -> list[pathlib.Path]:
        """Writes a file whose ending says the format; an earlier one is kept under a numbered name.

        Args:
            path: ``.json``: ActivityNet results, as ``--mode=predict`` writes them. ``.csv``: one line per detection
                below a header. These hold all detections; the others, for people, those from ``subtitle_score`` on.
                ``.srt``, ``.vtt``: subtitles. ``.eaf``: a file of ELAN. Of several sequences ``found.srt`` becomes
                ``found.NAME.srt``, and so with these. ``.labelstudio.json``: predictions for Label Studio.
            subtitle_score: None: the default of ``--subtitle_score``.
            label_studio_rate: the frameRate of Label Studio's <Video>; 0: its time series, along seconds.
            label_studio_url: of a recording in Label Studio, with {name} for its name; None: a local file.

        Returns:
            The files written.

        Raises:
            UserError: another ending, the file cannot be written, or ``.eaf`` without pympi-ling.
        """
        ending = format_of(path)
        if subtitle_score is None:
            subtitle_score = settings.FIELDS["subtitle_score"].default
        match ending:
            case ".json":
                return self.write_json(path)
            case ".csv":
                return self.write_csv(path)
            case ".srt":
                return self.write_subtitles(path, min_score=subtitle_score)
            case label_studio.ENDING:
                _check_all(path)
                url = label_studio_url or f"/data/local-files/?d={{name}}{'.mp4' if label_studio_rate else '.csv'}"
                rows = self._rows(subtitle_score)
                label_studio.write(path, rows, rate=label_studio_rate, url=url)
                return [pathlib.Path(path)]
            case _:
                write = subtitles.write_vtt if ending == ".vtt" else elan.write
                paths = _paths(pathlib.Path(path), list(self.by_video), ending)
                _check_all(*paths)
                for written, (name, rows) in zip(paths, self._rows(subtitle_score).items(), strict=True):
                    write(written, name, rows)
                return paths

    def _rows(self, min_score: float) -> dict[str, list[Found]]:
        """The detections from ``min_score`` on by sequence; sequences without any are there too."""
        rows = {video: [] for video in self.by_video}
        for row in self.above(min_score):
            if math.isfinite(row.start_seconds) and math.isfinite(row.end_seconds):
                rows[row.video].append(Found(*row[1:]))
        return rows

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
        paths = _paths(pathlib.Path(path), list(self.by_video), ".srt")
        _check_all(*paths)
        for written, found in zip(paths, self.by_video.values(), strict=True):
            results_files.write_srt(written, found, self.class_names, min_score=min_score)
        return paths


def _check_all(*paths: Path) -> None:
    """Refuses all before one is written, if one of them could not be."""
    for path in paths:
        safe_files.check_writable(path)


def _paths(path: pathlib.Path, videos: list[str], ending: str) -> list[pathlib.Path]:
    """One sequence: found.srt. Several: found.NAME.srt, numbered where file names would clash."""
    if len(videos) == 1:
        return [path.with_suffix(ending)]
    return [path.with_suffix(f".{name}{ending}") for name in file_names(videos)]


def format_of(path: Path) -> str:
    """The format of a file of detections, one of ``ENDINGS``; raises UserError if it ends in none of them."""
    name = pathlib.Path(path).name.lower()
    fitting = [ending for ending in ENDINGS if name.endswith(ending) and name != ending]
    if not fitting:
        raise UserError(f"{path}: cannot tell the format from its ending; expected {', '.join(ENDINGS)}")
    return max(fitting, key=len)


def check_format(path: Path) -> None:
    """Raises UserError, before anything is computed, if ``path`` ends in no format, or its package is missing."""
    if format_of(path) == ".eaf":
        elan.check_installed()

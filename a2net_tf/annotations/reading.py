"""What has to be said about a file of annotations that the file does not say itself: "reading" in settings.json."""

import dataclasses
import fnmatch
import math
import pathlib
from collections.abc import Collection

from a2net_tf import safe_files
from a2net_tf.data.files import feature_files
from a2net_tf.data.files.frame_labels import BACKGROUND
from a2net_tf.errors import UserError
from a2net_tf.safe_files import Path

DEFAULT_SUBSET = "training"
TIME_UNITS = ("seconds", "milliseconds", "frames")
ROLES = ("video", "start", "end", "label", "score", "subset", "duration")  # what a column may hold


@dataclasses.dataclass(frozen=True)
class Reading:
    """Settings of the reader of annotations.

    Attributes:
        kind: of the files, a name of ``read.KINDS``; empty: it is detected.
        columns: {role: name of its column}, of tables (``ROLES``). "video" also names the key of Label Studio's data.
        tiers: of ELAN and Praat, those to take; empty: all that have times.
        point_seconds: how long an event without a length becomes, around its time; 0: such events are an error.
        rate: per second: labels of frames, frames of Label Studio's video, or frames that are ``time_unit``.
        time_unit: of the numbers in tables, label tracks and Label Studio's time series.
        background: labels of frames that are no action.
        encoding: of texts, by its Python name; empty: UTF-8, or what the mark at the file's beginning says.
        subsets: {subset: names of recordings, which may hold * and ?}; what is named nowhere is for training.
    """

    kind: str = ""
    columns: dict = dataclasses.field(default_factory=dict)
    tiers: tuple[str, ...] = ()
    point_seconds: float = 0.0
    rate: float = 0.0
    time_unit: str = "seconds"
    background: tuple[str, ...] = BACKGROUND
    encoding: str = ""
    subsets: dict = dataclasses.field(default_factory=dict)

    def seconds(self, value: float, where: str) -> float:
        """A number of a file in ``time_unit`` as seconds; raises UserError for frames without a rate."""
        if self.time_unit == "frames":
            return value / self.needed_rate(where)
        return value / 1000 if self.time_unit == "milliseconds" else value

    def needed_rate(self, where: str) -> float:
        """``rate``; raises UserError if there is none."""
        if not self.rate:
            raise UserError(f"{where}: counts frames; say how many a second has: {example('rate', 25)}")
        return self.rate


def example(key: str, value: object) -> str:
    """For messages: how a setting of the reader is given."""
    shown = f'"{value}"' if isinstance(value, str) else value
    return f'{{"reading": {{"{key}": {shown}}}}} in settings.json'


def make_reading(values: dict, where: str) -> Reading:
    """The settings that a JSON object gives; raises UserError for an unknown key or a value that makes no sense."""
    where = f"{where}: reading"
    reading = feature_files.with_values(Reading(), values, where)
    feature_files.check_choice(reading.time_unit, TIME_UNITS, f"{where}: 'time_unit'")
    for key in ("point_seconds", "rate"):
        if not 0 <= getattr(reading, key) < math.inf:
            raise UserError(f"{where}: '{key}' is {getattr(reading, key):g}; expected a number of at least 0")
    for role, column in reading.columns.items():
        feature_files.check_choice(role, ROLES, f"{where}: columns")
        safe_files.check_kind(column, str, f"{where}: columns: {role}")
    for subset, names in reading.subsets.items():
        for name in safe_files.check_kind(names, list, f"{where}: subsets: {subset}"):
            safe_files.check_kind(name, str, f"{where}: subsets: {subset}")
    return reading


def find_reading(source: Path) -> Reading:
    """The settings for a file or folder of annotations: those of settings.json in the folder, or beside the source."""
    source = pathlib.Path(source)
    for folder in (source, source.parent):
        file = folder / feature_files.SETTINGS_FILE
        if file != source and file.is_file():
            values = safe_files.read_json_object(file)
            if "reading" in values:
                return make_reading(safe_files.get_value(values, "reading", str(file), kind=dict), str(file))
    return Reading()


def choose_subsets(names: Collection[str], reading: Reading, where: str) -> dict[str, str]:
    """{recording: its subset} by ``reading.subsets``.

    Raises:
        UserError: a pattern fits no recording, or a recording is in two subsets.
    """
    chosen: dict[str, str] = {}
    for subset, patterns in reading.subsets.items():
        for pattern in patterns:
            fitting = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
            if not fitting:
                raise UserError(f"{where}: \"subsets\" in settings.json: no recording fits '{pattern}' of '{subset}'")
            for name in fitting:
                if chosen.setdefault(name, subset) != subset:
                    raise UserError(f"{where}: \"subsets\": '{name}' is both in '{chosen[name]}' and in '{subset}'")
    return {name: chosen.get(name, DEFAULT_SUBSET) for name in names} if reading.subsets else {}

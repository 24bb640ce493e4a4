"""UCI "Smartphone-Based Recognition of Human Activities and Postural Transitions": a record per recording.

The raw files hold one line per sample (50 Hz) and one label row per action:

    RawData/acc_exp01_user01.txt    three accelerations, in g
    RawData/gyro_exp01_user01.txt   three angular velocities, in rad/s
    RawData/labels.txt              experiment, user, class id, first sample, last sample (1-based, inclusive)

A feature step is a sliding window of samples, flattened; samples 1 to 50 last from 0 to 1 s.
"""

import dataclasses
import pathlib
import re
import zipfile
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from a2net_tf import safe_files
from a2net_tf.data import prepared, schema
from a2net_tf.errors import UserError

SAMPLES_PER_SECOND = 50

CLASS_NAMES = (
    "WALKING",
    "WALKING_UPSTAIRS",
    "WALKING_DOWNSTAIRS",
    "SITTING",
    "STANDING",
    "LAYING",
    "STAND_TO_SIT",
    "SIT_TO_STAND",
    "SIT_TO_LIE",
    "LIE_TO_SIT",
    "STAND_TO_LIE",
    "LIE_TO_STAND",
)

# The authors' own partition (Train/ and Test/subject_id_*.txt) and the splits to ask TFDS for.
TEST_USERS = (2, 4, 9, 10, 12, 13, 18, 20, 24)
TRAIN_USERS = tuple(user for user in range(1, 31) if user not in TEST_USERS)
TRAIN_SPLIT = "+".join(f"user{user:02d}" for user in TRAIN_USERS)
TEST_SPLIT = "+".join(f"user{user:02d}" for user in TEST_USERS)

RawFolder = pathlib.Path | zipfile.Path  # a folder, or a folder inside a zip file: the same methods


@dataclasses.dataclass(eq=False, kw_only=True)
class HaptConfig(tfds.core.BuilderConfig):
    """How samples become feature steps.

    Attributes:
        window_samples: samples in one feature step.
        stride_samples: samples from one feature step to the next.
        channels: 3 for the accelerometer, 6 for accelerometer then gyroscope (x, y, z each).
    """

    window_samples: int
    stride_samples: int
    channels: int

    @property
    def num_features(self) -> int:
        """D, size of one feature vector."""
        return self.window_samples * self.channels

    @property
    def signal(self) -> dict:
        """How a feature vector is made of samples: the fields of ``a2net_tf.augment.SignalLayout``."""
        axes = [[first, first + 1, first + 2] for first in range(0, self.channels, 3)]
        return {
            "samples_per_step": self.window_samples,
            "samples_between_steps": self.stride_samples,
            "channels": self.channels,
            "axes": axes,
        }


@dataclasses.dataclass(frozen=True, order=True)
class Recording:
    """One run of the experiment's protocol by one person."""

    experiment: int
    user: int

    @property
    def name(self) -> str:
        """As in the names of the raw files."""
        return f"exp{self.experiment:02d}_user{self.user:02d}"


@dataclasses.dataclass(frozen=True)
class LabelRow:
    """A row of labels.txt; ``first`` and ``last`` are 1-based samples, both inside the action."""

    line: int
    recording: Recording
    class_id: int
    first: int
    last: int

    @property
    def segment(self) -> tuple[float, float]:
        """Half-open [start, end) in seconds; sample n lasts from (n - 1) / 50 to n / 50."""
        return (self.first - 1) / SAMPLES_PER_SECOND, self.last / SAMPLES_PER_SECOND


class Builder(prepared.RecordBuilder):
    """Builds one split per user, ``user01`` to ``user30``."""

    # TFDS would guess both below a2net_tf/, but in a checkout datasets/ lies beside it.
    code_path = tfds.core.Path(__file__)
    pkg_dir_path = code_path.parent

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {
        "1.0.0": "First release.",
        "1.1.0": "The same records; the metadata declares how feature vectors are made of the signal.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download 'Smartphone-Based Recognition of Human Activities and Postural Transitions' (HAPT) from "
        "https://archive.ics.uci.edu/dataset/341 and put the zip file, or the folder unpacked from it, into manual_dir."
    )
    BUILDER_CONFIGS = [
        HaptConfig(
            name="accelerometer",
            description="Accelerometer only; one step is 1 s (50 samples x 3), every 0.5 s.",
            window_samples=50,
            stride_samples=25,
            channels=3,
        ),
        HaptConfig(
            name="all_sensors",
            description="Accelerometer and gyroscope; one step is 1 s (50 samples x 6), every 0.32 s.",
            window_samples=50,
            stride_samples=16,
            channels=6,
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=schema.record_features(self.builder_config.num_features, CLASS_NAMES, self.stored_features),
            homepage="https://archive.ics.uci.edu/dataset/341",
            metadata=tfds.core.MetadataDict(signal=self.builder_config.signal),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        folder = find_raw_folder(pathlib.Path(dl_manager.manual_dir))
        check_class_names(folder / "activity_labels.txt")
        recordings = find_recordings(folder / "RawData", channels=self.builder_config.channels)
        labels = read_labels(folder / "RawData" / "labels.txt", recordings)
        return {
            f"user{user:02d}": self._generate_examples(folder, [r for r in recordings if r.user == user], labels)
            for user in sorted({recording.user for recording in recordings})
        }

    def _generate_examples(
        self, folder: RawFolder, recordings: list[Recording], labels: list[LabelRow]
    ) -> Iterator[tuple[str, dict]]:
        for recording in recordings:
            rows = [row for row in labels if row.recording == recording]
            yield from self.store(build_record(folder, recording, rows, config=self.builder_config))


def find_raw_folder(manual_dir: pathlib.Path) -> RawFolder:
    """The folder with RawData/labels.txt: ``manual_dir``, a folder in it, or a zip file in it (read without unpacking).

    Raises:
        UserError: there is none, or a zip file cannot be read.
    """
    searched = []
    for candidate in candidate_folders(manual_dir):
        if (candidate / "RawData" / "labels.txt").exists():
            return candidate
        searched.append(candidate)
    for candidate in searched:
        if (candidate / "RawData").is_dir():
            raise UserError(f"{candidate / 'RawData'}: labels.txt is missing; unpacked or copied only in part?")
    raise UserError(
        f"manual_dir={manual_dir}: expected hapt.zip, UCI's own zip file of HAPT, or the folder unpacked from it (with "
        "RawData/labels.txt in it), found none of them"
    )


def candidate_folders(manual_dir: pathlib.Path) -> Iterator[RawFolder]:
    """Yields ``manual_dir``, its folders, then its zip files and their folders; hapt.zip before other zip files."""
    yield manual_dir
    yield from sorted(path for path in manual_dir.iterdir() if path.is_dir())
    for file in sorted(manual_dir.glob("*.zip"), key=lambda path: (path.name != "hapt.zip", path.name)):
        try:
            root = zipfile.Path(file)
        except zipfile.BadZipFile:
            raise UserError(f"{file}: not a readable zip file; an incomplete download?") from None
        yield root
        yield from (path for path in root.iterdir() if path.is_dir())


def check_class_names(file: RawFolder) -> None:
    """Raises UserError unless ``file`` (activity_labels.txt) lists the 12 classes in the known order."""
    rows = [line.split() for line in read_lines(file)]
    for number, name in enumerate(CLASS_NAMES, start=1):
        row = rows[number - 1] if number <= len(rows) else []
        if row != [str(number), name]:
            raise UserError(f"{file}, line {number}: expected '{number} {name}', found '{' '.join(row)}'")
    if len(rows) > len(CLASS_NAMES):
        raise UserError(f"{file}: expected {len(CLASS_NAMES)} classes, found {len(rows)}")


def find_recordings(raw_data: RawFolder, *, channels: int) -> list[Recording]:
    """All recordings in ``raw_data``, sorted by experiment.

    Raises:
        UserError: a recording lacks the file of a sensor that ``channels`` (3 or 6) needs.
    """
    files = {"acc": set(), "gyro": set()}
    for path in raw_data.iterdir():
        match = re.fullmatch(r"(acc|gyro)_exp(\d\d)_user(\d\d)\.txt", path.name)
        if match:
            files[match[1]].add(Recording(int(match[2]), int(match[3])))
    recordings = sorted(files["acc"] | files["gyro"])
    for recording in recordings:
        for sensor, other in (("acc", "gyro"), ("gyro", "acc"))[: channels // 3]:
            if recording not in files[sensor]:
                raise UserError(
                    f"{raw_data}: {other}_{recording.name}.txt has no partner {sensor}_{recording.name}.txt; "
                    "unpacked or copied only in part?"
                )
    return recordings


def read_labels(file: RawFolder, recordings: list[Recording]) -> list[LabelRow]:
    """The rows of labels.txt in file order.

    Raises:
        UserError: names the line of an unknown class or recording, or of a reversed row; or the recording without rows.
    """
    table = read_numbers(file, columns=5)
    rows = [LabelRow(line, Recording(int(e), int(u)), *map(int, rest)) for line, (e, u, *rest) in enumerate(table, 1)]
    for row, numbers in zip(rows, table, strict=True):
        check_label_row(row, f"{file}, line {row.line}", recordings)
        if (numbers != np.floor(numbers)).any():
            raise UserError(f"{file}, line {row.line}: expected five whole numbers, found {numbers.tolist()}")
    for recording in recordings:
        if all(row.recording != recording for row in rows):
            raise UserError(f"{file}: no rows for {recording.name}, whose raw files are there")
    return rows


def check_label_row(row: LabelRow, where: str, recordings: list[Recording]) -> None:
    """Raises UserError naming ``where`` for an unknown class or recording, or impossible samples."""
    if not 1 <= row.class_id <= len(CLASS_NAMES):
        raise UserError(f"{where}: class id {row.class_id}, expected 1 to {len(CLASS_NAMES)}")
    if not 1 <= row.first <= row.last:
        raise UserError(f"{where}: samples {row.first} to {row.last}, expected 1 <= first <= last (reversed?)")
    if row.recording not in recordings:
        raise UserError(f"{where}: there is no file acc_{row.recording.name}.txt")


def build_record(folder: RawFolder, recording: Recording, rows: list[LabelRow], *, config: HaptConfig) -> dict:
    """The record of one recording; see ``a2net_tf.data.schema`` for its fields.

    Raises:
        UserError: a raw file is damaged, is shorter than one window, or ends before a label does.
    """
    file = f"RawData/acc_{recording.name}.txt"
    samples = read_samples(folder / "RawData", recording, channels=config.channels)
    if len(samples) < config.window_samples:
        raise UserError(f"{folder / file}: {len(samples)} samples, but one window needs {config.window_samples}")
    for row in rows:
        if row.last > len(samples):
            raise UserError(
                f"{folder / 'RawData' / 'labels.txt'}, line {row.line}: last sample {row.last}, but {recording.name} "
                f"has only {len(samples)} samples"
            )
    return schema.make_record(
        recording.name,
        cut_windows(samples, config.window_samples, config.stride_samples),
        np.array([row.segment for row in rows]),
        [row.class_id - 1 for row in rows],
        num_classes=len(CLASS_NAMES),
        feature_stride_seconds=config.stride_samples / SAMPLES_PER_SECOND,
        # A window describes its middle, so the first step begins half of what neighbours share after time 0.
        first_step_seconds=(config.window_samples - config.stride_samples) / 2 / SAMPLES_PER_SECOND,
        duration_seconds=len(samples) / SAMPLES_PER_SECOND,
        source=file,
    )


def read_samples(raw_data: RawFolder, recording: Recording, *, channels: int) -> np.ndarray:
    """The recording as f32[samples, channels]; with both sensors it is as long as the shorter one.

    Raises:
        UserError: the two files differ by more than one sample (also checked where only the accelerometer is used).
    """
    acc_file, gyro_file = raw_data / f"acc_{recording.name}.txt", raw_data / f"gyro_{recording.name}.txt"
    acc = read_numbers(acc_file, columns=3)
    if not gyro_file.exists():
        return acc.astype(np.float32)
    gyro = read_numbers(gyro_file, columns=3)
    if abs(len(acc) - len(gyro)) > 1:
        raise UserError(f"{acc_file}: {len(acc)} samples, but {gyro_file.name} has {len(gyro)}; is one cut off?")
    if channels == 3:
        return acc.astype(np.float32)
    length = min(len(acc), len(gyro))
    return np.concatenate([acc[:length], gyro[:length]], axis=1).astype(np.float32)


def cut_windows(samples: np.ndarray, window: int, stride: int) -> np.ndarray:
    """Sliding windows of ``samples`` f[S, channels] as f[(S - window) // stride + 1, window * channels].

    Row-major: all channels of the window's first sample, then of its second, ...
    """
    windows = np.lib.stride_tricks.sliding_window_view(samples, window, axis=0)[::stride]  # steps, channels, window
    return windows.transpose(0, 2, 1).reshape(len(windows), -1)


def read_numbers(file: RawFolder, *, columns: int) -> np.ndarray:
    """The numbers of a text file, f64[lines, columns]; raises UserError naming the first line that is wrong."""
    lines = read_lines(file)
    try:
        numbers = np.loadtxt(lines, ndmin=2, comments=None)
    except ValueError:  # it counts lines from 0 or from 1, depending on the error
        numbers = np.empty((0, 0))
    if numbers.shape != (len(lines), columns) or not np.isfinite(numbers).all():
        raise UserError(f"{file}, {describe_bad_line(lines, columns)}")
    return numbers


def describe_bad_line(lines: list[str], columns: int) -> str:
    """Which of ``lines`` is the first that does not hold ``columns`` finite numbers, and why."""
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) != columns:
            return f"line {number}: expected {columns} numbers, found {len(words)}"
        for word in words:
            try:
                value = float(word)
            except ValueError:
                return f"line {number}: '{word}' is not a number"
            if not np.isfinite(value):
                return f"line {number}: found {word}, expected a finite number"
    return f"lines 1 to {len(lines)}: not readable as numbers"


def read_lines(file: RawFolder) -> list[str]:
    """The lines of a text file without empty ones at its end; raises UserError if there is none to read."""
    lines = safe_files.read_text(file, hint="unpacked or copied only in part?").rstrip().splitlines()
    if not lines:
        raise UserError(f"{file}: is empty; an incomplete download?")
    return lines

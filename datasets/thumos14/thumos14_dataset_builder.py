"""THUMOS14 (temporal action localization): a record per video, from the challenge's annotations and own features.

    annotations_val/   BaseballPitch_val.txt ... Ambiguous_val.txt, detclasslist.txt; a row is: video, start, end (s)
    annotations_test/  the same, ..._test.txt
    video_info_val.csv, video_info_test.csv    frames per second and number of frames of each video
    features/          in one of four layouts, see ``LAYOUTS``
    settings.json      optional, see ``Settings``

Feature vector t stands for the frames [first_frame_offset + t * stride, first_frame_offset + (t + 1) * stride).
"""

import dataclasses
import functools
import itertools
import math
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from a2net_tf import safe_files
from a2net_tf.data import prepared, schema
from a2net_tf.data.files import annotation_files, array_files, feature_files, thumos14_files
from a2net_tf.data.files.thumos14_files import AMBIGUOUS, SUBSETS, Row
from a2net_tf.errors import UserError, list_some

# In the order of detclasslist.txt, with the challenge's numbers.
CLASS_NUMBERS = {
    "BaseballPitch": 7,
    "BasketballDunk": 9,
    "Billiards": 12,
    "CleanAndJerk": 21,
    "CliffDiving": 22,
    "CricketBowling": 23,
    "CricketShot": 24,
    "Diving": 26,
    "FrisbeeCatch": 31,
    "GolfSwing": 33,
    "HammerThrow": 36,
    "HighJump": 40,
    "JavelinThrow": 45,
    "LongJump": 51,
    "PoleVault": 68,
    "Shotput": 79,
    "SoccerPenalty": 85,
    "TennisSwing": 92,
    "ThrowDiscus": 93,
    "VolleyballSpiking": 97,
}
CLASS_NAMES = tuple(CLASS_NUMBERS)

# Every CliffDiving row of the challenge is there as a Diving row too; so a detection of the one is one of the other.
ALSO_REPORTED = {"CliffDiving": "Diving"}

# Test videos that other work leaves out: 0000270 and 0001496 are annotated wrongly, 0001292 has only Ambiguous rows
# (and no row in video_info_test.csv). Kept here unless "exclude_videos" names them.
KNOWN_BAD_VIDEOS = ("video_test_0000270", "video_test_0001292", "video_test_0001496")

# The challenge annotates these beyond their last frame (files that decode only in part, it seems). The challenge's
# evaluation counts such actions although nobody can find them, so they stay.
LONGER_ANNOTATED_THAN_DECODED = (
    "video_validation_0000364",
    "video_validation_0000856",
    "video_test_0000270",
    "video_test_0000814",
    "video_test_0001081",
)
MAX_BEYOND_SECONDS = 1.0  # in any other video
USUAL_FPS = 30.0  # of a video without actions that video_info_*.csv does not list
MAX_DIFFERENCE = 1e-4  # between overlapping windows

VIDEO = r"(video_(?:validation|test)_\d{7})"
LAYOUTS = {
    "crops": "NAME-rgb.npz and NAME-flow.npz in two folders, array 'feature' [crops, T, 1024]",
    "streams": "rgb/NAME.npy and flow/NAME.npy, [T, 1024]",
    "whole": "NAME.npy, [T, 2048] with RGB first",
    "windows": "NAME_FRAME.npz, arrays 'feat_spa' and 'feat_tem' [1024, 128], 'begin_frame', 'vid_name'",
}
WINDOW_KEYS = {"rgb": "feat_spa", "flow": "feat_tem"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What settings.json may set.

    Attributes:
        layout: "auto", or one of ``LAYOUTS`` if the features are there in several.
        crop: of layout "crops": "first" (the release's choice) or "mean".
        fps: of the videos that the features come from, if all were converted to one; 0: as in video_info_*.csv.
        feature_stride_frames: from one vector to the next.
        first_frame_offset: frame at which the stretch of vector 0 begins. The release, and so the default of every
            layout, says 0; the middle of what a vector saw would be (receptive_field_frames - stride) / 2.
        receptive_field_frames: frames that a vector saw; so many may be left over at the end of a video.
        values_per_stream: size of the vectors of RGB, and of flow.
        gaps: of layout "windows", between the windows of a validation video: "refuse", or "split" the video there.
        exclude_videos: left out of their split; "known_bad" stands for ``KNOWN_BAD_VIDEOS``.
        allow_missing: leave out annotated videos without features instead of refusing.
    """

    layout: str = "auto"
    crop: str = "first"
    fps: float = 0.0
    feature_stride_frames: int = 4
    first_frame_offset: float = 0.0
    receptive_field_frames: int = 16
    values_per_stream: int = 1024
    gaps: str = "refuse"
    exclude_videos: tuple[str, ...] = ()
    allow_missing: bool = False


@dataclasses.dataclass(eq=False, kw_only=True)
class Thumos14Config(tfds.core.BuilderConfig):
    """Which streams a feature vector consists of, in their order."""

    streams: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Video:
    """An annotated video; ``num_frames`` is 0 if unknown."""

    name: str
    fps: float
    num_frames: float
    actions: tuple[Row, ...]
    ambiguous: tuple[Row, ...]

    @property
    def labels(self) -> list[str]:
        """Of its actions."""
        return [row.label for row in self.actions]

    @property
    def last_end_seconds(self) -> float:
        """Of what is annotated."""
        return max((row.end_seconds for row in self.actions + self.ambiguous), default=0.0)


# The feature files of one video by stream ("both": RGB and flow in one); only windows are several files per stream.
VideoFiles = dict[str, list[pathlib.Path]]


class Piece(NamedTuple):
    """A stretch of a video without gaps."""

    first_step: int
    features: np.ndarray  # f32[T, D]


class Window(NamedTuple):
    """A window file."""

    start: int  # step
    features: np.ndarray  # f32[128, D]
    file: pathlib.Path

    @property
    def end(self) -> int:
        """Step after the last."""
        return self.start + len(self.features)


class Builder(prepared.FolderBuilder):
    """Builds the splits validation (200 videos, trained on) and test (213)."""

    # TFDS would guess both below a2net_tf/, but in a checkout datasets/ lies beside it.
    code_path = tfds.core.Path(__file__)
    pkg_dir_path = code_path.parent

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    HOMEPAGE = "https://www.crcv.ucf.edu/THUMOS14/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put the challenge's annotations_val/ and annotations_test/, video_info_val.csv, video_info_test.csv and a "
        "folder features/ into manual_dir; the dataset's README says what they look like."
    )
    BUILDER_CONFIGS = [
        Thumos14Config(name="two_stream", description="RGB, then flow: 2048 values.", streams=("rgb", "flow")),
        Thumos14Config(name="rgb", description="RGB only: 1024 values.", streams=("rgb",)),
        Thumos14Config(name="flow", description="Flow only: 1024 values.", streams=("flow",)),
    ]

    def read_folder(self, folder: pathlib.Path) -> prepared.FolderContents:
        """Reads settings and annotations, and finds the feature files."""
        made, extraction = read_extracted(folder / "features")
        settings = check_settings(feature_files.read_settings(folder, made), folder)
        streams = self.builder_config.streams
        layout, files = find_features(folder / "features", settings.layout)
        chosen = {
            split: choose_videos(read_videos(folder, split, settings), files, settings=settings, split=split)
            for split in SUBSETS
        }
        names = [video.name for videos in chosen.values() for video in videos]
        allow, where = settings.allow_missing, str(folder / "features")
        annotation_files.check_missing(names, files, allow_missing=allow, where=where)
        splits, counts = {}, {}
        for split in SUBSETS:
            videos = [video for video in chosen[split] if video.name in files]
            check_partners(files, (video.name for video in videos), layout=layout, streams=streams)
            counts[split] = report_counts(videos, split)
            splits[split] = [
                functools.partial(
                    build_records, video, files[video.name], layout=layout, streams=streams, settings=settings
                )
                for video in videos
            ]
        used = {**dataclasses.asdict(settings), "extraction": extraction}
        metadata = {"also_reported": ALSO_REPORTED, "counts": counts, "settings": used}
        size = settings.values_per_stream * len(streams)
        return prepared.FolderContents(size, CLASS_NAMES, splits, {**metadata, "layout": layout})


def read_extracted(folder: pathlib.Path) -> tuple[Settings, dict]:
    """What ``--mode=extract`` says of the features that it has put into ``folder``, if it has.

    Returns:
        The settings that are so: each vector stands for the middle of what it saw. And how the features were made, {}
        if they come from elsewhere.

    Raises:
        UserError: the folder's settings.json is damaged.
    """
    file = folder / feature_files.SETTINGS_FILE
    words = safe_files.read_json_object(file).get("extraction") if file.exists() else None
    if words is None:
        return Settings(), {}
    rate = float(safe_files.get_value(words, "frame_rate", f"{file}: extraction", kind=float))
    numbers = ("frame_stride", "clip_frames")
    stride, clip = (safe_files.get_value(words, name, f"{file}: extraction", kind=int) for name in numbers)
    print(f"{file}: extracted by this package: {rate:g} frames per second, a vector every {stride}")
    values = {"fps": rate, "feature_stride_frames": stride, "receptive_field_frames": clip}
    return dataclasses.replace(Settings(), **values, first_frame_offset=(clip - stride) / 2), words


def check_settings(settings: Settings, folder: pathlib.Path) -> Settings:
    """``settings`` if they make sense; raises UserError naming the key."""
    where = f"{folder / feature_files.SETTINGS_FILE}:"
    feature_files.check_choice(settings.layout, ("auto", *LAYOUTS), f"{where} 'layout'")
    feature_files.check_choice(settings.crop, ("first", "mean"), f"{where} 'crop'")
    feature_files.check_choice(settings.gaps, ("refuse", "split"), f"{where} 'gaps'")
    for key in ("feature_stride_frames", "values_per_stream", "receptive_field_frames"):
        if getattr(settings, key) < 1:
            raise UserError(f"{where} '{key}' must be at least 1, found {getattr(settings, key)}")
    for name in settings.exclude_videos:
        if name != "known_bad" and not re.fullmatch(VIDEO, name):
            raise UserError(f"{where} 'exclude_videos' names '{name}', which is not a THUMOS14 video")
    if not (0 <= settings.fps < math.inf and math.isfinite(settings.first_frame_offset)):
        raise UserError(f"{where} 'fps' must be >= 0 and 'first_frame_offset' finite")
    return settings


# Annotations


def read_videos(folder: pathlib.Path, split: str, settings: Settings) -> list[Video]:
    """The videos of ``split`` that the annotations or video_info_*.csv name, sorted by name.

    Raises:
        UserError: names the file and line.
    """
    rows = read_annotations(folder / f"annotations_{SUBSETS[split]}", SUBSETS[split])
    info_file = folder / f"video_info_{SUBSETS[split]}.csv"
    info = read_video_info(info_file)
    videos = []
    for name in sorted(rows.keys() | info.keys()):
        annotated = sorted(rows.get(name, []))  # CliffDiving before Diving: where both fit, training takes the first
        actions = tuple(row for row in annotated if row.label != AMBIGUOUS)
        if actions and name not in info:
            raise UserError(f"{actions[0].where}: {name} has no row in {info_file}")
        fps, num_frames = info.get(name, (USUAL_FPS, 0.0))
        if settings.fps:
            fps, num_frames = settings.fps, num_frames / fps * settings.fps
        videos.append(Video(name, fps, num_frames, actions, tuple(row for row in annotated if row.label == AMBIGUOUS)))
    check_ends(videos, split)
    return videos


def read_annotations(folder: pathlib.Path, suffix: str) -> dict[str, list[Row]]:
    """Rows by video of all class texts of ``folder`` ("val" or "test"), those of Ambiguous included."""
    check_class_list(folder)
    rows = {}
    for row in thumos14_files.read_annotations(folder, suffix, CLASS_NAMES):
        if not re.fullmatch(VIDEO, row.video):
            raise UserError(f"{row.where}: '{row.video}' is not the name of a THUMOS14 video")
        rows.setdefault(row.video, []).append(row)
    return rows


def check_class_list(folder: pathlib.Path) -> None:
    """Raises UserError unless detclasslist.txt lists the 20 classes in the known order."""
    found = thumos14_files.read_class_list(folder)
    pairs = itertools.zip_longest(CLASS_NUMBERS.items(), found.items())
    for line, pair in enumerate(pairs, start=1):
        expected, listed = (f"{named[1]} {named[0]}" if named else "nothing" for named in pair)
        if expected != listed:
            raise UserError(f"{folder / thumos14_files.CLASS_LIST}, line {line}: expected {expected}, found {listed}")


def read_video_info(file: pathlib.Path) -> dict[str, tuple[float, float]]:
    """Frames per second and number of frames of each video in video_info_*.csv."""
    info = {}
    for where, row in safe_files.read_table(file, ("video", "fps", "count"), hint="copied only in part?"):
        found = ",".join(map(str, row.values()))
        try:
            name, fps, count = row["video"], float(row["fps"]), float(row["count"])
        except (TypeError, ValueError):
            raise UserError(f"{where}: expected numbers in the columns fps and count, found '{found}'") from None
        if not (0 < fps < math.inf and 0 < count < math.inf) or name in info:
            raise UserError(f"{where}: fps and count must be > 0 and a video come once, found '{found}'")
        info[name] = fps, count
    return info


def check_ends(videos: Iterable[Video], split: str) -> None:
    """Prints how many actions end after the last frame; raises UserError for one that the challenge does not have."""
    late = []
    for video in videos:
        duration = video.num_frames / video.fps if video.num_frames else math.inf
        rows = [row for row in video.actions + video.ambiguous if row.end_seconds > duration]
        late += [video.name] * len(rows)
        for row in rows:
            if row.end_seconds > duration + MAX_BEYOND_SECONDS and video.name not in LONGER_ANNOTATED_THAN_DECODED:
                raise UserError(
                    f"{row.where}: ends at {row.end_seconds:g} s, but {video.name} has {video.num_frames:g} frames at "
                    f"{video.fps:g} fps ({duration:.1f} s); wrong video_info, or wrong unit?"
                )
    if late:
        print(f"thumos14 {split}: {len(late)} rows end after the last frame, kept: {', '.join(sorted(set(late)))}")


def choose_videos(videos: list[Video], available: Mapping, *, settings: Settings, split: str) -> list[Video]:
    """Leaves out what the settings exclude, and videos that have neither actions nor features."""
    to_exclude = {*settings.exclude_videos, *(KNOWN_BAD_VIDEOS if "known_bad" in settings.exclude_videos else ())}
    excluded = [video.name for video in videos if video.name in to_exclude]
    empty = [v.name for v in videos if not v.actions and v.name not in available and v.name not in excluded]
    if excluded:
        print(f"thumos14 {split}: left out as exclude_videos says: {', '.join(excluded)}")
    if empty:
        print(f"thumos14 {split}: left out, no actions of the 20 classes and no features: {', '.join(empty)}")
    return [video for video in videos if video.name not in (*excluded, *empty)]


def report_counts(videos: list[Video], split: str) -> dict:
    """Prints and returns the counts of a split."""
    counts = annotation_files.count_actions([video.labels for video in videos], CLASS_NAMES)
    counts["ambiguous"] = sum(len(video.ambiguous) for video in videos)
    print(f"thumos14 {split}: {annotation_files.describe_counts(counts)}; {counts['ambiguous']} ambiguous stretches")
    return counts


# Feature files


def find_features(folder: pathlib.Path, layout: str) -> tuple[str, dict[str, VideoFiles]]:
    """Which of ``LAYOUTS`` the files of ``folder`` have, and the files of each video.

    Raises:
        UserError: none fits, or several do and ``layout`` is "auto".
    """
    files: dict[str, dict[str, VideoFiles]] = {name: {} for name in LAYOUTS}
    for file in feature_files.list_files(folder, (".npy", ".npz")):
        kind = classify_file(file.relative_to(folder))
        if kind:
            name, video, stream = kind
            files[name].setdefault(video, {}).setdefault(stream, []).append(file)
    fitting = [name for name in LAYOUTS if files[name] and layout in ("auto", name)]
    if not fitting:
        looked_for = [f"({name}) {text}" for name, text in LAYOUTS.items() if layout in ("auto", name)]
        raise UserError(
            f"{folder}: no features found; looked for {'; or '.join(looked_for)}; what is there: "
            f"{feature_files.describe_files(folder)}"
        )
    if len(fitting) > 1:
        raise UserError(
            f'{folder}: features in several layouts ({", ".join(fitting)}); choose one with "layout" in '
            f"{feature_files.SETTINGS_FILE}"
        )
    layout = fitting[0]
    print(f"thumos14: features of {len(files[layout])} videos in the layout '{layout}': {LAYOUTS[layout]}")
    return layout, files[layout]


def classify_file(file: pathlib.PurePath) -> tuple[str, str, str] | None:
    """Layout, video and stream of a feature file (relative to the folder of features), or None."""
    if match := re.fullmatch(rf"{VIDEO}-(rgb|flow)\.npz", file.name):
        return "crops", match[1], match[2]
    if match := re.fullmatch(rf"{VIDEO}_\d+\.npz", file.name):
        return "windows", match[1], "both"
    if match := re.fullmatch(rf"{VIDEO}\.npy", file.name):
        stream = next((part for part in reversed(file.parts[:-1]) if part in ("rgb", "flow")), None)
        return ("streams", match[1], stream) if stream else ("whole", match[1], "both")
    return None


def check_partners(
    files: dict[str, VideoFiles], videos: Iterable[str], *, layout: str, streams: tuple[str, ...]
) -> None:
    """Raises UserError for videos that lack one of ``streams``, or have two files where one is expected."""
    for video in videos:
        of_video = files[video]
        for paths in of_video.values():
            if layout != "windows" and len(paths) > 1:
                hint = " (If they are RGB and flow: their folders must be named rgb and flow)"
                raise UserError(
                    f"{paths[1]}: {paths[0]} is there as well; which of them are the features?"
                    + (hint if layout == "whole" else "")
                )
        lacking = [stream for stream in streams if stream not in of_video and "both" not in of_video]
        if lacking:
            [[present, *_], *_] = of_video.values()
            alone = [name for name in files if lacking[0] not in files[name]]
            raise UserError(
                f"{present}: its partner with the {lacking[0]} features is missing ({len(alone)} such videos: "
                f"{list_some(alone)}); copied only in part? The configs rgb and flow need one stream"
            )


def build_records(
    video: Video, files: VideoFiles, *, layout: str, streams: tuple[str, ...], settings: Settings
) -> list[dict]:
    """The record of ``video``, or one per piece if there are gaps between its windows and ``gaps`` is "split".

    Raises:
        UserError: names the file that is damaged or contradicts another one or the video's number of frames.
    """
    if layout == "windows":
        pieces = stitch_windows(files["both"], video, streams=streams, settings=settings)
    else:
        read = read_whole if layout == "whole" else read_streams
        pieces = [Piece(0, read(files, streams, settings))]
        check_length(len(pieces[0].features), video, settings, where=str(next(iter(files.values()))[0]))
    named = [video.name if len(pieces) == 1 else f"{video.name}@{piece.first_step}" for piece in pieces]
    return [make_record(name, piece, video, settings) for name, piece in zip(named, pieces, strict=True)]


def make_record(name: str, piece: Piece, video: Video, settings: Settings) -> dict:
    """The record of a stretch of ``video`` with the actions that touch it; all times are those of the whole video."""
    stride = settings.feature_stride_frames / video.fps
    start = settings.first_frame_offset / video.fps + piece.first_step * stride
    end = start + len(piece.features) * stride
    whole = name == video.name
    actions = [row for row in video.actions if whole or (row.start_seconds < end and row.end_seconds > start)]
    return schema.make_record(
        name,
        piece.features,
        np.array([row[:2] for row in actions]),
        [CLASS_NAMES.index(row.label) for row in actions],
        num_classes=len(CLASS_NAMES),
        feature_stride_seconds=stride,
        first_step_seconds=start,
        duration_seconds=max(video.num_frames / video.fps or end, video.last_end_seconds),
        ambiguous_segments=np.array([row[:2] for row in video.ambiguous]),
        source=video.name,
    )


def read_streams(files: VideoFiles, streams: tuple[str, ...], settings: Settings) -> np.ndarray:
    """f32[T, D] from one file per stream; flow may have one vector less (it is computed between frames)."""
    read = [read_stream(files[stream][0], settings) for stream in streams]
    lengths = [len(features) for features in read]
    if max(lengths) - min(lengths) > 1:
        raise UserError(
            f"{files[streams[0]][0]}: {lengths[0]} vectors, but {files[streams[1]][0].name} has {lengths[1]}; features "
            "of different strides?"
        )
    return np.concatenate([features[: min(lengths)] for features in read], axis=1)


def read_stream(file: pathlib.Path, settings: Settings) -> np.ndarray:
    """f32[T, values_per_stream] of a .npy file, or of one or all crops of a .npz file."""
    features = feature_files.read_features(file, key="feature")
    if file.suffix == ".npz" and features.ndim == 3 and len(features):
        schema.check_shape(features.shape[1:], features.dtype, str(file), settings.values_per_stream)
        features = features[0] if settings.crop == "first" else features.mean(axis=0, dtype=np.float32)
    return check(features, str(file), settings.values_per_stream)


def read_whole(files: VideoFiles, streams: tuple[str, ...], settings: Settings) -> np.ndarray:
    """f32[T, D] of a file with RGB and flow side by side."""
    file, size = files["both"][0], settings.values_per_stream
    features = check(feature_files.read_features(file), str(file), 2 * size)
    return np.concatenate([features[:, size * (s == "flow") :][:, :size] for s in streams], axis=1)


def check(features: np.ndarray, where: str, num_features: int) -> np.ndarray:
    """``schema.check_features``, as f32."""
    return schema.check_features(features, where, num_features).astype(np.float32, copy=False)


def check_length(num_steps: int, video: Video, settings: Settings, *, where: str) -> None:
    """Raises UserError if the vectors' stretches and the video's frames differ by more than a stride.

    The last vector may begin up to ``receptive_field_frames`` before the end: what is left over fills no further one.
    """
    stride, frames = settings.feature_stride_frames, video.num_frames
    covered = settings.first_frame_offset + num_steps * stride
    if frames and not frames - settings.receptive_field_frames - stride < covered <= frames + stride:
        raise UserError(
            f"{where}: {num_steps} vectors, one every {stride} frames, cover {covered:g} frames, but {video.name} has "
            f'{frames:g} ({video.fps:g} fps); other "feature_stride_frames" or "fps" (settings.json)?'
        )


# Window files


def stitch_windows(
    files: list[pathlib.Path], video: Video, *, streams: tuple[str, ...], settings: Settings
) -> list[Piece]:
    """The stretches that the window files of ``video`` cover without gaps, each put together from its windows.

    Raises:
        UserError: overlapping windows differ, there are gaps that are not to be split, or the whole contradicts the
            number of frames.
    """
    windows = sorted((read_window(f, video, streams=streams, settings=settings) for f in files), key=lambda w: w.start)
    pieces: list[tuple[int, list[np.ndarray]]] = []
    previous = None
    for window in windows:
        if previous is None or window.start > previous.end:
            check_gap(previous, window, video=video, settings=settings)
            pieces.append((window.start, [window.features]))
        else:
            check_overlap(previous, window)
            pieces[-1][1].append(window.features[previous.end - window.start :])
        previous = window if previous is None or window.end > previous.end else previous
    num_steps = math.ceil(video.num_frames / settings.feature_stride_frames) or windows[-1].end
    # The release fills windows beyond the end of a video by repeating the last vector.
    joined = [Piece(start, np.concatenate(parts)[: max(num_steps - start, 0)]) for start, parts in pieces]
    if not may_split(video, settings):
        check_length(len(joined[0].features), video, settings, where=str(windows[-1].file))
    return joined


def may_split(video: Video, settings: Settings) -> bool:
    """Whether gaps are allowed: in validation videos only, a test video must be judged as a whole."""
    return settings.gaps == "split" and video.name.startswith("video_validation")


def read_window(file: pathlib.Path, video: Video, *, streams: tuple[str, ...], settings: Settings) -> Window:
    """Reads a window file; raises UserError if it is damaged or of another video.

    The release rounds the first frame down to a step.
    """
    keys = [WINDOW_KEYS[stream] for stream in streams]
    arrays = array_files.read_arrays(file, [*keys, "begin_frame", "vid_name"])
    if str(arrays["vid_name"]) != video.name:
        raise UserError(f"{file}: its vid_name is {arrays['vid_name']}, expected {video.name}")
    parts = [check(arrays[key].T, f"{file}: {key}", settings.values_per_stream) for key in keys]
    if len({len(part) for part in parts}) > 1:
        raise UserError(f"{file}: feat_spa has {len(parts[0])} vectors, but feat_tem {len(parts[1])}")
    begin_frame = arrays["begin_frame"]
    if not (begin_frame.size == 1 and begin_frame.dtype.kind in "iuf" and 0 <= begin_frame.item() < math.inf):
        raise UserError(f"{file}: begin_frame is {str(begin_frame.tolist())[:40]}, expected one number >= 0")
    return Window(int(begin_frame.item() // settings.feature_stride_frames), np.concatenate(parts, axis=1), file)


def check_gap(previous: Window | None, window: Window, *, video: Video, settings: Settings) -> None:
    """Raises UserError if the steps before ``window``, which no window covers, matter."""
    end = previous.end if previous else 0
    if window.start > end and not may_split(video, settings):
        stride = settings.feature_stride_frames
        raise UserError(
            f"{window.file}: begins at frame {window.start * stride}, but the windows before it end at frame "
            f"{end * stride}: a gap. Were windows without actions left out, as for the release's training? Then "
            '"gaps": "split" in settings.json makes separate sequences of validation videos'
        )


def check_overlap(previous: Window, window: Window) -> None:
    """Raises UserError if two windows differ where they overlap."""
    one = previous.features[window.start - previous.start :]
    shared = min(len(one), len(window.features))
    difference = float(np.abs(one[:shared] - window.features[:shared]).max(initial=0.0))
    if difference > MAX_DIFFERENCE:
        raise UserError(
            f"{window.file}: differs by {difference:.2g} from {previous.file.name} where both overlap; files of "
            "different feature extractions?"
        )

"""Own data: a folder of feature files and their annotations, of ActivityNet's form or a tool's; a record per video.

manual_dir/
    annotations.json    any name: {"database": {"NAME": {"subset": "training", "duration": 61.7, "annotations":
                        [{"segment": [1.5, 4.0], "label": "jump"}]}}}; see ``Settings`` for what else it may say.
                        Or a folder ``annotations``, or any other file, that ``a2net_tf.annotations`` reads
    NAME.npy            [T, D]; or NAME.npz with an array "features" (or one only); in folders, too
    settings.json       optional, see ``Settings``
"""

import dataclasses
import functools
import math
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from a2net_tf import safe_files
from a2net_tf.annotations.read import ENDINGS, open_file, read_annotations
from a2net_tf.annotations.reading import DEFAULT_SUBSET, make_reading
from a2net_tf.data import augment, prepared, schema
from a2net_tf.data.files import annotation_files, feature_files
from a2net_tf.data.files.annotation_files import Entry
from a2net_tf.errors import UserError, list_some

ANNOTATIONS_FOLDER = "annotations"
TIME_KEYS = ("fps", "feature_stride_frames", "feature_stride_seconds", "first_step_seconds")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What settings.json may set; the first six may stand in the annotations' JSON as well, and the times per video.

    A video's own entry wins, then settings.json, then the top level of the annotations' JSON.

    Attributes:
        fps: frames per second of the videos.
        feature_stride_frames: from one vector to the next; with ``fps``.
        feature_stride_seconds: the same in seconds. Without either, the vectors share the video's duration equally.
        first_step_seconds: where the stretch of the first vector begins.
        classes: in the order of their ids; by default all labels, sorted.
        signal: how a vector is made of samples, as ``a2net_tf.augment.SignalLayout``; empty: it is not.
        receptive_field_seconds: that a vector saw; so much may be left over at the end of a video.
        num_features: D; 0: as many as the first feature file has.
        annotations: name of the file or folder of annotations, if there are others beside it.
        reading: what annotations of other tools do not say themselves, see ``a2net_tf.annotations.reading.Reading``.
        max_clip_seconds: by how much an action may exceed its video; it is then clipped.
        allow_missing: leave out annotated videos without features instead of refusing.
        extraction: how --mode=extract made the features; kept with the dataset.
    """

    fps: float = 0.0
    feature_stride_frames: float = 0.0
    feature_stride_seconds: float = 0.0
    first_step_seconds: float = 0.0
    classes: tuple[str, ...] = ()
    signal: dict = dataclasses.field(default_factory=dict)
    receptive_field_seconds: float = 1.0
    num_features: int = 0
    annotations: str = ""
    reading: dict = dataclasses.field(default_factory=dict)
    max_clip_seconds: float = annotation_files.MAX_CLIP_SECONDS
    allow_missing: bool = False
    extraction: dict = dataclasses.field(default_factory=dict)


class Builder(prepared.FolderBuilder):
    """Builds one split per subset that the JSON names."""

    # TFDS would guess both below a2net_tf/, but in a checkout datasets/ lies beside it.
    code_path = tfds.core.Path(__file__)
    pkg_dir_path = code_path.parent

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "manual_dir is your folder: one .npy or .npz file per video, and one JSON with "
        '{"database": {NAME: {"subset", "duration", "annotations": [{"segment", "label"}]}}}, or annotations as ELAN, '
        "BORIS, Label Studio and others write them."
    )

    def read_folder(self, folder: pathlib.Path) -> prepared.FolderContents:
        """Reads settings and annotations, and finds the feature files."""
        return read_folder(folder)


def read_folder(folder: pathlib.Path) -> prepared.FolderContents:
    """Reads settings and annotations of ``folder``, and finds the feature files; raises UserError."""
    file, entries, settings = read_inputs(folder)
    entries = sorted(entries, key=lambda entry: entry.name)
    check_subsets(entries, file)
    class_names = settings.classes or tuple(sorted({action.label for e in entries for action in e.actions}))
    check_classes(entries, class_names, file)
    files = find_features(folder, entries)
    names = [entry.name for entry in entries]
    annotation_files.check_missing(names, files, allow_missing=settings.allow_missing, where=str(folder))
    subsets, clip = sorted({entry.subset for entry in entries}), settings.max_clip_seconds
    chosen, counts = annotation_files.choose_entries(
        entries, files, class_names, splits=subsets, dataset="feature_folder", max_clip_seconds=clip
    )
    used = [files[entry.name] for of_split in chosen.values() for entry in of_split]
    num_features = settings.num_features or feature_files.find_num_features(used)
    augment.read_layout(settings.signal, num_features, f"{folder / feature_files.SETTINGS_FILE} or {file.name}")
    print(f"feature_folder: {len(files)} feature files, {num_features} values per step, {len(class_names)} classes")
    build = functools.partial(build_records, class_names=class_names, num_features=num_features, settings=settings)
    splits = {
        split: [functools.partial(build, entry, files[entry.name]) for entry in of_split]
        for split, of_split in chosen.items()
    }
    metadata = {
        "also_reported": {},
        "counts": counts,
        "settings": dataclasses.asdict(settings),
        "signal": settings.signal,
    }
    return prepared.FolderContents(num_features, class_names, splits, metadata)


# Settings and annotations


def read_inputs(folder: pathlib.Path) -> tuple[pathlib.Path, list[Entry], Settings]:
    """The source of annotations, what it says, and the settings that it and settings.json give together."""
    settings = feature_files.read_settings(folder, Settings())
    file = find_annotations(folder, settings.annotations)
    reading = make_reading(settings.reading, str(folder / feature_files.SETTINGS_FILE))
    entries = read_annotations(file, reading)
    kind, content = ("folder", None) if file.is_dir() else open_file(file, reading)
    if kind == "activitynet":
        given = {key: content[key] for key in (*TIME_KEYS, "classes", "signal") if key in content}
        settings = feature_files.read_settings(folder, feature_files.with_values(Settings(), given, str(file)))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, float | int) and not (math.isfinite(value) and (value >= 0 or "first" in field.name)):
            raise UserError(f"{folder / feature_files.SETTINGS_FILE} or {file.name}: '{field.name}' is {value:g}")
    entries = [dataclasses.replace(entry, subset=entry.subset or DEFAULT_SUBSET) for entry in entries]
    return file, entries, settings


def find_annotations(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The file or folder ``name`` of ``folder``, or the only one; raises UserError if there is none or a choice."""
    if name:
        return folder / safe_files.check_file_name(name, f"{folder / feature_files.SETTINGS_FILE}: 'annotations'")
    candidates = sorted(
        path
        for path in folder.glob("*")
        if path.suffix.lower() in ENDINGS and path.name != feature_files.SETTINGS_FILE and path.is_file()
    )
    if not any(path.suffix == ".json" for path in candidates) and len(candidates) > 1:
        raise UserError(
            f"{folder}: several files of annotations ({list_some(path.name for path in candidates)}); put those that "
            f'belong together into {ANNOTATIONS_FOLDER}/, or name one with "annotations" in settings.json'
        )
    candidates = [path for path in candidates if path.suffix == ".json"] or candidates
    if (folder / ANNOTATIONS_FOLDER).is_dir():
        candidates.append(folder / ANNOTATIONS_FOLDER)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = list_some(path.name + "/" * path.is_dir() for path in candidates)
        kind = "several JSON files" if all(path.is_file() for path in candidates) else "several annotations"
        raise UserError(f'{folder}: {kind} ({names}); name one with "annotations" in settings.json')
    raise UserError(
        f'{folder}: no annotations; looked for a .json file with {{"database": {{...}}}}, a folder '
        f"{ANNOTATIONS_FOLDER}/ and a file that ends in {', '.join(ENDINGS[1:])}"
    )


def check_subsets(entries: list[Entry], file: pathlib.Path) -> None:
    """Raises UserError if there are no videos, or a subset's name cannot be that of a split."""
    if not entries:
        raise UserError(f"{file}: 'database' is empty")
    for entry in entries:
        if not entry.subset.isidentifier() or entry.subset.lower() == "all":
            raise UserError(
                f"{file}: video '{entry.name}' is in the subset '{entry.subset}'; a split's name has letters, digits "
                "and _ only, and is not 'all'"
            )


def check_classes(entries: list[Entry], class_names: tuple[str, ...], file: pathlib.Path) -> None:
    """Raises UserError for no or repeated classes, or a label that is none of them."""
    if not class_names:
        raise UserError(f"{file}: no annotations at all, so no classes")
    if len(set(class_names)) < len(class_names) or "" in class_names:
        raise UserError(f"{file} or {feature_files.SETTINGS_FILE}: 'classes' has a name twice or an empty one")
    annotation_files.check_labels(entries, class_names, str(file))


# Features and records


def find_features(folder: pathlib.Path, entries: list[Entry]) -> dict[str, pathlib.Path]:
    """The feature files by name; raises UserError if none is that of an annotated video."""
    files = feature_files.find_feature_files(folder, (".npy", ".npz"))
    if not any(entry.name in files for entry in entries):
        raise UserError(
            f"{folder}: no features of an annotated video; looked for {entries[0].name}.npy, {entries[0].name}.npz and "
            f"so on here and in the folders here; what is there: {feature_files.describe_files(folder)}"
        )
    return files


def build_records(
    entry: Entry, file: pathlib.Path, *, class_names: tuple[str, ...], num_features: int, settings: Settings
) -> list[dict]:
    """The record of one video.

    Raises:
        UserError: its feature file is damaged, has another size, or contradicts the duration.
    """
    features = schema.check_features(feature_files.read_features(file), str(file), num_features)
    settings = feature_files.with_values(settings, own_times(entry), f"video '{entry.name}'")
    stride = find_stride(entry, len(features), settings)
    end = settings.first_step_seconds + len(features) * stride
    duration = entry.duration_seconds or end
    check_length(f"{file}: {len(features)} vectors, one every {stride:g} s,", end, duration, settings, stride=stride)
    # Once more: without a duration in the JSON, only now it is known.
    entry = dataclasses.replace(entry, duration_seconds=duration)
    [entry], _ = annotation_files.clean_entries([entry], "feature_folder", settings.max_clip_seconds)
    return [
        schema.make_record(
            entry.name,
            features,
            np.array([action[:2] for action in entry.actions]),
            [class_names.index(action.label) for action in entry.actions],
            num_classes=len(class_names),
            feature_stride_seconds=stride,
            first_step_seconds=settings.first_step_seconds,
            duration_seconds=duration,
            source=file.name,
        )
    ]


def own_times(entry: Entry) -> dict:
    """What the video's own entry says about time; a stride in frames replaces a general one in seconds."""
    own = {key: entry.fields[key] for key in TIME_KEYS if key in entry.fields}
    return {"feature_stride_seconds": 0.0, **own} if "feature_stride_frames" in own else own


def find_stride(entry: Entry, num_steps: int, settings: Settings) -> float:
    """Seconds from one vector to the next: as the settings say, or else the video's duration shared equally."""
    if settings.feature_stride_seconds:
        return settings.feature_stride_seconds
    if settings.feature_stride_frames:
        if not settings.fps:
            raise UserError(f"video '{entry.name}': 'feature_stride_frames' needs 'fps' too (of the video or of all)")
        return settings.feature_stride_frames / settings.fps
    if not entry.duration_seconds > settings.first_step_seconds:
        raise UserError(
            f"video '{entry.name}': no usable 'duration' ({entry.duration_seconds:g} s), and neither "
            "'feature_stride_seconds' nor 'feature_stride_frames' with 'fps'"
        )
    return (entry.duration_seconds - settings.first_step_seconds) / num_steps


def check_length(told: str, end: float, duration: float, settings: Settings, *, stride: float) -> None:
    """Raises UserError if the vectors end more than a stride after the video, or leave more over than one would see."""
    least = duration - settings.receptive_field_seconds - stride
    if not least - 1e-6 <= end <= duration + stride + 1e-6:
        raise UserError(
            f"{told} end at {end:g} s, but the video's duration is {duration:g} s; wrong fps or stride, or larger "
            '"receptive_field_seconds" (settings.json)?'
        )

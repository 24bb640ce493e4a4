"""A training on videos: their features are extracted once, into the run's folder, and then it is one on features."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence

from a2net_tf import safe_files
from a2net_tf.annotations.read import find_kind, read_annotations
from a2net_tf.annotations.reading import DEFAULT_SUBSET, find_reading
from a2net_tf.data.files.annotation_files import Entry, database_of
from a2net_tf.errors import UserError, list_some
from a2net_tf.settings import Config
from a2net_tf.video.extract_videos import extract_videos
from a2net_tf.video.output_folder import ANNOTATIONS_FILE
from a2net_tf.video.video_files import find_videos

_DATASET = "feature_folder"


def extract_dataset(config: Config) -> Config:
    """The settings of a training on the features of ``config.videos``, which are made if they are not there.

    They lie in WORKDIR/features and, prepared, in WORKDIR/data (or --data_dir). What can be wrong with annotations is
    looked at before: extraction may take hours.

    Raises:
        UserError: settings that contradict, annotations that do not go with the videos, or videos that cannot be read.
    """
    for name in ("dataset", "manual_dir"):
        if getattr(config, name):
            raise UserError(f"--{name}={getattr(config, name)}: not with --videos, of which a dataset is made")
    file = _find_annotations(config)
    entries = read_entries(file)
    _check_splits(config, entries, file)
    videos = _annotated(find_videos(config.videos), entries, file)
    folder = pathlib.Path(config.workdir, "features")
    _copy(file, entries, folder / ANNOTATIONS_FILE)
    extract_videos(config, videos, folder)
    data_dir = config.data_dir or str(pathlib.Path(config.workdir, "data"))
    return dataclasses.replace(config, dataset=_DATASET, manual_dir=str(folder), data_dir=data_dir)


def _find_annotations(config: Config) -> pathlib.Path:
    """--annotations, or the only .json file beside the videos."""
    if config.annotations:
        return pathlib.Path(config.annotations)
    folder = pathlib.Path(config.videos)
    found = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if len(found) != 1:
        told = f"found {list_some(path.name for path in found)}" if found else "found none"
        raise UserError(
            f"--videos={config.videos}: which actions they show is said by a JSON file (docs/own_data.md): name it "
            f"with --annotations, or put it as the only one into the videos' folder ({told} there)"
        )
    return found[0]


def _check_splits(config: Config, entries: Sequence[Entry], file: pathlib.Path) -> None:
    """The names in a split must be subsets: TFDS would only say so when the features are there."""
    subsets = {entry.subset for entry in entries}
    evaluated = ("eval_split",) if "evaluate" in config.mode else ()
    for name in ("train_split", "validation_split", *evaluated):
        split = getattr(config, name)
        unknown = [word for word in re.findall(r"[^\W\d]\w*", re.sub(r"\[.*?\]", "", split)) if word not in subsets]
        if unknown:
            raise UserError(
                f"--{name}={split}: {file} has no subset '{unknown[0]}'; it has {list_some(sorted(subsets)) or 'none'}"
            )


def _annotated(
    videos: Mapping[str, pathlib.Path], entries: Sequence[Entry], file: pathlib.Path
) -> dict[str, pathlib.Path]:
    """The videos that are annotated; raises UserError if one that is annotated is not there."""
    names = {pathlib.PurePosixPath(name).name: name for name in videos}
    missing = [entry.name for entry in entries if entry.name not in names]
    if missing:
        raise UserError(
            f"{file}: no video for {list_some(missing)}; there are {list_some(sorted(names))} (videos are known by "
            "their files' names without ending)"
        )
    annotated = {names[entry.name]: videos[names[entry.name]] for entry in entries}
    if left := len(videos) - len(annotated):
        print(f"{left} of {len(videos)} videos are not in {file} and are left out")
    return annotated


def read_entries(source: pathlib.Path) -> list[Entry]:
    """What a file or folder of annotations says; recordings without a subset are for training."""
    entries = read_annotations(source, find_reading(source))
    return [dataclasses.replace(entry, subset=entry.subset or DEFAULT_SUBSET) for entry in entries]


def _copy(source: pathlib.Path, entries: Sequence[Entry], target: pathlib.Path) -> None:
    """The annotations, in ActivityNet's form, beside the features; of that form they stay as they are."""
    if not source.is_dir() and find_kind(source, find_reading(source)) == "activitynet":
        text = safe_files.read_text(source)
    else:
        text = json.dumps(database_of(entries), indent=1) + "\n"
    safe_files.check_writable(target)
    if not target.exists() or safe_files.read_text(target) != text:
        safe_files.write_text(target, text)

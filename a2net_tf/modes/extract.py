"""``--mode=extract``: videos become files of features, in a folder that ``--dataset=feature_folder`` takes.

The folder holds NAME.npy for each video, settings.json with the time base and how the features were made, and
annotations.json to be filled in. ``.extracted.jsonl`` is this mode's own: a line for each video that is done, so that
the same command goes on where it was killed.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tqdm

import a2net_tf
from a2net_tf import safe_files, settings
from a2net_tf.data import array_files
from a2net_tf.data.feature_files import SETTINGS_FILE
from a2net_tf.detection import precision
from a2net_tf.errors import UserError, list_some, one_line
from a2net_tf.settings import Config
from a2net_tf.video import choose, clips, decoding
from a2net_tf.video.decoding import Video
from a2net_tf.video.extraction import Extraction
from a2net_tf.video.video_files import find_videos

ANNOTATIONS_FILE = "annotations.json"
LOG_FILE = ".extracted.jsonl"
_PACKAGES = ("tensorflow", "keras", "av", "opencv-contrib-python-headless")


@dataclasses.dataclass(frozen=True)
class Folder:
    """--output, and what it holds already.

    Attributes:
        path: of the folder.
        dtype: of the features.
        done: what was logged of each video that is done, by name.
    """

    path: pathlib.Path
    dtype: np.dtype
    done: dict[str, dict]

    def features(self, name: str) -> pathlib.Path:
        """The file of a video's features."""
        return self.path / f"{name}.npy"


def extract(config: Config) -> None:
    """Writes the features of ``config.videos`` to ``config.output``. What is done already is not done again.

    Raises:
        UserError: settings that cannot be, a folder that was extracted with others, or, when all else is done, videos
            that could not be extracted.
    """
    settings.require(config, "videos", "output")
    if config.stored_features == "bfloat16":
        raise UserError("--stored_features=bfloat16: numpy's files have no such type; take float32 or float16")
    videos = find_videos(config.videos)
    decoding.import_av()
    clips.import_cv2()
    computed, extraction = _open(config)
    folder = _open_folder(config, _describe(config, extraction, computed))
    failed = {}
    for name, path in videos.items():
        try:
            _extract_one(name, path, extraction, folder)
        except UserError as error:
            failed[name] = path
            print(f"failed: {one_line(error)}", flush=True)
    _write_skeleton(folder, [name for name in videos if name in folder.done])
    if failed:
        raise UserError(
            f"{len(failed)} of {len(videos)} videos could not be extracted, for the reasons printed above: "
            f"{list_some(failed.values())}"
        )
    print(f"written: features of {len(videos)} videos (--dataset=feature_folder --manual_dir={folder.path})")


def _open(config: Config) -> tuple[str, Extraction]:
    """The type that is computed in, and the extractor as the settings want it used."""
    computed = "as exported" if config.extractor.startswith("saved_model:") else precision.resolve(config.precision)
    extractor = choose.open_extractor(config, computed)
    if config.motion != "none" and extractor.clip_frames > 1:
        raise UserError(f"--motion={config.motion} is for extractors of single frames; {extractor.name} sees motion")
    if computed != "as exported":
        precision.announce(config.precision, computed)
    rate, stride = config.frame_rate or extractor.frame_rate, config.frame_stride or extractor.stride_frames
    return computed, Extraction(extractor, rate, stride, config.frame_fit, config.motion)


# The folder


def _describe(config: Config, extraction: Extraction, computed: str) -> dict[str, Any]:
    """The content of settings.json."""
    extractor = extraction.extractor
    return {
        "feature_stride_seconds": extraction.stride_seconds,
        "first_step_seconds": extraction.first_step_seconds,
        "receptive_field_seconds": extraction.seen_seconds,
        "num_features": extraction.num_features,
        "extraction": {
            "extractor": extractor.name,
            "origin": extractor.origin,
            "frame_rate": extraction.frame_rate,
            "clip_frames": extractor.clip_frames,
            "frame_stride": extraction.stride_frames,
            "frame_size": extractor.size,
            "frame_fit": extraction.fit,
            "input_range": config.input_range if computed == "as exported" else "its own",
            "signature": config.signature if computed == "as exported" else "",
            "motion": extraction.motion,
            "precision": computed,
            "stored_features": config.stored_features or "float32",
            "versions": {"a2net_tf": a2net_tf.__version__, **_versions()},
        },
    }


def _versions() -> dict[str, str]:
    """Of the packages that take part; one that was installed under another name is left out."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _open_folder(config: Config, described: dict[str, Any]) -> Folder:
    """The folder, with its settings.json.

    Raises:
        UserError: it cannot be written, or what is in it was made in another way.
    """
    path = pathlib.Path(config.output)
    file = path / SETTINGS_FILE
    safe_files.check_writable(file)
    if file.exists():
        _refuse_others(file, safe_files.read_json_object(file), described)
    else:
        safe_files.write_json(file, described)
    return Folder(path, np.dtype(described["extraction"]["stored_features"]), _read_log(path / LOG_FILE))


def _refuse_others(file: pathlib.Path, found: dict[str, Any], described: dict[str, Any]) -> None:
    """Features that were made in two ways must not lie in one folder. What else the user has written there is his."""
    if not isinstance(found.get("extraction"), dict):
        raise UserError(f"{file}: --mode=extract has not written it; give another --output")
    different = [
        f"{name}={now} (was {then})"
        for name, now, then in _pairs(described, found)
        if name not in ("extraction", "versions") and now != then
    ]
    if different:
        raise UserError(
            f"{file}: the features there were made with other settings: {', '.join(different)}; give another --output, "
            "or the same settings"
        )


def _pairs(described: dict[str, Any], found: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name, value in {**described, **described["extraction"]}.items():
        yield name, value, {**found, **found["extraction"]}.get(name)


def _read_log(file: pathlib.Path) -> dict[str, dict]:
    """The last line of each video. A line that a kill has cut off is none."""
    if not file.exists():
        return {}
    done = {}
    for line in safe_files.read_text(file).split("\n"):
        try:
            entry = json.loads(line)
            done[entry["name"]] = entry
        except (ValueError, KeyError, TypeError):
            continue
    return done


def _write_skeleton(folder: Folder, names: list[str]) -> None:
    """annotations.json with every video and no actions, unless there are annotations."""
    present = [file for file in folder.path.glob("*.json") if file.name != SETTINGS_FILE]
    if present or not names:
        return
    entries = {
        pathlib.PurePosixPath(name).name: {
            "subset": "training",
            "duration": folder.done[name]["seconds"],
            "annotations": [],
        }
        for name in names
    }
    safe_files.write_json(folder.path / ANNOTATIONS_FILE, {"database": entries})
    print(f"written: {folder.path / ANNOTATIONS_FILE}, to be filled in: a subset and the actions of each video")


# A video


def _extract_one(name: str, path: pathlib.Path, extraction: Extraction, folder: Folder) -> None:
    """Writes the features of one video, whole or not at all, unless they are there.

    Raises:
        UserError: it cannot be read, or features of this name are there that are not those of this video.
    """
    file = folder.features(name)
    if file.exists():
        _check_done(path, file, folder.done.get(name))
        print(f"{one_line(name)}: extracted earlier")
        return
    video, started = Video(path), time.monotonic()
    with safe_files.replace_file(file) as temporary:
        vectors = _with_progress(extraction.vectors(video), name, extraction.stride_seconds)
        vectors = (_stored(part, folder.dtype, path) for part in vectors)
        count = array_files.write_rows(temporary, vectors, extraction.num_features, folder.dtype)
        entry = {"name": name, "video": str(path), "bytes": path.stat().st_size, "seconds": round(video.seconds, 6)}
        entry |= {"vectors": count, "frames": video.num_frames, "complaints": video.complaints()}
        _append(folder.path / LOG_FILE, entry)  # before the features: without its line a file would be a stranger
    folder.done[name] = entry
    took, complaints = time.monotonic() - started, video.complaints()
    print(
        f"{one_line(name)}: {count} vectors, {video.seconds:.1f} s of video in {took:.1f} s "
        f"({video.seconds / took:.1f} times real time){complaints and '; '}{complaints}",
        flush=True,
    )


def _stored(vectors: np.ndarray, dtype: np.dtype, path: pathlib.Path) -> np.ndarray:
    """``vectors`` in the type of the file; raises UserError for a value that it cannot hold."""
    largest = np.abs(vectors).max(initial=0.0)
    if largest > np.finfo(dtype).max:
        raise UserError(f"{path}: a value of {largest:g} is beyond float16; take --stored_features=float32")
    return vectors.astype(dtype)


def _check_done(path: pathlib.Path, file: pathlib.Path, entry: Mapping[str, Any] | None) -> None:
    if entry is None:
        raise UserError(f"{file}: is there, but --mode=extract has not written it; give another --output")
    if path.exists() and path.stat().st_size != entry.get("bytes"):
        raise UserError(f"{path}: has changed since its features were extracted; delete {file} to extract them again")


def _append(file: pathlib.Path, entry: dict[str, Any]) -> None:
    with open(file, "ab+") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
        cut_off = stream.read(1) not in (b"", b"\n")  # a killed process has left half a line
        stream.write(b"\n" * cut_off + json.dumps(entry).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def _with_progress(batches: Iterator[np.ndarray], name: str, stride_seconds: float) -> Iterator[np.ndarray]:
    """``batches`` as they are, with a bar on a terminal: seconds of the video, and how many of them in a second."""
    started, done = time.monotonic(), 0
    with tqdm.tqdm(desc=one_line(name), leave=False, disable=None, bar_format="{desc}: {postfix}") as bar:
        for vectors in batches:
            done += len(vectors)
            seconds, took = done * stride_seconds, time.monotonic() - started
            bar.set_postfix_str(f"{seconds:.0f} s of video, {seconds / took:.1f} times real time")
            bar.update()
            yield vectors

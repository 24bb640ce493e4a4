"""A folder of features that are made of videos: what is in it already, and what is added.

It holds NAME.npy for each video, settings.json with the time base and how the features were made, and annotations.json
to be filled in: so ``--dataset=feature_folder`` takes it. ``.extracted.jsonl`` is for this package alone: a line for
each video that is done, so that the same command goes on where it was killed.
"""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from a2net_tf import safe_files
from a2net_tf.data.files import array_files
from a2net_tf.data.files.feature_files import SETTINGS_FILE
from a2net_tf.errors import UserError, one_line
from a2net_tf.video import description
from a2net_tf.video.decoding import Video
from a2net_tf.video.extraction import Extraction

ANNOTATIONS_FILE = "annotations.json"
LOG_FILE = ".extracted.jsonl"
Progress = Callable[[Iterator[np.ndarray], str, float], Iterator[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class OutputFolder:
    """A folder, and what it holds already.

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

    def is_done(self, name: str, video: pathlib.Path) -> bool:
        """Whether the features of a video are there; raises UserError if they are not those of this video."""
        file, entry = self.features(name), self.done.get(name)
        if not file.exists():
            return False
        if entry is None:
            raise UserError(f"{file}: is there, but --mode=extract has not written it; give another --output")
        if video.exists() and video.stat().st_size != entry.get("bytes"):
            raise UserError(
                f"{video}: has changed since its features were extracted; delete {file} to extract them again"
            )
        return True

    def add(self, name: str, path: pathlib.Path, extraction: Extraction, progress: Progress) -> str:
        """Writes the features of one video, whole or not at all.

        Args:
            name: of the features, without ending; may lie in folders.
            path: of the video.
            extraction: what makes them.
            progress: shows vectors as they come, see ``extract_videos.with_progress``.

        Returns:
            A line about it.

        Raises:
            UserError: the video cannot be read, or the type cannot hold a value.
        """
        video, started = Video(path), time.monotonic()
        with safe_files.replace_file(self.features(name)) as temporary:
            vectors = progress(extraction.vectors(video), name, extraction.stride_seconds)
            vectors = (_stored(part, self.dtype, path) for part in vectors)
            count = array_files.write_rows(temporary, vectors, extraction.num_features, self.dtype)
            entry = {"name": name, "video": str(path), "bytes": path.stat().st_size, "seconds": round(video.seconds, 6)}
            entry |= {"vectors": count, "frames": video.num_frames, "complaints": video.complaints()}
            _append(self.path / LOG_FILE, entry)  # before the features: without its line a file would be a stranger
        self.done[name] = entry
        took, complaints = time.monotonic() - started, video.complaints()
        return (
            f"{one_line(name)}: {count} vectors, {video.seconds:.1f} s of video in {took:.1f} s "
            f"({video.seconds / took:.1f} times real time){complaints and '; '}{complaints}"
        )

    def look_again(self) -> None:
        """Reads what other processes have added."""
        self.done.update(_read_log(self.path / LOG_FILE))

    def write_skeleton(self, names: list[str]) -> None:
        """annotations.json with every video of ``names`` and no actions, unless there are annotations."""
        present = [file for file in self.path.glob("*.json") if file.name != SETTINGS_FILE]
        if present or self.path.joinpath(pathlib.Path(ANNOTATIONS_FILE).stem).is_dir() or not names:
            return
        entries = {
            pathlib.PurePosixPath(name).name: {
                "subset": "training",
                "duration": self.done[name]["seconds"],
                "annotations": [],
            }
            for name in names
        }
        safe_files.write_json(self.path / ANNOTATIONS_FILE, {"database": entries})
        print(f"written: {self.path / ANNOTATIONS_FILE}, to be filled in: a subset and the actions of each video")


def open_folder(path: pathlib.Path, extraction: Extraction, words: Mapping[str, Any], dtype: str) -> OutputFolder:
    """The folder, with its settings.json.

    Args:
        path: of the folder, which need not be there.
        extraction: what will make its features.
        words: how, of ``description.describe``.
        dtype: of the features.

    Raises:
        UserError: it cannot be written, or what is in it was made in another way.
    """
    file = path / SETTINGS_FILE
    safe_files.check_writable(file)
    content = {
        "feature_stride_seconds": extraction.stride_seconds,
        "first_step_seconds": extraction.first_step_seconds,
        "receptive_field_seconds": extraction.seen_seconds,
        "num_features": extraction.num_features,
        "extraction": {**words, "stored_features": dtype},
    }
    if file.exists():
        _refuse_others(file, safe_files.read_json_object(file), content)
    else:
        safe_files.write_json(file, content)
    return OutputFolder(path, np.dtype(dtype), _read_log(path / LOG_FILE))


def _refuse_others(file: pathlib.Path, found: dict[str, Any], content: dict[str, Any]) -> None:
    """Features that were made in two ways must not lie in one folder. What else the user has written there is his."""
    before, now = found.get("extraction"), content["extraction"]
    if not isinstance(before, dict):
        raise UserError(f"{file}: --mode=extract has not written it; give another --output")
    pairs = [(name, content[name], found.get(name)) for name in content if name != "extraction"]
    pairs.append(("stored_features", now["stored_features"], before.get("stored_features")))
    different = description.differences(now, before) + [f"{n}={a} (was {b})" for n, a, b in pairs if a != b]
    if different:
        raise UserError(
            f"{file}: the features there were made with other settings: {', '.join(different)}; give another --output, "
            "or the same settings"
        )


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


def _stored(vectors: np.ndarray, dtype: np.dtype, path: pathlib.Path) -> np.ndarray:
    """``vectors`` in the type of the file; raises UserError for a value that it cannot hold."""
    largest = np.abs(vectors).max(initial=0.0)
    if largest > np.finfo(dtype).max:
        raise UserError(f"{path}: a value of {largest:g} is beyond float16; take --stored_features=float32")
    return vectors.astype(dtype)


def _append(file: pathlib.Path, entry: dict[str, Any]) -> None:
    """Adds a line in one write, so that processes can add theirs at the same time."""
    with open(file, "ab+") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
        cut_off = stream.read(1) not in (b"", b"\n")  # a killed process has left half a line
        stream.write(b"\n" * cut_off + json.dumps(entry).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())

"""Which file a browser plays beside the time line of a recording."""

import os
import pathlib
import urllib.parse
from collections.abc import Sequence

from a2net_tf.data.files import feature_files
from a2net_tf.errors import UserError, list_some
from a2net_tf.evaluation.video_names import match_names
from a2net_tf.video.video_files import SUFFIXES, find_videos

SOUNDS = frozenset((".aac", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav"))


def find_media(source: str, names: Sequence[str]) -> dict[str, pathlib.Path]:
    """The video or sound of each recording, by its name; prints how many have none.

    Args:
        source: a folder with folders, a .txt file with a path on each line, or one file; empty: none.
        names: of the recordings. A file is that of the recording with its name, with or without ending and ``v_``.

    Raises:
        UserError: nothing there, none that belongs to a recording, or two that belong to one.
    """
    if not source:
        return {}
    path = pathlib.Path(source)
    if not path.exists():
        raise UserError(f"--videos={source}: no such file or folder")
    files = feature_files.list_files(path) if path.is_dir() else [path]
    if path.suffix.lower() == ".txt":
        files = list(find_videos(source).values())
    playable = {file.stem: file for file in files if file.suffix.lower() in SUFFIXES | SOUNDS}
    matched = match_names(list(playable), names, f"--videos={source}")
    if not matched:
        found = list_some(playable) or "no videos and no sound"
        raise UserError(f"--videos={source}: no file of a recording: they are called {list_some(names)}; found {found}")
    if len(matched) < len(names):
        print(f"--videos={source}: {len(names) - len(matched)} of {len(names)} recordings have no file there")
    return {name: playable[file] for file, name in matched.items()}


def address_of(file: pathlib.Path, page_folder: pathlib.Path) -> str:
    """How a page in ``page_folder`` calls the file: relative, so that both can be moved together."""
    absolute = file.resolve()
    try:
        relative = os.path.relpath(absolute, page_folder.resolve())
    except ValueError:  # another drive
        return absolute.as_uri()
    return urllib.parse.quote(pathlib.PurePath(relative).as_posix())


def kind_of(address: str) -> str:
    """``audio`` or ``video``."""
    return "audio" if pathlib.PurePosixPath(address).suffix.lower() in SOUNDS else "video"

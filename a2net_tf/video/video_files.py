"""Which videos a user means, and what their features are called."""

import pathlib
from collections.abc import Sequence

from a2net_tf import safe_files
from a2net_tf.data.files import feature_files
from a2net_tf.errors import UserError

SUFFIXES = frozenset(
    (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts")
    + (".vob", ".webm", ".wmv")
)


def find_videos(source: str) -> dict[str, pathlib.Path]:
    """The videos of --videos by the names of their features: paths without suffix, relative to a folder that is named.

    Args:
        source: a video, whatever its suffix; a folder, of which all files with ``SUFFIXES`` are taken, in folders in it
            too; or a .txt file with a path on each line, where # begins a comment.

    Raises:
        UserError: nothing there, no videos in it, or two that would have features of one name.
    """
    path = pathlib.Path(source)
    if path.is_dir():
        named = [(file.relative_to(path), file) for file in feature_files.list_files(path) if is_video(file)]
    elif path.suffix.lower() == ".txt":
        lines = [line.strip() for line in safe_files.read_text(path).split("\n")]
        files = [pathlib.Path(line) for line in lines if line and not line.startswith("#")]
        named = [(pathlib.Path(file.name), file) for file in files]
    elif path.is_file():
        named = [(pathlib.Path(path.name), path)]
    else:
        raise UserError(f"--videos={source}: no such file or folder")
    if not named:
        raise UserError(f"--videos={source}: no videos in it; found {_describe(path)}")
    _refuse_twins([file for _, file in named], source)
    return {name.with_name(name.stem).as_posix(): file for name, file in named}


def is_video(file: pathlib.Path) -> bool:
    """Whether the ending is that of a video."""
    return file.suffix.lower() in SUFFIXES


def _describe(path: pathlib.Path) -> str:
    found = feature_files.describe_files(path) if path.is_dir() else "no lines with a path"
    pictures = any(suffix in found for suffix in (".jpg", ".jpeg", ".png", ".bmp"))
    return found + ("; single pictures are not read: make a video of them first, with their frame rate" * pictures)


def _refuse_twins(files: Sequence[pathlib.Path], source: str) -> None:
    """Datasets find features by their file's name alone, whatever folder it is in; some systems ignore its case."""
    seen: dict[str, pathlib.Path] = {}
    for file in files:
        other = seen.setdefault(file.stem.casefold(), file)
        if other is not file:
            raise UserError(
                f"--videos={source}: {other} and {file} would both have features called {file.stem}; rename one"
            )

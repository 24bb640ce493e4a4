"""What the files of a folder were when a dataset was prepared from them, and which of them has changed since."""

import hashlib
import pathlib
from collections.abc import Iterable
from typing import Any

import tqdm

from a2net_tf import safe_files
from a2net_tf.data.files import feature_files
from a2net_tf.errors import UserError


def fingerprint(folder: pathlib.Path) -> dict[str, Any]:
    """Of the files that a builder may read: how many, how many bytes, and of each its size, time and content.

    Prepared datasets inside ``folder`` are not counted.

    Returns:
        ``files``, ``bytes``, and ``digest``: {path below the folder: [bytes, time of change in ns, digest of the
        content]}, JSON-ready.
    """
    files = _files(folder)
    sizes = {name: file.stat() for name, file in files.items()}
    digests = dict(zip(files, _read_digests(files.values()), strict=True))
    return {
        "files": len(files),
        "bytes": sum(status.st_size for status in sizes.values()),
        "digest": {name: [status.st_size, status.st_mtime_ns, digests[name]] for name, status in sizes.items()},
    }


def find_difference(folder: pathlib.Path, then: dict[str, Any]) -> str | None:
    """The first file of ``folder`` that is not as ``then`` says, and what is different about it; None if there is none.

    A file of the same size and time is not read again. Where only the time differs, as in a copied folder, the content
    decides.
    """
    before, files = then["digest"], _files(folder)
    if gone := sorted(before.keys() - files.keys()):
        return f"{gone[0]} is gone"
    if new := sorted(files.keys() - before.keys()):
        return f"{new[0]} is new"
    status = {name: file.stat() for name, file in files.items()}
    for name, (size, _, _) in sorted(before.items()):
        if status[name].st_size != size:
            return f"{name} has {status[name].st_size:,} bytes, then {size:,}"
    touched = {name: files[name] for name in sorted(files) if status[name].st_mtime_ns != before[name][1]}
    for name, digest in zip(touched, _read_digests(touched.values()), strict=True):
        if digest != before[name][2]:
            return f"{name} has another content"
    return None


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """By their paths below ``folder``."""
    found = [file for file in feature_files.list_files(folder) if _may_be_read(file)]
    return {
        file.relative_to(folder).as_posix(): file for file in found if not (file.parent / "dataset_info.json").exists()
    }


def _may_be_read(file: pathlib.Path) -> bool:
    """Whether a builder may read a file: features or annotations."""
    features, annotations = feature_files.FEATURE_SUFFIXES, feature_files.ANNOTATION_SUFFIXES
    return file.suffix in features or file.suffix.lower() in annotations


def _read_digests(files: Iterable[pathlib.Path]) -> list[str]:
    """Of the contents; with a progress bar on a terminal, for they may be many gigabytes."""
    return [_read_digest(file) for file in tqdm.tqdm(list(files), desc="reading files", leave=False, disable=None)]


def _read_digest(file: pathlib.Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    try:
        for part in safe_files.read_parts(file):
            digest.update(part)
        return digest.hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None

"""Running a localizer, or an exported model, over sequences that come as records or as .npy files."""

import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from a2net_tf import records as schema
from a2net_tf.errors import UserError
from a2net_tf.evaluation import Detections
from a2net_tf.localizer import Localizer


class Found(NamedTuple):
    """Detections of one sequence."""

    video: str
    duration_seconds: float
    detections: dict[str, Detections]  # by branch
    record: dict  # without features; with the ground truth if there is any

    @property
    def merged(self) -> Detections:
        """Of all branches together: the last reported one."""
        return list(self.detections.values())[-1]


def read_feature_files(
    path: str, *, num_features: int, seconds_per_step: float, first_step_seconds: float
) -> list[Iterator[dict]]:
    """One iterable of records per .npy file of ``path`` (a file, or a folder of them).

    All headers are checked before anything is returned; the values are checked chunk by chunk when they are read.

    Raises:
        UserError: nothing there, not a matrix, another feature size, no steps.
    """
    source = pathlib.Path(path)
    files = sorted(source.glob("*.npy")) if source.is_dir() else [source]
    if not files or not files[0].exists():
        raise UserError(f"--features={path}: {'no .npy file in this folder' if source.is_dir() else 'no such file'}")
    for file in files:
        _check_header(_open(file), file, num_features)
    return [_file_records(file, num_features, seconds_per_step, first_step_seconds) for file in files]


def _open(file: pathlib.Path) -> np.ndarray:
    """Maps the file: sequences of many hours need not fit in memory."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{file}: not a readable .npy array ({error})") from None


def _check_header(features: np.ndarray, file: pathlib.Path, num_features: int) -> None:
    """Shape and type only: one zero step stands for the values."""
    if features.ndim == 2 and len(features) == 0:
        raise UserError(f"{file}: 0 feature steps; an empty recording cannot be used")
    shape = (1, *features.shape[1:]) if features.ndim == 2 else features.shape
    schema.check_features(np.zeros(shape, features.dtype), str(file), num_features)


def _file_records(file: pathlib.Path, num_features: int, stride: float, first: float) -> Iterator[dict]:
    features = _open(file)
    whole = {
        "id": file.stem,
        "features": features,
        "num_steps": len(features),
        "chunk_start_step": 0,
        "chunk_owned_steps": len(features),
        "feature_stride_seconds": stride,
        "first_step_seconds": first,
        "duration_seconds": first + len(features) * stride,
        "source": str(file),
    }
    for _, chunk in schema.split_into_chunks(whole):
        yield {**chunk, "features": schema.check_features(chunk["features"], str(file), num_features)}


def localize(localizer: Localizer, records: Iterable[dict], branches: Sequence[str] = ()) -> Iterator[Found]:
    """Detections of every sequence of ``records`` (numpy; chunks in any order), as soon as it is complete.

    Args:
        localizer: runs in this process.
        records: whole sequences or chunks.
        branches: which to report; by default the localizer's last (both modules if it has both).
    """
    branches = branches or localizer.branches[-1:]
    waiting: dict[str, list] = {}
    for record in records:
        video = _text(record["id"])
        candidates = localizer.sequence_candidates(
            np.asarray(record["features"], np.float32),
            *(np.int32(record[name]) for name in ("num_steps", "chunk_start_step", "chunk_owned_steps")),
        )
        chunks = waiting.setdefault(video, [])
        description = {name: value for name, value in record.items() if name != "features"}  # they can be huge
        chunks.append((int(record["chunk_start_step"]), candidates, description))
        if sum(int(r["chunk_owned_steps"]) for _, _, r in chunks) < int(record["num_steps"]):
            continue
        chunks.sort(key=lambda chunk: chunk[0])
        del waiting[video]
        merged = [tf.concat(values, axis=1) for values in zip(*(c for _, c, _ in chunks), strict=True)]
        yield _detect(localizer, type(candidates)(*merged), chunks[0][2], branches)
    if waiting:
        raise UserError(f"sequence {next(iter(waiting))}: chunks are missing; prepare the dataset again")


def _detect(localizer: Localizer, candidates, record: dict, branches: Sequence[str]) -> Found:
    arguments = (
        candidates,
        tf.constant([record["num_steps"]], tf.int32),
        tf.constant([record["feature_stride_seconds"]], tf.float32),
        tf.constant([record["first_step_seconds"]], tf.float32),
    )
    video = _text(record["id"])
    found = {
        branch: _table(video, {k: v[0] for k, v in localizer.detect[branch](*arguments)._asdict().items()})
        for branch in branches
    }
    return Found(video, float(record["duration_seconds"]), found, record)


def localize_exported(model: tf.Module, records: Iterable[dict]) -> Iterator[Found]:
    """Detections of an exported model (``tf.saved_model.load``) for every sequence of ``records``."""
    serve = model.signatures["serving_default"]
    for whole in stitched(records):
        reply = serve(
            features=tf.constant(whole["features"][None], tf.float32),
            num_steps=tf.constant([whole["num_steps"]], tf.int32),
            seconds_per_step=tf.constant([whole["feature_stride_seconds"]], tf.float32),
        )
        video = _text(whole["id"])
        table = _table(video, {name: value[0] for name, value in reply.items()})
        description = {name: value for name, value in whole.items() if name != "features"}
        yield Found(video, float(whole["duration_seconds"]), {"both": table}, description)


def stitched(records: Iterable[dict]) -> Iterator[dict]:
    """Whole sequences from chunks: an exported model takes the whole."""
    waiting: dict[str, list[dict]] = {}
    for record in records:
        chunks = waiting.setdefault(_text(record["id"]), [])
        chunks.append(record)
        if sum(int(r["chunk_owned_steps"]) for r in chunks) < int(record["num_steps"]):
            continue
        chunks.sort(key=lambda r: int(r["chunk_start_step"]))
        features = [np.asarray(r["features"][: int(r["chunk_owned_steps"])], np.float32) for r in chunks]
        del waiting[_text(record["id"])]
        yield {**chunks[0], "features": np.concatenate(features)}


def collect(found: Iterable[Found]) -> list[Found]:
    """All of ``found``, with a progress bar on a terminal."""
    return list(tqdm.tqdm(found, unit="sequence", leave=False, disable=None))


def _table(video: str, found: dict[str, tf.Tensor]) -> Detections:
    """The first ``num_detections`` rows as a table."""
    count = int(found["num_detections"])
    return Detections(
        videos=np.full(count, video),
        segments=found["segments"].numpy()[:count].astype(np.float64),
        labels=found["class_ids"].numpy()[:count].astype(np.int64),
        scores=found["scores"].numpy()[:count].astype(np.float64),
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

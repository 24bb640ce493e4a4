"""Running a localizer, or an exported model, over sequences that come as records, matrices or .npy files."""

import functools
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from a2net_tf import settings
from a2net_tf.data import schema
from a2net_tf.data.files import feature_files
from a2net_tf.detection.localizer import Localizer
from a2net_tf.detection.postprocess import Candidates
from a2net_tf.errors import UserError, list_some
from a2net_tf.evaluation.instances import Detections


class SequenceCandidates(NamedTuple):
    """Candidates of one sequence, not scored by the classes of steps yet."""

    record: dict  # without features; with the ground truth if there is any
    candidates: Candidates  # [1, N, ...], in steps
    seen: np.ndarray | None  # f32[1, T, 1 + C] as ``Localizer.scored`` takes it


class SequenceDetections(NamedTuple):
    """Detections of one sequence."""

    video: str
    duration_seconds: float
    most: int  # so many detections are kept of it at most, of each branch
    detections: dict[str, Detections]  # by branch, and by merge weight if several are asked for
    record: dict  # without features; with the ground truth if there is any

    @property
    def merged(self) -> Detections:
        """Of all branches together: the last reported one."""
        return list(self.detections.values())[-1]


def read_feature_files(
    path: str, *, num_features: int, seconds_per_step: float, first_step_seconds: float
) -> list[Iterator[dict]]:
    """One iterable of records per feature file of ``path``: a file, or a folder with folders, as training reads it.

    Files are .npy, .npz or .csv; others in a folder are left out, and counted in a printed line. All shapes are checked
    before anything is returned; the values are checked chunk by chunk when they are read.

    Raises:
        UserError: nothing there, two files of one name, not a matrix, another feature size, no steps.
    """
    source = pathlib.Path(path)
    files = list(feature_files.find_feature_files(source).values()) if source.is_dir() else [source]
    if not files or not files[0].exists():
        expected = ", ".join(feature_files.FEATURE_SUFFIXES)
        told = f"no {expected} file in this folder, found {feature_files.describe_files(source)}"
        raise UserError(f"--features={path}: {told if source.is_dir() else 'no such file'}")
    if left_out := len(feature_files.list_files(source)) - len(files) if source.is_dir() else 0:
        print(f"--features={path}: {len(files)} feature files; {left_out} files of other kinds are left out")
    for file in files:
        features = feature_files.read_features(file)
        schema.check_shape(features.shape, features.dtype, str(file), num_features)
    return [_file_records(file, num_features, seconds_per_step, first_step_seconds) for file in files]


def _file_records(file: pathlib.Path, num_features: int, stride: float, first: float) -> Iterator[dict]:
    read = functools.partial(feature_files.read_features, file)
    if file.suffix == ".npy":  # mapped anew each time: what was read of a mapping counts as memory until it is closed
        yield from _chunks(_whole_record(file.stem, len(read()), stride, first), read, str(file), num_features)
        return
    base = {"num_features": num_features, "seconds_per_step": stride, "first_step_seconds": first}
    yield from array_records(file.stem, read(), str(file), **base)


def array_records(
    name: str,
    features: np.ndarray,
    where: str,
    *,
    num_features: int,
    seconds_per_step: float,
    first_step_seconds: float,
) -> Iterator[dict]:
    """Records of one sequence that is in memory; its values are checked chunk by chunk when they are read.

    Args:
        name: of the sequence.
        features: numbers [T, D].
        where: what messages call it.
        num_features: D.
        seconds_per_step: time from one vector to the next.
        first_step_seconds: where step 0 begins.

    Raises:
        UserError: at once: not a matrix, another feature size, no steps. When it is read: NaN or infinite values.
    """
    schema.check_shape(features.shape, features.dtype, where, num_features)
    whole = _whole_record(name, len(features), seconds_per_step, first_step_seconds)
    return _chunks(whole, lambda: features, where, num_features)


def _whole_record(name: str, num_steps: int, stride: float, first: float) -> dict:
    return {
        "id": name,
        "features": range(num_steps),
        "num_steps": num_steps,
        "chunk_start_step": 0,
        "chunk_owned_steps": num_steps,
        "feature_stride_seconds": stride,
        "first_step_seconds": first,
        "duration_seconds": first + num_steps * stride,
    }


def _chunks(whole: dict, read: Callable[[], np.ndarray], where: str, num_features: int) -> Iterator[dict]:
    for _, chunk in schema.split_into_chunks({**whole, "source": where}):
        steps = chunk["features"]
        part = np.array(read()[steps.start : steps.stop])
        features = schema.check_features(part, where, num_features, first_step=steps.start)
        yield {**chunk, "features": features}


def localize(
    localizer: Localizer, records: Iterable[dict], branches: Mapping[str, tuple[str, float]] | None = None
) -> Iterator[SequenceDetections]:
    """Detections of every sequence of ``records`` (numpy; chunks in any order), as soon as it is complete.

    Args:
        localizer: runs in this process.
        records: whole sequences or chunks.
        branches: what to report, of ``Localizer.reported``; by default the merged result alone.
    """
    branches = branches or dict(list(localizer.reported().items())[-1:])
    for found in find_candidates(localizer, records):
        yield detect(localizer, found, branches)


def find_candidates(localizer: Localizer, records: Iterable[dict]) -> Iterator[SequenceCandidates]:
    """What the network says of every sequence of ``records``, as soon as it is complete: the slow part."""
    located = ((record, (int(record["chunk_start_step"]), *_candidates(localizer, record))) for record in records)
    for record, found in _by_sequence(located):
        starts, candidates, seen = zip(*found, strict=True)
        merged = Candidates(*(tf.concat(values, axis=1) for values in zip(*candidates, strict=True)))
        seen = _add_up(starts, seen, int(record["num_steps"])) if localizer.scores_steps else None
        yield SequenceCandidates(record, merged, seen)


def _add_up(starts: Sequence[int], seen: Sequence[tf.Tensor], num_steps: int) -> np.ndarray:
    """f32[1, T, V]: what the windows of all chunks say of the steps of a sequence, of f32[1, t, V] of each chunk."""
    total = np.zeros((1, num_steps, seen[0].shape[-1]), np.float32)
    for start, part in zip(starts, seen, strict=True):
        total[:, start : start + part.shape[1]] += part
    return total


def _candidates(localizer: Localizer, record: dict) -> tuple[Candidates, tf.Tensor | None]:
    _check_windows_fit(record, localizer.config.inference_steps)
    numbers = (np.int32(record[name]) for name in ("num_steps", "chunk_start_step", "chunk_owned_steps"))
    return localizer.sequence_candidates(np.asarray(record["features"], np.float32), *numbers)


def _check_windows_fit(record: dict, window_steps: int) -> None:
    """Raises UserError if windows that a chunk owns reach beyond it."""
    owned, shared = int(record["chunk_owned_steps"]), len(record["features"]) - int(record["chunk_owned_steps"])
    is_last = int(record["chunk_start_step"]) + owned == int(record["num_steps"])
    if window_steps > shared and not is_last:
        raise UserError(
            f"windows of {window_steps} steps (--inference_window_steps, --window_steps): sequence "
            f"{schema.sequence_name(record)} is so long that it comes in chunks, which share {shared} steps; at most "
            f"{shared}"
        )


def _by_sequence(chunks: Iterable[tuple[dict, Any]]) -> Iterator[tuple[dict, list]]:
    """Collects what belongs to the chunks of each sequence, in their order, as soon as a sequence is complete.

    Args:
        chunks: (record, anything) of each chunk, in any order.

    Yields:
        The first chunk's record without its features (they can be huge), and the list of anythings.
    """
    waiting: dict[str, list] = {}
    for record, value in chunks:
        video = schema.sequence_name(record)
        description = {name: entry for name, entry in record.items() if name != "features"}
        parts = waiting.setdefault(video, [])
        parts.append((int(record["chunk_start_step"]), description, value))
        if sum(int(part["chunk_owned_steps"]) for _, part, _ in parts) == int(record["num_steps"]):
            parts = sorted(waiting.pop(video), key=lambda part: part[0])
            yield parts[0][1], [value for _, _, value in parts]
    if waiting:
        raise UserError(f"sequence {next(iter(waiting))}: chunks are missing; prepare the dataset again")


def detect(
    localizer: Localizer, found: SequenceCandidates, branches: Mapping[str, tuple[str, float]]
) -> SequenceDetections:
    """Detections of one sequence.

    Args:
        localizer: with any settings of localization.
        found: of ``find_candidates``, by a localizer with the same network, windows and classes per candidate.
        branches: what to report, of ``Localizer.reported``.
    """
    record, candidates = found.record, found.candidates
    if localizer.scores_steps:
        candidates = localizer.score(candidates, found.seen, np.int32([record["num_steps"]]))
    arguments = (
        candidates,
        tf.constant([record["num_steps"]], tf.int32),
        tf.constant([record["feature_stride_seconds"]], tf.float32),
        tf.constant([record["first_step_seconds"]], tf.float32),
    )
    video = schema.sequence_name(record)
    detections = {
        name: _table(
            video,
            {k: v[0] for k, v in localizer.detect[branch](*arguments, tf.constant(weight))._asdict().items()},
        )
        for name, (branch, weight) in branches.items()
    }
    most = localizer.config.most_detections(int(record["num_steps"]))
    return SequenceDetections(video, float(record["duration_seconds"]), most, detections, record)


def localize_exported(model: tf.Module, records: Iterable[dict]) -> Iterator[SequenceDetections]:
    """Detections of an exported model (``tf.saved_model.load``) for every sequence of ``records``.

    Of the features, many GB for a recording of hours, there is one copy at a time.
    """
    serve = model.signatures["serving_default"]
    for whole in stitched(records):
        # Taken out of the dict: nobody holds the features when the next sequence is put together.
        reply = serve(
            features=_share(whole.pop("features")),
            num_steps=tf.constant([whole["num_steps"]], tf.int32),
            seconds_per_step=tf.constant([whole["feature_stride_seconds"]], tf.float32),
        )
        video = schema.sequence_name(whole)
        table = _table(video, {name: value[0] for name, value in reply.items()})
        most = reply["scores"].shape[1]
        yield SequenceDetections(video, float(whole["duration_seconds"]), most, {"both": table}, whole)


def _share(features: np.ndarray) -> tf.Tensor:
    """f32[1, T, D] in the memory of ``features`` of ``stitched``; ``tf.constant`` would copy."""
    return tf.experimental.dlpack.from_dlpack(features.reshape(1, *features.shape).__dlpack__())


def stitched(records: Iterable[dict]) -> Iterator[dict]:
    """Whole sequences from chunks (in any order), with features f32[T, D]: an exported model takes the whole."""
    wholes: dict[str, np.ndarray] = {}

    def place(record: dict) -> None:
        video, part = schema.sequence_name(record), record["features"]
        if video not in wholes:
            wholes[video] = _aligned_array(int(record["num_steps"]), part.shape[1])
        start, owned = int(record["chunk_start_step"]), int(record["chunk_owned_steps"])
        wholes[video][start : start + owned] = part[:owned]

    for record, _ in _by_sequence((record, place(record)) for record in records):
        yield {**record, "features": wholes.pop(schema.sequence_name(record))}


def _aligned_array(*shape: int) -> np.ndarray:
    """f32[*shape] with any content, where TensorFlow can use it in place: at a multiple of 64 bytes."""
    num_bytes = 4 * math.prod(shape)
    memory = np.empty(num_bytes + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + num_bytes].view(np.float32).reshape(shape)


def collect(sequences: Iterable[SequenceDetections]) -> list[SequenceDetections]:
    """All of ``sequences``, with a progress bar on a terminal; says where clear detections have been cut off."""
    collected = list(tqdm.tqdm(sequences, unit="sequence", leave=False, disable=None))
    cut_off = [sequence for sequence in collected if is_cut_off(sequence.merged.scores, sequence.most)]
    if cut_off:
        most = max(sequence.most for sequence in cut_off)
        told = [f"{sequence.video}: {sequence.most}, down to {sequence.merged.scores[-1]:.2f}" for sequence in cut_off]
        print(
            f"warning: clear detections are cut off in {len(cut_off)} of {len(collected)} sequences, which have as "
            f"many as are kept (number and lowest score: {list_some(told)}): --max_detections={2 * most} keeps more, "
            "and 0, the default, grows with the sequence"
        )
    return collected


def is_cut_off(scores: np.ndarray, most: int) -> bool:
    """Whether the number of detections that are kept ends their scores f[n], descending, where these are still high."""
    return len(scores) >= most and bool(scores[-1] >= settings.FIELDS["subtitle_score"].default)


def _table(video: str, detections: dict[str, tf.Tensor]) -> Detections:
    """The first ``num_detections`` rows as a table."""
    count = int(detections["num_detections"])
    return Detections(
        videos=np.full(count, video),
        segments=detections["segments"].numpy()[:count].astype(np.float64),
        labels=detections["class_ids"].numpy()[:count].astype(np.int64),
        scores=detections["scores"].numpy()[:count].astype(np.float64),
    )

"""The record: the schema that every dataset folder shares, and its checks.

A record is one untrimmed sequence, or one chunk of a very long one:

    position in steps   0        1        2        3                  num_steps
                        |--v0----|--v1----|--v2----| ...  |--v(T-1)---|
    seconds             first_step_seconds          + position * feature_stride_seconds

Feature vector ``t`` stands for the stretch of time ``[t, t + 1)`` steps, so ``first_step_seconds`` is where that
stretch *begins* for vector 0. A vector computed from a sliding window of ``w`` seconds every ``s`` seconds describes
its middle, so such a dataset has ``first_step_seconds = (w - s) / 2``.

A chunk holds the steps ``[chunk_start_step, chunk_start_step + T)`` and *owns* the window starts
``[chunk_start_step, chunk_start_step + chunk_owned_steps)``: every window of the sequence belongs to exactly one chunk
and lies completely inside it, so that cutting windows from chunks gives what cutting them from the whole would give.
"""

import functools
import logging
import math
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from a2net_tf.data.labels import check_class_names
from a2net_tf.errors import UserError

MAX_CHUNK_STEPS = 16384  # 134 MB of 2048 float32 features
CHUNK_OVERLAP_STEPS = 1024  # the longest window that can be cut from a chunked sequence
STORED_FEATURES = ("float32", "float16", "bfloat16")  # types of features in prepared datasets
DAMAGED_RECORD = "damaged record of sequence"
_STEPS_AT_ONCE = 1024  # of a long recording, so that no copy of it is made
_LARGEST = 1e18  # of a feature value: its square and the sum of many are finite in float32

# TFDS warns about its own use of a deprecated name, for several fields at every read.
logging.getLogger("absl").addFilter(lambda entry: "`FeatureConnector.dtype` is deprecated" not in entry.getMessage())


def record_features(
    num_features: int, class_names: Sequence[str], stored_features: str = "float32"
) -> tfds.features.FeaturesDict:
    """The TFDS feature description of a record.

    Args:
        num_features: D, size of one feature vector.
        class_names: the C action classes, in the order of their ids (0-based; background is not among them).
        stored_features: type of the features, one of ``STORED_FEATURES``.

    Raises:
        UserError: a class name that TFDS could not keep, see ``labels.check_label``, or one that is there twice.
    """
    class_names = check_class_names(class_names, "class names of the dataset")
    text, array = tfds.features.Text, tfds.features.Tensor
    # Without encoding="bytes" TFDS writes a float64 as a float32.
    seconds = functools.partial(array, dtype=np.float64, encoding="bytes")
    return tfds.features.FeaturesDict(
        {
            "id": text(doc="Name of the sequence; chunks of one sequence share it."),
            "features": array(shape=(None, num_features), dtype=numpy_type(stored_features), encoding="bytes"),
            "num_steps": array(shape=(), dtype=np.int64, doc="Steps of the whole sequence."),
            "chunk_start_step": array(shape=(), dtype=np.int64),
            "chunk_owned_steps": array(shape=(), dtype=np.int64),
            "feature_stride_seconds": seconds(shape=()),
            "first_step_seconds": seconds(shape=(), doc="Where step 0 begins."),
            "duration_seconds": seconds(shape=()),
            "segments": array(shape=(None, 2), dtype=np.float32, doc="Start and end of each action, seconds."),
            "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=list(class_names))),
            "ambiguous_segments": array(shape=(None, 2), dtype=np.float32, doc="Seconds; neither right nor wrong."),
            "source": text(doc="File that the features came from."),
        }
    )


def sequence_name(record: dict) -> str:
    """The id of a record, which is bytes where TFDS has read it."""
    name = record["id"]
    return name.decode() if isinstance(name, bytes) else str(name)


def numpy_type(stored_features: str) -> np.dtype:
    """The numpy type of one of ``STORED_FEATURES``; TensorFlow brings bfloat16 along."""
    if stored_features not in STORED_FEATURES:
        raise UserError(f"--stored_features={stored_features}: expected {', '.join(STORED_FEATURES)}")
    return np.dtype(tf.as_dtype(stored_features).as_numpy_dtype)


def make_record(
    record_id: str,
    features: np.ndarray,
    segments: np.ndarray,
    labels: Sequence[int],
    *,
    num_classes: int,
    feature_stride_seconds: float,
    first_step_seconds: float = 0.0,
    duration_seconds: float | None = None,
    ambiguous_segments: np.ndarray | None = None,
    source: str = "",
) -> dict:
    """Checks one whole sequence and returns it as a record (a dict as ``record_features`` describes).

    Args:
        record_id: unique name of the sequence.
        features: numbers [T, D], one vector per step, finite, T >= 1.
        segments: f[G, 2], half-open [start, end) in seconds, inside [0, duration].
        labels: G class ids in [0, num_classes).
        num_classes: C.
        feature_stride_seconds: time from one vector to the next, > 0.
        first_step_seconds: where step 0 begins (see the module's drawing).
        duration_seconds: of the recording; by default the end of the last step.
        ambiguous_segments: f[?, 2] in seconds, ignored by the THUMOS14 protocol.
        source: the file, for error messages and provenance.

    Raises:
        UserError: names the source, the value found and the likely mistake.
    """
    where = source or record_id
    features = check_features(features, where)
    if not 0 < feature_stride_seconds < math.inf:
        raise UserError(f"{where}: feature_stride_seconds must be > 0 and finite, got {feature_stride_seconds}")
    if not math.isfinite(first_step_seconds):
        raise UserError(f"{where}: first_step_seconds must be finite, got {first_step_seconds}")
    if duration_seconds is None:
        duration_seconds = first_step_seconds + len(features) * feature_stride_seconds
    if not 0 < duration_seconds < math.inf:
        raise UserError(f"{where}: duration_seconds must be > 0 and finite, got {duration_seconds}")
    segments = check_segments(segments, duration_seconds, where)
    ambiguous = check_segments(() if ambiguous_segments is None else ambiguous_segments, duration_seconds, where)
    labels = np.asarray(labels, np.int64).reshape(-1)
    if len(labels) != len(segments):
        raise UserError(f"{where}: {len(segments)} segments but {len(labels)} labels")
    for label in labels:
        if not 0 <= label < num_classes:
            raise UserError(f"{where}: unknown class id {label}, the dataset has ids 0 to {num_classes - 1}")
    return {
        "id": record_id,
        "features": features,
        "num_steps": len(features),
        "chunk_start_step": 0,
        "chunk_owned_steps": len(features),
        "feature_stride_seconds": float(feature_stride_seconds),
        "first_step_seconds": float(first_step_seconds),
        "duration_seconds": float(duration_seconds),
        "segments": segments,
        "labels": labels,
        "ambiguous_segments": ambiguous,
        "source": source,
    }


def check_stored_record(record: dict[str, tf.Tensor], num_classes: int) -> dict[str, tf.Tensor]:
    """A record as TFDS has read it, if it can be one of ``make_record``: its checksum may be right and its content not.

    In the graph, and without a look at the features, of which there are many and which others check.

    Args:
        record: as ``record_features`` describes.
        num_classes: C.

    Raises:
        tf.errors.InvalidArgumentError: it begins with ``DAMAGED_RECORD``.
    """
    steps = tf.shape(record["features"], out_type=tf.int64)[0]
    total, start, owned = (record[name] for name in ("num_steps", "chunk_start_step", "chunk_owned_steps"))
    stride, first, duration = (
        tf.cast(record[f"{name}_seconds"], tf.float32) for name in ("feature_stride", "first_step", "duration")
    )
    segments, labels = record["segments"], record["labels"]
    stretches = tf.concat([segments, record["ambiguous_segments"]], axis=0)
    right = {
        "its texts are in UTF-8": tf.reduce_all([_as_utf8(record[name]) == record[name] for name in ("id", "source")]),
        "its chunk lies in the sequence": (
            (start >= 0) & (owned > 0) & (owned <= steps) & (steps <= total) & (start <= total - steps)
        )
        & (total < 2**31),
        "its times are finite, stride and duration above 0": (stride > 0)
        & (duration > 0)
        & tf.math.is_finite(stride * tf.cast(total, tf.float32) + tf.abs(first) + duration),
        "its actions are finite and in order": tf.reduce_all(
            tf.math.is_finite(stretches) & (stretches >= 0) & (stretches[:, :1] <= stretches[:, 1:])
        ),
        "its labels are one for each action": tf.size(labels) == tf.shape(segments)[0],
        "its labels are those of classes": tf.reduce_all((labels >= 0) & (labels < num_classes)),
    }
    checks = [
        tf.debugging.Assert(holds, [DAMAGED_RECORD, _as_utf8(record["id"]), f"expected that {what}"])
        for what, holds in right.items()
    ]
    with tf.control_dependencies(checks):
        return {name: tf.identity(value) for name, value in record.items()}


def _as_utf8(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")


def check_features(
    features: np.ndarray, where: str, num_features: int | None = None, *, first_step: int = 0
) -> np.ndarray:
    """Returns ``features`` [T, D] as one of ``STORED_FEATURES``, f32 if they are of another type; checks them.

    Args:
        features: the matrix, or a chunk of it that begins at ``first_step``.
        where: file or sequence, for the message.
        num_features: D, if it is known.
        first_step: added to the number of the step that a message names.

    Raises:
        UserError: no matrix, another size, or values that are not finite or too large to compute with.
    """
    features = np.asarray(features)
    check_shape(features.shape, features.dtype, where, num_features)
    if features.dtype.name not in STORED_FEATURES:
        with np.errstate(over="ignore"):  # what overflows is found below
            features = features.astype(np.float32)
    parts = (features[start : start + _STEPS_AT_ONCE] for start in range(0, len(features), _STEPS_AT_ONCE))
    largest = np.concatenate([np.abs(part.astype(np.float32, copy=False)).max(axis=1, initial=0.0) for part in parts])
    finite = np.isfinite(largest)
    if not finite.all():
        step = int(np.argmin(finite)) + first_step
        raise UserError(f"{where}: {int((~finite).sum())} steps hold NaN or infinite values, the first is step {step}")
    if (largest > _LARGEST).any():
        step = int(np.argmax(largest > _LARGEST))
        raise UserError(
            f"{where}: step {step + first_step} holds a value of size {largest[step]:.3g}, whose square is beyond "
            f"float32, so nothing could be learned from it; at most {_LARGEST:g}. Damaged, or of another type?"
        )
    return features


def check_shape(shape: Sequence[int], dtype: np.dtype, where: str, num_features: int | None = None) -> None:
    """Raises UserError naming ``where`` unless an array of this shape and type can be features [T, D]."""
    if len(shape) != 2 or (dtype.kind not in "fiu" and dtype.name not in STORED_FEATURES):  # bfloat16 has no kind
        raise UserError(f"{where}: expected a number matrix [steps, features], found shape {list(shape)} of {dtype}")
    if shape[0] == 0:
        raise UserError(f"{where}: 0 feature steps; an empty recording cannot be used")
    if num_features is not None and shape[1] != num_features:
        hint = "; is the matrix transposed?" if shape[0] == num_features else ""
        raise UserError(f"{where}: {shape[1]} values per step but {num_features} are expected{hint}")


def check_segments(segments: np.ndarray, duration_seconds: float, where: str) -> np.ndarray:
    """Returns ``segments`` as f32[G, 2]; raises UserError if one is not finite, reversed or outside [0, duration]."""
    segments = np.asarray(segments, np.float64)
    if segments.size == 0:
        segments = segments.reshape(0, 2)
    if segments.ndim != 2 or segments.shape[1] != 2:
        raise UserError(
            f"{where}: expected segments as [actions, 2], start and end, found shape {list(segments.shape)}"
        )
    for start, end in segments:
        if not (np.isfinite(start) and np.isfinite(end)):
            raise UserError(f"{where}: action from {start} to {end} s is not finite")
        if not start < end:
            raise UserError(f"{where}: action from {start:g} to {end:g} s does not end after its start (reversed?)")
        if start < 0 or end > duration_seconds + 1e-6:
            raise UserError(
                f"{where}: action from {start:g} to {end:g} s lies outside the recording (0 to "
                f"{duration_seconds:g} s); wrong unit or sampling rate?"
            )
    return segments.astype(np.float32)


def split_into_chunks(
    record: dict, max_steps: int = MAX_CHUNK_STEPS, overlap_steps: int = CHUNK_OVERLAP_STEPS
) -> Iterator[tuple[str, dict]]:
    """Yields ``(key, record)``: the record itself, or chunks of at most ``max_steps`` steps if it is longer.

    Neighbouring chunks share ``overlap_steps`` steps, so windows of up to ``overlap_steps`` can be cut.
    """
    total, owned = record["num_steps"], max_steps - overlap_steps
    if total <= max_steps:
        yield record["id"], record
        return
    for start in range(0, total, owned):
        last = start + max_steps >= total
        chunk = {
            "features": record["features"][start : start + max_steps],
            "chunk_start_step": start,
            "chunk_owned_steps": total - start if last else owned,
        }
        yield f"{record['id']}#{start}", {**record, **chunk}
        if last:
            return


def stored_chunks(record: dict, stored_features: str) -> Iterator[tuple[str, dict]]:
    """Yields (key, record) as they are stored: in chunks if the record is long, features in the type to be stored.

    Raises:
        UserError: a value is beyond the type.
    """
    where = record["source"] or record["id"]
    for key, chunk in split_into_chunks(record):
        start = chunk["chunk_start_step"]
        features = convert_features(chunk["features"], stored_features, where, first_step=start)
        yield key, {**chunk, "features": features}


def convert_features(features: np.ndarray, stored_features: str, where: str, *, first_step: int = 0) -> np.ndarray:
    """``features`` rounded to the type in which they are stored.

    Args:
        features: finite numbers [T, D].
        stored_features: one of ``STORED_FEATURES``.
        where: file or sequence, for the message.
        first_step: added to the number of the step that a message names.

    Raises:
        UserError: a value is beyond the type.
    """
    largest = float(tf.as_dtype(stored_features).max)
    if max(float(features.max()), -float(features.min())) > largest:
        step, column = np.argwhere(np.abs(features) > largest)[0]
        raise UserError(
            f"{where}: step {step + first_step} holds {float(features[step, column]):g}, and {stored_features} ends at "
            f"{largest:g}; use --stored_features={'bfloat16' if stored_features == 'float16' else 'float32'}"
        )
    return features.astype(numpy_type(stored_features), copy=False)

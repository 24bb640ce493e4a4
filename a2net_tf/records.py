"""The example schema shared by every dataset folder, its checks, and opening of prepared datasets.

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

import abc
import functools
import importlib
import logging
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from a2net_tf import feature_files
from a2net_tf.errors import UserError

MAX_CHUNK_STEPS = 16384  # 134 MB of 2048 float32 features
CHUNK_OVERLAP_STEPS = 1024  # the longest window that can be cut from a chunked sequence
STORED_FEATURES = ("float32", "float16", "bfloat16")  # types of features in prepared datasets
_STEPS_AT_ONCE = 1024  # of a long recording, so that no copy of it is made

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
    """
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
        UserError: no matrix, another size, or values that are not finite.
    """
    features = np.asarray(features)
    check_shape(features.shape, features.dtype, where, num_features)
    if features.dtype.name not in STORED_FEATURES:
        with np.errstate(over="ignore"):  # what overflows is found below
            features = features.astype(np.float32)
    parts = (features[start : start + _STEPS_AT_ONCE] for start in range(0, len(features), _STEPS_AT_ONCE))
    finite = np.concatenate([np.isfinite(part).all(axis=1) for part in parts])
    if not finite.all():
        step = int(np.argmin(finite)) + first_step
        raise UserError(f"{where}: {int((~finite).sum())} steps hold NaN or infinite values, the first is step {step}")
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


class RecordBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder of records. Its features can be stored in any of ``STORED_FEATURES``.

    A subclass describes its records with ``record_features(D, class_names, self.stored_features)`` and writes them with
    ``yield from self.store(record)``.

    Args:
        stored_features: type of the features; empty: as the prepared directory has them, float32 if there is none yet.
        **kwargs: as TFDS takes them: ``data_dir``, ``config``, ...

    Raises:
        UserError: the prepared directory has features of another type.
    """

    def __init__(self, *, stored_features: str = "", **kwargs):
        self.stored_features = stored_features or "float32"
        super().__init__(**kwargs)
        self._original_state["stored_features"] = stored_features  # from which TFDS makes copies for other processes
        if (self.data_path / "dataset_info.json").exists():
            # TFDS would take the schema from the code, and read what was stored in another type as noise.
            self.info._features = tfds.features.FeaturesDict.from_config(str(self.data_path))
            check_stored_type(self, stored_features)
            self.stored_features = stored_type(self)

    def store(self, record: dict) -> Iterator[tuple[str, dict]]:
        """Yields (key, record) as TFDS writes them: in chunks if it is long, features in the type to be stored."""
        where = record["source"] or record["id"]
        for key, chunk in split_into_chunks(record):
            start = chunk["chunk_start_step"]
            features = convert_features(chunk["features"], self.stored_features, where, first_step=start)
            yield key, {**chunk, "features": features}


class FolderContents(NamedTuple):
    """What a ``FolderBuilder`` found in its folder.

    Attributes:
        num_features: D.
        class_names: the C classes in the order of their ids.
        splits: for each split one function per video, which reads the video's features and returns its records.
        metadata: for JSON; ``also_reported`` ({class: a class that each of its detections also has}), ``counts``, and
            ``signal`` if vectors are pieces of a sampled signal (the fields of ``augmentation.SignalLayout``).
    """

    num_features: int
    class_names: Sequence[str]
    splits: Mapping[str, Sequence[Callable[[], Iterable[dict]]]]
    metadata: dict


class FolderBuilder(RecordBuilder, skip_registration=True):
    """A builder whose feature size, classes and splits depend on the files that the user puts into manual_dir.

    TFDS asks for the schema when a builder is made, but says where the files are only when it prepares. So the schema
    is left open at first, completed just before records are written, and from then on read from the prepared directory.
    A fingerprint of the files is stored with it: the directory is not reused in silence when they have changed.
    """

    HOMEPAGE = ""

    @abc.abstractmethod
    def read_folder(self, folder: pathlib.Path) -> FolderContents:
        """Looks at everything in ``folder`` but the features themselves; raises UserError."""

    def check_unchanged(self, folder: pathlib.Path) -> None:
        """Raises UserError if this builder's prepared directory was written from other files than ``folder`` holds."""
        then, now = read_metadata(self).get("fingerprint"), feature_files.fingerprint(folder)
        if then != now:
            told = [f"{f['files']} files of {f['bytes'] / 1e6:.1f} MB" if f else "unknown" for f in (then, now)]
            raise UserError(
                f"manual_dir={folder}: its files have changed since {self.data_path} was written (then {told[0]}, now "
                f"{told[1]}); delete that directory to prepare it again, or use it as it is with --dataset="
                f"{self.data_path}"
            )

    def download_and_prepare(self, *, download_config: tfds.download.DownloadConfig | None = None, **kwargs) -> None:
        """As in TFDS, but does not reuse a directory that was written from other files."""
        manual_dir = download_config.manual_dir if download_config else None
        reuse = download_config and not download_config.download_mode.overwrite_dataset
        if manual_dir and reuse and (self.data_path / "dataset_info.json").exists():
            self.check_unchanged(pathlib.Path(manual_dir))
        super().download_and_prepare(download_config=download_config, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=None, homepage=self.HOMEPAGE, metadata=tfds.core.MetadataDict())

    def _download_and_prepare(self, dl_manager: tfds.download.DownloadManager, *args, **kwargs) -> None:
        folder = pathlib.Path(dl_manager.manual_dir)
        self._contents = self.read_folder(folder)
        if not any(self._contents.splits.values()):
            raise UserError(f"manual_dir={folder}: no video is left that could be prepared")
        # TFDS has no public way to complete a schema; it does the same when it opens a directory without its builder.
        size, class_names = self._contents.num_features, self._contents.class_names
        self.info._features = record_features(size, class_names, self.stored_features)
        self.info.metadata.update(self._contents.metadata, fingerprint=feature_files.fingerprint(folder))
        super()._download_and_prepare(dl_manager, *args, **kwargs)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        # TFDS cannot write an empty split.
        return {split: self._generate_examples(videos) for split, videos in self._contents.splits.items() if videos}

    def _generate_examples(self, videos: Sequence[Callable[[], Iterable[dict]]]) -> Iterator[tuple[str, dict]]:
        for read_video in videos:
            for record in read_video():
                yield from self.store(record)


def read_metadata(builder: tfds.core.DatasetBuilder) -> dict:
    """What a prepared dataset says beside its records (see ``FolderContents.metadata``); {} if nothing."""
    return {} if builder.info.metadata is None else dict(builder.info.metadata.items())


def open_dataset(
    dataset: str, data_dir: str = "", manual_dir: str = "", stored_features: str = ""
) -> tfds.core.DatasetBuilder:
    """Opens a prepared dataset, preparing it first if need be.

    Args:
        dataset: ``NAME`` or ``NAME/CONFIG`` of a folder under ``datasets/``, or the path of a prepared TFDS directory.
        data_dir: where prepared datasets live; TFDS's own default if empty.
        manual_dir: where files that the user downloaded by hand are.
        stored_features: type in which features are stored, one of ``STORED_FEATURES``; empty: whatever a prepared
            directory has, float32 if it is prepared now.

    Raises:
        UserError: unknown dataset, its raw files are missing or bad, or they are not those that it was prepared from,
            or its features are stored in another type.
    """
    if tf.io.gfile.exists(f"{dataset}/dataset_info.json"):
        builder = tfds.builder_from_directory(dataset)
        check_stored_type(builder, stored_features)
        return builder
    builder_class = find_builder_class(dataset)
    config = dataset.partition("/")[2]
    configs = [c.name for c in builder_class.BUILDER_CONFIGS]
    if config and config not in configs:
        raise UserError(f"--dataset={dataset}: no config '{config}'; have {', '.join(configs) or 'none'}")
    if not issubclass(builder_class, RecordBuilder):
        raise UserError(f"--dataset={dataset}: its Builder must be a records.RecordBuilder (docs/own_data.md)")
    builder = builder_class(data_dir=data_dir or None, config=config or None, stored_features=stored_features)
    if not (builder.data_path / "dataset_info.json").exists():
        prepare(builder, manual_dir)
    elif isinstance(builder, FolderBuilder) and manual_dir and pathlib.Path(manual_dir).is_dir():
        builder.check_unchanged(pathlib.Path(manual_dir))
    return builder


def stored_type(builder: tfds.core.DatasetBuilder) -> str:
    """In which of ``STORED_FEATURES`` the features of a prepared dataset are stored."""
    return np.dtype(builder.info.features["features"].np_dtype).name


def check_stored_type(builder: tfds.core.DatasetBuilder, stored_features: str) -> None:
    """Raises UserError if a prepared dataset has features of another type than ``stored_features`` (empty: any)."""
    if stored_features and stored_features != stored_type(builder):
        raise UserError(
            f"{builder.data_path}: its features are stored as {stored_type(builder)}, not {stored_features} "
            "(--stored_features); drop that setting to use them as they are, or delete the directory (or give another "
            "--data_dir) to prepare them again"
        )


def find_builder_class(dataset: str) -> type[tfds.core.DatasetBuilder]:
    """The ``Builder`` of ``NAME`` or ``NAME/CONFIG``; raises UserError if there is no such folder."""
    name = dataset.partition("/")[0]
    module = f"a2net_tf.datasets.{name}.{name}_dataset_builder"
    try:
        return importlib.import_module(module).Builder
    except ModuleNotFoundError as error:
        if name.isidentifier() and (error.name is None or not module.startswith(error.name)):
            raise  # the folder is there, and something that it needs is not installed
        raise UserError(
            f"--dataset={dataset}: no such dataset; have {', '.join(dataset_names())}, or the path of a prepared "
            "directory (one that holds dataset_info.json)"
        ) from None


def prepare(builder: tfds.core.DatasetBuilder, manual_dir: str = "") -> None:
    """Writes the records of ``builder``; after an error there is no directory that looks prepared.

    Raises:
        UserError: the raw files are missing or bad, or the directory to write exists but is not complete.
    """
    if builder.data_path.exists():  # TFDS would take it for a prepared one
        raise UserError(f"{builder.data_path}: exists but holds no dataset_info.json; copied in part? Delete it first")
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        # The same default as TFDS, whose own error for a missing folder is no UserError.
        folder = tfds.core.Path(manual_dir or builder.data_dir_root / "downloads" / "manual")
        if not folder.is_dir() or not any(folder.iterdir()):
            instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
            raise UserError(f"manual_dir={folder}: not a folder, or an empty one. {instructions}")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir or None))


def dataset_names() -> list[str]:
    """Names of the dataset folders that come with the package."""
    folders = [pathlib.Path(p) for p in importlib.import_module("a2net_tf.datasets").__path__]
    return sorted(f.parent.name for folder in folders for f in folder.glob("*/*_dataset_builder.py"))


def class_names(builder: tfds.core.DatasetBuilder) -> list[str]:
    """The C class names of a prepared dataset, in the order of their ids."""
    return list(builder.info.features["labels"].feature.names)


def num_features(builder: tfds.core.DatasetBuilder) -> int:
    """D of a prepared dataset."""
    return int(builder.info.features["features"].shape[-1])


def read_records(builder: tfds.core.DatasetBuilder, split: str) -> tf.data.Dataset:
    """Records of ``split`` (TFDS syntax, e.g. ``user01+user03`` or ``train[:80%]``) in a fixed order.

    Raises:
        UserError: unknown or empty split.
    """
    # TFDS would read 16 files at once and many records ahead, and keep small splits: gigabytes of long recordings.
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune, and the end of its thread can take half a second
    reading = tfds.ReadConfig(
        options=options,
        try_autocache=False,
        interleave_cycle_length=1,
        interleave_block_length=1,
        num_parallel_calls_for_interleave_files=1,
        num_parallel_calls_for_decode=2,
        skip_prefetch=True,
    )
    try:
        if builder.info.splits[split].num_examples == 0:
            raise UserError(f"split '{split}' of {builder.info.full_name} is empty")
        return builder.as_dataset(split=split, shuffle_files=False, read_config=reading)
    except (ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"split '{split}' is not in {builder.info.full_name}; it has {', '.join(builder.info.splits)}"
        ) from None


def find_damaged_file(builder: tfds.core.DatasetBuilder, split: str) -> str | None:
    """The first record file of ``split`` that is missing, cannot be read to its end or has too few records, or None."""
    for instruction in builder.info.splits[split].file_instructions:
        path = str(instruction.filename)
        try:
            count = sum(1 for _ in tf.data.TFRecordDataset(path))
        except tf.errors.OpError:
            return path
        if count != instruction.examples_in_shard:  # cut off exactly between two records
            return path
    return None

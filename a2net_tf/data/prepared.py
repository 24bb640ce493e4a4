"""Datasets of records, prepared by TFDS: builders, opening and reading."""

import abc
import collections
import contextlib
import functools
import importlib
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from a2net_tf import disk, locks
from a2net_tf.compat import CompletedBeforeWriting, NothingToDownload, set_features
from a2net_tf.data import beam_options, fingerprints, prepared_files
from a2net_tf.data.beam_options import NO_BEAM, Beam
from a2net_tf.data.files import annotation_files
from a2net_tf.data.prepared_files import INFO_FILE
from a2net_tf.data.schema import check_stored_record, record_features, stored_chunks
from a2net_tf.errors import UserError, reason_of
from a2net_tf.settings import Config


class RecordBuilder(NothingToDownload, tfds.core.GeneratorBasedBuilder, skip_registration=True):
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
        self._arguments = {"stored_features": stored_features, **kwargs}
        try:
            super().__init__(**kwargs)
        except UserError:
            raise
        except Exception as error:  # TFDS has found a prepared directory and cannot read it
            raise _damaged(self.data_path, error) from None
        if (self.data_path / INFO_FILE).exists():
            prepared_files.check_directory(self.data_path)
            # TFDS would take the schema from the code, and read what was stored in another type as noise.
            set_features(self.info, _read_features(self.data_path))
            prepared_files.check_schema(self)
            check_stored_type(self, stored_features)
            self.stored_features = stored_type(self)

    def __getstate__(self) -> dict:
        """What a copy in another process is made from; that of TFDS would not know of ``stored_features``."""
        return self._arguments

    def __setstate__(self, state: dict) -> None:
        """Makes the copy."""
        self.__init__(**state)

    def store(self, record: dict) -> Iterator[tuple[str, dict]]:
        """(key, record) as TFDS writes them: in chunks if it is long, features in the type to be stored."""
        return stored_chunks(record, self.stored_features)

    def download_and_prepare(self, **kwargs) -> None:
        """As in TFDS, but one process at a time prepares this dataset in a ``data_dir``; another waits for it.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        if "://" in str(self.data_dir_root):  # a bucket, which knows no locks
            super().download_and_prepare(**kwargs)
            return
        folder = pathlib.Path(self.data_dir_root, self.name)
        with _only_here(folder), _disk_errors_named(folder):
            super().download_and_prepare(**kwargs)
            disk.sync_below(self.data_dir)
            disk.sync_names(self.data_path.parent)


@contextlib.contextmanager
def _only_here(folder: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a dataset's folder; removes what processes have left in it that were killed."""
    with locks.hold(folder / ".lock", f"{folder} (being prepared)", wait=True):
        for left in list(folder.rglob("incomplete.*")):
            disk.remove(left)
        yield


@contextlib.contextmanager
def _disk_errors_named(folder: pathlib.Path) -> Iterator[None]:
    """Makes a UserError of an error of the disk, which TFDS wraps into a RuntimeError of its own."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from None
            if isinstance(cause, OSError) or disk.is_full(cause):
                raise UserError(f"{folder}: cannot be prepared: {cause}") from error
            cause = cause.__cause__
        raise


class FolderContents(NamedTuple):
    """What a ``FolderBuilder`` found in its folder.

    Attributes:
        num_features: D.
        class_names: the C classes in the order of their ids.
        splits: for each split one function per video, which reads the video's features and returns its records.
        metadata: for JSON; ``also_reported`` ({class: a class that each of its detections also has}), ``counts``, and
            ``signal`` if vectors are pieces of a sampled signal (the fields of ``augment.SignalLayout``).
    """

    num_features: int
    class_names: Sequence[str]
    splits: Mapping[str, Sequence[Callable[[], Iterable[dict]]]]
    metadata: dict


class FolderBuilder(CompletedBeforeWriting, RecordBuilder, skip_registration=True):
    """A builder whose feature size, classes and splits depend on the files that the user puts into manual_dir.

    TFDS asks for the schema when a builder is made, but says where the files are only when it prepares. So the schema
    is left open at first, completed just before records are written, and from then on read from the prepared directory.
    A fingerprint of the files is stored with it: the directory is not reused in silence when they have changed.
    """

    HOMEPAGE = ""
    _on_beam = False

    @abc.abstractmethod
    def read_folder(self, folder: pathlib.Path) -> FolderContents:
        """Looks at everything in ``folder`` but the features themselves; raises UserError."""

    def check_unchanged(self, folder: pathlib.Path) -> None:
        """Raises UserError if this builder's prepared directory was written from other files than ``folder`` holds."""
        then = read_metadata(self).get("fingerprint")
        known = then and isinstance(then.get("digest"), dict)  # an earlier version kept one digest of all files
        difference = fingerprints.find_difference(folder, then) if known else "it does not say from which files"
        if difference:
            raise UserError(
                f"manual_dir={folder}: its files have changed since {self.data_path} was written "
                f"({difference}); delete that directory to prepare it again, or use it as it is with --dataset="
                f"{self.data_path}"
            )

    def download_and_prepare(self, *, download_config: tfds.download.DownloadConfig | None = None, **kwargs) -> None:
        """As in TFDS, but does not reuse a directory that was written from other files."""
        manual_dir = download_config.manual_dir if download_config else None
        reuse = download_config and not download_config.download_mode.overwrite_dataset
        if manual_dir and reuse and (self.data_path / INFO_FILE).exists():
            self.check_unchanged(pathlib.Path(manual_dir))
        self._on_beam = bool(download_config and download_config.beam_runner)
        super().download_and_prepare(download_config=download_config, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=None, homepage=self.HOMEPAGE, metadata=tfds.core.MetadataDict())

    def complete_schema(self, folder: pathlib.Path) -> None:
        """Reads the folder; raises UserError."""
        self._contents = self.read_folder(folder)
        if not any(self._contents.splits.values()):
            raise UserError(f"manual_dir={folder}: no video is left that could be prepared")
        size, class_names = self._contents.num_features, self._contents.class_names
        set_features(self.info, record_features(size, class_names, self.stored_features))
        self.info.metadata.update(self._contents.metadata, fingerprint=fingerprints.fingerprint(folder))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        make = self._records_on_beam if self._on_beam else self._generate_examples
        # TFDS cannot write an empty split.
        return {split: make(videos) for split, videos in self._contents.splits.items() if videos}

    def _records_on_beam(self, videos: Sequence[Callable[[], Iterable[dict]]]) -> Any:
        make = importlib.import_module("a2net_tf.data.beam_records").MakeRecords  # now, for it needs Beam
        return make(videos, self.stored_features, str(self.data_path))

    def check_pipeline(self) -> None:
        """Raises UserError with all that Beam has found wrong with videos."""
        if self._on_beam:
            importlib.import_module("a2net_tf.data.beam_records").raise_errors(str(self.data_path))

    def _generate_examples(self, videos: Sequence[Callable[[], Iterable[dict]]]) -> Iterator[tuple[str, dict]]:
        for read_video in videos:
            for record in read_video():
                yield from self.store(record)


def _read_features(folder: tfds.core.Path) -> tfds.features.FeaturesDict:
    try:
        return tfds.features.FeaturesDict.from_config(str(folder))
    except Exception as error:
        raise _damaged(folder, error) from None


def _damaged(folder: tfds.core.Path, error: Exception) -> UserError:
    """What is wrong with a prepared directory that TFDS cannot read: as our own checks say it, or TFDS."""
    try:
        prepared_files.check_directory(folder)
    except UserError as ours:
        return ours
    return UserError(f"{folder}: damaged, or not prepared by TFDS ({reason_of(error)}); delete it and prepare it again")


def _open_directory(path: str) -> tfds.core.DatasetBuilder:
    """A prepared directory, whoever has written it; raises UserError for what is damaged or holds no records."""
    prepared_files.check_directory(tfds.core.Path(path))
    try:
        builder = tfds.builder_from_directory(path)
        read_metadata(builder)
    except Exception as error:
        raise _damaged(tfds.core.Path(path), error) from None
    prepared_files.check_schema(builder)
    return builder


def read_metadata(builder: tfds.core.DatasetBuilder) -> dict:
    """What a prepared dataset says beside its records (see ``FolderContents.metadata``); {} if nothing."""
    return {} if builder.info.metadata is None else dict(builder.info.metadata.items())


def read_extraction(builder: tfds.core.DatasetBuilder) -> dict:
    """How the features of a prepared dataset were made of videos (see ``video.description``); {} if that is unknown."""
    settings = read_metadata(builder).get("settings")
    found = settings.get("extraction") if isinstance(settings, dict) else None
    return found if isinstance(found, dict) else {}


def describe_changes(builder: tfds.core.DatasetBuilder, split: str) -> list[str]:
    """A line for each part of ``split`` whose annotations were changed when they were prepared, saying how."""
    counts = read_metadata(builder).get("counts", {})
    changed = {name: counts[name].get("changed") for name in re.findall(r"\w+", split) if name in counts}
    return [
        f"split '{name}': actions {annotation_files.describe_changes(of)}, when it was prepared; --mode=score takes "
        "the annotations as they are"
        for name, of in changed.items()
        if of
    ]


def open_dataset(
    dataset: str, data_dir: str = "", manual_dir: str = "", stored_features: str = "", beam: Beam = NO_BEAM
) -> tfds.core.DatasetBuilder:
    """Opens a prepared dataset, preparing it first if need be.

    Args:
        dataset: ``NAME`` or ``NAME/CONFIG`` of a folder under ``datasets/``, or the path of a prepared TFDS directory.
        data_dir: where prepared datasets live; TFDS's own default if empty.
        manual_dir: where files that the user downloaded by hand are.
        stored_features: type in which features are stored, one of ``STORED_FEATURES``; empty: whatever a prepared
            directory has, float32 if it is prepared now.
        beam: how it is prepared, if it is prepared now.

    Raises:
        UserError: unknown dataset, its raw files are missing or bad, or they are not those that it was prepared from,
            or its features are stored in another type.
    """
    if tf.io.gfile.exists(f"{dataset}/{INFO_FILE}"):
        builder = _open_directory(dataset)
        check_stored_type(builder, stored_features)
        return builder
    builder_class = find_builder_class(dataset)
    config = dataset.partition("/")[2]
    configs = [c.name for c in builder_class.BUILDER_CONFIGS]
    if config and config not in configs:
        raise UserError(f"--dataset={dataset}: no config '{config}'; have {', '.join(configs) or 'none'}")
    if not issubclass(builder_class, RecordBuilder):
        raise UserError(
            f"--dataset={dataset}: its Builder must be an a2net_tf.data.prepared.RecordBuilder (docs/own_data.md)"
        )
    make = functools.partial(
        builder_class, data_dir=data_dir or None, config=config or None, stored_features=stored_features
    )
    builder = make()
    if not builder.info.splits:
        prepare(builder, manual_dir, beam)
        # Another command may have prepared the dataset since this builder was made, and from other files.
        builder = make()
    if isinstance(builder, FolderBuilder) and manual_dir and pathlib.Path(manual_dir).is_dir():
        builder.check_unchanged(pathlib.Path(manual_dir))
    return builder


def open_dataset_of(config: Config) -> tfds.core.DatasetBuilder:
    """``open_dataset`` of ``config.dataset``, from where the settings say its files are."""
    beam = Beam(config.beam_runner, config.beam_options)
    return open_dataset(config.dataset, config.data_dir, config.manual_dir, config.stored_features, beam)


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


def prepare(builder: tfds.core.DatasetBuilder, manual_dir: str = "", beam: Beam = NO_BEAM) -> None:
    """Writes the records of ``builder``; after an error there is no directory that looks prepared.

    Raises:
        UserError: the raw files are missing or bad, Beam cannot be used, or the directory to write is not complete.
    """
    download = beam_options.download_config(beam, manual_dir, generated=not isinstance(builder, FolderBuilder))
    if builder.data_path.exists() and not (builder.data_path / INFO_FILE).exists():  # TFDS would take it for prepared
        raise UserError(f"{builder.data_path}: exists but holds no dataset_info.json; copied in part? Delete it first")
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        # The same default as TFDS, whose own error for a missing folder is no UserError.
        folder = tfds.core.Path(manual_dir or builder.data_dir_root / "downloads" / "manual")
        if not folder.is_dir() or not any(folder.iterdir()):
            instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
            raise UserError(f"manual_dir={folder}: not a folder, or an empty one. {instructions}")
    builder.download_and_prepare(download_config=download)


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


def read_records(builder: tfds.core.DatasetBuilder, split: str, **decoding: Any) -> tf.data.Dataset:
    """Records of ``split`` (TFDS syntax, e.g. ``user01+user03`` or ``train[:80%]``) in a fixed order.

    Args:
        builder: of a prepared dataset.
        split: its name, or an expression.
        **decoding: as ``as_dataset`` takes it.

    Raises:
        UserError: unknown or empty split, one that names a record twice, or a file of it that is not whole.
        tf.errors.OpError: when they are read: ``find_damaged_file`` says where.
    """
    check_split(builder, split)
    prepared_files.check_record_files(builder, split)
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
    records = builder.as_dataset(split=split, shuffle_files=False, read_config=reading, **decoding)
    if decoding:
        return records
    num_classes = len(class_names(builder))
    check = functools.partial(check_stored_record, num_classes=num_classes)
    return records.map(tf.autograph.experimental.do_not_convert(check))


def check_split(builder: tfds.core.DatasetBuilder, split: str) -> None:
    """Raises UserError for a split that is unknown or empty or counts a record twice; no record is looked at."""
    where, there = f"split '{split}'", ", ".join(builder.info.splits)
    try:
        found = builder.info.splits[split]
    except (ValueError, KeyError) as error:
        known = set(re.findall(r"[A-Za-z_]\w*", split)) <= {*builder.info.splits, "all"}
        reason = f" ({' '.join(str(error).split())})" if known else ""  # which names those that are there, too
        raise UserError(f"{where} is not in {builder.info.full_name}; it has {there}{reason}") from None
    if found.num_examples <= 0:
        raise UserError(f"{where} of {builder.info.full_name} is empty; it has {there}")
    end = collections.defaultdict(int)
    parts = sorted(found.file_instructions, key=lambda part: (str(part.filename), part.skip))
    for part in parts:
        if part.skip < end[part.filename]:
            raise UserError(f"{where} names some records twice, which would count twice; name each split once")
        end[part.filename] = part.skip + (part.take if part.take >= 0 else part.examples_in_shard)


def check_has_actions(builder: tfds.core.DatasetBuilder, split: str, setting: str) -> None:
    """Raises UserError if ``split`` has no actions to be scored on: better before a training than after it.

    Features are not read.

    Args:
        builder: of a prepared dataset.
        split: as for ``read_records``.
        setting: that names the split, for the message.
    """
    labels = read_records(builder, split, decoders=tfds.decode.PartialDecoding({"labels": True}))
    if not any(len(record["labels"]) for record in labels.as_numpy_iterator()):
        raise UserError(
            f"split '{split}' (--{setting}) of {builder.info.full_name} has no actions, so nothing can be scored on "
            "it; name another split, or use --mode=train"
        )


def find_damaged_file(builder: tfds.core.DatasetBuilder, split: str) -> str | None:
    """The first record file of ``split`` that is missing, cannot be read to its end, has too few records or one that
    makes no sense; or None.
    """
    num_classes = len(class_names(builder))
    for instruction in builder.info.splits[split].file_instructions:
        path, count = str(instruction.filename), 0
        if not prepared_files.is_whole(path, instruction.examples_in_shard):
            return path
        try:
            for example in tf.data.TFRecordDataset(path):
                check_stored_record(builder.info.features.deserialize_example(example), num_classes)
                count += 1
        except (tf.errors.OpError, ValueError):  # of TensorFlow in the graph, of ours and of TFDS
            return path
        if count != instruction.examples_in_shard:  # cut off exactly between two records
            return path
    return None

"""Runs an exported model over any number of recordings on Spark: from features to a table of detections.

Needs pyspark (3.5 or newer, with pandas and pyarrow) and numpy, executors TensorFlow too, and nothing of this package:
copy this one file. Only --videos needs the package, on the executors.

    spark-submit spark.py --saved_model=MODEL --npy=FOLDER --output=FOUND

What it writes, as Parquet, in folders round=1, round=2 and so on:

    FOUND/detections   video, start, end (seconds), label, score, model (fingerprint), version (of the package)
    FOUND/failures     video, reason, model, version: what could not be done; the next start tries it again
    FOUND/recordings   video, steps, detections (how many, maybe 0), model, version: what is done

The work goes in rounds of so many gigabytes. A round counts when its recordings are listed in FOUND/recordings, which
is written last; the same command goes on behind the last such round. The driver sees names and counts, never features
or detections. An executor has a few recordings in memory, or one long one.
"""

import argparse
import atexit
import functools
import hashlib
import io
import json
import math
import os
import pathlib
import re
import shutil
import sys
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from py4j.protocol import Py4JError
from pyspark import SparkFiles
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

MODEL_CARD = "assets.extra/model_card.json"
VIDEO_ENDINGS = "3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogv ts vob webm wmv"  # video_files.SUFFIXES
FILE_STEM = r"([^/]+)\.[^./]+$"  # of a path: what its recording is called
# What comes back for a recording: rows of the tables below, told apart by the first column.
FOUND_COLUMNS = (
    "table string, video string, start double, end double, label string, score double, steps long, detections long, "
    "reason string"
)
TABLES = {
    "detections": ("video", "start", "end", "label", "score"),
    "failures": ("video", "reason"),
    "recordings": ("video", "steps", "detections"),  # last: it says that the others are complete
}
DONE_COLUMNS = "video string, model string, round int"
TOLERANT = {"ignoreCorruptFiles": True, "ignoreMissingFiles": True}  # what is then missing is a failure
UNREAD = "its file is empty or damaged, gone since it was listed, or larger than the 2 GiB that Spark hands over"
TRIED_FIRST = 3  # recordings; if none of them can be used, neither can the others
MOST_BYTES = 2**31 - 2**24  # of one file
LARGEST = 1e18  # of a feature: its square is finite in float32
STEPS_AT_ONCE = 8192  # of recordings that go through the model together
SETTINGS = {
    "spark.sql.execution.arrow.maxRecordsPerBatch": 64,  # that an executor takes at a time
    "spark.sql.execution.arrow.maxBytesPerBatch": 2**26,  # of them, but never less than one recording
    "spark.sql.files.openCostInBytes": 2**16,
    "spark.sql.shuffle.partitions": 16,  # of names; nothing else is shuffled
}


class UserError(ValueError):
    """A mistake of the user, in one line."""


class Job(NamedTuple):
    """What executors are told.

    Attributes:
        archive: folder of the model below the files that Spark distributes.
        num_features: D.
        seconds_per_step: where a recording does not say it.
        max_steps: T of the longest recording that the model takes.
        threads: that one task may use.
        kind: of the recordings: "npy", "parquet" or "videos".
    """

    archive: str
    num_features: int
    seconds_per_step: float
    max_steps: int
    threads: int
    kind: str


class Recording(NamedTuple):
    """One recording that can be given to the model: features f32[T, D]."""

    video: str
    features: np.ndarray
    seconds_per_step: float


# On the executors


def detect(batches: Iterable[pd.DataFrame], job: Job) -> Iterator[pd.DataFrame]:
    """For ``mapInPandas``: rows of FOUND_COLUMNS for rows of ``read_round``."""
    names = [column.split()[0] for column in FOUND_COLUMNS.split(", ")]
    of_batch = detect_videos if job.kind == "videos" else detect_features
    for batch in batches:
        yield pd.DataFrame(list(of_batch(batch, job)), columns=names)


def detect_features(batch: pd.DataFrame, job: Job) -> Iterator[tuple]:
    """What the model finds in recordings of features; short ones go through it together."""
    model, recordings = load_model(job.archive, job.threads), []
    for row in batch.itertuples(index=False):
        try:
            recordings.append(read_recording(row, job))
        except Exception as error:  # of a damaged file numpy raises almost anything
            yield failure(row.video, error)
    for group in group_by_length(recordings):
        try:
            yield from run_model(model, group)
        except Exception:
            yield from run_one_by_one(model, group)  # only the one that is to blame fails


def run_one_by_one(model: Any, recordings: Sequence[Recording]) -> Iterator[tuple]:
    """The same where something in a group went wrong."""
    for recording in recordings:
        try:
            yield from run_model(model, [recording])
        except Exception as error:
            yield failure(recording.video, error)


def detect_videos(batch: pd.DataFrame, job: Job) -> Iterator[tuple]:
    """What the model finds in video files, whose features are made as those were that it was trained on."""
    detector = load_detector(job.archive, job.threads)
    for row in batch.itertuples(index=False):
        try:
            found = detector.detect(row.path)
        except Exception as error:
            yield failure(row.video, error)
            continue
        seconds = sum(found.durations_seconds.values())
        for _, start, end, label, score in found:
            yield ("detections", row.video, start, end, label, score, 0, 0, "")
        steps = round(seconds / detector.seconds_per_step)
        yield ("recordings", row.video, 0.0, 0.0, "", 0.0, steps, len(found), "")


@functools.lru_cache(maxsize=1)
def load_model(archive: str, threads: int) -> Any:
    """The signature of the model, once per process."""
    import tensorflow as tf  # the driver needs no TensorFlow

    use_threads(threads)
    return tf.saved_model.load(os.path.join(SparkFiles.getRootDirectory(), archive)).signatures["serving_default"]


@functools.lru_cache(maxsize=1)
def load_detector(archive: str, threads: int) -> Any:
    """The model with all that makes features of videos, once per process."""
    import a2net_tf

    use_threads(threads)
    return a2net_tf.load(os.path.join(SparkFiles.getRootDirectory(), archive))


def use_threads(threads: int) -> None:
    """TensorFlow would start a thread for each core of the machine, in each of the tasks that share it."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def read_recording(row: Any, job: Job) -> Recording:
    """The recording of one row of ``read_round``; raises ValueError if it cannot be given to the model."""
    features = np.asarray(read_matrix(row.features))
    shape = list(features.shape)
    if features.ndim != 2 or features.dtype.kind not in "fiu":
        raise ValueError(f"expected a number matrix [steps, features], found shape {shape} of {features.dtype}")
    if not 1 <= shape[0] <= job.max_steps:
        raise ValueError(f"{shape[0]} steps; the model takes recordings of 1 to {job.max_steps}")
    if shape[1] != job.num_features:
        hint = "; is the matrix transposed?" if shape[0] == job.num_features else ""
        raise ValueError(f"{shape[1]} values per step but the model takes {job.num_features}{hint}")
    with np.errstate(over="ignore"):
        features = features.astype(np.float32, copy=False)
    usable = (np.abs(features) <= LARGEST).all(axis=1)  # NaN is not
    if not usable.all():
        raise ValueError(f"step {np.argmin(usable)} holds NaN, infinite or huge values")
    seconds = job.seconds_per_step if math.isnan(row.seconds_per_step) else row.seconds_per_step
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds_per_step must be > 0 and finite, found {seconds}")
    return Recording(row.video, features, seconds)


def read_matrix(value: Any) -> np.ndarray:
    """The matrix of a .npy file's bytes, or of an array of arrays."""
    if value is None:
        raise ValueError("no features")
    if not isinstance(value, bytes | bytearray):
        return np.stack(value) if len(value) else np.zeros((0, 0))
    try:
        loaded = np.load(io.BytesIO(value), allow_pickle=False)
    except Exception as error:
        reason = str(error).split(". ")[0]  # numpy goes on to advise unpickling
        raise ValueError(f"not a readable .npy matrix ({reason})") from None
    if not isinstance(loaded, np.ndarray):
        raise ValueError("not a .npy matrix but an .npz archive")
    return loaded


def group_by_length(recordings: Sequence[Recording]) -> Iterator[list[Recording]]:
    """Groups of recordings of about one length; one that is long is a group of its own."""
    group: list[Recording] = []
    for recording in sorted(recordings, key=lambda r: len(r.features)):
        if group and (len(group) + 1) * len(recording.features) > STEPS_AT_ONCE:
            yield group
            group = []
        group.append(recording)
    if group:
        yield group


def run_model(model: Any, group: Sequence[Recording]) -> list[tuple]:
    """Rows of FOUND_COLUMNS for a group of recordings; a list, so that an error leaves none of them behind."""
    import tensorflow as tf

    lengths = [len(recording.features) for recording in group]
    if len(group) == 1:
        features = group[0].features[None]
    else:
        features = np.zeros((len(group), max(lengths), group[0].features.shape[1]), np.float32)
        for place, recording in zip(features, group, strict=True):
            place[: len(recording.features)] = recording.features
    reply = model(
        features=tf.constant(features),
        num_steps=tf.constant(lengths, tf.int32),
        seconds_per_step=tf.constant([recording.seconds_per_step for recording in group], tf.float32),
    )
    reply, rows = {name: value.numpy() for name, value in reply.items()}, []
    for i, recording in enumerate(group):
        count = int(reply["num_detections"][i])
        values = (reply[name][i, :count].tolist() for name in ("segments", "labels", "scores"))
        for (start, end), label, score in zip(*values, strict=True):
            rows.append(("detections", recording.video, start, end, label.decode(), score, 0, 0, ""))
        rows.append(("recordings", recording.video, 0.0, 0.0, "", 0.0, lengths[i], count, ""))
    return rows


def failure(video: str, error: Exception) -> tuple:
    """The row of a recording that cannot be done."""
    reason = " ".join(str(error).split())[:500] or type(error).__name__
    return ("failures", video, 0.0, 0.0, "", 0.0, 0, 0, reason)


# On the driver: the model


class Model(NamedTuple):
    """What the card of an exported model says, and a fingerprint of the graph and its weights."""

    num_features: int
    seconds_per_step: float
    max_steps: int
    version: str
    fingerprint: str


def read_model(folder: pathlib.Path) -> Model:
    """Looks at an exported model without loading it; raises UserError."""
    if not (folder / "saved_model.pb").is_file():
        raise UserError(f"--saved_model={folder}: no SavedModel here (saved_model.pb is missing)")
    files = [folder / "saved_model.pb", *sorted((folder / "variables").glob("variables.*"))]
    found = {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    fingerprint = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
    try:
        card = json.loads((folder / MODEL_CARD).read_text(encoding="utf-8"))
        sizes = int(card["num_features"]), float(card["seconds_per_step"]), int(card["max_steps_of_a_request"])
        written, version = dict(card["sha256"]), str(card["versions"]["a2net-tf"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        told = f"its {MODEL_CARD} is missing or damaged ({type(error).__name__}: {error})"
        raise UserError(f"--saved_model={folder}: not written by --mode=export, or copied in part: {told}") from None
    if changed := [name for name in sorted(found.keys() | written) if found.get(name) != written.get(name)]:
        raise UserError(f"--saved_model={folder}: {changed[0]} is not the exported file; copied only in part?")
    return Model(*sizes, version, fingerprint)


# On the driver: the recordings


def list_recordings(session: SparkSession, options: argparse.Namespace) -> DataFrame:
    """Of each recording: ``video``, its name; ``path`` of the file that it is in; ``bytes`` of that file.

    Raises:
        UserError: nothing there, columns are missing, or two recordings have one name.
    """
    where = f"--{options.kind}={options.source}"
    try:
        found = _list_table(session, options, where) if options.parquet else _list_files(session, options)
        twice = found.groupBy("video").count().where("count > 1").take(1)
        nothing = not found.take(1)
    except AnalysisException as error:
        raise UserError(f"{where}: {str(error).strip().splitlines()[0][:300]}") from None
    if nothing:
        expected = {"npy": ".npy files", "parquet": "rows", "videos": "video files"}[options.kind]
        raise UserError(f"{where}: no {expected} in it")
    if twice:
        raise UserError(f"{where}: {twice[0][1]} recordings are called '{twice[0][0]}'; a name must be of one")
    return found


def _list_files(session: SparkSession, options: argparse.Namespace) -> DataFrame:
    endings = "npy" if options.npy else ",".join([*VIDEO_ENDINGS.split(), *VIDEO_ENDINGS.upper().split()])
    found = session.read.format("binaryFile").options(recursiveFileLookup=True, pathGlobFilter=f"*.{{{endings}}}")
    files = found.load(options.source)
    listed, names = files.select("path", F.col("length").alias("bytes")), files.inputFiles()
    if len(names) > listed.count():  # Spark passes over empty ones
        every = [(re.sub("^file:/+", "file:/", urllib.parse.unquote(name)), 0) for name in names]
        every = session.createDataFrame(every, "path string, bytes long")
        listed = listed.union(every.join(listed, "path", "left_anti"))
    return listed.select(F.regexp_extract("path", FILE_STEM, 1).alias("video"), "path", "bytes")


def _list_table(session: SparkSession, options: argparse.Namespace, where: str) -> DataFrame:
    table = session.read.parquet(options.parquet)
    types = dict(table.dtypes)
    for column in (options.video_column, options.features_column):
        if column not in types:
            raise UserError(f"{where}: no column '{column}'; it has {', '.join(types)}")
    kind = types[options.features_column]
    if kind != "binary" and not re.fullmatch("array<array<(float|double)>>", kind):
        expected = "array<array<float>>, an inner array for each step, or binary, the bytes of a .npy file"
        raise UserError(f"{where}: column '{options.features_column}' is {kind}; expected {expected}")
    name, path, size = options.video_column, "_metadata.file_path", "_metadata.file_size"
    columns = {"video": F.col(name).cast("string"), "path": F.col(path), "bytes": F.col(size)}
    return table.select(*(column.alias(name) for name, column in columns.items()))


def split_into_rounds(todo: Iterable[Row], most_bytes: float) -> Iterator[list[Row]]:
    """Rows of ``list_recordings``, ordered by path, in lists whose files have about ``most_bytes`` together."""
    current: list[Row] = []
    size = 0
    for row in todo:
        new_file = not current or row.path != current[-1].path
        if current and new_file and size + row.bytes > most_bytes:
            yield current
            current, size = [], 0
        size += row.bytes if new_file else 0
        current.append(row)
    if current:
        yield current


def read_round(session: SparkSession, options: argparse.Namespace, rows: Sequence[Row]) -> DataFrame:
    """The recordings of ``rows`` as executors take them, without those whose files cannot be read.

    Returns:
        ``video`` and, of videos, ``path``; else ``features`` and ``seconds_per_step`` (NaN where it is not said).
    """
    if options.videos:
        pairs = [(row.video, row.path.removeprefix("file:")) for row in rows]
        return session.createDataFrame(pairs, "video string, path string").repartition(len(pairs))
    unknown, seconds = F.lit(math.nan), "seconds_per_step"
    if options.npy:
        paths = [_escaped(row.path) for row in rows if row.bytes <= MOST_BYTES]
        files = session.read.format("binaryFile").options(**TOLERANT).load(paths)
        name, features = F.regexp_extract("path", FILE_STEM, 1), F.col("content")
        return files.select(name.alias("video"), features.alias("features"), unknown.alias(seconds))
    paths = sorted({_escaped(urllib.parse.unquote(row.path)) for row in rows})
    table = session.read.options(**TOLERANT).parquet(*paths)
    name, features = F.col(options.video_column).cast("string"), F.col(options.features_column)
    said = F.coalesce(F.col(seconds).cast("double"), unknown) if seconds in table.columns else unknown
    read = table.select(name.alias("video"), features.alias("features"), said.alias(seconds))
    return read.join(F.broadcast(_names(session, rows)), "video", "left_semi")


def _names(session: SparkSession, rows: Sequence[Row]) -> DataFrame:
    return session.createDataFrame([(row.video,) for row in rows], "video string")


def _escaped(path: str) -> str:
    """A path that Spark takes literally, and not as a pattern."""
    return re.sub(r"([\\\[\]{}*?,^])", r"\\\1", path)


# On the driver: what is done


def read_done(session: SparkSession, output: str, model: Model) -> tuple[DataFrame, int]:
    """The names of the recordings that are done, and how many rounds are; raises UserError if another model did it."""
    if not _hadoop(session, f"{output}/recordings").exists():
        return session.createDataFrame([], "video string"), 0
    done = session.read.schema(DONE_COLUMNS).parquet(f"{output}/recordings")
    if others := done.where(F.col("model") != model.fingerprint).select("model").take(1):
        told = f"holds detections of model {others[0][0]}, and --saved_model is {model.fingerprint}"
        raise UserError(f"--output={output}: {told}; give another folder")
    return done.select("video"), done.agg(F.max("round")).first()[0] or 0


class _hadoop:
    """A path in whatever file system Spark knows, for what PySpark has no public function."""

    def __init__(self, session: SparkSession, path: str):
        self._path = session._jvm.org.apache.hadoop.fs.Path(path)
        self._system = self._path.getFileSystem(session._jsc.hadoopConfiguration())

    def exists(self) -> bool:
        """Whether something is there."""
        return self._system.exists(self._path)

    def remove(self) -> None:
        """Removes a folder with all that is in it."""
        self._system.delete(self._path, True)


def try_first(session: SparkSession, options: argparse.Namespace, rows: Sequence[Row], job: Job) -> None:
    """Runs a few recordings for nothing but to see whether it works; raises UserError if each of them fails."""
    found = run(read_round(session, options, rows), job).where("table != 'detections'").collect()
    if found and all(row.reason for row in found):
        told = f"none of the {len(found)} recordings that were tried first can be used"
        raise UserError(f"--{options.kind}={options.source}: {told}; {found[0].video}: {found[0].reason}")


def run(recordings: DataFrame, job: Job) -> DataFrame:
    """Rows of FOUND_COLUMNS."""
    return recordings.mapInPandas(functools.partial(detect, job=job), FOUND_COLUMNS)


def write_round(
    session: SparkSession, found: DataFrame, rows: Sequence[Row], output: str, *, number: int, model: Model
) -> dict[str, int]:
    """Computes a round and writes its tables; returns how many rows each has.

    All is computed once, into FOUND/unfinished, and divided from there. FOUND/recordings comes last and in one file: it
    is there whole or not at all.
    """
    found.write.mode("overwrite").parquet(f"{output}/unfinished")
    found, counts = session.read.parquet(f"{output}/unfinished"), {}
    lost = _names(session, rows).join(found.where("table != 'detections'"), "video", "left_anti")
    for table, columns in TABLES.items():
        part = found.where(F.col("table") == table).select(*columns)
        if table == "failures":
            part = part.union(lost.select("video", F.lit(UNREAD)))
        part = part.withColumn("model", F.lit(model.fingerprint)).withColumn("version", F.lit(model.version))
        target = f"{output}/{table}/round={number}"
        (part.coalesce(1) if table == "recordings" else part).write.mode("overwrite").parquet(target)
        counts[table] = session.read.parquet(target).count()
    _hadoop(session, f"{output}/unfinished").remove()
    return counts


# The command


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("spark.py", description=__doc__, formatter_class=form, allow_abbrev=False)
    add = parser.add_argument
    add("--saved_model", required=True, metavar="FOLDER", help="of --mode=export, where the driver finds it")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--npy", metavar="FOLDER", help="with .npy files [steps, features], in folders in it too")
    source.add_argument("--parquet", metavar="TABLE", help="with a row for each recording")
    source.add_argument("--videos", metavar="FOLDER", help="with video files, which executors find at the same path")
    add("--output", required=True, metavar="FOLDER", help="of the tables; the same command goes on where it stopped")
    add("--video_column", default="video", metavar="NAME", help="of TABLE: what recordings are called")
    told = "of TABLE: array<array<float>>, or a .npy file as binary; seconds_per_step is used where it is a column"
    add("--features_column", default="features", metavar="NAME", help=told)
    add("--seconds_per_step", type=float, metavar="S", help="from one vector to the next (default: as in training)")
    told = "of the files of a round: so much is lost with the driver, and each ends with a wait for its slowest task"
    add("--round_gigabytes", type=float, default=16.0, metavar="GB", help=f"{told} (default %(default)s)")
    told = "of the files of one task: so much is lost with an executor"
    add("--partition_megabytes", type=float, default=128.0, metavar="MB", help=f"{told} (default %(default)s)")
    options = parser.parse_args(arguments)
    options.kind = next(kind for kind in ("npy", "parquet", "videos") if getattr(options, kind))
    options.source = getattr(options, options.kind)
    for name in ("seconds_per_step", "round_gigabytes", "partition_megabytes"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            parser.error(f"--{name}={value}: expected a number above 0")
    return options


def detect_all(session: SparkSession, options: argparse.Namespace) -> None:
    """Runs the command in a session of Spark; raises UserError."""
    model = read_model(pathlib.Path(options.saved_model))
    session = session.newSession()  # the settings are not for others
    partition_bytes = int(options.partition_megabytes * 2**20)
    for name, value in {**SETTINGS, "spark.sql.files.maxPartitionBytes": partition_bytes}.items():
        session.conf.set(name, value)
    listed = list_recordings(session, options)
    done, last = read_done(session, options.output, model)
    todo = listed.join(done, "video", "left_anti").orderBy("path", "video").persist()
    print(f"model {model.fingerprint}: {todo.count()} recordings to do, {done.count()} are done", flush=True)
    job = make_job(session, options, model)
    if last == 0:  # later, those that fail may be all that is left
        try_first(session, options, todo.orderBy(F.xxhash64("video")).take(TRIED_FIRST), job)
    rounds = split_into_rounds(todo.toLocalIterator(), options.round_gigabytes * 2**30)
    for number, rows in enumerate(rounds, start=last + 1):
        found = run(read_round(session, options, rows), job)
        counts = write_round(session, found, rows, options.output, number=number, model=model)
        print(f"round {number}: " + ", ".join(f"{n} {table}" for table, n in counts.items()), flush=True)
    todo.unpersist()


def make_job(session: SparkSession, options: argparse.Namespace, model: Model) -> Job:
    """Hands the model and this file to the executors, and says what they need to know."""
    context, archive = session.sparkContext, f"model-{model.fingerprint}"
    if not any(name.endswith(f"#{archive}") for name in context.listArchives):
        temporary = tempfile.mkdtemp()  # until the end: an executor that starts later fetches it, too
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        packed = shutil.make_archive(os.path.join(temporary, archive), "zip", options.saved_model)
        context.addArchive(f"{packed}#{archive}")
        context.addPyFile(__file__)
    return Job(
        archive,
        model.num_features,
        options.seconds_per_step or model.seconds_per_step,
        model.max_steps,
        int(context.getConf().get("spark.task.cpus", "1")),
        options.kind,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    options = parse(arguments)
    try:
        read_model(pathlib.Path(options.saved_model))  # before a cluster is asked for
        detect_all(SparkSession.builder.appName("a2net").getOrCreate(), options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (PySparkException, Py4JError) as error:
        print(f"error: Spark has given up: {_cause(error)}; the same command goes on", file=sys.stderr)
        return 1
    print(f"written: {options.output}/detections, recordings and failures", flush=True)
    return 0


def _cause(error: Exception) -> str:
    """What went wrong on an executor, of the long report that Spark makes of it."""
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    of_python = [line for line in lines if re.match(r"\w+(Error|Exception): ", line)]
    return (of_python[-1] if of_python else lines[0])[:500]


if __name__ == "__main__":
    # By its name, as executors import it: of a function of __main__ they would get a copy with each task, and load the
    # model anew each time.
    import spark

    sys.exit(spark.main())

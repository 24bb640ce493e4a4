"""The exported model on a real cluster of Spark: two executor processes on this machine, one cluster for all tests."""

import importlib
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import a2net_tf
from tests import films, tiny

pyspark = pytest.importorskip("pyspark", reason='needs pyspark (pip install ".[spark]")')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("java"), reason="Spark needs Java (apt-get install openjdk-17-jre-headless)"),
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas"),
]
LENGTHS = (1, 63, 64, 65, 200, 1000)  # the model's windows have 64 steps
LOCAL = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # Of short lives and small tables: what Java and Spark do to be fast later costs more than it gains.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
}


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    """export/spark.py as a user has it: one file, alone."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copy(tiny.REPO / "export" / "spark.py", folder)
    sys.path.insert(0, str(folder))
    module = importlib.import_module("spark")
    module.SETTINGS["spark.sql.shuffle.partitions"] = 2
    yield module
    sys.path.remove(str(folder))
    del sys.modules["spark"]


@pytest.fixture(scope="module")
def session(slow):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        builder = pyspark.sql.SparkSession.builder.master("local-cluster[2,1,2048]").config(map=LOCAL)
        # The package may be imported by executors where --videos asks for it.
        made = builder.config("spark.executorEnv.PYTHONPATH", str(tiny.REPO)).getOrCreate()
        work = pathlib.Path(pyspark.__file__).parent / "work" / made.sparkContext.applicationId
        yield made
        made.stop()
        shutil.rmtree(work, ignore_errors=True)


@pytest.fixture(scope="module")
def model(slow):
    return tiny.exported("trained")


@pytest.fixture(scope="module")
def detector(model):
    return a2net_tf.load(model)


def write(folder, lengths=LENGTHS, *, seed=0):
    """Recordings with names and places that are not simple."""
    random = np.random.default_rng(seed)
    inner = folder / "sub [1] {a,b}"
    inner.mkdir(parents=True)
    for i, steps in enumerate(lengths):
        features = random.normal(size=(steps, tiny.FEATURES)).astype(np.float32)
        np.save((inner if i % 2 else folder) / f"käse {i} %20 [x].npy", features)
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write(tmp_path_factory.mktemp("recordings") / "features", 2 * LENGTHS)


@pytest.fixture(scope="module")
def expected(detector, recordings):
    """What predict finds in them."""
    return rows_of(detector.detect(recordings))


def rows_of(table):
    """{name: [(start, end, label, score), ...]} of a DetectionTable."""
    rows = {video: [] for video in table.by_video}
    for video, *row in table:
        rows[video].append(tuple(row))
    return rows


def command(spark, model, output, *arguments):
    return spark.main([f"--saved_model={model}", f"--output={output}", *map(str, arguments)])


def table(session, output, name):
    return session.read.parquet(f"{output}/{name}").toPandas()


def found_rows(session, output):
    """As ``rows_of``, of what is listed as done."""
    rows = {video: [] for video in table(session, output, "recordings").video}
    for row in table(session, output, "detections").itertuples():
        rows[row.video].append((row.start, row.end, row.label, row.score))
    return rows


def assert_same(found, expected):
    """The same recordings, each with the same detections to rounding: batches hold other recordings than one."""
    assert sorted(found) == sorted(expected)
    for video, rows in expected.items():
        assert len(found[video]) == len(rows), video
        for row, other in zip(sorted(found[video], key=lambda r: -r[3]), rows, strict=True):
            assert row[2] == other[2], video
            assert row[:2] == pytest.approx(other[:2], abs=1e-3)
            assert row[3] == pytest.approx(other[3], abs=1e-5)


# --- the same detections


def test_files(spark, session, model, recordings, expected, tmp_path, capsys):
    """In several rounds of several tasks."""
    some = ("--round_gigabytes=1e-4", "--partition_megabytes=0.05")
    assert command(spark, model, tmp_path / "out", f"--npy={recordings}", *some) == 0
    assert_same(found_rows(session, tmp_path / "out"), expected)
    done = table(session, tmp_path / "out", "recordings")
    assert done["round"].max() > 1
    assert sorted(done.steps) == sorted(2 * LENGTHS)
    assert set(done.version) == {a2net_tf.__version__}
    assert set(done.model) == {spark.read_model(model).fingerprint}
    assert done.detections.sum() == len(table(session, tmp_path / "out", "detections"))
    assert len(table(session, tmp_path / "out", "failures")) == 0
    assert not (tmp_path / "out" / "unfinished").exists()
    assert f"{len(expected)} recordings to do" in capsys.readouterr().out
    assert_loaded_once(session)


def assert_loaded_once(session):
    """The model, in each process that has used it, from round to round."""

    def ask(batches):
        import spark  # the file that Spark has handed over

        for batch in batches:
            time.sleep(0.2)  # so that one process does not answer for all
            known = spark.load_model.cache_info()
            yield batch.assign(loads=known.misses, uses=known.hits + known.misses)[["loads", "uses"]]

    asked = session.range(0, 8, numPartitions=8).mapInPandas(ask, "loads long, uses long").toPandas()
    used = asked[asked.uses > 0]
    assert set(used.loads) == {1}
    assert used.uses.max() > 3


def as_table(session, recordings, path, *, binary):
    files = sorted(recordings.rglob("*.npy"))
    if binary:
        rows, kind = [(file.stem, bytearray(file.read_bytes()), 0.25) for file in files], "binary"
    else:
        rows, kind = [(file.stem, np.load(file).tolist(), None) for file in files], "array<array<float>>"
    schema = f"name string, content {kind}, seconds_per_step double"
    session.createDataFrame(rows, schema).repartition(3).write.parquet(str(path))
    return f"--parquet={path}", "--video_column=name", "--features_column=content"


@pytest.mark.parametrize("binary", [True, False])
def test_tables(spark, session, model, detector, recordings, expected, tmp_path, binary):
    """Times of a table win over those of the model; where it says none, the model's count."""
    source = as_table(session, recordings, tmp_path / "features.parquet", binary=binary)
    assert command(spark, model, tmp_path / "out", *source) == 0
    if binary:
        expected = rows_of(detector.detect(recordings, seconds_per_step=0.25))
    assert_same(found_rows(session, tmp_path / "out"), expected)


@pytest.fixture(scope="module")
def of_films(slow):
    """A folder with a model that makes its features of films."""
    for module in ("av", "cv2"):
        pytest.importorskip(module, reason="the extra [video] is not installed")
    return films.films_and_run()


def test_films(spark, session, of_films, tmp_path, capsys):
    """As predict does it. Damaged ones fail alone, and the next start tries nothing else."""
    model, folder = of_films / "model", tmp_path / "sub {a} %20 [x]"
    folder.mkdir()
    for i, pictures in enumerate((200, 90, 300, 120)):
        films.write(folder / f"käse {i}.{'MP4' if i % 2 else 'mp4'}", pictures)
    expected = rows_of(a2net_tf.load(model).detect_videos(folder))
    damaged = folder / "käse 2.mp4"
    good = damaged.read_bytes()
    damaged.write_bytes(good[: len(good) // 2])
    (folder / "empty.mkv").touch()
    assert command(spark, model, tmp_path / "out", f"--videos={tmp_path}") == 0
    failed = table(session, tmp_path / "out", "failures")
    assert sorted(failed.video) == ["empty", "käse 2"]
    assert all("damaged at its beginning" in reason for reason in failed.reason)
    assert_same(found_rows(session, tmp_path / "out"), {v: rows for v, rows in expected.items() if v != damaged.stem})
    damaged.write_bytes(good)
    (folder / "empty.mkv").unlink()
    assert command(spark, model, tmp_path / "out", f"--videos={tmp_path}") == 0
    assert "1 recordings to do, 3 are done" in capsys.readouterr().out
    assert_same(found_rows(session, tmp_path / "out"), expected)
    done = table(session, tmp_path / "out", "recordings").set_index("video")
    assert dict(done.steps) == {"käse 0": 80, "käse 1": 36, "käse 2": 120, "käse 3": 48}
    assert done["round"].to_dict() == {"käse 0": 1, "käse 1": 1, "käse 2": 2, "käse 3": 1}


# --- what goes wrong


def poison(folder):
    """Files that cannot be done, with a part of the reason."""
    good = np.zeros((70, tiny.FEATURES), np.float32)
    bad = good.copy()
    bad[7, 3] = np.nan
    arrays = {
        "nan": (bad, "step 7 holds NaN"),
        "huge": (good + 1e30, "step 0 holds NaN, infinite or huge"),
        "wide": (np.zeros((70, 7)), f"7 values per step but the model takes {tiny.FEATURES}"),
        "turned": (good.T, "is the matrix transposed?"),
        "empty": (good[:0], "0 steps"),
        "flat": (good[0], "expected a number matrix"),
        "words": (np.array([["a"]]), "expected a number matrix"),
    }
    for name, (array, _) in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(folder / "packed", good)
    (folder / "packed.npz").rename(folder / "packed.npy")
    (folder / "cut.npy").write_bytes((folder / "nan.npy").read_bytes()[:300])
    (folder / "none.npy").write_bytes(b"")
    of_files = {"objects": "allow_pickle=False", "packed": "an .npz archive", "cut": "", "none": ""}
    return {name: reason for name, (_, reason) in arrays.items()} | of_files


def test_poisoned_files_fail_alone_and_are_tried_again(spark, session, model, detector, tmp_path):
    folder = write(tmp_path / "features", 2 * LENGTHS)
    good = rows_of(detector.detect(folder))
    reasons = poison(folder)
    assert command(spark, model, tmp_path / "out", f"--npy={folder}") == 0
    assert_same(found_rows(session, tmp_path / "out"), good)
    failed = table(session, tmp_path / "out", "failures")
    assert sorted(failed.video) == sorted(reasons)
    for row in failed.itertuples():
        assert reasons[row.video] in row.reason
        assert len(row.reason) > 3
    np.save(folder / "nan.npy", np.zeros((70, tiny.FEATURES), np.float32))
    assert command(spark, model, tmp_path / "out", f"--npy={folder}") == 0
    good |= rows_of(detector.detect(folder / "nan.npy"))
    assert_same(found_rows(session, tmp_path / "out"), good)


def test_a_damaged_file_of_a_table(spark, session, model, recordings, expected, tmp_path):
    """Its recordings are failures, none is passed over."""
    source = as_table(session, recordings, tmp_path / "features.parquet", binary=True)
    first = min((tmp_path / "features.parquet").glob("*.parquet"))
    names = set(session.read.parquet(str(first)).toPandas().name)
    content = bytearray(first.read_bytes())
    fifth = len(content) // 5
    content[fifth : 4 * fifth] = b"\xff" * (3 * fifth)
    first.write_bytes(content)
    (tmp_path / "features.parquet" / f".{first.name}.crc").unlink()  # or Hadoop itself would see it
    assert command(spark, model, tmp_path / "out", *source) == 0
    failed = set(table(session, tmp_path / "out", "failures").video)
    done = set(table(session, tmp_path / "out", "recordings").video)
    assert failed
    assert failed <= names
    assert failed | done == set(expected)
    assert not failed & done


def test_a_killed_executor_costs_its_partition(spark, session, model, recordings, expected, tmp_path):
    processes = executors(session)
    assert len(processes) == 2
    killed = []

    def kill():
        wait_for_tasks(session, 2)
        os.kill(processes[0], signal.SIGKILL)
        killed.append(True)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert command(spark, model, tmp_path / "out", f"--npy={recordings}", "--partition_megabytes=0.01") == 0
    killer.join()
    assert killed
    assert_same(found_rows(session, tmp_path / "out"), expected)
    assert sorted(table(session, tmp_path / "out", "recordings").video) == sorted(expected)  # each once
    while len(executors(session)) < 2:  # Spark starts another
        time.sleep(0.2)
    assert processes[0] not in executors(session)


def executors(session):
    """The process of each executor."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:  # it has ended
            continue
        is_executor = any(part.endswith("CoarseGrainedExecutorBackend") for part in line)
        if is_executor and session.sparkContext.applicationId in line:
            found.append(int(process.name))
    return sorted(found)


def wait_for_tasks(session, count):
    """Until a stage that is running has finished so many tasks, and has more to do."""
    tracker = session.sparkContext.statusTracker()
    for _ in range(6000):
        stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
        if any(s and s.numTasks > 4 and count <= s.numCompletedTasks < s.numTasks - 1 for s in stages):
            return
        time.sleep(0.01)
    raise AssertionError("no such stage")


def test_a_job_that_is_stopped_goes_on(spark, session, model, recordings, expected, tmp_path, capsys):
    """Behind its first round. What that has written stays, to the bit."""
    arguments = (f"--npy={recordings}", "--round_gigabytes=6e-5", "--partition_megabytes=0.01")
    first, ended = tmp_path / "out" / "recordings" / "round=1" / "_SUCCESS", threading.Event()

    def stop():
        while not ended.wait(0.05):
            if first.exists():
                session.sparkContext.cancelAllJobs()

    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    status = command(spark, model, tmp_path / "out", *arguments)
    ended.set()
    stopper.join()
    assert status == 1
    assert "error: Spark has given up" in capsys.readouterr().err
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("round=1/*.parquet")}
    done = set(table(session, tmp_path / "out", "recordings").video)
    assert 0 < len(done) < len(expected)
    assert command(spark, model, tmp_path / "out", *arguments) == 0
    assert f"{len(expected) - len(done)} recordings to do, {len(done)} are done" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert_same(found_rows(session, tmp_path / "out"), expected)
    assert command(spark, model, tmp_path / "out", *arguments) == 0
    assert "0 recordings to do" in capsys.readouterr().out


def test_a_recording_without_detections_is_done(spark, session, model, tmp_path):
    about, output = spark.read_model(model), str(tmp_path / "out")
    row = ("recordings", "silence", 0.0, 0.0, "", 0.0, 70, 0, "")
    found = session.createDataFrame([row], spark.FOUND_COLUMNS)
    rows = [pyspark.sql.Row(video="silence", path="silence.npy", bytes=1)]
    counts = spark.write_round(session, found, rows, output, number=1, model=about)
    assert counts == {"detections": 0, "failures": 0, "recordings": 1}
    done, rounds = spark.read_done(session, output, about)
    assert [row.video for row in done.collect()] == ["silence"]
    assert rounds == 1


# --- what is refused


def refused(spark, capsys, model, output, *arguments):
    assert command(spark, model, output, *arguments) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert not output.exists()
    return line


def test_a_model_that_is_none(spark, model, tmp_path, capsys):
    out, source = tmp_path / "out", f"--npy={tmp_path}"
    assert "no SavedModel here" in refused(spark, capsys, tmp_path, out, source)
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "variables" / "variables.index").write_bytes(b"other")
    assert "variables.index is not the exported file" in refused(spark, capsys, copy, out, source)
    shutil.rmtree(copy / "assets.extra")
    assert "not written by --mode=export" in refused(spark, capsys, copy, out, source)


def test_sources_that_cannot_be_used(spark, session, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert "Path does not exist" in refused(spark, capsys, model, out, f"--npy={tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    assert "no .npy files in it" in refused(spark, capsys, model, out, f"--npy={tmp_path / 'empty'}")
    for folder in ("a", "b"):
        (tmp_path / "twice" / folder).mkdir(parents=True)
        np.save(tmp_path / "twice" / folder / "same.npy", np.zeros((70, tiny.FEATURES)))
    assert "2 recordings are called 'same'" in refused(spark, capsys, model, out, f"--npy={tmp_path / 'twice'}")
    (tmp_path / "wide").mkdir()
    for i in range(3):
        np.save(tmp_path / "wide" / f"{i}.npy", np.zeros((70, 7)))
    message = refused(spark, capsys, model, out, f"--npy={tmp_path / 'wide'}")
    assert "none of the 3 recordings that were tried first can be used" in message
    assert f"7 values per step but the model takes {tiny.FEATURES}" in message


def test_tables_that_cannot_be_used(spark, session, model, tmp_path, capsys):
    out, path = tmp_path / "out", str(tmp_path / "table.parquet")
    session.createDataFrame([("a", 1.0)], "video string, loudness double").write.parquet(path)
    source = f"--parquet={path}"
    message = refused(spark, capsys, model, out, source)
    assert message.endswith("no column 'features'; it has video, loudness")
    assert "column 'loudness' is double" in refused(spark, capsys, model, out, source, "--features_column=loudness")


def test_the_output_of_another_model(spark, session, model, recordings, tmp_path, capsys):
    output = str(tmp_path / "out")
    about = spark.read_model(model)._replace(fingerprint="0123456789abcdef")
    found = session.createDataFrame([], spark.FOUND_COLUMNS)
    done = session.createDataFrame([("recordings", "x", 0.0, 0.0, "", 0.0, 70, 0, "")], spark.FOUND_COLUMNS)
    spark.write_round(session, found.union(done), [pyspark.sql.Row(video="x")], output, number=1, model=about)
    assert command(spark, model, output, f"--npy={recordings}") == 1
    assert "holds detections of model 0123456789abcdef" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--seconds_per_step=0", "--round_gigabytes=nan", "--npz=x", "--parquet=y"])
def test_options_that_are_wrong(spark, capsys, wrong):
    with pytest.raises(SystemExit) as error:
        spark.main(["--saved_model=m", "--output=o", "--npy=x", wrong])
    assert error.value.code == 2
    assert wrong.partition("=")[0] in capsys.readouterr().err


# --- without a cluster


def test_rounds_hold_whole_files(spark):
    row = pyspark.sql.Row
    rows = [
        row(video=str(i), path=path, bytes=size)
        for i, (path, size) in enumerate([("a", 6), ("a", 6), ("b", 6), ("c", 1), ("d", 99)])
    ]
    rounds = spark.split_into_rounds(iter(rows), 10)
    assert [[r.path for r in part] for part in rounds] == [["a", "a"], ["b", "c"], ["d"]]
    assert list(spark.split_into_rounds(iter([]), 10)) == []


def test_groups_hold_recordings_of_one_length(spark):
    lengths = [9000, 5, 8192, 4000, 5, 4096]
    made = [spark.Recording(str(n), np.zeros((n, 1)), 1.0) for n in lengths]
    groups = [[len(r.features) for r in group] for group in spark.group_by_length(made)]
    assert groups == [[5, 5], [4000, 4096], [8192], [9000]]
    assert list(spark.group_by_length([])) == []


def test_spark_submit_of_the_file_alone(model, detector, tmp_path):
    """By the command that the page names, in a folder without the package."""
    folder = write(tmp_path / "features", (64, 200))
    shutil.copy(tiny.REPO / "export" / "spark.py", tmp_path)
    submit = pathlib.Path(pyspark.__file__).parent / "bin" / "spark-submit"
    settings = [f"--conf={name}={value}" for name, value in LOCAL.items()]
    command = [str(submit), "--master=local[1]", *settings, "spark.py", f"--saved_model={model}", "--npy=features"]
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [*command, "--output=out"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pandas = pytest.importorskip("pandas")
    found = pandas.concat([pandas.read_parquet(f) for f in (tmp_path / "out" / "detections").rglob("*.parquet")])
    for video, rows in rows_of(detector.detect(folder)).items():
        of_video = found[found.video == video].sort_values("score", ascending=False)
        np.testing.assert_allclose(of_video.score, [row[3] for row in rows], rtol=0, atol=1e-5)
        assert math.isclose(of_video.start.iloc[0], rows[0][0], abs_tol=1e-3)

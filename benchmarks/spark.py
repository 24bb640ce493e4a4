"""What Spark costs: windows per second of ``predict`` and of export/spark.py with one and two executors of one core.

    python benchmarks/spark.py --flagfile=configs/hapt.flags --num_features=64 --num_classes=12 --recordings=400

Every setting of the network may be given; weights and features are random. Each line is measured in a process of its
own, which works through all recordings twice: the first time holds what is done once (on executors the start of
TensorFlow and the loading of the model), the second none of it. The start of Java is in neither. "lost" compares the
second time with predict's on as many cores. "peak MB" is the most memory that one process has ever had: predict's own,
or the largest Python process of an executor (its Java machine has what Spark gives it).
"""

import argparse
import contextlib
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout runs without being installed

import numpy as np

from a2net_tf.report.text_tables import align
from benchmarks import long_recording, measure

SPARK = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.executorEnv.PYTHONPATH": str(measure.REPO),
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=400)
    parser.add_argument("--steps", type=int, default=600, help="of each recording (default %(default)s)")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="(default 1 2)")
    options, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        made = long_recording.in_fresh_process(long_recording.prepare, folder, flags, ("variables",))
        windows = -(-max(options.steps - made.window_steps, 0) // made.stride_steps) + 1
        write(folder / "features", options.recordings, (options.steps, made.num_features))
        print(f"{options.recordings} recordings of {options.steps} steps, {windows} windows each", flush=True)
        paths = {"model": str(folder / "variables"), "features": str(folder / "features")}
        rows, base = [["", "first s", "again s", "windows/s", "lost", "peak MB"]], {}
        for cores in options.cores:
            for way in ("predict", "on_spark"):
                output = str(folder / f"{way}{cores}")
                (first, again, *executors), own = measure.in_fresh_process(
                    "benchmarks.spark", way, cores=cores, output=output, **paths
                )
                base.setdefault(cores, again)
                name = {"predict": f"predict, {cores} cores", "on_spark": f"Spark, {cores} executors of 1 core"}[way]
                lost = f"{1 - base[cores] / again:.0%}" if way == "on_spark" else "-"
                speed = options.recordings * windows / again
                peak = max(executors or [own]) / 1e6
                rows.append([name, f"{first:.1f}", f"{again:.1f}", f"{speed:.0f}", lost, f"{peak:.0f}"])
                print(" ".join(rows[-1]), flush=True)
        print(align(rows))


def write(folder: pathlib.Path, count: int, shape: tuple[int, int]) -> None:
    """Recordings of random features f32[*shape]."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        np.save(folder / f"{i:06}.npy", random.standard_normal(shape, np.float32))


def predict(cores: int, model: str, features: str, output: str) -> list[float]:
    """Seconds of each of two rounds through all recordings, without Spark."""
    measure.use_cores(cores)
    import a2net_tf

    detector = a2net_tf.load(model)
    return [measure.timed(lambda: detector.detect(features).write_json(f"{output}.json")) for _ in range(2)]


def on_spark(cores: int, model: str, features: str, output: str) -> list[float]:
    """The same on a cluster of executors on this machine, then the peaks of their Python processes in bytes."""
    os.environ.update(SPARK_LOCAL_IP="127.0.0.1", PYSPARK_PYTHON=sys.executable)
    from pyspark.sql import SparkSession

    from a2net_tf.export import spark

    session = SparkSession.builder.master(f"local-cluster[{cores},1,2048]").config(map=SPARK).getOrCreate()
    session.range(100, numPartitions=8).count()  # executors are there
    seconds = []
    for i in range(2):
        arguments = [f"--saved_model={model}", f"--npy={features}", f"--output={output}/{i}", "--partition_megabytes=4"]
        started = time.perf_counter()
        spark.detect_all(session, spark.parse(arguments))
        seconds.append(time.perf_counter() - started)
    peaks = [measure.peak_bytes_of(process) for process in python_workers()]  # they wait a minute for more to do
    session.stop()
    return [*seconds, *peaks]


def python_workers() -> Iterator[int]:
    """The processes of PySpark that have been started by this one, by way of an executor's Java."""
    parents = {}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            parents[int(process.name)] = int(fields[1])
    for process in parents:
        ancestor = process
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        with contextlib.suppress(OSError):
            command = pathlib.Path(f"/proc/{process}/cmdline").read_bytes()
            if ancestor == os.getpid() and b"pyspark.daemon" in command:
                yield process


if __name__ == "__main__":
    main()

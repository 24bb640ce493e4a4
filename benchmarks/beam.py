"""What it costs to prepare a dataset of many small files: without Beam, and with it in one process and in two.

    python benchmarks/beam.py --recordings=100000

Recordings have 20 steps of 8 random numbers and an action each. Every way is a process of its own; memory is the
largest sum over that process and those that it starts, looked at twice a second.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout runs without being installed

import numpy as np

from a2net_tf.report.text_tables import align
from benchmarks import measure

STEPS, FEATURES = 20, 8
WAYS = {
    "without Beam": (),
    "Beam, one process": ("--beam_runner=DirectRunner",),
    "Beam, two processes": (
        "--beam_runner=DirectRunner",
        "--beam_options=direct_num_workers=2,direct_running_mode=multi_processing",
    ),
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write(folder / "files", options.recordings)
        rows = [["", "seconds", "recordings/s", "peak MB"]]
        for i, (way, flags) in enumerate(WAYS.items()):
            seconds, megabytes = prepare(folder / "files", folder / f"data{i}", *flags)
            rows.append([way, f"{seconds:.0f}", f"{options.recordings / seconds:.0f}", f"{megabytes:.0f}"])
            print(" ".join(rows[-1]), flush=True)
        print(align(rows))


def write(folder: pathlib.Path, count: int) -> None:
    """A folder as feature_folder takes it."""
    folder.mkdir()
    random, database = np.random.default_rng(0), {}
    for i in range(count):
        np.save(folder / f"v{i:06}.npy", random.standard_normal((STEPS, FEATURES), np.float32))
        action = {"segment": [1.0, 5.0], "label": "ab"[i % 2]}
        subset = "test" if i % 5 == 0 else "train"
        database[f"v{i:06}"] = {"subset": subset, "duration": float(STEPS), "annotations": [action]}
    (folder / "annotations.json").write_text(json.dumps({"database": database}))


def prepare(files: pathlib.Path, data_dir: pathlib.Path, *flags: str) -> tuple[float, float]:
    """Seconds and megabytes of a command that does nothing but prepare the dataset."""
    code = "import sys; from a2net_tf import settings; from a2net_tf.data import prepared; "
    code += "prepared.open_dataset_of(settings.parse(sys.argv[1:])[0])"
    arguments = ["--mode=check", "--dataset=feature_folder", f"--manual_dir={files}", f"--data_dir={data_dir}", *flags]
    started, most = time.perf_counter(), 0
    with open(os.devnull, "w") as nothing:
        command = [sys.executable, "-c", code, *arguments]
        process = subprocess.Popen(command, cwd=measure.REPO, stdout=nothing, stderr=nothing, start_new_session=True)
        while process.poll() is None:
            most = max(most, session_bytes(process.pid))
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - started, most / 1e6


def session_bytes(leader: int) -> int:
    """Memory of all processes of a session, what they share counted once for each."""
    total = 0
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == leader:
            total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return total


if __name__ == "__main__":
    main()

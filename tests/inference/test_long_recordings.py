"""Peak memory of a process that detects in a recording of 200 MB. The benchmark does the same with hours."""

import sys

import numpy as np
import pytest

from benchmarks import long_recording
from tests import forks, tiny

FEATURES, STEPS = 512, 100_000
MEGABYTES = 4e-6 * FEATURES * STEPS
# Few candidates, so that the features are what takes memory.
NETWORK = ["--num_levels=2", "--base_channels=4", "--level_channels=4,4", "--head_channels=4", "--noanchor_based"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in other units elsewhere"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The run and its export with constants, and files of three lengths."""
    folder = tmp_path_factory.mktemp("long")
    flags = [*NETWORK, f"--num_features={FEATURES}", "--num_classes=3", "--inference_window_steps=256"]
    found = long_recording.prepare(folder, flags, ["constants"])
    return found, {steps: write_zeros(folder / f"{steps}.npy", steps) for steps in (256, STEPS // 2, STEPS)}


def write_zeros(path, steps):
    """Nothing is written, so nothing counts as memory of the tests."""
    np.lib.format.open_memmap(path, "w+", np.float32, (steps, FEATURES)).flush()
    return path


def peak(prepared, way, steps):
    found, files = prepared
    script = (
        "import pathlib, sys\nfrom benchmarks import long_recording\n"
        "print(long_recording.measure(sys.argv[1], pathlib.Path(sys.argv[2]))[1])"
    )
    done = forks.run([sys.executable, "-c", script, found.ways[way], str(files[steps])], cwd=tiny.REPO)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_one_copy_in_an_exported_model(prepared):
    short, whole = (peak(prepared, "exported, constants", steps) for steps in (256, STEPS))
    assert 0.9 * MEGABYTES < whole - short < 1.5 * MEGABYTES


def test_some_chunks_in_a_run(prepared):
    """Twice the length takes little more: what is kept of a chunk are its candidates."""
    short, half, whole = (peak(prepared, "run", steps) for steps in (256, STEPS // 2, STEPS))
    assert whole - half < 0.15 * MEGABYTES
    assert whole - short < MEGABYTES

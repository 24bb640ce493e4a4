"""`tfds build` works inside each dataset folder, as TFDS users expect."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

REPO = pathlib.Path(__file__).resolve().parent.parent
DATA = REPO.parent / "shared" / "data"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="the tfds command line needs apache-beam"
)


def build(name: str, data_dir: pathlib.Path, *options: str) -> None:
    command = [
        sys.executable,
        "-m",
        "tensorflow_datasets.scripts.cli.main",
        "build",
        f"--data_dir={data_dir}",
        *options,
    ]
    environment = {"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin", "HOME": str(data_dir)}
    done = subprocess.run(
        command, cwd=REPO / "datasets" / name, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_toy_actions(tmp_path):
    build("toy_actions", tmp_path)
    builder = tfds.builder_from_directory(next(tmp_path.glob("toy_actions/*/dataset_info.json")).parent)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 60,
        "validation": 12,
        "test": 16,
    }


@pytest.mark.skipif(not (DATA / "hapt.zip").exists(), reason="the HAPT recordings are not there")
def test_hapt(tmp_path):
    build("hapt", tmp_path, f"--manual_dir={DATA}")
    for config in ("accelerometer", "all_sensors"):
        builder = tfds.builder_from_directory(next(tmp_path.glob(f"hapt/{config}/*/dataset_info.json")).parent)
        assert sum(split.num_examples for split in builder.info.splits.values()) == 61

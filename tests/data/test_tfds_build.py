"""`tfds build` works inside each dataset folder, as TFDS users expect."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from a2net_tf.data import prepared
from a2net_tf.datasets.activitynet13 import activitynet13_dataset_builder_test as activitynet
from a2net_tf.datasets.feature_folder import feature_folder_dataset_builder_test as own
from a2net_tf.datasets.thumos14 import thumos14_dataset_builder_test as thumos

REPO = pathlib.Path(__file__).resolve().parent.parent.parent
DATA = REPO.parent / "shared" / "data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("apache_beam") is None, reason="the tfds command line needs apache-beam"
    ),
]


def run_build(name: str, data_dir: pathlib.Path, *options: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "tensorflow_datasets.scripts.cli.main",
        "build",
        f"--data_dir={data_dir}",
        *options,
    ]
    environment = {"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin", "HOME": str(data_dir)}
    return subprocess.run(
        command, cwd=REPO / "datasets" / name, env=environment, capture_output=True, text=True, check=False
    )


def build(name: str, data_dir: pathlib.Path, *options: str) -> None:
    done = run_build(name, data_dir, *options)
    assert done.returncode == 0, done.stderr[-2000:]


def reopen(folder: pathlib.Path) -> tfds.core.DatasetBuilder:
    """The dataset of which ``folder`` holds the only version, without its builder's code."""
    [info] = folder.glob("*/dataset_info.json")
    return tfds.builder_from_directory(info.parent)


def count_examples(builder: tfds.core.DatasetBuilder) -> dict[str, int]:
    return {name: split.num_examples for name, split in builder.info.splits.items()}


def feature_sizes(builder: tfds.core.DatasetBuilder) -> dict[str, int]:
    """D of every record that can be read, by id."""
    records_of_all = prepared.read_records(builder, "+".join(builder.info.splits))
    return {record["id"].decode(): record["features"].shape[1] for record in tfds.as_numpy(records_of_all)}


def test_toy_actions(tmp_path):
    build("toy_actions", tmp_path)
    assert count_examples(reopen(tmp_path / "toy_actions")) == {"train": 60, "validation": 12, "test": 16}


@pytest.mark.skipif(not (DATA / "hapt.zip").exists(), reason="the HAPT recordings are not there")
def test_hapt(tmp_path):
    build("hapt", tmp_path, f"--manual_dir={DATA}")
    for config in ("accelerometer", "all_sensors"):
        assert sum(count_examples(reopen(tmp_path / "hapt" / config)).values()) == 61


@pytest.mark.parametrize("layout", thumos.LAYOUTS)
def test_thumos14(tmp_path, layout):
    folder = thumos.write_all(tmp_path / "raw", layout)
    build("thumos14", tmp_path / "data", f"--manual_dir={folder}")
    for config, size in (("two_stream", 2 * thumos.SIZE), ("rgb", thumos.SIZE), ("flow", thumos.SIZE)):
        builder = reopen(tmp_path / "data" / "thumos14" / config)
        assert prepared.read_metadata(builder)["layout"] == layout
        assert count_examples(builder) == {"validation": 2, "test": 2}
        assert prepared.num_features(builder) == size
        assert feature_sizes(builder) == dict.fromkeys(thumos.FRAMES, size)


@pytest.mark.parametrize(
    ("write", "size"),
    [
        (activitynet.write_all, activitynet.SIZE),
        (activitynet.write_csv, activitynet.SIZE),
        (activitynet.write_two_stream, 400),
    ],
)
def test_activitynet13(tmp_path, write, size):
    folder = write(tmp_path / "raw")
    build("activitynet13", tmp_path / "data", f"--manual_dir={folder}")
    for config in ("resized128", "original"):
        builder = reopen(tmp_path / "data" / "activitynet13" / config)
        assert count_examples(builder) == {"training": 2, "validation": 2}
        assert prepared.num_features(builder) == size
        assert feature_sizes(builder) == dict.fromkeys(activitynet.PREPARED, size)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_feature_folder(tmp_path, suffix):
    folder = own.write_all(tmp_path / "raw", suffix)
    build("feature_folder", tmp_path / "data", f"--manual_dir={folder}")
    builder = reopen(tmp_path / "data" / "feature_folder")
    assert count_examples(builder) == {"held_out": 1, "train": 2}
    assert prepared.num_features(builder) == own.SIZE
    assert feature_sizes(builder) == dict.fromkeys(own.STEPS, own.SIZE)


def test_mistake(tmp_path):
    """The last line says what is wrong, and nothing is left behind that looks prepared."""
    folder = own.write_all(tmp_path / "raw", ".npy")
    (folder / "goal_1.npy").write_bytes(b"")
    done = run_build("feature_folder", tmp_path / "data", f"--manual_dir={folder}")
    assert done.returncode != 0
    message = f"UserError: {folder / 'goal_1.npy'}: not a readable .npy array (No data left in file)"
    assert done.stderr.strip().splitlines()[-1].endswith(message)
    own.write_features(folder / "goal_1.npy", own.make_features("goal_1"))
    builder = prepared.open_dataset("feature_folder", data_dir=str(tmp_path / "data"), manual_dir=str(folder))
    assert count_examples(builder) == {"held_out": 1, "train": 2}

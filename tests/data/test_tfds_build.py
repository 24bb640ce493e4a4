"""`tfds build` works inside each dataset folder, as TFDS users expect."""

import functools
import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from a2net_tf.data import prepared
from a2net_tf.datasets.activitynet13 import activitynet13_dataset_builder_test as activitynet
from a2net_tf.datasets.feature_folder import feature_folder_dataset_builder_test as own
from a2net_tf.datasets.thumos14 import thumos14_dataset_builder_test as thumos
from tests import tiny

REPO = pathlib.Path(__file__).resolve().parent.parent.parent
DATA = REPO.parent / "shared" / "data"
HAS_HAPT = (DATA / "hapt.zip").exists()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("apache_beam") is None, reason="the tfds command line needs apache-beam"
    ),
]


# The command several times in one process, which takes seconds to start: for each folder of a dataset and its flags.
BUILD_ALL = """
import json, os, sys
from tensorflow_datasets.scripts.cli import main as command
for folder, *flags in json.loads(sys.argv[1]):
    os.chdir(folder)
    command.main(command._parse_flags(["tfds", "build", *flags]))
"""

# For each dataset: what it is prepared from, by the name of the variant, and what writes that.
WRITES = {
    "thumos14": {layout: functools.partial(thumos.write_all, layout=layout) for layout in thumos.LAYOUTS},
    "activitynet13": {name: getattr(activitynet, name) for name in ("write_all", "write_csv", "write_two_stream")},
    "feature_folder": {suffix: functools.partial(own.write_all, suffix=suffix) for suffix in (".npy", ".npz")},
}


def run_in_dataset_folder(name: str, home: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin", "HOME": str(home)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPO / "datasets" / name, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@tiny.once
def all_built(home: pathlib.Path) -> None:
    """For each dataset and variant of WRITES: raw/, and data/ with what the command in a dataset's folder makes of it.

    Of toy_actions and hapt, which have no variants: in data/ of the dataset.
    """
    commands = [("toy_actions", f"--data_dir={home / 'toy_actions' / 'data'}")]
    if HAS_HAPT:
        commands.append(("hapt", f"--data_dir={home / 'hapt' / 'data'}", f"--manual_dir={DATA}"))
    for name, writes in WRITES.items():
        for variant, write in writes.items():
            folder = home / name / variant
            folder.mkdir(parents=True)
            write(folder / "raw")
            commands.append((name, f"--data_dir={folder / 'data'}", f"--manual_dir={folder / 'raw'}"))
    arguments = [(str(REPO / "datasets" / name), *flags) for name, *flags in commands]
    done = run_in_dataset_folder("toy_actions", home, "-c", BUILD_ALL, json.dumps(arguments))
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


def test_toy_actions():
    folder = all_built() / "toy_actions" / "data" / "toy_actions"
    assert count_examples(reopen(folder)) == {"train": 60, "validation": 12, "test": 16}


@pytest.mark.skipif(not HAS_HAPT, reason="the HAPT recordings are not there")
def test_hapt():
    for config in ("accelerometer", "all_sensors"):
        assert sum(count_examples(reopen(all_built() / "hapt" / "data" / "hapt" / config)).values()) == 61


@pytest.mark.parametrize("layout", WRITES["thumos14"])
def test_thumos14(layout):
    for config, size in (("two_stream", 2 * thumos.SIZE), ("rgb", thumos.SIZE), ("flow", thumos.SIZE)):
        builder = reopen(all_built() / "thumos14" / layout / "data" / "thumos14" / config)
        assert prepared.read_metadata(builder)["layout"] == layout
        assert count_examples(builder) == {"validation": 2, "test": 2}
        assert prepared.num_features(builder) == size
        assert feature_sizes(builder) == dict.fromkeys(thumos.FRAMES, size)


@pytest.mark.parametrize(
    ("write", "size"),
    [("write_all", activitynet.SIZE), ("write_csv", activitynet.SIZE), ("write_two_stream", 400)],
)
def test_activitynet13(write, size):
    for config in ("resized128", "original"):
        builder = reopen(all_built() / "activitynet13" / write / "data" / "activitynet13" / config)
        assert count_examples(builder) == {"training": 2, "validation": 2}
        assert prepared.num_features(builder) == size
        assert feature_sizes(builder) == dict.fromkeys(activitynet.PREPARED, size)


@pytest.mark.parametrize("suffix", WRITES["feature_folder"])
def test_feature_folder(suffix):
    builder = reopen(all_built() / "feature_folder" / suffix / "data" / "feature_folder")
    assert count_examples(builder) == {"held_out": 1, "train": 2}
    assert prepared.num_features(builder) == own.SIZE


def test_mistake(tmp_path):
    """The last line says what is wrong, and nothing is left behind that looks prepared."""
    folder = own.write_all(tmp_path / "raw", ".npy")
    (folder / "goal_1.npy").write_bytes(b"")
    command = ("-m", "tensorflow_datasets.scripts.cli.main", "build", f"--data_dir={tmp_path / 'data'}")
    done = run_in_dataset_folder("feature_folder", tmp_path, *command, f"--manual_dir={folder}")
    assert done.returncode != 0
    message = f"UserError: {folder / 'goal_1.npy'}: not a readable .npy array (No data left in file)"
    assert done.stderr.strip().splitlines()[-1].endswith(message)
    own.write_features(folder / "goal_1.npy", own.make_features("goal_1"))
    builder = prepared.open_dataset("feature_folder", data_dir=str(tmp_path / "data"), manual_dir=str(folder))
    assert count_examples(builder) == {"held_out": 1, "train": 2}

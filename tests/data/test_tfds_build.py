"""`tfds build` works inside each dataset folder, as TFDS users expect."""

import functools
import importlib.util
import pathlib
import subprocess
import sys
from collections.abc import Callable

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


# The command several times in one process, which takes seconds to start: for each of its arguments, a folder with raw/.
BUILD_ALL = """
import sys
from tensorflow_datasets.scripts.cli import main as command
for folder in sys.argv[1:]:
    flags = ["tfds", "build", f"--data_dir={folder}/data", f"--manual_dir={folder}/raw"]
    command.main(command._parse_flags(flags))
"""


def run_in_dataset_folder(name: str, home: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin", "HOME": str(home)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPO / "datasets" / name, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def run_build(name: str, data_dir: pathlib.Path, *options: str) -> subprocess.CompletedProcess:
    command = ["-m", "tensorflow_datasets.scripts.cli.main", "build", f"--data_dir={data_dir}", *options]
    return run_in_dataset_folder(name, data_dir, *command)


def build(name: str, data_dir: pathlib.Path, *options: str) -> None:
    done = run_build(name, data_dir, *options)
    assert done.returncode == 0, done.stderr[-2000:]


def build_all(name: str, home: pathlib.Path, writes: dict[str, Callable[[pathlib.Path], object]]) -> pathlib.Path:
    """For each name of ``writes``: what it writes into ``home``/name/raw, prepared in ``home``/name/data."""
    for variant, write in writes.items():
        (home / variant).mkdir()
        write(home / variant / "raw")
    done = run_in_dataset_folder(name, home, "-c", BUILD_ALL, *(str(home / variant) for variant in writes))
    assert done.returncode == 0, done.stderr[-2000:]
    return home


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


@pytest.fixture(scope="module")
def thumos14(tmp_path_factory):
    writes = {layout: functools.partial(thumos.write_all, layout=layout) for layout in thumos.LAYOUTS}
    return build_all("thumos14", tmp_path_factory.mktemp("thumos14"), writes)


@pytest.mark.parametrize("layout", thumos.LAYOUTS)
def test_thumos14(thumos14, layout):
    for config, size in (("two_stream", 2 * thumos.SIZE), ("rgb", thumos.SIZE), ("flow", thumos.SIZE)):
        builder = reopen(thumos14 / layout / "data" / "thumos14" / config)
        assert prepared.read_metadata(builder)["layout"] == layout
        assert count_examples(builder) == {"validation": 2, "test": 2}
        assert prepared.num_features(builder) == size
        assert feature_sizes(builder) == dict.fromkeys(thumos.FRAMES, size)


@pytest.fixture(scope="module")
def activitynet13(tmp_path_factory):
    names = ("write_all", "write_csv", "write_two_stream")
    writes = {name: getattr(activitynet, name) for name in names}
    return build_all("activitynet13", tmp_path_factory.mktemp("activitynet13"), writes)


@pytest.mark.parametrize(
    ("write", "size"),
    [("write_all", activitynet.SIZE), ("write_csv", activitynet.SIZE), ("write_two_stream", 400)],
)
def test_activitynet13(activitynet13, write, size):
    for config in ("resized128", "original"):
        builder = reopen(activitynet13 / write / "data" / "activitynet13" / config)
        assert count_examples(builder) == {"training": 2, "validation": 2}
        assert prepared.num_features(builder) == size
        assert feature_sizes(builder) == dict.fromkeys(activitynet.PREPARED, size)


@pytest.fixture(scope="module")
def feature_folder(tmp_path_factory):
    writes = {suffix: functools.partial(own.write_all, suffix=suffix) for suffix in (".npy", ".npz")}
    return build_all("feature_folder", tmp_path_factory.mktemp("feature_folder"), writes)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_feature_folder(feature_folder, suffix):
    builder = reopen(feature_folder / suffix / "data" / "feature_folder")
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

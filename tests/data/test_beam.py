"""Apache Beam makes the records that TFDS makes without it."""

import importlib.util
import sys

import numpy as np
import pytest

from a2net_tf.data import beam_options, prepared
from a2net_tf.data.beam_options import Beam
from a2net_tf.errors import UserError
from tests import tiny

pytestmark = pytest.mark.slow

pytest.importorskip("apache_beam", reason='needs Apache Beam (pip install ".[beam]")')
HERE = Beam("DirectRunner")
TWO_PROCESSES = Beam("DirectRunner", "direct_num_workers=2,direct_running_mode=multi_processing")


def writer_of(dataset, function="write_all"):
    """The function that writes a folder for the dataset's own tests, which are no module of a package."""
    name = f"{dataset}_dataset_builder_test"
    if name not in sys.modules:
        path = tiny.REPO / "datasets" / dataset / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return getattr(sys.modules[name], function)


def records(builder):
    """{(split, sequence, first step): record} of a prepared dataset."""
    found = {}
    for split in builder.info.splits:
        for record in prepared.read_records(builder, split).as_numpy_iterator():
            key = (split, record["id"], int(record["chunk_start_step"]))
            assert key not in found
            found[key] = record
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert found
    for key, record in expected.items():
        for name, value in record.items():
            np.testing.assert_array_equal(found[key][name], value, err_msg=f"{key} {name}")


@pytest.mark.parametrize(
    ("dataset", "function", "stored"),
    [
        ("thumos14", "write_all", "float16"),
        ("activitynet13/original", "write_all", ""),
        ("feature_folder", "write_all", ""),
        ("frame_labels", "write", ""),
    ],
)
def test_records_are_those_without_beam(tmp_path, dataset, function, stored):
    folder = tmp_path / "files"
    folder.mkdir()
    writer_of(dataset.partition("/")[0], function)(folder)
    arguments = str(folder), stored
    plain = prepared.open_dataset(dataset, str(tmp_path / "plain"), *arguments)
    on_beam = prepared.open_dataset(dataset, str(tmp_path / "beam"), *arguments, HERE)
    assert_same(records(on_beam), records(plain))
    assert prepared.class_names(on_beam) == prepared.class_names(plain)
    ours, theirs = (dict(prepared.read_metadata(builder)) for builder in (on_beam, plain))
    assert ours == theirs
    assert not list(on_beam.data_path.glob("errors*"))


@pytest.mark.slow
def test_two_processes(tmp_path, monkeypatch):
    """As a user asks for them."""
    monkeypatch.chdir(tiny.REPO)  # where other processes find the package, too
    folder = writer_of("feature_folder")(tmp_path / "files")
    plain = prepared.open_dataset("feature_folder", str(tmp_path / "plain"), str(folder))
    done = tiny.in_new_process(
        "--mode=check",
        "--dataset=feature_folder",
        f"--data_dir={tmp_path / 'beam'}",
        f"--manual_dir={folder}",
        f"--beam_runner={TWO_PROCESSES.runner}",
        f"--beam_options={TWO_PROCESSES.options}",
        "--train_split=train",
        "--eval_split=held_out",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(records(prepared.open_dataset("feature_folder", str(tmp_path / "beam"))), records(plain))


def test_every_file_that_cannot_be_used_is_named(tmp_path):
    """Of both splits, and nothing looks prepared; mended, the same command goes through."""
    folder, data_dir = writer_of("frame_labels", "write")(tmp_path / "files"), tmp_path / "data"
    wrong = {"b": lambda matrix: matrix * np.nan, "c": lambda matrix: matrix[:, :2]}
    bad = {folder / "features" / f"{name}.npy": spoil for name, spoil in wrong.items()}
    good = {file: np.load(file) for file in bad}
    for file, spoil in bad.items():
        np.save(file, spoil(good[file]))
    with pytest.raises(UserError, match="2 videos cannot be used") as error:
        prepared.open_dataset("frame_labels", str(data_dir), str(folder), beam=HERE)
    assert all(str(file) in str(error.value) for file in bad)
    assert not list(data_dir.rglob("*.tfrecord*"))
    assert not list(data_dir.rglob("dataset_info.json"))
    for file, matrix in good.items():
        np.save(file, matrix)
    assert len(records(prepared.open_dataset("frame_labels", str(data_dir), str(folder), beam=HERE))) == 3


def test_a_split_of_which_nothing_is_left(tmp_path):
    """TFDS itself fails then; the videos are named all the same."""
    folder = writer_of("frame_labels", "write")(tmp_path / "files")
    np.save(folder / "features" / "c.npy", np.full((2, 6), np.nan))
    with pytest.raises(UserError, match="1 videos cannot be used: .*c.npy"):
        prepared.open_dataset("frame_labels", str(tmp_path / "data"), str(folder), beam=HERE)


@pytest.mark.parametrize(
    ("beam", "message"),
    [
        (Beam("", "direct_num_workers=2"), "needs a --beam_runner"),
        (Beam("DirectRunner", "--x=1"), "expected NAME=VALUE or NAME between commas, found '--x=1'"),
        (Beam("DirectRunner", "a=1,,2"), "found '2'"),
    ],
)
def test_wrong_options(beam, message):
    with pytest.raises(UserError, match=message):
        beam_options.download_config(beam, "")


def test_options_as_beam_reads_them():
    options = beam_options.download_config(TWO_PROCESSES, "files").beam_options.get_all_options()
    assert options["direct_num_workers"] == 2
    assert options["direct_running_mode"] == "multi_processing"
    assert beam_options.download_config(beam_options.NO_BEAM, "files").beam_runner is None


def test_a_dataset_that_is_generated(tmp_path):
    with pytest.raises(UserError, match="is for datasets of your own files"):
        prepared.open_dataset("toy_actions", str(tmp_path), beam=HERE)

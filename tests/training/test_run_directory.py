"""What a run's directory gives back, and how it is written."""

import dataclasses
import json
import os
import pathlib
import resource

import numpy as np
import pytest

from a2net_tf import settings
from a2net_tf.errors import UserError
from a2net_tf.training import run_directory
from a2net_tf.training.run_directory import Run


@pytest.fixture
def run(tmp_path, make_config):
    random = np.random.default_rng(0)
    statistics = random.normal(size=5).astype(np.float32), random.uniform(0.5, 2, size=5).astype(np.float32)
    return Run(
        config=make_config(workdir=str(tmp_path / "run")),
        class_names=["jump", "long jump", "Würfeln"],
        num_features=5,
        statistics=statistics,
        num_windows=7,
        seconds_per_step=0.1,  # no float32
        first_step_seconds=-0.25,
        precision="float32",
    )


@pytest.fixture
def saved(run, make_network):
    """A run with weights in its directory, and the network that they came from."""
    run_directory.save(run)
    network = make_network(run.config, 5, 3, statistics=run.statistics)
    run_directory.save_weights(network, pathlib.Path(run.config.workdir, "last.npz"))
    return run, network


def with_config(run, **changes):
    return run._replace(config=dataclasses.replace(run.config, **changes))


def test_load_is_the_inverse_of_save(run):
    run_directory.save(run)
    found = run_directory.load(run.config.workdir)
    assert found._replace(statistics=None) == run._replace(statistics=None)
    for a, b in zip(found.statistics, run.statistics, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.float32
    assert sorted(os.listdir(run.config.workdir)) == ["flags.txt", "run.json", "statistics.npz"]


def written_by_an_older_version(run, **settings_then):
    run_directory.save(run)
    path = pathlib.Path(run.config.workdir, "run.json")
    description = json.loads(path.read_text())
    description["config"] |= settings_then
    path.write_text(json.dumps(description))
    return run_directory.load(run.config.workdir)


def test_a_setting_that_is_gone_and_was_not_used(run):
    found = written_by_an_older_version(run, residual=False, drop_path=0.0)
    assert found.config == run.config


def test_a_setting_that_is_gone_and_was_used(run):
    with pytest.raises(UserError, match="trained with --residual=True, which this version no longer has"):
        written_by_an_older_version(run, residual=True)


def test_run_without_normalisation(run):
    run = with_config(run, normalize=False)._replace(statistics=None)
    run_directory.save(run)
    assert run_directory.load(run.config.workdir) == run
    assert sorted(os.listdir(run.config.workdir)) == ["flags.txt", "run.json"]


def test_flags_file_gives_the_settings_back(run):
    run = with_config(run, random_offsets=True, anchor_ratios=(0.5, 1.25), train_split="train[:80%]", decay_epochs=())
    run_directory.save(run)
    config, given = settings.parse([f"--flagfile={pathlib.Path(run.config.workdir, 'flags.txt')}"])
    assert config == run.config
    assert given == frozenset(settings.FIELDS)


def test_exists_only_with_a_complete_description(run, tmp_path):
    assert not run_directory.exists(run.config.workdir)
    run_directory.save(run)
    assert run_directory.exists(run.config.workdir)
    assert not run_directory.exists(str(tmp_path))


def test_description_names_versions_and_commit(run):
    run_directory.save(run)
    description = json.loads(pathlib.Path(run.config.workdir, "run.json").read_text())
    assert set(description["versions"]) >= {"a2net-tf", "python", "tensorflow", "keras", "numpy", "tfds-nightly"}
    assert all(description["versions"].values())
    assert description["commit"] is None or len(description["commit"]) == 40


def test_weights_come_back_in_their_places(saved):
    run, network = saved
    found = run_directory.load_network(run)
    assert [w.path for w in found.weights] == [w.path for w in network.weights]
    for a, b in zip(found.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    windows = np.random.default_rng(1).normal(size=(2, run.config.window_steps, 5)).astype(np.float32)
    for name, value in network(windows).items():
        np.testing.assert_allclose(found(windows)[name], value, rtol=1e-6, atol=1e-6)


def test_statistics_normalise(saved):
    """The network takes raw features: the statistics are its first layer."""
    run, network = saved
    plain = run_directory.build_network(with_config(run, normalize=False)._replace(statistics=None))
    plain.set_weights([w.numpy() for w in network.trainable_variables])
    windows = np.random.default_rng(1).normal(size=(2, run.config.window_steps, 5)).astype(np.float32)
    mean, variance = run.statistics
    for name, value in network(windows).items():
        np.testing.assert_allclose(plain((windows - mean) / np.sqrt(variance))[name], value, rtol=1e-4, atol=1e-4)


def test_failed_save_keeps_the_old_weights(saved):
    run, network = saved
    path = pathlib.Path(run.config.workdir, "last.npz")
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a full disk
    try:
        with pytest.raises(UserError, match=r"last.npz: cannot be written"):
            run_directory.save_weights(network, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert sorted(os.listdir(path.parent)) == ["flags.txt", "last.npz", "run.json", "statistics.npz"]


def test_save_weights_leaves_nothing_else(saved):
    run, _ = saved
    assert sorted(os.listdir(run.config.workdir)) == ["flags.txt", "last.npz", "run.json", "statistics.npz"]


def test_no_run_here(tmp_path):
    with pytest.raises(UserError, match=r"--workdir=.*: no trained model here \(run.json is missing\)"):
        run_directory.load(str(tmp_path))


@pytest.mark.parametrize(
    ("checkpoint", "reason"), [("best", "best is kept only with --validation_split"), ("last", "no epoch has finished")]
)
def test_missing_checkpoint(run, checkpoint, reason):
    run_directory.save(run)
    with pytest.raises(UserError, match=rf"{checkpoint}.npz: no such checkpoint \({reason}\)"):
        run_directory.load_network(with_config(run, checkpoint=checkpoint))


@pytest.mark.parametrize(
    "changes",
    [
        {"base_channels": 9},
        {"level_channels": (8, 7, 6, 9)},
        {"head_channels": 9},
        {"num_levels": 3},
        {"anchor_free": False},
        {"anchor_based": False},
        {"anchor_ratios": (0.5, 1.0)},
        {"anchor_ratios": (0.5, 1.0, 2.0, 3.0)},
    ],
)
def test_weights_of_another_architecture(saved, changes):
    run, _ = saved
    with pytest.raises(UserError, match=r"last.npz: damaged, or of another architecture than run.json says"):
        run_directory.load_network(with_config(run, **changes))


def test_few_columns_of_many_features(run, make_network):
    """No weight is as large as D where the network looks at a part of it only."""
    statistics = np.zeros(400, np.float32), np.ones(400, np.float32)
    wide = with_config(run, feature_columns=(390, 393))._replace(num_features=400, statistics=statistics)
    run_directory.save(wide)
    network = make_network(wide.config, 400, 3, statistics=statistics)
    run_directory.save_weights(network, pathlib.Path(wide.config.workdir, "last.npz"))
    found = run_directory.load_network(run_directory.load(wide.config.workdir))
    for a, b in zip(found.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_of_a_smaller_network_do_not_pass_for_a_larger(saved, make_network):
    """The other way round: the file lacks a level that run.json describes."""
    run, _ = saved
    small = with_config(run, num_levels=3)
    network = make_network(small.config, 5, 3, statistics=run.statistics)
    run_directory.save_weights(network, pathlib.Path(run.config.workdir, "last.npz"))
    with pytest.raises(UserError, match=r"damaged, or of another architecture"):
        run_directory.load_network(run)


def test_weights_for_other_classes(saved):
    run, _ = saved
    with pytest.raises(UserError, match=r"damaged, or of another architecture"):
        run_directory.load_network(run._replace(class_names=["jump", "run"]))


# --- training time


@pytest.mark.parametrize(
    ("history", "seconds"),
    [
        ("epoch,loss,seconds\n1,9.5,2.25\n2,8.5,1.5\n", 3.75),
        ("epoch,loss\n1,9.5\n", None),  # of an older version
        ("epoch,loss,seconds\n1,9.5,\n2,8.5,1.5\n", None),  # ... that this one went on with
        ("epoch,loss,seconds\n2,8.5,1.5\n", None),  # killed between saving and writing the row
        ("epoch,seconds\n", None),
    ],
)
def test_training_seconds(tmp_path, history, seconds):
    (tmp_path / "history.csv").write_text(history)
    assert run_directory.training_seconds(str(tmp_path)) == seconds


def test_no_training_seconds_without_a_history(tmp_path):
    assert run_directory.training_seconds(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch,seconds\none,2.0\n", r", line 2: damaged \(.*'one'"),
        ("seconds\n2.0\n", ": no column 'epoch'; found seconds"),
        ("epoch,seconds\n1,fast\n", r", line 2: damaged \(.*'fast'"),
    ],
)
def test_damaged_history(tmp_path, text, message):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(UserError, match=rf"history\.csv{message}"):
        run_directory.training_seconds(str(tmp_path))


def test_data_are_found_from_another_folder(run, tmp_path, monkeypatch, capsys):
    """What lies where the run was trained counts, whatever has the same relative path here."""
    (tmp_path / "a" / "prep").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    run = with_config(run, data_dir="prep", manual_dir=str(tmp_path / "raw"), dataset="toy_actions")
    run = run._replace(folder=str(tmp_path / "a"))
    monkeypatch.chdir(tmp_path / "a")
    assert run_directory.with_found_paths(run) == run
    monkeypatch.chdir(tmp_path / "b")
    found = run_directory.with_found_paths(run).config
    assert (found.data_dir, found.manual_dir) == (str(tmp_path / "a" / "prep"), str(tmp_path / "raw"))
    assert found.dataset == "toy_actions"
    assert capsys.readouterr().out == ""
    (tmp_path / "b" / "prep").mkdir()
    assert run_directory.with_found_paths(run).config.data_dir == str(tmp_path / "a" / "prep")
    assert f"--data_dir={tmp_path / 'a' / 'prep'}, as when it was trained, and not prep here" in capsys.readouterr().out
    (tmp_path / "a").rename(tmp_path / "gone")  # moved here, say
    assert run_directory.with_found_paths(run) == run
    old = run._replace(folder="")  # of an older version
    assert run_directory.with_found_paths(old) == old


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_and_statistics_that_are_no_numbers(saved, value):
    run, network = saved
    folder = pathlib.Path(run.config.workdir)
    for name, load in (
        ("last.npz", lambda: run_directory.load_network(run)),
        ("statistics.npz", lambda: run_directory.load(run.config.workdir)),
    ):
        arrays = dict(np.load(folder / name))
        key = sorted(arrays)[0]
        arrays[key] = arrays[key].copy()
        arrays[key].flat[0] = value
        np.savez(folder / name, **arrays)
        with pytest.raises(UserError, match=rf"{name}: damaged: {key}: 1 of \d+ numbers are NaN or infinite"):
            load()


@pytest.mark.parametrize("dtype", [complex, "U5", bool])
def test_weights_of_another_type(saved, dtype):
    run, _ = saved
    path = pathlib.Path(run.config.workdir, "last.npz")
    arrays = {name: array.astype(dtype) for name, array in np.load(path).items()}
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="last.npz: damaged: .*: expected numbers, found"):
        run_directory.load_network(run)


def test_weights_that_have_diverged_are_not_saved(saved):
    run, network = saved
    path = pathlib.Path(run.config.workdir, "last.npz")
    before = path.read_bytes()
    network.weights[-1].assign(np.full(network.weights[-1].shape, np.nan))
    with pytest.raises(UserError, match="last.npz: not written; training has diverged"):
        run_directory.save_weights(network, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": "abc"}, "class_names: expected a list"),
        ({"class_names": None}, "class_names: expected a list"),
        ({"class_names": ["a", None]}, "class_names: expected a text, found null"),
        ({"class_names": [5, "b"]}, "class_names: expected a text, found 5"),
        ({"class_names": ["a", "a"]}, "the class 'a' is there twice"),
        ({"num_features": "5"}, "num_features: expected a whole number from 1 on, found '5'"),
        ({"num_features": True}, "num_features: expected a whole number"),
        ({"seconds_per_step": "x"}, 'seconds_per_step: expected a number, found "x"'),
        ({"seconds_per_step": 0}, "seconds_per_step: expected a number above 0, found 0"),
        ({"first_step_seconds": None}, "first_step_seconds: expected a number, found null"),
        ({"also_reported": None}, "also_reported: expected an object"),
        ({"also_reported": {"jump": "fly"}}, "also_reported: 'fly' is none of the classes"),
        ({"config": []}, "damaged"),
    ],
)
def test_a_description_with_another_type(run, change, message):
    run_directory.save(run)
    path = pathlib.Path(run.config.workdir, "run.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=f"run.json: .*{message}"):
        run_directory.load(run.config.workdir)

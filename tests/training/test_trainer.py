"""Training that is stopped, repeated, continued, averaged, and that goes wrong."""

import csv
import dataclasses
import json
import pathlib
import re
import signal
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from a2net_tf import settings
from a2net_tf.data import input_pipeline, prepared
from a2net_tf.detection.model import build_model
from a2net_tf.main import main
from a2net_tf.training import callbacks, optimizers, run_directory, trainer
from tests import forks, tiny

pytestmark = pytest.mark.slow

VALIDATION = "--validation_split=validation[:2]"  # of tiny.trained()


@pytest.fixture
def run(tmp_path):
    """A run of two epochs with validation, to go on with or to damage."""
    return tiny.copy_of_trained(tmp_path)


def saved_weights(workdir, checkpoint="last"):
    """The arrays that evaluate and export would use."""
    current = run_directory.load(str(workdir))
    current = current._replace(config=dataclasses.replace(current.config, checkpoint=checkpoint))
    return run_directory.load_network(current).get_weights()


def saved_state(workdir, epoch):
    """Every number that resuming restores, by name."""
    reader = tf.train.load_checkpoint(str(workdir / "state" / f"ckpt-{epoch}"))
    names = [
        name for name in reader.get_variable_to_shape_map() if not name.startswith(("_CHECKPOINT", "save_counter"))
    ]
    return {name: np.asarray(reader.get_tensor(name)) for name in names}


def raw_weights(workdir, epoch):
    """The network's weights after an epoch, not averaged; ``epoch`` is one of the last two."""
    network = run_directory.build_network(run_directory.load(str(workdir)))
    tf.train.Checkpoint(network=network).restore(str(workdir / "state" / f"ckpt-{epoch}")).expect_partial()
    return network.get_weights()


def assert_equal(found, expected, atol=0.0):
    """Compares lists of arrays."""
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f, e, rtol=0, atol=atol)


def largest_difference(found, expected):
    return max(np.abs(f - e).max() for f, e in zip(found, expected, strict=True))


def history(workdir):
    with open(workdir / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(workdir):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history(workdir)]


# --- exact resume

FEW_STEPS = ("--train_split=train[:4]", "--batch_size=4", "--num_levels=1")  # but several in an epoch


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    """With random offsets and averaged weights, whose state is easily forgotten."""
    more = ["--epochs=4", *FEW_STEPS, "--random_offsets", "--ema_momentum=0.9"]
    kill_in_the_third_epoch(tmp_path / "stopped", *more)
    for name in ("whole", "stopped"):
        tiny.train(tmp_path / name, *more)
    assert_equal(saved_weights(tmp_path / "stopped"), saved_weights(tmp_path / "whole"), atol=1e-6)
    resumed, expected = saved_state(tmp_path / "stopped", 4), saved_state(tmp_path / "whole", 4)
    assert resumed.keys() == expected.keys()
    for name in expected:  # Adam's moments and the averages too
        np.testing.assert_allclose(resumed[name], expected[name], rtol=0, atol=1e-6, err_msg=name)
    assert [row["epoch"] for row in history(tmp_path / "stopped")] == ["1", "2", "3", "4"]
    assert without_seconds(tmp_path / "stopped") == without_seconds(tmp_path / "whole")


def test_killed_and_resumed_with_everything_random(tmp_path):
    """Whatever is drawn is drawn from the seed and the step, and the schedule knows where it was."""
    more = ["--epochs=4", *FEW_STEPS, "--random_offsets", "--time_scaling=0.2"]
    more += ["--feature_noise=0.1", "--feature_dropout=0.1", "--input_dropout=0.1"]
    more += ["--schedule=cosine", "--warmup_epochs=1", "--weight_decay=0.01", "--convolution_norm=group"]
    kill_in_the_third_epoch(tmp_path / "stopped", *more)
    for name in ("whole", "stopped"):
        tiny.train(tmp_path / name, *more)
    assert_equal(saved_weights(tmp_path / "stopped"), saved_weights(tmp_path / "whole"), atol=1e-6)


def test_killed_and_resumed_with_two_stages(tmp_path):
    more = ["--epochs=4", *FEW_STEPS, *tiny.TWO_STAGES, "--ema_momentum=0.9"]
    kill_in_the_third_epoch(tmp_path / "stopped", *more)
    for name in ("whole", "stopped"):
        tiny.train(tmp_path / name, *more)
    assert_equal(saved_weights(tmp_path / "stopped"), saved_weights(tmp_path / "whole"), atol=1e-6)
    assert without_seconds(tmp_path / "stopped") == without_seconds(tmp_path / "whole")


KILLED = """
import os, signal, sys
from a2net_tf.main import main
from a2net_tf.training import callbacks

def kill(callback, batch, logs=None):
    if callback.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)

callbacks.StopOnNonFiniteLoss.on_train_batch_end = kill
main(sys.argv[1:])
"""


def kill_in_the_third_epoch(workdir, *more):
    """Trains in a process of its own, whose end is SIGKILL after a step of that epoch."""
    command = [sys.executable, "-c", KILLED, *tiny.train_flags(workdir, *more)]
    assert forks.run(command, cwd=tiny.REPO).returncode == -signal.SIGKILL
    assert sorted(path.name for path in (workdir / "state").glob("*.index")) == ["ckpt-1.index", "ckpt-2.index"]


@tiny.once
def _three_epochs(path):
    tiny.train(path, "--epochs=3")


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_kill_between_history_and_state_counts_no_epoch_twice(tmp_path, epoch):
    """Nor is the row of one lost, or the directory locked for ever."""
    script = SAVED_OR_KILLED.replace("EPOCH", str(epoch))
    command = [sys.executable, "-c", script, *tiny.train_flags(tmp_path / "stopped", "--epochs=3")]
    assert forks.run(command, cwd=tiny.REPO).returncode == -signal.SIGKILL
    assert [row["epoch"] for row in history(tmp_path / "stopped")] == [str(n + 1) for n in range(epoch + 1)]
    tiny.train(tmp_path / "stopped", "--epochs=3")
    assert without_seconds(tmp_path / "stopped") == without_seconds(_three_epochs())
    assert_equal(saved_weights(tmp_path / "stopped"), saved_weights(_three_epochs()))


SAVED_OR_KILLED = """
import os, signal, sys
from a2net_tf.main import main
from a2net_tf.training import callbacks

save = callbacks.SaveState.on_epoch_end

def save_or_kill(callback, epoch, logs=None):
    if epoch == EPOCH:
        os.kill(os.getpid(), signal.SIGKILL)
    save(callback, epoch, logs)

callbacks.SaveState.on_epoch_end = save_or_kill
main(sys.argv[1:])
"""


def test_leftovers_of_states_are_swept(tmp_path):
    """TensorFlow's names for what it has not finished; each is as large as the weights."""
    run = tiny.copy_of_trained(tmp_path)
    before = sorted(path.name for path in (run / "state").iterdir())
    unfinished = ("ckpt-3.index.tempstate123", "ckpt-3.data-00000-of-00001.tempstate9", "checkpoint.tmp01ab")
    for name in (*unfinished, "ckpt-0.data-00000-of-00001"):
        (run / "state" / name).write_bytes(b"half")
    (run / "state" / "ckpt-3_temp").mkdir()
    (run / ".last.npz.node7.1.ab.partial").write_bytes(b"half")
    tiny.train(run, "--epochs=3", VALIDATION)
    after = sorted(path.name for path in (run / "state").iterdir())
    assert after == [name.replace("ckpt-2", "ckpt-3").replace("ckpt-1", "ckpt-2") for name in before]
    assert not list(run.glob(".*"))


# --- seeds


def test_same_seed_same_weights(tmp_path):
    """Also without validation, which must only look."""
    again = tiny.train(tmp_path / "again", "--epochs=2")
    assert_equal(saved_weights(again), saved_weights(tiny.trained()))


def test_same_seed_same_weights_when_the_dataset_is_prepared_by_the_same_command(tmp_path):
    fresh = tiny.train(tmp_path / "fresh", f"--data_dir={tmp_path / 'data'}")
    assert_equal(raw_weights(fresh, 1), raw_weights(tiny.trained(), 1))


def test_training_prepares_features_in_the_type_that_is_asked_for(tmp_path):
    tiny.train(tmp_path / "run", f"--data_dir={tmp_path / 'data'}", "--stored_features=float16")
    assert prepared.stored_type(prepared.open_dataset("toy_actions", str(tmp_path / "data"))) == "float16"


@pytest.mark.parametrize("jit_compile", [False, True])
def test_network_can_be_called_in_training_after_fit(jit_compile, make_config):
    """Nothing of the graph that ``fit`` made is left in its dropouts."""
    config = make_config(input_dropout=0.5, deterministic=False, jit_compile=jit_compile, num_levels=1)
    model = trainer.Trainer(build_model(config, 5, 3), config)
    model.compile(optimizers.make_optimizer(config, 1), jit_compile=jit_compile, auto_scale_loss=False)
    features = np.random.default_rng(0).normal(size=(4, 32, 5)).astype(np.float32)
    windows = {"features": features, "segments": np.zeros((4, 6, 2), np.float32), "labels": np.zeros((4, 6), np.int32)}
    model.fit(tf.data.Dataset.from_tensors(windows), verbose=0)
    with pytest.raises(RuntimeError, match="input_dropout: in training, call the network within .*drawing"):
        model.network(features, training=True)
    first, again, other = (
        model.forward(features, tf.constant(seed))["anchor_logits"] for seed in ([1, 2], [1, 2], [1, 3])
    )
    np.testing.assert_array_equal(first, again)
    assert (first.numpy() != other.numpy()).any()


def test_other_seed_other_weights(tmp_path):
    other = tiny.train(tmp_path / "other", "--seed=1")
    pairs = zip(raw_weights(other, 1), raw_weights(tiny.trained(), 1), strict=True)
    kernels = [(a, b) for a, b in pairs if a.ndim == 3]
    assert len(kernels) > 10
    assert all(np.abs(a - b).max() > 0.01 for a, b in kernels)


# --- learning: one batch, over and over


class Recorder(keras.callbacks.Callback):
    """Keeps a running average of the weights by hand."""

    def __init__(self, momentum):
        super().__init__()
        self.momentum = momentum
        self.average = None

    def on_train_batch_end(self, batch, logs=None):
        self.raw = self.model.network.get_weights()
        if self.average is None:
            self.average = self.raw  # the average starts at the first step's weights
        pairs = zip(self.average, self.raw, strict=True)
        self.average = [self.momentum * average + (1 - self.momentum) * raw for average, raw in pairs]


@dataclasses.dataclass
class OneBatch:
    """60 steps on one batch."""

    folder: pathlib.Path
    batch: dict
    model: trainer.Trainer
    recorder: Recorder
    initial: list
    loss_before: float
    loss_after: float


@pytest.fixture(scope="module")
def one_batch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_batch")
    run = run_directory.load(str(tiny.trained()))
    config = dataclasses.replace(run.config, workdir=str(folder), ema_momentum=0.9, learning_rate=3e-3, batch_size=16)
    run = run._replace(config=config)
    run_directory.save(run)
    builder = prepared.open_dataset("toy_actions", data_dir=str(tiny.data_dir()))
    pipeline = input_pipeline.training_batches(
        prepared.read_records(builder, "train[:8]"), config, first_epoch=0, steps_per_epoch=1
    )
    batch = next(iter(pipeline))
    model = trainer.Trainer(run_directory.build_network(run), config)
    model.compile(optimizer=optimizers.make_optimizer(config, 60), auto_scale_loss=False)
    recorder, initial, before = Recorder(0.9), model.network.get_weights(), loss_on(model, batch)
    data = tf.data.Dataset.from_tensors(batch).repeat(60)
    epoch_end = callbacks.EpochEnd(run, None)
    model.fit(data, epochs=1, callbacks=[recorder, epoch_end, callbacks.SaveState(epoch_end)], verbose=0)
    return OneBatch(folder, batch, model, recorder, initial, before, loss_on(model, batch))


def loss_on(model, batch):
    """With the same draw of negatives each time."""
    parts, _ = model.objective(model.network(batch["features"]), batch, tf.constant([0, 0]))
    return float(parts["loss"])


def test_loss_falls_by_more_than_half(one_batch):
    assert one_batch.loss_after < one_batch.loss_before / 2


def test_every_weight_learns(one_batch):
    names = [w.path for w in one_batch.model.network.weights]
    frozen = [
        name
        for name, before, after in zip(names, one_batch.initial, one_batch.recorder.raw, strict=True)
        if np.array_equal(before, after)
    ]
    assert [name for name in frozen if "normalize" not in name] == []


def test_averaged_weights_are_what_is_evaluated(one_batch):
    saved = saved_weights(one_batch.folder)
    assert_equal(saved, one_batch.recorder.average, atol=1e-5)
    assert largest_difference(saved, one_batch.recorder.raw) > 1e-3


def test_training_goes_on_with_the_raw_weights(one_batch):
    """Averages are swapped in to be saved, and out again before the state is."""
    assert_equal(raw_weights(one_batch.folder, 1), one_batch.recorder.raw, atol=1e-6)  # Keras swaps by adding


def test_averages_of_no_step_are_not_what_is_evaluated(one_batch, tmp_path):
    """As when float16 overflows in each step of the first epoch: all are skipped, and averages would still be 0."""
    config = dataclasses.replace(one_batch.model.config, workdir=str(tmp_path), precision="float16")
    run = run_directory.load(str(one_batch.folder))._replace(config=config)
    run_directory.save(run)
    model = trainer.Trainer(run_directory.build_network(run), config)
    optimizer = optimizers.make_optimizer(config, 2)
    optimizer.initial_scale = 1e38
    model.compile(optimizer=optimizer, auto_scale_loss=False)
    optimizer.build(model.network.trainable_variables)
    initial = model.network.get_weights()
    data = tf.data.Dataset.from_tensors(one_batch.batch).repeat(2)
    model.fit(data, epochs=1, callbacks=[callbacks.EpochEnd(run, None)], verbose=0, shuffle=False)
    assert int(optimizer.iterations) == 0
    assert_equal(saved_weights(tmp_path), initial, atol=1e-3)  # as float16


# --- optimiser. Adam moves a weight by the learning rate as long as its gradient stays the same


def steps_of_adam(config, gradients, steps_per_epoch=3):
    """How far one weight moves at each step."""
    optimizer, weight, moves = optimizers.make_optimizer(config, steps_per_epoch), keras.Variable([0.0]), []
    for gradient in gradients:
        before = float(weight.numpy()[0])
        optimizer.apply([tf.constant([float(gradient)])], [weight])
        moves.append(before - float(weight.numpy()[0]))
    return moves


def test_rate_falls_exactly_at_the_end_of_the_decay_epochs():
    config = settings.Config(learning_rate=1.0, decay_epochs=(2, 3), decay_factor=0.1)
    moves = steps_of_adam(config, [1.0] * 12, steps_per_epoch=3)
    np.testing.assert_allclose(moves, [1.0] * 6 + [0.1] * 3 + [0.01] * 3, rtol=1e-3)


def test_rate_stays_without_decay_epochs():
    moves = steps_of_adam(settings.Config(learning_rate=0.5, decay_epochs=()), [1.0] * 9)
    np.testing.assert_allclose(moves, [0.5] * 9, rtol=1e-3)


def test_cosine_falls_to_zero_at_the_end_after_the_warm_up():
    config = settings.Config(learning_rate=1.0, schedule="cosine", warmup_epochs=1, epochs=4)
    moves = steps_of_adam(config, [1.0] * 12, steps_per_epoch=3)
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(12) / 12))
    np.testing.assert_allclose(moves, cosine * np.minimum(np.arange(1, 13) / 3, 1), rtol=2e-3, atol=1e-3)


def test_weight_decay_is_of_kernels_alone():
    optimizer = optimizers.make_optimizer(settings.Config(learning_rate=0.1, decay_epochs=(), weight_decay=0.5), 1)
    names = ("kernel", "bias", "gamma", "beta", "scale")
    weights = [keras.Variable([1.0], name=name) for name in names]
    optimizer.apply([tf.constant([0.0])] * len(weights), weights)
    found = {weight.name: float(weight.numpy()[0]) for weight in weights}
    assert found == pytest.approx({"kernel": 1 - 0.1 * 0.5, "bias": 1, "gamma": 1, "beta": 1, "scale": 1})


def test_clip_norm():
    """With clipping a gradient that explodes moves a weight as far as any other; without, Adam remembers it."""
    gradients = [1.0, 1.0, 1000.0, 1.0, 1.0]
    clipped = steps_of_adam(settings.Config(learning_rate=1.0, decay_epochs=(), clip_norm=1.0), gradients)
    np.testing.assert_allclose(clipped, [1.0] * 5, rtol=1e-3)
    free = steps_of_adam(settings.Config(learning_rate=1.0, decay_epochs=()), gradients)
    assert not np.allclose(free[3:], 1.0, atol=0.1)


def test_clip_norm_is_of_all_weights_together():
    optimizer = optimizers.make_optimizer(settings.Config(clip_norm=5.0, decay_epochs=()), 1)
    clipped = optimizer._clip_gradients([tf.constant([30.0]), tf.constant([40.0])])
    np.testing.assert_allclose(np.concatenate(clipped), [3.0, 4.0], rtol=1e-6)


# --- precision and XLA


@pytest.mark.parametrize("flag", ["--precision=bfloat16", "--precision=float16"])
def test_other_arithmetic_trains_alike(tmp_path, flag):
    run = tiny.train(tmp_path / "run", flag)
    (epoch,), expected = history(run), history(tiny.trained())[0]
    assert np.isfinite(float(epoch["gradient_norm"]))
    assert float(epoch["loss"]) == pytest.approx(float(expected["loss"]), rel=0.05)
    moved = largest_difference(raw_weights(run, 1), raw_weights(tiny.trained(), 1))
    assert moved < 0.01  # the first weights are the same, and no step goes astray


@pytest.mark.parametrize("more", [(), (*tiny.TWO_STAGES, "--proposal_dropout=0")], ids=["one stage", "two stages"])
def test_xla_trains_alike(tmp_path, more):
    """In a new process: Keras leaves XLA out, with a warning, once determinism has been asked for."""
    flags = ("--jit_compile", "--nodeterministic", "--num_levels=1", *more)
    done = tiny.in_fork(*tiny.train_flags(tmp_path / "run", *flags))
    assert done.returncode == 0, done.stderr
    assert "jit_compile" not in done.stderr
    plain = tiny.train(tmp_path / "plain", "--num_levels=1", *more)
    (epoch,), (expected,) = history(tmp_path / "run"), history(plain)
    assert float(epoch["loss"]) == pytest.approx(float(expected["loss"]), rel=0.05)
    assert largest_difference(raw_weights(tmp_path / "run", 1), raw_weights(plain, 1)) < 0.01


def test_xla_and_determinism_contradict_each_other(tmp_path, capsys):
    assert main(tiny.train_flags(tmp_path / "run", "--jit_compile")) == 1
    assert "--jit_compile needs --nodeterministic" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_half_precision_stays_inside_the_network(make_config):
    config = make_config(precision="bfloat16")
    run = run_directory.Run(config, ["a", "b"], 5, None, 1, 1.0, 0.0)
    network = run_directory.build_network(run)
    assert {str(w.dtype) for w in network.weights} == {"float32"}
    assert {tensor.dtype for tensor in network.output.values()} == {"float32"}


# --- logs


def events(folder):
    """(epoch, value) by tag, of all event files in the order they were written."""
    found = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, float(tf.make_ndarray(value.tensor))))
    return found


def test_tensorboard_shows_everything():
    found = events(tiny.trained() / "logs")
    levels = range(1, 3)
    parts = ["loss", "anchor_free_classification", "anchor_free_regression", "anchor_based_classification"]
    parts += ["anchor_based_overlap", "anchor_based_regression", "gradient_norm", "learning_rate", "validation_mAP"]
    parts += [f"{head}_positives_level{i}" for head in ("anchor_free", "anchor_based") for i in levels]
    assert {f"epoch_{name}" for name in parts} <= set(found)
    for name in parts:
        assert [step for step, _ in found[f"epoch_{name}"]] == [0, 1], name
        assert np.isfinite([value for _, value in found[f"epoch_{name}"]]).all(), name
    assert found["epoch_learning_rate"][0][1] == pytest.approx(1e-4)
    assert sum(found[f"epoch_anchor_free_positives_level{i}"][0][1] for i in levels) > 1


def test_history_has_a_row_per_epoch_and_no_empty_columns():
    rows = history(tiny.trained())
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"loss", "gradient_norm", "validation_mAP", "anchor_free_positives_level1"} <= set(rows[0])
    for row in rows:
        assert np.isfinite([float(value) for value in row.values()]).all()
        assert 0 <= float(row["validation_mAP"]) <= 1


def test_history_keeps_the_seconds_of_each_epoch_when_a_run_goes_on(run, capsys):
    before = [row["seconds"] for row in history(run)]
    capsys.readouterr()
    assert main(tiny.train_flags(run, "--epochs=3", VALIDATION)) == 0
    printed = capsys.readouterr().out.splitlines()
    after = [row["seconds"] for row in history(run)]
    assert after[:2] == before
    assert all(float(seconds) > 0 for seconds in after)
    assert run_directory.training_seconds(str(run)) == pytest.approx(sum(map(float, after)))
    assert f"  {float(after[2]):.1f} s" in next(line for line in printed if line.startswith("epoch 3/3"))
    assert printed[-1] == f"trained 3 epochs in {sum(map(float, after)):.1f} s"


def test_loss_is_the_weighted_sum_of_its_logged_parts():
    for row in history(tiny.trained()):
        value = {name: float(number) for name, number in row.items() if number}
        anchor_free = 30 * value["anchor_free_classification"] + value["anchor_free_regression"]
        anchor_based = (
            value["anchor_based_classification"]
            + 10 * value["anchor_based_overlap"]
            + 10 * value["anchor_based_regression"]
        )
        assert value["loss"] == pytest.approx(anchor_free + anchor_based, rel=1e-4)


# --- going on


def test_more_epochs_continue_a_finished_run(run):
    """Columns and rows of history.csv stay in order also if only the added epoch is validated."""
    tiny.train(run, "--epochs=4", VALIDATION, "--validate_every=2")
    assert [row["epoch"] for row in history(run)] == ["1", "2", "3", "4"]
    assert [np.isfinite(float(row["validation_mAP"] or "nan")) for row in history(run)] == [True, True, False, True]
    assert float(history(run)[3]["loss"]) < float(history(run)[0]["loss"])
    shown = dict(events(run / "logs")["epoch_loss"])
    assert shown == pytest.approx({i: float(row["loss"]) for i, row in enumerate(history(run))}, rel=1e-5)


def test_a_finished_run_is_left_alone(run, capsys):
    before = tiny.files_below(run)
    assert main(tiny.train_flags(run, "--epochs=2", VALIDATION)) == 0
    assert "2 epochs are done" in capsys.readouterr().out
    after = tiny.files_below(run)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--learning_rate=0.001", r"--learning_rate=0\.001 \(was 0\.0001\)"),
        ("--head_channels=9", r"--head_channels=9 \(was 8\)"),
        ("--train_split=train[:9]", r"--train_split=train\[:9\] \(was train\[:8\]\)"),
        ("--overlap_loss=mse", r"--overlap_loss=mse \(was smooth_l1\)"),
        ("--seed=1", r"--seed=1 \(was 0\)"),
    ],
)
def test_changed_settings_are_refused(run, capsys, flag, message):
    error = tiny.refused(capsys, run, *tiny.train_flags(run, "--epochs=3", VALIDATION, flag))
    assert re.search(f"{run} holds a run with other settings: {message}; use another --workdir", error)


def test_a_cosine_cannot_be_made_longer(tmp_path, capsys):
    run = tiny.train(tmp_path / "run", "--schedule=cosine")
    error = tiny.refused(capsys, run, *tiny.train_flags(run, "--schedule=cosine", "--epochs=3"))
    assert "--epochs=3 (was 1): the learning rate of --schedule=cosine ends at 0" in error


def test_fewer_epochs_than_are_done(run, capsys):
    """Nothing to do is no error, but it must not claim 2 of 1."""
    status = main(tiny.train_flags(run, "--epochs=1", VALIDATION))
    printed = capsys.readouterr()
    assert status == 1 or "of 1 epochs" not in printed.out
    assert len(saved_state(run, 2)) > 0


def test_best_is_the_best_validated_epoch():
    scores = [float(row["validation_mAP"]) for row in history(tiny.trained())]
    best = 1 + int(np.argmax(scores))
    kept, expected = saved_weights(tiny.trained(), "best"), raw_weights(tiny.trained(), best)
    assert_equal(kept, expected)


def test_run_says_what_it_was_made_with(run):
    description = json.loads((run / "run.json").read_text())
    assert description["class_names"] == list(tiny.CLASSES)
    assert {"tensorflow", "keras", "numpy", "a2net-tf"} <= set(description["versions"])
    config, _ = settings.parse([f"--flagfile={run / 'flags.txt'}"])
    assert settings.to_dict(config) == description["config"]


# --- going wrong


def edit_config(run, **changes):
    """Changes settings in run.json, so that a command with them fits the run."""
    description = json.loads((run / "run.json").read_text())
    description["config"].update(changes)
    (run / "run.json").write_text(json.dumps(description))


def test_not_finite_loss_stops_and_keeps_the_last_epoch(run, capsys):
    edit_config(run, learning_rate=1e30, epochs=3)
    before = {name: content for name, content in tiny.files_below(run).items() if "logs" not in name}
    capsys.readouterr()
    assert main(tiny.train_flags(run, "--epochs=3", VALIDATION, "--learning_rate=1e30")) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.search(
        r"the loss is no longer finite at epoch 3, step [1-5] \(.*loss.*\); the last finished epoch is kept", errors[0]
    )
    after = {name: content for name, content in tiny.files_below(run).items() if "logs" not in name}
    assert after == before


@pytest.mark.parametrize(
    "damage", ["data cut", "data missing", "index cut", "index empty", "list of states is garbage"]
)
def test_damaged_state(run, capsys, damage):
    (data,), index, listing = (
        run.glob("state/ckpt-2.data*"),
        run / "state" / "ckpt-2.index",
        run / "state" / "checkpoint",
    )
    if damage == "data cut":
        data.write_bytes(data.read_bytes()[:1000])
    elif damage == "data missing":
        data.unlink()
    elif damage == "index cut":
        index.write_bytes(index.read_bytes()[:1000])
    elif damage == "index empty":
        index.write_bytes(b"")
    else:
        listing.write_text("\x00garbage")
    warned = damage == "list of states is garbage"  # by TensorFlow
    error = tiny.refused(capsys, run, *tiny.train_flags(run, "--epochs=2", VALIDATION), alone=not warned)
    assert str(run / "state") in error


def test_lost_state_is_not_mistaken_for_a_new_run(run, capsys):
    """Weights are there but nothing to resume from: starting over would overwrite them."""
    for file in (run / "state").iterdir():
        file.unlink()
    error = tiny.refused(capsys, run, *tiny.train_flags(run, "--epochs=2", VALIDATION))
    assert str(run / "state") in error


def test_state_of_another_architecture(run, capsys):
    edit_config(run, head_channels=9)
    error = tiny.refused(capsys, run, *tiny.train_flags(run, "--epochs=2", VALIDATION, "--head_channels=9"))
    assert f"{run / 'state' / 'ckpt-2'}: damaged, or of another architecture" in error


def test_leftovers_of_a_killed_save_do_no_harm(run):
    """A kill while the weights are written leaves the temporary file only."""
    pathlib.Path(run / ".0123456789abcdef.tmp").write_bytes(b"half")
    (run / "state" / "ckpt-3_temp").mkdir()
    with tiny.silence():
        assert main(["--mode=evaluate", f"--workdir={run}", "--noplots"]) == 0

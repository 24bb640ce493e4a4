"""What training does by itself on a GPU: decided from the kind of device that is passed, so that a CPU can test it."""

import dataclasses
import functools
import json
import re

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf import settings
from a2net_tf.data import input_pipeline, prepared
from a2net_tf.detection.model import build_model
from a2net_tf.errors import UserError
from a2net_tf.main import main
from a2net_tf.training import by_device, run_directory
from a2net_tf.training.optimizers import make_optimizer
from a2net_tf.training.trainer import Trainer
from benchmarks import synthetic
from tests import tiny
from tests.training.test_trainer import history, largest_difference, raw_weights

pytestmark = pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="expects the defaults of a CPU")
DROPS = {"input_dropout": 0.1, "distribute": "mirrored"}


@pytest.mark.parametrize(
    ("asked", "on_cpu", "on_gpu"),  # (jit_compile, deterministic)
    [
        ({}, (False, True), (True, False)),
        ({"deterministic": True}, (False, True), (False, True)),
        ({"deterministic": False}, (False, False), (True, False)),
        ({"jit_compile": False}, (False, True), (False, False)),
        ({"jit_compile": True, "deterministic": False}, (True, False), (True, False)),
        ({"jit_compile": True}, None, (True, False)),
        (DROPS, (False, True), (False, False)),
        ({"input_dropout": 0.1}, (False, True), (True, False)),
        ({"distribute": "mirrored"}, (False, True), (True, False)),
    ],
)
def test_what_each_kind_of_device_decides(asked, on_cpu, on_gpu):
    config = dataclasses.replace(settings.Config(), mode="train", **asked)
    for device, expected in (("CPU", on_cpu), ("GPU", on_gpu)):
        if expected is None:
            with pytest.raises(UserError, match="--jit_compile needs --nodeterministic"):
                by_device.resolve(config, device)
        else:
            resolved = by_device.resolve(config, device)
            assert (resolved.jit_compile, resolved.deterministic) == expected
            assert by_device.resolve(resolved, "CPU") == resolved


def test_only_what_differs_from_a_cpu_is_announced(capsys):
    config = settings.Config()
    by_device.announce(config, by_device.resolve(config, "CPU"))
    assert capsys.readouterr().out == ""
    by_device.announce(config, by_device.resolve(config, "GPU"))
    assert capsys.readouterr().out.splitlines() == [
        "compiling the training step with XLA (--jit_compile=auto), a minute or more: --nojit_compile does not",
        "runs with equal seeds differ by rounding (--deterministic=auto)",
    ]
    explicit = dataclasses.replace(config, jit_compile=True, deterministic=False)
    by_device.announce(explicit, explicit)
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def as_on_a_gpu(slow, tmp_path_factory):
    """A run of two epochs of seven steps that did all that a GPU would make it do, on this CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_device, "kind", lambda: "GPU")
        patch.setattr(by_device, "prefetched", functools.partial(by_device.prefetched, name="/CPU:0"))
        return tiny.train(tmp_path_factory.mktemp("gpu") / "run", "--num_levels=1", "--epochs=2", "--batch_size=16")


def test_a_run_as_on_a_gpu_learns_the_same(as_on_a_gpu, tmp_path):
    plain = tiny.train(tmp_path / "plain", "--num_levels=1", "--epochs=2", "--batch_size=16")
    for found, expected in zip(history(as_on_a_gpu), history(plain), strict=True):
        assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=0.05)  # XLA draws other negatives
    assert largest_difference(raw_weights(as_on_a_gpu, 2), raw_weights(plain, 2)) < 0.01
    for run, decided in ((as_on_a_gpu, (True, False)), (plain, (False, True))):
        content = json.loads((run / "run.json").read_text())
        assert (content["jit_compile"], content["deterministic"]) == decided
        assert content["config"]["jit_compile"] == content["config"]["deterministic"] == "auto"


def test_a_run_goes_on_as_it_was_started(as_on_a_gpu, capsys):
    """Here on a CPU, whose own choice would be another one."""
    flags = tiny.train_flags(as_on_a_gpu, "--num_levels=1", "--epochs=3", "--batch_size=16")
    line = tiny.refused(capsys, as_on_a_gpu, *flags, "--nojit_compile", alone=False)
    assert "--jit_compile=False (was True)" in line
    assert main(flags) == 0
    assert "compiling the training step with XLA" in capsys.readouterr().out
    assert run_directory.load(str(as_on_a_gpu)).computed.jit_compile is True
    assert len(history(as_on_a_gpu)) == 3


def test_a_run_of_an_older_version_goes_on_as_it_was_started(tmp_path):
    """Its run.json has the two settings as true and false, and nothing that was decided."""
    run = tiny.copy_of_trained(tmp_path)
    old = json.loads((run / "run.json").read_text())
    del old["jit_compile"], old["deterministic"]
    old["config"].update(jit_compile=False, deterministic=False)
    (run / "run.json").write_text(json.dumps(old))
    loaded = run_directory.load(str(run))
    assert (loaded.computed.jit_compile, loaded.computed.deterministic) == (False, False)
    asked = dataclasses.replace(loaded.config, deterministic="auto", jit_compile="auto")
    assert run_directory.to_continue(loaded, asked) == loaded.config
    with pytest.raises(UserError, match=r"--deterministic=True \(was False\)"):
        run_directory.to_continue(loaded, dataclasses.replace(asked, deterministic=True))


def test_damaged_decisions_are_refused(tmp_path):
    run = tiny.copy_of_trained(tmp_path)
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, "jit_compile": "yes"}))
    with pytest.raises(UserError, match="jit_compile: expected true or false, found 'yes'"):
        run_directory.load(str(run))


def test_the_loss_is_looked_at_every_few_steps_and_at_the_end(make_config):
    config = make_config(batch_size=2, num_levels=1)
    trainer = Trainer(build_model(config, 5, 3), config)
    trainer.compile(make_optimizer(config, 7), steps_per_look=3, steps_per_epoch=7, auto_scale_loss=False)
    trainer.optimizer.build(trainer.network.trainable_variables)
    seen = []

    class Seen(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append("loss" in logs)

    batch = {name: tf.constant(value) for name, value in small_batch(config).items()}
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    found = trainer.fit(batches, epochs=2, steps_per_epoch=7, callbacks=[Seen()], verbose=0)
    assert seen == [False, False, True, False, False, True, True, False, True, False, False, True, False, True]
    assert len(found.history["loss"]) == 2


def small_batch(config):
    return synthetic.training_batch(dataclasses.replace(config, num_features=5, num_classes=3))


@pytest.mark.parametrize(
    ("changes", "device", "expected"),
    [
        ({"precision": "bfloat16", "normalize": False}, "CPU", ""),
        ({"precision": "bfloat16", "normalize": False}, "GPU", "bfloat16"),
        ({"precision": "bfloat16", "normalize": True}, "GPU", "float32"),
        ({"precision": "float16", "normalize": False, "input_dropout": 0.1}, "GPU", "float32"),
        ({"precision": "float32", "normalize": False}, "GPU", "float32"),
    ],
)
def test_type_of_features_on_their_way(changes, device, expected):
    assert by_device.narrow_type(dataclasses.replace(settings.Config(), **changes), device) == expected


@pytest.mark.parametrize("normalize", [False, True])
def test_features_in_16_bits_change_no_output(normalize, make_config):
    """bfloat16 where the network begins with that cast; those that are stored in float16 in any case."""
    config = make_config(precision="bfloat16", normalize=normalize, num_levels=1)
    statistics = (np.full(5, 0.3, np.float32), np.full(5, 2.0, np.float32)) if normalize else None
    network = build_model(config, 5, 3, statistics=statistics)
    features = np.random.default_rng(0).normal(size=(2, config.window_steps, 5)).astype(np.float32)
    narrow = by_device.narrow_type(config, "GPU")
    for given, sent in ((features, tf.cast(features, narrow)), (features.astype(np.float16),) * 2):
        expected = network(tf.cast(given, tf.float32))
        for name, found in network(tf.cast(sent, tf.float32)).items():
            np.testing.assert_array_equal(found, expected[name])


@pytest.mark.parametrize(("narrow", "dtype"), [("", "float32"), ("bfloat16", "bfloat16"), ("float32", "float32")])
def test_type_of_batches(narrow, dtype):
    records = prepared.read_records(prepared.open_dataset("toy_actions", data_dir=str(tiny.data_dir())), "train[:4]")
    config = settings.parse(tiny.train_flags("w", "--batch_size=2"))[0]
    options = {"first_epoch": 0, "steps_per_epoch": 2, "narrow_type": narrow}
    batches = input_pipeline.training_batches(records, config, **options)
    assert batches.element_spec["features"].dtype.name == dtype
    stored = records.map(lambda record: {**record, "features": tf.cast(record["features"], tf.float16)})
    stored_type = input_pipeline.training_batches(stored, config, **options).element_spec["features"].dtype
    assert stored_type.name == ("float16" if narrow else "float32")


STEPS = {
    "as in the paper": {},
    "modern": {
        "convolution_norm": "group", "norm_groups": 4, "level_channels": (8, 8, 8, 8),
        "input_dropout": 0.1,
        "class_scores": "sigmoid", "anchor_regression": "offsets", "anchor_matching": "defaults",
        "force_matches": True, "ema_momentum": 0.9, "clip_norm": 1.0,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_a_compiled_step_asks_no_host_and_knows_every_size(name, make_config):
    """Of what XLA is given: no callbacks, nothing fed in or out, no dynamic shapes."""
    config = make_config(convolution="unrolled", **STEPS[name])
    config = by_device.resolve(dataclasses.replace(config, mode="train"), "GPU")
    assert config.jit_compile is True
    trainer = Trainer(build_model(config, 5, 3), config)
    trainer.compile(make_optimizer(config, 7), jit_compile=True, auto_scale_loss=False)
    trainer.optimizer.build(trainer.network.trainable_variables)
    batch = {name: tf.constant(value) for name, value in small_batch(config).items()}
    text = tf.function(trainer.train_step, jit_compile=True).experimental_get_compiler_ir(batch)(stage="hlo")
    assert "HloModule" in text
    assert not re.findall(r"infeed|outfeed|\bsend\(|\brecv\(|callback|HostCompute", text)
    assert not re.findall(r"\w+\[[^\]]*<=", text), "a dynamic shape"
    assert not set(re.findall(r'custom_call_target="(\w+)"', text)) - {"TopK"}

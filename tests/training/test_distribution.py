"""Several devices train as one does.

Logical CPU devices exist only in processes that ask for them before TensorFlow starts, so this file is also a program:
``python -m tests.training.test_distribution steps 2 FILE`` and ``... main 2 FLAGS``.
"""

import csv
import json
import sys

import numpy as np
import pytest

from a2net_tf.training import run_directory
from tests import forks, tiny

pytestmark = pytest.mark.slow

WINDOWS, STEPS, ACTIONS = 8, 4, 5
LEARNING_RATE = 1e-3

ONE_LEVEL = ("--num_levels=1", "--level_channels=8")  # graphs of several devices take long to make
AVERAGED = ("--clip_norm=1", "--ema_momentum=0.9")
CASES = {
    "float32": AVERAGED,
    "anchor-based alone": ("--noanchor_free",),
    "bfloat16": ("--precision=bfloat16", *AVERAGED),
    "float16": ("--precision=float16", *AVERAGED),
    "modern": (
        "--convolution_norm=group",
        "--norm_groups=4",
        "--input_dropout=0.2",
        "--class_scores=sigmoid",
        "--anchor_free_regression=diou",
        "--anchor_regression=offsets",
        "--anchor_matching=defaults",
        "--force_matches",
        "--weight_decay=0.05",
        "--schedule=cosine",
        *AVERAGED,
    ),
    "two stages": (*tiny.TWO_STAGES, *AVERAGED),
    "xla": ("--jit_compile", "--nodeterministic", *AVERAGED),
}
BY_DEVICES = {
    1: [case for case in CASES if case != "xla"],
    2: list(CASES),
    4: ["float32", "float16"],
}


# --- the program


def start_tensorflow(num_devices):
    import tensorflow as tf

    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * num_devices)
    return tf


def settings_of(case):
    from a2net_tf import settings

    flags = [f"--batch_size={WINDOWS}", f"--learning_rate={LEARNING_RATE}", "--decay_epochs=2", "--distribute=mirrored"]
    network = [*tiny.NETWORK, *ONE_LEVEL, f"--max_actions={ACTIONS}"]
    return settings.parse([*network, *flags, *CASES[case]])[0]


def make_batches():
    """Window b of each batch has b actions, at most 5: the devices' parts have as different denominators as can be."""
    random = np.random.default_rng(0)
    for _ in range(STEPS):
        start = random.uniform(0, 0.7, (WINDOWS, ACTIONS))
        labels = random.integers(1, len(tiny.CLASSES) + 1, (WINDOWS, ACTIONS))
        yield {
            "features": random.normal(size=(WINDOWS, 64, tiny.FEATURES)).astype(np.float32),
            "segments": np.stack([start, start + random.uniform(0.05, 0.3, start.shape)], axis=-1).astype(np.float32),
            "labels": (labels * (np.arange(ACTIONS) < np.arange(WINDOWS)[:, None])).astype(np.int32),
        }


def batches_of(case):
    """Those; for float16 a single window of the first overflows, at the device that has it."""
    batches = list(make_batches())
    if case == "float16":
        batches[0]["features"][-1] *= 1e3
    return batches


class Steps:
    """One trainer on all devices, and what its steps did."""

    def __init__(self, case):
        import keras

        from a2net_tf.detection.model import build_model
        from a2net_tf.training import by_device, optimizers, trainer

        config = by_device.resolve(settings_of(case), "CPU")
        keras.utils.set_random_seed(1)
        self.strategy = trainer.choose_strategy(config)
        with self.strategy.scope():
            network = build_model(config, tiny.FEATURES, len(tiny.CLASSES))
            self.model = trainer.Trainer(network, config)
            self.optimizer = optimizers.make_optimizer(config, 1)
            if config.precision == "float16":  # low enough for all windows but the one of batches_of
                self.optimizer.initial_scale = 2.0**8
            self.model.compile(self.optimizer, jit_compile=config.jit_compile, auto_scale_loss=False)
            self.optimizer.build(network.trainable_variables)

    def fit(self, batches, callback=None):
        """One epoch; returns its means."""
        import tensorflow as tf

        stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
        data = tf.data.Dataset.from_tensor_slices(stacked)
        callbacks = [callback] if callback else []
        self.model.fit(data, epochs=1, steps_per_epoch=len(batches), callbacks=callbacks, verbose=0, shuffle=False)
        return self.model.epoch_means()

    def weights(self):
        return {weight.path: weight.numpy() for weight in self.model.network.trainable_variables}

    def state(self):
        """Everything that the optimizer remembers."""
        return {f"{i} {variable.name}": variable.numpy() for i, variable in enumerate(self.optimizer.variables)}

    def largest_disagreement(self):
        """Between the copies that the devices have of one variable."""
        variables = [*self.model.network.variables, *self.optimizer.variables]
        copies = [self.strategy.experimental_local_results(variable.value) for variable in variables]
        assert {len(c) for c in copies} == {self.strategy.num_replicas_in_sync}
        return max(np.abs(c.numpy() - first.numpy()).max() for first, *others in copies for c in [first, *others])


def run_steps(num_devices, file):
    """Runs all cases and writes what they did."""
    start_tensorflow(num_devices)
    import keras

    found = {}

    def keep(case, kind, values):
        found.update({f"{case}/{kind}/{name}": value for name, value in values.items()})

    def watch(case, steps):
        """What there is after the first step, and in the end before fit replaces weights by their averages."""

        def after_step(number, logs):
            if number in (0, STEPS - 1):
                keep(case, f"losses {number}", steps.model.epoch_means())
                keep(case, f"weights {number}", steps.weights())
                keep(case, f"state {number}", steps.state())

        return keras.callbacks.LambdaCallback(on_train_batch_end=after_step)

    for case in BY_DEVICES[num_devices]:
        steps = Steps(case)
        assert steps.strategy.num_replicas_in_sync == num_devices
        keep(case, "weights before", steps.weights())
        steps.fit(batches_of(case), watch(case, steps))
        found[f"{case}/disagreement"] = steps.largest_disagreement()

    np.savez(file, **found)


def run_main(num_devices, arguments):
    """The command as a user gives it, in a process with as many devices."""
    start_tensorflow(num_devices)
    from a2net_tf.main import main

    return main(arguments)


def program(*arguments):
    command = [sys.executable, "-m", "tests.training.test_distribution", *map(str, arguments)]
    return forks.Fork(command, cwd=tiny.REPO)


# --- the same steps on 1, 2 and 4 devices


@tiny.once
def steps(path):
    """A folder with what ``run_steps`` wrote, for each number of devices."""
    path.mkdir()
    files = {n: path / f"{n}.npz" for n in BY_DEVICES}
    running = [program("steps", n, file) for n, file in files.items()]
    for process in running:
        output = "".join(process.communicate())
        assert process.returncode == 0, output[-3000:]


@pytest.fixture(scope="module")
def found():
    """By number of devices: what ``run_steps`` wrote."""
    return {n: dict(np.load(steps() / f"{n}.npz")) for n in BY_DEVICES}


def differences(found, one, several, num_devices, kind):
    """By name: arrays of one device in the case ``one``, and their differences with several in the case ``several``."""
    prefix = f"{several}/{kind}/"
    names = [key.removeprefix(prefix) for key in found[num_devices] if key.startswith(prefix)]
    assert names
    expected = {name: found[1][f"{one}/{kind}/{name}"] for name in names}
    return {name: (e, np.abs(found[num_devices][prefix + name] - e)) for name, e in expected.items()}


SEVERAL = [(case, n) for n in (2, 4) for case in BY_DEVICES[n]]


@pytest.mark.parametrize(("case", "num_devices"), SEVERAL)
def test_logged_means_are_those_of_one_device(found, case, num_devices):
    """To the unit roundoff of what gradients are computed in; in float32, sums of thousands come in other orders.

    The last ones come after three more updates. XLA draws other negatives when it compiles the draw, on one device:
    what it is compared with is one device without it.
    """
    tolerance = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(case, 1e-5)
    for step, largest in ((0, tolerance), (STEPS - 1, STEPS * tolerance)):
        for name, (expected, difference) in differences(
            found, "float32" if case == "xla" else case, case, num_devices, f"losses {step}"
        ).items():
            assert difference <= largest * np.abs(expected), name
            assert expected > 0 or name == "gradient_norm", name  # 0: the step that is skipped


@pytest.mark.parametrize(("case", "num_devices"), SEVERAL)
@pytest.mark.parametrize("kind", ["weights", "state"])
def test_weights_and_state_are_those_of_one_device(found, case, num_devices, kind):
    """State: moments, averages, number of steps, loss scale. Adam moves a weight whose gradient is rounding noise as
    far as any other, so with half precision a few weights may go another way: there the mean difference is judged."""
    one = "float32" if case == "xla" else case
    pairs = differences(found, one, case, num_devices, f"{kind} {STEPS - 1}")
    all_differences = np.concatenate([difference.ravel() for _, difference in pairs.values()])
    if "float16" in case:  # and bfloat16
        assert all_differences.mean() < 0.02 * LEARNING_RATE
        assert all_differences.max() < 2 * STEPS * LEARNING_RATE
    else:
        assert all_differences.max() < 0.01 * LEARNING_RATE
    start = found[1][f"{one}/weights before/base2/kernel"]
    moved = np.abs(found[1][f"{one}/weights {STEPS - 1}/base2/kernel"] - start)
    assert moved.mean() > LEARNING_RATE  # else there would be nothing to compare


def gradients(found, num_devices):
    """By name, of the first step. Adam's first moments are then a tenth of the gradients, which were clipped."""
    norm, prefix = found[num_devices]["float32/losses 0/gradient_norm"], "float32/state 0/"
    assert norm > 1
    moments = {key: array for key, array in found[num_devices].items() if key.startswith(prefix) and "momentum" in key}
    assert len(moments) == sum(key.startswith("float32/weights 0/") for key in found[num_devices])
    return {key: norm * 10 * array for key, array in moments.items()}


@pytest.mark.parametrize("num_devices", [2, 4])
def test_gradients_are_those_of_one_device(found, num_devices):
    several = gradients(found, num_devices)
    for name, expected in gradients(found, 1).items():
        assert np.linalg.norm(several[name] - expected) <= 1e-5 * np.linalg.norm(expected) + 1e-6, name


@pytest.mark.parametrize(("case", "num_devices"), SEVERAL)
def test_devices_agree_to_the_bit(found, case, num_devices):
    assert found[num_devices][f"{case}/disagreement"] == 0


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_a_step_that_overflows_on_one_device_is_skipped_on_all(found, num_devices):
    arrays = {key.removeprefix("float16/"): array for key, array in found[num_devices].items() if "float16/" in key}
    before = {key: array for key, array in arrays.items() if key.startswith("weights before")}
    for key, array in before.items():
        np.testing.assert_array_equal(arrays[key.replace("before", "0")], array)
    (scale,) = (array for key, array in arrays.items() if key.startswith("state 0/") and key.endswith("dynamic_scale"))
    assert scale == 2.0**7
    assert arrays["losses 0/gradient_norm"] == 0
    assert np.isfinite(arrays["losses 0/loss"])
    steps = [array for key, array in arrays.items() if key.startswith(f"state {STEPS - 1}/") and "iteration" in key]
    assert max(steps) == STEPS - 1


# --- whole commands


def test_the_number_of_devices_may_change_from_epoch_to_epoch(tmp_path):
    """The first epoch on two devices, the second on one, the third on four: as three on one."""
    more = ("--validation_split=validation[:2]", "--ema_momentum=0.9", *ONE_LEVEL)
    tiny.train(tmp_path / "one", *more, "--epochs=3")
    several = tmp_path / "several"
    train_on(2, several, *more, "--epochs=1")
    tiny.train(several, *more, "--epochs=2")
    train_on(4, several, *more, "--epochs=3")
    assert_runs_alike(several, tmp_path / "one")


def train_on(num_devices, workdir, *more):
    process = program("main", num_devices, *tiny.train_flags(workdir, *more, "--distribute=mirrored"))
    output = "".join(process.communicate())
    assert process.returncode == 0, output[-3000:]


def history(workdir):
    """Numbers of each epoch but the time, which differs from run to run."""
    with open(workdir / "history.csv", newline="") as file:
        return [{name: float(row[name]) for name in row if name != "seconds"} for row in csv.DictReader(file)]


def assert_runs_alike(found, expected):
    rows = [history(folder) for folder in (found, expected)]
    assert [row["epoch"] for row in rows[0]] == [1, 2, 3]
    for row, other in zip(*rows, strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    for name in ("last.npz", "best.npz"):
        arrays = [np.load(folder / name) for folder in (found, expected)]
        for key in arrays[1]:
            np.testing.assert_allclose(arrays[0][key], arrays[1][key], rtol=0, atol=1e-6, err_msg=key)


def test_mirrored_on_one_device_is_training_without_it(tmp_path):
    found = tiny.train(tmp_path / "run", "--distribute=mirrored", "--validation_split=validation[:2]", "--epochs=2")
    assert history(found) == history(tiny.trained())
    assert json.loads((found / "run.json").read_text())["config"]["distribute"] == "mirrored"
    weights = [
        run_directory.load_network(run_directory.load(str(run))).get_weights() for run in (found, tiny.trained())
    ]
    for array, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(array, other)


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    flags = tiny.train_flags(tmp_path / "run", "--distribute=mirrored", "--batch_size=6")
    process = program("main", 4, *flags)
    output = "".join(process.communicate())
    assert process.returncode == 1
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: --batch_size=6: with --distribute=mirrored it must be a multiple of 4, the number of visible CPUs"
    ]
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


if __name__ == "__main__":
    command, devices, *rest = sys.argv[1:]
    sys.exit(run_steps(int(devices), rest[0]) if command == "steps" else run_main(int(devices), rest))

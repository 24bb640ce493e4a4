"""``import a2net_tf`` is quick, and its functions do what the command line does."""

import json
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from tensorflow.python.framework import config as framework

import a2net_tf
from a2net_tf.compat import op_determinism
from a2net_tf.main import main
from tests import tiny


def in_new_python(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=tiny.REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def weights(run):
    with np.load(run / "last.npz") as arrays:
        return dict(arrays)


def assert_bit_equal(run, other):
    a, b = weights(run), weights(other)
    assert a.keys() == b.keys()
    assert [name for name in a if a[name].tobytes() != b[name].tobytes()] == []


def keywords(**changes):
    """The flags of ``tiny.train_flags`` as keyword arguments."""
    pairs = [flag.removeprefix("--").split("=", 1) for flag in (*tiny.data(), *tiny.NETWORK, "--epochs=1")]
    return {**dict(pairs), **changes}


def test_import_loads_next_to_nothing():
    code = (
        "import sys, a2net_tf; a2net_tf.UserError; print({'tensorflow', 'keras', 'numpy', 'absl'} & set(sys.modules))"
    )
    assert in_new_python(code).strip() == "set()"


def test_a_mistake_in_a_setting_needs_no_tensorflow():
    code = (
        "import sys, a2net_tf\n"
        "try: a2net_tf.train(epoch=1)\n"
        "except a2net_tf.UserError as error: print(error)\n"
        "print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    )
    message, loaded = in_new_python(code).splitlines()
    assert message.startswith("unknown setting 'epoch'; did you mean epochs")
    assert loaded == "set()"


def test_names():
    assert set(a2net_tf.__all__) <= set(dir(a2net_tf))
    for name in a2net_tf.__all__:
        assert callable(getattr(a2net_tf, name))
    with pytest.raises(AttributeError, match="module 'a2net_tf' has no attribute 'predikt'"):
        a2net_tf.predikt  # noqa: B018
    assert "| letter | size of |" in a2net_tf.__doc__


@pytest.mark.slow
def test_train_and_evaluate(tmp_path, capsys):
    flagfile = tmp_path / "tiny.flags"
    flagfile.write_text("\n".join([*tiny.data(), *tiny.NETWORK, "--epochs=9"]))
    run = a2net_tf.train(flagfile=flagfile, workdir=tmp_path / "run", epochs=1)
    assert run == tmp_path / "run"
    assert "trained 1 epochs" in capsys.readouterr().out
    metrics = a2net_tf.evaluate(workdir=run, plots=False, tiou_thresholds=(0.3, 0.5))
    assert metrics == json.loads((run / "metrics.json").read_text())
    assert metrics["tiou_thresholds"] == [0.3, 0.5]


def test_other_modes(capsys):
    costs = a2net_tf.command("profile", num_features=4, num_classes=2, **keywords(dataset=""))
    assert costs["parameters"] > 0
    with pytest.raises(a2net_tf.UserError, match="tran"):
        a2net_tf.command("tran")


def test_errors_are_those_of_the_command_line(tmp_path, capsys):
    with pytest.raises(a2net_tf.UserError) as error:
        a2net_tf.evaluate(workdir=tmp_path / "nowhere")
    assert main(["--mode=evaluate", f"--workdir={tmp_path / 'nowhere'}"]) == 1
    assert capsys.readouterr().err == f"error: {error.value}\n"


def test_damaged_data_is_one_line(tmp_path):
    """What TensorFlow says about it becomes a UserError, as on the command line."""
    copy = shutil.copytree(tiny.data_dir() / "toy_actions" / "1.0.0", tmp_path / "prepared")
    file = next(copy.glob("*-train.tfrecord*"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(a2net_tf.UserError, match=f"{file}: .*damaged record file"):
        a2net_tf.train(**keywords(dataset=copy, workdir=tmp_path / "run", train_split="train"))


def test_python_dash_m():
    done = tiny.in_new_process("--mode=tran", module="a2net_tf")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")


# --- several calls in one process


def test_op_determinism_is_as_before_afterwards():
    """It uses what TensorFlow keeps to itself; without it, restart Python between runs with and without XLA."""
    before = framework.is_op_determinism_enabled()
    with op_determinism(True):
        assert framework.is_op_determinism_enabled()
        with op_determinism(False):
            assert not framework.is_op_determinism_enabled()
        assert framework.is_op_determinism_enabled()
    with pytest.raises(KeyError), op_determinism(not before):
        raise KeyError
    assert framework.is_op_determinism_enabled() == before


@pytest.mark.slow
def test_jit_compile_after_a_deterministic_call(tmp_path):
    """Keras leaves XLA out, with a warning, where op determinism is on."""
    with tiny.silence():
        a2net_tf.command("profile", num_features=4, num_classes=2, **keywords(dataset=""))  # deterministic by default
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*jit_compile")
        tiny.train(tmp_path / "run", "--nodeterministic", "--jit_compile", "--num_levels=1")
    assert all(np.isfinite(array).all() for array in weights(tmp_path / "run").values())


@pytest.mark.slow
def test_a_later_training_is_that_of_a_new_process(tmp_path):
    """Whatever was done before: another seed, another precision."""
    tiny.train(tmp_path / "before", "--seed=5", "--precision=bfloat16", "--num_levels=1")
    with tiny.silence():
        a2net_tf.train(**keywords(workdir=tmp_path / "here"))
    done = tiny.in_fork(*tiny.train_flags(tmp_path / "there"))
    assert done.returncode == 0, done.stderr
    assert_bit_equal(tmp_path / "here", tmp_path / "there")

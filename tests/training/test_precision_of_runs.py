"""--precision=auto from the command line: what a run is started in, goes on in, and is evaluated in."""

import dataclasses
import json
import os
import pathlib
import shutil
import sys

import pytest
import tensorflow as tf

from a2net_tf import settings
from a2net_tf.errors import UserError
from a2net_tf.main import main
from a2net_tf.modes import jobs
from a2net_tf.training import run_directory
from tests import forks, tiny

pytestmark = pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="limits the processor")

# Below AVX-512 TensorFlow would end with an error of oneDNN where the processor has AVX-512 and computes in bfloat16.
NO_BFLOAT16 = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
NO_AVX512 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
SMALLEST = ("--num_levels=1", "--noanchor_based")  # graph: what is found does not matter here


def outputs_of(commands, environment):
    """What each command prints, in one process that oneDNN's limits apply to from the start."""
    script = (
        "import sys\nfrom a2net_tf.main import main\n"
        f"for arguments in {commands!r}:\n    assert main(arguments) == 0\n    print('-- done --', flush=True)"
    )
    done = forks.run([sys.executable, "-c", script], cwd=tiny.REPO, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    *printed, after = done.stdout.split("-- done --\n")
    assert not after
    return printed


def description(run):
    return json.loads((run / "run.json").read_text())


@pytest.fixture(scope="module")
def started_in_bfloat16(slow, tmp_path_factory):
    """A run of one epoch, as --precision=auto leaves it on a machine with bfloat16."""
    run = tiny.train(tmp_path_factory.mktemp("bfloat16") / "run", "--precision=bfloat16", *SMALLEST)
    changed = description(run)
    changed["config"]["precision"] = "auto"
    (run / "run.json").write_text(json.dumps(changed))
    return run


@dataclasses.dataclass
class Commands:
    """The folder that several commands worked in, and what each printed."""

    folder: pathlib.Path
    continued: str
    evaluated: str
    exported: str
    trained: str


@pytest.fixture(scope="module")
def commands(started_in_bfloat16, tmp_path_factory):
    """A run goes on without AVX512-BF16; without AVX-512 it is evaluated and exported, and another is trained."""
    folder = tmp_path_factory.mktemp("commands")
    run = shutil.copytree(started_in_bfloat16, folder / "run")
    [continued] = outputs_of([tiny.train_flags(run, "--precision=auto", "--epochs=2", *SMALLEST)], NO_BFLOAT16)
    assert (description(run)["config"]["precision"], description(run)["precision"]) == ("auto", "bfloat16")
    others = [
        ["--mode=evaluate", f"--workdir={run}", "--noplots"],
        ["--mode=export", f"--workdir={run}", f"--saved_model={folder / 'model'}"],
        tiny.train_flags(folder / "new", "--precision=auto", *SMALLEST),
    ]
    return Commands(folder, continued, *outputs_of(others, NO_AVX512))


def test_a_run_goes_on_in_bfloat16_and_is_evaluated_in_what_the_processor_has(commands):
    printed = commands.continued
    assert "computing in bfloat16 (--precision=auto)" in printed.splitlines()
    assert "warning: bfloat16 is emulated on this processor (no AVX512-BF16 or AMX): expect about " in printed
    assert "trained 2 epochs" in printed

    run, printed = commands.folder / "run", commands.evaluated
    assert "computing in float32 (--precision=auto)" in printed.splitlines()
    assert "emulated" not in printed
    assert json.loads((run / "metrics.json").read_text())["settings"]["precision"] == "float32"
    assert (description(run)["config"]["precision"], description(run)["precision"]) == ("auto", "bfloat16")


def test_a_new_run_is_started_in_what_the_processor_has(commands):
    run = commands.folder / "new"
    assert "computing in float32 (--precision=auto)" in commands.trained.splitlines()
    assert (description(run)["config"]["precision"], description(run)["precision"]) == ("auto", "float32")
    assert "--precision=auto" in (run / "flags.txt").read_text().splitlines()


def test_an_exported_model_says_what_it_computes_in(commands):
    assert "computing in float32 (--precision=auto)" in commands.exported.splitlines()
    card = json.loads((commands.folder / "model" / "assets.extra" / "model_card.json").read_text())
    assert card["precision"] == "float32"


@pytest.mark.slow
def test_a_tflite_file_may_be_asked_for_with_auto(tmp_path):
    with tiny.silence():
        flags = [f"--workdir={tiny.trained()}", f"--tflite={tmp_path / 'm.tflite'}", "--precision=auto"]
        assert main(["--mode=export", *flags]) == 0
    assert (tmp_path / "m.tflite").exists()


@pytest.mark.slow
def test_a_run_of_an_older_version_goes_on_in_its_precision(tmp_path):
    run = tiny.copy_of_trained(tmp_path)
    old = description(run)
    del old["precision"]
    (run / "run.json").write_text(json.dumps(old))
    assert run_directory.load(str(run)).computed.precision == "float32"
    more = ("--epochs=3", "--validation_split=validation[:2]", "--precision=auto")
    tiny.train(run, *more)
    assert (description(run)["config"]["precision"], description(run)["precision"]) == ("float32", "float32")


@pytest.mark.slow
def test_a_run_does_not_go_on_in_another_precision(started_in_bfloat16, capsys):
    run = started_in_bfloat16
    line = tiny.refused(capsys, run, *tiny.train_flags(run, "--precision=float32", *SMALLEST), alone=False)
    assert "--precision=float32 (was bfloat16)" in line
    capsys.readouterr()
    assert main(tiny.train_flags(run, "--precision=bfloat16", *SMALLEST)) == 0  # all done, and the same
    assert description(run)["config"]["precision"] == "auto"


@pytest.mark.parametrize(
    ("saved", "recorded", "requested", "expected"),
    [
        ("auto", "bfloat16", "auto", "auto"),
        ("auto", "bfloat16", "bfloat16", "auto"),
        ("auto", "bfloat16", "float32", None),
        ("auto", "float32", "bfloat16", None),
        ("bfloat16", "bfloat16", "auto", "bfloat16"),
        ("float32", "float32", "bfloat16", None),
    ],
)
def test_what_a_run_goes_on_in(make_config, saved, recorded, requested, expected):
    run = run_directory.Run(make_config(precision=saved), ["a"], 5, None, 1, 1.0, 0.0, precision=recorded)
    if expected is None:
        with pytest.raises(UserError, match=rf"--precision={requested} \(was {recorded}\)"):
            run_directory.to_continue(run, make_config(precision=requested))
    else:
        assert run_directory.to_continue(run, make_config(precision=requested)).precision == expected


@pytest.mark.slow
def test_finished_runs_with_auto_are_not_done_again(tmp_path, capsys):
    flags = tiny.train_flags(tmp_path / "run", "--mode=train_and_evaluate", "--noplots", "--precision=auto", *SMALLEST)
    config = settings.parse(flags)[0]
    jobs.run_all([config], 1)
    assert "finished in" in capsys.readouterr().out
    jobs.run_all([config], 1)
    assert "finished earlier, average mAP" in capsys.readouterr().out

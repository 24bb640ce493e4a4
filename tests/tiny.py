"""Whole commands on the toy dataset with a network as small as can be. Slow things are made once per process."""

import atexit
import contextlib
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping

from a2net_tf.main import main

REPO = pathlib.Path(__file__).resolve().parent.parent
NETWORK = (
    *("--window_steps=64", "--num_levels=3", "--base_channels=8", "--level_channels=8,8,8", "--head_channels=8"),
    "--precision=float32",  # auto depends on the machine
)
FEATURES = 16  # of toy_actions
CLASSES = ("tap", "rise", "fall", "slow_wave", "fast_wave", "stall")


@functools.cache
def folder() -> pathlib.Path:
    """For what several tests use; removed when the process ends."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="a2net_tf_tests_"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def data_dir() -> pathlib.Path:
    """Where toy_actions lies prepared."""
    from a2net_tf.data import prepared

    with silence():
        prepared.open_dataset("toy_actions", data_dir=str(folder() / "data"))
    return folder() / "data"


def data(train_split: str = "train[:8]") -> tuple[str, ...]:
    """Flags: which data."""
    return (
        "--dataset=toy_actions",
        f"--data_dir={data_dir()}",
        f"--train_split={train_split}",
        "--eval_split=test[:2]",
    )


def train_flags(workdir: pathlib.Path, *more: str) -> list[str]:
    """Flags of one epoch of training; later flags win."""
    return ["--mode=train", f"--workdir={workdir}", *data(), *NETWORK, "--epochs=1", *more]


def train(workdir: pathlib.Path, *more: str) -> pathlib.Path:
    """Trains in this process."""
    with silence():
        assert main(train_flags(workdir, *more)) == 0
    return workdir


@functools.cache
def trained() -> pathlib.Path:
    """A run of two epochs with validation. Not to be changed: see ``copy_of_trained``."""
    return train(folder() / "trained", "--epochs=2", "--validation_split=validation[:2]")


# What configs/hapt_modern.flags and configs/thumos14_modern.flags add to the faithful network.
MODERN = (
    "--convolution_norm=group",
    "--norm_groups=4",
    "--residual",
    "--drop_path=0.1",
    "--input_dropout=0.1",
    "--class_scores=sigmoid",
    "--anchor_regression=offsets",
    "--anchor_matching=defaults",
    "--force_matches",
    "--schedule=cosine",
    "--random_offsets",
    "--time_scaling=0.2",
    "--inference_overlap=0.75",
    "--classes_per_candidate=2",
    "--voting_tiou=0.5",
)


@functools.cache
def modern() -> pathlib.Path:
    """A run of two epochs with the modern settings. Not to be changed."""
    return train(folder() / "modern", "--epochs=2", *MODERN)


def copy_of_trained(parent: pathlib.Path) -> pathlib.Path:
    """A copy of ``trained`` to damage or to go on with."""
    run = shutil.copytree(trained(), parent / "run")
    for name in ("run.json", "flags.txt"):
        text = (run / name).read_text()
        (run / name).write_text(text.replace(str(trained()), str(run)))
    return run


@contextlib.contextmanager
def silence():
    """Keeps what a command prints out of the test that happens to run it first."""
    with (
        open(os.devnull, "w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        yield


def refused(capsys, where: pathlib.Path, *arguments: str, alone: bool = True) -> str:
    """Runs a command that must fail with one line and leave every file below ``where`` as it was; returns the line.

    The line stands ``alone`` unless something else is expected to write to stderr before it.
    """
    capsys.readouterr()
    before = files_below(where)
    status = main(list(arguments))
    lines = capsys.readouterr().err.strip().splitlines()
    assert status == 1
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], lines
    assert len(lines) == 1 or not alone, lines
    assert files_below(where) == before
    return lines[-1]


def files_below(where: pathlib.Path) -> Mapping[str, bytes | None]:
    """The content of every file, and None for a folder, by path."""
    return {
        str(path.relative_to(where)): path.read_bytes() if path.is_file() else None for path in sorted(where.rglob("*"))
    }


def in_new_process(*arguments: str, module: str = "a2net_tf.main") -> subprocess.CompletedProcess:
    """Runs the command as a user does."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)

"""Whole commands on the toy dataset with a network as small as can be. Slow things are made once per test run."""

import atexit
import contextlib
import fcntl
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping

from a2net_tf.main import main
from tests import forks

REPO = pathlib.Path(__file__).resolve().parent.parent
NETWORK = (
    *("--window_steps=64", "--num_levels=2", "--base_channels=8", "--level_channels=8,8", "--head_channels=8"),
    "--precision=float32",  # auto depends on the machine
)
FEATURES = 16  # of toy_actions
CLASSES = ("tap", "rise", "fall", "slow_wave", "fast_wave", "stall")


def folder() -> pathlib.Path:
    """For what several tests use, in all processes of a test run; removed when the process that made it ends.

    With pytest-xdist that is the one that starts the others (see conftest.py): they inherit its environment.
    """
    if "A2NET_TESTS_FOLDER" not in os.environ:
        os.environ["A2NET_TESTS_FOLDER"] = tempfile.mkdtemp(prefix="a2net_tf_tests_")
        atexit.register(shutil.rmtree, os.environ["A2NET_TESTS_FOLDER"], ignore_errors=True)
    return pathlib.Path(os.environ["A2NET_TESTS_FOLDER"])


def once(make: Callable[..., None]) -> Callable[..., pathlib.Path]:
    """``make(path, *flags)`` fills a path of ``folder``: by the first process that asks, while the others wait for it.

    What it makes is not to be changed.
    """

    @functools.cache
    def made(*flags: str) -> pathlib.Path:
        path = folder() / "".join([make.__name__, *flags])
        with open(f"{path}.made", "a") as marker:
            fcntl.flock(marker, fcntl.LOCK_EX)
            if not os.path.getsize(marker.name):
                make(path, *flags)
                marker.write("yes")
        return path

    return made


@once
def data_dir(path: pathlib.Path) -> None:
    """Where toy_actions lies prepared."""
    from a2net_tf.data import prepared

    with silence():
        prepared.open_dataset("toy_actions", data_dir=str(path))


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


@once
def trained(path: pathlib.Path) -> None:
    """A run of two epochs with validation; ``copy_of_trained`` is there to be changed."""
    train(path, "--epochs=2", "--validation_split=validation[:2]")


# What configs/hapt_modern.flags and configs/thumos14_modern.flags add to the faithful network.
MODERN = (
    "--convolution_norm=group",
    "--norm_groups=4",
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


@once
def modern(path: pathlib.Path) -> None:
    """A run of two epochs with the modern settings."""
    train(path, "--epochs=2", *MODERN)


# What makes two stages of the faithful network.
TWO_STAGES = ("--stages=2", "--proposal_channels=8", "--train_proposals=16", "--proposals=16")


@once
def two_stages(path: pathlib.Path) -> None:
    """A run of two epochs with two stages."""
    train(path, "--epochs=2", *TWO_STAGES)


@once
def _export(path: pathlib.Path, run: str, *flags: str) -> None:
    workdir = {"trained": trained, "modern": modern, "two_stages": two_stages}[run]()
    path.mkdir()
    with silence(), open(f"{path}.printed", "w") as printed, contextlib.redirect_stdout(printed):
        assert main(["--mode=export", f"--workdir={workdir}", f"--saved_model={path / 'model'}", *flags]) == 0


def exported(run: str, *flags: str) -> pathlib.Path:
    """The SavedModel of the run "trained", "modern" or "two_stages" that ``--mode=export`` writes with these flags."""
    return _export(run, *flags) / "model"


def printed_by_export(run: str, *flags: str) -> str:
    """What that command printed."""
    return pathlib.Path(f"{_export(run, *flags)}.printed").read_text()


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


def in_fork(*arguments: str) -> subprocess.CompletedProcess:
    """Runs the command in a process in which TensorFlow has not run yet."""
    return forks.run([sys.executable, "-m", "a2net_tf.main", *arguments], cwd=REPO)


def in_new_process(*arguments: str, module: str = "a2net_tf.main") -> subprocess.CompletedProcess:
    """Runs the command as a user does; ``in_fork`` takes five seconds less."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)

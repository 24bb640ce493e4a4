"""The versions that setup.py allows: both ends of each range work, and the installed ones are inside."""

import ast
import importlib.metadata
import json
import os
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import forks, tiny

LOWEST_PYTHON = os.environ.get("A2NET_PYTHON_LOWEST", "")

needs_lowest = pytest.mark.skipif(
    not LOWEST_PYTHON, reason="A2NET_PYTHON_LOWEST names no Python interpreter with tests/lowest_versions.txt"
)


def requirements():
    """Of setup.py, by name; read, not run."""
    tree = ast.parse((tiny.REPO / "setup.py").read_text())
    (value,) = (
        node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "install_requires"
    )
    return {each.name: each.specifier for each in map(Requirement, ast.literal_eval(value))}


def lowest_versions():
    """Of the file, by name."""
    lines = (tiny.REPO / "tests" / "lowest_versions.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    return {each.name: bound(each.specifier, "==") for each in pinned}


def bound(specifier, operator):
    (version,) = (part.version for part in specifier if part.operator == operator)
    return Version(version)


def test_every_requirement_has_a_floor_and_a_ceiling():
    for name, specifier in requirements().items():
        assert sorted(part.operator for part in specifier) == ["<", ">="], name


def test_lowest_versions_are_those_of_setup():
    assert lowest_versions() == {name: bound(specifier, ">=") for name, specifier in requirements().items()}


def test_installed_versions_are_allowed():
    for name, specifier in requirements().items():
        installed = importlib.metadata.version(name)
        assert specifier.contains(installed, prereleases=True), f"{name} {installed} is outside of {specifier}"


OPTIONAL = (
    *("matplotlib", "plotly", "tensorboard", "pandas", "pyarrow", "pympi", "apache_beam", "mlcroissant", "torch"),
    *("onnx", "onnxruntime", "tf2onnx", "ai_edge_litert", "IPython", "nbformat", "av", "cv2", "jax", "pyspark"),
)
WITHOUT = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL!r}))  # none of them can be imported
from a2net_tf.main import main
*training, folder = sys.argv[1:]
saved = ["--saved_model=" + folder + "/model"]
for mode in (training, ["--mode=evaluate", "--workdir=" + folder], ["--mode=export", "--workdir=" + folder, *saved]):
    assert main(mode) == 0, mode
"""


@pytest.mark.slow
def test_nothing_optional_is_needed_to_train_evaluate_and_export(tmp_path):
    """As after ``pip install .``: what is left out for want of a package is said."""
    run = tmp_path / "run"
    done = forks.run([sys.executable, "-c", WITHOUT, *tiny.train_flags(run), str(run)], cwd=tiny.REPO)
    assert done.returncode == 0, done.stderr[-2000:]
    for lacking in (
        "no logs for TensorBoard",
        "no time lines drawn: matplotlib is missing",
        "no report will be written",
    ):
        assert lacking in done.stdout
    assert (run / "model" / "saved_model.pb").exists()
    assert (run / "metrics.json").exists()


@needs_lowest
def test_lowest_versions_are_installed():
    names = list(lowest_versions())
    code = f"import importlib.metadata as m; print([m.version(name) for name in {names}])"
    done = subprocess.run([LOWEST_PYTHON, "-c", code], capture_output=True, text=True, check=True)
    installed = dict(zip(names, map(Version, ast.literal_eval(done.stdout)), strict=True))
    assert installed == lowest_versions()


@pytest.mark.slow
@needs_lowest
def test_lowest_versions_train_evaluate_export_and_predict(tmp_path):
    run, model, found = tmp_path / "run", tmp_path / "model", tmp_path / "found.json"
    data = ["--dataset=toy_actions", f"--data_dir={tmp_path / 'data'}", "--eval_split=test[:1]"]
    train = ["--train_split=train[:8]", *tiny.NETWORK, *tiny.MODERN, "--epochs=1", "--noplots"]
    commands = [
        ["--mode=train_and_evaluate", f"--workdir={run}", *data, *train],
        ["--mode=export", f"--workdir={run}", f"--saved_model={model}"],
        ["--mode=predict", f"--saved_model={model}", f"--output={found}", *data],
    ]
    script = (
        f"from a2net_tf.main import main\nfor arguments in {commands!r}:\n    assert main(arguments) == 0, arguments"
    )
    done = subprocess.run([LOWEST_PYTHON, "-c", script], cwd=tiny.REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 <= json.loads((run / "metrics.json").read_text())["mAP"][0] <= 1
    assert len(json.loads(found.read_text())["results"]) == 1

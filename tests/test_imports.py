"""Which file may import what. Reads the source; imports nothing."""

import ast
import pathlib
import sys

import pytest

REPO = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted(
    str(path.relative_to(REPO)) for d in ("a2net_tf", "datasets", "export") for path in (REPO / d).rglob("*.py")
)
CALLS_THE_EXPORTER = "exporter"  # the one file of the library that may
PURE = ("segments", "anchors", "augmentation", "draws", "windows", "targets", "losses", "evaluation", "errors")


def imported(source, package):
    """Dotted names of everything that ``source``, a module of ``package``, imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            names |= {".".join(filter(None, (base, node.module, alias.name))) for alias in node.names}
    return names


def is_or_is_in(name, module):
    return f"{name}.".startswith(f"{module}.")


def wrong_imports(file, source):
    """What ``file`` (relative to the repository) imports and may not."""
    path = pathlib.PurePosixPath(file)
    inside = path.parts[0] == "a2net_tf"
    names = imported(source, ".".join(path.parts[:-1] if inside else ("a2net_tf", *path.parts[:-1])))
    forbidden = ["datasets", "export"]  # the one name of these folders is a2net_tf.datasets and a2net_tf.export
    if inside:
        forbidden.append("a2net_tf.datasets")
        forbidden += [] if path.stem == CALLS_THE_EXPORTER else ["a2net_tf.export"]
    else:
        forbidden.append("a2net_tf.export" if path.parts[0] == "datasets" else "a2net_tf.datasets")
    if inside and path.stem == "model":
        forbidden += ["a2net_tf.targets", "a2net_tf.losses", "a2net_tf.trainer"]
    wrong = {name for name in names if any(is_or_is_in(name, f) for f in forbidden)}
    allowed = allowed_roots(path.stem) if inside else None
    if allowed is not None:
        wrong |= {name for name in names if not any(is_or_is_in(name, a) for a in allowed)}
    return sorted(wrong)


def allowed_roots(stem):
    """Everything that a pure file, or the settings, may import; None: no such list."""
    if stem in PURE:
        libraries = {"numpy"} if stem == "evaluation" else {"numpy", "tensorflow"}
        return sys.stdlib_module_names | libraries | {f"a2net_tf.{pure}" for pure in PURE}
    if stem == "config":  # a mistyped flag is answered before TensorFlow is loaded
        return sys.stdlib_module_names | {"absl", "a2net_tf.errors"}
    return None


@pytest.mark.parametrize("file", FILES)
def test_arrows(file):
    assert wrong_imports(file, (REPO / file).read_text()) == []


def test_every_named_file_is_there():
    assert {f"a2net_tf/{stem}.py" for stem in (*PURE, "model", CALLS_THE_EXPORTER, "config", "trainer")} <= set(FILES)
    assert {pathlib.PurePath(file).parts[0] for file in FILES} == {"a2net_tf", "datasets", "export"}


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("a2net_tf/targets.py", "import keras", ["keras"]),
        ("a2net_tf/targets.py", "from a2net_tf.config import Config", ["a2net_tf.config.Config"]),
        ("a2net_tf/losses.py", "from a2net_tf import targets, model", ["a2net_tf.model"]),
        ("a2net_tf/losses.py", "from . import model", ["a2net_tf.model"]),
        ("a2net_tf/losses.py", "from .model import build_model", ["a2net_tf.model.build_model"]),
        ("a2net_tf/evaluation.py", "import numpy as np\nimport tensorflow as tf", ["tensorflow"]),
        ("a2net_tf/model.py", "def f():\n    from a2net_tf import losses", ["a2net_tf.losses"]),
        ("a2net_tf/model.py", "import a2net_tf.trainer as t", ["a2net_tf.trainer"]),
        ("a2net_tf/config.py", "import numpy", ["numpy"]),
        ("a2net_tf/trainer.py", "from a2net_tf.export import saved_model", ["a2net_tf.export.saved_model"]),
        (f"a2net_tf/{CALLS_THE_EXPORTER}.py", "import a2net_tf.datasets.hapt", ["a2net_tf.datasets.hapt"]),
        ("datasets/x/y.py", "from datasets.hapt import z", ["datasets.hapt.z"]),
        ("datasets/x/y.py", "from a2net_tf.export import saved_model", ["a2net_tf.export.saved_model"]),
        ("export/x.py", "from ..datasets import hapt", ["a2net_tf.datasets.hapt"]),
        # and what is right
        ("a2net_tf/losses.py", "import dataclasses\nimport tensorflow as tf\nfrom a2net_tf import targets", []),
        (f"a2net_tf/{CALLS_THE_EXPORTER}.py", "from a2net_tf.export import saved_model", []),
        ("a2net_tf/trainer.py", "from a2net_tf import targets, model", []),
        ("datasets/x/y.py", "import tensorflow_datasets\nfrom a2net_tf import records", []),
    ],
)
def test_the_checker_itself(file, source, expected):
    assert wrong_imports(file, source) == expected

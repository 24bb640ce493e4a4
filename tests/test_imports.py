"""Which file may import what. Reads the source; imports nothing."""

import ast
import pathlib
import sys

import pytest

REPO = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted(
    str(path.relative_to(REPO))
    for d in ("a2net_tf", "datasets", "export")
    for path in (REPO / d).rglob("*.py")
    if not path.name.endswith("_test.py")
)
# The rooms of the house, each above those that it may use. A room may also use itself, without a circle of its files.
ROOMS = (
    "errors",
    "disk",
    "locks",
    "processor",
    "safe_files",
    "native_logs",
    "compat",
    "settings",
    "detection",
    "data",
    "annotations",
    "video",
    "rc3d",
    "datasets",
    "evaluation",
    "report",
    "training",
    "inference",
    "export",
    "modes",
    "api",
    "main",
    "__main__",
)
# datasets/ is found by name when it is asked for (TFDS registers builders once), and only the mode writes exports.
NOT_USED_BY = {"datasets": set(ROOMS) - {"datasets"}, "export": set(ROOMS) - {"export", "modes"}}
PURE = {
    **{
        f"a2net_tf/detection/{name}.py": {"numpy", "tensorflow"}
        for name in ("geometry", "pyramid", "draws", "windows", "targets", "losses")
    },
    "a2net_tf/detection/objective.py": {"tensorflow", "a2net_tf.settings"},
    "a2net_tf/rc3d/pooling.py": {"numpy", "tensorflow"},
    "a2net_tf/rc3d/objective.py": {"numpy", "tensorflow", "a2net_tf.settings"},
    "a2net_tf/data/augment.py": {"numpy", "tensorflow"},
    # A folder that is copied to where it runs.
    **{f"a2net_tf/inference/live/{name}.py": {"numpy"} for name in ("__main__", "candidates", "steps", "stream")},
    "a2net_tf/inference/live/saved_model.py": {"tensorflow"},
    "a2net_tf/video/tvl1.py": {"numpy", "tensorflow"},
    "a2net_tf/data/statistics.py": {"numpy"},
    **{
        f"a2net_tf/evaluation/{name}.py": {"numpy"}
        for name in ("instances", "protocols", "proposals", "error_analysis")
    },
    "a2net_tf/__init__.py": {"a2net_tf.api"},  # for type checkers; tests/test_api.py looks at what is loaded
    "a2net_tf/errors.py": set(),
    **{f"a2net_tf/{name}.py": set() for name in ("disk", "locks", "processor", "safe_files")},
    "a2net_tf/native_logs.py": set(),
    # A mistyped flag is answered before TensorFlow is loaded.
    **{
        f"a2net_tf/settings/{name}.py": {"absl"}
        for name in (
            "__init__",
            "setting",
            "data_fields",
            "training_fields",
            "use_fields",
            "video_fields",
            "config",
            "checks",
            "conversion",
            "keywords",
            "trained",
            "command_line",
            "help_text",
        )
    },
}


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


def room_of(name):
    """The room of a dotted name of this project, or None (``a2net_tf.__version__`` is nobody's room)."""
    parts = name.split(".")
    return parts[1] if parts[0] == "a2net_tf" and len(parts) > 1 and parts[1] in ROOMS else None


def wrong_imports(file, source):
    """What ``file`` (relative to the repository) imports and may not."""
    path = pathlib.PurePosixPath(file)
    inside = path.parts[0] == "a2net_tf"
    names = imported(source, ".".join(path.parts[:-1] if inside else ("a2net_tf", *path.parts[:-1])))
    # The one name of these folders is a2net_tf.datasets and a2net_tf.export.
    wrong = {name for name in names if any(is_or_is_in(name, folder) for folder in ("datasets", "export"))}
    room = room_of(".".join(("a2net_tf", *path.with_suffix("").parts[inside:])))
    if room is not None:
        wrong |= {name for name in names if (other := room_of(name)) and not may_use(room, other)}
    if file == "a2net_tf/detection/model.py":  # a model knows no targets
        wrong |= {
            n for n in names for m in ("targets", "losses", "objective") if is_or_is_in(n, f"a2net_tf.detection.{m}")
        }
    if file in PURE:
        pure = {p.removesuffix(".py").replace("/", ".") for p in PURE} | {"a2net_tf.errors"}
        allowed = sys.stdlib_module_names | PURE[file] | pure
        wrong |= {name for name in names if not any(is_or_is_in(name, a) for a in allowed)}
    return sorted(wrong)


def may_use(room, other):
    return ROOMS.index(other) <= ROOMS.index(room) and room not in NOT_USED_BY.get(other, ())


def circles(sources):
    """Files that import each other, directly or around: a list of such circles. Imports inside functions count too.

    Args:
        sources: {file relative to the repository: its text}.
    """
    modules = {module_name(file): file for file in sources}
    arrows = {}
    for module, file in modules.items():
        package = module if file.endswith("__init__.py") else module.rpartition(".")[0]
        names = imported(sources[file], package)
        targets = {n if n in modules else n.rpartition(".")[0] for n in names}
        arrows[module] = {t for t in targets if t in modules and t != module and not modules[t].endswith("__init__.py")}
    reached = {module: set(targets) for module, targets in arrows.items()}
    for middle in modules:
        for module in modules:
            if middle in reached[module]:
                reached[module] |= reached[middle]
    return sorted({tuple(sorted(m for m in reached[a] if a in reached[m])) for a in modules if a in reached[a]})


def module_name(file):
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return name if name.startswith("a2net_tf") else f"a2net_tf.{name}"


@pytest.mark.parametrize("file", FILES)
def test_arrows(file):
    assert wrong_imports(file, (REPO / file).read_text()) == []


def test_no_circle():
    assert circles({file: (REPO / file).read_text() for file in FILES}) == []


def test_every_named_file_is_there():
    assert set(PURE) <= set(FILES)
    rooms = {pathlib.PurePath(file).with_suffix("").parts[file.startswith("a2net_tf/")] for file in FILES}
    assert rooms - {"__init__"} == set(ROOMS)


def test_rooms_are_small_and_say_their_purpose():
    folders = [path for path in (REPO / "a2net_tf").iterdir() if path.is_dir() and path.name != "__pycache__"]
    for folder in folders:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert len(list(folder.glob("*.py"))) <= 16, folder
    longest = max(FILES, key=lambda file: len((REPO / file).read_text().splitlines()) * file.startswith("a2net_tf/"))
    assert len((REPO / longest).read_text().splitlines()) <= 450, longest


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("a2net_tf/detection/targets.py", "import keras", ["keras"]),
        ("a2net_tf/detection/targets.py", "from a2net_tf.settings import Config", ["a2net_tf.settings.Config"]),
        ("a2net_tf/detection/losses.py", "from a2net_tf.detection import targets, model", ["a2net_tf.detection.model"]),
        ("a2net_tf/detection/losses.py", "from . import model", ["a2net_tf.detection.model"]),
        ("a2net_tf/detection/losses.py", "from .model import f", ["a2net_tf.detection.model.f"]),
        ("a2net_tf/evaluation/protocols.py", "import numpy as np\nimport tensorflow as tf", ["tensorflow"]),
        ("a2net_tf/detection/model.py", "def f():\n    from . import losses", ["a2net_tf.detection.losses"]),
        ("a2net_tf/detection/model.py", "import a2net_tf.training.trainer as t", ["a2net_tf.training.trainer"]),
        ("a2net_tf/settings/config.py", "import numpy", ["numpy"]),
        ("a2net_tf/training/trainer.py", "from a2net_tf.export import saved_model", ["a2net_tf.export.saved_model"]),
        ("a2net_tf/training/trainer.py", "from a2net_tf.modes import train", ["a2net_tf.modes.train"]),
        ("a2net_tf/modes/export.py", "import a2net_tf.datasets.hapt", ["a2net_tf.datasets.hapt"]),
        ("datasets/x/y.py", "from datasets.hapt import z", ["datasets.hapt.z"]),
        ("datasets/x/y.py", "from a2net_tf.export import saved_model", ["a2net_tf.export.saved_model"]),
        ("export/x.py", "from ..datasets import hapt", ["a2net_tf.datasets.hapt"]),
        ("export/x.py", "from a2net_tf.main import main", ["a2net_tf.main.main"]),
        # and what is right
        ("a2net_tf/detection/losses.py", "import tensorflow as tf\nfrom a2net_tf.detection import targets", []),
        ("a2net_tf/modes/export.py", "from a2net_tf.export import saved_model", []),
        ("a2net_tf/training/trainer.py", "from a2net_tf.detection import targets, model", []),
        ("datasets/x/y.py", "import tensorflow_datasets\nfrom a2net_tf.data import schema", []),
    ],
)
def test_the_checker_itself(file, source, expected):
    assert wrong_imports(file, source) == expected


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"a2net_tf/a.py": "import a2net_tf.b", "a2net_tf/b.py": "x = 1"}, []),
        (
            {
                "a2net_tf/a.py": "from a2net_tf import b",
                "export/c.py": "from a2net_tf.a import x",
                "a2net_tf/b.py": "def f():\n    from a2net_tf.export import c",
            },
            [("a2net_tf.a", "a2net_tf.b", "a2net_tf.export.c")],
        ),
    ],
)
def test_the_finder_of_circles_itself(sources, expected):
    assert circles(sources) == expected


def test_no_graph_but_of_networks_of_others_is_made_by_autograph():
    """It would find nothing to rewrite in this code, and looking costs each process several seconds."""
    asked = set()
    for file in FILES:
        nodes = list(ast.walk(ast.parse((REPO / file).read_text())))
        named = sum(isinstance(node, ast.Attribute) and ast.unparse(node) == "tf.function" for node in nodes)
        if named > sum(map(makes_a_graph_without_autograph, nodes)):
            asked.add(file)
    assert asked == {"a2net_tf/video/extractors/extractor.py"}


def makes_a_graph_without_autograph(node):
    """Whether it is ``tf.function(..., autograph=False)`` or ``functools.partial(tf.function, autograph=False)``."""
    return (
        isinstance(node, ast.Call)
        and "tf.function" in map(ast.unparse, (node.func, *node.args[:1]))
        and "autograph=False" in map(ast.unparse, node.keywords)
    )

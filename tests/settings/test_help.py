"""The help, and whether what it says about modes is true. Reads the source of the modes; imports none of them."""

import ast
import functools
import pathlib
import re

import pytest

from a2net_tf import settings
from a2net_tf.errors import UserError
from a2net_tf.settings import help_text
from a2net_tf.settings.config import FIELDS
from a2net_tf.settings.setting import MODES
from tests import test_imports

REPO = pathlib.Path(__file__).resolve().parent.parent.parent
INTRODUCTION = "\nIntroduction.\n"
# What a mode's file reads only to write it down, or for several --workdir, which train_and_evaluate does not take.
NOT_USED = {("evaluate", "seed"), ("train_and_evaluate", "output")}


def flags_in(text):
    """Names of the settings that a help lists, in its order."""
    return re.findall(r"^  --(?:\[no\])?(\w+)", text, re.MULTILINE)


def unwrapped(text):
    return " ".join(text.split())


# --- what the help says


def test_full_help_lists_every_setting_once():
    text = help_text.full_help()
    assert sorted(flags_in(text)) == sorted(FIELDS)
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert len(headings) == len(set(headings)) == len({f.metadata["section"] for f in FIELDS.values()})
    for field in FIELDS.values():
        assert unwrapped(field.metadata["help"]) in unwrapped(text)


def test_help_shows_choices_and_defaults():
    text = help_text.full_help()
    assert "  --overlap_loss=smooth_l1|mse [smooth_l1]\n" in text
    assert "  --[no]normalize [True]\n" in text
    assert "  --decay_epochs [30]\n" in text
    assert "  --workdir\n" in text


def test_short_help_is_short_and_names_every_mode():
    text = help_text.short_help(INTRODUCTION)
    assert text.startswith("Introduction.\n")
    assert len(text.splitlines()) <= 25
    for mode, says in MODES.items():
        assert f"{mode} {unwrapped(says)}" in unwrapped(text)
    assert "--helpfull" in text
    assert "--help --mode=MODE" in text


@pytest.mark.parametrize("mode", MODES)
def test_help_of_a_mode_lists_exactly_its_settings_and_the_common_ones_first(mode):
    text = help_text.mode_help(mode)
    own = [name for name, field in FIELDS.items() if mode in field.metadata["modes"]]
    assert sorted(flags_in(text)) == sorted(own)
    first, _, second = text.partition("LESS COMMON SETTINGS")
    assert set(flags_in(first)) == {name for name in own if FIELDS[name].metadata["common"]}
    assert set(flags_in(second)) == {name for name in own if not FIELDS[name].metadata["common"]}
    assert flags_in(first)[0] == "mode"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], help_text.short_help(INTRODUCTION)),
        (["--help"], help_text.short_help(INTRODUCTION)),
        (["-h", "--mode=score"], help_text.mode_help("score")),
        (["--mode=score", "--help"], help_text.mode_help("score")),
        (["--mode", "score", "-help", "--epochs=3"], help_text.mode_help("score")),
        (["--mode=train", "--mode=score", "--help"], help_text.mode_help("score")),
        (["--helpfull", "--mode=score"], help_text.full_help()),
        (["--mode=score"], None),
    ],
)
def test_which_help_is_asked_for(arguments, expected):
    assert settings.help_asked_for(INTRODUCTION, arguments) == expected


@pytest.mark.parametrize("arguments", [["--help", "--mode=trian"], ["--help", "--mode"], ["--help", "--mode="]])
def test_help_of_no_mode(arguments):
    with pytest.raises(UserError, match="no such mode; have train, evaluate"):
        settings.help_asked_for(INTRODUCTION, arguments)


@pytest.mark.parametrize("name", FIELDS)
def test_texts_are_sentences(name):
    text = FIELDS[name].metadata["help"]
    assert re.match(r"[A-Z]", text)
    assert text.endswith(".")
    assert len(text.split()) >= 5


def test_what_gave_nothing_says_so():
    without_gain = {name for name, field in FIELDS.items() if "seen on HAPT" in field.metadata["help"]}
    assert without_gain == {"distance_activation"}


# --- whether each mode uses what it is said to use


@functools.cache
def sources():
    """{module: its text} of everything but the settings, whose checks read them all, and the folders' own names."""
    texts = {test_imports.module_name(file): (REPO / file).read_text() for file in test_imports.FILES}
    return {name: text for name, text in texts.items() if not name.startswith("a2net_tf.settings")}


@functools.cache
def reachable(module):
    """Modules that ``module`` imports, directly or through others, and itself."""
    reached, waiting = {"a2net_tf"}, [module]  # the package's own file names the Python face for type checkers only
    while waiting:
        current = waiting.pop()
        reached.add(current)
        names = test_imports.imported(sources()[current], current.rpartition(".")[0])
        found = {name if name in sources() else name.rpartition(".")[0] for name in names}
        waiting += sorted((found & sources().keys()) - reached)
    return reached


def ends_in(node, names):
    """Whether an expression is called one of ``names``: ``config`` and ``run.config`` both are."""
    return getattr(node, "id", getattr(node, "attr", None)) in names


def settings_read(text):
    """Names of attributes that a module reads of settings, or lists where it uses ``getattr`` or ``require``."""
    tree = ast.parse(text)
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ends_in(node.value, ("config", "computed", "requested"))
    }
    by_name = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ends_in(n.func, ("getattr", "require"))]
    if by_name:
        lists = [n for n in ast.walk(tree) if isinstance(n, (ast.Tuple, ast.List, ast.Dict, ast.For))]
        for node in [*by_name, *lists]:
            parts = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.Constant)]
            read |= {part.value for part in parts if isinstance(part.value, str)}
    return (read | of_properties(read)) & FIELDS.keys()


@functools.cache
def properties():
    """{property of Config: the attributes that it reads of itself}."""
    tree = ast.parse((REPO / "a2net_tf/settings/config.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {f.name: {n.attr for n in ast.walk(f) if isinstance(n, ast.Attribute)} for f in functions}


def of_properties(names):
    """What the properties among ``names`` read, also through each other."""
    direct = {read for name in names & properties().keys() for read in properties()[name]}
    return direct | (of_properties(direct) if direct - names else set())


def files_of(mode):
    modules = ("train", "evaluate") if mode == "train_and_evaluate" else (mode,)
    return [f"a2net_tf.modes.{module}" for module in modules]


@functools.cache
def read_by(mode):
    """Settings that are read in what a mode's file imports, or before the mode is called (modes/command.py)."""
    modules = {module for file in files_of(mode) for module in reachable(file)}
    read = {name for module in modules for name in settings_read(sources()[module])}
    return read | settings_read(sources()["a2net_tf.modes.command"])


@pytest.mark.parametrize("name", FIELDS)
def test_every_mode_reads_the_settings_that_it_is_said_to_use(name):
    modes = FIELDS[name].metadata["modes"]
    assert modes
    assert [mode for mode in modes if name not in read_by(mode)] == []


@pytest.mark.parametrize("mode", MODES)
def test_what_a_mode_reads_itself_is_in_its_help(mode):
    read = {name for file in files_of(mode) for name in settings_read_of_config(sources()[file])}
    said = {name for name, field in FIELDS.items() if mode in field.metadata["modes"]}
    assert {name for name in read - said if (mode, name) not in NOT_USED} == set()


def settings_read_of_config(text):
    """Attributes of ``config`` alone: lists of names also say what is refused."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if ends_in(node.value, ("config",))} & FIELDS.keys()


def test_the_reader_itself():
    text = "def f(config, run):\n    return config.epochs, run.config.suppression, other.seed, 'fusion'"
    expected = {"epochs", "nms_tiou", "max_detections", "min_score", "soft_nms_sigma", "voting_tiou"}
    assert settings_read(text) == expected
    assert settings_read("[getattr(config, n) for n in ('seed', 'onnx')]\nx['fusion']") == {"seed", "onnx"}
    assert settings_read("steps = config.inference_batch") == {"window_batch", "window_steps", "inference_window_steps"}
    assert "learning_rate" not in read_by("predict")
    assert "a2net_tf.training.optimizers" in reachable("a2net_tf.modes.train")
    assert "a2net_tf.training.optimizers" not in reachable("a2net_tf.modes.predict")

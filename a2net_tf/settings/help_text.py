"""The help: of the command, of a mode, or of every setting."""

import dataclasses
import functools
import itertools
import textwrap
from collections.abc import Sequence

from a2net_tf.errors import UserError
from a2net_tf.settings.config import FIELDS
from a2net_tf.settings.setting import MODES

_SHORT = ("--help", "-help", "-h")
_FULL = ("--helpfull", "-helpfull")
_wrap = functools.partial(textwrap.fill, width=100, break_long_words=False, break_on_hyphens=False)


def help_asked_for(introduction: str, arguments: Sequence[str]) -> str | None:
    """The help that a command line asks for; None if it asks for none. A command line without arguments asks for it.

    Args:
        introduction: what the command is, and how to call it.
        arguments: without the program's name.

    Raises:
        UserError: help is asked for of a mode that there is not.
    """
    if set(_FULL) & set(arguments):
        return full_help()
    if arguments and not set(_SHORT) & set(arguments):
        return None
    mode = _mode_in(arguments)
    if mode is None:
        return short_help(introduction)
    if mode not in MODES:
        raise UserError(f"--mode={mode}: no such mode; have {', '.join(MODES)}")
    return mode_help(mode)


def _mode_in(arguments: Sequence[str]) -> str | None:
    """The last --mode, which absl takes too; flagfiles are not looked into."""
    mode = None
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "mode":
            mode = value if equals else following
    return mode


def short_help(introduction: str) -> str:
    """The introduction with the modes, and how to see more."""
    width = max(map(len, MODES)) + 4
    modes = [
        _wrap(text, initial_indent=f"  {mode:<{width - 2}}", subsequent_indent=" " * width)
        for mode, text in MODES.items()
    ]
    more = ["  --help --mode=MODE  the settings that a mode uses", "  --helpfull          all settings"]
    return "\n".join([introduction.strip(), "", "modes:", *modes, "", "more help:", *more]) + "\n"


def mode_help(mode: str) -> str:
    """What a mode does and the settings that it uses, the common ones first."""
    used = [field for field in FIELDS.values() if mode in field.metadata["modes"]]
    parts = [_wrap(f"--mode={mode}: {MODES[mode]}")]
    for heading, common in (("COMMON SETTINGS", True), ("LESS COMMON SETTINGS", False)):
        fields = [field for field in used if field.metadata["common"] == common]
        parts += [f"\n{heading}", *_by_section(fields)] if fields else []
    return "\n".join(parts) + "\n"


def full_help() -> str:
    """Every setting, by section."""
    return "\n".join(["all settings, of all modes", *_by_section(FIELDS.values())]) + "\n"


def _by_section(fields: Sequence[dataclasses.Field]) -> list[str]:
    """The paragraphs of the settings, under the names of their sections."""
    sections: dict[str, list[str]] = {}
    for field in fields:
        sections.setdefault(field.metadata["section"], []).append(_paragraph(field))
    return ["\n".join([f"\n{section}:", *paragraphs]) for section, paragraphs in sections.items()]


def _paragraph(field: dataclasses.Field) -> str:
    """A setting: its flag with choices, its default, its text."""
    default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    choices = "|".join(map(str, field.metadata["choices"])).lower()
    flag = f"--[no]{field.name}" if isinstance(field.default, bool) else f"--{field.name}={choices}"
    shown = f" [{default}]" if default != "" else ""
    indent = " " * 6
    text = _wrap(field.metadata["help"], initial_indent=indent, subsequent_indent=indent)
    return f"  {flag.rstrip('=')}{shown}\n{text}"

"""Settings as Python's keyword arguments. They become arguments of the command line, and so pass the same checks."""

import difflib
import numbers
import os
from collections.abc import Mapping
from typing import Any

from a2net_tf.errors import UserError
from a2net_tf.settings.command_line import parse
from a2net_tf.settings.config import FIELDS, Config


def parse_keywords(values: Mapping[str, Any], *, flagfile: str | os.PathLike | None = None) -> tuple[Config, frozenset]:
    """Reads ``flagfile``, then ``values``, which win.

    Args:
        values: {setting: text, path, number, bool, or a tuple or list of them}.
        flagfile: as ``--flagfile``.

    Returns:
        As ``parse``: the settings, and the names of those that were given explicitly, in the flagfile or here.

    Raises:
        UserError: an unknown name, None, or what ``parse`` refuses.
    """
    _refuse_unknown(values)
    arguments = [] if flagfile is None else [f"--flagfile={_text('flagfile', flagfile)}"]
    return parse([*arguments, *(f"--{name}={_text(name, value)}" for name, value in values.items())])


def _refuse_unknown(values: Mapping[str, Any]) -> None:
    for name in values:
        if name not in FIELDS:
            similar = difflib.get_close_matches(name, [*FIELDS, "flagfile"])
            hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
            raise UserError(f"unknown setting '{name}'{hint} (python -m a2net_tf.main --helpfull lists all)")


def _text(name: str, value: Any) -> str:
    """``value`` as it is written on the command line."""
    if value is None:
        raise UserError(f"{name}=None: expected a value; leave {name} out to keep its default")
    if isinstance(value, tuple | list):
        return ",".join(_text(name, item) for item in value)
    if not isinstance(value, str | os.PathLike | numbers.Real):
        raise UserError(
            f"{name}: expected a text, a path, a number, True, False or a tuple of them, found a {type(value).__name__}"
        )
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)

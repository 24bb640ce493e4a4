"""Settings from and to dictionaries and flagfiles."""

import dataclasses
import typing
from typing import Any

from a2net_tf.errors import UserError
from a2net_tf.settings.checks import check
from a2net_tf.settings.config import FIELDS, Config
from a2net_tf.settings.setting import SWITCH


def from_dict(values: dict[str, Any]) -> Config:
    """Builds and checks a Config; lists become tuples of the field's number type."""
    unknown = sorted(set(values) - set(FIELDS))
    if unknown:
        raise UserError(f"unknown setting {', '.join(unknown)}")
    converted = {name: _convert(name, value) for name, value in values.items()}
    config = Config(**converted)
    check(config)
    return config


def _convert(name: str, value: Any) -> Any:
    default = FIELDS[name].default
    if FIELDS[name].metadata["choices"] == SWITCH:
        if value != "auto" and not isinstance(value, bool):
            raise UserError(f"--{name}={value!r}: expected auto, true or false")
        return value
    if not isinstance(default, tuple):
        expected = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, expected) or isinstance(value, bool) != isinstance(default, bool):
            raise UserError(f"--{name}={value!r}: expected {type(default).__name__}")
        choices = FIELDS[name].metadata["choices"]
        if choices and value not in choices:
            raise UserError(f"--{name}={value!r}: expected one of {', '.join(map(repr, choices))}")
        return value
    number = typing.get_args(FIELDS[name].type)[0]
    if not isinstance(value, list | tuple):
        raise UserError(f"--{name}={value!r}: expected a list")
    try:
        return tuple(number(v) for v in value)
    except (ValueError, TypeError):
        raise UserError(f"--{name}={','.join(map(str, value))}: expected {number.__name__}s between commas") from None


def to_dict(config: Config) -> dict[str, Any]:
    """JSON-ready settings."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(config).items()}


def to_flagfile(config: Config) -> str:
    """The resolved settings as the text of a flagfile."""
    lines = []
    for name, value in to_dict(config).items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        lines.append(f"--{name}={text.lower() if isinstance(value, bool) else text}")
    return "\n".join(lines) + "\n"

"""The command line: one absl flag per setting."""

import os
from collections.abc import Iterable, Iterator, Sequence

from absl import flags

from a2net_tf.errors import UserError
from a2net_tf.safe_files import read_text
from a2net_tf.settings.config import FIELDS, Config
from a2net_tf.settings.conversion import from_dict
from a2net_tf.settings.setting import SWITCH


def parse(arguments: Sequence[str]) -> tuple[Config, frozenset[str]]:
    """Reads command-line arguments (without the program's name), flagfiles included.

    Returns:
        The settings, and the names of those that were given explicitly.

    Raises:
        UserError: unknown flag, value of a wrong type, or contradictory settings.
    """
    values = _flag_values()
    try:
        rest = values(["a2net_tf", *_with_flagfiles(arguments)])[1:]
    except flags.Error as error:
        raise UserError(f"{' '.join(str(error).split())} (--helpfull lists all settings)") from None
    if rest:
        raise UserError(f"unexpected argument '{rest[0]}': settings are written --name=value")
    given = frozenset(name for name in FIELDS if values[name].present)
    config = from_dict({name: values[name].value for name in FIELDS})
    return config, given


def _with_flagfiles(arguments: Iterable[str], outer: tuple[str, ...] = ()) -> Iterator[str]:
    """``arguments`` with the lines of each --flagfile=FILE in its place; they may name other flagfiles.

    As absl does it, but through ``safe_files``: # and // begin a comment line.
    """
    arguments = iter(arguments)
    for argument in arguments:
        flag, has_value, path = argument.partition("=")
        if flag not in ("--flagfile", "-flagfile"):
            yield argument
            continue
        path = os.path.expanduser(path.strip() if has_value else next(arguments, ""))
        if not path or path in outer:
            raise UserError(
                f"--flagfile={path}: {'this file names itself' if path else 'the name of a file is missing'}"
            )
        lines = [line.strip() for line in read_text(path).split("\n")]
        yield from _with_flagfiles((n for n in lines if n and not n.startswith(("#", "//"))), (*outer, path))


class _SwitchParser(flags.BooleanParser):
    """Of a flag that is true, false or auto."""

    def parse(self, argument: str | bool) -> str | bool:
        """What the flag becomes; raises ValueError for anything else."""
        return argument if argument == "auto" else super().parse(argument)


def _flag_values() -> flags.FlagValues:
    """A fresh set of flags, one per field (fresh, so that tests and notebooks can parse more than once)."""
    values = flags.FlagValues()
    for name, field in FIELDS.items():
        default, text, choices = field.default, field.metadata["help"], field.metadata["choices"]
        if choices == SWITCH:
            flags.DEFINE_flag(flags.Flag(_SwitchParser(), None, name, default, text, boolean=True), values)
        elif choices:
            flags.DEFINE_enum(name, default, choices, text, flag_values=values)
        elif isinstance(default, bool):
            flags.DEFINE_boolean(name, default, text, flag_values=values)
        elif isinstance(default, int):
            flags.DEFINE_integer(name, default, text, flag_values=values)
        elif isinstance(default, float):
            flags.DEFINE_float(name, default, text, flag_values=values)
        elif isinstance(default, tuple):
            flags.DEFINE_list(name, [str(v) for v in default], text, flag_values=values)
        else:
            flags.DEFINE_string(name, default, text, flag_values=values)
    return values

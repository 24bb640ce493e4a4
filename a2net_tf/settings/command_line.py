"""The command line: one absl flag per setting."""

from collections.abc import Sequence

from absl import flags

from a2net_tf.errors import UserError
from a2net_tf.settings.config import FIELDS, Config
from a2net_tf.settings.conversion import from_dict


def parse(arguments: Sequence[str]) -> tuple[Config, frozenset[str]]:
    """Reads command-line arguments (without the program's name), flagfiles included.

    Returns:
        The settings, and the names of those that were given explicitly.

    Raises:
        UserError: unknown flag, value of a wrong type, or contradictory settings.
    """
    values = _flag_values()
    try:
        rest = values(["a2net_tf", *arguments])[1:]
    except flags.Error as error:
        raise UserError(f"{' '.join(str(error).split())} (--helpfull lists all settings)") from None
    except OSError as error:
        raise UserError(f"cannot read the flagfile: {error}") from None
    if rest:
        raise UserError(f"unexpected argument '{rest[0]}': settings are written --name=value")
    given = frozenset(name for name in FIELDS if values[name].present)
    config = from_dict({name: values[name].value for name in FIELDS})
    return config, given


def _flag_values() -> flags.FlagValues:
    """A fresh set of flags, one per field (fresh, so that tests and notebooks can parse more than once)."""
    values = flags.FlagValues()
    for name, field in FIELDS.items():
        default, text, choices = field.default, field.metadata["help"], field.metadata["choices"]
        if choices:
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

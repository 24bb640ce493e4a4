"""The one exception for mistakes of the user, and how its messages list names. Pure.

``main`` shows it as one line, without a traceback, and exits with status 1.
"""

from collections.abc import Iterable

MAX_LISTED = 10  # names in one line of text


class UserError(ValueError):
    """Something the user can mend: the message names the file or setting, what was expected and what was found."""


def list_some(names: Iterable[object], most: int = MAX_LISTED) -> str:
    """The first ``most`` of ``names``, and how many more there are; for messages."""
    names = [str(name) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

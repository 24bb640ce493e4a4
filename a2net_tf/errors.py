"""The one exception for mistakes of the user, and how its messages list names. Pure.

``main`` shows it as one line, without a traceback, and exits with status 1.
"""

from collections.abc import Iterable

_LONGEST_MESSAGE = 2000  # letters
MAX_LISTED = 10  # names in one line of text


class UserError(ValueError):
    """Something the user can mend: the message names the file or setting, what was expected and what was found."""


def list_some(names: Iterable[object], most: int = MAX_LISTED) -> str:
    """The first ``most`` of ``names``, and how many more there are; for messages."""
    names = [str(name) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def reason_of(error: BaseException, most: int = 200) -> str:
    """What a library said, as one line of at most ``most`` letters; the kind of error where it said nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def one_line(error: object) -> str:
    """What a terminal shows of a message: one line, shortened, what cannot be printed written as an escape.

    Names in it come from users' files: they may hold line breaks, codes that move the cursor, or be very long.
    """
    text = "".join(letter if letter.isprintable() else _escaped(letter) for letter in str(error))
    if len(text) > _LONGEST_MESSAGE:
        half = _LONGEST_MESSAGE // 2
        text = f"{text[:half]} [... {len(text) - 2 * half} letters ...] {text[-half:]}"
    return text


def _escaped(letter: str) -> str:
    return " " if letter.isspace() else letter.encode("unicode_escape").decode()

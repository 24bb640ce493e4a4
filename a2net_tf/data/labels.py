"""The one rule for the names of classes, wherever they come from. Pure."""

import unicodedata
from collections.abc import Mapping, Sequence

from a2net_tf.errors import UserError

_CONTROL = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of control characters, half characters and line breaks


def check_label(value: object, where: str) -> str:
    """The label that an annotation or a detection gives: a text, or a whole number, which is taken as a text.

    TFDS keeps class names as the lines of a file and strips them. A label that is no such line would shift the names of
    all classes after it, and two that differ in blanks at their ends would become one.

    Args:
        value: of the file.
        where: file and video, for the message.

    Raises:
        UserError: another type, blank, with blanks at an end, or with a line break or control character.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise UserError(f"{where}: label: expected a text or a whole number, found {_describe(value)}")
    if not value.strip():
        raise UserError(f"{where}: label: expected a name, found {value!r}, which is blank")
    if value != value.strip():
        raise UserError(f"{where}: label: {value!r} has blanks at an end; is it meant to be {value.strip()!r}?")
    if any(unicodedata.category(letter) in _CONTROL for letter in value):
        raise UserError(f"{where}: label: {value!r} holds a line break or control character")
    return value


def check_also_reported(also: Mapping[object, object], class_names: Sequence[str], where: str) -> None:
    """Raises UserError unless ``also`` is {class: a class that each of its actions also has}."""
    for pair in also.items():
        for name in pair:
            if name not in class_names:
                raise UserError(f"{where}: {str(name)[:80]!r} is none of the classes")


def check_class_names(names: Sequence[str], where: str) -> list[str]:
    """``names`` if each is a label and none occurs twice; raises UserError otherwise."""
    checked = [check_label(name, where) for name in names]
    seen = set()
    for name in checked:
        if name in seen:
            raise UserError(f"{where}: the class '{name}' is there twice")
        seen.add(name)
    return checked


def _describe(value: object) -> str:
    kinds = {dict: "an object {...}", list: "a list [...]", type(None): "null", bool: "true or false"}
    return kinds.get(type(value), str(value))

"""Praat's TextGrid files, long and short.

Praat reads both alike: free-standing numbers, texts between quotes (in which two quotes stand for one) and flags such
as <exists>; everything else, such as ``xmin =`` and ``item [1]:``, is for people. So does this module.
"""

import re
from collections.abc import Iterator

from a2net_tf.annotations.marks import Mark, Recording
from a2net_tf.annotations.reading import Reading
from a2net_tf.errors import UserError, list_some

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|<(\w+)>|(?<![^\s])([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?=\s|$)|!.*')


def is_textgrid(text: str) -> bool:
    """Whether a text begins as a TextGrid does."""
    return bool(re.match(r'\s*File type = "ooTextFile', text)) and '"TextGrid"' in text[:300]


def read(text: str, reading: Reading, path: str, *, own_name: str) -> list[Recording]:
    """The recording of a TextGrid: its intervals with a text, and its points, of all tiers or of ``reading.tiers``.

    Raises:
        UserError: it is cut off or no TextGrid, or has no such tier.
    """
    tokens = _tokens(text)
    try:
        recording, names = _read(tokens, reading, Recording(own_name, path))
    except (StopIteration, ValueError, OverflowError) as error:
        raise UserError(f"{path}: cannot be read as a TextGrid of Praat ({str(error) or 'it is cut off'})") from None
    if missing := [tier for tier in reading.tiers if tier not in names]:
        raise UserError(f"{path}: no tier {list_some(missing)}; there are {list_some(names)}")
    return [recording]


def _tokens(text: str) -> Iterator[str | float]:
    for match in _TOKEN.finditer(text):
        quoted, flag, number = match.groups()
        if quoted is not None:
            yield quoted.replace('""', '"')
        elif number is not None:
            yield float(number)
        elif flag is not None:
            yield f"<{flag}>"


def _read(tokens: Iterator[str | float], reading: Reading, recording: Recording) -> tuple[Recording, list[str]]:
    _expect(tokens, "ooTextFile")
    _expect(tokens, "TextGrid")
    start, end = _number(tokens), _number(tokens)
    recording.duration = end - start if start == 0 and end > 0 else 0.0
    names = []
    num_tiers = int(_number(tokens)) if next(tokens) == "<exists>" else 0
    for _ in range(num_tiers):
        kind, name = _text(tokens), _text(tokens)
        if kind not in ("IntervalTier", "TextTier"):
            raise ValueError(f"expected IntervalTier or TextTier, found {kind[:40]!r}")
        names.append(name)
        _number(tokens), _number(tokens)
        for number in range(int(_number(tokens))):
            where = (
                f"{recording.where}: tier '{name}', {'interval' if kind == 'IntervalTier' else 'point'} {number + 1}"
            )
            first = _number(tokens)
            last = _number(tokens) if kind == "IntervalTier" else None
            label = _text(tokens)
            if label.strip() and (not reading.tiers or name in reading.tiers):
                recording.marks.append(Mark(first, last, label, where))
    recording.marks.sort(key=lambda mark: mark.start)
    return recording, names


def _expect(tokens: Iterator[str | float], wanted: str) -> None:
    if (found := next(tokens)) != wanted:
        raise ValueError(f"expected {wanted}, found {str(found)[:40]!r}")


def _number(tokens: Iterator[str | float]) -> float:
    if not isinstance(found := next(tokens), float):
        raise ValueError(f"expected a number, found {found[:40]!r}")
    return found


def _text(tokens: Iterator[str | float]) -> str:
    if not isinstance(found := next(tokens), str):
        raise ValueError(f"expected a text, found {found:g}")
    return found

"""What happens to files: damage that disks and copies do, and values that people and strangers write.

Everything is drawn from the ``random.Random`` that is handed in, so a seed says all. Nothing here knows the package.
"""

import json
import pathlib
import random
import re
import shutil
import struct
from collections.abc import Callable
from typing import Any

ODD_TEXTS = (
    "",
    " ",
    "x",
    "null",
    "NaN",
    "a\nb",
    "trailing ",
    "\ttab",
    "\0",
    "\x1b[2J",
    "\ud800",
    "‮evil",
    "é" * 40,
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\x",
    "a/b",
    "..",
    "a" * 5000,
    "$\\frac{",
    "1e5",
    "７",
    "1_000",
)
ODD_NUMBERS = (
    0,
    -1,
    1,
    2,
    0.5,
    -0.0,
    1e-320,
    1e308,
    -1e308,
    2**31,
    2**63,
    -(2**63),
    10**30,
    float("nan"),
    float("inf"),
)
ODD_VALUES = (None, True, False, [], {}, [[]], [None], {"a": 1}, *ODD_TEXTS, *ODD_NUMBERS)
ODD_NUMBER_TEXTS = (
    "nan",
    "-inf",
    "1e999",
    "1e-999",
    "-1",
    "0x10",
    "1,5",
    "--1",
    "１２",
    "1_0",
    "9" * 400,
    "",
    "a",
    "1e5",
)
ODD_BYTES = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\r",
    b"\n\n",
    b'"',
    b"{",
    b"[",
    b",",
    b"#",
    b"\xff\xfe",
    b"\x1a",
)


# Bytes


def damage_bytes(content: bytes, rng: random.Random, others: list[bytes] = ()) -> bytes:
    """One to three kinds of damage in a row; ``others`` are contents of good files that may get mixed in."""
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        content = rng.choice(_BYTE_DAMAGES)(content, rng, list(others) or [b"something else\n"])
    return content


def _flip_bits(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8)) if content else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip_near_the_start(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    """Headers are there."""
    changed = bytearray(content)
    if content:
        changed[rng.randrange(min(len(changed), 128))] = rng.randrange(256)
    return bytes(changed)


def _cut_off(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _grow(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    return content + rng.choice((rng.randbytes(rng.randrange(1, 64)), content, b"\0" * 512, b" ", b"\n", b"\n\n"))


def _take_out(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    start, length = _slice(content, rng)
    return content[:start] + content[start + length :]


def _repeat(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    start, length = _slice(content, rng)
    return content[: start + length] + content[start : start + length] + content[start + length :]


def _splice(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    other = rng.choice(others)
    start, length = _slice(other, rng)
    at = rng.randrange(len(content) + 1)
    return content[:at] + other[start : start + length] + content[at + rng.choice((0, length)) :]


def _swap(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return rng.choice((*others, b""))


def _insert_odd(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    at = rng.choice((0, rng.randrange(len(content) + 1)))
    return content[:at] + rng.choice(ODD_BYTES) + content[at:]


def _replace_number(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    places = list(re.finditer(rb"-?[0-9]+(\.[0-9]+)?", content[:200_000]))
    if not places:
        return content
    place = rng.choice(places)
    return content[: place.start()] + rng.choice(ODD_NUMBER_TEXTS).encode() + content[place.end() :]


def _swap_lines(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    lines = content.split(b"\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines)


def _encode_otherwise(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return content
    return rng.choice(
        (
            lambda: text.encode("utf-16"),
            lambda: text.encode("utf-8-sig"),
            lambda: text.encode("utf-32"),
            lambda: (text + "é").encode("latin-1", "replace"),
            lambda: text.replace("\n", "\r\n").encode(),
            lambda: text.replace("\n", "\r").encode(),
        )
    )()


def _write_number(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    """Where a length may stand, a huge one."""
    packed = struct.pack(rng.choice(("<I", "<Q", ">I", "<H")), rng.choice((0, 1, 0xFF, 0x7FFF, 0xFFFF)))
    packed = rng.choice((packed, struct.pack("<Q", 2**40), struct.pack("<I", 2**31), b"\xff" * 8))
    at = rng.randrange(max(len(content) - len(packed), 1))
    return content[:at] + packed + content[at + len(packed) :]


def _slice(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, rng.choice((1, 2, 7, 64, 4096, len(content)))


_BYTE_DAMAGES = (
    _flip_bits,
    _flip_bits,
    _flip_near_the_start,
    _cut_off,
    _grow,
    _take_out,
    _repeat,
    _splice,
    _swap,
    _insert_odd,
    _replace_number,
    _replace_number,
    _swap_lines,
    _encode_otherwise,
    _write_number,
)


def damage_file(file: pathlib.Path, rng: random.Random, others: list[bytes] = ()) -> None:
    """``damage_bytes``, and now and then no file at all, or a folder in its place."""
    kind = rng.random()
    if kind < 0.03:
        file.unlink()
    elif kind < 0.05:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(damage_bytes(file.read_bytes(), rng, others))


# JSON


def damage_json(text: str, rng: random.Random) -> str:
    """The text of a JSON value with one to three odd places."""
    value = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _damage_value(value, rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.7, indent=rng.choice((None, 2)))
    return rng.choice(_TEXT_DAMAGES)(text, rng) if rng.random() < 0.25 else text


def write_json_text(file: pathlib.Path, text: str) -> None:
    """With half characters as a careless program would write them."""
    file.write_bytes(text.encode("utf-8", "surrogatepass"))


def _damage_value(value: Any, rng: random.Random) -> Any:
    places = list(_places(value))
    if not places:
        return rng.choice(ODD_VALUES)
    holder, key = rng.choice(places)
    rng.choice(_PLACE_DAMAGES)(holder, key, rng, [h[k] for h, k in places])
    return value


def _places(value: Any) -> Any:
    """(holder, key or index) of every value inside ``value``."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def _set_odd(holder: Any, key: Any, rng: random.Random, _: list) -> None:
    holder[key] = rng.choice(ODD_VALUES)


def _set_same_kind(holder: Any, key: Any, rng: random.Random, _: list) -> None:
    """Other values of the same type get further in."""
    value = holder[key]
    if isinstance(value, str):
        holder[key] = rng.choice((*ODD_TEXTS, value + " ", value.upper(), f"v_{value}", value + value))
    elif isinstance(value, int | float):
        holder[key] = rng.choice((*ODD_NUMBERS, -value, value + 1, str(value), value * 1000))


def _delete(holder: Any, key: Any, rng: random.Random, _: list) -> None:
    del holder[key]


def _rename(holder: Any, key: Any, rng: random.Random, _: list) -> None:
    if isinstance(holder, dict):
        holder[rng.choice((*ODD_TEXTS, str(key) + " ", str(key).upper()))] = holder.pop(key)


def _add(holder: Any, key: Any, rng: random.Random, values: list) -> None:
    value = json.loads(json.dumps(rng.choice(values)))
    if isinstance(holder, dict):
        holder[rng.choice((*ODD_TEXTS, "type", "extra"))] = value
    else:
        holder.insert(key, value)


def _put_another(holder: Any, key: Any, rng: random.Random, values: list) -> None:
    holder[key] = json.loads(json.dumps(rng.choice(values)))


def _put_alike(holder: Any, key: Any, rng: random.Random, values: list) -> None:
    """A value of the same type from elsewhere, or nearly the same number: often still good."""
    value = holder[key]
    alike = [other for other in values if type(other) is type(value)]
    if type(value) in (int, float) and abs(value) < 1e6:
        alike += [value + 0.25, value * 1.01, round(value)]
    holder[key] = json.loads(json.dumps(rng.choice(alike)))


def _swap_type(holder: Any, key: Any, rng: random.Random, _: list) -> None:
    value = holder[key]
    holder[key] = rng.choice(([value], {"value": value}, str(value), [value, value]))


_PLACE_DAMAGES = (
    _set_odd,
    _set_odd,
    _set_same_kind,
    _set_same_kind,
    _delete,
    _rename,
    _add,
    _put_another,
    _swap_type,
    *[_put_alike] * 4,
)


def _key_twice(text: str, rng: random.Random) -> str:
    keys = list(re.finditer(r'"[^"\\]*": ?("[^"\\]*"|-?[0-9.]+)', text))
    if not keys:
        return text
    key = rng.choice(keys)
    return f"{text[: key.end()]}, {key[0]}{text[key.end() :]}"


_TEXT_DAMAGES: tuple[Callable[[str, random.Random], str], ...] = (
    _key_twice,
    lambda text, rng: text + rng.choice((" \n\t", "\n\n", ",", "{}", "\0", "//")),
    lambda text, rng: "[" * 3000 + text + "]" * 3000,
    lambda text, rng: re.sub(r"-?\b[0-9]+\b", lambda match: rng.choice((match[0], "9" * 5000)), text, count=3),
    lambda text, rng: text.replace('"', "'"),
    lambda text, rng: text[: rng.randrange(len(text) + 1)],
)


def copy(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A file or folder to be damaged; an earlier one there goes."""
    if target.is_dir():
        shutil.rmtree(target)
    return pathlib.Path((shutil.copytree if source.is_dir() else shutil.copy)(source, target))

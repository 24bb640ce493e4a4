"""SoccerNet's JSON: events of both halves of a game, "gameTime" and "label", without a length.

    {"UrlLocal": "SEASON/GAME/", "annotations": [{"gameTime": "1 - 00:07", "label": "Corner", "position": "7346"}]}

Each half is a recording, as the benchmark's videos are: GAME_1 and GAME_2.
"""

import pathlib
import re

from a2net_tf.annotations.marks import Mark, Recording, group
from a2net_tf.errors import UserError
from a2net_tf.safe_files import check_kind, get_value

_GAME_TIME = re.compile(r"\s*(\d{1,5})\s*-\s*(\d{1,5}):(\d\d(?:\.\d+)?)\s*")
_LISTS = {False: "annotations", True: "predictions"}


def is_soccernet(content: object) -> bool:
    """Whether a JSON value is one of SoccerNet."""
    if not isinstance(content, dict):
        return False
    lists = [content[key] for key in _LISTS.values() if isinstance(content.get(key), list)]
    events = [event for of in lists for event in of]
    told = "UrlLocal" in content and bool(lists)
    return told or (bool(events) and all(isinstance(event, dict) and "gameTime" in event for event in events))


def read(content: dict, path: str, *, own_name: str, predicted: bool) -> list[Recording]:
    """The halves of a game, and their events.

    "position" counts milliseconds; it is used where it agrees with "gameTime", which counts seconds.

    Raises:
        UserError: a key is missing or has another form.
    """
    game = pathlib.PurePosixPath(str(content.get("UrlLocal") or "")).name or own_name
    events = get_value(content, _LISTS[predicted], path, kind=list)
    rows = []
    for number, event in enumerate(events):
        where = f"{path}: {_LISTS[predicted]}[{number}]"
        told = get_value(event, "gameTime", where, kind=str)
        match = _GAME_TIME.fullmatch(told)
        if not match:
            raise UserError(f"{where}: gameTime: expected 'HALF - MINUTES:SECONDS', found {told[:40]!r}")
        seconds = int(match[2]) * 60 + float(match[3])
        score = float(_number(event["confidence"], f"{where}: confidence")) if "confidence" in event else None
        label = str(get_value(event, "label", where, kind=object))
        rows.append((f"{game}_{match[1]}", Mark(_exact(event, seconds, where), None, label, where, score)))
    recordings = group(rows, path)
    if not recordings:
        recordings = [Recording(f"{game}_{half}", path) for half in (1, 2)]
    return recordings


def _exact(event: dict, seconds: float, where: str) -> float:
    if event.get("position") in (None, ""):
        return seconds
    exact = _number(event["position"], f"{where}: position") / 1000
    return exact if abs(exact - seconds) <= 1 else seconds


def _number(value: object, where: str) -> float:
    """Numbers are written as texts there."""
    if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", value):
        value = float(value)
    return check_kind(value, float, where)

"""Which video of the ground truth a name in the results means: with or without ``v_`` and a file ending. Pure."""

from collections.abc import Collection, Iterator

from a2net_tf.errors import UserError

ENDINGS = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".npy", ".npz", ".csv")


def match_names(detected: Collection[str], annotated: Collection[str], where: str) -> dict[str, str]:
    """The name in the ground truth of each video of the results, where there is one.

    The name itself comes first. Only if the ground truth does not have it, ``v_`` before it and a file ending behind it
    are put on or taken off: in own data, "v_1" and "1" can be two videos.

    Args:
        detected: names in the results.
        annotated: names in the ground truth.
        where: the results, for the message.

    Returns:
        {name in the results: name in the ground truth}, without those that have none.

    Raises:
        UserError: a name could mean two videos, or two names mean the same one.
    """
    annotated, matched, taken = set(annotated), {}, {}
    plain = {}
    for name in annotated:
        plain.setdefault(_plain(name), []).append(name)
    for name in dict.fromkeys(detected):
        found = [name] if name in annotated else plain.get(_plain(name), [])
        if len(found) > 1:
            raise UserError(
                f"{where}: video '{name}' could be {' or '.join(map(repr, sorted(found)))} of the ground truth"
            )
        for other in found:
            if other in taken:
                raise UserError(
                    f"{where}: '{taken[other]}' and '{name}' both name the video '{other}' of the ground truth; "
                    "its detections would count twice"
                )
            matched[name], taken[other] = other, name
    return matched


def _plain(name: str) -> str:
    """A name without ``v_`` before it and without a file ending."""
    name = name.removeprefix("v_")
    for ending in _endings(name):
        return name[: -len(ending)]
    return name


def _endings(name: str) -> Iterator[str]:
    return (ending for ending in ENDINGS if name.lower().endswith(ending) and len(name) > len(ending))

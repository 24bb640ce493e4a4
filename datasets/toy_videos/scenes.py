"""What happens in the films of toy_videos, and where every shape is at any time. numpy only; no picture is drawn here.

A film is a list of things that are seen, each from a start to an end. Those with a label are actions; the others are
there to be mistaken for one. The same arguments always give the same film.
"""

import math
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 160, 120  # of a picture
FRAME_RATE = 25

GAP_SECONDS = (0.6, 4.0)  # between two actions
IDLE_PROBABILITY, IDLE_SECONDS = 0.15, (5.0, 9.0)  # of a gap that is longer
LINGER_PROBABILITY, LINGER_SECONDS = 0.3, (0.3, 1.5)  # a shape that moves stands still there before, and after
DISTRACTORS_PER_SECOND = 0.05
FLASH_SECONDS = (0.08, 0.2)
DRIFT_PIXELS, DRIFT_PERIOD_SECONDS = (5.0, 12.0), (30.0, 60.0)  # how far the background moves, and how long it takes

CLASS_NAMES = ("rise", "fall", "grow", "shrink", "turn", "star")
SHAPES = {"rise": "disc", "fall": "disc", "grow": "square", "shrink": "square", "turn": "bar", "star": "star"}
STILL_SHAPES = ("disc", "square", "bar", "triangle")  # that are no action while they do not move
# Of each shape, so that a picture tells it; movements are what tells apart the actions of one shape.
_COLOURS = {
    "disc": (225, 60, 50),
    "square": (60, 190, 80),
    "bar": (70, 100, 235),
    "star": (235, 215, 60),
    "triangle": (225, 225, 225),
    "flash": (255, 255, 255),
}
_SIZES = (20.0, 28.0)  # pixels from the middle of a shape to its corners
_SMALL, _LARGE = (8.0, 12.0), (34.0, 42.0)  # sizes between which a shape grows
_TOP, _BOTTOM = (18.0, 34.0), (86.0, 102.0)  # heights between which a shape rises; pictures count from above
_PERIOD_SECONDS = (1.0, 1.6)  # from one rise, fall, ... to the next one
_HIDDEN = 0.1  # of a period: between two of them the shape is not seen
_TURN_SECONDS = (2.0, 4.0)  # of a whole turn


class Pose(NamedTuple):
    """Where a shape is: its middle and size in pixels, and by how many degrees it is turned."""

    x: float
    y: float
    size: float
    angle: float


class Thing(NamedTuple):
    """Something that is seen in [``seen_from``, ``seen_to``) and moves in [``start``, ``end``), all in seconds.

    It goes from its first pose to its last one evenly, is hidden for a moment, and then begins anew, as long as the
    action goes on.

    Attributes:
        label: of the action that it does; "" if it is none.
        shape: of ``SHAPES`` or ``STILL_SHAPES``, or flash, which lights the whole picture.
        colour: red, green and blue, 0 to 255.
        start: of the action, or of what it is seen.
        end: of the same; that moment is no more part of it.
        seen_from: not after ``start``.
        seen_to: not before ``end``.
        first: pose up to ``start``.
        last: pose when it is hidden or, if it never is, after ``period`` seconds.
        period: from one beginning to the next.
        hidden: the share of each period, at its end, in which it is not seen.
        drifts: whether it moves with the background.
    """

    label: str
    shape: str
    colour: tuple[int, int, int]
    start: float
    end: float
    seen_from: float
    seen_to: float
    first: Pose
    last: Pose
    period: float = 1.0
    hidden: float = 0.0
    drifts: bool = False


class Scene(NamedTuple):
    """One film: how it begins, and all that happens in it.

    Attributes:
        name: of the film.
        num_frames: at ``FRAME_RATE``.
        things: in the order of their starts.
        drift: amplitudes in pixels [2], periods in seconds [2] and phases [2] of the background's way.
        seed: of its background and its noise.
    """

    name: str
    num_frames: int
    things: tuple[Thing, ...]
    drift: np.ndarray
    seed: tuple[int, ...]

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.num_frames / FRAME_RATE

    @property
    def actions(self) -> list[Thing]:
        """The things that are annotated."""
        return [thing for thing in self.things if thing.label]

    def background_at(self, seconds: float) -> tuple[float, float]:
        """By how many pixels the background has moved, to the right and down."""
        amplitudes, periods, phases = self.drift
        x, y = amplitudes * (np.sin(2 * np.pi * seconds / periods + phases) - np.sin(phases))
        return float(x), float(y)

    def pose_at(self, thing: Thing, seconds: float) -> Pose | None:
        """Where a thing is; None while it is not seen."""
        if not thing.seen_from <= seconds < thing.seen_to:
            return None
        part = min(max(seconds - thing.start, 0.0), thing.end - thing.start) / thing.period % 1.0 / (1.0 - thing.hidden)
        if part > 1.0:
            return None
        pose = Pose(*(a + part * (b - a) for a, b in zip(thing.first, thing.last, strict=True)))
        if thing.drifts:
            (x, y), (x0, y0) = self.background_at(seconds), self.background_at(thing.start)
            pose = pose._replace(x=pose.x + x - x0, y=pose.y + y - y0)
        return pose


def draw_scene(split: str, index: int, seconds: tuple[float, float], action_seconds: tuple[float, float]) -> Scene:
    """Film ``index`` of ``split``.

    Args:
        split: any name; each has films of its own.
        index: from 0.
        seconds: shortest and longest that it may be.
        action_seconds: the same of an action. Lengths are drawn log-uniformly, so that none gives a class away.
    """
    seed = (*split.encode(), index)
    rng = np.random.default_rng(seed)
    num_frames = int(rng.uniform(*seconds) * FRAME_RATE)
    things = _draw_actions(rng, num_frames / FRAME_RATE, action_seconds)
    things += _draw_distractors(rng, num_frames / FRAME_RATE, action_seconds)
    drift = np.array([rng.uniform(*DRIFT_PIXELS, 2), rng.uniform(*DRIFT_PERIOD_SECONDS, 2), rng.uniform(0, 6.28, 2)])
    name = f"{split}_{index:03d}"
    return Scene(name, num_frames, tuple(sorted(things, key=lambda thing: thing.start)), drift, seed)


def _draw_actions(rng: np.random.Generator, seconds: float, action_seconds: tuple[float, float]) -> list[Thing]:
    """One after the other; each class comes once before one comes again."""
    actions: list[Thing] = []
    free_from = 0.0
    while True:
        if len(actions) % len(CLASS_NAMES) == 0:
            order = rng.permutation(CLASS_NAMES)
        gap = rng.uniform(*(IDLE_SECONDS if rng.random() < IDLE_PROBABILITY else GAP_SECONDS))
        start = free_from + gap
        end = min(start + _log_uniform(rng, *action_seconds), seconds - 0.5)
        if end < start + action_seconds[0]:
            return actions
        actions.append(_draw_action(rng, str(order[len(actions) % len(CLASS_NAMES)]), round(start, 2), round(end, 2)))
        free_from = actions[-1].seen_to


def _draw_action(rng: np.random.Generator, label: str, start: float, end: float) -> Thing:
    first, last = _draw_poses(rng, label)
    seen_from, seen_to = start, end
    if label != "star" and rng.random() < LINGER_PROBABILITY:
        seen_from = start - min(rng.uniform(*LINGER_SECONDS), start)
    if label != "star" and rng.random() < LINGER_PROBABILITY:
        seen_to = end + rng.uniform(*LINGER_SECONDS)
    period = rng.uniform(*(_TURN_SECONDS if label == "turn" else _PERIOD_SECONDS))
    hidden = 0.0 if label in ("turn", "star") else _HIDDEN
    return Thing(
        label,
        SHAPES[label],
        _draw_colour(rng, SHAPES[label]),
        start,
        end,
        seen_from,
        seen_to,
        first,
        last,
        period=period,
        hidden=hidden,
    )


def _draw_poses(rng: np.random.Generator, label: str) -> tuple[Pose, Pose]:
    """The poses between which an action goes on."""
    still = Pose(rng.uniform(30, WIDTH - 30), rng.uniform(35, HEIGHT - 35), rng.uniform(*_SIZES), rng.uniform(0, 360))
    low, high = rng.uniform(*_BOTTOM), rng.uniform(*_TOP)
    small, large = rng.uniform(*_SMALL), rng.uniform(*_LARGE)
    turned = 360.0 * rng.choice([-1, 1])
    return {
        "rise": (still._replace(y=low), still._replace(y=high)),
        "fall": (still._replace(y=high), still._replace(y=low)),
        "grow": (still._replace(size=small), still._replace(size=large)),
        "shrink": (still._replace(size=large), still._replace(size=small)),
        "turn": (still, still._replace(angle=still.angle + turned)),
        "star": (still, still),
    }[label]


def _draw_distractors(rng: np.random.Generator, seconds: float, action_seconds: tuple[float, float]) -> list[Thing]:
    """Shapes that stand still, shapes that move as the background does, and flashes."""
    things = []
    for _ in range(rng.poisson(DISTRACTORS_PER_SECOND * seconds)):
        kind = rng.choice(["still", "drifting", "flash"])
        length = rng.uniform(*FLASH_SECONDS) if kind == "flash" else _log_uniform(rng, *action_seconds)
        start = rng.uniform(0, max(seconds - length, 0.1))
        pose, _ = _draw_poses(rng, "star")
        shape = "flash" if kind == "flash" else str(rng.choice(STILL_SHAPES))
        end = start + length
        drifts = bool(kind == "drifting")
        things.append(Thing("", shape, _draw_colour(rng, shape), start, end, start, end, pose, pose, drifts=drifts))
    return things


def _draw_colour(rng: np.random.Generator, shape: str) -> tuple[int, int, int]:
    """Near the one of the shape."""
    red, green, blue = np.clip(_COLOURS[shape] + rng.integers(-25, 26, 3), 0, 255).tolist()
    return red, green, blue


def _log_uniform(rng: np.random.Generator, least: float, most: float) -> float:
    return least * math.exp(rng.random() * math.log(most / least))

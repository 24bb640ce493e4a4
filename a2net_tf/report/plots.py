"""Pictures of results; needs matplotlib (``pip install ".[plots]"`` in the checkout)."""

import os
from collections.abc import Mapping, Sequence

from a2net_tf.errors import UserError
from a2net_tf.safe_files import replace_file

Bar = tuple[float, float, int, float | None]  # start and end in seconds, class id, score (None: ground truth)

_TICK_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
_GROUP_GAP_ROWS = 0.5
_POINTS_PER_LETTER = 4.4  # of a track's name
_FAINTEST = 0.15  # a detection with score 0 can still be seen
_AS_IT_IS = {"parse_math": False}  # else what stands between two $ in a name would be typeset, or fail


def plot_timeline(
    path: str | os.PathLike,
    title: str,
    tracks: Mapping[str, Sequence[Bar]],
    class_names: Sequence[str],
    *,
    duration_seconds: float,
) -> None:
    """Draws the actions of one video over time as a PNG, 1000 pixels wide.

    Every class that occurs gets a group of rows, one row per track in the order given: put the ground truth first.

    Args:
        path: the PNG, written whole or not at all.
        title: above the picture.
        tracks: name -> (start seconds, end seconds, class id, score) of each action. Without a score (None) the bar is
            solid, with one the bar is the fainter the lower the score in [0, 1].
        class_names: C names. A class has the same colour in every picture.
        duration_seconds: of the video; the time axis ends there.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    figure_class = _import_figure()
    present = sorted({label for bars in tracks.values() for _, _, label, _ in bars})
    num_rows = max(len(present) * (len(tracks) + _GROUP_GAP_ROWS), 2)
    figure = figure_class(figsize=(10, 0.9 + 0.22 * num_rows), dpi=100, layout="constrained")
    axes = figure.subplots()
    row_names = {}  # position -> name of the track
    for group, label in enumerate(present):
        top = group * (len(tracks) + _GROUP_GAP_ROWS)
        _draw_class_name(axes, class_names[label], top, tracks=tracks, colour=colour_of(label))
        for row, (name, bars) in enumerate(tracks.items()):
            row_names[top + row] = name
            _draw_bars(axes, [bar for bar in bars if bar[2] == label], top + row, colour_of(label))
    _finish_axes(axes, title, row_names, num_rows=num_rows, duration_seconds=duration_seconds)
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _import_figure() -> type:
    """matplotlib's Figure, which draws without a display and without pyplot's global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            'pictures need matplotlib, which is not installed: pip install ".[plots]" in the checkout'
        ) from None
    return Figure


def colour_of(label: int) -> tuple[float, float, float]:
    """One of 20 colours: the ten strong ones first, then their light versions, then again from the start."""
    from matplotlib import colormaps

    label %= 20
    return colormaps["tab20"](2 * (label % 10) + label // 10)[:3]


def _draw_class_name(axes, name: str, top: float, *, tracks: Mapping, colour: tuple[float, float, float]) -> None:
    """A light band behind the rows of a class, with its name left of the names of the tracks."""
    axes.axhspan(top - 0.5, top + len(tracks) - 0.5, color=colour, alpha=0.07, linewidth=0)
    axes.annotate(
        name,
        (0, top + (len(tracks) - 1) / 2),
        xycoords=("axes fraction", "data"),
        xytext=(-16 - _POINTS_PER_LETTER * max(map(len, tracks)), 0),
        textcoords="offset points",
        ha="right",
        va="center",
        weight="bold",
        fontsize=8.5,
        **_AS_IT_IS,
    )


def _draw_bars(axes, bars: Sequence[Bar], row: float, colour: tuple[float, float, float]) -> None:
    strengths = [1.0 if score is None else min(max(score, _FAINTEST), 1.0) for *_, score in bars]
    axes.broken_barh(  # all of a row as one object: hundreds of them would take seconds
        [(start, end - start) for start, end, *_ in bars],
        (row - 0.4, 0.8),
        facecolors=[(*colour, strength) for strength in strengths],
        edgecolor=colour,
        linewidth=0.6,
    )


def _finish_axes(axes, title: str, row_names: Mapping[float, str], *, num_rows: float, duration_seconds: float) -> None:
    """Limits, ticks and labels."""
    axes.set_title(title, loc="left", fontsize=11, **_AS_IT_IS)
    axes.set_xlim(0, duration_seconds)
    axes.set_ylim(num_rows - _GROUP_GAP_ROWS - 0.4, -0.6)  # the first class on top
    axes.set_yticks(list(row_names), list(row_names.values()), fontsize=8, color="0.35")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    step = next((s for s in _TICK_SECONDS if duration_seconds / s <= 12), _TICK_SECONDS[-1])
    ticks = [i * step for i in range(int(duration_seconds / step + 1e-6) + 1)]
    in_minutes = duration_seconds > 120
    axes.set_xticks(ticks, [_format_time(t) if in_minutes else f"{t:g}" for t in ticks], fontsize=8)
    axes.set_xlabel(_time_unit(duration_seconds) if in_minutes else "seconds", fontsize=9)
    axes.grid(axis="x", color="0.85", linewidth=0.6)
    axes.set_axisbelow(True)
    if not row_names:
        axes.text(0.5, 0.5, "no actions", transform=axes.transAxes, ha="center", va="center", color="0.5")


def _format_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _time_unit(duration_seconds: float) -> str:
    return "hours : minutes : seconds" if duration_seconds >= 3600 else "minutes : seconds"


def plot_bars(
    path: str | os.PathLike, title: str, panels: Mapping[str, Mapping[str, Sequence[float]]], *, axis: str
) -> None:
    """Draws one bar per entry, as long as the mean of its values, with a dot per value, as a PNG.

    Panels stand side by side and share their rows, so that the bars of a label are on one line.

    Args:
        path: the PNG, written whole or not at all.
        title: above the picture.
        panels: heading -> label -> fractions in [0, 1], shown in percent.
        axis: what they are.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    labels = list(dict.fromkeys(label for values in panels.values() for label in values))
    rows = {label: row for row, label in enumerate(labels)}
    size = (4.5 + 3.5 * len(panels), 1.1 + 0.28 * len(rows))
    figure = _import_figure()(figsize=size, dpi=100, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=9, **_AS_IT_IS)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (heading, values) in zip(all_axes, panels.items(), strict=True):
        axes.set_title(heading, loc="left", fontsize=9, **_AS_IT_IS)
        for label, numbers in values.items():
            _draw_mean_bar(axes, rows[label], [100 * number for number in numbers])
        _finish_bars(axes, rows, axis)
    with replace_file(path, keep_earlier=True) as temporary:
        figure.savefig(temporary, format="png")


def _draw_mean_bar(axes, row: int, percents: Sequence[float]) -> None:
    mean = sum(percents) / len(percents)
    axes.barh(row, mean, color="tab:blue", alpha=0.6)
    axes.plot(percents, [row] * len(percents), "o", color="black", markersize=3)
    axes.annotate(f"{mean:.1f}", (max(percents), row), xytext=(6, 0), textcoords="offset points", va="center", size=8)


def _finish_bars(axes, rows: Mapping[str, int], axis: str) -> None:
    """Limits, ticks and labels; the first row on top."""
    axes.set_yticks(list(rows.values()), list(rows), fontsize=8, **_AS_IT_IS)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 112)
    axes.set_xlabel(axis, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)

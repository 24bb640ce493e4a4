import os
import struct
import sys

import numpy as np
import pytest

from a2net_tf.errors import UserError
from a2net_tf.report import plots

TRACKS = {"ground truth": [(2, 6, 0, None), (10, 14, 1, None)], "detections": [(2, 6, 0, 0.9), (10, 14, 1, 0.3)]}


def pixels(path):
    image = pytest.importorskip("matplotlib.image").imread(path)[..., :3]
    return (image * 255).round().astype(int)


def size(path):
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:])


def plot(path, tracks=TRACKS, names=("jump", "run"), duration=20.0):
    pytest.importorskip("matplotlib")
    plots.plot_timeline(path, "a video", tracks, names, duration_seconds=duration)


def columns_of(image, colour):
    """The columns in which at least five pixels have the colour."""
    return np.flatnonzero((np.abs(image - colour).max(axis=-1) <= 1).sum(axis=0) >= 5)


def test_picture_fits_a_readme_and_leaves_no_other_file(tmp_path):
    plot(tmp_path / "new" / "t.png")
    assert size(tmp_path / "new" / "t.png")[0] == 1000
    assert os.listdir(tmp_path / "new") == ["t.png"]


def test_bars_lie_where_the_actions_are_and_fade_with_the_score(tmp_path):
    plot(tmp_path / "t.png")
    image = pixels(tmp_path / "t.png")
    blue, orange = (np.round(np.multiply(plots.colour_of(label), 255)) for label in (0, 1))
    first, second = columns_of(image, blue), columns_of(image, orange)
    pixels_per_second = (second[0] - first[0]) / 8
    assert (first[-1] - first[0]) / pixels_per_second == pytest.approx(4, abs=0.2)
    assert (second[-1] - second[0]) / pixels_per_second == pytest.approx(4, abs=0.2)
    is_orange = np.abs(image - orange).max(axis=-1) <= 1
    inside = slice(second[0] + 5, second[-1] - 5)
    solid_rows = is_orange[:, inside].all(axis=1).sum()  # the ground truth; of the faint detection only the edge
    assert 10 <= solid_rows <= 25


def test_rows_grow_with_classes(tmp_path):
    plot(tmp_path / "two.png")
    many = {"detections": [(i, i + 1, i, 0.5) for i in range(20)], "ground truth": []}
    plot(tmp_path / "many.png", many, [f"class {i}" for i in range(20)])
    assert size(tmp_path / "many.png")[1] > 3 * size(tmp_path / "two.png")[1]


def test_video_without_actions(tmp_path):
    plot(tmp_path / "t.png", {"ground truth": [], "detections": []}, duration=9000)
    assert size(tmp_path / "t.png")[0] == 1000


def test_colours_are_distinct_for_twenty_classes_and_then_repeat():
    pytest.importorskip("matplotlib")
    assert len({plots.colour_of(label) for label in range(20)}) == 20
    assert plots.colour_of(23) == plots.colour_of(3)


def test_bars_are_as_long_as_their_mean(tmp_path):
    pytest.importorskip("matplotlib")
    plots.plot_bars(tmp_path / "b.png", "rows", {"": {"a": [0.2, 0.4], "b": [0.6]}}, axis="average mAP (%)")
    assert size(tmp_path / "b.png")[0] == 800
    image = pixels(tmp_path / "b.png")
    blue = np.round(255 * (0.6 * np.array([31, 119, 180]) / 255 + 0.4))
    lengths = (np.abs(image - blue).max(axis=-1) <= 2).sum(axis=1)
    short, long = sorted({length for length in lengths if length > 50})[:: len(set(lengths[lengths > 50])) - 1 or 1][:2]
    assert long / short == pytest.approx(2, rel=0.05)


def test_panels_of_bars_stand_side_by_side_and_share_rows(tmp_path):
    """A panel may lack rows of another."""
    pytest.importorskip("matplotlib")
    rows = {f"row {i}": [0.3, 0.5] for i in range(30)}
    plots.plot_bars(tmp_path / "b.png", "rows", {"left": rows, "right": {"row 7": [0.9]}}, axis="average mAP (%)")
    image = pixels(tmp_path / "b.png")
    assert size(tmp_path / "b.png") == (1150, 950)
    blue = np.abs(image - np.round(255 * (0.6 * np.array([31, 119, 180]) / 255 + 0.4))).max(axis=-1) <= 2
    half = image.shape[1] // 2
    starts = [
        int((np.diff(side.any(axis=1).astype(int)) == 1).sum()) for side in (blue[:, :half], blue[:, half + 100 :])
    ]
    assert starts == [30, 1]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (90, "1:30"), (3600, "1:00:00"), (7325, "2:02:05")])
def test_times(seconds, text):
    assert plots._format_time(seconds) == text


def test_missing_matplotlib_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r'pip install "\.\[plots\]" in the checkout'):
        plots.plot_timeline(tmp_path / "t.png", "a video", TRACKS, ("jump", "run"), duration_seconds=20)
    assert os.listdir(tmp_path) == []


def test_unwritable_place(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        plot(tmp_path)


@pytest.mark.parametrize("name", ["costs $\\frac{5$", "$5 and $10", "a_b^c"])
def test_names_are_drawn_letter_by_letter(tmp_path, name):
    """Between two $ matplotlib would typeset mathematics, and end with an error where it is none."""
    plot(tmp_path / "t.png", names=(name, "run"))
    plots.plot_bars(tmp_path / "b.png", name, {name: {name: [0.5]}}, axis="mAP")
    assert sorted(os.listdir(tmp_path)) == ["b.png", "t.png"]

"""Tests of the films: what is seen is where and when the annotations say."""

import itertools
import json

import numpy as np
import pytest

from a2net_tf.datasets.toy_videos import films, scenes
from a2net_tf.datasets.toy_videos.scenes import FRAME_RATE, HEIGHT, WIDTH, Pose, Scene, Thing
from a2net_tf.errors import UserError
from a2net_tf.video.decoding import Video

pytest.importorskip("av", reason="PyAV (the extra [video]) is not installed")
cv2 = pytest.importorskip("cv2", reason="OpenCV (the extra [video]) is not installed")

GREEN = (20, 250, 20)
MIDDLE = Pose(80, 60, 20, 0)


def make_scene(*things: Thing, seconds: float = 2.0) -> Scene:
    drift = np.array([[10.0, 20.0], [5.0, 8.0], [0.0, 1.0]])
    return Scene("train_000", round(seconds * FRAME_RATE), things, drift, (1, 2))


def make_thing(first: Pose = MIDDLE, last: Pose = MIDDLE, **changes) -> Thing:
    """A green disc that is seen from 0.5 to 1.5 s."""
    return Thing("", "disc", GREEN, 0.5, 1.5, 0.5, 1.5, first, last)._replace(**changes)


def is_green(image: np.ndarray) -> np.ndarray:
    """bool[H, W]: the pixels of a green thing; nothing else is green."""
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    return (green > 1.8 * red) & (green > 1.8 * blue) & (green > 80)


def look(image: np.ndarray) -> tuple[float, float, int]:
    """Middle (x, y) and area of the green thing in a picture, in pixels."""
    y, x = np.nonzero(is_green(image))
    return x.mean(), y.mean(), len(x)


def find_actions() -> dict[str, Thing]:
    """The first action of each class, as a green thing that is seen while it acts."""
    found: dict[str, Thing] = {}
    for index in range(4):
        for action in scenes.draw_scene("some", index, (30, 40), (1, 3)).actions:
            found.setdefault(action.label, action)
    assert set(found) == set(scenes.CLASS_NAMES)
    return {
        label: a._replace(colour=GREEN, start=0.5, end=1.5, seen_from=0.5, seen_to=1.5, period=1.0)
        for label, a in found.items()
    }


@pytest.fixture(scope="module")
def pictures() -> dict[str, list[np.ndarray]]:
    """Those of an action of each class that are between its start and when it is hidden."""
    return {label: list(films.render(make_scene(thing)))[13:33] for label, thing in find_actions().items()}


# Pictures


def test_seen_from_its_start_to_before_its_end():
    """A picture shows the middle of its time: that of 12 begins at 0.48 s, that of 37 lies in 1.48 to 1.52 s."""
    seen = [bool(is_green(image).sum() > 500) for image in films.render(make_scene(make_thing()))]
    assert seen == [False] * 12 + [True] * 25 + [False] * 13


def test_is_where_its_pose_says():
    scene = make_scene(make_thing(Pose(50, 90, 15, 0), Pose(110, 30, 15, 0)))
    for frame, image in enumerate(films.render(scene)):
        pose = scene.pose_at(scene.things[0], (frame + 0.5) / FRAME_RATE)
        if pose is not None:
            x, y, area = look(image)
            np.testing.assert_allclose((x, y), (pose.x, pose.y), atol=0.7)
            np.testing.assert_allclose(area, np.pi * 15**2, rtol=0.12)


def test_begins_anew_and_stands_still_before_and_after_its_action():
    thing = make_thing(MIDDLE._replace(y=90), MIDDLE._replace(y=30), period=0.8, seen_from=0.2, seen_to=1.9)
    images = list(films.render(make_scene(thing)))
    heights = {frame: look(images[frame])[1] for frame in (6, 11, 22, 30, 33, 39, 46)}  # 0.9, 1.22 and 1.34 s, ...
    np.testing.assert_allclose(list(heights.values()), [90, 90, 60, 36, 87, 75, 75], atol=0.7)


def test_is_hidden_before_it_begins_anew():
    thing = make_thing(period=0.4, hidden=0.25)
    seen = [bool(is_green(image).sum() > 500) for image in films.render(make_scene(thing))]
    assert seen[12:37] == [4 * frame % 40 <= 30 for frame in range(25)]


@pytest.mark.parametrize(
    ("label", "x", "y", "area"),
    [
        ("rise", 0, -1, 0),
        ("fall", 0, 1, 0),
        ("grow", 0, 0, 1),
        ("shrink", 0, 0, -1),
        ("turn", 0, 0, 0),
        ("star", 0, 0, 0),
    ],
)
def test_what_an_action_changes(pictures, label, x, y, area):
    before, after = look(pictures[label][0]), look(pictures[label][-1])
    signs = [
        0 if abs(b - a) < least else np.sign(b - a) for a, b, least in zip(before, after, (4, 20, 150), strict=True)
    ]
    assert signs == [x, y, area]


def test_a_turn_moves_the_corners_and_a_star_moves_nothing(pictures):
    changed = {
        k: (is_green(pictures[k][0]) ^ is_green(pictures[k][5])).sum() / is_green(pictures[k][0]).sum()
        for k in pictures
    }
    assert changed["turn"] > 0.2
    assert changed["star"] < 0.08


def test_shapes_differ():
    seen = {}
    for shape in (*scenes.STILL_SHAPES, "star"):
        *_, image = films.render(make_scene(make_thing(shape=shape), seconds=1))
        seen[shape] = is_green(image)
    for a, b in itertools.combinations(seen, 2):
        assert (seen[a] & seen[b]).sum() < 0.75 * (seen[a] | seen[b]).sum(), (a, b)


def test_background_drifts_as_it_says():
    scene = make_scene(seconds=3)
    images = list(films.render(scene))
    for frame in (25, 60):
        (x0, y0), (x, y) = (scene.background_at((k + 0.5) / FRAME_RATE) for k in (0, frame))
        assert np.hypot(x - x0, y - y0) > 3
        top, left = 30, 40  # of a piece of the first picture that is looked for in the other
        found = cv2.matchTemplate(images[frame], images[0][top : top + 60, left : left + 80], cv2.TM_CCOEFF_NORMED)
        moved = np.subtract(np.unravel_index(found.argmax(), found.shape), (top, left))[::-1]
        np.testing.assert_allclose(moved, (x - x0, y - y0), atol=1.5)


def test_what_drifts_moves_with_the_background():
    scene = make_scene(make_thing(drifts=True))
    images = list(films.render(scene))
    (x0, y0), (x, y) = (scene.background_at((k + 0.5) / FRAME_RATE) for k in (13, 36))
    moved = np.subtract(look(images[36]), look(images[13]))[:2]
    np.testing.assert_allclose(moved, (x - x0, y - y0), atol=0.7)


def test_flash_lights_the_picture():
    flash = make_thing(shape="flash", seen_from=1.0, seen_to=1.1)
    brightness = np.array([image.mean() for image in films.render(make_scene(flash))])
    bright = brightness > brightness[0] + 40
    assert np.flatnonzero(bright).tolist() == [25, 26]


def test_colour_tells_the_shape():
    """So that a picture does; which of the two actions of a shape it is only movement tells."""
    colours = {}
    for scene in films.COLLECTIONS["full"].scenes()[:10]:
        for thing in scene.things:
            if thing.shape != "flash":
                colours.setdefault(thing.shape, []).append(thing.colour)
    middles = {shape: np.mean(found, axis=0) for shape, found in colours.items()}
    for shape, found in colours.items():
        away = [
            np.abs(np.subtract(found, middle)).max(axis=1).min() for name, middle in middles.items() if name != shape
        ]
        assert np.abs(np.subtract(found, middles[shape])).max() < 45
        assert min(away) > 20


# Scenes


@pytest.mark.parametrize("name", films.COLLECTIONS)
def test_collections(name):
    collection = films.COLLECTIONS[name]
    all_scenes = collection.scenes()
    assert len({scene.name for scene in all_scenes}) == len(all_scenes) == sum(collection.counts.values())
    shortest, longest = collection.action_seconds
    for scene in all_scenes:
        assert collection.seconds[0] - 1 / FRAME_RATE < scene.seconds <= collection.seconds[1]
        before = 0.0
        for action in scene.actions:
            assert before < action.start < action.end < scene.seconds  # never two at a time
            assert shortest - 0.02 < action.end - action.start < longest + 0.02
            before = action.seen_to


def test_splits_of_the_full_collection_have_every_class():
    counts = {split: dict.fromkeys(scenes.CLASS_NAMES, 0) for split in films.COLLECTIONS["full"].counts}
    for scene in films.COLLECTIONS["full"].scenes():
        for action in scene.actions:
            counts[scene.name.partition("_")[0]][action.label] += 1
    assert min(counts["train"].values()) >= 30
    assert min(counts["validation"].values()) >= 7
    assert min(counts["test"].values()) >= 9


def test_same_arguments_same_film():
    first, again, other = (scenes.draw_scene(split, 3, (8, 10), (0.5, 2)) for split in ("train", "train", "test"))
    assert (first.things, first.num_frames) == (again.things, again.num_frames)
    assert first.things != other.things
    np.testing.assert_array_equal(next(films.render(first)), next(films.render(again)))


# Files


def test_film_holds_its_pictures(tmp_path):
    scene = make_scene(make_thing(Pose(50, 90, 15, 0), Pose(110, 30, 15, 0)))
    films.write_film(scene, tmp_path / "film.mp4")
    check_film(tmp_path / "film.mp4", scene)


def test_film_without_h264(tmp_path, monkeypatch):
    monkeypatch.setattr(films, "_can_encode", lambda codec, av: False)
    scene = make_scene(make_thing(Pose(50, 90, 15, 0), Pose(110, 30, 15, 0)))
    films.write_film(scene, tmp_path / "film.mp4")
    check_film(tmp_path / "film.mp4", scene)


def check_film(path, scene):
    video = Video(path)
    images = [frame.to_rgb() for frame in video.frames()]
    assert (len(images), images[0].shape) == (scene.num_frames, (HEIGHT, WIDTH, 3))
    assert video.seconds == pytest.approx(scene.seconds)
    assert not video.complaints()
    for frame, image in enumerate(images):
        pose = scene.pose_at(scene.things[0], (frame + 0.5) / FRAME_RATE)
        assert is_green(image).sum() < 10 if pose is None else np.hypot(*np.subtract(look(image)[:2], pose[:2])) < 2


SMALL = films.Collection({"train": 2, "test": 1}, (2, 3), (0.5, 1))


def test_films_and_annotations(tmp_path):
    films.write_films(SMALL, tmp_path)
    content = json.loads((tmp_path / "annotations.json").read_text())
    assert content["classes"] == list(scenes.CLASS_NAMES)
    assert {name: entry["subset"] for name, entry in content["database"].items()} == {
        "train_000": "train",
        "train_001": "train",
        "test_000": "test",
    }
    for scene in SMALL.scenes():
        entry = content["database"][scene.name]
        assert entry["duration"] == scene.seconds
        assert entry["annotations"] == [{"segment": [a.start, a.end], "label": a.label} for a in scene.actions]
        video = Video(tmp_path / f"{scene.name}.mp4")
        assert sum(1 for _ in video.frames()) == scene.num_frames


def test_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    def stopped(scene):
        if scene.name == "train_001":
            raise KeyboardInterrupt
        return render(scene)

    render = films.render
    monkeypatch.setattr(films, "render", stopped)
    with pytest.raises(KeyboardInterrupt):
        films.write_films(SMALL, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"annotations.json", "train_000.mp4"}
    monkeypatch.undo()
    before = (tmp_path / "train_000.mp4").stat().st_mtime_ns
    films.write_films(SMALL, tmp_path)
    assert (tmp_path / "train_000.mp4").stat().st_mtime_ns == before
    assert len(list(tmp_path.glob("*.mp4"))) == 3


def test_other_films_are_refused(tmp_path):
    films.write_films(SMALL, tmp_path)
    with pytest.raises(UserError, match=r"annotations.json: belongs to other films"):
        films.write_films(SMALL._replace(counts={"train": 3}), tmp_path)


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(films.COLLECTIONS, "tiny", SMALL)
    arguments = ["--films=tiny", f"--output={tmp_path}"]
    assert films.main(arguments) == 0
    assert capsys.readouterr().out == f"written: 3 films and annotations.json in {tmp_path}\n"
    (tmp_path / "annotations.json").write_text("{}")
    assert films.main(arguments) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'annotations.json'}: belongs to other films")

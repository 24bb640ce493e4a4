"""Renders the films of toy_videos and writes them, with annotations in the form of ActivityNet beside them.

    python -m a2net_tf.datasets.toy_videos.films --output=FOLDER

A film that is there is not rendered again, so the same command goes on where it was stopped.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
import tqdm

from a2net_tf import safe_files
from a2net_tf.datasets.toy_videos import scenes
from a2net_tf.datasets.toy_videos.scenes import FRAME_RATE, HEIGHT, WIDTH, Pose, Scene
from a2net_tf.errors import UserError
from a2net_tf.video import clips, decoding

VERSION = "1.0.0"  # to be raised with any change of what is seen
ANNOTATIONS_FILE = "annotations.json"

NOISE = 3.0  # standard deviation of each value of a picture, of 0 to 255
_NOISES = 12  # pictures of noise that a film has; each frame takes one of them, mirrored at random
_MARGIN = 56  # pixels of background on each side that come into the picture as it drifts
_FLASH = 60.0  # added to a picture
_SUBPIXEL_BITS = 4


class Collection(NamedTuple):
    """So many films of each split, and the shortest and longest that films and actions may be, in seconds."""

    counts: dict[str, int]
    seconds: tuple[float, float]
    action_seconds: tuple[float, float]

    def scenes(self) -> list[Scene]:
        """What happens in each of its films."""
        return [
            scenes.draw_scene(split, index, self.seconds, self.action_seconds)
            for split, count in self.counts.items()
            for index in range(count)
        ]


COLLECTIONS = {
    "full": Collection({"train": 28, "validation": 6, "test": 8}, (60.0, 75.0), (0.5, 15.0)),
    "tiny": Collection({"train": 2, "validation": 1, "test": 1}, (8.0, 10.0), (0.5, 2.0)),
}


# Pictures


def render(scene: Scene) -> Iterator[np.ndarray]:
    """u8[H, W, 3], red first, of one frame after the other; frame k shows the middle of its time, (k + 0.5) / 25 s."""
    cv2 = clips.import_cv2()
    rng = np.random.default_rng((*scene.seed, 1))
    texture = _draw_texture(rng, cv2)
    noises = rng.normal(0, NOISE, (_NOISES, HEIGHT, WIDTH, 3)).astype(np.float32)
    for frame in range(scene.num_frames):
        seconds = (frame + 0.5) / FRAME_RATE
        x, y = scene.background_at(seconds)
        middle = (_MARGIN + WIDTH / 2 - 0.5 - x, _MARGIN + HEIGHT / 2 - 0.5 - y)
        image = cv2.getRectSubPix(texture, (WIDTH, HEIGHT), middle)
        flash = _draw_things(image, scene, seconds, cv2)
        noise = noises[rng.integers(_NOISES)][:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
        yield np.clip(image + noise + flash, 0, 255).astype(np.uint8)


def _draw_texture(rng: np.random.Generator, cv2: ModuleType) -> np.ndarray:
    """u8[H, W, 3], larger than a picture on each side: spots of several sizes, lighter and darker than grey."""
    height, width = HEIGHT + 2 * _MARGIN, WIDTH + 2 * _MARGIN
    texture = np.full((height, width), rng.uniform(90, 120))
    for cell, strength in ((40, 8), (14, 6), (5, 4)):
        spots = rng.normal(0, strength, (height // cell, width // cell))
        texture += cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.repeat(np.clip(texture, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _draw_things(image: np.ndarray, scene: Scene, seconds: float, cv2: ModuleType) -> float:
    """Draws what is seen, actions in front, and returns how much brighter the picture is."""
    flash = 0.0
    for thing in sorted(scene.things, key=lambda thing: thing.label != ""):
        pose = scene.pose_at(thing, seconds)
        if pose is None:
            continue
        if thing.shape == "flash":
            flash = _FLASH
        else:
            corners = np.round(outline(thing.shape, pose) * 2**_SUBPIXEL_BITS).astype(np.int32)
            cv2.fillPoly(image, [corners], thing.colour, cv2.LINE_AA, _SUBPIXEL_BITS)
    return flash


def outline(shape: str, pose: Pose) -> np.ndarray:
    """f64[N, 2]: the corners of a shape in a picture, x and y in pixels."""
    if shape == "bar":
        corners = np.array([(1.0, 0.3), (-1.0, 0.3), (-1.0, -0.3), (1.0, -0.3)])
    else:
        count = {"disc": 32, "square": 4, "triangle": 3, "star": 10}[shape]
        angles = 2 * np.pi * np.arange(count) / count
        corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        if shape == "star":
            corners[1::2] *= 0.4
    angle = np.deg2rad(pose.angle)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return corners @ turn * pose.size + (pose.x, pose.y)


# Files


def write_films(collection: Collection, folder: pathlib.Path) -> list[Scene]:
    """Writes films that are not there yet to ``folder``/NAME.mp4, and annotations.json; returns what happens in each.

    Raises:
        UserError: PyAV or OpenCV is missing, the folder cannot be written or holds other films.
    """
    decoding.import_av()
    clips.import_cv2()
    all_scenes = collection.scenes()
    _write_annotations(all_scenes, folder)
    waiting = [scene for scene in all_scenes if not film_of(scene, folder).exists()]
    with tqdm.tqdm(desc="rendering", total=len(waiting), unit="film", leave=False, disable=None) as bar:
        for scene in waiting:
            with safe_files.replace_file(film_of(scene, folder)) as temporary:
                write_film(scene, temporary)
            bar.update()
    return all_scenes


def film_of(scene: Scene, folder: pathlib.Path) -> pathlib.Path:
    """Where the film of a scene lies."""
    return folder / f"{scene.name}.mp4"


def write_film(scene: Scene, path: pathlib.Path) -> None:
    """Writes one film as MP4: H.264 where this build of PyAV has it, else MPEG-4."""
    av = decoding.import_av()
    codec, options = ("libx264", {"preset": "veryfast", "crf": "22"}) if _can_encode("libx264", av) else ("mpeg4", {})
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=FRAME_RATE, options={"threads": "1", **options})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if codec == "mpeg4":
            stream.bit_rate = 1_000_000
        for image in render(scene):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _can_encode(codec: str, av: ModuleType) -> bool:
    try:
        return bool(av.codec.Codec(codec, "w").is_encoder)
    except ValueError:
        return False


def annotations(all_scenes: list[Scene]) -> dict:
    """What happens in the films, in the form of ActivityNet."""
    database = {
        scene.name: {
            "subset": scene.name.rpartition("_")[0],
            "duration": scene.seconds,
            "annotations": [{"segment": [a.start, a.end], "label": a.label} for a in scene.actions],
        }
        for scene in all_scenes
    }
    return {"version": f"toy_videos {VERSION}", "classes": list(scenes.CLASS_NAMES), "database": database}


def _write_annotations(all_scenes: list[Scene], folder: pathlib.Path) -> None:
    """Before any film: they say which films are in the folder."""
    file, content = folder / ANNOTATIONS_FILE, annotations(all_scenes)
    if file.exists() and safe_files.read_json(file) != content:
        raise UserError(f"{file}: belongs to other films, or to another version of these; give another folder")
    if not file.exists():
        safe_files.write_json(file, content)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Renders short films with six kinds of actions.")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="the folder to write films to")
    parser.add_argument("--films", default="full", choices=COLLECTIONS, help="how many, and how long (%(default)s)")
    chosen = parser.parse_args(arguments)
    try:
        all_scenes = write_films(COLLECTIONS[chosen.films], chosen.output)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {len(all_scenes)} films and {ANNOTATIONS_FILE} in {chosen.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

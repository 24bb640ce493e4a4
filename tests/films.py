"""Small video files for tests, rendered by PyAV. Every picture says its own number, whatever a codec does to it."""

import fractions
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from tests import tiny

WIDTH, HEIGHT = 64, 48
EXTRACTOR_SIZE = 16  # height and width of the frames of ``save_extractor``
FRAME = f"--frame_size={EXTRACTOR_SIZE}"
PICTURES = {"a": 200, "b": 210, "c [1]": 190}  # of each film of ``films_and_run``


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """u8[H, W, 3]: eight upright bars in the upper half are the number's bits, the lower half is coloured by it."""
    bits = [(number >> bit) & 1 for bit in range(8)]
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2] = np.array(bits)[np.arange(width) * 8 // width][None, :, None] * 255
    image[height // 2 :] = (5 * number % 256, 128, 255 - 5 * number % 256)
    return image


def number_of(image: np.ndarray) -> int:
    """The number of a ``picture``, also of one that was resized."""
    middles = (np.arange(8) * 2 + 1) * image.shape[1] // 16
    return sum(int(image[image.shape[0] // 4, middle].mean() > 127) << bit for bit, middle in enumerate(middles))


def write(
    path: pathlib.Path,
    images: Sequence[np.ndarray] | int = 50,
    *,
    rate: fractions.Fraction | int = 25,
    seconds: Sequence[float] | None = None,
    codec: str = "mpeg4",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    open_options: dict[str, str] | None = None,
) -> pathlib.Path:
    """A film of ``images`` (or so many pictures), evenly spaced or shown at ``seconds``."""
    import av

    images = [picture(number) for number in range(images)] if isinstance(images, int) else images
    ticks = fractions.Fraction(1, 1000) if seconds is not None else 1 / fractions.Fraction(rate)
    with av.open(str(path), "w", options=open_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options={"threads": "1", **(options or {})})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = ticks
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = number if seconds is None else round(seconds[number] * 1000)
            frame.time_base = ticks
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: pathlib.Path) -> pathlib.Path:
    """A second of sound, without pictures."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def save_extractor(path: pathlib.Path) -> pathlib.Path:
    """A SavedModel that makes two values of a clip: what its first and its last picture say, see ``picture``."""
    import tensorflow as tf

    size = EXTRACTOR_SIZE

    class Looks(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None, size, size, 3))])
        def __call__(self, clips):
            bars = tf.reduce_mean(tf.reshape(clips[:, :, size // 4], (tf.shape(clips)[0], -1, 8, size // 8 * 3)), -1)
            numbers = tf.reduce_sum(tf.cast(bars > 127, tf.float32) * 2.0 ** tf.range(8.0), -1)
            return {"vectors": tf.stack([numbers[:, 0], numbers[:, -1]], 1)}

    looks = Looks()
    tf.saved_model.save(looks, str(path), {"serving_default": looks.__call__})
    return path


def annotate(folder: pathlib.Path, subsets: dict[str, str]) -> None:
    """An action in each video, from 2 to 4 s."""
    database = {
        name: {"subset": subset, "duration": PICTURES[name] / 25, "annotations": [{"segment": [2, 4], "label": "x"}]}
        for name, subset in subsets.items()
    }
    (folder / "actions.json").write_text(json.dumps({"database": database}))


def train(folder: pathlib.Path, extractor: pathlib.Path, workdir: pathlib.Path, *more: str) -> list[str]:
    """Flags of one epoch of training on a folder of films."""
    return [
        *("--mode=train", f"--workdir={workdir}", f"--videos={folder}", f"--extractor=saved_model:{extractor}", FRAME),
        *("--input_range=0..255", "--frame_rate=10", *tiny.NETWORK, "--train_stride_steps=8", "--epochs=1", *more),
    ]


@tiny.once
def films_and_run(path: pathlib.Path) -> None:
    """Films, an extractor ("looks"), a run that was trained on the films, and the model that is exported of it."""
    (path / "films").mkdir(parents=True)
    for name, count in PICTURES.items():
        write(path / "films" / f"{name}.mp4", count)
    annotate(path / "films", {"a": "train", "b": "train", "c [1]": "test"})
    save_extractor(path / "looks")
    with tiny.silence():
        assert tiny.main(train(path / "films", path / "looks", path / "run")) == 0
        exported = ["--mode=export", f"--workdir={path / 'run'}", f"--saved_model={path / 'model'}"]
        assert tiny.main([*exported, "--eval_split=test"]) == 0

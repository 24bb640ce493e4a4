"""How long the parts of --mode=extract take, as multiples of real time.

    python benchmarks/extraction.py --videos=FILE_OR_FOLDER [settings of --mode=extract]

prints, for all videos together, the seconds (median of --repeats rounds in which the parts take turns) and how many
seconds of video each part does in one: decoding; decoding and making pictures of the size that the network takes; with
optical flow or clips, if the settings ask for them; the network alone, on so many clips that are in memory already; and
all of it, as the command does it. The last line is what is left of the network's own speed: 100 % would mean that
everything else hides behind it.
"""

import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout runs without being installed

import numpy as np

from a2net_tf import settings
from a2net_tf.report.text_tables import align
from a2net_tf.video import clips, description
from a2net_tf.video.decoding import Video, resample
from a2net_tf.video.extraction import Extraction
from a2net_tf.video.video_files import find_videos

_REPEATS = "--repeats="


def main() -> None:
    """Prints the table."""
    arguments = sys.argv[1:]
    if "--help" in arguments:
        print(__doc__)
        return
    repeats = [int(a.removeprefix(_REPEATS)) for a in arguments if a.startswith(_REPEATS)]
    others = [argument for argument in arguments if not argument.startswith(_REPEATS)]
    config, _ = settings.parse(["--mode=extract", *others])
    settings.require(config, "videos")
    files = list(find_videos(config.videos).values())
    extraction = description.open_extraction(config)
    parts = {
        "decoding": lambda: [_count(Video(file).frames()) for file in files],
        "decoding and resizing": lambda: [_count(_pictures(file, extraction)) for file in files],
        "everything but the network": lambda: [_count(extraction.batches(Video(file))) for file in files],
        "the network alone": _network_alone(extraction, files),
        "all together": lambda: [_count(extraction.vectors(Video(file))) for file in files],
    }
    seconds = measure(parts, repeats[0] if repeats else 3)
    print(f"{len(files)} videos, {_length(files):.1f} s, {extraction.extractor.name}, {extraction.motion} beside it")
    print(align(_rows(seconds, _length(files))))
    share = statistics.median(
        alone / whole for alone, whole in zip(seconds["the network alone"], seconds["all together"], strict=True)
    )
    print(f"share of the network's own speed: {100 * share:.0f} %")


def measure(parts: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each part in each round; one round before is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(repeats + 1):
        for name, part in parts.items():
            started = time.perf_counter()
            part()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _pictures(file: pathlib.Path, extraction: Extraction):
    cv2, size = clips.import_cv2(), extraction.extractor.size
    for number, frame in enumerate(resample(Video(file).frames(), extraction.frame_rate)):
        if number % extraction.stride_frames < extraction.extractor.clip_frames:
            yield clips.resize(frame.to_rgb(), size, extraction.fit, cv2)


def _network_alone(extraction: Extraction, files: list[pathlib.Path]) -> Callable[[], None]:
    """Runs the network on as many batches of the same size as the videos have, of one clip again and again."""
    sizes = [len(batch) for file in files for batch, _ in extraction.batches(Video(file))]
    one = next(extraction.batches(Video(files[0])))[0][:1].numpy()
    batches = {size: np.repeat(one, size, axis=0) for size in set(sizes)}

    def run() -> None:
        for size in sizes:
            extraction.extractor(batches[size])

    return run


def _count(items) -> int:
    return sum(1 for _ in items)


def _length(files: list[pathlib.Path]) -> float:
    videos = [Video(file) for file in files]
    for video in videos:
        _count(video.frames())
    return sum(video.seconds for video in videos)


def _rows(seconds: dict[str, list[float]], length: float) -> list[list[str]]:
    rows = [["part", "seconds", "times real time"]]
    for name, found in seconds.items():
        median = statistics.median(found)
        rows.append([name, f"{median:.2f}", f"{length / median:.1f}"])
    return rows


if __name__ == "__main__":
    main()

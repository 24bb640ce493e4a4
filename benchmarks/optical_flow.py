"""How long optical flow takes, and how far the algorithms are from each other.

    python benchmarks/optical_flow.py --videos=FILE_OR_FOLDER,...

prints for each algorithm the seconds for a pair of pictures (the median of --repeats rounds in which all take turns,
every core with a pair of its own), how many times as fast as OpenCV's TV-L1 that is, and the mean distance of its flow
from that of OpenCV's TV-L1 in pixels, both cut off at 20 pixels. Of each video a few pairs are taken, spread over it.
"""

import argparse
import os
import pathlib
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout runs without being installed

import cv2
import numpy as np

from a2net_tf.report.text_tables import align
from a2net_tf.video import optical_flow
from a2net_tf.video.decoding import Video
from a2net_tf.video.video_files import find_videos

_REFERENCE = "OpenCV's TV-L1"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", required=True, help="files, or folders of them, with commas between")
    parser.add_argument("--pairs", type=int, default=2, help="of neighbouring pictures of each video (%(default)s)")
    parser.add_argument("--size", default="340x256", help="of the pictures (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that are timed (%(default)s)")
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    pairs = [
        pair
        for source in options.videos.split(",")
        for file in find_videos(source).values()
        for pair in read_pairs(file, options.pairs, (width, height))
    ]
    seconds, found = measure(pairs, options.repeats)
    print(f"{len(pairs)} pairs of {width} x {height} pixels, {optical_flow.num_cores()} cores")
    print(align(_rows(seconds, found)))


def read_pairs(file: pathlib.Path, count: int, size: tuple[int, int]) -> list[optical_flow.Pair]:
    """``count`` pairs of neighbouring pictures, spread evenly over a video."""
    pictures = [
        cv2.cvtColor(cv2.resize(frame.to_rgb(), size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        for frame in Video(file).frames()
    ]
    starts = np.linspace(0, len(pictures) - 2, count + 2).astype(int)[1:-1]
    return [(pictures[start], pictures[start + 1]) for start in starts]


def opencv_tvl1(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """OpenCV's own TV-L1; only the packages with contrib in their names have it."""
    algorithm = cv2.optflow.DualTVL1OpticalFlow_create()
    return np.stack([algorithm.calc(*pair, None) for pair in zip(first, second, strict=True)])


def algorithms() -> dict[str, optical_flow.FlowOfPairs]:
    """By their names in the table."""
    return {
        _REFERENCE: opencv_tvl1,
        "tvl1": optical_flow.tvl1_flow,
        "dis": optical_flow.dis_flow,
        "farneback": optical_flow.farneback_flow,
    }


def measure(pairs: list[optical_flow.Pair], repeats: int) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Seconds for a pair, by algorithm and round, and the flows [pairs, H, W, 2]."""
    seconds: dict[str, list[float]] = {name: [] for name in algorithms()}
    found = {name: flow(*(each[None] for each in pairs[0])) for name, flow in algorithms().items()}  # compiles
    for _ in range(repeats):
        for name, flow in algorithms().items():
            started = time.perf_counter()
            found[name] = np.stack(list(optical_flow.in_threads(pairs, flow, threads=optical_flow.num_cores())))
            seconds[name].append((time.perf_counter() - started) / len(pairs))
    return seconds, found


def _rows(seconds: dict[str, list[float]], found: dict[str, np.ndarray]) -> list[list[str]]:
    rows = [["", "s per pair", "times as fast (least, most)", "pixels away (worst pair)"]]
    for name, taken in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds[_REFERENCE], taken, strict=True)]
        away = np.linalg.norm(_cut_off(found[name]) - _cut_off(found[_REFERENCE]), axis=-1).mean((1, 2))
        speed = f"{statistics.median(ratios):.1f} ({min(ratios):.1f}, {max(ratios):.1f})"
        rows.append([name, f"{statistics.median(taken):.4f}", speed, f"{away.mean():.3f} ({away.max():.3f})"])
    return rows


def _cut_off(flow: np.ndarray) -> np.ndarray:
    return np.clip(flow, -optical_flow.BOUND, optical_flow.BOUND)


if __name__ == "__main__":
    main()

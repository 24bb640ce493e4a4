"""How long optical flow takes, and how far the algorithms are from each other.

    python benchmarks/optical_flow.py --videos=FILE_OR_FOLDER,...

prints for each algorithm the seconds for a pair of pictures (the median of --repeats rounds in which all take turns,
every core with a pair of its own), how many times as fast as OpenCV's TV-L1 that is, the same of the processor's time,
which other work disturbs less, and the mean distance of its flow from that of OpenCV's TV-L1 in pixels, both cut off at
20 pixels. Of each video a few pairs are taken, spread over it.

    python benchmarks/optical_flow.py --videos=... --features --flow_weights=flow_imagenet/model.ckpt

prints what another flow does to features, in the middle --seconds of each video: the mean cosine similarity to the same
feature made with TV-L1, of --motion=flow_statistics and of I3D's vectors, as they are and without the mean vector of
all (vectors of one network are all alike: what tells them apart is left then). No flow at all, as if nothing moved,
shows what is to be lost. Without --flow_weights I3D has random weights, and its numbers are no more than a hint.
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
import keras
import numpy as np

from a2net_tf.report.text_tables import align
from a2net_tf.video import flow_clips, optical_flow
from a2net_tf.video.decoding import Frame, Video, resample
from a2net_tf.video.extractors import i3d, i3d_weights
from a2net_tf.video.extractors.extractor import Extractor
from a2net_tf.video.video_files import find_videos

_REFERENCE = "OpenCV's TV-L1"
_RATE_OF_STATISTICS = 5.0  # of single frames, unless another is asked for


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", required=True, help="files, or folders of them, with commas between")
    parser.add_argument("--pairs", type=int, default=2, help="of neighbouring pictures of each video (%(default)s)")
    parser.add_argument("--size", default="340x256", help="of the pictures (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that are timed (%(default)s)")
    parser.add_argument("--features", action="store_true", help="compare features, not flow")
    parser.add_argument("--flow_weights", default="", help="of I3D's stream of optical flow")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each video, for --features (%(default)s)")
    options = parser.parse_args()
    files = [file for source in options.videos.split(",") for file in find_videos(source).values()]
    if options.features:
        print(align(_similarities(files, options.seconds, options.flow_weights)))
        return
    width, height = (int(side) for side in options.size.split("x"))
    pairs = [pair for file in files for pair in read_pairs(file, options.pairs, (width, height))]
    seconds, cpu_seconds, found = measure(pairs, options.repeats)
    print(f"{len(pairs)} pairs of {width} x {height} pixels, {optical_flow.num_threads()} cores")
    print(align(_rows(seconds, cpu_seconds, found)))


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
    return {_REFERENCE: opencv_tvl1, **optical_flow.ALGORITHMS}


Seconds = dict[str, list[float]]  # for a pair, by algorithm and round


def measure(pairs: list[optical_flow.Pair], repeats: int) -> tuple[Seconds, Seconds, dict[str, np.ndarray]]:
    """Seconds, seconds of the processor, and the flows [pairs, H, W, 2]."""
    seconds: Seconds = {name: [] for name in algorithms()}
    cpu_seconds: Seconds = {name: [] for name in algorithms()}
    found = {name: flow(*(each[None] for each in pairs[0])) for name, flow in algorithms().items()}  # compiles
    for _ in range(repeats):
        for name, flow in algorithms().items():
            started, cpu_started = time.perf_counter(), time.process_time()
            found[name] = np.stack(list(optical_flow.in_threads(pairs, flow, threads=optical_flow.num_threads())))
            seconds[name].append((time.perf_counter() - started) / len(pairs))
            cpu_seconds[name].append((time.process_time() - cpu_started) / len(pairs))
    return seconds, cpu_seconds, found


def _rows(seconds: Seconds, cpu_seconds: Seconds, found: dict[str, np.ndarray]) -> list[list[str]]:
    faster = "times as fast (least, most)"
    rows = [["", "s per pair", faster, "CPU s per pair", faster, "pixels away (worst pair)"]]
    for name, flow in found.items():
        away = np.linalg.norm(_cut_off(flow) - _cut_off(found[_REFERENCE]), axis=-1).mean((1, 2))
        speed = [*_speed(seconds, name), *_speed(cpu_seconds, name)]
        rows.append([name, *speed, f"{away.mean():.3f} ({away.max():.3f})"])
    return rows


def _speed(seconds: Seconds, name: str) -> tuple[str, str]:
    ratios = [theirs / ours for theirs, ours in zip(seconds[_REFERENCE], seconds[name], strict=True)]
    ratio = f"{statistics.median(ratios):.1f} ({min(ratios):.1f}, {max(ratios):.1f})"
    return f"{statistics.median(seconds[name]):.4f}", ratio


def _cut_off(flow: np.ndarray) -> np.ndarray:
    return np.clip(flow, -optical_flow.BOUND, optical_flow.BOUND)


# Features


def _similarities(files: list[pathlib.Path], seconds: float, weights: str) -> list[list[str]]:
    extractor = _i3d(weights)
    # Clips ask for flow by its name.
    optical_flow.ALGORITHMS.update({_REFERENCE: opencv_tvl1, "no flow": _no_flow})
    found: dict[str, list[list[np.ndarray]]] = {name: [[], []] for name in optical_flow.ALGORITHMS}
    for file in files:
        for name, (statistics_of, vectors_of) in found.items():
            statistics_of.append(_statistics(file, seconds, name))
            vectors_of.append(_vectors(file, seconds, name, extractor))
    joined = {name: [np.concatenate(values) for values in both] for name, both in found.items()}
    (expected, vectors), kind = joined["tvl1"], "given" if weights else "random"
    print(f"{len(expected)} statistics, {len(vectors)} vectors of I3D with {kind} weights, of {len(files)} videos")
    rows = [["cosine similarity to tvl1", "statistics", "I3D", "I3D less the mean"]]
    for name, (others, other_vectors) in joined.items():
        mean = vectors.mean(0)
        values = (
            _cosine(others, expected),
            _cosine(other_vectors, vectors),
            _cosine(other_vectors - mean, vectors - mean),
        )
        rows.append([name, *(f"{value:.3f}" for value in values)])
    return rows


def _i3d(weights: str) -> Extractor:
    """The stream of flow; random weights are drawn so that values keep their size from layer to layer."""
    if weights:
        return i3d_weights.open_extractor("", weights, "float32")
    keras.utils.set_random_seed(0)
    network = i3d.build(16, channels=2)
    random = np.random.default_rng(0)
    for weight in network.trainable_weights:
        if weight.name == "kernel":
            weight.assign(random.normal(0, np.sqrt(2 / np.prod(weight.shape[:-1])), weight.shape))
    return Extractor(
        name="i3d",
        origin="random",
        frame_rate=25.0,
        clip_frames=16,
        stride_frames=4,
        size=i3d.SIZE,
        num_features=i3d.NUM_FEATURES,
        preprocess=i3d.preprocess,
        network=network,
        looks_at="flow",
    )


def _no_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.zeros((*first.shape, 2), np.float32)


def _middle(file: pathlib.Path, seconds: float, rate: float) -> list[Frame]:
    """Frames of the middle of a video, at a rate."""
    frames = list(resample(Video(file).frames(), rate))
    count = round(seconds * rate) + 1
    start = max(0, (len(frames) - count) // 2)
    return frames[start : start + count]


def _statistics(file: pathlib.Path, seconds: float, name: str) -> np.ndarray:
    flow = flow_clips.Flow(name, "8bit")
    frames = _middle(file, seconds, _RATE_OF_STATISTICS)
    how = {"frame_rate": _RATE_OF_STATISTICS, "stride_frames": 1, "size": 16, "fit": "squash"}
    return np.array([values for _, values in flow_clips.frames_with_statistics(frames, flow, **how)][1:])


def _vectors(file: pathlib.Path, seconds: float, name: str, extractor: Extractor) -> np.ndarray:
    frames, flow = _middle(file, seconds, extractor.frame_rate), flow_clips.Flow(name, "8bit")
    how = {"clip_frames": extractor.clip_frames, "stride_frames": extractor.stride_frames, "size": extractor.size}
    found = flow_clips.flow_clips(frames, flow, with_rgb=False, fit="squash", **how)
    return np.concatenate([extractor(clip[None]) for clip in found])


def _cosine(found: np.ndarray, expected: np.ndarray) -> float:
    """The mean over pairs of vectors; where one is nothing but zeros, 0."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(np.mean((found * expected).sum(1) / np.maximum(lengths, 1e-12)))


if __name__ == "__main__":
    main()

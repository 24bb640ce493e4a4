"""How long non-maximum suppression of one long sequence takes: by TensorFlow's operator alone, and in the localizer.

    python benchmarks/suppression.py

prints a line per kind of candidates, with the seconds for each number of detections to keep. A million candidates are
what windows of 128 steps, six levels and both branches find in 85,000 steps (3 hours of THUMOS14 features). Scattered
ones have any length from 2 to 200 steps; crowded ones lie in 2,000 heaps, of which about one each is kept. Both ways
keep the same; of equal scores the operator may keep another one.

    python benchmarks/suppression.py --proposals

times what chooses proposals between two stages (756 candidates of each of 32 windows) beside TensorFlow's operators for
batches, and says whether they keep the same.
"""

import argparse
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout runs without being installed

import numpy as np
import tensorflow as tf

from a2net_tf.detection import proposals
from a2net_tf.detection.localizer import Localizer
from a2net_tf.detection.model import build_model
from a2net_tf.detection.postprocess import Candidates, Detections, suppress, suppress_sequences
from a2net_tf.settings import Config

_CANDIDATES_PER_STEP = 756 / 64
_HEAPS = 2000
_TIOU = 0.2


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1_000_000, help="of the sequence (default %(default)s)")
    parser.add_argument("--keep", default="200,10000", help="detections to keep (default %(default)s)")
    parser.add_argument("--proposals", action="store_true", help="time the choice of proposals instead")
    options = parser.parse_args()
    if options.proposals:
        time_proposals()
        return
    keep = [int(number) for number in options.keep.split(",")]
    columns = [f"{title} {number}" for number in keep for title in ("kept of", "operator,", "here,", "same,")]
    print(f"{'places':<10}{'classes':>8} {'scores':<13}" + "".join(f"{column:>17}" for column in columns))
    for places, classes, scores in _kinds():
        candidates = make_candidates(options.candidates, places, classes, scores)
        cells = "".join(_cells(candidates, number, comparable=scores == "distinct") for number in keep)
        print(f"{places:<10}{classes:>8} {scores:<13}{cells}", flush=True)
    print(f"crowded, 20 classes, by the localizer, with merging of the branches and seconds: {_detect(options, keep)}")


def time_proposals(*, windows: int = 32, candidates: int = 756, keep: int = 128, turns: int = 20) -> None:
    """Prints median milliseconds of suppression in windows, as the network does it and by TensorFlow's operators."""
    random = np.random.default_rng(0)
    shape = (windows, candidates)
    center, length = random.uniform(size=shape), np.exp(random.uniform(np.log(0.01), 0, shape))
    ends = np.clip(np.stack([center - length / 2, center + length / 2], axis=-1), 0, 1)
    arguments = tf.constant(ends, tf.float32), tf.constant(random.uniform(size=shape), tf.float32)
    device = (tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))[0].name
    print(f"{windows} windows of {candidates} candidates, {keep} to keep, on {device}")
    print(f"{'tIoU':<8}{'here, ms':>12}{'with XLA':>12}{'combined':>12}{'padded':>12}{'same':>8}")
    for tiou in (0.7, 0.8, 0.9):
        rows = [_timed(function, arguments, turns) for function in _batched(tiou, keep)]
        same = all(np.allclose(scores, rows[0][1]) for _, scores in rows)
        print(f"{tiou:<8}" + "".join(f"{1000 * taken:>12.1f}" for taken, _ in rows) + f"{'yes' if same else 'NO':>8}")


def _batched(tiou: float, keep: int) -> list[Callable]:
    """Functions of segments and scores to the scores of what is kept."""

    def here(segments, scores):
        return proposals.choose(segments, scores, tiou=tiou, number=keep).scores

    def boxes(segments):
        start, end = tf.unstack(segments, axis=-1)
        return tf.stack([start, tf.zeros_like(start), end, tf.ones_like(end)], axis=-1)

    def combined(segments, scores):
        limits = {"max_output_size_per_class": keep, "max_total_size": keep, "iou_threshold": tiou}
        operator = tf.image.combined_non_max_suppression
        return operator(boxes(segments)[:, :, None], scores[..., None], **limits, clip_boxes=False)[1]

    def padded(segments, scores):
        operator = tf.image.non_max_suppression_padded
        places, _ = operator(boxes(segments), scores, keep, tiou, pad_to_max_output_size=True, sorted_input=False)
        return tf.sort(tf.gather(scores, places, batch_dims=1), direction="DESCENDING")

    return [tf.function(here), tf.function(here, jit_compile=True), tf.function(combined), tf.function(padded)]


def _timed(function: Callable, arguments: tuple, turns: int) -> tuple[float, np.ndarray]:
    function(*arguments).numpy()
    times = []
    for _ in range(turns):
        started = time.perf_counter()
        scores = function(*arguments).numpy()
        times.append(time.perf_counter() - started)
    return float(np.median(times)), scores


def _kinds() -> Iterator[tuple[str, int, str]]:
    for places in ("scattered", "crowded"):
        for classes in (1, 20, 200):
            yield places, classes, "distinct"
        yield places, 20, "64 values"
        yield places, 20, "90% zero"


def make_candidates(count: int, places: str, classes: int, scores: str) -> Candidates:
    """One sequence's candidates [1, ``count``, ...] of the kind that the words say."""
    random = np.random.default_rng(0)
    steps = count / _CANDIDATES_PER_STEP
    if places == "scattered":
        center, length = random.uniform(0, steps, count), np.exp(random.uniform(np.log(2), np.log(200), count))
    else:
        heap = random.integers(0, _HEAPS // classes, count)
        center = random.uniform(0, steps, _HEAPS)[heap] + random.normal(0, 3, count)
        length = 30 * np.exp(random.normal(0, 0.2, count))
    values = (random.permutation(count) + 1) / (count + 1)
    if scores == "64 values":
        values = np.ceil(64 * values) / 64
    if scores == "90% zero":
        values = np.where(random.uniform(size=count) < 0.9, 0, values)
    segments = np.stack([center - length / 2, center + length / 2], axis=-1)
    class_ids = random.integers(0, classes, count)
    return Candidates(
        tf.constant(segments[None], tf.float32),
        tf.constant(values[None], tf.float32),
        tf.constant(class_ids[None], tf.int32),
    )


def _cells(candidates: Candidates, keep: int, *, comparable: bool) -> str:
    kept, times = [], []
    for function in (suppress, suppress_sequences):
        run = tf.function(
            lambda *values, function=function: function(Candidates(*values), tiou=_TIOU, max_detections=keep),
            input_signature=[tf.TensorSpec((None, None, *v.shape[2:]), v.dtype) for v in candidates],
        )
        run(*(values[:, :100] for values in candidates))
        taken, detections = seconds(lambda run=run: run(*candidates))
        times.append(taken)
        kept.append(detections)
    same = all(np.array_equal(a, b) for a, b in zip(*kept, strict=True))
    told = ("yes" if same else "NO") if comparable else "-"
    count = int(kept[0].num_detections[0])
    return f"{count:>17}{times[0]:>17.2f}{times[1]:>17.2f}{told:>17}"


def seconds(call: Callable[[], Detections]) -> tuple[float, Detections]:
    """How long a call takes, and what it gives."""
    started = time.perf_counter()
    detections = call()
    detections.scores.numpy()
    return time.perf_counter() - started, detections


def _detect(options: argparse.Namespace, keep: list[int]) -> str:
    candidates = make_candidates(options.candidates, "crowded", 20, "distinct")
    names = [f"class{i}" for i in range(20)]
    told = []
    for number in keep:
        config = Config(
            max_detections=number, base_channels=1, level_channels=(1,) * 6, head_channels=1, precision="float32"
        )
        localizer = Localizer(build_model(config, 1, len(names)), config, names)
        whole = options.candidates // 756 * 756  # of whole windows
        arguments = (
            Candidates(*(values[:, :whole] for values in candidates)),
            tf.constant([round(whole / _CANDIDATES_PER_STEP)]),
            tf.constant([4 / 30]),
            tf.constant([0.0]),
            tf.constant(0.5),
        )
        localizer.detect["both"](Candidates(*(values[:, :756] for values in candidates)), *arguments[1:])
        taken, _ = seconds(lambda run=localizer.detect["both"], arguments=arguments: run(*arguments))
        told.append(f"{taken:.2f} s ({number})")
    return ", ".join(told)


if __name__ == "__main__":
    main()

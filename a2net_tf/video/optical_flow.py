"""Optical flow of pairs of pictures, in constant memory, and 8-bit pictures of it, which networks look at."""

import collections
import concurrent.futures
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf

from a2net_tf.processor import num_cores
from a2net_tf.video.clips import import_cv2
from a2net_tf.video.tvl1 import tvl1

VALUES = ("8bit", "float")
BOUND = 20.0  # pixels; what is beyond them is cut off
_PAIRS_ON_GPU = 32  # of pictures that go through together; on a CPU each core has a pair of its own

Pair = tuple[np.ndarray, np.ndarray]
FlowOfPairs = Callable[[np.ndarray, np.ndarray], np.ndarray]


def flows(pairs: Iterable[Pair], algorithm: str) -> Iterator[np.ndarray]:
    """The flow from the first to the second picture of each pair.

    Args:
        pairs: of u8[H, W], grey, all of one size; a few are taken ahead.
        algorithm: of ``ALGORITHMS``.

    Yields:
        f32[H, W, 2], in the order of the pairs: how many pixels each pixel moves to the right and downwards.
    """
    if algorithm == "tvl1" and tf.config.list_logical_devices("GPU"):
        of_many = functools.partial(tvl1_flow, num_pairs=_PAIRS_ON_GPU)
        return in_threads(pairs, of_many, threads=1, num_pairs=_PAIRS_ON_GPU)
    return in_threads(pairs, ALGORITHMS[algorithm], threads=num_threads())


def in_threads(
    pairs: Iterable[Pair], of_pairs: FlowOfPairs, *, threads: int, num_pairs: int = 1
) -> Iterator[np.ndarray]:
    """``flows`` by a function: u8[N, H, W] twice to f32[N, H, W, 2], where N is ``num_pairs``, in the end fewer."""
    waiting: collections.deque = collections.deque()
    pairs = iter(pairs)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        while some := list(itertools.islice(pairs, num_pairs)):
            waiting.append(pool.submit(of_pairs, *map(np.stack, zip(*some, strict=True))))
            if len(waiting) > threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def num_threads() -> int:
    """As many as TensorFlow has been given, or else one for each core."""
    return tf.config.threading.get_intra_op_parallelism_threads() or num_cores()


def tvl1_flow(first: np.ndarray, second: np.ndarray, num_pairs: int = 1) -> np.ndarray:
    """TV-L1. Fewer pairs than ``num_pairs`` are filled up, because each number is compiled anew."""
    still = np.repeat(first[-1:], num_pairs - len(first), axis=0)
    filled = (tf.constant(np.concatenate([pictures, still]), tf.float32) for pictures in (first, second))
    return tvl1(*filled).numpy()[: len(first)]


def dis_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Dense inverse search (Kroeger et al., 2016), OpenCV's preset medium."""
    cv2 = import_cv2()
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # not to be shared by threads
    return np.stack([search.calc(*pair, None) for pair in zip(first, second, strict=True)])


def farneback_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Polynomial expansion (Farneback, 2003), with the values of OpenCV's example."""
    cv2 = import_cv2()
    values = {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2, "flags": 0}
    pairs = zip(first, second, strict=True)
    return np.stack([cv2.calcOpticalFlowFarneback(*pair, None, **values) for pair in pairs])


ALGORITHMS: dict[str, FlowOfPairs] = {"tvl1": tvl1_flow, "dis": dis_flow, "farneback": farneback_flow}


def as_picture(flow: np.ndarray, values: str) -> np.ndarray:
    """A flow as a picture whose 0 to 255 stand for -``BOUND`` to ``BOUND`` pixels.

    Args:
        flow: f32[..., 2], pixels.
        values: 8bit, as the released features were made: whole numbers, where no motion is 128 and so is read back
            as 0.0039 of the bound; or float, where it is 127.5 and nothing is lost.

    Returns:
        u8[..., 2] or f32[..., 2].
    """
    picture = (np.clip(flow, -BOUND, BOUND) + BOUND) * np.float32(255 / (2 * BOUND))
    return np.round(picture).astype(np.uint8) if values == "8bit" else picture

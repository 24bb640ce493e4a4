"""Optical flow from each picture to the next, in constant memory, and 8-bit pictures of it, which networks look at."""

import collections
import concurrent.futures
import functools
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf

from a2net_tf.video.clips import import_cv2
from a2net_tf.video.tvl1 import tvl1

ALGORITHMS = ("tvl1", "dis", "farneback")
VALUES = ("8bit", "float")
BOUND = 20.0  # pixels; what is beyond them is cut off
_PAIRS_ON_GPU = 32  # of pictures that go through together; on a CPU each core has a pair of its own

Flow = Callable[[np.ndarray], np.ndarray]


def flows(pictures: Iterable[np.ndarray], algorithm: str) -> Iterator[np.ndarray]:
    """The flow from each picture to the next, n - 1 of n pictures.

    Args:
        pictures: u8[H, W], grey, all of one size.
        algorithm: of ``ALGORITHMS``.

    Yields:
        f32[H, W, 2], in the order of the pictures: how many pixels each pixel moves to the right and downwards.
    """
    if algorithm == "tvl1" and tf.config.list_logical_devices("GPU"):
        of_32 = functools.partial(tvl1_flow, num_pairs=_PAIRS_ON_GPU)
        return in_threads(pictures, of_32, threads=1, num_pairs=_PAIRS_ON_GPU)
    flow = {"tvl1": tvl1_flow, "dis": dis_flow, "farneback": farneback_flow}[algorithm]
    return in_threads(pictures, flow, threads=num_cores())


def in_threads(pictures: Iterable[np.ndarray], flow: Flow, *, threads: int, num_pairs: int = 1) -> Iterator[np.ndarray]:
    """``flows`` by a function: u8[N + 1, H, W] to f32[N, H, W, 2], where N is ``num_pairs``, in the end fewer."""
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for some in _overlapping(pictures, num_pairs):
            waiting.append(pool.submit(flow, some))
            if len(waiting) > threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _overlapping(pictures: Iterable[np.ndarray], num_pairs: int) -> Iterator[np.ndarray]:
    """u8[N + 1, H, W], each beginning with the last picture of the one before."""
    some: list[np.ndarray] = []
    for picture in pictures:
        some.append(picture)
        if len(some) > num_pairs:
            yield np.stack(some)
            some = some[-1:]
    if len(some) > 1:
        yield np.stack(some)


def num_cores() -> int:
    """That this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return tf.config.threading.get_intra_op_parallelism_threads() or cores


def tvl1_flow(pictures: np.ndarray, num_pairs: int = 1) -> np.ndarray:
    """TV-L1. Where there are fewer pairs than ``num_pairs`` the last picture is repeated: a size is compiled once."""
    missing = num_pairs + 1 - len(pictures)
    grey = tf.constant(np.concatenate([pictures, np.repeat(pictures[-1:], missing, axis=0)]), tf.float32)
    return tvl1(grey[:-1], grey[1:]).numpy()[: len(pictures) - 1]


def dis_flow(pictures: np.ndarray) -> np.ndarray:
    """Dense inverse search (Kroeger et al., 2016), OpenCV's preset medium."""
    cv2 = import_cv2()
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # not to be shared by threads
    return np.stack([search.calc(*pair, None) for pair in zip(pictures[:-1], pictures[1:], strict=True)])


def farneback_flow(pictures: np.ndarray) -> np.ndarray:
    """Polynomial expansion (Farneback, 2003), with the values of OpenCV's example."""
    cv2 = import_cv2()
    values = {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2, "flags": 0}
    pairs = zip(pictures[:-1], pictures[1:], strict=True)
    return np.stack([cv2.calcOpticalFlowFarneback(*pair, None, **values) for pair in pairs])


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

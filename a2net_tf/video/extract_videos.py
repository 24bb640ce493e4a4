"""Many videos through one extraction into one folder: in this process, or in several."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm

from a2net_tf import locks, settings
from a2net_tf.errors import UserError, list_some, one_line
from a2net_tf.processor import num_cores
from a2net_tf.settings import Config
from a2net_tf.video import clips, decoding, description, output_folder
from a2net_tf.video.extraction import Extraction
from a2net_tf.video.output_folder import OutputFolder, Progress

_Worker = tuple[Extraction, OutputFolder]
_worker: list[_Worker] = []  # of a process that was started by another: what it extracts with


def extract_videos(config: Config, videos: Mapping[str, pathlib.Path], output: pathlib.Path) -> None:
    """Writes the features of videos to a folder. What is done is not done again.

    Args:
        config: how to make them.
        videos: by the names of their features, as ``find_videos`` gives them.
        output: the folder.

    Raises:
        UserError: settings that cannot be, a folder that was extracted with others or that another command extracts
            to, or, when all else is done, videos that could not be extracted.
    """
    if config.stored_features == "bfloat16":
        raise UserError("--stored_features=bfloat16: numpy's files have no such type; take float32 or float16")
    decoding.import_av()
    clips.import_cv2()
    with locks.hold(output / ".lock", str(output)):
        extraction, folder = _open(config, output)
        failed = _extract_all(videos, config, extraction, folder)
        folder.write_skeleton([name for name in videos if name in folder.done])
    if failed:
        raise UserError(
            f"{len(failed)} of {len(videos)} videos could not be extracted, for the reasons printed above: "
            f"{list_some(failed)}"
        )


def _open(config: Config, output: pathlib.Path) -> _Worker:
    extraction = description.open_extraction(config)
    words = description.describe(config, extraction)
    return extraction, output_folder.open_folder(output, extraction, words, config.stored_features or "float32")


def _extract_all(
    videos: Mapping[str, pathlib.Path], config: Config, extraction: Extraction, folder: OutputFolder
) -> list[pathlib.Path]:
    """Extracts what is not done, and returns the videos that could not be."""
    waiting, failed = {}, []
    for name, path in videos.items():
        try:
            if folder.is_done(name, path):
                print(f"{one_line(name)}: extracted earlier")
            else:
                waiting[name] = path
        except UserError as error:
            failed.append(path)
            print(f"failed: {one_line(error)}", flush=True)
    several = config.jobs > 1 and len(waiting) > 1
    lines = _in_processes(waiting, config, folder) if several else _here(waiting, extraction, folder)
    for name, line, is_bad in lines:
        if is_bad:
            failed.append(waiting[name])
        print(f"failed: {line}" if is_bad else line, flush=True)
    return failed


def _here(
    videos: Mapping[str, pathlib.Path], extraction: Extraction, folder: OutputFolder
) -> Iterator[tuple[str, str, bool]]:
    """Name, a line about it, and whether it has failed, of each video when it is done."""
    for name, path in videos.items():
        yield name, *_try(name, path, extraction, folder, with_progress)


def _try(
    name: str, path: pathlib.Path, extraction: Extraction, folder: OutputFolder, progress: Progress
) -> tuple[str, bool]:
    """A line about a video, and whether it has failed."""
    try:
        return folder.add(name, path, extraction, progress), False
    except UserError as error:
        return one_line(error), True


def with_progress(batches: Iterator[np.ndarray], name: str, stride_seconds: float) -> Iterator[np.ndarray]:
    """``batches`` as they are, with a bar on a terminal: seconds of the video, and how many of them in a second."""
    started, done = time.monotonic(), 0
    with tqdm.tqdm(desc=one_line(name), leave=False, disable=None, bar_format="{desc}: {postfix}") as bar:
        for vectors in batches:
            done += len(vectors)
            seconds, took = done * stride_seconds, time.monotonic() - started
            bar.set_postfix_str(f"{seconds:.0f} s of video, {seconds / took:.1f} times real time")
            bar.update()
            yield vectors


# Several processes


def _in_processes(
    videos: Mapping[str, pathlib.Path], config: Config, folder: OutputFolder
) -> Iterator[tuple[str, str, bool]]:
    """As ``_here``; each process takes the next video when it has done one."""
    count = min(config.jobs, len(videos))
    arguments = (settings.to_dict(config), str(folder.path), count)
    pool = concurrent.futures.ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _start_worker, arguments)
    with tqdm.tqdm(total=len(videos), unit="video", leave=False, disable=None) as bar, _ended(pool):
        names = {pool.submit(_work, name, str(path)): name for name, path in videos.items()}
        for task in concurrent.futures.as_completed(names):
            line, is_bad = task.result()
            bar.update()
            yield names[task], line, is_bad
    folder.look_again()


@contextlib.contextmanager
def _ended(pool: concurrent.futures.ProcessPoolExecutor) -> Iterator[None]:
    """However the block ends, none of the processes is left behind."""
    try:
        yield
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError("a process that extracts was killed (out of memory?); the same command goes on") from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(values: Mapping[str, Any], output: str, count: int) -> None:
    """Opens what a process extracts with; it has its share of the cores."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    tf.config.threading.set_intra_op_parallelism_threads(max(1, num_cores() // count))
    with contextlib.redirect_stdout(None):  # the parent has said it already
        _worker.append(_open(settings.from_dict(values), pathlib.Path(output)))


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # at once: what is being written is left behind as after any kill


def _work(name: str, path: str) -> tuple[str, bool]:
    return _try(name, pathlib.Path(path), *_worker[0], lambda batches, name, stride_seconds: batches)

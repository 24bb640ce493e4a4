"""Deterministic operations for one call, not for the rest of the process."""

import contextlib
from collections.abc import Iterator

from tensorflow.python.framework import config as framework  # the public API can switch it on, but not off


@contextlib.contextmanager
def op_determinism(wanted: bool) -> Iterator[None]:
    """TensorFlow's operations are deterministic in this block, or not, as ``wanted``; after it, as they were before.

    Where they are, Keras leaves out XLA with no more than a warning, so one call must not decide for the next.
    """
    before = framework.is_op_determinism_enabled()
    _switch(wanted)
    try:
        yield
    finally:
        _switch(before)


def _switch(on: bool) -> None:
    (framework.enable_op_determinism if on else framework.disable_op_determinism)()

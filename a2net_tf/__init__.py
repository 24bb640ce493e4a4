"""A2Net: temporal action localization with an anchor-free and an anchor-based branch, in TensorFlow.

    import a2net_tf

    detector = a2net_tf.load("runs/hapt")
    found = detector.detect(features, seconds_per_step=0.5)

Letters used in the shape comments and docstrings of this package:

| letter | size of |
|---|---|
| B | batch of windows (or of whole sequences, where said) |
| T | feature steps: of a window, or of a whole sequence where said |
| D | one feature vector |
| L | cells of all pyramid levels, level-major: 126 with six levels and 128 steps |
| A | anchors of all cells, level-major, then cell, then ratio: 630 |
| G | ground-truth actions of a window, padded (label 0 = padding) |
| C | action classes; logits have C+1 entries, entry 0 is background |
| N | candidates before non-maximum suppression, or windows where said |
| K | detections after it, padded |

Units: *seconds*; *steps* (one feature vector each); *grid units* (one level-1 cell = 2 steps); *fractions* of a window.
"""

import importlib
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from a2net_tf.api import command, evaluate, load, train
    from a2net_tf.errors import UserError

__all__ = ["UserError", "command", "evaluate", "load", "train"]
__version__ = "0.1.0"

# In a checkout, datasets/ and export/ lie beside this folder instead of inside it.
_ROOT = pathlib.Path(__file__).resolve().parent.parent
if (_ROOT / "setup.py").exists() and (_ROOT / "datasets").is_dir():
    __path__.append(str(_ROOT))


def __getattr__(name: str):
    """The names of ``__all__``, loaded when they are first used."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module("a2net_tf.errors" if name == "UserError" else "a2net_tf.api"), name)


def __dir__() -> list[str]:
    """With the names that are not loaded yet."""
    return sorted({*globals(), *__all__})

"""Detections of a recording that is still going on, by an exported model.

python -m live SAVED_MODEL < vectors.csv

reads a vector a line, numbers between commas or blanks, and writes a line of JSON for every detection as soon as no
later vector can change it. In a checkout: python -m a2net_tf.inference.live.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import numpy as np

from .saved_model import open_saved_model
from .stream import Found, Stream


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: vectors from standard input, detections to standard output; returns the exit status."""
    parser = argparse.ArgumentParser(description="Detections of a recording that is still going on, as lines of JSON.")
    parser.add_argument("model", help="folder written by --mode=export --saved_model")
    parser.add_argument("--seconds_per_step", type=float, help="time between two vectors; default: as in training")
    parser.add_argument("--reach_steps", type=int, help="how far before its window a candidate may begin")
    options = parser.parse_args(arguments)
    try:
        model = open_saved_model(options.model)
        stream = Stream(model, seconds_per_step=options.seconds_per_step, reach_steps=options.reach_steps)
        for line in sys.stdin:
            _print(stream.push(np.asarray(line.replace(",", " ").split(), np.float32)))
        _print(stream.close())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if stream.unsure:
        print(f"{stream.unsure} decisions could be others of the whole recording", file=sys.stderr)
    return 0


def _print(found: Sequence[Found]) -> None:
    for action in found:
        print(json.dumps(action._asdict()), flush=True)


if __name__ == "__main__":
    sys.exit(main())

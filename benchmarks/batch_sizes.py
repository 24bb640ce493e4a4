"""How long exported models take per batch size: constants against variables, bfloat16 against float32.

    python -m a2net_tf.export.compare --flagfile=configs/thumos14.flags --workdir= --output=compare
    python benchmarks/batch_sizes.py compare

takes the SavedModels that the first command wrote (here the paper's network with random weights). They take turns, so
that a busy moment meets all of them; only ratios within one run mean something.
"""

import argparse
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

FORMS = {"variables": "SavedModel_variables", "float32": "SavedModel_float32", "bfloat16": "SavedModel_bfloat16"}


def seconds(signature, windows: tf.Tensor) -> float:
    """One call of the signature ``raw``."""
    start = time.perf_counter()
    signature(features=windows)["scores"].numpy()
    return time.perf_counter() - start


def main() -> None:
    """Prints a line per batch size: medians in milliseconds, and ratios to variables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="what a2net_tf.export.compare wrote")
    parser.add_argument("--sizes", default="1,2,4,8,16,32,64", help="windows per batch (default %(default)s)")
    parser.add_argument("--turns", type=int, default=15, help="measurements of each (default %(default)s)")
    options = parser.parse_args()
    models = {name: tf.saved_model.load(str(pathlib.Path(options.folder, path))) for name, path in FORMS.items()}
    signatures = {name: model.signatures["raw"] for name, model in models.items()}
    shape = next(iter(signatures.values())).structured_input_signature[1]["features"].shape
    print(f"{'windows':>8}" + "".join(f"{name + ' ms':>14}" for name in FORMS) + f"{'float32 x':>14}{'bfloat16 x':>14}")
    for size in map(int, options.sizes.split(",")):
        windows = tf.constant(np.random.default_rng(0).normal(size=(size, *shape[1:])), tf.float32)
        times = {name: [] for name in FORMS}
        for turn in range(options.turns + 2):
            for name, signature in signatures.items():
                taken = seconds(signature, windows)
                times[name] += [taken] if turn > 1 else []  # the first turns plan and lay out weights
        medians = {name: 1000 * statistics.median(values) for name, values in times.items()}
        ratios = "".join(f"{medians[name] / medians['variables']:>14.2f}" for name in ("float32", "bfloat16"))
        print(f"{size:>8}" + "".join(f"{value:>14.1f}" for value in medians.values()) + ratios, flush=True)


if __name__ == "__main__":
    main()

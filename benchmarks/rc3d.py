"""One training step of R-C3D's network at full size: 768 frames of 112 x 112. Time, memory, and every gradient.

    python -m benchmarks.rc3d

Frames and weights are random. On a CPU it takes minutes and more than ten GB; a GPU is used where there is one (not run
there yet).
"""

import argparse
import resource
import time

import numpy as np
import tensorflow as tf

from a2net_tf import settings
from a2net_tf.detection import precision
from a2net_tf.rc3d.network import build_network
from a2net_tf.training.trainer import Trainer

_SIDE, _CLASSES = 128, 20


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flagfile", default="configs/thumos14_rc3d.flags", help="of the settings (%(default)s)")
    parser.add_argument("--precision", default="float32", help="float32 or bfloat16 (%(default)s)")
    parser.add_argument("--window_steps", default=768, type=int, help="frames (%(default)s)")
    chosen = parser.parse_args()
    given = [f"--flagfile={chosen.flagfile}", "--mode=train", "--jit_compile=false", "--backbone_weights="]
    config, _ = settings.parse(
        [*given, f"--precision={precision.resolve(chosen.precision)}", f"--window_steps={chosen.window_steps}"]
    )
    measure(config)


def measure(config: settings.Config) -> None:
    """Prints what one step takes, and of which weights the gradient is not finite, or 0."""
    network = build_network(config, 3 * _SIDE * _SIDE, _CLASSES)
    trainer, weights = Trainer(network, config), network.trainable_variables
    frames = np.random.default_rng(0).integers(0, 256, (1, config.window_steps, 3 * _SIDE * _SIDE))
    batch = {
        "features": tf.constant(frames, tf.float32),
        "segments": tf.constant([[[0.1, 0.25], [0.4, 0.5]]]),
        "labels": tf.constant([[3, 17]]),
    }
    seed = tf.constant([0, 0])

    @tf.function
    def step() -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            outputs = trainer.forward(batch["features"], seed, actions=batch["segments"])
            loss = trainer.objective(outputs, batch, seed)[0]["loss"]
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        return loss, [tf.reduce_max(tf.abs(gradient)) for gradient in gradients]

    started = time.monotonic()
    loss, largest = step()
    print(f"loss {float(loss):.3f}, one step with tracing {time.monotonic() - started:.1f} s")
    wrong = [w.path for w, value in zip(weights, largest, strict=True) if not (np.isfinite(value) and value > 0)]
    print(f"{len(weights)} weights learn" if not wrong else f"no finite gradient above 0: {', '.join(wrong)}")
    print(f"{network.count_params():,} parameters, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


if __name__ == "__main__":
    main()

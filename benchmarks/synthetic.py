"""Random windows, batches and weights, the same wherever numpy draws them: TensorFlow, JAX and PyTorch get one set."""

import numpy as np

from a2net_tf.settings import Config


def random_windows(config: Config, number: int) -> np.ndarray:
    """f32[number, T, D]."""
    shape = (number, config.window_steps, config.num_features)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def training_batch(config: Config) -> dict[str, np.ndarray]:
    """A batch as ``input_pipeline`` gives it: four actions in every window."""
    random, size = np.random.default_rng(0), config.batch_size
    starts = random.uniform(0, 0.7, (size, config.max_actions))
    there = np.arange(config.max_actions) < 4
    segments = np.stack([starts, starts + random.uniform(0.02, 0.3, starts.shape)], axis=-1) * there[:, None]
    batch = {
        "features": random_windows(config, size),
        "segments": segments.astype(np.float32),
        "labels": (random.integers(1, config.num_classes + 1, starts.shape) * there).astype(np.int32),
    }
    if config.step_classifier:
        steps = random.integers(0, config.num_classes + 1, (size, config.window_steps))
        batch["step_labels"] = steps.astype(np.int32)
    return batch


def kernel(number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Weights f32[steps, in, out] as a fresh network has them (He et al. 2015); another draw for each ``number``."""
    bound = np.sqrt(6.0 / np.prod(shape[:-1]))
    return ((2.0 * np.random.default_rng(number).random(shape, np.float32) - 1.0) * bound).astype(np.float32)

"""What is measured of this package: forward passes, the training step in parts, synthetic videos and their evaluation.

Weights, features and actions are random: how long things take does not depend on them, except that random scores leave
suppression more to do than a trained network's would.
"""

import contextlib
import dataclasses
import functools
import io
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from a2net_tf import settings
from a2net_tf.native_logs import quiet_native_logs
from a2net_tf.settings import Config
from benchmarks import synthetic
from benchmarks.measure import Limit

with quiet_native_logs():
    import keras
    import numpy as np
    import tensorflow as tf

    from a2net_tf.data import input_pipeline, prepared
    from a2net_tf.detection.localizer import Localizer
    from a2net_tf.detection.model import build_model
    from a2net_tf.evaluation import results_files
    from a2net_tf.evaluation.instances import Detections
    from a2net_tf.export.freezing import FrozenNetwork
    from a2net_tf.inference import localization, scoring
    from a2net_tf.training import by_device
    from a2net_tf.training.optimizers import make_optimizer
    from a2net_tf.training.run_directory import Run
    from a2net_tf.training.trainer import Trainer

    tf.config.list_physical_devices()  # starts CUDA now, whose complaints about a missing GPU are held back here

PRECISIONS = ("float32", "bfloat16")
SECONDS_PER_STEP = 4 / 30
SPLIT = "videos"


def start(config: Config, threads: int) -> None:
    """Fixes threads, random numbers and determinism. Before anything is computed."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)  # PyTorch needs some of it
    if by_device.is_deterministic(config.deterministic, by_device.kind()):
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(1)  # not 0: for tf.data that is no seed


def devices() -> list[str]:
    """Names of the GPUs."""
    gpus = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]


def gpu_peak_bytes() -> int:
    """The most memory that TensorFlow has had on GPUs; 0 without one."""
    gpus = tf.config.list_logical_devices("GPU")
    return sum(tf.config.experimental.get_memory_info(gpu.name)["peak"] for gpu in gpus)


def class_names(config: Config) -> list[str]:
    """As many as there are classes."""
    return [f"class{i}" for i in range(config.num_classes)]


# What the machine can do


def product_limit(size: int, precision: str) -> Limit:
    """A product of two square matrices."""
    a = tf.cast(tf.random.normal((size, size)), precision)
    multiply = tf.function(lambda: tf.linalg.matmul(a, a))
    return Limit(lambda: multiply()[0, 0].numpy(), size**3)


def convolution_limit(channels: int, precision: str) -> Limit:
    """A convolution as in the middle of the network: three steps of many channels, 32 windows of 64 cells."""
    x = tf.cast(tf.random.normal((32, 64, channels)), precision)
    kernel = tf.cast(tf.random.normal((3, channels, channels)), precision)
    convolve = tf.function(lambda: tf.nn.conv1d(x, kernel, 1, "SAME"))
    return Limit(lambda: convolve()[0, 0, 0].numpy(), 32 * 64 * 3 * channels**2)


def memory_limit(num_floats: int) -> Limit:
    """y += x: two reads and a write of ``num_floats`` float32."""
    x, y = (tf.Variable(tf.zeros(num_floats)) for _ in range(2))
    add = tf.function(lambda: y.assign_add(x)[:1])
    return Limit(lambda: add().numpy(), 3 * 4 * num_floats)


# Forward


def build(config: Config, precision: str = "float32") -> keras.Model:
    """The network; the same random weights in every call."""
    keras.utils.set_random_seed(1)
    config = dataclasses.replace(config, precision=precision)
    return build_model(config, config.num_features, config.num_classes)


def forward_functions(
    config: Config, precisions: Sequence[str] = PRECISIONS
) -> dict[str, Callable[[np.ndarray], Callable]]:
    """By name, windows f32[N, T, D] -> a call that runs them through the network and waits for the outputs."""
    functions = {}
    for precision in precisions:
        network = build(config, precision)
        functions[f"Keras {precision}"] = forward_function(network, config)
        functions[f"frozen {precision}"] = forward_function(FrozenNetwork(network), config)
    return functions


def forward_function(network: Callable, config: Config) -> Callable[[np.ndarray], Callable]:
    """See ``forward_functions``."""
    signature = tf.TensorSpec((None, config.window_steps, config.num_features), tf.float32)
    traced = tf.function(lambda features: network(features, training=False), input_signature=[signature])

    def bind(batch: np.ndarray) -> Callable[[], None]:
        features = tf.constant(batch)
        return lambda: wait_for(traced(features))

    return bind


def wait_for(outputs: Mapping[str, tf.Tensor]) -> None:
    """Returns when the smallest of ``outputs``, and with it all that was asked for before, is computed."""
    min(outputs.values(), key=lambda output: output.shape.num_elements()).numpy()


# Training


def backward_multiply_adds(config: Config, forward: float) -> float:
    """Of a training step, whose forward pass has ``forward``: every convolution is two, but the features need none."""
    first, end = config.feature_columns or (0, config.num_features)
    return 2 * forward - config.batch_size * config.window_steps * (end - first) * config.base_channels


class Training:
    """The step of ``Trainer``, and its beginnings, each as a graph.

    Args:
        config: as for training.
        precision: of the convolutions.
        network: to train; by default one with random weights, which does not normalise.
        batch: of ``input_pipeline``; by default a random one.
    """

    def __init__(
        self,
        config: Config,
        precision: str = "float32",
        *,
        network: keras.Model | None = None,
        batch: Mapping[str, tf.Tensor] | None = None,
    ):
        config = by_device.resolve(dataclasses.replace(config, precision=precision), by_device.kind())
        self.trainer = Trainer(build(config, precision) if network is None else network, config)
        self.trainer.compile(
            optimizer=make_optimizer(config, 100), jit_compile=config.jit_compile, auto_scale_loss=False
        )
        self.trainer.optimizer.build(self.trainer.network.trainable_variables)
        batch = synthetic.training_batch(config) if batch is None else batch
        self.batch = {name: tf.constant(value) for name, value in batch.items()}
        graph = functools.partial(tf.function, jit_compile=config.jit_compile)
        self._step = graph(self.trainer.train_step)
        self._forward, self._losses, self._gradients = map(graph, (self._run, self._run_losses, self._run_gradients))

    def forward(self) -> float:
        """As in training."""
        return self._forward(self.batch).numpy()

    def losses(self) -> float:
        """Forward, targets and losses."""
        return self._losses(self.batch).numpy()

    def gradients(self) -> float:
        """... and gradients, with their norm."""
        return self._gradients(self.batch).numpy()

    def step(self, batch: dict[str, tf.Tensor] | None = None) -> float:
        """... and the update and the means that are logged: all that training does."""
        return self._step(batch or self.batch)["loss"].numpy()

    def _run(self, batch):
        outputs = self.trainer.forward(batch["features"], tf.constant([0, 0]))
        return tf.add_n([tf.reduce_sum(output) for output in outputs.values()])

    def _run_losses(self, batch):
        outputs = self.trainer.forward(batch["features"], tf.constant([0, 0]))
        return self.trainer.objective(outputs, batch, tf.constant([0, 0]))[0]["loss"]

    def _run_gradients(self, batch):
        weights = [weight.value for weight in self.trainer.network.trainable_variables]
        with tf.GradientTape() as tape:
            loss = self._run_losses(batch)
        return tf.linalg.global_norm(tape.gradient(loss, weights))


# Videos


class Videos(NamedTuple):
    """Synthetic videos: their features as files, and as a prepared dataset.

    Attributes:
        files: one .npy matrix f32[T, D] each.
        dataset: path of the prepared TFDS directory.
        num_windows: of ``window_steps``, half overlapping, that cover all of them.
    """

    files: list[str]
    dataset: str
    num_windows: int


def write_videos(folder: pathlib.Path, config: Config, *, number: int, windows_each: int) -> Videos:
    """Writes random features and actions to ``folder`` and prepares them as a dataset, as a user's own would be."""
    random, source = np.random.default_rng(1), folder / "features"
    source.mkdir()
    steps = config.window_steps + (windows_each - 1) * (config.window_steps // 2)
    database = {}
    for i in range(number):
        np.save(source / f"video{i}.npy", random.normal(size=(steps, config.num_features)).astype(np.float32))
        database[f"video{i}"] = {
            "subset": SPLIT,
            "duration": steps * SECONDS_PER_STEP,
            "annotations": list(_random_actions(config, steps, random)),
        }
    content = {
        "database": database,
        "feature_stride_seconds": SECONDS_PER_STEP,
        "classes": class_names(config),
    }
    (source / "annotations.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder = prepared.open_dataset("feature_folder", str(folder / "prepared"), str(source))
    files = [str(source / f"{name}.npy") for name in database]
    return Videos(files, str(builder.data_path), number * windows_each)


def _random_actions(config: Config, steps: int, random: np.random.Generator) -> Iterator[dict]:
    """An action in every quarter of a window, for ActivityNet's JSON."""
    quarter = config.window_steps / 4
    for start in np.arange(0, steps - quarter, quarter):
        bounds = start + np.array([random.uniform(0, 0.4), random.uniform(0.5, 1)]) * quarter
        label = f"class{random.integers(config.num_classes)}"
        yield {"segment": (bounds * SECONDS_PER_STEP).tolist(), "label": label}


def with_windows(config: Config, steps: int) -> Config:
    """Inference in windows of so many steps, of which neighbours share half a training window."""
    return dataclasses.replace(config, inference_window_steps=steps, inference_overlap=0.5)


def evaluation(config: Config, dataset: str, output: str, *, precision: str, branches: bool = False) -> Callable:
    """All that ``--mode=evaluate`` does with a prepared dataset, from its files to metrics and detections in JSON.

    Args:
        config: windows (see ``with_windows``) and localization.
        dataset: path of the prepared directory.
        output: JSON file to write.
        precision: of the convolutions.
        branches: also suppress and score the branches alone, as that mode does; else the merged result only.

    Returns:
        a call that does it once.
    """
    config = dataclasses.replace(config, precision=precision)
    names = class_names(config)
    run = Run(config, names, config.num_features, None, 0, SECONDS_PER_STEP, 0.0)
    network = build(dataclasses.replace(config, window_steps=config.inference_steps), precision)
    localizer = Localizer(network, config, names)
    records = prepared.read_records(prepared.open_dataset(dataset), SPLIT)
    reported = localizer.reported() if branches else None

    def evaluate() -> dict:
        sequences = list(localization.localize(localizer, records.as_numpy_iterator(), reported))
        detections = Detections.concatenate([item.merged for item in sequences])
        results_files.write_activitynet(output, detections, names, videos=[item.video for item in sequences])
        return scoring.metrics_by_branch(sequences, run)

    return evaluate


def training_batches(config: Config, dataset: str) -> Iterator[dict[str, tf.Tensor]]:
    """The training pipeline over a prepared dataset, without an end; an epoch is one pass over its windows."""
    builder = prepared.open_dataset(dataset)
    records = prepared.read_records(builder, SPLIT)
    config = dataclasses.replace(config, epochs=10**6)
    steps = -(-input_pipeline.scan(records, config).num_windows // config.batch_size)
    return iter(input_pipeline.training_batches(records, config, first_epoch=0, steps_per_epoch=steps))


# Memory of a process of its own


# Each returns the peak on GPUs.


def peak_forward(flags: dict, threads: int, precision: str) -> int:
    """32 windows through the network."""
    config = settings.from_dict(flags)
    start(config, threads)
    forward_function(build(config, precision), config)(synthetic.random_windows(config, 32))()
    return gpu_peak_bytes()


def peak_training(flags: dict, threads: int, precision: str) -> int:
    """Three steps."""
    config = settings.from_dict(flags)
    start(config, threads)
    training = Training(config, precision)
    for _ in range(3):
        training.step()
    return gpu_peak_bytes()


def peak_evaluation(flags: dict, threads: int, dataset: str, output: str, precision: str) -> int:
    """The prepared videos."""
    config = settings.from_dict(flags)
    start(config, threads)
    evaluation(with_windows(config, config.window_steps), dataset, output, precision=precision)()
    return gpu_peak_bytes()

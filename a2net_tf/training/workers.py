"""Several processes, on one machine or on many, that train one network together: ``--distribute=multi_worker``.

Each is a worker. It runs the same command, finds in TF_CONFIG where the others are, reads the same records and makes
the same batches, and computes on its rows of each; gradients are summed over all. So every worker has the same weights
after every step, those of one device to rounding. The chief alone writes: the others look into ``--workdir`` when they
start, to go on where it stopped. Each validates for itself, which takes no longer than waiting for one that does.

TensorFlow's part is ``MultiWorkerMirroredStrategy``. It cannot replace a worker: where one ends, all end, and all are
to be started again.
"""

import contextlib
import functools
import json
import os
import zlib
from collections.abc import Iterator

import tensorflow as tf

from a2net_tf import safe_files, settings
from a2net_tf.errors import UserError, reason_of
from a2net_tf.training.run_directory import Run

_VARIABLE = "TF_CONFIG"
_ROLES = ("chief", "worker")
# What TensorFlow raises in the others where a worker has ended.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


@functools.cache
def start() -> tf.distribute.MultiWorkerMirroredStrategy:
    """Joins the workers that TF_CONFIG names, once per process; returns when all of them are there.

    Raises:
        UserError: TF_CONFIG is missing or makes no sense, or TensorFlow has begun to compute before.
    """
    check_cluster(os.environ.get(_VARIABLE, ""))
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        told = f"must be the first that a process does with TensorFlow ({reason_of(error)})"
        raise UserError(f"--distribute=multi_worker: {told}") from None


def check_cluster(text: str) -> None:
    """Raises UserError unless ``text`` names a cluster of workers, and which of them this is."""
    example = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'
    if not text:
        raise UserError(f"--distribute=multi_worker: {_VARIABLE} is not set; expected {example}")
    where = f"{_VARIABLE} of --distribute=multi_worker"
    content = safe_files.parse_json(text, where)
    cluster = safe_files.get_value(content, "cluster", where, kind=dict)
    task = safe_files.get_value(content, "task", where, kind=dict)
    role = safe_files.get_value(task, "type", f"{where}: task", kind=str)
    if set(cluster) - set(_ROLES) or role not in cluster:
        raise UserError(f"{where}: expected workers, and maybe a chief, found {sorted(cluster)} and task {role}")
    hosts = [safe_files.get_value(cluster, name, where, kind=list) for name in cluster]
    if not all(isinstance(host, str) and ":" in host for of_role in hosts for host in of_role):
        raise UserError(f"{where}: expected lists of HOST:PORT, found {hosts}")
    index = task.get("index")
    if type(index) is not int or not 0 <= index < len(cluster[role]):
        raise UserError(f"{where}: task {role} has index {index}, but there are {len(cluster[role])}")


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes: of several workers the chief, or the first; else any."""
    if not _has_workers(strategy):
        return True
    resolver = strategy.cluster_resolver
    has_chief = "chief" in resolver.cluster_spec().as_dict()
    return resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)


def _has_workers(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def share(batches: tf.data.Dataset, strategy: tf.distribute.Strategy, batch_size: int) -> tf.data.Dataset:
    """This worker's rows of each batch, a piece for each of its devices; all of them where there are no workers.

    TensorFlow would shard the records instead: other windows would meet in a batch than on one device.
    """
    if not _has_workers(strategy):
        return batches

    def make(context: tf.distribute.InputContext) -> tf.data.Dataset:
        rows = context.get_per_replica_batch_size(batch_size)
        devices = context.num_replicas_in_sync // context.num_input_pipelines
        first = context.input_pipeline_id * devices * rows

        def cut(value: tf.Tensor) -> tf.Tensor:
            part = value[first : first + devices * rows]
            return tf.reshape(part, (devices, rows, *part.shape[1:]))

        @tf.autograph.experimental.do_not_convert
        def by_device(batch: dict[str, tf.Tensor]) -> tf.data.Dataset:
            return tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(cut, batch))

        pieces = batches.flat_map(by_device)
        return pieces.prefetch(2 * devices)

    return strategy.distribute_datasets_from_function(make)


def for_keras(value: tf.Tensor, strategy: tf.distribute.Strategy) -> tf.Tensor:
    """A number f[] of a step as Keras takes it: of several workers, as f[1], along which it takes their mean."""
    return value[None] if _has_workers(strategy) else value


def check_agreement(strategy: tf.distribute.Strategy, run: Run, first_epoch: int) -> None:
    """Raises UserError, on every worker, unless all have the same run and go on at the same epoch."""
    if not _has_workers(strategy):
        return
    places = dict.fromkeys(("workdir", "data_dir", "manual_dir"))  # which machines may call by other names
    told = {**settings.to_dict(run.computed), **places, "windows": run.num_windows, "classes": run.class_names}
    digest = zlib.crc32(json.dumps(told, sort_keys=True, default=str).encode())
    mine = tf.constant([[first_epoch, digest]], tf.int64)
    gather = tf.function(lambda: tf.distribute.get_replica_context().all_gather(mine, axis=0), autograph=False)
    epochs, digests = strategy.experimental_local_results(strategy.run(gather))[0].numpy().T
    if len(set(epochs)) > 1:
        raise UserError(
            f"--workdir={run.config.workdir}: the workers would go on after epochs {sorted(set(map(int, epochs)))}; it "
            "must be one folder that all of them see"
        )
    if len(set(digests)) > 1:
        raise UserError("--distribute=multi_worker: the workers have different settings or data; give all the same")


@contextlib.contextmanager
def losses_named(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Makes a UserError of what TensorFlow says where another worker has ended."""
    try:
        yield
    except _LOST as error:
        if not _has_workers(strategy):
            raise
        raise UserError(
            f"another worker has ended or cannot be reached ({reason_of(error, 120)}); start all of them again with "
            "the same commands: training goes on after the last finished epoch"
        ) from None

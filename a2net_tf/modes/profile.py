"""``--mode=profile``: counts parameters and multiply-adds of the network that the settings describe, and times it."""

import dataclasses

from a2net_tf import safe_files
from a2net_tf.data import prepared
from a2net_tf.detection import precision
from a2net_tf.errors import UserError
from a2net_tf.rc3d.network import build_network
from a2net_tf.report import profiler
from a2net_tf.settings import Config


def profile(config: Config) -> dict:
    """Prints and returns the costs of the network, and writes them to ``config.metrics`` if that is given.

    Raises:
        UserError: neither its sizes nor a dataset are given.
    """
    if config.metrics:
        safe_files.check_writable(config.metrics)
    num_features, num_classes = config.num_features, config.num_classes
    if not (num_features and num_classes):
        if not config.dataset:
            raise UserError("--mode=profile needs --num_features and --num_classes, or a --dataset")
        builder = prepared.open_dataset_of(config)
        num_features, num_classes = prepared.num_features(builder), len(prepared.class_names(builder))
    computed = dataclasses.replace(config, precision=precision.resolve(config.precision))
    precision.announce(config.precision, computed.precision)
    network = build_network(computed, num_features, num_classes)
    costs = {**profiler.profile(network), "window_milliseconds": profiler.window_milliseconds(network)}
    print(profiler.format_profile(costs))
    safe_files.write_metrics(config.metrics, costs)
    return costs

"""What each --mode does, from settings to files."""

import pathlib
import re

import tensorflow as tf

from a2net_tf import (
    ablation,
    checker,
    cross_validation,
    evaluation,
    evaluator,
    exporter,
    predictor,
    profiler,
    release_weights,
    results,
    run_directory,
    training,
)
from a2net_tf import config as settings
from a2net_tf import records as schema
from a2net_tf.config import Config
from a2net_tf.errors import UserError
from a2net_tf.model import build_model

tf.config.list_physical_devices()  # starts CUDA now, whose complaints about a missing GPU main.py holds back


def run(config: Config, given: frozenset[str]) -> None:
    """Runs ``config.mode``.

    Args:
        config: all settings.
        given: names of the settings that the user gave; the others follow the trained model where there is one.

    Raises:
        UserError: anything that the user can mend.
    """
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    try:
        _MODES[config.mode](config, given)
    except tf.errors.OpError as error:
        raise _explained(error, config, given) from error
    except OSError as error:  # the disk, permissions: nothing that a traceback would explain better
        raise UserError(" ".join(str(error).split())) from error


def _explained(error: tf.errors.OpError, config: Config, given: frozenset[str]) -> Exception:
    """Turns what TensorFlow says about bad data or a full disk into one line; a defect of ours stays as it is."""
    # A file that ends between two records shows as a wrong number of them: a failed precondition.
    if isinstance(error, (tf.errors.DataLossError, tf.errors.FailedPreconditionError, tf.errors.NotFoundError)):
        damaged = _damaged_file(config, given)
        if damaged:
            return UserError(
                f"{damaged}: missing, truncated or damaged record file; delete the prepared dataset and prepare it "
                "again"
            )
    if "no space left" in str(error).lower():
        return UserError(f"the disk is full: {_first_line(error)}")
    if isinstance(error, (tf.errors.PermissionDeniedError, tf.errors.FailedPreconditionError)):
        return UserError(f"cannot write: {_first_line(error)}")
    failed_assertion = re.search(r"assertion failed: (\[.*\])", str(error))
    if failed_assertion:
        return UserError(re.sub(r"[\[\]']+ ?", " ", failed_assertion.group(1)).strip())
    return error


def _first_line(error: tf.errors.OpError) -> str:
    return str(error.message).splitlines()[0][:300]


def _damaged_file(config: Config, given: frozenset[str]) -> str | None:
    """The record file that cannot be read, of the dataset of this command or of the trained run that it uses."""
    workdir = config.workdir.split(",")[0]
    if run_directory.exists(workdir):
        config = settings.merge(run_directory.load(workdir).config, config, given)
    if not config.dataset:
        return None
    builder = schema.open_dataset(config.dataset, config.data_dir, config.manual_dir, config.stored_features)
    used = (config.train_split, config.validation_split, config.eval_split)
    for split in builder.info.splits if config.mode == "cross_validate" else filter(None, used):
        if found := schema.find_damaged_file(builder, split):
            return found
    return None


def _score(config: Config, given: frozenset[str]) -> None:
    settings.require(config, "detections", "ground_truth")
    if config.metrics:
        results.check_writable(config.metrics)
    thresholds = config.tiou_thresholds
    if config.protocol == "proposals" and "tiou_thresholds" not in given:
        thresholds = evaluation.PROPOSAL_THRESHOLDS  # the default of the setting is that of mAP
    metrics = results.score(
        config.detections,
        config.ground_truth,
        protocol=config.protocol,
        subset=config.subset or None,
        tiou_thresholds=thresholds,
        duration_edges=config.duration_edges,
    )
    name = pathlib.Path(config.detections).name
    if config.protocol == "proposals":
        print(evaluation.format_proposals({name: metrics}))
    else:
        print(evaluation.format_table({name: metrics}))
        print(evaluation.format_classes(metrics))
        print(evaluation.format_durations({name: metrics}))
    _write_metrics(config, metrics)


def _profile(config: Config) -> None:
    if config.metrics:
        results.check_writable(config.metrics)
    num_features, num_classes = config.num_features, config.num_classes
    if not (num_features and num_classes):
        if not config.dataset:
            raise UserError("--mode=profile needs --num_features and --num_classes, or a --dataset")
        builder = schema.open_dataset(config.dataset, config.data_dir, config.manual_dir, config.stored_features)
        num_features, num_classes = schema.num_features(builder), len(schema.class_names(builder))
    network = build_model(config, num_features, num_classes)
    profile = {**profiler.profile(network), "window_milliseconds": profiler.window_milliseconds(network)}
    print(profiler.format_profile(profile))
    _write_metrics(config, profile)


def _write_metrics(config: Config, metrics: dict) -> None:
    if not config.metrics:
        return
    results.keep_previous(config.metrics)
    results.write_json(config.metrics, metrics)
    print(f"written: {config.metrics}")


def _train_and_evaluate(config: Config, given: frozenset[str]) -> None:
    training.train(config)
    evaluator.evaluate(config, given)


_MODES = {
    "train": lambda config, given: training.train(config),
    "evaluate": evaluator.evaluate,
    "train_and_evaluate": _train_and_evaluate,
    "ablate": lambda config, given: ablation.ablate(config),
    "cross_validate": cross_validation.cross_validate,
    "check": lambda config, given: checker.check(config),
    "predict": predictor.predict,
    "export": exporter.export,
    "score": _score,
    "profile": lambda config, given: _profile(config),
    "import_release": release_weights.import_release,
}

"""``--mode=train``: from settings to a trained run in its working directory."""

import functools
import pathlib
from collections.abc import Callable

import keras
import tensorflow as tf
import tensorflow_datasets as tfds

from a2net_tf import safe_files, settings
from a2net_tf.compat import op_determinism
from a2net_tf.data import augment, input_pipeline, prepared
from a2net_tf.data.augment import SignalLayout
from a2net_tf.detection import precision
from a2net_tf.detection.localizer import Localizer
from a2net_tf.detection.model import copy_weights
from a2net_tf.errors import UserError
from a2net_tf.inference import localization, scoring
from a2net_tf.modes import evaluate
from a2net_tf.rc3d.weights import check_backbone
from a2net_tf.settings import Config
from a2net_tf.training import by_device, run_directory, trainer, video_dataset, workers
from a2net_tf.training.run_directory import Run

_OUTPUTS = ("run.json", "last.npz", "best.npz", "history.csv", "state/checkpoint", "logs/train/events")


def train(config: Config) -> None:
    """Trains on ``config.train_split``, or goes on with the run in ``config.workdir``.

    Raises:
        UserError: missing settings, unusable data, a batch that the devices cannot share, or a run with other settings
            in the working directory; another command trains in it.
    """
    settings.require(config, "workdir", "videos" if config.videos else "dataset")
    if not run_directory.exists(config.workdir):
        by_device.resolve(config, by_device.kind())  # what contradicts itself on this device is refused at once
        if config.backbone_weights:
            check_backbone(config)
    strategy = trainer.choose_strategy(config)
    if not workers.is_chief(strategy):  # that one writes, and has the lock
        _train(config, strategy)
        return
    for name in (*_OUTPUTS, *(evaluate.OUTPUTS if config.mode == "train_and_evaluate" else ())):
        safe_files.check_writable(pathlib.Path(config.workdir, name))
    if letters := safe_files.pattern_letters(config.workdir):
        print(
            f"warning: --workdir={config.workdir} holds {' and '.join(letters)}: training works, but a SavedModel "
            "that is exported into it would not be found by TensorFlow; export to another folder"
        )
    with run_directory.only_writer(config.workdir):
        _train(video_dataset.extract_dataset(config) if config.videos else config, strategy)


def _train(config: Config, strategy: tf.distribute.Strategy) -> None:
    input_pipeline.check_window_fits_chunks(config)
    builder = prepared.open_dataset_of(config)
    layout = signal_layout(config, builder)
    if config.validation_split:
        prepared.check_has_actions(builder, config.validation_split, "validation_split")
    if config.mode == "train_and_evaluate":
        prepared.check_has_actions(builder, config.eval_split, "eval_split")
    is_new = not run_directory.exists(config.workdir)
    current = _new_run(config, builder) if is_new else _continue_run(config)
    if workers.is_chief(strategy) and (is_new or run_directory.load(config.workdir).config != current.config):
        run_directory.save(current)  # of a run that goes on with more epochs, say
    precision.announce(current.config.precision, current.computed.precision)
    validate = _validator(current, builder) if config.validation_split else None
    by_device.announce(current.config, current.computed)
    records = prepared.read_records(builder, config.train_split)
    with op_determinism(current.computed.deterministic):  # of a run that goes on: as it was started
        trainer.train(current, records, validate, strategy=strategy, layout=layout)


def signal_layout(config: Config, builder: tfds.core.DatasetBuilder) -> SignalLayout:
    """How the dataset's feature vectors are made of a signal.

    Raises:
        UserError: its declaration is wrong, or augmentation is asked for that needs one.
    """
    name, declared = builder.info.full_name, prepared.read_metadata(builder).get("signal")
    layout = augment.read_layout(declared, prepared.num_features(builder), name)
    if config.signal_noise and not declared:
        raise UserError(
            f"--signal_noise={config.signal_noise:g}: {name} does not declare how its feature vectors are made of a "
            "signal ('signal' in its metadata, docs/data.md); --feature_noise needs no declaration"
        )
    if config.axis_rotation and not layout.axes:
        raise UserError(
            f"--axis_rotation={config.axis_rotation:g}: {name} does not declare which channels of its signal are the "
            "axes of a sensor ('axes' of 'signal' in its metadata, docs/data.md)"
        )
    return layout


def _continue_run(config: Config) -> Run:
    """The run in the working directory, if it was started with the same settings."""
    saved = run_directory.load(config.workdir)
    config = run_directory.to_continue(saved, config)
    if config.schedule == "cosine" and config.epochs != saved.config.epochs:
        raise UserError(
            f"--epochs={config.epochs} (was {saved.config.epochs}): the learning rate of --schedule=cosine ends at 0 "
            "with the last epoch, so the run cannot be made longer or shorter; use another --workdir"
        )
    return saved._replace(config=config)


def _new_run(config: Config, builder: tfds.core.DatasetBuilder) -> Run:
    """Looks at the training data once; the run's description."""
    num_features, class_names = prepared.num_features(builder), prepared.class_names(builder)
    for name, size in (("num_features", num_features), ("num_classes", len(class_names))):
        if getattr(config, name) not in (0, size):
            raise UserError(f"--{name}={getattr(config, name)}, but {builder.info.full_name} has {size}")
    for split in filter(None, (config.validation_split, config.eval_split if "evaluate" in config.mode else "")):
        prepared.read_records(builder, split)  # a wrong name should not wait until training is over
    print(f"{builder.info.full_name}: reading {config.train_split} once for its statistics")
    scan = input_pipeline.scan(prepared.read_records(builder, config.train_split), config)
    print(
        f"{scan.num_windows} training windows, {scan.num_actions} actions, {num_features} features, "
        f"{len(class_names)} classes"
    )
    if scan.num_too_long:
        print(
            f"warning: {scan.num_too_long} actions are too long for any window of {config.window_steps} steps "
            "(--window_steps)"
        )
    resolved = by_device.resolve(config, by_device.kind())
    return Run(
        config=config,
        class_names=class_names,
        num_features=num_features,
        statistics=(scan.mean, scan.variance) if config.normalize else None,
        num_windows=scan.num_windows,
        seconds_per_step=scan.seconds_per_step,
        first_step_seconds=scan.first_step_seconds,
        # With a score of its own for each class the network learns from both annotations.
        also_reported=prepared.read_metadata(builder).get("also_reported", {})
        if config.class_scores == "softmax"
        else {},
        precision=precision.resolve(config.precision),
        folder=str(pathlib.Path.cwd()),
        extraction=prepared.read_extraction(builder),
        jit_compile=resolved.jit_compile,
        deterministic=resolved.deterministic,
    )


def _validator(current: Run, builder: tfds.core.DatasetBuilder) -> Callable[[keras.Model], float]:
    """network -> average mAP on the validation split. The localizer is traced once, not every epoch."""
    same_windows = current.config.inference_steps == current.config.window_steps

    @functools.cache
    def prepare(network: keras.Model) -> tuple[keras.Model, Localizer]:
        used = network if same_windows else run_directory.build_inference_network(current)
        return used, Localizer(used, current.config, current.class_names, also_reported=current.also_reported)

    def validate(network: keras.Model) -> float:
        used, localizer = prepare(network)
        if used is not network:
            copy_weights(network, used)
        records = prepared.read_records(builder, current.config.validation_split)
        sequences = list(localization.localize(localizer, records.as_numpy_iterator()))
        return scoring.metrics_by_branch(sequences, current)[localizer.branches[-1]]["average_mAP"]

    return validate

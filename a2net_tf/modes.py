"""What each --mode does, from settings to files."""

import functools
import importlib.util
import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tqdm

from a2net_tf import config as settings
from a2net_tf import evaluation, inference, input_pipeline, plots, profiler, results, run_directory, trainer
from a2net_tf import records as schema
from a2net_tf.config import Config
from a2net_tf.errors import UserError
from a2net_tf.evaluation import Detections, GroundTruth
from a2net_tf.inference import Found
from a2net_tf.localizer import Localizer
from a2net_tf.model import build_model
from a2net_tf.run_directory import Run

tf.config.list_physical_devices()  # starts CUDA now, whose complaints about a missing GPU main.py holds back

_NUM_TIMELINES = 3
_PRINTED_DETECTIONS = 20
_CHECKED_SEQUENCES = 64  # on which an exported model is compared


def run(config: Config, given: frozenset[str]) -> None:
    """Runs ``config.mode``.

    Args:
        config: all settings.
        given: names of the settings that the user gave; the others follow the trained model where there is one.

    Raises:
        UserError: anything that the user can mend.
    """
    keras.utils.set_random_seed(config.seed + 1)  # tf.data takes no seed per epoch while the global one is 0
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    try:
        _MODES[config.mode](config, given)
    except tf.errors.OpError as error:
        raise _explained(error, config) from error
    except OSError as error:  # the disk, permissions: nothing that a traceback would explain better
        raise UserError(" ".join(str(error).split())) from error


def _explained(error: tf.errors.OpError, config: Config) -> Exception:
    """Turns what TensorFlow says about bad data or a full disk into one line; a defect of ours stays as it is."""
    if isinstance(error, tf.errors.DataLossError):
        damaged = _damaged_file(config)
        where = f"{damaged}: " if damaged else ""
        return UserError(f"{where}truncated or damaged record file; delete the prepared dataset and prepare it again")
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


def _damaged_file(config: Config) -> str | None:
    builder = _open_dataset(config)
    for split in (config.train_split, config.validation_split, config.eval_split):
        if split and (found := schema.find_damaged_file(builder, split)):
            return found
    return None


def _open_dataset(config: Config):
    settings.require(config, "dataset")
    return schema.open_dataset(config.dataset, config.data_dir or None, config.manual_dir or None)


# --- training


def _train(config: Config, given: frozenset[str]) -> None:
    settings.require(config, "workdir", "dataset")
    results.check_writable(pathlib.Path(config.workdir) / "run.json")
    input_pipeline.check_window_fits_chunks(config)
    builder = _open_dataset(config)
    current = _continue_run(config) if run_directory.exists(config.workdir) else _new_run(config, builder)
    validate = _validator(current, builder) if config.validation_split else None
    trainer.train(current, schema.read_records(builder, config.train_split), validate)


def _continue_run(config: Config) -> Run:
    """The run in the working directory, if it was started with the same settings."""
    saved = run_directory.load(config.workdir)
    settings.refuse_changes(saved.config, config, settings.TRAINING_GROUPS)
    current = saved._replace(config=config)
    if current.config != saved.config:  # more epochs, say
        run_directory.save(current)
    return current


def _new_run(config: Config, builder) -> Run:
    """Looks at the training data once and writes the run's description."""
    num_features, class_names = schema.num_features(builder), schema.class_names(builder)
    for name, found in (("num_features", num_features), ("num_classes", len(class_names))):
        if getattr(config, name) not in (0, found):
            raise UserError(f"--{name}={getattr(config, name)}, but {builder.info.full_name} has {found}")
    for split in filter(None, (config.validation_split, config.eval_split if "evaluate" in config.mode else "")):
        schema.read_records(builder, split)  # a wrong name should not wait until training is over
    print(f"{builder.info.full_name}: reading {config.train_split} once for its statistics")
    scan = input_pipeline.scan(schema.read_records(builder, config.train_split), config)
    print(
        f"{scan.num_windows} training windows, {scan.num_actions} actions, {num_features} features, "
        f"{len(class_names)} classes"
    )
    if scan.num_too_long:
        print(
            f"warning: {scan.num_too_long} actions are too long for any window of {config.window_steps} steps "
            "(--window_steps)"
        )
    new = Run(
        config=config,
        class_names=class_names,
        num_features=num_features,
        statistics=(scan.mean, scan.variance) if config.normalize else None,
        num_windows=scan.num_windows,
        seconds_per_step=scan.seconds_per_step,
        first_step_seconds=scan.first_step_seconds,
    )
    run_directory.save(new)
    return new


def _validator(current: Run, builder):
    """network -> average mAP on the validation split. The localizer is traced once, not every epoch."""
    cached = functools.cache(lambda network: Localizer(network, current.config, current.class_names))

    def validate(network: keras.Model) -> float:
        localizer = cached(network)
        records = schema.read_records(builder, current.config.validation_split)
        found = list(inference.localize(localizer, records.as_numpy_iterator()))
        return _metrics(found, current)[localizer.branches[-1]]["average_mAP"]

    return validate


# --- evaluation


def _evaluate(config: Config, given: frozenset[str]) -> None:
    settings.require(config, "workdir")
    current, localizer = _trained(config, given)
    config = current.config
    builder = _open_dataset(config)
    _check_same_kind(builder, current)
    records = schema.read_records(builder, config.eval_split)
    found = _localize_all(inference.localize(localizer, records.as_numpy_iterator(), localizer.branches))
    by_branch = _metrics(found, current)
    _write_evaluation(found, by_branch, current, builder.info.full_name)
    main_branch = localizer.branches[-1]
    print(evaluation.format_table(by_branch))
    print(evaluation.format_classes(by_branch[main_branch]))
    print(evaluation.format_durations(by_branch[main_branch]))
    print(f"written: {pathlib.Path(config.workdir, 'metrics.json')} and detections.json")


def _trained(config: Config, given: frozenset[str]) -> tuple[Run, Localizer]:
    """The run in the working directory with its localizer; settings given now win where they may."""
    current = run_directory.load(config.workdir)
    current = current._replace(config=settings.merge(current.config, config, given))
    network = run_directory.load_network(current)
    return current, Localizer(network, current.config, current.class_names, current.first_step_seconds)


def _check_same_kind(builder, current: Run) -> None:
    """A model only fits data with its feature size and its classes."""
    found = schema.num_features(builder)
    if found != current.num_features:
        raise UserError(
            f"{builder.info.full_name} has {found} values per step but the model in {current.config.workdir} takes "
            f"{current.num_features}"
        )
    names = schema.class_names(builder)
    if names != current.class_names:
        raise UserError(
            f"{builder.info.full_name} has the classes {', '.join(names)}, but the model in {current.config.workdir} "
            f"was trained on {', '.join(current.class_names)}"
        )


def _localize_all(found: Iterator[Found]) -> list[Found]:
    return list(tqdm.tqdm(found, unit="sequence", leave=False, disable=None))


def _ground_truth(found: list[Found]) -> GroundTruth:
    def column(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.concatenate([np.reshape(f.record[name], shape) for f in found])

    def videos(name: str) -> np.ndarray:
        return np.concatenate([np.full(len(f.record[name]), f.video) for f in found])

    return GroundTruth(
        videos=videos("segments"),
        segments=column("segments", (-1, 2)).astype(np.float64),
        labels=column("labels", (-1,)).astype(np.int64),
        ambiguous_videos=videos("ambiguous_segments"),
        ambiguous_segments=column("ambiguous_segments", (-1, 2)).astype(np.float64),
    )


def _joined(found: list[Found], branch: str) -> Detections:
    return Detections.concatenate([f.detections[branch] for f in found])


def _metrics(found: list[Found], current: Run) -> dict[str, dict[str, Any]]:
    """Metrics by branch."""
    truth, config = _ground_truth(found), current.config
    return {
        branch: evaluation.evaluate(
            truth,
            _joined(found, branch),
            protocol=config.protocol,
            tiou_thresholds=config.tiou_thresholds,
            class_names=current.class_names,
            duration_edges=config.duration_edges,
        )
        for branch in found[0].detections
    }


def _write_evaluation(found: list[Found], by_branch: dict[str, dict], current: Run, dataset: str) -> None:
    config = current.config
    folder = pathlib.Path(config.workdir)
    main_branch = list(by_branch)[-1]
    origin = {
        "dataset": dataset,
        "split": config.eval_split,
        "checkpoint": config.checkpoint,
        "seed": config.seed,
        "versions": run_directory.versions(),
    }
    results.keep_previous(folder / "metrics.json", folder / "detections.json")
    videos = [f.video for f in found]
    results.write_activitynet(
        folder / "detections.json", _joined(found, main_branch), current.class_names, videos=videos
    )
    results.write_json(folder / "metrics.json", {**by_branch[main_branch], "branches": by_branch, **origin})
    if config.plots:
        _plot_timelines(found[:_NUM_TIMELINES], current, folder / "timelines")


def _plot_timelines(found: list[Found], current: Run, folder: pathlib.Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        print('no time lines drawn: matplotlib is missing (pip install "a2net-tf[plots]", or --noplots)')
        return
    for item in found:
        actions = zip(item.record["segments"], item.record["labels"], strict=True)
        tracks = {"ground truth": [(float(s), float(e), int(label), None) for (s, e), label in actions]}
        for branch, table in item.detections.items():
            rows = zip(table.segments, table.labels, table.scores, strict=True)
            best = [(s, e, int(label), float(score)) for (s, e), label, score in rows]
            tracks[branch] = [row for row in best if row[3] >= current.config.subtitle_score]
        path = folder / f"{_file_name(item.video)}.png"
        plots.plot_timeline(path, item.video, tracks, current.class_names, duration_seconds=item.duration_seconds)


def _file_name(video: str) -> str:
    return re.sub(r"[^\w.-]", "_", video)


# --- use


def _predict(config: Config, given: frozenset[str]) -> None:
    settings.require(config, "output")
    results.check_writable(config.output)
    if config.saved_model:
        found, class_names = _predict_exported(config)
    else:
        settings.require(config, "workdir")
        current, localizer = _trained(config, given)
        first = [current.seconds_per_step, current.first_step_seconds]
        sources = _sequences(current.config, current.num_features, *first)
        found = _localize_all(f for source in sources for f in inference.localize(localizer, source))
        class_names = current.class_names
    _write_predictions(found, class_names, config)


def _predict_exported(config: Config) -> tuple[list[Found], list[str]]:
    if not pathlib.Path(config.saved_model, "saved_model.pb").exists():
        raise UserError(f"--saved_model={config.saved_model}: no SavedModel here (saved_model.pb is missing)")
    model = tf.saved_model.load(config.saved_model)
    description = {name: value.numpy() for name, value in model.describe().items()}
    class_names = [name.decode() for name in description["class_names"]]
    base = [float(description["seconds_per_step"]), float(description["first_step_seconds"])]
    sources = _sequences(config, int(description["num_features"]), *base)
    return _localize_all(f for source in sources for f in inference.localize_exported(model, source)), class_names


def _sequences(config: Config, num_features: int, seconds_per_step: float, first_step_seconds: float) -> list:
    """Records to predict: of --features, or of --eval_split."""
    if config.features:
        return inference.read_feature_files(
            config.features,
            num_features=num_features,
            seconds_per_step=config.seconds_per_step or seconds_per_step,
            first_step_seconds=first_step_seconds,
        )
    if not config.dataset:
        raise UserError(
            "--mode=predict needs --features=FILE.npy (or a folder), or a --dataset whose --eval_split to read"
        )
    builder = _open_dataset(config)
    if schema.num_features(builder) != num_features:
        raise UserError(
            f"{builder.info.full_name} has {schema.num_features(builder)} values per step but the model takes "
            f"{num_features}"
        )
    return [schema.read_records(builder, config.eval_split).as_numpy_iterator()]


def _write_predictions(found: list[Found], class_names: list[str], config: Config) -> None:
    output = pathlib.Path(config.output)
    # One sequence: out.json and out.srt. Several: out.json and out.NAME.srt.
    subtitles = [output.with_suffix(".srt" if len(found) == 1 else f".{_file_name(item.video)}.srt") for item in found]
    branch = {item.video: next(iter(item.detections)) for item in found}
    tables = [item._replace(detections={"found": item.detections[branch[item.video]]}) for item in found]
    results.keep_previous(output, *subtitles)
    videos = [item.video for item in found]
    for item, path in zip(tables, subtitles, strict=True):
        results.write_srt(path, item.detections["found"], class_names, min_score=config.subtitle_score)
    results.write_activitynet(output, _joined(tables, "found"), class_names, videos=videos)
    for item in tables:
        _print_detections(item, class_names)
    print(f"written: {output} and {', '.join(map(str, subtitles[:3]))}{' ...' if len(subtitles) > 3 else ''}")


def _print_detections(item: Found, class_names: list[str]) -> None:
    table = item.detections["found"]
    print(f"{item.video}: {len(table.scores)} detections in {item.duration_seconds:.1f} s, the best:")
    for (start, end), label, score in list(zip(table.segments, table.labels, table.scores, strict=True))[
        :_PRINTED_DETECTIONS
    ]:
        print(f"  {start:9.2f} - {end:9.2f} s  {score:.3f}  {class_names[label]}")


def _export(config: Config, given: frozenset[str]) -> None:
    settings.require(config, "workdir", "saved_model")
    from a2net_tf.export import saved_model

    results.check_writable(pathlib.Path(config.saved_model) / "saved_model.pb")
    current, localizer = _trained(config, given)
    samples = _export_samples(current)
    difference = saved_model.export(localizer, current, config.saved_model, samples)
    print(
        f"written: {config.saved_model}; reloaded in a fresh process, {len(samples)} sequences agree to "
        f"{difference:.1e}"
    )


def _export_samples(current: Run) -> list[dict]:
    """Sequences on which the exported model is compared: real ones if the dataset is at hand, else random ones."""
    config = current.config
    try:
        builder = _open_dataset(config)
        _check_same_kind(builder, current)
        records = schema.read_records(builder, config.eval_split).as_numpy_iterator()
        return list(itertools.islice(inference.stitched(records), _CHECKED_SEQUENCES))
    except UserError as error:
        print(f"comparing on random sequences ({error})")
    random = np.random.default_rng(0)
    mean, variance = current.statistics or (0.0, 1.0)
    lengths = (1, config.window_steps, 5 * config.window_steps + 3)
    features = [random.normal(mean, np.sqrt(variance), (n, current.num_features)).astype(np.float32) for n in lengths]
    return [{"features": f, "num_steps": len(f), "feature_stride_seconds": current.seconds_per_step} for f in features]


def _score(config: Config, given: frozenset[str]) -> None:
    settings.require(config, "detections", "ground_truth")
    if config.metrics:
        results.check_writable(config.metrics)
    metrics = results.score(
        config.detections,
        config.ground_truth,
        protocol=config.protocol,
        subset=config.subset or None,
        tiou_thresholds=config.tiou_thresholds,
        duration_edges=config.duration_edges,
    )
    print(evaluation.format_table({pathlib.Path(config.detections).name: metrics}))
    print(evaluation.format_classes(metrics))
    print(evaluation.format_durations(metrics))
    _write_metrics(config, metrics)


def _profile(config: Config, given: frozenset[str]) -> None:
    if config.metrics:
        results.check_writable(config.metrics)
    num_features, num_classes = config.num_features, config.num_classes
    if not (num_features and num_classes):
        if not config.dataset:
            raise UserError("--mode=profile needs --num_features and --num_classes, or a --dataset")
        builder = _open_dataset(config)
        num_features, num_classes = schema.num_features(builder), len(schema.class_names(builder))
    profile = profiler.profile(build_model(config, num_features, num_classes))
    print(profiler.format_profile(profile))
    _write_metrics(config, profile)


def _write_metrics(config: Config, metrics: dict) -> None:
    if not config.metrics:
        return
    results.keep_previous(config.metrics)
    results.write_json(config.metrics, metrics)
    print(f"written: {config.metrics}")


def _train_and_evaluate(config: Config, given: frozenset[str]) -> None:
    _train(config, given)
    _evaluate(config, given)


_MODES = {
    "train": _train,
    "evaluate": _evaluate,
    "train_and_evaluate": _train_and_evaluate,
    "predict": _predict,
    "export": _export,
    "score": _score,
    "profile": _profile,
}

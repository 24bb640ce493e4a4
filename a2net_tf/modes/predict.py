"""``--mode=predict``: a trained or exported model at work."""

import itertools
import json
import pathlib
from collections.abc import Iterable

import tensorflow as tf

from a2net_tf import safe_files, settings
from a2net_tf.data import prepared
from a2net_tf.detection import precision
from a2net_tf.errors import UserError
from a2net_tf.evaluation import results_files
from a2net_tf.evaluation.instances import Detections
from a2net_tf.inference import localization
from a2net_tf.inference.localization import SequenceDetections
from a2net_tf.inference.trained import load_trained
from a2net_tf.safe_files import file_name
from a2net_tf.settings import Config

_PRINTED_DETECTIONS = 20


def predict(config: Config, given: frozenset[str]) -> None:
    """Writes the detections of --features or of --eval_split, by a working directory or an exported model.

    Args:
        config: settings of this command.
        given: names of those that win over the trained run's.
    """
    settings.require(config, "output")
    if config.output.endswith(".srt"):
        raise UserError(f"--output={config.output}: names the JSON file; subtitles are written beside it as .srt")
    safe_files.check_writable(config.output)
    if config.saved_model:
        sequences, class_names = _predict_exported(config, given)
    else:
        settings.require(config, "workdir")
        current, localizer = load_trained(config, given)
        precision.announce(current.config.precision, current.computed.precision)
        base = [current.seconds_per_step, current.first_step_seconds]
        sources = _sequences(current.config, current.num_features, *base)
        sequences = localization.collect(f for source in sources for f in localization.localize(localizer, source))
        class_names = current.class_names
    _write_predictions(sequences, class_names, config)


def _predict_exported(config: Config, given: frozenset[str]) -> tuple[list[SequenceDetections], list[str]]:
    if not pathlib.Path(config.saved_model, "saved_model.pb").exists():
        raise UserError(f"--saved_model={config.saved_model}: no SavedModel here (saved_model.pb is missing)")
    try:
        model = tf.saved_model.load(config.saved_model)
        description = {name: value.numpy() for name, value in model.describe().items()}
    except (OSError, ValueError, AttributeError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--saved_model={config.saved_model}: damaged, or not written by --mode=export ({reason})"
        ) from None
    settings.refuse_exported_changes(json.loads(description["settings"].decode()), config, given)
    class_names = [name.decode() for name in description["class_names"]]
    base = [float(description["seconds_per_step"]), float(description["first_step_seconds"])]
    sources = _sequences(config, int(description["num_features"]), *base)
    return localization.collect(
        f for source in sources for f in localization.localize_exported(model, source)
    ), class_names


def _sequences(
    config: Config, num_features: int, seconds_per_step: float, first_step_seconds: float
) -> list[Iterable[dict]]:
    """Records to predict: of --features, or of --eval_split."""
    if config.features:
        return localization.read_feature_files(
            config.features,
            num_features=num_features,
            seconds_per_step=config.seconds_per_step or seconds_per_step,
            first_step_seconds=first_step_seconds,
        )
    if not config.dataset:
        raise UserError(
            "--mode=predict needs --features=FILE.npy (or a folder), or a --dataset whose --eval_split to read"
        )
    builder = prepared.open_dataset_of(config)
    if prepared.num_features(builder) != num_features:
        raise UserError(
            f"{builder.info.full_name} has {prepared.num_features(builder)} values per step but the model takes "
            f"{num_features}"
        )
    return [prepared.read_records(builder, config.eval_split).as_numpy_iterator()]


def _write_predictions(sequences: list[SequenceDetections], class_names: list[str], config: Config) -> None:
    output = pathlib.Path(config.output)
    subtitles = _subtitle_paths(output, [item.video for item in sequences])
    safe_files.keep_previous(output, *subtitles)
    videos = [item.video for item in sequences]
    results_files.write_activitynet(
        output, Detections.concatenate([f.merged for f in sequences]), class_names, videos=videos
    )
    for item, path in zip(sequences, subtitles, strict=True):
        results_files.write_srt(path, item.merged, class_names, min_score=config.subtitle_score)
    for item in sequences:
        _print_detections(item, class_names)
    print(f"written: {output} and {', '.join(map(str, subtitles[:3]))}{' ...' if len(subtitles) > 3 else ''}")


def _subtitle_paths(output: pathlib.Path, videos: list[str]) -> list[pathlib.Path]:
    """One sequence: out.json and out.srt. Several: out.json and out.NAME.srt, numbered where file names would clash."""
    if len(videos) == 1:
        return [output.with_suffix(".srt")]
    names = [file_name(video) for video in videos]
    numbers = [names[:i].count(name) for i, name in enumerate(names)]
    return [
        output.with_suffix(f".{name}-{number + 1}.srt" if number else f".{name}.srt")
        for name, number in zip(names, numbers, strict=True)
    ]


def _print_detections(item: SequenceDetections, class_names: list[str]) -> None:
    table = item.merged
    best = zip(table.segments, table.labels, table.scores, strict=True)
    print(f"{item.video}: {len(table.scores)} detections in {item.duration_seconds:.1f} s, the best:")
    for (start, end), label, score in itertools.islice(best, _PRINTED_DETECTIONS):
        print(f"  {start:9.2f} - {end:9.2f} s  {score:.3f}  {class_names[label]}")

"""``--mode=predict``: a trained or exported model at work."""

import itertools
import pathlib
from collections.abc import Iterable

from a2net_tf import safe_files, settings
from a2net_tf.data import feature_files, prepared
from a2net_tf.errors import UserError
from a2net_tf.inference import detector
from a2net_tf.inference.detection_table import DetectionTable
from a2net_tf.inference.detector import Detector
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
    _refuse_inputs(config)
    for path in (config.output, pathlib.Path(config.output).with_suffix(".srt")):  # of one sequence
        safe_files.check_writable(path)
    if not config.saved_model:
        settings.require(config, "workdir")
    model = detector.load(config, given)
    found = model.detect(config.features) if config.features else model.detect_records([_split(model)])
    written = found.write_json(config.output)
    subtitles = found.write_subtitles(config.output, min_score=config.subtitle_score)
    _print_detections(found)
    print(f"written: {written[0]} and {', '.join(map(str, subtitles[:3]))}{' ...' if len(subtitles) > 3 else ''}")


def _refuse_inputs(config: Config) -> None:
    """An --output that is an input, or looks like one, is a slip: a JSON would take its place."""
    output = pathlib.Path(config.output)
    if output.suffix.lower() in feature_files.FEATURE_SUFFIXES:
        raise UserError(f"--output={config.output}: names the JSON file to write, but ends as a file of features does")
    for name in ("features", "saved_model"):
        given = getattr(config, name)
        if given and output.resolve() == pathlib.Path(given).resolve():
            raise UserError(f"--output={config.output}: is --{name} itself")


def _split(model: Detector) -> Iterable[dict]:
    """Records of --eval_split."""
    if not model.config.dataset:
        raise UserError(
            "--mode=predict needs --features=FILE.npy (or a folder), or a --dataset whose --eval_split to read"
        )
    builder = prepared.open_dataset_of(model.config)
    if prepared.num_features(builder) != model.num_features:
        raise UserError(
            f"{builder.info.full_name} has {prepared.num_features(builder)} values per step but the model takes "
            f"{model.num_features}"
        )
    return prepared.read_records(builder, model.config.eval_split).as_numpy_iterator()


def _print_detections(found: DetectionTable) -> None:
    for video, table in found.by_video.items():
        seconds = found.durations_seconds[video]
        print(f"{video}: {len(table)} detections in {seconds:.1f} s, the best:")
        best = zip(table.segments, table.labels, table.scores, strict=True)
        for (start, end), label, score in itertools.islice(best, _PRINTED_DETECTIONS):
            print(f"  {start:9.2f} - {end:9.2f} s  {score:.3f}  {found.class_names[label]}")

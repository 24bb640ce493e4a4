"""``--mode=predict``: a trained or exported model at work."""

import itertools
import pathlib
from collections.abc import Iterable, Sequence

from a2net_tf import safe_files, settings
from a2net_tf.data import prepared
from a2net_tf.errors import UserError
from a2net_tf.inference import detection_table, detector
from a2net_tf.inference.detection_table import DetectionTable
from a2net_tf.inference.detector import Detector
from a2net_tf.report import annotated_video
from a2net_tf.settings import Config
from a2net_tf.video import video_files

_PRINTED_DETECTIONS = 20


def predict(config: Config, given: frozenset[str]) -> None:
    """Writes the detections of --features or of --eval_split, by a working directory or an exported model.

    Args:
        config: settings of this command.
        given: names of those that win over the trained run's.
    """
    settings.require(config, "output")
    _check_output(config)
    film = _check_films(config)
    for path in (config.output, pathlib.Path(config.output).with_suffix(".srt")):  # of one sequence
        safe_files.check_writable(path)
    if not config.saved_model:
        settings.require(config, "workdir")
    model = detector.load(config, given)
    found = _detect(model, config)
    written = _save(found, config)
    subtitles = found.write_subtitles(config.output, min_score=config.subtitle_score)
    _print_detections(found)
    print(f"written: {_listed(written)} and {_listed(subtitles)}")
    if film:
        _draw(config, film, found)


def _detect(model: Detector, config: Config) -> DetectionTable:
    """Of whatever is given."""
    if config.videos:
        return model.detect_videos(config.videos)
    return model.detect(config.features) if config.features else model.detect_records([_split(model)])


def _check_films(config: Config) -> pathlib.Path | None:
    """The video to draw on, if that is asked for. What cannot be is refused before anything is computed."""
    if config.videos and config.features:
        raise UserError("--videos and --features: give one of them")
    files = list(video_files.find_videos(config.videos).values()) if config.videos else []
    if not config.annotated_video:
        return None
    if len(files) != 1:
        told = f"found {len(files)} in --videos={config.videos}" if config.videos else "give it as --videos"
        raise UserError(f"--annotated_video={config.annotated_video}: is drawn on one video; {told}")
    annotated_video.check_target(config.annotated_video)
    if _is_same(config.annotated_video, str(files[0])):
        raise UserError(f"--annotated_video={config.annotated_video}: is the video itself")
    return files[0]


def _draw(config: Config, video: pathlib.Path, found: DetectionTable) -> None:
    [(name, table)] = found.by_video.items()
    rows = zip(table.segments.tolist(), table.labels.tolist(), table.scores.tolist(), strict=True)
    bars = [(start, end, label, score) for (start, end), label, score in rows if score >= config.subtitle_score]
    annotated_video.write(config.annotated_video, video, bars, found.class_names, found.durations_seconds[name])
    print(f"written: {config.annotated_video} with the detections from {config.subtitle_score:g} on (--subtitle_score)")


def _save(found: DetectionTable, config: Config) -> list[pathlib.Path]:
    """By the ending of --output; a name without one is that of a JSON file."""
    if not pathlib.Path(config.output).suffix:
        return found.write_json(config.output)
    rate, url = config.label_studio_rate, config.label_studio_url
    return found.save(config.output, subtitle_score=config.subtitle_score, label_studio_rate=rate, label_studio_url=url)


def _listed(files: Sequence[pathlib.Path]) -> str:
    return f"{', '.join(map(str, files[:3]))}{' ...' if len(files) > 3 else ''}"


def _check_output(config: Config) -> None:
    """An --output that is an input, or looks like one, is a slip: detections would take its place."""
    output = pathlib.Path(config.output)
    if output.suffix.lower() in (".npy", ".npz"):
        raise UserError(f"--output={config.output}: names the detections to write, but ends as a file of features does")
    if video_files.is_video(output):
        raise UserError(f"--output={config.output}: names the detections to write; a film is --annotated_video")
    if output.suffix.lower() == ".srt":
        raise UserError(f"--output={config.output}: names the detections; subtitles are written beside it as .srt")
    for target in ("output", "annotated_video"):
        for name in ("features", "saved_model"):
            if _is_same(getattr(config, target), getattr(config, name)):
                raise UserError(f"--{target}={getattr(config, target)}: is --{name} itself")
    if output.suffix:
        detection_table.check_format(output)


def _is_same(path: str, other: str) -> bool:
    return bool(path and other) and pathlib.Path(path).resolve() == pathlib.Path(other).resolve()


def _split(model: Detector) -> Iterable[dict]:
    """Records of --eval_split."""
    if not model.config.dataset:
        raise UserError(
            "--mode=predict needs --features=FILE.npy (or a folder), --videos=FILE (or a folder), or a --dataset whose "
            "--eval_split to read"
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

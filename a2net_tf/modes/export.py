"""``--mode=export``: a trained run as SavedModel, TFLite, ONNX or StableHLO, each compared with the trained network."""

import dataclasses
import itertools
import pathlib

from a2net_tf import safe_files, settings
from a2net_tf.data import prepared
from a2net_tf.detection import precision
from a2net_tf.detection.localizer import Localizer
from a2net_tf.errors import UserError
from a2net_tf.inference import localization
from a2net_tf.inference.trained import check_same_kind, load_trained
from a2net_tf.settings import Config
from a2net_tf.training import run_directory
from a2net_tf.training.run_directory import Run

_CHECKED_SEQUENCES = 64


def export(config: Config, given: frozenset[str]) -> None:
    """Writes the model in ``config.workdir`` in every form whose path is given: ``config.saved_model``, ``tflite``, ...

    Each is run and compared with the trained network before it is put in its place.
    """
    settings.require(config, "workdir")
    writers = {
        "saved_model": _export_saved_model,
        "tflite": _export_tflite,
        "onnx": _export_onnx,
        "stablehlo": _export_stablehlo,
    }
    wanted = [name for name in writers if getattr(config, name)]
    if not wanted:
        raise UserError("--mode=export needs --saved_model, --tflite, --onnx or --stablehlo: what to write")
    if config.saved_model:
        _check_target(config)
    for name in wanted:
        path = pathlib.Path(getattr(config, name))
        safe_files.check_writable(path / "saved_model.pb" if name == "saved_model" else path)
    for name in wanted:
        writers[name](config, given)


def _check_target(config: Config) -> None:
    """Refuses a --saved_model that holds anything but a SavedModel: what is there will be renamed."""
    target = pathlib.Path(config.saved_model)
    if not target.name or target.name == "..":
        raise UserError(f"--saved_model={config.saved_model}: expected the name of a folder to write")
    if safe_files.pattern_letters(target):
        raise UserError(
            f"--saved_model={config.saved_model}: TensorFlow takes [ ] * ? in the path of a SavedModel for a pattern "
            "and could not open it again; choose another name"
        )
    if target.is_dir() and any(target.iterdir()) and not (target / "saved_model.pb").exists():
        raise UserError(
            f"--saved_model={config.saved_model}: this folder is there and is no SavedModel; name a new folder, or one "
            "that an earlier export has written"
        )


def _export_saved_model(config: Config, given: frozenset[str]) -> None:
    from a2net_tf.export import saved_model

    current, localizer = load_trained(config, given)
    precision.announce(current.config.precision, current.computed.precision)
    samples = _samples(current, current.config.eval_split)
    differences = saved_model.export(
        localizer, current, config.saved_model, samples, freeze=config.freeze, origin=_metrics_of(config.workdir)
    )
    print(
        f"written: {config.saved_model}; reloaded in a fresh process, {len(samples)} sequences agree to "
        f"{differences.detections:.1e}, and candidates with the trained network to {differences.candidates:.1e}"
    )


def _export_tflite(config: Config, given: frozenset[str]) -> None:
    from a2net_tf.export import tflite

    current, localizer = _load_float32(config, given, "--tflite (see --tflite_type)")
    samples = _samples(current, current.config.train_split, or_random=config.tflite_type != "int8")
    written = tflite.export_tflite(localizer, current, config.tflite, quantization=config.tflite_type, samples=samples)
    print(
        f"written: {config.tflite}, {written.num_bytes / 1e6:.1f} MB; scores of candidates differ by "
        f"{written.score_difference:.1e} on average"
    )


def _export_onnx(config: Config, given: frozenset[str]) -> None:
    from a2net_tf.export import onnx

    current, localizer = _load_float32(config, given, "--onnx")
    difference = onnx.export_onnx(localizer, current, config.onnx)
    print(f"written: {config.onnx}; in onnxruntime it agrees with the trained network to {difference:.1e}")


def _export_stablehlo(config: Config, given: frozenset[str]) -> None:
    from a2net_tf.export import stablehlo

    current, localizer = _load_float32(config, given, "--stablehlo")
    difference = stablehlo.export_stablehlo(localizer, current, config.stablehlo)
    print(f"written: {config.stablehlo}; in jaxlib it agrees with the trained network to {difference:.1e}")


def _load_float32(config: Config, given: frozenset[str], target: str) -> tuple[Run, Localizer]:
    """The trained network in float32, whatever it was trained in: other formats quantise for themselves."""
    if "precision" in given and config.precision not in (precision.AUTO, "float32"):
        raise UserError(f"--precision={config.precision} is for --saved_model; {target} is written from float32")
    current, localizer = load_trained(dataclasses.replace(config, precision="float32"), given | {"precision"})
    if current.config.looks_at_pixels:
        raise UserError(
            f"{config.workdir} looks at raw video (--backbone=c3d), which is exported as --saved_model alone"
        )
    return current, localizer


def _metrics_of(workdir: str) -> dict:
    """What the last evaluation of the run found, for the model card; {} if there was none."""
    path = pathlib.Path(workdir, "metrics.json")
    if not path.exists():
        return {}
    metrics = safe_files.read_json_object(path)
    names = ("dataset", "split", "checkpoint", "protocol", "tiou_thresholds", "mAP", "average_mAP")
    return {"metrics": {name: metrics[name] for name in names if name in metrics}}


def _samples(current: Run, split: str, *, or_random: bool = True) -> list[dict]:
    """Sequences on which an exported model is compared: real ones if the dataset is at hand, else random ones."""
    config = current.config
    try:
        builder = prepared.open_dataset_of(config)
        check_same_kind(builder, current)
        records = prepared.read_records(builder, split).as_numpy_iterator()
        return list(itertools.islice(localization.stitched(records), _CHECKED_SEQUENCES))
    except UserError as error:
        if not or_random:
            raise
        print(f"comparing on random sequences ({error})")
    lengths = (1, config.inference_steps, 5 * config.inference_steps + 3)
    features = [run_directory.random_features(current, length) for length in lengths]
    return [{"features": f, "num_steps": len(f), "feature_stride_seconds": current.seconds_per_step} for f in features]

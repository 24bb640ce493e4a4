"""Loading trained runs for inference."""

import dataclasses
import pathlib
from collections.abc import Mapping

import keras
import tensorflow_datasets as tfds

from a2net_tf import settings
from a2net_tf.data import prepared
from a2net_tf.detection import precision
from a2net_tf.detection.localizer import Localizer
from a2net_tf.errors import UserError
from a2net_tf.settings import Config
from a2net_tf.training import run_directory
from a2net_tf.training.run_directory import Run
from a2net_tf.video import description


def load_trained(config: Config, given: frozenset[str]) -> tuple[Run, Localizer]:
    """The run in the working directory with its localizer; settings given now win where they may.

    Several working directories: the first one's settings, and the candidates of all. --precision=auto becomes what
    suits this device, whatever a run was trained in.
    """
    first, *others = config.workdir.split(",")
    current, network = _load(first, config, given)
    loaded = [_load(workdir, config, given) for workdir in others]
    for other, _ in loaded:
        _check_mergeable(current, other)
    for other, other_network in loaded if current.config.fusion == "outputs" else []:
        _check_averageable(current, network, other, other_network)
    others = [(other_network, other.computed) for other, other_network in loaded]
    localizer = Localizer(
        network,
        current.computed,
        current.class_names,
        current.first_step_seconds,
        others=others,
        also_reported=current.also_reported,
    )
    return current, localizer


def _load(workdir: str, config: Config, given: frozenset[str]) -> tuple[Run, keras.Model]:
    current = run_directory.with_found_paths(run_directory.load(workdir))
    requested = dataclasses.replace(config, workdir=workdir)
    saved = _with_tuned_settings(current.config, config, workdir)
    merged = settings.merge(saved, requested, given)
    current = current._replace(config=merged, precision=precision.resolve(merged.precision))
    return current, run_directory.load_network(current)


def _with_tuned_settings(saved: Config, requested: Config, workdir: str) -> Config:
    """The settings of a run, and in their place those that were tuned; says so, and if one branch alone is better."""
    tuning = run_directory.read_tuning(workdir) if requested.mode != "tune" else None
    if tuning is None:
        return saved
    path = pathlib.Path(workdir, run_directory.TUNING)
    if tuning["epochs"] != saved.epochs:
        print(
            f"{path}: not followed, because it was made after {tuning['epochs']} epochs and the run has {saved.epochs} "
            "now; tune again"
        )
        return saved
    _name_a_better_branch(workdir, tuning["split"], tuning["tuned" if requested.tuned else "own"])
    if not requested.tuned:
        return saved
    values = " ".join(f"--{name}={value}" for name, value in tuning["chosen"].items())
    print(f"{workdir}: tuned on {tuning['split']}: {values or 'nothing is better than the settings of the run'}")
    try:
        return settings.from_dict({**settings.to_dict(saved), **tuning["chosen"]})
    except UserError as error:
        raise UserError(f"{path}: damaged ({error})") from None


def _name_a_better_branch(workdir: str, split: str, scores: Mapping[str, float]) -> None:
    """Says that merging the branches costs something, where it does; ``scores``: of each branch, the merged last."""
    best = max(scores, key=scores.get)
    if best != list(scores)[-1]:
        text = ", ".join(f"{branch} {100 * score:.1f}" for branch, score in scores.items())
        print(f"{workdir}: on {split} {best} alone is better than both: average mAP {text}")


def _check_mergeable(first: Run, other: Run) -> None:
    """Merged runs must see the same features, in windows of the same length, and know the same classes."""
    for name, a, b in (
        ("features per step", first.num_features, other.num_features),
        ("classes", first.class_names, other.class_names),
        ("--window_steps", first.config.window_steps, other.config.window_steps),
        ("--inference_window_steps", first.config.inference_steps, other.config.inference_steps),
    ):
        if a != b:
            raise UserError(
                f"--workdir: {first.config.workdir} and {other.config.workdir} differ in {name}: {a} and {b}"
            )
    made, others = first.extraction, other.extraction
    if made and others and (different := description.differences(others, made)):
        raise UserError(
            f"--workdir: {first.config.workdir} and {other.config.workdir} were trained on features that were made of "
            f"videos in different ways: {', '.join(different)}"
        )


def _check_averageable(first: Run, network: keras.Model, other: Run, other_network: keras.Model) -> None:
    """Averaged outputs must mean the same: the same cells and anchors, decoded in the same way."""
    pairs = {
        "outputs": [{name: tuple(out.shape) for name, out in n.output.items()} for n in (network, other_network)],
        **{
            f"--{name}": [getattr(run.config, name) for run in (first, other)]
            for name in ("anchor_ratios", "center_scale", "width_scale")
        },
    }
    for name, (a, b) in pairs.items():
        if a != b:
            raise UserError(
                f"--fusion=outputs: {first.config.workdir} and {other.config.workdir} differ in {name}: {a} and {b}; "
                "their outputs cannot be averaged (--fusion=candidates merges what they find)"
            )


def check_same_kind(builder: tfds.core.DatasetBuilder, current: Run) -> None:
    """A model only fits data with its feature size and its classes."""
    size = prepared.num_features(builder)
    if size != current.num_features:
        raise UserError(
            f"{builder.info.full_name} has {size} values per step but the model in {current.config.workdir} takes "
            f"{current.num_features}"
        )
    made = prepared.read_extraction(builder)
    if made and current.extraction and (different := description.differences(made, current.extraction)):
        raise UserError(
            f"{builder.info.full_name}: its features were made of videos in another way than those that the model in "
            f"{current.config.workdir} was trained on: {', '.join(different)}"
        )
    names = prepared.class_names(builder)
    if names != current.class_names:
        raise UserError(
            f"{builder.info.full_name} has the classes {', '.join(names)}, but the model in {current.config.workdir} "
            f"was trained on {', '.join(current.class_names)}"
        )

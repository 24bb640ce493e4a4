"""How the features of a folder were made, in words that JSON can hold, so that others can be made in the same way.

The words are settings of ``--mode=extract`` by their names, with what 0 stood for, and what the weights are
(``origin``). They travel: from settings.json to the prepared dataset, to a run that is trained on it, and to what is
exported of that run.
"""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from typing import Any

import a2net_tf
from a2net_tf.detection import precision
from a2net_tf.errors import UserError
from a2net_tf.settings import Config
from a2net_tf.video.extraction import Extraction
from a2net_tf.video.extractors import choose
from a2net_tf.video.flow_clips import Flow

_PACKAGES = ("tensorflow", "keras", "av", "opencv-contrib-python-headless")
_AS_EXPORTED = "as exported"  # a SavedModel computes in the type that it was exported in
# What decides about the vectors, in the settings' words.
_SETTINGS = (
    *("extractor", "frame_rate", "frame_stride", "frame_fit", "frame_size", "clip_frames", "input_range"),
    *("signature", "motion", "flow", "flow_values", "precision"),
)
_FILES = ("extractor_weights", "flow_weights")  # may lie elsewhere today: their content counts, which is in ``origin``
# Settings that there was no choice about once, and what they were.
_LATER = {"flow": Config.flow, "flow_values": Config.flow_values, "flow_weights": Config.flow_weights}


def open_extraction(config: Config) -> Extraction:
    """The extractor of ``config``, used as it says.

    Raises:
        UserError: it cannot be opened, or the settings do not go together.
    """
    computed = _computed(config)
    extractor = choose.open_extractor(config, computed)
    if config.motion != "none" and extractor.clip_frames > 1:
        raise UserError(f"--motion={config.motion} is for extractors of single frames; {extractor.name} sees motion")
    if computed != _AS_EXPORTED:
        precision.announce(config.precision, computed)
    rate, stride = config.frame_rate or extractor.frame_rate, config.frame_stride or extractor.stride_frames
    flow = Flow(config.flow, config.flow_values)
    extraction = Extraction(extractor, rate, stride, config.frame_fit, config.motion, flow)
    _refuse_unused_flow(config, extraction)
    return extraction


def _refuse_unused_flow(config: Config, extraction: Extraction) -> None:
    """What nobody looks at was meant otherwise, or does not belong into the words."""
    if config.flow != Config.flow and not extraction.looks_at_flow:
        raise UserError(f"--flow={config.flow}: nothing looks at it without --flow_weights or --motion=flow_statistics")
    if config.flow_values != Config.flow_values and extraction.extractor.looks_at == "rgb":
        raise UserError(f"--flow_values={config.flow_values}: only i3d's stream of optical flow (--flow_weights) asks")


def _computed(config: Config) -> str:
    is_exported = config.extractor.startswith("saved_model:")
    return _AS_EXPORTED if is_exported else precision.resolve(config.precision)


def describe(config: Config, extraction: Extraction) -> dict[str, Any]:
    """The words: values of settings, ``origin``, and versions of what takes part."""
    extractor = extraction.extractor
    return {
        **{name: getattr(config, name) for name in (*_SETTINGS, *_FILES)},
        "frame_rate": extraction.frame_rate,
        "frame_stride": extraction.stride_frames,
        "frame_size": extractor.size,
        "clip_frames": extractor.clip_frames,
        "precision": _computed(config),
        "origin": extractor.origin,
        "versions": {"a2net_tf": a2net_tf.__version__, **_versions()},
    }


def differences(described: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """What would make other vectors than before, as texts; a file that was only moved is none."""
    path = "saved_model:"
    both_exported = all(str(words.get("extractor")).startswith(path) for words in (described, before))
    names = [name for name in (*_SETTINGS, "origin") if not (name == "extractor" and both_exported)]
    pairs = [(name, *(words.get(name, _LATER.get(name)) for words in (described, before))) for name in names]
    return [f"{name}={now} (was {then})" for name, now, then in pairs if now != then]


def open_again(words: Mapping[str, Any], config: Config, given: frozenset[str], source: str) -> Extraction:
    """The extraction that ``words`` describe.

    Args:
        words: of ``describe``.
        config: of this command: where files are now, and what its device computes in.
        given: names of the settings that were given; those that contradict the words are refused.
        source: of the words, for messages.

    Raises:
        UserError: the words are none, a setting contradicts them, or the weights are others.
    """
    now = _said_again(words, config, given, source)
    extraction = open_extraction(now)
    if different := differences(describe(now, extraction), words):
        raise UserError(
            f"{source} was trained on features that were made in another way: {', '.join(different)}; other features "
            "mean nothing to it"
        )
    return extraction


def _said_again(words: Mapping[str, Any], config: Config, given: frozenset[str], source: str) -> Config:
    """``config`` with the settings that ``words`` hold."""
    names = {field.name: type(field.default) for field in dataclasses.fields(Config)}
    found = {}
    for name in (*_SETTINGS, *_FILES):
        value = words.get(name, _LATER.get(name))
        if not isinstance(value, (int, float) if names[name] is float else names[name]):
            raise UserError(f"{source}: how its features were made is damaged: {name} is {value!r}")
        found[name] = getattr(config, name) if name in given and name != "precision" else value
    if found["precision"] == _AS_EXPORTED:
        found["precision"] = precision.AUTO
    return dataclasses.replace(config, **found)


def _versions() -> dict[str, str]:
    """Of the packages that take part; one that was installed under another name is left out."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

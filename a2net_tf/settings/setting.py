"""What a setting says about itself, and the modes that settings can belong to. The settings are in ``*_fields.py``."""

import dataclasses
from collections.abc import Sequence
from typing import Any

MODES = {
    "train": "train on --train_split of --dataset or on --videos; goes on where it stopped",
    "evaluate": "score --eval_split with the model in --workdir",
    "train_and_evaluate": "both",
    "ablate": "train and score the rows of --ablation below --workdir, for one table",
    "cross_validate": "train on all but one of --fold_splits in turn, and score what was not seen",
    "tune": "choose settings of localization on --validation_split for the run in --workdir",
    "report": "show what evaluate has left in --workdir, or in several, as a page for the browser",
    "check": "what --dataset holds, and whether the settings can reach its actions",
    "predict": "detections for --videos or --features (a file or a folder), or else for --eval_split, with --workdir "
    "or --saved_model",
    "export": "write the model in --workdir as --saved_model, --tflite, --onnx or --stablehlo",
    "extract": "turn --videos into files of features in --output, a folder that --dataset=feature_folder takes",
    "score": "judge --detections against --ground_truth by --protocol, without a model",
    "profile": "count parameters and multiply-adds of the network that the settings describe",
    "import_release": "turn --release_checkpoint, a PyTorch file of the authors' release, into a run in --workdir",
}

# Modes that most settings of a section share.
TRAINING = ("train", "train_and_evaluate", "ablate", "cross_validate")
SCORING = ("evaluate", "train_and_evaluate", "ablate", "cross_validate")
LOCALIZING = (*TRAINING, "evaluate", "tune", "predict", "export")  # a training too: on its --validation_split
READING = tuple(mode for mode in MODES if mode not in ("extract", "score", "report"))  # may open a dataset

# Choices of a switch that the device may decide. On the command line --NAME, --noNAME or --NAME=auto|true|false.
SWITCH = ("auto", True, False)

BINDS = {
    "data": "What a run is trained on: a run is not continued with another value.",
    "model": "The network: neither is a run continued, nor a trained or exported model used, with another value.",
    "training": "How it is trained: a run is not continued with another value.",
    "progress": "What changes a training, but may change between two commands that continue it, like more epochs.",
    "localization": "How detections are made: any value suits a trained model, but an exported one has its own.",
    "nothing": "Each command has its own value.",
}


def setting(
    default: Any,
    text: str,
    *,
    section: str,
    modes: Sequence[str],
    binds: str = "nothing",
    common: bool = False,
    choices: Sequence[str] = (),
) -> Any:
    """A dataclass field that carries all that is said about a setting.

    Args:
        default: its value unless given; its type is the setting's.
        text: for the help, in sentences.
        section: of the help.
        modes: keys of ``MODES``: which of them use it.
        binds: a key of ``BINDS``: what is bound to its value.
        common: whether the help shows it first.
        choices: all values that it may have; empty: any of its type.
    """
    if binds not in BINDS or not set(modes) <= set(MODES):
        raise ValueError(f"binds={binds}, modes={modes}: expected of {tuple(BINDS)} and of {tuple(MODES)}")
    metadata = {"help": text, "section": section, "modes": tuple(modes), "binds": binds, "common": common}
    return dataclasses.field(default=default, metadata={**metadata, "choices": tuple(choices)})

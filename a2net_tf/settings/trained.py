"""What a trained run, or an exported model, fixes: later commands take it from there."""

import dataclasses
from collections.abc import Collection
from typing import Any

from a2net_tf.errors import UserError
from a2net_tf.settings.checks import check
from a2net_tf.settings.config import EXPORTED_SETTINGS, FIELDS, MODEL_SETTINGS, Config
from a2net_tf.settings.conversion import to_dict


def merge(saved: Config, requested: Config, given: frozenset[str]) -> Config:
    """Settings for using a trained model: its own, except what was given now and does not belong to the model.

    Raises:
        UserError: a setting of the model was given and differs from the trained one.
    """
    changed = {name: getattr(requested, name) for name in given | {"mode", "workdir"}}
    merged = dataclasses.replace(saved, **changed)
    refuse_changes(saved, merged, MODEL_SETTINGS)
    check(merged)
    return merged


def refuse_changes(saved: Config, requested: Config, names: Collection[str]) -> None:
    """Raises UserError if one of the settings ``names`` differs between a working directory and the command line."""
    different = [
        f"--{name}={getattr(requested, name)} (was {getattr(saved, name)})"
        for name in FIELDS
        if name in names and getattr(requested, name) != getattr(saved, name)
    ]
    if different:
        raise UserError(
            f"{requested.workdir or 'the working directory'} holds a run with other settings: {', '.join(different)}; "
            "use another --workdir, or drop these flags"
        )


def exported_settings(config: Config) -> dict[str, Any]:
    """The settings that an exported model carries, JSON-ready."""
    return {n: v for n, v in to_dict(config).items() if n in EXPORTED_SETTINGS}


def refuse_exported_changes(exported: dict[str, Any], requested: Config, given: frozenset[str]) -> None:
    """Raises UserError if a setting was given that differs from what is fixed in an exported model."""
    wanted = exported_settings(requested)
    different = [f"--{n}={wanted[n]} (exported with {v})" for n, v in exported.items() if n in given and wanted[n] != v]
    if different:
        raise UserError(f"{requested.saved_model}: fixed when it was exported: {', '.join(different)}; export it again")

"""``--mode=tune``: the settings of localization that score best on a validation split, kept with the run."""

import dataclasses
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from a2net_tf import safe_files, settings
from a2net_tf.data import prepared
from a2net_tf.detection import precision
from a2net_tf.detection.localizer import Localizer
from a2net_tf.detection.postprocess import Candidates
from a2net_tf.errors import UserError
from a2net_tf.inference import localization, scoring
from a2net_tf.inference.localization import SequenceCandidates
from a2net_tf.inference.trained import check_same_kind, load_trained
from a2net_tf.report import text_tables
from a2net_tf.settings import Config
from a2net_tf.training import run_directory
from a2net_tf.training.run_directory import Run

# In this order, each with the best values of the others so far, until none of them changes.
VALUES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "step_exponent": (0.0, 0.5, 1.0, 2.0),
        "anchor_based_lambda": (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0),
        "classes_per_candidate": (1, 2, 3),
        "nms_tiou": (0.1, 0.2, 0.3, 0.4, 0.5),
        "soft_nms_sigma": (0.0, 0.3, 0.5),
        "voting_tiou": (0.0, 0.5, 0.6, 0.7, 0.8),
        "min_score": (0.0, 0.001, 0.01, 0.05),
    }
)
_MOST_PASSES = 3


def tune(config: Config, given: frozenset[str]) -> None:
    """Tries settings on ``config.validation_split`` and writes tuning.json, which later commands follow.

    Args:
        config: settings of this command.
        given: names of those that win over the trained run's; what is given is not tuned.
    """
    settings.require(config, "workdir")
    if "," in config.workdir:
        raise UserError(f"--workdir={config.workdir}: --mode=tune takes one directory")
    safe_files.check_writable(pathlib.Path(config.workdir, run_directory.TUNING))
    current, localizer = load_trained(config, given)
    precision.announce(current.config.precision, current.computed.precision)
    settings.require(current.config, "validation_split")
    trials = _Trials(current, localizer)
    names = [name for name in _names(localizer) if name not in given]
    if held := [f"--{name}" for name in VALUES if name in given]:
        print(f"not tuned, because the command or its flagfile gives them: {', '.join(held)}")
    own = {name: getattr(current.config, name) for name in names}
    chosen = _descend(trials, own)
    changed = {name: value for name, value in chosen.items() if value != own[name]}
    result = {
        "split": current.config.validation_split,
        "protocol": current.config.protocol,
        "tiou_thresholds": current.config.tiou_thresholds,
        "chosen": changed,
        "own": trials.by_branch(own),
        "tuned": trials.by_branch(chosen),
        "tried": trials.rows,
    }
    path = run_directory.write_tuning(current, result)
    print(_format(result, own))
    print(f"written: {path}; evaluate, predict and export follow it (--notuned: they do not)")


def _names(localizer: Localizer) -> list[str]:
    """Settings that matter to this network."""
    classifies = "step_logits" in localizer.members[0].networks[0].output
    matters = {"step_exponent": classifies, "anchor_based_lambda": len(localizer.branches) > 1}
    return [name for name in VALUES if matters.get(name, True)]


class _Trials:
    """Scores settings on the validation split, whose candidates are found once.

    Args:
        current: the run.
        localizer: of its network.
    """

    def __init__(self, current: Run, localizer: Localizer):
        self.current, self.network = current, localizer.members[0].networks[0]
        own = current.computed
        self._most = min(
            max(VALUES["classes_per_candidate"][-1], own.classes_per_candidate), len(localizer.class_names)
        )
        # Whatever the run says of steps: their probabilities are needed to try what else might be said.
        wide = self._localizer({"classes_per_candidate": self._most, "step_exponent": 1.0})
        builder = prepared.open_dataset_of(current.config)
        check_same_kind(builder, current)
        split = current.config.validation_split
        prepared.check_has_actions(builder, split, "validation_split")
        records = prepared.read_records(builder, split).as_numpy_iterator()
        self.found = list(localization.find_candidates(wide, records))
        self.rows: list[dict[str, Any]] = []

    def _localizer(self, values: Mapping[str, Any]) -> Localizer:
        current = self.current
        config = dataclasses.replace(current.computed, **values)
        return Localizer(
            self.network,
            config,
            current.class_names,
            current.first_step_seconds,
            also_reported=current.also_reported,
        )

    def score(self, values: Mapping[str, Any]) -> float:
        """The average mAP of all branches together; what was tried before is not tried again."""
        for row in self.rows:
            if row["settings"] == values:
                return row["average_mAP"]
        score = list(self.by_branch(values, merged_only=True).values())[-1]
        self.rows.append({"settings": dict(values), "average_mAP": score})
        return score

    def by_branch(self, values: Mapping[str, Any], *, merged_only: bool = False) -> dict[str, float]:
        """The average mAP of each branch, that of all together last."""
        localizer = self._localizer(values)
        branches = dict(list(localizer.reported().items())[-1 if merged_only else 0 :])
        few = localizer.config.classes_per_candidate
        found = [
            localization.detect(localizer, _with_fewer_classes(each, self._most, few), branches) for each in self.found
        ]
        metrics = scoring.metrics_by_branch(found, self.current._replace(config=localizer.config))
        return {branch: metrics[branch]["average_mAP"] for branch in branches}


def _with_fewer_classes(found: SequenceCandidates, most: int, few: int) -> SequenceCandidates:
    """Of the ``most`` best classes of each cell and anchor the best ``few``."""
    arrays = []
    for array in found.candidates:
        by_place = np.reshape(array, (1, -1, most, *array.shape[2:]))[:, :, :few]
        arrays.append(by_place.reshape(1, -1, *array.shape[2:]))
    return found._replace(candidates=Candidates(*arrays))


def _descend(trials: _Trials, own: Mapping[str, Any]) -> dict[str, Any]:
    """Changes one setting after the other to its best value, as long as that helps."""
    chosen, best = dict(own), trials.score(own)
    for _ in range(_MOST_PASSES):
        before = dict(chosen)
        for name in own:
            for value in VALUES[name]:
                if name == "classes_per_candidate" and value > len(trials.current.class_names):
                    continue
                score = trials.score({**chosen, name: value})
                if score > best:
                    chosen, best = {**chosen, name: value}, score
        if chosen == before:
            break
    return chosen


def _format(result: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """What was tried, best first, and what each branch scores with the run's settings and with the chosen ones."""
    rows = sorted(result["tried"], key=lambda row: -row["average_mAP"])
    table = [["average mAP (%)", *own]]
    table += [[f"{100 * row['average_mAP']:.1f}", *(f"{row['settings'][name]:g}" for name in own)] for row in rows]
    lines = [
        f"{len(rows)} settings tried on {result['split']}, protocol {result['protocol']}",
        text_tables.align(table),
    ]
    for name, title in (("own", "settings of the run"), ("tuned", "chosen settings")):
        scores = ", ".join(f"{branch} {100 * score:.1f}" for branch, score in result[name].items())
        lines.append(f"{title}: {scores}")
    *single, merged = result["own"]
    better = [branch for branch in single if result["own"][branch] > result["own"][merged]]
    if better:
        lines.append(f"with the run's settings {' and '.join(better)} alone scores better than {merged}")
    return "\n".join(lines)

"""What an ablation trains and shows: the tables of the paper, the values of a setting, the ingredients of a recipe."""

import dataclasses
import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from a2net_tf import safe_files, settings
from a2net_tf.data import prepared
from a2net_tf.errors import UserError
from a2net_tf.settings import Config

_LAMBDAS = (0.2, 0.4, 0.5, 0.6, 0.8)  # Table V
_LEVELS = (3, 4, 5, 6, 7)  # Table VI, and the seventh that the text mentions
_JOINT = "a2net"  # the network that the settings of the command describe

# What --ablation=recipe adds and leaves out as one. A setting in none of them is an ingredient of its own.
INGREDIENTS = {
    "random-offsets": ("random_offsets",),
    "time-scaling": ("time_scaling",),
    "rotation-and-noise": ("axis_rotation", "signal_noise"),
    "dropout": ("feature_noise", "feature_dropout", "input_dropout"),
    "normalisation": ("convolution_norm", "norm_groups"),
    "focal-loss": ("class_scores", "focal_gamma", "focal_alpha", "prior_probability", "classes_per_candidate"),
    "iou-regression": ("anchor_free_regression", "anchor_free_regression_weight", "distance_activation"),
    "step-classifier": (
        "step_classifier",
        "step_channels",
        "step_layers",
        "step_stages",
        "step_weight",
        "step_smoothing",
        "step_dropout",
        "step_exponent",
    ),
    "second-stage": (
        "stages",
        "proposal_bins",
        "proposal_channels",
        "proposal_dropout",
        "train_proposals",
        "train_proposal_tiou",
        "proposal_match_tiou",
        "proposal_background_tiou",
        "second_stage_weight",
        "proposals",
        "proposal_tiou",
        "refined_score",
    ),
    "anchors": (
        "anchor_regression",
        "anchor_regression_weight",
        "anchor_matching",
        "force_matches",
        "match_tiou",
        "negative_ratio",
        "overlap_loss",
        "overlap_weight",
        "overlap_score",
        "max_background",
        "center_scale",
        "width_scale",
    ),
    "size": ("num_levels", "first_level", "base_channels", "level_channels", "head_channels", "anchor_ratios"),
    "optimisation": (
        "batch_size",
        "learning_rate",
        "schedule",
        "warmup_epochs",
        "decay_factor",
        "weight_decay",
        "clip_norm",
        "ema_momentum",
    ),
    "longer-training": ("epochs", "decay_epochs"),
    "arithmetic": ("precision", "convolution", "jit_compile", "deterministic"),
    "inference": (
        "inference_window_steps",
        "inference_overlap",
        "anchor_based_lambda",
        "min_score",
        "nms_tiou",
        "soft_nms_sigma",
        "voting_tiou",
        "max_detections",
    ),
}
_MODULES = "modules"  # the recipe's branches trained alone: selected as an ingredient is
# All rows have those of the command: they change no score, or say on what there is one.
_COMMON = (
    "seed",
    "num_features",
    "num_classes",
    "validate_every",
    "distribute",
    "shuffle_buffer",
    "window_batch",
    "fusion",
)


class Part(NamedTuple):
    """One evaluation: of one network, or of several merged.

    Attributes:
        label: of its row.
        networks: names of trained networks.
        changes: settings that differ from the command's.
        every_branch: a row for each branch and merge weight, instead of the merged result alone.
    """

    label: str
    networks: tuple[str, ...] = (_JOINT,)
    changes: dict[str, Any] = {}
    every_branch: bool = False


class Plan(NamedTuple):
    """What an ablation trains ({name: settings that differ from the command's}) and evaluates.

    ``notes`` are printed with the table. With ``recall`` it has the recall of proposals too.
    """

    networks: dict[str, dict[str, Any]]
    parts: list[Part]
    notes: Sequence[str] = ()
    recall: bool = False


class _RecipeRow(NamedTuple):
    """A row of --ablation=recipe: of which ingredient (none: of all), its network's name, settings that differ."""

    ingredient: str
    label: str
    network: str
    changes: dict[str, Any]


def plan_of(config: Config) -> Plan:
    """The networks and rows of ``config.ablation``."""
    name, *values = config.ablation.split()
    if name == "branches":
        return _branches()
    if name == "lambda":
        return Plan({_JOINT: {}}, [Part("", changes={"lambda_sweep": _LAMBDAS}, every_branch=True)])
    if name == "levels":
        return _levels(config)
    if name == "streams":
        return _streams(config)
    if name == "proposals" and not values:  # with values it is the setting of that name
        return _proposals(config)
    if name == "recipe":
        return _recipe(config, values)
    return _values_of_a_setting(name, values)


def _branches() -> Plan:
    """Tables III and IV: each branch trained alone, both merged, and trained together."""
    networks = {"anchor_free": {"anchor_based": False}, "anchor_based": {"anchor_free": False}, _JOINT: {}}
    alone = [Part(f"{name} alone", (name,)) for name in ("anchor_free", "anchor_based")]
    return Plan(networks, [*alone, Part("fuse", ("anchor_free", "anchor_based")), Part("A2Net", every_branch=True)])


def _levels(config: Config) -> Plan:
    """Table VI and Fig. 6; levels beyond those configured are as wide as the last one."""
    channels = config.level_channels
    networks = {
        f"levels{n}": {"num_levels": n, "level_channels": channels + channels[-1:] * (n - len(channels))}
        for n in _LEVELS
    }
    return Plan(networks, [Part(f"{n} levels", (f"levels{n}",), every_branch=True) for n in _LEVELS])


def _streams(config: Config) -> Plan:
    """Table VII: the first half of the features (RGB) alone, the second (flow) alone, their late and early fusion."""
    builder = prepared.open_dataset_of(config)
    size = prepared.num_features(builder)
    if size % 2:
        raise UserError(f"--ablation=streams: {builder.info.full_name} has {size} features, which are no two halves")
    half = size // 2
    networks = {"first": {"feature_columns": (0, half)}, "second": {"feature_columns": (half, size)}, _JOINT: {}}
    return Plan(
        networks,
        [
            Part(f"features 0 to {half - 1} (spatial)", ("first",)),
            Part(f"features {half} to {size - 1} (temporal)", ("second",)),
            Part("late fusion", ("first", "second"), {"fusion": "outputs"}),
            Part("A2Net (early fusion)"),
        ],
    )


def _proposals(config: Config) -> Plan:
    """Tables XII and XIII: what the anchor-free module adds to anchors as proposals, with one stage and with two.

    The control has more anchors instead: the paper's gain may be that of lengths which its anchors lacked.
    """
    more = _denser(config.anchor_ratios)
    modules = {
        "anchors": ("anchor_based", {"anchor_free": False, "anchor_based": True}),
        "anchor-free": ("anchor_free", {"anchor_free": True, "anchor_based": False}),
        "both": (_JOINT, {"anchor_free": True, "anchor_based": True}),
        f"anchors of {len(more)} widths": (
            "anchor_based_more",
            {"anchor_free": False, "anchor_based": True, "anchor_ratios": more},
        ),
    }
    networks, parts = {}, []
    for stages, told in ((1, "one stage"), (2, "two stages")):
        for label, (name, changes) in modules.items():
            network = name if stages == config.stages else f"{name}_stages{stages}"
            networks[network] = {**changes, "stages": stages}
            parts.append(Part(f"{label}, {told}", (network,)))
    notes = ["AR@AN: of proposals before classes matter, suppressed by --proposal_tiou; areas to AN = 100 and to 1000"]
    return Plan(networks, parts, notes, recall=True)


def _denser(ratios: Sequence[float]) -> tuple[float, ...]:
    """Ratios with one more between each two."""
    between = [round(math.sqrt(a * b), 3) for a, b in itertools.pairwise(sorted(ratios))]
    return tuple(sorted({*ratios, *between}))


def _recipe(config: Config, chosen: Sequence[str]) -> Plan:
    """The way from ``config.baseline`` to the settings of the command, one ingredient more or one less at a time."""
    settings.require(config, "baseline")
    differing = _differing(config, _read_baseline(config))
    ingredients = _ingredients(differing)
    _check_chosen(config, chosen, ingredients)
    rows = _recipe_rows(config, differing, ingredients)
    problems = {row.label: _problem(config, row) for row in rows}
    owners = _owners([row for row in rows if not problems[row.label]])
    rows = [row for row in rows if not chosen or row.ingredient in ("", *chosen)]
    used = [owners[_trained(row.changes)] for row in rows if not problems[row.label]]
    networks = {owner.network: owner.changes for owner in used}
    parts = [_recipe_part(row, owners) for row in rows if not problems[row.label]]
    if {"anchor_free", "anchor_based"} <= networks.keys():
        parts.append(Part("fuse", ("anchor_free", "anchor_based")))
    left_out = [f"no row '{row.label}': {problems[row.label]}" for row in rows if problems[row.label]]
    return Plan(networks, parts, [*_described(config, ingredients), *left_out])


def _check_chosen(config: Config, chosen: Sequence[str], ingredients: Collection[str]) -> None:
    unknown = sorted(set(chosen) - {*ingredients, _MODULES})
    if unknown:
        raise UserError(
            f"--ablation={config.ablation}: {unknown[0]} is no ingredient that differs from --baseline="
            f"{config.baseline}; expected {', '.join(ingredients)}, or {_MODULES}"
        )


def _read_baseline(config: Config) -> Config:
    try:
        return settings.parse([f"--flagfile={config.baseline}"])[0]
    except UserError as error:
        raise UserError(f"--baseline={config.baseline}: {error}") from None


def _differing(config: Config, baseline: Config) -> dict[str, Any]:
    """The baseline's values of the settings that make the recipe.

    Raises:
        UserError: there are none, or they cannot be combined with the data of the command.
    """
    differing = {
        name: getattr(baseline, name)
        for name in settings.SCORE_SETTINGS
        if settings.FIELDS[name].metadata["binds"] != "data"
        and name not in _COMMON
        and getattr(baseline, name) != getattr(config, name)
    }
    if not differing:
        raise UserError(f"--baseline={config.baseline}: its settings are those of the command: nothing to ablate")
    try:
        settings.check(dataclasses.replace(config, **differing))
    except UserError as error:
        raise UserError(f"--baseline={config.baseline}: with the data of the command: {error}") from None
    return differing


def _ingredients(differing: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """``differing`` by ingredient, in the order of INGREDIENTS; what is in none of them comes last."""
    grouped = {name for names in INGREDIENTS.values() for name in names}
    groups = {**INGREDIENTS, **{name: (name,) for name in differing if name not in grouped}}
    named = {group: {name: differing[name] for name in names if name in differing} for group, names in groups.items()}
    return {group: changes for group, changes in named.items() if changes}


def _recipe_rows(config: Config, differing: dict, ingredients: dict[str, dict]) -> list[_RecipeRow]:
    rows = [_RecipeRow("", "baseline", "baseline", differing)]
    for name, own in ingredients.items():
        others = {setting: value for setting, value in differing.items() if setting not in own}
        rows.append(_RecipeRow(name, f"baseline + {name}", f"baseline_with_{name}", others))
    for name, own in ingredients.items():
        rows.append(_RecipeRow(name, f"recipe without {name}", f"recipe_without_{name}", own))
    rows.append(_RecipeRow("", "recipe", _JOINT, {}))
    if config.anchor_free and config.anchor_based:
        for name, other in (("anchor_free", "anchor_based"), ("anchor_based", "anchor_free")):
            rows.append(_RecipeRow(_MODULES, f"{name} alone", name, {other: False}))
    return rows


def _problem(config: Config, row: _RecipeRow) -> str:
    """Why the settings of a row cannot be combined; empty if they can."""
    try:
        settings.check(dataclasses.replace(config, **row.changes))
    except UserError as error:
        return str(error)
    return ""


def _owners(rows: Sequence[_RecipeRow]) -> dict[tuple, _RecipeRow]:
    """The row whose network serves all rows that train alike; the same ones whatever part of the table is asked for."""
    owners: dict[tuple, _RecipeRow] = {}
    for row in sorted(rows, key=lambda row: row.ingredient not in ("", _MODULES)):
        owners.setdefault(_trained(row.changes), row)
    return owners


def _recipe_part(row: _RecipeRow, owners: dict[tuple, _RecipeRow]) -> Part:
    localization = {name: value for name, value in row.changes.items() if not matters_to_training(name)}
    network = owners[_trained(row.changes)].network
    return Part(row.label, (network,), localization, every_branch=row.ingredient != _MODULES)


def _trained(changes: dict[str, Any]) -> tuple:
    """Equal for settings that train the same network."""
    return tuple(sorted((name, value) for name, value in changes.items() if matters_to_training(name)))


def matters_to_training(name: str) -> bool:
    """Whether networks trained with other values of a setting differ."""
    return settings.FIELDS[name].metadata["binds"] != "localization"


def _described(config: Config, ingredients: dict[str, dict]) -> list[str]:
    """A line per ingredient: its settings, and the baseline's in brackets."""
    lines = []
    for name, own in ingredients.items():
        values = [f"--{setting}={_text(getattr(config, setting))} ({_text(value)})" for setting, value in own.items()]
        lines.append(f"{name}: {', '.join(values)}")
    return lines


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _values_of_a_setting(name: str, values: Sequence[str]) -> Plan:
    """One row per value and branch; one network per value if the setting matters to training, else one in all."""
    if name not in settings.SCORE_SETTINGS or name in ("dataset", "release_checkpoint"):
        raise UserError(
            f"--ablation={name}: expected branches, lambda, levels, streams, proposals, recipe, or a setting of the "
            'windows, network, losses, training or localization and its values, as in "learning_rate 1e-4 1e-3"'
        )
    if not values:
        raise UserError(f'--ablation={name}: give the values too, as in "{name} VALUE VALUE"')
    parsed = {value: getattr(settings.parse([f"--{name}={value}"])[0], name) for value in values}
    if not matters_to_training(name):
        parts = [Part(f"{name} {text}", changes={name: value}, every_branch=True) for text, value in parsed.items()]
        return Plan({_JOINT: {}}, parts)
    folders = safe_files.file_names([f"{name}_{text}" for text in parsed])  # no commas: they separate directories
    names = dict(zip(parsed, folders, strict=True))
    parts = [Part(f"{name} {text}", (network,), every_branch=True) for text, network in names.items()]
    return Plan({network: {name: parsed[text]} for text, network in names.items()}, parts)

"""The text of ``--mode=check``: warnings, and tables with one row per split."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from a2net_tf.data import schema
from a2net_tf.data.reach import ENOUGH, QUANTILES
from a2net_tf.detection import pyramid
from a2net_tf.errors import list_some
from a2net_tf.report.text_tables import align
from a2net_tf.settings import Config

ROLES = {"training": "train_split", "validation": "validation_split", "evaluation": "eval_split"}
_NOT_TOLD = ("per_class", "digest")  # of metadata: long
_MOST_CLASSES = 40  # of more, only the rarest and commonest are printed


# Warnings


def judge(report: dict[str, Any], config: Config) -> list[str]:
    """Warnings: what is wrong with the data, and what these settings cannot reach."""
    splits = report["splits"]
    by_role = {split["role"]: split for split in splits.values()}
    role = "training" if "training" in by_role else "other"
    trained_on = {name: split for name, split in splits.items() if split["role"] == role}
    warnings = [line for line in report["manual_dir"] if line.endswith("; left out")]
    warnings += _judge_sizes(report, config)
    warnings += _judge_classes(splits, by_role)
    for name, split in splits.items():
        warnings += _judge_features(name, split["features"])
        warnings += _judge_shape(name, split, report["num_features"])
        warnings += _judge_cap(name, split)
        if name in trained_on or split["role"] != "other":
            warnings += _judge_windows(name, split, config)
    for name, split in trained_on.items():
        warnings += _judge_targets(name, split, config)
        warnings += _judge_levels(name, split, config)
    return warnings


def _judge_sizes(report: dict[str, Any], config: Config) -> Iterator[str]:
    for setting, size in (("num_features", report["num_features"]), ("num_classes", len(report["class_names"]))):
        if getattr(config, setting) not in (0, size):
            yield f"--{setting}={getattr(config, setting)}, but the dataset has {size}: --{setting}={size}"
    if config.feature_columns and config.feature_columns[1] > report["num_features"]:
        first = config.feature_columns[0]
        yield (
            f"--feature_columns={first},{config.feature_columns[1]} reach beyond the {report['num_features']} values "
            f"of a step: --feature_columns={first},{report['num_features']}"
        )


def _judge_classes(splits: dict[str, dict], by_role: dict[str, dict]) -> Iterator[str]:
    counts = [split["per_class"] for split in splits.values()]
    unused = [name for name in counts[0] if not any(of[name] for of in counts)]
    if unused:
        yield f"{describe_number(len(unused), 'class')} without any action: {list_some(unused)}"
    if "training" not in by_role or "evaluation" not in by_role:
        return
    training, evaluation = by_role["training"]["per_class"], by_role["evaluation"]["per_class"]
    unlearned = [name for name in training if evaluation[name] and not training[name]]
    unjudged = [name for name in training if training[name] and not evaluation[name]]
    if unlearned:
        yield (
            f"{describe_number(len(unlearned), 'class')} of --eval_split without training actions cannot be learned: "
            f"{list_some(unlearned)}"
        )
    if unjudged:
        yield (
            f"{describe_number(len(unjudged), 'class')} without actions in --eval_split cannot be scored: "
            f"{list_some(unjudged)}"
        )


def _judge_features(name: str, features: dict[str, Any]) -> Iterator[str]:
    bad = features["non_finite"]
    if bad:
        sequences = describe_number(len(bad), "sequence")
        yield (f"{name}: {sum(bad.values())} feature values are NaN or infinite, in {sequences}: {list_some(bad)}")


def _judge_windows(name: str, split: dict[str, Any], config: Config) -> Iterator[str]:
    trains = split["role"] in ("training", "other")
    if split["too_long"]:
        yield f"{name}: {_share(split, 'too_long')} too long for any window: {_suggest_window(split, config)}"
    if split["outside_features"]:
        yield (
            f"{name}: {_share(split, 'outside_features')} not where the features are (before the first or after the "
            "last step): wrong stride or first step of the features?"
        )
    if split["between_windows"]:
        needed = split["needed_stride_steps"]
        advice = f"--train_stride_steps={needed}" if trains else _suggest_overlap(needed, config)
        yield f"{name}: {_share(split, 'between_windows')} short enough, but fall between the windows: {advice}"
    if trains and split["most_actions_in_a_window"] > config.max_actions:
        most = split["most_actions_in_a_window"]
        yield f"{name}: a window holds {most} actions, which training refuses: --max_actions={most}"


def _judge_shape(name: str, split: dict[str, Any], num_features: int) -> Iterator[str]:
    """A feature changes little from step to step; in matrices of one size that are transposed, nothing else shows."""
    steps = split["steps_of_each"]
    if steps and steps < num_features and split["sequences"] > 1 and not split["steps_are_smoother_than_values"]:
        yield (
            f"{name}: all {split['sequences']} sequences have {steps} steps of {num_features} values, and the values "
            "do not change less from step to step than from one to the next within a step: are the matrices "
            "transposed? Expected [steps, values]"
        )


def _judge_cap(name: str, split: dict[str, Any]) -> Iterator[str]:
    if beyond := split["more_actions_than_detections"]:
        told = [f"{sequence}: {actions} actions, {kept} detections" for sequence, (actions, kept) in beyond.items()]
        most = max(actions for actions, _ in beyond.values())
        yield (
            f"{name}: {describe_number(len(beyond), 'sequence')} with more actions than detections are kept of it "
            f"({list_some(told)}): --max_detections={2 * most}, or 0 to let it grow with the sequence"
        )


def _suggest_window(split: dict[str, Any], config: Config) -> str:
    enough = split["too_long"] <= (1 - ENOUGH) * split["actions"]
    limit = schema.CHUNK_OVERLAP_STEPS // 2**config.num_levels * 2**config.num_levels
    needed = split["needed_window_steps"]
    if needed <= limit:
        return f"--window_steps={needed} holds {'all' if enough else f'{ENOUGH:.0%}'}"
    return f"even --window_steps={limit}, the most, would not do; use features that are further apart in time"


def _suggest_overlap(needed_stride_steps: int, config: Config) -> str:
    """Windows that lie so close."""
    overlap = math.ceil(100 * (config.inference_steps - needed_stride_steps) / config.window_steps) / 100
    if overlap < 1:
        return f"--inference_overlap={overlap:g}"
    return "longer than --window_steps or hardly shorter, so that no --inference_overlap below 1 would do"


def _judge_targets(name: str, split: dict[str, Any], config: Config) -> Iterator[str]:
    stride = split["stride_seconds"][1]
    if split["in_window"] == 0:
        yield f"{name}: no window holds an action, there is nothing to train on"
        return
    if config.anchor_free and split["with_cell"] < split["in_window"]:
        shortest = split["steps_without_cell"]["min"]
        helps = shortest >= 1 and not config.random_offsets  # cells are two steps apart, offsets may be odd
        offsets = "--random_offsets gives them one in some windows"
        closer = f"features every {shortest * stride / 2:.2g} s instead of {stride:.2g} s would do"
        yield (
            f"{name}: {_share(split, 'in_window', 'with_cell')} too short to hold the centre of a cell, so the "
            f"anchor-free branch does not learn them: {offsets if helps else closer}"
        )
    if config.anchor_based and split["with_anchor"] < split["in_window"]:
        yield (
            f"{name}: {_share(split, 'in_window', 'with_anchor')} not reached by a default anchor (tIoU > "
            f"{config.match_tiou:g}): {_suggest_anchors(split, config)}"
        )


def _suggest_anchors(split: dict[str, Any], config: Config) -> str:
    """More levels for long actions; a lower bound for others."""
    longest, widest = split["steps_without_anchor"]["95%"], max(config.anchor_ratios) * 2**config.num_levels
    most_levels = (config.window_steps & -config.window_steps).bit_length() - 1  # how often it halves
    if longest > widest and config.num_levels < most_levels:
        levels = config.num_levels + math.ceil(math.log2(longest / widest))
        return f"--num_levels={min(levels, most_levels)} has wider ones"
    if split["needed_match_tiou"]:
        return f"--match_tiou={split['needed_match_tiou']:g}"
    return f"features closer in time than {split['stride_seconds'][1]:.2g} s would do"


def _judge_levels(name: str, split: dict[str, Any], config: Config) -> Iterator[str]:
    empty = [level for level, number in enumerate(split["levels"], 1) if not number]
    if not (config.anchor_free and empty and split["in_window"]):
        return
    longest = max(level for level, number in enumerate(split["levels"], 1) if number)
    wording = "level" if len(empty) == 1 else "levels"
    hint = f": --num_levels={longest} would do" if longest < config.num_levels else ""
    yield f"{name}: no action for pyramid {wording} {', '.join(map(str, empty))} (by length){hint}"


def _share(split: dict[str, Any], of: str, without: str | None = None) -> str:
    """``12 of 480 actions (2.5%) are``: how many ``of`` there are, less those of ``without``."""
    number = split[of] - (split[without] if without else 0)
    return f"{number} of {split['actions']} actions ({100 * number / split['actions']:.1f}%) are"


def describe_number(number: int, what: str) -> str:
    """``2 classes``, ``1 sequence``."""
    plural = {"class": "classes"}.get(what, f"{what}s")
    return f"{number} {what if number == 1 else plural}"


# Printing


def format_report(report: dict[str, Any], config: Config) -> str:
    """The report as text: tables with one row per split, then the warnings."""
    splits = report["splits"]
    parts = [
        _format_head(report, config),
        _format_sequences(splits),
        _format_features(splits),
        _format_durations(splits),
        _format_classes(splits),
        _format_levels(splits, config) if config.anchor_free else "",
        _format_reach(splits, config),
        "\n".join(f"warning: {warning}" for warning in report["warnings"]),
    ]
    return "\n\n".join(part for part in parts if part)


def _format_head(report: dict[str, Any], config: Config) -> str:
    lines = [
        f"{report['dataset']}: {report['num_features']} features (D), {len(report['class_names'])} classes (C)",
        f"prepared in {report['data_path']}",
    ]
    lines += [f"{key}: {text}" for key, text in _describe(report["metadata"])]
    lines += [f"manual_dir: {line}" for line in report["manual_dir"]]
    for name, split in report["splits"].items():
        flag = f"--{ROLES[split['role']]}=" if split["role"] in ROLES else ""
        lines += [f"{name}: {flag}{_shorten(split['split'])}"] if name != split["split"] else []
    without = [name for split in report["splits"].values() for name in split["sequences_without_actions"]]
    lines += [f"sequences without actions: {list_some(without)}"] if without else []
    return "\n".join(lines)


def _shorten(split: str) -> str:
    first, *others = split.split("+")
    return f"{first}+...+{others[-1]} ({len(others) + 1} splits)" if len(split) > 60 and others else split


def _describe(metadata: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Key and one line of text for everything in ``metadata`` that is not empty; classes are counted below."""
    for key, value in metadata.items():
        if value in ({}, [], (), "", None):
            continue
        if isinstance(value, dict) and all(isinstance(item, dict) for item in value.values()):
            yield from _describe({f"{key} of {name}": item for name, item in value.items()})
        elif isinstance(value, dict):
            pairs = [f"{name} {_text(item)}" for name, item in value.items() if name not in _NOT_TOLD and item != {}]
            yield key, ", ".join(pairs)
        else:
            yield key, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {number}" for name, number in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return align([[title, *header], *[list(row) for row in rows]])


def _format_sequences(splits: dict[str, dict]) -> str:
    header = ["sequences", "no actions", "hours", "steps", "step (s)", "first step (s)"]
    header += ["actions", "overlapping", "ambiguous"]
    rows = [
        [
            name,
            f"{s['sequences']:,}",
            f"{len(s['sequences_without_actions']):,}",
            f"{s['hours']:,.2f}",
            f"{s['steps']:,}",
            _range(s["stride_seconds"]),
            _range(s["first_step_seconds"]),
            f"{s['actions']:,}",
            _percent(s["overlapping_actions"], s["actions"]),
            f"{s['ambiguous_segments']:,}",
        ]
        for name, s in splits.items()
    ]
    return _table("split", header, rows)


def _format_features(splits: dict[str, dict]) -> str:
    header = ["mean", "deviation", "min", "max", "means of dims", "deviations of dims"]
    header += ["zeros", "constant", "all 0", "not finite"]
    rows = []
    for name, split in splits.items():
        f = split["features"]
        numbers = [_real(f[key]) for key in ("mean", "deviation", "min", "max")]
        spans = [_range(f[key]) for key in ("means_of_dimensions", "deviations_of_dimensions")]
        counts = [
            str(len(f["constant_dimensions"])),
            str(len(f["zero_dimensions"])),
            str(sum(f["non_finite"].values())),
        ]
        rows.append([name, *numbers, *spans, f"{100 * f['zero_share']:.1f}%", *counts])
    return _table("features", header, rows)


def _format_durations(splits: dict[str, dict]) -> str:
    rows = [
        [f"{name}, {unit}", *("-" if s[key] is None else _real(s[key][q]) for q in QUANTILES)]
        for name, s in splits.items()
        for key, unit in (("seconds_of_actions", "seconds"), ("steps_of_actions", "steps"))
    ]
    return _table("length of actions", list(QUANTILES), rows)


def _format_classes(splits: dict[str, dict]) -> str:
    names = list(next(iter(splits.values()))["per_class"])
    total = {name: sum(split["per_class"][name] for split in splits.values()) for name in names}
    title = "actions by class"
    if len(names) > _MOST_CLASSES:
        ranked = sorted(names, key=total.get)
        names = [*ranked[: _MOST_CLASSES // 4], *ranked[-_MOST_CLASSES // 4 :]]
        title = f"rarest and commonest of {len(total)} classes"
    rows = [[name, *(f"{split['per_class'][name]:,}" for split in splits.values())] for name in names]
    return _table(title, list(splits), rows)


def _format_levels(splits: dict[str, dict], config: Config) -> str:
    """Levels take actions by length; seconds are given if all features have the same stride."""
    strides = {stride for split in splits.values() for stride in split["stride_seconds"]}
    seconds = strides.pop() if len(strides) == 1 else None
    cells = pyramid.level_lengths(config.window_steps, config.num_levels)
    rows = []
    for level in range(config.num_levels):
        bounds = [2 ** (level + 1) if level else 0, 2 ** (level + 2) if level + 1 < config.num_levels else math.inf]
        told = [_bounds(bounds), *([_bounds([b * seconds for b in bounds])] if seconds else [])]
        shares = [_percent(split["levels"][level], split["in_window"]) for split in splits.values()]
        rows.append([f"level {level + 1}", str(cells[level]), *told, *shares])
    return _table("actions by level", ["cells", "steps", *(["seconds"] if seconds else []), *splits], rows)


def _format_reach(splits: dict[str, dict], config: Config) -> str:
    header = ["windows", "used", "most in one", "actions", "too long", "outside", "between", "in a window"]
    keys = ["too_long", "outside_features", "between_windows", "in_window"]
    legend = []
    if config.anchor_free:
        header, keys = [*header, "with a cell"], [*keys, "with_cell"]
        legend.append("with a cell: its level has a cell centre inside it")
    if config.anchor_based:
        header, keys = [*header, f"anchor > {config.match_tiou:g}"], [*keys, "with_anchor"]
        legend.append("anchor: tIoU of the best default one")
    rows = [
        [
            name,
            f"{s['windows']:,}",
            _percent(s["windows_with_actions"], s["windows"]),
            str(s["most_actions_in_a_window"]),
            f"{s['actions']:,}",
            *(_percent(s[key], s["actions"]) for key in keys),
        ]
        for name, s in splits.items()
    ]
    offsets = " and shifted at random" if config.random_offsets else ""
    longer = f"of {config.inference_steps} steps " if config.inference_steps > config.window_steps else ""
    title = (
        f"windows of {config.window_steps} steps that hold {config.min_action_inside:.0%} of an action: one every "
        f"{config.train_stride_steps} steps{offsets} for training, {longer}every {config.inference_stride_steps} for "
        "testing"
    )
    return f"{title}\n{_table('reach', header, rows)}\n({'; '.join(legend)}; over all windows that hold it)"


def _percent(number: int, total: int) -> str:
    return f"{100 * number / total:.1f}%" if total else "-"


def _real(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _range(span: Sequence[float] | None) -> str:
    if span is None:
        return "-"
    return _real(span[0]) if span[0] == span[1] else f"{_real(span[0])} to {_real(span[1])}"


def _bounds(bounds: Sequence[float]) -> str:
    low, high = bounds
    if not low:
        return "any" if math.isinf(high) else f"< {high:g}"
    return f">= {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"

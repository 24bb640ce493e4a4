"""``--mode=ablate``: trains what an ablation of the paper, of a setting or of a recipe needs, scores every row of its
table, and prints the table.

Each network is an ordinary run below --workdir, so a killed ablation goes on where it was, and every row can be looked
at, exported or evaluated by itself later.
"""

import contextlib
import csv
import dataclasses
import importlib.util
import io
import logging
import pathlib
import statistics
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from a2net_tf import config as settings
from a2net_tf import evaluation, evaluator, jobs, plots, profiler, results, run_directory
from a2net_tf import records as schema
from a2net_tf.config import Config
from a2net_tf.errors import UserError
from a2net_tf.localizer import Localizer
from a2net_tf.run_directory import Run

_LAMBDAS = (0.2, 0.4, 0.5, 0.6, 0.8)  # Table V
_LEVELS = (3, 4, 5, 6, 7)  # Table VI, and the seventh that the text mentions
_JOINT = "a2net"  # the network that the settings of the command describe
_VARIED_GROUPS = (*settings.TRAINING_GROUPS, "epochs", "localization")
_EVALUATION_GROUPS = ("run", "data", "localization", "evaluation")  # of these, a run's own settings do not matter

# What --ablation=recipe adds and leaves out as one. A setting in none of them is an ingredient of its own.
INGREDIENTS = {
    "random-offsets": ("random_offsets",),
    "time-scaling": ("time_scaling",),
    "rotation-and-noise": ("axis_rotation", "signal_noise"),
    "dropout": ("feature_noise", "feature_dropout", "input_dropout"),
    "normalisation": ("convolution_norm", "norm_groups"),
    "residual": ("residual", "drop_path"),
    "focal-loss": ("class_scores", "focal_gamma", "focal_alpha", "prior_probability", "classes_per_candidate"),
    "iou-regression": ("anchor_free_regression", "anchor_free_regression_weight", "distance_activation"),
    "center-sampling": ("center_sampling",),
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
    "size": ("num_levels", "base_channels", "level_channels", "head_channels", "anchor_ratios"),
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
_MODULES = "modules"  # the recipe's modules trained alone: selected as an ingredient is
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
        every_view: a row for each branch and merge weight, instead of the merged result alone.
    """

    label: str
    networks: tuple[str, ...] = (_JOINT,)
    changes: dict[str, Any] = {}
    every_view: bool = False


class Plan(NamedTuple):
    """What an ablation trains ({name: settings that differ from the command's}) and evaluates.

    ``notes`` are printed with the table.
    """

    networks: dict[str, dict[str, Any]]
    parts: list[Part]
    notes: Sequence[str] = ()


class _RecipeRow(NamedTuple):
    """A row of --ablation=recipe: of which ingredient (none: of all), its network's name, settings that differ."""

    ingredient: str
    label: str
    network: str
    changes: dict[str, Any]


def ablate(config: Config) -> None:
    """Runs ``config.ablation`` below ``config.workdir``; prints the table and writes it as JSON, CSV and PNG.

    Raises:
        UserError: unknown ablation, a setting that cannot be trained or evaluated, unusable data.
    """
    settings.require(config, "workdir", "dataset", "ablation")
    folder = pathlib.Path(config.workdir)
    results.check_writable(folder / _output_name(config, "json"))
    plan = plan_of(config)
    seeds = config.ablation_seeds or (config.seed,)
    runs = [_run(config, plan, name, seed) for seed in seeds for name in plan.networks]
    _check_all(config, plan, seeds)
    builder = schema.open_dataset(config.dataset, config.data_dir, config.manual_dir, config.stored_features)
    schema.read_records(builder, config.eval_split)  # a wrong name should not wait until all is trained
    print("\n".join([*plan.notes, f"{len(plan.parts)} rows of {len(runs)} trained networks"]), flush=True)
    with _without_warnings_of_tracing():
        jobs.run_all(runs, config.jobs)
        rows = _rows(config, plan, seeds)
    _write(config, rows, plan.notes)


@contextlib.contextmanager
def _without_warnings_of_tracing() -> Iterator[None]:
    """TensorFlow takes the many networks for one that is traced again and again, and says so for each in many lines."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def plan_of(config: Config) -> Plan:
    """The networks and rows of ``config.ablation``."""
    name, *values = config.ablation.split()
    if name == "branches":
        return _branches()
    if name == "lambda":
        return Plan({_JOINT: {}}, [Part("", changes={"lambda_sweep": _LAMBDAS}, every_view=True)])
    if name == "levels":
        return _levels(config)
    if name == "streams":
        return _streams(config)
    if name == "recipe":
        return _recipe(config, values)
    return _values_of_a_setting(name, values)


def _branches() -> Plan:
    """Tables III and IV: each module trained alone, both merged, and trained together."""
    networks = {"anchor_free": {"anchor_based": False}, "anchor_based": {"anchor_free": False}, _JOINT: {}}
    alone = [Part(f"{name} alone", (name,)) for name in ("anchor_free", "anchor_based")]
    return Plan(networks, [*alone, Part("fuse", ("anchor_free", "anchor_based")), Part("A2Net", every_view=True)])


def _levels(config: Config) -> Plan:
    """Table VI and Fig. 6; levels beyond those configured are as wide as the last one."""
    channels = config.level_channels
    networks = {
        f"levels{n}": {"num_levels": n, "level_channels": channels + channels[-1:] * (n - len(channels))}
        for n in _LEVELS
    }
    return Plan(networks, [Part(f"{n} levels", (f"levels{n}",), every_view=True) for n in _LEVELS])


def _streams(config: Config) -> Plan:
    """Table VII: the first half of the features (RGB) alone, the second (flow) alone, their late and early fusion."""
    builder = schema.open_dataset(config.dataset, config.data_dir, config.manual_dir, config.stored_features)
    size = schema.num_features(builder)
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
        for name, field in settings.FIELDS.items()
        if field.metadata["group"] in _VARIED_GROUPS
        and field.metadata["group"] != "training data"
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
    found = {group: {name: differing[name] for name in names if name in differing} for group, names in groups.items()}
    return {group: changes for group, changes in found.items() if changes}


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
    localization = {name: value for name, value in row.changes.items() if not _matters_to_training(name)}
    network = owners[_trained(row.changes)].network
    return Part(row.label, (network,), localization, every_view=row.ingredient != _MODULES)


def _trained(changes: dict[str, Any]) -> tuple:
    """Equal for settings that train the same network."""
    return tuple(sorted((name, value) for name, value in changes.items() if _matters_to_training(name)))


def _matters_to_training(name: str) -> bool:
    return settings.FIELDS[name].metadata["group"] != "localization"


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
    field = settings.FIELDS.get(name)
    if field is None or field.metadata["group"] not in _VARIED_GROUPS or name in ("dataset", "release_checkpoint"):
        raise UserError(
            f"--ablation={name}: expected branches, lambda, levels, streams, recipe, or a setting of the windows, "
            'network, losses, training or localization and its values, as in "learning_rate 1e-4 1e-3"'
        )
    if not values:
        raise UserError(f'--ablation={name}: give the values too, as in "{name} VALUE VALUE"')
    parsed = {value: getattr(settings.parse([f"--{name}={value}"])[0], name) for value in values}
    if field.metadata["group"] == "localization":
        parts = [Part(f"{name} {text}", changes={name: value}, every_view=True) for text, value in parsed.items()]
        return Plan({_JOINT: {}}, parts)
    names = {text: evaluator.file_name(f"{name}_{text}") for text in parsed}  # no commas: they separate directories
    parts = [Part(f"{name} {text}", (network,), every_view=True) for text, network in names.items()]
    return Plan({network: {name: parsed[text]} for text, network in names.items()}, parts)


def _output_name(config: Config, suffix: str) -> str:
    return f"ablation_{evaluator.file_name(config.ablation)}.{suffix}"


def _run(config: Config, plan: Plan, network: str, seed: int) -> Config:
    """Settings of one training."""
    changes = {"seed": seed, **plan.networks[network]}
    workdir = pathlib.Path(config.workdir, f"{network}_seed{seed}")
    return dataclasses.replace(config, mode="train", workdir=str(workdir), **changes)


def _check_all(config: Config, plan: Plan, seeds: Sequence[int]) -> None:
    """Refuses what the last row would refuse, before the first is trained."""
    for part in plan.parts:
        for network in part.networks:
            settings.check(dataclasses.replace(_run(config, plan, network, config.seed), **part.changes))
    for network in plan.networks:
        for seed in seeds:
            _refuse_longer(_run(config, plan, network, seed))


def _refuse_longer(run: Config) -> None:
    """More epochs than a row is said to have would pass for it."""
    done = run_directory.load(run.workdir).config.epochs if run_directory.exists(run.workdir) else 0
    if done > run.epochs:
        raise UserError(f"{run.workdir} holds a run of {done} epochs, not {run.epochs}: use another --workdir")


def _rows(config: Config, plan: Plan, seeds: Sequence[int]) -> list[dict]:
    """Evaluates every part; all rows of the table, each with its metrics by seed."""
    rows: dict[str, dict] = {}
    costs: dict[tuple, dict] = {}
    for seed in seeds:
        for part in plan.parts:
            workdirs = [_run(config, plan, network, seed).workdir for network in part.networks]
            current, localizer = _load(config, part, workdirs)
            key = (part.networks, current.config.inference_steps)
            if key not in costs:  # measured again, rows of one network would differ in time
                costs[key] = _costs(localizer)
            training = {"training_seconds": _training_seconds(workdirs)}
            for view, metrics in _evaluate(current, localizer, part).items():
                label = ": ".join(filter(None, (part.label, view if part.every_view else "")))
                row = {"label": label, "view": view, **_description(plan, part), **costs[key], "seeds": {}}
                rows.setdefault(label, row)["seeds"][str(seed)] = {**metrics, **training}
            keras.backend.clear_session()
    return list(rows.values())


def _load(config: Config, part: Part, workdirs: Sequence[str]) -> tuple[Run, Localizer]:
    """The networks of a part, to be evaluated with the part's settings, whatever they were trained with."""
    requested = dataclasses.replace(config, mode="evaluate", workdir=",".join(workdirs), **part.changes)
    given = frozenset(n for n, field in settings.FIELDS.items() if field.metadata["group"] in _EVALUATION_GROUPS)
    return evaluator.load_trained(requested, given)


def _costs(localizer: Localizer) -> dict[str, float]:
    """Of all networks together, for one window."""
    networks = [network for member in localizer.members for network in member.networks]
    counts = [profiler.profile(network) for network in networks]
    return {
        "multiply_adds": sum(count["multiply_adds"] for count in counts),
        "parameters": sum(count["parameters"] for count in counts),
        "window_milliseconds": sum(profiler.window_milliseconds(network) for network in networks),
    }


def _training_seconds(workdirs: Sequence[str]) -> float | None:
    seconds = [run_directory.training_seconds(workdir) for workdir in workdirs]
    return None if None in seconds else sum(seconds)


def _evaluate(current: Run, localizer: Localizer, part: Part) -> dict[str, dict]:
    """Metrics of the views that the part shows."""
    _, found = evaluator.localize_split(current, localizer)
    by_view = evaluator.metrics_by_branch(found, current)
    return by_view if part.every_view else dict(list(by_view.items())[-1:])


def _description(plan: Plan, part: Part) -> dict[str, Any]:
    trained = plan.networks[part.networks[0]] if len(part.networks) == 1 else {}
    changes = {**{name: value for name, value in trained.items() if _matters_to_training(name)}, **part.changes}
    return {"part": part.label, "networks": list(part.networks), "changes": changes}


def format_ablation(rows: Sequence[dict]) -> str:
    """The table: means over the seeds, with the deviation of the average mAP if there are several."""
    means = {row["label"]: _mean(list(row["seeds"].values())) for row in rows}
    columns = {}
    if any(len(row["seeds"]) > 1 for row in rows):
        columns["+- seeds"] = [f"{100 * _deviation(row):.1f}" for row in rows]
    columns["G multiply-adds"] = [f"{row['multiply_adds'] / 1e9:.3f}" for row in rows]
    columns["M weights"] = [f"{row['parameters'] / 1e6:.2f}" for row in rows]
    columns["ms per window"] = [f"{row['window_milliseconds']:.1f}" for row in rows]
    columns["train min"] = [_training_minutes(row) for row in rows]
    return evaluation.format_table(means, columns)


def _mean(metrics: Sequence[dict]) -> dict:
    """What ``format_table`` prints, as the mean over seeds."""
    names = ("average_mAP", "average_mAP_normalized")
    columns = zip(*(m["mAP"] for m in metrics), strict=True)
    return {
        **metrics[0],
        "mAP": [statistics.fmean(column) for column in columns],
        **{name: statistics.fmean(m[name] for m in metrics) for name in names},
    }


def _training_minutes(row: dict) -> str:
    """Mean over the seeds; - for runs that have not measured it."""
    seconds = [metrics["training_seconds"] for metrics in row["seeds"].values()]
    return "-" if None in seconds else f"{statistics.fmean(seconds) / 60:.2f}"


def _deviation(row: dict) -> float:
    return statistics.stdev(metrics["average_mAP"] for metrics in row["seeds"].values())


def _write(config: Config, rows: Sequence[dict], notes: Sequence[str]) -> None:
    folder = pathlib.Path(config.workdir)
    title = f"{config.ablation}: {config.dataset}, seeds {', '.join(rows[0]['seeds'])}"
    tables = _tables(config, rows)
    shown = ["\n".join(filter(None, (view, format_ablation(table)))) for view, table in tables.items()]
    print("\n".join([f"{title}, split {config.eval_split}", *shown, *notes]))
    paths = [folder / _output_name(config, suffix) for suffix in ("json", "csv", "png")]
    results.keep_previous(*paths)
    about = {"ablation": config.ablation, "dataset": config.dataset, "split": config.eval_split, "jobs": config.jobs}
    results.write_json(paths[0], {**about, "notes": list(notes), "rows": list(rows)})
    results.write_text(paths[1], _csv(rows))
    if config.plots and importlib.util.find_spec("matplotlib"):
        panels = {
            view: {row["label"]: [m["average_mAP"] for m in row["seeds"].values()] for row in table}
            for view, table in tables.items()
        }
        plots.plot_bars(paths[2], title, panels, axis="average mAP (%)")
    print(f"written: {', '.join(str(path) for path in paths if path.exists())}")


def _tables(config: Config, rows: Sequence[dict]) -> dict[str, list[dict]]:
    """All rows in one table; the many of a recipe in one per branch."""
    if config.ablation.split()[0] != "recipe":
        return {"": list(rows)}
    views = dict.fromkeys(row["view"] for row in rows)
    return {view: [{**row, "label": row["part"]} for row in rows if row["view"] == view] for view in views}


def _csv(rows: Sequence[dict]) -> str:
    """One line per row and seed; mAP as fractions."""
    first = next(iter(rows[0]["seeds"].values()))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    thresholds = [f"mAP@{t:g}" for t in first["tiou_thresholds"]]
    costs = ("multiply_adds", "parameters", "window_milliseconds")
    means = ("average_mAP", "average_mAP_normalized")
    writer.writerow(["row", "view", "seed", *thresholds, *means, *costs, "training_seconds"])
    for row in rows:
        for seed, metrics in row["seeds"].items():
            numbers = [*metrics["mAP"], *(metrics[name] for name in means), *(row[name] for name in costs)]
            writer.writerow([row["label"], row["view"], seed, *numbers, metrics["training_seconds"]])
    return text.getvalue()

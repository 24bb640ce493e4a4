"""``--mode=ablate``: trains what an ablation of the paper needs, scores every row of its table, and prints the table.

Each network is an ordinary run below --workdir, so a killed ablation goes on where it was, and every row can be looked
at, exported or evaluated by itself later.
"""

import csv
import dataclasses
import importlib.util
import io
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from a2net_tf import config as settings
from a2net_tf import evaluation, evaluator, plots, profiler, results, training
from a2net_tf import records as schema
from a2net_tf.config import Config
from a2net_tf.errors import UserError

_LAMBDAS = (0.2, 0.4, 0.5, 0.6, 0.8)  # Table V
_LEVELS = (3, 4, 5, 6, 7)  # Table VI, and the seventh that the text mentions
_JOINT = "a2net"  # the network that the settings of the command describe


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
    """What an ablation trains ({name: settings that differ from the command's}) and evaluates."""

    networks: dict[str, dict[str, Any]]
    parts: list[Part]


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
    _check_all(config, plan)
    for number, run in enumerate(runs, start=1):
        print(f"training {number} of {len(runs)}: {run.workdir}", flush=True)
        training.train(run)
        keras.backend.clear_session()  # a dozen networks and their graphs would stay in memory
    rows: dict[str, dict] = {}
    for seed in seeds:
        for part in plan.parts:
            for label, row in _evaluate(config, plan, part, seed).items():
                rows.setdefault(label, {"label": label, **row, "seeds": {}})["seeds"][str(seed)] = row["metrics"]
    for row in rows.values():
        row.pop("metrics")
    _write(config, list(rows.values()))


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


def _values_of_a_setting(name: str, values: Sequence[str]) -> Plan:
    """One row per value and branch; one network per value if the setting matters to training, else one in all."""
    groups = (*settings.TRAINING_GROUPS, "epochs", "localization")
    field = settings.FIELDS.get(name)
    if field is None or field.metadata["group"] not in groups or name in ("dataset", "release_checkpoint"):
        raise UserError(
            f"--ablation={name}: expected branches, lambda, levels, streams, or a setting of the windows, network, "
            'losses, training or localization and its values, as in "learning_rate 1e-4 1e-3"'
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
    return dataclasses.replace(config, mode="train_and_evaluate", workdir=str(workdir), **changes)


def _check_all(config: Config, plan: Plan) -> None:
    """Refuses what the last row would refuse, before the first is trained."""
    for network in plan.networks:
        settings.check(_run(config, plan, network, config.seed))
    for part in plan.parts:
        settings.check(dataclasses.replace(config, **part.changes))


def _evaluate(config: Config, plan: Plan, part: Part, seed: int) -> dict[str, dict]:
    """The rows of one part for one seed, by label, each with its ``metrics``."""
    workdir = ",".join(_run(config, plan, network, seed).workdir for network in part.networks)
    requested = dataclasses.replace(config, mode="evaluate", workdir=workdir, **part.changes)
    current, localizer = evaluator.load_trained(requested, frozenset(part.changes))
    _, found = evaluator.localize_split(current, localizer)
    by_view = evaluator.metrics_by_branch(found, current)
    networks = [network for member in localizer.members for network in member.networks]
    counts = [profiler.profile(network) for network in networks]
    row = {
        "networks": list(part.networks),
        "changes": part.changes or plan.networks[part.networks[0]],
        "multiply_adds": sum(count["multiply_adds"] for count in counts),
        "parameters": sum(count["parameters"] for count in counts),
        "window_milliseconds": sum(profiler.window_milliseconds(network) for network in networks),
    }
    views = by_view if part.every_view else list(by_view)[-1:]
    labels = {view: ": ".join(filter(None, (part.label, view if part.every_view else ""))) for view in views}
    keras.backend.clear_session()
    return {label: {**row, "view": view, "metrics": by_view[view]} for view, label in labels.items()}


def format_ablation(rows: Sequence[dict]) -> str:
    """The table: means over the seeds, with the deviation of the average mAP if there are several."""
    means = {row["label"]: _mean(list(row["seeds"].values())) for row in rows}
    columns = {}
    if any(len(row["seeds"]) > 1 for row in rows):
        columns["+- seeds"] = [f"{100 * _deviation(row):.1f}" for row in rows]
    columns["G multiply-adds"] = [f"{row['multiply_adds'] / 1e9:.3f}" for row in rows]
    columns["M weights"] = [f"{row['parameters'] / 1e6:.2f}" for row in rows]
    columns["ms per window"] = [f"{row['window_milliseconds']:.1f}" for row in rows]
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


def _deviation(row: dict) -> float:
    return statistics.stdev(metrics["average_mAP"] for metrics in row["seeds"].values())


def _write(config: Config, rows: Sequence[dict]) -> None:
    folder = pathlib.Path(config.workdir)
    table = format_ablation(rows)
    title = f"{config.ablation}: {config.dataset}, seeds {', '.join(rows[0]['seeds'])}"
    print(f"{title}, split {config.eval_split}\n{table}")
    paths = [folder / _output_name(config, suffix) for suffix in ("json", "csv", "png")]
    results.keep_previous(*paths)
    results.write_json(
        paths[0],
        {"ablation": config.ablation, "dataset": config.dataset, "split": config.eval_split, "rows": list(rows)},
    )
    results.write_text(paths[1], _csv(rows))
    if config.plots and importlib.util.find_spec("matplotlib"):
        bars = {row["label"]: [m["average_mAP"] for m in row["seeds"].values()] for row in rows}
        plots.plot_bars(paths[2], title, bars, axis="average mAP (%)")
    print(f"written: {', '.join(str(path) for path in paths if path.exists())}")


def _csv(rows: Sequence[dict]) -> str:
    """One line per row and seed; mAP as fractions."""
    first = next(iter(rows[0]["seeds"].values()))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    thresholds = [f"mAP@{t:g}" for t in first["tiou_thresholds"]]
    costs = ("multiply_adds", "parameters", "window_milliseconds")
    means = ("average_mAP", "average_mAP_normalized")
    writer.writerow(["row", "view", "seed", *thresholds, *means, *costs])
    for row in rows:
        for seed, metrics in row["seeds"].items():
            numbers = [*metrics["mAP"], *(metrics[name] for name in means), *(row[name] for name in costs)]
            writer.writerow([row["label"], row["view"], seed, *numbers])
    return text.getvalue()

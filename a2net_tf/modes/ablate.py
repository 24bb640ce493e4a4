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
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from a2net_tf import locks, safe_files, settings
from a2net_tf.data import prepared
from a2net_tf.detection import precision
from a2net_tf.detection.localizer import Localizer
from a2net_tf.errors import UserError
from a2net_tf.evaluation.proposals import AVERAGE_NUMBERS
from a2net_tf.inference import scoring, trained
from a2net_tf.modes import jobs
from a2net_tf.report import plots, profiler, text_tables
from a2net_tf.settings import Config
from a2net_tf.training import run_directory
from a2net_tf.training.ablation_plans import Part, Plan, matters_to_training, plan_of
from a2net_tf.training.run_directory import Run

_SUFFIXES = ("json", "csv", "png")


def ablate(config: Config) -> None:
    """Runs ``config.ablation`` below ``config.workdir``; prints the table and writes it as JSON, CSV and PNG.

    Raises:
        UserError: unknown ablation, a setting that cannot be trained or evaluated, unusable data; another command is at
            work in the directory.
    """
    settings.require(config, "workdir", "dataset", "ablation")
    for suffix in _SUFFIXES:
        safe_files.check_writable(pathlib.Path(config.workdir, _output_name(config, suffix)))
    with locks.hold(pathlib.Path(config.workdir, ".lock"), config.workdir):
        _ablate(config)


def _ablate(config: Config) -> None:
    plan = plan_of(config)
    seeds = config.ablation_seeds or (config.seed,)
    runs = [_run(config, plan, name, seed) for seed in seeds for name in plan.networks]
    _check_all(config, plan, seeds)
    builder = prepared.open_dataset_of(config)
    prepared.check_has_actions(builder, config.eval_split, "eval_split")  # before all is trained
    print("\n".join([*plan.notes, f"{len(plan.parts)} rows of {len(runs)} trained networks"]), flush=True)
    precision.announce(config.precision, precision.resolve(config.precision))
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


def _output_name(config: Config, suffix: str) -> str:
    return f"ablation_{safe_files.file_names([config.ablation])[0]}.{suffix}"


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
            proposed = scoring.recall_of_proposals(current, localizer) if plan.recall else {}
            for branch, metrics in _evaluate(current, localizer, part).items():
                label = ": ".join(filter(None, (part.label, branch if part.every_branch else "")))
                row = {"label": label, "branch": branch, **_description(plan, part), **costs[key], "seeds": {}}
                recall = {"proposed": proposed[branch]} if plan.recall else {}
                rows.setdefault(label, row)["seeds"][str(seed)] = {**metrics, **training, **recall}
            keras.backend.clear_session()
    return list(rows.values())


def _load(config: Config, part: Part, workdirs: Sequence[str]) -> tuple[Run, Localizer]:
    """The networks of a part, to be evaluated with the part's settings, whatever they were trained with."""
    requested = dataclasses.replace(config, mode="evaluate", workdir=",".join(workdirs), **part.changes)
    return trained.load_trained(requested, frozenset(settings.EVALUATION_SETTINGS))


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
    """Metrics of the branches that the part shows."""
    _, sequences = scoring.localize_split(current, localizer)
    by_branch = scoring.metrics_by_branch(sequences, current)
    return by_branch if part.every_branch else dict(list(by_branch.items())[-1:])


def _description(plan: Plan, part: Part) -> dict[str, Any]:
    changed = plan.networks[part.networks[0]] if len(part.networks) == 1 else {}
    changes = {**{name: value for name, value in changed.items() if matters_to_training(name)}, **part.changes}
    return {"part": part.label, "networks": list(part.networks), "changes": changes}


def format_ablation(rows: Sequence[dict]) -> str:
    """The table: means over the seeds, with the deviation of the average mAP if there are several."""
    means = {row["label"]: _mean(list(row["seeds"].values())) for row in rows}
    columns = {}
    if any(len(row["seeds"]) > 1 for row in rows):
        columns["+- seeds"] = [f"{100 * _deviation(row):.1f}" for row in rows]
    columns.update(_recall_columns(rows))
    columns["G multiply-adds"] = [f"{row['multiply_adds'] / 1e9:.3f}" for row in rows]
    columns["M weights"] = [f"{row['parameters'] / 1e6:.2f}" for row in rows]
    columns["ms per window"] = [f"{row['window_milliseconds']:.1f}" for row in rows]
    columns["train min"] = [_training_minutes(row) for row in rows]
    return text_tables.format_table(means, columns)


def _recall_columns(rows: Sequence[dict]) -> dict[str, list[str]]:
    """Means over the seeds of the recall of proposals, if it was measured; - where there are too few proposals."""
    if "proposed" not in next(iter(rows[0]["seeds"].values())):
        return {}
    columns: dict[str, list[str]] = {}
    for row in rows:
        recalls = [_recall(metrics["proposed"]) for metrics in row["seeds"].values()]
        for name in recalls[0]:
            values = [recall[name] for recall in recalls]
            columns.setdefault(name, []).append("-" if None in values else f"{100 * statistics.fmean(values):.1f}")
    return columns


def _recall(proposed: dict) -> dict[str, float | None]:
    """By the name of its column."""
    numbers = {f"AR@{number}": proposed["AR@"].get(str(number)) for number in AVERAGE_NUMBERS}
    return {**numbers, "area 100": proposed["area_under_curve"], "area 1000": proposed["area_to_1000"]}


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
    shown = ["\n".join(filter(None, (branch, format_ablation(table)))) for branch, table in tables.items()]
    print("\n".join([f"{title}, split {config.eval_split}", *shown, *notes]))
    paths = [folder / _output_name(config, suffix) for suffix in _SUFFIXES]
    about = {"ablation": config.ablation, "dataset": config.dataset, "split": config.eval_split, "jobs": config.jobs}
    safe_files.write_json(paths[0], {**about, "notes": list(notes), "rows": list(rows)}, keep_earlier=True)
    safe_files.write_text(paths[1], _csv(rows), keep_earlier=True)
    if config.plots and importlib.util.find_spec("matplotlib"):
        panels = {
            branch: {row["label"]: [m["average_mAP"] for m in row["seeds"].values()] for row in table}
            for branch, table in tables.items()
        }
        plots.plot_bars(paths[2], title, panels, axis="average mAP (%)")
    print(f"written: {', '.join(str(path) for path in paths if path.exists())}")


def _tables(config: Config, rows: Sequence[dict]) -> dict[str, list[dict]]:
    """All rows in one table; the many of a recipe in one per branch."""
    if config.ablation.split()[0] != "recipe":
        return {"": list(rows)}
    branches = dict.fromkeys(row["branch"] for row in rows)
    return {branch: [{**row, "label": row["part"]} for row in rows if row["branch"] == branch] for branch in branches}


def _csv(rows: Sequence[dict]) -> str:
    """One line per row and seed; mAP as fractions."""
    first = next(iter(rows[0]["seeds"].values()))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    thresholds = [f"mAP@{t:g}" for t in first["tiou_thresholds"]]
    costs = ("multiply_adds", "parameters", "window_milliseconds")
    means = ("average_mAP", "average_mAP_normalized")
    recalls = list(_recall(first["proposed"])) if "proposed" in first else []
    writer.writerow(["row", "branch", "seed", *thresholds, *means, *recalls, *costs, "training_seconds"])
    for row in rows:
        for seed, metrics in row["seeds"].items():
            numbers = [*metrics["mAP"], *(metrics[name] for name in means)]
            numbers += _recall(metrics["proposed"]).values() if recalls else []
            numbers += [row[name] for name in costs]
            writer.writerow([row["label"], row["branch"], seed, *numbers, metrics["training_seconds"]])
    return text.getvalue()

"""How much faster a run on HAPT trains and detects than a network of ActionFormer's size: one table, one core.

    python -m a2net_tf.main --flagfile=configs/hapt.flags --manual_dir=FOLDER_OF_THE_ZIP
    python benchmarks/recipe.py --workdir=runs/hapt --output=recipe.json

Settings of a2net_tf.main may be given where ``--mode=evaluate`` takes them, such as --data_dir. Each side has one
thread, on the same core; everything takes turns, and ratios are medians over the turns. The lines of the table:

  weights          that are trained. ActionFormer's published size for this dataset has 26.3 million
  inference        all recordings of --eval_split, from features in memory. Here to detections in seconds; there the
                   forward passes alone, without decoding and suppression, which favours it. Each recording is padded
                   to the next length that the network takes; in the line below, as in the published experiment, all
                   recordings of a person follow each other and are padded to 2,304 steps
  training step    with gradients, clipping, update and averaged weights as each side's settings say, on a batch in
                   memory; "input" is what reading, cutting and augmenting a batch adds
  training         step times steps. There: the published 105 epochs, batches of two sequences of 2,304 steps, one
                   sequence per person, and nothing for input. And as history.csv of the run recorded it, on however
                   many cores it had

Beside them stands, for the official partition of HAPT, what ActionFormer's own code took with its published settings;
measured elsewhere on one core.
"""

import argparse
import dataclasses
import functools
import itertools
import pathlib
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout runs without being installed

from a2net_tf import safe_files, settings
from a2net_tf.errors import UserError
from a2net_tf.native_logs import quiet_native_logs
from a2net_tf.report.text_tables import align
from a2net_tf.settings import Config
from benchmarks import measure

with quiet_native_logs():
    from a2net_tf.data import input_pipeline, prepared
    from a2net_tf.detection.localizer import Localizer
    from a2net_tf.inference import localization, trained
    from a2net_tf.modes import train
    from a2net_tf.training import run_directory
    from a2net_tf.training.run_directory import Run
    from benchmarks import workloads

    try:
        from benchmarks import pytorch_a2net
        from benchmarks import pytorch_actionformer as rival
    except ModuleNotFoundError as missing:
        if missing.name != "torch":
            raise
        rival = None

NO_TORCH = 'no figures of ActionFormer\'s size: torch is not installed (pip install ".[release]")'
INFERENCE, STEP, INPUT = "inference", "training step", "input of an epoch"
RIVAL_INFERENCE, RIVAL_SEQUENCES, RIVAL_STEP = (f"ActionFormer {name}" for name in (INFERENCE, "sequences", STEP))

# What ActionFormer's own code took on HAPT: accelerometer, 21 people to train on and 9 to test on; one core, another
# machine. The seconds are the least and the most that were seen.
OWN_CODE = {"weights": (26.3e6,), INFERENCE: (5.3, 7.8), "training": (67.0,)}
OWN_CODE_SCORE = 91.97
OWN_CODE_DATA, OWN_CODE_PEOPLE = "hapt/accelerometer", (21, 9)


class Data(NamedTuple):
    """What both sides work on.

    Attributes:
        test: records of ``--eval_split``, numpy.
        train: records of ``--train_split``, numpy, whole sequences.
        batches: as the run's own training gets them, without an end.
        steps_per_epoch: of them.
    """

    test: list[dict]
    train: list[dict]
    batches: Iterator[dict]
    steps_per_epoch: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    try:
        options, config, given = parse(sys.argv[1:] if arguments is None else list(arguments))
        saved = run_directory.load(config.workdir)
        measure.use_cores(1)
        workloads.start(saved.config, 1)  # before anything is computed
        current, localizer = trained.load_trained(config, given)
        rows, notes = run(current, localizer, options)
        print("\n".join(["", format_rows(rows), *notes]))
        if config.output:
            safe_files.write_json(
                config.output, {**describe(current, options), "notes": notes, "rows": rows}, keep_earlier=True
            )
            print(f"written: {config.output}")
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, Config, frozenset[str]]:
    """This command's options, the settings, and the names of those that were given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each call (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="see that everything runs; the figures mean little")
    options, rest = parser.parse_known_args(arguments)
    if options.rounds < 1:
        raise UserError(f"--rounds={options.rounds}: must be >= 1")
    config, given = settings.parse(["--mode=evaluate", *rest])
    if not config.workdir or "," in config.workdir:
        raise UserError(f"--workdir={config.workdir}: expected the folder of one trained run")
    if config.output:
        safe_files.check_writable(config.output)
    return options, config, given


def run(current: Run, localizer: Localizer, options: argparse.Namespace) -> tuple[list[dict], list[str]]:
    """Measures; returns rows and further lines."""
    data = read(current)
    calls = own_calls(current, localizer, data)
    if rival:
        sizes = rival.Sizes(channels=16, training_steps=256) if options.quick else rival.PUBLISHED
        calls |= rival_calls(current, data, sizes)
    rounds, seconds = (1, 0.0) if options.quick else (options.rounds, 1.0)
    times = measure.take_turns(calls, rounds=rounds, seconds=seconds, budget_seconds=1800)
    seconds = {name: [statistics.median(turn) for turn in turns] for name, turns in times.items()}
    facts = own_facts(current, data)
    notes = ["one thread each, on one core; ratios are ActionFormer's figure over this run's"]
    if rival:
        facts |= rival_facts(current, data, sizes)
        notes.append("ActionFormer's size: forward passes alone, without decoding and suppression, which favours it")
    else:
        notes.append(NO_TORCH)
    recorded = OWN_CODE if is_official(current, data) else {}
    if recorded:
        notes.append(
            f"its own code: average mAP {OWN_CODE_SCORE} %; measured elsewhere, on one core of another machine"
        )
    return make_rows(seconds, facts, recorded), notes


def read(current: Run) -> Data:
    """The run's dataset, the test split and the whole training sequences in memory."""
    config = current.config
    builder = prepared.open_dataset_of(config)
    trained.check_same_kind(builder, current)
    records = prepared.read_records(builder, config.train_split)
    steps = -(-current.num_windows // config.batch_size)
    endless = dataclasses.replace(config, epochs=10**6)
    batches = input_pipeline.training_batches(
        records,
        endless,
        first_epoch=0,
        steps_per_epoch=steps,
        layout=train.signal_layout(config, builder),
        statistics=current.statistics,
    )
    test = list(prepared.read_records(builder, config.eval_split).as_numpy_iterator())
    return Data(test, list(localization.stitched(records.as_numpy_iterator())), iter(batches), steps)


def describe(current: Run, options: argparse.Namespace) -> dict[str, Any]:
    """What the figures belong to."""
    return {
        "machine": measure.machine(1),
        "versions": {**run_directory.versions(), **({"torch": rival.torch.__version__} if rival else {})},
        "commit": run_directory.commit(),
        "quick": options.quick,
        "settings": settings.to_dict(current.computed),
    }


# What is measured


def own_calls(current: Run, localizer: Localizer, data: Data) -> dict[str, Callable]:
    """By name, a call of this package that does it once."""
    config = current.computed
    network, batch = run_directory.build_network(current), next(data.batches)
    steps = workloads.Training(config, config.precision, network=network, batch=batch)
    return {
        INFERENCE: lambda: list(localization.localize(localizer, data.test)),
        STEP: steps.step,
        INPUT: lambda: _take(data.batches, data.steps_per_epoch),  # at the beginning of an epoch buffers are filled
    }


def _take(batches: Iterator, number: int) -> None:
    for _ in range(number):
        next(batches)


def rival_calls(current: Run, data: Data, sizes: "rival.Sizes") -> dict[str, Callable]:
    """The same of ActionFormer's size."""
    device = pytorch_a2net.start(1)
    network = rival.ActionFormer(current.num_features, len(current.class_names), sizes).to(device)
    whole = list(localization.stitched(data.test))
    lengths = [-(-len(record["features"]) // sizes.multiple) * sizes.multiple for record in whole]
    recordings = [rival.pad([r["features"]], n) for r, n in zip(whole, lengths, strict=True)]
    people = [rival.pad([features], sizes.training_steps) for features, _, _ in by_person(whole)]
    return {
        RIVAL_INFERENCE: functools.partial(rival.infer, network, _to(recordings, device)),
        RIVAL_SEQUENCES: functools.partial(rival.infer, network, _to(people, device)),
        RIVAL_STEP: rival_training(network, data, device).step,
    }


def _to(pairs: list, device: Any) -> list:
    return [tuple(tensor.to(device) for tensor in pair) for pair in pairs]


def rival_training(network: "rival.ActionFormer", data: Data, device: Any) -> "rival.Training":
    """Its step on the first people's sequences."""
    torch, sizes = rival.torch, network.sizes
    people = list(itertools.islice(by_person(data.train), sizes.batch_size))
    [batch] = _to([rival.pad([features for features, _, _ in people], sizes.training_steps)], device)
    number = max(len(labels) for _, _, labels in people)
    segments = torch.zeros(len(people), number, 2, device=device)
    labels = torch.zeros(len(people), number, dtype=torch.int64, device=device)
    for i, (_, their_segments, their_labels) in enumerate(people):
        segments[i, : len(their_segments)] = torch.from_numpy(their_segments)
        labels[i, : len(their_labels)] = torch.from_numpy(their_labels + 1)
    return rival.Training(network, *batch, segments=segments, labels=labels)


def by_person(records: Sequence[dict]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Features f32[T, D], segments f32[G, 2] in steps and labels i64[G] from 0, all of a person's one after the other.

    HAPT names a person in each recording; elsewhere each recording stands alone.
    """
    groups: dict[str, list[dict]] = {}
    for record in records:
        groups.setdefault(person(record), []).append(record)
    for group in groups.values():
        before = np.cumsum([0, *(len(record["features"]) for record in group)])
        segments = [_in_steps(record) + start for record, start in zip(group, before, strict=False)]
        yield (
            np.concatenate([record["features"] for record in group]),
            np.concatenate(segments).astype(np.float32),
            np.concatenate([record["labels"] for record in group]).astype(np.int64),
        )


def person(record: dict) -> str:
    """``user07`` of ``exp13_user07``; the whole name where there is no such part."""
    name = record["id"].decode()
    match = re.search(r"user\d+", name)
    return match.group() if match else name


def _in_steps(record: dict) -> np.ndarray:
    seconds = record["segments"].reshape(-1, 2) - record["first_step_seconds"]
    return seconds / record["feature_stride_seconds"]


# What is known without measuring


def own_facts(current: Run, data: Data) -> dict[str, float]:
    """Weights, recordings, and what training consists of."""
    facts = {
        "weights": sum(int(np.prod(w.shape)) for w in run_directory.build_network(current).trainable_variables),
        "recordings": len({record["id"] for record in data.test}),
        "steps": data.steps_per_epoch * current.config.epochs,
        "steps per epoch": data.steps_per_epoch,
    }
    recorded = run_directory.training_seconds(current.config.workdir)
    return {**facts, "recorded seconds": recorded} if recorded is not None else facts


def rival_facts(current: Run, data: Data, sizes: "rival.Sizes") -> dict[str, float]:
    """Weights and steps of the published schedule."""
    network = rival.ActionFormer(current.num_features, len(current.class_names), sizes)
    num_sequences = len(set(map(person, data.train)))
    steps = sizes.epochs * max(sizes.steps_per_epoch(num_sequences), 1)
    return {"ActionFormer weights": rival.num_weights(network), "ActionFormer steps": steps}


def is_official(current: Run, data: Data) -> bool:
    """Whether the recorded figures are of the same data."""
    people = tuple(len(set(map(person, records))) for records in (data.train, data.test))
    return current.config.dataset.startswith(OWN_CODE_DATA) and people == OWN_CODE_PEOPLE


# The table


def make_rows(seconds: dict[str, list[float]], facts: dict[str, float], recorded: dict[str, tuple]) -> list[dict]:
    """JSON-ready lines.

    Args:
        seconds: of one call, by its name and turn.
        facts: of both sides.
        recorded: of ActionFormer's own code.
    """
    step, epoch = (np.array(seconds[name]) for name in (STEP, INPUT))
    each = epoch / facts["steps per epoch"]
    minutes = facts["steps"] * (step + each) / 60
    theirs = {
        name: np.array(seconds[name]) for name in (RIVAL_INFERENCE, RIVAL_SEQUENCES, RIVAL_STEP) if name in seconds
    }
    their_steps = facts.get("ActionFormer steps")
    their_minutes = their_steps * theirs[RIVAL_STEP] / 60 if theirs else None
    own_inference, recordings = seconds[INFERENCE], f"inference, {facts['recordings']} recordings"
    rows = [
        make_row("weights", facts["weights"], facts.get("ActionFormer weights"), recorded.get("weights")),
        make_row(f"{recordings}, s", own_inference, theirs.get(RIVAL_INFERENCE), recorded.get(INFERENCE)),
        make_row("  padded as published, s", own_inference, theirs.get(RIVAL_SEQUENCES), recorded.get(INFERENCE)),
        make_row("training step, ms", 1000 * step, 1000 * theirs[RIVAL_STEP] if theirs else None, compared=False),
        make_row("  input, ms", 1000 * each),
        make_row("steps", facts["steps"], their_steps, compared=False),
        make_row("training, minutes", minutes, their_minutes, recorded.get("training")),
    ]
    if "recorded seconds" in facts:
        own = facts["recorded seconds"] / 60
        rows.append(make_row("  as history.csv says, minutes", own, their_minutes, recorded.get("training")))
    return rows


def make_row(
    name: str,
    own: float | Sequence[float],
    theirs: float | Sequence[float] | None = None,
    recorded: Sequence[float] | None = None,
    *,
    compared: bool = True,
) -> dict[str, Any]:
    """One line: both sides, their ratio turn by turn, and what was recorded of ActionFormer's own code.

    Args:
        name: with its unit.
        own: a number, or one per turn.
        theirs: likewise; None: there is none.
        recorded: a number, or the least and the most.
        compared: whether a ratio says something.
    """
    own = np.atleast_1d(own).astype(float)
    row = {"name": name, "own": measure.spread(own)}
    if theirs is not None:
        theirs = np.atleast_1d(theirs).astype(float)
        row["actionformer"] = measure.spread(theirs)
        if compared:
            row["ratio"] = measure.spread(theirs / own)
    if recorded:
        row["own_code"] = list(recorded)
        row["own_code_ratio"] = [value / float(np.median(own)) for value in recorded]
    return row


def format_rows(rows: Sequence[dict]) -> str:
    """The table."""
    header = ["", "this run", "ActionFormer's size", "ratio", "quartiles", "its own code", "ratio"]
    return align([header, *map(_cells, rows)])


def _cells(row: dict) -> list[str]:
    ratio = row.get("ratio")
    return [
        row["name"],
        _digits(row["own"]["median"]),
        _digits(row["actionformer"]["median"]) if "actionformer" in row else "-",
        _digits(ratio["median"]) if ratio else "-",
        f"{_digits(ratio['low'])} to {_digits(ratio['high'])}" if ratio and ratio["low"] < ratio["high"] else "-",
        " to ".join(map(_digits, row.get("own_code", ()))) or "-",
        " to ".join(map(_digits, row.get("own_code_ratio", ()))) or "-",
    ]


def _digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())

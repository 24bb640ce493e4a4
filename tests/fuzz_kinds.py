"""The kinds of input that are fuzzed: each makes a good one, damages it, reads it as the commands do, and judges.

A kind is a function of a ``random.Random`` and an empty folder. It returns "refused" if a UserError named a file of
that folder, "accepted" if what was read is what an independent, plain reading of the damaged files says, and raises
anything else: then the seed has found something.
"""

import ast
import contextlib
import csv
import dataclasses
import functools
import io
import json
import math
import pathlib
import random
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import logging

from a2net_tf.errors import UserError, one_line
from tests import fuzz_damage as damage
from tests import tiny

REFUSED, ACCEPTED = "refused", "accepted"
D = 4  # features per step of what is made here
LABELS = ("jump", "run", "sit")


@contextlib.contextmanager
def nothing_lost(folder: pathlib.Path) -> Iterator[None]:
    """Every file of ``folder`` is afterwards as it was; others may have come."""
    before = tiny.files_below(folder)
    try:
        yield
    finally:
        after = tiny.files_below(folder)
        changed = [name for name, content in before.items() if after.get(name, "gone") != content]
        assert not changed, f"changed or gone: {changed}"


def refused_or(read: Callable[[], Any], folder: pathlib.Path) -> Any:
    """What ``read`` returns, or None if it was refused in one line that names a file of ``folder``."""
    line = ""
    try:
        with tiny.silence(), nothing_lost(folder):
            return read()
    except UserError as error:
        line = one_line(error)
    assert folder.name in line, f"the message names no file: {line}"
    return None


def run_command(folder: pathlib.Path, *arguments: str) -> bool:
    """Whether a command accepted its input; raises unless a refusal is one line, the last, that names a file."""
    from a2net_tf.main import main

    stderr = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    warnings = logging.get_absl_handler().python_handler
    warnings.stream = stderr
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stderr), nothing_lost(folder):
        status = main(list(arguments))
    warnings.stream = sys.__stderr__
    printed = stderr.buffer.getvalue().decode()
    assert "Traceback" not in printed, printed[:1500]
    assert "(not expected; " not in printed, printed[:1500]
    lines = printed.splitlines()
    if status == 0:
        assert not any(line.startswith("error: ") for line in lines), lines
        return True
    assert status == 1, status
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], lines
    assert folder.name in lines[-1], f"the message names no file: {lines[-1]}"
    return False


# Plain readings


def plain_text(file: pathlib.Path) -> str:
    return file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def plain_npy(content: bytes) -> np.ndarray:
    """The array that a .npy file holds, by the description of the format."""
    assert content[:6] == b"\x93NUMPY"
    start = 10 if content[6] == 1 else 12
    length = int.from_bytes(content[8:start], "little")
    header = ast.literal_eval(content[start : start + length].decode("latin-1" if content[6] < 3 else "utf-8").strip())
    dtype, shape = np.dtype(header["descr"]), header["shape"]
    values = np.frombuffer(content, dtype, math.prod(shape), start + length)
    return values.reshape(shape, order="F" if header["fortran_order"] else "C")


def plain_npz(file: pathlib.Path, key: str = "") -> dict[str, np.ndarray]:
    """All arrays by name; with a key that one alone, or the only one under whatever name."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if key and len(names) > 1:
            names = [name for name in names if name in (key, f"{key}.npy")]
        return {name.removesuffix(".npy"): plain_npy(archive.read(name)) for name in names}


def plain_csv(file: pathlib.Path) -> np.ndarray:
    """Rows of numbers, f64; a header row and an index column are left out."""
    text = plain_text(file)
    lines = [line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    separator = next((c for c in "\t;" if c in lines[0]), ",")
    rows = [[cell.strip().strip('"') for cell in line.split(separator)] for line in lines]
    if separator != ",":
        rows = [[cell.replace(",", ".") for cell in row] for row in rows]
    try:
        [float(cell) for cell in rows[0]]
    except ValueError:
        header = rows.pop(0)
        if header[0].lower() in ("", "unnamed: 0", "index"):
            rows = [row[1:] for row in rows]
    return np.array([[float(cell) for cell in row] for row in rows])


# Feature files


def features(rng: random.Random, folder: pathlib.Path) -> str:
    """A matrix as .npy, .npz or .csv for --features."""
    from a2net_tf.inference import localization

    file = folder / f"video{rng.choice(('.npy', '.npy', '.npz', '.csv'))}"
    _write_matrix(file, _odd_matrix(rng) if rng.random() < 0.3 else _good_matrix(rng), rng)
    if rng.random() < 0.85:
        damage.damage_file(file, rng, [_npy_bytes(_good_matrix(rng)), b"1,2,3,4\n5,6,7,8\n"])

    def read() -> np.ndarray:
        sources = localization.read_feature_files(
            str(file), num_features=D, seconds_per_step=0.5, first_step_seconds=0.0
        )
        return np.concatenate([r["features"][: r["chunk_owned_steps"]] for source in sources for r in source])

    found = refused_or(read, folder)
    if found is None:
        return REFUSED
    assert found.dtype.name in ("float32", "float16"), found.dtype
    assert np.isfinite(found).all(), "values that are not finite"
    expected = {
        ".npy": lambda: plain_npy(file.read_bytes()),
        ".npz": lambda: next(iter(plain_npz(file, "features").values())),
        ".csv": lambda: plain_csv(file),
    }[file.suffix]()
    assert expected.dtype.kind in "fiu", f"{expected.dtype} was taken for features"
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found, expected.astype(found.dtype))
    return ACCEPTED


def _good_matrix(rng: random.Random) -> np.ndarray:
    made = np.random.default_rng(rng.randrange(2**32)).normal(size=(rng.randrange(1, 40), D))
    return np.asarray(made.astype(rng.choice(("f4", "f4", "f8", "f2", ">f4"))), order=rng.choice("CF"))


def _odd_matrix(rng: random.Random) -> np.ndarray:
    good = _good_matrix(rng).astype("f8")
    good[rng.randrange(len(good)), rng.randrange(D)] = rng.choice((np.nan, np.inf, 1e39, 1e308, -1e308, 1e-320, 70000))
    with np.errstate(all="ignore"):
        smaller = good.astype("f4"), good.astype("f2")
    odd = (
        good,
        *smaller,
        good > 0,
        good.astype("c16"),
        good.T,
        good[0],
        good[None],
        good[:0],
        good[:, :0],
        good[:, :1],
        np.array(5.0),
        np.nan_to_num(good).clip(-9, 9).astype("i1"),
        np.nan_to_num(good).clip(0, 9).astype("u8"),
        good.astype("U8"),
        good.astype("S3"),
        np.array([None, {}]),
        np.zeros((3, D), "M8[s]"),
        np.zeros((3, D), [("a", "f4"), ("b", "i4")]),
        np.zeros((3, D), "f4,f4"),
    )
    return rng.choice(odd)


def _npy_bytes(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version, allow_pickle=True)
    return stream.getvalue()


def _write_matrix(file: pathlib.Path, matrix: np.ndarray, rng: random.Random) -> None:
    if file.suffix == ".npy":
        file.write_bytes(_npy_bytes(matrix, rng.choice((None, None, (1, 0), (2, 0), (3, 0)))))
    elif file.suffix == ".npz":
        extra = {name: np.zeros(3) for name in rng.choice(((), (), ("other",), ("other", "third")))}
        save = rng.choice((np.savez, np.savez_compressed))
        save(file, **{rng.choice(("features", "features", "x")): matrix}, **extra)
    else:
        _write_csv(file, matrix, rng)


def _write_csv(file: pathlib.Path, matrix: np.ndarray, rng: random.Random) -> None:
    separator = rng.choice(",;\t")
    header = rng.choice((None, None, [f"f{i}" for i in range(D)], list(map(str, range(D)))))
    rows = [[repr(value) for value in np.ravel(row).tolist()] for row in np.atleast_2d(matrix)]
    if rng.random() < 0.2:
        rows, header = [[str(i), *row] for i, row in enumerate(rows)], ["", *(header or ["f"] * D)]
    if separator != "," and rng.random() < 0.5:
        rows = [[cell.replace(".", ",") for cell in row] for row in rows]
    lines = [separator.join(row) for row in ([header] if header else []) + rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")


# Annotations and results


def _database(rng: random.Random) -> dict:
    videos = {}
    for name, subset in (("a", "validation"), ("b", "validation"), ("c", "training"), ("v_d", "validation")):
        starts = sorted(round(rng.uniform(0, 90), 2) for _ in range(rng.randrange(4) + (name == "a")))
        actions = [{"label": rng.choice(LABELS), "segment": [s, s + rng.choice((0.5, 3, 10))]} for s in starts]
        videos[name] = {"subset": subset, "duration": 100, "annotations": actions}
    videos["a"]["annotations"] += [{"label": label, "segment": [1, 2.5]} for label in LABELS]
    return {"version": "1", "database": videos}


def _results(database: dict, rng: random.Random) -> dict:
    """Detections near the annotations, some of them wrong."""
    results = {}
    for name, video in database["database"].items():
        results[name] = [
            {
                "label": rng.choice((action["label"], rng.choice(LABELS))),
                "score": round(rng.random(), 3),
                "segment": [round(value + rng.choice((0, 0.2, 2)), 2) for value in action["segment"]],
            }
            for action in video["annotations"] * 2
        ]
    return {"version": "1", "results": results, "external_data": {}}


def annotations(rng: random.Random, folder: pathlib.Path) -> str:
    """The JSON of --ground_truth, in ActivityNet's format."""
    return _score_activitynet(rng, folder, "truth.json")


def results(rng: random.Random, folder: pathlib.Path) -> str:
    """The JSON of --detections, in ActivityNet's format."""
    return _score_activitynet(rng, folder, "found.json")


def _score_activitynet(rng: random.Random, folder: pathlib.Path, damaged: str) -> str:
    database = _database(rng)
    contents = {"truth.json": database, "found.json": _results(database, rng)}
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    file = folder / damaged
    if rng.random() < 0.6:
        damage.write_json_text(file, damage.damage_json(file.read_text(), rng))
    else:
        damage.damage_file(file, rng, [json.dumps(other).encode() for other in contents.values()])
    protocol = rng.choice(("activitynet", "activitynet", "proposals"))
    flags = [f"--ground_truth={folder / 'truth.json'}", f"--detections={folder / 'found.json'}"]
    accepted = run_command(
        folder, "--mode=score", f"--protocol={protocol}", *flags, f"--metrics={folder / 'metrics.json'}"
    )
    return _judge_scores(folder, accepted, protocol, lambda: _plain_activitynet(folder, protocol))


def _judge_scores(folder: pathlib.Path, accepted: bool, protocol: str, read: Callable[[], tuple]) -> str:
    """The metrics that were written are those of the tables of the plain reading."""
    from a2net_tf.evaluation import proposals, protocols

    if not accepted:
        assert not (folder / "metrics.json").exists(), "refused, and metrics are there"
        return REFUSED
    truth, found, names = read()
    if protocol == "proposals":
        expected = proposals.average_recall(truth, found, tiou_thresholds=proposals.PROPOSAL_THRESHOLDS)
    else:
        thresholds = json.loads((folder / "metrics.json").read_text())["tiou_thresholds"]
        expected = protocols.evaluate(truth, found, protocol=protocol, tiou_thresholds=thresholds, class_names=names)
    written = json.loads((folder / "metrics.json").read_text())
    for name in ("mAP", "average_mAP", "recall", "area_under_curve", "num_proposals", "num_ground_truths"):
        if name in expected:
            np.testing.assert_allclose(written[name], expected[name], rtol=1e-9, err_msg=name)
    return ACCEPTED


def _plain_activitynet(folder: pathlib.Path, protocol: str) -> tuple:
    from a2net_tf.evaluation.instances import Detections, GroundTruth

    videos = json.loads(plain_text(folder / "truth.json"))["database"]
    actions = [
        (name, action["segment"], str(action["label"]))
        for name, video in videos.items()
        if video["subset"] == "validation"
        for action in video["annotations"]
    ]
    names = sorted({label for _, _, label in actions})
    truth = GroundTruth([a[0] for a in actions], [a[1] for a in actions], [names.index(a[2]) for a in actions])
    rows = [
        (name, entry["segment"], entry.get("label"), entry["score"])
        for name, entries in json.loads(plain_text(folder / "found.json"))["results"].items()
        for entry in entries
    ]
    if protocol == "proposals":
        rows = [(name, segment, names[0], score) for name, segment, _, score in rows]
    rows = [row for row in rows if str(row[2]) in names]
    called = _names_of_truth({row[0] for row in rows}, {action[0] for action in actions})
    found = Detections(
        [called[row[0]] for row in rows],
        [row[1] for row in rows],
        [names.index(str(row[2])) for row in rows],
        [row[3] for row in rows],
    )
    return truth, found, names


def _names_of_truth(found: set[str], annotated: set[str]) -> dict[str, str]:
    """A name itself, or the only one that differs by ``v_`` or a file ending."""

    def plain(name: str) -> str:
        stem, dot, ending = name.removeprefix("v_").rpartition(".")
        return stem if dot and stem and ending.lower() in ("mp4", "mkv", "npy", "csv") else name.removeprefix("v_")

    called = {}
    for name in found:
        others = [other for other in annotated if plain(other) == plain(name)]
        called[name] = name if name in annotated or not others else others[0]
    return called


# THUMOS14


def thumos14(rng: random.Random, folder: pathlib.Path) -> str:
    """The folder of texts of --ground_truth and the text of --detections."""
    truth = folder / "annotations"
    truth.mkdir()
    (truth / "detclasslist.txt").write_text("".join(f"{7 + 2 * i} {label}\n" for i, label in enumerate(LABELS)))
    rows = {label: [] for label in (*LABELS, "Ambiguous")}
    for label, video in [
        *((rng.choice(list(rows)), f"video_{rng.randrange(4)}") for _ in range(12)),
        ("run", "video_0"),
    ]:
        start = round(rng.uniform(0, 50), 1)
        rows[label].append((video, start, round(start + rng.choice((0.5, 4)), 1)))
    for label, listed in rows.items():
        (truth / f"{label}_test.txt").write_text("".join(f"{v}  {s} {e}\n" for v, s, e in dict.fromkeys(listed)))
    detected = [(v, s, e, 7 + 2 * LABELS.index(label)) for label in LABELS for v, s, e in rows[label] * 2]
    (folder / "found.txt").write_text("".join(f"{v} {s} {e} {i} {rng.random():.3f}\n" for v, s, e, i in detected))
    file = rng.choice((folder / "found.txt", folder / "found.txt", *sorted(truth.iterdir())))
    damage.damage_file(file, rng, [(folder / "found.txt").read_bytes(), (truth / "run_test.txt").read_bytes()])
    accepted = run_command(
        folder,
        *("--mode=score", "--protocol=thumos14", f"--ground_truth={truth}", f"--detections={folder / 'found.txt'}"),
        f"--metrics={folder / 'metrics.json'}",
    )
    return _judge_scores(folder, accepted, "thumos14", lambda: _plain_thumos14(truth, folder / "found.txt"))


def _plain_thumos14(truth: pathlib.Path, found: pathlib.Path) -> tuple:
    from a2net_tf.evaluation.instances import Detections, GroundTruth

    def rows(file: pathlib.Path) -> list[list[str]]:
        lines = [line.split() for line in plain_text(file).split("\n")]
        return [fields for fields in lines if fields]

    numbers = {name: int(number) for number, name in rows(truth / "detclasslist.txt")}
    names = list(numbers)
    actions = [(v, [float(s), float(e)], names.index(n)) for n in names for v, s, e in rows(truth / f"{n}_test.txt")]
    ambiguous = [(v, [float(s), float(e)]) for v, s, e in rows(truth / "Ambiguous_test.txt")]
    table = GroundTruth(*map(list, zip(*actions, strict=True)), *(map(list, zip(*ambiguous, strict=True))))
    detected = [
        (v, [float(s), float(e)], list(numbers.values()).index(int(i)), float(score))
        for v, s, e, i, score in rows(found)
    ]
    called = _names_of_truth({row[0] for row in detected}, {row[0] for row in [*actions, *ambiguous]})
    columns = [list(column) for column in zip(*detected, strict=True)] or [[], [], [], []]
    return table, Detections([called[v] for v in columns[0]], *columns[1:]), names


# Settings


def flagfile(rng: random.Random, folder: pathlib.Path) -> str:
    """A file of --flagfile."""
    from a2net_tf import settings
    from a2net_tf.settings.config import FIELDS

    file = folder / "my.flags"
    lines = (tiny.trained() / "flags.txt").read_text().splitlines()
    kept = rng.sample(lines, rng.randrange(1, len(lines)))
    if rng.random() < 0.5:
        at = rng.randrange(len(kept))
        name, _, _ = kept[at].partition("=")
        kept[at] = (
            f"{name}={rng.choice((*damage.ODD_TEXTS, *damage.ODD_NUMBER_TEXTS, 'true', 'False', '1,2', ',', '1,,2'))}"
        )
    kept.insert(rng.randrange(len(kept) + 1), rng.choice(("# é", "// x", "", f"--flagfile={file}", "--mode=check")))
    file.write_bytes("\n".join(kept).encode("utf-8", "surrogatepass"))
    if rng.random() < 0.6:
        damage.damage_file(file, rng, [b"--seed=3\n--mode=train\n"])
    try:
        with tiny.silence():
            config, given = settings.parse([f"--flagfile={file}"])
    except UserError as error:
        line = one_line(error)  # of a setting, of an argument that is none, or of a file
        assert any(part in line for part in ("--", "argument", "cannot be read", folder.name)), line
        return REFUSED
    said = [line.strip() for line in plain_text(file).split("\n")]
    said = [line for line in said if line and not line.startswith(("#", "//"))]
    for name in given:
        _check_flag(name, FIELDS[name].default, getattr(config, name), said)
    assert settings.from_dict(settings.to_dict(config)) == config
    return ACCEPTED


def _check_flag(name: str, default: Any, value: Any, lines: list[str]) -> None:
    """The last of ``lines`` that sets ``name`` says ``value``; a value on a line of its own is not looked at."""
    named = [line.lstrip("-") for line in lines if line.lstrip("-").partition("=")[0] in (name, f"no{name}")]
    assert named, f"--{name} is given, but no line names it"
    flag, has_value, text = named[-1].partition("=")
    if isinstance(value, bool):
        said = flag == name if not has_value else text.lower() in ("true", "t", "1")
    elif not has_value:
        return
    elif isinstance(default, tuple):
        said = [part.strip() for part in text.split(",")] if text else []
        kind = float if any(isinstance(part, float) for part in value) else type(value[0]) if value else str
        said = tuple(kind(part) for part in said if part or kind is str)
    else:
        base = 0 if text.lower().lstrip("+-").startswith(("0x", "0o")) else 10  # absl takes 0x10 for 16
        said = int(text, base) if isinstance(default, int) else type(default)(text)
    assert value == said, f"--{name} is {value!r}, and the file says {named[-1]!r}"


# Runs


def run(rng: random.Random, folder: pathlib.Path) -> str:
    """The directory of a trained run, for every command that starts from one."""
    from a2net_tf.training import run_directory

    workdir = damage.copy(tiny.trained(), folder / "run")
    file = workdir / rng.choice(("run.json", "run.json", "statistics.npz", "last.npz", "last.npz", "history.csv"))
    others = [(workdir / "history.csv").read_bytes(), (workdir / "best.npz").read_bytes()]
    if file.suffix == ".json" and rng.random() < 0.4:
        _set_odd_size(file, rng)
    elif file.suffix == ".json" and rng.random() < 0.8:
        damage.write_json_text(file, damage.damage_json(file.read_text(), rng))
    elif file.suffix == ".npz" and rng.random() < 0.5:
        _damage_arrays(file, rng)
    else:
        damage.damage_file(file, rng, others)

    def read() -> tuple:
        found = run_directory.load(str(workdir))
        found = found._replace(config=dataclasses.replace(found.config, workdir=str(workdir)))
        return found, run_directory.load_network(found), run_directory.read_history(str(workdir))

    result = refused_or(read, folder)
    if result is None:
        return REFUSED
    found, network, history = result
    said = json.loads(plain_text(workdir / "run.json"))
    for name in ("class_names", "num_features", "num_windows", "seconds_per_step", "first_step_seconds"):
        assert getattr(found, name) == (list(map(str, said[name])) if name == "class_names" else said[name]), name
    weights = plain_npz(workdir / f"{found.config.checkpoint}.npz")
    assert len(weights) == len(network.weights)
    for weight in network.weights:
        np.testing.assert_array_equal(np.asarray(weight), weights[weight.path].astype("f4"), err_msg=weight.path)
    if found.statistics is not None:
        statistics = plain_npz(workdir / "statistics.npz")
        np.testing.assert_array_equal(found.statistics, [statistics["mean"], statistics["variance"]])
    if (workdir / "history.csv").exists():
        rows = list(csv.DictReader(io.StringIO(plain_text(workdir / "history.csv"))))
        assert [row["epoch"] for row in history] == [int(row["epoch"]) for row in rows]
    return ACCEPTED


def _set_odd_size(file: pathlib.Path, rng: random.Random) -> None:
    """A size of the network or of what is done with it that another number takes the place of."""
    said = json.loads(file.read_text())
    sizes = [name for name, value in said["config"].items() if type(value) is int]
    name = rng.choice((*sizes, "level_channels", "level_channels", "anchor_ratios", "num_features", "class_names"))
    many = rng.choice((0, 1, 2, 7, 10_000))
    if name in ("num_features", "class_names"):
        said[name] = rng.choice((1, 17, 10**6, 2**40)) if name == "num_features" else [f"c{i}" for i in range(many)]
    elif name in sizes:
        said["config"][name] = rng.choice((0, 1, 3, 8, 64, 10**5, 2**31 - 1, 2**31, 2**63))
    else:
        said["config"][name] = rng.choice(([0.5 * i + 1 for i in range(many)], [2**31 - 1] * 3, [10**6] * 8))
    file.write_text(json.dumps(said))


def _damage_arrays(file: pathlib.Path, rng: random.Random) -> None:
    """Whole members: other values, types, shapes, names."""
    arrays = dict(np.load(file))
    name = rng.choice(sorted(arrays))
    value = arrays[name]
    changes = (
        lambda: np.full_like(value, rng.choice((np.nan, np.inf, -1, 0, 1e38))),
        lambda: value.astype(rng.choice(("f8", "f2", "c8", "i4", "?", "U5"))),
        lambda: value[..., None],
        lambda: value.ravel()[:1],
        lambda: np.array([None, {}]),
        lambda: np.float64(3),
    )
    kind = rng.random()
    if kind < 0.15:
        del arrays[name]
    elif kind < 0.3:
        arrays[rng.choice(("x", "../x", "a/b", name + "2"))] = arrays.pop(name)
    else:
        with np.errstate(all="ignore"):
            arrays[name] = rng.choice(changes)()
    np.savez(file, **arrays)


@functools.cache
def _trainer() -> tuple:
    """A trainer of the run, whose variables are restored over and over, and the values of both of its states."""
    from a2net_tf.training import run_directory, trainer

    run = run_directory.load(str(tiny.trained()))
    return run, trainer._compiled(run, 1)


def state(rng: random.Random, folder: pathlib.Path) -> str:
    """The state that a training goes on with."""
    from a2net_tf.training import callbacks

    run, trainer = _trainer()
    workdir = folder / "run"
    damage.copy(tiny.trained(), workdir)
    names = ("checkpoint", "checkpoint", "checkpoint", "ckpt-2.index", "ckpt-2.data-00000-of-00001")
    file = workdir / "state" / rng.choice(names)
    damage.damage_file(
        file, rng, [file.with_name("ckpt-1.index").read_bytes(), b'model_checkpoint_path: "/x/ckpt-1"\n']
    )
    for weight in trainer.network.weights:
        weight.assign(np.zeros(weight.shape))

    def read() -> int:
        config = run.config.__class__(**{**vars(run.config), "workdir": str(workdir)})
        epoch_end = callbacks.EpochEnd(run._replace(config=config), None)
        epoch_end.set_model(trainer)
        return epoch_end.resume()

    epoch = refused_or(read, folder)
    if epoch is None:
        return REFUSED
    assert epoch in (1, 2), epoch
    if epoch == 2:
        for weight in trainer.network.weights:
            np.testing.assert_array_equal(np.asarray(weight), _last_weights()[weight.path])
    assert any(np.any(np.asarray(weight)) for weight in trainer.network.weights), "nothing was restored"
    return ACCEPTED


@functools.cache
def _last_weights() -> dict[str, np.ndarray]:
    return plain_npz(tiny.trained() / "last.npz")


# Datasets


def _own_folder(folder: pathlib.Path) -> pathlib.Path:
    """Three videos for ``feature_folder``."""
    folder.mkdir()
    database = {}
    for number, (name, subset) in enumerate((("a", "train"), ("b", "train"), ("c", "test"))):
        steps = 20 + 5 * number
        made = np.random.default_rng(number).normal(size=(steps, D)).astype("f4")
        np.save(folder / f"{name}.npy", made) if name != "b" else np.savez(folder / "b.npz", features=made)
        actions = [{"label": LABELS[i], "segment": [1.5 + i, 4.0 + i]} for i in range(3)]
        database[name] = {"subset": subset, "duration": steps / 2, "annotations": actions}
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    (folder / "settings.json").write_text(json.dumps({"feature_stride_seconds": 0.5, "classes": list(LABELS)}))
    return folder


def own_folder(rng: random.Random, folder: pathlib.Path) -> str:
    """A folder of one's own features and annotations, before it is prepared."""
    from a2net_tf.datasets.feature_folder.feature_folder_dataset_builder import Builder

    own = _own_folder(folder / "own")
    file = own / rng.choice(
        ("annotations.json", "annotations.json", "settings.json", "settings.json", "a.npy", "b.npz")
    )
    if file.suffix == ".json" and rng.random() < 0.75:
        damage.write_json_text(file, damage.damage_json(file.read_text(), rng))
    else:
        damage.damage_file(file, rng, [(own / "a.npy").read_bytes(), b"{}"])

    def read() -> tuple:
        contents = Builder(data_dir=str(folder / "data")).read_folder(own)
        records = [r for read_video in sum(map(list, contents.splits.values()), []) for r in read_video()]
        return contents, records

    try:
        result = refused_or(read, folder)
    except AssertionError as error:
        if "video '" not in str(error):  # a message about one video names it; its file is clear from that
            raise
        return REFUSED
    if result is None:
        return REFUSED
    contents, records = result
    _judge_own(own, contents, records)
    return ACCEPTED


def _judge_own(own: pathlib.Path, contents: Any, records: list[dict]) -> None:
    settings = json.loads(plain_text(own / "settings.json")) if (own / "settings.json").exists() else {}
    annotations = own / (settings.get("annotations") or "annotations.json")
    if not annotations.exists():
        [annotations] = (f for f in own.glob("*.json") if f.name != "settings.json")
    database = json.loads(plain_text(annotations))["database"]
    by_name = {record["id"]: record for record in records}
    there = {name for name in database if any((own / f"{name}{ending}").is_file() for ending in (".npy", ".npz"))}
    assert by_name.keys() == there, (sorted(by_name), sorted(there))
    for name, record in by_name.items():
        file = own / f"{name}.npy"
        matrix = (
            plain_npy(file.read_bytes())
            if file.exists()
            else next(iter(plain_npz(own / f"{name}.npz", "features").values()))
        )
        np.testing.assert_array_equal(record["features"], matrix.astype(record["features"].dtype))
        assert np.isfinite(record["features"]).all()
        listed = [a for a in database[name]["annotations"] if a["segment"][0] != a["segment"][1]]
        assert [contents.class_names[label] for label in record["labels"]] == [str(a["label"]) for a in listed]
        expected = [np.clip(a["segment"], 0, record["duration_seconds"]) for a in listed]
        np.testing.assert_allclose(record["segments"], np.reshape(expected, (-1, 2)), rtol=1e-5, atol=1e-5)


@tiny.once
def small_dataset(path: pathlib.Path) -> None:
    """The folder above, prepared by TFDS."""
    from a2net_tf.data import prepared

    own = _own_folder(path.with_name("small_dataset_raw"))
    with tiny.silence():
        prepared.open_dataset("feature_folder", data_dir=str(path), manual_dir=str(own))


def prepared(rng: random.Random, folder: pathlib.Path) -> str:
    """A directory that TFDS has prepared, and its records."""
    undamaged = next(small_dataset().glob("feature_folder/*"))
    directory = damage.copy(undamaged, folder / "prepared")
    records = sorted(directory.glob("*.tfrecord*"))
    file = rng.choice((*sorted(directory.glob("*.*")), *records * 3))
    if file in records and rng.random() < 0.7:
        _damage_record(file, rng)
    elif file.suffix == ".json" and rng.random() < 0.75:
        damage.write_json_text(file, damage.damage_json(file.read_text(), rng))
    else:
        damage.damage_file(file, rng, [records[0].read_bytes(), b"{}", b"jump\nrun\n"])
    (folder / "evilmod.py").write_text(f"open({str(folder / 'harm')!r}, 'w')")
    found = _read_prepared(directory, folder)
    if rng.random() < 0.1:
        flags = ("--window_steps=16", "--num_levels=2", "--level_channels=8,8", "--seed=1")
        accepted = run_command(folder, "--mode=check", f"--dataset={directory}", *flags)
        assert accepted == (found is not None), f"check {'accepts' if accepted else 'refuses'} it"
    assert not (folder / "harm").exists(), "a module of the folder was imported"
    if found is None:
        return REFUSED
    class_names, splits = found
    assert class_names == plain_text(directory / "labels.labels.txt").split(), class_names
    for split, read in splits.items():
        [file] = directory.glob(f"*-{split}.tfrecord*")
        stored = plain_records(file.read_bytes()) or plain_records((undamaged / file.name).read_bytes())
        assert len(read) == len(stored), split
        for record, fields in zip(read, stored, strict=True):
            _judge_record(record, fields, len(class_names))
    return ACCEPTED


def _read_prepared(directory: pathlib.Path, folder: pathlib.Path) -> tuple | None:
    import tensorflow as tf

    from a2net_tf.data import prepared as prepared_datasets

    def read() -> tuple:
        builder = prepared_datasets.open_dataset(str(directory))
        prepared_datasets.read_metadata(builder)
        splits = {}
        for split in builder.info.splits:
            try:
                splits[split] = list(prepared_datasets.read_records(builder, split).as_numpy_iterator())
            except (tf.errors.OpError, UnicodeDecodeError) as error:  # as modes/command.py does
                if path := prepared_datasets.find_damaged_file(builder, split):
                    raise UserError(path) from None
                raise AssertionError("no damaged file is found") from error
        return prepared_datasets.class_names(builder), splits

    return refused_or(read, folder)


def _judge_record(record: dict, fields: dict, num_classes: int) -> None:
    """What was read is what the bytes say, and makes sense."""
    np.testing.assert_array_equal(
        np.ravel(record["features"]), np.frombuffer(fields["features"][0], "f4"), err_msg="features"
    )
    np.testing.assert_array_equal(record["labels"], fields.get("labels", []))
    assert record["id"] == fields["id"][0]
    record["id"].decode()
    assert ((record["labels"] >= 0) & (record["labels"] < num_classes)).all()
    assert len(record["labels"]) == len(record["segments"])
    assert np.isfinite(record["segments"]).all()
    assert record["feature_stride_seconds"] > 0
    assert 1 <= record["chunk_owned_steps"] <= len(record["features"]) <= record["num_steps"] < 2**31


def plain_records(content: bytes) -> list[dict]:
    """{name: list of values} of each record of a TFRecord file; [] if protocol buffers cannot read one.

    TensorFlow has a reader of its own, which takes zeros behind a record for nothing.
    """
    from google.protobuf import message
    from tensorflow.core.example import example_pb2

    found, position = [], 0
    while position < len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        try:
            example = example_pb2.Example.FromString(content[position + 12 : position + 12 + length])
        except message.DecodeError:
            return []
        kinds = {name: (feature, feature.WhichOneof("kind")) for name, feature in example.features.feature.items()}
        found.append({name: list(getattr(feature, kind).value) for name, (feature, kind) in kinds.items() if kind})
        position += length + 16
    return found


def checksum(content: bytes) -> bytes:
    """Of the TFRecord format: CRC-32C, masked."""
    value = 0xFFFFFFFF
    for byte in content:
        value = _CRC_TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    value ^= 0xFFFFFFFF
    return struct.pack("<I", (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC_TABLE = _crc_table()


def _damage_record(file: pathlib.Path, rng: random.Random) -> None:
    """Of one record the content, or the length; checksums are right."""
    from tensorflow.core.example import example_pb2

    content = file.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    payload, rest = content[12 : 12 + length], content[16 + length :]
    told = None
    kind = rng.random()
    if kind < 0.2:
        told = rng.choice((2**40, 2**63, 2**64 - 1, 2**31, length + 1, 0, length - 1))
    elif kind < 0.4:
        payload = damage.damage_bytes(payload, rng)
    else:
        example = example_pb2.Example.FromString(payload)
        _damage_example(example, rng)
        payload = example.SerializeToString()
    header = struct.pack("<Q", len(payload) if told is None else told)
    file.write_bytes(header + checksum(header) + payload + checksum(payload) + rest)


def _damage_example(example: Any, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(sorted(example.features.feature))
        feature = example.features.feature[name]
        kind = feature.WhichOneof("kind")
        values = getattr(feature, kind).value if kind else []
        action = rng.random()
        if action < 0.15:
            del example.features.feature[name]
        elif action < 0.3 or not values:
            feature.int64_list.value.append(rng.choice((0, 3, -1, 2**62)))
        elif kind == "int64_list":
            values[rng.randrange(len(values))] = rng.choice((0, 1, -1, 3, 25, 2**31, 2**62, -(2**62)))
        elif kind == "float_list":
            values[rng.randrange(len(values))] = rng.choice((0, -1, math.nan, math.inf, 1e30, 2.5))
        else:
            number = struct.pack("<d", rng.choice((0.0, -1.0, math.nan, math.inf, 1e300, 1e-300, 0.5)))
            values[0] = rng.choice(
                (number, b"", b"\xff\xfe", values[0][:-1], values[0] * 2, values[0] + b"\0", b"x.npy")
            )


# Exported models and checkpoints


def exported(rng: random.Random, folder: pathlib.Path) -> str:
    """A SavedModel of --saved_model. Whether it does harm cannot be checked; whether it is whole can."""
    from a2net_tf.inference import exported as exported_models

    path = damage.copy(tiny.exported("trained"), folder / "model")
    files = sorted(f for f in path.rglob("*") if f.is_file())
    file = rng.choice((*files, path / "saved_model.pb", *sorted((path / "variables").iterdir())))
    if rng.random() < 0.3 and file.parent.name == "variables":  # an older model, which has no checksums
        card = path / exported_models.MODEL_CARD
        card.write_text(json.dumps({k: v for k, v in json.loads(card.read_text()).items() if k != "sha256"}))
    if file.suffix == ".json" and rng.random() < 0.75:
        damage.write_json_text(file, damage.damage_json(file.read_text(), rng))
    else:
        damage.damage_file(file, rng, [b"something else", (path / "fingerprint.pb").read_bytes()])
    result = refused_or(lambda: exported_models.open_exported(str(path)), folder)
    if result is None:
        return REFUSED
    model, description = result
    assert description == _exported_whole()[0]
    for name, value in _reply(model).items():
        np.testing.assert_array_equal(value, _exported_whole()[1][name], err_msg=name)
    return ACCEPTED


@functools.cache
def _exported_whole() -> tuple:
    from a2net_tf.inference import exported as exported_models

    model, description = exported_models.open_exported(str(tiny.exported("trained")))
    return description, _reply(model)


def _reply(model: Any) -> dict[str, np.ndarray]:
    import tensorflow as tf

    made = np.random.default_rng(0).normal(size=(1, 70, tiny.FEATURES)).astype("f4")
    reply = model.signatures["serving_default"](
        features=tf.constant(made), num_steps=tf.constant([70]), seconds_per_step=tf.constant([0.25])
    )
    return {name: value.numpy() for name, value in reply.items()}


def torch_checkpoint(rng: random.Random, folder: pathlib.Path) -> str:
    """A file of --release_checkpoint."""
    import torch

    from a2net_tf.modes import import_release

    file = folder / "released.pt"
    good = {f"layer{i}.weight": torch.arange(6.0).reshape(2, 3) * (i + 1) for i in range(3)}
    content = dict(good)
    if rng.random() < 0.5:
        content[rng.choice(("layer1.weight", "new", 7))] = rng.choice(_odd_tensors(torch))
    zipped = rng.random() < 0.7
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    if all(content[name] is good.get(name) for name in content) or rng.random() < 0.3:
        damage.damage_file(file, rng, [b"PK\x03\x04"])
    found = refused_or(lambda: import_release.read_checkpoint(str(file)), folder)
    if found is None:
        return REFUSED
    for name, value in found.items():
        assert isinstance(name, str)
        assert value.dtype == np.float32
        assert value.nbytes < 2**20, "more numbers than the file has"
        if zipped and name in good and content[name] is good[name]:  # the older format has no checksums
            np.testing.assert_array_equal(value, good[name].numpy(), err_msg=name)
    return ACCEPTED


def _odd_tensors(torch: Any) -> list:
    return [
        torch.zeros(3, 3).to_sparse(),
        torch.zeros(3, device="meta"),
        torch.zeros(1, dtype=torch.float16).expand(2**40),
        torch.zeros(1).expand(2**33),
        torch.zeros(2, dtype=torch.complex64),
        torch.tensor([True]),
        torch.tensor(5),
        torch.ones(2, dtype=torch.bfloat16),
        torch.zeros(0, 3),
        torch.nn.Parameter(torch.full((2,), math.nan)),
        3,
        "text",
        None,
        [torch.zeros(2)],
        {"model": torch.zeros(2)},
        torch.zeros(9)[::3],
    ]


# Name: (what a case does, how often it is drawn). Those that start TensorFlow's readers take longer.
KINDS: dict[str, tuple[Callable[[random.Random, pathlib.Path], str], int]] = {
    "features": (features, 20),
    "annotations": (annotations, 12),
    "results": (results, 12),
    "thumos14": (thumos14, 12),
    "flagfile": (flagfile, 12),
    "own_folder": (own_folder, 10),
    "run": (run, 6),
    "state": (state, 3),
    "prepared": (prepared, 6),
    "exported": (exported, 2),
    "torch": (torch_checkpoint, 4),
}

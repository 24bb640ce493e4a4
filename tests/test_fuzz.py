"""A short run of the suite of damaged files, and proof that it sees what it looks for."""

import json

import numpy as np
import pytest

from a2net_tf.data.files import array_files
from a2net_tf.errors import UserError
from a2net_tf.training import run_directory
from tests import fuzz
from tests.fuzz_kinds import ACCEPTED, KINDS, REFUSED

QUICK = ("features", "annotations", "results", "thumos14", "flagfile", "own_folder")
LONG = tuple(kind for kind in KINDS if kind not in QUICK)


@pytest.mark.parametrize("kind", QUICK)
def test_many_quick_cases(slow, kind):
    found = [fuzz.run_case(seed, [kind]) for seed in range(60)]
    assert [result for result in found if result.outcome == fuzz.FAILED] == []
    assert {result.outcome for result in found} == {REFUSED, ACCEPTED}


@pytest.mark.parametrize("kind", LONG)
def test_some_long_cases(slow, kind):
    if kind == "torch":
        pytest.importorskip("torch")
    found = [fuzz.run_case(seed, [kind]) for seed in range(1 if kind == "exported" else 5)]
    assert [result for result in found if result.outcome == fuzz.FAILED] == []


def test_a_seed_says_all():
    assert [fuzz.draw_kind(seed, list(KINDS))[0] for seed in range(9)] == [
        fuzz.draw_kind(seed, list(KINDS))[0] for seed in range(9)
    ]
    kind, rng = fuzz.draw_kind(5, list(KINDS))
    same, again = fuzz.draw_kind(5, [kind])
    assert (kind, rng.random()) == (same, again.random())


def outcomes(kind, cases=40):
    results = [fuzz.run_case(seed, [kind]) for seed in range(cases)]
    return {result.outcome for result in results}, "\n".join(result.detail for result in results)


def test_wrong_numbers_are_seen(monkeypatch):
    good = array_files.map_array
    monkeypatch.setattr(array_files, "map_array", lambda file: np.asarray(good(file), np.float32) + 1)
    found, details = outcomes("features")
    assert fuzz.FAILED in found
    assert "Arrays are not equal" in details


def test_a_traceback_is_seen(monkeypatch):
    def fails(path, reading):
        raise KeyError("database")

    monkeypatch.setattr("a2net_tf.modes.score.read_annotations", fails)
    found, details = outcomes("annotations", 10)
    assert found == {fuzz.FAILED}
    assert "not expected" in details


def test_a_refusal_without_the_name_of_a_file_is_seen(monkeypatch):
    def refuses(workdir):
        raise UserError("something is wrong")

    monkeypatch.setattr(run_directory, "load", refuses)
    found, details = outcomes("run", 3)
    assert found == {fuzz.FAILED}
    assert "the message names no file" in details


def test_a_lost_file_is_seen(monkeypatch):
    def loses(path):
        path.unlink()
        raise UserError(f"{path}: bad")

    monkeypatch.setattr(array_files, "map_array", loses)
    found, details = outcomes("features")
    assert fuzz.FAILED in found
    assert "changed or gone" in details


def test_much_memory_and_time_are_seen(monkeypatch):
    monkeypatch.setattr(fuzz, "MAX_BYTES", -1.0)
    result = fuzz.run_case(0, ["features"])
    assert (result.outcome, result.detail.split("\n")[0]) == (fuzz.FAILED, "0.0 GB")
    monkeypatch.setattr(fuzz, "MAX_BYTES", 2e9)
    monkeypatch.setattr(fuzz, "MAX_SECONDS", -1.0)
    assert fuzz.run_case(0, ["features"]).outcome == fuzz.FAILED


def test_the_end_of_a_process_is_seen(slow, monkeypatch):
    """A kind that is none ends the process with an error; the next case gets a new one."""
    worker = fuzz.Worker()
    try:
        monkeypatch.setattr(fuzz, "draw_kind", lambda seed, kinds: (kinds[0], None))
        result = worker.run(1, ["no such kind"])
        assert result.outcome == fuzz.FAILED
        assert "the process ended with" in result.detail
        assert worker.run(0, ["features"]).outcome in (REFUSED, ACCEPTED)
    finally:
        worker.stop()


def test_summary():
    results = [fuzz.Result(1, "run", REFUSED, 0.5, 1e6), fuzz.Result(2, "run", ACCEPTED, 1.5, 3e6)]
    header, of_run, of_all = fuzz.summarize(results).splitlines()
    assert header.split()[:4] == ["kind", "cases", "refused", "accepted"]
    assert of_run.split() == ["run", "2", "1", "1", "0", "1.000", "1.50", "3"]
    assert of_all.split()[1:] == of_run.split()[1:]
    assert json.dumps(results[0]._asdict())

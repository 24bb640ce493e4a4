"""A recording in pieces, as it comes, gives what the whole recording gives."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import a2net_tf
from a2net_tf.detection.localizer import Localizer
from a2net_tf.errors import UserError
from a2net_tf.inference import localization, streams
from a2net_tf.inference.live import stream
from a2net_tf.inference.live.candidates import Pool
from a2net_tf.settings import config as config_module
from tests import tiny

CLASSES = ["jump", "run", "swim"]
ALSO = {"jump": "swim"}
FEATURES, WINDOW = 5, 32
STEPS = {"step_classifier": True, "step_channels": 6, "step_layers": 4, "step_stages": 2}
# The same kernels run in both ways where windows go through the network one by one.
UNLIMITED = {"max_detections": 100_000, "window_batch": 1}
SETTINGS = [
    {},
    {"inference_overlap": 0.75, "voting_tiou": 0.5},
    {"anchor_based": False, "inference_overlap": 0.0},
    {"anchor_free": False, "nms_tiou": 0.6, "min_score": 0.02},
    {**STEPS, "inference_overlap": 0.7},
    {**STEPS, "voting_tiou": 0.6, "step_exponent": 0.5, "classes_per_candidate": 2},
    {"inference_window_steps": 64, "anchor_based_lambda": 0.3},
]
LENGTHS = [(1, 31, 470), (32, 33, 520), (7, 64, 410)]


def make_localizer(make_config, make_network, **changes):
    config = make_config(**{**UNLIMITED, **changes})
    return Localizer(make_network(config, FEATURES, len(CLASSES)), config, CLASSES, 0.25, also_reported=ALSO)


def random_walk(num_steps, seed):
    random = np.random.default_rng(seed)
    return (random.normal(size=(num_steps, FEATURES)).cumsum(axis=0) * 0.3).astype(np.float32)


def whole(localizer, features):
    """Detections of the whole recording as (score, start, end, label)."""
    base = {"num_features": FEATURES, "seconds_per_step": 0.5, "first_step_seconds": 0.25}
    (found,) = localization.localize(localizer, localization.array_records("a", features, "a", **base))
    table = found.merged
    names = [CLASSES[label] for label in table.labels]
    return sorted(zip(table.scores.tolist(), *table.segments.T.tolist(), names, strict=True))


def streamed(open_stream, features, pieces):
    """The same of a stream that is given pieces of random lengths."""
    found, begin = [], 0
    while begin < len(features):
        end = begin + int(pieces.choice([1, 2, 11, 40, 150]))
        found += open_stream.push(features[begin:end])
        begin = end
    found += open_stream.close()
    return sorted((row.score, row.start_seconds, row.end_seconds, row.label) for row in found)


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    assert [row[3] for row in found] == [row[3] for row in expected]
    np.testing.assert_allclose([row[:3] for row in found], [row[:3] for row in expected], rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_a_stream_finds_what_is_found_in_the_whole(number, make_config, make_network):
    """21 recordings, among them some that are shorter than a window, as long, and a step longer."""
    localizer = make_localizer(make_config, make_network, **SETTINGS[number])
    model = streams.of_localizer(localizer, 0.5, ALSO)
    for i, length in enumerate(LENGTHS[number % 3]):
        features = random_walk(length, seed=10 * number + i)
        opened = streams.LiveStream(model)
        found = streamed(opened, features, np.random.default_rng(i))
        assert opened.unsure == 0
        assert_same(found, whole(localizer, features))


def test_latency(make_config, make_network):
    """Most come two windows after their end, all within the bound; with less reach sooner."""
    model = streams.of_localizer(make_localizer(make_config, make_network), 0.5, {})
    features, medians = random_walk(600, seed=3), []
    for reach in (None, 0):
        opened = streams.LiveStream(model, reach_steps=reach)
        delays = []
        for i, vector in enumerate(features):
            delays += [i + 1 - (row.end_seconds - 0.25) / 0.5 for row in opened.push(vector)]
        assert len(delays) > 100
        assert max(delays) <= opened.latency_steps + 1 == opened.latency_seconds / 0.5 + 1
        medians.append(np.median(delays))
    assert medians[0] == pytest.approx(2 * WINDOW, abs=WINDOW / 2)
    assert medians[1] == pytest.approx(WINDOW, abs=WINDOW / 2)


def test_memory_does_not_grow_with_the_recording(make_config, make_network):
    model = streams.of_localizer(make_localizer(make_config, make_network, **STEPS, voting_tiou=0.5), 0.5, {})
    opened, sizes = streams.LiveStream(model), []
    for part in np.split(np.random.default_rng(0).normal(size=(1600, FEATURES)), 16):
        opened.push(part)
        sizes.append((len(opened._pool._rows), len(opened._features), len(opened._steps._sums)))
    rows, features, sums = np.transpose(sizes)
    assert rows[8:].max() < 1.5 * rows[4:8].max()
    assert features.max() == WINDOW
    assert sums.max() < 8 * WINDOW


# --- what no stream can know


def pool(latency_steps=100, **changes):
    settings = {"nms_tiou": 0.2, "voting_tiou": 0.0, "min_score": 0.0, "step_exponent": 1.0, **changes}
    return Pool(settings, window_steps=10, reach_steps=10, latency_steps=latency_steps)


def add(candidates, *rows):
    for start, end, score in rows:
        segments, scores = np.float32([[start, end]]), np.float32([score])
        candidates.add(segments, scores, np.zeros(1, np.int32), int(start))


def settle(candidates, num_steps, closed=False):
    told, _ = candidates.settle(num_steps, max(num_steps - 10, 0), None, closed)
    return told["start"].tolist()


def test_a_chain_is_decided_when_the_bound_is_reached():
    """Each overlaps the next, better one, so that only the last decides; this one never comes."""
    candidates, found = pool(latency_steps=40), []
    for i in range(60):
        add(candidates, (6 * i, 6 * i + 10, 0.01 * (i + 1)))
        found += settle(candidates, 6 * i + 10)
    assert candidates.unsure > 0
    assert len(found) > 15
    patient = pool(latency_steps=10_000)
    for i in range(60):
        add(patient, (6 * i, 6 * i + 10, 0.01 * (i + 1)))
        assert settle(patient, 6 * i + 10) == []
    assert settle(patient, 364, closed=True) == [6.0 * i for i in range(1, 60, 2)]
    assert patient.unsure == 0


def test_a_candidate_that_begins_long_before_its_window_is_counted():
    candidates = pool()
    add(candidates, (0, 8, 0.5))
    assert settle(candidates, 30) == [0.0]
    assert candidates.unsure == 0
    candidates.add(np.float32([[1, 9]]), np.float32([0.9]), np.zeros(1, np.int32), 20)
    settle(candidates, 30)
    assert candidates.unsure == 1


def test_a_candidate_waits_for_what_may_still_come_and_for_better_ones():
    candidates = pool(nms_tiou=0.25)
    add(candidates, (0, 8, 0.5), (6, 14, 0.6))
    assert settle(candidates, 25) == []  # a window from step 15 may bring a candidate from step 5, which overlaps
    assert settle(candidates, 26) == [0.0]  # one from step 6 shares a quarter of it at most, as does the better one
    add(candidates, (9, 15, 0.7))
    assert settle(candidates, 33) == []
    assert settle(candidates, 34) == [9.0]
    assert settle(candidates, 100, closed=True) == []


# --- in a run and in an exported model


def detector(model, **changes):
    return a2net_tf.load(model, **changes)


def rows_of(found):
    return sorted((row.score, row.start_seconds, row.end_seconds, row.label) for row in found)


def toy_recordings(count):
    random = np.random.default_rng(0)
    lengths = random.integers(40, 400, count)
    return [random.normal(size=(n, tiny.FEATURES)).cumsum(axis=0).astype(np.float32) * 0.2 for n in lengths]


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny.trained, tiny.modern, tiny.two_stages])
def test_trained_runs(make):
    run = detector(make(), **UNLIMITED)
    usual = detector(make(), window_batch=1)
    for i, features in enumerate(toy_recordings(7)):
        opened = run.stream(0.5)
        found = streamed(opened, features, np.random.default_rng(i))
        assert opened.unsure == 0
        assert_same(found, rows_of(run.detect(features, seconds_per_step=0.5)))
        # The limit of a whole recording keeps the best of them.
        limited = usual.stream(0.5)
        best = streamed(limited, features, np.random.default_rng(i))[-limited.most_detections :]
        assert_same(best, rows_of(usual.detect(features, seconds_per_step=0.5)))


@pytest.fixture(scope="module")
def exported(slow):
    return tiny.exported("trained")


def test_exported_model(exported):
    model, run = detector(exported), detector(tiny.trained())
    for i, features in enumerate(toy_recordings(3)):
        found = streamed(model.stream(), features, np.random.default_rng(i))
        assert_same(found, streamed(run.stream(), features, np.random.default_rng(i)))


def test_the_folder_works_alone(exported, tmp_path):
    """Copied to another place it needs numpy and TensorFlow."""
    shutil.copytree(tiny.REPO / "a2net_tf/inference/live", tmp_path / "live")
    features = toy_recordings(1)[0]
    lines = "\n".join(",".join(map(repr, map(float, row))) for row in features)
    command = [sys.executable, "-m", "live", str(exported), "--seconds_per_step=0.5"]
    done = subprocess.run(command, input=lines, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    found = sorted((row["score"], row["start_seconds"], row["end_seconds"], row["label"]) for row in found)
    expected = streamed(detector(tiny.trained()).stream(0.5), features, np.random.default_rng(0))
    assert_same(found, expected)


def test_the_folder_alone_names_a_mistake(exported, tmp_path):
    shutil.copytree(tiny.REPO / "a2net_tf/inference/live", tmp_path / "live")
    command = [sys.executable, "-m", "live", str(exported)]
    done = subprocess.run(command, input="1,2,3\n", cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == "error: features: expected numbers [steps, 16], found shape [1, 3] of float32"
    )


# --- mistakes


@pytest.fixture(scope="module")
def model(make_config, make_network):
    return streams.of_localizer(make_localizer(make_config, make_network), 0.5, {})


def test_soft_suppression_is_refused(make_config, make_network):
    soft = streams.of_localizer(make_localizer(make_config, make_network, soft_nms_sigma=0.5), 0.5, {})
    with pytest.raises(UserError, match=r"--soft_nms_sigma=0.5: .* nothing could be told before the end"):
        streams.LiveStream(soft)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds_per_step": 0}, "seconds_per_step=0: must be > 0"),
        ({"reach_steps": -1}, "reach_steps=-1"),
        ({"latency_steps": 63}, "reach_steps=32, latency_steps=63: .* a window of 32 steps"),
    ],
)
def test_refused_arguments(model, arguments, message):
    with pytest.raises(UserError, match=message):
        streams.LiveStream(model, **arguments)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((3, 4)), "features: 4 values per step but 5 are expected"),
        (np.zeros((5, 3)), "is the matrix transposed"),
        (np.zeros((1, 3, 5)), "expected a number matrix"),
        (np.full((2, 5), np.nan), "2 steps hold NaN or infinite values, the first is step 40"),
    ],
)
def test_refused_features(model, features, message):
    opened = streams.LiveStream(model)
    opened.push(np.zeros((40, 5)))
    with pytest.raises(UserError, match=message):
        opened.push(features)
    assert opened.num_steps == 40


def test_closed(model):
    opened = streams.LiveStream(model)
    assert opened.close() == []
    assert opened.close() == []
    with pytest.raises(UserError, match="the stream is closed"):
        opened.push(np.zeros(5))


def test_constants_are_those_of_the_settings():
    assert stream.DETECTIONS_PER_WINDOW == config_module.DETECTIONS_PER_WINDOW
    assert stream.LEAST_DETECTIONS == config_module.LEAST_DETECTIONS

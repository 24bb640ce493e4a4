import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.data import schema
from a2net_tf.detection import pyramid
from a2net_tf.detection.localizer import Localizer
from a2net_tf.detection.model import build_model
from a2net_tf.detection.postprocess import Candidates
from a2net_tf.errors import UserError
from a2net_tf.inference import localization
from a2net_tf.settings import Config

NUM_FEATURES = 5
CLASS_NAMES = ("jump", "run", "sit")


@pytest.fixture(scope="module")
def make_localizer(make_config, make_network):
    """A Localizer with 128-step windows; ``make.config`` tells its settings."""

    def make(first_step_seconds=0.0, **changes):
        config = make_config(**{"window_steps": 128, "num_levels": 3, **changes})
        return Localizer(make_network(config, NUM_FEATURES, len(CLASS_NAMES)), config, CLASS_NAMES, first_step_seconds)

    return make


@pytest.fixture(scope="module")
def localizer(make_localizer):
    return make_localizer()


def random_features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, NUM_FEATURES)).astype(np.float32)


def detections_of(localizer, features, num_steps=None, seconds_per_step=None):
    """All outputs as numpy, for sequences f32[B, T, D]."""
    num_steps = [features.shape[1]] * len(features) if num_steps is None else num_steps
    seconds_per_step = [1.0] * len(features) if seconds_per_step is None else seconds_per_step
    found = localizer(
        tf.constant(features), tf.constant(num_steps, tf.int32), tf.constant(seconds_per_step, tf.float32)
    )
    return {name: value.numpy() for name, value in found.items()}


def assert_same(found, expected, atol=1e-5):
    for name in expected:
        if expected[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


# --- against a slow loop over windows


def softmax(x):
    exponent = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponent / exponent.sum(axis=-1, keepdims=True)


def slow_best_classes(logits, config):
    """(probability, class) of the best classes, and the probability of background."""
    probability = 1 / (1 + np.exp(-logits)) if config.class_scores == "sigmoid" else softmax(logits)
    background = 0 if config.class_scores == "sigmoid" else probability[0]
    action = probability if config.class_scores == "sigmoid" else probability[1:]
    order = np.argsort(-action, kind="stable")[: config.classes_per_candidate]
    return [(action[name], name) for name in order], background


def slow_window_candidates(outputs, config, branch):
    """(score, start, end, class) of each candidate of one window, in fractions of the window."""
    rows, num_units = [], config.inference_steps // 2
    weight = config.anchor_based_lambda
    merge = {
        "anchor_free": (1, 0),
        "anchor_based": (0, 1),
        "both": np.array([1 - weight, weight]) / max(weight, 1 - weight),
    }
    cell = 0
    for level in range(config.num_levels):
        stride = 2**level
        for j in range(num_units // stride):
            center = stride // 2 + j * stride
            if config.anchor_free:
                best, _ = slow_best_classes(outputs["anchor_free_logits"][cell], config)
                to_start, to_end = outputs["anchor_free_distances"][cell]
                segment = (center - to_start) / num_units, (center + to_end) / num_units
                rows += [(action * merge[branch][0], *segment, name) for action, name in best]
            for r, ratio in enumerate(config.anchor_ratios) if config.anchor_based else ():
                anchor = cell * len(config.anchor_ratios) + r
                best, background = slow_best_classes(outputs["anchor_logits"][anchor], config)
                delta_center, delta_width = outputs["anchor_offsets"][anchor]
                width = ratio * stride / num_units
                middle = (j + 0.5) * stride / num_units + config.center_scale * width * delta_center
                width *= np.exp(config.width_scale * delta_width)
                overlap = outputs["anchor_overlap"][anchor]
                overlap = 1 / (1 + np.exp(-overlap)) if config.overlap_score == "sigmoid" else min(max(overlap, 0), 1)
                kept = background < config.max_background or config.max_background == 1
                segment = middle - width / 2, middle + width / 2
                rows += [(overlap * action * merge[branch][1] * kept, *segment, name) for action, name in best]
            cell += 1
    return rows


def slow_detections(localizer, features, *, seconds_per_step=1.0, branch=None):
    """(score, start, end, class) of one sequence [T, D], best first, in seconds."""
    config, branch = localizer.config, branch or localizer.branches[-1]
    total, size = len(features), config.inference_steps
    last = max(total - size, 0)
    windows = {}
    for start in sorted({*range(0, last, config.inference_stride_steps), last}):
        steps = [min(start + i, total - 1) for i in range(size)]
        outputs = localizer.members[0].networks[0](features[steps][None], training=False)
        windows[start] = {name: value.numpy()[0].astype(np.float64) for name, value in outputs.items()}
    candidates = []
    for start, outputs in windows.items():
        for score, low, high, name in slow_window_candidates(outputs, config, branch):
            low, high = (min(max(start + x * size, 0), total) for x in (low, high))
            if config.step_classifier and high > low:
                score *= slow_step_mean(windows, low, high, name, total) ** config.step_exponent
            if high > low and score > config.min_score:
                candidates.append((score, low, high, name))
    return slow_suppress(candidates, config, seconds_per_step, localizer.first_step_seconds)


def slow_step_mean(windows, low, high, name, total):
    """Mean over [low, high) of the probability of a class, itself the mean over windows side by side and the last."""
    mean = 0
    size = next(iter(windows.values()))["step_logits"].shape[1]
    stride = min((start for start in windows if start), default=size)
    asked = {start for start in windows if start % (size // stride * stride) == 0 or start == max(windows)}
    for step in range(int(low), min(int(np.ceil(high)), total)):
        seen = [
            softmax(outputs["step_logits"][-1, step - start])[1 + name]
            for start, outputs in windows.items()
            if start in asked and 0 <= step - start < size
        ]
        mean += np.mean(seen) * (min(high, step + 1) - max(low, step)) / (high - low)
    return mean


def slow_suppress(candidates, config, seconds_per_step, first_step_seconds):
    kept = []
    for score, low, high, name in sorted(candidates, reverse=True):
        for other in kept:
            if name == other[3] and slow_tiou((low, high), other[1:3]) > config.nms_tiou:
                break
        else:
            kept.append((score, low, high, name))
        if len(kept) == config.max_detections:
            break
    if config.voting_tiou > 0:
        kept = [(row[0], *slow_vote(row, candidates, config.voting_tiou), row[3]) for row in kept]
    return [(s, *(first_step_seconds + t * seconds_per_step for t in (low, high)), n) for s, low, high, n in kept]


def slow_tiou(one, other):
    both = max(0, min(one[1], other[1]) - max(one[0], other[0]))
    return both / (one[1] - one[0] + other[1] - other[0] - both)


def slow_vote(kept, candidates, tiou):
    voters = [c for c in candidates if c[3] == kept[3] and slow_tiou(kept[1:3], c[1:3]) >= tiou]
    return np.average([c[1:3] for c in voters], axis=0, weights=[c[0] for c in voters])


def as_rows(found):
    """What ``slow_detections`` gives, of the first sequence."""
    count = found["num_detections"][0]
    return np.column_stack([found[name][0, :count] for name in ("scores", "segments", "class_ids")])


@pytest.mark.parametrize("num_steps", [1, 2, 127, 128, 129, 192, 300])
def test_equals_a_slow_loop(num_steps, localizer):
    features = random_features(num_steps, seed=num_steps)
    found = detections_of(localizer, features[None], seconds_per_step=[0.4])
    expected = slow_detections(localizer, features, seconds_per_step=0.4)
    assert len(expected) > 1
    np.testing.assert_allclose(as_rows(found), expected, rtol=1e-4, atol=1e-4)
    assert found["segments"].min() >= 0
    assert found["segments"].max() <= num_steps * 0.4 + 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"overlap_score": "sigmoid"},
        {"max_background": 0.3},
        {"max_background": 1.0},
        {"anchor_based_lambda": 0.3},
        {"anchor_free": False},
        {"anchor_based": False},
        {"min_score": 0.4, "max_detections": 200, "nms_tiou": 0.5},
        {"window_steps": 32, "num_levels": 3, "inference_overlap": 0.1, "first_step_seconds": -2.5},
        {"classes_per_candidate": 2, "anchor_based_lambda": 0.3},
        {"classes_per_candidate": 3, "anchor_free": False, "max_background": 0.3},
        {"voting_tiou": 0.5, "anchor_based_lambda": 0.3, "first_step_seconds": -2.5},
        {"voting_tiou": 0.2, "min_score": 0.3, "nms_tiou": 0.5, "anchor_based": False},
        {"class_scores": "sigmoid", "max_background": 0.3},
        {"class_scores": "sigmoid", "classes_per_candidate": 2, "voting_tiou": 0.4, "overlap_score": "sigmoid"},
    ],
)
def test_settings_equal_a_slow_loop(changes, make_localizer):
    localizer = make_localizer(**changes)
    features = random_features(200)
    expected = slow_detections(localizer, features)
    assert len(expected) > 3
    np.testing.assert_allclose(as_rows(detections_of(localizer, features[None])), expected, rtol=1e-4, atol=1e-4)


STEPS = {"step_classifier": True, "step_channels": 6, "step_layers": 5, "step_stages": 2, "classes_per_candidate": 2}


@pytest.mark.parametrize(
    ("num_steps", "changes"),
    [
        (200, {}),
        (50, {}),
        (300, {"step_exponent": 0.5, "inference_overlap": 0.75, "voting_tiou": 0.5}),
        (200, {"anchor_based": False, "step_exponent": 2.0}),
        (200, {"anchor_free": False, "class_scores": "sigmoid", "window_batch": 1}),
    ],
)
def test_the_classes_of_steps_equal_a_slow_loop(num_steps, changes, make_localizer):
    localizer = make_localizer(**{**STEPS, "window_steps": 64, "num_levels": 3, "max_detections": 12, **changes})
    features = random_features(num_steps)
    expected = slow_detections(localizer, features)
    assert len(expected) > 3
    np.testing.assert_allclose(as_rows(detections_of(localizer, features[None])), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("num_steps", "max_steps"), [(700, 256), (700, 160), (300, 193)])
def test_chunks_score_the_classes_of_steps_as_the_whole_does(num_steps, max_steps, make_localizer):
    localizer = make_localizer(**STEPS, voting_tiou=0.5)
    record = sequence_of(num_steps)
    (expected,) = localization.localize(localizer, [record], localizer.reported())
    chunks = chunks_of(record, max_steps)
    for order in (chunks, chunks[::-1]):
        (found,) = localization.localize(localizer, order, localizer.reported())
        assert_same_found(found, expected)
    whole = detections_of(localizer, record["features"][None], seconds_per_step=[0.5])
    np.testing.assert_allclose(whole["scores"][0], expected.merged.scores, atol=1e-5)


def test_candidates_are_scored_in_slices(make_localizer, monkeypatch):
    features = random_features(2, 300)
    expected = detections_of(make_localizer(**STEPS), features, [300, 170])
    monkeypatch.setattr("a2net_tf.detection.merging._SCORED_AT_ONCE", 100)
    assert_same(detections_of(make_localizer(**STEPS), features, [300, 170]), expected)
    single = detections_of(make_localizer(**STEPS), features[1:, :170])
    assert_same(single, {name: value[1:] for name, value in expected.items()})


def test_an_exponent_of_0_leaves_the_scores_alone(make_localizer):
    with_steps = make_localizer(**STEPS, step_exponent=0.0)
    network, features = with_steps.members[0].networks[0], random_features(1, 200)
    config = dataclasses.replace(with_steps.config, step_classifier=False)
    assert_same(detections_of(with_steps, features), detections_of(Localizer(network, config, CLASS_NAMES), features))


def test_networks_merge_the_classes_of_steps_of_those_that_have_them(make_config, make_network):
    """A network beside one without the branch: its probabilities score the candidates of both."""
    configs = [make_config(window_steps=64, **settings) for settings in (STEPS, {"classes_per_candidate": 2})]
    networks = [make_network(config, NUM_FEATURES, 3) for config in configs]
    (first, config), (second, other) = zip(networks, configs, strict=True)
    localizer = Localizer(first, config, CLASS_NAMES, others=[(second, other)])
    _, steps = localizer.predict(random_features(3, 64))
    _, expected = Localizer(first, config, CLASS_NAMES).predict(random_features(3, 64))
    np.testing.assert_array_equal(steps, expected)
    twice = Localizer(first, config, CLASS_NAMES, others=[(first, config)])
    np.testing.assert_allclose(twice.predict(random_features(3, 64))[1], expected, rtol=1e-6)
    assert len(detections_of(localizer, random_features(1, 100))["scores"][0]) > 3


@pytest.mark.slow
@pytest.mark.parametrize("branch", ["anchor_free", "anchor_based", "both"])
def test_each_branch_equals_a_slow_loop(branch, localizer):
    features = random_features(200)
    record = schema.make_record("v", features, (), (), num_classes=3, feature_stride_seconds=0.5)
    (found,) = localization.localize(localizer, [record], {branch: localizer.reported()[branch]})
    assert set(found.detections) == {branch}
    table = found.detections[branch]
    expected = slow_detections(localizer, features, seconds_per_step=0.5, branch=branch)
    np.testing.assert_allclose(
        np.column_stack([table.scores, table.segments, table.labels]), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("num_steps", [40, 256, 300])
def test_longer_windows_equal_a_slow_loop(num_steps, overlap, make_localizer):
    changes = {"classes_per_candidate": 2, "voting_tiou": 0.5} if overlap == 0.75 else {}
    localizer = make_localizer(window_steps=64, inference_window_steps=128, inference_overlap=overlap, **changes)
    features = random_features(num_steps)
    expected = slow_detections(localizer, features)
    assert len(expected) > 3
    np.testing.assert_allclose(as_rows(detections_of(localizer, features[None])), expected, rtol=1e-4, atol=1e-4)


def candidates_in_steps(localizer, features, start):
    """{(level, ratio, centre in steps): [score, start and end in steps, class]} of one window at ``start``."""
    config = localizer.config
    steps, ratios = config.inference_steps, config.anchor_ratios
    found = localizer.window_candidates(features[None, start : start + steps])
    levels = pyramid.cell_levels(steps, config.num_levels)
    cells = [(*pair, None) for pair in zip(levels, 2 * pyramid.cell_centers(steps, config.num_levels), strict=True)]
    centers = steps * pyramid.default_anchors(steps, config.num_levels, ratios)[:, 0]
    anchors = zip(np.repeat(levels, len(ratios)), centers, np.tile(ratios, len(levels)), strict=True)
    rows = np.column_stack([found.scores[0], start + steps * found.segments[0].numpy(), found.class_ids[0]])
    keys = [(int(level), ratio, start + round(float(center))) for level, center, ratio in (*cells, *anchors)]
    return dict(zip(keys, rows, strict=True))


def test_longer_windows_find_the_same_far_from_borders(make_localizer):
    """With two levels, what is predicted in a cell depends on 42 steps, at most 22 from its centre.

    The head's three convolutions see 7 cells of the second level, 13 grid units from first to last centre; each of the
    pyramid's two adds a unit at both ends: 17 units or 34 steps. The convolution of 9 steps adds 4 at both ends.

    So cells with a centre at least 22 steps from both borders of a window of 64 predict the same in a window of 256.
    """
    settings = {"window_steps": 64, "num_levels": 2}
    short, long = (make_localizer(**settings, inference_window_steps=steps) for steps in (0, 256))
    features = random_features(256)
    expected, compared = candidates_in_steps(long, features, 0), 0
    for start in range(0, 256 - 64 + 1, 16):
        for key, row in candidates_in_steps(short, features, start).items():
            if 22 <= key[2] - start <= 64 - 22:
                np.testing.assert_allclose(row, expected[key], rtol=1e-4, atol=1e-4)
                compared += 1
    assert compared > 13 * 20
    near = candidates_in_steps(short, features, 64)[(1, None, 66)]
    assert not np.allclose(near, expected[(1, None, 66)], atol=1e-3)  # beyond the border there is nothing to see


# --- what must not matter


def test_padded_batch_equals_single_sequences(localizer):
    lengths = [300, 1, 129, 40]
    features = random_features(4, 300)
    found = detections_of(localizer, features, lengths, [0.5, 1.0, 2.0, 0.1])
    for b, n in enumerate(lengths):
        alone = detections_of(localizer, features[b : b + 1, :n], seconds_per_step=[[0.5, 1.0, 2.0, 0.1][b]])
        assert_same({name: value[b : b + 1] for name, value in found.items()}, alone)


@pytest.mark.parametrize("changes", [{}, {"soft_nms_sigma": 0.5}, {"voting_tiou": 0.5}])
def test_the_number_of_detections_grows_with_the_sequence(changes, make_localizer):
    """100 for every length of a training window, at least 200; of each sequence in a batch by itself."""
    localizer = make_localizer(max_detections=0, nms_tiou=0.99, inference_window_steps=256, **changes)
    lengths = [200, 256, 300, 700]
    padded = random_features(4, 700)
    together = detections_of(localizer, padded, num_steps=lengths)
    assert together["num_detections"].tolist() == [200, 200, 235, 547]
    assert [localizer.config.most_detections(n) for n in lengths] == [200, 200, 235, 547]
    assert localizer.most_detections(tf.constant(lengths)).numpy().tolist() == [200, 200, 235, 547]
    for i, length in enumerate(lengths):
        alone = detections_of(localizer, padded[i : i + 1, :length])
        count = alone["num_detections"][0]
        assert_same(
            {k: v[i, ...] if k == "num_detections" else v[i, :count] for k, v in together.items()},
            {k: v[0, ...] if k == "num_detections" else v[0, :count] for k, v in alone.items()},
            atol=1e-3,
        )
        assert not together["scores"][i, count:].any()
        assert not together["segments"][i, count:].any()


def test_implied_classes_count_among_those_that_are_kept(make_config, make_network):
    config = make_config(window_steps=128, max_detections=0, nms_tiou=0.99)
    network = make_network(config, NUM_FEATURES, len(CLASS_NAMES))
    localizer = Localizer(network, config, CLASS_NAMES, also_reported={name: "jump" for name in ("run", "sit")})
    found = detections_of(localizer, random_features(2, 600), num_steps=[100, 600])
    assert found["num_detections"].tolist() == [200, 469]
    assert found["labels"][0, 199] != b""
    assert set(found["labels"][0, 200:]) == {b""}


def test_what_lies_beyond_the_end_does_not_matter(localizer):
    features = random_features(2, 300)
    padded = np.where(np.arange(300)[:, None] < [[[300]], [[77]]], features, np.nan)
    found = detections_of(localizer, padded, [300, 77])
    assert_same(found, detections_of(localizer, features, [300, 77]))


@pytest.mark.slow
@pytest.mark.parametrize("longer", [{}, {"inference_window_steps": 256}])
@pytest.mark.parametrize("window_batch", [1, 2, 5])
def test_window_batch_does_not_matter(window_batch, longer, make_localizer):
    features = random_features(2, 600)
    found = detections_of(make_localizer(window_batch=window_batch, **longer), features, [600, 200])
    assert_same(found, detections_of(make_localizer(**longer), features, [600, 200]))


def test_a_graph_changes_nothing(localizer, serve):
    features = random_features(2, 200)
    found = {k: v.numpy() for k, v in serve(features, np.int32([200, 90]), np.float32([1, 1])).items()}
    assert_same(found, detections_of(localizer, features, [200, 90]))
    assert {name: value.shape[1:] for name, value in found.items()} == {
        "segments": (20, 2),
        "scores": (20,),
        "class_ids": (20,),
        "labels": (20,),
        "num_detections": (),
    }


def test_labels_name_the_classes_and_padding_is_empty(make_localizer):
    localizer = make_localizer(min_score=0.3, max_detections=200)
    found = detections_of(localizer, random_features(2, 200), [200, 60])
    for b, count in enumerate(found["num_detections"]):
        assert 0 < count < 200
        names = [CLASS_NAMES[i].encode() for i in found["class_ids"][b, :count]]
        assert found["labels"][b, :count].tolist() == names
        assert set(found["labels"][b, count:]) == {b""}
        assert not found["segments"][b, count:].any()  # 0, and not the time of the first step


def test_padding_is_zero_although_the_first_step_is_not(make_localizer):
    found = detections_of(
        make_localizer(first_step_seconds=7.0, min_score=0.5, max_detections=200), random_features(1, 150)
    )
    count = found["num_detections"][0]
    assert (found["segments"][0, :count] >= 7).all()
    assert not found["segments"][0, count:].any()


# --- chunks


def sequence_of(num_steps, name="v", **kwargs):
    settings = {"num_classes": 3, "feature_stride_seconds": 0.5, "first_step_seconds": 0.25, **kwargs}
    return schema.make_record(name, random_features(num_steps, seed=num_steps), (), (), **settings)


def chunks_of(record, max_steps):
    return [chunk for _, chunk in schema.split_into_chunks(record, max_steps=max_steps, overlap_steps=128)]


def assert_same_found(found, expected):
    assert found.video == expected.video
    assert found.duration_seconds == expected.duration_seconds
    assert set(found.detections) == set(expected.detections)
    for branch, table in found.detections.items():
        assert_same(vars(table), vars(expected.detections[branch]), atol=1e-4)


@pytest.mark.parametrize(
    ("num_steps", "max_steps"),
    [
        (700, 256),
        (700, 193),  # 65 owned steps
        (129, 128 + 1),
        (700, 160),  # 32 owned steps: some chunks own no window at all
    ],
)
def test_chunks_give_what_the_whole_gives(num_steps, max_steps, localizer):
    record = sequence_of(num_steps)
    chunks = chunks_of(record, max_steps)
    (expected,) = localization.localize(localizer, [record], localizer.reported())
    for order in (chunks, chunks[::-1]):
        (found,) = localization.localize(localizer, order, localizer.reported())
        assert_same_found(found, expected)


def test_chunks_of_several_sequences_may_come_mixed(localizer):
    first, second = sequence_of(400, "first"), sequence_of(300, "second")
    a, b = chunks_of(first, 256), chunks_of(second, 256)
    assert len(a) == 3
    assert len(b) == 2
    mixed = [a[2], b[1], a[0], b[0], a[1]]
    found = list(localization.localize(localizer, mixed))
    assert [f.video for f in found] == ["second", "first"]
    for f, record in zip(found, (second, first), strict=True):
        assert_same_found(f, next(localization.localize(localizer, [record])))


def test_a_missing_chunk_is_an_error(localizer):
    with pytest.raises(UserError, match="v: chunks are missing"):
        list(localization.localize(localizer, chunks_of(sequence_of(400), 256)[:-1]))


# --- time base


@pytest.mark.parametrize(("seconds_per_step", "first_step_seconds"), [(0.4, 0.0), (4 / 30, 0.2), (2.0, -1.5)])
def test_seconds_are_steps_times_the_time_base(seconds_per_step, first_step_seconds, localizer, make_localizer):
    features = random_features(1, 200)
    steps = detections_of(localizer, features)
    found = detections_of(make_localizer(first_step_seconds), features, seconds_per_step=[seconds_per_step])
    count = steps["num_detections"][0]
    assert found["num_detections"][0] == count
    expected = first_step_seconds + steps["segments"][:, :count] * seconds_per_step
    np.testing.assert_allclose(found["segments"][:, :count], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["scores"], steps["scores"])


def test_records_bring_their_own_time_base(localizer, make_localizer):
    record = sequence_of(200, feature_stride_seconds=0.4, first_step_seconds=3.0)
    (found,) = localization.localize(make_localizer(first_step_seconds=99.0), [record])
    expected = detections_of(localizer, record["features"][None])
    np.testing.assert_allclose(
        found.detections["both"].segments, 3 + 0.4 * expected["segments"][0, : expected["num_detections"][0]], rtol=1e-5
    )


# --- merge weights


@pytest.mark.parametrize(
    ("weight", "free", "based"), [(0.0, 1, 0), (0.25, 1, 1 / 3), (0.5, 1, 1), (0.8, 0.25, 1), (1.0, 0, 1)]
)
def test_merge_weights_by_hand(weight, free, based, make_localizer):
    localizer = make_localizer(window_steps=4, num_levels=2, anchor_ratios=(0.5, 1.0), anchor_based_lambda=weight)
    segments = np.tile(np.float32([1, 2]), (2, 18, 1))  # two windows of 3 cells and 6 anchors each
    segments[1, 0] = [2, 2]
    segments[1, 9] = [2, 1]
    expected = np.tile(np.repeat([free, based], [3, 6]), (2, 2)) * 0.5
    expected[1, [0, 9]] = 0
    found = localizer.merged_scores(
        tf.fill((2, 18), 0.5),
        tf.constant(segments),
        branch="both",
        anchor_based_lambda=tf.constant(localizer.config.anchor_based_lambda),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "branch"), [(0.0, "anchor_free"), (1.0, "anchor_based")])
def test_extreme_merge_weights_leave_one_branch(weight, branch, make_localizer):
    localizer = make_localizer(anchor_based_lambda=weight)
    (found,) = localization.localize(
        localizer, [sequence_of(200)], {name: localizer.reported()[name] for name in (branch, "both")}
    )
    assert_same(vars(found.detections["both"]), vars(found.detections[branch]))
    assert len(found.detections["both"].scores) > 3


def test_late_fusion_decodes_the_average_of_the_outputs(make_config):
    """With both last layers linear, the average of the outputs is the output of averaged last layers."""
    config = make_config(window_steps=128, num_levels=6, fusion="outputs")
    keras.utils.set_random_seed(5)
    first = build_model(config, NUM_FEATURES, 3)
    second, middle = (build_model(config, NUM_FEATURES, 3) for _ in range(2))
    for a, b, c in zip(first.weights, second.weights, middle.weights, strict=True):
        is_last = "predict" in a.path
        b.assign(a + 0.3 * np.random.default_rng(0).normal(size=a.shape) if is_last else a)
        c.assign((a + b) / 2)
    fused = Localizer(first, config, CLASS_NAMES, others=[(second, config)])
    expected = Localizer(middle, config, CLASS_NAMES)
    features = random_features(1, 200)
    assert_same(detections_of(fused, features), detections_of(expected, features))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["anchor_free", "anchor_based"])
def test_one_head_alone(head, make_localizer):
    other = {"anchor_free": "anchor_based", "anchor_based": "anchor_free"}[head]
    localizer = make_localizer(**{other: False})
    assert localizer.branches == (head,)
    assert set(localizer.detect) == {head}
    # The merge weight of the only head is 1 whatever lambda says.
    features = random_features(1, 150)
    for weight in (0.0, 1.0):
        changed = make_localizer(**{other: False, "anchor_based_lambda": weight})
        assert_same(detections_of(changed, features), detections_of(localizer, features))


def test_merge_weights_of_several_classes_by_hand(make_localizer):
    """One weight per head, repeated for each class of a candidate."""
    settings = {"window_steps": 4, "num_levels": 2, "anchor_ratios": (0.5, 1.0), "anchor_based_lambda": 0.8}
    localizer = make_localizer(**settings, classes_per_candidate=2)
    segments = tf.tile(tf.constant([[1.0, 2.0]]), (2 * 18, 1))[None]  # two windows of 3 cells and 6 anchors each
    arguments = {"branch": "both", "anchor_based_lambda": tf.constant(0.8)}
    found = localizer.merged_scores(tf.fill((1, 2 * 18), 0.5), segments, **arguments)
    np.testing.assert_allclose(found, np.tile(np.repeat([[0.125, 0.5]], [6, 12], axis=1), 2), rtol=1e-6)


def test_networks_of_one_localizer_may_differ_in_classes_per_candidate(make_config, make_network):
    configs = [make_config(classes_per_candidate=k) for k in (1, 3)]
    networks = [make_network(config, NUM_FEATURES, 3) for config in configs]
    localizer = Localizer(networks[0], configs[0], CLASS_NAMES, others=[(networks[1], configs[1])])
    found = localizer.window_candidates(random_features(2, 32))
    assert found.scores.shape == (2, 4 * (30 + 90))
    alone = Localizer(networks[1], configs[1], CLASS_NAMES).window_candidates(random_features(2, 32))
    np.testing.assert_allclose(found.scores[:, 120:], alone.scores, rtol=1e-6)


def test_more_classes_per_candidate_than_classes_are_refused(make_localizer):
    with pytest.raises(UserError, match="^--classes_per_candidate=4: the model knows 3 classes; at most 3$"):
        make_localizer(classes_per_candidate=4)


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [(700, 193), (129, 129)])
def test_chunks_vote_as_the_whole_does(num_steps, make_localizer):
    localizer = make_localizer(classes_per_candidate=2, voting_tiou=0.5, soft_nms_sigma=0.4)
    record = sequence_of(num_steps[0])
    (expected,) = localization.localize(localizer, [record], localizer.reported())
    (found,) = localization.localize(localizer, chunks_of(record, num_steps[1]), localizer.reported())
    assert_same_found(found, expected)


def test_copies_of_implied_classes_share_the_voted_segment(make_config, make_network):
    config = make_config(max_detections=400, voting_tiou=0.3)
    localizer = Localizer(make_network(config, 5, 3), config, CLASS_NAMES, also_reported={"jump": "sit"})
    found = detections_of(localizer, random_features(1, 150))
    rows = as_rows(found)
    own, copies = ({tuple(row[:3]) for row in rows if row[3] == name} for name in (0, 2))
    assert own
    assert own <= copies


def test_soft_suppression_keeps_more(localizer, make_localizer):
    features = random_features(1, 150)
    hard = detections_of(localizer, features)
    soft = detections_of(make_localizer(soft_nms_sigma=0.5), features)
    np.testing.assert_allclose(soft["scores"][0, 0], hard["scores"][0, 0], rtol=1e-6)
    np.testing.assert_array_equal(soft["num_detections"], [20])
    assert (np.diff(soft["scores"]) <= 0).all()
    assert (soft["segments"] != hard["segments"]).any()


# --- windows without time


def test_window_candidates_come_anchor_free_first(localizer):
    found = localizer.window_candidates(random_features(3, 128))
    assert found.segments.shape == (3, 112 + 336, 2)
    assert found.scores.shape == found.class_ids.shape == (3, 112 + 336)
    logits = localizer.members[0].networks[0](random_features(3, 128))["anchor_free_logits"].numpy()
    usable = found.segments[:, :112, 1] > found.segments[:, :112, 0]
    expected = np.where(usable, softmax(logits)[..., 1:].max(axis=-1), 0)
    np.testing.assert_allclose(found.scores[:, :112], expected, rtol=1e-5)


@pytest.mark.parametrize("first_step_seconds", [0.0, 5.0])
def test_candidates_of_score_zero_give_no_detection(first_step_seconds, localizer):
    nothing = Candidates(tf.ones((2, 448, 2)), tf.zeros((2, 448)), tf.zeros((2, 448), tf.int32))
    first = tf.fill([2], first_step_seconds)
    found = localizer.detect["both"](nothing, tf.constant([10, 20]), tf.ones(2), first, tf.constant(0.5))
    assert not any(np.asarray(values).any() for values in found)


# --- bad requests


@pytest.fixture(scope="module")
def serve(localizer):
    """The localizer as it is exported."""
    signature = [
        tf.TensorSpec((None, None, NUM_FEATURES), tf.float32),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((None,), tf.float32),
    ]
    return tf.function(localizer.__call__, input_signature=signature)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": np.nan}, "features hold NaN"),
        ({"value": -np.inf}, "features hold NaN or infinite"),
        ({"num_steps": [0]}, "num_steps must be at least 1"),
        ({"num_steps": [-5]}, "num_steps must be at least 1"),
        ({"num_steps": [11]}, "num_steps exceeds the steps"),
        ({"num_steps": [10, 10]}, "num_steps needs one value per sequence"),
        ({"seconds_per_step": [0.0]}, "seconds_per_step must be > 0"),
        ({"seconds_per_step": [-1.0]}, "seconds_per_step must be > 0"),
        ({"seconds_per_step": [np.nan]}, "seconds_per_step must be > 0"),
        ({"seconds_per_step": [np.inf]}, "seconds_per_step must be"),
        ({"seconds_per_step": [1.0, 1.0]}, "seconds_per_step needs one value per sequence"),
    ],
)
def test_bad_requests_get_an_error_status(changes, message, graph, localizer, serve):
    request = {"value": 0.0, "num_steps": [10], "seconds_per_step": [1.0], **changes}
    features = random_features(1, 10)
    features[0, 3, 2] = request["value"]
    arguments = (tf.constant(features), tf.constant(request["num_steps"]), tf.constant(request["seconds_per_step"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        (serve if graph else localizer)(*arguments)


def test_default_settings_report_756_candidates(make_network):
    config = Config(base_channels=2, level_channels=(2,) * 6, head_channels=2, precision="float32")
    found = Localizer(make_network(config, 3, 2), config, ["a", "b"]).window_candidates(tf.zeros((1, 128, 3)))
    assert found.scores.shape == (1, 126 + 630)


def test_implied_classes_are_reported_too(make_config, make_network):
    """Every detection of class a once more as class c, with the same segment and score; the best K stay."""
    config = make_config(max_detections=2000)
    network = make_network(config, 5, 3)
    plain = Localizer(network, config, ("a", "b", "c"))
    implied = Localizer(network, config, ("a", "b", "c"), also_reported={"a": "c"})
    features = np.random.default_rng(5).normal(size=(1, 150, 5)).astype(np.float32)
    request = tf.constant(features), tf.constant([150]), tf.constant([1.0])

    def rows(found):
        names = ("segments", "scores", "class_ids")
        segments, scores, ids = (found[name].numpy()[0, : int(found["num_detections"][0])] for name in names)
        assert (np.diff(scores) <= 0).all()
        return [(*segment, score, class_id) for segment, score, class_id in zip(segments, scores, ids, strict=True)]

    before = rows(plain(*request))
    copies = [(start, end, score, 2) for start, end, score, class_id in before if class_id == 0]
    assert copies
    assert sorted(rows(implied(*request))) == sorted(before + copies)
    few = Localizer(network, make_config(max_detections=7), ("a", "b", "c"), also_reported={"a": "c"})
    assert len(rows(few(*request))) == 7

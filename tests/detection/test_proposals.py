"""What lies between two stages, and the second one: suppression, pooling, targets, losses, candidates, gradients."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection import losses, proposals, pyramid
from a2net_tf.detection.layers import drawing
from a2net_tf.detection.localizer import BRANCHES, Localizer
from a2net_tf.detection.objective import Objective
from a2net_tf.training.trainer import Trainer

RANDOM = np.random.default_rng(0)
TWO = {"stages": 2, "proposal_channels": 6, "train_proposals": 12, "proposals": 16}
NAMES = ["jump", "run", "sit"]
SEED = tf.constant([0, 3])


# --- suppression


def tiou(a, b):
    shared = max(min(a[1], b[1]) - max(a[0], b[0]), 0.0)
    union = (a[1] - a[0]) + (b[1] - b[0]) - shared
    return shared / union if a[1] > a[0] and b[1] > b[0] else 0.0


def greedy(segments, scores, bound):
    """Places of what is kept, one after the other."""
    kept = []
    for place in np.argsort(-scores, kind="stable"):
        usable = scores[place] > 0 and segments[place, 1] > segments[place, 0]
        if usable and all(tiou(segments[place], segments[other]) <= bound for other in kept):
            kept.append(place)
    return kept


def assert_greedy(segments, scores, bound, number):
    segments, scores = segments.astype(np.float32), scores.astype(np.float32)
    found = tf.function(lambda s, x: proposals.choose(s, x, tiou=bound, number=number))(segments, scores)
    assert found.segments.shape[1] == min(number, segments.shape[1])
    for b, places in enumerate(found.places.numpy()):
        expected = greedy(segments[b].astype(np.float64), scores[b], bound)[:number]
        missing = len(places) - len(expected)
        np.testing.assert_array_equal(places[: len(expected)], expected)
        np.testing.assert_array_equal(found.scores[b], np.pad(scores[b, expected], (0, missing)))
        np.testing.assert_array_equal(found.segments[b], np.pad(segments[b, expected], ((0, missing), (0, 0))))


def random_segments(windows, number):
    center = RANDOM.uniform(0, 1, (windows, number))
    half = np.exp(RANDOM.uniform(np.log(0.01), 0, (windows, number))) / 2
    return np.clip(np.stack([center - half, center + half], axis=-1), 0, 1)


@pytest.mark.parametrize("bound", [0.3, 0.8, 0.9])
@pytest.mark.parametrize(("candidates", "number"), [(40, 50), (300, 20), (756, 128), (756, 756)])
def test_suppression_is_greedy(candidates, number, bound):
    segments = random_segments(3, candidates)
    scores = RANDOM.uniform(size=segments.shape[:2])
    scores[RANDOM.uniform(size=scores.shape) < 0.1] = 0  # unusable
    assert_greedy(segments, scores, bound, number)


def test_suppression_of_a_chain_where_each_depends_on_the_one_before():
    """Every second one stays, which takes as many rounds as there are segments."""
    starts = np.arange(600) / 1000
    segments = np.stack([starts, starts + 0.003], axis=-1)[None]
    assert_greedy(segments, np.linspace(1, 0.5, 600)[None], 0.45, 600)


def test_suppression_of_identical_and_empty_ones():
    same = np.broadcast_to([0.25, 0.5], (1, 300, 2))
    assert_greedy(same, RANDOM.uniform(0.1, 1, (1, 300)), 0.8, 10)
    assert_greedy(same, np.full((1, 300), 0.5), 0.8, 10)  # of equal scores the first one
    assert_greedy(np.full((1, 300, 2), 0.5), np.ones((1, 300)), 0.8, 10)
    mixed = np.concatenate([same, np.full((1, 300, 2), 0.3)], axis=1)
    assert_greedy(mixed, RANDOM.uniform(size=(1, 600)), 0.8, 10)
    assert_greedy(random_segments(1, 20), np.zeros((1, 20)), 0.8, 10)


def test_bound_of_zero_and_one():
    segments = random_segments(2, 300)
    assert_greedy(segments, RANDOM.uniform(size=(2, 300)), 0.0, 300)
    assert_greedy(segments, RANDOM.uniform(size=(2, 300)), 1.0, 300)


# --- actions among the proposals


def test_actions_take_the_places_of_the_weakest(same_in_graph):
    proposed = np.float32([[[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], [[0.7, 0.8], [0, 0], [0, 0]], [[0, 0]] * 3])
    actions = np.float32([[[0.2, 0.9], [0, 0]], [[0.1, 0.3], [0.4, 0.5]], [[0, 0]] * 2])
    found = same_in_graph(proposals.with_actions, proposed, actions)
    expected = [
        [[0.2, 0.9], [0.1, 0.2], [0.3, 0.4]],
        [[0.1, 0.3], [0.4, 0.5], [0.7, 0.8]],
        [[0, 0]] * 3,
    ]
    np.testing.assert_array_equal(found, np.float32(expected))


# --- pooling


def slow_pool(features, segments, bins):
    steps, found = len(features), []
    for start, end in segments.astype(np.float64) * steps:
        first, width = start - (end - start) / 2, 2 * (end - start) / bins
        for i in range(bins):
            low, high = first + i * width, first + (i + 1) * width
            shares = [max(0.0, min(high, t + 1) - max(low, t)) for t in range(steps)]
            found.append(np.dot(shares, features) / width if width > 0 else 0 * features[0])
    return np.reshape(found, (len(segments), bins, -1))


@pytest.mark.parametrize("bins", [4, 8])
def test_pooling_equals_a_slow_restatement(bins, same_in_graph):
    features = RANDOM.normal(size=(2, 32, 5)).astype(np.float32) + 3
    segments = random_segments(2, 20).astype(np.float32)
    segments[:, :4] = [[0, 1], [0.5, 0.5], [0.25, 0.5], [1, 1]]
    found = same_in_graph(lambda x, s: proposals.pool(x, s, bins=bins), features, segments)
    # An edge is rounded as a number of up to 32 steps, a running sum as one of up to 32 features; a bin divides both
    # by its width.
    widths = 2 * 32 * (segments[..., 1] - segments[..., 0]) / bins
    rounding = 8 * 2.0**-24 * 32 * np.abs(features).max() / np.where(widths > 0, widths, np.inf)
    for b in range(2):
        difference = np.abs(found[b] - slow_pool(features[b], segments[b], bins))
        assert (difference <= rounding[b][:, None, None]).all()
    assert not found[:, 1].any()


def test_pooling_within_a_step_is_exact():
    """Sums over a window are large beside what a bin of a thousandth of a step adds to them."""
    features = np.full((1, 128, 1), 1000.0, np.float32)
    features[0, 100] = 0.5
    segments = (np.float32([[[100.25, 100.252], [100.5, 100.75]]]) / 128).astype(np.float32)
    np.testing.assert_allclose(proposals.pool(features, segments, bins=8), np.full((1, 2, 8, 1), 0.5), rtol=1e-3)


def test_gradient_of_pooling_is_that_of_the_restatement():
    features, segments = tf.Variable(RANDOM.normal(size=(1, 16, 2)), dtype=tf.float32), random_segments(1, 6)
    weights = RANDOM.normal(size=(1, 6, 4, 2)).astype(np.float32)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(weights * proposals.pool(features, segments.astype(np.float32), bins=4))
    found = tape.gradient(total, features).numpy()[0]
    for step in range(16):
        one = np.zeros((16, 2))
        one[step] = 1
        expected = (weights[0] * slow_pool(one, segments[0].astype(np.float32), 4)).sum(axis=(0, 1))
        np.testing.assert_allclose(found[step], expected, rtol=1e-4, atol=1e-4)


# --- the network


@pytest.fixture(scope="module", params=[{}, {"anchor_based": False}, {"anchor_free": False}], ids=["both", "af", "ab"])
def two(request, make_config, make_network):
    """A config and a network of two stages with random weights."""
    config = make_config(**TWO, **request.param)
    return config, make_network(config)


def windows(number=3, seed=0):
    return np.random.default_rng(seed).normal(size=(number, 32, 5)).astype(np.float32)


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def slow_stage_one(outputs, config, b):
    """Segments and scores of all candidates of a window."""
    segments, scores = [], []
    if config.anchor_free:
        centers = pyramid.cell_centers(32, config.num_levels)
        left, right = outputs["anchor_free_distances"][b].T
        segments += np.stack([centers - left, centers + right], axis=-1).tolist()
        action = softmax(outputs["anchor_free_logits"][b])[:, 1]
        scores += (action * np.clip(outputs["anchor_free_overlap"][b], 0, 1)).tolist()
        segments = (np.array(segments) / 16).tolist()
    if config.anchor_based:
        anchors = pyramid.default_anchors(32, config.num_levels, config.anchor_ratios)
        center, width = anchors.T
        shift, stretch = outputs["anchor_offsets"][b].T
        center, width = center + 0.1 * width * shift, width * np.exp(0.1 * stretch)
        segments += np.stack([center - width / 2, center + width / 2], axis=-1).tolist()
        action = softmax(outputs["anchor_logits"][b])[:, 1]
        scores += (action * np.clip(outputs["anchor_overlap"][b], 0, 1)).tolist()
    return np.clip(np.array(segments), 0, 1), np.array(scores)


def test_proposals_are_the_best_of_both_heads_on_one_scale(two):
    config, network = two
    outputs = {name: value.numpy() for name, value in network(windows(), training=False).items()}
    for b in range(3):
        segments, scores = slow_stage_one(outputs, config, b)
        kept = greedy(segments, scores, config.proposal_tiou)[: config.proposals]
        assert kept
        np.testing.assert_allclose(outputs["proposals"][b, : len(kept)], segments[kept], atol=1e-5)
        np.testing.assert_allclose(outputs["proposal_scores"][b, : len(kept)], scores[kept], atol=1e-5)


def slow_second_stage(network, base, segments, config):
    """Logits [R, C + 1] and offsets [R, C, 2] of one window."""
    weights = {layer.name: [w.numpy() for w in layer.weights] for layer in network.layers}
    pooled = slow_pool(base, segments, config.proposal_bins)
    quarter = config.proposal_bins // 4
    parts = {"class": pooled[:, quarter:-quarter], "boundary": pooled}
    found = []
    for name, part in parts.items():
        x = part.reshape(len(segments), -1)
        for layer in ("hidden", "predict"):
            kernel, bias = weights[f"proposal_{name}_{layer}"]
            x = x @ kernel[0] + bias
            x = np.maximum(x, 0) if layer == "hidden" else x
        found.append(x)
    return found[0], found[1].reshape(len(segments), -1, 2)


def test_second_stage_equals_a_plain_forward_pass(two):
    config, network = two
    outputs = network(windows(), training=False)
    first = network.first_stage()(windows(), training=False)
    assert {name for name in outputs if not name.startswith("refined")} == set(first) - {"base"}
    for b in range(3):
        logits, offsets = slow_second_stage(network, first["base"][b].numpy(), outputs["proposals"][b].numpy(), config)
        np.testing.assert_allclose(outputs["refined_logits"][b], logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            outputs["refined_offsets"][b], offsets.reshape(len(offsets), -1), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_smaller_types_propose_and_refine_in_float32(precision, make_config, make_network):
    network = make_network(make_config(**TWO, precision=precision))
    outputs = network(windows(), training=False)
    assert {value.dtype for value in outputs.values()} == {tf.float32, tf.int32}
    assert all(np.isfinite(value).all() for value in outputs.values())


# --- candidates


@pytest.mark.parametrize("kind", ["second", "product", "root"])
@pytest.mark.parametrize("best", [1, 2])
def test_candidates_by_hand(kind, best, two):
    config, network = two
    config = dataclasses.replace(config, refined_score=kind, classes_per_candidate=best)
    outputs = {name: value.numpy() for name, value in network(windows(), training=False).items()}
    cells = 30 if config.anchor_free else 0
    found = proposals.refined_candidates(outputs, config, cells)
    expected = []
    for place, (start, end) in enumerate(outputs["proposals"][1]):
        probability = softmax(outputs["refined_logits"][1, place])[1:]
        first = outputs["proposal_scores"][1, place]
        for class_id in np.argsort(-probability, kind="stable")[:best]:
            score = {
                "second": probability[class_id] * (first > 0),
                "product": first * probability[class_id],
                "root": np.sqrt(first * probability[class_id]),
            }[kind]
            shift, stretch = outputs["refined_offsets"][1, place].reshape(-1, 2)[class_id]
            center, width = (start + end) / 2 + 0.1 * shift * (end - start), (end - start) * np.exp(0.2 * stretch)
            from_anchors = outputs["proposal_places"][1, place] >= cells
            expected.append((center - width / 2, center + width / 2, score, class_id, from_anchors))
    *ends, scores, class_ids, from_anchors = (np.array(column) for column in zip(*expected, strict=True))
    halves = [~from_anchors, from_anchors] if config.anchor_free and config.anchor_based else [1]
    np.testing.assert_allclose(found.scores[1], np.concatenate([scores * own for own in halves]), atol=1e-5)
    np.testing.assert_allclose(found.segments[1], np.tile(np.stack(ends, -1), (len(halves), 1)), atol=1e-5)
    np.testing.assert_array_equal(found.class_ids[1], np.tile(class_ids, len(halves)))


def test_localizer_reports_the_branches_that_proposals_come_from(two):
    config, network = two
    localizer = Localizer(network, config, NAMES)
    candidates = localizer.window_candidates(windows())
    assert localizer.branches == (BRANCHES if config.anchor_free and config.anchor_based else localizer.branches[:1])
    found = localizer(windows(1).reshape(1, 32, 5), tf.constant([32]), tf.constant([1.0]))
    assert int(found["num_detections"][0]) > 0
    shares = {}
    for branch in localizer.branches:
        merged = localizer.merged_scores(
            candidates.scores, candidates.segments, branch=branch, anchor_based_lambda=tf.constant(0.5)
        )
        shares[branch] = float(tf.reduce_sum(merged))
    if len(shares) == 3:
        assert shares["anchor_free"] > 0
        assert shares["anchor_based"] > 0
        np.testing.assert_allclose(shares["anchor_free"] + shares["anchor_based"], shares["both"], rtol=1e-5)


def test_steps_have_a_say_in_the_classes_of_proposals(make_config, make_network):
    config = make_config(**TWO, step_classifier=True, step_channels=6, step_layers=4, step_stages=2)
    network = make_network(config)
    localizer = Localizer(network, config, NAMES)
    candidates, steps = localizer.predict(windows())
    assert steps.shape == (3, 32, 3)
    assert network.output["step_logits"].shape[-1] == 4
    scored = localizer.scored_in_window(candidates, steps)
    assert (scored.scores <= candidates.scores + 1e-6).numpy().all()


# --- targets and losses


def batch():
    """Windows with two actions, with one, and with none."""
    segments = np.float32([[[0.1, 0.4], [0.5, 0.9]], [[0.3, 0.35], [0, 0]], [[0, 0], [0, 0]]])
    labels = np.int32([[1, 3], [2, 0], [0, 0]])
    return {"features": windows(), "segments": segments, "labels": labels}


def slow_second_losses(outputs, actions, labels, config):
    parts = {name: [] for name in ("foreground", "background", "regression")}
    for b, row in enumerate(outputs["proposals"].astype(np.float64)):
        for r, proposal in enumerate(row):
            overlaps = [
                tiou(proposal, action) * (label > 0) for action, label in zip(actions[b], labels[b], strict=True)
            ]
            best = int(np.argmax(overlaps))
            log = np.log(softmax(outputs["refined_logits"][b, r].astype(np.float64)))
            if overlaps[best] > 0.5:
                parts["foreground"].append(-log[labels[b][best]])
                (start, end), (low, high) = actions[b][best], proposal
                width = high - low
                target = [
                    ((start + end) / 2 - (low + high) / 2) / (0.1 * width),
                    np.log((end - start) / width) / 0.2,
                ]
                error = np.abs(outputs["refined_offsets"][b, r].reshape(-1, 2)[labels[b][best] - 1] - target)
                parts["regression"].append(np.where(error < 1, error**2 / 2, error - 0.5).sum())
            elif proposal[1] > proposal[0] and overlaps[best] >= config.proposal_background_tiou:
                parts["background"].append(-log[0])
    return {f"second_stage_{name}": np.mean(values) if values else 0.0 for name, values in parts.items()}


@pytest.mark.parametrize("background", [0.0, 0.1])
def test_second_stage_losses_equal_a_slow_restatement(background, two, make_network):
    config, network = two
    config = dataclasses.replace(config, proposal_background_tiou=background)
    trainer = Trainer(network, config)
    outputs = trainer.forward(batch()["features"], SEED, actions=batch()["segments"])
    found, positives = Objective(config)(outputs, batch(), SEED)
    values = {name: value.numpy() for name, value in outputs.items()}
    expected = slow_second_losses(values, batch()["segments"].astype(np.float64), batch()["labels"], config)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    assert expected["second_stage_foreground"] > 0  # actions are among the proposals
    assert expected["second_stage_background"] > 0 or not config.anchor_based  # cells propose little at random
    assert float(positives["second_stage_positives"]) >= 1
    weighted = config.second_stage_weight * (
        expected["second_stage_foreground"] / 2
        + expected["second_stage_background"] / 2
        + expected["second_stage_regression"]
    )
    without = losses.total_loss(
        {name: value for name, value in found.items() if name != "loss" and name not in expected}
    )
    np.testing.assert_allclose(found["loss"], without + weighted, rtol=1e-5)


def test_overlap_of_cells_equals_a_slow_restatement(make_config, make_network):
    config = make_config(**TWO)
    outputs = make_network(config)(windows(), training=False)
    found, positives = Objective(config)(outputs, batch(), SEED)
    assert sum(float(positives[f"anchor_free_positives_level{i}"]) for i in range(1, 5)) > 0
    centers, levels = pyramid.cell_centers(32, 4), pyramid.cell_levels(32, 4)
    errors = []
    for b in range(3):
        for center, level, (left, right), overlap in zip(
            centers,
            levels,
            outputs["anchor_free_distances"][b].numpy(),
            outputs["anchor_free_overlap"][b].numpy(),
            strict=True,
        ):
            actions = [a * 16 for a, label in zip(batch()["segments"][b], batch()["labels"][b], strict=True) if label]
            for start, end in actions:
                own = sum(end - start >= 2**i for i in range(1, 4))
                if own == level and start <= center < end:
                    error = abs(overlap - tiou((center - left, center + right), (start, end)))
                    errors.append(error**2 / 2 if error < 1 else error - 0.5)
    np.testing.assert_allclose(found["anchor_free_overlap"], np.mean(errors), rtol=1e-5)


def test_without_actions_all_losses_and_gradients_are_finite(two):
    config, network = two
    trainer = Trainer(network, config)
    empty = {**batch(), "segments": np.zeros((3, 2, 2), np.float32), "labels": np.zeros((3, 2), np.int32)}
    with tf.GradientTape() as tape:
        outputs = trainer.forward(empty["features"], SEED, actions=empty["segments"])
        parts, _ = Objective(config)(outputs, empty, SEED)
    gradients = tape.gradient(parts["loss"], [w.value for w in network.trainable_variables])
    assert all(np.isfinite(value).all() for value in parts.values())
    assert all(np.isfinite(gradient).all() for gradient in gradients if gradient is not None)
    assert float(parts["second_stage_foreground"]) == float(parts["second_stage_background"]) == 0


def test_proposals_stop_the_gradient(two):
    """Of the second stage's losses nothing reaches what is behind the base features: coordinates are constants."""
    config, network = two
    trainer = Trainer(network, config)
    weights = network.trainable_variables
    with tf.GradientTape() as tape:
        outputs = trainer.forward(batch()["features"], SEED, actions=batch()["segments"])
        parts, _ = Objective(config)(outputs, batch(), SEED)
        second = tf.add_n([value for name, value in parts.items() if name.startswith("second_stage")])
    gradients = tape.gradient(second, [w.value for w in weights])
    reached = {w.path.split("/")[-2] for w, g in zip(weights, gradients, strict=True) if g is not None}
    assert reached == {"base1", "base2"} | {
        name for name in (w.path.split("/")[-2] for w in weights) if "proposal" in name
    }
    assert all(np.isfinite(gradient).all() for gradient in gradients if gradient is not None)


def test_equal_proposals_of_zero_length_have_finite_losses(make_config):
    config = make_config(**TWO)
    outputs = {
        "proposals": tf.zeros((3, 12, 2)),
        "refined_logits": tf.Variable(tf.ones((3, 12, 4))),
        "refined_offsets": tf.Variable(tf.ones((3, 12, 6))),
    }
    with tf.GradientTape() as tape:
        sums, _ = Objective(config)._second_stage(outputs, batch())
        total = tf.add_n(list(losses.means(sums).values()))
    gradients = tape.gradient(total, [outputs["refined_logits"], outputs["refined_offsets"]])
    assert float(total) == 0
    assert not any(np.any(gradient) for gradient in gradients)


def test_dropout_draws_by_seed(make_config, make_network):
    config = make_config(**TWO)
    trainer = Trainer(make_network(config), config)
    actions = batch()["segments"]
    first, again, other = (
        trainer.forward(windows(), tf.constant(seed), actions=actions)["refined_logits"].numpy()
        for seed in ([1, 2], [1, 2], [1, 3])
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    with pytest.raises(RuntimeError, match="proposal_.*_dropout: in training, call the network within"):
        trainer.network(windows(), training=True)
    with drawing(trainer.network, tf.constant([1, 2])):
        assert trainer.network(windows(), training=True)["proposals"].shape[1] == config.train_proposals

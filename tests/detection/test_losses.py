import math

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection import losses, targets
from a2net_tf.detection.objective import Objective

NUM_CLASSES = 3
SEED = (7, 8)


@pytest.fixture(scope="module")
def network(make_config, make_network):
    """One for all: its settings have nothing to do with the losses."""
    return make_network(make_config())


# --- the pieces


def masked_mean(values, mask):
    return losses.means({"mean": losses.masked_sum(values, mask)})["mean"]


@pytest.mark.parametrize(
    ("values", "mask", "expected"),
    [
        ([1, 2, 6], [True, False, True], 3.5),
        ([1, 2, 6], [False, False, False], 0),
        ([1, math.inf, math.nan], [True, False, False], 1),
        ([math.inf], [False], 0),
        ([], [], 0),
    ],
)
def test_masked_mean(values, mask, expected, same_in_graph):
    values = tf.Variable(np.float32(values))
    with tf.GradientTape() as tape:
        mean = masked_mean(values, tf.constant(mask, tf.bool))
    assert mean == expected
    gradient = np.asarray(tape.gradient(mean, values))
    np.testing.assert_allclose(gradient, np.float32(mask) / max(sum(mask), 1))
    assert same_in_graph(masked_mean, values.numpy(), np.array(mask, bool)) == expected


def test_shares_of_two_devices_add_up_to_the_mean():
    """Of 1, 2 and 6: two are at the first device and one is at the second; of nothing at either, 0."""
    first = {
        "some": losses.masked_sum(tf.constant([1.0, 2.0]), tf.constant([True, True])),
        "none": losses.masked_sum(tf.constant([1.0]), tf.constant([False])),
    }
    second = {
        "some": losses.masked_sum(tf.constant([6.0, 8.0]), tf.constant([True, False])),
        "none": losses.masked_sum(tf.constant([]), tf.constant([], tf.bool)),
    }
    counts = tf.stack([[one.count for one in device.values()] for device in (first, second)])
    shares = [losses.means(device, lambda own: tf.reduce_sum(counts, axis=0)) for device in (first, second)]
    assert [float(share["some"]) for share in shares] == [1.0, 2.0]
    assert [float(share["none"]) for share in shares] == [0.0, 0.0]


def test_smooth_l1_by_hand(same_in_graph):
    found = same_in_graph(losses.smooth_l1, np.float32([-2, -1, -0.5, 0, 0.5, 1, 3]))
    np.testing.assert_allclose(found, [1.5, 0.5, 0.125, 0, 0.125, 0.5, 2.5])
    assert same_in_graph(losses.smooth_l1, np.zeros((0, 2), np.float32)).shape == (0, 2)


def test_cross_entropy_by_hand(same_in_graph):
    found = same_in_graph(losses.cross_entropy, np.float32([[0, 0], [np.log(3), 0], [1000, 0]]), np.int32([0, 1, 1]))
    np.testing.assert_allclose(found, [np.log(2), np.log(4), 1000], rtol=1e-6)


def test_total_by_hand():
    names = ("anchor_free_regression", "anchor_free_classification", "anchor_based_classification")
    parts = {name: tf.constant(float(10**i)) for i, name in enumerate(names)}
    parts["anchor_based_overlap"], parts["anchor_based_regression"] = tf.constant(0.5), tf.constant(0.25)
    assert losses.total_loss(parts) == 1 + 30 * 10 + 100 + 10 * 0.5 + 10 * 0.25
    assert losses.total_loss(parts, anchor_based_weight=2.0) == 1 + 30 * 10 + 2 * (100 + 10 * 0.5 + 10 * 0.25)
    assert losses.total_loss({"anchor_free_classification": tf.constant(2.0)}) == 60


# --- all of it against a computation in loops, in float64


def random_batch(config, seed=0, num_windows=5):
    """Outputs and ground truth with plenty of matches, hard negatives, padding, and one window without action."""
    random = np.random.default_rng(seed)
    cells = sum(config.window_steps // 2 // 2**i for i in range(config.num_levels))
    anchors = cells * len(config.anchor_ratios)
    start = random.uniform(0, 0.6, (num_windows, 6))
    segments = np.stack([start, start + random.uniform(0.02, 0.4, start.shape)], axis=-1)
    labels = random.integers(0, NUM_CLASSES + 1, (num_windows, 6))
    labels[-1] = 0
    outputs = {
        "anchor_free_logits": random.normal(size=(num_windows, cells, NUM_CLASSES + 1)),
        "anchor_free_distances": random.normal(size=(num_windows, cells, 2)) * 2,
        "anchor_logits": random.normal(size=(num_windows, anchors, NUM_CLASSES + 1)) * 2,
        "anchor_overlap": random.normal(size=(num_windows, anchors)),
        "anchor_offsets": random.normal(size=(num_windows, anchors, 2)) * 2,
    }
    outputs = {name: tf.constant(value, tf.float32) for name, value in outputs.items()}
    return outputs, {"segments": tf.constant(segments, tf.float32), "labels": tf.constant(labels, tf.int32)}


def slow_smooth_l1(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def slow_cross_entropy(logits, label):
    return math.log(sum(math.exp(v) for v in logits)) - logits[label]


def mean(values):
    return sum(values) / len(values) if values else 0.0


def slow_anchor_free(outputs, batch, config):
    classification, regression = [], []
    num_units = config.window_steps // 2
    for b, actions in enumerate(batch["segments"] * num_units):
        cell = 0
        for level in range(1, config.num_levels + 1):
            stride = 2 ** (level - 1)
            low = 0 if level == 1 else stride
            high = math.inf if level == config.num_levels else 2 * stride
            for j in range(num_units // stride):
                center = stride // 2 + j * stride
                inside = [
                    (end - start, start, end, label)
                    for (start, end), label in zip(actions, batch["labels"][b], strict=True)
                    if label > 0 and start <= center < end and low <= end - start < high
                ]
                label = 0
                if inside:
                    _, start, end, label = min(inside)
                    to_start, to_end = outputs["anchor_free_distances"][b, cell]
                    regression.append(
                        slow_smooth_l1(to_start - (center - start)) + slow_smooth_l1(to_end - (end - center))
                    )
                classification.append(slow_cross_entropy(outputs["anchor_free_logits"][b, cell], label))
                cell += 1
    assert regression
    return {"anchor_free_classification": mean(classification), "anchor_free_regression": mean(regression)}


def slow_anchors(config):
    for level in range(config.num_levels):
        n = config.window_steps // 2 // 2**level
        for i in range(n):
            for ratio in config.anchor_ratios:
                yield (i + 0.5) / n, ratio / n


def slow_tiou(first, second):
    both = min(first[1], second[1]) - max(first[0], second[0])
    return max(both, 0) / (first[1] - first[0] + second[1] - second[0] - max(both, 0))


def slow_matches(outputs, batch, config):
    """For each window and anchor: decoded segment, best overlap, its action and class."""
    rows = []
    for b in range(len(batch["labels"])):
        for a, (center, width) in enumerate(slow_anchors(config)):
            delta_center, delta_width = outputs["anchor_offsets"][b, a]
            new_center = center + config.center_scale * width * delta_center
            new_width = width * math.exp(config.width_scale * delta_width)
            decoded = (new_center - new_width / 2, new_center + new_width / 2)
            overlap, action, label = 0.0, None, 0
            for segment, name in zip(batch["segments"][b], batch["labels"][b], strict=True):
                if name > 0 and slow_tiou(decoded, segment) > overlap:
                    overlap, action, label = slow_tiou(decoded, segment), segment, name
            rows.append((b, a, decoded, overlap, action, label, (center, width)))
    return rows


def chosen_negatives(rows, outputs, config):
    """The draw of the library, on the matches found here."""
    overlap = np.float32(outputs["anchor_overlap"])
    positive = np.zeros(overlap.shape, bool)
    for b, a, _, best, *_ in rows:
        positive[b, a] = best > config.match_tiou
    hard = ~positive & (overlap > config.match_tiou)
    assert positive.sum() > 10
    assert hard.sum() > 10
    unused = tf.zeros((*positive.shape, 2))
    matches = targets.AnchorMatches(
        tf.zeros(positive.shape), tf.zeros(positive.shape, tf.int32), unused, tf.constant(positive)
    )
    settings = {"ratio": config.negative_ratio, "min_tiou": config.match_tiou}
    return targets.choose_negatives(matches, tf.constant(overlap), seed=SEED, **settings).numpy()


def slow_anchor_based(outputs, batch, config):
    rows = slow_matches(outputs, batch, config)
    negatives = chosen_negatives(rows, outputs, config)
    classification, overlap_of_chosen, overlap_of_positives, regression = [], [], [], []
    for b, a, decoded, best, action, label, (center, width) in rows:
        positive = best > config.match_tiou
        difference = outputs["anchor_overlap"][b, a] - best
        if positive or negatives[b, a]:
            classification.append(slow_cross_entropy(outputs["anchor_logits"][b, a], label if positive else 0))
            overlap_of_chosen.append(slow_smooth_l1(difference))
        if positive:
            overlap_of_positives.append(difference**2)
            predicted, target = decoded, action
            if config.anchor_regression == "offsets":
                predicted = outputs["anchor_offsets"][b, a]
                delta_center = ((action[0] + action[1]) / 2 - center) / (config.center_scale * width)
                target = (delta_center, math.log((action[1] - action[0]) / width) / config.width_scale)
            regression.append(sum(slow_smooth_l1(p - t) for p, t in zip(predicted, target, strict=True)))
    return {
        "anchor_based_classification": mean(classification),
        "anchor_based_overlap": mean(overlap_of_positives if config.overlap_loss == "mse" else overlap_of_chosen),
        "anchor_based_regression": mean(regression),
    }


def as_float64(tensors):
    return {
        name: value.numpy().astype(np.float64 if value.dtype.is_floating else np.int64)
        for name, value in tensors.items()
    }


@pytest.mark.parametrize("overlap_loss", ["smooth_l1", "mse"])
@pytest.mark.parametrize("anchor_regression", ["boundaries", "offsets"])
@pytest.mark.parametrize(
    ("weights", "changes"),
    [
        ((1, 30, 10, 10), {}),  # the paper's, and by default
        ((0.5, 2, 3, 4), {"match_tiou": 0.4, "negative_ratio": 2.0, "center_scale": 0.2, "width_scale": 0.05}),
    ],
)
def test_losses_equal_a_slow_computation(overlap_loss, anchor_regression, weights, changes, make_config, network):
    names = ("anchor_based_weight", "anchor_free_classification_weight", "overlap_weight", "anchor_regression_weight")
    if changes:
        changes = {**changes, **dict(zip(names, weights, strict=True))}
    config = make_config(overlap_loss=overlap_loss, anchor_regression=anchor_regression, **changes)
    objective = Objective(config)
    outputs, batch = random_batch(config)
    slow = (as_float64(outputs), as_float64(batch), config)
    expected = {**slow_anchor_free(*slow), **slow_anchor_based(*slow)}
    based, free_classification, overlap, regression = weights
    expected["loss"] = (
        expected["anchor_free_regression"]
        + free_classification * expected["anchor_free_classification"]
        + based
        * (
            expected["anchor_based_classification"]
            + overlap * expected["anchor_based_overlap"]
            + regression * expected["anchor_based_regression"]
        )
    )
    seed = tf.constant(SEED)
    for run in (objective, tf.function(objective)):
        found, _ = run(outputs, batch, seed)
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_more_padding_changes_nothing(make_config, network):
    objective = Objective(make_config())
    outputs, batch = random_batch(objective.config)
    padded = {
        "segments": tf.pad(batch["segments"], [[0, 0], [0, 9], [0, 0]], constant_values=0.5),
        "labels": tf.pad(batch["labels"], [[0, 0], [0, 9]]),
    }
    for expected, found in zip(objective(outputs, batch, SEED), objective(outputs, padded, SEED), strict=True):
        assert {name: float(value) for name, value in found.items()} == {
            name: float(value) for name, value in expected.items()
        }


@pytest.mark.parametrize("heads", [(True, False), (False, True)])
def test_one_head_alone_has_its_own_losses(heads, make_config, make_network, network):
    config = make_config(anchor_free=heads[0], anchor_based=heads[1])
    outputs, batch = random_batch(config)
    both, _ = Objective(make_config())(outputs, batch, SEED)
    single = make_network(config)
    alone, positives = Objective(config)({name: outputs[name] for name in single.output}, batch, SEED)
    prefix = "anchor_free_" if heads[0] else "anchor_based_"
    assert set(alone) == {"loss"} | {name for name in both if name.startswith(prefix)}
    assert all(name.startswith(prefix) for name in positives)
    for name in set(alone) - {"loss"}:
        np.testing.assert_array_equal(alone[name], both[name])


def test_positives_by_level(make_config, network):
    config = make_config()
    outputs, batch = random_batch(config)
    _, positives = Objective(config)(outputs, batch, SEED)
    rows = slow_matches(as_float64(outputs), as_float64(batch), config)
    first = 0
    for level in range(config.num_levels):
        last = first + config.window_steps // 2 // 2**level * len(config.anchor_ratios)
        expected = sum(best > 0.5 for _, a, _, best, *_ in rows if first <= a < last) / len(batch["labels"])
        np.testing.assert_allclose(positives[f"anchor_based_positives_level{level + 1}"], expected, rtol=1e-6)
        first = last
    assert len(positives) == 2 * config.num_levels


def gradients(config, network, batch):
    objective = Objective(config)
    features = tf.random.stateless_normal((2, config.window_steps, 5), [0, 0])
    with tf.GradientTape() as tape:
        parts, positives = objective(network(features, training=True), batch, tf.constant(SEED))
    return parts, positives, tape.gradient(parts["loss"], [w.value for w in network.trainable_variables])


@pytest.mark.parametrize("num_actions", [0, 3])
@pytest.mark.parametrize("stale", [0.0, 1.0])
@pytest.mark.parametrize("overlap_loss", ["smooth_l1", "mse"])
@pytest.mark.parametrize("anchor_regression", ["boundaries", "offsets"])
def test_batch_without_action(num_actions, stale, overlap_loss, anchor_regression, make_config, network):
    config = make_config(overlap_loss=overlap_loss, anchor_regression=anchor_regression)
    segments = np.tile(np.float32([0, stale]), (2, num_actions, 1))
    batch = {"segments": tf.constant(segments), "labels": tf.zeros((2, num_actions), tf.int32)}
    parts, positives, found = gradients(config, network, batch)
    assert all(np.isfinite(value) for value in parts.values())
    assert parts["anchor_free_regression"] == parts["anchor_based_regression"] == 0
    assert parts["anchor_free_classification"] > 0
    assert parts["anchor_based_classification"] > 0
    assert not any(positives.values())
    for gradient in found:
        assert np.isfinite(gradient).all()


def test_gradients_are_finite_and_reach_every_weight(make_config, network):
    config = make_config(anchor_regression="offsets")
    batch = {"segments": tf.constant([[[0.0, 0.2]], [[0.25, 0.75]]]), "labels": tf.constant([[1], [2]])}
    _, positives, found = gradients(config, network, batch)
    assert sum(float(n) for name, n in positives.items() if name.startswith("anchor_based")) > 0
    for weight, gradient in zip(network.trainable_variables, found, strict=True):
        assert np.isfinite(gradient).all(), weight.path
        assert np.any(gradient) or "scale" in weight.path, weight.path


def test_an_absurd_anchor_does_not_spoil_the_others(make_config, network):
    config = make_config(anchor_regression="offsets")
    outputs, batch = random_batch(config)
    offsets = outputs["anchor_offsets"].numpy()
    offsets[:, ::7] = 1e30
    variable = tf.Variable(offsets)
    with tf.GradientTape() as tape:
        parts, _ = Objective(config)({**outputs, "anchor_offsets": variable}, batch, SEED)
    assert np.isfinite(parts["loss"])
    assert np.isfinite(tape.gradient(parts["loss"], variable)).all()


# --- classification by sigmoids


def test_focal_cross_entropy_by_hand(same_in_graph):
    logits, classes = np.float32([[0, np.log(3)], [0, 0]]), np.float32([[1, 0], [0, 0]])

    def run(gamma, alpha):
        return same_in_graph(lambda x, t: losses.focal_cross_entropy(x, losses.Focal(t, gamma, alpha)), logits, classes)

    ln2, ln4 = np.log(2), np.log(4)
    np.testing.assert_allclose(run(0, -1), [ln2 + ln4, 2 * ln2], rtol=1e-6)
    np.testing.assert_allclose(run(2, -1), [ln2 / 4 + ln4 * 9 / 16, ln2 / 2], rtol=1e-6)
    np.testing.assert_allclose(run(1, -1), [ln2 / 2 + ln4 * 3 / 4, ln2], rtol=1e-6)
    np.testing.assert_allclose(run(0, 0.25), [ln2 / 4 + ln4 * 3 / 4, 2 * ln2 * 3 / 4], rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_cross_entropy_of_huge_logits_is_finite(gamma):
    logits = tf.Variable([[1e4, -1e4, 1e4, -1e4]])
    with tf.GradientTape() as tape:
        loss = losses.focal_cross_entropy(logits, losses.Focal(tf.constant([[1.0, 1.0, 0.0, 0.0]]), gamma, 0.25))
    np.testing.assert_allclose(loss, [1e4 * 0.25 + 1e4 * 0.75], rtol=1e-5)
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_focal_losses_count_positives(make_config, make_network):
    config = make_config(class_scores="sigmoid", focal_gamma=0.0, focal_alpha=-1.0)
    outputs, batch = random_batch(config)
    for name in ("anchor_free_logits", "anchor_logits"):
        outputs[name] = outputs[name][..., 1:]
    parts, positives = Objective(config)(outputs, batch, SEED)
    cells = targets.assign_cells(
        batch["segments"],
        batch["labels"],
        centers=np.concatenate([2**i // 2 + 2**i * np.arange(16 // 2**i) for i in range(4)]).astype(np.float32),
        levels=np.repeat(np.arange(4), [16, 8, 4, 2]),
        grid_units=16,
    )
    classes = np.eye(NUM_CLASSES + 1)[cells.labels][..., 1:]  # random actions: no two are one
    logits = outputs["anchor_free_logits"].numpy().astype(np.float64)
    surprise = np.logaddexp(0, logits) - classes * logits
    expected = surprise.sum() / (cells.labels.numpy() > 0).sum()
    np.testing.assert_allclose(parts["anchor_free_classification"], expected, rtol=1e-5)
    assert np.isfinite(parts["loss"])
    assert sum(map(float, positives.values())) > 0


# --- overlap as a loss


@pytest.mark.parametrize(
    ("predicted", "target", "diou", "giou"),
    [
        ([0, 4], [0, 4], 0, 0),
        ([0, 2], [0, 4], 1 - 0.5 + (1 / 4) ** 2, 1 - 0.5),
        ([0, 2], [6, 8], 1 + (6 / 8) ** 2, 1 + 4 / 8),  # apart: centres 6 of 8, a gap of 4 of 8
        ([1, 3], [2, 6], 1 - 1 / 5 + (2 / 5) ** 2, 1 - 1 / 5),
        ([3, 1], [1, 3], 1, 1 + 2 / 2),  # reversed: a gap of 2 from its end to its start
        ([20, 0], [8, 9], 1 + (1.5 / 20) ** 2, 1 + 20 / 20),
    ],
)
def test_iou_loss_by_hand(predicted, target, diou, giou, same_in_graph):
    for kind, expected in (("diou", diou), ("giou", giou)):
        found = same_in_graph(lambda p, t, kind=kind: losses.iou_loss(p, t, kind), *np.float32([predicted, target]))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["diou", "giou"])
def test_iou_loss_pulls_apart_segments_together(kind):
    predicted = tf.Variable([[0.0, 2.0], [9.0, 11.0], [5.0, 5.0]])
    with tf.GradientTape() as tape:
        loss = losses.iou_loss(predicted, tf.constant([[4.0, 6.0]] * 2 + [[0.0, 0.0]]), kind)
    gradient = tape.gradient(loss, predicted).numpy()
    assert np.isfinite(gradient).all()
    assert gradient[0].sum() < 0  # later is better
    assert gradient[1].sum() > 0


@pytest.mark.parametrize("kind", ["diou", "giou"])
def test_iou_losses_of_both_heads(kind, make_config, network):
    """Against the definition, on segments that overlap: 1 - tIoU and the penalty in float64."""
    config = make_config(anchor_free_regression=kind, anchor_regression=kind, anchor_free_regression_weight=3.0)
    outputs, batch = random_batch(config)
    parts, _ = Objective(config)(outputs, batch, SEED)
    rows = slow_matches(as_float64(outputs), as_float64(batch), config)
    found = []
    for _, _, decoded, best, action, *_ in rows:
        if best > config.match_tiou:
            enclosing = max(decoded[1], action[1]) - min(decoded[0], action[0])
            penalty = ((sum(decoded) - sum(action)) / 2 / enclosing) ** 2 if kind == "diou" else 0.0
            found.append(1 - best + penalty)
    np.testing.assert_allclose(parts["anchor_based_regression"], np.mean(found), rtol=1e-4)
    smooth, _ = Objective(make_config())(outputs, batch, SEED)
    assert 0 < parts["anchor_free_regression"] <= 2
    difference = sum(float(parts[name] * weight) for name, weight in loss_weights(config).items()) - parts["loss"]
    assert abs(difference) < 1e-3
    assert set(parts) == set(smooth)


def loss_weights(config):
    based = config.anchor_based_weight
    return {
        "anchor_free_regression": config.anchor_free_regression_weight,
        "anchor_free_classification": config.anchor_free_classification_weight,
        "anchor_based_classification": based,
        "anchor_based_overlap": based * config.overlap_weight,
        "anchor_based_regression": based * config.anchor_regression_weight,
    }

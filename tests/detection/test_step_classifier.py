"""The branch that tells the class of every step: network, targets, losses, means over segments, the localizer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection import geometry, losses, targets, windows
from a2net_tf.detection.model import build_model

RANDOM = np.random.default_rng(0)
SETTINGS = {"step_classifier": True, "step_channels": 6, "step_layers": 4, "step_stages": 2}


# --- the network


def relu(x):
    return np.maximum(x, 0)


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def convolve(x, kernel, bias, dilation=1):
    """Steps one by one; what lies outside the window is 0."""
    found = np.tile(bias.astype(np.float64), (len(x), 1))
    for step in range(len(x)):
        for k in range(len(kernel)):
            place = step + (k - len(kernel) // 2) * dilation
            if 0 <= place < len(x):
                found[step] += x[place] @ kernel[k]
    return found


def slow_step_logits(network, config, x):
    """Farha and Gall, Section 3, on one window [steps, features]: logits [stages, steps, classes + 1]."""
    weights = {layer.name: layer.get_weights() for layer in network.layers}
    stages, x = [], x.astype(np.float64)
    for stage in range(1, config.step_stages + 1):
        x = convolve(softmax(stages[-1]) if stages else x, *weights[f"step{stage}_in"])
        for i in range(1, config.step_layers + 1):
            y = relu(convolve(x, *weights[f"step{stage}_dilated{i}"], dilation=2 ** (i - 1)))
            x = x + convolve(y, *weights[f"step{stage}_mix{i}"])
        stages.append(convolve(x, *weights[f"step{stage}_predict"]))
    return np.stack(stages)


@pytest.mark.parametrize("changes", [{}, {"step_stages": 1}, {"step_layers": 5}, {"class_scores": "sigmoid"}])
def test_logits_equal_a_plain_forward_pass(changes, make_config, make_network):
    config = make_config(**{**SETTINGS, **changes})
    network = make_network(config)
    features = RANDOM.normal(size=(2, config.window_steps, 5)).astype(np.float32)
    found = network(features, training=False)["step_logits"]
    for logits, window in zip(found, features, strict=True):
        np.testing.assert_allclose(logits, slow_step_logits(network, config, window), rtol=1e-4, atol=1e-4)


def test_the_branch_changes_nothing_of_the_others(make_config):
    without = build_model(make_config(), 5, 3)
    network = build_model(make_config(**SETTINGS), 5, 3)
    values = {weight.path: weight for weight in network.weights}
    for weight in without.weights:
        weight.assign(values[weight.path])
    features = RANDOM.normal(size=(2, 32, 5)).astype(np.float32)
    found, expected = network(features), without(features)
    assert set(found) == {*expected, "step_logits"}
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_step_sees_as_far_as_the_dilations_reach(make_config, make_network):
    config = make_config(**{**SETTINGS, "step_stages": 1}, window_steps=64)
    network = make_network(config)
    for weight in network.trainable_variables:  # small ones would be lost to rounding at the far ends
        weight.assign(np.abs(weight) + 0.5)
    features = RANDOM.uniform(size=(1, 64, 5)).astype(np.float32)
    changed = features.copy()
    changed[0, 32] += 1
    difference = network(changed)["step_logits"].numpy()[0, 0] - network(features)["step_logits"].numpy()[0, 0]
    np.testing.assert_array_equal(
        np.flatnonzero(difference.max(axis=-1) > 0), np.arange(32 - 15, 32 + 16)
    )  # 1 + 2 + 4 + 8


# --- targets


def slow_labels(positions, segments, labels):
    found = []
    for position in positions:
        inside = [(e - s, i) for i, (s, e) in enumerate(segments) if s <= position < e]
        found.append(labels[min(inside)[1]] + 1 if inside else 0)
    return found


def test_labels_by_hand(same_in_graph):
    segments, labels = np.float32([[1, 6], [3, 5], [8, 9]]), np.int32([4, 0, 2])
    found = same_in_graph(targets.label_steps, np.arange(10, dtype=np.float32) + 0.5, segments, labels)
    np.testing.assert_array_equal(found, [0, 5, 5, 1, 1, 5, 0, 0, 3, 0])


@pytest.mark.parametrize("seed", range(3))
def test_labels_equal_a_slow_restatement(seed):
    random = np.random.default_rng(seed)
    start = random.uniform(-5, 40, 12)
    segments = np.stack([start, start + random.uniform(0.2, 15, 12)], axis=1).astype(np.float32)
    labels, positions = random.integers(0, 5, 12).astype(np.int32), np.arange(40, dtype=np.float32) + 0.5
    np.testing.assert_array_equal(
        targets.label_steps(positions, segments, labels), slow_labels(positions, segments, labels)
    )


def test_without_actions_all_is_background(same_in_graph):
    found = same_in_graph(targets.label_steps, np.float32([0.5, 1.5]), np.zeros((0, 2), np.float32), np.int32([]))
    np.testing.assert_array_equal(found, [0, 0])


# --- losses


def slow_losses(logits, labels):
    log = np.log(softmax(logits))
    classification, smoothing = [], []
    for b, row in enumerate(labels):
        for t, label in enumerate(row):
            if label >= 0:
                classification.append(-log[b, :, t, label].sum())
            if t and label >= 0 and row[t - 1] >= 0:
                change = np.minimum(np.abs(log[b, :, t] - log[b, :, t - 1]), 4) ** 2
                smoothing.append(change.mean(axis=-1).sum())
    return {
        name: np.mean(v) if v else 0.0
        for name, v in (("step_classification", classification), ("step_smoothing", smoothing))
    }


def step_batch(num_absent=3):
    logits = RANDOM.normal(size=(3, 2, 12, 4)).astype(np.float32) * 4
    labels = RANDOM.integers(0, 4, (3, 12)).astype(np.int32)
    labels[1, 12 - num_absent :] = -1
    labels[2] = 0  # a window without an action
    return logits, labels


def test_losses_equal_a_slow_computation(same_in_graph):
    logits, labels = step_batch()
    found = same_in_graph(lambda x, y: losses.means(losses.step_losses(x, y)), logits, labels)
    for name, value in slow_losses(logits.astype(np.float64), labels).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_what_lies_beyond_the_end_has_no_loss_and_no_gradient():
    logits, labels = step_batch(num_absent=12)
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        total = tf.add_n(list(losses.means(losses.step_losses(variable, labels)).values()))
    gradient = tape.gradient(total, variable).numpy()
    assert np.isfinite(gradient).all()
    assert not gradient[1].any()
    assert gradient[0].any()
    nothing = losses.means(losses.step_losses(logits, np.full_like(labels, -1)))
    assert {float(value) for value in nothing.values()} == {0.0}


# --- means over segments and over windows


def slow_means(values, segments, columns):
    found = []
    for (start, end), column in zip(segments.astype(np.float64), columns, strict=True):
        shares = [max(0.0, min(end, t + 1) - max(start, t)) for t in range(len(values))]
        found.append(np.dot(shares, values[:, column]) / (end - start) if end > start else 0.0)
    return found


def means(values, segments, columns, dtype=tf.float64):
    return geometry.segment_means(values, geometry.running_sums(values, dtype), segments, columns)


@pytest.mark.parametrize("dtype", [tf.float64, tf.float32])
def test_segment_means_equal_a_slow_computation(dtype, same_in_graph):
    values = RANDOM.uniform(size=(2, 30, 3)).astype(np.float32)
    segments = np.sort(RANDOM.uniform(0, 30, (2, 40, 2)), axis=-1).astype(np.float32)
    segments[:, 0], segments[:, 1], segments[:, 2] = [0, 30], [7, 7], [9, 4]  # all, nothing, reversed
    segments[:, 3], segments[:, 4], segments[:, 5] = [29, 30], [30, 30], [12.25, 12.5]
    columns = RANDOM.integers(0, 3, (2, 40)).astype(np.int32)
    found = same_in_graph(lambda *x: means(*x, dtype), values, segments, columns)
    for b in range(2):
        np.testing.assert_allclose(found[b], slow_means(values[b], segments[b], columns[b]), atol=1e-5)


def test_segment_means_of_a_long_sequence_are_exact():
    values = np.full((1, 2**20, 1), 0.1, np.float32)
    values[0, -8:] = 0.7
    segments = np.float32([[[2**20 - 8, 2**20], [2**20 - 4.5, 2**20 - 1.5], [2**20 - 16, 2**20]]])
    found = means(values, segments, np.zeros((1, 3), np.int32))
    np.testing.assert_allclose(found[0], [0.7, 0.7, 0.4], atol=1e-6)


def test_windows_add_up_by_hand(same_in_graph):
    values = np.float32([[[1], [2], [3]], [[10], [20], [30]], [[5], [6], [7]]])
    total = same_in_graph(
        lambda t, v, r, s, n: windows.add_windows(t, v, sequence=r, starts=s, num_steps=n),
        np.zeros((2, 5, 1), np.float32),
        values,
        np.int32([0, 0, 1]),
        np.int32([0, 2, 0]),
        np.int32([4, 2]),
    )
    np.testing.assert_array_equal(total[..., 0], [[1, 2, 13, 20, 0], [5, 6, 0, 0, 0]])


@pytest.mark.parametrize(
    ("num_steps", "stride", "expected"),
    [
        (1, 8, [0]),
        (32, 4, [0]),
        (33, 4, [0, 1]),
        (101, 4, [0, 32, 64, 69]),
        (90, 12, [0, 24, 48, 58]),
        (100, 32, [0, 32, 64, 68]),
    ],
)
def test_windows_side_by_side_by_hand(num_steps, stride, expected, same_in_graph):
    def found(steps):
        starts = windows.window_starts(steps, window_steps=32, stride_steps=stride)
        return windows.side_by_side(starts, 32, stride)

    np.testing.assert_array_equal(same_in_graph(found, np.int32(num_steps)), expected)


@pytest.mark.parametrize("stride", [1, 3, 16, 20, 32])
def test_windows_side_by_side_see_every_step(stride):
    for num_steps in range(1, 150):
        starts = windows.window_starts(tf.constant(num_steps), window_steps=32, stride_steps=stride)
        seen = {start + i for start in windows.side_by_side(starts, 32, stride).numpy() for i in range(32)}
        assert seen >= set(range(num_steps))


def test_equal_seeds_and_dropout(make_config):
    config = make_config(**SETTINGS, step_dropout=0.5)
    names = [layer.name for layer in build_model(config, 5, 3).layers if "dropout" in layer.name]
    assert len(names) == config.step_stages * config.step_layers
    assert isinstance(build_model(config, 5, 3), keras.Model)

"""What the proposal network learns from, against a restatement in numpy."""

import math

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection.objective import Objective
from a2net_tf.rc3d.objective import ProposalObjective, choose_anchors, objective_of
from a2net_tf.settings import Config
from tests.rc3d.test_network import config

SEED = tf.constant([0, 7])
RATIOS, CELLS = (1.0, 2.0, 3.0), 8  # of 64 steps
ACTIONS = [[(0.10, 0.40, 1), (0.62, 0.74, 3)], [(0.0, 1.0, 2)], []]


def tiou(a, b):
    shared = max(min(a[1], b[1]) - max(a[0], b[0]), 0.0)
    return shared / (a[1] - a[0] + b[1] - b[0] - shared)


def cross_entropy(logits, label):
    return math.log(sum(math.exp(value - logits[label]) for value in logits))


def smooth_l1(x, sigma):
    return 0.5 * (sigma * x) ** 2 if abs(x) < 1 / sigma**2 else abs(x) - 0.5 / sigma**2


def outputs_and_batch():
    random, anchors = np.random.default_rng(3), CELLS * len(RATIOS)
    outputs = {
        "anchor_logits": random.normal(size=(3, anchors, 2)),
        "anchor_offsets": random.normal(size=(3, anchors, 2)),
        "anchor_free_logits": random.normal(size=(3, CELLS, 2)),
        "anchor_free_distances": np.exp(random.normal(size=(3, CELLS, 2))),
        "refined_logits": random.normal(size=(3, 5, 4)),
        "refined_offsets": random.normal(size=(3, 5, 6)),
        "proposals": np.sort(random.uniform(size=(3, 5, 2)), axis=-1),
    }
    segments, labels = np.zeros((3, 2, 2)), np.zeros((3, 2), int)
    for b, actions in enumerate(ACTIONS):
        for g, (start, end, label) in enumerate(actions):
            segments[b, g], labels[b, g] = (start, end), label
    batch = {"segments": tf.constant(segments, tf.float32), "labels": tf.constant(labels, tf.int32)}
    return {name: tf.constant(value, tf.float32) for name, value in outputs.items()}, batch


def anchors_of_a_window():
    return [((i + 0.5) / CELLS, ratio / CELLS) for i in range(CELLS) for ratio in RATIOS]


def match(actions):
    """{anchor: (label, action)} of those within the window: 1 for an action, 0 for background, without the rest."""
    ends = [(c - w / 2, c + w / 2) for c, w in anchors_of_a_window()]
    usable = [i for i, (start, end) in enumerate(ends) if start >= -1e-6 and end <= 1 + 1e-6]
    overlap = {i: [tiou(ends[i], action[:2]) for action in actions] for i in usable}
    found = {}
    for i in usable:
        best = max(overlap[i], default=0.0)
        if best > 0.7:
            found[i] = (1, actions[overlap[i].index(best)])
        elif best < 0.3:
            found[i] = (0, None)
    for g, action in enumerate(actions):
        found[max(usable, key=lambda i, g=g: overlap[i][g])] = (1, action)
    return found


def expected_of_anchors(outputs):
    surprises, errors = [], []
    for b, actions in enumerate(ACTIONS):
        for i, (label, action) in match(actions).items():
            surprises.append(cross_entropy(outputs["anchor_logits"][b, i].numpy(), label))
            if label:
                center, width = anchors_of_a_window()[i]
                start, end, _ = action
                target = ((start + end) / 2 - center) / width, math.log((end - start) / width)
                errors.append(
                    sum(
                        smooth_l1(x - t, 3)
                        for x, t in zip(outputs["anchor_offsets"][b, i].numpy(), target, strict=True)
                    )
                )
    return sum(surprises) / len(surprises), sum(errors) / len(surprises)


def test_anchors_learn_as_in_a_restatement():
    made = config(window_steps=64, anchor_ratios=RATIOS, match_tiou=0.7)
    outputs, batch = outputs_and_batch()
    parts, positives = ProposalObjective(made)(outputs, batch, SEED)  # fewer than 64 anchors: all are chosen
    classification, regression = expected_of_anchors(outputs)
    np.testing.assert_allclose(parts["anchor_based_classification"], classification, rtol=1e-5)
    np.testing.assert_allclose(parts["anchor_based_regression"], regression, rtol=1e-5)
    number = sum(label for actions in ACTIONS for label, _ in match(actions).values())
    assert float(positives["anchor_based_positives_level3"]) == pytest.approx(number / 3)


def test_cells_learn_distances_as_logarithms():
    made = config(window_steps=64, anchor_ratios=RATIOS)
    outputs, batch = outputs_and_batch()
    parts, _ = ProposalObjective(made)(outputs, batch, SEED)
    errors, units = [], 32  # grid units of the window; a cell has four
    for b, actions in enumerate(ACTIONS):
        for cell in range(CELLS):
            center = 2 + 4 * cell
            inside = [a for a in actions if a[0] * units <= center < a[1] * units]
            if inside:
                start, end, _ = min(inside, key=lambda a: a[1] - a[0])
                distances = outputs["anchor_free_distances"][b, cell].numpy()
                targets = center - start * units, end * units - center
                pairs = zip(distances, targets, strict=True)
                errors.append(sum(smooth_l1(math.log(d) - math.log(max(t, 0.5)), 1) for d, t in pairs))
    np.testing.assert_allclose(parts["anchor_free_regression"], np.mean(errors), rtol=1e-5)


def test_as_many_other_cells_as_cells_in_actions():
    made = config(window_steps=64, anchor_ratios=RATIOS)
    outputs, batch = outputs_and_batch()
    outputs["anchor_free_logits"] = tf.zeros_like(outputs["anchor_free_logits"])  # each costs log 2
    agnostic = {**batch, "labels": tf.minimum(batch["labels"], 1)}
    sums, foreground = ProposalObjective(made)._anchor_free(outputs, agnostic, SEED, (0, 1))
    inside = foreground.numpy().sum(axis=1)
    assert inside.tolist() == [3, 8, 0]
    assert float(sums["anchor_free_classification"].count) == 3 + 3 + 8 + 0 + 0 + 1


def test_draw_of_anchors():
    random = np.random.default_rng(0)
    positive = random.uniform(size=(50, 960)) < np.linspace(0, 0.2, 50)[:, None]
    background = ~positive & (random.uniform(size=(50, 960)) < 0.5)
    background[3] = False
    chosen, others = (v.numpy() for v in choose_anchors(tf.constant(positive), tf.constant(background), SEED))
    assert (chosen <= positive).all()
    assert (others <= background).all()
    np.testing.assert_array_equal(chosen.sum(axis=1), np.minimum(positive.sum(axis=1), 32))
    expected = np.minimum(64 - chosen.sum(axis=1), background.sum(axis=1))
    np.testing.assert_array_equal(others.sum(axis=1), expected)
    assert expected[3] == 0


def test_draw_does_not_depend_on_how_many_devices_share_a_batch():
    usable = tf.ones((4, 960), tf.bool)
    whole = choose_anchors(usable, usable, SEED)
    halves = [choose_anchors(usable[:2], usable[:2], SEED, (i, 2)) for i in (0, 1)]
    for all_at_once, parts in zip(whole, zip(*halves, strict=True), strict=True):
        np.testing.assert_array_equal(all_at_once, np.concatenate(parts))


def test_which_objective():
    assert type(objective_of(Config())) is Objective
    assert type(objective_of(config())) is ProposalObjective
    assert not [name for name in objective_of(config()).names if name.endswith("_overlap")]

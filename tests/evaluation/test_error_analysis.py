"""Error analysis, beside hand-made cases and a plain restatement of DETAD's definitions."""

import json
import math

import numpy as np
import pytest

from a2net_tf.errors import UserError
from a2net_tf.evaluation import error_analysis, protocols
from a2net_tf.evaluation.instances import Detections, GroundTruth

THRESHOLDS = (0.3, 0.5, 0.7)


def truth(*rows):
    """Ground truth of (video, start, end, label) rows."""
    return GroundTruth([r[0] for r in rows], [r[1:3] for r in rows], [r[3] for r in rows])


def found(*rows):
    """Detections of (video, start, end, label, score) rows."""
    return Detections([r[0] for r in rows], [r[1:3] for r in rows], [r[3] for r in rows], [r[4] for r in rows])


def analyze(ground_truth, detections, thresholds=(0.5,), **kwargs):
    result = error_analysis.analyze(
        ground_truth, detections, tiou_thresholds=thresholds, num_classes=kwargs.pop("num_classes", 2), **kwargs
    )
    return json.loads(json.dumps(result, allow_nan=False))


ACTIONS = truth(("v", 0, 10, 0), ("v", 20, 30, 1), ("w", 0, 40, 0))
ONE_OF_EACH = found(
    ("v", 0, 10, 0, 0.9),  # true
    ("v", 1, 10, 0, 0.8),  # the same action again
    ("v", 20, 30, 0, 0.7),  # the action of another class
    ("v", 0, 4, 0, 0.6),  # tIoU 0.4
    ("v", 20, 24, 0, 0.5),  # the same with another class
    ("v", 50, 60, 0, 0.4),  # nothing there
    ("nowhere", 0, 10, 0, 0.3),  # a video without actions
    ("v", 9.1, 18.1, 0, 0.2),  # tIoU 0.05
)


def test_one_detection_of_every_type():
    outcomes = error_analysis.judge(ACTIONS, ONE_OF_EACH, [0.5])
    assert outcomes.types.tolist() == [[0, 1, 2, 3, 4, 5, 5, 5]]
    assert outcomes.matched.tolist() == [[0, -1, -1, -1, -1, -1, -1, -1]]
    assert outcomes.nearest.tolist() == [0, 0, 1, 0, 1, -1, -1, 0]
    np.testing.assert_allclose(outcomes.tious, [1, 0.9, 1, 0.4, 0.4, 0, 0, 0.9 / 18.1])
    assert outcomes.ranks.tolist() == list(range(8))


def test_gains_by_hand():
    result = analyze(ACTIONS, found(("v", 50, 60, 0, 0.95), *[("v", 0, 10, 0, 0.9), ("w", 0, 39, 0, 0.1)]))
    # Class 0: background, true, true; AP (2/3 + 2/3) / 2. Class 1: nothing, 0.
    assert result["average_mAP"] == pytest.approx(2 / 3 / 2)
    errors = result["false_positives"]
    assert errors["background"]["gain"] == pytest.approx((1 - 2 / 3) / 2)
    assert errors["background"]["share"] == pytest.approx(1 / 3)
    assert [errors[name]["gain"] for name in error_analysis.TYPES[1:-1]] == [0, 0, 0, 0]
    # Three actions in two classes: 1.5 stand in place of each class's number.
    assert result["average_mAP_normalized"] == pytest.approx(1.5 / 2.5 / 2)
    assert errors["background"]["gain_normalized"] == pytest.approx((1 - 1.5 / 2.5) / 2)
    assert result["missed"] == pytest.approx(1 / 3)
    assert result["profile"][0] == {
        "num_detections": 2,
        "share": {**dict.fromkeys(error_analysis.TYPES, 0.0), "true_positive": 0.5, "background": 0.5},
    }
    assert result["profile"][1]["num_detections"] == 1
    assert result["profile"][2] == {"num_detections": 0, "share": None}


def test_a_threshold_is_reached_exactly():
    half = found(("w", 0, 20, 0, 0.9), ("w", 0, 20, 1, 0.8), ("w", 0, 4, 0, 0.7))  # tIoU 0.5, 0.5, 0.1
    types = error_analysis.judge(ACTIONS, half, [0.5, 0.6]).types.tolist()
    assert types == [[0, 2, 3], [3, 4, 3]]


def test_only_ten_times_the_actions_are_looked_at():
    rows = [("v", 0, 10, 0, 1.0)] + [("v", 50, 60, 0, 0.9 - 0.01 * i) for i in range(30)]
    result = analyze(truth(("v", 0, 10, 0)), found(*rows))
    assert sum(row["num_detections"] for row in result["profile"]) == 10
    assert result["false_positives"]["background"]["share"] == pytest.approx(0.9)
    assert result["false_positives"]["true_positive"] == {"share": pytest.approx(0.1)}


def test_what_finds_an_action_with_too_little_precision_finds_nothing():
    rows = [("v", 50, 60, 0, 0.9 - 0.001 * i) for i in range(30)] + [("v", 0, 10, 0, 0.1)]
    assert analyze(truth(("v", 0, 10, 0)), found(*rows))["missed"] == 1
    assert analyze(truth(("v", 0, 10, 0)), found(*rows[12:]))["missed"] == 0  # precision 1 / 19


def test_actions_without_length_or_longer_than_their_video_are_left_out():
    actions = truth(("v", 0, 10, 0), ("v", 5, 5, 0), ("v", 0, 99, 1))
    result = analyze(actions, found(("v", 0, 10, 0, 0.5)), durations={"v": 50})
    assert result["average_mAP"] == 1
    assert result["missed"] == 0
    assert result["by_property"]["coverage"]["buckets"][0]["num_ground_truths"] == 1
    assert analyze(truth(("v", 5, 5, 0)), found()) is None
    with pytest.raises(UserError, match="no ground truth"):
        error_analysis.judge(truth(), found(), [0.5])


def test_buckets_by_hand():
    actions = truth(("v", 0, 30, 0), ("v", 40, 71, 0), ("w", 0, 200, 0), ("w", 0, 100, 1))
    result = analyze(actions, found(("v", 0, 30, 0, 0.5)), durations={"v": 100, "w": 250})["by_property"]
    length = result["length"]
    assert length["edges"] == "detad"
    assert [b["num_ground_truths"] for b in length["buckets"]] == [1, 1, 1, 0, 1]  # 30 s is XS, as in DETAD
    assert [b["missed"] for b in length["buckets"]] == [0, 1, 1, None, 1]
    assert [b["average_mAP_normalized"] for b in length["buckets"]] == [1, 0, 0, None, 0]
    assert length["buckets"][-1] == {
        "name": "XL",
        "above": 180,
        "up_to": None,
        "num_ground_truths": 1,
        "missed": 1,
        "average_mAP_normalized": 0,
    }
    assert [b["num_ground_truths"] for b in result["num_instances"]["buckets"]] == [2, 2, 0, 0]
    assert [b["num_ground_truths"] for b in result["coverage"]["buckets"]] == [0, 3, 0, 1, 0]


def test_fifths_where_the_buckets_tell_nothing():
    actions = truth(*[("v", 50 * i, 50 * i + i + 1, 0) for i in range(10)])  # 1 to 10 seconds
    result = analyze(actions, found())["by_property"]
    assert set(result) == {"length", "num_instances"}  # no durations, no coverage
    assert result["length"]["edges"] == "fifths"
    assert [b["up_to"] for b in result["length"]["buckets"]] == [2, 4, 6, 8, None]
    assert [b["num_ground_truths"] for b in result["length"]["buckets"]] == [2] * 5
    assert result["num_instances"]["edges"] == "detad"  # all are the same: nothing to divide
    thumos = analyze(actions, found(), protocol="thumos14")["by_property"]["length"]
    assert [b["up_to"] for b in thumos["buckets"]] == [3, 6, 12, 18, None]


def test_no_detections_and_odd_ones():
    result = analyze(ACTIONS, found())
    assert (result["average_mAP"], result["missed"]) == (0, 1)
    assert all(errors["share"] == 0 for errors in result["false_positives"].values())
    odd = found(("v", 10, 0, 0, 0.9), ("v", math.nan, 3, 0, 0.8), ("v", 4, 4, 1, 0.7))
    assert error_analysis.judge(ACTIONS, odd, [0.5]).types.tolist() == [[5, 5, 5]]


# A plain restatement: one loop for one sentence of the definitions.


def overlap(a, b):
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / (a[1] - a[0] + b[1] - b[0] - shared)


def plain_match(actions, ranked, threshold):
    taken, matched = set(), []
    for video, start, end, label, _ in ranked:
        free = [
            (overlap((start, end), row[1:3]), -i)
            for i, row in enumerate(actions)
            if row[0] == video and row[3] == label and i not in taken
        ]
        best, number = max(free, default=(0.0, 0))
        matched.append(-number if best >= threshold else None)
        taken |= {-number} if best >= threshold else set()
    return matched


def plain_type(actions, detection, matched, threshold):
    if matched is not None:
        return "true_positive"
    video, start, end, label, _ = detection
    near = [(overlap((start, end), row[1:3]), -i) for i, row in enumerate(actions) if row[0] == video]
    best, number = max(near, default=(0.0, 0))
    same = near and actions[-number][3] == label
    if best >= threshold:
        return "double_detection" if same else "wrong_label"
    if best >= 0.1:
        return "localization" if same else "confusion"
    return "background"


def plain_ap(hits, num_actions, instances):
    """Area under the interpolated curve of a list of True and False."""
    points, right = [], 0
    for n, hit in enumerate(hits, start=1):
        right += hit
        positives = right / num_actions * instances
        points.append((right / num_actions, positives / (positives + n - right) if right else 0.0))
    area, before = 0.0, 0.0
    for i, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[i:])
        before = recall
    return area


def plain_analysis(actions, detections, thresholds):
    """Base mAP, gains, shares, missed, and mAP of the actions that are longer than 10 s; everything normalised."""
    classes = sorted({row[3] for row in actions})
    count = {c: sum(row[3] == c for row in actions) for c in classes}
    mean = len(actions) / len(classes)
    ranked = sorted(detections, key=lambda row: -row[4])
    base, without = [], {name: [] for name in error_analysis.TYPES[1:]}
    shares, missed, long_ones = dict.fromkeys(error_analysis.TYPES, 0), 0, []
    all_matches = {threshold: plain_match(actions, ranked, threshold) for threshold in thresholds}
    for threshold in thresholds:
        matched = all_matches[threshold]
        types = [plain_type(actions, d, m, threshold) for d, m in zip(ranked, matched, strict=True)]
        for c in classes:
            own = [i for i, d in enumerate(ranked) if d[3] == c]
            top = own[: 10 * count[c]]
            base.append(plain_ap([matched[i] is not None for i in top], count[c], mean))
            for name, values in without.items():
                values.append(plain_ap([matched[i] is not None for i in top if types[i] != name], count[c], mean))
            for i in top:
                shares[types[i]] += 1
            right, hit = 0, set()
            for seen, i in enumerate(own, start=1):
                right += matched[i] is not None
                positives = right / count[c] * mean
                if matched[i] is not None and positives / (positives + seen - right) > 0.05:
                    hit.add(matched[i])
            missed += count[c] - len(hit)
            inside = {i for i, row in enumerate(actions) if row[3] == c and row[2] - row[1] > 10}
            if inside:
                kept = [i for i in own if all(m[i] is None or m[i] in inside for m in all_matches.values())]
                long_ones.append(plain_ap([matched[i] is not None for i in kept], len(inside), mean))
    total = max(sum(shares.values()), 1)
    return {
        "base": np.mean(base),
        "gains": {name: np.mean(values) - np.mean(base) for name, values in without.items()},
        "shares": {name: number / total for name, number in shares.items()},
        "missed": missed / len(actions) / len(thresholds),
        "long": np.mean(long_ones) if long_ones else None,
    }


@pytest.mark.parametrize("seed", range(20))
def test_random_cases_beside_the_restatement(seed, monkeypatch):
    draw = np.random.default_rng(seed)
    actions = []
    for _ in range(draw.integers(3, 25)):
        start, length = draw.uniform(0, 60), draw.choice([4, 9, 15]) + draw.random()  # no two are equally near
        actions.append((f"v{draw.integers(3)}", start, start + length, int(draw.integers(3))))
    detections = []
    for score in draw.permutation(400)[: draw.integers(1, 400)] / 400:
        video, start, end, label = actions[draw.integers(len(actions))]
        moved = start + draw.normal(0, 3), end + draw.normal(0, 3)
        if moved[1] > moved[0]:
            other = int(draw.integers(4)) if draw.random() < 0.3 else label  # 3: a class without actions
            detections.append((video if draw.random() < 0.9 else "elsewhere", *moved, other, float(score)))
    monkeypatch.setitem(error_analysis.EDGES["activitynet"], "length", (10.0,))
    monkeypatch.setattr(error_analysis, "_MOST_IN_ONE", 1)
    result = analyze(truth(*actions), found(*detections), THRESHOLDS, num_classes=4)
    plain = plain_analysis(actions, detections, THRESHOLDS)
    errors = result["false_positives"]
    assert result["average_mAP_normalized"] == pytest.approx(plain["base"])
    assert {name: row["share"] for name, row in errors.items()} == pytest.approx(plain["shares"])
    assert {name: errors[name]["gain_normalized"] for name in plain["gains"]} == pytest.approx(plain["gains"])
    assert result["missed"] == pytest.approx(plain["missed"])
    buckets = result["by_property"]["length"]["buckets"]
    assert buckets[1]["average_mAP_normalized"] == (plain["long"] and pytest.approx(plain["long"]))
    if len(detections) <= 10 * min(np.bincount([row[3] for row in actions])[[row[3] for row in actions]]):
        metrics = protocols.evaluate(
            *(truth(*actions), found(*detections)),
            protocol="activitynet",
            tiou_thresholds=THRESHOLDS,
            class_names=["a", "b", "c", "d"],
        )
        assert result["average_mAP"] == pytest.approx(metrics["average_mAP"])
        assert result["average_mAP_normalized"] == pytest.approx(metrics["average_mAP_normalized"])

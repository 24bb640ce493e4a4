import json
import time

import numpy as np
import pytest

from a2net_tf.errors import UserError
from a2net_tf.evaluation import instances, proposals, protocols
from a2net_tf.evaluation.instances import Detections, GroundTruth
from a2net_tf.report import text_tables


def truth(*rows, ambiguous=()):
    """Ground truth of (video, start, end, label) rows."""
    return GroundTruth(
        [r[0] for r in rows],
        [r[1:3] for r in rows],
        [r[3] for r in rows],
        [a[0] for a in ambiguous],
        [a[1:] for a in ambiguous],
    )


def found(*rows):
    """Detections of (video, start, end, label, score) rows."""
    return Detections([r[0] for r in rows], [r[1:3] for r in rows], [r[3] for r in rows], [r[4] for r in rows])


def evaluate(ground_truth, detections, protocol, thresholds=(0.5,), names=("a", "b"), edges=()):
    metrics = protocols.evaluate(
        ground_truth,
        detections,
        protocol=protocol,
        tiou_thresholds=thresholds,
        class_names=names,
        duration_edges=edges,
    )
    return json.loads(json.dumps(metrics, allow_nan=False))


def ap_of_a(*args, **kwargs):
    return evaluate(*args, **kwargs)["per_class"]["a"]["AP"][0]


both = pytest.mark.parametrize("protocol", ["thumos14", "activitynet"])


def test_tiou_matrix_by_hand():
    a = np.array([[0, 10], [5, 5], [9, 1], [np.nan, 4], [0, np.inf]])
    b = np.array([[5, 15], [0, 10], [10, 12], [5, 5]], float)
    result = instances.tiou_matrix(a, b)
    np.testing.assert_allclose(result[0], [5 / 15, 1, 0, 0])
    np.testing.assert_array_equal(result[1:], 0)
    assert instances.tiou_matrix(a, b[:0]).shape == (5, 0)


def test_tiou_matrix_is_symmetric_and_one_with_itself():
    segments = np.sort(np.random.default_rng(0).uniform(0, 20, (30, 2)), axis=1)
    result = instances.tiou_matrix(segments, segments)
    np.testing.assert_array_equal(result, result.T)
    np.testing.assert_array_equal(np.diag(result), 1)
    assert (result <= 1).all()


def test_average_precision_by_hand():
    is_true = np.array([False, True, True])
    assert protocols.average_precision_thumos14(is_true, 2) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert protocols.average_precision_activitynet(is_true, 2) == pytest.approx(2 / 3)
    assert protocols.average_precision_thumos14(is_true, 4) == pytest.approx((1 / 2 + 2 / 3) / 4)
    assert protocols.average_precision_activitynet(is_true, 4) == pytest.approx(2 / 3 * 2 / 4)


def test_average_precision_of_no_detections_is_zero():
    nothing = np.empty(0, bool)
    assert protocols.average_precision_thumos14(nothing, 3) == 0
    assert protocols.average_precision_activitynet(nothing, 3) == 0


def test_normalized_precision_by_hand():
    precision, recall = protocols.precision_and_recall(np.array([True, False, True]), 3, instances_per_class=2)
    np.testing.assert_allclose(recall, [1 / 3, 1 / 3, 2 / 3])
    np.testing.assert_allclose(precision, [1, (2 / 3) / (2 / 3 + 1), (4 / 3) / (4 / 3 + 1)])


def test_thumos14_wants_more_than_the_threshold_and_activitynet_at_least_it():
    args = truth(("v", 0, 10, 0)), found(("v", 0, 5, 0, 0.9))
    assert ap_of_a(*args, "thumos14") == 0
    assert ap_of_a(*args, "activitynet") == 1


def test_thumos14_ground_truth_takes_the_best_overlap_but_activitynet_detection_comes_first_by_score():
    args = truth(("v", 0, 10, 0)), found(("v", 0, 6, 0, 0.9), ("v", 0, 10, 0, 0.8))
    assert ap_of_a(*args, "thumos14") == pytest.approx(1 / 2)
    assert ap_of_a(*args, "activitynet") == 1


def test_thumos14_ground_truths_choose_in_file_order():
    a, b = ("v", 0, 10, 0), ("v", 0, 8, 0)
    detections = found(("v", 0, 9, 0, 0.9), ("v", 0, 11.25, 0, 0.8))  # tIoU with a .9, .889; with b .889, .711
    assert ap_of_a(truth(a, b), detections, "thumos14", [0.8]) == pytest.approx(1 / 2)
    assert ap_of_a(truth(b, a), detections, "thumos14", [0.8]) == 1


def test_activitynet_detection_falls_back_to_the_next_best_ground_truth():
    ground_truth = truth(("v", 0, 10, 0), ("v", 0, 8, 0))
    detections = found(("v", 0, 10, 0, 0.9), ("v", 0, 9.5, 0, 0.8))  # the second prefers the first action: .95, .84
    assert ap_of_a(ground_truth, detections, "activitynet", [0.8]) == 1
    assert ap_of_a(ground_truth, detections, "activitynet", [0.9]) == pytest.approx(1 / 2)


@both
def test_second_detection_of_an_action_is_wrong(protocol):
    ground_truth = truth(("v", 0, 10, 0), ("w", 0, 10, 0))
    detections = found(("v", 0, 10, 0, 0.9), ("v", 0, 10, 0, 0.8), ("w", 0, 10, 0, 0.7))
    assert ap_of_a(ground_truth, detections, protocol) == pytest.approx((1 + 2 / 3) / 2)


@both
def test_detection_of_other_video_or_class_is_wrong(protocol):
    ground_truth = truth(("v", 0, 10, 0), ("w", 50, 60, 1))
    detections = found(("w", 0, 10, 0, 0.9), ("unknown", 0, 10, 0, 0.85), ("v", 0, 10, 0, 0.8), ("v", 0, 10, 1, 0.7))
    metrics = evaluate(ground_truth, detections, protocol)
    assert metrics["per_class"]["a"]["AP"] == [pytest.approx(1 / 3)]
    assert metrics["per_class"]["b"]["AP"] == [0]
    assert metrics["mAP"] == [pytest.approx(1 / 6)]


def test_thumos14_drops_unmatched_detections_that_overlap_ambiguous():
    ground_truth = truth(("v", 0, 10, 0), ambiguous=[("v", 8, 30), ("w", 40, 50)])
    dropped, touching, elsewhere = ("v", 29.9, 60, 0, 0.9), ("v", 30, 60, 0, 0.9), ("v", 40, 50, 0, 0.9)
    matched = ("v", 0, 10, 0, 0.5)  # overlaps Ambiguous too, but counts
    assert ap_of_a(ground_truth, found(dropped, matched), "thumos14") == 1
    assert ap_of_a(ground_truth, found(touching, matched), "thumos14") == pytest.approx(1 / 2)
    assert ap_of_a(ground_truth, found(elsewhere, matched), "thumos14") == pytest.approx(1 / 2)
    assert ap_of_a(ground_truth, found(dropped, matched), "activitynet") == pytest.approx(1 / 2)


def test_thumos14_ambiguous_counts_in_videos_without_ground_truth_of_the_class():
    ground_truth = truth(("v", 0, 10, 0), ambiguous=[("w", 0, 5)])
    assert ap_of_a(ground_truth, found(("w", 4, 9, 0, 0.9), ("v", 0, 10, 0, 0.5)), "thumos14") == 1
    assert evaluate(ground_truth, Detections.empty(), "thumos14")["num_videos"] == 2


@both
def test_class_without_detections_has_zero_and_class_without_ground_truth_is_left_out(protocol):
    ground_truth = truth(("v", 0, 10, 0), ("v", 0, 10, 1))
    detections = found(("v", 0, 10, 0, 0.9), ("v", 0, 10, 2, 0.9))
    metrics = evaluate(ground_truth, detections, protocol, names=("a", "b", "c"))
    assert metrics["per_class"]["b"] == {
        "AP": [0],
        "AP_normalized": [0],
        "num_ground_truths": 1,
        "num_detections": 0,
    }
    assert metrics["per_class"]["c"]["AP"] is None
    assert metrics["per_class"]["c"]["num_detections"] == 1
    assert metrics["mAP"] == [0.5]


RIGHT, WRONG = ("v", 0, 10, 0, 0.9), ("v", 50, 60, 0, 0.9)


@both
@pytest.mark.parametrize(("detections", "expected"), [((WRONG, RIGHT), 1 / 2), ((RIGHT, WRONG), 1)])
def test_equal_scores_in_one_video_count_as_given(protocol, detections, expected):
    """True positives come not first: a detector with rounded scores would look better than it is."""
    assert ap_of_a(truth(("v", 0, 10, 0)), found(*detections), protocol) == pytest.approx(expected)


@pytest.mark.parametrize(("wrong_video", "expected"), [("u", 1 / 2), ("w", 1)])
def test_equal_scores_of_several_videos_by_thumos14_are_ordered_by_the_names_of_videos(wrong_video, expected):
    wrong = (wrong_video, 0, 10, 0, 0.9)
    for rows in ((wrong, RIGHT), (RIGHT, wrong)):
        assert ap_of_a(truth(("v", 0, 10, 0)), found(*rows), "thumos14") == pytest.approx(expected)


def test_equal_scores_of_several_videos_by_activitynet_count_as_given():
    wrong = ("u", 0, 10, 0, 0.9)
    assert ap_of_a(truth(("v", 0, 10, 0)), found(wrong, RIGHT), "activitynet") == pytest.approx(1 / 2)
    assert ap_of_a(truth(("v", 0, 10, 0)), found(RIGHT, wrong), "activitynet") == 1


@both
def test_a_thousand_equal_scores(protocol):
    """One of a thousand is right, in the middle: none before or behind it is preferred."""
    rows = [("v", 100 + 10 * i, 105 + 10 * i, 0, 0.5) for i in range(1000)]
    assert ap_of_a(truth(("v", 100 + 10 * 499, 105 + 10 * 499, 0)), found(*rows), protocol) == pytest.approx(1 / 500)


@both
@pytest.mark.parametrize(
    "bad",
    [("v", 10, 0, 0, 0.9), ("v", 5, 5, 0, 0.9), ("v", np.nan, 10, 0, 0.9), ("v", 0, np.inf, 0, 0.9)]
    + [("v", 0, 10, 0, np.inf)],
)
def test_reversed_empty_and_infinite_detections_are_wrong_and_counted(protocol, bad):
    ground_truth = truth(("v", 0, 10, 0), ambiguous=[("v", 0, 100)] if protocol == "activitynet" else [])
    metrics = evaluate(ground_truth, found(bad, ("v", 0, 10, 0, 0.5)), protocol, edges=(3,))
    assert metrics["per_class"]["a"]["AP"] == [pytest.approx(1 / 2)]
    assert metrics["num_reversed_detections"] == 1


def test_reversed_detection_is_not_excused_by_ambiguous():
    ground_truth = truth(("v", 0, 10, 0), ambiguous=[("v", 0, 100)])
    detections = found(("v", 60, 50, 0, 0.9), ("v", 0, 10, 0, 0.5))
    assert ap_of_a(ground_truth, detections, "thumos14") == pytest.approx(1 / 2)


@both
def test_detection_without_a_score_comes_last(protocol):
    args = truth(("v", 0, 10, 0)), found(("v", 0, 10, 0, np.nan), ("v", 0, 10, 0, 0.5))
    assert ap_of_a(*args, protocol) == 1


@both
def test_normalized_map_by_hand(protocol):
    ground_truth = truth(("v", 0, 10, 0), ("v", 0, 10, 1), ("v", 20, 30, 1), ("v", 40, 50, 1))  # N = 2
    a = found(("v", 60, 70, 0, 0.9), ("v", 0, 10, 0, 0.8))  # wrong, right
    b = found(("v", 0, 10, 1, 0.9), ("v", 60, 70, 1, 0.8), ("v", 20, 30, 1, 0.7))  # right, wrong, right
    metrics = evaluate(ground_truth, Detections.concatenate([a, b]), protocol, names=["a", "b", "without ground truth"])
    assert metrics["per_class"]["a"]["AP_normalized"] == [pytest.approx(2 / 3)]
    assert metrics["per_class"]["b"]["AP_normalized"] == [pytest.approx((1 + 4 / 7) / 3)]
    assert metrics["mAP_normalized"] == [pytest.approx((2 / 3 + (1 + 4 / 7) / 3) / 2)]
    assert metrics["average_mAP_normalized"] == pytest.approx(metrics["mAP_normalized"][0])


@both
def test_normalized_equals_plain_when_all_classes_are_equally_frequent(protocol):
    ground_truth, detections = random_case(3, num_classes=1)
    metrics = evaluate(ground_truth, detections, protocol, names=["a"])
    np.testing.assert_allclose(metrics["mAP_normalized"], metrics["mAP"])


@both
def test_no_detections_at_all(protocol):
    metrics = evaluate(truth(("v", 0, 10, 0)), Detections.empty(), protocol, [0.3, 0.5], edges=(5,))
    assert metrics["mAP"] == metrics["mAP_normalized"] == [0, 0]
    assert metrics["average_mAP"] == 0
    assert metrics["num_detections"] == 0


def test_by_own_duration_by_hand():
    protocol = "activitynet"
    ground_truth = truth(("v", 0, 1, 0), ("v", 10, 20, 0))
    detections = found(
        ("v", 50, 50.5, 0, 0.95),  # short, wrong
        ("v", 0, 1, 0, 0.9),  # short, right
        ("v", 30, 40, 0, 0.8),  # long, wrong
        ("v", 60, 70, 0, 0.75),  # long, wrong
        ("v", 10, 20, 0, 0.7),  # long, right
    )
    short, long, longer = evaluate(ground_truth, detections, protocol, edges=(2, 60))["by_duration"]
    assert short == {
        "from_seconds": 0,
        "to_seconds": 2,
        "num_ground_truths": 1,
        "mAP": [pytest.approx(1 / 2)],
        "average_mAP": pytest.approx(1 / 2),
    }
    assert long["mAP"] == [pytest.approx(1 / 3)]
    assert longer == {
        "from_seconds": 60,
        "to_seconds": None,
        "num_ground_truths": 0,
        "mAP": [None],
        "average_mAP": None,
    }


@both
def test_long_detection_of_a_short_action_belongs_to_the_short_ones(protocol):
    ground_truth = truth(("v", 0, 1.9, 0), ("v", 10, 12, 0))  # a duration of 2 s lies in [2, ...)
    detections = found(("v", 0, 2.5, 0, 0.9), ("v", 10, 12, 0, 0.8))
    short, long = evaluate(ground_truth, detections, protocol, edges=(2,))["by_duration"]
    assert (short["mAP"], long["mAP"]) == ([1], [1])
    assert (short["num_ground_truths"], long["num_ground_truths"]) == (1, 1)


def test_by_own_duration_over_several_videos():
    protocol = "activitynet"
    ground_truth = truth(("w", 0, 10, 0), ("v", 0, 1, 0), ("x", 0, 10, 0), ("x", 20, 21, 0))
    detections = found(("w", 0, 10, 0, 0.9), ("x", 20, 21, 0, 0.8), ("y", 0, 1, 0, 0.7), ("v", 0, 1, 0, 0.6))
    short, long = evaluate(ground_truth, detections, protocol, edges=(5,))["by_duration"]
    assert short["mAP"] == [pytest.approx((1 + 2 / 3) / 2)]
    assert long["mAP"] == [0.5]


def test_by_nearest_action_by_hand():
    ground_truth = truth(("v", 0, 1, 0), ("v", 10, 20, 0), ("v", 30, 31, 1), ("w", 0, 1, 0))
    detections = found(
        ("v", 50, 50.5, 0, 0.95),  # overlaps no action: in no bucket
        ("v", 30, 40, 0, 0.9),  # overlaps only a short action, of another class: wrong among the short ones
        ("v", 0, 1, 0, 0.8),  # short, right
        ("v", 10, 12, 0, 0.75),  # overlaps only the long action: wrong among the long ones
        ("v", 10, 20, 0, 0.7),  # long, right
    )
    metrics = evaluate(ground_truth, detections, "thumos14", names="ab", edges=(2, 60))
    short, long, longer = metrics["by_duration"]
    assert metrics["duration_rule"] == "nearest_action"
    assert short["mAP"] == [pytest.approx((1 / 2 / 2 + 0) / 2)]  # of class a, two actions, and of class b, one
    assert short["num_ground_truths"] == 3
    assert long["mAP"] == [pytest.approx(1 / 2)]
    assert (longer["num_ground_truths"], longer["mAP"], longer["average_mAP"]) == (0, [None], None)


def test_ambiguous_intervals_stay_in_every_bucket():
    ground_truth = truth(("v", 0, 10, 0), ambiguous=[("v", 8, 30)])
    detections = found(("v", 9, 25, 0, 0.9), ("v", 0, 10, 0, 0.8))
    assert evaluate(ground_truth, detections, "thumos14", edges=(2,))["by_duration"][1]["mAP"] == [1]


def test_fifths_of_the_actions():
    """Eleven actions of 1, 2, ..., 11 s: 2, 2, 2, 2 and 3 of them; equal durations go by the name of the video."""
    rows = [("v", 100 * i, 101 * i, 0) for i in range(1, 12)]
    buckets = evaluate(truth(*rows), found(), "thumos14", edges=None)["by_duration"]
    assert [b["num_ground_truths"] for b in buckets] == [2, 2, 2, 2, 3]
    assert [b["from_seconds"] for b in buckets] == [0, 3, 5, 7, 9]
    assert [b["to_seconds"] for b in buckets] == [3, 5, 7, 9, None]
    equal = [(name, 0, 1, 0) for name in "zyxwvutsrq"]
    first = evaluate(truth(*equal), found(("q", 0, 1, 0, 0.9)), "thumos14", edges=None)["by_duration"][0]
    assert first["mAP"] == [pytest.approx(1 / 2)]  # q and r
    assert len(evaluate(truth(*rows[:3]), found(), "thumos14", edges=None)["by_duration"]) == 3


def test_edges_of_activitynet_are_those_of_table_1():
    buckets = evaluate(truth(("v", 0, 10, 0)), found(), "activitynet", edges=None)["by_duration"]
    assert [b["from_seconds"] for b in buckets] == [0, 1.5, 2.5, 4.2, 6.9]


def test_one_bucket_for_all_durations_is_the_whole():
    metrics = evaluate(*random_case(4), "activitynet", [0.3, 0.6], names="abc", edges=(1000,))
    assert metrics["by_duration"][0]["mAP"] == metrics["mAP"]
    assert metrics["by_duration"][0]["num_ground_truths"] == 80


@both
def test_perfect_detections_score_one_and_order_of_rows_does_not_matter(protocol):
    ground_truth, detections = random_case(0)
    perfect = Detections(ground_truth.videos, ground_truth.segments, ground_truth.labels, np.ones(80))
    assert evaluate(ground_truth, perfect, protocol, names="abc")["mAP"] == [1]
    scores = np.random.default_rng(1).permutation(len(detections)) / 1000
    distinct = Detections(detections.videos, detections.segments, detections.labels, scores)
    reverse = distinct.select(np.arange(len(distinct))[::-1])
    assert evaluate(ground_truth, distinct, protocol, names="abc") == evaluate(
        ground_truth, reverse, protocol, names="abc"
    )


def random_case(seed, num_classes=3):
    """80 actions and 300 detections in 5 videos, on whole seconds and with few scores, so that ties are common."""
    rng = np.random.default_rng(seed)

    def segments(n):
        start = rng.integers(0, 40, n)
        return np.stack([start, start + rng.integers(1, 8, n)], axis=1)

    videos = np.array(["u", "v", "w", "x", "y"])
    ground_truth = GroundTruth(
        videos[rng.integers(0, 4, 80)],
        segments(80),
        rng.integers(0, num_classes, 80),
        videos[rng.integers(0, 5, 3)],
        segments(3),
    )
    detections = Detections(
        videos[rng.integers(0, 5, 300)],
        segments(300) - [0, 1] * (rng.random((300, 1)) < 0.1),  # some are empty
        rng.integers(0, num_classes, 300),
        rng.integers(0, 40, 300) / 40,
    )
    return ground_truth, detections


def plain_tiou(a, b):
    shared = min(a[1], b[1]) - max(a[0], b[0])
    return shared / (max(a[1], b[1]) - min(a[0], b[0])) if shared > 0 else 0.0


def plain_thumos14(actions, detections, ambiguous, threshold, instances_per_class):
    """One class, rule by rule: (AP, normalised AP). Rows are (video, segment[, score])."""
    listed = []
    for video in sorted({d[0] for d in detections}):
        ranked = sorted((d for d in detections if d[0] == video), key=lambda d: -d[2])
        free = list(range(len(ranked)))
        for _, segment in [a for a in actions if a[0] == video]:
            if free:
                best = max(free, key=lambda i: plain_tiou(segment, ranked[i][1]))
                if plain_tiou(segment, ranked[best][1]) > threshold:
                    free.remove(best)
        for i, (_, segment, score) in enumerate(ranked):
            if i not in free or not any(v == video and plain_tiou(s, segment) > 0 for v, s in ambiguous):
                listed.append((score, i not in free))
    listed.sort(key=lambda entry: -entry[0])  # stable: equal scores stay by video, and within it as given
    total = normalized = num_right = 0
    for rank, (_, is_right) in enumerate(listed, start=1):
        num_right += is_right
        if is_right:
            total += num_right / rank
            weighted = num_right / len(actions) * instances_per_class
            normalized += weighted / (weighted + rank - num_right)
    return total / len(actions), normalized / len(actions)


def plain_activitynet(actions, detections, _, threshold, instances_per_class):
    """One class, rule by rule: (AP, normalised AP)."""
    used, curve, num_right = set(), [], 0
    for rank, (video, segment, _) in enumerate(sorted(detections, key=lambda d: -d[2]), start=1):
        free = [i for i, a in enumerate(actions) if a[0] == video and i not in used]
        best = max(free, key=lambda i: plain_tiou(actions[i][1], segment), default=None)
        if best is not None and plain_tiou(actions[best][1], segment) >= threshold:
            used.add(best)
            num_right += 1
        weighted = num_right / len(actions) * instances_per_class
        curve.append((num_right / len(actions), num_right / rank, weighted / (weighted + rank - num_right)))
    areas = []
    for column in (1, 2):
        area, last = 0, 0
        for i, point in enumerate(curve):
            area += (point[0] - last) * max(p[column] for p in curve[i:])
            last = point[0]
        areas.append(area)
    return tuple(areas)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("protocol", "plain"), [("thumos14", plain_thumos14), ("activitynet", plain_activitynet)])
def test_equals_a_plain_restatement_of_the_protocol(seed, protocol, plain):
    ground_truth, detections = random_case(seed)
    thresholds = [0.2, 0.5, 0.75]
    metrics = evaluate(ground_truth, detections, protocol, thresholds, names="abc")
    ambiguous = list(zip(ground_truth.ambiguous_videos, ground_truth.ambiguous_segments, strict=True))
    for label, name in enumerate("abc"):
        actions = [
            (v, s)
            for v, s, x in zip(ground_truth.videos, ground_truth.segments, ground_truth.labels, strict=True)
            if x == label
        ]
        rows = [
            (v, s, score)
            for v, s, x, score in zip(
                detections.videos, detections.segments, detections.labels, detections.scores, strict=True
            )
            if x == label
        ]
        expected = [plain(actions, rows, ambiguous, t, 80 / 3) for t in thresholds]
        np.testing.assert_allclose(metrics["per_class"][name]["AP"], [e[0] for e in expected])
        np.testing.assert_allclose(metrics["per_class"][name]["AP_normalized"], [e[1] for e in expected])


def test_thresholds_do_not_influence_each_other():
    ground_truth, detections = random_case(9)
    for protocol in protocols.PROTOCOLS:
        together = evaluate(ground_truth, detections, protocol, [0.1, 0.5, 0.9], names="abc")["mAP"]
        alone = [evaluate(ground_truth, detections, protocol, [t], names="abc")["mAP"][0] for t in (0.1, 0.5, 0.9)]
        assert together == alone


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "coco"}, "thumos14 or activitynet, got 'coco'"),
        ({"tiou_thresholds": [50]}, "percent"),
        ({"tiou_thresholds": []}, "tiou_thresholds"),
        ({"class_names": []}, "class id 0 is outside"),
        ({"class_names": ["a", "a"]}, "twice"),
        ({"duration_edges": [2, 1]}, "rising"),
        ({"ground_truth": truth()}, "no ground truth"),
        ({"detections": found(("v", 0, 1, 1, 0.5))}, "class id 1"),
    ],
)
def test_mistakes_are_named(change, message):
    settings = {
        "ground_truth": truth(("v", 0, 10, 0)),
        "detections": Detections.empty(),
        "protocol": "thumos14",
        "tiou_thresholds": [0.5],
        "class_names": ["a"],
        **change,
    }
    with pytest.raises(UserError, match=message):
        protocols.evaluate(settings.pop("ground_truth"), settings.pop("detections"), **settings)


def test_tables_of_rows_check_their_shapes():
    with pytest.raises(ValueError, match=r"scores: expected shape \[1\]"):
        Detections(["v"], [[0, 1]], [0], [0.5, 0.6])
    with pytest.raises(ValueError, match=r"segments: expected shape \[1, 2\]"):
        GroundTruth(["v"], [0, 1], [0])


def test_concatenate_and_select():
    both_rows = Detections.concatenate([found(("v", 0, 1, 0, 0.5)), found(("longer name", 2, 3, 1, 0.6))])
    assert both_rows.videos.tolist() == ["v", "longer name"]
    assert both_rows.select(both_rows.scores > 0.55).segments.tolist() == [[2, 3]]
    assert len(Detections.concatenate([])) == 0


def test_tables():
    ground_truth = truth(("v", 0, 10, 0))
    metrics = evaluate(ground_truth, found(("v", 0, 7.5, 0, 0.9)), "thumos14", [0.5, 0.8], edges=(5,))
    table = text_tables.format_table({"fused": metrics, "anchor-free": metrics}).splitlines()
    assert table[0].startswith("protocol thumos14")
    assert table[1].split() == ["mAP", "(%)", "at", "tIoU", "0.5", "0.8", "average", "normalized", "average"]
    assert table[3].split() == ["anchor-free", "100.0", "0.0", "50.0", "50.0"]
    classes = text_tables.format_classes(metrics).splitlines()
    assert classes[2].split() == ["a", "100.0", "0.0", "50.0", "1", "1"]
    assert classes[3].split() == ["b", "-", "-", "-", "0", "0"]
    durations = text_tables.format_durations({"fused": metrics}).splitlines()
    assert durations[1].split("  ")[0] == "mAP at tIoU 0.5 (%)"
    assert durations[2].split() == ["ground", "truths", "0", "1"]
    assert durations[3].split() == ["fused", "-", "100.0"]


def test_durations_show_the_average_where_tiou_one_half_is_not_measured():
    metrics = evaluate(truth(("v", 0, 10, 0)), found(("v", 0, 7.5, 0, 0.9)), "thumos14", [0.7, 0.8], edges=(5,))
    durations = text_tables.format_durations({"fused": metrics}).splitlines()
    assert durations[1].startswith("average mAP (%)")
    assert durations[3].split() == ["fused", "-", "50.0"]


def test_further_columns():
    metrics = evaluate(truth(("v", 0, 10, 0)), found(("v", 0, 10, 0, 0.9)), "thumos14", [0.5])
    table = text_tables.format_table({"a": metrics, "b": metrics}, {"cost": ["7", "8"]}).splitlines()
    assert table[1].endswith("cost")
    assert [line.split()[-1] for line in table[2:]] == ["7", "8"]


def test_table_refuses_to_mix_protocols():
    args = truth(("v", 0, 10, 0)), Detections.empty()
    mixed = {p: evaluate(*args, p) for p in protocols.PROTOCOLS}
    with pytest.raises(UserError, match="one protocol"):
        text_tables.format_table(mixed)


# --- proposals


def recall_of(ground_truth, detections, **changes):
    return json.loads(json.dumps(proposals.average_recall(ground_truth, detections, **changes), allow_nan=False))


def spread(video, scores, *, hit=None, action=(0, 10)):
    """One proposal per score far from any action, except that number ``hit`` of them covers it."""
    return [
        (video, *(action if i == hit else (1000 + i, 1001 + i)), i % 2, score)  # classes do not matter
        for i, score in enumerate(scores)
    ]


def falling(n):
    return (1 - np.arange(n) / 1000).tolist()


def test_average_recall_by_hand():
    """Two videos with 100 proposals each: the 10th finds one action, the 60th the other, with a tIoU of 0.72."""
    ground_truth = truth(("v", 0, 10, 0), ("w", 0, 10, 1))
    detections = found(*spread("v", falling(100), hit=9), *spread("w", falling(100), hit=59, action=(0, 7.2)))
    metrics = recall_of(ground_truth, detections)
    curve = metrics["average_recall"]
    assert metrics["average_number"] == list(range(1, 101))
    assert (curve[8], curve[9]) == (0, 0.5)
    assert (curve[58], curve[59]) == (0.5, pytest.approx(0.5 + 0.5 * 5 / 10))  # thresholds .5 .55 .6 .65 .7 of ten
    assert metrics["AR@"] == {"50": 0.5, "100": pytest.approx(0.75)}
    trapezoids = 8 * 0 + 0.25 + 49 * 0.5 + 0.625 + 40 * 0.75  # 1 to 9, to 10, to 59, to 60, to 100
    assert metrics["area_under_curve"] == pytest.approx(trapezoids / 100)
    assert metrics["recall_of_top_200"] == [1] * 5 + [0.5] * 5
    assert metrics["tiou_thresholds"] == pytest.approx(np.arange(0.5, 0.96, 0.05))
    assert (metrics["num_videos"], metrics["num_proposals"], metrics["proposals_per_video"]) == (2, 200, 100)


def test_videos_give_equal_shares_of_their_proposals_not_equal_numbers():
    """At 100 per video, the video with 300 gives 150 of them and that with 100 gives 50."""
    ground_truth = truth(("v", 0, 10, 0), ("w", 0, 10, 0))
    for rank, expected in ((149, 0.5), (150, 0)):
        detections = found(*spread("v", falling(300), hit=rank), *spread("w", falling(100)))
        metrics = recall_of(ground_truth, detections)
        assert metrics["AR@"]["100"] == expected
        assert set(metrics["AR@"]) == {"50", "100", "200"}
        assert metrics["AR@"]["200"] == 0.5


def test_shares_are_rounded_down_as_in_the_challenge():
    """0.29 of 100 proposals is 28.999999999999996, so that the 29th comes only with the 30th."""
    metrics = recall_of(truth(("v", 0, 10, 0)), found(*spread("v", falling(100), hit=28)))
    assert metrics["average_recall"][28:30] == [0, 1]
    metrics = recall_of(truth(("v", 0, 10, 0)), found(*spread("v", falling(100), hit=27)))
    assert metrics["average_recall"][26:28] == [0, 1]


def test_average_recall_beyond_a_hundred():
    ground_truth = truth(("v", 0, 10, 0))
    metrics = recall_of(ground_truth, found(*spread("v", falling(1000), hit=400)))
    assert metrics["AR@"] == {"50": 0, "100": 0, "200": 0, "500": 1, "1000": 1}
    assert metrics["recall_of_top_200"] == [0] * 10
    assert max(metrics["average_recall"]) == 0
    assert metrics["area_to_1000"] == pytest.approx(0.595)  # from 400 to 410, and to 1000


def test_few_proposals_keep_the_curve_flat():
    """Two proposals: all are taken from the second level on, and no average number of the table is reached."""
    metrics = recall_of(truth(("v", 0, 10, 0)), found(("v", 0, 10, 0, 0.5), ("v", 50, 60, 0, 0.9)))
    assert metrics["average_recall"] == [0] + [1] * 99
    assert metrics["AR@"] == {}
    assert metrics["area_under_curve"] == pytest.approx(0.985)
    assert metrics["area_to_1000"] == pytest.approx(0.995)  # from 0 to 10, and to 1000


def test_one_proposal_recalls_several_actions_of_any_class():
    ground_truth = truth(("v", 0, 10, 0), ("v", 0, 9, 1), ("v", 50, 60, 1))
    metrics = recall_of(ground_truth, found(("v", 0, 10, 2, 0.5)), tiou_thresholds=[0.5, 0.9, 0.95])
    assert metrics["recall_of_top_200"] == pytest.approx([2 / 3, 2 / 3, 1 / 3])  # a tIoU of 0.9 is enough for 0.9


def test_proposals_without_use():
    ground_truth = truth(("v", 0, 10, 0), ("w", 0, 10, 0), ("x", 5, 5, 0))
    assert recall_of(ground_truth, Detections.empty())["average_recall"] == [0] * 100
    bad = [("v", 10, 0, 0, 0.9), ("v", 0, np.inf, 0, 0.9), ("x", 5, 5, 0, 0.9), ("unknown", 0, 10, 0, 0.9)]
    metrics = recall_of(ground_truth, found(*bad, ("v", 0, 10, 0, np.nan)))
    assert metrics["average_recall"] == [0] * 100
    assert (metrics["num_proposals"], metrics["num_reversed_proposals"], metrics["num_videos"]) == (5, 4, 3)
    assert metrics["proposals_per_video"] == pytest.approx(4 / 3)


def test_proposals_in_other_videos_count():
    """50 of 100 proposals lie in a video without ground truth: the limit of 100 for one video keeps all 50 of it."""
    ground_truth, own = truth(("v", 0, 10, 0)), spread("v", falling(200), hit=99)
    assert recall_of(ground_truth, found(*own))["average_recall"][-1] == 1
    assert recall_of(ground_truth, found(*own, *spread("other", falling(200))))["average_recall"][-1] == 0


def plain_average_recall(actions, found_by_video, num_all, thresholds, most):
    """The challenge's steps, one by one: recall at 100 levels up to an average of ``most`` proposals per video."""
    ratio = most * len(actions) / num_all
    taken = {}
    for video in actions:
        ranked = sorted(found_by_video.get(video, []), key=lambda p: -p[1])
        taken[video] = ranked[: min(int(len(ranked) * ratio), len(ranked))]
    total = sum(len(t) for t in taken.values())
    curve = []
    for level in range(1, 101):
        share, recalls = level / 100.0 * (most * len(actions) / total), []
        for threshold in thresholds:
            hits = count = 0
            for video, segments in actions.items():
                best = taken[video][: min(int(len(taken[video]) * share), len(taken[video]))]
                hits += sum(any(plain_tiou(s, p[0]) >= threshold for p in best) for s in segments)
                count += len(segments)
            recalls.append(hits / count)
        curve.append(sum(recalls) / len(recalls))
    return curve


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_proposals", [30, 700])
def test_average_recall_equals_a_plain_restatement(seed, num_proposals):
    """Few and many proposals per video (the limit of 100 takes effect), of very different numbers."""
    rng = np.random.default_rng(seed)
    videos = np.array(["u", "v", "w", "x", "without ground truth"])
    start = rng.uniform(0, 60, (20, 1))
    ground_truth = GroundTruth(
        videos[rng.integers(0, 4, 20)], np.hstack([start, start + rng.uniform(1, 9, (20, 1))]), rng.integers(0, 3, 20)
    )
    start = rng.uniform(0, 60, (num_proposals, 1))
    detections = Detections(
        rng.choice(videos, num_proposals, p=[0.5, 0.3, 0.15, 0, 0.05]),
        np.hstack([start, start + rng.uniform(1, 9, (num_proposals, 1))]),
        rng.integers(0, 3, num_proposals),
        rng.permutation(num_proposals) / num_proposals,
    )
    actions, by_video = {}, {}
    for video, segment in zip(ground_truth.videos, ground_truth.segments, strict=True):
        actions.setdefault(video, []).append(segment)
    for video, segment, score in zip(detections.videos, detections.segments, detections.scores, strict=True):
        by_video.setdefault(video, []).append((segment, score))
    metrics = recall_of(ground_truth, detections)
    thresholds = np.linspace(0.5, 0.95, 10)
    expected = plain_average_recall(actions, by_video, num_proposals, thresholds, 100)
    assert expected[0] < expected[-1] < 1
    np.testing.assert_allclose(metrics["average_recall"], expected, atol=1e-12)
    area = sum((a + b) / 2 for a, b in zip(expected, expected[1:], strict=False)) / 100
    assert metrics["area_under_curve"] == pytest.approx(area)


def test_proposals_table():
    ground_truth = truth(("v", 0, 10, 0))
    metrics = {
        "anchor_free": recall_of(ground_truth, found(*spread("v", falling(100), hit=0))),
        "anchor_based": recall_of(ground_truth, Detections.empty()),
    }
    lines = text_tables.format_proposals(metrics).splitlines()
    assert lines[0] == (
        "protocol proposals (tIoU >= threshold, AR over 0.5 to 0.95, no classes), 1 videos, 1 ground truths"
    )
    assert "top 200 at tIoU 0.5" in lines[1]
    assert lines[2].split() == ["anchor_free", "100.0", "100.0", "100.0", "-", "-", "-", "99.0", "100.0"]
    assert lines[3].split() == ["anchor_based", "0.0", "-", "-", "-", "-", "-", "0.0", "0.0"]


def test_proposals_need_ground_truth_and_thresholds():
    with pytest.raises(UserError, match="no ground truth"):
        proposals.average_recall(truth(), Detections.empty())
    with pytest.raises(UserError, match="percent"):
        proposals.average_recall(truth(("v", 0, 1, 0)), Detections.empty(), tiou_thresholds=[50])


def test_proposals_are_quick():
    """200 videos of 200 proposals; the bound is loose for the sake of busy machines."""
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 200, (40000, 1))
    detections = Detections(
        np.repeat(np.arange(200), 200).astype(str), np.hstack([start, start + 5]), np.zeros(40000), rng.random(40000)
    )
    ground_truth = GroundTruth(detections.videos[::13], detections.segments[::13] + 1, np.zeros(3077))
    began = time.perf_counter()
    proposals.average_recall(ground_truth, detections)
    assert time.perf_counter() - began < 5

import functools
import json
import os
import pathlib

import numpy as np
import pytest

from a2net_tf import safe_files
from a2net_tf.errors import UserError
from a2net_tf.evaluation import ground_truth_files, proposals, protocols, results_files
from a2net_tf.evaluation.instances import Detections
from a2net_tf.modes import score

REPO = pathlib.Path(__file__).resolve().parent.parent.parent
THUMOS14 = REPO.parent / "shared" / "data" / "thumos14"
needs_thumos14 = pytest.mark.skipif(not THUMOS14.is_dir(), reason="the THUMOS14 annotations are not on this machine")

NAMES = ["jump", "run"]
CLASS_IDS = {7: 0, 21: 1}


def some_detections():
    return Detections(["w", "v", "v"], [[0, 1.5], [2, 3.25], [4, 5]], [0, 1, 0], [0.25, 0.5, 0.75])


def as_rows(detections):
    return sorted(results_files._rows(detections))


# --- writing ---


def test_write_json_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "new" / "folder" / "metrics.json"
    safe_files.write_json(path, {"mAP": [0.5, None]})
    safe_files.write_json(path, {"mAP": [0.25]})
    assert json.loads(path.read_text()) == {"mAP": [0.25]}
    assert os.listdir(path.parent) == ["metrics.json"]


def write_half(path):
    with safe_files.replace_file(path) as temporary:
        temporary.write_text("half of the ne")
        raise RuntimeError("interrupted")


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="interrupted"):
        write_half(path)
    with pytest.raises(ValueError, match="JSON"):
        safe_files.write_json(path, {"mAP": float("nan")})
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_full_disk_is_a_clear_error(tmp_path):
    resource = pytest.importorskip("resource")
    path, limits = tmp_path / "a.txt", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_text("old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # fails like a full disk: inside write()
    try:
        with pytest.raises(UserError, match="a.txt: cannot be written"):
            safe_files.write_text(path, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_unwritable_places_are_refused_early_and_late(tmp_path):
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")  # stands for /dev/null and the like
    for path in (tmp_path, tmp_path / "file" / "a.json", tmp_path / "file" / "deeper" / "a.json", tmp_path / "pipe"):
        with pytest.raises(UserError, match=str(path)):
            safe_files.check_writable(path)
        with pytest.raises(UserError, match=str(path)):
            safe_files.write_text(path, "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            safe_files.check_writable(tmp_path / "new" / "a.json")
    finally:
        tmp_path.chmod(0o700)


def test_check_writable_leaves_nothing_behind(tmp_path):
    safe_files.check_writable(tmp_path / "new" / "folder" / "a.json")
    assert os.listdir(tmp_path) == []
    (tmp_path / "old.json").write_text("old")
    safe_files.check_writable(tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "old"


# --- detections ---


def test_activitynet_file(tmp_path):
    path = tmp_path / "d.json"
    results_files.write_activitynet(path, some_detections(), NAMES, videos=["silent", "v"])
    assert json.loads(path.read_text()) == {
        "version": "VERSION 1.3",
        "results": {
            "silent": [],
            "v": [
                {"label": "jump", "score": 0.75, "segment": [4, 5]},
                {"label": "run", "score": 0.5, "segment": [2, 3.25]},
            ],
            "w": [{"label": "jump", "score": 0.25, "segment": [0, 1.5]}],
        },
        "external_data": {},
    }


def test_activitynet_read_gives_what_was_written(tmp_path):
    path = tmp_path / "d.json"
    results_files.write_activitynet(path, some_detections(), NAMES)
    assert as_rows(results_files.read_activitynet_detections(path, NAMES)) == as_rows(some_detections())
    results_files.write_activitynet(path, Detections.empty(), NAMES)
    assert len(results_files.read_activitynet_detections(path, NAMES)) == 0


def test_thumos14_file(tmp_path):
    path = tmp_path / "d.txt"
    results_files.write_thumos14(path, some_detections(), CLASS_IDS)
    assert path.read_text().splitlines() == ["w 0.0 1.5 7 0.25", "v 4.0 5.0 7 0.75", "v 2.0 3.25 21 0.5"]
    assert as_rows(results_files.read_thumos14_detections(path, CLASS_IDS)) == as_rows(some_detections())


def test_thumos14_detections_of_other_tools(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text("video_test_1.mp4\t1e1  20 7 .5\r\n\n")
    assert as_rows(results_files.read_thumos14_detections(path, CLASS_IDS)) == [("video_test_1.mp4", [10, 20], 0, 0.5)]
    path.write_text("")
    assert len(results_files.read_thumos14_detections(path, CLASS_IDS)) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v 1 2 7", "line 2: expected 'video start end class_id score', found 'v 1 2 7'"),
        ("v 1 two 7 0.5", "line 2: end: expected a number, found 'two'"),
        ("v 1 2 7.5 0.5", "line 2: class_id: expected a whole number, found '7.5'"),
        ("v 1 2 8 0.5", "line 2: unknown class id 8; the ground truth has 7, 21"),
    ],
)
def test_thumos14_bad_lines(tmp_path, line, message):
    path = tmp_path / "d.txt"
    path.write_text(f"v 1 2 7 0.5\n{line}\n")
    with pytest.raises(UserError) as error:
        results_files.read_thumos14_detections(path, CLASS_IDS)
    assert str(error.value) == f"{path}, {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"results": {"v": [', "damaged JSON at line 1"),
        ("[]", "expected an object"),
        ("{}", "key 'results' is missing; found no keys"),
        ('{"results": []}', r"results: expected an object \{...\}, found a list"),
        ('{"results": {"v": {}}}', r"video 'v': results: expected a list"),
        (
            '{"results": {"v": [{"label": "run", "segment": [0, 1]}]}}',
            r"video 'v': results\[0\]: key 'score' is missing; found label, segment",
        ),
        ('{"results": {"v": [{"label": "run", "score": 1, "segment": [0]}]}}', r"expected \[start, end\]"),
        (
            '{"results": {"v": [{"label": "run", "score": null, "segment": [0, 1]}]}}',
            r"results\[0\]: score: expected a number, found null",
        ),
        (
            '{"results": {"v": [{"label": "run", "score": "1", "segment": [0, 1]}]}}',
            'score: expected a number, found "1"',
        ),
        ('{"results": {"v": [{"label": "swim", "score": 1, "segment": [0, 1]}]}}', "unknown label 'swim'"),
    ],
)
def test_activitynet_bad_files(tmp_path, text, message):
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        results_files.read_activitynet_detections(path, NAMES)
    assert str(path) in str(error.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(UserError, match="none.json: cannot be read: No such file"):
        results_files.read_activitynet_detections(tmp_path / "none.json", NAMES)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        results_files.read_thumos14_detections(tmp_path / "b.txt", CLASS_IDS)


def test_detections_that_no_format_can_hold_are_not_written(tmp_path):
    infinite = Detections(["v"], [[0, np.inf]], [0], [0.5])
    with pytest.raises(UserError, match="NaN or infinite"):
        results_files.write_activitynet(tmp_path / "d.json", infinite, NAMES)
    with pytest.raises(UserError, match="no spaces"):
        results_files.write_thumos14(tmp_path / "d.txt", Detections(["my video"], [[0, 1]], [0], [0.5]), CLASS_IDS)
    assert os.listdir(tmp_path) == []


# --- ground truth ---


def write_thumos14_folder(folder, suffix="test"):
    folder.mkdir(parents=True)
    (folder / "detclasslist.txt").write_text("7 jump\n21 run")
    (folder / f"jump_{suffix}.txt").write_text("v 10 20\nv 1 2 \nw 5 6\n")
    (folder / f"run_{suffix}.txt").write_text("v  3.5 4.5\n")
    (folder / f"Ambiguous_{suffix}.txt").write_text("u 0 9\n")


@pytest.mark.parametrize("inner", [".", "annotations_test", "TH14_Temporal_Annotations_Test/annotations/annotation"])
def test_thumos14_ground_truth(tmp_path, inner):
    write_thumos14_folder(tmp_path / "data" / inner)
    ground_truth, names, class_ids = ground_truth_files.read_thumos14_ground_truth(tmp_path / "data", "test")
    assert (names, class_ids) == (NAMES, CLASS_IDS)
    assert ground_truth.videos.tolist() == ["v", "v", "w", "v"]
    assert ground_truth.segments.tolist() == [[10, 20], [1, 2], [5, 6], [3.5, 4.5]]
    assert ground_truth.labels.tolist() == [0, 0, 0, 1]
    assert ground_truth.ambiguous_videos.tolist() == ["u"]
    assert ground_truth.ambiguous_segments.tolist() == [[0, 9]]


def test_thumos14_subsets_side_by_side(tmp_path):
    write_thumos14_folder(tmp_path / "annotations_test")
    with pytest.raises(UserError, match="CLASS_val.txt"):
        ground_truth_files.read_thumos14_ground_truth(tmp_path, "validation")
    write_thumos14_folder(tmp_path / "annotations_val", "val")
    for subset in ("val", "validation"):
        assert len(ground_truth_files.read_thumos14_ground_truth(tmp_path, subset)[0].videos) == 4
    with pytest.raises(UserError, match="subset 'train'"):
        ground_truth_files.read_thumos14_ground_truth(tmp_path, "train")
    with pytest.raises(UserError, match="no such folder"):
        ground_truth_files.read_thumos14_ground_truth(tmp_path / "none", "test")


@pytest.mark.parametrize("name", ["run_test.txt", "Ambiguous_test.txt"])
def test_thumos14_missing_class_file(tmp_path, name):
    write_thumos14_folder(tmp_path / "a")
    (tmp_path / "a" / name).unlink()
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        ground_truth_files.read_thumos14_ground_truth(tmp_path / "a", "test")


@pytest.mark.parametrize(("line", "message"), [("v 1", "expected 'video start end'"), ("v 9 8", "reversed")])
def test_thumos14_bad_ground_truth(tmp_path, line, message):
    write_thumos14_folder(tmp_path / "a")
    (tmp_path / "a" / "run_test.txt").write_text(f"v 0 1\n{line}\n")
    with pytest.raises(UserError, match=f"run_test.txt, line 2: .*{message}"):
        ground_truth_files.read_thumos14_ground_truth(tmp_path / "a", "test")


def database(**changes):
    entries = {
        "v_1": {
            "subset": "validation",
            "annotations": [{"label": "run", "segment": [0, 10]}, {"label": "jump", "segment": [20, 30]}],
        },
        "2": {"subset": "validation", "annotations": [{"label": "run", "segment": [5, 5]}]},
        "3": {"subset": "validation", "annotations": []},
        "4": {"subset": "training", "annotations": [{"label": "swim", "segment": [0, 1]}]},
        "5": {"subset": "testing", "annotations": []},
    }
    return {"database": {**entries, **changes}}


def test_activitynet_ground_truth(tmp_path):
    path = tmp_path / "g.json"
    safe_files.write_json(path, database())
    ground_truth, names = ground_truth_files.read_activitynet_ground_truth(path, "validation")
    assert names == NAMES
    assert ground_truth.videos.tolist() == ["v_1", "v_1", "2"]
    assert ground_truth.segments.tolist() == [[0, 10], [20, 30], [5, 5]]
    assert ground_truth.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"annotations": []}, "video '9': key 'subset' is missing; found annotations"),
        ({"subset": "validation"}, "video '9': key 'annotations' is missing; found subset"),
        ({"subset": "validation", "annotations": {"label": 1}}, "video '9': annotations: expected a list"),
        ({"subset": "validation", "annotations": [{"label": "run"}]}, "video '9': .*key 'segment' is missing"),
        ({"subset": "validation", "annotations": [{"segment": [0, 1]}]}, "video '9': .*key 'label' is missing"),
        (
            {"subset": "validation", "annotations": [{"label": "run", "segment": [2, 1]}]},
            r"video '9': 'run' from 2 to 1 s does not end after its start \(reversed\?\)",
        ),
    ],
)
def test_activitynet_bad_ground_truth(tmp_path, entry, message):
    path = tmp_path / "g.json"
    safe_files.write_json(path, database(**{"9": entry}))
    with pytest.raises(UserError, match=message) as error:
        ground_truth_files.read_activitynet_ground_truth(path, "validation")
    assert str(path) in str(error.value)


def test_activitynet_unknown_subset_lists_those_found(tmp_path):
    path = tmp_path / "g.json"
    safe_files.write_json(path, database())
    with pytest.raises(UserError, match="no video of subset 'val'; the file has testing, training, validation"):
        ground_truth_files.read_activitynet_ground_truth(path, "val")
    safe_files.write_json(path, {"v_1": {}})
    with pytest.raises(UserError, match="key 'database' is missing; found v_1"):
        ground_truth_files.read_activitynet_ground_truth(path, "validation")


# --- score ---


def score_activitynet(tmp_path, entries):
    safe_files.write_json(tmp_path / "g.json", database())
    safe_files.write_json(tmp_path / "d.json", {"results": entries})
    return score.score_file(
        tmp_path / "d.json", tmp_path / "g.json", protocol="activitynet", tiou_thresholds=[0.5], duration_edges=[15]
    )


def test_score_activitynet_matches_names_with_and_without_prefix(tmp_path):
    run = {"label": "run", "score": 0.9, "segment": [0, 10]}
    jump = {"label": "jump", "score": 0.9, "segment": [20, 30]}
    for video in ("1", "v_1"):
        metrics = score_activitynet(tmp_path, {video: [run, jump]})
        assert metrics["mAP"] == [0.75]  # of two "run" actions one has no length
        assert len(metrics["by_duration"]) == 2


def test_score_activitynet_labels_of_other_subsets(tmp_path, caplog):
    jump = {"label": "jump", "score": 0.9, "segment": [20, 30]}
    metrics = score_activitynet(tmp_path, {"1": [jump, {**jump, "label": "swim"}]})
    assert metrics["num_detections"] == 1
    assert "1 detections of classes that only other subsets have" in caplog.text
    with pytest.raises(UserError, match="unknown label 'fly'"):
        score_activitynet(tmp_path, {"1": [{**jump, "label": "fly"}]})


def test_score_warns_when_no_video_is_known(tmp_path, caplog):
    metrics = score_activitynet(tmp_path, {"other": [{"label": "run", "score": 1, "segment": [0, 1]}]})
    assert metrics["mAP"] == [0]
    assert "no video of it has ground truth" in caplog.text


def test_score_thumos14(tmp_path):
    write_thumos14_folder(tmp_path / "annotations_test")
    (tmp_path / "d.txt").write_text("v.mp4 10 20 7 0.9\nu 1 2 21 0.9\nv.mp4 3.5 4.5 21 0.8\n")
    metrics = score.score_file(tmp_path / "d.txt", tmp_path, protocol="thumos14", tiou_thresholds=[0.5])
    assert metrics["protocol"] == "thumos14"
    assert metrics["per_class"]["jump"]["AP"] == [pytest.approx(1 / 3)]
    assert metrics["per_class"]["run"]["AP"] == [1]  # the first overlaps Ambiguous


def test_score_refuses_unknown_protocols(tmp_path):
    with pytest.raises(UserError, match="thumos14, activitynet or proposals, got 'coco'"):
        score.score_file("d", "g", protocol="coco", tiou_thresholds=[0.5])


def test_score_proposals_in_both_formats(tmp_path):
    """The reader is chosen by whether the ground truth is a folder; proposals in JSON need no label, or any."""
    write_thumos14_folder(tmp_path / "annotations_test")
    (tmp_path / "d.txt").write_text("v 10 20 21 0.9\nw 0 1 7 0.8\n")
    metrics = score.score_file(tmp_path / "d.txt", tmp_path, protocol="proposals", tiou_thresholds=[0.5])
    assert metrics["protocol"] == "proposals"
    assert (metrics["recall_of_top_200"], metrics["num_videos"]) == ([0.25], 2)
    safe_files.write_json(tmp_path / "g.json", database())
    unlabelled = {"v_1": [{"score": 0.9, "segment": [0, 10]}], "2": [{"score": 1, "segment": [5, 9], "label": "fly"}]}
    safe_files.write_json(tmp_path / "d.json", {"results": unlabelled})
    metrics = score.score_file(tmp_path / "d.json", tmp_path / "g.json", protocol="proposals", tiou_thresholds=[0.5])
    assert metrics["recall_of_top_200"] == [pytest.approx(1 / 3)]
    assert (metrics["num_proposals"], metrics["num_ground_truths"]) == (2, 3)
    metrics = score.score_file(
        tmp_path / "d.json", tmp_path / "g.json", protocol="proposals", tiou_thresholds=[0.5], subset="training"
    )
    assert metrics["num_ground_truths"] == 1


@needs_thumos14
def test_real_thumos14_proposals():
    """Perfect proposals, one for each action of the test set: an average of 15.8 per video recalls everything."""
    ground_truth, _, _ = ground_truth_files.read_thumos14_ground_truth(THUMOS14, "test")
    num_actions = len(ground_truth.videos)
    perfect = Detections(ground_truth.videos, ground_truth.segments, ground_truth.labels, np.ones(num_actions))
    metrics = proposals.average_recall(ground_truth, perfect)
    per_video = metrics["proposals_per_video"]
    assert per_video == pytest.approx(num_actions / metrics["num_videos"])
    assert metrics["average_recall"][int(per_video) + 1 :] == [1] * (99 - int(per_video))
    assert metrics["average_recall"][0] < 0.1


@needs_thumos14
def test_real_thumos14(tmp_path):
    ground_truth, names, class_ids = ground_truth_files.read_thumos14_ground_truth(THUMOS14, "test")
    assert len(names) == len(class_ids) == 20
    assert list(class_ids)[:3] == [7, 9, 12]
    perfect = Detections(ground_truth.videos, ground_truth.segments, ground_truth.labels, np.ones(3358))
    results_files.write_thumos14(tmp_path / "d.txt", perfect, class_ids)
    for folder in (THUMOS14, THUMOS14 / "annotations_test"):
        metrics = score.score_file(
            tmp_path / "d.txt", folder, protocol="thumos14", tiou_thresholds=np.arange(0.1, 0.75, 0.1)
        )
        assert metrics["mAP"] == [1] * 7
        assert metrics["num_videos"] == 213
        assert metrics["num_ground_truths"] == 3358
    as_activitynet = protocols.evaluate(
        ground_truth, perfect, protocol="activitynet", tiou_thresholds=[0.5, 0.95], class_names=names
    )
    assert as_activitynet["average_mAP"] == 1


@needs_thumos14
def test_the_authors_own_detections_give_the_numbers_of_tables_1_and_3():
    """34,591 detections of the anchor-free module, from the authors' release; scores have four decimals."""
    metrics = score.score_file(
        THUMOS14 / "a2net_release_anchor_free.txt",
        THUMOS14,
        protocol="thumos14",
        tiou_thresholds=np.arange(0.1, 0.75, 0.1),
        duration_edges=None,
    )
    table_3 = [52.136, 51.195, 49.152, 44.243, 36.635, 26.020, 15.031]
    np.testing.assert_allclose(100 * np.array(metrics["mAP"]), table_3, atol=1e-3)
    buckets = metrics["by_duration"]
    table_1 = [14.524, 28.084, 37.730, 47.684, 34.359]
    np.testing.assert_allclose([100 * bucket["mAP"][4] for bucket in buckets], table_1, atol=1e-3)
    np.testing.assert_allclose([bucket["from_seconds"] for bucket in buckets], [0, 1.5, 2.5, 4.2, 6.9], atol=1e-6)
    assert metrics["duration_rule"] == "nearest_action"


@needs_thumos14
def test_real_thumos14_validation():
    ground_truth, names, _ = ground_truth_files.read_thumos14_ground_truth(THUMOS14, "validation")
    assert len(names) == 20
    assert len(set(ground_truth.videos)) == 200


# --- subtitles ---


def test_write_srt(tmp_path):
    detections = Detections(
        ["v"] * 6,
        [[3599.9996, 360000], [1.5, 3], [1, 2.25], [-1, 0.5], [5, 4], [6, 7]],
        [0, 1, 0, 1, 0, 1],
        [0.9, 0.874, 0.5, 0.6, 0.9, 0.1],
    )
    results_files.write_srt(tmp_path / "v.srt", detections, NAMES, min_score=0.5)
    assert (tmp_path / "v.srt").read_text() == (
        "1\n00:00:00,000 --> 00:00:00,500\nrun  0.60\n\n"
        "2\n00:00:01,000 --> 00:00:02,250\njump  0.50\n\n"
        "3\n00:00:01,500 --> 00:00:03,000\nrun  0.87\n\n"
        "4\n01:00:00,000 --> 100:00:00,000\njump  0.90\n"
    )
    results_files.write_srt(tmp_path / "v.srt", Detections.empty(), NAMES, min_score=0)
    assert (tmp_path / "v.srt").read_text() == ""


# Files of other tools


def test_scores_against_annotations_of_other_tools(tmp_path):
    """The same actions and detections give the same numbers in whatever form they are."""
    truth = [("v", 0, 10, "run"), ("v", 20, 30, "jump"), ("w", 5, 9, "run")]
    found = [("v", 0, 8, "run", 0.9), ("v", 21, 30, "jump", 0.8), ("w", 0, 9, "run", 0.7)]
    folder = tmp_path / "labels"
    folder.mkdir()
    for video in ("v", "w"):
        lines = [f"{start}\t{end}\t{label}\n" for name, start, end, label in truth if name == video]
        (folder / f"{video}.txt").write_text("".join(lines))
    table = "".join(",".join(map(str, row)) + "\n" for row in found)
    (tmp_path / "found.csv").write_text("video,start,end,label,score\n" + table)
    database = {
        video: {
            "subset": "validation",
            "annotations": [
                {"label": label, "segment": [start, end]} for name, start, end, label in truth if name == video
            ],
        }
        for video in ("v", "w")
    }
    results = {
        video: [
            {"label": label, "segment": [s, e], "score": score} for name, s, e, label, score in found if name == video
        ]
        for video in ("v", "w")
    }
    (tmp_path / "truth.json").write_text(json.dumps({"database": database}))
    (tmp_path / "found.json").write_text(json.dumps({"results": results}))

    def scored(detections, ground_truth):
        return score.score_file(
            tmp_path / detections, tmp_path / ground_truth, protocol="activitynet", tiou_thresholds=[0.5, 0.85]
        )

    expected = scored("found.json", "truth.json")
    assert expected["mAP"] == [0.75, 0.5]
    assert scored("found.csv", "labels") == expected


def test_subsets_of_other_tools(tmp_path):
    """All is judged where no subset is told; what was not asked for is not."""
    (tmp_path / "v.txt").write_text("0\t10\trun\n")
    (tmp_path / "found.csv").write_text("video,start,end,label,score\nv,0,10,run,1\n")
    judge = functools.partial(
        score.score_file, tmp_path / "found.csv", tmp_path / "v.txt", protocol="activitynet", tiou_thresholds=[0.5]
    )
    assert judge()["mAP"] == [1.0]  # of all recordings
    with pytest.raises(UserError, match="no video of subset 'test'"):
        judge(subset="test")

"""What a report is made of, without a browser: numbers, refusals, files."""

import base64
import json
import pathlib
import re

import numpy as np
import pytest

from a2net_tf.errors import UserError
from a2net_tf.evaluation import curves, evaluated_file
from a2net_tf.report import media, report_data, report_page
from tests.report import made

needs_plotly = pytest.mark.skipif(not report_page.is_possible(), reason="plotly is not installed")


def data_of(*folders, **kwargs):
    results = [report_data.read_results(folder) for folder in folders]
    report_data.check_comparable(results)
    data = report_data.report_data(results, min_score=0.3, media=kwargs.get("media", {}))
    return json.loads(json.dumps(data, allow_nan=False))


def unpacked(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def test_precision_curve_by_hand():
    curve = curves.precision_curve(np.array([True, False, True, False]), 4)
    assert len(curve) == 51  # recall ends at 2 of 4
    assert curve[:26] == [1.0] * 26
    assert curve[26:] == [2 / 3] * 25
    assert curves.precision_curve(np.array([False]), 3) == [0.0]
    assert curves.precision_curve(np.zeros(0, bool), 3) == []


def test_reliability_by_hand():
    found = curves.reliability(np.array([0.95, 0.85, 0.85, 1.2]), np.array([True, True, False, True]))
    assert found["bins"][8] == {"num_detections": 2, "mean_score": pytest.approx(0.85), "precision": 0.5}
    assert found["bins"][9]["num_detections"] == 2
    assert found["bins"][0] == {"num_detections": 0, "mean_score": None, "precision": None}
    assert found["expected_error"] == pytest.approx((2 * 0.35 + 2 * (1.075 - 1)) / 4)
    assert curves.reliability(np.zeros(0), np.zeros(0, bool))["expected_error"] is None


def test_an_evaluation_is_read_as_it_was_written(tmp_path):
    folder = made.evaluation(tmp_path / "run")
    read = evaluated_file.read_evaluated(folder / "recordings.npz")
    assert read.names == ["a", "b", "c"]
    assert read.class_names == list(made.CLASSES)
    assert read.durations.tolist() == [made.SECONDS] * 3
    assert read.ground_truth.videos.tolist() == [n for n in "abc" for _ in made.ACTIONS]
    assert read.ground_truth.segments[:3].tolist() == [list(a[:2]) for a in made.ACTIONS]
    assert list(read.detections) == ["anchor_free", "both"]
    both = read.detections["both"]
    assert both.videos.tolist() == ["a"] * 5 + ["b"] * 4 + ["c"] * 3
    assert both.scores[:5].tolist() == [row[3] for row in made.FOUND]


def test_tracks_hold_what_was_found_and_what_became_of_it(tmp_path):
    data = data_of(made.evaluation(tmp_path / "run"))
    assert data["tiou"] == 0.5
    assert data["recordings"][0] == {
        "name": "a",
        "seconds": 100.0,
        "media": None,
        "actions": [list(action) for action in made.ACTIONS],
    }
    track = data["tracks"][1]
    assert (track["branch"], track["counts"], track["leftOut"]) == ("both", [5, 4, 3], [0, 0, 0])
    assert unpacked(track["outcomes"], "u1").tolist() == [0, 1, 5, 0, 5, 0, 5, 0, 5, 5, 0, 5]  # b's first is true now
    none = 65535
    assert unpacked(track["nearest"], "<u2").tolist()[:5] == [0, 0, none, 1, none]
    assert unpacked(track["tious"], "<u2").tolist()[:5] == [10000, 9000, 0, 9000, 0]
    assert unpacked(track["scores"], "<u2").tolist()[:5] == [9000, 8000, 7000, 6000, 2000]
    np.testing.assert_allclose(unpacked(track["ends"], "<f4")[:5], [row[1] for row in made.FOUND])


def test_a_run_says_what_it_was(tmp_path):
    [run] = data_of(made.evaluation(tmp_path / "run"))["runs"]
    assert (run["name"], run["dataset"], run["commit"]) == ("run", "made/1.0.0", "0123abc")
    assert run["settings"] == {"epochs": 3}  # the seed is at its default
    assert run["trainingSeconds"] == 6
    assert run["history"]["loss"] == [3.5, 2.5, None]
    assert run["history"]["validation_mAP"] == [None, 0.5, 0.6]
    both = run["branches"]["both"]
    assert len(both["curves"]) == 2
    assert len(both["curves"][1]) == 56  # five of nine actions
    assert set(run["classCurves"]) == set(made.CLASSES)


def test_only_the_best_of_very_many_are_drawn(tmp_path):
    many = [(10.0 + i / 100, 20.0, 0, 0.9 - i / 1000) for i in range(80)]
    track = data_of(made.evaluation(tmp_path / "run", names=("a",), found=many))["tracks"][0]
    assert (track["counts"], track["leftOut"]) == ([50], [30])  # 20, and 10 for each of three actions


def test_two_runs_side_by_side(tmp_path):
    first, second = made.evaluation(tmp_path / "a"), made.evaluation(tmp_path / "b", branches=("both",))
    data = data_of(first, second)
    assert [(t["run"], t["branch"]) for t in data["tracks"]] == [(0, "anchor_free"), (0, "both"), (1, "both")]
    others = {
        "classes": made.evaluation(tmp_path / "classes", class_names=("jump", "land")),
        "recordings": made.evaluation(tmp_path / "recordings", names=("a", "b")),
    }
    for what, folder in others.items():
        with pytest.raises(UserError, match=what):
            data_of(first, folder)
    metrics = json.loads((second / "metrics.json").read_text())
    (second / "metrics.json").write_text(json.dumps({**metrics, "tiou_thresholds": [0.5, 0.7]}))
    with pytest.raises(UserError, match="another --tiou_thresholds"):
        data_of(first, second)


def test_recordings_in_another_order_are_the_same_ones(tmp_path):
    data = data_of(made.evaluation(tmp_path / "a"), made.evaluation(tmp_path / "b", names=("c", "b", "a")))
    assert [r["name"] for r in data["recordings"]] == ["a", "b", "c"]
    assert data["tracks"][2]["counts"] == [3, 4, 5]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("recordings.npz", None, "run --mode=evaluate"),
        ("recordings.npz", b"no archive", "not a readable .npz file"),
        ("metrics.json", b"{}", "'branches' is missing"),
        ("metrics.json", b'{"branches": {"both": {}}, "tiou_thresholds": [0.5]}', "'num_detections' is missing"),
        ("metrics.json", b'{"branches": {"both": {"num_detections": 5}}, "tiou_thresholds": [0.5]}', "different eval"),
        ("metrics.json", b'{"branches": {}, "tiou_thresholds": ["0.5"]}', "expected a number"),
    ],
)
def test_what_evaluations_do_not_leave(tmp_path, file, content, message):
    folder = made.evaluation(tmp_path / "run")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        report_data.read_results(folder)


def test_metrics_of_before_there_were_reports(tmp_path):
    folder = made.evaluation(tmp_path / "run")
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["branches"]["both"]["errors"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError, match="both: key 'errors' is missing"):
        report_data.read_results(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("branch/both/labels", [7]),
        ("truth/recordings", [9]),
        ("branch/both/scores", [np.nan]),
        ("durations", [1.0]),
        ("names", ["a", "a", "b"]),
    ],
)
def test_damaged_arrays_are_refused(tmp_path, name, value):
    path = made.evaluation(tmp_path / "run") / "recordings.npz"
    arrays = dict(np.load(path))
    arrays[name] = np.resize(np.array(value), len(value) if name in ("durations", "names") else arrays[name].shape)
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="damaged"):
        evaluated_file.read_evaluated(path)


def test_media_belong_to_the_recordings_of_their_names(tmp_path, capsys):
    folder = tmp_path / "films"
    (folder / "more").mkdir(parents=True)
    for name in ("a.mp4", "more/v_b.WAV", "notes.txt", "z.mkv"):
        (folder / name).write_bytes(b"")
    found = media.find_media(str(folder), ["a", "b", "c"])
    assert found == {"a": folder / "a.mp4", "b": folder / "more" / "v_b.WAV"}
    assert "1 of 3 recordings have no file there" in capsys.readouterr().out
    assert [media.kind_of(path.name) for path in found.values()] == ["video", "audio"]
    (tmp_path / "list.txt").write_text(f"{folder / 'a.mp4'}\n")
    assert list(media.find_media(str(tmp_path / "list.txt"), ["a"])) == ["a"]
    assert media.find_media("", ["a"]) == {}
    for source, message in ((tmp_path / "none", "no such"), (folder / "more", "no file of a recording")):
        with pytest.raises(UserError, match=message):
            media.find_media(str(source), ["a"])


def test_addresses_are_relative_and_quoted(tmp_path):
    page = tmp_path / "runs" / "a"
    assert media.address_of(tmp_path / "films" / "a #1?.mp4", page) == "../../films/a%20%231%3F.mp4"


def write(folder, results):
    return report_page.write_report(folder, results, min_score=0.3, files={})


@needs_plotly
def test_one_file_of_a_few_recordings_with_names_that_end_no_script(tmp_path):
    names = ("</script><script>alert(1)</script>", "<!--", "c & d")
    folder = made.evaluation(tmp_path / "run", names=names, class_names=("<script>", "b"))
    path = write(folder, [report_data.read_results(folder, name="<script>run</script>")])
    text = path.read_text()
    assert path == folder / "report.html"
    assert len(text) < 8e6
    assert len(re.findall("<script", text.split("<body>")[1].partition('id="plotly"')[0])) == 2  # the page's own
    assert "&lt;script&gt;run" in text
    page = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert [r["name"] for r in page["recordings"]] == list(names)


@needs_plotly
def test_a_folder_of_many_recordings_and_earlier_reports_stay(tmp_path):
    folder = made.evaluation(tmp_path / "run", names=[f"r{i}" for i in range(201)])
    results = [report_data.read_results(folder)]
    assert write(folder, results) == folder / "report" / "index.html"
    assert write(folder, results) == folder / "report" / "index.html"
    files = ["data.js", "index.html", "page.js", "plotly.js"]
    for name in ("report", "report.1"):
        assert sorted(path.name for path in (folder / name).iterdir()) == files
    assert "REPORT_DATA" in (folder / "report" / "data.js").read_text()


@needs_plotly
def test_a_report_too_large_for_one_file_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "_MOST_BYTES", 4e6)
    folder = made.evaluation(tmp_path / "run")
    assert write(folder, [report_data.read_results(folder)]).name == "index.html"
    assert not (folder / "report.html").exists()


def test_without_plotly_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "is_possible", lambda: False)
    folder = made.evaluation(tmp_path / "run")
    with pytest.raises(UserError, match="plotly is missing"):
        write(folder, [report_data.read_results(folder)])


def test_what_is_in_the_way_is_said_before(tmp_path):
    (tmp_path / "report").write_text("")
    with pytest.raises(UserError, match="in the way"):
        report_page.check_possible(tmp_path)
    (tmp_path / "other" / "report.html").mkdir(parents=True)
    with pytest.raises(UserError, match="is a folder"):
        report_page.check_possible(tmp_path / "other")


def test_the_scripts_of_the_page_are_those_of_its_folder():
    page = pathlib.Path(report_page.__file__).parent / "page"
    assert sorted(path.name for path in page.glob("*.js")) == sorted(report_page._SCRIPTS)
    for path in page.iterdir():
        assert len(path.read_text().splitlines()) <= 450, path

"""What was found: rows, pandas, files. No model is needed for it."""

import dataclasses
import json
import sys

import pytest

from a2net_tf.errors import UserError
from a2net_tf.evaluation import results_files
from a2net_tf.evaluation.instances import Detections
from a2net_tf.inference.detection_table import Detection, DetectionTable


def rows_of(video, *rows):
    return Detections([video] * len(rows), [r[:2] for r in rows], [r[2] for r in rows], [r[3] for r in rows])


@pytest.fixture
def found():
    return DetectionTable(
        by_video={
            "a": rows_of("a", (1.5, 2.25, 1, 0.75), (0.0, 4.0, 0, 0.125)),
            "none": rows_of("none"),
            "b/c": rows_of("b/c", (3.0, 3.5, 0, 0.5)),
        },
        durations_seconds={"a": 5.0, "none": 1.0, "b/c": 4.0},
        class_names=["run", "jump, high"],
    )


def test_rows(found):
    assert len(found) == 3
    assert list(found) == [
        Detection("a", 1.5, 2.25, "jump, high", 0.75),
        Detection("a", 0.0, 4.0, "run", 0.125),
        Detection("b/c", 3.0, 3.5, "run", 0.5),
    ]
    assert found.arrays.videos.tolist() == ["a", "a", "b/c"]
    assert found.arrays.segments.tolist() == [[1.5, 2.25], [0.0, 4.0], [3.0, 3.5]]


def test_text(found):
    assert repr(found).splitlines() == [
        "3 detections in 3 sequences",
        "  a       1.50 -      2.25 s  0.750  jump, high",
        "  a       0.00 -      4.00 s  0.125  run",
        "  b/c       3.00 -      3.50 s  0.500  run",
    ]
    many = DetectionTable({"a": rows_of("a", *[(0, 1, 0, 0.5)] * 12)}, {"a": 1.0}, ["run"])
    lines = repr(many).splitlines()
    assert (len(lines), lines[0], lines[-1]) == (12, "12 detections in 1 sequence", "  ... and 2 more")


def test_above(found):
    kept = found.above(0.5)
    assert [row.score for row in kept] == [0.75, 0.5]
    assert list(kept.by_video) == ["a", "none", "b/c"]
    assert len(found) == 3


def test_pandas(found):
    table = found.to_pandas()
    assert list(table.columns) == ["video", "start_seconds", "end_seconds", "label", "score"]
    assert table.to_dict("list") == {
        "video": ["a", "a", "b/c"],
        "start_seconds": [1.5, 0.0, 3.0],
        "end_seconds": [2.25, 4.0, 3.5],
        "label": ["jump, high", "run", "run"],
        "score": [0.75, 0.125, 0.5],
    }
    assert list(found.above(1).to_pandas().columns) == list(table.columns)


def test_pandas_is_missing(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"need pandas.*pip install .\.\[pandas\]. in the checkout"):
        found.to_pandas()


def test_save_json(found, tmp_path):
    assert found.save(tmp_path / "found.json") == [tmp_path / "found.json"]
    results = json.loads((tmp_path / "found.json").read_text())["results"]
    assert results["none"] == []
    assert results["a"][0] == {"label": "jump, high", "score": 0.75, "segment": [1.5, 2.25]}


def test_save_csv(found, tmp_path):
    found.save(str(tmp_path / "found.CSV"))
    assert (tmp_path / "found.CSV").read_text() == (
        "video,start_seconds,end_seconds,label,score\n"
        'a,1.5,2.25,"jump, high",0.75\n'
        "a,0.0,4.0,run,0.125\n"
        "b/c,3.0,3.5,run,0.5\n"
    )


def test_save_subtitles_of_several(found, tmp_path):
    """The default leaves out what --subtitle_score leaves out."""
    paths = found.save(tmp_path / "found.srt")
    assert paths == [tmp_path / f"found.{name}.srt" for name in ("a", "none", "b_c")]
    assert paths[0].read_text() == "1\n00:00:01,500 --> 00:00:02,250\njump, high  0.75\n"
    assert paths[1].read_text() == ""
    found.save(tmp_path / "all.srt", subtitle_score=0.1)
    assert "run  0.12" in (tmp_path / "all.a.srt").read_text()


def test_save_subtitles_of_one(found, tmp_path):
    one = DetectionTable({"a": found.by_video["a"]}, {"a": 5.0}, found.class_names)
    assert one.save(tmp_path / "found.srt") == [tmp_path / "found.srt"]


@pytest.mark.parametrize("suffix", ["json", "csv", "srt", "vtt", "eaf", "labelstudio.json"])
def test_an_earlier_file_is_kept(found, tmp_path, suffix):
    first = {path: path.read_text() for path in found.save(tmp_path / f"found.{suffix}")}
    found.above(0.6).save(tmp_path / f"found.{suffix}")
    for path, text in first.items():
        assert path.with_name(f"{path.stem}.1{path.suffix}").read_text() == text


@pytest.mark.parametrize("name", ["found.txt", "found", "found.npy", ".json", ".eaf"])
def test_unknown_ending(found, tmp_path, name):
    with pytest.raises(
        UserError, match=rf"{name}: cannot tell the format from its ending; expected .json, .csv, .srt, .vtt, .eaf, "
    ):
        found.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["csv", "json", "vtt", "eaf", "labelstudio.json"])
def test_what_is_saved_is_read_back(found, tmp_path, ending):
    """To the millisecond, with the names of recordings and labels as they were. Tables hold no empty recordings."""
    found = dataclasses.replace(found, by_video={**found.by_video, "d": rows_of("d", (1 / 3, 1.0004, 1, 0.5))})
    paths = found.save(tmp_path / f"found.{ending}", subtitle_score=0.0)
    assert len(paths) == (4 if ending in ("vtt", "eaf") else 1)
    source = paths[0] if len(paths) == 1 else tmp_path
    back = results_files.read_activitynet_detections(source, found.class_names)
    rows = zip(back.videos.tolist(), back.segments.tolist(), back.labels.tolist(), back.scores.tolist(), strict=True)
    expected = [(r.video, r.start_seconds, r.end_seconds, r.label, r.score) for r in found]
    for (video, (start, end), label, score), row in zip(sorted(rows), sorted(expected), strict=True):
        assert (video, found.class_names[label], score) == (row[0], row[3], row[4])
        assert abs(start - row[1]) <= 0.0005 + 1e-9
        assert abs(end - row[2]) <= 0.0005 + 1e-9


def test_files_for_people_hold_what_is_sure(found, tmp_path):
    """From the same score on as subtitles."""
    [path] = found.save(tmp_path / "found.labelstudio.json")
    results = {t["data"]["recording"]: t["predictions"][0]["result"] for t in json.loads(path.read_text())}
    assert {name: len(rows) for name, rows in results.items()} == {"a": 1, "none": 0, "b/c": 1}
    assert results["a"][0]["value"] == {"start": 1.5, "end": 2.25, "instant": False, "timeserieslabels": ["jump, high"]}
    found.save(path, label_studio_rate=10, label_studio_url="http://films/{name}.mp4")
    task = json.loads(path.read_text())[0]
    assert task["data"]["video"] == "http://films/a.mp4"
    assert task["predictions"][0]["result"][0]["value"]["ranges"] == [{"start": 16, "end": 22}]


def test_elan_is_missing(found, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pympi", None)
    with pytest.raises(UserError, match=r"pip install .\.\[annotations\]. in the checkout"):
        found.save(tmp_path / "found.eaf")
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written(found, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        found.save(tmp_path / "file" / "found.json")

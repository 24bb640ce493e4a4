"""What is written for other tools can be read back, to the millisecond."""

import json
import random

import pympi
import pytest

from a2net_tf.annotations import elan, label_studio, subtitles
from a2net_tf.annotations.marks import Found
from a2net_tf.annotations.read import read_annotations, read_detections
from a2net_tf.annotations.reading import Reading
from a2net_tf.errors import UserError

LABELS = ["jump", "jump 2", 'say "a", <b> & c', "öffnen", "a --> b", "twice  0.50"]


def make_rows(seed=0, number=60):
    """Overlapping, also within a class; times that do not fall on milliseconds; one is shorter than one."""
    rng = random.Random(seed)
    starts = [rng.uniform(0, 100) for _ in range(number)]
    rows = [Found(s, s + rng.uniform(0.01, 20), rng.choice(LABELS), round(rng.random(), 3)) for s in starts]
    return [
        *rows,
        Found(-0.5, 1.0, "jump", 0.5),
        Found(3.0, 3.0002, "jump", 0.5),
        Found(3670.0005, 3671.0, "jump", 1.0),
    ]


def rounded(rows):
    found = [(round(max(s, 0.0) * 1000), round(e * 1000), label, score) for s, e, label, score in rows]
    return sorted(row for row in found if row[0] < row[1])


def read_back(path, **reading):
    return {
        name: sorted((round(s * 1000), round(e * 1000), label, score) for _, (s, e, label), score in found)
        for name, found in read_detections(path, Reading(**reading)).items()
    }


@pytest.mark.parametrize("name", ["v", "b/c, d", "2015 - A 1 - 1 B_1", "a --> <b>"])
def test_elan(tmp_path, name):
    elan.write(tmp_path / "found.eaf", name, make_rows())
    assert read_back(tmp_path / "found.eaf") == {name: rounded(make_rows())}


def test_elan_has_a_tier_for_each_class_without_overlaps(tmp_path):
    """What meets is not in one tier either, and a class that is called as another's second tier has its own."""
    rows = [Found(0, 2, "jump", 0.5), Found(1, 3, "jump", 0.25), Found(2, 4, "jump", 1), Found(0, 1, "jump 2", 0.5)]
    elan.write(tmp_path / "found.eaf", "v", rows)
    eaf = pympi.Eaf(str(tmp_path / "found.eaf"))
    tiers = {name: [row[:3] for row in eaf.get_annotation_data_for_tier(name)] for name in eaf.get_tier_names()}
    assert {name: sorted(rows) for name, rows in tiers.items() if "(score)" not in name} == {
        "jump": [(0, 2000, "jump")],
        "jump 3": [(1000, 3000, "jump")],
        "jump 4": [(2000, 4000, "jump")],
        "jump 2": [(0, 1000, "jump 2")],
    }
    assert [row[2] for row in eaf.get_ref_annotation_data_for_tier("jump 3 (score)")] == ["0.250"]


def test_elan_after_a_correction(tmp_path):
    """The person's label and times count; what is new has no score, and is an annotation."""
    elan.write(tmp_path / "found.eaf", "v", [Found(0, 2, "jump", 0.5)])
    eaf = pympi.Eaf(str(tmp_path / "found.eaf"))
    eaf.add_annotation("jump", 5000, 6001, "run")
    eaf.to_file(str(tmp_path / "corrected.eaf"))
    [entry] = read_annotations(tmp_path / "corrected.eaf", Reading())
    assert (entry.name, [tuple(a) for a in entry.actions]) == ("v", [(0.0, 2.0, "jump"), (5.0, 6.001, "run")])
    with pytest.raises(UserError, match="tier 'jump': 'run' has no score"):
        read_detections(tmp_path / "corrected.eaf", Reading())


@pytest.mark.parametrize("name", ["v", "b/c, d", "a --> <b> & c"])
def test_webvtt(tmp_path, name):
    subtitles.write_vtt(tmp_path / "found.vtt", name, make_rows())
    assert read_back(tmp_path / "found.vtt") == {name: rounded(make_rows())}
    text = (tmp_path / "found.vtt").read_text()
    assert text.startswith("WEBVTT\n\nNOTE recording: ")
    assert "01:01:10.000 --> 01:01:11.000\njump  1.000\n" in text


def test_webvtt_of_other_programs(tmp_path):
    """Cues with names and settings, notes, styles, no hours, marked-up text, no scores."""
    text = (
        "WEBVTT - title\nKind: captions\n\nSTYLE\n::cue { color: red }\n\nNOTE 00:01.000 --> 00:02.000\n\n"
        "first\n00:01.500 --> 00:02.250 align:start\n<v Ann>jump</v>\n\n\n00:00:03.000 --> 00:00:04.000\nrun\nfast\n"
    )
    (tmp_path / "v.vtt").write_text(text)
    [entry] = read_annotations(tmp_path / "v.vtt", Reading())
    assert [tuple(action) for action in entry.actions] == [(1.5, 2.25, "jump"), (3.0, 4.0, "run fast")]
    (tmp_path / "v.vtt").write_text("WEBVTT\n\n1.5 --> 2\njump\n")
    with pytest.raises(UserError, match=r"v.vtt, line 3: expected HH:MM:SS.mmm --> HH:MM:SS.mmm, found '1.5 --> 2'"):
        read_annotations(tmp_path / "v.vtt", Reading())


@pytest.mark.parametrize("rate", [0.0, 24.0, 29.97])
def test_label_studio(tmp_path, rate):
    path = tmp_path / "found.labelstudio.json"
    label_studio.write(path, {"a b/c": make_rows(), "v": []}, rate=rate, url="/data/local-files/?d=films/{name}.mp4")
    assert read_back(path) == {"a b/c": rounded(make_rows()), "v": []}
    task = json.loads(path.read_text())[0]
    assert task["data"][("video" if rate else "ts")] == "/data/local-files/?d=films/a%20b/c.mp4"
    with pytest.raises(UserError, match="no task has annotations"):
        read_annotations(path, Reading())


def test_label_studio_after_a_correction(tmp_path):
    """A range that was moved counts in frames; one that was not still has its milliseconds."""
    path = tmp_path / "found.labelstudio.json"
    label_studio.write(
        path, {"v": [Found(1.013, 2.029, "jump", 0.5), Found(5, 6, "run", 0.5)]}, rate=25.0, url="{name}"
    )
    [task] = json.loads(path.read_text())
    results = task.pop("predictions")[0]["result"]
    assert [result["value"]["ranges"] for result in results] == [
        [{"start": 26, "end": 51}],
        [{"start": 126, "end": 150}],
    ]
    results[1]["value"]["ranges"] = [{"start": 131, "end": 150}]
    task["annotations"] = [{"result": results, "was_cancelled": False}]
    path.write_text(json.dumps([task]))
    [entry] = read_annotations(path, Reading())
    assert [tuple(action) for action in entry.actions] == [(1.013, 2.029, "jump"), (5.2, 6.0, "run")]

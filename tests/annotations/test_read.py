"""The kinds of annotations: what is read of them, what odd content becomes, and what is refused with which words."""

import re
import sys

import pytest

from a2net_tf.annotations.read import find_kind, read_annotations, read_detections
from a2net_tf.annotations.reading import Reading, find_reading, make_reading
from a2net_tf.errors import UserError
from tests.annotations import made

JUMP = (1.5, 2.25, "jump")


def actions(path, **reading):
    """{recording: its actions}."""
    return {
        entry.name: [tuple(action) for action in entry.actions] for entry in read_annotations(path, Reading(**reading))
    }


def refused(path, message, **reading):
    with pytest.raises(UserError, match=message) as caught:
        read_annotations(path, Reading(**reading))
    assert "\n" not in str(caught.value)


# Tables


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "video,start,end,label\nv1,1.5,2.25,jump\n"),
        ("a.tsv", "Video\tStart\tEnd\tLabel\r\nv1\t1.5\t2.25\tjump\r\n"),
        ("a.csv", "Clip;Begin time;End time;Class\nv1;1,5;2,25;jump\n".replace("Clip", "file")),
        ("a.txt", "recording,onset,offset,behaviour,who\nclips/v1.mp4,00:01.5,00:00:02.250,jump,me\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables(tmp_path, name, text, encoding):
    assert actions(made.write(tmp_path / name, text, encoding)) == {"v1": [JUMP]}


def test_commas_quotes_and_tabs_in_labels(tmp_path):
    text = 'video,start,end,label\nv,0,1,"jump, high"\nv,1,2,"the ""big"" one"\nv,2,3,"left\tright"\n'
    labels = [label for _, _, label in actions(made.write(tmp_path / "a.csv", text))["v"]]
    assert labels == ["jump, high", 'the "big" one', "left right"]


def test_columns_that_are_named(tmp_path):
    file = made.write(tmp_path / "a.csv", "who,what,t0,t1,name,file\nme,jump,1500,2250,x,v1.wav\n")
    columns = {"video": "file", "start": "t0", "end": "t1", "label": "what"}
    assert actions(file, columns=columns, time_unit="milliseconds") == {"v1": [JUMP]}
    refused(file, r"a.csv: 'video' could be the columns file, name; name it with 'columns'")
    refused(file, r"no column 'start' \(nor start_seconds.*\); found who, what, t0", columns={"video": "file"})
    refused(file, "no single column 'T0'", columns={**columns, "start": "T0"})


def test_frames_need_a_rate(tmp_path):
    file = made.write(tmp_path / "a.csv", "video,start,end,label\nv,30,45,jump\n")
    assert actions(file, time_unit="frames", rate=20) == {"v": [JUMP]}
    refused(
        file, r'line 2: counts frames; say how many a second has: \{"reading": \{"rate": 25\}\}', time_unit="frames"
    )


def test_subsets_durations_and_recordings_without_actions_in_a_table(tmp_path):
    text = "video,start,end,label,subset,video_duration\na,1.5,2.25,jump,test,60\nb,,,,training,\na,3,4,run,test,60\n"
    a, b = read_annotations(made.write(tmp_path / "a.csv", text), Reading())
    assert (a.subset, a.duration_seconds, len(a.actions)) == ("test", 60.0, 2)
    assert (b.subset, b.duration_seconds, b.actions) == ("training", 0.0, ())
    refused(made.write(tmp_path / "b.csv", text + "a,5,6,run,training,60\n"), "line 5: 'a' is in 'training', but above")
    refused(made.write(tmp_path / "c.csv", text + "a,5,6,run,test,61\n"), "line 5: 'a' lasts 61 s, but above 60 s")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("v,2,1,jump", "line 2: 'jump' from 2 to 1 s does not end after its start .reversed"),
        ("v,2,2,jump", r"line 2: 'jump' at 2 s has no length; .*\"point_seconds\": 2"),
        ("v,2,,jump", "line 2: 'jump' at 2 s has no length"),
        ("v,2,3,", "line 2: label: expected a name"),
        ("v,x,3,jump", "line 2: expected a time, found 'x'"),
        ("v,nan,3,jump", "line 2: expected a time, found 'nan'"),
        ("v,2", "line 2: 2 cells, but column 3 is needed"),
        (",2,3,jump", "line 2: the name of the recording is blank"),
    ],
)
def test_rows_that_are_refused(tmp_path, row, message):
    refused(made.write(tmp_path / "a.csv", f"video,start,end,label\n{row}\n"), message)


def test_points_get_a_width(tmp_path):
    file = made.write(tmp_path / "a.csv", "video,start,end,label\nv,10,,hit\nv,0.5,0.5,hit\n")
    assert actions(file, point_seconds=3) == {"v": [(8.5, 11.5, "hit"), (0.0, 2.0, "hit")]}


def test_encodings(tmp_path):
    file = made.write(tmp_path / "a.csv", "video,start,end,label\nv,0,1,Öffnen\n", "latin-1")
    refused(file, r"a.csv: is not a text in UTF-8 .*\"encoding\": \"cp1252\"")
    assert actions(file, encoding="latin-1") == {"v": [(0.0, 1.0, "Öffnen")]}
    refused(file, "Python knows no 'latin-99'", encoding="latin-99")


# ELAN


def test_elan(tmp_path):
    tiers = {
        "left": [(1500, 2250, "jump"), (3000, 4001, ' run, "fast" & <loud> ')],
        "right": [(1600, 2000, "wave")],
        "x": [],
    }
    file = made.write_eaf(tmp_path / "talk.eaf", tiers, [("notes", "left", [(1700, "unclear")])])
    left = [JUMP, (3.0, 4.001, 'run, "fast" & <loud>')]
    assert actions(file) == {"talk": [left[0], (1.6, 2.0, "wave"), left[1]]}
    assert actions(file, tiers=("left",)) == {"talk": left}
    assert actions(file, tiers=("notes",)) == {"talk": [(1.5, 2.25, "unclear")]}
    assert actions(file, tiers=("x",)) == {"talk": []}
    refused(file, "talk.eaf: no tier hands; there are left, right, x, notes", tiers=("hands",))


def test_elan_says_which_tiers_are_left_out(tmp_path, capsys):
    file = made.write_eaf(tmp_path / "talk.eaf", {"acts": [(0, 1, " ")]}, [("notes", "acts", [(0, "n")])])
    assert actions(file) == {"talk": []}
    assert "talk.eaf: tiers without times of their own are left out: notes" in capsys.readouterr().out


def test_elan_annotations_without_times(tmp_path):
    file = made.write_eaf(tmp_path / "talk.eaf", {"words": [(0, 1000, "yes")]})
    file.write_text(file.read_text().replace(' TIME_VALUE="1000"', ""))
    refused(file, "talk.eaf: tier 'words': 'yes' has no times of its own; name other tiers with 'tiers'")


@pytest.mark.parametrize("text", ["", "<ANNOTATION_DOCUMENT>", "<a/>", "start,end"])
def test_damaged_files_of_elan(tmp_path, text):
    refused(made.write(tmp_path / "talk.eaf", text), "talk.eaf: cannot be read as a file of ELAN")


def test_elan_is_missing(tmp_path, monkeypatch):
    file = made.write_eaf(tmp_path / "talk.eaf", {})
    monkeypatch.setitem(sys.modules, "pympi", None)
    refused(file, r"pympi-ling, which is not installed: pip install .\.\[annotations\]. in the checkout")


# BORIS


def test_boris_aggregated(tmp_path):
    common = {"Subject": "No focal subject", "Media duration (s)": "60.500", "Behavior type": "STATE"}
    rows = [
        {**common, "Observation id": "day 1", "Behavior": "jump", "Start (s)": "1.500", "Stop (s)": "2.250"},
        {**common, "Observation id": "day 2", "Behavior": "run", "Start (s)": "3", "Stop (s)": "9", "Source": "x.mp4"},
    ]
    file = made.write_boris(tmp_path / "events.tsv", made.AGGREGATED, rows)
    assert actions(file) == {"day 1": [JUMP], "day 2": [(3.0, 9.0, "run")]}
    assert [entry.duration_seconds for entry in read_annotations(file, Reading())] == [60.5, 60.5]
    point = {
        **common,
        "Observation id": "day 1",
        "Behavior": "hit",
        "Behavior type": "POINT",
        "Start (s)": "5",
        "Stop (s)": "5",
    }
    file = made.write_boris(tmp_path / "events.csv", made.AGGREGATED, [*rows, point], separator=",", line_end="\n")
    refused(file, "line 4: 'hit' at 5 s has no length")
    assert actions(file, point_seconds=1)["day 1"] == [JUMP, (4.5, 5.5, "hit")]
    none = {**common, "Observation id": "day 1", "Behavior": "hit", "Start (s)": "NA", "Stop (s)": "NA"}
    refused(
        made.write_boris(tmp_path / "n.tsv", made.AGGREGATED, [none]), r"line 2: 'hit': Start \(s\): there is no time"
    )


def tabular(*events):
    """Rows of (observation, subject, behavior, modifier, status, time)."""
    columns = ("Observation id", "Subject", "Behavior", "Modifier #1", "Behavior type", "Time")
    return [{**dict(zip(columns, event, strict=True)), "Media file name": f"films/{event[0]}.avi"} for event in events]


def test_boris_tabular(tmp_path):
    """Of several observations and subjects; the same behaviour of two subjects overlaps."""
    rows = tabular(
        ("o1", "Ann", "jump", "", "START", 1.5),
        ("o1", "Bob", "jump", "", "START", 1.75),
        ("o1", "Ann", "jump", "", "STOP", 2.25),
        ("o2", "Ann", "run", "fast", "START", 0),
        ("o1", "Bob", "jump", "", "STOP", 3),
        ("o2", "Ann", "run", "fast", "STOP", 1),
    )
    file = made.write_boris(tmp_path / "events.tsv", made.TABULAR, rows)
    assert actions(file) == {"o1": [JUMP, (1.75, 3.0, "jump")], "o2": [(0.0, 1.0, "run")]}
    assert list(actions(file, columns={"video": "Media file name"})) == ["o1", "o2"]
    refused(file, "no column 'Film'", columns={"video": "Film"})


@pytest.mark.parametrize(
    ("statuses", "message"),
    [
        (["START"], r"line 2: START of 'jump' \(Ann\) without STOP; end it in BORIS"),
        (["STOP"], r"line 2: STOP of 'jump' \(Ann\) without START"),
        (["START", "START", "STOP"], r"line 2: START of 'jump' \(Ann\) without STOP before the next START"),
        (["BEGIN"], "line 2: expected START, STOP or POINT, found 'BEGIN'"),
    ],
)
def test_boris_unpaired(tmp_path, statuses, message):
    rows = tabular(*(("o", "Ann", "jump", "", status, number) for number, status in enumerate(statuses)))
    refused(made.write_boris(tmp_path / "events.tsv", made.TABULAR, rows), message)


def test_boris_of_older_versions(tmp_path):
    """The observation stands above the header."""
    text = (
        "Observation id\tday 1\n\nMedia file(s)\n\nPlayer #1\tfilm.mp4\n\n"
        "Time\tMedia file path\tTotal length\tFPS\tSubject\tBehavior\tBehavioral category\tComment\tStatus\n"
        "1.5\tfilm.mp4\t60.0\t25\tAnn\tjump\t\t\tSTART\n2.25\tfilm.mp4\t60.0\t25\tAnn\tjump\t\t\tSTOP\n"
    )
    [entry] = read_annotations(made.write(tmp_path / "e.tsv", text), Reading())
    assert (entry.name, entry.duration_seconds, list(entry.actions)) == ("day 1", 60.0, [JUMP])


def test_a_project_of_boris(tmp_path):
    refused(made.write(tmp_path / "p.boris", "{}"), "p.boris: is a project of BORIS; export its events")


# Label Studio


def test_label_studio_timelines(tmp_path, capsys):
    """Frames count from 1, and both ends belong to a range."""
    rectangle = {"value": {"sequence": [], "labels": ["cat"]}, "type": "videorectangle"}
    tasks = [
        made.task(1, "v1", [made.timeline(31, 45, "jump"), made.timeline(40, 40, "run", "wave"), rectangle]),
        made.task(2, "v2", []),
        made.task(3, "v3", [made.timeline(1, 9, "jump")], cancelled=True),
        {**made.task(4, "v4", []), "annotations": []},
    ]
    file = made.write_json(tmp_path / "export.json", tasks)
    assert actions(file, rate=20) == {"v1": [JUMP, (1.95, 2.0, "run"), (1.95, 2.0, "wave")], "v2": []}
    printed = capsys.readouterr().out
    assert "2 tasks without annotations are left out: v3, v4" in printed
    assert "1 results that label no stretch of time are left out" in printed
    refused(file, r"task 1: result\[0\]: counts frames; say how many a second has")


def test_label_studio_time_series(tmp_path):
    results = [made.series(1500, 2250, "jump"), made.series(5000, 5000, "hit", instant=True)]
    task = made.task(1, "v", results, data={"ts": "/data/local-files/?d=rec%2Fwalk.csv", "subject": 3})
    file = made.write_json(tmp_path / "export.json", task)
    assert actions(file, time_unit="milliseconds", point_seconds=1) == {"walk": [JUMP, (4.5, 5.5, "hit")]}
    refused(file, "'hit' at 5 s has no length", time_unit="milliseconds")
    dated = made.task(1, "v", [made.series("2024-01-01", "2024-01-02", "jump")])
    refused(
        made.write_json(tmp_path / "d.json", dated), r"start: found .2024-01-01., a date; label against a timeColumn"
    )


def test_label_studio_sound(tmp_path):
    value = {"start": 1.5, "end": 2.25, "channel": 0, "labels": ["jump"]}
    result = {"original_length": 61.5, "value": value, "type": "labels", "from_name": "label", "to_name": "audio"}
    [entry] = read_annotations(made.write_json(tmp_path / "e.json", [made.task(1, "v", [result])]), Reading())
    assert (entry.duration_seconds, list(entry.actions)) == (61.5, [JUMP])


def test_label_studio_of_two_annotators(tmp_path):
    """The last counts, unless one is marked as ground truth."""
    first, second = ({"result": [made.series(0, end, "jump")], "was_cancelled": False} for end in (1, 2))
    task = {"data": {"video": "v.mp4"}, "annotations": [first, second]}
    assert actions(made.write_json(tmp_path / "a.json", [task])) == {"v": [(0.0, 2.0, "jump")]}
    first["ground_truth"] = True
    assert actions(made.write_json(tmp_path / "b.json", [task])) == {"v": [(0.0, 1.0, "jump")]}


def test_label_studio_that_is_refused(tmp_path):
    none = [{**made.task(1, "v", []), "annotations": []}]
    refused(made.write_json(tmp_path / "a.json", none), "a.json: no task has annotations; were they submitted")
    twice = [made.task(1, "v", []), made.task(2, "v", [])]
    refused(made.write_json(tmp_path / "b.json", twice), "task 2: 'v' has another task in this file")
    unnamed = [made.task(1, "v", [], data={"left": "a.mp4", "right": "b.mp4"})]
    file = made.write_json(tmp_path / "c.json", unnamed)
    refused(file, "task 1: which of its data names the recording. Found left, right")
    assert list(actions(file, columns={"video": "right"})) == ["b"]
    minimal = [{"video": "v.mp4", "label": [{"ranges": [], "timelinelabels": ["a"]}]}]
    refused(
        made.write_json(tmp_path / "d.json", minimal), "looked for ActivityNet's .*Label Studio's tasks .*not JSON-MIN"
    )


# Audacity, Praat, labels of frames, SoccerNet


def test_audacity(tmp_path):
    text = '1.500000\t2.250000\tjump\n\\\t100.0\t2000.0\n3.0\t3.0\thit\n4.0\t5.0\t\n6,5\t7\tsay "a", b\tc\n'
    file = made.write(tmp_path / "tape.txt", text.replace("\n", "\r\n"))
    assert actions(file, point_seconds=1) == {"tape": [JUMP, (2.5, 3.5, "hit"), (6.5, 7.0, 'say "a", b c')]}
    refused(file, "tape.txt, line 3: 'hit' at 3 s has no length")


@pytest.mark.parametrize("form", ["long_textgrid", "short_textgrid"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_textgrid(tmp_path, form, encoding):
    intervals, label = [(1.5, 2.25, "jump"), (3.0, 4.125, 'a "quoted", ö\nword 7')], 'a "quoted", ö word 7'
    file = made.write_textgrid(tmp_path / "v.TextGrid", intervals, [(5.0, "clap")], duration=10.5, form=form)
    file.write_bytes(file.read_text("utf-8").encode(encoding))
    [entry] = read_annotations(file, Reading(tiers=("acts",)))
    assert (entry.name, entry.duration_seconds) == ("v", 10.5)
    assert list(entry.actions) == [JUMP, (3.0, 4.125, label)]
    assert actions(file, tiers=("hits",), point_seconds=2) == {"v": [(4.0, 6.0, "clap")]}
    assert actions(file, point_seconds=2) == {"v": [JUMP, (3.0, 4.125, label), (4.0, 6.0, "clap")]}
    refused(file, "tier 'hits', point 1: 'clap' at 5 s has no length")
    refused(file, "no tier words; there are acts, hits", tiers=("words",))


def test_textgrids_that_are_damaged(tmp_path):
    file = made.write_textgrid(tmp_path / "v.TextGrid", [JUMP], duration=10)
    whole = file.read_text()
    refused(made.write(file, whole[:-20]), "v.TextGrid: cannot be read as a TextGrid of Praat .it is cut off")
    refused(made.write(file, whole.replace("IntervalTier", "Spectrum")), "expected IntervalTier or TextTier")
    latin = made.write(tmp_path / "l.TextGrid", whole.replace("jump", "hüpfen"), "latin-1")
    refused(latin, "l.TextGrid: is not a text in UTF-8")
    assert actions(latin, encoding="latin-1") == {"l": [(1.5, 2.25, "hüpfen")]}


def test_labels_of_frames(tmp_path):
    file = made.write(tmp_path / "v.txt", "background\npour\npour\nstir\nstir\nstir\nSIL\n")
    assert actions(file, rate=2) == {"v": [(0.5, 1.5, "pour"), (1.5, 3.0, "stir")]}
    assert read_annotations(file, Reading(rate=2))[0].duration_seconds == 3.5
    refused(file, "v.txt: a label on each line; say how many a second has")
    refused(made.write(tmp_path / "w.txt", "pour\n\nstir\n"), "w.txt, line 2: empty", rate=2)


def event(time, label, position=None):
    more = {} if position is None else {"position": position}
    return {"gameTime": time, "label": label, "team": "home", "visibility": "visible", **more}


def test_soccernet(tmp_path):
    events = [event("1 - 00:07", "Corner", "7346"), event("2 - 45:00", "Goal"), event("1 - 1:00", "Foul", "990000")]
    content = {"UrlLocal": "league/season/2015-02-21 - A 1 - 1 B/", "UrlYoutube": "", "annotations": events}
    file = made.write_json(tmp_path / "Labels-v2.json", content)
    game = "2015-02-21 - A 1 - 1 B"
    assert actions(file, point_seconds=4) == {
        f"{game}_1": [(pytest.approx(5.346), pytest.approx(9.346), "Corner"), (58.0, 62.0, "Foul")],
        f"{game}_2": [(2698.0, 2702.0, "Goal")],
    }
    refused(file, r"annotations\[0\]: 'Corner' at 7.346 s has no length")
    refused(
        made.write_json(tmp_path / "b.json", {"annotations": [event("7", "Goal")]}), "gameTime: expected 'HALF - MIN"
    )


# Sources


def test_kinds(tmp_path):
    files = {
        "activitynet": made.write_json(tmp_path / "a.json", {"database": {}}),
        "label_studio": made.write_json(tmp_path / "b.json", made.task(1, "v", [])),
        "soccernet": made.write_json(tmp_path / "c.json", {"annotations": [event("1 - 00:07", "Corner")]}),
        "elan": made.write_eaf(tmp_path / "d.EAF", {}),
        "subtitles": made.write(tmp_path / "e.vtt", "WEBVTT\n"),
    }
    assert {kind: find_kind(file, Reading()) for kind, file in files.items()} == {kind: kind for kind in files}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{}", "a.json: key 'database' is missing; found no keys; looked for ActivityNet's"),
        ("a.json", "[1]", r"a.json: expected an object .*; looked for ActivityNet's"),
        ("a.json", "{", "a.json: damaged JSON"),
        ("a.csv", "", "a.csv: its kind of annotations cannot be told; looked for a header with start, end and label"),
        ("a.csv", "video,start,end,label\n", "a.csv: no recordings"),
        ("a.txt", "a,b\nc,d\n", "a.txt: its kind .* looked for a label track of Audacity"),
        ("a.vtt", "1\n", "a.vtt: its kind of annotations cannot be told; looked for content that suits .vtt"),
        ("a.docx", "x", "a.docx: its kind of annotations cannot be told; looked for an ending of .json, .csv"),
    ],
)
def test_no_kind_fits(tmp_path, name, text, message):
    refused(made.write(tmp_path / name, text), message)


def test_files_that_are_not_there(tmp_path):
    refused(tmp_path / "a.csv", "a.csv: cannot be read: No such file")
    refused(tmp_path / "a.eaf", "a.eaf: cannot be read: No such file")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.vtt", "WEBVTT\n\n{}:00:00.000 --> {}:00:01.000\njump\n"),
        ("a.csv", "video,start,end,label\nv,{}:00:00,{},jump\n"),
        ("a.csv", "video,start,end,label\nv,0,{},jump\n"),
        ("a.txt", "0\t{}\tjump\n"),
        ("a.json", '{{"annotations": [{{"gameTime": "1 - {}:00", "label": "Goal"}}]}}'),
        ("a.json", '{{"annotations": [{{"gameTime": "1 - 1:00", "label": "Goal", "position": "{}"}}]}}'),
        ("a.TextGrid", 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0 1 <exists> {}\n'),
    ],
)
def test_numbers_of_thousands_of_digits(tmp_path, name, text):
    refused(made.write(tmp_path / name, text.format(*["9" * 5000] * 2)), name)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"seconds": [1e300, 1e300], "rate": 1e300}, "counts frames"),
        ({"seconds": [0, "x"], "rate": 25}, "meta: seconds: expected a number"),
        ({"seconds": None, "rate": True}, "counts frames"),
    ],
)
def test_what_stands_beside_ranges_of_label_studio(tmp_path, meta, message):
    file = made.write_json(tmp_path / "a.json", made.task(1, "v", [{**made.timeline(1, 2, "jump"), "meta": meta}]))
    refused(file, message)


def test_elan_references_that_go_round(tmp_path):
    """Of a damaged file: what refers to itself has no times."""
    file = made.write_eaf(tmp_path / "v.eaf", {"acts": [(0, 9, "x")]}, [("notes", "acts", [(0, "n")])])
    text = file.read_text()
    own = re.search(r'REF_ANNOTATION ANNOTATION_ID="(\w+)" ANNOTATION_REF="(\w+)"', text)
    file.write_text(text.replace(f'ANNOTATION_REF="{own[2]}"', f'ANNOTATION_REF="{own[1]}"'))
    refused(file, "tier 'notes': 'n' has no times of its own", tiers=("notes",))


def test_a_kind_that_is_given(tmp_path):
    file = made.write(tmp_path / "a.txt", "0\t1\n0\t1\n")
    assert actions(file) == {"a": []}
    assert actions(file, kind="frames", rate=1) == {"a": [(0.0, 2.0, "0 1")]}
    refused(file, "reading: 'kind' must be one of activitynet, table", kind="excel")


def test_a_folder(tmp_path, capsys):
    """Of files of several tools; the folder of a file is its subset."""
    made.write_eaf(tmp_path / "training" / "a.eaf", {"acts": [(1500, 2250, "jump")]})
    made.write(tmp_path / "test" / "b.txt", "1.5\t2.25\tjump\n")
    made.write(tmp_path / "c.csv", "start,end,label\n1.5,2.25,jump\n")
    made.write(tmp_path / "settings.json", "{}")
    made.write(tmp_path / ".hidden.csv", "")
    found = {entry.name: (entry.subset, list(entry.actions)) for entry in read_annotations(tmp_path, Reading())}
    assert found == {"a": ("training", [JUMP]), "b": ("test", [JUMP]), "c": ("", [JUMP])}
    assert "3 recordings of 1 tables, 1 label tracks of Audacity, 1 files of ELAN" in capsys.readouterr().out
    made.write(tmp_path / "b.vtt", "WEBVTT\n")
    refused(tmp_path, "'b' is annotated in b.vtt too|'b' is annotated in b.txt too")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty: no annotations; looked for .json, .csv")


def test_subsets_of_settings(tmp_path):
    file = made.write(tmp_path / "a.csv", "video,start,end,label\n" + "".join(f"v{i},0,1,x\n" for i in range(4)))
    found = read_annotations(file, Reading(subsets={"test": ["v3"], "tuning": ["v[12]"]}))
    assert [entry.subset for entry in found] == ["training", "tuning", "tuning", "test"]
    refused(file, "no recording fits 'w' of 'test'", subsets={"test": ["w"]})
    refused(file, "'v1' is both in 'a' and in 'b'", subsets={"a": ["v1"], "b": ["v*"]})


def test_settings_of_reading(tmp_path):
    made.write_json(tmp_path / "settings.json", {"fps": 25, "reading": {"tiers": ["acts"]}})
    assert find_reading(tmp_path / "a.eaf") == find_reading(tmp_path) == Reading(tiers=("acts",))
    assert find_reading(tmp_path / "none" / "a.eaf") == Reading()
    for values, message in [
        ({"tier": []}, "unknown key 'tier'"),
        ({"point_seconds": -1}, "'point_seconds' is -1; expected a number of at least 0"),
        ({"time_unit": "hours"}, "'time_unit' must be one of seconds, milliseconds, frames"),
        ({"columns": {"film": "x"}}, "columns must be one of video, start"),
        ({"columns": {"video": 1}}, "columns: video: expected a text"),
        ({"subsets": {"test": "v1"}}, "subsets: test: expected a list"),
    ]:
        with pytest.raises(UserError, match=message):
            make_reading(values, "settings.json")


def test_detections_have_scores(tmp_path):
    file = made.write(tmp_path / "a.csv", "video,start,end,label,score\nv,1.5,2.25,jump,0.75\n")
    assert read_detections(file, Reading()) == {"v": [(f"{file}, line 2", JUMP, 0.75)]}
    unscored = made.write(tmp_path / "b.csv", "video,start,end,label\nv,0,1,jump\n")
    with pytest.raises(UserError, match="line 2: 'jump' has no score; are these annotations"):
        read_detections(unscored, Reading())

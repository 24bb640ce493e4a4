"""``evaluate`` writes a report, ``--mode=report`` one of several runs, and neither fails for want of a library."""

import json
import re

import pytest

from a2net_tf.main import main
from a2net_tf.report import report_page
from tests import tiny

pytestmark = pytest.mark.slow
needs_plotly = pytest.mark.skipif(not report_page.is_possible(), reason="plotly is not installed")


def evaluate(run, *flags):
    assert main(["--mode=evaluate", f"--workdir={run}", "--noplots", *flags]) == 0


def data_of(path):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An evaluated run."""
    run = tiny.copy_of_trained(tmp_path_factory.mktemp("report"))
    with tiny.silence():
        evaluate(run)
    return run


@needs_plotly
def test_evaluate_writes_a_report_of_what_it_found(run):
    data, metrics = data_of(run / "report.html"), json.loads((run / "metrics.json").read_text())
    assert [track["branch"] for track in data["tracks"]] == list(metrics["branches"])
    assert data["runs"][0]["branches"]["both"]["mAP"] == metrics["mAP"]
    detections = json.loads((run / "detections.json").read_text())["results"]
    assert [recording["name"] for recording in data["recordings"]] == list(detections)
    both = data["tracks"][-1]
    drawn = [kept + out for kept, out in zip(both["counts"], both["leftOut"], strict=True)]
    assert drawn == [len(rows) for rows in detections.values()]
    assert data["runs"][0]["settings"]["base_channels"] == 8
    assert len(data["runs"][0]["history"]["epoch"]) == 2


def test_without_a_report(tmp_path, capsys):
    run = tiny.copy_of_trained(tmp_path)
    evaluate(run, "--noreport")
    assert "report.html" not in capsys.readouterr().out
    assert not [path for path in run.iterdir() if path.name.startswith(("report", "recordings"))]
    message = tiny.refused(capsys, tmp_path, "--mode=report", f"--workdir={run}")
    assert "run --mode=evaluate, without --noreport" in message or "plotly is missing" in message


def test_without_plotly_everything_else_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report_page, "is_possible", lambda: False)
    run = tiny.copy_of_trained(tmp_path)
    evaluate(run)
    printed = capsys.readouterr().out
    assert 'plotly is missing (pip install ".[plots]" in the checkout, or --noreport)' in printed
    assert printed.index("plotly is missing") < printed.index("mAP (%)")  # before the work
    names = {path.name for path in run.iterdir()}
    assert {"metrics.json", "detections.json", "recordings.npz"} <= names
    assert "report.html" not in names
    assert "no report: plotly is missing" in tiny.refused(capsys, tmp_path, "--mode=report", f"--workdir={run}")


@needs_plotly
def test_a_report_of_one_run_again_and_of_two(run, tmp_path, capsys):
    other = tmp_path / "other"
    evaluate(run, f"--output={other}", "--nms_tiou=0.5")
    capsys.readouterr()
    assert main(["--mode=report", f"--workdir={other}", "--subtitle_score=0.25"]) == 0
    assert f"written: {other / 'report.html'}" in capsys.readouterr().out
    assert data_of(other / "report.html")["minScore"] == 0.25
    assert data_of(other / "report.1.html")["minScore"] == 0.3  # what evaluate has written stays
    assert main(["--mode=report", f"--workdir={run},{other}", f"--output={tmp_path / 'both'}"]) == 0
    data = data_of(tmp_path / "both" / "report.html")
    assert [entry["name"] for entry in data["runs"]] == ["run", "other"]
    assert data["runs"][1]["settings"]["nms_tiou"] == 0.5
    assert data["recordings"] == data_of(run / "report.html")["recordings"]
    assert "--output" in tiny.refused(capsys, tmp_path, "--mode=report", f"--workdir={run},{other}")


@needs_plotly
def test_films_beside_the_time_lines(run, tmp_path, capsys):
    name = data_of(run / "report.html")["recordings"][0]["name"]
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / f"{name}.mp4").write_bytes(b"")
    flags = [f"--videos={tmp_path / 'films'}", f"--output={tmp_path / 'out'}"]
    assert main(["--mode=report", f"--workdir={run}", *flags]) == 0
    data = data_of(tmp_path / "out" / "report.html")
    assert [recording["media"] for recording in data["recordings"]] == [f"../films/{name}.mp4", None]
    assert data["kinds"] == {name: "video"}
    capsys.readouterr()
    missing = f"--videos={tmp_path / 'none'}"
    assert "no such file or folder" in tiny.refused(capsys, tmp_path, "--mode=report", f"--workdir={run}", missing)
    assert "no such file or folder" in tiny.refused(capsys, tmp_path, "--mode=evaluate", f"--workdir={run}", missing)
    (tmp_path / "films" / f"{name}.mp4").rename(tmp_path / "films" / "another.mp4")
    evaluate(run, *flags)  # hours of work are not lost for that
    assert "the report plays no videos: --videos=" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.1.html").exists()


def test_what_is_in_the_way_of_a_report(tmp_path, capsys):
    run = tiny.copy_of_trained(tmp_path)
    (run / "report.html").mkdir()
    assert f"{run / 'report.html'}: is a folder" in tiny.refused(
        capsys, tmp_path, "--mode=evaluate", f"--workdir={run}"
    )
    evaluate(run, "--noreport")

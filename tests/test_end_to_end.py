"""From data to detections as a user does it, with the default geometry (six levels, windows of 128 steps)."""

import json
import re
import zipfile

import numpy as np
import pytest

from a2net_tf import settings
from a2net_tf.data import prepared
from a2net_tf.main import main
from a2net_tf.training import run_directory
from tests import tiny

pytestmark = pytest.mark.slow

NARROW = ("--base_channels=8", "--level_channels=8,8,8,8,8,8", "--head_channels=8", "--precision=float32")
HAPT = tiny.REPO.parent / "shared" / "data" / "hapt.zip"


def test_untrained_model_scores_about_nothing(tmp_path):
    """Else the metric, or the data, would be broken."""
    flags = ["--mode=train", f"--workdir={tmp_path}", *tiny.data(), *NARROW]
    config, _ = settings.parse(flags)
    run = run_directory.Run(
        config=config,
        class_names=list(tiny.CLASSES),
        num_features=tiny.FEATURES,
        statistics=(np.zeros(tiny.FEATURES, np.float32), np.ones(tiny.FEATURES, np.float32)),
        num_windows=1,
        seconds_per_step=0.25,
        first_step_seconds=0.0,
    )
    run_directory.save(run)
    run_directory.save_weights(run_directory.build_network(run), tmp_path / "last.npz")
    with tiny.silence():
        assert main(["--mode=evaluate", f"--workdir={tmp_path}", "--eval_split=test", "--noplots"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    at_half = metrics["tiou_thresholds"].index(0.5)
    for branch, found in metrics["branches"].items():
        assert found["mAP"][at_half] < 0.05, branch


def test_perfect_detections_score_everything(tmp_path):
    """The other end of the scale: the ground truth as detections, through the files that users write."""
    builder = prepared.open_dataset("toy_actions", data_dir=str(tiny.data_dir()))
    truth, found = {}, {}
    for record in prepared.read_records(builder, "test").as_numpy_iterator():
        actions = [
            {"label": tiny.CLASSES[label], "segment": segment.tolist()}
            for segment, label in zip(record["segments"], record["labels"], strict=True)
        ]
        truth[record["id"].decode()] = {"subset": "validation", "annotations": actions}
        found[record["id"].decode()] = [{**action, "score": 1.0} for action in actions]
    (tmp_path / "truth.json").write_text(json.dumps({"database": truth}))
    (tmp_path / "found.json").write_text(json.dumps({"results": found}))
    metrics = tmp_path / "metrics.json"
    flags = [f"--detections={tmp_path / 'found.json'}", f"--ground_truth={tmp_path / 'truth.json'}"]
    with tiny.silence():
        assert main(["--mode=score", *flags, f"--metrics={metrics}"]) == 0
    assert json.loads(metrics.read_text())["mAP"] == pytest.approx([1.0] * 5)


# --- the HAPT recordings, as a user has them


def unpack_users(folder, users):
    """A ``manual_dir`` with the recordings of two people."""
    with zipfile.ZipFile(HAPT) as archive:
        names = {name.rpartition("/")[2]: name for name in archive.namelist() if "RawData/" in name}
        (folder / "RawData").mkdir(parents=True)
        for file, name in names.items():
            if re.fullmatch(rf"acc_exp\d\d_user({'|'.join(users)})\.txt", file):
                (folder / "RawData" / file).write_bytes(archive.read(name))
        rows = archive.read(names["labels.txt"]).decode().splitlines()
        kept = [row for row in rows if row.split()[1] in {str(int(user)) for user in users}]
        (folder / "RawData" / "labels.txt").write_text("\n".join(kept) + "\n")
        (class_list,) = (name for name in archive.namelist() if name.endswith("activity_labels.txt"))
        (folder / "activity_labels.txt").write_bytes(archive.read(class_list))
    return folder


@pytest.mark.skipif(not HAPT.exists(), reason="the HAPT recordings are not distributed with the code")
def test_hapt_from_recordings_to_subtitles(tmp_path):
    """Trained on one person, evaluated on another, exported, used on a file: one test, for all of it takes long."""
    run_all_commands(tmp_path)
    check_run_directory(tmp_path / "run")
    check_metrics(json.loads((tmp_path / "run" / "metrics.json").read_text()))
    evaluated = json.loads((tmp_path / "run" / "detections.json").read_text())["results"]
    for name in ("from_run", "from_model"):
        value = json.loads((tmp_path / f"{name}.json").read_text())
        assert set(value) == {"version", "results", "external_data"}
        assert list(value["results"]) == ["recording"]
        check_same_detections(value["results"]["recording"], next(iter(evaluated.values())))
        check_times(value["results"]["recording"], num_steps=len(np.load(tmp_path / "recording.npy")))
        check_subtitles((tmp_path / f"{name}.srt").read_text(), value["results"]["recording"])


def run_all_commands(folder):
    """From raw files to predictions for the first recording of user 2."""
    raw = unpack_users(folder / "raw", ("01", "02"))
    run = f"--workdir={folder / 'run'}"
    flags = ["--dataset=hapt/accelerometer", f"--data_dir={folder / 'data'}", f"--manual_dir={raw}"]
    flags += ["--train_split=user01", "--eval_split=user02", "--epochs=2", "--learning_rate=1e-3", *NARROW]
    predict = ["--mode=predict", f"--features={folder / 'recording.npy'}", "--subtitle_score=0.02"]
    with tiny.silence():
        assert main(["--mode=train_and_evaluate", run, *flags]) == 0
        builder = prepared.open_dataset("hapt/accelerometer", str(folder / "data"))
        first = next(prepared.read_records(builder, "user02").as_numpy_iterator())
        np.save(folder / "recording.npy", first["features"])
        assert main(["--mode=export", run, f"--saved_model={folder / 'model'}"]) == 0
        assert main([*predict, run, f"--output={folder / 'from_run.json'}"]) == 0
        assert main([*predict, f"--saved_model={folder / 'model'}", f"--output={folder / 'from_model.json'}"]) == 0


def check_run_directory(run):
    names = {path.name for path in run.iterdir()}
    expected = {"flags.txt", "run.json", "statistics.npz", "last.npz", "state", "history.csv", "logs"}
    assert expected | {"metrics.json", "detections.json"} <= names
    assert len((run / "history.csv").read_text().splitlines()) == 3


def check_metrics(metrics):
    assert metrics["dataset"].startswith("hapt/accelerometer")
    assert metrics["split"] == "user02"
    assert metrics["protocol"] == "activitynet"
    assert all(0 <= value <= 1 for value in metrics["mAP"])
    assert len(metrics["per_class"]) == 12


def check_same_detections(found, expected):
    """A .npy file, the exported model and evaluate see the same recording and report the same seconds."""
    assert len(found) == len(expected) > 20
    assert [e["label"] for e in found] == [e["label"] for e in expected]
    np.testing.assert_allclose([e["segment"] for e in found], [e["segment"] for e in expected], atol=1e-3)
    np.testing.assert_allclose([e["score"] for e in found], [e["score"] for e in expected], atol=1e-4)


def check_times(found, *, num_steps):
    segments = np.array([entry["segment"] for entry in found])
    assert segments.min() >= 0.25  # where step 0 begins
    assert segments.max() <= 0.25 + 0.5 * num_steps + 1e-3
    assert (segments[:, 1] > segments[:, 0]).all()
    assert (np.diff([entry["score"] for entry in found]) <= 0).all()


def check_subtitles(text, detections):
    """The same detections as in the JSON file, from the given score on, in order of their start."""
    shown = [entry for entry in detections if entry["score"] >= 0.02]
    blocks = text.strip().split("\n\n")
    assert len(blocks) == len(shown) > 0
    numbers, *columns = zip(*map(parse_subtitle, blocks), strict=True)
    assert list(numbers) == list(range(1, len(blocks) + 1))
    found = list(zip(*columns, strict=True))
    assert [times for *times, _ in found] == sorted(times for *times, _ in found)
    milliseconds = [[round(1000 * time) for time in entry["segment"]] for entry in shown]
    assert sorted(found) == sorted((*t, entry["label"]) for t, entry in zip(milliseconds, shown, strict=True))


def parse_subtitle(block):
    """(number, start milliseconds, end milliseconds, label) of one block of a SubRip file."""
    number, times, text = block.splitlines()
    start, end = (
        sum(int(part) * unit for part, unit in zip(re.split("[:,]", time), (3_600_000, 60_000, 1000, 1), strict=True))
        for time in times.split(" --> ")
    )
    return int(number), start, end, text.split()[0]

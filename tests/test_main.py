"""Bad input ends every command with one line that names the culprit; good input with the files that were asked for."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from a2net_tf.annotations.read import read_detections
from a2net_tf.annotations.reading import Reading
from a2net_tf.datasets.hapt.hapt_dataset_builder import CLASS_NAMES
from a2net_tf.main import _no_interrupt_lost, main
from tests import forks, tiny


@pytest.fixture
def run(slow, tmp_path):
    """A trained run of two epochs, to be damaged at will."""
    return tiny.copy_of_trained(tmp_path)


@pytest.fixture
def copied_data(tmp_path):
    """A copy of the prepared toy dataset, to be damaged at will."""
    return shutil.copytree(tiny.data_dir() / "toy_actions" / "1.0.0", tmp_path / "prepared")


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs a command that must fail and leave no trace below ``tmp_path``; returns its one line."""
    return lambda *arguments: tiny.refused(capsys, tmp_path, *map(str, arguments))


def matrix(path, shape=(70, tiny.FEATURES), dtype=np.float32):
    """Writes random features as .npy."""
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.random.default_rng(0).normal(size=shape).astype(dtype))
    return path


def edit_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def cut_in_half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode=train", "--learning_rat=1"], "learning_rat"),
        (["--mode=tran"], "tran"),
        (["--mode=train", "--epochs=many"], "epochs.*many"),
        (["train"], "unexpected argument 'train'"),
        (["--flagfile=nowhere.flags"], "nowhere.flags"),
        (["--mode=train", "--epochs=0"], "--epochs=0: must be >= 1"),
        (["--mode=train", "--nms_tiou=1.5"], "--nms_tiou=1.5: must be"),
        (["--mode=train", "--noanchor_free", "--noanchor_based"], "--noanchor_free and --noanchor_based"),
        (["--mode=train", "--window_steps=100"], "--window_steps=100 does not halve 6 times"),
        (["--mode=evaluate", "--inference_window_steps=64"], "--inference_window_steps=64: must be at least"),
        (["--mode=evaluate", "--inference_overlap=1"], "--inference_overlap=1.0: must be >= 0 and < 1"),
        (["--mode=evaluate", "--test_stride_steps=64"], "Unknown command line flag 'test_stride_steps'"),
        (["--mode=train", "--level_channels=8,8"], "--level_channels has 2 values for --num_levels=6"),
        (["--mode=train", "--validation_split=test"], "--validation_split and --eval_split are both 'test'"),
        (["--mode=train", "--checkpoint=best"], "--checkpoint=best needs a --validation_split"),
        (["--mode=train", "--decay_epochs=30,20"], "--decay_epochs.*must increase"),
        (["--mode=train", "--decay_epochs=30,x"], "--decay_epochs=30,x: expected ints"),
        (["--mode=train"], "--mode=train needs --workdir and --dataset"),
        (["--mode=evaluate"], "--mode=evaluate needs --workdir"),
        (["--mode=predict"], "--mode=predict needs --output"),
        (["--mode=export", "--workdir=w"], "--mode=export needs --saved_model, --tflite, --onnx or --stablehlo"),
        (["--mode=score", "--detections=d"], "--mode=score needs --ground_truth"),
        (["--mode=profile"], "--mode=profile needs --num_features and --num_classes, or a --dataset"),
        (["--mode=profile", "--num_features=4"], "--mode=profile needs --num_features and --num_classes"),
    ],
)
def test_bad_flags(refused, arguments, message):
    assert re.search(message, refused(*arguments))


@pytest.mark.slow
def test_help_lists_every_flag_without_tensorflow():
    """Loading TensorFlow takes seconds; the first thing that anyone types should not."""
    command = [sys.executable, "-X", "importtime", "-m", "a2net_tf.main", "--helpfull"]
    done = subprocess.run(command, cwd=tiny.REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "tensorflow" not in done.stderr.replace("a2net_tf", "")
    for flag in (
        "--mode=train|evaluate|train_and_evaluate|ablate|cross_validate|tune|report|check|predict|export|extract|score|profile",
        "--workdir",
        "--[no]anchor_free",
    ):
        assert flag in done.stdout


def test_short_help_and_that_of_a_mode_need_no_tensorflow():
    for arguments, start in (
        ([], "A2Net: find when actions happen"),
        (["--help", "--mode=train"], "--mode=train: train on --train_split"),
    ):
        command = [sys.executable, "-X", "importtime", "-m", "a2net_tf.main", *arguments]
        done = subprocess.run(command, cwd=tiny.REPO, capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert "tensorflow" not in done.stderr.replace("a2net_tf", "")
        assert done.stdout.startswith(start)


@pytest.mark.slow
def test_mistyped_flag_needs_no_tensorflow():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "a2net_tf.main", "--epoch=3"],
        cwd=tiny.REPO, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "tensorflow" not in done.stderr.replace("a2net_tf", "")
    assert [line for line in done.stderr.splitlines() if not line.startswith("import time")] == [
        "error: Unknown command line flag 'epoch'. Did you mean: epochs ? (--helpfull lists all settings)"
    ]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h", "--flagfile=configs/hapt.flags"]])
def test_help_in_process(capsys, arguments):
    assert main(arguments) == 0
    assert "modes:" in capsys.readouterr().out


def test_help_of_a_mode_that_there_is_not(refused):
    message = refused("--help", "--mode=trian")
    assert message.startswith("error: --mode=trian: no such mode; have train, evaluate, train_and_evaluate, ")


@pytest.mark.slow
def test_exit_status_and_no_traceback_in_a_new_process(tmp_path):
    done = tiny.in_new_process("--mode=evaluate", f"--workdir={tmp_path / 'nowhere'}")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: --workdir={tmp_path / 'nowhere'}: no trained model here (run.json is missing)"
    ]
    assert os.listdir(tmp_path) == []


# --- datasets


def test_a_folder_that_no_model_can_be_exported_into_is_named_before_training(tmp_path, capsys):
    assert main(["--mode=train", "--dataset=no_such", f"--workdir={tmp_path / 'run[1]'}"]) == 1
    assert "run[1] holds [ and ]: training works, but a SavedModel" in capsys.readouterr().out
    assert main(["--mode=train", "--dataset=no_such", f"--workdir={tmp_path / 'run'}"]) == 1
    assert capsys.readouterr().out == ""


def test_unknown_dataset(refused, tmp_path):
    message = refused("--mode=train", "--dataset=toy_action", f"--workdir={tmp_path / 'run'}")
    assert re.search("--dataset=toy_action: no such dataset; have .*hapt, .*toy_actions", message)


def test_unknown_dataset_config(refused, tmp_path):
    message = refused("--mode=train", "--dataset=hapt/acc", f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path}")
    assert "--dataset=hapt/acc: no config 'acc'; have accelerometer, all_sensors" in message


@pytest.mark.parametrize("split", ["trian", "train[:0]", "train[:x]", "train+tset"])
def test_unknown_or_empty_training_split(refused, tmp_path, split):
    message = refused(*tiny.train_flags(tmp_path / "run", f"--train_split={split}"))
    assert f"split '{split}'" in message
    assert "toy_actions" in message


@pytest.mark.parametrize(("mode", "flag"), [("train", "--validation_split"), ("train_and_evaluate", "--eval_split")])
def test_other_wrong_splits_are_found_before_training(refused, tmp_path, mode, flag):
    message = refused(*tiny.train_flags(tmp_path / "run", f"--mode={mode}", f"{flag}=tset"))
    assert "split 'tset' is not in toy_actions/1.0.0; it has " in message


def test_unknown_split_when_evaluating(refused, run):
    assert "split 'tset'" in refused("--mode=evaluate", f"--workdir={run}", "--eval_split=tset")


@pytest.mark.parametrize(("mode", "split"), [("train", "train"), ("evaluate", "test")])
@pytest.mark.parametrize("cut", ["inside a record", "between records", "everything"])
def test_truncated_record_file(refused, run, copied_data, tmp_path, mode, split, cut):
    file = next(copied_data.glob(f"*-{split}.tfrecord*"))
    content = file.read_bytes()
    first_record = 16 + int.from_bytes(content[:8], "little")  # length, its checksum, the record, its checksum
    file.write_bytes(content[: {"inside a record": first_record + 99, "between records": first_record}.get(cut, 0)])
    flags = tiny.train_flags(tmp_path / "new") if mode == "train" else ["--mode=evaluate", f"--workdir={run}"]
    message = refused(*flags, f"--dataset={copied_data}")
    assert re.search(f"error: {file}: .*truncated or damaged record file", message)


def test_flipped_byte_in_a_record_file(refused, copied_data, tmp_path):
    file = next(copied_data.glob("*-train.tfrecord*"))
    content = bytearray(file.read_bytes())
    content[500] ^= 255
    file.write_bytes(content)
    message = refused(*tiny.train_flags(tmp_path / "new", f"--dataset={copied_data}"))
    assert re.search(f"error: {file}: .*damaged record file", message)


def test_missing_record_file(refused, copied_data, tmp_path):
    file = next(copied_data.glob("*-train.tfrecord*"))
    file.unlink()
    assert str(file) in refused(*tiny.train_flags(tmp_path / "new", f"--dataset={copied_data}"))


def test_half_copied_dataset(refused, tmp_path):
    folder = tmp_path / "data" / "toy_actions" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "features.json").write_text("{}")
    message = refused(*tiny.train_flags(tmp_path / "run", f"--data_dir={tmp_path / 'data'}"))
    assert f"{folder}: exists but holds no dataset_info.json" in message


def test_features_do_not_fit_what_profile_was_told(refused, tmp_path):
    message = refused(*tiny.train_flags(tmp_path / "run", "--num_features=12"))
    assert "--num_features=12, but toy_actions/1.0.0 has 16" in message


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--axis_rotation=10", "--axis_rotation=10: toy_actions/1.0.0 does not declare which channels"),
        ("--signal_noise=0.1", "--signal_noise=0.1: toy_actions/1.0.0 does not declare how its feature vectors are"),
        ("--time_scaling=1", "--time_scaling=1.0: must be >= 0 and < 1"),
    ],
)
def test_augmentation_that_the_dataset_does_not_allow(refused, tmp_path, flag, message):
    assert message in refused(*tiny.train_flags(tmp_path / "run", flag))


def test_no_window_holds_an_action(refused, tmp_path):
    flags = ["--window_steps=4", "--num_levels=1", "--train_split=train[:1]", "--min_action_inside=1"]
    message = refused(*tiny.train_flags(tmp_path / "run", *flags))
    assert re.search(r"no .*window.* 4 steps \(--window_steps\).* 100% of an action", message)


def test_too_many_actions_in_a_window(refused, tmp_path):
    message = refused(*tiny.train_flags(tmp_path / "run", "--max_actions=1"))
    assert re.search(r"sequence .*train_\d+.* has a window with .* actions; raise --max_actions", message)


# --- HAPT files as users bring them


def write_hapt(folder, *, num_samples=300):
    """Two recordings of user 1 in the layout that UCI distributes."""
    raw_data = folder / "RawData"
    raw_data.mkdir(parents=True)
    for experiment in (1, 2):
        for sensor in ("acc", "gyro"):
            rng = np.random.default_rng(experiment)
            np.savetxt(raw_data / f"{sensor}_exp{experiment:02d}_user01.txt", rng.normal(size=(num_samples, 3)), "%.4f")
    (raw_data / "labels.txt").write_text("1 1 5 11 110\n1 1 7 111 300\n2 1 5 11 110\n2 1 7 111 300\n")
    lines = [f"{number} {name}\n" for number, name in enumerate(CLASS_NAMES, start=1)]
    (folder / "activity_labels.txt").write_text("".join(lines))
    return folder


def hapt_flags(tmp_path, raw):
    return [
        *tiny.train_flags(tmp_path / "run"),
        "--dataset=hapt/accelerometer",
        f"--data_dir={tmp_path / 'data'}",
        f"--manual_dir={raw}",
        "--train_split=user01",
        "--eval_split=user01",
    ]


def train_on_bad_hapt(tmp_path, capsys, raw):
    """The line of a command that must fail and leave neither a run nor records."""
    capsys.readouterr()
    assert main(hapt_flags(tmp_path, raw)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]  # TFDS's progress bars come before it
    assert "Traceback" not in "".join(lines)
    assert not (tmp_path / "run").exists()
    left = " ".join(path.name for path in (tmp_path / "data").rglob("*"))
    assert not re.search("tfrecord|incomplete|dataset_info", left)  # TFDS leaves some empty folders
    return lines[-1]


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_hapt_folder_is_missing_or_empty(refused, tmp_path, kind):
    raw = tmp_path / "raw"
    if kind == "empty":
        raw.mkdir()
    assert f"manual_dir={raw}: not a folder, or an empty one. Download" in refused(*hapt_flags(tmp_path, raw))


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        ("acc_exp02_user01.txt", 7, "0.1 nan 0.3", "line 7: found nan, expected a finite number"),
        ("acc_exp02_user01.txt", 7, "0.1 0.2", "line 7: expected 3 numbers, found 2"),
        ("acc_exp02_user01.txt", 7, "0.1 0.2 0.3 0.4", "line 7: expected 3 numbers, found 4"),
        ("labels.txt", 3, "2 1 5 11 301", "line 3: last sample 301, but exp02_user01 has only 300"),
        ("labels.txt", 3, "2 1 5 110 11", "line 3: samples 110 to 11, expected 1 <= first <= last"),
        ("labels.txt", 3, "2 1 13 11 110", "line 3: class id 13, expected 1 to 12"),
        ("labels.txt", 3, "7 1 5 11 110", "line 3: there is no file acc_exp07_user01.txt"),
    ],
)
def test_bad_line_in_a_hapt_file(tmp_path, capsys, file, line, text, message):
    raw = write_hapt(tmp_path / "raw")
    lines = (raw / "RawData" / file).read_text().splitlines()
    lines[line - 1] = text
    (raw / "RawData" / file).write_text("\n".join(lines) + "\n")
    assert f"{raw / 'RawData' / file}, {message}" in train_on_bad_hapt(tmp_path, capsys, raw)


def test_hapt_recording_without_its_pair(tmp_path, capsys):
    raw = write_hapt(tmp_path / "raw")
    (raw / "RawData" / "acc_exp02_user01.txt").unlink()
    message = train_on_bad_hapt(tmp_path, capsys, raw)
    assert "gyro_exp02_user01.txt has no partner acc_exp02_user01.txt" in message


# --- models and data that do not belong together


def test_evaluate_on_data_with_other_features(refused, run, tmp_path):
    flags = hapt_flags(tmp_path, write_hapt(tmp_path / "raw"))[-5:]
    with tiny.silence():
        assert main(["--mode=profile", *flags]) == 0  # prepares it
    message = refused("--mode=evaluate", f"--workdir={run}", *flags[:2], "--eval_split=user01")
    assert message == f"error: hapt/accelerometer/1.1.0 has 150 values per step but the model in {run} takes 16"


@pytest.mark.parametrize("mode", ["evaluate", "predict"])
def test_data_with_other_classes(refused, run, copied_data, tmp_path, mode):
    """Scores of one class must not be counted for another; predicting does not need the classes of the data."""
    (copied_data / "labels.labels.txt").write_text("tap\nfall\nrise\nslow_wave\nfast_wave\nstall\n")
    flags = [f"--mode={mode}", f"--workdir={run}", f"--dataset={copied_data}"]
    if mode == "predict":
        with tiny.silence():
            assert main([*flags, f"--output={tmp_path / 'out.json'}"]) == 0
        return
    message = refused(*flags)
    assert "has the classes tap, fall, rise," in message
    assert "was trained on tap, rise, fall" in message


@pytest.mark.parametrize("flag", ["--num_levels=1", "--base_channels=16", "--noanchor_free", "--nonormalize"])
def test_flag_contradicts_the_trained_model(refused, run, flag):
    message = refused("--mode=evaluate", f"--workdir={run}", flag)
    name = flag.removeprefix("--no").removeprefix("--").partition("=")[0]
    assert re.search(rf"{run} holds a run with other settings: --{name}=.* \(was ", message)


def test_flags_that_do_not_belong_to_the_model_are_free(run):
    with tiny.silence():
        assert (
            main(["--mode=evaluate", f"--workdir={run}", "--noplots", "--nms_tiou=0.4", "--inference_overlap=0.75"])
            == 0
        )
    assert json.loads((run / "metrics.json").read_text())["split"] == "test[:2]"


@pytest.mark.parametrize(
    "changes", [{"base_channels": 16}, {"level_channels": [8, 9]}, {"num_levels": 1}, {"anchor_free": False}]
)
def test_weights_of_another_architecture(refused, run, changes):
    edit_json(run / "run.json", lambda value: value["config"].update(changes))
    message = refused("--mode=evaluate", f"--workdir={run}")
    assert f"{run / 'last.npz'}: damaged, or of another architecture than run.json says" in message


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_damaged_weights(refused, run, damage):
    weights = run / "last.npz"
    if damage == "cut":
        cut_in_half(weights)
    else:
        weights.write_text("weights" if damage == "text" else "")
    assert f"{weights}: not a readable .npz file (" in refused("--mode=evaluate", f"--workdir={run}")


@pytest.mark.parametrize(
    ("mode", "flag"), [("evaluate", "--noplots"), ("export", "--saved_model"), ("predict", "--output")]
)
def test_workdir_without_a_run(refused, tmp_path, mode, flag):
    target = [flag] if mode == "evaluate" else [f"{flag}={tmp_path / 'out'}"]
    message = refused(f"--mode={mode}", f"--workdir={tmp_path}", *target)
    assert message == f"error: --workdir={tmp_path}: no trained model here (run.json is missing)"


def test_checkpoint_best_without_validation(refused, run):
    (run / "best.npz").unlink()
    message = refused("--mode=evaluate", f"--workdir={run}", "--checkpoint=best")
    assert "best.npz: no such checkpoint (best is kept only with --validation_split)" in message


@pytest.mark.parametrize(
    "listed", ["/etc/ckpt-1", "../../other/state/ckpt-1", "ckpt-1/../../x", "checkpoint", "ckpt-2.index"]
)
def test_state_of_another_place(refused, run, listed):
    """TensorFlow would restore from it, and later delete it."""
    (run / "state" / "checkpoint").write_text(
        f'model_checkpoint_path: "ckpt-2"\nall_model_checkpoint_paths: "{listed}"\n'
    )
    message = refused(*tiny.train_flags(run, "--epochs=2", "--validation_split=validation[:2]"))
    assert f"{run / 'state' / 'checkpoint'}: expected names such as ckpt-1, found " in message


@pytest.mark.parametrize(
    ("name", "value"),
    [("base_channels", 10**6), ("head_channels", 10**6), ("level_channels", [8, 10**6]), ("anchor_ratios", 10_000)],
)
def test_run_json_with_sizes_that_no_weight_has(refused, run, name, value):
    """The network that it describes would fit into no memory."""
    value = [1 + i / 2 for i in range(value)] if name == "anchor_ratios" else value
    edit_json(run / "run.json", lambda said: said["config"].update({name: value}))
    message = refused("--mode=predict", f"--workdir={run}", f"--features={run}", f"--output={run / 'x.json'}")
    assert re.search(rf"last\.npz: damaged, or of another architecture than run.json says: --{name}: ", message)


def test_run_whose_first_epoch_never_ended(refused, run):
    (run / "last.npz").unlink()
    assert "last.npz: no such checkpoint (no epoch has finished)" in refused("--mode=evaluate", f"--workdir={run}")


@pytest.mark.parametrize("mode", ["evaluate", "train"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00\xff",
        "{",
        "[]",
        "{}",
        '{"config": []}',
        '{"config": {"epochs": "x"}}',
        '{"config": {"no_such_setting": 1}}',
    ],
)
def test_damaged_run_json(refused, run, text, mode):
    (run / "run.json").write_text(text, encoding="latin-1")
    flags = tiny.train_flags(run) if mode == "train" else ["--mode=evaluate", f"--workdir={run}"]
    assert str(run / "run.json") in refused(*flags)


@pytest.mark.parametrize("key", ["class_names", "num_features", "num_windows", "seconds_per_step"])
def test_key_missing_from_run_json(refused, run, key):
    edit_json(run / "run.json", lambda value: value.pop(key))
    assert re.search(f"run.json: damaged.*{key}", refused("--mode=evaluate", f"--workdir={run}"))


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "other size"])
def test_damaged_statistics(refused, run, damage):
    file = run / "statistics.npz"
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        cut_in_half(file)
    elif damage == "text":
        file.write_text("mean")
    else:
        np.savez(file, mean=np.zeros(3, np.float32), variance=np.ones(3, np.float32))
    assert str(file) in refused("--mode=evaluate", f"--workdir={run}")


# --- feature files


def predict_flags(run, features):
    return ["--mode=predict", f"--workdir={run}", f"--features={features}", f"--output={run.parent / 'out.json'}"]


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((70, 12), np.float32, "12 values per step but 16 are expected"),
        ((16, 70), np.float32, "70 values per step but 16 are expected; is the matrix transposed?"),
        ((0, 16), np.float32, "0 feature steps; an empty recording cannot be used"),
        ((0, 12), np.float32, "0 feature steps"),
        ((16,), np.float32, "expected a number matrix [steps, features], found shape [16]"),
        ((1, 70, 16), np.float32, "expected a number matrix [steps, features], found shape [1, 70, 16]"),
        ((70, 16), "U5", "expected a number matrix [steps, features], found shape"),
        ((70, 16), bool, "expected a number matrix [steps, features], found shape"),
        ((70, 16), np.complex64, "expected a number matrix [steps, features], found shape"),
    ],
)
def test_array_that_is_no_feature_matrix(refused, run, tmp_path, shape, dtype, message):
    file = matrix(tmp_path / "video.npy", shape, dtype)
    assert f"error: {file}: {message}" in refused(*predict_flags(run, file))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_features(refused, run, tmp_path, value):
    file = matrix(tmp_path / "video.npy")
    features = np.load(file)
    features[[5, 9], 3] = value
    np.save(file, features)
    message = refused(*predict_flags(run, file))
    assert f"{file}: 2 steps hold NaN or infinite values, the first is step 5" in message


def test_numbers_that_overflow_float32(refused, run, tmp_path):
    file = tmp_path / "video.npy"
    np.save(file, np.full((70, 16), 1e300))
    assert str(file) in refused(*predict_flags(run, file))


def test_array_of_objects_is_never_unpickled(refused, run, tmp_path):
    file = tmp_path / "video.npy"
    np.save(file, np.array([Unpickled(tmp_path / "harm")] * 2, dtype=object), allow_pickle=True)
    message = refused(*predict_flags(run, file))
    assert f"{file}: not a readable .npy array" in message
    assert not (tmp_path / "harm").exists()


class Unpickled:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("content", [b"1 2 3\n4 5 6\n", b"", b"\x93NUMPY", b"PK\x03\x04 a zip file, cut off"])
def test_file_that_is_no_npy(refused, run, tmp_path, content):
    file = tmp_path / "video.npy"
    file.write_bytes(content)
    assert f"{file}: not a readable .npy array" in refused(*predict_flags(run, file))


def test_npz_named_npy(refused, run, tmp_path):
    with open(tmp_path / "video.npy", "wb") as file:
        np.savez(file, features=np.zeros((70, 16), np.float32))
    assert f"{tmp_path / 'video.npy'}: " in refused(*predict_flags(run, tmp_path / "video.npy"))


def test_npy_cut_off(refused, run, tmp_path):
    file = matrix(tmp_path / "video.npy")
    cut_in_half(file)
    assert f"{file}: not a readable .npy array" in refused(*predict_flags(run, file))


def test_no_feature_files(refused, run, tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "video.txt").write_text("1 2 3")
    message = refused(*predict_flags(run, tmp_path / "features"))
    assert message == (
        f"error: --features={tmp_path / 'features'}: no .npy, .npz, .csv file in this folder, "
        "found 1 .txt (such as video.txt)"
    )
    message = refused(*predict_flags(run, tmp_path / "nowhere.npy"))
    assert message == f"error: --features={tmp_path / 'nowhere.npy'}: no such file"


def test_a_folder_is_read_as_training_reads_it(run, tmp_path, capsys):
    folder = tmp_path / "features"
    features = np.load(matrix(folder / "rec0.npy"))
    np.savez(folder / "rec1.npz", features=features)
    (folder / "sub").mkdir()
    np.savetxt(folder / "sub" / "rec2.csv", features, delimiter=",")
    (folder / "._rec0.npy").write_bytes(b"of a Mac")
    (folder / "notes.txt").write_text("...")
    assert main(predict_flags(run, folder)) == 0
    assert f"--features={folder}: 3 feature files; 1 files of other kinds are left out" in capsys.readouterr().out
    results = json.loads((run.parent / "out.json").read_text())["results"]
    assert sorted(results) == ["rec0", "rec1", "rec2"]
    assert results["rec0"] == results["rec1"]


@pytest.mark.parametrize("name", ["video.npy", "other.npz"])
def test_an_output_that_would_replace_features(refused, run, tmp_path, name):
    file = matrix(tmp_path / "video.npy")
    message = refused(*predict_flags(run, file)[:-1], f"--output={tmp_path / name}")
    assert "names the detections to write, but ends as a file of features does" in message


@pytest.mark.parametrize("ending", ["csv", "vtt", "eaf", "labelstudio.json"])
def test_an_output_by_its_ending(run, tmp_path, capsys, ending):
    """Subtitles lie beside whatever is written; what is written is read back."""
    flags = predict_flags(run, matrix(tmp_path / "video.npy"))[:-1]
    output = tmp_path / f"found.{ending}"
    with tiny.silence():
        assert main([*flags, f"--output={output}", "--subtitle_score=0"]) == 0
        assert main([*flags, f"--output={tmp_path / 'found.json'}", "--subtitle_score=0"]) == 0
    assert output.with_suffix(".srt").exists()
    [(name, found)] = read_detections(output, Reading()).items()
    expected = json.loads((tmp_path / "found.json").read_text())["results"]["video"]
    expected = [e for e in expected if round(e["segment"][0] * 1000) < round(e["segment"][1] * 1000)]
    assert name == "video"
    assert sorted(round(start * 1000) for _, (start, _, _), _ in found) == sorted(
        round(e["segment"][0] * 1000) for e in expected
    )


def test_an_output_of_no_known_ending(refused, run, tmp_path):
    flags = predict_flags(run, matrix(tmp_path / "video.npy"))[:-1]
    assert "cannot tell the format from its ending; expected .json, .csv" in refused(
        *flags, f"--output={tmp_path / 'a.docx'}"
    )


def test_an_output_that_is_the_folder_of_features(refused, run, tmp_path):
    folder = matrix(tmp_path / "features" / "video.npy").parent
    assert "is --features itself" in refused(*predict_flags(run, folder)[:-1], f"--output={folder}")


def test_one_bad_file_of_many_stops_before_work_begins(refused, run, tmp_path):
    matrix(tmp_path / "features" / "a.npy")
    bad = matrix(tmp_path / "features" / "b.npy", (70, 12))
    assert f"{bad}: 12 values per step" in refused(*predict_flags(run, tmp_path / "features"))


def test_two_sequences_of_one_name_for_subtitles(run, tmp_path):
    """Names that differ only in letters that files may not have must not overwrite each other's subtitles."""
    for name in ("a b", "a_b"):
        matrix(tmp_path / "features" / f"{name}.npy")
    with tiny.silence():
        assert main(predict_flags(run, tmp_path / "features")) == 0
    assert set(json.loads((tmp_path / "out.json").read_text())["results"]) == {"a b", "a_b"}
    assert len(list(tmp_path.glob("out.*.srt"))) == 2


def test_subtitles_do_not_overwrite_the_detections(run, tmp_path, capsys):
    flags = [*predict_flags(run, matrix(tmp_path / "video.npy")), f"--output={tmp_path / 'out.srt'}"]
    if main(flags) == 0:
        assert len(list(tmp_path.glob("out*"))) == 2
    assert capsys.readouterr().err.count("error: ") == (not (tmp_path / "out.srt").exists())


def test_predict_without_anything_to_predict(refused, run, tmp_path):
    (tmp_path / "no_model").mkdir()
    flags = ["--mode=predict", f"--output={tmp_path / 'out.json'}"]
    assert f"{tmp_path / 'no_model'}: no SavedModel here" in refused(*flags, f"--saved_model={tmp_path / 'no_model'}")
    assert "--mode=predict needs --workdir" in refused(*flags)


# --- results that cannot be written


def test_results_path_is_a_folder(refused, run, tmp_path):
    file = matrix(tmp_path / "video.npy")
    (tmp_path / "results").mkdir()
    message = refused(*predict_flags(run, file), f"--output={tmp_path / 'results'}")
    assert f"{tmp_path / 'results'}: is a folder; expected the name of a file to write" in message


@pytest.mark.parametrize(
    ("mode", "flag"),
    [
        ("predict", "--output"),
        ("profile", "--metrics"),
        ("score", "--metrics"),
        ("export", "--saved_model"),
        ("train", "--workdir"),
    ],
)
def test_results_path_below_a_file(refused, run, tmp_path, mode, flag):
    (tmp_path / "file").write_text("not a folder")
    flags = {
        "predict": predict_flags(run, matrix(tmp_path / "video.npy")),
        "profile": ["--mode=profile", "--num_features=4", "--num_classes=2", *tiny.NETWORK],
        "score": ["--mode=score", *write_activitynet(tmp_path)],
        "export": ["--mode=export", f"--workdir={run}"],
        "train": tiny.train_flags(tmp_path / "unused"),
    }[mode]
    message = refused(*flags, f"{flag}={tmp_path / 'file' / 'below'}")
    assert f"{tmp_path / 'file' / 'below'}" in message
    assert "cannot be written" in message


def test_workdir_is_a_file(refused, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert f"{tmp_path / 'file'}" in refused(*tiny.train_flags(tmp_path / "file"))


def test_device_is_not_replaced(refused, run, tmp_path):
    message = refused(*predict_flags(run, matrix(tmp_path / "video.npy")), "--output=/dev/full")
    assert "/dev/full: is not a regular file and cannot be replaced" in message
    assert os.path.exists("/dev/full")


@contextlib.contextmanager
def nearly_full_disk():
    """No file may grow beyond 4 kB: the same failure inside write() as on a full disk."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_disk_full_when_predicting(refused, run, tmp_path):
    flags = predict_flags(run, matrix(tmp_path / "video.npy"))
    with nearly_full_disk():
        message = refused(*flags, "--subtitle_score=1")
    assert f"{tmp_path / 'out.json'}: cannot be written" in message


def test_disk_full_when_evaluating(refused, run):
    with nearly_full_disk():
        message = refused("--mode=evaluate", f"--workdir={run}", "--noplots")
    assert f"{run / 'detections.json'}: cannot be written" in message


@pytest.mark.slow
def test_disk_full_when_training(run, tmp_path):
    """The epoch that could not be saved is lost, the one before is kept. In a new process: HDF5 may crash it."""
    kept = ("last.npz", "best.npz", "history.csv", "state/checkpoint")
    before = {name: (run / name).read_bytes() for name in kept}
    code = (
        "import resource, sys\n"
        "from a2net_tf.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (24000, -1))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    flags = tiny.train_flags(run, "--epochs=3", "--validation_split=validation[:2]")
    done = forks.run([sys.executable, "-c", code, *flags], cwd=tiny.REPO)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert str(run) in errors[0]
    assert {name: (run / name).read_bytes() for name in kept} == before
    assert [path.name for path in run.rglob("*tmp*")] == []


def test_a_defect_is_one_line_too(capsys, monkeypatch):
    from a2net_tf.modes import command

    def fail(config, given):
        raise KeyError("no\x1b[2J such\nkey")

    monkeypatch.setitem(command._MODES, "profile", fail)
    assert main(["--mode=profile"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: KeyError: ")
    path = pathlib.Path(line.rpartition("the traceback is in ")[2].removesuffix(")"))
    assert "in fail" in path.read_text()
    path.unlink()


def test_interrupted_command_says_how_to_go_on(capsys, monkeypatch):
    from a2net_tf.modes import command

    def interrupt(config, given):
        raise KeyboardInterrupt

    monkeypatch.setitem(command._MODES, "profile", interrupt)
    assert main(["--mode=profile"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


# --- score


def write_activitynet(folder):
    """Flags for the ground truth of two videos and detections: both jumps are found, the only run is not."""
    truth = {
        "a": {"subset": "validation", "annotations": [{"label": "jump", "segment": [0, 10]}]},
        "b": {
            "subset": "validation",
            "annotations": [{"label": "jump", "segment": [5, 9]}, {"label": "run", "segment": [20, 30]}],
        },
        "c": {"subset": "training", "annotations": [{"label": "swim", "segment": [0, 1]}]},
    }
    found = {
        "a": [{"label": "jump", "score": 0.9, "segment": [0, 10]}],
        "b": [{"label": "jump", "score": 0.8, "segment": [5, 9]}, {"label": "run", "score": 0.7, "segment": [40, 50]}],
    }
    (folder / "truth.json").write_text(json.dumps({"database": truth}))
    (folder / "found.json").write_text(json.dumps({"version": "VERSION 1.3", "results": found, "external_data": {}}))
    return [f"--detections={folder / 'found.json'}", f"--ground_truth={folder / 'truth.json'}"]


def write_thumos14(folder):
    """Flags for the same in the challenge's texts."""
    (folder / "annotations").mkdir()
    texts = {
        "detclasslist.txt": "7 Jump\n22 Run\n",
        "Jump_test.txt": "video_1  0.0 10.0\nvideo_2  5.0  9.0\n",
        "Run_test.txt": "video_2 20.0 30.0\n",
        "Ambiguous_test.txt": "",
    }
    for name, text in texts.items():
        (folder / "annotations" / name).write_text(text)
    (folder / "found.txt").write_text("video_1 0 10 7 0.9\nvideo_2 5 9 7 0.8\nvideo_2 40 50 22 0.7\n")
    return [
        "--protocol=thumos14",
        f"--detections={folder / 'found.txt'}",
        f"--ground_truth={folder / 'annotations'}",
    ]


@pytest.mark.parametrize(("write", "protocol"), [(write_activitynet, "activitynet"), (write_thumos14, "thumos14")])
def test_score(tmp_path, capsys, write, protocol):
    metrics = tmp_path / "metrics.json"
    assert main(["--mode=score", *write(tmp_path), f"--metrics={metrics}", "--tiou_thresholds=0.3,0.5"]) == 0
    found = json.loads(metrics.read_text())
    means = {"mAP", "average_mAP", "mAP_normalized", "average_mAP_normalized"}
    assert {"protocol", "tiou_thresholds", "per_class"} | means <= set(found)
    assert found["protocol"] == protocol
    assert found["tiou_thresholds"] == [0.3, 0.5]
    assert found["mAP"] == pytest.approx([0.5, 0.5])
    assert found["average_mAP"] == pytest.approx(0.5)
    printed = capsys.readouterr().out
    assert f"protocol {protocol}" in printed
    assert "50.0" in printed


def test_second_result_keeps_the_first(tmp_path):
    flags, metrics = write_activitynet(tmp_path), tmp_path / "metrics.json"
    for thresholds in ("0.3", "0.5", "0.7"):
        with tiny.silence():
            assert main(["--mode=score", *flags, f"--metrics={metrics}", f"--tiou_thresholds={thresholds}"]) == 0
    kept = [json.loads((tmp_path / f"metrics{n}.json").read_text())["tiou_thresholds"] for n in (".1", ".2", "")]
    assert kept == [[0.3], [0.5], [0.7]]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("found.json", None, "found.json: cannot be read"),
        ("truth.json", None, "truth.json: cannot be read"),
        ("found.json", '{"results": {', "found.json: damaged JSON at line 1"),
        ("found.json", '{"result": {}}', "found.json: key 'results' is missing; found result"),
        ("found.json", "\xff\xfe", "found.json"),
        ("found.json", '{"results": {"a": [{"label": "hop", "score": 1, "segment": [0, 1]}]}}', "unknown label 'hop'"),
        (
            "found.json",
            '{"results": {"a": [{"label": "jump", "score": 1, "segment": [0]}]}}',
            r"expected \[start, end\]",
        ),
        ("found.json", '{"results": {"a": [{"label": "jump", "segment": [0, 1]}]}}', "key 'score' is missing"),
        ("truth.json", '{"database": {}}', "truth.json: no video of subset 'validation'"),
    ],
)
def test_score_bad_activitynet_files(refused, tmp_path, file, content, message):
    flags = write_activitynet(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content, encoding="latin-1")
    error = refused("--mode=score", *flags, f"--metrics={tmp_path / 'metrics.json'}")
    assert re.search(message, error)
    assert str(tmp_path / file) in error


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("found.txt", "video_1 0 10 7\n", "found.txt, line 1: expected 'video start end class_id score'"),
        ("found.txt", "video_1 0 10 7 0.9\nvideo_1 0 10 8 0.9\n", "found.txt, line 2: unknown class id 8"),
        ("found.txt", "video_1 0 ten 7 0.9\n", "found.txt, line 1: end: expected a number, found 'ten'"),
        ("annotations/Run_test.txt", None, "Run_test.txt: cannot be read"),
        ("annotations/Run_test.txt", "video_2 30 20\n", r"Run_test.txt, line 1: .*reversed\?"),
        ("annotations/detclasslist.txt", None, "annotations: holds no THUMOS14 annotations"),
    ],
)
def test_score_bad_thumos14_files(refused, tmp_path, file, content, message):
    flags = write_thumos14(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    assert re.search(message, refused("--mode=score", *flags, f"--metrics={tmp_path / 'metrics.json'}"))


@pytest.mark.parametrize("subset", ["testing", "trainval"])
def test_score_unknown_subset(refused, tmp_path, subset):
    assert f"no video of subset '{subset}'" in refused(
        "--mode=score", *write_activitynet(tmp_path), f"--subset={subset}"
    )


# --- profile


def test_profile(tmp_path, capsys):
    metrics = tmp_path / "profile.json"
    flags = ["--num_features=2048", "--num_classes=20", *tiny.NETWORK]
    assert main(["--mode=profile", *flags, f"--metrics={metrics}"]) == 0
    counts = json.loads(metrics.read_text())
    by_hand = 8 * 2048 + 8 + 9 * 8 * 8 + 8  # both base layers
    assert counts["parts"]["base"] == {"parameters": by_hand, "multiply_adds": 64 * (8 * 2048 + 9 * 8 * 8)}
    for total in ("parameters", "multiply_adds"):
        assert counts[total] == sum(part[total] for part in counts["parts"].values())
    assert f"{counts['multiply_adds']:,}" in capsys.readouterr().out


def test_profile_takes_sizes_from_a_dataset(tmp_path):
    metrics = tmp_path / "profile.json"
    with tiny.silence():
        assert main(["--mode=profile", *tiny.data(), *tiny.NETWORK, f"--metrics={metrics}"]) == 0
    assert json.loads(metrics.read_text())["num_features"] == tiny.FEATURES


# --- a command's files


def test_evaluate_writes_metrics_detections_and_pictures(run):
    pytest.importorskip("matplotlib")
    with tiny.silence():
        assert main(["--mode=evaluate", f"--workdir={run}"]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["branches"]) == {"anchor_free", "anchor_based", "both"}
    assert metrics["average_mAP"] == metrics["branches"]["both"]["average_mAP"]
    assert metrics["dataset"] == "toy_actions/1.0.0"
    assert metrics["split"] == "test[:2]"
    detections = json.loads((run / "detections.json").read_text())["results"]
    assert len(detections) == 2
    assert {entry["label"] for entries in detections.values() for entry in entries} <= set(tiny.CLASSES)
    pictures = sorted(path.name for path in (run / "timelines").iterdir())
    assert pictures == sorted(f"{video}.png" for video in detections)


def test_evaluate_agrees_with_score(run, tmp_path):
    """The numbers that evaluate prints are those of its detections file against the same ground truth."""
    from a2net_tf.data import prepared

    with tiny.silence():
        assert main(["--mode=evaluate", f"--workdir={run}", "--noplots", "--max_background=1"]) == 0
    builder = prepared.open_dataset("toy_actions", data_dir=str(tiny.data_dir()))
    truth = {}
    for record in prepared.read_records(builder, "test[:2]").as_numpy_iterator():
        annotations = [
            {"label": tiny.CLASSES[label], "segment": segment.tolist()}
            for segment, label in zip(record["segments"], record["labels"], strict=True)
        ]
        truth[record["id"].decode()] = {"subset": "validation", "annotations": annotations}
    (tmp_path / "truth.json").write_text(json.dumps({"database": truth}))
    metrics = tmp_path / "scored.json"
    flags = [f"--detections={run / 'detections.json'}", f"--ground_truth={tmp_path / 'truth.json'}"]
    with tiny.silence():
        assert main(["--mode=score", *flags, f"--metrics={metrics}"]) == 0
    evaluated, scored = (json.loads(path.read_text()) for path in (run / "metrics.json", metrics))
    assert scored["mAP"] == pytest.approx(evaluated["mAP"])
    assert scored["average_mAP_normalized"] == pytest.approx(evaluated["average_mAP_normalized"])
    errors = evaluated["errors"]["false_positives"]
    assert sum(kind["share"] for kind in errors.values()) == pytest.approx(1)
    assert errors == {kind: pytest.approx(row) for kind, row in scored["errors"]["false_positives"].items()}
    assert evaluated["errors"] == evaluated["branches"]["both"]["errors"]


def test_score_says_what_a_prepared_dataset_would_change(tmp_path, capsys):
    annotations = [{"label": "a", "segment": segment} for segment in ([1, 2], [3, 3], [8, 10.5], [-0.5, 1], [4, 5])]
    truth = {"v": {"subset": "validation", "duration": 10, "annotations": annotations}}
    (tmp_path / "truth.json").write_text(json.dumps({"database": truth}))
    (tmp_path / "found.json").write_text(json.dumps({"results": {"v": [{**annotations[0], "score": 0.5}]}}))
    flags = [f"--detections={tmp_path / 'found.json'}", f"--ground_truth={tmp_path / 'truth.json'}"]
    assert main(["--mode=score", *flags]) == 0
    printed = capsys.readouterr().out
    assert "actions of no length, which count as missed: 1; beyond their recording, judged as they are: 2" in printed
    assert "5 ground truths" in printed
    del annotations[1:4]
    (tmp_path / "truth.json").write_text(json.dumps({"database": truth}))
    assert main(["--mode=score", *flags]) == 0
    assert "no length" not in capsys.readouterr().out


# --- proposals


@pytest.mark.parametrize(("write", "kind"), [(write_activitynet, "activitynet"), (write_thumos14, "thumos14")])
def test_score_of_proposals(tmp_path, capsys, write, kind):
    """Three actions and three proposals, of which two cover one each."""
    metrics = tmp_path / "metrics.json"
    flags = [*write(tmp_path), "--protocol=proposals", f"--metrics={metrics}"]
    assert main(["--mode=score", *flags]) == 0
    found = json.loads(metrics.read_text())
    assert (found["protocol"], found["num_proposals"], found["num_ground_truths"]) == ("proposals", 3, 3)
    assert found["tiou_thresholds"] == pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
    assert found["recall_of_top_200"] == pytest.approx([2 / 3] * 10)
    assert found["average_recall"][-1] == pytest.approx(2 / 3)
    printed = capsys.readouterr().out
    assert "protocol proposals" in printed
    assert "66.7" in printed
    assert main(["--mode=score", *flags, "--tiou_thresholds=0.5"]) == 0
    assert json.loads(metrics.read_text())["tiou_thresholds"] == [0.5]


def test_proposals_are_no_protocol_of_evaluate(refused, run):
    message = refused("--mode=evaluate", f"--workdir={run}", "--protocol=proposals")
    assert "--protocol=proposals is for --mode=score, not --mode=evaluate" in message


def test_evaluate_reports_proposals_of_every_branch(run, tmp_path, capsys):
    assert main(["--mode=evaluate", f"--workdir={run}", "--noplots", "--max_detections=200"]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    branches = {branch: value["proposals"] for branch, value in metrics["branches"].items()}
    assert set(branches) == {"anchor_free", "anchor_based", "both"}
    assert metrics["proposals"] == branches["both"]
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("protocol proposals"))
    assert [line.split()[0] for line in lines[start + 2 : start + 5]] == ["anchor_free", "anchor_based", "both"]
    # With its own detections as the ground truth everything is recalled, and by the same number of proposals.
    found = json.loads((run / "detections.json").read_text())["results"]
    truth = {video: {"subset": "validation", "annotations": entries} for video, entries in found.items()}
    (tmp_path / "truth.json").write_text(json.dumps({"database": truth}))
    scored = tmp_path / "scored.json"
    flags = [f"--detections={run / 'detections.json'}", f"--ground_truth={tmp_path / 'truth.json'}"]
    assert main(["--mode=score", "--protocol=proposals", *flags, f"--metrics={scored}"]) == 0
    assert json.loads(scored.read_text())["num_proposals"] == branches["both"]["num_proposals"]
    assert json.loads(scored.read_text())["recall_of_top_200"] == [1] * 10


# --- weights of the authors' release


def test_import_release_needs_its_flags(refused, tmp_path):
    assert "--mode=import_release needs --release_checkpoint and --workdir" in refused("--mode=import_release")


@pytest.mark.slow
def test_imported_release_can_be_evaluated_and_used(refused, tmp_path):
    torch = pytest.importorskip("torch", reason='needs torch (pip install ".[release]")')
    from tests.modes.test_import_release import largest_difference, random_state

    state = random_state(tiny.FEATURES, num_logits=len(tiny.CLASSES) + 1)
    torch.save(
        {"model": {f"module.{name}": torch.from_numpy(value) for name, value in state.items()}}, tmp_path / "f.pt"
    )
    new = [f"--workdir={tmp_path / 'imported'}"]
    flags = [
        "--mode=import_release",
        f"--release_checkpoint={tmp_path / 'f.pt'}",
        *new,
        "--window_steps=64",
        *tiny.data(),
    ]
    with tiny.silence():
        assert main(flags) == 0
        assert main(["--mode=evaluate", *new, "--noplots"]) == 0
        output = tmp_path / "out.json"
        features = matrix(tmp_path / "video.npy")
        assert main(["--mode=predict", *new, f"--features={features}", f"--output={output}"]) == 0
    metrics = json.loads((tmp_path / "imported" / "metrics.json").read_text())
    assert set(metrics["per_class"]) == set(tiny.CLASSES)
    assert json.loads(output.read_text())["results"]["video"]
    from a2net_tf.training import run_directory

    network = run_directory.load_network(run_directory.load(str(tmp_path / "imported")))
    assert largest_difference(network, state, num_logits=7) < 1e-3
    assert "holds a run already" in refused(*flags)
    assert "an imported run cannot be trained on" in refused(
        f"--flagfile={tmp_path}/imported/flags.txt", "--mode=train"
    )
    assert "holds a run with other settings: --release_checkpoint= (was " in refused("--mode=train", *new, *tiny.data())


class _Interrupted:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def _interrupt_in_a_destructor():
    _Interrupted()
    time.sleep(10)


def test_an_interrupt_in_a_destructor_is_not_lost():
    """Python ignores what is raised there; it is raised again a moment later."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt), _no_interrupt_lost():
            _interrupt_in_a_destructor()
    finally:
        signal.signal(signal.SIGINT, before)

"""The commands and the Python code on the pages: each is run here as it stands, or listed with the reason why not.

A page is read as a reader does: from top to bottom, in a folder that holds what the page says the reader has.
"""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import a2net_tf.datasets
from a2net_tf import settings
from a2net_tf.main import main
from tests import test_docs, tiny

REPO = tiny.REPO
PAGES = [page for page in test_docs.PAGES if page.name != "CHANGELOG.md"]

# Why something is not run here, and what stands in all that is not run for this reason.
NOT_RUN = {
    "installs from the internet": ["pip ", "git clone ", "make quickstart", "make docs"],
    "is all tests, or runs for hours": ["make lint", "make test", "-m pytest", "-m tests.fuzz", "-m tests.kill"],
    "is the form of a command": ["configs/X.flags"],
    "is a file that a later command on the page reads": ['"""Writes a small folder', '"""Machine vibration'],
    "needs THUMOS14": [
        *("a2net_tf.main --flagfile=configs/thumos14.flags", "thumos14_videos.flags", "thumos14/two_stream"),
        *("=THUMOS14_FOLDER", "$T", "$E"),
    ],
    "needs ActivityNet": ["activitynet13/resized128", "$A"],
    "needs 50 Salads": ["50salads_modern.flags", "frame_labels/50salads"],
    "needs HAPT, and minutes to hours": ["configs/hapt.flags", "configs/hapt_modern.flags", '"hapt/accelerometer"'],
    "trains for hours": ["configs/quickstart.flags --mode=ablate"],
    "renders films, and learns them, for minutes": ["toy_videos"],
    "needs a browser": ["benchmarks/report_page.py"],
    "needs a cluster": ["hdfs://", "/mnt/films", "s3a://", "/shared/"],
    "needs Docker, or a server of TensorFlow Serving": ["serve.sh models", "tensorflow_model_server", "serving_server"],
    "measures large networks, or hours of recordings, for minutes": [
        *("benchmarks.rc3d", "benchmarks/spark.py", "benchmarks/beam.py", "benchmarks/long_recording.py"),
    ],
}

# What another test runs with files of its own.
RUN_BY = {
    "tests/data/test_beam.py::test_two_processes": ["--beam_runner=DirectRunner"],
    "tests/data/test_tfds_build.py::test_toy_actions": ["tfds build "],
    "tests/export/test_compare.py::test_every_form_is_measured": ["a2net_tf.export.compare "],
    "tests/export/test_saved_model.py::test_only_the_model_is_left": ["--saved_model=models/1"],
    "tests/export/test_serving.py::test_client": ["a2net_tf.export.serving.client "],
    "tests/export/test_serving.py::test_malformed_json": ["curl "],
    "tests/export/test_spark.py::test_spark_submit_of_the_file_alone": [
        "spark.py --saved_model=DIR",
        "spark.py --help",
    ],
    "tests/export/test_tflite.py::test_the_command": ["export/tflite_run.py"],
    "tests/inference/test_live.py::test_the_folder_works_alone": ["-m live ", "-m a2net_tf.inference.live "],
    "tests/modes/test_segmentation.py::test_a_labelling_as_detections": ["--protocol=segmentation"],
    "tests/modes/test_extract.py::test_efficientnet_lite0_on_a_film": ["--mode=extract --videos="],
    "tests/test_benchmarks.py::measured": ["benchmarks/speed.py"],
    "tests/test_benchmarks.py::programs": ["benchmarks/xla_step.py"],
    "tests/test_benchmarks.py::test_recipe": ["benchmarks/recipe.py"],
    "tests/test_benchmarks.py::test_scaling": ["benchmarks/scaling.py"],
    "tests/test_main.py::test_score": ["--detections=theirs.txt"],
    "tests/test_videos.py::test_training_on_videos_leaves_a_run_on_their_features": [
        "--videos=my_films --annotations="
    ],
    "tests/test_videos.py::test_predict_makes_the_features_that_were_trained_on": ["--videos=new_films"],
    "tests/test_videos.py::test_an_annotated_video": ["--annotated_video="],
}

# What is run gets these flags in addition, where this stands in it: a small network, few rounds, a folder of the test.
SMALL = (*tiny.NETWORK, "--epochs=1", "--warmup_epochs=0", "--noplots")
SMALLER = {
    "--flagfile=own.flags": SMALL,
    "--mode=train_and_evaluate": SMALL,
    "--mode=evaluate --workdir=runs/own": ("--noplots", "--noreport"),
    # Nobody is here to delete the wrong ones of a poor network.
    "--features=more": ("--max_detections=5", "--subtitle_score=0.001"),
    "=my_data": ("--data_dir=prepared",),
    "=vibration": ("--data_dir=prepared",),
    "benchmarks/input_speed.py": ("--help",),  # a process of TensorFlow for each way of storing takes half a minute
    "benchmarks/streaming.py": ("--steps=200",),
    "benchmarks/suppression.py": ("--candidates=1000", "--keep=20"),
}


# --- what is on the pages

PIECE = re.compile(
    r"^ *```(?P<language>\w*)[^\n]*\n(?P<block>.*?)^ *```"
    r"|^ {7,}(?P<line>\S[^\n]*)"
    r"|`(?P<span>[^`\n]+(?:\n[^`\n]+)?)`",
    re.MULTILINE | re.DOTALL,
)
COMMAND = re.compile(
    r"\s*(?:[A-Z_]+=(?:'[^']*'|\S+)\s+)*"
    r"(?:\$[TAE]\b|(?:(?:\.venv/bin/)?python|a2net|make|pip|git clone|cp|mv|mkdir|bash|curl|spark-submit|tfds) +\S"
    r"|tensorflow_model_server )"
)


def pieces(page):
    """The commands, and the blocks of Python (these have several lines), in the order of the page."""
    for piece in PIECE.finditer(page.read_text().replace("\\\n", " ")):
        if piece["language"] == "python":
            yield textwrap.dedent(piece["block"])
        else:
            lines = (
                [" ".join(piece["span"].split())] if piece["span"] else (piece["block"] or piece["line"]).splitlines()
            )
            yield from (line.strip() for line in lines if COMMAND.match(line))


def left_out(piece):
    """What of the two tables stands in it."""
    return [part for parts in [*NOT_RUN.values(), *RUN_BY.values()] for part in parts if part in piece]


def to_run(page):
    return [piece for piece in pieces(page) if not left_out(piece)]


def name_of(page):
    return str(page.relative_to(REPO))


def test_the_tables_list_nothing_else():
    listed = {part for parts in [*NOT_RUN.values(), *RUN_BY.values()] for part in parts}
    used = {part for page in PAGES for piece in pieces(page) for part in left_out(piece)}
    assert listed == used
    run = [piece for page in PAGES for piece in to_run(page)]
    assert all(any(part in piece for piece in run) for part in SMALLER)


@pytest.mark.parametrize("test", RUN_BY)
def test_tests_that_run_commands_are_there(test):
    file, name = test.split("::")
    assert f"\ndef {name}(" in (REPO / file).read_text()


# What stands in commands for something of the reader's.
STANDS_FOR = {
    " HAPT": " --manual_dir=FOLDER",
    "NUMBER_OF_CORES": "2",
    "--flagfile=own.flags": "--dataset=feature_folder",
}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_have_the_flags_that_there_are(page, monkeypatch):
    """Also those that are not run."""
    monkeypatch.chdir(REPO)
    short = {f"${name}": value for name, value in re.findall(r'^([A-Z])="(.*)"$', page.read_text(), re.MULTILINE)}
    for command in pieces(page):
        for word, value in {**short, **STANDS_FOR}.items():
            command = command.replace(word, value)
        found = re.fullmatch(r"(?:[A-Z_]+=\S+ +|TF_CONFIG='[^']*' +)*(?:python -m a2net_tf\.main|a2net) (-.*)", command)
        if found and "X.flags" not in command and "--help" not in command:
            settings.parse(shlex.split(found[1], comments=True))


# --- what the reader has


def the_block(page, start):
    """The one block of a page that begins like this."""
    [block] = [p["block"] for p in PIECE.finditer((REPO / page).read_text()) if (p["block"] or "").startswith(start)]
    return block


def give_a_run(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    tiny.copy_of_trained(path.parent).rename(path)


def give_own_data(folder):
    """What own_data.md makes, and its flags."""
    (folder / "make_folder.py").write_text(the_block("docs/own_data.md", '"""Writes a small folder'))
    (folder / "own.flags").write_text(the_block("docs/own_data.md", "--workdir=runs/own"))
    runpy.run_path("make_folder.py")


def give_readme(folder):
    pytest.importorskip("pandas", reason="the extra [pandas] is not installed")
    np.save("recording.npy", np.zeros((100, tiny.FEATURES), np.float32))
    give_a_run(folder / "runs/hapt")
    give_a_run(folder / "runs/quickstart")
    (folder / "runs/quickstart/saved_model").symlink_to(tiny.exported("trained"))
    (folder / "runs/quickstart/data").symlink_to(tiny.data_dir())


def give_annotations(folder):
    """Ten of the recordings of own_data.md are labelled in ELAN, and the others lie in ``more``."""
    made = pytest.importorskip("tests.annotations.made", reason="needs pympi and praatio")
    give_own_data(folder)
    database = json.loads((folder / "my_folder/annotations.json").read_text())["database"]
    (folder / "my_folder/annotations.json").unlink()
    (folder / "my_folder/settings.json").write_text('{"feature_stride_seconds": 0.5}')
    (folder / "more").mkdir()
    for number, (name, video) in enumerate(database.items()):
        rows = [(*(round(1000 * s) for s in a["segment"]), a["label"]) for a in video["annotations"]]
        if number < 10:
            made.write_eaf(folder / f"my_folder/annotations/{name}.eaf", {"acts": rows})
        else:
            (folder / f"my_folder/{name}.npy").rename(folder / f"more/{name}.npy")


def give_sensors(folder):
    give_own_data(folder)
    (folder / "my_folder").rename(folder / "my_data")
    (folder / "new.npy").symlink_to(folder / "my_data/recording_15.npy")


def give_vibration(folder):
    """Beside what the page makes: the files that its own builder reads, and the builder."""
    give_own_data(folder)
    table = folder / "FOLDER_OF_THE_CSV"
    table.mkdir()
    for number in range(4):
        np.savetxt(table / f"machine_{number}.csv", np.random.default_rng(number).normal(size=(900, 3)), delimiter=",")
    (table / "labels.csv").write_text(
        "".join(f"machine_{n},10,20,rattle\nmachine_{n},30,45,start_up\n" for n in range(4))
    )
    builder = folder / "datasets/vibration/vibration_dataset_builder.py"
    builder.parent.mkdir(parents=True)
    builder.write_text(the_block("docs/own_data.md", '"""Machine vibration'))


def give_evaluated_runs(folder):
    pytest.importorskip("plotly", reason="the extra [plots] is not installed")
    give_a_run(folder / "runs/quickstart")
    assert main(["--mode=evaluate", "--workdir=runs/quickstart", "--noplots"]) == 0
    for name in "ab":
        shutil.copytree(folder / "runs/quickstart", folder / "runs" / name)
    (folder / "films").mkdir()
    for name in json.loads((folder / "runs/a/detections.json").read_text())["results"]:
        (folder / "films" / f"{name}.mp4").touch()


# What stands in a page's folder before its first command.
GIVEN = {
    "README.md": give_readme,
    "docs/annotations.md": give_annotations,
    "docs/data.md": lambda folder: (folder / "prepared").symlink_to(tiny.data_dir()),
    "docs/live.md": lambda folder: (give_a_run(folder / "runs/mine"), (folder / "MODEL").symlink_to(tiny.trained())),
    "docs/own_data.md": give_vibration,
    "docs/report.md": give_evaluated_runs,
    "docs/tasks/sensors.md": give_sensors,
    "docs/tasks/serve.md": lambda folder: give_a_run(folder / "runs/mine"),
    "datasets/feature_folder/README.md": give_own_data,
    "datasets/toy_actions/README.md": lambda folder: (folder / "prepared").symlink_to(tiny.data_dir()),
}
# What a block of Python finds defined, and what is smaller in it than on the page.
DEFINED = {
    "features": np.zeros((100, tiny.FEATURES), np.float32),
    "source": np.zeros((5, 20, tiny.FEATURES), np.float32),
    "small": {"num_levels": 3, "base_channels": 8, "level_channels": (8, 8, 8), "head_channels": 8, "decay_epochs": ()},
}
SHORTER = {"epochs=5": "epochs=1, **small"}


# --- running it


def run_python(block):
    for long, short in SHORTER.items():
        block = block.replace(long, short)
    exec(compile(block, "a page", "exec"), {"__name__": "__main__", **DEFINED})


def run_script(path):
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    return 0


def run_command(command, monkeypatch):
    arguments = shlex.split(command, comments=True)
    for part, more in SMALLER.items():
        arguments += more if part in command else ()
    monkeypatch.setattr(sys, "argv", arguments[1:])
    if arguments[:3] == ["python", "-m", "a2net_tf.main"]:
        status = main(arguments[3:])
    elif arguments[0] == "python":
        status = run_script(arguments[1])
    else:
        status = subprocess.run(command, shell=True, check=False).returncode
    assert status == 0, command


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)], ids=name_of)
def test_commands_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(a2net_tf.datasets, "__path__", [*a2net_tf.datasets.__path__, str(tmp_path / "datasets")])
    for name in ("configs", "benchmarks", "export"):
        (tmp_path / name).symlink_to(REPO / name)
    GIVEN.get(name_of(page), lambda folder: None)(tmp_path)
    for piece in to_run(page):
        if "\n" in piece:
            run_python(piece)
        else:
            run_command(piece, monkeypatch)

"""Tests of the HAPT builder, with small generated files in the real layout and with the real data where it is there."""

import io
import pathlib
import re
import shutil
import tempfile
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from a2net_tf.data import augment, prepared
from a2net_tf.data.augment import SignalLayout
from a2net_tf.datasets.hapt import hapt_dataset_builder as hapt
from a2net_tf.errors import UserError

REPO = pathlib.Path(__file__).resolve().parents[2]
REAL_DATA = REPO.parent / "shared" / "data"
needs_real_data = pytest.mark.skipif(
    not (REAL_DATA / "hapt.zip").exists(), reason="the HAPT recordings are not distributed with the code"
)


def write_raw_data(folder: pathlib.Path, *, num_samples: int = 300) -> pathlib.Path:
    """Three recordings of users 1 and 2 in the layout that UCI distributes."""
    raw_data = folder / "RawData"
    raw_data.mkdir(parents=True)
    labels = []
    for experiment, user in ((1, 1), (2, 1), (3, 2)):
        rng = np.random.default_rng(experiment)
        for sensor in ("acc", "gyro"):
            np.savetxt(raw_data / f"{sensor}_exp{experiment:02d}_user{user:02d}.txt", rng.normal(size=(num_samples, 3)))
        middle = num_samples * 11 // 30
        labels += [f"{experiment} {user} 5 11 {middle}", f"{experiment} {user} 7 {middle + 1} {num_samples}"]
    (raw_data / "labels.txt").write_text("\n".join(labels) + "\n")
    names = [f"{number} {name}" for number, name in enumerate(hapt.CLASS_NAMES, start=1)]
    (folder / "activity_labels.txt").write_text("\n".join(names) + "\n")
    return folder


def edit_line(file: pathlib.Path, line: int, text: str) -> None:
    """Replaces line ``line`` (from 1) of ``file``."""
    lines = file.read_text().splitlines()
    lines[line - 1] = text
    file.write_text("\n".join(lines) + "\n")


def zip_folder(folder: pathlib.Path, file: pathlib.Path, *, below: str = "") -> None:
    """Packs ``folder`` into the zip ``file``, with ``below`` before every name."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.txt")):
            archive.write(path, below + path.relative_to(folder).as_posix())


@pytest.mark.slow
class HaptTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own test of a builder, for both configs."""

    DATASET_CLASS = hapt.Builder
    SPLITS = {"user01": 2, "user02": 1}

    @classmethod
    def setUpClass(cls):
        cls.EXAMPLE_DIR = tempfile.mkdtemp()
        write_raw_data(pathlib.Path(cls.EXAMPLE_DIR))
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(cls.EXAMPLE_DIR)


@pytest.fixture
def raw(tmp_path):
    """A ``manual_dir`` that is the unpacked folder."""
    return write_raw_data(tmp_path / "raw")


@pytest.fixture
def open_hapt(tmp_path):
    def open_config(manual_dir: pathlib.Path, config: str = "accelerometer", data_dir: str = "prepared"):
        return prepared.open_dataset(f"hapt/{config}", data_dir=str(tmp_path / data_dir), manual_dir=str(manual_dir))

    return open_config


def read(builder: tfds.core.DatasetBuilder, split: str = "user01+user02") -> dict[str, dict]:
    """Records by id, as numpy."""
    return {record["id"].decode(): record for record in tfds.as_numpy(prepared.read_records(builder, split))}


# Contents


def test_accelerometer_record(raw, open_hapt):
    record = read(open_hapt(raw))["exp03_user02"]
    samples = np.loadtxt(raw / "RawData" / "acc_exp03_user02.txt")
    assert record["features"].shape == ((300 - 50) // 25 + 1, 150)
    np.testing.assert_allclose(record["features"][2], samples[50:100].reshape(-1), rtol=1e-6)
    assert record["feature_stride_seconds"] == 0.5
    assert record["first_step_seconds"] == 0.25
    assert record["duration_seconds"] == 6.0
    assert record["source"] == b"RawData/acc_exp03_user02.txt"


def test_all_sensors_record(raw, open_hapt):
    record = read(open_hapt(raw, "all_sensors"))["exp01_user01"]
    acc, gyro = (np.loadtxt(raw / "RawData" / f"{sensor}_exp01_user01.txt") for sensor in ("acc", "gyro"))
    assert record["features"].shape == ((300 - 50) // 16 + 1, 300)
    np.testing.assert_allclose(record["features"][0, :6], [*acc[0], *gyro[0]], rtol=1e-6)
    np.testing.assert_allclose(record["features"][3, -6:], [*acc[48 + 49], *gyro[48 + 49]], rtol=1e-6)
    assert record["feature_stride_seconds"] == 0.32
    assert record["first_step_seconds"] == 0.34


def test_windows_by_hand():
    samples = np.array([[0, 10], [1, 11], [2, 12], [3, 13], [4, 14], [5, 15]])
    np.testing.assert_array_equal(hapt.cut_windows(samples, 3, 2), [[0, 10, 1, 11, 2, 12], [2, 12, 3, 13, 4, 14]])


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        ("accelerometer", SignalLayout(50, 25, 3, ((0, 1, 2),))),
        ("all_sensors", SignalLayout(50, 16, 6, ((0, 1, 2), (3, 4, 5)))),
    ],
)
def test_the_declared_signal_is_that_of_the_vectors(raw, open_hapt, config, layout):
    builder = open_hapt(raw, config)
    again = prepared.open_dataset(str(builder.data_path))
    for opened in (builder, again):
        declared = prepared.read_metadata(opened)["signal"]
        assert augment.read_layout(declared, prepared.num_features(opened), "hapt") == layout
    record = read(builder)["exp01_user01"]
    num_steps = len(record["features"])
    num_samples = layout.num_samples(num_steps)
    source = {"features": record["features"][None], "first": np.int32([0]), "recorded_steps": np.int32([num_steps])}
    (signal,) = augment.cut_signal(
        source, np.int32([0]), np.float32([1]), layout=layout, num_samples=num_samples
    ).numpy()
    samples = [np.loadtxt(raw / "RawData" / f"{sensor}_exp01_user01.txt") for sensor in ("acc", "gyro")]
    expected = np.concatenate(samples, axis=1)[:num_samples, : layout.channels]
    np.testing.assert_allclose(signal, expected, rtol=1e-6)


def test_version_tells_the_declaration_apart(raw, open_hapt):
    """A directory of 1.0.0 declares nothing: it must not be taken for this one."""
    assert open_hapt(raw).info.full_name == "hapt/accelerometer/1.1.0"
    assert "signal" in hapt.Builder.RELEASE_NOTES["1.1.0"]


def test_label_row_by_hand(raw, open_hapt):
    """Samples 11 to 110 last from 0.2 to 2.2 s; the next action, from sample 111 on, begins where they end."""
    record = read(open_hapt(raw))["exp01_user01"]
    np.testing.assert_array_equal(record["segments"], np.float32([[0.2, 2.2], [2.2, 6.0]]))
    np.testing.assert_array_equal(record["labels"], [4, 6])


def test_recording_of_exactly_one_window(tmp_path, open_hapt):
    folder = write_raw_data(tmp_path / "short", num_samples=50)
    for line, row in enumerate(("1 1 5 1 50", "1 1 7 50 50", "2 1 5 1 50", "2 1 7 2 3", "3 2 5 1 1", "3 2 7 1 2"), 1):
        edit_line(folder / "RawData" / "labels.txt", line, row)
    record = read(open_hapt(folder))["exp03_user02"]
    assert record["features"].shape == (1, 150)
    np.testing.assert_array_equal(record["segments"], np.float32([[0, 0.02], [0, 0.04]]))


def test_one_sample_more_is_cut_off(raw, open_hapt):
    gyro = raw / "RawData" / "gyro_exp01_user01.txt"
    gyro.write_text(gyro.read_text() + "1 2 3\n")
    assert read(open_hapt(raw, "all_sensors"))["exp01_user01"]["duration_seconds"] == 6.0


def test_accelerometer_needs_no_gyroscope_files(raw, open_hapt):
    for file in (raw / "RawData").glob("gyro_*.txt"):
        file.unlink()
    assert len(read(open_hapt(raw))) == 3


def test_official_users():
    assert sorted(hapt.TRAIN_USERS + hapt.TEST_USERS) == list(range(1, 31))
    assert hapt.TEST_SPLIT == "user02+user04+user09+user10+user12+user13+user18+user20+user24"
    assert hapt.TRAIN_SPLIT.split("+")[:3] == ["user01", "user03", "user05"]
    readme = (pathlib.Path(__file__).parent / "README.md").read_text()
    assert f"`{hapt.TRAIN_SPLIT}`" in readme
    assert f"`{hapt.TEST_SPLIT}`" in readme


# Where the raw files may be


@pytest.mark.parametrize(
    ("file", "below"), [("hapt.zip", ""), ("HAPT Data Set.zip", ""), ("download.zip", "HAPT Data Set/")]
)
def test_zip_gives_what_the_folder_gives(raw, open_hapt, tmp_path, file, below):
    manual_dir = tmp_path / "manual"
    manual_dir.mkdir()
    with zipfile.ZipFile(manual_dir / "another.zip", "w") as archive:
        archive.writestr("something/else.txt", "0")
    zip_folder(raw, manual_dir / file, below=below)
    zipped, unpacked = read(open_hapt(manual_dir, data_dir="a")), read(open_hapt(raw, data_dir="b"))
    assert zipped.keys() == unpacked.keys()
    for name in zipped:
        np.testing.assert_array_equal(zipped[name]["features"], unpacked[name]["features"])
        np.testing.assert_array_equal(zipped[name]["segments"], unpacked[name]["segments"])
    assert [path.name for path in manual_dir.iterdir() if path.is_dir()] == []  # nothing was unpacked


def test_folder_inside_manual_dir(tmp_path, open_hapt):
    write_raw_data(tmp_path / "manual" / "HAPT Data Set")
    assert len(read(open_hapt(tmp_path / "manual"))) == 3


def test_nothing_found(tmp_path, open_hapt):
    (tmp_path / "holiday.txt").write_text("x")
    with pytest.raises(UserError, match=rf"manual_dir={re.escape(str(tmp_path))}: expected hapt.zip.*RawData/labels"):
        open_hapt(tmp_path)


def test_manual_dir_is_missing_or_empty(tmp_path, open_hapt):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        with pytest.raises(UserError, match=f"manual_dir=.*{name}: not a folder, or an empty one.*archive.ics.uci"):
            open_hapt(tmp_path / name)


def test_half_downloaded_zip(raw, tmp_path, open_hapt):
    (tmp_path / "manual").mkdir()
    zip_folder(raw, tmp_path / "manual" / "hapt.zip")
    content = (tmp_path / "manual" / "hapt.zip").read_bytes()
    (tmp_path / "manual" / "hapt.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="hapt.zip: not a readable zip file; an incomplete download"):
        open_hapt(tmp_path / "manual")


def test_damaged_file_in_zip(raw, tmp_path, open_hapt):
    (tmp_path / "manual").mkdir()
    zip_folder(raw, tmp_path / "manual" / "hapt.zip")
    content = bytearray((tmp_path / "manual" / "hapt.zip").read_bytes())
    middle = content.index(b"RawData/acc_exp02_user01.txt") + 2000
    content[middle : middle + 40] = bytes(40)
    (tmp_path / "manual" / "hapt.zip").write_bytes(content)
    with pytest.raises(UserError, match="acc_exp02_user01.txt: damaged"):
        open_hapt(tmp_path / "manual")


# Mistakes in the raw files


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (7, "0.1 oops 0.3", r"acc_exp02_user01\.txt, line 7: 'oops' is not a number"),
        (1, "0.1 0.2", r"acc_exp02_user01\.txt, line 1: expected 3 numbers, found 2"),
        (300, "1 2 3 4", r"acc_exp02_user01\.txt, line 300: expected 3 numbers, found 4"),
        (9, "0.1 nan 0.3", r"acc_exp02_user01\.txt, line 9: found nan, expected a finite number"),
        (9, "", r"acc_exp02_user01\.txt, line 9: expected 3 numbers, found 0"),
    ],
)
def test_bad_sample_line(raw, open_hapt, line, text, message):
    edit_line(raw / "RawData" / "acc_exp02_user01.txt", line, text)
    with pytest.raises(UserError, match=message):
        open_hapt(raw)


@pytest.mark.parametrize("config", ["accelerometer", "all_sensors"])
def test_every_line_has_too_many_numbers(raw, open_hapt, config):
    file = raw / "RawData" / "gyro_exp02_user01.txt"
    np.savetxt(file, np.ones((300, 6)))
    with pytest.raises(UserError, match=r"gyro_exp02_user01\.txt, line 1: expected 3 numbers, found 6"):
        open_hapt(raw, config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 1 13 11 110", r"labels\.txt, line 3: class id 13, expected 1 to 12"),
        ("2 1 0 11 110", r"labels\.txt, line 3: class id 0, expected 1 to 12"),
        ("2 1 5 110 11", r"labels\.txt, line 3: samples 110 to 11, expected 1 <= first <= last \(reversed\?\)"),
        ("2 1 5 0 11", r"labels\.txt, line 3: samples 0 to 11, expected 1 <= first"),
        ("2 1 5 11 301", r"labels\.txt, line 3: last sample 301, but exp02_user01 has only 300 samples"),
        ("9 1 5 11 110", r"labels\.txt, line 3: there is no file acc_exp09_user01\.txt"),
        ("2 2 5 11 110", r"labels\.txt, line 3: there is no file acc_exp02_user02\.txt"),
        ("2 1 5 11", r"labels\.txt, line 3: expected 5 numbers, found 4"),
        ("2 1 5 11.5 110", r"labels\.txt, line 3: expected five whole numbers, found \[2\.0, 1\.0, 5\.0, 11\.5"),
        ("2 1 SITTING 11 110", r"labels\.txt, line 3: 'SITTING' is not a number"),
    ],
)
def test_bad_label_row(raw, open_hapt, text, message):
    edit_line(raw / "RawData" / "labels.txt", 3, text)
    with pytest.raises(UserError, match=message):
        open_hapt(raw)


def test_recording_without_labels(raw, open_hapt):
    edit_line(raw / "RawData" / "labels.txt", 3, "1 1 5 111 120")
    edit_line(raw / "RawData" / "labels.txt", 4, "1 1 5 121 130")
    with pytest.raises(UserError, match=r"labels\.txt: no rows for exp02_user01"):
        open_hapt(raw)


def test_missing_labels(raw, open_hapt):
    (raw / "RawData" / "labels.txt").unlink()
    with pytest.raises(UserError, match=r"RawData: labels\.txt is missing"):
        open_hapt(raw)


def test_empty_labels(raw, open_hapt):
    (raw / "RawData" / "labels.txt").write_text("\n")
    with pytest.raises(UserError, match=r"labels\.txt: is empty"):
        open_hapt(raw)


def test_missing_class_names(raw, open_hapt):
    (raw / "activity_labels.txt").unlink()
    with pytest.raises(UserError, match=r"activity_labels\.txt: cannot be read: No such file .*; unpacked or copied"):
        open_hapt(raw)


def test_other_class_names(raw, open_hapt):
    edit_line(raw / "activity_labels.txt", 4, "4 SITTING_DOWN")
    with pytest.raises(UserError, match=r"activity_labels\.txt, line 4: expected '4 SITTING', found '4 SITTING_DOWN'"):
        open_hapt(raw)


def test_a_13th_class_name(raw, open_hapt):
    with (raw / "activity_labels.txt").open("a") as file:
        file.write("13 JUMPING\n")
    with pytest.raises(UserError, match=r"activity_labels\.txt: expected 12 classes, found 13"):
        open_hapt(raw)


@pytest.mark.parametrize(
    ("config", "sensor"), [("accelerometer", "acc"), ("all_sensors", "acc"), ("all_sensors", "gyro")]
)
def test_sensor_file_without_partner(raw, open_hapt, config, sensor):
    (raw / "RawData" / f"{sensor}_exp02_user01.txt").unlink()
    with pytest.raises(UserError, match=rf"_exp02_user01\.txt has no partner {sensor}_exp02_user01\.txt"):
        open_hapt(raw, config)


@pytest.mark.parametrize("config", ["accelerometer", "all_sensors"])
def test_lengths_of_sensors_differ(raw, open_hapt, config):
    np.savetxt(raw / "RawData" / "gyro_exp02_user01.txt", np.ones((298, 3)))
    with pytest.raises(UserError, match=r"acc_exp02_user01\.txt: 300 samples, but gyro_exp02_user01\.txt has 298"):
        open_hapt(raw, config)


def test_recording_shorter_than_a_window(tmp_path, open_hapt):
    folder = write_raw_data(tmp_path / "short", num_samples=49)
    with pytest.raises(UserError, match=r"acc_exp01_user01\.txt: 49 samples, but one window needs 50"):
        open_hapt(folder)


def test_failed_preparation_leaves_nothing_that_looks_prepared(raw, open_hapt, tmp_path):
    file = raw / "RawData" / "acc_exp03_user02.txt"
    content = file.read_text()
    edit_line(file, 5, "broken")
    with pytest.raises(UserError, match="line 5"):
        open_hapt(raw)
    assert list((tmp_path / "prepared").rglob("dataset_info.json")) == []
    file.write_text(content)
    assert len(read(open_hapt(raw))) == 3


# The real recordings


@pytest.fixture(scope="module", params=["accelerometer", "all_sensors"])
def real(request, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("hapt")
    return prepared.open_dataset(f"hapt/{request.param}", data_dir=str(data_dir), manual_dir=str(REAL_DATA))


@pytest.mark.slow
@needs_real_data
def test_real_recordings(real):
    found = read(real, f"{hapt.TRAIN_SPLIT}+{hapt.TEST_SPLIT}")
    assert len(found) == 61
    assert list(real.info.splits) == [f"user{user:02d}" for user in range(1, 31)]
    labels = np.concatenate([record["labels"] for record in found.values()])
    assert np.bincount(labels).tolist() == [127, 183, 186, 120, 120, 120, 60, 62, 60, 60, 58, 58]
    assert all(record["features"].shape[1] == prepared.num_features(real) for record in found.values())


@pytest.mark.slow
@needs_real_data
def test_real_segments_lose_and_double_no_sample(real):
    """Every labelled sample lies in its action, and neighbouring rows meet in exactly the same float."""
    table = np.loadtxt(
        io.StringIO((zipfile.Path(REAL_DATA / "hapt.zip") / "RawData/labels.txt").read_text()), dtype=int
    )
    neighbours = 0
    for name, record in read(real, "all").items():
        rows = table[table[:, 0] == int(name[3:5])]
        samples = np.rint(record["segments"].astype(np.float64) * 50).astype(int)
        np.testing.assert_array_equal(samples, np.stack([rows[:, 3] - 1, rows[:, 4]], axis=1))
        meets = rows[1:, 3] == rows[:-1, 4] + 1
        np.testing.assert_array_equal(record["segments"][1:][meets, 0], record["segments"][:-1][meets, 1])
        neighbours += meets.sum()
    assert neighbours > 300


@needs_real_data
def test_real_partition_is_the_constants():
    root = zipfile.Path(REAL_DATA / "hapt.zip")
    for name, users in (("train", hapt.TRAIN_USERS), ("test", hapt.TEST_USERS)):
        found = {int(word) for word in (root / name.title() / f"subject_id_{name}.txt").read_text().split()}
        assert found == set(users)

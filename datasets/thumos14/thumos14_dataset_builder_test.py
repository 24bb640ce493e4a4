"""Tests of the THUMOS14 builder: generated files in every layout, and the real annotations where they are there."""

import json
import pathlib
import re
import shutil
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from a2net_tf.data import prepared
from a2net_tf.datasets.thumos14 import thumos14_dataset_builder as thumos
from a2net_tf.errors import UserError

REPO = pathlib.Path(__file__).resolve().parents[2]
REAL_ANNOTATIONS = REPO.parent / "shared" / "data" / "thumos14"
needs_real_annotations = pytest.mark.skipif(
    not REAL_ANNOTATIONS.is_dir(), reason="the challenge's annotations are not distributed with the code"
)

SIZE = 1024
FIRST, SECOND = "video_validation_0000051", "video_validation_0000661"
THIRD, FOURTH = "video_test_0000004", "video_test_0001207"
BAD = "video_test_0001292"  # only Ambiguous rows and no row in the csv file
VIDEOS = {"val": {FIRST: (30.0, 1012), SECOND: (25.0, 300)}, "test": {THIRD: (30000 / 1001, 803), FOURTH: (24.0, 1280)}}
FRAMES = {name: frames for info in VIDEOS.values() for name, (_, frames) in info.items()}
ROWS = {
    "val": {
        "CliffDiving": [f"{FIRST}  11.3 14.1", f"{SECOND} 1 2.5"],
        "Diving": [f"{FIRST}  2.0 3.0", f"{FIRST}  11.3 14.1", f"{SECOND} 1 2.5"],
        "Ambiguous": [f"{FIRST}  20.0 21.5"],
    },
    "test": {"GolfSwing": [f"{THIRD} 0.2 1.1", f"{FOURTH} 50 53.7"], "Ambiguous": [f"{BAD}  78.4 113.2"]},
}
LAYOUTS = tuple(thumos.LAYOUTS)


def write_annotations(folder: pathlib.Path) -> None:
    """The challenge's texts and the two csv files, with the rows of ``ROWS``."""
    for subset, info in VIDEOS.items():
        texts = folder / f"annotations_{subset}"
        texts.mkdir(parents=True)
        for label in (*thumos.CLASS_NAMES, "Ambiguous"):
            (texts / f"{label}_{subset}.txt").write_text("".join(f"{r}\n" for r in ROWS[subset].get(label, [])))
        numbered = [f"{number} {name}" for name, number in thumos.CLASS_NUMBERS.items()]
        (texts / "detclasslist.txt").write_text("\n".join(numbered))
        lines = [f"{name},{fps!r},10.0,{frames}.0,1" for name, (fps, frames) in info.items()]
        (folder / f"video_info_{subset}.csv").write_text("\n".join(["video,fps,sample_fps,count,sample_count", *lines]))


def make_streams(name: str) -> dict[str, np.ndarray]:
    """Vectors of 16 frames, one every 4: f32[T, 1024] each of RGB and flow."""
    rng = np.random.default_rng(list(name.encode()))
    num_steps = (FRAMES[name] - 16) // 4 + 1
    return {stream: rng.normal(size=(num_steps, SIZE)).astype(np.float32) for stream in ("rgb", "flow")}


def write_features(folder: pathlib.Path, layout: str) -> None:
    """All videos, in one of the four layouts."""
    for name in FRAMES:
        streams = make_streams(name)
        if layout == "crops":
            for stream, values in streams.items():
                crops = np.stack([values, values + 2, values + 4])
                save(np.savez, folder / f"i3d_{stream}" / f"{name}-{stream}.npz", feature=crops, frame_cnt=FRAMES[name])
        elif layout == "streams":
            for stream, values in streams.items():
                save(np.save, folder / stream / f"{name}.npy", values)
        elif layout == "whole":
            save(np.save, folder / f"{name}.npy", np.concatenate([streams["rgb"], streams["flow"]], axis=1))
        else:
            for begin in window_begins(FRAMES[name]):
                write_window(folder, name, begin)


def save(function, file: pathlib.Path, *arrays, **named) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    function(file, *arrays, **named)


def window_begins(num_frames: int) -> list[int]:
    """Every 256 frames, and one flush with the end, which is mostly none of a multiple of 4."""
    return [*range(0, max(num_frames - 511, 1), 256), *([num_frames - 512] if num_frames > 512 else [])]


def write_window(folder: pathlib.Path, name: str, begin: int, *, change: float = 0.0) -> pathlib.Path:
    """As the release does: cut from the whole at begin // 4, filled up to 128 with the last vector."""
    steps = np.minimum(begin // 4 + np.arange(128), (FRAMES[name] - 16) // 4)
    cut = {stream: values[steps].T + np.float32(change) for stream, values in make_streams(name).items()}
    file = folder / f"{name}_{begin:05d}.npz"
    no_array = np.array(None)  # the release's test windows have such entries
    save(np.savez, file, feat_spa=cut["rgb"], feat_tem=cut["flow"], begin_frame=begin, vid_name=name, action=no_array)
    return file


def write_all(folder: pathlib.Path, layout: str = "whole") -> pathlib.Path:
    write_annotations(folder)
    write_features(folder / "features", layout)
    return folder


def write_settings(folder: pathlib.Path, **settings) -> None:
    (folder / "settings.json").write_text(json.dumps(settings))


def edit_line(file: pathlib.Path, line: int, text: str) -> None:
    """Replaces line ``line`` (from 1) of ``file``, or adds it at the end."""
    lines = file.read_text().splitlines()
    lines[line - 1 : line] = [text]
    file.write_text("\n".join(lines) + "\n")


@pytest.mark.slow
class Thumos14Test(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own test of a builder, for all configs."""

    DATASET_CLASS = thumos.Builder
    SPLITS = {"validation": 2, "test": 2}

    @classmethod
    def setUpClass(cls):
        cls.EXAMPLE_DIR = tempfile.mkdtemp()
        write_all(pathlib.Path(cls.EXAMPLE_DIR), "crops")
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(cls.EXAMPLE_DIR)


@pytest.fixture(scope="module", params=LAYOUTS)
def layout_folder(request, tmp_path_factory):
    """A ``manual_dir`` in each layout; not to be changed."""
    return request.param, write_all(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def raw(tmp_path):
    """A ``manual_dir`` that tests may change."""
    return write_all(tmp_path / "raw")


@pytest.fixture
def open_thumos(tmp_path):
    def open_config(manual_dir: pathlib.Path, config: str = "two_stream"):
        return prepared.open_dataset(f"thumos14/{config}", data_dir=str(tmp_path / "data"), manual_dir=str(manual_dir))

    return open_config


def read(builder: tfds.core.DatasetBuilder, split: str = "validation+test") -> dict[str, dict]:
    """Records by id, as numpy."""
    return {record["id"].decode(): record for record in tfds.as_numpy(prepared.read_records(builder, split))}


# Contents


@pytest.mark.parametrize("config", ["two_stream", "rgb", "flow"])
def test_every_layout_gives_the_same_features(layout_folder, open_thumos, config, capsys):
    layout, folder = layout_folder
    found = read(open_thumos(folder, config))
    assert f"features of 4 videos in the layout '{layout}'" in capsys.readouterr().out
    assert found.keys() == FRAMES.keys()
    for name, record in found.items():
        streams = make_streams(name)
        expected = np.concatenate(list(streams.values()), axis=1) if config == "two_stream" else streams[config]
        if layout == "windows":  # filled up by repeating the last vector
            assert len(expected) <= len(record["features"]) <= len(expected) + 4
            assert (record["features"][len(expected) :] == expected[-1]).all()
        else:
            assert len(record["features"]) == len(expected)
        np.testing.assert_array_equal(record["features"][: len(expected)], expected)


def test_times(raw, open_thumos):
    found = read(open_thumos(raw))
    for name, fps in ((FIRST, 30.0), (SECOND, 25.0), (THIRD, 30000 / 1001), (FOURTH, 24.0)):
        assert found[name]["feature_stride_seconds"] == 4 / fps
        assert found[name]["first_step_seconds"] == 0.0
        assert found[name]["duration_seconds"] == pytest.approx(max(FRAMES[name] / fps, 53.7 if name == FOURTH else 0))


def test_labels(raw, open_thumos):
    record = read(open_thumos(raw))[FIRST]
    np.testing.assert_array_equal(record["segments"], np.float32([[2, 3], [11.3, 14.1], [11.3, 14.1]]))
    names = [thumos.CLASS_NAMES[label] for label in record["labels"]]
    assert names == ["Diving", "CliffDiving", "Diving"]  # of equal segments, training takes the first
    np.testing.assert_array_equal(record["ambiguous_segments"], np.float32([[20, 21.5]]))


def test_metadata_without_the_builder(raw, open_thumos, capsys):
    path = open_thumos(raw).data_path
    printed = capsys.readouterr().out
    assert "validation: 2 videos, 5 actions of 2 classes: BaseballPitch 0," in printed
    assert "CliffDiving 2," in printed
    assert "test: 2 videos, 2 actions of 1 classes" in printed
    assert f"test: left out, no actions of the 20 classes and no features: {BAD}" in printed
    reopened = prepared.open_dataset(str(path))
    metadata = prepared.read_metadata(reopened)
    assert metadata["also_reported"] == {"CliffDiving": "Diving"}
    assert metadata["counts"]["validation"]["per_class"]["Diving"] == 3
    assert metadata["counts"]["test"] == {**metadata["counts"]["test"], "videos": 2, "actions": 2, "ambiguous": 0}
    assert metadata["layout"] == "whole"
    assert prepared.class_names(reopened) == list(thumos.CLASS_NAMES)
    assert prepared.num_features(reopened) == 2 * SIZE
    again = open_thumos(raw)  # by its builder, and not prepared again
    assert prepared.read_metadata(again) == metadata
    assert prepared.num_features(again) == 2 * SIZE


def test_video_with_only_ambiguous_rows(raw, open_thumos):
    """It is there if its features are; without a row of the csv file it has 30 fps."""
    np.save(raw / "features" / f"{BAD}.npy", np.ones((500, 2 * SIZE), np.float32))
    record = read(open_thumos(raw), "test")[BAD]
    assert record["feature_stride_seconds"] == 4 / 30
    assert record["duration_seconds"] == pytest.approx(113.2)
    assert (len(record["segments"]), len(record["ambiguous_segments"])) == (0, 1)


def test_flow_may_have_one_vector_less(tmp_path, open_thumos):
    folder = write_all(tmp_path / "raw", "streams")
    np.save(folder / "features" / "flow" / f"{FIRST}.npy", make_streams(FIRST)["flow"][:-1])
    assert len(read(open_thumos(folder))[FIRST]["features"]) == 249


def test_one_stream_needs_no_other(tmp_path, open_thumos):
    folder = write_all(tmp_path / "raw", "streams")
    shutil.rmtree(folder / "features" / "flow")
    assert len(read(open_thumos(folder, "rgb"))) == 4


# Settings


def test_mean_of_crops(tmp_path, open_thumos):
    folder = write_all(tmp_path / "raw", "crops")
    write_settings(folder, crop="mean")
    found = read(open_thumos(folder, "flow"))[SECOND]["features"]
    np.testing.assert_allclose(found, make_streams(SECOND)["flow"] + 2, atol=1e-5)


def test_offset_fps_and_stride(raw, open_thumos):
    """Converted to 30 fps, the 300 frames of 25 fps are 360: 90 strides of 4, or 180 of 2."""
    write_settings(raw, first_frame_offset=6, fps=30, feature_stride_frames=2, exclude_videos=[FIRST, THIRD, FOURTH])
    np.save(raw / "features" / f"{SECOND}.npy", np.ones(((360 - 16) // 2 + 1, 2 * SIZE), np.float32))
    record = read(open_thumos(raw), "validation")[SECOND]
    assert record["first_step_seconds"] == 0.2
    assert record["feature_stride_seconds"] == 2 / 30
    assert record["duration_seconds"] == 12.0


def test_features_that_this_package_has_extracted(raw, open_thumos, capsys):
    """Their folder says at what rate; a vector stands for the middle of its clip; the run learns how they were made."""
    words = {"extractor": "i3d", "frame_rate": 30.0, "frame_stride": 4, "clip_frames": 16}
    (raw / "features" / "settings.json").write_text(json.dumps({"feature_stride_seconds": 4 / 30, "extraction": words}))
    write_settings(raw, exclude_videos=[FIRST, THIRD, FOURTH])
    np.save(raw / "features" / f"{SECOND}.npy", np.ones(((360 - 16) // 4 + 1, 2 * SIZE), np.float32))
    builder = open_thumos(raw)
    assert "extracted by this package: 30 frames per second, a vector every 4" in capsys.readouterr().out
    record = read(builder, "validation")[SECOND]
    assert record["first_step_seconds"] == pytest.approx(6 / 30)
    assert record["feature_stride_seconds"] == pytest.approx(4 / 30)
    assert prepared.read_extraction(builder) == words
    (raw / "features" / "settings.json").write_text(json.dumps({"extraction": {"frame_rate": "fast"}}))
    with pytest.raises(UserError, match="features/settings.json: extraction: frame_rate: expected a number"):
        prepared.open_dataset("thumos14", data_dir=str(raw / "other"), manual_dir=str(raw))


def test_excluded_and_missing_videos(raw, open_thumos, capsys):
    write_settings(raw, exclude_videos=["known_bad", FIRST], allow_missing=True)
    (raw / "features" / f"{THIRD}.npy").unlink()
    assert read(open_thumos(raw)).keys() == {SECOND, FOURTH}
    printed = capsys.readouterr().out
    assert f"validation: left out as exclude_videos says: {FIRST}\n" in printed
    assert f"test: left out as exclude_videos says: {BAD}\n" in printed
    assert f"raw/features: 1 of 3 annotated videos have no features: {THIRD}; left out" in printed


def test_a_split_without_any_video(raw, open_thumos):
    write_settings(raw, exclude_videos=[FIRST, SECOND])
    assert list(open_thumos(raw).info.splits) == ["test"]
    write_settings(raw, exclude_videos=list(FRAMES))
    with pytest.raises(UserError, match="manual_dir=.*: no video is left that could be prepared"):
        open_thumos(raw, "rgb")


def test_smaller_vectors(raw, open_thumos):
    write_settings(raw, values_per_stream=3)
    for name in FRAMES:
        np.save(raw / "features" / f"{name}.npy", np.concatenate([v[:, :3] for v in make_streams(name).values()], 1))
    builder = open_thumos(raw, "flow")
    assert prepared.num_features(builder) == 3
    np.testing.assert_array_equal(read(builder)[FIRST]["features"], make_streams(FIRST)["flow"][:, :3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 4}, r"settings\.json: unknown key 'stride'; known are layout, crop, fps, feature_stride_frames"),
        ({"layout": "hdf5"}, "'layout' must be one of auto, crops, streams, whole, windows, found 'hdf5'"),
        ({"crop": "all"}, "'crop' must be one of first, mean, found 'all'"),
        ({"gaps": "fill"}, "'gaps' must be one of refuse, split, found 'fill'"),
        ({"feature_stride_frames": 0}, "'feature_stride_frames' must be at least 1, found 0"),
        ({"fps": -1}, "'fps' must be >= 0"),
        ({"exclude_videos": ["0000270"]}, "'exclude_videos' names '0000270', which is not a THUMOS14 video"),
        ({"layout": "windows"}, r"no features found; looked for \(windows\) NAME_FRAME.npz"),
    ],
)
def test_wrong_settings(raw, open_thumos, settings, message):
    write_settings(raw, **settings)
    with pytest.raises(UserError, match=message):
        open_thumos(raw)


def test_changed_settings_are_noticed(raw, open_thumos):
    path = open_thumos(raw).data_path
    write_settings(raw, first_frame_offset=6)
    with pytest.raises(UserError, match=rf"manual_dir=.*: its files have changed since {re.escape(str(path))} was"):
        open_thumos(raw)
    shutil.rmtree(path)
    assert read(open_thumos(raw))[FIRST]["first_step_seconds"] == 0.2


# Mistakes in the annotations


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (2, f"{FIRST} 11.3", r"line 2: expected 'video start end' in seconds, found 'video_validation_0000051 11.3'"),
        (2, f"{FIRST} 11.3 14.1 5", "line 2: expected 'video start end'"),
        (2, f"{FIRST} 11.3 x", "line 2: end: expected a number, found 'x'"),
        (1, "", "line 1: expected 'video start end' in seconds, found ''"),
        (2, f"{FIRST} 14.1 11.3", r"line 2: from 14.1 to 11.3 s, expected 0 <= start < end \(reversed\?\)"),
        (2, f"{FIRST} 11.3 nan", "line 2: end: expected a finite number, found 'nan'"),
        (2, f"{FIRST} -1 2", "line 2: from -1 to 2 s"),
        (2, f"{FIRST}  2.0 3.0", "line 2: the same as line 1"),
        (2, "my_video 11.3 14.1", "line 2: 'my_video' is not the name of a THUMOS14 video"),
        (2, "video_validation_0000099 1 2", r"line 2: video_validation_0000099 has no row in .*video_info_val\.csv"),
        (
            2,
            f"{FIRST} 30 35",
            r"line 2: ends at 35 s, but video_validation_0000051 has 1012 frames at 30 fps \(33.7 s\)",
        ),
    ],
)
def test_bad_row(raw, open_thumos, line, text, message):
    edit_line(raw / "annotations_val" / "Diving_val.txt", line, text)
    with pytest.raises(UserError, match=rf"Diving_val\.txt, {message}"):
        open_thumos(raw)


def test_rows_a_little_beyond_the_end_are_kept(raw, open_thumos, capsys):
    edit_line(raw / "annotations_val" / "Diving_val.txt", 1, f"{FIRST} 33.5 34.5")
    record = read(open_thumos(raw))[FIRST]
    assert record["segments"][-1].tolist() == [33.5, 34.5]
    assert record["duration_seconds"] == 34.5
    assert f"validation: 1 rows end after the last frame, kept: {FIRST}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (2, f"{FIRST},thirty,10,1012,1", "line 2: expected numbers in the columns fps and count"),
        (2, f"{FIRST},30", "line 2: expected numbers in the columns fps and count"),
        (2, f"{FIRST},0,10,1012,1", "line 2: fps and count must be > 0 and a video come once"),
        (3, f"{FIRST},30,10,1012,1", "line 3: fps and count must be > 0 and a video come once"),
        (1, "name,fps,sample_fps,count,sample_count", "no column 'video'; found name, fps, sample_fps, count"),
    ],
)
def test_bad_video_info(raw, open_thumos, line, text, message):
    edit_line(raw / "video_info_val.csv", line, text)
    with pytest.raises(UserError, match=rf"video_info_val\.csv[,:] {message}"):
        open_thumos(raw)


def test_other_classes(raw, open_thumos):
    texts = raw / "annotations_test"
    edit_line(texts / "detclasslist.txt", 3, "12 Pool")
    with pytest.raises(UserError, match=r"detclasslist\.txt, line 3: expected 12 Billiards, found 12 Pool"):
        open_thumos(raw)
    edit_line(texts / "detclasslist.txt", 3, "12 Billiards")
    edit_line(texts / "detclasslist.txt", 21, "98 WalkingWithDog")
    with pytest.raises(UserError, match=r"detclasslist\.txt, line 21: expected nothing, found 98 WalkingWithDog"):
        open_thumos(raw)
    edit_line(texts / "detclasslist.txt", 21, "")
    (texts / "WalkingWithDog_test.txt").touch()
    with pytest.raises(UserError, match=r"WalkingWithDog_test\.txt: 'WalkingWithDog' is none of the 20 classes"):
        open_thumos(raw)


@pytest.mark.parametrize(
    "name", ["annotations_val/detclasslist.txt", "annotations_test/GolfSwing_test.txt", "video_info_test.csv"]
)
def test_missing_file(raw, open_thumos, name):
    (raw / name).unlink()
    with pytest.raises(
        UserError, match=f"{re.escape(name)}: cannot be read: No such file or directory; copied only in part"
    ):
        open_thumos(raw)


# Mistakes in the features


def test_no_layout_fits(tmp_path, open_thumos):
    write_annotations(tmp_path / "raw")
    for name in (f"{FIRST}.h5", f"{FIRST}_rgb.npy"):
        save(lambda file: file.touch(), tmp_path / "raw" / "features" / name)
    message = r"raw/features: no features found; looked for \(crops\) .*\(streams\) .*\(whole\) .*\(windows\) .*; "
    there = rf"what is there: 1 \.h5 \(such as {FIRST}\.h5\), 1 \.npy \(such as {FIRST}_rgb\.npy\)$"
    with pytest.raises(UserError, match=message + there):
        open_thumos(tmp_path / "raw")
    for file in (tmp_path / "raw" / "features").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=f"{message}what is there: an empty folder$"):
        open_thumos(tmp_path / "raw")
    (tmp_path / "raw" / "features").rmdir()
    with pytest.raises(UserError, match=f"{message}what is there: no such folder$"):
        open_thumos(tmp_path / "raw")


def test_several_layouts_fit(raw, open_thumos):
    write_features(raw / "features", "streams")
    with pytest.raises(UserError, match=r'features in several layouts \(streams, whole\); choose one with "layout"'):
        open_thumos(raw)
    write_settings(raw, layout="streams")
    assert prepared.read_metadata(open_thumos(raw))["layout"] == "streams"


@pytest.mark.parametrize(("layout", "lost"), [("crops", "i3d_flow/{}-flow.npz"), ("streams", "flow/{}.npy")])
def test_half_of_a_pair_is_missing(tmp_path, open_thumos, layout, lost):
    folder = write_all(tmp_path / "raw", layout)
    (folder / "features" / lost.format(SECOND)).unlink()
    message = rf"{SECOND}(-rgb)?\.np[yz]: its partner with the flow features is missing \(1 such videos: {SECOND}\)"
    with pytest.raises(UserError, match=message):
        open_thumos(folder)


def test_streams_in_folders_of_other_names(tmp_path, open_thumos):
    folder = write_all(tmp_path / "raw", "streams")
    for stream in ("rgb", "flow"):
        (folder / "features" / stream).rename(folder / "features" / f"i3d_{stream}")
    message = rf"{FIRST}\.npy is there as well; which of them .* their folders must be named rgb and flow\)$"
    with pytest.raises(UserError, match=message):
        open_thumos(folder)


def test_two_files_for_one_video(raw, open_thumos):
    save(np.save, raw / "features" / "old" / f"{FIRST}.npy", np.ones((3, 2 * SIZE)))
    with pytest.raises(UserError, match=rf"{FIRST}\.npy: .*{FIRST}\.npy is there as well"):
        open_thumos(raw)


def test_missing_features(raw, open_thumos):
    for name in (FIRST, THIRD):
        (raw / "features" / f"{name}.npy").unlink()
    message = f'raw/features: 2 of 4 annotated videos have no features: {FIRST}, {THIRD}; .*"allow_missing": true'
    with pytest.raises(UserError, match=message):
        open_thumos(raw)


def damage(values: np.ndarray, step: int, value: float) -> np.ndarray:
    values = values.copy()
    values[step] = value
    return values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: damage(v, 7, np.nan), "1 steps hold NaN or infinite values, the first is step 7"),
        (lambda v: v[:, :-1], "2047 values per step but 2048 are expected$"),
        (lambda v: v[:, :SIZE], "1024 values per step but 2048 are expected$"),
        (lambda v: v.T, r"250 values per step but 2048 are expected; is the matrix transposed\?"),
        (lambda v: v[0], r"expected a number matrix \[steps, features\], found shape \[2048\]"),
        (lambda v: v[:0], "0 feature steps"),
        (lambda v: np.array([None]), r"not a readable \.npy array \(it holds Python objects, and allow_pickle is off"),
        (lambda v: v[::2], r"125 vectors, one every 4 frames, cover 500 frames, but video_.*051 has 1012 \(30 fps\)"),
        (lambda v: v[:-2], "248 vectors, .* cover 992 frames"),
        (lambda v: np.concatenate([v, v[-5:]]), "255 vectors, .* cover 1020 frames"),
    ],
)
def test_features_that_cannot_be(raw, open_thumos, change, message):
    file = raw / "features" / f"{FIRST}.npy"
    np.save(file, change(np.load(file)))
    with pytest.raises(UserError, match=rf"{FIRST}\.npy: {message}"):
        open_thumos(raw)


@pytest.mark.parametrize(
    ("layout", "file"),
    [
        ("crops", f"i3d_flow/{FIRST}-flow.npz"),
        ("streams", f"flow/{FIRST}.npy"),
        ("whole", f"{FIRST}.npy"),
        ("windows", f"{FIRST}_00256.npz"),
    ],
)
def test_empty_file(tmp_path, open_thumos, layout, file):
    folder = write_all(tmp_path / "raw", layout)
    (folder / "features" / file).write_bytes(b"")
    with pytest.raises(UserError, match=rf"{re.escape(file)}: not a readable \.np[yz] \w+ \(No data left in file\)"):
        open_thumos(folder)


@pytest.mark.parametrize("num_steps", range(244, 260))
def test_lengths_that_can_be(num_steps):
    """1012 frames: a vector every 4 frames that sees 16 (250), one per 4 frames (253), one stride less or more."""
    video = thumos.Video(FIRST, 30.0, 1012.0, (), ())
    if 249 <= num_steps <= 254:
        thumos.check_length(num_steps, video, thumos.Settings(), where="x")
    else:
        with pytest.raises(UserError, match=f"^x: {num_steps} vectors"):
            thumos.check_length(num_steps, video, thumos.Settings(), where="x")


def test_streams_of_different_lengths(tmp_path, open_thumos):
    folder = write_all(tmp_path / "raw", "streams")
    np.save(folder / "features" / "flow" / f"{FIRST}.npy", make_streams(FIRST)["flow"][:-2])
    with pytest.raises(UserError, match=rf"rgb/{FIRST}\.npy: 250 vectors, but {FIRST}\.npy has 248"):
        open_thumos(folder)


def test_crops_of_another_extraction(tmp_path, open_thumos):
    folder = write_all(tmp_path / "raw", "crops")
    file = folder / "features" / "i3d_rgb" / f"{FIRST}-rgb.npz"
    np.savez(file, feature=make_streams(FIRST)["rgb"].T[None])
    with pytest.raises(UserError, match=rf"{FIRST}-rgb\.npz: 250 values per step but 1024 .*transposed"):
        open_thumos(folder)
    np.savez(file, rgb=make_streams(FIRST)["rgb"][None], other=1)
    with pytest.raises(UserError, match=rf"{FIRST}-rgb\.npz: no array named 'feature', found rgb, other"):
        open_thumos(folder)


@pytest.mark.parametrize("crop", ["first", "mean"])
@pytest.mark.parametrize(
    ("crops", "message"),
    [
        (np.full((2, 250, SIZE), np.nan), "250 steps hold NaN or infinite values, the first is step 0"),
        (
            np.full((2, 250, SIZE), "x"),
            r"expected a number matrix \[steps, features\], found shape \[250, 1024\] of <U1",
        ),
        (np.ones((0, 250, SIZE)), r"expected a number matrix \[steps, features\], found shape \[0, 250, 1024\]"),
        (np.array([None]), r"not a readable \.npz file \(it holds Python objects, and allow_pickle is off"),
    ],
)
def test_crops_that_cannot_be(tmp_path, open_thumos, crop, crops, message):
    folder = write_all(tmp_path / "raw", "crops")
    write_settings(folder, crop=crop)
    np.savez(folder / "features" / "i3d_rgb" / f"{FIRST}-rgb.npz", feature=crops)
    with pytest.raises(UserError, match=rf"{FIRST}-rgb\.npz: {message}"):
        open_thumos(folder)


# Window files


@pytest.fixture
def windows(tmp_path):
    return write_all(tmp_path / "raw", "windows")


def test_stitching_by_hand(tmp_path, windows):
    """1012 frames: windows at 0, 256 and 500 frames, which are steps 0, 64 and 125."""
    files = sorted((windows / "features").glob(f"{FIRST}*.npz"))
    assert [file.name[-9:-4] for file in files] == ["00000", "00256", "00500"]
    video = thumos.Video(FIRST, 30.0, 1012.0, (), ())
    [piece] = thumos.stitch_windows(files[::-1], video, streams=("flow",), settings=thumos.Settings())
    assert piece.first_step == 0
    assert piece.features.shape == (253, SIZE)
    np.testing.assert_array_equal(piece.features[:250], make_streams(FIRST)["flow"])


def test_windows_that_differ(windows, open_thumos):
    write_window(windows / "features", FIRST, 256, change=1e-3)
    message = rf"{FIRST}_00256\.npz: differs by 0\.001 from {FIRST}_00000\.npz where both overlap"
    with pytest.raises(UserError, match=message):
        open_thumos(windows)


def test_windows_that_differ_by_rounding(windows, open_thumos):
    write_window(windows / "features", FIRST, 256, change=5e-5)
    assert len(read(open_thumos(windows))[FIRST]["features"]) == 253


def test_gap_between_windows(windows, open_thumos):
    for begin in (256, 512):
        (windows / "features" / f"{FOURTH}_{begin:05d}.npz").unlink()
    message = rf"{FOURTH}_00768\.npz: begins at frame 768, but the windows before it end at frame 512: a gap.*split"
    with pytest.raises(UserError, match=message):
        open_thumos(windows)
    write_settings(windows, gaps="split")  # does not apply to test videos
    with pytest.raises(UserError, match="00768.npz: begins at frame 768"):
        open_thumos(windows)


def test_gap_at_the_beginning(windows, open_thumos):
    (windows / "features" / f"{FIRST}_00000.npz").unlink()
    with pytest.raises(UserError, match=rf"{FIRST}_00256\.npz: begins at frame 256, .* end at frame 0: a gap"):
        open_thumos(windows)


def test_end_is_missing(windows, open_thumos):
    (windows / "features" / f"{FOURTH}_00768.npz").unlink()
    with pytest.raises(UserError, match=rf"{FOURTH}_00512\.npz: 256 vectors, .* cover 1024 frames, .* has 1280"):
        open_thumos(windows)


def test_split_at_gaps(windows, open_thumos, monkeypatch):
    """As the release's training windows are: those without an action are not there."""
    monkeypatch.setitem(FRAMES, SECOND, 1600)
    edit_line(windows / "video_info_val.csv", 3, f"{SECOND},25.0,10.0,1600.0,1")
    edit_line(windows / "annotations_val" / "Diving_val.txt", 3, f"{SECOND} 50 53")
    for begin in (0, 128, 1024):
        write_window(windows / "features", SECOND, begin)
    write_settings(windows, gaps="split")
    found = read(open_thumos(windows))
    assert found.keys() == {FIRST, THIRD, FOURTH, f"{SECOND}@0", f"{SECOND}@256"}
    first, second = found[f"{SECOND}@0"], found[f"{SECOND}@256"]
    assert (first["first_step_seconds"], len(first["features"])) == (0.0, 160)
    assert (second["first_step_seconds"], len(second["features"])) == (1024 / 25, 128)
    assert first["segments"].tolist() == [[1, 2.5]]
    assert second["segments"].tolist() == [[50, 53]]
    np.testing.assert_array_equal(second["features"][:, :SIZE], make_streams(SECOND)["rgb"][256:384])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vid_name": THIRD}, f"its vid_name is {THIRD}, expected {FIRST}"),
        ({"begin_frame": -4}, "begin_frame is -4, expected one number >= 0"),
        ({"begin_frame": "start"}, "begin_frame is start, expected one number >= 0"),
        ({"begin_frame": [0, 256]}, r"begin_frame is \[0, 256\], expected one number >= 0"),
        (
            {"feat_spa": np.array([None])},
            r"not a readable \.npz file \(it holds Python objects, and allow_pickle is off",
        ),
        ({"feat_spa": np.ones((128, SIZE))}, r"feat_spa: 128 values per step but 1024 .*transposed\?"),
        ({"feat_tem": np.ones((SIZE, 127))}, "feat_spa has 128 vectors, but feat_tem 127"),
        ({"feat_tem": np.full((SIZE, 128), np.inf)}, "feat_tem: 128 steps hold NaN or infinite values"),
    ],
)
def test_bad_window(windows, open_thumos, fields, message):
    values = {"feat_spa": np.ones((SIZE, 128)), "feat_tem": np.ones((SIZE, 128)), "begin_frame": 0, "vid_name": FIRST}
    np.savez(windows / "features" / f"{FIRST}_00000.npz", **{**values, **fields})
    with pytest.raises(UserError, match=rf"{FIRST}_00000\.npz: {message}"):
        open_thumos(windows)


def test_window_without_flow(windows, open_thumos):
    file = windows / "features" / f"{FIRST}_00000.npz"
    np.savez(file, feat_spa=np.ones((SIZE, 128)), begin_frame=0, vid_name=FIRST)
    with pytest.raises(UserError, match=rf"{FIRST}_00000\.npz: no array named 'feat_tem', found feat_spa, begin_frame"):
        open_thumos(windows)


# The real annotations

REAL_COUNTS = {  # of the actions of each class, in the order of the class ids
    "validation": (30, 303, 81, 42, 143, 178, 181, 499, 103, 31, 199, 271, 192, 163, 120, 70, 66, 69, 120, 146),
    "test": (41, 488, 106, 98, 217, 138, 170, 388, 48, 36, 242, 135, 169, 142, 399, 144, 48, 141, 88, 120),
}


def test_counts_in_the_readme():
    """Its table holds class, validation and test, twice side by side."""
    text = pathlib.Path(thumos.__file__).with_name("README.md").read_text()
    found = {name: (int(val), int(test)) for name, val, test in re.findall(r"(\w+) \| (\d+) \| (\d+) \|", text)}
    pairs = zip(REAL_COUNTS["validation"], REAL_COUNTS["test"], strict=True)
    for name, pair in zip(thumos.CLASS_NAMES, pairs, strict=True):
        assert found[name] == pair, name


@needs_real_annotations
def test_real_annotations(tmp_path, open_thumos, capsys):
    """With features of one value; the counts are those of the challenge."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for path in REAL_ANNOTATIONS.iterdir():
        (folder / path.name).symlink_to(path)
    write_settings(folder, values_per_stream=1)
    for split in thumos.SUBSETS:
        for video in thumos.read_videos(folder, split, thumos.Settings()):
            steps = int(video.num_frames // 4) or 1100
            save(np.save, folder / "features" / f"{video.name}.npy", np.zeros((steps, 2), np.float32))
    found = {split: read(open_thumos(folder), split) for split in thumos.SUBSETS}
    assert {split: len(videos) for split, videos in found.items()} == {"validation": 200, "test": 213}
    counts = prepared.read_metadata(open_thumos(folder))["counts"]
    assert (counts["validation"]["actions"], counts["test"]["actions"]) == (3007, 3358)
    assert (counts["validation"]["ambiguous"], counts["test"]["ambiguous"]) == (89, 99)
    for split in thumos.SUBSETS:
        assert tuple(counts[split]["per_class"][name] for name in thumos.CLASS_NAMES) == REAL_COUNTS[split]
        for record in found[split].values():
            cliff_diving, diving = (record["segments"][record["labels"] == label].tolist() for label in (4, 7))
            assert all(segment in diving for segment in cliff_diving)
    printed = capsys.readouterr().out
    assert "validation: 4 rows end after the last frame, kept: video_validation_0000364, video_valida" in printed
    assert "test: 26 rows end after the last frame, kept: video_test_0000270, video_test_0000814" in printed

"""Labels of steps become actions and back; files that contradict each other are refused by name."""

import json
import pathlib

import numpy as np
import pytest

from a2net_tf.data import prepared
from a2net_tf.data.files import frame_labels
from a2net_tf.errors import UserError
from a2net_tf.evaluation import segmentation

REPO = pathlib.Path(__file__).resolve().parents[2]
REAL = REPO.parent / "shared" / "data" / "50salads"
MAPPING = ["cut", "mix", "background"]
LABELS = {
    "a": ["background"] * 2 + ["cut"] * 3 + ["mix"] * 1 + ["cut"] * 4,
    "b": ["mix"] * 5,
    "c": ["background"] * 4 + ["mix"] * 2,
}


def write(folder, *, per_label=1, **settings):
    """A dataset of three recordings, of which each vector holds its own number, ``per_label`` vectors a label."""
    for name in ("features", "groundTruth", "splits"):
        (folder / name).mkdir(parents=True)
    for name, labels in LABELS.items():
        steps = np.arange(per_label * len(labels), dtype=np.float32)
        np.save(folder / "features" / f"{name}.npy", np.stack([steps, -steps]))
        (folder / "groundTruth" / f"{name}.txt").write_text("\n".join(labels) + "\n")
    (folder / "mapping.txt").write_text("".join(f"{i} {label}\n" for i, label in enumerate(MAPPING)))
    (folder / "splits" / "train.split1.bundle").write_text("a.txt\nb.txt\n")
    (folder / "splits" / "test.split1.bundle").write_text("c.txt")
    (folder / "settings.json").write_text(json.dumps({"feature_rate": 5 * per_label, "label_rate": 5, **settings}))
    return folder


@pytest.fixture
def raw(tmp_path):
    return write(tmp_path / "raw")


@pytest.fixture
def open_own(tmp_path):
    def open_folder(folder, config="own", data="data"):
        return prepared.open_dataset(f"frame_labels/{config}", data_dir=str(tmp_path / data), manual_dir=str(folder))

    return open_folder


def read(builder, split):
    return {r["id"].decode(): r for r in prepared.read_records(builder, split).as_numpy_iterator()}


def test_runs_become_actions(raw, open_own):
    builder = open_own(raw)
    assert sorted(builder.info.splits) == ["test_split1", "train_split1"]
    assert prepared.class_names(builder) == ["cut", "mix"]
    record = read(builder, "train_split1")["a"]
    np.testing.assert_allclose(record["segments"], [[0.4, 1.0], [1.0, 1.2], [1.2, 2.0]])
    assert record["labels"].tolist() == [0, 1, 0]
    np.testing.assert_array_equal(record["features"][:, 0], np.arange(10))
    assert (record["feature_stride_seconds"], record["first_step_seconds"], record["duration_seconds"]) == (0.2, 0, 2)


@pytest.mark.parametrize("seed", range(20))
def test_labels_become_segments_and_labels_again(seed):
    """Exactly, at any rate, also far from the beginning."""
    random = np.random.default_rng(seed)
    labels = np.repeat(random.integers(0, 4, 200), random.integers(1, 40, 200))
    rate = float(random.choice([3, 5, 15, 29.97, 30000 / 1001, 0.37]))
    found = frame_labels.runs(labels)
    assert [run.start for run in found[1:]] == [run.end for run in found[:-1]]
    assert all(a.label != b.label for a, b in zip(found, found[1:], strict=False))
    actions = [run for run in found if run.label != 3]
    segments = np.array([run[:2] for run in actions]) / rate
    ids, scores = [run.label for run in actions], random.uniform(0.1, 1, len(actions))
    again = segmentation.label_steps(segments, ids, scores, num_steps=len(labels), rate=rate, background=3)
    np.testing.assert_array_equal(again, labels)


def test_no_steps():
    assert frame_labels.runs(np.array([], np.int64)) == []


def test_labels_at_another_rate_than_features(tmp_path, open_own):
    record = read(open_own(write(tmp_path / "fast", per_label=3)), "test_split1")["c"]
    assert record["features"].shape == (18, 2)
    np.testing.assert_allclose(record["segments"], [[0.8, 1.2]])


def test_features_of_a_split(raw, open_own):
    for number in "12":
        (raw / "features").rename(raw / "keep") if number == "1" else None
        (raw / f"of_{number}").mkdir()
        for name in LABELS:
            np.save(raw / f"of_{number}" / f"{name}.npy", float(number) * np.load(raw / "keep" / f"{name}.npy").T)
    (raw / "splits" / "test.split2.bundle").write_text("c\n")
    settings = {"feature_rate": 5, "label_rate": 5, "features": "of_{split}", "features_are": "T,D"}
    (raw / "settings.json").write_text(json.dumps(settings))
    builder = open_own(raw)
    first, second = (read(builder, f"test_split{number}")["c"]["features"] for number in "12")
    np.testing.assert_array_equal(second, 2 * first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: (f / "mapping.txt").write_text("0 cut\n1 background\n"),
            "a.txt, line 6: the label 'mix' is none of",
        ),
        (lambda f: (f / "mapping.txt").write_text("0 cut\n0 mix\n"), "mapping.txt, line 2: '0 mix': this number or"),
        (lambda f: (f / "mapping.txt").write_text("cut\n"), "mapping.txt, line 1: expected NUMBER LABEL, found 'cut'"),
        (lambda f: (f / "mapping.txt").write_text("\n"), "mapping.txt: no labels"),
        (
            lambda f: (f / "groundTruth" / "b.txt").write_text("mix\n" * 7),
            "b.npy: 5 vectors at 5 per second are 1.00 s",
        ),
        (lambda f: (f / "groundTruth" / "b.txt").write_text("mix\n\nmix\n"), "b.txt, line 2: empty"),
        (lambda f: (f / "groundTruth" / "b.txt").write_text(""), "b.txt: no labels; expected one on each line"),
        (lambda f: (f / "features" / "b.npy").unlink(), "features: no features for b; looked for"),
        (lambda f: np.save(f / "features" / "b.npy", np.ones((3, 5))), "b.npy: 3 values per step but 2 are expected"),
        (
            lambda f: np.save(f / "features" / "c.npy", np.ones(5)),
            r"c.npy: expected a matrix \[D,T\], found",
        ),
        (
            lambda f: (f / "splits" / "train.split1.bundle").write_text("a\nd\n"),
            "line 2: no labels for 'd'; looked for",
        ),
        (lambda f: (f / "splits" / "train.split1.bundle").write_text("a\na\n"), "line 2: 'a' was there before"),
        (lambda f: [p.unlink() for p in (f / "splits").iterdir()], "splits: no bundles; expected train.split1.bundle"),
        (lambda f: (f / "settings.json").write_text('{"feature_rate": 5}'), "'label_rate' must be above 0"),
        (lambda f: (f / "settings.json").write_text('{"rate": 5}'), "unknown key 'rate'; known are feature_rate"),
        (lambda f: (f / "settings.json").unlink(), "'feature_rate' must be above 0: how many a second; found 0"),
        (
            lambda f: (f / "settings.json").write_text('{"feature_rate": 5, "label_rate": 5, "features_are": "T,D"}'),
            r"c.npy: 2 vectors at 5 per second are 0.40 s, but groundTruth/c.txt has 6 labels .*'features_are'\)\?",
        ),
    ],
)
def test_files_that_contradict(raw, open_own, change, message):
    change(raw)
    with pytest.raises(UserError, match=message) as error:
        open_own(raw)
    assert "\n" not in str(error.value)


def test_length_may_differ_by_a_step(raw, open_own):
    (raw / "groundTruth" / "b.txt").write_text("mix\n" * 6)
    assert read(open_own(raw), "train_split1")["b"]["duration_seconds"] == pytest.approx(1.2)


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not there")
def test_50_salads(open_own):
    builder = open_own(REAL, "50salads")
    counts = prepared.read_metadata(builder)["counts"]
    assert sum(counts[f"test_split{k}"]["actions"] for k in range(1, 6)) == 898
    assert prepared.num_features(builder) == 128
    assert len(prepared.class_names(builder)) == 17
    record = read(builder, "test_split1")["22-1"]
    labels = frame_labels.read_labels(
        REAL / "groundTruth" / "22-1.txt", frame_labels.read_mapping(REAL / "mapping.txt")
    )
    scores = np.ones(len(record["labels"]))
    again = segmentation.label_steps(
        record["segments"], record["labels"], scores, num_steps=len(labels), rate=3.0, background=17
    )
    np.testing.assert_array_equal(again, labels)
    np.testing.assert_array_equal(record["features"].T, np.load(REAL / "features_split1" / "22-1.npy"))

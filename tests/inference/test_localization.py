"""Sequences in chunks, in files and through an exported model give what the whole sequence gives."""

import tracemalloc

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.data import schema
from a2net_tf.detection.localizer import Localizer
from a2net_tf.errors import UserError
from a2net_tf.evaluation.instances import Detections
from a2net_tf.export.saved_model import Exported
from a2net_tf.inference import localization
from a2net_tf.training.run_directory import Run

CLASSES = ["jump", "run", "swim"]
FEATURES = 5
WINDOW = 32


@pytest.fixture(scope="module")
def localizer(make_config, make_network):
    config = make_config(window_steps=WINDOW, window_batch=3)
    return Localizer(make_network(config, FEATURES, len(CLASSES)), config, CLASSES, first_step_seconds=0.25)


def record(name, num_steps, *, seed=0):
    features = np.random.default_rng(seed).normal(size=(num_steps, FEATURES)).astype(np.float32)
    return schema.make_record(
        name, features, [[0.25, 0.75]], [1], num_classes=3, feature_stride_seconds=0.5, first_step_seconds=0.25
    )


def chunks(whole, max_steps=3 * WINDOW, overlap_steps=WINDOW):
    return [chunk for _, chunk in schema.split_into_chunks(whole, max_steps, overlap_steps)]


def assert_same(found, expected, branch="both"):
    """Same videos with the same detections, in the same order."""
    found, expected = list(found), list(expected)
    assert [f.video for f in found] == [e.video for e in expected]
    for f, e in zip(found, expected, strict=True):
        assert f.duration_seconds == e.duration_seconds
        assert len(f.detections[branch]) == len(e.detections[branch]) > 0
        np.testing.assert_array_equal(f.detections[branch].videos, e.detections[branch].videos)
        np.testing.assert_array_equal(f.detections[branch].labels, e.detections[branch].labels)
        np.testing.assert_allclose(f.detections[branch].segments, e.detections[branch].segments, atol=1e-4)
        np.testing.assert_allclose(f.detections[branch].scores, e.detections[branch].scores, atol=1e-5)


# --- the number of detections


def test_clear_detections_that_are_cut_off_are_said(capsys):
    def found(name, scores, most):
        scores = np.float64(scores)
        table = Detections(np.full(len(scores), name), np.zeros((len(scores), 2)), np.zeros(len(scores), int), scores)
        return localization.SequenceDetections(name, 1.0, most, {"both": table}, {})

    sequences = [found("a", [0.9, 0.8, 0.7], 3), found("b", [0.9, 0.8, 0.01], 3), found("c", [0.9], 3)]
    assert localization.collect(iter(sequences)) == sequences
    (line,) = capsys.readouterr().out.splitlines()
    assert "warning: clear detections are cut off in 1 of 3 sequences" in line
    assert "a: 3, down to 0.70" in line
    assert "--max_detections=6 keeps more" in line
    localization.collect([*sequences[1:], found("d", [], 3)])
    assert capsys.readouterr().out == ""


# --- records


@pytest.mark.parametrize("num_steps", [3 * WINDOW + 1, 5 * WINDOW, 301])
def test_chunks_give_what_the_whole_gives(localizer, num_steps):
    whole = record("long", num_steps)
    assert len(chunks(whole)) > 1
    assert_same(localization.localize(localizer, chunks(whole)), localization.localize(localizer, [whole]))


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_chunks_in_longer_windows(make_config, make_network, overlap):
    config = make_config(inference_window_steps=4 * WINDOW, inference_overlap=overlap)
    localizer = Localizer(make_network(config, FEATURES, len(CLASSES)), config, CLASSES, first_step_seconds=0.25)
    whole = record("long", 901)
    parts = chunks(whole, 8 * WINDOW, 4 * WINDOW)
    assert len(parts) > 4
    assert_same(localization.localize(localizer, parts), localization.localize(localizer, [whole]))


def test_windows_longer_than_what_chunks_share(make_config, make_network):
    config = make_config(inference_window_steps=4 * WINDOW)
    localizer = Localizer(make_network(config, FEATURES, len(CLASSES)), config, CLASSES)
    message = r"windows of 128 steps \(--inference_window_steps, .*sequence long .* comes in chunks.*; at most 64$"
    with pytest.raises(UserError, match=message):
        list(localization.localize(localizer, chunks(record("long", 901), 8 * WINDOW, 2 * WINDOW)))


def test_chunks_of_several_sequences_in_any_order(localizer):
    wholes = [record("a", 150, seed=1), record("b", 240, seed=2), record("c", 7, seed=3)]
    shuffled = [chunk for whole in wholes for chunk in chunks(whole)]
    np.random.default_rng(0).shuffle(shuffled)
    found = sorted(localization.localize(localizer, shuffled), key=lambda f: f.video)
    assert_same(found, localization.localize(localizer, wholes))
    assert [f.record["chunk_start_step"] for f in found] == [0, 0, 0]


def test_a_sequence_is_reported_as_soon_as_it_is_complete(localizer):
    def stream():
        yield record("a", 40)
        raise AssertionError("read on before the first sequence was reported")

    assert next(localization.localize(localizer, stream())).video == "a"


def test_missing_chunk_is_an_error(localizer):
    first, *_, last = chunks(record("long", 301))
    with pytest.raises(UserError, match="sequence long: chunks are missing"):
        list(localization.localize(localizer, [first, last]))


@pytest.mark.parametrize("num_steps", [1, 2, WINDOW - 1, WINDOW, WINDOW + 1])
def test_short_sequences_stay_inside_their_time(localizer, num_steps):
    (found,) = localization.localize(localizer, [record("short", num_steps)])
    segments = found.detections["both"].segments
    assert len(segments) > 0
    assert segments.min() >= 0.25
    assert segments.max() <= 0.25 + 0.5 * num_steps + 1e-6
    assert (segments[:, 0] < segments[:, 1]).all()


def test_branches(localizer):
    (found,) = localization.localize(localizer, [record("a", 100)], localizer.reported())
    assert list(found.detections) == ["anchor_free", "anchor_based", "both"]
    assert_same(localization.localize(localizer, [record("a", 100)]), [found])
    alone = [found.detections[b].scores.max() for b in ("anchor_free", "anchor_based")]
    assert found.detections["both"].scores.max() == pytest.approx(max(alone))


def test_prepared_dataset_ids_become_text(localizer):
    whole = {**record("x", 40), "id": b"x \xc3\xa4"}  # as TFDS gives it
    (found,) = localization.localize(localizer, [whole])
    assert found.video == "x ä"
    assert set(found.detections["both"].videos) == {"x ä"}


# --- files


def read(path, **kwargs):
    return localization.read_feature_files(
        str(path), **{"num_features": FEATURES, "seconds_per_step": 0.5, "first_step_seconds": 0.25, **kwargs}
    )


def test_folder_of_files_gives_what_the_records_give(localizer, tmp_path):
    wholes = [record("a", 40, seed=1), record("b", 100, seed=2)]
    for whole in reversed(wholes):
        np.save(tmp_path / f"{whole['id']}.npy", whole["features"])
    (tmp_path / "notes.txt").write_text("not features")
    sources = read(tmp_path)
    found = [f for source in sources for f in localization.localize(localizer, source)]
    assert_same(found, localization.localize(localizer, wholes))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int16, ">f4"])
def test_file_of_another_number_type(localizer, tmp_path, dtype):
    whole = record("a", 40)
    whole["features"] = np.rint(4 * whole["features"])  # exact in every type
    np.save(tmp_path / "a.npy", whole["features"].astype(dtype))
    (source,) = read(tmp_path / "a.npy")
    assert_same(localization.localize(localizer, source), localization.localize(localizer, [whole]))


def test_file_in_fortran_order(localizer, tmp_path):
    whole = record("a", 40)
    np.save(tmp_path / "a.npy", np.asfortranarray(whole["features"]))
    (source,) = read(tmp_path / "a.npy")
    assert_same(localization.localize(localizer, source), localization.localize(localizer, [whole]))


def test_time_base_of_files(localizer, tmp_path):
    np.save(tmp_path / "a.npy", record("a", 40)["features"])
    (half,), (double,) = (
        localization.localize(localizer, read(tmp_path / "a.npy", seconds_per_step=s, first_step_seconds=0.0)[0])
        for s in (0.5, 2.0)
    )
    assert (half.duration_seconds, double.duration_seconds) == (20.0, 80.0)
    np.testing.assert_allclose(
        double.detections["both"].segments, 4 * half.detections["both"].segments, rtol=1e-5, atol=1e-5
    )


def test_files_need_not_fit_in_memory(tmp_path):
    """0.4 GB on disk: no more than some chunks of 6.6 MB are in memory at a time."""
    features = np.lib.format.open_memmap(tmp_path / "long.npy", "w+", np.float32, (1_000_000, 100))
    features[-1] = 1.0
    del features
    tracemalloc.start()
    (source,) = read(tmp_path / "long.npy", num_features=100)
    after_header = tracemalloc.get_traced_memory()[1]
    starts = [(chunk["chunk_start_step"], len(chunk["features"])) for chunk, _ in zip(source, range(5), strict=False)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    owned = schema.MAX_CHUNK_STEPS - schema.CHUNK_OVERLAP_STEPS
    assert starts == [(i * owned, schema.MAX_CHUNK_STEPS) for i in range(5)]
    assert after_header < 1e6
    assert peak < 3e7


def test_values_are_checked_in_every_chunk(tmp_path):
    features = np.zeros((schema.MAX_CHUNK_STEPS + 500, FEATURES), np.float32)
    features[-1, 2] = np.nan
    np.save(tmp_path / "late.npy", features)
    (source,) = read(tmp_path / "late.npy")
    next(source)
    with pytest.raises(UserError, match="late.npy: 1 steps hold NaN"):
        next(source)


def test_place_of_a_bad_value_counts_from_the_start_of_the_file(tmp_path):
    features = np.zeros((schema.MAX_CHUNK_STEPS + 500, FEATURES), np.float32)
    features[-1, 2] = np.nan
    np.save(tmp_path / "late.npy", features)
    with pytest.raises(UserError, match=f"the first is step {len(features) - 1}"):
        list(read(tmp_path / "late.npy")[0])


# --- whole sequences from chunks


def test_stitched_is_the_whole():
    wholes = [record("a", 150, seed=1), record("b", 301, seed=2)]
    shuffled = [chunk for whole in wholes for chunk in chunks(whole)]
    np.random.default_rng(1).shuffle(shuffled)
    for found, whole in zip(sorted(localization.stitched(shuffled), key=lambda r: r["id"]), wholes, strict=True):
        np.testing.assert_array_equal(found["features"], whole["features"])
        assert found["num_steps"] == len(whole["features"])
        np.testing.assert_array_equal(found["segments"], whole["segments"])


def test_stitched_keeps_no_sequence_back():
    """A sequence with a missing chunk must not disappear in silence."""
    first, *_, last = chunks(record("long", 301))
    with pytest.raises(UserError, match="sequence long: chunks are missing"):
        list(localization.stitched([first, last, record("b", 40)]))


# --- an exported model


@pytest.fixture(scope="module")
def exported(slow, localizer, tmp_path_factory):
    return save_and_load(localizer, tmp_path_factory.mktemp("exported"))


def save_and_load(localizer, path):
    """The localizer as a SavedModel, loaded again."""
    run = Run(
        config=localizer.config,
        class_names=CLASSES,
        num_features=FEATURES,
        statistics=None,
        num_windows=1,
        seconds_per_step=0.5,
        first_step_seconds=0.25,
    )
    module = Exported(localizer, run)
    tf.saved_model.save(module, str(path), signatures=module.signatures)
    return tf.saved_model.load(str(path))


@pytest.mark.slow
def test_an_exported_model_keeps_as_many(make_config, make_network, tmp_path):
    config = make_config(window_steps=WINDOW, max_detections=0, nms_tiou=0.99)
    localizer = Localizer(make_network(config, FEATURES, len(CLASSES)), config, CLASSES, first_step_seconds=0.25)
    whole = record("long", 10 * WINDOW)
    (here,) = localization.localize(localizer, chunks(whole))
    (there,) = localization.localize_exported(save_and_load(localizer, tmp_path), chunks(whole))
    assert len(here.merged) == here.most == there.most == len(there.merged) == 1000
    assert_same([there], [here])


def test_exported_equals_localizer(localizer, exported):
    wholes = [record("a", 1, seed=1), record("b", WINDOW, seed=2), record("c", 301, seed=3)]
    assert_same(localization.localize_exported(exported, wholes), localization.localize(localizer, wholes))


def test_exported_on_chunks(localizer, exported):
    whole = record("long", 301)
    assert_same(localization.localize_exported(exported, chunks(whole)), localization.localize(localizer, [whole]))


def test_exported_on_files(localizer, exported, tmp_path):
    whole = record("a", 100)
    np.save(tmp_path / "a.npy", whole["features"])
    (source,) = read(tmp_path / "a.npy")
    assert_same(localization.localize_exported(exported, source), localization.localize(localizer, [whole]))

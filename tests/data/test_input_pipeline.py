import itertools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.data import input_pipeline, prepared, schema
from a2net_tf.data.augment import Augmentation, SignalLayout
from a2net_tf.errors import UserError


@pytest.fixture
def config(make_config):
    """Windows of 8 steps, every 4."""
    return make_config(window_steps=8, num_levels=2, train_stride_steps=4, max_actions=4)


def change(config, **changes):
    return type(config)(**{**vars(config), **changes})


def step_numbers(num_steps, sequence=0):
    """f32[T, 2]: each vector tells its own step and its sequence."""
    return np.stack([np.arange(num_steps), np.full(num_steps, sequence)], axis=1).astype(np.float32)


def record_of(segments, labels=None, *, num_steps=20, name="v", features=None, seconds_per_step=1.0, **kwargs):
    """A record whose actions are given in steps."""
    first = kwargs.get("first_step_seconds", 0.0)
    features = step_numbers(num_steps) if features is None else features
    seconds = first + np.asarray(segments, np.float64).reshape(-1, 2) * seconds_per_step
    labels = [0] * len(seconds) if labels is None else labels
    settings = {"num_classes": 5, "feature_stride_seconds": seconds_per_step, "duration_seconds": 1e6, **kwargs}
    return schema.make_record(name, features, seconds, labels, **settings)


def specification(record):
    """What TFDS reads a prepared record as."""
    features = record["features"]
    return schema.record_features(features.shape[1], list("abcde"), features.dtype.name).get_tensor_spec()


def dataset(records):
    """The tf.data.Dataset that a prepared TFDS directory with these records would give."""
    return tf.data.Dataset.from_generator(lambda: iter(records), output_signature=specification(records[0]))


def cut(record, config, seed=None):
    tensors = {name: tf.constant(record[name], spec.dtype) for name, spec in specification(record).items()}
    return together(input_pipeline.training_windows(tensors, config, seed))


def together(found):
    """All windows of a dataset in one array by name."""
    rows = list(found.as_numpy_iterator())
    return {
        name: np.stack([row[name] for row in rows]) if rows else np.zeros((0, *spec.shape))
        for name, spec in found.element_spec.items()
    }


def starts_of(found):
    return found["features"][:, 0, 0].astype(int).tolist()


def chunks_of(record, max_steps, overlap_steps):
    return [c for _, c in schema.split_into_chunks(record, max_steps=max_steps, overlap_steps=overlap_steps)]


EVERYWHERE = [[i, i + 1] for i in range(1, 120, 3)]


# --- windows of one record


@pytest.mark.parametrize(
    ("num_steps", "expected"), [(20, [0, 4, 8, 12]), (21, [0, 4, 8, 12, 13]), (8, [0]), (9, [0, 1]), (5, [0])]
)
def test_starts(num_steps, expected, config):
    found = cut(record_of(EVERYWHERE[: num_steps // 3], num_steps=num_steps), config)
    assert starts_of(found) == expected
    for window, start in zip(found["features"], expected, strict=True):
        np.testing.assert_array_equal(window[:, 0], np.minimum(np.arange(start, start + 8), num_steps - 1))


def test_actions_by_hand(config):
    found = cut(record_of([[9, 13], [0, 2], [6, 8]], labels=[4, 0, 2]), config)
    # [9, 13) is not whole in the window at 4; no other window loses all of its actions.
    assert starts_of(found) == [0, 4, 8]
    np.testing.assert_array_equal(found["labels"], [[1, 3, 0, 0], [3, 0, 0, 0], [5, 0, 0, 0]])
    expected = [[[0, 2 / 8], [6 / 8, 1]], [[2 / 8, 4 / 8], [0, 0]], [[1 / 8, 5 / 8], [0, 0]]]
    np.testing.assert_allclose(found["segments"][:, :2], expected)
    assert not found["segments"][:, 2:].any()


@pytest.mark.parametrize("seconds_per_step", [1.0, 0.1, 4 / 30, 1 / 3])
@pytest.mark.parametrize("first_step_seconds", [0.0, 0.7])
def test_ninety_percent_of_an_action_is_enough(seconds_per_step, first_step_seconds, make_config):
    config = make_config(window_steps=16, num_levels=2, train_stride_steps=16)
    time_base = {"seconds_per_step": seconds_per_step, "first_step_seconds": first_step_seconds}
    # The second window begins at step 16: nine tenths of [7, 17) lie before it.
    found = cut(record_of([[7, 17]], num_steps=32, **time_base), config)
    assert starts_of(found) == [0]
    np.testing.assert_allclose(found["segments"][0, 0], [7 / 16, 1], atol=1e-5)
    found = cut(record_of([[15, 25]], num_steps=32, **time_base), config)
    assert starts_of(found) == [16]
    np.testing.assert_allclose(found["segments"][0, 0], [0, 9 / 16], atol=1e-5)
    assert starts_of(cut(record_of([[7.1, 17.1]], num_steps=32, **time_base), config)) == []


def test_time_base(config):
    # Step 0 begins at 2 s and a step takes half a second: the action of 3 to 4 s is [2, 4) in steps.
    record = record_of([], num_steps=8)
    record.update(
        segments=np.float32([[3, 4]]), labels=np.int64([1]), feature_stride_seconds=0.5, first_step_seconds=2.0
    )
    np.testing.assert_allclose(cut(record, config)["segments"][0, 0], [2 / 8, 4 / 8])


def test_actions_before_the_first_step_or_after_the_last(config):
    record = record_of([], num_steps=8)
    record.update(
        segments=np.float32([[0, 2.5], [1.5, 6], [13, 20]]), labels=np.int64([0, 1, 2]), first_step_seconds=2.0
    )
    found = cut(record, change(config, min_action_inside=0.5))
    np.testing.assert_array_equal(found["labels"], [[2, 0, 0, 0]])
    np.testing.assert_allclose(found["segments"][0, 0], [0, 4 / 8])


def test_a_record_without_actions_gives_no_window(config):
    found = cut(record_of([]), config)
    assert {name: value.shape for name, value in found.items()} == {
        "features": (0, 8, 2),
        "segments": (0, 4, 2),
        "labels": (0, 4),
    }


def test_windows_without_action_are_dropped(config):
    assert starts_of(cut(record_of([[17, 19]]), config)) == [12]


@pytest.mark.parametrize("stored", schema.STORED_FEATURES)
def test_windows_keep_the_stored_type_and_batches_are_float32(stored, config):
    features = step_numbers(20).astype(schema.numpy_type(stored))
    record = record_of([[1, 2]], features=features)
    assert cut(record, config)["features"].dtype == features.dtype
    (batch,) = batches_of(change(config, batch_size=1), steps_per_epoch=1, records=[record])[:1]
    assert batch["features"].dtype == np.float32
    np.testing.assert_array_equal(batch["features"][0, :, 0], np.arange(8))


def cut_in_dataset(record, config):
    return together(dataset([record]).flat_map(lambda r: input_pipeline.training_windows(r, config)))


@pytest.mark.parametrize("cut_somewhere", [cut, cut_in_dataset])
def test_too_many_actions_are_an_error_that_names_the_sequence(cut_somewhere, config):
    record = record_of([[i, i + 1] for i in range(5)], name="video_7")
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?s)video_7.*raise --max_actions"):
        cut_somewhere(record, config)
    assert (cut(record, change(config, max_actions=5))["labels"][0] == 1).all()


@pytest.mark.parametrize("stride_steps", [3, 4, 20])
@pytest.mark.parametrize("num_steps", [24, 25, 60, 101])
def test_chunks_give_exactly_the_windows_of_the_whole(num_steps, stride_steps, config):
    config = change(config, train_stride_steps=stride_steps)
    record = record_of(EVERYWHERE[: num_steps // 3], num_steps=num_steps, seconds_per_step=0.5, first_step_seconds=1.0)
    whole = cut(record, config)
    parts = [cut(chunk, config) for chunk in chunks_of(record, 24, 8)]
    assert len(parts) == {24: 1, 25: 2, 60: 4, 101: 6}[num_steps]
    for name, value in whole.items():
        np.testing.assert_allclose(np.concatenate([part[name] for part in parts]), value, atol=1e-5)


@pytest.mark.parametrize("seed", [None, (1, 2)])
def test_eager_equals_tf_data(seed, config):
    config = change(config, random_offsets=True)
    records = [record_of(EVERYWHERE[:6], num_steps=21), record_of([[2, 3]], num_steps=3), record_of([])]
    for record in records:
        in_graph = together(dataset([record]).flat_map(lambda r: input_pipeline.training_windows(r, config, seed)))
        eager = cut(record, config, seed)
        for name, value in eager.items():
            np.testing.assert_allclose(in_graph[name], value, rtol=1e-6)


@pytest.mark.slow
def test_random_offsets_stay_inside(config):
    config = change(config, random_offsets=True)
    record = record_of(EVERYWHERE[:7], num_steps=22)
    seen = set()
    for seed in range(40):
        found = cut(record, config, seed=(0, seed))
        starts = starts_of(found)
        for window, start, grid in zip(found["features"], starts, [0, 4, 8, 12, 14], strict=True):
            assert grid <= start <= min(grid + 3, 22 - 8)
            np.testing.assert_array_equal(window[:, 0], np.arange(start, start + 8))
        seen |= set(starts)
    assert seen == set(range(15))  # every place of the sequence gets its turn


@pytest.mark.parametrize("num_steps", [1, 7, 8])
def test_short_sequences_are_not_shifted(num_steps, config):
    config = change(config, random_offsets=True)
    for seed in range(10):
        assert starts_of(cut(record_of([[0, 1]], num_steps=num_steps), config, seed=(0, seed))) == [0]


def test_segments_move_with_the_offset(config):
    config = change(config, random_offsets=True)
    record = record_of([[9, 11]])
    for seed in range(10):
        found = cut(record, config, seed=(0, seed))
        for start, segment in zip(starts_of(found), found["segments"][:, 0], strict=True):
            np.testing.assert_allclose(start + 8 * segment, [9, 11], atol=1e-5)


# --- batches


def test_step_labels_are_of_all_actions(config):
    # The first window has only half of the second action, which is no target of the branches there.
    record = record_of([[1, 3], [5, 11], [18, 30]], [0, 3, 2], num_steps=20)
    found = cut(record, change(config, step_classifier=True))
    assert starts_of(found) == [0, 4, 8, 12][: len(starts_of(found))]
    np.testing.assert_array_equal(found["step_labels"][0], [0, 1, 1, 0, 0, 4, 4, 4])
    np.testing.assert_array_equal(found["step_labels"][1], [0, 4, 4, 4, 4, 4, 4, 0])
    assert "step_labels" not in cut(record, config)


def test_steps_beyond_the_end_have_no_label(config):
    found = cut(record_of([[1, 3]], [4], num_steps=5), change(config, step_classifier=True))
    np.testing.assert_array_equal(found["step_labels"], [[0, 5, 5, 0, 0, -1, -1, -1]])


@pytest.mark.parametrize("seconds_per_step", [0.2, 1.0])
def test_step_labels_lie_under_stretched_windows(seconds_per_step, config):
    config = change(config, step_classifier=True, random_offsets=True, time_scaling=0.5)
    record = record_of([[2, 9], [7, 15.5], [16, 60]], [0, 1, 2], num_steps=30, seconds_per_step=seconds_per_step)
    augmentation = input_pipeline._augmentation(config, SignalLayout(1, 1, 2), None)
    tensors = {name: tf.constant(record[name], spec.dtype) for name, spec in specification(record).items()}
    windows = together(input_pipeline.training_windows(tensors, config, tf.constant([1, 2]), augmentation=augmentation))
    assert len(windows["starts"]) > 1
    for start, scale, labels in zip(windows["starts"], windows["scales"], windows["step_labels"], strict=True):
        middles = start + (np.arange(8) + 0.5) * scale
        # Background to 2, then the three actions; where the first two overlap, the first is the shorter one.
        expected = np.select(
            [middles >= 30, middles >= 16, middles >= 15.5, middles >= 9, middles >= 2], [-1, 3, 0, 2, 1]
        )
        np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("num_steps", [30, 41])
def test_chunks_have_the_step_labels_of_the_whole(num_steps, config):
    config = change(config, step_classifier=True)
    record = record_of([[3, 8], [9, 17], [20, 28]], [0, 1, 2], num_steps=num_steps)
    whole = cut(record, config)["step_labels"]
    parts = [cut(chunk, config)["step_labels"] for chunk in chunks_of(record, 16, 8)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def toy_records(count=6):
    """Sequences of different lengths; the third feature is 1 inside actions."""
    records = []
    for i in range(count):
        num_steps = 17 + 5 * i
        features = np.concatenate([step_numbers(num_steps, i), np.zeros((num_steps, 1), np.float32)], axis=1)
        segments = [[s, s + 2] for s in range(1, num_steps - 2, 5)]
        for start, end in segments:
            features[start:end, 2] = 1
        records.append(record_of(segments, labels=[i % 5] * len(segments), name=f"v{i}", features=features))
    return records


def batches_of(config, *, first_epoch=0, steps_per_epoch=5, records=None):
    records = dataset(toy_records() if records is None else records)
    found = input_pipeline.training_batches(records, config, first_epoch=first_epoch, steps_per_epoch=steps_per_epoch)
    return list(found.as_numpy_iterator())


def same_batches(first, second):
    return len(first) == len(second) and all(
        np.array_equal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in a
    )


def places(batches):
    """(sequence, first step) of every window."""
    return [(int(w[0, 1]), int(w[0, 0])) for batch in batches for w in batch["features"]]


@pytest.mark.parametrize("random_offsets", [False, True])
def test_equal_seeds_give_equal_batches(random_offsets, config):
    config = change(config, random_offsets=random_offsets)
    first = batches_of(config)
    assert same_batches(first, batches_of(config))
    assert not same_batches(first, batches_of(change(config, seed=1)))


@pytest.mark.slow
@pytest.mark.parametrize("random_offsets", [False, True])
@pytest.mark.parametrize("first_epoch", [1, 2])
def test_a_resumed_run_sees_the_same_epochs(random_offsets, first_epoch, config):
    config = change(config, random_offsets=random_offsets)
    assert same_batches(batches_of(config)[5 * first_epoch :], batches_of(config, first_epoch=first_epoch))


def test_epochs_differ(config):
    epochs = [places(batches_of(config)[5 * e : 5 * e + 5]) for e in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


@pytest.mark.parametrize(
    ("steps_per_epoch", "first_epoch", "expected"), [(1, 0, 3), (7, 1, 14), (40, 2, 40), (3, 3, 0)]
)
def test_steps_per_epoch_are_exact(steps_per_epoch, first_epoch, expected, config):
    found = batches_of(config, first_epoch=first_epoch, steps_per_epoch=steps_per_epoch)
    assert len(found) == expected
    for batch in found:
        assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
            "features": ((4, 8, 3), np.float32),
            "segments": ((4, 4, 2), np.float32),
            "labels": ((4, 4), np.int32),
        }


def test_an_epoch_of_the_fixed_grid_holds_every_window_once(config):
    expected = sorted((i, s) for i, record in enumerate(toy_records()) for s in starts_of(cut(record, config)))
    config = change(config, batch_size=len(expected), epochs=2)
    for epoch in batches_of(config, steps_per_epoch=1):
        found = places([epoch])
        assert sorted(found) == expected
        assert found != expected  # shuffled


def test_windows_of_one_sequence_are_shuffled_too(config):
    config = change(config, batch_size=10, epochs=1)
    record = record_of(EVERYWHERE[:13], num_steps=44)
    (batch,) = batches_of(config, steps_per_epoch=1, records=[record])
    starts = batch["features"][:, 0, 0].tolist()
    assert sorted(starts) == list(range(0, 40, 4))
    assert starts != sorted(starts)


def test_batches_mix_sequences(config):
    assert all(len({sequence for sequence, _ in places([batch])}) > 1 for batch in batches_of(config))


def test_a_batch_may_be_larger_than_the_data(config):
    (batch,) = batches_of(change(config, batch_size=50, epochs=1), steps_per_epoch=1, records=toy_records(1))
    assert batch["labels"].shape == (50, 4)


def test_offsets_change_between_epochs_and_keep_actions_in_place(config):
    config = change(config, random_offsets=True, batch_size=20)
    epochs = batches_of(config, steps_per_epoch=1)
    starts = [{place for place in places([epoch]) if place[0] == 5} for epoch in epochs]
    assert starts[0] != starts[1] != starts[2]
    assert len(set().union(*starts)) > len(starts[0])
    for epoch in epochs:
        for window, segments, labels in zip(*(epoch[n] for n in ("features", "segments", "labels")), strict=True):
            np.testing.assert_array_equal(np.diff(window[:, 0]), 1)
            assert window[-1, 0] < 17 + 5 * window[0, 1]
            marked = np.zeros(8)
            for start, end in np.round(segments[labels > 0] * 8).astype(int):
                marked[start:end] = 1
            # Beyond the marks there may be half an action that does not count.
            assert (window[:, 2] >= marked).all()
            assert set(labels[labels > 0]) == {int(window[0, 1]) % 5 + 1}


# --- augmentation

SIGNAL = SignalLayout(1, 1, 2, ())
LIKE_A_PHONE = SignalLayout(3, 2, 4, ((1, 2, 3),))


def phone_record(num_steps, name="v"):
    """Channel 0 is the number of the sample, channels 1 to 3 are the axes of a sensor."""
    samples = np.random.default_rng(num_steps).normal(size=(LIKE_A_PHONE.num_samples(num_steps), 4))
    samples[:, 0] = np.arange(len(samples))
    features = np.stack([samples[2 * t : 2 * t + 3].ravel() for t in range(num_steps)]).astype(np.float32)
    return record_of([[s, s + 2] for s in range(0, num_steps - 2, 3)], features=features, name=name)


def stretched(record, config, num_seeds):
    """By seed, windows of features that are no signal, with their scales: vectors tell their step."""
    config = change(config, time_scaling=0.5)
    augmentation = Augmentation(config.window_steps, SIGNAL, time_scaling=0.5)
    tensors = {name: tf.constant(record[name], spec.dtype) for name, spec in specification(record).items()}

    def of_seed(seed):
        chosen = input_pipeline.choose_windows(tensors, config, seed)
        return augmented_batch(tensors, config, seed, augmentation).map(lambda batch: (chosen, batch))

    seeds = tf.data.Dataset.from_tensor_slices([(0, seed) for seed in range(num_seeds)])
    return list(seeds.flat_map(of_seed).as_numpy_iterator())  # one graph for all of them


def augmented(tensors, config, seed, augmentation):
    """All windows of a record, augmented as one batch."""
    return together(augmented_batch(tensors, config, seed, augmentation).unbatch())


def augmented_batch(tensors, config, seed, augmentation):
    windows = input_pipeline.training_windows(tensors, config, seed, augmentation=augmentation).batch(1000)
    return windows.map(lambda batch: input_pipeline.augment_batch(batch, augmentation))


@pytest.mark.parametrize("random_offsets", [False, True])
def test_segments_of_stretched_windows(random_offsets, config):
    config = change(config, random_offsets=random_offsets)
    count = 0
    for chosen, found in stretched(record_of([[20, 22]], num_steps=40), config, num_seeds=10):
        count += len(chosen["starts"])
        for start, scale, segment in zip(chosen["starts"], chosen["scales"], chosen["segments"][:, 0], strict=True):
            assert 0.5 <= scale < 1.5
            np.testing.assert_allclose(
                start + 8 * scale * segment, np.clip([20, 22], start, start + 8 * scale), atol=1e-5
            )
        np.testing.assert_array_equal(found["segments"], chosen["segments"])
    assert count >= 10


def test_stretched_windows_hold_what_lies_under_them(config):
    """Vector i stands for [start + i * scale, start + (i + 1) * scale), whose middle it tells."""
    by_seed = stretched(record_of(EVERYWHERE[:13], num_steps=40), config, num_seeds=10)
    assert len(by_seed) == 10
    for chosen, found in by_seed:
        for start, scale, window in zip(chosen["starts"], chosen["scales"], found["features"][..., 0], strict=True):
            middles = start + scale * (np.arange(8) + 0.5)
            np.testing.assert_allclose(window, np.clip(middles - 0.5, 0, 39), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [5, 8, 11, 40])
def test_stretched_windows_end_inside_if_they_can(num_steps, config):
    config = change(config, random_offsets=True)
    record = record_of(EVERYWHERE[: num_steps // 3], num_steps=num_steps)
    by_seed = stretched(record, config, num_seeds=20)
    assert len(by_seed) == 20
    for chosen, found in by_seed:
        ends = chosen["starts"] + 8 * chosen["scales"]
        assert ((ends <= num_steps) | (chosen["starts"] == 0)).all()
        assert (chosen["starts"] >= 0).all()
        assert found["features"].shape[1:] == (8, 2)


def test_a_fast_and_a_slow_window_by_hand(config, monkeypatch):
    """The windows at 0 and 4 hold 12 and 4 steps of the record: the action [5, 7) is in both."""
    monkeypatch.setattr(input_pipeline.augment, "random_scales", lambda *_: tf.constant([1.5, 0.5]))
    [(chosen, found)] = stretched(record_of([[5, 7]], num_steps=12), config, num_seeds=1)
    np.testing.assert_array_equal(chosen["starts"], [0, 4])
    np.testing.assert_allclose(found["segments"][:, 0], [[5 / 12, 7 / 12], [1 / 4, 3 / 4]])
    np.testing.assert_allclose(found["features"][0, :, 0], 0.25 + 1.5 * np.arange(8))
    np.testing.assert_allclose(found["features"][1, :, 0], 3.75 + 0.5 * np.arange(8))


EVERYTHING = {
    "time_scaling": 0.25,
    "axis_rotation": 20.0,
    "signal_noise": 0.1,
    "feature_noise": 0.1,
    "feature_dropout": 0.1,
    "random_offsets": True,
}
STATISTICS = np.full(12, 5, np.float32), np.full(12, 4, np.float32)


def phone_batches(config, *, first_epoch=0, statistics=STATISTICS, layout=LIKE_A_PHONE):
    records = dataset([phone_record(n, f"v{n}") for n in (14, 30, 41)])
    found = input_pipeline.training_batches(
        records, config, first_epoch=first_epoch, steps_per_epoch=4, layout=layout, statistics=statistics
    )
    return list(found.as_numpy_iterator())


@pytest.mark.slow
@pytest.mark.parametrize("random_offsets", [False, True])
def test_without_augmentation_layout_and_statistics_change_nothing(random_offsets, config):
    config = change(config, random_offsets=random_offsets)
    plain = phone_batches(config, layout=None, statistics=None)
    assert same_batches(phone_batches(config), plain)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [EVERYTHING, *({name: value} for name, value in EVERYTHING.items())])
def test_augmented_batches_depend_on_seed_and_epoch_alone(settings, config):
    config = change(config, **settings)
    found = phone_batches(config)
    assert same_batches(found, phone_batches(config))
    assert same_batches(found[4:], phone_batches(config, first_epoch=1))
    assert not same_batches(found, phone_batches(change(config, seed=1)))
    assert {name: (value.shape, value.dtype) for name, value in found[0].items()} == {
        "features": ((4, 8, 12), np.float32),
        "segments": ((4, 4, 2), np.float32),
        "labels": ((4, 4), np.int32),
    }


@pytest.mark.slow
def test_no_two_augmented_windows_are_equal(config):
    """Neither those of an epoch, nor the same one in two epochs."""
    config = change(config, signal_noise=0.1, batch_size=8)
    windows = [window.tobytes() for batch in phone_batches(config)[:3] for window in batch["features"]]
    count = sum(len(cut(phone_record(n), config)["features"]) for n in (14, 30, 41))
    assert count >= 20
    assert len(set(windows[:count])) == count
    first, second = (phone_batches(config)[4 * epoch : 4 * epoch + 2] for epoch in (0, 1))
    assert not {w.tobytes() for b in first for w in b["features"]} & {
        w.tobytes() for b in second for w in b["features"]
    }


@pytest.mark.parametrize(("statistics", "mean"), [(STATISTICS, 5), (None, 0)])
def test_dropped_columns_become_the_mean_of_training(statistics, mean, config):
    for batch in phone_batches(change(config, feature_dropout=0.5), statistics=statistics):
        constant = (batch["features"] == batch["features"][:, :1]).all(axis=1)
        assert 0.2 < constant.mean() < 0.8
        assert (batch["features"].transpose(0, 2, 1)[constant] == mean).all()


@pytest.mark.slow
@pytest.mark.parametrize(("statistics", "deviation"), [(STATISTICS, 2), (None, 1)])
def test_feature_noise_is_measured_in_the_deviation_of_training(statistics, deviation, config):
    config = change(config, feature_noise=0.1)
    plain = phone_batches(change(config, feature_noise=0.0), statistics=statistics)
    noisy = phone_batches(config, statistics=statistics)
    found = [a["features"] - b["features"] for a, b in zip(noisy, plain, strict=True)]
    np.testing.assert_allclose(np.std(found), 0.1 * deviation, rtol=0.05)


def test_chunks_give_the_augmented_windows_of_the_whole(config):
    """Up to chance, which differs from chunk to chunk: here every scale is the same, and no sample lies beyond."""
    config = change(config, time_scaling=0.25)
    record = phone_record(60)
    augmentation = Augmentation(8, LIKE_A_PHONE, time_scaling=0.25)

    def cut_all(record):
        tensors = {name: tf.constant(record[name], spec.dtype) for name, spec in specification(record).items()}
        return augmented(tensors, config, (0, 0), augmentation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_pipeline.augment, "random_scales", lambda count, *_: tf.fill([count], 0.75))
        whole, parts = cut_all(record), [cut_all(chunk) for chunk in chunks_of(record, 24, 10)]
    for name, value in whole.items():
        np.testing.assert_allclose(np.concatenate([part[name] for part in parts]), value, atol=1e-5)


def test_statistics_are_of_what_is_stored(config):
    records = dataset([phone_record(30)])
    plain, found = (input_pipeline.scan(records, change(config, **settings)) for settings in ({}, EVERYTHING))
    np.testing.assert_equal(found._asdict(), plain._asdict())


# --- one pass over the data


def random_record(num_steps, name, seed, **kwargs):
    features = np.random.default_rng(seed).normal(3, 2, (num_steps, 4)).astype(np.float32)
    return record_of([[1, 3]], features=features, name=name, **kwargs)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_scan_equals_numpy(dtype, config):
    records = [random_record(n, f"v{n}", n) for n in (5, 40, 77)]
    for record in records:
        record["features"] = record["features"].astype(dtype)
    found = input_pipeline.scan(dataset(records), config)
    together = np.concatenate([record["features"] for record in records]).astype(np.float64)
    np.testing.assert_allclose(found.mean, together.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.variance, together.var(axis=0), rtol=1e-5)
    assert found.mean.dtype == found.variance.dtype == np.float32


def test_scan_counts(config):
    records = [
        record_of([[0, 2], [10, 12], [1, 15]]),  # the last is longer than 8 / 0.9 steps
        record_of([]),
        record_of([[0, 8.8], [0, 9]], num_steps=9),
    ]
    found = input_pipeline.scan(dataset(records), config)
    assert found.num_windows == sum(len(starts_of(cut(record, config))) for record in records)
    assert found.num_actions == 5
    assert found.num_too_long == 2
    assert (found.seconds_per_step, found.first_step_seconds) == (1.0, 0.0)


def test_scan_tells_the_time_base(config):
    record = record_of([[0, 2]], seconds_per_step=0.1, first_step_seconds=0.3)
    found = input_pipeline.scan(dataset([record]), config)
    assert (found.seconds_per_step, found.first_step_seconds) == (0.1, 0.3)


@pytest.mark.parametrize("num_steps", [60, 101])
def test_scan_counts_nothing_of_chunks_twice(num_steps, config):
    features = np.random.default_rng(0).normal(3, 2, (num_steps, 4)).astype(np.float32)
    record = record_of(EVERYWHERE[: num_steps // 3], features=features)
    whole, parts = (input_pipeline.scan(dataset(r), config) for r in ([record], chunks_of(record, 24, 8)))
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(parts.variance, whole.variance, rtol=1e-5)
    assert parts[2:] == whole[2:]


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
def test_a_constant_feature_has_variance_one(value, config):
    record = random_record(40, "v", 0)
    record["features"][:, 2] = value
    found = input_pipeline.scan(dataset([record]), config)
    assert found.variance[2] == 1
    np.testing.assert_allclose(found.mean[2], value, rtol=1e-6)
    assert (found.variance[[0, 1, 3]] != 1).all()


@pytest.mark.parametrize("value", [1e-4, 1e-7])
def test_small_features_keep_their_variance(value, config):
    record = random_record(40, "v", 0)
    record["features"] *= value
    expected = record["features"].astype(np.float64).var(axis=0)
    np.testing.assert_allclose(input_pipeline.scan(dataset([record]), config).variance, expected, rtol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("step", [0, 39])
def test_scan_names_the_sequence_with_bad_features(value, step, config):
    records = [random_record(40, "good", 0), random_record(40, "bad", 1)]
    records[1]["features"][step, 1] = value
    with pytest.raises(UserError, match="sequence bad: features hold NaN"):
        input_pipeline.scan(dataset(records), config)


def test_scan_finds_bad_features_in_any_chunk(config):
    record = random_record(60, "long", 0)
    for step in (17, 59):
        bad = {**record, "features": record["features"].copy()}
        bad["features"][step] = np.nan
        with pytest.raises(UserError, match="sequence long: features hold NaN"):
            input_pipeline.scan(dataset(chunks_of(bad, 24, 8)), config)


@pytest.mark.parametrize("segments", [[], [[0, 20]]])
def test_no_window_with_an_action_is_an_error(segments, config):
    with pytest.raises(UserError, match=f"--window_steps.* {len(segments)} actions"):
        input_pipeline.scan(dataset([record_of(segments)]), config)


def test_windows_longer_than_the_overlap_of_chunks_are_refused(make_config):
    input_pipeline.check_window_fits_chunks(make_config(window_steps=1024))
    with pytest.raises(UserError, match="--window_steps=2048: at most 1024"):
        input_pipeline.check_window_fits_chunks(make_config(window_steps=2048))
    input_pipeline.check_window_fits_chunks(make_config(window_steps=512, time_scaling=0.99))
    with pytest.raises(UserError, match="--window_steps=1024 with --time_scaling=0.25 is up to 1280: at most 1024"):
        input_pipeline.check_window_fits_chunks(make_config(window_steps=1024, time_scaling=0.25))


def test_records_look_like_the_schema(config):
    """The datasets of this file are those of a prepared directory, not of the test's own invention."""
    (found,) = dataset(toy_records(1)).as_numpy_iterator()
    assert set(found) == set(toy_records(1)[0])
    assert list(itertools.chain(found["features"].shape, found["segments"].shape)) == [17, 3, 3, 2]


# --- memory

READ = """
import os, pathlib, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from a2net_tf.data import input_pipeline, prepared
from a2net_tf.settings import Config
config = Config(random_offsets=True, shuffle_buffer=64, epochs=9)
dataset = prepared.read_records(prepared.open_dataset(sys.argv[1]), "train")
steps = -(-input_pipeline.scan(dataset, config).num_windows // 32)
for _ in input_pipeline.training_batches(dataset, config, first_epoch=0, steps_per_epoch=steps).take(steps):
    pass
line = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(line.split()[1]) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="asks Linux for the peak")
def test_memory_does_not_grow_with_the_recording(tmp_path):
    """The features of the longer one are 584 MB more."""
    peaks = []
    for steps in (120_000, 2_400_000):
        source = tmp_path / f"{steps}"
        source.mkdir()
        np.save(source / "video.npy", np.ones((steps, 64), np.float32))
        annotations = [{"segment": [t, t + 10], "label": "action"} for t in range(0, steps - 100, steps // 50)]
        database = {"video": {"subset": "train", "duration": steps, "annotations": annotations}}
        content = {"database": database, "feature_stride_seconds": 1.0}
        (source / "annotations.json").write_text(json.dumps(content))
        builder = prepared.open_dataset("feature_folder", str(tmp_path / f"{steps}_prepared"), str(source))
        command = [sys.executable, "-c", READ, str(builder.data_path)]
        environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(input_pipeline.__file__).parent.parent.parent)}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        peaks.append(float(done.stdout.split()[-1]))
    assert peaks[1] < peaks[0] + 200, peaks  # MB

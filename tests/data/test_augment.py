import itertools

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.data import augment
from a2net_tf.data.augment import Augmentation, SignalLayout
from a2net_tf.errors import UserError

RANDOM = np.random.default_rng(0)
PLAIN = SignalLayout(1, 1, 5)
LAYOUTS = [PLAIN, SignalLayout(4, 4, 2), SignalLayout(5, 2, 3, ((0, 1, 2),)), SignalLayout(6, 1, 1)]
PHONE = SignalLayout(6, 4, 7, ((0, 1, 2), (5, 3, 4)))


def signal_of(layout, num_steps, slope=None):
    """f32[S, channels]: random, or a ramp of this slope per sample."""
    shape = layout.num_samples(num_steps), layout.channels
    if slope is None:
        return RANDOM.normal(size=shape).astype(np.float32)
    return (slope * np.arange(shape[0])[:, None] + 100 * np.arange(shape[1])).astype(np.float32)


def vectors_of(signal, layout):
    """f32[T, D], written down once more."""
    size, hop = layout.samples_per_step, layout.samples_between_steps
    return np.stack([signal[i : i + size].ravel() for i in range(0, len(signal) - size + 1, hop)])


def eagerly(function, *arguments):
    return function(*map(tf.convert_to_tensor, arguments)).numpy()


def batch_of_one(tensors):
    return {name: tf.convert_to_tensor(value)[None] for name, value in tensors.items()}


def stretch(features, layout, *, start=0, scale=1.0, num_steps=4, run=None):
    """The stretched signal of ``num_steps`` steps."""

    def cut(features, start, scale):
        made_of = Augmentation(num_steps, layout, time_scaling=largest)
        source = batch_of_one(augment.cut_source(features, start, made_of))
        count = layout.num_samples(num_steps)
        return augment.cut_signal(source, start[None], scale[None], layout=layout, num_samples=count)[0]

    largest = max(abs(scale - 1), 1e-3)

    return (run or eagerly)(cut, features, np.int32(start), np.float32(scale))


# --- what a dataset declares

DECLARED = {"samples_per_step": 50, "samples_between_steps": 25, "channels": 3, "axes": [[0, 1, 2]]}


def test_declarations():
    assert augment.read_layout(DECLARED, 150, "x") == SignalLayout(50, 25, 3, ((0, 1, 2),))
    without = {name: value for name, value in DECLARED.items() if name != "axes"}
    assert augment.read_layout(without, 150, "x") == SignalLayout(50, 25, 3)
    two = {**DECLARED, "channels": 6, "axes": [[0, 1, 2], [5, 3, 4]]}
    assert augment.read_layout(two, 300, "x").axes == ((0, 1, 2), (5, 3, 4))


@pytest.mark.parametrize("nothing", [None, {}])
def test_features_that_are_no_signal(nothing):
    assert augment.read_layout(nothing, 7, "x") == SignalLayout(1, 1, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel": 3}, "an unknown key 'channel'; expected something like"),
        ({"samples_per_step": 0}, "'samples_per_step' must be a whole number >= 1, found 0"),
        ({"samples_between_steps": 2.5}, "'samples_between_steps' must be a whole number >= 1, found 2.5"),
        ({"channels": True}, "'channels' must be a whole number >= 1, found True"),
        ({"channels": "3"}, "'channels' must be a whole number >= 1, found '3'"),
        ({"samples_between_steps": 51}, r"\(51\) must be at most 'samples_per_step' \(50\): what lies between"),
        ({"channels": 4}, "50 samples of 4 channels are 200 values per step, but the feature vectors have 150"),
        ({"axes": [[0, 1, 3]]}, r"'axes' must be triples of channels from 0 to 2.*found \[\[0, 1, 3\]\]"),
        ({"axes": [[0, 1]]}, "'axes' must be triples"),
        ({"axes": [0, 1, 2]}, "'axes' must be triples"),
        ({"axes": "xyz"}, "'axes' must be triples"),
        ({"axes": 3}, "'axes' must be triples"),
        ({"axes": [[0, 1, 1]]}, "'axes' has a channel twice"),
        ({"axes": [[0, 1, 2], [2, 1, 0]]}, "'axes' has a channel twice"),
    ],
)
def test_wrong_declarations(changes, message):
    with pytest.raises(UserError, match=f"^hapt: 'signal'.*{message}"):
        augment.read_layout({**DECLARED, **changes}, 150, "hapt")


@pytest.mark.parametrize("name", ["samples_per_step", "samples_between_steps", "channels"])
def test_incomplete_declarations(name):
    declared = {key: value for key, value in DECLARED.items() if key != name}
    with pytest.raises(UserError, match=f"no key '{name}'"):
        augment.read_layout(declared, 150, "hapt")


def test_a_declaration_that_is_no_object():
    with pytest.raises(UserError, match="must be an object like"):
        augment.read_layout([50, 25, 3], 150, "hapt")


# --- signal and vectors


def test_vectors_by_hand(same_in_graph):
    layout = SignalLayout(3, 2, 2)
    signal = np.float32([[0, 10], [1, 11], [2, 12], [3, 13], [4, 14]])
    found = same_in_graph(lambda s: augment.cut_vectors(s, layout, 2), signal[None])
    np.testing.assert_array_equal(found[0], [[0, 10, 1, 11, 2, 12], [2, 12, 3, 13, 4, 14]])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("num_steps", [1, 2, 9])
def test_signal_to_vectors_and_back_is_the_identity(layout, num_steps, same_in_graph):
    signal = signal_of(layout, num_steps)
    features = vectors_of(signal, layout)
    assert features.shape == (num_steps, layout.samples_per_step * layout.channels)
    rebuilt = stretch(features, layout, num_steps=num_steps, run=same_in_graph)
    np.testing.assert_array_equal(rebuilt, signal)
    np.testing.assert_array_equal(augment.cut_vectors(rebuilt[None], layout, num_steps)[0], features)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("start", [0, 3, 5])
def test_scale_one_is_the_window_itself(layout, start):
    features = vectors_of(signal_of(layout, 9), layout)
    found = augment.cut_vectors(stretch(features, layout, start=start)[None], layout, 4)[0]
    np.testing.assert_array_equal(found, features[start : start + 4])


@pytest.mark.parametrize("dtype", [np.float16, tf.bfloat16.as_numpy_dtype])
def test_stored_types_become_float32(dtype):
    features = vectors_of(signal_of(LAYOUTS[2], 6), LAYOUTS[2]).astype(dtype)
    found = stretch(features, LAYOUTS[2], start=1)
    assert found.dtype == np.float32
    vectors = augment.cut_vectors(found[None], LAYOUTS[2], 4)[0]
    np.testing.assert_array_equal(vectors, features[1:5].astype(np.float32))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.3, 2.0])
def test_a_ramp_stays_a_ramp(layout, scale, same_in_graph):
    features = vectors_of(signal_of(layout, 30, slope=0.25), layout)
    found = stretch(features, layout, start=10, scale=scale, run=same_in_graph)
    np.testing.assert_allclose(np.diff(found, axis=0), 0.25 * np.float32(scale), atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scale", [0.75, 1.25])
def test_time_is_stretched_about_the_start_of_the_window(layout, scale):
    """Where each sample is in time, in steps: in the window it must be ``scale`` times less far from the start."""
    size, hop = layout.samples_per_step, layout.samples_between_steps

    def steps_of(samples):
        return (samples + 0.5 - (size - hop) / 2) / hop

    features = vectors_of(signal_of(layout, 30, slope=1), layout)
    found = stretch(features, layout, start=10, scale=scale)[:, 0]
    np.testing.assert_allclose(steps_of(found), 10 + scale * steps_of(np.arange(len(found))), rtol=1e-5)


def test_stretching_by_hand(same_in_graph):
    """One sample per step stands for the middle of it: window step 0 of scale 1.5 is the middle of [1, 2.5)."""
    features = np.float32([[0], [10], [20], [30], [40], [50]])
    layout = SignalLayout(1, 1, 1)
    found = stretch(features, layout, start=1, scale=1.5, num_steps=3, run=same_in_graph)
    np.testing.assert_allclose(found[:, 0], [12.5, 27.5, 42.5])
    found = stretch(features, layout, start=1, scale=0.5, num_steps=4, run=same_in_graph)
    np.testing.assert_allclose(found[:, 0], [7.5, 12.5, 17.5, 22.5])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_beyond_the_end_the_last_sample_is_repeated(layout):
    features = vectors_of(signal_of(layout, 2, slope=1), layout)
    found = stretch(features, layout, scale=1.25, num_steps=6)
    last = layout.num_samples(2) - 1
    assert (found[:, 0] >= 0).all()
    assert (np.diff(found[:, 0]) >= 0).all()
    assert found[-1, 0] == last
    np.testing.assert_array_equal(found[-1], features[-1, -layout.channels :])


def test_long_recordings_lose_no_precision():
    layout = SignalLayout(50, 25, 1)
    features = np.zeros((16384, 50), np.float32)
    features[16000], features[16001] = np.arange(50), np.arange(25, 75)
    found = stretch(features, layout, start=16000, scale=0.75, num_steps=1)[:, 0]
    np.testing.assert_allclose(found[2:-2], 12 + 0.75 * (np.arange(50) - 12)[2:-2], atol=1e-5)


# --- rotation


def rotations(largest_degrees, count=300):
    return augment.random_rotations(count, largest_degrees, (0, 0)).numpy()


def angles(matrices):
    """In degrees; the trace of a rotation is 1 + 2 cos(angle)."""
    return np.degrees(np.arccos(np.clip((np.trace(matrices, axis1=1, axis2=2) - 1) / 2, -1, 1)))


def test_rotations_are_rotations():
    found = rotations(180)
    np.testing.assert_allclose(found @ found.transpose(0, 2, 1), np.tile(np.eye(3), (300, 1, 1)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(found), 1, atol=1e-5)


@pytest.mark.parametrize("largest_degrees", [5.0, 30.0, 180.0])
def test_angles_fill_their_range(largest_degrees):
    found = angles(rotations(largest_degrees))
    assert found.max() < largest_degrees + 0.1
    assert found.max() > 0.95 * largest_degrees
    np.testing.assert_allclose(found.mean(), largest_degrees / 2, rtol=0.1)


def test_no_axis_is_preferred():
    """A vector that is turned by any angle about any axis is on average where it was, only shorter."""
    np.testing.assert_allclose(rotations(30, 1000).mean(axis=0), 0.97 * np.eye(3), atol=0.02)


def test_rotation_by_hand(same_in_graph):
    """A quarter turn about z moves x to y; channel 3 is no axis."""
    quarter = np.float32([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    signal = np.float32([[1, 0, 0, 7], [0, 1, 0, 8], [1, 2, 3, 9]])
    found = same_in_graph(lambda s, r: augment.rotate(s, ((0, 1, 2),), r), signal[None], quarter[None])
    np.testing.assert_array_equal(found[0], [[0, 1, 0, 7], [-1, 0, 0, 8], [-2, 1, 3, 9]])


def test_sensors_of_one_device_turn_alike(same_in_graph):
    signal = signal_of(PHONE, 5)
    signal[:, [5, 3, 4]] = signal[:, [0, 1, 2]]
    found = same_in_graph(
        lambda s: augment.rotate(s, PHONE.axes, augment.random_rotations(1, 90, (1, 2))), signal[None]
    )[0]
    np.testing.assert_allclose(found[:, [5, 3, 4]], found[:, [0, 1, 2]], atol=1e-5)
    np.testing.assert_array_equal(found[:, 6], signal[:, 6])
    np.testing.assert_allclose(np.linalg.norm(found[:, :3], axis=1), np.linalg.norm(signal[:, :3], axis=1), rtol=1e-5)
    assert np.abs(found[:, :3] - signal[:, :3]).max() > 0.1


# --- noise and columns


def test_noise_has_the_deviation(same_in_graph):
    deviation = np.float32([0.1, 1, 0])
    found = same_in_graph(lambda x: augment.add_noise(x, deviation, (3, 4)), np.full((20000, 3), 5, np.float32))
    np.testing.assert_allclose(found.mean(axis=0), 5, atol=0.03)
    np.testing.assert_allclose(found.std(axis=0), deviation, rtol=0.02)
    assert (found[:, 2] == 5).all()


def test_columns_are_dropped_whole(same_in_graph):
    features = RANDOM.normal(size=(2, 8, 2000)).astype(np.float32)
    mean = np.arange(2000, dtype=np.float32)
    found = same_in_graph(lambda x: augment.drop_columns(x, 0.3, mean, seed=(5, 6)), features)
    both_dropped = (found != features).any(axis=1)
    assert (both_dropped[0] != both_dropped[1]).any()
    for window, dropped in zip(found, both_dropped, strict=True):
        np.testing.assert_array_equal(window[:, dropped], np.tile(mean[dropped], (8, 1)))
        np.testing.assert_allclose(dropped.mean(), 0.3, atol=0.04)


def test_scales(same_in_graph):
    found = same_in_graph(lambda n: augment.random_scales(n, 0.25, (1, 2)), np.int32(2000))
    assert found.min() >= 0.75
    assert found.max() < 1.25
    np.testing.assert_allclose([found.min(), found.mean(), found.max()], [0.75, 1, 1.25], atol=0.02)
    assert augment.random_scales(tf.constant(0), 0.25, (1, 2)).shape == (0,)


# --- whole windows

EVERYTHING = {"axis_rotation": 20.0, "signal_noise": 0.1, "feature_noise": 0.1, "feature_dropout": 0.2}


def augmented(features, settings, *, layout=PHONE, start=2, scale=1.0, seed=(7, 8), run=None, **kwargs):
    """One window of 4 steps."""
    augmentations = Augmentation(4, layout, **{"time_scaling": 0.5, **settings}, **kwargs)

    def cut(features, start, scale, seed):
        source = batch_of_one(augment.cut_source(features, start, augmentations))
        return augment.augment_windows(source, start[None], scale[None], seed, augmentations)[0]

    return (run or eagerly)(cut, features, np.int32(start), np.float32(scale), np.int64(seed))


@pytest.fixture
def features():
    return vectors_of(signal_of(PHONE, 12), PHONE)


def test_nothing_to_change(features):
    np.testing.assert_array_equal(augmented(features, {}), features[2:6])
    np.testing.assert_array_equal(augmented(features, {"time_scaling": 0.0}), features[2:6])


@pytest.mark.parametrize("settings", [EVERYTHING, *({name: value} for name, value in EVERYTHING.items())])
def test_eager_equals_graph_and_seeds_decide(settings, features, same_in_graph):
    found = augmented(features, settings, scale=1.2, run=same_in_graph)
    assert found.shape == (4, 42)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, augmented(features, settings, scale=1.2))
    others = [augmented(features, settings, scale=1.2, seed=seed) for seed in ((7, 9), (8, 8))]
    for one, other in itertools.combinations([found, *others], 2):
        assert not np.array_equal(one, other)


def test_overlapping_vectors_agree(features):
    """Two samples of six are shared: the last two of a vector are the first two of the next."""
    found = augmented(features, {"axis_rotation": 20.0, "signal_noise": 0.1}, scale=0.8).reshape(4, 6, 7)
    np.testing.assert_array_equal(found[:-1, 4:], found[1:, :2])
    found = augmented(features, {"feature_noise": 0.1}).reshape(4, 6, 7)
    assert (found[:-1, 4:] != found[1:, :2]).all()


def test_feature_noise_is_in_deviations_of_the_column():
    found = augmented(
        np.zeros((12, 2000), np.float32),
        {"feature_noise": 0.5, "time_scaling": 0.0},
        layout=SignalLayout(1, 1, 2000),
        deviation=np.repeat(np.float32([0, 2]), 1000),
    )
    assert (found[:, :1000] == 0).all()
    np.testing.assert_allclose(found[:, 1000:].std(), 1, rtol=0.05)


@pytest.mark.parametrize("settings", [{"time_scaling": 0.0}, {}])
def test_a_recording_shorter_than_the_window(settings):
    features = vectors_of(signal_of(PHONE, 1), PHONE)
    found = augmented(features, {"feature_dropout": 0.5, **settings}, start=0, mean=0.0)
    assert found.shape == (4, 42)
    assert np.isfinite(found).all()


def test_windows_of_a_batch_are_stretched_as_each_alone(features):
    """Also those at the ends of their recordings, one of which is shorter than a window."""
    augmentations = Augmentation(4, PHONE, time_scaling=0.5)
    recordings, starts, scales = [features, features, features[:3], features], [0, 8, 0, 5], [0.7, 1.5, 1.1, 1.0]
    sources = [augment.cut_source(f, s, augmentations) for f, s in zip(recordings, starts, strict=True)]
    source = {name: tf.stack([each[name] for each in sources]) for name in sources[0]}
    arguments = tf.constant(starts), tf.constant(scales), (1, 2)
    found = augment.augment_windows(source, *arguments, augmentations)
    for window, recording, start, scale in zip(found, recordings, starts, scales, strict=True):
        np.testing.assert_array_equal(window, augmented(recording, {}, start=start, scale=scale))


def test_windows_of_a_batch_differ_by_chance(features):
    augmentations = Augmentation(4, PHONE, **EVERYTHING)
    source = augment.cut_source(features, tf.constant(2), augmentations)
    twice = {name: tf.stack([value, value]) for name, value in source.items()}
    first, second = augment.augment_windows(
        twice, tf.constant([2, 2]), tf.constant([1.0, 1.0]), (1, 2), augmentations
    ).numpy()
    assert (first != second).any()


def test_what_counts_as_a_change():
    assert not Augmentation(4, PLAIN).changes_anything
    for name in ("time_scaling", "axis_rotation", "signal_noise"):
        assert Augmentation(4, PLAIN, **{name: 0.1}).changes_signal
    for name in ("feature_noise", "feature_dropout"):
        changed = Augmentation(4, PLAIN, **{name: 0.1})
        assert changed.changes_anything
        assert not changed.changes_signal

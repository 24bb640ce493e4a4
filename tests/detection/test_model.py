import keras
import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection import precision
from a2net_tf.detection.layers import Convolution, Drop, GroupNorm, LevelScale, drawing
from a2net_tf.detection.localizer import Localizer
from a2net_tf.detection.model import build_model, copy_weights, plain_copy, rebuild
from a2net_tf.detection.objective import Objective
from a2net_tf.errors import UserError
from a2net_tf.settings import Config

RANDOM = np.random.default_rng(0)
UNIT_ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}  # of significands of 24, 8, 11 bits
FREE = {"anchor_free_logits", "anchor_free_distances"}
BASED = {"anchor_logits", "anchor_overlap", "anchor_offsets"}


def random_features(config, num_windows=2, num_features=5):
    return RANDOM.normal(size=(num_windows, config.window_steps, num_features)).astype(np.float32)


def run(network, features):
    return {name: np.asarray(value) for name, value in network(features, training=False).items()}


# --- names and shapes


def test_the_network_of_the_paper_has_126_cells_and_630_anchors():
    config = Config(base_channels=2, level_channels=(2,) * 6, head_channels=2, precision="float32")
    found = {name: value.shape for name, value in build_model(config, 7, 20).output.items()}
    assert found == {
        "anchor_free_logits": (None, 126, 21),
        "anchor_free_distances": (None, 126, 2),
        "anchor_logits": (None, 630, 21),
        "anchor_overlap": (None, 630),
        "anchor_offsets": (None, 630, 2),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"num_levels": 1},
        {"num_levels": 5, "level_channels": (3, 4, 5, 6, 7)},
        {"window_steps": 24, "num_levels": 3},
        {"anchor_ratios": (1.0,)},
        {"head_channels": 3, "base_channels": 5},
        {"anchor_free": False},
        {"anchor_based": False},
    ],
)
def test_shapes(changes, make_config):
    config = make_config(**changes)
    cells = sum(config.window_steps // 2 // 2**i for i in range(config.num_levels))
    anchors = cells * len(config.anchor_ratios)
    found = {name: value.shape for name, value in run(build_model(config, 5, 3), random_features(config)).items()}
    expected = {
        "anchor_free_logits": (2, cells, 4),
        "anchor_free_distances": (2, cells, 2),
        "anchor_logits": (2, anchors, 4),
        "anchor_overlap": (2, anchors),
        "anchor_offsets": (2, anchors, 2),
    }
    names = (FREE if config.anchor_free else set()) | (BASED if config.anchor_based else set())
    assert found == {name: expected[name] for name in names}


# --- a plain numpy forward pass


def convolve(x, kernel, bias, stride=1):
    """Convolution of [steps, in] with [size, in, out], (size - 1) / 2 zeros on both sides whatever the stride."""
    size = len(kernel)
    padded = np.pad(x, [(size // 2, size // 2), (0, 0)])
    starts = range(0, len(padded) - size + 1, stride)
    return np.stack([np.einsum("ki,kio->o", padded[s : s + size], kernel) for s in starts]) + bias


def relu(x):
    return np.maximum(x, 0)


def slow_network(network, config, x, num_logits):
    """Table II of the paper on one window [steps, features], from the network's weights, in float64."""
    weights = {layer.name: layer.get_weights() for layer in network.layers}
    x = relu(convolve(x.astype(np.float64), *weights["base1"]))
    x = relu(convolve(x, *weights["base2"]))
    x = x.reshape(len(x) // 2, 2, -1).max(axis=1)
    rows = {name: [] for name in ("logits", "distances", "anchors")}
    for level in range(1, config.num_levels + 1):
        x = relu(convolve(x, *weights[f"conv{level}"], stride=1 if level == 1 else 2))
        reduced = relu(convolve(x, *weights[f"anchor_free_reduce{level}"]))
        for branch, name in (("anchor_free_class", "logits"), ("anchor_free_distance", "distances")):
            y = relu(convolve(reduced, *weights[f"{branch}_conv1"]))
            y = relu(convolve(y, *weights[f"{branch}_conv2"]))
            rows[name].append(convolve(y, *weights[f"{branch}_predict"]))
        rows["distances"][-1] = rows["distances"][-1] * weights[f"anchor_free_scale{level}"][0]
        predicted = convolve(x, *weights[f"anchor_based_predict{level}"])
        # Channels: anchor by anchor, and of each the class logits, the overlap, centre and width.
        rows["anchors"] += [cell[i * (num_logits + 3) :][: num_logits + 3] for cell in predicted for i in range(3)]
    anchors = np.stack(rows["anchors"])
    return {
        "anchor_free_logits": np.concatenate(rows["logits"]),
        "anchor_free_distances": np.concatenate(rows["distances"]),
        "anchor_logits": anchors[:, :num_logits],
        "anchor_overlap": anchors[:, num_logits],
        "anchor_offsets": anchors[:, num_logits + 1 :],
    }


def impulse(config, step):
    features = np.zeros((1, config.window_steps, 5), np.float32)
    features[0, step] = 10
    return features


@pytest.mark.parametrize("place", ["everywhere", "first", "last"])
@pytest.mark.parametrize(
    "changes",
    [
        {"convolution": "product"},
        {"convolution": "unrolled"},
        {"convolution": "direct"},
        {"window_steps": 24, "num_levels": 3, "level_channels": (5, 8, 3)},
    ],
)
def test_network_equals_a_plain_forward_pass(place, changes, make_config, make_network):
    config = make_config(**changes)
    network = make_network(config)
    features = {"everywhere": random_features(config), "first": impulse(config, 0), "last": impulse(config, -1)}[place]
    found = run(network, features)
    for b, window in enumerate(features):
        for name, expected in slow_network(network, config, window, 4).items():
            np.testing.assert_allclose(found[name][b], expected, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("cell", "expected"), [(0, {0: 10}), (1, {0: 100, 1: 1}), (15, {7: 100}), (14, {7: 10})])
def test_stride_two_pads_both_sides(cell, expected, make_config):
    """An impulse at a cell of the first level, and the kernel (1, 10, 100) from there to the second."""
    config = make_config(num_levels=2, base_channels=1, level_channels=(1, 1))
    network = build_model(config, 1, 1)
    for name, kernel in (
        ("base1", [1]),
        ("base2", [0] * 4 + [1] + [0] * 4),
        ("conv1", [0, 1, 0]),
        ("conv2", [1, 10, 100]),
    ):
        network.get_layer(name).set_weights([np.float32(kernel)[:, None, None], np.zeros(1, np.float32)])
    features = np.zeros((1, 32, 1), np.float32)
    features[0, 2 * cell] = 1
    found = keras.Model(network.input, network.get_layer("conv2").output)(features)
    np.testing.assert_allclose(found[0, :, 0], [expected.get(j, 0) for j in range(8)])


def test_both_branches_are_shared_by_all_levels(make_config):
    names = [weight.path for weight in build_model(make_config(), 5, 3).trainable_variables]
    assert sum("anchor_free_class_conv1/kernel" in name for name in names) == 1
    assert sum("anchor_free_distance_predict/kernel" in name for name in names) == 1
    assert sum("reduce" in name and "kernel" in name for name in names) == make_config().num_levels
    assert sum("/scale" in name for name in names) == make_config().num_levels


def rounding(precision, *terms):
    """The difference to allow of a largest value of 1, behind sums of so many terms one after the other.

    Some kernels round a sum once, others after each term; errors of many roundings add up as a random walk. Twice that,
    for two are compared.
    """
    return 2 * UNIT_ROUNDOFF[precision] * np.sqrt(sum(terms))


def gradients(network, features):
    """By the features and by all weights, of the sum of the squares of all outputs."""
    features = tf.Variable(features)
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_sum(tf.square(value)) for value in network(features).values()])
    return tape.gradient(loss, [features, *(weight.value for weight in network.trainable_variables)])


@pytest.mark.parametrize("form", ["product", "unrolled"])
def test_forms_of_convolution_have_the_same_gradients(form, make_config, make_network):
    features = np.random.default_rng(1).normal(size=(3, 32, 5)).astype(np.float32)
    networks = (make_network(make_config(convolution=each)) for each in (form, "direct"))
    for product, direct in zip(*(gradients(network, features) for network in networks), strict=True):
        scale = np.abs(direct).max()
        assert scale > 0
        np.testing.assert_allclose(product, direct, atol=1e-5 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_forms_have_the_same_gradients_of_positive_numbers(precision, make_config, make_network):
    """Where nothing cancels out and rounding changes no choice, the error of each number follows from its roundings."""
    found, narrow = [], {"num_levels": 2, "base_channels": 2, "level_channels": (2, 2), "head_channels": 2}
    features = np.random.default_rng(1).uniform(1, 2, (1, 32, 5)).astype(np.float32)
    features[:, ::2] *= 4  # with a strong middle of its kernel base2 follows, and the first of two steps is the maximum
    for form in ("product", "direct"):
        network = make_network(make_config(convolution=form, precision=precision, **narrow))
        network.set_weights([np.abs(weight) for weight in network.get_weights()])
        base2 = network.get_layer("base2")
        base2.kernel.assign(base2.kernel + np.float32([0, 0, 0, 0, 20, 0, 0, 0, 0])[:, None, None])
        found.append(gradients(network, features))
    forward = (9 * 5, 9 * 2, 3 * 2, 3 * 2, 2, 3 * 2, 3 * 2, 3 * 2)  # two of the base, two levels, four of a head
    backward = (*forward, 7 * 3, 32)  # outputs of an anchor head; a kernel's gradient is a sum over steps
    for product, direct in zip(*found, strict=True):
        assert np.min(direct) > 0
        np.testing.assert_allclose(product, direct, rtol=rounding(precision, *forward, *backward))


@pytest.mark.parametrize("isa", ["AVX2", ""])
def test_form_of_convolution_follows_the_device(isa, make_config, monkeypatch):
    """Below AVX-512 all are products in training, and on a GPU always."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    some = {"base1", *(f"anchor_free_reduce{i}" for i in (1, 2, 3, 4)), "conv2", "conv3", "conv4"}
    unrolls, on_gpu = not precision.uses_avx512(), bool(tf.config.list_physical_devices("GPU"))
    assert unrolls or not isa
    for for_inference in (False, True):
        network = build_model(make_config(), 5, 3, for_inference=for_inference)
        convolutions = {layer.name: layer.as_product for layer in network.layers if hasattr(layer, "as_product")}
        products = {name for name, as_product in convolutions.items() if as_product}
        assert products == (set(convolutions) if on_gpu or (unrolls and not for_inference) else some)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_plain_copy_is_direct_and_float32(precision, make_config, make_network):
    statistics = (np.arange(5, dtype=np.float32), np.full(5, 4, np.float32))
    copy = plain_copy(make_network(make_config(precision=precision), statistics=statistics))
    assert not any(getattr(layer, "as_product", False) for layer in copy.layers)
    features = random_features(make_config())
    exact = run(make_network(make_config(), statistics=statistics), features)
    for name, value in run(copy, features).items():
        np.testing.assert_allclose(value, exact[name], atol=1e-4, err_msg=name)


def inference_copy(network):
    return rebuild(network, network.blueprint.config, for_inference=True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_inference_copy_gives_the_same_with_smaller_weights(precision, make_config, make_network):
    network = make_network(make_config(precision=precision, convolution="product"))  # auto may differ in the copy
    copy = inference_copy(network)
    assert copy.get_layer("conv2").kernel.dtype == precision
    assert copy.get_layer("anchor_based_predict1").kernel.dtype == "float32"
    features = random_features(make_config())
    exact = run(network, features)
    for name, value in run(copy, features).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, exact[name], err_msg=name)


COPIED = {
    "faithful": {},
    "modern": {"convolution_norm": "group", "input_dropout": 0.1, "norm_groups": 4},
    "part of the features": {"feature_columns": (1, 4), "anchor_free": False, "class_scores": "sigmoid"},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", COPIED.values(), ids=COPIED)
def test_copy_of_a_direct_float32_network_is_equal(changes, make_config, make_network):
    config = make_config(convolution="direct", level_channels=(8, 8, 8, 8), **changes)
    network = make_network(config, statistics=(np.arange(5) / np.float32(3), np.full(5, 0.3, np.float32)))
    features = random_features(config)
    expected = run(network, features)
    for copy in (plain_copy(network), inference_copy(network), plain_copy(inference_copy(network))):
        assert copy is not network
        assert [weight.path for weight in copy.weights] == [weight.path for weight in network.weights]
        for name, value in run(copy, features).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
    copy.weights[0].assign(copy.weights[0] + 1)
    assert (copy.weights[0].numpy() != network.weights[0].numpy()).all()


def test_copy_refuses_settings_that_need_other_weights(make_config, make_network):
    with pytest.raises(ValueError, match="shape"):
        rebuild(make_network(make_config()), make_config(base_channels=9))


# --- variations


def test_normalization_is_the_first_layer(make_config, make_network):
    config = make_config()
    mean, variance = np.float32([1, -2, 3, 0, 100]), np.float32([4, 1, 0.25, 9, 1])
    features = random_features(config) * np.sqrt(variance) + mean
    expected = run(make_network(config), (features - mean) / np.sqrt(variance))
    found = run(make_network(config, statistics=(mean, variance)), features)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4)


def test_feature_columns_are_all_that_the_network_sees(make_config, make_network):
    statistics = (np.arange(5, dtype=np.float32), np.full(5, 4, np.float32))
    part = make_network(make_config(feature_columns=(1, 3)), statistics=statistics)
    whole = make_network(make_config(), num_features=2, statistics=(statistics[0][1:3], statistics[1][1:3]))
    features = random_features(make_config())
    other_values = features.copy()
    other_values[..., [0, 3, 4]] = 7
    expected = run(whole, features[..., 1:3])
    for given in (features, other_values):
        found = run(part, given)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def test_feature_columns_beyond_the_features(make_config):
    with pytest.raises(UserError, match="--feature_columns=2,6: the features have only 5 columns"):
        build_model(make_config(feature_columns=(2, 6)), 5, 3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision(precision, make_config, make_network):
    config = make_config()
    features = random_features(config)
    exact = run(make_network(config), features)
    network = make_network(make_config(precision=precision))
    assert network.get_layer("base1").compute_dtype == precision
    assert all(weight.dtype == "float32" for weight in network.trainable_variables)
    tolerance = rounding(precision, 9 * 5, 9 * 8, *[3 * 8] * 8)  # two of the base, four levels, four of a head
    for name, value in run(network, features).items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, exact[name], atol=tolerance * np.abs(exact[name]).max())
        assert (value != exact[name]).any()
        # Not only float32 by name: the predictions themselves are not rounded to 16 bits.
        assert (value != tf.cast(tf.cast(value, network.get_layer("base1").compute_dtype), tf.float32)).numpy().any()


@pytest.mark.parametrize("activation", ["softplus", "relu"])
def test_distance_activation(activation, make_config, make_network):
    features = random_features(make_config())
    raw = run(make_network(make_config()), features)["anchor_free_distances"]
    found = run(make_network(make_config(distance_activation=activation)), features)["anchor_free_distances"]
    assert (raw < 0).any()
    np.testing.assert_allclose(found, np.log1p(np.exp(raw)) if activation == "softplus" else relu(raw), atol=1e-5)


# --- initial weights


def test_initial_weights_are_he_uniform_and_biases_zero():
    config = Config(base_channels=32, level_channels=(32,) * 6, head_channels=32, precision="float32")
    network = build_model(config, 40, 3)
    for weight in network.trainable_variables:
        value = weight.numpy()
        if weight.name == "kernel":
            bound = np.sqrt(6 / (value.shape[0] * value.shape[1]))
            assert 0.95 * bound < np.abs(value).max() <= bound, weight.path
            assert abs(value.mean()) < 5 * bound / np.sqrt(3 * value.size), weight.path
        else:
            assert weight.name in ("bias", "scale")
            assert (value == (1 if weight.name == "scale" else 0)).all(), weight.path


def test_equal_seeds_give_equal_weights(make_config):
    networks = []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(seed)
        networks.append(build_model(make_config(), 5, 3).get_layer("conv2").get_weights()[0])
    np.testing.assert_array_equal(networks[0], networks[1])
    assert (networks[0] != networks[2]).any()


def test_level_scale_multiplies(same_in_graph):
    layer = LevelScale(name="anchor_free_scale1")
    layer.build((None, 3, 2))
    layer.scale.assign(2.5)
    np.testing.assert_allclose(same_in_graph(layer, np.float32([[[1, -2]]])), [[[2.5, -5]]])


# --- group normalisation


def group_norm(x, gamma, beta, groups):
    """Of [steps, channels], as the definition has it, in float64."""
    grouped = x.reshape(len(x), groups, -1).astype(np.float64)
    mean, variance = grouped.mean(axis=(0, 2), keepdims=True), grouped.var(axis=(0, 2), keepdims=True)
    return ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * gamma + beta


def made_norm(steps, *, channels=6, **kwargs):
    layer = GroupNorm(3, activation="relu", **kwargs)
    layer.build((None, steps, channels))
    layer.set_weights([RANDOM.normal(size=channels), RANDOM.normal(size=channels)])
    return layer


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_group_norm_equals_the_definition(offset, same_in_graph):
    layer = made_norm(9)
    x = (RANDOM.normal(size=(2, 9, 6)) * 2 + offset).astype(np.float32)
    expected = [relu(group_norm(window, *layer.get_weights(), 3)) for window in x]
    np.testing.assert_allclose(same_in_graph(layer, x), expected, atol=2e-4 if offset else 1e-5)


def test_group_norm_equals_that_of_keras():
    layer, theirs = made_norm(9), keras.layers.GroupNormalization(3, epsilon=1e-5)
    theirs.build((None, 9, 6))
    theirs.set_weights(layer.get_weights())
    x = RANDOM.normal(size=(2, 9, 6)).astype(np.float32)
    np.testing.assert_allclose(layer(x), relu(np.asarray(theirs(x))), atol=1e-5)


def test_joined_levels_are_normalised_one_by_one(same_in_graph):
    lengths = (4, 2, 1)
    joined = made_norm(10, joined=lengths)
    single = GroupNorm(3, activation="relu")
    single.build((None, 4, 6))
    single.set_weights(joined.get_weights())
    x = RANDOM.normal(size=(2, 10, 6)).astype(np.float32)  # what stands in the gaps must not matter
    found = same_in_graph(joined, x)
    place = 0
    for length in lengths:
        np.testing.assert_allclose(found[:, place : place + length], single(x[:, place : place + length]), atol=1e-5)
        assert not found[:, place + length].any()
        place += length + 1


def test_group_norm_of_constant_input_is_finite():
    layer = made_norm(5)
    x = tf.Variable(np.full((1, 5, 6), 7, np.float32))
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(layer(x))
    assert np.isfinite(y)
    assert np.isfinite(tape.gradient(y, x)).all()


NORMALISED = {"norm_groups": 4, "level_channels": (8, 8, 8, 8)}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_copies_of_a_normalised_network(precision, make_config, make_network):
    changes = {"convolution_norm": "group", "input_dropout": 0.2, **NORMALISED}
    network = make_network(make_config(precision=precision, **changes))
    features = random_features(make_config())
    exact = run(make_network(make_config(**changes)), features)
    for name, value in run(plain_copy(network), features).items():
        np.testing.assert_allclose(value, exact[name], atol=1e-4, err_msg=name)
    expected = run(network, features)
    for name, value in run(inference_copy(network), features).items():
        np.testing.assert_allclose(value, expected[name], atol=0.05 * np.abs(exact[name]).max(), err_msg=name)


def test_every_convolution_but_the_predictions_is_normalised(make_config):
    network = build_model(make_config(convolution_norm="group", **NORMALISED), 5, 3)
    convolutions = {layer.name for layer in network.layers if isinstance(layer, Convolution)}
    normalised = {layer.name.removesuffix("_norm") for layer in network.layers if isinstance(layer, GroupNorm)}
    assert convolutions - normalised == {name for name in convolutions if "predict" in name}


def test_norm_groups_must_divide_the_channels(make_config):
    with pytest.raises(UserError, match="--norm_groups=8 does not divide the 7 channels"):
        make_config(convolution_norm="group")


# --- dropout


def dropped(layer, x, *, seed, part=(0, 1)):
    with drawing(keras.Sequential([layer]), tf.constant(seed), part):
        return layer(x, training=True)


def test_drop(same_in_graph):
    layer = Drop(0.25)
    x = np.ones((400, 5, 3), np.float32)
    np.testing.assert_array_equal(layer(x), x)
    with drawing(keras.Sequential([layer]), tf.constant([1, 2])):
        np.testing.assert_array_equal(layer(x), x)
    found = same_in_graph(lambda values: dropped(layer, values, seed=[1, 2]), x)
    np.testing.assert_allclose(np.unique(found), [0, 1 / 0.75])
    assert found.mean() == pytest.approx(1, abs=0.1)
    assert (dropped(layer, x, seed=[1, 3]).numpy() != found).any()


def test_drops_of_parts_are_those_of_the_whole():
    layer, x = Drop(0.5), np.ones((6, 4, 3), np.float32)
    whole = dropped(layer, x, seed=[1, 2]).numpy()
    for index in range(3):
        part = dropped(layer, x[:2], seed=[1, 2], part=(index, 3))
        np.testing.assert_array_equal(part, whole[2 * index : 2 * index + 2])


def network_that_drops(make_config):
    of_steps = {"step_classifier": True, "step_channels": 8, "step_layers": 2, "step_stages": 1, "step_dropout": 0.1}
    return build_model(make_config(input_dropout=0.1, **of_steps), 5, 3)


def test_each_layer_has_its_own_draw(make_config):
    network = network_that_drops(make_config)
    layers, x = [layer for layer in network.layers if isinstance(layer, Drop)], np.ones((200, 1, 1), np.float32)
    with drawing(network, tf.constant([1, 2])):
        drawn = [layer(x, training=True).numpy().tobytes() for layer in layers]
    assert len(drawn) == 1 + 2
    assert len(set(drawn)) == len(drawn)


def test_training_without_a_draw_is_refused(make_config):
    network, features = network_that_drops(make_config), random_features(make_config())
    network(features)
    with pytest.raises(RuntimeError, match="input_dropout: in training, call the network within .*drawing"):
        network(features, training=True)
    with drawing(network, tf.constant([1, 2])):
        first = network(features, training=True)["anchor_logits"].numpy()
    with pytest.raises(RuntimeError, match="drawing"):
        network(features, training=True)
    with pytest.raises(ZeroDivisionError), drawing(network, tf.constant([1, 2])):
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="drawing"):
        network(features, training=True)
    with drawing(network, tf.constant([1, 2])):
        np.testing.assert_array_equal(network(features, training=True)["anchor_logits"], first)


def test_network_without_drops_needs_no_draw(make_config):
    network, features = build_model(make_config(), 5, 3), random_features(make_config())
    np.testing.assert_array_equal(network(features, training=True)["anchor_logits"], network(features)["anchor_logits"])


# --- a score for each class


def test_sigmoid_network_begins_with_the_prior_and_has_no_background(make_config):
    config = make_config(class_scores="sigmoid", prior_probability=0.02)
    network = build_model(config, 5, 3)
    found = run(network, np.zeros((1, 32, 5), np.float32))
    for name in ("anchor_free_logits", "anchor_logits"):
        assert found[name].shape[-1] == 3
        np.testing.assert_allclose(1 / (1 + np.exp(-found[name])), 0.02, rtol=1e-5)
    assert not found["anchor_overlap"].any()
    assert not found["anchor_offsets"].any()


def test_only_coarse_levels_may_have_anchors(make_config, make_network):
    """As SSAD has it: all levels are computed, the last two of four predict."""
    config = make_config(anchor_free=False, first_level=3)
    network = make_network(config)
    assert network.output["anchor_overlap"].shape == (None, (4 + 2) * 3)
    names = {weight.path.split("/")[0] for weight in network.weights}
    assert {"conv1", "conv4", "anchor_based_predict3", "anchor_based_predict4"} <= names
    assert not {"anchor_based_predict1", "anchor_based_predict2"} & names
    whole = make_network(make_config(anchor_free=False))
    copy_weights(whole, network)
    features = np.random.default_rng(0).normal(size=(2, 32, 5)).astype(np.float32)
    for name, found in network(features).items():
        np.testing.assert_allclose(found, whole(features)[name][:, -18:], rtol=1e-5, atol=1e-6)
    assert Localizer(network, config, ["a", "b", "c"]).window_candidates(features).scores.shape == (2, 18)
    batch = {"segments": np.float32([[[0.2, 0.5]], [[0, 0.9]]]), "labels": np.int32([[1], [3]])}
    parts, positives = Objective(config)(network(features), batch, tf.constant([0, 1]))
    assert np.isfinite(parts["loss"])
    assert list(positives) == ["anchor_based_positives_level3", "anchor_based_positives_level4"]

import keras
import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.config import Config
from a2net_tf.errors import UserError
from a2net_tf.model import LevelScale, build_model, inference_copy, plain_copy

RANDOM = np.random.default_rng(0)
FREE = {"anchor_free_logits", "anchor_free_distances"}
BASED = {"anchor_logits", "anchor_overlap", "anchor_offsets"}


def random_features(config, num_windows=2, num_features=5):
    return RANDOM.normal(size=(num_windows, config.window_steps, num_features)).astype(np.float32)


def run(network, features):
    return {name: np.asarray(value) for name, value in network(features, training=False).items()}


# --- names and shapes


def test_the_network_of_the_paper_has_126_cells_and_630_anchors():
    config = Config(base_channels=2, level_channels=(2,) * 6, head_channels=2)
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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_forms_of_convolution_have_the_same_gradients(precision, make_config, make_network):
    found = []
    for form in ("product", "direct"):
        network = make_network(make_config(convolution=form, precision=precision))
        features = tf.Variable(np.random.default_rng(1).normal(size=(3, 32, 5)), dtype=tf.float32)
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(tf.square(value)) for value in network(features).values()])
        found.append(tape.gradient(loss, [features, *(weight.value for weight in network.trainable_variables)]))
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[precision]
    for product, direct in zip(*found, strict=True):
        scale = np.abs(direct).max()
        assert scale > 0
        np.testing.assert_allclose(product, direct, atol=tolerance * scale)


def test_form_of_convolution_follows_the_device(make_config):
    assert not tf.config.list_physical_devices("GPU"), "expects the direct form then"
    network = build_model(make_config(), 5, 3)
    products = {layer.name for layer in network.layers if getattr(layer, "as_product", False)}
    assert products == {"base1", *(f"anchor_free_reduce{i}" for i in (1, 2, 3, 4)), "conv2", "conv3", "conv4"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_plain_copy_is_direct_and_float32(precision, make_config, make_network):
    statistics = (np.arange(5, dtype=np.float32), np.full(5, 4, np.float32))
    copy = plain_copy(make_network(make_config(precision=precision), statistics=statistics))
    assert not any(getattr(layer, "as_product", False) for layer in copy.layers)
    features = random_features(make_config())
    exact = run(make_network(make_config(), statistics=statistics), features)
    for name, value in run(copy, features).items():
        np.testing.assert_allclose(value, exact[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_inference_copy_gives_the_same_with_smaller_weights(precision, make_config, make_network):
    network = make_network(make_config(precision=precision))
    copy = inference_copy(network)
    assert copy.get_layer("conv2").kernel.dtype == precision
    assert copy.get_layer("anchor_based_predict1").kernel.dtype == "float32"
    features = random_features(make_config())
    exact = run(network, features)
    for name, value in run(copy, features).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, exact[name], err_msg=name)


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
    for name, value in run(network, features).items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, exact[name], atol=0.02 * np.abs(exact[name]).max())
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
    network = build_model(Config(base_channels=32, level_channels=(32,) * 6, head_channels=32), 40, 3)
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

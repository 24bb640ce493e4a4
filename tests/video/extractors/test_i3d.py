"""I3D against a second implementation that shares no code with it, and the two forms of released weights."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.errors import UserError
from a2net_tf.video.extractors import i3d, i3d_weights

# The network once more, as a list of what each unit of pytorch-i3d takes and gives: name, kernel, channels in, out.
STEM = [("Conv3d_1a_7x7", 7, 3, 64), ("Conv3d_2b_1x1", 1, 64, 64), ("Conv3d_2c_3x3", 3, 64, 192)]
MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def units(channels=3):
    found = [("Conv3d_1a_7x7", 7, channels, 64), *STEM[1:]]
    for name, (into, b0, b1a, b1b, b2a, b2b, b3b) in MIXED.items():
        sizes = [("b0", 1, into, b0), ("b1a", 1, into, b1a), ("b1b", 3, b1a, b1b), ("b2a", 1, into, b2a)]
        found += [(f"Mixed_{name}.{b}", *rest) for b, *rest in (*sizes, ("b2b", 3, b2a, b2b), ("b3b", 1, into, b3b))]
    return found


@pytest.fixture(scope="module")
def random_state():
    return make_state(3)


@pytest.fixture(scope="module")
def random_flow_state():
    return make_state(2)


def make_state(channels):
    """Random tensors with the names and shapes of pytorch-i3d, scales of normalisation that are not 1 among them."""
    random, state = np.random.default_rng(channels), {}
    for name, kernel, into, out in units(channels):
        shape = (out, into, kernel, kernel, kernel)
        state[f"{name}.conv3d.weight"] = random.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)
        state[f"{name}.bn.weight"] = random.uniform(0.9, 1.1, out)
        state[f"{name}.bn.bias"] = random.normal(0, 0.1, out)
        state[f"{name}.bn.running_mean"] = random.normal(0, 0.1, out)
        state[f"{name}.bn.running_var"] = random.uniform(0.5, 1.5, out)
    state["logits.conv3d.weight"] = random.normal(0, 0.03, (400, 1024, 1, 1, 1))
    state["logits.conv3d.bias"] = random.normal(0, 0.1, 400)
    return {name: value.astype(np.float32) for name, value in state.items()}


def write_torch(path, state):
    torch = pytest.importorskip("torch", reason="PyTorch writes the file")
    tensors = {name: torch.tensor(value) for name, value in state.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    return str(path)


def deepmind_state(state, prefix="RGB/inception_i3d/"):
    """The same numbers under DeepMind's names; its normalisation has no scale, so that scales here are lost."""
    places = {"b0": "0/Conv3d_0a_1x1", "b1a": "1/Conv3d_0a_1x1", "b1b": "1/Conv3d_0b_3x3"}
    places |= {"b2a": "2/Conv3d_0a_1x1", "b2b": "2/Conv3d_0b_3x3", "b3b": "3/Conv3d_0b_1x1"}
    found = {}
    for name, *_ in units():  # the names are those of both streams
        block, _, branch = name.partition(".")
        unit = f"{block}/Branch_{places[branch]}" if branch else block
        if name == "Mixed_5b.b2b":
            unit = "Mixed_5b/Branch_2/Conv3d_0a_3x3"
        found[f"{unit}/conv_3d/w"] = state[f"{name}.conv3d.weight"].transpose(2, 3, 4, 1, 0)
        for ours, theirs in (("beta", "bias"), ("moving_mean", "running_mean"), ("moving_variance", "running_var")):
            found[f"{unit}/batch_norm/{ours}"] = state[f"{name}.bn.{theirs}"]
    found["Logits/Conv3d_0c_1x1/conv_3d/w"] = state["logits.conv3d.weight"].transpose(2, 3, 4, 1, 0)
    found["Logits/Conv3d_0c_1x1/conv_3d/b"] = state["logits.conv3d.bias"]
    return {prefix + name: value for name, value in found.items()}


def write_checkpoint(path, variables):
    names, values = zip(*variables.items(), strict=True)
    tf.raw_ops.SaveV2(
        prefix=str(path),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(v) for v in values],
    )
    return str(path)


def plain_forward(state, clips):
    """Logits [N, 400] and vectors [N, 1024] of f32[N, 3 or 2, T, H, W], in PyTorch's functions."""
    torch = pytest.importorskip("torch", reason="the second implementation is written in PyTorch")
    functional, weights = torch.nn.functional, {name: torch.tensor(value) for name, value in state.items()}

    def pad(x, kernel, stride, value):
        pads = []
        for length, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
            total = max((math.ceil(length / s) - 1) * s + k - length, 0)
            pads += [total // 2, total - total // 2]
        return functional.pad(x, pads, value=value)

    def unit(x, name, stride=1):
        kernel = weights[f"{name}.conv3d.weight"]
        x = functional.conv3d(pad(x, kernel.shape[2:], (stride,) * 3, 0.0), kernel, stride=stride)
        norm = [weights[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.relu(functional.batch_norm(x, *norm, eps=1e-3))

    def pool(x, kernel, stride):
        return functional.max_pool3d(pad(x, kernel, stride, -math.inf), kernel, stride)

    x = pool(unit(torch.tensor(clips), "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    for name in MIXED:
        if name in ("4b", "5b"):
            x = pool(x, (3, 3, 3), (2, 2, 2)) if name == "4b" else pool(x, (2, 2, 2), (2, 2, 2))
        b = f"Mixed_{name}."
        x = torch.cat(
            [
                unit(x, f"{b}b0"),
                unit(unit(x, f"{b}b1a"), f"{b}b1b"),
                unit(unit(x, f"{b}b2a"), f"{b}b2b"),
                unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{b}b3b"),
            ],
            1,
        )
    x = functional.avg_pool3d(x, (2, 7, 7), 1)
    logits = functional.conv3d(x, weights["logits.conv3d.weight"], weights["logits.conv3d.bias"])
    return logits.mean((2, 3, 4)).numpy(), x.mean((2, 3, 4)).numpy()


def test_size_of_the_network():
    network = i3d.build(16, num_classes=400)
    assert network.count_params() == 12_704_544
    assert i3d.build(16).count_params() == 12_279_984 + 14_560  # and the moving statistics
    assert len(network.weights) == 230
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv3D)]
    assert len(convolutions) == 58
    products = sum(math.prod(each.output.shape[1:4]) * math.prod(each.kernel.shape) for each in convolutions)
    assert round(products / 1e9, 2) == 27.79


def test_size_of_the_network_for_flow():
    network = i3d.build(16, channels=2, num_classes=400)
    assert network.count_params() == 12_682_592
    assert network.input_shape == (None, 16, 224, 224, 2)


@pytest.mark.slow
def test_flow_forward_equals_a_second_implementation(tmp_path, random_flow_state):
    """In both forms of weights; Sonnet's has no scales, so they are put into the kernels there."""
    clips = np.random.default_rng(4).uniform(-1, 1, (1, 16, 224, 224, 2)).astype(np.float32)
    state = {name: np.ones_like(v) if name.endswith("bn.weight") else v for name, v in random_flow_state.items()}
    for tensors, write in (
        (random_flow_state, lambda: write_torch(tmp_path / "flow.pt", random_flow_state)),
        (state, lambda: write_checkpoint(tmp_path / "flow.ckpt", deepmind_state(state, "Flow/inception_i3d/"))),
    ):
        expected, _ = plain_forward(tensors, clips.transpose(0, 4, 1, 2, 3))
        network = i3d.build(16, channels=2, num_classes=400)
        i3d_weights.assign(network, write())
        np.testing.assert_allclose(network(clips), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_weights_of_the_other_stream_are_refused(tmp_path, random_state, random_flow_state):
    rgb = write_torch(tmp_path / "a.pt", random_state)
    flow = write_checkpoint(tmp_path / "b.ckpt", deepmind_state(random_flow_state, "Flow/inception_i3d/"))
    with pytest.raises(UserError, match=r"a\.pt: the weights of I3D for RGB; .*; they go to --extractor_weights"):
        i3d_weights.open_extractor("", rgb, "float32")
    with pytest.raises(UserError, match=r"b\.ckpt: the weights of I3D for optical flow; .*; they go to --flow_weights"):
        i3d_weights.open_extractor(flow, "", "float32")
    with pytest.raises(UserError, match=r"--flow_weights=none\.ckpt: no \.pt or \.pth file, and no checkpoint"):
        i3d_weights.open_extractor("", "none.ckpt", "float32")


@pytest.mark.slow
def test_both_streams_stand_side_by_side(tmp_path, random_state, random_flow_state):
    rgb = write_torch(tmp_path / "rgb.pt", random_state)
    flow = write_torch(tmp_path / "flow.pt", random_flow_state)
    both = i3d_weights.open_extractor(rgb, flow, "float32")
    alone = [i3d_weights.open_extractor(rgb, "", "float32"), i3d_weights.open_extractor("", flow, "float32")]
    assert [(e.looks_at, e.channels, e.num_features) for e in (*alone, both)] == [
        ("rgb", 3, 1024),
        ("flow", 2, 1024),
        ("rgb+flow", 5, 2048),
    ]
    clips = np.random.default_rng(5).integers(0, 256, (1, 16, 224, 224, 5)).astype(np.uint8)
    expected = np.concatenate([alone[0](clips[..., :3]), alone[1](clips[..., 3:])], axis=1)
    np.testing.assert_allclose(both(clips), expected, atol=1e-4 * expected.max())
    assert both.origin == f"{alone[0].origin}, {alone[1].origin}"
    assert "flow sha256" in both.origin


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "size", "classes"), [(16, 224, 400), (17, 195, 0), (26, 193, 400)])
def test_forward_equals_a_second_implementation(tmp_path, random_state, frames, size, classes):
    clips = np.random.default_rng(frames).uniform(-1, 1, (1, frames, size, size, 3)).astype(np.float32)
    logits, vectors = plain_forward(random_state, clips.transpose(0, 4, 1, 2, 3))
    expected = logits if classes else vectors
    network = i3d.build(frames, size=size, num_classes=classes)
    i3d_weights.assign(network, write_torch(tmp_path / "rgb.pt", random_state))
    np.testing.assert_allclose(network(clips), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_both_forms_of_weights_are_the_same(tmp_path, random_state):
    state = {name: np.ones_like(v) if name.endswith("bn.weight") else v for name, v in random_state.items()}
    variables = deepmind_state(state)
    assert len(variables) == 230
    of_600 = {
        name: value.reshape(1, 1, 1, 1, -1) if "batch_norm" in name else value
        for name, value in deepmind_state(state, prefix="").items()
    }
    of_600 |= {f"{name}/Momentum": value for name, value in of_600.items() if "moving" not in name}
    paths = [
        write_torch(tmp_path / "rgb.pt", state | {"Mixed_3b.b0.bn.num_batches_tracked": np.array(3)}),
        write_checkpoint(tmp_path / "model.ckpt", variables | {"global_step": np.array(7)}),
        write_checkpoint(tmp_path / "kin600.ckpt", of_600),
    ]
    networks = []
    for path in paths:
        networks.append(i3d.build(16, num_classes=400))
        i3d_weights.assign(networks[-1], path)
    for weights in zip(*(network.weights for network in networks), strict=True):
        for other in weights[1:]:
            np.testing.assert_allclose(other, weights[0], rtol=1e-6)
    without_classes = i3d.build(16)
    i3d_weights.assign(without_classes, paths[1])
    np.testing.assert_array_equal(without_classes.weights[0], networks[1].weights[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: v.pop("RGB/inception_i3d/Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w"),
            "Mixed_5b_b2b/kernel is missing",
        ),
        (
            lambda v: v.update({"RGB/inception_i3d/Mixed_6a/conv_3d/w": np.zeros(3)}),
            "I3D has not: RGB/.*/Mixed_6a/conv_3d",
        ),
        (
            lambda v: v.update({"RGB/inception_i3d/Conv3d_1a_7x7/conv_3d/w": np.zeros((7, 7, 7, 2, 64), np.float32)}),
            "the weights of I3D for optical flow; expected those for RGB",
        ),
        (
            lambda v: v.update({"RGB/inception_i3d/Mixed_4b/Branch_0/Conv3d_0a_1x1/batch_norm/beta": np.zeros(7)}),
            r"Mixed_4b_b0/beta has shape \[7\], expected \[192\]: the weights of another network",
        ),
    ],
)
def test_other_weights_are_refused(tmp_path, random_state, change, message):
    variables = deepmind_state(random_state)
    change(variables)
    with pytest.raises(UserError, match=f"model.ckpt: .*{message}"):
        i3d_weights.assign(i3d.build(16), write_checkpoint(tmp_path / "model.ckpt", variables))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.ckpt", None, r"--extractor_weights=.*none\.ckpt: no \.pt or \.pth file, and no checkpoint"),
        ("none.pt", None, r"none\.pt: cannot be read"),
        ("bad.ckpt", b"damaged", r"bad\.ckpt: damaged, or no checkpoint"),
    ],
)
def test_weights_that_cannot_be_read(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / f"{name}.index").write_bytes(content)
    with pytest.raises(UserError, match=message):
        i3d_weights.assign(i3d.build(16), str(tmp_path / name))


@pytest.mark.slow
def test_the_extractor(tmp_path, random_state):
    path = write_torch(tmp_path / "rgb.pt", random_state)
    extractor = i3d_weights.open_extractor(path, "", "float32")
    assert (extractor.clip_frames, extractor.stride_frames, extractor.frame_rate) == (16, 4, 25.0)
    clips = np.random.default_rng(1).integers(0, 256, (1, 16, 224, 224, 3)).astype(np.uint8)
    _, expected = plain_forward(random_state, (clips / np.float32(127.5) - 1).transpose(0, 4, 1, 2, 3))
    np.testing.assert_allclose(extractor(clips), expected, atol=1e-4 * expected.max())
    rounded = i3d_weights.open_extractor(path, "", "bfloat16")(clips)
    assert (rounded * expected).sum() / np.linalg.norm(rounded) / np.linalg.norm(expected) > 0.99
    random_state = {**random_state, "Conv3d_2b_1x1.bn.bias": random_state["Conv3d_2b_1x1.bn.bias"] + 1}
    other = i3d_weights.open_extractor(write_torch(tmp_path / "other.pt", random_state), "", "float32")
    assert other.origin != extractor.origin

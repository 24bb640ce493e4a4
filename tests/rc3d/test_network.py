"""R-C3D's network: against a forward pass in numpy, its sizes, its gradients, its weights from elsewhere."""

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf import settings
from a2net_tf.detection.layers import drawing
from a2net_tf.detection.localizer import Localizer
from a2net_tf.errors import UserError
from a2net_tf.modes.train import train
from a2net_tf.rc3d.layers import Frames
from a2net_tf.rc3d.network import CONVOLUTIONS, build_network
from a2net_tf.rc3d.weights import check_backbone, load_backbone
from a2net_tf.report import profiler
from a2net_tf.settings import Config
from a2net_tf.training.trainer import Trainer
from tests.rc3d.test_pooling import plainly

SMALL = {
    **{"mode": "train", "backbone": "c3d", "stages": 2, "num_levels": 3, "first_level": 3, "precision": "float32"},
    **{"backbone_channels": (2, 3, 4, 4, 5), "base_channels": 6, "head_channels": 4, "proposal_channels": 7},
    **{"window_steps": 32, "crop_size": 48, "normalize": False, "anchor_ratios": (1.0, 2.0), "proposals": 8},
    **{"center_scale": 1.0, "width_scale": 1.0, "train_proposals": 12, "batch_size": 2, "jit_compile": False},
}
SIDE, CLASSES = 52, 3


def config(**changes) -> Config:
    made = Config(**{**SMALL, **changes})
    settings.check(made)
    return made


def network(**changes):
    return build_network(config(**changes), 3 * SIDE * SIDE, CLASSES)


def frames(windows=2, steps=32, side=SIDE):
    return np.random.default_rng(1).integers(0, 256, (windows, steps, 3 * side * side)).astype(np.float32)


def with_random_weights(model):
    """Larger than those of the start, whose predictions are all but 0, and with biases."""
    random = np.random.default_rng(2)
    for weight in model.weights:
        size = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 4
        weight.assign(random.normal(0, 1.2 / np.sqrt(size), weight.shape))
    return model


# --- a forward pass in numpy


def convolve(x, layer, stride=1):
    """[T, H, W, in] -> [T, H', W', out]: a kernel of three, padded by one on all sides, then ReLU."""
    kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
    x = np.pad(x, [(1, 1), (1, 1), (1, 1), (0, 0)])
    steps, height, width = x.shape[0] - 2, (x.shape[1] - 3) // stride + 1, (x.shape[2] - 3) // stride + 1
    y = np.zeros((steps, height, width, len(bias)))
    for t, i, j in np.ndindex(3, 3, 3):
        seen = x[t : t + steps, i : i + stride * height : stride, j : j + stride * width : stride]
        y += seen[:, :height, :width] @ kernel[t, i, j]
    return np.maximum(y + bias, 0)


def halve(x, in_time):
    steps, height, width, channels = x.shape
    pairs = x.reshape(steps // (1 + in_time), 1 + in_time, height // 2, 2, width // 2, 2, channels)
    return pairs.max(axis=(1, 3, 5))


def along_steps(x, layer, relu=False):
    """[T, in] -> [T, out], a kernel of one or three."""
    kernel = layer.kernel.numpy()
    around = len(kernel) // 2
    padded = np.pad(x, [(around, around), (0, 0)])
    y = sum(padded[i : i + len(x)] @ part for i, part in enumerate(kernel)) + layer.bias.numpy()
    return np.maximum(y, 0) if relu else y


def forward(model, window, crop):
    """Conv5b and all that the first stage says of one window [W, D]."""
    get, edge = model.get_layer, (SIDE - crop) // 2
    pixels = window.reshape(-1, SIDE, SIDE, 3)[:, edge : edge + crop, edge : edge + crop]
    x = pixels[..., [2, 1, 0]].astype(np.float64) - (90, 98, 102)
    for number, names in enumerate(CONVOLUTIONS):
        if number:
            x = halve(x, in_time=number > 1)
        for name in names:
            x = convolve(x, get(name))
    cells = convolve(convolve(x, get("proposal_conv1"), 2), get("proposal_conv2"), 2).max(axis=(1, 2))
    found = {
        "anchor_logits": along_steps(cells, get("anchor_based_class")).reshape(-1, 2),
        "anchor_offsets": along_steps(cells, get("anchor_based_boundary")).reshape(-1, 2),
    }
    towers = []
    for name in ("anchor_free_class", "anchor_free_distance"):
        y = cells
        for i in (1, 2):
            y = along_steps(y, get(f"{name}_conv{i}"), relu=True)
        towers.append(along_steps(y, get(f"{name}_predict")))
    return x, {**found, "anchor_free_logits": towers[0], "anchor_free_distances": 4 * np.exp(towers[1])}


def refine(model, conv5b, proposals):
    pooled = np.stack([plainly(conv5b, segment).reshape(-1) for segment in proposals])
    hidden = along_steps(pooled, model.get_layer("fc6"), relu=True)
    names = {"refined_logits": "proposal_class_predict", "refined_offsets": "proposal_boundary_predict"}
    return {output: along_steps(hidden, model.get_layer(name)) for output, name in names.items()}


@pytest.mark.parametrize("crop", [48, 32])
def test_forward_pass_in_numpy(crop):
    model, windows = with_random_weights(network(crop_size=crop)), frames()
    outputs = {name: value.numpy() for name, value in model(windows, training=False).items()}
    assert (outputs["proposal_scores"] > 0).any(axis=1).all()
    for b, window in enumerate(windows):
        conv5b, expected = forward(model, window, crop)
        expected.update(refine(model, conv5b, outputs["proposals"][b].astype(np.float64)))
        for name, value in expected.items():
            np.testing.assert_allclose(
                outputs[name][b], value, rtol=1e-4, atol=1e-4 * np.abs(value).max(), err_msg=name
            )


def test_proposals_are_the_best_of_both_modules():
    outputs = with_random_weights(network())(frames(), training=False)
    action = np.concatenate([tf.nn.softmax(outputs[f"{n}_logits"])[..., 1] for n in ("anchor_free", "anchor")], axis=1)
    assert outputs["proposals"].shape == (2, 8, 2)
    assert action.shape == (2, 4 + 8)
    for scores, places, known in zip(outputs["proposal_scores"], outputs["proposal_places"], action, strict=True):
        there = scores > 0
        np.testing.assert_allclose(scores[there], known[places[there]], rtol=1e-6)
        assert (np.diff(scores) <= 0).all()


# --- sizes, gradients, training


def batch(made, side=SIDE, windows=2):
    segments = tf.constant([[[0.1, 0.6], [0.0, 0.0]], [[0.0, 0.2], [0.5, 0.95]]])[:windows]
    labels = tf.constant([[2, 0], [1, 3]])[:windows]
    return {"features": tf.constant(frames(windows, made.window_steps, side)), "segments": segments, "labels": labels}


def gradients_of(model, made, data):
    trainer, seed = Trainer(model, made), tf.constant([0, 1])
    with tf.GradientTape() as tape:
        outputs = trainer.forward(data["features"], seed, actions=data["segments"])
        loss = trainer.objective(outputs, data, seed)[0]["loss"]
    weights = model.trainable_variables
    return dict(zip([w.path for w in weights], tape.gradient(loss, weights), strict=True))


@pytest.mark.parametrize(
    "changes", [{}, {"anchor_free": False}, {"anchor_based": False}, {"precision": "bfloat16"}], ids=str
)
def test_every_weight_learns(changes):
    made = config(**changes)
    model = with_random_weights(build_network(made, 3 * SIDE * SIDE, CLASSES))
    found = gradients_of(model, made, batch(made))
    for name, gradient in found.items():
        assert np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() > 0, name


def test_a_window_without_action_has_finite_losses_and_gradients():
    made = config()
    nothing = {**batch(made), "segments": tf.zeros((2, 2, 2)), "labels": tf.zeros((2, 2), tf.int32)}
    found = gradients_of(with_random_weights(network()), made, nothing)
    assert all(np.isfinite(gradient).all() for gradient in found.values())
    assert np.abs(found["anchor_based_class/kernel"]).max() > 0


@pytest.mark.slow
def test_sizes_of_the_paper_s_network():
    """Two variants of anchors, alone and with the anchor-free module: the rows of Tables XII and XIII."""
    short, long = (2, 4, 5, 6, 8, 9, 10, 12, 14, 16), tuple(range(2, 57, 2))
    for ratios, free in ((short, False), (short, True), (long[:28], False)):
        made = Config(
            **{name: SMALL[name] for name in ("mode", "backbone", "stages", "num_levels", "first_level", "precision")},
            window_steps=768,
            anchor_ratios=ratios,
            anchor_free=free,
            proposal_channels=4096,
            proposals=300,
        )
        model = build_network(made, 3 * 128 * 128, 20)
        assert model.cuts.base_features.shape == (None, 96, 7, 7, 512)
        assert model.output["anchor_logits"].shape == (None, 96 * len(ratios), 2)
        assert model.output["proposals"].shape == (None, 300, 2)
        assert model.output["refined_logits"].shape == (None, 300, 21)
        assert ("anchor_free_logits" in model.output) == free
        costs = profiler.profile(model)["parts"]
        kernels = [(3, 64, 1, 1), (64, 128, 1, 2), (128, 256, 2, 4), (256, 256, 2, 4), (256, 512, 4, 8)]
        kernels += [(512, 512, 4, 8), (512, 512, 8, 16), (512, 512, 8, 16)]
        convolutions = sum(27 * i * o * (768 // t) * (112 // s) ** 2 for i, o, t, s in kernels)
        assert costs["base"]["multiply_adds"] == convolutions
        assert costs["second_stage"]["multiply_adds"] == 300 * (8192 * 4096 + 4096 * (21 + 40))


def test_inference_windows_may_be_longer():
    model = network(window_steps=64)
    names = {weight.path: tuple(weight.shape) for weight in model.weights}
    assert names == {weight.path: tuple(weight.shape) for weight in network().weights}


def test_localizer_finds_in_a_sequence_of_any_length():
    localizer = Localizer(with_random_weights(network()), config(), ["a", "b", "c"])
    sequence = frames(1, 45)
    found = localizer(tf.constant(sequence), tf.constant([45]), tf.constant([0.04]))
    assert localizer.branches == ("anchor_free", "anchor_based", "both")
    assert int(found["num_detections"][0]) > 0
    assert float(tf.reduce_max(found["segments"])) <= 45 * 0.04 + 1e-4


# --- frames


def test_frames_at_rest_are_the_middle_blue_first():
    pictures = np.arange(5 * 5 * 3, dtype=np.float32).reshape(1, 1, 75)
    found = Frames(5, 3, subtract_mean=True)(pictures).numpy()[0, 0]
    np.testing.assert_array_equal(found + (90, 98, 102), pictures.reshape(5, 5, 3)[1:4, 1:4, ::-1])
    assert (Frames(5, 3, subtract_mean=False)(pictures).numpy()[0, 0] == found + (90, 98, 102)).all()


def test_frames_in_training_are_any_part_of_a_window_mirrored_or_not():
    model = network(crop_size=50)
    pictures = np.repeat(frames(400, 1, SIDE), 2, axis=1)
    layer = Frames(SIDE, 50, subtract_mean=False, name="frames")
    with drawing(model, tf.constant([3, 4])):
        found = layer(tf.constant(pictures), training=True).numpy()
    assert (found[:, 0] == found[:, 1]).all()  # all frames of a window alike
    whole = pictures.reshape(400, 2, SIDE, SIDE, 3)[:, 0, :, :, ::-1]
    kinds = set()
    for picture, part in zip(whole, found[:, 0], strict=True):
        parts = {
            (i, j, mirrored): picture[i : i + 50, j : j + 50][:, :: -1 if mirrored else 1]
            for i in range(3)
            for j in range(3)
            for mirrored in (False, True)
        }
        kinds |= {kind for kind, expected in parts.items() if (expected == part).all()}
    assert len(kinds) == 18


# --- what cannot be, and weights from elsewhere


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": 1}, "--stages=1: with --backbone=c3d it must be 2"),
        ({"first_level": 1}, "--first_level=1: with --backbone=c3d it must be 3"),
        (
            {"step_classifier": True, "step_layers": 3},
            "--step_classifier=True: with --backbone=c3d it must be left out",
        ),
        ({"backbone_channels": (8, 8)}, "--backbone_channels has 2 values"),
        ({"overlap_loss": "mse"}, "--overlap_loss=mse: --backbone=c3d has no use for it; leave it out"),
    ],
)
def test_settings_that_do_not_go_with_it(changes, message):
    with pytest.raises(UserError, match=message):
        config(**changes)


def test_features_that_are_no_frames():
    with pytest.raises(UserError, match="these features have 2048"):
        build_network(config(), 2048, CLASSES)
    with pytest.raises(UserError, match="--crop_size=48: the frames have 40 x 40 pixels"):
        build_network(config(), 3 * 40 * 40, CLASSES)


def tensors_of(model):
    """What a PyTorch file of C3D has: convolutions, and fc6 by channel, step, row and column."""
    random, found = np.random.default_rng(5), {}
    names = [name for group in CONVOLUTIONS for name in group]
    for number, name in enumerate(names):
        shape = model.get_layer(name).kernel.shape
        found[f"features.{3 * number}.weight"] = random.normal(size=(shape[4], shape[3], 3, 3, 3)).astype(np.float32)
        found[f"features.{3 * number}.bias"] = random.normal(size=shape[4]).astype(np.float32)
    found["classifier.0.weight"] = random.normal(size=(7, 5 * 16)).astype(np.float32)
    found["classifier.0.bias"] = random.normal(size=7).astype(np.float32)
    return found


def save(path, tensors):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, path)
    return str(path)


def test_weights_of_c3d_are_loaded_and_the_first_two_convolutions_are_frozen(tmp_path):
    model = network(backbone_weights="c3d.pth")
    tensors = tensors_of(model)
    load_backbone(model, save(tmp_path / "c3d.pth", dict(reversed(tensors.items()))))
    last = tensors["features.21.weight"]
    np.testing.assert_array_equal(model.get_layer("conv5b").kernel.numpy()[0, 1, 2, 3, 4], last[4, 3, 0, 1, 2])
    np.testing.assert_array_equal(model.get_layer("conv1a").bias.numpy(), tensors["features.0.bias"])
    by_bin = model.get_layer("fc6").kernel.numpy().reshape(4, 2, 2, 5, 7)
    np.testing.assert_array_equal(
        by_bin[3, 1, 0, 2, 6], tensors["classifier.0.weight"].reshape(7, 5, 4, 2, 2)[6, 2, 3, 1, 0]
    )
    frozen = {w.path for w in model.weights} - {w.path for w in model.trainable_variables}
    assert frozen == {f"{name}/{part}" for name in ("conv1a", "conv2a") for part in ("kernel", "bias")}


def test_weights_of_another_size_are_refused(tmp_path):
    tensors = tensors_of(network())
    path = save(tmp_path / "c3d.pth", tensors)
    with pytest.raises(UserError, match=r"'features.0.weight': expected finite numbers of shape \[3, 3, 3, 3, 4\]"):
        load_backbone(network(backbone_channels=(4, 4, 4, 4, 4)), path)
    few = {name: value for name, value in tensors.items() if "21" not in name}
    with pytest.raises(UserError, match="7 convolutions over time; C3D has 8"):
        load_backbone(network(), save(tmp_path / "few.pth", few))


def test_weights_are_looked_at_before_frames_are(tmp_path):
    path = save(tmp_path / "c3d.pth", tensors_of(network()))
    check_backbone(config(backbone_weights=path))
    with pytest.raises(UserError, match=r"'features.0.weight': expected finite numbers of shape \[3, 3, 3, 3, 4\]"):
        check_backbone(config(backbone_weights=path, backbone_channels=(4, 4, 4, 4, 4)))
    with pytest.raises(UserError, match="c3d.pth: is for --backbone=c3d"):
        check_backbone(Config(backbone_weights=path))
    missing = str(tmp_path / "none.pth")
    arguments = {"dataset": "feature_folder", "train_split": "train", "workdir": str(tmp_path / "run")}
    with pytest.raises(UserError, match="none.pth"):
        train(config(mode="train", backbone_weights=missing, manual_dir=str(tmp_path), **arguments))

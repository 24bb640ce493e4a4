"""The benchmarks: the PyTorch network computes what the Keras network does, figures by hand, and the whole commands."""

import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import measure, synthetic
from tests import forks, tiny

try:
    import torch
except ImportError:
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason='needs torch (pip install ".[release]")')

SIZES = (*tiny.NETWORK, "--num_levels=1", "--num_features=5", "--num_classes=3", "--batch_size=4", "--nonormalize")


def command(script, *arguments):
    """Runs a benchmark as a user does, in a checkout that need not be installed."""
    return forks.run([sys.executable, f"benchmarks/{script}.py", *arguments], cwd=tiny.REPO)


# The PyTorch network


@pytest.fixture(scope="module")
def pair(make_config, make_network):
    """The same weights in both frameworks, their losses, and a batch with a window without actions."""
    from a2net_tf.training.trainer import Trainer
    from benchmarks import pytorch_a2net

    torch.set_num_threads(1)  # two that wait for each other are slow beside other tests
    config = make_config(num_features=5, num_classes=3, feature_columns=(1, 5))
    network = make_network(config)
    theirs = pytorch_a2net.A2Net(config, 5, 3)
    pytorch_a2net.copy_weights(theirs, network)
    batch = synthetic.training_batch(config)
    batch["labels"][1] = 0
    return Trainer(network, config), theirs, pytorch_a2net.Losses(config, torch.device("cpu")), batch


def close(actual, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(expected).max()))


def their_outputs(theirs, batch):
    return theirs(torch.from_numpy(batch["features"].transpose(0, 2, 1).copy()))


@needs_torch
def test_outputs_are_the_same(pair):
    trainer, theirs, _, batch = pair
    expected, found = trainer.network(batch["features"]), their_outputs(theirs, batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        close(found[name].detach(), value)


@needs_torch
def test_losses_and_gradients_are_the_same(pair):
    """With the same negatives. The drawn ones are looked at below."""
    import tensorflow as tf

    from a2net_tf.detection import pyramid, targets
    from a2net_tf.modes import import_release

    trainer, theirs, losses, batch = pair
    config, weights, seed = trainer.config, trainer.network.trainable_variables, tf.constant([3, 4])
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    with tf.GradientTape() as tape:
        outputs = trainer.network(tensors["features"], training=True)
        expected, _ = trainer.objective(outputs, tensors, seed)
    gradients = tape.gradient(expected["loss"], [w.value for w in weights])
    defaults = pyramid.default_anchors(config.window_steps, config.num_levels, config.anchor_ratios)
    decoded = pyramid.decode_anchors(outputs["anchor_offsets"], defaults, config.center_scale, config.width_scale)
    matches = targets.match_anchors(decoded, tensors["segments"], tensors["labels"])
    negatives = targets.choose_negatives(matches, outputs["anchor_overlap"], ratio=config.negative_ratio, seed=seed)
    assert matches.positive.numpy().any()

    found = losses(
        their_outputs(theirs, batch),
        torch.from_numpy(batch["segments"]),
        torch.from_numpy(batch["labels"]).long(),
        torch.from_numpy(negatives.numpy()),
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(value) > 0
        close(found[name].detach(), value)
    theirs.zero_grad()
    found["loss"].backward()
    ours = {"/".join(w.path.split("/")[-2:]): g.numpy() for w, g in zip(weights, gradients, strict=True)}
    names = import_release.tensor_names(config)
    assert set(names.values()) == set(ours)
    for name, parameter in theirs.named_parameters():
        assert "scale" in name or np.abs(ours[names[name]]).max() > 0  # a level without an action has no distances
        close(parameter.grad.numpy(), ours[names[name]].transpose().reshape(parameter.shape))


@needs_torch
def test_drawn_negatives(pair):
    """All hard ones, and as many easy ones as positives on average; half of them in a window without positives."""
    _, _, losses, _ = pair
    number = 10_000
    positive = torch.zeros((2, number), dtype=torch.bool)
    positive[0, :1000] = True
    overlap = torch.zeros((2, number))
    overlap[0, 500:1500] = 0.9  # 500 positives, 500 hard negatives
    chosen = losses.choose_negatives(positive, overlap)
    assert not chosen[positive].any()
    assert chosen[0, 1000:1500].all()
    assert 850 < int(chosen[0, 1500:].sum()) < 1150
    assert 4700 < int(chosen[1].sum()) < 5300


@needs_torch
def test_a_training_step_lowers_the_loss(pair):
    from benchmarks import pytorch_a2net

    trainer, _, _, batch = pair
    torch.manual_seed(0)
    config = dataclasses.replace(trainer.config, learning_rate=1e-2)
    training = pytorch_a2net.Training(config, batch, torch.device("cpu"))
    losses = [training.step() for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
@needs_torch
@pytest.mark.parametrize("overlap_score", ["raw", "sigmoid"])
def test_evaluation_finds_the_same(make_config, make_network, tmp_path, overlap_score):
    """A sequence with several windows and one shorter than a window, through both evaluations."""
    pytest.importorskip("pandas", reason="the release's way of evaluating needs pandas")
    from a2net_tf.detection.localizer import Localizer
    from a2net_tf.inference import localization
    from benchmarks import pytorch_a2net

    config = make_config(overlap_score=overlap_score, anchor_based_lambda=0.6)
    network, names, files = make_network(config), ["a", "b", "c"], []
    for name, steps in (("long", 75), ("short", 20)):
        files.append(str(tmp_path / f"{name}.npy"))
        np.save(files[-1], np.random.default_rng(steps).normal(size=(steps, 5)).astype(np.float32))
    theirs = pytorch_a2net.A2Net(config, 5, 3)
    pytorch_a2net.copy_weights(theirs, network)
    losses = pytorch_a2net.Losses(config, torch.device("cpu"))
    output = str(tmp_path / "found.json")
    pytorch_a2net.evaluate(theirs, losses, files, class_names=names, seconds_per_step=0.5, output=output)
    written = json.loads((tmp_path / "found.json").read_text())["results"]

    localizer = Localizer(network, config, names)
    sources = localization.read_feature_files(
        str(tmp_path), num_features=5, seconds_per_step=0.5, first_step_seconds=0.0
    )
    for source in sources:
        [found] = localization.localize(localizer, source)
        rows = written[found.video]
        assert len(rows) == len(found.merged) > 5
        close([row["score"] for row in rows], found.merged.scores)
        close([row["segment"] for row in rows], found.merged.segments)
        assert [row["label"] for row in rows] == [names[label] for label in found.merged.labels]


@pytest.mark.slow
@needs_torch
def test_the_pytorch_process_holds_no_tensorflow():
    """Its memory would be counted."""
    code = "import sys, benchmarks.pytorch_a2net; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tiny.REPO).returncode == 0


@needs_torch
def test_settings_that_the_pytorch_network_does_not_have(make_config):
    from a2net_tf.errors import UserError
    from benchmarks import pytorch_a2net

    assert not pytorch_a2net.unsupported(make_config())
    with pytest.raises(UserError, match="--overlap_loss=mse"):
        pytorch_a2net.A2Net(make_config(overlap_loss="mse"), 5, 3)


@pytest.mark.slow
@needs_torch
def test_a_recipe_is_measured_without_pytorch():
    """One line says why, and the own rows are there."""
    arguments = ("--convolution_norm=group", "--norm_groups=2", "--quick", "--parts=forward,training", "--sizes=2")
    done = command("speed", *SIZES, *arguments)
    assert done.returncode == 0, done.stderr
    assert "no rows of PyTorch: --convolution_norm=group: the PyTorch network" in done.stdout
    assert "2 windows, Keras float32" in done.stdout
    assert "PyTorch float32" not in done.stdout


# The network of ActionFormer's size


def small_actionformer(**changes):
    """Two levels, windows of five steps: lengths are multiples of eight."""
    from benchmarks import pytorch_actionformer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = pytorch_actionformer.Sizes(channels=8, heads=2, window=5, stem=1, levels=2, training_steps=32)
    return pytorch_actionformer.ActionFormer(5, 3, sizes._replace(**changes))


@needs_torch
def test_actionformer_has_the_published_size():
    from benchmarks import pytorch_actionformer

    network = pytorch_actionformer.ActionFormer(150, 12)
    assert pytorch_actionformer.num_weights(network) == 26_323_988
    assert network.sizes.multiple == 256


@needs_torch
@pytest.mark.parametrize("window", [3, 9])
def test_local_attention_is_that_of_a_loop_over_steps(window):
    from benchmarks import pytorch_actionformer

    random = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(2, 2, 16, 4, generator=random) for _ in range(3))
    valid = torch.arange(16) < torch.tensor([[16], [6]])
    found = pytorch_actionformer.local_attention(queries, keys, values, valid, window)
    assert found.shape == queries.shape
    for b, h, t in np.ndindex(2, 2, 16):
        near = [i for i in range(t - window // 2, t + window // 2 + 1) if 0 <= i < 16 and valid[b, i]]
        if near:
            weights = torch.softmax(keys[b, h, near] @ queries[b, h, t] / 4**0.5, dim=0)
            close(found[b, h, t], weights @ values[b, h, near])


@needs_torch
def test_actionformer_shapes_and_padding():
    """More padding behind a sequence changes nothing at its points."""
    from benchmarks import pytorch_actionformer

    network = small_actionformer().eval()
    sequence = np.random.default_rng(0).normal(size=(19, 5)).astype(np.float32)
    short, long = (network(*pytorch_actionformer.pad([sequence], steps)) for steps in (24, 32))
    assert [tuple(output.shape) for output in short] == [(1, 24 + 12, 3), (1, 24 + 12, 2)]
    for a, b in zip(short, long, strict=True):
        close(a[0, :19].detach(), b[0, :19].detach())
        close(a[0, 24 : 24 + 10].detach(), b[0, 32 : 32 + 10].detach())
    assert (short[1] >= 0).all()


@needs_torch
def test_actionformer_targets_by_hand():
    """Near the centre, within the level's range; the shorter of two actions wins; padding and no action: nothing."""
    from benchmarks import pytorch_actionformer

    points = pytorch_actionformer.make_points(16, 2)
    assert points.times.tolist() == [*range(16), *range(0, 16, 2)]
    segments = torch.tensor([[[1.0, 6.0], [2.0, 5.0], [0.0, 16.0]], [[0.0, 9.0]] * 3])
    labels, distances = pytorch_actionformer.assign_points(points, segments, torch.tensor([[1, 2, 3], [0, 0, 0]]))
    assert labels[0].tolist() == [0, 0, 0, 2, 2, *[0] * 11, 0, 1, 2, 3, 3, 3, 0, 0]
    assert not labels[1].any()
    assert distances[0, 3].tolist() == [1.0, 2.0]
    assert distances[0, 16 + 4].tolist() == [4.0, 4.0]  # in strides of two


@needs_torch
def test_actionformer_losses_by_hand():
    from benchmarks import pytorch_actionformer

    found, target = torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    assert float(pytorch_actionformer.distance_iou_loss(found, target)) == pytest.approx(1 - 2 / 4 + (1 / 4) ** 2)
    assert float(pytorch_actionformer.distance_iou_loss(found[:0], target[:0])) == 0
    # at a probability of one half: a quarter, or three, of ln 2, times one half squared
    logits, one_hot = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    assert float(pytorch_actionformer.focal_loss(logits, one_hot)) == pytest.approx(np.log(2) / 4)


@needs_torch
def test_an_actionformer_step_lowers_the_loss():
    from benchmarks import pytorch_actionformer

    network = small_actionformer()
    features, valid = pytorch_actionformer.pad(list(np.random.default_rng(0).normal(size=(2, 30, 5))), 32)
    segments, labels = torch.tensor([[[3.0, 8.0]], [[10.0, 30.0]]]), torch.tensor([[1], [3]])
    training = pytorch_actionformer.Training(network, features, valid, segments=segments, labels=labels)
    for group in training.optimizer.param_groups:
        group["lr"] = 1e-2
    training.normalizer = 1.0
    losses = [training.step() * training.normalizer for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    weights = zip(training.average.parameters(), network.parameters(), strict=True)
    assert any((a != b).any() for a, b in weights)


# Figures by hand


def test_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = measure.take_turns(calls, rounds=3, seconds=0.0)
    assert "".join(order) == "ab" + "aabb" * 3  # once to trace; then in every turn one that is not counted
    assert {name: [len(turn) for turn in turns] for name, turns in times.items()} == {"a": [1] * 3, "b": [1] * 3}


def test_a_row_by_hand():
    """Ratios are taken within a round: the second one met a busy machine."""
    times = {
        "Keras float32": [[0.5], [5.0], [0.5]],
        measure.RIVAL: [[1.0], [10.0], [1.0]],
        "limit float32": [[0.1], [1.0], [0.1]],
        "limit memory": [[0.1], [1.0], [0.1]],
    }
    limits = {"float32": measure.Limit(None, 1e9), "memory": measure.Limit(None, 1e6)}
    work = measure.Work(windows=32, multiply_adds=2e9, bytes=3e6)  # 0.2 s of products, 0.3 s of memory
    row = measure.make_row("forward", "Keras float32", times, work, limits)
    assert row["ms"]["median"] == 500
    assert row["windows_per_second"] == 64
    assert row["multiply_adds_per_second"] == 4e9
    assert row["pytorch_ratio"]["median"] == pytest.approx(2)
    assert row["limit_share"]["median"] == pytest.approx(0.6)
    assert row["judged"]
    theirs = measure.make_row("forward", measure.RIVAL, times, work, limits)
    assert not theirs["judged"]
    assert "pytorch_ratio" not in theirs


def test_a_difference_that_noise_has_reversed_has_no_rate():
    times = {"later": [[1.0], [1.0]], "earlier": [[0.5], [1.5]], "limit float32": [[0.1], [0.1]]}
    times["part"] = measure.difference(times, "later", "earlier")
    assert times["part"] == [[0.5], [-0.5]]
    work = measure.Work(windows=1, multiply_adds=1e9)
    row = measure.make_row("training", "part", times, work, {"float32": measure.Limit(None, 1e9)})
    assert row.keys() == {"part", "name", "judged", "ms"}


def rows_with(ratio, share, judged=True):
    figures = {"pytorch_ratio": {"median": ratio}, "limit_share": {"median": share}}
    return [{"part": "forward", "name": "x", "judged": judged, **figures}]


@pytest.mark.parametrize(
    ("now", "worse"),
    [
        (rows_with(1.72, 0.6), []),
        (rows_with(1.68, 0.6), ["x PyTorch f32"]),
        (rows_with(2.5, 0.4), ["of limit"]),
        (rows_with(1.0, 0.1, judged=False), []),
        ([{**rows_with(1.0, 0.1)[0], "name": "new"}], []),
    ],
)
def test_what_counts_as_worse(now, worse):
    _, found = measure.compare(now, rows_with(2.0, 0.6))
    assert [title for line in found for title in ("x PyTorch f32", "of limit") if title in line] == worse


@pytest.mark.slow
def test_memory_is_that_of_the_process_alone():
    ballast = np.ones(2**26)  # 512 MB here, which the other process must not count
    value, peak = measure.in_fresh_process("benchmarks.measure", "default_threads")
    assert value == measure.default_threads()
    assert 5e6 < peak < ballast.nbytes


def recording(name, steps, segments):
    return {
        "id": name,
        "features": np.full((steps, 2), steps, np.float32),
        "segments": np.array(segments, np.float32).reshape(-1, 2),
        "labels": np.arange(len(segments)),
        "first_step_seconds": 0.25,
        "feature_stride_seconds": 0.5,
    }


def test_recordings_of_a_person_follow_each_other():
    from benchmarks import recipe

    records = [
        recording(b"exp01_user01", 4, [[0.25, 1.25]]),
        recording(b"exp02_user02", 2, []),
        recording(b"exp03_user01", 3, [[0.75, 1.25], [0.25, 0.75]]),
    ]
    (features, segments, labels), (others, no_segments, _) = recipe.by_person(records)
    assert features[:, 0].tolist() == [4] * 4 + [3] * 3
    assert segments.tolist() == [[0, 2], [5, 6], [4, 5]]
    assert labels.tolist() == [0, 0, 1]
    assert (len(others), no_segments.shape) == (2, (0, 2))
    assert recipe.person(recording(b"tap7", 1, [])) == "tap7"


def test_rows_of_the_recipe_by_hand():
    """Ratios are taken turn by turn: the second one met a busy machine."""
    from benchmarks import recipe

    seconds = {
        recipe.INFERENCE: [0.5, 5.0],
        recipe.STEP: [0.1, 1.0],
        recipe.INPUT: [0.2, 2.0],  # an epoch of two steps
        recipe.RIVAL_INFERENCE: [5.0, 50.0],
        recipe.RIVAL_SEQUENCES: [10.0, 100.0],
        recipe.RIVAL_STEP: [2.0, 20.0],
    }
    facts = {"weights": 1e6, "recordings": 3, "steps": 60, "steps per epoch": 2, "recorded seconds": 30.0}
    facts |= {"ActionFormer weights": 26e6, "ActionFormer steps": 30}
    rows = {
        row["name"]: row for row in recipe.make_rows(seconds, facts, {"training": (67.0,), "inference": (4.0, 8.0)})
    }
    assert {name: row["ratio"]["median"] for name, row in rows.items() if "ratio" in row} == pytest.approx(
        {
            "weights": 26,
            "inference, 3 recordings, s": 10,
            "  padded as published, s": 20,
            "training, minutes": (30 * 2.0) / (60 * 0.2),
            "  as history.csv says, minutes": (1 + 10) / 2 / 0.5,
        }
    )
    assert rows["training, minutes"]["own"]["median"] == pytest.approx((0.2 + 2) / 2)
    assert rows["  as history.csv says, minutes"]["own_code_ratio"] == [134]
    assert rows["inference, 3 recordings, s"]["own_code_ratio"] == pytest.approx([4 / 2.75, 8 / 2.75])
    assert "4.00 to 8.00" in recipe.format_rows(list(rows.values()))

    alone = {name: turns for name, turns in seconds.items() if not name.startswith("ActionFormer")}
    rows = recipe.make_rows(alone, {"weights": 1e6, "recordings": 3, "steps": 60, "steps per epoch": 2}, {})
    assert not any("ratio" in row or "actionformer" in row for row in rows)


# Whole commands


@pytest.fixture(scope="module")
def measured(slow, tmp_path_factory):
    """The table and the JSON of all quick parts."""
    file = tmp_path_factory.mktemp("speed") / "speed.json"
    done = command("speed", *SIZES, "--quick", "--threads=1", f"--json={file}")
    assert done.returncode == 0, done.stderr
    return done.stdout, file


def test_every_part_has_rows(measured):
    table, file = measured
    written = json.loads(file.read_text())
    rows = {part: [row["name"] for row in written["rows"] if row["part"] == part] for part in written_parts(written)}
    assert set(rows) == {"limits", "forward", "training", "evaluation", "input", "memory"}
    assert {"1 window, Keras float32", "32 windows, frozen bfloat16"} <= set(rows["forward"])
    assert {"step of 4, Keras float32", "step of 4, Keras bfloat16"} <= set(rows["training"])
    assert {f"  {part}, Keras float32" for part in ("forward", "targets and losses", "backward", "update")} <= set(
        rows["training"]
    )
    assert all(name in table for names in rows.values() for name in names)
    assert written["machine"]["threads"] == 1
    assert written["versions"]["tensorflow"]
    assert {row["name"] for row in written["rows"] if row["part"] == "memory" and row["peak_megabytes"] < 50} == set()


@needs_torch
def test_both_frameworks_are_in_every_part(measured):
    written = json.loads(measured[1].read_text())
    for part in ("limits", "forward", "training", "evaluation", "memory"):
        names = [row["name"] for row in written["rows"] if row["part"] == part]
        assert any("PyTorch" in name for name in names), part
    judged = [row for row in written["rows"] if row["judged"] and row["part"] not in ("limits", "input")]
    assert all("pytorch_ratio" in row for row in judged)


def written_parts(written):
    return dict.fromkeys(row["part"] for row in written["rows"])


def test_a_ratio_that_fell_is_told_by_the_exit_status(measured, tmp_path, capsys):
    """Against figures that no run reaches."""
    stored = json.loads(measured[1].read_text())
    for row in stored["rows"]:
        for figure in measure.RATIOS:
            if figure in row:
                row[figure]["median"] *= 1000
    (tmp_path / "stored.json").write_text(json.dumps(stored))
    arguments = ("--quick", "--parts=forward", "--sizes=32", f"--compare={tmp_path / 'stored.json'}")
    done = command("speed", *SIZES, *arguments)
    assert done.returncode == 1, done.stderr
    assert "worse: forward: 32 windows, Keras float32: of limit fell from" in done.stdout
    from benchmarks import speed

    assert speed.main([*SIZES, "--base_channels=9", *arguments]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: {tmp_path / 'stored.json'}: measured with other settings: --base_channels"
    ]


@pytest.mark.slow
def test_without_torch(tmp_path):
    """A torch that cannot be found: one line says so, and the own rows are there."""
    (tmp_path / "torch.py").write_text('raise ModuleNotFoundError("No module named torch", name="torch")')
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv[0] = 'benchmarks/speed.py'; "
        "from benchmarks import speed; sys.exit(speed.main(sys.argv[1:]))"
    )
    arguments = (*SIZES, "--quick", "--parts=forward", "--sizes=2")
    done = forks.run([sys.executable, "-c", code, *arguments], cwd=tiny.REPO)
    assert done.returncode == 0, done.stderr
    assert 'pip install ".[release]"' in done.stdout
    assert "2 windows, Keras float32" in done.stdout
    assert "PyTorch float32" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("with_torch", [pytest.param(True, marks=needs_torch), False])
def test_recipe(tmp_path, with_torch):
    """A run of the toy dataset, whose sequences stand for people."""
    (tmp_path / "torch.py").write_text('raise ModuleNotFoundError("No module named torch", name="torch")')
    hide = "" if with_torch else f"sys.path.insert(0, {str(tmp_path)!r}); "
    code = f"import sys; {hide}from benchmarks import recipe; sys.exit(recipe.main(sys.argv[1:]))"
    arguments = (f"--workdir={tiny.trained()}", "--quick", f"--output={tmp_path / 'recipe.json'}")
    done = forks.run([sys.executable, "-c", code, *arguments], cwd=tiny.REPO)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "recipe.json").read_text())
    rows = {row["name"].strip(): row for row in written["rows"]}
    assert all(name in done.stdout for name in rows)
    assert rows["inference, 2 recordings, s"]["own"]["median"] > 0
    assert rows["training step, ms"]["own"]["median"] > 0
    assert ("ratio" in rows["training, minutes"]) == with_torch
    assert ("torch is not installed" in done.stdout) == (not with_torch)
    assert not any("own_code" in row for row in rows.values())  # recorded with other data
    assert written["machine"]["threads"] == 1
    if with_torch:
        assert rows["steps"]["actionformer"]["median"] == 105 * (8 // 2)


@pytest.mark.slow
def test_scaling(tmp_path):
    arguments = (*SIZES, "--quick", "--axes=levels,videos", f"--json={tmp_path / 'scaling.json'}")
    done = command("scaling", *arguments)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert [(row["axis"], row["value"]) for row in rows] == [("levels", 2), ("videos", "1 min")]
    assert rows[0]["forward_ms"] > 0
    assert rows[0]["step_ms"] > 0
    assert rows[1]["video_ms"] > rows[1]["suppression_ms"] > 0
    assert all(row["peak_megabytes"] > 50 for row in rows)


def test_an_axis_changes_one_setting(make_config):
    from benchmarks import scaling

    config = make_config(window_steps=64, num_levels=4, level_channels=(8, 7, 6, 5))
    assert scaling.change(config, "levels", 2).level_channels == (8, 7)
    assert scaling.change(config, "levels", 6).level_channels == (8, 7, 6, 5, 5, 5)
    assert scaling.change(config, "classes", 9).num_classes == 9
    assert scaling.change(config, "batch", 9).batch_size == 9


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("speed", ("--parts=speed",), "--parts: no part 'speed'; there are limits, forward"),
        ("speed", ("--sizes=1,x",), "--sizes=1,x: expected whole numbers"),
        ("speed", ("--threads=0",), "--threads=0: must be >= 1"),
        ("speed", ("--quick",), "--num_features and --num_classes are needed"),
        ("speed", (*SIZES, "--compare=missing.json"), "missing.json: cannot be read"),
        ("recipe", ("--rounds=0", "--workdir=run"), "--rounds=0: must be >= 1"),
        ("recipe", (), "--workdir=: expected the folder of one trained run"),
        ("recipe", ("--workdir=a,b",), "--workdir=a,b: expected the folder of one trained run"),
        ("recipe", ("--workdir=missing",), "--workdir=missing: no trained model here"),
        ("scaling", ("--axes=height",), "--axes: no axis 'height'; there are classes, levels"),
        ("scaling", ("--widow_steps=3",), "Unknown command line flag 'widow_steps'"),
    ],
)
def test_mistakes(script, arguments, message, capsys):
    assert importlib.import_module(f"benchmarks.{script}").main(arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize("script", ["speed", "scaling", "recipe"])
def test_help(script, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"benchmarks.{script}").main(["--help"])
    assert end.value.code == 0
    assert f"python benchmarks/{script}.py --" in capsys.readouterr().out


@pytest.mark.slow
def test_extraction(tmp_path):
    pytest.importorskip("av", reason="PyAV (the extra [video]) is not installed")
    pytest.importorskip("cv2", reason="OpenCV (the extra [video]) is not installed")
    from tests import films

    film, extractor = films.write(tmp_path / "a.mp4", 50), films.save_extractor(tmp_path / "looks")
    flags = [f"--extractor=saved_model:{extractor}", f"--frame_size={films.EXTRACTOR_SIZE}", "--clip_frames=4"]
    done = command("extraction", f"--videos={film}", "--repeats=1", *flags)
    assert done.returncode == 0, done.stderr
    title, _, *rows, share = done.stdout.splitlines()
    assert title.startswith("1 videos, 2.0 s, saved_model:looks")
    parts = ["decoding", "decoding and resizing", "everything but the network", "the network alone", "all together"]
    assert [row.split("  ")[0] for row in rows] == parts
    assert all(float(row.split()[-1]) > 0 for row in rows)
    assert re.fullmatch(r"share of the network's own speed: \d+ %", share)


@pytest.mark.slow
def test_optical_flow(tmp_path):
    pytest.importorskip("av", reason="PyAV (the extra [video]) is not installed")
    if not hasattr(pytest.importorskip("cv2", reason="OpenCV is not installed"), "optflow"):
        pytest.skip("this package of OpenCV has no TV-L1: it is in those with contrib in their names")
    from tests import films

    y, x = np.mgrid[:48, :64]
    greys = [np.uint8(127 + 60 * np.sin(0.3 * (x - t) + 0.1 * y) + 50 * np.sin(0.4 * y - 0.2 * x)) for t in range(20)]
    path = films.write(tmp_path / "a.mp4", [grey[..., None].repeat(3, 2) for grey in greys])
    done = command("optical_flow", f"--videos={path}", "--size=20x16", "--repeats=2")
    assert done.returncode == 0, done.stderr
    title, _, *rows = done.stdout.splitlines()
    assert title.startswith("2 pairs of 20 x 16 pixels, ")
    found = {row.split("  ")[0]: float(row.split("  ")[-1].split("(")[0]) for row in rows}
    assert found.keys() == {"OpenCV's TV-L1", "tvl1", "dis", "farneback"}
    assert found["OpenCV's TV-L1"] == 0
    assert found["tvl1"] < 0.1


# XLA's programs on another device


TINY_XLA = "--num_features=8 --num_classes=3 --window_steps=16 --num_levels=3 --base_channels=8 --level_channels=8,8,8"


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """What ``xla_step.py dump`` writes of a tiny network."""
    from benchmarks import xla_step

    folder = tmp_path_factory.mktemp("xla") / "programs"
    rest = [*TINY_XLA.split(), "--head_channels=8"]
    options = ["--batches=2", "--sizes=1", "--precisions=float32"]
    assert xla_step.main(["dump", f"--folder={folder}", *options, *rest]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_dumped_programs_compute_what_tensorflow_does(programs, tmp_path):
    """In jaxlib, from described values: the runner refuses losses and outputs that are not TensorFlow's."""
    written = tmp_path / "xla.json"
    done = command(
        "xla_step", "run", "--nopytorch", f"--folder={programs}", "--rounds=1", "--seconds=0.05", f"--json={written}"
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(written.read_text())["rows"]
    assert [row["program"] for row in rows] == ["step_2_float32", "forward_1_float32", "sequence_float32"]

    listed = programs / "programs.json"
    content = json.loads(listed.read_text())
    content["programs"][0]["mean_losses"][1] *= 1.01
    changed = tmp_path / "changed"
    shutil.copytree(programs, changed)
    (changed / "programs.json").write_text(json.dumps(content))
    refused = command("xla_step", "run", "--nopytorch", f"--folder={changed}", "--only=step")
    assert refused.returncode == 1
    assert "step_2_float32: expected" in refused.stderr


@pytest.mark.slow
def test_variables_of_a_dumped_step_go_round(programs):
    """Every variable that the step changes is a parameter of the next one, and no host is asked within it."""
    step = json.loads((programs / "programs.json").read_text())["programs"][0]
    changed = {parameter for _, parameter in step["aliases"]}
    described = step["parameters"]
    assert {i for i, p in enumerate(described) if "kernel" in p} < changed
    assert all(i in changed or "input" in p or "values" in p or "fill" in p for i, p in enumerate(described))
    text = (programs / "step_2_float32.hlo").read_bytes()
    assert not [word for word in (b"outfeed", b"HostCompute", b"python_callback") if word in text]


def test_xla_step_says_what_is_wrong(tmp_path, capsys):
    from benchmarks import xla_step

    for arguments, words in (
        (["run", f"--folder={tmp_path}"], "programs.json"),
        (["run", f"--folder={tmp_path}", "--jit_compile"], "--jit_compile: no option of run"),
        (["dump", f"--folder={tmp_path}", "--sizes=0"], "--sizes=0: expected whole numbers >= 1"),
        (["dump", f"--folder={tmp_path}"], "--num_features and --num_classes are needed"),
    ):
        assert xla_step.main(arguments) == 1
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_what_the_classes_of_steps_cost(capsys, monkeypatch):
    from benchmarks import step_classifier

    sizes = ("--step_layers=4", "--step_channels=32", "--precision=float32")
    monkeypatch.setattr(sys, "argv", ["", "--num_features=5", "--steps=200,70", "--rounds=1", *tiny.NETWORK, *sizes])
    step_classifier.main()
    weights, _, *rows = capsys.readouterr().out.splitlines()
    without, with_it = map(float, re.findall(r"\d+\.\d+", weights))
    assert with_it > without
    assert [row.split("  ")[0] for row in rows] == ["200 steps", "70 steps", "a window by itself"]
    assert all(float(value) > 0 for row in rows for value in re.findall(r"\d+\.\d", row))

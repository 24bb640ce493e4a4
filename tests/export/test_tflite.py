"""A .tflite file finds what the localizer finds, by itself and through the helper that needs nothing of the package."""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from a2net_tf.detection.localizer import Localizer
from a2net_tf.detection.postprocess import Candidates, suppress, vote
from a2net_tf.errors import UserError
from a2net_tf.export import tflite, tflite_run
from a2net_tf.training.run_directory import Run
from tests import tiny

CLASSES = ("jump", "run", "sit")
NUM_FEATURES, WINDOW = 5, 32
STATISTICS = (np.float32([0.5, -1, 0, 2, 0]), np.float32([1, 4, 0.25, 1, 2]))
SETTINGS = {"base_channels": 48, "level_channels": (48, 48, 48, 48), "head_channels": 48, "max_detections": 60}
LENGTHS = (1, WINDOW - 1, WINDOW, 5 * WINDOW + 3)


def random_features(num_steps, seed=0):
    mean, variance = STATISTICS
    shape = (num_steps, NUM_FEATURES)
    return np.random.default_rng(seed).normal(mean, np.sqrt(variance), shape).astype(np.float32)


SAMPLES = [{"features": random_features(n, seed=n)} for n in (1, 40, 300)]


@pytest.fixture(scope="module")
def make_localizer(make_config, make_network):
    """A Localizer of a random network and its Run, with the given settings."""

    def make(num_networks=1, **changes):
        config = make_config(**{**SETTINGS, **changes})
        networks = [
            make_network(config, NUM_FEATURES, len(CLASSES), statistics=STATISTICS) for _ in range(num_networks)
        ]
        for weight in (w for network in networks for w in network.weights if "predict" in w.path):
            weight.assign(0.1 * weight)  # or most scores would be exactly 1, and their order a matter of chance
        for network in networks[1:]:
            network.set_weights([1.1 * weight for weight in network.get_weights()])
        run = Run(config, list(CLASSES), NUM_FEATURES, STATISTICS, 9, 0.25, 0.5, {"jump": "run"})
        others = [(network, config) for network in networks[1:]]
        localizer = Localizer(networks[0], config, CLASSES, 0.5, others=others, also_reported=run.also_reported)
        return localizer, run

    return make


@pytest.fixture(scope="module")
def trained(make_localizer):
    return make_localizer()


@pytest.fixture(scope="module")
def export(slow, trained, tmp_path_factory):
    """Path and description of the conversion to a quantization, made once."""
    folder = tmp_path_factory.mktemp("tflite")

    @functools.cache
    def make(quantization):
        path = folder / f"{quantization}.tflite"
        return path, tflite.export_tflite(*trained, str(path), quantization=quantization, samples=SAMPLES)

    return make


@pytest.fixture(params=tflite_run.RUNTIMES)
def runtime(request):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


def expected_detections(localizer, features, seconds_per_step=0.25):
    """What ``Localizer`` says, without padding."""
    arguments = (tf.constant([len(features)]), tf.constant([seconds_per_step], tf.float32))
    found = {name: value.numpy()[0] for name, value in localizer(tf.constant(features[None]), *arguments).items()}
    count = found.pop("num_detections")
    labels = [label.decode() for label in found.pop("labels")[:count]]
    return {**{name: value[:count] for name, value in found.items()}, "labels": labels}


def assert_same(found, expected, atol=1e-4):
    assert found["labels"] == expected["labels"]
    np.testing.assert_array_equal(found["class_ids"], expected["class_ids"])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=atol)
    np.testing.assert_allclose(found["segments"], expected["segments"], atol=atol)


# --- the file


@pytest.mark.parametrize("quantization", tflite.QUANTIZATIONS)
def test_the_file(export, trained, quantization):
    path, converted = export(quantization)
    assert [p.name for p in path.parent.glob("*.tmp")] == []
    content = path.read_bytes()
    assert converted.num_bytes < len(content) < converted.num_bytes + 2000
    num_weights = trained[0].members[0].networks[0].count_params()
    weights = num_weights * tflite.QUANTIZATIONS[quantization]
    assert weights < len(content) < weights + 130_000  # the graph itself is that large
    assert converted.operators == tflite.operators(content)
    assert not [name for name in converted.operators if name.startswith("Flex") or name == "CUSTOM"]
    assert converted.operators["NON_MAX_SUPPRESSION_V5"] == 1
    assert ("QUANTIZE" in converted.operators) == (quantization == "int8")


def test_weights_of_a_file_put_together_are_aligned(export):
    """Kernels load them as vectors."""
    content = np.frombuffer(export("int8")[0].read_bytes(), np.uint8)
    model = tflite.schema.Model.GetRootAsModel(content, 0)
    buffers = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength()) if model.Buffers(i).DataLength()]
    assert len(buffers) > 20
    assert {(buffer.ctypes.data - content.ctypes.data) % 16 for buffer in buffers} == {0}


@pytest.mark.parametrize("quantization", tflite.QUANTIZATIONS)
def test_interface(export, runtime, quantization):
    path, _ = export(quantization)
    candidates, most = 30 + 90, 60  # 16 + 8 + 4 + 2 cells, three anchors each
    found = tflite_run.Model(path, runtime=runtime).window(random_features(WINDOW))
    assert {name: (value.shape, value.dtype.name) for name, value in found.items()} == {
        "segments": ((most, 2), "float32"),
        "scores": ((most,), "float32"),
        "class_ids": ((most,), "int32"),
        "num_detections": ((), "int32"),
        "candidate_segments": ((candidates, 2), "float32"),
        "candidate_scores": ((candidates,), "float32"),
        "candidate_class_ids": ((candidates,), "int32"),
    }


def test_description(export):
    path, _ = export("float32")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["a2net.json"]
    assert tflite_run.read_description(path) == {
        "class_names": list(CLASSES),
        "num_features": NUM_FEATURES,
        "window_steps": WINDOW,
        "stride_steps": 16,
        "seconds_per_step": 0.25,
        "first_step_seconds": 0.5,
        "nms_tiou": 0.2,
        "soft_nms_sigma": 0.0,
        "voting_tiou": 0.0,
        "max_detections": 60,
        "least_detections": 200,
        "detections_per_window": 100,
        "trained_window_steps": WINDOW,
        "min_score": 0.0,
        "also_reported": {"jump": "run"},
        "quantization": "float32",
        "extraction": {},
    }


# --- the same detections


@pytest.mark.parametrize("num_steps", LENGTHS)
def test_float32_finds_what_the_localizer_finds(export, trained, runtime, num_steps):
    features, model = random_features(num_steps), tflite_run.Model(export("float32")[0], runtime=runtime)
    expected = expected_detections(trained[0], features)
    assert len(expected["scores"]) > 1
    assert_same(model.detect(features), expected)
    assert_same(model.detect(features, 2.0), expected_detections(trained[0], features, 2.0), atol=1e-3)


def test_float32_window_is_that_of_the_saved_model(export, trained, runtime):
    """Both uses of the file agree with the SavedModel's signatures ``windows`` and ``raw``."""
    pytest.importorskip("tensorflow_serving", reason="saved_model needs it")
    from a2net_tf.export import saved_model

    exported, model = saved_model.Exported(*trained), tflite_run.Model(export("float32")[0], runtime=runtime)
    for seed in range(5):
        window = random_features(WINDOW, seed)
        found, batch = model.window(window), tf.constant(window[None])
        expected = {name: value[0].numpy() for name, value in exported.windows(batch).items() if name != "labels"}
        expected.update({f"candidate_{name}": value[0].numpy() for name, value in exported.raw(batch).items()})
        assert 0 < found["num_detections"] < 60
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_number_of_detections_grows_with_the_recording(make_localizer, tmp_path, monkeypatch, capsys):
    localizer, run = make_localizer(max_detections=0, classes_per_candidate=3, nms_tiou=1.0)
    tflite.export_tflite(localizer, run, str(tmp_path / "m.tflite"), quantization="float32", samples=SAMPLES)
    model = tflite_run.Model(tmp_path / "m.tflite")
    for num_steps, most in ((2 * WINDOW, 200), (3 * WINDOW + 1, 304)):
        features = random_features(num_steps)
        expected = expected_detections(localizer, features)
        assert len(expected["scores"]) == most
        assert_same(model.detect(features), expected)
    np.save(tmp_path / "walk.npy", features)
    for clear, lines in ((expected["scores"][-1] * 0.9, 1), (expected["scores"][-1] * 1.1, 0)):
        monkeypatch.setattr(tflite_run, "CLEAR", clear)
        assert tflite_run.main([str(tmp_path / "m.tflite"), str(tmp_path / "walk.npy")]) == 0
        captured = capsys.readouterr()
        assert len(json.loads(captured.out)["results"]["walk"]) == 304
        told = [line for line in captured.err.splitlines() if line.startswith("warning: 304 detections are as many as")]
        assert len(told) == lines


@pytest.mark.parametrize(("quantization", "tolerance"), [("float16", 1e-3), ("dynamic", 0.02), ("int8", 0.02)])
def test_quantized_files_are_close(export, runtime, quantization, tolerance):
    path, converted = export(quantization)
    assert 0 < converted.score_difference < tolerance
    one, other = (tflite_run.Model(p, runtime=runtime) for p in (path, export("float32")[0]))
    boundaries = []
    for seed in range(5):
        found, expected = (model.window(random_features(WINDOW, seed)) for model in (one, other))
        for name in ("candidate_scores", "candidate_segments"):
            assert np.abs(found[name] - expected[name]).mean() < tolerance, name
        best = np.argmax(expected["candidate_scores"])
        assert found["candidate_class_ids"][best] == expected["candidate_class_ids"][best]
        assert found["candidate_scores"][best] == pytest.approx(expected["candidate_scores"][best], abs=5 * tolerance)
        boundaries.append(found["candidate_segments"])
    assert len(np.unique(boundaries)) > 1000  # of 1200: decoded in float32, not in 256 values


@pytest.mark.slow
def test_int8_keeps_overlaps_apart_from_large_offsets(make_localizer, tmp_path):
    """Both come out of one convolution: a range shared with offsets of thousands would make every overlap 0."""
    localizer, run = make_localizer(anchor_free=False)
    (network,) = localizer.members[0].networks
    for i in range(1, 5):
        kernel, bias = network.get_layer(f"anchor_based_predict{i}").get_weights()
        factor = np.tile([1, 1, 1, 1, 1, 1000, 1000], 3)  # per ratio: four logits, the overlap, two offsets
        network.get_layer(f"anchor_based_predict{i}").set_weights([kernel * factor, bias * factor])
    before = network.get_weights()
    path = tmp_path / "x.tflite"
    converted = tflite.export_tflite(localizer, run, str(path), quantization="int8", samples=SAMPLES)
    assert converted.score_difference < 0.02
    scores = tflite_run.Model(path).window(SAMPLES[2]["features"][:WINDOW])["candidate_scores"]
    assert len(np.unique(scores)) > 20
    for old, new in zip(before, network.get_weights(), strict=True):  # the caller's network is as it was
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_networks", "settings"),
    [
        (2, {"anchor_based": False}),
        (1, {"num_levels": 1, "feature_columns": (1, 4), "class_scores": "sigmoid", "classes_per_candidate": 2}),
    ],
)
def test_int8_of_other_networks(make_localizer, tmp_path, num_networks, settings):
    """It takes networks apart and puts them together again."""
    localizer, run = make_localizer(num_networks, **settings)
    path = tmp_path / "x.tflite"
    tflite.export_tflite(localizer, run, str(path), quantization="int8", samples=SAMPLES)
    model = tflite_run.Model(path)
    for seed in range(3):
        window = random_features(WINDOW, seed)
        found, expected = model.window(window), localizer.window_candidates(tf.constant(window[None]))
        assert np.abs(found["candidate_scores"] - expected.scores[0]).mean() < 0.02
        assert np.abs(found["candidate_segments"] - expected.segments[0]).mean() < 0.02


@pytest.mark.slow
def test_several_networks_in_bfloat16_with_soft_suppression(make_localizer, tmp_path):
    """Everything at once that is unlike the other tests: the file equals the same networks in float32."""
    settings = {"soft_nms_sigma": 0.3, "min_score": 0.01, "overlap_score": "sigmoid", "distance_activation": "relu"}
    settings.update(class_scores="sigmoid", classes_per_candidate=2, voting_tiou=0.5)
    localizer, run = make_localizer(2, precision="bfloat16", **settings)
    in_float32, _ = make_localizer(2, **settings)
    path = tmp_path / "x.tflite"
    path.write_text("an older file")
    tflite.export_tflite(localizer, run, str(path), quantization="float32")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.1.tflite", "x.tflite"]
    assert (tmp_path / "x.1.tflite").read_text() == "an older file"
    model = tflite_run.Model(path)
    for num_steps in LENGTHS:
        features = random_features(num_steps)
        assert_same(model.detect(features), expected_detections(in_float32, features))


@pytest.mark.slow
def test_boundaries_by_vote(make_localizer, tmp_path):
    """In the file for a window, in numpy for a recording; an older file says nothing of votes and has none."""
    localizer, run = make_localizer(voting_tiou=0.4, classes_per_candidate=3)
    run, localizer = (
        run._replace(also_reported={}),
        Localizer(localizer.members[0].networks[0], run.config, CLASSES, 0.5),
    )
    path = tmp_path / "x.tflite"
    tflite.export_tflite(localizer, run, str(path), quantization="float32")
    model = tflite_run.Model(path)
    for num_steps in LENGTHS:
        features = random_features(num_steps)
        assert_same(model.detect(features), expected_detections(localizer, features))
    window = random_features(WINDOW)
    found, expected = model.window(window), expected_detections(localizer, window)
    count = found["num_detections"]
    assert (count, count < 60) == (len(expected["scores"]), True)
    np.testing.assert_allclose(0.5 + found["segments"][:count] * WINDOW * 0.25, expected["segments"], atol=1e-4)
    assert not found["segments"][count:].any()
    assert model.description.pop("voting_tiou") == 0.4
    plain = Localizer(localizer.members[0].networks[0], dataclasses.replace(run.config, voting_tiou=0.0), CLASSES, 0.5)
    assert_same(model.detect(window), expected_detections(plain, window))
    assert np.abs(model.detect(window)["segments"] - expected["segments"]).max() > 0.01


# --- suppression in numpy


@pytest.mark.parametrize("soft_sigma", [0.0, 0.4])
@pytest.mark.parametrize("span", [50, 5000])  # all overlap, or hardly any
@pytest.mark.parametrize("changes", [{}, {"tiou": 0.0}, {"tiou": 1.0}, {"max_detections": 3}, {"min_score": 0.7}])
def test_suppression_is_that_of_the_graph(soft_sigma, span, changes):
    settings = {"tiou": 0.3, "max_detections": 40, "min_score": 0.0, "soft_sigma": soft_sigma, **changes}
    random = np.random.default_rng(3)
    segments = random.uniform(0, span, (200, 1)) + np.sort(random.uniform(0, 50, (200, 2)), axis=1)
    segments = segments.astype(np.float32)
    scores, class_ids = random.permutation(200).astype(np.float32) / 200, random.integers(0, 4, 200).astype(np.int32)
    candidates = Candidates(*(tf.constant(x[None]) for x in (segments, scores, class_ids)))
    expected = suppress(candidates, **settings)
    count = int(expected.num_detections[0])
    kept, kept_scores = tflite_run.suppress(segments, scores, class_ids, **settings)
    assert len(kept) == count > 0
    np.testing.assert_allclose(kept_scores, expected.scores[0, :count], rtol=1e-5)
    np.testing.assert_allclose(segments[kept], expected.segments[0, :count], atol=1e-5)
    np.testing.assert_array_equal(class_ids[kept], expected.class_ids[0, :count])
    voted = vote(expected, candidates, tiou=0.4, min_score=settings["min_score"])
    found = tflite_run.vote(kept, segments, scores, class_ids, tiou=0.4, min_score=settings["min_score"])
    np.testing.assert_allclose(found, voted.segments[0, :count], atol=1e-4)
    assert np.abs(found - segments[kept]).max() > 0.1 or span > 50


def test_votes_by_hand():
    segments, scores = np.float32([[0, 10], [2, 10], [5, 10], [20, 30]]), np.float32([0.6, 0.2, 0.5, 0.4])
    class_ids = np.int32([1, 1, 1, 0])
    found = tflite_run.vote(np.array([3, 0]), segments, scores, class_ids, tiou=0.6, min_score=0.0)
    np.testing.assert_allclose(found, [[20, 30], [0.5, 10]])
    found = tflite_run.vote(np.array([], np.int64), segments, scores, class_ids, tiou=0.6, min_score=0.0)
    assert found.shape == (0, 2)


def test_suppression_by_hand():
    segments = np.float32([[0, 10], [0, 9], [0, 9], [20, 30], [4, 4.5]])
    scores, class_ids = np.float32([0.5, 0.9, 0.8, 0.9, 0.0]), np.int32([1, 1, 0, 1, 1])
    settings = {"tiou": 0.5, "max_detections": 9, "min_score": 0.0, "soft_sigma": 0.0}
    kept, kept_scores = tflite_run.suppress(segments, scores, class_ids, **settings)
    assert kept.tolist() == [1, 3, 2]  # equal scores: the first one first; class 0 stays beside class 1; no score of 0
    np.testing.assert_array_equal(kept_scores, scores[kept])
    kept, kept_scores = tflite_run.suppress(segments, np.zeros(5, np.float32), class_ids, **settings)
    assert (kept.tolist(), kept_scores.tolist()) == ([], [])


def test_implied_classes():
    about = {"class_names": ["a", "b", "c"], "also_reported": {"c": "a"}}
    rows, scores, class_ids = tflite_run.report_also(np.float32([0.9, 0.8, 0.7]), np.int32([1, 2, 0]), 3, about)
    assert (rows.tolist(), class_ids.tolist()) == ([0, 1, 1], [1, 2, 0])
    np.testing.assert_array_equal(scores, np.float32([0.9, 0.8, 0.8]))


@pytest.mark.parametrize(
    ("num_steps", "expected"), [(1, [0]), (8, [0]), (9, [0, 1]), (12, [0, 4]), (13, [0, 4, 5]), (16, [0, 4, 8])]
)
def test_window_starts(num_steps, expected):
    assert tflite_run.window_starts(num_steps, 8, 4) == expected


# --- mistakes


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((9, 4)), "features: 4 values per step but the model takes 5"),
        (np.zeros((5, 9)), "features: 9 values per step but the model takes 5; is the matrix transposed?"),
        (np.zeros((0, 5)), "features: 0 steps; an empty recording has no detections"),
        (np.zeros((1, 9, 5)), "features: expected a number matrix [steps, features], found shape [1, 9, 5] float64"),
        (np.array([["a"]]), "features: expected a number matrix [steps, features], found shape [1, 1] <U1"),
        (np.vstack([np.zeros((40, 5)), np.full((2, 5), np.nan)]), "features: step 40 holds NaN or infinite values"),
    ],
)
def test_features_that_cannot_be_used(export, features, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (compared below)
        tflite_run.detect(export("float32")[0], features)
    assert str(error.value) == message


@pytest.mark.parametrize("seconds_per_step", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_time_base(export, seconds_per_step):
    with pytest.raises(ValueError, match="^seconds_per_step must be > 0 and finite, got"):
        tflite_run.detect(export("float32")[0], random_features(9), seconds_per_step)


def test_files_that_are_no_models(export, tmp_path):
    with pytest.raises(ValueError, match="nothing.tflite: no such file$"):
        tflite_run.Model(tmp_path / "nothing.tflite")
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(export("float32")[0].read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut.tflite: no a2net.json inside; cut off, or not written by export_tflite"):
        tflite_run.Model(cut)
    with pytest.raises(ValueError, match="^no_such_runtime is not installed: pip install ai-edge-litert$"):
        tflite_run.Model(export("float32")[0], runtime="no_such_runtime")


def test_refused_conversions(trained, tmp_path):
    path = tmp_path / "x.tflite"
    with pytest.raises(UserError, match="quantization 'int4': expected one of float32, float16, dynamic, int8"):
        tflite.export_tflite(*trained, str(path), quantization="int4", samples=SAMPLES)
    with pytest.raises(UserError, match="int8 needs sequences of the training split"):
        tflite.export_tflite(*trained, str(path), quantization="int8")
    with pytest.raises(UserError, match="is a folder"):
        tflite.export_tflite(*trained, str(tmp_path), quantization="float32")
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_its_weights_is_refused(trained, tmp_path, monkeypatch):
    """As the converter writes it from variables that it does not find."""
    empty = tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec((1, WINDOW, NUM_FEATURES))])
    content = tf.lite.TFLiteConverter.from_concrete_functions([empty.get_concrete_function()], tf.Module()).convert()
    monkeypatch.setattr(tflite, "_convert", lambda *arguments: content)
    with pytest.raises(UserError, match=r"has \d+ bytes, but its weights alone need \d+"):
        tflite.export_tflite(*trained, str(tmp_path / "x.tflite"), quantization="float32")
    assert list(tmp_path.iterdir()) == []


def test_wrong_weights_are_refused(export, make_localizer, tmp_path, monkeypatch):
    """Another model's content: the right size, the wrong scores."""
    localizer, run = make_localizer(anchor_based_lambda=0.9)
    path, converted = export("float32")
    monkeypatch.setattr(tflite, "_convert", lambda *arguments: path.read_bytes()[: converted.num_bytes])
    with pytest.raises(UserError, match="the converted model's scores differ by"):
        tflite.export_tflite(localizer, run, str(tmp_path / "x.tflite"), quantization="float32")
    assert list(tmp_path.iterdir()) == []


def test_operators_that_are_not_built_in_are_refused():
    """As suppression is written elsewhere in this package."""
    boxes, scores = tf.TensorSpec((1, 9, 1, 4)), tf.TensorSpec((1, 9, 1))
    function = tf.function(
        lambda boxes, scores: tf.image.combined_non_max_suppression(boxes, scores, 5, 5),
        input_signature=[boxes, scores],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    with pytest.raises(UserError, match="operators that TFLite does not have: FlexCombinedNonMaxSuppression$"):
        tflite._check_content(converter.convert(), 0)


# --- alone on a device

DEVICE = """
import sys
import numpy as np
import tflite_run
model = tflite_run.Model(sys.argv[1], num_threads=2, runtime=sys.argv[3])
np.savez(sys.argv[4], **model.detect(np.load(sys.argv[2])))
loaded = {name.split(".")[0] for name in sys.modules}
assert "a2net_tf" not in loaded
assert sys.argv[3] == "tensorflow" or not loaded & {"tensorflow", "keras"}
"""


def test_the_helper_is_one_file(export, trained, runtime, tmp_path):
    """Copied to a folder of its own, with the model and nothing else of this package."""
    features = random_features(100)
    shutil.copy(tflite_run.__file__, tmp_path)
    shutil.copy(export("float32")[0], tmp_path / "model.tflite")
    np.save(tmp_path / "features.npy", features)
    (tmp_path / "use.py").write_text(DEVICE)
    command = [sys.executable, "use.py", "model.tflite", "features.npy", runtime, "found.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(np.load(tmp_path / "found.npz"))
    assert_same({**found, "labels": found["labels"].tolist()}, expected_detections(trained[0], features))


def test_the_command(export, tmp_path):
    path, features = export("int8")[0], random_features(100)
    np.save(tmp_path / "walk.npy", features)
    arguments = [str(path), str(tmp_path / "walk.npy"), "--seconds_per_step=2", "--threads=2"]
    command = [sys.executable, str(pathlib.Path(tflite_run.__file__)), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = tflite_run.Model(path, num_threads=2).detect(features, 2.0)
    entries = json.loads(done.stdout)["results"]["walk"]
    assert [entry["label"] for entry in entries] == expected["labels"]
    np.testing.assert_allclose([entry["score"] for entry in entries], expected["scores"], rtol=1e-6)
    np.testing.assert_allclose([entry["segment"] for entry in entries], expected["segments"], rtol=1e-6)


def test_the_command_says_what_is_wrong(export, tmp_path):
    for name, array in (("wide", np.zeros((9, 7))), ("empty", np.zeros((0, NUM_FEATURES)))):
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "archive.npz", np.zeros(3))
    (tmp_path / "text.npy").write_text("1 2 3")
    for file, message in (
        ("wide.npy", "features: 7 values per step but the model takes 5"),
        ("empty.npy", "features: 0 steps; an empty recording has no detections"),
        ("archive.npz", f"{tmp_path}/archive.npz: not a readable .npy matrix (it is an .npz archive: save its matrix"),
        ("text.npy", f"{tmp_path}/text.npy: not a readable .npy matrix ("),
        ("nothing.npy", f"{tmp_path}/nothing.npy: not a readable .npy matrix ([Errno 2] No such file"),
    ):
        status, line = run_main([str(export("float32")[0]), str(tmp_path / file)])
        assert status == 1
        assert line.startswith(f"error: {message}")
        assert line.count("\n") == 1


@pytest.mark.slow
def test_the_command_as_a_module(tmp_path):
    done = tiny.in_new_process(str(tmp_path), "x.npy", module="a2net_tf.export.tflite_run")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {tmp_path}: no such file\n")


def run_main(arguments):
    """Exit status and what was written to stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as written:
        return tflite_run.main(arguments), written.getvalue()

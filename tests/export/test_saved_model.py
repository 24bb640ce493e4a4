"""An exported model needs nothing but TensorFlow and finds what evaluate finds."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

import a2net_tf
from a2net_tf.detection.localizer import Localizer
from a2net_tf.errors import UserError
from a2net_tf.export import freezing, saved_model
from a2net_tf.main import main
from a2net_tf.training import run_directory
from tests import tiny

pytestmark = pytest.mark.slow

OUTPUTS = ("segments", "scores", "class_ids", "labels", "num_detections")

# What somebody without this package writes.
SCRIPT = """
import sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
features = np.load(sys.argv[2])
found = model.signatures["serving_default"](
    features=tf.constant(features[None]),
    num_steps=tf.constant([len(features)]),
    seconds_per_step=tf.constant([0.25]),
)
np.savez(sys.argv[3], **{name: value.numpy() for name, value in found.items() if name != "labels"})
print(b"|".join(found["labels"].numpy()[0, :3]).decode())
assert not any(name.split(".")[0] in ("a2net_tf", "tensorflow_datasets") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def exported():
    """The path of an exported model."""
    number = r"\d\.\de[-+]\d\d"
    wanted = rf"fresh process, 2 sequences agree to {number}, and candidates with the trained network to {number}\n"
    assert re.search(wanted, tiny.printed_by_export("trained"))
    return tiny.exported("trained")


@pytest.fixture(scope="module")
def model(exported):
    return tf.saved_model.load(str(exported))


def localizer_and_run():
    run = run_directory.load(str(tiny.trained()))
    network = run_directory.load_network(run)
    return Localizer(network, run.config, run.class_names, run.first_step_seconds), run


def features(num_steps, seed=0):
    return np.random.default_rng(seed).normal(size=(num_steps, tiny.FEATURES)).astype(np.float32)


def serve(model, batch, num_steps, seconds_per_step=0.25):
    reply = model.signatures["serving_default"](
        features=tf.constant(batch),
        num_steps=tf.constant(num_steps, tf.int32),
        seconds_per_step=tf.fill([len(num_steps)], seconds_per_step),
    )
    return {name: value.numpy() for name, value in reply.items()}


# --- the interface


def test_only_the_model_is_left(exported):
    assert os.listdir(exported.parent) == ["model"]
    assert sorted(os.listdir(exported)) == ["assets", "assets.extra", "fingerprint.pb", "saved_model.pb", "variables"]


def test_signatures(model):
    assert set(model.signatures) == {"serving_default", "windows", "raw"}
    window = {"features": ((None, 64, tiny.FEATURES), tf.float32)}
    detections = {
        "segments": ((None, None, 2), tf.float32),
        "scores": ((None, None), tf.float32),
        "class_ids": ((None, None), tf.int32),
        "num_detections": ((None,), tf.int32),
        "labels": ((None, None), tf.string),
    }
    interface = {
        "serving_default": (
            {
                "features": ((None, None, tiny.FEATURES), tf.float32),
                "num_steps": ((None,), tf.int32),
                "seconds_per_step": ((None,), tf.float32),
            },
            detections,
        ),
        "windows": (window, detections),
        "raw": (window, {name: detections[name] for name in ("segments", "scores", "class_ids")}),
    }
    for name, (inputs, outputs) in interface.items():
        signature = model.signatures[name]
        found = signature.structured_input_signature[1]
        assert {key: (tuple(spec.shape), spec.dtype) for key, spec in found.items()} == inputs
        found = signature.structured_outputs
        assert {key: spec.dtype for key, spec in found.items()} == {key: dtype for key, (_, dtype) in outputs.items()}
        assert {key: spec.shape.rank for key, spec in found.items()} == {key: len(s) for key, (s, _) in outputs.items()}


def test_windows_and_raw_have_static_shapes(model):
    """But for the batch: what TensorRT and TFLite need."""
    candidates = 48 + 5 * 48  # 32 + 16 cells, five anchors each
    raw, windows = (model.signatures[name].structured_outputs for name in ("raw", "windows"))
    assert tuple(raw["segments"].shape) == (None, candidates, 2)
    assert tuple(raw["scores"].shape) == (None, candidates)
    assert tuple(windows["segments"].shape) == (None, 200, 2)


def test_description(model):
    found = {name: value.numpy() for name, value in model.describe().items()}
    assert [name.decode() for name in found["class_names"]] == list(tiny.CLASSES)
    assert found["num_features"] == tiny.FEATURES
    assert found["window_steps"] == 64
    assert found["seconds_per_step"] == 0.25
    assert found["first_step_seconds"] == 0.0


def test_detections_are_in_order_and_padded(model):
    found = serve(model, features(200)[None], [200])
    count = found["num_detections"][0]
    assert 0 < count <= found["scores"].shape[1]
    assert (np.diff(found["scores"][0, :count]) <= 0).all()
    assert (found["segments"][0, :count] >= 0).all()
    assert (found["segments"][0, :count] <= 50).all()  # seconds
    assert [tiny.CLASSES[i].encode() for i in found["class_ids"][0, :count]] == found["labels"][0, :count].tolist()
    for name in ("segments", "scores", "class_ids"):
        assert not found[name][0, count:].any()
    assert set(found["labels"][0, count:].tolist()) <= {b""}


def test_windows_are_fractions_of_a_window(model):
    """One window is also a whole sequence: the same detections, but for the unit."""
    window = features(64)[None]
    found = {k: v.numpy() for k, v in model.signatures["windows"](features=tf.constant(window)).items()}
    whole = serve(model, window, [64])
    np.testing.assert_array_equal(found["num_detections"], whole["num_detections"])
    np.testing.assert_array_equal(found["labels"], whole["labels"])
    np.testing.assert_allclose(found["segments"] * 64 * 0.25, whole["segments"], atol=1e-4)


def test_raw_holds_the_scores_before_suppression(model):
    window = tf.constant(features(64)[None])
    raw = model.signatures["raw"](features=window)
    best = serve(model, window.numpy(), [64])["scores"][0, 0]
    usable = raw["segments"][..., 1] > raw["segments"][..., 0]
    assert float(tf.reduce_max(tf.where(usable, raw["scores"], 0.0))) == pytest.approx(best, rel=1e-5)


# --- the same detections


def test_script_that_knows_only_tensorflow(exported, model, tmp_path):
    np.save(tmp_path / "features.npy", features(150))
    (tmp_path / "use.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "use.py", str(exported), "features.npy", "found.npz"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = serve(model, features(150)[None], [150])
    assert done.stdout.strip() == b"|".join(expected["labels"][0, :3]).decode()
    with np.load(tmp_path / "found.npz") as found:
        for name in found.files:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=name)


def test_exported_model_finds_what_evaluate_finds(exported, tmp_path):
    """On every recording of the test split, through both commands."""
    run = tiny.copy_of_trained(tmp_path)
    out = tmp_path / "out.json"
    data = [*tiny.data(), "--eval_split=test"]
    with tiny.silence():
        assert main(["--mode=evaluate", f"--workdir={run}", "--eval_split=test", "--noplots"]) == 0
        assert main(["--mode=predict", f"--saved_model={exported}", f"--output={out}", *data]) == 0
    expected, found = (json.loads(path.read_text())["results"] for path in (run / "detections.json", out))
    assert len(found) == 16
    assert list(found) == list(expected)
    for video, entries in expected.items():
        assert len(entries) > 10
        ours, theirs = (sorted(rows, key=by_place) for rows in (found[video], entries))
        assert [e["label"] for e in ours] == [e["label"] for e in theirs]
        for key in ("segment", "score"):
            np.testing.assert_allclose([e[key] for e in ours], [e[key] for e in theirs], atol=1e-4)


def by_place(entry):
    """An order that does not depend on which of two almost equal scores is the higher."""
    return entry["label"], round(entry["segment"][0], 2), entry["segment"][1]


def test_padded_batch_is_single_sequences(model):
    lengths = [1, 63, 64, 65, 150]
    sequences = [features(n, seed=n) for n in lengths]
    padding = 1e3 * features(max(lengths), seed=1)  # anything
    batch = np.stack([np.concatenate([s, padding[len(s) :]]) for s in sequences])
    together = serve(model, batch, lengths)
    for i, sequence in enumerate(sequences):
        alone = serve(model, sequence[None], [len(sequence)])
        for name in OUTPUTS:
            expected = padded_like(together[name][i], alone[name][0])
            if name in ("segments", "scores"):
                np.testing.assert_allclose(together[name][i], expected, atol=1e-4, err_msg=name)
            else:
                np.testing.assert_array_equal(together[name][i], expected, err_msg=name)


def padded_like(longer, values):
    """The detections of a sequence as they come in a batch, which keeps as many as its longest sequence does."""
    if not values.ndim:  # their number
        return values
    widths = [(0, len(longer) - len(values)), *[(0, 0)] * (values.ndim - 1)]
    return np.pad(values, widths, constant_values=b"" if values.dtype == object else 0)


def test_time_base_of_a_request(model):
    quarter, two = (serve(model, features(100)[None], [100], seconds)["segments"] for seconds in (0.25, 2.0))
    np.testing.assert_allclose(two, 8 * quarter, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("num_steps", "seconds", "value", "message"),
    [
        (0, 0.25, 0.0, "num_steps must be at least 1"),
        (71, 0.25, 0.0, "num_steps exceeds the steps of features"),
        (70, 0.0, 0.0, "seconds_per_step must be > 0"),
        (70, np.nan, 0.0, "seconds_per_step must be > 0"),
        (70, 0.25, np.nan, "features hold NaN or infinite values"),
    ],
)
def test_bad_request_is_an_error(model, num_steps, seconds, value, message):
    batch = features(70)[None]
    batch[0, 3, 3] += value
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        serve(model, batch, [num_steps], seconds)


@pytest.mark.parametrize("shape", [(1, 2**22 + 1), (2**22 + 1, 1), (2**11 + 1, 2**11)])
def test_a_request_has_a_bound(model, shape):
    """A few bytes can declare it: what follows would take hours and gigabytes."""
    assert int(model.describe()["max_steps"]) == 2**22
    with pytest.raises(tf.errors.InvalidArgumentError, match="a request holds at most 4194304 steps, .* found"):
        serve(model, np.zeros((*shape, tiny.FEATURES), np.float32), [1] * shape[0])


@pytest.mark.parametrize("signature", ["windows", "raw"])
def test_a_request_of_windows_has_a_bound(model, signature):
    with pytest.raises(tf.errors.InvalidArgumentError, match="a request holds at most 4194304 steps"):
        model.signatures[signature](features=tf.zeros((2**16 + 1, 64, tiny.FEATURES)))


# --- writing


def test_failed_check_leaves_what_was_there(exported, tmp_path, monkeypatch):
    target = shutil.copytree(exported, tmp_path / "model")
    before = tiny.files_below(tmp_path)
    localizer, run = localizer_and_run()
    sample = {"features": features(70), "num_steps": 70, "feature_stride_seconds": 0.25}
    monkeypatch.setattr(saved_model, "_TOLERANCE", -1.0)  # no difference is small enough
    with pytest.raises(UserError, match="the exported model's detections differ by .*; nothing was written to"):
        saved_model.export(localizer, run, str(target), [sample])
    assert tiny.files_below(tmp_path) == before


@dataclasses.dataclass
class Again:
    """An export to where a model is, of an evaluated run whose dataset has gone: its folder, and what it printed."""

    folder: pathlib.Path
    older: dict
    printed: str


@pytest.fixture(scope="module")
def again(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("again")
    run, target = tiny.copy_of_trained(folder), shutil.copytree(exported, folder / "model.v1")
    older, printed = tiny.files_below(target), io.StringIO()
    with tiny.silence():
        assert main(["--mode=evaluate", f"--workdir={run}", "--noplots", *tiny.data()]) == 0
    flags = [f"--workdir={run}", f"--saved_model={target}", f"--dataset={folder / 'gone'}"]
    with contextlib.redirect_stdout(printed):
        assert main(["--mode=export", *flags]) == 0
    return Again(folder, older, printed.getvalue())


def test_older_model_is_kept_and_missing_data_are_replaced(again):
    """The dataset may have gone since training: random sequences serve for the comparison."""
    assert "comparing on random sequences" in again.printed
    assert "3 sequences agree" in again.printed
    (kept,) = (path for path in again.folder.iterdir() if path.name not in ("run", "model.v1"))
    assert tiny.files_below(kept) == again.older
    assert tf.saved_model.contains_saved_model(str(again.folder / "model.v1"))


def test_check_sees_a_difference(model):
    """The script that compares must not be satisfied with anything."""
    from a2net_tf.export import reload

    wanted = serve(model, features(70)[None], [70])
    arrays = {f"{name}0": value for name, value in wanted.items() if name != "labels"}
    arrays.update(features0=features(70), seconds_per_step0=np.float32(0.25), windows=features(64)[None])
    raw = model.signatures["raw"](features=tf.constant(arrays["windows"]))
    arrays.update({f"raw_{name}": raw[name].numpy() for name in ("segments", "scores")}, raw_in_order=np.True_)
    for change in (0.0, 0.5):
        changed = {**arrays, "segments0": arrays["segments0"] + change, "raw_scores": arrays["raw_scores"] + change}
        assert reload.largest_difference(model, changed) == pytest.approx(change, abs=1e-4)
        assert reload.raw_difference(model, changed) == pytest.approx(change, abs=1e-4)
    changed = {**arrays, "num_detections0": arrays["num_detections0"] - 1}
    assert reload.largest_difference(model, changed) == float("inf")


# --- constants, variables, precision


def raw_scores(model):
    return model.signatures["raw"](features=tf.constant(features(4 * 64).reshape(4, 64, -1)))["scores"].numpy()


def bytes_of_weights():
    _, run = localizer_and_run()
    return sum(4 * int(np.prod(weight.shape)) for weight in run_directory.build_network(run).weights)


def test_weights_are_stored_once_as_variables(exported):
    _, run = localizer_and_run()
    saved = {name for name, _ in tf.train.list_variables(str(exported / "variables" / "variables"))}
    weights = run_directory.build_network(run).weights
    assert len([name for name in saved if name.endswith("VARIABLE_VALUE")]) == len(weights)  # and no optimizer
    assert stored_bytes(exported) < 1.1 * bytes_of_weights() + 10_000
    assert json.loads((exported / "assets.extra" / "model_card.json").read_text())["weights"] == "variables"


def stored_bytes(model):
    return sum(file.stat().st_size for file in (model / "variables").iterdir())


def test_constants_in_the_graph_find_the_same(model):
    path = tiny.exported("trained", "--freeze")
    frozen = tf.saved_model.load(str(path))
    assert not frozen.signatures["serving_default"].variables
    assert (path / "saved_model.pb").stat().st_size > bytes_of_weights()
    assert stored_bytes(path) < 1000
    np.testing.assert_allclose(raw_scores(frozen), raw_scores(model), atol=1e-5)
    assert json.loads((path / "assets.extra" / "model_card.json").read_text())["weights"] == "constants"


@pytest.mark.parametrize("flags", [[], ["--freeze"]], ids=str)
def test_bfloat16_stores_half_and_stays_close(flags, model):
    paths = [tiny.exported("trained", *flags), tiny.exported("trained", "--precision=bfloat16", *flags)]
    whole, half = (tf.saved_model.load(str(path)) for path in paths)
    # The graph's names number all functions of the process that wrote it: it is counted only if weights are in it.
    sizes = [stored_bytes(path) + ((path / "saved_model.pb").stat().st_size if flags else 0) for path in paths]
    assert sizes[0] - sizes[1] > 0.15 * bytes_of_weights()  # the last layers, here most of it, stay float32
    np.testing.assert_allclose(raw_scores(whole), raw_scores(model), atol=1e-5)
    difference = np.abs(raw_scores(half) - raw_scores(model))
    assert 0 < np.quantile(difference, 0.99) < 0.05
    assert json.loads((paths[1] / "assets.extra" / "model_card.json").read_text())["precision"] == "bfloat16"


def test_weights_that_no_graph_can_hold(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(freezing, "_MOST_BYTES", 1000)
    line = tiny.refused(
        capsys,
        tmp_path,
        "--mode=export",
        f"--workdir={tiny.trained()}",
        f"--saved_model={tmp_path / 'model'}",
        "--freeze",
    )
    assert "do not fit into a graph as constants: leave out --freeze" in line


def test_several_networks_in_one_file(tmp_path):
    workdir = tiny.trained()
    with tiny.silence():
        flags = [f"--workdir={workdir},{workdir}", f"--saved_model={tmp_path / 'fused'}"]
        assert main(["--mode=export", *flags]) == 0
    fused = tf.saved_model.load(str(tmp_path / "fused"))
    assert raw_scores(fused).shape[1] == 2 * 6 * 48


def test_several_classes_and_votes(model, tmp_path):
    """A window by itself and as a whole recording: votes are counted in two ways."""
    changes = {"classes_per_candidate": 3, "voting_tiou": 0.4}
    with tiny.silence():
        assert a2net_tf.command("export", workdir=tiny.trained(), saved_model=tmp_path / "model", **changes) is None
    voting = tf.saved_model.load(str(tmp_path / "model"))
    assert raw_scores(voting).shape[1] == 3 * 6 * 48
    window = features(64, seed=2)[None]  # whose best detection overlaps others
    found = {k: v.numpy() for k, v in voting.signatures["windows"](features=tf.constant(window)).items()}
    whole = serve(voting, window, [64])
    np.testing.assert_array_equal(found["labels"], whole["labels"])
    np.testing.assert_allclose(found["segments"] * 64 * 0.25, whole["segments"], atol=1e-3)
    assert np.abs(whole["segments"][0, 0] - serve(model, window, [64])["segments"][0, 0]).max() > 1e-3
    card = json.loads((tmp_path / "model" / "assets.extra" / "model_card.json").read_text())
    assert (card["settings"]["classes_per_candidate"], card["settings"]["voting_tiou"]) == (3, 0.4)


# --- what lies beside


def test_model_card(exported):
    card = json.loads((exported / "assets.extra" / "model_card.json").read_text())
    assert card["classes"] == list(tiny.CLASSES)
    assert (card["num_features"], card["window_steps"], card["seconds_per_step"]) == (tiny.FEATURES, 64, 0.25)
    assert card["trained_on"] == {"dataset": "toy_actions", "split": "train[:8]", "seed": 0}
    assert card["weights"] == "variables"
    assert card["versions"]["tensorflow"] == tf.__version__


def test_model_card_quotes_the_last_evaluation(again):
    card = json.loads((again.folder / "model.v1" / "assets.extra" / "model_card.json").read_text())
    metrics = json.loads((again.folder / "run" / "metrics.json").read_text())
    assert card["metrics"]["average_mAP"] == metrics["average_mAP"]
    assert card["metrics"]["protocol"] == "activitynet"


def test_warmup_requests_are_good_requests(exported, model):
    path = str(exported / "assets.extra" / "tf_serving_warmup_requests")
    assert os.path.getsize(path) < 10_000  # zeros are not written out
    sizes = set()
    for line in tf.data.TFRecordDataset(path).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(line).predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        signature = request.model_spec.signature_name
        reply = model.signatures[signature](**inputs)
        assert len(reply["scores"]) == len(inputs["features"])
        sizes.add((signature, *inputs["features"].shape[:2]))
    assert sizes == {
        ("windows", 1, 64),
        ("windows", 32, 64),
        ("serving_default", 1, 64),
        ("serving_default", 1, 32 * 64),
    }


def test_settings_that_are_fixed_in_the_export_cannot_be_changed(exported, tmp_path, capsys):
    """Silently predicting with another threshold than the one that was asked for would be worse."""
    flags = ["--mode=predict", f"--saved_model={exported}", f"--output={tmp_path / 'out.json'}", *tiny.data()]
    assert main([*flags, "--nms_tiou=0.2", "--inference_overlap=0.5"]) == 0  # as exported
    assert main([*flags, "--nms_tiou=0.5"]) == 1
    assert "--nms_tiou=0.5 (exported with 0.2)" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["no variables file", "graph cut", "of another program"])
def test_model_that_cannot_be_used(exported, tmp_path, capsys, damage):
    path = tmp_path / "model"
    shutil.copytree(exported, path)
    if damage == "no variables file":
        shutil.rmtree(path / "variables")
    elif damage == "graph cut":
        (path / "saved_model.pb").write_bytes((path / "saved_model.pb").read_bytes()[:1000])
    else:
        shutil.rmtree(path)
        tf.saved_model.save(tf.Module(), str(path))
    flags = ["--mode=predict", f"--saved_model={path}", f"--output={tmp_path / 'out.json'}", *tiny.data()]
    assert main(flags) == 1
    error = capsys.readouterr().err
    assert f"error: --saved_model={path}: damaged, or not written by --mode=export" in error
    assert not (tmp_path / "out.json").exists()

"""An exported model behind a gRPC and a REST server: the same detections, and no request breaks it.

The server is tests/serving_server.py in a process of its own, or a real one where TF_SERVING_ADDRESS=HOST:PORT says so.
TF_SERVING_MODEL then names the SavedModel that it serves as "a2net", and TF_SERVING_REST, if given, its REST URL.
"""

import contextlib
import importlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow.core.protobuf import saved_model_pb2

from a2net_tf.detection.localizer import Localizer
from a2net_tf.errors import UserError
from a2net_tf.export.serving import client
from a2net_tf.training import run_directory
from tests import tiny

grpc = pytest.importorskip("grpc", reason="needs tensorflow-serving-api")
apis = "tensorflow_serving.apis"
predict_pb2 = pytest.importorskip(f"{apis}.predict_pb2", reason="needs tensorflow-serving-api")
stubs = importlib.import_module(f"{apis}.prediction_service_pb2_grpc")
model_server_config_pb2 = importlib.import_module("tensorflow_serving.config.model_server_config_pb2")
serving_server = importlib.import_module("tests.serving_server")

ADDRESS = os.environ.get("TF_SERVING_ADDRESS")
SERVING = tiny.REPO / "export" / "serving"
SECONDS_PER_STEP = 0.5
MALFORMED = 200  # python -m tests.serving_server MODEL_BASE --fuzz=10000 sends more


@pytest.fixture(scope="module")
def base(slow, tmp_path_factory):
    """MODEL_BASE with the one version 1."""
    if ADDRESS:
        assert "TF_SERVING_MODEL" in os.environ, "TF_SERVING_MODEL must name the SavedModel that the server serves"
        base = tmp_path_factory.mktemp("served")
        (base / "1").symlink_to(pathlib.Path(os.environ["TF_SERVING_MODEL"]).absolute())
        return base
    base = tmp_path_factory.mktemp("served")
    shutil.copytree(tiny.exported("trained"), base / "1")
    return base


@pytest.fixture(scope="module")
def running(base):
    with contextlib.ExitStack() as stack:
        if ADDRESS:
            yield serving_server.Running(ADDRESS, os.environ.get("TF_SERVING_REST", ""), None)
        else:
            yield stack.enter_context(serving_server.in_new_process(base))


@pytest.fixture(scope="module")
def model(base):
    return tf.saved_model.load(str(base / "1"))


@pytest.fixture(scope="module")
def window_steps(model):
    return int(model.describe()["window_steps"])


@pytest.fixture(scope="module")
def random_features(model):
    """f32[T, D] by T and a seed."""
    size = int(model.describe()["num_features"])
    return lambda steps, seed=0: np.random.default_rng(seed).normal(size=(steps, size)).astype(np.float32)


@pytest.fixture(params=["grpc", "rest"])
def server(request, running):
    """The client's view of the server, by both ways."""
    if request.param == "grpc":
        return client.GrpcServer(running.address, "a2net", 120.0)
    if not running.rest:
        pytest.skip("TF_SERVING_REST is not set")
    return client.RestServer(running.rest, "a2net", 120.0)


def by_saved_model(model, features):
    """What the SavedModel finds without any server: segments, scores, labels."""
    found = model.signatures["serving_default"](
        features=tf.constant(features[None]),
        num_steps=tf.constant([len(features)]),
        seconds_per_step=tf.constant([SECONDS_PER_STEP]),
    )
    return detections({name: value.numpy() for name, value in found.items()})


def by_localizer(features):
    """What evaluate finds."""
    run = run_directory.load(str(tiny.trained()))
    localizer = Localizer(run_directory.load_network(run), run.config, run.class_names, run.first_step_seconds)
    found = localizer(tf.constant(features[None]), tf.constant([len(features)]), tf.constant([SECONDS_PER_STEP]))
    return detections({name: value.numpy() for name, value in found.items()})


def detections(found, row=0):
    count = int(found["num_detections"][row])
    labels = [label.decode() for label in found["labels"][row, :count]]
    return found["segments"][row, :count], found["scores"][row, :count], labels


def assert_same(found, expected):
    """1e-4 in scores and 1e-3 s in boundaries, the same classes in the same order."""
    assert found[2] == expected[2]
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-3)
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-4)


def ask(server, features):
    answer = client.ask(server, "video", features, SECONDS_PER_STEP)
    return answer.segments, answer.scores, answer.labels


# --- the same detections


@pytest.mark.parametrize("steps", ["1", "W - 1", "W", "1000"])
def test_server_finds_what_the_saved_model_and_evaluate_find(server, model, window_steps, random_features, steps):
    features = random_features({"W - 1": window_steps - 1, "W": window_steps}.get(steps) or int(steps))
    expected = by_saved_model(model, features)
    assert len(expected[1]) > 0
    assert_same(ask(server, features), expected)
    if not ADDRESS:
        assert_same(by_localizer(features), expected)


def test_long_recording(running, model, random_features):
    """100,000 steps: more than the 4 MB that gRPC takes by default."""
    features = random_features(100_000)
    assert features.nbytes > 2**22
    expected = by_saved_model(model, features)
    assert_same(ask(client.GrpcServer(running.address, "a2net", 300.0), features), expected)
    if not ADDRESS:
        assert_same(by_localizer(features), expected)


def test_padded_batch_is_single_recordings(running, model, window_steps, random_features):
    lengths = [1, window_steps - 1, window_steps, 3 * window_steps + 5]
    recordings = [random_features(steps, seed=steps) for steps in lengths]
    request = serving_server.good_request(recordings[0])
    padded = [np.pad(r, ((0, max(lengths) - len(r)), (0, 0)), constant_values=9e9) for r in recordings]
    serving_server.put(request, "features", np.stack(padded))
    serving_server.put(request, "num_steps", np.int32(lengths))
    serving_server.put(request, "seconds_per_step", np.full(len(lengths), SECONDS_PER_STEP, np.float32))
    with grpc.insecure_channel(running.address, serving_server.UNLIMITED) as channel:
        reply = stubs.PredictionServiceStub(channel).Predict(request, timeout=60)
    found = {name: tf.make_ndarray(value) for name, value in reply.outputs.items()}
    for row, recording in enumerate(recordings):
        assert_same(detections(found, row), by_saved_model(model, recording))


def test_many_requests_at_once(server, model, random_features):
    recordings = [random_features(steps, seed=steps) for steps in range(20, 500, 12)]
    answers = dict(client.at_once(lambda i: (i, ask(server, recordings[i])), range(len(recordings)), 8))
    assert sorted(answers) == list(range(len(recordings)))
    for i, recording in enumerate(recordings):
        assert_same(answers[i], by_saved_model(model, recording))


def test_versions_and_names(base, tmp_path):
    """The latest version by default, the one that is named, and no other."""
    for version in ("1", "2", "10"):
        (tmp_path / version).symlink_to(base / "1")
    (tmp_path / "notes").mkdir()
    models = serving_server.Models(tmp_path)
    spec = predict_pb2.PredictRequest().model_spec
    spec.name = "a2net"
    assert models.get(spec)[0] == 10
    spec.version.value = 2
    assert models.get(spec)[0] == 2
    spec.version.value = 3
    with pytest.raises(tf.errors.NotFoundError, match=r"Specific\(a2net, 3\)"):
        models.get(spec)


# --- requests that are wrong


def test_malformed_requests(running, random_features):
    """Each is refused or answered validly, memory does not grow with them, and good requests are answered as before."""
    features = random_features(200)
    serving_server.fuzz(running.address, features, 50, seed=1)  # the first requests fill pools and caches
    before = running.memory_mib if running.pid else 0.0
    found = serving_server.fuzz(running.address, features, MALFORMED, seed=0)
    assert found.wrong == []
    assert found.answers.total() == MALFORMED
    kinds = {kind for kind, status in found.answers if status != "OK"}
    assert kinds >= {change.__name__.strip("_") for change in serving_server.REFUSED}
    if running.pid:
        assert running.memory_mib - before < 200


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("features", np.nan, "features hold NaN or infinite values"),
        ("num_steps", 0, "num_steps must be at least 1"),
        ("num_steps", 71, "num_steps exceeds the steps of features"),
        ("seconds_per_step", 0, "seconds_per_step must be > 0"),
    ],
)
def test_graph_says_what_is_wrong(running, random_features, name, value, text):
    request = serving_server.good_request(random_features(70))
    changed = tf.make_ndarray(request.inputs[name]).copy()
    changed.reshape(-1)[0] = value
    serving_server.put(request, name, changed)
    with grpc.insecure_channel(running.address) as channel:
        stub = stubs.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError, match=text) as error:
            stub.Predict(request, timeout=60)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_one_number_for_a_huge_shape(running, random_features):
    """A message of a few bytes; the server makes the tensor, and the graph ends there."""
    request = serving_server.good_request(random_features(70))
    for size, number in zip((1, 2**22 + 1), request.inputs["features"].tensor_shape.dim, strict=False):
        number.size = size
    request.inputs["features"].ClearField("tensor_content")
    request.inputs["features"].float_val.append(1.0)
    with grpc.insecure_channel(running.address) as channel, pytest.raises(grpc.RpcError) as error:
        stubs.PredictionServiceStub(channel).Predict(request, timeout=60)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "a request holds at most 4194304 steps" in error.value.details()


@pytest.mark.parametrize("signature", ["serving_default", "windows", "raw"])
def test_one_feature_is_not_broadcast(running, random_features, window_steps, signature):
    """A session compares no shapes: [.., 1] minus the mean [D] would silently become [.., D]."""
    request = serving_server.good_request(random_features(window_steps)[:, :1])
    request.model_spec.signature_name = signature
    if signature != "serving_default":
        del request.inputs["num_steps"], request.inputs["seconds_per_step"]
    with grpc.insecure_channel(running.address) as channel, pytest.raises(grpc.RpcError) as error:
        stubs.PredictionServiceStub(channel).Predict(request, timeout=60)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"inputs": 3}',
        '{"inputs": {"features": [[[NaN]]], "num_steps": [1], "seconds_per_step": [1]}}',
        '{"inputs": {"features": [[[1], [1, 2]]], "num_steps": [1], "seconds_per_step": [1]}}',
        '{"inputs": {"features": [[[1]]], "num_steps": [1], "seconds_per_step": [1]}}',
    ],
)
def test_malformed_json(running, body):
    if not running.rest:
        pytest.skip("TF_SERVING_REST is not set")
    request = urllib.request.Request(f"{running.rest}/v1/models/a2net:predict", data=body.encode())
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=60)
    assert error.value.code == 400
    assert json.load(error.value)["error"]


# --- the client


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, random_features):
    folder = tmp_path_factory.mktemp("recordings")
    for name, steps in (("b", 300), ("a", 70), ("c", 1)):
        np.save(folder / f"{name}.npy", random_features(steps, seed=steps))
    return folder


@pytest.mark.parametrize("by", ["grpc", "rest"])
def test_client(running, model, recordings, tmp_path, capsys, by):
    if by == "rest" and not running.rest:
        pytest.skip("TF_SERVING_REST is not set")
    where = f"--address={running.address}" if by == "grpc" else f"--rest={running.rest}"
    flags = [where, f"--features={recordings}", f"--seconds_per_step={SECONDS_PER_STEP}"]
    output = tmp_path / "found.json"
    assert client.main([*flags, "--requests=20", "--concurrency=3", f"--output={output}"]) == 0
    printed = capsys.readouterr().out
    line = re.search(
        r"^20 requests, 3 at a time: p50 ([\d.]+) ms, p90 ([\d.]+) ms, p99 ([\d.]+) ms, ([\d.]+) requests/s$",
        printed,
        re.MULTILINE,
    )
    p50, p90, p99, rate = map(float, line.groups())
    assert 0 < p50 <= p90 <= p99
    assert rate > 0
    assert [name for name in re.findall(r"^(\w): \d+ detections", printed, re.MULTILINE)] == ["a", "b", "c"]
    written = json.loads(output.read_text())["results"]
    assert list(written) == ["a", "b", "c"]
    for name, entries in written.items():
        expected = by_saved_model(model, np.load(recordings / f"{name}.npy"))
        found = ([e["segment"] for e in entries], [e["score"] for e in entries], [e["label"] for e in entries])
        assert_same(found, expected)


def test_one_file_is_asked_for_once(running, recordings, capsys):
    flags = [f"--address={running.address}", f"--features={recordings / 'a.npy'}", "--seconds_per_step=0.5"]
    assert client.main(flags) == 0
    assert "\n1 requests, 1 at a time: p50 " in capsys.readouterr().out


def refused(capsys, *flags):
    """The one line with which the client refuses."""
    capsys.readouterr()
    assert client.main(flags) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("by", ["grpc", "rest"])
def test_client_says_what_is_wrong(running, recordings, tmp_path, capsys, by):
    if by == "rest" and not running.rest:
        pytest.skip("TF_SERVING_REST is not set")
    flag, there = ("--address", running.address) if by == "grpc" else ("--rest", running.rest)
    nowhere = "localhost:1" if by == "grpc" else "http://localhost:1"
    a, where, time_base = f"--features={recordings / 'a.npy'}", f"{flag}={there}", "--seconds_per_step=0.5"
    size = np.load(recordings / "a.npy").shape[1]
    np.save(tmp_path / "wide.npy", np.zeros((9, size + 1), np.float32))
    np.save(tmp_path / "nan.npy", np.full((9, size), np.nan, np.float32))

    line = refused(capsys, a, f"{flag}={nowhere}", time_base)
    assert f"{flag}={nowhere}: no server answers there" in line
    line = refused(capsys, a, where, time_base, "--model=other")
    assert "--model=other: not served at" in line
    assert "Servable not found for request: Latest(other)" in line
    line = refused(capsys, a, where, time_base, "--timeout_seconds=0.00001")
    assert "no answer within --timeout_seconds=1e-05" in line
    line = refused(capsys, f"--features={tmp_path / 'wide.npy'}", where, time_base)
    assert f"wide.npy: {size + 1} values per step but {size} are expected" in line
    line = refused(capsys, f"--features={tmp_path / 'nan.npy'}", where, time_base)
    assert "nan.npy: 9 steps hold NaN or infinite values, the first is step 0" in line
    line = refused(capsys, f"--features={tmp_path / 'none.npy'}", where, time_base)
    assert "no such file" in line
    line = refused(capsys, a, where, "--seconds_per_step=3e38")  # the server's own words
    assert f"{recordings / 'a.npy'}: the server answers INVALID_ARGUMENT: assertion failed: [seconds_per_step" in line


def test_rest_client_at_another_port(running, recordings, capsys):
    """gRPC speaks HTTP too, but no JSON."""
    line = refused(capsys, f"--features={recordings}", f"--rest=http://{running.address}")
    assert f"error: --rest=http://{running.address}: " in line


def test_wrong_flags_of_the_client(recordings, tmp_path, capsys):
    flags = [f"--features={recordings}"]
    assert "expected http://HOST:PORT" in refused(capsys, *flags, "--rest=localhost:8501")
    assert "is a folder" in refused(capsys, *flags, f"--output={tmp_path}")
    for wrong in ("--concurrency=0", "--timeout_seconds=-1", "--seconds_per_step=nan", "--adress=x"):
        with pytest.raises(SystemExit):
            client.main([*flags, wrong])
        assert wrong.split("=")[0] in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        client.main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for name in ("features", "address", "rest", "model", "seconds_per_step", "requests", "concurrency", "output"):
        assert f"--{name}" in printed


def test_time_base_comes_with_the_signature(base, model, recordings, tmp_path, capsys):
    """A default in the signature is what the server would insert; without one, the client asks for the flag."""
    shutil.copytree((base / "1").resolve(), tmp_path / "1")
    file = tmp_path / "1" / "saved_model.pb"
    graph = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    defaults = graph.meta_graphs[0].signature_def["serving_default"].defaults
    flags = [f"--features={recordings / 'a.npy'}", f"--output={tmp_path / 'found.json'}"]
    expected = by_saved_model(model, np.load(recordings / "a.npy"))
    for seconds in (None, SECONDS_PER_STEP):
        defaults.clear()
        if seconds is not None:
            defaults["seconds_per_step"].CopyFrom(tf.make_tensor_proto(np.float32([seconds])))
        file.write_bytes(graph.SerializeToString())
        server, port, rest_port = serving_server.start(tmp_path, 0, 0)
        for where in (f"--address=127.0.0.1:{port}", f"--rest=http://127.0.0.1:{rest_port}"):
            if seconds is None:
                assert "--seconds_per_step is needed: model a2net does not say its own" in refused(
                    capsys, *flags, where
                )
            else:
                assert client.main([*flags, where]) == 0
                entries = json.loads((tmp_path / "found.json").read_text())["results"]["a"]
                np.testing.assert_allclose([e["segment"] for e in entries], expected[0], rtol=0, atol=1e-3)
        server.stop(None)


def test_too_long_for_a_message():
    features = np.broadcast_to(np.float32(0), (2**22, 150))
    with pytest.raises(UserError, match=r"video: 2\.3 GiB of features do not fit into one message"):
        client.ask(None, "video", features, 1.0)


def test_grpc_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(UserError, match="gRPC needs `pip install tensorflow-serving-api`.*--rest="):
        client.GrpcServer("localhost:8500", "a2net", 1.0)


def test_at_once_is_bounded_and_lazy():
    lock, now, most, taken = threading.Lock(), 0, 0, []

    def items():
        for i in range(12):
            taken.append(i)
            yield i

    def work(i):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return i

    calls = client.at_once(work, items(), 3)
    next(calls)
    assert len(taken) < 8  # three under way, those that are done, and one more
    assert sorted([*calls]) != []
    assert most == 3
    with pytest.raises(ZeroDivisionError):
        list(client.at_once(lambda i: 1 // i, [1, 0, 1], 2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no details"),
        ("{{function_node f}} {{node g}} Shape of\n\t it", "Shape of it"),
        ("2 root error(s) found.\n (0) assertion failed: [no]\n [[{{node Assert}}]]", "assertion failed: [no]"),
        ("x" * 999, "x" * 300),
    ],
)
def test_long_errors_are_one_line(text, expected):
    assert client.ServerError("INTERNAL", text).details == expected


# --- the files of the server


def test_models_config():
    config = text_format.Parse((SERVING / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
    (served,) = config.model_config_list.config
    assert (served.name, served.base_path, served.model_platform) == ("a2net", "/models/a2net", "tensorflow")
    assert served.model_version_policy.latest.num_versions == 1


def message_class(name, fields):
    """A message of TF Serving that its Python package leaves out, from {field: (number, type)}."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", syntax="proto3")
    wrapper = file.message_type.add(name="Int64Value")
    wrapper.field.add(name="value", number=1, type="TYPE_INT64", label="LABEL_OPTIONAL")
    message = file.message_type.add(name=name)
    for field, (number, kind) in fields.items():
        added = message.field.add(name=field, number=number, label="LABEL_OPTIONAL")
        added.type = descriptor_pb2.FieldDescriptorProto.Type.Value(kind)
        if kind == "TYPE_MESSAGE":
            added.type_name = ".Int64Value"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def test_batching_parameters():
    numbers = {"max_batch_size": 1, "batch_timeout_micros": 2, "max_enqueued_batches": 3, "num_batch_threads": 4}
    fields = {name: (number, "TYPE_MESSAGE") for name, number in numbers.items()}
    kind = message_class("BatchingParameters", {**fields, "pad_variable_length_inputs": (7, "TYPE_BOOL")})
    parameters = text_format.Parse((SERVING / "batching_parameters.txt").read_text(), kind())
    assert parameters.pad_variable_length_inputs
    assert all(getattr(parameters, name).value > 0 for name in numbers)


def test_monitoring_config():
    kind = message_class("PrometheusConfig", {"enable": (1, "TYPE_BOOL"), "path": (2, "TYPE_STRING")})
    text = (SERVING / "monitoring.config").read_text()
    (inside,) = re.findall(r"^prometheus_config \{(.*)^\}", text, re.DOTALL | re.MULTILINE)
    assert text_format.Parse(inside, kind()) == kind(enable=True, path="/monitoring/prometheus/metrics")


def serve_sh(*arguments):
    return subprocess.run(["bash", str(SERVING / "serve.sh"), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_start_script(tmp_path):
    assert subprocess.run(["bash", "-n", str(SERVING / "serve.sh")], check=False).returncode == 0
    base = tmp_path / "my models"
    (base / "3").mkdir(parents=True)
    (base / "old").mkdir()
    (base / "old" / "saved_model.pb").touch()
    done = serve_sh(str(base), "--print")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no version in it; expected" in done.stderr
    (base / "3" / "saved_model.pb").touch()
    done = serve_sh(str(base), "--print", "--engine=podman", "--grpc_port=9000", "--memory=4g")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("podman run --rm ")
    for part in ("127.0.0.1:9000:8500", "127.0.0.1:8501:8501", "my\\ models:/models/a2net:ro", "--memory 4g",
                 "--model_config_file=/serving/models.config"):  # fmt: skip
        assert part in done.stdout
    assert "batching" not in done.stdout
    assert "--memory 8g --memory-swap 8g" in serve_sh(str(base), "--print").stdout
    assert "--memory" not in serve_sh(str(base), "--print", "--memory=none").stdout
    assert "--enable_batching=true" in serve_sh(str(base), "--print", "--enable_batching").stdout
    (named,) = set(re.findall(r"--\w+_file=/serving/([\w.]+)", done.stdout)) - {"models.config"}
    assert (SERVING / named).exists()


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "usage: bash serve.sh MODEL_BASE"),
        (["/nowhere/at/all"], 1, "no such folder"),
        ([".", "."], 1, "one MODEL_BASE expected"),
        ([".", "--port=1"], 1, "unknown option --port=1"),
        ([".", "--grpc_port=x"], 1, "port 'x' is not a number"),
    ],
)
def test_start_script_says_what_is_wrong(arguments, status, text):
    done = serve_sh(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert text in done.stderr

"""A stand-in for TensorFlow Serving, for machines that do not have its binary, and requests meant to break a server.

    python -m tests.serving_server MODEL_BASE --port=8500 --rest_port=8501
    python -m tests.serving_server MODEL_BASE --fuzz=10000

A real gRPC server with the package's own stubs (PredictionService: Predict, GetModelMetadata), and a small REST server.
As in the real one, a model runs in a session on the graph of its SavedModel: tensors are parsed and graphs are run by
the same C++ code, no Python function looks at shapes before, and statuses of TensorFlow are answered as they are.
``tf.saved_model.load`` would hide two mistakes that only a session shows: weights that the graph's restore
operation does not know, and shapes that nothing in the graph refuses.

Statuses and their texts follow tensorflow_serving/servables/tensorflow/predict_util.cc and
model_servers/grpc_status_util.cc of tensorflow/serving.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import functools
import http.server
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

tf.get_logger().setLevel("ERROR")  # loading into a session is called deprecated

REPO = pathlib.Path(__file__).resolve().parent.parent
MODEL = "a2net"
_LAST_TYPE = 100  # of tensors; above it are references to variables
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
STATUS = {code.value[0]: code for code in grpc.StatusCode}  # TensorFlow's codes are gRPC's
HTTP_STATUS = {grpc.StatusCode.INVALID_ARGUMENT: 400, grpc.StatusCode.NOT_FOUND: 404}


class Servable:
    """One version of a model, run in a session.

    Args:
        path: of the SavedModel.
    """

    def __init__(self, path: pathlib.Path):
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(path))
        self.signatures = dict(graph.signature_def)

    @functools.cache  # noqa: B019
    def _callable(self, signature: str, outputs: tuple[str, ...]) -> Callable:
        """Session.run would compare shapes before the graph does, which the real server does not.

        Kept for as long as the servable, which is as long as the server.
        """
        definition = self.signatures[signature]
        return self._session._make_callable_from_options(
            config_pb2.CallableOptions(
                feed=[definition.inputs[name].name for name in sorted(definition.inputs)],
                fetch=[definition.outputs[name].name for name in outputs],
            )
        )

    def run(self, signature: str, inputs: dict[str, np.ndarray], wanted: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """Outputs of a signature by name; raises tf.errors.OpError."""
        if signature not in self.signatures:
            raise tf.errors.FailedPreconditionError(None, None, f'Serving signature key "{signature}" not found.')
        definition = self.signatures[signature]
        inputs = {**{name: tf.make_ndarray(value) for name, value in definition.defaults.items()}, **inputs}
        if set(inputs) != set(definition.inputs):
            raise invalid(
                f"input size does not match signature: {len(inputs)}!={len(definition.inputs)}. "
                f"Sent extra: {{{','.join(sorted(set(inputs) - set(definition.inputs)))}}}. "
                f"Missing but required: {{{','.join(sorted(set(definition.inputs) - set(inputs)))}}}."
            )
        for name in wanted:
            if name not in definition.outputs or wanted.count(name) > 1:
                raise invalid(f"output tensor alias not found in signature, or duplicate: {name}")
        outputs = wanted or tuple(sorted(definition.outputs))
        values = self._callable(signature, outputs)(*(inputs[name] for name in sorted(inputs)))
        return dict(zip(outputs, values, strict=True))


def invalid(message: str) -> tf.errors.OpError:
    return tf.errors.InvalidArgumentError(None, None, message)


class Models:
    """The versions of one model below a base folder; a bare SavedModel is version 1.

    Args:
        base: MODEL_BASE of ``MODEL_BASE/1/saved_model.pb``, or a SavedModel.
        name: by which requests ask for it.
    """

    def __init__(self, base: pathlib.Path, name: str = MODEL):
        self._name = name
        found = {int(p.parent.name): p.parent for p in base.glob("*/saved_model.pb") if p.parent.name.isdecimal()}
        self.paths = {1: base} if (base / "saved_model.pb").exists() else found
        if not self.paths:
            raise FileNotFoundError(f"{base}: no SavedModel and no numbered versions of one")
        self._lock = threading.Lock()
        self._load = functools.cache(lambda version: Servable(self.paths[version]))

    def get(self, spec) -> tuple[int, Servable]:
        """The servable that a ModelSpec asks for, the latest by default, with its version."""
        asked = spec.version.value if spec.HasField("version") else None
        version = max(self.paths) if asked is None else asked
        if spec.name != self._name or version not in self.paths:
            wanted = f"Latest({spec.name})" if asked is None else f"Specific({spec.name}, {asked})"
            raise tf.errors.NotFoundError(None, None, f"Servable not found for request: {wanted}")
        with self._lock:
            return version, self._load(version)


def parse_tensor(name: str, proto) -> np.ndarray:
    """The value of a TensorProto, parsed by the C++ code that the real server parses it with.

    What no address space holds is refused untried: TensorFlow would try for 10 seconds, and hold Python's lock. So is
    what is no number or has content of another length than its shape says: ``tf.io.parse_tensor`` never gives back the
    memory of what it refuses.
    """
    if math.prod(max(dimension.size, 1) for dimension in proto.tensor_shape.dim) > 2**47:
        raise invalid(f"tensor parsing error: {name}")
    try:
        dtype = tf.dtypes.as_dtype(proto.dtype)
        num_bytes = dtype.size * math.prod(dimension.size for dimension in proto.tensor_shape.dim)
        is_number = dtype.is_integer or dtype.is_floating or dtype.is_bool or dtype.is_complex
        if proto.dtype > _LAST_TYPE or not is_number or len(proto.tensor_content) not in (0, num_bytes):
            raise invalid(f"tensor parsing error: {name}")
        return tf.io.parse_tensor(proto.SerializeToString(), dtype).numpy()
    except (TypeError, ValueError, AttributeError, NotImplementedError, tf.errors.OpError):
        raise invalid(f"tensor parsing error: {name}") from None


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata of ``models``; every other method is answered UNIMPLEMENTED."""

    def __init__(self, models: Models):
        self._models = models

    def Predict(self, request, context):
        with statuses(context):
            version, servable = self._models.get(request.model_spec)
            signature = request.model_spec.signature_name or "serving_default"
            inputs = {name: parse_tensor(name, proto) for name, proto in request.inputs.items()}
            outputs = servable.run(signature, inputs, tuple(request.output_filter))
            reply = predict_pb2.PredictResponse()
            reply.model_spec.name, reply.model_spec.signature_name = request.model_spec.name, signature
            reply.model_spec.version.value = version
            for name, value in outputs.items():
                reply.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return reply

    def GetModelMetadata(self, request, context):
        with statuses(context):
            return metadata(self._models, request)


def metadata(models: Models, request):
    """The GetModelMetadataResponse for a request."""
    if list(request.metadata_field) != ["signature_def"]:
        raise invalid(f"Metadata field {list(request.metadata_field)} is not supported")
    version, servable = models.get(request.model_spec)
    reply = get_model_metadata_pb2.GetModelMetadataResponse()
    reply.model_spec.name = request.model_spec.name
    reply.model_spec.version.value = version
    signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)
    reply.metadata["signature_def"].Pack(signatures)
    return reply


@contextlib.contextmanager
def statuses(context):
    """Answers a TensorFlow error with its own status; the text is cut as the real server cuts it."""
    try:
        yield
    except tf.errors.OpError as error:
        text = error.message if len(error.message) <= 1024 else error.message[:1024] + "...TRUNCATED"
        context.abort(STATUS[error.error_code], text)


class RestHandler(http.server.BaseHTTPRequestHandler):
    """``/v1/models/NAME[/versions/N]:predict`` with columnar "inputs", and ``.../metadata``."""

    models: Models

    def do_GET(self):
        self._answer(r"/v1/models/([^/:]+)(?:/versions/(\d+))?/metadata", self._metadata)

    def do_POST(self):
        self._answer(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:predict", self._predict)

    def _answer(self, pattern: str, method: Callable[..., dict]):
        try:
            found = re.fullmatch(pattern, self.path)
            if not found:
                raise invalid(f"Malformed request: {self.command} {self.path}")
            request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
            request.model_spec.name = found[1]
            if found[2]:
                request.model_spec.version.value = int(found[2])
            status, body = 200, method(request)
        except tf.errors.OpError as error:
            status, body = HTTP_STATUS.get(STATUS[error.error_code], 500), {"error": error.message}
        encoded = json.dumps(body).encode()
        with contextlib.suppress(ConnectionError):  # the client did not wait
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

    def _metadata(self, request) -> dict:
        reply = metadata(self.models, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        reply.metadata["signature_def"].Unpack(signatures)
        as_json = functools.partial(json_format.MessageToDict, preserving_proto_field_name=True)
        return {"model_spec": as_json(reply.model_spec), "metadata": {"signature_def": as_json(signatures)}}

    def _predict(self, request) -> dict:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        _, servable = self.models.get(request.model_spec)
        try:
            sent = json.loads(body, parse_constant=lambda name: float("not a number of JSON"))
            infos = servable.signatures[sent.get("signature_name", "serving_default")].inputs
            inputs = {name: np.array(sent["inputs"][name], tf.dtypes.as_dtype(infos[name].dtype).as_numpy_dtype)
                      for name in infos}  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise invalid(f"JSON Parse error: {error!r}") from None
        outputs = servable.run(sent.get("signature_name", "serving_default"), inputs)
        return {"outputs": {name: to_json(value) for name, value in outputs.items()}}

    def log_message(self, *arguments):
        pass


def to_json(value: np.ndarray) -> list:
    return np.char.decode(value.astype(bytes), "utf-8").tolist() if value.dtype == object else value.tolist()


# --- running it


def start(base: pathlib.Path, port: int, rest_port: int) -> tuple[grpc.Server, int, int]:
    """Starts both servers; returns the first, which stops when it is deleted, and the ports (0 asks for a free one)."""
    models = Models(base)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), options=UNLIMITED)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(models), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    handler = type("Handler", (RestHandler,), {"models": models})
    rest = http.server.ThreadingHTTPServer(("127.0.0.1", rest_port), handler)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    server.start()
    return server, port, rest.server_address[1]


class Running(NamedTuple):
    """A server to talk to.

    Attributes:
        address: of gRPC.
        rest: URL, or "".
        pid: of its process, or None where that is elsewhere.
    """

    address: str
    rest: str
    pid: int | None

    @property
    def memory_mib(self) -> float:
        """Resident memory of the process (Linux)."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


@contextlib.contextmanager
def in_new_process(base: pathlib.Path) -> Iterator[Running]:
    """A server of its own for ``base``; it ends with the block."""
    command = [sys.executable, "-m", "tests.serving_server", str(base), "--port=0", "--rest_port=0"]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}  # every malformed tensor is worth a line to TensorFlow
    with subprocess.Popen(command, cwd=REPO, env=quiet, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line, "the server did not start"
            port, rest_port = re.search(r"gRPC port (\d+), REST port (\d+)", line).groups()
            yield Running(f"127.0.0.1:{port}", f"http://127.0.0.1:{rest_port}", process.pid)
        finally:
            process.terminate()


# --- requests meant to break a server


def good_request(features: np.ndarray, seconds_per_step: float = 0.5):
    """A PredictRequest for one recording f32[T, D]."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    put(request, "features", features[None])
    put(request, "num_steps", np.int32([len(features)]))
    put(request, "seconds_per_step", np.float32([seconds_per_step]))
    return request


def put(request, name: str, value) -> None:
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))


def _array(request, name: str) -> np.ndarray:
    return tf.make_ndarray(request.inputs[name])


def pick(random, options: Sequence):
    """One of ``options``, which may be of any types."""
    return options[random.integers(len(options))]


def _bad_value(random, request):
    features = _array(request, "features").copy()
    features.reshape(-1)[random.integers(features.size)] = pick(random, [np.nan, np.inf, -np.inf])
    put(request, "features", features)


def _no_steps(random, request):
    put(request, "features", np.zeros((1, 0, _array(request, "features").shape[2]), np.float32))
    put(request, "num_steps", np.int32([random.integers(2)]))


def _too_many_steps(random, request):
    steps = int(_array(request, "num_steps")[0])
    put(request, "num_steps", np.int32([pick(random, [steps + 1, 2 * steps, 2**31 - 1])]))


def _too_few_steps(random, request):
    put(request, "num_steps", np.int32([pick(random, [0, -1, -(2**31)])]))


def _wrong_feature_size(random, request):
    size = _array(request, "features").shape[2]
    put(request, "features", np.ones((1, 70, pick(random, [0, 1, size - 1, size + 1, 2 * size])), np.float32))


def _wrong_rank(random, request):
    name = pick(random, ["features", "num_steps", "seconds_per_step"])
    value = _array(request, name)
    more = value[(None,) * random.integers(1, 5)]
    put(request, name, pick(random, [more, value[0]]))


def _missing_input(random, request):
    del request.inputs[pick(random, ["features", "num_steps"])]  # seconds_per_step may have a default


def _extra_input(random, request):
    put(request, "".join(pick(random, "abc ;/\n") for _ in range(5)), np.float32(1))


def _wrong_type(random, request):
    name = pick(random, sorted(request.inputs))
    value = _array(request, name)
    other = pick(random, ["float16", "float64", "int64", "uint8", "bool", "complex64", "str"])
    put(request, name, value.astype(other))


def _wrong_length(random, request):
    name = pick(random, ["num_steps", "seconds_per_step"])
    put(request, name, np.repeat(_array(request, name), pick(random, [0, 2, 7])))


def _cut_content(random, request):
    proto = request.inputs[pick(random, sorted(request.inputs))]
    content = proto.tensor_content or _array(request, "num_steps").tobytes()
    proto.ClearField("int_val")
    proto.ClearField("float_val")
    proto.tensor_content = content[: random.integers(1, len(content))]


def _bad_time(random, request):
    put(request, "seconds_per_step", np.float32([pick(random, [0.0, -1.0, np.nan, np.inf, -np.inf, 3e38])]))


def _impossible_shape(random, request):
    """Declares more than any address space holds. Sizes that just fit would be granted, by the real server too."""
    proto = request.inputs["features"]
    proto.ClearField("tensor_content")
    sizes = [(1, 2**56), (2**31, 2**29), (2**62, 1), (2**40, 2**40), (1, -1), (-(2**63), 1)]
    proto.tensor_shape.dim[0].size, proto.tensor_shape.dim[1].size = pick(random, sizes)


def _strange_type(random, request):
    request.inputs[pick(random, sorted(request.inputs))].dtype = int(pick(random, [0, 7, 20, 21, 101, 107, 9999]))


def _unknown_model(random, request):
    request.model_spec.name = pick(random, ["", "A2NET", "other", "a2net/1", "é" * 100])


def _unknown_version(random, request):
    request.model_spec.version.value = int(pick(random, [0, -1, 987654321, 2**63 - 1]))


def _unknown_signature(random, request):
    request.model_spec.signature_name = pick(
        random, ["predict", "serving_default ", "__saved_model_init_op", "x" * 9999]
    )


def _unknown_output(random, request):
    request.output_filter.extend(pick(random, [["logits"], ["scores", "scores"], [""]]))


def _nothing(random, request):
    request.Clear()


REFUSED = (
    _bad_value, _no_steps, _too_many_steps, _too_few_steps, _wrong_feature_size, _wrong_rank, _missing_input,
    _extra_input, _wrong_type, _wrong_length, _cut_content, _bad_time, _impossible_shape, _strange_type,
    _unknown_model, _unknown_version, _unknown_signature, _unknown_output, _nothing,
)  # fmt: skip


def _undeclared_content(random, request):
    """A tensor without content is legal and all zeros: a short request for much memory, up to 64 MB here."""
    proto = request.inputs["features"]
    proto.ClearField("tensor_content")
    size = proto.tensor_shape.dim[2].size
    proto.tensor_shape.dim[1].size = int(pick(random, [70, 10_000, 2**24 // size]))


def _no_sequences(random, request):
    """A batch of 0 is legal and empty."""
    for name in sorted(request.inputs):
        put(request, name, _array(request, name)[:0])


def _other_signature(random, request):
    """Windows of any shape to the signatures that take windows."""
    request.model_spec.signature_name = pick(random, ["windows", "raw"])
    size = _array(request, "features").shape[2]
    shapes = [
        (2, 64, size),
        (2, 64, 1),
        (2, 63, size),
        (2, 128, size),
        (0, 64, size),
        (2, 1, size),
        (64, size),
        (1, 2, 64, size),
    ]
    request.ClearField("inputs")
    put(request, "features", random.normal(size=pick(random, shapes)).astype(np.float32))


EITHER = (_undeclared_content, _no_sequences, _other_signature)  # an error, or a valid result


def flipped(random, message: bytes) -> bytes:
    """Up to eight bytes changed, the message cut, or pure noise."""
    if random.random() < 0.1:
        return random.bytes(random.integers(200))
    changed = bytearray(message)
    for position in random.integers(len(changed), size=random.integers(1, 9)):
        changed[position] = random.integers(256)
    return bytes(changed[: random.integers(1, len(changed))] if random.random() < 0.3 else changed)


class Malformed(NamedTuple):
    """A request meant to break a server."""

    kind: str
    message: bytes
    must_be_refused: bool


def malformed_request(features: np.ndarray, *seeds: int) -> Malformed:
    """A malformed request, the same one for the same seeds.

    Args:
        features: f32[T, D] of the good request that it is made from.
        seeds: any numbers.
    """
    random = np.random.default_rng(seeds)
    request = good_request(features)
    change = pick(random, (*REFUSED, *EITHER, flipped, flipped))
    if change is flipped:
        return Malformed("flipped", flipped(random, request.SerializeToString()), False)
    change(random, request)
    return Malformed(change.__name__.strip("_"), request.SerializeToString(), change in REFUSED)


def problem_of(found: dict[str, np.ndarray]) -> str | None:
    """What is wrong with the outputs of any signature, if anything; NaN in the raw candidates is not looked for."""
    sizes = {name: value.shape[:2] for name, value in found.items() if name != "num_detections"}
    if len(set(sizes.values())) > 1:
        return f"sizes differ: {sizes}"
    if "num_detections" not in found:
        return None
    if not all(np.isfinite(found[name]).all() for name in ("segments", "scores")):
        return "not finite"
    if (found["num_detections"] < 0).any() or (found["num_detections"] > found["scores"].shape[1]).any():
        return f"num_detections is {found['num_detections']}"
    return None


class Fuzzed(NamedTuple):
    """What came of many malformed requests.

    Attributes:
        answers: {(kind, status): how many}.
        wrong: one line for each answer that is neither an error nor valid, or not the expected one of the two.
        seconds: all of it.
    """

    answers: collections.Counter
    wrong: list[str]
    seconds: float


SOUND = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "INTERNAL",
    "ABORTED",
    "RESOURCE_EXHAUSTED",
    "UNIMPLEMENTED",
}


def fuzz(address: str, features: np.ndarray, count: int, seed: int = 0) -> Fuzzed:
    """Sends malformed requests, four at a time, with a good one after every tenth.

    Args:
        address: of gRPC.
        features: f32[T, D] of the good request.
        count: malformed requests.
        seed: of the random numbers.
    """
    channel = grpc.insecure_channel(address, UNLIMITED)
    send = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")  # bytes: what no stub would encode
    good = good_request(features).SerializeToString()
    expected = send(good, timeout=60)

    def check(number: int) -> tuple[str, str, str | None]:
        request = malformed_request(features, seed, number)
        status, wrong = "OK", None
        try:
            reply = predict_pb2.PredictResponse.FromString(send(request.message, timeout=60))
            outputs = {name: tf.make_ndarray(value) for name, value in reply.outputs.items()}
            wrong = "not refused" if request.must_be_refused else problem_of(outputs)
        except grpc.RpcError as error:
            status = error.code().name
            wrong = None if status in SOUND else f"{status}: {error.details()[:200]}"
        if number % 10 == 0 and not same_outputs(send(good, timeout=60), expected):
            wrong = "the good request after it is answered otherwise than before"
        return request.kind, status, wrong and f"request {number} of seed {seed}, {request.kind}: {wrong}"

    started = time.perf_counter()
    with channel, concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(check, range(count)))
    answers = collections.Counter((kind, status) for kind, status, _ in results)
    return Fuzzed(answers, [wrong for _, _, wrong in results if wrong], time.perf_counter() - started)


def same_outputs(one: bytes, other: bytes) -> bool:
    """Whether two serialized PredictResponses hold the same detections, to 1e-5."""
    pair = [predict_pb2.PredictResponse.FromString(message).outputs for message in (one, other)]
    a, b = ({name: tf.make_ndarray(value) for name, value in outputs.items()} for outputs in pair)
    return all(
        np.array_equal(a[name], b[name])
        if b[name].dtype.kind in "iO"
        else np.allclose(a[name], b[name], rtol=0, atol=1e-5)
        for name in b
    )


def _fuzz_and_print(base: pathlib.Path, count: int, seed: int) -> int:
    with in_new_process(base) as server:
        definition = Models(base).get(
            get_model_metadata_pb2.GetModelMetadataRequest(model_spec={"name": MODEL}).model_spec
        )
        size = definition[1].signatures["serving_default"].inputs["features"].tensor_shape.dim[2].size
        features = np.random.default_rng(0).normal(size=(200, size)).astype(np.float32)
        fuzz(server.address, features, 200 + count // 10, seed + 1)  # thread pools and caches fill
        before = server.memory_mib
        found = fuzz(server.address, features, count, seed)
        after = server.memory_mib
    statuses_ = collections.Counter()
    for (kind, status), times in sorted(found.answers.items()):
        print(f"{kind:22} {status:20} {times:6}")
        statuses_[status] += times
    print(", ".join(f"{status} {times}" for status, times in statuses_.most_common()))
    print(f"{count} requests in {found.seconds:.0f} s; memory {before:.0f} MiB before, {after:.0f} MiB after")
    print("\n".join([f"{len(found.wrong)} wrong answers", *found.wrong[:20]]))
    return 1 if found.wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=pathlib.Path, help="folder of numbered versions, or a SavedModel")
    parser.add_argument("--port", type=int, default=8500)
    parser.add_argument("--rest_port", type=int, default=8501)
    parser.add_argument("--fuzz", type=int, help="send so many malformed requests to a server of its own, and count")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.fuzz:
        return _fuzz_and_print(options.base, options.fuzz, options.seed)
    server, port, rest_port = start(options.base, options.port, options.rest_port)
    print(f"{options.base} as {MODEL}: gRPC port {port}, REST port {rest_port}", flush=True)
    server.wait_for_termination()
    return 0


if __name__ == "__main__":
    sys.exit(main())

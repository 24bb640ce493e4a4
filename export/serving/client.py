"""Asks a TensorFlow Serving server for detections and measures how long it takes.

    python -m a2net_tf.export.serving.client --features=recording.npy
    python -m a2net_tf.export.serving.client --features=FOLDER --requests=500 --concurrency=4 --output=found.json

gRPC by default; ``--rest=http://localhost:8501`` sends JSON instead, which is several times larger and slower. One
request holds one whole recording.
"""

import argparse
import concurrent.futures
import http.client
import itertools
import json
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from a2net_tf.errors import UserError
from a2net_tf.native_logs import quiet_native_logs

with quiet_native_logs():
    import numpy as np
    import tensorflow as tf
    from google.protobuf import json_format
    from tensorflow.core.protobuf import meta_graph_pb2

    from a2net_tf import safe_files
    from a2net_tf.evaluation import results_files
    from a2net_tf.evaluation.instances import Detections
    from a2net_tf.inference import localization

_MAX_MESSAGE_BYTES = 2**31 - 2**20  # a protocol buffer ends at 2 GiB; the rest of a request is far below 1 MiB
_PRINTED_DETECTIONS = 10


class ServerError(Exception):
    """What a server answered instead of detections.

    Args:
        code: name of the gRPC status, also for REST.
        details: the server's own words.
    """

    def __init__(self, code: str, details: str):
        super().__init__(f"{code}: {details}")
        self.code = code
        self.details = _one_line(details)


def _one_line(text: str | None) -> str:
    """The part of TensorFlow's many-line messages that a person can use, at most 300 characters."""
    text = re.sub(r"\[?\[?\{\{[^}]*\}\}\]?\]?", "", text or "no details")  # names of graph nodes
    text = " ".join(text.split())
    asserted = text.find("assertion failed:")
    return text[max(asserted, 0) :][:300]


class Server(Protocol):
    """One model of one server; both implementations can be used by many threads."""

    def signature(self) -> meta_graph_pb2.SignatureDef:
        """The signature ``serving_default``."""

    def encode(self, features: np.ndarray, seconds_per_step: float) -> Any:
        """A request for ``send`` with one recording f32[T, D]."""

    def send(self, request: Any) -> dict[str, np.ndarray]:
        """The answer: segments f32[1, K, 2] in seconds, scores f32[1, K], labels [1, K], num_detections i32[1]."""


class GrpcServer:
    """A model behind the gRPC port.

    Args:
        address: ``host:port``.
        model: its name on the server.
        timeout_seconds: of each call.

    Raises:
        UserError: tensorflow-serving-api is not installed.
    """

    def __init__(self, address: str, model: str, timeout_seconds: float):
        try:
            import grpc
            from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc
        except ImportError as error:
            raise UserError(
                f"gRPC needs `pip install tensorflow-serving-api` ({error}); "
                "--rest=http://localhost:8501 works without it"
            ) from None
        # gRPC's own limit for a received message is 4 MB.
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address, options))
        self._messages = predict_pb2, get_model_metadata_pb2
        self._rpc_error = grpc.RpcError
        self._model, self._timeout = model, timeout_seconds

    def signature(self) -> meta_graph_pb2.SignatureDef:
        """See ``Server``."""
        metadata = self._messages[1]
        request = metadata.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self._model
        reply = self._call(self._stub.GetModelMetadata, request)
        described = metadata.SignatureDefMap()
        reply.metadata["signature_def"].Unpack(described)
        return described.signature_def["serving_default"]

    def encode(self, features: np.ndarray, seconds_per_step: float) -> Any:
        """See ``Server``."""
        request = self._messages[0].PredictRequest()
        request.model_spec.name = self._model
        for name, value in _inputs(features, seconds_per_step).items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        return request

    def send(self, request: Any) -> dict[str, np.ndarray]:
        """See ``Server``."""
        reply = self._call(self._stub.Predict, request)
        outputs = {name: tf.make_ndarray(value) for name, value in reply.outputs.items()}
        return {**outputs, "labels": np.char.decode(outputs["labels"].astype(bytes), "utf-8")}

    def _call(self, method: Callable, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout)
        except self._rpc_error as error:
            raise ServerError(error.code().name, error.details()) from None


class RestServer:
    """A model behind the REST port.

    Args:
        url: ``http://host:port``.
        model: its name on the server.
        timeout_seconds: of each call.
    """

    _CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 408: "DEADLINE_EXCEEDED", 504: "DEADLINE_EXCEEDED"}

    def __init__(self, url: str, model: str, timeout_seconds: float):
        if not url.startswith(("http://", "https://")):
            raise UserError(f"--rest={url}: expected http://HOST:PORT")
        self._url = f"{url.rstrip('/')}/v1/models/{urllib.parse.quote(model)}"
        self._timeout = timeout_seconds

    def signature(self) -> meta_graph_pb2.SignatureDef:
        """See ``Server``."""
        described = self._call("/metadata", None)
        for key in ("metadata", "signature_def", "signature_def", "serving_default"):
            described = described.get(key, {})
        return json_format.ParseDict(described, meta_graph_pb2.SignatureDef(), ignore_unknown_fields=True)

    def encode(self, features: np.ndarray, seconds_per_step: float) -> bytes:
        """See ``Server``."""
        columns = {name: value.tolist() for name, value in _inputs(features, seconds_per_step).items()}
        return json.dumps({"inputs": columns}, allow_nan=False).encode()

    def send(self, request: bytes) -> dict[str, np.ndarray]:
        """See ``Server``."""
        outputs = {name: np.array(value) for name, value in self._call(":predict", request)["outputs"].items()}
        return {
            **outputs,
            "segments": outputs["segments"].reshape(1, -1, 2),
        }  # an empty list has lost its last dimension

    def _call(self, path: str, body: bytes | None) -> dict:
        request = urllib.request.Request(self._url + path, data=body, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as reply:
                return dict(json.load(reply))
        except urllib.error.HTTPError as error:
            raise ServerError(self._CODES.get(error.code, f"HTTP {error.code}"), _error_text(error)) from None
        except OSError as error:  # URLError too
            late = isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)
            raise ServerError("DEADLINE_EXCEEDED" if late else "UNAVAILABLE", str(error)) from None
        except (http.client.HTTPException, ValueError, TypeError) as error:
            raise ServerError("UNKNOWN", f"no JSON object; is this the REST port? ({type(error).__name__})") from None


def _error_text(error: urllib.error.HTTPError) -> str:
    """TF Serving's explanation, or whatever else came."""
    body = error.read(4096).decode(errors="replace")
    try:
        return json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return body or str(error)


def _inputs(features: np.ndarray, seconds_per_step: float) -> dict[str, np.ndarray]:
    """The inputs of ``serving_default`` for one recording f32[T, D]."""
    return {
        "features": np.asarray(features, np.float32)[None],
        "num_steps": np.array([len(features)], np.int32),
        "seconds_per_step": np.array([seconds_per_step], np.float32),
    }


class Answer(NamedTuple):
    """The detections of one recording, by descending score.

    Attributes:
        video: name of the recording.
        segments: f64[n, 2], start and end in seconds.
        scores: f64[n].
        labels: class names, n of them.
        most: so many detections are kept of it at most.
        latency_seconds: from the encoded request to the decoded answer.
    """

    video: str
    segments: np.ndarray
    scores: np.ndarray
    labels: list[str]
    most: int
    latency_seconds: float


def ask(server: Server, video: str, features: np.ndarray, seconds_per_step: float) -> Answer:
    """Detections of one recording f32[T, D] by a server.

    Raises:
        UserError: the recording does not fit into a message.
        ServerError: the server refuses it, or there is none.
    """
    if features.size * 4 > _MAX_MESSAGE_BYTES:
        raise UserError(
            f"{video}: {features.size * 4 / 2**30:.1f} GiB of features do not fit into one message (2 GiB); cut the "
            "recording, or use --mode=predict, which reads it in parts"
        )
    request = server.encode(features, seconds_per_step)
    started = time.perf_counter()
    outputs = server.send(request)
    latency = time.perf_counter() - started
    count = int(outputs["num_detections"][0])
    segments, scores = (outputs[name][0, :count].astype(np.float64) for name in ("segments", "scores"))
    labels, most = outputs["labels"][0, :count].tolist(), outputs["scores"].shape[1]
    return Answer(video, segments, scores, labels, most, latency)


def at_once(function: Callable[[Any], Any], items: Iterable, concurrency: int) -> Iterator:
    """Yields ``function(item)`` as the calls end, ``concurrency`` of them at a time; takes items only when needed."""
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        running: set[concurrent.futures.Future] = set()
        for item in items:
            if len(running) == concurrency:
                done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                yield from (call.result() for call in done)
            running.add(pool.submit(function, item))
        yield from (call.result() for call in running)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="client.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--features", required=True, metavar="FILE.npy|FOLDER", help="recordings, one matrix [steps, features] each")
    add("--address", default="localhost:8500", help="HOST:PORT of gRPC (default %(default)s)")
    add("--rest", metavar="URL", help="ask by REST instead, such as http://localhost:8501")
    add("--model", default="a2net", help="name of the model on the server (default %(default)s)")
    add("--seconds_per_step", type=float, help="time from one row to the next; by default what the model says")
    add("--requests", type=int, default=0, help="send at least so many, the recordings in turn (default: each once)")
    add("--concurrency", type=int, default=1, help="requests under way at the same time (default %(default)s)")
    add("--timeout_seconds", type=float, default=120.0, help="longest wait for an answer (default %(default)s)")
    add("--output", metavar="FILE.json", help="write the detections as ActivityNet JSON")
    options = parser.parse_args(arguments)
    for name in ("concurrency", "timeout_seconds"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name}={getattr(options, name)}: expected more than 0")
    if options.seconds_per_step is not None and not 0 < options.seconds_per_step < float("inf"):
        parser.error(f"--seconds_per_step={options.seconds_per_step}: expected a positive number")
    return options


def _time_base(signature: meta_graph_pb2.SignatureDef, options: argparse.Namespace) -> float:
    """Seconds per step: asked for, or the signature's default for an input that is not sent."""
    if options.seconds_per_step is not None:
        return options.seconds_per_step
    if "seconds_per_step" not in signature.defaults:
        raise UserError(f"--seconds_per_step is needed: model {options.model} does not say its own")
    return float(tf.make_ndarray(signature.defaults["seconds_per_step"]).item())


def _num_features(signature: meta_graph_pb2.SignatureDef, options: argparse.Namespace) -> int:
    if set(signature.inputs) != {"features", "num_steps", "seconds_per_step"}:
        raise UserError(
            f"--model={options.model}: not written by --mode=export (serving_default takes {sorted(signature.inputs)})"
        )
    return signature.inputs["features"].tensor_shape.dim[2].size


def run(options: argparse.Namespace) -> None:
    """Asks for every recording, prints detections and latencies, writes ``options.output``."""
    if options.output:
        safe_files.check_writable(options.output)
    if options.rest:
        server: Server = RestServer(options.rest, options.model, options.timeout_seconds)
    else:
        server = GrpcServer(options.address, options.model, options.timeout_seconds)
    signature = server.signature()
    seconds_per_step = _time_base(signature, options)
    sources = localization.read_feature_files(
        options.features,
        num_features=_num_features(signature, options),
        seconds_per_step=seconds_per_step,
        first_step_seconds=0.0,  # the model adds its own
    )
    recordings = (whole for source in sources for whole in localization.stitched(source))
    if options.requests > len(sources):  # these are then kept in memory
        recordings = itertools.islice(itertools.cycle(recordings), options.requests)

    def ask_for(recording: dict) -> Answer:
        try:
            return ask(server, recording["id"], recording["features"], seconds_per_step)
        except ServerError as error:
            raise UserError(_explain(error, options, recording["source"])) from None

    started = time.perf_counter()
    answers, latencies = {}, []
    for answer in at_once(ask_for, recordings, options.concurrency):
        answers.setdefault(answer.video, answer)
        latencies.append(answer.latency_seconds)
    _report([answers[video] for video in sorted(answers)], options.output)
    _print_latencies(latencies, time.perf_counter() - started, options.concurrency)


def _explain(error: ServerError, options: argparse.Namespace, what: str) -> str:
    """One line for what went wrong with the request for ``what``."""
    where = f"--rest={options.rest}" if options.rest else f"--address={options.address}"
    if error.code == "UNAVAILABLE":
        return f"{where}: no server answers there, or it is overloaded ({error.details})"
    if error.code == "DEADLINE_EXCEEDED":
        return f"{where}: {what}: no answer within --timeout_seconds={options.timeout_seconds:g}"
    if error.code == "NOT_FOUND":
        return f"--model={options.model}: not served at {options.rest or options.address} ({error.details})"
    return f"{where}: {what}: the server answers {error.code}: {error.details}"


def _report(answers: list[Answer], output: str | None) -> None:
    """Prints the best detections of each recording and writes all of them."""
    for answer in answers:
        print(f"{answer.video}: {len(answer.scores)} detections, the best:")
        for (start, end), score, label in itertools.islice(
            zip(answer.segments, answer.scores, answer.labels, strict=True), _PRINTED_DETECTIONS
        ):
            print(f"  {start:9.2f} - {end:9.2f} s  {score:.3f}  {label}")
        if localization.is_cut_off(answer.scores, answer.most):
            print(
                f"warning: {answer.video}: its {answer.most} detections are as many as the model keeps, and the last "
                f"one has a score of {answer.scores[-1]:.2f}: export it with a higher --max_detections, or 0"
            )
    if output:
        class_names = sorted({label for answer in answers for label in answer.labels})
        tables = [
            Detections([a.video] * len(a.scores), a.segments, [class_names.index(n) for n in a.labels], a.scores)
            for a in answers
        ]
        results_files.write_activitynet(
            output, Detections.concatenate(tables), class_names, videos=[answer.video for answer in answers]
        )
        print(f"written: {output}")


def _print_latencies(latencies: list[float], wall_seconds: float, concurrency: int) -> None:
    p50, p90, p99 = 1000 * np.percentile(latencies, [50, 90, 99])
    print(
        f"{len(latencies)} requests, {concurrency} at a time: p50 {p50:.1f} ms, p90 {p90:.1f} ms, p99 {p99:.1f} ms, "
        f"{len(latencies) / wall_seconds:.1f} requests/s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        run(options)
    except ServerError as error:
        print(f"error: {_explain(error, options, 'the signature of the model')}", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

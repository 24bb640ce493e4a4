"""Writes a trained model as one ONNX file over windows, and proves in onnxruntime that it finds the same.

Input: ``features`` f32[N, W, D], N free. Outputs, all of one graph:
    ``candidate_segments`` f32[N, P, 2], ``candidate_scores`` f32[N, P], ``candidate_class_ids`` i32[N, P]: what the
        SavedModel's signature ``raw`` answers;
    with --step_classifier ``step_scores`` f32[N, W, C], which have not entered ``candidate_scores``, and
        ``window_scores`` f32[N, P], which they have, each in its own window: what is suppressed in the following;
    ``segments`` f32[N, K, 2], ``scores`` f32[N, K], ``class_ids`` i32[N, K], ``num_detections`` i32[N]: what
        ``windows`` answers, by the operator NonMaxSuppression; rows beyond ``num_detections`` are 0.
Segments are fractions of the window. The file's metadata hold classes, time base and settings (see ``_describe``).

Needs tf2onnx, onnx and onnxruntime: pip install ".[onnx]" in the checkout.
"""

import functools
import json

import numpy as np
import tensorflow as tf

from a2net_tf import safe_files, settings
from a2net_tf.compat import with_constant_weights, without_deprecation_warnings
from a2net_tf.detection.localizer import Localizer
from a2net_tf.detection.model import plain_copy
from a2net_tf.detection.postprocess import Candidates, Detections, suppress
from a2net_tf.errors import UserError
from a2net_tf.export.saved_model import Exported, window_candidates
from a2net_tf.settings import Config
from a2net_tf.training import run_directory
from a2net_tf.training.run_directory import Run

try:
    import onnx
    import onnxruntime
    import tf2onnx
    from onnx.reference import ReferenceEvaluator
except ImportError as error:
    raise UserError(f'ONNX needs more packages ({error}): pip install ".[onnx]" in the checkout') from None

_OPSET = 17  # which onnxruntime knows since 1.12
_TOLERANCE = 1e-4  # scores, and segments as fractions of the window
_MAX_OTHER_CLASSES = 1e-3  # share of candidates: where two classes are equally likely, rounding decides
_PREFIX = "candidate_"
_STEP_OUTPUTS = ("step_scores", "window_scores")  # of a network that classifies steps, without the prefix
_COMPARED_WINDOWS = 8

# From candidates to detections, as ``postprocess.suppress`` does it: the class as a second coordinate keeps classes
# apart, so that one call without classes suppresses class by class. The operator lists what it keeps as (window, 0,
# candidate) by window and score; their scores are put back into a matrix of zeros, of which the best K are taken.
_SUPPRESSION = """
suppression (float[N,P,2] candidate_segments, float[N,P] candidate_scores, int32[N,P] candidate_class_ids)
=> (float[N,K,2] segments, float[N,K] scores, int32[N,K] class_ids, int32[N] num_detections)
<float zero = {{0}}, float one = {{1}}, int64[1] axis1 = {{1}}, int64[1] axis2 = {{2}}, int64[2] both = {{0, 2}},
 int64[1] most = {{{max_detections}}}, int64[1] best = {{{best}}}, int64[4] padding = {{0, 0, 0, {missing}}},
 float[1] tiou = {{{tiou}}}, float[1] min_score = {{{min_score}}}>
{{
    clipped = Clip (candidate_segments, zero, one)
    start, end = Split <axis = 2> (clipped)
    class = Cast <to = 1> (candidate_class_ids)
    low = Unsqueeze (class, axis2)
    high = Add (low, one)
    boxes = Concat <axis = 2> (start, low, end, high)
    longer = Greater (end, start)
    usable = Squeeze (longer, axis2)
    usable_scores = Where (usable, candidate_scores, zero)
    class_scores = Unsqueeze (usable_scores, axis1)
    kept = NonMaxSuppression (boxes, class_scores, most, tiou, min_score)
    places = Gather <axis = 1> (kept, both)
    kept_scores = GatherND (usable_scores, places)
    shape = Shape (usable_scores)
    zeros = ConstantOfShape (shape)
    all_scores = ScatterND (zeros, places, kept_scores)
    best_scores, best_order = TopK <axis = 1> (all_scores, best)
    scores = Pad (best_scores, padding)
    order = Pad (best_order, padding)
    found = Greater (scores, zero)
    found_integer = Cast <to = 6> (found)
    found_float = Cast <to = 1> (found)
    num_detections = ReduceSum <keepdims = 0> (found_integer, axis1)
    ordered_ids = GatherElements <axis = 1> (candidate_class_ids, order)
    class_ids = Mul (ordered_ids, found_integer)
    rows = Unsqueeze (order, axis2)
    ordered_segments = GatherND <batch_dims = 1> (clipped, rows)
    found_column = Unsqueeze (found_float, axis2)
    {segments} = Mul (ordered_segments, found_column)
    {voting}
}}
"""

# As ``postprocess.vote`` does it, on arrays [N, K, P].
_VOTING = """
    voting_tiou = Constant <value_float = {voting_tiou}> ()
    one_more = Add (voting_tiou, one)
    voters = Transpose <perm = [0, 2, 1]> (clipped)
    own_start, own_end = Split <axis = 2> (kept_segments)
    voter_start, voter_end = Split <axis = 1> (voters)
    later_start = Max (own_start, voter_start)
    earlier_end = Min (own_end, voter_end)
    shared_or_gap = Sub (earlier_end, later_start)
    shared_and_more = Mul (shared_or_gap, one_more)
    own_length = Sub (own_end, own_start)
    voter_length = Sub (voter_end, voter_start)
    own_part = Mul (own_length, voting_tiou)
    voter_part = Mul (voter_length, voting_tiou)
    parts = Add (own_part, voter_part)
    enough = GreaterOrEqual (shared_and_more, parts)
    own_class = Unsqueeze (class_ids, axis2)
    voter_class = Unsqueeze (candidate_class_ids, axis1)
    same_class = Equal (own_class, voter_class)
    may_vote = And (same_class, enough)
    votes = Cast <to = 1> (may_vote)
    strong = Greater (usable_scores, min_score)
    strong_scores = Where (strong, usable_scores, zero)
    weights = Unsqueeze (strong_scores, axis2)
    weighted_positions = Mul (weights, clipped)
    to_sum = Concat <axis = 2> (weighted_positions, weights)
    sums = MatMul (votes, to_sum)
    sum_sizes = Constant <value_ints = [2, 1]> ()
    sum_of_positions, sum_of_weights = Split <axis = 2> (sums, sum_sizes)
    unmoved = Mul (sum_of_weights, kept_segments)
    sum_of_moves = Sub (sum_of_positions, unmoved)
    any_vote = Greater (sum_of_weights, zero)
    divisor = Where (any_vote, sum_of_weights, one)
    mean_moves = Div (sum_of_moves, divisor)
    segments = Add (kept_segments, mean_moves)
"""


def export_onnx(
    localizer: Localizer, run: Run, path: str, *, detections: bool = True, windows: np.ndarray | None = None
) -> float:
    """Writes the ONNX file beside ``path``, compares it with the localizer, then moves it there.

    Args:
        localizer: of the trained network.
        run: its description.
        path: of the .onnx file; an older one there is kept under a numbered name.
        detections: False leaves suppression out: candidates only, for a runtime without NonMaxSuppression.
        windows: f32[M, W, D] to compare on; by default random ones that resemble the training data.

    Returns:
        Largest difference of scores, or of segments as fractions of the window.

    Raises:
        UserError: settings that ONNX cannot follow, a path that cannot be written, or a model that disagrees.
    """
    _check_settings(localizer, detections)
    safe_files.check_writable(path)
    plain = localizer.with_networks(plain_copy)
    exported = Exported(plain, run)
    model = _convert_candidates(plain, exported)
    if detections:
        _append_suppression(model, localizer)
    _describe(model, run)
    if windows is None:
        windows = run_directory.random_features(run, _COMPARED_WINDOWS, run.config.inference_steps)
    windows = np.asarray(windows, np.float32)
    with safe_files.replace_file(path, keep_earlier=True) as temporary:
        onnx.save(model, temporary)
        onnx.checker.check_model(temporary, full_check=True)
        session = load_session(str(temporary))
        difference = max(_difference(exported, session, localizer.config, batch) for batch in (windows, windows[:1]))
        if not difference <= _TOLERANCE:
            raise UserError(f"{path}: not written: the ONNX model differs by {difference:.1e} from the trained one")
    return difference


def load_session(path: str) -> onnxruntime.InferenceSession:
    """The model for ``run_session``, on the CPU."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run_session(session: onnxruntime.InferenceSession, windows: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs by name, for windows f32[N, W, D]."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"features": windows}), strict=True))


def _check_settings(localizer: Localizer, detections: bool) -> None:
    for member in localizer.members:
        if member.config.precision != "float32":
            raise UserError(
                f"--precision={member.config.precision}: ONNX is written in float32; add --precision=float32 (the "
                "weights are float32 already)"
            )
    if detections and localizer.config.soft_nms_sigma > 0:
        raise UserError(
            f"--soft_nms_sigma={localizer.config.soft_nms_sigma:g}: ONNX has no Soft-NMS; expected 0, or an export of "
            "candidates only"
        )


def _convert_candidates(localizer: Localizer, exported: Exported) -> onnx.ModelProto:
    """The signature ``raw`` as ONNX, with prefixed outputs and a free number of windows N; and ``window_scores``."""
    function = exported.raw
    if localizer.scores_steps:
        with_scores = functools.partial(_raw_and_window_scores, localizer)
        function = tf.function(with_scores, input_signature=function.input_signature, autograph=False)
    raw = function.get_concrete_function()
    frozen = with_constant_weights(raw)
    graph_def = frozen.graph.as_graph_def()
    kernels = _take_kernels(graph_def)
    features = frozen.inputs[0].name
    names = sorted(raw.output_dtypes)  # the order in which TensorFlow flattens a dict
    outputs = {tensor.name: _prefixed(name) for name, tensor in zip(names, frozen.outputs, strict=True)}
    with without_deprecation_warnings():  # tf2onnx calls functions of TensorFlow 1
        model, _ = tf2onnx.convert.from_graph_def(
            graph_def,
            input_names=[features, *kernels],
            output_names=list(outputs),
            tensors_to_rename={features: "features", **outputs},
            opset=_OPSET,
        )
    _put_kernels(model, kernels)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    return model


def _raw_and_window_scores(localizer: Localizer, features: tf.Tensor) -> dict[str, tf.Tensor]:
    """``window_candidates`` of f32[N, W, D], and the scores that the steps of each window alone make of theirs."""
    raw = window_candidates(localizer, features)
    candidates = Candidates(raw["segments"], raw["scores"], raw["class_ids"])
    return {**raw, "window_scores": localizer.scored_in_window(candidates, raw["step_scores"]).scores}


def _prefixed(name: str) -> str:
    return name if name in _STEP_OUTPUTS else _PREFIX + name


def _take_kernels(graph_def: tf.compat.v1.GraphDef) -> dict[str, np.ndarray]:
    """Makes inputs of the convolutions' kernels and returns them: tf2onnx needs 90 times the memory of constants."""
    kernels = {}
    for node in (node for node in graph_def.node if node.op == "Const"):
        sizes = [dimension.size for dimension in node.attr["value"].tensor.tensor_shape.dim]
        if len(sizes) == 3 and sizes[1] > 1:  # steps, inputs, outputs; the features' mean is [1, 1, D]
            kernels[f"{node.name}:0"] = tf.make_ndarray(node.attr["value"].tensor)
            node.op = "Placeholder"
            node.attr["shape"].shape.CopyFrom(tf.TensorShape(sizes).as_proto())
            del node.attr["value"]
    return kernels


def _put_kernels(model: onnx.ModelProto, kernels: dict[str, np.ndarray]) -> None:
    """Makes initializers of the inputs that ``_take_kernels`` made, in the layout that Conv wants."""
    graph = model.graph
    arrays = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    derived = dict(kernels)
    for node in list(graph.node):  # in the order of computation: whatever depends on a kernel alone is computed now
        if node.input and node.input[0] in derived and all(name in arrays or name in derived for name in node.input):
            inputs = {name: derived.get(name, arrays.get(name)) for name in node.input}
            (derived[node.output[0]],) = ReferenceEvaluator(node, opsets={"": _OPSET}).run(None, inputs)
            graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    graph.initializer.extend(onnx.numpy_helper.from_array(derived[name], name) for name in derived if name in used)
    for value in [value for value in graph.input if value.name in kernels]:
        graph.input.remove(value)


def suppression(config: Config, num_candidates: int) -> onnx.GraphProto:
    """The graph from candidates of N windows, P = ``num_candidates`` each, to detections."""
    most = config.suppression["max_detections"]
    best = min(most, num_candidates)
    voting = _VOTING.format(voting_tiou=float(config.voting_tiou)) if config.voting_tiou > 0 else ""
    text = _SUPPRESSION.format(
        segments="kept_segments" if voting else "segments",
        voting=voting,
        max_detections=most,
        best=best,
        missing=most - best,
        tiou=repr(float(config.nms_tiou)),
        min_score=repr(float(config.min_score)),
    )
    sizes = {"P": num_candidates, "K": most}
    graph = onnx.parser.parse_graph(text)
    for value in (*graph.input, *graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in sizes:
                dimension.dim_value = sizes[dimension.dim_param]
    return graph


def _append_suppression(model: onnx.ModelProto, localizer: Localizer) -> None:
    """Goes on from the candidates, which stay outputs, to detections."""
    added = suppression(localizer.config, model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    for node in added.node if localizer.scores_steps else ():
        node.input[:] = ["window_scores" if name == "candidate_scores" else name for name in node.input]
    model.graph.node.extend(added.node)
    model.graph.initializer.extend(added.initializer)
    model.graph.output.extend(added.output)


def _describe(model: onnx.ModelProto, run: Run) -> None:
    """Writes into the file what a program needs to make sense of the outputs; lists and settings as JSON."""
    description = {
        "class_names": json.dumps(run.class_names),
        "window_steps": str(run.config.inference_steps),
        "stride_steps": str(run.config.inference_stride_steps),
        "seconds_per_step": repr(float(run.seconds_per_step)),
        "first_step_seconds": repr(float(run.first_step_seconds)),
        "settings": json.dumps(settings.exported_settings(run.config)),
        "extraction": json.dumps(dict(run.extraction)),
    }
    onnx.helper.set_model_props(model, description)
    model.producer_name = "a2net_tf"


def _difference(
    exported: Exported, session: onnxruntime.InferenceSession, config: Config, windows: np.ndarray
) -> float:
    """Largest difference of the candidates, or typical one of the detections; infinite for other classes.

    The detections are compared with those of ``suppress`` on the same candidates. Rounding can let a pair of equal
    scores or an overlap at the threshold fall the other way, which changes a window's detections at will. So the median
    over windows counts: a wrong graph shows in most windows.
    """
    outputs = run_session(session, windows)
    expected = {_prefixed(name): value.numpy() for name, value in exported.raw(tf.constant(windows)).items()}
    other = expected["candidate_class_ids"] != outputs["candidate_class_ids"]
    if other.mean() > _MAX_OTHER_CLASSES:
        return float("inf")
    compared = [name for name in expected if name != "candidate_class_ids"]
    largest = max(np.abs(expected[name] - outputs[name]).max() for name in compared)
    if "segments" in outputs:
        kept = _suppressed(outputs, config)
        pairs = [(value.numpy(), outputs[name]) for name, value in kept._asdict().items()]
        by_window = [np.abs(a - b).reshape(len(windows), -1).max(axis=1) for a, b in pairs]
        largest = max(largest, np.median(np.max(by_window, axis=0)))
    return float(largest)


def _suppressed(outputs: dict[str, np.ndarray], config: Config) -> Detections:
    """What TensorFlow's suppression makes of candidates that ONNX found."""
    segments = tf.clip_by_value(outputs["candidate_segments"], 0.0, 1.0)
    scores = outputs.get("window_scores", outputs["candidate_scores"])
    scores = tf.where(segments[..., 1] > segments[..., 0], scores, 0.0)
    return suppress(
        Candidates(segments, scores, tf.constant(outputs["candidate_class_ids"])),
        **config.suppression,
    )

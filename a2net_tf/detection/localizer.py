"""From a whole sequence's features to detections in seconds. What is evaluated is what is served."""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import keras
import numpy as np
import tensorflow as tf

from a2net_tf.detection import geometry, merging, windows
from a2net_tf.detection.member import Member, joined
from a2net_tf.detection.postprocess import Candidates, Detections
from a2net_tf.errors import UserError
from a2net_tf.settings import Config
from a2net_tf.settings.config import DETECTIONS_PER_WINDOW, LEAST_DETECTIONS

BRANCHES = ("anchor_free", "anchor_based", "both")


class Localizer(tf.Module):
    """Cuts windows, runs the network over batches of them, merges all candidates of a sequence and suppresses.

    Args:
        network: of ``build_model``, for windows of W = ``config.inference_steps`` steps.
        config: windows and localization settings.
        class_names: the C classes; class id i is ``class_names[i]``.
        first_step_seconds: where step 0 begins, for callers that do not say (see ``data.schema``).
        others: further networks with their settings, for the same features and classes. ``config.fusion`` says how they
            are merged: all candidates before suppression (the "fuse" rows of Tables III and IV), or the average of the
            networks' raw outputs, decoded with the first one's settings (late fusion, Table VII).
        also_reported: {class: a class that each of its detections also has}; a property of the dataset (on THUMOS14
            every CliffDiving is a Diving).

    Raises:
        UserError: ``config.classes_per_candidate`` of any network exceeds C.
    """

    def __init__(
        self,
        network: keras.Model,
        config: Config,
        class_names: Sequence[str],
        first_step_seconds: float = 0.0,
        *,
        others: Sequence[tuple[keras.Model, Config]] = (),
        also_reported: Mapping[str, str] = MappingProxyType({}),
    ):
        super().__init__(name="localizer")
        self.config = config
        if config.fusion == "outputs":
            self.members = [Member([network, *(other for other, _ in others)], config)]
        else:
            self.members = [Member([each], settings) for each, settings in [(network, config), *others]]
        self._is_anchor_based = np.concatenate([member.is_anchor_based for member in self.members])
        self.class_names = tuple(class_names)
        _check_number_of_classes([member.config.classes_per_candidate for member in self.members], self.class_names)
        self._also_reported = dict(also_reported)
        self.first_step_seconds = float(first_step_seconds)
        self.num_features = int(network.inputs[0].shape[-1])
        self._labels = tf.constant(self.class_names)
        also = (self.class_names.index(also_reported[n]) if n in also_reported else -1 for n in self.class_names)
        self._also = tuple(also) if also_reported else ()
        self.sequence_candidates = tf.function(
            self._sequence_candidates,
            autograph=False,
            input_signature=[
                tf.TensorSpec((None, self.num_features), tf.float32),
                *[tf.TensorSpec((), tf.int32)] * 3,
            ],
        )
        self.detect = {branch: functools.partial(self._detect_branch, branch) for branch in self.branches}

    def with_networks(self, change: Callable[[keras.Model], keras.Model]) -> "Localizer":
        """The same localizer with ``change(network)`` in place of each network."""
        pairs = [(change(network), member.config) for member in self.members for network in member.networks]
        (first, _), *others = pairs
        return Localizer(
            first,
            self.config,
            self.class_names,
            self.first_step_seconds,
            others=others,
            also_reported=self._also_reported,
        )

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that can be reported: all of BRANCHES only if the network has both."""
        if self._is_anchor_based.all():
            return ("anchor_based",)
        return BRANCHES if self._is_anchor_based.any() else ("anchor_free",)

    def reported(self, lambdas: Sequence[float] = ()) -> dict[str, tuple[str, float]]:
        """What can be reported of the same candidates: {name: (branch, merge weight)}, the merged result last.

        Args:
            lambdas: further merge weights to report besides the configured one.
        """
        weight = self.config.anchor_based_lambda
        single = {branch: (branch, weight) for branch in self.branches[:-1]}
        swept = {f"lambda {value:g}": ("both", value) for value in lambdas} if "both" in self.branches else {}
        return {**single, **swept, self.branches[-1]: (self.branches[-1], weight)}

    def __call__(self, features: tf.Tensor, num_steps: tf.Tensor, seconds_per_step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detections of a batch of whole sequences.

        Args:
            features: f32[B, T, D], padded at the end with anything.
            num_steps: i32[B], 1 <= num_steps <= T.
            seconds_per_step: f32[B] > 0.

        Returns:
            ``segments`` f32[B, K, 2] in seconds, ``scores`` f32[B, K], ``class_ids`` i32[B, K], ``labels`` string[B, K]
            and ``num_detections`` i32[B]; entries beyond it are 0 or "". K is ``config.max_detections``, or that of the
            longest sequence where it grows with them.
        """
        with tf.control_dependencies(windows.check_sequences(features, num_steps, seconds_per_step)):
            # A server compares no shapes with the signature, and D = 1 would broadcast to a wrong answer.
            features = tf.ensure_shape(features, (None, None, self.num_features))
            candidates = self.batch_candidates(features, num_steps)
        first = tf.fill(tf.shape(seconds_per_step), self.first_step_seconds)
        weights = self._merge_weights(self.branches[-1], tf.constant(self.config.anchor_based_lambda))
        return self.named(self._merge(candidates, num_steps, seconds_per_step, first, weights))

    def most_detections(self, num_steps: tf.Tensor) -> tf.Tensor:
        """``config.most_detections`` in the graph: i32[...] -> i32[...]."""
        if self.config.max_detections:
            return tf.fill(tf.shape(num_steps), self.config.max_detections)
        windows, rest = num_steps // self.config.window_steps, num_steps % self.config.window_steps
        of_rest = (DETECTIONS_PER_WINDOW * rest + self.config.window_steps - 1) // self.config.window_steps
        return tf.maximum(DETECTIONS_PER_WINDOW * windows + of_rest, LEAST_DETECTIONS)

    def named(self, detections: Detections) -> dict[str, tf.Tensor]:
        """Detections with their labels, as a dict."""
        there = tf.range(tf.shape(detections.scores)[1]) < detections.num_detections[:, None]
        labels = tf.where(there, tf.gather(self._labels, detections.class_ids), "")
        return {**detections._asdict(), "labels": labels}

    def window_candidates(self, features: tf.Tensor) -> Candidates:
        """Candidates of each window before suppression, in fractions of the window.

        Args:
            features: f32[N, W, D].

        Returns:
            segments f32[N, P, 2], scores f32[N, P], class_ids i32[N, P]; P = (L + A) k of each network with
            k = ``classes_per_candidate``: anchor-free first, then by level, cell, ratio and rank of the class. Scores
            carry no merge weight yet.
        """
        return self.predict(features)[0]

    def predict(self, features: tf.Tensor) -> tuple[Candidates, tf.Tensor | None]:
        """``window_candidates``, and with ``scores_steps`` the probabilities of classes at steps, f32[N, W, C].

        Of several networks these are the mean of those that have them.
        """
        parts, steps = zip(*(member.predict(features) for member in self.members), strict=True)
        steps = [part for part in steps if part is not None]
        return joined(parts), tf.add_n(steps) / len(steps) if steps else None

    @property
    def scores_steps(self) -> bool:
        """Whether the classes of steps have a say in the scores of candidates."""
        return any(member.scores_steps for member in self.members)

    def scored_in_window(self, candidates: Candidates, steps: tf.Tensor | None) -> Candidates:
        """Candidates of ``predict``, scored by the classes of the steps of their own window alone."""
        if steps is None:
            return candidates
        inside = tf.clip_by_value(candidates.segments, 0.0, 1.0) * float(self.config.inference_steps)
        sums = geometry.running_sums(steps, tf.float32)
        shares = merging.share(steps, sums, inside, candidates.class_ids, self.config.step_exponent)
        return candidates._replace(scores=candidates.scores * shares)

    def scored(self, candidates: Candidates, seen: tf.Tensor, num_steps: tf.Tensor) -> Candidates:
        """Candidates of whole sequences, scored by the classes of their steps: ``merging.scored``."""
        return merging.scored(candidates, seen, num_steps, self.config.step_exponent)

    def score(self, candidates: Candidates, seen: tf.Tensor, num_steps: tf.Tensor) -> Candidates:
        """``scored``, in a graph that other localizers use too."""
        return merging.graph_of_scored()(candidates, seen, num_steps, self.config.step_exponent)

    def batch_candidates(self, features: tf.Tensor, num_steps: tf.Tensor) -> Candidates:
        """Candidates of whole sequences f32[B, T, D], in steps: [B, N, ...], rows padded with scores of 0."""
        starts = windows.of_each(self._window_starts, num_steps)
        rows = tf.cast(starts.value_rowids(), tf.int32)
        candidates = self._candidates_at(features, num_steps, rows, starts.values)

        def per_sequence(values):
            padded = starts.with_values(values).to_tensor()  # B, windows, P, ...
            shape = tf.shape(padded)
            return tf.reshape(padded, tf.concat([shape[:1], [shape[1] * shape[2]], shape[3:]], axis=0))

        candidates = Candidates(*(per_sequence(values) for values in candidates))
        if not self.scores_steps:
            return candidates
        asked = windows.of_each(self.step_starts, num_steps)
        rows = tf.cast(asked.value_rowids(), tf.int32)
        return self.scored(candidates, self._steps_at(features, num_steps, rows, asked.values), num_steps)

    def step_starts(self, num_steps: tf.Tensor) -> tf.Tensor:
        """First steps i32[N] of the windows that are asked for the classes of steps: those that lie side by side.

        So windows may overlap as they like, and the classifier costs no more.
        """
        return windows.side_by_side(
            self._window_starts(num_steps), self.config.inference_steps, self.config.inference_stride_steps
        )

    def _window_starts(self, num_steps: tf.Tensor) -> tf.Tensor:
        return windows.window_starts(
            num_steps, window_steps=self.config.inference_steps, stride_steps=self.config.inference_stride_steps
        )

    def _sequence_candidates(
        self, features: tf.Tensor, num_steps: tf.Tensor, chunk_start_step: tf.Tensor, chunk_owned_steps: tf.Tensor
    ) -> tuple[Candidates, tf.Tensor | None]:
        """Candidates of one record (a whole sequence or a chunk): [1, N, ...], in steps of the whole sequence.

        And, with ``scores_steps``, what their windows say of the record's steps, as ``scored`` takes it of all records
        of a sequence together.
        """
        starts = windows.owned_starts(self._window_starts(num_steps), chunk_start_step, chunk_owned_steps)
        features, steps = features[None], tf.shape(features)[:1]
        candidates = self._candidates_at(features, steps, tf.zeros_like(starts), starts, first_step=chunk_start_step)
        candidates = Candidates(
            tf.reshape(candidates.segments, (1, -1, 2)),
            tf.reshape(candidates.scores, (1, -1)),
            tf.reshape(candidates.class_ids, (1, -1)),
        )
        if not self.scores_steps:
            return candidates, None
        asked = windows.owned_starts(self.step_starts(num_steps), chunk_start_step, chunk_owned_steps)
        return candidates, self._steps_at(features, steps, tf.zeros_like(asked), asked)

    def _candidates_at(
        self,
        features: tf.Tensor,
        num_steps: tf.Tensor,
        sequence: tf.Tensor,
        starts: tf.Tensor,
        *,
        first_step: tf.Tensor | int = 0,
    ) -> Candidates:
        """Candidates of windows given by sequence i32[N] and first step i32[N]: [N, P, ...], in steps of the sequence.

        ``first_step`` i32[] says where the features begin in the sequence. It is added to the integers: added to the
        float32 segments of a chunk it would round a second time, and they would differ from those of the whole.
        The windows are cut and run in batches, so that memory does not grow with the sequence.
        """
        num_batches = self._num_batches(starts)
        per_window = len(self._is_anchor_based)
        # Batches differ in length. The other dimensions are said, so that a chunk without a window of its own is legal.
        arrays = [
            tf.TensorArray(dtype, size=num_batches, infer_shape=False, element_shape=(None, per_window, *rest))
            for dtype, rest in ((tf.float32, (2,)), (tf.float32, ()), (tf.int32, ()))
        ]

        def run(i, segments, scores, class_ids):
            part = self._batch(i)
            candidates = self.window_candidates(self._cut(features, num_steps, sequence[part], starts[part]))
            first = tf.cast(starts[part] + first_step, tf.float32)
            in_steps = candidates.segments * float(self.config.inference_steps) + first[:, None, None]
            return (
                i + 1,
                segments.write(i, in_steps),
                scores.write(i, candidates.scores),
                class_ids.write(i, candidates.class_ids),
            )

        _, *arrays = tf.while_loop(lambda i, *_: i < num_batches, run, (0, *arrays), parallel_iterations=1)
        return Candidates(*(array.concat() for array in arrays))

    def _steps_at(self, features: tf.Tensor, num_steps: tf.Tensor, sequence: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
        """What windows say of the classes of steps, f32[B, T, 1 + C] as ``scored`` takes it; given as above."""
        num_batches = self._num_batches(starts)

        def run(i, seen):
            part = self._batch(i)
            where = {"sequence": sequence[part], "starts": starts[part]}
            _, steps = self.predict(self._cut(features, num_steps, **where))
            values = tf.concat([tf.ones_like(steps[..., :1]), steps], axis=-1)
            return i + 1, windows.add_windows(seen, values, **where, num_steps=num_steps)

        nothing = tf.zeros((*tf.unstack(tf.shape(features)[:2]), 1 + len(self.class_names)))
        return tf.while_loop(lambda i, _: i < num_batches, run, (0, nothing), parallel_iterations=1)[1]

    def _num_batches(self, starts: tf.Tensor) -> tf.Tensor:
        return (tf.size(starts) + self.config.inference_batch - 1) // self.config.inference_batch

    def _batch(self, i: tf.Tensor) -> slice:
        return slice(i * self.config.inference_batch, (i + 1) * self.config.inference_batch)

    def _cut(self, features: tf.Tensor, num_steps: tf.Tensor, sequence: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
        """Windows of sequences, f32[N, W, D]; steps beyond the end of a sequence repeat its last vector."""
        steps = starts[:, None] + tf.range(self.config.inference_steps)
        steps = tf.minimum(steps, tf.gather(num_steps, sequence)[:, None] - 1)
        rows = tf.broadcast_to(sequence[:, None], tf.shape(steps))
        cut = tf.gather_nd(features, tf.stack([rows, steps], axis=-1))
        # Here, a batch at a time: for the whole sequence the check would take a quarter of its memory again.
        finite = tf.debugging.Assert(tf.reduce_all(tf.math.is_finite(cut)), ["features hold NaN or infinite values"])
        with tf.control_dependencies([finite]):  # of the network itself they would keep layers from being fused
            return tf.identity(cut)

    def merged_scores(
        self, scores: tf.Tensor, segments: tf.Tensor, *, branch: str, anchor_based_lambda: tf.Tensor
    ) -> tf.Tensor:
        """Scores as they enter suppression: times their branch's merge weight, and 0 for empty or reversed segments.

        Args:
            scores: f32[B, N], N a multiple of P.
            segments: f32[B, N, 2] clipped to the sequence or window.
            branch: one of ``branches``.
            anchor_based_lambda: f32[] merge weight; matters to the branch "both" only.
        """
        return merging.weighted(scores, segments, self._merge_weights(branch, anchor_based_lambda))

    def _merge_weights(self, branch: str, anchor_based_lambda: tf.Tensor) -> tf.Tensor:
        """f32[P]: what the scores of a window's candidates are multiplied with when branches are merged.

        The paper multiplies by lambda and 1 - lambda. Both are divided by the larger here, which ranks the same and
        leaves scores their range.
        """
        larger = tf.maximum(anchor_based_lambda, 1 - anchor_based_lambda)
        free, based = {
            "anchor_free": (1.0, 0.0),
            "anchor_based": (0.0, 1.0),
            "both": ((1 - anchor_based_lambda) / larger, anchor_based_lambda / larger),
        }[branch]
        return tf.where(self._is_anchor_based, based, free)

    def _detect_branch(
        self,
        branch: str,
        candidates: Candidates,
        num_steps: tf.Tensor,
        seconds_per_step: tf.Tensor,
        first_step_seconds: tf.Tensor,
        anchor_based_lambda: tf.Tensor,
    ) -> Detections:
        """Detections in seconds of one of ``branches``: ``merging.merge``, in a graph that other localizers use too."""
        weights, suppression = self._merge_weights(branch, anchor_based_lambda), self.config.suppression
        merge = merging.graph_of(suppression["soft_sigma"] > 0, suppression["voting_tiou"] > 0, self._also)
        limits, numbers = self.most_detections(num_steps), [suppression[name] for name in merging.NUMBERS]
        return merge(candidates, num_steps, seconds_per_step, first_step_seconds, weights, limits, numbers)

    def _merge(self, candidates: Candidates, num_steps: tf.Tensor, *others: tf.Tensor) -> Detections:
        """The same with its numbers as constants; for exported models."""
        suppression, limits = self.config.suppression, None
        if not self.config.max_detections:  # a batch has the K of its longest sequence
            limits = self.most_detections(num_steps)
            suppression["max_detections"] = tf.reduce_max(limits)
        return merging.merge(candidates, num_steps, *others, suppression=suppression, limits=limits, also=self._also)


def _check_number_of_classes(wanted: Sequence[int], class_names: Sequence[str]) -> None:
    """Raises UserError if a network shall give more classes of a candidate than there are."""
    if max(wanted) > len(class_names):
        raise UserError(
            f"--classes_per_candidate={max(wanted)}: the model knows {len(class_names)} classes; at most "
            f"{len(class_names)}"
        )

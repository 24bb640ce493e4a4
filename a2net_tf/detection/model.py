"""The network of Table II as a functional Keras model with named outputs. Knows nothing of targets or losses."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from a2net_tf.detection import pyramid
from a2net_tf.detection.layers import Convolution, Drop, GroupNorm, LevelScale, PoolProposals, Propose
from a2net_tf.detection.precision import AUTO, uses_avx512
from a2net_tf.errors import UserError
from a2net_tf.settings import Config


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """What a network is built from: the arguments of ``build_model``."""

    config: Config
    num_features: int
    num_classes: int
    statistics: tuple[np.ndarray, np.ndarray] | None


@dataclasses.dataclass(frozen=True)
class Cuts:
    """The symbolic tensors at which a network can be cut into parts, in the order of computation.

    Attributes:
        first: what goes into the first convolution.
        base_features: what the base convolutions make of it, one vector each step.
        base: the same pooled, one each cell of the first level.
        levels: the hierarchical features, one tensor each level.
        joined: the levels as one sequence, which the anchor-free branches share; None without that branch.
        predictions: by branch, what its convolutions predict of each level, not decoded yet.
        second_stage: what the second of two stages predicts of each proposal.
    """

    first: keras.KerasTensor
    base_features: keras.KerasTensor
    base: keras.KerasTensor
    levels: Sequence[keras.KerasTensor]
    joined: keras.KerasTensor | None
    predictions: Mapping[str, Sequence[keras.KerasTensor]]
    second_stage: Sequence[keras.KerasTensor] = ()


class SecondStage:
    """Tells the class of each proposal and moves its ends: layers of a network, to be called on others than its own.

    Args:
        convolution: makes one; of ``_Builder``.
        config: sizes.
        num_classes: C.
        policy: Keras's name for the types of weights and computation.
    """

    def __init__(self, convolution: Callable[..., Convolution], config: Config, num_classes: int, policy: str):
        self.bins_around = config.proposal_bins // 4  # on each side
        self.pool = PoolProposals(config.proposal_bins, name="proposal_pool")
        predict = {"activation": None, "dtype": "float32"}
        names = ("proposal_class", "proposal_boundary")
        self.hidden = [convolution(config.proposal_channels, 1, name=f"{name}_hidden") for name in names]
        rate = config.proposal_dropout
        self.drop = [Drop(rate, dtype=policy, name=f"{name}_dropout") for name in names if rate]
        self.predict = [
            convolution(num_classes + 1, 1, **predict, name="proposal_class_predict"),
            # 0 at first: what is proposed is a better beginning than what is drawn.
            convolution(2 * num_classes, 1, **predict, initial_kernel="zeros", name="proposal_boundary_predict"),
        ]

    def __call__(self, base, proposals, training: bool | None = None) -> dict:
        """The network's ``refined_`` outputs for proposals [B, R, 2] over base features [B, T, channels]."""
        whole = self.pool(base, proposals)
        around = self.bins_around * base.shape[2]
        inner = whole[..., around:-around]  # the class is that of the segment; its ends depend on what is around
        values = [hidden(x) for hidden, x in zip(self.hidden, (inner, whole), strict=True)]
        if self.drop:
            values = [drop(x, training=training) for drop, x in zip(self.drop, values, strict=True)]
        logits, offsets = (predict(x) for predict, x in zip(self.predict, values, strict=True))
        return {"refined_logits": logits, "refined_offsets": offsets}


class Network(keras.Model):
    """A functional model that knows what it was built from and where it can be cut.

    Args:
        inputs: symbolic, as for ``keras.Model``.
        outputs: by name.
        blueprint: what it was built from.
        cuts: where its parts begin and end.
        second_stage: of two; None of one.
    """

    def __init__(
        self,
        inputs: keras.KerasTensor,
        outputs: Mapping[str, keras.KerasTensor],
        *,
        blueprint: Blueprint,
        cuts: Cuts,
        second_stage: SecondStage | None = None,
    ):
        super().__init__(inputs, outputs, name="a2net")
        self.blueprint, self.cuts, self.second_stage = blueprint, cuts, second_stage

    def first_stage(self) -> keras.Model:
        """Of two: features -> its outputs with the proposals, and ``base``, the base features [B, T, channels]."""
        outputs = {name: value for name, value in self.output.items() if not name.startswith("refined")}
        return keras.Model(self.inputs[0], {**outputs, "base": self.cuts.base_features})


def build_model(
    config: Config,
    num_features: int,
    num_classes: int,
    *,
    statistics: tuple[np.ndarray, np.ndarray] | None = None,
    for_inference: bool = False,
) -> Network:
    """Builds A2Net.

    Args:
        config: levels, channels, ratios, which branches, precision.
        num_features: D.
        num_classes: C, without background.
        statistics: mean and variance f32[D] of the training features; the first layer normalises with them.
        for_inference: weights have the type that they are computed in: cast once, not in every call. Not for training.

    Raises:
        UserError: ``config.feature_columns`` reach beyond D.
        ValueError: ``config.precision`` is auto: which type that is, ``precision.resolve`` says.

    Returns:
        A model from features f32[B, T, D] (T = config.window_steps) to a dict of float32 tensors, of the branches that
        exist: ``anchor_free_logits`` [B, L, C+1], ``anchor_free_distances`` [B, L, 2] in grid units, ``anchor_logits``
        [B, A, C+1], ``anchor_overlap`` [B, A], ``anchor_offsets`` [B, A, 2]. Class 0 is background; with
        ``config.class_scores`` = sigmoid there is no background, and logits have C entries. With
        ``config.step_classifier`` also ``step_logits`` [B, stages, T, C+1], always with background. The names of
        weights (``weight.path``) are the keys of checkpoints.

        With ``config.stages`` = 2 all these but ``step_logits`` know one class, action; cells have
        ``anchor_free_overlap`` [B, L] too, and there are what ``layers.Propose`` gives, ``refined_logits``
        [B, K, C+1] and ``refined_offsets`` [B, K, 2 C] of its proposals.
    """
    blueprint = Blueprint(config, num_features, num_classes, statistics)
    builder = _Builder(config, num_classes, dtype_policy(config, for_inference), _form(config, for_inference))
    inputs = keras.Input((config.window_steps, num_features), name="features", dtype="float32")
    first = prepare(inputs, blueprint)
    base_features, base = builder.base(first)
    levels = builder.levels(base)
    outputs, predictions, joined = {}, {}, None
    if config.step_classifier:
        predictions["step_classifier"] = builder.step_classifier(first)
        stack = keras.ops.stack(predictions["step_classifier"], axis=1)
        outputs["step_logits"] = stack
    if config.anchor_free:
        joined = builder.join(levels)
        predictions["anchor_free"], found = builder.anchor_free_branch(joined)
        outputs.update(found)
    if config.anchor_based:
        predictions["anchor_based"], found = builder.anchor_based_branch(levels)
        outputs.update(found)
    cuts = Cuts(first, base_features, base, tuple(levels), joined, predictions)
    if config.stages == 1:
        return Network(inputs, outputs, blueprint=blueprint, cuts=cuts)
    of_branches = {name: value for name, value in outputs.items() if name != "step_logits"}
    outputs.update(Propose(config, name="propose")(of_branches))
    second_stage = builder.second_stage()
    found = second_stage(base_features, outputs["proposals"])
    outputs.update(found)
    cuts = dataclasses.replace(cuts, second_stage=tuple(found.values()))
    return Network(inputs, outputs, blueprint=blueprint, cuts=cuts, second_stage=second_stage)


def prepare(x: keras.KerasTensor, blueprint: Blueprint) -> keras.KerasTensor:
    """The features as the first convolution sees them."""
    config, statistics = blueprint.config, blueprint.statistics
    if statistics is not None:
        x = keras.layers.Normalization(mean=statistics[0], variance=statistics[1], dtype="float32", name="normalize")(x)
    if config.feature_columns:
        first, end = config.feature_columns
        if end > blueprint.num_features:
            raise UserError(f"--feature_columns={first},{end}: the features have only {blueprint.num_features} columns")
        x = x[..., first:end]
    if config.input_dropout:
        x = Drop(config.input_dropout, dtype="float32", name="input_dropout")(x)
    return x


def dtype_policy(config: Config, for_inference: bool) -> str:
    """Keras's name for computing in ``config.precision`` with weights in float32, or for inference in the same.

    Raises:
        ValueError: it is auto.
    """
    if config.precision == AUTO:  # decided once, where a run is made or loaded: all parts of a network must agree
        raise ValueError(
            "precision is auto: expected float32, bfloat16 or float16, as detection.precision.resolve says"
        )
    return config.precision if for_inference or config.precision == "float32" else f"mixed_{config.precision}"


def plain_copy(network: Network) -> Network:
    """A copy with direct convolutions in float32, however the network was trained: what other formats convert well."""
    return rebuild(network, dataclasses.replace(network.blueprint.config, convolution="direct", precision="float32"))


def rebuild(network: Network, config: Config, *, for_inference: bool = False) -> Network:
    """The network with other settings, which change no shape of a weight, and the same weights; see ``build_model``."""
    blueprint = dataclasses.replace(network.blueprint, config=config)
    copy = build_model(
        config,
        blueprint.num_features,
        blueprint.num_classes,
        statistics=blueprint.statistics,
        for_inference=for_inference,
    )
    copy_weights(network, copy)
    return copy


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Gives ``target`` the weights of ``source`` by their names: their order is Keras's, and depends on the precision.

    Raises:
        ValueError: a weight has another shape.
    """
    values = {weight.path: weight.numpy() for weight in source.weights}
    for weight in target.weights:
        weight.assign(tf.cast(values[weight.path], weight.dtype))


@dataclasses.dataclass(frozen=True)
class _Builder:
    """Makes the parts of a network.

    Attributes:
        config: the settings.
        num_classes: C.
        policy: Keras's name for the types of weights and computation.
        form: of convolutions, see ``Convolution``.
    """

    config: Config
    num_classes: int
    policy: str
    form: str

    @property
    def num_logits(self) -> int:
        """Of each cell and anchor."""
        num_classes = self.num_classes if self.config.stages == 1 else 1
        return num_classes + (self.config.class_scores == "softmax")

    def second_stage(self) -> SecondStage:
        """Of two."""
        return SecondStage(self._convolution, self.config, self.num_classes, self.policy)

    def step_classifier(self, x: keras.KerasTensor) -> list[keras.KerasTensor]:
        """Class logits of every step [B, T, C+1], of each stage (Farha and Gall, MS-TCN, CVPR 2019), the last one best.

        The first stage sees the features, each other one the probabilities that the one before it gives.
        """
        logits = []
        for stage in range(1, self.config.step_stages + 1):
            if logits:
                x = keras.layers.Softmax(dtype="float32", name=f"step{stage}_input")(logits[-1])
            logits.append(self._step_stage(x, f"step{stage}"))
        return logits

    def _step_stage(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        """Convolutions that look ever farther, each with a way around it: [B, T, D] -> logits [B, T, C+1]."""
        channels, linear = self.config.step_channels, {"activation": None}
        x = self._convolution(channels, 1, **linear, name=f"{name}_in")(x)
        for i in range(self.config.step_layers):
            y = self._convolution(channels, 3, dilation=2**i, name=f"{name}_dilated{i + 1}")(x)
            # 0 at first: sums over many layers would begin so large that training never recovers.
            y = self._convolution(channels, 1, **linear, initial_kernel="zeros", name=f"{name}_mix{i + 1}")(y)
            if self.config.step_dropout:
                y = Drop(self.config.step_dropout, dtype=self.policy, name=f"{name}_dropout{i + 1}")(y)
            x = keras.layers.Add(dtype=self.policy, name=f"{name}_add{i + 1}")([x, y])
        return self._convolution(self.num_classes + 1, 1, **linear, dtype="float32", name=f"{name}_predict")(x)

    def base(self, x: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """Base layers: [B, T, D] -> [B, T, channels], and pooled [B, T / 2, channels]."""
        x = self._block(x, self.config.base_channels, 1, name="base1")
        x = self._block(x, self.config.base_channels, 9, name="base2")
        return x, keras.layers.MaxPooling1D(2, dtype=self.policy, name="pool")(x)

    def levels(self, x: keras.KerasTensor) -> list[keras.KerasTensor]:
        """Hierarchical features: one [B, cells, channels] per level."""
        levels = []
        for i, channels in enumerate(self.config.level_channels[: self.config.num_levels], start=1):
            x = self._block(x, channels, 3, stride=1 if i == 1 else 2, name=f"conv{i}")
            levels.append(x)
        return levels

    def join(self, levels: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
        """Per-level reduction; the levels as one sequence with a step of zeros after each.

        That is what padding would put there: one large convolution instead of many small ones.
        """
        reduced = []
        for i, level in enumerate(levels, start=1):
            x = self._block(level, self.config.head_channels, 1, name=f"anchor_free_reduce{i}")
            reduced.append(keras.layers.ZeroPadding1D((0, 1), dtype=self.policy, name=f"gap{i}")(x))
        return keras.layers.Concatenate(axis=1, dtype=self.policy, name="joined")(reduced)

    def anchor_free_branch(self, joined: keras.KerasTensor) -> tuple[list[keras.KerasTensor], dict]:
        """Two towers shared by all levels, one learned scale of the distances per level: predictions and outputs."""
        lengths = pyramid.level_lengths(self.config.window_steps, self.config.num_levels)
        bias = [_prior_bias(self.config)] * self.num_logits
        logits = _split(self._tower(joined, lengths, self.num_logits, name="anchor_free_class", bias=bias), lengths)
        values = 2 if self.config.stages == 1 else 3
        tower = _split(self._tower(joined, lengths, values, name="anchor_free_distance"), lengths)
        distances = tower if values == 2 else [part[..., :2] for part in tower]
        scaled = [LevelScale(name=f"anchor_free_scale{i}")(part) for i, part in enumerate(distances, start=1)]
        all_distances = keras.layers.Concatenate(axis=1, dtype="float32", name="anchor_free_distances_raw")(scaled)
        activation = None if self.config.distance_activation == "none" else self.config.distance_activation
        activate = keras.layers.Activation(activation, dtype="float32", name="anchor_free_distances")
        outputs = {
            "anchor_free_logits": keras.layers.Concatenate(axis=1, dtype="float32", name="anchor_free_logits")(logits),
            "anchor_free_distances": activate(all_distances),
        }
        if values == 2:
            return [*logits, *scaled], outputs
        overlaps = [part[..., 2] for part in tower]
        outputs["anchor_free_overlap"] = keras.layers.Concatenate(axis=1, dtype="float32", name="anchor_free_overlap")(
            overlaps
        )
        return [*logits, *scaled, *overlaps], outputs

    def anchor_based_branch(self, levels: Sequence[keras.KerasTensor]) -> tuple[list[keras.KerasTensor], dict]:
        """One convolution per level; channels are anchors x (class logits, overlap, centre, width)."""
        values = self.num_logits + 3
        num_ratios = len(self.config.anchor_ratios)
        bias = [_prior_bias(self.config)] * self.num_logits + [0.0] * 3
        rows = []
        for i, level in list(enumerate(levels, start=1))[self.config.first_level - 1 :]:
            predict = {"activation": None, "dtype": "float32", "initial_bias": bias}
            layer = self._convolution(num_ratios * values, 3, **predict, name=f"anchor_based_predict{i}")
            rows.append(keras.layers.Reshape((-1, values), dtype="float32", name=f"anchors{i}")(layer(level)))
        x = keras.layers.Concatenate(axis=1, dtype="float32", name="anchors")(rows)
        logits, overlap, offsets = keras.ops.split(x, [self.num_logits, self.num_logits + 1], axis=-1)
        overlap = keras.ops.squeeze(overlap, -1)
        return rows, {"anchor_logits": logits, "anchor_overlap": overlap, "anchor_offsets": offsets}

    def _tower(
        self, x: keras.KerasTensor, lengths: Sequence[int], outputs: int, *, name: str, bias: Sequence[float] = ()
    ) -> keras.KerasTensor:
        """Two hidden convolutions and a prediction, on joined levels."""
        for i in (1, 2):
            x = self._block(x, self.config.head_channels, 3, joined=lengths, name=f"{name}_conv{i}")
        predict = {"activation": None, "dtype": "float32", "joined": lengths, "initial_bias": bias}
        return self._convolution(outputs, 3, **predict, name=f"{name}_predict")(x)

    def _block(
        self, x: keras.KerasTensor, filters: int, size: int, *, name: str, stride: int = 1, joined: Sequence[int] = ()
    ) -> keras.KerasTensor:
        """A convolution with what the settings put behind it: normalisation, ReLU."""
        if self.config.convolution_norm == "none":
            return self._convolution(filters, size, stride=stride, joined=joined, name=name)(x)
        x = self._convolution(filters, size, stride=stride, activation=None, name=name)(x)
        return self._norm(joined, name=f"{name}_norm")(x)

    def _convolution(self, filters: int, size: int, *, stride: int = 1, **kwargs) -> Convolution:
        """A convolution as the settings have it."""
        kwargs = {"activation": "relu", "dtype": self.policy, **kwargs}
        return Convolution(filters, size, stride, form=self.form, **kwargs)

    def _norm(self, joined: Sequence[int], *, name: str) -> GroupNorm:
        """Normalisation with ReLU as the settings have it."""
        groups = self.config.norm_groups
        return GroupNorm(groups, activation="relu", joined=joined, dtype=self.policy, name=name)


def _form(config: Config, for_inference: bool) -> str:
    """How convolutions are computed. Without AVX-512 oneDNN's gradients of them are slower than products."""
    if config.convolution != AUTO:
        return config.convolution
    if tf.config.list_physical_devices("GPU"):
        return "unrolled"
    return "product" if for_inference or uses_avx512() else "unrolled"


def _prior_bias(config: Config) -> float:
    """The logit with which each class begins (Lin et al. 2017): else the many negatives fill the first epochs."""
    if config.class_scores == "softmax":
        return 0.0
    return math.log(config.prior_probability / (1.0 - config.prior_probability))


def _split(joined: keras.KerasTensor, lengths: Sequence[int]) -> list[keras.KerasTensor]:
    """The levels of a joined sequence, without the gaps."""
    bounds = np.cumsum([part for length in lengths for part in (length, 1)])
    return keras.ops.split(joined, bounds[:-1].tolist(), axis=1)[::2]

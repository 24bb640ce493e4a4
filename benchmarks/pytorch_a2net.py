"""The same network, losses, step and evaluation in PyTorch: what the speed of this package is compared with.

Written anew, without TensorFlow, after Table II and the description of the authors' release: parameters have the
release's names (see ``a2net_tf/modes/import_release.py``), features are [B, D, T] as PyTorch wants them. Targets are
vectorised over the batch, whose ground truth training cuts to the most actions that a window of it has. The evaluation
works as the release does: one window at a time through the network, a pandas table per window, greedy suppression in
numpy.
tests/test_benchmarks.py checks that outputs, losses, gradients and detections are those of the Keras network.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from a2net_tf import settings
from a2net_tf.errors import UserError
from a2net_tf.settings import Config

# The network, losses, step and evaluation here know one value of these settings.
_DEFAULTS_ONLY = (
    "convolution_norm",
    "class_scores",
    "anchor_free_regression",
    "anchor_free_regression_weight",
    "overlap_loss",
    "anchor_regression",
    "anchor_matching",
    "force_matches",
    "weight_decay",
    "ema_momentum",
    "input_dropout",
    "classes_per_candidate",
    "soft_nms_sigma",
    "voting_tiou",
)

Outputs = dict[str, torch.Tensor]


def start(threads: int) -> torch.device:
    """Fixes the number of threads; the GPU if there is one, with the rounding of products that TensorFlow has there."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # TF32
    torch.backends.cudnn.benchmark = True  # choose the fastest convolutions, as TensorFlow does
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# Network


class A2Net(torch.nn.Module):
    """The network of Table II.

    Args:
        config: windows and model; only the release's losses and hard suppression are known here.
        num_features: D.
        num_classes: C, without background.

    Raises:
        UserError: settings that this implementation does not have.
    """

    def __init__(self, config: Config, num_features: int, num_classes: int):
        super().__init__()
        if reason := unsupported(config):
            raise UserError(reason)
        self.config = config
        if config.feature_columns:
            num_features = config.feature_columns[1] - config.feature_columns[0]
        base, head, logits = config.base_channels, config.head_channels, num_classes + 1
        channels = config.level_channels[: config.num_levels]
        self.features = torch.nn.ModuleDict(
            {"base_feature_net": _modules(conv1=_convolution(num_features, base, 1), conv2=_convolution(base, base, 9))}
        )
        for i, (before, after) in enumerate(zip((base, *channels), channels, strict=False), start=1):
            self.features[f"conv{i}"] = _convolution(before, after, 3, stride=1 if i == 1 else 2)
        levels = range(1, config.num_levels + 1)
        if config.anchor_free:
            reduce = {f"conv{i}": _convolution(c, head, 1) for i, c in zip(levels, channels, strict=True)}
            branches = _modules(cls_branch=_branch(head, logits), reg_branch=_branch(head, 2))
            self.af = _modules(reduce_channels=_modules(**reduce), pred=branches)
            for i in range(config.num_levels):
                self.af[f"scale{i}"] = torch.nn.ParameterDict({"scale": torch.nn.Parameter(torch.ones(1))})
        if config.anchor_based:
            values = len(config.anchor_ratios) * (logits + 3)
            self.ab = _modules(
                **{f"pred{i}": _convolution(c, values, 3) for i, c in zip(levels, channels, strict=True)}
            )

    def forward(self, x: torch.Tensor) -> Outputs:
        """Features f32[B, D, T] -> the outputs of ``detection.model.build_model``, with its names and shapes."""
        if self.config.feature_columns:
            x = x[:, slice(*self.config.feature_columns)]
        base, levels = self.features["base_feature_net"], []
        x = functional.relu(base["conv1"](x))
        x = functional.max_pool1d(functional.relu(base["conv2"](x)), 2)
        for i in range(1, self.config.num_levels + 1):
            x = functional.relu(self.features[f"conv{i}"](x))
            levels.append(x)
        outputs = {}
        if self.config.anchor_free:
            outputs.update(self._anchor_free(levels))
        if self.config.anchor_based:
            outputs.update(self._anchor_based(levels))
        return outputs

    def _anchor_free(self, levels: list[torch.Tensor]) -> Outputs:
        logits, distances = [], []
        for i, level in enumerate(levels):
            reduced = functional.relu(self.af["reduce_channels"][f"conv{i + 1}"](level))
            logits.append(_predict(self.af["pred"]["cls_branch"], reduced))
            distances.append(_predict(self.af["pred"]["reg_branch"], reduced) * self.af[f"scale{i}"]["scale"])
        activate = {"none": lambda x: x, "softplus": functional.softplus, "relu": functional.relu}
        return {
            "anchor_free_logits": torch.cat(logits, dim=2).transpose(1, 2),
            "anchor_free_distances": activate[self.config.distance_activation](
                torch.cat(distances, dim=2).transpose(1, 2)
            ),
        }

    def _anchor_based(self, levels: list[torch.Tensor]) -> Outputs:
        rows, ratios = [], len(self.config.anchor_ratios)
        for i, level in enumerate(levels, start=1):
            x = self.ab[f"pred{i}"](level)  # B, ratios x values, cells
            rows.append(x.transpose(1, 2).reshape(len(x), -1, x.shape[1] // ratios))
        x = torch.cat(rows, dim=1)
        return {"anchor_logits": x[..., :-3], "anchor_overlap": x[..., -3], "anchor_offsets": x[..., -2:]}


def unsupported(config: Config) -> str:
    """What the settings ask for that this network, its step or its evaluation does not have; empty if nothing."""
    for name in _DEFAULTS_ONLY:
        default, value = settings.FIELDS[name].default, getattr(config, name)
        if value != default:
            return f"--{name}={value}: the PyTorch network of the benchmarks has {default} only"
    return ""


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> torch.nn.Conv1d:
    layer = torch.nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 2)
    torch.nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    torch.nn.init.zeros_(layer.bias)
    return layer


def _modules(**modules: torch.nn.Module) -> torch.nn.ModuleDict:
    return torch.nn.ModuleDict(modules)


def _branch(channels: int, outputs: int) -> torch.nn.ModuleDict:
    conv1, conv2 = (_convolution(channels, channels, 3) for _ in range(2))
    return _modules(conv1=conv1, conv2=conv2, pred=_convolution(channels, outputs, 3))


def _predict(branch: torch.nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    return branch["pred"](functional.relu(branch["conv2"](functional.relu(branch["conv1"](x)))))


# Targets and losses


class Losses:
    """The five losses with their targets, vectorised over a batch.

    Args:
        config: windows, anchors and losses.
        device: of the outputs.
    """

    def __init__(self, config: Config, device: torch.device):
        self.config = config
        self.units = config.window_steps // 2  # grid units of a window
        lengths = [self.units // 2**i for i in range(config.num_levels)]
        levels = np.repeat(np.arange(config.num_levels), lengths)
        centers = np.concatenate([2**i // 2 + 2**i * np.arange(n) for i, n in enumerate(lengths)])
        anchors = [((i + 0.5) / n, ratio / n) for n in lengths for i in range(n) for ratio in config.anchor_ratios]
        self.levels = torch.tensor(levels, device=device)
        self.centers = torch.tensor(centers, dtype=torch.float32, device=device)  # L, grid units
        self.anchors = torch.tensor(anchors, dtype=torch.float32, device=device)  # A, (centre, width)
        self.bounds = torch.tensor([2.0**i for i in range(1, config.num_levels)], device=device)

    def __call__(
        self, outputs: Outputs, segments: torch.Tensor, labels: torch.Tensor, negatives: torch.Tensor | None = None
    ) -> Outputs:
        """The parts and their weighted sum as ``loss``.

        Args:
            outputs: of ``A2Net``.
            segments: f32[B, G, 2], fractions of the window.
            labels: i64[B, G], 0 = padding.
            negatives: bool[B, A] to use instead of drawing them.
        """
        parts = {}
        if self.config.anchor_free:
            parts.update(self._anchor_free(outputs, segments, labels))
        if self.config.anchor_based:
            parts.update(self._anchor_based(outputs, segments, labels, negatives))
        return {**parts, "loss": self._total(parts)}

    def _total(self, parts: Outputs) -> torch.Tensor:
        based = self.config.anchor_based_weight
        weights = {
            "anchor_free_regression": 1.0,
            "anchor_free_classification": self.config.anchor_free_classification_weight,
            "anchor_based_classification": based,
            "anchor_based_overlap": based * self.config.overlap_weight,
            "anchor_based_regression": based * self.config.anchor_regression_weight,
        }
        return sum(weights[name] * value for name, value in parts.items())

    def _anchor_free(self, outputs: Outputs, segments: torch.Tensor, labels: torch.Tensor) -> Outputs:
        cell_labels, distances = self.assign_cells(segments, labels)
        regression = functional.smooth_l1_loss(outputs["anchor_free_distances"], distances, reduction="none").sum(-1)
        logits = outputs["anchor_free_logits"].flatten(0, 1)
        return {
            "anchor_free_classification": functional.cross_entropy(logits, cell_labels.flatten()),
            "anchor_free_regression": _masked_mean(regression, cell_labels > 0),
        }

    def assign_cells(self, segments: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels i64[B, L] and distances f32[B, L, 2] of the cells; the shortest action that fits a cell wins."""
        segments = segments * self.units
        length = segments[..., 1] - segments[..., 0]
        level = (length[..., None] >= self.bounds).sum(-1)  # B, G
        centers = self.centers[:, None]
        inside = (segments[:, None, :, 0] <= centers) & (centers < segments[:, None, :, 1])  # B, L, G
        fits = inside & (level[:, None] == self.levels[:, None]) & (labels[:, None] > 0)
        best = torch.where(fits, length[:, None], torch.inf).argmin(dim=-1)  # B, L
        foreground = fits.any(dim=-1)
        chosen = _choose(segments, best)
        distances = torch.stack([self.centers - chosen[..., 0], chosen[..., 1] - self.centers], dim=-1)
        return labels.gather(1, best) * foreground, distances * foreground[..., None]

    def _anchor_based(self, outputs: Outputs, segments: torch.Tensor, labels: torch.Tensor, negatives) -> Outputs:
        predicted = self.decode_anchors(outputs["anchor_offsets"])
        with torch.no_grad():
            overlaps = _pairwise_tiou(predicted, segments) * (labels[:, None] > 0)  # B, A, G
            overlap, best = overlaps.max(dim=-1)
            positive = overlap > self.config.match_tiou
            target, anchor_labels = _choose(segments, best), labels.gather(1, best) * positive
            if negatives is None:
                negatives = self.choose_negatives(positive, outputs["anchor_overlap"])
            chosen = positive | negatives
        logits = outputs["anchor_logits"]
        entropy = functional.cross_entropy(logits.flatten(0, 1), anchor_labels.flatten(), reduction="none")
        overlap_part = functional.smooth_l1_loss(outputs["anchor_overlap"], overlap, reduction="none")
        regression = functional.smooth_l1_loss(predicted, target, reduction="none").sum(-1)
        return {
            "anchor_based_classification": _masked_mean(entropy.view(chosen.shape), chosen),
            "anchor_based_overlap": _masked_mean(overlap_part, chosen),
            "anchor_based_regression": _masked_mean(regression, positive),
        }

    def decode_anchors(self, offsets: torch.Tensor) -> torch.Tensor:
        """Eq. 1: offsets f32[..., A, 2] -> start and end, fractions of the window."""
        center, width = self.anchors[:, 0], self.anchors[:, 1]
        center = center + self.config.center_scale * width * offsets[..., 0]
        width = width * torch.exp((self.config.width_scale * offsets[..., 1]).clamp(max=10.0))
        return torch.stack([center - width / 2, center + width / 2], dim=-1)

    def choose_negatives(self, positive: torch.Tensor, predicted_overlap: torch.Tensor) -> torch.Tensor:
        """Hard negatives, and easy ones drawn so that a window's expected number is ratio times its positives."""
        hard = ~positive & (predicted_overlap > self.config.match_tiou)
        easy = ~positive & ~hard
        num_positive, num_easy = (mask.sum(dim=1, keepdim=True) for mask in (positive, easy))
        probability = self.config.negative_ratio * num_positive / num_easy.clamp(min=1)
        probability = torch.where(num_positive > 0, probability, 0.5)
        return hard | (easy & (torch.rand(easy.shape, device=easy.device) < probability))


def _masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def _choose(segments: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    """Segments f32[B, G, 2] by index i64[B, N]: f32[B, N, 2]."""
    return segments.gather(1, best[..., None].expand(-1, -1, 2))


def _pairwise_tiou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """f32[B, N, 2] and f32[B, M, 2] -> f32[B, N, M]; 0 for empty segments (padding)."""
    first, second = first[:, :, None], second[:, None]
    shared = torch.minimum(first[..., 1], second[..., 1]) - torch.maximum(first[..., 0], second[..., 0])
    shared = shared.clamp(min=0)
    union = (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0]) - shared
    return torch.where(shared > 0, shared / union, 0.0)


class Training:
    """The training step, and the parts of it that a benchmark times.

    Args:
        config: batch size, learning rate and losses.
        batch: numpy: features f32[B, T, D], segments f32[B, G, 2], labels i32[B, G], actions first, padding after them.
        device: to train on.
        precision: of the network: float32, or bfloat16 by autocast. Weights and losses are float32.
        compiled: network and losses by torch.compile.
    """

    def __init__(
        self,
        config: Config,
        batch: dict[str, np.ndarray],
        device: torch.device,
        *,
        precision: str = "float32",
        compiled: bool = False,
    ):
        self.network = A2Net(config, config.num_features, config.num_classes).to(device)
        self.losses_of = Losses(config, device)
        self.clip_norm = config.clip_norm
        self._autocast = functools.partial(torch.autocast, device.type, torch.bfloat16, precision == "bfloat16")
        self._loss = torch.compile(self._compute_loss, dynamic=False) if compiled else self._compute_loss
        adam = functools.partial(torch.optim.Adam, list(self.network.parameters()), lr=config.learning_rate, eps=1e-7)
        self.optimizer = adam(fused=True)  # on CPUs ten times faster than the default
        self._default_optimizer = adam()
        most = max(1, int((batch["labels"] > 0).sum(axis=1).max()))  # here, not in the step: a GPU would have to wait
        self.features = to_device(batch["features"], device)
        self.segments = torch.tensor(batch["segments"][:, :most], device=device)
        self.labels = torch.tensor(batch["labels"][:, :most], dtype=torch.int64, device=device)

    def forward(self) -> float:
        """As in training: with what the gradients need."""
        return sum(output.sum() for output in self.network(self.features).values()).item()

    def losses(self) -> float:
        """Forward, targets and losses."""
        return self._loss().item()

    def _compute_loss(self) -> torch.Tensor:
        with self._autocast():
            outputs = self.network(self.features)
        outputs = {name: values.float() for name, values in outputs.items()}
        return self.losses_of(outputs, self.segments, self.labels)["loss"]

    def _backward(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = self._loss()
        loss.backward()
        return loss

    def gradients(self) -> float:
        """... and gradients."""
        loss = self._backward()
        synchronize()
        return loss.item()

    def step(self) -> float:
        """... and the update."""
        loss = self.enqueue_step()
        synchronize()
        return loss.item()

    def enqueue_step(self) -> torch.Tensor:
        """The whole step; a GPU may still be at it when this returns. The loss."""
        loss = self._backward()
        if self.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
        self.optimizer.step()
        return loss

    def update_by_default(self) -> None:
        """An update with the gradients of the last step, in the form that PyTorch's Adam takes by default."""
        self._default_optimizer.step()
        synchronize()


def to_device(windows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Windows f32[N, T, D] as PyTorch wants them: f32[N, D, T], contiguous."""
    return torch.from_numpy(np.ascontiguousarray(windows.transpose(0, 2, 1))).to(device)


def forward_functions(
    config: Config, device: torch.device, precisions: Sequence[str]
) -> dict[str, Callable[[np.ndarray], Callable]]:
    """By name, windows f32[N, T, D] -> a call that runs them through the network and waits for the outputs."""
    network = A2Net(config, config.num_features, config.num_classes).to(device).eval()

    def bind(network: A2Net, dtype: torch.dtype, windows: np.ndarray) -> Callable[[], None]:
        features = to_device(windows, device).to(dtype)

        def call():
            with torch.inference_mode():
                network(features)
            synchronize()

        return call

    functions = {"PyTorch float32": lambda windows: bind(network, torch.float32, windows)}
    if "bfloat16" not in precisions:
        return functions
    half = A2Net(config, config.num_features, config.num_classes)
    half.load_state_dict(network.state_dict())
    half = half.to(device, torch.bfloat16).eval()
    try:  # not every processor, or version, has all convolutions
        bind(half, torch.bfloat16, np.zeros((1, config.window_steps, config.num_features), np.float32))()
    except RuntimeError:
        return functions
    return {**functions, "PyTorch bfloat16": lambda windows: bind(half, torch.bfloat16, windows)}


def copy_weights(network: A2Net, keras_network) -> None:
    """Gives ``network`` the weights of a Keras network of the same settings."""
    from a2net_tf.modes import import_release

    weights = {"/".join(w.path.split("/")[-2:]): np.asarray(w) for w in keras_network.trainable_variables}
    names = import_release.tensor_names(network.config)
    state = {theirs: torch.tensor(weights[ours].transpose()) for theirs, ours in names.items()}
    network.load_state_dict({name: value.reshape(-1) if value.ndim == 0 else value for name, value in state.items()})


# Evaluation as the release does it


def evaluate(
    network: A2Net,
    losses: Losses,
    files: Sequence[str],
    *,
    class_names: Sequence[str],
    seconds_per_step: float,
    output: str,
) -> None:
    """Localizes the videos in ``files`` (.npy, f32[T, D]) and writes their detections as ActivityNet JSON.

    Raises:
        UserError: pandas is missing.
    """
    pandas = _import_pandas()
    detections = {}
    for file in files:
        features = np.load(file)
        tables = [
            pandas.DataFrame(window_candidates(network, losses, features, start))
            for start in _window_starts(len(features), network.config)
        ]
        table = suppress(pandas.concat(tables, ignore_index=True), network.config)
        detections[pathlib.Path(file).stem] = [
            {"label": class_names[row.label], "score": row.score, "segment": [row.start, row.end]}
            for row in (
                table.assign(start=table.start * seconds_per_step, end=table.end * seconds_per_step)
            ).itertuples()
        ]
    text = json.dumps({"version": "VERSION 1.3", "results": detections, "external_data": {}})
    pathlib.Path(output).write_text(text)


def _import_pandas():
    try:
        import pandas
    except ImportError:
        raise UserError("the release's way of evaluating needs pandas: pip install pandas") from None
    return pandas


def _window_starts(num_steps: int, config: Config) -> list[int]:
    """Half overlapping, and the last one flush with the end."""
    last = max(num_steps - config.window_steps, 0)
    return [*range(0, last, config.window_steps // 2), last]


def window_candidates(network: A2Net, losses: Losses, features: np.ndarray, start: int) -> dict[str, np.ndarray]:
    """Columns of the table of the window at ``start``: start and end in steps of the video, label, score."""
    config = network.config
    steps = np.minimum(np.arange(start, start + config.window_steps), len(features) - 1)
    with torch.inference_mode():
        outputs = network(to_device(features[steps][None], losses.centers.device))
        decoded = [d for d in (_free(outputs, losses), _based(outputs, losses)) if d is not None]
    segments, scores, labels = (torch.cat(values).cpu().numpy() for values in zip(*decoded, strict=True))
    segments = np.clip(segments * config.window_steps + start, 0, len(features))
    kept = (segments[:, 1] > segments[:, 0]) & (scores > config.min_score)
    columns = {"start": segments[:, 0], "end": segments[:, 1], "label": labels, "score": scores}
    return {name: column[kept] for name, column in columns.items()}


def _free(outputs: Outputs, losses: Losses) -> tuple[torch.Tensor, ...] | None:
    """Segments (fractions of the window), scores and labels of the anchor-free branch, times its merge weight."""
    if not losses.config.anchor_free:
        return None
    distances = outputs["anchor_free_distances"][0]
    segments = torch.stack([losses.centers - distances[:, 0], losses.centers + distances[:, 1]], dim=-1) / losses.units
    scores, labels = torch.softmax(outputs["anchor_free_logits"][0], dim=-1)[:, 1:].max(dim=-1)
    return segments, scores * _merge_weights(losses.config)[0], labels


def _based(outputs: Outputs, losses: Losses) -> tuple[torch.Tensor, ...] | None:
    """The same of the anchor-based branch."""
    config = losses.config
    if not config.anchor_based:
        return None
    probability = torch.softmax(outputs["anchor_logits"][0], dim=-1)
    best, labels = probability[:, 1:].max(dim=-1)
    overlap = outputs["anchor_overlap"][0]
    overlap = torch.sigmoid(overlap) if config.overlap_score == "sigmoid" else overlap.clamp(0, 1)
    scores = overlap * best * _merge_weights(config)[1]
    if config.max_background < 1:
        scores = scores * (probability[:, 0] < config.max_background)
    return losses.decode_anchors(outputs["anchor_offsets"][0]), scores, labels


def _merge_weights(config: Config) -> tuple[float, float]:
    """Of anchor-free and anchor-based scores; 1 where there is one branch only."""
    if not (config.anchor_free and config.anchor_based):
        return 1.0, 1.0
    based = config.anchor_based_lambda
    return (1 - based) / max(based, 1 - based), based / max(based, 1 - based)


def suppress(table, config: Config):
    """The best rows of a video's table: greedy suppression class by class, then the best of all classes."""
    kept = []
    for _, group in table.sort_values("score", ascending=False).groupby("label"):
        start, end = group.start.to_numpy(), group.end.to_numpy()
        left = np.arange(len(group))
        while len(left):
            best, rest = left[0], left[1:]
            kept.append(group.index[best])
            shared = np.minimum(end[best], end[rest]) - np.maximum(start[best], start[rest])
            union = (end[best] - start[best]) + (end[rest] - start[rest]) - shared
            left = rest[~((shared > 0) & (shared > config.nms_tiou * union))]
    return table.loc[kept].sort_values("score", ascending=False).head(config.max_detections)


# Memory of a process of its own, without TensorFlow. Each returns the peak on the GPU.


def gpu_peak_bytes() -> int:
    """The most memory that PyTorch has had on the GPU; 0 without one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def peak_forward(flags: dict, threads: int) -> int:
    """32 windows through the network."""
    config, device = settings.from_dict(flags), start(threads)
    windows = np.zeros((32, config.window_steps, config.num_features), np.float32)
    network = A2Net(config, config.num_features, config.num_classes).to(device)
    with torch.inference_mode():
        network(to_device(windows, device))
    return gpu_peak_bytes()


def peak_training(flags: dict, threads: int, batch_file: str) -> int:
    """Three steps on the batch of the .npz file."""
    config, device = settings.from_dict(flags), start(threads)
    training = Training(config, dict(np.load(batch_file)), device)
    for _ in range(3):
        training.step()
    return gpu_peak_bytes()


def peak_evaluation(flags: dict, threads: int, files: list[str], output: str) -> int:
    """The videos in ``files``, to the JSON file ``output``."""
    config, device = settings.from_dict(flags), start(threads)
    network, losses = A2Net(config, config.num_features, config.num_classes).to(device).eval(), Losses(config, device)
    names = [f"class{i}" for i in range(config.num_classes)]
    evaluate(network, losses, files, class_names=names, seconds_per_step=1.0, output=output)
    return gpu_peak_bytes()

"""A network of ActionFormer's size and kind in PyTorch: what a run on HAPT is compared with in benchmarks/recipe.py.

Written anew after Zhang, Wu and Li, "ActionFormer: Localizing Moments of Actions with Transformers" (ECCV 2022), with
the sizes and the schedule that Bock et al. ("Temporal Action Localization for Inertial-based Human Activity
Recognition", 2024) published for this dataset, which they call SBHAR. The network sees whole sequences, padded: two
convolutions, two transformer blocks, five more that halve the steps, and one head for classes and one for distances
over the six levels. A step sees its neighbours only (local self-attention). Where there was a choice the faster form
was taken. Shape letters as in ``a2net_tf``; P points are the steps of all levels, finest first; H heads.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.pytorch_a2net import synchronize


class Sizes(NamedTuple):
    """Of network and training; the defaults are the published ones.

    Attributes:
        channels: of all layers but the inner one of a block, which has four times as many.
        heads: of the attention.
        window: steps that a step sees, itself in the middle.
        stem: blocks at full length.
        levels: of the pyramid, the stem's the first.
        training_steps: length to which training sequences are padded; at inference too, by the authors' code.
        batch_size: sequences in a training step.
        epochs: 5 in which the learning rate rises and 100 in which it falls.
    """

    channels: int = 512
    heads: int = 4
    window: int = 9
    stem: int = 2
    levels: int = 6
    training_steps: int = 2304
    batch_size: int = 2
    epochs: int = 105

    @property
    def multiple(self) -> int:
        """A sequence's steps must be a multiple of this: the coarsest level is a number of whole attention blocks."""
        return 2 ** (self.levels - 1) * 2 * (self.window // 2)

    def steps_per_epoch(self, num_sequences: int) -> int:
        """Whole batches only."""
        return num_sequences // self.batch_size


PUBLISHED = Sizes()


def num_weights(network: nn.Module) -> int:
    """That are trained."""
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad)


def pad(sequences: Sequence[np.ndarray], num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences f32[T_i, D] -> features f32[B, num_steps, D] with zeros at the end, and which steps are there, bool."""
    features = torch.zeros(len(sequences), num_steps, sequences[0].shape[1])
    valid = torch.zeros(len(sequences), num_steps, dtype=torch.bool)
    for i, sequence in enumerate(sequences):
        part = sequence[:num_steps]
        features[i, : len(part)] = torch.from_numpy(part)
        valid[i, : len(part)] = True
    return features, valid


# Layers. Features are f32[B, T, C]; ``mask`` f32[B, T, 1] is 1 where a step is there and 0 in the padding.


class Convolution(nn.Conv1d):
    """Over three steps; as long as its input, or half as long with ``stride=2``."""

    def __init__(self, before: int, after: int, **options):
        super().__init__(before, after, 3, padding=1, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """f32[B, T, C] -> f32[B, T or T / 2, after]."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def local_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, valid: torch.Tensor, window: int
) -> torch.Tensor:
    """Softmax attention of each step to the valid ones among ``window`` neighbours, itself in the middle.

    Blocks of steps meet all that one of them may see in one small product; the corners are masked.

    Args:
        queries: f32[B, H, T, C], T a multiple of ``2 * (window // 2)``; keys and values likewise.
        keys: of the same shape.
        values: of the same shape.
        valid: bool[B, T].
        window: odd.

    Returns:
        f32[B, H, T, C]; anything where not one step in reach is valid.
    """
    reach = window // 2
    block, seen = 2 * reach, 4 * reach
    queries = queries.unflatten(2, (-1, block)) * queries.shape[-1] ** -0.5  # B, H, N, block, C
    keys, values = (functional.pad(x, (0, 0, reach, reach)).unfold(2, seen, block) for x in (keys, values))
    distance = torch.arange(seen, device=valid.device) - reach - torch.arange(block, device=valid.device)[:, None]
    there = functional.pad(valid, (reach, reach)).unfold(1, seen, block)[:, None, :, None]  # B, 1, N, 1, seen
    scores = (queries @ keys).masked_fill(~(there & (distance.abs() <= reach)), -1e4)
    return (scores.softmax(dim=-1) @ values.transpose(-1, -2)).flatten(2, 3)


class Attention(nn.Module):
    """Queries, keys and values each through a depthwise convolution (which may halve the steps) and a projection."""

    def __init__(self, sizes: Sizes, stride: int):
        super().__init__()
        self.heads, self.window = sizes.heads, sizes.window
        c = sizes.channels
        self.depthwise = nn.ModuleList(Convolution(c, c, stride=stride, groups=c, bias=False) for _ in range(3))
        self.projections = nn.ModuleList(nn.Sequential(nn.LayerNorm(c), nn.Linear(c, c)) for _ in range(3))
        self.output = nn.Linear(c, c)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """f32[B, T, C] and the mask of what comes out -> f32[B, T or T / 2, C]."""
        queries, keys, values = (
            project(layer(x) * mask).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, project in zip(self.depthwise, self.projections, strict=True)
        )
        attended = local_attention(queries, keys, values, mask[..., 0] > 0, self.window)
        return self.output(attended.transpose(1, 2).flatten(2)) * mask


class DropPath(nn.Module):
    """A residual part times a weight per channel; in training it is left out of one sequence in ten."""

    def __init__(self, channels: int, probability: float = 0.1):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 1e-4))
        self.probability = probability

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """f32[B, T, C] -> the same shape."""
        if not self.training:
            return self.scale * x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.probability
        return self.scale * x * kept / (1 - self.probability)


class Block(nn.Module):
    """Attention and two dense layers, each added to what came in."""

    def __init__(self, sizes: Sizes, stride: int = 1):
        super().__init__()
        c = sizes.channels
        self.stride = stride
        self.attention = Attention(sizes, stride)
        self.dense = nn.Sequential(nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))
        self.norms = nn.ModuleList(nn.LayerNorm(c) for _ in range(2))
        self.paths = nn.ModuleList(DropPath(c) for _ in range(2))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and mask, of half the steps with a stride of two."""
        mask = mask[:, :: self.stride]
        attended = self.paths[0](self.attention(self.norms[0](x), mask))
        if self.stride > 1:
            x = functional.max_pool1d(x.transpose(1, 2), 3, self.stride, padding=1).transpose(1, 2)
        x = x * mask + attended
        return x + self.paths[1](self.dense(self.norms[1](x)) * mask), mask


class Head(nn.Module):
    """Three convolutions, the same for all levels."""

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.hidden = nn.ModuleList(Convolution(channels, channels, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.last = Convolution(channels, outputs)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """f32[B, T, C] -> f32[B, T, outputs]."""
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = functional.relu(norm(layer(x) * mask))
        return self.last(x) * mask


class ActionFormer(nn.Module):
    """The network.

    Args:
        num_features: D.
        num_classes: C, without background.
        sizes: the published ones by default.
    """

    def __init__(self, num_features: int, num_classes: int, sizes: Sizes = PUBLISHED):
        super().__init__()
        self.sizes = sizes
        c = sizes.channels
        self.embedding = nn.ModuleList(Convolution(before, c, bias=False) for before in (num_features, c))
        self.embedding_norms = nn.ModuleList(nn.LayerNorm(c) for _ in range(2))
        self.stem = nn.ModuleList(Block(sizes) for _ in range(sizes.stem))
        self.branch = nn.ModuleList(Block(sizes, stride=2) for _ in range(sizes.levels - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(c) for _ in range(sizes.levels))
        self.class_head, self.distance_head = Head(c, num_classes), Head(c, 2)
        self.scales = nn.Parameter(torch.ones(sizes.levels))
        nn.init.constant_(self.class_head.last.bias, -np.log(99))  # all classes begin with a probability of 0.01

    def forward(self, features: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predictions at the points of all levels.

        Args:
            features: f32[B, T, D], T a multiple of ``sizes.multiple``.
            valid: bool[B, T].

        Returns:
            logits f32[B, P, C] and distances to start and end f32[B, P, 2], in strides of the level.
        """
        logits, distances = [], []
        for (x, mask), norm, scale in zip(self.pyramid(features, valid), self.norms, self.scales, strict=True):
            x = norm(x)
            logits.append(self.class_head(x, mask))
            distances.append(functional.relu(scale * self.distance_head(x, mask)))
        return torch.cat(logits, dim=1), torch.cat(distances, dim=1)

    def pyramid(self, x: torch.Tensor, valid: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Features f32[B, T / 2**i, C] and mask of each level."""
        mask = valid[..., None].to(x.dtype)
        for layer, norm in zip(self.embedding, self.embedding_norms, strict=True):
            x = functional.relu(norm(layer(x) * mask))
        for block in self.stem:
            x, mask = block(x, mask)
        levels = [(x, mask)]
        for block in self.branch:
            levels.append(block(*levels[-1]))
        return levels


def infer(network: ActionFormer, sequences: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Runs each of ``pad``'s sequences through the network, one at a time, and waits for the last."""
    network.eval()
    with torch.inference_mode():
        for features, valid in sequences:
            network(features, valid)
    synchronize()


# Training


class Points(NamedTuple):
    """Where and for what each of P points predicts.

    Attributes:
        times: f32[P], in steps.
        strides: f32[P], steps between two points of its level.
        ranges: f32[P, 2], least and greatest of the larger distance of an action that it is responsible for.
    """

    times: torch.Tensor
    strides: torch.Tensor
    ranges: torch.Tensor


def make_points(num_steps: int, num_levels: int) -> Points:
    """Of a sequence of ``num_steps``; neighbouring levels share a range, and the coarsest takes all that is longer."""
    strides = [2**level for level in range(num_levels)]
    times = [torch.arange(0, num_steps, stride, dtype=torch.float32) for stride in strides]
    ranges = [(stride if stride > 1 else 0, 4 * stride) for stride in strides]
    ranges[-1] = (strides[-1], 10_000)
    lengths = torch.tensor([len(level) for level in times])
    return Points(
        torch.cat(times),
        torch.tensor(strides, dtype=torch.float32).repeat_interleave(lengths),
        torch.tensor(ranges, dtype=torch.float32).repeat_interleave(lengths, dim=0),
    )


def assign_points(points: Points, segments: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels i64[B, P] (0: none) and distances f32[B, P, 2] in strides; the shortest action that fits wins.

    Args:
        points: of the sequence.
        segments: f32[B, G, 2], start and end in steps.
        labels: i64[B, G], 0 for padding.
    """
    start, end = segments[:, None].unbind(-1)  # B, 1, G
    distances = torch.stack([points.times[:, None] - start, end - points.times[:, None]], dim=-1)  # B, P, G, 2
    center = segments.mean(dim=-1)[:, None]  # B, 1, G
    near = (points.times[:, None] - center).abs() < 1.5 * points.strides[:, None]
    farthest = distances.amax(dim=-1)
    in_range = (farthest >= points.ranges[:, :1]) & (farthest <= points.ranges[:, 1:])
    fits = near & in_range & (distances.amin(dim=-1) > 0) & (labels[:, None] > 0)  # B, P, G
    length = (segments[..., 1] - segments[..., 0])[:, None]
    best = torch.where(fits, length, torch.inf).argmin(dim=-1)  # B, P
    chosen = distances.gather(2, best[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
    return labels.gather(1, best) * fits.any(dim=-1), chosen / points.strides[:, None]


def focal_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of sigmoid focal losses (alpha 0.25, gamma 2); both f32[..., C]."""
    probability = torch.sigmoid(logits)
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    right = probability * targets + (1 - probability) * (1 - targets)
    return ((0.25 * targets + 0.75 * (1 - targets)) * entropy * (1 - right) ** 2).sum()


def distance_iou_loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Sum of 1 - tIoU + (distance of the centres / length of what spans both)**2 of distances f32[N, 2]."""
    shared = torch.minimum(predicted, target).sum(-1)
    union = (predicted + target).sum(-1) - shared
    apart = (predicted - target) @ predicted.new_tensor([-0.5, 0.5])
    span = torch.maximum(predicted, target).sum(-1)
    return (1 - shared / union.clamp(min=1e-8) + (apart / span.clamp(min=1e-8)) ** 2).sum()


class Training:
    """The training step with the published settings.

    Args:
        network: to train.
        features: f32[B, T, D], padded.
        valid: bool[B, T].
        segments: f32[B, G, 2], start and end in steps.
        labels: i64[B, G], 0 for padding.
    """

    def __init__(
        self,
        network: ActionFormer,
        features: torch.Tensor,
        valid: torch.Tensor,
        *,
        segments: torch.Tensor,
        labels: torch.Tensor,
    ):
        self.network, self.average = network, copy.deepcopy(network).eval()
        self.features, self.valid, self.segments, self.labels = features, valid, segments, labels
        self.points = Points(
            *(part.to(features.device) for part in make_points(features.shape[1], network.sizes.levels))
        )
        levels = range(network.sizes.levels)
        self.valid_points = torch.cat([valid[:, :: 2**level] for level in levels], dim=1)
        self.normalizer = 250.0
        self.optimizer = make_optimizer(network)

    def loss(self) -> torch.Tensor:
        """Of the batch: sums over its points, by a running mean of the number of positive ones."""
        logits, distances = self.network(self.features, self.valid)
        labels, target = assign_points(self.points, self.segments, self.labels)
        positive = (labels > 0) & self.valid_points
        self.normalizer = 0.9 * self.normalizer + 0.1 * max(int(positive.sum()), 1)
        num_classes = logits.shape[-1]
        one_hot = functional.one_hot(labels, num_classes + 1)[..., 1:].to(logits.dtype)
        smooth = 0.9 * one_hot + 0.1 / (num_classes + 1)
        classification = focal_loss(logits[self.valid_points], smooth[self.valid_points])
        return (classification + distance_iou_loss(distances[positive], target[positive])) / self.normalizer

    def step(self) -> float:
        """Loss, gradients, clipping, update, and the average of the weights."""
        self.network.train()
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(weight, 0.001)
        synchronize()
        return loss.item()


def make_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """AdamW; kernels decay, biases and scales do not. In the form that is fastest on CPUs."""
    kernels = {id(layer.weight) for layer in network.modules() if isinstance(layer, (nn.Conv1d, nn.Linear))}
    groups = [
        {"params": [w for w in network.parameters() if id(w) in kernels], "weight_decay": 0.05},
        {"params": [w for w in network.parameters() if id(w) not in kernels], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-4, fused=True)

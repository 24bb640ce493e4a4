"""Between two stages: from the branches' outputs to proposals, from these to features, and from what the second stage
says of them to candidates.

All shapes are static and all windows of a batch are treated at once, so that every device and every exported form can
follow. Segments are fractions of the window.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from a2net_tf.detection import geometry, pyramid
from a2net_tf.detection.postprocess import Candidates, anchor_based_candidates, anchor_free_candidates
from a2net_tf.settings import Config

_BLOCK = 256  # candidates that are compared with each other at once


class Proposals(NamedTuple):
    """The best candidates of each window, whatever their class, by descending score; padded with zeros."""

    segments: tf.Tensor  # f32[B, K, 2]
    scores: tf.Tensor  # f32[B, K]
    places: tf.Tensor  # i32[B, K], among the candidates that they were chosen from


def first_stage(config: Config) -> Config:
    """How the first stage of a network of two is decoded: it knows actions and no classes, and all scores count."""
    return dataclasses.replace(
        config,
        stages=1,
        step_classifier=False,
        classes_per_candidate=1,
        overlap_score="raw",
        max_background=1.0,
    )


def branch_candidates(outputs: dict[str, tf.Tensor], config: Config, window_steps: int) -> list[Candidates]:
    """Candidates of the branches that there are, the anchor-free one first: each [B, L k or A k, ...].

    Args:
        outputs: of the network.
        config: of its run.
        window_steps: of the windows that it was given.
    """
    classes = {"class_scores": config.class_scores, "num_best": config.classes_per_candidate}
    parts = []
    if config.anchor_free:
        parts.append(
            anchor_free_candidates(
                outputs["anchor_free_logits"],
                outputs["anchor_free_distances"],
                centers=pyramid.cell_centers(window_steps, config.num_levels, config.first_level),
                grid_units=window_steps // pyramid.STEPS_PER_GRID_UNIT,
                overlap=outputs.get("anchor_free_overlap"),
                **classes,
            )
        )
    if config.anchor_based:
        anchors = pyramid.default_anchors(window_steps, config.num_levels, config.anchor_ratios, config.first_level)
        # R-C3D predicts no overlap: all anchors count alike.
        overlap = outputs.get("anchor_overlap", tf.ones_like(outputs["anchor_logits"][..., 0]))
        parts.append(
            anchor_based_candidates(
                outputs["anchor_logits"],
                overlap,
                pyramid.decode_anchors(outputs["anchor_offsets"], anchors, config.center_scale, config.width_scale),
                overlap_score=config.overlap_score,
                max_background=config.max_background,
                **classes,
            )
        )
    return parts


def choose(segments: tf.Tensor, scores: tf.Tensor, *, tiou: float, number: int) -> Proposals:
    """Suppresses each window's candidates without looking at classes, and takes the best of what is left.

    Args:
        segments: f32[B, N, 2]; what is empty is never chosen.
        scores: f32[B, N]; 0 marks an unusable candidate. Of equal scores the first one counts as the higher.
        tiou: overlap above which the weaker one goes.
        number: K, if there are as many candidates.
    """
    total = scores.shape[1]
    scores = tf.where(segments[..., 1] > segments[..., 0], scores, 0.0)
    scores, order = tf.math.top_k(scores, k=total)
    segments = tf.gather(segments, order, batch_dims=1)
    kept = kept_by_suppression(segments, scores > 0, tiou)
    ranks = tf.where(kept, tf.range(total, 0, -1, dtype=tf.float32), 0.0)
    ranks, best = tf.math.top_k(ranks, k=min(number, total))
    there = ranks > 0
    return Proposals(
        tf.where(there[..., None], tf.gather(segments, best, batch_dims=1), 0.0),
        tf.where(there, tf.gather(scores, best, batch_dims=1), 0.0),
        tf.where(there, tf.gather(order, best, batch_dims=1), 0),
    )


def kept_by_suppression(segments: tf.Tensor, usable: tf.Tensor, tiou: float) -> tf.Tensor:
    """bool[B, N]: what greedy suppression keeps of f32[B, N, 2], given by descending score.

    A candidate is kept if it is usable and overlaps no kept one before it too much. That says the same of each one as
    taking them one after the other does, and has one solution, which is found by saying it of all again and again until
    nothing changes: the first is right after one round, and each round makes at least one more so. Blocks, each of
    which sees what is kept of those before it, need a third of the comparisons' memory and fewer rounds.
    """
    total, kept = segments.shape[1], []
    for begin in range(0, total, _BLOCK):
        block = segments[:, begin : begin + _BLOCK]
        free = usable[:, begin : begin + _BLOCK]
        if kept:
            free &= ~_any_of(_overlap_too_much(block, segments[:, :begin], tiou), tf.concat(kept, axis=1))
        before = np.tril(np.ones((block.shape[1],) * 2, bool), -1)
        kept.append(_settle(_overlap_too_much(block, block, tiou) & before, free))
    return tf.concat(kept, axis=1)


def _settle(overlapped: tf.Tensor, free: tf.Tensor) -> tf.Tensor:
    """The one bool[B, N] that keeps of ``free`` whatever is not overlapped, bool[B, N, N], by a kept one."""

    def again(kept: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        now = free & ~_any_of(overlapped, kept)
        return now, tf.reduce_any(now != kept)

    return tf.while_loop(lambda _, changes: changes, again, (free, tf.constant(True)))[0]


def _any_of(overlapped: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
    """bool[B, N]: whether any of the ``kept`` bool[B, M] is among those that ``overlapped`` bool[B, N, M] names."""
    return tf.reduce_any(overlapped & kept[:, None], axis=-1)


def _overlap_too_much(rows: tf.Tensor, columns: tf.Tensor, tiou: float) -> tf.Tensor:
    """bool[B, N, M]: whether the tIoU of f32[B, N, 2] with f32[B, M, 2] exceeds ``tiou``.

    shared > part (length + other length), with part = tiou / (1 + tiou), where the shared stretch is the smallest of
    four differences. Each of these is a comparison of one number of the row with one of the column, which is quicker
    than computing overlaps.
    """
    part = tiou / (1.0 + tiou)
    (start, end), (other_start, other_end) = tf.unstack(rows, axis=-1), tf.unstack(columns, axis=-1)
    length, other_length = end - start, other_end - other_start

    def exceeds(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        return row[:, :, None] > column[:, None]

    return (
        exceeds(end - part * length, other_start + part * other_length)
        & exceeds(-start - part * length, part * other_length - other_end)
        & exceeds(length, tiou * other_length)
        & exceeds(-tiou * length, -other_length)
    )


def with_actions(proposals: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """Proposals f32[B, K, 2] for training: the actions f32[B, G, 2] of the window first, then the best proposals.

    Until the first stage has learned something, only they show the second one what actions are. The number stays K:
    actions, of which padding is empty, take the places of what is padding or weakest.
    """
    both = tf.concat([actions, proposals], axis=1)
    total = both.shape[1]
    there = both[..., 1] > both[..., 0]
    ranks = tf.where(there, tf.range(total, 0, -1, dtype=tf.float32), 0.0)
    ranks, places = tf.math.top_k(ranks, k=proposals.shape[1])
    return tf.where(ranks[..., None] > 0, tf.gather(both, places, batch_dims=1), 0.0)


def pool(features: tf.Tensor, segments: tf.Tensor, *, bins: int) -> tf.Tensor:
    """Mean features in equal parts of each segment and of half its length before and behind it.

    Each mean is exact, whatever the length: features are constant within a step, and 0 outside the window.

    Args:
        features: f32[B, T, C].
        segments: f32[B, R, 2].
        bins: P, on twice the length of a segment; a multiple of 4, so that the inner half is the segment itself.

    Returns:
        f32[B, R, P, C]; 0 where a segment is empty.
    """
    (_, steps, channels), number = features.shape, segments.shape[1]
    start, end = tf.unstack(segments * float(steps), axis=-1)
    length = (end - start)[..., None]
    edges = start[..., None] - length / 2 + length * (np.arange(bins + 1, dtype=np.float32) * 2 / bins)  # B, R, P + 1
    inside = tf.clip_by_value(edges, 0.0, float(steps))
    below = tf.minimum(tf.floor(inside), steps - 1.0)
    places = tf.reshape(tf.cast(below, tf.int32), (-1, number * (bins + 1)))

    def at_edges(values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.gather(values, places, batch_dims=1), (-1, number, bins + 1, channels))

    # Whole steps apart from parts of steps: within one step the large sums must not be seen.
    total = _differences(at_edges(geometry.running_sums(features, tf.float32)))
    total += _differences((inside - below)[..., None] * at_edges(features))
    widths = _differences(edges[..., None])
    return tf.where(widths > 0, total / tf.where(widths > 0, widths, 1.0), 0.0)


def _differences(values: tf.Tensor) -> tf.Tensor:
    """From each of [B, R, P + 1, C] to the next: [B, R, P, C]."""
    size = [-1, -1, values.shape[2] - 1, -1]  # tf.slice, because the gradient of values[:, :, 1:] is slower
    return tf.slice(values, [0, 0, 1, 0], size) - tf.slice(values, [0, 0, 0, 0], size)


def refined_candidates(outputs: dict[str, tf.Tensor], config: Config, num_cells: int) -> Candidates:
    """Candidates of the second stage: [B, K k, ...] of the anchor-free branch's proposals, then of the anchor-based's.

    Every proposal is in both parts; its score is 0 in the one that it does not belong to.

    Args:
        outputs: of the network.
        config: of its run.
        num_cells: L if there is an anchor-free branch, else 0.
    """
    best, num_classes = config.classes_per_candidate, outputs["refined_logits"].shape[-1] - 1
    probabilities, class_ids = tf.math.top_k(tf.nn.softmax(outputs["refined_logits"])[..., 1:], k=best)  # B, K, k
    by_class = tf.reshape(outputs["refined_offsets"], (-1, *outputs["refined_offsets"].shape[1:2], num_classes, 2))
    offsets = tf.gather(by_class, class_ids, batch_dims=2)  # B, K, k, 2
    around = geometry.to_center_width(outputs["proposals"])[:, :, None]
    segments = pyramid.decode_anchors(offsets, around, *pyramid.REFINEMENT_SCALES)
    scores = _scores(outputs["proposal_scores"][..., None], probabilities, config.refined_score)
    flat = [tf.reshape(v, (-1, v.shape[1] * best, *v.shape[3:])) for v in (segments, scores, class_ids)]
    if not (config.anchor_free and config.anchor_based):
        return Candidates(*flat)
    anchors = tf.repeat(outputs["proposal_places"] >= num_cells, best, axis=1)
    halves = [Candidates(flat[0], tf.where(own, flat[1], 0.0), flat[2]) for own in (~anchors, anchors)]
    return Candidates(*(tf.concat(pair, axis=1) for pair in zip(*halves, strict=True)))


def _scores(first: tf.Tensor, second: tf.Tensor, kind: str) -> tf.Tensor:
    """The score of the second stage, or both together; 0 for padding."""
    if kind == "second":
        return tf.where(first > 0, second, 0.0)
    return first * second if kind == "product" else tf.sqrt(first * second)

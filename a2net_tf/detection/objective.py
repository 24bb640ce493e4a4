"""The loss of a batch from the network's outputs: targets, matching, negatives and losses in one place. Pure."""

from collections.abc import Callable

import tensorflow as tf

from a2net_tf.detection import geometry, losses, pyramid, targets
from a2net_tf.settings import Config


class Objective:
    """What training minimises, and what it tells of a batch.

    Args:
        config: losses and geometry.

    Attributes:
        names: of the loss parts and of the positives per level.
    """

    def __init__(self, config: Config):
        self.config = config
        self._anchors = pyramid.default_anchors(
            config.window_steps, config.num_levels, config.anchor_ratios, config.first_level
        )
        self._centers = pyramid.cell_centers(config.window_steps, config.num_levels, config.first_level)
        self._levels = pyramid.cell_levels(config.window_steps, config.num_levels)
        self.names = _names(config)

    def __call__(
        self,
        outputs: dict[str, tf.Tensor],
        batch: dict[str, tf.Tensor],
        seed: tf.Tensor,
        *,
        part: tuple[tf.Tensor | int, int] = (0, 1),
        add_up: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Loss parts with their weighted sum as ``loss``, and the number of positives per window and level.

        On one of several devices: its shares of these, which add up to those of the whole batch.

        Args:
            outputs: of the network.
            batch: ``segments`` f32[B, G, 2] in grid units and ``labels`` i32[B, G], 0 where there is none; with
                ``config.step_classifier`` also ``step_labels`` i32[B, W] of ``targets.label_steps``.
            seed: i32[2], of the draw of negatives.
            part: which of how many equal parts of a batch these windows are.
            add_up: sums a tensor over the devices that share a batch.
        """
        step_labels = batch.get("step_labels")
        if self.config.jit_compile is not True:  # XLA needs to know every size
            segments, labels = targets.without_padding(batch["segments"], batch["labels"])
            batch = {"segments": segments, "labels": labels}
        sums, positives = {}, {}
        if self.config.stages == 2:
            second_sums, positive = self._second_stage(outputs, batch)
            sums.update(second_sums)
            positives["second_stage_positives"] = _per_window(positive)
            batch = {**batch, "labels": tf.minimum(batch["labels"], 1)}  # the first one knows no classes
        if self.config.anchor_free:
            branch_sums, foreground = self._anchor_free(outputs, batch, seed, part)
            sums.update(branch_sums)
            positives.update(self._per_level("anchor_free", foreground))
        if self.config.anchor_based:
            branch_sums, positive = self._anchor_based(outputs, batch, seed, part)
            sums.update(branch_sums)
            positives.update(self._per_level("anchor_based", positive))
        if self.config.step_classifier:
            sums.update(losses.step_losses(outputs["step_logits"], step_labels))
        shares = losses.means({**sums, **positives}, add_up)
        parts = {name: shares[name] for name in sums}
        parts["loss"] = losses.total_loss(
            parts,
            anchor_based_weight=self.config.anchor_based_weight,
            anchor_free_classification_weight=self.config.anchor_free_classification_weight,
            anchor_free_regression_weight=self.config.anchor_free_regression_weight,
            overlap_weight=self.config.overlap_weight,
            anchor_regression_weight=self.config.anchor_regression_weight,
            step_weight=self.config.step_weight,
            step_smoothing=self.config.step_smoothing,
            second_stage_weight=self.config.second_stage_weight,
        )
        return parts, {name: shares[name] for name in positives}

    def _anchor_free(
        self, outputs: dict, batch: dict, seed: tf.Tensor, part: tuple
    ) -> tuple[dict[str, losses.Sum], tf.Tensor]:
        cells = targets.assign_cells(
            batch["segments"],
            batch["labels"],
            centers=self._centers,
            levels=self._levels,
            grid_units=self.config.window_steps // pyramid.STEPS_PER_GRID_UNIT,
        )
        sums = losses.anchor_free_losses(
            outputs["anchor_free_logits"],
            outputs["anchor_free_distances"],
            cells,
            regression=self.config.anchor_free_regression,
            focal=self._focal(outputs["anchor_free_logits"], cells.segments, batch),
        )
        if self.config.stages == 2:
            units = self.config.window_steps // pyramid.STEPS_PER_GRID_UNIT
            predicted = pyramid.decode_distances(outputs["anchor_free_distances"], self._centers) / float(units)
            sums.update(losses.anchor_free_overlap(outputs["anchor_free_overlap"], predicted, cells))
        return sums, cells.labels > 0

    def _second_stage(self, outputs: dict, batch: dict) -> tuple[dict[str, losses.Sum], tf.Tensor]:
        segments = outputs["proposals"]
        matches = targets.match_anchors(
            segments, batch["segments"], batch["labels"], min_tiou=self.config.proposal_match_tiou
        )
        around = geometry.to_center_width(segments)
        there = segments[..., 1] > segments[..., 0]
        sums = losses.second_stage_losses(
            outputs["refined_logits"],
            outputs["refined_offsets"],
            target=pyramid.encode_anchors(matches.segments, around, *pyramid.REFINEMENT_SCALES),
            matches=matches,
            background=there & ~matches.positive & (matches.overlap >= self.config.proposal_background_tiou),
        )
        return sums, matches.positive

    def _focal(self, logits: tf.Tensor, chosen: tf.Tensor, batch: dict) -> losses.Focal | None:
        """What the classification by sigmoids needs; None for softmax."""
        if self.config.class_scores == "softmax":
            return None
        classes = targets.classes_of(chosen, batch["segments"], batch["labels"], logits.shape[-1])
        return losses.Focal(classes, self.config.focal_gamma, self.config.focal_alpha)

    def _anchor_based(
        self, outputs: dict, batch: dict, seed: tf.Tensor, part: tuple
    ) -> tuple[dict[str, losses.Sum], tf.Tensor]:
        config, offsets = self.config, outputs["anchor_offsets"]
        decoded = pyramid.decode_anchors(offsets, self._anchors, config.center_scale, config.width_scale)
        matches = targets.match_anchors(
            decoded,
            batch["segments"],
            batch["labels"],
            min_tiou=config.match_tiou,
            defaults=geometry.from_center_width(self._anchors) if config.anchor_matching == "defaults" else None,
            force=config.force_matches,
        )
        negatives = targets.choose_negatives(
            matches,
            outputs["anchor_overlap"],
            ratio=config.negative_ratio,
            seed=seed,
            min_tiou=config.match_tiou,
            part=part,
        )
        predicted, target = decoded, matches.segments
        if config.anchor_regression == "offsets":
            predicted = offsets
            target = pyramid.encode_anchors(matches.segments, self._anchors, config.center_scale, config.width_scale)
        chosen = tf.where(matches.positive[..., None], matches.segments, 0.0)
        sums = losses.anchor_based_losses(
            outputs["anchor_logits"],
            outputs["anchor_overlap"],
            predicted=predicted,
            regression_target=target,
            matches=matches,
            negatives=negatives,
            overlap_loss=config.overlap_loss,
            regression=config.anchor_regression if config.anchor_regression in ("diou", "giou") else "smooth_l1",
            focal=self._focal(outputs["anchor_logits"], chosen, batch),
        )
        return sums, matches.positive

    def _per_level(self, branch: str, positive: tf.Tensor) -> dict[str, losses.Sum]:
        """Positives per window of bool[B, L or A], by level."""
        num_windows = tf.cast(tf.shape(positive)[0], tf.float32)
        counts = tf.reduce_sum(tf.cast(positive, tf.float32), axis=0)
        first = self.config.first_level
        lengths = pyramid.level_lengths(self.config.window_steps, self.config.num_levels)[first - 1 :]
        per_cell = positive.shape[1] // sum(lengths)
        levels = tf.split(counts, [per_cell * length for length in lengths])
        return {
            f"{branch}_positives_level{i}": losses.Sum(tf.reduce_sum(level), num_windows)
            for i, level in enumerate(levels, start=first)
        }


def _per_window(positive: tf.Tensor) -> losses.Sum:
    """How many of bool[B, R] each window has on average."""
    return losses.Sum(tf.reduce_sum(tf.cast(positive, tf.float32)), tf.cast(tf.shape(positive)[0], tf.float32))


def _names(config: Config) -> list[str]:
    names, levels = [], range(config.first_level, config.num_levels + 1)
    if config.anchor_free:
        names += ["anchor_free_classification", "anchor_free_regression"]
        names += ["anchor_free_overlap"] * (config.stages == 2)
        names += [f"anchor_free_positives_level{i}" for i in levels]
    if config.anchor_based:
        names += ["anchor_based_classification", "anchor_based_overlap", "anchor_based_regression"]
        names += [f"anchor_based_positives_level{i}" for i in levels]
    if config.step_classifier:
        names += ["step_classification", "step_smoothing"]
    if config.stages == 2:
        names += ["second_stage_foreground", "second_stage_background", "second_stage_regression"]
        names += ["second_stage_positives"]
    return names

"""Refuses values out of range and settings that contradict each other, before anything is done."""

import math

from a2net_tf.errors import UserError
from a2net_tf.settings.config import Config


def check(config: Config) -> None:
    """Refuses values out of range and settings that contradict each other."""
    _check_ranges(config)
    _check_pyramid(config)
    _check_network(config)
    _check_inference_windows(config)
    if not (config.anchor_free or config.anchor_based):
        raise UserError("--noanchor_free and --noanchor_based together leave no branch to train")
    for name in ("decay_epochs", "duration_edges", "ablation_seeds"):
        values = getattr(config, name)
        if list(values) != sorted(set(values)):
            raise UserError(f"--{name}={','.join(map(str, values))}: must increase")
    if config.protocol == "proposals" and config.mode != "score":
        raise UserError(
            f"--protocol=proposals is for --mode=score, not --mode={config.mode}; evaluate reports the recall of "
            "proposals beside the mAP of --protocol=activitynet or thumos14"
        )
    columns = config.feature_columns
    if columns and not (len(columns) == 2 and columns[0] < columns[1]):
        raise UserError(f"--feature_columns={','.join(map(str, columns))}: expected FIRST,END with FIRST < END")
    trains = config.mode.startswith("train") or config.mode in ("ablate", "cross_validate")
    if trains and "," in config.workdir:
        raise UserError(f"--workdir={config.workdir}: --mode={config.mode} takes one directory")
    compiles = config.jit_compile is True  # auto may still become False
    if trains and compiles and config.deterministic is True:  # Keras would leave XLA out with no more than a warning
        raise UserError("--jit_compile needs --nodeterministic: XLA cannot promise bit-equal runs")
    if trains and config.drops_in_step and compiles and config.distribute != "none":
        raise UserError(
            "--jit_compile with --distribute cannot draw what --input_dropout, --step_dropout and --proposal_dropout "
            "leave out on a device; drop one of these settings"
        )
    if trains and config.distribute == "multi_worker" and (config.mode != "train" or config.videos):
        raise UserError(
            "--distribute=multi_worker is for --mode=train on features; extract videos before, and evaluate afterwards "
            "in one process"
        )
    if trains and config.release_checkpoint:  # its run has no optimiser state: the weights would be lost
        raise UserError("--release_checkpoint is for --mode=import_release; an imported run cannot be trained on")
    if trains and config.validation_split and config.validation_split == config.eval_split:
        raise UserError(
            f"--validation_split and --eval_split are both '{config.eval_split}': the best epoch would be picked on "
            "the data it is then scored on"
        )
    if trains and config.checkpoint == "best" and not config.validation_split:
        raise UserError("--checkpoint=best needs a --validation_split to tell which epoch is best")


_LARGEST = 2**31 - 1
# name: (lowest, highest, whether the bounds themselves are allowed)
_RANGES = {
    "seed": (0, 2**31 - 3, True),
    "window_steps": (4, 2**20, True),
    "train_stride_steps": (1, None, True),
    "min_action_inside": (0, 1, True),
    "max_actions": (1, None, True),
    "axis_rotation": (0, 180, True),
    "signal_noise": (0, None, True),
    "feature_noise": (0, None, True),
    "feature_columns": (0, None, True),
    "num_levels": (1, 16, True),
    "first_level": (1, 16, True),
    "base_channels": (1, None, True),
    "level_channels": (1, None, True),
    "head_channels": (1, None, True),
    "step_channels": (1, None, True),
    "step_layers": (1, 20, True),
    "step_stages": (1, 16, True),
    "step_weight": (0, None, True),
    "step_smoothing": (0, None, True),
    "stages": (1, 2, True),
    "proposal_bins": (4, None, True),
    "proposal_channels": (1, None, True),
    "backbone_channels": (1, None, True),
    "crop_size": (16, None, True),
    "train_proposals": (1, None, True),
    "train_proposal_tiou": (0, 1, True),
    "proposal_match_tiou": (0, 1, False),
    "proposal_background_tiou": (0, 1, True),
    "second_stage_weight": (0, None, True),
    "proposals": (1, None, True),
    "proposal_tiou": (0, 1, True),
    "anchor_ratios": (0, None, False),
    "center_scale": (0, None, False),
    "width_scale": (0, None, False),
    "norm_groups": (1, None, True),
    "prior_probability": (0, 1, False),
    "num_features": (0, None, True),
    "num_classes": (0, None, True),
    "anchor_based_weight": (0, None, True),
    "anchor_free_classification_weight": (0, None, True),
    "anchor_free_regression_weight": (0, None, True),
    "focal_gamma": (0, None, True),
    "overlap_weight": (0, None, True),
    "anchor_regression_weight": (0, None, True),
    "match_tiou": (0, 1, False),
    "negative_ratio": (0, None, True),
    "batch_size": (1, None, True),
    "epochs": (1, None, True),
    "learning_rate": (0, None, False),
    "decay_epochs": (1, None, True),
    "decay_factor": (0, 1, True),
    "warmup_epochs": (0, None, True),
    "weight_decay": (0, None, True),
    "clip_norm": (0, None, True),
    "shuffle_buffer": (1, None, True),
    "validate_every": (1, None, True),
    "inference_window_steps": (0, 2**20, True),
    "anchor_based_lambda": (0, 1, True),
    "lambda_sweep": (0, 1, True),
    "ablation_seeds": (0, 2**31 - 3, True),
    "num_folds": (0, None, True),
    "jobs": (1, None, True),
    "max_background": (0, 1, True),
    "classes_per_candidate": (1, None, True),
    "step_exponent": (0, None, True),
    "min_score": (0, 1, True),
    "nms_tiou": (0, 1, True),
    "soft_nms_sigma": (0, None, True),
    "voting_tiou": (0, 1, True),
    "max_detections": (0, 10**7, True),
    "window_batch": (1, None, True),
    "tiou_thresholds": (0, 1, False),
    "duration_edges": (0, None, False),
    "seconds_per_step": (0, None, True),
    "subtitle_score": (0, 1, True),
    "label_studio_rate": (0, None, True),
    "segmentation_score": (0, 1, True),
    "label_rate": (0, None, True),
    "frame_rate": (0, None, True),
    "frame_stride": (0, None, True),
    "frame_size": (16, None, True),
    "clip_frames": (1, None, True),
}


def _check_ranges(config: Config) -> None:
    for name, (low, high, inclusive) in _RANGES.items():
        value = getattr(config, name)
        for v in value if isinstance(value, tuple) else (value,):
            if isinstance(v, int) and abs(v) > _LARGEST:  # TensorFlow counts with 32 bits, and digits can be thousands
                raise UserError(f"--{name}: a whole number of {len(f'{abs(v):x}')} hexadecimal digits is too large")
            too_low = v < low or (v == low and not inclusive)
            too_high = high is not None and (v > high or (v == high and not inclusive))
            if too_low or too_high or not math.isfinite(v):
                least = f"{'>=' if inclusive else '>'} {low}"
                most = "" if high is None else f" and {'<=' if inclusive else '<'} {high}"
                raise UserError(f"--{name}={v}: must be {least}{most}")
    below_1 = (
        "ema_momentum",
        "inference_overlap",
        "time_scaling",
        "feature_dropout",
        "input_dropout",
        "step_dropout",
        "proposal_dropout",
    )
    for name in below_1:
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"--{name}={getattr(config, name)}: must be >= 0 and < 1")
    if config.focal_alpha != -1 and not 0 <= config.focal_alpha <= 1:
        raise UserError(f"--focal_alpha={config.focal_alpha}: must be >= 0 and <= 1, or -1 for no weights")
    for name in ("anchor_ratios", "tiou_thresholds"):
        if not getattr(config, name):
            raise UserError(f"--{name}: needs at least one value")


def _check_pyramid(config: Config) -> None:
    for name in ("window_steps", "inference_window_steps"):
        if getattr(config, name) % 2**config.num_levels:
            raise UserError(
                f"--{name}={getattr(config, name)} does not halve {config.num_levels} times (--num_levels): "
                f"it must be a multiple of {2**config.num_levels}"
            )
    all_levels = config.anchor_free and not config.looks_at_pixels
    if config.first_level > (1 if all_levels else config.num_levels):
        raise UserError(
            f"--first_level={config.first_level}: at most --num_levels={config.num_levels}, and 1 unless "
            "--noanchor_free"
        )
    if len(config.level_channels) < config.num_levels:
        raise UserError(
            f"--level_channels has {len(config.level_channels)} values for --num_levels={config.num_levels}; "
            "give one per level"
        )


def _check_network(config: Config) -> None:
    widths = (config.base_channels, *config.level_channels[: config.num_levels], config.head_channels)
    uneven = [width for width in widths if width % config.norm_groups]
    if config.convolution_norm != "none" and uneven:
        raise UserError(
            f"--norm_groups={config.norm_groups} does not divide the {uneven[0]} channels of a convolution "
            "(--base_channels, --level_channels, --head_channels)"
        )
    if config.step_classifier and 2 ** (config.step_layers - 1) >= config.window_steps:
        most = (config.window_steps - 1).bit_length()
        raise UserError(
            f"--step_layers={config.step_layers}: the last layer would look beyond any window of --window_steps="
            f"{config.window_steps}; at most {most}"
        )
    if config.proposal_bins % 4:
        raise UserError(f"--proposal_bins={config.proposal_bins}: must be a multiple of 4")
    if config.stages == 2:
        _check_second_stage(config)
    if config.looks_at_pixels:
        _check_backbone(config)


def _check_second_stage(config: Config) -> None:
    if config.class_scores != "softmax":
        raise UserError(f"--class_scores={config.class_scores}: --stages=2 knows softmax only")
    if config.fusion == "outputs":
        raise UserError("--fusion=outputs: networks of --stages=2 look at different proposals; use candidates")


# What --backbone=c3d must have, and what it has no use for: what nobody looks at was meant otherwise.
_WITH_C3D = {
    **{"stages": 2, "num_levels": 3, "first_level": 3},
    **{"step_classifier": False, "feature_columns": (), "convolution_norm": "none"},
    **{"time_scaling": 0.0, "input_dropout": 0.0},
}
# R-C3D's proposal network has losses of its own, without these choices.
_WITHOUT_USE_WITH_C3D = (
    *("anchor_free_regression", "distance_activation", "focal_gamma", "focal_alpha", "overlap_weight", "overlap_loss"),
    *("anchor_regression", "anchor_matching", "force_matches", "negative_ratio"),
)


def _check_backbone(config: Config) -> None:
    if config.mode in ("check", "import_release"):
        raise UserError(f"--mode={config.mode} knows A2Net's levels alone: not with --backbone=c3d")
    for name, value in _WITH_C3D.items():
        if getattr(config, name) != value:
            raise UserError(f"--{name}={getattr(config, name)}: with --backbone=c3d it must be {value or 'left out'}")
    for name in _WITHOUT_USE_WITH_C3D:
        if getattr(config, name) != getattr(Config, name):
            raise UserError(f"--{name}={getattr(config, name)}: --backbone=c3d has no use for it; leave it out")
    if len(config.backbone_channels) != 5:
        raise UserError(f"--backbone_channels has {len(config.backbone_channels)} values; C3D has five, conv1 to conv5")


def _check_inference_windows(config: Config) -> None:
    if config.inference_steps < config.window_steps:
        raise UserError(
            f"--inference_window_steps={config.inference_window_steps}: must be at least --window_steps="
            f"{config.window_steps}: shorter windows would not hold the longest actions of training"
        )
    if config.inference_stride_steps < 1:
        raise UserError(
            f"--inference_overlap={config.inference_overlap} of --window_steps={config.window_steps} rounds to a whole "
            "window, so that no window would follow the first; must be lower"
        )


def require(config: Config, *names: str) -> None:
    """Raises UserError unless each named setting has a value."""
    missing = [f"--{name}" for name in names if not getattr(config, name)]
    if missing:
        raise UserError(f"--mode={config.mode} needs {' and '.join(missing)}")

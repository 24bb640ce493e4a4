"""Every setting, defined once: a field here is an absl flag of the same name, its default and its help text."""

import dataclasses
from collections.abc import Sequence
from typing import Any

MODES = (
    "train",
    "evaluate",
    "train_and_evaluate",
    "ablate",
    "cross_validate",
    "check",
    "predict",
    "export",
    "score",
    "profile",
    "import_release",
)

# A trained model is bound to these groups: later commands take them from the working directory.
MODEL_GROUPS = ("windows", "model")
EXPORTED_GROUPS = (*MODEL_GROUPS, "localization")  # fixed in an exported model
# A run is not continued with other values of these. Left out: what it may go on with, like more epochs ("epochs").
TRAINING_GROUPS = ("training data", "windows", "augmentation", "model", "losses", "training")


def _setting(default: Any, help_text: str, group: str, choices: Sequence[str] = ()) -> Any:
    """A dataclass field that carries what its flag needs."""
    metadata = {"help": help_text, "group": group, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of one command. Tuples are comma-separated on the command line."""

    # --- what to do
    mode: str = _setting("train_and_evaluate", "What to do.", "run", MODES)
    workdir: str = _setting(
        "",
        "Directory of one training run: checkpoints, logs, metrics. evaluate, predict and export take several, between "
        "commas, and merge their candidates (the fuse rows of Tables III and IV).",
        "run",
    )
    checkpoint: str = _setting(
        "last", "Which epoch evaluate, predict and export use; best needs --validation_split.", "run", ("last", "best")
    )
    # --- data
    dataset: str = _setting("", "NAME or NAME/CONFIG under datasets/, or a prepared TFDS directory.", "training data")
    train_split: str = _setting("train", "Split to train on, TFDS syntax: user01+user03, train[:80%].", "training data")
    validation_split: str = _setting(
        "", "Split whose mAP is logged and picks the best epoch; keep it apart from --eval_split.", "training data"
    )
    release_checkpoint: str = _setting(
        "", "import_release: PyTorch file of the authors' release; what is imported is not trained on.", "training data"
    )
    data_dir: str = _setting("", "Where prepared datasets live; empty: TFDS's default (~/tensorflow_datasets).", "data")
    manual_dir: str = _setting("", "Folder with raw files that cannot be downloaded automatically.", "data")
    stored_features: str = _setting(
        "",
        "Type in which features are written when a dataset is prepared; the two of 16 bits take half the disk. Empty: "
        "float32, or whatever an already prepared dataset has.",
        "data",
        ("", "float32", "float16", "bfloat16"),
    )
    eval_split: str = _setting("test", "Split that evaluate scores, and predict reads without --features.", "data")
    # --- windows
    window_steps: int = _setting(128, "Feature steps of a window.", "windows")
    train_stride_steps: int = _setting(32, "From one training window to the next.", "windows")
    random_offsets: bool = _setting(
        False, "Shift each training window by 0..stride-1 steps, anew each epoch.", "windows"
    )
    min_action_inside: float = _setting(0.9, "Share of an action inside a training window for it to count.", "windows")
    max_actions: int = _setting(64, "Most actions in one training window; more is an error.", "windows")
    normalize: bool = _setting(True, "Normalise features with mean and deviation of the training split.", "windows")
    # --- augmentation: what is changed at random in each training window, anew each epoch
    time_scaling: float = _setting(
        0.0, "Training windows run up to this share faster or slower: 0.25 is 0.75 to 1.25 times.", "augmentation"
    )
    axis_rotation: float = _setting(
        0.0,
        "Largest angle, degrees, by which the axes of each sensor are turned; for datasets that declare their axes.",
        "augmentation",
    )
    signal_noise: float = _setting(
        0.0, "Deviation of noise added to the samples of the signal, in their unit (HAPT: g).", "augmentation"
    )
    feature_noise: float = _setting(
        0.0,
        "Deviation of noise added to feature values, in standard deviations of their column; with --nonormalize in "
        "their own unit.",
        "augmentation",
    )
    feature_dropout: float = _setting(
        0.0, "Share of feature columns that a window sees their mean of (with --nonormalize: 0).", "augmentation"
    )
    # --- model (Table II)
    feature_columns: tuple[int, ...] = _setting(
        (),
        "First and end of the feature columns that the network sees: 0,1024 is RGB alone of two-stream features "
        "(Table VII); empty: all.",
        "model",
    )
    num_levels: int = _setting(6, "Pyramid levels (Table VI).", "model")
    base_channels: int = _setting(512, "Channels of both base convolutions.", "model")
    level_channels: tuple[int, ...] = _setting(
        (512, 1024, 1024, 2048, 2048, 4096), "Channels of each level, finest first.", "model"
    )
    head_channels: int = _setting(512, "Channels of the anchor-free head.", "model")
    anchor_ratios: tuple[float, ...] = _setting(
        (0.5, 0.75, 1.0, 1.5, 2.0), "Anchor widths as multiples of the cell width.", "model"
    )
    anchor_free: bool = _setting(True, "Build the anchor-free head.", "model")
    anchor_based: bool = _setting(True, "Build the anchor-based head.", "model")
    center_scale: float = _setting(0.1, "Alpha of Eq. 1 (the paper prints 0.0001, which freezes the anchors).", "model")
    width_scale: float = _setting(0.1, "Beta of Eq. 1.", "model")
    convolution_norm: str = _setting(
        "none",
        "Group normalisation in every convolution but the predictions: over steps and the channels of a "
        "group (group), or step by step (group_per_step), which also suits windows longer than those of training.",
        "model",
        ("none", "group", "group_per_step"),
    )
    norm_groups: int = _setting(8, "Groups of channels of --convolution_norm.", "model")
    residual: bool = _setting(
        False, "Add the input to the output of each convolution that keeps steps and channels.", "model"
    )
    class_scores: str = _setting(
        "softmax",
        "softmax: one of C classes or background; sigmoid: each class by itself, so that an action may have several.",
        "model",
        ("softmax", "sigmoid"),
    )
    prior_probability: float = _setting(0.01, "Of every class before training, with --class_scores=sigmoid.", "model")
    distance_activation: str = _setting(
        "none", "Keeps anchor-free distances positive, or not.", "model", ("none", "softplus", "relu")
    )
    num_features: int = _setting(0, "D, for profile without a dataset.", "model")
    num_classes: int = _setting(0, "C without background, for profile without a dataset.", "model")
    # --- losses (Eqs. 4 to 10)
    anchor_based_weight: float = _setting(1.0, "Gamma of Eq. 4.", "losses")
    anchor_free_classification_weight: float = _setting(30.0, "Gamma_af of Eq. 5.", "losses")
    anchor_free_regression: str = _setting(
        "smooth_l1",
        "Of both distances (Eq. 7), or 1 - DIoU or 1 - GIoU of the segments.",
        "losses",
        ("smooth_l1", "diou", "giou"),
    )
    anchor_free_regression_weight: float = _setting(1.0, "Of the anchor-free regression; Eq. 5 has 1.", "losses")
    center_sampling: float = _setting(
        0.0,
        "Cells are foreground only this near to the middle of an action, in strides of their level, e.g. 0.5 (an "
        "action is at most two strides long, on the last level longer, so 1 leaves out little); 0: anywhere in it.",
        "losses",
    )
    focal_gamma: float = _setting(
        2.0, "Focus on what is hard, with --class_scores=sigmoid; 0: plain cross-entropy.", "losses"
    )
    focal_alpha: float = _setting(
        0.25, "Weight of the positives, of the others 1 - alpha, with --class_scores=sigmoid; -1: both 1.", "losses"
    )
    overlap_weight: float = _setting(10.0, "Gamma_ab1 of Eq. 5.", "losses")
    anchor_regression_weight: float = _setting(10.0, "Gamma_ab2 of Eq. 5.", "losses")
    overlap_loss: str = _setting(
        "smooth_l1",
        "smooth_l1 over positives and negatives (release), mse over positives (paper).",
        "losses",
        ("smooth_l1", "mse"),
    )
    anchor_regression: str = _setting(
        "boundaries",
        "Regress decoded boundaries (release) or offsets (paper, Eq. 10) with smooth L1, or segments by 1 - DIoU or "
        "1 - GIoU.",
        "losses",
        ("boundaries", "offsets", "diou", "giou"),
    )
    anchor_matching: str = _setting(
        "predictions",
        "Which overlap with an action makes an anchor positive: that of its prediction (paper, release), or of its "
        "default place.",
        "losses",
        ("predictions", "defaults"),
    )
    force_matches: bool = _setting(
        False, "The best anchor of every action is positive, however little it overlaps.", "losses"
    )
    match_tiou: float = _setting(0.5, "Overlap an anchor must exceed to be positive.", "losses")
    negative_ratio: float = _setting(1.0, "Easy negatives drawn per positive anchor.", "losses")
    # --- training
    seed: int = _setting(0, "Of weights, order, offsets and negatives; equal seeds give equal runs.", "training")
    batch_size: int = _setting(32, "Windows per step, on all devices together.", "training")
    epochs: int = _setting(40, "Epochs; may be raised to go on with a finished run.", "epochs")
    learning_rate: float = _setting(1e-4, "Of Adam.", "training")
    decay_epochs: tuple[int, ...] = _setting(
        (30,), "Epochs after which the rate is multiplied by --decay_factor.", "training"
    )
    decay_factor: float = _setting(0.1, "See --decay_epochs.", "training")
    schedule: str = _setting(
        "step", "step: as --decay_epochs say; cosine: down to 0 at the end of --epochs.", "training", ("step", "cosine")
    )
    warmup_epochs: int = _setting(0, "Epochs in which the learning rate rises from 0.", "training")
    weight_decay: float = _setting(
        0.0, "Decoupled, times the learning rate (AdamW), of the kernels of convolutions.", "training"
    )
    input_dropout: float = _setting(0.0, "Share of the network's input values that are set to 0.", "training")
    drop_path: float = _setting(0.0, "Share of windows in which a convolution with --residual is left out.", "training")
    clip_norm: float = _setting(0.0, "Largest global gradient norm; 0: no clipping.", "training")
    ema_momentum: float = _setting(0.0, "Evaluate averaged weights, e.g. 0.999; 0: no averaging.", "training")
    shuffle_buffer: int = _setting(
        1024, "Windows shuffled together (1 MB each with 2048 features stored as float32).", "training"
    )
    precision: str = _setting(
        "float32",
        "Of convolutions; weights and losses stay float32. export: the default is that of training.",
        "training",
        ("float32", "bfloat16", "float16"),
    )
    convolution: str = _setting(
        "auto",
        "Strides and kernels of one step as matrix products, which CPUs are faster at, or by the operator for "
        "convolutions (direct), where there is a GPU. Weights and results are the same.",
        "training",
        ("auto", "product", "direct"),
    )
    jit_compile: bool = _setting(False, "Compile the training step with XLA; needs --nodeterministic.", "training")
    distribute: str = _setting(
        "none",
        "mirrored: --batch_size is divided among all visible GPUs (without one, among TensorFlow's logical CPU "
        "devices); losses and weights are those of one device, to rounding.",
        "epochs",
        ("none", "mirrored"),
    )
    deterministic: bool = _setting(True, "Bit-equal runs for equal seeds, at some cost on GPUs.", "training")
    validate_every: int = _setting(1, "Epochs between two looks at --validation_split.", "epochs")
    # --- localization
    inference_window_steps: int = _setting(
        0,
        "Feature steps of a window when not training; 0: as --window_steps. In longer ones the coarse levels see more "
        "than training has shown them: compare the score.",
        "localization",
    )
    inference_overlap: float = _setting(
        0.5,
        "What neighbouring inference windows share, as a share of --window_steps (the longest action of training).",
        "localization",
    )
    anchor_based_lambda: float = _setting(
        0.5,
        "Merge weight: anchor-based scores times lambda, anchor-free times 1 - lambda (both over the larger).",
        "localization",
    )
    fusion: str = _setting(
        "candidates",
        "How several --workdir are merged: all candidates before suppression (fuse), or the average of the networks' "
        "raw outputs (late fusion of Table VII).",
        "localization",
        ("candidates", "outputs"),
    )
    overlap_score: str = _setting(
        "raw",
        "Eq. 11 with the overlap clipped to [0, 1], or its sigmoid (release).",
        "localization",
        ("raw", "sigmoid"),
    )
    max_background: float = _setting(
        0.98,
        "Anchor-based candidates with this background probability or more are dropped; 1: none. For softmax only.",
        "localization",
    )
    classes_per_candidate: int = _setting(
        1, "Best classes of each cell and anchor that become candidates; at most as many as there are.", "localization"
    )
    min_score: float = _setting(0.0, "Candidates need a higher score.", "localization")
    nms_tiou: float = _setting(
        0.2, "Overlap above which the weaker detection of a class is suppressed.", "localization"
    )
    soft_nms_sigma: float = _setting(
        0.0, "Gaussian soft-NMS, weight exp(-tiou^2 / sigma); 0: hard suppression.", "localization"
    )
    voting_tiou: float = _setting(
        0.0,
        "Boundaries of a detection become the mean, weighted by score, of the candidates of its class that overlap it "
        "at least this much; 0: its own.",
        "localization",
    )
    max_detections: int = _setting(200, "Best detections kept per sequence.", "localization")
    window_batch: int = _setting(
        32, "Windows of --window_steps that go through the network at once; of longer ones, fewer.", "localization"
    )
    # --- evaluation
    protocol: str = _setting(
        "activitynet",
        "How detections are scored: mAP of either challenge; score only: recall of proposals (AR@AN).",
        "evaluation",
        ("activitynet", "thumos14", "proposals"),
    )
    tiou_thresholds: tuple[float, ...] = _setting(
        (0.3, 0.4, 0.5, 0.6, 0.7), "Of mAP (proposals: 0.5:0.05:0.95 unless given).", "evaluation"
    )
    duration_edges: tuple[float, ...] = _setting(
        (),
        "Seconds between the buckets of mAP by duration; empty: the protocol's own (thumos14: fifths of the actions, "
        "as in Table I; activitynet: 1.5,2.5,4.2,6.9).",
        "evaluation",
    )
    lambda_sweep: tuple[float, ...] = _setting(
        (), "evaluate: further merge weights to report, in the same pass (Table V).", "evaluation"
    )
    plots: bool = _setting(True, "Draw time lines (evaluate) and bars (ablate); needs matplotlib.", "evaluation")
    ablation: str = _setting(
        "",
        "ablate: branches (Tables III, IV), lambda (V), levels (VI, Fig. 6), streams (VII), any setting and its "
        'values, "learning_rate 1e-4 1e-3"; or recipe: what each ingredient gives that these settings add to '
        '--baseline, all of them or those named, "recipe focal-loss anchors".',
        "evaluation",
    )
    ablation_seeds: tuple[int, ...] = _setting((), "ablate: train once with each; empty: --seed alone.", "evaluation")
    fold_splits: tuple[str, ...] = _setting(
        (), "cross_validate: splits to divide into folds, one subject each; empty: all of --dataset.", "evaluation"
    )
    num_folds: int = _setting(
        0, "cross_validate: folds, each scored by a network trained on the others; 0: one per split.", "evaluation"
    )
    jobs: int = _setting(
        1, "cross_validate, ablate: trainings at the same time, which share the processor's cores.", "evaluation"
    )
    baseline: str = _setting(
        "",
        "ablate: flagfile that --ablation=recipe starts from; data and seeds are those of the command.",
        "evaluation",
    )
    detections: str = _setting("", "score: the file to judge.", "evaluation")
    ground_truth: str = _setting(
        "", "score: annotation folder (thumos14) or database JSON (activitynet); proposals: either.", "evaluation"
    )
    subset: str = _setting("", "score: subset of the ground truth; empty: test or validation.", "evaluation")
    metrics: str = _setting("", "score, profile, check: JSON file to write.", "evaluation")
    # --- use
    features: str = _setting("", "predict: one .npy matrix [steps, features], or a folder of them.", "use")
    saved_model: str = _setting("", "export: directory to write; predict: exported model to use.", "use")
    freeze: bool = _setting(
        False,
        "export: store the weights of --saved_model as constants: a seventh less time for single windows on CPUs, "
        "but many times the memory.",
        "use",
    )
    tflite: str = _setting("", "export: .tflite file to write (TensorFlow Lite, LiteRT).", "use")
    tflite_type: str = _setting(
        "float32",
        "Weights of --tflite: float16 halves the file; dynamic stores int8; int8 also computes in int8, calibrated on "
        "--train_split.",
        "use",
        ("float32", "float16", "dynamic", "int8"),
    )
    onnx: str = _setting("", 'export: .onnx file to write; needs pip install "a2net-tf[onnx]".', "use")
    output: str = _setting(
        "", "predict: ActivityNet-format JSON to write; evaluate with several --workdir: folder of the results.", "use"
    )
    seconds_per_step: float = _setting(
        0.0, "predict: time between feature vectors; 0: as in training. import_release: 0 is 4 frames at 30 fps.", "use"
    )
    subtitle_score: float = _setting(0.3, "predict: detections below are left out of the subtitles.", "use")

    @property
    def inference_steps(self) -> int:
        """Feature steps of an inference window."""
        return self.inference_window_steps or self.window_steps

    @property
    def inference_stride_steps(self) -> int:
        """From one inference window to the next."""
        return self.inference_steps - round(self.inference_overlap * self.window_steps)

    @property
    def inference_batch(self) -> int:
        """Inference windows that go through the network at once: as many steps as in training, so as much memory."""
        return max(1, self.window_batch * self.window_steps // self.inference_steps)

    @property
    def suppression(self) -> dict[str, float]:
        """The settings of suppression, as keyword arguments of ``postprocess.suppress``."""
        return {
            "tiou": self.nms_tiou,
            "max_detections": self.max_detections,
            "min_score": self.min_score,
            "soft_sigma": self.soft_nms_sigma,
            "voting_tiou": self.voting_tiou,
        }


FIELDS = {field.name: field for field in dataclasses.fields(Config)}

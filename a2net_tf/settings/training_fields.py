"""Settings of the network, its losses, its optimisation and the arithmetic that it is computed with."""

import dataclasses
import functools

from a2net_tf.settings.setting import LOCALIZING, SWITCH, TRAINING, setting

_network = functools.partial(setting, section="network", modes=(*TRAINING, "profile"), binds="model")
_losses = functools.partial(setting, section="losses", modes=TRAINING, binds="training")
_optimisation = functools.partial(setting, section="optimisation", modes=TRAINING, binds="training")
_computation = functools.partial(setting, section="computation", modes=(*LOCALIZING, "profile"), binds="training")
_IMPORTED = (*TRAINING, "profile", "import_release")  # a release's file may not contradict it


@dataclasses.dataclass(frozen=True)
class TrainingFields:
    """The second part of ``Config``."""

    # --- the network of Table II
    feature_columns: tuple[int, ...] = _network(
        (),
        "The first and the end of the feature columns that the network sees: 0,1024 is RGB alone of two-stream "
        "features (Table VII); empty: all columns.",
        modes=(*TRAINING, "profile", "check"),
    )
    num_levels: int = _network(
        6,
        "The number of levels of the temporal pyramid (Table VI); each has half the cells of the one before.",
        modes=(*_IMPORTED, "check"),
        common=True,
    )
    base_channels: int = _network(
        512, "The number of channels of both base convolutions (Table II).", modes=_IMPORTED, common=True
    )
    level_channels: tuple[int, ...] = _network(
        (512, 1024, 1024, 2048, 2048, 4096),
        "The number of channels of each level, finest first (Table II).",
        modes=_IMPORTED,
        common=True,
    )
    head_channels: int = _network(
        512, "The number of channels of the anchor-free branch (Table II).", modes=_IMPORTED, common=True
    )
    anchor_ratios: tuple[float, ...] = _network(
        (0.5, 0.75, 1.0, 1.5, 2.0),
        "The widths of the anchors of a cell, as multiples of the cell's width.",
        modes=(*_IMPORTED, "check"),
    )
    first_level: int = _network(
        1,
        "The finest level that has anchors; finer ones only lead to it, as in SSAD. Above 1 it needs --noanchor_free.",
        modes=(*TRAINING, "profile", "check"),
    )
    anchor_free: bool = _network(
        True, "Whether the network has the anchor-free module.", modes=(*_IMPORTED, "check"), common=True
    )
    anchor_based: bool = _network(
        True, "Whether the network has the anchor-based module.", modes=(*_IMPORTED, "check"), common=True
    )
    center_scale: float = _network(
        0.1,
        "Alpha of Eq. 1: how far an offset of 1 moves the centre of an anchor, in widths of the anchor. The paper "
        "prints 0.0001, which freezes the anchors.",
        modes=TRAINING,
    )
    width_scale: float = _network(
        0.1, "Beta of Eq. 1: an offset of 1 multiplies the width of an anchor by exp(beta).", modes=TRAINING
    )
    convolution_norm: str = _network(
        "none",
        "Group normalisation after every convolution but the predictions, over all steps and the channels of a group.",
        choices=("none", "group"),
    )
    norm_groups: int = _network(8, "The number of groups of channels of --convolution_norm.")
    class_scores: str = _network(
        "softmax",
        "How classes are scored: softmax decides for one of C classes or background; sigmoid scores each class by "
        "itself, so that an action may have several.",
        choices=("softmax", "sigmoid"),
    )
    prior_probability: float = _network(
        0.01,
        "The probability of every class before training, with --class_scores=sigmoid (Lin et al. 2017).",
        modes=TRAINING,
    )
    distance_activation: str = _network(
        "none",
        "The function that keeps the anchor-free distances positive; none: they may be negative. No gain was seen on "
        "HAPT.",
        modes=TRAINING,
        choices=("none", "softplus", "relu"),
    )
    step_classifier: bool = _network(
        False,
        "Whether the network has a branch that tells the class of every feature step from a long context: it assists "
        "the classification of both modules' candidates.",
        modes=(*TRAINING, "profile"),
        common=True,
    )
    step_channels: int = _network(64, "The number of channels of --step_classifier.")
    step_layers: int = _network(
        7,
        "The number of dilated convolutions of a stage of --step_classifier; each looks twice as far as the one before "
        "it, seven over 255 steps.",
    )
    step_stages: int = _network(
        3, "The number of stages of --step_classifier, each of which corrects what the one before it says."
    )
    stages: int = _network(
        1,
        "With 2 the modules propose segments without classes (Section III-G), and a second stage looks at the base "
        "features of each and of its surroundings, tells its class and moves its boundaries; both are trained as one.",
        common=True,
    )
    proposal_bins: int = _network(
        8,
        "The number of parts, on twice the length of a proposal, whose mean features the second of --stages sees; a "
        "multiple of 4.",
    )
    proposal_channels: int = _network(
        512, "The number of channels of the hidden layers of the second of --stages, one for classes, one for ends."
    )
    backbone: str = _network(
        "none",
        "With c3d features are the pixels of frames (--extractor=frames), and the network is that of R-C3D (Xu et al. "
        "2017): C3D up to conv5b, trained with the rest, anchors of one level, and a second stage on what it makes of "
        "each proposal. It needs --stages=2, --num_levels=3 and --first_level=3, which is a cell every 8 frames.",
        choices=("none", "c3d"),
    )
    backbone_channels: tuple[int, ...] = _network(
        (64, 128, 256, 512, 512), "The number of channels of conv1 to conv5 of --backbone=c3d."
    )
    crop_size: int = _network(
        112,
        "The height and width of what --backbone=c3d sees of each frame: its middle, in training any part of it, half "
        "of the windows mirrored.",
    )
    num_features: int = _network(
        0,
        "D, the number of values of a feature vector; 0: as in --dataset. profile needs it without a dataset.",
        modes=_IMPORTED,
    )
    num_classes: int = _network(
        0,
        "C, the number of classes without background; 0: as in --dataset. profile needs it without a dataset.",
        modes=_IMPORTED,
    )

    # --- losses (Eqs. 4 to 10)
    anchor_based_weight: float = _losses(
        1.0, "Gamma of Eq. 4: the weight of the anchor-based module's loss beside the anchor-free module's."
    )
    anchor_free_classification_weight: float = _losses(
        30.0, "Gamma_af of Eq. 5: the weight of the anchor-free classification loss."
    )
    anchor_free_regression: str = _losses(
        "smooth_l1",
        "The anchor-free regression loss: smooth L1 of both distances (Eq. 7), or 1 - DIoU or 1 - GIoU of the segment "
        "that they give.",
        choices=("smooth_l1", "diou", "giou"),
    )
    anchor_free_regression_weight: float = _losses(
        1.0, "The weight of the anchor-free regression loss, which is 1 in Eq. 5."
    )
    focal_gamma: float = _losses(
        2.0,
        "The exponent of the focal loss, with --class_scores=sigmoid: the larger, the more it looks at hard examples; "
        "0: plain cross-entropy.",
    )
    focal_alpha: float = _losses(
        0.25,
        "The weight of positives in the focal loss, with --class_scores=sigmoid; that of the others is 1 - alpha; -1: "
        "both are 1.",
    )
    overlap_weight: float = _losses(10.0, "Gamma_ab1 of Eq. 5: the weight of the loss of the predicted overlap.")
    anchor_regression_weight: float = _losses(
        10.0, "Gamma_ab2 of Eq. 5: the weight of the anchor-based regression loss."
    )
    overlap_loss: str = _losses(
        "smooth_l1",
        "The loss of the predicted overlap: smooth_l1 over positives and negatives, as in the release, or mse over "
        "positives, as in the paper.",
        choices=("smooth_l1", "mse"),
    )
    anchor_regression: str = _losses(
        "boundaries",
        "What the anchor-based regression loss compares: decoded boundaries (release) or offsets (paper, Eq. 10) by "
        "smooth L1, or segments by 1 - DIoU or 1 - GIoU.",
        choices=("boundaries", "offsets", "diou", "giou"),
    )
    anchor_matching: str = _losses(
        "predictions",
        "Which overlap with an action makes an anchor positive: that of its prediction (paper, release), or that of "
        "its default place.",
        choices=("predictions", "defaults"),
    )
    force_matches: bool = _losses(
        False, "Whether the best anchor of every action is positive, however little it overlaps the action."
    )
    match_tiou: float = _losses(
        0.5, "The tIoU with an action that an anchor must exceed to be positive.", modes=(*TRAINING, "check")
    )
    negative_ratio: float = _losses(1.0, "The number of easy negatives that are drawn for each positive anchor.")

    step_weight: float = _losses(1.0, "The weight of the loss of --step_classifier.")
    step_smoothing: float = _losses(
        0.15, "The weight, within the loss of --step_classifier, of how much neighbouring steps differ."
    )

    train_proposals: int = _losses(
        128, "The number of proposals of a window that the second of --stages learns from; its actions are among them."
    )
    train_proposal_tiou: float = _losses(
        0.8, "The tIoU above which the weaker of two proposals is suppressed in training, with --stages=2."
    )
    proposal_match_tiou: float = _losses(
        0.5, "The tIoU with an action that a proposal must exceed to be of its class, with --stages=2."
    )
    proposal_background_tiou: float = _losses(
        0.1,
        "Proposals with less tIoU than --proposal_match_tiou, but at least this, are background to the second of "
        "--stages; it learns nothing of others.",
    )
    second_stage_weight: float = _losses(10.0, "The weight of the losses of the second of --stages.")

    # --- optimisation
    seed: int = _optimisation(
        0,
        "The seed of weights, order, augmentation and drawn negatives; equal seeds give equal runs.",
        common=True,
    )
    batch_size: int = _optimisation(32, "The number of windows of a step, on all devices together.", common=True)
    epochs: int = _optimisation(
        40,
        "The number of passes over the training windows. A finished run goes on with a larger number.",
        binds="progress",
        common=True,
    )
    backbone_weights: str = _optimisation(
        "",
        "The PyTorch file with the weights that --backbone=c3d begins with, such as C3D of Sports-1M; its first two "
        "convolutions stay as they are then. Empty: random ones.",
    )
    optimizer: str = _optimisation(
        "adam",
        "The optimizer: Adam, or stochastic gradient descent with a momentum of 0.9, as R-C3D was trained.",
        choices=("adam", "sgd"),
    )
    learning_rate: float = _optimisation(1e-4, "The learning rate of --optimizer.", common=True)
    schedule: str = _optimisation(
        "step",
        "How the learning rate falls: in steps as --decay_epochs says, or as a cosine to 0 at the end of --epochs.",
        choices=("step", "cosine"),
    )
    decay_epochs: tuple[int, ...] = _optimisation(
        (30,),
        "The epochs after which the learning rate is multiplied by --decay_factor, with --schedule=step; empty: never.",
        common=True,
    )
    decay_factor: float = _optimisation(0.1, "The factor of the learning rate after each of --decay_epochs.")
    warmup_epochs: int = _optimisation(
        0, "The number of epochs in which the learning rate rises from 0 to its value; 0: it begins there."
    )
    weight_decay: float = _optimisation(
        0.0,
        "The decoupled weight decay (AdamW) of the kernels of convolutions: each step takes this share, times the "
        "learning rate, off them; 0: none.",
    )
    input_dropout: float = _optimisation(
        0.0, "The share of the network's input values that training sets to 0; 0: none."
    )
    step_dropout: float = _optimisation(
        0.0, "The share of the values in each layer of --step_classifier that training sets to 0; 0: none."
    )
    proposal_dropout: float = _optimisation(
        0.5, "The share of the values in the hidden layers of the second of --stages that training sets to 0; 0: none."
    )
    clip_norm: float = _optimisation(
        0.0, "The largest norm of the gradient of all weights, to which larger ones are scaled down; 0: no clipping."
    )
    ema_momentum: float = _optimisation(
        0.0,
        "The momentum of the moving average of weights that is evaluated and saved in their place, such as 0.999; 0: "
        "no averaging.",
    )
    shuffle_buffer: int = _optimisation(
        1024,
        "The number of windows that are shuffled together; each takes 1 MB of memory with 2048 features in float32.",
    )
    validate_every: int = _optimisation(
        1, "The number of epochs from one look at --validation_split to the next.", binds="progress"
    )

    # --- computation
    precision: str = _computation(
        "auto",
        "The type in which convolutions are computed; weights and losses stay float32. auto is bfloat16 where the "
        "device has it in hardware (GPUs from compute capability 8.0 on, processors with AVX512-BF16 or AMX), else "
        "float32. A run goes on in the type that it was started in. TFLite and ONNX files are written in float32, and "
        "saved_model:PATH computes as it was exported.",
        modes=(*LOCALIZING, "profile", "extract"),
        common=True,
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    convolution: str = _computation(
        "auto",
        "How convolutions are computed: strides and kernels of one step as matrix products, which CPUs are faster at "
        "(product), all as matrix products, which GPUs are faster at (unrolled), or all by the operator for "
        "convolutions (direct). auto is unrolled where there is a GPU, and in training on CPUs without AVX-512, else "
        "product. Weights and results are the same.",
        choices=("auto", "product", "unrolled", "direct"),
    )
    jit_compile: bool | str = _computation(
        "auto",
        "Whether the training step is compiled with XLA, which needs --nodeterministic. auto is true where there is a "
        "GPU, unless --deterministic, or a dropout with --distribute, rules it out. A run goes on as it was started.",
        modes=TRAINING,
        choices=SWITCH,
    )
    distribute: str = _computation(
        "none",
        "How several devices share the training: with mirrored, --batch_size is divided among all visible GPUs "
        "(without one, among TensorFlow's logical CPU devices); with multi_worker, of train alone, among all processes "
        "that TF_CONFIG names. Losses and weights are as on one device, to rounding.",
        modes=TRAINING,
        binds="progress",
        choices=("none", "mirrored", "multi_worker"),
    )
    deterministic: bool | str = _computation(
        "auto",
        "Whether runs with equal seeds are equal bit by bit, at some cost of time on GPUs. auto is true unless there "
        "is a GPU. A run goes on as it was started.",
        choices=SWITCH,
    )

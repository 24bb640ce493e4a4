"""Settings of how a trained network is used: localization, evaluation, tables of many runs, prediction, export."""

import dataclasses
import functools

from a2net_tf.settings.setting import LOCALIZING, SCORING, setting

_localization = functools.partial(setting, section="localization", modes=LOCALIZING, binds="localization")
_evaluation = functools.partial(setting, section="evaluation", modes=("train", *SCORING, "tune", "score"))
_many_runs = functools.partial(setting, section="many runs", modes=("ablate",), common=True)
_files = functools.partial(setting, section="files", common=True)


@dataclasses.dataclass(frozen=True)
class UseFields:
    """The third part of ``Config``."""

    inference_window_steps: int = _localization(
        0,
        "The length of a window when the network is used, in feature steps; 0: as --window_steps. In longer windows "
        "the coarse levels see more than training has shown them: compare the score.",
        modes=(*LOCALIZING, "check"),
    )
    inference_overlap: float = _localization(
        0.5,
        "What neighbouring inference windows share, as a share of --window_steps (the longest action of training).",
        modes=(*LOCALIZING, "check"),
        common=True,
    )
    anchor_based_lambda: float = _localization(
        0.5,
        "Lambda, the merge weight (Table V): anchor-based scores are multiplied by lambda and anchor-free ones by "
        "1 - lambda, both divided by the larger of the two.",
        common=True,
    )
    fusion: str = _localization(
        "candidates",
        "How the networks of several --workdir are merged: all their candidates before suppression (the fuse rows of "
        "Tables III and IV), or the average of their raw outputs (late fusion of Table VII).",
        modes=("ablate", "evaluate", "predict", "export"),
        choices=("candidates", "outputs"),
    )
    overlap_score: str = _localization(
        "raw",
        "How the predicted overlap enters the score (Eq. 11): clipped to [0, 1], or through a sigmoid, as in the "
        "release.",
        choices=("raw", "sigmoid"),
    )
    max_background: float = _localization(
        0.98,
        "Anchor-based candidates with this background probability or more are dropped, with --class_scores=softmax; "
        "1: none is.",
    )
    classes_per_candidate: int = _localization(
        1,
        "The number of best classes of each cell and anchor that become candidates; at most as many as there are "
        "classes.",
    )
    step_exponent: float = _localization(
        1.0,
        "How much --step_classifier has to say: a candidate's score is multiplied by the mean of its class's "
        "probability over the candidate's steps, to the power of this; 0: nothing.",
    )
    proposals: int = _localization(
        128,
        "The number of proposals of a window that the second of --stages looks at.",
        modes=(*LOCALIZING, "profile"),
    )
    proposal_tiou: float = _localization(
        0.9,
        "The tIoU above which the weaker of two proposals is suppressed, with --stages=2; and before the recall of "
        "proposals is measured.",
    )
    refined_score: str = _localization(
        "product",
        "The score of a refined proposal, with --stages=2: the second stage's probability of its class (second), that "
        "times the first stage's score (product), or the square root of the product.",
        choices=("second", "product", "root"),
    )
    min_score: float = _localization(0.0, "The score that a candidate must exceed to be kept.", common=True)
    nms_tiou: float = _localization(
        0.2, "The tIoU above which the weaker of two detections of a class is suppressed.", common=True
    )
    soft_nms_sigma: float = _localization(
        0.0,
        "The sigma of Gaussian soft-NMS, which multiplies the score of an overlapping detection by "
        "exp(-tiou^2 / sigma); 0: it is suppressed.",
    )
    voting_tiou: float = _localization(
        0.0,
        "Candidates of its class with at least this tIoU vote on the boundaries of a detection: they become the mean "
        "of theirs, weighted by score; 0: no votes.",
    )
    tuned: bool = setting(
        True,
        "Whether settings that --mode=tune has chosen for a run are used; those of the command win in any case.",
        section="localization",
        modes=("evaluate", "predict", "export"),
    )
    max_detections: int = _localization(
        0,
        "The number of best detections that are kept of a sequence (the paper's is 200); 0: it grows with the "
        "sequence, 100 for every length of --window_steps, at least 200.",
        modes=(*LOCALIZING, "check"),
        common=True,
    )
    window_batch: int = _localization(
        32,
        "The number of windows of --window_steps that go through the network at once; of longer windows, "
        "correspondingly fewer.",
    )

    protocol: str = _evaluation(
        "activitynet",
        "How detections are scored: by the mAP of either challenge; by the recall of proposals (AR@AN), which only "
        "score takes; or as a labelling of all steps (segmentation: F1@k, edit score, accuracy), which evaluate "
        "reports beside the mAP of activitynet.",
        common=True,
        choices=("activitynet", "thumos14", "proposals", "segmentation"),
    )
    segmentation_score: float = _evaluation(
        0.1,
        "Detections with a lower score label no step in --protocol=segmentation.",
    )
    label_rate: float = _evaluation(
        0.0,
        "The labels per second of the ground truth, for --protocol=segmentation; 0: as the settings.json of its folder "
        "says, or 1.",
        modes=("score",),
    )
    tiou_thresholds: tuple[float, ...] = _evaluation(
        (0.3, 0.4, 0.5, 0.6, 0.7),
        "The tIoU thresholds at which the mAP is computed; proposals have 0.5:0.05:0.95 unless they are given.",
        common=True,
    )
    duration_edges: tuple[float, ...] = _evaluation(
        (),
        "The edges, in seconds, between the buckets of mAP by duration of the action; empty: those of the protocol "
        "(thumos14: fifths of the actions, as in Table I; activitynet: 1.5,2.5,4.2,6.9).",
    )
    lambda_sweep: tuple[float, ...] = _evaluation(
        (),
        "Further merge weights (--anchor_based_lambda) to report in the same pass (Table V); empty: none.",
        modes=SCORING,
    )
    plots: bool = _evaluation(
        True,
        "Whether time lines (evaluate) and bars (ablate, cross_validate) are drawn; it needs matplotlib.",
        modes=SCORING,
    )
    report: bool = _evaluation(
        True,
        "Whether report.html is written, a page for the browser with curves, errors and time lines; it needs plotly.",
        modes=("evaluate", "train_and_evaluate"),
    )
    detections: str = _evaluation(
        "", "The detections to judge: a file, or a folder of files of another tool.", modes=("score",), common=True
    )
    ground_truth: str = _evaluation(
        "",
        "The ground truth to judge against: a folder of annotations (thumos14), or a database in JSON or a file or "
        "folder of another tool's annotations (activitynet); proposals take either.",
        modes=("score",),
        common=True,
    )
    subset: str = _evaluation(
        "",
        "The subset of the ground truth to judge on; empty: test (thumos14) or validation (activitynet).",
        modes=("score",),
    )
    metrics: str = _evaluation(
        "", "The JSON file to write; empty: none.", modes=("score", "profile", "check"), common=True
    )

    ablation: str = _many_runs(
        "",
        "What the table is about: branches (Tables III, IV), lambda (V), levels (VI, Fig. 6), streams (VII), "
        "proposals (XII, XIII); any "
        'setting and its values, as in "learning_rate 1e-4 1e-3"; or recipe, which shows what each ingredient gives '
        'that these settings add to --baseline, all of them or those named, as in "recipe focal-loss anchors".',
    )
    ablation_seeds: tuple[int, ...] = _many_runs(
        (), "The seeds to train every network with, once each; empty: --seed alone."
    )
    baseline: str = _many_runs(
        "",
        "The flagfile that --ablation=recipe starts from; data and seeds are those of the command.",
    )
    fold_splits: tuple[str, ...] = _many_runs(
        (),
        "The splits to divide into folds, one subject each; empty: all splits of --dataset.",
        modes=("cross_validate",),
    )
    num_folds: int = _many_runs(
        0,
        "The number of folds, each scored by a network that was trained on the others; 0: one fold for each split.",
        modes=("cross_validate",),
    )
    jobs: int = _many_runs(
        1,
        "The number of trainings, or of videos to extract, at the same time, each in a process of its own; they share "
        "the processor's cores.",
        modes=("ablate", "cross_validate", "extract"),
    )

    features: str = _files(
        "",
        "The features to find actions in: a matrix [steps, features] as .npy, .npz or .csv, or a folder of them; "
        "empty: those of --eval_split.",
        modes=("predict",),
    )
    output: str = _files(
        "",
        "What to write: the detections of predict, by their ending in ActivityNet's format (.json), as a table (.csv), "
        "as subtitles (.vtt), or to be corrected in ELAN (.eaf) or in Label Studio (.labelstudio.json); the folder for "
        "the features of extract; or the folder for the results of evaluate and report (needed with several --workdir; "
        "empty: --workdir itself).",
        modes=("evaluate", "report", "predict", "extract"),
    )
    saved_model: str = _files(
        "",
        "The directory of a SavedModel: export writes it, and predict uses it. A SavedModel is a program that can read "
        "and write any file: open none of a stranger.",
        modes=("export", "predict"),
    )
    freeze: bool = _files(
        False,
        "Whether the weights of --saved_model are stored as constants: single windows take a seventh less time on "
        "CPUs, but many times the memory.",
        modes=("export",),
        common=False,
    )
    tflite: str = _files("", "The .tflite file to write (TensorFlow Lite, LiteRT); empty: none.", modes=("export",))
    tflite_type: str = _files(
        "float32",
        "The type of the weights of --tflite: float16 halves the file; dynamic stores int8; int8 also computes in "
        "int8, calibrated on --train_split.",
        modes=("export",),
        common=False,
        choices=("float32", "float16", "dynamic", "int8"),
    )
    onnx: str = _files(
        "", 'The .onnx file to write; it needs pip install ".[onnx]" in the checkout; empty: none.', modes=("export",)
    )
    stablehlo: str = _files(
        "",
        "The StableHLO file to write, for JAX, IREE and XLA, of --window_batch windows at a time; it needs pip install "
        '".[stablehlo]" in the checkout; empty: none.',
        modes=("export",),
    )
    seconds_per_step: float = _files(
        0.0,
        "The time between two feature vectors, in seconds; 0: as in training, and for import_release 4 frames at 30 "
        "frames per second.",
        modes=("predict", "import_release"),
        common=False,
    )
    subtitle_score: float = _files(
        0.3,
        "Detections with a lower score are left out of subtitles, of files for ELAN and Label Studio, and of drawn "
        "time lines; a report has a slider for it.",
        modes=("predict", "evaluate", "report", "train_and_evaluate"),
        common=False,
    )
    label_studio_rate: float = _files(
        0.0,
        "The frameRate of Label Studio's <Video>, for --output=NAME.labelstudio.json: detections become timeline "
        "labels; 0: labels of a time series, along seconds.",
        modes=("predict",),
        common=False,
    )
    label_studio_url: str = _files(
        "",
        "Where Label Studio finds a recording, with {name} for its name; empty: /data/local-files/?d={name}.mp4, or "
        ".csv for time series.",
        modes=("predict",),
        common=False,
    )

"""Settings of the command itself, of the data, and of how training windows are cut from it and changed."""

import dataclasses
import functools

from a2net_tf.settings.setting import MODES, READING, SCORING, TRAINING, setting

_command = functools.partial(setting, section="command")
_data = functools.partial(setting, section="data")
_windows = functools.partial(setting, section="windows", modes=(*TRAINING, "check"), binds="model")
_augmentation = functools.partial(setting, section="augmentation", modes=TRAINING, binds="training")


@dataclasses.dataclass(frozen=True)
class DataFields:
    """The first part of ``Config``."""

    mode: str = _command(
        "train_and_evaluate",
        "What to do; --help without a mode says what each of them does.",
        modes=tuple(MODES),
        common=True,
        choices=tuple(MODES),
    )
    workdir: str = _command(
        "",
        "The directory of one training run, with its checkpoints, logs and metrics. evaluate, predict and export take "
        "several directories, between commas, and merge what their networks find (the fuse rows of Tables III and IV); "
        "report shows several side by side.",
        modes=(*TRAINING, "evaluate", "report", "tune", "predict", "export", "import_release"),
        common=True,
    )
    checkpoint: str = _command(
        "last",
        "Which weights of a run are used: those of the last epoch, or those of the epoch with the best mAP on "
        "--validation_split.",
        modes=(*SCORING, "tune", "predict", "export"),
        choices=("last", "best"),
    )

    dataset: str = _data(
        "",
        "The dataset: NAME or NAME/CONFIG of a folder in datasets/, or the path of a prepared TFDS directory.",
        modes=READING,
        binds="data",
        common=True,
    )
    train_split: str = _data(
        "train",
        "The split to train on, in the syntax of TFDS, such as user01+user03 or train[:80%]. An export calibrates int8 "
        "on it.",
        modes=("train", "train_and_evaluate", "ablate", "check", "export"),
        binds="data",
        common=True,
    )
    validation_split: str = _data(
        "",
        "The split whose mAP is logged during training and tells which epoch is best; empty: none. It must not be "
        "--eval_split. cross_validate takes none. tune chooses on it: the network should not have been trained on it.",
        modes=(*TRAINING, "tune", "check"),
        binds="data",
        common=True,
    )
    eval_split: str = _data(
        "test",
        "The split that is scored, and that predict reads without --features.",
        modes=("train", "evaluate", "train_and_evaluate", "ablate", "check", "predict", "export"),
        common=True,
    )
    release_checkpoint: str = _data(
        "",
        "The PyTorch file of the authors' release to import. An imported run can be used, but not trained on.",
        modes=("import_release",),
        binds="data",
        common=True,
    )
    data_dir: str = _data(
        "", "The folder where prepared datasets live; empty: TFDS's default (~/tensorflow_datasets).", modes=READING
    )
    manual_dir: str = _data(
        "",
        "The folder with the raw files of a dataset that cannot be downloaded automatically. It is needed once, to "
        "prepare the dataset.",
        modes=READING,
        common=True,
    )
    beam_runner: str = _data(
        "",
        "What prepares a dataset of many files in several processes or on many machines: a runner of Apache Beam, such "
        "as DirectRunner, FlinkRunner or DataflowRunner; empty: this process, without Beam.",
        modes=READING,
    )
    beam_options: str = _data(
        "",
        "Options of --beam_runner, NAME=VALUE between commas, such as "
        "direct_num_workers=2,direct_running_mode=multi_processing.",
        modes=READING,
    )
    stored_features: str = _data(
        "",
        "The type in which features are written when a dataset is prepared; the two of 16 bits take half the disk. "
        "Empty: float32, or whatever a prepared dataset already has. extract writes its files in float32 or float16.",
        modes=(*READING, "extract"),
        choices=("", "float32", "float16", "bfloat16"),
    )

    window_steps: int = _windows(
        128,
        "The length of a window in feature steps. Longer actions than a window cannot be found.",
        modes=(*TRAINING, "check", "profile", "import_release"),
        common=True,
    )
    train_stride_steps: int = _windows(
        32, "The distance from one training window to the next, in feature steps.", common=True
    )
    random_offsets: bool = _windows(
        False,
        "Whether each training window is shifted at random, anew each epoch, by 0 to --train_stride_steps - 1 steps.",
        common=True,
    )
    min_action_inside: float = _windows(
        0.9, "The share of an action that must lie inside a training window for the window to have the action."
    )
    max_actions: int = _windows(
        64, "The most actions that one training window may have; a window with more is an error."
    )
    normalize: bool = _windows(
        True,
        "Whether features are normalised with the mean and the deviation of each column of the training split.",
        modes=TRAINING,
    )

    time_scaling: float = _augmentation(
        0.0,
        "Training windows run up to this share faster or slower: with 0.25 at 0.75 to 1.25 times the speed; 0: none.",
    )
    axis_rotation: float = _augmentation(
        0.0,
        "The largest angle, in degrees, by which the axes of each sensor are turned in a training window; 0: none. It "
        "needs a dataset that declares its axes.",
    )
    signal_noise: float = _augmentation(
        0.0,
        "The standard deviation of noise that is added to the samples of the signal, in the signal's unit (HAPT: g); "
        "0: none. It needs a dataset that declares its signal.",
    )
    feature_noise: float = _augmentation(
        0.0,
        "The standard deviation of noise that is added to feature values, as a multiple of their column's own "
        "deviation, or with --nonormalize in the features' unit; 0: none.",
    )
    feature_dropout: float = _augmentation(
        0.0,
        "The share of feature columns that a training window sees the mean of (with --nonormalize 0) instead of their "
        "values; 0: none.",
    )

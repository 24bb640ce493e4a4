"""A label for every step of a recording, in the layout of MS-TCN; runs of a label become actions in seconds.

manual_dir/
    features/NAME.npy           [D, T], or a folder of features for each split (see ``Settings``)
    groundTruth/NAME.txt        a label on each line, one for each step
    mapping.txt                 NUMBER LABEL on each line
    splits/train.splitK.bundle  names of the recordings; test.splitK.bundle too
    settings.json               optional with a config that knows the dataset, see ``Settings``
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from a2net_tf.data import prepared, schema
from a2net_tf.data.files import annotation_files, feature_files, frame_labels
from a2net_tf.errors import UserError, list_some


@dataclasses.dataclass(frozen=True)
class Settings:
    """What settings.json may set.

    Attributes:
        feature_rate: vectors per second.
        label_rate: labels per second.
        background: labels that are no action.
        features: the folder of features below manual_dir; ``{split}`` in it stands for the number of a split, where
            each has features of its own.
        features_are: "D,T" as in MS-TCN, or "T,D".
        allow_missing: leave out recordings without features instead of refusing.
        extraction: how --mode=extract made the features; kept with the dataset.
    """

    feature_rate: float = 0.0
    label_rate: float = 0.0
    background: tuple[str, ...] = frame_labels.BACKGROUND
    features: str = "features"
    features_are: str = "D,T"
    allow_missing: bool = False
    extraction: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(eq=False, kw_only=True)
class FrameLabelsConfig(tfds.core.BuilderConfig):
    """What is known of a dataset, so that no settings.json is needed."""

    settings: Settings = Settings()


class Builder(prepared.FolderBuilder):
    """Builds the splits ``train_split1``, ``test_split1`` and so on, one per bundle."""

    # TFDS would guess both below a2net_tf/, but in a checkout datasets/ lies beside it.
    code_path = tfds.core.Path(__file__)
    pkg_dir_path = code_path.parent

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "manual_dir holds features/NAME.npy, groundTruth/NAME.txt, mapping.txt and splits/*.bundle; the dataset's "
        "README says what they look like."
    )
    BUILDER_CONFIGS = [
        FrameLabelsConfig(name="own", description="Rates in settings.json."),
        FrameLabelsConfig(
            name="50salads",
            description="50 Salads with the activations of a spatial CNN, 3 a second, of each split its own.",
            settings=Settings(feature_rate=3.0, label_rate=3.0, features="features_split{split}"),
        ),
        FrameLabelsConfig(
            name="50salads_i3d",
            description="50 Salads with the I3D features of MS-TCN, 30 a second.",
            settings=Settings(30.0, 30.0),
        ),
        FrameLabelsConfig(
            name="gtea", description="GTEA with the features of MS-TCN, 15 a second.", settings=Settings(15.0, 15.0)
        ),
        FrameLabelsConfig(
            name="breakfast",
            description="Breakfast with the features of MS-TCN, 15 a second.",
            settings=Settings(15.0, 15.0),
        ),
    ]

    def read_folder(self, folder: pathlib.Path) -> prepared.FolderContents:
        """Reads settings, labels and bundles, and finds the feature files."""
        settings = check_settings(feature_files.read_settings(folder, self.builder_config.settings), folder)
        names = frame_labels.read_mapping(folder / "mapping.txt")
        background = [label for label in settings.background if label in names]
        class_names = [label for label in names if label not in background]
        if not class_names:
            raise UserError(f"{folder / 'mapping.txt'}: every label is background ({list_some(names)})")
        labels = {
            name: frame_labels.read_labels(file, names)
            for name, file in sorted(frame_labels.find_labels(folder).items())
        }
        files = {
            split: find_features(folder, settings, number, recordings)
            for split, (number, recordings) in frame_labels.find_bundles(folder, labels.keys()).items()
        }
        num_features = size_of(next(file for of_split in files.values() for file in of_split.values()), settings)
        actions = {name: actions_of(of_steps, names, class_names) for name, of_steps in labels.items()}
        build = functools.partial(
            build_records, num_classes=len(class_names), num_features=num_features, settings=settings
        )
        splits = {
            split: [
                functools.partial(build, name, file, actions[name], len(labels[name])) for name, file in found.items()
            ]
            for split, found in files.items()
        }
        counts = {}
        for split, found in files.items():
            of_split = [[class_names[run.label] for run in actions[name]] for name in found]
            counts[split] = annotation_files.count_actions(of_split, class_names)
            print(f"frame_labels {split}: {annotation_files.describe_counts(counts[split])}")
        metadata = {"also_reported": {}, "counts": counts, "settings": dataclasses.asdict(settings)}
        return prepared.FolderContents(num_features, class_names, splits, {**metadata, "background": background})


def check_settings(settings: Settings, folder: pathlib.Path) -> Settings:
    """``settings`` if they make sense; raises UserError naming the key."""
    where = f"{folder / feature_files.SETTINGS_FILE}:"
    feature_files.check_choice(settings.features_are, ("D,T", "T,D"), f"{where} 'features_are'")
    for key in ("feature_rate", "label_rate"):
        if not 0 < getattr(settings, key) < math.inf:
            raise UserError(
                f"{where} '{key}' must be above 0: how many a second; found {getattr(settings, key):g} (or take a "
                "config that knows the dataset, such as --dataset=frame_labels/50salads)"
            )
    return settings


def find_features(
    folder: pathlib.Path, settings: Settings, number: str, recordings: list[str]
) -> dict[str, pathlib.Path]:
    """The feature files of a split by name of the recording; raises UserError if one is missing."""
    path = folder / settings.features.replace("{split}", number)
    files = {name: path / f"{name}.npy" for name in recordings}
    missing = [name for name, file in files.items() if not file.exists()]
    if missing and (len(missing) == len(files) or not settings.allow_missing):
        raise UserError(
            f"{path}: no features for {list_some(missing)}; looked for {files[missing[0]]} ('features' and "
            "'allow_missing' in settings.json)"
        )
    return {name: file for name, file in files.items() if name not in missing}


def size_of(file: pathlib.Path, settings: Settings) -> int:
    """D of a file; raises UserError if it holds no matrix."""
    shape = feature_files.read_features(file).shape
    if len(shape) != 2:
        raise UserError(f"{file}: expected a matrix [{settings.features_are}], found shape {list(shape)}")
    return int(shape[0 if settings.features_are == "D,T" else 1])


def actions_of(labels: np.ndarray, names: Sequence[str], class_names: Sequence[str]) -> list[frame_labels.Run]:
    """The runs of labels that are actions, by their class ids."""
    ids = {number: class_names.index(name) for number, name in enumerate(names) if name in class_names}
    return [run._replace(label=ids[run.label]) for run in frame_labels.runs(labels) if run.label in ids]


def build_records(
    name: str,
    file: pathlib.Path,
    actions: Sequence[frame_labels.Run],
    num_labels: int,
    *,
    num_classes: int,
    num_features: int,
    settings: Settings,
) -> list[dict]:
    """The record of one recording.

    Raises:
        UserError: its features are damaged, have another size, or last longer or shorter than its labels.
    """
    matrix = feature_files.read_features(file)
    features = np.ascontiguousarray(matrix.T) if settings.features_are == "D,T" else matrix
    features = schema.check_features(features, str(file), num_features)
    check_lengths(name, file, len(features), num_labels, settings)
    return [
        schema.make_record(
            name,
            features,
            np.array([(run.start, run.end) for run in actions], float).reshape(-1, 2) / settings.label_rate,
            [run.label for run in actions],
            num_classes=num_classes,
            feature_stride_seconds=1 / settings.feature_rate,
            first_step_seconds=0.0,
            duration_seconds=max(num_labels / settings.label_rate, len(features) / settings.feature_rate),
            source=file.name,
        )
    ]


def check_lengths(name: str, file: pathlib.Path, num_steps: int, num_labels: int, settings: Settings) -> None:
    """Raises UserError if features and labels differ by more than a step of the slower one."""
    seconds = num_steps / settings.feature_rate, num_labels / settings.label_rate
    if abs(seconds[0] - seconds[1]) > 1 / min(settings.feature_rate, settings.label_rate) + 1e-6:
        raise UserError(
            f"{file}: {num_steps} vectors at {settings.feature_rate:g} per second are {seconds[0]:.2f} s, but "
            f"groundTruth/{name}.txt has {num_labels} labels at {settings.label_rate:g} per second: {seconds[1]:.2f} "
            "s; wrong rates, or features that are [T, D] ('features_are')?"
        )

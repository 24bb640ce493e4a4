"""ActivityNet v1.3 (temporal action localization): a record per video, from the annotations and the user's features.

    anet_anno_action.json and video_info_new.csv, or ActivityNet's own activity_net.v1-3.min.json
    features/          v_NAME.npy or NAME.npy [T, D], or .csv with T rows of D numbers (a header row may stand above)
    settings.json      optional, see ``Settings``

The T vectors of a video share its whole duration equally, whatever their original stride was.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterable

import numpy as np
import tensorflow_datasets as tfds

from a2net_tf import safe_files
from a2net_tf.data import prepared, schema
from a2net_tf.data.files import annotation_files, feature_files
from a2net_tf.data.files.annotation_files import Entry
from a2net_tf.errors import UserError

SPLITS = ("training", "validation")

# In the order of their ids.
CLASS_NAMES = tuple(
    """
Applying sunscreen; Archery; Arm wrestling; Assembling bicycle; BMX; Baking cookies; Ballet; Bathing dog;
Baton twirling; Beach soccer; Beer pong; Belly dance; Blow-drying hair; Blowing leaves; Braiding hair; Breakdancing;
Brushing hair; Brushing teeth; Building sandcastles; Bullfighting; Bungee jumping; Calf roping; Camel ride; Canoeing;
Capoeira; Carving jack-o-lanterns; Changing car wheel; Cheerleading; Chopping wood; Clean and jerk; Cleaning shoes;
Cleaning sink; Cleaning windows; Clipping cat claws; Cricket; Croquet; Cumbia; Curling; Cutting the grass;
Decorating the Christmas tree; Disc dog; Discus throw; Dodgeball; Doing a powerbomb; Doing crunches; Doing fencing;
Doing karate; Doing kickboxing; Doing motocross; Doing nails; Doing step aerobics; Drinking beer; Drinking coffee;
Drum corps; Elliptical trainer; Fixing bicycle; Fixing the roof; Fun sliding down; Futsal; Gargling mouthwash;
Getting a haircut; Getting a piercing; Getting a tattoo; Grooming dog; Grooming horse; Hammer throw; Hand car wash;
Hand washing clothes; Hanging wallpaper; Having an ice cream; High jump; Hitting a pinata; Hopscotch;
Horseback riding; Hula hoop; Hurling; Ice fishing; Installing carpet; Ironing clothes; Javelin throw; Kayaking;
Kite flying; Kneeling; Knitting; Laying tile; Layup drill in basketball; Long jump; Longboarding; Making a cake;
Making a lemonade; Making a sandwich; Making an omelette; Mixing drinks; Mooping floor; Mowing the lawn; Paintball;
Painting; Painting fence; Painting furniture; Peeling potatoes; Ping-pong; Plastering; Plataform diving;
Playing accordion; Playing badminton; Playing bagpipes; Playing beach volleyball; Playing blackjack; Playing congas;
Playing drums; Playing field hockey; Playing flauta; Playing guitarra; Playing harmonica; Playing ice hockey;
Playing kickball; Playing lacrosse; Playing piano; Playing polo; Playing pool; Playing racquetball;
Playing rubik cube; Playing saxophone; Playing squash; Playing ten pins; Playing violin; Playing water polo;
Pole vault; Polishing forniture; Polishing shoes; Powerbocking; Preparing pasta; Preparing salad;
Putting in contact lenses; Putting on makeup; Putting on shoes; Rafting; Raking leaves; Removing curlers;
Removing ice from car; Riding bumper cars; River tubing; Rock climbing; Rock-paper-scissors; Rollerblading;
Roof shingle removal; Rope skipping; Running a marathon; Sailing; Scuba diving; Sharpening knives; Shaving;
Shaving legs; Shot put; Shoveling snow; Shuffleboard; Skateboarding; Skiing; Slacklining; Smoking a cigarette;
Smoking hookah; Snatch; Snow tubing; Snowboarding; Spinning; Spread mulch; Springboard diving; Starting a campfire;
Sumo; Surfing; Swimming; Swinging at the playground; Table soccer; Tai chi; Tango; Tennis serve with ball bouncing;
Throwing darts; Trimming branches or hedges; Triple jump; Tug of war; Tumbling; Using parallel bars;
Using the balance beam; Using the monkey bar; Using the pommel horse; Using the rowing machine; Using uneven bars;
Vacuuming floor; Volleyball; Wakeboarding; Walking the dog; Washing dishes; Washing face; Washing hands; Waterskiing;
Waxing skis; Welding; Windsurfing; Wrapping presents; Zumba
""".replace("\n", " ")
    .strip()
    .split("; ")
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What settings.json may set.

    Attributes:
        num_features: D; 0: as many as the first feature file has.
        max_clip_seconds: by how much an action may exceed its video; it is then clipped.
        allow_missing: leave out annotated videos without features instead of refusing.
    """

    num_features: int = 0
    max_clip_seconds: float = annotation_files.MAX_CLIP_SECONDS
    allow_missing: bool = False


@dataclasses.dataclass(eq=False, kw_only=True)
class ActivityNetConfig(tfds.core.BuilderConfig):
    """``num_steps``: to which every video is resized; 0: as many as its file has."""

    num_steps: int


class Builder(prepared.FolderBuilder):
    """Builds the splits training and validation."""

    # TFDS would guess both below a2net_tf/, but in a checkout datasets/ lies beside it.
    code_path = tfds.core.Path(__file__)
    pkg_dir_path = code_path.parent

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    HOMEPAGE = "http://activity-net.org/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put the annotations (activity_net.v1-3.min.json from http://activity-net.org/download.html, or "
        "anet_anno_action.json and video_info_new.csv) and a folder features/ with one .npy or .csv file per video "
        "into manual_dir."
    )
    BUILDER_CONFIGS = [
        ActivityNetConfig(
            name="resized128", description="Every video linearly resized to 128 steps, one window.", num_steps=128
        ),
        ActivityNetConfig(name="original", description="As many steps as the feature file has.", num_steps=0),
    ]

    def read_folder(self, folder: pathlib.Path) -> prepared.FolderContents:
        """Reads settings and annotations, and finds the feature files."""
        settings = check_settings(feature_files.read_settings(folder, Settings()), folder)
        entries = read_annotations(folder)
        files = find_features(folder / "features", entries)
        num_features = settings.num_features or feature_files.find_num_features(list(files.values()))
        print(f"activitynet13: features of {len(files)} annotated videos, {num_features} values per step")
        names, where = [entry.name for entry in entries], str(folder / "features")
        annotation_files.check_missing(names, files, allow_missing=settings.allow_missing, where=where)
        clip = settings.max_clip_seconds
        chosen, counts = annotation_files.choose_entries(
            entries, files, CLASS_NAMES, splits=SPLITS, dataset="activitynet13", max_clip_seconds=clip
        )
        size = {"num_features": num_features, "num_steps": self.builder_config.num_steps}
        splits = {
            split: [functools.partial(build_records, entry, files[entry.name], **size) for entry in of_split]
            for split, of_split in chosen.items()
        }
        metadata = {"also_reported": {}, "counts": counts, "settings": dataclasses.asdict(settings)}
        return prepared.FolderContents(num_features, CLASS_NAMES, splits, metadata)


def check_settings(settings: Settings, folder: pathlib.Path) -> Settings:
    """``settings`` if they make sense; raises UserError."""
    if settings.num_features < 0 or not 0 <= settings.max_clip_seconds < math.inf:
        raise UserError(
            f"{folder / feature_files.SETTINGS_FILE}: 'num_features' and 'max_clip_seconds' must be >= 0, found "
            f"{settings.num_features} and {settings.max_clip_seconds:g}"
        )
    return settings


# Annotations


def read_annotations(folder: pathlib.Path) -> list[Entry]:
    """The videos of the training and validation subsets, named as ActivityNet does (without ``v_``), sorted by name.

    Raises:
        UserError: no annotations in ``folder``, or they are damaged, or have other classes.
    """
    own = sorted(folder.glob("activity_net*.json"))
    if (folder / "anet_anno_action.json").exists():
        file, entries = folder / "anet_anno_action.json", read_converted(folder)
    elif own:
        file, entries = own[0], annotation_files.read_database(own[0])
    else:
        raise UserError(
            f"manual_dir={folder}: no annotations; looked for anet_anno_action.json with video_info_new.csv, and for "
            "activity_net*.json (ActivityNet's own)"
        )
    entries = [dataclasses.replace(e, name=short_name(e.name)) for e in entries if e.subset in SPLITS]
    entries.sort(key=lambda entry: entry.name)
    annotation_files.check_labels(entries, CLASS_NAMES, str(file))
    for entry in entries:
        if not 0 < entry.duration_seconds < math.inf:
            raise UserError(f"{file}: video '{entry.name}' lasts {entry.duration_seconds:g} s, expected more than 0")
    return entries


def read_converted(folder: pathlib.Path) -> list[Entry]:
    """The videos of anet_anno_action.json, with their subsets from video_info_new.csv."""
    file, info_file = folder / "anet_anno_action.json", folder / "video_info_new.csv"
    hint = "it says which videos are for training"
    info = safe_files.read_table(info_file, ("video", "subset"), hint=hint)
    subsets = {row["video"]: row["subset"] for _, row in info}
    database = safe_files.read_json_object(file)
    for name, fields in database.items():
        if name not in subsets:
            raise UserError(f"{file}: video '{name}' has no row in {info_file}")
        database[name] = {**safe_files.check_kind(fields, dict, f"{file}: video '{name}'"), "subset": subsets[name]}
    return annotation_files.read_entries(database, str(file), duration_key="duration_second")


def short_name(name: str) -> str:
    """A video's name without the ``v_`` that many files put before it (the names themselves have 11 characters)."""
    return name[2:] if len(name) == 13 and name.startswith("v_") else name


# Features


def find_features(folder: pathlib.Path, entries: Iterable[Entry]) -> dict[str, pathlib.Path]:
    """The feature files of annotated videos; raises UserError if there is none, or two for one video."""
    known, files = {entry.name for entry in entries}, {}
    for name, file in feature_files.find_feature_files(folder, (".npy", ".csv")).items():
        video = short_name(name)
        if video in files:
            raise UserError(f"{file}: {files[video]} is there as well; which of them are the features?")
        if video in known:
            files[video] = file
    if not files:
        raise UserError(
            f"{folder}: no features of an annotated video; looked for v_NAME.npy, NAME.npy [T, D], v_NAME.csv and "
            f"NAME.csv here and in the folders here; what is there: {feature_files.describe_files(folder)}"
        )
    return files


def build_records(entry: Entry, file: pathlib.Path, *, num_features: int, num_steps: int) -> list[dict]:
    """The record of one video; raises UserError if its feature file is damaged or has another size."""
    features = schema.check_features(feature_files.read_features(file), str(file), num_features)
    if num_steps:
        features = feature_files.resize_linear(features, num_steps)
    return [
        schema.make_record(
            entry.name,
            features,
            np.array([action[:2] for action in entry.actions]),
            [CLASS_NAMES.index(action.label) for action in entry.actions],
            num_classes=len(CLASS_NAMES),
            feature_stride_seconds=entry.duration_seconds / len(features),
            duration_seconds=entry.duration_seconds,
            source=file.name,
        )
    ]

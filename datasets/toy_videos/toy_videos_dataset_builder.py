"""Rendered films with six kinds of actions, for trying the way from video files to detections: nothing to download.

Preparing renders the films, makes features of them as ``--mode=extract`` does, and reads those as ``feature_folder``
does. Films and features stay beside what is prepared:

data_dir/toy_videos/full/
    films-1.0.0/        NAME.mp4 and annotations.json
    features-1.0.0/     NAME.npy, settings.json and annotations.json: a folder that ``feature_folder`` takes, too
    1.0.0/              the records
"""

import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import tensorflow_datasets as tfds

from a2net_tf import safe_files, settings
from a2net_tf.data import prepared, schema
from a2net_tf.datasets.feature_folder import feature_folder_dataset_builder as feature_folder
from a2net_tf.datasets.toy_videos import films, scenes
from a2net_tf.video.extract_videos import extract_videos
from a2net_tf.video.extractors import efficientnet_lite0
from a2net_tf.video.flow_clips import NUM_STATISTICS
from a2net_tf.video.video_files import find_videos

FEATURES_PER_SECOND = 10.0  # five in the shortest action
NUM_FEATURES = efficientnet_lite0.NUM_FEATURES + NUM_STATISTICS  # of a frame, and of the flow to it


class Builder(prepared.RecordBuilder):
    """Builds the splits train, validation and test; ``toy_videos/tiny`` is four films of seconds, for tests."""

    # TFDS would guess both below a2net_tf/, but in a checkout datasets/ lies beside it.
    code_path = tfds.core.Path(__file__)
    pkg_dir_path = code_path.parent

    VERSION = tfds.core.Version(films.VERSION)
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="full", description="Films of about a minute: enough to learn from."),
        tfds.core.BuilderConfig(name="tiny", description="Four films of a few seconds, for tests."),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        features = schema.record_features(NUM_FEATURES, scenes.CLASS_NAMES, self.stored_features)
        return self.dataset_info_from_configs(features=features, metadata=tfds.core.MetadataDict())

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        contents = feature_folder.read_folder(
            make_features(self.builder_config.name, pathlib.Path(self.data_path.parent))
        )
        self.info.metadata.update(contents.metadata)
        return {split: self._generate_examples(videos) for split, videos in contents.splits.items()}

    def _generate_examples(self, videos: Sequence[Callable[[], Iterable[dict]]]) -> Iterator[tuple[str, dict]]:
        for read_video in videos:
            for record in read_video():
                yield from self.store(record)


def make_features(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Renders a collection of films and extracts their features, both below ``folder``; what is there is kept.

    Args:
        name: of ``films.COLLECTIONS``.
        folder: that films and features get folders in.

    Returns:
        The folder of the features, with annotations.

    Raises:
        UserError: PyAV, OpenCV or the weights are missing, or a folder cannot be written or holds something else.
    """
    videos, features = folder / f"films-{films.VERSION}", folder / f"features-{films.VERSION}"
    all_scenes = films.write_films(films.COLLECTIONS[name], videos)
    print(f"the films: {videos}")
    safe_files.write_json(features / films.ANNOTATIONS_FILE, films.annotations(all_scenes))
    how = {"motion": "flow_statistics", "flow": "dis", "frame_rate": FEATURES_PER_SECOND, "stored_features": "float16"}
    extract_videos(settings.from_dict({"videos": str(videos), **how}), find_videos(str(videos)), features)
    return features

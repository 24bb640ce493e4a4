"""``--mode=extract``: videos become files of features, in a folder that ``--dataset=feature_folder`` takes."""

from a2net_tf import settings
from a2net_tf.settings import Config
from a2net_tf.video.extract_videos import extract_videos
from a2net_tf.video.video_files import find_videos


def extract(config: Config) -> None:
    """Writes the features of ``config.videos`` to ``config.output``. What is done already is not done again.

    Raises:
        UserError: settings that cannot be, a folder that was extracted with others, or, when all else is done, videos
            that could not be extracted.
    """
    settings.require(config, "videos", "output")
    folder = extract_videos(config, find_videos(config.videos), config.output)
    print(f"written: features of all videos (--dataset=feature_folder --manual_dir={folder})")

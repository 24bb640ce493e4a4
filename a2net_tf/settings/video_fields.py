"""Settings of how features are made from videos."""

import dataclasses
import functools

from a2net_tf.settings.setting import setting

_video = functools.partial(setting, section="video", modes=("extract", "train", "train_and_evaluate", "predict"))


@dataclasses.dataclass(frozen=True)
class VideoFields:
    """The fourth part of ``Config``."""

    videos: str = _video(
        "",
        "The videos to extract features from: a file, a folder with folders, or a .txt file with a path on each line. "
        "A training on them extracts first, below --workdir; predict makes features as those that the model was "
        "trained on. evaluate and report play them, or recordings of sound, beside the time lines in the browser.",
        modes=("extract", "train", "train_and_evaluate", "predict", "evaluate", "report"),
        common=True,
    )
    annotations: str = _video(
        "",
        "The actions in --videos: a JSON file in ActivityNet's form, or a file or folder as ELAN, BORIS, Label Studio "
        "and others write them; empty: the only .json file in their folder.",
        modes=("train", "train_and_evaluate"),
        common=True,
    )
    annotated_video: str = _video(
        "",
        "The .mp4 file to write: the one video of --videos with its detections drawn on it, from --subtitle_score on; "
        "empty: none.",
        modes=("predict",),
        common=True,
    )
    extractor: str = _video(
        "efficientnet_lite0",
        "The network that makes a vector of frames: efficientnet_lite0 (weights come with the extra [video]), i3d "
        "(RGB with --extractor_weights, optical flow with --flow_weights, or both), keras:NAME (of "
        "keras.applications, which downloads its weights) or saved_model:PATH (your own); or none: frames, whose "
        "vectors are the pixels themselves, for --backbone=c3d.",
        common=True,
    )
    extractor_weights: str = _video(
        "",
        "The weights of i3d for RGB: a checkpoint of DeepMind's kinetics-i3d, such as rgb_imagenet/model.ckpt, or the "
        ".pt file of its port to PyTorch.",
        common=True,
    )
    flow_weights: str = _video(
        "",
        "The weights of i3d for optical flow, in the same forms, such as flow_imagenet/model.ckpt; with those for RGB "
        "as well a vector holds both, RGB first.",
        common=True,
    )
    frame_rate: float = _video(
        0.0,
        "The frames per second that are taken of every video, by their true times, whatever its own rate; 0: those "
        "that the extractor asks for, 5 where it looks at single frames, else 25.",
        common=True,
    )
    motion: str = _video(
        "none",
        "What is put beside the vectors of single frames, which see no motion: nothing, what has changed since the "
        "vector before (difference), which doubles their size, or 80 values of the optical flow since the frame before "
        "(flow_statistics).",
        common=True,
        choices=("none", "difference", "flow_statistics"),
    )
    flow: str = _video(
        "tvl1",
        "How optical flow is computed: by TV-L1, as that which i3d was trained on, or more than ten times as fast, but "
        "differently, by DIS or Farneback.",
        choices=("tvl1", "dis", "farneback"),
    )
    flow_values: str = _video(
        "8bit",
        "What i3d gets of optical flow: whole numbers of 0 to 255 for -20 to 20 pixels, as the released features were "
        "made, or the same range without rounding (float).",
        choices=("8bit", "float"),
    )
    frame_stride: int = _video(
        0, "The number of frames, at --frame_rate, from one vector to the next; 0: as many as the extractor asks for."
    )
    frame_fit: str = _video(
        "squash",
        "How a frame becomes square: all of it with its sides squashed, as the authors did, the largest square in its "
        "middle (crop), or of that the middle 7/8, as DeepMind did (center).",
        choices=("squash", "crop", "center"),
    )
    frame_size: int = _video(
        224,
        "The height and width of frames in pixels, for frames, keras:NAME and saved_model:PATH; the others have their "
        "own.",
    )
    clip_frames: int = _video(1, "The number of frames that saved_model:PATH looks at for one vector.")
    input_range: str = _video(
        "0..1",
        "What saved_model:PATH expects the values of frames to lie in.",
        choices=("0..1", "-1..1", "0..255"),
    )
    signature: str = _video("serving_default", "The signature of saved_model:PATH to call.")

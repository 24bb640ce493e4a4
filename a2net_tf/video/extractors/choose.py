"""From the settings to the extractor that they name."""

from a2net_tf.errors import UserError
from a2net_tf.settings import Config
from a2net_tf.video.extractors import efficientnet_lite0, frames, i3d_weights, keras_applications, saved_model
from a2net_tf.video.extractors.extractor import Extractor


def open_extractor(config: Config, precision: str) -> Extractor:
    """The extractor of ``config.extractor``, with its weights.

    Args:
        config: of --mode=extract.
        precision: float32, bfloat16 or float16.

    Raises:
        UserError: there is no such extractor, or it cannot be made as the settings say.
    """
    kind, _, name = config.extractor.partition(":")
    if config.extractor == "efficientnet_lite0":
        return efficientnet_lite0.open_extractor(precision)
    if config.extractor == "i3d":
        if not (config.extractor_weights or config.flow_weights):
            raise UserError(
                "--extractor=i3d needs --extractor_weights, --flow_weights or both: no package brings its weights along"
            )
        return i3d_weights.open_extractor(config.extractor_weights, config.flow_weights, precision)
    if config.flow_weights:
        raise UserError(f"--flow_weights: of i3d's stream of optical flow; --extractor={config.extractor} has none")
    if config.extractor == "frames":
        return frames.open_extractor(config.frame_size)
    if kind == "keras" and name:
        return keras_applications.open_extractor(name, precision, size=config.frame_size)
    if kind == "saved_model" and name:
        return saved_model.open_extractor(
            name,
            signature=config.signature,
            clip_frames=config.clip_frames,
            stride_frames=config.frame_stride,
            size=config.frame_size,
            input_range=config.input_range,
        )
    raise UserError(
        f"--extractor={config.extractor}: expected efficientnet_lite0, i3d, frames, keras:NAME or saved_model:PATH"
    )

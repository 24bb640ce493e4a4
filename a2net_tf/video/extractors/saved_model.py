"""A SavedModel of the user as an extractor: frames or clips in, vectors out."""

import hashlib
import pathlib
from collections.abc import Callable

import tensorflow as tf

from a2net_tf import safe_files
from a2net_tf.errors import UserError, reason_of
from a2net_tf.video.extractors.extractor import Extractor

RANGES = ("0..1", "-1..1", "0..255")


def open_extractor(
    path: str, *, signature: str, clip_frames: int, stride_frames: int, size: int, input_range: str
) -> Extractor:
    """The extractor.

    Args:
        path: the directory of the SavedModel.
        signature: with one input, frames [N, size, size, 3] or clips [N, clip_frames, size, size, 3], floats or u8, and
            one output [N, D].
        clip_frames: frames that it looks at for one vector.
        stride_frames: from one clip to the next.
        size: height and width of frames.
        input_range: of ``RANGES``, what the values of its input lie in.

    Raises:
        UserError: no SavedModel there, no such signature, or it does not take or give these shapes.
    """
    where = f"--extractor=saved_model:{path}"
    if letters := safe_files.pattern_letters(path):
        raise UserError(
            f"{where}: TensorFlow cannot open a SavedModel whose path has {' and '.join(letters)}; rename it"
        )
    if not (pathlib.Path(path) / "saved_model.pb").is_file():
        raise UserError(f"{where}: no SavedModel there (a directory with saved_model.pb)")
    try:
        model = tf.saved_model.load(path)
    except Exception as error:  # a damaged file makes TensorFlow raise anything
        raise UserError(f"{where}: cannot be loaded: {reason_of(error)}") from None
    if signature not in model.signatures:
        raise UserError(
            f"{where}: no signature '{signature}' (--signature); have {', '.join(model.signatures) or 'none'}"
        )
    network = _network(model, signature, (clip_frames, size, size, 3), where)
    try:
        shape = network(tf.zeros((1, clip_frames, size, size, 3))).shape
    except Exception as error:  # what the model itself says about a clip
        told = f"fails on {clip_frames} frames of {size} x {size} (--clip_frames, --frame_size)"
        raise UserError(f"{where}: '{signature}' {told}: {reason_of(error, 300)}") from None
    if len(shape) != 2:
        raise UserError(f"{where}: '{signature}' gives {list(shape)} for one clip; expected one vector [1, D]")
    return Extractor(
        name=f"saved_model:{pathlib.Path(path).name}",
        origin=_digest(pathlib.Path(path)),
        frame_rate=5.0 if clip_frames == 1 else 25.0,
        clip_frames=clip_frames,
        stride_frames=stride_frames or max(1, clip_frames // 4),
        size=size,
        num_features=shape[1],
        preprocess=lambda clips: _into_range(clips, input_range),
        network=network,
    )


def _network(model: tf.Module, signature: str, clip: tuple[int, ...], where: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """The signature as a function of clips of this shape. It holds ``model``: else its variables would be gone."""
    function = model.signatures[signature]
    inputs, outputs = function.structured_input_signature[1], function.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(
            f"{where}: '{signature}' must have one input and one output; it has {', '.join(inputs)} and "
            f"{', '.join(outputs)}"
        )
    ((name, spec),) = inputs.items()
    takes_frames = clip[0] == 1 and spec.shape.rank == 4
    expected = (None, *(clip[1:] if takes_frames else clip))
    if not spec.shape.is_compatible_with(expected):
        raise UserError(
            f"{where}: '{signature}' takes {spec.shape}, which {clip[0]} frames of {clip[1]} x {clip[2]} do not fit "
            "(--clip_frames, --frame_size; the order is [N, frames, height, width, 3])"
        )

    def network(clips: tf.Tensor, model: tf.Module = model) -> tf.Tensor:
        clips = clips[:, 0] if takes_frames else clips
        clips = tf.cast(tf.round(clips) if spec.dtype.is_integer else clips, spec.dtype)
        return next(iter(function(**{name: clips}).values()))

    return network


def _into_range(clips: tf.Tensor, input_range: str) -> tf.Tensor:
    """Values of 0 to 255 in another range."""
    low, high = map(float, input_range.split(".."))
    return clips * ((high - low) / 255.0) + low


def _digest(folder: pathlib.Path) -> str:
    """Names the content of a SavedModel: another one under the same path makes other features."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
        for part in safe_files.read_parts(file):
            digest.update(part)
    return f"sha256 {digest.hexdigest()[:16]}"

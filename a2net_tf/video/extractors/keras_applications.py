"""The image networks of keras.applications as extractors: ImageNet vectors of single frames."""

import contextlib
import types
from collections.abc import Iterator

import keras

from a2net_tf.errors import UserError, list_some
from a2net_tf.video.extractors.extractor import Extractor, of_single_frames


def open_extractor(name: str, precision: str, *, size: int, weights: str | None = "imagenet") -> Extractor:
    """The extractor, whose weights Keras downloads at the first use.

    Args:
        name: of the network, such as EfficientNetV2B0.
        precision: float32, bfloat16 or float16: the type of weights and computation.
        size: height and width of frames.
        weights: as Keras takes them; None: random ones.

    Raises:
        UserError: there is no such network, or its weights cannot be had.
    """
    module = _module_of(name)
    try:
        with _dtype_policy(precision):
            network = getattr(module, name)(
                include_top=False, weights=weights, input_shape=(size, size, 3), pooling="avg"
            )
    except Exception as error:  # no connection, a size that the network cannot have, ...
        raise UserError(f"--extractor=keras:{name} with --frame_size={size}: {_first_line(error)}") from None
    return Extractor(
        name=f"keras:{name}",
        origin=f"keras.applications, {weights or 'random'} weights",
        frame_rate=5.0,
        clip_frames=1,
        stride_frames=1,
        size=size,
        num_features=network.output_shape[-1],
        preprocess=module.preprocess_input,
        network=of_single_frames(network),
    )


def _module_of(name: str) -> types.ModuleType:
    """The module of a network, which also has what prepares its frames. keras.applications itself has no such thing."""
    modules = [m for m in vars(keras.applications).values() if isinstance(m, types.ModuleType)]
    networks = {
        each: module
        for module in modules
        if hasattr(module, "preprocess_input")
        for each in vars(module)
        if each[:1].isupper()
    }
    if name not in networks:
        raise UserError(
            f"--extractor=keras:{name}: no such network in keras.applications; have {list_some(networks, 50)}"
        )
    return networks[name]


@contextlib.contextmanager
def _dtype_policy(precision: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]

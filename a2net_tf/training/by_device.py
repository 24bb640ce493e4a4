"""What training does by itself where there is a GPU, and not on a CPU.

XLA compiles the step, sums may come in any order, the next batch is copied while the last one is computed, in 16 bits
where that changes no number, and the loss is read once in a while, because reading it waits for the GPU.
"""

import dataclasses

import tensorflow as tf

from a2net_tf import settings
from a2net_tf.detection.precision import AUTO
from a2net_tf.settings import Config

_STEPS_PER_LOOK = {"CPU": 1, "GPU": 16}


def kind() -> str:
    """GPU where there is one, else CPU."""
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def is_deterministic(asked: bool | str, device: str) -> bool:
    """Whether operations are deterministic: as ``asked``, and where that is auto unless the ``device`` is a GPU."""
    return device != "GPU" if asked == AUTO else asked


def resolve(config: Config, device: str) -> Config:
    """The settings with jit_compile and deterministic decided; auto compiles on a GPU where nothing rules it out.

    Args:
        config: all settings.
        device: of ``kind``.

    Raises:
        UserError: what is set contradicts what the device decides.
    """
    deterministic, compiles = is_deterministic(config.deterministic, device), config.jit_compile
    if compiles == AUTO:
        cannot_draw = config.drops_in_step and config.distribute != "none"
        compiles = device == "GPU" and not deterministic and not cannot_draw
    resolved = dataclasses.replace(config, jit_compile=compiles, deterministic=deterministic)
    settings.check(resolved)
    return resolved


def announce(asked: Config, resolved: Config) -> None:
    """Prints what auto has become, where that is not what a CPU does.

    Args:
        asked: the settings.
        resolved: of ``resolve``, or recorded in a run that goes on.
    """
    if asked.jit_compile == AUTO and resolved.jit_compile:
        print("compiling the training step with XLA (--jit_compile=auto), a minute or more: --nojit_compile does not")
    if asked.deterministic == AUTO and not resolved.deterministic:
        print("runs with equal seeds differ by rounding (--deterministic=auto)")


def steps_per_look(device: str) -> int:
    """How many steps are made from one look at the loss to the next."""
    return _STEPS_PER_LOOK[device]


def narrow_type(config: Config, device: str) -> str:
    """The type in which float32 features may go to the device without a change of any result; "": all as on a CPU.

    Unless it is "", features that are stored in 16 bits may keep them: float32 holds all of their numbers.

    Args:
        config: resolved, the precision too.
        device: of ``kind``.
    """
    if device != "GPU":
        return ""
    # Both compute on features in float32; without them the first convolution begins with this cast.
    used_in_float32 = config.normalize or config.input_dropout
    return "float32" if used_in_float32 else config.precision


def prefetched(batches: tf.data.Dataset, device: str, name: str = "/GPU:0") -> tf.data.Dataset:
    """The same batches, of which two lie on the GPU before they are asked for; unchanged on a CPU.

    For one device: strategies for several copy ahead by themselves.
    """
    return batches.apply(tf.data.experimental.prefetch_to_device(name, 2)) if device == "GPU" else batches

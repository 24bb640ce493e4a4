"""The type that the network computes in: what --precision=auto becomes on this device, what an emulated type costs."""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

AUTO = "auto"
# Flags of a processor in /proc/cpuinfo, each of which says that it multiplies numbers of the type in hardware.
_CPU_FLAGS = {"bfloat16": {"avx512_bf16", "amx_bf16"}, "float16": {"avx512_fp16", "amx_fp16"}}
_CPU_NAMES = {"bfloat16": "AVX512-BF16 or AMX", "float16": "AVX512-FP16 or AMX-FP16"}
# Values of ONEDNN_MAX_CPU_ISA that keep oneDNN, which multiplies for TensorFlow, below the instructions of the type.
_BELOW_AVX512 = {"sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2"}
_HELD_BACK = {"bfloat16": _BELOW_AVX512 | {"avx512_core", "avx512_core_vnni"}}
_HELD_BACK["float16"] = _HELD_BACK["bfloat16"] | {"avx512_core_bf16"}
_GPU_CAPABILITY = {"bfloat16": (8, 0), "float16": (7, 0)}  # the least with tensor cores for the type


def resolve(precision: str) -> str:
    """The type to compute in: for auto bfloat16 where this device has it in hardware, else float32."""
    if precision != AUTO:
        return precision
    return "bfloat16" if is_native("bfloat16") else "float32"


def announce(asked: str, chosen: str) -> None:
    """Prints what auto has become, and a warning if this device emulates what is computed in.

    Args:
        asked: the setting.
        chosen: of ``resolve``, or recorded in a run that goes on.
    """
    if asked == AUTO:
        print(f"computing in {chosen} (--precision=auto)")
    if not is_native(chosen):
        print(f"warning: {_emulation(chosen)}")


def is_native(precision: str) -> bool:
    """Whether this device has bfloat16, float16 or float32 in hardware; of several GPUs, each of them."""
    if precision == "float32":
        return True
    if tf.config.list_physical_devices("TPU"):
        return precision == "bfloat16"
    if gpus := tf.config.list_physical_devices("GPU"):
        return all(gpu_has(precision, tf.config.experimental.get_device_details(gpu)) for gpu in gpus)
    return cpu_has(precision, _read_cpuinfo(), os.environ)


def gpu_has(precision: str, details: Mapping[str, Any]) -> bool:
    """Whether a GPU of these ``get_device_details`` has the type in hardware; False if they do not say."""
    return details.get("compute_capability", (0, 0)) >= _GPU_CAPABILITY[precision]


def cpu_has(precision: str, cpuinfo: str, environment: Mapping[str, str]) -> bool:
    """Whether TensorFlow computes in the type in a processor's hardware.

    Args:
        precision: bfloat16 or float16.
        cpuinfo: text of Linux's /proc/cpuinfo; what is no x86 processor is taken for one without the type.
        environment: variables that switch oneDNN off or keep it from using what the processor has.
    """
    allowed = _uses_onednn(environment) and _isa_limit(environment) not in _HELD_BACK[precision]
    return allowed and bool(_CPU_FLAGS[precision] & _flags(cpuinfo))


def emulation_factor(precision: str, cpuinfo: str, environment: Mapping[str, str]) -> int:
    """How many times as long as in float32 a training with an emulated type takes on a processor, roughly.

    Measured with configs/hapt_modern.flags: bfloat16 9 on AVX2, 2 where oneDNN emulates it with AVX-512; float16 5.

    Args: see ``cpu_has``.
    """
    if precision == "float16":
        return 5
    return 2 if has_avx512(cpuinfo, environment) and _uses_onednn(environment) else 9


def uses_avx512() -> bool:
    """Whether this processor has AVX-512 and oneDNN, which multiplies for TensorFlow, may use it."""
    return has_avx512(_read_cpuinfo(), os.environ)


def has_avx512(cpuinfo: str, environment: Mapping[str, str]) -> bool:
    """Whether a processor has AVX-512 and oneDNN may use it; see ``cpu_has``."""
    return "avx512f" in _flags(cpuinfo) and _isa_limit(environment) not in _BELOW_AVX512


def _emulation(precision: str) -> str:
    if tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU"):
        return f"{precision} is emulated on this device, which has no hardware for it: expect a slow computation"
    factor = emulation_factor(precision, _read_cpuinfo(), os.environ)
    return (
        f"{precision} is emulated on this processor (no {_CPU_NAMES[precision]}): expect about {factor} times the time "
        "of float32"
    )


def _read_cpuinfo() -> str:
    """Empty on systems other than Linux."""
    path = pathlib.Path("/proc/cpuinfo")
    return path.read_text(errors="replace") if path.exists() else ""


def _flags(cpuinfo: str) -> set[str]:
    """Of the first processor."""
    line = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    return set(line.group(1).split()) if line else set()


def _uses_onednn(environment: Mapping[str, str]) -> bool:
    return environment.get("TF_ENABLE_ONEDNN_OPTS", "").lower() not in ("0", "false")


def _isa_limit(environment: Mapping[str, str]) -> str:
    """The instructions that oneDNN is limited to; empty: all. Its name was DNNL before."""
    return (environment.get("ONEDNN_MAX_CPU_ISA") or environment.get("DNNL_MAX_CPU_ISA") or "").lower()

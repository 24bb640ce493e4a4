import pytest
import tensorflow as tf

from a2net_tf.detection import precision
from a2net_tf.detection.model import build_model

X86 = "processor : 0\nflags\t\t: fpu sse avx avx2 {}\nbugs\t\t: spectre\n\nprocessor : 1\n"
OLD = X86.format("fma")
AVX512 = X86.format("avx512f avx512_vnni")
BF16 = X86.format("avx512f avx512_vnni avx512_bf16")
AMX = X86.format("avx512f avx512_bf16 avx512_fp16 amx_bf16 amx_tile")
ARM = "processor : 0\nFeatures\t: fp asimd bf16 i8mm\n"
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS")

on_a_cpu = pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="a GPU is asked before the CPU")


@pytest.mark.parametrize(
    ("cpuinfo", "environment", "expected"),
    [
        (OLD, {}, False),
        (AVX512, {}, False),
        (BF16, {}, True),
        (AMX, {}, True),
        (ARM, {}, False),
        ("", {}, False),  # Windows and macOS have no such file
        (BF16, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, False),
        (BF16, {"ONEDNN_MAX_CPU_ISA": "avx512_core"}, False),
        (BF16, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, False),
        (BF16, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, True),
        (BF16, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, True),
        (BF16, {"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, True),
        (BF16, {"ONEDNN_MAX_CPU_ISA": ""}, True),
        (BF16, {"DNNL_MAX_CPU_ISA": "AVX2_VNNI"}, False),
        (BF16, {"ONEDNN_MAX_CPU_ISA": "ALL", "DNNL_MAX_CPU_ISA": "AVX2"}, True),
        (BF16, {"TF_ENABLE_ONEDNN_OPTS": "0"}, False),
        (BF16, {"TF_ENABLE_ONEDNN_OPTS": "1"}, True),
        (OLD, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, False),
    ],
)
def test_which_processors_have_bfloat16(cpuinfo, environment, expected):
    assert precision.cpu_has("bfloat16", cpuinfo, environment) is expected


@pytest.mark.parametrize(
    ("cpuinfo", "limit", "expected"),
    [(BF16, "", False), (AMX, "", True), (AMX, "AVX512_CORE_BF16", False), (AMX, "AVX512_CORE_FP16", True)],
)
def test_which_processors_have_float16(cpuinfo, limit, expected):
    assert precision.cpu_has("float16", cpuinfo, {"ONEDNN_MAX_CPU_ISA": limit}) is expected


@pytest.mark.parametrize(
    ("details", "bfloat16", "float16"),
    [
        ({"compute_capability": (9, 0)}, True, True),
        ({"compute_capability": (8, 0)}, True, True),
        ({"compute_capability": (7, 5)}, False, True),
        ({"compute_capability": (6, 1)}, False, False),
        ({"device_name": "unknown"}, False, False),
    ],
)
def test_which_gpus_have_what(details, bfloat16, float16):
    assert precision.gpu_has("bfloat16", details) is bfloat16
    assert precision.gpu_has("float16", details) is float16


@pytest.mark.parametrize(
    ("name", "cpuinfo", "limit", "factor"),
    [
        ("bfloat16", OLD, "", 9),
        ("bfloat16", AVX512, "", 2),
        ("bfloat16", BF16, "AVX512_CORE", 2),
        ("bfloat16", BF16, "AVX2", 9),
        ("bfloat16", BF16, "oneDNN off", 9),
        ("float16", BF16, "", 5),
    ],
)
def test_what_emulation_costs(name, cpuinfo, limit, factor):
    environment = {"TF_ENABLE_ONEDNN_OPTS": "0"} if limit == "oneDNN off" else {"ONEDNN_MAX_CPU_ISA": limit}
    assert precision.emulation_factor(name, cpuinfo, environment) == factor


@pytest.fixture
def processor(monkeypatch):
    """Makes this machine's processor another one, with these variables of the environment."""

    def change(cpuinfo, **environment):
        monkeypatch.setattr(precision, "_read_cpuinfo", lambda: cpuinfo)
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return change


@on_a_cpu
def test_auto_is_bfloat16_where_the_processor_has_it(processor, capsys):
    processor(BF16)
    assert precision.resolve("auto") == "bfloat16"
    precision.announce("auto", "bfloat16")
    assert capsys.readouterr().out == "computing in bfloat16 (--precision=auto)\n"


@on_a_cpu
@pytest.mark.parametrize("environment", [{"ONEDNN_MAX_CPU_ISA": "Avx2"}, {"TF_ENABLE_ONEDNN_OPTS": "0"}])
def test_auto_is_float32_where_the_environment_keeps_it_back(processor, capsys, environment):
    processor(BF16, **environment)
    assert precision.resolve("auto") == "float32"
    precision.announce("auto", "float32")
    assert capsys.readouterr().out == "computing in float32 (--precision=auto)\n"


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
def test_what_is_asked_for_is_computed_in(asked):
    assert precision.resolve(asked) == asked


WARNING = "warning: {} is emulated on this processor (no {}): expect about {} times the time of float32"


@on_a_cpu
@pytest.mark.parametrize(
    ("cpuinfo", "asked", "chosen", "lines"),
    [
        (BF16, "bfloat16", "bfloat16", []),
        (OLD, "float32", "float32", []),
        (OLD, "bfloat16", "bfloat16", [WARNING.format("bfloat16", "AVX512-BF16 or AMX", 9)]),
        (BF16, "float16", "float16", [WARNING.format("float16", "AVX512-FP16 or AMX-FP16", 5)]),
        (  # a run that was started elsewhere
            AVX512,
            "auto",
            "bfloat16",
            ["computing in bfloat16 (--precision=auto)", WARNING.format("bfloat16", "AVX512-BF16 or AMX", 2)],
        ),
    ],
)
def test_announcements(processor, capsys, cpuinfo, asked, chosen, lines):
    processor(cpuinfo)
    precision.announce(asked, chosen)
    assert capsys.readouterr().out.splitlines() == lines


def test_a_network_is_not_built_with_auto(make_config):
    with pytest.raises(ValueError, match="precision is auto: expected float32, bfloat16 or float16"):
        build_model(make_config(precision="auto"), 5, 3)

"""An exported model gives the same in TensorFlow 2.17, the last release with TF-TRT, as where it was written."""

import os
import pathlib
import subprocess

import numpy as np
import pytest

from a2net_tf import settings
from a2net_tf.export import reload, saved_model
from a2net_tf.inference import trained
from tests import tiny

OLD_PYTHON = os.environ.get("A2NET_PYTHON_LOWEST", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OLD_PYTHON, reason="A2NET_PYTHON_LOWEST names no Python interpreter with TensorFlow 2.17"),
]


def test_it_is_that_release():
    command = [OLD_PYTHON, "-c", "import importlib.metadata as m; print(m.version('tensorflow'))"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert version.startswith("2.17.")


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("trained", []),
        ("trained", ["--freeze"]),
        ("trained", ["--precision=bfloat16"]),
        ("modern", []),
        ("modern", ["--freeze"]),
    ],
)
def test_same_detections(name, flags, tmp_path):
    path, workdir = tiny.exported(name, *flags), {"trained": tiny.trained, "modern": tiny.modern}[name]()
    command = ["--mode=export", f"--workdir={workdir}", f"--saved_model={path}", *flags]
    run, localizer = trained.load_trained(*settings.parse(command))
    random = np.random.default_rng(0)
    lengths = (1, 63, 64, 65, 500)
    samples = [
        {"features": random.normal(size=(n, tiny.FEATURES)).astype(np.float32), "feature_stride_seconds": 0.25}
        for n in lengths
    ]
    expected = saved_model._expected(saved_model.Exported(localizer, run), localizer, samples)
    np.savez(tmp_path / "samples.npz", **expected)
    script = pathlib.Path(reload.__file__)
    done = subprocess.run(
        [OLD_PYTHON, str(script), str(path), str(tmp_path / "samples.npz")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    detections, candidates = map(float, done.stdout.split()[-2:])
    if "--precision=bfloat16" in flags:  # other kernels round otherwise, and the order of detections may change
        assert candidates < 0.02
    else:
        assert detections < 1e-4
        assert candidates < 1e-5

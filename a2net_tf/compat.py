"""What the package uses of TensorFlow, Keras and TFDS beyond their public interfaces, each in one small function.

Every other file keeps to public interfaces. ``tests/test_compat.py`` fails where a release takes one of these away or
changes what it means; setup.py bounds the releases. The scripts of ``export/`` that run without this package
(``tensorrt.py``, ``serving/client.py``, ``spark.py``) name what they use themselves.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import keras
import tensorflow_datasets as tfds
from tensorflow.lite.python import schema_py_generated
from tensorflow.python.framework import config as framework
from tensorflow.python.framework import convert_to_constants
from tensorflow.python.util import deprecation

# TFLite's file format as Python classes, which the wheel generates from schema.fbs and does not document. Without them
# a .tflite file could be neither looked into nor put together from several.
tflite_schema = schema_py_generated


def set_features(info: tfds.core.DatasetInfo, features: tfds.features.FeaturesDict) -> None:
    """Gives a dataset another schema after its builder is made.

    TFDS sets ``DatasetInfo._features`` once, from the code, and lets it be read as ``features``. Without the change,
    features stored as float16 would be read as float32 noise, and a folder's dataset could have no schema at all: what
    it holds is known only when it is prepared.
    """
    info._features = features


class CompletedBeforeWriting:
    """Mixin of a ``tfds.core.GeneratorBasedBuilder`` that learns its schema from ``manual_dir``.

    ``_download_and_prepare`` is where TFDS, having found where the user's files are, begins to write; there is no
    public place between. Without it the schema would be empty when the first record is serialised.
    """

    def complete_schema(self, folder: pathlib.Path) -> None:
        """Called once, with ``manual_dir``, before splits are asked for."""
        raise NotImplementedError

    def check_pipeline(self) -> None:
        """Called once when records are written, or could not be, before the directory gets its name."""

    def _download_and_prepare(self, dl_manager: tfds.download.DownloadManager, *args, **kwargs) -> None:
        self.complete_schema(pathlib.Path(dl_manager.manual_dir))
        try:
            super()._download_and_prepare(dl_manager, *args, **kwargs)
        finally:
            self.check_pipeline()


class NothingToDownload:
    """Mixin of a ``tfds.core.DatasetBuilder`` that reads local files or generates its records.

    TFDS says before and after with ``_log_download_bytes`` and ``_log_download_done``. Without the overrides it would
    tell of a download of "Unknown size" where nothing is downloaded.
    """

    def _log_download_bytes(self) -> None:
        print(f"preparing {self.info.full_name} in {self.data_path}")

    def _log_download_done(self) -> None:
        print(f"prepared {self.info.full_name}: later commands read it from {self.data_path}")


class AlreadyBuilt:
    """Mixin of a ``keras.Model`` that has all its variables when it is made.

    ``fit`` calls ``_maybe_symbolic_build``, which with several devices takes a batch from the data to build layers.
    Without the override that batch would be missing from the first epoch, and a resumed run would see other batches.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        """Builds nothing and reads no batch."""


def take_gradients_as_summed(optimizer: keras.optimizers.Optimizer) -> None:
    """Stops an optimizer from summing gradients over devices in ``apply``: they are handed over summed.

    Keras sums in ``_all_reduce_sum_gradients``, after it has clipped each device's own gradients and looked for
    overflow there. Without the change every gradient would be counted once more for each device.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    inner._all_reduce_sum_gradients = list


def adam_moments(optimizer: keras.optimizers.Adam, variable: keras.Variable) -> tuple[keras.Variable, keras.Variable]:
    """The running means of a variable's gradient and of its square, of an optimizer that is built.

    Keras keeps them in ``_momentums`` and ``_velocities``, in the order of ``_get_variable_index``. Without them the
    update could not be one operator, and a step on a CPU would take about four times as long there.
    """
    index = optimizer._get_variable_index(variable)
    return optimizer._momentums[index], optimizer._velocities[index]


def with_constant_weights(function: Callable) -> Callable:
    """A concrete function, its variables' values as constants.

    ``convert_variables_to_constants_v2`` is not part of ``tf``. Without it ``--freeze`` could not be, the converter to
    TFLite would leave the weights out in silence, and that to ONNX would find variables that it cannot read. Loops stay
    what they are: these converters know no others.
    """
    return convert_to_constants.convert_variables_to_constants_v2(function, lower_control_flow=False)


def without_deprecation_warnings() -> contextlib.AbstractContextManager[None]:
    """Keeps TensorFlow from telling the user that tf2onnx calls functions of TensorFlow 1."""
    return deprecation.silence()


@contextlib.contextmanager
def op_determinism(wanted: bool) -> Iterator[None]:
    """TensorFlow's operations are deterministic in this block, or not, as ``wanted``; after it, as they were before.

    The public interface can switch determinism on, but not off. Where it is on, Keras leaves out XLA with only a
    warning, so without this the first call in a process would decide for all that follow.
    """
    before = framework.is_op_determinism_enabled()
    _switch_determinism(wanted)
    try:
        yield
    finally:
        _switch_determinism(before)


def _switch_determinism(on: bool) -> None:
    (framework.enable_op_determinism if on else framework.disable_op_determinism)()

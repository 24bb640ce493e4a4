"""What breaks when a private interface of TensorFlow, Keras or TFDS is gone or changes what it means.

Several devices exist only in processes that ask for them before TensorFlow starts, so this file is also a program:
``python -m tests.test_compat`` prints where a step of two devices moves a weight.
"""

import ast
import logging
import sys

import numpy as np
import pytest

from tests import forks, tiny

ALONE = ("export/tensorrt.py", "export/serving/client.py", "export/spark.py")  # scripts that run without the package
OF_NAMED_TUPLES = {"_asdict", "_fields", "_replace"}


def private_uses(source):
    """Names that ``source`` takes from inside of a library, or of another object."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [
                f"{node.module}.{alias.name}" for alias in node.names if is_private(f"{node.module}.{alias.name}")
            ]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if is_private(alias.name)]
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            whose = ast.unparse(node.value)
            is_public = node.attr in OF_NAMED_TUPLES or (whose, node.attr) == ("os", "_exit")  # it is documented
            if whose != "self" and not is_public:
                found.append(f"{whose}.{node.attr}")
    return found


def is_private(module):
    library, *inside = module.split(".")
    hidden = {"tensorflow": {"python", "lite", "compiler", "core"}, "keras": {"src"}}
    return inside[:1] and inside[0] in hidden.get(library, ())


def test_no_other_file_uses_private_interfaces():
    files = [path for d in ("a2net_tf", "datasets", "export") for path in (tiny.REPO / d).rglob("*.py")]
    uses = {str(path.relative_to(tiny.REPO)): private_uses(path.read_text()) for path in files}
    assert uses["a2net_tf/compat.py"]
    assert {file for file, found in uses.items() if found} == {"a2net_tf/compat.py", *ALONE}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from tensorflow.python.util import deprecation", ["tensorflow.python.util.deprecation"]),
        ("import keras.src.backend", ["keras.src.backend"]),
        ("self.info._features = 1", ["self.info._features"]),
        ("super()._build()", ["super()._build"]),
        ("self._own = run._replace(a=1)\nimport tensorflow as tf\nobject.__init__", []),
    ],
)
def test_the_checker_itself(source, expected):
    assert private_uses(source) == expected


# --- TFDS


def test_set_features_is_what_records_are_read_with():
    import tensorflow_datasets as tfds

    from a2net_tf import compat
    from a2net_tf.data import prepared

    whole = prepared.open_dataset("toy_actions", data_dir=str(tiny.data_dir()))
    builder = tfds.builder_from_directory(str(whole.data_path))
    part = tfds.features.FeaturesDict({"id": builder.info.features["id"]})
    compat.set_features(builder.info, part)
    assert builder.info.features is part
    assert set(builder.as_dataset(split="test").element_spec) == {"id"}


def test_schema_is_completed_before_the_first_record_is_written(tmp_path):
    import tensorflow_datasets as tfds

    from a2net_tf import compat

    class Builder(compat.CompletedBeforeWriting, tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        MANUAL_DOWNLOAD_INSTRUCTIONS = "put a file there"
        code_path, pkg_dir_path = tfds.core.Path(__file__), tfds.core.Path(__file__).parent

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=None)

        def complete_schema(self, folder):
            self.folders = [*getattr(self, "folders", []), folder]
            compat.set_features(self.info, tfds.features.FeaturesDict({"a": np.int32}))

        def _split_generators(self, dl_manager):
            return {"test": iter([("key", {"a": 7})])}

        def _generate_examples(self):
            raise NotImplementedError

    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").touch()
    builder = Builder(data_dir=str(tmp_path / "data"))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(tmp_path / "files")))
    assert builder.folders == [tmp_path / "files"]
    assert [int(record["a"]) for record in builder.as_dataset(split="test").as_numpy_iterator()] == [7]


# --- Keras


@pytest.mark.parametrize("already_built", [True, False])
def test_fit_reads_no_batch_to_build_layers(already_built):
    import keras
    import tensorflow as tf

    from a2net_tf import compat

    class Model(*((compat.AlreadyBuilt,) if already_built else ()), keras.Model):
        def __init__(self):
            super().__init__()
            self.seen = tf.Variable(-1)

        def call(self, batch):
            return batch

        def train_step(self, batch):
            self.seen.assign(tf.where(self.seen < 0, batch[0], self.seen))
            return {"seen": self.seen}

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = Model()
        model.compile()
    taken = iter(range(10))  # as the input of training, it does not begin again
    data = tf.data.Dataset.from_generator(
        lambda: ([number] for number in taken), output_signature=tf.TensorSpec((1,), tf.int32)
    )
    model.fit(data, steps_per_epoch=2, verbose=0, shuffle=False)
    # Where Keras gives every batch to train_step by itself, AlreadyBuilt can go.
    assert (int(model.seen.numpy()) == 0) == already_built


def step_of_two_devices():
    """Prints how far a gradient of 1 on each of two devices moves a weight: summed by Keras, and taken as summed."""
    import tensorflow as tf

    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    import keras

    from a2net_tf import compat

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for summed in (False, True):
        with strategy.scope():
            weight = keras.Variable(0.0)
            optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=1.0)
            optimizer.build([weight])
        if summed:
            compat.take_gradients_as_summed(optimizer)
        strategy.run(tf.function(lambda apply=optimizer.apply, weight=weight: apply([tf.constant(1.0)], [weight])))
        print(float(strategy.experimental_local_results(weight.value)[0]))


@pytest.mark.slow
def test_take_gradients_as_summed():
    command = [sys.executable, "-m", "tests.test_compat"]
    done = forks.run(command, cwd=tiny.REPO)
    assert done.stdout.split() == ["-2.0", "-1.0"], done.stderr[-2000:]


def test_adam_moments_are_those_of_the_variable():
    import keras
    import tensorflow as tf

    from a2net_tf import compat

    weights = [keras.Variable([0.0]), keras.Variable([0.0, 0.0])]
    optimizer = keras.optimizers.Adam(beta_1=0.75, beta_2=0.5)
    optimizer.build(weights)
    optimizer.apply([tf.constant([100.0]), tf.constant([2.0, 4.0])], weights)
    momentum, velocity = compat.adam_moments(optimizer, weights[1])
    np.testing.assert_allclose(momentum.numpy(), [0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(velocity.numpy(), [2.0, 8.0], rtol=1e-6)
    for moment in (momentum, velocity):
        assert moment.value.handle.dtype == tf.resource  # which the fused operator writes to


# --- TensorFlow


def test_with_constant_weights():
    import tensorflow as tf

    from a2net_tf import compat

    weight = tf.Variable([2.0, 3.0])
    function = tf.function(lambda x: {"b": x * weight, "a": x + 1}, input_signature=[tf.TensorSpec((2,), name="x")])
    frozen = compat.with_constant_weights(function.get_concrete_function())
    weight.assign([0.0, 0.0])
    a, b = frozen(tf.constant([1.0, 10.0]))  # outputs in the order of their names
    np.testing.assert_array_equal(a, [2, 11])
    np.testing.assert_array_equal(b, [2, 30])
    assert not frozen.variables
    assert {node.op for node in frozen.graph.as_graph_def().node}.isdisjoint({"ReadVariableOp", "VarHandleOp"})


def test_deprecation_warnings_are_kept_away():
    import tensorflow as tf
    from tensorflow.python.util import deprecation

    from a2net_tf import compat

    def old_function():  # TensorFlow warns once of each: one of its own may have been called before
        pass

    old_function.__doc__ = "Does nothing."
    deprecated = deprecation.deprecated(None, "use another")(old_function)
    messages, handler, logger = [], logging.Handler(), tf.get_logger()
    handler.emit = lambda record: messages.append(record.getMessage())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        with compat.without_deprecation_warnings():
            deprecated()
        assert messages == []
        deprecated()
        assert "deprecated" in messages[0]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_tflite_schema_reads_and_writes_files():
    import flatbuffers
    import tensorflow as tf

    from a2net_tf.compat import tflite_schema

    function = tf.function(lambda x: tf.nn.relu(x) + 5, input_signature=[tf.TensorSpec((2,))])
    content = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], function).convert()
    model = tflite_schema.ModelT.InitFromObj(tflite_schema.Model.GetRootAsModel(content, 0))
    codes = {code.builtinCode for code in model.operatorCodes}
    assert codes == {tflite_schema.BuiltinOperator.RELU, tflite_schema.BuiltinOperator.ADD}
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    interpreter = tf.lite.Interpreter(model_content=bytes(builder.Output()))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.float32([-1, 2]))
    interpreter.invoke()
    np.testing.assert_array_equal(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), [5, 7])


if __name__ == "__main__":
    step_of_two_devices()

"""An exported model that is not whole, or not one of ours, is refused."""

import json
import shutil

import pytest
import tensorflow as tf

from a2net_tf.errors import UserError
from a2net_tf.inference import exported
from tests import tiny


@pytest.fixture
def model(slow, tmp_path):
    """A copy of an exported model, to be damaged at will."""
    return shutil.copytree(tiny.exported("trained"), tmp_path / "model")


def forget_digests(model):
    """As older versions have exported it."""
    card = model / exported.MODEL_CARD
    card.write_text(json.dumps({k: v for k, v in json.loads(card.read_text()).items() if k != "sha256"}))


def test_description(model):
    _, description = exported.open_exported(str(model))
    assert description.class_names == list(tiny.CLASSES)
    assert (description.num_features, description.seconds_per_step) == (tiny.FEATURES, 0.25)
    forget_digests(model)
    assert exported.open_exported(str(model))[1] == description
    shutil.rmtree(model / "assets.extra")
    assert exported.open_exported(str(model))[1] == description


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.data-00000-of-00001"])
def test_one_changed_bit(model, name):
    """TensorFlow would load the graph, and find something else."""
    content = bytearray((model / name).read_bytes())
    content[len(content) // 2] ^= 1
    (model / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"model: damaged, or .* \({name} is not the file that .* was written with"):
        exported.open_exported(str(model))


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("name", ["variables.data-00000-of-00001", "variables.index"])
@pytest.mark.parametrize("cut", [0, 1000])
def test_variables_cut_off(model, name, cut, digests):
    if not digests:
        forget_digests(model)
    (model / "variables" / name).write_bytes((model / "variables" / name).read_bytes()[:cut])
    with pytest.raises(UserError, match="damaged, or not written by --mode=export") as error:
        exported.open_exported(str(model))
    assert "\n" not in str(error.value)


class Foreign(tf.Module):
    """What else has a function ``describe``."""

    def __init__(self, **changes):
        super().__init__()
        self.said = {
            "settings": "{}",
            "class_names": ["a"],
            "num_features": 16,
            "seconds_per_step": 0.5,
            "first_step_seconds": 0.0,
            **changes,
        }

    @tf.function(input_signature=[])
    def describe(self):
        return {name: tf.constant(value) for name, value in self.said.items()}

    @tf.function(input_signature=[tf.TensorSpec((None, None, 16), tf.float32, name="features")])
    def serve(self, features):
        return {"scores": features}


def test_a_model_of_something_else(tmp_path):
    foreign = Foreign()
    tf.saved_model.save(foreign, str(tmp_path / "m"), signatures={"serving_default": foreign.serve})
    with pytest.raises(UserError, match=r"its serving_default takes \['features'\] and returns \['scores'\]"):
        exported.open_exported(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": "{"}, "settings: damaged JSON"),
        ({"settings": "[]"}, r"settings: expected an object"),
        ({"class_names": ["a", "a"]}, "the class 'a' is there twice"),
        ({"num_features": 17}, "it says 17 values per step, and its signature 16"),
        ({"seconds_per_step": 0.0}, r"its time base is 0\.0, 0\.0"),
        ({"first_step_seconds": float("nan")}, r"its time base is 0\.5, nan"),
    ],
)
def test_descriptions_that_make_no_sense(model, tmp_path, monkeypatch, changes, message):
    good = tf.saved_model.load(str(model))
    monkeypatch.setattr(exported.tf.saved_model, "load", lambda path: good)
    foreign = Foreign(**changes)
    monkeypatch.setattr(good, "describe", foreign.describe)
    with pytest.raises(UserError, match=message):
        exported.open_exported(str(model))

"""Settings as keyword arguments are the command line's, with its checks and its meaning of "given"."""

import pathlib

import numpy as np
import pytest

from a2net_tf import settings
from a2net_tf.errors import UserError


def test_values_of_python_are_what_the_command_line_says(tmp_path):
    flagfile = tmp_path / "some.flags"
    flagfile.write_text("--epochs=7\n--dataset=toy_actions\n")
    values = {
        "epochs": 5,
        "learning_rate": 1e-5,
        "nms_tiou": np.float32(0.25),
        "base_channels": np.int64(8),
        "normalize": False,
        "random_offsets": True,
        "decay_epochs": (2, 3),
        "anchor_ratios": [0.5, 1],
        "tiou_thresholds": "0.3,0.5",
        "workdir": pathlib.Path("runs/a b"),
    }
    arguments = [
        f"--flagfile={flagfile}", "--epochs=5", "--learning_rate=1e-5", "--nms_tiou=0.25", "--base_channels=8",
        "--nonormalize", "--random_offsets", "--decay_epochs=2,3", "--anchor_ratios=0.5,1", "--tiou_thresholds=0.3,0.5",
        "--workdir=runs/a b",
    ]  # fmt: skip
    config, given = settings.parse_keywords(values, flagfile=flagfile)
    assert (config, given) == settings.parse(arguments)
    assert given == {*values, "dataset"}
    assert config.epochs == 5  # keywords win over the flagfile


def test_empty_tuple_and_nothing_at_all():
    config, given = settings.parse_keywords({"decay_epochs": ()})
    assert config.decay_epochs == ()
    assert given == {"decay_epochs"}
    assert settings.parse_keywords({}) == (settings.Config(), frozenset())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rat": 1}, "unknown setting 'learning_rat'; did you mean learning_rate"),
        ({"flag_file": "x"}, "unknown setting 'flag_file'; did you mean flagfile"),
        ({"zzz": 1}, r"unknown setting 'zzz' \("),
        ({"epochs": None}, "epochs=None: expected a value; leave epochs out to keep its default"),
        ({"epochs": 2.5}, "epochs=2.5"),
        ({"epochs": True}, "epochs=True"),
        ({"epochs": (1, 2)}, "epochs=1,2"),
        ({"epochs": 0}, "--epochs=0: must be >= 1"),
        ({"epochs": {}}, "epochs: expected a text, a path, a number, True, False or a tuple of them, found a dict"),
        ({"decay_epochs": (1, None)}, "decay_epochs=None"),
        ({"decay_epochs": (3, 2)}, "--decay_epochs=3,2: must increase"),
        ({"normalize": "perhaps"}, "normalize=perhaps"),
        ({"mode": "tran"}, "tran"),
    ],
)
def test_refused(values, message):
    with pytest.raises(UserError, match=message) as error:
        settings.parse_keywords(values)
    assert "\n" not in str(error.value)


def test_flagfile_that_is_missing(tmp_path):
    with pytest.raises(UserError, match="none.flags"):
        settings.parse_keywords({}, flagfile=tmp_path / "none.flags")

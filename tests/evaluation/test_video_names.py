import pytest

from a2net_tf.errors import UserError
from a2net_tf.evaluation.video_names import match_names


@pytest.mark.parametrize(
    ("detected", "annotated", "expected"),
    [
        (["a"], ["a", "b"], {"a": "a"}),
        (["v_a"], ["a"], {"v_a": "a"}),
        (["a"], ["v_a"], {"a": "v_a"}),
        (["a.mp4", "b.MKV"], ["a", "b"], {"a.mp4": "a", "b.MKV": "b"}),
        (["a"], ["a.mp4"], {"a": "a.mp4"}),
        (["v_1", "1"], ["v_1", "1"], {"v_1": "v_1", "1": "1"}),  # two videos
        (["x", "a.b"], ["a"], {}),
        ([".mp4"], ["v_"], {}),
    ],
)
def test_names(detected, annotated, expected):
    assert match_names(detected, annotated, "x") == expected


@pytest.mark.parametrize(
    ("detected", "annotated", "message"),
    [
        (["1", "v_1"], ["v_1"], "'1' and 'v_1' both name the video 'v_1'"),
        (["a.mp4", "a"], ["a"], "both name the video 'a'"),
        (["a"], ["v_a", "a.mp4"], "video 'a' could be 'a.mp4' or 'v_a'"),
    ],
)
def test_names_that_are_not_certain(detected, annotated, message):
    with pytest.raises(UserError, match=message):
        match_names(detected, annotated, "d.json")

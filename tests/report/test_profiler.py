import pytest

from a2net_tf.detection.model import build_model
from a2net_tf.report import profiler
from a2net_tf.settings import Config


@pytest.mark.parametrize(("num_levels", "giga"), [(3, 1.01), (4, 1.10), (5, 1.18), (6, 1.24)])
def test_numbers_of_the_paper(num_levels, giga):
    counts = profiler.profile(build_model(Config(num_levels=num_levels, precision="float32"), 2048, 20))
    assert counts["multiply_adds"] / 1e9 == pytest.approx(giga, abs=0.005)
    if num_levels == 6:
        assert counts["multiply_adds"] == 1_239_018_496
        assert counts["parameters"] == 65_527_533


def convolutions(config, num_features, num_classes):
    """(part, kernel size, input and output channels, lengths that it runs on) of each convolution of Table II."""
    steps, head, ratios = config.window_steps, config.head_channels, len(config.anchor_ratios)
    cells = [steps // 2 // 2**i for i in range(config.num_levels)]
    yield "base", 1, num_features, config.base_channels, [steps]
    yield "base", 9, config.base_channels, config.base_channels, [steps]
    channels = (config.base_channels, *config.level_channels)
    for i, n in enumerate(cells):
        yield "features", 3, channels[i], channels[i + 1], [n]
        if config.anchor_free:
            yield "anchor_free", 1, channels[i + 1], head, [n]
        if config.anchor_based:
            yield "anchor_based", 3, channels[i + 1], ratios * (num_classes + 4), [n]
    for outputs in (num_classes + 1, 2) if config.anchor_free else ():
        yield "anchor_free", 3, head, head, cells
        yield "anchor_free", 3, head, head, cells
        yield "anchor_free", 3, head, outputs, cells


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"anchor_free": False},
        {"anchor_based": False},
        {"precision": "bfloat16"},
        {"num_levels": 1},
        {"window_steps": 1024, "num_levels": 10, "level_channels": tuple(range(3, 13))},
    ],
)
def test_counts_equal_a_closed_formula(changes, make_config):
    odd = {"base_channels": 5, "level_channels": (3, 7, 4, 9), "head_channels": 6, "anchor_ratios": (0.5, 1.0)}
    config = make_config(**{**odd, **changes})
    expected = {
        part: {"parameters": 0, "multiply_adds": 0} for part in ("base", "features", "anchor_free", "anchor_based")
    }
    for part, size, inputs, outputs, lengths in convolutions(config, 11, 3):
        expected[part]["parameters"] += (size * inputs + 1) * outputs
        expected[part]["multiply_adds"] += size * inputs * outputs * sum(lengths)
    if config.anchor_free:
        expected["anchor_free"]["parameters"] += config.num_levels  # the scales
    counts = profiler.profile(build_model(config, 11, 3))
    assert counts["parts"] == {part: row for part, row in expected.items() if row["parameters"]}
    for name in ("parameters", "multiply_adds"):
        assert counts[name] == sum(row[name] for row in expected.values())
    assert (counts["window_steps"], counts["num_features"]) == (config.window_steps, 11)


def test_normalization_is_not_counted(make_config):
    statistics = ([0.0] * 5, [1.0] * 5)
    plain = profiler.profile(build_model(make_config(), 5, 3))
    assert profiler.profile(build_model(make_config(), 5, 3, statistics=statistics)) == plain


def test_normalised_convolutions_count_alike(make_config):
    """Multiply-adds as without; scale and offset of each channel as weights of the part that they belong to."""
    changes = {"level_channels": (8, 8, 8, 8), "norm_groups": 4}
    plain = profiler.profile(build_model(make_config(**changes), 5, 3))
    found = profiler.profile(build_model(make_config(convolution_norm="group", **changes), 5, 3))
    assert found["multiply_adds"] == plain["multiply_adds"]
    more = {part: row["parameters"] - plain["parts"][part]["parameters"] for part, row in found["parts"].items()}
    assert more == {"base": 2 * 16, "features": 4 * 16, "anchor_free": (4 + 4) * 16, "anchor_based": 0}


def test_time_of_a_window_is_below_a_second(make_config):
    assert 0 < profiler.window_milliseconds(build_model(make_config(), 5, 3), repetitions=3) < 1000


def test_table_with_a_time(make_config):
    counts = {**profiler.profile(build_model(make_config(), 5, 3)), "window_milliseconds": 12.34}
    assert profiler.format_profile(counts).splitlines()[-1].startswith("one window takes 12.3 ms")


def test_table(make_config):
    counts = profiler.profile(build_model(make_config(), 5, 3))
    lines = profiler.format_profile(counts).splitlines()
    assert lines[0] == "one window of 32 steps x 5 features"
    assert [line.split()[0] for line in lines[2:]] == [*counts["parts"], "total"]
    assert lines[-1].split() == ["total", f"{counts['parameters']:,}", f"{counts['multiply_adds']:,}"]

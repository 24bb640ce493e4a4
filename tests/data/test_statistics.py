import numpy as np
import pytest

from a2net_tf.data import statistics
from a2net_tf.data.statistics import FeatureStatistics


def test_by_hand():
    found = FeatureStatistics(2)
    assert found.add(np.float32([[1, 0], [3, np.nan]])) == 1
    assert found.add(np.float16([[-np.inf, 0]])) == 1
    assert found.count.tolist() == [2, 2]
    assert (found.mean.tolist(), found.variance.tolist()) == ([2, 0], [1, 0])
    assert (found.lowest.tolist(), found.highest.tolist(), found.zeros.tolist()) == ([1, 0], [3, 0], [0, 2])


@pytest.mark.parametrize("offset", [0, 1e4])
def test_parts_are_those_of_numpy_on_the_whole(offset, monkeypatch):
    monkeypatch.setattr(statistics, "_STEPS_AT_ONCE", 7)
    features = (offset + np.random.default_rng(0).normal(size=(100, 3))).astype(np.float32)
    found = FeatureStatistics(3)
    assert sum(found.add(part) for part in np.split(features, [20, 20, 53])) == 0
    exact = features.astype(np.float64)
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.variance, exact.var(axis=0), rtol=1e-12 + 1e-14 * offset**2)


def test_nothing_and_nothing_finite():
    found = FeatureStatistics(2)
    assert found.add(np.zeros((0, 2), np.float32)) == 0
    assert found.add(np.float32([[np.nan, 5]])) == 1
    assert (found.mean.tolist(), found.variance.tolist()) == ([0, 5], [0, 0])
    assert (found.lowest[0], found.highest[0]) == (np.inf, -np.inf)

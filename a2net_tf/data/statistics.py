"""Running statistics of features that do not fit in memory together. Pure (numpy only)."""

import numpy as np

_STEPS_AT_ONCE = 1024  # a float64 copy of a long recording would be large


class FeatureStatistics:
    """Statistics of each feature over all steps that were added; NaN and infinite values are counted and left out.

    Attributes:
        count: f64[D], finite values.
        sum: f64[D].
        sum_of_squares: f64[D].
        zeros: f64[D], values that are 0.
        lowest: f64[D], infinity where there is no finite value.
        highest: f64[D], minus infinity likewise.
    """

    def __init__(self, num_features: int):
        self.count, self.sum, self.sum_of_squares, self.zeros = np.zeros((4, num_features))
        self.lowest, self.highest = np.full(num_features, np.inf), np.full(num_features, -np.inf)

    def add(self, features: np.ndarray) -> int:
        """Adds steps f[T, D]; returns how many of their values are not finite."""
        parts = (features[start : start + _STEPS_AT_ONCE] for start in range(0, len(features), _STEPS_AT_ONCE))
        return sum(self._add_part(part.astype(np.float64)) for part in parts)

    def _add_part(self, values: np.ndarray) -> int:
        finite = np.isfinite(values)
        others = finite.size - int(np.count_nonzero(finite))
        where = finite if others else True  # a mask takes time
        self.count += finite.sum(axis=0) if others else len(values)
        self.sum += values.sum(axis=0, where=where)
        self.sum_of_squares += np.square(values).sum(axis=0, where=where)
        self.zeros += (values == 0).sum(axis=0)
        self.lowest = np.minimum(self.lowest, values.min(axis=0, where=where, initial=np.inf))
        self.highest = np.maximum(self.highest, values.max(axis=0, where=where, initial=-np.inf))
        return others

    @property
    def mean(self) -> np.ndarray:
        """f64[D]; 0 where there is no finite value."""
        return self.sum / np.maximum(self.count, 1)

    @property
    def variance(self) -> np.ndarray:
        """f64[D], >= 0; 0 where there is no finite value. Rounding adds up to about 1e-15 of the squared mean."""
        return np.maximum(self.sum_of_squares / np.maximum(self.count, 1) - self.mean**2, 0.0)

"""Mean, spread and paired tests over seeds, and how such numbers are written."""

import math
import statistics
from collections.abc import Mapping
from typing import TypeVar

from utils.records.metrics import fixed

SAME = 1e-9  # percentage points by which rounding may set two equal accuracies apart


def mean_and_std(values: list[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (divisor n − 1); None where there are too few values."""
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def paired_p(first: Mapping[int, float], second: Mapping[int, float]) -> float | None:
    """Two-sided p of the paired t-test over the common seeds; None for fewer than two, or equal differences."""
    seeds = sorted(first.keys() & second.keys())
    differences = [first[seed] - second[seed] for seed in seeds]
    if len(differences) < 2 or max(differences) - min(differences) < SAME:
        return None
    from scipy.special import stdtr  # scipy.stats has the whole test, and takes half a second longer to import

    mean, std = statistics.fmean(differences), statistics.stdev(differences)
    return float(2 * stdtr(len(differences) - 1, -abs(mean) / (std / math.sqrt(len(differences)))))


def mean_difference(values: Mapping[int, float], first: Mapping[int, float]) -> tuple[float | None, bool]:
    """The mean difference over common seeds and True; without a common seed, the difference of means and False."""
    seeds = values.keys() & first.keys()
    if seeds:
        return statistics.fmean(values[seed] - first[seed] for seed in sorted(seeds)), True
    if values and first:
        return statistics.fmean(values.values()) - statistics.fmean(first.values()), False
    return None, False


Key = TypeVar("Key")


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Adjusted p by Holm's step-down procedure (Holm, 1979), by the same names."""
    adjusted: dict[Key, float] = {}
    largest = 0.0
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    for rank, (name, value) in enumerate(ordered):
        largest = max(largest, min(1.0, value * (len(ordered) - rank)))
        adjusted[name] = largest
    return adjusted


def with_minus(number: str) -> str:
    """A number with a true minus."""
    return number.replace("-", "−")


def signed(points: float, num_digits: int = 2) -> str:
    """Percentage points with their sign."""
    return with_minus(fixed(points, num_digits, "+"))


def spread_text(mean: float, std: float | None) -> str:
    """`mean ± std`."""
    return with_minus(fixed(mean)) + (f" ± {std:.2f}" if std is not None else "")


def mean_text(values: Mapping[int, float]) -> str:
    """`mean ± std (n)` of values by seed."""
    mean, std = mean_and_std(list(values.values()))
    return "–" if mean is None else f"{spread_text(mean, std)} ({len(values)})"

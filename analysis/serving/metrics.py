"""Latency percentiles of values that occur many times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gempim.quantity import DataError

QUANTILES = (50, 90, 99)
"""Percentiles that tables show."""


@dataclass(frozen=True)
class Latency:
    """Mean and percentiles of one latency [s], over `count` values."""

    count: int
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float

    def to_json(self) -> dict[str, float | int]:
        """Plain values."""
        return {
            "count": self.count,
            "mean_s": self.mean_s,
            "p50_s": self.p50_s,
            "p90_s": self.p90_s,
            "p99_s": self.p99_s,
        }


def percentile(values: Mapping[int, int], q: float) -> float:
    """The `q`-th percentile of integers that each occur so many times: linear between neighbours, as numpy's default.

    Raises DataError for no values, or a `q` outside 0 to 100.
    """
    if not values or not 0 <= q <= 100:
        raise DataError(f"percentile {q} of {len(values)} different values: expected 0 to 100, and at least one value")
    keys = np.array(sorted(values), dtype=np.int64)
    ends = np.cumsum([values[int(k)] for k in keys])
    place = (int(ends[-1]) - 1) * q / 100
    low = math.floor(place)
    first = int(keys[np.searchsorted(ends, low, side="right")])
    second = int(keys[np.searchsorted(ends, min(low + 1, int(ends[-1]) - 1), side="right")])
    return first + (second - first) * (place - low)


def latency(values_ps: Mapping[int, int]) -> Latency | None:
    """Percentiles of times in ps that occur so many times; None for no values."""
    count = sum(values_ps.values())
    if not count:
        return None
    mean = sum(value * times for value, times in values_ps.items()) / count
    p50, p90, p99 = (percentile(values_ps, q) / 1e12 for q in QUANTILES)
    return Latency(count, mean / 1e12, p50, p90, p99)

"""Percentiles of serving: equal to numpy's on the values written out one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempim.analysis.serving import latency, percentile
from gempim.quantity import DataError


@given(
    st.dictionaries(st.integers(0, 10**15), st.integers(1, 40), min_size=1, max_size=30),
    st.floats(0, 100),
)
def test_percentile_is_numpys(values: dict[int, int], q: float) -> None:
    written = np.repeat(np.array(list(values), dtype=np.float64), list(values.values()))
    assert percentile(values, q) == pytest.approx(float(np.percentile(written, q)), rel=1e-12, abs=1e-3)


@given(st.dictionaries(st.integers(0, 10**13), st.integers(1, 9), min_size=1, max_size=30))
def test_latency_is_numpys(values: dict[int, int]) -> None:
    written = np.repeat(np.array(list(values), dtype=np.float64), list(values.values())) / 1e12
    found = latency(values)
    assert found is not None
    assert found.count == len(written)
    assert found.mean_s == pytest.approx(written.mean())
    for name, q in (("p50_s", 50), ("p90_s", 90), ("p99_s", 99)):
        assert getattr(found, name) == pytest.approx(float(np.percentile(written, q)), abs=1e-12)


def test_nothing_measured() -> None:
    assert latency({}) is None
    with pytest.raises(DataError, match="percentile"):
        percentile({}, 50)
    with pytest.raises(DataError, match="percentile"):
        percentile({1: 1}, 101)

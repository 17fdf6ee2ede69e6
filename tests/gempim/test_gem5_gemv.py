"""The benchmark behind the README's GEMV table: the embedded engine's answer, and one of its rows in gem5 again."""

from __future__ import annotations

import pytest
from readme_table import readme_table

from gempim.bench.gem5_gemv import SYSTEMS, embedded_ps, gem5_ps
from gempim.doctor import find_gem5
from gempim.plugin import build
from gempim.workloads.build import build_micro

N, K, THREADS = 1024, 2048, 4
"""The benchmark's defaults."""


@pytest.mark.parametrize("row", readme_table("gemv"), ids=lambda r: f"{r['type']}-b{r['batch']}")
def test_the_embedded_columns_are_the_engines(row: dict[str, str]) -> None:
    embedded = [embedded_ps(s, row["type"], int(row["batch"]), N, K, THREADS) / 1e6 for s in SYSTEMS]
    assert [f"{us:.1f}" for us in embedded] == [row["N1 embedded [us]"], row["SAIL embedded [us]"]]


def test_a_faster_device_is_faster() -> None:
    assert embedded_ps("sail", "q4_0", 8, N, K, THREADS) < embedded_ps("neoverse-n1", "q4_0", 8, N, K, THREADS)


@pytest.mark.gem5
@pytest.mark.slow
def test_a_row_made_again_in_gem5() -> None:
    """Within 5 %: another compiler lays out another guest."""
    row = next(r for r in readme_table("gemv") if r["type"] == "q4_0" and r["batch"] == "1")
    gem5 = find_gem5()
    assert gem5 is not None
    plugin, micro = build(gem5), build_micro()
    for system, column in (("neoverse-n1", "N1 in gem5 [us]"), ("sail", "SAIL in gem5 [us]")):
        again = gem5_ps(gem5, plugin, micro, system, "q4_0", 1, N, K, THREADS) / 1e6
        assert again == pytest.approx(float(row[column]), rel=0.05)

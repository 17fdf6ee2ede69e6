"""The DRAM model against closed formulas: latencies, peak, refresh overhead, and each rate limit on its own.

Every expected time is written here from the parameters, not taken from the model.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from dram_util import STANDARDS, burst_bytes, params

from gempim import _engine


def ck(p: dict[str, Any], clocks: float) -> float:
    return clocks * p["tCK_ps"]


@pytest.mark.parametrize("standard", STANDARDS)
def test_idle_latencies(standard: str) -> None:
    """Closed bank tRCD + CL + BL/2, open row CL + BL/2, other row tRP + tRCD + CL + BL/2, on an idle channel."""
    p = params(standard, ranks=1)
    size, data = burst_bytes(p), p["BL"] // 2
    row_set = p["row_bytes"] * p["bank_groups"] * p["banks_per_group"] * p["subchannels"]
    for write, cas in [(False, p["CL_nCK"]), (True, p["CWL_nCK"])]:
        dram = _engine.DramSystem(p, 1, False)
        assert dram.transfer(0, size, write, 0) == ck(p, p["tRCD_nCK"] + cas + data)
        start = p["tCK_ps"] * 1000
        assert dram.transfer(size * p["bank_groups"] * p["subchannels"], size, write, start) == start + ck(
            p, cas + data
        )
        start = p["tCK_ps"] * 2000
        assert dram.transfer(row_set, size, write, start) == start + ck(p, p["tRP_nCK"] + p["tRCD_nCK"] + cas + data)
        # A start between two clock edges waits for the next edge.
        start = p["tCK_ps"] * 3000
        assert dram.transfer(row_set, size, write, start - 1) == start + ck(p, cas + data)
        c = dram.counters()
        assert (c["row_misses"], c["row_hits"], c["row_conflicts"], c["acts"], c["pres"]) == (1, 2, 1, 2, 1)


@pytest.mark.parametrize("standard", STANDARDS)
def test_row_outcomes(standard: str) -> None:
    """Another row is a conflict; after a refresh, which closed the row, it is a miss, and so is the same row."""
    p = params(standard, ranks=1)
    size = burst_bytes(p)
    row_set = p["row_bytes"] * p["bank_groups"] * p["banks_per_group"] * p["subchannels"]
    dram = _engine.DramSystem(p, 1, False)
    seen = []
    for addr, start in [(0, 0), (row_set, 1), (2 * row_set, 2), (2 * row_set, 3)]:
        dram.transfer(addr, size, False, start * p["tREFI_ps"] // 8)
        c = dram.counters()
        seen.append((c["row_misses"], c["row_conflicts"], c["row_hits"]))
    assert seen == [(1, 0, 0), (1, 1, 0), (1, 2, 0), (1, 2, 1)]
    for i, addr in enumerate([2 * row_set, 5 * row_set], start=2):
        dram.transfer(addr, size, False, i * p["tREFI_ps"] - p["tREFI_ps"] // 8)
        c = dram.counters()
        assert (c["row_misses"], c["row_conflicts"], c["row_hits"]) == (i, 2, 1)


@pytest.mark.parametrize(("standard", "gb_per_s"), [("ddr4-3200", 25.6), ("ddr5-4800", 38.4)])
def test_peak_and_capacity(standard: str, gb_per_s: float) -> None:
    """The data rate in the standard's name (DDR5: 0.416 ns instead of 0.41667 ns), and the devices' bits."""
    p = params(standard)
    assert _engine.DramSystem(p, 8).peak_bytes_per_s == pytest.approx(8 * gb_per_s * 1e9, rel=0.002)
    gigabits, devices = {"ddr4-3200": (8, 8), "ddr5-4800": (16, 4)}[standard]
    assert _engine.DramSystem(p, 1).capacity_bytes == gigabits * 2**30 // 8 * devices * p["ranks"] * p["subchannels"]


@pytest.mark.parametrize("standard", STANDARDS)
@pytest.mark.parametrize("write", [False, True])
def test_sequential_efficiency(standard: str, write: bool) -> None:
    """A stream runs at peak less the refresh overhead: tRFC, and at most closing and reopening the rows, each tREFI."""
    p = params(standard, ranks=1)
    dram = _engine.DramSystem(p, 1, False)
    size = 32 << 20
    end = dram.transfer(0, size, write, 0)
    efficiency = size / (end * 1e-12) / dram.peak_bytes_per_s
    refi, rfc = p["tREFI_ps"], -(-p["tRFC_ps"] // p["tCK_ps"]) * p["tCK_ps"]
    burst = p["BL"] // 2
    close = (p["CWL_nCK"] + burst + p["tWR_nCK"]) if write else p["tRTP_nCK"]
    # Four or eight bank groups open again one after the other; the first data comes after tRCD.
    extra = ck(p, close + p["tRP_nCK"] + p["tRCD_nCK"] + 2 * p["tRRD_S_nCK"] + 2 * burst)
    assert 1 - (rfc + extra) / refi <= efficiency <= 1 - rfc / refi
    c = dram.counters()
    assert c["row_hits"] / (c["reads"] + c["writes"]) > 0.97
    assert c["refs"] == p["subchannels"] * (end // refi)


@pytest.mark.parametrize("standard", STANDARDS)
def test_row_conflicts_in_one_bank_take_trc(standard: str) -> None:
    """Reads of different rows of one bank: one every tRC."""
    p = params(standard, ranks=1)
    row_set = p["row_bytes"] * p["bank_groups"] * p["banks_per_group"] * p["subchannels"]
    dram = _engine.DramSystem(p, 1, False)
    n = 40  # all before the first refresh
    rows = [(i * 7919) % p["rows"] for i in range(n)]
    end = max(dram.transfer(row * row_set, burst_bytes(p), False, 0) for row in rows)
    assert end == ck(p, (n - 1) * p["tRC_nCK"] + p["tRCD_nCK"] + p["CL_nCK"] + p["BL"] // 2)
    c = dram.counters()
    assert (c["row_misses"], c["row_conflicts"], c["row_hits"]) == (1, n - 1, 0)


@pytest.mark.parametrize("standard", STANDARDS)
@pytest.mark.parametrize("write", [False, True])
def test_one_bank_group_takes_tccd_l(standard: str, write: bool) -> None:
    """With the bank group above the column, consecutive bursts are tCCD_L (tCCD_L_WR) apart."""
    p = params(standard, ranks=1, subchannels=1, address_map="RoRaBaBgCoCh")
    dram = _engine.DramSystem(p, 1, False)
    n = p["row_bytes"] // burst_bytes(p)
    end = dram.transfer(0, p["row_bytes"], write, 0)
    gap = p["tCCD_L_WR_nCK" if write else "tCCD_L_nCK"]
    cas = p["CWL_nCK" if write else "CL_nCK"]
    assert end == ck(p, p["tRCD_nCK"] + (n - 1) * gap + cas + p["BL"] // 2)


def test_four_activates_a_window() -> None:
    """One burst a row, banks in turn: four ACT every tFAW (DDR4-3200: more than 4 tRRD_S and than tRC / 4 banks)."""
    p = params("ddr4-3200", ranks=1, address_map="CoRoRaBaBgCh", tFAW_nCK=60)
    dram = _engine.DramSystem(p, 1, False)
    n = 160
    end = dram.transfer(0, n * burst_bytes(p), False, 0)
    last_act = (n - 4) // 4 * p["tFAW_nCK"] + 3 * p["tRRD_S_nCK"]
    assert end == ck(p, last_act + p["tRCD_nCK"] + p["CL_nCK"] + p["BL"] // 2)


def test_rank_switch_costs_trtrs() -> None:
    """Bursts that alternate between ranks are BL/2 + tRTRS apart."""
    for rtrs in (0, 2, 5):
        p = params("ddr4-3200", ranks=2, address_map="RoBaBgCoRaCh", tRTRS_nCK=rtrs, read_queue=1)
        dram = _engine.DramSystem(p, 1, False)
        dram.record_trace(1000)
        dram.transfer(0, 20 * burst_bytes(p), False, 0)
        reads = [(t[0], t[3]) for t in dram.trace() if t[2] == "RD"]
        assert [rank for _, rank in reads] == [0, 1] * 10
        gaps = {(b[0] - a[0]) // p["tCK_ps"] for a, b in pairwise(reads[1:])}
        assert gaps == {p["BL"] // 2 + rtrs}


@pytest.mark.parametrize("standard", STANDARDS)
def test_turnaround_costs(standard: str) -> None:
    """A write then a read of the open row waits CWL + BL/2 + tWTR_L after the WR; a read then a write waits tRTW."""
    p = params(standard, ranks=1, subchannels=1, address_map="RoRaBaBgCoCh")
    dram = _engine.DramSystem(p, 1, False)
    dram.record_trace(100)
    size = burst_bytes(p)
    dram.transfer(0, size, True, 0)
    start = ck(p, p["tRCD_nCK"] + 1)
    dram.transfer(size, size, False, int(start))
    wr, rd = ([t[0] for t in dram.trace() if t[2] == op] for op in ("WR", "RD"))
    assert rd[0] - wr[0] == ck(p, p["CWL_nCK"] + p["BL"] // 2 + p["tWTR_L_nCK"])
    dram.transfer(2 * size, size, True, rd[0] + 1)
    wr = [t[0] for t in dram.trace() if t[2] == "WR"]
    assert wr[1] - rd[0] == ck(p, p["tRTW_nCK"])
    assert dram.counters()["turnarounds"] == 2


@pytest.mark.parametrize("standard", STANDARDS)
def test_more_channels_divide_the_time(standard: str) -> None:
    """An interleaved stream on 8 channels takes the time of an eighth of it on one."""
    p = params(standard)
    one, eight = _engine.DramSystem(p, 1, False), _engine.DramSystem(p, 8, False)
    end = one.transfer(0, 1 << 20, False, 0)
    assert eight.transfer(0, 8 << 20, False, 0) == end
    a, b = one.counters(), eight.counters()
    assert {k: 8 * v for k, v in a.items()} == b

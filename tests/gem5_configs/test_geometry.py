"""Cache and DRAM geometry that gem5 is given, held against the systems' own numbers."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec import geometry
from spec import system as systems
from spec.errors import SpecError

from gempim.systems import load_dram

SAIL = systems.resolve("sail")["sections"]


def test_sail_slices_keep_their_sets_and_lose_the_ways_of_the_arrays() -> None:
    whole = geometry.llc_slices(SAIL["llc"])
    assert (whole.slices, whole.sets, whole.ways, whole.taken_ways) == (32, 1024, 16, 0)
    assert whole.size_bytes == SAIL["llc"]["slice_bytes"]
    left = geometry.llc_slices(SAIL["llc"], SAIL["sram_pim"])
    # 32 arrays of 256 x 256 bits are 256 KiB of the slice's 1 MiB: 4 of 16 ways.
    assert (left.sets, left.ways, left.taken_ways) == (1024, 12, 4)
    kept = geometry.llc_slices(SAIL["llc"], {**SAIL["sram_pim"], "arrays_take_llc_capacity": False})
    assert kept == whole


@given(
    log_slices=st.integers(0, 6),
    slice_bytes=st.sampled_from([64 << 10, 1 << 20, 3 << 19, 1280 << 10, 4 << 20]),
    arrays=st.integers(1, 40),
)
def test_capacity_is_never_more_than_what_the_arrays_leave(log_slices: int, slice_bytes: int, arrays: int) -> None:
    llc = {"slices": 1 << log_slices, "slice_bytes": slice_bytes}
    pim = {**SAIL["sram_pim"], "slices": 1 << log_slices, "arrays_per_slice": arrays}
    taken = arrays * 8192
    if taken > slice_bytes - slice_bytes // geometry.llc_slices(llc).ways:
        with pytest.raises(SpecError, match="leave no cache"):
            geometry.llc_slices(llc, pim)
        return
    g = geometry.llc_slices(llc, pim)
    assert g.sets & (g.sets - 1) == 0
    assert g.size_bytes <= slice_bytes - taken
    assert g.size_bytes > slice_bytes - taken - g.sets * geometry.LINE_BYTES, "no more than a way is lost to rounding"


def test_slices_share_the_lines_and_use_all_their_sets() -> None:
    g = geometry.llc_slices({"slices": 8, "slice_bytes": 64 << 10})
    masks = g.interleave_masks()
    used: dict[int, Counter[int]] = {s: Counter() for s in range(8)}
    for line in range(g.reach_bytes() // 64):
        address = 64 * line
        chosen = sum(((address & mask).bit_count() & 1) << i for i, mask in enumerate(masks))
        used[chosen][line % g.sets] += 1
    for sets in used.values():
        assert set(sets) == set(range(g.sets))
        assert set(sets.values()) == {1}
    first = [sum(((64 * n & m).bit_count() & 1) << i for i, m in enumerate(masks)) for n in range(8)]
    assert sorted(first) == list(range(8)), "consecutive lines lie in different slices"


@pytest.mark.parametrize(
    ("llc", "message"),
    [
        ({"slices": 24, "slice_bytes": 1 << 20}, "llc.slices = 24: .*power of two.*use 16 or 32"),
        ({"slices": 4, "slice_bytes": 512}, "llc.slice_bytes = 512: does not divide"),
        ({"slices": 4, "slice_bytes": (1 << 20) + 64}, "llc.slice_bytes = 1048640: does not divide"),
    ],
)
def test_llc_that_gem5_cannot_have(llc: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        geometry.llc_slices(llc)


def test_private_caches() -> None:
    assert geometry.private_caches(SAIL["cpu"]) == geometry.PrivateCaches(l1_bytes=65536, l2_bytes=1 << 20)
    with pytest.raises(SpecError, match=r"cpu\.l2_bytes = 1000000: expected a power of two of sets of 8 lines"):
        geometry.private_caches({**SAIL["cpu"], "l2_bytes": 1_000_000})


def _ps(text: str) -> int:
    found = re.fullmatch(r"(\d+)ps", text)
    assert found, text
    return int(found[1])


@pytest.mark.parametrize("standard", ["ddr4-3200", "ddr5-4800"])
def test_dram_channels(standard: str) -> None:
    dram = {k: q.value for k, q in load_dram(standard).items()}
    g = geometry.dram_channels({"channels": 8}, dram)
    i: dict[str, Any] = g.interface
    tck = dram["tCK_ps"]
    assert g.channels == 8 * dram["subchannels"]
    # A burst moves one line, and the channels together have the peak bandwidth of the standard.
    line = i["devices_per_rank"] * i["device_bus_width"] * i["burst_length"] // 8
    assert line == geometry.LINE_BYTES
    peak = g.channels * line / _ps(i["tBURST"]) * 1e12
    assert peak == pytest.approx({"ddr4-3200": 204.8e9, "ddr5-4800": 307.2e9}[standard], rel=0.002)
    # What gem5 computes from its parameters is what the standard says, command to command.
    assert _ps(i["tRTW"]) + _ps(i["tBURST"]) == dram["tRTW_nCK"] * tck
    write_to_read = _ps(i["tCWL"]) + _ps(i["tBURST"]) + _ps(i["tWTR_L"])
    assert write_to_read == (dram["CWL_nCK"] + dram["BL"] // 2 + dram["tWTR_L_nCK"]) * tck
    assert _ps(i["tRAS"]) + _ps(i["tRP"]) == dram["tRC_nCK"] * tck
    assert i["banks_per_rank"] == dram["bank_groups"] * dram["banks_per_group"]
    assert int(i["device_rowbuffer_size"][:-1]) * i["devices_per_rank"] == dram["row_bytes"]
    assert _ps(i["tCCD_L"]) > _ps(i["tBURST"]), "gem5 refuses anything else where there are bank groups"
    assert g.controller == {"write_high_thresh_perc": 75, "write_low_thresh_perc": 25, "min_writes_per_switch": 32}


@pytest.mark.parametrize(
    ("memory", "change", "message"),
    [
        ({"channels": 6}, {}, "memory.channels = 6 .*power of two"),
        ({"channels": 8}, {"tCCD_S_nCK": 5}, "dram.tCCD_S_nCK = 5: gem5 has none beside the burst of 4 clocks"),
        ({"channels": 8}, {"tRTW_nCK": 3}, "dram.tRTW_nCK = 3: shorter than the burst"),
    ],
)
def test_dram_that_gem5_cannot_have(memory: dict[str, int], change: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        geometry.dram_channels(memory, {**SAIL["dram"], **change})


@pytest.mark.parametrize("standard", ["hbm2-2000", "hbm2e-3200", "hbm3-5200"])
def test_hbm_is_refused(standard: str) -> None:
    with pytest.raises(SpecError, match=r"^dram\.\w+ = \w+: gem5's controller is for .* only; HBM is not modelled"):
        geometry.dram_channels({"channels": 8}, {k: q.value for k, q in load_dram(standard).items()})


@pytest.mark.parametrize(
    "change", [{"beats_per_clock": 4}, {"command_buses": 2}, {"refresh": "per_bank"}, {"tRCD_WR_cut_nCK": 3}]
)
def test_each_property_that_gem5_lacks_is_named(change: dict[str, Any]) -> None:
    (key,) = change
    with pytest.raises(SpecError, match=rf"^dram\.{key} = {change[key]}: "):
        geometry.dram_channels({"channels": 8}, {**SAIL["dram"], **change})


def test_clock_is_whole_picoseconds() -> None:
    assert geometry.clock(2.5e9) == "400ps"
    assert geometry.clock(3e9) == "333ps"
    with pytest.raises(SpecError, match=r"cpu\.clock_hz = 0"):
        geometry.clock(0)

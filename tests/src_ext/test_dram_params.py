"""Parameters and data files: strict keys, combinations that no DRAM has, and JEDEC times behind the clocks."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from dram_util import DATA, STANDARDS, params

from gempim import _engine

BAD: list[tuple[str, int | str, str]] = [
    ("tCK_ps", 0, "100 to 10000"),
    ("bus_bits", 20, "multiple of 8"),
    ("BL", 7, "even"),
    ("row_bytes", 8200, "multiple of the burst"),
    ("tRAS_nCK", 10, "tRCD_nCK = 22"),
    ("tRC_nCK", 73, "tRAS_nCK + tRP_nCK = 74"),
    ("tRRD_L_nCK", 3, "tRRD_S_nCK = 4"),
    ("tFAW_nCK", 3, "tRRD_S_nCK = 4"),
    ("tCCD_S_nCK", 3, "BL / 2"),
    ("tCCD_L_nCK", 3, "tCCD_S_nCK = 4"),
    ("tCCD_L_WR_nCK", 3, "tCCD_S_nCK = 4"),
    ("tWTR_L_nCK", 3, "tWTR_S_nCK = 4"),
    ("CWL_nCK", 23, "CL_nCK = 22"),
    ("tRTW_nCK", 9, "CL_nCK + BL / 2 - CWL_nCK"),
    ("tREFI_ps", 400_000, "tRFC_ps"),
    ("write_high", 65, "write_queue = 64"),
    ("write_low", 48, "write_high = 48"),
    ("ranks", 9, "1 to 8"),
    ("address_map", "RoRaBaCoBg", "exactly once"),
    ("address_map", "RoRaBaCoBgBg", "exactly once"),
    ("address_map", "RoRaBaCoBgXx", "exactly once"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD, ids=[f"{n}={v}" for n, v, _ in BAD])
def test_bad_value_names_parameter_and_range(name: str, value: int | str, allowed: str) -> None:
    """Each bad combination is refused with the parameter's name and what is allowed."""
    with pytest.raises(_engine.ParamError) as error:
        _engine.DramSystem(params("ddr4-3200", **{name: value}), 1)
    assert f"dram.{name}" in str(error.value)
    assert allowed in str(error.value)


def test_strict_keys_and_channels() -> None:
    """A missing key, an unknown key, a fraction, and no channels."""
    good = params("ddr4-3200")
    for bad, message in [
        ({k: v for k, v in good.items() if k != "tRCD_nCK"}, "tRCD_nCK is missing"),
        (good | {"tRCD": 3}, "tRCD: unknown key"),
        (good | {"tRCD_nCK": 21.5}, "tRCD_nCK: expected a whole number"),
    ]:
        with pytest.raises(_engine.ParamError, match=message):
            _engine.DramSystem(bad, 1)
    for channels in (0, 5000):
        with pytest.raises(_engine.ParamError, match=r"channels.*1 to 1024"):
            _engine.DramSystem(good, channels)


def test_bad_calls() -> None:
    """Beyond the capacity, and back in time: errors that say so, with nothing changed."""
    dram = _engine.DramSystem(params("ddr4-3200"), 2)
    capacity = dram.capacity_bytes
    for addr, size in [(0, capacity + 1), (capacity, 1), (2**63, 2**63), (capacity - 64, 65)]:
        with pytest.raises(ValueError, match="beyond the memory"):
            dram.transfer(addr, size, False, 0)
        with pytest.raises(ValueError, match="beyond the memory"):
            dram.mixed(64, size, 0, 0, addr)
    assert set(dram.counters().values()) == {0}
    end = dram.transfer(capacity - 64, 64, True, 1000)
    with pytest.raises(ValueError, match="start = 999"):
        dram.transfer(0, 64, False, 999)
    assert dram.transfer(0, 0, False, end) == end
    assert dram.mixed(0, 0, end + 5) == end + 5
    assert (dram.counters()["reads"], dram.counters()["writes"]) == (0, 1)


def test_counter_and_parameter_lists() -> None:
    """The names other rooms rely on, each with unit and description; what is left out is said."""
    names = {c["name"] for c in _engine.dram_counter_info()}
    assert names == {
        "acts", "pres", "reads", "writes", "refs", "act_standby_ps", "pre_standby_ps", "read_bytes", "write_bytes",
        "row_hits", "row_misses", "row_conflicts", "turnarounds",
    }  # fmt: skip
    assert set(_engine.DramSystem(params("ddr5-4800"), 1).counters()) == names
    for info in (*_engine.dram_counter_info(), *_engine.dram_param_info()):
        assert info["unit"]
        assert info["description"]
    assert any("refresh" in line for line in _engine.dram_not_modelled())


def rows(standard: str) -> dict[str, dict[str, Any]]:
    return tomllib.loads((DATA / f"{standard}.toml").read_text())["params"]


@pytest.mark.parametrize("standard", STANDARDS)
def test_data_file_is_complete(standard: str) -> None:
    """Keys equal the C++ names, units equal the model's, every number has scope, source and kind."""
    info = {i["name"]: i for i in _engine.dram_param_info()}
    data = rows(standard)
    assert set(data) == set(info)
    for name, row in data.items():
        assert set(row) == {"value", "unit", "scope", "source", "kind"}, name
        assert row["unit"] == info[name]["unit"], name
        assert row["kind"] in ("standard", "derived", "choice"), name
        assert len(row["source"]) > 8, name
        assert row["scope"], name


# The standards' own times: (ns, least clocks). JESD79-4 (3200, 1 KB page, 8 Gb) and JESD79-5 (4800B, 1 KB page, 16 Gb).
TIMES = {
    "ddr4-3200": {
        "tRCD": (13.75, 0), "tRP": (13.75, 0), "tRAS": (32, 0), "tRC": (45.75, 0), "tRRD_S": (2.5, 4),
        "tRRD_L": (4.9, 4), "tFAW": (21, 20), "tCCD_S": (0, 4), "tCCD_L": (5, 5), "tRTP": (7.5, 4), "tWR": (15, 0),
        "tWTR_S": (2.5, 2), "tWTR_L": (7.5, 4),
    },
    "ddr5-4800": {
        "tRCD": (16, 0), "tRP": (16, 0), "tRAS": (32, 0), "tRRD_S": (0, 8), "tRRD_L": (5, 8), "tFAW": (13.333, 32),
        "tCCD_S": (0, 8), "tCCD_L": (5, 8), "tCCD_L_WR": (10, 16), "tRTP": (7.5, 12), "tWR": (30, 0),
        "tWTR_S": (2.5, 4), "tWTR_L": (10, 16),
    },
}  # fmt: skip


@pytest.mark.parametrize("standard", STANDARDS)
def test_clocks_follow_from_the_standards_times(standard: str) -> None:
    """Each timing is the standard's time divided by the clock, rounded up (DDR5: after its 0.3 % correction)."""
    p = params(standard)
    for name, (ns, least) in TIMES[standard].items():
        ps, ck = round(ns * 1000), p["tCK_ps"]
        # JESD79-5, rounding: nCK = truncate((ps * 0.997 / tCK) + 1), in integers of a thousandth.
        clocks = (ps * 997 // ck + 1000) // 1000 if standard == "ddr5-4800" else -(-ps // ck)
        assert p[f"{name}_nCK"] == max(clocks, least), name
    assert p["CL_nCK"] == {"ddr4-3200": 22, "ddr5-4800": 40}[standard]

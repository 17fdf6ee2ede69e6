"""Parameters, data files, energy and area of the PIM: strict keys, ranges, sources, and the papers' sums."""

from __future__ import annotations

import fnmatch
import tomllib
from pathlib import Path
from typing import Any

import pytest
from logic_pim_util import hbm, pim

from gempim import _engine
from gempim.analysis.energy import load_energy_table
from gempim.bench.hbm3_checker import PIMS
from gempim.engines.logic_pim import LogicPim
from gempim.quantity import KINDS, DataError

DATA = Path(__file__).parents[2] / "gempim" / "data"

BAD: list[tuple[dict[str, Any], str]] = [
    ({"bundle_ranks": 3}, "a divisor of dram.ranks = 2"),
    ({"bundle_banks": 3}, "a divisor of dram.banks_per_group = 4"),
    ({"bundle_ccd_nCK": 3}, ">= tCCD_L, tCCD_L_WR and the burst, 4"),
    ({"activation_limit": "some"}, "none or normal"),
    ({"priority": "gpu"}, "pim or xpu"),
    ({"result_write": "host"}, "bundle or bank"),
    ({"module_buffer_bytes": 1024}, "two columns"),
    ({"softmax_buffer_bytes": 256}, "two sets of 64 scores"),
    ({"refresh_phase": 1.5}, "0 to 1"),
    ({"macs_per_clock": 0}, "1 to 65536"),
]


@pytest.mark.parametrize(("override", "allowed"), BAD, ids=[str(o) for o, _ in BAD])
def test_bad_value_names_parameter_and_range(override: dict[str, Any], allowed: str) -> None:
    """Each is refused with the parameter's name and what is allowed, as a DataError in Python."""
    with pytest.raises(DataError) as error:
        LogicPim(pim(**override), hbm(), 5)
    assert all(f"logic_pim.{name}" in str(error.value) for name in override)
    assert allowed in str(error.value)


def test_strict_keys_and_stacks() -> None:
    """A missing key, an unknown key, a fraction, a bad DRAM set, no stacks."""
    for bad, message in [
        ({k: v for k, v in pim().items() if k != "rows_ahead"}, "rows_ahead is missing"),
        (pim() | {"rows": 3}, "rows: unknown key"),
        (pim(rows_ahead=0.5), "rows_ahead: expected a whole number"),
    ]:
        with pytest.raises(DataError, match=message):
            LogicPim(bad, hbm(), 5)
    with pytest.raises(DataError, match=r"dram\.tRAS_nCK"):
        LogicPim(pim(), hbm(tRAS_nCK=3), 5)
    for stacks in (0, 65):
        with pytest.raises(DataError, match="1 to 64"):
            LogicPim(pim(), hbm(), stacks)


@pytest.mark.parametrize("system", PIMS)
def test_shipped_systems_are_accepted(system: str) -> None:
    """The PIM of every shipped system, with its own timing set."""
    assert LogicPim(pim(system), hbm(), 5).stream_peak_bytes_per_s > 1e13


def test_lists_name_what_is_modelled() -> None:
    """Counters have unit and description and are what operators return; what is left out is said."""
    names = [c["name"] for c in _engine.logic_pim_counter_info()]
    counts = LogicPim(pim(), hbm(), 1).gemm(64, 64, 1).counts
    assert set(counts) == set(names)
    assert len(names) == len(set(names))
    for info in (*_engine.logic_pim_counter_info(), *_engine.logic_pim_param_info()):
        assert info["unit"]
        assert len(info["description"]) > 8
    assert len(_engine.logic_pim_not_modelled()) >= 5


def test_the_papers_figures() -> None:
    """21.3 TFLOPS and 2.66 TB/s a stack, 8 Op/B, four spaces of 4 GB a stack, twelve tokens in 8 KB."""
    stack = LogicPim(pim(), hbm(), 1)
    assert stack.peak_flops_per_s == pytest.approx(21.3e12, rel=0.002)
    assert stack.stream_peak_bytes_per_s == pytest.approx(2.66e12, rel=0.002)
    assert stack.xpu_peak_bytes_per_s == pytest.approx(665.6e9, rel=0.001)
    assert (stack.spaces, stack.space_bytes) == ((0, 1, 2, 3), 4 << 30)
    assert (stack.device.column_bytes, stack.device.tokens_held) == (256, 12)


@pytest.mark.parametrize(
    ("table", "nanojoules"),
    [
        ("hbm3-logic-pim", 0.464), ("hbm3-logic-pim-full-path", 0.814), ("hbm3-bankgroup-pim", 0.686),
        ("hbm3-bank-pim", 0.187),
    ],
)  # fmt: skip
def test_energy_tables(table: str, nanojoules: float) -> None:
    """nJ a burst as in the public code; activation 0.909 nJ, MAC 0.46 pJ, xPU path 0.891 nJ; all counts covered."""
    loaded = load_energy_table(table)
    per = {row.stat.removeprefix("system.logic_pim."): row.joules_per_count for row in loaded.rows}
    assert per["pim_reads"] == per["pim_writes"] == pytest.approx(nanojoules * 1e-9, rel=2e-3)
    assert per["pim_acts"] == per["xpu_acts"] == pytest.approx(0.909e-9)
    assert per["xpu_reads"] == per["xpu_writes"] == pytest.approx(0.891e-9, rel=1e-3)
    assert per["macs"] == pytest.approx(0.46e-12)
    for counter in _engine.logic_pim_counter_info():
        stat = f"system.logic_pim.{counter['name']}"
        covered = any(fnmatch.fnmatchcase(stat, entry.pattern) for entry in loaded.covered)
        assert (counter["name"] in per) != covered, stat


@pytest.mark.parametrize("name", ["logic-pim", "bankgroup-pim", "bank-pim"])
def test_area(name: str) -> None:
    """Parts add up to the total (the paper's own rounding: 17.81 printed as 17.80), and to its share."""
    data = tomllib.loads((DATA / "area" / f"{name}.toml").read_text())
    for table in ("die", "parts", "total"):
        for key, row in data[table].items():
            assert set(row) == {"value", "unit", "scope", "source", "kind"}, key
            assert row["kind"] in KINDS
    total, die = data["total"]["area_mm2"]["value"], data["die"]["area_mm2"]["value"]
    assert sum(row["value"] for row in data["parts"].values()) == pytest.approx(total, abs=0.011)
    dies = 1 if name == "logic-pim" else data["die"]["dram_dies"]["value"] + 1
    assert data["total"]["share"]["value"] == pytest.approx(total / (dies * die), abs=6e-5)
    if name == "logic-pim":
        assert (total, round(100 * total / die, 2)) == (17.80, 14.71)

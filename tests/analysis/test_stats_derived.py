"""Quantities that gem5 does not print: by hand on small sections, and within the bounds that real files give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gempim.analysis.stats import Section, StatsError, parse_stats, quantity, total
from gempim.analysis.stats.derived import DERIVED

DATA = Path(__file__).with_name("stats_data")


def section(**scalars: float) -> Section:
    return Section(Path("s"), 0, 1, {name.replace("__", "."): value for name, value in scalars.items()})


@pytest.mark.parametrize(
    "name", ["v20-o3", "v21-v22-two-idle-cycles", "v22.1-o3", "v22.1-minor", "v24.0-timing", "v25.0-simple"]
)
def test_activations_are_near_the_precharges(name: str) -> None:
    """Every row that was opened is closed, but for those that are open when a file ends: at most one a bank."""
    found = parse_stats(DATA / f"{name}.txt")[0]
    acts = DERIVED["dram_activations"].value(found)
    banks = 2 * 16 * len(quantity(found, "dram_read_bursts"))
    assert total(found, "dram_precharges") <= acts + banks
    assert acts <= total(found, "dram_precharges") + banks
    assert acts


NAMES = {
    "scalar": ("IntAlu", "No_OpClass", "System"),
    "vector": ("SimdFloatMult", "FloatDiv", "VectorConfig", "Bf16Cvt", "MatrixOP"),
    "load": ("MemRead", "FloatMemRead", "SimdStridedLoad", "VectorWholeRegisterLoad"),
    "store": ("MemWrite", "FloatMemWrite", "SimdIndexedStore"),
}
CLASSES = {name: kind for kind, names in NAMES.items() for name in names}


@pytest.mark.parametrize(
    "vector",
    ["commitStats0__committedInstType", "commit__committedInstType_0", "committedInstType_0",
     "exec_context__thread_0__statExecutedInstType", "commit__op_class_0", "op_class"],
)  # fmt: skip
def test_every_operation_is_in_one_class(vector: str) -> None:
    """Two cores, random counts, the names of every version: classes by hand, and together they are the total."""
    rng = np.random.default_rng(1)
    counts = {(core, kind): int(rng.integers(1, 10**6)) for core in ("cpu0", "cpu1") for kind in CLASSES}
    stats = {f"system__{core}__{vector}::{kind}": value for (core, kind), value in counts.items()}
    stats |= {f"system__{core}__{vector}::total": 10**9 for core in ("cpu0", "cpu1")}
    # Not of a core, and a second vector of the same core: neither counts.
    stats |= {f"other__{vector}::IntAlu": 7, "system__cpu0__op_class::IntAlu": 10**8, "system__cpu0__numCycles": 1}
    stats |= {"system__cpu1__numCycles": 1}
    if vector == "op_class":
        stats["system__cpu0__op_class::IntAlu"] = counts["cpu0", "IntAlu"]
    found = section(**stats)
    for kind in ("scalar", "vector", "load", "store"):
        expected = sum(value for (_, name), value in counts.items() if CLASSES[name] == kind)
        assert DERIVED[f"{kind}_ops"].value(found) == expected


def test_an_unknown_class_is_an_error() -> None:
    found = section(**{"a__cpu__numCycles": 1, "a__cpu__commitStats0__committedInstType::Quantum": 5})
    with pytest.raises(StatsError, match="unknown class of operations 'Quantum'"):
        DERIVED["load_ops"].value(found)


def test_standby_is_by_share_of_the_section() -> None:
    """A rank's states add up to more than the section (gem5 books the first from its own beginning): 1/4, 1/2 open."""
    states = {"rank0__pwrStateTime::ACT": 300, "rank0__pwrStateTime::IDLE": 900, "rank1__pwrStateTime::ACT_PDN": 500,
              "rank1__pwrStateTime::REF": 500}  # fmt: skip
    names = {f"m__{name}": value for name, value in states.items()} | {"simTicks": 1000, "simFreq": 10**9}
    found = section(**names)
    assert DERIVED["dram_open_ps"].value(found) == pytest.approx(1_000_000 * (0.25 + 0.5))
    assert DERIVED["dram_closed_ps"].value(found) == pytest.approx(1_000_000 * (0.75 + 0.5))
    old = {"m_0__memoryStateTime::ACT": 300, "m_0__memoryStateTime::IDLE": 100, "sim_ticks": 8, "sim_freq": 10**12}
    assert DERIVED["dram_open_ps"].value(section(**old)) == pytest.approx(6)


@pytest.mark.parametrize("name", DERIVED)
def test_missing_is_an_error(name: str) -> None:
    with pytest.raises(StatsError, match="section 0: no "):
        DERIVED[name].value(section(simTicks=5, simFreq=10**12))

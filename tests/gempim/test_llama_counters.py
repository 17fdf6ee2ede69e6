"""gem5's statistics as our counters: a section recorded from gem5 (two cores, SAIL, a small GEMV), and its holes.

The expected numbers were added up from the recorded file with awk, not by the code under test.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gempim.analysis.energy import load_energy_table
from gempim.analysis.stats import Section, StatsError, parse_stats
from gempim.engines.llama.counters import MAP, Counts, descriptions, mean, region_counts, total
from gempim.systems import load_system

RECORDED = Path(__file__).parent / "gem5_section.txt"
SAIL, N1 = load_system("sail"), load_system("neoverse-n1")


@pytest.fixture
def section() -> Section:
    return parse_stats(RECORDED)[0]


def test_a_recorded_section(section: Section) -> None:
    counts = region_counts(section, SAIL)
    assert (counts.sim_ps, counts.instructions, counts.pim_ps) == (4840400, 1255, 4234000)
    events = counts.events
    wanted = {
        "system.cpu.busyCycles": 1540,
        "system.cpu.instructions::vector": 533,
        "system.cpu.instructions::load": 118,
        "system.cpu.instructions::store": 347,
        "system.cpu.instructions::branch": 51,
        "system.cpu.instructions::scalar": 2 + 376 + 11 + 5 - 51,
        "system.l1d.bytes": 16 * (118 + 347),
        "system.l2.bytes": 11712,
        "system.llc.bytes": 4352,
        "system.dram.reads": 68,
        "system.dram.writes": 0,
        "system.dram.row_hits": 25,
        "system.dram.acts": 43,
        "system.dram.pres": 144,
        "system.dram.read_bytes": 64 * 68,
        "system.dram.turnarounds": 0,
        # Every one of 16 ranks was refreshed once in these 4.8 of 7.8 us.
        "system.dram.refs": 16,
        "system.sram_pim.commands": 8,
        "system.sram_pim.prt_hits": 93,
        "system.sram_pim.weight_bytes": 9216,
    }
    assert {name: events[name] for name in wanted} == wanted
    kinds = [v for k, v in events.items() if k.startswith("system.cpu.instructions::")]
    assert sum(kinds) == 1392, "gem5's committedInstType::total: no class is lost"
    standby = events["system.dram.act_standby_ps"] + events["system.dram.pre_standby_ps"]
    assert standby == pytest.approx(16 * 4840400), "each rank is in one of the two all the time"


def test_every_counter_is_explained_and_has_its_energy(section: Section) -> None:
    events = region_counts(section, SAIL).events
    made_later = {"system.cpu.cores", "system.cpu.threads", "system.cpu.idlePs"}
    assert set(events) | made_later == set(descriptions())
    assert all(m.gem5 and m.unit and m.description for m in MAP.values())
    table = load_energy_table(SAIL.energy_table)
    wanted = {row.stat for row in table.rows if row.stat.startswith("system.") and ".gpu." not in row.stat}
    assert wanted <= set(descriptions()), "a row of the energy table that gem5 has no count for"


def test_a_cpu_has_no_pim_counters(section: Section) -> None:
    counts = region_counts(section, N1)
    assert counts.pim_ps == 0
    assert not [name for name in counts.events if "sram_pim" in name]


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("board.processor.cores", "no statistic of system.cpu.busyCycles"),
        ("board.memory.mem_ctrl0.dram.rank", None),
        ("board.memory.", "no statistic of system.dram.reads"),
        ("board.cache_hierarchy.sram_pim.prt_hits", "the SRAM-PIM has no prt_hits"),
        ("board.cache_hierarchy.sram_pim", "no statistics of the SRAM-PIM"),
        ("simTicks", "no statistic 'simTicks'"),
    ],
)
def test_what_gem5_does_not_say_is_an_error_and_not_zero(section: Section, start: str, message: str | None) -> None:
    for name in [n for n in section.scalars if n.startswith(start)]:
        del section.scalars[name]
    if message is None:
        region_counts(section, SAIL)  # the other channels are there
        return
    with pytest.raises(StatsError, match=message):
        region_counts(section, SAIL)


def test_an_unknown_class_of_instructions_is_an_error(section: Section) -> None:
    section.scalars["board.processor.cores0.core.commitStats0.committedInstType::Quantum"] = 1
    with pytest.raises(StatsError, match="unknown class of instructions 'Quantum'"):
        region_counts(section, SAIL)


def test_cores_that_only_loaded_the_model_do_not_count(section: Section) -> None:
    """After --fast-forward the fast cores are still in the statistics."""
    before = region_counts(section, SAIL).events["system.cpu.busyCycles"]
    section.scalars["board.processor.fast0.core.numCycles"] = 10**9
    assert region_counts(section, SAIL).events["system.cpu.busyCycles"] == before


def test_what_the_pim_moves_is_not_the_cores_traffic(section: Section) -> None:
    before = region_counts(section, SAIL).events["system.llc.bytes"]
    for port in ("pim_data_cache.mem_side_port", "sram_pim.weight_side[0]"):
        section.scalars[f"board.cache_hierarchy.mesh.pktSize_board.cache_hierarchy.{port}::total"] = 64_000
    assert region_counts(section, SAIL).events["system.llc.bytes"] == before


def test_sums_and_means() -> None:
    a, b = Counts(10, 4, 2, {"x": 1}), Counts(30, 8, 0, {"x": 5, "y": 2})
    assert total([a, b]) == Counts(40, 12, 2, {"x": 6, "y": 2})
    assert mean([a, b]) == Counts(20, 6, 1, {"x": 3, "y": 1})
    assert a.plus(b, 2).events == {"x": 11, "y": 4}
    assert a.events == {"x": 1}, "nothing is changed in place"

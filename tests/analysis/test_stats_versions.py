"""The name map against what gem5 v20 to v25 really printed: the figures here were read off the excerpts by eye."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from gempim.analysis.stats import (
    Section,
    StatsError,
    dram_energy_j,
    iter_stats,
    load_names,
    notes,
    parse_stats,
    quantity,
    total,
    true_unit,
    versions,
)
from gempim.analysis.stats.names import present
from gempim.quantity import DataError

DATA = Path(__file__).with_name("stats_data")

# quantity -> total, by excerpt. None: gem5 does not print it there, which must be an error and not 0.
EXPECTED: dict[str, dict[str, float | None]] = {
    "v20-o3": {
        "sim_ticks": 3750960000, "instructions": 20192780, "cycles": 7501921, "loads": 2802483, "stores": None,
        "cache_accesses": 2502302 + 32062, "cache_misses": 133134 + 13199, "dram_read_bursts": 13191,
        "dram_write_bursts": 0, "dram_read_bytes": 844224, "dram_write_bytes": 0, "dram_precharges": 2900,
        "dram_rank_energy": 1164138525 + 1159596345,
    },
    "v21-v22-two-idle-cycles": {
        # numInsts is what the O3 executed (17107), committedInsts what it committed.
        "sim_ticks": 29118000, "instructions": 5774, "loads": 1090, "stores": None, "cache_accesses": 2592 + 422,
        "dram_read_bursts": 409, "dram_read_bytes": 26176, "dram_precharges": 103,
        "dram_rank_energy": 16187175 + 17808660,
    },
    "v22.1-o3": {
        "sim_ticks": 7607894000, "instructions": 11585134, "cycles": 7607895, "loads": 5840874, "stores": None,
        "cache_accesses": 8204944, "cache_misses": 59832, "dram_read_bursts": 26695, "dram_write_bursts": 10541,
        "dram_read_bytes": 1708480, "dram_write_bytes": 674624, "dram_precharges": 5323,
        "dram_rank_energy": 3950799735 + 4051617570,
    },
    "v22.1-minor": {
        "sim_ticks": 31896443000, "instructions": 11585144, "loads": None, "cache_accesses": 8238619,
        "dram_read_bursts": 27530, "dram_write_bursts": 12060, "dram_read_bytes": 1761920, "dram_precharges": 7613,
    },
    "v23.0-two-cores": {
        "sim_ticks": 4794840918000, "instructions": 223863550 + 15604422, "loads": 66150638 + 4796721,
        "stores": 19702596 + 3182568, "cycles": 9590886422 + 9589887540, "cache_accesses": 81710855 + 7773155 + 765819,
        "dram_read_bursts": 0, "dram_read_bytes": 0, "dram_precharges": None,
    },
    "v23.1-atomic": {
        "sim_ticks": 119254000, "instructions": 109910, "loads": 28290, "stores": 13272, "cycles": 238537,
        "cache_accesses": 41473 + 3204, "dram_read_bytes": 0, "dram_rank_energy": 2 * 45793920,
    },
    "v24.0-timing": {
        "sim_ticks": 150874000, "instructions": 204908, "loads": 34216, "stores": 9860, "cycles": 377185,
        "cache_accesses": 44052 + 2060, "cache_misses": 496 + 248, "dram_read_bursts": 372 + 370,
        "dram_read_bytes": 23808 + 23680, "dram_precharges": 185 + 187,
        "dram_rank_energy": 69984831 + 70418313 + 70016262 + 70433047.5,
    },
    "v24.0-hbm": {"sim_ticks": 2000000, "instructions": None, "dram_read_bursts": 321, "dram_write_bytes": 4224},
    "v25.0-simple": {
        "sim_ticks": 454646000, "instructions": 5714, "loads": 1084, "stores": 943, "cycles": 909292,
        "cache_accesses": None, "dram_read_bursts": 8207, "dram_write_bursts": 96, "dram_read_bytes": 525248,
        "dram_write_bytes": 6144, "dram_precharges": 840, "dram_rank_energy": 278973615 + 265332435,
    },
}  # fmt: skip

BOUNDS = {
    "v20-o3": ("", "v20.1"), "v21-v22-two-idle-cycles": ("v21.0", "v22.1"), "v22.1-o3": ("v21.0", "v22.1"),
    "v22.1-minor": ("v21.0", "v23.0"), "v23.0-two-cores": ("v23.0", "v23.0"), "v23.1-atomic": ("v23.1", ""),
    "v24.0-timing": ("v23.1", ""), "v25.0-simple": ("v23.1", ""),
}  # fmt: skip


def excerpt(name: str) -> Section:
    return parse_stats(DATA / f"{name}.txt")[0]


@pytest.mark.parametrize("name", EXPECTED)
def test_every_quantity_under_the_name_of_its_version(name: str) -> None:
    section = excerpt(name)
    for key, value in EXPECTED[name].items():
        if value is None:
            with pytest.raises(StatsError, match=rf"no statistic of {key}.*looked for .*\(v?[0-9a-z]"):
                quantity(section, key)
            assert key not in present(section)
        else:
            assert total(section, key) == value, key


def test_by_component() -> None:
    """Each core, cache and controller has its own value, and no cache's is taken for another's."""
    section = excerpt("v23.0-two-cores")
    assert quantity(section, "instructions") == {"system.cpu0": 223863550, "system.cpu1": 15604422}
    assert quantity(excerpt("v24.0-timing"), "cache_misses") == {
        "board.cache_hierarchy.l1d": 496,
        "board.cache_hierarchy.l2": 248,
    }


@pytest.mark.parametrize("name", BOUNDS)
def test_the_version_is_told_by_the_names(name: str) -> None:
    assert versions(excerpt(name)) == BOUNDS[name]


def test_ruby_caches() -> None:
    """By their names in gem5's src/mem/ruby/structures/CacheMemory.cc at v22.1, v24.0 and v25.1."""
    name = "board.cache_hierarchy.ruby_system.l1_controllers{}.L1Dcache"
    section = Section(Path("x"), 0, 1, {f"{name.format(i)}.m_demand_accesses": 10 + i for i in range(3)})
    assert quantity(section, "ruby_cache_accesses") == {name.format(i): 10 + i for i in range(3)}


def test_names_of_two_versions_in_one_section_are_refused() -> None:
    both = Section(Path("x"), 0, 1, {"sim_ticks": 1, "system.cpu.commitStats0.numInsts": 1, "system.cpu.numCycles": 1})
    with pytest.raises(StatsError, match=r"v23\.0 and later beside some of v20\.1"):
        versions(both)


def test_unknown_quantity_names_the_nearest() -> None:
    with pytest.raises(StatsError, match="no quantity 'instruction' in the name map; did you mean 'instructions'"):
        quantity(excerpt("v25.0-simple"), "instruction")


def test_energy_declared_joule_is_pj_and_watt_is_mw() -> None:
    """v25's ranks: 278973615 + 265332435 pJ over 454.646 us are 1.197 W, the 613.6 mW + 583.6 mW that gem5 prints."""
    section = excerpt("v25.0-simple")
    name = "system.mem_ctrls.dram.rank0.totalEnergy"
    assert (section.units[name], true_unit(section, name)) == ("Joule", "pJ")
    power = "system.mem_ctrls.dram.rank0.averagePower"
    assert (section.units[power], true_unit(section, power)) == ("Watt", "mW")
    joules = dram_energy_j(section)
    assert joules is not None
    watts = joules / (454646000 * 1e-12)
    assert watts == pytest.approx((613.606223 + 583.602264) * 1e-3, rel=1e-5)
    assert true_unit(section, "system.mem_ctrls.dram.dramBytesRead") == "Byte"
    assert any("declares Joule" in note and "pJ" in note for note in notes(section))


def test_hbm_energy_of_zero_is_unknown() -> None:
    section = excerpt("v24.0-hbm")
    with pytest.raises(StatsError, match=r"system\.mem_ctrl\.dram: gem5 has no current data.*energy is unknown"):
        dram_energy_j(section)
    assert any("unknown, not 0" in note for note in notes(section))
    idle = {**section.scalars, "system.mem_ctrl.dram.dramBytesRead": 0, "system.mem_ctrl.dram.dramBytesWritten": 0}
    assert dram_energy_j(Section(section.file, 0, 1, idle)) == 0.0
    assert dram_energy_j(excerpt("v24.0-no-comments")) is None


def test_dram_that_was_not_simulated_is_said() -> None:
    assert any("atomic mode" in note for note in notes(excerpt("v23.1-atomic")))
    assert not any("atomic mode" in note for note in notes(excerpt("v25.0-simple")))


def test_one_name_for_two_statistics() -> None:
    """gem5 itself prints system.cpu.idleCycles twice, 0 and 10899: the file reads, the name is an error."""
    section = excerpt("v21-v22-two-idle-cycles")
    assert section.ambiguous == {"system.cpu.idleCycles": (0, 10899)}
    assert "system.cpu.idleCycles" in section
    assert "system.cpu.idleCycles" not in section.scalars
    with pytest.raises(StatsError, match=r"'system\.cpu\.idleCycles' names several statistics: 0, 10899"):
        section.get("system.cpu.idleCycles")
    assert any("system.cpu.idleCycles" in note for note in notes(section))


def test_text_without_comments_and_padding() -> None:
    section = excerpt("v24.0-no-comments")
    assert section.get("simTicks") == 2000000
    assert section.get("system.mem_ctrl.avgPriority_tgen::samples") == 458.0
    assert not section.units
    assert not section.descriptions


def test_sections_of_one_file() -> None:
    first, second = iter_stats(DATA / "v23.0-two-cores.txt")
    assert (first.index, second.index) == (0, 1)
    assert total(second, "instructions") == 40733 + 307970


def test_json_has_the_text_formats_names_and_numbers() -> None:
    """Two runs of one simulation, one to text and one to JSON: what both have is equal, under the same name."""
    text = excerpt("v24.0-timing")
    section = parse_stats(DATA / "v24.0-timing.json")[0]
    common = set(section.scalars) & set(text.scalars)
    assert {n: section.get(n) for n in common} == {n: text.get(n) for n in common}
    assert len(common) >= 20
    assert section.get("board.memory.mem_ctrl1.dram.bytesPerActivate::total") == 187
    assert {type(section.get(n)) for n in ("simTicks", "board.processor.cores.core.numCycles")} == {int}
    assert section.units["board.memory.mem_ctrl0.dram.dramBytesRead"] == "Byte"
    assert total(section, "dram_precharges") == 185 + 187
    assert any(name.startswith("board.cache_hierarchy.l2bus.pktCount_0::") for name in section.scalars)
    with pytest.raises(StatsError, match=r"no statistic of cache_accesses.*gem5 writes no formulas to JSON"):
        total(section, "cache_accesses")


def scalar(value: object) -> str:
    return f'{{"value": {value}, "type": "Scalar", "unit": "Count", "description": null, "datatype": "f64"}}'


def write(folder: Path, text: str) -> Path:
    file = folder / "stats.json"
    file.write_text(text)
    return file


def test_json_types_that_gem5s_own_loader_cannot_read(tmp_path: Path) -> None:
    """SimObject, SimObjectVector, Vector2d, SparseHist; vectors of before v24 beside their type; bare values."""
    vector = f'{{"type": "Vector", "time_conversion": null, "a": {scalar(2.0)}, "b": {scalar(0.5)}}}'
    two = f'{{"value": {{"0": {{"value": {{"x": {scalar(1.0)}}}, "type": "Vector"}}}}, "type": "Vector2d"}}'
    file = write(
        tmp_path,
        '{"type": "SimObject", "simulated_begin_time": 10, "simulated_end_time": 35, "name": "root",'
        f'"one": {{"type": "SimObjectVector", "value": [{{"type": "SimObject", "n": {scalar(1.0)}}}]}},'
        f'"many": {{"type": "SimObjectVector", "value": [{{"n": {scalar(2.0)}}}, {{"n": {scalar(3.0)}}}]}},'
        f'"old": {vector}, "two": {two}, "bare": {{"value": 7.0}}, "name.with": {{"type": {scalar(4.0)}}},'
        f'"hist": {{"type": "SparseHist", "value": {{"17.0": {scalar(9.0)}}}}}, "none": null,'
        f'"nan": {scalar("NaN")}}}',
    )
    (section,) = parse_stats(file)
    nan = section.scalars.pop("nan")
    assert math.isnan(nan)
    assert section.scalars == {
        "one.n": 1, "many0.n": 2, "many1.n": 3, "old::a": 2, "old::b": 0.5, "two_0::x": 1, "bare": 7,
        "name.with.type": 4, "hist::17.0": 9, "simTicks": 25,
    }  # fmt: skip
    kept = parse_stats(file, keep=lambda name: name.startswith("many"))[0]
    assert kept.scalars == {"many0.n": 2, "many1.n": 3}


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        ("{", "not valid JSON"),
        ("[1, 2]", "one JSON object, got list"),
        ("{}", "no statistic in this JSON file"),
        ('{"a": {"type": "Scalar"}}', "a: expected a number, got None"),
        ('{"a": {"type": "Scalar", "value": true}}', "a: expected a number, got True"),
        ('{"a": {"type": "Scalar", "value": 1' + "0" * 400 + "}}", "a: expected a number"),
        ('{"a": {"type": "Scalar", "value": 1' + "0" * 5000 + "}}", "not valid JSON"),
        ('{"a": {"type": "Cube", "value": 1}}', "a: unknown type of statistic 'Cube'"),
        ('{"a": {"type": "Vector", "value": 3}}', "a: a vector without elements"),
        ('{"a": {"type": "Vector2d", "value": {"0": 3}}}', "a_0: a vector without elements"),
        ('{"a": {"type": "SimObjectVector", "value": 3}}', "a: expected a list"),
        ('{"a": {"type": "Distribution", "value": {"0": 3}, "sum": "x"}}', "expected a number"),
        ('{"a": 5}', "a: expected a statistic, got '5'"),
        ('{"\\ud800": {"value": 1}}', "not the name of a statistic"),
        ('{"a":' * 5000, "not valid JSON"),
        ('{"a":' * 900 + '{"value":1}' + "}" * 900, None),
    ],
)
def test_damaged_json(tmp_path: Path, text: str, expect: str | None) -> None:
    file = write(tmp_path, text)
    if expect is None:
        assert len(parse_stats(file)[0].scalars) == 1
        return
    with pytest.raises(StatsError, match=re.escape(expect) if "[" in expect else expect):
        parse_stats(file)


def test_the_map_is_strict(tmp_path: Path) -> None:
    base = 'schema = 1\n[quantity.x]\nunit = "u"\nwhat = "w"\n'
    for text, expect in (
        (base + 'names = [{ stat = "{comp}.x", gem5 = "v1" }]\n', "unknown field {comp}"),
        (base + 'names = [{ stat = "x", gem5 = "v1", since = "v2" }]\n', "unknown key 'since'"),
        (base.replace("unit", "units") + 'names = [{ stat = "x", gem5 = "v1" }]\n', "unknown key 'units'"),
        (base.replace("= 1", "= 2", 1) + 'names = [{ stat = "x", gem5 = "v1" }]\n', "schema: expected 1"),
    ):
        file = tmp_path / f"{abs(hash(text))}.toml"
        file.write_text(text)
        with pytest.raises(DataError, match=expect):
            load_names(file)
    assert load_names() is load_names()

"""From gem5's statistics to the counters that `analysis` knows, in one place.

MAP says what each counter is made of. What gem5 does not count is left out, so that an energy row that needs it is an
error, never zero: `system.dram.row_misses` and `row_conflicts` (gem5 counts row hits only; no energy depends on it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gempim import _engine
from gempim.analysis.stats import Section, StatsError
from gempim.engines.gem5_se import instructions, pim_counters
from gempim.systems import System


@dataclass(frozen=True)
class Mapped:
    """One counter: its unit and meaning here, and what of gem5 it is made of."""

    unit: str
    description: str
    gem5: str


L1_ACCESS_BYTES = 16

MAP = {
    "system.cpu.cores": Mapped("Count", "cores of the socket", "the system's cpu.cores; gem5 has one core a thread"),
    "system.cpu.threads": Mapped("Count", "threads of the run", "simulated cores"),
    "system.cpu.busyCycles": Mapped(
        "Cycle",
        "core cycles in which a core was awake, waits for memory and spinning included",
        "processor.cores<i>.core.numCycles (gem5 stops counting when a core sleeps)",
    ),
    "system.cpu.idlePs": Mapped(
        "Tick",
        "time in which cores slept, cores that the run leaves unused included",
        "system.cpu.cores * simTicks - system.cpu.busyCycles * cycle",
    ),
    "system.cpu.instructions::vector": Mapped(
        "Count", "vector and floating-point micro-operations", "commitStats0.committedInstType::Simd*, Float*, Matrix*"
    ),
    "system.cpu.instructions::scalar": Mapped(
        "Count",
        "other micro-operations",
        "commitStats0.committedInstType::Int*, No_OpClass, IprAccess, InstPrefetch, less the branches",
    ),
    "system.cpu.instructions::load": Mapped(
        "Count", "load micro-operations", "commitStats0.committedInstType::MemRead, FloatMemRead, Simd*Load"
    ),
    "system.cpu.instructions::store": Mapped(
        "Count", "store micro-operations", "commitStats0.committedInstType::MemWrite, FloatMemWrite, Simd*Store"
    ),
    "system.cpu.instructions::branch": Mapped("Count", "branches", "commitStats0.committedControl::IsControl"),
    "system.l1d.bytes": Mapped(
        "Byte",
        "bytes between registers and the L1 data caches, at most: 16 for each load and store",
        f"{L1_ACCESS_BYTES} * (loads + stores): gem5 does not count the bytes of an access",
    ),
    "system.l2.bytes": Mapped(
        "Byte", "bytes between the L1 and L2 caches, instructions and snoops included", "l2bus<i>.pktSize::total"
    ),
    "system.llc.bytes": Mapped(
        "Byte",
        "bytes between the L2 caches and the mesh",
        "mesh.pktSize_<board>.l2<i>.mem_side_port::total; what the PIM moves is in its own counters",
    ),
    "system.dram.acts": Mapped(
        "commands",
        "ACT commands",
        "dram.readBursts + writeBursts - readRowHits - writeRowHits: every other burst opens a row",
    ),
    "system.dram.pres": Mapped(
        "commands", "PRE commands, one a bank, those before REF included", "dram.bytesPerActivate::samples"
    ),
    "system.dram.reads": Mapped("bursts", "RD commands", "dram.readBursts"),
    "system.dram.writes": Mapped("bursts", "WR commands", "dram.writeBursts"),
    "system.dram.refs": Mapped(
        "commands", "all-bank REF commands, one a rank", "dram.rank<r>.pwrStateTime::REF / dram.tRFC_ps"
    ),
    "system.dram.act_standby_ps": Mapped(
        "ps",
        "time with at least one open bank, summed over ranks",
        "simTicks * share of ACT and ACT_PDN in dram.rank<r>.pwrStateTime: gem5 books the state that a region begins"
        " in from its own beginning",
    ),
    "system.dram.pre_standby_ps": Mapped(
        "ps",
        "time with all banks closed (refresh included), summed over ranks",
        "simTicks * share of IDLE, REF, PRE_PDN and SREF in dram.rank<r>.pwrStateTime",
    ),
    "system.dram.read_bytes": Mapped("bytes", "bytes that were asked to be read", "mem_ctrl<c>.bytesReadSys"),
    "system.dram.write_bytes": Mapped("bytes", "bytes that were asked to be written", "mem_ctrl<c>.bytesWrittenSys"),
    "system.dram.row_hits": Mapped("bursts", "bursts served by a row that was open", "dram.readRowHits + writeRowHits"),
    "system.dram.turnarounds": Mapped(
        "switches",
        "changes of the data-bus direction",
        "mem_ctrl<c>.numReadWriteTurnArounds + numWriteReadTurnArounds",
    ),
}
"""What each counter is made of. The SRAM-PIM's counters have the same names on both sides."""

NOTES = (
    "gem5: instructions are micro-operations (a pair or an updated address is several), and system.l1d.bytes takes"
    f" {L1_ACCESS_BYTES} bytes for every load and store, an upper bound",
    "gem5: a core that waits for memory or spins in a barrier counts as busy, and cores without a thread as idle",
    "gem5: syscall emulation has no operating system: no page faults, no interrupts, no other processes; a page table"
    " walk costs no time",
)
"""What a reader of energies must know."""

_CORE = r"board\.processor\.cores\d*\.core\."
_CACHES = r"board\.cache_hierarchy\."
_CONTROLLER = r"board\.memory\.mem_ctrl\d*\."
_SUMS = {
    "system.cpu.busyCycles": re.compile(_CORE + r"numCycles"),
    "system.cpu.instructions::branch": re.compile(_CORE + r"commitStats0\.committedControl::IsControl"),
    "system.l2.bytes": re.compile(_CACHES + r"l2bus\d*\.pktSize::total"),
    "system.llc.bytes": re.compile(_CACHES + r"mesh\.pktSize_board\.cache_hierarchy\.l2\d*\.mem_side_port::total"),
    "system.dram.reads": re.compile(_CONTROLLER + r"dram\.readBursts"),
    "system.dram.writes": re.compile(_CONTROLLER + r"dram\.writeBursts"),
    "system.dram.row_hits": re.compile(_CONTROLLER + r"dram\.(read|write)RowHits"),
    "system.dram.pres": re.compile(_CONTROLLER + r"dram\.bytesPerActivate::samples"),
    "system.dram.read_bytes": re.compile(_CONTROLLER + r"bytesReadSys"),
    "system.dram.write_bytes": re.compile(_CONTROLLER + r"bytesWrittenSys"),
    "system.dram.turnarounds": re.compile(_CONTROLLER + r"num(ReadWrite|WriteRead)TurnArounds"),
}
_MAY_BE_MISSING = ("system.llc.bytes", "system.l2.bytes", "system.dram.pres")
"""gem5 leaves rows of a traffic matrix and empty histograms out when they are zero."""
_CLASS = re.compile(_CORE + r"commitStats0\.committedInstType::(\w+)")
_STATE = re.compile(rf"({_CONTROLLER}dram\.rank\d+)\.pwrStateTime::(\w+)")
_OPEN = ("ACT", "ACT_PDN")
_SCALAR = ("No_OpClass", "IntAlu", "IntMult", "IntDiv", "IprAccess", "InstPrefetch", "Accelerator", "System")


@dataclass
class Counts:
    """Counters of one region (or of several, added up): what can be added, scaled and averaged.

    `sim_ps`: simulated time; `instructions`: committed by all cores; `pim_ps`: time with a command in the PIM;
    `events`: by the names of MAP and `system.sram_pim.*`, without the gauges and `idlePs`, which follow from the rest.
    """

    sim_ps: float = 0
    instructions: float = 0
    pim_ps: float = 0
    events: dict[str, float] = field(default_factory=dict)

    def plus(self, other: Counts, times: float = 1) -> Counts:
        """The sum of this and `times` the other."""
        events = dict(self.events)
        for name, value in other.events.items():
            events[name] = events.get(name, 0) + times * value
        return Counts(
            self.sim_ps + times * other.sim_ps,
            self.instructions + times * other.instructions,
            self.pim_ps + times * other.pim_ps,
            events,
        )

    def scaled(self, factor: float) -> Counts:
        """Everything times `factor`."""
        return Counts().plus(self, factor)


def total(parts: list[Counts]) -> Counts:
    """The sum."""
    out = Counts()
    for part in parts:
        out = out.plus(part)
    return out


def mean(parts: list[Counts]) -> Counts:
    """The mean of at least one."""
    return total(parts).scaled(1 / len(parts))


def region_counts(section: Section, system: System) -> Counts:
    """The counters of one region.

    :raises StatsError: a statistic that a counter is made of is not in the section, or an unknown instruction class
    """
    ticks = int(section.get("simTicks"))
    events: dict[str, float] = {}
    for name, pattern in _SUMS.items():
        found = [value for stat, value in section.scalars.items() if pattern.fullmatch(stat)]
        if not found and name not in _MAY_BE_MISSING:
            raise StatsError(f"{section.file}: section {section.index}: no statistic of {name} ({MAP[name].gem5})")
        events[name] = sum(found)
    events.update(_instructions(section, events["system.cpu.instructions::branch"]))
    memory = events["system.cpu.instructions::load"] + events["system.cpu.instructions::store"]
    events["system.l1d.bytes"] = L1_ACCESS_BYTES * memory
    bursts = events["system.dram.reads"] + events["system.dram.writes"]
    events["system.dram.acts"] = bursts - events["system.dram.row_hits"]
    events.update(_standby(section, ticks, int(system.values("dram")["tRFC_ps"])))
    pim_ps = 0.0
    if system.kind == "cpu+sram_pim":
        found_pim = pim_counters(section)
        if found_pim is None:
            raise StatsError(f"{section.file}: section {section.index}: no statistics of the SRAM-PIM")
        for info in _engine.sram_pim_counter_info():
            if info["name"] not in found_pim:
                raise StatsError(f"{section.file}: section {section.index}: the SRAM-PIM has no {info['name']}")
            events[f"system.sram_pim.{info['name']}"] = found_pim[info["name"]]
        pim_ps = min(float(found_pim["activeTicks"]), ticks)
    return Counts(ticks, instructions(section), pim_ps, events)


def _instructions(section: Section, branches: float) -> dict[str, float]:
    sums = dict.fromkeys(("vector", "scalar", "load", "store"), 0.0)
    for stat, value in section.scalars.items():
        match = _CLASS.fullmatch(stat)
        if match and match[1] != "total":
            sums[_kind_of(match[1], section)] += value
    sums["scalar"] -= branches
    return {f"system.cpu.instructions::{kind}": count for kind, count in sums.items()}


def _kind_of(name: str, section: Section) -> str:
    """The class of instructions that gem5's operation class belongs to."""
    if name.endswith(("MemRead", "Load")):
        return "load"
    if name.endswith(("MemWrite", "Store")):
        return "store"
    if name.startswith(("Simd", "Float", "Matrix")):
        return "vector"
    if name in _SCALAR:
        return "scalar"
    raise StatsError(f"{section.file}: section {section.index}: unknown class of instructions {name!r}")


def _standby(section: Section, ticks: int, trfc_ps: int) -> dict[str, float]:
    ranks: dict[str, dict[str, float]] = {}
    for stat, value in section.scalars.items():
        match = _STATE.fullmatch(stat)
        if match:
            ranks.setdefault(match[1], {})[match[2]] = value
    if not ranks:
        raise StatsError(f"{section.file}: section {section.index}: no statistic dram.rank<r>.pwrStateTime")
    act = pre = refs = 0.0
    for states in ranks.values():
        booked = sum(states.values())
        share = sum(states.get(s, 0) for s in _OPEN) / booked if booked else 0.0
        act += share * ticks
        pre += (1 - share) * ticks
        refs += states.get("REF", 0) / trfc_ps
    return {"system.dram.act_standby_ps": act, "system.dram.pre_standby_ps": pre, "system.dram.refs": refs}


def descriptions() -> Mapping[str, Mapped]:
    """Unit and meaning of every counter, the SRAM-PIM's included."""
    pim = {
        f"system.sram_pim.{i['name']}": Mapped(i["unit"], i["description"], f"sram_pim.{i['name']}")
        for i in _engine.sram_pim_counter_info()
    }
    return {**MAP, **pim}

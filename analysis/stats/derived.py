"""What gem5 does not print and its numbers give: micro-operations by class, row activations, time with an open bank.

The same derivations as the engine gem5-se makes of its own runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gempim.analysis.stats.names import quantity, total
from gempim.analysis.stats.section import Number, Section, StatsError

# A rank and one of its power states: since v20.1, and before.
_STATE = re.compile(
    r"(?P<rank>.+\.rank\d+)\.pwrStateTime::(?P<state>\w+)|(?P<old>.+_\d+)\.memoryStateTime::(?P<was>\w+)"
)
_OPEN = ("ACT", "ACT_PDN")
# Micro-operations committed, by operation class (gem5's src/cpu/FuncUnit.py): of each core, the first that it has. In
# all of them a micro-operation is in one class, unlike in numLoadInsts and numVecInsts, which both count a vector load.
_CLASSES = tuple(
    re.compile(rf"(?P<core>.+?)\.{vector}::(?P<kind>\w+)")
    for vector in (
        r"commitStats\d+\.committedInstType",  # v23.0 and later
        r"commit\.committedInstType_\d+",  # v21.0 to v22.1, O3
        r"committedInstType_\d+",  # v21.0 to v22.1, MinorCPU
        r"exec_context\.thread_\d+\.statExecutedInstType",  # v21.0 to v22.1, simple CPUs
        r"commit\.op_class_\d+",  # v20.1 and earlier, O3
        r"op_class(?:_\d+)?",  # v20.1 and earlier, other CPUs
    )
)
_SCALAR = ("No_OpClass", "IntAlu", "IntMult", "IntDiv", "IprAccess", "InstPrefetch", "Accelerator", "System")
_VECTOR = ("Simd", "Float", "Matrix", "Vector", "Bf16")


@dataclass(frozen=True)
class Derived:
    """A quantity that is computed, over all components."""

    unit: str
    what: str
    value: Callable[[Section], Number]


def _kind_of(name: str, section: Section) -> str:
    if name.endswith(("MemRead", "Load")):
        return "load"
    if name.endswith(("MemWrite", "Store")):
        return "store"
    if name.startswith(_VECTOR):
        return "vector"
    if name in _SCALAR:
        return "scalar"
    raise StatsError(f"{section.file}: section {section.index}: unknown class of operations {name!r}")


def _ops(section: Section, kind: str) -> Number:
    cores: set[str] = set()
    found: Number = 0
    for pattern in _CLASSES:
        here = [(match, value) for name, value in section.scalars.items() if (match := pattern.fullmatch(name))]
        new = {match["core"] for match, _ in here if f"{match['core']}.numCycles" in section} - cores
        found += sum(
            value
            for match, value in here
            if match["core"] in new and match["kind"] != "total" and _kind_of(match["kind"], section) == kind
        )
        cores |= new
    if not cores:
        raise StatsError(
            f"{section.file}: section {section.index}: no micro-operations by class (committedInstType, op_class)"
            f"{section.nearest('commitStats0.committedInstType::total')}"
        )
    return found


def _activations(section: Section) -> Number:
    bursts = total(section, "dram_read_bursts") + total(section, "dram_write_bursts")
    return bursts - total(section, "dram_read_row_hits") - total(section, "dram_write_row_hits")


def _standby(section: Section, *, open_banks: bool) -> float:
    """gem5 books the state that a section begins in from that state's own beginning, so that a rank's states add up to
    more than the section; their shares of it do not.
    """
    ranks: dict[str, dict[str, Number]] = {}
    for name, value in section.scalars.items():
        if found := _STATE.fullmatch(name):
            rank, state = (found["rank"], found["state"]) if found["rank"] else (found["old"], found["was"])
            ranks.setdefault(rank, {})[state] = value
    if not ranks:
        raise StatsError(
            f"{section.file}: section {section.index}: no time of DRAM ranks in their states (rank<n>.pwrStateTime)"
            f"{section.nearest('rank0.pwrStateTime::ACT')}"
        )
    ticks = sum(quantity(section, "sim_ticks").values())
    frequency = sum(quantity(section, "sim_freq").values())
    shares = 0.0
    for states in ranks.values():
        booked = sum(states.values())
        share = sum(states.get(state, 0) for state in _OPEN) / booked if booked else 0.0
        shares += share if open_banks else 1 - share
    return ticks * 10**12 / frequency * shares


DERIVED = {
    **{
        f"{kind}_ops": Derived("op", f"{kind} micro-operations, by operation class", partial(_ops, kind=kind))
        for kind in ("load", "store", "vector", "scalar")
    },
    "dram_activations": Derived(
        "activation", "DRAM bursts that did not find their row open: each opens one", _activations
    ),
    "dram_open_ps": Derived(
        "ps", "time with an open bank, summed over DRAM ranks", lambda section: _standby(section, open_banks=True)
    ),
    "dram_closed_ps": Derived(
        "ps", "time with all banks closed, summed over DRAM ranks", lambda section: _standby(section, open_banks=False)
    ),
}
"""Computed quantities, by the word that a mapping file has for them."""

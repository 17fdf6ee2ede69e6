"""What a reader of gem5's numbers must be told: energies in another unit than declared, energies that are not there."""

from __future__ import annotations

from collections.abc import Mapping

from gempim.analysis.stats.names import present, true_unit
from gempim.analysis.stats.section import Number, Section, StatsError

Found = Mapping[str, Mapping[str, Number]]

_J_PER_PJ = 1e-12


def dram_energy_j(section: Section) -> float | None:
    """Energy of all DRAM ranks by gem5's own model [J]; None when the section has no such statistic.

    gem5 prints pJ and declares Joule. Raises StatsError when it is zero although DRAM was read or written: gem5 has no
    currents for that memory (none of its HBM interfaces has any), so that the energy is unknown and not zero.
    """
    found = present(section)
    if "dram_rank_energy" not in found:
        return None
    if missing := without_currents(section):
        raise StatsError(
            f"{section.file}: section {section.index}: {', '.join(missing)}: gem5 has no current data for this memory "
            "(as for all of its HBM interfaces) and prints an energy of 0: the energy is unknown"
        )
    return float(sum(found["dram_rank_energy"].values())) * _J_PER_PJ


def without_currents(section: Section) -> list[str]:
    """DRAM interfaces that moved data and whose rank energies are all zero."""
    return _without_currents(present(section))


def _without_currents(found: Found) -> list[str]:
    energies = found.get("dram_rank_energy", {})
    moved: dict[str, float] = {}
    for key in ("dram_read_bytes", "dram_write_bytes"):
        for component, value in found.get(key, {}).items():
            moved[component] = moved.get(component, 0) + value
    return [component for component, energy in energies.items() if energy == 0 and moved.get(component, 0) > 0]


def _not_timed(section: Section, found: Found) -> list[str]:
    """DRAM interfaces that were asked for data and counted no burst."""
    return [
        component
        for component, count in found.get("dram_read_bursts", {}).items()
        if not count and section.scalars.get(f"{component}.dram.bytesRead::total", 0)
    ]


def unknown_energies(section: Section) -> set[str]:
    """Names of the energy and power statistics that are zero only because gem5 has no currents."""
    prefixes = tuple(f"{component}.rank" for component in without_currents(section))
    return {
        name
        for name in section.scalars
        if prefixes and name.startswith(prefixes) and name.endswith(("Energy", "averagePower"))
    }


def notes(section: Section) -> list[str]:
    """Sentences about this section's traps; empty when it has none."""
    out = []
    wrong = sorted({(section.units[n], u) for n in section.units if (u := true_unit(section, n)) != section.units[n]})
    for declared, unit in wrong:
        out.append(f"gem5 declares {declared} for statistics that are in {unit}; tables here say {unit}.")
    found = present(section)
    if missing := _without_currents(found):
        out.append(
            f"{', '.join(missing)}: energy is unknown, not 0: gem5 has no current data for this memory (as for HBM)."
        )
    if untimed := _not_timed(section, found):
        out.append(
            f"{', '.join(untimed)}: memory was read, but no DRAM burst was counted: atomic mode, in which gem5 does "
            "not simulate DRAM; its times and energies say nothing."
        )
    if section.ambiguous:
        out.append(f"Names with several values, in no table: {', '.join(sorted(section.ambiguous))}.")
    return out

"""What a statistics file holds: sections, regions of interest, components, and what a report of it would lack."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gempim.analysis.run import load_run
from gempim.analysis.source import Source, open_source
from gempim.analysis.stats import Number, Section, StatsError, load_names, notes, true_unit, versions
from gempim.analysis.stats.derived import DERIVED
from gempim.analysis.stats.names import present
from gempim.analysis.stats.traps import unknown_energies
from gempim.quantity import DataError

# What energy tables multiply, besides what `DERIVED` has.
_FOR_A_REPORT = ("sim_ticks", "instructions", "cycles", "cache_accesses", "dram_read_bursts", "dram_write_bursts")
_LARGEST_SHOWN = 3
# gem5 has one in every object, and says nothing in most: all of the time is "UNDEFINED".
_TIME_IN_STATE = "pwrStateResidencyTicks"


@dataclass(frozen=True)
class Inspection:
    """One statistics file. `sections` has a row a section; `chosen` is the section that was asked for."""

    source: Source
    sections: pd.DataFrame
    chosen: Section
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def inspect_stats(path: str | Path, section: str = "last") -> Inspection:
    """Read a run directory's or gem5's statistics.

    `section` chooses one: a number from 0, ``last``, or the label of a region of interest (the first of that label).
    Raises StatsError or RunError when the file is damaged, and DataError when there is no such section.
    """
    source = open_source(path)
    rows: list[dict[str, Any]] = []
    chosen: Section | None = None
    remarks: dict[str, None] = {}
    for at in source.sections():
        rows.append(_section_row(source, at))
        remarks.update(dict.fromkeys(notes(at)))
        if section == "last" or (chosen is None and section in (str(at.index), source.label(at.index))):
            chosen = at
    if chosen is None:
        labels = sorted({region.label for region in source.regions.values()})
        raise DataError(
            f"{source.stats}: no section {section!r}: it has {len(rows)} (0 to {len(rows) - 1}, or last)"
            + (f" and the labels {', '.join(labels)}" if labels else "; no roi.jsonl beside it gives them labels")
        )
    return Inspection(source, pd.DataFrame(rows, dtype=object), chosen, tuple(_missing(source, chosen)), tuple(remarks))


def _section_row(source: Source, section: Section) -> dict[str, Any]:
    found = present(section)
    ticks, frequency = section.scalars.get("simTicks"), section.scalars.get("simFreq", 10**12)
    if ticks is None and "sim_ticks" in found:
        ticks = sum(found["sim_ticks"].values())
    region = source.regions.get(section.index)
    try:
        # A run of ours says in its manifest what made it.
        since, until = ("", "") if source.manifest else versions(section)
        gem5 = since if since == until else f"{since or '…'} to {until or '…'}" if since or until else ""
    except StatsError:
        gem5 = "contradictory"
    return {
        "section": section.index,
        "line": section.line,
        "label": source.label(section.index),
        "tokens": None if region is None else region.tokens,
        "sim_us": None if ticks is None or not frequency else float(ticks) / float(frequency) * 1e6,
        "instructions": sum(found["instructions"].values()) if "instructions" in found else None,
        "statistics": len(section.scalars),
        "non_zero": sum(map(_live, section.scalars.values())),
        "gem5": gem5,
    }


def _live(value: Number) -> bool:
    """Whether something was counted; a ratio of nothing to nothing (nan) says that nothing was."""
    return bool(value) and not math.isnan(value)


def components(section: Section, depth: int) -> pd.DataFrame:
    """Non-zero counters by component, a component being the first `depth` parts of the path; largest counters named."""
    groups: dict[str, dict[str, float]] = {}
    for name, value in section.scalars.items():
        parts = name.partition("::")[0].split(".")[:-1]
        groups.setdefault(".".join(parts[:depth]), {})[name] = value
    rows = []
    for component, counters in groups.items():
        live = {name: value for name, value in counters.items() if _live(value)}
        if not live:
            continue
        largest = sorted((n for n in live if _TIME_IN_STATE not in n), key=lambda n: -abs(live[n]))[:_LARGEST_SHOWN]
        short = [f"{name.removeprefix(component).lstrip('.')} = {live[name]:g}" for name in largest]
        rows.append(
            {
                "component": component or "(whole simulation)",
                "non_zero": len(live),
                "statistics": len(counters),
                "largest": ", ".join(short),
            }
        )
    return pd.DataFrame(rows)


def counters(section: Section, patterns: Sequence[str] = (), *, zeros: bool = False) -> pd.DataFrame:
    """Counters by name: those that match a pattern (a component's path, or a name with ``*``), non-zero unless `zeros`.

    Raises StatsError with the nearest names for a pattern that matches nothing.
    """
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in section.scalars):
            raise StatsError(
                f"{section.file}: section {section.index}: nothing matches {pattern!r}{section.nearest(pattern)}"
            )
    unknown = unknown_energies(section)
    rows = [
        {
            "statistic": name,
            "value": None if name in unknown else value,
            "unit": true_unit(section, name) or "",
            "description": section.descriptions.get(name, "")
            + (" (unknown: gem5 has no current data)" if name in unknown else ""),
        }
        for name, value in section.scalars.items()
        if (value or zeros or name in unknown) and (not patterns or any(_matches(name, p) for p in patterns))
    ]
    return pd.DataFrame(rows, columns=["statistic", "value", "unit", "description"], dtype=object)


def _matches(name: str, pattern: str) -> bool:
    if "*" in pattern:
        return fnmatch.fnmatchcase(name, pattern)
    return name == pattern or name.startswith((f"{pattern}.", f"{pattern}::"))


def _missing(source: Source, section: Section) -> list[str]:
    """What `gempim report` would lack, as sentences; empty when it can report this as it is."""
    if source.manifest.get("kind") == "serve":
        return []  # `load_serve_run` checks those
    if source.manifest or (source.path.is_dir() and (source.path / "roi.jsonl").is_file()):
        try:
            load_run(source.path)
        except DataError as error:
            return [str(error)]
        return []
    out = [
        "what was simulated (system, model, workload) and how many tokens each section made: gem5 does not know it; "
        "write a mapping file (`gempim inspect STATS --mapping > my.toml` begins one)"
    ]
    known = load_names().quantities
    for key in _FOR_A_REPORT:
        if key not in present(section):
            names = ", ".join(name.pattern.text for name in known[key].names)
            out.append(f"{key} ({known[key].what}): no {names}")
    lacking: dict[str, list[str]] = {}
    for key, item in DERIVED.items():
        try:
            item.value(section)
        except StatsError as error:
            lacking.setdefault(str(error).removeprefix(f"{section.file}: section {section.index}: "), []).append(key)
    return out + [f"{', '.join(keys)}: {why}" for why, keys in lacking.items()]

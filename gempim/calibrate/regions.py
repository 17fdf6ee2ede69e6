"""Reads what a gem5 run of the calibration program leaves behind: one statistics section a region of interest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gempim.analysis.stats import Section, parse_stats
from gempim.calibrate import guest
from gempim.calibrate.toolchain import ToolError
from gempim.quantity import DataError


@dataclass(frozen=True)
class Region:
    """One region of interest: units of work in it, its simulated time, and its statistics."""

    label: str
    work: int
    sim_ps: int
    section: Section


@dataclass(frozen=True)
class Regions:
    """All regions of one run, in order, and the guest's checksums."""

    folder: Path
    by_label: Mapping[str, Region]
    sums: Mapping[str, str]

    def get(self, label: str) -> Region:
        """The region `label`. Raises ToolError naming the run when it is not there."""
        if label not in self.by_label:
            raise ToolError(
                f"{self.folder / 'roi.jsonl'}: expected a region {label!r}, there are: {', '.join(self.by_label)}"
            )
        return self.by_label[label]


def read_regions(folder: Path) -> Regions:
    """The regions of a finished run of the calibration program from stats.txt, roi.jsonl and guest.out.

    Raises:
        ToolError: a file is missing or damaged, or there are not as many statistics sections as regions.
    """
    try:
        sections = parse_stats(folder / "stats.txt")
        rows = [json.loads(line) for line in read_text(folder / "roi.jsonl").splitlines()]
    except (DataError, json.JSONDecodeError) as error:
        raise ToolError(f"gem5's results cannot be read: {folder}: {error}") from error
    if len(rows) != len(sections):
        raise ToolError(
            f"{folder / 'stats.txt'}: expected {len(rows)} sections, one a region of roi.jsonl, got {len(sections)}"
        )
    regions: dict[str, Region] = {}
    for row, section in zip(rows, sections, strict=True):
        try:
            label, work = str(row["label"]).rsplit(" ", 1)
            region = Region(label, int(work), int(row["sim_ps"]), section)
        except (KeyError, ValueError, TypeError):
            raise ToolError(
                f"{folder / 'roi.jsonl'}: expected a region with a label 'NAME WORK' and sim_ps, got {row!r}"
            ) from None
        if label in regions:
            raise ToolError(f"{folder / 'roi.jsonl'}: region {label!r} is there twice")
        regions[label] = region
    return Regions(folder, regions, guest.checksums(read_text(folder / "guest.out")))


def read_text(path: Path) -> str:
    """The text of a file. Raises ToolError naming it when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ToolError(f"{path}: cannot be read: {error}") from error


def core_counts(section: Section) -> tuple[float, float]:
    """Cycles and committed instructions of the only core that did anything in the section.

    gem5 v23.0 and later: `numCycles` of the core and `commitStats0.numInsts` below it.

    Raises:
        ToolError: no such statistics, or several cores.
    """
    ending = ".commitStats0.numInsts"
    cores = [name.removesuffix(ending) for name, value in section.scalars.items() if name.endswith(ending) and value]
    where = f"{section.file}: section {section.index}"
    if len(cores) != 1:
        raise ToolError(f"{where}: expected one core with {ending[1:]} above 0, got {', '.join(cores) or 'none'}")
    cycles = section.scalars.get(f"{cores[0]}.numCycles")
    if not cycles:
        raise ToolError(f"{where}: expected the statistic {cores[0]}.numCycles, above 0")
    return float(cycles), float(section.scalars[cores[0] + ending])

"""Operators on the roofline: what a run did, against the peaks that its manifest states.

Peaks are read from the manifest's resolved system: ``experiment.system.peaks.flops_per_s.<device>`` [FLOP/s] and
``experiment.system.peaks.dram_bytes_per_s`` [bytes/s], bare numbers or numbers with unit and source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gempim.analysis.result import PS_PER_S, Result
from gempim.analysis.run import Run, RunError, plain
from gempim.analysis.table import si

# Times are whole picoseconds and peaks have a few digits; anything beyond this is a wrong unit or scope.
_TOLERANCE = 0.01


@dataclass(frozen=True)
class Point:
    """One operator, summed over the regions of interest of one phase. `intensity` is inf without DRAM traffic."""

    name: str
    device: str
    limiter: str
    time_ps: int
    flops: int
    dram_bytes: int

    @property
    def intensity(self) -> float:
        """FLOP per DRAM byte."""
        return self.flops / self.dram_bytes if self.dram_bytes else math.inf

    @property
    def flops_per_s(self) -> float:
        """Rate over the operator's whole time."""
        return self.flops / (self.time_ps / PS_PER_S) if self.time_ps else 0.0


@dataclass(frozen=True)
class Roof:
    """Peaks of one system: FLOP/s by device, and the DRAM bandwidth that they share [bytes/s]."""

    flops_per_s: dict[str, float]
    bytes_per_s: float

    def limit(self, device: str, intensity: float) -> float | None:
        """The highest rate of an operator of this intensity on `device` [FLOP/s]; None for a device without a peak."""
        peak = self.flops_per_s.get(device)
        return None if peak is None else min(peak, intensity * self.bytes_per_s)


def points_of(run: Run, label: str) -> list[Point]:
    """The operators of the phase `label`, by name and device, summed."""
    sums: dict[tuple[str, str], list[int]] = {}
    slowest: dict[tuple[str, str], tuple[int, str]] = {}
    for roi in run.rois_of(label):
        for op in roi.operators:
            key = (op.name, op.device)
            total = sums.setdefault(key, [0, 0, 0])
            total[0] += op.time_ps
            total[1] += op.flops
            total[2] += op.dram_bytes
            # Of several occurrences, the longest says what the operator was limited by.
            slowest[key] = max(slowest.get(key, (-1, "")), (op.time_ps, op.limiter))
    return [
        Point(name=name, device=device, limiter=slowest[name, device][1], time_ps=t, flops=f, dram_bytes=b)
        for (name, device), (t, f, b) in sums.items()
    ]


def roof_of(run: Run) -> Roof | None:
    """The peaks of the run's system, None when its manifest gives none.

    Raises RunError for peaks that are there but are not positive numbers.
    """
    peaks = run.experiment["system"].get("peaks")
    if peaks is None:
        return None
    where = f"{run.path / 'manifest.json'}: experiment.system.peaks"
    if not isinstance(peaks, Mapping) or not isinstance(peaks.get("flops_per_s"), Mapping):
        raise RunError(f"{where}: expected flops_per_s by device, and dram_bytes_per_s")
    values = {f"flops_per_s.{k}": v for k, v in peaks["flops_per_s"].items()}
    values["dram_bytes_per_s"] = peaks.get("dram_bytes_per_s")
    numbers: dict[str, float] = {}
    for key, raw in values.items():
        value = plain(raw)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise RunError(f"{where}.{key}: expected a number above zero, got {value!r}")
        numbers[key] = float(value)
    bandwidth = numbers.pop("dram_bytes_per_s")
    if not numbers:
        raise RunError(f"{where}.flops_per_s: expected at least one device")
    return Roof(flops_per_s={k.partition(".")[2]: v for k, v in numbers.items()}, bytes_per_s=bandwidth)


def above_roof(result: Result) -> list[str]:
    """A sentence about operators that ran faster than their roof allows: a wrong unit or scope somewhere, not a win."""
    roof = roof_of(result.run)
    if roof is None:
        return []
    found: list[tuple[float, str]] = []
    for phase in result.phases:
        for point in points_of(result.run, phase.label):
            limit = roof.limit(point.device, point.intensity)
            if limit is not None and point.flops_per_s > limit * (1 + _TOLERANCE):
                rates = f"{point.name} in {phase.label}, {si(point.flops_per_s)} FLOP/s against {si(limit)}"
                found.append((point.flops_per_s / limit, rates))
    if not found:
        return []
    count = "1 operator runs" if len(found) == 1 else f"{len(found)} operators run"
    return [
        f"{result.run.system}: {count} above the roof (worst: {max(found)[1]}): a unit, a count or a peak is wrong."
    ]

"""What one stage, or many, cost: rows by operator and unit, event counts by layer kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gempim.engines.xpu import XpuCost

KINDS = ("fc", "attention", "moe", "communication", "other")
"""Layer kinds; the first three are those of the Duplex paper's energy figure."""

XPU, LINK = "xpu", "link"
"""Names of units beside the PIM's."""


@dataclass
class Row:
    """One operator on one unit, over all layers (and, in a sum, stages).

    `time_ps` is its part of the stage's time; of two units at work together the one that is done last has all of it.
    `busy_ps` is how long it worked on one device. `ops` (2 a multiply-accumulate) and `bytes` of memory are summed over
    devices.
    """

    count: int = 0
    time_ps: int = 0
    busy_ps: int = 0
    ops: int = 0
    bytes: int = 0


@dataclass
class Ledger:
    """Rows by (operator, kind, unit) and events by kind."""

    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def time_ps(self) -> int:
        """Time of everything in it."""
        return sum(row.time_ps for row in self.rows.values())

    def row(
        self, name: str, kind: str, unit: str, *, times: int, time_ps: int, busy_ps: int, ops: int = 0, bytes_: int = 0
    ) -> None:
        """Add to a row; every number is of all `times` occurrences."""
        row = self.rows.setdefault((name, kind, unit), Row())
        row.count += times
        row.time_ps += time_ps
        row.busy_ps += busy_ps
        row.ops += ops
        row.bytes += bytes_

    def count(self, kind: str, events: Mapping[str, int], times: int = 1) -> None:
        """Add `times` the events."""
        sums = self.counts.setdefault(kind, {})
        for name, value in events.items():
            if value:
                sums[name] = sums.get(name, 0) + value * times

    def xpu_events(self, kind: str, cost: XpuCost, row_bytes: int, times: int) -> None:
        """Events of an operator on `times` xPUs; rows of the memory are read whole, as streams do."""
        self.count(
            kind,
            {
                "system.xpu.macs": cost.macs,
                "system.xpu.vector_flops": cost.flops,
                "system.xpu.hbm_read_bytes": cost.read_bytes,
                "system.xpu.hbm_write_bytes": cost.write_bytes,
                "system.xpu.hbm_activates": -(-cost.bytes // row_bytes),
            },
            times,
        )

    def add(self, other: Ledger) -> None:
        """Add another ledger to this one."""
        for (name, kind, unit), row in other.rows.items():
            self.row(
                name, kind, unit, times=row.count, time_ps=row.time_ps, busy_ps=row.busy_ps, ops=row.ops,
                bytes_=row.bytes,
            )  # fmt: skip
        for kind, events in other.counts.items():
            self.count(kind, events)

    def to_json(self, kind: str) -> list[dict[str, Any]]:
        """The rows of one layer kind as plain data, the longest first."""
        found = [(key, row) for key, row in self.rows.items() if key[1] == kind]
        return [
            {
                "name": name,
                "unit": unit,
                "count": row.count,
                "time_ps": row.time_ps,
                "busy_ps": row.busy_ps,
                "ops": row.ops,
                "bytes": row.bytes,
            }
            for (name, _, unit), row in sorted(found, key=lambda item: (-item[1].time_ps, item[0]))
        ]

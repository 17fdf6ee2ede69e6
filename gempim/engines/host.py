"""The socket around the cores, as the embedded engine sees it: the last-level cache, and how a core drives the PIM."""

from __future__ import annotations

from dataclasses import dataclass, field


def _f(unit: str, description: str, lo: float, hi: float) -> dict[str, object]:
    return {"unit": unit, "description": description, "min": lo, "max": hi}


@dataclass(frozen=True)
class LlcParams:
    """The shared last-level cache."""

    slices: int = field(metadata=_f("slices", "LLC slices", 1, 256))
    slice_bytes: int = field(metadata=_f("byte", "capacity of one slice", 65536, 2**30))
    bytes_per_cycle: int = field(metadata=_f("byte/cycle", "read bandwidth of one slice, in core clocks", 8, 256))

    def capacity(self) -> int:
        """Capacity of the whole LLC in bytes."""
        return self.slices * self.slice_bytes


@dataclass(frozen=True)
class PimHostParams:
    """The core's side of one `lutmm`."""

    issue_cycles: int = field(metadata=_f("cycle", "core cycles to write a descriptor and issue one lutmm", 1, 10000))
    convert_cycles: float = field(
        metadata=_f("cycle/value", "core cycles to convert and scale one integer sum when the arrays do not", 0, 1000)
    )
    wait_cycles: int = field(
        metadata=_f("cycle", "core cycles from the device's completion to the next instruction", 0, 100000)
    )

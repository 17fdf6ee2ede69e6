"""GPU roofline rows: an upper bound on a GPU's speed, for cost claims against it.

Each operator takes the longer of its arithmetic at peak and its traffic at peak bandwidth, times the stated
efficiencies. Nothing else (kernel launches, occupancy, caches between operators) is modelled, and the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gempim.lowering import Operator


def _f(unit: str, description: str, lo: float, hi: float) -> dict[str, object]:
    return {"unit": unit, "description": description, "min": lo, "max": hi}


@dataclass(frozen=True)
class GpuParams:
    """Peak rates of one GPU."""

    peak_flops_per_s: float = field(metadata=_f("flop/s", "peak dense FP16 tensor rate", 1e9, 1e18))
    peak_bytes_per_s: float = field(metadata=_f("byte/s", "peak memory bandwidth", 1e9, 1e15))
    memory_bytes: int = field(metadata=_f("byte", "device memory", 1e9, 1e13))
    compute_efficiency: float = field(metadata=_f("fraction", "reached share of the peak rate", 0.01, 1))
    bandwidth_efficiency: float = field(metadata=_f("fraction", "reached share of the peak bandwidth", 0.01, 1))


@dataclass(frozen=True)
class GpuCost:
    """Time and traffic of one operator occurrence."""

    time_ps: int
    compute_ps: int
    memory_ps: int
    bytes: int
    flops: int


class GpuRoofline:
    """max(flops / peak, bytes / bandwidth) for every operator."""

    def __init__(self, params: GpuParams) -> None:
        self.params = params

    def cost(self, op: Operator) -> GpuCost:
        """Cost of one occurrence of `op`."""
        p = self.params
        moved = op.weight_bytes + op.read_bytes + op.write_bytes
        compute = round(op.flops / (p.peak_flops_per_s * p.compute_efficiency) * 1e12)
        memory = round(moved / (p.peak_bytes_per_s * p.bandwidth_efficiency) * 1e12)
        return GpuCost(max(compute, memory), compute, memory, moved, op.flops)

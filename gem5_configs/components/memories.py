"""Multi-channel DDR4 and DDR5 of a system: gem5's DRAM model with the timings of gempim's own."""

from typing import Any, Type

from gem5.components.memory.dram_interfaces.ddr4 import DDR4_2400_8x8
from gem5.components.memory.dram_interfaces.ddr5 import DDR5_4400_4x8
from gem5.components.memory.memory import ChanneledMemory
from gem5.components.memory.simple import SingleChannelSimpleMemory
from m5.objects import DRAMInterface

from spec.geometry import DRAM_MAP, LINE_BYTES, DramGeometry

BASES = {8: DDR4_2400_8x8, 16: DDR5_4400_4x8}
"""gem5's interface by burst length; it gives what gempim's timing sets do not have (power-down exits, currents). The
currents are those of the base's speed, so gem5's DRAM energy statistics are not this system's: gempim computes energy
from counts."""


def interface_class(geometry: DramGeometry, size_bytes: int) -> Type[DRAMInterface]:
    """A DRAM interface with the parameters of `geometry`, for `size_bytes` of memory over all channels."""
    base = BASES[geometry.interface["burst_length"]]
    devices = geometry.channels * geometry.interface["devices_per_rank"] * geometry.interface["ranks_per_channel"]
    return type("GempimDram", (base,), {**geometry.interface, "device_size": f"{size_bytes // devices}B"})


class GempimMemory(ChanneledMemory):
    """All DRAM channels of a socket, interleaved line by line.

    :param geometry: channels and parameters
    :param size_bytes: simulated memory over all channels; rows that would lie above it do not exist
    """

    def __init__(self, geometry: DramGeometry, size_bytes: int) -> None:
        super().__init__(
            interface_class(geometry, size_bytes),
            geometry.channels,
            LINE_BYTES,
            size=f"{size_bytes}B",
            addr_mapping=DRAM_MAP,
        )
        for controller in self.mem_ctrl:
            _set_all(controller, geometry.controller)


def plain_memory(size_bytes: int) -> SingleChannelSimpleMemory:
    """One memory without channels, for a run whose times mean nothing: only so do gem5's non-caching cores reach it
    without a packet for every access."""
    return SingleChannelSimpleMemory(latency="1ns", latency_var="0ns", bandwidth="64GiB/s", size=f"{size_bytes}B")


def _set_all(obj: Any, values: Any) -> None:
    for name, value in values.items():
        setattr(obj, name, value)

"""Main memory with PIM: HBM stacks whose pseudo-channels the plug-in simulates, and the xPU that streams beside it."""

from typing import Any, List, Optional, Sequence, Tuple

from gem5.components.boards.abstract_board import AbstractBoard
from gem5.components.memory.abstract_memory_system import AbstractMemorySystem
from m5.objects import AddrRange, Port

from components.pim import load_plugin
from spec.geometry import PimGeometry, Stream

REGISTERS_AT = 0x5000000000
MEMORY_AT = 0x5100000000
"""Virtual addresses of src_ext/isa/pimq.h, at which a guest finds the registers and the windows of the spaces."""

PAGE_BYTES = 4096


class GempimPimMemory(AbstractMemorySystem):
    """All stacks of a device as one memory, with registers behind it.

    :param geometry: parameters and sizes
    :param stream: what an xPU reads while a command runs, or None
    :param plugin: path of the plug-in; None for the loader's default
    :raises SpecError: the plug-in is not there, or was built for another gem5
    """

    def __init__(self, geometry: PimGeometry, stream: Optional[Stream], plugin: Optional[str]) -> None:
        super().__init__()
        load_plugin(plugin)
        from gempim_gem5.PimDram import PimDram
        from gempim_gem5.Xpu import Xpu

        self._geometry = geometry
        self.dram = PimDram(
            range=AddrRange(geometry.size_bytes),
            registers=geometry.size_bytes,
            window_bytes=geometry.window_bytes,
            **geometry.values,
        )
        if stream is not None:
            self.xpu = Xpu(
                pim=self.dram,
                ranges=[AddrRange(start=start, end=end) for start, end in stream.ranges],
                bytes=stream.bytes,
                request_bytes=stream.request_bytes,
                block_bytes=stream.block_bytes,
                blocks=stream.blocks,
                columns=stream.columns,
            )
            self.xpu.port = self.dram.port

    def incorporate_memory(self, board: AbstractBoard) -> None:
        """Nothing beside the ports, which the cache hierarchy connects."""

    def get_mem_ports(self) -> Sequence[Tuple[AddrRange, Port]]:
        """The memory's port for the machine."""
        return [(self.dram.range, self.dram.port)]

    def device_ports(self) -> List[Port]:
        """The registers."""
        return [self.dram.pio]

    def get_memory_controllers(self) -> List[Any]:
        """The memory itself."""
        return [self.dram]

    def get_size(self) -> int:
        """Bytes."""
        return self._geometry.size_bytes

    def set_memory_range(self, ranges: List[AddrRange]) -> None:
        """:raises ValueError: anything but the whole memory as one range"""
        if len(ranges) != 1 or int(ranges[0].size()) != self.get_size():
            raise ValueError(f"memory with PIM needs one range of {self.get_size()} bytes")
        self.dram.range = ranges[0]
        self.dram.registers = int(ranges[0].end)

    def get_uninterleaved_range(self) -> List[AddrRange]:
        """The whole memory."""
        return [self.dram.range]

    def map_into(self, process: Any) -> None:
        """Let a guest reach the registers, uncached, and the windows of all spaces; gem5 has made its objects."""
        g = self._geometry
        process.map(REGISTERS_AT, int(self.dram.registers), PAGE_BYTES, cacheable=False)
        for space in range(g.spaces):
            start = space * g.space_bytes + g.space_bytes // 2
            process.map(MEMORY_AT + start, int(self.dram.range.start) + start, g.window_bytes, cacheable=True)

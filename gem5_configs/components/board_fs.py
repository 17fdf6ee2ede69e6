"""The board that boots Linux.

Only what Linux needs to run programs: no disk, no network, no display. Programs and files come from the host through
gem5's readfile operation (workloads/linux), so that nothing of them is in the boot.
"""

import os
from typing import Any, Callable, List, Mapping, Optional, Sequence

import m5
from gem5.components.boards.abstract_board import AbstractBoard
from gem5.components.cachehierarchies.abstract_cache_hierarchy import AbstractCacheHierarchy
from gem5.components.memory.abstract_memory_system import AbstractMemorySystem
from gem5.components.processors.abstract_processor import AbstractProcessor
from m5.objects import AddrRange, ArmFsWorkload, ArmSystem, IOXBar, Port, Terminal

from components.soc import FullSystemRelease, GempimPlatform

CONSOLE = "board.terminal"
"""Name that gem5 gives the file with what the serial line printed."""


class FullSystemBoard(ArmSystem, AbstractBoard):
    """A board that boots Linux.

    :param clk_freq, processor, memory, cache_hierarchy: as :class:`AbstractBoard`
    :param addresses: of `linux.json`
    """

    def __init__(
        self,
        *,
        clk_freq: str,
        processor: AbstractProcessor,
        memory: AbstractMemorySystem,
        cache_hierarchy: AbstractCacheHierarchy,
        addresses: Mapping[str, int],
    ) -> None:
        self._addresses = addresses
        super().__init__()
        AbstractBoard.__init__(
            self, clk_freq=clk_freq, processor=processor, memory=memory, cache_hierarchy=cache_hierarchy
        )
        self.release = FullSystemRelease()
        self.multi_proc = processor.get_num_cores() > 1
        # The simulated memory is mostly untouched: let the host give pages only where the guest writes.
        self.mmap_using_noreserve = True
        self._when_built: List[Callable[[], None]] = []

    def set_linux(
        self, kernel: str, *, extras: Sequence[str] = (), extra_addresses: Sequence[int] = (), readfile: str = ""
    ) -> None:
        """What runs.

        :param kernel: ELF program of boot stub and kernel
        :param extras: files that lie in memory at reset, at `extra_addresses`; none after a restore
        :param readfile: what the guest gets from gem5's readfile operation
        """
        self._set_fullsystem(True)
        self.workload = ArmFsWorkload(
            object_file=os.path.abspath(kernel), extras=list(extras), extras_addrs=list(extra_addresses)
        )
        self.readfile = os.path.abspath(readfile) if readfile else ""
        self.exit_on_work_items = True
        m5.disableAllListeners()

    def restore_from(self, checkpoint: Any) -> None:
        """Begin in a checkpoint (a Path)."""
        self._checkpoint = checkpoint

    def when_built(self, action: Callable[[], None]) -> None:
        """Call `action` after gem5 has made (and restored) its objects and before it simulates."""
        self._when_built.append(action)

    def device_ports(self) -> List[Port]:
        """Ports of the devices and of the boot memory, for the memory bus."""
        return self.soc.ports()

    # AbstractBoard ---------------------------------------------------------------------------------------------------

    def _setup_memory_ranges(self) -> None:
        memory = self.get_memory()
        self.mem_ranges = [AddrRange(start=self._addresses["memory"], size=memory.get_size())]
        memory.set_memory_range(self.mem_ranges)

    def _setup_board(self) -> None:
        # The name matters: gem5 initialises in alphabetical order, and the interrupt controller counts the processor's
        # cores when it is initialised.
        self.soc = GempimPlatform(self._addresses)
        self.terminal = Terminal(outfile="file")

    def _post_instantiate(self) -> None:
        super()._post_instantiate()
        for action in self._when_built:
            action()

    def has_io_bus(self) -> bool:
        """None: the devices are on the memory bus."""
        return False

    def get_io_bus(self) -> IOXBar:
        """There is none."""
        raise NotImplementedError

    def has_dma_ports(self) -> bool:
        """No device reads or writes memory."""
        return False

    def get_dma_ports(self) -> List[Port]:
        """There are none."""
        raise NotImplementedError

    def has_coherent_io(self) -> bool:
        """No."""
        return False

    def get_mem_side_coherent_io_port(self) -> Port:
        """There is none."""
        raise NotImplementedError

    def createCCObject(self) -> Optional[Any]:
        """Make the C++ object; `_connect_things` must have been called."""
        self._connect_things_check()
        return super().createCCObject()

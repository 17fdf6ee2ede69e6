"""The board: gem5's SimpleBoard, with a callback for what can only be done once the objects exist."""

from typing import Callable, List

from gem5.components.boards.simple_board import SimpleBoard
from m5.objects import Port


class GempimBoard(SimpleBoard):
    """A board for syscall emulation. Arguments as :class:`SimpleBoard`."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)
        # The simulated memory is mostly untouched: let the host give pages only where the guest writes.
        self.mmap_using_noreserve = True
        self._when_built: List[Callable[[], None]] = []

    def when_built(self, action: Callable[[], None]) -> None:
        """Call `action` after gem5 has made (and restored) its objects and before it simulates."""
        self._when_built.append(action)

    def device_ports(self) -> List[Port]:
        """Those of the memory, if it has any: gem5 itself answers system calls."""
        memory = self.get_memory()
        return memory.device_ports() if hasattr(memory, "device_ports") else []

    def _post_instantiate(self) -> None:
        super()._post_instantiate()
        for action in self._when_built:
            action()

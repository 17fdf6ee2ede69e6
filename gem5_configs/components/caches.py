"""The caches of a Neoverse-N1 socket, and where a PIM beside the LLC is connected.

::

    core ── L1I ┐                          ┌── LLC slice 0 ──┐
         ── L1D ┴─ L2 bus ── L2 ──┐        ├── LLC slice 1 ──┤
                                  ├─ mesh ─┤       ...       ├── memory bus ── DRAM channels
    SRAM-PIM, weights: N ports ───┤        └── LLC slice S-1 ┘
              data: small cache ──┘

The mesh is a coherent crossbar. The PIM's weight ports read through it: a line that a core has modified is supplied by
that core's cache, others by the slice or by DRAM. The PIM's data port writes, so it sits behind a small cache that
takes part in coherence, as an I/O cache does.

Sources: TRM = Arm Neoverse N1 Technical Reference Manual (standard); GEM5 = the public gem5 Neoverse-N1 configuration
(code); ours = a choice, with its reason. Latencies are in cycles of the core clock, which the caches share.
"""

from typing import Any, List, Optional

from gem5.components.boards.abstract_board import AbstractBoard
from gem5.components.cachehierarchies.classic.abstract_classic_cache_hierarchy import AbstractClassicCacheHierarchy
from m5.objects import (
    AddrRange,
    BadAddr,
    Cache,
    CoherentXBar,
    L2XBar,
    Port,
    SnoopFilter,
    StridePrefetcher,
    SystemXBar,
    TaggedPrefetcher,
)
from m5.params import NULL

from spec.geometry import L1_WAYS, L2_WAYS, PrivateCaches, SliceGeometry

MESH_REQUEST_CYCLES = (8, 8)
MESH_RESPONSE_CYCLES = 12
SLICE_CYCLES = 20
"""GEM5 puts 48 cycles into tag and data of its L3; here 20 are the slice's and 28 the way over the mesh and back, so
that the crossbar and the slices can be stressed apart."""

ROUTES = 1 << 16
"""Outstanding requests that a crossbar may track: gem5's default of 512 is a sanity check for a few cores."""


class L1ICache(Cache):
    """TRM: as large as the L1D, 4 ways. GEM5: 1 cycle, 8 misses."""

    assoc = L1_WAYS
    tag_latency = 1
    data_latency = 1
    response_latency = 1
    mshrs = 8
    tgts_per_mshr = 8
    is_read_only = True
    # The L2 is inclusive of the L1I: a clean line that leaves is there still.
    writeback_clean = False

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size=f"{size_bytes}B")


class L1DCache(Cache):
    """TRM: 4 ways. GEM5: 3 cycles (a load takes 4 with its address), 20 misses."""

    assoc = L1_WAYS
    tag_latency = 3
    data_latency = 3
    response_latency = 1
    mshrs = 20
    tgts_per_mshr = 16
    write_buffers = 16
    writeback_clean = False

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size=f"{size_bytes}B")
        # TRM: the L1D prefetches strides. Degree ours: enough lines to cover an L2 hit at two loads a cycle. What the
        # cache has already is not asked for again.
        self.prefetcher = StridePrefetcher(degree=4, latency=1, cache_snoop=True)


class L2Cache(Cache):
    """TRM: private, 8 ways. GEM5: 46 misses; a hit takes 11 cycles from the load, which 2 of the cache add up to."""

    assoc = L2_WAYS
    tag_latency = 2
    data_latency = 2
    response_latency = 2
    mshrs = 46
    tgts_per_mshr = 16
    write_buffers = 32
    # The LLC is a victim cache: it is filled by what the L2 evicts, also when that is clean.
    writeback_clean = True

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size=f"{size_bytes}B")
        # TRM: the L2 prefetches sequential lines. Degree ours: one core draws 22 GB/s of three streams (triad) with 16,
        # 20 with 8, no more with 32; gem5's prefetchers stop at the end of a page.
        self.prefetcher = TaggedPrefetcher(degree=16, queue_size=64, latency=1, cache_snoop=True)


class LlcSlice(Cache):
    """One slice of the shared LLC. GEM5: mostly exclusive. Misses ours: about what a CMN-600 home node tracks."""

    tag_latency = SLICE_CYCLES
    data_latency = SLICE_CYCLES
    response_latency = 1
    mshrs = 32
    tgts_per_mshr = 16
    write_buffers = 32
    clusivity = "mostly_excl"
    writeback_clean = False

    def __init__(self, geometry: SliceGeometry, ranges: List[AddrRange]) -> None:
        super().__init__(size=f"{geometry.size_bytes}B", assoc=geometry.ways, addr_ranges=ranges)


class PimDataCache(Cache):
    """The PIM's window into coherent memory: activations, results, status words. Sizes ours: its lines in flight."""

    size = "16KiB"
    assoc = 4
    tag_latency = 1
    data_latency = 1
    response_latency = 1
    mshrs = 32
    tgts_per_mshr = 16
    write_buffers = 32
    writeback_clean = False


class Mesh(CoherentXBar):
    """Between the L2s, the PIM and the LLC slices.

    :param width: bytes a cycle and port
    :param tracked_bytes: lines of caches above it that the snoop filter must be able to track
    """

    frontend_latency, forward_latency = MESH_REQUEST_CYCLES
    response_latency = MESH_RESPONSE_CYCLES
    snoop_response_latency = MESH_RESPONSE_CYCLES
    max_outstanding_snoops = ROUTES
    max_routing_table_size = ROUTES

    def __init__(self, width: int, tracked_bytes: int) -> None:
        super().__init__(width=width)
        # The lookup is part of the mesh's latency.
        self.snoop_filter = SnoopFilter(lookup_latency=0, max_capacity=f"{tracked_bytes}B")


def memory_bus(tracked_bytes: int) -> SystemXBar:
    """The point of coherency above the DRAM controllers; `tracked_bytes` as for the mesh, 0 without caches."""
    bus = SystemXBar(width=64, max_outstanding_snoops=ROUTES, max_routing_table_size=ROUTES)
    bus.badaddr_responder = BadAddr()
    bus.default = bus.badaddr_responder.pio
    bus.snoop_filter = SnoopFilter(lookup_latency=1, max_capacity=f"{tracked_bytes}B") if tracked_bytes else NULL
    return bus


class _Hierarchy(AbstractClassicCacheHierarchy):
    """What both hierarchies share: the memory bus and the PIM."""

    def __init__(self, sram_pim: Any, tracked_bytes: int) -> None:
        super().__init__()
        self.membus = memory_bus(tracked_bytes)
        if sram_pim is not None:
            self.sram_pim = sram_pim
        self._pim = sram_pim

    def get_mem_side_port(self) -> Port:
        """Where memory is connected."""
        return self.membus.mem_side_ports

    def get_cpu_side_port(self) -> Port:
        """Where requestors without a cache are connected."""
        return self.membus.cpu_side_ports

    def _connect_memory(self, board: AbstractBoard) -> None:
        board.connect_system_port(self.membus.cpu_side_ports)
        for _, port in board.get_memory().get_mem_ports():
            self.membus.mem_side_ports = port
        for port in board.device_ports():
            self.membus.mem_side_ports = port

    def _connect_weights(self, bus: CoherentXBar) -> None:
        """One port a slice: what each slice of arrays can take from the crossbar at once."""
        for _ in range(int(self._pim.slices)):
            self._pim.weight_side = bus.cpu_side_ports


class N1CacheHierarchy(_Hierarchy):
    """Private L1s and L2 per core, shared LLC slices.

    :param private: a core's own caches
    :param geometry: the LLC slices
    :param mesh_width: bytes a cycle and port of the mesh (`llc.bytes_per_cycle`)
    :param cores: number of cores
    :param sram_pim: the PIM, or None
    """

    def __init__(
        self, *, private: PrivateCaches, geometry: SliceGeometry, mesh_width: int, cores: int, sram_pim: Any = None
    ) -> None:
        # Twice what the caches above hold: lines in flight count as well.
        above = 2 * (cores * (private.l2_bytes + 2 * private.l1_bytes) + (1 << 20))
        super().__init__(sram_pim, tracked_bytes=above + 2 * geometry.slices * geometry.size_bytes)
        self._private = private
        self._geometry = geometry
        self.mesh = Mesh(width=mesh_width, tracked_bytes=above)

    def incorporate_cache(self, board: AbstractBoard) -> None:
        """Build and connect the caches of every core, the slices and the PIM."""
        self._connect_memory(board)
        cores = board.get_processor().get_cores()
        self.l1i = [L1ICache(self._private.l1_bytes) for _ in cores]
        self.l1d = [L1DCache(self._private.l1_bytes) for _ in cores]
        self.l2bus = [L2XBar() for _ in cores]
        self.l2 = [L2Cache(self._private.l2_bytes) for _ in cores]
        for i, core in enumerate(cores):
            core.connect_icache(self.l1i[i].cpu_side)
            core.connect_dcache(self.l1d[i].cpu_side)
            self.l1i[i].mem_side = self.l2bus[i].cpu_side_ports
            self.l1d[i].mem_side = self.l2bus[i].cpu_side_ports
            core.connect_walker_ports(self.l2bus[i].cpu_side_ports, self.l2bus[i].cpu_side_ports)
            core.connect_interrupt()
            self.l2bus[i].mem_side_ports = self.l2[i].cpu_side
            self.l2[i].mem_side = self.mesh.cpu_side_ports
        if board.device_ports():
            # What is no slice's: devices, past the LLC.
            self.mesh.default = self.membus.cpu_side_ports
        self.llc = [LlcSlice(self._geometry, self._ranges(board, s)) for s in range(self._geometry.slices)]
        for cache in self.llc:
            cache.cpu_side = self.mesh.mem_side_ports
            cache.mem_side = self.membus.cpu_side_ports
        if self._pim is not None:
            self.pim_data_cache = PimDataCache()
            self._pim.data_side = self.pim_data_cache.cpu_side
            self.pim_data_cache.mem_side = self.mesh.cpu_side_ports
            self._connect_weights(self.mesh)

    def _ranges(self, board: AbstractBoard, index: int) -> List[AddrRange]:
        masks = self._geometry.interleave_masks()
        whole = [(int(r.start), int(r.end)) for r in board.mem_ranges]
        if not masks:
            return [AddrRange(start=start, end=end) for start, end in whole]
        return [AddrRange(start=start, end=end, masks=masks, intlvMatch=index) for start, end in whole]


class NoCaches(_Hierarchy):
    """Every core and the PIM directly on the memory bus: for functional runs and for tests that want no caches."""

    def __init__(self, sram_pim: Any = None) -> None:
        super().__init__(sram_pim, tracked_bytes=0)

    def incorporate_cache(self, board: AbstractBoard) -> None:
        """Connect the cores and the PIM."""
        self._connect_memory(board)
        for core in board.get_processor().get_cores():
            core.connect_icache(self.membus.cpu_side_ports)
            core.connect_dcache(self.membus.cpu_side_ports)
            core.connect_walker_ports(self.membus.cpu_side_ports, self.membus.cpu_side_ports)
            core.connect_interrupt()
        if self._pim is not None:
            self._pim.data_side = self.membus.cpu_side_ports
            self._connect_weights(self.membus)


def hierarchy(
    kind: str,
    *,
    private: PrivateCaches,
    geometry: SliceGeometry,
    mesh_width: int,
    cores: int,
    sram_pim: Optional[Any],
) -> AbstractClassicCacheHierarchy:
    """The hierarchy of the option `--caches`; parameters as in :class:`N1CacheHierarchy`."""
    if kind == "none":
        return NoCaches(sram_pim)
    return N1CacheHierarchy(private=private, geometry=geometry, mesh_width=mesh_width, cores=cores, sram_pim=sram_pim)

"""What gem5's caches and DRAM controllers are told, computed from the values of a system."""

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from spec.errors import SpecError

LINE_BYTES = 64
"""Cache line of every supported system, and gem5's default."""

LLC_WAYS = 16
"""Fewest ways of an LLC slice before the arrays take theirs; the public gem5 Neoverse-N1 configuration has 16."""


@dataclass(frozen=True)
class SliceGeometry:
    """The LLC: `slices` caches of `sets` x `ways` lines; `taken_ways` a slice are gone because its arrays compute."""

    slices: int
    sets: int
    ways: int
    taken_ways: int

    @property
    def size_bytes(self) -> int:
        """Capacity of one slice that is left for caching."""
        return self.sets * self.ways * LINE_BYTES

    def interleave_masks(self) -> List[int]:
        """Address bits whose parities select the slice, lowest bit of the slice number first; none for one slice.

        gem5's set index takes the bits above the line offset as they are. Selecting a slice by its low bits alone would
        leave all but one in `slices` sets of each slice empty, so every selecting bit is paired with one above the set
        index: lines still alternate between the slices, and every set of every slice is used.
        """
        bits = _log2(self.slices)
        line, above = _log2(LINE_BYTES), _log2(LINE_BYTES * self.sets)
        return [1 << (line + i) | 1 << (above + i) for i in range(bits)]

    def reach_bytes(self) -> int:
        """Memory must be a multiple of this for the slices to share it evenly."""
        return LINE_BYTES * self.sets * self.slices


def llc_slices(llc: Mapping[str, Any], sram_pim: Optional[Mapping[str, Any]] = None) -> SliceGeometry:
    """The LLC slices of a system.

    A slice keeps a power of two of sets; what the arrays take (`sram_pim.arrays_take_llc_capacity`) is rounded up to
    whole ways, because a cache cannot lose part of a set.

    :param llc: section `llc`: slices, slice_bytes
    :param sram_pim: section `sram_pim`, where the system has it
    :raises SpecError: a slice count that is no power of two, a capacity that does not divide into sets, or arrays that
        leave no way
    """
    slices, slice_bytes = int(llc["slices"]), int(llc["slice_bytes"])
    if slices & (slices - 1):
        raise SpecError(
            f"llc.slices = {slices}: gem5 interleaves addresses over a power of two of slices; use"
            f" {_below(slices)} or {2 * _below(slices)}"
        )
    sets = _below(slice_bytes // (LINE_BYTES * LLC_WAYS)) if slice_bytes >= LINE_BYTES * LLC_WAYS else 0
    if sets == 0 or slice_bytes % (sets * LINE_BYTES):
        raise SpecError(
            f"llc.slice_bytes = {slice_bytes}: does not divide into a power of two of sets of at least {LLC_WAYS} lines"
            f" of {LINE_BYTES} bytes"
        )
    ways = slice_bytes // (sets * LINE_BYTES)
    taken = 0
    if sram_pim is not None and sram_pim["arrays_take_llc_capacity"]:
        array_bytes = int(sram_pim["array_rows"]) * int(sram_pim["array_columns"]) // 8
        computing = -(-int(sram_pim["slices"]) // slices)
        taken = -(-int(sram_pim["arrays_per_slice"]) * array_bytes * computing // (sets * LINE_BYTES))
    if taken >= ways:
        raise SpecError(
            f"sram_pim.arrays_per_slice = {sram_pim['arrays_per_slice'] if sram_pim else 0}: the arrays take {taken} of"
            f" the {ways} ways of an LLC slice and leave no cache; fewer arrays, a larger llc.slice_bytes, or"
            " arrays_take_llc_capacity = false"
        )
    return SliceGeometry(slices=slices, sets=sets, ways=ways - taken, taken_ways=taken)


L1_WAYS = 4
L2_WAYS = 8
"""Arm Neoverse N1 Technical Reference Manual."""


@dataclass(frozen=True)
class PrivateCaches:
    """Bytes of a core's own caches; L1I and L1D are the same size."""

    l1_bytes: int
    l2_bytes: int


def private_caches(cpu: Mapping[str, Any]) -> PrivateCaches:
    """A core's own caches.

    :param cpu: section `cpu`: l1d_bytes, l2_bytes
    :raises SpecError: a capacity that is no power of two of sets
    """
    for key, ways in (("l1d_bytes", L1_WAYS), ("l2_bytes", L2_WAYS)):
        sets, rest = divmod(int(cpu[key]), ways * LINE_BYTES)
        if rest or sets <= 0 or sets & (sets - 1):
            raise SpecError(
                f"cpu.{key} = {cpu[key]}: expected a power of two of sets of {ways} lines of {LINE_BYTES} bytes"
            )
    return PrivateCaches(l1_bytes=int(cpu["l1d_bytes"]), l2_bytes=int(cpu["l2_bytes"]))


@dataclass(frozen=True)
class DramGeometry:
    """`channels` gem5 channels, each a DRAM interface and a controller with these parameters."""

    channels: int
    interface: Dict[str, Any]
    controller: Dict[str, Any]


DRAM_MAP = "RoCoRaBaCh"
"""gem5's name of the address map. Its other maps keep consecutive lines of a channel in one bank, where tCCD_L halves
the bandwidth of a stream; this one spreads them over all banks (bank groups first), as gempim's own RoRaBaCoBgCh does
over the bank groups. Sixteen cores that stream draw 154 GB/s of SAIL's 204.8 with it, 108 with RoRaBaCoCh."""


def dram_channels(memory: Mapping[str, Any], dram: Mapping[str, Any]) -> DramGeometry:
    """Parameters of gem5's DRAM controller for a JEDEC timing set.

    gem5 counts some times from another edge than the standard does: its tRTW starts when the read burst ends, and it
    adds the write latency and the burst to tWTR itself. It has no parameter for tRC (tRAS + tRP is used) and none for
    tCCD_S (the burst time is used).

    :param memory: section `memory`: channels
    :param dram: section `dram`: a timing set of data/dram, with its overrides
    :raises SpecError: something that gem5's controller cannot represent
    """
    d = dict(dram)
    for key, wanted in (("beats_per_clock", 2), ("command_buses", 1), ("refresh", "all_bank"), ("tRCD_WR_cut_nCK", 0)):
        if d[key] != wanted:
            raise SpecError(f"dram.{key} = {d[key]}: gem5's controller is for {wanted} only; HBM is not modelled there")
    channels = int(memory["channels"]) * int(d["subchannels"])
    if channels & (channels - 1):
        raise SpecError(
            f"memory.channels = {memory['channels']} ({channels} with sub-channels): gem5 interleaves addresses over a"
            " power of two of channels"
        )
    burst = int(d["BL"]) // 2
    if int(d["tCCD_S_nCK"]) != burst:
        raise SpecError(f"dram.tCCD_S_nCK = {d['tCCD_S_nCK']}: gem5 has none beside the burst of {burst} clocks")
    if int(d["tRTW_nCK"]) < burst:
        raise SpecError(f"dram.tRTW_nCK = {d['tRTW_nCK']}: shorter than the burst of {burst} clocks")
    width = 8
    devices = int(d["bus_bits"]) // width
    groups, banks = int(d["bank_groups"]), int(d["bank_groups"]) * int(d["banks_per_group"])

    def clocks(n: Any) -> str:
        return f"{int(n) * int(d['tCK_ps'])}ps"

    interface = {
        "device_bus_width": width,
        "devices_per_rank": devices,
        "device_rowbuffer_size": f"{int(d['row_bytes']) // devices}B",
        "burst_length": int(d["BL"]),
        "ranks_per_channel": int(d["ranks"]),
        "bank_groups_per_rank": groups if groups > 1 else 0,
        "banks_per_rank": banks,
        "tCK": clocks(1),
        "tBURST": clocks(burst),
        "tCL": clocks(d["CL_nCK"]),
        "tCWL": clocks(d["CWL_nCK"]),
        "tRCD": clocks(d["tRCD_nCK"]),
        "tRCD_WR": clocks(d["tRCD_nCK"]),
        "tRP": clocks(d["tRP_nCK"]),
        "tRAS": clocks(d["tRAS_nCK"]),
        "tRRD": clocks(d["tRRD_S_nCK"]),
        "tRRD_L": clocks(d["tRRD_L_nCK"]),
        "tXAW": clocks(d["tFAW_nCK"]),
        "activation_limit": 4,
        "tCCD_L": clocks(d["tCCD_L_nCK"]),
        "tCCD_L_WR": clocks(d["tCCD_L_WR_nCK"]),
        "tRTP": clocks(d["tRTP_nCK"]),
        "tWR": clocks(d["tWR_nCK"]),
        "tWTR": clocks(d["tWTR_S_nCK"]),
        "tWTR_L": clocks(d["tWTR_L_nCK"]),
        "tRTW": clocks(int(d["tRTW_nCK"]) - burst),
        "tCS": clocks(d["tRTRS_nCK"]),
        "tPPD": clocks(d["tPPD_nCK"]),
        "tRFC": f"{int(d['tRFC_ps'])}ps",
        "tREFI": f"{int(d['tREFI_ps'])}ps",
        "read_buffer_size": int(d["read_queue"]),
        "write_buffer_size": int(d["write_queue"]),
        # Rows stay open as in gempim's own controller; the default would close a row after 16 bursts.
        "page_policy": "open",
        "max_accesses_per_row": 0,
    }
    queue = int(d["write_queue"])
    controller = {
        "write_high_thresh_perc": 100 * int(d["write_high"]) // queue,
        "write_low_thresh_perc": 100 * int(d["write_low"]) // queue,
        "min_writes_per_switch": int(d["write_high"]) - int(d["write_low"]),
    }
    return DramGeometry(channels=channels, interface=interface, controller=controller)


@dataclass(frozen=True)
class PimGeometry:
    """Memory with PIM: `values` are parameters of the plug-in's memory, the rest follows from them.

    A space is one bank bundle of every pseudo-channel, and a contiguous part of the memory; `row_bytes`: one row of it.
    """

    values: Dict[str, Any]
    size_bytes: int
    spaces: int
    space_bytes: int
    row_bytes: int
    window_bytes: int


@dataclass(frozen=True)
class Stream:
    """What the xPU reads while a command runs: parameters of the plug-in's Xpu."""

    ranges: Tuple[Tuple[int, int], ...]
    bytes: int
    request_bytes: int
    block_bytes: int
    blocks: int
    columns: int


PIM_MEMORY_ROWS = 1024
"""Rows of a bank that are simulated unless --mem-size says something else; with five stacks they are 5 GiB. No time
depends on how many there are."""


def pim_row_bytes(memory: Mapping[str, Any], dram: Mapping[str, Any]) -> int:
    """One row of every bank of all channels."""
    banks = int(dram["ranks"]) * int(dram["bank_groups"]) * int(dram["banks_per_group"])
    return int(memory["channels"]) * int(dram["subchannels"]) * banks * int(dram["row_bytes"])


def pim_memory(sections: Mapping[str, Any], size_bytes: int, window_bytes: int) -> PimGeometry:
    """The memory of a system with Logic-PIM, of which only as many rows exist as `size_bytes` holds.

    :param sections: `memory`, `dram`, `logic_pim`
    :param window_bytes: bytes in the middle of each space that guests have for themselves
    :raises SpecError: channels that are no whole stacks, a size that is no whole number of rows, or a window that is
        larger than half of a space
    """
    dram, pim = dict(sections["dram"]), dict(sections["logic_pim"])
    channels = int(sections["memory"]["channels"]) * int(dram["subchannels"])
    stacks, rest = divmod(channels, int(pim["pseudo_channels"]))
    if rest or stacks == 0:
        raise SpecError(
            f"memory.channels = {sections['memory']['channels']}: {channels} pseudo-channels are no whole number of"
            f" stacks of logic_pim.pseudo_channels = {pim['pseudo_channels']}"
        )
    row_set = pim_row_bytes(sections["memory"], dram)
    rows, rest = divmod(size_bytes, row_set)
    if rest or rows % 2 or not 2 <= rows <= int(dram["rows"]):
        raise SpecError(
            f"--mem-size: {size_bytes} bytes: expected an even number of rows of all banks, which are {row_set} bytes,"
            f" and at most {int(dram['rows'])}; for example {(PIM_MEMORY_ROWS * row_set) >> 20}MiB"
        )
    spaces = int(dram["ranks"]) // int(pim["bundle_ranks"]) * (int(dram["banks_per_group"]) // int(pim["bundle_banks"]))
    space_bytes = size_bytes // spaces
    if window_bytes > space_bytes // 2:
        raise SpecError(f"--pim-window: {window_bytes} bytes: at most half of a space, {space_bytes // 2} bytes")
    return PimGeometry(
        values={**pim, **dram, "rows": rows, "stacks": stacks},
        size_bytes=size_bytes,
        spaces=spaces,
        space_bytes=space_bytes,
        row_bytes=row_set // spaces,
        window_bytes=window_bytes,
    )


def xpu_stream(geometry: PimGeometry, stream_bytes: int, spaces: Sequence[int]) -> Stream:
    """Reads out of the upper halves of `spaces`, in the order of the embedded engine's xPU.

    :raises SpecError: a space that does not exist or occurs twice, or bytes that are no whole bursts of all channels
    """
    v = geometry.values
    if not spaces or len(set(spaces)) != len(spaces) or max(spaces) >= geometry.spaces:
        raise SpecError(f"--xpu-spaces: expected different ones of 0 to {geometry.spaces - 1}")
    request = int(v["bus_bits"]) // 8 * int(v["BL"])
    channels = int(v["stacks"]) * int(v["pseudo_channels"])
    if stream_bytes % (request * channels):
        raise SpecError(f"--xpu-bytes: expected a multiple of {request * channels}, a burst of every pseudo-channel")
    block = request * channels * int(v["bank_groups"])
    columns = int(v["row_bytes"]) // request
    return Stream(
        ranges=tuple(
            (s * geometry.space_bytes + geometry.space_bytes // 2, (s + 1) * geometry.space_bytes) for s in spaces
        ),
        bytes=stream_bytes,
        request_bytes=request,
        block_bytes=block,
        blocks=geometry.row_bytes // (block * columns),
        columns=columns,
    )


def clock(hertz: Any) -> str:
    """A clock frequency as a period that gem5 represents exactly: whole picoseconds. :raises SpecError: not above 0"""
    if not float(hertz) > 0:
        raise SpecError(f"cpu.clock_hz = {hertz!r}: expected a frequency above 0")
    return f"{max(1, round(1e12 / float(hertz)))}ps"


def _log2(n: int) -> int:
    return n.bit_length() - 1


def _below(n: int) -> int:
    """The largest power of two that is not above `n`."""
    return 1 << _log2(n) if n > 0 else 0

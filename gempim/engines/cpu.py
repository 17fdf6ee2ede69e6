"""The CPU of the embedded engine: time, instructions and cache traffic of llama.cpp's operators on out-of-order cores.

An operator's compute time is that of its critical thread: kernel cycles per block (from a calibration file) times
the blocks this thread gets under ggml's own work split (`cpu_split`), plus the fixed cycles of kernel calls, chunks
and the graph node. Time to move data from DRAM is the engine's business: it takes the larger of `CpuCost.compute_ps`
and the memory time of the counted bytes, and adds `CpuCost.barrier_ps`.

Matrix product of activations [m, k] with weights [n, k], block of e elements, B = k / e blocks a row, kernel cycles
c per block and d per call, T threads:

* activations are converted to the kernel's type. vec_dot path: every row is cut over the threads, m (ceil(B / T) c_q
  + d_q).
  Repacked path: groups of 4 rows, and the rows left over, are dealt to the threads whole.
* vec_dot path: m n calls of B c + d + dot_call_cycles.
* repacked path (q4_0 and q8_0 with n % 4 = 0; q4_K, q5_K and q6_K with n % 8 = 0): rows in groups of 16 or 4 by a
  GEMM kernel, what is left by GEMV; experts by GEMV only.

Cache traffic (bytes), W = n k weight bytes, A = bytes of the converted activations, chunks as in `cpu_split`:

* L1: what the kernels' loads and stores move.
* beyond L1: W once for every group of activation rows that passes over it (16 rows of a vec_dot chunk while 16
  weight rows fit in half of L1, else each row; the tile of a repacked kernel), and A once for every 16 weight rows
  (vec_dot) or once a chunk (repacked).
* beyond L2 (`llc_bytes`): W once for each group of 16 activation rows (repacked: for each tile) unless the thread's
  chunk fits in half of L2, where it stays; A once for every thread, once for every chunk row block when A does not
  fit in half of L2.
* DRAM: W once, and again for every further pass beyond L2 when W is larger than half of the LLC; nothing when the
  weights are resident. Activations and results stay in the LLC when together they fit in half of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from gempim.engines.calibration import CLASSES, Calibration, KernelCost
from gempim.engines.cpu_split import CHUNK_ROWS, Chunks, ceil_div, dot_chunks, expert_rows, repacked_chunks
from gempim.lowering.operator import Operator
from gempim.models.spec import ModelSpec
from gempim.quantity import DataError

PS_PER_S = 10**12

F32 = 4

ACTIVATION_TYPE = {
    "q4_0": "q8_0", "q5_0": "q8_0", "q8_0": "q8_0", "q4_1": "q8_1", "q5_1": "q8_1",
    "q2_k": "q8_K", "q3_k": "q8_K", "q4_k": "q8_K", "q5_k": "q8_K", "q6_k": "q8_K", "f16": "f16", "f32": "f32",
}  # fmt: skip
"""Weight type -> type that the activations are converted to (type_traits_cpu in ggml-cpu.c)."""

_ACTIVATION_BYTES = {"q8_0": (32, 34), "q8_1": (32, 36), "q8_K": (256, 292), "f16": (1, 2), "f32": (1, 4)}
"""Activation type -> elements and bytes of a block."""

REPACKED = {"q4_0": "4x4", "q8_0": "4x4", "q4_k": "8x4", "q5_k": "8x4", "q6_k": "8x4"}
"""Weight type -> layout that llama.cpp repacks it to on a CPU with the dot product but without 8-bit matrix multiply
and SVE."""

NOT_MODELLED = (
    "CPU: TLB misses; kernel cycles are those of gem5's out-of-order core with operands in L1, and overlap fully with "
    "the memory time beside them",
    "CPU: llamafile's GEMM for f16, f32 and not repacked q4_0 and q8_0 with more than one activation row; "
    "vec_dot is used",
    "CPU: flash attention; scores, softmax and values are separate operators with scalar f16 conversion of the scores",
    "CPU: frequency changes, other processes, NUMA, and instructions spent in barriers, node dispatch and libm",
    "CPU: bf16 weights, which have no vector kernel on Armv8.2",
)


def _f(unit: str, description: str, lo: float = 0, hi: float = math.inf) -> dict[str, object]:
    return {"unit": unit, "description": description, "min": lo, "max": hi}


@dataclass(frozen=True)
class CpuParams:
    """The cores of a socket. Raises DataError naming the parameter when one is out of its range."""

    cores: int = field(metadata=_f("cores", "cores of the socket", 1, 1024))
    clock_hz: float = field(metadata=_f("Hz", "core clock under load on all cores", 1e8, 1e10))
    l1d_bytes: int = field(metadata=_f("byte", "L1 data cache of a core", 4096, 2**24))
    l2_bytes: int = field(metadata=_f("byte", "private L2 cache of a core", 65536, 2**28))
    repack: bool = field(metadata=_f("", "llama.cpp repacks the weights when it loads a model (its default)"))
    calibration: str = field(metadata=_f("", "calibration file in gempim/data/calibration, or a path"))

    def __post_init__(self) -> None:
        for name, value in (
            ("cores", self.cores),
            ("clock_hz", self.clock_hz),
            ("l1d_bytes", self.l1d_bytes),
            ("l2_bytes", self.l2_bytes),
        ):
            meta = self.__dataclass_fields__[name].metadata
            if not meta["min"] <= value <= meta["max"]:
                raise DataError(f"cpu.{name} = {value} {meta['unit']}: allowed are {meta['min']:g} to {meta['max']:g}")


@dataclass(frozen=True)
class ModelTraits:
    """What an operator list does not say of its model: norm ("rms", "layer"), act (see `ACTIVATION_KERNELS`), query
    heads, head size."""

    norm: str
    act: str
    n_heads: int
    head_dim: int

    @classmethod
    def of(cls, model: ModelSpec) -> ModelTraits:
        """The traits of a model."""
        return cls(norm=model.norm, act=model.act, n_heads=model.n_heads, head_dim=model.head_dim)


NORM_KERNELS = {
    "rms": (("rms_norm_sum", "rms_norm_scale"),),
    "layer": (("norm_sum", "norm_variance", "scale"), ("add",), ("add",)),
}
"""Norm -> graph nodes -> kernels, each over every element. RMSNorm and its weight are fused; LayerNorm's weight and
bias are two nodes more (a product has the cycles of a sum)."""

ACTIVATION_KERNELS = {"swiglu": ("swiglu",), "geglu": ("gelu", "add"), "gelu": ("gelu",), "relu": ()}
"""Activation -> kernels over every output element; relu's cost is `RuntimeCost.relu_cycles_per_element`."""

SOFTMAX_KERNELS = ("scale", "scale", "mask", "max", "soft_max_exp", "scale")
"""ggml_compute_forward_soft_max_f32: copy, scale, mask, maximum, exponential and sum, scale. The copy has the cost
of a scaling."""


@dataclass(frozen=True)
class CpuCost:
    """One occurrence of an operator on the CPU.

    Attributes:
        compute_ps: time of the critical thread with all data in L1, without barriers.
        barrier_ps: time in barriers.
        busy_cycles: core cycles of all threads together, without waiting.
        instructions: executed by all threads, by class.
        l1_bytes, l2_bytes, llc_bytes: bytes moved between registers and L1, beyond L1, and beyond L2.
        dram_read_bytes, dram_write_bytes: bytes the LLC exchanges with DRAM.
        kernels: names of the kernels used.
        parts: picoseconds of compute_ps by part ("quantize", "kernel", "runtime").
    """

    compute_ps: int
    barrier_ps: int
    busy_cycles: int
    instructions: Mapping[str, int]
    l1_bytes: int
    l2_bytes: int
    llc_bytes: int
    dram_read_bytes: int
    dram_write_bytes: int
    kernels: tuple[str, ...]
    parts: Mapping[str, int]


class _Work:
    """Sums the work of one operator while it is walked through."""

    def __init__(self) -> None:
        self.critical: dict[str, float] = {"quantize": 0.0, "kernel": 0.0, "runtime": 0.0}
        self.busy = 0.0
        self.instructions = dict.fromkeys(CLASSES, 0.0)
        self.l1 = 0.0
        self.l2 = 0.0
        self.llc = 0.0
        self.dram_read = 0.0
        self.dram_write = 0.0
        self.barriers = 0
        self.kernels: list[str] = []

    def kernel(
        self,
        kernel: KernelCost,
        *,
        blocks: float,
        calls: float,
        critical_blocks: float,
        critical_calls: float,
        part: str,
    ) -> None:
        """Add kernel work: totals over all threads, and what the critical thread has of them."""
        self.critical[part] += critical_blocks * kernel.cycles_per_block + critical_calls * kernel.call_cycles
        self.busy += blocks * kernel.cycles_per_block + calls * kernel.call_cycles
        for kind in CLASSES:
            self.instructions[kind] += blocks * kernel.per_block[kind] + calls * kernel.per_call[kind]
        self.l1 += blocks * (kernel.load_bytes_per_block + kernel.store_bytes_per_block)
        if kernel.name not in self.kernels:
            self.kernels.append(kernel.name)

    def runtime(self, critical: float, total: float) -> None:
        """Add cycles outside the kernels."""
        self.critical["runtime"] += critical
        self.busy += total


class CpuModel:
    """llama.cpp on the cores of one socket.

    Args:
        params: the cores.
        calibration: kernel costs, see `load_calibration`.
        threads: llama.cpp's thread count.
        llc_bytes: capacity of the last-level cache that the program can use.
        traits: of the model that runs.

    Raises:
        DataError: threads below 1 or above the cores, a norm or activation without kernels, or an LLC without capacity.
    """

    def __init__(
        self, params: CpuParams, calibration: Calibration, threads: int, *, llc_bytes: int, traits: ModelTraits
    ) -> None:
        if not 1 <= threads <= params.cores:
            raise DataError(f"threads = {threads}: allowed are 1 to the {params.cores} cores of the system")
        if llc_bytes <= 0:
            raise DataError(f"llc_bytes = {llc_bytes}: expected a capacity above 0")
        if traits.norm not in NORM_KERNELS:
            raise DataError(f"norm {traits.norm!r}: allowed are {', '.join(NORM_KERNELS)}")
        if traits.act not in ACTIVATION_KERNELS:
            raise DataError(f"act {traits.act!r}: allowed are {', '.join(ACTIVATION_KERNELS)}")
        self.params = params
        self.calibration = calibration
        self.threads = threads
        self.llc_bytes = llc_bytes
        self.traits = traits

    # Entry points -------------------------------------------------------------------------------------------------

    def cost(self, op: Operator, *, weights_resident_in_llc: bool) -> CpuCost:
        """The cost of one occurrence of any operator.

        Raises:
            DataError: an operator kind or weight type without a kernel.
        """
        if op.kind in ("matmul", "router"):
            return self.matmul(op, weights_resident_in_llc=weights_resident_in_llc)
        if op.kind in ("attn_score", "attn_value"):
            return self.attention(op, cache_resident_in_llc=weights_resident_in_llc)
        return self.elementwise(op, weights_resident_in_llc=weights_resident_in_llc)

    @property
    def core_dram_bytes_per_s(self) -> float:
        """What the threads together can draw from DRAM by their outstanding misses, in bytes/s."""
        return self.threads * self.calibration.memory.core_dram_bytes_per_s

    @property
    def core_llc_bytes_per_s(self) -> float:
        """What the threads together can draw from the LLC, in bytes/s."""
        return self.threads * self.calibration.memory.core_llc_bytes_per_s(self.params.clock_hz)

    def barrier_cycles(self) -> float:
        """Cycles of one barrier: none on one thread, else base + per_thread * threads."""
        if self.threads == 1:
            return 0.0
        runtime = self.calibration.runtime
        return runtime.barrier_base_cycles + runtime.barrier_cycles_per_thread * self.threads

    def quantize(self, m: int, k: int, weight_type: str) -> CpuCost:
        """Conversion of activations [m, k] from f32 to the type that weights of `weight_type` are multiplied with,
        row by row over the threads as in the vec_dot path, and the barrier after it.

        Raises:
            DataError: a weight type without kernels, or k not a whole number of blocks.
        """
        work = _Work()
        self._quantize(work, m, k, self._activation_type(weight_type))
        work.runtime(self.calibration.runtime.operator_cycles, self.calibration.runtime.operator_cycles * self.threads)
        work.l2 = work.llc = m * k * F32 + m * self._activation_row(weight_type, k)
        work.barriers = 1
        return self._finish(work)

    def matmul(self, op: Operator, *, weights_resident_in_llc: bool) -> CpuCost:
        """A matrix product: `op.instances` experts (roles ending in `_exps`), or one.

        Raises:
            DataError: a weight type without kernels, or k not a whole number of blocks.
        """
        return self._product(op, merged=False, resident=weights_resident_in_llc)

    def attention(self, op: Operator, *, cache_resident_in_llc: bool) -> CpuCost:
        """Scores or values: `op.instances` KV heads times sequences, each with the m query rows that share it.

        Never repacked. The query rows of all heads are one long side of the product when the work is split.

        Raises:
            DataError: a KV type without kernels.
        """
        return self._product(op, merged=True, resident=cache_resident_in_llc)

    def elementwise(self, op: Operator, *, weights_resident_in_llc: bool = False) -> CpuCost:
        """Norm, softmax, rotation, activation, sum, embedding, or write of the KV cache.

        ggml deals rows to the threads, so one token's norm, activation and sum run on one thread; softmax deals the
        tokens of a head (one token: one thread); a rotated row is one head of one token, and each thread makes its
        own table of angles.

        Raises:
            DataError: an operator kind or KV type without a kernel.
        """
        work = _Work()
        handlers = {
            "norm": self._norm, "softmax": self._softmax, "rope": self._rope, "activation": self._activation,
            "add": self._add, "embed": self._embed, "kv_write": self._kv_write,
        }  # fmt: skip
        if op.kind not in handlers:
            raise DataError(f"operator {op.name}: kind {op.kind!r} has no CPU cost (allowed: {', '.join(handlers)})")
        handlers[op.kind](work, op)
        if not weights_resident_in_llc:
            work.dram_read += op.weight_bytes
        work.llc += op.weight_bytes
        self._activation_traffic(work, op)
        if op.kind == "kv_write" and not weights_resident_in_llc:
            work.dram_write = float(op.write_bytes)
        return self._finish(work)

    # Products -----------------------------------------------------------------------------------------------------

    def _product(self, op: Operator, *, merged: bool, resident: bool) -> CpuCost:
        weight_type = self._weight_type(op)
        experts = op.name.endswith("_exps")
        layout = None if merged else self._layout(weight_type, op.n)
        work = _Work()
        rows = op.m * op.instances
        if layout is None:
            self._quantize(work, rows, op.k, ACTIVATION_TYPE[weight_type])
            self._dot_product(work, op, weight_type, merged=merged, resident=resident)
        else:
            self._quantize_repacked(work, rows, op.k, ACTIVATION_TYPE[weight_type], experts=experts)
            self._repacked_product(work, op, layout, weight_type, experts=experts, resident=resident)
        runtime = self.calibration.runtime
        work.runtime(runtime.operator_cycles, runtime.operator_cycles * self.threads)
        self._activation_traffic(work, op)
        work.barriers = 2  # after the conversion, and at the end of the node
        return self._finish(work)

    def _dot_product(self, work: _Work, op: Operator, weight_type: str, *, merged: bool, resident: bool) -> None:
        """m n vec_dot calls an instance, in chunks. `merged`: the activation rows of all instances are split as one
        side."""
        kernel = self.calibration.kernel(_dot_name(weight_type))
        runtime = self.calibration.runtime
        columns, products = (op.m * op.instances, 1) if merged else (op.m, op.instances)
        chunks = dot_chunks(op.n, columns, self.threads)
        most = chunks.most_per_thread(self.threads, products)
        total = op.n * columns * products
        critical = chunks.critical(self.threads, products)
        blocks = op.k / kernel.block_elements
        work.kernel(
            kernel,
            blocks=total * blocks,
            calls=total,
            critical_blocks=critical * blocks,
            critical_calls=critical,
            part="kernel",
        )
        fetched = chunks.count * products
        work.runtime(
            critical * runtime.dot_call_cycles + (most - 1) * runtime.chunk_cycles,
            total * runtime.dot_call_cycles + max(0, fetched - self.threads) * runtime.chunk_cycles,
        )
        self._dot_traffic(work, op, weight_type, chunks, resident=resident)

    def _dot_traffic(self, work: _Work, op: Operator, weight_type: str, chunks: Chunks, *, resident: bool) -> None:
        weight_row = op.weight_bytes / (op.instances * op.n)
        activation_row = self._activation_row(weight_type, op.k)
        width = min(op.m, chunks.chunk_columns)
        along_columns = ceil_div(op.m, width)
        along_rows = ceil_div(op.n, chunks.chunk_rows)
        groups = ceil_div(width, CHUNK_ROWS)
        held = CHUNK_ROWS * weight_row <= self.params.l1d_bytes / 2
        chunk_held = chunks.chunk_rows * weight_row <= self.params.l2_bytes / 2
        activations = op.m * op.instances * activation_row
        near = min(width, CHUNK_ROWS) * activation_row <= self.params.l1d_bytes / 2
        near_l2 = width * activation_row <= self.params.l2_bytes / 2
        blocks_of_rows = ceil_div(op.n, CHUNK_ROWS)
        self._stream(
            work,
            op,
            l1_passes=along_columns * (groups if held else width),
            l2_passes=along_columns * (1 if chunk_held else groups),
            activations_l2=activations * (along_rows if near else blocks_of_rows),
            activations_llc=activations * (min(self.threads, along_rows) if near_l2 else blocks_of_rows),
            resident=resident,
        )

    def _repacked_product(
        self, work: _Work, op: Operator, layout: str, weight_type: str, *, experts: bool, resident: bool
    ) -> None:
        """GEMM tiles over groups of activation rows, GEMV over the rest; experts by GEMV, row by row."""
        tiles = self._tiles(layout, weight_type, 0 if experts else op.m - op.m % 4, op.m)
        tile_rows = tiles[0][0].tile_rows
        if experts:
            chunk_rows, most, count = expert_rows(op.n, self.threads, tile_rows), 1, self.threads
            critical_rows, products = float(chunk_rows), op.instances
        else:
            chunks = repacked_chunks(op.n, op.m, self.threads, tile_rows)
            chunk_rows, count = chunks.chunk_rows, chunks.count
            most = chunks.most_per_thread(self.threads, op.instances)
            critical_rows, products = chunks.critical(self.threads, op.instances) / op.m, 1
        for kernel, columns in tiles:
            blocks = columns * op.k / kernel.block_elements
            calls = columns / kernel.tile_columns / kernel.tile_rows
            work.kernel(
                kernel,
                blocks=op.n * op.instances * blocks,
                calls=op.n * op.instances * calls,
                critical_blocks=critical_rows * products * blocks,
                critical_calls=critical_rows * products * calls,
                part="kernel",
            )
        chunk_cycles = self.calibration.runtime.chunk_cycles
        # Unlike the vec_dot path, every thread asks once more than it gets chunks.
        asked = 0 if experts else count * op.instances
        work.runtime(most * chunk_cycles if not experts else 0.0, asked * chunk_cycles)
        weight_row = op.weight_bytes / (op.instances * op.n)
        activation_row = self._activation_row(weight_type, op.k)
        groups = sum(columns // kernel.tile_columns for kernel, columns in tiles)
        widest = max(kernel.tile_columns for kernel, _ in tiles)
        activations = op.m * op.instances * activation_row
        near = widest * activation_row <= self.params.l1d_bytes / 2
        along_rows = ceil_div(op.n, chunk_rows)
        self._stream(
            work,
            op,
            l1_passes=1 if chunk_rows * weight_row <= self.params.l1d_bytes / 2 else groups,
            l2_passes=1 if chunk_rows * weight_row <= self.params.l2_bytes / 2 else groups,
            activations_l2=activations * (along_rows if near else op.n / tile_rows),
            activations_llc=activations * min(self.threads, along_rows),
            resident=resident,
        )

    def _tiles(self, layout: str, weight_type: str, gemm_rows: int, m: int) -> list[tuple[KernelCost, int]]:
        """Kernels and the activation rows each takes: GEMM in its widest tiles first, then narrower ones, then GEMV."""
        name = f"{_ggml_name(weight_type)}_{layout}_{ACTIVATION_TYPE[weight_type]}"
        tiles: list[tuple[KernelCost, int]] = []
        left = gemm_rows
        candidates = [self.calibration.kernel(f"gemm_{name}")]
        if f"gemm_{name}_tail" in self.calibration.kernels:
            candidates.append(self.calibration.kernel(f"gemm_{name}_tail"))
        for kernel in candidates:
            columns = left - left % kernel.tile_columns
            if columns:
                tiles.append((kernel, columns))
            left -= columns
        rest = m - gemm_rows + left
        if rest:
            tiles.append((self.calibration.kernel(f"gemv_{name}"), rest))
        return tiles

    def _stream(
        self,
        work: _Work,
        op: Operator,
        *,
        l1_passes: float,
        l2_passes: float,
        activations_l2: float,
        activations_llc: float,
        resident: bool,
    ) -> None:
        """Traffic of a product: weights pass `l1_passes` times beyond L1 and `l2_passes` times beyond L2."""
        work.l2 += op.weight_bytes * l1_passes + activations_l2
        work.llc += op.weight_bytes * l2_passes + activations_llc
        if resident:
            return
        again = l2_passes - 1 if op.weight_bytes / op.instances > self.llc_bytes / 2 else 0
        work.dram_read += op.weight_bytes * (1 + again)

    # Conversion of activations --------------------------------------------------------------------------------------

    def _quantize(self, work: _Work, m: int, k: int, kind: str) -> None:
        """Rows one after another, each cut over the threads in whole blocks."""
        if kind == "f32":
            return
        kernel = self.calibration.kernel(f"quantize_{kind}")
        blocks = k // kernel.block_elements
        share = ceil_div(blocks, self.threads)
        calls = m * min(self.threads, blocks)
        work.kernel(
            kernel, blocks=m * blocks, calls=calls, critical_blocks=m * share, critical_calls=m, part="quantize"
        )

    def _quantize_repacked(self, work: _Work, m: int, k: int, kind: str, *, experts: bool) -> None:
        """Groups of 4 rows and the rows left over, dealt whole to the threads; of experts all rows singly."""
        single = self.calibration.kernel(f"quantize_{kind}")
        group = self.calibration.kernel(f"quantize_{kind}_4x4")
        groups, rest = (0, m) if experts else divmod(m, group.tile_columns)
        blocks = k // single.block_elements
        most, most_single = ceil_div(groups, self.threads), ceil_div(rest, self.threads)
        rows = group.tile_columns
        if groups:
            work.kernel(
                group,
                blocks=groups * rows * blocks,
                calls=groups,
                critical_blocks=most * rows * blocks,
                critical_calls=most,
                part="quantize",
            )
        if rest:
            work.kernel(
                single,
                blocks=rest * blocks,
                calls=rest,
                critical_blocks=most_single * blocks,
                critical_calls=most_single,
                part="quantize",
            )

    # Elementwise operators ------------------------------------------------------------------------------------------

    def _rows(self, work: _Work, names: tuple[str, ...], rows: int, critical_rows: int, elements: int) -> None:
        """Kernels over `rows` rows of `elements`, of which the critical thread has `critical_rows`."""
        for name in names:
            kernel = self.calibration.kernel(name)
            blocks = ceil_div(elements, kernel.block_elements)
            work.kernel(
                kernel,
                blocks=rows * blocks,
                calls=rows,
                critical_blocks=critical_rows * blocks,
                critical_calls=critical_rows,
                part="kernel",
            )

    def _node(self, work: _Work, nodes: int = 1) -> None:
        """Dispatch and final barrier of graph nodes."""
        cycles = nodes * self.calibration.runtime.operator_cycles
        work.runtime(cycles, cycles * self.threads)
        work.barriers += nodes

    def _norm(self, work: _Work, op: Operator) -> None:
        for names in NORM_KERNELS[self.traits.norm]:
            self._rows(work, names, op.m, ceil_div(op.m, self.threads), op.n)
            self._node(work)

    def _softmax(self, work: _Work, op: Operator) -> None:
        attention = op.name.startswith("attn")
        heads = self.traits.n_heads if attention else 1
        names = SOFTMAX_KERNELS if attention else tuple(name for name in SOFTMAX_KERNELS if name != "mask")
        if op.m % heads:
            raise DataError(f"operator {op.name}: {op.m} rows are not a whole number of tokens of {heads} heads")
        self._rows(work, names, op.m, heads * ceil_div(op.m // heads, self.threads), op.n)
        self._node(work)

    def _rope(self, work: _Work, op: Operator) -> None:
        size = self.traits.head_dim
        heads, rest = divmod(op.n, size)
        if rest:
            raise DataError(f"operator {op.name}: {op.n} elements are not a whole number of heads of {size}")
        rows = op.m * heads
        share = ceil_div(rows, self.threads)
        self._rows(work, ("rope",), rows, share, size)
        tables = ceil_div(share, heads)
        cycles = tables * (size // 2) * self.calibration.runtime.rope_angle_cycles
        work.runtime(cycles, cycles * ceil_div(rows, share))
        self._node(work)

    def _activation(self, work: _Work, op: Operator) -> None:
        rows = ceil_div(op.m, self.threads)
        self._rows(work, ACTIVATION_KERNELS[self.traits.act], op.m, rows, op.n)
        if self.traits.act == "relu":
            cycles = op.n * self.calibration.runtime.relu_cycles_per_element
            work.runtime(rows * cycles, op.m * cycles)
        self._node(work)

    def _add(self, work: _Work, op: Operator) -> None:
        # A weighted sum of experts has several operations an element; each is a pass of the same loop.
        passes = max(1, op.flops // (op.m * op.n))
        self._rows(work, ("add",) * passes, op.m, ceil_div(op.m, self.threads), op.n)
        self._node(work)

    def _embed(self, work: _Work, op: Operator) -> None:
        cycles = op.n * self.calibration.runtime.embed_cycles_per_element
        work.runtime(ceil_div(op.m, self.threads) * cycles, op.m * cycles)
        self._node(work)

    def _kv_write(self, work: _Work, op: Operator) -> None:
        weight_type = self._weight_type(op)
        kind = "scale" if weight_type == "f32" else f"quantize_{weight_type}"
        for _ in ("k", "v"):
            self._rows(work, (kind,), op.m, ceil_div(op.m, self.threads), op.n // 2)
            self._node(work)

    # Helpers --------------------------------------------------------------------------------------------------------

    def _weight_type(self, op: Operator) -> str:
        if op.weight_type is None:
            raise DataError(f"operator {op.name}: a {op.kind} needs the type of its streamed operand")
        self._activation_type(op.weight_type)
        return op.weight_type

    def _activation_type(self, weight_type: str) -> str:
        if weight_type not in ACTIVATION_TYPE:
            raise DataError(
                f"weights of type {weight_type!r} have no CPU kernel (allowed: {', '.join(sorted(ACTIVATION_TYPE))})"
            )
        return ACTIVATION_TYPE[weight_type]

    def _activation_row(self, weight_type: str, k: int) -> float:
        elements, size = _ACTIVATION_BYTES[self._activation_type(weight_type)]
        return k / elements * size

    def _layout(self, weight_type: str, n: int) -> str | None:
        """The repacked layout llama.cpp picks, None for the vec_dot path."""
        layout = REPACKED.get(weight_type) if self.params.repack else None
        return layout if layout is not None and n % int(layout[0]) == 0 else None

    def _activation_traffic(self, work: _Work, op: Operator) -> None:
        """Operands and results of f32: once through L2 and LLC, to DRAM when they do not fit in half of the LLC."""
        moved = op.read_bytes + op.write_bytes
        work.l2 += moved
        work.llc += moved
        if moved > self.llc_bytes / 2:
            work.dram_read += op.read_bytes
            work.dram_write += op.write_bytes

    def _finish(self, work: _Work) -> CpuCost:
        ps_per_cycle = PS_PER_S / self.params.clock_hz
        return CpuCost(
            compute_ps=math.ceil(sum(work.critical.values()) * ps_per_cycle),
            barrier_ps=math.ceil(work.barriers * self.barrier_cycles() * ps_per_cycle),
            busy_cycles=math.ceil(work.busy),
            instructions={kind: round(count) for kind, count in work.instructions.items()},
            l1_bytes=round(work.l1),
            l2_bytes=round(work.l2),
            llc_bytes=round(work.llc),
            dram_read_bytes=round(work.dram_read),
            dram_write_bytes=round(work.dram_write),
            kernels=tuple(work.kernels),
            parts={part: math.ceil(cycles * ps_per_cycle) for part, cycles in work.critical.items()},
        )


def _ggml_name(weight_type: str) -> str:
    """ggml's spelling in function names: q4_K, not q4_k."""
    return weight_type.replace("_k", "_K")


def _dot_name(weight_type: str) -> str:
    kind = ACTIVATION_TYPE[weight_type]
    return f"vec_dot_{kind}" if kind in ("f16", "f32") else f"vec_dot_{_ggml_name(weight_type)}_{kind}"

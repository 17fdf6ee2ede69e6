"""The xPU of a serving system (an H100 and its like): tiled GEMM, attention, element-wise work, in ps and event counts.

A GEMM is cut into output tiles that the SMs take in waves; a tile is bound by the tensor cores or by what its SM can
draw from the L2 cache, the whole product by the HBM. As a library does, the model takes the fastest of a list of tile
shapes and splits of k. Operands are FP16, sums FP32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

FP16 = 2
FP32 = 4
PS = 1_000_000_000_000

TOKEN_TILES = (8, 16, 32, 64, 96, 128, 192, 256)
"""Tile sizes over tokens: a Hopper tensor instruction takes 8 to 256 columns in steps of 8 (NVIDIA PTX ISA, wgmma)."""

WEIGHT_TILES = (64, 128, 256)
"""Tile sizes over output features: multiples of the 64 rows of one tensor instruction."""

SPLITS = (1, 2, 4, 8, 16)
"""Splits of k, as CUTLASS's split-k: more tiles than the output has, for the price of adding partial sums."""

MOST_OUTPUTS = 256 * 128
"""Outputs of a tile: FP32 sums of a larger one do not fit in an SM's registers beside the operands."""

LEAST_K = 256
"""A split leaves at least so much of k to a tile, or its prologue would be longer than its work."""

SOFTMAX_FLOPS = 7
"""Operations a score: scale, mask, maximum, subtract, exp, sum, divide (as scale-snu/LLMSimulator counts)."""

DECODE_ROWS = 16
"""Query rows of one tensor instruction in decode attention (mma.m16n8k16): a smaller group of heads is padded to it."""


def _f(unit: str, description: str, lo: float, hi: float) -> dict[str, object]:
    return {"unit": unit, "description": description, "min": lo, "max": hi}


@dataclass(frozen=True)
class XpuParams:
    """One xPU with its HBM, and the shares of its peaks that kernels reach."""

    peak_flops_per_s: float = field(metadata=_f("flop/s", "peak dense FP16 tensor rate", 1e9, 1e18))
    peak_bytes_per_s: float = field(metadata=_f("byte/s", "peak memory bandwidth", 1e9, 1e15))
    memory_bytes: int = field(metadata=_f("byte", "device memory", 1e9, 1e13))
    reserved_bytes: int = field(metadata=_f("byte", "memory that neither weights nor KV cache may use", 0, 1e12))
    sms: int = field(metadata=_f("SMs", "streaming multiprocessors", 1, 4096))
    l2_bytes_per_s: float = field(metadata=_f("byte/s", "L2 to SM bandwidth, all SMs", 1e9, 1e15))
    multicast: int = field(metadata=_f("SMs", "SMs that share one read of a tile's operand", 1, 16))
    vector_flops_per_s: float = field(metadata=_f("flop/s", "peak rate outside the tensor cores", 1e9, 1e18))
    compute_efficiency: float = field(metadata=_f("fraction", "share of the tensor rate in a full wave", 0.01, 1))
    bandwidth_efficiency: float = field(metadata=_f("fraction", "share of the peak memory bandwidth", 0.01, 1))
    attention_efficiency: float = field(metadata=_f("fraction", "share of the tensor rate in attention", 0.01, 1))
    launch_ps: int = field(metadata=_f("ps", "time between two kernels", 0, 1e9))
    row_bytes: int = field(metadata=_f("byte", "memory row that one activation opens, for energy", 32, 65536))


@dataclass(frozen=True)
class XpuCost:
    """One operator on ONE xPU: its time and what limits it [ps], and what is counted.

    `macs` are multiply-accumulates of the operator (not of padding), `flops` operations outside the tensor cores.
    """

    time_ps: int
    compute_ps: int
    memory_ps: int
    macs: int = 0
    flops: int = 0
    read_bytes: int = 0
    write_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Memory traffic."""
        return self.read_bytes + self.write_bytes

    @property
    def op_b(self) -> float:
        """Operations a byte of memory traffic (2 a multiply-accumulate); inf without traffic."""
        return (2 * self.macs + self.flops) / self.bytes if self.bytes else math.inf


class Xpu:
    """Costs of operators on one xPU. Deterministic and without state."""

    def __init__(self, params: XpuParams) -> None:
        self.params = params
        self._flops_per_sm = params.peak_flops_per_s * params.compute_efficiency / params.sms
        self._l2_per_sm = params.l2_bytes_per_s / params.sms
        self._bytes_per_s = params.peak_bytes_per_s * params.bandwidth_efficiency

    def memory_ps(self, moved: float) -> int:
        """Time of `moved` bytes of memory traffic [ps]."""
        return round(moved / self._bytes_per_s * PS)

    def gemm(self, tokens: int, n: int, k: int, *, streamed: bool = True) -> XpuCost:
        """Activations [tokens, k] times weights [n, k]; no token is no work.

        :param streamed: weights come from memory (False: activations only, for a product of two cached operands)
        """
        if not tokens:
            return XpuCost(0, 0, 0)
        compute = round(self.gemm_compute_s(tokens, n, k) * PS)
        read = FP16 * ((n * k if streamed else 0) + tokens * k)
        write = FP16 * tokens * n
        memory = self.memory_ps(read + write)
        return XpuCost(
            max(compute, memory) + self.params.launch_ps, compute, memory, tokens * n * k, 0, read, write
        )  # fmt: skip

    def gemm_compute_s(self, tokens: int, n: int, k: int) -> float:
        """Time of a GEMM whose operands are in the L2 cache: the fastest tiling [s]."""
        p = self.params
        best = math.inf
        # A token tile above the token count only pads: the next size up is the last that can be useful.
        last = next((t for t in TOKEN_TILES if t >= tokens), TOKEN_TILES[-1])
        for token_tile in (t for t in TOKEN_TILES if t <= last):
            for weight_tile in WEIGHT_TILES:
                if token_tile * weight_tile > MOST_OUTPUTS:
                    continue
                tiles = math.ceil(tokens / token_tile) * math.ceil(n / weight_tile)
                # SMs with tiles beside each other read the larger operand that they share once.
                shared = token_tile + weight_tile - max(token_tile, weight_tile) * (1 - 1 / p.multicast)
                for split in SPLITS:
                    depth = math.ceil(k / split)
                    if split > 1 and depth < LEAST_K:
                        break
                    arithmetic = 2 * token_tile * weight_tile * depth / self._flops_per_sm
                    operands = FP16 * shared * depth / self._l2_per_sm
                    waves = math.ceil(tiles * split / p.sms)
                    # Partial sums are written and read again; without a split the tile's own sum never leaves its SM.
                    sums = 2 * FP32 * tokens * n * split / p.l2_bytes_per_s if split > 1 else 0.0
                    best = min(best, waves * max(arithmetic, operands) + sums)
        return best

    def prefill_attention(self, heads: int, kv_heads: int, head_dim: int, lengths: Sequence[int]) -> XpuCost:
        """Causal attention of whole prompts, fused (scores never leave the SMs), on one device's heads."""
        pairs = sum(length * (length + 1) // 2 for length in lengths)
        tokens = sum(lengths)
        if not tokens:
            return XpuCost(0, 0, 0)
        macs = 2 * pairs * heads * head_dim
        flops = SOFTMAX_FLOPS * pairs * heads
        rate = self.params.peak_flops_per_s * self.params.attention_efficiency
        compute = round(2 * macs / rate * PS)
        read = FP16 * tokens * (heads + 2 * kv_heads) * head_dim
        write = FP16 * tokens * heads * head_dim
        memory = self.memory_ps(read + write)
        return XpuCost(max(compute, memory) + self.params.launch_ps, compute, memory, macs, flops, read, write)

    def decode_attention(self, heads: int, kv_heads: int, head_dim: int, requests: int, cached: int) -> XpuCost:
        """One query token of each of `requests` sequences against `cached` tokens of KV cache in total.

        The cache is split over all SMs (flash decoding), so that only the sum of the lengths matters.
        """
        if not requests:
            return XpuCost(0, 0, 0)
        group = heads // kv_heads
        macs = 2 * cached * heads * head_dim
        padded = 2 * cached * kv_heads * max(group, DECODE_ROWS) * head_dim
        compute = round(2 * padded / (self.params.peak_flops_per_s * self.params.attention_efficiency) * PS)
        read = FP16 * (2 * cached * kv_heads * head_dim + requests * heads * head_dim)
        write = FP16 * requests * heads * head_dim
        memory = self.memory_ps(read + write)
        flops = SOFTMAX_FLOPS * cached * heads
        return XpuCost(max(compute, memory) + self.params.launch_ps, compute, memory, macs, flops, read, write)

    def elementwise(self, elements: int, *, reads: int, writes: int, flops: int) -> XpuCost:
        """`reads` FP16 operands in and `writes` out of `elements` each, `flops` operations an element."""
        if not elements:
            return XpuCost(0, 0, 0)
        compute = round(flops * elements / self.params.vector_flops_per_s * PS)
        read, write = FP16 * elements * reads, FP16 * elements * writes
        memory = self.memory_ps(read + write)
        return XpuCost(
            max(compute, memory) + self.params.launch_ps, compute, memory, 0, flops * elements, read, write
        )  # fmt: skip

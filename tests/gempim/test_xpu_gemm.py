"""The xPU: tiled GEMM with waves, attention, element-wise work, against limits and formulas worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempim.engines.xpu import LEAST_K, MOST_OUTPUTS, SPLITS, TOKEN_TILES, WEIGHT_TILES, Xpu, XpuParams
from gempim.systems import load_system

GPUS = ("gpu-h100", "gpu-a100", "gpu-v100", "gpu-h200")


def _params(name: str = "gpu-h100", **changes: float) -> XpuParams:
    return replace(XpuParams(**load_system(name).values("xpu")), **changes)


def _ideal(name: str = "gpu-h100", **changes: float) -> Xpu:
    return Xpu(_params(name, bandwidth_efficiency=1.0, compute_efficiency=1.0, **changes))


def test_first_order_facts_of_the_duplex_paper() -> None:
    """Mixtral on four devices: 704.6 MB of expert weights a device and layer take 210 us at the peak bandwidth."""
    weights = 8 * 3 * 4096 * (14336 // 4)
    assert 2 * weights == pytest.approx(704.6e6, rel=1e-3)
    xpu = _ideal()
    assert xpu.memory_ps(2 * weights) == pytest.approx(210.2e6, rel=1e-3)
    # As GEMMs of one token each, with their activations: the stream still decides.
    each = xpu.gemm(1, 2 * 3584, 4096).time_ps + xpu.gemm(1, 4096, 3584).time_ps
    assert 8 * each == pytest.approx(210.2e6, rel=0.01)


@given(st.integers(1, 3000), st.integers(1, 20_000), st.integers(1, 20_000))
def test_never_faster_than_its_roofs(tokens: int, n: int, k: int) -> None:
    xpu = Xpu(_params())
    p, cost = xpu.params, xpu.gemm(tokens, n, k)
    flops = 2 * tokens * n * k
    assert cost.macs * 2 == flops
    assert cost.read_bytes == 2 * (n * k + tokens * k)
    assert cost.write_bytes == 2 * tokens * n
    # Times are rounded to whole picoseconds.
    assert cost.time_ps + 1 >= flops / p.peak_flops_per_s / p.compute_efficiency * 1e12
    assert cost.time_ps + 1 >= cost.bytes / p.peak_bytes_per_s / p.bandwidth_efficiency * 1e12
    assert cost.time_ps == max(cost.compute_ps, cost.memory_ps) + p.launch_ps


def _slow_gemm_s(p: XpuParams, tokens: int, n: int, k: int) -> float:
    """Every tiling, tile by tile dealt to SMs: the independent reference."""
    best = math.inf
    for a in TOKEN_TILES:
        for b in WEIGHT_TILES:
            if a * b > MOST_OUTPUTS:
                continue
            for split in SPLITS:
                depth = -(-k // split)
                if split > 1 and depth < LEAST_K:
                    continue
                load = np.zeros(p.sms)
                count = len(range(0, tokens, a)) * len(range(0, n, b)) * split
                big, small = max(a, b), min(a, b)
                operands = 2 * depth * (small + big / p.multicast) / (p.l2_bytes_per_s / p.sms)
                arithmetic = 2 * a * b * depth / (p.peak_flops_per_s * p.compute_efficiency / p.sms)
                for tile in range(count):
                    load[tile % p.sms] += max(arithmetic, operands)
                extra = 8 * tokens * n * split / p.l2_bytes_per_s if split > 1 else 0
                best = min(best, load.max() + extra)
    return best


@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize(
    "shape", [(1, 300, 700), (33, 1000, 4096), (128, 4096, 512), (300, 2000, 1000), (700, 5000, 64)]
)
def test_waves_against_tiles_dealt_one_by_one(name: str, shape: tuple[int, int, int]) -> None:
    xpu = Xpu(_params(name))
    assert xpu.gemm_compute_s(*shape) == pytest.approx(_slow_gemm_s(xpu.params, *shape), rel=1e-9)


def test_wave_quantisation_is_a_staircase() -> None:
    """One tile more than a wave holds costs a wave: with one tile shape in reach, time is steps of SMs."""
    p = _params(l2_bytes_per_s=1e15)
    xpu = Xpu(p)
    tall = 256  # tokens: the widest tile is 256 x 128
    time = [xpu.gemm_compute_s(tall, 128 * tiles, 255) for tiles in (p.sms, p.sms + 1, 2 * p.sms)]
    assert time[1] > time[0]
    assert time[2] == pytest.approx(2 * time[0])
    assert time[1] <= time[2]


def test_large_products_reach_a_real_share_of_the_peak() -> None:
    """A library reaches about 0.6 to 0.8 of the peak on large products, and never more than its full-wave share."""
    for name in GPUS:
        xpu = Xpu(_params(name))
        cost = xpu.gemm(16384, 8192, 8192)
        share = 2 * cost.macs / cost.time_ps * 1e12 / xpu.params.peak_flops_per_s
        assert 0.6 < share <= xpu.params.compute_efficiency + 1e-9


def test_decode_is_bound_by_weights() -> None:
    """Below a hundred tokens a GEMM takes the time of its weights on every GPU: the premise of the paper."""
    for name in GPUS:
        xpu = Xpu(_params(name))
        for tokens in (1, 8, 32):
            cost = xpu.gemm(tokens, 7168, 4096)
            assert cost.time_ps == cost.memory_ps
            assert cost.op_b == pytest.approx(tokens, rel=0.03)


def test_prefill_attention_counts_the_causal_half() -> None:
    xpu = _ideal(attention_efficiency=1.0)
    lengths = (5, 100, 1)
    pairs = sum(1 for length in lengths for q in range(length) for k in range(length) if k <= q)
    cost = xpu.prefill_attention(8, 2, 128, lengths)
    assert cost.macs == 2 * pairs * 8 * 128
    assert cost.read_bytes == 2 * sum(lengths) * (8 + 2 * 2) * 128
    assert cost.write_bytes == 2 * sum(lengths) * 8 * 128
    long = xpu.prefill_attention(8, 2, 128, (8192,))
    assert long.time_ps == pytest.approx(2 * long.macs / 989.4e12 * 1e12, rel=1e-6)


def test_decode_attention_reads_the_cache_once() -> None:
    xpu = _ideal()
    lengths = [1000, 50, 3000]
    for heads, kv_heads in ((8, 8), (8, 2), (64, 1)):
        cost = xpu.decode_attention(heads, kv_heads, 128, len(lengths), sum(lengths))
        assert cost.read_bytes == 2 * (sum(2 * length * kv_heads * 128 for length in lengths) + 3 * heads * 128)
        assert cost.macs == sum(2 * length * heads * 128 for length in lengths)
        # Operations a byte are the heads that share a KV head (softmax and the query add a little).
        assert cost.op_b == pytest.approx(heads / kv_heads, rel=0.05)


def test_elementwise() -> None:
    cost = _ideal().elementwise(1000, reads=2, writes=1, flops=5)
    assert (cost.read_bytes, cost.write_bytes, cost.flops, cost.macs) == (4000, 2000, 5000, 0)


def test_no_work_takes_no_time() -> None:
    xpu = Xpu(_params(launch_ps=5))
    for cost in (
        xpu.gemm(0, 10, 10), xpu.prefill_attention(8, 8, 128, ()), xpu.decode_attention(8, 8, 128, 0, 0),
        xpu.elementwise(0, reads=1, writes=1, flops=1),
    ):  # fmt: skip
        assert (cost.time_ps, cost.bytes, cost.macs) == (0, 0, 0)


def test_launch_is_added_to_every_kernel() -> None:
    slow, fast = Xpu(_params(launch_ps=7000)), Xpu(_params())
    for name, args, words in (
        ("gemm", (4, 100, 100), {}),
        ("prefill_attention", (8, 8, 128, (3,)), {}),
        ("decode_attention", (8, 8, 128, 1, 9), {}),
        ("elementwise", (9,), {"reads": 1, "writes": 1, "flops": 1}),
    ):
        assert getattr(slow, name)(*args, **words).time_ps == getattr(fast, name)(*args, **words).time_ps + 7000

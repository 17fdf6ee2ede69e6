"""Operators of a whole device: what they read, write and compute, what the buffers force, that all channels are one.

Jobs, counts and the share of every stack are computed here again from the operator's shape; the device must give the
times of one explicit pseudo-channel with those jobs, and the counts of all of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from logic_pim_util import NO_REFRESH, Job, hbm, pim, run, space_banks, stream

from gempim.engines.logic_pim import LogicPim
from gempim.quantity import DataError

STACKS, CHANNELS = 5, 32


def device(name: str = "duplex", *, dram: dict[str, Any] | None = None, **override: Any) -> LogicPim:
    return LogicPim(pim(name, **override), dram or hbm(), STACKS)


def cols(size: int, column: int = 256) -> int:
    """Columns of one pseudo-channel for `size` bytes of a stack."""
    return math.ceil(size / CHANNELS / column)


def reading(columns: int, tokens: int, spaces: list[int], after: int) -> Job:
    """Weights: four tokens a step of 128 products each on 512 MACs; twelve tokens in an 8 KB buffer."""
    assert (8192 - 2 * 256) // (2 * 256 + 32 * 4) == 12
    steps = math.ceil(tokens / 4)
    return ("read", columns, math.ceil(steps / 3), steps, spaces, after, -1, 0)


@pytest.mark.parametrize(("tokens", "split"), [(1, "n"), (8, "k"), (9, "n"), (13, "k"), (40, "n"), (128, "n")])
def test_gemm_is_one_channel_many_times(tokens: int, split: str) -> None:
    """Times of one explicit channel, counts of all 160; padding only where a stack's share does not divide."""
    n, k, spaces = 3584, 4096, [0, 1]
    n_stack, k_stack = (math.ceil(n / STACKS), k) if split == "n" else (n, math.ceil(k / STACKS))
    weights, inputs, results = cols(2 * n_stack * k_stack), cols(2 * tokens * k_stack), cols(2 * tokens * n_stack)
    jobs: list[Job] = [
        ("read", inputs, 1, 0, spaces, -1, -1, 0),
        reading(weights, tokens, spaces, 0),
        ("write", results, 1, 0, spaces[:1], 1, -1, 0),
    ]
    requests = stream(3000, space_banks(3))
    beside = 3000 * 32 * CHANNELS * STACKS
    cost = device().gemm(n, k, tokens, spaces=spaces, beside_bytes=beside, beside_spaces=[3], split=split)
    pim_ps, xpu_ps, counts, _ = run(pim(), hbm(), jobs, requests)
    assert (cost.pim_ps, cost.xpu_ps) == (pim_ps, xpu_ps)
    for name in (
        "pim_acts",
        "xpu_acts",
        "pim_columns",
        "pim_column_writes",
        "xpu_reads",
        "refs",
        "unit_clocks",
        "drain_ps",
    ):
        assert cost.counts[name] == counts[name] * CHANNELS * STACKS, name
    sweeps = math.ceil(math.ceil(tokens / 4) / 3)
    assert cost.counts["pim_columns"] == (inputs + weights * sweeps) * CHANNELS * STACKS
    assert cost.counts["pim_reads"] == 8 * cost.counts["pim_columns"]
    assert cost.counts["pim_tsv_bits"] == 256 * (cost.counts["pim_reads"] + cost.counts["pim_writes"])
    assert cost.counts["xpu_tsv_bits"] == 8 * beside
    assert cost.counts["macs"] == n * k * tokens
    assert cost.counts["unit_clocks"] == weights * math.ceil(tokens / 4) * CHANNELS * STACKS
    assert cost.counts["input_buffer_writes"] == 2 * tokens * k_stack * STACKS
    assert cost.counts["result_buffer_reads"] == 2 * tokens * n_stack * STACKS
    assert cost.counts["weight_streams"] == STACKS


def test_time_follows_tokens() -> None:
    """Up to eight tokens the weights set the time, above that the modules: max(1, tokens / 8), in steps of four."""
    d = device()
    times = {t: d.gemm(10752, 4096, t, spaces=(0, 1)).pim_ps for t in (1, 8, 12, 16, 32, 64)}
    assert times[8] == pytest.approx(times[1], rel=0.03)
    for tokens in (12, 16, 32, 64):
        assert times[tokens] == pytest.approx(times[8] * tokens / 8, rel=0.04)
    assert sorted(times.values()) == list(times.values())


def test_input_buffer_bounds_the_tokens() -> None:
    """Inputs beyond the buffer: k in parts while the sums fit the result buffer, else groups, each with all weights."""
    n, k, tokens = 3500, 4096, 64
    whole = device().gemm(n, k, tokens)
    assert whole.counts["weight_streams"] == STACKS
    # 64 tokens need 512 KB of inputs; a quarter of it with room for all sums: four parts of k, weights once.
    parts = device(input_buffer_bytes=128 * 1024).gemm(n, k, tokens)
    assert parts.counts["weight_streams"] == STACKS
    assert parts.counts["result_buffer_writes"] == 4 * tokens * 700 * 4 * STACKS
    assert parts.counts["pim_columns"] == whole.counts["pim_columns"]
    assert whole.pim_ps < parts.pim_ps < 1.1 * whole.pim_ps
    # Room for the sums of 20 tokens only: 16 tokens a time by the inputs, 20 by the sums, so four groups.
    groups = device(input_buffer_bytes=128 * 1024, result_buffer_bytes=20 * 700 * 4).gemm(n, k, tokens)
    assert groups.counts["weight_streams"] == 4 * STACKS
    assert groups.counts["pim_acts"] > 3.2 * whole.counts["pim_acts"]
    with pytest.raises(DataError, match="neither the inputs nor the partial sums of one token"):
        device(input_buffer_bytes=8191, result_buffer_bytes=2799).gemm(n, k, tokens)


def test_result_buffer_is_written_out_when_full() -> None:
    """Results beyond the buffer: the stream stops to write, and turns; the weights are still read once."""
    n, k, tokens = 35_000, 512, 64
    whole = device(result_buffer_bytes=1 << 20).gemm(n, k, tokens)
    small = device(result_buffer_bytes=1 << 17).gemm(n, k, tokens)
    assert small.counts["weight_streams"] == whole.counts["weight_streams"] == STACKS
    goes = math.ceil(2 * tokens * 7000 / (1 << 17))
    least = goes * CHANNELS * STACKS
    assert small.counts["pim_column_writes"] - whole.counts["pim_column_writes"] in range(least + 1)
    assert small.counts["stall_operand_ps"] > 2 * whole.counts["stall_operand_ps"]
    assert small.pim_ps > whole.pim_ps


@pytest.mark.parametrize("gated", [True, False])
def test_expert(gated: bool) -> None:
    """Gate and up, activation, down: the jobs of one channel; the intermediate values never go to memory."""
    d_model, d_ff, tokens, spaces = 1024, 1500, 20, [1]
    inner = math.ceil(d_ff / STACKS)
    first = 2 * inner if gated else inner
    v = pim()
    activation = (math.ceil(tokens * inner / v["activation_lanes"]) + v["activation_latency_clocks"]) * 2 * 769
    up = reading(cols(2 * first * d_model), tokens, spaces, 0)
    jobs: list[Job] = [
        ("read", cols(2 * tokens * d_model), 1, 0, spaces, -1, -1, 0),
        (*up[:6], 1, activation),
        reading(cols(2 * inner * d_model), tokens, spaces, 1),
        ("write", cols(2 * tokens * d_model), 1, 0, spaces, 2, -1, 0),
    ]
    cost = device().expert(d_model, d_ff, tokens, gated=gated, spaces=spaces)
    pim_ps, _, counts, _ = run(v, hbm(), jobs)
    assert cost.pim_ps == pim_ps
    assert cost.counts["pim_columns"] == counts["pim_columns"] * CHANNELS * STACKS
    assert cost.counts["macs"] == tokens * d_model * d_ff * (3 if gated else 2)
    assert cost.counts["activation_elements"] == tokens * d_ff
    # More tokens than the input buffer holds: all weights again for the second group.
    halved = device(input_buffer_bytes=2 * 10 * d_model).expert(d_model, d_ff, tokens, gated=gated, spaces=spaces)
    assert halved.counts["weight_streams"] == 2 * STACKS
    assert halved.counts["pim_acts"] > 1.6 * cost.counts["pim_acts"]


def dealt(heads: int, lengths: list[int]) -> list[list[int]]:
    """Pairs for each stack: longest first, to the stack with the fewest tokens, the first of equals."""
    stacks: list[list[int]] = [[] for _ in range(STACKS)]
    for length in sorted(lengths, reverse=True):
        for _ in range(heads):
            min(stacks, key=sum).append(length)
    return stacks


def attention_jobs(v: dict[str, Any], group: int, head_dim: int, pairs: list[int], spaces: list[int]) -> list[Job]:
    """K of a pair, then V of the pair before, so that the softmax has time."""
    vector = cols(2 * group * head_dim * len(pairs))
    jobs: list[Job] = [("read", vector, 1, 0, spaces, -1, -1, 0)]
    waiting: tuple[int, int] | None = None
    most = v["softmax_buffer_bytes"] // 2 // (4 * group)
    for length in pairs:
        parts = math.ceil(length / most)
        edges = [length * i // parts for i in range(parts + 1)]
        for tokens in np.diff(edges):
            elements = int(tokens) * group + (group * head_dim if parts > 1 else 0)
            softmax = 3 * (math.ceil(elements / v["softmax_lanes"]) + v["softmax_latency_clocks"]) * 2 * 769
            columns = cols(2 * int(tokens) * head_dim)
            k_job = reading(columns, group, spaces, 0)
            jobs.append((*k_job[:6], 0, softmax))
            scores = len(jobs) - 1
            if waiting:
                jobs.append(reading(waiting[0], group, spaces, waiting[1]))
            waiting = (columns, scores)
    assert waiting
    jobs.append(reading(waiting[0], group, spaces, waiting[1]))
    jobs.append(("write", vector, 1, 0, spaces[:1], len(jobs) - 1, -1, 0))
    return jobs


@pytest.mark.parametrize("seed", range(4))
def test_attention_is_the_slowest_stack(seed: int) -> None:
    """Random lengths: the time of the slowest stack's explicit channel, the sums of all stacks' counts."""
    rng = np.random.default_rng(seed)
    heads, group = int(rng.integers(1, 4)), int(rng.choice([1, 4, 8]))
    lengths = [int(x) for x in rng.integers(1, 5000, int(rng.integers(1, 12)))]
    v, d, spaces = pim(softmax_buffer_bytes=int(rng.choice([1 << 14, 1 << 17]))), hbm(), [0, 1, 2]
    cost = LogicPim(v, d, STACKS).attention(heads, group, 128, lengths)
    slowest, columns, refs = 0, 0, 0
    for pairs in dealt(heads, lengths):
        if pairs:
            pim_ps, _, counts, _ = run(v, d, attention_jobs(v, group, 128, pairs, spaces))
            slowest = max(slowest, pim_ps)
            columns += counts["pim_columns"] * CHANNELS
            refs += counts["refs"] * CHANNELS
    assert cost.pim_ps == slowest
    assert cost.counts["pim_columns"] == columns
    assert cost.counts["refs"] == refs
    assert cost.counts["macs"] == 2 * heads * group * 128 * sum(lengths)
    most = v["softmax_buffer_bytes"] // 2 // (4 * group)
    rescaled = sum(math.ceil(x / most) for x in lengths if x > most) * group * 128
    assert cost.counts["softmax_elements"] == heads * (group * sum(lengths) + rescaled)


def test_softmax_overlaps_with_the_next_k() -> None:
    """A slower softmax unit shows with one pair a stack, and is hidden behind other reads with many."""
    still = hbm(**NO_REFRESH)
    fast, slow = (device(dram=still, softmax_latency_clocks=latency) for latency in (20, 100))
    wait = 3 * 80 * 2 * 769
    one = [f.attention(1, 4, 128, [2048] * STACKS).pim_ps for f in (fast, slow)]
    assert one[1] - one[0] == wait
    # 4096 scores of four queries: 984 clocks of softmax, behind V of the pair before and K of the one after, 512 each.
    many = [f.attention(1, 4, 128, [4096] * STACKS * 16).pim_ps for f in (fast, slow)]
    assert many[1] - many[0] <= 2 * wait  # the first and the last pair
    # And is what sets the time when it takes longer than reading K and V.
    slowest = device(dram=still, softmax_latency_clocks=1000).attention(1, 4, 128, [4096] * STACKS * 16)
    assert slowest.pim_ps == pytest.approx(16 * 3 * (64 + 1000) * 2 * 769, rel=0.05)


def test_memo_and_order_change_nothing() -> None:
    """The same arguments give the same cost from a fresh device, in any order of the calls and of the lengths."""
    rng = np.random.default_rng(2)
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("gemm", (2000, 1024, 7), {"spaces": [0, 2], "beside_bytes": 9_000_000, "beside_spaces": (1,)}),
        ("gemm", (2000, 1024, 8), {}),
        ("expert", (1024, 700, 5), {"spaces": (3,)}),
        ("attention", (2, 4, 128, [77, 1234, 500]), {}),
        ("xpu_stream", (5_000_000,), {"spaces": (2,)}),
    ]
    shared = device()
    first = [getattr(shared, name)(*args, **more) for name, args, more in calls]
    for i in rng.permutation(np.repeat(np.arange(len(calls)), 3)):
        name, args, more = calls[i]
        assert getattr(shared, name)(*args, **more) == first[i]
        assert getattr(device(), name)(*args, **more) == first[i]
    assert shared.attention(2, 4, 128, (500, 77, 1234)) is first[3]


BAD: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("gemm", (0, 8, 8), {}, "must be at least 1"),
    ("gemm", (8, 8, 0), {}, "must be at least 1"),
    ("gemm", (8, 8, 8), {"spaces": ()}, "spaces: empty"),
    ("gemm", (8, 8, 8), {"spaces": (4,)}, "spaces: 4, allowed are 0 to 3"),
    ("gemm", (8, 8, 8), {"spaces": (1, 1)}, "1 occurs twice"),
    ("gemm", (8, 8, 8), {"split": "m"}, "allowed are n, k"),
    ("gemm", (8, 8, 8), {"beside_bytes": 5, "beside_spaces": ()}, "spaces: empty"),
    ("gemm", (8, 8, 8), {"beside_bytes": 1 << 40, "beside_spaces": (1,)}, "do not fit 1 spaces"),
    ("gemm", (3_000_000, 4096, 8), {}, "do not fit 1 spaces"),
    ("attention", (1, 1, 128, [5, 0]), {}, "lengths: 0"),
    ("attention", (1, 1, 128, []), {}, "lengths: empty"),
    ("expert", (0, 5, 5), {}, "must be at least 1"),
    ("xpu_stream", (5,), {"spaces": (9,)}, "spaces: 9"),
]


@pytest.mark.parametrize(("name", "args", "more", "message"), BAD)
def test_bad_calls_say_what_is_wrong(name: str, args: tuple[Any, ...], more: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        getattr(device(), name)(*args, **more)


def test_bank_and_bank_group_pim() -> None:
    """The comparison points by other parameters: 16x at 1 Op/B in one space, 4x at 8 Op/B in four."""
    n, k = 14_336 * 4, 4096
    bank, group, logic = device("bank-pim"), device("bankgroup-pim"), device()
    assert bank.stream_peak_bytes_per_s == pytest.approx(16 * bank.xpu_peak_bytes_per_s)
    assert (
        group.stream_peak_bytes_per_s == logic.stream_peak_bytes_per_s == pytest.approx(4 * logic.xpu_peak_bytes_per_s)
    )
    assert bank.peak_flops_per_s / bank.stream_peak_bytes_per_s == pytest.approx(1)
    assert logic.peak_flops_per_s / logic.stream_peak_bytes_per_s == pytest.approx(8)
    assert logic.peak_flops_per_s == pytest.approx(5 * 21.3e12, rel=0.002)
    assert (len(bank.spaces), len(group.spaces), len(logic.spaces)) == (1, 4, 4)
    times = {name: [x.gemm(n, k, t).pim_ps for t in (1, 8)] for name, x in (("b", bank), ("g", group), ("l", logic))}
    # Both ranks refresh, one after the other, and a bundle that spans them stops for each: less than 4 times as fast.
    refresh = 350 / 3900
    assert times["l"][0] / times["b"][0] == pytest.approx(4 * (1 - 2 * refresh) / (1 - refresh), rel=0.05)
    assert times["b"][1] / times["b"][0] > 5  # one token a weight: eight tokens take about eight times as long
    assert times["l"][1] == pytest.approx(times["l"][0], rel=0.02)
    assert times["l"][0] < times["g"][0] < 1.2 * times["l"][0]
    reads = [x.gemm(n, k, 1).counts["pim_reads"] for x in (bank, group, logic)]
    assert max(reads) < 1.02 * min(reads)
    assert bank.gemm(n, k, 1, beside_bytes=50_000_000, beside_spaces=(0,)).counts["conflicts"] > 0

"""The command-level DRAM model: legal command traces, the same schedule as a clock-by-clock controller, event sums.

Each test uses random traffic and an independent reference: dram_checker (constraints), dram_reference (policy), or an
address map, counts and totals computed here.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from dram_checker import Cmd, check_trace
from dram_reference import simulate
from dram_util import STANDARDS, burst_bytes, params
from hypothesis import given, settings
from hypothesis import strategies as st

from gempim import _engine

FIELDS = ["Ro", "Ra", "Ba", "Bg", "Co", "Ch"]


def decode(p: dict[str, Any], channels: int, address: int) -> dict[str, int]:
    """The address map again: mixed radix, least significant field last in the string."""
    sizes = {
        "Ro": p["rows"], "Ra": p["ranks"], "Ba": p["banks_per_group"], "Bg": p["bank_groups"],
        "Co": p["row_bytes"] // burst_bytes(p), "Ch": channels * p["subchannels"],
    }  # fmt: skip
    rest, out = address // burst_bytes(p), {}
    names = [p["address_map"][i : i + 2] for i in range(0, 12, 2)]
    for name in reversed(names):
        rest, out[name] = divmod(rest, sizes[name])
    return out


random_system = st.fixed_dictionaries(
    {
        "standard": st.sampled_from(STANDARDS),
        "ranks": st.integers(1, 3),
        "address_map": st.permutations(FIELDS).map("".join),
        "channels": st.sampled_from([1, 2, 3]),
        "read_queue": st.sampled_from([1, 5, 32]),
        "write_queue": st.sampled_from([8, 24]),
        "tRTRS_nCK": st.integers(0, 3),
    }
)


def build(system: dict[str, Any], **more: int) -> tuple[dict[str, Any], int]:
    p = params(
        system["standard"], ranks=system["ranks"], address_map=system["address_map"], read_queue=system["read_queue"],
        write_queue=system["write_queue"], write_high=7, write_low=2, tRTRS_nCK=system["tRTRS_nCK"], **more,
    )  # fmt: skip
    return p, system["channels"]


def random_calls(
    dram: Any, rng: np.random.Generator, calls: int, largest: int
) -> tuple[int, list[tuple[int, int, int, bool]]]:
    """Random transfers and mixes with random gaps; returns the latest end and (start, addr, bytes, write) of all."""
    start, end, log = 0, 0, []
    for _ in range(calls):
        start += int(rng.choice([0, 0, 1, 700, 40_000, 9_000_000]))
        size = int(rng.integers(1, largest))
        addr = int(rng.choice([0, int(rng.integers(0, dram.capacity_bytes // 2))])) + int(rng.integers(0, 300))
        if rng.random() < 0.3:
            to = dram.capacity_bytes // 2 + int(rng.integers(0, 1 << 20))
            done = dram.mixed(size, size // 2 + 1, start, addr, to)
            log += [(start, addr, size, False), (start, to, size // 2 + 1, True)]
        else:
            write = bool(rng.random() < 0.4)
            done = dram.transfer(addr, size, write, start)
            log.append((start, addr, size, write))
        assert done > start
        end = max(end, done)
    return end, log


@settings(max_examples=15, deadline=None)
@given(system=random_system, seed=st.integers(0, 2**32 - 1), refresh_often=st.booleans())
def test_random_traffic_is_legal_and_complete(system: dict[str, Any], seed: int, refresh_often: bool) -> None:
    """Any traffic on any system: no constraint violated, each burst moved exactly once, counters equal to the trace."""
    more = {"tREFI_ps": 1_500_000} if refresh_often else {}
    p, channels = build(system, **more)
    dram = _engine.DramSystem(p, channels, False)
    dram.record_trace(1_000_000)
    end, log = random_calls(dram, np.random.default_rng(seed), calls=6, largest=2500)
    dram.advance(end)
    trace = dram.trace()
    assert not dram.trace_truncated
    assert check_trace(p, trace) == []

    wanted: Counter[tuple[object, ...]] = Counter()
    size = burst_bytes(p)
    for _, addr, count, write in log:
        for burst in range(addr // size, (addr + count - 1) // size + 1):
            d = decode(p, channels, burst * size)
            wanted[("WR" if write else "RD", d["Ch"], d["Ra"], d["Bg"], d["Ba"], d["Ro"], d["Co"])] += 1
    moved = Counter((op, ch, ra, bg, ba, ro, co) for _, ch, op, ra, bg, ba, ro, co in trace if op in ("RD", "WR"))
    assert moved == wanted

    counters = dram.counters()
    ops = Counter(t[2] for t in trace)
    for name, op in [("acts", "ACT"), ("pres", "PRE"), ("reads", "RD"), ("writes", "WR"), ("refs", "REF")]:
        assert counters[name] == ops[op]
    assert counters["read_bytes"] == sum(c for _, _, c, w in log if not w)
    assert counters["write_bytes"] == sum(c for _, _, c, w in log if w)
    assert counters["row_hits"] + counters["row_misses"] + counters["row_conflicts"] == ops["RD"] + ops["WR"]
    turns = 0
    for ch in range(channels * p["subchannels"]):
        columns = [t[2] for t in trace if t[1] == ch and t[2] in ("RD", "WR")]
        turns += sum(a != b for a, b in pairwise(columns))
    assert counters["turnarounds"] == turns


def standby(p: dict[str, Any], trace: list[tuple[Any, ...]], end: int) -> int:
    """Time with an open bank, summed over ranks and channels, from the trace alone."""
    opened: dict[tuple[int, int], set[tuple[int, int]]] = {}
    since: dict[tuple[int, int], int] = {}
    total = 0
    for time, ch, op, ra, bg, ba, _, _ in trace:
        banks = opened.setdefault((ch, ra), set())
        if op == "ACT":
            since[(ch, ra)] = since[(ch, ra)] if banks else time
            banks.add((bg, ba))
        elif op == "PRE":
            banks.remove((bg, ba))
            total += 0 if banks else time - since[(ch, ra)]
    return total + sum(end - since[key] for key, banks in opened.items() if banks)


@settings(max_examples=12, deadline=None)
@given(system=random_system, seed=st.integers(0, 2**32 - 1))
def test_standby_and_refresh_sums(system: dict[str, Any], seed: int) -> None:
    """Background time adds up to ranks x channels x time, is active while a bank is open, and refresh never stops."""
    p, channels = build(system)
    subs = channels * p["subchannels"]
    dram = _engine.DramSystem(p, channels, False)
    dram.record_trace(1_000_000)
    random_calls(dram, np.random.default_rng(seed), calls=5, largest=3000)
    dram.counters()
    counters, end = dram.counters(), dram.now_ps
    # Requests queued behind the last transfer may end later than any transfer did.
    last = max(t[0] for t in dram.trace()) + (p["CL_nCK"] + p["BL"] // 2) * p["tCK_ps"]
    total = counters["act_standby_ps"] + counters["pre_standby_ps"]
    assert subs * p["ranks"] * end <= total <= subs * p["ranks"] * max(end, last)

    idle_until = end + 40 * p["tREFI_ps"] + 12_345
    dram.advance(idle_until)
    final = dram.transfer(0, 1 << 14, False, idle_until)
    counters = dram.counters()
    assert counters["act_standby_ps"] == standby(p, dram.trace(), final)
    assert counters["act_standby_ps"] + counters["pre_standby_ps"] == subs * p["ranks"] * final
    refi = p["tREFI_ps"] // p["tCK_ps"] * p["tCK_ps"]
    first = [refi // p["tCK_ps"] * (r + 1) // p["ranks"] * p["tCK_ps"] for r in range(p["ranks"])]
    due = subs * sum((final - 200_000 - f) // refi + 1 for f in first)
    at_most = subs * sum((final - f) // refi + 1 for f in first)
    assert due <= counters["refs"] <= at_most
    assert check_trace(p, dram.trace()) == []


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), standard=st.sampled_from(STANDARDS), ranks=st.integers(1, 2), locality=st.booleans()
)
def test_same_schedule_as_a_clock_by_clock_controller(seed: int, standard: str, ranks: int, locality: bool) -> None:
    """FR-FCFS, write batches, refresh: the same commands at the same clocks as the slow and obvious controller."""
    rng = np.random.default_rng(seed)
    p = params(
        standard, ranks=ranks, rows=8, read_queue=7, write_queue=9, write_high=6, write_low=2, subchannels=1,
        tREFI_ps=1_200_000, address_map="RoRaBaBgCoCh",
    )  # fmt: skip
    dram = _engine.DramSystem(p, 1, False)
    dram.record_trace(100_000)
    size = burst_bytes(p)
    requests, addr = [], 0
    for _ in range(140):
        write = bool(rng.random() < 0.4)
        addr = (
            addr + size
            if locality and rng.random() < 0.7
            else int(rng.integers(0, dram.capacity_bytes // size - 1)) * size
        )
        addr %= dram.capacity_bytes
        d = decode(p, 1, addr)
        requests.append((write, d["Ra"], d["Bg"], d["Ba"], d["Ro"], d["Co"]))
        dram.transfer(addr, size, write, 0)
    expected = simulate(p, requests)
    got = [Cmd(t // p["tCK_ps"], *rest) for t, _, *rest in dram.trace()]
    plain = [c if c.op in ("RD", "WR") else Cmd(c.clock, c.op, c.rank, c.group, c.bank, c.row) for c in expected]
    assert got[: len(plain)] == plain
    assert {c.op for c in got[len(plain) :]} <= {"PRE", "REF"}  # refresh while the last data is on the bus


@pytest.mark.parametrize("standard", STANDARDS)
@pytest.mark.parametrize("channels", [3, 4])
def test_channels_are_independent_systems(standard: str, channels: int) -> None:
    """Each channel does what a one-channel system does with that channel's bursts (sharing state is exact)."""
    p = params(standard, subchannels=1, address_map="RoRaBaCoBgCh")
    rng = np.random.default_rng(11)
    whole = _engine.DramSystem(p, channels, False)
    whole.record_trace(100_000)
    alone = [_engine.DramSystem(p, 1, False) for _ in range(channels)]
    for a in alone:
        a.record_trace(100_000)
    size, start = burst_bytes(p), 0
    for _ in range(12):
        start += int(rng.choice([0, 30_000, 5_000_000]))
        first, count = int(rng.integers(0, 1 << 16)), int(rng.integers(1, 300))
        write = bool(rng.random() < 0.5)
        end = whole.transfer(first * size, count * size, write, start)
        ends = []
        for ch, a in enumerate(alone):
            mine = [b for b in range(first, first + count) if b % channels == ch]
            if mine:
                ends.append(a.transfer(mine[0] // channels * size, len(mine) * size, write, start))
        assert end == max(ends)
    trace = whole.trace()
    for ch, a in enumerate(alone):
        assert [(t[0], *t[2:]) for t in trace if t[1] == ch] == [(t[0], *t[2:]) for t in a.trace()]


@pytest.mark.parametrize("standard", STANDARDS)
def test_consecutive_transfers_pipeline(standard: str) -> None:
    """A stream in pieces that are all asked for at once takes exactly as long as in one piece."""
    p = params(standard)
    rng = np.random.default_rng(3)
    for write in (False, True):
        pieces = [int(rng.integers(1, 60)) * burst_bytes(p) for _ in range(40)]
        one, many = _engine.DramSystem(p, 2, False), _engine.DramSystem(p, 2, False)
        addr, end = 0, 0
        for piece in pieces:
            end = max(end, many.transfer(addr, piece, write, 0))
            many.counters()  # looking must not change anything
            addr += piece
        assert one.transfer(0, addr, write, 0) == end
        a, b = one.counters(), many.counters()
        assert a == b


@settings(max_examples=15, deadline=None)
@given(system=random_system, seed=st.integers(0, 2**32 - 1))
def test_recording_changes_nothing(system: dict[str, Any], seed: int) -> None:
    """With a trace every idle refresh is sent, without one they are counted in one step: same times and counters."""
    p, channels = build(system)
    results = []
    for record in (True, False):
        dram = _engine.DramSystem(p, channels, False)
        dram.record_trace(10 if record else 0)
        ends, rng = [], np.random.default_rng(seed)
        for gap in (0, 3_000_000, 700_000_000, 31_234_567):
            ends.append(
                dram.transfer(
                    int(rng.integers(0, 1 << 20)), int(rng.integers(1, 3000)), gap % 2 == 1, dram.now_ps + gap
                )
            )
        dram.advance(dram.now_ps + 123_456_789)
        results.append((ends, dram.counters()))
    assert results[0] == results[1]


def test_reset_counters_clears_everything() -> None:
    """After a reset all counters are zero, also with requests in the queues; later counts are of what came later."""
    p = params("ddr4-3200")
    dram = _engine.DramSystem(p, 2, False)
    dram.mixed(50_000, 30_000, 0)
    dram.transfer(0, 5_000, True, 100)
    assert all(dram.counters()[k] > 0 for k in ("acts", "reads", "writes", "act_standby_ps", "turnarounds"))
    dram.reset_counters()
    assert set(dram.counters().values()) == {0}
    begin = dram.now_ps
    end = dram.transfer(1 << 20, 64_000, False, begin)
    after = dram.counters()
    assert (after["reads"], after["writes"], after["read_bytes"], after["write_bytes"]) == (1000, 0, 64_000, 0)
    assert after["act_standby_ps"] + after["pre_standby_ps"] == 2 * p["ranks"] * (end - begin)


def test_write_batches() -> None:
    """With reads waiting, the bus turns after at least write_high - write_low writes, not for each one."""
    p = params("ddr4-3200")
    dram = _engine.DramSystem(p, 1, False)
    dram.record_trace(100_000)
    dram.mixed(300_000, 300_000, 0)
    runs, columns = [], [t[2] for t in dram.trace() if t[2] in ("RD", "WR")]
    for op in columns:
        if runs and runs[-1][0] == op:
            runs[-1][1] += 1
        else:
            runs.append([op, 1])
    writes = [n for op, n in runs if op == "WR"][1:-1]
    assert len(writes) > 20
    assert min(writes) >= p["write_high"] - p["write_low"]


def test_trace_is_bounded() -> None:
    """The record stops at its limit and says so, forgets what came before, and is refused when fast-forwarding."""
    p = params("ddr4-3200")
    dram = _engine.DramSystem(p, 1, False)
    dram.record_trace(10)
    dram.transfer(0, 4096, False, 0)
    assert len(dram.trace()) == 10
    assert dram.trace_truncated
    dram.record_trace(1000)
    assert not dram.trace_truncated
    dram.transfer(1 << 20, 640, False, dram.now_ps)
    assert sum(t[2] == "RD" for t in dram.trace()) == 10
    with pytest.raises(RuntimeError, match="fast_forward"):
        _engine.DramSystem(p, 1, True).record_trace(10)

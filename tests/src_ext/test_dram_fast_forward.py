"""Fast-forwarding against command by command: the same time and events.

Exactly, below the length at which streams are extrapolated; within 0.5 % above it.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from dram_util import STANDARDS, params
from hypothesis import given, settings
from hypothesis import strategies as st

from gempim import _engine

Call = tuple[str, int, int, int, int]  # kind, address or read bytes, ...
MAPS = [
    "RoRaBaCoBgCh",
    "RoBaRaCoBgCh",
    "ChRoRaBaCoBg",
    "RoRaBaBgCoCh",
    "RaRoBaCoBgCh",
    "RoCoRaBaBgCh",
    "BaRoRaCoBgCh",
    "CoRoRaBaBgCh",
]


def both(p: dict[str, Any], channels: int, run: Any) -> list[tuple[list[int], dict[str, int]]]:
    """The ends of all calls and the counters, command by command and fast-forwarded."""
    out = []
    for fast in (False, True):
        dram = _engine.DramSystem(p, channels, fast)
        assert dram.fast_forward is fast
        ends = run(dram)
        out.append((ends, dram.counters()))
    return out


@settings(max_examples=60, deadline=None)
@given(
    standard=st.sampled_from(STANDARDS),
    ranks=st.sampled_from([1, 2, 4]),
    address_map=st.sampled_from(MAPS),
    queue=st.sampled_from([1, 16, 64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_exact_below_the_extrapolation_length(
    standard: str, ranks: int, address_map: str, queue: int, seed: int
) -> None:
    """Random sizes, unaligned addresses, reads, writes, mixes, overlapping calls: equal to picosecond and event."""
    p = params(standard, ranks=ranks, address_map=address_map, read_queue=queue)

    def run(dram: Any) -> list[int]:
        rng = np.random.default_rng(seed)
        start, ends = 0, []
        for _ in range(6):
            size = int(2 ** rng.uniform(4, 20))
            addr = int(rng.integers(0, dram.capacity_bytes // 4))
            kind = rng.random()
            if kind < 0.3:
                share = float(rng.choice([0.5, 0.03, 0.97, rng.random()]))
                ends.append(dram.mixed(int(size * share) + 1, int(size * (1 - share)) + 1, start, addr))
            else:
                ends.append(dram.transfer(addr, size, bool(kind < 0.6), start))
            start = int(rng.choice([start, max(ends), (start + max(ends)) // 2, max(ends) + 20_000_000]))
        return ends

    slow, fast = both(p, 1, run)
    assert slow == fast


def within(slow: dict[str, int], fast: dict[str, int]) -> None:
    for name, exact in slow.items():
        # 0.5 %, or two events where there are hardly any.
        assert abs(fast[name] - exact) <= max(0.005 * exact, 2), (name, exact, fast[name])


LONG = [
    # standard, ranks, map, MiB a channel, write, unaligned by
    ("ddr4-3200", 2, "RoRaBaCoBgCh", 72, False, 0),
    ("ddr4-3200", 2, "RoRaBaCoBgCh", 97, True, 12345),
    ("ddr4-3200", 1, "RoRaBaCoBgCh", 171, False, 77),
    ("ddr4-3200", 4, "RoRaBaCoBgCh", 80, True, 4096),
    ("ddr4-3200", 2, "ChRoRaBaCoBg", 75, False, 999_999),
    ("ddr4-3200", 2, "RoRaBaCoBgCh", 300, False, 1),
    ("ddr5-4800", 2, "RoRaBaCoBgCh", 120, False, 0),
    ("ddr5-4800", 2, "RoRaBaCoChBg", 131, True, 31),
    ("ddr5-4800", 1, "RoRaBaCoBgCh", 210, False, 5_000_001),
    ("ddr5-4800", 4, "RoRaBaCoBgCh", 150, True, 64),
]


@pytest.mark.parametrize(("standard", "ranks", "address_map", "mib", "write", "offset"), LONG)
def test_long_streams_within_half_a_percent(
    standard: str, ranks: int, address_map: str, mib: int, write: bool, offset: int
) -> None:
    """Streams that are extrapolated, and a transfer after them that goes on in the same rows."""
    p = params(standard, ranks=ranks, address_map=address_map)
    # Long enough to be extrapolated.
    assert (mib << 20) / 64 / p["subchannels"] > {"ddr4-3200": 1_150_000, "ddr5-4800": 730_000}[standard]

    def run(dram: Any) -> list[int]:
        end = dram.transfer(offset, mib << 20, write, 0)
        return [end, dram.transfer(offset + (mib << 20), 1 << 16, not write, end)]

    (slow_ends, slow), (fast_ends, fast) = both(p, 1, run)
    for a, b in zip(slow_ends, fast_ends, strict=True):
        assert abs(a - b) <= 0.005 * a
    within(slow, fast)
    for name in ("reads", "writes", "read_bytes", "write_bytes"):
        assert slow[name] == fast[name]
    assert fast["row_hits"] + fast["row_misses"] + fast["row_conflicts"] == fast["reads"] + fast["writes"]
    assert (fast["act_standby_ps"] + fast["pre_standby_ps"]) == p["ranks"] * p["subchannels"] * fast_ends[1]


def test_unusual_walk_is_not_extrapolated() -> None:
    """Address maps whose extrapolation is not good enough are simulated exactly, however long the stream."""
    for address_map in ("RoBaRaCoBgCh", "RoRaBaBgCoCh"):
        p = params("ddr4-3200", ranks=4, address_map=address_map)
        slow, fast = both(p, 1, lambda dram: [dram.transfer(3, 75 << 20, False, 0)])
        assert slow == fast


@pytest.mark.parametrize("standard", STANDARDS)
def test_long_mix_is_not_extrapolated(standard: str) -> None:
    """A mix of reads and writes drifts through the banks; it is exact in both modes, rare writes included."""
    p = params(standard)
    for reads, writes in [(50 << 20, 20 << 20), (90 << 20, 50_000), (70_001, 60 << 20), (9 << 20, 9 << 20)]:
        slow, fast = both(p, 1, lambda dram, r=reads, w=writes: [dram.mixed(r, w, 7)])
        assert slow == fast


def test_four_gigabytes_on_eight_channels() -> None:
    """A whole 4 GB stream runs close to peak less refresh, and the work for it does not grow with its length."""
    p = params("ddr4-3200", ranks=1)
    dram = _engine.DramSystem(p, 8)
    size = 4 << 30
    began = time.process_time()
    end = dram.transfer(0, size, False, 0)
    assert time.process_time() - began < 1  # target 0.02 s on an idle core; a command-by-command run takes about 1 s
    ideal = size / dram.peak_bytes_per_s * 1e12 / (1 - p["tRFC_ps"] / p["tREFI_ps"])
    assert ideal < end < 1.01 * ideal
    c = dram.counters()
    assert c["reads"] == size // 64
    assert c["refs"] == pytest.approx(8 * end / p["tREFI_ps"], rel=0.002)

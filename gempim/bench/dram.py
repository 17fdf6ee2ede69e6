"""Requests (bursts) per host second of the DRAM model, command by command and fast-forwarded."""

from __future__ import annotations

import time
from typing import Any

from gempim import _engine
from gempim.systems import load_dram

STANDARDS = ("ddr4-3200", "ddr5-4800")
CHANNELS = 8
# Long enough for a second of host time command by command; fast-forwarding takes a whole 7B model at 4 bits.
SLOW_BYTES, FAST_BYTES = 256 * 2**20, 4 * 10**9


def bench() -> list[dict[str, Any]]:
    """One row a standard and mode: what, value, unit."""
    rows = []
    for standard in STANDARDS:
        params = {key: q.value for key, q in load_dram(standard).items()}
        for fast_forward, size in ((False, SLOW_BYTES), (True, FAST_BYTES)):
            dram = _engine.DramSystem(params, CHANNELS, fast_forward)
            start = time.perf_counter()
            dram.transfer(0, size, False, 0)
            wall = time.perf_counter() - start
            mode = "fast-forwarded" if fast_forward else "command by command"
            what = f"{standard}, {CHANNELS} channels, reading {size / 1e6:.0f} MB, {mode}"
            rows.append({"what": what, "value": dram.counters()["reads"] / wall / 1e6, "unit": "M requests/s"})
    return rows

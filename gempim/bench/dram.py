"""How fast the DRAM model simulates, command by command and fast-forwarded.

Requests are bursts. Channels with the same requests are simulated once and count once here, so that the figure of the
command-by-command rows is the speed of the scheduler itself.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from gempim import _engine

STANDARDS = ("ddr4-3200", "ddr5-4800")
STREAM_BYTES = 64 * 2**20
LONG_BYTES, LONG_CHANNELS = 4 * 2**30, 8
RANDOM_READS = 20_000


def _params(standard: str) -> dict[str, Any]:
    text = (files("gempim") / "data" / "dram" / f"{standard}.toml").read_text(encoding="utf-8")
    return {name: row["value"] for name, row in tomllib.loads(text)["params"].items()}


def _random_reads(dram: Any) -> None:
    """Single-burst reads at scattered addresses, each after the one before (a pointer chase)."""
    bursts, at = dram.capacity_bytes // 64, 1
    for _ in range(RANDOM_READS):
        at = (at * 6364136223846793005 + 1442695040888963407) % 2**64
        dram.transfer((at >> 20) % bursts * 64, 64, False, dram.now_ps)


def _seconds(params: dict[str, Any], channels: int, fast: bool, run: Callable[[Any], object], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        dram = _engine.DramSystem(params, channels, fast)
        began = time.perf_counter()
        run(dram)
        best = min(best, time.perf_counter() - began)
    return best


def bench(repeats: int = 3) -> list[dict[str, Any]]:
    """Host speed of the DRAM model on one core, the best of `repeats` runs each.

    Returns rows ``{"what": str, "value": float, "unit": "M requests/s" or "ms"}``.
    """
    size, quarter = STREAM_BYTES, STREAM_BYTES // 4
    streams: list[tuple[str, bool, Callable[[Any], object]]] = [
        ("reading", False, lambda d: d.transfer(0, size, False, 0)),
        ("writing", False, lambda d: d.transfer(0, size, True, 0)),
        ("reading and writing 3:1", False, lambda d: d.mixed(3 * quarter, quarter, 0)),
        ("reading", True, lambda d: d.transfer(0, size, False, 0)),
        ("writing", True, lambda d: d.transfer(0, size, True, 0)),
    ]
    rows: list[dict[str, Any]] = []
    for standard in STANDARDS:
        params = _params(standard)
        bursts_per_channel = size // 64 // params["subchannels"]
        for what, fast, run in streams:
            mode = "repeating rounds left out" if fast else "command by command"
            rate = bursts_per_channel / _seconds(params, 1, fast, run, repeats) / 1e6
            name = f"{standard}, one channel, {what} {size / 2**20:.0f} MiB, {mode}"
            rows.append({"what": name, "value": rate, "unit": "M requests/s"})
        rate = RANDOM_READS / _seconds(params, 1, False, _random_reads, repeats) / 1e6
        name = f"{standard}, one channel, dependent random reads, one call each"
        rows.append({"what": name, "value": rate, "unit": "M requests/s"})
        wall = _seconds(params, LONG_CHANNELS, True, lambda d: d.transfer(0, LONG_BYTES, False, 0), repeats)
        name = f"{standard}, {LONG_CHANNELS} channels, reading {LONG_BYTES / 2**30:.0f} GiB, fast-forwarded"
        rows.append({"what": name, "value": wall * 1e3, "unit": "ms"})
    return rows

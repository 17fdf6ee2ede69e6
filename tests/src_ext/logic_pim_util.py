"""What the PIM tests share: shipped parameter sets as plain values, and runs of one pseudo-channel with their trace."""

from __future__ import annotations

from typing import Any

from gempim import _engine
from gempim.bench.hbm3_checker import Ints, check_trace, dram_values, pim_values, trace_array

Job = tuple[str, int, int, int, list[int], int, int, int]


def pim(system: str = "duplex", **override: Any) -> dict[str, Any]:
    """The PIM of a shipped system, some values replaced; no refresh falls due at its start, unless a test says so."""
    values = pim_values(system)
    assert set(override) <= set(values)
    return values | {"refresh_phase": 0.25} | override


def hbm(name: str = "hbm3-5200", **override: Any) -> dict[str, Any]:
    """A shipped timing set, some values replaced."""
    values = dram_values(name)
    assert set(override) <= set(values)
    return values | override


NO_REFRESH = {"tREFI_ps": 900_000_000}
"""Override: the first refresh comes after everything that a test looks at."""


def read(columns: int, spaces: list[int], *, sweeps: int = 1, quanta: int = 0, after: int = -1) -> Job:
    """A job that reads columns; `quanta` module steps for one column in all its sweeps together."""
    return ("read", columns, sweeps, quanta, spaces, after, -1, 0)


def run(
    v: dict[str, Any], d: dict[str, Any], jobs: list[Job], requests: list[Any] | None = None, *, check: bool = True
) -> tuple[int, int, dict[str, int], Ints]:
    """One pseudo-channel: (pim_ps, xpu_ps, counts, trace); the whole trace is legal."""
    pim_ps, xpu_ps, counts, raw = _engine.logic_pim_channel(v, d, jobs, requests or [], 10_000_000)
    trace = trace_array(raw)
    if check:
        assert check_trace(v, d, trace) == []
    return pim_ps, xpu_ps, counts, trace


def start_clock(v: dict[str, Any], d: dict[str, Any]) -> int:
    """Clock at which an operator starts: `refresh_phase` into the refresh interval, on a whole clock."""
    interval = d["tREFI_ps"] // d["tCK_ps"]
    if d["refresh"] == "per_bank":
        interval = interval * d["refresh_banks"] // (d["bank_groups"] * d["banks_per_group"])
    return int(v["refresh_phase"] * interval)


def stream(bursts: int, banks: list[int], *, columns: int = 32, rows: int = 4096, write: bool = False) -> list[Any]:
    """Requests over `banks` (one of each bank group in turn), then columns, then the next four banks, then rows."""
    out = []
    for i in range(bursts):
        group, rest = i % 4, i // 4
        column, rest = rest % columns, rest // columns
        out.append((write, banks[rest % (len(banks) // 4) * 4 + group], rest // (len(banks) // 4) % rows, column))
    return out


def space_banks(space: int) -> list[int]:
    """Banks of a space of Logic-PIM in HBM3, the bank group changing fastest (by the definition of a bundle)."""
    rank, half = divmod(space, 2)
    return [(rank * 4 + group) * 4 + half * 2 + low for low in range(2) for group in range(4)]

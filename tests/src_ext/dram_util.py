"""What the DRAM tests share: the shipped timing sets as plain parameters, and totals of runs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2] / "gempim" / "data" / "dram"
STANDARDS = ("ddr4-3200", "ddr5-4800")


def params(standard: str, **override: int | str) -> dict[str, Any]:
    """The values of a shipped timing set, some of them replaced."""
    rows = tomllib.loads((DATA / f"{standard}.toml").read_text())["params"]
    values = {name: row["value"] for name, row in rows.items()}
    assert set(override) <= set(values)
    return values | override


def burst_bytes(p: dict[str, Any]) -> int:
    """Bytes of one column command."""
    return int(p["bus_bits"] // 8 * p["BL"])

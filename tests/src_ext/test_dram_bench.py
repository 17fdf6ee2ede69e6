"""The DRAM benchmark: every row says what it measured (no speed is asserted: machines differ)."""

from __future__ import annotations

import pytest

from gempim.bench import dram


def test_bench_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both standards, both modes, positive figures; run on small streams."""
    monkeypatch.setattr(dram, "STREAM_BYTES", 1 << 16)
    monkeypatch.setattr(dram, "LONG_BYTES", 1 << 22)
    monkeypatch.setattr(dram, "RANDOM_READS", 50)
    rows = dram.bench(repeats=1)
    assert len({r["what"] for r in rows}) == len(rows) == 14
    assert {r["what"].split(",")[0] for r in rows} == {"ddr4-3200", "ddr5-4800"}
    assert {r["unit"] for r in rows} == {"M requests/s", "ms"}
    assert all(r["value"] > 0 for r in rows)

"""Every operator of every run: the numbers behind the time bars and the roofline."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from gempim.analysis.result import PS_PER_S, Result
from gempim.analysis.roofline import points_of
from gempim.analysis.selection import labels
from gempim.analysis.table import si, significant

MAX_RUNS = 64
"""The page lists the operators of at most this many runs; operators.csv has all."""


def operator_rows(results: Sequence[Result], extra_keys: Sequence[str] = ()) -> pd.DataFrame:
    """One row an operator, phase and run, every digit; units stand in the names, `share` is of the phase's time."""
    rows = []
    for name, result in zip(labels(results, extra_keys), results, strict=True):
        for phase in result.phases:
            for point in sorted(points_of(result.run, phase.label), key=lambda p: -p.time_ps):
                rows.append(
                    {
                        "run": result.run.name,
                        "case": name,
                        "phase": phase.label,
                        "test": phase.test,
                        "operator": point.name,
                        "device": point.device,
                        "limiter": point.limiter,
                        "ms_per_token": point.time_ps / phase.tokens * 1e-9,
                        "share": point.time_ps / phase.sim_ps,
                        "flop_per_token": point.flops / phase.tokens,
                        "dram_bytes_per_token": point.dram_bytes / phase.tokens,
                        "flop_per_byte": point.intensity,
                        "flop_per_s": point.flops_per_s,
                        "dram_bytes_per_s": point.dram_bytes / (point.time_ps / PS_PER_S)
                        if point.time_ps
                        else math.nan,
                    }
                )
    return pd.DataFrame(rows)


def operator_texts(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as people read them."""
    return pd.DataFrame(
        {
            "case": rows["case"],
            "test": rows["test"],
            "operator": rows["operator"],
            "device": rows["device"],
            "limiter": rows["limiter"],
            "time": [f"{significant(ms)} ms" for ms in rows["ms_per_token"]],
            "share": [f"{share * 100:.1f} %" for share in rows["share"]],
            "FLOP/byte": [significant(x) if math.isfinite(x) else "no DRAM" for x in rows["flop_per_byte"]],
            "FLOP/s": [si(rate) for rate in rows["flop_per_s"]],
            "DRAM": [f"{rate / 1e9:.1f} GB/s" if math.isfinite(rate) else "–" for rate in rows["dram_bytes_per_s"]],
        }
    )

"""The tables of intervals in the report of serving runs: every row's, and the geometric means by system."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from gempim.analysis.report.content import Table
from gempim.analysis.serving.table import mean_ratio
from gempim.analysis.table import interval_of
from gempim.analysis.uncertainty import DIGITS, ends, rounded

_FIGURES = {
    "tokens_per_s": "t/s",
    "requests_per_s": "requests/s",
    **{f"{name}_p{q}_ms": f"{name.upper()} p{q} [ms]" for name in ("ttft", "tbt") for q in (50, 90, 99)},
    "j_per_token": "J/token",
    "usd_per_million_tokens": "$/1M tokens",
    "speedup": "speedup",
    "j_per_token_ratio": "J/token vs base",
}

_RATIOS = {
    "speedup": "speedup",
    "tbt_p50_ratio": "TBT p50 vs base",
    "tbt_p99_ratio": "TBT p99 vs base",
    "j_per_token_ratio": "J/token vs base",
}


def interval_table(rows: pd.DataFrame, cases: Sequence[str]) -> Table:
    """The ends of every row's 95 % intervals; of a row that was not repeated they are not known."""
    out = []
    for name, own in zip(cases, rows.to_dict("records"), strict=True):
        cells = {"case": name, "runs": str(own["repeats"])}
        cells |= {title: ends(interval_of(own, column)) for column, title in _FIGURES.items() if column in own}
        out.append(cells)
    return Table.of(pd.DataFrame(out), "Ends of the 95 % intervals; report.csv has them with every digit.")


def cases_of(rows: pd.DataFrame) -> dict[str, list[int]]:
    """The rows of each system but the baseline that have a baseline, by place."""
    out: dict[str, list[int]] = {}
    for i, (base, own) in enumerate(zip(rows.attrs["base"], rows.to_dict("records"), strict=True)):
        label = f"{own['system']} x{own['devices']}"
        if base is not None and label != rows.attrs["baseline"]:
            out.setdefault(label, []).append(i)
    return out


def summary_table(rows: pd.DataFrame) -> Table | None:
    """Geometric means of the ratios by system; None where no system has two comparisons."""
    found = cases_of(rows)
    if all(len(of) < 2 for of in found.values()):
        return None
    out = []
    for label, of in found.items():
        cells = {"system": label, "cases": str(len(of))}
        for name, title in _RATIOS.items():
            cells |= _mean(rows, of, name, title)
        out.append(cells)
    return Table.of(
        pd.DataFrame(out),
        "Geometric means over the cases, their 95 % intervals where they are known, and the lowest and the highest "
        "ratio. A mean over other cases is another number: the cases are those of this report.",
    )


def _mean(rows: pd.DataFrame, of: Sequence[int], name: str, title: str) -> dict[str, str]:
    values = [float(v) for v in rows[name].iloc[list(of)]]
    if not all(math.isfinite(v) and v > 0 for v in values):
        return {title: "–", f"{title} 95 %": "–", f"{title} range": "–"}
    mean, found = mean_ratio(rows, of, name)
    return {
        title: f"{rounded(mean, None if found is None else found.half, DIGITS)}x",
        f"{title} 95 %": ends(found),
        f"{title} range": f"{rounded(min(values))} to {rounded(max(values))}" if len(values) > 1 else "–",
    }

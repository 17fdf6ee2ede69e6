"""The report's tables of intervals: every row's, and the geometric means by system."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gempim.analysis.report.content import Table
from gempim.analysis.result import Phase, Result
from gempim.analysis.table import RATIOS, half_of, interval_of
from gempim.analysis.uncertainty import (
    DIGITS,
    ends,
    geometric_mean,
    geometric_mean_half,
    interval,
    percent,
    rounded,
)

_TITLES = {
    "tokens_per_s": "t/s",
    "j_per_token": "J/token",
    "usd_per_million_tokens": "$/1M tokens",
    "speedup": "speedup",
    "j_per_token_ratio": "J/token vs base",
}


def uncertainty_table(frame: pd.DataFrame, results: Sequence[Result], names: Sequence[str]) -> Table:
    """Every row of the results with the ends of its 95 % intervals, and what they come from."""
    labels = {result.run.name: name for result, name in zip(results, names, strict=True)}
    phases = {(result.run.name, phase.test): phase for result in results for phase in result.phases}
    order = {result.run.name: i for i, result in enumerate(results)}
    rows = []
    for row in sorted(frame.to_dict("records"), key=lambda row: order[str(row["run"])]):
        cells = {"case": labels[str(row["run"])], "test": str(row["test"])}
        for name, title in _TITLES.items():
            if name not in frame:
                continue
            found = interval_of(row, name)
            bound = ">= " if name == "j_per_token" and row["energy_is_lower_bound"] else ""
            cells[title] = bound + rounded(row[name], None if found is None else found.half)
            cells[f"{title} 95 %"] = ends(found)
        cells["from"] = _parts(phases[str(row["run"]), str(row["test"])], row)
        rows.append(cells)
    return Table.of(pd.DataFrame(rows))


def _parts(phase: Phase, row: Mapping[Any, Any]) -> str:
    if row["repeats"] > 1:
        half = half_of(row, "tokens_per_s")
        return f"mean of {row['repeats']} runs" + ("" if half is None else f", rate {percent(half)}")
    if not phase.rate_error.parts:
        return "none known: one region, simulated whole"
    return f"rate: {phase.rate_error.text()}; energy: {phase.energy_error.text()}"


def summary_table(frame: pd.DataFrame, baseline: str) -> Table | None:
    """Geometric means of the ratios by system and phase; None where no system has two comparisons in one phase."""
    rows = []
    several = False
    for system in dict.fromkeys(frame["system"]):
        if system == baseline:
            continue
        for phase, prefix in (("prefill", "pp"), ("decode", "tg")):
            own = frame[(frame["system"] == system) & frame["test"].str.startswith(prefix)].to_dict("records")
            if not own:
                continue
            several |= len(own) > 1
            cells = {"system": str(system), "phase": phase, "cases": str(len(own))}
            for name, title in zip(RATIOS, ("speedup", "J/token vs base", "tokens/$ vs base"), strict=True):
                cells |= _mean(own, name, title)
            rows.append(cells)
    if not several:
        return None
    return Table.of(
        pd.DataFrame(rows),
        "Geometric means over the cases, their 95 % intervals where all cases have one, and the lowest and the highest "
        "ratio. A mean over other cases is another number: the cases are those of this report.",
    )


def _mean(rows: Sequence[Mapping[Any, Any]], name: str, title: str) -> dict[str, str]:
    values = [float(row[name]) for row in rows if math.isfinite(row[name])]
    if len(values) < len(rows):
        return {title: "–", f"{title} 95 %": "–", f"{title} range": "–"}
    mean, half = geometric_mean(values), geometric_mean_half([half_of(row, name) for row in rows])
    found = None if half is None else interval(mean, half)
    return {
        title: f"{rounded(mean, None if found is None else found.half, DIGITS)}x",
        f"{title} 95 %": ends(found),
        f"{title} range": f"{rounded(min(values))} to {rounded(max(values))}" if len(values) > 1 else "–",
    }

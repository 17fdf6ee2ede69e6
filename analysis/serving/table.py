"""Serving runs as one table: a row a run, with ratios to a baseline that served the same requests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from gempim.analysis.serving.metrics import Latency
from gempim.analysis.serving.result import ServeResult
from gempim.analysis.table import markdown as _markdown
from gempim.analysis.table import significant
from gempim.quantity import DataError

SAME = ("model", "max_batch", "input", "output", "qps")
"""Columns in which a run and its baseline agree."""

LATENCIES = ("ttft", "tbt", "e2e")


def row(result: ServeResult) -> dict[str, object]:
    """One run; latencies in ms, NaN where nothing was measured."""
    e = result.run.experiment
    totals = result.run.totals
    out: dict[str, object] = {
        "model": e["model"]["name"],
        "system": result.run.system,
        "devices": result.run.devices,
        "max_batch": e["scheduler"]["max_batch"],
        "input": e["requests"]["input"],
        "output": e["requests"]["output"],
        "qps": e["requests"]["qps"] if e["requests"]["qps"] is not None else math.nan,
        "tokens_per_s": result.tokens_per_s,
        "requests_per_s": result.requests_per_s,
        "sustained": result.sustained,
    }
    for name in LATENCIES:
        found: Latency | None = getattr(result, name)
        for q in ("p50", "p90", "p99"):
            out[f"{name}_{q}_ms"] = getattr(found, f"{q}_s") * 1e3 if found is not None else math.nan
    return {
        **out,
        "j_per_token": result.j_per_token,
        "energy_is_lower_bound": result.energy.is_lower_bound,
        "usd_per_million_tokens": result.usd_per_million_tokens,
        "most_batch": totals["most_batch"],
        "run": result.run.name,
    }


def frame(results: Sequence[ServeResult], baseline: str | None = None) -> pd.DataFrame:
    """One row a run; with `baseline` (``gpu-h100 x4``) also its ratios to the baseline's run of the same requests.

    Raises DataError when no run is of the baseline, or two are of the same requests.
    """
    rows = pd.DataFrame([row(r) for r in results])
    if baseline is None:
        return rows
    labels = [r.run.label() for r in results]
    base: dict[tuple[object, ...], pd.Series] = {}
    for label, (_, found) in zip(labels, rows.iterrows(), strict=True):
        if label == baseline:
            if _key(found) in base:
                raise DataError(f"{baseline}: two runs of the same requests ({_key(found)}): which is the baseline?")
            base[_key(found)] = found
    if not base:
        raise DataError(f"no run of the baseline {baseline!r} (there are: {', '.join(dict.fromkeys(labels))})")
    ratios = {"speedup": "tokens_per_s", "tbt_p50_ratio": "tbt_p50_ms", "tbt_p99_ratio": "tbt_p99_ms",
              "ttft_p50_ratio": "ttft_p50_ms", "e2e_p50_ratio": "e2e_p50_ms",
              "j_per_token_ratio": "j_per_token"}  # fmt: skip
    for name, column in ratios.items():
        rows[name] = [
            found[column] / base[_key(found)][column] if _key(found) in base else math.nan
            for _, found in rows.iterrows()
        ]
    return rows


def _key(found: pd.Series) -> tuple[object, ...]:
    return tuple("closed" if isinstance(v, float) and math.isnan(v) else v for v in (found[name] for name in SAME))


_SHOWN = {
    "model": "model",
    "system": "system",
    "devices": "devices",
    "max_batch": "batch",
    "input": "Lin",
    "output": "Lout",
    "qps": "QPS",
    "tokens_per_s": "t/s",
    "speedup": "speedup",
    "ttft_p50_ms": "TTFT p50 [ms]",
    "ttft_p99_ms": "TTFT p99",
    "tbt_p50_ms": "TBT p50 [ms]",
    "tbt_p90_ms": "TBT p90",
    "tbt_p99_ms": "TBT p99",
    "e2e_p50_ms": "E2E p50 [ms]",
    "j_per_token": "J/token",
    "j_per_token_ratio": "J/token vs base",
    "usd_per_million_tokens": "$/1M tokens",
    "sustained": "keeps up",
}


def texts(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as people read them; a column that says nothing is left out."""
    out = pd.DataFrame(index=rows.index)
    for column, name in _SHOWN.items():
        if column not in rows or rows[column].isna().all():
            continue
        out[name] = [
            _text(column, value, bool(low))
            for value, low in zip(rows[column], rows["energy_is_lower_bound"], strict=True)
        ]
    return out


def _text(column: str, value: object, lower_bound: bool) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return (">= " if column == "j_per_token" and lower_bound else "") + significant(value)
    return str(value)


def markdown(rows: pd.DataFrame) -> str:
    """The table for people, as Markdown."""
    return _markdown(texts(rows))

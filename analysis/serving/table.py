"""Serving runs as one table: a row a run or a row its repeats, with ratios to a baseline that served the same requests.

Only runs that differ in nothing but a named repeat key are averaged; runs that differ in what no column tells are an
error that names the key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gempim.analysis.serving import repeats as _repeats
from gempim.analysis.serving.keys import KEYS, check_apart, check_told, is_workload, key_titles, values_of
from gempim.analysis.serving.metrics import Latency
from gempim.analysis.serving.repeats import LATENCIES, METRICS, Runs, ends_of, mean_ratio_half, ratio_half
from gempim.analysis.serving.result import ServeResult
from gempim.analysis.table import interval_of, significant
from gempim.analysis.table import markdown as _markdown
from gempim.analysis.uncertainty import DIGITS, Interval, geometric_mean, interval, plus_minus, rounded
from gempim.quantity import DataError

SAME = ("model", "max_batch", "input", "output", "qps")
"""Columns in which a run and its baseline agree."""

RATIOS = {
    "speedup": "tokens_per_s",
    "tbt_p50_ratio": "tbt_p50_ms",
    "tbt_p99_ratio": "tbt_p99_ms",
    "ttft_p50_ratio": "ttft_p50_ms",
    "e2e_p50_ratio": "e2e_p50_ms",
    "j_per_token_ratio": "j_per_token",
}
"""Columns of a comparison, each with its interval, and of which metric they are the ratio."""


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


def frame(
    results: Sequence[ServeResult],
    baseline: str | None = None,
    extra_keys: Sequence[str] = (),
    repeats: Sequence[str] = (),
) -> pd.DataFrame:
    """One row a run; with `baseline` (``gpu-h100 x4``) also its ratios to the baseline's run of the same requests.

    `extra_keys` are dotted manifest keys (``experiment.routing.exponent``) that become columns; what is of the requests
    and whatever the baseline's runs differ in, a run and its baseline must agree in too. `repeats` are such keys
    (``experiment.requests.seed``) of which runs that differ in nothing else become one row: the means, their number in
    the column ``repeats``, and their 95 % intervals, of `METRICS` and of `RATIOS` (``speedup_low``; NaN where not
    known). The row has the name of its first run.

    Raises DataError when runs differ in a value that no column tells, when two agree in everything, when a key is in
    none of the manifests, and when no run is of the baseline.
    """
    if not results:
        raise DataError("no serving runs to tabulate")
    named = [(r.run.name, r.run.manifest) for r in results]
    told = {key: values_of(named, key) for key in (*extra_keys, *repeats)}
    check_told(named, tuple(told))
    every = [_row(r, {key: told[key][i] for key in extra_keys}) for i, r in enumerate(results)]
    keys = [*KEYS, *extra_keys]
    repeated = [{f"repeat {key}": told[key][i] for key in repeats} for i in range(len(every))]
    check_apart(
        named, [{**own, **seeds} for own, seeds in zip(every, repeated, strict=True)],
        [*keys, *(f"repeat {key}" for key in repeats)],
    )  # fmt: skip
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, own in enumerate(every):
        groups.setdefault(tuple(str(own[key]) for key in keys), []).append(i)
    rows = [_repeats.mean_row([every[i] for i in members]) for members in groups.values()]
    runs: list[Runs] = [
        {
            ", ".join(map(str, repeated[i].values())): {name: every[i][name] for name in METRICS}
            for i in members
        }
        for members in groups.values()
    ]  # fmt: skip
    out = pd.DataFrame([{k: v for k, v in own.items() if k not in _ONLY_CHECKED} for own in rows])
    for key in (*extra_keys, "sustained"):
        # Otherwise pandas makes floats of whole numbers, and of flags, as soon as one cell is empty.
        out[key] = pd.Series([own[key] for own in rows], dtype=object)
    out.attrs.update(keys=keys, runs=runs)
    if baseline is not None:
        _compare(out, rows, runs, baseline, extra_keys)
    return out


_ONLY_CHECKED = ("usd_per_hour", "utilisation", "energy_table")
"""Of a row's values, those that must be equal among repeats and are no columns."""


def _row(result: ServeResult, extra: Mapping[str, Any]) -> dict[str, Any]:
    """A run's row with its extra keys after those of every table."""
    own = row(result)
    tables = (result.usd_per_hour, result.utilisation, result.energy_table.label)
    return {
        **{key: own.pop(key) for key in KEYS},
        **extra,
        **own,
        **dict(zip(_ONLY_CHECKED, tables, strict=True)),
    }


def _compare(
    out: pd.DataFrame,
    rows: Sequence[Mapping[str, Any]],
    runs: Sequence[Runs],
    baseline: str,
    extra_keys: Sequence[str],
) -> None:
    """Add the ratios to the baseline's rows and, as attribute ``base``, which row each one's is (None: it has none)."""
    labels = [f"{own['system']} x{own['devices']}" for own in rows]
    if baseline not in labels:
        raise DataError(f"no run of the baseline {baseline!r} (there are: {', '.join(dict.fromkeys(labels))})")
    of_base = [i for i, label in enumerate(labels) if label == baseline]
    same = [
        *SAME,
        *(key for key in extra_keys if is_workload(key) or len({str(rows[i][key]) for i in of_base}) > 1),
    ]
    where = {tuple(str(rows[i][key]) for key in same): i for i in of_base}
    base = [where.get(tuple(str(own[key]) for key in same)) for own in rows]
    for name, metric in RATIOS.items():
        found = [_ratio(rows, runs, i, b, name, metric) for i, b in enumerate(base)]
        for column in (name, f"{name}_low", f"{name}_high"):
            out[column] = [ends[column] for ends in found]
    out.attrs.update(base=base, baseline=baseline)


def _ratio(
    rows: Sequence[Mapping[str, Any]], runs: Sequence[Runs], i: int, base: int | None, name: str, metric: str
) -> dict[str, float]:
    if base is None or (metric == "j_per_token" and any(rows[k]["energy_is_lower_bound"] for k in (i, base))):
        return {name: math.nan, **ends_of(name, math.nan, None)}
    value = rows[i][metric] / rows[base][metric]
    # The baseline is itself to the last digit, which is no measurement.
    half = None if i == base else ratio_half(runs[i], runs[base], metric)
    return {name: value, **ends_of(name, value, half)}


def mean_ratio(rows: pd.DataFrame, of: Sequence[int], name: str) -> tuple[float, Interval | None]:
    """The geometric mean of a ratio over the rows `of` of a comparison, and its interval where it is known.

    Raises ValueError when a row has no such ratio.
    """
    mean = geometric_mean(float(rows[name].iloc[i]) for i in of)
    runs, base = rows.attrs["runs"], rows.attrs["base"]
    half = mean_ratio_half([(runs[i], runs[base[i]]) for i in of], RATIOS[name])
    return mean, None if half is None else interval(mean, half)


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
    """The rows as people read them, by the rule of digits; a column that says nothing is left out.

    Tokens a second of repeated runs have the half-width of their 95 % interval.
    """
    out = pd.DataFrame(index=rows.index)
    extra = key_titles([key for key in rows.attrs.get("keys", ()) if key not in KEYS])
    shown: dict[str, str] = {}
    for column, name in _SHOWN.items():
        if column == "tokens_per_s":
            shown |= extra
            if "repeats" in rows and (rows["repeats"] > 1).any():
                shown["repeats"] = "repeats"
        shown[column] = name
    records = rows.to_dict("records")
    for column, name in shown.items():
        if column not in rows or rows[column].isna().all():
            continue
        out[name] = [_text(column, own) for own in records]
    return out


def _text(column: str, own: Mapping[Any, Any]) -> str:
    value = own[column]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column in METRICS or column in RATIOS:
        found = interval_of(own, column)
        half = None if found is None else found.half
        if column == "tokens_per_s":
            return plus_minus(value, half)
        return (">= " if column == "j_per_token" and own["energy_is_lower_bound"] else "") + rounded(
            value, half, DIGITS
        )
    return significant(value) if isinstance(value, float) else str(value)


def markdown(rows: pd.DataFrame) -> str:
    """The table for people, as Markdown."""
    return _markdown(texts(rows))


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows for JSON: every digit, None for what is not known."""
    return [
        {str(k): None if isinstance(v, float) and not math.isfinite(v) else v for k, v in own.items()}
        for own in rows.to_dict("records")
    ]


def render(rows: pd.DataFrame, fmt: str) -> str:
    """The table as text: ``md`` for people, ``csv``, ``json`` (a list of rows) and ``jsonl`` with every digit."""
    if fmt == "md":
        return markdown(rows)
    if fmt == "csv":
        return str(rows.to_csv(index=False, lineterminator="\n"))
    if fmt == "jsonl":
        return "".join(json.dumps(own, allow_nan=False) + "\n" for own in records(rows))
    return json.dumps(records(rows), allow_nan=False) + "\n"

"""Tables: one row a test as llama-bench has it, comparison with a baseline, and the output formats.

Nothing is ever averaged: two runs that the keys do not tell apart are an error that says which key to add.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from gempim.analysis.result import Phase, Result
from gempim.quantity import DataError, suggest

SCHEMA_VERSION = 1
"""Version of the columns below; written into csv, json and jsonl."""

KEYS = ("model", "quant", "system", "engine", "threads", "batch", "test")
"""Columns that identify a row."""

MATCH_KEYS = ("model", "quant", "batch", "test")
"""Columns in which a row and its baseline must agree (not the system, nor what only some systems have, as threads)."""

FORMATS = ("md", "csv", "json", "jsonl")
"""Output formats of `render_table`."""

UNITS = {
    "size_bytes": "bytes",
    "params": "parameters",
    "threads": "threads",
    "batch": "sequences",
    "tokens_per_s": "tokens/s",
    "tokens_per_s_std": "tokens/s",
    "j_per_token": "J/token",
    "usd_per_million_tokens": "USD per 10^6 tokens",
    "tokens_per_usd": "tokens/USD",
    "ttft_s": "s",
    "pim_commands": "commands",
    "speedup": "ratio",
    "j_per_token_ratio": "ratio",
    "tokens_per_usd_ratio": "ratio",
}
"""Units of the numeric columns."""


def tidy(results: Iterable[Result], extra_keys: Sequence[str] = ()) -> pd.DataFrame:
    """One row a phase of each result.

    `extra_keys` are dotted manifest keys (``experiment.system.sram_pim.nbw``) that become key columns. A run
    without the section of a key (a baseline has no ``sram_pim``) has None there. Raises RunError for a key that is
    missing in a section that the run has, or whose section no run has; DataError when two rows agree in all keys.
    """
    results = list(results)
    extra = {key: extra_values(results, key) for key in extra_keys}
    rows = [
        _row(result, phase, {key: values[i] for key, values in extra.items()})
        for i, result in enumerate(results)
        for phase in result.phases
    ]
    if not rows:
        raise DataError("no results to tabulate")
    frame = pd.DataFrame(rows)
    for key in extra_keys:
        # Otherwise pandas makes floats of whole numbers as soon as one cell is empty.
        frame[key] = pd.Series([row[key] for row in rows], dtype=object)
    keys = [*KEYS, *extra_keys]
    twice = frame[frame.duplicated(keys, keep=False)]
    if len(twice):
        first = twice.iloc[0]
        same = twice[(twice[keys].astype(str) == first[keys].astype(str)).all(axis=1)]
        raise DataError(
            f"{len(same)} runs have the same {', '.join(f'{k} {first[k]}' for k in keys)}: {', '.join(same['run'])}; "
            "name the key in which they differ as an extra key"
        )
    frame.attrs["keys"] = keys
    return frame


def extra_values(results: Sequence[Result], key: str) -> list[Any]:
    """The value of a dotted manifest key in each result, None where the run lacks the key's section; see `tidy`."""
    section = key.rpartition(".")[0]
    has = [not section or result.run.has(section) for result in results]
    if results and not any(has):
        results[0].run.lookup(key)
    return [result.run.lookup(key) if there else None for result, there in zip(results, has, strict=True)]


def compare(
    results: Iterable[Result],
    baseline: str,
    *,
    match: Sequence[str] = MATCH_KEYS,
    extra_keys: Sequence[str] = (),
) -> pd.DataFrame:
    """The tidy table with each row's ratio to the row of system `baseline` that agrees in the `match` columns.

    Adds `speedup` (tokens/s over the baseline's), `j_per_token_ratio` (this over the baseline's: below 1 is better; NaN
    where either is a lower bound) and `tokens_per_usd_ratio`. Raises DataError for an unknown match column, an unknown
    baseline, and a row with no or several baseline rows.
    """
    frame = tidy(results, extra_keys)
    keys: list[str] = frame.attrs["keys"]
    for name in match:
        if name not in keys:
            raise DataError(f"match key {name!r}{suggest(name, keys)} (allowed: {', '.join(keys)})")
    systems = list(dict.fromkeys(frame["system"]))
    if baseline not in systems:
        raise DataError(
            f"no run of baseline {baseline!r}{suggest(baseline, systems)} (there are: {', '.join(systems)})"
        )
    records = frame.to_dict("records")
    base: dict[tuple[Any, ...], list[dict[Any, Any]]] = {}
    for row in records:
        if row["system"] == baseline:
            base.setdefault(tuple(row[name] for name in match), []).append(row)
    ratios: list[dict[str, float]] = []
    for row in records:
        found = base.get(tuple(row[name] for name in match), [])
        if len(found) != 1:
            what = ", ".join(f"{name} {row[name]}" for name in match)
            raise DataError(
                f"{row['system']}: {len(found)} rows of baseline {baseline} for {what}; "
                + ("run the baseline for it" if not len(found) else "name a further match key")
            )
        ratios.append(_ratios(row, found[0]))
    for name in ("speedup", "j_per_token_ratio", "tokens_per_usd_ratio"):
        frame[name] = [ratio[name] for ratio in ratios]
    frame.attrs.update(keys=keys, baseline=baseline)
    return frame


def render_table(frame: pd.DataFrame, fmt: str) -> str:
    """The table as text.

    ``md`` is rounded for reading; ``csv``, ``json`` and ``jsonl`` have every digit and the schema version. Raises
    DataError for another format.
    """
    if fmt == "md":
        return markdown(headline(frame))
    records = [{"schema_version": SCHEMA_VERSION, **_plain(row)} for row in frame.to_dict("records")]
    if fmt == "json":
        units = {name: UNITS[name] for name in frame.columns if name in UNITS}
        document = {"schema_version": SCHEMA_VERSION, "units": units, "rows": records}
        return json.dumps(document, indent=2, allow_nan=False) + "\n"
    if fmt == "jsonl":
        return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
    if fmt == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, fieldnames=list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return out.getvalue()
    raise DataError(f"output format {fmt!r} (allowed: {', '.join(FORMATS)}){suggest(fmt, FORMATS)}")


def headline(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns and digits that people read, all as text, as llama-bench orders them."""
    extra = [key for key in frame.attrs.get("keys", KEYS) if key not in KEYS]
    out = pd.DataFrame(
        {
            "model": frame["model"],
            "size": [f"{size / 2**30:.2f} GiB" for size in frame["size_bytes"]],
            "params": [si(params) for params in frame["params"]],
            "quant": frame["quant"],
            "system": frame["system"],
            # Only where it tells rows apart: most tables are of one engine.
            **({"engine": frame["engine"]} if "engine" in frame and frame["engine"].nunique() > 1 else {}),
            "threads": frame["threads"].astype(str),
            "batch": frame["batch"].astype(str),
            **{key.rpartition(".")[2]: ["–" if v is None else str(v) for v in frame[key]] for key in extra},
            "test": frame["test"],
            "t/s": [
                f"{rate:.2f}" + (f" ± {std:.2f}" if std is not None and not math.isnan(std) else "")
                for rate, std in zip(frame["tokens_per_s"], frame["tokens_per_s_std"], strict=True)
            ],
            "J/token": [
                (">= " if bound else "") + significant(joules)
                for joules, bound in zip(frame["j_per_token"], frame["energy_is_lower_bound"], strict=True)
            ],
            "$/1M tokens": [significant(usd) for usd in frame["usd_per_million_tokens"]],
            "tokens/$": [si(tokens) for tokens in frame["tokens_per_usd"]],
        }
    )
    if "speedup" in frame:
        out["speedup"] = [_times(x) for x in frame["speedup"]]
        out["J/token vs base"] = [_times(x) for x in frame["j_per_token_ratio"]]
        out["tokens/$ vs base"] = [_times(x) for x in frame["tokens_per_usd_ratio"]]
    return out.reset_index(drop=True)


_TEXT_COLUMNS = ("model", "quant", "system", "test", "engine")


def markdown(frame: pd.DataFrame) -> str:
    """A frame of texts as a Markdown table, padded so that it also reads as plain text; numbers right-aligned."""
    columns = [str(c) for c in frame.columns]
    cells = [[str(v).replace("|", "\\|") for v in row] for row in frame.itertuples(index=False)]
    widths = [max(len(c), 3, *(len(row[i]) for row in cells)) for i, c in enumerate(columns)]

    def line(values: Sequence[str]) -> str:
        padded = [
            v.ljust(w) if c in _TEXT_COLUMNS else v.rjust(w) for v, w, c in zip(values, widths, columns, strict=True)
        ]
        return "| " + " | ".join(padded) + " |"

    rule = (
        "| "
        + " | ".join(
            "-" * w if c in _TEXT_COLUMNS else "-" * (w - 1) + ":" for w, c in zip(widths, columns, strict=True)
        )
        + " |"
    )
    return "\n".join([line(columns), rule, *(line(row) for row in cells)]) + "\n"


def significant(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits and no exponent where people can read it without one."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    # By the rounded value: 9.999 becomes 10.0, which has another magnitude.
    magnitude = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if -4 <= magnitude < 7:
        return f"{round(value, digits - 1 - magnitude):.{max(0, digits - 1 - magnitude)}f}"
    return f"{value:.{digits - 1}e}"


def si(value: float) -> str:
    """A number with three significant digits and a K, M, B or T: ``6.74 B``."""
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= limit:
            return f"{value / limit:.2f} {letter}"
    return f"{value:.3g}"


def _times(value: float) -> str:
    return "–" if math.isnan(value) else f"{significant(value)}x"


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    """A row with missing numbers as None: NaN is not JSON."""
    return {
        str(key): None if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
        for key, value in row.items()
    }


def _row(result: Result, phase: Phase, extra: dict[str, Any]) -> dict[str, Any]:
    experiment = result.run.experiment
    model, workload = experiment["model"], experiment["workload"]
    return {
        "run": result.run.name,
        "model": model["name"],
        "size_bytes": model["bytes"],
        "params": model["params"],
        "quant": model["quant"],
        "system": result.run.system,
        "engine": experiment["engine"],
        "threads": workload["threads"],
        "batch": workload["batch"],
        **extra,
        "test": phase.test,
        "tokens_per_s": phase.tokens_per_s,
        "tokens_per_s_std": phase.tokens_per_s_std,
        "j_per_token": phase.j_per_token,
        "energy_is_lower_bound": phase.energy.is_lower_bound,
        "usd_per_million_tokens": phase.usd_per_million_tokens,
        "tokens_per_usd": phase.tokens_per_usd,
        "ttft_s": result.ttft_s,
        "pim_commands": phase.pim_commands,
        "energy_table": result.energy_table.label,
        "price": result.hourly.price.key,
        "price_status": result.hourly.price.status,
        "utilisation": result.utilisation,
    }


def _ratios(row: Any, base: Any) -> dict[str, float]:
    bounded = bool(row["energy_is_lower_bound"] or base["energy_is_lower_bound"])
    energy = math.nan if bounded or not base["j_per_token"] else row["j_per_token"] / base["j_per_token"]
    return {
        "speedup": row["tokens_per_s"] / base["tokens_per_s"],
        "j_per_token_ratio": energy,
        "tokens_per_usd_ratio": row["tokens_per_usd"] / base["tokens_per_usd"],
    }

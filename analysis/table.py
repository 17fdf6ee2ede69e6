"""Tables: one row a test as llama-bench has it, comparison with a baseline, and the output formats.

Nothing is ever averaged: two runs that the keys do not tell apart are an error that says which key to add.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from gempim.analysis.result import Phase, Result
from gempim.analysis.run import plain
from gempim.analysis.uncertainty import (
    DIGITS,
    Error,
    Interval,
    interval,
    plus_minus,
    ratio,
    rounded,
    significant,
    spread,
)
from gempim.quantity import DataError, suggest

SCHEMA_VERSION = 2
"""Version of the columns below; written into csv, json and jsonl."""

KEYS = ("model", "quant", "system", "engine", "threads", "batch", "test")
"""Columns that identify a row."""

MATCH_KEYS = ("model", "quant", "batch", "test")
"""Columns in which a row and its baseline must agree (not the system, nor what only some systems have, as threads)."""

METRICS = ("tokens_per_s", "j_per_token", "usd_per_million_tokens", "tokens_per_usd")
"""Columns of which a row has the interval, in the columns ``<metric>_low`` and ``<metric>_high``."""

RATIOS = {"speedup": "tokens_per_s", "j_per_token_ratio": "j_per_token", "tokens_per_usd_ratio": "tokens_per_usd"}
"""Columns of `compare`, each with its interval, and of which metric they are the ratio."""

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
    "repeats": "runs",
    **dict.fromkeys(RATIOS, "ratio"),
}
UNITS |= {f"{name}_{end}": UNITS[name] for name in (*METRICS, *RATIOS) for end in ("low", "high")}
"""Units of the numeric columns."""


def tidy(results: Iterable[Result], extra_keys: Sequence[str] = (), repeats: Sequence[str] = ()) -> pd.DataFrame:
    """One row a phase of each result, with the intervals of `METRICS` (None: not known; see `uncertainty`).

    `extra_keys` are dotted manifest keys (``experiment.system.sram_pim.nbw``) that become key columns. A run
    without the section of a key (a baseline has no ``sram_pim``) has None there. `repeats` are such keys too, but runs
    that differ in nothing else become one row: the mean, the standard deviation over runs, and their number in the
    column ``repeats``. Nothing else is ever averaged.

    Raises RunError for a key that is missing in a section that the run has, or whose section no run has; DataError
    when two rows agree in all keys, and when runs differ in a value that is no key (see `check_keys_told`).
    """
    results = list(results)
    extra = {key: extra_values(results, key) for key in (*extra_keys, *repeats)}
    phases = [phase for result in results for phase in result.phases]
    rows = [
        _row(result, phase, {key: values[i] for key, values in extra.items()})
        for i, result in enumerate(results)
        for phase in result.phases
    ]
    if not rows:
        raise DataError("no results to tabulate")
    keys = [*KEYS, *extra_keys]
    _check_told_apart(rows, [*keys, *repeats])
    check_keys_told(results, [*extra_keys, *repeats])
    if repeats:
        rows = _merged(rows, phases, keys, repeats)
    frame = pd.DataFrame(rows)
    for key in extra_keys:
        # Otherwise pandas makes floats of whole numbers as soon as one cell is empty.
        frame[key] = pd.Series([row[key] for row in rows], dtype=object)
    frame.attrs["keys"] = keys
    return frame


def _check_told_apart(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    same: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        same.setdefault(tuple(str(row[key]) for key in keys), []).append(row)
    for found in same.values():
        if len(found) > 1:
            raise DataError(
                f"{len(found)} runs have the same {', '.join(f'{k} {found[0][k]}' for k in keys)}: "
                f"{', '.join(row['run'] for row in found)}; name the key in which they differ "
                "as an extra key (report --key, or --repeats for a seed)"
            )


_TOLD = {
    "system": ("peaks",),
    "workload": ("batch", "prompt", "context", "tokens", "threads"),
    "gem5": ("prompt", "tokens", "threads", "context", "mem_size"),
}
"""Sections of an experiment whose values make figures, and those of them that a column has or that make none."""


def check_keys_told(results: Sequence[Result], named: Sequence[str] = ()) -> None:
    """Raise DataError when results that a table would put side by side differ in a value that no column tells.

    Values of a system must agree among its runs, those of the workload among all runs, those of gem5 among its runs,
    except among runs that differ in one of the keys `named`, which are columns.
    """
    seen: dict[tuple[Any, ...], tuple[Any, str]] = {}
    told = [extra_values(results, key) for key in named]
    for i, result in enumerate(results):
        own = (result.run.experiment["engine"], *(str(values[i]) for values in told))
        for section, columns in _TOLD.items():
            of = (result.run.system, *own) if section == "system" else own[1:] if section == "workload" else own
            for name, value in leaves(result.run.experiment.get(section, {}), columns):
                key = f"experiment.{section}.{name}"
                if key in named:
                    continue
                first, run = seen.setdefault((key, *of), (value, result.run.name))
                if first != value:
                    raise DataError(
                        f"{run} has {key} = {first}, {result.run.name} has {value}, and no column of the table tells: "
                        f"name it as a key (--key {key}) or, when it is a seed, as a repeat (--repeats {key})"
                    )


def leaves(tree: Any, without: Sequence[str], prefix: str = "") -> list[tuple[str, Any]]:
    """Plain numbers and flags of a section, and its texts that are values with a unit, by dotted name."""
    out = []
    for name, raw in tree.items() if isinstance(tree, dict) else ():
        value = plain(raw)
        if prefix + name in without:
            continue
        if isinstance(value, dict):
            out += leaves(value, without, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float) or (isinstance(value, str) and (value is not raw or not prefix)):
            out.append((prefix + name, value))
    return [(name, value) for name, value in out if name not in ("title", "description")]


def _merged(
    rows: Sequence[dict[str, Any]], phases: Sequence[Phase], keys: Sequence[str], repeats: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows that agree in `keys` as one: rate and energy are means, cost is that of the mean rate."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(tuple(str(row[key]) for key in keys), []).append(i)
    out = []
    for members in groups.values():
        first = {key: value for key, value in rows[members[0]].items() if key not in repeats}
        if len(members) > 1:
            own = [rows[i] for i in members]
            if len({(row["price"], row["utilisation"], row["energy_table"]) for row in own}) > 1:
                raise DataError(f"repeats {', '.join(row['run'] for row in own)} have different tables or prices")
            rates, joules = ([row[name] for row in own] for name in ("tokens_per_s", "j_per_token"))
            rate = math.fsum(rates) / len(own)
            first |= {
                "tokens_per_s": rate,
                "tokens_per_s_std": float(pd.Series(rates).std(ddof=1)),
                "j_per_token": math.fsum(joules) / len(own),
                "energy_is_lower_bound": any(row["energy_is_lower_bound"] for row in own),
                "usd_per_million_tokens": own[0]["usd_per_million_tokens"] * own[0]["tokens_per_s"] / rate,
                "tokens_per_usd": own[0]["tokens_per_usd"] / own[0]["tokens_per_s"] * rate,
                "ttft_s": None if own[0]["ttft_s"] is None else math.fsum(row["ttft_s"] for row in own) / len(own),
                "pim_commands": min(row["pim_commands"] for row in own),
                "repeats": len(own),
            }
            # The spread of the repeats has that of the steps in it; the bounds of sampling err alike in all of them.
            energy_error = repeated([phases[i].energy_error for i in members], joules)
            first |= _intervals(first, repeated([phases[i].rate_error for i in members], rates), energy_error)
        out.append(first)
    return out


def repeated(errors: Sequence[Error], values: Sequence[float]) -> Error:
    """The error of the mean of repeated runs: their spread, and the widest bound of what all of them sampled."""
    parts: dict[str, float | None] = {"repeats": spread(values)}
    bounds = [error.parts["sampling"] for error in errors if "sampling" in error.parts]
    if bounds:
        known = [bound for bound in bounds if bound is not None]
        parts["sampling"] = max(known) if len(known) == len(bounds) else None
    return Error(parts)


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
    repeats: Sequence[str] = (),
) -> pd.DataFrame:
    """The tidy table with each row's ratio to the row of system `baseline` that agrees in the `match` columns.

    Adds `speedup` (tokens/s over the baseline's), `j_per_token_ratio` (this over the baseline's: below 1 is better; NaN
    where either is a lower bound) and `tokens_per_usd_ratio`, each with its interval (``speedup_low``,
    ``speedup_high``; NaN where that of either row is not known, and for the baseline itself). Raises DataError for an
    unknown match column, an unknown baseline, and a row with no or several baseline rows.
    """
    frame = tidy(results, extra_keys, repeats)
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
    for name in (column for of in RATIOS for column in (of, f"{of}_low", f"{of}_high")):
        frame[name] = [found[name] for found in ratios]
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
                plus_minus(rate, std)
                for rate, std in zip(frame["tokens_per_s"], frame["tokens_per_s_std"], strict=True)
            ],
            "J/token": [
                (">= " if bound else "") + text
                for text, bound in zip(_digits(frame, "j_per_token"), frame["energy_is_lower_bound"], strict=True)
            ],
            "$/1M tokens": _digits(frame, "usd_per_million_tokens"),
            "tokens/$": [si(tokens) for tokens in frame["tokens_per_usd"]],
        }
    )
    if "speedup" in frame:
        for name, title in (
            ("speedup", "speedup"),
            ("j_per_token_ratio", "J/token vs base"),
            ("tokens_per_usd_ratio", "tokens/$ vs base"),
        ):
            out[title] = [text if text == "–" else f"{text}x" for text in _digits(frame, name)]
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


def interval_of(row: Any, name: str) -> Interval | None:
    """The interval of a row's figure; None where it is not known."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return None
    return Interval(float(row[name]), float(low), float(high))


def half_of(row: Any, name: str) -> float | None:
    """Relative half-width (of the logarithm) of a row's figure; None where it is not known."""
    found = interval_of(row, name)
    return None if found is None else math.log(found.high / found.low) / 2


def _digits(frame: pd.DataFrame, name: str) -> list[str]:
    """Figures with three digits, or fewer where their interval is wider than that."""
    out = []
    for row in frame.to_dict("records"):
        found = interval_of(row, name)
        out.append(rounded(row[name], None if found is None else found.half, DIGITS))
    return out


def si(value: float) -> str:
    """A number with three significant digits and a K, M, B or T: ``6.74 B``."""
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= limit:
            return f"{significant(value / limit)} {letter}"
    return f"{value:g}" if value == int(value) else significant(value)


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
        **_metrics(phase),
        "ttft_s": result.ttft_s,
        "pim_commands": phase.pim_commands,
        "energy_table": result.energy_table.label,
        "price": result.hourly.price.key,
        "price_status": result.hourly.price.status,
        "utilisation": result.utilisation,
        "repeats": 1,
    }


def _metrics(phase: Phase) -> dict[str, Any]:
    values: dict[str, Any] = {
        "tokens_per_s": phase.tokens_per_s,
        "tokens_per_s_std": phase.tokens_per_s_std,
        "j_per_token": phase.j_per_token,
        "energy_is_lower_bound": phase.energy.is_lower_bound,
        "usd_per_million_tokens": phase.usd_per_million_tokens,
        "tokens_per_usd": phase.tokens_per_usd,
    }
    return {**values, **_intervals(values, phase.rate_error, phase.energy_error)}


def _intervals(row: Mapping[str, Any], rate_error: Error, energy_error: Error) -> dict[str, float]:
    """The ends of a row's intervals, NaN where they are not known; a lower bound of the energy has none."""
    out: dict[str, float] = {}
    for name in METRICS:
        energy = name == "j_per_token"
        found = (energy_error if energy else rate_error).of(row[name])
        if found is None or (energy and row["energy_is_lower_bound"]):
            found = Interval(row[name], math.nan, math.nan)
        out |= {f"{name}_low": found.low, f"{name}_high": found.high}
    return out


def _ratios(row: Any, base: Any) -> dict[str, float]:
    bounded = bool(row["energy_is_lower_bound"] or base["energy_is_lower_bound"])
    out: dict[str, float] = {}
    for name, metric in RATIOS.items():
        if metric == "j_per_token" and (bounded or not base[metric]):
            out |= {name: math.nan, f"{name}_low": math.nan, f"{name}_high": math.nan}
            continue
        value = row[metric] / base[metric]
        half = None if row is base else ratio(half_of(row, metric), half_of(base, metric))
        found = Interval(value, math.nan, math.nan) if half is None else interval(value, half)
        out |= {name: value, f"{name}_low": found.low, f"{name}_high": found.high}
    return out

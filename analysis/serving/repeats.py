"""Repeated serving runs as one row: means, their 95 % intervals, and those of ratios to a baseline.

A serving run is one sample of arrivals, lengths and routes; its stages follow from each other, so nothing inside one
run says how far another seed would be from it: only repeats do. Runs that were repeated with the same seeds saw the
same requests, which makes the two sides of a ratio, and the cases of a mean, depend on each other. There the interval
of a ratio of means is that of the ratio estimator (Cochran, "Sampling Techniques", 1977, section 2.11): Student's t of
the differences, seed by seed, of the two sides' relative deviations from their means; of a geometric mean, of those
differences' means over its cases. Where the seeds are others, the sides are independent and combine as in
`uncertainty`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gempim.analysis.serving.metrics import QUANTILES
from gempim.analysis.uncertainty import Error, Interval, interval, ratio, spread
from gempim.quantity import DataError

LATENCIES = ("ttft", "tbt", "e2e")

METRICS = (
    "tokens_per_s", "requests_per_s", *(f"{name}_p{q}_ms" for name in LATENCIES for q in QUANTILES), "j_per_token",
    "usd_per_million_tokens",
)  # fmt: skip
"""Columns of which a row has the interval, in the columns ``<metric>_low`` and ``<metric>_high``."""

METHOD = (
    "95 % intervals of repeated runs: Student's t times the standard error of the mean over runs that differ only in "
    "a named repeat key. Percentiles are means of the runs' percentiles; dollars are those of the mean rate. Runs "
    "with the same seeds saw the same requests: there the interval of a ratio to the baseline, and of a geometric "
    "mean, is that of the differences, seed by seed, of the two sides' relative deviations from their means (ratio "
    "estimator, Cochran, 1977). With other seeds the two sides of a ratio combine by the root of the sum of squares "
    "(Kline and McClintock, 1953), and the half-width of a geometric mean is the mean of its cases'. The stages of "
    "one run depend on each other: of a run that was not repeated no interval is known. Not in the intervals: "
    "parameters that are choices, prices, energies per event, and what the models get wrong."
)
"""The method in a paragraph, for reports."""

Runs = Mapping[str, Mapping[str, float]]
"""The metrics of the runs of one row, by their values of the repeat keys."""


def mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of repeats: means with their intervals (NaN: not known), and how many there are in ``repeats``.

    It keeps up when all of them do; a batch is the largest of any. Raises DataError when they have different prices
    or energy tables, by the columns ``usd_per_hour``, ``utilisation`` and ``energy_table``.
    """
    out = dict(rows[0])
    if len({(row["usd_per_hour"], row["utilisation"], row["energy_table"]) for row in rows}) > 1:
        raise DataError(f"repeats {', '.join(row['run'] for row in rows)} have different tables or prices")
    if len(rows) > 1:
        out |= {name: math.fsum(row[name] for row in rows) / len(rows) for name in METRICS}
        first = rows[0]
        out |= {
            "usd_per_million_tokens": first["usd_per_million_tokens"] * first["tokens_per_s"] / out["tokens_per_s"],
            "energy_is_lower_bound": any(row["energy_is_lower_bound"] for row in rows),
            "sustained": None if first["sustained"] is None else all(row["sustained"] for row in rows),
            "most_batch": max(row["most_batch"] for row in rows),
        }
    for name in METRICS:
        of = "tokens_per_s" if name == "usd_per_million_tokens" else name
        bound = name == "j_per_token" and out["energy_is_lower_bound"]
        half = None if bound else spread([row[of] for row in rows])
        out |= ends_of(name, out[name], half)
    return {**out, "repeats": len(rows)}


def ends_of(name: str, value: float, half: float | None) -> dict[str, float]:
    """The columns of an interval; NaN where it is not known."""
    found = Interval(value, math.nan, math.nan) if half is None else interval(value, half)
    return {f"{name}_low": found.low, f"{name}_high": found.high}


def error_of_row(runs: Runs, name: str) -> Error:
    """The error of a row's figure: that of its repeats, or none known."""
    half = spread([run[name] for run in runs.values()])
    return Error({} if half is None else {"repeats": half})


def ratio_half(of: Runs, over: Runs, name: str) -> float | None:
    """Relative half-width of the ratio of two rows' means; None where it is not known."""
    if paired([of, over]):
        return _paired_half([(of, over)], name)
    return ratio(error_of_row(of, name).half, error_of_row(over, name).half)


def mean_ratio_half(pairs: Sequence[tuple[Runs, Runs]], name: str) -> float | None:
    """Relative half-width of the geometric mean of ratios, each of a row and its baseline; None where not known.

    Without common seeds in all of them it is the mean of the ratios' half-widths: a bound, however they depend on
    each other.
    """
    if paired([runs for pair in pairs for runs in pair]):
        return _paired_half(pairs, name)
    halves = [ratio_half(of, over, name) for of, over in pairs]
    known = [half for half in halves if half is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(halves) else None


def paired(rows: Sequence[Runs]) -> bool:
    """Whether all rows were repeated, with the same values of the repeat keys."""
    return len(rows[0]) > 1 and all(set(runs) == set(rows[0]) for runs in rows)


def _paired_half(pairs: Sequence[tuple[Runs, Runs]], name: str) -> float | None:
    """The half-width by seed: `spread` of one and the mean over pairs of the differences of relative deviations."""
    off = [(_deviations(of, name), _deviations(over, name)) for of, over in pairs]
    return spread([1 + math.fsum(a[seed] - b[seed] for a, b in off) / len(off) for seed in pairs[0][0]])


def _deviations(runs: Runs, name: str) -> dict[str, float]:
    mean = math.fsum(run[name] for run in runs.values()) / len(runs)
    return {seed: run[name] / mean - 1 for seed, run in runs.items()}

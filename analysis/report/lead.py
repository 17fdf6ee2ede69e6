"""The first thing a reader sees: one sentence a system, and the figures that people look for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from gempim.analysis.result import Result
from gempim.analysis.table import significant
from gempim.analysis.uncertainty import geometric_mean

_MOST_SYSTEMS = 4
_PHASES = (("decode", "tg"), ("prefill", "pp"))


def lead(frame: pd.DataFrame, baseline: str | None, results: Sequence[Result] = ()) -> list[str]:
    """One sentence a system and phase: how it compares with the baseline, from the worst case to the best.

    Without a baseline, the highest rate and its conditions.
    """
    systems = _systems(frame, baseline)
    if not systems:
        decode = _phase(frame, "tg")
        shown = decode if len(decode) else frame
        top = shown.loc[shown["tokens_per_s"].idxmax()]
        return [f"{top['system']}: {significant(top['tokens_per_s'])} tokens per second ({_conditions(top, frame)})."]
    bounds = {r.run.system for r in results if "roofline" in str(r.run.experiment["system"].get("kind", ""))}
    sentences = []
    for system in systems[:_MOST_SYSTEMS]:
        for phase, prefix in _PHASES:
            rows = _phase(frame[frame["system"] == system], prefix)
            if len(rows):
                name = f"{system} (a roofline: an upper bound of the real device)" if system in bounds else system
                sentences.append(_sentence(name, str(baseline), phase, rows, frame))
    if len(systems) > _MOST_SYSTEMS:
        sentences.append(f"{len(systems) - _MOST_SYSTEMS} more systems are in the table.")
    return sentences


def _sentence(name: str, baseline: str, phase: str, rows: pd.DataFrame, frame: pd.DataFrame) -> str:
    if len(rows) == 1:
        row = rows.iloc[0]
        energy = row["j_per_token_ratio"]
        return (
            f"{name} makes {significant(row['speedup'])}x the tokens per second of {baseline} and "
            f"{significant(row['tokens_per_usd_ratio'])}x the tokens per dollar"
            + ("" if math.isnan(energy) else f", at {significant(energy)}x the energy per token")
            + f" ({_conditions(row, frame)})."
        )
    best, worst = rows.loc[rows["speedup"].idxmax()], rows.loc[rows["speedup"].idxmin()]
    slower = int((rows["speedup"] < 1).sum())
    verdict = f"slower than {baseline} in {slower} of {len(rows)} cases" if slower else f"in {len(rows)} cases"
    energy = rows["j_per_token_ratio"].dropna()
    return (
        f"{name} in {phase}: {span(rows['speedup'])} the tokens per second of {baseline} (geometric mean "
        f"{significant(geometric_mean(rows['speedup']))}x), {verdict} (best: "
        f"{_conditions(best, frame)}; worst: {_conditions(worst, frame)}), {span(rows['tokens_per_usd_ratio'])} the "
        "tokens per dollar" + (f", {span(energy)} the energy per token" if len(energy) else "") + "."
    )


def span(values: pd.Series) -> str:
    """From the lowest to the highest ratio: ``0.71x to 6.9x``; one number where they are the same."""
    low, high = (significant(float(v)) for v in (values.min(), values.max()))
    return f"{low}x" if low == high else f"{low}x to {high}x"


def _phase(frame: pd.DataFrame, prefix: str) -> pd.DataFrame:
    return frame[frame["test"].str.startswith(prefix)]


def _systems(frame: pd.DataFrame, baseline: str | None) -> list[str]:
    """The systems that are compared, PIM systems first, then by their best ratio."""
    if baseline is None:
        return []
    others = frame[frame["system"] != baseline]
    pim = others.groupby("system")["pim_commands"].max()
    best = others.groupby("system")["speedup"].max()
    return sorted(others["system"].unique(), key=lambda name: (not pim[name], -best[name]))


def _conditions(row: Any, frame: pd.DataFrame) -> str:
    """Under which conditions a row is true: model, width, batch, and what else varies in the table."""
    extra = [key for key in frame.attrs.get("keys", ()) if "." in key and row[key] is not None]
    words = [f"{row['model']} {row['quant']}", str(row["test"]), f"batch {row['batch']}"]
    words += [f"{row['threads']} threads"] if frame["threads"].nunique() > 1 else []
    words += [f"{key.rpartition('.')[2]} {row[key]}" for key in extra]
    return ", ".join([*words, *([f"{row['engine']} engine"] if frame["engine"].nunique() > 1 else [])])


def cards(frame: pd.DataFrame, baseline: str | None) -> list[dict[str, str]]:
    """The figures that people look for first: of the PIM system when there is one, otherwise of the fastest system.

    Ranges when there are several comparisons, so that a card never shows the best of many as if it were all.
    """
    systems = _systems(frame, baseline)
    if not systems:
        return []
    system = systems[0]
    own = frame[frame["system"] == system]
    phase, rows = next((name, found) for name, prefix in _PHASES if len(found := _phase(own, prefix)))
    bound = "at least, per token" if rows["energy_is_lower_bound"].any() else "per token"
    if len(rows) == 1:
        only = rows.iloc[0]
        return [
            _card(f"{significant(only['speedup'])}x", f"speedup of {system} over {baseline}, {only['test']}"),
            _card(significant(only["tokens_per_s"]), f"tokens per second on {system}"),
            _card(f"{significant(only['j_per_token'])} J", f"{bound} on {system}"),
            _card(f"${significant(only['usd_per_million_tokens'])}", f"per million tokens on {system}"),
            _card(f"{significant(only['tokens_per_usd_ratio'])}x", f"tokens per dollar over {baseline}"),
        ]
    energy = rows["j_per_token_ratio"].dropna()
    faster, cheaper = int((rows["speedup"] > 1).sum()), int((rows["tokens_per_usd_ratio"] > 1).sum())
    out = [
        _card(_dash(rows["speedup"], "x"), f"{phase} speedup of {system} over {baseline}"),
        _card(f"{faster} of {len(rows)}", f"comparisons in which {system} is faster"),
        _card(_dash(rows["tokens_per_usd_ratio"], "x"), f"tokens per dollar over {baseline}"),
        _card(f"{cheaper} of {len(rows)}", f"comparisons in which {system} is cheaper"),
    ]
    return out + ([_card(_dash(energy, "x"), f"energy per token relative to {baseline}")] if len(energy) else [])


def _dash(values: pd.Series, unit: str) -> str:
    low, high = (significant(float(v), 2) for v in (values.min(), values.max()))
    return f"{low}{unit}" if low == high else f"{low}–{high}{unit}"


def _card(value: str, text: str) -> dict[str, str]:
    return {"value": value, "text": text}

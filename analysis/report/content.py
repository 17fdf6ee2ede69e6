"""What a report says: its tables and sentences, made from results. No markup here; the templates have that."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pandas as pd

from gempim.analysis.energy import inside
from gempim.analysis.plots import MAX_BARS, labels
from gempim.analysis.result import Result
from gempim.analysis.table import headline, markdown, significant
from gempim.analysis.validation import Outcome

_NUMBER = re.compile(r"^[^\w-]{0,4}(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?: ?([KMBT]))?(?=$|[ x%±])")
_MOST_SENTENCES = 3
_LIFTED = ("model", "size", "params", "quant", "threads", "batch")
_SI = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_WRAP = ("source", "reason", "formula", "claim", "scope", "about", "note", "versions", "sha256")


class Cell(NamedTuple):
    """Text of a cell, and the number by which it sorts (None: by its text)."""

    text: str
    sort: float | None


@dataclass(frozen=True)
class Table:
    """A table of texts, ready for HTML and Markdown."""

    columns: list[str]
    rows: list[list[Cell]]
    foot: list[list[Cell]]
    numeric: list[str]
    wrap: list[str]
    markdown: str
    caption: str = ""

    @classmethod
    def of(cls, frame: pd.DataFrame, caption: str = "", foot: int = 0) -> Table:
        """From a frame of texts; a column of numbers is numeric. The last `foot` rows never sort."""
        columns = [str(c) for c in frame.columns]
        rows = [[Cell(str(v), _sort_key(str(v))) for v in row] for row in frame.itertuples(index=False)]
        numeric = [
            c
            for i, c in enumerate(columns)
            if c not in _WRAP
            and rows
            and any(r[i].sort is not None for r in rows)
            and all(r[i].sort is not None or r[i].text == "–" for r in rows)
        ]
        rows = [[c if n in numeric else Cell(c.text, None) for c, n in zip(r, columns, strict=True)] for r in rows]
        wrap = [c for c in columns if c in _WRAP]
        body, feet = (rows[:-foot], rows[-foot:]) if foot else (rows, [])
        return cls(columns, body, feet, numeric, wrap, markdown(frame) if columns else "", caption)


def _sort_key(text: str) -> float | None:
    found = _NUMBER.match(text)
    return float(found[1]) * _SI[found[2] or ""] if found else None


def title(results: Sequence[Result]) -> str:
    """Systems and models of the report."""
    systems = _listing(r.run.system for r in results)
    models = _listing(r.run.experiment["model"]["name"] for r in results)
    return f"{systems} on {models}"


def _listing(names: Iterable[str], most: int = 4) -> str:
    unique = list(dict.fromkeys(names))
    if len(unique) > most:
        return ", ".join(unique[:most]) + f" and {len(unique) - most} more"
    return " and ".join([", ".join(unique[:-1]), unique[-1]]) if len(unique) > 1 else unique[0]


def _leading(frame: pd.DataFrame, baseline: str) -> list[pd.Series]:
    """The best row of each system that is not the baseline, decode before prefill, PIM systems first."""
    others = frame[frame["system"] != baseline]
    decode = others[others["test"].str.startswith("tg")]
    others = decode if len(decode) else others
    rows = [others.loc[group["speedup"].idxmax()] for _, group in others.groupby("system", sort=False)]
    return sorted(rows, key=lambda row: (not row["pim_commands"], -row["speedup"]))


def lead(frame: pd.DataFrame, baseline: str | None) -> list[str]:
    """One sentence a system that answers the question, with the conditions under which it is true."""
    rows = _leading(frame, baseline) if baseline else []
    if not rows:
        decode = frame[frame["test"].str.startswith("tg")]
        shown = decode if len(decode) else frame
        top = shown.loc[shown["tokens_per_s"].idxmax()]
        return [f"{top['system']}: {significant(top['tokens_per_s'])} tokens per second ({_conditions(top)})."]
    sentences = []
    for row in rows[:_MOST_SENTENCES]:
        energy = row["j_per_token_ratio"]
        sentences.append(
            f"{row['system']} makes {significant(row['speedup'])}x the tokens per second of {baseline} and "
            f"{significant(row['tokens_per_usd_ratio'])}x the tokens per dollar"
            + ("" if math.isnan(energy) else f", at {significant(energy)}x the energy per token")
            + f" ({_conditions(row)})."
        )
    return sentences


def _conditions(row: Any) -> str:
    return f"{row['model']} {row['quant']}, {row['test']}, batch {row['batch']}, {row['engine']} engine"


def cards(frame: pd.DataFrame, baseline: str | None) -> list[dict[str, str]]:
    """The figures that people look for first: of the PIM system when there is one, otherwise of the fastest system."""
    rows = _leading(frame, baseline) if baseline else []
    if not rows:
        return []
    best = rows[0]
    bound = "at least, per token" if best["energy_is_lower_bound"] else "per token"
    return [
        {
            "value": f"{significant(best['speedup'])}x",
            "text": f"speedup of {best['system']} over {baseline}, {best['test']}",
        },
        {"value": significant(best["tokens_per_s"]), "text": f"tokens per second on {best['system']}"},
        {"value": f"{significant(best['j_per_token'])} J", "text": f"{bound} on {best['system']}"},
        {"value": f"${significant(best['usd_per_million_tokens'])}", "text": f"per million tokens on {best['system']}"},
        {"value": f"{significant(best['tokens_per_usd_ratio'])}x", "text": f"tokens per dollar over {baseline}"},
    ]


def boundaries(results: Sequence[Result]) -> list[str]:
    """What is inside each system's joule figure, what is outside of all, and what is unknown."""
    within: dict[str, str] = {}
    for result in results:
        for phase in result.phases:
            within[result.run.system] = inside(phase.energy)
    outside = dict.fromkeys(text for r in results for text in r.energy_table.outside)
    unknown = dict.fromkeys(name for r in results for p in r.phases for name in p.energy.unknown)
    out = [f"Inside the joule figure of {system}: {parts}." for system, parts in within.items()]
    out.append(f"Not inside any: {'; '.join(outside) or 'nothing is listed'}.")
    if unknown:
        out.append(f"Counted but of unknown energy, so that totals are lower bounds: {', '.join(unknown)}.")
    return out


def headline_table(frame: pd.DataFrame) -> Table:
    """The llama-bench-shaped table; on a page, what is equal in all rows stands in the caption."""
    full = headline(frame)
    same = [c for c in _LIFTED if c in full and len(full) > 1 and full[c].nunique() == 1]
    caption = "All rows: " + ", ".join(f"{c} {full[c].iloc[0]}" for c in same) if same else ""
    return replace(Table.of(full.drop(columns=same), caption), markdown=markdown(full))


def energy_parts(results: Sequence[Result]) -> Table:
    """Joules per token by component, one column a run and phase, with the total."""
    columns: dict[str, dict[str, float]] = {}
    totals: dict[str, str] = {}
    shown = results[:MAX_BARS]
    for name, result in zip(labels(results), shown, strict=False):
        for phase in result.phases:
            column = f"{name}, {phase.label}"
            columns[column] = phase.j_per_token_by_component()
            totals[column] = (">= " if phase.energy.is_lower_bound else "") + significant(phase.j_per_token)
    parts = list(dict.fromkeys(part for column in columns.values() for part in column))
    frame = pd.DataFrame(
        {
            "J/token": [*parts, "total"],
            **{
                name: [*(significant(column[p]) if p in column else "–" for p in parts), totals[name]]
                for name, column in columns.items()
            },
        }
    )
    left = f"The first {MAX_BARS} of {len(results)} runs; report.json has all." if len(results) > MAX_BARS else ""
    return Table.of(frame, left, foot=1)


def cost_table(results: Sequence[Result]) -> Table:
    """Price, formula and cost of each run and phase."""
    rows = []
    for name, result in zip(labels(results), results, strict=True):
        for phase in result.phases:
            rows.append(
                {
                    "system": name,
                    "test": phase.test,
                    "$/1M tokens": significant(phase.usd_per_million_tokens),
                    "tokens/$": f"{phase.tokens_per_usd:.0f}",
                    "USD/h": f"{result.hourly.usd_per_hour:.4g}",
                    "utilisation": f"{result.utilisation:g}",
                    "formula": result.hourly.formula,
                    "price": result.hourly.price.key,
                }
            )
    return Table.of(pd.DataFrame(rows))


def prices_table(results: Sequence[Result]) -> Table:
    """The prices that the results used, with date, status and source."""
    rows: dict[str, dict[str, str]] = {}
    for price in (result.hourly.price for result in results):
        rows[price.key] = {
            "price": price.key,
            "instance": f"{price.provider} {price.instance}",
            "region": price.region,
            "USD/h": f"{price.usd_per_hour.as_float():g}",
            "entered": price.date,
            "status": price.status,
            "source": price.usd_per_hour.source,
            "note": price.note,
        }
    return Table.of(pd.DataFrame(list(rows.values())))


def validation_table(outcomes: Sequence[Outcome]) -> Table:
    """Expected and measured, claim by claim."""
    return Table.of(pd.DataFrame([outcome.row() for outcome in outcomes]))


def runs_table(results: Sequence[Result]) -> Table:
    """What ran, with which versions, from which experiment."""
    rows = []
    for result in results:
        manifest = result.run.manifest
        versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
        calibration = manifest.get("calibration") or {}
        rows.append(
            {
                "run": result.run.name,
                "engine": result.run.experiment["engine"],
                "experiment": manifest["experiment_hash"][:12],
                "created": manifest["created"],
                "host time": f"{manifest['wall_seconds']:.2f} s" if "wall_seconds" in manifest else "–",
                "PIM commands": str(sum(p.pim_commands for p in result.phases))
                if result.run.pim_devices()
                else "no PIM",
                "versions": versions,
                "CPU calibration": ", ".join(
                    str(calibration[k]) for k in ("name", "origin", "date") if k in calibration
                )
                or "–",
            }
        )
    return Table.of(pd.DataFrame(rows))


def command(result: Result) -> str:
    """The command line that makes the run again."""
    words = result.run.manifest.get("command", [])
    return shlex.join(map(str, words)) if words else f"(no command recorded for {result.run.name})"


def tables_table(results: Sequence[Result]) -> Table:
    """Energy and price tables with their hashes."""
    rows: dict[str, dict[str, str]] = {}
    for result in results:
        energy, price = result.energy_table, result.price_table
        rows[energy.label] = {"table": f"energy: {energy.name}", "about": energy.title, "sha256": energy.sha256}
        if energy.overrides:
            changed = ", ".join(f"{k}={v:g}" for k, v in energy.overrides.items())
            rows[energy.label]["about"] += f"; changed by the user: {changed}"
        rows[price.label] = {
            "table": f"prices: {price.name}",
            "about": "USD per hour, PIM overhead",
            "sha256": price.sha256,
        }
    return Table.of(pd.DataFrame(list(rows.values())))


def choices_table(results: Sequence[Result]) -> Table:
    """Parameters that no paper gives, from the manifests and from the price file's PIM overhead."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for result in results:
        for choice in result.run.manifest.get("choices", []):
            row = {k: str(choice.get(k, "")) for k in ("key", "value", "unit", "kind", "source")}
            rows[row["key"], row["value"]] = row
        for name in ("area_overhead", "silicon_price_share"):
            q = getattr(result.price_table, name)
            row = {"key": f"prices.{name}", "value": f"{q.value}", "unit": q.unit, "kind": q.kind, "source": q.source}
            rows[row["key"], row["value"]] = row
    return Table.of(pd.DataFrame(list(rows.values())))


def energy_inputs(results: Sequence[Result]) -> Table:
    """Every input of the energy tables that the results used."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for result in results:
        for name, q in result.energy_table.inputs.items():
            rows[result.energy_table.label, name] = {
                "input": name,
                "value": f"{q.as_float():.6g}",
                "unit": q.unit,
                "scope": q.scope,
                "kind": q.kind,
                "source": q.source,
            }
    return Table.of(pd.DataFrame(list(rows.values())))


def footer(results: Sequence[Result]) -> str:
    """Which software made the runs."""
    versions = _listing(str(r.run.manifest["versions"].get("gempim", "unknown")) for r in results)
    return f"gempim {versions}. {len(results)} runs. Simulated, not measured; see Methods for what is not modelled."

"""What a report says: its tables and sentences, made from results. No markup here; the templates have that."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd

from gempim.analysis.cost import cost_band
from gempim.analysis.energy import inside
from gempim.analysis.result import Result
from gempim.analysis.selection import bits_per_weight, systems_of
from gempim.analysis.table import KEYS, headline, markdown, si, significant
from gempim.analysis.validation import Outcome

_NUMBER = re.compile(r"^[^\w-]{0,4}(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?: ?([KMBT]))?(?=$|[ x%±])")
_LIFTED = ("model", "quant", "threads", "batch", "test")
_GROUPED = ("model", "quant", "batch", "test")
_NARROW = ("model", "run", "case")
_SI = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_WRAP = ("source", "reason", "formula", "claim", "scope", "about", "note", "versions", "sha256")


class Cell(NamedTuple):
    """Text of a cell, the number by which it sorts (None: by its text), and classes that say what it is."""

    text: str
    sort: float | None
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table of texts, ready for HTML and Markdown.

    `heads` are headings over several columns with their widths; `starts` are the rows that begin a group.
    """

    columns: list[str]
    rows: list[list[Cell]]
    numeric: list[str]
    wrap: list[str]
    markdown: str
    caption: str = ""
    heads: tuple[tuple[str, int], ...] = ()
    starts: frozenset[int] = frozenset()

    @classmethod
    def of(cls, frame: pd.DataFrame, caption: str = "") -> Table:
        """From a frame of texts; a column of numbers is numeric."""
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
        return cls(columns, rows, numeric, wrap, markdown(frame) if columns else "", caption)

    def captioned(self, text: str) -> Table:
        """With a sentence before its caption."""
        return replace(self, caption=f"{text} {self.caption}".strip())

    def kind(self, column: str) -> str:
        """What stands in a column, as a class."""
        narrow = "narrow" if column in _NARROW else ""
        return "num" if column in self.numeric else "wrap" if column in self.wrap else narrow

    def grouped(self, by: Sequence[str]) -> Table:
        """With a group for each run of rows that agree in the columns `by`, where what repeats is marked as such."""
        places = [self.columns.index(name) for name in by if name in self.columns]
        rows, starts = [], set()
        for i, row in enumerate(self.rows):
            before = self.rows[i - 1] if i else []
            again = [
                bool(before) and all(before[q].text == row[q].text for q in places[: n + 1]) for n in range(len(places))
            ]
            if not before or not all(again):
                starts.add(i)
            marked = {place for place, same in zip(places, again, strict=True) if same}
            rows.append([cell._replace(kind="again") if n in marked else cell for n, cell in enumerate(row)])
        return replace(self, rows=rows, starts=frozenset(starts))


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


def in_order(results: Sequence[Result], baseline: str | None) -> list[Result]:
    """Results by model, bit width, batch and threads, so that what compares stands together, the baseline first."""
    models = list(dict.fromkeys(r.run.experiment["model"]["name"] for r in results))
    systems = systems_of(results, baseline)

    def place(result: Result) -> tuple[object, ...]:
        workload = result.run.experiment["workload"]
        model = result.run.experiment["model"]
        where = (models.index(model["name"]), bits_per_weight(result), model["quant"], workload["batch"])
        return (*where, workload["threads"], workload["context"], systems.index(result.run.system))

    return sorted(results, key=place)


def headline_table(frame: pd.DataFrame, results: Sequence[Result], baseline: str | None) -> Table:
    """The llama-bench-shaped table, rows that compare together; on a page, what is equal in all rows is its caption.

    `results` are in the order of `in_order`.
    """
    rows = {(str(run), str(test)): i for i, (run, test) in enumerate(zip(frame["run"], frame["test"], strict=True))}
    models = list(dict.fromkeys(r.run.experiment["model"]["name"] for r in results))
    first: dict[tuple[object, ...], int] = {}
    keyed = []
    for result in results:
        for phase in result.phases:
            if (result.run.name, phase.test) not in rows:
                continue  # merged into another run's row, of which it is a repeat
            workload, model = result.run.experiment["workload"], result.run.experiment["model"]
            key = (models.index(model["name"]), model["quant"], workload["batch"], workload["threads"], phase.test)
            keyed.append((first.setdefault(key, len(first)), rows[result.run.name, phase.test]))
    order = [row for _, row in sorted(keyed, key=lambda pair: pair[0])]
    ordered = frame.iloc[order]
    ordered.attrs.update(frame.attrs)
    full = headline(ordered)
    sizes = {
        (m, q): (s, p) for m, q, s, p in zip(full["model"], full["quant"], full["size"], full["params"], strict=True)
    }
    about = "; ".join(
        f"{model}: {next(p for (m, _), (_, p) in sizes.items() if m == model)} parameters, "
        + ", ".join(f"{size} as {quant}" for (m, quant), (size, _) in sizes.items() if m == model)
        for model in models
    )
    same = [c for c in _LIFTED if len(full) > 1 and full[c].nunique() == 1]
    caption = f"{about}." + (" All rows: " + ", ".join(f"{c} {full[c].iloc[0]}" for c in same) + "." if same else "")
    lead = [c for c in ("model", "quant", "batch", "test", "threads", *full.columns) if c in full]
    front = list(dict.fromkeys([*lead, *full.columns]))
    wanted = [c for c in front if c not in ("size", "params", *same)]
    if "speedup" in wanted:
        # Beside the rate that it is of, where it needs no scrolling.
        wanted.remove("speedup")
        wanted.insert(wanted.index("t/s") + 1, "speedup")
    if "J/token vs base" in wanted:
        wanted.remove("J/token vs base")
        wanted.insert(wanted.index("J/token") + 1, "J/token vs base")
    table = Table.of(full[wanted], caption).grouped(_GROUPED)
    return replace(table, rows=[_judged(table, row, baseline) for row in table.rows], markdown=markdown(full))


def _judged(table: Table, row: list[Cell], baseline: str | None) -> list[Cell]:
    """Marks what the baseline is, and ratios on the wrong side of one."""
    worse = {"speedup": -1.0, "J/token vs base": 1.0, "tokens/$ vs base": -1.0}
    out = []
    for name, cell in zip(table.columns, row, strict=True):
        sign = worse.get(name)
        if sign is not None and cell.sort is not None and (cell.sort - 1) * sign > 0:
            cell = cell._replace(kind="worse")
        elif name == "system" and cell.text == baseline:
            cell = cell._replace(kind="base")
        out.append(cell)
    return out


def energy_parts(results: Sequence[Result], names: Sequence[str]) -> Table:
    """Joules per token, one row a run and phase, one column a component under the part of the machine that it is of."""
    parts = {(i, phase.label): phase.j_per_token_by_component() for i, r in enumerate(results) for phase in r.phases}
    present = dict.fromkeys(name for part in parts.values() for name in part)
    machine = list(dict.fromkeys(name.partition(".")[0] for name in present))
    columns = [name for part in machine for name in present if name.partition(".")[0] == part]
    rows = []
    for i, result in enumerate(results):
        for phase in result.phases:
            part = parts[i, phase.label]
            total = (">= " if phase.energy.is_lower_bound else "") + significant(phase.j_per_token)
            cells = {name: significant(part[name]) if name in part else "–" for name in columns}
            rows.append({"case": names[i], "test": phase.test, "total": total, **cells})
    table = Table.of(pd.DataFrame(rows), "Joules per token.")
    widths = [(part, sum(name.partition(".")[0] == part for name in columns)) for part in machine]
    short = [name.partition(".")[2] or name if name in columns else name for name in table.columns]
    numeric = [s for s, name in zip(short, table.columns, strict=True) if name in table.numeric]
    return replace(table, columns=short, numeric=numeric, heads=(("", 3), *widths))


def _lifted(frame: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """Without the columns `names` that are equal in all rows, which become a caption."""
    same = [c for c in names if len(frame) > 1 and frame[c].nunique() == 1]
    caption = "All rows: " + "; ".join(f"{c} {frame[c].iloc[0]}" for c in same) + "." if same else ""
    return frame.drop(columns=same), caption


def cost_table(results: Sequence[Result], names: Sequence[str]) -> Table:
    """Price, formula and cost of each run and phase."""
    rows = []
    for name, result in zip(names, results, strict=True):
        for phase in result.phases:
            rows.append(
                {
                    "case": name,
                    "test": phase.test,
                    "$/1M tokens": significant(phase.usd_per_million_tokens),
                    "tokens/$": si(phase.tokens_per_usd),
                    "USD/h": f"{result.hourly.usd_per_hour:.4g}",
                    "utilisation": f"{result.utilisation:g}",
                    "formula": result.hourly.formula,
                    "price": result.hourly.price.key,
                    "entered": result.hourly.price.date,
                }
            )
    return Table.of(*_lifted(pd.DataFrame(rows), ("utilisation", "test", "entered")))


def cost_model(results: Sequence[Result]) -> list[str]:
    """The cost model with its numbers, as sentences."""
    table = results[0].price_table
    area, share = table.area_overhead, table.silicon_price_share
    dates = _listing(sorted({r.hourly.price.date for r in results}))
    shares = _listing(sorted({f"{r.utilisation:g}" for r in results}))
    return [
        f"Dollars per million tokens = price per hour / (tokens/s * 3600 * utilisation) * 10⁶. Prices as entered on "
        f"{dates}. Utilisation, the share of the paid time in which tokens are made, is {shares}"
        + (" (the default: all of it; services are often said to reach 0.3 to 0.7)." if shares == "1" else "."),
        "The price of a run is its instance's, prorated by the cores of the simulated system: a run has its socket's "
        "whole memory bandwidth and cache, so it pays for all of it. GPUs are not prorated.",
        f"A system with PIM pays its host's price times 1 + {area.as_float():g} * {share.as_float():g} = "
        f"{1 + area.as_float() * share.as_float():g}: area overhead ({area.source}) times the share of a price that is "
        f"silicon ({share.source}). The area is amortised as its host is, by the hour of rent; design, masks and yield "
        "are not in it.",
    ]


def band_table(results: Sequence[Result], names: Sequence[str], frame: pd.DataFrame) -> Table:
    """Dollars per million tokens over utilisation and price, and the price at which a system costs as its baseline."""
    found = {(str(row["run"]), str(row["test"])): row for row in frame.to_dict("records")}
    rows = []
    for name, result in zip(names, results, strict=True):
        for phase in result.phases:
            row = found[result.run.name, phase.test]
            cells = {"case": name, "test": phase.test}
            for cell in cost_band(float(row["tokens_per_s"]), result.hourly.usd_per_hour):
                cells[cell.title] = significant(cell.usd_per_million_tokens)
            if "tokens_per_usd_ratio" in row:
                cells["break-even price"] = f"{significant(row['tokens_per_usd_ratio'])}x"
            rows.append(cells)
    caption = (
        "Dollars per million tokens: u is the utilisation, at the price of the table above; then half and twice that "
        "price, all of the paid time used."
    )
    if "tokens_per_usd_ratio" in frame:
        caption += " Break-even price: how many times its price a system may cost until its tokens cost the baseline's."
    return Table.of(*_lifted(pd.DataFrame(rows), ("test",))).captioned(caption)


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
    return Table.of(*_lifted(pd.DataFrame(rows), ("engine", "versions", "CPU calibration")))


def methods(
    results: Sequence[Result],
    baseline: str | None,
    match: Sequence[str],
    extra_keys: Sequence[str] = (),
    repeats: Sequence[str] = (),
) -> list[str]:
    """How the figures came about, from what the runs say of themselves."""
    engines = _listing(sorted({str(r.run.experiment["engine"]) for r in results}))
    versions = {f"{name} {v}" for r in results for name, v in r.run.manifest["versions"].items()}
    dates = sorted(str(r.run.manifest["created"])[:10] for r in results)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    out = [
        f"{len(results)} runs by engine {engines}, {when}, with {', '.join(sorted(versions))}. The commands below make "
        "them again; a run's name ends with the hash of its resolved experiment.",
        "Tokens per second are tokens over simulated time. Energy is event counts times the energy tables below; "
        + ("; ".join(dict.fromkeys(f"{r.run.system}: {r.energy_table.label}" for r in results)))
        + ".",
    ]
    if baseline is not None:
        out.append(f"Ratios are to the row of {baseline} with the same {', '.join(match)}.")
    out.append(
        f"Rows are told apart by {', '.join([*KEYS, *extra_keys])}. "
        + (f"Runs that differ in {', '.join(repeats)} only are repeats: their mean is shown. " if repeats else "")
        + "Runs that differ in anything else are an error and are not averaged."
    )
    return out


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

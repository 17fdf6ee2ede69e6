"""The report of serving runs: one page, the table as Markdown, CSV and JSON, operators, and figure files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from gempim.analysis.energy import boundary
from gempim.analysis.plots import serving as plots
from gempim.analysis.plots.figure import Plot
from gempim.analysis.report.content import Table
from gempim.analysis.report.serving_intervals import cases_of, interval_table, summary_table
from gempim.analysis.serving.repeats import METHOD
from gempim.analysis.serving.result import ServeResult
from gempim.analysis.serving.table import frame as table_frame
from gempim.analysis.serving.table import markdown, mean_ratio, records, texts
from gempim.analysis.table import interval_of, si, significant
from gempim.analysis.uncertainty import DIGITS, ends, plus_minus, rounded
from gempim.quantity import DataError

SCHEMA = 1
"""Schema version of report.json."""


def write_serve_report(
    results: Sequence[ServeResult],
    out_dir: str | Path,
    *,
    baseline: str | None = None,
    extra_keys: Sequence[str] = (),
    repeats: Sequence[str] = (),
    png: bool = True,
) -> Path:
    """Write ``report.html``, ``.md``, ``.csv``, ``.json``, ``operators.csv`` and ``plots/`` into `out_dir`.

    `baseline` is the label of a system (``gpu-h100 x4``) to whose runs the others are compared; `extra_keys` and
    `repeats` are dotted manifest keys, columns of the table and those of which repeated runs become one row (see
    `table.frame`). Returns the path of ``report.html``, which needs none of the other files. Raises DataError for no
    results and what `frame` raises.
    """
    if not results:
        raise DataError("a report needs at least one run")
    folder = Path(out_dir)
    rows = table_frame(results, baseline, extra_keys, repeats)
    # Bars and lists show every repeat; only the tables of results and the means over rates have them as one.
    every_key = (*extra_keys, *repeats)
    figures: dict[str, list[Plot | None]] = {
        "throughput": [plots.throughput_bars(results, extra_keys, repeats)],
        "latency": [plots.latency_by_qps(results, extra_keys, repeats)],
        "time": [plots.time_bars(results, every_key)],
        "experts": [plots.expert_load(results, every_key)],
        "roofline": [plots.op_b_roofline(results)],
        "energy": [plots.energy_bars(results, every_key)],
    }
    groups = {name: [plot for plot in found if plot is not None] for name, found in figures.items()}
    every = [plot for group in groups.values() for plot in group]
    operators = _operators(results)
    warnings = list(dict.fromkeys(w for r in results for w in r.warnings))
    names = [plots.case_name(r, results, every_key) for r in results]
    # Of repeats, the one whose name the row has stands for all.
    by_name = {r.run.name: r for r in results}
    shown = [by_name[name] for name in rows["run"]]
    cases = [plots.case_name(r, shown, extra_keys) for r in shown]
    context: dict[str, Any] = {
        "title": f"Serving: {', '.join(plots.labels_of(results))}",
        "lead": _lead(rows, baseline),
        "warnings": warnings,
        "headline": Table.of(texts(rows)),
        "summary": summary_table(rows) if baseline is not None else None,
        "uncertainty": interval_table(rows, cases) if (rows["repeats"] > 1).any() else None,
        "uncertainty_method": METHOD,
        "stages": Table.of(_stages(results, names)),
        "operators": Table.of(_operator_texts(operators)),
        "energy_table": Table.of(_energy(results, names), "Millijoules a token."),
        "boundaries": list(dict.fromkeys(boundary(r.energy_table, r.energy) for r in results)),
        "cost_table": Table.of(_cost(results, names)),
        "runs": Table.of(_runs(results)),
        "commands": list(dict.fromkeys(shlex.join(map(str, r.run.manifest["command"])) for r in results)),
        "choices": Table.of(_choices(results)),
        "energy_inputs": Table.of(_inputs(results)),
        "not_modelled": list(dict.fromkeys(n for r in results for n in r.run.manifest["not_modelled"])),
        "footer": f"{len(results)} runs. Simulated, not measured; see Methods for what is not modelled.",
        **groups,
    }
    folder.mkdir(parents=True, exist_ok=True)
    page = _write(folder / "report.html", _render(context))
    _write(folder / "report.md", _markdown(context, rows))
    _write(folder / "report.csv", rows.to_csv(index=False, lineterminator="\n"))
    _write(folder / "operators.csv", operators.to_csv(index=False, lineterminator="\n"))
    document = {
        "schema": SCHEMA,
        "title": context["title"],
        "baseline": baseline,
        "warnings": warnings,
        "table": records(rows),
        "results": [r.to_json() for r in results],
    }
    _write(folder / "report.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    for plot in every:
        _save(plot, folder / "plots", png)
    return page


def _lead(rows: pd.DataFrame, baseline: str | None) -> list[str]:
    if baseline is None or "speedup" not in rows:
        top = rows.loc[rows["tokens_per_s"].idxmax()]
        found = interval_of(top, "tokens_per_s")
        return [
            f"{top['system']} x{top['devices']} makes up to"
            f" {plus_minus(top['tokens_per_s'], None if found is None else found.half)} tokens a second on"
            f" {top['model']}."
        ]
    out = []
    for name, of in cases_of(rows).items():
        own = rows.iloc[of]
        mean, found = mean_ratio(rows, of, "speedup")
        sure = "" if found is None else f", 95 % interval {ends(found)}"
        said = [
            f"{name}: {_span(own['speedup'])} the tokens a second of {baseline} (geometric mean"
            f" {rounded(mean, None if found is None else found.half, DIGITS)}x{sure})"
        ]
        for ratio, what in (("tbt_p50_ratio", "median time between tokens"), ("j_per_token_ratio", "energy a token")):
            if own[ratio].notna().all():
                said.append(f"{what} {_span(own[ratio])} of it")
        out.append(", ".join(said) + ".")
    return out


def _span(values: pd.Series) -> str:
    low, high = significant(float(values.min())), significant(float(values.max()))
    return f"{low}x" if low == high else f"{low}x to {high}x"


def _stages(results: Sequence[ServeResult], names: Sequence[str]) -> pd.DataFrame:
    rows = []
    for name, r in zip(names, results, strict=True):
        for kind, total in r.run.totals["stages"].items():
            rows.append(
                {
                    "case": name,
                    "stages of kind": kind,
                    "stages": f"{total['stages']}",
                    "ms a stage": significant(total["time_ps"] / total["stages"] * 1e-9),
                    "mean batch": significant(total["mean_batch"]),
                    "tokens made": f"{total['tokens']}",
                    "prompt tokens": f"{total['prompt_tokens']}",
                }
            )
    return pd.DataFrame(rows)


def _operators(results: Sequence[ServeResult]) -> pd.DataFrame:
    rows = []
    for r in results:
        for part in r.run.parts:
            for op in part.operators:
                rows.append(
                    {
                        "run": r.run.name,
                        "system": r.run.label(),
                        "stage": part.stage,
                        "layer": part.layer,
                        "operator": op.name,
                        "unit": op.unit,
                        "count": op.count,
                        "time_ps": op.time_ps,
                        "busy_ps": op.busy_ps,
                        "ops": op.ops,
                        "memory_bytes": op.bytes,
                        "op_per_byte": op.ops / op.bytes if op.bytes else float("nan"),
                    }
                )
    return pd.DataFrame(rows)


MAX_OPERATORS = 400
"""The page lists at most so many operators; operators.csv has all."""


def _operator_texts(rows: pd.DataFrame) -> pd.DataFrame:
    shown = rows.head(MAX_OPERATORS)
    return pd.DataFrame(
        {
            "case": shown["system"],
            "stage": shown["stage"],
            "layer": shown["layer"],
            "operator": shown["operator"],
            "unit": shown["unit"],
            "time": [f"{significant(ps * 1e-9)} ms" for ps in shown["time_ps"]],
            "busy": [f"{significant(ps * 1e-9)} ms" for ps in shown["busy_ps"]],
            "Op/B": [significant(v) for v in shown["op_per_byte"]],
        }
    )


def _energy(results: Sequence[ServeResult], names: Sequence[str]) -> pd.DataFrame:
    rows = []
    for name, r in zip(names, results, strict=True):
        for layer, parts in r.j_per_token_by_layer().items():
            for component, joules in parts.items():
                rows.append({"case": name, "layer": layer, "part": component, "mJ/token": significant(joules * 1e3)})
    return pd.DataFrame(rows)


def _cost(results: Sequence[ServeResult], names: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "case": name,
                "$/1M tokens": significant(r.usd_per_million_tokens),
                "tokens/$": si(r.tokens_per_usd),
                "USD/h": f"{r.usd_per_hour:.4g}",
                "utilisation": f"{r.utilisation:g}",
                "formula": r.price_formula,
                "entered": r.price_table.prices[str(r.run.experiment["price_key"])].date,
            }
            for name, r in zip(names, results, strict=True)
        ]
    )


def _runs(results: Sequence[ServeResult]) -> pd.DataFrame:
    rows = []
    for r in results:
        m, p = r.run.manifest, r.run.manifest["placement"]
        rows.append(
            {
                "run": r.run.name,
                "placement": f"{p['nodes']} x {p['devices_per_node']} devices, tensor {p['tensor_parallel']}, data "
                f"{p['data_parallel']}, experts {p['expert_groups']} groups of {p['expert_slices']}",
                "KV capacity [tokens/node]": f"{p['capacity_tokens_per_node']}",
                "most batch": f"{r.run.totals['most_batch']}",
                "host time": f"{m['wall_seconds']:.1f} s",
                "energy table": r.energy_table.label,
                "created": m["created"],
            }
        )
    return pd.DataFrame(rows)


def _choices(results: Sequence[ServeResult]) -> pd.DataFrame:
    rows = {}
    for r in results:
        for choice in r.run.manifest["choices"]:
            row = {k: str(choice.get(k, "")) for k in ("key", "value", "unit", "kind", "source")}
            rows[row["key"], row["value"]] = row
    return pd.DataFrame(list(rows.values()))


def _inputs(results: Sequence[ServeResult]) -> pd.DataFrame:
    rows = {}
    for r in results:
        for name, q in r.energy_table.inputs.items():
            rows[r.energy_table.label, name] = {
                "input": name,
                "value": f"{q.as_float():.6g}",
                "unit": q.unit,
                "scope": q.scope,
                "kind": q.kind,
                "source": q.source,
            }
    return pd.DataFrame(list(rows.values()))


def _markdown(context: dict[str, Any], rows: pd.DataFrame) -> str:
    parts = [
        f"# {context['title']}",
        *context["lead"],
        markdown(rows),
        *(["## By system", context["summary"].markdown] if context["summary"] else []),
        *(["## 95 % intervals", context["uncertainty"].markdown] if context["uncertainty"] else []),
        context["uncertainty_method"],
        "## Before you quote a number" if context["warnings"] else "",
        "\n".join(f"- {w}" for w in context["warnings"]),
        "## Stages",
        context["stages"].markdown,
        "## Energy by layer kind and part [mJ/token]",
        context["energy_table"].markdown,
        *context["boundaries"],
        "## Cost",
        context["cost_table"].markdown,
        "## Runs",
        context["runs"].markdown,
        "\n".join(f"    {c}" for c in context["commands"]),
        "## Not modelled",
        "\n".join(f"- {n}" for n in context["not_modelled"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _render(context: dict[str, Any]) -> str:
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html", "html.j2")),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    page = {name: (here / f"report.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    return environment.get_template("serving.html.j2").render({**context, **page})


def _write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def _save(plot: Plot, folder: Path, png: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if png:
        plot.save(folder, "png")
    plot.save(folder, "svg")

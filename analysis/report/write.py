"""Writing a report from results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from gempim.analysis import plots
from gempim.analysis.llama_bench import Measured
from gempim.analysis.plots import Plot
from gempim.analysis.report import content
from gempim.analysis.report.intervals import summary_table, uncertainty_table
from gempim.analysis.report.lead import cards, lead
from gempim.analysis.report.measured import measured_table
from gempim.analysis.report.operators import MAX_RUNS, operator_rows, operator_texts
from gempim.analysis.result import Result
from gempim.analysis.roofline import above_roof
from gempim.analysis.selection import labels, select
from gempim.analysis.table import MATCH_KEYS, compare, render_table, tidy
from gempim.analysis.uncertainty import METHOD
from gempim.analysis.validation import Outcome
from gempim.quantity import DataError

SCHEMA = 1
"""Schema version of report.json."""


def write_report(
    results: Sequence[Result],
    out_dir: str | Path,
    *,
    baseline: str | None = None,
    match: Sequence[str] = MATCH_KEYS,
    extra_keys: Sequence[str] = (),
    sensitivity: pd.DataFrame | None = None,
    validation: Sequence[Outcome] = (),
    repeats: Sequence[str] = (),
    measured: Sequence[Measured] = (),
    title: str | None = None,
    png: bool = True,
) -> Path:
    """Write ``report.html``, ``.md``, ``.csv``, ``.json``, ``operators.csv`` and ``plots/`` into `out_dir`.

    The folder is made when it is missing.
    Returns the path of ``report.html``, which needs none of the other files.

    `baseline` is the system to which the others are compared (see `table.compare` for `match` and `extra_keys`);
    `sensitivity` is a frame as `plots.sensitivity_plot` takes it; `validation` are outcomes of `validation.check`;
    `repeats` are keys in which repeated runs differ (see `table.tidy`); `measured` are rates of real machines
    (`llama_bench.load_llama_bench`), which stand beside the simulated ones and in ``measured.csv``. With
    `png`, the figures are written as PNG beside SVG. Raises DataError for no results and what `compare` raises.
    """
    if not results:
        raise DataError("a report needs at least one run")
    folder = Path(out_dir)
    frame = (
        compare(results, baseline, match=match, extra_keys=extra_keys, repeats=repeats)
        if baseline
        else tidy(results, extra_keys, repeats)
    )
    # Figures and lists show every repeat; only the tables of results have their mean.
    table_keys, extra_keys = extra_keys, (*extra_keys, *repeats)
    warnings = list(dict.fromkeys(w for r in results for w in (*r.warnings, *above_roof(r))))
    groups = _figures(results, baseline, match, extra_keys, sensitivity)
    every = [plot for group in groups.values() for plot in group]
    ordered = content.in_order(results, baseline)
    names = labels(ordered, extra_keys)
    # Of repeats, the one whose name the row has stands for all.
    shown = [r for r in ordered if r.run.name in set(frame["run"])]
    shown_names = labels(shown, table_keys)
    rows = operator_rows(ordered[:MAX_RUNS], extra_keys)
    context: dict[str, Any] = {
        "title": title or content.title(results),
        "lead": lead(frame, baseline, results),
        "cards": cards(frame, baseline),
        "warnings": warnings,
        "headline": content.headline_table(frame, ordered, baseline),
        "energy_table": content.energy_parts(ordered, names),
        "summary": summary_table(frame, baseline) if baseline else None,
        "uncertainty": uncertainty_table(frame, shown, shown_names),
        "uncertainty_method": METHOD,
        "measured": measured_table(frame, measured) if measured else None,
        "boundaries": content.boundaries(results),
        "operators": content.Table.of(operator_texts(rows), _operators_note(results)),
        "cost_table": content.cost_table(ordered, names),
        "cost_model": content.cost_model(results),
        "band": content.band_table(shown, shown_names, frame),
        "std_of": "repeated runs (or decode steps)" if repeats else "decode steps",
        "prices": content.prices_table(results),
        "validation": content.validation_table(validation) if validation else None,
        "methods": content.methods(results, baseline, match, table_keys, repeats),
        "runs": content.runs_table(results),
        "commands": list(dict.fromkeys(content.command(r) for r in results)),
        "tables": content.tables_table(results),
        "choices": content.choices_table(results),
        "energy_inputs": content.energy_inputs(results),
        "not_modelled": list(dict.fromkeys(n for r in results for n in r.run.manifest.get("not_modelled", []))),
        "footer": content.footer(results),
        "plots": every,
        **groups,
    }
    folder.mkdir(parents=True, exist_ok=True)
    page = _write(folder / "report.html", _render("report.html.j2", context))
    _write(folder / "report.md", _render("report.md.j2", context))
    _write(folder / "report.csv", render_table(frame, "csv"))
    _write(folder / "report.json", _json(results, frame, warnings, context["title"], baseline, validation, measured))
    if measured:
        _write(
            folder / "measured.csv", pd.DataFrame([m.row() for m in measured]).to_csv(index=False, lineterminator="\n")
        )
    every_row = rows if len(ordered) <= MAX_RUNS else operator_rows(ordered, extra_keys)
    _write(folder / "operators.csv", every_row.to_csv(index=False, lineterminator="\n"))
    for plot in every:
        _save(plot, folder / "plots", png)
    return page


def _operators_note(results: Sequence[Result]) -> str:
    left = f"The first {MAX_RUNS} of {len(results)} runs; operators.csv has all. " if len(results) > MAX_RUNS else ""
    return f"{left}Time per token; operators.csv has the same with every digit."


def _figures(
    results: Sequence[Result],
    baseline: str | None,
    match: Sequence[str],
    extra_keys: Sequence[str],
    sensitivity: pd.DataFrame | None,
) -> dict[str, list[Plot]]:
    phases = [label for label in ("decode", "prefill") if any(p.label == label for r in results for p in r.phases)]
    shown = [select(results, label, match=match, extra_keys=extra_keys, baseline=baseline) for label in phases]
    throughput = [
        plots.throughput_by(results, axis, label, match=match, extra_keys=extra_keys, baseline=baseline)
        for label in phases[:1]
        for axis in ("quant", "batch")
    ]
    return {
        "throughput": [plot for plot in throughput if plot is not None],
        "time": [plots.time_breakdown(selection) for selection in shown],
        "energy": [plots.energy_breakdown(selection) for selection in shown],
        "roofline": [plots.roofline(selection) for selection in shown],
        "cost": [make(selection) for selection in shown for make in (plots.cost_bars, plots.cost_band_plot)],
        "sensitivity": [] if sensitivity is None else [plots.sensitivity_plot(sensitivity)],
    }


def _render(name: str, context: dict[str, Any]) -> str:
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html", "html.j2")),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    style = {name: (here / f"report.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    return environment.get_template(name).render({**context, **style})


def _json(
    results: Sequence[Result],
    frame: pd.DataFrame,
    warnings: list[str],
    title: str,
    baseline: str | None,
    validation: Sequence[Outcome],
    measured: Sequence[Measured],
) -> str:
    document = {
        "schema": SCHEMA,
        "title": title,
        "baseline": baseline,
        "warnings": warnings,
        "table": json.loads(render_table(frame, "json")),
        "results": [result.to_json() for result in results],
        "validation": [outcome.to_json() for outcome in validation],
        "measured": [m.row() for m in measured],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def _save(plot: Plot, folder: Path, png: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if png:
        plot.save(folder, "png")
    plot.save(folder, "svg")

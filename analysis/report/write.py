"""Writing a report from results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from gempim.analysis import plots
from gempim.analysis.plots import Plot
from gempim.analysis.report import content
from gempim.analysis.result import Result
from gempim.analysis.roofline import above_roof
from gempim.analysis.table import MATCH_KEYS, compare, render_table, tidy
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
    title: str | None = None,
    png: bool = True,
) -> Path:
    """Write ``report.html``, ``.md``, ``.csv``, ``.json`` and ``plots/`` into `out_dir` (made when missing).

    Returns the path of ``report.html``, which needs none of the other files.

    `baseline` is the system to which the others are compared (see `table.compare` for `match` and `extra_keys`);
    `sensitivity` is a frame as `plots.sensitivity_plot` takes it; `validation` are outcomes of `validation.check`.
    With `png`, the figures are written as PNG beside SVG. Raises DataError for no results and what `compare` raises.
    """
    if not results:
        raise DataError("a report needs at least one run")
    folder = Path(out_dir)
    frame = compare(results, baseline, match=match, extra_keys=extra_keys) if baseline else tidy(results, extra_keys)
    warnings = list(dict.fromkeys(w for r in results for w in (*r.warnings, *above_roof(r))))
    groups = _figures(results, sensitivity)
    every = [plot for group in groups.values() for plot in group]
    context: dict[str, Any] = {
        "title": title or content.title(results),
        "lead": content.lead(frame, baseline),
        "cards": content.cards(frame, baseline),
        "warnings": warnings,
        "headline": content.headline_table(frame),
        "energy_table": content.energy_parts(results),
        "boundaries": content.boundaries(results),
        "operators": content.Table.of(plots.operator_table(results, _operator_phase(results))),
        "cost_table": content.cost_table(results),
        "prices": content.prices_table(results),
        "validation": content.validation_table(validation) if validation else None,
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
    _write(folder / "report.json", _json(results, frame, warnings, context["title"], baseline, validation))
    for plot in every:
        _save(plot, folder / "plots", png)
    return page


def _operator_phase(results: Sequence[Result]) -> str:
    return "decode" if any(r.decode for r in results) else "prefill"


def _figures(results: Sequence[Result], sensitivity: pd.DataFrame | None) -> dict[str, list[Plot]]:
    phases = [label for label in ("decode", "prefill") if any(p.label == label for r in results for p in r.phases)]
    throughput = [plots.throughput_by(results, axis, label) for label in phases[:1] for axis in ("quant", "batch")]
    return {
        "throughput": [plot for plot in throughput if plot is not None],
        "time": [plots.time_breakdown(results, label) for label in phases],
        "energy": [plots.energy_breakdown(results, label) for label in phases],
        "roofline": [plots.roofline(results, label) for label in phases],
        "cost": [plots.cost_bars(results, label) for label in phases],
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
) -> str:
    document = {
        "schema": SCHEMA,
        "title": title,
        "baseline": baseline,
        "warnings": warnings,
        "table": json.loads(render_table(frame, "json")),
        "results": [result.to_json() for result in results],
        "validation": [outcome.to_json() for outcome in validation],
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

"""Where a number comes from: the formula, the formula with its numbers, the counts, the rows and their sources."""

from __future__ import annotations

from gempim.analysis.cost import SECONDS_PER_HOUR
from gempim.analysis.energy import EnergyItem, EnergyTable
from gempim.analysis.formula import names_in, with_numbers
from gempim.analysis.result import PS_PER_S, Phase, Result
from gempim.analysis.table import significant
from gempim.analysis.uncertainty import Error, ends


def explain(result: Result) -> str:
    """Markdown that derives tokens/s, J/token, $/1M tokens and tokens/$ of a result of `evaluate`."""
    lines = [f"# {result.run.name}", ""]
    for phase in result.phases:
        lines += [f"## {phase.label}: {phase.test}", ""]
        lines += [*_rate(result, phase), *_energy(result, phase), *_cost(result, phase)]
    lines += ["## Boundary", "", result.boundary, ""]
    if result.warnings:
        lines += ["## Warnings", "", *(f"- {warning}" for warning in result.warnings), ""]
    return "\n".join(lines)


def _rate(result: Result, phase: Phase) -> list[str]:
    rois = result.run.rois_of(phase.label)
    lines = [
        "### Tokens per second",
        "",
        "    tokens_per_s = tokens / simulated time",
        f"                 = {phase.tokens} / {phase.sim_ps / PS_PER_S:.6g} s",
        f"                 = {phase.tokens_per_s:.6g}",
        "",
        _interval(phase.rate_error, phase.tokens_per_s),
        "",
        f"tokens: {len(rois)} regions of interest in roi.jsonl x {rois[0].tokens} tokens each"
        + (f" (batch {rois[0].batch})" if rois[0].batch > 1 else "")
        + "; time: their sim_ps, which is the sum of their operators:",
        "",
        "| operator | time | share |",
        "| --- | ---: | ---: |",
    ]
    for name, ps in sorted(phase.time_ps_by_operator.items(), key=lambda item: -item[1]):
        lines.append(f"| {name} | {ps / 1e9:.6g} ms | {ps / phase.sim_ps * 100:.1f} % |")
    return [*lines, ""]


def _interval(error: Error, value: float) -> str:
    """The 95 % interval and what it comes from, as `uncertainty` has it."""
    if error.half is None:
        return f"95 % interval: not known (relative errors: {error.text()})."
    parts = " and ".join(f"{part * 100:.3g} % ({name})" for name, part in error.parts.items() if part is not None)
    return f"95 % interval: {ends(error.of(value))}; relative half-width {error.half * 100:.3g} %, of {parts}."


def _energy(result: Result, phase: Phase) -> list[str]:
    table = result.energy_table
    lines = [
        "### Joules per token",
        "",
        "    j_per_token = sum over rows (count x energy per count) / tokens",
        f"                = {phase.energy.text()} / {phase.tokens} = {phase.j_per_token:.6g}",
        "",
        *([] if phase.energy.is_lower_bound else [_interval(phase.energy_error, phase.j_per_token), ""]),
        f"Energy table {table.label}; counts from stats.txt, added over the regions of interest.",
        "",
        "| row | count | energy per count | J | formula | with numbers | scope, node | source |",
        "| --- | ---: | ---: | ---: | --- | --- | --- | --- |",
    ]
    for item in sorted(phase.energy.items, key=lambda i: -(i.joules if i.joules is not None else float("inf"))):
        lines.append(_energy_row(item, table))
    formulas = [item.row.formula for item in phase.energy.items if item.row.formula is not None]
    return [*lines, "", "Inputs of these formulas:", "", *_inputs(formulas, table), ""]


def _inputs(formulas: list[str], table: EnergyTable) -> list[str]:
    """Every input that the formulas need, those that follow from other inputs with their own formula."""
    waiting, used = list(formulas), dict[str, None]()
    while waiting:
        names = names_in(waiting.pop(0), table.name)
        waiting += [table.formulas[name] for name in names if name not in used and name in table.formulas]
        used.update(dict.fromkeys(names))
    lines = []
    for name in used:
        q = table.inputs[name]
        how = ""
        if name in table.formulas:
            formula = table.formulas[name]
            how = f"{formula} = {with_numbers(formula, table.numbers, name)} = "
        lines.append(f"- {name} = {how}{q.as_float():.6g} {q.unit} ({q.scope}; {q.kind}): {q.source}")
    return lines


def _energy_row(item: EnergyItem, table: EnergyTable) -> str:
    row = item.row
    formula, numbers = row.formula or "–", "–"
    if row.formula is not None:
        numbers = with_numbers(row.formula, table.numbers, row.name)
    per = "unknown" if row.value is None else f"{row.value:.6g} {row.unit} per {row.per}"
    joules = "unknown" if item.joules is None else f"{item.joules:.6g}"
    stat = " x ".join([row.stat, *row.times])
    cells = (
        f"{row.component}: {stat}",
        f"{item.count:.6g}",
        per,
        joules,
        formula,
        numbers,
        f"{row.scope}, {row.node}",
        row.source,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cost(result: Result, phase: Phase) -> list[str]:
    hourly, price = result.hourly, result.hourly.price
    rate = f"{phase.tokens_per_s:.6g} * {SECONDS_PER_HOUR} * {result.utilisation:g}"
    return [
        "### Dollars",
        "",
        f"    usd_per_hour = {hourly.formula} = {hourly.usd_per_hour:.6g}",
        "    usd_per_million_tokens = usd_per_hour / (tokens_per_s * 3600 * utilisation) * 1e6",
        f"                           = {hourly.usd_per_hour:.6g} / ({rate}) * 1e6",
        f"                           = {phase.usd_per_million_tokens:.6g}",
        "    tokens_per_usd = tokens_per_s * 3600 * utilisation / usd_per_hour",
        f"                   = {rate} / {hourly.usd_per_hour:.6g} = {significant(phase.tokens_per_usd, 6)}",
        "",
        f"Price {price.key} of {price.provider} {price.instance}, {price.region}, {price.date}, {price.status}: "
        f"{price.usd_per_hour.source}. Price table {result.price_table.label}.",
        "",
    ]

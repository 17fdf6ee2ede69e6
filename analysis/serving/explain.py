"""Where the numbers of a serving run come from: formulas with their numbers, table rows, sources."""

from __future__ import annotations

import shlex

from gempim.analysis.cost import SECONDS_PER_HOUR
from gempim.analysis.serving.metrics import Latency
from gempim.analysis.serving.result import PS_PER_S, ServeResult
from gempim.analysis.table import significant


def explain(result: ServeResult) -> str:
    """One serving run as Markdown: rates, latencies, the time of its stages, energy row by row, dollars."""
    run = result.run
    totals = run.totals
    makespan = totals["makespan_ps"] / PS_PER_S
    command = shlex.join(map(str, run.manifest["command"]))
    lines = [
        f"# {run.name}",
        "",
        f"{run.label()} serves {run.experiment['model']['name']}; command: `{command}`",
        "",
        "## Rates",
        "",
        "    tokens_per_s = tokens / time from the start to the last answer",
        f"                 = {result.tokens} / {makespan:.6g} s = {result.tokens_per_s:.6g}",
        f"    requests_per_s = {len(run.requests)} / {makespan:.6g} s = {result.requests_per_s:.6g}",
        "",
        "95 % intervals: not known from one run, which is one sample of arrivals, lengths and routes. Serve with other"
        " seeds and name the key: `gempim report RUN... --repeats experiment.requests.seed`.",
        "",
        "## Latencies",
        "",
        *_latency("TTFT: first token less arrival, requests.csv", result.ttft),
        *_latency("TBT: gaps between tokens of one sequence, gaps.csv", result.tbt),
        *_latency("E2E: last token less arrival, requests.csv", result.e2e),
        "",
        "## Stages",
        "",
        "| stages | number | ms each | mean batch | tokens | prompt tokens |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, total in totals["stages"].items():
        each = significant(total["time_ps"] / total["stages"] * 1e-9)
        lines.append(
            f"| {kind} | {total['stages']} | {each} | {significant(total['mean_batch'])} | {total['tokens']} |"
            f" {total['prompt_tokens']} |"
        )
    lines += [
        "",
        "| stage | operator | unit | count | ms | ms busy | Op/B |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for part in run.parts:
        for op in part.operators:
            op_b = significant(op.ops / op.bytes) if op.bytes else "–"
            lines.append(
                f"| {part.stage} | {op.name} | {op.unit} | {op.count} | {significant(op.time_ps * 1e-9)} |"
                f" {significant(op.busy_ps * 1e-9)} | {op_b} |"
            )
    return "\n".join([*lines, *_energy(result), *_cost(result)]) + "\n"


def _latency(text: str, found: Latency | None) -> list[str]:
    if found is None:
        return [f"- {text}: nothing measured"]
    return [
        f"- {text}, {found.count} values: mean {found.mean_s:.6g} s, p50 {found.p50_s:.6g} s, p90 {found.p90_s:.6g} s,"
        f" p99 {found.p99_s:.6g} s"
    ]


def _energy(result: ServeResult) -> list[str]:
    lines = [
        "",
        "## Energy",
        "",
        f"Table {result.energy_table.label}: {result.energy_table.title}.",
        "",
        "| component: statistic | count | each | joules | formula | source |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for item in result.energy.items:
        row = item.row
        each = "unknown" if row.value is None else f"{row.value:.6g} {row.unit} per {row.per}"
        joules = "unknown" if item.joules is None else f"{item.joules:.6g}"
        lines.append(
            f"| {row.component}: {row.stat} | {item.count:.6g} | {each} | {joules} | {row.formula or '–'} |"
            f" {row.source} |"
        )
    lines += ["", f"    J/token = {result.energy.total_j:.6g} J / {result.tokens} = {result.j_per_token:.6g}", ""]
    for name, q in result.energy_table.inputs.items():
        formula = result.energy_table.formulas.get(name)
        how = f"{formula} = " if formula else ""
        lines.append(f"- {name} = {how}{q.as_float():.6g} {q.unit} ({q.scope}; {q.kind}): {q.source}")
    return lines


def _cost(result: ServeResult) -> list[str]:
    rate = f"{result.tokens_per_s:.6g} * {SECONDS_PER_HOUR} * {result.utilisation:g}"
    each = f"{result.usd_per_hour:.6g} / ({rate}) * 1e6"
    return [
        "",
        "## Dollars",
        "",
        f"    usd_per_hour = {result.price_formula} = {result.usd_per_hour:.6g}",
        f"    usd_per_million_tokens = {each} = {result.usd_per_million_tokens:.6g}",
    ]

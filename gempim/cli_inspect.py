"""The commands `gempim inspect` and `gempim diff`: counters of any run or gem5 output, with or without tokens."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gempim.cli_options import Format, Out, err

if TYPE_CHECKING:
    import pandas as pd

Stats = Annotated[Path, typer.Argument(metavar="STATS", help="stats.txt, .gz or .json of gem5's, or a run directory.")]


def inspect(
    stats: Stats,
    section: Annotated[str, typer.Option("--section", help="A number from 0, last, or a region's label.")] = "last",
    component: Annotated[
        list[str] | None,
        typer.Option("--component", help="List the counters of a component, or a name with *. Repeatable."),
    ] = None,
    zeros: Annotated[bool, typer.Option("--zeros", help="With --component: also counters that are 0.")] = False,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Parts of a path that make a component.")] = 3,
    tidy: Annotated[
        Path | None, typer.Option("--tidy", help="Write every number of every section to a .parquet or .csv file.")
    ] = None,
    mapping: Annotated[
        bool, typer.Option("--mapping", help="Print the draft of a mapping file, for `gempim report`.")
    ] = False,
    output: Out = Format.md,
) -> None:
    """What is in a statistics file of any gem5: sections, regions, non-zero counters, what is missing for a report.

    Example: `gempim inspect m5out/stats.txt --component system.cpu.dcache`
    """
    from gempim.analysis.inspection import components, counters, inspect_stats

    found = inspect_stats(stats, section)
    if mapping:
        from gempim.analysis.foreign_draft import draft_mapping

        sys.stdout.write(draft_mapping(found.source, found.chosen))
        return
    if tidy is not None:
        from gempim.analysis.tidy_counters import write_tidy

        rows = write_tidy(found.source, tidy)
        err.print(f"tidy: {tidy} ({rows} rows)", style="green", soft_wrap=True, highlight=False, markup=False)
    if component:
        _print({"counters": counters(found.chosen, component, zeros=zeros)}, {}, output)
        return
    by_component = components(found.chosen, depth)
    tables = {"sections": found.sections, f"components of section {found.chosen.index}": by_component}
    lists = {"missing for a report": list(found.missing) or ["nothing"], "notes": list(found.notes)}
    _print(tables, lists, output)


def diff(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="The run that the other one is held against.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Both: a run directory, mapping or statistics file.")],
    every: Annotated[bool, typer.Option("--all", help="Every counter that differs, not only the largest.")] = False,
    output: Out = Format.md,
) -> None:
    """Which times, counters and parameters of two runs differ, and which explain the speedup.

    Example: `gempim diff runs/neoverse-n1-* runs/sail-*`
    """
    from gempim.analysis.diff import diff_runs

    found = diff_runs(run_a, run_b)
    shown = found.counters if every or output != Format.md else found.counters.head(25)
    tables = {"times": found.times, "operators": found.operators, "parameters": found.parameters, "counters": shown}
    _print({k: t for k, t in tables.items() if len(t)}, {"explanation": list(found.explanation)}, output, first=True)


def _print(
    tables: dict[str, pd.DataFrame], lists: dict[str, list[str]], output: Format, *, first: bool = False
) -> None:
    """Several tables: headings in Markdown (the lists `first` or last), one document in JSON, a column `table` in csv
    and jsonl.
    """
    if output == Format.md:
        many = len(tables) + len(lists) > 1
        texts = [(f"## {name}\n\n" if many else "") + _markdown(table) for name, table in tables.items()]
        said = [f"## {name}\n\n" + "".join(f"- {item}\n" for item in items) for name, items in lists.items() if items]
        sys.stdout.write("\n".join([*said, *texts] if first else [*texts, *said]))
        return
    rows = {name: [_plain(row) for row in table.to_dict("records")] for name, table in tables.items()}
    if output == Format.json:
        sys.stdout.write(json.dumps({"schema_version": 1, **rows, **lists}, indent=1, allow_nan=False) + "\n")
        return
    single = [{"table": name, **row} for name, found in rows.items() for row in found]
    single += [{"table": name, "text": item} for name, items in lists.items() for item in items]
    if output == Format.jsonl:
        sys.stdout.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in single))
    else:
        names = list(dict.fromkeys(name for row in single for name in row))
        writer = csv.DictWriter(sys.stdout, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(single)


def _markdown(table: pd.DataFrame) -> str:
    """A padded Markdown table; numbers right-aligned."""
    rows = [[_text(value).replace("|", "\\|") for value in row] for row in table.itertuples(index=False)]
    right = [all(value is None or isinstance(value, int | float) for value in table[name]) for name in table.columns]
    names = [str(name) for name in table.columns]
    widths = [max(3, len(name), *(len(row[i]) for row in rows)) if rows else 3 for i, name in enumerate(names)]

    def line(cells: list[str]) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        return "| " + " | ".join(padded).rstrip() + " |\n"

    rule = [("-" * (w - 1) + ":") if r else "-" * w for w, r in zip(widths, right, strict=True)]
    return line(names) + line(rule) + "".join(line(row) for row in rows)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else f"{value:.6g}"
    return str(value)


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    """NaN and inf are not JSON."""
    return {
        str(key): None if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
        for key, value in row.items()
    }

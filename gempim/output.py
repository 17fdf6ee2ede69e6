"""From run directories to what the commands print. stdout carries the asked-for format and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from gempim.analysis import table
from gempim.analysis.cost import load_prices
from gempim.analysis.energy import load_energy_table
from gempim.analysis.result import Result, evaluate
from gempim.analysis.run import load_run
from gempim.analysis.serving import is_serve_run
from gempim.output_serve import explain_serving, serving_report
from gempim.quantity import DataError

err = Console(stderr=True)

# Thread counts differ only where a user asks for several; the roofline GPU's rows carry them too, so they always match.
MATCH = (*table.MATCH_KEYS, "threads")


def results(
    paths: Sequence[Path], *, prices: Mapping[str, float], energy: str | None, utilisation: float
) -> list[Result]:
    """Evaluate runs with the tables their manifests name, unless `energy` or `prices` say otherwise.

    :raises DataError: a run is damaged or a table does not fit it
    """
    price_table = load_prices()
    out = []
    for path in dict.fromkeys(paths):
        run = load_run(path)
        energy_table = load_energy_table(energy or str(run.experiment["energy_table"]))
        out.append(evaluate(run, energy_table, price_table, prices, utilisation))
    return out


def warn(found: Sequence[Result]) -> None:
    """What a reader must be warned of, once each, on stderr."""
    for text in dict.fromkeys(w for r in found for w in r.warnings):
        err.print(f"note: {text}", style="yellow", soft_wrap=True, highlight=False, markup=False)


def print_rows(frame: pd.DataFrame, output: str) -> None:
    """A plain table (catalogues) in one of the output formats."""
    if output == "md":
        sys.stdout.write(table.markdown(frame.astype(str)))
    elif output == "csv":
        sys.stdout.write(frame.to_csv(index=False))
    else:
        sys.stdout.write(frame.to_json(orient="records", lines=output == "jsonl") + ("\n" if output == "json" else ""))


def print_runs(
    paths: Sequence[Path],
    output: str,
    *,
    prices: Mapping[str, float],
    energy: str | None,
    utilisation: float,
    report: Path | None,
    extra_keys: Sequence[str] = (),
) -> None:
    """One row a phase of each run."""
    found = results(paths, prices=prices, energy=energy, utilisation=utilisation)
    sys.stdout.write(table.render_table(table.tidy(found, extra_keys), output))
    warn(found)
    if report:
        _report(found, report, None, extra_keys)


def print_comparison(
    paths: Sequence[Path],
    baseline: str,
    output: str,
    *,
    prices: Mapping[str, float],
    energy: str | None,
    utilisation: float,
    report: Path | None,
    extra_keys: Sequence[str] = (),
    match: Sequence[str] = (),
    llama_bench: Sequence[Path] = (),
) -> None:
    """One row a phase of each run, with its ratios to the baseline's row that agrees in MATCH and in `match`."""
    found = results(paths, prices=prices, energy=energy, utilisation=utilisation)
    base = found[0].run.system if baseline.endswith(".toml") else baseline
    match = (*MATCH, *match)
    frame = table.compare(found, base, match=match, extra_keys=extra_keys)
    sys.stdout.write(table.render_table(frame, output))
    warn(found)
    if report:
        _report(found, report, base, extra_keys, match, llama_bench=llama_bench)


def _report(
    found: Sequence[Result],
    out: Path,
    baseline: str | None,
    extra_keys: Sequence[str],
    match: Sequence[str] = MATCH,
    repeats: Sequence[str] = (),
    llama_bench: Sequence[Path] = (),
) -> Path:
    from gempim.analysis.llama_bench import load_llama_bench
    from gempim.analysis.report import write_report

    if baseline is not None:
        match = (*match, *_engine_key(found, baseline))
    measured = load_llama_bench(llama_bench)
    index = write_report(
        list(found), out, baseline=baseline, extra_keys=extra_keys, match=match, repeats=repeats, measured=measured
    )
    err.print(f"report: {index}", style="green", soft_wrap=True, highlight=False, markup=False)
    return index


def _engine_key(found: Sequence[Result], baseline: str) -> tuple[str, ...]:
    """The key `engine` where the baseline was run by several: then each run is held against its own engine's."""
    engines = {str(r.run.experiment["engine"]) for r in found if r.run.system == baseline}
    return ("engine",) if len(engines) > 1 else ()


def make_report(
    run_dirs: Sequence[Path],
    out: Path,
    *,
    baseline: str | None,
    prices: Mapping[str, float],
    energy: str | None,
    utilisation: float,
    keys: Sequence[str] = (),
    repeats: Sequence[str] = (),
    llama_bench: Sequence[Path] = (),
) -> Path:
    """The HTML, Markdown, CSV and JSON report of runs; the path of its index page.

    :param keys: manifest keys that become columns; where the baseline's runs differ in one, it is matched too
    :param repeats: manifest keys in which repeated runs differ
    :param llama_bench: result files of llama-bench to stand beside the runs
    """
    if not run_dirs:
        raise DataError("report: no run directories given")
    if serving := [is_serve_run(path) for path in run_dirs]:
        if all(serving):
            if llama_bench:
                raise DataError("report: --llama-bench is not for runs that served requests")
            return serving_report(
                run_dirs, out, baseline=baseline, prices=prices, energy=energy, utilisation=utilisation,
                keys=keys, repeats=repeats,
            )  # fmt: skip
        if any(serving):
            raise DataError(f"report: {run_dirs[serving.index(True)]} served requests, other runs did not: two reports")
    found = results(run_dirs, prices=prices, energy=energy, utilisation=utilisation)
    base = [r for r in found if r.run.system == baseline]
    varied = [key for key in keys if len(set(map(str, table.extra_values(base, key) if base else ()))) > 1]
    return _report(found, out, baseline, keys, (*MATCH, *varied), repeats, llama_bench)


def explain_run(run_dir: Path, *, prices: Mapping[str, float], energy: str | None, utilisation: float) -> str:
    """Where the numbers of one run come from, as Markdown."""
    from gempim.analysis.explain import explain

    if is_serve_run(run_dir):
        return explain_serving(run_dir, prices=prices, energy=energy, utilisation=utilisation)
    return explain(results([run_dir], prices=prices, energy=energy, utilisation=utilisation)[0])

"""From serving runs to what the commands print. stdout carries the asked-for format and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from gempim.analysis.cost import load_prices
from gempim.analysis.energy import load_energy_table
from gempim.analysis.serving import ServeResult, evaluate_serve, load_serve_run
from gempim.analysis.serving.table import frame, render

err = Console(stderr=True)

PRICES = "accelerators"
"""The price file of serving systems."""


def serving_results(
    paths: Sequence[Path], *, prices: Mapping[str, float], energy: str | None, utilisation: float
) -> list[ServeResult]:
    """Evaluated serving runs, in order, each once. :raises DataError: a run is damaged or a table does not fit it"""
    table = load_prices(PRICES)
    out = []
    for path in dict.fromkeys(paths):
        run = load_serve_run(path)
        energies = load_energy_table(energy or str(run.experiment["energy_table"]))
        out.append(evaluate_serve(run, energies, table, prices, utilisation))
    return out


def print_serving(
    paths: Sequence[Path],
    output: str,
    *,
    prices: Mapping[str, float],
    energy: str | None,
    utilisation: float,
    report: Path | None,
    baseline: str | None = None,
    keys: Sequence[str] = (),
    repeats: Sequence[str] = (),
) -> None:
    """One row a serving run, with its ratios to the baseline (``gpu-h100 x4``), and the report if asked for.

    :param keys: manifest keys that become columns
    :param repeats: manifest keys in which repeated runs differ: one row of their means, with 95 % intervals
    """
    found = serving_results(paths, prices=prices, energy=energy, utilisation=utilisation)
    sys.stdout.write(render(frame(found, baseline, keys, repeats), output))
    for note in dict.fromkeys(w for r in found for w in r.warnings):
        err.print(f"note: {note}", style="yellow", soft_wrap=True, highlight=False, markup=False)
    if report is not None:
        page = _write(found, report, baseline, keys, repeats)
        err.print(f"report: {page}", style="green", soft_wrap=True, highlight=False, markup=False)


def serving_report(
    run_dirs: Sequence[Path],
    out: Path,
    *,
    baseline: str | None,
    prices: Mapping[str, float],
    energy: str | None,
    utilisation: float,
    keys: Sequence[str] = (),
    repeats: Sequence[str] = (),
) -> Path:
    """The report of serving runs; the path of its page. `keys` and `repeats`: see `print_serving`.

    `baseline` is a system's name, with its devices (``gpu-h100 x4``) where it served with several numbers of them.
    """
    found = serving_results(run_dirs, prices=prices, energy=energy, utilisation=utilisation)
    labels = [r.run.label() for r in found if baseline in (r.run.system, r.run.label())]
    return _write(found, out, labels[0] if labels else baseline, keys, repeats)


def _write(
    found: Sequence[ServeResult], out: Path, baseline: str | None, keys: Sequence[str], repeats: Sequence[str]
) -> Path:
    from gempim.analysis.report.serving import write_serve_report

    return write_serve_report(found, out, baseline=baseline, extra_keys=keys, repeats=repeats)


def explain_serving(run_dir: Path, *, prices: Mapping[str, float], energy: str | None, utilisation: float) -> str:
    """Where the numbers of one serving run come from, as Markdown."""
    from gempim.analysis.serving.explain import explain

    return explain(serving_results([run_dir], prices=prices, energy=energy, utilisation=utilisation)[0])

"""Published figures against gempim: measures each claim of `analysis/validation/claims.toml` and writes the page.

Run as ``python -P -m gempim.validate --out analysis/validation``. It writes `VALIDATION.md` and `summary.csv` (every
run that a claim rests on). Nothing is fitted to a claim.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from gempim import __version__
from gempim.analysis import table
from gempim.analysis.run import load_run
from gempim.analysis.validation import check, load_claims, render_page
from gempim.engines.cpu_validation import REASONS, validation_points
from gempim.experiment import Experiment, resolve
from gempim.output import MATCH, results
from gempim.simulate import simulate
from gempim.sweep import Sweep, run_sweep
from gempim.validate_serve import measure as measure_serving

BASELINE = "neoverse-n1"
MODELS = ("llama-2-7b", "llama-2-13b")
QUANTS = ("q2_k", "q3_k", "q4_0", "q4_k", "q5_0", "q6_k", "q8_0")
BATCHES = (1, 8, 32)
THREADS = (1, 4, 16, 64)
CLAIM_THREADS = 16

CPU_CLAIMS = {
    "cpu-a78ae-q4_0-1t": "orin-llama-2-7b-q4_0-1t",
    "cpu-a78ae-q4_0-12t": "orin-llama-2-7b-q4_0-12t",
    "cpu-a78ae-q2_k-12t": "orin-llama-2-7b-q2_k-12t",
    "cpu-a76-q4_0-1t": "pi5-llama-2-7b-q4_0-1t",
    "cpu-n1-q4_k_m-4t": "a1-qwen2.5-3b-q4_k_m-4t",
}
"""Claim -> measured point of gempim/data/validation/cpu-rates.toml."""


def _experiment(system: str, model: str, quant: str, batch: int, threads: int, **sets: object) -> Experiment:
    return resolve(
        {
            "experiment": {"system": system},
            "model": {"name": model, "quant": quant},
            "workload": {"batch": batch, "prompt": 0, "context": 512, "tokens": 1, "threads": threads},
            "set": sets,
        },
        origin="validation",
    )


def _grid() -> list[Experiment]:
    out = []
    for model in MODELS:
        for quant in QUANTS:
            for batch in BATCHES:
                out += [_experiment(s, model, quant, batch, t) for s in (BASELINE, "sail") for t in THREADS]
                if model == "llama-2-7b":  # a 13B model with its cache is too tight for the V100's 16 GB
                    out.append(_experiment("v100", model, quant, batch, CLAIM_THREADS))
    return out


_TABLE_CYCLES = ("basis_row_writes", "lut_build_cycles", "lookup_cycles")


def _prt_saving_percent(runs: Path) -> tuple[float, float]:
    """What the pattern reuse table saves on Llama-2-7B, Q4_0, one sequence.

    :return: percent of the arrays' active cycles, and percent of those that fill, build and read tables
    """
    cycles, tables = [], []
    for enabled in (True, False):
        experiment = _experiment("sail", "llama-2-7b", "q4_0", 1, CLAIM_THREADS, **{"sram_pim.prt_enable": enabled})
        run = load_run(simulate(experiment, runs))
        cycles.append(sum(s.get("system.sram_pim.array_active_cycles") for s in run.sections))
        tables.append(sum(s.get(f"system.sram_pim.{name}") for s in run.sections for name in _TABLE_CYCLES))
    return 100 * (1 - cycles[0] / cycles[1]), 100 * (1 - tables[0] / tables[1])


def _best(frame: pd.DataFrame, column: str) -> pd.Series:
    return frame.loc[frame[column].idxmax()]


def _where(row: pd.Series) -> str:
    return f"{row['model']} {row['quant']}, batch {row['batch']}, {row['threads']} threads"


def measure(runs: Path) -> tuple[dict[str, float], pd.DataFrame, list[str]]:
    """Measured value of every claim, the table of runs behind them, and lines that say where each best case was."""
    paths = run_sweep(Sweep("validation", BASELINE, tuple(_grid())), runs)
    found = results(paths, prices={}, energy=None, utilisation=1.0)
    systems = [r for r in found if r.run.system != "v100"]
    frame = table.compare(systems, BASELINE, match=MATCH)
    gpu = table.tidy([r for r in found if r.run.system == "v100"])
    sail = frame[frame["system"] == "sail"]
    fair = sail[sail["threads"] == CLAIM_THREADS]
    speedup, dollars = _best(fair, "speedup"), _best(fair, "tokens_per_usd_ratio")
    keys = ["model", "quant", "batch", "test"]
    both = fair.merge(gpu[[*keys, "tokens_per_usd"]], on=keys, suffixes=("", "_v100"))
    both["over_v100"] = both["tokens_per_usd"] / both["tokens_per_usd_v100"]
    v100 = _best(both, "over_v100")
    saving, table_saving = _prt_saving_percent(runs)
    points = {p.name: p.predicted_tokens_per_s for p in validation_points()}
    measured = {
        "sail-speedup": float(speedup["speedup"]),
        "sail-tokens-per-dollar": float(dollars["tokens_per_usd_ratio"]),
        "sail-v100-tokens-per-dollar": float(v100["over_v100"]),
        "sail-prt-cycles": saving,
        **{claim: points[name] for claim, name in CPU_CLAIMS.items()},
    }
    notes = [
        f"gempim {__version__}, embedded engine",
        f"energy table {found[0].energy_table.label}; prices {found[0].price_table.label}",
        f"best speedup at {CLAIM_THREADS} threads: {_where(speedup)}",
        f"best tokens per dollar over the V100 roofline at {CLAIM_THREADS} threads: {_where(v100)}",
    ]
    notes.append(f"pattern reuse saves {table_saving:.3g} % of the cycles that fill, build and read tables")
    for threads in THREADS:
        best = _best(sail[sail["threads"] == threads], "speedup")
        notes.append(
            f"with {threads} threads on both systems the best speedup is {best['speedup']:.3g}x ({_where(best)})"
        )
    notes += [f"measured Arm rates: {reason}" for reason in REASONS]
    return measured, pd.concat([frame, gpu], ignore_index=True), notes


def main(
    out: Annotated[Path, typer.Option("--out", help="Folder for VALIDATION.md and summary.csv.")],
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the run directories.")] = Path("runs"),
) -> None:
    """Measure every claim and write the validation page."""
    measured, frame, notes = measure(runs)
    out.mkdir(parents=True, exist_ok=True)
    serving, serving_notes = measure_serving(out)
    page = render_page(check(load_claims(), {**measured, **serving}), [*notes, *serving_notes])
    (out / "VALIDATION.md").write_text(page)
    columns = ["model", "quant", "system", "threads", "batch", "test", "tokens_per_s", "j_per_token"]
    columns += ["usd_per_million_tokens", "tokens_per_usd", "speedup", "j_per_token_ratio", "tokens_per_usd_ratio"]
    frame[columns].to_csv(out / "summary.csv", index=False, float_format="%.4g", lineterminator="\n")
    print(out / "VALIDATION.md")


if __name__ == "__main__":
    typer.run(main)

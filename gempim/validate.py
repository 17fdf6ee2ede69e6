"""Published figures against gempim: measures each claim of `analysis/validation/claims.toml` and writes the page.

``python -P -m gempim.validate --out analysis/validation`` simulates the SAIL grid (minutes) and writes `summary.csv`,
every run that a claim rests on, and `summary.json`, single figures and what made them. The page, `VALIDATION.md`, is
made from these files and from those of `gempim.validate_serve`, and from nothing else: ``--page`` does only that, in
seconds, and ``--claim ID`` simulates again what one claim rests on. Nothing is fitted to a claim.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from gempim import __version__
from gempim.analysis import table
from gempim.analysis.cost import load_prices
from gempim.analysis.energy import load_energy_table
from gempim.analysis.run import load_run
from gempim.analysis.validation import check, load_claims, render_page
from gempim.engines.cpu_validation import REASONS, validation_points
from gempim.experiment import Experiment, resolve
from gempim.output import MATCH, results
from gempim.quantity import DataError, suggest
from gempim.simulate import simulate
from gempim.sweep import Sweep, run_sweep
from gempim.validate_serve import BANK, BASE, DEVICES, ET, GPU, LEAST, STAGES
from gempim.validate_serve import Summary as ServeSummary
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


@dataclass(frozen=True)
class Summary:
    """The committed figures: `rows` of the SAIL grid, `single` ones (claim id to value), and what made all of them."""

    rows: pd.DataFrame
    single: Mapping[str, float]
    table_saving_percent: float
    made_with: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> Summary:
        """From `summary.csv` and `summary.json`. :raises DataError: they are not there or damaged"""
        try:
            rows = pd.read_csv(folder / "summary.csv")
            single = json.loads((folder / "summary.json").read_text())
            return cls(rows, single["measured"], single["table_saving_percent"], single["made_with"])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder}: summary.csv and summary.json of gempim.validate: {error!r}") from error

    @property
    def sail(self) -> pd.DataFrame:
        """SAIL's rows, with their ratios to the CPU's."""
        return self.rows[self.rows["system"] == "sail"]

    def over_v100(self) -> pd.DataFrame:
        """SAIL's rows at the claims' threads beside the V100's, with `over_v100`, the ratio of tokens per dollar."""
        keys = ["model", "quant", "batch", "test"]
        gpu = self.rows[self.rows["system"] == "v100"]
        both = self.sail[self.sail["threads"] == CLAIM_THREADS].merge(
            gpu[[*keys, "tokens_per_usd"]], on=keys, suffixes=("", "_v100")
        )
        both["over_v100"] = both["tokens_per_usd"] / both["tokens_per_usd_v100"]
        return both


_COLUMNS = ["model", "quant", "system", "threads", "batch", "test", "tokens_per_s", "j_per_token",
            "usd_per_million_tokens", "tokens_per_usd", "speedup", "j_per_token_ratio",
            "tokens_per_usd_ratio"]  # fmt: skip


def simulate_all(runs: Path, out: Path) -> None:
    """Simulate the SAIL grid and the single figures, and write the summary into `out`."""
    paths = run_sweep(Sweep("validation", BASELINE, tuple(_grid())), runs)
    found = results(paths, prices={}, energy=None, utilisation=1.0)
    systems = [r for r in found if r.run.system != "v100"]
    gpu = table.tidy([r for r in found if r.run.system == "v100"])
    rows = pd.concat([table.compare(systems, BASELINE, match=MATCH), gpu], ignore_index=True)
    rows[_COLUMNS].to_csv(out / "summary.csv", index=False, float_format="%.4g", lineterminator="\n")
    write_single(runs, out)


def write_single(runs: Path, out: Path) -> None:
    """Measure the figures that are of no grid and write them, with what makes all figures, into `summary.json`."""
    saving, table_saving = _prt_saving_percent(runs)
    measured = {"sail-prt-cycles": saving, **{claim: _point(claim) for claim in CPU_CLAIMS}}
    document = {
        "made_with": {
            "gempim": __version__,
            "engine": "embedded",
            "energy_table": load_energy_table("default").label,
            "prices": load_prices().label,
        },
        "measured": {claim: float(f"{value:.4g}") for claim, value in measured.items()},
        "table_saving_percent": float(f"{table_saving:.4g}"),
    }
    (out / "summary.json").write_text(json.dumps(document, indent=1) + "\n")


def _point(claim: str) -> float:
    return next(p.predicted_tokens_per_s for p in validation_points() if p.name == CPU_CLAIMS[claim])


def measured_of(s: Summary) -> tuple[dict[str, float], list[str], dict[str, str]]:
    """From the summary: the value of each claim, lines that say where the best cases were, commands that make them."""
    fair = s.sail[s.sail["threads"] == CLAIM_THREADS]
    speedup, dollars = _best(fair, "speedup"), _best(fair, "tokens_per_usd_ratio")
    v100 = _best(s.over_v100(), "over_v100")
    measured = {
        "sail-speedup": float(speedup["speedup"]),
        "sail-tokens-per-dollar": float(dollars["tokens_per_usd_ratio"]),
        "sail-v100-tokens-per-dollar": float(v100["over_v100"]),
        **s.single,
    }
    with_ = s.made_with
    notes = [
        f"gempim {with_['gempim']}, {with_['engine']} engine",
        f"energy table {with_['energy_table']}; prices {with_['prices']}",
        f"best speedup at {CLAIM_THREADS} threads: {_where(speedup)}",
        f"best tokens per dollar over the V100 roofline at {CLAIM_THREADS} threads: {_where(v100)}",
        f"pattern reuse saves {s.table_saving_percent:.3g} % of the cycles that fill, build and read tables",
    ]
    for threads in THREADS:
        best = _best(s.sail[s.sail["threads"] == threads], "speedup")
        notes.append(
            f"with {threads} threads on both systems the best speedup is {best['speedup']:.3g}x ({_where(best)})"
        )
    notes += [f"measured Arm rates: {reason}" for reason in REASONS]
    again = {
        "sail-speedup": _compare(BASELINE, speedup),
        "sail-tokens-per-dollar": _compare(BASELINE, dollars),
        "sail-v100-tokens-per-dollar": _compare("v100", v100),
        "sail-prt-cycles": f"{_run('sail', 'llama-2-7b', 'q4_0', 1)} --set system.sram_pim.prt_enable=false",
    }
    return measured, notes, again


def _compare(base: str, row: pd.Series) -> str:
    """The command that simulates a row of the summary and its baseline."""
    return _run("sail", row["model"], row["quant"], row["batch"]).replace(
        "gempim run --system sail", f"gempim compare {base} sail"
    )


def _run(system: str, model: str, quant: str, batch: int) -> str:
    return (
        f"gempim run --system {system} --model {model} --quant {quant} --batch {batch} --prompt 0 --context 512 "
        f"--tokens 1 --threads {CLAIM_THREADS}"
    )


def serving_commands(s: ServeSummary) -> dict[str, str]:
    """Of the serving claims that are of one case, the command for it; others rest on all of `serving.csv`."""
    glam, mixtral, grok = ("glam-143b",), ("mixtral-8x7b",), ("grok-1-314b",)
    cases: dict[str, tuple[str, str, pd.Series]] = {
        "duplex-throughput-best": (GPU, ET, s.against(ET, GPU, "tokens_per_s")),
        "duplex-base-throughput-best": (GPU, BASE, s.against(BASE, GPU, "tokens_per_s")),
        "duplex-et-over-base": (BASE, ET, s.against(ET, BASE, "tokens_per_s")),
        "duplex-bank-mixtral-best": (GPU, BANK, s.against(BANK, GPU, "tokens_per_s", mixtral)),
        "duplex-over-bank-mixtral-best": (BANK, ET, s.against(ET, BANK, "tokens_per_s", mixtral)),
    }
    out = {claim: _serve(base, system, ratio.idxmax()) for claim, (base, system, ratio) in cases.items()}
    saved = {
        "duplex-energy-mixtral": mixtral,
        "duplex-energy-grok": grok,
        "duplex-energy-best": (*glam, *mixtral, *grok),
    }
    for claim, models in saved.items():
        best = min(
            ((float(r.min()), system, r.idxmin()) for system in (BASE, "duplex-pe", ET)
             if len(r := s.against(system, GPU, "j_per_token", models))),
            key=lambda found: found[0],
        )  # fmt: skip
        out[claim] = _serve(GPU, best[1], best[2])
    return out


def _serve(base: str, system: str, at: Any) -> str:
    model, batch, lin, lout = at
    count = max(LEAST, min(batch, batch * STAGES // lout))
    return (
        f"gempim compare {base} {system} --model {model} --batch {batch} --lin {lin} --lout {lout} "
        f"--devices {DEVICES[model]} --requests {count}"
    )


def write_page(folder: Path) -> Path:
    """`VALIDATION.md` from the summaries in `folder`; nothing of SAIL is simulated and no requests are served."""
    measured, notes, again = measured_of(Summary.read(folder))
    serving, serving_notes = measure_serving(folder)
    again |= serving_commands(ServeSummary.read(folder))
    page = folder / "VALIDATION.md"
    page.write_text(render_page(check(load_claims(), {**measured, **serving}), [*notes, *serving_notes], again))
    return page


def measure_again(claim: str, folder: Path, runs: Path) -> float:
    """Simulate what one claim rests on. :raises DataError: a claim of the serving grid, or none"""

    def ratio(base: str, column: str, row: pd.Series) -> float:
        points = [_experiment(s, row["model"], row["quant"], int(row["batch"]), CLAIM_THREADS) for s in (base, "sail")]
        found = results([simulate(p, runs) for p in points], prices={}, energy=None, utilisation=1.0)
        return float(table.compare(found, base)[column].iloc[1])

    s = Summary.read(folder)
    fair = s.sail[s.sail["threads"] == CLAIM_THREADS]
    known: dict[str, Callable[[], float]] = {
        "sail-speedup": lambda: ratio(BASELINE, "speedup", _best(fair, "speedup")),
        "sail-tokens-per-dollar": lambda: ratio(BASELINE, "tokens_per_usd_ratio", _best(fair, "tokens_per_usd_ratio")),
        "sail-v100-tokens-per-dollar": lambda: ratio("v100", "tokens_per_usd_ratio", _best(s.over_v100(), "over_v100")),
        "sail-prt-cycles": lambda: _prt_saving_percent(runs)[0],
        **{name: lambda name=name: _point(name) for name in CPU_CLAIMS},  # type: ignore[misc]
    }
    if claim not in known:
        raise DataError(
            f"--claim {claim}: expected one of {', '.join(known)}{suggest(claim, known)}; those of serving have their "
            "command in VALIDATION.md"
        )
    return known[claim]()


def main(
    out: Annotated[Path, typer.Option("--out", help="Folder of the summaries and of VALIDATION.md.")],
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the run directories.")] = Path("runs"),
    page: Annotated[bool, typer.Option("--page", help="Only make the page, from the summaries.")] = False,
    claim: Annotated[str | None, typer.Option("--claim", help="Only measure this claim again, and print it.")] = None,
) -> None:
    """Measure every claim of SAIL and of the CPU model and write the validation page."""
    if claim is not None:
        found = measure_again(claim, out, runs)
        committed = measured_of(Summary.read(out))[0][claim]
        print(f"{claim}: {found:.4g}; in the summary: {committed:.4g}")
        # The summary has four digits.
        raise typer.Exit(0 if abs(found - committed) <= 1e-3 * abs(committed) else 1)
    out.mkdir(parents=True, exist_ok=True)
    if not page:
        simulate_all(runs, out)
    print(write_page(out))


if __name__ == "__main__":
    typer.run(main)

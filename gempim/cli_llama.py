"""`gempim run --engine gem5-se --gguf FILE`: runs llama.cpp in gem5 and prints text, token ids and rates."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich.console import Console
from tqdm import tqdm

from gempim.engines.llama import LlamaRequest, Outcome, run_llama
from gempim.engines.llama.checkpoints import size_bytes
from gempim.output import print_rows, print_runs
from gempim.systems import System

err = Console(stderr=True)


def generate(
    request: LlamaRequest, system: System, runs: Path, output: str, *,
    gem5: Path | None, plugin: Path | None, prices: Mapping[str, float], energy: str | None, utilisation: float,
    report: Path | None,
) -> None:  # fmt: skip
    """Run and print. The text goes to stdout above a Markdown table, otherwise to stderr: stdout stays parseable.

    :raises DataError: see `run_llama`
    """
    with tqdm(total=0, desc=f"gem5 {system.name}", file=sys.stderr, unit="run", leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)
            bar.refresh()

        outcome = run_llama(
            request, system, runs, gem5=gem5, plugin=plugin, command=list(sys.argv), progress=progress
        )  # fmt: skip
    _say_text(request, outcome, output)
    if outcome.cached is not None:
        _say(
            f"functional run: {outcome.cached} ({size_bytes(outcome.cached) / 1e6:.0f} MB, kept for the next run;"
            " may be deleted)"
        )
    if outcome.run is None:
        _say(
            f"no rates: --cpu {request.cpu} runs the program, but its time is no machine's; --cpu o3 measures a"
            " Neoverse-N1"
        )
        if output != "md":
            print_rows(pd.DataFrame({"token": range(len(outcome.tokens)), "id": outcome.tokens}), output)
        return
    _say(f"run: {outcome.run}")
    _say_sampling(outcome.run)
    print_runs([outcome.run], output, prices=prices, energy=energy, utilisation=utilisation, report=report)


def _say(text: str) -> None:
    err.print(text, style="dim", soft_wrap=True, highlight=False, markup=False)


def _say_text(request: LlamaRequest, outcome: Outcome, output: str) -> None:
    stream = sys.stdout if output == "md" else sys.stderr
    ids = " ".join(str(t) for t in outcome.tokens)
    stream.write(f"{request.prompt}{outcome.text}\n\ntokens {ids}\n\n")
    stream.flush()


def _say_sampling(run: Path) -> None:
    """How much was simulated in detail, and how far apart the measured layers were."""
    said = json.loads((run / "manifest.json").read_text())["sampling"]
    if said["mode"] == "none":
        return
    errors = [p["error"] for p in said["passes"].values() if p["regions_measured"] and p["error"] is not None]
    spread = f"; spread of the measured layers: ±{max(errors):.2%} of a pass" if errors else ""
    share = said["share_of_instructions"] or 0
    for text in said["warnings"]:
        err.print(f"note: {text}", style="yellow", soft_wrap=True, highlight=False, markup=False)
    _say(f"sampled: {said['regions_measured']} regions, {share:.1%} of the instructions of the measured passes{spread}")

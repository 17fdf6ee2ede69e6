"""The demonstration: a real GGUF and Llama-2-7B on SAIL, its baseline and a GPU roofline, in one report."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from gempim.analysis import table
from gempim.experiment import Experiment, resolve
from gempim.models.fetch import smollm2_gguf
from gempim.output import MATCH, results, warn
from gempim.sensitivity import sensitivity
from gempim.sweep import Sweep, run_sweep

BASELINE = "neoverse-n1"
SYSTEMS = (BASELINE, "sail", "v100")
QUANTS = ("q2_k", "q3_k", "q4_0", "q6_k", "q8_0")
BATCHES = (1, 8, 32)


def _experiment(system: str, model: dict[str, str], **workload: int) -> Experiment:
    return resolve({"experiment": {"system": system}, "model": model, "workload": workload}, origin="demo")


def experiments() -> list[Experiment]:
    """SmolLM2-135M-Instruct from its GGUF (prefill and decode), and Llama-2-7B decode by bit width and batch."""
    gguf = {"gguf": str(smollm2_gguf())}
    out = [_experiment(s, gguf, prompt=128, context=128, tokens=32, threads=16) for s in SYSTEMS]
    for quant in QUANTS:
        for batch in BATCHES:
            for system in SYSTEMS:
                model = {"name": "llama-2-7b", "quant": quant}
                out.append(_experiment(system, model, batch=batch, prompt=0, context=512, tokens=2, threads=16))
    return out


def demo(out: Path, runs: Path) -> Path:
    """Simulate, print the llama-bench-shaped table and write the report; the path of its HTML page."""
    from gempim.analysis.report import write_report

    paths = run_sweep(Sweep("demo", BASELINE, tuple(experiments())), runs)
    found = results(paths, prices={}, energy=None, utilisation=1.0)
    sys.stdout.write(table.render_table(table.compare(found, BASELINE, match=MATCH), "md"))
    point = _experiment(
        "sail", {"name": "llama-2-7b", "quant": "q4_0"}, batch=8, prompt=0, context=512, tokens=1, threads=16
    )
    with tqdm(desc="sensitivity", file=sys.stderr, unit="run", leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        frame = sensitivity(point, runs, progress=progress)
    page = write_report(found, out, baseline=BASELINE, match=MATCH, sensitivity=frame)
    warn(found)
    return page

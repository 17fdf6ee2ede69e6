"""`make bench`: times of this machine, printed as a Markdown table. No test depends on them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from gempim.analysis.table import markdown
from gempim.bench.dram import bench as dram_bench
from gempim.experiment import Experiment, resolve
from gempim.sweep import Sweep, run_sweep

_TOKEN = """
import resource, sys, time
from gempim.engines.embedded import EmbeddedEngine
from gempim.bench.__main__ import point
engine = EmbeddedEngine(point(sys.argv[1], 1, 512))
start = time.perf_counter()
next(engine.run())
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

SWEEP_POINTS = 1000


def point(system: str, batch: int, context: int) -> Experiment:
    """One decode token of Llama-2-7B Q4_0 on 16 threads."""
    return resolve(
        {
            "experiment": {"system": system},
            "model": {"name": "llama-2-7b", "quant": "q4_0"},
            "workload": {"batch": batch, "prompt": 0, "context": context, "tokens": 1, "threads": 16},
        },
        origin="bench",
    )


def _tokens() -> list[dict[str, str]]:
    rows = []
    for system in ("neoverse-n1", "sail"):
        done = subprocess.run([sys.executable, "-P", "-c", _TOKEN, system], capture_output=True, text=True, check=True)
        seconds, kib = done.stdout.split()
        what = f"one decode token of Llama-2-7B Q4_0 on {system}, nothing cached"
        rows.append({"what": what, "value": f"{float(seconds):.2f} s, {int(kib) / 1024:.0f} MB peak"})
    return rows


def _sweep() -> dict[str, str]:
    points = tuple(point(s, 1 + i % 25, 16 * (1 + i // 25)) for s in ("neoverse-n1", "sail") for i in range(500))
    assert len(points) == SWEEP_POINTS
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run_sweep(Sweep("bench", None, points), Path(folder))
        wall = time.perf_counter() - start
    return {"what": f"sweep of {SWEEP_POINTS} points", "value": f"{wall:.0f} s wall"}


def main() -> None:
    """Run every benchmark and print the table."""
    rows = _tokens()
    rows += [{"what": str(r["what"]), "value": f"{r['value']:.3g} {r['unit']}"} for r in dram_bench()]
    rows.append(_sweep())
    sys.stdout.write(markdown(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()

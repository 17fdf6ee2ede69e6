"""GEMV in gem5 against the embedded engine: `python -P -m gempim.bench.gem5_gemv`.

One product [m, k] x [n, k]^T with weights that lie in DRAM, as every weight does once a token: the Neoverse-N1 with
llama.cpp's own `ggml_vec_dot_*` kernels against SAIL with `lutmm`, the same cores and threads, activations quantised in
the measured region on both sides. gem5 prepares the operands with its fastest CPU, writes a checkpoint where the region
begins, and restores it, caches empty, into out-of-order cores. The embedded engine is asked for the same product.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from gempim import _engine
from gempim.analysis.stats import parse_stats
from gempim.analysis.table import markdown
from gempim.engines.embedded import EmbeddedEngine
from gempim.engines.gem5_se import config_folder, pim_counters
from gempim.experiment import resolve
from gempim.lowering import Operator
from gempim.plugin import build as build_plugin
from gempim.plugin import gem5_binary
from gempim.quantity import DataError
from gempim.workloads.build import build_micro

TYPES = tuple(f["name"] for f in _engine.ggml_formats())
SYSTEMS = {"neoverse-n1": "neon", "sail": "lutmm"}
"""System -> path of the micro program `gemv`."""


def gem5_ps(
    gem5: Path, plugin: Path, micro: Path, system: str, weight_type: str, m: int, n: int, k: int, threads: int,
    *, transposed: bool = True,
) -> int:  # fmt: skip
    """Simulated time of the product in gem5 [ps].

    :param transposed: the order of the weights that SAIL reads: as the llama guest loads them, or a GGUF tensor's rows
    :raises DataError: gem5 failed (its last lines), or the device of a PIM system got no command
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        head = [gem5, "--json-config=", "--dot-config="]
        common = [config_folder() / "run.py", "--system", system, "--plugin", plugin, "--cores", threads]
        common += ["--binary", micro / "gemv"]
        tail = ["--args", "--type", weight_type, "--m", m, "--n", n, "--k", k, "--threads", threads]
        tail += ["--path", SYSTEMS[system], "--m5"]
        if transposed and SYSTEMS[system] == "lutmm":
            tail += ["--transposed"]
        for out, options in (
            ("prepare", ["--cpu", "atomic_noncaching", "--checkpoint", folder / "cpt", "--checkpoint-at-roi", 0]),
            ("measure", ["--cpu", "o3", "--restore", folder / "cpt", "--stop-after-roi", 0]),
        ):
            command = [str(part) for part in (*head, f"--outdir={folder / out}", *common, *options, *tail)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                last = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
                raise DataError(f"gem5 ended with {done.returncode}: {' '.join(command)}\n{last}")
        section = parse_stats(folder / "measure" / "stats.txt")[0]
        counters = pim_counters(section)
        if SYSTEMS[system] == "lutmm" and not (counters and counters["commandsDone"] == 1):
            raise DataError(f"{system} {weight_type}: expected one lutmm command in the region, got {counters}")
        return int(section.scalars["simTicks"])


def embedded_ps(system: str, weight_type: str, m: int, n: int, k: int, threads: int) -> int:
    """Time of the same product in the embedded engine [ps]."""
    experiment = resolve(
        {
            "experiment": {"system": system},
            "model": {"name": "llama-2-7b", "quant": "q8_0"},  # too large for the LLC, so its weights lie in DRAM
            "workload": {"threads": threads},
            "set": {"system.cpu.repack": False},  # the kernels that the micro program runs
        },
        origin="gem5_gemv",
    )
    form = next(f for f in _engine.ggml_formats() if f["name"] == weight_type)
    operator = Operator(
        name="attn_q", kind="matmul", m=m, n=n, k=k, weight_type=weight_type.lower(), instances=1, count=1,
        weight_bytes=n * k // form["block_elements"] * form["block_bytes"], read_bytes=4 * m * k,
        write_bytes=4 * m * n, flops=2 * m * n * k,
    )  # fmt: skip
    return EmbeddedEngine(experiment).operator(operator).time_ps


def table(
    gem5: Path, types: list[str], batches: list[int], n: int, k: int, threads: int, jobs: int, *, transposed: bool
) -> pd.DataFrame:
    """One row a type and batch: microseconds and speedup in gem5, the embedded engine's, and the difference."""
    plugin, micro = build_plugin(gem5), build_micro()
    points = [(s, t, m) for m in batches for t in types for s in SYSTEMS]
    with ThreadPoolExecutor(jobs) as pool:
        run = pool.map(
            lambda p: gem5_ps(gem5, plugin, micro, p[0], p[1], p[2], n, k, threads, transposed=transposed), points
        )
        times = dict(zip(points, tqdm(run, total=len(points), desc="gem5", file=sys.stderr, leave=False), strict=True))
    rows = []
    for m in batches:
        for t in types:
            simulated = {s: times[s, t, m] / 1e6 for s in SYSTEMS}
            embedded = {s: embedded_ps(s, t, m, n, k, threads) / 1e6 for s in SYSTEMS}
            in_gem5, in_embedded = (x["neoverse-n1"] / x["sail"] for x in (simulated, embedded))
            rows.append(
                {
                    "type": t,
                    "batch": m,
                    "N1 in gem5 [us]": f"{simulated['neoverse-n1']:.1f}",
                    "SAIL in gem5 [us]": f"{simulated['sail']:.1f}",
                    "speedup in gem5": f"{in_gem5:.2f}x",
                    "N1 embedded [us]": f"{embedded['neoverse-n1']:.1f}",
                    "SAIL embedded [us]": f"{embedded['sail']:.1f}",
                    "speedup embedded": f"{in_embedded:.2f}x",
                    "difference": f"{in_embedded / in_gem5 - 1:+.0%}",
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -P -m gempim.bench.gem5_gemv", description=__doc__)
    parser.add_argument("--gem5", type=Path, help="gem5.opt (default: the one on the PATH)")
    parser.add_argument("--types", default=",".join(TYPES), help="ggml types, comma separated")
    parser.add_argument("--batch", default="1,8", help="batches, comma separated")
    parser.add_argument("--n", type=int, default=1024, help="outputs")
    parser.add_argument("--k", type=int, default=2048, help="inner extent")
    parser.add_argument("--threads", type=int, default=4, help="threads and cores")
    parser.add_argument("--rows", action="store_true", help="weights for SAIL lie row by row, as in a GGUF file")
    parser.add_argument("--jobs", type=int, default=2, help="gem5 processes at a time")
    o = parser.parse_args()
    types = o.types.split(",")
    if unknown := sorted(set(types) - set(TYPES)):
        parser.error(f"--types {unknown[0]}: expected some of {', '.join(TYPES)}")
    try:
        batches = [int(b) for b in o.batch.split(",")]
        rows = table(gem5_binary(o.gem5), types, batches, o.n, o.k, o.threads, o.jobs, transposed=not o.rows)
    except ValueError as error:  # a DataError is one
        parser.error(str(error))
    sys.stdout.write(markdown(rows))


if __name__ == "__main__":
    main()

"""What the plug-in costs a simulation that does not use it: `python -P -m gempim.bench.gem5_plugin`.

The same guest (llama.cpp's vec_dot, no `lutmm`) on the same machine, once with the plug-in's decoder in every core and
the device in the system, once without, in turns. Processor time of the gem5 process, its start included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from gempim.analysis.table import markdown
from gempim.engines.gem5_se import config_folder
from gempim.plugin import build as build_plugin
from gempim.plugin import gem5_binary
from gempim.quantity import DataError
from gempim.workloads.build import build_micro

GUESTS = {
    "atomic": ("--m", "8", "--n", "256", "--k", "1024"),
    "o3": ("--m", "1", "--n", "64", "--k", "1024"),
}
"""CPU model -> size of the product, for some seconds of host time."""


def seconds(gem5: Path, plugin: Path, guest: Path, cpu: str, *, used: bool) -> float:
    """Processor seconds of one run. :raises DataError: gem5 failed"""
    with tempfile.TemporaryDirectory() as scratch:
        command = [gem5, f"--outdir={scratch}", "--json-config=", "--dot-config=", config_folder() / "run.py"]
        command += ["--system", "sail", "--cpu", cpu, "--caches", "none", "--binary", guest]
        command += ["--plugin", plugin] if used else ["--no-plugin"]
        command += ["--args", "--type", "q4_0", "--path", "neon", *GUESTS[cpu], "--m5"]
        before = os.times()
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
        after = os.times()
    if done.returncode != 0:
        raise DataError("\n".join((done.stdout + done.stderr).splitlines()[-8:]))
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -P -m gempim.bench.gem5_plugin", description=__doc__)
    parser.add_argument("--gem5", type=Path, help="gem5.opt (default: the one on the PATH)")
    parser.add_argument("--repeat", type=int, default=5, help="pairs of runs")
    o = parser.parse_args()
    rows = []
    try:
        gem5 = gem5_binary(o.gem5)
        plugin, guest = build_plugin(gem5), build_micro() / "gemv"
        for cpu in GUESTS:
            pairs = [
                tuple(seconds(gem5, plugin, guest, cpu, used=used) for used in (True, False))
                for _ in tqdm(range(o.repeat), desc=cpu, file=sys.stderr, leave=False)
            ]
            ratios = sorted(one / other for one, other in pairs)
            rows.append(
                {
                    "CPU model": cpu,
                    "with the plug-in [s]": f"{statistics.median(p[0] for p in pairs):.2f}",
                    "without [s]": f"{statistics.median(p[1] for p in pairs):.2f}",
                    "ratio, median": f"{statistics.median(ratios):.3f}",
                    "ratio, least to most": f"{ratios[0]:.3f} to {ratios[-1]:.3f}",
                }
            )
    except ValueError as error:  # a DataError is one
        parser.error(str(error))
    sys.stdout.write(markdown(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()

"""How long Linux takes in gem5's full system: `python -P -m gempim.bench.gem5_fs`.

For one and four cores: a boot from reset to the checkpoint at the shell, and a run that restores it and runs a script
that does nothing, on the functional, the timing and the out-of-order CPU. Wall time and processor time of the gem5
processes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from gempim.analysis.table import markdown
from gempim.engines.gem5_se import config_folder
from gempim.plugin import build as build_plugin
from gempim.plugin import gem5_binary
from gempim.quantity import DataError
from gempim.workloads.linux.build import build_linux

CORES = (1, 4)
RESTORED_CPUS = ("atomic_noncaching", "timing", "o3")


def measure(command: list[str | Path], what: str) -> dict[str, str]:
    """Run it; a row of the table. :raises DataError: it failed"""
    before, started = os.times(), time.perf_counter()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    after, ended = os.times(), time.perf_counter()
    if done.returncode != 0:
        raise DataError("\n".join((done.stdout + done.stderr).splitlines()[-8:]))
    processor = after.children_user - before.children_user + after.children_system - before.children_system
    return {"what": what, "wall [s]": f"{ended - started:.1f}", "processor [s]": f"{processor:.1f}"}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -P -m gempim.bench.gem5_fs", description=__doc__)
    parser.add_argument("--gem5", type=Path, help="gem5.opt (default: the one on the PATH)")
    o = parser.parse_args()
    rows = []
    try:
        gem5 = gem5_binary(o.gem5)
        plugin, linux = build_plugin(gem5), build_linux()
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            script = scratch / "script.sh"
            script.write_text("true\n")
            steps = [(cores, cpu) for cores in CORES for cpu in ("", *RESTORED_CPUS)]
            for number, (cores, cpu) in enumerate(tqdm(steps, file=sys.stderr, leave=False)):
                outdir = scratch / str(number)
                command: list[str | Path] = [gem5, f"--outdir={outdir}", "--json-config=", "--dot-config="]
                command += [config_folder() / "run.py", "--fs", f"--linux={linux}", f"--cores={cores}"]
                run = ["--system=sail", f"--plugin={plugin}", f"--script={script}", f"--boot-dir={scratch / 'boots'}"]
                if not cpu:
                    # The first run of a number of cores boots; its own part is what the next row shows.
                    what = f"boot and first run, {cores} core{'s' if cores > 1 else ''}"
                    rows.append(measure([*command, *run, f"--cpu={RESTORED_CPUS[0]}"], what))
                else:
                    what = f"restore and run a script, {cores} core{'s' if cores > 1 else ''}, {cpu}"
                    rows.append(measure([*command, *run, f"--cpu={cpu}"], what))
    except ValueError as error:  # a DataError is one
        parser.error(str(error))
    sys.stdout.write(markdown(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()

"""Stands in for gem5.opt in tests of the host side: leaves what run.py leaves, or fails as gem5 does.

FAKE_GEM5 says how, comma separated: `idle` (a PIM without commands), `cpu` (no PIM), `exit=N`, `signal=N`, `norois`,
`mismatch` (more sections than regions), `forever` (its process number in a file `pid`, and no end).
"""

import json
import os
import sys
import time
from pathlib import Path

how = dict(item.partition("=")[::2] for item in os.environ.get("FAKE_GEM5", "").split(",") if item)
out = Path(next(a for a in sys.argv if a.startswith("--outdir=")).partition("=")[2])
print("gem5 Simulator System.")
if "exit" in how:
    print("run.py: guest: it went wrong")
    sys.exit(int(how["exit"]))
if "forever" in how:
    (out / "pid").write_text(str(os.getpid()))
    time.sleep(600)
if "signal" in how:
    print("panic: the guest read address 0", flush=True)
    print("/lib/libc.so.6(+0x1234)[0x7f0000]", flush=True)
    os.kill(os.getpid(), int(how["signal"]))
rows = []
with (out / "stats.txt").open("w") as stats:
    for section in range(3 if "mismatch" in how else 2):
        stats.write("\n---------- Begin Simulation Statistics ----------\n")
        stats.write(f"simTicks {1000 + section} # Number of ticks simulated (Tick)\n")
        stats.write("simInsts 999 # of the whole run so far (Count)\nhostSeconds 0.5 # wall (Second)\n")
        for core in (0, 1):
            stats.write(f"board.processor.cores{core}.core.commitStats0.numInsts 35 # committed (Count)\n")
        if "cpu" not in how:
            pim = "board.cache_hierarchy.sram_pim"
            commands = 0 if "idle" in how else 3 * section
            stats.write(f"{pim}.commands {commands} # lutmm commands (Count)\n{pim}.lookups 12 # lookups (Count)\n")
            stats.write(f"{pim}.power_state.numTransitions 1 # not ours (Count)\n")
        stats.write("\n---------- End Simulation Statistics   ----------\n")
for section in range(2):
    rows.append({"schema": 1, "section": section, "index": section, "label": f"pass {section}", "work_id": 0})
    rows[-1] |= {"begin_ps": 0, "sim_ps": 1000 + section}
if "norois" not in how:
    (out / "roi.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
(out / "guest.out").write_text("hello\n")
(out / "config.ini").write_text("[root]\n")
(out / "fs").mkdir()
(out / "fs" / "cpuinfo").write_text("0")
(out / "argv.json").write_text(json.dumps(sys.argv[1:]))

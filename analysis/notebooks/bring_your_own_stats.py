# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Bring your own statistics
#
# The parser reads what any gem5 writes, plain or compressed, and knows nothing of gempim's devices. The file here is an
# excerpt of a run inside gem5: llama.cpp decodes a token of SmolLM2-135M on one out-of-order core with SRAM-PIM; three
# layers and the output head, a dump each.

# %%
from pathlib import Path

import matplotlib
import pandas as pd

import gempim.analysis.notebooks as notebooks
from gempim.analysis import StatsError, iter_stats, parse_stats, style

matplotlib.rcParams.update(style.RC)
STATS = Path(notebooks.__file__).parent / "own-stats.txt"
REGIONS = ["layer 1", "layer 2", "layer 3", "head"]
sections = parse_stats(STATS)
pd.DataFrame(
    [
        {"line": s.line, "statistics": len(s.scalars), "us": s.get("simTicks") / s.get("simFreq") * 1e6}
        for s in sections
    ],
    index=REGIONS,
).round(1)

# %% [markdown]
# ## Numbers, units, vectors
#
# A statistic has its number, and the unit and the description of its comment. Whole numbers stay exact.

# %%
layer = sections[1]
DEVICE = "board.cache_hierarchy.sram_pim."
names = [name for name in layer.scalars if name.startswith(DEVICE)]
table = [(n.removeprefix(DEVICE), layer.get(n), layer.units[n], layer.descriptions[n][:60]) for n in names]
pd.DataFrame(table, columns=["statistic", "value", "unit", "description"]).head(8)

# %% [markdown]
# The classes of instructions are a vector; here their shares.

# %%
classes = pd.Series(layer.vector("board.processor.cores.core.commit.committedInstType_0"))
classes = classes.drop("total", errors="ignore")
(classes / classes.sum()).nlargest(6).round(3)

# %% [markdown]
# ## A statistic that is not there is an error
#
# with the nearest names, and never zero.

# %%
try:
    layer.get("simTick")
except StatsError as error:
    print(str(error).partition(": ")[2])

# %% [markdown]
# ## A table over dumps, from a file of any size
#
# `iter_stats` holds one section at a time; what follows is ordinary pandas. Some statistics go on counting from dump to
# dump (in this gem5 `simInsts`): of those, take differences.

# %%
WANTED = {
    "ticks": "simTicks",
    "instructions so far": "simInsts",
    "IPC": "board.processor.cores.core.ipc",
    "L1D misses": "board.cache_hierarchy.l1d.overallMisses::total",
    "PIM ticks": f"{DEVICE}commandTicks",
}
frame = pd.DataFrame([{name: s.get(stat) for name, stat in WANTED.items()} for s in iter_stats(STATS)], index=REGIONS)
frame["PIM share of the time"] = (frame["PIM ticks"] / frame["ticks"]).round(3)
frame

# %%
cycles = ("lut_build_cycles", "lookup_cycles", "accumulate_cycles", "convert_cycles", "fp_cycles")
bars = pd.DataFrame({c: [s.get(DEVICE + c) for s in sections] for c in cycles}, index=REGIONS)
axes = bars.plot.barh(stacked=True, xlabel="array cycles", color=style.PALETTE, figsize=(style.WIDTH_IN, 2.4))
axes.invert_yaxis()
axes.figure.savefig("own-stats.pdf", bbox_inches="tight")

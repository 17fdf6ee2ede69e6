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
# # Quickstart: from a model to a speedup, an energy and a price
#
# Llama-2-7B on a Neoverse-N1 socket, and on the same socket with SAIL's compute SRAM, at two bit widths and two batch
# sizes. `gempim` simulates and leaves one folder a run; everything after that reads these folders.

# %%
import io
from pathlib import Path

import pandas as pd

from gempim.analysis import compare, evaluate, explain, load_energy_table, load_prices, load_run, plots, write_report
from gempim.analysis.notebooks import gempim, save
from gempim.analysis.selection import select

RUNS = "runs/quickstart"
MODEL = ("--model", "llama-2-7b", "--quant", "q2_k,q4_0", "--batch", "1,8")
WORK = ("--prompt", "0", "--context", "512", "--tokens", "2", "--threads", "16")

# %% [markdown]
# ## Simulate
#
# One command, as in a terminal. A run that is already there is not simulated again.

# %%
table = gempim("compare", "neoverse-n1", "sail", *MODEL, *WORK, "--runs", RUNS, "-o", "csv")
shown = [
    "model",
    "quant",
    "system",
    "batch",
    "test",
    "tokens_per_s",
    "j_per_token",
    "usd_per_million_tokens",
    "speedup",
]
pd.read_csv(io.StringIO(table))[shown]

# %% [markdown]
# ## Read the runs
#
# A run folder has event counts (`stats.txt`), what each section was (`roi.jsonl`) and what was simulated
# (`manifest.json`). Energy is counts times a table of energies, and cost is a price over a rate: both tables are data
# files in which every number has a unit and a source.

# %%
energy, prices = load_energy_table("default"), load_prices()
results = [evaluate(load_run(folder), energy, prices) for folder in sorted(Path(RUNS).iterdir())]
frame = compare(results, "neoverse-n1")
frame[["system", "quant", "batch", "speedup", "j_per_token_ratio", "tokens_per_usd_ratio"]]

# %% [markdown]
# ## Where the time and the energy go

# %%
chosen = select(results, baseline="neoverse-n1")
save(plots.time_breakdown(chosen))

# %%
save(plots.energy_breakdown(chosen))

# %% [markdown]
# ## Where a number comes from
#
# Formula, numbers, counts, table rows and their sources, of one run (here the first lines).

# %%
print("\n".join(explain(results[-1]).splitlines()[:24]))

# %% [markdown]
# ## A report to send
#
# One file that needs no network, with the same numbers as Markdown, CSV and JSON beside it.

# %%
write_report(results, "report", baseline="neoverse-n1", png=False)

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
# # SAIL: what its speed depends on
#
# The paper gives neither the number of weights in a lookup (NBW), nor the arrays of a slice, nor what its pattern reuse
# table tags. Each of them is a named parameter here. This notebook moves them one at a time, and then the two things
# that a user chooses: the batch and the bit width.

# %%
from pathlib import Path

import pandas as pd

from gempim.analysis import evaluate, load_energy_table, load_prices, load_run, plots, tidy
from gempim.analysis.notebooks import gempim, save

ENERGY, PRICES = load_energy_table("default"), load_prices()
HEAD = """
[sweep]
name = "sail"
[base.experiment]
system = "sail"
[base.model]
name = "llama-2-7b"
quant = "q4_0"
[base.workload]
batch = 8
prompt = 0
context = 512
tokens = 1
threads = 16
[axes]
"""


def sweep(axis: str, values: str, key: str) -> pd.DataFrame:
    """Rates of SAIL over the values of one axis; `key` is the manifest's name of what varies."""
    folder = Path("runs") / axis
    folder.mkdir(parents=True, exist_ok=True)
    file = Path(f"{folder}.toml")
    file.write_text(f'{HEAD}"{axis}" = {values}\n')
    gempim("sweep", str(file), "--jobs", "1", "--runs", str(folder))
    results = [evaluate(load_run(run), ENERGY, PRICES) for run in sorted(folder.iterdir())]
    frame = tidy(results, [] if key in ("batch", "quant") else [key])
    return frame.rename(columns={key: "value"})[["value", "tokens_per_s", "j_per_token"]].sort_values("value")


# %% [markdown]
# ## The hardware's unknowns
#
# Arrays compute on 256 bit-lines each. More weights a lookup make fewer, larger tables; more arrays work side by side
# until the DRAM is the limit; the pattern reuse table saves lookups of activations that were just seen.

# %%
UNKNOWNS = {
    "sram_pim.nbw": ("[1, 2, 3, 4]", 4),
    "sram_pim.arrays_per_slice": ("[8, 16, 32, 64]", 32),
    "sram_pim.prt_enable": ("[true, false]", True),
    "memory.channels": ("[2, 4, 8]", 8),
}
rows = []
for name, (values, default) in UNKNOWNS.items():
    found = sweep(f"set.{name}", values, f"experiment.system.{name}")
    for value, rate in zip(found["value"], found["tokens_per_s"], strict=True):
        rows.append((name, value, "decode [tokens/s]", rate, value == default))
frame = pd.DataFrame(rows, columns=["parameter", "value", "metric", "metric_value", "is_default"])
save(plots.sensitivity_plot(frame))

# %% [markdown]
# How far each parameter moves the result, alone and around our default: the ratio of the best value to the worst.

# %%
spread = frame.groupby("parameter")["metric_value"]
(spread.max() / spread.min()).sort_values(ascending=False).round(2).rename("best over worst")

# %% [markdown]
# ## Batch
#
# A lookup table is built from weights and read with activations: a batch reads one table several times.

# %%
sweep("workload.batch", "[1, 2, 4, 8, 16]", "batch").set_index("value").round(3)

# %% [markdown]
# ## Bits
#
# Fewer bits are fewer rows of an array and fewer bytes of DRAM. The rate does not follow the bits alone: the K types
# have scales of sub-blocks, which cost multiplications.

# %%
sweep("model.quant", '["q2_k", "q3_k", "q4_0", "q4_k", "q6_k", "q8_0"]', "quant").set_index("value").round(3)

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


def sweep(name: str, axes: dict[str, str]) -> pd.DataFrame:
    """Rates of SAIL over the product of axes; parameters of the system are columns by their names."""
    file = Path("runs") / f"{name}.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(HEAD + "".join(f'"{axis}" = {values}\n' for axis, values in axes.items()))
    folder = Path("runs") / name
    gempim("sweep", str(file), "--jobs", "1", "--runs", str(folder))
    results = [evaluate(load_run(run), ENERGY, PRICES) for run in sorted(folder.iterdir())]
    keys = {axis.replace("set.", "experiment.system."): axis.removeprefix("set.") for axis in axes if "set." in axis}
    return tidy(results, list(keys)).rename(columns=keys)


# %% [markdown]
# ## The hardware's unknowns
#
# Arrays compute on 256 bit-lines each. More weights a lookup make fewer, larger tables; the pattern reuse table saves
# lookups of activations that were just seen; more arrays work side by side until something else is the limit.

# %%
NBW, PRT, ARRAYS, CHANNELS = "sram_pim.nbw", "sram_pim.prt_enable", "sram_pim.arrays_per_slice", "memory.channels"
lookups = sweep("lookups", {f"set.{NBW}": "[1, 2, 3, 4]", f"set.{PRT}": "[true, false]"})
machine = sweep("machine", {f"set.{ARRAYS}": "[8, 16, 32, 64]", f"set.{CHANNELS}": "[4, 8]"})
lookups.pivot(index=NBW, columns=PRT, values="tokens_per_s").round(1)

# %%
machine.pivot(index=ARRAYS, columns=CHANNELS, values="tokens_per_s").round(1)

# %% [markdown]
# ## One at a time, around the defaults

# %%
DEFAULTS = {NBW: 4, PRT: True, ARRAYS: 32, CHANNELS: 8}
rows = []
for frame, pair in ((lookups, (NBW, PRT)), (machine, (ARRAYS, CHANNELS))):
    for name, other in (pair, pair[::-1]):
        alone = frame[frame[other] == DEFAULTS[other]]
        for value, rate in zip(alone[name], alone["tokens_per_s"], strict=True):
            rows.append((name, value, "decode [tokens/s]", rate, value == DEFAULTS[name]))
effects = pd.DataFrame(rows, columns=["parameter", "value", "metric", "metric_value", "is_default"])
save(plots.sensitivity_plot(effects))

# %% [markdown]
# How far each parameter moves the result, alone: the ratio of the best value to the worst.

# %%
spread = effects.groupby("parameter")["metric_value"]
(spread.max() / spread.min()).sort_values(ascending=False).round(2).rename("best over worst")

# %% [markdown]
# ## Batch and bits
#
# A lookup table is built from weights and read with activations, so a batch reads one table several times. Fewer bits
# are fewer rows of an array and fewer bytes of DRAM; but the rate does not follow the bits alone, since the K types have
# scales of sub-blocks, which cost multiplications.

# %%
quants = ["q2_k", "q3_k", "q4_0", "q4_k", "q6_k", "q8_0"]
work = sweep("work", {"workload.batch": "[1, 4, 16]", "model.quant": str(quants).replace("'", '"')})
work.pivot(index="quant", columns="batch", values="tokens_per_s").round(1)

# %% [markdown]
# Energy per token falls with the batch as the time does: what is static is shared.

# %%
work.pivot(index="quant", columns="batch", values="j_per_token").round(3)

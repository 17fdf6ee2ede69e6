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
# # Cost per token across systems
#
# A CPU socket, the same socket with SAIL, and a V100 as a roofline (faster than any real one), all at one batch size.
# Cost is a price over a rate, so it is as good as the price: none of the shipped prices has a primary source, and each
# carries its date. What matters for a claim is how far a price may move before the order of systems changes.

# %%
from pathlib import Path

import pandas as pd

from gempim.analysis import compare, evaluate, load_energy_table, load_prices, load_run, plots
from gempim.analysis.cost import cost_band
from gempim.analysis.notebooks import gempim, save
from gempim.analysis.selection import select

RUNS = "runs/cost"
SYSTEMS = ("neoverse-n1", "sail", "v100")
WORK = ("--prompt", "0", "--context", "512", "--tokens", "2", "--threads", "16")
gempim("compare", *SYSTEMS, "--model", "llama-2-7b", "--quant", "q2_k", "--batch", "8", *WORK, "--runs", RUNS)

energy, prices = load_energy_table("default"), load_prices()
results = [evaluate(load_run(folder), energy, prices) for folder in sorted(Path(RUNS).iterdir())]
results.sort(key=lambda result: SYSTEMS.index(result.run.system))
frame = compare(results, "neoverse-n1")
frame[["system", "tokens_per_s", "usd_per_million_tokens", "tokens_per_usd", "tokens_per_usd_ratio"]].round(3)

# %% [markdown]
# ## What an hour costs, and why
#
# The CPU instance is prorated by cores; PIM adds its area as silicon that is rented with its host. Every factor stands
# in the formula, and both of the PIM's are in the price file, where they can be changed.

# %%
for result in results:
    price = result.hourly.price
    print(f"{result.run.system}: {result.hourly.usd_per_hour:.3f} USD/h = {result.hourly.formula}")
    print(f"  {price.provider} {price.instance}, {price.region}, entered {price.date}, {price.status}")

# %% [markdown]
# ## Utilisation and price
#
# Utilisation 1 means that tokens are made in all of the paid time. The same factor on all systems moves none of their
# ratios; a different one on each does.

# %%
rows = {
    result.run.system: {
        cell.title: cell.usd_per_million_tokens
        for cell in cost_band(result.decode.tokens_per_s, result.hourly.usd_per_hour)
    }
    for result in results
    if result.decode is not None
}
pd.DataFrame(rows).T.round(2)

# %%
save(plots.cost_band_plot(select(results, baseline="neoverse-n1")))

# %% [markdown]
# ## Break-even
#
# How many times its price may a system cost until its tokens cost what the baseline's do?

# %%
frame.set_index("system")["tokens_per_usd_ratio"].rename("break-even price").round(2)

# %% [markdown]
# ## The overhead of PIM
#
# The paper says about 2 % hardware overhead, of what it does not say. If the whole price were silicon, and the overhead
# five or ten times as large:

# %%
factors = {}
for overhead in (0.02, 0.1, 0.2, 0.5):
    own = [evaluate(result.run, energy, prices, {"area_overhead": overhead}) for result in results]
    row = compare(own, "neoverse-n1").set_index("system").loc["sail"]
    factors[overhead] = row["tokens_per_usd_ratio"]
pd.Series(factors, name="tokens per dollar of SAIL over the CPU").rename_axis("area overhead").round(2)

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
# # Duplex against GPUs: serving a mixture of experts
#
# Four devices serve Mixtral-8x7B with continuous batching, in the steady state: as GPUs, as Duplex (Logic-PIM on the
# HBM's logic die), and as Duplex with expert and attention co-processing (`-pe-et`). The runs here answer few requests,
# so that the notebook is quick; the grid behind the validation page is larger.

# %%
from pathlib import Path

from gempim.analysis import load_energy_table, load_prices
from gempim.analysis.notebooks import gempim, save
from gempim.analysis.plots import serving as plots
from gempim.analysis.report.serving import write_serve_report
from gempim.analysis.serving import evaluate_serve, load_serve_run
from gempim.analysis.serving.table import frame, texts

SYSTEMS = ("gpu-h100", "duplex", "duplex-pe-et")
RUNS = "runs/duplex"
LOAD = ("--batch", "32,64", "--lin", "256", "--lout", "256", "--devices", "4", "--requests", "8")

# %%
gempim("compare", *SYSTEMS, "--model", "mixtral-8x7b", *LOAD, "--runs", RUNS)
prices = load_prices("accelerators")
runs = [load_serve_run(folder) for folder in sorted(Path(RUNS).iterdir())]
runs.sort(key=lambda run: (SYSTEMS.index(run.system), run.experiment["scheduler"]["max_batch"]))
results = [evaluate_serve(run, load_energy_table(run.experiment["energy_table"]), prices) for run in runs]
rows = frame(results, "gpu-h100 x4")
texts(rows)

# %% [markdown]
# ## Throughput
#
# The stages of decoding wait for memory, which Logic-PIM reads four times as fast; larger batches make the experts'
# products compute-bound again, and the advantage shrinks.

# %%
save(plots.throughput_bars(results))

# %% [markdown]
# ## Time and energy by kind of layer

# %%
save(plots.time_bars(results))

# %%
save(plots.energy_bars(results))

# %% [markdown]
# ## Latency
#
# Medians and tails of the time between tokens, as ratios to the GPUs: a faster median can come with an equal tail,
# since the tail is made of stages that also prefill.

# %%
rows[["system", "max_batch", "tbt_p50_ratio", "tbt_p99_ratio", "j_per_token_ratio"]].round(3)

# %%
write_serve_report(results, "report-duplex", baseline="gpu-h100 x4", png=False)

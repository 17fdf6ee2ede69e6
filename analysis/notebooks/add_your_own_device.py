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
# # Add your own device
#
# A system is a data file. It can extend another one and change parameters, or state a device of its own kind. Every
# number has a unit, a scope, a source and a kind, and reports list those that are choices: a reviewer sees them.
#
# A device that works in another way than the shipped ones is a C++ class that takes commands and gives times and
# counts; the README beside `src_ext/models` says what it must do. Energies of its counters are rows of an energy table.

# %%
from pathlib import Path

from gempim.analysis import compare, evaluate, load_energy_table, load_prices, load_run, plots
from gempim.analysis.notebooks import gempim, save
from gempim.analysis.selection import select

# %% [markdown]
# ## A variant of SAIL
#
# Half the arrays at twice the clock: the same peak, with fewer tables to fill.

# %%
_ = Path("narrow-sail.toml").write_text("""
[system]
name = "narrow-sail"
title = "SAIL with half the arrays at twice the clock"
kind = "cpu+sram_pim"
extends = "sail"
description = "For the notebook: fewer, faster arrays."

[sram_pim]
arrays_per_slice = { value = 16, unit = "arrays", scope = "slice", source = "half of the shipped figure", kind = "choice" }
clock_ps = { value = 500, unit = "ps", scope = "array", source = "2 GHz, near BLADE's 2.2 GHz", kind = "choice" }
""")

# %% [markdown]
# ## An accelerator of your own
#
# The roofline kind needs two peaks and a memory size. Efficiencies of 1.0 make it an upper bound. Every statistic that an
# energy table watches needs a row, or a reason why it has none: otherwise totals are lower bounds, and say so.

# %%
_ = Path("my-npu.toml").write_text("""
[system]
name = "my-npu"
title = "An imagined NPU with LPDDR5X"
kind = "gpu-roofline"
description = "Every operator at the stated share of peak arithmetic or bandwidth."
energy_table = "my-npu-energy.toml"
price = "gcp-v100"
not_modelled = ["kernel launches and caches between operators"]

[gpu]
peak_flops_per_s = { value = 40e12, unit = "flop/s", scope = "device", source = "the notebook's assumption", kind = "choice" }
peak_bytes_per_s = { value = 273e9, unit = "byte/s", scope = "device", source = "256 bit of LPDDR5X-8533", kind = "derived" }
memory_bytes = { value = 34359738368, unit = "byte", scope = "device", source = "32 GiB, assumed", kind = "choice" }
compute_efficiency = { value = 0.6, unit = "fraction", scope = "device", source = "the notebook's assumption", kind = "choice" }
bandwidth_efficiency = { value = 0.8, unit = "fraction", scope = "device", source = "the notebook's assumption", kind = "choice" }
""")
_ = Path("my-npu-energy.toml").write_text("""
schema = 1
title = "NPU: energy by events"
outside = ["the NPU's host", "leakage"]
watch = ["system.*"]

[inputs]
dram_pj_per_bit = { value = 4.0, unit = "pJ/bit", scope = "LPDDR5X with its interface", source = "the notebook's assumption", kind = "choice" }
flop_pj = { value = 0.5, unit = "pJ", scope = "operation with its local SRAM", source = "the notebook's assumption", kind = "choice" }

[[row]]
component = "npu.dram"
stat = "system.gpu.bytes"
per = "count"
node = "5 nm"
energy = { formula = "8 * dram_pj_per_bit", unit = "pJ", scope = "byte", source = "eight bits a byte", kind = "derived" }

[[row]]
component = "npu.compute"
stat = "system.gpu.flops"
per = "count"
node = "5 nm"
energy = { formula = "flop_pj", unit = "pJ", scope = "operation", source = "as the input", kind = "derived" }

[[covered]]
stat = "system.gpu.busy_ps"
reason = "a time and no event"
""")

# %% [markdown]
# ## Compare them with what is shipped
#
# Files stand where names do. A wrong key, unit or range is one line that names the file and the key. The NPU borrows a
# price that is per device, and sets it.

# %%
WORK = ("--prompt", "0", "--context", "512", "--tokens", "2", "--threads", "16")
MODEL = ("--model", "llama-2-7b", "--quant", "q4_0", "--batch", "8")
SYSTEMS = ("neoverse-n1", "sail", "narrow-sail.toml", "my-npu.toml")
PRICE = {"gcp-v100.usd_per_hour": 1.0}
print(gempim("compare", *SYSTEMS, *MODEL, *WORK, "--runs", "runs/own", "--price", "gcp-v100.usd_per_hour=1.0"))

# %%
prices = load_prices()
runs = [load_run(folder) for folder in Path("runs/own").iterdir()]
runs.sort(key=lambda run: [Path(name).stem for name in SYSTEMS].index(run.system))
results = [evaluate(run, load_energy_table(run.experiment["energy_table"]), prices, PRICE) for run in runs]
frame = compare(results, "neoverse-n1")
frame[["system", "tokens_per_s", "speedup", "j_per_token", "j_per_token_ratio"]].round(3)

# %%
save(plots.energy_breakdown(select(results, baseline="neoverse-n1")))

# %% [markdown]
# ## What a report will say of your numbers
#
# The choices that a run made, as its manifest has them: those of the variant.

# %%
variant = next(run for run in runs if run.system == "narrow-sail")
own = [c for c in variant.manifest["choices"] if c["key"].endswith(("arrays_per_slice", "sram_pim.clock_ps"))]
[(choice["key"], choice["value"], choice["unit"], choice["source"]) for choice in own]

# %% [markdown]
# What stands inside the joule figure of your device, and what does not, comes from its energy table.

# %%
print(results[-1].boundary)

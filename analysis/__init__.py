"""From run directories to tables, energy, cost and reports. Reads run directories and data files only.

`load_run` -> `evaluate` (with `load_energy_table` and `load_prices`) -> `compare` -> `render_table` or `write_report`.
"""

from gempim.analysis.cost import PriceTable, load_prices, parse_overrides
from gempim.analysis.energy import EnergyTable, load_energy_table, measure_energy
from gempim.analysis.explain import explain
from gempim.analysis.llama_bench import Measured, load_llama_bench
from gempim.analysis.report import write_report
from gempim.analysis.result import Phase, Result, evaluate
from gempim.analysis.run import Run, RunError, load_run
from gempim.analysis.stats import Section, StatsError, iter_stats, parse_stats
from gempim.analysis.table import compare, render_table, tidy
from gempim.analysis.uncertainty import Error, Interval
from gempim.analysis.validation import check, load_claims, render_page

__all__ = [
    "EnergyTable",
    "Error",
    "Interval",
    "Measured",
    "Phase",
    "PriceTable",
    "Result",
    "Run",
    "RunError",
    "Section",
    "StatsError",
    "check",
    "compare",
    "evaluate",
    "explain",
    "iter_stats",
    "load_claims",
    "load_energy_table",
    "load_llama_bench",
    "load_prices",
    "load_run",
    "measure_energy",
    "parse_overrides",
    "parse_stats",
    "render_page",
    "render_table",
    "tidy",
    "write_report",
]

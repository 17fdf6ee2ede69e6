"""From run directories to tables, energy, cost and reports. Reads run directories and data files only.

`load_run` -> `evaluate` (with `load_energy_table` and `load_prices`) -> `compare` -> `render_table` or `write_report`.
"""

from gempim.analysis.cost import PriceTable, load_prices, parse_overrides
from gempim.analysis.diff import Diff, diff_runs
from gempim.analysis.energy import EnergyTable, load_energy_table, measure_energy
from gempim.analysis.explain import explain
from gempim.analysis.foreign import load_foreign
from gempim.analysis.inspection import Inspection, inspect_stats
from gempim.analysis.llama_bench import Measured, load_llama_bench
from gempim.analysis.report import write_report
from gempim.analysis.result import Phase, Result, evaluate
from gempim.analysis.run import Run, RunError, load_run
from gempim.analysis.source import Source, open_source
from gempim.analysis.stats import Section, StatsError, iter_stats, parse_stats
from gempim.analysis.table import compare, render_table, tidy
from gempim.analysis.tidy_counters import tidy_stats, write_tidy
from gempim.analysis.uncertainty import Error, Interval
from gempim.analysis.validation import check, load_claims, render_page

__all__ = [
    "Diff",
    "EnergyTable",
    "Error",
    "Inspection",
    "Interval",
    "Measured",
    "Phase",
    "PriceTable",
    "Result",
    "Run",
    "RunError",
    "Section",
    "Source",
    "StatsError",
    "check",
    "compare",
    "diff_runs",
    "evaluate",
    "explain",
    "inspect_stats",
    "iter_stats",
    "load_claims",
    "load_energy_table",
    "load_foreign",
    "load_llama_bench",
    "load_prices",
    "load_run",
    "measure_energy",
    "open_source",
    "parse_overrides",
    "parse_stats",
    "render_page",
    "render_table",
    "tidy",
    "tidy_stats",
    "write_report",
    "write_tidy",
]

"""Statistics that gem5 (any version from v22.1 to v25) or the embedded engine wrote, from text, gzip or JSON.

`iter_stats` reads; `quantity` and `total` find a statistic under the name that its gem5 version gives it.
"""

from gempim.analysis.stats.names import Names, load_names, quantity, total, true_unit, versions
from gempim.analysis.stats.read import iter_stats, parse_stats
from gempim.analysis.stats.section import Number, Section, StatsError, parse_number
from gempim.analysis.stats.traps import dram_energy_j, notes

__all__ = [
    "Names",
    "Number",
    "Section",
    "StatsError",
    "dram_energy_j",
    "iter_stats",
    "load_names",
    "notes",
    "parse_number",
    "parse_stats",
    "quantity",
    "total",
    "true_unit",
    "versions",
]

"""Figures: each function takes a selection of results and gives a `Plot` with title, caption, words for the blind."""

from gempim.analysis.plots.breakdown import cost_bars, energy_breakdown, time_breakdown
from gempim.analysis.plots.cost import cost_band_plot
from gempim.analysis.plots.figure import Plot
from gempim.analysis.plots.roofline import roofline
from gempim.analysis.plots.sensitivity import sensitivity_plot
from gempim.analysis.plots.throughput import throughput_by

__all__ = [
    "Plot",
    "cost_band_plot",
    "cost_bars",
    "energy_breakdown",
    "roofline",
    "sensitivity_plot",
    "throughput_by",
    "time_breakdown",
]

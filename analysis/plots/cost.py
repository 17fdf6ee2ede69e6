"""What a million tokens cost over the utilisation and the price, both of which are assumptions."""

from __future__ import annotations

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from gempim.analysis.cost import BAND_PRICES, usd_per_million_tokens
from gempim.analysis.plots.figure import Plot, add_legend, colour, panels, styled
from gempim.analysis.selection import Selection
from gempim.analysis.table import significant

_LOWEST_UTILISATION = 0.1


@styled
def cost_band_plot(selection: Selection) -> Plot:
    """Dollars per million tokens over utilisation, one line a run, with a band from half to twice its price.

    One panel a comparison group. Where two bands overlap, which system is cheaper depends on prices and not on rates.
    """
    label = selection.label
    systems = [s for s in selection.systems if any(case.system == s for case in selection.cases)]
    figure, axes = panels(
        [1.9 if len(selection.groups) == 1 else 1.45] * len(selection.groups),
        [group.title for group in selection.groups],
        columns=2,
        left_in=0.62,
        legend=systems,
        xlabel="utilisation of the paid time",
        ylabel="USD per million tokens",
        share=True,
    )
    shares = np.linspace(_LOWEST_UTILISATION, 1.0, 46)
    words, drawn = [], []
    for one, group in zip(axes, selection.groups, strict=True):
        for case in group.cases:
            hourly, rate = case.result.hourly.usd_per_hour, case.phase.tokens_per_s
            costs = np.array([usd_per_million_tokens(rate, hourly, float(u)) for u in shares])
            fill, marker = colour(selection.systems, case.system)
            one.fill_between(
                shares, costs * BAND_PRICES[0], costs * BAND_PRICES[1], color=fill, alpha=0.16, linewidth=0
            )
            one.plot(shares, costs, color=fill, marker=marker, markevery=15, markersize=4.5)
            drawn += [costs[0] * BAND_PRICES[1], costs[-1] * BAND_PRICES[0]]
            words.append(
                f"{group.title}, {case.name}: {significant(costs[-1])} dollars at full utilisation, "
                f"{significant(costs[0])} at {_LOWEST_UTILISATION:.0%}"
            )
        one.grid()
    axes[0].set_yscale("log")
    axes[0].set_ylim(min(drawn) / 1.2, max(drawn) * 1.2)
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if max(drawn) / min(drawn) < 3000 else (1.0,)))
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[0].set_xticks([0.1, 0.3, 0.5, 0.7, 1.0], ["0.1", "0.3", "0.5", "0.7", "1"])
    handles = []
    for system in systems:
        fill, marker = colour(selection.systems, system)
        handles.append(Line2D([], [], color=fill, marker=marker, markersize=4.5))
    add_legend(figure, handles, systems)
    low, high = BAND_PRICES
    return Plot(
        name=f"cost-band-{label}",
        title=f"Cost over utilisation and price, {label}",
        alt=f"Lines of dollars per million tokens over utilisation in {label}, with bands for the price. "
        f"{'; '.join(words)}.",
        caption=f"Lines: at each run's price. Bands: from {low:g} to {high:g} times it. Logarithmic scale."
        + (f" {selection.note}" if selection.note else ""),
        figure=figure,
    )

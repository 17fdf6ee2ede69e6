"""How a metric moves with the parameters that a paper does not give."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from gempim.analysis import style
from gempim.analysis.plots.figure import Plot, panels, styled
from gempim.analysis.table import significant
from gempim.quantity import DataError


@styled
def sensitivity_plot(frame: pd.DataFrame, columns: int = 2) -> Plot:
    """How a metric moves with each of up to four parameters, one panel a parameter, on one common scale.

    `frame` has the columns ``parameter``, ``value`` (number or text), ``metric`` (name with unit), ``metric_value`` and
    ``is_default`` (true on the row with the default value), one row a simulation. Raises DataError for a missing
    column, several metrics, more than four parameters, or a parameter without exactly one default row or without a
    second value.
    """
    need = ("parameter", "value", "metric", "metric_value", "is_default")
    missing = [name for name in need if name not in frame]
    if missing:
        raise DataError(f"sensitivity frame: missing column {missing[0]!r} (needs: {', '.join(need)})")
    if frame["metric"].nunique() != 1:
        raise DataError(f"sensitivity frame: one metric at a time, got {', '.join(map(str, frame['metric'].unique()))}")
    names = list(dict.fromkeys(frame["parameter"]))
    if not 1 <= len(names) <= 4:
        raise DataError(f"sensitivity frame: 1 to 4 parameters, got {len(names)}")
    metric = str(frame["metric"].iloc[0])
    figure, grid = panels(
        [1.15] * len(names),
        [name.rpartition(".")[2] for name in names],
        columns=columns,
        left_in=0.62,
        ylabel=metric,
        share=False,
    )
    words = []
    top = float(frame["metric_value"].max()) * 1.12
    for index, name in enumerate(names):
        part = frame[frame["parameter"] == name]
        if int(part["is_default"].sum()) != 1 or len(part) < 2:
            raise DataError(f"sensitivity frame: {name}: needs one default row and at least one other")
        words.append(_panel(grid[index], name, part, top))
    return Plot(
        name="sensitivity",
        title=f"Sensitivity of {metric} to parameters that the paper does not give",
        alt=f"Small panels of {metric} over one parameter each. {'; '.join(words)}.",
        caption="Filled marker: our default. Each panel changes one parameter and keeps the others at their defaults.",
        figure=figure,
    )


def _panel(axes: Axes, name: str, part: pd.DataFrame, top: float) -> str:
    numeric = all(isinstance(v, int | float | np.number) and not isinstance(v, bool | np.bool_) for v in part["value"])
    part = part.sort_values("value") if numeric else part
    # Evenly spaced: sweeps are over powers of two, switches and names alike.
    xs = np.arange(len(part))
    ys = part["metric_value"].astype(float).to_numpy()
    axes.plot(xs, ys, color=style.PALETTE[0], marker="o", markerfacecolor="white")
    default = np.flatnonzero(part["is_default"].to_numpy())
    axes.plot(xs[default], ys[default], color=style.PALETTE[3], marker="o", markersize=7, linestyle="none", zorder=4)
    shown = [f"{v:g}" if numeric else str(v) for v in part["value"]]
    axes.set_xticks(xs, shown)
    axes.grid(axis="y")
    axes.set_ylim(0, top)
    axes.margins(x=0.08)
    low, high, middle = (significant(float(y)) for y in (ys.min(), ys.max(), ys[default[0]]))
    return f"{name}: {low} to {high}, default {middle}"

"""The roofline: every operator over its arithmetic intensity. One panel a comparison group."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from gempim.analysis.plots.figure import Plot, add_legend, colour, panels, styled
from gempim.analysis.roofline import Roof, points_of, roof_of
from gempim.analysis.selection import Selection

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_CLOSE = 6.0
"""Ceilings nearer than this ratio stand too close for a name between them."""


@styled
def roofline(selection: Selection) -> Plot:
    """Every operator of the selected runs over its arithmetic intensity, under the roofs of its system.

    Operators without DRAM traffic stand at the right edge; operators without arithmetic are named in the caption. The
    roofs come from the manifest (``experiment.system.peaks``); without them the caption says so.
    """
    label = selection.label
    series = [
        [(case.system, points_of(case.result.run, label), roof_of(case.result.run)) for case in group.cases]
        for group in selection.groups
    ]
    flat = [one for group in series for one in group]
    points = [p for _, own, _ in flat for p in own]
    roofs = [roof for _, _, roof in flat if roof is not None]
    finite = [p.intensity for p in points if p.flops and math.isfinite(p.intensity)]
    low, high = (min(finite) / 3, max(finite) * 8) if finite else (0.1, 100.0)
    high = max([high, *(peak / roof.bytes_per_s * 4 for roof in roofs for peak in roof.flops_per_s.values())])
    systems = [system for system in selection.systems if any(system == name for name, _, _ in flat)]
    figure, axes = panels(
        [2.2 if len(series) == 1 else 1.7] * len(series),
        [group.title for group in selection.groups],
        columns=2,
        left_in=0.62,
        legend=systems,
        xlabel="arithmetic intensity (FLOP per DRAM byte)",
        ylabel="GFLOP/s",
        share=True,
    )
    for one, group in zip(axes, series, strict=True):
        ceilings: dict[float, list[str]] = {}
        roofed: list[tuple[str, Roof]] = []
        for position, (system, own, roof) in enumerate(group):
            fill, marker = colour(selection.systems, system)
            drawn = [p for p in own if p.flops]
            one.scatter(
                [min(p.intensity, high / 1.3) for p in drawn],
                [p.flops_per_s / 1e9 for p in drawn],
                # What a system shares with the baseline stays visible around it.
                s=34 if position == 0 and len(group) > 1 else 16,
                color=fill,
                marker=marker,
                alpha=0.85,
                linewidths=0.3,
                edgecolors="white",
                zorder=3,
            )
            if roof is not None and (system, roof) not in roofed:
                roofed.append((system, roof))
                _draw_roof(one, roof, (low, high), fill, 1.0 if roofed[:-1] else 2.4, ceilings)
        _name_ceilings(one, ceilings, high)
        one.grid(which="major")
    first = axes[0]
    first.set_xscale("log")
    first.set_yscale("log")
    first.set_xlim(low, high)
    if not roofs and not any(p.flops for p in points):
        first.set_ylim(0.1, 100.0)  # nothing is drawn; a logarithmic axis needs its range all the same
    for which in (first.xaxis, first.yaxis):
        which.set_major_locator(LogLocator(numticks=6))
        which.set_minor_locator(NullLocator())
        which.set_major_formatter(FuncFormatter(_power_of_ten))
    handles = []
    for system in systems:
        fill, marker = colour(selection.systems, system)
        handles.append(Line2D([], [], color=fill, marker=marker, markersize=4.5, linewidth=1.2))
    add_legend(figure, handles, systems)
    idle = sorted({p.name for p in points if not p.flops})
    resident = sorted({p.name for p in points if p.flops and not math.isfinite(p.intensity)})
    caption = (
        "Lines are the peaks in each run's manifest."
        if roofs
        else ("The manifests give no peaks, so no roof is drawn.")
    )
    if resident:
        caption += f" No DRAM traffic, at the right edge: {', '.join(resident)}."
    if idle:
        caption += f" No arithmetic, not drawn: {', '.join(idle)}."
    titles = "; ".join(group.title for group in selection.groups)
    return Plot(
        name=f"roofline-{label}",
        title=f"Roofline, {label}",
        alt=f"Log-log scatter of the operators of {', '.join(systems)} in {label} ({titles}): GFLOP per second over "
        "FLOP per DRAM byte, with the compute and memory roofs of each system.",
        caption=caption + (f" {selection.note}" if selection.note else ""),
        figure=figure,
    )


def _power_of_ten(value: float, _: object) -> str:
    # As text and not as mathtext, which costs ten times the drawing time and loses the page's font.
    return "10" + str(round(math.log10(value))).translate(_SUPERSCRIPT)


def _draw_roof(
    axes: Axes, roof: Roof, ends: tuple[float, float], color: str, width: float, ceilings: dict[float, list[str]]
) -> None:
    low, high = ends
    best = max(roof.flops_per_s.values())
    ridge = best / roof.bytes_per_s
    xs = [low, ridge, high] if low < ridge < high else [low, high]
    axes.plot(xs, [min(best, x * roof.bytes_per_s) / 1e9 for x in xs], color=color, linewidth=width)
    # Devices that share the memory share its slope; each has its own ceiling from its own ridge on.
    for device, peak in roof.flops_per_s.items():
        start = max(low, peak / roof.bytes_per_s)
        if start < high:
            line = "--" if peak < best else "-"
            axes.plot([start, high], [peak / 1e9] * 2, color=color, linewidth=0.9, linestyle=line)
            # Systems on one host share a ceiling; its name is written once.
            names = ceilings.setdefault(peak, [])
            names += [] if device in names else [device]


def _name_ceilings(axes: Axes, ceilings: dict[float, list[str]], high: float) -> None:
    above = math.inf
    for peak in sorted(ceilings, reverse=True):
        # Between two ceilings that are close there is no room for a name: the lower one's goes under it.
        under = above / peak < _CLOSE
        axes.annotate(
            ", ".join(ceilings[peak]),
            (high, peak / 1e9),
            xytext=(-2, -2 if under else 1.5),
            textcoords="offset points",
            ha="right",
            va="top" if under else "bottom",
            fontsize=7.5,
        )
        above = peak

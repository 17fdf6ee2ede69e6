"""Bars: where time and energy of a token go, and what a million tokens cost. One panel a comparison group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gempim.analysis import style
from gempim.analysis.plots.figure import Plot, add_legend, colour, panels, styled, text_width_in, two_lines
from gempim.analysis.selection import Group, Selection
from gempim.analysis.table import significant

_TOP_OPERATORS = 7
_REST = "other operators"
# A fixed order gives each part of the machine the same colour in every figure.
_COMPONENTS = ("dram", "cpu", "sram_pim", "cache", "noc", "uncore", "gpu")
_OWN_SCALE = " Each panel has its own scale."


def _caption(text: str, selection: Selection) -> str:
    scale = _OWN_SCALE if len(selection.groups) > 1 else ""
    return f"{text}{scale}" + (f" {selection.note}" if selection.note else "")


def _words(selection: Selection, values: dict[int, str]) -> str:
    """What the bars say, panel by panel, for the text of the figure."""
    index = 0
    said = []
    for group in selection.groups:
        parts = []
        for case in group.cases:
            parts.append(f"{case.name} {values[index]}")
            index += 1
        said.append(f"{group.title}: {', '.join(parts)}")
    return "; ".join(said)


def _bar_panels(
    groups: Sequence[Group], names: Sequence[Sequence[str]], xlabel: str, legend: Sequence[str]
) -> tuple[Figure, list[Axes]]:
    """Empty panels for horizontal bars."""
    shown = [[two_lines(name) for name in group] for group in names]
    heights = [sum(0.27 + 0.14 * name.count("\n") for name in group) + 0.06 for group in shown]
    left = text_width_in([name for group in shown for name in group]) + 0.12
    titles = [group.title for group in groups]
    figure, axes = panels(heights, titles, columns=1, left_in=left, legend=legend, xlabel=xlabel)
    for one, group in zip(axes, shown, strict=True):
        one.set_yticks(np.arange(len(group)), group)
        one.set_ylim(len(group) - 0.5, -0.5)
        one.tick_params(axis="y", length=0, labelsize=9)
        one.grid(axis="x")
        one.xaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def _stacked(
    selection: Selection,
    parts: Sequence[dict[str, float]],
    names: Sequence[Sequence[str]],
    order: Sequence[str],
    xlabel: str,
) -> Figure:
    colours = {
        part: style.PALETTE[-1] if part == _REST else style.PALETTE[min(i, len(style.PALETTE) - 1)]
        for i, part in enumerate(order)
    }
    figure, axes = _bar_panels(selection.groups, names, xlabel, order)
    start = 0
    for one, group in zip(axes, selection.groups, strict=True):
        own = parts[start : start + len(group.cases)]
        start += len(group.cases)
        positions = np.arange(len(own))
        left = np.zeros(len(own))
        for part in order:
            values = np.array([p.get(part, 0.0) for p in own])
            drawn = np.flatnonzero(values)
            one.barh(
                positions[drawn],
                values[drawn],
                left=left[drawn],
                height=0.68,
                color=colours[part],
                edgecolor="white",
                linewidth=0.3,
            )
            left += values
        _say(one, [(float(total), significant(float(total))) for total in left])
    add_legend(figure, [Patch(color=colours[part]) for part in order], order)
    return figure


def _say(axes: Axes, ends: Sequence[tuple[float, str]]) -> None:
    """Write a text after the end of each bar, and make the axis long enough for it."""
    width = axes.get_position().width * style.WIDTH_IN
    longest = 0.0
    for position, (x, text) in enumerate(ends):
        axes.annotate(text, (x, position), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5)
        longest = max(longest, x / (1 - (text_width_in([text]) + 0.06) / width))
    axes.set_xlim(0, longest)


def _case_names(selection: Selection) -> list[list[str]]:
    return [[case.name for case in group.cases] for group in selection.groups]


@styled
def time_breakdown(selection: Selection) -> Plot:
    """Time per token by operator, one bar a run; the largest operators by name, the rest together."""
    label = selection.label
    totals: dict[str, float] = {}
    for case in selection.cases:
        for name, ps in case.phase.time_ps_by_operator.items():
            totals[name] = totals.get(name, 0.0) + ps / case.phase.sim_ps
    order = sorted(totals, key=lambda name: -totals[name])
    # Seven by name and a rest; never a rest of one.
    kept = order if len(order) <= _TOP_OPERATORS + 1 else order[:_TOP_OPERATORS]
    parts = []
    for case in selection.cases:
        part: dict[str, float] = {}
        for name, ps in case.phase.time_ps_by_operator.items():
            key = name if name in kept else _REST
            part[key] = part.get(key, 0.0) + ps / case.phase.tokens * 1e-9
        parts.append(part)
    shown = kept if len(kept) == len(order) else [*kept, _REST]
    words = {
        i: f"{significant(sum(p.values()))} ms, most in {max(p, key=lambda k, p=p: p[k])}"  # type: ignore[misc]
        for i, p in enumerate(parts)
    }
    return Plot(
        name=f"time-{label}",
        title=f"Time per token by operator, {label}",
        alt=f"Stacked bars of milliseconds per token by operator in {label}. {_words(selection, words)}.",
        caption=_caption(
            "Operators of one pass run one after another, so the parts add up to the time of a token.", selection
        ),
        figure=_stacked(selection, parts, _case_names(selection), shown, "milliseconds per token"),
    )


@styled
def energy_breakdown(selection: Selection) -> Plot:
    """Energy per token by part of the machine, one bar a run."""
    label = selection.label
    parts = [case.phase.j_per_token_by_component(1) for case in selection.cases]
    present = list(dict.fromkeys(name for part in parts for name in part))
    order = [name for name in _COMPONENTS if name in present] + [name for name in present if name not in _COMPONENTS]
    names = [
        [f"{case.name} (≥)" if case.phase.energy.is_lower_bound else case.name for case in group.cases]
        for group in selection.groups
    ]
    words = {i: f"{significant(sum(p.values()))} J" for i, p in enumerate(parts)}
    return Plot(
        name=f"energy-{label}",
        title=f"Energy per token by part, {label}",
        alt=f"Stacked bars of joules per token by part of the machine in {label}. {_words(selection, words)}.",
        caption=_caption("What is inside this figure and what is not stands under the energy table.", selection),
        figure=_stacked(selection, parts, names, order, "joules per token"),
    )


@styled
def cost_bars(selection: Selection, lowest_utilisation: float = 0.3) -> Plot:
    """Dollars per million tokens, one bar a run, with a line up to the cost at `lowest_utilisation`."""
    label = selection.label
    costs = [case.phase.usd_per_million_tokens for case in selection.cases]
    figure, axes = _bar_panels(selection.groups, _case_names(selection), "USD per million tokens", ())
    for one, group in zip(axes, selection.groups, strict=True):
        ends = []
        for position, case in enumerate(group.cases):
            cost = case.phase.usd_per_million_tokens
            high = cost * case.result.utilisation / min(lowest_utilisation, case.result.utilisation)
            fill, _ = colour(selection.systems, case.system)
            one.barh(position, cost, height=0.6, color=fill)
            one.plot([cost, high], [position] * 2, color=style.TEXT, linewidth=1.2, marker="|", markevery=[1])
            ends.append((high, f"{significant(cost)} ({significant(high)})"))
        _say(one, ends)
    words = {i: f"{significant(cost)} dollars" for i, cost in enumerate(costs)}
    return Plot(
        name=f"cost-{label}",
        title=f"Cost per million tokens, {label}",
        alt=f"Bars of dollars per million tokens in {label}. {_words(selection, words)}.",
        caption=_caption(
            "Bar and first number: at the utilisation of this report. Line and number in brackets: if tokens were "
            f"made in only {lowest_utilisation:.0%} of the paid time.",
            selection,
        ),
        figure=figure,
    )

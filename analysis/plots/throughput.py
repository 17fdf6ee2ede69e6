"""Tokens per second against bit width and batch, as small panels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from gempim.analysis.plots.figure import Plot, add_legend, colour, panels, styled, text_width_in
from gempim.analysis.result import Result
from gempim.analysis.selection import Case, Group, bits_per_weight, cases_of, grouped, systems_of
from gempim.analysis.table import KEYS, MATCH_KEYS, significant
from gempim.quantity import DataError

MAX_PANELS = 6
"""A figure has at most this many panels; the rest is in the tables."""

_SEEN = 0.01
"""A relative half-width of an interval from which it is drawn; a marker is larger than a smaller one."""

_LOG_FROM = 20.0
"""Range of rates [ratio] from which the axis is logarithmic: on a linear one the slowest would lie on the axis."""


@styled
def throughput_by(
    results: Sequence[Result],
    axis: str,
    label: str = "decode",
    *,
    match: Sequence[str] = MATCH_KEYS,
    extra_keys: Sequence[str] = (),
    baseline: str | None = None,
) -> Plot | None:
    """Tokens per second against bit width (`axis` "quant") or batch ("batch"); None when the runs do not vary in it.

    One panel for each combination of the other `match` columns, at most `MAX_PANELS`: models in turn, first and last
    of each model first. Raises DataError for another axis. Of several runs of one system at one x, every one is drawn;
    none is averaged.
    """
    if axis not in ("quant", "batch"):
        raise DataError(f"throughput axis {axis!r} (allowed: quant, batch)")
    columns = [name for name in (*KEYS, *extra_keys) if name in match and name != axis]
    cases = cases_of(results, label, extra_keys, baseline)
    every = [g for g in grouped(cases, columns) if len({_place(case, axis) for case in g.cases}) > 1]
    if not every:
        return None
    shown = _spread(every)
    systems = [s for s in systems_of(results, baseline) if any(case.system == s for g in shown for case in g.cases)]
    rates = [case.phase.tokens_per_s for group in shown for case in group.cases]
    logarithmic = max(rates) / min(rates) > _LOG_FROM
    figure, axes = panels(
        [1.75 if len(shown) == 1 else 1.45] * len(shown),
        [group.title for group in shown],
        columns=2,
        left_in=0.34 + text_width_in([f"{max(rates):,.0f}"]),
        legend=systems,
        xlabel="batch (sequences)" if axis == "batch" else "bits per weight",
        ylabel="tokens per second",
        ticks_in=0.27 if axis == "batch" else 0.42,
        share=True,
    )
    words, several = [], set()
    for one, group in zip(axes, shown, strict=True):
        lines = _lines(group, axis)
        for case, points, errors in lines:
            own, marker = colour(systems_of(results, baseline), case.system)
            one.plot([x for x, _ in points], [y for _, y in points], color=own, marker=marker, markersize=4.5)
            if errors:
                one.vlines(*zip(*errors, strict=True), color=own, linewidth=1.1)
            said = " to ".join(dict.fromkeys(significant(f(y for _, y in points)) for f in (min, max)))
            words.append(f"{group.title}, {case.system}: {said}")
        several |= {name for case, _, _ in lines for name in _differs(case, group, axis)}
        one.grid()
    _x_axis(axes[0], axis, [case for group in shown for case in group.cases], len(shown))
    if logarithmic:
        _log_y(axes[0], min(rates), max(rates))
    else:
        axes[0].set_ylim(0, max(rates) * 1.06)
    handles = []
    for system in systems:
        own, marker = colour(systems_of(results, baseline), system)
        handles.append(Line2D([], [], color=own, marker=marker, markersize=4.5))
    add_legend(figure, handles, systems)
    what = "batch size" if axis == "batch" else "bits per weight"
    caption = "Tokens of all sequences of the batch together." + (" Logarithmic scale." if logarithmic else "")
    if any(errors for group in shown for _, _, errors in _lines(group, axis)):
        caption += " Bars: 95 % intervals, where they are wider than a marker."
    if several:
        caption += f" Lines of one colour differ in {', '.join(sorted(several))}."
    if len(shown) < len(every):
        caption += (
            f" Shown: {'; '.join(g.title for g in shown)}: {len(shown)} of {len(every)} combinations (models in turn, "
            "smallest and largest first). All values are in report.csv, report.json and the table above."
        )
    return Plot(
        name=f"throughput-{axis}-{label}",
        title=f"Tokens per second by {what}, {label}",
        alt=f"Lines of tokens per second against {what} in {label}. {'; '.join(words)}.",
        caption=caption,
        figure=figure,
    )


def _place(case: Case, axis: str) -> float:
    return float(case.keys["batch"]) if axis == "batch" else bits_per_weight(case.result)


def _differs(case: Case, group: Group, axis: str) -> list[str]:
    """Keys, other than the axis, in which the runs of the case's system differ within a panel."""
    same = [c for c in group.cases if c.system == case.system]
    return [
        name.rpartition(".")[2]
        for name in case.keys
        if name not in ("system", axis) and len({c.keys[name] for c in same}) > 1
    ]


_Line = tuple[Case, list[tuple[float, float]], list[tuple[float, float, float]]]


def _lines(group: Group, axis: str) -> list[_Line]:
    """Of each line its first case, its points (x, rate), and (x, low, high) where an interval would be seen."""
    lines: dict[tuple[object, ...], _Line] = {}
    for case in group.cases:
        key = tuple(value for name, value in case.keys.items() if name != axis)
        _, points, errors = lines.setdefault(key, (case, [], []))
        x, rate = _place(case, axis), case.phase.tokens_per_s
        points.append((x, rate))
        found = case.phase.rate_error.of(rate)
        if found is not None and found.half > _SEEN * rate:
            errors.append((x, found.low, found.high))
    return [(case, sorted(points), errors) for case, points, errors in lines.values()]


def _spread(every: list[Group]) -> list[Group]:
    """At most MAX_PANELS groups: models in turn, of each the first, the last, then the others in order."""
    queues = []
    for model in dict.fromkeys(group.model for group in every):
        own = [group for group in every if group.model == model]
        queues.append([own[0], *own[:0:-1][:1], *own[1:-1]])
    picked: list[Group] = []
    for turn in range(max(map(len, queues))):
        picked += [queue[turn] for queue in queues if turn < len(queue)]
    kept = {id(group) for group in picked[:MAX_PANELS]}
    return [group for group in every if id(group) in kept]


def _x_axis(axes: Axes, axis: str, cases: Sequence[Case], count: int) -> None:
    places = {_place(case, axis): str(case.keys["quant"]) for case in cases}
    xs = sorted(places)
    scaled = [math.log2(x) for x in xs] if axis == "batch" else xs
    # A tick for every place, its text only where there is room.
    room = (0.1 if axis == "batch" else 0.26) * (1.0 if count > 1 else 0.55) * (scaled[-1] - scaled[0])
    texts, last = [], -math.inf
    for x, at in zip(xs, scaled, strict=True):
        fits = at - last >= room and (scaled[-1] - at >= room or at == scaled[-1])
        last = at if fits or at == scaled[0] else last
        name = f"{int(x)}" if axis == "batch" else f"{x:.1f}\n{places[x]}"
        texts.append(name if last == at else "")
    if axis == "batch":
        axes.set_xscale("log", base=2)
    axes.set_xticks(xs, texts)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.09)


def _log_y(axes: Axes, low: float, high: float) -> None:
    axes.set_yscale("log")
    axes.set_ylim(low / 1.4, high * 1.4)
    decades = math.log10(high / low)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.2 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())

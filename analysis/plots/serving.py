"""Figures of serving runs: latency against the rate of requests, where time and energy go, expert load, rooflines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from gempim.analysis import style
from gempim.analysis.plots.figure import Plot, add_legend, colour, panels, styled, text_width_in
from gempim.analysis.serving.keys import key_titles, values_of
from gempim.analysis.serving.result import ServeResult
from gempim.analysis.table import significant
from gempim.analysis.uncertainty import interval, spread

MAX_BARS = 16
"""A figure of bars shows at most so many runs; the tables have all."""

MAX_PANELS = 6
"""Histograms of at most so many runs."""

_LATENCIES = (("ttft", "p50"), ("ttft", "p99"), ("tbt", "p50"), ("tbt", "p99"), ("e2e", "p50"), ("e2e", "p99"))
_NAMES = {"ttft": "time to first token", "tbt": "time between tokens", "e2e": "end to end"}


def labels_of(results: Sequence[ServeResult]) -> list[str]:
    """Systems of the runs with their devices, in order of first occurrence: one colour each."""
    return list(dict.fromkeys(r.run.label() for r in results))


def case_name(result: ServeResult, results: Sequence[ServeResult], keys: Sequence[str] = ()) -> str:
    """What a run is called beside others: its system, and in what it differs from them, manifest `keys` included."""
    parts = [result.run.label()]

    def values(r: ServeResult) -> dict[str, object]:
        e = r.run.experiment
        return {
            "model": e["model"]["name"],
            "batch": e["scheduler"]["max_batch"],
            "in": e["requests"]["input"],
            "out": e["requests"]["output"],
            "QPS": e["requests"]["qps"],
        }

    own = values(result)
    for name in own:
        if len({values(r)[name] for r in results}) > 1:
            text = str(own[name]) if name == "model" else f"{name} {own[name]:g}" if own[name] is not None else "closed"
            parts.append(text)
    named = [(r.run.name, r.run.manifest) for r in results]
    place = next(i for i, r in enumerate(results) if r is result)
    for key, name in key_titles(keys).items():
        told = values_of(named, key)
        if len(set(map(str, told))) > 1 and told[place] is not None:
            parts.append(f"{name} {told[place]}")
    return ", ".join(parts)


@styled
def latency_by_qps(
    results: Sequence[ServeResult], keys: Sequence[str] = (), repeats: Sequence[str] = ()
) -> Plot | None:
    """Percentiles of the three latencies against requests a second; None unless runs differ in their rate.

    A line a case; it goes through the means of runs that differ only in the keys `repeats`, which are points.
    """
    open_loop = [r for r in results if r.run.experiment["requests"]["qps"] is not None]
    if len({r.run.experiment["requests"]["qps"] for r in open_loop}) < 2:
        return None
    systems = labels_of(open_loop)
    lines: dict[str, list[ServeResult]] = {}
    for r in open_loop:
        lines.setdefault(_line_name(r, open_loop, keys), []).append(r)
    figure, axes = panels(
        [1.25] * len(_LATENCIES),
        [f"{_NAMES[name]}, {q}" for name, q in _LATENCIES],
        columns=2,
        left_in=0.62,
        legend=systems,
        xlabel="requests a second",
        ylabel="seconds",
    )
    words = []
    for one, (name, q) in zip(axes, _LATENCIES, strict=True):
        drawn: list[float] = []
        for system, members in lines.items():
            points = sorted(
                (r.run.experiment["requests"]["qps"], getattr(found, f"{q}_s"))
                for r in members
                if (found := getattr(r, name)) is not None
            )
            fill, marker = colour(systems, members[0].run.label())
            rates = sorted({x for x, _ in points})
            means = [float(np.mean([y for x, y in points if x == rate])) for rate in rates]
            one.plot(rates, means, color=fill)
            one.plot([x for x, _ in points], [y for _, y in points], color=fill, marker=marker, markersize=4, ls="")
            drawn += [y for _, y in points]
            if points:
                ends = f"{significant(means[0])} s at {rates[0]:g} to {significant(means[-1])} s"
                words.append(f"{_NAMES[name]} {q} of {system}: {ends} at {rates[-1]:g}")
        one.set_yscale("log" if drawn and max(drawn) > 20 * min(drawn) else "linear")
        if one.get_yscale() == "linear":
            one.set_ylim(0, max(drawn, default=1.0) * 1.08)
        else:
            one.yaxis.set_major_locator(LogLocator(numticks=5))
            one.yaxis.set_minor_locator(NullLocator())
        one.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        one.grid()
    add_legend(figure, _markers(systems), systems)
    return Plot(
        name="serving-latency-qps",
        title="Latency against the rate of requests",
        alt=f"Lines of latency percentiles against requests a second. {'; '.join(words)}.",
        caption="Where a line turns up, the system no longer keeps up. Panels have their own scales, some logarithmic."
        + (" A point a run; lines go through the means of repeats." if repeats else ""),
        figure=figure,
    )


def _line_name(result: ServeResult, results: Sequence[ServeResult], keys: Sequence[str]) -> str:
    """What a run is called beside those of its own rate and others: `case_name` without the rate."""
    own = case_name(result, results, keys).split(", ")
    return ", ".join(part for part in own if not part.startswith("QPS "))


def _markers(systems: Sequence[str]) -> list[Line2D]:
    out = []
    for system in systems:
        fill, marker = colour(systems, system)
        out.append(Line2D([], [], color=fill, marker=marker, markersize=4.5))
    return out


@styled
def time_bars(results: Sequence[ServeResult], keys: Sequence[str] = ()) -> Plot:
    """Time a token by layer kind and unit, one bar a run."""
    parts = []
    for r in results[:MAX_BARS]:
        each: dict[str, float] = {}
        for layer, units in r.time_by_layer().items():
            for unit, ps in units.items():
                name = layer if unit == "link" or layer == "other" else f"{layer} on {unit}"
                each[name] = each.get(name, 0.0) + ps / r.tokens * 1e-6
        parts.append({k: v for k, v in each.items() if v})
    return _bars(
        results,
        parts,
        "serving-time",
        "Time by layer kind and unit",
        "microseconds of stage time a token",
        "Where units work at the same time, the one that is done last has the time.",
        keys,
    )


@styled
def energy_bars(results: Sequence[ServeResult], keys: Sequence[str] = ()) -> Plot:
    """Energy a token by layer kind and part of the machine, one bar a run."""
    parts = []
    for r in results[:MAX_BARS]:
        each: dict[str, float] = {}
        for layer, components in r.j_per_token_by_layer().items():
            for component, joules in components.items():
                what = "arithmetic" if component.endswith("arithmetic") else "memory"
                name = layer if layer in ("communication", "other") else f"{layer}, {what}"
                each[name] = each.get(name, 0.0) + joules * 1e3
        parts.append(each)
    return _bars(
        results,
        parts,
        "serving-energy",
        "Energy by layer kind",
        "millijoules a token",
        "Event counts times the energy table; what is not in it is listed under Energy.",
        keys,
    )


def _bars(
    results: Sequence[ServeResult],
    parts: Sequence[dict[str, float]],
    name: str,
    title: str,
    xlabel: str,
    caption: str,
    keys: Sequence[str] = (),
) -> Plot:
    shown = list(results[:MAX_BARS])
    names = [case_name(r, shown, keys) for r in shown]
    sums: dict[str, float] = {}
    for part in parts:
        for key, value in part.items():
            sums[key] = sums.get(key, 0.0) + value
    order = sorted(sums, key=lambda key: -sums[key])
    if len(order) > len(style.PALETTE):
        kept = order[: len(style.PALETTE) - 1]
        parts = [
            {**{k: p[k] for k in kept if k in p}, "rest": sum(v for k, v in p.items() if k not in kept)} for p in parts
        ]
        order = [*kept, "rest"]
    two = [text.replace(", ", "\n", 1) for text in names]
    height = sum(0.27 + 0.14 * text.count("\n") for text in two) + 0.06
    figure, axes = panels(
        [height], [""], columns=1, left_in=text_width_in(two) + 0.12, legend=order, xlabel=xlabel
    )  # fmt: skip
    one = axes[0]
    one.set_yticks(np.arange(len(two)), two)
    one.set_ylim(len(two) - 0.5, -0.5)
    one.tick_params(axis="y", length=0)
    one.xaxis.set_major_locator(MaxNLocator(5))
    one.grid(axis="x")
    left = np.zeros(len(two))
    for i, key in enumerate(order):
        values = np.array([part.get(key, 0.0) for part in parts])
        one.barh(np.arange(len(two)), values, left=left, height=0.68, color=style.PALETTE[i], edgecolor="white",
                 linewidth=0.3)  # fmt: skip
        left += values
    for i, total in enumerate(left):
        one.annotate(significant(float(total)), (total, i), xytext=(4, 0), textcoords="offset points", va="center",
                     fontsize=8.5)  # fmt: skip
    one.set_xlim(0, float(left.max()) * 1.18)
    add_legend(figure, [Patch(color=style.PALETTE[i]) for i in range(len(order))], order)
    said = "; ".join(f"{n}: {significant(float(t))}" for n, t in zip(names, left, strict=True))
    more = f" The first {MAX_BARS} of {len(results)} runs." if len(results) > MAX_BARS else ""
    return Plot(
        name=name,
        title=title,
        alt=f"Stacked bars of {xlabel}: {said}.",
        caption=caption + more,
        figure=figure,
    )


@styled
def expert_load(results: Sequence[ServeResult], keys: Sequence[str] = ()) -> Plot | None:
    """How many tokens a visit to an expert has in decoding-only stages, by unit; None without experts."""
    found = []
    for r in results[:MAX_PANELS]:
        visits = r.run.totals["stages"].get("decode", {}).get("expert_visits", {})
        if any(any(counts) for counts in visits.values()):
            found.append((r, visits))
    if not found:
        return None
    units = list(dict.fromkeys(unit for _, visits in found for unit, counts in visits.items() if any(counts)))
    shown = [r for r, _ in found]
    figure, axes = panels(
        [1.0] * len(found),
        [case_name(r, shown, keys) for r in shown],
        columns=2,
        left_in=0.62,
        legend=units,
        xlabel="tokens of one expert in one layer and stage",
        ylabel="share of visits",
    )
    words = []
    for one, (r, visits) in zip(axes, found, strict=True):
        total = sum(sum(counts) for counts in visits.values())
        most = max(len(counts) for counts in visits.values())
        base = np.zeros(most)
        for i, unit in enumerate(units):
            share = np.zeros(most)
            counts = visits.get(unit, [])
            share[: len(counts)] = np.array(counts) / total
            one.bar(np.arange(most), share, bottom=base, width=1.0, color=style.PALETTE[i])
            base += share
            words.append(f"{r.run.label()}: {significant(100 * float(share.sum()))} % of visits on {unit}")
        mean = float((np.arange(most) * base).sum())
        one.axvline(mean, color=style.TEXT, linewidth=0.8, linestyle=":")
        one.set_xlim(0, max(4, int(np.flatnonzero(base > base.max() / 500).max(initial=1)) + 2))
        one.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        one.grid(axis="y")
    add_legend(figure, [Patch(color=style.PALETTE[i]) for i in range(len(units))], units)
    return Plot(
        name="serving-expert-load",
        title="Expert load in decoding-only stages",
        alt=f"Histograms of tokens of one expert. {'; '.join(words)}.",
        caption="Visits with at least one token, by the unit that served them; the dotted line is the mean. The tokens "
        "of an expert are its operations a byte of weights.",
        figure=figure,
    )


@styled
def op_b_roofline(results: Sequence[ServeResult]) -> Plot:
    """Operators of decoding-only stages by operations a byte, on the rooflines of the xPU and of the PIM."""
    # The system with the most units shows both roofs; of several, the first.
    result = max(results, key=lambda r: len(r.run.manifest["peaks"]))
    peaks: dict[str, dict[str, float]] = result.run.manifest["peaks"]
    points = roofline_points(result)
    units = list(peaks)
    figure, axes = panels(
        [2.3], [""], columns=1, left_in=0.66, legend=units, xlabel="operations a byte of memory",
        ylabel="TFLOP/s a device",
    )  # fmt: skip
    one = axes[0]
    low = min([0.25, *(p["op_b"] / 1.5 for p in points)])
    high = max([2000.0, *(p["op_b"] * 1.5 for p in points)])
    for i, (unit, peak) in enumerate(peaks.items()):
        x = np.geomspace(low, high, 200)
        roof = np.minimum(peak["ops_per_s"], x * peak["bytes_per_s"]) / 1e12
        one.plot(x, roof, color=style.PALETTE[i], linewidth=1.3)
        own = [p for p in points if p["unit"] == unit]
        one.scatter([p["op_b"] for p in own], [p["tflops"] for p in own], s=22, color=style.PALETTE[i],
                    marker=style.MARKERS[i], edgecolors="white", linewidths=0.3, zorder=3)  # fmt: skip
    named: list[tuple[float, float]] = []
    for p in points[:8]:
        at = (math.log10(p["op_b"]), math.log10(p["tflops"]))
        # The longest operators have their names; where two would lie over each other, the longer one.
        if all(abs(at[0] - x) > 0.6 or abs(at[1] - y) > 0.25 for x, y in named):
            one.annotate(p["name"], (p["op_b"], p["tflops"]), xytext=(4, -8), textcoords="offset points", fontsize=7.5)
            named.append(at)
    _log(one, low, high)
    add_legend(
        figure,
        [Line2D([], [], color=style.PALETTE[i], marker=style.MARKERS[i], markersize=4.5) for i in range(len(units))],
        units,
    )
    said = "; ".join(f"{p['name']} on {p['unit']}: {significant(p['op_b'])}" for p in points)
    return Plot(
        name="serving-roofline",
        title=f"Operators on the rooflines of one device, {result.run.label()}",
        alt=f"Log-log scatter of operators by operations a byte: {said}.",
        caption="Decoding-only stages, means over the run; lines are peaks. Work that runs beside the other unit is "
        "shown at the rate of its own busy time.",
        figure=figure,
    )


def roofline_points(result: ServeResult) -> list[dict[str, Any]]:
    """Operators with arithmetic and memory traffic: name, unit, operations a byte, rate a device, share of the time."""
    kind = "decode" if any(p.stage == "decode" for p in result.run.parts) else "mixed"
    total = sum(p.sim_ps for p in result.run.parts if p.stage == kind) or 1
    devices = result.run.devices
    out = []
    for part in result.run.parts:
        for op in part.operators if part.stage == kind else ():
            if op.ops and op.bytes and op.busy_ps:
                out.append(
                    {
                        "name": op.name,
                        "unit": op.unit,
                        "op_b": op.ops / op.bytes,
                        "tflops": op.ops / devices / op.busy_ps,
                        "share": op.time_ps / total,
                    }
                )
    return sorted(out, key=lambda p: -p["share"])


def _log(one: Axes, low: float, high: float) -> None:
    one.set_xscale("log")
    one.set_yscale("log")
    one.set_xlim(low, high)
    for which in (one.xaxis, one.yaxis):
        which.set_major_locator(LogLocator(numticks=6))
        which.set_minor_locator(NullLocator())
        which.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}" if 1e-3 <= v < 1e5 else f"{v:.0e}"))
    one.grid(which="major")


@styled
def throughput_bars(
    results: Sequence[ServeResult], keys: Sequence[str] = (), repeats: Sequence[str] = ()
) -> Plot | None:
    """Tokens a second by system, a panel a model; None for runs at given rates, whose throughput is what arrives.

    Of runs that differ only in the keys `repeats`, the mean with its 95 % interval.
    """
    closed = [r for r in results if r.run.experiment["requests"]["qps"] is None]
    if len(closed) < 2:
        return None
    systems = labels_of(closed)
    models = list(dict.fromkeys(r.run.experiment["model"]["name"] for r in closed))
    figure, axes = panels(
        [1.5] * len(models), models, columns=1, left_in=0.7, legend=systems, xlabel="batch, prompt and answer tokens",
        ylabel="tokens a second", ticks_in=0.6 + 0.15 * len(keys),
    )  # fmt: skip
    words = []
    for one, model in zip(axes, models, strict=True):
        own = [r for r in closed if r.run.experiment["model"]["name"] == model]
        told = dict(zip((r.run.name for r in own), _told(own, keys), strict=True))
        cases = list(dict.fromkeys(_case(r, told) for r in own))
        width = 0.8 / len(systems)
        for i, system in enumerate(systems):
            fill, _ = colour(systems, system)
            rates: dict[tuple[Any, ...], list[float]] = {}
            for r in own:
                if r.run.label() == system:
                    rates.setdefault(_case(r, told), []).append(r.tokens_per_s)
            values = {case: float(np.mean(found)) for case, found in rates.items()}
            heights = [values.get(c, math.nan) for c in cases]
            places = np.arange(len(cases)) + (i - (len(systems) - 1) / 2) * width
            one.bar(places, heights, width, color=fill)
            for at, case in zip(places, cases, strict=True):
                half = spread(rates.get(case, ()))
                if half is not None:
                    found = interval(values[case], half)
                    one.vlines(at, found.low, found.high, color=style.TEXT, linewidth=0.9)
            words.append(f"{model} on {system}: {significant(max(values.values(), default=0.0))} at most")
        every = max(1, len(cases) // 9)
        one.set_xticks(np.arange(0, len(cases), every), [_words(c) for c in cases[::every]], fontsize=7.5)
        one.grid(axis="y")
        one.yaxis.set_major_locator(MaxNLocator(5))
    add_legend(figure, [Patch(color=colour(systems, s)[0]) for s in systems], systems)
    return Plot(
        name="serving-throughput",
        title="Tokens a second",
        alt=f"Bars of tokens a second. {'; '.join(words)}.",
        caption="Closed loop in its steady state: as many clients as the batch has places."
        + (" Means of repeats; lines are their 95 % intervals." if repeats else ""),
        figure=figure,
    )


def _told(results: Sequence[ServeResult], keys: Sequence[str]) -> list[tuple[str, ...]]:
    """The values of the keys of every run, with their names, for the ticks."""
    named = [(r.run.name, r.run.manifest) for r in results]
    columns = [[f"{name} {value}" for value in values_of(named, key)] for key, name in key_titles(keys).items()]
    return [tuple(column[i] for column in columns) for i in range(len(named))]


def _case(r: ServeResult, told: Mapping[str, tuple[str, ...]]) -> tuple[Any, ...]:
    e = r.run.experiment
    return e["scheduler"]["max_batch"], e["requests"]["input"], e["requests"]["output"], *told[r.run.name]


def _words(case: tuple[Any, ...]) -> str:
    return "\n".join(map(str, case))

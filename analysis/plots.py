"""Figures: each function takes results and gives a `Plot` with its title and a text for screen readers."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gempim.analysis import style
from gempim.analysis.result import PS_PER_S, Phase, Result
from gempim.analysis.roofline import Point, Roof, points_of, roof_of
from gempim.analysis.table import si, significant
from gempim.quantity import DataError

MAX_BARS = 12
"""Breakdowns show at most this many runs; the rest is in the tables."""

_TOP_OPERATORS = 7
_REST = "other operators"
# A fixed order gives each part of the machine the same colour in every figure.
_COMPONENTS = ("dram", "cpu", "sram_pim", "cache", "noc", "uncore", "gpu")


@dataclass(frozen=True)
class Plot:
    """A figure: `name` is a file name without ending, `alt` says in words what the figure shows."""

    name: str
    title: str
    alt: str
    caption: str
    figure: Figure
    _files: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    def svg(self) -> str:
        """The figure as an SVG element for a page: text as text, colours of text and grid taken from the page."""
        return _inline(self._render("svg").decode("utf-8"), self.name, self.alt)

    def save(self, folder: Path, ending: str = "svg") -> Path:
        """Write the figure as ``svg``, ``png`` or ``pdf`` into `folder`; returns the file. PNG has a white ground."""
        if ending not in ("svg", "png", "pdf"):
            raise DataError(f"figure format {ending!r} (allowed: svg, png, pdf)")
        file = folder / f"{self.name}.{ending}"
        file.write_bytes(self._render(ending))
        return file

    def _render(self, ending: str) -> bytes:
        # Drawing is what a report spends its time on, and the page and the SVG file are one drawing.
        if ending not in self._files:
            out = io.BytesIO()
            # No date and no program name: the same runs give the same file.
            metadata = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}.get(ending)
            ground = "white" if ending == "png" else "none"
            with matplotlib.rc_context(style.RC):
                self.figure.savefig(out, format=ending, metadata=metadata, facecolor=ground)
            self._files[ending] = out.getvalue()
        return self._files[ending]


def _inline(svg: str, name: str, alt: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Ids must not clash between the figures of one page.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(re.escape(style.TEXT), "currentColor", svg, flags=re.IGNORECASE)
    svg = re.sub(re.escape(style.GRID), "var(--grid)", svg, flags=re.IGNORECASE)
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", style.FONT_STACK, svg)
    svg = re.sub(r"^<svg[^>]*?viewBox", f'<svg role="img" aria-label="{_attribute(alt)}" viewBox', svg)
    return svg.strip()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def _figure(height: float) -> Figure:
    return Figure(figsize=(style.WIDTH_IN, height), layout="constrained")


def _styled(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with matplotlib.rc_context(style.RC):
            return function(*args, **kwargs)

    wrapped.__doc__, wrapped.__name__ = function.__doc__, function.__name__
    return wrapped


_KEYS: dict[str, Callable[[Result], Any]] = {
    "model": lambda r: r.run.experiment["model"]["name"],
    "quant": lambda r: r.run.experiment["model"]["quant"],
    "batch": lambda r: r.run.experiment["workload"]["batch"],
    "threads": lambda r: r.run.experiment["workload"]["threads"],
    "engine": lambda r: r.run.experiment["engine"],
}
_WORDS = {"batch": "b{}", "threads": "{}t"}
_LONGEST_WORD = 18


def labels(results: Sequence[Result], without: str = "") -> list[str]:
    """A label a result: the system and those keys in which the results differ, as ``sail, q4_0, b8, 16t``.

    `without` is a key to leave out because it is an axis. Results that the keys do not tell apart get a number.
    """
    varying = [name for name, get in _KEYS.items() if name != without and len({get(r) for r in results}) > 1]
    out = [", ".join([r.run.system, *(_word(name, _KEYS[name](r)) for name in varying)]) for r in results]
    return out if without or len(set(out)) == len(out) else [f"{text} #{i + 1}" for i, text in enumerate(out)]


def _word(name: str, value: Any) -> str:
    text = _WORDS.get(name, "{}").format(value)
    return text if len(text) <= _LONGEST_WORD else text[: _LONGEST_WORD - 1] + "…"


def _two_lines(label: str) -> str:
    """A label beside a bar: the system, and what is particular of the run under it."""
    return label.replace(", ", "\n", 1)


def _legend(figure: Figure, names: Sequence[str], most_columns: int = 2) -> None:
    columns = 1 if max(map(len, names)) > _LONGEST_WORD + 6 else most_columns
    figure.set_figheight(figure.get_figheight() + 0.18 * math.ceil(len(names) / columns))
    figure.legend(loc="outside lower center", ncols=columns)


def _left_out(results: Sequence[Result], label: str) -> str:
    """A sentence for the caption when a figure cannot show every run."""
    count = sum(phase.label == label for result in results for phase in result.phases)
    return f" The first {MAX_BARS} of {count} runs; all are in the table." if count > MAX_BARS else ""


def _with_phase(results: Sequence[Result], label: str) -> list[tuple[Result, Phase]]:
    found = [(r, p) for r in results for p in r.phases if p.label == label]
    if not found:
        raise DataError(f"no run has a {label} phase")
    return found


def _stacked(parts: Sequence[dict[str, float]], order: Sequence[str], names: Sequence[str], xlabel: str) -> Figure:
    names = [_two_lines(name) for name in names]
    bar = 0.42 if any("\n" in name for name in names) else 0.34
    legend_rows = math.ceil(len(order) / 3)
    figure = _figure(0.75 + bar * len(parts) + 0.2 * legend_rows)
    axes = figure.subplots()
    positions = np.arange(len(parts))
    left = np.zeros(len(parts))
    for index, part in enumerate(order):
        values = np.array([p.get(part, 0.0) for p in parts])
        color = style.PALETTE[min(index, len(style.PALETTE) - 1)] if part != _REST else style.PALETTE[-1]
        axes.barh(positions, values, left=left, height=0.66, color=color, edgecolor="white", linewidth=0.4, label=part)
        left += values
    for position, total in zip(positions, left, strict=True):
        axes.annotate(
            significant(float(total)),
            (total, position),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(positions, names)
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    axes.grid(axis="x")
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=3, handlelength=1.2, handleheight=1.0, columnspacing=1.0)
    return figure


@_styled
def time_breakdown(results: Sequence[Result], label: str = "decode") -> Plot:
    """Time per token by operator, one bar a run; the largest operators by name, the rest together."""
    found = _with_phase(results, label)[:MAX_BARS]
    totals: dict[str, float] = {}
    for _, phase in found:
        for name, ps in phase.time_ps_by_operator.items():
            totals[name] = totals.get(name, 0.0) + ps / phase.sim_ps
    order = sorted(totals, key=lambda name: -totals[name])
    # Seven by name and a rest; never a rest of one.
    kept = order if len(order) <= _TOP_OPERATORS + 1 else order[:_TOP_OPERATORS]
    parts = []
    for _, phase in found:
        part: dict[str, float] = {}
        for name, ps in phase.time_ps_by_operator.items():
            key = name if name in kept else _REST
            part[key] = part.get(key, 0.0) + ps / phase.tokens * 1e-9
        parts.append(part)
    shown = kept if len(kept) == len(order) else [*kept, _REST]
    names = labels([r for r, _ in found])
    words = "; ".join(
        f"{n}: {significant(sum(p.values()))} ms, most in {max(p, key=lambda k, p=p: p[k])}"  # type: ignore[misc]
        for n, p in zip(names, parts, strict=True)
    )
    return Plot(
        name=f"time-{label}",
        title=f"Time per token by operator, {label}",
        alt=f"Stacked bars of milliseconds per token by operator in {label}. {words}.",
        caption="Operators of one pass run one after another, so the parts add up to the time of a token."
        + _left_out(results, label),
        figure=_stacked(parts, shown, names, "milliseconds per token"),
    )


@_styled
def energy_breakdown(results: Sequence[Result], label: str = "decode") -> Plot:
    """Energy per token by part of the machine, one bar a run."""
    found = _with_phase(results, label)[:MAX_BARS]
    parts = [phase.j_per_token_by_component(1) for _, phase in found]
    present = list(dict.fromkeys(name for part in parts for name in part))
    order = [name for name in _COMPONENTS if name in present] + [name for name in present if name not in _COMPONENTS]
    names = labels([r for r, _ in found])
    bounds = [phase.energy.is_lower_bound for _, phase in found]
    shown = [f"{n} (≥)" if bound else n for n, bound in zip(names, bounds, strict=True)]
    words = "; ".join(f"{n}: {significant(sum(p.values()))} J" for n, p in zip(shown, parts, strict=True))
    return Plot(
        name=f"energy-{label}",
        title=f"Energy per token by part, {label}",
        alt=f"Stacked bars of joules per token by part of the machine in {label}. {words}.",
        caption="What is inside this figure and what is not stands under the energy table." + _left_out(results, label),
        figure=_stacked(parts, order, shown, "joules per token"),
    )


@_styled
def cost_bars(results: Sequence[Result], label: str = "decode", lowest_utilisation: float = 0.3) -> Plot:
    """Dollars per million tokens, one bar a run, with a line up to the cost at `lowest_utilisation`."""
    found = _with_phase(results, label)[:MAX_BARS]
    names = labels([r for r, _ in found])
    costs = np.array([phase.usd_per_million_tokens for _, phase in found])
    high = np.array([r.utilisation / min(lowest_utilisation, r.utilisation) for r, _ in found]) * costs
    figure = _figure(0.85 + 0.4 * len(found))
    axes = figure.subplots()
    positions = np.arange(len(found))
    axes.barh(positions, costs, height=0.6, color=style.PALETTE[0])
    axes.hlines(positions, costs, high, color=style.PALETTE[3], linewidth=1.6)
    axes.plot(high, positions, linestyle="none", marker="|", markersize=9, color=style.PALETTE[3])
    for position, cost, end in zip(positions, costs, high, strict=True):
        text = f"{significant(float(cost))} ({significant(float(end))})"
        axes.annotate(text, (end, position), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(positions, [_two_lines(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("USD per million tokens")
    axes.grid(axis="x")
    axes.margins(x=0.3)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    words = "; ".join(f"{n}: {significant(float(c))} dollars" for n, c in zip(names, costs, strict=True))
    return Plot(
        name=f"cost-{label}",
        title=f"Cost per million tokens, {label}",
        alt=f"Bars of dollars per million tokens in {label}. {words}.",
        caption="Bar and first number: at the utilisation of this report. Line and number in brackets: if tokens were "
        f"made in only {lowest_utilisation:.0%} of the paid time." + _left_out(results, label),
        figure=figure,
    )


@_styled
def throughput_by(results: Sequence[Result], axis: str, label: str = "decode") -> Plot | None:
    """Tokens per second against bit width (`axis` "quant") or batch ("batch"); None when the runs do not vary in it.

    Raises DataError for another axis. Of several runs of one system at one x, every one is drawn; none is averaged.
    """
    if axis not in ("quant", "batch"):
        raise DataError(f"throughput axis {axis!r} (allowed: quant, batch)")
    found = _with_phase(results, label)

    def place(result: Result) -> float:
        experiment = result.run.experiment
        model = experiment["model"]
        return float(experiment["workload"]["batch"]) if axis == "batch" else model["bytes"] * 8 / model["params"]

    places = {place(r): r.run.experiment["model"]["quant"] for r, _ in found}
    if len(places) < 2:
        return None
    figure = _figure(2.6)
    axes = figure.subplots()
    series: dict[str, list[tuple[float, float]]] = {}
    for name, (result, phase) in zip(labels([r for r, _ in found], without=axis), found, strict=True):
        series.setdefault(name, []).append((place(result), phase.tokens_per_s))
    for index, (name, points) in enumerate(series.items()):
        points.sort()
        color, marker = style.PALETTE[index % 7], style.MARKERS[index % len(style.MARKERS)]
        axes.plot([x for x, _ in points], [y for _, y in points], color=color, marker=marker, label=name)
    if axis == "batch":
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(places), [f"{int(p)}" for p in sorted(places)])
        axes.set_xlabel("batch (sequences)")
    else:
        ticks = sorted(places)
        axes.set_xticks(ticks, [f"{p:.1f}\n{places[p]}" for p in ticks])
        axes.set_xlabel("bits per weight")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("tokens per second")
    axes.grid()
    _legend(figure, list(series))
    best = "; ".join(
        f"{n}: {significant(min(y for _, y in p))} to {significant(max(y for _, y in p))}" for n, p in series.items()
    )
    what = "batch size" if axis == "batch" else "bits per weight"
    return Plot(
        name=f"throughput-{axis}-{label}",
        title=f"Tokens per second by {what}, {label}",
        alt=f"Lines of tokens per second against {what} in {label}. {best}.",
        caption="Tokens of all sequences of the batch together.",
        figure=figure,
    )


@_styled
def roofline(results: Sequence[Result], label: str = "decode") -> Plot:
    """Every operator of every run over its arithmetic intensity, under the roofs of its system.

    Operators without DRAM traffic stand at the right edge; operators without arithmetic are named in the caption. The
    roofs come from the manifest (``experiment.system.peaks``); without them the caption says so.
    """
    found = _with_phase(results, label)[:MAX_BARS]
    figure = _figure(3.1)
    axes = figure.subplots()
    series = [(r, points_of(r.run, label), roof_of(r.run)) for r, _ in found]
    finite = [p.intensity for _, points, _ in series for p in points if p.flops and math.isfinite(p.intensity)]
    low, high = (min(finite) / 3, max(finite) * 8) if finite else (0.1, 100.0)
    for _, _, roof in series:
        if roof is not None:
            high = max(high, *(peak / roof.bytes_per_s * 4 for peak in roof.flops_per_s.values()))
    names = labels([r for r, _ in found])
    named: set[tuple[str, float]] = set()
    for index, (name, (_, points, roof)) in enumerate(zip(names, series, strict=True)):
        color, marker = style.PALETTE[index % 7], style.MARKERS[index % len(style.MARKERS)]
        drawn = [p for p in points if p.flops]
        axes.scatter(
            [min(p.intensity, high / 1.3) for p in drawn],
            [p.flops_per_s / 1e9 for p in drawn],
            s=22,
            color=color,
            marker=marker,
            alpha=0.85,
            linewidths=0.4,
            edgecolors="white",
            label=name,
            zorder=3,
        )
        if roof is not None:
            _draw_roof(axes, roof, low, high, color, named)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel("arithmetic intensity (FLOP per DRAM byte)")
    axes.set_ylabel("GFLOP/s")
    axes.grid(which="major")
    _legend(figure, names)
    idle = sorted({p.name for _, points, _ in series for p in points if not p.flops})
    resident = sorted({p.name for _, points, _ in series for p in points if p.flops and not math.isfinite(p.intensity)})
    caption = (
        "Lines are the peaks in each run's manifest."
        if any(roof for _, _, roof in series)
        else ("The manifests give no peaks, so no roof is drawn.")
    )
    if resident:
        caption += f" No DRAM traffic, at the right edge: {', '.join(resident)}."
    if idle:
        caption += f" No arithmetic, not drawn: {', '.join(idle)}."
    return Plot(
        name=f"roofline-{label}",
        title=f"Roofline, {label}",
        alt=f"Log-log scatter of the operators of {', '.join(names)} in {label}: GFLOP per second over FLOP per "
        "DRAM byte, with the compute and memory roofs of each system.",
        caption=caption + _left_out(results, label),
        figure=figure,
    )


def _draw_roof(axes: Any, roof: Roof, low: float, high: float, color: str, named: set[tuple[str, float]]) -> None:
    best = max(roof.flops_per_s.values())
    ridge = best / roof.bytes_per_s
    xs = [low, ridge, high] if low < ridge < high else [low, high]
    axes.plot(xs, [min(best, x * roof.bytes_per_s) / 1e9 for x in xs], color=color, linewidth=1.2)
    # Devices that share the memory share its slope; each has its own ceiling from its own ridge on.
    shared: dict[float, list[str]] = {}
    for device, peak in roof.flops_per_s.items():
        shared.setdefault(peak, []).append(device)
    for peak, devices in shared.items():
        start = max(low, peak / roof.bytes_per_s)
        if start < high:
            axes.plot(
                [start, high], [peak / 1e9] * 2, color=color, linewidth=0.9, linestyle="--" if peak < best else "-"
            )
            # Systems on one host share a ceiling; its name is written once.
            text = ", ".join(devices)
            if (text, peak) not in named:
                named.add((text, peak))
                at = (high, peak / 1e9)
                axes.annotate(text, at, xytext=(-2, 2), textcoords="offset points", ha="right", fontsize=8)


@_styled
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
    rows = math.ceil(len(names) / columns)
    figure = _figure(0.4 + 1.75 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    words = []
    top = float(frame["metric_value"].max()) * 1.12
    for index, name in enumerate(names):
        part = frame[frame["parameter"] == name]
        if int(part["is_default"].sum()) != 1 or len(part) < 2:
            raise DataError(f"sensitivity frame: {name}: needs one default row and at least one other")
        words.append(_panel(grid[index // columns][index % columns], name, part, top))
    for index in range(len(names), rows * columns):
        grid[index // columns][index % columns].set_visible(False)
    figure.supylabel(metric, fontsize=9.5, color=style.TEXT)
    return Plot(
        name="sensitivity",
        title=f"Sensitivity of {metric} to parameters that the paper does not give",
        alt=f"Small panels of {metric} over one parameter each. {'; '.join(words)}.",
        caption="Filled marker: our default. Each panel changes one parameter and keeps the others at their defaults.",
        figure=figure,
    )


def _panel(axes: Any, name: str, part: pd.DataFrame, top: float) -> str:
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
    axes.set_title(name.rpartition(".")[2])
    axes.grid(axis="y")
    axes.set_ylim(0, top)
    axes.margins(x=0.08)
    low, high, middle = (significant(float(y)) for y in (ys.min(), ys.max(), ys[default[0]]))
    return f"{name}: {low} to {high}, default {middle}"


def operator_table(results: Sequence[Result], label: str = "decode") -> pd.DataFrame:
    """Every operator of every run as text: time, share, limiter, intensity, rate; the numbers behind the roofline."""
    rows = []
    found = _with_phase(results, label)[:MAX_BARS]
    names = labels([r for r, _ in found])
    for name, (result, phase) in zip(names, found, strict=True):
        points: list[Point] = points_of(result.run, label)
        for point in sorted(points, key=lambda p: -p.time_ps):
            rows.append(
                {
                    "system": name,
                    "operator": point.name,
                    "device": point.device,
                    "limiter": point.limiter,
                    "time": f"{significant(point.time_ps / phase.tokens * 1e-9)} ms",
                    "share": f"{point.time_ps / phase.sim_ps * 100:.1f} %",
                    "FLOP/byte": significant(point.intensity) if math.isfinite(point.intensity) else "no DRAM",
                    "FLOP/s": si(point.flops_per_s),
                    "DRAM": f"{point.dram_bytes / (point.time_ps / PS_PER_S) / 1e9:.1f} GB/s" if point.time_ps else "–",
                }
            )
    return pd.DataFrame(rows)

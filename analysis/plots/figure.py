"""What every figure has: a name, words for those who do not see it, one drawing for page and file, and its layout."""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gempim.analysis import style
from gempim.quantity import DataError

P = ParamSpec("P")
T = TypeVar("T")

_CHARACTER_IN = 0.078
"""Mean width of a character at 9 points in inches (DejaVu Sans, the widest of the fonts a page may take)."""

_LEGEND_ROW_IN = 0.175
_TITLE_IN = 0.26


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

    def _repr_svg_(self) -> str:
        """What a notebook shows."""
        return self._render("svg").decode("utf-8")

    def save(self, folder: Path, ending: str = "svg") -> Path:
        """Write the figure as ``svg``, ``png`` or ``pdf`` into `folder`; returns the file.

        SVG and PNG have a white ground, since their text is dark; SVG has the figure's words as its description.
        """
        if ending not in ("svg", "png", "pdf"):
            raise DataError(f"figure format {ending!r} (allowed: svg, png, pdf)")
        file = folder / f"{self.name}.{ending}"
        data = self._render(ending)
        if ending == "svg":
            words = f"<desc>{_attribute(self.alt)}</desc>"
            data = re.sub(
                r"(<svg[^>]*>)", lambda found: f"{found[1]}\n {words}", data.decode("utf-8"), count=1
            ).encode()
        file.write_bytes(data)
        return file

    def _render(self, ending: str) -> bytes:
        # Drawing is what a report spends its time on, and the page and the SVG file are one drawing.
        if ending not in self._files:
            out = io.BytesIO()
            # No date and no program name: the same runs give the same file.
            metadata = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}.get(ending)
            ground = "none" if ending == "pdf" else "white"
            with matplotlib.rc_context(style.RC):
                self.figure.savefig(out, format=ending, metadata=metadata, facecolor=ground)
            self._files[ending] = out.getvalue()
        return self._files[ending]


def _inline(svg: str, name: str, alt: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # On a page the page's ground shows through.
    svg = re.sub(r'(<g id="patch_1">\s*<path [^>]*fill: )#ffffff', r"\1none", svg, count=1)
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


def styled(function: Callable[P, T]) -> Callable[P, T]:
    """Draw with the settings of `style`."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.rc_context(style.RC):
            return function(*args, **kwargs)

    return wrapped


def text_width_in(texts: Sequence[str]) -> float:
    """Width of the widest line of `texts` at 9 points, in inches."""
    return max((len(line) for text in texts for line in text.split("\n")), default=0) * _CHARACTER_IN


def two_lines(label: str) -> str:
    """A label beside a bar: the system, and what is particular of the run under it."""
    return label.replace(", ", "\n", 1)


def wrapped_title(text: str, width_in: float) -> str:
    """A panel's title in as many lines as it needs, broken at spaces and hyphens, or in a word that is too wide."""
    # Bold letters are a tenth wider.
    most = max(4, int(width_in / (_CHARACTER_IN * 1.1)))
    lines = [""]
    for piece in re.findall(r"[^ -]+-?|[ -]", text):
        whole = [piece[at : at + most] for at in range(0, len(piece), most)]
        if len((lines[-1] + piece).rstrip()) <= most:
            lines[-1] += piece
        elif piece != " ":
            lines += whole
    return "\n".join(line.strip() for line in lines if line.strip())


def legend_rows(names: Sequence[str]) -> tuple[int, int]:
    """Columns and rows of a legend under a figure."""
    # A line sample, its gap and the gap to the next column are about six characters wide.
    columns = max(1, min(len(names), int((style.WIDTH_IN - 0.1) / (text_width_in(names) + 0.5)), 4))
    return columns, math.ceil(len(names) / columns)


def panels(
    heights_in: Sequence[float],
    titles: Sequence[str],
    *,
    columns: int,
    left_in: float,
    legend: Sequence[str] = (),
    xlabel: str = "",
    ylabel: str = "",
    ticks_in: float = 0.27,
    share: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure with panels at fixed places: `columns` in a row, a title over each, a shared legend at the bottom.

    `heights_in` are those of the panels' axes; a row is as high as its highest panel. `left_in` is the room for what
    stands left of each panel (of the outer ones with `share`, which gives all panels one pair of axes). Layout is by
    arithmetic and not by a solver: it is exact, ten times as fast, and cannot fail.
    """
    # A legend entry or title never makes the page wider than it is; the margins are in inches.
    count = len(heights_in)
    columns = min(columns, count)
    gap_in = 0.18 if share else left_in
    right_in, top_in = 0.1, 0.05
    width = (style.WIDTH_IN - left_in - right_in - gap_in * (columns - 1)) / columns
    titles = [wrapped_title(title, width + (gap_in - 0.1 if columns > 1 else 0.0)) for title in titles]
    title_in = [_TITLE_IN + 0.155 * title.count("\n") if title else 0.06 for title in titles]
    rows = [range(at, min(at + columns, count)) for at in range(0, count, columns)]
    _, lines = legend_rows(legend) if legend else (0, 0)
    foot_in = (0.22 if xlabel else 0.0) + (0.06 + _LEGEND_ROW_IN * lines if legend else 0.0)
    total = (
        top_in
        + sum(max(heights_in[i] for i in row) + max(title_in[i] for i in row) + ticks_in + 0.04 for row in rows)
        + foot_in
    )
    figure = Figure(figsize=(style.WIDTH_IN, total))
    axes: list[Axes] = []
    y = total - top_in
    for row in rows:
        height = max(heights_in[i] for i in row)
        y -= height + max(title_in[i] for i in row)
        for place, i in enumerate(row):
            x = left_in + place * (width + gap_in)
            low = y + height - heights_in[i]
            box = (x / style.WIDTH_IN, low / total, width / style.WIDTH_IN, heights_in[i] / total)
            shared = axes[0] if share and axes else None
            one = figure.add_axes(box, sharex=shared, sharey=shared)
            one.tick_params(labelsize=8.5)
            if titles[i]:
                one.set_title(titles[i], loc="left", fontsize=9, y=1.0, pad=5)
            # Places that are given need no search for free ones, which would be a third of the drawing time.
            one.xaxis.set_label_coords(0.5, -0.2)
            one.yaxis.set_label_coords(-0.2, 0.5)
            if share and place:
                one.tick_params(labelleft=False)
            axes.append(one)
        y -= ticks_in + 0.04
    middle = (left_in + (style.WIDTH_IN - right_in)) / 2 / style.WIDTH_IN
    if xlabel:
        figure.text(middle, (foot_in - 0.03) / total, xlabel, ha="center", va="top", fontsize=9.5)
    if ylabel:
        figure.text(0.01, 0.5 + foot_in / total / 2, ylabel, rotation=90, va="center", ha="left", fontsize=9.5)
    return figure, axes


def add_legend(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """The shared legend, in the room that `panels` left for it."""
    columns, _ = legend_rows(names)
    figure.legend(
        list(handles),
        list(names),
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=columns,
        handlelength=1.3,
        handleheight=0.9,
        columnspacing=1.0,
        labelspacing=0.35,
        borderpad=0.1,
        borderaxespad=0.1,
    )


def colour(systems: Sequence[str], system: str) -> tuple[str, str]:
    """Colour and marker of a system: the same in all figures of a report."""
    index = list(systems).index(system)
    return style.PALETTE[index % (len(style.PALETTE) - 1)], style.MARKERS[index % len(style.MARKERS)]

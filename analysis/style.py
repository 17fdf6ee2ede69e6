"""How every figure of gempim looks, in one place: colours, sizes, fonts.

Colours: Okabe and Ito's palette for colour-blind readers (jfly.uni-koeln.de/color); its black is the text's.
Size: readable on a phone without zooming, and in one column of a two-column paper at 80 %.
"""

from __future__ import annotations

from typing import Any

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#8C8C8C")
"""Series colours in order of use; the last, grey, is for the rest of a breakdown."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Series markers in the same order, so that no figure depends on colour alone."""

WIDTH_IN = 4.3
"""Width of every figure in inches."""

TEXT = "#1b1b1f"
"""Colour of text and axes in files; inline in a page they take the page's text colour."""

GRID = "#c9c9d1"
"""Colour of grid lines in files; inline in a page they take the page's."""

FONT_STACK = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
"""Fonts of figures inside a page."""

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.dpi": 150,
    "svg.fonttype": "none",
    "svg.hashsalt": "gempim",
    "pdf.fonttype": 42,
}
"""matplotlib settings of every figure. Text stays text in SVG and PDF."""

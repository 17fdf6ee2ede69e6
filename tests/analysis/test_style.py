"""Figures for two-column papers: fonts large enough in print, colours apart for colour-blind eyes, words in files."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text

from gempim.analysis import plots, style
from gempim.analysis.cost import load_prices
from gempim.analysis.energy import load_energy_table
from gempim.analysis.result import Result, evaluate
from gempim.analysis.run import load_run
from gempim.analysis.selection import select

from .conftest import make_run

# Viénot, Brettel and Mollon (1999), dichromats in linear RGB; tritanopia after Brettel's one-plane form.
DICHROMATS = {
    "protanopia": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deuteranopia": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}
COLUMN_IN = 3.33
"""Column of a two-column paper: 3.33 in (ACM), 3.5 in (IEEE)."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    root = tmp_path_factory.mktemp("style")
    energy, prices = load_energy_table("default"), load_prices()
    runs = [
        make_run(root / f"{system}-{batch}", system=system, pim=pim, batch=batch, speed=speed, seed=batch)
        for batch in (1, 8)
        for system, pim, speed in (("neoverse-n1", False, 1.0), ("sail", True, 5.0))
    ]
    return [evaluate(load_run(run), energy, prices) for run in runs]


def _linear(colour: str) -> np.ndarray:
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of linear sRGB."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    t = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", ["normal", *DICHROMATS])
def test_series_colours_are_apart(sight: str) -> None:
    """The first four colours, which lines and bars of systems take, differ for all readers (CIE76 above 15); their
    markers differ anyway."""
    matrix = np.array(DICHROMATS.get(sight, np.eye(3)))
    for a, b in itertools.combinations(style.PALETTE[:4], 2):
        assert np.linalg.norm(_lab(matrix @ _linear(a)) - _lab(matrix @ _linear(b))) > 15, (a, b)
    assert len(set(style.PALETTE)) == len(style.PALETTE)
    assert len(set(style.MARKERS)) == len(style.MARKERS)


def test_text_is_readable_in_a_column(results: list[Result]) -> None:
    """At a column's width no text is below 5.8 points, and every figure has the one width."""
    shown = select(results, baseline="neoverse-n1")
    figures = [
        plots.time_breakdown(shown),
        plots.energy_breakdown(shown),
        plots.roofline(shown),
        plots.cost_bars(shown),
        plots.cost_band_plot(shown),
        plots.throughput_by(results, "batch", baseline="neoverse-n1"),
    ]
    for plot in figures:
        assert plot is not None
        assert plot.figure.get_figwidth() == style.WIDTH_IN
        texts = [t for t in plot.figure.findobj(Text) if t.get_text()]
        assert texts
        smallest = min(t.get_fontsize() for t in texts) * COLUMN_IN / style.WIDTH_IN
        assert smallest >= 5.8, (plot.name, smallest)


def test_files_have_their_words_and_a_ground(results: list[Result], tmp_path: Path) -> None:
    """An SVG says what it shows and is readable on a dark page; inside the report the page's ground shows through."""
    plot = plots.cost_band_plot(select(results, baseline="neoverse-n1"))
    text = plot.save(tmp_path, "svg").read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert root.findtext("{http://www.w3.org/2000/svg}desc") == plot.alt
    ground = re.compile(r'<g id="[\w-]*patch_1">\s*<path [^>]*fill: (\S+?)[;"]', re.DOTALL)
    assert ground.findall(text)[0] == "#ffffff"
    inline = plot.svg()
    assert ground.findall(inline)[0] == "none"
    assert "<desc>" not in inline


def test_the_cost_band_is_the_price_over_the_rate(results: list[Result]) -> None:
    """Lines and bands re-computed from the runs' own files, at both ends of the utilisation."""
    plot = plots.cost_band_plot(select(results, baseline="neoverse-n1"))
    lines = [line for axes in plot.figure.axes for line in axes.lines]
    bands = [c.get_paths()[0].vertices[:, 1] for axes in plot.figure.axes for c in axes.collections]
    assert len(lines) == len(bands) == 4
    for line, band, item in zip(lines, bands, results, strict=True):
        roi = item.run.rois_of("decode")
        rate = sum(r.tokens for r in roi) / sum(r.sim_ps for r in roi) * 1e12
        hourly = 2.176 * (1.02 if item.run.system == "sail" else 1.0)
        low, high = line.get_xdata()[0], line.get_xdata()[-1]
        assert (low, high) == pytest.approx((0.1, 1.0))
        assert line.get_ydata()[-1] == pytest.approx(hourly / (rate * 3600) * 1e6)
        assert line.get_ydata()[0] == pytest.approx(hourly / (rate * 3600 * 0.1) * 1e6)
        assert (band.min(), band.max()) == pytest.approx((line.get_ydata()[-1] / 2, line.get_ydata()[0] * 2))

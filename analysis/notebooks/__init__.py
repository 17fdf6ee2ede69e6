"""Notebooks, as scripts that jupytext opens (``# %%`` marks a cell), and what all of them need.

A notebook simulates by the command `gempim`, as a user would, and reads the run directories that it leaves: analysis
knows no engine, and every cell that simulates can be typed into a terminal.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gempim.analysis.plots import Plot
from gempim.quantity import DataError


def gempim(*words: str) -> str:
    """Run ``gempim WORDS...`` with this Python; returns what it wrote to stdout.

    Raises DataError with the command's own message when it fails.
    """
    done = subprocess.run([sys.executable, "-P", "-m", "gempim.cli", *words], capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"gempim {' '.join(words)}\n{done.stderr.strip()}")
    return done.stdout


def save(plot: Plot | None, folder: Path = Path("figures")) -> Plot:
    """Write a figure as SVG and PDF for a paper, and give it back to be shown.

    Raises DataError for None, which a figure is when the runs have nothing to draw in it.
    """
    if plot is None:
        raise DataError("the runs do not vary in what this figure shows")
    folder.mkdir(parents=True, exist_ok=True)
    for ending in ("svg", "pdf"):
        plot.save(folder, ending)
    return plot

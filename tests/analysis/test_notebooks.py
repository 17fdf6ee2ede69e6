"""Every notebook runs from beginning to end, shows what it says, and leaves figures that a journal takes."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import pytest

import gempim.analysis.notebooks

FOLDER = Path(gempim.analysis.notebooks.__file__).parent
NOTEBOOKS = sorted(file for file in FOLDER.glob("*.py") if file.stem != "__init__")
SHOWN = {
    "quickstart": ("Tokens per second", "speedup", "report/report.html"),
    "sail_sensitivity": ("sram_pim.nbw", "best over worst", "q2_k"),
    "duplex_against_gpu": ("duplex-pe-et", "tbt_p99_ratio", "TBT p50"),
    "cost_per_token": ("break-even price", "area overhead", "2.176 USD/h * 64 cores / 64 vCPUs"),
    "bring_your_own_stats": ("nearest: simTicks", "lutmmIssued", "PIM share of the time"),
    "add_your_own_device": ("narrow-sail", "my-npu", "half of the shipped figure", "leakage"),
}
"""What the outputs of each notebook must contain."""


def executed(file: Path, folder: Path) -> Any:
    """The notebook with its outputs, run in `folder` by this Python."""
    notebook = jupytext.read(file)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return notebook


def texts(notebook: Any) -> str:
    said = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", output["text"]
            said += [output.get("text", ""), *(str(v) for v in output.get("data", {}).values())]
    return "\n".join(said)


def test_there_are_the_notebooks_that_are_promised() -> None:
    assert {file.stem for file in NOTEBOOKS} == set(SHOWN)


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook(file: Path, tmp_path: Path) -> None:
    """It runs, every cell's output is there, and its figures are vectors with text as text."""
    start = time.monotonic()
    notebook = executed(file, tmp_path)
    print(f"{file.stem}: {time.monotonic() - start:.0f} s")
    said = texts(notebook)
    for words in SHOWN[file.stem]:
        assert words in said, words
    assert any(
        key.startswith("image/") for c in notebook.cells for o in c.get("outputs", []) for key in o.get("data", {})
    )
    figures = list(tmp_path.rglob("figures/*.pdf")) + list(tmp_path.glob("*.pdf"))
    assert figures
    for figure in figures:
        data = figure.read_bytes()
        assert data.startswith(b"%PDF")
        # Type 42 (TrueType): what IEEE's and ACM's checks accept; Type 3 fonts are refused.
        assert b"/Subtype /Type3" not in data
        assert b"/FontFile2" in data or b"/Type0" in data
        assert b"/Subtype /Image" not in data
        if figure.parent.name == "figures":
            assert "<text" in figure.with_suffix(".svg").read_text(encoding="utf-8")


def test_a_notebook_that_fails_is_red(tmp_path: Path) -> None:
    """The check itself: a wrong command inside a cell ends the notebook with the command's message."""
    file = tmp_path / "bad.py"
    file.write_text(
        "# %%\nfrom gempim.analysis.notebooks import gempim\n# %%\ngempim('compare', 'neoverse-n1', 'no-such-system')\n"
    )
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="no-such-system"):
        executed(file, tmp_path)


def test_sources_are_plain() -> None:
    """No outputs, no magics, no engine: sources that diff, and only the command simulates."""
    for file in NOTEBOOKS:
        text = file.read_text(encoding="utf-8")
        assert text.startswith("# ---\n# jupyter:"), file
        assert not re.search(r"^# [!%](?!%)", text, re.MULTILINE), file
        again = jupytext.reads(text, fmt="py:percent")
        assert not any(cell.get("outputs") for cell in again.cells)
        assert again.cells[0].cell_type == "markdown"
        assert again.cells[0].source.startswith("# "), f"{file}: no title"

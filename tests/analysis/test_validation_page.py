"""The validation page: made from the committed summaries alone, and each figure has a command that makes it again."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import gempim.validate
from gempim.analysis.validation import load_claims
from gempim.cli import app
from gempim.quantity import DataError
from gempim.validate import measure_again, measured_of, simulate_all, write_page

FOLDER = Path(__file__).parents[2] / "analysis" / "validation"
FILES = ("summary.csv", "summary.json", "serving.csv", "edap.csv")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in FILES:
        shutil.copy(FOLDER / name, tmp_path / name)
    return tmp_path


def test_the_committed_page_is_what_the_summaries_give(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte, and without simulating a run. If it fails: python -P -m gempim.validate --page."""

    def never(*_: object) -> None:
        raise AssertionError("simulated")

    for name in ("simulate", "run_sweep"):
        monkeypatch.setattr(gempim.validate, name, never)
    assert write_page(copy).read_text() == (FOLDER / "VALIDATION.md").read_text()
    # A figure of the summary reaches the page.
    rows = pd.read_csv(copy / "summary.csv")
    rows.loc[(rows["system"] == "sail") & (rows["threads"] == 16), "speedup"] = 10.25
    rows.to_csv(copy / "summary.csv", index=False)
    assert "| 10.2 x | -4 % |" in write_page(copy).read_text()


def test_a_damaged_summary_is_an_error(copy: Path) -> None:
    document = json.loads((copy / "summary.json").read_text())
    del document["made_with"]
    (copy / "summary.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"summary.csv and summary.json of gempim.validate: KeyError\('made_with'\)"):
        write_page(copy)


@pytest.mark.parametrize("claim", ["sail-speedup", "sail-v100-tokens-per-dollar", "sail-prt-cycles", "cpu-a76-q4_0-1t"])
def test_a_claim_is_measured_again(claim: str, tmp_path: Path) -> None:
    """What the claim's own command simulates is what is committed (four digits)."""
    committed = measured_of(gempim.validate.Summary.read(FOLDER))[0][claim]
    assert measure_again(claim, FOLDER, tmp_path) == pytest.approx(committed, rel=1e-3)


def test_commands_are_commands_of_this_version(tmp_path: Path) -> None:
    """Every command that the page names is one that parses, and every claim that can be measured alone is offered."""
    page = (FOLDER / "VALIDATION.md").read_text()
    named = set(re.findall(r"^- (?:Command|Its case): `(.*)`$", page, re.MULTILINE))
    again = {line for line in named if "--claim" in line}
    assert {line.rpartition(" ")[2] for line in again} == {
        c.id for c in load_claims() if c.id.startswith(("sail-", "cpu-"))
    }
    cases = [line for line in named if line.startswith("gempim ")]
    assert len(cases) >= 9
    for line in cases:
        # An unknown option is status 2; --help ends before anything is simulated.
        done = CliRunner().invoke(app, [*shlex.split(line)[1:], "--help"])
        assert done.exit_code == 0, line
        done = CliRunner().invoke(app, [*shlex.split(line)[1:], "--no-such-option"])
        assert done.exit_code == 2, line
    modules = {line.split()[3] for line in named - set(cases)}
    assert modules == {"gempim.validate", "gempim.validate_serve"}
    with pytest.raises(DataError, match=r"--claim sail-sped: expected one of .*; did you mean 'sail-speedup'"):
        measure_again("sail-sped", FOLDER, tmp_path)


def test_what_is_simulated_is_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid of one model, width and batch, written and read back, gives the ratios that its own rows have."""
    for name, values in {"MODELS": ("llama-2-7b",), "QUANTS": ("q4_0",), "BATCHES": (8,), "THREADS": (16,)}.items():
        monkeypatch.setattr(gempim.validate, name, values)
    simulate_all(tmp_path / "runs", tmp_path)
    measured, notes, again = measured_of(gempim.validate.Summary.read(tmp_path))
    rows = pd.read_csv(tmp_path / "summary.csv").set_index("system")
    rate = rows["tokens_per_s"]
    assert measured["sail-speedup"] == pytest.approx(rate["sail"] / rate["neoverse-n1"], rel=1e-3)
    assert measured["sail-v100-tokens-per-dollar"] == pytest.approx(
        rows["tokens_per_usd"]["sail"] / rows["tokens_per_usd"]["v100"], rel=1e-3
    )
    assert "best speedup at 16 threads: llama-2-7b q4_0, batch 8, 16 threads" in notes
    assert "--model llama-2-7b --quant q4_0 --batch 8" in again["sail-speedup"]

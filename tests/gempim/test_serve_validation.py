"""The committed summary of serving runs: complete, still what the code gives, and what the validation page says."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from gempim.analysis.serving.table import row
from gempim.analysis.validation import check, load_claims
from gempim.output_serve import serving_results
from gempim.serve.simulate import simulate_serve
from gempim.validate_serve import DEVICES, ET, GPU, UNKNOWNS, Summary, edap, grid, measure

FOLDER = Path(__file__).parents[2] / "analysis" / "validation"
KEYS = ["model", "system", "devices", "max_batch", "input", "output"]


def test_every_point_of_the_grid_has_its_row() -> None:
    rows = pd.read_csv(FOLDER / "serving.csv")
    want = {
        (e.model.name, e.system.name, e.devices, e.scheduler.max_batch, e.requests.input, e.requests.output)
        for e in grid()
    }
    assert set(rows[KEYS].itertuples(index=False, name=None)) == want
    assert len(rows) == len(want)


@pytest.mark.parametrize("system", [GPU, ET])
def test_a_row_is_still_what_the_code_gives(system: str, tmp_path: Path) -> None:
    """If this fails, the model has changed: make the summary again (python -P -m gempim.validate_serve)."""
    point = next(e for e in grid() if e.system.name == system and e.model.name == "mixtral-8x7b")
    found = row(serving_results([simulate_serve(point, tmp_path)], prices={}, energy=None, utilisation=1.0)[0])
    rows = pd.read_csv(FOLDER / "serving.csv").set_index(KEYS)
    committed = rows.loc[tuple(found[k] for k in KEYS)]
    for name in ("tokens_per_s", "tbt_p50_ms", "tbt_p99_ms", "j_per_token"):
        assert found[name] == pytest.approx(committed[name], rel=1e-3), name


def test_edap_is_still_what_the_code_gives() -> None:
    committed = pd.read_csv(FOLDER / "edap.csv")
    pd.testing.assert_frame_equal(edap(), committed, rtol=1e-3)


def test_the_page_says_what_the_summary_gives() -> None:
    measured, notes = measure(FOLDER)
    page = (FOLDER / "VALIDATION.md").read_text()
    claims = [c for c in load_claims() if c.id.startswith("duplex-")]
    assert {c.id for c in claims} == set(measured)
    for outcome in check(claims, measured):
        assert f"## {outcome.claim.id}: {outcome.result}" in page
        assert f"| {outcome.row()['measured']} | {outcome.row()['deviation']} |" in page
    assert all(f"- {note}" in page for note in notes)


def test_ratios_are_of_the_same_requests() -> None:
    """By hand from a table of four rows: only rows that agree in model, batch and lengths are compared."""
    text = """model,system,devices,max_batch,input,output,tokens_per_s
mixtral-8x7b,gpu-h100,4,32,256,256,100
mixtral-8x7b,duplex-pe-et,4,32,256,256,250
mixtral-8x7b,gpu-h100,8,32,256,256,190
mixtral-8x7b,duplex-pe-et,4,64,256,256,900
"""
    ratios = Summary(pd.read_csv(io.StringIO(text)), pd.DataFrame()).against(ET, GPU, "tokens_per_s")
    assert ratios.tolist() == [2.5]
    assert DEVICES["mixtral-8x7b"] == 4


def test_sensitivity_has_every_unknown_with_its_default() -> None:
    frame = pd.read_csv(FOLDER / "serving-sensitivity.csv")
    assert set(frame["parameter"]) == set(UNKNOWNS)
    assert (frame.groupby("parameter")["is_default"].sum() == 1).all()
    assert frame[frame["is_default"]]["metric_value"].nunique() == 1

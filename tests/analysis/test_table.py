"""Tables: the llama-bench shape, ratios re-computed from the results, formats that parse back, nothing averaged."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from gempim.analysis.cost import load_prices
from gempim.analysis.energy import load_energy_table
from gempim.analysis.result import Result, evaluate
from gempim.analysis.run import RunError, load_run
from gempim.analysis.table import SCHEMA_VERSION, compare, render_table, si, significant, tidy
from gempim.quantity import DataError

from .conftest import make_run

ENERGY, PRICES = load_energy_table("default"), load_prices()


def result(folder: Path, **options: object) -> Result:
    return evaluate(load_run(make_run(folder, **options)), ENERGY, PRICES)  # type: ignore[arg-type]


@pytest.fixture
def pair(tmp_path: Path) -> list[Result]:
    return [result(tmp_path / "base"), result(tmp_path / "pim", system="sail", pim=True, speed=6.0)]


def test_ratios_are_of_the_matching_row(pair: list[Result]) -> None:
    frame = compare(pair, "neoverse-n1")
    base, pim = pair
    for label, test in (("prefill", "pp512"), ("decode", "tg4 @ d512")):
        row = frame[(frame["system"] == "sail") & (frame["test"] == test)].iloc[0]
        a, b = getattr(base, label), getattr(pim, label)
        assert row["speedup"] == pytest.approx((b.tokens / b.sim_ps) / (a.tokens / a.sim_ps))
        assert row["j_per_token_ratio"] == pytest.approx(b.energy.total_j / b.tokens / (a.energy.total_j / a.tokens))
        price = 1.02
        assert row["tokens_per_usd_ratio"] == pytest.approx(row["speedup"] / price)
    assert list(frame[frame["system"] == "neoverse-n1"]["speedup"]) == [1.0, 1.0]
    assert (frame[frame["system"] == "sail"]["pim_commands"] > 0).all()


def test_lower_bounds_give_no_ratio(pair: list[Result], tmp_path: Path) -> None:
    """A ratio of a lower bound is not a result: it must be missing, not printed."""
    text = (Path(ENERGY.files[0]).parent / "cpu-n1-7nm.toml").read_text()
    for file in Path(ENERGY.files[0]).parent.glob("*.toml"):
        (tmp_path / file.name).write_text(file.read_text())
    changed = text.replace(
        'formula = "l2_pj_per_byte", unit = "pJ", scope = "byte moved"',
        'value = "unknown", unit = "pJ", scope = "byte moved"',
    )
    assert changed != text
    (tmp_path / "cpu-n1-7nm.toml").write_text(changed)
    bounded = evaluate(pair[1].run, load_energy_table(tmp_path / "default.toml"), PRICES)
    frame = compare([pair[0], bounded], "neoverse-n1")
    assert frame[frame["system"] == "sail"]["j_per_token_ratio"].isna().all()
    assert not frame[frame["system"] == "neoverse-n1"]["j_per_token_ratio"].isna().any()
    markdown = render_table(frame, "md")
    assert ">= " in markdown
    assert "–" in markdown


def test_runs_that_no_key_tells_apart_are_an_error(tmp_path: Path) -> None:
    """Two different runs with equal keys must never be averaged or silently doubled."""
    a = result(
        tmp_path / "a", seed=1, extra_system={"sram_pim": {"nbw": {"value": 3, "unit": "weights", "source": "x"}}}
    )
    b = result(tmp_path / "b", seed=2, extra_system={"sram_pim": {"nbw": 4}})
    with pytest.raises(DataError, match=r"2 runs have the same .*name the key"):
        tidy([a, b])
    frame = tidy([a, b], ["experiment.system.sram_pim.nbw"])
    assert sorted(set(frame["experiment.system.sram_pim.nbw"])) == [3, 4]
    with pytest.raises(DataError, match=r"no key 'experiment.system.sram_pim.nwb'.*did you mean 'nbw'"):
        tidy([a, b], ["experiment.system.sram_pim.nwb"])


def test_a_parameter_that_only_some_systems_have(tmp_path: Path) -> None:
    """A sweep over a PIM parameter: empty for the baseline, which stays the baseline of every row; typos fail."""
    key = "experiment.system.sram_pim.nbw"
    base = result(tmp_path / "base")
    swept = {
        nbw: result(
            tmp_path / f"s{nbw}", system="sail", pim=True, seed=nbw, extra_system={"sram_pim": {"nbw": nbw, "lanes": 8}}
        )
        for nbw in (2, 3, 4)
    }
    frame = compare([base, *swept.values()], "neoverse-n1", extra_keys=[key])
    assert list(frame[frame["system"] == "neoverse-n1"][key]) == [None, None]
    assert [type(v) for v in frame[frame["system"] == "sail"][key]] == [int] * 6
    assert base.decode is not None
    for nbw, item in swept.items():
        row = frame[(frame[key] == nbw) & (frame["test"] == "tg4 @ d512")].iloc[0]
        assert item.decode is not None
        assert row["speedup"] == pytest.approx(
            item.decode.tokens / item.decode.sim_ps / (base.decode.tokens / base.decode.sim_ps)
        )
    markdown = render_table(frame, "md").splitlines()
    column = [cell.strip() for cell in markdown[0].split("|")].index("nbw")
    assert [line.split("|")[column].strip() for line in markdown[2:]] == ["–", "–", "2", "2", "3", "3", "4", "4"]
    read = list(csv.DictReader(io.StringIO(render_table(frame, "csv"))))
    assert [row[key] for row in read] == ["", "", "2", "2", "3", "3", "4", "4"]
    assert json.loads(render_table(frame, "json"))["rows"][0][key] is None
    # Missing in a section that is there: a typo, even though other runs have it.
    half = result(tmp_path / "half", system="sail", pim=True, seed=9, extra_system={"sram_pim": {"lanes": 8}})
    with pytest.raises(RunError, match=r"half.*no key 'experiment.system.sram_pim.nbw'"):
        tidy([base, swept[2], half], [key])
    # A section that no run has is a typo too.
    with pytest.raises(RunError, match=r"no key 'experiment.system.sram_pmi.nbw'"):
        tidy([base, swept[2]], ["experiment.system.sram_pmi.nbw"])


def test_comparison_needs_exactly_one_baseline_row(tmp_path: Path) -> None:
    a = result(tmp_path / "a", threads=8)
    b = result(tmp_path / "b", threads=16)
    c = result(tmp_path / "c", system="sail", pim=True)
    d = result(tmp_path / "d", system="sail", pim=True, batch=4)
    with pytest.raises(DataError, match=r"2 rows of baseline neoverse-n1 .*name a further match key"):
        compare([a, b, c], "neoverse-n1")
    assert len(compare([a, b, c], "neoverse-n1", match=("model", "quant", "batch", "test", "threads"))) == 6
    with pytest.raises(DataError, match=r"0 rows of baseline neoverse-n1 .*batch 4.*run the baseline for it"):
        compare([b, c, d], "neoverse-n1")
    with pytest.raises(DataError, match=r"no run of baseline 'neoverse-n2'; did you mean"):
        compare([b, c], "neoverse-n2")
    with pytest.raises(DataError, match=r"match key 'quants'; did you mean 'quant'"):
        compare([b, c], "neoverse-n1", match=("quants",))
    with pytest.raises(DataError, match="no results"):
        tidy([])


def test_formats_parse_back(pair: list[Result]) -> None:
    """Do csv, json and jsonl give back every digit, the schema version and the units?"""
    frame = compare(pair, "neoverse-n1")
    rates = list(frame["tokens_per_s"])
    document = json.loads(render_table(frame, "json"))
    assert document["schema_version"] == SCHEMA_VERSION
    assert document["units"]["tokens_per_s"] == "tokens/s"
    assert [row["tokens_per_s"] for row in document["rows"]] == rates
    assert document["rows"][0]["tokens_per_s_std"] is None
    lines = [json.loads(line) for line in render_table(frame, "jsonl").splitlines()]
    assert lines == document["rows"]
    read = list(csv.DictReader(io.StringIO(render_table(frame, "csv"))))
    assert [float(row["tokens_per_s"]) for row in read] == rates
    assert {row["schema_version"] for row in read} == {str(SCHEMA_VERSION)}
    assert read[0]["tokens_per_s_std"] == ""
    with pytest.raises(DataError, match="output format 'xml'"):
        render_table(frame, "xml")


def test_golden_markdown() -> None:
    """The table that people paste into papers keeps its shape."""
    common = {"model": "m", "size_bytes": 3825205248, "params": 6738415616, "quant": "q4_0", "threads": 16, "batch": 1}
    frame = pd.DataFrame(
        [
            {
                **common,
                "system": "base",
                "test": "tg4 @ d512",
                "tokens_per_s": 10.0,
                "tokens_per_s_std": 0.5,
                "j_per_token": 2.5,
                "energy_is_lower_bound": False,
                "usd_per_million_tokens": 60.44,
                "tokens_per_usd": 16544.1,
                "speedup": 1.0,
                "j_per_token_ratio": 1.0,
                "tokens_per_usd_ratio": 1.0,
            },
            {
                **common,
                "system": "pim",
                "test": "tg4 @ d512",
                "tokens_per_s": 107.0,
                "tokens_per_s_std": 12.345,
                "j_per_token": 0.25,
                "energy_is_lower_bound": True,
                "usd_per_million_tokens": 5.7636,
                "tokens_per_usd": 173501.0,
                "speedup": 10.7,
                "j_per_token_ratio": float("nan"),
                "tokens_per_usd_ratio": 10.487,
            },
        ]
    )
    assert render_table(frame, "md") == (Path(__file__).parent / "golden_table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.5, "1230"),
        (0.012345, "0.0123"),
        (9.999, "10.0"),
        (1e-9, "1.00e-09"),
        (float("nan"), "–"),
        (99960.0, "100000"),
    ],
)
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_si() -> None:
    assert [si(v) for v in (6738415616, 1500, 12, 3.2e12)] == ["6.74 B", "1.50 K", "12", "3.20 T"]

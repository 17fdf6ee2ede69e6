"""Rates, cost and warnings of a run, re-computed here from the files on disk."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempim.analysis.cost import load_prices, parse_overrides, tokens_per_usd, usd_per_million_tokens
from gempim.analysis.energy import load_energy_table
from gempim.analysis.result import evaluate
from gempim.analysis.run import RunError, load_run
from gempim.quantity import DataError

from .conftest import make_run
from .test_run import edit_manifest, edit_roi

ENERGY = load_energy_table("default")
PRICES = load_prices()


def rois(folder: Path, label: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "roi.jsonl").read_text().splitlines()]
    return [row for row in rows if row["label"] == label]


def test_rates_from_the_files(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", batch=4, steps=5, seed=3)
    result = evaluate(load_run(folder), ENERGY, PRICES)
    steps = rois(folder, "decode")
    seconds = [row["sim_ps"] * 1e-12 for row in steps]
    assert result.decode is not None
    assert result.prefill is not None
    assert result.decode.tokens_per_s == pytest.approx(4 * 5 / sum(seconds))
    assert result.decode.tokens_per_s_std == pytest.approx(statistics.stdev(4 / s for s in seconds))
    assert result.decode.test == "tg5 @ d512"
    assert result.prefill.test == "pp512"
    assert result.prefill.tokens == 4 * 512
    assert result.prefill.tokens_per_s_std is None
    assert result.ttft_s == pytest.approx(rois(folder, "prefill")[0]["sim_ps"] * 1e-12)
    assert sum(result.decode.time_ps_by_operator.values()) == sum(row["sim_ps"] for row in steps)
    assert sum(result.decode.time_ps_by_device.values()) == sum(row["sim_ps"] for row in steps)


def test_energy_of_phases_is_energy_of_sections(sail: Path) -> None:
    """Prefill and decode together hold all energy, and J/token is joules over tokens."""
    run = load_run(sail)
    result = evaluate(run, ENERGY, PRICES)
    from gempim.analysis.energy import measure_energy

    whole = measure_energy(run.sections, ENERGY).total_j
    assert sum(p.energy.total_j for p in result.phases) == pytest.approx(whole, rel=1e-12)
    assert result.decode is not None
    assert result.decode.j_per_token == pytest.approx(result.decode.energy.total_j / 4)
    assert sum(result.decode.j_per_token_by_component().values()) == pytest.approx(result.decode.j_per_token)


@given(
    rate=st.floats(1e-3, 1e6, allow_nan=False),
    usd=st.floats(1e-3, 1e3, allow_nan=False),
    use=st.floats(0.01, 1.0, allow_nan=False),
)
def test_cost_formulas(rate: float, usd: float, use: float) -> None:
    """An hour's price over an hour's tokens; and the two figures are each other's inverse."""
    tokens_in_an_hour = rate * use * 60 * 60
    assert usd_per_million_tokens(rate, usd, use) == pytest.approx(usd / tokens_in_an_hour * 1_000_000)
    assert tokens_per_usd(rate, usd, use) * usd_per_million_tokens(rate, usd, use) == pytest.approx(1e6)


def test_cost_formula_against_a_published_slip() -> None:
    """0.20 USD/h at 90 tokens/s is 0.62 USD per million tokens (a published table has it 1000 times too low)."""
    assert usd_per_million_tokens(90, 0.20) == pytest.approx(0.617, abs=0.001)


@pytest.mark.parametrize("bad", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1.1), (-1, 1, 1), (float("nan"), 1, 1)])
def test_cost_refuses_nonsense(bad: tuple[float, float, float]) -> None:
    with pytest.raises(DataError):
        usd_per_million_tokens(*bad)


def test_price_of_a_run_is_prorated_and_pim_pays_for_its_area(n1: Path, sail: Path) -> None:
    a, b = (evaluate(load_run(f), ENERGY, PRICES).hourly for f in (n1, sail))
    assert a.usd_per_hour == pytest.approx(2.176)
    assert b.usd_per_hour == pytest.approx(2.176 * 1.02)
    text = (n1 / "stats.txt").read_text()
    (n1 / "stats.txt").write_text(re.sub(r"(system\.cpu\.cores\s+)64", r"\g<1>16", text))
    assert evaluate(load_run(n1), ENERGY, PRICES).hourly.usd_per_hour == pytest.approx(2.176 / 4)
    (n1 / "stats.txt").write_text(re.sub(r"(system\.cpu\.cores\s+)64", r"\g<1>128", text))
    with pytest.raises(DataError, match=r"has 128 cores, but .* has 64 vCPUs"):
        evaluate(load_run(n1), ENERGY, PRICES)


def test_gpu_is_priced_and_powered_per_board(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "v", system="v100", gpu=True, price_key="aws-p3-2xlarge"))
    result = evaluate(run, ENERGY, PRICES)
    assert result.hourly.usd_per_hour == pytest.approx(3.06)
    assert result.decode is not None
    assert result.decode.energy.total_j == pytest.approx(300 * result.decode.sim_ps * 1e-12)
    assert result.decode.energy.unknown == ()


def test_overrides_and_utilisation(sail: Path) -> None:
    run = load_run(sail)
    plain = evaluate(run, ENERGY, PRICES)
    words = parse_overrides(["aws-c6g-16xlarge.usd_per_hour=1.0", "area_overhead=0.10"])
    changed = evaluate(run, ENERGY, PRICES, words, utilisation=0.5)
    assert changed.hourly.usd_per_hour == pytest.approx(1.1)
    assert plain.decode is not None
    assert changed.decode is not None
    ratio = (1.1 / 0.5) / (2.176 * 1.02)
    assert changed.decode.usd_per_million_tokens == pytest.approx(plain.decode.usd_per_million_tokens * ratio)
    assert any("set by the user" in w for w in changed.warnings)
    assert not any("no verified source" in w for w in changed.warnings)


@pytest.mark.parametrize("word", ["x", "=1", "a=b", "a=nan", "a="])
def test_bad_override_words(word: str) -> None:
    with pytest.raises(DataError, match="expected key=number"):
        parse_overrides([word])


def test_unknown_override_names_the_nearest(n1: Path) -> None:
    with pytest.raises(DataError, match=r"aws-c6g-16xlarge.usd_per_hou'; did you mean"):
        evaluate(load_run(n1), ENERGY, PRICES, {"aws-c6g-16xlarge.usd_per_hou": 1})


def test_unverified_price_is_a_warning(n1: Path) -> None:
    warnings = evaluate(load_run(n1), ENERGY, PRICES).warnings
    assert any("no verified source" in w and "c6g" in w for w in warnings)


def test_pim_without_commands_fails(tmp_path: Path) -> None:
    """A PIM row whose PIM did nothing is no result: by operator, by absence of operators, by the device's counter."""
    one = make_run(tmp_path / "one", system="sail", pim=True)
    edit_roi(one, lambda rows: rows[1]["operators"][0].update(pim_commands=0))
    with pytest.raises(RunError, match="attn_q is on sram_pim but gave it no command"):
        evaluate(load_run(one), ENERGY, PRICES)

    def to_cpu(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            for op in row["operators"]:
                op.update(device="cpu", pim_commands=0)

    two = make_run(tmp_path / "two", system="sail", pim=True)
    edit_roi(two, to_cpu)
    with pytest.raises(RunError, match="no operator ran on it: 0 commands"):
        evaluate(load_run(two), ENERGY, PRICES)

    three = make_run(tmp_path / "three", system="sail", pim=True)
    text = (three / "stats.txt").read_text()
    (three / "stats.txt").write_text(re.sub(r"(system\.sram_pim\.commands\s+)\d+", r"\g<1>0", text))
    with pytest.raises(RunError, match=r"system\.sram_pim\.commands is 0 or missing"):
        evaluate(load_run(three), ENERGY, PRICES)


def test_energy_table_of_another_memory_is_refused(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "r", extra_system={"dram": {"timing": {"value": "ddr5-4800", "source": "x"}}}))
    with pytest.raises(DataError, match="memory is ddr5-4800, but energy table default is for ddr4-3200"):
        evaluate(run, ENERGY, PRICES)
    assert evaluate(run, load_energy_table("ddr5-4800"), PRICES).decode is not None


def test_energy_derived_for_another_array_is_refused(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "r", system="sail", pim=True, extra_system={"sram_pim": {"array_columns": 512}}))
    with pytest.raises(DataError, match="override its input csram_columns=512"):
        evaluate(run, ENERGY, PRICES)
    assert evaluate(run, load_energy_table("default", {"csram_columns": 512}), PRICES).decode is not None


def test_traffic_that_operators_and_counters_disagree_on_is_a_warning(n1: Path) -> None:
    def halve(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            for op in row["operators"]:
                op["dram_read_bytes"] //= 2

    assert not any("misses traffic" in w for w in evaluate(load_run(n1), ENERGY, PRICES).warnings)
    edit_roi(n1, halve)
    assert any("system.dram.read_bytes" in w for w in evaluate(load_run(n1), ENERGY, PRICES).warnings)


def test_unknown_price_key(n1: Path) -> None:
    edit_manifest(n1, lambda m: m["experiment"].update(price_key="aws-c6g-16xl"))
    with pytest.raises(DataError, match="did you mean 'aws-c6g-16xlarge'"):
        evaluate(load_run(n1), ENERGY, PRICES)


def test_json_is_plain_and_complete(sail: Path) -> None:
    document = json.loads(json.dumps(evaluate(load_run(sail), ENERGY, PRICES).to_json(), allow_nan=False))
    assert document["schema"] == 1
    assert document["energy_table"]["sha256"] == ENERGY.sha256
    assert document["price"]["sha256"] == PRICES.sha256
    assert set(document["phases"]) == {"prefill", "decode"}
    assert "Inside the joule figure" in document["energy_boundary"]
    parts = document["phases"]["decode"]["j_per_token_by_component"]
    assert sum(parts.values()) == pytest.approx(document["phases"]["decode"]["j_per_token"])


@pytest.mark.parametrize(
    ("old", "new", "expect"),
    [
        ("value = 2.176", "value = 0", "above zero"),
        ("verified = false", 'verified = "no"', "true or false"),
        ("date = 2026-11-23", 'date = "2026"', "expected a date"),
        ("vcpus = 64", "vcpus = 0", "whole number from 1"),
        ("vcpus = 64", "cpus = 64", "unknown key 'cpus'"),
        ("area_overhead = { value = 0.02", "area_overhead = { value = 2", "expected 0 to 1"),
        ('unit = "usd/h"', 'unit = "eur/h"', "eur/h"),
    ],
)
def test_bad_price_files(tmp_path: Path, old: str, new: str, expect: str) -> None:
    text = PRICES.file.read_text()
    assert old in text
    (tmp_path / "p.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=expect):
        load_prices(tmp_path / "p.toml")

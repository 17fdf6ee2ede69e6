"""Intervals: do they cover the truth as often as they say, through ratios and means; digits that are there."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempim.analysis.cost import load_prices
from gempim.analysis.energy import load_energy_table
from gempim.analysis.report import write_report
from gempim.analysis.result import Result, evaluate
from gempim.analysis.run import load_run
from gempim.analysis.table import compare, render_table, tidy
from gempim.analysis.uncertainty import (
    MOST_DIGITS,
    Error,
    ends,
    error_of,
    geometric_mean,
    geometric_mean_half,
    interval,
    plus_minus,
    ratio,
    rounded,
    spread,
    student_t,
)
from gempim.output import make_report
from gempim.quantity import DataError

from .conftest import make_run
from .test_run import edit_manifest

ENERGY, PRICES = load_energy_table("default"), load_prices()
SEED = "experiment.workload.routing_seed"


def result(folder: Path, **options: object) -> Result:
    return evaluate(load_run(make_run(folder, **options)), ENERGY, PRICES)  # type: ignore[arg-type]


@pytest.mark.parametrize("freedom", range(1, 31))
def test_student_t_is_the_quantile(freedom: int) -> None:
    """The density integrated by Simpson's rule from -t to t is 0.95."""
    t = student_t(freedom)
    xs = np.linspace(-t, t, 20001)
    norm = math.gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)
    ys = norm * (1 + xs**2 / freedom) ** (-(freedom + 1) / 2)
    weights = np.ones(len(xs))
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    assert float(weights @ ys) * (xs[1] - xs[0]) / 3 == pytest.approx(0.95, abs=2e-4)
    assert student_t(500) == student_t(30) > 1.96
    with pytest.raises(ValueError, match="0 degrees"):
        student_t(0)


@pytest.mark.parametrize(("steps", "noise"), [(2, 0.003), (4, 0.02), (25, 0.1)])
def test_intervals_of_ratios_cover_the_truth(steps: int, noise: float) -> None:
    """Monte Carlo: of 3000 pairs of runs with random steps, some 95 % of the ratio's intervals hold the true ratio.

    With few steps the two sides' Student factors make the interval wider than it needs to be, never narrower.
    """
    rng = np.random.default_rng(steps)
    true = 37.0 / 11.0
    hits, trials = 0, 3000
    for _ in range(trials):
        a, b = (rng.normal(mean, noise * mean, steps) for mean in (37.0, 11.0))
        half = ratio(Error({"steps": spread(list(a))}).half, Error({"steps": spread(list(b))}).half)
        assert half is not None
        found = interval(float(a.mean() / b.mean()), half)
        hits += found.low <= true <= found.high
    assert 0.94 < hits / trials < (0.97 if steps > 20 else 0.995)


def test_intervals_with_a_sampling_bound_cover_the_truth() -> None:
    """As above, where a part of the time is estimated and anywhere within its stated bound, on one side."""
    rng = np.random.default_rng(7)
    bound, noise, steps = 0.04, 0.01, 12
    hits, trials = 0, 3000
    for _ in range(trials):
        true_ps = rng.uniform(1e6, 1e7)
        # What the run says is wrong by its noise in each step, and by one amount within the bound in all of them.
        said = true_ps / (1 + rng.uniform(-bound, bound)) * (1 + noise * rng.standard_normal(steps))
        manifest = {"sampling": {"passes": {f"decode {i}": {"sim_ps": t, "error": bound} for i, t in enumerate(said)}}}
        error = error_of(manifest, "decode", list(1 / said), "here")
        found = error.of(float((1 / said).mean()))
        assert found is not None
        hits += found.low <= 1 / true_ps <= found.high
    assert hits / trials > 0.95


def test_geometric_mean_and_its_interval() -> None:
    """Against the root of the product, and Monte Carlo over ratios with known errors."""
    rng = np.random.default_rng(3)
    values = rng.uniform(0.2, 9, 6)
    assert geometric_mean(values) == pytest.approx(float(np.prod(values)) ** (1 / 6))
    halves = rng.uniform(0.01, 0.2, 6)
    half = geometric_mean_half(list(halves))
    assert half is not None
    noisy = values * np.exp(rng.standard_normal((20000, 6)) * halves / 1.96)
    means = noisy.prod(axis=1) ** (1 / 6)
    found = interval(geometric_mean(values), half)
    assert ((means > found.low) & (means < found.high)).mean() == pytest.approx(0.95, abs=0.006)
    assert geometric_mean_half([0.1, None]) is None
    assert geometric_mean_half([]) is None
    for bad in ([], [1.0, 0.0], [1.0, -2.0], [math.inf]):
        with pytest.raises(ValueError, match="above zero"):
            geometric_mean(bad)


def test_what_is_unknown_is_not_small() -> None:
    """A part of unknown size gives no interval; a single region gives none; a bound of the whole time gives none."""
    assert Error().of(3.0) is None
    assert Error({"steps": 0.1, "sampling": None}).half is None
    assert ratio(0.1, None) is None
    assert error_of({}, "decode", [4.0], "x").parts == {}
    passes = {"decode 0": {"sim_ps": 10, "error": None}, "prefill": {"sim_ps": 10, "error": 0.5}}
    assert error_of({"sampling": {"passes": passes}}, "decode", [4.0], "x").unknown
    prefill = error_of({"sampling": {"passes": passes}}, "prefill", [4.0], "x")
    assert prefill.parts["sampling"] == pytest.approx(math.log(2))
    assert error_of({"sampling": {"passes": {"decode 0": {"sim_ps": 1, "error": 1.0}}}}, "decode", [4.0], "x").unknown
    # Simulated whole: no bound and no part of it.
    assert error_of({"sampling": {"passes": {"decode 0": {"sim_ps": 1, "error": 0}}}}, "decode", [4.0], "x").parts == {}
    with pytest.raises(DataError, match=r"x: sampling.passes: expected sim_ps and error"):
        error_of({"sampling": {"passes": {"decode 0": {"sim_ps": 10}}}}, "decode", [4.0], "x")


@given(st.floats(1e-6, 1e9), st.floats(1e-9, 2.0))
def test_one_rule_of_digits(value: float, relative: float) -> None:
    """Read back with exact decimals: the value is nearest at the digit that the rule gives, which is the second one of
    the ± and at most the fourth of the value, no digit stands below it, and the ± is never too small."""
    half = value * relative
    shown, error = (Decimal(text) for text in plus_minus(value, half).split(" ± "))
    place = max(Decimal(half).adjusted() - 1, Decimal(value).adjusted() - MOST_DIGITS + 1)
    # 9.996 with two digits is 10: rounding may carry into another place.
    units = [Decimal(1).scaleb(p) for p in (place, place + 1)]
    assert any(
        shown % unit == 0
        and error % unit == 0
        and abs(shown - Decimal(value)) <= unit * Decimal("0.5000001")
        and Decimal(half) * Decimal("0.99999999") <= error <= Decimal(half) + unit * Decimal("1.0000001")
        for unit in units
    )
    low, high = (Decimal(x) for x in ends(interval(value, relative)).split(" to "))
    assert low <= Decimal(value * math.exp(-relative)) * Decimal("1.00000001")
    assert high >= Decimal(value * math.exp(relative)) * Decimal("0.99999999")


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (684.331, 5.412, "684.3 ± 5.5"),
        (20.96966, 0.00121, "20.97 ± 0.01"),
        (107.0, 12.345, "107 ± 13"),
        (3.0, 5.0, "3.0 ± 5.0"),
        (1276.88, None, "1280"),
        (0.0418123, None, "0.0418"),
        (9.9996, 0.01, "10.00 ± 0.01"),
        (2.5e-7, None, "2.50e-07"),
        (1.234e12, 1e11, "1.23e+12 ± 1.0e+11"),
        (50.0, 0.0, "50.0"),
        (math.nan, None, "–"),
    ],
)
def test_digits_as_people_read_them(value: float, half: float | None, text: str) -> None:
    assert plus_minus(value, half) == text
    assert ends(None) == "–"
    assert rounded(0.0) == "0"


def test_intervals_of_a_run_reach_the_last_figures(tmp_path: Path) -> None:
    """Rate, joules, dollars, speedup: each from the run's own files, with an independent Student interval."""
    base, sail = result(tmp_path / "a", steps=5), result(tmp_path / "b", system="sail", pim=True, speed=6.0, steps=5)
    frame = compare([base, sail], "neoverse-n1")
    relative = {}
    for item in (base, sail):
        rows = [json.loads(line) for line in (item.run.path / "roi.jsonl").read_text().splitlines()]
        rates = [row["tokens"] / row["sim_ps"] for row in rows if row["label"] == "decode"]
        relative[item.run.system] = 2.776 * np.std(rates, ddof=1) / math.sqrt(len(rates)) / np.mean(rates)
        row = frame[(frame["system"] == item.run.system) & frame["test"].str.startswith("tg")].iloc[0]
        for name, sign in (("tokens_per_s", 1), ("usd_per_million_tokens", 1), ("tokens_per_usd", 1)):
            half = relative[item.run.system] * sign
            assert row[f"{name}_low"] == pytest.approx(row[name] * math.exp(-half), rel=1e-9)
            assert row[f"{name}_high"] == pytest.approx(row[name] * math.exp(half), rel=1e-9)
        assert row["j_per_token_low"] < row["j_per_token"] < row["j_per_token_high"]
    tg = frame[frame["test"].str.startswith("tg")].set_index("system")
    assert tg.loc["sail", "speedup_high"] / tg.loc["sail", "speedup"] == pytest.approx(
        math.exp(math.hypot(*relative.values()))
    )
    assert math.isnan(tg.loc["neoverse-n1", "speedup_low"])
    # Prefill is one region: no interval is known, and none is written.
    pp = frame[frame["test"].str.startswith("pp")]
    assert pp["speedup_low"].isna().all()
    read = list(csv.DictReader(io.StringIO(render_table(frame, "csv"))))
    assert [row["speedup_low"] == "" for row in read] == list(frame["speedup_low"].isna())
    assert "speedup_low" in json.loads(render_table(frame, "json"))["units"]


def test_a_sampled_run_says_its_error(tmp_path: Path) -> None:
    """The bound of a sampled run reaches its speedup; an unknown one is a warning and no interval."""
    base, sail = tmp_path / "base", tmp_path / "sail"
    make_run(base, prompt=0, steps=1)
    make_run(sail, system="sail", pim=True, prompt=0, steps=1, speed=3)
    sampled = {"passes": {"decode 0": {"sim_ps": 5, "error": 0.03}}, "warnings": ["weights fit into the LLC"]}
    edit_manifest(sail, lambda m: m.update(sampling=sampled))
    edit_manifest(base, lambda m: m.update(sampling={"passes": {"decode 0": {"sim_ps": 5, "error": 0.04}}}))
    results = [evaluate(load_run(folder), ENERGY, PRICES) for folder in (base, sail)]
    row = compare(results, "neoverse-n1").iloc[1]
    half = math.hypot(math.log(1 / 0.97), math.log(1 / 0.96))
    assert row["speedup_high"] / row["speedup"] == pytest.approx(math.exp(half))
    assert any("weights fit into the LLC" in warning for warning in results[1].warnings)
    page = write_report(results, tmp_path / "out", baseline="neoverse-n1", png=False).read_text(encoding="utf-8")
    assert "sampling 3.0 %" in page
    edit_manifest(sail, lambda m: m["sampling"]["passes"]["decode 0"].update(error=None))
    again = evaluate(load_run(sail), ENERGY, PRICES)
    assert any("the error of that is unknown" in warning for warning in again.warnings)
    assert math.isnan(compare([results[0], again], "neoverse-n1").iloc[1]["speedup_low"])


def _seeded(folder: Path, seed: int, **options: object) -> Result:
    make_run(folder, seed=seed, **options)  # type: ignore[arg-type]
    edit_manifest(folder, lambda m: m["experiment"]["workload"].update(routing_seed=seed))
    return evaluate(load_run(folder), ENERGY, PRICES)


def test_repeats_are_merged_only_when_they_are_named(tmp_path: Path) -> None:
    """Seeds: an error by default, rows with a key, one row with mean and Student interval when they are repeats."""
    base = [_seeded(tmp_path / f"b{seed}", seed, steps=1, prompt=0) for seed in (1, 2, 3)]
    sail = [
        _seeded(tmp_path / f"s{seed}", seed, system="sail", pim=True, speed=5, steps=1, prompt=0) for seed in (1, 2, 3)
    ]
    with pytest.raises(DataError, match="name the key in which they differ"):
        tidy(base)
    assert len(tidy(base, [SEED])) == 3
    frame = compare([*base, *sail], "neoverse-n1", repeats=[SEED])
    assert list(frame["repeats"]) == [3, 3]
    rates = np.array([[r.decode.tokens_per_s for r in group if r.decode] for group in (base, sail)])
    assert list(frame["tokens_per_s"]) == pytest.approx(list(rates.mean(axis=1)))
    assert list(frame["tokens_per_s_std"]) == pytest.approx(list(rates.std(axis=1, ddof=1)))
    halves = 4.303 * rates.std(axis=1, ddof=1) / math.sqrt(3) / rates.mean(axis=1)
    assert frame["speedup"].iloc[1] == pytest.approx(rates[1].mean() / rates[0].mean())
    assert frame["speedup_low"].iloc[1] == pytest.approx(frame["speedup"].iloc[1] * math.exp(-math.hypot(*halves)))
    price = base[0].hourly.usd_per_hour
    assert frame["usd_per_million_tokens"].iloc[0] == pytest.approx(price / (rates[0].mean() * 3600) * 1e6)
    page = write_report([*base, *sail], tmp_path / "out", baseline="neoverse-n1", repeats=[SEED], png=False)
    (own,) = [row for row in _table(page.read_text(encoding="utf-8"), "band-table") if row["case"] == "sail"]
    assert float(own["u 1"]) == pytest.approx(price * 1.02 / (rates[1].mean() * 3600) * 1e6, rel=5e-3)
    assert "mean of 3 runs" in page.read_text(encoding="utf-8")


def test_a_difference_that_no_column_tells_is_an_error(tmp_path: Path) -> None:
    """Two batches of one system that also differ in a PIM parameter, a cache type or gem5's CPU are not comparable."""

    def pair(change: object, **options: object) -> list[Result]:
        folders = [tmp_path / f"{len(list(tmp_path.iterdir()))}-{i}" for i in (0, 1)]
        for i, folder in enumerate(folders):
            make_run(folder, batch=i + 1, **options)  # type: ignore[arg-type]
            edit_manifest(folder, lambda m, i=i: change(m["experiment"], i))  # type: ignore[operator, misc]
        return [evaluate(load_run(folder), ENERGY, PRICES) for folder in folders]

    nbw = pair(lambda e, i: e["system"].update(sram_pim={"nbw": {"value": 3 + i, "unit": "weights", "source": "x"}}))
    with pytest.raises(DataError, match=r"experiment.system.sram_pim.nbw = 3, .* has 4, and no column .*--key"):
        tidy(nbw)
    assert len(tidy(nbw, ["experiment.system.sram_pim.nbw"])) == 4
    with pytest.raises(DataError, match=r"experiment.workload.kv_type = f16, .* has q8_0"):
        tidy(pair(lambda e, i: e["workload"].update(kv_type=("f16", "q8_0")[i])))
    with pytest.raises(DataError, match=r"experiment.gem5.cpu = o3, .* has timing"):
        tidy(pair(lambda e, i: e.update(gem5={"cpu": ("o3", "timing")[i], "args": ["a", str(i)]})))
    # A key that this version does not know is treated the same: nothing is compared across it.
    with pytest.raises(DataError, match=r"experiment.workload.brand_new = 0"):
        tidy(pair(lambda e, i: e["workload"].update(brand_new=i)))


def test_ends_with_text(tmp_path: Path) -> None:
    """Every interval that a report's uncertainty table shows encloses its figure."""
    page = write_report(
        [result(tmp_path / "a"), result(tmp_path / "b", system="sail", pim=True, speed=6.0)],
        tmp_path / "out",
        baseline="neoverse-n1",
        png=False,
    ).read_text(encoding="utf-8")
    table = page[page.index('id="uncertainty-table"') :]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table[: table.index("</table>")], re.DOTALL)[1:]
    found = 0
    for row in rows:
        cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
        for figure, text in itertools.pairwise(cells):
            if " to " in text:
                low, high = (float(x) for x in text.rstrip("x").split(" to "))
                assert low <= float(figure.rstrip("x")) <= high
                found += 1
    assert found >= 6


def _table(page: str, name: str) -> list[dict[str, str]]:
    text = page[page.index(f'id="{name}"') :]
    text = text[: text.index("</table>")]
    heads = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", text)]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in text.split("<tr")[2:]]
    return [dict(zip(heads, row, strict=True)) for row in rows]


def test_the_report_has_geometric_means_and_the_cost_band(tmp_path: Path) -> None:
    """Both re-computed from the runs' files: the mean of three batches, and dollars over utilisation and price."""
    pairs = [
        (
            result(tmp_path / f"a{batch}", batch=batch, seed=batch, prompt=0),
            result(tmp_path / f"b{batch}", system="sail", pim=True, batch=batch, seed=batch, speed=speed, prompt=0),
        )
        for batch, speed in ((1, 0.6), (4, 3.0), (16, 9.0))
    ]
    page = write_report(
        [item for pair in pairs for item in pair], tmp_path / "out", baseline="neoverse-n1", png=False
    ).read_text(encoding="utf-8")

    def rate(item: Result) -> float:
        rois = item.run.rois_of("decode")
        return sum(roi.tokens for roi in rois) / sum(roi.sim_ps for roi in rois) * 1e12

    ratios = [rate(b) / rate(a) for a, b in pairs]
    (row,) = _table(page, "summary")
    assert (row["system"], row["phase"], row["cases"]) == ("sail", "decode", "3")
    expected = math.prod(ratios) ** (1 / 3)
    assert float(row["speedup"].rstrip("x")) == pytest.approx(expected, rel=5e-3)
    low, high = (float(x) for x in row["speedup 95 %"].split(" to "))
    assert low < expected < high
    assert row["speedup range"] == f"{rounded(min(ratios))} to {rounded(max(ratios))}"
    assert "geometric mean" in page[: page.index("</header>")]
    bands = {row["case"]: row for row in _table(page, "band-table")}
    for (_, item), batch in zip(pairs, (1, 4, 16), strict=True):
        row = bands[f"sail, b{batch}"]
        full = 2.176 * 1.02 / (rate(item) * 3600) * 1e6
        for title, factor in {"u 1": 1, "u 0.7": 1 / 0.7, "u 0.3": 1 / 0.3, "price x0.5": 0.5, "price x2": 2}.items():
            assert float(row[title]) == pytest.approx(full * factor, rel=6e-3), title
        assert float(row["break-even price"].rstrip("x")) == pytest.approx(
            ratios[(1, 4, 16).index(batch)] / 1.02, rel=6e-3
        )


def test_keys_of_the_command_tell_rows_apart(tmp_path: Path) -> None:
    """`gempim report --key`: a parameter of one system, and one in which the baseline's runs differ too."""
    runs = []
    for i, kv in enumerate(("f16", "q8_0")):
        for system, pim, speed in (("neoverse-n1", False, 1.0), ("sail", True, 3.0 + i)):
            runs.append(make_run(tmp_path / f"{system}-{kv}", system=system, pim=pim, speed=speed, seed=i, steps=1))
            edit_manifest(runs[-1], lambda m, kv=kv: m["experiment"]["workload"].update(kv_type=kv))
    options: dict[str, Any] = {"baseline": "neoverse-n1", "prices": {}, "energy": None, "utilisation": 1.0}
    with pytest.raises(DataError, match="report --key"):
        make_report(runs, tmp_path / "out", **options)
    page = make_report(runs, tmp_path / "out", keys=["experiment.workload.kv_type"], **options)
    rows = list(csv.DictReader(page.with_suffix(".csv").open()))
    rates = {(row["system"], row["experiment.workload.kv_type"], row["test"][:2]): row for row in rows}
    for kv in ("f16", "q8_0"):
        own, base = rates["sail", kv, "tg"], rates["neoverse-n1", kv, "tg"]
        assert float(own["speedup"]) == pytest.approx(float(own["tokens_per_s"]) / float(base["tokens_per_s"]))

"""The report: one self-contained, well-formed, accessible page, with the same figures in every format."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gempim.analysis import plots
from gempim.analysis.cost import load_prices
from gempim.analysis.energy import load_energy_table
from gempim.analysis.explain import explain
from gempim.analysis.report import write_report
from gempim.analysis.result import Result, evaluate
from gempim.analysis.roofline import above_roof
from gempim.analysis.run import RunError, load_run
from gempim.analysis.selection import labels, select
from gempim.analysis.uncertainty import plus_minus
from gempim.analysis.validation import Outcome, check, load_claims, render_page
from gempim.quantity import DataError

from .conftest import make_run
from .test_run import edit_manifest, edit_roi

ENERGY, PRICES = load_energy_table("default"), load_prices()
VOID = {"meta", "link", "br", "img", "input", "hr", "path", "use", "rect", "line", "circle"}


def result(folder: Path, **options: object) -> Result:
    return evaluate(load_run(make_run(folder, **options)), ENERGY, PRICES)  # type: ignore[arg-type]


def sensitivity() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    rows = [
        {
            "parameter": f"system.sram_pim.{name}",
            "value": value,
            "metric": "tokens per second",
            "metric_value": float(rng.uniform(5, 50)),
            "is_default": i == 1,
        }
        for name, values in {"nbw": [2, 4, 5], "prt_enable": ["off", "on"], "clock_ps": [500, 1000]}.items()
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


class Page(HTMLParser):
    """Collects tags, and fails on tags that close what is not open."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Result], list[Outcome]]:
    folder = tmp_path_factory.mktemp("report")
    results = [
        result(folder / "base"),
        result(folder / "pim", system='sail <b>&"x"', pim=True, speed=6.0),
        result(folder / "gpu", system="v100", gpu=True, price_key="aws-p3-2xlarge", speed=3.0),
        *(
            result(folder / f"b{b}{p}", system=s, pim=p, batch=b, seed=b)
            for b in (4, 8)
            for s, p in (("neoverse-n1", False), ('sail <b>&"x"', True))
        ),
    ]
    outcomes = check(load_claims(), {"sail-speedup": 11.0, "sail-prt-cycles": 30.0})
    html = write_report(
        results, folder / "out", baseline="neoverse-n1", sensitivity=sensitivity(), validation=outcomes, png=False
    )
    return html, results, outcomes


def test_page_is_well_formed_and_self_contained(report: tuple[Path, list[Result], list[Outcome]]) -> None:
    """Every tag closes, nothing is fetched, every figure has a text, ids are unique, names are escaped."""
    text = report[0].read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert not re.search(r"https?://", re.sub(r">[^<]*<", "><", text))
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed")
        for name in ("src", "href", "srcset", "data", "action"):
            target = attrs.get(name)
            assert target is None or target.startswith("#"), (tag, target)
        if tag in ("img", "svg"):
            assert len(attrs.get("alt") or attrs.get("aria-label") or "") > 20, tag
    assert not re.search(r"url\((?!#)|@import", text)
    figures = sum(tag == "figure" for tag, _ in page.tags)
    assert figures == sum(tag == "svg" for tag, _ in page.tags) >= 9
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    targets = {str(attrs["href"])[1:] for tag, attrs in page.tags if tag == "a"}
    assert targets <= set(ids)
    assert '<b>&"x"' not in text
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_the_figures_of_the_page_are_those_of_the_results(
    report: tuple[Path, list[Result], list[Outcome]],
) -> None:
    html, results, outcomes = report
    page = Page()
    page.feed(html.read_text(encoding="utf-8"))
    cells = {text.strip() for text in page.text}
    for item in results:
        for phase in item.phases:
            assert plus_minus(phase.tokens_per_s, phase.tokens_per_s_std) in cells
    joined = " ".join(page.text)
    assert ENERGY.sha256 in joined
    assert PRICES.sha256 in joined
    assert "no verified source" in joined
    assert "operating system noise" in joined
    assert "gempim run --system neoverse-n1" in joined
    assert "the paper's value is not public" in joined
    assert all(outcome.claim.claim in joined for outcome in outcomes)


def test_all_formats_agree(report: tuple[Path, list[Result], list[Outcome]]) -> None:
    html, results, _ = report
    document = json.loads(html.with_suffix(".json").read_text())
    rows = list(csv.DictReader(io.StringIO(html.with_suffix(".csv").read_text())))
    rates = [phase.tokens_per_s for item in results for phase in item.phases]
    assert [row["tokens_per_s"] for row in document["table"]["rows"]] == rates
    assert [float(row["tokens_per_s"]) for row in rows] == rates
    assert document["baseline"] == "neoverse-n1"
    assert len(document["results"]) == len(results)
    assert document["warnings"]
    markdown = html.with_suffix(".md").read_text()
    for file in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", markdown):
        assert (html.parent / file).is_file(), file
    rows_of = [(p.tokens_per_s, p.tokens_per_s_std) for item in results for p in item.phases]
    assert all(plus_minus(rate, std) in markdown for rate, std in rows_of)


def test_figure_files(tmp_path: Path) -> None:
    """SVG, PNG and PDF are written, with the right magic, and twice the same."""
    plot = plots.time_breakdown(select([result(tmp_path / "a")]))
    for ending, magic in (("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
        first = plot.save(tmp_path, ending).read_bytes()
        assert first.startswith(magic)
    assert plot.save(tmp_path, "svg").read_bytes() == plot.save(tmp_path, "svg").read_bytes()
    with pytest.raises(DataError, match="figure format 'gif'"):
        plot.save(tmp_path, "gif")


def test_bars_of_the_breakdowns_add_up(tmp_path: Path) -> None:
    """Does the length of the drawn bars equal the time and the energy of a token?"""
    item = result(tmp_path / "a", system="sail", pim=True)
    assert item.decode is not None
    for plot, total in (
        (plots.time_breakdown(select([item])), item.decode.sim_ps / item.decode.tokens * 1e-9),
        (plots.energy_breakdown(select([item])), item.decode.j_per_token),
    ):
        drawn = sum(patch.get_width() for patch in plot.figure.axes[0].patches)
        assert drawn == pytest.approx(total)


def test_roofline_has_every_operator(tmp_path: Path) -> None:
    item = result(tmp_path / "a")
    plot = plots.roofline(select([item]))
    drawn = np.vstack([c.get_offsets() for c in plot.figure.axes[0].collections if len(c.get_offsets()) > 1])
    rows = [json.loads(line) for line in (tmp_path / "a" / "roi.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["label"] == "decode"]
    names = [op["name"] for op in rows[0]["operators"]]
    assert len(drawn) == len(names)
    for (_, rate), name in zip(drawn, names, strict=True):
        ops = [op for row in rows for op in row["operators"] if op["name"] == name]
        assert rate == pytest.approx(sum(o["flops"] for o in ops) / sum(o["time_ps"] for o in ops) * 1e3)
    assert above_roof(item) == []


def test_faster_than_the_roof_is_a_warning(tmp_path: Path) -> None:
    """A rate above its roof is a sign of a wrong unit and must be said, not plotted as a success."""
    folder = make_run(tmp_path / "a")
    edit_roi(folder, lambda rows: rows[1]["operators"][0].update(flops=10**18))
    item = evaluate(load_run(folder), ENERGY, PRICES)
    (warning,) = above_roof(item)
    assert "attn_q in decode" in warning
    html = write_report([item], tmp_path / "out", png=False)
    assert "above the roof" in html.read_text(encoding="utf-8")
    edit_manifest(folder, lambda m: m["experiment"]["system"]["peaks"].update(dram_bytes_per_s="fast"))
    with pytest.raises(RunError, match="dram_bytes_per_s: expected a number above zero"):
        above_roof(evaluate(load_run(folder), ENERGY, PRICES))
    edit_manifest(folder, lambda m: m["experiment"]["system"].pop("peaks"))
    bare = evaluate(load_run(folder), ENERGY, PRICES)
    assert above_roof(bare) == []
    assert "give no peaks" in plots.roofline(select([bare])).caption


@pytest.mark.parametrize(
    ("change", "expect"),
    [
        (lambda f: f.drop(columns="metric"), "missing column 'metric'"),
        (lambda f: f.assign(metric=list("ab") + ["a"] * 5), "one metric at a time"),
        (lambda f: f.assign(is_default=False), "needs one default row"),
        (lambda f: f.iloc[:0], "one metric at a time"),
        (
            lambda f: pd.concat([f.assign(parameter=f["parameter"] + str(i)) for i in range(2)]),
            "1 to 4 parameters, got 6",
        ),
    ],
)
def test_bad_sensitivity_frames(change: object, expect: str) -> None:
    with pytest.raises(DataError, match=expect):
        plots.sensitivity_plot(change(sensitivity()))  # type: ignore[operator]


def test_a_sweep_says_what_its_figures_leave_out(tmp_path: Path) -> None:
    """Thirteen runs that nothing but the threads tells apart: the figures show twelve, and say so."""
    results = [result(tmp_path / str(t), threads=t, steps=1, prompt=0, seed=t) for t in range(1, 14)]
    assert "12 of 13 decode runs" in plots.time_breakdown(select(results)).caption
    assert len(set(labels(results))) == 13
    assert "Shown" not in plots.time_breakdown(select(results[:12])).caption
    assert plots.throughput_by(results, "batch") is None
    with pytest.raises(DataError, match="no run has a prefill phase"):
        select(results, "prefill")
    with pytest.raises(DataError, match="throughput axis 'threads'"):
        plots.throughput_by(results, "threads")


def test_report_needs_runs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one run"):
        write_report([], tmp_path)


def test_explain_carries_the_numbers(sail: Path) -> None:
    """Formula, numbers, counts, rows and sources are all there, and the sum of the shown joules is the shown total."""
    item = evaluate(load_run(sail), ENERGY, PRICES)
    text = explain(item)
    assert item.decode is not None
    assert f"= {item.decode.tokens_per_s:.6g}" in text
    assert f"= {item.decode.usd_per_million_tokens:.6g}" in text
    assert "8 * 1.2 * (57 * 45.75 - 52 * 32 - 37 * (45.75 - 32))" in text
    assert item.decode.rate_error.half is not None
    interval = rf"95 % interval: .* relative half-width {item.decode.rate_error.half * 100:.3g} %, of .* \(steps\)"
    assert re.search(interval, text)
    assert "95 % interval: not known (relative errors: none known)." in text
    assert "TN-40-07" in text
    assert "JSSC 55(1) 2020" in text
    assert "1 / cram_add_tops_per_w / cram_add_cycles = 1 / 5.27 / 9 = 0.0210837 pJ" in text
    assert "2.176 USD/h * 64 cores / 64 vCPUs * (1 + 0.02 area overhead * 1 silicon share)" in text
    decode = text[text.index("## decode") :]
    table = decode[decode.index("| row | count") : decode.index("Inputs of these formulas")]
    joules = [float(line.split("|")[4]) for line in table.splitlines()[2:] if line]
    assert sum(joules) == pytest.approx(item.decode.energy.total_j, rel=1e-4)


def test_claims_and_outcomes() -> None:
    claims = load_claims()
    by_id = {claim.id: claim for claim in claims}
    assert by_id["sail-speedup"].expected.value == 10.7
    assert by_id["sail-tokens-per-dollar"].expected.value == 19.9
    assert by_id["sail-v100-tokens-per-dollar"].expected.value == 7.04
    assert by_id["sail-prt-cycles"].expected.value == 13.8
    measured = {"sail-speedup": 10.7 * 1.29, "sail-prt-cycles": 13.8 * 0.69}
    outcomes = {outcome.claim.id: outcome for outcome in check(claims, measured)}
    assert outcomes["sail-speedup"].result == "pass"
    assert outcomes["sail-prt-cycles"].result == "outside"
    assert outcomes["sail-prt-cycles"].deviation == pytest.approx(-0.31)
    assert outcomes["sail-tokens-per-dollar"].result == "not measured"
    page = render_page(list(outcomes.values()), ["gempim 0.1.0"])
    assert f"1 within tolerance, 1 outside, {len(claims) - 2} not measured" in page
    assert "-31 %" in page
    assert all(claim.command in page and claim.reason in page for claim in claims)
    with pytest.raises(DataError, match="'sail-speed', which is not a claim; did you mean 'sail-speedup'"):
        check(claims, {"sail-speed": 1.0})
    with pytest.raises(DataError, match="expected a finite number"):
        check(claims, {"sail-speedup": float("nan")})


@pytest.mark.parametrize(
    ("old", "new", "expect"),
    [
        ('reason = "', 'because = "', "unknown key 'because'"),
        ("value = 10.7", "value = 0", "zero has no relative deviation"),
        ("value = 0.30", "value = -0.3", "expected 0 or more"),
        ('id = "sail-tokens-per-dollar"', 'id = "sail-speedup"', "occurs twice"),
        ('command = "python', 'command = "" # "', "expected text"),
        ("schema = 1", "schema = 3", "expected 1, got 3"),
    ],
)
def test_bad_claims(tmp_path: Path, old: str, new: str, expect: str) -> None:
    import gempim.analysis.validation

    text = (Path(gempim.analysis.validation.__file__).parent / "claims.toml").read_text()
    assert old in text
    (tmp_path / "c.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=expect):
        load_claims(tmp_path / "c.toml")

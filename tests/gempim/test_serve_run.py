"""Whole runs: repeatable, the same without reuse, every token accounted for, and what the run directory says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from closed_form_pim import ClosedFormPim
from serve_systems import COPROCESS, experiment, server

from gempim.analysis.cost import load_prices
from gempim.analysis.energy import load_energy_table
from gempim.analysis.report.serving import write_serve_report
from gempim.analysis.run import RunError
from gempim.analysis.serving import evaluate_serve, load_serve_run
from gempim.analysis.serving.table import frame
from gempim.quantity import DataError
from gempim.serve.ledger import Ledger
from gempim.serve.serve import Served
from gempim.serve.simulate import simulate_serve
from gempim.serve.spec import resolve_serve

SLOW = ClosedFormPim(pim_slow=1.2, xpu_slow=1.1)
POLICIES: dict[str, dict[str, Any] | None] = {
    "gpu": None,
    "duplex": {},
    "coprocess": COPROCESS,
    "code": {"moe": "coprocess-code", "attention": "coprocess"},
    "hetero": {"mode": "hetero", "moe": "always"},
    "split": {"mode": "split"},
}
POISSON = {"arrivals": "poisson", "qps": [300.0], "count": 30}


def _ledger(ledger: Ledger) -> tuple[Any, ...]:
    return {k: vars(r) for k, r in ledger.rows.items()}, ledger.counts


def _everything(s: Served) -> tuple[Any, ...]:
    stages = {k: (v.stages, v.time_ps, v.tokens, v.prompt_tokens, _ledger(v.ledger)) for k, v in s.stages.items()}
    ends = [(t.request, t.node, t.admitted_ps, t.first_ps, t.end_ps) for t in s.requests]
    return s.makespan_ps, s.tokens, stages, s.gaps, ends, s.loads.tolist() if s.loads is not None else None


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("model", ["mixtral-8x7b", "opt-66b"])
def test_reuse_changes_nothing(name: str, model: str) -> None:
    """Costs of equal shapes are kept between stages; without that every number is the same."""
    found = experiment(model, policy=POLICIES[name], requests={"deviation": 0.3}, expert_tensor=name == "code")
    kept, fresh = (server(found, SLOW, reuse=reuse).run() for reuse in (True, False))
    assert _everything(kept) == _everything(fresh)


def test_without_reuse_every_stage_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above would compare a thing with itself."""
    asked: dict[bool, list[tuple[int, ...]]] = {True: [], False: []}
    found = experiment(policy=COPROCESS, expert_tensor=True)
    for reuse, calls in asked.items():
        s = server(found, reuse=reuse)
        gemm, expert = s.stages.xpu.gemm, ClosedFormPim.expert

        def count(*args: int, calls: Any = calls, gemm: Any = gemm, **words: Any) -> Any:
            calls.append(args)
            return gemm(*args, **words)

        def count_pim(self: Any, *args: int, calls: Any = calls, expert: Any = expert, **words: Any) -> Any:
            calls.append(args)
            return expert(self, *args, **words)

        monkeypatch.setattr(s.stages.xpu, "gemm", count)
        monkeypatch.setattr(ClosedFormPim, "expert", count_pim)
        stages = sum(v.stages for v in s.run().stages.values())
        monkeypatch.setattr(ClosedFormPim, "expert", expert)
    # Three GEMMs a layer outside the experts, the head, the router; and the experts on both units.
    assert len(asked[False]) > 10 * stages
    assert len(asked[True]) < len(asked[False]) / 2


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("requests", [POISSON, {"count": 30}], ids=["poisson", "closed"])
def test_every_token_is_made_once(name: str, requests: dict[str, Any]) -> None:
    found = experiment(policy=POLICIES[name], requests={**requests, "deviation": 0.4}, scheduler={"max_batch": 7})
    served = server(found, SLOW).run()
    assert len(served.requests) >= 30
    ids = [t.request.id for t in served.requests]
    assert len(set(ids)) == len(ids)
    if requests is POISSON:
        assert sorted(ids) == list(range(30))
        assert served.tokens == sum(t.request.output for t in served.requests)
        # Every token but the first of an answer follows another one.
        assert sum(served.gaps.values()) == served.tokens - 30
        assert sum(s.prompt_tokens for s in served.stages.values()) == sum(t.request.prompt for t in served.requests)
    assert served.tokens == sum(s.tokens for s in served.stages.values())
    for t in served.requests:
        assert t.request.arrival_ps <= t.admitted_ps < t.first_ps <= t.end_ps <= served.makespan_ps
    assert served.most_batch <= 7
    assert 0 < served.most_reserved <= served.capacity_tokens
    # The gaps of a sequence fill the time from its first to its last token.
    if requests is POISSON:
        spans = sum(t.end_ps - t.first_ps for t in served.requests)
        assert sum(gap * count for gap, count in served.gaps.items()) == spans


def test_memory_limits_the_batch() -> None:
    """GLaM (MHA) on eight devices: 100 clients with 9000 tokens each do not fit."""
    found = experiment("glam-143b", 8, requests={"count": 100, "input": 8990, "output": 10, "deviation": 0.0},
                       scheduler={"max_batch": 100})  # fmt: skip
    s = server(found)
    served = s.run()
    assert served.most_batch == s.capacity_tokens // 9000 < 100
    assert served.most_reserved <= s.capacity_tokens


def test_memory_limits_the_split() -> None:
    """Prompts are read only as far as the decoding half has room, also for those that are on their way to it."""
    found = experiment(policy={"mode": "split"}, requests={"count": 90, "input": 50_000, "output": 3, "deviation": 0.0},
                       scheduler={"max_batch": 60})  # fmt: skip
    s = server(found)
    served = s.run()
    assert len(served.requests) >= 90
    room = s.capacity_tokens // 50_003
    assert room < 60
    assert served.most_reserved == room * 50_003


def test_seeds_repeat_and_differ() -> None:
    def run(seed: int, routing: int = 0) -> tuple[Any, ...]:
        doc = experiment(policy=COPROCESS, requests={**POISSON, "deviation": 0.3, "seed": seed})
        doc = doc if not routing else type(doc)(**{**vars(doc), "routing": type(doc.routing)(seed=routing)})
        return _everything(server(doc).run())

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(1) != run(1, routing=5)


def test_a_steady_start_needs_no_prompts_and_gives_the_rate_of_a_long_run() -> None:
    """The throughput of a run that starts in the middle is that of the second half of a long run from empty."""
    long = {"count": 400, "input": 200, "output": 50, "deviation": 0.2}
    empty = server(experiment(requests=long, scheduler={"max_batch": 16})).run()
    half = sorted(empty.requests, key=lambda t: t.end_ps)[200:]
    late = [t for t in half if t.first_ps > 0]
    rate = sum(t.request.output for t in late) / (half[-1].end_ps - half[0].end_ps)
    steady = server(experiment(requests={**long, "count": 100}, scheduler={"max_batch": 16, "start": "steady"})).run()
    assert steady.tokens / steady.makespan_ps == pytest.approx(rate, rel=0.05)
    assert sum(t.first_ps < 0 for t in steady.requests) > 0


def test_latency_grows_with_the_rate() -> None:
    """TTFT and TBT under more load are no better; at a rate above what the system can do, the queue grows."""
    found = []
    for qps in (50.0, 500.0, 5000.0):
        served = server(experiment(requests={"arrivals": "poisson", "qps": [qps], "count": 60, "output": 30})).run()
        wait = np.mean([t.first_ps - t.request.arrival_ps for t in served.requests])
        found.append(wait)
    assert found[0] < found[1] < found[2]


def test_a_split_hides_prompts_from_decoding() -> None:
    """In the paper's Duplex-Split no stage is mixed: the gaps of decoding sequences do not contain prefills."""
    requests = {"arrivals": "poisson", "qps": [20.0], "count": 40, "input": 3000, "output": 60}
    whole, split = (
        server(experiment(policy=policy, requests=requests, scheduler={"max_batch": 16})).run()
        for policy in ({}, {"mode": "split"})
    )
    assert "mixed" not in split.stages
    assert max(whole.gaps) > 1.5 * whole.stages["decode"].time_ps / whole.stages["decode"].stages

    def p99(served: Served) -> float:
        return float(np.percentile(np.repeat(list(served.gaps), list(served.gaps.values())), 99))

    assert p99(split) < p99(whole)


# Run directories ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    doc = {
        "serve": {"systems": ["gpu-h100", "gpu-h100@8"]},
        "model": {"name": "mixtral-8x7b"},
        "requests": {"arrivals": "poisson", "qps": [5, 50], "count": 20, "input": 200, "output": 20},
    }
    return [simulate_serve(e, root) for e in resolve_serve(doc, origin="test")]


def test_a_complete_run_is_not_run_again(runs: list[Path]) -> None:
    before = (runs[0] / "manifest.json").stat().st_mtime_ns
    doc = json.loads((runs[0] / "manifest.json").read_text())
    assert doc["status"] == "complete"
    again = resolve_serve(
        {
            "serve": {"system": "gpu-h100"},
            "model": {"name": "mixtral-8x7b"},
            "requests": {"arrivals": "poisson", "qps": 5, "count": 20, "input": 200, "output": 20},
        },
        origin="test",
    )
    assert simulate_serve(again[0], runs[0].parent) == runs[0]
    assert (runs[0] / "manifest.json").stat().st_mtime_ns == before
    assert not list(runs[0].parent.glob(".partial-*"))


def test_what_is_written_is_what_is_read(runs: list[Path]) -> None:
    run = load_serve_run(runs[0])
    result = evaluate_serve(run, load_energy_table("xpu-hbm3"), load_prices("accelerators"))
    assert json.loads((runs[0] / "result.json").read_text()) == json.loads(json.dumps(result.to_json()))
    assert len(run.requests) == 20
    assert result.tokens == sum(r["output"] for r in run.requests)
    ttft = [(r["first_ps"] - r["arrival_ps"]) / 1e12 for r in run.requests]
    assert result.ttft is not None
    assert result.ttft.p90_s == pytest.approx(float(np.percentile(ttft, 90)))
    assert result.sustained is True


def test_energy_is_counts_times_the_table(runs: list[Path]) -> None:
    """Added up by hand from stats.txt: bytes, activations and arithmetic; and the layer kinds are the whole."""
    run = load_serve_run(runs[0])
    result = evaluate_serve(run, load_energy_table("xpu-hbm3"), load_prices("accelerators"))

    def total(name: str) -> float:
        return sum(section.get(name) for section in run.sections)

    moved = total("system.xpu.hbm_read_bytes") + total("system.xpu.hbm_write_bytes")
    joules = (
        moved * 8 * (0.44 + 1.01 + 1.23 + 0.5 + 0.3) * 1e-12
        + total("system.xpu.hbm_activates") * 0.909e-9
        + (total("system.xpu.macs") * 0.46 + total("system.xpu.vector_flops") * 0.23) * 1e-12
        + total("system.link.bytes") * 8 * 1.3e-12
    )
    assert result.energy.total_j == pytest.approx(joules, rel=1e-9)
    by_layer = sum(e.total_j for e in result.energy_by_layer.values())
    assert by_layer == pytest.approx(joules, rel=1e-9)
    assert not result.energy.is_lower_bound


def test_the_price_is_that_of_all_devices(runs: list[Path]) -> None:
    for path, devices in ((runs[0], 4), (runs[2], 8)):
        result = evaluate_serve(load_serve_run(path), load_energy_table("xpu-hbm3"), load_prices("accelerators"))
        assert result.usd_per_hour == pytest.approx(2.0 * devices)
        assert result.usd_per_million_tokens == pytest.approx(result.usd_per_hour / result.tokens_per_s / 3600 * 1e6)


def test_comparison_needs_a_baseline_of_the_same_requests(runs: list[Path]) -> None:
    table, prices = load_energy_table("xpu-hbm3"), load_prices("accelerators")
    found = [evaluate_serve(load_serve_run(p), table, prices) for p in runs]
    rows = frame(found, "gpu-h100 x4")
    assert rows["speedup"].tolist()[:2] == [1.0, 1.0]
    assert (rows["speedup"] > 0).all()
    with pytest.raises(DataError, match="no run of the baseline"):
        frame(found, "duplex x4")


def test_report(runs: list[Path], tmp_path: Path) -> None:
    """The page has every run, its figures and no leftover of a template; the table is also Markdown, CSV and JSON."""
    table, prices = load_energy_table("xpu-hbm3"), load_prices("accelerators")
    found = [evaluate_serve(load_serve_run(p), table, prices) for p in runs]
    page = write_serve_report(found, tmp_path, baseline="gpu-h100 x4", png=False).read_text()
    for text in ("gpu-h100 x8", "TTFT p50", "Latency against the rate of requests", "Expert load", "<svg", "vs base"):
        assert text in page
    assert "{{" not in page
    assert len((tmp_path / "report.csv").read_text().splitlines()) == 5
    assert len(json.loads((tmp_path / "report.json").read_text())["results"]) == 4
    assert "| model" in (tmp_path / "report.md").read_text()
    assert {p.stem for p in (tmp_path / "plots").glob("*.svg")} == {
        "serving-latency-qps", "serving-time", "serving-expert-load", "serving-roofline", "serving-energy",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("manifest.json", '"complete"', '"running"', "expected a complete serving run"),
        ("manifest.json", '"schema": 1', '"schema": 2', "expected a complete serving run"),
        ("serve.json", '"tokens": ', '"tokens": 1', "tokens is"),
        ("serve.json", '"time_ps": ', '"time_ps": 1', "its layers have"),
        ("serve.json", '"capacity_tokens": ', '"capacity_tokens": -', "more KV cache was promised"),
        ("roi.jsonl", '"time_ps": ', '"time_ps": 1', "its operators"),
        ("roi.jsonl", '"moe"', '"mop"', "not as expected"),
        ("requests.csv", "first_ps", "first", "expected the columns"),
        ("gaps.csv", "\n", "\nx,", "whole numbers"),
    ],
)
def test_a_damaged_run_is_an_error(
    runs: list[Path], tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    for file in runs[0].iterdir():
        text = file.read_text()
        if file.name == name:
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / file.name).write_text(text)
    with pytest.raises(RunError, match=message):
        load_serve_run(tmp_path)


@pytest.mark.parametrize("name", ["stats.txt", "roi.jsonl", "serve.json", "requests.csv", "gaps.csv"])
def test_a_missing_file_is_an_error(runs: list[Path], tmp_path: Path, name: str) -> None:
    for file in runs[0].iterdir():
        if file.name != name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(RunError, match=f"incomplete run: no {name}"):
        load_serve_run(tmp_path)

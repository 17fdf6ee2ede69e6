"""Serving with the device model of Logic-PIM that ships: first-order facts, its tables, and the systems that use it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gempim.analysis.cost import load_prices
from gempim.analysis.energy import load_energy_table
from gempim.analysis.serving import evaluate_serve, load_serve_run
from gempim.quantity import DataError
from gempim.serve.build import build, default_pim
from gempim.serve.experts import SIMULATED
from gempim.serve.simulate import simulate_serve
from gempim.serve.spec import ServeExperiment, resolve_serve
from gempim.serve.stage import NodeShape, StageResult
from gempim.systems import list_systems, load_system

PIM_SYSTEMS = [n for n in list_systems() if "logic_pim" in load_system(n).sections]


def _experiment(system: str, model: str = "mixtral-8x7b", devices: int = 4, **words: Any) -> ServeExperiment:
    doc = {
        "serve": {"system": system, "devices": devices},
        "model": {"name": model},
        "requests": {"count": 6, "input": 80, "output": 10, **words.get("requests", {})},
        "scheduler": {"max_batch": 4},
        "set": words.get("set", {}),
    }
    return resolve_serve(doc, origin="test")[0]


def _stage(system: str, node: NodeShape, model: str = "mixtral-8x7b", devices: int = 4, **words: Any) -> StageResult:
    return build(_experiment(system, model, devices, **words)).stages.run([node])


def _time(result: StageResult, name: str) -> int:
    return sum(r.time_ps for (n, _, _), r in result.ledger.rows.items() if n == name)


def _decode(tokens: int, length: int = 1000) -> NodeShape:
    return NodeShape(np.full(tokens, length))


def test_expert_weights_of_mixtral_take_53_us_and_what_dram_costs_on_top() -> None:
    """704.6 MB a device and layer at 13.3 TB/s are 52.9 us; rows, refresh and results add up to a fifth."""
    result = _stage("duplex-pe-et", _decode(12), set={"policy.moe": "always"})
    assert result.loads is not None
    visits = int(result.visits["logic_pim"].sum())
    ideal = 52.9e6 * visits / (32 * 8)
    assert ideal < _time(result, "experts") / 32 < 1.2 * ideal


def test_few_tokens_win_on_the_pim_and_many_on_the_xpu() -> None:
    """The crossover is near 32 tokens an expert (8 operations a byte times 4 in bandwidth), less what DRAM costs."""

    def ratio(tokens: int) -> float:
        node = _decode(4 * tokens)  # two of eight experts each
        times = [_time(_stage("duplex-pe-et", node, set={"policy.moe": moe}), "experts") for moe in ("always", "stage")]
        mixed = _stage("duplex-pe-et", NodeShape(node.decode, (1,)), set={"policy.moe": "stage"})
        return times[0] / _time(mixed, "experts")

    assert ratio(4) < 0.35
    assert ratio(20) < 1 < ratio(45)


@pytest.mark.parametrize("system", ["duplex", "bank-pim", "bankgroup-pim"])
def test_the_straight_line_of_the_table_is_within_three_percent(system: str) -> None:
    """Above SIMULATED tokens the table is extrapolated: held against the device model at random numbers of tokens."""
    rng = random.Random(1)
    for model, devices in (("mixtral-8x7b", 4), ("glam-143b", 8)):
        server = build(_experiment(system, model, devices))
        experts, pim = server.stages.experts, server.stages.pim
        assert experts is not None
        assert pim is not None
        for owned in {1, pim.spaces}:
            many = np.array([rng.randint(SIMULATED + 1, 1500) for _ in range(3)])
            table = experts._table(owned, beside=False, tokens=many)
            for n in many:
                exact = pim.expert(
                    server.model.d_model, experts.inner, int(n), owned, gated=server.model.gated, beside=False
                )  # fmt: skip
                assert table.ps[n] == pytest.approx(exact.ps, rel=0.03)
                got, want = table.total(np.array([n])), exact.counts
                for name in ("pim_reads", "macs"):
                    key = f"system.logic_pim.{name}"
                    assert got[key] == pytest.approx(want[key], rel=0.03)


def test_the_window_of_contention_stands_for_the_whole_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a part of the xPU's traffic beside a long expert is simulated; with all of it the times are within 2 %."""
    pim = default_pim(load_system("duplex"))
    short = pim.expert(4096, 3584, 48, 2, gated=True, beside=True)
    monkeypatch.setattr("gempim.serve.pim.BESIDE_BYTES", 1 << 40)
    whole = pim.expert(4096, 3584, 48, 2, gated=True, beside=True)
    assert short.ps == pytest.approx(whole.ps, rel=0.02)
    assert short.stretch == pytest.approx(whole.stretch, rel=0.02)


def test_units_in_one_memory_space_slow_each_other() -> None:
    """The reason for the paper's rule: in the same spaces both units lose more than in different ones."""
    pim = default_pim(load_system("duplex"))
    alone = pim.expert(4096, 3584, 8, 4, gated=True, beside=False)
    apart = pim.expert(4096, 3584, 8, 2, gated=True, beside=True)
    same = pim.expert(4096, 3584, 8, 4, gated=True, beside=True)  # no space is left for the xPU
    assert same.ps > 1.05 * alone.ps
    assert same.stretch > apart.stretch


@pytest.mark.parametrize("system", PIM_SYSTEMS)
@pytest.mark.parametrize(("model", "devices"), [("mixtral-8x7b", 4), ("opt-66b", 4)])
def test_every_system_serves(system: str, model: str, devices: int, tmp_path: Path) -> None:
    """A whole run of every shipped system with PIM: evaluated, the PIM worked, energy is known for all that counted."""
    path = simulate_serve(_experiment(system, model, devices, requests={"input": 900}), tmp_path)
    run = load_serve_run(path)
    result = evaluate_serve(
        run, load_energy_table(str(run.experiment["energy_table"])), load_prices("accelerators")
    )  # fmt: skip
    assert not result.energy.is_lower_bound
    assert any(op.unit == "logic_pim" and op.count for part in run.parts for op in part.operators)
    assert sum(s.get("system.logic_pim.pim_reads") for s in run.sections) > 0
    assert result.usd_per_hour > 2.0 * devices


def test_reuse_changes_nothing_on_the_device_model() -> None:
    def everything(reuse: bool) -> tuple[Any, ...]:
        served = build(_experiment("duplex-pe-et", requests={"deviation": 0.3}), reuse=reuse).run()
        ledgers = {
            k: ({n: vars(r) for n, r in v.ledger.rows.items()}, v.ledger.counts) for k, v in served.stages.items()
        }
        return served.makespan_ps, served.gaps, ledgers

    assert everything(True) == everything(False)


def test_both_energy_paths_are_named_and_differ(tmp_path: Path) -> None:
    run = load_serve_run(simulate_serve(_experiment("duplex"), tmp_path))
    prices = load_prices("accelerators")
    short, whole = (evaluate_serve(run, load_energy_table(t), prices) for t in ("duplex", "duplex-full-path"))
    reads = sum(s.get("system.logic_pim.pim_reads") + s.get("system.logic_pim.pim_writes") for s in run.sections)
    assert whole.energy.total_j - short.energy.total_j == pytest.approx(reads * 256 * (3.18 - 1.81) * 1e-12, rel=1e-9)
    assert "short way" in short.energy_table.title
    assert "whole path" in whole.energy_table.title


def test_stacks_must_be_whole() -> None:
    with pytest.raises(DataError, match=r"not a multiple of logic_pim\.pseudo_channels"):
        build(_experiment("duplex", set={"memory.channels": 81}))


def test_a_wrong_parameter_of_the_device_is_named() -> None:
    with pytest.raises(DataError, match="bundle_banks"):
        build(_experiment("duplex", set={"logic_pim.bundle_banks": 3}))
    with pytest.raises(DataError, match=r"policy.moe: unknown 'fast'; did you mean 'fastest'\?"):
        build(_experiment("duplex", set={"policy.moe": "fast"}))

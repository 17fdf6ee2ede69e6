"""The embedded engine: does it add up, is it deterministic, does its one short cut (trains of equal operators) hold?"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from gempim import _engine
from gempim.engines.embedded import EmbeddedEngine
from gempim.experiment import Experiment, resolve
from gempim.quantity import DataError
from gempim.simulate import simulate


def _experiment(system: str, **kw: Any) -> Experiment:
    sets = kw.pop("sets", {})
    model = {"name": kw.pop("model", "smollm2-135m"), "quant": kw.pop("quant", "q4_1")}
    workload = {"prompt": 0, "context": 64, "tokens": 2, "threads": 4, **kw}
    return resolve({"experiment": {"system": system}, "model": model, "workload": workload, "set": sets}, origin="test")


def test_same_experiment_same_picoseconds() -> None:
    runs = [list(EmbeddedEngine(_experiment("sail", prompt=16)).run()) for _ in range(2)]
    assert [r.sim_ps for r in runs[0]] == [r.sim_ps for r in runs[1]]
    assert [r.counts for r in runs[0]] == [r.counts for r in runs[1]]


@pytest.mark.parametrize("system", ["neoverse-n1", "sail"])
def test_trains_hold_against_every_occurrence(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's claim: mean of a train times count = every occurrence on one DRAM session, within 0.5 %."""
    experiment = _experiment(system, batch=3)
    short = next(EmbeddedEngine(experiment).run())
    monkeypatch.setattr(EmbeddedEngine, "_occurrences", lambda self, first_ps, count: count)
    whole = next(EmbeddedEngine(experiment).run())
    assert any(o.op.count > 8 for o in whole.operators)
    assert short.sim_ps == pytest.approx(whole.sim_ps, rel=0.005)
    assert short.counts["system.dram.reads"] == pytest.approx(whole.counts["system.dram.reads"], rel=0.001)
    # A session starts with closed banks, so a short train sees somewhat less active standby. Its power is 1.3 times
    # that of precharged standby: 10 % here is about 3 % of the background energy.
    assert short.counts["system.dram.act_standby_ps"] == pytest.approx(
        whole.counts["system.dram.act_standby_ps"], rel=0.12
    )


@pytest.mark.parametrize("system", ["neoverse-n1", "sail"])
def test_every_rank_is_in_standby_all_the_time(system: str) -> None:
    """Background energy is charged for each rank and picosecond: the two standby times must cover them exactly."""
    experiment = _experiment(system)
    roi = next(EmbeddedEngine(experiment).run())
    v = experiment.system.values("dram")
    ranks = v["ranks"] * v["subchannels"] * experiment.system.values("memory")["channels"]
    standby = roi.counts["system.dram.act_standby_ps"] + roi.counts["system.dram.pre_standby_ps"]
    assert standby == pytest.approx(ranks * roi.sim_ps, rel=0.01)


def test_weights_are_read_once_a_token() -> None:
    """Independent traffic check: a decode token of a model larger than the LLC reads weights and KV cache once."""
    for system in ("neoverse-n1", "sail"):
        experiment = _experiment(system, model="llama-2-7b", quant="q4_0", context=128, threads=16)
        model = experiment.model
        roi = next(EmbeddedEngine(experiment).run())
        embedding = next(t for t in model.globals.values() if t.name.startswith("token_embd"))
        expected = model.bytes - embedding.bytes + model.kv_bytes(129)
        assert roi.counts["system.dram.read_bytes"] == pytest.approx(expected, rel=0.002)


def test_a_model_that_fits_in_the_llc_reads_no_weights_from_dram() -> None:
    experiment = _experiment("neoverse-n1", sets={"llc.slice_bytes": 8 * 1024 * 1024})
    roi = next(EmbeddedEngine(experiment).run())
    assert roi.counts["system.dram.read_bytes"] < 0.01 * experiment.model.bytes


def test_pim_runs_every_quantised_product_and_nothing_else() -> None:
    roi = next(EmbeddedEngine(_experiment("sail")).run())
    where = {o.op.name: o.device for o in roi.operators}
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "output"):
        assert where[name] == "sram_pim"
    assert {d for n, d in where.items() if n.startswith(("attn_s", "ffn_norm", "rope"))} == {"cpu"}
    assert roi.counts["system.sram_pim.commands"] == sum(o.pim_commands for o in roi.operators) > 0


def test_f16_weights_stay_on_the_cpu() -> None:
    roi = next(EmbeddedEngine(_experiment("sail", quant="f16")).run())
    assert {o.device for o in roi.operators} == {"cpu"}


def test_pim_time_is_the_devices_own_time_plus_the_stated_overheads() -> None:
    """attn_q of SmolLM2 re-derived: quantisation and barrier, issue, then the device on a fresh DRAM session."""
    experiment = _experiment("sail", quant="q4_0")
    engine = EmbeddedEngine(experiment)
    op = next(o for o in next(engine.run()).operators if o.op.name == "ffn_up")
    values = experiment.system.values
    pim = _engine.SramPim(values("sram_pim"))
    plan = pim.plan(1, op.op.n, op.op.k, "q4_0")
    quant = engine.devices.cpu.quantize(1, op.op.k, "q4_0")
    host = values("pim_host")
    cycles = host["issue_cycles"] + host["wait_cycles"]  # one lutmm, however many tiles
    overhead = quant.compute_ps + quant.barrier_ps + cycles * 1e12 / values("cpu")["clock_hz"]
    assert op.overhead_ps / op.op.count == pytest.approx(overhead, abs=2)
    alone = pim.time_matmul(1, op.op.n, op.op.k, "q4_0", engine._hit_rate(op.op, plan))
    assert op.time_ps / op.op.count >= overhead + alone["end_ps"] - 2
    assert op.compute_ps / op.op.count == pytest.approx(alone["compute_ps"], rel=1e-6)


def test_more_threads_and_fewer_bits_are_never_slower_on_the_baseline() -> None:
    def rate(**kw: Any) -> float:
        return 1e12 / next(EmbeddedEngine(_experiment("neoverse-n1", model="llama-2-7b", **kw)).run()).sim_ps

    assert rate(quant="q2_k", threads=1) < rate(quant="q2_k", threads=4) < rate(quant="q2_k", threads=16)
    assert rate(quant="q8_0", threads=64) < rate(quant="q4_0", threads=64)


def test_prt_saves_compute_time_only() -> None:
    on = next(EmbeddedEngine(_experiment("sail", model="llama-2-7b", quant="q4_0")).run())
    off = next(
        EmbeddedEngine(_experiment("sail", model="llama-2-7b", quant="q4_0", sets={"sram_pim.prt_enable": False})).run()
    )
    assert on.counts["system.sram_pim.lookup_cycles"] < off.counts["system.sram_pim.lookup_cycles"]
    assert off.counts["system.sram_pim.prt_hits"] == 0 < on.counts["system.sram_pim.prt_hits"]
    assert on.counts["system.sram_pim.weight_bytes"] == off.counts["system.sram_pim.weight_bytes"]


def test_run_directory_adds_up(tmp_path: Path) -> None:
    """stats.txt, roi.jsonl and result.json say the same, re-added here from the files alone."""
    path = simulate(_experiment("sail", prompt=8, tokens=3), tmp_path)
    sections: list[dict[str, float]] = []
    for line in (path / "stats.txt").read_text().splitlines():
        if line.startswith("---------- Begin"):
            sections.append({})
        elif line.strip() and not line.startswith("-"):
            name, value = line.split()[:2]
            sections[-1][name] = float(value)
    rows = [json.loads(line) for line in (path / "roi.jsonl").read_text().splitlines()]
    assert [r["label"] for r in rows] == ["prefill", "decode", "decode", "decode"]
    assert len(sections) == 4
    for section, row in zip(sections, rows, strict=True):
        assert section["simTicks"] == row["sim_ps"] == sum(o["time_ps"] for o in row["operators"])
        commands = sum(o["pim_commands"] for o in row["operators"])
        assert section["system.sram_pim.commands"] == commands
    result = json.loads((path / "result.json").read_text())
    decode = [r for r in rows if r["label"] == "decode"]
    rate = sum(r["tokens"] for r in decode) / (sum(r["sim_ps"] for r in decode) / 1e12)
    assert result["phases"]["decode"]["tokens_per_s"] == pytest.approx(rate)
    assert result["run"] == path.name


def test_a_complete_run_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = _experiment("neoverse-n1")
    first = simulate(experiment, tmp_path)
    before = (first / "manifest.json").read_bytes()
    monkeypatch.setattr(EmbeddedEngine, "run", lambda self, progress=None: pytest.fail("ran again"))
    assert simulate(experiment, tmp_path) == first
    assert (first / "manifest.json").read_bytes() == before


def test_moe_reads_each_touched_expert_once() -> None:
    """Mixtral, two tokens: what the engine reads for experts equals the operators' own count of touched experts."""
    experiment = _experiment("sail", model="mixtral-8x7b", quant="q4_0", batch=2, context=16)
    roi = next(EmbeddedEngine(experiment).run())
    per_role: dict[str, int] = defaultdict(int)
    for o in roi.operators:
        if o.op.name.endswith("_exps") and o.op.kind == "matmul":
            assert o.device == "sram_pim"
            per_role[o.op.name] += o.op.weight_bytes * o.op.count
            assert o.dram_read_bytes == pytest.approx(o.op.weight_bytes * o.op.count, rel=1e-6)
    assert len(per_role) == 3


@pytest.mark.parametrize("quant", ["f16", "f32"])
def test_a_float_model_on_a_pim_system_is_a_complete_run_that_says_so(quant: str, tmp_path: Path) -> None:
    path = simulate(_experiment("sail", quant=quant, tokens=1), tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    assert any(f"type {quant} ran on the cores" in note for note in manifest["not_modelled"])
    assert set(manifest["experiment"]["system"]["peaks"]["flops_per_s"]) == {"cpu"}


def test_a_pim_row_on_which_the_pim_never_worked_is_refused() -> None:
    """nbw = 5 of 4-bit weights does not fit 256 rows: all products would run on the cores, labelled SAIL."""
    with pytest.raises(DataError, match=r"no product .* sram_pim\.nbw = 5 .*array_rows = 256"):
        list(EmbeddedEngine(_experiment("sail", quant="q4_0", sets={"sram_pim.nbw": 5})).run())


def test_types_that_the_arrays_cannot_take_are_named() -> None:
    """2-bit weights fit with nbw = 5, the 6-bit logits do not: the run stands, and says what ran where."""
    engine = EmbeddedEngine(_experiment("sail", model="llama-2-7b", quant="q2_k", sets={"sram_pim.nbw": 5}))
    roi = next(engine.run())
    assert {o.device for o in roi.operators if o.op.weight_type == "q2_k" and o.op.kind == "matmul"} == {"sram_pim"}
    assert {o.device for o in roi.operators if o.op.name == "output"} == {"cpu"}
    assert any("q6_k" in note and "nbw = 5" in note for note in engine.notes())


@pytest.mark.parametrize("sets", [{"sram_pim.nbw": 7}, {"sram_pim.array_rows": 32}, {"sram_pim.tile_n": 8}])
def test_an_impossible_device_is_one_clear_line(sets: dict[str, int]) -> None:
    with pytest.raises(DataError, match=f"^sail: {next(iter(sets)).split('.')[0]}"):
        EmbeddedEngine(_experiment("sail", sets=sets))


def test_conversion_on_the_cores_costs_time_instructions_and_cache_traffic() -> None:
    """One 32-bit sum an output and block of 32 weights leaves the arrays; three vector instructions take four."""
    inside = next(EmbeddedEngine(_experiment("sail", quant="q4_0")).run())
    outside = next(EmbeddedEngine(_experiment("sail", quant="q4_0", sets={"sram_pim.convert_in_memory": False})).run())
    sums = sum(
        o.op.count * o.op.n * o.op.k // 32
        for o in outside.operators
        if o.device == "sram_pim" and o.op.weight_type == "q4_0"
    )
    head = next(o.op for o in outside.operators if o.op.name == "output")
    sums += head.n * head.k // 32 * (head.weight_type != "q4_0")
    assert outside.counts["system.sram_pim.cpu_converts"] == sums
    for kind, each in (("vector", 3 / 4), ("load", 1 / 4)):
        name = f"system.cpu.instructions::{kind}"
        assert outside.counts[name] - inside.counts[name] == pytest.approx(sums * each, rel=0.01)
    for level in ("l1d", "l2", "llc"):
        more = outside.counts[f"system.{level}.bytes"] - inside.counts[f"system.{level}.bytes"]
        assert more == pytest.approx(4 * sums, rel=0.01)

"""One stage: times against formulas written out, work conserved whatever runs where, co-processing and contention."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from closed_form_pim import ClosedFormPim
from serve_systems import COPROCESS, IDEAL, experiment, server

from gempim.quantity import DataError
from gempim.serve.stage import NodeShape, StageResult

BYTES_PER_S = 3.352e12


def _decode(lengths: list[int]) -> NodeShape:
    return NodeShape(np.array(lengths, dtype=np.int64))


def _run(nodes: list[NodeShape], device: ClosedFormPim | None = None, **words: Any) -> StageResult:
    return server(experiment(**words), device).stages.run(nodes)


def _time(result: StageResult, name: str, unit: str | None = None) -> int:
    return sum(r.time_ps for (n, _, u), r in result.ledger.rows.items() if n == name and unit in (None, u))


def _total(result: StageResult, stat: str) -> int:
    return sum(counts.get(stat, 0) for counts in result.ledger.counts.values())


def test_experts_of_mixtral_take_210_us_on_the_xpu_and_53_on_the_pim() -> None:
    """704.6 MB a device and layer with sliced experts; 20 tokens touch every expert of nearly every layer."""
    for policy, unit, expected in ((None, "xpu", 210.2e6), ({}, "logic_pim", 52.6e6)):
        result = _run([_decode([100] * 20)], policy=policy, expert_tensor=True, xpu=IDEAL)
        assert result.loads is not None
        visits = sum(int(v.sum()) for v in result.visits.values())
        assert visits > 0.98 * 32 * 8
        assert _time(result, "experts", unit) / 32 == pytest.approx(expected * visits / 256, rel=0.01)


def test_a_dense_decode_stage_written_out() -> None:
    """Llama-3-70B on four devices, eight sequences: every GEMM is bound by its weights, which add up by hand."""
    lengths = [100, 900, 3000, 5, 77, 1000, 2000, 1]
    result = _run([_decode(lengths)], model="llama-3-70b", xpu=IDEAL)
    d, f, vocab, layers, tokens = 8192, 28672, 128256, 80, 8

    def gemm(n: int, k: int) -> float:
        return 2 * (n * k + tokens * (k + n)) / BYTES_PER_S * 1e12

    def moved(elements: float) -> float:
        return 2 * elements / BYTES_PER_S * 1e12

    qkv, heads, kv = (d + 2 * 1024) // 4, d // 4, 1024 // 4
    expected = {
        "embedding": moved(2 * tokens * d),
        "norm": 161 * moved(4 * tokens * d),
        "qkv": layers * gemm(qkv, d),
        "rope_kv_write": layers * moved(2 * tokens * (heads + kv)),
        "decode_attention": layers * moved(2 * sum(lengths) * kv + 2 * tokens * heads),
        "attn_output": layers * gemm(d, heads),
        "ffn_up": layers * gemm(2 * f // 4, d),
        "ffn_act": layers * moved(3 * tokens * f / 4),
        "ffn_down": layers * gemm(d, f // 4),
        "lm_head": gemm(vocab // 4, d),
        "attn_all_reduce": layers * 6 * (0.8e6 + 2 * tokens * d / 4 / 450e9 * 1e12),
        "ffn_all_reduce": layers * 6 * (0.8e6 + 2 * tokens * d / 4 / 450e9 * 1e12),
        "logits_all_gather": 3 * (0.8e6 + 2 * tokens * vocab / 4 / 450e9 * 1e12),
    }
    assert {name for name, _, _ in result.ledger.rows} == set(expected)
    for name, ps in expected.items():
        assert _time(result, name) == pytest.approx(ps, rel=1e-3), name
    assert result.time_ps == pytest.approx(sum(expected.values()), rel=1e-3)


@pytest.mark.parametrize("model", ["mixtral-8x7b", "glam-143b", "opt-66b"])
@pytest.mark.parametrize("tensor", [False, True])
def test_work_does_not_depend_on_who_does_it(model: str, tensor: bool) -> None:
    """Multiply-accumulates of a stage, all units and devices together, are the model's, for every policy."""
    nodes = [NodeShape(np.array([50, 60, 70]), (40, 30))]
    tokens, rows = 3 + 70, 5
    pairs = 50 + 60 + 70 + sum(n * (n + 1) // 2 for n in (40, 30))
    policies: list[dict[str, Any] | None] = [
        None, {}, {"moe": "always"}, {"moe": "op_b"}, {"moe": "fastest", "attention": "fastest"}, COPROCESS,
        {"moe": "coprocess-code"}, {**COPROCESS, "one_space_one_unit": False},
    ]  # fmt: skip
    macs = set()
    for policy in policies:
        found = experiment(model, 8, policy=policy, expert_tensor=tensor)
        s = server(found)
        result = s.stages.run(nodes)
        m = s.model
        # On the closed-form device the PIM's attention counts every query head of a KV head, as the xPU's does.
        macs.add(_total(result, "system.xpu.macs") + _total(result, "system.logic_pim.macs"))
        attention = 2 * pairs * m.q_dim * m.n_layers
        outside = m.n_layers * tokens * m.d_model * (2 * m.q_dim + 2 * m.kv_dim) + rows * m.d_model * m.vocab
        ffn = m.ffn_matrices * m.d_model * m.d_ff * tokens
        # The router is small and every device of a node computes it.
        router = m.moe_layers * tokens * m.d_model * m.experts * 8
        dense = (m.n_layers - m.moe_layers) * ffn
        expected = attention + outside + dense + m.moe_layers * ffn * m.experts_used + router
        assert macs == {expected} or macs == {pytest.approx(expected, rel=1e-9)}


def test_every_routed_token_visits_an_expert_once() -> None:
    for policy in (None, {}, COPROCESS, {"moe": "coprocess-code"}):
        result = _run([_decode([10] * 37)], policy=policy)
        assert result.loads is not None
        assert result.loads.sum() == 37 * 2 * 32
        visited = sum(int((np.arange(len(v)) * v).sum()) for v in result.visits.values())
        assert visited == 37 * 2 * 32


def test_coprocessing_is_no_slower_than_either_unit_alone() -> None:
    """With the paper's split, and a device without contention, whose times are those of the table."""
    for tokens in (1, 8, 32, 64, 200):
        shape = [_decode([10] * tokens)]
        times = {
            name: _run(shape, policy=policy, expert_tensor=True, xpu=IDEAL)
            for name, policy in (("pim", {"moe": "always"}), ("both", COPROCESS))
        }
        alone = _run(shape, expert_tensor=True, xpu=IDEAL)
        experts = {name: _time(found, "experts") for name, found in times.items()}
        assert experts["both"] <= min(experts["pim"], _time(alone, "experts"))
    assert experts["both"] < min(experts["pim"], _time(alone, "experts"))


def test_contention_is_felt_only_where_both_work() -> None:
    shape = [_decode([10] * 64)]
    slow = ClosedFormPim(pim_slow=1.5, xpu_slow=1.3)
    for policy, changes in (({"moe": "always"}, False), ({}, False), (COPROCESS, True)):
        fast = _run(shape, policy=policy, expert_tensor=True)
        found = _run(shape, slow, policy=policy, expert_tensor=True)
        assert (found.time_ps > fast.time_ps) is changes


def test_attention_coprocessing_hides_the_shorter_of_two() -> None:
    """In a mixed stage decode attention and prefill attention overlap; the longer one has the time."""
    node = [NodeShape(np.full(64, 3000), (512,))]
    serial, both = (_run(node, policy=p) for p in ({}, COPROCESS))
    parts = [_time(serial, name) for name in ("prefill_attention", "decode_attention")]
    assert min(parts) > 0
    assert _time(both, "prefill_attention") + _time(both, "decode_attention") == max(parts)
    slow = _run(node, ClosedFormPim(pim_slow=1.5), policy=COPROCESS)
    longer = _time(slow, "prefill_attention") + _time(slow, "decode_attention")
    assert max(parts) < longer < 1.5 * max(parts) + 1


def test_choices_of_moe() -> None:
    """Where experts run under each rule, in decoding-only and mixed stages, with few and many tokens."""

    def units(tokens: int, prefill: tuple[int, ...], moe: str) -> set[str]:
        result = _run([NodeShape(np.full(tokens, 10), prefill)], policy={"moe": moe}, expert_tensor=True)
        return {unit for (name, _, unit) in result.ledger.rows if name == "experts"}

    assert units(8, (), "stage") == {"logic_pim"}
    assert units(8, (5,), "stage") == {"xpu"}
    assert units(8, (5,), "always") == {"logic_pim"}
    # 8 tokens: 2 of 8 experts each, 2 tokens an expert; 2000 tokens: 500 an expert.
    assert units(8, (), "op_b") == {"logic_pim"}
    assert units(8, (2000,), "op_b") == {"xpu"}
    assert units(8, (), "fastest") == {"logic_pim"}
    assert units(400, (), "fastest") == {"xpu"}


def test_choices_of_attention() -> None:
    def unit(model: str, **policy: Any) -> set[str]:
        result = _run([_decode([500] * 8)], model=model, policy=policy)
        return {u for (name, _, u) in result.ledger.rows if name == "decode_attention"}

    assert unit("mixtral-8x7b", attention="op_b", op_b_limit=4.0) == {"logic_pim"}
    assert unit("mixtral-8x7b", attention="op_b", op_b_limit=3.9) == {"xpu"}
    assert unit("mixtral-8x7b", attention="fastest") == {"logic_pim"}
    slow = ClosedFormPim(bytes_per_s=1e12)
    result = _run([_decode([500] * 8)], slow, policy={"attention": "fastest"})
    assert ("decode_attention", "attention", "xpu") in result.ledger.rows


def test_hetero_keeps_experts_and_cache_off_the_xpus() -> None:
    node = [NodeShape(np.full(8, 500), (100,))]
    result = _run(node, policy={"mode": "hetero", "moe": "always"})
    where = {name: unit for (name, _, unit) in result.ledger.rows}
    assert (where["experts"], where["decode_attention"], where["prefill_attention"]) == (
        "logic_pim",
        "logic_pim",
        "xpu",
    )
    assert where["kv_to_pim"] == where["experts_to_pim"] == "link"
    only_prompts = _run([NodeShape(np.zeros(0, dtype=np.int64), (100,))], policy={"mode": "hetero", "moe": "always"})
    assert _time(only_prompts, "kv_to_pim") > 0
    wrong = experiment(policy={"mode": "hetero"})
    with pytest.raises(DataError, match="'always'"):
        server(wrong)


def test_an_odd_number_of_devices_cannot_be_halved() -> None:
    for mode in ("hetero", "split"):
        with pytest.raises(DataError, match="is odd"):
            server(experiment("opt-66b", 5, policy={"mode": mode, "moe": "always"}))


def test_nodes_wait_for_the_slowest() -> None:
    """Two nodes: the stage takes the time of the one with more tokens; events of both are counted."""
    long, short = _decode([2000] * 40), _decode([10])
    pair = _run([long, short], model="grok-1-314b", devices=16)
    same = _run([long, long], model="grok-1-314b", devices=16)
    for name in ("decode_attention", "qkv", "attn_all_reduce"):
        assert _time(pair, name) == _time(same, name)
    reads = [_total(r, "system.xpu.hbm_read_bytes") for r in (pair, same)]
    assert reads[0] < reads[1]
    assert _time(pair, "dispatch") > 0


def test_time_is_the_sum_of_its_rows_and_busy_is_never_less() -> None:
    for policy in (None, {}, COPROCESS):
        result = _run([NodeShape(np.full(30, 500), (100, 20))], policy=policy, expert_tensor=True)
        assert result.time_ps == sum(r.time_ps for r in result.ledger.rows.values())
        busy: Counter[str] = Counter()
        for (_, _, unit), row in result.ledger.rows.items():
            busy[unit] += row.busy_ps
        assert sum(busy.values()) >= result.time_ps * 0.999
        assert max(busy.values()) <= result.time_ps


def test_expert_parallel_waits_for_the_fullest_device() -> None:
    """Whole experts: a device with four touched experts takes longer than one with none; sliced ones share evenly."""
    shape = [_decode([10])]
    whole, sliced = (_run(shape, devices=4, expert_tensor=t, xpu=IDEAL) for t in (False, True))
    # One token touches two experts of a layer: two reads of a quarter each, or one or two whole ones at once.
    one = 3 * 4096 * 14336 * 2 / BYTES_PER_S * 1e12
    assert _time(sliced, "experts") == pytest.approx(32 * 2 * one / 4, rel=0.01)
    assert 32 * one * 0.99 < _time(whole, "experts") < 32 * 2 * one


@pytest.mark.parametrize("devices", [1, 2, 4, 8, 16])
def test_one_to_sixteen_devices(devices: int) -> None:
    """More devices: the weights of a device shrink, its time for them too; one device talks to nobody."""
    found = server(experiment("llama-2-7b", devices, xpu=IDEAL))
    shape = found.stages.placement
    assert shape.nodes * shape.per_node == devices
    result = found.stages.run([_decode([100] * 4)] * shape.nodes)
    assert (_total(result, "system.link.bytes") > 0) is (devices > 1)
    assert _total(result, "system.link.node_bytes") == 0  # data parallel without experts
    one = 2 * 11008 * 4096 * 2 / BYTES_PER_S * 1e12  # gate and up of one layer
    assert _time(result, "ffn_up") == pytest.approx(32 * one / shape.per_node, rel=0.03)

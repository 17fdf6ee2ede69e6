"""One stage of continuous batching: from the lengths in it to time, work by unit, and event counts.

A stage runs every layer for all its tokens: one token of each decoding sequence, all tokens of each prompt that joins.
The operators of a layer follow one another; only where co-processing is on do xPU and PIM work at the same time.
Devices of a node work in step (tensor parallel), nodes wait for each other at the experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gempim.engines.xpu import FP16, SOFTMAX_FLOPS, Xpu, XpuCost
from gempim.lowering.graph import FLOPS_ACTIVATION, FLOPS_RMS_NORM, FLOPS_ROPE
from gempim.serve.collectives import Links, Transfer
from gempim.serve.coprocess import together
from gempim.serve.experts import Experts, ExpertSplit
from gempim.serve.gate import Gate
from gempim.serve.ledger import LINK, XPU, Ledger
from gempim.serve.pim import PimUnit, PimWork
from gempim.serve.placement import ModelSizes, Placement
from gempim.serve.policy import PolicyParams

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NodeShape:
    """One node's part of a stage: tokens that each decoding sequence attends to, and the lengths of new prompts."""

    decode: Ints
    prefill: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens that go through the layers."""
        return len(self.decode) + sum(self.prefill)

    @property
    def sequences(self) -> int:
        """Sequences that get a token."""
        return len(self.decode) + len(self.prefill)


@dataclass
class StageResult:
    """Time of a stage, its ledger, and how many tokens each visit to an expert had on which unit."""

    time_ps: int
    ledger: Ledger
    visits: dict[str, Ints] = field(default_factory=dict)
    loads: Ints | None = None


class StageModel:
    """Times stages of one model on one system.

    :param pim: the PIM beside each xPU, None for a system without
    :param policy: what runs where; None exactly when `pim` is
    :param reuse: keep the costs of operators with equal shapes; the result is the same without (a test shows it)
    """

    def __init__(
        self,
        model: ModelSizes,
        placement: Placement,
        xpu: Xpu,
        links: Links,
        gate: Gate | None,
        *,
        pim: PimUnit | None = None,
        policy: PolicyParams | None = None,
        activation: str = "swiglu",
        reuse: bool = True,
    ) -> None:
        self.model, self.placement, self.xpu, self.links, self.gate = model, placement, xpu, links, gate
        self.pim, self.policy, self.reuse = pim, policy, reuse
        self.activation_flops = FLOPS_ACTIVATION[activation]
        self.row_bytes = xpu.params.row_bytes
        self.hetero = policy is not None and policy.mode == "hetero"
        self.experts = Experts(model, placement, xpu, pim, policy, self.activation_flops) if model.experts else None
        self._gemms: dict[tuple[int, int, int], XpuCost] = {}

    def run(self, nodes: Sequence[NodeShape]) -> StageResult:
        """One stage; one shape a node."""
        if not self.reuse:
            self._gemms.clear()
            if self.experts is not None:
                self.experts.forget()
        busy = [shape for shape in nodes if shape.tokens]
        mixed = any(shape.prefill for shape in busy)
        parts = [self._node(shape) for shape in busy]
        # Nodes meet at every expert layer and at the end: the slowest one is what the stage waits for, and its rows are
        # what the time is made of; events and work of the others are counted.
        ledger = max(parts, key=lambda part: part.time_ps) if len(parts) > 1 else parts[0]
        for part in parts:
            if part is not ledger:
                for row in part.rows.values():
                    row.time_ps = 0
                ledger.add(part)
        result = StageResult(0, ledger)
        if self.experts is not None and self.gate is not None:
            self._moe(result, busy, mixed)
        result.time_ps = ledger.time_ps
        return result

    # Parts of a stage ---------------------------------------------------------------------------------------------

    def _node(self, shape: NodeShape) -> Ledger:
        """Everything outside the experts, on one node."""
        m, out = self.model, Ledger()
        tokens, layers, devices = shape.tokens, m.n_layers, self.placement.xpus
        wide, kv = self._shard(m.q_dim), self._shard(m.kv_dim)
        self._xpu(out, "embedding", "other", self.xpu.elementwise(tokens * m.d_model, reads=1, writes=1, flops=0), 1)
        # Residual addition and normalisation are one kernel: two operands in, the sum and its normal form out.
        norm = self.xpu.elementwise(tokens * m.d_model, reads=2, writes=2, flops=FLOPS_RMS_NORM + 1)
        self._xpu(out, "norm", "other", norm, 2 * layers + 1)
        self._xpu(out, "qkv", "fc", self._gemm(tokens, wide + 2 * kv, m.d_model), layers)
        write = self.xpu.elementwise(tokens * (wide + kv), reads=1, writes=1, flops=FLOPS_ROPE if m.rope else 0)
        self._xpu(out, "rope_kv_write", "attention", write, layers)
        self._attention(out, shape, layers)
        self._xpu(out, "attn_output", "fc", self._gemm(tokens, m.d_model, wide), layers)
        self._comm(out, "attn_all_reduce", self.links.all_reduce(tokens * m.d_model * FP16, devices), layers)
        dense = layers - m.moe_layers
        if dense:
            inner = self._shard(m.d_ff)
            fused = 2 if m.gated else 1
            self._xpu(out, "ffn_up", "fc", self._gemm(tokens, fused * inner, m.d_model), dense)
            act = self.xpu.elementwise(tokens * inner, reads=fused, writes=1, flops=self.activation_flops)
            self._xpu(out, "ffn_act", "other", act, dense)
            self._xpu(out, "ffn_down", "fc", self._gemm(tokens, m.d_model, inner), dense)
            self._comm(out, "ffn_all_reduce", self.links.all_reduce(tokens * m.d_model * FP16, devices), dense)
        if m.moe_layers:
            self._xpu(out, "router", "moe", self._gemm(tokens, m.experts, m.d_model), m.moe_layers)
        rows = shape.sequences
        self._xpu(out, "lm_head", "fc", self._gemm(rows, self._shard(m.vocab), m.d_model), 1)
        self._comm(out, "logits_all_gather", self.links.all_gather(rows * m.vocab * FP16, devices), 1)
        return out

    def _shard(self, whole: int) -> int:
        """One xPU's share of columns or heads, which are sliced over a node."""
        return -(-whole // self.placement.xpus)

    def _gemm(self, tokens: int, n: int, k: int) -> XpuCost:
        key = (tokens, n, k)
        if key not in self._gemms:
            self._gemms[key] = self.xpu.gemm(tokens, n, k)
        return self._gemms[key]

    def _xpu(self, out: Ledger, name: str, kind: str, cost: XpuCost, times: int) -> None:
        self._xpu_row(out, name, kind, cost, times, cost.time_ps * times)

    def _xpu_row(self, out: Ledger, name: str, kind: str, cost: XpuCost, times: int, time_ps: int) -> None:
        if not cost.time_ps:
            return
        devices = times * self.placement.xpus
        ops = (2 * cost.macs + cost.flops) * devices
        out.row(
            name, kind, XPU, times=times, time_ps=time_ps, busy_ps=cost.time_ps * times, ops=ops,
            bytes_=cost.bytes * devices,
        )  # fmt: skip
        out.xpu_events(kind, cost, self.row_bytes, devices)

    def _comm(self, out: Ledger, name: str, transfer: Transfer, times: int) -> None:
        if not transfer.time_ps:
            return
        total = transfer.time_ps * times
        out.row(name, "communication", LINK, times=times, time_ps=total, busy_ps=total)
        events = {"system.link.bytes": transfer.link_bytes, "system.link.node_bytes": transfer.node_bytes}
        out.count("communication", events, times)

    def _attention(self, out: Ledger, shape: NodeShape, layers: int) -> None:
        m = self.model
        heads, kv_heads = self._shard(m.n_heads), self._shard(m.n_kv_heads)
        prefill = self.xpu.prefill_attention(heads, kv_heads, m.head_dim, shape.prefill)
        cached = int(shape.decode.sum())
        decode = self.xpu.decode_attention(heads, kv_heads, m.head_dim, len(shape.decode), cached)
        if shape.prefill and self.policy is not None and self.policy.kv_migration:
            moved = sum(shape.prefill) * 2 * kv_heads * m.head_dim
            self._xpu(out, "kv_migration", "attention", self.xpu.elementwise(moved, reads=1, writes=1, flops=0), layers)
        if self.hetero:
            # Queries, keys and values of the new tokens go to the devices with the KV cache, results come back; K and V
            # of prompts stay there.
            new, lanes = len(shape.decode), self.placement.pims
            there = self.links.send(new * (m.q_dim + 2 * m.kv_dim) * FP16, lanes)
            self._comm(out, "attention_to_pim", there + self.links.send(new * m.q_dim * FP16, lanes), layers)
            size = sum(shape.prefill) * 2 * m.kv_dim * FP16
            self._comm(out, "kv_to_pim", self.links.send(size, lanes), layers)
        chosen = self._attention_on_pim(shape, prefill, decode)
        if chosen is None:
            self._xpu(out, "prefill_attention", "attention", prefill, layers)
            self._xpu(out, "decode_attention", "attention", decode, layers)
            return
        assert self.pim is not None
        alone, beside = chosen
        parts = (prefill.time_ps, alone.ps)
        if beside is not alone:
            # The xPU's traffic stretches; what it computes does not.
            slow = max(prefill.time_ps, round(prefill.memory_ps * beside.stretch) + self.xpu.params.launch_ps)
            work = (prefill.time_ps, slow, alone.ps, max(alone.ps, beside.ps))
            ends = tuple(int(end[0]) for end in together(*(np.array([v]) for v in work)))
            # The unit that is done last has the whole time of both.
            parts = (ends[0], 0) if ends[0] > ends[1] else (0, ends[1])
        self._xpu_row(out, "prefill_attention", "attention", prefill, layers, parts[0] * layers)
        out.row(
            "decode_attention", "attention", self.pim.name, times=layers, time_ps=parts[1] * layers,
            busy_ps=alone.ps * layers, ops=(4 * m.head_dim + SOFTMAX_FLOPS) * m.n_heads * cached * layers,
            bytes_=2 * FP16 * cached * m.kv_dim * layers,
        )  # fmt: skip
        out.count("attention", beside.counts, layers * self.placement.pims)

    def _attention_on_pim(self, shape: NodeShape, prefill: XpuCost, decode: XpuCost) -> tuple[PimWork, PimWork] | None:
        """Decode attention on the PIM, alone and beside the prefill's on the xPU; None when it runs on the xPU.

        The same object twice: not at the same time.
        """
        if self.pim is None or self.policy is None or not len(shape.decode):
            return None
        m, choice = self.model, self.policy.attention
        group = m.n_heads // m.n_kv_heads
        if choice == "op_b" and group > self.policy.op_b_limit:
            return None
        heads = -(-m.n_kv_heads // self.placement.pims)
        alone = self.pim.attention(heads, group, m.head_dim, shape.decode)
        if choice == "fastest" and alone.ps >= decode.time_ps:
            return None
        if choice != "coprocess" or not prefill.time_ps:
            return alone, alone
        rate = prefill.bytes / prefill.time_ps * 1e12
        return alone, self.pim.attention(heads, group, m.head_dim, shape.decode, xpu_bytes_per_s=rate)

    def _moe(self, result: StageResult, nodes: Sequence[NodeShape], mixed: bool) -> None:
        """All MoE layers of the stage, over all nodes."""
        assert self.experts is not None
        assert self.gate is not None
        m, p, ledger = self.model, self.placement, result.ledger
        total = sum(shape.tokens for shape in nodes)
        loads = self.gate.draw(total)
        split: ExpertSplit = self.experts.run(loads, mixed=mixed)
        split.enter(ledger)
        result.visits, result.loads = split.visits, loads.sum(axis=0)
        # Partial sums (of each stack, where the PIM made them) and the weighted sum of a token's experts.
        # A device has those of its own experts.
        routed = total * m.experts_used // p.expert_groups
        summed = self.experts.combine(routed, total // p.nodes, split.pim_share)
        self._xpu(ledger, "expert_sum", "moe", summed, m.moe_layers)
        self._moe_comm(ledger, total)

    def _moe_comm(self, ledger: Ledger, total: int) -> None:
        m, p = self.model, self.placement
        layers, token = m.moe_layers, m.d_model * FP16
        routed = total * m.experts_used * token
        if self.hetero:
            # Each PIM device gets the tokens of its experts (or, with sliced experts, all of them), sums come back.
            size = total * token * p.expert_slices if p.expert_groups == 1 else routed
            self._comm(ledger, "experts_to_pim", self.links.send(size, self.placement.pims), layers)
            self._comm(ledger, "experts_from_pim", self.links.send(size, self.placement.pims), layers)
            self._comm(ledger, "expert_all_gather", self.links.all_gather(total * token, self.placement.xpus), layers)
            return
        if p.expert_groups == p.nodes:
            # Sliced over a node: every device of it has the tokens; nodes exchange those of each other's experts.
            self._comm(ledger, "dispatch", self.links.all_to_all(routed, p.nodes, 1), layers)
            here = total * token if p.nodes == 1 else routed // p.nodes
            self._comm(ledger, "expert_all_reduce", self.links.all_reduce(here, p.per_node), layers)
            self._comm(ledger, "collect", self.links.all_to_all(routed, p.nodes, 1), layers)
            return
        self._comm(ledger, "dispatch", self.links.all_to_all(routed, p.nodes, p.per_node), layers)
        if p.expert_slices > 1:
            share = routed // p.expert_groups
            self._comm(ledger, "expert_all_reduce", self.links.all_reduce(share, p.expert_slices), layers)
        self._comm(ledger, "collect", self.links.all_to_all(routed, p.nodes, p.per_node), layers)
        gathered = self.links.all_gather(total // p.nodes * token, p.per_node)
        self._comm(ledger, "token_all_gather", gathered, layers)

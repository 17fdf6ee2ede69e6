"""MoE layers of one stage: which expert runs where, when each unit is done, and what is counted. All layers at once."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from gempim.engines.xpu import Xpu, XpuCost
from gempim.serve.coprocess import (
    by_group,
    code_split,
    groups_of_code,
    paper_split,
    single,
    spaces_one_by_one,
    together,
)
from gempim.serve.ledger import XPU, Ledger
from gempim.serve.pim import ExpertTable, PimUnit
from gempim.serve.placement import ModelSizes, Placement
from gempim.serve.policy import PolicyParams

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SIMULATED = 192
"""Tokens of one expert up to which every number is simulated. With more the PIM is bound by arithmetic, and its table
goes on as a straight line through this number and twice as many, within 2 % of the device model (a test holds it to 3
%)."""

_COST = tuple(f.name for f in fields(XpuCost))


@dataclass
class ExpertSplit:
    """Outcome of all MoE layers of a stage; arrays are [layers]."""

    xpu_ps: Ints
    pim_ps: Ints
    xpu_busy: int
    pim_busy: int
    xpu_visits: int
    pim_visits: int
    xpu_total: XpuCost
    xpu_activates: int
    xpu_devices: int
    pim_name: str
    pim_counts: dict[str, int]
    pim_ops: int
    pim_bytes: int
    pim_share: float
    visits: dict[str, Ints]

    def enter(self, ledger: Ledger) -> None:
        """Rows and events into a stage's ledger. The unit that is done last has the whole time of a layer."""
        last = self.pim_ps >= self.xpu_ps
        t = self.xpu_total
        if self.xpu_visits:
            ledger.row(
                "experts", "moe", XPU, times=self.xpu_visits, time_ps=int(self.xpu_ps[~last].sum()),
                busy_ps=self.xpu_busy, ops=(2 * t.macs + t.flops) * self.xpu_devices,
                bytes_=t.bytes * self.xpu_devices,
            )  # fmt: skip
            events = {
                "system.xpu.macs": t.macs,
                "system.xpu.vector_flops": t.flops,
                "system.xpu.hbm_read_bytes": t.read_bytes,
                "system.xpu.hbm_write_bytes": t.write_bytes,
                "system.xpu.hbm_activates": self.xpu_activates,
            }
            ledger.count("moe", events, self.xpu_devices)
        if self.pim_visits:
            ledger.row(
                "experts", "moe", self.pim_name, times=self.pim_visits, time_ps=int(self.pim_ps[last].sum()),
                busy_ps=self.pim_busy, ops=self.pim_ops, bytes_=self.pim_bytes,
            )  # fmt: skip
            ledger.count("moe", self.pim_counts)


class Experts:
    """The experts of one model on one system."""

    def __init__(
        self,
        model: ModelSizes,
        placement: Placement,
        xpu: Xpu,
        pim: PimUnit | None,
        policy: PolicyParams | None,
        activation_flops: int,
    ) -> None:
        self.model, self.placement, self.xpu, self.pim, self.policy = model, placement, xpu, pim, policy
        self.activation_flops = activation_flops
        self.inner = -(-model.d_ff // placement.expert_slices)
        self.local = model.experts // placement.expert_groups
        code = policy is not None and policy.moe == "coprocess-code"
        bound = policy is None or policy.one_space_one_unit
        self.spaces = pim.spaces if pim is not None else 1
        # The code's groups stand for its spaces; otherwise experts are allotted one by one.
        in_spaces = groups_of_code(self.local) if code else spaces_one_by_one(self.local, self.spaces)
        self.groups = in_spaces if bound else single(self.local)
        self.group_of = _index(self.groups, self.local)
        self.space_of = _index(in_spaces, self.local) % self.spaces
        peaks = xpu.params
        self.xpu_op_b = peaks.peak_flops_per_s / peaks.peak_bytes_per_s
        self._xpu = _XpuTable(self)
        self._pim: dict[tuple[int, bool], ExpertTable] = {}

    def forget(self) -> None:
        """Drop every cost that was kept."""
        self._xpu = _XpuTable(self)
        self._pim.clear()

    def xpu_expert(self, tokens: int) -> list[XpuCost]:
        """The three operators of one expert's slice on one xPU."""
        fused = 2 if self.model.gated else 1
        return [
            self.xpu.gemm(tokens, fused * self.inner, self.model.d_model),
            self.xpu.elementwise(tokens * self.inner, reads=fused, writes=1, flops=self.activation_flops),
            self.xpu.gemm(tokens, self.model.d_model, self.inner),
        ]

    def combine(self, routed: int, tokens: int, pim_share: float) -> XpuCost:
        """The xPU adds up partial sums and a token's experts: one row in for each, one row out a token."""
        rows = routed
        if self.pim is not None and pim_share:
            # Every stack has partial sums of its slice (section V-A): the xPU reads one row from each.
            rows = round(routed * (1 - pim_share + pim_share * self.pim.device.stacks))
        d = self.model.d_model
        cost = self.xpu.elementwise(rows * d, reads=1, writes=0, flops=2)
        out = self.xpu.elementwise(tokens * d, reads=0, writes=1, flops=0)
        return XpuCost(
            cost.time_ps + out.memory_ps, cost.compute_ps, cost.memory_ps + out.memory_ps, 0, cost.flops,
            cost.read_bytes, out.write_bytes,
        )  # fmt: skip

    def run(self, loads: Ints, *, mixed: bool) -> ExpertSplit:
        """Times of all layers.

        :param loads: tokens of each expert, [layers, experts]
        :param mixed: whether the stage has prompts in it
        """
        tokens = loads.reshape(len(loads), self.placement.expert_groups, self.local)
        x = self._xpu.of(tokens)
        on_pim = self._choose(tokens, x, mixed=mixed)
        any_xpu = ((tokens > 0) & ~on_pim).any(axis=-1)
        any_pim = ((tokens > 0) & on_pim).any(axis=-1)
        xpu_alone = np.where(on_pim, 0, x["time_ps"]).sum(axis=-1)
        pim_tokens = np.where(on_pim, tokens, 0)
        counts: dict[str, int] = {}
        if not any_pim.any():
            xpu_end, pim_end = xpu_alone, np.zeros_like(xpu_alone)
            pim_busy = pim_end
        else:
            owned = self._owned(pim_tokens)
            pim_alone, _ = self._pim_times(pim_tokens, owned, beside=False)
            both: Mask = np.asarray(any_xpu & any_pim)
            xpu_end, pim_end = xpu_alone, pim_alone
            pim_busy = pim_alone
            if both.any():
                slow, stretch = self._pim_times(pim_tokens, owned, beside=True, where=both)
                fixed = self.xpu.params.launch_ps * 3 * ((tokens > 0) & ~on_pim).sum(axis=-1)
                memory = np.where(on_pim, 0, x["memory_ps"]).sum(axis=-1)
                xpu_slow = np.maximum(xpu_alone, np.rint(memory * stretch).astype(np.int64) + fixed)
                ends = together(xpu_alone, xpu_slow, pim_alone, np.maximum(slow, pim_alone))
                xpu_end = np.where(both, ends[0], xpu_alone)
                pim_end = np.where(both, ends[1], pim_alone)
            self._count(counts, pim_tokens, owned, both)
        # Groups of devices meet after the experts: the slowest one is what the layer waits for.
        slowest = np.maximum(xpu_end, pim_end).argmax(axis=-1)
        rows = np.arange(len(tokens))
        xpu_tokens = np.where(on_pim, 0, tokens)
        slices = self.placement.expert_slices
        pim_sum = int(pim_tokens.sum())
        m = self.model
        visited = int((pim_tokens > 0).sum())
        return ExpertSplit(
            xpu_ps=xpu_end[rows, slowest],
            pim_ps=pim_end[rows, slowest],
            xpu_busy=int(xpu_alone[rows, slowest].sum()),
            pim_busy=int(pim_busy[rows, slowest].sum()),
            xpu_visits=int((xpu_tokens > 0).sum()),
            pim_visits=visited,
            xpu_total=self._xpu.total(xpu_tokens),
            xpu_activates=self._xpu.activates(xpu_tokens),
            xpu_devices=slices,
            pim_name=self.pim.name if self.pim is not None else "",
            pim_counts={name: value * slices for name, value in counts.items()},
            pim_ops=2 * m.ffn_matrices * m.d_model * self.inner * slices * pim_sum,
            pim_bytes=2 * m.ffn_matrices * m.d_model * self.inner * slices * visited,
            pim_share=pim_sum / max(1, int(tokens.sum())),
            visits={
                XPU: np.bincount(xpu_tokens[xpu_tokens > 0]),
                **({self.pim.name: np.bincount(pim_tokens[pim_tokens > 0])} if self.pim is not None else {}),
            },
        )

    # Choosing -----------------------------------------------------------------------------------------------------

    def _choose(self, tokens: Ints, x: dict[str, Ints], *, mixed: bool) -> Mask:
        """Which experts run on the PIM, [layers, groups of devices, local experts]."""
        if self.pim is None or self.policy is None:
            return np.zeros(tokens.shape, dtype=bool)
        moe = self.policy.moe
        if moe == "stage":
            return np.full(tokens.shape, not mixed)
        if moe == "always":
            return np.ones(tokens.shape, dtype=bool)
        whole: Mask
        if moe == "op_b":
            busy = (tokens > 0).sum(axis=-1, keepdims=True)
            whole = tokens.sum(axis=-1, keepdims=True) <= self.policy.op_b_limit * busy
            return np.broadcast_to(whole, tokens.shape)
        if moe == "coprocess-code":
            most = max(len(g) for g in self.groups)
            padded = np.full((*tokens.shape[:2], len(self.groups), most), -1, dtype=np.int64)
            for i, g in enumerate(self.groups):
                padded[..., i, : len(g)] = tokens[..., g]
            return code_split(padded, self.xpu_op_b)[..., self.group_of]
        # The offline table: every expert for itself, all memory spaces open to the PIM.
        pim_ps = self._table(min(self.spaces, self.local), beside=False, tokens=tokens).ps[tokens]
        if moe == "fastest":
            whole = pim_ps.sum(axis=-1, keepdims=True) < x["time_ps"].sum(axis=-1, keepdims=True)
            return np.broadcast_to(whole, tokens.shape)
        sums = (by_group(values, self.groups) for values in (tokens, x["time_ps"], pim_ps))
        return paper_split(*sums)[..., self.group_of]

    # Times on the PIM ---------------------------------------------------------------------------------------------

    def _owned(self, pim_tokens: Ints) -> Ints:
        """Memory spaces that the PIM reads from in each layer, [layers, groups of devices]; 1 at least."""
        used = np.stack(
            [(pim_tokens[..., self.space_of == s] > 0).any(axis=-1) for s in range(self.spaces)], axis=-1
        )  # fmt: skip
        return np.maximum(1, used.sum(axis=-1))

    def _table(self, owned: int, *, beside: bool, tokens: Ints) -> ExpertTable:
        assert self.pim is not None
        table = self._pim.get((owned, beside))
        if table is None:
            table = self._pim[owned, beside] = ExpertTable()
        for n in table.missing(tokens):
            if n <= SIMULATED:
                work = self.pim.expert(
                    self.model.d_model, self.inner, int(n), owned, gated=self.model.gated, beside=beside
                )  # fmt: skip
                table.put(int(n), work.ps, work.stretch, work.counts)
            else:
                self._table(owned, beside=beside, tokens=np.array([SIMULATED]))
                if table.beyond is None:
                    more = self.pim.expert(
                        self.model.d_model, self.inner, 2 * SIMULATED, owned, gated=self.model.gated, beside=beside
                    )  # fmt: skip
                    table.beyond = table.slope(SIMULATED, 2 * SIMULATED, more)
                table.extend(SIMULATED, int(n))
        return table

    def _pim_times(
        self, pim_tokens: Ints, owned: Ints, *, beside: bool, where: Mask | None = None
    ) -> tuple[Ints, npt.NDArray[np.float64]]:
        """Time of the PIM's experts and the mean stretch of the xPU's traffic meanwhile, [layers, groups]."""
        ps = np.zeros(owned.shape, dtype=np.int64)
        weighted = np.zeros(owned.shape)
        for count in np.unique(owned):
            here = owned == count if where is None else (owned == count) & where
            if not here.any():
                continue
            mine = pim_tokens[here]
            table = self._table(int(count), beside=beside, tokens=mine)
            each = table.ps[mine]
            ps[here] = each.sum(axis=-1)
            weighted[here] = (each * table.stretch[mine]).sum(axis=-1)
        return ps, np.where(ps > 0, weighted / np.maximum(ps, 1), 1.0)

    def _count(self, counts: dict[str, int], pim_tokens: Ints, owned: Ints, both: Mask) -> None:
        for beside, where in ((False, ~both), (True, both)):
            for count in np.unique(owned):
                here = (owned == count) & where
                if here.any():
                    table = self._table(int(count), beside=beside, tokens=pim_tokens[here])
                    for name, value in table.total(pim_tokens[here]).items():
                        counts[name] = counts.get(name, 0) + value


def _index(groups: list[Ints], experts: int) -> Ints:
    """The group of each expert."""
    out = np.zeros(experts, dtype=np.int64)
    for i, group in enumerate(groups):
        out[group] = i
    return out


class _XpuTable:
    """Costs of one expert's slice on the xPU by number of tokens."""

    def __init__(self, experts: Experts) -> None:
        self.experts = experts
        self.known: Mask = np.zeros(1, dtype=bool)
        self.values = {name: np.zeros(1, dtype=np.int64) for name in (*_COST, "activates")}
        self.known[0] = True

    def _fill(self, tokens: Ints) -> None:
        more = int(tokens.max(initial=0)) + 1 - len(self.known)
        if more > 0:
            more = max(more, len(self.known))
            self.known = np.pad(self.known, (0, more))
            self.values = {name: np.pad(v, (0, more)) for name, v in self.values.items()}
        there = self.known[tokens]
        if there.all():
            return
        row = self.experts.xpu.params.row_bytes
        for n in np.unique(tokens[~there]):
            parts = self.experts.xpu_expert(int(n))
            for name in _COST:
                self.values[name][n] = sum(getattr(part, name) for part in parts)
            self.values["activates"][n] = sum(-(-part.bytes // row) for part in parts)
            self.known[n] = True

    def of(self, tokens: Ints) -> dict[str, Ints]:
        """Time and memory time of each expert [ps], in the shape of `tokens`."""
        self._fill(tokens)
        return {name: self.values[name][tokens] for name in ("time_ps", "memory_ps")}

    def total(self, tokens: Ints) -> XpuCost:
        """Everything of these experts, added up, of one device of each slice."""
        visits = np.bincount(tokens.ravel(), minlength=len(self.known))
        return XpuCost(**{name: int(visits @ self.values[name]) for name in _COST})

    def activates(self, tokens: Ints) -> int:
        """Memory rows that are opened."""
        return int(np.bincount(tokens.ravel(), minlength=len(self.known)) @ self.values["activates"])

"""The embedded engine: operators of the model graph, one after another, on the device models.

Each ROI (the prefill, and every decode token) is lowered to operators. An operator that occurs in many layers with the
same shape is simulated as a train of back-to-back occurrences on one DRAM session, long enough to see several refresh
intervals, and its mean time is multiplied by its count. A test holds this against the whole pass, occurrence by occurrence.

Time of one CPU operator: ``max(compute, DRAM, per-core bandwidth) + barrier``. Time of one SRAM-PIM matrix product:
quantisation of the activations on the cores, issue of its `lutmm` commands, the device's own pipeline over the DRAM model,
and a barrier.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gempim import _engine
from gempim.calibrate import load_calibration
from gempim.engines.cpu import CpuCost, CpuModel, CpuParams
from gempim.engines.gpu import GpuParams, GpuRoofline
from gempim.engines.host import LlcParams, PimHostParams
from gempim.experiment import Experiment
from gempim.lowering import Operator, Routing, lower
from gempim.patterns.stats import load_patterns
from gempim.systems import System

PS = 1_000_000_000_000
PATTERNS = "smollm2-135m"

# A train of occurrences covers this many refresh intervals, so that refresh is in the mean of short operators too.
_REFRESH_INTERVALS = 8


@dataclass
class OperatorResult:
    """One operator of a pass, over all its occurrences."""

    op: Operator
    device: str
    time_ps: int
    compute_ps: int
    memory_ps: int
    overhead_ps: int
    limiter: str
    dram_read_bytes: int
    dram_write_bytes: int
    pim_commands: int
    counts: dict[str, float]

    def row(self) -> dict[str, Any]:
        """The operator's line in roi.jsonl."""
        o = self.op
        return {
            "name": o.name,
            "kind": o.kind,
            "device": self.device,
            "count": o.count,
            "time_ps": self.time_ps,
            "compute_ps": self.compute_ps,
            "memory_ps": self.memory_ps,
            "overhead_ps": self.overhead_ps,
            "flops": o.flops * o.count,
            "dram_read_bytes": self.dram_read_bytes,
            "dram_write_bytes": self.dram_write_bytes,
            "limiter": self.limiter,
            "weight_type": o.weight_type,
            "m": o.m,
            "n": o.n,
            "k": o.k,
            "instances": o.instances,
            "pim_commands": self.pim_commands,
        }


@dataclass
class Roi:
    """One region of interest: a prefill or one decode step of the whole batch."""

    label: str
    index: int
    tokens: int
    batch: int
    context: int
    operators: list[OperatorResult]
    host_seconds: float
    counts: dict[str, float] = field(default_factory=dict)

    @property
    def sim_ps(self) -> int:
        """Simulated time of the region."""
        return sum(o.time_ps for o in self.operators)


class _Devices:
    """The device models of one system, made once a run."""

    def __init__(self, system: System, threads: int) -> None:
        self.system = system
        if system.kind == "gpu-roofline":
            self.gpu = GpuRoofline(GpuParams(**system.values("gpu")))
            return
        self.cpu_params = CpuParams(**system.values("cpu"))
        self.calibration = load_calibration(self.cpu_params.calibration)
        self.cpu = CpuModel(self.cpu_params, self.calibration, threads)
        self.threads = threads
        self.llc = LlcParams(**system.values("llc"))
        self.llc_bytes = self.llc.capacity()
        self.dram_params = system.values("dram")
        self.channels = int(system.values("memory")["channels"])
        self.pim: Any = None
        if "sram_pim" in system.sections:
            self.pim = _engine.SramPim(system.values("sram_pim"))
            self.pim_host = PimHostParams(**system.values("pim_host"))
            self.patterns = load_patterns(PATTERNS)
            self.llc_bytes -= self.pim.llc_bytes_lost()

    def dram(self) -> Any:
        """A DRAM session with cold banks."""
        return _engine.DramSystem(self.dram_params, self.channels)


class EmbeddedEngine:
    """Runs one experiment. Deterministic: the same experiment gives the same picoseconds and counts."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        w = experiment.workload
        self.devices = _Devices(experiment.system, w.threads)
        self._memo: dict[Operator, OperatorResult] = {}
        # Weights and KV are used once a token, always in the same order: under LRU either all of it stays in the LLC or
        # none of it does.
        cached = max(w.prompt, w.decode_context() + w.tokens)
        footprint = experiment.model.bytes + w.batch * experiment.model.kv_bytes(cached)
        self.weights_in_llc = experiment.system.kind != "gpu-roofline" and footprint <= self.devices.llc_bytes

    def run(self, progress: Callable[[int, int], None] | None = None) -> Iterator[Roi]:
        """Simulate the prefill (if any) and each decode step, in order."""
        w = self.experiment.workload
        total = (1 if w.prompt else 0) + w.tokens
        done = 0
        if w.prompt:
            yield self._roi("prefill", 0, tokens=w.prompt * w.batch, n_past=0, n_tokens=w.prompt)
            done += 1
            if progress:
                progress(done, total)
        for i in range(w.tokens):
            yield self._roi("decode", i, tokens=w.batch, n_past=w.decode_context() + i, n_tokens=1)
            done += 1
            if progress:
                progress(done, total)

    def _roi(self, label: str, index: int, *, tokens: int, n_past: int, n_tokens: int) -> Roi:
        started = time.perf_counter()
        w = self.experiment.workload
        routing = Routing(w.routing, w.routing_exponent, w.routing_seed)
        ops = lower(self.experiment.model, label, w.batch, n_past, n_tokens, routing)
        results = []
        for op in ops:
            if op not in self._memo:
                self._memo[op] = self._operator(op)
            results.append(self._memo[op])
        roi = Roi(label, index, tokens, w.batch, n_past, results, time.perf_counter() - started)
        for r in results:
            for key, value in r.counts.items():
                roi.counts[key] = roi.counts.get(key, 0) + value
        return roi

    # One operator -------------------------------------------------------------------------------------------------

    def _operator(self, op: Operator) -> OperatorResult:
        if self.experiment.system.kind == "gpu-roofline":
            return self._on_gpu(op)
        if self.devices.pim is not None and op.kind == "matmul" and self.devices.pim.supports(op.weight_type):
            return self._on_pim(op)
        return self._on_cpu(op)

    def _on_gpu(self, op: Operator) -> OperatorResult:
        c = self.devices.gpu.cost(op)
        return OperatorResult(
            op, "gpu", c.time_ps * op.count, c.compute_ps * op.count, c.memory_ps * op.count, 0,
            "compute" if c.compute_ps >= c.memory_ps else "memory",
            (op.weight_bytes + op.read_bytes) * op.count, op.write_bytes * op.count, 0,
            {"system.gpu.flops": c.flops * op.count, "system.gpu.bytes": c.bytes * op.count,
             "system.gpu.busy_ps": c.time_ps * op.count},
        )  # fmt: skip

    def _occurrences(self, first_ps: int, count: int) -> int:
        refi = int(self.devices.dram_params["tREFI_ps"])
        return max(1, min(count, math.ceil(_REFRESH_INTERVALS * refi / max(first_ps, 1))))

    def _train(
        self, count: int, once: Callable[[Any, int], tuple[int, dict[str, int]]]
    ) -> tuple[int, dict[str, float]]:
        """Mean time and mean sums of `once(dram, start)` over back-to-back occurrences, times `count`."""
        dram = self.devices.dram()
        now, sums = once(dram, 0)
        n = self._occurrences(now, count)
        for _ in range(n - 1):
            end, more = once(dram, now)
            now = end
            for key, value in more.items():
                sums[key] += value
        scaled: dict[str, float] = {k: v * count / n for k, v in sums.items()}
        for key, value in dram.counters().items():
            scaled[f"system.dram.{key}"] = value * count / n
        return round(now * count / n), scaled

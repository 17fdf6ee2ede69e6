"""The embedded engine: operators of the model graph, one after another, on the device models.

Each ROI (the prefill, and every decode token) is lowered to operators. An operator that occurs in many layers with the
same shape is simulated as a train of back-to-back occurrences on one DRAM session, long enough to see several refresh
intervals, and its mean time is multiplied by its count. A test holds this against every occurrence simulated.

Time of one CPU operator: ``max(compute, DRAM, per-core bandwidth) + barrier``. Time of one SRAM-PIM matrix product:
quantisation of the activations on the cores and a barrier, issue of its `lutmm`, and the device's own pipeline
over the DRAM model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from gempim import _engine
from gempim.engines.calibration import Calibration, load_calibration
from gempim.engines.cpu import ACTIVATION_TYPE, CpuCost, CpuModel, CpuParams, ModelTraits
from gempim.engines.cpu import NOT_MODELLED as CPU_NOT_MODELLED
from gempim.engines.gpu import GpuParams, GpuRoofline
from gempim.engines.host import LlcParams, PimHostParams
from gempim.experiment import Experiment
from gempim.lowering import NOT_MODELLED as LOWERING_NOT_MODELLED
from gempim.lowering import Operator, Routing, lower
from gempim.models import ModelSpec
from gempim.patterns.stats import PatternStats, load_patterns
from gempim.quantity import DataError
from gempim.systems import System

PS = 1_000_000_000_000
PATTERNS = "smollm2-135m"
FLOATS = ("f32", "f16", "bf16")
"""Weight types that no lookup table of integers serves."""

# Integer sums that the cores convert: 32-bit values, four a NEON register; one load, then scvtf, fmul and fmla, as
# pim_host.convert_cycles counts them.
_SUM_BYTES = 4
_CONVERT_INSTRUCTIONS = {"vector": 3 / 4, "load": 1 / 4}

# A train of occurrences covers this many refresh intervals, so that refresh is in the mean of short operators too.
_REFRESH_INTERVALS = 8


_CPU_STATS = {
    "system.cpu.cores": ("Count", "cores of the socket"),
    "system.cpu.threads": ("Count", "threads of the run"),
    "system.cpu.busyCycles": ("Cycle", "core cycles with work, all threads"),
    "system.cpu.idlePs": ("Tick", "time without work, summed over all cores of the socket"),
    **{
        f"system.cpu.instructions::{kind}": ("Count", f"{kind} instructions executed, all threads")
        for kind in ("vector", "scalar", "load", "store", "branch")
    },
    "system.l1d.bytes": ("Byte", "bytes between registers and the L1 data caches"),
    "system.l2.bytes": ("Byte", "bytes between the L1 and L2 caches"),
    "system.llc.bytes": ("Byte", "bytes between the L2 caches and the LLC"),
    "system.gpu.flops": ("Count", "floating-point operations"),
    "system.gpu.bytes": ("Byte", "bytes of device memory moved"),
    "system.gpu.busy_ps": ("Tick", "time with work"),
}


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


@cache
def _calibration(name: str) -> Calibration:
    """A calibration, parsed once a process: a sweep has thousands of runs."""
    return load_calibration(name)


@cache
def _patterns() -> PatternStats:
    """The recorded hit rates, parsed once a process."""
    return load_patterns(PATTERNS)


def _made(system: System, make: Callable[[], Any]) -> Any:
    """A device model. :raises DataError: it refuses the combination of its parameters"""
    try:
        return make()
    except _engine.ParamError as err:
        raise DataError(f"{system.name}: {err}") from None


class _Devices:
    """The device models of one system, made once a run."""

    def __init__(self, system: System, model: ModelSpec, threads: int) -> None:
        self.system = system
        if system.kind == "gpu-roofline":
            self.gpu = GpuRoofline(GpuParams(**system.values("gpu")))
            return
        self.threads = threads
        self.cpu_params = CpuParams(**system.values("cpu"))
        self.cycle_ps = PS / self.cpu_params.clock_hz
        self.llc = LlcParams(**system.values("llc"))
        self.llc_bytes = self.llc.capacity()
        self.dram_params = system.values("dram")
        self.channels = int(system.values("memory")["channels"])
        _made(system, self.dram)  # a wrong combination of timings is said now, not in the middle of a run
        self.pim: Any = None
        if "sram_pim" in system.sections:
            pim_params = system.values("sram_pim")
            for key in ("slices", "slice_bytes"):
                if pim_params[key] != getattr(self.llc, key):
                    raise DataError(
                        f"{system.name}: sram_pim.{key} = {pim_params[key]}: must equal"
                        f" llc.{key} ({getattr(self.llc, key)})"
                    )
            self.pim = _made(system, lambda: _engine.SramPim(pim_params))
            self.pim_host = PimHostParams(**system.values("pim_host"))
            self.patterns = _patterns().for_model(model.name)
            self.llc_bytes -= self.pim.llc_bytes_lost()
            if self.llc_bytes <= 0:
                raise DataError(
                    f"{system.name}: sram_pim.arrays_per_slice = {pim_params['arrays_per_slice']}: the arrays take"
                    f" {self.pim.llc_bytes_lost()} bytes, all of the LLC or more"
                )
        self.cpu = CpuModel(
            self.cpu_params,
            _calibration(self.cpu_params.calibration),
            threads,
            llc_bytes=self.llc_bytes,
            traits=ModelTraits.of(model),
        )

    def llc_bytes_per_s(self) -> float:
        """What the threads can draw from the LLC: their own ports, or all slices."""
        slices = self.llc.slices * self.llc.bytes_per_cycle * self.cpu_params.clock_hz
        return min(self.cpu.core_llc_bytes_per_s, slices)

    def dram(self) -> Any:
        """A DRAM session with cold banks."""
        return _engine.DramSystem(self.dram_params, self.channels)


class EmbeddedEngine:
    """Runs one experiment. Deterministic: the same experiment gives the same picoseconds and counts."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        w = experiment.workload
        self.devices = _Devices(experiment.system, experiment.model, w.threads)
        self._memo: dict[Operator, OperatorResult] = {}
        self._refused: set[str] = set()
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
            results.append(self.operator(op))
        self._check_that_pim_worked()
        roi = Roi(label, index, tokens, w.batch, n_past, results, time.perf_counter() - started)
        for r in results:
            for key, value in r.counts.items():
                roi.counts[key] = roi.counts.get(key, 0) + value
        # The mean of a train is no whole number of events; a count in a stats file is.
        roi.counts = {key: round(value) for key, value in roi.counts.items()}
        if self.experiment.system.kind != "gpu-roofline":
            cores = self.devices.cpu_params.cores
            roi.counts["system.cpu.idlePs"] = max(
                0, cores * roi.sim_ps - roi.counts["system.cpu.busyCycles"] * self.devices.cycle_ps
            )
        return roi

    # What a run says of itself --------------------------------------------------------------------------------------

    def constant_stats(self) -> dict[str, float]:
        """Gauges that every section repeats."""
        if self.experiment.system.kind == "gpu-roofline":
            return {}
        return {"system.cpu.cores": self.devices.cpu_params.cores, "system.cpu.threads": self.devices.threads}

    def stat_descriptions(self) -> dict[str, tuple[str, str]]:
        """Unit and description of every statistic, by name."""
        out = dict(_CPU_STATS)
        for device in ("dram", "sram_pim"):
            for info in getattr(_engine, f"{device}_counter_info")():
                out[f"system.{device}.{info['name']}"] = (info["unit"], info["description"])
        return out

    def calibration_origin(self) -> dict[str, str] | None:
        """Where the CPU's cycles come from; None on a system without a CPU."""
        if self.experiment.system.kind == "gpu-roofline":
            return None
        c = self.devices.cpu.calibration
        return {"name": c.name, **c.origin}

    def notes(self) -> list[str]:
        """What is not modelled, and what was measured elsewhere, for the report."""
        out = list(LOWERING_NOT_MODELLED)
        if self.experiment.system.kind == "gpu-roofline":
            return out
        out += [*CPU_NOT_MODELLED, *_engine.dram_not_modelled()]
        if self.devices.pim is not None:
            out.append(f"SRAM-PIM: {self.devices.patterns.provenance}")
            out += [
                f"SRAM-PIM: products with weights of type {t} ran on the cores: {self._why_not(t)}"
                for t in sorted(self._refused)
            ]
        return out

    def peaks(self) -> dict[str, Any]:
        """Roofs of the roofline plot: DRAM bandwidth, and each device's fastest rate at data that is always there."""
        d = self.devices
        if self.experiment.system.kind == "gpu-roofline":
            p = d.gpu.params
            return {"flops_per_s": {"gpu": p.peak_flops_per_s}, "dram_bytes_per_s": p.peak_bytes_per_s}
        fastest = max(
            2 * k.block_elements / k.cycles_per_block
            for k in d.cpu.calibration.kernels.values()
            if k.role in ("dot", "gemv", "gemm")
        )
        flops = {"cpu": fastest * d.cpu_params.clock_hz * d.threads}
        rates = self._pim_rates() if d.pim is not None else []
        if rates:
            flops["sram_pim"] = max(rates)
        return {"flops_per_s": flops, "dram_bytes_per_s": d.dram().peak_bytes_per_s}

    def _pim_rates(self) -> list[float]:
        """The arrays' rates on the products of this run with an infinitely fast memory [flop/s]."""
        probe = _engine.SramPim(self.experiment.system.values("sram_pim"))
        rates = []
        for op in self._memo:
            if self._memo[op].device == "sram_pim":
                plan = probe.plan(op.m, op.n, op.k, op.weight_type)
                t = probe.time_matmul(op.m, op.n, op.k, op.weight_type, self._hit_rate(op, plan))
                rates.append(2 * op.m * op.n * op.k / t["end_ps"] * PS)
        return rates

    # One operator -------------------------------------------------------------------------------------------------

    def operator(self, op: Operator) -> OperatorResult:
        """Time and counts of one operator, over all its occurrences; the same operator is simulated once.

        :raises DataError: no device of the system can run it
        """
        if op not in self._memo:
            self._memo[op] = self._operator(op)
        return self._memo[op]

    def _operator(self, op: Operator) -> OperatorResult:
        if self.experiment.system.kind == "gpu-roofline":
            return self._on_gpu(op)
        if self.devices.pim is not None and op.kind == "matmul" and op.weight_type is not None:
            if self.devices.pim.supports(op.weight_type):
                return self._on_pim(op)
            self._refused.add(op.weight_type)
        return self._on_cpu(op)

    def _why_not(self, weight_type: str) -> str:
        """Why the arrays do not take weights of a type."""
        if weight_type in FLOATS:
            return "the arrays multiply integers"
        p = self.experiment.system.values("sram_pim")
        return (
            f"table, staged weights and accumulator of sram_pim.nbw = {p['nbw']} need more than"
            f" sram_pim.array_rows = {p['array_rows']} (take a smaller nbw, nbw_auto = true, or more rows)"
        )

    def _check_that_pim_worked(self) -> None:
        """A run of a PIM system whose quantised products all ran on the cores would be the baseline under its name."""
        for_arrays = sorted(self._refused - set(FLOATS))
        if for_arrays and all(r.device != "sram_pim" for r in self._memo.values()):
            raise DataError(
                f"{self.experiment.system.name}: no product of {self.experiment.model.name} runs on the SRAM-PIM:"
                f" weights of type {', '.join(for_arrays)}: {self._why_not(for_arrays[0])}"
            )

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
        self, count: int, once: Callable[[Any, int], tuple[int, dict[str, float]]]
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
        # Standby time and refreshes go on while the operator computes and waits in barriers.
        dram.advance(now)
        scaled: dict[str, float] = {k: v * count / n for k, v in sums.items()}
        for key, value in dram.counters().items():
            scaled[f"system.dram.{key}"] = value * count / n
        return round(now * count / n), scaled

    def _on_cpu(self, op: Operator) -> OperatorResult:
        d = self.devices
        cost = d.cpu.cost(op, weights_resident_in_llc=self.weights_in_llc)
        moved = cost.dram_read_bytes + cost.dram_write_bytes
        llc_ps = round(cost.llc_bytes / d.llc_bytes_per_s() * PS)
        own_ps = round(moved / d.cpu.core_dram_bytes_per_s * PS)
        memory = {"ps": 0}

        def once(dram: Any, start: int) -> tuple[int, dict[str, float]]:
            dram_ps = dram.mixed(cost.dram_read_bytes, cost.dram_write_bytes, start) - start if moved else 0
            memory_ps = max(dram_ps, own_ps, llc_ps)
            memory["ps"] = memory_ps
            return start + max(cost.compute_ps, memory_ps) + cost.barrier_ps, {"memory_ps": memory_ps}

        time_ps, counts = self._train(op.count, once)
        memory_ps = round(counts.pop("memory_ps"))
        self._add_cpu(counts, cost, op.count)
        compute_ps = cost.compute_ps * op.count
        limiter = "compute"
        if memory_ps > compute_ps:
            limiter = (
                "llc"
                if llc_ps > max(own_ps, memory["ps"] - 1)
                else "core_bandwidth"
                if own_ps >= memory["ps"]
                else "dram"
            )
        return OperatorResult(
            op, "cpu", time_ps, compute_ps, memory_ps, cost.barrier_ps * op.count, limiter,
            cost.dram_read_bytes * op.count, cost.dram_write_bytes * op.count, 0, counts,
        )  # fmt: skip

    @staticmethod
    def _add_cpu(counts: dict[str, float], cost: CpuCost, times: int) -> None:
        """Add the core's counts of `times` occurrences."""
        for key, value in {
            "system.cpu.busyCycles": cost.busy_cycles,
            **{f"system.cpu.instructions::{kind}": n for kind, n in cost.instructions.items()},
            "system.l1d.bytes": cost.l1_bytes,
            "system.l2.bytes": cost.l2_bytes,
            "system.llc.bytes": cost.llc_bytes,
        }.items():
            counts[key] = counts.get(key, 0) + value * times

    def _on_pim(self, op: Operator) -> OperatorResult:
        """A matrix product on the C-SRAM arrays: `instances` products of [m, k] x [n, k]^T, one after another."""
        d = self.devices
        assert op.weight_type is not None
        plan = _made(d.system, lambda: d.pim.plan(op.m, op.n, op.k, op.weight_type))
        hit_rate = self._hit_rate(op, plan)
        quant = d.cpu.quantize(op.instances * op.m, op.k, op.weight_type)
        commands = plan["tiles"] * op.instances
        # One lutmm a product: the device itself makes the tile commands of it.
        issued = math.ceil(op.instances / d.threads) * d.pim_host.issue_cycles + d.pim_host.wait_cycles
        overhead_ps = quant.compute_ps + quant.barrier_ps + round(issued * d.cycle_ps)
        bytes_each = op.weight_bytes // op.instances
        device = {"compute_ps": 0, "load_ps": 0, "cpu_ps": 0}
        pim_counts: dict[str, int] = {}

        def once(dram: Any, start: int) -> tuple[int, dict[str, float]]:
            now = start + overhead_ps
            sums: dict[str, float] = dict.fromkeys(device, 0)
            for instance in range(op.instances):
                t = d.pim.time_matmul(
                    op.m, op.n, op.k, op.weight_type, hit_rate, dram, instance * bytes_each, now
                )  # fmt: skip
                values = t["counters"]["cpu_converts"]
                convert = values * d.pim_host.convert_cycles / d.threads * d.cycle_ps
                from_llc = values * _SUM_BYTES / d.llc_bytes_per_s() * PS
                now = t["end_ps"] + round(max(convert, from_llc))
                sums["compute_ps"] += t["compute_ps"]
                sums["load_ps"] += t["load_ps"]
                sums["cpu_ps"] += round(max(convert, from_llc))
                for key, value in t["counters"].items():
                    sums[key] = sums.get(key, 0) + value
            pim_counts.update(dict.fromkeys(t["counters"], 0))
            return now, sums

        time_ps, counts = self._train(op.count, once)
        compute, load, cpu_ps = (round(counts.pop(k)) for k in device)
        stats = {(f"system.sram_pim.{k}" if k in pim_counts else k): v for k, v in counts.items()}
        # Every core waits in `lutmm` without spinning; only quantisation, issue and conversion are core work.
        self._add_cpu(stats, quant, op.count)
        converts = counts["cpu_converts"]
        stats["system.cpu.busyCycles"] += issued * d.threads * op.count + converts * d.pim_host.convert_cycles
        stats["system.cpu.instructions::scalar"] += op.instances * d.pim_host.issue_cycles * op.count
        for kind, each in _CONVERT_INSTRUCTIONS.items():
            stats[f"system.cpu.instructions::{kind}"] += converts * each
        for level in ("l1d", "l2", "llc"):
            stats[f"system.{level}.bytes"] += converts * _SUM_BYTES
        limiter = "overhead"
        if time_ps > 2 * overhead_ps * op.count:
            limiter = "compute" if compute >= load else "memory"
        return OperatorResult(
            op, "sram_pim", time_ps, compute, load, overhead_ps * op.count + cpu_ps, limiter,
            round(counts["system.dram.read_bytes"]), round(counts["system.dram.write_bytes"]), commands * op.count,
            stats,
        )  # fmt: skip

    def _hit_rate(self, op: Operator, plan: dict[str, Any]) -> float:
        p = self.experiment.system.values("sram_pim")
        if not p["prt_enable"]:
            return 0.0
        if p["prt_policy"] != "lru" and 2 ** plan["nbw"] > p["prt_entries"]:
            raise DataError(
                f"sram_pim.prt_policy = {p['prt_policy']!r}: hit rates were recorded for lru; with {p['prt_entries']}"
                f" entries and nbw = {plan['nbw']} entries are replaced, so the policy matters"
                " (raise prt_entries or use lru)"
            )
        return self.devices.patterns.hit_rate(
            op.name.removesuffix("_exps"),
            plan["nbw"],
            p["activation_bits"],
            p["prt_scope"],
            min(op.m, plan["vectors_per_pass"]),
            p["prt_entries"],
            activation_type=ACTIVATION_TYPE[op.weight_type or ""],
        )

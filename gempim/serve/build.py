"""From a resolved experiment to the models that serve it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gempim.engines.xpu import Xpu, XpuParams
from gempim.quantity import DataError
from gempim.serve.collectives import LinkParams, Links
from gempim.serve.gate import Gate
from gempim.serve.pim import PimUnit
from gempim.serve.placement import ModelSizes, Placement, PlacementParams
from gempim.serve.policy import PolicyParams
from gempim.serve.requests import Lengths
from gempim.serve.scheduler import Scheduler
from gempim.serve.serve import Arrivals, Served, serve, serve_split
from gempim.serve.spec import ServeExperiment
from gempim.serve.stage import StageModel
from gempim.systems import System

PIM = "logic_pim"
"""Name of the PIM in rows and statistics."""

MakePim = Callable[[System], PimUnit]


@dataclass
class Server:
    """Everything that serves one experiment."""

    experiment: ServeExperiment
    model: ModelSizes
    stages: StageModel
    decode: StageModel | None
    links: Links
    capacity_tokens: int
    prefill_capacity: int

    @property
    def pim(self) -> PimUnit | None:
        """The PIM of every device."""
        return self.stages.pim

    def peaks(self) -> dict[str, dict[str, float]]:
        """Roofs of one device by unit: operations a second and bytes of memory a second."""
        p = self.stages.xpu.params
        out = {"xpu": {"ops_per_s": p.peak_flops_per_s, "bytes_per_s": p.peak_bytes_per_s}}
        if self.pim is not None:
            out[self.pim.name] = dict(self.pim.peaks)
        return out

    def not_modelled(self) -> list[str]:
        """What the PIM's device model leaves out."""
        return list(self.pim.not_modelled) if self.pim is not None else []

    def run(self, progress: Callable[[int, int], None] | None = None) -> Served:
        """Serve all requests. The same experiment gives the same picoseconds and counts."""
        e = self.experiment
        r, s = e.requests, e.scheduler
        lengths = Lengths(r.input, r.output, r.deviation, r.seed)
        arrivals = Arrivals(lengths, r.count, qps=e.qps, clients=s.max_batch)
        scheduler = Scheduler(
            max_batch=s.max_batch,
            capacity_tokens=self.capacity_tokens,
            nodes=1 if self.decode is not None else self.stages.placement.nodes,
            prefill_tokens=s.prefill_tokens,
        )
        steady = s.start == "steady"
        if self.decode is None:
            return serve(self.stages, scheduler, arrivals, steady=steady, progressed=progress)
        return serve_split(
            self.stages, self.decode, scheduler, arrivals, self.links,
            kv_bytes=self.model.kv_bytes, prefill_capacity=self.prefill_capacity, steady=steady, progressed=progress,
        )  # fmt: skip


def build(experiment: ServeExperiment, *, make_pim: MakePim | None = None, reuse: bool = True) -> Server:
    """The models of an experiment.

    :param make_pim: makes the PIM of a system; default: the device model of `gempim.engines.logic_pim`
    :param reuse: see `StageModel`
    :raises DataError: the model does not fit, or does not divide over the devices
    """
    system, model = experiment.system, ModelSizes.of(experiment.model)
    xpu = Xpu(XpuParams(**system.values("xpu")))
    link_params = LinkParams(**system.values("link"))
    links = Links(link_params)
    policy = PolicyParams(**system.values("policy")) if "policy" in system.sections else None
    tensor = PlacementParams(**system.values("placement")).expert_tensor
    mode = policy.mode if policy is not None else "duplex"
    devices = experiment.devices
    if mode != "duplex" and devices % 2:
        raise DataError(f"{system.name}: policy.mode = {mode!r} halves the devices; {devices} is odd")
    if mode == "hetero" and devices > link_params.devices_per_node:
        raise DataError(f"{system.name}: policy.mode = 'hetero' is for one node; {devices} devices are more")
    halves = devices // 2 if mode == "split" else devices
    placement = Placement.of(
        model, halves, link_params.devices_per_node, expert_tensor=tensor, hetero=mode == "hetero"
    )  # fmt: skip
    if mode == "split" and placement.nodes > 1:
        raise DataError(f"{system.name}: policy.mode = 'split' is for halves of one node; {halves} devices are more")
    pim = (make_pim or default_pim)(system) if policy is not None else None

    def stage_model(chosen: PolicyParams | None) -> StageModel:
        gate = None
        if model.experts:
            r = experiment.routing
            gate = Gate(model.experts, model.experts_used, model.moe_layers, r.exponent, r.seed)
        return StageModel(
            model, placement, xpu, links, gate,
            pim=pim, policy=chosen, activation=experiment.model.act, reuse=reuse,
        )  # fmt: skip

    memory, reserved = xpu.params.memory_bytes, xpu.params.reserved_bytes
    capacity = placement.capacity_tokens(model, memory, reserved)
    decode = None
    if mode == "split" and policy is not None:
        # Its KV cache goes over the links; nothing moves between the memory spaces of one device.
        decode = stage_model(policy)
        stages = stage_model(replace(policy, kv_migration=False))
    else:
        stages = stage_model(policy)
    return Server(experiment, model, stages, decode, links, capacity, capacity)


def default_pim(system: System) -> PimUnit:
    """The PIM of a system, by the device model that its parameters describe."""
    from gempim import _engine
    from gempim.engines.logic_pim import LogicPim

    xpu = XpuParams(**system.values("xpu"))
    values, dram = system.values("logic_pim"), system.values("dram")
    pseudo_channels = system.values("memory")["channels"] * dram["subchannels"]
    if pseudo_channels % values["pseudo_channels"]:
        raise DataError(
            f"{system.name}: memory.channels x dram.subchannels = {pseudo_channels}: not a multiple of"
            f" logic_pim.pseudo_channels = {values['pseudo_channels']}, those of a stack"
        )
    device = LogicPim(values, dram, pseudo_channels // values["pseudo_channels"])
    described = {
        f"system.{PIM}.{info['name']}": (info["unit"], info["description"]) for info in _engine.logic_pim_counter_info()
    }
    return PimUnit(
        device,
        PIM,
        bytes_per_s=xpu.peak_bytes_per_s * xpu.bandwidth_efficiency,
        descriptions=described,
        peaks={"ops_per_s": device.peak_flops_per_s, "bytes_per_s": device.stream_peak_bytes_per_s},
        not_modelled=_engine.logic_pim_not_modelled(),
    )

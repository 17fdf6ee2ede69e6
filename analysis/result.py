"""The figures of one run: tokens per second, joules per token, dollars per million tokens, and where they come from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gempim.analysis.cost import (
    Hourly,
    PriceTable,
    apply_overrides,
    hourly_price,
    tokens_per_usd,
    usd_per_million_tokens,
)
from gempim.analysis.energy import Energy, EnergyTable, boundary, measure_energy
from gempim.analysis.run import Roi, Run, RunError
from gempim.analysis.uncertainty import Error, error_of
from gempim.quantity import DataError

SCHEMA = 1
"""Schema version of result.json."""

PS_PER_S = 1e12

# Operators and statistics count the same DRAM traffic; they may differ by whole bursts.
_TRAFFIC_TOLERANCE = 0.05
_MEMORY_NAME = re.compile(r"\b(?:lp|g)?ddr\d-\d{3,5}\b|\bhbm\d\w*-\d{3,5}\b", re.IGNORECASE)


@dataclass(frozen=True)
class Phase:
    """Prefill or decode of one run.

    `tokens` is summed over the batch. `tokens_per_s` is tokens over time; `tokens_per_s_std` is the sample standard
    deviation of the rates of the single regions of interest, None when there is only one. Energy in joules per token by
    component, times in ps by operator and by device. `pim_commands` shows that the PIM path ran. `rate_error` is of
    tokens per second and what follows from it, `energy_error` of joules per token.
    """

    label: str
    test: str
    tokens: int
    steps: int
    sim_ps: int
    tokens_per_s: float
    tokens_per_s_std: float | None
    energy: Energy
    usd_per_million_tokens: float
    tokens_per_usd: float
    time_ps_by_operator: dict[str, int]
    time_ps_by_device: dict[str, int]
    pim_commands: int
    rate_error: Error = field(default_factory=Error)
    energy_error: Error = field(default_factory=Error)

    @property
    def j_per_token(self) -> float:
        """Joules per token; a lower bound when `energy.is_lower_bound`."""
        return self.energy.total_j / self.tokens

    def j_per_token_by_component(self, depth: int = 2) -> dict[str, float]:
        """Joules per token by component, see `Energy.by_component`."""
        return {name: joules / self.tokens for name, joules in self.energy.by_component(depth).items()}


@dataclass(frozen=True)
class Result:
    """The figures of one run, with the tables that made them and what a reader must be warned of."""

    run: Run
    energy_table: EnergyTable
    price_table: PriceTable
    hourly: Hourly
    utilisation: float
    prefill: Phase | None
    decode: Phase | None
    boundary: str
    warnings: tuple[str, ...]

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that the run has, prefill first."""
        return tuple(phase for phase in (self.prefill, self.decode) if phase is not None)

    @property
    def ttft_s(self) -> float | None:
        """Time to first token [s]: all of prefill, whose last position gives the first token. None without prefill."""
        return None if self.prefill is None else self.prefill.sim_ps / PS_PER_S

    def to_json(self) -> dict[str, Any]:
        """The content of result.json (schema 1): plain values, units in the names."""
        experiment = self.run.experiment
        price = self.hourly.price
        return {
            "schema": SCHEMA,
            "run": self.run.name,
            "experiment_hash": self.run.manifest["experiment_hash"],
            "system": self.run.system,
            "engine": experiment["engine"],
            "ttft_s": self.ttft_s,
            "phases": {phase.label: _phase_json(phase) for phase in self.phases},
            "energy_table": {
                "name": self.energy_table.name,
                "sha256": self.energy_table.sha256,
                "overrides": dict(self.energy_table.overrides),
            },
            "energy_boundary": self.boundary,
            "price": {
                "table": self.price_table.name,
                "sha256": self.price_table.sha256,
                "key": price.key,
                "provider": price.provider,
                "instance": price.instance,
                "region": price.region,
                "date": price.date,
                "status": price.status,
                "usd_per_hour": self.hourly.usd_per_hour,
                "formula": self.hourly.formula,
                "utilisation": self.utilisation,
            },
            "warnings": list(self.warnings),
        }


def evaluate(
    run: Run,
    energy_table: EnergyTable,
    prices: PriceTable,
    price_override: Mapping[str, float] | None = None,
    utilisation: float = 1.0,
    *,
    strict: bool = False,
) -> Result:
    """The figures of a run.

    `price_override` as in `cost.apply_overrides`; `utilisation` is the share of the paid time in which tokens are made
    (1.0: all of it). With `strict`, unknown energy is an error.

    Raises RunError when a PIM device of the run has no commands (then the run did not measure what it claims),
    DataError when the energy table is for another memory than the run's, and what `cost` and `energy` raise.
    """
    check_pim_commands(run)
    _check_memory(run, energy_table)
    _check_parameters(run, energy_table)
    prices = apply_overrides(prices, price_override)
    hourly = hourly_price(run, prices)
    phases = {
        label: _phase(run, rois, energy_table, hourly, utilisation, strict)
        for label in ("prefill", "decode")
        if (rois := run.rois_of(label))
    }
    whole = measure_energy(run.sections, energy_table)
    return Result(
        run=run,
        energy_table=energy_table,
        price_table=prices,
        hourly=hourly,
        utilisation=utilisation,
        prefill=phases.get("prefill"),
        decode=phases.get("decode"),
        boundary=boundary(energy_table, whole),
        warnings=(*_warnings(run, hourly, whole), *_unknown_errors(run, phases.values())),
    )


def check_pim_commands(run: Run) -> None:
    """Raise RunError unless every PIM device of the run was given commands, by operators and by its own counter."""
    for device in run.pim_devices():
        operators = [op for roi in run.rois for op in roi.operators if op.device == device]
        silent = next((op for op in operators if op.pim_commands == 0), None)
        if silent is not None:
            raise RunError(f"{run.path}: operator {silent.name} is on {device} but gave it no command")
        if not operators:
            raise RunError(f"{run.path}: the system has {device}, but no operator ran on it: 0 commands")
        counter = f"system.{device}.commands"
        counted = [section.get(counter) for section in run.sections if counter in section]
        if not counted or not sum(counted):
            raise RunError(f"{run.path}: {counter} is 0 or missing: the {device} path did not run")


def _phase(
    run: Run, rois: tuple[Roi, ...], table: EnergyTable, hourly: Hourly, utilisation: float, strict: bool
) -> Phase:
    tokens = sum(roi.tokens for roi in rois)
    sim_ps = sum(roi.sim_ps for roi in rois)
    rate = tokens / (sim_ps / PS_PER_S)
    rates = [roi.tokens / (roi.sim_ps / PS_PER_S) for roi in rois]
    operators: dict[str, int] = {}
    devices: dict[str, int] = {}
    for roi in rois:
        for op in roi.operators:
            operators[op.name] = operators.get(op.name, 0) + op.time_ps
            devices[op.device] = devices.get(op.device, 0) + op.time_ps
    each = [measure_energy([run.section_of(roi)], table) for roi in rois]
    joules = [found.total_j / roi.tokens for found, roi in zip(each, rois, strict=True)]
    where, label = str(run.path / "manifest.json"), rois[0].label
    return Phase(
        label=label,
        test=test_name(rois),
        tokens=tokens,
        steps=len(rois),
        sim_ps=sim_ps,
        tokens_per_s=rate,
        tokens_per_s_std=_sample_std(rates),
        energy=measure_energy([run.section_of(roi) for roi in rois], table, strict=strict),
        usd_per_million_tokens=usd_per_million_tokens(rate, hourly.usd_per_hour, utilisation),
        tokens_per_usd=tokens_per_usd(rate, hourly.usd_per_hour, utilisation),
        time_ps_by_operator=operators,
        time_ps_by_device=devices,
        pim_commands=sum(op.pim_commands for roi in rois for op in roi.operators),
        rate_error=error_of(run.manifest, label, rates, where),
        energy_error=error_of(run.manifest, label, joules if all(joules) else (), where),
    )


def test_name(rois: tuple[Roi, ...]) -> str:
    """The test as llama-bench names it: ``pp512``, ``tg16 @ d512`` (tokens of one sequence, at a depth of d tokens)."""
    tokens = sum(roi.tokens // roi.batch for roi in rois)
    prefix = "pp" if rois[0].label == "prefill" else "tg"
    depth = rois[0].context
    return f"{prefix}{tokens}" + (f" @ d{depth}" if depth else "")


# pytest must not take this for a test of its own when a test module imports it.
test_name.__test__ = False  # type: ignore[attr-defined]


def _sample_std(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _check_memory(run: Run, table: EnergyTable) -> None:
    if table.memory is None:
        return
    named = {name.lower() for text in _texts(run.experiment["system"]) for name in _MEMORY_NAME.findall(text)}
    if named and table.memory.lower() not in named and any("system.dram.acts" in s for s in run.sections):
        raise DataError(
            f"{run.path}: the system's memory is {', '.join(sorted(named))}, but energy table {table.name} is for "
            f"{table.memory} (system.energy_table in the system's file names another; data/energy has the shipped ones)"
        )


def _check_parameters(run: Run, table: EnergyTable) -> None:
    """An energy that was derived for one geometry must not be applied to another one."""
    for name, dotted in table.must_equal.items():
        try:
            simulated = run.lookup(f"experiment.system.{dotted}")
        except RunError:
            continue  # a system without that device
        if float(simulated) != table.inputs[name].as_float():
            raise DataError(
                f"{run.path}: the system has {dotted} = {simulated}, but energy table {table.name} is for "
                f"{table.inputs[name].value}; override its input {name}={simulated}"
            )


def _texts(value: Any) -> list[str]:
    """Texts that say what the system is; the sources of its numbers may name other memories."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [t for key, v in value.items() if key not in ("source", "scope", "description") for t in _texts(v)]
    if isinstance(value, list | tuple):
        return [t for item in value for t in _texts(item)]
    return []


def _warnings(run: Run, hourly: Hourly, energy: Energy) -> list[str]:
    warnings = []
    price = hourly.price
    if price.user_set:
        warnings.append(f"The price of {price.instance} was set by the user.")
    elif not price.verified:
        warnings.append(
            f"The price {price.usd_per_hour.as_float():g} USD/h of {price.provider} {price.instance} has no verified "
            f"source (entered {price.date}: {price.usd_per_hour.source})."
        )
    sampling = run.manifest.get("sampling") or {}
    warnings += [f"{run.name}: {text}" for text in sampling.get("warnings", ())]
    if energy.unknown:
        warnings.append(f"{run.system}: energy is a lower bound, nothing is known for: {', '.join(energy.unknown)}.")
    for direction in ("read", "write"):
        stat = f"system.dram.{direction}_bytes"
        counted = sum(section.get(stat) for section in run.sections if stat in section)
        listed = sum(getattr(op, f"dram_{direction}_bytes") for roi in run.rois for op in roi.operators)
        if counted and abs(counted - listed) > _TRAFFIC_TOLERANCE * max(counted, listed):
            warnings.append(
                f"{run.system}: operators list {listed:.4g} DRAM {direction} bytes, but {stat} is {counted:.4g}: "
                "one of the two misses traffic."
            )
    return warnings


def _unknown_errors(run: Run, phases: Iterable[Phase]) -> list[str]:
    return [
        f"{run.name}: {phase.label} was estimated from measured layers of which no two are of one kind: the error of "
        "that is unknown."
        for phase in phases
        if phase.rate_error.unknown
    ]


def _phase_json(phase: Phase) -> dict[str, Any]:
    return {
        "test": phase.test,
        "tokens": phase.tokens,
        "steps": phase.steps,
        "sim_ps": phase.sim_ps,
        "tokens_per_s": phase.tokens_per_s,
        "tokens_per_s_std": phase.tokens_per_s_std,
        "rate_error": dict(phase.rate_error.parts),
        "rate_error_half_width": phase.rate_error.half,
        "energy_error": dict(phase.energy_error.parts),
        "energy_error_half_width": phase.energy_error.half,
        "energy_j": phase.energy.total_j,
        "energy_is_lower_bound": phase.energy.is_lower_bound,
        "energy_unknown": list(phase.energy.unknown),
        "j_per_token": phase.j_per_token,
        "j_per_token_by_component": phase.j_per_token_by_component(),
        "usd_per_million_tokens": phase.usd_per_million_tokens,
        "tokens_per_usd": phase.tokens_per_usd,
        "time_ps_by_operator": phase.time_ps_by_operator,
        "time_ps_by_device": phase.time_ps_by_device,
        "pim_commands": phase.pim_commands,
    }

"""Serving experiments: a system, a model, a stream of requests. Strict TOML, or the same keys from the command line.
line.

::

    [serve]
    name = "QPS sweep"             # optional; free text
    system = "duplex"              # a shipped system, or a path to a TOML file; or systems = [...], the baseline first
    devices = 4

    [model]
    name = "mixtral-8x7b"          # a shipped shape; weights and KV cache are FP16

    [requests]
    arrivals = "poisson"           # or "closed": a fixed number of clients, [scheduler] max_batch
    qps = [4, 6, 8]                # requests a second, one or several; with "poisson"
    count = 1000                   # requests that are answered before the run ends
    input = 4096                   # mean prompt [tokens]
    output = 512                   # mean answer [tokens]
    deviation = 0.1                # standard deviation of both lengths, as a share of the mean
    seed = 0

    [scheduler]
    max_batch = 128                # sequences at a time, over all devices
    prefill_tokens = 0             # most prompt tokens that join one stage; 0: no limit
    start = "empty"                # or "steady": a closed loop that starts in the middle of a long run

    [routing]
    exponent = 0.0                 # Zipf exponent of the experts' popularity; 0 is uniform
    seed = 0

    [set]                          # any parameter of the systems that have its section
    "policy.moe" = "coprocess-paper"
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gempim.models import ModelSpec, list_models, load_model
from gempim.quantity import DataError, load_toml, suggest
from gempim.systems import System, load_system

QUANT = "f16"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ServeHead(_Strict):
    """`[serve]`."""

    name: str = ""
    system: str | None = None
    systems: list[str] | None = None
    devices: int = Field(default=4, ge=1, le=64)

    @model_validator(mode="after")
    def _one_of(self) -> ServeHead:
        if (self.system is None) == (self.systems is None):
            raise ValueError("give either system or systems")
        if self.systems is not None and not self.systems:
            raise ValueError("systems is empty")
        return self


class ServeModel(_Strict):
    """`[model]`."""

    name: str


class Requests(_Strict):
    """`[requests]`: the stream of requests."""

    arrivals: Literal["poisson", "closed"] = "closed"
    qps: list[float] = []
    count: int = Field(default=256, ge=1, le=1_000_000)
    input: int = Field(default=1024, ge=1, le=1_000_000)
    output: int = Field(default=256, ge=1, le=1_000_000)
    deviation: float = Field(default=0.1, ge=0, le=1)
    seed: int = Field(default=0, ge=0)

    @field_validator("qps", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        values = value if isinstance(value, list) else [value]
        return [float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in values]

    @model_validator(mode="after")
    def _rate(self) -> Requests:
        if self.arrivals == "poisson" and not self.qps:
            raise ValueError("qps is missing; it goes with arrivals = 'poisson'")
        if self.arrivals == "closed" and self.qps:
            raise ValueError("qps goes with arrivals = 'poisson'")
        if any(not 1e-6 <= rate <= 1e6 for rate in self.qps):
            raise ValueError("qps: expected rates of 1e-6 to 1e6 a second")
        return self


class SchedulerChoice(_Strict):
    """`[scheduler]`."""

    max_batch: int = Field(default=32, ge=1, le=8192)
    prefill_tokens: int = Field(default=0, ge=0, le=10_000_000)
    start: Literal["empty", "steady"] = "empty"


class RoutingChoice(_Strict):
    """`[routing]`."""

    exponent: float = Field(default=0.0, ge=0, le=10)
    seed: int = Field(default=0, ge=0)


class ServeFile(_Strict):
    """A whole serving experiment."""

    serve: ServeHead
    model: ServeModel
    requests: Requests = Requests()
    scheduler: SchedulerChoice = SchedulerChoice()
    routing: RoutingChoice = RoutingChoice()
    set: dict[str, int | float | bool | str] = {}

    @model_validator(mode="after")
    def _steady(self) -> ServeFile:
        if self.scheduler.start == "steady" and self.requests.arrivals != "closed":
            raise ValueError("scheduler.start = 'steady' goes with arrivals = 'closed'")
        return self


_SECTIONS: dict[str, type[_Strict]] = {
    "serve": ServeHead,
    "model": ServeModel,
    "requests": Requests,
    "scheduler": SchedulerChoice,
    "routing": RoutingChoice,
}


@dataclass(frozen=True)
class ServeExperiment:
    """One resolved run: everything that decides its result. `qps` is None for a closed loop."""

    name: str
    system: System
    devices: int
    model: ModelSpec
    requests: Requests
    qps: float | None
    scheduler: SchedulerChoice
    routing: RoutingChoice

    def to_json(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        m = self.model
        return {
            "system": self.system.to_json(),
            "devices": self.devices,
            "model": {
                "name": m.name,
                "arch": m.arch,
                "quant": m.quant,
                "params": m.params,
                "bytes": m.bytes,
                "n_layers": m.n_layers,
            },
            "requests": {**self.requests.model_dump(exclude={"qps"}), "qps": self.qps},
            "scheduler": self.scheduler.model_dump(),
            "routing": self.routing.model_dump(),
        }

    def slug(self) -> str:
        """Readable part of the run directory's name."""
        r, s = self.requests, self.scheduler
        rate = f"-qps{self.qps:g}" if self.qps is not None else ""
        return (
            f"serve-{self.system.name}-x{self.devices}-{self.model.name}-b{s.max_batch}-in{r.input}-out{r.output}{rate}"
        )

    def hash(self, extra: Mapping[str, str]) -> str:
        """Twelve hex digits that name the run: its resolved values and the hashes of what computes it."""
        doc = self.to_json()
        system = self.system
        doc["system"] = {
            **{key: getattr(system, key) for key in ("name", "kind", "energy_table", "price")},
            **{section: system.values(section) for section in system.sections},
        }
        text = json.dumps({"serve": doc, "extra": dict(extra)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _explain(err: ValidationError, where: str) -> DataError:
    first = err.errors()[0]
    key = ".".join(str(p) for p in first["loc"]) or "(file)"
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        section = _SECTIONS.get(str(first["loc"][0])) if len(first["loc"]) > 1 else ServeFile
        allowed = list(section.model_fields) if section else []
        message = f"unknown key{suggest(str(first['loc'][-1]), allowed)} (allowed: {', '.join(allowed)})"
    elif first["type"] == "missing":
        message = "missing"
    elif not isinstance(first["input"], dict | BaseModel):
        message = f"{message}, got {first['input']!r}"
    return DataError(f"{where}: {key}: {message}")


@cache
def _model(name: str) -> ModelSpec:
    """A shipped shape, built once a process."""
    return load_model(name, QUANT)


def split_name(text: str) -> tuple[str, int | None]:
    """A system and, after ``@``, its number of devices: ``gpu-h100@8``. Raises DataError for what is no number."""
    if text.endswith(".toml") or "@" not in text:
        return text, None
    name, _, devices = text.rpartition("@")
    try:
        count = int(devices)
    except ValueError:
        count = 0
    if not 1 <= count <= 64:
        raise DataError(f"system {text!r}: expected NAME@DEVICES with 1 to 64 devices, for example gpu-h100@8")
    return name, count


def resolve_serve(doc: Mapping[str, Any], *, origin: str, base_dir: Path | None = None) -> list[ServeExperiment]:
    """Check a document; its runs: every system at every rate, the first system's first.

    :raises DataError: anything unknown, missing or impossible, naming origin, key and what is allowed
    """
    try:
        spec = ServeFile.model_validate(dict(doc))
    except ValidationError as err:
        raise _explain(err, origin) from None
    if spec.model.name not in list_models():
        hint = suggest(spec.model.name, list_models())
        raise DataError(f"{origin}: model.name: no shipped model {spec.model.name!r}{hint} (see gempim models)")
    model = _model(spec.model.name)
    names = spec.serve.systems if spec.serve.systems is not None else [str(spec.serve.system)]
    systems = [_system(text, spec, origin, base_dir or Path.cwd()) for text in names]
    used = {key for _, _, keys in systems for key in keys}
    for key in spec.set:
        if key not in used:
            sections = sorted({section for system, _, _ in systems for section in system.sections})
            raise DataError(f"{origin}: set.{key}: no system here has that section (they have {', '.join(sections)})")
    rates: list[float | None] = [*spec.requests.qps] if spec.requests.arrivals == "poisson" else [None]
    return [
        ServeExperiment(
            spec.serve.name, system, devices, model, spec.requests, rate, spec.scheduler, spec.routing
        )
        for system, devices, _ in systems
        for rate in rates
    ]  # fmt: skip


def _system(text: str, spec: ServeFile, origin: str, base: Path) -> tuple[System, int, set[str]]:
    """A system with the overrides that concern it, its devices, and the keys of those overrides."""
    name, devices = split_name(text)
    system = load_system(str(base / name) if name.endswith(".toml") else name)
    if "xpu" not in system.sections:
        raise DataError(
            f"{origin}: serve.system: {system.name} has no xPU; gempim serve needs one (see gempim systems)"
        )
    used = set()
    for key, raw in spec.set.items():
        if key.removeprefix("system.").partition(".")[0] in system.sections:
            system = system.with_override(key.removeprefix("system."), raw, origin=origin)
            used.add(key)
    return system, devices or spec.serve.devices, used


def load_serve(path: Path) -> list[ServeExperiment]:
    """The runs of a serving experiment's file. :raises DataError: see :func:`resolve_serve`"""
    return resolve_serve(load_toml(path), origin=str(path), base_dir=path.parent)

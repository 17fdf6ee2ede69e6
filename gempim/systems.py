"""Systems: the hardware that is simulated, read from strict TOML data files.

A system file has a `[system]` head and one table a device. Every number is `{ value, unit, scope, source, kind }`
(see :mod:`gempim.quantity`). A device's keys are the parameters that the device model itself lists, so a key that no
model reads cannot be written, and a parameter that a model needs cannot be left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from gempim import _engine
from gempim.engines.cpu import CpuParams
from gempim.engines.gpu import GpuParams
from gempim.engines.host import LlcParams, PimHostParams
from gempim.engines.xpu import XpuParams
from gempim.quantity import DataError, Quantity, check_keys, load_toml, parse_quantity, suggest
from gempim.serve.collectives import LinkParams
from gempim.serve.placement import PlacementParams
from gempim.serve.policy import PolicyParams

DATA = Path(__file__).parent / "data"

KINDS = {
    "cpu": ("cpu", "llc", "memory"),
    "cpu+sram_pim": ("cpu", "llc", "memory", "sram_pim", "pim_host"),
    "gpu-roofline": ("gpu",),
    "xpu": ("xpu", "link", "placement"),
    "xpu+logic_pim": ("xpu", "link", "placement", "policy", "memory", "logic_pim"),
}


@dataclass(frozen=True)
class FieldSpec:
    """One parameter of a device: its unit, meaning and range, as the model states them."""

    name: str
    unit: str
    description: str
    min: float
    max: float
    type: str


def _from_dataclass(cls: Any) -> list[FieldSpec]:
    out = []
    for f in fields(cls):
        m = f.metadata
        kind = {"int": "int", "float": "float", "bool": "bool", "str": "str"}[str(f.type)]
        out.append(FieldSpec(f.name, m["unit"], m["description"], m.get("min", 0), m.get("max", float("inf")), kind))
    return out


def _from_engine(infos: list[dict[str, Any]]) -> list[FieldSpec]:
    return [FieldSpec(**i) for i in infos]


_SCHEMAS: dict[str, Callable[[], list[FieldSpec]]] = {
    "cpu": lambda: _from_dataclass(CpuParams),
    "llc": lambda: _from_dataclass(LlcParams),
    "pim_host": lambda: _from_dataclass(PimHostParams),
    "gpu": lambda: _from_dataclass(GpuParams),
    "xpu": lambda: _from_dataclass(XpuParams),
    "link": lambda: _from_dataclass(LinkParams),
    "placement": lambda: _from_dataclass(PlacementParams),
    "policy": lambda: _from_dataclass(PolicyParams),
    "dram": lambda: _from_engine(_engine.dram_param_info()),
    "sram_pim": lambda: _from_engine(_engine.sram_pim_param_info()),
    "logic_pim": lambda: _from_engine(_engine.logic_pim_param_info()),
}


@cache
def section_schema(section: str) -> Mapping[str, FieldSpec]:
    """The parameters of one device section, by name. :raises KeyError: no such section"""
    return {f.name: f for f in _SCHEMAS[section]()}


@dataclass(frozen=True)
class System:
    """One resolved system: every parameter of every device, each with unit, scope and source."""

    name: str
    title: str
    kind: str
    description: str
    energy_table: str
    price: str
    not_modelled: tuple[str, ...]
    sections: Mapping[str, Mapping[str, Quantity]]
    path: Path

    def values(self, section: str) -> dict[str, Any]:
        """Plain values of one section, for the device model's constructor."""
        return {k: q.value for k, q in self.sections[section].items()}

    def with_override(self, key: str, raw: Any, *, origin: str) -> System:
        """This system with one parameter replaced.

        :param key: `section.parameter`, for example `sram_pim.nbw`
        :param origin: what names the override in an error and in the run's manifest, for example `--set`
        :raises DataError: unknown section or parameter, wrong type, out of range
        """
        section, _, name = key.partition(".")
        if section not in self.sections:
            raise DataError(
                f"{origin}: system.{key}: system {self.name} has no section {section!r};"
                f" it has {', '.join(sorted(self.sections))}"
            )
        schema = _MEMORY_SCHEMA if section == "memory" else section_schema(section)
        if name not in schema:
            raise DataError(f"{origin}: system.{key}: unknown parameter{_allowed(name, schema)}")
        spec = schema[name]
        q = Quantity(
            value=_coerce(raw, spec, where=f"{origin}: system.{key}"),
            unit=spec.unit,
            scope=self.sections[section][name].scope,
            source=f"set by {origin}",
            kind="choice",
        )
        new = {**self.sections[section], name: q}
        if section == "memory" and name == "standard":
            # Parameters of the timing set that were set on their own (in a file, on the command line) stay set.
            old = load_dram(str(self.sections[section][name].value))
            own = {k: v for k, v in self.sections["dram"].items() if v != old[k]}
            sections = {**self.sections, "memory": new, "dram": {**load_dram(str(q.value)), **own}}
            table = _energy_table_for(self.energy_table, str(self.sections[section][name].value), str(q.value))
            return replace(self, sections=sections, energy_table=table)
        return replace(self, sections={**self.sections, section: new})

    def to_json(self) -> dict[str, Any]:
        """The resolved system as plain data: what a manifest stores and what names a run."""
        return {
            "name": self.name,
            "title": self.title,
            "kind": self.kind,
            "energy_table": self.energy_table,
            "price": self.price,
            "not_modelled": list(self.not_modelled),
            **{s: {k: _quantity_json(q) for k, q in sec.items()} for s, sec in self.sections.items()},
        }


_MEMORY_SCHEMA = {
    "standard": FieldSpec("standard", "name", "timing set in data/dram", 0, 0, "str"),
    "channels": FieldSpec("channels", "channels", "DRAM channels of the socket or device", 1, 1024, "int"),
}


def _quantity_json(q: Quantity) -> dict[str, Any]:
    return {"value": q.value, "unit": q.unit, "scope": q.scope, "source": q.source, "kind": q.kind}


def _allowed(name: str, known: Iterable[str]) -> str:
    names = list(known)
    return f"{suggest(name, names)} (allowed: {', '.join(sorted(names))})"


def _coerce(raw: Any, spec: FieldSpec, *, where: str) -> Any:
    """`raw` as the type that the model expects, without guessing. :raises DataError: it is not that type"""
    if spec.type == "str":
        if not isinstance(raw, str):
            raise DataError(f"{where}: expected a string ({spec.description}), got {raw!r}")
        return raw
    if spec.type == "bool":
        if isinstance(raw, str) and raw.lower() in ("true", "false"):
            raw = raw.lower() == "true"
        if not isinstance(raw, bool):
            raise DataError(f"{where}: expected true or false ({spec.description}), got {raw!r}")
        return raw
    try:
        value = json.loads(raw) if isinstance(raw, str) else raw
    except json.JSONDecodeError:
        value = raw
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: expected a number of {spec.unit} ({spec.description}), got {raw!r}")
    if spec.type == "int":
        if not math.isfinite(value) or value != int(value):
            raise DataError(f"{where}: expected a whole number of {spec.unit}, got {raw!r}")
        value = int(value)
    if not spec.min <= value <= spec.max:
        raise DataError(f"{where}: {value} {spec.unit} is out of range; allowed are {spec.min:g} to {spec.max:g}")
    return value


def _parse_section(
    raw: Mapping[str, Any],
    schema: Mapping[str, FieldSpec],
    *,
    file: Path,
    section: str,
    inherited: Mapping[str, Quantity] | None = None,
) -> dict[str, Quantity]:
    """One device's parameters: every key of `schema` from `raw`, or else from `inherited`."""
    base = dict(inherited or {})
    check_keys(raw, file=file, key=section, required=[k for k in schema if k not in base], optional=schema)
    for key in raw:
        spec = schema[key]
        unit = None if spec.type in ("str", "bool") else spec.unit
        q = parse_quantity(raw[key], file=file, key=f"{section}.{key}", unit=unit)
        base[key] = replace(q, value=_coerce(q.value, spec, where=f"{file}: {section}.{key}"))
    return base


def load_dram(standard: str) -> dict[str, Quantity]:
    """The timing set of one DRAM standard. :raises DataError: unknown name or a bad file"""
    folder = DATA / "dram"
    path = folder / f"{standard}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.toml"))
        raise DataError(f"memory.standard = {standard!r}: no such timing set; allowed: {', '.join(known)}")
    doc = load_toml(path)
    return _parse_section(doc.get("params", {}), section_schema("dram"), file=path, section="params")


def _energy_table_for(table: str, old: str, new: str) -> str:
    """The shipped energy table that differs from the shipped `table` in its DRAM only: `new` instead of `old`.

    Without such a table (or with a table of the user's own) `table` itself: the evaluation checks that it fits.
    """
    folder = DATA / "energy"
    parts = {p.stem: load_toml(p).get("include", []) for p in sorted(folder.glob("*.toml"))}
    wanted = [part if part != f"dram-{old}" else f"dram-{new}" for part in parts.get(table, [])]
    return next((name for name, include in parts.items() if wanted and include == wanted), table)


def list_systems() -> list[str]:
    """Names of the systems that ship with gempim."""
    return sorted(p.stem for p in (DATA / "systems").glob("*.toml"))


@cache
def _shipped(name: str) -> System:
    """A shipped system, parsed once a process: a sweep resolves thousands of experiments."""
    return _load(DATA / "systems" / f"{name}.toml", seen=())


def load_system(name: str) -> System:
    """A system by shipped name or by path to a TOML file.

    :raises DataError: unknown name, unknown key, wrong unit or a value out of range, naming file and key
    """
    if not name.endswith(".toml") and name in list_systems():
        return _shipped(name)
    path = Path(name)
    if not name.endswith(".toml") or not path.is_file():
        hint = _allowed(name, list_systems())
        raise DataError(f"system {name!r}: neither a shipped system nor a file{hint}")
    return _load(path, seen=())


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEAD = ("name", "title", "kind", "description")
_HEAD_MORE = ("extends", "energy_table", "price", "not_modelled")


def _load(path: Path, *, seen: tuple[Path, ...]) -> System:
    if path in seen:
        raise DataError(f"{path}: system.extends: goes in a circle")
    doc = load_toml(path)
    head = doc.pop("system", None)
    if not isinstance(head, dict):
        raise DataError(f"{path}: [system]: missing; it needs name, title, kind, description")
    check_keys(head, file=path, key="system", required=_HEAD, optional=_HEAD_MORE)
    base: System | None = None
    if "extends" in head:
        parent = path.parent / f"{head['extends']}.toml"
        if not parent.is_file():
            parent = DATA / "systems" / f"{head['extends']}.toml"
        if not parent.is_file():
            raise DataError(
                f"{path}: system.extends = {head['extends']!r}: no such system; {', '.join(list_systems())}"
            )
        base = _load(parent, seen=(*seen, path))
    for key in _HEAD:
        if not isinstance(head[key], str):
            raise DataError(f"{path}: system.{key}: expected a string, got {head[key]!r}")
    if not _NAME.fullmatch(head["name"]):
        raise DataError(
            f"{path}: system.name = {head['name']!r}: it names run directories; allowed are letters, digits, '.', '_'"
            " and '-', 64 at most, and a letter or digit first"
        )
    kind = head["kind"]
    if kind not in KINDS:
        raise DataError(f"{path}: system.kind = {kind!r}: allowed are {', '.join(KINDS)}")
    for key in ("energy_table", "price"):
        if key not in head and base is None:
            raise DataError(f"{path}: system.{key}: missing")
    allowed = KINDS[kind]
    check_keys(doc, file=path, optional=(*allowed, *(["dram"] if "memory" in allowed else [])))
    sections: dict[str, dict[str, Quantity]] = {}
    for section in allowed:
        schema = _MEMORY_SCHEMA if section == "memory" else section_schema(section)
        raw = doc.get(section, {})
        if not isinstance(raw, dict):
            raise DataError(f"{path}: [{section}]: expected a table")
        inherited = base.sections.get(section) if base else None
        sections[section] = _parse_section(raw, schema, file=path, section=section, inherited=inherited)
    if "memory" in sections:
        timing = load_dram(str(sections["memory"]["standard"].value))
        if base is not None and "dram" in base.sections:
            parent_timing = load_dram(str(base.sections["memory"]["standard"].value))
            timing |= {k: v for k, v in base.sections["dram"].items() if v != parent_timing[k]}
        over = doc.get("dram", {})
        sections["dram"] = _parse_section(over, section_schema("dram"), file=path, section="dram", inherited=timing)
    not_modelled = [*(base.not_modelled if base else ()), *head.get("not_modelled", [])]
    return System(
        name=head["name"],
        title=head["title"],
        kind=kind,
        description=head["description"],
        energy_table=head.get("energy_table", base.energy_table if base else ""),
        price=head.get("price", base.price if base else ""),
        not_modelled=tuple(dict.fromkeys(not_modelled)),
        sections=sections,
        path=path,
    )

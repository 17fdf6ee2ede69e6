"""Energy: event counts times a table. Joules appear here only; the device models count.

A table is a TOML file of rows, each with a unit, a scope, a node, a source. A count without a row is an error or is
listed as unknown; unknown energy is never zero, it makes the total a lower bound that is printed as one.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gempim
from gempim.analysis.formula import evaluate_formula
from gempim.analysis.stats import Section, StatsError
from gempim.quantity import KINDS, DataError, Quantity, check_keys, load_toml, parse_quantity, suggest

SCHEMA = 1
"""Schema version of energy tables that this code reads."""

UNKNOWN = "unknown"
"""Value of a row whose energy nobody has published."""

_ENERGY_UNITS = {"pJ": 1e-12, "nJ": 1e-9, "uJ": 1e-6, "J": 1.0}
_POWER_UNITS = {"uW": 1e-6, "mW": 1e-3, "W": 1.0}
_TIME_STATS = {"ps": 1e-12, "ns": 1e-9, "s": 1.0}
_ROW_KEYS = ("component", "stat", "per", "node", "energy")
_ENERGY_KEYS = ("unit", "scope", "source", "kind")


@dataclass(frozen=True)
class EnergyRow:
    """One row: the joules that one count of a statistic stands for.

    `joules_per_count` is None when the energy is unknown. `times` are further statistics that multiply the count
    (gauges such as a number of cores). The row applies to runs that have `requires` (or, without it, that have `stat`).
    """

    component: str
    stat: str
    per: str
    node: str
    value: float | None
    unit: str
    scope: str
    source: str
    kind: str
    joules_per_count: float | None
    formula: str | None = None
    times: tuple[str, ...] = ()
    requires: str | None = None
    optional: bool = False

    @property
    def name(self) -> str:
        """Component and statistic: what identifies the row."""
        return f"{self.component} ({self.stat})"


@dataclass(frozen=True)
class Covered:
    """Statistics that need no row of their own, with the reason (inside another row, or no event at all)."""

    pattern: str
    reason: str


@dataclass(frozen=True)
class EnergyTable:
    """A table and everything that a reader needs to judge it.

    `formulas` has the inputs that follow from others; `must_equal` maps an input to the system parameter (dotted,
    inside the manifest's system) whose value it repeats.
    """

    name: str
    title: str
    sha256: str
    files: tuple[Path, ...]
    rows: tuple[EnergyRow, ...]
    covered: tuple[Covered, ...]
    watch: tuple[str, ...]
    outside: tuple[str, ...]
    memory: str | None
    inputs: dict[str, Quantity] = field(default_factory=dict)
    formulas: dict[str, str] = field(default_factory=dict)
    must_equal: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, float] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, float]:
        """The inputs by name, as bare numbers."""
        return {name: quantity.as_float() for name, quantity in self.inputs.items()}

    @property
    def label(self) -> str:
        """Name, hash and overrides: what an output has to say of the table that it used."""
        extra = "".join(f", {key}={value:g}" for key, value in self.overrides.items())
        return f"{self.name} (sha256 {self.sha256[:12]}{extra})"


@dataclass(frozen=True)
class EnergyItem:
    """One row applied to counts: `joules` is None when the row's energy is unknown and the count is not zero."""

    row: EnergyRow
    count: float
    joules: float | None


@dataclass(frozen=True)
class Energy:
    """The energy of one or several sections. `total_j` is exactly the sum of the known items."""

    items: tuple[EnergyItem, ...]
    unknown: tuple[str, ...]

    @property
    def total_j(self) -> float:
        """Sum of the known parts [J]; a lower bound when `unknown` is not empty."""
        return math.fsum(item.joules for item in self.items if item.joules is not None)

    @property
    def is_lower_bound(self) -> bool:
        """Whether something that was counted has no known energy."""
        return bool(self.unknown)

    def by_component(self, depth: int = 2) -> dict[str, float]:
        """Joules by the first `depth` parts of the component's name ("dram.activate" at 2, "dram" at 1)."""
        parts: dict[str, list[float]] = {}
        for item in self.items:
            if item.joules is not None:
                parts.setdefault(".".join(item.row.component.split(".")[:depth]), []).append(item.joules)
        return {name: math.fsum(values) for name, values in parts.items()}

    def text(self) -> str:
        """The total as people should read it: ``1.234 J``, or ``>= 1.234 J (unknown: ...)``."""
        if self.is_lower_bound:
            return f">= {self.total_j:.4g} J (unknown: {', '.join(self.unknown)})"
        return f"{self.total_j:.4g} J"


def energy_table_dir() -> Path:
    """The folder of the tables that come with gempim."""
    return Path(gempim.__file__).parent / "data" / "energy"


def load_energy_table(table: str | Path, overrides: Mapping[str, float] | None = None) -> EnergyTable:
    """Load an energy table by the name of one that comes with gempim, or by path (anything with a slash or ``.toml``).

    `overrides` replaces inputs of the table by name. Raises DataError naming file, row and key for an unknown name, a
    bad row, a formula that does not evaluate, an energy below zero, a row that occurs twice, an override of no input.
    """
    path = _path_of(table)
    loader = _Loader(dict(overrides or {}))
    loader.add(path, ())
    unused = sorted(set(loader.overrides) - set(loader.inputs))
    if unused:
        raise DataError(f"{path}: no input {unused[0]!r} to override{suggest(unused[0], loader.inputs)}")
    return loader.table(path.stem)


def measure_energy(sections: Iterable[Section], table: EnergyTable, *, strict: bool = False) -> Energy:
    """Apply the table to the counts of `sections`, added up.

    With `strict`, anything unknown is a DataError. Raises StatsError for a row's statistic that a section lacks
    although it has others of the same device (a renamed or forgotten counter must not read as zero energy).
    """
    amounts: dict[int, list[float]] = {}
    unknown: dict[str, None] = {}
    for section in sections:
        for index, row in enumerate(table.rows):
            if _applies(row, section):
                amounts.setdefault(index, []).append(_amount(row, section))
        for name in _uncovered(section, table):
            unknown[name] = None
    items = []
    for index, row in enumerate(table.rows):
        if index not in amounts:
            continue
        count = math.fsum(amounts[index])
        joules = count * row.joules_per_count if row.joules_per_count is not None else None
        if joules is None and count:
            unknown[row.component] = None
        items.append(EnergyItem(row=row, count=count, joules=0.0 if joules is None and not count else joules))
    if strict and unknown:
        raise DataError(
            f"energy table {table.label}: no energy for {', '.join(unknown)}; add rows or covered entries, or run "
            "without strict to get a lower bound"
        )
    return Energy(items=tuple(items), unknown=tuple(unknown))


def inside(energy: Energy) -> str:
    """What is in the joule figure, by part of the machine: ``cpu (base, idle), dram (activate, read)``."""
    groups: dict[str, list[str]] = {}
    for component in dict.fromkeys(item.row.component for item in energy.items):
        group, _, part = component.partition(".")
        groups.setdefault(group, []).append(part)
    return ", ".join(f"{group} ({', '.join(p for p in parts if p)})" for group, parts in groups.items()) or "nothing"


def boundary(table: EnergyTable, energy: Energy) -> str:
    """What is inside the joule figure and what is not, as sentences for a report."""
    text = f"Inside the joule figure: {inside(energy)}. Not inside: {'; '.join(table.outside) or 'nothing is listed'}."
    if energy.unknown:
        text += f" Counted but of unknown energy, so that totals are lower bounds: {', '.join(energy.unknown)}."
    return text


def _device(stat: str) -> str:
    return ".".join(stat.split(".")[:2]) + "."


def _applies(row: EnergyRow, section: Section) -> bool:
    if row.requires is not None and row.requires not in section:
        return False
    if row.stat in section:
        return True
    if row.requires is None and (
        row.optional or not any(name.startswith(_device(row.stat)) for name in section.scalars)
    ):
        return False
    section.get(row.stat)  # raises with the nearest names
    return True


def _amount(row: EnergyRow, section: Section) -> float:
    amount = float(section.get(row.stat))
    for name in row.times:
        amount *= section.get(name)
    if not math.isfinite(amount) or amount < 0:
        raise StatsError(f"{section.file}: section {section.index}: {row.stat}: expected a count, got {amount}")
    return amount


def _uncovered(section: Section, table: EnergyTable) -> list[str]:
    known = {row.stat for row in table.rows} | {name for row in table.rows for name in row.times}
    return [
        name
        for name, value in section.scalars.items()
        if value
        and name not in known
        and any(fnmatch.fnmatchcase(name, pattern) for pattern in table.watch)
        and not any(fnmatch.fnmatchcase(name, entry.pattern) for entry in table.covered)
    ]


def _path_of(table: str | Path) -> Path:
    text = str(table)
    if isinstance(table, Path) or "/" in text or text.endswith(".toml"):
        return Path(table)
    folder = energy_table_dir()
    names = sorted(p.stem for p in folder.glob("*.toml"))
    if text not in names:
        raise DataError(f"no energy table {text!r} in {folder} (there are: {', '.join(names)}){suggest(text, names)}")
    return folder / f"{text}.toml"


class _Loader:
    """Reads a table and the tables that it includes into one."""

    def __init__(self, overrides: dict[str, float]) -> None:
        self.overrides = overrides
        self.inputs: dict[str, Quantity] = {}
        self.formulas: dict[str, str] = {}
        self.must_equal: dict[str, str] = {}
        self.rows: list[EnergyRow] = []
        self.covered: list[Covered] = []
        self.watch: list[str] = []
        self.outside: list[str] = []
        self.files: list[Path] = []
        self.title = ""
        self.memory: str | None = None

    def table(self, name: str) -> EnergyTable:
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(file.read_bytes())
        return EnergyTable(
            name=name,
            title=self.title,
            sha256=digest.hexdigest(),
            files=tuple(self.files),
            rows=tuple(self.rows),
            covered=tuple(self.covered),
            watch=tuple(dict.fromkeys(self.watch)),
            outside=tuple(self.outside),
            memory=self.memory,
            inputs=self.inputs,
            formulas=self.formulas,
            must_equal=self.must_equal,
            overrides=self.overrides,
        )

    def add(self, file: Path, parents: tuple[Path, ...]) -> None:
        if file in parents:
            raise DataError(f"{file}: includes itself: {' -> '.join(p.stem for p in (*parents, file))}")
        data = load_toml(file)
        check_keys(
            data,
            file=file,
            required=("schema", "title"),
            optional=("include", "memory", "watch", "outside", "inputs", "row", "covered"),
        )
        if data["schema"] != SCHEMA:
            raise DataError(f"{file}: schema: expected {SCHEMA}, got {data['schema']!r}")
        self.files.append(file)
        for name in _texts(data, "include", file):
            self.add(file.parent / f"{name}.toml", (*parents, file))
        self.title = _text(data, "title", file)
        if "memory" in data:
            if self.memory is not None:
                raise DataError(f"{file}: memory: a table for {self.memory} is included already")
            self.memory = _text(data, "memory", file)
        self.watch += _texts(data, "watch", file)
        self.outside += _texts(data, "outside", file)
        for name, raw in _table(data, "inputs", file).items():
            self._input(name, raw, file)
        for index, raw in enumerate(_list(data, "row", file)):
            self._row(raw, file, f"row[{index}]")
        for index, raw in enumerate(_list(data, "covered", file)):
            check_keys(raw, file=file, key=f"covered[{index}]", required=("stat", "reason"))
            self.covered.append(Covered(pattern=_text(raw, "stat", file), reason=_text(raw, "reason", file)))

    @property
    def numbers(self) -> dict[str, float]:
        return {name: quantity.as_float() for name, quantity in self.inputs.items()}

    def _input(self, name: str, raw: Any, file: Path) -> None:
        key = f"inputs.{name}"
        if name in self.inputs:
            raise DataError(f"{file}: {key}: defined twice")
        if isinstance(raw, dict) and "must_equal" in raw:
            self.must_equal[name] = _text(raw, "must_equal", file, key)
            raw = {k: v for k, v in raw.items() if k != "must_equal"}
        if isinstance(raw, dict) and "formula" in raw:
            check_keys(raw, file=file, key=key, required=("formula", *_ENERGY_KEYS))
            self.formulas[name] = _text(raw, "formula", file)
            value = evaluate_formula(self.formulas[name], self.numbers, f"{file}: {key}")
            raw = {**{k: v for k, v in raw.items() if k != "formula"}, "value": value}
        quantity = parse_quantity(raw, file=file, key=key)
        if isinstance(quantity.value, str | bool):
            raise DataError(f"{file}: {key}: expected a number with its unit, got {quantity.value!r}")
        if name in self.overrides:
            number = float(self.overrides[name])
            if not math.isfinite(number):
                raise DataError(f"{file}: {key}: override {number} is not a finite number")
            self.formulas.pop(name, None)
            quantity = Quantity(
                number, quantity.unit, quantity.scope, f"set by the user, was {quantity.value}", "choice"
            )
        self.inputs[name] = quantity

    def _row(self, raw: Any, file: Path, key: str) -> None:
        check_keys(raw, file=file, key=key, required=_ROW_KEYS, optional=("times", "requires", "optional"))
        energy = _table(raw, "energy", file, key)
        texts = {name: _text(raw, name, file, key) for name in ("component", "stat", "per", "node")}
        where = f"{file}: {key} ({texts['component']})"
        formula = energy.get("formula")
        check_keys(
            energy,
            file=file,
            key=f"{key}.energy",
            required=("value" if formula is None else "formula", *_ENERGY_KEYS),
        )
        unit, scope, source, kind = (_text(energy, name, file, key) for name in _ENERGY_KEYS)
        if kind not in KINDS:
            raise DataError(f"{where}: kind {kind!r} (allowed: {', '.join(KINDS)}){suggest(kind, KINDS)}")
        value = self._value(energy, where)
        factor = _joules(unit, texts["per"], where)
        row = EnergyRow(
            **texts,
            value=value,
            unit=unit,
            scope=scope,
            source=source,
            kind=kind,
            joules_per_count=None if value is None else value * factor,
            formula=formula,
            times=tuple(_texts(raw, "times", file)),
            requires=_text(raw, "requires", file, key) if "requires" in raw else None,
            optional=raw.get("optional", False) is True,
        )
        if any((row.component, row.stat) == (other.component, other.stat) for other in self.rows):
            raise DataError(f"{where}: a second row for {row.component} and {row.stat}")
        self.rows.append(row)

    def _value(self, energy: dict[str, Any], where: str) -> float | None:
        if "formula" in energy:
            value = evaluate_formula(str(energy["formula"]), self.numbers, where)
        elif energy["value"] == UNKNOWN:
            return None
        elif isinstance(energy["value"], bool) or not isinstance(energy["value"], int | float):
            raise DataError(f'{where}: value: expected a number or "{UNKNOWN}", got {energy["value"]!r}')
        else:
            value = float(energy["value"])
        # Subtracting standby from active currents goes below zero on some data sheets (IDD0 < IDD3N); that is a wrong
        # formula for that part, not free energy.
        if not math.isfinite(value) or value < 0:
            raise DataError(f"{where}: energy {value:g} {energy['unit']}: must be finite and not below zero")
        return value


def _joules(unit: str, per: str, where: str) -> float:
    if unit in _ENERGY_UNITS:
        if per in _TIME_STATS:
            raise DataError(f"{where}: unit {unit!r} per {per!r}: a statistic in time needs a power (uW, mW, W)")
        return _ENERGY_UNITS[unit]
    if unit in _POWER_UNITS:
        if per not in _TIME_STATS:
            raise DataError(
                f"{where}: unit {unit!r}: a power needs a statistic in time (per = ps, ns or s), not {per!r}"
            )
        return _POWER_UNITS[unit] * _TIME_STATS[per]
    raise DataError(f"{where}: unit {unit!r} (allowed: {', '.join((*_ENERGY_UNITS, *_POWER_UNITS))})")


def _text(table: Mapping[str, Any], key: str, file: Path, where: str = "") -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{file}: {where + '.' if where else ''}{key}: expected text, got {value!r}")
    return value


def _texts(table: Mapping[str, Any], key: str, file: Path) -> list[str]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise DataError(f"{file}: {key}: expected a list of texts, got {value!r}")
    return list(value)


def _list(table: Mapping[str, Any], key: str, file: Path) -> list[dict[str, Any]]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{file}: {key}: expected a list of tables ([[{key}]])")
    return value


def _table(table: Mapping[str, Any], key: str, file: Path, where: str = "") -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise DataError(f"{file}: {where + '.' if where else ''}{key}: expected a table, got {value!r}")
    return value

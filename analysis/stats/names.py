"""The name map: one word for a statistic, whatever gem5 version printed it; the map itself is names.toml."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from gempim.analysis.stats.section import Number, Section, StatsError
from gempim.quantity import DataError, check_keys, load_toml, suggest

SCHEMA = 1
"""Schema version of names.toml that this code reads."""

NAMES_FILE = Path(__file__).with_name("names.toml")
"""The name map that comes with gempim."""

_FIELDS = {"{component}": r"(?P<component>.+)", "{n}": r"\d+", "{word}": r"[A-Za-z]+"}


@dataclass(frozen=True)
class Pattern:
    """A statistic's name with fields. `tail` is its fixed end, to tell quickly what cannot match."""

    text: str
    regex: re.Pattern[str]
    tail: str

    def component(self, name: str) -> str | None:
        """The component of a name that matches (empty when the pattern has none), None for another name."""
        if not name.endswith(self.tail):
            return None
        found = self.regex.fullmatch(name)
        return None if found is None else found.groupdict().get("component", "")


@dataclass(frozen=True)
class Name:
    """One of a quantity's names, the versions that print it, and the statistic that must stand beside it."""

    pattern: Pattern
    gem5: str
    only_with: str | None


@dataclass(frozen=True)
class Quantity:
    """What can be asked for: the reader's word, its unit, what it counts, and gem5's names for it."""

    key: str
    unit: str
    what: str
    names: tuple[Name, ...]


@dataclass(frozen=True)
class Unit:
    """The true unit of statistics that gem5 declares wrongly."""

    pattern: Pattern
    declared: str
    unit: str


@dataclass(frozen=True)
class Mark:
    """A statistic that only some versions print; `since` and `until` are versions, inclusive, empty for no bound."""

    pattern: Pattern
    since: str
    until: str


@dataclass(frozen=True)
class Names:
    """A name map."""

    quantities: dict[str, Quantity]
    units: tuple[Unit, ...]
    marks: tuple[Mark, ...]

    @cached_property
    def tails(self) -> tuple[str, ...]:
        """The fixed ends of all names: what has none of them is in no quantity, and most statistics are in none."""
        patterns = [name.pattern for item in self.quantities.values() for name in item.names]
        return tuple({pattern.tail for pattern in (*patterns, *(mark.pattern for mark in self.marks))})

    def candidates(self, section: Section) -> list[str]:
        """The statistics of a section that may be in a quantity or be a mark."""
        return [stat for stat in (*section.scalars, *section.ambiguous) if stat.endswith(self.tails)]


@cache
def load_names(file: Path = NAMES_FILE) -> Names:
    """The name map in `file`. Raises DataError naming file and key for a key or a field that is not known."""
    data = load_toml(file)
    check_keys(data, file=file, required=("schema", "quantity"), optional=("unit", "mark"))
    if data["schema"] != SCHEMA:
        raise DataError(f"{file}: schema: expected {SCHEMA}, got {data['schema']!r}")
    quantities = {}
    for key, raw in data["quantity"].items():
        where = f"quantity.{key}"
        check_keys(raw, file=file, key=where, required=("unit", "what", "names"), optional=("only_with",))
        names = []
        for index, item in enumerate(raw["names"]):
            check_keys(
                item, file=file, key=f"{where}.names[{index}]", required=("stat", "gem5"), optional=("only_with",)
            )
            names.append(Name(_pattern(item["stat"], file), item["gem5"], item.get("only_with", raw.get("only_with"))))
        quantities[key] = Quantity(key, raw["unit"], raw["what"], tuple(names))
    units, marks = [], []
    for index, raw in enumerate(data.get("unit", [])):
        check_keys(raw, file=file, key=f"unit[{index}]", required=("stat", "declared", "unit"))
        units.append(Unit(_pattern(raw["stat"], file), raw["declared"], raw["unit"]))
    for index, raw in enumerate(data.get("mark", [])):
        check_keys(raw, file=file, key=f"mark[{index}]", required=("stat",), optional=("since", "until"))
        marks.append(Mark(_pattern(raw["stat"], file), raw.get("since", ""), raw.get("until", "")))
    return Names(quantities, tuple(units), tuple(marks))


def _pattern(text: str, file: Path) -> Pattern:
    parts = re.split(r"(\{[^{}]*\})", text)
    unknown = [part for part in parts if part.startswith("{") and part not in _FIELDS]
    if unknown:
        raise DataError(f"{file}: {text!r}: unknown field {unknown[0]} (allowed: {', '.join(_FIELDS)})")
    regex = "".join(_FIELDS.get(part, re.escape(part)) for part in parts)
    return Pattern(text, re.compile(regex), parts[-1])


def quantity(section: Section, key: str, names: Names | None = None) -> dict[str, Number]:
    """The quantity `key` of names.toml in a section, by component (one entry with an empty key for the whole machine).

    Raises StatsError for a key that is not in the map, for a section that has the statistic under none of its names
    (with the names that were looked for and the nearest that are there), and for one with two values.
    """
    known = _quantity(section, key, names)
    found = _find(section, known, [*section.scalars, *section.ambiguous])
    if not found:
        looked = "; ".join(f"{name.pattern.text} ({name.gem5})" for name in known.names)
        last = known.names[0].pattern.tail.lstrip(".")
        raise StatsError(
            f"{section.file}: section {section.index}: no statistic of {key} ({known.what}): looked for {looked}"
            f"{section.nearest(last)}"
        )
    return found


def total(section: Section, key: str, names: Names | None = None) -> Number:
    """The quantity added up over all components; raises as `quantity`."""
    return sum(quantity(section, key, names).values())


def present(section: Section, names: Names | None = None) -> dict[str, dict[str, Number]]:
    """Every quantity of the map that the section has with one value, by key and component."""
    found: dict[str, dict[str, Number]] = {}
    known = names or load_names()
    stats = known.candidates(section)
    for key, item in known.quantities.items():
        try:
            values = _find(section, item, stats)
        except StatsError:
            continue  # a name with two values; `traps.notes` lists those
        if values:
            found[key] = values
    return found


def _quantity(section: Section, key: str, names: Names | None) -> Quantity:
    known = (names or load_names()).quantities
    if key not in known:
        raise StatsError(f"{section.file}: no quantity {key!r} in the name map{suggest(key, known)}")
    return known[key]


def _find(section: Section, wanted: Quantity, stats: Iterable[str]) -> dict[str, Number]:
    found: dict[str, Number] = {}
    for name in wanted.names:
        # Threads or ranks of one component are added up; a component that an earlier name gave keeps that value.
        here: dict[str, Number] = {}
        for stat in stats:
            component = name.pattern.component(stat)
            if component is None or component in found:
                continue
            if name.only_with is not None and name.only_with.replace("{component}", component) not in section:
                continue
            here[component] = here.get(component, 0) + section.get(stat)
        found.update(here)
    return found


def true_unit(section: Section, name: str, names: Names | None = None) -> str | None:
    """The unit of a statistic: what the file declares, except where gem5 is known to declare a wrong one; None when the
    file says nothing and the name alone does not tell.
    """
    declared = section.units.get(name)
    for unit in (names or load_names()).units:
        if declared in (None, unit.declared) and unit.pattern.component(name) is not None:
            return unit.unit
    return declared


def versions(section: Section, names: Names | None = None) -> tuple[str, str]:
    """The oldest and the newest gem5 version that print what this section has, each empty when nothing bounds it.

    gem5 does not write its version into stats.txt. Raises StatsError when marks contradict each other (not gem5's, or
    one file put together from two).
    """
    since, until = "", ""
    known = names or load_names()
    stats = known.candidates(section)
    for mark in known.marks:
        if any(mark.pattern.component(stat) is not None for stat in stats):
            since = max(since, mark.since, key=_order)
            until = min((u for u in (until, mark.until) if u), key=_order, default="")
    if since and until and _order(since) > _order(until):
        raise StatsError(
            f"{section.file}: section {section.index}: has statistics of gem5 {since} and later beside some of {until} "
            "and earlier: a fork of gem5, or a file put together from two"
        )
    return since, until


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))

"""The counters of a mapping file: ours, each as a sum over statistics of somebody else's gem5.

A term is a statistic's name, a pattern with ``*``, or ``@`` with a quantity of the name map or of `DERIVED`.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gempim.analysis.energy import EnergyTable
from gempim.analysis.run import PIM_DEVICES
from gempim.analysis.stats import Number, Section, StatsError, total
from gempim.analysis.stats.derived import DERIVED
from gempim.analysis.stats.names import load_names
from gempim.analysis.stats.read import Keep
from gempim.quantity import DataError, check_keys, suggest

ALWAYS = ("system.dram.read_bytes", "system.dram.write_bytes")
"""Counters of ours that not every energy table has a row for."""

_TERM = ("sum", "minus", "times", "value", "absent", "why")


@dataclass(frozen=True)
class Counter:
    """One counter of ours: (sum of `plus` - sum of `minus`) x `times`, or `value` in every section.

    `key` is its place in the file. `absent` stands for a statistic that only some sections have: gem5 leaves zeros of
    many statistics out.
    """

    key: str
    plus: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    times: float = 1.0
    value: float | None = None
    absent: float | None = None


def read_counters(raw: Any, table: EnergyTable, file: Path) -> dict[str, Counter]:
    """The table ``[counters]`` of a mapping file.

    Raises DataError naming file and key for a counter that the energy table does not have, a term that is no text or
    names no quantity, a number without its reason, and a device of which only some counters are given.
    """
    if not isinstance(raw, dict):
        raise DataError(f"{file}: counters: expected a table, got {raw!r}")
    known = {row.stat for row in table.rows} | {name for row in table.rows for name in row.times} | set(ALWAYS)
    known |= {row.requires for row in table.rows if row.requires} | {f"system.{d}.commands" for d in PIM_DEVICES}
    known -= {"simSeconds", "simTicks"}
    found = {}
    for name, item in raw.items():
        key = f'counters."{name}"'
        if name not in known and not any(fnmatch.fnmatchcase(name, c.pattern) for c in table.covered):
            raise DataError(
                f"{file}: {key}: energy table {table.name} has no such counter{suggest(name, known)} (it has: "
                f"{', '.join(sorted(known))})"
            )
        if isinstance(item, str):
            item = {"sum": [item]}
        if not isinstance(item, dict):
            raise DataError(f"{file}: {key}: expected a statistic's name or a table with {', '.join(_TERM)}")
        found[name] = _counter(item, file, key)
    _check_complete(found, table, file)
    return found


def _counter(item: dict[str, Any], file: Path, key: str) -> Counter:
    check_keys(item, file=file, key=key, required=("value", "why") if "value" in item else ("sum",), optional=_TERM)
    numbers = {}
    for part, least in (("times", math.nextafter(0, 1)), ("value", 0), ("absent", 0)):
        number = numbers[part] = item.get(part, 1)
        if isinstance(number, bool) or not isinstance(number, int | float) or not least <= number < math.inf:
            raise DataError(
                f"{file}: {key}.{part}: expected a number {'from' if least == 0 else 'above'} 0, got {number!r}"
            )
        if part in item and (not isinstance(item.get("why"), str) or not item["why"].strip()):
            raise DataError(f"{file}: {key}: {part} needs why: the reason for the number {number}")
    if "value" in item:
        if len(item) > 2:
            raise DataError(f"{file}: {key}: value stands alone, with why")
        return Counter(f"{file}: {key}", value=float(numbers["value"]))
    terms = {part: check_words(item.get(part, []), file, f"{key}.{part}") for part in ("sum", "minus")}
    if not terms["sum"]:
        raise DataError(f"{file}: {key}.sum: expected at least one statistic")
    absent = float(numbers["absent"]) if "absent" in item else None
    return Counter(f"{file}: {key}", terms["sum"], terms["minus"], float(numbers["times"]), absent=absent)


def check_words(words: Any, file: Path, key: str) -> tuple[str, ...]:
    """Terms as they stand in a mapping file. Raises DataError for what is no text, or an unknown ``@quantity``."""
    if not isinstance(words, list) or not all(isinstance(w, str) and w for w in words):
        raise DataError(f"{file}: {key}: expected a list of statistics' names, got {words!r}")
    known = [*load_names().quantities, *DERIVED]
    for word in words:
        if word.startswith("@") and word[1:] not in known:
            raise DataError(
                f"{file}: {key}: no quantity {word!r}{suggest(word[1:], known)} (there are: "
                f"{', '.join('@' + w for w in known)})"
            )
    return tuple(words)


def _check_complete(counters: Mapping[str, Counter], table: EnergyTable, file: Path) -> None:
    """A device of which something is counted must be counted whole: what is forgotten must not read as no energy."""
    given = set(counters) | {"simSeconds", "simTicks", "system.cpu.cores", "system.cpu.threads"}
    for row in table.rows:
        if row.requires is not None:
            applies = row.requires in given
        else:
            device = ".".join(row.stat.split(".")[:2]) + "."
            applies = not row.optional and any(name.startswith(device) for name in counters)
        missing = [name for name in (row.stat, *row.times) if name not in given]
        if applies and missing:
            raise DataError(
                f'{file}: counters: "{missing[0]}" is missing, which energy table {table.name} needs for '
                f'{row.component} (per {row.per}); if nothing was counted: {{ value = 0, why = "..." }}'
            )


def held_names(counters: Mapping[str, Counter], *others: str) -> Keep | None:
    """Names that have to be held of the statistics file; None (all) as soon as a quantity of the name map is asked for,
    since a quantity is told by what stands beside it.
    """
    words = [word for counter in counters.values() for word in (*counter.plus, *counter.minus)]
    if not words or any(word.startswith("@") for word in words):
        return None
    needed = ("simTicks", "simFreq", "sim_ticks", "sim_freq", *others)
    return lambda name: name in needed or any(name == w or fnmatch.fnmatchcase(name, w) for w in words)


def count_of(section: Section, counter: Counter) -> Number:
    """The counter in one of their sections, whole where it is a whole number.

    Raises StatsError naming the counter for a statistic that is missing, and for a result that is no count.
    """
    value: Number | None = counter.value
    if value is None:
        value = (_sum(section, counter.plus, counter) - _sum(section, counter.minus, counter)) * counter.times
    if not math.isfinite(value) or value < 0:
        raise StatsError(f"{counter.key}: {value} in section {section.index} of {section.file}: expected a count")
    return int(value) if float(value).is_integer() else value


def _total(section: Section, key: str) -> Number:
    return DERIVED[key].value(section) if key in DERIVED else total(section, key)


def _sum(section: Section, words: Iterable[str], counter: Counter) -> Number:
    found: Number = 0
    for word in words:
        try:
            found += term_value(section, word)
        except StatsError as error:
            if counter.absent is None:
                raise StatsError(f"{counter.key}: {error}") from error
            found += counter.absent
    return found


def term_value(section: Section, word: str) -> Number:
    """A term in one section. Raises StatsError with the nearest names when the section does not have it."""
    if word.startswith("@"):
        return _total(section, word[1:])
    if "*" not in word:
        return section.get(word)
    names = fnmatch.filter(section.scalars, word)
    if not names:
        raise StatsError(
            f"{section.file}: section {section.index}: nothing matches {word!r}{section.nearest(word.replace('*', ''))}"
        )
    return sum(section.scalars[name] for name in names)


def has_term(section: Section, word: str) -> bool:
    """Whether a section has what a term needs."""
    try:
        term_value(section, word)
    except StatsError:
        return False
    return True

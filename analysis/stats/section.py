"""One dump of statistics in memory: numbers by full name, with what the file says of them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from gempim.quantity import DataError

# Longer digit strings are damage: a 64-bit count has 20 digits, a double in full has fewer than 30.
_LONGEST_NUMBER = 64

Number = int | float


class StatsError(DataError):
    """A statistics file is damaged, or a statistic that was asked for is not in it."""


@dataclass(frozen=True)
class Section:
    """One dump of statistics.

    `scalars` has every number by its full name, vector elements as ``name::element``. `units` and `descriptions` have
    what the comments said, where there were comments. `ambiguous` has the values of names that gem5 printed twice with
    different values (two statistics of one name: the O3 of v21 has two ``idleCycles``). `line` is the line of the begin
    mark, from 1; 0 for a JSON file, in which gem5 has no formulas (IPC, rates, cache accesses).
    """

    file: Path
    index: int
    line: int
    scalars: dict[str, Number] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)
    ambiguous: dict[str, tuple[Number, ...]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.scalars or name in self.ambiguous

    def get(self, name: str) -> Number:
        """The statistic `name`.

        Raises StatsError with the nearest names when it is not in this section, and with its values when it has more
        than one.
        """
        try:
            return self.scalars[name]
        except KeyError:
            pass
        if name in self.ambiguous:
            values = ", ".join(map(str, self.ambiguous[name]))
            raise StatsError(f"{self.file}: section {self.index}: {name!r} names several statistics: {values}")
        raise StatsError(f"{self.file}: section {self.index}: no statistic {name!r}{self.nearest(name)}")

    def nearest(self, name: str) -> str:
        """``; nearest: a, b`` for an error message, or how many statistics there are when none is near."""
        near = difflib.get_close_matches(name, list(self.scalars), n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else f"; the section has {len(self.scalars)} statistics"
        return hint if self.line else f"{hint}; gem5 writes no formulas to JSON, stats.txt has them"

    def vector(self, name: str) -> dict[str, Number]:
        """The elements of the vector `name`, by element name. Raises StatsError when there is none."""
        prefix = name + "::"
        found = {key[len(prefix) :]: value for key, value in self.scalars.items() if key.startswith(prefix)}
        if not found:
            vectors = sorted({key.rpartition("::")[0] for key in self.scalars if "::" in key})
            near = difflib.get_close_matches(name, vectors, n=3, cutoff=0.5)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise StatsError(f"{self.file}: section {self.index}: no vector {name!r}{hint}")
        return found

    def add(self, name: str, value: Number) -> None:
        """Put in a statistic that was read; one that is there with another value becomes ambiguous."""
        if name in self.ambiguous:
            self.ambiguous[name] += (value,)
        elif name not in self.scalars:
            self.scalars[name] = value
        elif not _same(self.scalars[name], value):
            self.ambiguous[name] = (self.scalars.pop(name), value)


def _same(a: Number, b: Number) -> bool:
    return a == b or (a != a and b != b)


def parse_number(text: str) -> Number:
    """An integer where the text is one (exact, any size), otherwise a float; ``nan`` and ``inf`` included.

    Raises ValueError for anything else, also for Python-only spellings such as ``1_000``.
    """
    if "_" in text or len(text) > _LONGEST_NUMBER:
        raise ValueError(text)
    try:
        return int(text)
    except ValueError:
        return float(text)

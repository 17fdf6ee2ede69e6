"""Reading statistics files in gem5's text format, plain or gzip-compressed.

One file holds one section per dump. A section that begins and does not end means that the simulator died while writing:
that is an error with file and line, never a shorter result. A statistic that is not there is an error with the nearest
names, never zero.
"""

from __future__ import annotations

import difflib
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gempim.quantity import DataError

BEGIN_MARK = "Begin Simulation Statistics"
END_MARK = "End Simulation Statistics"
_GZIP_MAGIC = b"\x1f\x8b"
# Longer digit strings are damage: a 64-bit count has 20 digits, a double in full has fewer than 30.
_LONGEST_NUMBER = 64

Number = int | float


class StatsError(DataError):
    """A statistics file is damaged, or a statistic that was asked for is not in it."""


@dataclass(frozen=True)
class Section:
    """One dump of statistics.

    `scalars` has every number by its full name, vector elements as ``name::element``. `units` and `descriptions` have
    what the comments said, where there were comments. `line` is the line of the begin mark, from 1.
    """

    file: Path
    index: int
    line: int
    scalars: dict[str, Number] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.scalars

    def get(self, name: str) -> Number:
        """The statistic `name`. Raises StatsError with the nearest names when it is not in this section."""
        try:
            return self.scalars[name]
        except KeyError:
            near = difflib.get_close_matches(name, list(self.scalars), n=3, cutoff=0.5)
            hint = f"; nearest: {', '.join(near)}" if near else f"; the section has {len(self.scalars)} statistics"
            raise StatsError(f"{self.file}: section {self.index}: no statistic {name!r}{hint}") from None

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


def parse_stats(path: str | Path) -> list[Section]:
    """All sections of a statistics file, in file order. Raises StatsError naming file and line; see `iter_stats`."""
    return list(iter_stats(path))


def iter_stats(path: str | Path) -> Iterator[Section]:
    """The sections of a statistics file one after the other, in memory one at a time.

    Reads gzip by its magic number, whatever the name. Raises StatsError naming file and line for a file that cannot be
    read, is cut off (in a section or in the compressed stream), is not text, has no section, a line that is no
    statistic, or a statistic twice in one section.
    """
    file = Path(path)
    section: Section | None = None
    count = 0
    for number, raw in _lines(file):
        line = raw.strip()
        if not line:
            continue
        if line.startswith("----------"):
            if BEGIN_MARK in line:
                if section is not None:
                    raise StatsError(
                        f"{file}: line {number}: a section begins inside the one that began on line {section.line}; "
                        "its end is missing"
                    )
                section = Section(file=file, index=count, line=number)
                count += 1
            elif END_MARK in line:
                if section is None:
                    raise StatsError(f"{file}: line {number}: a section ends that never began")
                yield section
                section = None
            else:
                raise StatsError(f"{file}: line {number}: damaged begin or end mark: {line[:60]!r}")
            continue
        if section is None:
            raise StatsError(f"{file}: line {number}: text outside a section: {line[:60]!r}")
        _parse_line(section, line, number)
    if section is not None:
        raise StatsError(
            f"{file}: line {section.line}: section {section.index} begins here and never ends: the file is truncated"
        )
    if count == 0:
        raise StatsError(f"{file}: no statistics section (no line '---------- {BEGIN_MARK} ----------')")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with file.open("rb") as probe:
            compressed = probe.read(2) == _GZIP_MAGIC
        with gzip.open(file, "rb") if compressed else file.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                yield number, raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StatsError(f"{file}: line {number}: not text: {error.reason}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise StatsError(f"{file}: after line {number}: damaged or truncated gzip file: {error}") from error
    except OSError as error:
        raise StatsError(f"{file}: cannot be read: {error.strerror or error}") from error


def _parse_line(section: Section, line: str, number: int) -> None:
    body, hash_mark, comment = line.partition("#")
    words = body.split()
    where = f"{section.file}: line {number}"
    if len(words) < 2:
        raise StatsError(f"{where}: expected 'name value # description (Unit)', got {line[:60]!r}")
    name = words[0]
    cells = _cells(words, where)
    for element, text in cells:
        key = f"{name}::{element}" if element else name
        if key in section.scalars:
            raise StatsError(f"{where}: statistic {key!r} occurs twice in section {section.index}")
        try:
            section.scalars[key] = parse_number(text)
        except ValueError:
            raise StatsError(f"{where}: {key}: expected a number, got {text[:40]!r}") from None
        if hash_mark:
            _note(section, key, comment.strip())


def _cells(words: list[str], where: str) -> list[tuple[str, str]]:
    """(element, number) of a line; gem5 writes a short vector on one line as ``name | v p% c% | v p% c% |``."""
    if words[1] != "|":
        return [("", words[1])]
    groups = " ".join(words[2:]).split("|")
    cells = [(str(i), group.split()[0]) for i, group in enumerate(groups) if group.split()]
    if not cells:
        raise StatsError(f"{where}: a vector without elements")
    return cells


def _note(section: Section, key: str, comment: str) -> None:
    start = _last_group(comment)
    if start is not None:
        section.units[key] = comment[start + 1 : -1].strip()
        comment = comment[:start].strip()
    section.descriptions[key] = comment


def _last_group(comment: str) -> int | None:
    """Where the balanced parentheses at the end of a comment open: gem5 nests them, as in ``((Byte/Second))``."""
    depth = 0
    for at in range(len(comment) - 1, -1, -1):
        depth += (comment[at] == ")") - (comment[at] == "(")
        if depth == 0:
            return at if at < len(comment) - 1 else None
    return None

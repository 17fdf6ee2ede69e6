"""gem5's text format: one section per dump, one statistic or one-line vector a line.

Format source: gem5's src/base/stats/text.cc at v24.0.0.1. Comments may be absent (``desc=False``) and columns unpadded
(``spaces=False``). A section that begins and does not end means that the simulator died while writing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from gzip import GzipFile
from io import BufferedReader
from pathlib import Path

from gempim.analysis.stats.section import Section, StatsError, parse_number

BEGIN_MARK = "Begin Simulation Statistics"
END_MARK = "End Simulation Statistics"
# A one-line vector of ten thousand elements; a longer line is damage, and reading it would not be in bounded memory.
_LONGEST_LINE = 1 << 20
# Comments repeat from section to section; their parts are kept once, and anew when a file has absurdly many.
_MOST_COMMENTS = 1 << 16


def text_sections(
    file: Path, stream: BufferedReader | GzipFile, keep: Callable[[str], bool] | None = None
) -> Iterator[Section]:
    """The sections in `stream`; see `read.iter_stats`. `file` is for messages."""
    section: Section | None = None
    count = 0
    comments: dict[str, tuple[str | None, str]] = {}
    for number, raw in enumerate(iter(partial(stream.readline, _LONGEST_LINE), b""), start=1):
        line = _decoded(raw, file, number)
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
        _parse_line(section, line, number, keep, comments)
    if section is not None:
        raise StatsError(
            f"{file}: line {section.line}: section {section.index} begins here and never ends: the file is truncated"
        )
    if count == 0:
        raise StatsError(f"{file}: no statistics section (no line '---------- {BEGIN_MARK} ----------')")


def _decoded(raw: bytes, file: Path, number: int) -> str:
    if len(raw) == _LONGEST_LINE:
        raise StatsError(f"{file}: line {number}: longer than {_LONGEST_LINE} bytes: not a statistics file")
    try:
        return raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise StatsError(f"{file}: line {number}: not text: {error.reason}") from error


def _parse_line(
    section: Section,
    line: str,
    number: int,
    keep: Callable[[str], bool] | None,
    comments: dict[str, tuple[str | None, str]],
) -> None:
    body, hash_mark, comment = line.partition("#")
    name, _, rest = body.partition(" ")
    rest = rest.strip()
    if not name or not rest:
        words = body.split(None, 1)  # a tab between name and value
        if len(words) < 2:
            raise StatsError(
                f"{section.file}: line {number}: expected 'name value # description (Unit)', got {line[:60]!r}"
            )
        name, rest = words
    for element, text in _cells(rest, section, number):
        key = f"{name}::{element}" if element else name
        try:
            value = parse_number(text)
        except ValueError:
            raise StatsError(f"{section.file}: line {number}: {key}: expected a number, got {text[:40]!r}") from None
        if keep is not None and not keep(key):
            continue
        section.add(key, value)
        if hash_mark:
            if comment not in comments:
                if len(comments) >= _MOST_COMMENTS:
                    comments.clear()
                comments[comment] = _parts(comment.strip())
            unit, section.descriptions[key] = comments[comment]
            if unit is not None:
                section.units[key] = unit


def _cells(rest: str, section: Section, number: int) -> list[tuple[str, str]]:
    """(element, number) of a line; gem5 writes a short vector on one line as ``name | v p% c% | v p% c% |``."""
    if rest[0] != "|":
        return [("", rest.split(None, 1)[0])]
    groups = [group.split() for group in rest.split("|")]
    cells = [(str(i), words[0]) for i, words in enumerate(words for words in groups if words)]
    if not cells:
        raise StatsError(f"{section.file}: line {number}: a vector without elements")
    return cells


def _parts(comment: str) -> tuple[str | None, str]:
    """(unit, description) of a comment: the unit is the balanced parentheses at its end, if there are any.

    gem5 nests them, as in ``((Byte/Second))``.
    """
    depth = 0
    for at in range(len(comment) - 1, -1, -1):
        depth += (comment[at] == ")") - (comment[at] == "(")
        if depth == 0:
            if at == len(comment) - 1:
                break
            return comment[at + 1 : -1].strip(), comment[:at].strip()
    return None, comment

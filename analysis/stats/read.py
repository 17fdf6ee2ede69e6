"""Opening statistics files: plain or gzip by the magic number, text or JSON by the first character.

Whatever the file's name is. Damage is a StatsError that names the file, never a shorter result.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from gempim.analysis.stats.json_form import json_section
from gempim.analysis.stats.section import Section, StatsError
from gempim.analysis.stats.text import text_sections

_GZIP_MAGIC = b"\x1f\x8b"
# Enough for the blank line that gem5's text begins with, and for a byte order mark.
_SNIFF = 64

Keep = Callable[[str], bool]


def parse_stats(path: str | Path, keep: Keep | None = None) -> list[Section]:
    """All sections of a statistics file, in file order. Raises StatsError naming file and line; see `iter_stats`."""
    return list(iter_stats(path, keep))


def iter_stats(path: str | Path, keep: Keep | None = None) -> Iterator[Section]:
    """The sections of a statistics file one after the other, in memory one at a time.

    `keep` says by name which statistics to hold: with it, memory does not grow with a section's size either. The whole
    file is checked all the same. A JSON file of gem5's has one section, its last dump (each dump writes the file anew),
    and is in memory at once.

    Raises StatsError naming the file, and in text the line, for a file that cannot be read, is cut off (in a section or
    in the compressed stream), is not text, has no section, or a line or JSON value that is no statistic.
    """
    file = Path(path)
    with _errors(file), _open(file) as stream:
        head = stream.peek(_SNIFF)[:_SNIFF].lstrip()
        if head.startswith((b"{", b"[")):
            yield json_section(file, stream.read(), keep)
        else:
            yield from text_sections(file, stream, keep)


def _open(file: Path) -> BufferedReader | gzip.GzipFile:
    with file.open("rb") as probe:
        compressed = probe.read(2) == _GZIP_MAGIC
    return gzip.open(file, "rb") if compressed else file.open("rb")


@contextmanager
def _errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise StatsError(f"{file}: damaged or truncated gzip file: {error}") from error
    except OSError as error:
        raise StatsError(f"{file}: cannot be read: {error.strerror or error}") from error

"""Writing statistics in gem5's text format, so that one reader serves gem5's runs and the embedded engine's.

Format source: gem5's own text output (src/base/stats/text.cc): a begin mark, one ``name  value  # description (Unit)``
a line, an end mark. Vector elements are ``name::element``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

BEGIN = "---------- Begin Simulation Statistics ----------"
"""First line of a section."""
END = "---------- End Simulation Statistics   ----------"
"""Last line of a section; a section without it was cut off while it was written."""

Stat = tuple[str, int | float, str, str]
"""name, value, description, unit"""


def format_number(value: int | float) -> str:
    """A number as text that reads back as the very same number (integers exactly, floats by shortest repr)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a statistic is an int or a float, got {value!r}")
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return repr(value)


def format_section(stats: Iterable[Stat]) -> str:
    """One statistics section as text, begin and end marks and the blank lines around them included.

    `stats`: tuples of name, value, description, unit. Raises ValueError for a name with white space or ``#`` in it, an
    empty name, or a name that occurs twice; TypeError for a value that is not a number.
    """
    lines = ["", BEGIN]
    seen: set[str] = set()
    for name, value, description, unit in stats:
        if not name or "#" in name or any(c.isspace() for c in name):
            raise ValueError(f"statistic name {name!r}: must be one word without '#'")
        if name in seen:
            raise ValueError(f"statistic {name!r} occurs twice in one section")
        seen.add(name)
        comment = " ".join(f"{description} ({unit})".split())
        lines.append(f"{name:<40} {format_number(value):>20} # {comment}")
    lines += ["", END, ""]
    return "\n".join(lines)

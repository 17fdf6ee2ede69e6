"""The README's tables, for the tests that hold them against the code."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def readme_table(mark: str) -> list[dict[str, str]]:
    """The rows of the table between `<!-- mark -->` and `<!-- /mark -->`, by column name."""
    found = re.search(rf"<!-- {mark} -->\n(.*?)\n<!-- /{mark} -->", README, re.S)
    assert found, mark
    head, _, *rows = [[c.strip() for c in line.strip("|").split("|")] for line in found[1].splitlines()]
    return [dict(zip(head, row, strict=True)) for row in rows]

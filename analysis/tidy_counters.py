"""Statistics as one long table: a row a number, with section, component, unit and how far it can be trusted.

In memory as a pandas frame, or written section by section to Parquet or CSV, so that a file of any size is in bounded
memory.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from gempim.analysis.source import Source
from gempim.analysis.stats import Section, true_unit
from gempim.analysis.stats.traps import unknown_energies
from gempim.quantity import DataError

TIDY_SCHEMA = 1
"""Version of the columns below; in every row, and in a Parquet file's metadata (key ``gempim``)."""

COLUMNS = {
    "schema_version": "version of these columns",
    "source": "run directory or file",
    "section": "section's number in the file, from 0",
    "label": "region of interest, empty where nothing says it",
    "component": "path of the object, empty for the whole simulation",
    "statistic": "name without component and element",
    "element": "element of a vector or bucket of a distribution, empty for a scalar",
    "value": "the number as a double; NaN where the status is not known",
    "integer": "the number exactly where it is a whole number of at most 64 bits",
    "unit": "true unit, which gem5 declares wrongly for DRAM energy and power; empty where the file says none",
    "declared_unit": "unit that the file declares",
    "status": "known; unknown (printed as 0 for lack of data); ambiguous (several values under one name)",
    "description": "what the file says of it",
}
"""Columns of a tidy table and their meaning."""

_TYPES = {"schema_version": "int64", "section": "int64", "value": "float64", "integer": "Int64"}


def tidy_stats(source: Source, sections: Iterable[Section] | None = None) -> pd.DataFrame:
    """All numbers of `sections` (default: of the whole source) as a frame with the columns of `COLUMNS`.

    Raises StatsError as `iter_stats`.
    """
    rows = [row for section in (source.sections() if sections is None else sections) for row in _rows(source, section)]
    # By column with its type: pandas would make doubles of integers beside a missing one, and lose digits.
    frame = pd.DataFrame(
        {name: pd.array([row[name] for row in rows], dtype=_TYPES.get(name, "object")) for name in COLUMNS}
    )
    frame.attrs.update(schema_version=TIDY_SCHEMA, columns=COLUMNS)
    return frame


def write_tidy(source: Source, path: Path) -> int:
    """Write all numbers of a source to `path`, ``.parquet`` or ``.csv``, section by section; the number of rows.

    Raises DataError for another ending, when pyarrow is not installed (Parquet), and when the file cannot be written;
    StatsError as `iter_stats`, and then no file is left.
    """
    writers = {".parquet": _parquet, ".csv": _csv}
    if path.suffix not in writers:
        raise DataError(f"{path}: expected a name that ends in {' or '.join(writers)}")
    try:
        return writers[path.suffix](source, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def _csv(source: Source, path: Path) -> int:
    count = 0
    with _aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(COLUMNS), lineterminator="\n")
        writer.writeheader()
        for section in source.sections():
            for row in _rows(source, section):
                writer.writerow({**row, "value": "" if math.isnan(row["value"]) else repr(row["value"])})
                count += 1
    return count


def _parquet(source: Source, path: Path) -> int:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install 'gempim[parquet]'; or name a .csv file") from error
    schema = pyarrow.schema(
        [
            (name, {"int64": pyarrow.int64(), "Int64": pyarrow.int64(), "float64": pyarrow.float64()}.get(
                _TYPES.get(name, "object"), pyarrow.string()))
            for name in COLUMNS
        ],
        metadata={"gempim": json.dumps({"schema_version": TIDY_SCHEMA, "columns": COLUMNS})},
    )  # fmt: skip
    count = 0
    with _aside(path) as aside, pyarrow.parquet.ParquetWriter(str(aside), schema) as writer:
        for section in source.sections():
            rows = list(_rows(source, section))
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A file beside `path` that gets its name when all went well and is removed otherwise."""
    aside = path.with_name(f".partial-{path.name}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def split_name(name: str) -> tuple[str, str, str]:
    """Component, statistic and element of a full name; the element may have dots, as ``bytes::.cpu.data``."""
    path, _, element = name.partition("::")
    component, _, statistic = path.rpartition(".")
    return component, statistic, element


def _rows(source: Source, section: Section) -> Iterator[dict[str, Any]]:
    unknown = unknown_energies(section)
    label = source.label(section.index)
    for name, value in section.scalars.items():
        yield _row(source, section, label, name, value, "unknown" if name in unknown else "known")
    for name, values in section.ambiguous.items():
        for value in values:
            yield _row(source, section, label, name, value, "ambiguous")


def _row(source: Source, section: Section, label: str, name: str, value: int | float, status: str) -> dict[str, Any]:
    component, statistic, element = split_name(name)
    exact = status == "known" and isinstance(value, int) and -(2**63) <= value < 2**63
    return {
        "schema_version": TIDY_SCHEMA,
        "source": source.name,
        "section": section.index,
        "label": label,
        "component": component,
        "statistic": statistic,
        "element": element,
        "value": math.nan if status == "unknown" else _double(value),
        "integer": value if exact else None,
        "unit": true_unit(section, name) or "",
        "declared_unit": section.units.get(name, ""),
        "status": status,
        "description": section.descriptions.get(name, ""),
    }


def _double(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf

"""gem5's JSON forms: what ``--stats-file=json://FILE`` and the standard library's `get_simstat(...).dump()` write.

Both are the pystats tree of src/python/m5/ext/pystats (read at v22.1, v24.0 and v25.1): objects by attribute, leaves
with ``value`` and ``type``. Names become those of the text format, so that the same counter has the same name:
``system.cpu0.numCycles``, ``name::element``, ``name_x::y`` for two dimensions. What the tree lacks is lacking here:
gem5 writes no formulas (no IPC, no ratios, no simSeconds), of a distribution no bucket bounds (``name::bucket<i>``), of
two dimensions no element names, and before v25.1 no statistics groups (``commitStats0``). Averages are not the text's.
gem5's own `jsonloader` cannot read what its dumper writes; this reader takes every type that the dumper has.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gempim.analysis.stats.section import Number, Section, StatsError

_GROUPS = ("SimObject", "Group", "SimStat", None)
_ABOUT = ("type", "name", "time_conversion", "creation_time", "simulated_begin_time", "simulated_end_time")
"""Keys of an object that are no statistics of it."""
_DISTRIBUTION = {"sum": "sum", "sum_squared": "sum_squared", "underflow": "underflows", "overflow": "overflows"}
# From here on a double does not hold every integer.
_EXACT = 2**53
# A count has 64 bits; what does not even fit a double is damage.
_LARGEST = 2**1000


class _Leaf(NamedTuple):
    value: Any
    unit: str | None
    description: str | None


def json_section(file: Path, data: bytes, keep: Callable[[str], bool] | None = None) -> Section:
    """The one section of a JSON file's content. Raises StatsError naming `file` and the statistic."""
    try:
        tree = json.loads(data.decode("utf-8-sig"), object_hook=_collapse)
    except UnicodeDecodeError as error:
        raise StatsError(f"{file}: not text: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise StatsError(f"{file}: not valid JSON (cut off?): {error}") from error
    section = Section(file=file, index=0, line=0)
    if not isinstance(tree, dict):
        raise StatsError(f"{file}: expected gem5's statistics as one JSON object, got {type(tree).__name__}")
    try:
        _walk(section, tree, "", keep)
    except RecursionError as error:
        raise StatsError(f"{file}: nested too deeply") from error
    if not section.scalars and keep is None:
        raise StatsError(f"{file}: no statistic in this JSON file: not one of gem5's")
    if isinstance(ticks := _simulated(tree), int) and "simTicks" not in section and (keep is None or keep("simTicks")):
        section.scalars["simTicks"] = ticks
        section.units["simTicks"] = "Tick"
    return section


def _simulated(tree: Mapping[str, Any]) -> int | None:
    """Ticks between the two times that the head of every pystats file has."""
    begin, end = tree.get("simulated_begin_time"), tree.get("simulated_end_time")
    if isinstance(begin, int) and isinstance(end, int) and end >= begin:
        return end - begin
    return None


def _collapse(item: dict[str, Any]) -> Any:
    """A scalar as a small tuple while the file is being read: most of a file is scalars, which are large as dicts."""
    if item.get("type") == "Scalar" or (set(item) == {"value"} and not isinstance(item["value"], dict | list)):
        return _Leaf(item.get("value"), _shared(item.get("unit")), _shared(item.get("description")))
    return item


def _shared(text: Any) -> str | None:
    return sys.intern(text) if isinstance(text, str) else None


def _walk(section: Section, node: Any, path: str, keep: Callable[[str], bool] | None) -> None:
    if isinstance(node, _Leaf):
        _add(section, path, node, keep)
    elif isinstance(node, list):
        _objects(section, node, path, keep)
    elif isinstance(node, dict):
        kind = node.get("type")
        if kind == "SimObjectVector":
            _objects(section, node.get("value"), path, keep)
        elif kind in ("Vector", "SparseHist"):
            for name, leaf in _elements(section, node, path).items():
                _add(section, f"{path}::{name}", leaf, keep)
        elif kind == "Vector2d":
            for x, row in _elements(section, node, path).items():
                for y, leaf in _elements(section, row, f"{path}_{x}").items():
                    _add(section, f"{path}_{x}::{y}", leaf, keep)
        elif kind == "Distribution":
            _distribution(section, node, path, keep)
        elif kind in _GROUPS or not isinstance(kind, str):
            for name, child in node.items():
                if child is not None and (name not in _ABOUT or isinstance(child, dict | _Leaf)):
                    _walk(section, child, f"{path}.{name}" if path else name, keep)
        else:
            raise StatsError(f"{section.file}: {path}: unknown type of statistic {kind!r}")
    else:
        raise StatsError(f"{section.file}: {path}: expected a statistic, got {str(node)[:40]!r}")


def _objects(section: Section, items: Any, path: str, keep: Callable[[str], bool] | None) -> None:
    """A vector of objects, named as gem5's text does: one object without its number."""
    if not isinstance(items, list):
        raise StatsError(f"{section.file}: {path}: expected a list of objects, got {str(items)[:40]!r}")
    for index, item in enumerate(items):
        _walk(section, item, path if len(items) == 1 else f"{path}{index}", keep)


def _elements(section: Section, node: Any, path: str) -> dict[str, Any]:
    """The elements of a vector: under ``value``, or, before gem5 v24, beside ``type``."""
    value = node.get("value", None) if isinstance(node, dict) else None
    if isinstance(value, dict):
        return value
    if isinstance(node, dict) and "value" not in node:
        return {name: item for name, item in node.items() if isinstance(item, dict | _Leaf)}
    raise StatsError(f"{section.file}: {path}: a vector without elements")


def _distribution(section: Section, node: dict[str, Any], path: str, keep: Callable[[str], bool] | None) -> None:
    unit: str | None = None
    total: Number = 0
    for name, leaf in _elements(section, node, path).items():
        key = f"{path}::bucket{name}"
        total += _number(section, key, leaf)
        unit = leaf.unit if isinstance(leaf, _Leaf) else None
        _add(section, key, leaf, keep)
    description = _shared(node.get("description"))
    for key, name in _DISTRIBUTION.items():
        if node.get(key) is not None:
            leaf = _Leaf(node[key], unit, description)
            _add(section, f"{path}::{name}", leaf, keep)
            if key in ("underflow", "overflow"):
                total += _number(section, f"{path}::{name}", leaf)
    _add(section, f"{path}::total", _Leaf(total, unit, description), keep)


def _number(section: Section, path: str, leaf: Any) -> Number:
    value = leaf.value if isinstance(leaf, _Leaf) else leaf
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (isinstance(value, int) and abs(value) > _LARGEST)
    ):
        raise StatsError(f"{section.file}: {path}: expected a number, got {repr(value)[:40]}")
    # pystats makes a double of every count; the text form prints whole numbers as such.
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT else value


def _add(section: Section, path: str, leaf: Any, keep: Callable[[str], bool] | None) -> None:
    value = _number(section, path, leaf)
    if not path or not path.isprintable():
        raise StatsError(f"{section.file}: {path!r}: not the name of a statistic")
    if keep is not None and not keep(path):
        return
    section.add(path, value)
    if isinstance(leaf, _Leaf):
        if leaf.unit is not None:
            section.units[path] = leaf.unit
        if leaf.description is not None:
            section.descriptions[path] = leaf.description

"""A system's resolved values as one JSON file: what gem5's scripts are given; gem5's own Python may not read TOML.

`gem5_configs/spec/system.py` reads it, and makes the same values from the TOML files itself where it can.
"""

from __future__ import annotations

from typing import Any

from gempim.systems import System

SCHEMA = 1
"""Schema version of the JSON."""


def resolved_values(system: System) -> dict[str, Any]:
    """`{"schema", "system", "kind", "sections": {section: {parameter: value}}}`: plain values in the schema's units."""
    return {
        "schema": SCHEMA,
        "system": system.name,
        "kind": system.kind,
        "sections": {name: system.values(name) for name in system.sections},
    }

"""The resolved values of a system: from the JSON that `gempim resolve` wrote, or from the system TOML files themselves.

The resolver reads values only: units, sources and ranges are checked on the host (`gempim resolve`, `gempim run`). A
test holds that both give the same values for every shipped system.
"""

import json
import os
from typing import Any, Dict, Optional, Tuple

from spec.errors import SpecError

try:
    import tomllib
except ImportError:  # Python before 3.11
    tomllib = None  # type: ignore[assignment]

SCHEMA = 1
"""Schema version of the resolved JSON."""

SECTIONS = {
    "cpu": ("cpu", "llc", "memory"),
    "cpu+sram_pim": ("cpu", "llc", "memory", "sram_pim", "pim_host"),
    "gpu-roofline": ("gpu",),
    "xpu": ("xpu", "link", "placement"),
    "xpu+logic_pim": ("xpu", "link", "placement", "policy", "memory", "logic_pim"),
}
"""Device sections by kind of system; `memory` brings `dram`. The same as `gempim.systems.KINDS`."""

PIM_MEMORY = "xpu+logic_pim"
"""The kind whose main memory is the plug-in's; it has no cores of its own (:func:`with_host`)."""

BUILDABLE = ("cpu", "cpu+sram_pim", PIM_MEMORY)
"""Kinds that can be built from gem5's components and the plug-in."""

Values = Dict[str, Any]
Resolved = Dict[str, Any]
"""`{"schema": int, "system": name, "kind": kind, "sections": {section: {parameter: value}}}`."""


def data_folder() -> str:
    """The folder of the shipped data files: beside this one in a clone, or in the installed package.

    :raises SpecError: in neither place
    """
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder in (os.path.join(here, "..", "gempim", "data"), os.path.join(here, "..", "data")):
        if os.path.isdir(os.path.join(folder, "systems")):
            return os.path.normpath(folder)
    raise SpecError(
        "--system: the data files of gempim are not beside gem5_configs; pass --experiment FILE.json, made by:"
        " gempim resolve --system NAME -o FILE.json"
    )


def resolve(name: str, data: Optional[str] = None) -> Resolved:
    """A system by shipped name or by path to a TOML file.

    :param data: the folder of the shipped data files; default: :func:`data_folder`
    :raises SpecError: unknown name, unreadable file, a circle of `extends`, or this Python cannot read TOML
    """
    if tomllib is None:
        out = os.path.splitext(os.path.basename(name))[0] + ".json"
        raise SpecError(
            f"--system {name}: the Python inside this gem5 is too old to read TOML; make the values with"
            f" `gempim resolve --system {name} -o {out}` and pass --experiment {out}"
        )
    data = data or data_folder()
    if name.endswith(".toml"):
        path = name
    else:
        path = os.path.join(data, "systems", name + ".toml")
        known = sorted(f[: -len(".toml")] for f in os.listdir(os.path.join(data, "systems")) if f.endswith(".toml"))
        if name not in known:
            raise SpecError(f"--system {name}: neither a shipped system nor a .toml file; shipped: {', '.join(known)}")
    head, sections = _load(path, data, ())
    values = {name: _values(table, f"{path}: {name}") for name, table in sections.items()}
    return {"schema": SCHEMA, "system": head["name"], "kind": head["kind"], "sections": values}


def load(path: str) -> Resolved:
    """The resolved values from a JSON file. :raises SpecError: unreadable, another schema, or a part is missing"""
    try:
        with open(path, encoding="utf-8") as f:
            doc = json.load(f)
    except (OSError, ValueError) as e:
        raise SpecError(f"--experiment {path}: cannot be read: {e}") from None
    if not isinstance(doc, dict) or doc.get("schema") != SCHEMA:
        found = doc.get("schema") if isinstance(doc, dict) else None
        raise SpecError(
            f"--experiment {path}: schema {found!r}, expected {SCHEMA}; make it with: gempim resolve -o {path}"
        )
    for key, kind in (("system", str), ("kind", str), ("sections", dict)):
        if not isinstance(doc.get(key), kind):
            raise SpecError(f"--experiment {path}: {key}: missing, or no {kind.__name__}")
    return doc


def with_host(resolved: Resolved, host: Resolved) -> Resolved:
    """A system without cores, with the cores and caches of another one.

    :raises SpecError: that one has none
    """
    missing = [s for s in ("cpu", "llc") if s not in host["sections"]]
    if missing:
        raise SpecError(f"--host: system {host['system']} has no section {missing[0]}")
    own = {s: host["sections"][s] for s in ("cpu", "llc")}
    return {**resolved, "host": host["system"], "sections": {**resolved["sections"], **own}}


def check_buildable(resolved: Resolved) -> None:
    """:raises SpecError: gem5 has no components for this kind of system, or a section is missing"""
    name, kind, sections = resolved["system"], resolved["kind"], resolved["sections"]
    if kind not in BUILDABLE:
        raise SpecError(f"system {name}: kind {kind!r} cannot be built in gem5; kinds that can: {', '.join(BUILDABLE)}")
    missing = [s for s in SECTIONS[kind] + ("dram",) if s not in sections]
    if missing:
        raise SpecError(f"system {name}: no values for {', '.join(missing)}")


def _read(path: str) -> Dict[str, Any]:
    try:
        with open(path, "rb") as f:
            return tomllib.load(f)
    except OSError as e:
        raise SpecError(f"{path}: cannot be read: {e.strerror or e}") from None
    except ValueError as e:
        raise SpecError(f"{path}: not valid TOML: {e}") from None


def _values(table: Values, where: str) -> Values:
    """Plain values of a section: `key = { value = 3, unit = ... }`, or a plain string or flag."""
    out = {}
    for key, raw in table.items():
        if isinstance(raw, dict) and "value" not in raw:
            raise SpecError(f"{where}.{key}: no value")
        out[key] = raw["value"] if isinstance(raw, dict) else raw
    return out


def _table(doc: Values, name: str, path: str) -> Values:
    table = doc.get(name, {})
    if not isinstance(table, dict):
        raise SpecError(f"{path}: {name}: expected a table, got {table!r}")
    return table


def _dram(memory: Values, data: str, path: str) -> Values:
    """The timing set that a `memory` section names, as it is written."""
    standard = _values(memory, f"{path}: memory").get("standard")
    file = os.path.join(data, "dram", f"{standard}.toml")
    if not os.path.isfile(file):
        raise SpecError(f"{path}: memory.standard = {standard!r}: no such timing set in {os.path.dirname(file)}")
    return _table(_read(file), "params", file)


def _load(path: str, data: str, seen: Tuple[str, ...]) -> Tuple[Values, Dict[str, Values]]:
    """Head and sections of one file, on top of what it extends; parameters as they are written."""
    real = os.path.realpath(path)
    if real in seen:
        raise SpecError(f"{path}: system.extends: goes in a circle")
    doc = _read(path)
    head = doc.get("system")
    if not isinstance(head, dict) or not isinstance(head.get("name"), str):
        raise SpecError(f"{path}: [system]: missing, or without a name")
    kind = head.get("kind")
    if kind not in SECTIONS:
        raise SpecError(f"{path}: system.kind = {kind!r}: allowed are {', '.join(SECTIONS)}")
    base: Dict[str, Values] = {}
    if "extends" in head:
        base = _load(_parent(path, head["extends"], data), data, (*seen, real))[1]
    sections = {s: {**base.get(s, {}), **_table(doc, s, path)} for s in SECTIONS[kind]}
    if "memory" in sections:
        timing = _dram(sections["memory"], data, path)
        if "dram" in base:
            # What an ancestor set on its own stays set, whatever standard this file chooses.
            inherited = _dram(base["memory"], data, path)
            timing.update({k: v for k, v in base["dram"].items() if v != inherited.get(k)})
        timing.update(_table(doc, "dram", path))
        sections["dram"] = timing
    return head, sections


def _parent(path: str, name: Any, data: str) -> str:
    for folder in (os.path.dirname(path), os.path.join(data, "systems")):
        parent = os.path.join(folder, f"{name}.toml")
        if os.path.isfile(parent):
            return parent
    raise SpecError(f"{path}: system.extends = {name!r}: no such system")

"""Other people's gem5 runs: a small mapping file says what is what in a statistics file, and makes a `Run` of it.

The mapping is TOML with strict keys. It names the statistics file, the system, the model and the workload; says of
every section which phase it was and how many tokens it made (or why it is left out); and gives each counter of the
energy table as a sum over statistics. A counter is never guessed: a device of which nothing is given is outside the
energy figure, and the report's boundary says so. See `gempim inspect STATS --mapping` for a draft.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gempim.analysis.energy import EnergyTable, load_energy_table
from gempim.analysis.foreign_counters import (
    Counter,
    check_words,
    count_of,
    has_term,
    held_names,
    read_counters,
    term_value,
)
from gempim.analysis.run import LABELS, PIM_DEVICES, OperatorRow, Roi, Run
from gempim.analysis.stats import Number, Section, StatsError, iter_stats, versions
from gempim.quantity import DataError, check_keys, load_toml, suggest

MAPPING_SCHEMA = 1
"""Schema version of mapping files that this code reads."""

_TOP = ("schema", "stats", "system", "model", "workload", "roi")
MODEL_KEYS = {"name": str, "quant": str, "arch": str, "params": int, "bytes": int, "n_layers": int}
"""Keys of a mapping's model and their types."""

WORKLOAD_KEYS = {"batch": int, "prompt": int, "context": int, "tokens": int, "threads": int}
"""Keys of a mapping's workload and their types."""

_SYSTEM = {"name": str, "cores": int, "clock_hz": int, "energy_table": str, "price_key": str}
_PART = ("operator", "device", "flops")
_ROI = {"label": str, "tokens": int, "context": int}
_DEVICES = ("cpu", "gpu", "xpu", *PIM_DEVICES)
_PS_PER_S = 10**12
# A section may begin and end inside a cycle.
_MORE_CYCLES = 1.01


@dataclass(frozen=True)
class _Machine:
    """What a mapping says of the machine. `ticks` is the statistic of the time, `per_second` None for gem5's own."""

    key: str
    gauges: dict[str, int]
    clock_hz: int
    ticks: str
    per_second: int | None

    def cycles_in(self, ps: int) -> float:
        """Cycles that all cores have in a time."""
        return self.gauges["system.cpu.cores"] * self.clock_hz * (ps / _PS_PER_S)


@dataclass
class _Theirs:
    """What was read of a statistics file: the mapped sections by number, how many there are, the first as it was."""

    mapped: dict[int, Section]
    count: int
    first: Section | None


def load_foreign(path: str | Path) -> Run:
    """The run that the mapping file `path` describes.

    Raises DataError naming the mapping file and key for anything that is missing, unknown or contradictory (also a
    counter that the energy table does not have, and a section that is neither mapped nor skipped); StatsError for a
    statistic that is not in the file, with the nearest names, or for a damaged file.
    """
    file = Path(path)
    data = load_toml(file)
    check_keys(data, file=file, required=_TOP, optional=("gem5", "time", "skip", "counters"))
    if data["schema"] != MAPPING_SCHEMA:
        raise DataError(f"{file}: schema: expected {MAPPING_SCHEMA}, got {data['schema']!r}")
    system = _fields(data["system"], _SYSTEM, file, "system", optional=("title", "memory"))
    model = _fields(data["model"], MODEL_KEYS, file, "model")
    workload = _fields(data["workload"], WORKLOAD_KEYS, file, "workload", least=0)
    if not workload["batch"]:
        raise DataError(f"{file}: workload.batch: expected at least 1, got 0")
    stats = _beside(file, data["stats"], "stats")
    try:
        table = load_energy_table(_table_of(file, system["energy_table"]))
    except DataError as error:
        raise DataError(f"{file}: system.energy_table: {error}") from error
    counters = read_counters(data.get("counters", {}), table, file)
    used = _skipped(data.get("skip", []), file)
    regions = _regions(data["roi"], used, file)
    _check_memory(system, counters, table, file)
    machine = _machine(data.get("time"), system, workload["threads"], file)
    theirs = _read(stats, counters, {part.section for _, parts in regions for part in parts}, machine)
    if theirs.first is not None and (gem5 := data.get("gem5")) is not None:
        _check_version(theirs.first, gem5, file)
    _check_sections(used, theirs.count, stats, file)
    sections: list[Section] = []
    rois: list[Roi] = []
    seen = dict.fromkeys(LABELS, 0)
    for fields, parts in regions:
        mapped = [theirs.mapped[part.section] for part in parts]
        sections.append(_added(mapped, len(sections)))
        rois.append(
            Roi(
                section=len(rois),
                label=fields["label"],
                index=seen[fields["label"]],
                tokens=fields["tokens"],
                batch=workload["batch"],
                context=fields["context"],
                sim_ps=int(sections[-1].scalars["simTicks"]),
                operators=tuple(_operator(part, section) for part, section in zip(parts, mapped, strict=True)),
            )
        )
        seen[fields["label"]] += 1
    digest = _digest(file, stats)
    written = datetime.fromtimestamp(stats.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    manifest = {
        "schema": 1,
        "status": "complete",
        "kind": "foreign",
        "experiment": {
            "engine": "gem5 (foreign)",
            "system": {"name": system["name"], "title": system.get("title", system["name"]), "kind": "foreign",
                       **({"memory": system["memory"]} if "memory" in system else {}),
                       "cpu": {"cores": system["cores"], "clock_hz": system["clock_hz"]}},
            "model": model,
            "workload": workload,
            "energy_table": str(_table_of(file, system["energy_table"])),
            "price_key": system["price_key"],
        },
        "experiment_hash": digest,
        "hashes": {"mapping and statistics": digest},
        "versions": {"gem5": str(data.get("gem5", "not given"))},
        "created": written,
    }  # fmt: skip
    return Run(path=file, manifest=manifest, sections=tuple(sections), rois=tuple(rois))


def _machine(raw: Any, system: Mapping[str, Any], threads: int, file: Path) -> _Machine:
    """The machine of the mapping's system; `raw` says which statistic is its time, if not gem5's own."""
    ticks, per_second = "@sim_ticks", None
    if raw is not None:
        time = _fields(raw, {"ticks": str, "per_second": int}, file, "time")
        (ticks,), per_second = check_words([time["ticks"]], file, "time.ticks"), time["per_second"]
    gauges = {"system.cpu.cores": system["cores"], "system.cpu.threads": threads}
    return _Machine(f"{file}: system", gauges, system["clock_hz"], ticks, per_second)


def _check_memory(system: Mapping[str, Any], counters: Mapping[str, Counter], table: EnergyTable, file: Path) -> None:
    """An energy table of one memory must not be applied to another one, nor to one that nobody named."""
    if table.memory is None or not any(name.startswith("system.dram.") for name in counters):
        return
    if "memory" not in system:
        raise DataError(
            f"{file}: system.memory is missing: energy table {table.name} is for {table.memory}; say which memory was "
            'simulated, for example memory = "DDR4-3200"'
        )
    if system["memory"].lower() != table.memory.lower():
        raise DataError(
            f"{file}: system.memory: {system['memory']}, but energy table {table.name} is for {table.memory}; name "
            "another energy_table (a file beside this one, or a shipped one)"
        )


def _digest(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _fields(
    table: Any, kinds: Mapping[str, type], file: Path, where: str, *, optional: tuple[str, ...] = (), least: int = 1
) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise DataError(f"{file}: {where}: expected a table, got {table!r}")
    check_keys(table, file=file, key=where, required=kinds, optional=optional)
    for name, value in table.items():
        kind = kinds.get(name, str)
        if isinstance(value, bool) or not isinstance(value, kind) or value == "":
            raise DataError(f"{file}: {where}.{name}: expected {kind.__name__}, got {value!r}")
        if isinstance(value, int) and value < least:
            raise DataError(f"{file}: {where}.{name}: expected at least {least}, got {value}")
    return dict(table)


def _beside(file: Path, name: Any, key: str) -> Path:
    if not isinstance(name, str) or not name:
        raise DataError(f"{file}: {key}: expected a file's name, got {name!r}")
    path = file.parent / name
    if not path.is_file():
        raise DataError(f"{file}: {key}: {path}: no such file (names are relative to the mapping file)")
    return path


def _table_of(file: Path, name: str) -> str | Path:
    """An energy table: a shipped one by name, or a file beside the mapping."""
    return file.parent / name if name.endswith(".toml") else name


def _check_version(section: Section, gem5: Any, file: Path) -> None:
    since, until = versions(section)
    numbers = [tuple(int(p) for p in v.lstrip("v").split(".")[:2]) if v else None for v in (since, until)]
    try:
        said = tuple(int(part) for part in str(gem5).lstrip("v").split(".")[:2])
    except ValueError:
        raise DataError(f'{file}: gem5: expected a version such as "v24.0", got {gem5!r}') from None
    if (numbers[0] and said < numbers[0]) or (numbers[1] and said > numbers[1]):
        bounds = " and ".join(w for w in (since and f"{since} or later", until and f"{until} or earlier") if w)
        raise DataError(f"{file}: gem5: says {gem5}, but {section.file} has statistics of {bounds}")


@dataclass(frozen=True)
class _Part:
    """One section as an operator of a region; `key` is its place in the file."""

    key: str
    section: int
    operator: str
    device: str
    flops: int


def _regions(raw: Any, used: dict[int, str], file: Path) -> list[tuple[dict[str, Any], list[_Part]]]:
    """The mapping's regions with their parts; `used` gets the sections that they name."""
    if not isinstance(raw, list) or not raw:
        raise DataError(f"{file}: roi: expected at least one [[roi]]")
    found = []
    for position, roi in enumerate(raw):
        where = f"roi[{position}]"
        parts = _parts(roi, used, file, where)
        fields = _fields({name: value for name, value in roi.items() if name in _ROI}, _ROI, file, where, least=0)
        label, tokens = fields["label"], fields["tokens"]
        if label not in LABELS:
            raise DataError(f"{file}: {where}.label: {label!r} (allowed: {', '.join(LABELS)}){suggest(label, LABELS)}")
        if tokens < 1:
            raise DataError(f"{file}: {where}.tokens: expected at least 1, got {tokens}")
        found.append((fields, parts))
    return found


def _skipped(raw: Any, file: Path) -> dict[int, str]:
    used: dict[int, str] = {}
    for index, item in enumerate(raw if isinstance(raw, list) else [raw]):
        key = f"skip[{index}]"
        number = _fields(item, {"section": int, "why": str}, file, key, least=0)["section"]
        if number in used:
            raise DataError(f"{file}: {key}.section: {number} is in {used[number]} already")
        used[number] = key
    return used


def _parts(raw: Any, used: dict[int, str], file: Path, where: str) -> list[_Part]:
    if not isinstance(raw, dict):
        raise DataError(f"{file}: {where}: expected a table")
    check_keys(raw, file=file, key=where, required=_ROI, optional=("section", *_PART, "part"))
    if ("section" in raw) == ("part" in raw):
        raise DataError(f"{file}: {where}: expected either section, or [[roi.part]] for each of several")
    if "part" in raw and any(name in raw for name in _PART):
        raise DataError(f"{file}: {where}: {', '.join(_PART)} stand in its [[roi.part]]")
    parts = raw.get("part", [{k: raw[k] for k in ("section", *_PART) if k in raw}])
    if not isinstance(parts, list) or not parts:
        raise DataError(f"{file}: {where}: expected at least one [[roi.part]]")
    found = []
    for index, part in enumerate(parts):
        key = f"{where}.part[{index}]" if "part" in raw else where
        one = {"operator": "whole section", "device": "cpu", "flops": 0, **(part if isinstance(part, dict) else {})}
        _fields(one, {"section": int, "operator": str, "device": str, "flops": int}, file, key, least=0)
        if one["section"] in used:
            raise DataError(f"{file}: {key}.section: {one['section']} is in {used[one['section']]} already")
        if one["device"] not in _DEVICES:
            raise DataError(
                f"{file}: {key}.device: {one['device']!r}{suggest(one['device'], _DEVICES)} (allowed: "
                f"{', '.join(_DEVICES)})"
            )
        used[one["section"]] = key
        found.append(_Part(key=f"{file}: {key}", **one))
    return found


def _read(stats: Path, counters: Mapping[str, Counter], wanted: set[int], machine: _Machine) -> _Theirs:
    """The wanted sections in our names, one at a time: a file of any size is never in memory at once."""
    theirs = _Theirs({}, 0, None)
    absent = {(c, word) for c in counters.values() if c.absent is not None for word in (*c.plus, *c.minus)}
    for section in iter_stats(stats, held_names(counters, machine.ticks)):
        theirs.count += 1
        theirs.first = theirs.first or section
        absent = {(counter, word) for counter, word in absent if not has_term(section, word)}
        if section.index in wanted:
            theirs.mapped[section.index] = _mapped(section, counters, machine)
    for counter, word in sorted(absent, key=lambda item: item[0].key):
        # What no section has is a wrong name and no zero that was left out.
        assert theirs.first is not None
        try:
            term_value(theirs.first, word)
        except StatsError as error:
            raise StatsError(f"{counter.key}: in no section: {error}") from error
    return theirs


def _check_sections(used: Mapping[int, str], count: int, stats: Path, file: Path) -> None:
    for number, key in used.items():
        if number >= count:
            raise DataError(f"{file}: {key}.section: {number}, but {stats} has {count} sections (from 0)")
    if free := sorted(set(range(count)) - set(used)):
        raise DataError(
            f"{file}: section {free[0]} of {stats} is in no [[roi]]; map it, or leave it out by [[skip]] with "
            f'section = {free[0]} and why = "..."'
        )


def _mapped(section: Section, counters: Mapping[str, Counter], machine: _Machine) -> Section:
    """A section in our names, its time in ps."""
    ticks = term_value(section, machine.ticks)
    frequency = term_value(section, "@sim_freq") if machine.per_second is None else machine.per_second
    whole = all(float(value).is_integer() and value > 0 for value in (ticks, frequency))
    ps = round(ticks * _PS_PER_S / frequency) if whole else 0
    if ps < 1:
        raise StatsError(f"{section.file}: section {section.index}: {ticks} ticks at {frequency} per second: no time")
    scalars: dict[str, Number] = {"simTicks": ps, "simFreq": _PS_PER_S, "simSeconds": ps / _PS_PER_S}
    scalars |= machine.gauges
    for name, counter in counters.items():
        scalars[name] = count_of(section, counter)
    busy, most = scalars.get("system.cpu.busyCycles", 0), machine.cycles_in(ps)
    if busy > most * _MORE_CYCLES:
        raise StatsError(
            f"{machine.key}: {busy} busy cycles in section {section.index} of {section.file}, but its cores and clock "
            f"have {most:g} in that time: clock_hz, cores or the counter is wrong (a core counted twice?)"
        )
    return Section(file=section.file, index=section.index, line=section.line, scalars=scalars)


def _operator(part: _Part, section: Section) -> OperatorRow:
    """A part as an operator. What limited it is not known, its FLOP count only if the mapping says it."""
    counter = f"system.{part.device}.commands"
    commands = section.scalars.get(counter, 0) if part.device in PIM_DEVICES else 0
    if part.device in PIM_DEVICES and not commands:
        raise DataError(f'{part.key}: {part.operator} is on {part.device}, but counters."{counter}" is missing or 0')
    return OperatorRow(
        name=part.operator,
        kind="section",
        device=part.device,
        count=1,
        time_ps=int(section.scalars["simTicks"]),
        compute_ps=0,
        memory_ps=0,
        overhead_ps=0,
        flops=part.flops,
        dram_read_bytes=int(section.scalars.get("system.dram.read_bytes", 0)),
        dram_write_bytes=int(section.scalars.get("system.dram.write_bytes", 0)),
        limiter="not known",
        weight_type=None,
        m=0,
        n=0,
        k=0,
        instances=1,
        pim_commands=int(commands),
    )


# Gauges of the machine, equal in all sections; everything else is a count or a time and adds up.
_GAUGES = ("simFreq", "system.cpu.cores", "system.cpu.threads")


def _added(parts: list[Section], index: int) -> Section:
    scalars = dict(parts[0].scalars)
    for part in parts[1:]:
        for name, value in part.scalars.items():
            scalars[name] = value if name in _GAUGES else scalars[name] + value
    return Section(file=parts[0].file, index=index, line=parts[0].line, scalars=scalars)

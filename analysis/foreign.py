"""Other people's gem5 runs: a small mapping file says what is what in a statistics file, and makes a `Run` of it.

The mapping is TOML with strict keys. It names the statistics file, the system, the model and the workload; says of
every section which phase it was and how many tokens it made (or why it is left out); and gives each counter of the
energy table as a sum over statistics. A counter is never guessed: a device of which nothing is given is outside the
energy figure, and the report's boundary says so. See `gempim inspect STATS --mapping` for a draft.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gempim.analysis.energy import EnergyTable, load_energy_table
from gempim.analysis.run import LABELS, PIM_DEVICES, OperatorRow, Roi, Run
from gempim.analysis.source import Source
from gempim.analysis.stats import Number, Section, StatsError, parse_stats, quantity, total, versions
from gempim.analysis.stats.derived import DERIVED
from gempim.analysis.stats.names import load_names
from gempim.quantity import DataError, check_keys, load_toml, suggest

MAPPING_SCHEMA = 1
"""Schema version of mapping files that this code reads."""

_TOP = ("schema", "stats", "system", "model", "workload", "roi")
_SYSTEM = {"name": str, "cores": int, "energy_table": str, "price_key": str}
_MODEL = {"name": str, "quant": str, "arch": str, "params": int, "bytes": int, "n_layers": int}
_WORKLOAD = {"batch": int, "prompt": int, "context": int, "tokens": int, "threads": int}
_PART = ("operator", "device", "flops")
_ROI = {"label": str, "tokens": int, "context": int}
_DEVICES = ("cpu", "gpu", "xpu", *PIM_DEVICES)
_TERM = ("sum", "minus", "times", "value", "absent", "why")
# Counters of the embedded engine's that not every energy table has a row for.
_ALWAYS = ("system.cpu.threads", "system.dram.read_bytes", "system.dram.write_bytes")
_PS_PER_S = 10**12


@dataclass(frozen=True)
class _Counter:
    """One counter of ours: (sum of `plus` - sum of `minus`) x `times`, or `value` in every section.

    `key` is its place in the file. `absent` stands for a statistic that only some sections have: gem5 leaves zeros of
    many statistics out.
    """

    key: str
    plus: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    times: float = 1.0
    value: float | None = None
    absent: float | None = None


def load_foreign(path: str | Path) -> Run:
    """The run that the mapping file `path` describes.

    Raises DataError naming the mapping file and key for anything that is missing, unknown or contradictory (also a
    counter that the energy table does not have, and a section that is neither mapped nor skipped); StatsError for a
    statistic that is not in the file, with the nearest names, or for a damaged file.
    """
    file = Path(path)
    data = load_toml(file)
    check_keys(data, file=file, required=_TOP, optional=("gem5", "skip", "counters"))
    if data["schema"] != MAPPING_SCHEMA:
        raise DataError(f"{file}: schema: expected {MAPPING_SCHEMA}, got {data['schema']!r}")
    system = _fields(data["system"], _SYSTEM, file, "system", optional=("title",))
    model = _fields(data["model"], _MODEL, file, "model")
    workload = _fields(data["workload"], _WORKLOAD, file, "workload", least=0)
    stats = _beside(file, data["stats"], "stats")
    try:
        table = load_energy_table(_table_of(file, system["energy_table"]))
    except DataError as error:
        raise DataError(f"{file}: system.energy_table: {error}") from error
    counters = _counters(data.get("counters", {}), table, file)
    theirs = parse_stats(stats, _wanted(counters))
    _check_absent(counters, theirs)
    if gem5 := data.get("gem5"):
        _check_version(theirs[0], gem5, file)
    rois, sections = _regions(data, counters, theirs, system, workload, file)
    digest = hashlib.sha256(file.read_bytes() + stats.read_bytes()).hexdigest()
    written = datetime.fromtimestamp(stats.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    manifest = {
        "schema": 1,
        "status": "complete",
        "kind": "foreign",
        "experiment": {
            "engine": "gem5 (foreign)",
            "system": {"name": system["name"], "title": system.get("title", system["name"]), "kind": "foreign",
                       "cpu": {"cores": system["cores"]}},
            "model": model,
            "workload": workload,
            "energy_table": str(_table_of(file, system["energy_table"])),
            "price_key": system["price_key"],
        },
        "experiment_hash": digest,
        "hashes": {"mapping and statistics": digest},
        "versions": {"gem5": str(gem5 or "not given")},
        "created": written,
    }  # fmt: skip
    return Run(path=file, manifest=manifest, sections=tuple(sections), rois=tuple(rois))


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


def _counters(raw: Any, table: EnergyTable, file: Path) -> dict[str, _Counter]:
    if not isinstance(raw, dict):
        raise DataError(f"{file}: counters: expected a table, got {raw!r}")
    known = {row.stat for row in table.rows} | {name for row in table.rows for name in row.times} | set(_ALWAYS)
    known |= {row.requires for row in table.rows if row.requires} | {f"system.{d}.commands" for d in PIM_DEVICES}
    known -= {"simSeconds", "simTicks"}
    found = {}
    for name, item in raw.items():
        key = f'counters."{name}"'
        if name not in known and not any(fnmatch.fnmatchcase(name, c.pattern) for c in table.covered):
            raise DataError(
                f"{file}: {key}: energy table {table.name} has no such counter{suggest(name, known)} (it has: "
                f"{', '.join(sorted(known))})"
            )
        if isinstance(item, str):
            item = {"sum": [item]}
        if not isinstance(item, dict):
            raise DataError(f"{file}: {key}: expected a statistic's name or a table with {', '.join(_TERM)}")
        found[name] = _counter(item, file, key)
    _check_complete(found, table, file)
    return found


def _counter(item: dict[str, Any], file: Path, key: str) -> _Counter:
    check_keys(item, file=file, key=key, required=("value", "why") if "value" in item else ("sum",), optional=_TERM)
    numbers = {}
    for part, least in (("times", math.nextafter(0, 1)), ("value", 0), ("absent", 0)):
        number = numbers[part] = item.get(part, 1)
        if isinstance(number, bool) or not isinstance(number, int | float) or not least <= number < math.inf:
            raise DataError(
                f"{file}: {key}.{part}: expected a number {'from' if least == 0 else 'above'} 0, got {number!r}"
            )
        if part in item and (not isinstance(item.get("why"), str) or not item["why"].strip()):
            raise DataError(f"{file}: {key}: {part} needs why: the reason for the number {number}")
    if "value" in item:
        if len(item) > 2:
            raise DataError(f"{file}: {key}: value stands alone, with why")
        return _Counter(f"{file}: {key}", value=float(numbers["value"]))
    terms = {part: _words(item.get(part, []), file, f"{key}.{part}") for part in ("sum", "minus")}
    if not terms["sum"]:
        raise DataError(f"{file}: {key}.sum: expected at least one statistic")
    absent = float(numbers["absent"]) if "absent" in item else None
    return _Counter(f"{file}: {key}", terms["sum"], terms["minus"], float(numbers["times"]), absent=absent)


def _words(words: Any, file: Path, key: str) -> tuple[str, ...]:
    if not isinstance(words, list) or not all(isinstance(w, str) and w for w in words):
        raise DataError(f"{file}: {key}: expected a list of statistics' names, got {words!r}")
    known = [*load_names().quantities, *DERIVED]
    for word in words:
        if word.startswith("@") and word[1:] not in known:
            raise DataError(
                f"{file}: {key}: no quantity {word!r}{suggest(word[1:], known)} (there are: "
                f"{', '.join('@' + w for w in known)})"
            )
    return tuple(words)


def _check_complete(counters: Mapping[str, _Counter], table: EnergyTable, file: Path) -> None:
    """A device of which something is counted must be counted whole: what is forgotten must not read as no energy."""
    given = set(counters) | {"simSeconds", "simTicks", "system.cpu.cores", "system.cpu.threads"}
    for row in table.rows:
        if row.requires is not None:
            applies = row.requires in given
        else:
            device = ".".join(row.stat.split(".")[:2]) + "."
            applies = not row.optional and any(name.startswith(device) for name in counters)
        missing = [name for name in (row.stat, *row.times) if name not in given]
        if applies and missing:
            raise DataError(
                f'{file}: counters: "{missing[0]}" is missing, which energy table {table.name} needs for '
                f'{row.component} (per {row.per}); if nothing was counted: {{ value = 0, why = "..." }}'
            )


def _wanted(counters: Mapping[str, _Counter]) -> Any:
    """Names that have to be held of the statistics file; None (all) as soon as a quantity of the name map is asked for,
    since a quantity is told by what stands beside it.
    """
    words = [word for counter in counters.values() for word in (*counter.plus, *counter.minus)]
    if not words or any(word.startswith("@") for word in words):
        return None
    needed = ("simTicks", "simFreq", "sim_ticks", "sim_freq")
    return lambda name: name in needed or any(name == w or fnmatch.fnmatchcase(name, w) for w in words)


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


def _regions(
    data: Mapping[str, Any],
    counters: Mapping[str, _Counter],
    theirs: list[Section],
    system: Mapping[str, Any],
    workload: Mapping[str, Any],
    file: Path,
) -> tuple[list[Roi], list[Section]]:
    used = _skipped(data.get("skip", []), file)
    rois: list[Roi] = []
    sections: list[Section] = []
    seen: dict[str, int] = {}
    if not isinstance(data["roi"], list) or not data["roi"]:
        raise DataError(f"{file}: roi: expected at least one [[roi]]")
    for position, raw in enumerate(data["roi"]):
        where = f"roi[{position}]"
        parts = _parts(raw, theirs, used, file, where)
        fields = {name: value for name, value in raw.items() if name in _ROI}
        _fields(fields, _ROI, file, where, least=0)
        label, tokens = raw["label"], raw["tokens"]
        if label not in LABELS:
            raise DataError(f"{file}: {where}.label: {label!r} (allowed: {', '.join(LABELS)}){suggest(label, LABELS)}")
        if tokens < 1:
            raise DataError(f"{file}: {where}.tokens: expected at least 1, got {tokens}")
        mapped = [_mapped(theirs[number], counters, system, workload, file) for number, *_ in parts]
        operators = tuple(
            _operator(name, device, flops, section, file, where)
            for (_, name, device, flops), section in zip(parts, mapped, strict=True)
        )
        whole = _added(mapped, file, position)
        sections.append(whole)
        rois.append(
            Roi(
                section=position,
                label=label,
                index=seen.setdefault(label, 0),
                tokens=tokens,
                batch=workload["batch"],
                context=raw["context"],
                sim_ps=int(whole.scalars["simTicks"]),
                operators=operators,
            )
        )
        seen[label] += 1
    if free := sorted(set(range(len(theirs))) - set(used)):
        raise DataError(
            f"{file}: section {free[0]} of {theirs[0].file} is in no [[roi]]; map it, or leave it out by "
            f'[[skip]] with section = {free[0]} and why = "..."'
        )
    return rois, sections


def _skipped(raw: Any, file: Path) -> dict[int, str]:
    used = {}
    for index, item in enumerate(raw if isinstance(raw, list) else [raw]):
        check = _fields(item, {"section": int, "why": str}, file, f"skip[{index}]", least=0)
        used[check["section"]] = f"skip[{index}]"
    return used


def _parts(
    raw: Any, theirs: list[Section], used: dict[int, str], file: Path, where: str
) -> list[tuple[int, str, str, int]]:
    """(section, operator, device, FLOP) of each section that a region is made of."""
    if not isinstance(raw, dict):
        raise DataError(f"{file}: {where}: expected a table")
    check_keys(raw, file=file, key=where, required=_ROI, optional=("section", *_PART, "part"))
    if ("section" in raw) == ("part" in raw):
        raise DataError(f"{file}: {where}: expected either section, or [[roi.part]] for each of several")
    if "part" in raw and any(name in raw for name in _PART):
        raise DataError(f"{file}: {where}: {', '.join(_PART)} stand in its [[roi.part]]")
    parts = raw.get("part", [{k: raw[k] for k in ("section", *_PART) if k in raw}])
    found = []
    for index, part in enumerate(parts if isinstance(parts, list) else [parts]):
        key = f"{where}.part[{index}]" if "part" in raw else where
        one = {"operator": "whole section", "device": "cpu", "flops": 0, **(part if isinstance(part, dict) else {})}
        _fields(one, {"section": int, "operator": str, "device": str, "flops": int}, file, key, least=0)
        number, device = one["section"], one["device"]
        if number >= len(theirs):
            raise DataError(
                f"{file}: {key}.section: {number}, but {theirs[0].file} has {len(theirs)} sections (from 0)"
            )
        if number in used:
            raise DataError(f"{file}: {key}.section: {number} is in {used[number]} already")
        if device not in _DEVICES:
            raise DataError(
                f"{file}: {key}.device: {device!r}{suggest(device, _DEVICES)} (allowed: {', '.join(_DEVICES)})"
            )
        used[number] = key
        found.append((number, one["operator"], device, one["flops"]))
    return found


def _mapped(
    section: Section,
    counters: Mapping[str, _Counter],
    system: Mapping[str, Any],
    workload: Mapping[str, Any],
    file: Path,
) -> Section:
    """A section in our names, its time in ps."""
    ticks, frequency = _one(section, "sim_ticks"), _one(section, "sim_freq")
    if frequency <= 0 or ticks <= 0 or not float(ticks).is_integer():
        raise StatsError(f"{section.file}: section {section.index}: {ticks} ticks at {frequency} per second: no time")
    ps = round(ticks * _PS_PER_S / frequency) if frequency != _PS_PER_S else int(ticks)
    scalars: dict[str, Number] = {"simTicks": ps, "simFreq": _PS_PER_S, "simSeconds": ps / _PS_PER_S}
    scalars |= {"system.cpu.cores": system["cores"], "system.cpu.threads": workload["threads"]}
    for name, counter in counters.items():
        value: Number | None = counter.value
        if value is None:
            value = (_sum(section, counter.plus, counter) - _sum(section, counter.minus, counter)) * counter.times
        if not math.isfinite(value) or value < 0:
            raise StatsError(f"{counter.key}: {value} in section {section.index} of {section.file}: expected a count")
        scalars[name] = int(value) if float(value).is_integer() else value
    return Section(file=section.file, index=section.index, line=section.line, scalars=scalars)


def _one(section: Section, key: str) -> Number:
    return DERIVED[key].value(section) if key in DERIVED else total(section, key)


def _sum(section: Section, words: Iterable[str], counter: _Counter) -> Number:
    found: Number = 0
    for word in words:
        try:
            found += _term(section, word)
        except StatsError as error:
            if counter.absent is None:
                raise StatsError(f"{counter.key}: {error}") from error
            found += counter.absent
    return found


def _check_absent(counters: Mapping[str, _Counter], theirs: list[Section]) -> None:
    """What no section has is a wrong name and no zero that was left out."""
    for counter in counters.values():
        for word in (*counter.plus, *counter.minus) if counter.absent is not None else ():
            if not any(_has(section, word) for section in theirs):
                try:
                    _term(theirs[0], word)
                except StatsError as error:
                    raise StatsError(f"{counter.key}: in no section: {error}") from error


def _term(section: Section, word: str) -> Number:
    if word.startswith("@"):
        return _one(section, word[1:])
    if "*" not in word:
        return section.get(word)
    names = fnmatch.filter(section.scalars, word)
    if not names:
        raise StatsError(
            f"{section.file}: section {section.index}: nothing matches {word!r}{section.nearest(word.replace('*', ''))}"
        )
    return sum(section.scalars[name] for name in names)


def _operator(name: str, device: str, flops: int, section: Section, file: Path, where: str) -> OperatorRow:
    """A part as an operator. What limited it is not known, its FLOP count only if the mapping says it."""
    commands = section.scalars.get(f"system.{device}.commands", 0) if device in PIM_DEVICES else 0
    if device in PIM_DEVICES and not commands:
        raise DataError(
            f'{file}: {where}: {name} is on {device}, but counters."system.{device}.commands" is missing or 0'
        )
    return OperatorRow(
        name=name,
        kind="section",
        device=device,
        count=1,
        time_ps=int(section.scalars["simTicks"]),
        compute_ps=0,
        memory_ps=0,
        overhead_ps=0,
        flops=flops,
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


def _added(parts: list[Section], file: Path, index: int) -> Section:
    scalars = dict(parts[0].scalars)
    for part in parts[1:]:
        for name, value in part.scalars.items():
            scalars[name] = value if name in _GAUGES else scalars[name] + value
    return Section(file=parts[0].file, index=index, line=parts[0].line, scalars=scalars)


def draft_mapping(source: Source, section: Section) -> str:
    """The beginning of a mapping file: what the statistics file has is filled in, what only its owner knows is `?`.

    A `?` is no TOML, so that a draft cannot be taken for a mapping.
    """
    table = load_energy_table("default")
    cores = len(quantity(section, "instructions")) if _has(section, "@instructions") else 0
    lines = [
        "# Replace every ? and look at every counter; `gempim report THIS.toml` says what is still missing.",
        "schema = 1",
        f'stats = "{source.stats.name}"',
        "",
        "[system]",
        "name = ?           # as it stands in tables",
        f"cores = {cores or '?'}",
        'energy_table = "default"',
        "price_key = ?      # a key of gempim's price tables",
        "",
        "[model]",
        *(f"{name} = ?" for name in _MODEL),
        "",
        "[workload]",
        *(f"{name} = ?" for name in _WORKLOAD),
        "",
        "[[roi]]            # one for every section, or [[skip]] with section and why",
        f"section = {section.index}",
        "label = ?          # prefill or decode",
        "tokens = ?         # made in this section, over the whole batch",
        "context = ?        # in the KV cache when it began",
        "",
        "[counters]         # ours = a statistic, a pattern with *, a @quantity, or {sum = [...], minus = [...]}",
    ]
    return "\n".join([*lines, *_draft_counters(section, table)]) + "\n"


# Our counters, and what gives them; `gem5_configs` machines and the engine gem5-se use the same derivations.
_DRAFT = {
    "system.cpu.busyCycles": "@cycles",
    "system.cpu.instructions::load": "@load_ops",
    "system.cpu.instructions::store": "@store_ops",
    "system.cpu.instructions::vector": "@vector_ops",
    "system.cpu.instructions::scalar": "@scalar_ops",
    "system.dram.acts": "@dram_activations",
    "system.dram.reads": "@dram_read_bursts",
    "system.dram.writes": "@dram_write_bursts",
    "system.dram.act_standby_ps": "@dram_open_ps",
    "system.dram.pre_standby_ps": "@dram_closed_ps",
    "system.dram.read_bytes": "@dram_read_bytes",
    "system.dram.write_bytes": "@dram_write_bytes",
}


def _draft_counters(section: Section, table: EnergyTable) -> list[str]:
    """A line for every counter of the energy table that this file may have, the ones that it lacks as comments."""
    lines = []
    for name in dict.fromkeys([*_ALWAYS[1:], *(row.stat for row in table.rows), *_pim_commands(section)]):
        device, _, counter = name.removeprefix("system.").partition(".")
        if name in _DRAFT and _has(section, _DRAFT[name]):
            lines.append(f'"{name}" = "{_DRAFT[name]}"')
        elif device in PIM_DEVICES:
            found = [stat for stat in section.scalars if stat.endswith(f".{device}.{counter}")]
            lines += [f'"{name}" = "{stat}"' for stat in found]
        elif name.startswith(("system.cpu.", "system.dram.", "system.l", "system.llc.")):
            lines.append(f'# "{name}" = ?')
    return lines


def _pim_commands(section: Section) -> list[str]:
    return [f"system.{d}.commands" for d in PIM_DEVICES if any(n.endswith(f".{d}.commands") for n in section.scalars)]


def _has(section: Section, word: str) -> bool:
    try:
        _term(section, word)
    except StatsError:
        return False
    return True

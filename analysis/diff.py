"""Two runs held against each other: which times, counters and parameters differ, and which explain the speedup.

Takes anything that has statistics: run directories of every engine, mapping files, gem5's own output. Where both runs
are of a model, times and counts are per token, operators are held against each other by name, and the speedup is
derived at the level of the kernel, the layer and the token (Amdahl's law). Where not, sections are compared, and
the speedup is split into instructions and time per instruction.
"""

from __future__ import annotations

import configparser
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gempim.analysis.run import Run, RunError, load_run
from gempim.analysis.serving import is_serve_run
from gempim.analysis.source import Source, flat_parameters, open_source
from gempim.analysis.stats import Number, Section, true_unit
from gempim.analysis.stats.names import present
from gempim.analysis.stats.traps import unknown_energies

# Of the host and of the simulator, not of the simulated machine.
_NOT_SIMULATED = ("host", "simFreq", "finalTick", "final_tick", "sim_freq")
# Statistics of a distribution, and values that stay what they are however long a section is: they do not add up.
_NOT_ADDED = ("mean", "gmean", "stdev", "min_value", "max_value", "bucket_size", "min_bucket", "max_bucket")
_GAUGES = (".clock", ".voltage", ".cores", ".threads")
_RATE_UNITS = ("/", "Ratio", "Watt", "mW", "Volt", "Hertz")
# What says where a number comes from is no parameter.
_NO_PARAMETERS = ("title", "description", "source", "scope", "kind", "not_modelled", "unit")
_SAME = 1e-12
_MS_PER_PS = 1e-9
_LISTED = 4


@dataclass(frozen=True)
class Part:
    """One phase of a model's run, or one section of another. `counts` and `time_ps` are of all of it.

    `tokens` is None where nothing was counted in tokens; `operators` has name -> (device, time [ps], layer or not).
    """

    name: str
    time_ps: int
    tokens: int | None
    counts: dict[str, Number]
    units: dict[str, str]
    operators: dict[str, tuple[str, int, bool]]
    instructions: float | None
    cycles: float | None

    def per_token(self, value: float) -> float:
        """A count or a time of this part, by token where there are tokens."""
        return value if self.tokens is None else value / self.tokens


@dataclass(frozen=True)
class Diff:
    """What differs. In every table `a` is the first run; `speedup` is a's time over b's, `ratio` is b over a.

    `counters` has first those that both runs counted, by how much they differ (a factor) and of how much (digits).
    """

    times: pd.DataFrame
    operators: pd.DataFrame
    parameters: pd.DataFrame
    counters: pd.DataFrame
    explanation: tuple[str, ...]


def diff_runs(path_a: str | Path, path_b: str | Path) -> Diff:
    """Hold run `path_b` against run `path_a`.

    Raises RunError or StatsError when one cannot be read, when one served requests (a report compares those), and when
    they have nothing in common to be compared by.
    """
    (a, parameters_a), (b, parameters_b) = _load(path_a), _load(path_b)
    pairs, note = _pairs(a, b, path_a, path_b)
    times = pd.DataFrame([_time_row(x, y) for x, y in pairs])
    operators = pd.DataFrame([row for x, y in pairs for row in _operator_rows(x, y)])
    counters = pd.DataFrame(
        [row for x, y in pairs for row in _counter_rows(x, y)], columns=["part", "counter", "unit", "a", "b", "ratio"]
    )
    counters = counters.assign(
        alone=[not 0 < ratio < math.inf for ratio in counters["ratio"]],
        weight=[-_weight(row) for row in counters.to_dict("records")],
    )
    counters = counters.sort_values(["alone", "weight", "part", "counter"], ignore_index=True)
    counters = counters.drop(columns=["alone", "weight"])
    sentences = [*note, *(line for x, y in pairs for line in _explain(x, y))]
    return Diff(times, operators, _parameter_rows(parameters_a, parameters_b), counters, tuple(sentences))


def _load(path: str | Path) -> tuple[list[Part], dict[str, Any]]:
    at = Path(path)
    if is_serve_run(at):
        raise RunError(f"{at}: served requests; compare such runs with: gempim report {at} OTHER --baseline SYSTEM")
    if at.suffix == ".toml":
        run = load_run(at)
        return _phases(run), flat_parameters(run.manifest)
    source = open_source(at)
    parameters = source.parameters() or _gem5_parameters(source.stats.parent / "config.ini")
    if "model" in source.manifest.get("experiment", {}):
        return _phases(load_run(at)), parameters
    return _sections(source), parameters


def _phases(run: Run) -> list[Part]:
    parts = []
    layers = run.experiment["model"]["n_layers"]
    for label in dict.fromkeys(roi.label for roi in run.rois):
        rois = run.rois_of(label)
        times: dict[str, int] = {}
        devices: dict[str, dict[str, None]] = {}
        counts: dict[str, int] = {}
        for roi in rois:
            for op in roi.operators:
                times[op.name] = times.get(op.name, 0) + op.time_ps
                devices.setdefault(op.name, {})[op.device] = None
                counts[op.name] = counts.get(op.name, 0) + op.count
        parts.append(
            _part(
                label,
                [run.section_of(roi) for roi in rois],
                sum(roi.sim_ps for roi in rois),
                sum(roi.tokens for roi in rois),
                # One in every layer of every pass, however the occurrences were grouped.
                {n: ("+".join(devices[n]), t, counts[n] == layers * len(rois)) for n, t in times.items()},
            )
        )
    return parts


def _sections(source: Source) -> list[Part]:
    groups: dict[str, list[Section]] = {}
    for section in source.sections():
        groups.setdefault(source.label(section.index) or f"section {section.index}", []).append(section)
    return [_part(name, sections, sum(map(_time_ps, sections)), None, {}) for name, sections in groups.items()]


def _time_ps(section: Section) -> int:
    ticks = present(section).get("sim_ticks")
    if ticks is None:
        raise RunError(f"{section.file}: section {section.index}: no simulated time (simTicks)")
    frequency = sum(present(section).get("sim_freq", {"": 10**12}).values())
    return round(sum(ticks.values()) * 10**12 / frequency)


def _part(
    name: str,
    sections: list[Section],
    time_ps: int,
    tokens: int | None,
    operators: dict[str, tuple[str, int, bool]],
) -> Part:
    counts: dict[str, Number] = {}
    units: dict[str, str] = {}
    for section in sections:
        unknown = unknown_energies(section)
        for stat, value in section.scalars.items():
            unit = true_unit(section, stat) or ""
            adds = _adds_up(stat, unit)
            if stat.startswith(_NOT_SIMULATED) or stat in unknown or (len(sections) > 1 and not adds):
                continue
            counts[stat] = counts.get(stat, 0) + value
            units[stat] = unit if adds else f"{unit} (not per token)" if tokens is not None else unit
    found = [present(section) for section in sections]
    instructions = [_instructions(section, item) for section, item in zip(sections, found, strict=True)]
    cycles = [sum(item["cycles"].values()) if "cycles" in item else None for item in found]
    return Part(
        name=name,
        time_ps=time_ps,
        tokens=tokens,
        counts=counts,
        units=units,
        operators=operators,
        instructions=_all(instructions),
        cycles=_all(cycles),
    )


def _adds_up(name: str, unit: str) -> bool:
    element = name.partition("::")[2]
    return not (element in _NOT_ADDED or name.endswith(_GAUGES) or any(mark in unit for mark in _RATE_UNITS))


def _instructions(section: Section, found: Mapping[str, Mapping[str, Number]]) -> float | None:
    """Instructions of all cores: gem5's, or the embedded engine's classes added up."""
    if "instructions" in found:
        return float(sum(found["instructions"].values()))
    classes = [value for name, value in section.scalars.items() if name.startswith("system.cpu.instructions::")]
    return float(sum(classes)) if classes else None


def _all(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if None in found or not found else math.fsum(v for v in found if v is not None)


def _pairs(
    a: list[Part], b: list[Part], path_a: str | Path, path_b: str | Path
) -> tuple[list[tuple[Part, Part]], list[str]]:
    """Parts of equal names; where there are none, sections in order. Raises RunError when neither works."""
    if (a[0].tokens is None) != (b[0].tokens is None):
        bare = path_a if a[0].tokens is None else path_b
        raise RunError(
            f"{bare}: has no tokens, and the other run has: say by a mapping file how many tokens each of its sections "
            f"made (gempim inspect {bare} --mapping)"
        )
    other = {part.name: part for part in b}
    pairs = [(part, other[part.name]) for part in a if part.name in other]
    alone = [p.name for p in a if p.name not in other] + [p.name for p in b if p.name not in {q.name for q in a}]
    if pairs:
        return pairs, [f"Only one of the runs has: {', '.join(alone)}."] if alone else []
    if len(a) == len(b) and a[0].tokens is None:
        return list(zip(a, b, strict=True)), ["No region has the same label in both runs; they are compared in order."]
    raise RunError(
        f"{path_a} and {path_b} have no part in common: {', '.join(p.name for p in a)} against "
        f"{', '.join(p.name for p in b)}"
    )


def _time_row(a: Part, b: Part) -> dict[str, Any]:
    row: dict[str, Any] = {"part": a.name, "ms_a": a.time_ps * _MS_PER_PS, "ms_b": b.time_ps * _MS_PER_PS}
    if a.tokens is not None and b.tokens is not None:
        row |= {"tokens_a": a.tokens, "tokens_b": b.tokens}
        row |= {"ms_per_token_a": a.per_token(row["ms_a"]), "ms_per_token_b": b.per_token(row["ms_b"])}
    return {**row, "speedup": _speedup(a, b)}


def _speedup(a: Part, b: Part) -> float:
    return _over(a.per_token(a.time_ps), b.per_token(b.time_ps))


def _over(a: float, b: float) -> float:
    return a / b if b else math.inf if a else 1.0


def _operator_rows(a: Part, b: Part) -> list[dict[str, Any]]:
    """Operators by name. `alone`: the speedup of the whole if only this operator had changed (Amdahl)."""
    whole, other = a.per_token(a.time_ps), b.per_token(b.time_ps)
    rows = []
    for name in dict.fromkeys([*a.operators, *b.operators]):
        device_a, time_a, _ = a.operators.get(name, ("–", 0, False))
        device_b, time_b, _ = b.operators.get(name, ("–", 0, False))
        x, y = a.per_token(time_a), b.per_token(time_b)
        if (device_a, x) == (device_b, y):
            continue
        rows.append(
            {
                "part": a.name,
                "operator": name,
                "device_a": device_a,
                "device_b": device_b,
                "ms_a": x * _MS_PER_PS,
                "ms_b": y * _MS_PER_PS,
                "speedup": _over(x, y),
                "share_a": x / whole,
                "share_of_saved": (x - y) / (whole - other) if whole != other else math.nan,
                "alone": whole / (whole - x + y),
            }
        )
    return sorted(rows, key=lambda row: -abs(row["ms_a"] - row["ms_b"]))


def _counter_rows(a: Part, b: Part) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys([*a.counts, *b.counts]):
        unit = a.units.get(name) or b.units.get(name, "")
        x, y = a.counts.get(name), b.counts.get(name)
        if a.tokens is not None and _adds_up(name, unit):
            x = None if x is None else a.per_token(x)
            y = None if y is None else b.per_token(y)
        if not _equal(x, y):
            ratio = math.nan if x is None or y is None else _over(y, x)
            rows.append({"part": a.name, "counter": name, "unit": unit, "a": x, "b": y, "ratio": ratio})
    return rows


def _equal(x: float | None, y: float | None) -> bool:
    if x is None or y is None:
        # One run has no such device; a counter at 0 says nothing more.
        return not (x or y)
    return x == y or (x != x and y != y) or abs(x - y) <= _SAME * max(abs(x), abs(y))


def _weight(row: Mapping[str, Any]) -> float:
    """How much a difference says: by how much it is (a factor), and of how much (digits)."""
    values = [abs(v) for v in (row["a"], row["b"]) if v is not None and math.isfinite(v)]
    size = math.log1p(max(values, default=0.0))
    ratio = row["ratio"]
    factor = 10.0 if not math.isfinite(ratio) or ratio <= 0 else abs(math.log(ratio))
    return factor * size


def _parameter_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    rows = [
        {"parameter": name, "a": a.get(name), "b": b.get(name)}
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name) and name.rpartition(".")[2] not in _NO_PARAMETERS
    ]
    return pd.DataFrame(rows, columns=["parameter", "a", "b"], dtype=object)


def _gem5_parameters(file: Path) -> dict[str, Any]:
    """The parameters in gem5's config.ini, by object and name; empty when the file is not there.

    Raises RunError when it cannot be read.
    """
    reader = configparser.RawConfigParser(
        strict=False, delimiters=("=",), comment_prefixes=(), empty_lines_in_values=False
    )
    reader.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        reader.read(file, encoding="utf-8")
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise RunError(f"{file}: cannot be read: {error}") from error
    return {f"{section}.{name}": value for section in reader.sections() for name, value in reader.items(section)}


def _explain(a: Part, b: Part) -> list[str]:
    """Where the speedup of one part comes from, as sentences."""
    speedup = _speedup(a, b)
    what = "a token" if a.tokens is not None else "the section"
    lines = [f"{a.name}: {what} takes {_text(1 / speedup)} of the time of A: speedup {_text(speedup)}x."]
    common = [name for name in a.operators if name in b.operators]
    if len(common) > 1:
        lines += _levels(a, b, common)
    elif a.operators and b.operators:
        lines.append(f"{a.name}: the runs have no operators of the same names, so kernels cannot be compared.")
    return lines + _instruction_split(a, b)


def _levels(a: Part, b: Part, common: list[str]) -> list[str]:
    """Kernel, layer and token: how much of the one is left in the other."""
    speed = _speedup(a, b)
    whole = a.per_token(a.time_ps)
    x = {name: a.per_token(a.operators[name][1]) for name in common}
    y = {name: b.per_token(b.operators[name][1]) for name in common}
    moved = [n for n in common if a.operators[n][0] != b.operators[n][0]]
    kernels = moved or [n for n in common if _over(x[n], y[n]) > 1]
    lines = []
    if kernels:
        time_a, time_b = math.fsum(x[n] for n in kernels), math.fsum(y[n] for n in kernels)
        share, factor = time_a / whole, _over(time_a, time_b)
        alone = 1 / (1 - share + share / factor)
        limit = f"at most {_text(1 / (1 - share))}x however fast it gets" if share < 1 else "the whole of it"
        names = ", ".join(sorted(kernels, key=lambda n: -x[n])[:_LISTED]) + (" ..." if len(kernels) > _LISTED else "")
        how = "that changed device" if moved else "that got faster"
        lines.append(
            f"{a.name}, kernel: {_count(kernels)} {how} ({names}), {share:.1%} of A's time, "
            f"{_text(factor)}x as fast. Amdahl: alone that gives 1 / ({1 - share:.4f} + {share:.4f} / {_text(factor)})"
            f" = {_text(alone)}x, {limit}; the rest of the difference to {_text(speed)}x is in the other operators."
        )
    layer = [n for n in common if a.operators[n][2] and b.operators[n][2]]
    if layer:
        time_a, time_b = math.fsum(x[n] for n in layer), math.fsum(y[n] for n in layer)
        lines.append(
            f"{a.name}, layer: the operators of the layers are {time_a / whole:.1%} of A's time and "
            f"{_text(_over(time_a, time_b))}x as fast."
        )
    slower = sorted((n for n in common if y[n] > x[n] * (1 + _SAME)), key=lambda n: x[n] - y[n])
    if slower:
        lost = math.fsum(y[n] - x[n] for n in slower)
        lines.append(
            f"{a.name}: slower in B: {', '.join(slower[:_LISTED])}{' ...' if len(slower) > _LISTED else ''} "
            f"(together {lost / whole:.1%} of A's time)."
        )
    lines.append(f"{a.name}, token: {_text(speed)}x.")
    return lines


def _count(operators: list[str]) -> str:
    return "1 operator" if len(operators) == 1 else f"{len(operators)} operators"


def _instruction_split(a: Part, b: Part) -> list[str]:
    if not (a.instructions and b.instructions and a.time_ps and b.time_ps):
        return []
    x, y = a.per_token(a.instructions), b.per_token(b.instructions)
    lines = [
        f"{a.name}: {_text(_speedup(a, b))}x = {_text(x / y)}x by fewer instructions on the cores x "
        f"{_text((a.time_ps / a.instructions) / (b.time_ps / b.instructions))}x by less time per instruction."
    ]
    if a.cycles and b.cycles:
        cpi_a, cpi_b = a.cycles / a.instructions, b.cycles / b.instructions
        lines.append(f"{a.name}: cycles per instruction, over all cores: {_text(cpi_a)} in A, {_text(cpi_b)} in B.")
    return lines


def _text(value: float) -> str:
    return f"{value:.4g}"

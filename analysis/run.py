"""Run directories: what a simulation left behind, checked before anything is computed from it.

A run directory has ``manifest.json`` (what was simulated, with which versions), ``stats.txt`` (event counts, one
section per region of interest) and ``roi.jsonl`` (what each section was: label, tokens, operators with their times).
The checks here hold the three against each other, so that a half-written or mixed-up directory is an error and not a
result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gempim.analysis.stats import Section, parse_stats
from gempim.quantity import DataError, suggest

SCHEMA = 1
"""Schema version of manifest.json and roi.jsonl that this code reads."""

LABELS = ("prefill", "decode")
"""Labels of regions of interest that count as token generation."""

PIM_DEVICES = ("sram_pim", "logic_pim", "bank_pim")
"""Devices whose work must show in a command count; their statistics are under ``system.<device>.``."""

STATS_NAMES = ("stats.txt", "stats.txt.gz")
"""Names that the statistics file of a run directory may have."""


class RunError(DataError):
    """A run directory is incomplete, damaged, or contradicts itself; the message names the file."""


@dataclass(frozen=True)
class OperatorRow:
    """One operator of one region of interest.

    Times in ps, `flops`, bytes and `pim_commands` are totals over all `count` occurrences; `m`, `n`, `k` and
    `instances` are the shape of one occurrence. `flops` counts 2 per multiply-accumulate.
    """

    name: str
    kind: str
    device: str
    count: int
    time_ps: int
    compute_ps: int
    memory_ps: int
    overhead_ps: int
    flops: int
    dram_read_bytes: int
    dram_write_bytes: int
    limiter: str
    weight_type: str | None
    m: int
    n: int
    k: int
    instances: int
    pim_commands: int

    @property
    def dram_bytes(self) -> int:
        """Bytes read from and written to DRAM."""
        return self.dram_read_bytes + self.dram_write_bytes


@dataclass(frozen=True)
class Roi:
    """One region of interest: a prefill pass or one decode step. `tokens` is summed over the batch; times in ps."""

    section: int
    label: str
    index: int
    tokens: int
    batch: int
    context: int
    sim_ps: int
    operators: tuple[OperatorRow, ...]


@dataclass(frozen=True)
class Run:
    """A complete, checked run."""

    path: Path
    manifest: dict[str, Any]
    sections: tuple[Section, ...]
    rois: tuple[Roi, ...]

    @property
    def name(self) -> str:
        """The name of the run directory."""
        return self.path.name

    @property
    def experiment(self) -> dict[str, Any]:
        """The resolved experiment."""
        return dict(self.manifest["experiment"])

    @property
    def system(self) -> str:
        """Name of the simulated system."""
        return str(plain(self.experiment["system"]["name"]))

    def lookup(self, dotted: str) -> Any:
        """The plain value at a dotted key of the manifest, e.g. ``experiment.workload.batch``.

        Raises RunError that names the run and the nearest key when there is no such key.
        """
        where = self.path if self.path.suffix == ".toml" else self.path / "manifest.json"
        return manifest_value(self.manifest, where, dotted)

    def has(self, dotted: str) -> bool:
        """Whether the manifest has this dotted key, with a value or as a section."""
        try:
            self.lookup(dotted)
        except RunError:
            return False
        return True

    def rois_of(self, label: str) -> tuple[Roi, ...]:
        """Regions of interest with this label, in order."""
        return tuple(roi for roi in self.rois if roi.label == label)

    def section_of(self, roi: Roi) -> Section:
        """The statistics section of a region of interest."""
        return self.sections[roi.section]

    def pim_devices(self) -> tuple[str, ...]:
        """PIM devices that the run has statistics or operators of."""
        used = {op.device for roi in self.rois for op in roi.operators}
        return tuple(
            device
            for device in PIM_DEVICES
            if device in used or any(n.startswith(f"system.{device}.") for s in self.sections for n in s.scalars)
        )


def plain(value: Any) -> Any:
    """The bare value of a number that is written with its unit and source (``{value = ..., unit = ...}``)."""
    if isinstance(value, Mapping) and "value" in value and ("source" in value or "unit" in value):
        return value["value"]
    return value


def manifest_value(manifest: Mapping[str, Any], where: str | Path, dotted: str) -> Any:
    """The plain value at a dotted key of a manifest; `where` names it in errors. Raises RunError as `Run.lookup`."""
    at: Any = manifest
    done: list[str] = []
    for part in dotted.split("."):
        at = plain(at) if isinstance(at, Mapping) and part not in at else at
        if not isinstance(at, Mapping) or part not in at:
            names = list(at) if isinstance(at, Mapping) else []
            raise RunError(
                f"{where}: no key {dotted!r} ({'.'.join(done) or 'top'} has: "
                f"{', '.join(map(str, names)) or 'no keys'}){suggest(part, map(str, names))}"
            )
        at = at[part]
        done.append(part)
    return plain(at)


def load_run(path: str | Path) -> Run:
    """Read and check a run directory; or a mapping file (``.toml``) of somebody else's gem5 run, see `foreign`.

    Raises RunError (or StatsError for the statistics file) that names the file: a file is missing; the manifest's
    status is not "complete"; a schema is not `SCHEMA`; a key is missing or of the wrong type; the number of sections
    and of regions of interest differ; an operator time does not add up; a section's simulated time is not its
    region's.
    """
    folder = Path(path)
    if folder.suffix == ".toml":
        from gempim.analysis.foreign import load_foreign

        return load_foreign(folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: not a run directory (no such folder)")
    manifest = _manifest(folder / "manifest.json")
    sections = tuple(parse_stats(_stats_file(folder)))
    rois = tuple(_rois(folder / "roi.jsonl"))
    if len(rois) != len(sections):
        raise RunError(
            f"{folder}: roi.jsonl has {len(rois)} regions of interest but {sections[0].file.name} has "
            f"{len(sections)} sections; every section needs its line"
        )
    for position, roi in enumerate(rois):
        if roi.section != position:
            raise RunError(f"{folder / 'roi.jsonl'}: line {position + 1}: section {roi.section}, expected {position}")
        _check_times(folder, roi, sections[position])
    return Run(path=folder, manifest=manifest, sections=sections, rois=rois)


def _stats_file(folder: Path) -> Path:
    for name in STATS_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise RunError(f"{folder}: incomplete run: no {' or '.join(STATS_NAMES)}")


def _check_times(folder: Path, roi: Roi, section: Section) -> None:
    where = f"{folder / 'roi.jsonl'}: line {roi.section + 1} ({roi.label} {roi.index})"
    total = sum(op.time_ps for op in roi.operators)
    if total != roi.sim_ps:
        raise RunError(f"{where}: operator times add up to {total} ps, but sim_ps is {roi.sim_ps}")
    ticks, frequency = section.get("simTicks"), section.get("simFreq")
    # simFreq is ticks per second; gem5's default tick is 1 ps.
    if ticks * 10**12 != roi.sim_ps * frequency:
        raise RunError(
            f"{where}: sim_ps is {roi.sim_ps}, but section {section.index} of {section.file.name} says "
            f"{ticks} ticks at {frequency} per second"
        )


def _read_json(file: Path, what: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(f"{file.parent}: incomplete run: no {file.name} ({what})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file}: cannot be read: {error}") from error


def _decode(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RunError(f"{where}: not valid JSON (cut off?): {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value


def _field(table: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: str) -> Any:
    if key not in table:
        raise RunError(f"{where}: missing key {key!r}")
    value = plain(table[key]) if kind is not dict else table[key]
    wrong_bool = isinstance(value, bool) and kind is not bool
    if wrong_bool or not isinstance(value, kind):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise RunError(f"{where}: {key}: expected {names}, got {value!r}")
    return value


def _count(table: Mapping[str, Any], key: str, where: str, least: int = 0) -> int:
    value = _field(table, key, int, where)
    if value < least:
        raise RunError(f"{where}: {key}: expected at least {least}, got {value}")
    return int(value)


def _manifest(file: Path) -> dict[str, Any]:
    manifest = _decode(_read_json(file, "what was simulated"), str(file))
    where = str(file)
    schema = _field(manifest, "schema", int, where)
    if schema != SCHEMA:
        raise RunError(f"{where}: schema {schema}; this version of gempim reads schema {SCHEMA}")
    status = _field(manifest, "status", str, where)
    if status != "complete":
        raise RunError(f"{where}: the run is not complete (status {status!r}); run the experiment again")
    for key in ("kind", "experiment_hash", "created"):
        _field(manifest, key, str, where)
    _field(manifest, "versions", dict, where)
    experiment = _field(manifest, "experiment", dict, where)
    for key in ("engine", "energy_table", "price_key"):
        _field(experiment, key, str, f"{where}: experiment")
    _field(_field(experiment, "system", dict, f"{where}: experiment"), "name", str, f"{where}: experiment.system")
    if "model" not in experiment and str(manifest["kind"]).startswith("gem5"):
        raise _not_a_model(file, experiment)
    model = _field(experiment, "model", dict, f"{where}: experiment")
    for key in ("name", "quant", "arch"):
        _field(model, key, str, f"{where}: experiment.model")
    for key in ("params", "bytes", "n_layers"):
        _count(model, key, f"{where}: experiment.model", least=1)
    workload = _field(experiment, "workload", dict, f"{where}: experiment")
    _count(workload, "batch", f"{where}: experiment.workload", least=1)
    for key in ("prompt", "context", "tokens", "threads"):
        _count(workload, key, f"{where}: experiment.workload")
    return manifest


def _not_a_model(file: Path, experiment: Mapping[str, Any]) -> RunError:
    """A guest program's run has counters and times, but nothing to divide them by."""
    guest = experiment.get("gem5")
    name = guest.get("binary") or guest.get("script") if isinstance(guest, dict) else None
    return RunError(
        f"{file.parent}: a run of the guest program {name or 'in gem5'}, which has no model and no tokens, so no "
        f"tokens/s and no J/token. Its counters: gempim inspect {file.parent}; against another run: gempim diff "
        f"{file.parent} RUN. If its regions are a model's, say how many tokens each made in a mapping file and report "
        f"that: gempim inspect {file.parent} --mapping"
    )


def _rois(file: Path) -> list[Roi]:
    text = _read_json(file, "what each statistics section was")
    if text and not text.endswith("\n"):
        raise RunError(f"{file}: the last line does not end: the file is truncated")
    rois = [_roi(line, f"{file}: line {i}") for i, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not rois:
        raise RunError(f"{file}: no region of interest")
    return rois


def _roi(line: str, where: str) -> Roi:
    row = _decode(line, where)
    schema = _field(row, "schema", int, where)
    if schema != SCHEMA:
        raise RunError(f"{where}: schema {schema}; this version of gempim reads schema {SCHEMA}")
    label = _field(row, "label", str, where)
    if label not in LABELS:
        raise RunError(f"{where}: label {label!r} (allowed: {', '.join(LABELS)}){suggest(label, LABELS)}")
    operators = _field(row, "operators", list, where)
    if not operators:
        raise RunError(f"{where}: no operators")
    return Roi(
        section=_count(row, "section", where),
        label=label,
        index=_count(row, "index", where),
        tokens=_count(row, "tokens", where, least=1),
        batch=_count(row, "batch", where, least=1),
        context=_count(row, "context", where),
        sim_ps=_count(row, "sim_ps", where, least=1),
        operators=tuple(_operator(op, f"{where}: operators[{i}]") for i, op in enumerate(operators)),
    )


def _operator(raw: Any, where: str) -> OperatorRow:
    if not isinstance(raw, dict):
        raise RunError(f"{where}: expected a JSON object, got {raw!r}")
    values: dict[str, Any] = {}
    for item in fields(OperatorRow):
        if item.name in ("name", "kind", "device", "limiter"):
            values[item.name] = _field(raw, item.name, str, where)
        elif item.name == "weight_type":
            values[item.name] = _field(raw, item.name, (str, type(None)), where)
        else:
            values[item.name] = _count(raw, item.name, where)
    return OperatorRow(**values)

"""Run directories of serving: what was served, checked before anything is computed from it.

Beside ``manifest.json`` and ``result.json``, as every run has, there are ``stats.txt`` and ``roi.jsonl`` with one
section for each kind of stage and layer kind, ``requests.csv`` (a line an answered request), ``gaps.csv`` (times
between tokens of one sequence, and how often each occurred) and ``serve.json`` (totals).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gempim.analysis.run import RunError, plain
from gempim.analysis.stats import Section, parse_stats

SCHEMA = 1
"""Schema version of serving runs that this code reads."""

STAGES = ("decode", "mixed", "prefill")
LAYERS = ("fc", "attention", "moe", "communication", "other")

REQUEST_COLUMNS = ("id", "node", "prompt", "output", "arrival_ps", "admitted_ps", "first_ps", "end_ps")
"""Columns of requests.csv; `first_ps` is -1 for a request that was in the middle of its answer when the run began."""

GAP_COLUMNS = ("gap_ps", "tokens")


@dataclass(frozen=True)
class Operator:
    """One operator on one unit, over all stages of a kind; `busy_ps` may be hidden behind another unit's `time_ps`."""

    name: str
    unit: str
    count: int
    time_ps: int
    busy_ps: int
    ops: int
    bytes: int


@dataclass(frozen=True)
class Part:
    """One section: a layer kind in a kind of stage."""

    section: int
    stage: str
    layer: str
    sim_ps: int
    operators: tuple[Operator, ...]


@dataclass(frozen=True)
class ServeRun:
    """A complete, checked serving run."""

    path: Path
    manifest: dict[str, Any]
    sections: tuple[Section, ...]
    parts: tuple[Part, ...]
    requests: tuple[dict[str, int], ...]
    gaps: dict[int, int]
    totals: dict[str, Any]

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
        """Name of the system."""
        return str(plain(self.experiment["system"]["name"]))

    @property
    def devices(self) -> int:
        """How many devices served."""
        return int(self.experiment["devices"])

    def label(self) -> str:
        """System and devices: ``gpu-h100 x4``."""
        return f"{self.system} x{self.devices}"


def is_serve_run(path: str | Path) -> bool:
    """Whether a folder is a serving run, complete or not, by its manifest."""
    try:
        manifest = json.loads((Path(path) / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("kind") == "serve"


def load_serve_run(path: str | Path) -> ServeRun:
    """Read and check a serving run.

    Raises RunError that names the file: a file is missing or cut off; the status is not "complete"; the schema is not
    `SCHEMA`; sections and lines do not match; times or tokens do not add up.
    """
    folder = Path(path)
    manifest = _json(folder / "manifest.json")
    if manifest.get("schema") != SCHEMA or manifest.get("kind") != "serve" or manifest.get("status") != "complete":
        raise RunError(f"{folder / 'manifest.json'}: expected a complete serving run of schema {SCHEMA}")
    sections = tuple(parse_stats(_file(folder / "stats.txt")))
    parts = tuple(_part(i, line, folder) for i, line in enumerate(_lines(folder / "roi.jsonl")))
    if len(parts) != len(sections):
        raise RunError(f"{folder}: {len(parts)} lines in roi.jsonl for {len(sections)} sections in stats.txt")
    totals = _json(folder / "serve.json")
    requests = tuple(_table(folder / "requests.csv", REQUEST_COLUMNS))
    gaps = {row["gap_ps"]: row["tokens"] for row in _table(folder / "gaps.csv", GAP_COLUMNS)}
    run = ServeRun(folder, manifest, sections, parts, requests, gaps, totals)
    _check(run)
    return run


def _check(run: ServeRun) -> None:
    for part, section in zip(run.parts, run.sections, strict=True):
        ticks = section.get("simTicks")
        total = sum(op.time_ps for op in part.operators)
        if not ticks == total == part.sim_ps:
            raise RunError(
                f"{run.path / 'roi.jsonl'}: line {part.section + 1} ({part.stage}, {part.layer}): {part.sim_ps} ps, its"
                f" operators {total} ps, section of stats.txt {ticks}"
            )
    where = run.path / "serve.json"
    for stage, total in run.totals["stages"].items():
        found = sum(part.sim_ps for part in run.parts if part.stage == stage)
        if found != total["time_ps"]:
            raise RunError(f"{where}: stages.{stage}.time_ps is {total['time_ps']}, its layers have {found}")
    made = sum(total["tokens"] for total in run.totals["stages"].values())
    if made != run.totals["tokens"]:
        raise RunError(f"{where}: tokens is {run.totals['tokens']}, stages have {made}")
    if run.totals["most_reserved"] > run.totals["capacity_tokens"]:
        raise RunError(f"{where}: more KV cache was promised than there is")


def _file(path: Path) -> Path:
    if not path.is_file():
        raise RunError(f"{path.parent}: incomplete run: no {path.name}")
    return path


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: not valid JSON (cut off?): {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: expected a JSON object")
    return value


def _lines(path: Path) -> list[str]:
    text = _file(path).read_text(encoding="utf-8")
    if not text.endswith("\n"):
        raise RunError(f"{path}: the last line does not end: the file is truncated")
    return text.splitlines()


def _table(path: Path, columns: tuple[str, ...]) -> list[dict[str, int]]:
    rows = list(csv.reader(_lines(path)))
    if not rows or tuple(rows[0]) != columns:
        raise RunError(f"{path}: expected the columns {', '.join(columns)}")
    try:
        return [dict(zip(columns, map(int, row), strict=True)) for row in rows[1:]]
    except ValueError as error:
        raise RunError(f"{path}: expected whole numbers in {len(columns)} columns: {error}") from error


def _part(index: int, line: str, folder: Path) -> Part:
    where = f"{folder / 'roi.jsonl'}: line {index + 1}"
    try:
        row: Mapping[str, Any] = json.loads(line)
        part = Part(
            section=row["section"],
            stage=row["stage"],
            layer=row["layer"],
            sim_ps=row["sim_ps"],
            operators=tuple(Operator(**op) for op in row["operators"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{where}: not a section of a serving run: {error!r}") from error
    if part.section != index or part.stage not in STAGES or part.layer not in LAYERS:
        raise RunError(f"{where}: section {part.section}, stage {part.stage!r}, layer {part.layer!r}: not as expected")
    return part

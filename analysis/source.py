"""Counters of anything that left statistics: a run directory of any engine, a stats file, somebody else's gem5 output.

A `Run` (see `run`) is of a model and has tokens; a `Source` may have neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gempim.analysis.run import STATS_NAMES, RunError, plain
from gempim.analysis.stats import Section, iter_stats
from gempim.analysis.stats.read import Keep


@dataclass(frozen=True)
class Region:
    """What a roi.jsonl says of one section; `tokens` is None where it does not say."""

    label: str
    index: int
    tokens: int | None


@dataclass(frozen=True)
class Source:
    """A statistics file with what lies beside it. `manifest` is empty where there is none."""

    path: Path
    stats: Path
    regions: dict[int, Region]
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The run directory's name, or the file with the folder that tells it from others of its name."""
        if self.path.is_dir():
            return self.path.resolve().name
        return f"{self.path.resolve().parent.name}/{self.path.name}"

    def sections(self, keep: Keep | None = None) -> Iterator[Section]:
        """The sections, one at a time. Raises StatsError, see `iter_stats`."""
        return iter_stats(self.stats, keep)

    def label(self, index: int) -> str:
        """The label of a section's region of interest, empty when nothing says it."""
        return self.regions[index].label if index in self.regions else ""

    def parameters(self) -> dict[str, Any]:
        """The experiment's parameters by dotted name, as bare values; empty without a manifest."""
        return flat_parameters(self.manifest)


def flat_parameters(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a manifest's experiment by dotted name, as bare values."""
    return dict(_flat(manifest.get("experiment", {}), ""))


def open_source(path: str | Path) -> Source:
    """A run directory or a statistics file, without checking that it is complete.

    Raises RunError when there is no statistics file, or what lies beside it is not JSON.
    """
    at = Path(path)
    if at.suffix == ".toml":
        raise RunError(f"{at}: a mapping file; name the statistics file in it, or use: gempim report {at}")
    if not at.is_dir():
        if not at.is_file():
            raise RunError(f"{at}: no such file or folder; expected a run directory or a statistics file of gem5's")
        return Source(path=at, stats=at, regions=_regions(at.parent / "roi.jsonl"))
    stats = next((at / name for name in STATS_NAMES if (at / name).is_file()), None)
    if stats is None:
        raise RunError(f"{at}: no {' or '.join(STATS_NAMES)} in this folder")
    return Source(path=at, stats=stats, regions=_regions(at / "roi.jsonl"), manifest=_manifest(at / "manifest.json"))


def _regions(file: Path) -> dict[int, Region]:
    found = {}
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        row = _object(line, f"{file}: line {number}")
        section, index = row.get("section"), row.get("index", 0)
        # A serving run has a stage and the layers of it in the place of a label.
        label = row.get("label", " ".join(str(row[key]) for key in ("stage", "layer") if key in row) or None)
        if not isinstance(section, int) or not isinstance(label, str) or not isinstance(index, int):
            raise RunError(f"{file}: line {number}: expected a section and an index (numbers) and a label (text)")
        tokens = row.get("tokens")
        found[section] = Region(label, index, tokens if isinstance(tokens, int) else None)
    return found


def _manifest(file: Path) -> dict[str, Any]:
    text = _text(file)
    return _object(text, str(file)) if text else {}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file}: cannot be read: {error}") from error


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{where}: not valid JSON (cut off?): {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    value = plain(value)
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value

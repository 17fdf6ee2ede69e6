"""Loading recorded pattern statistics: which share of PRT lookups hit, measured on real activations.

A statistics file is made by ``python -m gempim.patterns record`` (see `gempim.patterns.record` for what was run and
`gempim.patterns.prt` for what counts as a hit). Only measured values are given out: whatever was not recorded is an
error, never a guess; the one exception, batch sizes between recorded ones, is described at `PatternStats.hit_rate`.
"""

from __future__ import annotations

import bisect
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gempim.quantity import DataError

SCHEMA = 1
RATE_UNIT = "hits per 10000 lookups"

_DATA = Path(__file__).resolve().parent.parent / "data"

INPUT_OF_ROLE = {
    "attn_q": "attn_qkv",
    "attn_k": "attn_qkv",
    "attn_v": "attn_qkv",
    "attn_qkv": "attn_qkv",
    "attn_output": "attn_output",
    "ffn_gate": "ffn_gate_up",
    "ffn_up": "ffn_gate_up",
    "ffn_gate_up": "ffn_gate_up",
    "ffn_down": "ffn_down",
    "ffn_gate_inp": "ffn_gate_up",
    "ffn_gate_exps": "ffn_gate_up",
    "ffn_up_exps": "ffn_gate_up",
    "ffn_down_exps": "ffn_down",
    "output": "output",
}
"""Operator role -> recorded matmul input. Operators that read the same activations share one record.

The fused and mixture-of-experts roles are of other models: the measured one has none of them (see `applied_to`).
"""

KIND_OF_ACTIVATION_TYPE = {"q8_0": "block32", "q8_1": "block32", "q8_K": "block256"}
"""llama.cpp activation format -> recorded quantisation kind (q8_0 and q8_1 hold the same integers)."""

SCOPES = ("vector", "group")
PHASES = ("prefill", "decode")


class PatternError(DataError):
    """A statistics file that cannot be read, or a value that was not recorded; names the file and the key."""


def bundled_text() -> Path:
    """The public-domain passage that the shipped statistics were measured on."""
    return _DATA / "text" / "alice-in-wonderland-ch1.txt"


@dataclass(frozen=True)
class PatternStats:
    """Hit rates of one recording.

    ``applied_to`` names the model the rates are used for when that is not the model they were measured on.
    """

    name: str
    path: Path
    model: str
    command: str
    activation_bits: tuple[int, ...]
    batches: tuple[int, ...]
    rates: Mapping[str, Any]
    applied_to: str | None = None

    def for_model(self, model: str) -> PatternStats:
        """The same rates, marked as applied to ``model`` (kept unmarked when it is the measured one)."""
        return replace(self, applied_to=None if model in (self.model, self.name) else model)

    @property
    def provenance(self) -> str:
        """One line for a report: what was measured, and on which other model it is used."""
        line = f"pattern reuse measured on {self.model}"
        return line if self.applied_to is None else f"{line}; applied to {self.applied_to}"

    def hit_rate(
        self,
        role: str,
        nbw: int,
        activation_bits: int,
        scope: str,
        batch: int,
        entries: int,
        *,
        phase: str = "decode",
        activation_type: str = "q8_1",
    ) -> float:
        """Mean PRT hits per lookup, 0..1, LRU replacement.

        role: an operator role of INPUT_OF_ROLE. scope: "vector" (reuse among the bit planes of one vector; batch does
        not matter) or "group" (also across the batch's vectors). phase: "prefill" or "decode". activation_type:
        llama.cpp's activation format, which decides the scale blocks.

        Table sizes: those recorded, and any size that cannot overflow where a recorded one cannot either (both then
        miss exactly once per distinct pattern). Batch: between two recorded sizes the misses per weight group,
        (1 - rate) * batch, are interpolated linearly; beyond them is an error. Raises PatternError.
        """
        return self._value("mean", role, nbw, activation_bits, scope, batch, entries, phase, activation_type)

    def hit_rate_std(
        self,
        role: str,
        nbw: int,
        activation_bits: int,
        scope: str,
        batch: int,
        entries: int,
        *,
        phase: str = "decode",
        activation_type: str = "q8_1",
    ) -> float:
        """Standard deviation of `hit_rate` over layers and batches, recorded batch sizes only."""
        if scope == "group" and batch not in self.batches:
            raise self._missing("batch", batch, self.batches)
        return self._value("std", role, nbw, activation_bits, scope, batch, entries, phase, activation_type)

    def _value(
        self, what: str, role: str, nbw: int, bits: int, scope: str, batch: int, entries: int, phase: str, a_type: str
    ) -> float:
        for key, value, allowed in (
            ("role", role, INPUT_OF_ROLE),
            ("scope", scope, SCOPES),
            ("phase", phase, PHASES),
            ("activation_type", a_type, KIND_OF_ACTIVATION_TYPE),
            ("activation_bits", bits, self.activation_bits),
        ):
            if value not in allowed:
                raise self._missing(key, value, allowed)
        by_entries = self.rates[phase][KIND_OF_ACTIVATION_TYPE[a_type]][INPUT_OF_ROLE[role]]
        if batch < 1 or (scope == "group" and not self.batches[0] <= batch <= self.batches[-1]):
            raise self._missing("batch", batch, f"{self.batches[0]}..{self.batches[-1]}")
        if scope == "vector":
            batch = 1

        def recorded(size: int) -> float:
            table = self._table(by_entries, nbw, bits, size, entries)
            return float(table[what][self.activation_bits.index(bits)][self.batches.index(size)] / 10000)

        above = bisect.bisect_left(self.batches, batch)
        if self.batches[above] == batch:
            return recorded(batch)
        low, high = self.batches[above - 1], self.batches[above]
        low_misses, high_misses = (1 - recorded(low)) * low, (1 - recorded(high)) * high
        misses = low_misses + (high_misses - low_misses) * (batch - low) / (high - low)
        return 1 - misses / batch

    def _table(self, by_entries: Mapping[str, Any], nbw: int, bits: int, batch: int, entries: int) -> Mapping[str, Any]:
        """The recorded table for ``entries``, or one that never overflows where ``entries`` does not either."""
        holding = {int(key.removeprefix("entries_")) for key, tables in by_entries.items() if f"nbw_{nbw}" in tables}
        if not holding:
            known = sorted({int(key.removeprefix("nbw_")) for tables in by_entries.values() for key in tables})
            raise self._missing("nbw", nbw, known)
        needed = min(2**nbw, bits * batch)
        same = {size for size in holding if size == entries or min(size, entries) >= needed}
        if not same:
            raise self._missing(f"entries (at nbw {nbw}, batch {batch})", entries, sorted(holding))
        table: Mapping[str, Any] = by_entries[f"entries_{min(same)}"][f"nbw_{nbw}"]
        return table

    def _missing(self, key: str, value: object, recorded: object) -> PatternError:
        allowed = recorded if isinstance(recorded, str) else ", ".join(str(item) for item in recorded)  # type: ignore[attr-defined]
        return PatternError(f"{self.path.name}: {key}: {value!r} was not recorded; recorded: {allowed}")


def load_patterns(name: str, applied_to: str | None = None) -> PatternStats:
    """Load shipped statistics by name ("smollm2-135m"); ``applied_to`` as in `PatternStats.for_model`.

    Raises PatternError naming the available recordings when there is none of that name.
    """
    path = _DATA / "patterns" / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.toml")))
        raise PatternError(f"patterns: no recording named {name!r}; available: {known}")
    stats = load_patterns_file(path)
    return stats if applied_to is None else stats.for_model(applied_to)


def load_patterns_file(path: Path) -> PatternStats:
    """Load and check a statistics file; PatternError names the file, the key and what was expected."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise PatternError(f"{path}: not a TOML file: {err}") from err

    def need(key: str, kind: type) -> Any:
        value: Any = data
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            raise PatternError(f"{path}: {key}: expected {kind.__name__}, got {value!r}")
        return value

    if need("schema", int) != SCHEMA:
        raise PatternError(f"{path}: schema: expected {SCHEMA}, got {data['schema']}")
    if need("hit_rate.unit", str) != RATE_UNIT:
        raise PatternError(f"{path}: hit_rate.unit: expected {RATE_UNIT!r}, got {data['hit_rate']['unit']!r}")
    bits, batches = tuple(need("axes.activation_bits", list)), tuple(need("axes.batch", list))
    for key, axis in (("axes.activation_bits", bits), ("axes.batch", batches)):
        if not axis or list(axis) != sorted(set(axis)) or not all(isinstance(v, int) and v > 0 for v in axis):
            raise PatternError(f"{path}: {key}: expected increasing positive integers, got {list(axis)}")
    if batches[0] != 1:
        raise PatternError(f"{path}: axes.batch: expected to start at 1, got {batches[0]}")
    rates: dict[str, Any] = {}
    for phase in PHASES:
        for kind in sorted(set(KIND_OF_ACTIVATION_TYPE.values())):
            for name in sorted(set(INPUT_OF_ROLE.values())):
                key = f"hit_rate.{phase}.{kind}.{name}"
                tables = need(key, dict)
                _check_tables(path, key, tables, len(bits), len(batches))
                rates.setdefault(phase, {}).setdefault(kind, {})[name] = tables
    return PatternStats(
        name=need("name", str),
        path=path,
        model=Path(need("model.file", str)).stem,
        command=need("recording.command", str),
        activation_bits=bits,
        batches=batches,
        rates=rates,
    )


def _check_tables(path: Path, key: str, tables: Mapping[str, Any], n_bits: int, n_batches: int) -> None:
    for entries, by_nbw in tables.items():
        if not entries.removeprefix("entries_").isdigit() or not isinstance(by_nbw, dict) or not by_nbw:
            raise PatternError(f"{path}: {key}.{entries}: expected a table entries_<size> of tables nbw_<n>")
        for nbw, table in by_nbw.items():
            where = f"{key}.{entries}.{nbw}"
            if not nbw.removeprefix("nbw_").isdigit() or not isinstance(table, dict) or set(table) != {"mean", "std"}:
                raise PatternError(f"{path}: {where}: expected a table nbw_<n> with mean and std")
            for what, rows in table.items():
                good = isinstance(rows, list) and [len(row) for row in rows] == [n_batches] * n_bits
                if not good or not all(isinstance(v, int) and 0 <= v <= 10000 for row in rows for v in row):
                    raise PatternError(
                        f"{path}: {where}.{what}: expected {n_bits} lists of {n_batches} integers 0..10000, got {rows}"
                    )

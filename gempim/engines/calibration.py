"""Calibration of a CPU: cycles and instructions of each kernel, and the cost of what surrounds the kernels.

A calibration is a TOML file in gempim/data/calibration. Kernels are measured (or analysed) per block: one
quantisation block of one weight row against one activation row; an elementwise kernel's block is the elements of one
loop iteration. Everything in the file is checked: an unknown or missing key is a `DataError` that names file and key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from gempim.quantity import DataError, check_keys, load_toml, parse_quantity

FOLDER = Path(__file__).resolve().parent.parent / "data" / "calibration"

SCHEMA = 1

ROLES = ("dot", "gemv", "gemm", "quantize", "elementwise")

CLASSES = ("vector", "scalar", "load", "store", "branch")
"""Classes of instructions; every executed instruction is in exactly one. Loads and stores of vector registers are
load and store."""

ORIGIN_KEYS = (
    "method",
    "date",
    "command",
    "cpu",
    "analyser",
    "compiler",
    "flags",
    "sources",
    "sources_sha256",
    "check",
)

_KERNEL_TEXTS = ("role", "function", "loop", "note")
_KERNEL_UNITS = {
    "block_elements": "elements",
    "tile_rows": "rows",
    "tile_columns": "rows",
    "cycles_per_block": "cycles",
    "call_cycles": "cycles",
    "load_bytes_per_block": "bytes",
    "store_bytes_per_block": "bytes",
    **{f"{kind}_per_block": "instructions" for kind in CLASSES},
    **{f"{kind}_per_call": "instructions" for kind in CLASSES},
}


@dataclass(frozen=True)
class KernelCost:
    """What one kernel costs, with its operands in the L1 data cache and its branches predicted.

    Attributes:
        name: key in the file.
        role: one of ROLES.
        block_elements: elements of one block.
        tile_rows, tile_columns: weight rows and activation rows that the kernel works on at a time (both 1 unless
            repacked).
        cycles_per_block: cycles for one block of one weight row against one activation row.
        call_cycles: fixed cycles of one call, that is one tile over its whole row length.
        per_block, per_call: instructions by class, in the same scopes.
        load_bytes_per_block, store_bytes_per_block: bytes the block's loads and stores move between registers and
            the L1 cache.
    """

    name: str
    role: str
    block_elements: int
    tile_rows: int
    tile_columns: int
    cycles_per_block: float
    call_cycles: float
    load_bytes_per_block: float
    store_bytes_per_block: float
    per_block: Mapping[str, float]
    per_call: Mapping[str, float]


@dataclass(frozen=True)
class RuntimeCost:
    """Costs outside the kernels, all in cycles: llama.cpp's and the operating system's part of an operator.

    Attributes:
        barrier_base_cycles, barrier_cycles_per_thread: a barrier of T > 1 threads takes base + per_thread * T; of
            one thread nothing.
        operator_cycles: dispatch of one graph node, in every thread.
        chunk_cycles: one more chunk of work fetched from the shared counter.
        dot_call_cycles: the loop around one vec_dot call (address arithmetic, indirect call).
        rope_angle_cycles: one sine and cosine for the rotation table.
        embed_cycles_per_element: dequantisation of an embedding row.
        relu_cycles_per_element: max with zero.
    """

    barrier_base_cycles: float
    barrier_cycles_per_thread: float
    operator_cycles: float
    chunk_cycles: float
    dot_call_cycles: float
    rope_angle_cycles: float
    embed_cycles_per_element: float
    relu_cycles_per_element: float


@dataclass(frozen=True)
class MemoryCost:
    """What bounds the bandwidth of one core: outstanding cache lines over latency (Little's law).

    Attributes:
        outstanding_lines: cache lines one core's L2 can have in flight.
        line_bytes: bytes of a cache line.
        dram_latency_ns, llc_latency_ns: load-to-use latency of an access that goes to DRAM, and of one the
            last-level cache answers.
        llc_bytes_per_cycle: width of a core's port to the last-level cache.
    """

    outstanding_lines: float
    line_bytes: float
    dram_latency_ns: float
    llc_latency_ns: float
    llc_bytes_per_cycle: float

    @property
    def core_dram_bytes_per_s(self) -> float:
        """outstanding_lines * line_bytes / dram_latency: what one core can draw from DRAM."""
        return self.outstanding_lines * self.line_bytes / (self.dram_latency_ns * 1e-9)

    def core_llc_bytes_per_s(self, frequency_hz: float) -> float:
        """min(outstanding_lines * line_bytes / llc_latency, port width * frequency)."""
        by_latency = self.outstanding_lines * self.line_bytes / (self.llc_latency_ns * 1e-9)
        return min(by_latency, self.llc_bytes_per_cycle * frequency_hz)


_Section = TypeVar("_Section", RuntimeCost, MemoryCost)

_SECTION_UNITS: dict[type, dict[str, str]] = {
    RuntimeCost: {field.name: "cycles" for field in fields(RuntimeCost)},
    MemoryCost: {
        "outstanding_lines": "lines",
        "line_bytes": "bytes",
        "dram_latency_ns": "ns",
        "llc_latency_ns": "ns",
        "llc_bytes_per_cycle": "bytes/cycle",
    },
}


@dataclass(frozen=True)
class Calibration:
    """A whole calibration file."""

    file: str
    name: str
    origin: Mapping[str, str]
    kernels: Mapping[str, KernelCost]
    runtime: RuntimeCost
    memory: MemoryCost
    choices: tuple[tuple[str, float, str, str], ...]

    def kernel(self, name: str) -> KernelCost:
        """The kernel `name`. Raises DataError naming the file when it was not calibrated."""
        if name not in self.kernels:
            raise DataError(
                f"{self.file}: kernels: {name} is not calibrated (there are: {', '.join(sorted(self.kernels))})"
            )
        return self.kernels[name]


def calibration_path(name: str) -> Path:
    """The file of the calibration `name`. Raises DataError listing what there is."""
    path = FOLDER / f"{name}.toml"
    if not path.is_file():
        there = ", ".join(sorted(other.stem for other in FOLDER.glob("*.toml"))) or "none"
        raise DataError(f"calibration {name!r} does not exist (there are: {there})")
    return path


def load_calibration(source: str | Path) -> Calibration:
    """Read a calibration by name ("neoverse-n1") or by path to a .toml file.

    Raises:
        DataError: no such file, or file and key of whatever in it is missing, unknown, or not in the expected unit
            or range.
    """
    path = Path(source) if str(source).endswith(".toml") else calibration_path(str(source))
    data = load_toml(path)
    check_keys(data, file=path, required=("schema", "name", "origin", "memory", "runtime", "kernels"))
    if data["schema"] != SCHEMA:
        raise DataError(f"{path}: schema: expected {SCHEMA}, got {data['schema']!r}")
    name = data["name"]
    if not isinstance(name, str) or not name:
        raise DataError(f"{path}: name: expected text, got {name!r}")
    choices: list[tuple[str, float, str, str]] = []
    kernels = _table(data, "kernels", path)
    if not kernels:
        raise DataError(f"{path}: kernels: expected at least one kernel")
    return Calibration(
        file=str(path),
        name=name,
        origin=_origin(_table(data, "origin", path), path),
        kernels={key: _kernel(key, _table(kernels, key, path, "kernels."), path) for key in kernels},
        runtime=_section(RuntimeCost, _table(data, "runtime", path), path, "runtime", choices),
        memory=_section(MemoryCost, _table(data, "memory", path), path, "memory", choices),
        choices=tuple(choices),
    )


def _table(data: Mapping[str, Any], key: str, path: Path, prefix: str = "") -> Mapping[str, Any]:
    value = data[key]
    if not isinstance(value, Mapping):
        raise DataError(f"{path}: {prefix}{key}: expected a table, got {value!r}")
    return value


def _origin(raw: Mapping[str, Any], path: Path) -> dict[str, str]:
    check_keys(raw, file=path, key="origin", required=ORIGIN_KEYS)
    for key, value in raw.items():
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{path}: origin.{key}: expected text, got {value!r}")
    return dict(raw)


def _section(
    kind: type[_Section], raw: Mapping[str, Any], path: Path, key: str, choices: list[tuple[str, float, str, str]]
) -> _Section:
    units = _SECTION_UNITS[kind]
    check_keys(raw, file=path, key=key, required=units)
    values: dict[str, float] = {}
    for name, unit in units.items():
        quantity = parse_quantity(raw[name], file=path, key=f"{key}.{name}", unit=unit)
        values[name] = _number(quantity.value, f"{path}: {key}.{name}", least=0.0, above=kind is MemoryCost)
        if quantity.kind == "choice":
            choices.append((f"{key}.{name}", values[name], unit, quantity.source))
    return kind(**values)


def _kernel(name: str, raw: Mapping[str, Any], path: Path) -> KernelCost:
    key = f"kernels.{name}"
    check_keys(raw, file=path, key=key, required=(*_KERNEL_TEXTS[:3], *_KERNEL_UNITS), optional=("note",))
    if raw["role"] not in ROLES:
        raise DataError(f"{path}: {key}.role: {raw['role']!r} is none of {', '.join(ROLES)}")
    for text in _KERNEL_TEXTS:
        if text in raw and not isinstance(raw[text], str):
            raise DataError(f"{path}: {key}.{text}: expected text, got {raw[text]!r}")
    numbers: dict[str, float] = {}
    for field, unit in _KERNEL_UNITS.items():
        value = parse_quantity(raw[field], file=path, key=f"{key}.{field}", unit=unit).value
        positive = field in ("block_elements", "tile_rows", "tile_columns", "cycles_per_block")
        numbers[field] = _number(value, f"{path}: {key}.{field}", least=0.0, above=positive)
    whole: dict[str, int] = {}
    for field in ("block_elements", "tile_rows", "tile_columns"):
        if numbers[field] != int(numbers[field]):
            raise DataError(f"{path}: {key}.{field}: expected a whole number, got {numbers[field]}")
        whole[field] = int(numbers[field])
    return KernelCost(
        name=name,
        role=raw["role"],
        block_elements=whole["block_elements"],
        tile_rows=whole["tile_rows"],
        tile_columns=whole["tile_columns"],
        cycles_per_block=numbers["cycles_per_block"],
        call_cycles=numbers["call_cycles"],
        load_bytes_per_block=numbers["load_bytes_per_block"],
        store_bytes_per_block=numbers["store_bytes_per_block"],
        per_block={kind: numbers[f"{kind}_per_block"] for kind in CLASSES},
        per_call={kind: numbers[f"{kind}_per_call"] for kind in CLASSES},
    )


def _number(value: object, where: str, *, least: float, above: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: expected a number, got {value!r}")
    if value < least or (above and value == least):
        raise DataError(f"{where}: expected a number {'above' if above else 'of at least'} {least:g}, got {value!r}")
    return float(value)

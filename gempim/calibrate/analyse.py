"""From a kernel's assembly to cycles and instructions per block."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gempim.calibrate import asm
from gempim.calibrate.asm import AsmError, Function, Insn, Loop
from gempim.calibrate.kernels import PROBES, Kernel
from gempim.calibrate.toolchain import Compiler, Mca

DECODE_WIDTH = 4
"""Instructions that Neoverse-N1 decodes a cycle (Arm Neoverse N1 Software Optimization Guide, chapter 2); llvm-mca's
model dispatches 8 micro-operations a cycle and has no decoder, so the decode limit is applied beside it."""

CALL_INSTRUCTIONS = 1500
"""A call's fixed cost is taken from calls of about this many loop instructions: rows as long as real ones."""


@dataclass(frozen=True)
class Located:
    """A kernel found in the assembly: the sequence one iteration executes and what it covers."""

    kernel: Kernel
    label: str
    function: Function
    loop: Loop
    trips: Mapping[int, int]
    body: Sequence[Insn]
    blocks: int
    alternatives: tuple[str, ...]

    @property
    def tiles(self) -> int:
        """Blocks of single weight rows against single activation rows in one iteration."""
        return self.blocks * self.kernel.tile_rows * self.kernel.tile_columns

    def call(self, iterations: int) -> list[Insn]:
        """One call (or one turn of the loop around) with so many iterations of the block loop."""
        trips = {**self.trips, self.loop.header: iterations}
        parents = [loop for loop in self.function.loops() if self.loop.body < loop.body]
        if parents:
            return min(parents, key=lambda loop: len(loop.body)).iteration(trips, self.kernel.path)
        return asm.linearise_call(self.function, trips, self.kernel.path)


@dataclass(frozen=True)
class Counted:
    """Instructions of a kernel, counted in its assembly, per block of one weight row against one activation row and
    per call."""

    located: Located
    instructions: Mapping[str, float]
    call_instructions: Mapping[str, float]
    load_bytes: float
    store_bytes: float


@dataclass(frozen=True)
class Cost:
    """Cycles of a block of one weight row against one activation row and of a call, each with the words on where it
    comes from and its kind (one of `gempim.quantity.KINDS`)."""

    cycles_per_block: float
    cycles_source: str
    call_cycles: float
    call_source: str
    kind: str


@dataclass(frozen=True)
class Measured:
    """What is known of a kernel."""

    counted: Counted
    cost: Cost

    @property
    def located(self) -> Located:
        """The kernel in its assembly."""
        return self.counted.located


def locate(kernel: Kernel, text: str) -> Located:
    """Find the kernel's loop in the assembly of its source file.

    Raises:
        AsmError: function or loop not found, or the pointers do not move by whole blocks.
    """
    labels = [label for label in re.findall(r"^([\w$.]+):", text, re.MULTILINE) if re.fullmatch(kernel.function, label)]
    if len(labels) != 1:
        raise AsmError(
            f"{kernel.name}: {len(labels)} functions match {kernel.function!r}: {', '.join(labels) or 'none'}"
        )
    function = asm.parse_function(text, labels[0])
    choice = asm.find_loop(function, kernel.marker, kernel.level, kernel.rank)
    inner = sorted(choice.loop.descendants(), key=lambda loop: loop.header)
    body = choice.loop.linearise(kernel.trips, kernel.path)
    if any(insn.mnemonic in ("bl", "blr") for insn in body):
        raise AsmError(f"{kernel.name}: loop {choice.loop.label} calls another function, whose time would be missing")
    trips = {loop.header: count for loop, count in zip(inner, kernel.trips, strict=True)}
    blocks = _blocks_per_iteration(kernel, body)
    return Located(kernel, labels[0], function, choice.loop, trips, body, blocks, choice.alternatives)


def _blocks_per_iteration(kernel: Kernel, body: Sequence[Insn]) -> int:
    """How many blocks one iteration covers, from the pointer increments (or as the kernel's table says)."""
    if not kernel.steps:
        return kernel.blocks
    moved = sorted(set(asm.increments(body).values()))
    for blocks in range(1, 17):
        if all(step * blocks in moved for step in kernel.steps):
            return blocks
    raise AsmError(
        f"{kernel.name}: pointers move by {moved} bytes an iteration, expected a multiple of {kernel.steps} together"
    )


def _long_call(located: Located) -> tuple[int, list[Insn]]:
    """Iterations of a call of about CALL_INSTRUCTIONS instructions, and the call."""
    iterations = max(1, -(-CALL_INSTRUCTIONS // len(located.body)))
    return iterations, located.call(iterations)


def count(located: Located) -> Counted:
    """Instructions of a located kernel. Those of a call are what a whole call executes beyond its iterations."""
    body, tiles = located.body, located.tiles
    counts, call_mix = asm.mix(body), dict.fromkeys(asm.CLASSES, 0.0)
    if located.kernel.outer:
        iterations, call = _long_call(located)
        # A way into an inner loop's exit may skip a few loop instructions: never count them negative.
        call_mix = {kind: max(0.0, float(n - iterations * counts[kind])) for kind, n in asm.mix(call).items()}
    return Counted(
        located,
        instructions={kind: n / tiles for kind, n in counts.items()},
        call_instructions=call_mix,
        load_bytes=asm.load_bytes(body) / tiles,
        store_bytes=sum(insn.memory_bytes for insn in body if insn.kind == "store") / tiles,
    )


def analyse_cycles(located: Located, mca: Mca) -> Cost:
    """Cycles of a located kernel by static analysis.

    cycles = max(llvm-mca's steady state, instructions / DECODE_WIDTH). The fixed cost of a call is what a whole call
    takes beyond its iterations when calls follow one another, so the overlap of one call's end with the next one's
    start is in it.
    """
    body, tiles = located.body, located.tiles
    mca_cycles = mca.cycles(body)
    cycles = max(mca_cycles, len(body) / DECODE_WIDTH)
    call_cycles = 0.0
    if located.kernel.outer:
        iterations, call = _long_call(located)
        call_cycles = max(0.0, max(mca.cycles(call), len(call) / DECODE_WIDTH) - iterations * cycles)
    steady = f"{mca_cycles / tiles:.6g}"
    return Cost(
        cycles / tiles,
        f"llvm-mca steady state of the loop ({steady}), at least instructions / {DECODE_WIDTH} (decode width)",
        call_cycles,
        "llvm-mca: whole calls back to back, less their blocks",
        "derived",
    )


def measure(located: Located, mca: Mca) -> Measured:
    """Instructions and cycles of a located kernel by static analysis."""
    return Measured(count(located), analyse_cycles(located, mca))


class Assemblies:
    """Assembly texts of ggml's source files, each compiled once."""

    def __init__(self, compiler: Compiler, ggml: Path) -> None:
        self.compiler = compiler
        self.ggml = ggml
        self._texts: dict[str, str] = {}

    def text(self, source: str) -> str:
        """The assembly of `source`, a path below ggml/src or the probe file of this package."""
        if source not in self._texts:
            path = Path(__file__).with_name(PROBES) if source == PROBES else self.ggml / "src" / source
            self._texts[source] = self.compiler.assembly(path, self.ggml)
        return self._texts[source]

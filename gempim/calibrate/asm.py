"""Reads AArch64 assembly as a compiler writes it: blocks, loops, and the instructions that one loop iteration executes.

A vector kernel spends its time in one loop over the quantisation blocks of a row. That loop may hold inner loops
with constant trip counts, and may itself lie inside loops over rows or columns. `find_loop` picks it by a marker
instruction and a nesting level; `Loop.linearise` writes out one iteration with the inner loops repeated, which is
what a static throughput analyser needs.

Sources: the branch and load/store mnemonics of the Arm A64 instruction set (Arm ARM, DDI 0487, chapters C3 and C7).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

INNERMOST = -1
"""The nesting level of `find_loop` that means: as deep as the marker goes."""

MAX_DEPTH = 32

PATHS = ("straight", "shortest", "longest")
"""How a way through a loop body with forward branches is chosen."""

MAX_PATHS = 4096
"""A limit on the branches of one iteration: beyond it the choice of a path means nothing."""

CLASSES = ("vector", "scalar", "load", "store", "branch")

_CONDITIONS = "eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le"
_CONDITIONAL = re.compile(rf"^(b\.?({_CONDITIONS})|cbn?z|tbn?z)$")
_LABEL = re.compile(r"^([.\w$]+):")
_VECTOR_REGISTER = re.compile(r"^\{?\s*([vqdshb])(\d+)(\.\d*[bhsdq])?(\[\d+\])?\s*\}?$")
_REGISTER_BYTES = {"q": 16, "d": 8, "s": 4, "h": 2, "b": 1, "x": 8, "w": 4}
_ELEMENT_BYTES = {"b": 1, "h": 2, "s": 4, "d": 8}


class AsmError(ValueError):
    """The assembly does not have the shape that was asked for. The message names the function and what was looked
    for."""


@dataclass(frozen=True)
class Insn:
    """One instruction: mnemonic and operands as written."""

    mnemonic: str
    operands: str

    @property
    def text(self) -> str:
        """The instruction as an assembler reads it."""
        return f"{self.mnemonic}\t{self.operands}".rstrip()

    @property
    def is_branch(self) -> bool:
        """Whether control can leave the straight line here (calls and returns included)."""
        return self.mnemonic in ("b", "bl", "blr", "br", "ret") or self.is_conditional

    @property
    def is_conditional(self) -> bool:
        """Whether this is a conditional branch."""
        return bool(_CONDITIONAL.match(self.mnemonic))

    @property
    def target(self) -> str | None:
        """The label a direct branch goes to; None for anything else."""
        if self.mnemonic == "b" or self.is_conditional:
            return split_operands(self.operands)[-1]
        return None

    @property
    def kind(self) -> str:
        """The class of the instruction, one of CLASSES.

        Loads and stores of vector registers count as load and store; address updates folded into them count with them.
        A move from a general to a vector register is scalar: Neoverse-N1 executes it in the integer pipe M (Software
        Optimization Guide, ASIMD miscellaneous instructions), and energy follows the pipe.
        """
        if self.is_branch:
            return "branch"
        if re.match(r"^(ld|prf)", self.mnemonic):
            return "load"
        if re.match(r"^st", self.mnemonic):
            return "store"
        operands = split_operands(self.operands)
        if self.mnemonic in ("fmov", "dup") and re.match(r"^[wx](\d+|zr)$", operands[-1]):
            return "scalar"
        if any(_VECTOR_REGISTER.match(op) for op in operands):
            return "vector"
        return "scalar"

    @property
    def memory_bytes(self) -> int:
        """Bytes read or written by a load or store, 0 for other instructions and prefetches."""
        if self.kind not in ("load", "store") or self.mnemonic.startswith("prf"):
            return 0
        if self.mnemonic.rstrip("0123456789").endswith(("rb", "rsb", "rh", "rsh", "rsw")) and self.mnemonic[:3] in (
            "ldr",
            "str",
            "ldu",
            "stu",
        ):
            return {"b": 1, "h": 2, "w": 4}[self.mnemonic[-1]]
        if self.mnemonic == "ldpsw":
            return 8
        operands = split_operands(self.operands)
        structure = re.match(r"^(ld|st)([1-4])(r?)$", self.mnemonic)
        if structure:
            return _structure_bytes(operands[0], replicate=bool(structure.group(3)), per_lane=int(structure.group(2)))
        width = _REGISTER_BYTES.get(operands[0][0], 0)
        return (
            2 * width if self.mnemonic[2:4] in ("p", "np") or self.mnemonic in ("ldp", "stp", "ldnp", "stnp") else width
        )


def split_operands(operands: str) -> list[str]:
    """Split an operand list at the commas outside brackets and braces."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(operands):
        depth += (char in "[{") - (char in "]}")
        if char == "," and depth == 0:
            parts.append(operands[start:at].strip())
            start = at + 1
    last = operands[start:].strip()
    return [*parts, last] if last else parts


def _structure_bytes(register_list: str, *, replicate: bool, per_lane: int) -> int:
    """Bytes of an ld1/ld2/ld3/ld4 (or st) register list such as `{v0.16b - v3.16b}` or `{v1.s}[2]`."""
    inner = register_list[register_list.index("{") + 1 : register_list.index("}")]
    arrangement = re.search(r"\.(\d*)([bhsd])", inner)
    if arrangement is None:
        raise AsmError(f"register list {register_list!r}: no arrangement")
    span = re.match(r"\s*v(\d+)\S*\s*-\s*v(\d+)", inner)
    registers = (int(span.group(2)) - int(span.group(1))) % 32 + 1 if span else len(inner.split(","))
    element = _ELEMENT_BYTES[arrangement.group(2)]
    if replicate or register_list.rstrip().endswith("]"):
        return per_lane * element
    return registers * element * int(arrangement.group(1))


def decode_word(word: int) -> str:
    """The text of an instruction that inline assembly gives as a number (`.inst`): the signed dot products.

    Encodings: Arm ARM, SDOT (vector) 0x4E809400 and SDOT (by element) 0x4F80E000, 128-bit forms.

    Raises:
        AsmError: the word is another instruction.
    """
    rd, rn, rm = word & 31, word >> 5 & 31, word >> 16 & 31
    if word & 0xFFE0FC00 == 0x4E809400:
        return f"sdot v{rd}.4s, v{rn}.16b, v{rm}.16b"
    if word & 0xFFC0F400 == 0x4F80E000:
        index = (word >> 11 & 1) << 1 | (word >> 21 & 1)
        return f"sdot v{rd}.4s, v{rn}.16b, v{rm}.4b[{index}]"
    raise AsmError(f".inst {word:#010x}: not a signed dot product; the decoder must learn it")


@dataclass
class Block:
    """A basic block: its label (or None), instructions, and successor block indices (taken target first)."""

    index: int
    labels: list[str]
    insns: list[Insn] = field(default_factory=list)
    successors: list[int] = field(default_factory=list)


@dataclass
class Function:
    """A function's control-flow graph. Block 0 is the entry."""

    name: str
    blocks: list[Block]

    def loops(self) -> list[Loop]:
        """All natural loops, outermost first, each knowing its children (loops that share a header are one loop)."""
        dominators = _dominators(self.blocks)
        bodies: dict[int, set[int]] = {}
        latches: dict[int, set[int]] = {}
        predecessors = _predecessors(self.blocks)
        for block in self.blocks:
            for successor in block.successors:
                if successor in dominators[block.index]:
                    bodies.setdefault(successor, {successor}).update(_reach_back(predecessors, block.index, successor))
                    latches.setdefault(successor, set()).add(block.index)
        loops = [Loop(self, header, frozenset(body), frozenset(latches[header])) for header, body in bodies.items()]
        loops.sort(key=lambda loop: (-len(loop.body), loop.header))
        for at, loop in enumerate(loops):
            parents = [other for other in loops[:at] if loop.body < other.body]
            if parents:
                min(parents, key=lambda other: len(other.body)).children.append(loop)
                loop.depth = len(parents)
        return loops


@dataclass
class Loop:
    """A natural loop of a function: header and latch blocks, body, and the loops directly inside."""

    function: Function
    header: int
    body: frozenset[int]
    latches: frozenset[int]
    children: list[Loop] = field(default_factory=list)
    depth: int = 0

    @property
    def label(self) -> str:
        """The label of the header, as in the assembly."""
        labels = self.function.blocks[self.header].labels
        return labels[0] if labels else f"block {self.header}"

    def count(self, marker: re.Pattern[str]) -> int:
        """Static number of instructions in the loop (inner loops included) that match the marker."""
        return sum(bool(marker.search(insn.text)) for at in self.body for insn in self.function.blocks[at].insns)

    def linearise(self, trips: Sequence[int] = (), path: str = "straight") -> list[Insn]:
        """Instructions of one iteration in execution order, inner loops written out `trips` times.

        Args:
            trips: trip counts of all enclosed loops in the order in which their headers stand in the assembly.
            path: which way forward branches go, one of PATHS.

        Raises:
            AsmError: a trip count is missing or superfluous, or no path leads from the header to the latch.
        """
        inner = sorted(self.descendants(), key=lambda loop: loop.header)
        if len(inner) != len(trips):
            places = ", ".join(loop.label for loop in inner) or "none"
            raise AsmError(
                f"{self.function.name}: loop {self.label} holds {len(inner)} inner loops ({places}), "
                f"{len(trips)} trip counts were given"
            )
        return self.iteration({loop.header: count for loop, count in zip(inner, trips, strict=True)}, path)

    def descendants(self) -> Iterable[Loop]:
        """All loops inside this one."""
        for child in self.children:
            yield child
            yield from child.descendants()

    def iteration(self, trips: Mapping[int, int], path: str = "straight") -> list[Insn]:
        """As `linearise`, with the trip counts keyed by header block; inner loops without a trip count are gone
        around."""
        return _best_path(self.function, self.header, self.body, set(self.latches), self.children, trips, path)

    def repeated(self, count: int, trips: Mapping[int, int], path: str) -> tuple[list[Insn], list[int]]:
        """`count` iterations in a row, and the blocks where control goes on after the last one.

        A loop that is left at a latch executes whole iterations. One that is left before (the compiler put the test
        in the middle) executes `count` - 1 whole iterations and the way from the header to the exit.

        Raises:
            AsmError: the loop is not left at all, or `count` is below 1.
        """
        if count < 1:
            raise AsmError(f"{self.function.name}: loop {self.label}: {count} iterations")
        blocks = self.function.blocks
        exits = {at: [s for s in blocks[at].successors if s not in self.body] for at in sorted(self.body)}
        at_latch = [s for latch in sorted(self.latches) for s in exits[latch]]
        whole = self.iteration(trips, path)
        if at_latch:
            return whole * count, at_latch
        early = {at for at, targets in exits.items() if targets}
        if not early:
            raise AsmError(f"{self.function.name}: inner loop {self.label} is never left")
        last = _best_path(self.function, self.header, self.body, early, self.children, trips, path)
        return whole * (count - 1) + last, [s for at in sorted(early) for s in exits[at]]


def linearise_call(function: Function, trips: Mapping[int, int], path: str = "straight") -> list[Insn]:
    """Instructions of one call from entry to return, through the loops whose headers are keys of `trips` and no other.

    Raises:
        AsmError: no such path.
    """
    outermost = [loop for loop in function.loops() if loop.depth == 0]
    nodes = frozenset(block.index for block in function.blocks)
    ends = {block.index for block in function.blocks if block.insns and block.insns[-1].mnemonic == "ret"}
    return _best_path(function, None, nodes, ends, outermost, trips, path)


def _best_path(
    function: Function,
    header: int | None,
    nodes: frozenset[int],
    ends: set[int],
    children: Sequence[Loop],
    trips: Mapping[int, int],
    path: str,
) -> list[Insn]:
    """The way from `header` (or the entry) to one of `ends` inside `nodes`, each child loop taken as one step.

    Of all ways, "straight" takes the one with the fewest taken forward branches (compilers lay out the likely side
    as the fall-through) and of these the shortest; "shortest" and "longest" count instructions.
    """
    if path not in PATHS:
        raise AsmError(f"path {path!r}: allowed are {', '.join(PATHS)}")
    start = 0 if header is None else header
    inner = {child.header: child for child in children if child.header in trips}
    shunned = {at for child in children if child.header not in trips for at in child.body}
    found: list[tuple[int, list[Insn]]] = []

    def step(at: int) -> tuple[list[Insn], list[int], set[int]]:
        child = inner.get(at)
        if child is None or at == header:
            block = function.blocks[at]
            return block.insns, block.successors, {at}
        code, onward = child.repeated(trips[at], trips, path)
        return code, onward, set(child.latches)

    def search(at: int, taken: list[Insn], jumps: int, seen: frozenset[int]) -> None:
        if len(found) >= MAX_PATHS:
            raise AsmError(f"{function.name}: more than {MAX_PATHS} paths through block {start}")
        code, onward, last = step(at)
        here = taken + code
        passed = seen | {at}
        if last & ends and inner.keys() <= passed:
            found.append((jumps, here))
        for place, successor in enumerate(onward):
            if successor in nodes and successor != header and successor not in passed and successor not in shunned:
                jump = place == 0 and len(onward) > 1 and function.blocks[at].successors == onward
                search(successor, here, jumps + jump, passed)

    search(start, [], 0, frozenset())
    if not found:
        raise AsmError(f"{function.name}: no path from block {start} to its end")
    if path == "straight":
        return min(found, key=lambda way: (way[0], len(way[1])))[1]
    return (min if path == "shortest" else max)(found, key=lambda way: len(way[1]))[1]


def _predecessors(blocks: Sequence[Block]) -> list[list[int]]:
    result: list[list[int]] = [[] for _ in blocks]
    for block in blocks:
        for successor in block.successors:
            result[successor].append(block.index)
    return result


def _reach_back(predecessors: Sequence[Sequence[int]], start: int, header: int) -> set[int]:
    """Blocks from which `start` can be reached without passing the header."""
    found, work = {start}, [start]
    while work:
        at = work.pop()
        if at == header:
            continue
        for before in predecessors[at]:
            if before not in found:
                found.add(before)
                work.append(before)
    return found


def _dominators(blocks: Sequence[Block]) -> list[set[int]]:
    """Dominator sets by fixed point; unreachable blocks are dominated by themselves only."""
    predecessors = _predecessors(blocks)
    reachable, work = {0}, [0]
    while work:
        for successor in blocks[work.pop()].successors:
            if successor not in reachable:
                reachable.add(successor)
                work.append(successor)
    everything = set(reachable)
    dominators = [set(everything) if block.index in reachable else {block.index} for block in blocks]
    dominators[0] = {0}
    changed = True
    while changed:
        changed = False
        for block in blocks[1:]:
            if block.index not in reachable:
                continue
            new = set.intersection(*(dominators[p] for p in predecessors[block.index] if p in reachable)) | {
                block.index
            }
            if new != dominators[block.index]:
                dominators[block.index], changed = new, True
    return dominators


def parse_function(text: str, name: str) -> Function:
    """The control-flow graph of function `name` in a GNU assembly file.

    Raises:
        AsmError: no such function, or a branch to a label outside it that is no tail call.
    """
    start = re.search(rf"^{re.escape(name)}:", text, re.MULTILINE)
    if start is None:
        raise AsmError(f"no function {name} in the assembly")
    blocks = [Block(0, [name])]
    ended = False
    for raw in text[start.end() :].splitlines():
        line = raw.split("//")[0].strip()
        label = _LABEL.match(line)
        if label:
            if blocks[-1].insns or ended:
                blocks.append(Block(len(blocks), []))
            blocks[-1].labels.append(label.group(1))
            ended = False
            line = line[label.end() :].strip()  # inline assembly writes "1:add x0, x1, x2"
        if label and not line:
            continue
        if line.startswith(".size"):
            break
        if line.startswith(".inst"):
            line = decode_word(int(line.split()[1], 0))
        if line and not line.startswith((".", "#")):
            if ended:
                blocks.append(Block(len(blocks), []))
                ended = False
            mnemonic, _, operands = line.replace("\t", " ").partition(" ")
            insn = Insn(mnemonic, operands.strip())
            blocks[-1].insns.append(insn)
            ended = insn.is_branch and mnemonic not in ("bl", "blr")
    _link(name, blocks)
    return Function(name, blocks)


def _link(name: str, blocks: Sequence[Block]) -> None:
    """Fill in the successors: taken target first, then fall-through."""
    where = {label: block.index for block in blocks for label in block.labels if not label.isdigit()}
    numbered = [(label, block.index) for block in blocks for label in block.labels if label.isdigit()]
    for block in blocks:
        last = block.insns[-1] if block.insns else None
        falls_through = last is None or last.mnemonic not in ("b", "br", "ret")
        if last is not None and last.target is not None:
            local = re.match(r"^(\d+)([bf])$", last.target)
            if local:
                block.successors.append(_local_label(name, numbered, block.index, *local.groups()))
            elif last.target in where:
                block.successors.append(where[last.target])
            elif last.target.startswith(".L"):
                raise AsmError(f"{name}: branch to the unknown label {last.target}")
        if falls_through and block.index + 1 < len(blocks):
            block.successors.append(block.index + 1)


def _local_label(name: str, numbered: Sequence[tuple[str, int]], at: int, label: str, way: str) -> int:
    """Block of the nearest local label `label` before ("b") or after ("f") block `at`."""
    if way == "b":
        places = [index for text, index in numbered if text == label and index <= at]
    else:
        places = [index for text, index in reversed(numbered) if text == label and index > at]
    if not places:
        raise AsmError(f"{name}: branch to the unknown local label {label}{way}")
    return places[-1]


@dataclass(frozen=True)
class LoopChoice:
    """The loop that was picked, and what else could have been."""

    loop: Loop
    alternatives: tuple[str, ...]


def find_loop(function: Function, marker: str, level: int, rank: int = 0) -> LoopChoice:
    """The loop `level` levels below the outermost loop that holds the marker, following the most markers.

    Args:
        function: where to look.
        marker: regular expression on the instruction text, for example `^sdot`.
        level: 0 for the outermost loop that holds a marker, 1 for the loop inside it, ...; INNERMOST for as deep as
            markers go.
        rank: which of several outermost loops, 0 for the one with the most markers.

    Raises:
        AsmError: no loop holds the marker, or there are not that many levels.
    """
    pattern = re.compile(marker)
    candidates = [loop for loop in function.loops() if loop.depth == 0 and loop.count(pattern)]
    alternatives: list[str] = []
    chosen: Loop | None = None
    for depth in range(level + 1 if level != INNERMOST else MAX_DEPTH):
        if not candidates and chosen is not None and level == INNERMOST:
            break
        if not candidates:
            raise AsmError(f"{function.name}: no loop with {marker!r} at nesting level {depth}")
        candidates.sort(key=lambda loop: (-loop.count(pattern), loop.header))
        place = rank if depth == 0 else 0
        if place >= len(candidates):
            raise AsmError(f"{function.name}: only {len(candidates)} outermost loops with {marker!r}")
        chosen = candidates[place]
        alternatives += [f"{loop.label} ({loop.count(pattern)} markers)" for loop in candidates if loop is not chosen]
        candidates = [loop for loop in chosen.children if loop.count(pattern)]
    assert chosen is not None
    return LoopChoice(chosen, tuple(alternatives))


def mix(insns: Iterable[Insn]) -> dict[str, int]:
    """Number of instructions by class."""
    counts = Counter(insn.kind for insn in insns)
    return {kind: counts.get(kind, 0) for kind in CLASSES}


def load_bytes(insns: Iterable[Insn]) -> int:
    """Bytes read by the loads of a sequence."""
    return sum(insn.memory_bytes for insn in insns if insn.kind == "load")


def increments(insns: Iterable[Insn]) -> dict[str, int]:
    """How far each general register moves by constants over the sequence, in bytes: `add x1, x1, 36` and write-back
    addressing.

    Registers that are also written in any other way are left out.
    """
    total: Counter[str] = Counter()
    spoilt: set[str] = set()
    for insn in insns:
        operands = split_operands(insn.operands)
        if not operands:
            continue
        base, step = _write_back(operands) if insn.kind in ("load", "store") else (None, 0)
        if base is not None:
            total[base] += step
        if insn.kind == "scalar" and re.match(r"^x\d+$", operands[0]):
            if (
                insn.mnemonic in ("add", "sub")
                and len(operands) == 3
                and operands[1] == operands[0]
                and _immediate(operands[2]) is not None
            ):
                value = _immediate(operands[2])
                assert value is not None
                total[operands[0]] += value if insn.mnemonic == "add" else -value
            elif insn.mnemonic not in ("cmp", "cmn", "tst"):
                spoilt.add(operands[0])
        if insn.kind == "load":
            spoilt.update(op.replace("w", "x", 1) for op in operands if re.match(r"^[xw]\d+$", op) and op != base)
    return {register: step for register, step in total.items() if step and register not in spoilt}


def _immediate(operand: str) -> int | None:
    match = re.match(r"^#?(-?(?:0x[0-9a-f]+|\d+))$", operand)
    return int(match.group(1), 0) if match else None


def _write_back(operands: Sequence[str]) -> tuple[str | None, int]:
    """Base register and step of `[x1, 16]!` or `[x1], 16`; (None, 0) without write-back."""
    for at, operand in enumerate(operands):
        before = re.match(r"^\[(x\d+),\s*#?(-?\d+)\]!$", operand)
        if before:
            return before.group(1), int(before.group(2))
        after = re.match(r"^\[(x\d+)\]$", operand)
        if after and at + 1 < len(operands):
            step = _immediate(operands[at + 1])
            if step is not None:
                return after.group(1), step
    return None, 0

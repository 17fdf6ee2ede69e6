"""Builds the calibration program: llama.cpp's own kernels, linked with a main that runs each in regions of interest.

The kernels are the assembly that the static analysis reads, from the pinned sources; nothing of llama.cpp is copied.
Every kernel has two regions, `NAME/few` and `NAME/many`, that differ in the length of its rows, so that the cost of a
block and of a call follow from a line through two points. Kernels that llama.cpp has only inside an operator are
measured through that operator: see `OPERATORS`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gempim.calibrate.analyse import Assemblies, Located
from gempim.calibrate.kernels import OPS, Kernel
from gempim.calibrate.toolchain import TARGET_FLAGS, ToolError, run

FOLDER = Path(__file__).with_name("guest")

OPERAND_BYTES = 16384
"""GUEST_BYTES of guest.h."""

CALL_INSTRUCTIONS = 4000
"""A long call executes about so many instructions: rows as long as real ones, and regions that gem5 simulates in a
second."""

REPEATS = 16
"""Timed calls of a region (2 of calls that are much longer). GUEST_REPEATS of guest.h."""

LARGE_BODY = 10_000
"""An iteration of more instructions than this is repeated fewer times."""

_SIGNATURES = {
    "dot": (
        "void {f}(int, float *, size_t, const void *, size_t, const void *, size_t, int)",
        "{f}(n, (float *)guest_z, 0, {x}, 0, {y}, 0, 1)",
    ),
    "gemv": (
        "void {f}(int, float *, size_t, const void *, const void *, int, int)",
        "{f}(n, (float *)guest_z, {rows}, {x}, {y}, {columns}, {rows})",
    ),
    "gemm": (
        "void {f}(int, float *, size_t, const void *, const void *, int, int)",
        "{f}(n, (float *)guest_z, {rows}, {x}, {y}, {columns}, {rows})",
    ),
    "quantize": ("void {f}(const float *, void *, int64_t)", "{f}(guest_f, guest_z, n)"),
}
"""Declaration and call of a kernel by its signature."""

_ELEMENTWISE = {
    "norm_sum": ("void {f}(int, float *, const float *)", "{f}(n, (float *)guest_z, guest_f)"),
    "norm_variance": (
        "double {f}(int, float *, const float *, float)",
        "{f}(n, (float *)guest_z, guest_f, 0.25f)",
    ),
    "scale": ("void {f}(int, float *, float)", "{f}(n, (float *)guest_z, -0.5f)"),
    "add": (
        "void {f}(int, float *, const float *, const float *)",
        "{f}(n, (float *)guest_z, guest_f, guest_g)",
    ),
    "max": ("void {f}(int, float *, const float *)", "{f}(n, (float *)guest_z, guest_f)"),
    "soft_max_exp": (
        "double {f}(int, float *, const float *, float)",
        "{f}(n, (float *)guest_z, guest_f, 1.0f)",
    ),
    "swiglu": (
        "void {f}(int, float *, const float *, const float *)",
        "{f}(n, (float *)guest_z, guest_f, guest_g)",
    ),
    "gelu": ("void {f}(int, float *, const float *)", "{f}(n, (float *)guest_z, guest_f)"),
}
"""Declaration and call of the elementwise kernels that are functions of their own, by name."""

ELEMENTS = (256, 1024)
"""Row lengths of the operators' regions, in elements."""

ROWS = (1, 4)

HEADS = (2, 8)

HEAD_DIMS = (64, 128)

OPERATORS = {
    "rms_norm/few": f"guest_rms_norm({ELEMENTS[0]}, {ROWS[0]})",
    "rms_norm/many": f"guest_rms_norm({ELEMENTS[1]}, {ROWS[0]})",
    "rms_norm/rows": f"guest_rms_norm({ELEMENTS[0]}, {ROWS[1]})",
    "soft_max/few": f"guest_soft_max({ELEMENTS[0]}, 0)",
    "soft_max/many": f"guest_soft_max({ELEMENTS[1]}, 0)",
    "soft_max_masked/few": f"guest_soft_max({ELEMENTS[0]}, 1)",
    "soft_max_masked/many": f"guest_soft_max({ELEMENTS[1]}, 1)",
    **{
        f"rope_{dims}/{length}": f"guest_rope({heads}, {dims})"
        for dims in HEAD_DIMS
        for length, heads in zip(("few", "many"), HEADS, strict=True)
    },
}
"""Regions of operators, and the call: RMS norm (sum and scaling are one function), softmax with and without a mask,
rotation at two head sizes and two numbers of heads."""

THROUGH_OPERATORS = {
    "rms_norm_sum": ("rms_norm",),
    "rms_norm_scale": ("rms_norm",),
    "mask": ("soft_max", "soft_max_masked"),
    "rope": tuple(f"rope_{dims}" for dims in HEAD_DIMS),
}
"""Kernel -> operators that it is measured through."""


@dataclass(frozen=True)
class Region:
    """A region of the generated table: `repeats` calls of one kernel on rows of `iterations` loop iterations (of an
    operator: as `OPERATORS` says, 0)."""

    label: str
    call: str
    argument: int
    iterations: int
    warm: int
    repeats: int


_WEIGHT_BYTES = {
    "q4_0": 18,
    "q4_1": 20,
    "q5_0": 22,
    "q5_1": 24,
    "q8_0": 34,
    "q2_K": 84,
    "q3_K": 110,
    "q4_K": 144,
    "q5_K": 176,
    "q6_K": 210,
}
_ACTIVATION_BYTES = {"q8_0": 34, "q8_1": 36, "q8_K": 292}


def operand_bytes(kernel: Kernel) -> int:
    """Bytes of the larger operand of one block of every row of the tile (block sizes: ggml-common.h)."""
    if kernel.role not in ("dot", "gemv", "gemm"):
        return 4 * kernel.block_elements * kernel.tile_columns
    if "q" not in kernel.name:
        return max(kernel.steps)
    weight, activation = re.findall(r"q\d_[01K]", kernel.name)
    return max(kernel.tile_rows * _WEIGHT_BYTES[weight], kernel.tile_columns * _ACTIVATION_BYTES[activation])


def lengths(located: Located) -> tuple[int, int]:
    """Iterations of the kernel's loop in its two regions.

    As many as make a call of about CALL_INSTRUCTIONS instructions, at most 96, at least 6 (3 of a very long iteration),
    and a third of it. Raises ToolError when the operands do not fit.
    """
    size = len(located.body)
    many = 3 if size > LARGE_BODY else min(96, max(6, CALL_INSTRUCTIONS // size))
    need = many * located.blocks * operand_bytes(located.kernel)
    if need > OPERAND_BYTES:
        raise ToolError(
            f"{located.kernel.name}: an operand of {need} bytes, the calibration program has {OPERAND_BYTES}"
        )
    return many // 3, many


def callable_directly(kernel: Kernel) -> bool:
    """Whether the kernel is a function that the program can call."""
    return bool(kernel.signature) or kernel.name in _ELEMENTWISE


def _regions(located: Located, index: int) -> list[Region]:
    kernel = located.kernel
    out = []
    both = lengths(located)
    # What a region's last call takes alone, after the others have overlapped, counts for less among many calls.
    warm, repeats = (1, 2) if both[1] * len(located.body) > 2 * CALL_INSTRUCTIONS else (2, REPEATS)
    for label, iterations in zip(("few", "many"), both, strict=True):
        elements = iterations * located.blocks * kernel.block_elements
        out.append(Region(f"{kernel.name}/{label}", f"call_{index}", elements, iterations, warm, repeats))
    return out


def table(kernels: Sequence[Located]) -> tuple[str, list[Region]]:
    """The generated C file with all regions of the kernels, and the regions in the order in which they run."""
    lines = ['#include "guest.h"', ""]
    regions: list[Region] = []
    operators: list[str] = []
    for index, located in enumerate(kernels):
        kernel = located.kernel
        if not callable_directly(kernel):
            operators += [name for name in THROUGH_OPERATORS[kernel.name] if name not in operators]
            continue
        declaration, call = _SIGNATURES[kernel.signature] if kernel.signature else _ELEMENTWISE[kernel.name]
        floats = kernel.name == "vec_dot_f32"
        text = call.format(
            f=f"kernel_{index}",
            rows=kernel.tile_rows,
            columns=kernel.tile_columns,
            x="guest_f" if floats else "guest_x",
            y="guest_g" if floats else "guest_y",
        )
        lines.append(f'{declaration.format(f=f"kernel_{index}")} __asm__("{located.label}");')
        lines.append(f"static void call_{index}(int n) {{ {text}; }}")
        regions += _regions(located, index)
    for label, call in OPERATORS.items():
        if label.split("/")[0] in operators:
            name = "operator_" + re.sub(r"\W", "_", label)
            lines.append(f"static void {name}(int n) {{ (void)n; {call}; }}")
            regions.append(Region(label, name, 0, 0, 2, 4))
    lines += ["", "const struct guest_region guest_regions[] = {"]
    lines += [f'    {{"{r.label}", {r.call}, {r.argument}, {r.warm}, {r.repeats}}},' for r in regions]
    lines += ["};", f"const int guest_region_count = {len(regions)};", ""]
    return "\n".join(lines), regions


def build(kernels: Sequence[Located], assemblies: Assemblies, folder: Path, *, lutmm: Path | None = None) -> Path:
    """Compile and link the program into `folder`; its path.

    Args:
        kernels: the kernels to have regions for.
        assemblies: compiler and sources of ggml.
        folder: where the program goes.
        lutmm: folder of lutmm.h, for a program that has the part `pim`.

    Raises:
        ToolError: the compiler failed.
    """
    text, regions = table(kernels)
    compiler, ggml = assemblies.compiler, assemblies.ggml
    program = folder / "kernels"
    flags: list[str | Path] = ["-w", *TARGET_FLAGS, f"-I{FOLDER}"]
    flags += [f"-I{ggml / part}" for part in ("include", "src", "src/ggml-cpu")]
    if lutmm is not None:
        flags += ["-DGUEST_LUTMM", f"-I{lutmm}"]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        (work / "table.c").write_text(text, encoding="utf-8")
        sources = {located.kernel.source for located in kernels}
        parts: list[str | Path] = [FOLDER / "guest.c", work / "table.c"]
        if any(region.label in OPERATORS for region in regions):
            sources |= {OPS, "ggml.c"}  # what ggml knows of tensors
            parts.append(work / "tensors.o")
            command: list[str | Path] = [compiler.cxx, "-std=gnu++17", *flags, "-c", FOLDER / "tensors.cpp"]
            run([*command, "-o", work / "tensors.o"], why="compiling the calibration program")
        for number, source in enumerate(sorted(sources)):
            listing = work / f"kernels_{number}.s"
            listing.write_text(assemblies.text(source), encoding="utf-8")
            parts.append(listing)
        # ggml's files refer to the rest of ggml, which these calls never reach.
        command = [compiler.c, "-std=gnu11", "-static", "-pthread", *flags, *parts, "-o", program]
        run([*command, "-Wl,--unresolved-symbols=ignore-all", "-lm"], why="building the calibration program")
    return program


def checksums(output: str) -> dict[str, str]:
    """The checksums of the results by region, from the program's output."""
    return dict(re.findall(r"^sum (\S+) ([0-9a-f]+)$", output, re.MULTILINE))

"""Counts the instructions that a kernel really executes, under user-mode emulation, to check the loop that was picked.

A small program calls the kernel with two row lengths; the emulator logs every executed instruction inside the
kernel's address range; the difference of the two counts is what the extra blocks took. It must equal the length of
the statically written-out iteration.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gempim.calibrate.analyse import Assemblies, Located
from gempim.calibrate.toolchain import TARGET_FLAGS, ToolError, run

EMULATOR = "qemu-aarch64-static"

_SIGNATURES = {
    "dot": (
        "void {f}(int, float *, size_t, const void *, size_t, const void *, size_t, int)",
        "{f}(n, z, 0, x, 0, y, 0, 1)",
    ),
    "gemv": (
        "void {f}(int, float *, size_t, const void *, const void *, int, int)",
        "{f}(n, z, {rows}, x, y, {columns}, {rows})",
    ),
    "gemm": (
        "void {f}(int, float *, size_t, const void *, const void *, int, int)",
        "{f}(n, z, {rows}, x, y, {columns}, {rows})",
    ),
    "quantize": ("void {f}(const float *, void *, int64_t)", "{f}((const float *)x, z, n)"),
}

_PROGRAM = """\
#include <stdint.h>
#include <stdlib.h>
static unsigned char x_bytes[1 << 20], y_bytes[1 << 20], z_bytes[1 << 20];
{declarations}
int main(int argc, char **argv) {{
    int kernel = atoi(argv[1]), n = atoi(argv[2]);
    uint32_t state = 12345;
    float *z = (float *)z_bytes;
    void *x = x_bytes, *y = y_bytes;
    (void)argc;
    for (size_t i = 0; i < sizeof x_bytes / 4; i++) {{
        state = state * 1664525u + 1013904223u;
        ((float *)x_bytes)[i] = ((int32_t)state >> 8) / 8388608.0f;
        y_bytes[4 * i] = y_bytes[4 * i + 2] = (unsigned char)(state >> 24);
    }}
    switch (kernel) {{
{cases}
    }}
    return 0;
}}
"""


def available() -> bool:
    """Whether the emulator is on the PATH."""
    return shutil.which(EMULATOR) is not None


def count_per_iteration(kernels: Sequence[Located], assemblies: Assemblies) -> dict[str, float]:
    """Executed instructions inside each kernel's function per iteration of its loop, by kernel name.

    Kernels without a signature are left out. Raises ToolError when the program cannot be built or run.
    """
    wanted = [located for located in kernels if located.kernel.signature]
    with tempfile.TemporaryDirectory() as scratch:
        program = _build(wanted, assemblies, Path(scratch))
        places = _addresses(assemblies, program)
        return {
            located.kernel.name: _difference(program, index, located, places[located.label], Path(scratch) / "log")
            for index, located in enumerate(wanted)
        }


def _build(kernels: Sequence[Located], assemblies: Assemblies, folder: Path) -> Path:
    declarations, cases = [], []
    for index, located in enumerate(kernels):
        kernel = located.kernel
        declaration, call = _SIGNATURES[kernel.signature]
        name = f"kernel_{index}"
        declarations.append(f'{declaration.format(f=name)} __asm__("{located.label}");')
        text = call.format(f=name, rows=kernel.tile_rows, columns=kernel.tile_columns)
        cases.append(f"    case {index}: {text}; break;")
    (folder / "main.c").write_text(
        _PROGRAM.format(declarations="\n".join(declarations), cases="\n".join(cases)), encoding="utf-8"
    )
    objects: list[Path] = []
    for number, source in enumerate(sorted({located.kernel.source for located in kernels})):
        listing = folder / f"kernels_{number}.s"
        listing.write_text(assemblies.text(source), encoding="utf-8")
        objects.append(listing)
    program = folder / "program"
    # The kernels' files refer to the rest of ggml, which these calls never reach.
    command: list[str | Path] = [
        assemblies.compiler.c,
        "-static",
        "-w",
        *TARGET_FLAGS,
        folder / "main.c",
        *objects,
        "-o",
        program,
    ]
    run([*command, "-Wl,--unresolved-symbols=ignore-all", "-lm"], why="building the emulated check")
    return program


def _addresses(assemblies: Assemblies, program: Path) -> dict[str, tuple[int, int]]:
    """Address and size of every function."""
    listing = run([assemblies.compiler.c.replace("gcc", "nm"), "-S", program], why="reading symbols")
    found = re.findall(r"^([0-9a-f]+) ([0-9a-f]+) [tTwW] (\S+)$", listing, re.MULTILINE)
    return {name: (int(address, 16), int(size, 16)) for address, size, name in found}


def _difference(program: Path, index: int, located: Located, place: tuple[int, int], log: Path) -> float:
    """Executed instructions per iteration: from rows of 4 and of 8 iterations."""
    step = located.blocks * located.kernel.block_elements
    few, many = 4, 8
    counts = [_executed(program, index, iterations * step, place, log) for iterations in (few, many)]
    if not counts[0]:
        raise ToolError(f"{located.kernel.name}: the emulator logged no instruction of {located.label}")
    return (counts[1] - counts[0]) / (many - few)


def _executed(program: Path, index: int, n: int, place: tuple[int, int], log: Path) -> int:
    """Instructions executed inside the address range `place` when kernel `index` works on rows of n elements."""
    address, size = place
    log.unlink(missing_ok=True)
    command: list[str | Path] = [EMULATOR, "-singlestep", "-d", "exec,nochain", "-dfilter", f"{address:#x}+{size:#x}"]
    run([*command, "-D", log, program, str(index), str(n)], why="emulating a kernel")
    return sum(line.startswith("Trace") for line in log.read_text(encoding="utf-8").splitlines())

"""Command line: `python -m gempim.calibrate gem5 --gem5 GEM5 --out FILE`, or `mca --out FILE`."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

from gempim.calibrate import dynamic
from gempim.calibrate.analyse import Assemblies, Located, Measured, locate, measure
from gempim.calibrate.asm import AsmError
from gempim.calibrate.kernels import select
from gempim.calibrate.toolchain import TARGET_FLAGS, ToolError, find_compiler, find_mca, ggml_sources
from gempim.calibrate.write import render
from gempim.pins import LLAMA_CPP_PYTHON
from gempim.quantity import DataError

TOLERANCE = 0.05
"""How far a kernel's static instruction count may be from the executed one. The rows that differ at all have a
branch inside the loop that depends on the data (a new maximum) or alternates between iterations; their static count
takes one side."""


def analyse(names: Sequence[str] = ()) -> tuple[dict[str, str], list[tuple[Measured, str]]]:
    """Analyse the kernels (all, or those named) and return the origin table and each kernel with its note.

    Raises:
        ToolError: a program is missing or failed, or a kernel executes another number of instructions than its loop
            says.
        AsmError: a kernel's loop is not found.
    """
    wanted = select(names)
    compiler, mca = find_compiler(), find_mca()
    assemblies = Assemblies(compiler, ggml_sources())
    located: list[Located] = []
    for kernel in wanted:
        print(f"locating {kernel.name}", file=sys.stderr)
        located.append(locate(kernel, assemblies.text(kernel.source)))
    executed = dynamic.count_per_iteration(located, assemblies) if dynamic.available() else {}
    results = []
    for found in located:
        print(f"analysing {found.kernel.name}", file=sys.stderr)
        results.append((measure(found, mca), _compare(found, executed.get(found.kernel.name))))
    check = (
        f"executed instructions per iteration of {len(executed)} kernels counted under {dynamic.EMULATOR}, within "
        f"{TOLERANCE:.0%} of the static count"
        if executed
        else f"{dynamic.EMULATOR} was not there: instruction counts were not checked"
    )
    origin = {
        "method": "static analysis (llvm-mca) of cross-compiled kernels; no measurement",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python -m gempim.calibrate mca --out FILE",
        "cpu": "Neoverse-N1 (-mcpu=neoverse-n1 of llvm-mca)",
        "analyser": f"llvm-mca {mca.version}",
        "compiler": compiler.version,
        "flags": " ".join(TARGET_FLAGS),
        "sources": f"llama.cpp in the source distribution {LLAMA_CPP_PYTHON.requirement}",
        "sources_sha256": LLAMA_CPP_PYTHON.sha256,
        "check": check,
    }
    return origin, results


def _compare(located: Located, executed: float | None) -> str:
    """The note on the executed instruction count. Raises ToolError when it is too far from the static one."""
    if executed is None:
        return ""
    static = len(located.body)
    if abs(executed - static) > TOLERANCE * executed:
        raise ToolError(
            f"{located.kernel.name}: loop {located.loop.label} has {static} instructions an iteration, but "
            f"{executed:g} are executed: "
            "the wrong loop, or wrong trip counts"
        )
    if executed != static:
        way = f"the static way has {static}"
        return f"executed under emulation with random data: {executed:g} instructions an iteration, {way}"
    return f"executed under emulation: {executed:g} instructions an iteration, as in the static way"


def _mca(options: argparse.Namespace) -> None:
    origin, kernels = analyse()
    options.out.write_text(render("neoverse-n1", origin, kernels), encoding="utf-8")
    print(options.out)


def _gem5(options: argparse.Namespace) -> None:
    from gempim.calibrate.gem5 import write_calibration

    write_calibration(options.gem5, options.out, plugin=options.plugin, keep=options.keep)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m gempim.calibrate",
        description="Make a calibration file of the embedded engine.",
        epilog="example: python -m gempim.calibrate gem5 --gem5 build/ARM/gem5.opt --out neoverse-n1.toml",
    )
    commands = parser.add_subparsers(required=True)
    mca = commands.add_parser("mca", help="Neoverse-N1, by static analysis of llama.cpp's kernels with llvm-mca")
    mca.set_defaults(work=_mca)
    gem5 = commands.add_parser("gem5", help="Neoverse-N1, by running llama.cpp's kernels in gem5")
    gem5.set_defaults(work=_gem5)
    gem5.add_argument("--gem5", type=Path, required=True, help="the gem5.opt")
    gem5.add_argument("--plugin", type=Path, help="the plug-in: also measure lutmm, and print entries of [pim_host]")
    gem5.add_argument("--keep", type=Path, help="a folder to leave gem5's results in")
    for command in (mca, gem5):
        command.add_argument("--out", type=Path, required=True, help="the TOML file to write")
    options = parser.parse_args(arguments)
    try:
        options.work(options)
    except (ToolError, AsmError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

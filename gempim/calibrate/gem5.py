"""Makes the calibration file from gem5 runs of the calibration program (`guest`): building, running, writing.

How the numbers follow from the program's regions of interest: `fit`.
"""

from __future__ import annotations

import configparser
import datetime
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gempim.calibrate import dynamic, guest
from gempim.calibrate.analyse import Assemblies, Located, Measured, analyse_cycles, count, locate, measure
from gempim.calibrate.fit import (
    BARRIER_THREADS,
    PS_PER_S,
    TOLERANCE,
    Result,
    barrier_numbers,
    kernel_results,
    memory_numbers,
    pim_numbers,
)
from gempim.calibrate.kernels import KERNELS, select
from gempim.calibrate.regions import Regions, core_counts, read_regions, read_text
from gempim.calibrate.toolchain import TARGET_FLAGS, Mca, ToolError, find_compiler, find_mca, ggml_sources, run
from gempim.calibrate.write import MEMORY, RUNTIME, entry, render
from gempim.doctor import gem5_version
from gempim.engines.gem5_se import Gem5Options, config_folder
from gempim.pins import LLAMA_CPP_PYTHON
from gempim.resolve import resolved_values
from gempim.systems import System, load_system

SYSTEM = "neoverse-n1"

PIM_SYSTEM = "sail"

CLOCK_TOLERANCE = 0.02

HEADER = """\
# Costs of llama.cpp's Arm kernels on Neoverse-N1, as the embedded engine uses them. Written by the command in
# [origin]: do not edit. SIMULATION: cycles are those of gem5's out-of-order core with operands in the L1 data cache; no
# hardware was involved. Instruction mixes are counted in the assembly. Not in these numbers: cache misses (the engine
# adds memory time) and address translation.
"""


def simulate(
    gem5: Path,
    system: System,
    program: Path,
    arguments: Sequence[str],
    folder: Path,
    *,
    cores: int = 1,
    plugin: Path | None = None,
) -> Regions:
    """Run the calibration program in gem5 on the out-of-order core and read its regions.

    Args:
        gem5: the gem5.opt.
        system: what is simulated.
        program: the calibration program.
        arguments: of the program, less --m5.
        folder: where gem5 leaves its results.
        cores: simulated cores.
        plugin: of a system with a PIM.

    Raises:
        ToolError: gem5 failed (its last lines), or what it left is not complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = folder / "system.json"
    values.write_text(json.dumps(resolved_values(system)), encoding="utf-8")
    command: list[str | Path] = [gem5, f"--outdir={folder}", "--json-config=", "--dot-config="]
    command += [config_folder() / "run.py", f"--experiment={values}"]
    command += [f"--plugin={plugin}"] if plugin is not None else []
    command += Gem5Options(binary=program, args=("--m5", *arguments), cores=cores).command()
    print(f"simulating: {' '.join(arguments)}", file=sys.stderr)
    run(command, why="gem5")
    return read_regions(folder)


NOT_IN_GEM5 = {"vec_dot_f16": "static analysis: gem5 24 has no half-precision vector arithmetic (FEAT_FP16)"}
"""Kernels that gem5 cannot execute, and what their note says."""

DISAGREEMENT = 1.5
"""How many times the static analysis gem5's cycles may be. Beyond it nobody knows which is right without the hardware,
and the entry is the static analysis'."""

_CORE_KEYS = {
    "fetchWidth": "fetch",
    "decodeWidth": "decode",
    "issueWidth": "issue",
    "commitWidth": "commit",
    "numROBEntries": "ROB",
    "LQEntries": "load queue",
    "SQEntries": "store queue",
}
"""Parameters of gem5's out-of-order core that the origin names, and the words for them."""


def configuration(path: Path) -> str:
    """The core and the caches of gem5's config.ini in one line.

    Raises:
        ToolError: the file is missing or damaged, or has no out-of-order core.
    """
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(read_text(path))
    except configparser.Error as error:
        raise ToolError(f"{path}: {error}") from error
    cores = [section for section in parser.values() if _CORE_KEYS.keys() <= section.keys()]
    if not cores:
        raise ToolError(f"{path}: expected an out-of-order core, with {', '.join(_CORE_KEYS)}")
    widths = ", ".join(f"{words} {cores[0][key]}" for key, words in _CORE_KEYS.items())
    caches: dict[str, None] = {}
    for section in parser.values():
        if {"size", "mshrs", "assoc"} <= section.keys():
            caches[f"{int(section['size']) // 1024} KiB with {section['mshrs']} MSHRs"] = None
    return f"{cores[0].get('type', 'core')} with {widths}; caches of {', '.join(caches) or 'no size'}"


def _checksums(program: Path, arguments: Sequence[str], regions: Regions) -> str:
    """Compare the guest's results with those under emulation. Raises ToolError naming the regions that differ."""
    if shutil.which(dynamic.EMULATOR) is None:
        return f"{dynamic.EMULATOR} was not there: results were not compared"
    text = run([dynamic.EMULATOR, program, *arguments], why="emulating the calibration program")
    expected = guest.checksums(text)
    wrong = sorted(
        label for label in expected.keys() | regions.sums.keys() if expected.get(label) != regions.sums.get(label)
    )
    if wrong:
        raise ToolError(
            f"{regions.folder / 'guest.out'}: other results than under {dynamic.EMULATOR}: {', '.join(wrong)}"
        )
    return f"results of {len(expected)} regions as under {dynamic.EMULATOR}"


def _check_clock(regions: Regions, clock_hz: float) -> None:
    """The simulated core must run at the clock of the system file."""
    longest = max(regions.by_label.values(), key=lambda region: region.sim_ps)
    cycles, _ = core_counts(longest.section)
    expected = longest.sim_ps * clock_hz / PS_PER_S
    if abs(cycles - expected) > CLOCK_TOLERANCE * expected:
        raise ToolError(
            f"{regions.folder / 'stats.txt'}: section {longest.section.index}: {cycles:g} cycles in "
            f"{longest.sim_ps} ps, expected {expected:g} at cpu.clock_hz of {SYSTEM}"
        )


@dataclass(frozen=True)
class Bench:
    """The calibration program, its kernels, and where gem5 runs it."""

    gem5: Path
    located: Sequence[Located]
    program: Path
    folder: Path

    @classmethod
    def make(cls, gem5: Path, folder: Path, names: Sequence[str] = (), *, lutmm: Path | None = None) -> Bench:
        """Find the kernels in the sources and build the program. Raises ToolError or AsmError."""
        assemblies = Assemblies(find_compiler(), ggml_sources())
        located = [locate(kernel, assemblies.text(kernel.source)) for kernel in select(names)]
        return cls(gem5, located, guest.build(located, assemblies, folder, lutmm=lutmm), folder)

    def run(
        self, system: System, part: str, *, arguments: Sequence[str] = (), cores: int = 1, plugin: Path | None = None
    ) -> Regions:
        """One part of the program in gem5 with such arguments before it; what gem5 leaves is in `folder` / run-part."""
        everything = [*arguments, part]
        return simulate(
            self.gem5, system, self.program, everything, self.folder / f"run-{part}", cores=cores, plugin=plugin
        )


def calibrate(gem5: Path, folder: Path) -> str:
    """The text of the calibration file, from gem5 runs whose results stay below `folder`.

    Raises:
        ToolError: a program is missing or failed, or what gem5 measured contradicts the static count, the emulator or
            the system file.
        AsmError: a kernel's loop is not found.
        DataError: the system file is wrong.
    """
    system = load_system(SYSTEM)
    cpu = system.values("cpu")
    clock_hz = float(cpu["clock_hz"])
    try:
        version = gem5_version(gem5)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolError(f"{gem5}: version of gem5: {error}") from error
    mca = find_mca()
    bench = Bench.make(gem5, folder, [kernel.name for kernel in KERNELS if kernel.name not in NOT_IN_GEM5])
    kernels = bench.run(system, "kernels")
    _check_clock(kernels, clock_hz)
    results, runtime = kernel_results(bench.located, kernels)
    same = _checksums(bench.program, ["kernels"], kernels)
    caches = ["--l1", str(cpu["l1d_bytes"]), "--l2", str(cpu["l2_bytes"])]
    memory, latencies = memory_numbers(bench.run(system, "memory", arguments=caches), clock_hz)
    threads = ["--threads", str(BARRIER_THREADS)]
    several = bench.run(system, "barrier", arguments=threads, cores=BARRIER_THREADS)
    runtime |= barrier_numbers(several, clock_hz)
    checked = sum(result.static > 0 for result in results.values())
    origin = {
        "method": "cycle-level simulation (gem5, out-of-order core) of cross-compiled kernels; no hardware measurement;"
        f" static analysis (llvm-mca {mca.version}) for {', '.join(NOT_IN_GEM5)} and where a note says so",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "gempim calibrate --gem5 PATH/TO/gem5.opt --out FILE",
        "cpu": f"Neoverse-N1 as gem5_configs builds it for the system {SYSTEM}, one core at {clock_hz / 1e9:g} GHz",
        "analyser": f"gem5 {version}: {configuration(kernels.folder / 'config.ini')}",
        "compiler": find_compiler().version,
        "flags": " ".join(TARGET_FLAGS),
        "sources": f"llama.cpp in the source distribution {LLAMA_CPP_PYTHON.requirement}",
        "sources_sha256": LLAMA_CPP_PYTHON.sha256,
        "check": f"instructions an iteration of {checked} kernels within {TOLERANCE:.0%} of the static count; {same}; "
        f"{latencies}",
    }
    measured = [_entry(located, results[located.kernel.name], mca) for located in bench.located]
    assemblies = Assemblies(find_compiler(), ggml_sources())
    for kernel in select(NOT_IN_GEM5):
        static = measure(locate(kernel, assemblies.text(kernel.source)), mca)
        measured.append((static, NOT_IN_GEM5[kernel.name]))
    return render(SYSTEM, origin, measured, header=HEADER, memory={**MEMORY, **memory}, runtime={**RUNTIME, **runtime})


def _entry(located: Located, result: Result, mca: Mca) -> tuple[Measured, str]:
    """A kernel's entry and its note: gem5's cycles, unless static analysis is far below them."""
    static = analyse_cycles(located, mca)
    if result.cost.cycles_per_block <= DISAGREEMENT * static.cycles_per_block:
        return Measured(count(located), result.cost), _note(result)
    note = (
        f"{_note(result)}; gem5 takes {result.cost.cycles_per_block:.4g} cycles a block: a load of what two stores have"
        " just written waits for both in its load queue. The faster figure stands, so that the baseline is not"
        " understated"
    )
    return Measured(count(located), static), note.removeprefix("; ")


def _note(result: Result) -> str:
    if not result.static:
        return ""
    return f"executed in gem5: {result.executed:.6g} instructions an iteration, the static way has {result.static:.6g}"


def _isa_folder() -> Path:
    """The folder of lutmm.h: in the installed package, or beside it in a clone. Raises ToolError when in neither."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "src_ext", package.parent / "src_ext"):
        if (folder / "isa" / "lutmm.h").is_file():
            return folder / "isa"
    raise ToolError(f"src_ext/isa/lutmm.h is neither in {package} nor beside it: reinstall gempim")


def calibrate_pim(gem5: Path, plugin: Path, folder: Path) -> str:
    """The entries of a system's [pim_host] that gem5 measures, as lines of a system file.

    Raises:
        ToolError, AsmError, DataError: as `calibrate`.
    """
    system = load_system(PIM_SYSTEM)
    folder.mkdir(exist_ok=True)
    bench = Bench.make(gem5, folder, ["vec_dot_q4_0_q8_0"], lutmm=_isa_folder())
    regions = bench.run(system, "pim", plugin=plugin)
    numbers = pim_numbers(regions, float(system.values("cpu")["clock_hz"]))
    return "".join(f"{entry(key, number)}\n" for key, number in numbers.items())


def write_calibration(gem5: Path, out: Path, *, plugin: Path | None = None, keep: Path | None = None) -> None:
    """Write the calibration file and print its path; with a plug-in print also what it measured for [pim_host].

    Args:
        gem5: the gem5.opt.
        out: the TOML file.
        plugin: gempim's plug-in, built for that gem5.
        keep: a folder that gem5's results stay in; without, they are removed.

    Raises:
        ToolError, AsmError, DataError: as `calibrate`; then nothing is written.
    """
    if not out.absolute().parent.is_dir():
        raise ToolError(f"{out}: there is no folder {out.absolute().parent}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if keep is None else keep.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        text = calibrate(gem5, folder)
        pim = "" if plugin is None else calibrate_pim(gem5, plugin, folder / "pim")
    out.write_text(text, encoding="utf-8")
    print(out)
    if pim:
        print(f"[pim_host] of {PIM_SYSTEM}:\n{pim}", end="")

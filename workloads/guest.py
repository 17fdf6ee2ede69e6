"""Builds the llama guest (workloads/llama): llama.cpp with our ggml backend and a driver, for gem5 or natively.

llama.cpp is the pinned one, downloaded once and built as it is by its own CMake files; our sources are linked with its
libraries. Both builds are kept in the cache, under the hash of all that goes into them.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from gempim.cache import cache_dir, cached_folder
from gempim.calibrate.toolchain import ToolError, find_program, llama_cpp_sources, run
from gempim.pins import LLAMA_CPP_PYTHON
from gempim.quantity import DataError

ISAS = ("aarch64",)
"""Instruction sets that the guest is cross-compiled for."""

PROGRAM = "llama"
CHECK = "check_backend"
"""Natively built besides: random products of the backend against ggml's CPU backend."""

LLAMA = Path(__file__).resolve().parent / "llama"
TOOLCHAIN = LLAMA / "aarch64.cmake"
SOURCES = Path(__file__).resolve().parent.parent / "src_ext"
"""Beside `workloads` both in a clone and in the installed package."""

# gem5 24 has no FEAT_FP16 vector arithmetic (only the conversions), so that +fp16 kernels would end in an illegal
# instruction; a real Neoverse-N1 has it.
ARM_ARCH = "armv8.2-a+dotprod"

_STEP = re.compile(r"^\[\s*(\d+)/(\d+)\]|^\[\s*(\d+)%\]")

# llama.cpp's own release build, without what only its tools need.
LLAMA_CPP_SETTINGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    # Not for this very processor: a build is kept, and some machines offer less than their processor says.
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DGGML_CCACHE=OFF",
    "-DGGML_BUILD_COMMIT=pinned",
    "-DGGML_BUILD_NUMBER=0",
    *(f"-DLLAMA_BUILD_{part}=OFF" for part in ("COMMON", "TESTS", "TOOLS", "EXAMPLES", "SERVER", "APP")),
)
LIBRARIES = ("llama", "ggml", "ggml-cpu", "ggml-base")
"""Of llama.cpp, in the order of the linker."""

_C = ("-std=gnu11", "-O2")
# No fused operations in the models: the same results on every machine.
_CXX = ("-std=gnu++20", "-O2", "-ffp-contract=off")


@dataclass(frozen=True)
class _Kit:
    """One of the two builds: for gem5, or for the machine at hand."""

    name: str
    c: str
    cxx: str
    package: str
    """Debian package of the compilers."""
    settings: tuple[str, ...]
    """Of llama.cpp's CMake files, besides LLAMA_CPP_SETTINGS."""
    flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    shared: tuple[Path, ...]
    """Sources that every program needs besides the backend."""
    programs: tuple[str, ...]


def _kit(native: bool) -> _Kit:
    micro = LLAMA.parent / "micro"
    if native:
        models = (
            path for folder in ("ggml", "sram_pim") for path in sorted((SOURCES / "models" / folder).glob("*.cc"))
        )
        return _Kit(
            name=f"native-{platform.machine()}",
            c="cc",
            cxx="c++",
            package="g++",
            settings=("-DBUILD_SHARED_LIBS=ON", "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON", "-DCMAKE_INSTALL_RPATH=$ORIGIN"),
            flags=("-DGEMPIM_SOFTWARE_DEVICE",),
            link_flags=("-pthread", "-Wl,-rpath,$ORIGIN"),
            shared=(micro / "software_device.cc", *models),
            programs=(PROGRAM, CHECK),
        )
    return _Kit(
        name="aarch64",
        c="aarch64-linux-gnu-gcc",
        cxx="aarch64-linux-gnu-g++",
        package="g++-aarch64-linux-gnu",
        settings=(
            f"-DCMAKE_TOOLCHAIN_FILE={TOOLCHAIN}",
            "-DBUILD_SHARED_LIBS=OFF",
            f"-DGGML_CPU_ARM_ARCH={ARM_ARCH}",
        ),
        flags=(f"-march={ARM_ARCH}",),
        link_flags=("-static", "-pthread", "-Wl,--gc-sections", "-Wl,--wrap=mmap"),
        shared=(micro / "no_clone3.c", LLAMA / "file_map.c"),
        programs=(PROGRAM,),
    )


_MAINS = {PROGRAM: ("driver.cc", "options.cc", "regions.cc"), CHECK: ("check_backend.cc",)}
_BACKEND = "lutmm_backend.cc"


def _inputs() -> Iterator[Path]:
    """Every file of ours that a build may read."""
    for folder in (LLAMA, LLAMA.parent / "micro", SOURCES / "isa", *sorted((SOURCES / "models").iterdir())):
        yield from sorted(path for path in folder.glob("*") if path.suffix in (".c", ".cc", ".h", ".hh"))


def _key(kit: _Kit, *, ours: bool) -> str:
    """Of all that goes into llama.cpp's libraries, and with `ours` into the programs."""
    digest = hashlib.sha256()
    version = run([kit.cxx, "--version"], why="version of the compiler").splitlines()[0]
    settings = (setting.replace(str(LLAMA), "") for setting in (*LLAMA_CPP_SETTINGS, *kit.settings))
    for part in (version, *settings, LLAMA_CPP_PYTHON.sha256, TOOLCHAIN.read_text()):
        digest.update(part.encode() + b"\0")
    if ours:
        for part in (*_C, *_CXX, *kit.flags, *kit.link_flags, *kit.programs):
            digest.update(part.encode() + b"\0")
        digest.update(Path(__file__).read_bytes())
        for path in _inputs():
            digest.update(f"{path.parent.name}/{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _build_llama_cpp(kit: _Kit, out: Path, jobs: int) -> None:
    """llama.cpp's libraries into `out`, by its own CMake files."""
    source = llama_cpp_sources()
    build = out.parent / "build"
    # No path of this machine gets into a library.
    maps = f"-ffile-prefix-map={source}=llama.cpp -ffile-prefix-map={build}=build"
    cmake, ninja = find_program("cmake"), find_program("ninja")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    run(
        [cmake or "cmake", "-S", source, "-B", build, *generator, *LLAMA_CPP_SETTINGS, *kit.settings,
         f"-DCMAKE_C_FLAGS={maps}", f"-DCMAKE_CXX_FLAGS={maps}"],
        why="configuring llama.cpp",
    )  # fmt: skip
    _run_build(
        [cmake or "cmake", "--build", str(build), "--parallel", str(jobs), "--target", "llama"],
        f"llama.cpp ({kit.name})",
    )
    for name in LIBRARIES:
        found = [path for ending in ("a", "so", "so.*") for path in build.rglob(f"lib{name}.{ending}")]
        if not found:
            raise ToolError(f"building llama.cpp: no library {name} was made")
        for path in found:
            shutil.copy2(path, out / path.name, follow_symlinks=False)


def _run_build(command: Sequence[str], what: str) -> None:
    """Run a build with a progress bar on stderr. Raises ToolError with its last lines."""
    lines: list[str] = []
    with (
        tqdm(total=None, desc=what, file=sys.stderr, unit="step", leave=False, mininterval=1) as bar,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            lines = [*lines[-30:], line]
            if found := _STEP.match(line):
                done, total, percent = found.groups()
                bar.total = int(total or 100)
                bar.update(int(done or percent) - bar.n)
        status = process.wait()
    if status:
        raise ToolError(f"building {what}: {' '.join(command)} ended with {status}:\n{''.join(lines)}")


def _build_programs(kit: _Kit, libraries: Path, out: Path, jobs: int) -> None:
    """Our sources, linked with llama.cpp's libraries, into `out`; shared libraries beside the programs."""
    source = llama_cpp_sources()
    objects = out.parent / "objects"
    objects.mkdir()
    includes = [f"-I{LLAMA}", f"-I{LLAMA.parent}", f"-I{SOURCES}"]
    includes += [f"-isystem{source / part}" for part in ("include", "ggml/include", "ggml/src")]
    maps = [f"-ffile-prefix-map={LLAMA.parent}=workloads", f"-ffile-prefix-map={SOURCES}=src_ext"]
    maps.append(f"-ffile-prefix-map={source}=llama.cpp")

    def compile_one(path: Path) -> Path:
        made = objects / f"{path.parent.name}-{path.stem}.o"
        language = [kit.cxx, *_CXX] if path.suffix == ".cc" else [kit.c, *_C]
        run([*language, "-DNDEBUG", "-pthread", *kit.flags, *maps, *includes, "-c", path, "-o", made],
            why=f"compiling {path.name}")  # fmt: skip
        return made

    shared = [LLAMA / _BACKEND, *kit.shared]
    mains = [LLAMA / name for program in kit.programs for name in _MAINS[program]]
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        made = dict(zip([*shared, *mains], pool.map(compile_one, [*shared, *mains]), strict=True))
    for path in libraries.glob("*.so*"):
        shutil.copy2(path, out / path.name, follow_symlinks=False)
    for program in kit.programs:
        parts = [made[path] for path in (*(LLAMA / name for name in _MAINS[program]), *shared)]
        links = [f"-l{name}" for name in LIBRARIES]
        run([kit.cxx, *kit.link_flags, *parts, f"-L{libraries}", *links, "-ldl", "-lm", "-o", out / program],
            why=f"linking {program}")  # fmt: skip


def build_guest(native: bool = False, jobs: int | None = None) -> Path:
    """The folder with the program `llama`, built if it is not in the cache (some minutes).

    `native` builds it for this machine, with the device in software, as shared libraries, and `check_backend` besides;
    otherwise it is a static AArch64 Linux program for gem5. `jobs` compilers run at a time, by default one a core.

    Raises DataError when a compiler, CMake or the sources are missing or a step fails; it says what to install.
    """
    jobs = len(os.sched_getaffinity(0)) if jobs is None else jobs
    if jobs < 1:
        raise DataError(f"building the llama guest: jobs = {jobs}: expected at least 1")
    for folder in (LLAMA, SOURCES / "isa", SOURCES / "models"):
        if not folder.is_dir():
            raise DataError(f"building the llama guest: the sources are incomplete: no folder {folder}")
    kit = _kit(native)
    for command, package in (("cmake", "cmake"), ("make", "make"), (kit.c, kit.package), (kit.cxx, kit.package)):
        if find_program(command) is None and not (command == "make" and find_program("ninja")):
            by_pip = "" if command in (kit.c, kit.cxx) else ", or: pip install cmake ninja"
            raise DataError(
                f"building the llama guest: {command} is not on the PATH; install the Debian package {package}{by_pip}"
            )
    cache = cache_dir()
    try:
        target = cache / "guest" / f"{kit.name}-{_key(kit, ours=True)}"
        if target.is_dir():
            return target
        libraries = cached_folder(
            cache / "llama.cpp" / f"{kit.name}-{_key(kit, ours=False)}",
            lambda out: _build_llama_cpp(kit, out, jobs),
        )
        return cached_folder(target, lambda out: _build_programs(kit, libraries, out, jobs))
    except (OSError, ToolError) as error:
        raise DataError(f"building the llama guest: {error}") from error

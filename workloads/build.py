"""Builds the micro programs (workloads/micro): for the simulated AArch64 machine, or for the machine at hand.

The programs land in the cache, in a folder named after everything that they are made of, so that a second call is
free and a changed source, compiler or flag never finds old programs.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from gempim.cache import cache_dir, cached_folder
from gempim.calibrate.toolchain import LANGUAGE_FLAGS, TARGET_FLAGS, ToolError, ggml_sources, run
from gempim.pins import LLAMA_CPP_PYTHON
from gempim.quantity import DataError

PROGRAMS = ("gemv", "lutmm_ops", "fuzz", "stream", "chase", "illegal", "pim_gemv", "pim_fuzz")
"""Every micro program; README.md in workloads/micro says what each does."""

MICRO = Path(__file__).resolve().parent / "micro"
MODELS_ROOT = Path(__file__).resolve().parent.parent / "src_ext"
"""Beside `workloads` both in a clone and in the installed package."""

# No fused operations: the models' results must be the same on every machine. Sections: what a program does not use of
# ggml's files is left out, and with it what those parts would need of the rest of ggml.
COMMON_FLAGS = ("-pthread", "-ffp-contract=off", "-ffunction-sections", "-fdata-sections")
C_FLAGS = ("-std=gnu11",)
CXX_FLAGS = ("-std=c++20",)
LINK_FLAGS = ("-pthread", "-Wl,--gc-sections")

GGML_FILES = ("ggml-cpu/arch/arm/quants.c", "ggml-cpu/quants.c", "ggml-quants.c")
"""llama.cpp's kernels and quantisers, below ggml's `src`."""


@dataclass(frozen=True)
class _Kit:
    """Compilers and what goes into the programs."""

    name: str
    c: str
    cxx: str
    flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    shared: tuple[Path, ...]
    """Sources that every program may use."""
    version: str
    ggml: Path | None = None
    extra: tuple[Path, ...] = field(default=())
    """Sources of `gemv` alone: ggml's."""


def _find(command: str, needs: str) -> str:
    if shutil.which(command) is None:
        raise DataError(f"building the micro programs: {command} is not on the PATH; {needs}")
    return command


def _models(*folders: str) -> tuple[Path, ...]:
    return tuple(path for folder in folders for path in sorted((MODELS_ROOT / "models" / folder).glob("*.cc")))


def _cross_kit() -> _Kit:
    needs = "install the Debian packages gcc-aarch64-linux-gnu and g++-aarch64-linux-gnu"
    c, cxx = (_find(name, needs) for name in ("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++"))
    ggml = ggml_sources()
    return _Kit(
        name="aarch64",
        c=c,
        cxx=cxx,
        flags=(*TARGET_FLAGS, *COMMON_FLAGS),
        link_flags=("-static", *LINK_FLAGS),
        shared=(MICRO / "blocks.cc", MICRO / "no_clone3.c", *_models("ggml")),
        version=run([cxx, "--version"], why="version of the cross compiler").splitlines()[0],
        ggml=ggml,
        extra=tuple(ggml / "src" / name for name in GGML_FILES),
    )


def _native_kit() -> _Kit:
    needs = "install a C and C++20 compiler (Debian packages gcc and g++)"
    c, cxx = (_find(name, needs) for name in ("cc", "c++"))
    return _Kit(
        name="native",
        c=c,
        cxx=cxx,
        flags=("-O2", "-DNDEBUG", *COMMON_FLAGS, "-DGEMPIM_SOFTWARE_DEVICE"),
        link_flags=LINK_FLAGS,
        shared=(
            MICRO / "blocks.cc",
            MICRO / "software_device.cc",
            MICRO / "software_pim_memory.cc",
            *_models("ggml", "sram_pim", "dram", "logic_pim"),
        ),
        version=run([cxx, "--version"], why="version of the compiler").splitlines()[0],
    )


def _inputs() -> Iterator[Path]:
    """Every file of ours that a build may read."""
    for folder in (MICRO, MODELS_ROOT / "isa", *sorted((MODELS_ROOT / "models").iterdir())):
        yield from sorted(path for path in folder.glob("*") if path.suffix in (".c", ".cc", ".h", ".hh"))


def _key(kit: _Kit) -> str:
    digest = hashlib.sha256()
    for part in (kit.version, *kit.flags, *C_FLAGS, *CXX_FLAGS, *kit.link_flags, *LANGUAGE_FLAGS):
        digest.update(part.encode() + b"\0")
    digest.update(Path(__file__).read_bytes())
    if kit.ggml is not None:
        digest.update(LLAMA_CPP_PYTHON.sha256.encode())
    for path in _inputs():
        digest.update(f"{path.parent.name}/{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _compile(kit: _Kit, source: Path, objects: Path) -> Path:
    of_ggml = source in kit.extra
    out = objects / f"{'ggml-' if of_ggml else ''}{source.parent.name}-{source.name}.o"
    cxx = source.suffix == ".cc"
    command: list[str | Path] = [kit.cxx if cxx else kit.c, *(CXX_FLAGS if cxx else C_FLAGS)]
    # No path of this machine gets into a program.
    command += [f"-ffile-prefix-map={MICRO.parent.parent}=.", f"-ffile-prefix-map={MODELS_ROOT}=src_ext"]
    if of_ggml:
        # ggml as llama.cpp builds it: these flags, fused operations allowed.
        command += [*TARGET_FLAGS, *LANGUAGE_FLAGS, "-ffunction-sections", "-fdata-sections"]
    else:
        command += [*kit.flags, f"-I{MODELS_ROOT}", f"-I{MICRO}"]
    if kit.ggml is not None:
        command += [f"-ffile-prefix-map={kit.ggml}=ggml", "-DGEMPIM_HAVE_GGML"]
        command += [f"-isystem{kit.ggml / part}" for part in ("src/ggml-cpu", "src", "include")]
    run([*command, "-c", source, "-o", out], why=f"compiling {source.name}")
    return out


def _build(kit: _Kit, folder: Path, jobs: int) -> None:
    """Compile every source once and link every program into `folder`."""
    mains = {name: next(path for path in MICRO.glob(f"{name}.c*") if path.stem == name) for name in PROGRAMS}
    objects = folder.parent / "objects"
    objects.mkdir()
    sources = [*kit.extra, *kit.shared, *mains.values()]  # the longest first
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        made = dict(zip(sources, pool.map(lambda source: _compile(kit, source, objects), sources), strict=True))

        def link(name: str) -> None:
            parts: Sequence[Path] = [mains[name], *kit.shared, *(kit.extra if name == "gemv" else ())]
            command: list[str | Path] = [kit.cxx, *kit.link_flags, *(made[part] for part in parts), "-lm"]
            run([*command, "-o", folder / name], why=f"linking {name}")

        list(pool.map(link, PROGRAMS))


def build_micro(native: bool = False, jobs: int = 2) -> Path:
    """The folder with the micro programs, built if they are not in the cache.

    `native` builds them for this machine, with the software device in the place of the instruction and without
    llama.cpp's kernels; otherwise they are static AArch64 Linux programs for gem5, whose `gemv` holds the kernels of
    the pinned llama.cpp (downloaded once). `jobs` compilers run at a time.

    Raises DataError when a compiler or a source is missing or a step fails; it says what to install.
    """
    if jobs < 1:
        raise DataError(f"building the micro programs: jobs = {jobs}: expected at least 1")
    for folder in (MICRO, MODELS_ROOT / "isa", MODELS_ROOT / "models"):
        if not folder.is_dir():
            raise DataError(f"building the micro programs: the sources are incomplete: no folder {folder}")
    try:
        kit = _native_kit() if native else _cross_kit()
        target = cache_dir() / "micro" / f"{kit.name}-{_key(kit)}"
        return cached_folder(target, lambda out: _build(kit, out, jobs))
    except (OSError, ToolError) as error:
        raise DataError(f"building the micro programs: {error}") from error

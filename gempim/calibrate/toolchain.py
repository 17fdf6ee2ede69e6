"""The programs that the static analysis needs: pip for the llama.cpp sources, a cross compiler, llvm-mca.

Every step that fails raises `ToolError` with what was tried and what to install.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gempim.cache import cache_dir, cached_folder
from gempim.calibrate.asm import Insn
from gempim.pins import LLAMA_CPP_PYTHON, Pin

TARGET_FLAGS = ("-O3", "-DNDEBUG", "-march=armv8.2-a+dotprod+fp16")
"""llama.cpp's release flags, and the instruction sets that its run-time detection finds on Neoverse-N1."""

LANGUAGE_FLAGS = ("-D_GNU_SOURCE", "-fno-asynchronous-unwind-tables", "-w")

MCA_TARGET = ("-mtriple=aarch64", "-mcpu=neoverse-n1")

STEADY_INSTRUCTIONS = 3000
"""The analyser repeats a loop body until about so many instructions, and once more as many: the difference is the
steady state."""


class ToolError(RuntimeError):
    """A program is missing, too old, or failed."""


def find_program(name: str) -> str | None:
    """A program of the PATH, or one that pip put beside this Python. None: there is none."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def run(command: Sequence[str | Path], *, stdin: str | None = None, cwd: Path | None = None, why: str) -> str:
    """Run a program and return its standard output. Raises ToolError with `why` and its last lines when it fails."""
    try:
        done = subprocess.run(
            [str(part) for part in command], input=stdin, cwd=cwd, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ToolError(f"{why}: cannot run {command[0]}: {error.strerror or error}") from error
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise ToolError(f"{why}: {' '.join(str(part) for part in command)} ended with {done.returncode}:\n{tail}")
    return done.stdout


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch_sdist(pin: Pin = LLAMA_CPP_PYTHON) -> Path:
    """The pinned source distribution in the cache, downloaded through pip's own configuration if it is not there.

    Raises ToolError when pip cannot get it or the checksum is another.
    """
    target = cache_dir() / "sdist" / pin.file
    if target.exists() and _sha256(target) == pin.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        # pip reads an sdist's metadata even for a plain download; scikit-build-core answers that without compiling
        # anything.
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        run(
            [*command, "--no-binary", pin.name, "--dest", scratch, pin.requirement],
            why=f"downloading the sources of {pin.requirement}",
        )
        fresh = Path(scratch) / pin.file
        if not fresh.exists():
            found = ", ".join(sorted(path.name for path in Path(scratch).iterdir())) or "nothing"
            raise ToolError(f"downloading {pin.requirement}: expected {pin.file}, pip brought {found}")
        digest = _sha256(fresh)
        if digest != pin.sha256:
            raise ToolError(f"{pin.file}: SHA-256 is {digest}, pinned is {pin.sha256}")
        fresh.replace(target)
    return target


_LLAMA_CPP_PARTS = ("CMakeLists.txt", "LICENSE", "cmake/", "ggml/", "include/", "src/", "vendor/")
SDIST_PARTS = ("llama_cpp/", *(f"vendor/llama.cpp/{part}" for part in _LLAMA_CPP_PARTS))
"""What is unpacked of the sources: what llama.cpp's libraries are built from, and the Python binding."""


def sdist_sources(pin: Pin = LLAMA_CPP_PYTHON) -> Path:
    """The folder of the pinned sources, unpacked in the cache as far as SDIST_PARTS goes."""
    archive = fetch_sdist(pin)
    stem = pin.file.removesuffix(".tar.gz")
    parts = hashlib.sha256("\n".join(SDIST_PARTS).encode()).hexdigest()
    root = cache_dir() / "src" / f"{stem}-{pin.sha256[:12]}-{parts[:6]}"
    wanted = tuple(f"{stem}/{part}" for part in SDIST_PARTS)

    def unpack(out: Path) -> None:
        with tarfile.open(archive) as tar:
            members = [m for m in tar.getmembers() if m.name.startswith(wanted)]
            if hasattr(tarfile, "data_filter"):
                tar.extractall(out, members, filter="data")
            else:  # Python before 3.11.4; the archive is pinned by its hash
                tar.extractall(out, members)
        for part in wanted:
            if not (out / part).exists():
                raise ToolError(f"{archive}: no {part} in it")

    cached_folder(root, unpack)
    return root / stem


def llama_cpp_sources(pin: Pin = LLAMA_CPP_PYTHON) -> Path:
    """The folder of llama.cpp inside the pinned sources."""
    return sdist_sources(pin) / "vendor" / "llama.cpp"


def ggml_sources(pin: Pin = LLAMA_CPP_PYTHON) -> Path:
    """The folder of ggml inside the pinned sources."""
    return llama_cpp_sources(pin) / "ggml"


@dataclass(frozen=True)
class Compiler:
    """A GNU cross compiler for AArch64 Linux: commands and the first line of its version."""

    c: str
    cxx: str
    version: str

    def assembly(self, source: Path, ggml: Path) -> str:
        """The assembly of one source file of ggml (or of this package)."""
        with tempfile.TemporaryDirectory() as scratch:
            output = Path(scratch) / "out.s"
            cxx = source.suffix == ".cpp"
            command: list[str | Path] = [self.cxx if cxx else self.c, "-std=gnu++17" if cxx else "-std=gnu11"]
            command += [*TARGET_FLAGS, *LANGUAGE_FLAGS, '-DGGML_VERSION="pinned"', '-DGGML_COMMIT="pinned"']
            command += [f"-I{ggml}/src", f"-I{ggml}/src/ggml-cpu", f"-I{ggml}/include", f"-I{scratch}"]
            command += ["-S", source, "-o", output]
            # llama.cpp's build writes this header with the two names defined above.
            (Path(scratch) / "ggml-version.h").touch()
            # The current folder is ggml's, so that no path of this machine gets into what is compiled.
            run(command, cwd=ggml / "src", why=f"compiling {source.name}")
            return output.read_text(encoding="utf-8")


def find_compiler() -> Compiler:
    """The cross compiler on the PATH. Raises ToolError with the package to install."""
    c, cxx = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("aarch64-linux-gnu-g++")
    if c is None or cxx is None:
        raise ToolError(
            "aarch64-linux-gnu-gcc and -g++ are needed (Debian packages gcc-aarch64-linux-gnu, g++-aarch64-linux-gnu)"
        )
    return Compiler(
        "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++", run([cxx, "--version"], why="version of g++").splitlines()[0]
    )


@dataclass(frozen=True)
class Mca:
    """llvm-mca with a scheduling model of Neoverse-N1."""

    command: str
    version: str

    def cycles(self, body: Sequence[Insn]) -> float:
        """Steady-state cycles of one execution of `body` repeated back to back: L1 hits, right branch predictions.

        Raises ToolError when llvm-mca does not know an instruction.
        """
        repeat = max(1, -(-STEADY_INSTRUCTIONS // max(1, len(body))))
        text = "".join(f"\t{_free_of_labels(insn)}\n" for insn in body)
        return (self._total(text, 2 * repeat) - self._total(text, repeat)) / repeat

    def _total(self, text: str, iterations: int) -> int:
        command = [self.command, *MCA_TARGET, "-json", f"-iterations={iterations}", "-"]
        report = json.loads(run(command, stdin=text, why="llvm-mca"))
        total = report["CodeRegions"][0]["SummaryView"]["TotalCycles"]
        assert isinstance(total, int)
        return total


def _free_of_labels(insn: Insn) -> str:
    """The instruction with a branch target that an assembler accepts outside the function (a local label would be
    undefined)."""
    if insn.target is None:
        return insn.text
    return insn.text.removesuffix(insn.target) + "target"


def find_mca() -> Mca:
    """The newest llvm-mca on the PATH whose neoverse-n1 has a model of its own.

    LLVM 14 has none (it dispatches 3 a cycle for neoverse-n1, as for Cortex-A57) and such a version is refused; LLVM 19
    has one. The names of the modelled units in its output tell.

    Raises ToolError saying what was found.
    """
    names: dict[str, int] = {}
    for folder in os.get_exec_path():
        for path in sorted(Path(folder).glob("llvm-mca*")):
            match = re.fullmatch(r"llvm-mca(?:-(\d+))?", path.name)
            if match and os.access(path, os.X_OK):
                names.setdefault(path.name, int(match.group(1) or 0))
    refused: list[str] = []
    for name in sorted(names, key=lambda item: -names[item]):
        version = re.search(r"version (\S+)", run([name, "--version"], why="version of llvm-mca"))
        label = f"{name} {version.group(1) if version else '(unknown version)'}"
        try:
            probe = run([name, *MCA_TARGET, "-"], stdin="\tadd x0, x0, 1\n", why=name)
        except ToolError:
            refused.append(f"{label}: no AArch64 target")
            continue
        if "N1Unit" in probe:
            return Mca(name, version.group(1) if version else "unknown")
        refused.append(f"{label}: no model of Neoverse-N1")
    raise ToolError(
        "an llvm-mca with a model of Neoverse-N1 is needed (LLVM 19 has one; Debian package llvm-19)"
        + (f"; found {'; '.join(refused)}" if refused else "; none on the PATH")
    )

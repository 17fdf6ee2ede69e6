"""What this machine has of what gempim can use."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from gempim import __version__
from gempim.calibrate.toolchain import find_program


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    ok: bool
    required: bool
    found: str
    remedy: str = ""


def versions() -> dict[str, str]:
    """gempim, Python and the libraries that numbers depend on."""
    out = {"gempim": __version__, "python": platform.python_version()}
    for name in ("numpy", "gguf", "pandas", "pydantic"):
        out[name] = version(name)
    gem5 = find_gem5()
    out["gem5"] = str(gem5) if gem5 else "not found"
    return out


def find_gem5() -> Path | None:
    """The gem5.opt on the PATH, with links resolved; None when there is none."""
    found = shutil.which("gem5.opt")
    return Path(found).resolve() if found else None


def gem5_version(binary: Path) -> str:
    """What a gem5 binary calls itself, for example "24.0.0.1".

    Asked of its Python, since `--build-info` fails in some versions.

    :raises OSError, subprocess.SubprocessError: it cannot be run, or does not say
    """
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / "version.py"
        script.write_text("import _m5.core\nprint('gem5-version', _m5.core.gem5Version)\n")
        command = [str(binary), "--quiet", f"--outdir={scratch}", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for line in done.stdout.splitlines():
        if line.startswith("gem5-version "):
            return line.split()[1]
    raise subprocess.SubprocessError(f"{binary}: says no version")


def _packages() -> list[Check]:
    out = []
    for text in requires("gempim") or []:
        req = Requirement(text)
        if req.marker and not req.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(req.name)
            good = req.specifier.contains(have, prereleases=True)
        except PackageNotFoundError:
            have, good = "not installed", False
        out.append(Check(req.name, good, True, have, f"pip install '{req.name}{req.specifier}'"))
    return out


def _tool(name: str, why: str, remedy: str) -> Check:
    path = find_program(name)
    return Check(f"{name} ({why})", path is not None, False, path or "not on the PATH", remedy)


def _engine() -> Check:
    try:
        from gempim import _engine

        return Check("embedded engine", True, True, Path(_engine.__file__).name)
    except ImportError as e:
        return Check("embedded engine", False, True, str(e), "reinstall with a C++20 compiler: pip install .")


def _gem5() -> Check:
    binary = find_gem5()
    if binary is None:
        return Check(
            "gem5.opt (engines in gem5)",
            False,
            False,
            "not on the PATH",
            "https://www.gem5.org/documentation/general_docs/building",
        )
    try:
        return Check("gem5.opt (engines in gem5)", True, False, f"{binary}: gem5 {gem5_version(binary)}")
    except (OSError, subprocess.SubprocessError) as e:
        return Check("gem5.opt (engines in gem5)", False, False, f"{binary}: does not run: {e}", "rebuild it")


def _model() -> Check:
    from gempim.models.fetch import cached_gguf

    path = cached_gguf()
    return Check("SmolLM2-135M GGUF (demo)", path is not None, False, str(path or "not downloaded"), "gempim fetch")


def check() -> list[Check]:
    """Every check, required ones first."""
    python = Check(
        "Python", sys.version_info >= (3, 11), True, platform.python_version(), "install Python 3.11 or newer"
    )
    return [
        python,
        _engine(),
        *_packages(),
        _model(),
        _gem5(),
        _tool("aarch64-linux-gnu-g++", "guest programs, calibration", "apt-get install g++-aarch64-linux-gnu"),
        _tool("cmake", "the llama guest", "pip install cmake ninja"),
        _tool("llvm-mca", "static calibration", "apt-get install llvm"),
    ]

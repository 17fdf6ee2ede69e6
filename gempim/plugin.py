"""Builds the run-time plug-in for a user's own gem5: `gempim plugin build`.

Nothing of gem5 is compiled and no build tree of it is needed: its source headers (`src/`, `include/`, `ext/`) and the
binary are enough, since the generated headers are made by asking the binary (`src_ext/gem5/generate_headers.py`). The
result is cached by the hashes of the binary, of our sources and of the compiler.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gempim import __version__, _engine
from gempim.cache import cache_dir, cached_folder, point_to
from gempim.doctor import find_gem5
from gempim.experiment import file_sha256
from gempim.quantity import DataError

SOURCES_HASH = "sources.sha256"
"""File in a plug-in's folder: `sources_sha256` of what it was built from."""

SUPPORTED = ("24.0.",)
"""Versions of gem5 that the plug-in's sources are written for: prefixes of its version string."""

PACKAGE = Path(__file__).parent
SOURCES = next((p for p in (PACKAGE / "src_ext", PACKAGE.parent / "src_ext") if p.is_dir()), PACKAGE / "src_ext")
LOADER = next(
    (p for p in (PACKAGE / "gem5_configs", PACKAGE.parent / "gem5_configs") if p.is_dir()), PACKAGE / "gem5_configs"
)

_COMMON = ("-O2", "-fPIC", "-g0", "-w")
_MODEL_FLAGS = ("-std=c++20", *_COMMON)
# gem5's headers are C++17 and do not compile as C++20; TRACING_ON as in every gem5.opt.
_GEM5_FLAGS = ("-std=c++17", "-DTRACING_ON=1", *_COMMON)


def gem5_binary(path: Path | None) -> Path:
    """The gem5 binary to use, links resolved.

    :param path: what the user named; None: gem5.opt on the PATH
    :raises DataError: there is none, or it cannot be run
    """
    if path is None:
        found = find_gem5()
        if found is None:
            raise DataError(
                "gem5.opt is not on the PATH: name it with --gem5 (to get one:"
                " https://www.gem5.org/documentation/general_docs/building)"
            )
        return found
    if not path.is_file() or not os.access(path, os.X_OK):
        raise DataError(f"--gem5 {path}: no such program; expected a gem5 binary, such as build/ARM/gem5.opt")
    return path.resolve()


def gem5_source(binary: Path, named: Path | None) -> Path:
    """The gem5 source folder that the binary was built from.

    :param named: what the user named; None: the nearest parent folder of the binary that is a gem5 source tree
    :raises DataError: there is none, or the folder named is none
    """
    for folder in [named] if named else list(binary.parents):
        if folder and (folder / "src" / "sim" / "sim_object.hh").is_file():
            missing = [d for d in ("include/gem5", "ext/pybind11/include") if not (folder / d).is_dir()]
            if missing:
                raise DataError(f"{folder}: {missing[0]}: missing; the plug-in needs src/, include/ and ext/ of gem5")
            return folder
    if named:
        raise DataError(f"--gem5-source {named}: no gem5 source tree: src/sim/sim_object.hh is not in it")
    raise DataError(f"{binary}: no gem5 source tree above it: name one with --gem5-source")


def source_files() -> list[Path]:
    """Everything of ours that the plug-in is made from."""
    found = [p for d in ("isa", "models", "gem5") for p in sorted((SOURCES / d).rglob("*")) if p.is_file()]
    if not found:
        raise DataError(f"{SOURCES}: the plug-in's sources are not there: reinstall gempim")
    return [p for p in found if p.suffix in (".h", ".hh", ".cc", ".py")]


def sources_sha256() -> str:
    """The hash of `source_files`, names included."""
    h = hashlib.sha256()
    for path in source_files():
        h.update(f"{path.relative_to(SOURCES)} {file_sha256(path)}\n".encode())
    return h.hexdigest()


def _compiler() -> tuple[str, str]:
    name = os.environ.get("CXX", "g++")
    try:
        done = subprocess.run([name, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        raise DataError(f"{name}: the compiler that gem5 was built with is needed (Debian package g++)") from None
    return name, done.stdout.splitlines()[0]


def build(gem5: Path | None = None, source: Path | None = None, *, jobs: int | None = None) -> Path:
    """The folder of the plug-in for a gem5 binary, built unless it is there.

    :param gem5: the binary; None: gem5.opt on the PATH
    :param source: gem5's source folder; None: the one that the binary lies in
    :param jobs: compilations at a time; None: as many as cores
    :raises DataError: no gem5, one without ARM or of an unsupported version, no compiler, or a failed step with the
        last lines it printed
    """
    binary = gem5_binary(gem5)
    tree = gem5_source(binary, source)
    compiler, compiler_version = _compiler()
    binary_hash = file_sha256(binary)
    content = (binary_hash, compiler_version, _MODEL_FLAGS, _GEM5_FLAGS, __version__, sources_sha256())
    root = cache_dir() / "plugin"
    target = root / hashlib.sha256(repr(content).encode()).hexdigest()[:16]
    cached_folder(target, lambda out: _build_in(out, binary, binary_hash, tree, compiler, compiler_version, jobs))
    point_to(root / f"for-{binary_hash[:16]}", target)
    return target


def _build_in(
    plugin: Path, binary: Path, binary_hash: str, tree: Path, compiler: str, compiler_version: str, jobs: int | None
) -> None:
    """The plug-in in the folder `plugin`; what else is made, beside it."""
    scratch = plugin.parent
    generated, objects = scratch / "generated", scratch / "objects"
    package = plugin / "gempim_gem5"
    package.mkdir(parents=True)
    objects.mkdir()
    (plugin / SOURCES_HASH).write_text(sources_sha256() + "\n")
    (package / "__init__.py").write_text('"""SimObjects of gempim."""\n')
    for name in ("SramPim.py", "PimArmDecoder.py", "PimDram.py", "Xpu.py"):
        shutil.copy(SOURCES / "gem5" / name, package)
    defaults = _engine.sram_pim_default_params()
    _write_params(package / "sram_pim_params.json", {"sram_pim": _engine.sram_pim_param_info()}, defaults)
    listed = {"logic_pim": _engine.logic_pim_param_info(), "dram": _engine.dram_param_info()}
    _write_params(package / "pim_dram_params.json", listed, {})

    said = _ask_gem5(binary, generated, plugin, scratch)
    identity = {
        "gempim": __version__,
        "gem5_version": said["version"],
        "gem5_sha256": binary_hash,
        "compiler": compiler_version,
    }
    (generated / "gem5" / "plugin_identity.hh").write_text(
        f"#define GEMPIM_PLUGIN_IDENTITY {json.dumps(json.dumps(identity, sort_keys=True))}\n"
    )
    includes = [SOURCES, generated, tree / "src", tree / "include", tree / "ext", tree / "ext/pybind11/include"]
    includes += [Path(p) for p in said["python_include"]]
    commands: list[list[str | Path]] = []
    outputs: list[Path] = []
    for path in source_files():
        if path.suffix != ".cc":
            continue
        output = objects / (path.parent.name + "_" + path.stem + ".o")
        ours = path.parent.name == "gem5"
        include = [f"-I{p}" for p in (includes if ours else [SOURCES])]
        commands.append([compiler, *(_GEM5_FLAGS if ours else _MODEL_FLAGS), *include, "-c", path, "-o", output])
        outputs.append(output)
    # The longest first: gem5's headers take most of the time.
    commands.sort(key=lambda command: "-std=c++17" not in command)
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        steps = pool.map(lambda command: _run(command, "compiling the plug-in"), commands)
        for _ in tqdm(steps, total=len(commands), desc="plug-in", unit="file", file=sys.stderr, leave=False):
            pass
    library = plugin / "_gempim_gem5.so"
    _run([compiler, "-shared", "-o", library, *outputs], "linking the plug-in")
    check = scratch / "check.py"
    check.write_text(
        f"import sys\nsys.path.insert(0, {str(LOADER)!r})\nimport gempim_plugin\n"
        f"gempim_plugin.load({str(plugin)!r})\nimport gempim_gem5.PimArmDecoder, gempim_gem5.Xpu\n"
    )
    _run([binary, "--quiet", f"--outdir={scratch / 'check'}", check], "loading the plug-in into gem5")
    shutil.rmtree(package / "__pycache__", ignore_errors=True)


def _write_params(path: Path, models: Mapping[str, list[dict[str, Any]]], defaults: Mapping[str, Any]) -> None:
    """The parameters of a SimObject that come from models, with the default of those that have one."""
    infos = [
        {**info, "model": model, **({"default": defaults[info["name"]]} if info["name"] in defaults else {})}
        for model, listed in models.items()
        for info in listed
    ]
    for info in infos:  # JSON has no infinity, and gem5 has no use for the ranges: the model checks them itself
        del info["min"], info["max"]
    path.write_text(json.dumps(infos, indent=1) + "\n")


def _ask_gem5(binary: Path, generated: Path, plugin: Path, scratch: Path) -> dict[str, Any]:
    """Let gem5 write its headers; what it says of itself."""
    script = SOURCES / "gem5" / "generate_headers.py"
    about = scratch / "about.json"
    _run([binary, "--quiet", f"--outdir={scratch / 'ask'}", script, "about", about], "asking gem5 for its version")
    said: dict[str, Any] = json.loads(about.read_text())
    version = str(said["version"])
    if not version.startswith(SUPPORTED):
        raise DataError(
            f"{binary}: gem5 {version}: the plug-in's sources are for {', '.join(v + 'x' for v in SUPPORTED)}"
        )
    if not said["arm"]:
        raise DataError(f"{binary}: this gem5 has no ARM instruction set: build one that has (build/ARM or build/ALL)")
    _run([binary, "--quiet", f"--outdir={scratch / 'ask'}", script, "headers", generated, plugin], "asking gem5")
    return said


def _run(command: Sequence[str | Path], why: str) -> None:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, errors="replace")
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()][:4]
        tail = "\n".join(errors or lines[-8:])
        raise DataError(f"{why}: {Path(str(command[0])).name} ended with {done.returncode}:\n{tail}")

"""The engine `gem5-fs`: a program or a script under Linux on the simulated machine, in gem5's full system.

gem5 itself runs `gem5_configs/run.py --fs`, which boots Linux once for a kernel, a number of cores and a memory size,
and restores that checkpoint for every run. Around it is what `gem5_se` does for syscall emulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gempim.engines.gem5_se import (
    CACHES,
    CPUS,
    KINDS,
    find_binary,
    find_plugin,
    run_guest,
    scripts_sha256,
    tree_sha256,
)
from gempim.experiment import file_sha256
from gempim.quantity import DataError
from gempim.systems import System

ENGINE = "gem5-fs"


@dataclass(frozen=True)
class HostFile:
    """A file of this machine and its name in the guest's /work."""

    path: Path
    name: str


def host_file(text: str) -> HostFile:
    """The file of an option such as `model.gguf` or `/data/m.gguf=model.gguf`. :raises DataError: not there"""
    path, _, name = text.partition("=") if "=" in text and not Path(text).is_file() else (text, "", "")
    if not Path(path).is_file():
        raise DataError(f"--file {text}: no such file")
    return HostFile(Path(path), name or Path(path).name)


@dataclass(frozen=True)
class FullSystemOptions:
    """What run.py is told besides the system. Names and meanings are those of its options.

    Either `script` or `binary` is given.
    """

    linux: Path
    """Made by `gempim linux build`."""
    script: Path | None = None
    binary: Path | None = None
    args: tuple[str, ...] = ()
    files: tuple[HostFile, ...] = ()
    cpu: str = "o3"
    cores: int = 1
    caches: str = "n1"
    mem_size: str = "1GiB"
    fast_forward: bool = False
    max_ticks: int | None = None
    stop_after_roi: int | None = None
    hang_after: float | None = None
    restore: Path | None = None

    @property
    def guest(self) -> str:
        """What runs, for names."""
        path = self.script or self.binary
        assert path is not None
        return path.name

    def command(self) -> list[str]:
        """The options as run.py reads them; the program's arguments come last."""
        out = ["--fs", f"--linux={self.linux.resolve()}", f"--cpu={self.cpu}", f"--cores={self.cores}"]
        out += [f"--caches={self.caches}", f"--mem-size={self.mem_size}"]
        out += [f"--script={self.script.resolve()}"] if self.script is not None else []
        out += [f"--binary={self.binary.resolve()}"] if self.binary is not None else []
        out += [f"--file={item.path.resolve()}={item.name}" for item in self.files]
        out += ["--fast-forward"] if self.fast_forward else []
        out += [f"--max-ticks={self.max_ticks}"] if self.max_ticks is not None else []
        out += [f"--stop-after-roi={self.stop_after_roi}"] if self.stop_after_roi is not None else []
        out += [f"--hang-after={self.hang_after}"] if self.hang_after is not None else []
        out += [f"--restore={self.restore.resolve()}"] if self.restore is not None else []
        return out + (["--args", *self.args] if self.args else [])

    def to_json(self) -> dict[str, Any]:
        """Plain data for the manifest; files by name, their content is in the hashes."""
        return {
            "script": None if self.script is None else self.script.name,
            "binary": None if self.binary is None else self.binary.name,
            "args": list(self.args),
            "files": [item.name for item in self.files],
            "cpu": self.cpu,
            "cores": self.cores,
            "caches": self.caches,
            "mem_size": self.mem_size,
            "fast_forward": self.fast_forward,
            "max_ticks": self.max_ticks,
            "stop_after_roi": self.stop_after_roi,
            "hang_after": self.hang_after,
            "restore": None if self.restore is None else self.restore.name,
        }


def check(system: System, options: FullSystemOptions) -> None:
    """:raises DataError: options that do not fit the system or each other, or name files that are not there"""
    if system.kind not in KINDS:
        raise DataError(
            f"--engine {ENGINE}: system {system.name} is of kind {system.kind}, which gem5 cannot build; kinds that it"
            f" can: {', '.join(KINDS)}"
        )
    if (options.script is None) == (options.binary is None):
        raise DataError(f"--engine {ENGINE}: give either --script FILE or --binary GUEST")
    if options.script is not None and options.args:
        raise DataError("--args goes with --binary; a script is run without arguments")
    for option, path in (("--script", options.script), ("--binary", options.binary)):
        if path is not None and not path.is_file():
            raise DataError(f"{option} {path}: no such file")
    for option, value, allowed in (("--cpu", options.cpu, CPUS), ("--caches", options.caches, CACHES)):
        if value not in allowed:
            raise DataError(f"{option} {value}: expected one of {', '.join(allowed)}")
    cores = int(system.values("cpu")["cores"])
    if not 1 <= options.cores <= cores:
        raise DataError(f"--cores {options.cores}: expected 1 to {cores}, the cores of {system.name}")
    if options.restore is not None and not (options.restore / "m5.cpt").is_file():
        raise DataError(f"--restore {options.restore}: no checkpoint there (no file m5.cpt)")


def input_hashes(options: FullSystemOptions, plugin: Path | None) -> dict[str, str]:
    """Hashes of every file that decides the result."""
    out = {
        "gem5_configs": scripts_sha256(),
        "linux": file_sha256(options.linux / "linux.json"),
        "guest": file_sha256(options.script or options.binary or Path()),
        "plugin": tree_sha256(plugin) if plugin else "",
    }
    for item in options.files:
        out[f"file {item.name}"] = file_sha256(item.path)
    if options.restore is not None:
        out["checkpoint"] = tree_sha256(options.restore)
    return out


def run_gem5_fs(
    system: System,
    options: FullSystemOptions,
    root: Path,
    *,
    gem5: Path | None = None,
    plugin: Path | None = None,
    allow_idle_pim: bool = False,
    command: Sequence[str] | None = None,
) -> Path:
    """Run the script or program under Linux in gem5 unless a complete run is there; the path of its run directory.

    Beside what every run leaves it has console.log, what Linux printed, and boot.log when it had to boot.

    Parameters as in :func:`gempim.engines.gem5_se.run_gem5_se`.

    :raises DataError: something is missing; gem5, Linux or the script failed (with the last lines of the log); or the
        PIM of a PIM system did nothing
    """
    check(system, options)
    binary = find_binary(gem5)
    binary_hash = file_sha256(binary)
    plug = find_plugin(plugin, system, binary_hash)
    hashes = {"gem5": binary_hash, **input_hashes(options, plug)}
    return run_guest(
        ENGINE, system, options, options.guest, root,
        binary=binary, plugin=plug, hashes=hashes, allow_idle_pim=allow_idle_pim, command=command,
    )  # fmt: skip

"""The engine `gem5-se`: a guest program in gem5's syscall emulation, on a system that gem5's components build.

gem5 itself runs `gem5_configs/run.py`; this module finds the parts, hands over the resolved system, and turns what gem5
left behind into a run directory like any other.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from gempim.analysis.stats import Number, Section, parse_stats
from gempim.cache import cache_dir
from gempim.doctor import find_gem5
from gempim.experiment import file_sha256
from gempim.plugin import SOURCES_HASH, sources_sha256
from gempim.provenance import provenance
from gempim.quantity import DataError
from gempim.resolve import resolved_values
from gempim.rundir import SCHEMA, is_complete, write_json, write_run
from gempim.systems import System

ENGINE = "gem5-se"

KINDS = ("cpu", "cpu+sram_pim")
"""Kinds of systems that gem5's components and the plug-in build."""

CPUS = ("atomic_noncaching", "atomic", "timing", "minor", "o3")
CACHES = ("n1", "none")

PIM = "sram_pim"
"""Name of the PIM object in gem5, wherever it sits; its statistics are `<path>.sram_pim.<counter>`."""

PLUGIN_VARIABLE = "GEMPIM_PLUGIN"
"""Environment variable that names the built plug-in."""

LOG = "gem5.log"
_LAST_LINES = 12
_TRACE = re.compile(r"\[0x[0-9a-f]+\]$|^--- (BEGIN|END) LIBC BACKTRACE|^For more info on how to address|^Memory Usage:")
"""Lines of a back trace, and what gem5 prints around it."""
# gem5 itself opens these; what run.py needs for good is in other files.
_SCRATCH = ("config.json", "config.dot", "config.dot.pdf", "config.dot.svg", "citations.bib", "fs")


@dataclass(frozen=True)
class Gem5Options:
    """What run.py is told besides the system. Names and meanings are those of its options."""

    binary: Path
    args: tuple[str, ...] = ()
    cpu: str = "o3"
    cores: int = 1
    caches: str = "n1"
    mem_size: str = "4GiB"
    fast_forward: bool = False
    max_ticks: int | None = None
    stop_after_roi: int | None = None
    restore: Path | None = None
    checkpoint: Path | None = None
    checkpoint_at_roi: tuple[int, ...] = ()
    checkpoint_continue: bool = False
    detailed_from_roi: int | None = None

    def command(self) -> list[str]:
        """The options as run.py reads them; the guest's arguments come last."""
        out = [f"--binary={self.binary.resolve()}", f"--cpu={self.cpu}", f"--cores={self.cores}"]
        out += [f"--caches={self.caches}", f"--mem-size={self.mem_size}"]
        out += ["--fast-forward"] if self.fast_forward else []
        out += [f"--max-ticks={self.max_ticks}"] if self.max_ticks is not None else []
        out += [f"--stop-after-roi={self.stop_after_roi}"] if self.stop_after_roi is not None else []
        out += [f"--restore={self.restore.resolve()}"] if self.restore is not None else []
        out += [f"--checkpoint={self.checkpoint.resolve()}"] if self.checkpoint is not None else []
        at = ",".join(str(n) for n in self.checkpoint_at_roi)
        out += [f"--checkpoint-at-roi={at}"] if at else []
        out += ["--checkpoint-continue"] if self.checkpoint_continue else []
        out += [f"--detailed-from-roi={self.detailed_from_roi}"] if self.detailed_from_roi is not None else []
        return out + (["--args", *self.args] if self.args else [])

    def to_json(self) -> dict[str, Any]:
        """Plain data for the manifest; the binary by name, its content is in the hashes."""
        return {
            "binary": self.binary.name,
            "args": list(self.args),
            "cpu": self.cpu,
            "cores": self.cores,
            "caches": self.caches,
            "mem_size": self.mem_size,
            "fast_forward": self.fast_forward,
            "max_ticks": self.max_ticks,
            "stop_after_roi": self.stop_after_roi,
            "restore": None if self.restore is None else self.restore.name,
            **({"checkpoint_at_roi": list(self.checkpoint_at_roi)} if self.checkpoint_at_roi else {}),
            **({"detailed_from_roi": self.detailed_from_roi} if self.detailed_from_roi is not None else {}),
        }


def split_args(text: str) -> tuple[str, ...]:
    """The guest's arguments as a shell splits them. :raises DataError: a quote that does not end"""
    try:
        return tuple(shlex.split(text))
    except ValueError as e:
        raise DataError(f"--args {text}: {e}") from None


def config_folder() -> Path:
    """The folder of the scripts that gem5 runs: in the installed package, or beside it in a clone.

    :raises DataError: in neither place
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "gem5_configs", package.parent / "gem5_configs"):
        if (folder / "run.py").is_file():
            return folder
    raise DataError(f"gem5_configs/run.py is neither in {package} nor beside it: reinstall gempim")


def find_binary(given: Path | None) -> Path:
    """The gem5 binary: the one given, or gem5.opt on the PATH. :raises DataError: neither, or it cannot be executed"""
    if given is None:
        found = find_gem5()
        if found is None:
            raise DataError(
                "--engine gem5-se: no gem5.opt on the PATH; name it with --gem5, or build one for Arm:"
                " https://www.gem5.org/documentation/general_docs/building"
            )
        return found
    path = given.expanduser().resolve()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise DataError(f"--gem5 {given}: no such program")
    return path


def find_plugin(given: Path | None, system: System, gem5_sha256: str) -> Path | None:
    """The plug-in that a PIM system needs: the one given, the one that GEMPIM_PLUGIN names, or the one that
    `gempim plugin build` made for this gem5; None for other systems.

    :raises DataError: it is not there, or `gempim plugin build` made it from other sources than this gempim's
    """
    if system.kind == "cpu":
        return None
    if given is not None:
        origin, path = f"--plugin {given}", given.expanduser()
    elif os.environ.get(PLUGIN_VARIABLE):
        origin, path = f"{PLUGIN_VARIABLE} {os.environ[PLUGIN_VARIABLE]}", Path(os.environ[PLUGIN_VARIABLE])
    else:
        origin = f"system {system.name} needs the gem5 plug-in"
        path = cache_dir() / "plugin" / f"for-{gem5_sha256[:16]}"
    if not path.exists():
        raise DataError(f"{origin}: not there; build it with: gempim plugin build --gem5 PATH/TO/gem5.opt")
    if origin.startswith("system "):
        built_from = path / SOURCES_HASH
        if not built_from.is_file() or built_from.read_text().strip() != sources_sha256():
            raise DataError(
                f"{origin}: the last one for this gem5, {path.resolve()}, was built from other sources than this"
                " gempim's; build it with: gempim plugin build --gem5 PATH/TO/gem5.opt (or name one with --plugin)"
            )
    return path.resolve()


def run_gem5_se(
    system: System,
    options: Gem5Options,
    root: Path,
    *,
    gem5: Path | None = None,
    plugin: Path | None = None,
    allow_idle_pim: bool = False,
    command: Sequence[str] | None = None,
) -> Path:
    """Run the guest in gem5 unless a complete run is there already; the path of its run directory.

    :param root: the folder that holds run directories (`runs/`)
    :param gem5: the gem5 binary; default: gem5.opt on the PATH
    :param plugin: folder of the built plug-in; default: see :func:`find_plugin`
    :param allow_idle_pim: accept a run whose regions issue no command to the PIM
    :param command: what the user typed, for the manifest
    :raises DataError: something is missing; gem5 or the guest failed (with the last lines of the log); or the PIM of a
        PIM system did nothing
    """
    check(system, options)
    binary = find_binary(gem5)
    binary_hash = file_sha256(binary)
    plug = find_plugin(plugin, system, binary_hash)
    hashes = {"gem5": binary_hash, **input_hashes(options, plug)}
    guest = options.binary.name
    return run_guest(
        ENGINE, system, options, guest, root,
        binary=binary, plugin=plug, hashes=hashes, allow_idle_pim=allow_idle_pim, command=command,
    )  # fmt: skip


class GuestOptions(Protocol):
    """What is told to run.py besides the system."""

    @property
    def cpu(self) -> str:
        """CPU model."""

    @property
    def cores(self) -> int:
        """Simulated cores."""

    def command(self) -> list[str]:
        """The options as run.py reads them."""

    def to_json(self) -> dict[str, Any]:
        """Plain data for the manifest."""


def run_guest(
    engine: str,
    system: System,
    options: GuestOptions,
    guest: str,
    root: Path,
    *,
    binary: Path,
    plugin: Path | None,
    hashes: Mapping[str, str],
    allow_idle_pim: bool,
    command: Sequence[str] | None,
) -> Path:
    """One run of run.py as a run directory, unless a complete one is there; its path.

    :param guest: names the program or script
    :param hashes: of every file that decides the result
    :raises DataError: gem5 or the guest failed, or the PIM of a PIM system did nothing
    """
    resolved = resolved_values(system)
    path = root / _run_name(engine, system, options, guest, resolved, hashes)
    if is_complete(path):
        _check_pim_worked(path.name, system, parse_stats(path / "stats.txt"), allow_idle_pim)
        return path
    started = time.perf_counter()

    def fill(folder: Path) -> None:
        write_json(folder / "system.json", resolved)
        done = launch(folder, binary, plugin, options, folder / "system.json")
        check_ended(done, folder, root / f".failed-{path.name}.log")
        sections = parse_stats(folder / "stats.txt")
        rois = roi_rows(folder, sections)
        _check_pim_worked(path.name, system, sections, allow_idle_pim)
        remove_scratch(folder)
        write_json(folder / "result.json", {"schema": SCHEMA, "run": path.name, "engine": engine, **_result(rois)})
        wall = time.perf_counter() - started
        write_json(folder / "manifest.json", _manifest(engine, system, options, resolved, path, hashes, wall, command))

    write_run(path, fill)
    return path


def check(system: System, options: Gem5Options) -> None:
    """:raises DataError: options that do not fit the system, or name files that are not there"""
    if system.kind not in KINDS:
        raise DataError(
            f"--engine gem5-se: system {system.name} is of kind {system.kind}, which gem5 cannot build; kinds that it"
            f" can: {', '.join(KINDS)}"
        )
    if options.restore is not None and not (options.restore / "m5.cpt").is_file():
        raise DataError(f"--restore {options.restore}: no checkpoint there (no file m5.cpt)")
    if not options.binary.is_file():
        raise DataError(f"--binary {options.binary}: no such file; expected a statically linked AArch64 Linux program")
    for option, value, allowed in (("--cpu", options.cpu, CPUS), ("--caches", options.caches, CACHES)):
        if value not in allowed:
            raise DataError(f"{option} {value}: expected one of {', '.join(allowed)}")
    cores = int(system.values("cpu")["cores"])
    if not 1 <= options.cores <= cores:
        raise DataError(f"--cores {options.cores}: expected 1 to {cores}, the cores of {system.name}")


def input_hashes(options: Gem5Options, plugin: Path | None) -> dict[str, str]:
    """Hashes of every other file that decides the result, those that the guest's arguments name included."""
    out = {
        "gem5_configs": scripts_sha256(),
        "guest": file_sha256(options.binary),
        "plugin": tree_sha256(plugin) if plugin else "",
    }
    for arg in options.args:
        if Path(arg).is_file():
            out[f"arg {arg}"] = file_sha256(Path(arg))
    if options.restore is not None:
        out["checkpoint"] = tree_sha256(options.restore)
    return out


def scripts_sha256() -> str:
    """Hash of the scripts that gem5 runs."""
    scripts = hashlib.sha256()
    folder = config_folder()
    for file in sorted(folder.rglob("*.py")):
        scripts.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return scripts.hexdigest()


def tree_sha256(path: Path) -> str:
    """Hash of a file, or of all files in a folder."""
    if path.is_file():
        return file_sha256(path)
    h = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        h.update(file.relative_to(path).as_posix().encode() + b"\0" + file_sha256(file).encode())
    return h.hexdigest()


def _run_name(
    engine: str,
    system: System,
    options: GuestOptions,
    guest: str,
    resolved: Mapping[str, Any],
    hashes: Mapping[str, str],
) -> str:
    """`gem5-<system>-<guest>-<cpu>-c<cores>-<hash>`; in full system it begins with `gem5-fs`."""
    guest = "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "-" for c in guest)[:64]
    content = {"system": resolved, "options": options.to_json(), "hashes": dict(hashes)}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    start = "gem5" if engine == ENGINE else engine
    return f"{start}-{system.name}-{guest}-{options.cpu}-c{options.cores}-{digest}"


def launch(
    folder: Path,
    binary: Path,
    plugin: Path | None,
    options: GuestOptions,
    resolved: Path,
    *,
    cwd: Path | None = None,
) -> int:
    """Run gem5 with `folder` as its output folder and LOG in it.

    :param resolved: the JSON file of the resolved system
    :param cwd: where the guest's relative paths begin; default: the working directory
    :return: its exit status, negative for a signal
    """
    command = [
        str(binary),
        f"--outdir={folder.resolve()}",
        "--json-config=",
        "--dot-config=",
        str(config_folder() / "run.py"),
        f"--experiment={resolved.resolve()}",
    ]
    command += [f"--plugin={plugin}"] if plugin else []
    with (folder / LOG).open("wb") as log:
        log.write(f"$ {shlex.join([*command, *options.command()])}\n".encode())
        log.flush()
        return subprocess.run(
            [*command, *options.command()],
            stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False, cwd=cwd,
            preexec_fn=_end_with_parent,
        ).returncode  # fmt: skip


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Ask Linux to end this process when the one that started it dies: nobody would read what gem5 leaves."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def check_ended(
    status: int, folder: Path, saved: Path, needs: Sequence[str] = ("stats.txt", "roi.jsonl", "guest.out")
) -> None:
    """:raises DataError: gem5 or the guest failed, or left a file out; the whole log is kept at `saved`"""
    if status == 0:
        missing = [name for name in needs if not (folder / name).is_file()]
        if not missing:
            saved.unlink(missing_ok=True)
            return
        what = f"left no {', '.join(missing)}"
    else:
        what = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    saved.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / LOG, saved)
    raise DataError(f"gem5 {what}; the log is {saved}, its last lines:\n{_tail(folder / LOG)}")


def remove_scratch(folder: Path) -> None:
    """Remove what gem5 leaves and nobody reads again."""
    for name in _SCRATCH:
        _remove(folder / name)


def _tail(log: Path) -> str:
    """The last lines that say something: gem5's back traces and blank lines left out."""
    lines = log.read_text(errors="replace").splitlines()
    telling = [line for line in lines if line.strip() and not _TRACE.search(line)]
    return "\n".join(f"  {line}" for line in telling[-_LAST_LINES:])


def pim_counters(section: Section) -> dict[str, Number] | None:
    """The counters of the SRAM-PIM in one statistics section, by counter name; None when the machine has none.

    The object is found by its name, so that it may sit anywhere in the machine: its counters are the statistics
    `<path>.sram_pim.<counter>`.

    :raises DataError: more than one object of that name
    """
    paths = {name.rpartition(".")[0] for name in section.scalars if name.endswith(f".{PIM}.commands")}
    if not paths:
        return None
    if len(paths) > 1:
        raise DataError(f"{section.file}: more than one {PIM}: {', '.join(sorted(paths))}")
    prefix = paths.pop() + "."
    return {
        name[len(prefix) :]: value
        for name, value in section.scalars.items()
        if name.startswith(prefix) and "." not in name[len(prefix) :]
    }


def instructions(section: Section) -> int:
    """Instructions that all cores committed in one section; gem5's own simInsts counts from the run's beginning."""
    return int(sum(v for name, v in section.scalars.items() if name.endswith(".commitStats0.numInsts")))


def _check_pim_worked(run: str, system: System, sections: Sequence[Section], allow_idle: bool) -> None:
    """:raises DataError: a PIM system whose PIM got no command in any region"""
    if system.kind == "cpu" or allow_idle:
        return
    counters = [pim_counters(section) for section in sections]
    if all(c is None for c in counters):
        raise DataError(f"{run}: system {system.name} has a PIM, but gem5's statistics have no {PIM}.commands")
    if not any(c and c["commands"] for c in counters):
        raise DataError(
            f"{run}: the guest issued no lutmm command in any region ({PIM}.commands is 0): the PIM did nothing."
            " If that is meant (a kernel for the cores, run on this system), add --allow-idle-pim"
        )


def roi_rows(folder: Path, sections: Sequence[Section]) -> list[dict[str, Any]]:
    """The lines of roi.jsonl with the numbers of their sections. :raises DataError: they do not fit each other"""
    rows = [json.loads(line) for line in (folder / "roi.jsonl").read_text().splitlines()]
    if len(rows) != len(sections):
        raise DataError(f"roi.jsonl has {len(rows)} regions but stats.txt has {len(sections)} sections")
    out = []
    for row, section in zip(rows, sections, strict=True):
        if section.get("simTicks") != row["sim_ps"]:
            raise DataError(
                f"roi.jsonl: section {row['section']}: {row['sim_ps']} ps, but stats.txt says {section.get('simTicks')}"
            )
        out.append(
            {
                "section": row["section"],
                "index": row["index"],
                "label": row["label"],
                "sim_ps": row["sim_ps"],
                "sim_seconds": row["sim_ps"] / 1e12,
                "instructions": instructions(section),
                "host_seconds": section.scalars.get("hostSeconds"),
                "pim": pim_counters(section),
            }
        )
    return out


def _result(rois: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"sim_seconds": sum(r["sim_ps"] for r in rois) / 1e12, "rois": list(rois)}


def region_rows(path: Path) -> pd.DataFrame:
    """One row a region of a run: what it was, its simulated time, its instructions and the PIM's commands."""
    result = json.loads((path / "result.json").read_text())
    return pd.DataFrame(
        {
            "region": r["index"],
            "label": r["label"],
            "simulated us": r["sim_ps"] / 1e6,
            "instructions": r["instructions"],
            "PIM commands": "" if r["pim"] is None else r["pim"]["commands"],
        }
        for r in result["rois"]
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _manifest(
    engine: str,
    system: System,
    options: GuestOptions,
    resolved: Mapping[str, Any],
    path: Path,
    hashes: Mapping[str, str],
    wall: float,
    command: Sequence[str] | None,
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "status": "complete",
        "kind": engine,
        "experiment": {
            "engine": engine,
            "system": system.to_json(),
            "gem5": options.to_json(),
            "energy_table": system.energy_table,
            "price_key": system.price,
        },
        "resolved": resolved,
        **provenance(path, hashes, wall, command),
    }

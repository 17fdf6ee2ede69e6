"""The options of `--fs`, what they hand to the guest, and what an end of such a run means."""

import argparse
import hashlib
import os
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from spec.errors import SpecError
from spec.payload import HostFile, check_names, command_script, host_file

HUNG = 123
RESET = 122
"""Exit statuses of run.py; below 122 they are the script's own."""

DEFAULT_HANG_S = 5.0


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.001 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"expected simulated seconds from 0.001 to 1e6, got {text!r}")
    return value


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Options of the full system."""
    full = p.add_argument_group(
        "full system",
        "--fs boots Linux on the machine (once: the checkpoint at the shell is kept and shared by all systems, CPU"
        " models and scripts) and runs a script, or --binary with --args, as root in /work",
    )
    full.add_argument("--fs", action="store_true", help="full system instead of syscall emulation")
    full.add_argument("--script", metavar="FILE", help="shell script; the run ends when it does, with its exit status")
    full.add_argument(
        "--file", action="append", default=[], metavar="FILE[=NAME]", help="a file to put into /work; repeatable"
    )
    full.add_argument("--linux", metavar="DIR", help="made by `gempim linux build` (default: the newest in the cache)")
    full.add_argument("--boot-dir", metavar="DIR", help="where boot checkpoints are kept (default: the cache)")
    full.add_argument(
        "--boot-only",
        metavar="DIR",
        help="boot, leave the checkpoint at the shell in DIR, and stop",
    )
    full.add_argument(
        "--hang-after",
        type=_seconds,
        default=DEFAULT_HANG_S,
        metavar="S",
        help=f"end with an error when all cores have idled for this simulated time (default: {DEFAULT_HANG_S:g})",
    )


_ONLY_FS = ("script", "file", "linux", "boot_dir", "boot_only")


def check(options: argparse.Namespace) -> None:
    """:raises SpecError: options that contradict each other, or name files that are not there"""
    if not options.fs:
        given = [name for name in _ONLY_FS if getattr(options, name)]
        if given:
            raise SpecError(f"--{given[0].replace('_', '-')}: needs --fs")
        return
    if options.boot_only:
        given = [name for name in ("script", "binary", "restore", "checkpoint", "file") if getattr(options, name)]
        if given:
            raise SpecError(f"--boot-only and --{given[0]} contradict each other")
        return
    if (options.script is None) == (options.binary is None):
        raise SpecError("--fs: give either --script FILE or --binary GUEST")
    if options.script is not None:
        if options.args:
            raise SpecError("--args goes with --binary; a script is run without arguments")
        if options.env:
            raise SpecError("--env goes with --binary; a script sets its own environment")
        if not os.path.isfile(options.script) or not os.access(options.script, os.R_OK):
            raise SpecError(f"--script {options.script}: no such file, or it cannot be read")


class Handed(NamedTuple):
    """What the guest gets."""

    script: bytes
    files: List[HostFile]
    name: str
    """For messages."""

    def sha256(self) -> str:
        """Of the script and of the files with their names."""
        digest = hashlib.sha256(self.script)
        for item in self.files:
            digest.update(b"\0" + item.name.encode() + b"\0" + _file_sha256(item.path).encode())
        return digest.hexdigest()


def _file_sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def handed(options: argparse.Namespace) -> Handed:
    """What the options hand to the guest. :raises SpecError: a file that cannot be read, or two of one name"""
    files = [host_file(text) for text in options.file]
    if options.script is not None:
        with open(options.script, "rb") as f:
            script = f.read()
        name = os.path.basename(options.script)
    else:
        program = host_file(options.binary)
        files.insert(0, program)
        script = command_script(program.name, options.args, options.env)
        name = " ".join([program.name, *options.args])
    check_names(files)
    return Handed(script, files, name)


def facts(
    boot: Dict[str, Any], resolved: Dict[str, Any], options: argparse.Namespace, pim: bool, what: Handed
) -> Dict[str, Any]:
    """What must be the same when a checkpoint of a running script is restored."""
    text = repr(sorted((name, sorted(values.items())) for name, values in resolved["sections"].items()))
    return {
        "boot": boot,
        "system": resolved["system"],
        "system_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "pim": pim,
        "caches": options.caches,
        "handed_sha256": what.sha256(),
    }


class End(NamedTuple):
    """How a run ended: its exit status and, unless that is 0, why."""

    status: int
    why: str


def end_of(code: int, codes: Dict[str, int]) -> Optional[End]:
    """What the code of an m5_fail says; None when no part of ours ended the run, but the guest itself.

    :param codes: of `linux.json`
    """
    if code & ~0xFF == codes["script_ended"]:
        status = code & 0xFF
        how = f"was killed by signal {status - 128}" if 128 < status < 192 else f"ended with exit status {status}"
        return End(status, "" if status == 0 else f"the script {how}")
    if code == codes["powered_off"]:
        return End(0, "")
    if code == codes["reset"]:
        return End(RESET, "Linux reset the machine: a kernel panic, or /init failed")
    if code == codes["no_script"]:
        return End(2, "the agent in the guest could not unpack what it was handed")
    return None


_TELLING = ("Kernel panic", "Internal error", "Unable to handle", "init: ")


def last_lines(text: str, most: int = 8) -> str:
    """What a console says of an end, indented: the kernel's words for it, and the last lines."""
    lines = text.splitlines()
    before = [line for line in lines[:-most] if any(word in line for word in _TELLING)]
    return "\n".join("  " + line for line in [*before, *lines[-most:]]) or "  (nothing)"


def renamed_sections(lines: Sequence[str], old: str, new: str) -> List[str]:
    """The lines of an m5.cpt with sections of one object renamed: gem5 finds a checkpoint's objects by name."""
    start = f"[{old}"
    return [f"[{new}{line[len(start) :]}" if line.startswith(start) else line for line in lines]

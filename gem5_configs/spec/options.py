"""The command line of run.py."""

import argparse
import os
import re
import sys
from typing import Any, Dict, List, NoReturn, Sequence

from spec import full_system
from spec.errors import SpecError
from spec.geometry import PIM_MEMORY_ROWS, pim_row_bytes

CPUS = ("atomic_noncaching", "atomic", "timing", "minor", "o3")
CACHES = ("n1", "none")

MEMORY_STEP = 64 << 20
"""Simulated memory comes in multiples of this, so that every LLC slice and DRAM channel gets an equal share."""

EXAMPLE = """\
example:
  gempim plugin build --gem5 /path/to/gem5.opt
  gem5.opt --outdir=m5out gem5_configs/run.py --system sail --cpu o3 --cores 4 --binary gemv.aarch64 --args -t q4_0 -m 1

  gempim linux build
  gem5.opt --outdir=m5out gem5_configs/run.py --fs --system sail --cores 4 --script FILE --file gemv.aarch64

exit status: the guest's or the script's own; 2 for a wrong option, file or system; 122 when Linux panics; 123 when all
cores idle for --hang-after; 124 when --max-ticks is reached; 125 when the guest's region marks do not pair up; 134
when the guest aborts.
"""

_SIZE = re.compile(r"(\d+)(MiB|GiB)")


class _Parser(argparse.ArgumentParser):
    """argparse that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"run.py: {message}", file=sys.stderr)
        sys.exit(2)


def memory_bytes(text: str) -> int:
    """Bytes of a size such as 512MiB or 4GiB. :raises SpecError: another unit, 0, or no multiple of 64MiB"""
    found = _SIZE.fullmatch(text)
    size = int(found[1]) << {"MiB": 20, "GiB": 30}[found[2]] if found else 0
    if size <= 0 or size % MEMORY_STEP:
        raise SpecError(f"--mem-size {text}: expected a multiple of 64MiB such as 512MiB or 4GiB")
    return size


def _count(least: int) -> Any:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return value

    return parse


def _indexes(text: str) -> List[int]:
    """Region indexes such as 3 or 0,2,5, ascending."""
    try:
        values = [int(item) for item in text.split(",")]
    except ValueError:
        values = [-1]
    if values[0] < 0:
        raise argparse.ArgumentTypeError(f"expected a region index or several such as 0,2,5, got {text!r}")
    for before, after in zip(values, values[1:]):
        if after <= before:
            what = "twice" if after == before else f"after {before}"
            raise argparse.ArgumentTypeError(f"expected ascending region indexes, got {after} {what} in {text!r}")
    return values


def _spaces(text: str) -> List[int]:
    """Memory spaces such as 3 or 0,2."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"expected memory spaces such as 3 or 0,2, got {text!r}")
    return [int(item) for item in text.split(",")]


def parser() -> argparse.ArgumentParser:
    """The argument parser."""
    p = _Parser(
        prog="run.py",
        description="Run a statically linked AArch64 Linux program on a gempim system, in gem5's syscall emulation or,"
        " with --fs, under Linux.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = p.add_argument_group("what is simulated")
    what.add_argument("--system", metavar="NAME|FILE.toml", help="a shipped system, or a system file")
    what.add_argument("--experiment", metavar="FILE.json", help="resolved values instead, made by `gempim resolve`")
    what.add_argument("--cpu", default="o3", choices=CPUS, help="CPU model (default: o3, a Neoverse-N1)")
    what.add_argument("--cores", type=_count(1), default=1, help="simulated cores, at most the system's (default: 1)")
    what.add_argument("--caches", default="n1", choices=CACHES, help="cache hierarchy (default: n1)")
    what.add_argument(
        "--mem-size", help="simulated memory (default: 4GiB; with --fs 1GiB, since Linux touches all of it)"
    )
    pim = p.add_argument_group("systems whose memory is the PIM (duplex)")
    pim.add_argument(
        "--host",
        default="neoverse-n1",
        metavar="NAME|FILE",
        help="system whose cores and caches run the guest: shipped, FILE.toml, or FILE.json of `gempim resolve`"
        " (default: neoverse-n1)",
    )
    pim.add_argument(
        "--pim-window", default="64MiB", metavar="SIZE", help="memory of each space that the guest has (default: 64MiB)"
    )
    pim.add_argument("--xpu-bytes", type=_count(1), metavar="N", help="an xPU reads so many bytes while a command runs")
    pim.add_argument(
        "--xpu-spaces", type=_spaces, metavar="S,S", help="... from these memory spaces (default: the last one)"
    )
    plug = p.add_argument_group("plug-in, for systems with a PIM")
    plug.add_argument("--plugin", metavar="PATH", help="the built plug-in (default: the environment's GEMPIM_PLUGIN)")
    plug.add_argument(
        "--no-plugin", action="store_true", help="leave the PIM out: its lutmm is then an illegal instruction"
    )
    plug.add_argument(
        "--pim-debug",
        type=lambda text: text.split(","),
        default=[],
        metavar="FLAG,FLAG",
        help="debug flags of the plug-in: SramPim, PimDecoder, PimDram (gem5's --debug-flags does not know them yet)",
    )
    guest = p.add_argument_group("guest program")
    guest.add_argument("--binary", metavar="GUEST", help="the program")
    guest.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="guest environment; repeatable")
    guest.add_argument("--args", nargs=argparse.REMAINDER, default=[], help="its arguments: everything that follows")
    full_system.add_arguments(p)
    run = p.add_argument_group("how far it runs")
    run.add_argument(
        "--fast-forward", action="store_true", help="use the fastest CPU, without caches, until the first region begins"
    )
    run.add_argument(
        "--detailed-from-roi",
        type=_count(0),
        metavar="N",
        help="... until region N begins: the ones before it leave no statistics (default: 0)",
    )
    run.add_argument("--max-ticks", type=_count(1), metavar="PS", help="end with an error after this simulated time")
    run.add_argument("--stop-after-roi", type=_count(0), metavar="N", help="end well when region N has ended (from 0)")
    run.add_argument("--checkpoint", metavar="DIR", help="write a checkpoint here and stop; where is said by one of:")
    run.add_argument(
        "--checkpoint-at-roi",
        type=_indexes,
        metavar="N,N",
        help="... region N begins (from 0); with several, each in DIR/roi-N, and the last one stops the run",
    )
    run.add_argument(
        "--checkpoint-at-tick", type=_count(1), metavar="PS", help="... this time has passed, also mid-region"
    )
    run.add_argument(
        "--checkpoint-continue", action="store_true", help="go on after the last checkpoint, with empty caches"
    )
    run.add_argument("--restore", metavar="DIR", help="start from a checkpoint of this system, cores and program")
    return p


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options, checked as far as that goes without the system; `mem_bytes` added.

    Ends the process with status 2 and one line on stderr when they cannot be.
    """
    p = parser()
    options = p.parse_args(argv)
    try:
        check(options)
    except SpecError as e:
        p.error(str(e))
    return options


def check(options: argparse.Namespace) -> None:
    """:raises SpecError: options that contradict each other, or name files that are not there"""
    options.mem_given = options.mem_size is not None
    options.mem_size = options.mem_size or ("1GiB" if options.fs else "4GiB")
    options.mem_bytes = memory_bytes(options.mem_size)
    full_system.check(options)
    if options.boot_only:
        return
    if (options.system is None) == (options.experiment is None):
        raise SpecError("give either --system NAME or --experiment FILE.json")
    if options.binary is None and options.script is None:
        raise SpecError("--binary GUEST is missing: a statically linked AArch64 Linux program")
    if options.binary is not None:
        check_guest(options.binary)
    for item in options.env:
        if not item.partition("=")[0] or "=" not in item:
            raise SpecError(f"--env {item}: expected NAME=VALUE")
    if options.plugin and options.no_plugin:
        raise SpecError("--plugin and --no-plugin contradict each other")
    if options.pim_debug and options.no_plugin:
        raise SpecError("--pim-debug and --no-plugin contradict each other")
    where = [o for o in ("checkpoint_at_roi", "checkpoint_at_tick") if getattr(options, o) is not None]
    if len(where) > 1:
        raise SpecError("--checkpoint-at-roi and --checkpoint-at-tick: give one of them")
    if (where or options.checkpoint_continue) and options.checkpoint is None:
        raise SpecError(f"--{(where or ['checkpoint_continue'])[0].replace('_', '-')}: needs --checkpoint DIR")
    if options.detailed_from_roi is not None and not options.fast_forward:
        raise SpecError("--detailed-from-roi: needs --fast-forward")
    if options.fast_forward:
        stop, first = options.stop_after_roi, options.detailed_from_roi
        if None not in (stop, first) and stop < first:
            raise SpecError(f"--stop-after-roi {stop}: before --detailed-from-roi {first}, nothing would be measured")
        if options.cpu == "atomic_noncaching":
            raise SpecError("--fast-forward: --cpu atomic_noncaching is the fast CPU already")
        if options.checkpoint or options.restore:
            raise SpecError(
                "--fast-forward does not go with checkpoints: write one with --cpu atomic_noncaching"
                " --checkpoint-at-roi 0, and restore it with the CPU you want"
            )
    if options.checkpoint and os.path.exists(options.checkpoint) and os.listdir(options.checkpoint):
        raise SpecError(f"--checkpoint {options.checkpoint}: there already, and not empty")
    if options.restore and not os.path.isfile(os.path.join(options.restore, "m5.cpt")):
        raise SpecError(f"--restore {options.restore}: no checkpoint there (no file m5.cpt)")


def check_guest(path: str) -> None:
    """:raises SpecError: not a statically linked AArch64 ELF program"""
    try:
        with open(path, "rb") as f:
            data = f.read(4096)
    except OSError as e:
        raise SpecError(f"--binary {path}: cannot be read: {e.strerror or e}") from None
    if data[:4] != b"\x7fELF" or len(data) < 64:
        raise SpecError(f"--binary {path}: not an ELF program; expected a statically linked AArch64 Linux program")
    machine = int.from_bytes(data[18:20], "little")
    if data[4] != 2 or machine != 183:
        raise SpecError(
            f"--binary {path}: ELF machine {machine}, expected 183 (AArch64, 64 bit); compile it with"
            " aarch64-linux-gnu-gcc -static"
        )
    offset, size, count = (int.from_bytes(data[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    for i in range(count):
        start = offset + i * size
        if int.from_bytes(data[start : start + 4], "little") == 3:
            raise SpecError(f"--binary {path}: dynamically linked; link it with -static")


def check_against(options: argparse.Namespace, sections: Dict[str, Dict[str, Any]], name: str) -> None:
    """:raises SpecError: more cores than the system has, or options that it cannot follow"""
    check_pim_memory(options, sections, name)
    have = int(sections["cpu"]["cores"])
    if options.cores > have:
        raise SpecError(f"--cores {options.cores}: system {name} has {have} (cpu.cores)")


def check_pim_memory(options: argparse.Namespace, sections: Dict[str, Dict[str, Any]], name: str) -> None:
    """`pim_window_bytes` added, and the size of the memory if it was not given.

    :raises SpecError: options of a memory with PIM for another system, or such a system under Linux or without plug-in
    """
    if "logic_pim" not in sections:
        if options.xpu_bytes is not None:
            raise SpecError(f"--xpu-bytes: system {name} has no memory with PIM")
        return
    if options.fs:
        raise SpecError(
            f"system {name}: --fs: its PIM works in syscall emulation only, since Linux has no driver for it"
        )
    if options.no_plugin:
        raise SpecError(f"system {name}: --no-plugin: its memory is in the plug-in")
    if options.xpu_spaces is not None and options.xpu_bytes is None:
        raise SpecError("--xpu-spaces: needs --xpu-bytes")
    if not options.mem_given:
        options.mem_bytes = PIM_MEMORY_ROWS * pim_row_bytes(sections["memory"], sections["dram"])
        options.mem_size = f"{options.mem_bytes >> 20}MiB"
    try:
        options.pim_window_bytes = memory_bytes(options.pim_window)
    except SpecError as e:
        raise SpecError(str(e).replace("--mem-size", "--pim-window")) from None


def guest_command(options: argparse.Namespace) -> str:
    """The guest and its arguments, for messages and checkpoints."""
    return " ".join([os.path.basename(options.binary), *options.args])

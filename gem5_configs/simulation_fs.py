"""A run in full system: the boot and its checkpoint, the script, and how such a run ends."""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import m5
from gem5.simulate.exit_event import ExitEvent
from gem5.simulate.simulator import Simulator

import gempim_plugin
from components.board_fs import CONSOLE, FullSystemBoard
from components.caches import NoCaches
from components.cores import GempimProcessor, make_cores
from components.memories import plain_memory
from simulation import GUEST_OUTPUT, MAX_TICKS_REACHED, Failure, Simulation, require_arm
from spec import boot, devicetree, full_system, payload
from spec import linux as linux_files
from spec.errors import SpecError
from spec.progress import PS_PER_S, IdleWatch

PAYLOAD = "payload.cpio"
CONSOLE_LOG = "console.log"
BOOT_LOG = "boot.log"


def _boot_identity(options: argparse.Namespace, linux: linux_files.Linux) -> Dict[str, Any]:
    return boot.identity(
        linux,
        cores=options.cores,
        mem_bytes=options.mem_bytes,
        gem5_sha256=gempim_plugin.file_sha256("/proc/self/exe"),
    )


def _check_size(options: argparse.Namespace, addresses: Dict[str, int]) -> None:
    if options.cores > addresses["most_cores"]:
        raise SpecError(f"--cores {options.cores}: the boot stub knows at most {addresses['most_cores']}")
    if options.mem_bytes < addresses["least_memory_bytes"]:
        raise SpecError(
            f"--mem-size {options.mem_size}: Linux needs at least {addresses['least_memory_bytes'] >> 20}MiB"
        )


def _console() -> str:
    for name in (CONSOLE, CONSOLE_LOG):
        try:
            with open(os.path.join(m5.options.outdir, name), encoding="utf-8", errors="replace") as f:
                return f.read()
        except OSError:
            continue
    return ""


def _keep_console() -> None:
    path = os.path.join(m5.options.outdir, CONSOLE)
    if os.path.exists(path):
        os.replace(path, os.path.join(m5.options.outdir, CONSOLE_LOG))


def boot_only(options: argparse.Namespace) -> int:
    """Boot and leave the checkpoint at the shell in `--boot-only`.

    :raises SpecError: Linux did not come to the agent
    """
    require_arm()
    linux = linux_files.load(options.linux)
    addresses = linux.addresses
    _check_size(options, addresses)
    tree = devicetree.blob(
        devicetree.machine(
            addresses,
            cores=options.cores,
            memory_bytes=options.mem_bytes,
            initramfs_bytes=os.path.getsize(linux.initramfs),
            command_line=linux.command_line,
        )
    )
    tree_path = os.path.join(m5.options.outdir, "machine.dtb")
    with open(tree_path, "wb") as f:
        f.write(tree)
    board = FullSystemBoard(
        clk_freq=boot.CPU_CLOCK,
        processor=GempimProcessor(make_cores("atomic_noncaching", options.cores)),
        memory=plain_memory(options.mem_bytes),
        cache_hierarchy=NoCaches(),
        addresses=addresses,
    )
    board.set_linux(
        linux.kernel,
        extras=[tree_path, linux.initramfs],
        extra_addresses=[addresses["device_tree"], addresses["initramfs"]],
    )
    reached = (ExitEvent.CHECKPOINT, ExitEvent.EXIT, ExitEvent.FAIL, ExitEvent.MAX_TICK, ExitEvent.USER_INTERRUPT)
    simulator = Simulator(
        board=board, on_exit_event={event: _true for event in reached}, max_ticks=options.max_ticks or boot.LIMIT_PS
    )
    simulator.run()
    event = ExitEvent.translate_exit_status(simulator.get_last_exit_event_cause())
    if event == ExitEvent.CHECKPOINT:
        m5.checkpoint(options.boot_only)
        print(f"run.py: Linux booted in {m5.curTick() / 1e12:.3f} simulated seconds", flush=True)
        return 0
    _keep_console()
    end = (
        full_system.end_of(int(simulator.get_last_exit_event_code()), linux.codes) if event == ExitEvent.FAIL else None
    )
    if event == ExitEvent.MAX_TICK:
        status, why = MAX_TICKS_REACHED, f"Linux did not come to its shell in {m5.curTick() / 1e12:g} simulated seconds"
    elif end is not None:
        status, why = end.status or 1, end.why or "Linux powered off before it came to its shell"
    else:
        status, why = 1, f"the boot ended with: {simulator.get_last_exit_event_cause()}"
    raise Failure(f"{why}; the console's last lines:\n{full_system.last_lines(_console())}", status)


def _true() -> bool:
    return True


class FullSystemSimulation(Simulation):
    """One run in full system; parameters as :class:`Simulation`."""

    def __init__(self, options: argparse.Namespace, resolved: Dict[str, Any]) -> None:
        require_arm()
        self._linux = linux_files.load(options.linux)
        _check_size(options, self._linux.addresses)
        self._handed = full_system.handed(options)
        self._boot = _boot_identity(options, self._linux)
        self._watch = IdleWatch(int(options.hang_after * PS_PER_S), self._instructions)
        self._hung = False
        self._echoed = 0
        super().__init__(options, resolved)

    def _facts(self, resolved: Dict[str, Any]) -> Dict[str, Any]:
        return full_system.facts(self._boot, resolved, self._options, self._pim, self._handed)

    def _begin(self) -> str:
        """The checkpoint that the run begins in: one of an earlier run, or that of the boot, made if need be."""
        options = self._options
        if options.restore:
            return str(options.restore)
        folder = boot.place(self._boot, options.boot_dir)
        if not boot.is_there(folder):
            print(f"run.py: booting Linux on {options.cores} cores, once: {folder}", file=sys.stderr, flush=True)
            command = [os.readlink("/proc/self/exe"), os.path.abspath(sys.argv[0]), "--fs"]
            command += [f"--cores={options.cores}", f"--mem-size={options.mem_size}"]
            command += [f"--linux={options.linux}"] if options.linux else []
            boot.ensure(folder, [*command, "--boot-only"], os.path.join(m5.options.outdir, BOOT_LOG))
        return folder

    def _make_board(self, resolved: Dict[str, Any]) -> FullSystemBoard:
        # First what a user can get wrong, then the boot, which takes minutes.
        machine = self._machine(resolved)
        folder = self._begin()
        outdir = m5.options.outdir
        if self._options.fast_forward:
            folder = self._for_fast_cores(folder)
        board = FullSystemBoard(
            clk_freq=machine.clock,
            processor=machine.processor,
            memory=machine.memory,
            cache_hierarchy=machine.caches,
            addresses=self._linux.addresses,
        )
        archive = os.path.join(outdir, PAYLOAD)
        payload.write(archive, self._handed.script, self._handed.files)
        board.set_linux(self._linux.kernel, readfile=archive)
        board.restore_from(Path(folder))
        before = self._restored["guest_output"] if self._restored else ""
        # The agent goes on writing where it was.
        with open(os.path.join(outdir, GUEST_OUTPUT), "w", encoding="utf-8") as f:
            f.write(before)
        self._echoed = len(before)
        board.when_built(self._built)
        return board

    def _for_fast_cores(self, folder: str) -> str:
        """A copy of a checkpoint whose cores are the ones that a fast-forward begins on."""
        out = os.path.join(m5.options.outdir, "fast-checkpoint")
        shutil.rmtree(out, ignore_errors=True)  # of an earlier run into the same folder
        os.makedirs(out)
        for name in os.listdir(folder):
            if name.endswith(".pmem"):
                os.symlink(os.path.abspath(os.path.join(folder, name)), os.path.join(out, name))
        with open(os.path.join(folder, "m5.cpt"), encoding="utf-8") as f:
            lines = full_system.renamed_sections(f.readlines(), "board.processor.cores", "board.processor.fast")
        with open(os.path.join(out, "m5.cpt"), "w", encoding="utf-8") as f:
            f.writelines(lines)
        return out

    # Progress --------------------------------------------------------------------------------------------------------

    def _instructions(self) -> List[int]:
        return [int(core.get_simobject().totalInsts()) for core in self._board.get_processor().get_cores()]

    def _built(self) -> None:
        super()._built()
        self._watch.start(m5.curTick())

    def _first_limit(self) -> Optional[int]:
        return min(self._options.max_ticks or self._watch.interval_ps, self._watch.interval_ps)

    def _left(self) -> None:
        most = self._options.max_ticks
        left = max(1, most - (m5.curTick() - self._start)) if most else self._watch.interval_ps
        self._simulator.set_max_ticks(min(left, self._watch.interval_ps))

    def _limit(self) -> bool:
        most = self._options.max_ticks
        if most and m5.curTick() - self._start >= most:
            return True
        self._hung = self._watch.idle(m5.curTick())
        self._left()
        return self._hung

    def _work_begin(self) -> bool:
        fast = self._fast
        stop = super()._work_begin()
        if fast and not self._fast:
            self._watch.start(m5.curTick())
        return stop

    def _guest_exit(self) -> bool:
        # A program's own m5_exit: its output is still on its way to the agent, which ends the run after the script.
        self._left()
        return False

    # The end ---------------------------------------------------------------------------------------------------------

    def _name(self) -> str:
        return self._handed.name

    def _ended(self) -> int:
        name = self._name()
        event = ExitEvent.translate_exit_status(self._simulator.get_last_exit_event_cause())
        _keep_console()
        if self._hung:
            raise Failure(
                f"{name}: hung: all cores have idled for {self._options.hang_after:g} simulated seconds; if the script"
                f" waits for so long on purpose, raise --hang-after. Console:\n{full_system.last_lines(_console())}",
                full_system.HUNG,
            )
        if event == ExitEvent.MAX_TICK:
            limit = self._options.max_ticks
            raise Failure(f"{name}: reached --max-ticks {limit} before the script ended", MAX_TICKS_REACHED)
        if event == ExitEvent.USER_INTERRUPT:
            raise Failure("interrupted", 130)
        if self._stopped:
            return 0
        if event == ExitEvent.WORKEND:
            self._check_reached("stopped")
        else:
            code = self._code()
            end = full_system.end_of(code, self._linux.codes)
            if end is None:
                raise Failure(f"{name}: a program of the guest ended the simulation with m5_fail {code}", code or 1)
            if end.status == full_system.RESET:
                raise Failure(f"{name}: {end.why}. Console:\n{full_system.last_lines(_console())}", end.status)
            if end.status:
                raise Failure(f"{name}: {end.why}", end.status)
            self._check_reached("ended")
        self._write_regions()
        return 0

    def _echo(self) -> None:
        text = self._guest_output()[self._echoed :]
        sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
        sys.stdout.flush()
        archive = os.path.join(m5.options.outdir, PAYLOAD)
        if os.path.exists(archive):
            os.unlink(archive)

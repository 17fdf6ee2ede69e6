"""From options and system values to a finished gem5 run."""

import argparse
import atexit
import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import m5
from gem5.isas import ISA
from gem5.resources.resource import BinaryResource
from gem5.runtime import get_supported_isas
from gem5.simulate.exit_event import ExitEvent
from gem5.simulate.simulator import Simulator
from m5.objects import Root

from components.boards import GempimBoard
from components.caches import hierarchy
from components.cores import FastForwardProcessor, GempimProcessor, make_cores
from components.memories import GempimMemory, plain_memory
from components.pim import enable_debug_flags, load_plugin, sram_pim
from components.pim_memory import GempimPimMemory
from spec import checkpoint
from spec.errors import SpecError
from spec.geometry import clock, dram_channels, llc_slices, pim_memory, private_caches, xpu_stream
from spec.options import guest_command
from spec.roi import RoiLog, jsonl, labels
from spec.system import PIM_MEMORY

GUEST_OUTPUT = "guest.out"
ROI_FILE = "roi.jsonl"
SYSCALLS = "syscalls.log"

MAX_TICKS_REACHED = 124
ABORTED = 134
"""128 + SIGABRT, as a shell reports it."""


def require_arm() -> None:
    """:raises SpecError: this gem5 does not simulate Arm.

    Not the standard library's `requires`: it refuses every gem5 that was built without Ruby.
    """
    if ISA.ARM not in get_supported_isas():
        raise SpecError("this gem5 does not simulate Arm: build it with USE_ARM_ISA (build/ARM/gem5.opt)")


class Machine(NamedTuple):
    """The parts of a board, but for what makes it run programs."""

    clock: str
    processor: Any
    memory: Any
    caches: Any
    cores: List[Any]
    """The cores that the program begins on, in the mode of syscall emulation."""


class Simulation:
    """One run in syscall emulation.

    :param options: of the command line, checked
    :param resolved: of the system
    :raises SpecError: the system cannot be built
    """

    def __init__(self, options: argparse.Namespace, resolved: Dict[str, Any]) -> None:
        require_arm()
        self._options = options
        self._pim = resolved["kind"] == "cpu+sram_pim" and not options.no_plugin
        self._same = self._facts(resolved)
        self._restored = self._load_checkpoint()
        self._roi = RoiLog(
            reset=m5.stats.reset,
            dump=m5.stats.dump,
            now=m5.curTick,
            first_index=self._restored["next_index"] if self._restored else 0,
            measured_from=options.detailed_from_roi or 0,
        )
        self._board = self._make_board(resolved)
        self._simulator = Simulator(
            board=self._board,
            on_exit_event={
                ExitEvent.WORKBEGIN: self._work_begin,
                ExitEvent.WORKEND: self._work_end,
                ExitEvent.CHECKPOINT: self._guest_checkpoint,
                ExitEvent.SCHEDULED_TICK: self._tick_checkpoint,
                ExitEvent.MAX_TICK: self._limit,
                ExitEvent.EXIT: self._guest_exit,
                ExitEvent.FAIL: _stop,
                ExitEvent.USER_INTERRUPT: _stop,
            },
            **({"max_ticks": self._first_limit()} if self._first_limit() else {}),
        )
        self._pending = set(options.checkpoint_at_roi or ())
        """Regions whose checkpoint is still to be written."""
        self._saved = False
        self._stopped = False
        """Whether the run ended where its last checkpoint was written."""
        self._fast = bool(options.fast_forward)

    def _facts(self, resolved: Dict[str, Any]) -> Dict[str, Any]:
        """What a checkpoint of this run holds for."""
        return checkpoint.facts(resolved, self._options, self._pim)

    def _load_checkpoint(self) -> Optional[Dict[str, Any]]:
        """What is known of the checkpoint that the run begins in; None when nothing had happened there."""
        return checkpoint.load(self._options.restore, self._same) if self._options.restore else None

    def _machine(self, resolved: Dict[str, Any]) -> Machine:
        options, sections = self._options, resolved["sections"]
        geometry = llc_slices(sections["llc"], sections["sram_pim"] if self._pim else None)
        if options.mem_bytes % geometry.reach_bytes():
            raise SpecError(
                f"--mem-size {options.mem_size}: not a multiple of {geometry.reach_bytes()} bytes, over which the LLC"
                " slices of this system interleave"
            )
        # Non-caching cores to the end: neither caches nor DRAM would do anything, but take most of the host's time.
        plain = options.cpu == "atomic_noncaching"
        if resolved["kind"] == PIM_MEMORY:
            memory: Any = self._pim_memory(sections)
        elif plain:
            memory = plain_memory(options.mem_bytes)
        else:
            memory = GempimMemory(dram_channels(sections["memory"], sections["dram"]), options.mem_bytes)
        device, decoder = sram_pim(sections["sram_pim"], options.plugin) if self._pim else (None, None)
        if not self._pim and (options.plugin or options.pim_debug):
            load_plugin(options.plugin)
        enable_debug_flags(options.pim_debug)
        # Before the cores: an object belongs to the first one that it is given to, and the device is no core's.
        caches = hierarchy(
            "none" if plain else options.caches,
            private=private_caches(sections["cpu"]),
            geometry=geometry,
            mesh_width=int(sections["llc"]["bytes_per_cycle"]),
            cores=options.cores,
            sram_pim=device,
        )
        cores = make_cores(options.cpu, options.cores, decoder=decoder, device=device)
        if options.fast_forward:
            fast = make_cores("atomic_noncaching", options.cores, decoder=decoder, device=device)
            processor: Any = FastForwardProcessor(fast, cores)
        else:
            processor = GempimProcessor(cores)
        return Machine(clock(sections["cpu"]["clock_hz"]), processor, memory, caches, cores)

    def _pim_memory(self, sections: Dict[str, Any]) -> GempimPimMemory:
        options = self._options
        geometry = pim_memory(sections, options.mem_bytes, options.pim_window_bytes)
        stream = None
        if options.xpu_bytes is not None:
            stream = xpu_stream(geometry, options.xpu_bytes, options.xpu_spaces or [geometry.spaces - 1])
        return GempimPimMemory(geometry, stream, options.plugin)

    def _make_board(self, resolved: Dict[str, Any]) -> Any:
        options = self._options
        machine = self._machine(resolved)
        board = GempimBoard(
            clk_freq=machine.clock,
            processor=machine.processor,
            memory=machine.memory,
            cache_hierarchy=machine.caches,
        )
        board.set_se_binary_workload(
            BinaryResource(local_path=os.path.abspath(options.binary)),
            stdout_file=Path(GUEST_OUTPUT),
            env_list=list(options.env),
            arguments=list(options.args),
            checkpoint=Path(options.restore) if options.restore else None,
        )
        # The guest sees its name, not its path: where the file lies must not move its stack, and with it its timing.
        process = machine.cores[0].get_simobject().workload[0]
        process.cmd = [os.path.basename(options.binary), *options.args]
        if isinstance(machine.memory, GempimPimMemory) and not options.restore:
            board.when_built(lambda: machine.memory.map_into(process))  # a checkpoint holds the page table
        board.when_built(self._built)
        return board

    def run(self) -> int:
        """Simulate to the end. :return: the exit status :raises SpecError: the guest's region marks do not pair up"""
        if not self._options.pim_debug:
            _watch_syscalls()
        try:
            self._simulator.run()
            return self._ended()
        finally:
            # Every section has its line in roi.jsonl: gem5's own dump at exit would add one that has none.
            atexit.unregister(m5.stats.dump)
            self._echo()

    # What the guest and the clock do -------------------------------------------------------------------------------

    def _built(self) -> None:
        self._start = m5.curTick()
        self._roi.start_tick = self._start
        at = self._options.checkpoint_at_tick
        if at is not None:
            if at <= self._start:
                raise SpecError(f"--checkpoint-at-tick {at}: the run begins at tick {self._start}")
            m5.scheduleTickExitAbsolute(at)
        over = [i for i in self._options.checkpoint_at_roi or () if i < self._roi.next_index]
        if over:
            raise SpecError(f"--checkpoint-at-roi {over[0]}: that region has begun already in --restore")
        if self._restored and self._restored["open_region"]:
            # Before the first simulated tick: gem5 resets the statistics itself when it starts.
            region = self._restored["open_region"]
            self._roi.reopen(region["index"], region["work_id"])

    def _work_begin(self) -> bool:
        first = self._options.detailed_from_roi or 0
        if self._fast and self._roi.next_index >= first:
            if _syscalls(b"clone"):
                before = f"region {first}" if first else "its first region"
                raise SpecError(
                    f"--fast-forward: the guest made threads before {before}, and gem5 cannot change the CPU model"
                    " then; write a checkpoint with --cpu atomic_noncaching --checkpoint DIR"
                    f" --checkpoint-at-roi {first} and --restore it, with --stop-after-roi if the guest joins its"
                    " threads"
                )
            self._board.get_processor().switch()
            self._fast = False
        self._left()
        index = self._roi.begin(self._code())
        return self._checkpoint(index) if index in self._pending else False

    def _work_end(self) -> bool:
        self._left()
        return self._roi.end(self._code()) == self._options.stop_after_roi

    def _guest_checkpoint(self) -> bool:
        self._left()
        wanted = self._options.checkpoint and not self._saved
        elsewhere = self._options.checkpoint_at_roi is not None or self._options.checkpoint_at_tick is not None
        if not wanted or elsewhere:
            print("run.py: the guest asks for a checkpoint; none is written here (--checkpoint DIR)", file=sys.stderr)
            return False
        return self._checkpoint()

    def _tick_checkpoint(self) -> bool:
        self._left()
        return self._checkpoint()

    def _checkpoint(self, index: Optional[int] = None) -> bool:
        """Write the checkpoint of region `index`, or the one at another place. :return: whether the run stops here"""
        folder = checkpoint.place(self._options.checkpoint, self._options.checkpoint_at_roi, index)
        m5.checkpoint(folder)
        region = self._roi.open_region
        checkpoint.save(folder, self._same, self._roi.next_index, region, self._guest_output())
        print(f"run.py: checkpoint written: {folder}", flush=True)
        self._saved = True
        self._pending.discard(index)
        if not self._pending and not self._options.checkpoint_continue:
            self._stopped = True
            return True
        # The state that a restored run begins in: gem5 does not save the contents of caches.
        m5.memInvalidate(Root.getInstance())
        if region:
            self._roi.reopen(region["index"], region["work_id"])
        return False

    def _first_limit(self) -> Optional[int]:
        """Ticks after which the simulation first stops without any other reason."""
        return self._options.max_ticks

    def _limit(self) -> bool:
        """That has come. :return: whether the run is over"""
        return True

    def _guest_exit(self) -> bool:
        """The guest has exited. :return: whether the run is over"""
        return True

    def _code(self) -> int:
        return int(self._simulator.get_last_exit_event_code())

    def _left(self) -> None:
        """gem5 counts its limit from every exit event anew; ours counts from the beginning of the run."""
        if self._options.max_ticks:
            self._simulator.set_max_ticks(max(1, self._options.max_ticks - (m5.curTick() - self._start)))

    # The end -------------------------------------------------------------------------------------------------------

    def _ended(self) -> int:
        event = ExitEvent.translate_exit_status(self._simulator.get_last_exit_event_cause())
        aborted = _syscalls(b"tgkill", last=True)
        _remove_syscalls()
        if event == ExitEvent.MAX_TICK:
            limit = self._options.max_ticks
            what = f"reached --max-ticks {limit}" if limit else "made no progress until the end of simulated time"
            raise Failure(f"{guest_command(self._options)}: {what} before the guest exited", MAX_TICKS_REACHED)
        if event == ExitEvent.USER_INTERRUPT:
            raise Failure("interrupted", 130)
        if self._stopped:
            return 0
        status = 0 if event == ExitEvent.WORKEND else self._code()
        if aborted:
            raise Failure(f"{guest_command(self._options)}: the guest aborted (SIGABRT)", ABORTED)
        if event == ExitEvent.FAIL:
            raise Failure(f"{guest_command(self._options)}: the guest ended with m5_fail {status}", status or 1)
        if status:
            raise Failure(f"{guest_command(self._options)}: the guest's exit status is {status}", status)
        self._check_reached("stopped" if event == ExitEvent.WORKEND else "exited")
        self._write_regions()
        return 0

    def _write_regions(self) -> None:
        """ROI_FILE, with the labels that the guest printed."""
        self._roi.finish()
        before = self._restored["guest_output"] if self._restored else ""
        text = jsonl(self._roi.rows, labels(before + self._guest_output()))
        with open(os.path.join(m5.options.outdir, ROI_FILE), "w", encoding="utf-8") as f:
            f.write(text)

    def _check_reached(self, how: str) -> None:
        """:raises Failure: the guest ended before a place that the options name"""
        missed = ", ".join(f"region {i}" for i in sorted(self._pending))
        if self._options.checkpoint and (self._pending or not self._saved):
            place = f"the place of --checkpoint was never reached{f' ({missed})' if missed else ''}"
            raise Failure(f"{self._name()}: the guest {how}, and {place}", 2)
        first = self._options.detailed_from_roi
        if self._fast and first:
            what = f"the guest {how} before region {first} of --detailed-from-roi began"
            raise Failure(f"{self._name()}: {what}: it has {self._roi.next_index} regions", 2)

    def _name(self) -> str:
        """What runs, for messages."""
        return guest_command(self._options)

    def _guest_output(self) -> str:
        try:
            with open(os.path.join(m5.options.outdir, GUEST_OUTPUT), encoding="utf-8", errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def _echo(self) -> None:
        text = self._guest_output()
        sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
        sys.stdout.flush()


class Failure(SpecError):
    """The run ended, and not well. `status`: the process's exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def _stop() -> bool:
    """Ends the simulation loop; what it means is decided afterwards."""
    return True


def _watch_syscalls() -> None:
    """Trace the guest's system calls: gem5 lets a guest that aborts exit with status 0, and only the trace tells.

    Not where the user asked for a trace of their own, which would get lines that they did not ask for.
    """
    if m5.options.debug_flags:
        return
    m5.debug.flags["SyscallBase"].enable()
    m5.trace.output(SYSCALLS)


def _syscalls(start: bytes, last: bool = False) -> bool:
    """Whether a system call of the guest, or with `last` its last one, has a name that starts so."""
    try:
        with open(os.path.join(m5.options.outdir, SYSCALLS), "rb") as f:
            if last:
                f.seek(max(0, os.path.getsize(f.name) - 65536))
            calls: List[bytes] = re.findall(rb"syscall Calling (\w+)", f.read())
    except OSError:
        return False
    return any(call.startswith(start) for call in (calls[-1:] if last else calls))


def _remove_syscalls() -> None:
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(m5.options.outdir, SYSCALLS))

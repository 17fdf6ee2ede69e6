"""Stands in for gem5 with the llama guest below `checkpoints.Runner`: leaves what both leave, from known costs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gempim import _engine
from gempim.engines.gem5_se import LOG, Gem5Options
from gempim.engines.llama.plan import LOAD, Layout, pass_label

CYCLE_PS = 400
CHANNELS, RANKS = 8, 2
T_RFC_PS = 350_000


def region_time(region: int) -> int:
    """A time that no other region has, a whole number of cycles [ps]."""
    return CYCLE_PS * (1_000_000 + 7919 * region)


@dataclass
class FakeGem5:
    """`Runner`. `runs` collects the options that it was called with."""

    layers: int
    prompt: tuple[int, ...] = (1, 15, 7)
    time_ps: Callable[[int], int] = region_time
    ends_after: int | None = None
    """Tokens after which the model ends the text by itself."""
    fail: Callable[[Gem5Options], tuple[int, str] | None] = lambda options: None
    """Status and text on gem5's log instead of a run."""
    idle_pim: bool = False
    late: tuple[int, ...] = ()
    """Regions in which a command of the region before ends: the PIM is active, and no command is issued."""
    misread: bool = False
    """A restored run prints other tokens: it has read something else than the functional run did."""
    lost: int | None = None
    """A region that leaves no section."""
    runs: list[Gem5Options] = field(default_factory=list)

    def __call__(self, folder: Path, options: Gem5Options) -> int:
        self.runs.append(options)
        args = dict(zip(options.args[::2], options.args[1::2], strict=False))
        (folder / LOG).write_text(f"$ gem5.opt {' '.join(options.command())}\nsimulating\n")
        failed = self.fail(options)
        if failed:
            with (folder / LOG).open("a") as log:
                log.write(failed[1] + "\n")
            return failed[0]
        lines = self._output(args)
        first, last = 0, len(lines) - 1
        if options.restore is not None:
            first = int((options.restore / "m5.cpt").read_text())
            before = json.loads((options.restore / "gempim.json").read_text())["same"]
            assert before == _same(options), "a checkpoint is restored into the machine and program that wrote it"
        if options.detailed_from_roi is not None:
            assert options.fast_forward
        if options.checkpoint is not None:
            for region in options.checkpoint_at_roi:
                if region >= len(lines):
                    (folder / "guest.out").write_text("".join(lines))
                    return 2
                at = options.checkpoint
                at = at if len(options.checkpoint_at_roi) == 1 else at / f"roi-{region}"
                at.mkdir(parents=True)
                (at / "m5.cpt").write_text(str(region))
                (at / "gempim.json").write_text(json.dumps({"same": _same(options)}))
            if not options.checkpoint_continue:
                stop = max(options.checkpoint_at_roi)
                (folder / "guest.out").write_text("".join(lines[:stop]))
                return 0
        if options.stop_after_roi is not None:
            last = options.stop_after_roi
        text = "".join(lines[first:])
        if options.restore is not None and self.misread:
            text = re.sub(r"(?m)^token (\d+) ", r"token \1 9", text)
        (folder / "guest.out").write_text(text)
        rows, stats = [], ""
        start = options.detailed_from_roi or first
        for section, region in enumerate(n for n in range(start, last + 1) if n != self.lost):
            ps = self.time_ps(region)
            stats += self.section(region, ps, options.cores, args["--device"] == "lutmm")
            rows.append({"schema": 1, "section": section, "index": region, "label": f"roi {region}", "work_id": region})
            rows[-1] |= {"begin_ps": 0, "sim_ps": ps}
        (folder / "stats.txt").write_text(stats)
        (folder / "roi.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return 0

    def _output(self, args: dict[str, str]) -> list[str]:
        """What the guest prints, one entry a region: the lines until the next region begins."""
        tokens = min(int(args["--tokens"]), self.ends_after or 10**9)
        layout = Layout(self.layers)
        head = f"model model.gguf arch llama layers {self.layers} embedding 64 vocab 40 bytes 1000 params 2000\n"
        head += f"prompt {len(self.prompt)} {' '.join(map(str, self.prompt))}\n"
        out = [f"{head}roi {LOAD} load\n"]
        for p in range(tokens):
            parts = range(layout.parts) if args["--roi"] == "layer" else range(1)
            for _ in parts:
                region = len(out)
                label = layout.label(region) if args["--roi"] == "layer" else pass_label(p)
                out.append(f"roi {region} {label}\n")
            count = len(self.prompt) if p == 0 else 1
            out[-1] += f"pass {p} tokens {count} ns 1234\ntoken {p} {100 + p}\n"
        if args["--device"] == "lutmm":
            out[-1] += "product ffn_up q4_1 commands 12 macs 3456 weight_bytes 789\n"
        out[-1] += 'text " h\\u00e9llo\\udcb3"\n'
        return out

    def section(self, region: int, ps: int, cores: int, pim: bool) -> str:
        """One section; every count is a multiple of `region + 1`, so that sums can be told."""
        n = region + 1
        stats: dict[str, int | float] = {"simTicks": ps, "simFreq": 10**12, "simInsts": 10**9, "hostSeconds": 1.5}
        for core in range(cores):
            at = f"board.processor.cores{core if cores > 1 else ''}.core."
            stats[at + "numCycles"] = ps // CYCLE_PS
            kinds = {"IntAlu": 50, "SimdAdd": 30, "FloatCvt": 10, "MemRead": 20, "MemWrite": 5, "IntDiv": 2}
            for kind, count in kinds.items():
                stats[f"{at}commitStats0.committedInstType::{kind}"] = count * n
            stats[f"{at}commitStats0.committedInstType::total"] = sum(kinds.values()) * n
            stats[f"{at}commitStats0.committedControl::IsControl"] = 7 * n
            stats[f"{at}commitStats0.numInsts"] = 100 * n
            cache = "board.cache_hierarchy."
            i = core if cores > 1 else ""
            stats[f"{cache}l2bus{i}.pktSize::total"] = 640 * n
            stats[f"{cache}mesh.pktSize_{cache}l2{i}.mem_side_port::{cache}llc00.cpu_side_port"] = 320 * n
            stats[f"{cache}mesh.pktSize_{cache}l2{i}.mem_side_port::total"] = 320 * n
        for channel in range(CHANNELS):
            at = f"board.memory.mem_ctrl{channel}."
            stats |= {
                f"{at}bytesReadSys": 64 * 40 * n, f"{at}bytesWrittenSys": 64 * 8 * n,
                f"{at}numReadWriteTurnArounds": n, f"{at}numWriteReadTurnArounds": n,
                f"{at}dram.readBursts": 40 * n, f"{at}dram.writeBursts": 8 * n, f"{at}dram.readRowHits": 30 * n,
                f"{at}dram.writeRowHits": 6 * n, f"{at}dram.bytesPerActivate::samples": 11 * n,
            }  # fmt: skip
            for rank in range(RANKS):
                states = {"IDLE": ps // 4, "REF": T_RFC_PS, "ACT": ps // 2, "ACT_PDN": 0, "PRE_PDN": 0, "SREF": 0}
                stats |= {f"{at}dram.rank{rank}.pwrStateTime::{s}": t for s, t in states.items()}
        if pim:
            at = "board.cache_hierarchy.sram_pim."
            idle = self.idle_pim
            stats |= {at + i["name"]: 0 if idle else 3 * n for i in _engine.sram_pim_counter_info()}
            stats |= {at + "lutmmIssued": n, at + "activeTicks": 0 if idle else ps // 4}
            stats |= {at + "commands": 0} if region in self.late else {}
        lines = [f"{name} {value} # recorded (Count)" for name, value in stats.items()]
        return "\n".join(
            ["", "---------- Begin Simulation Statistics ----------", *lines,
             "---------- End Simulation Statistics   ----------", ""]
        )  # fmt: skip


def _same(options: Gem5Options) -> list[object]:
    return [list(options.args), options.cores, options.mem_size, options.caches]

"""An independent timing checker for a pseudo-channel that an xPU and a PIM share, and random traffic to try it on.

The checker is written from definitions of the timings, on arrays of commands, and shares nothing with the C++ model.
A rule is "command B not sooner than so many clocks after the last command A to the same bank (group, rank, path)".

    python -P -m gempim.bench.hbm3_checker --commands 10000000
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gempim import _engine
from gempim.systems import load_dram, load_system

OPS = ("ACT", "PRE", "RD", "WR", "REF", "REFpb", "BACT", "BPRE", "BRD", "BWR")
ACT, PRE, RD, WR, REF, REFPB, BACT, BPRE, BRD, BWR = range(10)
SETS = ("hbm3-5200", "hbm2-2000", "hbm2e-3200")
PIMS = ("duplex", "bankgroup-pim", "bank-pim")

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Values = Mapping[str, Any]
Violation = tuple[str, int]
"""Name of the constraint, and index of the command that came too early (or was illegal)."""


def dram_values(name: str) -> dict[str, Any]:
    """Plain values of a shipped timing set."""
    return {key: quantity.value for key, quantity in load_dram(name).items()}


def pim_values(system: str) -> dict[str, Any]:
    """Plain values of the PIM of a shipped system."""
    return load_system(system).values("logic_pim")


def trace_array(raw: bytes) -> Ints:
    """A trace of ``_engine.logic_pim_channel``: rows (time_ps, command, rank, group, bank or bundle, row, column)."""
    return np.frombuffer(raw, dtype="<i8").reshape(-1, 8)


@dataclass
class Events:
    """Commands of one scope sorted by what they go to, then by order: the base of all rules of that scope."""

    index: Ints
    key: Ints
    op: Ints
    clock: Ints
    row: Ints

    @classmethod
    def sorted(cls, index: Ints, key: Ints, op: Ints, clock: Ints, row: Ints) -> Events:
        """From events in any order."""
        order = np.lexsort((index, key))
        return cls(index[order], key[order], op[order], clock[order], row[order])

    def before(self, kinds: tuple[int, ...]) -> Ints:
        """For each event the position of the last earlier one of `kinds` with the same key, or -1."""
        place = np.where(np.isin(self.op, kinds), np.arange(len(self.op)), -1)
        last = np.concatenate([[-1], np.maximum.accumulate(place)[:-1]])
        same = (last >= 0) & (self.key[np.maximum(last, 0)] == self.key)
        return np.where(same, last, -1)

    def too_early(self, first: tuple[int, ...], then: tuple[int, ...], clocks: int) -> Ints:
        """Commands of kind `then` less than `clocks` after the last of kind `first` with the same key."""
        if not len(self.op):
            return self.index
        last = self.before(first)
        early = (last >= 0) & (self.clock < self.clock[np.maximum(last, 0)] + clocks) & np.isin(self.op, then)
        return np.unique(self.index[early])


class Checker:
    """Judges a whole trace under one set of parameters."""

    def __init__(self, values: Values, dram: Values, trace: Ints) -> None:
        self.v, self.d, self.trace = values, dram, trace
        self.found: list[Violation] = []
        d = dram
        self.burst = d["BL"] // d["beats_per_clock"]
        self.per_rank = d["bank_groups"] * d["banks_per_group"]
        self.rfc = -(-d["tRFC_ps"] // d["tCK_ps"])
        self.rfc_bank = -(-d["tRFCpb_ps"] // d["tCK_ps"])
        self.clock = trace[:, 0] // d["tCK_ps"]
        self.op = trace[:, 1]
        self.rank = trace[:, 2]
        self.halves = d["banks_per_group"] // values["bundle_banks"]
        self.write_data = d["CWL_nCK"] + self.burst

    def add(self, name: str, indices: Ints | Bools) -> None:
        """Enter violations: indices of commands, or one flag a command."""
        where = np.flatnonzero(indices) if indices.dtype == bool else indices
        self.found += [(name, int(i)) for i in where]

    def run(self) -> list[Violation]:
        """All violations, in no particular order."""
        if not len(self.trace):
            return []
        self.basics()
        if self.found:  # what follows needs commands that exist
            return self.found
        self.command_buses()
        self.banks()
        self.groups_and_ranks()
        self.data_bus()
        self.bundle_path()
        self.refresh_distance()
        return self.found

    def basics(self) -> None:
        """Order, clock edges, ranges."""
        d, t = self.d, self.trace
        self.add("clock edge", t[:, 0] % d["tCK_ps"] != 0)
        self.add("order", np.concatenate([[False], np.diff(t[:, 0]) < 0]))
        self.add("unknown command", (self.op < 0) | (self.op >= len(OPS)))
        bundle = self.op >= BACT
        spaces = d["ranks"] // self.v["bundle_ranks"] * self.halves
        columns = d["row_bytes"] // (d["bus_bits"] // 8 * d["BL"])
        bad = (self.rank >= d["ranks"]) | (t[:, 5] >= d["rows"]) | (t[:, 6] >= columns)
        bad |= bundle & (t[:, 4] >= spaces)
        bad |= ~bundle & ((t[:, 3] >= d["bank_groups"]) | (t[:, 4] >= d["banks_per_group"]))
        if self.v["activation_limit"] == "normal":
            bad |= self.op == BACT
        self.add("range", bad)

    def command_buses(self) -> None:
        """One command at a time on each bus, for as many clocks as it needs."""
        d = self.d
        column = np.isin(self.op, (RD, WR, BRD, BWR))
        slots = np.where(column, d["column_slots_nCK"], np.where(np.isin(self.op, (ACT, BACT)), d["act_slots_nCK"], 1))
        for bus in (column, ~column) if d["command_buses"] == 2 else (np.ones_like(column),):
            on_bus = np.flatnonzero(bus)
            overlap = self.clock[on_bus][1:] < (self.clock[on_bus] + slots[on_bus])[:-1]
            self.add("command bus", on_bus[1:][overlap])

    def _banks_of(self, op: int) -> Iterator[tuple[Ints, Ints]]:
        """Indices of the commands of one kind and one bank (counted through) that each goes to; for all their banks."""
        d, v = self.d, self.v
        index = np.flatnonzero(self.op == op)
        t = self.trace[index]
        if op >= BACT:
            first_rank = t[:, 4] // self.halves * v["bundle_ranks"]
            for r in range(v["bundle_ranks"]):
                for g in range(d["bank_groups"]):
                    for b in range(v["bundle_banks"]):
                        bank = t[:, 4] % self.halves * v["bundle_banks"] + b
                        yield index, ((first_rank + r) * d["bank_groups"] + g) * d["banks_per_group"] + bank
        elif op == REF:
            for b in range(self.per_rank):
                yield index, t[:, 2] * self.per_rank + b
        else:
            yield index, (t[:, 2] * d["bank_groups"] + t[:, 3]) * d["banks_per_group"] + t[:, 4]

    def _events(self, ops: tuple[int, ...], divide: int) -> Events:
        """Commands by bank number // `divide`, once for each bank group or rank that they go to."""
        pairs = [pair for op in ops for pair in self._banks_of(op)]
        index = np.concatenate([i for i, _ in pairs])
        key = np.concatenate([b for _, b in pairs]) // divide
        if divide > 1:
            index, key = np.unique(np.stack([index, key]), axis=1)
        return Events.sorted(index, key, self.op[index], self.clock[index], self.trace[index, 5])

    def banks(self) -> None:
        """Row states and the rules of a single bank, whoever sends the commands."""
        d = self.d
        events = self._events(tuple(range(10)), 1)
        last = events.before((ACT, PRE, BACT, BPRE))
        last_op = np.where(last >= 0, events.op[np.maximum(last, 0)], PRE)
        is_open = np.isin(last_op, (ACT, BACT))
        opens = np.isin(events.op, (ACT, BACT))
        self.add("ACT open bank", np.unique(events.index[opens & is_open]))
        self.add("PRE closed bank", events.index[(events.op == PRE) & ~is_open])
        bundle_pre = events.op == BPRE
        useful = np.unique(events.index[bundle_pre & is_open])
        self.add("PRE closed bank", np.setdiff1d(events.index[bundle_pre], useful))
        self.add("REF open bank", np.unique(events.index[np.isin(events.op, (REF, REFPB)) & is_open]))
        column = np.isin(events.op, (RD, WR, BRD, BWR))
        same_row = is_open & (events.row == events.row[np.maximum(last, 0)])
        self.add("row not open", np.unique(events.index[column & ~same_row]))
        self.add("held bundle", events.index[np.isin(events.op, (RD, WR, PRE)) & (last_op == BACT)])
        # A BPRE does nothing to a bank that is closed: no rule starts or ends there.
        keep = ~bundle_pre | is_open
        e = Events(events.index[keep], events.key[keep], events.op[keep], events.clock[keep], events.row[keep])
        acts, pres, reads, writes = (ACT, BACT), (PRE, BPRE), (RD, BRD), (WR, BWR)
        for name, first, then, clocks in (
            ("tRC", acts, (*acts, REF, REFPB), d["tRC_nCK"]),
            ("tRAS", acts, pres, d["tRAS_nCK"]),
            ("tRCD", acts, reads, d["tRCD_nCK"]),
            ("tRCD_WR", acts, writes, d["tRCD_nCK"] - d["tRCD_WR_cut_nCK"]),
            ("tRP", pres, (*acts, REF, REFPB), d["tRP_nCK"]),
            ("tRTP", reads, pres, d["tRTP_nCK"]),
            ("tWR", writes, pres, self.write_data + d["tWR_nCK"]),
            ("tRFC", (REF,), (*acts, REF), self.rfc),
            ("tRFCpb", (REFPB,), (*acts, REFPB), self.rfc_bank),
        ):
            self.add(name, e.too_early(first, then, clocks))

    def groups_and_ranks(self) -> None:
        """Rules of bank groups and ranks, for the xPU's commands and for what both share."""
        d = self.d
        shared = self.v["shared_group_io"]
        reads: tuple[int, ...] = (RD, BRD) if shared else (RD,)
        writes: tuple[int, ...] = (WR, BWR) if shared else (WR,)
        group = self._events((ACT, REFPB, *reads, *writes), d["banks_per_group"])
        for name, first, then, clocks in (
            ("tRRD_L", (ACT,), (ACT, REFPB), d["tRRD_L_nCK"]),
            ("tCCD_L", reads, reads, d["tCCD_L_nCK"]),
            ("tCCD_L_WR", writes, writes, d["tCCD_L_WR_nCK"]),
            ("tWTR_L", writes, reads, self.write_data + d["tWTR_L_nCK"]),
        ):
            self.add(name, group.too_early(first, then, clocks))
        rank = self._events((ACT, REFPB, BACT, RD, WR, PRE, BPRE), self.per_rank)
        for name, first, then, clocks in (
            ("tRRD_S", (ACT,), (ACT, REFPB), d["tRRD_S_nCK"]),
            ("tRREFD", (REFPB,), (ACT, BACT, REFPB), d["tRREFD_nCK"]),
            ("tCCD_S", (RD,), (RD,), d["tCCD_S_nCK"]),
            ("tCCD_S", (WR,), (WR,), d["tCCD_S_nCK"]),
            ("tWTR_S", (WR,), (RD,), self.write_data + d["tWTR_S_nCK"]),
            ("tRTW", (RD,), (WR,), d["tRTW_nCK"]),
            ("tPPD", (PRE, BPRE), (PRE, BPRE), d["tPPD_nCK"]),
        ):
            self.add(name, rank.too_early(first, then, clocks))
        for r in range(d["ranks"]):
            acts = np.flatnonzero((self.op == ACT) & (self.rank == r))
            fifth = self.clock[acts][4:] < self.clock[acts][:-4] + d["tFAW_nCK"]
            self.add("tFAW", acts[4:][fifth])

    def data_bus(self) -> None:
        """Bursts of the xPU's path must not overlap, and keep a gap between ranks."""
        d = self.d
        index = np.flatnonzero(np.isin(self.op, (RD, WR)))
        first = self.clock[index] + np.where(self.op[index] == RD, d["CL_nCK"], d["CWL_nCK"])
        order = np.lexsort((index, first))
        index, first, rank = index[order], first[order], self.rank[index][order]
        space = first[1:] - first[:-1] - self.burst
        self.add("data bus", np.maximum(index[1:], index[:-1])[space < 0])
        other = rank[1:] != rank[:-1]
        late = np.maximum(index[1:], index[:-1])
        self.add("tRTRS", late[(space >= 0) & other & (space < d["tRTRS_nCK"])])

    def bundle_path(self) -> None:
        """Columns of bundles share one path, whatever their rank."""
        d, v = self.d, self.v
        index = np.flatnonzero(np.isin(self.op, (BRD, BWR)))
        if not len(index):
            return
        op, clock = self.op[index], self.clock[index]
        first_rank = self.trace[index, 4] // self.halves * v["bundle_ranks"]
        distance, other = v["bundle_ccd_nCK"], v["bundle_ccd_nCK"] + v["bundle_rank_switch_nCK"]
        write_to_read = self.write_data + d["tRTRS_nCK"] - d["CL_nCK"]
        read_to_write = d["CL_nCK"] + self.burst + d["tRTRS_nCK"] - d["CWL_nCK"]
        rules: dict[tuple[int, int], tuple[str, int, int]] = {
            (BRD, BRD): ("path", distance, other),
            (BWR, BWR): ("path", distance, other),
            (BWR, BRD): ("path tWTR", self.write_data + d["tWTR_L_nCK"], max(other, write_to_read)),
            (BRD, BWR): ("path tRTW", d["tRTW_nCK"], max(other, read_to_write)),
        }
        # Only the column before can be too close: every distance is at least that of the path.
        same = first_rank[1:] == first_rank[:-1]
        for (a, b), (name, within, across) in rules.items():
            pair = (op[:-1] == a) & (op[1:] == b)
            early = pair & (clock[1:] < clock[:-1] + np.where(same, within, across))
            self.add(name, index[1:][early])

    def refresh_distance(self) -> None:
        """Every rank (or bank) is refreshed in time, from the start to the end of the trace."""
        d = self.d
        refi = d["tREFI_ps"] // d["tCK_ps"]
        closing = max(d["tRAS_nCK"], self.write_data + d["tWR_nCK"]) + d["tRP_nCK"]
        slots = max(d["tPPD_nCK"], d["act_slots_nCK"], d["column_slots_nCK"])
        slack = closing + d["tRC_nCK"] + 4 * self.per_rank * slots
        per_bank = d["refresh"] == "per_bank"
        if per_bank:
            slack += self.per_rank * d["tRREFD_nCK"]
        end = int(self.clock[-1])
        for r in range(d["ranks"]):
            mine = (self.rank == r) & (self.op == (REFPB if per_bank else REF))
            where = (self.trace[:, 3] * d["banks_per_group"] + self.trace[:, 4]) if per_bank else np.zeros_like(self.op)
            for bank in range(self.per_rank if per_bank else 1):
                index = np.flatnonzero(mine & (where == bank))
                clocks = np.concatenate([[0], self.clock[index], [end]])
                late = np.flatnonzero(np.diff(clocks) > refi + slack)
                self.add("tREFI", np.append(index, len(self.trace) - 1)[late])


def check_trace(values: Values, dram: Values, trace: Ints) -> list[Violation]:
    """Every violation in the trace of one pseudo-channel. Empty for a legal trace.

    :param values: fields of ``logic_pim_param_info()``; :param dram: fields of ``dram_param_info()``
    :param trace: int64 [commands, 8], see `trace_array`
    """
    return Checker(values, dram, np.ascontiguousarray(trace)).run()


def random_system(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of a PIM and of its DRAM: a shipped set each, with everything varied that the schedule depends on."""

    def pick(*choices: Any) -> Any:
        return choices[int(rng.integers(len(choices)))]

    d = dram_values(pick("hbm3-5200", "hbm3-5200", "hbm2-2000", "hbm2e-3200"))
    d |= {
        "command_buses": pick(1, 2, 2), "read_queue": pick(4, 16, 64), "write_queue": pick(8, 64),
        "write_high": pick(3, 7), "write_low": pick(0, 2), "tRTRS_nCK": pick(0, 1, 3), "rows": pick(16, 1024),
        "refresh": pick("all_bank", "all_bank", "per_bank"), "refresh_banks": pick(4, 8),
        "tRCD_WR_cut_nCK": pick(d["tRCD_WR_cut_nCK"], 3), "tREFI_ps": pick(3_900_000, 2_500_000),
        "tRC_nCK": d["tRC_nCK"] + pick(0, 9), "tRTP_nCK": d["tRTP_nCK"] + pick(0, 30), "tPPD_nCK": pick(1, 2, 5),
    }  # fmt: skip
    if d["refresh"] == "per_bank":
        d["tREFI_ps"] = 3_900_000
    v = pim_values(pick("duplex", "duplex", "duplex", "bankgroup-pim", "bank-pim"))
    v["bundle_ranks"] = min(v["bundle_ranks"], d["ranks"])
    v |= {
        "bundle_ccd_nCK": pick(4, 4, 6), "bundle_rank_switch_nCK": pick(0, 1, 5), "shared_group_io": pick(False, True),
        "activation_limit": pick("none", "none", "normal"), "priority": pick("pim", "xpu"), "rows_ahead": pick(0, 1, 2),
        "reorder_spaces": pick(False, True), "refresh_phase": float(rng.random()),
        "instruction_ps": pick(0, 1234, 99_999),
    }  # fmt: skip
    return v, d


def random_work(rng: np.random.Generator, v: Values, d: Values, commands: int) -> tuple[list[Any], list[Any]]:
    """Jobs and requests that make about `commands` commands: reads and writes of all kinds, everywhere, in conflict."""
    spaces = d["ranks"] // v["bundle_ranks"] * (d["banks_per_group"] // v["bundle_banks"])
    columns = d["row_bytes"] // (d["bus_bits"] // 8 * d["BL"])
    share = float(rng.choice([0.1, 0.5, 0.9]))
    jobs: list[Any] = []
    left = int(commands * share)
    while left > 0:
        kind = str(rng.choice(["read", "read", "read", "write", "bank_write"]))
        sweeps = int(rng.integers(1, 4)) if kind == "read" else 1
        count = int(rng.integers(1, 12)) if kind == "bank_write" else int(2 ** rng.uniform(0, 10)) // sweeps + 1
        where = [int(s) for s in rng.permutation(spaces)[: int(rng.integers(1, spaces + 1))]]
        after = int(rng.integers(-1, len(jobs))) if jobs else -1
        vector = int(rng.integers(-1, 2)) if kind == "read" else -1
        step = d["tCK_ps"] * int(rng.integers(0, 400))
        jobs.append((kind, count, sweeps, sweeps * int(rng.integers(0, 4)), where, after, vector, step))
        left -= count * sweeps
    n = int(commands * (1 - share))
    banks = d["ranks"] * d["bank_groups"] * d["banks_per_group"]
    write = rng.random(n) < float(rng.choice([0.0, 0.1, 0.5]))
    if rng.random() < 0.5:  # runs of hits over the bank groups, as a stream has them
        run = np.arange(n)
        bank = run % d["bank_groups"] * d["banks_per_group"] + run // (columns * d["bank_groups"]) % (
            banks // d["bank_groups"]) % d["banks_per_group"]  # fmt: skip
        row = run // (columns * banks) % d["rows"]
        column = run // d["bank_groups"] % columns
    else:
        bank = rng.integers(0, banks, n)
        row = rng.integers(0, min(d["rows"], int(rng.choice([2, 500]))), n)
        column = rng.integers(0, columns, n)
    requests = list(zip(write.tolist(), bank.tolist(), row.tolist(), column.tolist(), strict=True))
    return jobs, requests


def random_trace(rng: np.random.Generator, commands: int) -> tuple[dict[str, Any], dict[str, Any], Ints]:
    """Parameters and the trace of a random run of about `commands` commands, of which all are recorded."""
    v, d = random_system(rng)
    jobs, requests = random_work(rng, v, d, commands)
    *_, raw = _engine.logic_pim_channel(v, d, jobs, requests, 100 * commands + 100_000)
    return v, d, trace_array(raw)


def main(arguments: list[str] | None = None) -> int:
    """Check random runs; prints commands by kind and violations. Returns 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--commands", type=int, default=10_000_000, help="least number of commands to check")
    parser.add_argument("--run", type=int, default=100_000, help="commands of one random run, about")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    seen: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    runs, began = 0, time.monotonic()
    while sum(seen.values()) < given.commands:
        values, dram, trace = random_trace(np.random.default_rng([given.seed, runs]), given.run)
        found = check_trace(values, dram, trace)
        if found and not bad:
            print(f"run {runs}: first violation {found[0]} with {values} {dram}", file=sys.stderr)
        bad.update(name for name, _ in found)
        seen.update({OPS[op]: int(n) for op, n in zip(*np.unique(trace[:, 1], return_counts=True), strict=True)})
        runs += 1
    seconds = time.monotonic() - began
    kinds = ", ".join(f"{name} {seen[name]}" for name in OPS)
    print(f"{sum(seen.values())} commands in {runs} random runs, {seconds:.0f} s: {kinds}")
    print(f"{sum(bad.values())} violations{': ' + str(dict(bad)) if bad else ''}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

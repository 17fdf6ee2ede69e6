"""An independent timing checker: replays a DRAM command trace and names every constraint that it violates.

Written from the definitions of the timings, on whole clocks and on the history of commands; shares nothing with the C++
model. One `ChannelChecker` judges one (sub-)channel; `check_trace` a whole trace.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

# (time_ps, channel, command, rank, bank_group, bank, row, column), as DramSystem.trace() gives them
Traced = tuple[int, int, str, int, int, int, int, int]
LONG_AGO = -(10**12)


@dataclass(frozen=True)
class Cmd:
    """One command; `clock` is its (first) clock on the command bus."""

    clock: int
    op: str
    rank: int
    group: int = 0
    bank: int = 0
    row: int = 0
    column: int = 0

    @property
    def bank_id(self) -> tuple[int, int, int]:
        """The bank, unique in the channel."""
        return (self.rank, self.group, self.bank)

    @property
    def group_id(self) -> tuple[int, int]:
        """The bank group, unique in the channel."""
        return (self.rank, self.group)


@dataclass
class ChannelChecker:
    """The history of one channel, as far as a constraint can ask for it."""

    p: dict[str, Any]
    open_rows: dict[tuple[int, int, int], int] = field(default_factory=dict)
    # Clock of the last command of a kind, by (op, what it went to).
    last: dict[tuple[str, object], int] = field(default_factory=lambda: defaultdict(lambda: LONG_AGO))
    acts: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    refs: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    bursts: list[tuple[int, int, int]] = field(default_factory=list)  # first clock, end, rank
    bus_busy_until: dict[int, int] = field(default_factory=lambda: defaultdict(lambda: LONG_AGO))
    last_clock: int = LONG_AGO

    def __post_init__(self) -> None:
        p = self.p
        self.burst = p["BL"] // p["beats_per_clock"]
        self.rfc_bank = -(-p["tRFCpb_ps"] // p["tCK_ps"])
        self.per_bank = p["refresh"] == "per_bank"
        self.rfc = -(-p["tRFC_ps"] // p["tCK_ps"])
        self.refi = p["tREFI_ps"] // p["tCK_ps"]
        # A due refresh waits at most for the slowest way to close all banks of its rank (an ACT or a WR that was just
        # sent), while other ranks use the command bus now and then.
        banks = p["bank_groups"] * p["banks_per_group"]
        closing = max(p["tRAS_nCK"], p["CWL_nCK"] + self.burst + p["tWR_nCK"]) + p["tRP_nCK"]
        self.ref_slack = closing + 4 * banks * max(p["tPPD_nCK"], p["act_slots_nCK"], p["column_slots_nCK"])
        if self.per_bank:
            self.ref_slack += banks * p["tRREFD_nCK"] + p["tRC_nCK"]

    def slots(self, op: str) -> int:
        """Command-bus clocks of a command."""
        if op == "ACT":
            return int(self.p["act_slots_nCK"])
        return int(self.p["column_slots_nCK"]) if op in ("RD", "WR") else 1

    def bus(self, op: str) -> int:
        """The command bus that a command takes: 0 for row commands and where there is only one."""
        return int(self.p["command_buses"] == 2 and op in ("RD", "WR"))

    def data(self, c: Cmd) -> tuple[int, int]:
        """First clock and end of a column command's burst on the data bus."""
        first = c.clock + self.p["CL_nCK" if c.op == "RD" else "CWL_nCK"]
        return first, first + self.burst

    def violations(self, c: Cmd) -> list[str]:
        """Names of the constraints that `c` would violate now."""
        p, bad = self.p, []

        def need(name: str, since: int, distance: int) -> None:
            if c.clock < since + distance:
                bad.append(name)

        def last(op: str, where: object) -> int:
            return self.last[(op, where)]

        if c.clock < self.last_clock:
            bad.append("order")
        if c.clock < self.bus_busy_until[self.bus(c.op)]:
            bad.append("command bus")
        if c.op != "REF" and not (
            c.rank < p["ranks"] and c.group < p["bank_groups"] and c.bank < p["banks_per_group"] and c.row < p["rows"]
        ):
            bad.append("range")
        if c.op == "ACT":
            if c.bank_id in self.open_rows:
                bad.append("ACT open bank")
            need("tRC", last("ACT", c.bank_id), p["tRC_nCK"])
            need("tRP", last("PRE", c.bank_id), p["tRP_nCK"])
            need("tRRD_L", last("ACT", c.group_id), p["tRRD_L_nCK"])
            need("tRRD_S", last("ACT", c.rank), p["tRRD_S_nCK"])
            need("tRFC", last("REF", c.rank), self.rfc)
            need("tRFCpb", last("REFpb", c.bank_id), self.rfc_bank)
            need("tRREFD", last("REFpb", c.rank), p["tRREFD_nCK"])
            if len(self.acts[c.rank]) >= 4:
                need("tFAW", self.acts[c.rank][-4], p["tFAW_nCK"])
        elif c.op == "PRE":
            if c.bank_id not in self.open_rows:
                bad.append("PRE closed bank")
            need("tRAS", last("ACT", c.bank_id), p["tRAS_nCK"])
            need("tRTP", last("RD", c.bank_id), p["tRTP_nCK"])
            need("tWR", last("WR", c.bank_id), p["CWL_nCK"] + self.burst + p["tWR_nCK"])
            need("tPPD", last("PRE", c.rank), p["tPPD_nCK"])
        elif c.op == "REF":
            if any(b[0] == c.rank for b in self.open_rows):
                bad.append("REF open bank")
            need("tRP", last("PRE", c.rank), p["tRP_nCK"])
            need("tRFC", last("REF", c.rank), self.rfc)
            before = self.refs[c.rank][-1] if self.refs[c.rank] else 0
            if c.clock > before + self.refi + self.ref_slack:
                bad.append("tREFI")
        elif c.op == "REFpb":
            if c.bank_id in self.open_rows:
                bad.append("REF open bank")
            need("tRP", last("PRE", c.bank_id), p["tRP_nCK"])
            need("tRC", last("ACT", c.bank_id), p["tRC_nCK"])
            need("tRFCpb", last("REFpb", c.bank_id), self.rfc_bank)
            need("tRREFD", last("REFpb", c.rank), p["tRREFD_nCK"])
            need("tRRD_L", last("ACT", c.group_id), p["tRRD_L_nCK"])
            need("tRRD_S", last("ACT", c.rank), p["tRRD_S_nCK"])
            if c.clock > max(last("REFpb", c.bank_id), 0) + self.refi + self.ref_slack:
                bad.append("tREFI")
        elif c.op in ("RD", "WR"):
            if self.open_rows.get(c.bank_id) != c.row:
                bad.append("row not open")
            if not c.column < p["row_bytes"] // (p["bus_bits"] // 8 * p["BL"]):
                bad.append("range")
            shorter = p["tRCD_WR_cut_nCK"] if c.op == "WR" else 0
            need("tRCD", last("ACT", c.bank_id), p["tRCD_nCK"] - shorter)
            need("tCCD_S", last(c.op, c.rank), p["tCCD_S_nCK"])
            if c.op == "RD":
                need("tCCD_L", last("RD", c.group_id), p["tCCD_L_nCK"])
                need("tWTR_S", last("WR", c.rank), p["CWL_nCK"] + self.burst + p["tWTR_S_nCK"])
                need("tWTR_L", last("WR", c.group_id), p["CWL_nCK"] + self.burst + p["tWTR_L_nCK"])
            else:
                need("tCCD_L_WR", last("WR", c.group_id), p["tCCD_L_WR_nCK"])
                need("tRTW", last("RD", c.rank), p["tRTW_nCK"])
            first, end = self.data(c)
            for other_first, other_end, rank in self.bursts:
                gap = 0 if rank == c.rank else p["tRTRS_nCK"]
                if first < other_end + gap and other_first < end + gap:
                    overlap = first < other_end and other_first < end
                    bad.append("data bus" if overlap else "tRTRS")
        else:
            bad.append("unknown command")
        return bad

    def apply(self, c: Cmd) -> None:
        """Add `c` to the history."""
        self.last_clock = c.clock
        self.bus_busy_until[self.bus(c.op)] = c.clock + self.slots(c.op)
        for where in (c.rank,) if c.op == "REF" else (c.bank_id, c.group_id, c.rank):
            self.last[(c.op, where)] = c.clock
        if c.op == "ACT":
            self.open_rows[c.bank_id] = c.row
            self.acts[c.rank].append(c.clock)
        elif c.op == "PRE":
            self.open_rows.pop(c.bank_id, None)
        elif c.op == "REF":
            self.refs[c.rank].append(c.clock)
        elif c.op == "REFpb":
            pass  # kept in `last`
        else:
            first, end = self.data(c)
            self.bursts = [*self.bursts[-16:], (first, end, c.rank)]

    def finish(self) -> list[str]:
        """Constraints on the whole: a rank whose refresh stopped before the trace did."""
        late = []
        if self.per_bank:
            p = self.p
            for bank in product(range(p["ranks"]), range(p["bank_groups"]), range(p["banks_per_group"])):
                if self.last_clock > max(self.last[("REFpb", bank)], 0) + self.refi + self.ref_slack:
                    late.append("tREFI")
            return late
        for rank in range(self.p["ranks"]):
            before = self.refs[rank][-1] if self.refs[rank] else 0
            if self.last_clock > before + self.refi + self.ref_slack:
                late.append("tREFI")
        return late


def check_trace(p: dict[str, Any], trace: Iterable[Traced]) -> list[tuple[str, Traced | None]]:
    """Every violation in `trace`, with its command (None: the end of the trace). Empty for a legal trace."""
    found: list[tuple[str, Traced | None]] = []
    channels: dict[int, ChannelChecker] = {}
    for entry in trace:
        time, channel, op, rank, group, bank, row, column = entry
        checker = channels.setdefault(channel, ChannelChecker(p))
        if time % p["tCK_ps"]:
            found.append(("clock edge", entry))
        c = Cmd(time // p["tCK_ps"], op, rank, group, bank, row, column)
        found += [(name, entry) for name in checker.violations(c)]
        checker.apply(c)
    for checker in channels.values():
        found += [(name, None) for name in checker.finish()]
    return found

"""A second memory controller: FR-FCFS clock by clock, the slow and obvious way, with the timing rules of dram_checker.

At every clock it asks the checker which commands would be legal now and sends the first in order of priority. The C++
controller jumps from event to event instead; for the same requests both must send the same commands at the same clocks.
"""

from __future__ import annotations

from typing import Any

from dram_checker import ChannelChecker, Cmd

Request = tuple[bool, int, int, int, int, int]  # write, rank, group, bank, row, column


def simulate(p: dict[str, Any], requests: list[Request]) -> list[Cmd]:
    """The commands for `requests`, offered in this order from clock 0 on, until all are served."""
    checker = ChannelChecker(p)
    queues: tuple[list[Request], list[Request]] = ([], [])
    capacity = (p["read_queue"], p["write_queue"])
    waiting = list(requests)
    refi = p["tREFI_ps"] // p["tCK_ps"]
    per_bank = p["refresh"] == "per_bank"
    banks = p["bank_groups"] * p["banks_per_group"]
    if per_bank:
        refi = refi * p["refresh_banks"] // banks
    due = [refi * (r + 1) // p["ranks"] for r in range(p["ranks"])]
    # per_bank: banks in turn by number in the group, then by group; the first `refresh_banks` wait when due.
    turn = {
        r: [(r, g, b) for b in range(p["banks_per_group"]) for g in range(p["bank_groups"])] for r in range(p["ranks"])
    }
    waiting_banks: dict[int, list[tuple[int, int, int]]] = {r: [] for r in range(p["ranks"])}
    writing = False
    sent: list[Cmd] = []
    clock = 0

    def choose_direction() -> None:
        nonlocal writing
        reads, writes = queues
        if writing:
            writing = not (not writes or (len(writes) <= p["write_low"] and bool(reads)))
        else:
            writing = len(writes) >= p["write_high"] or (not reads and bool(writes))

    def accept() -> None:
        while waiting and len(queues[waiting[0][0]]) < capacity[waiting[0][0]]:
            queues[waiting[0][0]].append(waiting.pop(0))
            choose_direction()

    def candidates() -> list[tuple[Cmd, int | None]]:
        """Commands worth sending, best first, with the queue index that a column command serves."""
        refresh, columns, rows = [], [], []
        pending = [r for r in range(p["ranks"]) if due[r] <= clock]
        blocked = {(r, g, b) for r in pending for g in range(p["bank_groups"]) for b in range(p["banks_per_group"])}
        if per_bank:
            blocked = set()
            for r in pending:
                if not waiting_banks[r]:
                    waiting_banks[r] = turn[r][: p["refresh_banks"]]
                blocked |= set(waiting_banks[r])
                refresh += [(Cmd(clock, "REFpb", *bank), None) for bank in waiting_banks[r][:1]]
                refresh += [
                    (Cmd(clock, "PRE", *bank, checker.open_rows[bank]), None)
                    for bank in waiting_banks[r]
                    if bank in checker.open_rows
                ]
        for r in pending if not per_bank else ():
            opened = sorted(b for b in checker.open_rows if b[0] == r)
            if opened:
                refresh += [(Cmd(clock, "PRE", *b, checker.open_rows[b]), None) for b in opened]
            else:
                refresh.append((Cmd(clock, "REF", r), None))
        queue = queues[writing]
        hit_banks = {q[1:4] for q in queue if checker.open_rows.get(q[1:4]) == q[4]}
        seen = set()
        for i, (write, rank, group, bank, row, column) in enumerate(queue):
            where = (rank, group, bank)
            if where in blocked or where in seen:
                continue
            if where in hit_banks:
                if checker.open_rows[where] == row:
                    columns.append((Cmd(clock, "WR" if write else "RD", *where, row, column), i))
                    seen.add(where)
                continue
            seen.add(where)
            if where in checker.open_rows:
                rows.append((Cmd(clock, "PRE", *where, checker.open_rows[where]), None))
            else:
                rows.append((Cmd(clock, "ACT", *where, row), None))
        return refresh + columns + rows

    def overtakes(cmd: Cmd) -> bool:
        """Data go in the order of commands: a WR with its short latency does not slip in before an earlier RD's."""
        return cmd.op in ("RD", "WR") and bool(checker.bursts) and checker.data(cmd)[0] < checker.bursts[-1][1]

    def send_one() -> bool:
        """Send the best command that is legal at this clock, if any."""
        for cmd, index in candidates():
            if checker.violations(cmd) or overtakes(cmd):
                continue
            checker.apply(cmd)
            sent.append(cmd)
            if cmd.op == "REF":
                due[cmd.rank] += refi
            if cmd.op == "REFpb":
                bank = waiting_banks[cmd.rank].pop(0)
                turn[cmd.rank].append(turn[cmd.rank].pop(turn[cmd.rank].index(bank)))
                if not waiting_banks[cmd.rank]:
                    due[cmd.rank] += refi
            if index is not None:
                queues[writing].pop(index)
                choose_direction()
                accept()
            return True
        return False

    accept()
    while waiting or queues[0] or queues[1]:
        while send_one():  # two command buses take two commands at a clock
            pass
        clock += 1
    return sent

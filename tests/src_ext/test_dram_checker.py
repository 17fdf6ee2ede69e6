"""The timing checker itself: for every constraint, a trace that just meets it and one that misses it by one clock.

A checker that cannot fail proves nothing, so each constraint is isolated: in its parameters it is the only one that
binds.
"""

from __future__ import annotations

from typing import Any

import pytest
from dram_checker import Traced, check_trace
from dram_util import params

from gempim import _engine


def small(**override: int) -> dict[str, Any]:
    """Timings so short that the one under test binds alone."""
    loose = {
        "CL_nCK": 4, "CWL_nCK": 4, "tRCD_nCK": 2, "tRP_nCK": 2, "tRAS_nCK": 2, "tRC_nCK": 4, "tRRD_S_nCK": 1,
        "tRRD_L_nCK": 1, "tFAW_nCK": 1, "tCCD_S_nCK": 4, "tCCD_L_nCK": 4, "tCCD_L_WR_nCK": 4, "tRTP_nCK": 1,
        "tWR_nCK": 1, "tWTR_S_nCK": 1, "tWTR_L_nCK": 1, "tRTW_nCK": 4, "tRTRS_nCK": 0, "tPPD_nCK": 1,
    }  # fmt: skip
    return params("ddr4-3200", **(loose | override))


# Commands as (clock, op, rank, group, bank, row, column); the last one is moved one clock earlier.
A, B = (0, 0, 0), (0, 0, 1)  # two banks of a group
C = (0, 1, 0)  # another group
D = (1, 0, 0)  # another rank
OPEN_A = (0, "ACT", *A, 5, 0)
OPEN_AB, OPEN_AC, OPEN_AD = ([OPEN_A, (1, "ACT", *other, 5, 0)] for other in (B, C, D))
CASES: dict[str, tuple[dict[str, int], list[tuple[Any, ...]]]] = {
    "tRCD": ({"tRCD_nCK": 9, "tRAS_nCK": 9}, [OPEN_A, (9, "RD", *A, 5, 3)]),
    "tRP": ({"tRP_nCK": 9}, [OPEN_A, (30, "PRE", *A, 5, 0), (39, "ACT", *A, 6, 0)]),
    "tRAS": ({"tRAS_nCK": 11}, [OPEN_A, (11, "PRE", *A, 5, 0)]),
    "tRC": ({"tRC_nCK": 17}, [OPEN_A, (4, "PRE", *A, 5, 0), (17, "ACT", *A, 6, 0)]),
    "tRRD_L": ({"tRRD_L_nCK": 7}, [OPEN_A, (7, "ACT", *B, 5, 0)]),
    "tRRD_S": ({"tRRD_S_nCK": 5}, [OPEN_A, (5, "ACT", *C, 5, 0)]),
    "tFAW": (
        {"tFAW_nCK": 30},
        [*((i, "ACT", 0, i, 0, 1, 0) for i in range(4)), (30, "ACT", 0, 0, 1, 1, 0)],
    ),
    "tRTP": ({"tRTP_nCK": 8}, [OPEN_A, (3, "RD", *A, 5, 1), (11, "PRE", *A, 5, 0)]),
    "tWR": ({"tWR_nCK": 8}, [OPEN_A, (3, "WR", *A, 5, 1), (19, "PRE", *A, 5, 0)]),
    "tPPD": ({"tPPD_nCK": 3}, [*OPEN_AC, (9, "PRE", *A, 5, 0), (12, "PRE", *C, 5, 0)]),
    "tCCD_S": ({"tCCD_S_nCK": 6}, [*OPEN_AC, (9, "RD", *A, 5, 0), (15, "RD", *C, 5, 0)]),
    "tCCD_L": ({"tCCD_L_nCK": 7}, [*OPEN_AB, (9, "RD", *A, 5, 0), (16, "RD", *B, 5, 0)]),
    "tCCD_L_WR": (
        {"tCCD_L_WR_nCK": 9}, [*OPEN_AB, (9, "WR", *A, 5, 0), (18, "WR", *B, 5, 0)]
    ),
    "tWTR_S": ({"tWTR_S_nCK": 3}, [*OPEN_AC, (9, "WR", *A, 5, 0), (20, "RD", *C, 5, 0)]),
    "tWTR_L": ({"tWTR_L_nCK": 5}, [OPEN_A, (9, "WR", *A, 5, 0), (22, "RD", *A, 5, 1)]),
    "tRTW": ({"tRTW_nCK": 7}, [OPEN_A, (9, "RD", *A, 5, 0), (16, "WR", *A, 5, 1)]),
    "tRTRS": ({"tRTRS_nCK": 2}, [*OPEN_AD, (9, "RD", *A, 5, 0), (15, "RD", *D, 5, 0)]),
    "data bus": (
        {"tRTRS_nCK": 0, "CL_nCK": 9}, [*OPEN_AD, (9, "RD", *A, 5, 0), (18, "WR", *D, 5, 0)]
    ),
    "command bus": ({"act_slots_nCK": 2}, [OPEN_A, (2, "ACT", *D, 5, 0)]),
    "tRFC": ({"tRFC_ps": 20 * 625}, [(50, "REF", 0, 0, 0, 0, 0), (70, "ACT", *A, 5, 0)]),
}  # fmt: skip


def trace(p: dict[str, Any], commands: list[tuple[Any, ...]]) -> list[Traced]:
    return [(c[0] * p["tCK_ps"], 0, *c[1:]) for c in commands]


@pytest.mark.parametrize("name", CASES)
def test_each_constraint_binds_to_the_clock(name: str) -> None:
    """Legal at the exact clock; one clock earlier the checker names this constraint and no other."""
    override, commands = CASES[name]
    p = small(**override)
    assert check_trace(p, trace(p, commands)) == []
    clock, *rest = commands[-1]
    early = [*commands[:-1], (clock - 1, *rest)]
    assert {kind for kind, _ in check_trace(p, trace(p, early))} == {name}


REF = ("REF", 0, 0, 0, 0, 0)
ILLEGAL: dict[str, list[tuple[Any, ...]]] = {
    "ACT open bank": [OPEN_A, (50, "ACT", *A, 6, 0)],
    "PRE closed bank": [(9, "PRE", *A, 5, 0)],
    "REF open bank": [OPEN_A, (50, *REF)],
    "row not open": [OPEN_A, (50, "RD", *A, 6, 0)],
    "range": [(0, "ACT", 0, 4, 0, 5, 0)],
    "order": [(10, "ACT", *A, 5, 0), (8, "ACT", *D, 5, 0)],
    "unknown command": [(0, "NOP", *A, 0, 0)],
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_each_illegal_state_is_named(name: str) -> None:
    """Row states, ranges and order."""
    p = small()
    assert name in {kind for kind, _ in check_trace(p, trace(p, ILLEGAL[name]))}


def test_refresh_distance() -> None:
    """A rank must not go without REF for longer than tREFI and the time to close its rows, also not at the end."""
    p = small(ranks=1)
    refi = p["tREFI_ps"] // p["tCK_ps"]
    good = [(refi * k, *REF) for k in range(1, 6)]
    assert check_trace(p, trace(p, good)) == []
    assert {kind for kind, _ in check_trace(p, trace(p, good[:2] + good[3:]))} == {"tREFI"}
    stopped = [*good[:2], (refi * 4, "ACT", *A, 5, 0)]
    assert check_trace(p, trace(p, stopped)) == [("tREFI", None)]


def test_off_the_clock() -> None:
    """Commands go on clock edges."""
    p = small()
    assert check_trace(p, [(1, 0, "ACT", *A, 5, 0)]) == [("clock edge", (1, 0, "ACT", *A, 5, 0))]


@pytest.mark.parametrize("standard", ["ddr4-3200", "ddr5-4800"])
def test_mutated_real_trace(standard: str) -> None:
    """In a trace of the model, a left-out ACT, PRE or REF is seen, and so is almost any burst moved by one clock."""
    p = params(standard)
    dram = _engine.DramSystem(p, 1, False)
    dram.record_trace(100_000)
    dram.mixed(20_000, 12_000, 3 * p["tREFI_ps"], 0, 1 << 30)
    dram.transfer(1 << 31, 8_000, False, 3 * p["tREFI_ps"])
    real = [t for t in dram.trace() if t[1] == 0]
    assert check_trace(p, real) == []
    for op, expected in [("ACT", "row not open"), ("PRE", "ACT open bank"), ("REF", "tREFI")]:
        index = [i for i, t in enumerate(real) if t[2] == op][0 if op != "REF" else 1]
        assert expected in {kind for kind, _ in check_trace(p, real[:index] + real[index + 1 :])}
    columns = [i for i, t in enumerate(real) if t[2] in ("RD", "WR")][1::12]
    seen = 0
    for i in columns:
        moved = [*real[:i], (real[i][0] - p["tCK_ps"], *real[i][1:]), *real[i + 1 :]]
        seen += bool(check_trace(p, moved))
    # Most bursts go at the first possible clock: a model that idles would leave room to move them.
    assert seen > 0.6 * len(columns)

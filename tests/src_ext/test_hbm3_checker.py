"""The timing checker of a pseudo-channel that xPU and PIM share: every constraint planted, and random traffic.

For every constraint a trace that just meets it, and the same with the last command one clock earlier, in parameters in
which it alone binds. A checker that cannot fail proves nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from logic_pim_util import hbm, pim, read, run, space_banks, stream

from gempim.bench import hbm3_checker
from gempim.bench.hbm3_checker import OPS, Ints, check_trace, random_trace

LOOSE = {
    "CL_nCK": 4, "CWL_nCK": 4, "tRCD_nCK": 2, "tRP_nCK": 2, "tRAS_nCK": 2, "tRC_nCK": 4, "tRRD_S_nCK": 1,
    "tRRD_L_nCK": 1, "tFAW_nCK": 1, "tCCD_S_nCK": 2, "tCCD_L_nCK": 2, "tCCD_L_WR_nCK": 2, "tRTP_nCK": 1, "tWR_nCK": 1,
    "tWTR_S_nCK": 1, "tWTR_L_nCK": 1, "tRTW_nCK": 2, "tRTRS_nCK": 0, "tPPD_nCK": 1, "tRFCpb_ps": 769,
    "tRREFD_nCK": 1, "act_slots_nCK": 1,
}  # fmt: skip
LOOSE_PIM = {"bundle_ccd_nCK": 2}

A, B, C, D = (0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)  # two banks of a group, another group, another rank
S0, S1, S2 = (0, -1, 0), (0, -1, 1), (1, -1, 2)  # bundles: rank 0 lower and upper half, rank 1 lower half
UPPER = (0, 0, 2)  # a bank of S1 in the group of A
OPEN = (0, "ACT", *A, 5, 0)
OPEN_BUNDLE = (0, "BACT", *S0, 5, 0)
TWO = [OPEN_BUNDLE, (1, "BACT", *S1, 5, 0)]
TWO_RANKS = [OPEN_BUNDLE, (1, "BACT", *S2, 5, 0)]
TWO_GROUPS = [OPEN, (1, "ACT", *C, 5, 0)]
BANKS_OF_TWO_RANKS = [OPEN, (1, "ACT", *D, 5, 0)]
BESIDE = [OPEN_BUNDLE, (1, "ACT", *UPPER, 5, 0)]
SHARED = {"shared_group_io": True}

Command = tuple[Any, ...]
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[Command]]] = {
    # A single bank, by ordinary commands, by commands to its bundle, and mixed.
    "tRCD": ("tRCD", {"tRCD_nCK": 9, "tRAS_nCK": 9}, {}, [OPEN, (9, "RD", *A, 5, 3)]),
    "tRCD bundle": ("tRCD", {"tRCD_nCK": 9, "tRAS_nCK": 9}, {}, [OPEN_BUNDLE, (9, "BRD", *S0, 5, 3)]),
    "tRCD_WR": ("tRCD_WR", {"tRCD_nCK": 9, "tRAS_nCK": 9, "tRCD_WR_cut_nCK": 2}, {}, [OPEN, (7, "WR", *A, 5, 3)]),
    "tRCD_WR bundle": ("tRCD_WR", {"tRCD_nCK": 9, "tRAS_nCK": 9}, {}, [OPEN_BUNDLE, (9, "BWR", *S0, 5, 3)]),
    "tRP": ("tRP", {"tRP_nCK": 9}, {}, [OPEN, (30, "PRE", *A, 5, 0), (39, "ACT", *A, 6, 0)]),
    "tRP bundle": ("tRP", {"tRP_nCK": 9}, {}, [OPEN_BUNDLE, (30, "BPRE", *S0, 0, 0), (39, "BACT", *S0, 6, 0)]),
    "tRP mixed": ("tRP", {"tRP_nCK": 9}, {}, [OPEN, (30, "BPRE", *S0, 0, 0), (39, "BACT", *S0, 6, 0)]),
    "tRP REF": ("tRP", {"tRP_nCK": 9}, {}, [OPEN_BUNDLE, (30, "BPRE", *S0, 0, 0), (39, "REF", 0, 0, 0, 0, 0)]),
    "tRAS": ("tRAS", {"tRAS_nCK": 11}, {}, [OPEN, (11, "PRE", *A, 5, 0)]),
    "tRAS bundle": ("tRAS", {"tRAS_nCK": 11}, {}, [OPEN_BUNDLE, (11, "BPRE", *S0, 0, 0)]),
    "tRAS mixed": ("tRAS", {"tRAS_nCK": 11}, {}, [OPEN, (11, "BPRE", *S0, 0, 0)]),
    "tRC": ("tRC", {"tRC_nCK": 17}, {}, [OPEN, (4, "PRE", *A, 5, 0), (17, "ACT", *A, 6, 0)]),
    "tRC bundle": ("tRC", {"tRC_nCK": 17}, {}, [OPEN, (4, "PRE", *A, 5, 0), (17, "BACT", *S0, 6, 0)]),
    "tRTP": ("tRTP", {"tRTP_nCK": 8}, {}, [OPEN, (3, "RD", *A, 5, 1), (11, "PRE", *A, 5, 0)]),
    "tRTP bundle": ("tRTP", {"tRTP_nCK": 8}, {}, [OPEN_BUNDLE, (3, "BRD", *S0, 5, 1), (11, "BPRE", *S0, 0, 0)]),
    "tWR": ("tWR", {"tWR_nCK": 8}, {}, [OPEN, (3, "WR", *A, 5, 1), (17, "PRE", *A, 5, 0)]),
    "tWR bundle": ("tWR", {"tWR_nCK": 8}, {}, [OPEN_BUNDLE, (3, "BWR", *S0, 5, 1), (17, "BPRE", *S0, 0, 0)]),
    "tRFC": ("tRFC", {"tRFC_ps": 20 * 769}, {}, [(50, "REF", 0, 0, 0, 0, 0), (70, "BACT", *S0, 5, 0)]),
    "tRFCpb": ("tRFCpb", {"tRFCpb_ps": 20 * 769}, {}, [(50, "REFpb", *A, 0, 0), (70, "BACT", *S0, 5, 0)]),
    "tRREFD": ("tRREFD", {"tRREFD_nCK": 7}, {}, [(50, "REFpb", *A, 0, 0), (57, "BACT", *S1, 5, 0)]),
    "tRREFD REFpb": ("tRREFD", {"tRREFD_nCK": 7}, {}, [(50, "REFpb", *A, 0, 0), (57, "REFpb", *C, 0, 0)]),
    # Groups and ranks.
    "tRRD_L": ("tRRD_L", {"tRRD_L_nCK": 7}, {}, [OPEN, (7, "ACT", *B, 5, 0)]),
    "tRRD_S": ("tRRD_S", {"tRRD_S_nCK": 5}, {}, [OPEN, (5, "ACT", *C, 5, 0)]),
    "tFAW": (
        "tFAW", {"tFAW_nCK": 30}, {}, [*((i, "ACT", 0, i, 0, 1, 0) for i in range(4)), (30, "ACT", 0, 0, 1, 1, 0)]
    ),
    "tCCD_L": ("tCCD_L", {"tCCD_L_nCK": 7}, {}, [OPEN, (9, "RD", *A, 5, 0), (16, "RD", *A, 5, 1)]),
    "tCCD_L shared": (
        "tCCD_L", {"tCCD_L_nCK": 7}, SHARED | {"bundle_ccd_nCK": 7},
        [*BESIDE, (9, "RD", *UPPER, 5, 0), (16, "BRD", *S0, 5, 1)],
    ),
    "tCCD_L_WR": ("tCCD_L_WR", {"tCCD_L_WR_nCK": 7}, {}, [OPEN, (9, "WR", *A, 5, 0), (16, "WR", *A, 5, 1)]),
    "tWTR_L": ("tWTR_L", {"tWTR_L_nCK": 5}, {}, [OPEN, (9, "WR", *A, 5, 0), (20, "RD", *A, 5, 1)]),
    "tWTR_L shared": (
        "tWTR_L", {"tWTR_L_nCK": 5}, SHARED, [*BESIDE, (9, "BWR", *S0, 5, 0), (20, "RD", *UPPER, 5, 1)]
    ),
    "tCCD_S": ("tCCD_S", {"tCCD_S_nCK": 6}, {}, [*TWO_GROUPS, (9, "RD", *A, 5, 0), (15, "RD", *C, 5, 0)]),
    "tWTR_S": ("tWTR_S", {"tWTR_S_nCK": 3}, {}, [*TWO_GROUPS, (9, "WR", *A, 5, 0), (18, "RD", *C, 5, 0)]),
    "tRTW": ("tRTW", {"tRTW_nCK": 7}, {}, [OPEN, (9, "RD", *A, 5, 0), (16, "WR", *A, 5, 1)]),
    "tPPD": ("tPPD", {"tPPD_nCK": 3}, {}, [*BESIDE, (9, "PRE", *UPPER, 5, 0), (12, "BPRE", *S0, 0, 0)]),
    # Data bus and bundle path.
    "data bus": ("data bus", {"CL_nCK": 9}, {}, [*BANKS_OF_TWO_RANKS, (9, "RD", *A, 5, 0), (16, "WR", *D, 5, 0)]),
    "tRTRS": ("tRTRS", {"tRTRS_nCK": 2}, {}, [*BANKS_OF_TWO_RANKS, (9, "RD", *A, 5, 0), (13, "RD", *D, 5, 0)]),
    "path": ("path", {}, {"bundle_ccd_nCK": 6}, [*TWO, (9, "BRD", *S0, 5, 0), (15, "BRD", *S1, 5, 0)]),
    "path write": ("path", {}, {"bundle_ccd_nCK": 6}, [*TWO, (9, "BWR", *S0, 5, 0), (15, "BWR", *S1, 5, 0)]),
    "path rank": (
        "path", {}, {"bundle_rank_switch_nCK": 3}, [*TWO_RANKS, (9, "BRD", *S0, 5, 0), (14, "BRD", *S2, 5, 0)]
    ),
    "path tWTR": ("path tWTR", {"tWTR_L_nCK": 5}, {}, [OPEN_BUNDLE, (9, "BWR", *S0, 5, 0), (20, "BRD", *S0, 5, 0)]),
    "path tRTW": ("path tRTW", {"tRTW_nCK": 9}, {}, [OPEN_BUNDLE, (9, "BRD", *S0, 5, 0), (18, "BWR", *S0, 5, 0)]),
    "path tRTW rank": (
        "path tRTW", {"CL_nCK": 9, "tRTRS_nCK": 2}, {}, [*TWO_RANKS, (9, "BRD", *S0, 5, 0), (18, "BWR", *S2, 5, 0)]
    ),
    # Command buses: row and column commands of both controllers.
    "command bus row": ("command bus", {"act_slots_nCK": 3}, {}, [OPEN_BUNDLE, (3, "ACT", *D, 5, 0)]),
    "command bus column": (
        "command bus", {"column_slots_nCK": 4}, {}, [*BESIDE, (9, "BRD", *S0, 5, 0), (13, "RD", *UPPER, 5, 0)]
    ),
    "command bus one": (
        "command bus", {"command_buses": 1}, {}, [*BESIDE, (9, "BRD", *S0, 5, 0), (10, "RD", *UPPER, 5, 0)]
    ),
}  # fmt: skip


def as_trace(d: dict[str, Any], commands: list[Command]) -> Ints:
    rows = [(c[0] * d["tCK_ps"], OPS.index(c[1]), *c[2:], 0) for c in commands]
    return np.array(rows, dtype=np.int64)


def names(v: dict[str, Any], d: dict[str, Any], commands: list[Command]) -> set[str]:
    return {name for name, _ in check_trace(v, d, as_trace(d, commands))}


@pytest.mark.parametrize("case", CASES)
def test_each_constraint_binds_to_the_clock(case: str) -> None:
    """Legal at the exact clock; one clock earlier the checker names this constraint and no other."""
    name, dram, values, commands = CASES[case]
    v, d = pim(**(LOOSE_PIM | values)), hbm(**(LOOSE | dram))
    assert names(v, d, commands) == set()
    clock, *rest = commands[-1]
    assert names(v, d, [*commands[:-1], (clock - 1, *rest)]) == {name}


ILLEGAL: dict[str, list[Command]] = {
    "ACT open bank": [OPEN, (50, "BACT", *S0, 5, 0)],
    "PRE closed bank": [OPEN, (9, "BPRE", *S1, 0, 0)],
    "REF open bank": [OPEN_BUNDLE, (50, "REFpb", *A, 0, 0)],
    "row not open": [OPEN, (50, "BRD", *S0, 5, 0)],
    "held bundle": [OPEN_BUNDLE, (50, "RD", *A, 5, 0)],
    "range": [(0, "BACT", 0, -1, 4, 5, 0)],
    "order": [(10, "ACT", *A, 5, 0), (8, "ACT", *D, 5, 0)],
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_each_illegal_state_is_named(name: str) -> None:
    """Row states of banks and bundles, bundles that the PIM holds, ranges and order."""
    assert name in names(pim(**LOOSE_PIM), hbm(**LOOSE), ILLEGAL[name])


def test_clock_edge_and_refresh_distance() -> None:
    """Commands go on clock edges; no rank (no bank with REFpb) goes without refresh, also not at the end."""
    v, d = pim(**LOOSE_PIM), hbm(**(LOOSE | {"ranks": 1}))
    off = as_trace(d, [OPEN])
    off[0, 0] += 1
    assert {name for name, _ in check_trace(v, d, off)} == {"clock edge"}
    refi = d["tREFI_ps"] // d["tCK_ps"]
    refs = [(refi * k, "REF", 0, 0, 0, 0, 0) for k in range(1, 6)]
    assert names(v, d, refs) == set()
    assert names(v, d, refs[:2] + refs[3:]) == {"tREFI"}
    assert names(v, d, [*refs[:2], (refi * 4, "ACT", *A, 5, 0)]) == {"tREFI"}
    d |= {"refresh": "per_bank", "bank_groups": 1, "banks_per_group": 2}
    both = [(refi // 2 * k, "REFpb", 0, 0, k % 2, 0, 0) for k in range(1, 9)]
    assert names(v, d, both) == set()
    assert names(v, d, [c for c in both if c[4] == 0]) == {"tREFI"}


def test_mutated_real_trace() -> None:
    """In a trace of the model a left-out row command is seen, and so is nearly every column moved by one clock."""
    v, d = pim(), hbm()
    *_, trace = run(v, d, [read(900, [0, 1]), read(40, [3])], stream(3000, space_banks(2)))
    for op, expected in (("BACT", "row not open"), ("ACT", "row not open"), ("BPRE", "ACT open bank")):
        index = int(np.flatnonzero(trace[:, 1] == OPS.index(op))[3])
        assert expected in {name for name, _ in check_trace(v, d, np.delete(trace, index, axis=0))}
    refs = np.flatnonzero(trace[:, 1] == OPS.index("REF"))
    assert "tREFI" in {name for name, _ in check_trace(v, d, np.delete(trace, refs[1], axis=0))}
    for op, least in (("BRD", 0.9), ("RD", 0.8)):
        columns = np.flatnonzero(trace[:, 1] == OPS.index(op))[1::23]
        seen = 0
        for index in columns:
            moved = trace.copy()
            moved[index, 0] -= d["tCK_ps"]
            seen += bool(check_trace(v, d, moved[np.argsort(moved[:, 0], kind="stable")]))
        # Columns go at the first possible clock: a model that idles would leave room to move them.
        assert seen > least * len(columns), op


@pytest.mark.parametrize("seed", range(12))
def test_random_traffic_is_legal(seed: int) -> None:
    """Random systems, jobs and requests with conflicts: no violation. (The long run: gempim.bench.hbm3_checker.)"""
    v, d, trace = random_trace(np.random.default_rng([7, seed]), 8000)
    assert len(trace) > 5000
    assert check_trace(v, d, trace) == []


@pytest.mark.slow
def test_long_random_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The command itself, for a million commands: every kind of command occurs, none violates anything."""
    assert hbm3_checker.main(["--commands", "1000000", "--run", "50000", "--seed", "5"]) == 0
    text = capsys.readouterr().out
    assert "0 violations" in text
    for name in OPS:
        assert f"{name} 0" not in text.replace(",", " ").split("s:")[1]

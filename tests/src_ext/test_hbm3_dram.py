"""HBM in the DRAM model: two command buses, four beats a clock, per-bank refresh, and the shipped timing sets.

The questions are those of test_dram_*: legal on random traffic (independent checker), the same schedule as the slow and
obvious controller, closed formulas, fast-forwarding against command by command, data files with a source a number.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from typing import Any

import numpy as np
import pytest
from dram_checker import Cmd, check_trace
from dram_reference import simulate
from dram_util import DATA, burst_bytes, params
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dram_checker import small, trace
from test_dram_model import decode, random_calls

from gempim import _engine

HBM = ("hbm3-5200", "hbm2-2000", "hbm2e-3200")
PER_BANK = {"refresh": "per_bank"}

# facts of the group behind Duplex, preset HBM3_5.2Gbps, in clocks of 0.769 ns.
PRESET = {
    "CL": 19, "CWL": 6, "tRCD": 19, "tRP": 19, "tRAS": 45, "tRRD_S": 2, "tRRD_L": 4, "tFAW": 39, "tCCD_S": 2,
    "tCCD_L": 4, "tWR": 21, "tWTR_S": 8, "tWTR_L": 11, "tRTP": 6, "tRREFD": 11,
}  # fmt: skip


def test_hbm3_is_the_published_preset() -> None:
    """The 5.2 Gb/s set, 20.8 GB/s a pseudo-channel, 665 GB/s and 16 GB a stack, 3.9 us and 350 ns of refresh."""
    p = params("hbm3-5200")
    assert {name: p[f"{name}_nCK"] for name in PRESET} == PRESET
    assert (p["tREFI_ps"], p["tRFC_ps"], burst_bytes(p)) == (3_900_000, 350_000, 32)
    stack = _engine.DramSystem(p, 16)
    assert stack.peak_bytes_per_s == pytest.approx(32 * 20.8e9, rel=1e-3)
    assert stack.capacity_bytes == 16 << 30


@pytest.mark.parametrize("name", HBM)
def test_data_file_is_complete(name: str) -> None:
    """Keys and units of the model, and for every number scope, source and kind."""
    info = {i["name"]: i for i in _engine.dram_param_info()}
    rows = tomllib.loads((DATA / f"{name}.toml").read_text())["params"]
    assert set(rows) == set(info)
    for key, row in rows.items():
        assert set(row) == {"value", "unit", "scope", "source", "kind"}, key
        assert row["unit"] == info[key]["unit"], key
        assert row["kind"] in ("standard", "derived", "choice", "code", "paper"), key
        assert len(row["source"]) > 8, key


BAD: list[tuple[dict[str, Any], str]] = [
    ({"BL": 6}, "multiple of beats_per_clock = 4"),
    ({"tRCD_WR_cut_nCK": 19}, "< tRCD_nCK = 19"),
    ({"refresh": "sometimes"}, "all_bank, per_bank"),
    (PER_BANK | {"tRFCpb_ps": 0}, "tRFCpb_ps = 0"),
    (PER_BANK | {"refresh_banks": 3}, "a divisor of the banks of a rank, 16"),
    (PER_BANK | {"refresh_banks": 1, "tREFI_ps": 2_000_000}, "tREFI_ps"),
    ({"command_buses": 3}, "1 to 2"),
    ({"tRTW_nCK": 14}, "CL_nCK + BL / 4 - CWL_nCK"),
]


@pytest.mark.parametrize(("override", "message"), BAD, ids=[str(o) for o, _ in BAD])
def test_bad_value_names_parameter_and_range(override: dict[str, Any], message: str) -> None:
    """Each bad combination of the new parameters is refused, naming one of them and what is allowed."""
    with pytest.raises(_engine.ParamError, match=re.escape(message)) as error:
        _engine.DramSystem(params("hbm3-5200", **override), 1)
    assert any(f"dram.{name}" in str(error.value) for name in (*override, "tREFI_ps", "tRFCpb_ps"))


random_hbm = st.fixed_dictionaries(
    {
        "standard": st.sampled_from(HBM),
        "ranks": st.integers(1, 3),
        "address_map": st.permutations(["Ro", "Ra", "Ba", "Bg", "Co", "Ch"]).map("".join),
        "command_buses": st.sampled_from([1, 2]),
        "refresh": st.sampled_from(["all_bank", "per_bank"]),
        "refresh_banks": st.sampled_from([4, 8, 16]),
        "tRCD_WR_cut_nCK": st.sampled_from([0, 4]),
        "read_queue": st.sampled_from([1, 5, 32]),
        "tRTRS_nCK": st.integers(0, 3),
    }
)


@settings(max_examples=15, deadline=None)
@given(system=random_hbm, seed=st.integers(0, 2**32 - 1))
def test_random_traffic_is_legal_and_complete(system: dict[str, Any], seed: int) -> None:
    """No constraint violated, each burst moved exactly once, counters equal to the trace, every bank refreshed."""
    p = params(**system, write_high=7, write_low=2)
    dram = _engine.DramSystem(p, 2, False)
    dram.record_trace(1_000_000)
    end, log = random_calls(dram, np.random.default_rng(seed), calls=6, largest=2500)
    dram.advance(end)
    recorded = dram.trace()
    assert not dram.trace_truncated
    assert check_trace(p, recorded) == []
    wanted: Counter[tuple[object, ...]] = Counter()
    size = burst_bytes(p)
    for _, addr, count, write in log:
        for burst in range(addr // size, (addr + count - 1) // size + 1):
            d = decode(p, 2, burst * size)
            wanted[("WR" if write else "RD", d["Ch"], d["Ra"], d["Bg"], d["Ba"], d["Ro"], d["Co"])] += 1
    assert Counter((t[2], t[1], *t[3:]) for t in recorded if t[2] in ("RD", "WR")) == wanted
    counters, ops = dram.counters(), Counter(t[2] for t in recorded)
    for name, op in [("acts", "ACT"), ("pres", "PRE"), ("reads", "RD"), ("writes", "WR")]:
        assert counters[name] == ops[op]
    assert counters["refs"] == ops["REF"] + ops["REFpb"]
    assert ops["REF" if p["refresh"] == "per_bank" else "REFpb"] == 0


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), standard=st.sampled_from(HBM), ranks=st.integers(1, 2), buses=st.integers(1, 2),
    refresh=st.sampled_from(["all_bank", "per_bank"]), locality=st.booleans(),
)  # fmt: skip
def test_same_schedule_as_a_clock_by_clock_controller(
    seed: int, standard: str, ranks: int, buses: int, refresh: str, locality: bool
) -> None:
    """The same commands at the same clocks as the slow controller, with two buses and per-bank refresh too."""
    rng = np.random.default_rng(seed)
    p = params(
        standard, ranks=ranks, rows=8, read_queue=7, write_queue=9, write_high=6, write_low=2, subchannels=1,
        command_buses=buses, refresh=refresh, refresh_banks=4 if standard == "hbm2-2000" else 8,
        address_map="RoRaBaBgCoCh", tREFI_ps=2_000_000 if refresh == "per_bank" else 1_200_000,
    )  # fmt: skip
    dram = _engine.DramSystem(p, 1, False)
    dram.record_trace(100_000)
    size, requests, addr = burst_bytes(p), [], 0
    for _ in range(140):
        write = bool(rng.random() < 0.4)
        jump = int(rng.integers(0, dram.capacity_bytes // size - 1)) * size
        addr = (addr + size if locality and rng.random() < 0.7 else jump) % dram.capacity_bytes
        d = decode(p, 1, addr)
        requests.append((write, d["Ra"], d["Bg"], d["Ba"], d["Ro"], d["Co"]))
        dram.transfer(addr, size, write, 0)
    expected = simulate(p, requests)
    got = [Cmd(t // p["tCK_ps"], *rest) for t, _, *rest in dram.trace()]
    plain = [c if c.op in ("RD", "WR") else Cmd(c.clock, c.op, c.rank, c.group, c.bank, c.row) for c in expected]
    assert got[: len(plain)] == plain
    assert {c.op for c in got[len(plain) :]} <= {"PRE", "REF", "REFpb"}


@pytest.mark.parametrize("name", HBM)
@pytest.mark.parametrize("write", [False, True])
def test_stream_reaches_peak_less_refresh(name: str, write: bool) -> None:
    """One rank, all banks refreshed at once: within 2 % of peak (1 - tRFC / tREFI)."""
    p = params(name, ranks=1)
    dram = _engine.DramSystem(p, 1, False)
    size = 8 << 20
    end = dram.transfer(0, size, write, 0)
    ideal = dram.peak_bytes_per_s * (1 - p["tRFC_ps"] / p["tREFI_ps"])
    assert 0.98 * ideal < size / (end * 1e-12) <= ideal


def test_per_bank_refresh_costs_a_stream_less() -> None:
    """With REFpb other banks go on: the stream loses less than with REF, and every bank is refreshed as often."""
    p = params("hbm3-5200", ranks=1)
    size, ends, refs = 8 << 20, {}, {}
    for mode in ("all_bank", "per_bank"):
        dram = _engine.DramSystem(p | {"refresh": mode}, 1, False)
        ends[mode] = dram.transfer(0, size, False, 0)
        refs[mode] = dram.counters()["refs"] / ends[mode]
    assert ends["per_bank"] < 0.98 * ends["all_bank"]
    # 16 banks each as often as the rank was; the interval of eight banks is rounded down to a clock.
    assert refs["per_bank"] == pytest.approx(16 * refs["all_bank"], rel=0.01)


@settings(max_examples=40, deadline=None)
@given(system=random_hbm, seed=st.integers(0, 2**32 - 1))
def test_fast_forward_is_exact(system: dict[str, Any], seed: int) -> None:
    """Repeating rounds left out or not: the same to the picosecond and the event."""
    p = params(**system, write_high=7, write_low=2)
    results = []
    for fast in (False, True):
        rng, dram = np.random.default_rng(seed), _engine.DramSystem(p, 1, fast)
        start, ends = 0, []
        for _ in range(6):
            size, addr = int(2 ** rng.uniform(4, 19)), int(rng.integers(0, dram.capacity_bytes // 4))
            kind = rng.random()
            if kind < 0.3:
                ends.append(dram.mixed(size // 2 + 1, size // 3 + 1, start, addr))
            else:
                ends.append(dram.transfer(addr, size, bool(kind < 0.6), start))
            start = int(rng.choice([start, max(ends), max(ends) + 20_000_000]))
        dram.advance(max(ends) + 77_000_000)
        results.append((ends, dram.counters()))
    assert results[0] == results[1]


@pytest.mark.parametrize("banks", [4, 8])
def test_idle_bank_refreshes_in_one_step(banks: int) -> None:
    """With a trace every idle REFpb is sent, without one they are counted: then the same banks are in turn."""
    p = params("hbm3-5200", ranks=1, refresh="per_bank", refresh_banks=banks)
    interval = p["tREFI_ps"] * banks // 16
    results = []
    for record in (1, 0):
        dram, ends = _engine.DramSystem(p, 1, False), []
        dram.record_trace(record)
        for k in range(12):  # long enough to meet the next refresh, in one bank at a time
            addr = k % 4 * 4096
            ends.append(dram.transfer(addr, 4096, False, dram.now_ps + (40 + k) * interval))
            ends.append(dram.transfer(addr, 4096, False, dram.now_ps + interval // 2))
            ends.append(dram.transfer(addr, 100_000, False, dram.now_ps))
        results.append((ends, dram.counters()))
    assert results[0] == results[1]


@pytest.mark.parametrize("refresh", ["all_bank", "per_bank"])
def test_long_streams_within_half_a_percent(refresh: str) -> None:
    """Streams that are extrapolated, with REF and REFpb."""
    p = params("hbm3-5200", refresh=refresh)
    results = []
    for fast in (False, True):
        dram = _engine.DramSystem(p, 1, fast)
        results.append((dram.transfer(64, 150 << 20, False, 0), dram.counters()))
    (slow_end, slow), (fast_end, fast_counters) = results
    assert fast_end == pytest.approx(slow_end, rel=0.005)
    for name, exact in slow.items():
        assert abs(fast_counters[name] - exact) <= max(0.005 * exact, 2), name


# What HBM adds to the checker: just legal, and one clock earlier exactly this constraint (see test_dram_checker).
A, B, C = (0, 0, 0), (0, 0, 1), (0, 1, 0)
LOOSE = {
    "refresh": "per_bank", "refresh_banks": 4, "tRFCpb_ps": 2 * 625, "tRREFD_nCK": 1, "ranks": 1, "command_buses": 2,
    "act_slots_nCK": 1, "column_slots_nCK": 1,
}  # fmt: skip
OPEN_A = (0, "ACT", *A, 5, 0)
CASES: dict[str, tuple[dict[str, int | str], list[tuple[Any, ...]]]] = {
    "tRFCpb": ({"tRFCpb_ps": 20 * 625}, [(50, "REFpb", *A, 0, 0), (70, "ACT", *A, 5, 0)]),
    "tRREFD": ({"tRREFD_nCK": 7}, [(50, "REFpb", *A, 0, 0), (57, "ACT", *C, 5, 0)]),
    "tRRD_L": ({"tRRD_L_nCK": 9}, [OPEN_A, (9, "REFpb", *B, 0, 0)]),
    "tRRD_S": ({"tRRD_S_nCK": 9}, [OPEN_A, (9, "REFpb", *C, 0, 0)]),
    "tRC": ({"tRC_nCK": 30}, [OPEN_A, (5, "PRE", *A, 5, 0), (30, "REFpb", *A, 0, 0)]),
    "tRP": ({"tRP_nCK": 30}, [OPEN_A, (5, "PRE", *A, 5, 0), (35, "REFpb", *A, 0, 0)]),
    "tRCD": ({"tRCD_nCK": 12, "tRCD_WR_cut_nCK": 3}, [OPEN_A, (9, "WR", *A, 5, 0)]),
    "command bus": ({"column_slots_nCK": 5}, [OPEN_A, (9, "RD", *A, 5, 0), (14, "RD", *A, 5, 1)]),
}


@pytest.mark.parametrize("name", CASES)
def test_each_new_constraint_binds_to_the_clock(name: str) -> None:
    override, commands = CASES[name]
    p = small(**(LOOSE | override))
    assert check_trace(p, trace(p, commands)) == []
    clock, *rest = commands[-1]
    early = [*commands[:-1], (clock - 1, *rest)]
    assert {kind for kind, _ in check_trace(p, trace(p, early))} == {name}


def test_two_buses_take_two_commands() -> None:
    """ACT and RD at one clock are legal on two buses, and not on one."""
    commands = [OPEN_A, (9, "RD", *A, 5, 0), (9, "ACT", *C, 5, 0)]
    for buses, expected in ((2, set()), (1, {"command bus"})):
        p = small(**(LOOSE | {"command_buses": buses}))
        assert {kind for kind, _ in check_trace(p, trace(p, commands))} == expected


def test_forgotten_bank_is_seen() -> None:
    """REFpb of all banks but one: the checker names tREFI."""
    p = small(**(LOOSE | {"bank_groups": 1, "banks_per_group": 2, "refresh_banks": 1}))
    refi = p["tREFI_ps"] // p["tCK_ps"]
    both = [(refi // 2 * k, "REFpb", 0, 0, k % 2, 0, 0) for k in range(1, 9)]
    assert check_trace(p, trace(p, both)) == []
    assert {kind for kind, _ in check_trace(p, trace(p, [c for c in both if c[4] == 0]))} == {"tREFI"}

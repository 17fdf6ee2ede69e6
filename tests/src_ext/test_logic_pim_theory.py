"""One pseudo-channel of Logic-PIM against closed formulas: rows, ping-pong, refresh, modules, limits, contention.

Every expected time is written here from the parameters. The trace of every run also goes through the timing checker.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from logic_pim_util import NO_REFRESH, Job, hbm, pim, read, run, space_banks, start_clock, stream

from gempim import _engine
from gempim.bench.hbm3_checker import OPS, Ints

PARTS = (
    "pim_busy_ps", "stall_compute_ps", "stall_operand_ps", "stall_refresh_ps", "stall_conflict_ps", "stall_row_ps",
    "stall_bus_ps", "drain_ps",
)  # fmt: skip
AT_ONCE = {"instruction_ps": 0}


def clocks_of(trace: Ints, op: str) -> list[int]:
    return [int(t) // 769 for t in trace[trace[:, 1] == OPS.index(op), 0]]


def test_one_bundle_without_overlap_has_76_percent_of_the_peak() -> None:
    """Rows of one bundle: tRCD + 31 columns + tRTP + tRP = 168 clocks for 128 of data (facts, section 19)."""
    v, d = pim(**AT_ONCE), hbm(**NO_REFRESH)
    rows = 50
    pim_ps, _, counts, _ = run(v, d, [read(32 * rows, [0])])
    row = 19 + 31 * 4 + 6 + 19
    assert (row, round(128 / row, 2)) == (168, 0.76)
    assert pim_ps == ((rows - 1) * row + 19 + 31 * 4 + 19 + 2) * 769
    assert (counts["pim_columns"], counts["pim_acts"]) == (32 * rows, 8 * rows)


@pytest.mark.parametrize("spaces", [[0, 1], [2, 3], [0, 2], [1, 3, 0], [0, 1, 2, 3]])
def test_ping_pong_bundles_read_without_a_gap(spaces: list[int]) -> None:
    """With two or more bundles a column goes every tCCD_L from the first row on, also across ranks."""
    v, d = pim(**AT_ONCE), hbm(**NO_REFRESH)
    pim_ps, _, counts, trace = run(v, d, [read(32 * 50 + 5, spaces)])
    clocks = clocks_of(trace, "BRD")
    assert {b - a for a, b in pairwise(clocks)} == {4}
    assert pim_ps == (19 + (32 * 50 + 4) * 4 + 19 + 2) * 769
    assert counts["stall_row_ps"] == 19 * 769


def test_ping_pong_reaches_peak_less_refresh() -> None:
    """Both bundles of a rank: within 2 % of peak (1 - tRFC / tREFI); two ranks hide each other's refresh."""
    v, d = pim(), hbm()
    columns = 20_000
    ideal = columns * 4 * 769
    busy = 1 - d["tRFC_ps"] / d["tREFI_ps"]
    one_rank, _, counts, _ = run(v, d, [read(columns, [0, 1])])
    assert 0.98 * busy < ideal / one_rank < busy
    assert counts["refs"] in (2 * one_rank // d["tREFI_ps"], 2 * one_rank // d["tREFI_ps"] + 1)
    two_ranks, _, _, _ = run(v, d, [read(columns, [0, 1, 2, 3])])
    assert ideal / two_ranks > 0.98
    in_order, _, _, _ = run(v | {"reorder_spaces": False}, d, [read(columns, [0, 1, 2, 3])])
    # In order, a refresh of either rank stops the stream.
    assert in_order > 1.06 * two_ranks


def test_single_bundle_with_refresh() -> None:
    """0.76 less the refresh, within 2 %."""
    v, d = pim(), hbm()
    columns = 20_000
    pim_ps, _, _, _ = run(v, d, [read(columns, [1])])
    expected = 128 / 168 * (1 - d["tRFC_ps"] / d["tREFI_ps"])
    assert columns * 4 * 769 / pim_ps == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("banks", [1, 8])
def test_refresh_bank_by_bank(banks: int) -> None:
    """REFpb one bank at a time stops a bundle eight times each tREFI; all eight together once, shorter than REF."""
    v, d = pim(), hbm(refresh="per_bank", refresh_banks=banks)
    if banks == 1:
        d |= {"tRFCpb_ps": 100_000}  # with 200 ns a bank could not be refreshed in tREFI / 16
    columns = 20_000
    pim_ps, _, counts, trace = run(v, d, [read(columns, [0])])
    share = columns * 4 * 769 / pim_ps / (128 / 168)
    # Each stop takes the refreshes, tRREFD apart, and at most closing and opening the row and a column that just went.
    stop = d["tRFCpb_ps"] + (banks - 1) * d["tRREFD_nCK"] * 769
    extra = (6 + 19 + 19 + 45) * 769
    stops = 8 // banks / d["tREFI_ps"]
    assert 1 - stops * (stop + extra) < share < 1 - stops * stop
    assert counts["refs"] == pytest.approx(32 * pim_ps / d["tREFI_ps"], rel=0.05)
    assert not len(clocks_of(trace, "REF"))


def test_modules_set_the_pace() -> None:
    """`quanta` steps of two clocks a column: the path waits beyond two, and sweeps read the row again."""
    v, d = pim(**AT_ONCE), hbm(**NO_REFRESH)
    latency = (v["unit_latency_clocks"]) * 2
    for quanta, gap in ((1, 4), (2, 4), (3, 6), (7, 14)):
        pim_ps, _, counts, _ = run(v, d, [read(320, [0, 1], quanta=quanta)])
        assert pim_ps == (19 + 319 * gap + 21 + 2 * quanta + latency) * 769
        assert counts["stall_compute_ps"] == 319 * (gap - 4) * 769
        assert counts["unit_clocks"] == 320 * quanta
    # Two sweeps of 3 and 2 steps: 32 columns at 6 clocks, then the same 32 at 4.
    pim_ps, _, counts, trace = run(v, d, [read(64, [0, 1], sweeps=2, quanta=5)])
    steps = np.diff(clocks_of(trace, "BRD"))
    assert [int(s) for s in steps] == (([6] * 32 + [4] * 32) * 2)[:127]
    assert (counts["pim_columns"], counts["pim_acts"], counts["unit_clocks"]) == (128, 16, 64 * 5)


def test_jobs_wait_for_operands_and_vector_units() -> None:
    """A job starts when the one before it has ended, its vector unit included; the unit does one thing at a time."""
    v, d = pim(**AT_ONCE), hbm(**NO_REFRESH)
    first: Job = ("read", 8, 1, 2, [0], -1, 0, 769 * 500)
    second: Job = ("read", 8, 1, 2, [1], -1, 0, 769 * 500)
    last: Job = ("read", 8, 1, 2, [2], 1, -1, 0)
    pim_ps, _, counts, trace = run(v, d, [first, second, last])
    clocks = clocks_of(trace, "BRD")
    done = clocks[7] + 21 + 2 * 2 + 2 * v["unit_latency_clocks"]
    assert clocks[16] == done + 500 + 500
    assert pim_ps == (clocks[-1] - start_clock(v, d) + 21 + 2 * 2 + 2 * v["unit_latency_clocks"]) * 769
    assert counts["stall_operand_ps"] > 900 * 769


def test_results_are_written_by_bundle_or_by_bank() -> None:
    """BWR takes the path after the turn; ordinary writes take eight times the commands on the xPU's path."""
    v, d = pim(**AT_ONCE), hbm(**NO_REFRESH)
    jobs: list[Job] = [read(32, [0], quanta=2), ("write", 4, 1, 0, [0], 0, -1, 0)]
    pim_ps, _, counts, trace = run(v, d, jobs)
    writes = clocks_of(trace, "BWR")
    assert (len(writes), counts["pim_column_writes"], counts["xpu_writes"]) == (4, 4, 0)
    assert pim_ps == (writes[-1] - start_clock(v, d) + 6 + 2) * 769
    jobs[1] = ("bank_write", 4, 1, 0, [0], 0, -1, 0)
    bank_ps, xpu_ps, counts, trace = run(v, d, jobs)
    writes = clocks_of(trace, "WR")
    assert (len(writes), counts["pim_column_writes"], counts["xpu_writes"]) == (32, 0, 32)
    assert bank_ps == (writes[-1] - start_clock(v, d) + 6 + 2) * 769 > pim_ps
    assert xpu_ps == 0


def test_activations_under_the_normal_rules() -> None:
    """Eight ACT under tRRD_S 2 and four in tFAW 39: the last one 45 clocks after the first (facts, section 19)."""
    v, d = pim(**AT_ONCE, activation_limit="normal"), hbm(**NO_REFRESH)
    pim_ps, _, counts, trace = run(v, d, [read(32, [0])])
    acts = clocks_of(trace, "ACT")
    assert [a - acts[0] for a in acts] == [0, 2, 4, 6, 39, 41, 43, 45]
    assert pim_ps == (45 + 19 + 31 * 4 + 21) * 769
    assert counts["pim_acts"] == 8
    # Ping-pong over one rank: eight ACT take two windows of tFAW, less than a row of columns.
    columns = 32 * 60
    pim_ps, _, _, _ = run(v, d, [read(columns, [0, 1])])
    assert pim_ps == (45 + 19 + (columns - 1) * 4 + 21) * 769
    # The xPU's own activations wait in the same windows.
    banks = space_banks(1)
    far = [(False, banks[i % 8], i, 0) for i in range(200)]
    _, alone, _, _ = run(v, d, [], far)
    _, beside, _, _ = run(v, d, [read(columns, [0])], far)
    _, unlimited, _, _ = run(v | {"activation_limit": "none"}, d, [read(columns, [0])], far)
    assert unlimited < 1.02 * alone < beside


def test_larger_column_distance_as_power_limit() -> None:
    """bundle_ccd_nCK of 6 (AttAcc's power limit): two thirds of the rate."""
    v, d = pim(**AT_ONCE, bundle_ccd_nCK=6), hbm(**NO_REFRESH)
    pim_ps, _, counts, _ = run(v, d, [read(3200, [0, 1])])
    assert pim_ps == (19 + 3199 * 6 + 21) * 769
    assert counts["pim_busy_ps"] == 3200 * 6 * 769


@pytest.mark.parametrize("write", [False, True])
def test_xpu_path_reaches_peak_less_refresh(write: bool) -> None:
    """The xPU alone in the two spaces of a rank: 32 bytes every tCCD_S, less the refresh, within 2 %."""
    v, d = pim(), hbm()
    bursts = 40_000
    _, xpu_ps, counts, _ = run(v, d, [], stream(bursts, space_banks(0) + space_banks(1), write=write))
    busy = 1 - d["tRFC_ps"] / d["tREFI_ps"]
    assert 0.98 * busy < bursts * 2 * 769 / xpu_ps < busy
    assert counts["xpu_writes" if write else "xpu_reads"] == bursts


def test_both_at_once_in_different_bundles() -> None:
    """Bundles of one rank, or of two: both paths run as fast as alone (two command buses, separate data paths)."""
    v, d = pim(), hbm()
    for mine, others in ((0, 2), (0, 1)):
        jobs, requests = [read(9000, [mine])], stream(18_000, space_banks(others))
        pim_alone, _, _, _ = run(v, d, jobs)
        _, xpu_alone, _, _ = run(v, d, [], requests)
        pim_ps, xpu_ps, counts, _ = run(v, d, jobs, requests)
        assert pim_ps == pytest.approx(pim_alone, rel=0.01)
        assert xpu_ps == pytest.approx(xpu_alone, rel=0.01)
        assert (counts["conflicts"], counts["xpu_conflict_ps"], counts["stall_conflict_ps"]) == (0, 0, 0)


def test_conflicts_in_one_bundle() -> None:
    """Both in one bundle: each waits for the other, both finish, and the waiting is counted."""
    v, d = pim(), hbm()
    jobs, requests = [read(3000, [0])], stream(12_000, space_banks(0))
    pim_alone, _, _, _ = run(v, d, jobs)
    _, xpu_alone, _, _ = run(v, d, [], requests)
    pim_ps, xpu_ps, counts, trace = run(v, d, jobs, requests)
    assert pim_ps > 1.3 * pim_alone
    assert xpu_ps > 1.3 * xpu_alone
    assert counts["conflicts"] > 50
    assert counts["xpu_conflict_ps"] > 0.2 * xpu_ps
    assert counts["stall_conflict_ps"] > 0.2 * (pim_ps - pim_alone)
    assert (len(clocks_of(trace, "BRD")), len(clocks_of(trace, "RD"))) == (3000, 12_000)


def test_shared_group_io_slows_both_down() -> None:
    """If the bank groups' I/O were shared, columns of both paths to one rank would keep tCCD_L."""
    v, d = pim(**AT_ONCE), hbm(**NO_REFRESH)
    jobs, requests = [read(6400, [0])], stream(25_000, space_banks(1))
    free, xpu_free, _, _ = run(v, d, jobs, requests)
    shared, xpu_shared, _, _ = run(v | {"shared_group_io": True}, d, jobs, requests)
    assert shared > 1.2 * free or xpu_shared > 1.2 * xpu_free
    other_rank, xpu_other, _, _ = run(v | {"shared_group_io": True}, d, jobs, stream(25_000, space_banks(2)))
    assert other_rank == pytest.approx(free, rel=0.01)
    assert xpu_other == pytest.approx(xpu_free, rel=0.01)


def test_command_bus_slots_are_shared() -> None:
    """Columns of both on a column bus that each holds for three clocks: more than the bus has, so both slow down."""
    v, d = pim(**AT_ONCE), hbm(**NO_REFRESH, column_slots_nCK=3)
    jobs, requests = [read(12_000, [0, 1])], stream(20_000, space_banks(2) + space_banks(3))
    for priority, winner in (("pim", 0), ("xpu", 1)):
        both = run(v | {"priority": priority}, d, jobs, requests)
        alone = (run(v, d, jobs)[0], run(v, d, [], requests)[1])
        ratio = [both[i] / alone[i] for i in (0, 1)]
        assert ratio[1 - winner] > 1.2
        assert both[2]["stall_bus_ps"] > 0


def random_jobs(rng: np.random.Generator) -> list[Job]:
    jobs: list[Job] = []
    for _ in range(int(rng.integers(1, 9))):
        kind = str(rng.choice(["read", "read", "write"]))
        sweeps = int(rng.integers(1, 4)) if kind == "read" else 1
        spaces = [int(s) for s in rng.permutation(4)[: int(rng.integers(1, 5))]]
        after = int(rng.integers(-1, len(jobs))) if jobs else -1
        quanta = sweeps * int(rng.integers(0, 5)) if kind == "read" else 0
        jobs.append((kind, int(rng.integers(1, 300)), sweeps, quanta, spaces, after, -1, 0))
    return jobs


@pytest.mark.parametrize("seed", range(10))
def test_times_add_up(seed: int) -> None:
    """Busy time, waits by cause and the drain add up to the operator's time, to the picosecond; columns are counted."""
    rng = np.random.default_rng(seed)
    v: dict[str, Any] = pim(
        rows_ahead=int(rng.integers(0, 3)), reorder_spaces=bool(rng.integers(2)), refresh_phase=float(rng.random()),
        activation_limit=str(rng.choice(["none", "normal"])), instruction_ps=int(rng.integers(0, 200_000)),
    )  # fmt: skip
    d = hbm(tREFI_ps=2_500_000)
    jobs = random_jobs(rng)
    requests = stream(int(rng.integers(0, 4000)), space_banks(int(rng.integers(4))))
    pim_ps, _, counts, trace = run(v, d, jobs, requests)
    assert sum(counts[name] for name in PARTS) == pim_ps
    reads = sum(c * s for kind, c, s, *_ in jobs if kind == "read")
    writes = sum(c for kind, c, *_ in jobs if kind == "write")
    assert (counts["pim_columns"], counts["pim_column_writes"]) == (reads, writes)
    assert (len(clocks_of(trace, "BRD")), len(clocks_of(trace, "BWR"))) == (reads, writes)
    assert (counts["xpu_reads"], counts["pim_busy_ps"]) == (len(requests), (reads + writes) * 4 * 769)
    acts = counts["pim_acts"] + counts["xpu_acts"]
    assert acts == len(clocks_of(trace, "ACT")) + 8 * len(clocks_of(trace, "BACT"))
    again = run(v, d, jobs, requests, check=False)
    assert (again[0], again[2]) == (pim_ps, counts)


def test_xpu_alone_is_the_dram_model() -> None:
    """Without jobs the xPU's controller sends the commands of DramSystem for the same requests, at the same clocks."""
    d = hbm(ranks=1, address_map="RoRaBaCoBgCh", subchannels=1)
    bursts = 9000
    dram = _engine.DramSystem(d, 1, False)
    dram.record_trace(1_000_000)
    end = dram.transfer(0, bursts * 32, False, 0)
    banks = [group * 4 + bank for bank in range(4) for group in range(4)]
    _, xpu_ps, _, trace = run(pim(refresh_phase=0.0), d, [], stream(bursts, banks))
    assert xpu_ps == end
    expected = [(t[0], OPS.index(t[2]), *t[3:]) for t in dram.trace()]
    assert [tuple(int(x) for x in row[:7]) for row in trace] == expected[: len(trace)]
    assert len(expected) - len(trace) < 20  # closing rows for a refresh that falls due while the last data come


def test_host_time() -> None:
    """700 MB of weights in five stacks with 700 MB of the xPU beside them: the answer is there at once."""
    device = _engine.LogicPim(pim(), hbm(), 5)
    began = time.process_time()
    device.gemm(85_449, 4096, 8, [0, 1], 700_000_000, [2, 3], "n")
    assert time.process_time() - began < 0.5  # target 0.05 s on an idle core, measured 0.014 s

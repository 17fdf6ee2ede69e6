# SPDX-License-Identifier: BSD-3-Clause
"""When things happen: double-buffering, hosts, planning, properties, and errors of the SRAM-PIM."""

from __future__ import annotations

import heapq
import random
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pim_reference import HALF_OFFSETS, params

from gempim import _engine as engine

TYPES = st.sampled_from(sorted(HALF_OFFSETS))


def recurrence(
    plan: dict[str, Any], p: dict[str, Any], bytes_per_s: float, latency_ps: int, load_start: int, start: int
) -> tuple[int, int, int]:
    """(last computation, last strip ready, total load stall): request -> arrival -> done of every tile, slice by slice.

    done[j] = max(done[j-1], arrival[j], start) + cycles[j]; request[j] = done[j - buffers]; the memory is a queue.
    """
    queues: dict[int, list[int]] = {}
    for index, tile in enumerate(plan["tile_list"]):
        queues.setdefault(tile["slice"], []).append(index)
    done: dict[int, list[int]] = {s: [] for s in queues}
    memory_free = 0
    stall = 0
    strips: dict[int, int] = {}
    while any(len(done[s]) < len(q) for s, q in queues.items()):
        candidates = []
        for s, q in queues.items():
            j = len(done[s])
            if j < len(q):
                request = load_start if j < p["tile_buffers"] else max(load_start, done[s][j - p["tile_buffers"]])
                candidates.append((request, q[j], s))
        request, index, s = min(candidates)
        tile = plan["tile_list"][index]
        memory_free = max(memory_free, request) + ceil(tile["bytes"] * 1e12 / bytes_per_s)
        arrival = memory_free + latency_ps
        idle = done[s][-1] if done[s] else start
        begin = max(idle, arrival, start)
        stall += begin - idle
        done[s].append(begin + tile["cycles"] * p["clock_ps"])
        if tile["ends_chain"]:
            strips[tile["strip"]] = max(strips.get(tile["strip"], 0), done[s][-1])
    combine = plan["combine_cycles"] or [0] * plan["strips"]
    ready = max(t + combine[s] * p["clock_ps"] for s, t in strips.items())
    return max(d[-1] for d in done.values()), ready, stall


@settings(max_examples=80, deadline=None)
@given(
    name=TYPES,
    m=st.integers(1, 6),
    n=st.integers(1, 5000),
    blocks=st.integers(1, 12),
    slices=st.integers(1, 20),
    buffers=st.integers(1, 3),
    bandwidth=st.floats(1e9, 1e13),
    latency=st.integers(0, 10**6),
    early=st.integers(0, 10**7),
)
def test_double_buffering_follows_the_recurrence(
    name: str, m: int, n: int, blocks: int, slices: int, buffers: int, bandwidth: float, latency: int, early: int
) -> None:
    p = params(slices=slices, tile_buffers=buffers, tile_k=512, nbw=3)
    device = engine.SramPim(p)
    k = 256 * blocks
    plan = device.plan(m, n, k, name, tiles=True)
    start = 10**8
    memory = engine.FixedBandwidthMemory(bandwidth, latency)
    r = device.time_matmul(m, n, k, name, memory=memory, start_ps=start, load_start_ps=start - early)
    computed, ready, stall = recurrence(plan, p, bandwidth, latency, start - early, start)
    assert r["end_ps"] == ready
    assert r["counters"]["load_stall_ps"] == stall
    assert r["exposed_load_ps"] <= computed - start
    assert memory.read_bytes == plan["weight_bytes"] == r["counters"]["weight_bytes"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), name=TYPES, n=st.integers(1, 3000), m=st.integers(1, 5))
def test_any_host_gives_the_same_cycles_and_counts(seed: int, name: str, n: int, m: int) -> None:
    """A host whose loads arrive late and out of order (as timing ports do) against the embedded one."""
    rng = random.Random(seed)
    p = params(slices=4, nbw=3, results_to_memory=True)
    device = engine.SramPim(p)
    pipe = engine.TilePipeline(device, m, n, 1024, name, 0.25)
    tiles = device.plan(m, n, 1024, name, tiles=True)["tile_list"]
    events: list[tuple[int, int, str, int]] = []
    computed: list[int] = []
    in_flight = written = 0
    now = 0

    def pump() -> None:
        nonlocal in_flight, written
        while (load := pipe.next_load()) is not None:
            tile, offset, size = load
            assert (offset, size) == (tiles[tile]["offset_bytes"], tiles[tile]["bytes"])
            in_flight += 1
            heapq.heappush(events, (now + rng.randrange(10**8), len(events) + 10**6 * in_flight, "load", tile))
        while (write := pipe.next_write()) is not None:
            written += write[2]
            heapq.heappush(events, (write[3] + rng.randrange(10**6), 0, "write", write[0]))

    pump()
    while events:
        now, _, kind, index = heapq.heappop(events)
        if kind == "write":
            pipe.write_done(now)
        else:
            started = (pipe.load_done if kind == "load" else pipe.compute_done)(index, now)
            if kind == "compute":
                computed.append(index)
            if started is not None:
                heapq.heappush(events, (started[2], 1, "compute", started[0]))
        pump()
    assert pipe.finished
    assert pipe.end_ps == now
    assert sorted(computed) == list(range(len(tiles)))
    assert written == 4 * m * n
    embedded = engine.SramPim(p)
    embedded.time_matmul(m, n, 1024, name, 0.25, engine.FixedBandwidthMemory(1e11, 0))
    mine, theirs = device.counters(), embedded.counters()
    mine.pop("load_stall_ps")
    theirs.pop("load_stall_ps")
    assert mine == theirs


def test_a_host_that_breaks_the_protocol_is_told() -> None:
    pipe = engine.TilePipeline(engine.SramPim(params()), 1, 512, 512, "q4_0")
    tile = pipe.next_load()[0]
    with pytest.raises(RuntimeError, match="was not being computed"):
        pipe.compute_done(tile, 5)
    pipe.load_done(tile, 5)
    with pytest.raises(RuntimeError, match="was not being loaded"):
        pipe.load_done(tile, 6)
    with pytest.raises(RuntimeError, match="none was due"):
        pipe.write_done(7)


def test_results_through_memory_are_written_after_they_are_ready() -> None:
    m, n, k = 3, 700, 512
    memory = engine.FixedBandwidthMemory(1e10, 5000)
    through = engine.SramPim(params(results_to_memory=True)).time_matmul(m, n, k, "q4_0", memory=memory)
    in_llc = engine.SramPim(params()).time_matmul(m, n, k, "q4_0", memory=engine.FixedBandwidthMemory(1e10, 5000))
    assert memory.write_bytes == 4 * m * n
    assert in_llc["write_ps"] == 0
    assert through["write_ps"] > 0
    assert through["end_ps"] == in_llc["end_ps"] + through["write_ps"]


@settings(max_examples=50, deadline=None)
@given(name=TYPES, m=st.integers(1, 12), n=st.integers(1, 6000), blocks=st.integers(1, 16), nbw=st.integers(1, 3))
def test_more_of_everything_costs_no_less_and_better_hardware_no_more(
    name: str, m: int, n: int, blocks: int, nbw: int
) -> None:
    p = params(nbw=nbw)
    k = 256 * blocks

    def end(m: int = m, hit: float = 0.0, bandwidth: float = 5e10, **changes: Any) -> int:
        memory = engine.FixedBandwidthMemory(bandwidth, 1000)
        return engine.SramPim({**p, **changes}).time_matmul(m, n, k, name, hit, memory)["end_ps"]

    base = end()
    # Tiles that finish earlier can change the order in which slices ask for their next one (Graham's anomaly of list
    # scheduling): the end may then slip by a few cycles, never by more.
    assert end(hit=0.4) <= base * 1.001
    assert end(bandwidth=1e11) <= base * 1.001
    assert end(clock_ps=500, planner_bytes_per_s=0.0) <= end(planner_bytes_per_s=0.0) * 1.001
    weights = engine.SramPim(p).time_matmul(m, n, k, name)["counters"]["weight_bytes"]
    assert base >= weights / 5e10 * 1e12
    more = engine.SramPim(p)
    assert (
        more.time_matmul(m + 1, n, k, name)["counters"]["lookups"]
        > more.time_matmul(m, n, k, name)["counters"]["lookups"]
    )


@settings(max_examples=50, deadline=None)
@given(name=TYPES, m=st.integers(1, 6), n=st.integers(1, 9000), blocks=st.integers(1, 20), slices=st.integers(1, 40))
def test_plans_cover_every_weight_once_and_respect_the_limits(
    name: str, m: int, n: int, blocks: int, slices: int
) -> None:
    p = params(slices=slices, nbw=3)
    k = 256 * blocks
    plan = engine.SramPim(p).plan(m, n, k, name, tiles=True)
    covered = np.zeros((ceil(n / 1), blocks * 8), np.int8) if name[-1] != "K" else np.zeros((n, blocks), np.int8)
    unit = k // covered.shape[1]
    offset = 0
    last_of_slice: dict[int, tuple[int, int]] = {}
    for tile in plan["tile_list"]:
        covered[
            tile["first_n"] : tile["first_n"] + tile["n"],
            tile["first_k"] // unit : (tile["first_k"] + tile["k"]) // unit,
        ] += 1
        assert tile["k"] <= 1024
        assert tile["n"] <= 1024
        assert tile["slice"] < slices
        assert tile["offset_bytes"] == offset
        offset += tile["bytes"]
        before = last_of_slice.get(tile["slice"])
        # A merging tile follows its predecessor on the same slice; a chain's first tile does not merge.
        assert tile["merges"] == (before is not None and before[0] == tile["strip"])
        if tile["merges"]:
            assert before is not None
            assert before[1] == tile["first_k"]
        last_of_slice[tile["slice"]] = (tile["strip"], tile["first_k"] + tile["k"])
    assert (covered == 1).all()
    assert offset == plan["weight_bytes"]
    assert plan["arrays_used"] <= p["arrays_per_slice"]
    assert plan["rows_used"] <= p["array_rows"]


@settings(max_examples=60, deadline=None)
@given(
    name=TYPES,
    m=st.integers(1, 600),
    n=st.integers(1, 40000),
    blocks=st.integers(1, 48),
    slices=st.integers(1, 40),
    buffers=st.integers(1, 4),
    slice_kib=st.sampled_from([512, 768, 1024, 4096]),
    taken=st.booleans(),
)
def test_buffered_tiles_fit_in_the_slice_beside_its_arrays(
    name: str, m: int, n: int, blocks: int, slices: int, buffers: int, slice_kib: int, taken: bool
) -> None:
    """Any `tile_buffers` tiles in a row of one slice must find room in its LLC data ways, less what the arrays take."""
    p = params(
        slices=slices,
        nbw=3,
        tile_buffers=buffers,
        tile_k=4096,
        slice_bytes=slice_kib << 10,
        arrays_take_llc_capacity=taken,
    )
    plan = engine.SramPim(p).plan(m, n, 256 * blocks, name, tiles=True)
    room = (slice_kib << 10) - (32 * 8192 if taken else 0)
    of_slice: dict[int, list[int]] = {}
    for tile in plan["tile_list"]:
        of_slice.setdefault(tile["slice"], []).append(tile["bytes"])
    fullest = max(sum(q[i : i + buffers]) for q in of_slice.values() for i in range(len(q)))
    assert fullest <= plan["llc_staging_bytes"] / plan["slices_used"] <= room


def test_buffers_without_room_are_an_error() -> None:
    device = engine.SramPim(params(tile_buffers=16, slice_bytes=300 * 1024))
    with pytest.raises(engine.ParamError, match=r"tile_buffers = 16: .*slice_bytes = 307200"):
        device.plan(1, 40000, 16384, "q6_K")


def test_the_planner_takes_the_best_nbw() -> None:
    for m in (1, 4, 16):
        for name in ("q4_0", "q8_0", "q2_K"):
            base = params(planner_bytes_per_s=0.0)
            times = {}
            for nbw in range(1, 9):
                try:
                    times[nbw] = engine.SramPim({**base, "nbw": nbw}).time_matmul(m, 4096, 4096, name)["end_ps"]
                except engine.ParamError:
                    continue
            auto = engine.SramPim({**base, "nbw_auto": True}).time_matmul(m, 4096, 4096, name)
            assert auto["end_ps"] == min(times.values())
            assert times[auto["nbw"]] == auto["end_ps"]


def test_every_parameter_is_alive() -> None:
    """A key that changes nothing would be a dead option: each changes the time, the counts, or what is accepted."""
    changed = {
        "slices": 3,
        "slice_bytes": 650_000,
        "arrays_per_slice": 8,
        "array_rows": 400,
        "array_columns": 128,
        "clock_ps": 700,
        "arrays_take_llc_capacity": False,
        "nbw": 3,
        "nbw_auto": True,
        "activation_bits": 6,
        "add_overhead_cycles": 0,
        "lookup_carry_cycles": 0,
        "row_write_cycles": 2,
        "row_read_cycles": 9,
        "scratch_rows": 300,
        "prt_enable": False,
        "prt_entries": 2,
        "prt_scope": "group",
        "prt_policy": "fifo",
        "prt_hit_cycles": 3,
        "int_mul_quadratic": 1.0,
        "int_mul_linear": 4.0,
        "convert_in_memory": False,
        "convert_linear_cycles": 9,
        "convert_fixed_cycles": 90,
        "fp32_add_cycles": 88,
        "fp32_mul_cycles": 87,
        "reduce_links": 1,
        "reduce_row_cycles": 5,
        "tile_k": 256,
        "tile_n": 256,
        "tile_buffers": 1,
        "command_cycles": 900,
        "llc_link_bytes_per_cycle": 8,
        "results_to_memory": True,
        "planner_bytes_per_s": 1e9,
    }
    assert set(changed) == {f["name"] for f in engine.sram_pim_param_info()}
    rng = np.random.default_rng(2)
    x = (rng.normal(size=(6, 1024)) ** 3).astype(np.float32)
    weights = rng.integers(0, 100, size=(520, 4, 144), dtype=np.uint8).tobytes()

    def outcome(p: dict[str, Any]) -> tuple[Any, ...]:
        device = engine.SramPim(p)
        _, r = device.run_matmul(weights, "q4_K", 520, 1024, x, engine.FixedBandwidthMemory(3e10, 70000))
        big = device.time_matmul(2, 3000, 2048, "q4_K", 0.0, engine.FixedBandwidthMemory(2e11, 0))
        return r, big, device.llc_bytes_lost()

    # A small pattern table, so that replacement and scope have something to do; rows for several vectors a pass.
    base = params(prt_entries=3, slices=4, array_rows=512, nbw=5)
    reference = outcome(base)
    for key, value in changed.items():
        assert base[key] != value
        assert outcome({**base, key: value}) != reference, key


def test_llc_capacity_taken_by_the_arrays() -> None:
    assert engine.SramPim(params()).llc_bytes_lost() == 16 * 32 * 8192
    assert engine.SramPim(params(arrays_take_llc_capacity=False)).llc_bytes_lost() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nbw": 9}, r"sram_pim\.nbw = 9 weights: allowed are 1 to 8"),
        ({"nbw": 8}, "nbw = 8: even 2-bit weights need"),
        ({"activation_bits": 3}, r"activation_bits = 3 bits: allowed are 4 to 8"),
        ({"prt_scope": "all"}, 'prt_scope = "all": allowed are'),
        ({"prt_policy": "random"}, 'prt_policy = "random": allowed are'),
        ({"tile_n": 1000}, "tile_n = 1000: must be a multiple of array_columns"),
        ({"tile_k": 1000}, "tile_k = 1000: must be a multiple of 256"),
        ({"tile_n": 8192, "arrays_per_slice": 16}, "tile_n = 8192: a slice has columns for 4096"),
        ({"array_columns": 100, "tile_n": 100}, "array_columns = 100: must be a multiple of 8"),
        ({"nbw": 2.5}, "whole number"),
        ({"clock_ps": -1}, "must not be negative"),
        ({"int_mul_linear": float("nan")}, "int_mul_linear"),
        ({"lut_rows": 3}, "lut_rows: unknown key"),
        ({"slices": "many"}, "wrong type"),
    ],
)
def test_bad_parameters_name_the_key_and_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(engine.ParamError, match=message):
        engine.SramPim(params(**changes))


def test_missing_parameters_and_impossible_shapes_are_errors() -> None:
    p = params()
    del p["slices"]
    with pytest.raises(engine.ParamError, match="slices is missing"):
        engine.SramPim(p)
    device = engine.SramPim(params())
    for shape, message in (
        ((0, 1, 32), "matmul m = 0"),
        ((1, 0, 32), "matmul n = 0"),
        ((1, 1, 0), "matmul k = 0"),
        ((1, 1, 33), "multiple of the block of 32"),
        ((1, 1 << 25, 32), "matmul n = 33554432"),
    ):
        with pytest.raises(engine.ParamError, match=message):
            device.time_matmul(*shape, "q4_0")
    assert device.counters()["rejected_commands"] == 5
    with pytest.raises(engine.ParamError, match="must not be after start_ps"):
        device.time_matmul(1, 1, 32, "q4_0", start_ps=5, load_start_ps=6)


def test_reset_clears_every_counter_and_repeats_exactly() -> None:
    device = engine.SramPim(params(slices=2, convert_in_memory=True))
    with pytest.raises(engine.ParamError):
        device.plan(1, 1, 33, "q4_0")
    weights = np.random.default_rng(0).integers(0, 100, size=(300, 8, 144), dtype=np.uint8).tobytes()
    x = np.random.default_rng(1).normal(size=(3, 2048)).astype(np.float32)
    _, first = device.run_matmul(weights, "q4_K", 300, 2048, x, engine.FixedBandwidthMemory(1e9, 0))
    untouched = {name for name, value in device.counters().items() if value == 0}
    assert untouched == {"cpu_converts"}, "this product touches every counter but the CPU's"
    device.reset_counters()
    assert set(device.counters().values()) == {0}
    _, again = device.run_matmul(weights, "q4_K", 300, 2048, x, engine.FixedBandwidthMemory(1e9, 0))
    assert again == first
    assert {c["name"] for c in engine.sram_pim_counter_info()} == set(device.counters())
    assert all(c["unit"] and c["description"] for c in engine.sram_pim_counter_info())
    assert all(f["unit"] and f["description"] for f in engine.sram_pim_param_info())

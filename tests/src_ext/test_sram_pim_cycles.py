# SPDX-License-Identifier: BSD-3-Clause
"""Cycles, rows and event counts of the SRAM-PIM, re-derived from the README by plain step-by-step loops.

Nothing of the model is called for the expectation except `plan()` for how the product is cut.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pim_reference import FORMATS, HALF_OFFSETS, params, random_blocks

from gempim import _engine as engine

ACTIVATION_BYTES = {"q8_0": 34, "q8_1": 36, "q8_K": 292}
Hits = Callable[[int, int, int], int]


def log2_up(x: int) -> int:
    return (x - 1).bit_length()


def tables(f: dict[str, Any], nbw: int) -> list[tuple[int, int, bool]]:
    """(first element, weights, ends its sub-block) of every table of a unit."""
    out = []
    for sub in range(0, f["block_elements"], f["sub_elements"]):
        for first in range(0, f["sub_elements"], nbw):
            weights = min(nbw, f["sub_elements"] - first)
            out.append((sub + first, weights, first + weights == f["sub_elements"]))
    return out


class Widths:
    """Bits of every integer, from the largest magnitude it can have."""

    def __init__(self, f: dict[str, Any], ba: int) -> None:
        subs = f["block_elements"] // f["sub_elements"]
        self.sum = f["weight_bits"] + ba + log2_up(f["sub_elements"])
        self.super = self.sum + f["sub_scale_bits"] + log2_up(subs) if f["sub_scale_bits"] else 0
        self.asum = ba + log2_up(f["sub_elements"])
        self.min = self.asum + f["sub_min_bits"] + log2_up(subs) if f["sub_min_bits"] else 0
        self.converted = self.super or self.sum


def row_need(p: dict[str, Any], f: dict[str, Any], nbw: int) -> tuple[int, int]:
    w = Widths(f, p["activation_bits"])
    table = 2**nbw * (f["weight_bits"] + log2_up(nbw))
    shared = max(table, p["scratch_rows"]) + nbw * f["weight_bits"]
    return shared, w.sum + w.super + (32 if p["convert_in_memory"] else 0)


def tile_reference(
    p: dict[str, Any], f: dict[str, Any], nbw: int, m: int, vpp: int, tile: dict[str, Any], hits: Hits
) -> tuple[int, Counter[str]]:
    """Cycles and counts of one tile."""
    c: Counter[str] = Counter()
    ba, bw, over = p["activation_bits"], f["weight_bits"], p["add_overhead_cycles"]
    w = Widths(f, ba)
    link, rw, rr = p["llc_link_bytes_per_cycle"], p["row_write_cycles"], p["row_read_cycles"]
    columns = tile["n"]
    units = tile["k"] // f["block_elements"]
    first_unit = tile["first_k"] // f["block_elements"]
    groups = ceil(columns / p["array_columns"])
    critical = ceil(units / min(units, p["arrays_per_slice"] // groups))
    parts = ceil(units / critical)
    shares = [units // parts + (i < units % parts) for i in range(parts)]

    def fill(weights: int) -> int:
        return ceil(ceil(parts * columns * f["block_bytes"] * weights / f["block_elements"]) / link)

    def mul(n: int, s: int) -> int:
        return ceil(s * (p["int_mul_quadratic"] * n + p["int_mul_linear"]))

    def convert(n: int) -> int:
        return p["convert_linear_cycles"] * n + n * (log2_up(n) + 1) + p["convert_fixed_cycles"]

    cycles = p["command_cycles"]
    for number, start in enumerate(range(0, m, vpp)):
        v = min(vpp, m - start)
        c["passes"] += 1
        slowest = 0
        unit = first_unit
        for share in shares:
            steps: list[tuple[int, int]] = []  # (array cycles, weights of the table)
            for u in range(unit, unit + share):
                slots = tables(f, nbw)
                for index, (_, weights, ends_sub) in enumerate(slots):
                    entry = bw + log2_up(weights)
                    build = (2**weights - weights - 1) * (entry + over)
                    hit = hits(number, u, index)
                    lookups = v * ba
                    look = (lookups - hit) * (entry + over + p["lookup_carry_cycles"]) + hit * p["prt_hit_cycles"]
                    work = weights * bw * rw + build + look
                    c["basis_row_writes"] += weights * bw * groups
                    c["row_writes"] += weights * bw * groups
                    c["lut_builds"] += groups
                    c["lut_build_cycles"] += build * groups
                    c["lookups"] += lookups * groups
                    c["prt_hits"] += hit * groups
                    c["prt_accesses"] += lookups if p["prt_enable"] else 0
                    c["lookup_cycles"] += look * groups
                    for _ in range(v if ends_sub else 0):
                        adds, muls = [w.sum], []
                        if f["sub_scale_bits"]:
                            muls.append(mul(w.sum, f["sub_scale_bits"]))
                            adds.append(w.super)
                        if f["sub_min_bits"]:
                            muls.append(mul(w.asum, f["sub_min_bits"]))
                            adds.append(w.min)
                            work += w.asum * rw
                            c["row_writes"] += w.asum * groups
                        work += sum(adds) + len(adds) * over + sum(muls)
                        c["accumulates"] += len(adds) * groups
                        c["accumulate_cycles"] += (sum(adds) + len(adds) * over) * groups
                        c["int_muls"] += len(muls) * groups
                        c["int_mul_cycles"] += sum(muls) * groups
                    if ends_sub:
                        shared_rows = f["sub_scale_bits"] + f["sub_min_bits"]
                        work += shared_rows * rw
                        c["row_writes"] += shared_rows * groups
                    if index + 1 == len(slots):
                        if p["convert_in_memory"]:
                            float_min = f["has_min"] and not f["sub_min_bits"]
                            rows = 32 * (2 if f["has_min"] else 1) + 32 * v * (2 if float_min else 1)
                            n_mul = v * (2 + (2 if f["sub_min_bits"] else 1 if float_min else 0))
                            n_add = v * (2 if f["has_min"] else 1)
                            conv = v * (convert(w.converted) + (convert(w.min) if f["sub_min_bits"] else 0))
                            work += conv + n_mul * p["fp32_mul_cycles"] + n_add * p["fp32_add_cycles"] + rows * rw
                            c["convert_ops"] += v * (2 if f["sub_min_bits"] else 1) * groups
                            c["convert_cycles"] += conv * groups
                            c["fp_muls"] += n_mul * groups
                            c["fp_adds"] += n_add * groups
                            c["row_writes"] += rows * groups
                        else:
                            values = 2 if f["sub_min_bits"] else 1
                            rows = v * (w.converted + w.min)
                            work += max(rows * rr, ceil(4 * values * v * columns * parts / link))
                            c["row_reads"] += rows * groups
                            c["cpu_converts"] += 0  # counted a tile below, by outputs instead of rows
                    steps.append((work, weights))
            time = fill(steps[0][1])
            for (work, _), following in zip(steps, [*steps[1:], None], strict=True):
                time += max(work, fill(following[1]) if following else 0)
            slowest = max(slowest, time)
            unit += share
        activation_bytes = v * units * ACTIVATION_BYTES[f["activation"]]
        c["activation_bytes"] += activation_bytes
        c["fill_bytes"] += columns * units * f["block_bytes"]
        cycles += ceil(activation_bytes / link) + slowest
        if not p["convert_in_memory"]:
            values = v * columns * units * (2 if f["sub_min_bits"] else 1)
            c["cpu_converts"] += values
            c["result_bytes"] += 4 * values
            continue
        active = parts
        while active > 1:
            pairs = active // 2
            cycles += ceil(pairs * groups / p["reduce_links"]) * 32 * v * p["reduce_row_cycles"]
            cycles += v * p["fp32_add_cycles"]
            c["reduce_transfers"] += pairs * groups * 32 * v
            c["row_reads"] += pairs * groups * 32 * v
            c["row_writes"] += pairs * groups * 32 * v
            c["fp_adds"] += pairs * groups * v
            active -= pairs
        if tile["merges"]:
            cycles += max(ceil(4 * v * columns / link), 32 * v * rw) + v * p["fp32_add_cycles"]
            c["partial_bytes"] += 4 * v * columns
            c["row_writes"] += 32 * v * groups
            c["fp_adds"] += groups * v
        cycles += max(ceil(4 * v * columns / link), 32 * v * rr)
        c["row_reads"] += 32 * v * groups
        c["result_bytes"] += 4 * v * columns
    c["tiles"] += 1
    c["commands"] += 1
    c["weight_bytes"] += tile["bytes"]
    c["compute_cycles"] += cycles
    return cycles, c


def combine_reference(p: dict[str, Any], columns: int, m: int, parts: int) -> tuple[int, Counter[str]]:
    """Adding the partial results of one strip that different slices hold."""
    c: Counter[str] = Counter()
    if not p["convert_in_memory"]:
        return 0, c
    groups = ceil(columns / p["array_columns"])
    size = 4 * m * columns
    link = p["llc_link_bytes_per_cycle"]
    cycles = 0
    while parts > 1:
        pairs = parts // 2
        cycles += ceil(2 * size / link) + ceil(size / link)
        cycles += ceil(m * groups / p["arrays_per_slice"]) * p["fp32_add_cycles"]
        c["partial_bytes"] += pairs * 2 * size
        c["result_bytes"] += pairs * size
        c["fp_adds"] += pairs * groups * m
        c["row_writes"] += pairs * 2 * 32 * m * groups
        c["row_reads"] += pairs * 32 * m * groups
        parts -= pairs
    c["compute_cycles"] += cycles
    return cycles, c


def check_product(p: dict[str, Any], name: str, m: int, n: int, k: int, hits: Hits, got: dict[str, int]) -> None:
    """Every counter of one product against the loops above."""
    f = FORMATS[name]
    plan = engine.SramPim(p).plan(m, n, k, name, tiles=True)
    total: Counter[str] = Counter()
    for tile in plan["tile_list"]:
        cycles, c = tile_reference(p, f, plan["nbw"], m, plan["vectors_per_pass"], tile, lambda *_: 0)
        assert tile["cycles"] == cycles, tile
        total += tile_reference(p, f, plan["nbw"], m, plan["vectors_per_pass"], tile, hits)[1]
    if plan["parts"] > 1:
        for strip in range(plan["strips"]):
            columns = min(plan["tile_n"], n - strip * plan["tile_n"])
            cycles, c = combine_reference(p, columns, m, plan["parts"])
            assert plan["combine_cycles"][strip] == cycles
            total += c
    total["fp_cycles"] = total["fp_muls"] * p["fp32_mul_cycles"] + total["fp_adds"] * p["fp32_add_cycles"]
    total["array_active_cycles"] = (
        sum(total[x + "_cycles"] for x in ("lut_build", "lookup", "accumulate", "int_mul", "convert", "fp"))
        + total["row_writes"] * p["row_write_cycles"]
        + total["row_reads"] * p["row_read_cycles"]
    )
    for key, value in got.items():
        if key != "load_stall_ps":
            assert value == total[key], key


PARAMETER_SETS: list[dict[str, Any]] = [
    {},
    {"nbw": 3, "slices": 5, "arrays_per_slice": 12, "tile_k": 512, "lookup_carry_cycles": 0, "row_write_cycles": 2},
    {"nbw": 2, "convert_in_memory": False, "llc_link_bytes_per_cycle": 16, "activation_bits": 5},
    {"nbw_auto": True, "array_rows": 512, "row_read_cycles": 3, "reduce_links": 1, "prt_enable": False},
    # A link so narrow that fills are longer than any work, so the last table of all has nothing to wait for.
    {"nbw": 3, "llc_link_bytes_per_cycle": 1, "fp32_add_cycles": 20, "fp32_mul_cycles": 20},
    {"nbw": 1, "array_columns": 64, "tile_n": 128, "add_overhead_cycles": 0, "int_mul_quadratic": 0.7, "slices": 2},
]


@pytest.mark.parametrize("name", sorted(HALF_OFFSETS))
@pytest.mark.parametrize("index", range(len(PARAMETER_SETS)))
def test_cycles_and_counts_follow_the_formulas(name: str, index: int) -> None:
    p = params(**PARAMETER_SETS[index])
    for m, n, k in ((1, 300, 768), (5, 130, 1536), (2, 2100, 256)):
        device = engine.SramPim(p)
        r = device.time_matmul(m, n, k, name)
        check_product(p, name, m, n, k, lambda *_: 0, r["counters"])
        assert device.counters() == r["counters"]


@pytest.mark.parametrize("name", sorted(HALF_OFFSETS))
def test_row_budget_sets_passes_and_refuses_what_does_not_fit(name: str) -> None:
    f = FORMATS[name]
    k = 2 * f["block_elements"]
    for nbw in range(1, 9):
        p = params(nbw=nbw)
        shared, each = row_need(p, f, nbw)
        fit = (256 - shared) // each if shared + each <= 256 else 0
        if 2**nbw * (2 + log2_up(nbw)) + 2 * nbw > 256 - 15:
            continue  # such an nbw is refused by the constructor, see below
        device = engine.SramPim(p)
        assert device.supports(name) == (fit > 0)
        if fit == 0:
            with pytest.raises(engine.ParamError, match=rf"nbw = {nbw}: .* need {shared + each} rows"):
                device.plan(40, 64, k, name)
            assert device.counters()["rejected_commands"] == 1
            continue
        plan = device.plan(40, 64, k, name)
        assert plan["vectors_per_pass"] == min(fit, 40)
        assert plan["passes"] == ceil(40 / min(fit, 40))
        assert plan["rows_used"] == shared + each * min(fit, 40) <= 256


def test_a_tall_batch_builds_each_table_once_a_pass() -> None:
    p = params(nbw=3)
    device = engine.SramPim(p)
    plan = device.plan(7, 256, 32, "q4_0")
    assert (plan["vectors_per_pass"], plan["passes"]) == (3, 3)
    counters = device.time_matmul(7, 256, 32, "q4_0")["counters"]
    assert counters["lut_builds"] == 3 * 11  # ceil(32 / 3) tables, three walks
    assert counters["fill_bytes"] == 3 * counters["weight_bytes"] == 3 * 256 * 18


def test_starting_model_of_the_facts_is_the_lookup_part() -> None:
    """Table of facts/sail section 7: cycles per inner row and batch element, no carry: bw 4, NBW 4, B = 1 -> 33.2."""
    p = params(nbw=4, lookup_carry_cycles=0, prt_enable=False)
    c = engine.SramPim(p).time_matmul(1, 256, 32, "q4_0")["counters"]
    assert (c["lut_build_cycles"] + c["lookup_cycles"]) / 32 == pytest.approx(33.25)


# --- pattern reuse ---


def pattern_reference(
    a: np.ndarray, slots: list[tuple[int, int]], unit: int, ba: int, vpp: int, entries: int, scope: str, policy: str
) -> tuple[int, dict[tuple[int, int, int], int]]:
    """Hits by (pass, unit, table) with an ordered dictionary as the table."""
    m, k = a.shape
    hits: dict[tuple[int, int, int], int] = {}
    lookups = 0
    for number, start in enumerate(range(0, m, vpp)):
        for u in range(k // unit):
            for index, (first, weights) in enumerate(slots):
                table: OrderedDict[tuple[int, ...], None] = OrderedDict()
                count = 0
                for vector in a[start : start + vpp]:
                    if scope == "vector":
                        table.clear()
                    values = vector[u * unit + first : u * unit + first + weights]
                    for bit in range(ba):
                        lookups += 1
                        pattern = tuple((int(x) >> bit) & 1 for x in values)
                        if pattern in table:
                            count += 1
                            if policy == "lru":
                                table.move_to_end(pattern)
                            continue
                        if len(table) == entries:
                            table.popitem(last=False)
                        table[pattern] = None
                hits[number, u, index] = count
    return lookups, hits


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.integers(1, 6),
    groups=st.integers(1, 3),
    group=st.sampled_from([16, 32]),
    nbw=st.integers(1, 8),
    ba=st.integers(4, 8),
    entries=st.sampled_from([1, 2, 3, 4, 7, 8, 32, 300]),
    scope=st.sampled_from(["vector", "group"]),
    policy=st.sampled_from(["lru", "fifo"]),
    vpp=st.integers(1, 6),
)
def test_pattern_reuse_table_matches_an_ordered_dict(
    seed: int, m: int, groups: int, group: int, nbw: int, ba: int, entries: int, scope: str, policy: str, vpp: int
) -> None:
    a = np.random.default_rng(seed).normal(size=(m, groups * group)) * 20
    a = np.clip(np.rint(a), -(1 << (ba - 1)), (1 << (ba - 1)) - 1).astype(np.int8)
    slots = [(first, min(nbw, group - first)) for first in range(0, group, nbw)]
    lookups, hits = pattern_reference(a, slots, group, ba, vpp, entries, scope, policy)
    got = engine.prt_hits(a, nbw, group, ba, entries, scope, policy, vpp)
    assert got == (lookups, sum(hits.values()))


@pytest.mark.parametrize("name", ["q4_0", "q5_1", "q2_K", "q4_K", "q6_K"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prt_scope": "group", "nbw": 2, "prt_entries": 3, "prt_policy": "fifo"},
        {"nbw": 3, "llc_link_bytes_per_cycle": 1, "fp32_add_cycles": 20, "fp32_mul_cycles": 20, "arrays_per_slice": 4},
    ],
)
def test_measured_hits_drive_cycles_and_counts(name: str, changes: dict[str, Any]) -> None:
    """run_matmul: every table's own hits on these activations, through the same formulas."""
    p = params(slices=3, tile_k=256, tile_n=256, **changes)
    f = FORMATS[name]
    m, n, k = 4, 300, 768
    rng = np.random.default_rng(17)
    blocks = random_blocks(name, n * k // f["block_elements"], rng, scale=0.01)
    x = (rng.normal(size=(m, k)) ** 3).astype(np.float32)
    device = engine.SramPim(p)
    _, r = device.run_matmul(blocks.tobytes(), name, n, k, x)
    plan = device.plan(m, n, k, name)
    a = engine.quantize_activations(x, f["activation"])["q"]
    slots = [(first, weights) for first, weights, _ in tables(f, plan["nbw"])]
    lookups, hits = pattern_reference(
        a, slots, f["block_elements"], 8, plan["vectors_per_pass"], p["prt_entries"], p["prt_scope"], p["prt_policy"]
    )
    assert r["hit_rate"] == sum(hits.values()) / lookups
    assert 0.05 < r["hit_rate"] < 0.95
    check_product(p, name, m, n, k, lambda number, unit, index: hits[number, unit, index], r["counters"])
    # The rate-driven estimate uses the mean, so it sees no maximum over arrays; it stays close.
    estimate = device.time_matmul(m, n, k, name, hit_rate=r["hit_rate"])
    assert estimate["compute_ps"] == pytest.approx(r["compute_ps"], rel=0.05)
    assert estimate["counters"]["prt_hits"] == pytest.approx(r["counters"]["prt_hits"], rel=0.02)


def test_hits_save_cycles_in_proportion() -> None:
    """Without overlap limits, h * lookups * (miss - hit) cycles vanish from the lookups."""
    p = params(llc_link_bytes_per_cycle=65536)
    device = engine.SramPim(p)
    none = device.time_matmul(2, 256, 64, "q4_0")
    half = device.time_matmul(2, 256, 64, "q4_0", hit_rate=0.5)
    assert half["counters"]["prt_hits"] * 2 == half["counters"]["lookups"] == none["counters"]["lookups"]
    saved = none["counters"]["lookup_cycles"] - half["counters"]["lookup_cycles"]
    assert saved == half["counters"]["prt_hits"] * (6 + 1 + 2 - 1)
    full = device.time_matmul(2, 256, 64, "q4_0", hit_rate=1.0)
    assert full["counters"]["lookup_cycles"] == full["counters"]["lookups"]


def test_hit_rates_that_cannot_be_are_errors() -> None:
    with pytest.raises(engine.ParamError, match=r"hit_rate = 1\.1"):
        engine.SramPim(params()).time_matmul(1, 1, 32, "q4_0", hit_rate=1.1)
    with pytest.raises(engine.ParamError, match="prt_enable is false"):
        engine.SramPim(params(prt_enable=False)).time_matmul(1, 1, 32, "q4_0", hit_rate=0.1)
    with pytest.raises(engine.ParamError, match="int8"):
        engine.prt_hits(np.ones((2, 32), np.int16), 4)
    with pytest.raises(engine.ParamError, match="multiple"):
        engine.prt_hits(np.ones((2, 33), np.int8), 4)

"""Quantisation of activations and counting of pattern reuse, against plain-Python simulations."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gempim.patterns.prt import GroupLookups, batch_sequences, group_patterns, lru_hits, n_groups
from gempim.patterns.quantize import quantize, round_trip


def simulate(integers: list[list[int]], nbw: int, bits: int, block: int, batch: int, entries: int) -> list[float]:
    """One PRT, one lookup at a time, in the stated order; the table holds (group, pattern) and is never emptied."""
    k = len(integers[0])
    groups = []
    for start in range(0, k, block):
        stop = min(start + block, k)
        groups += [range(at, min(at + nbw, stop)) for at in range(start, stop, nbw)]
    rates = []
    for first in range(0, len(integers), batch):
        table: OrderedDict[tuple[int, str], None] = OrderedDict()
        hits = lookups = 0
        for number, group in enumerate(groups):
            for vector in integers[first : first + batch]:
                words = [format(vector[at] % (1 << bits), f"0{bits}b") for at in group]
                for bit in range(bits):
                    key = (number, "".join(word[-1 - bit] for word in words))
                    lookups += 1
                    if key in table:
                        hits += 1
                        table.move_to_end(key)
                    else:
                        table[key] = None
                        if len(table) > entries:
                            table.popitem(last=False)
        rates.append(hits / lookups)
    return rates


def random_integers(seed: int, m: int, k: int, bits: int) -> np.ndarray:
    """Bell-shaped, as activations are, so that patterns do repeat."""
    limit = 2 ** (bits - 1) - 1
    rng = np.random.default_rng(seed)
    return np.clip(np.rint(rng.normal(0, limit / 4, (m, k))), -limit, limit).astype(np.int8)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    nbw=st.integers(1, 8),
    bits=st.integers(4, 8),
    batch=st.sampled_from([1, 2, 4, 8]),
    k=st.sampled_from([32, 50, 96, 288]),
    block=st.sampled_from([32, 256]),
    entries=st.sampled_from([(1,), (3, 32), (4, 8, 16, 64), (32,)]),
)
def test_hit_rates_equal_a_lookup_by_lookup_simulation(
    seed: int, nbw: int, bits: int, batch: int, k: int, block: int, entries: tuple[int, ...]
) -> None:
    integers = random_integers(seed, 8, k, bits)
    counted = GroupLookups(integers, nbw, bits, block).hit_rates(batch, entries)
    for row, size in enumerate(entries):
        assert counted[row] == pytest.approx(simulate(integers.tolist(), nbw, bits, block, batch, size), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.integers(2, 256), entries=st.sampled_from([1, 4, 32, 100]))
def test_lru_of_byte_patterns_that_use_the_empty_marker(seed: int, spread: int, entries: int) -> None:
    """255 marks an empty level inside lru_hits, so sequences around 255 are the dangerous ones."""
    rng = np.random.default_rng(seed)
    sequences = rng.integers(256 - spread, 256, (5, 3, 120)).astype(np.uint8)
    counted = lru_hits(sequences, entries)
    for at in np.ndindex(5, 3):
        table: OrderedDict[int, None] = OrderedDict()
        hits = 0
        for pattern in sequences[at].tolist():
            hits += pattern in table
            table.pop(pattern, None)
            table[pattern] = None
            if len(table) > entries:
                table.popitem(last=False)
        assert counted[at] == hits


def test_lru_over_more_lanes_than_one_stretch() -> None:
    sequences = np.random.default_rng(5).integers(0, 16, (16384 + 37, 12)).astype(np.uint8)
    whole = lru_hits(sequences, 4)
    assert np.array_equal(whole[-60:], lru_hits(sequences[-60:], 4))
    assert 0 < whole.mean() < 12


def test_pattern_bits_are_twos_complement_lsb_first() -> None:
    # -3 = 1101, 5 = 0101 at 4 bits: from the least significant bit up, element 0 is bit 0 of the pattern.
    integers = np.array([[-3, 5, -8 + 1]], dtype=np.int8)  # -7 = 1001
    assert group_patterns(integers, 2, 4, 32)[0].tolist() == [[0b11, 0b00, 0b11, 0b01], [1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("k", "nbw", "block", "groups"), [(64, 4, 32, 16), (64, 3, 32, 22), (576, 5, 256, 52 + 52 + 13), (50, 7, 32, 8)]
)
def test_groups_restart_at_scale_blocks(k: int, nbw: int, block: int, groups: int) -> None:
    assert n_groups(k, nbw, block) == groups
    assert group_patterns(random_integers(1, 2, k, 8), nbw, 8, block).shape == (2, groups, 8)


def test_sixteen_entries_hold_all_patterns_of_four_weights_and_fifteen_do_not() -> None:
    nbw, bits, batch = 4, 6, 8
    uniform = np.random.default_rng(3).integers(-32, 32, (8, 256)).astype(np.int8)
    lookups = GroupLookups(uniform, nbw, bits, 32)
    fifteen, sixteen, many = lookups.hit_rates(batch, (15, 16, 64))[:, 0]
    assert fifteen < sixteen == many


def test_bad_requests_are_named() -> None:
    integers = random_integers(2, 6, 64, 6)
    with pytest.raises(ValueError, match=r"nbw: expected 1\.\.8, got 9"):
        group_patterns(integers, 9, 6, 32)
    with pytest.raises(ValueError, match="expected 4-bit integers"):
        group_patterns(integers, 4, 4, 32)
    with pytest.raises(ValueError, match="batch: expected a divisor of 6"):
        GroupLookups(integers, 4, 6, 32).hit_rates(4, (32,))
    with pytest.raises(ValueError, match="batch: expected a divisor of 6"):
        batch_sequences(group_patterns(integers, 4, 6, 32), 4)
    with pytest.raises(ValueError, match="entries"):
        lru_hits(np.zeros((1, 4), dtype=np.uint8), 0)
    with pytest.raises(ValueError, match=r"activation bits: expected 4\.\.8, got 3"):
        quantize(np.ones((1, 32), dtype=np.float32), "block32", 3)
    with pytest.raises(ValueError, match="quantisation kind"):
        quantize(np.ones((1, 32), dtype=np.float32), "block64", 8)


def naive_block(values: list[np.float32], kind: str, bits: int) -> tuple[list[int], float]:
    qmax = np.float32(2 ** (bits - 1) - 1)
    largest = np.float32(0)
    for value in values:
        if abs(value) > abs(largest):
            largest = value
    if largest == 0:
        return [0] * len(values), 0.0
    if kind == "block32":
        scale = abs(largest) / qmax
        inverse = np.float32(1) / scale
    else:
        inverse = -qmax / largest
        scale = np.float32(1) / inverse
    return [round(float(np.float32(value * inverse))) for value in values], float(scale)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["block32", "block256"]),
    bits=st.integers(4, 8),
    k=st.sampled_from([32, 70, 300, 512]),
)
def test_quantise_equals_a_scalar_loop(seed: int, kind: str, bits: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_t(3, (2, k)).astype(np.float32)
    x[1, :32] = 0
    integers, scales = quantize(x, kind, bits)
    length = 32 if kind == "block32" else 256
    for row in range(2):
        for number, start in enumerate(range(0, k, length)):
            expected, scale = naive_block(list(x[row, start : start + length]), kind, bits)
            assert integers[row, start : start + length].tolist() == expected
            assert scales[row, number] == np.float32(scale)


def test_block256_maps_the_largest_magnitude_to_minus_qmax() -> None:
    x = np.random.default_rng(8).normal(0, 1, (1, 256)).astype(np.float32)
    x[0, 77] = 9.0
    integers, scales = quantize(x, "block256", 8)
    assert integers[0, 77] == -127
    assert scales[0, 0] < 0
    assert quantize(x, "block32", 8)[0][0, 77] == 127


def test_q8_0_integers_equal_the_gguf_package() -> None:
    """8-bit block32 is llama.cpp's q8_0; the gguf package packs it independently (2 bytes of scale, 32 integers)."""
    import gguf

    x = np.random.default_rng(4).standard_t(4, (3, 128)).astype(np.float32)
    packed = gguf.quantize(x, gguf.GGMLQuantizationType.Q8_0).reshape(3, 4, 34)
    integers, scales = quantize(x, "block32", 8)
    assert np.array_equal(packed[..., 2:].copy().view(np.int8).reshape(3, 128), integers)
    assert np.array_equal(packed[..., :2].copy().view(np.float16)[..., 0], scales.astype(np.float16))
    assert np.array_equal(round_trip(x, "q8_0"), gguf.dequantize(packed.reshape(3, -1), gguf.GGMLQuantizationType.Q8_0))


def test_round_trip_formats() -> None:
    x = np.random.default_rng(6).normal(0, 1, (2, 256)).astype(np.float32)
    assert np.array_equal(round_trip(x, "f32"), x)
    assert np.array_equal(round_trip(x, "f16"), x.astype(np.float16).astype(np.float32))
    step = np.abs(x).max(axis=1, keepdims=True) / 127
    error = np.abs(round_trip(x, "q8_K") - x)
    assert (error <= step * 0.5001).all()
    assert error.max() > step.min() * 0.3

# SPDX-License-Identifier: BSD-3-Clause
"""What the SRAM-PIM computes: integers bit-exact, floats within the bound that multiply.hh states.

The reference multiplies with numpy in 64-bit integers and float64; it shares nothing with the lookup-table simulation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pim_reference import FORMATS, HALF_OFFSETS, params, random_blocks

from gempim import _engine as engine


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    bw=st.integers(2, 8),
    ba=st.integers(4, 8),
    nbw=st.integers(1, 4),
    m=st.integers(1, 5),
    n=st.integers(1, 600),
    k=st.integers(1, 200),
    signed=st.booleans(),
)
def test_every_weight_and_activation_width_is_bit_exact(
    seed: int, bw: int, ba: int, nbw: int, m: int, n: int, k: int, signed: bool
) -> None:
    rng = np.random.default_rng(seed)
    low = -(1 << (bw - 1)) if signed else 0
    w = rng.integers(low, low + (1 << bw), size=(n, k)).astype(np.int8 if signed else np.uint8)
    a = rng.integers(-(1 << (ba - 1)), 1 << (ba - 1), size=(m, k)).astype(np.int8)
    out, _ = engine.SramPim(params(nbw=nbw)).run_int_gemv(w, a, bw, ba)
    np.testing.assert_array_equal(out, a.astype(np.int64) @ w.astype(np.int64).T)


@pytest.mark.parametrize("nbw", range(1, 9))
def test_extreme_values_fit_the_entry_and_accumulator_widths(nbw: int) -> None:
    """All weights and activations at the ends of their ranges: one bit less anywhere would wrap around."""
    for low_w, dtype in ((-2, np.int8), (0, np.uint8)):
        ends = np.array([[low_w] * 96, [low_w + 3] * 96, [low_w, low_w + 3] * 48])
        a = np.array([[-128] * 96, [127] * 96, [-128, 127] * 48]).astype(np.int8)
        device = engine.SramPim(params(nbw=nbw, array_rows=4096, arrays_take_llc_capacity=False))
        out, _ = device.run_int_gemv(ends.astype(dtype), a, 2, 8)
        np.testing.assert_array_equal(out, a.astype(np.int64) @ ends.T)
    for low_w, dtype in ((-128, np.int8), (0, np.uint8)):
        ends = np.array([[low_w] * 64, [low_w + 255] * 64])
        a = np.array([[-128] * 64, [127] * 64]).astype(np.int8)
        device = engine.SramPim(params(nbw=nbw, array_rows=4096, arrays_take_llc_capacity=False))
        out, _ = device.run_int_gemv(ends.astype(dtype), a, 8, 8)
        np.testing.assert_array_equal(out, a.astype(np.int64) @ ends.T)


def reference(name: str, blocks: np.ndarray, x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(result, sum of magnitudes of all terms), float64 [m, n], from the integer view of weights and activations."""
    f = FORMATS[name]
    n, units = blocks.shape[:2]
    elements, sub = f["block_elements"], f["sub_elements"]
    view = engine.decode_blocks(blocks.tobytes(), name)
    a = engine.quantize_activations(x, f["activation"], bits)
    m = x.shape[0]
    aq = a["q"].astype(np.int64).reshape(m, units, elements // sub, sub)
    wq = view["q"].astype(np.int64).reshape(n, units, elements // sub, sub)
    dots = np.einsum("mucs,nucs->mnuc", aq, wq)
    d_w = view["d"].astype(np.float64).reshape(n, units)[None]
    d_a = a["d"].astype(np.float64).reshape(m, units)[:, None]
    if f["sub_scale_bits"]:
        dots = dots * view["scale"].astype(np.int64).reshape(n, units, -1)[None]
    terms = dots.sum(axis=3) * d_w * d_a
    result, magnitude = terms.sum(axis=2), np.abs(terms).sum(axis=2)
    if f["has_min"]:
        m_w = view["m"].astype(np.float64).reshape(n, units)[None]
        if f["sub_min_bits"]:
            mins = (aq.sum(axis=3)[:, None] * view["min"].astype(np.int64).reshape(n, units, -1)[None]).sum(axis=3)
            minima = -mins * m_w * d_a
        else:
            minima = m_w * a["s"].astype(np.float64).reshape(m, units)[:, None]
        result, magnitude = result + minima.sum(axis=2), magnitude + np.abs(minima).sum(axis=2)
    return result, magnitude


def check_against_reference(name: str, m: int, n: int, k: int, seed: int, **changes: Any) -> None:
    rng = np.random.default_rng(seed)
    f = FORMATS[name]
    units = k // f["block_elements"]
    blocks = random_blocks(name, n * units, rng, scale=0.02).reshape(n, units, -1)
    x = rng.normal(size=(m, k)).astype(np.float32)
    device = engine.SramPim(params(**changes))
    out, timing = device.run_matmul(blocks.tobytes(), name, n, k, x)
    expected, magnitude = reference(name, blocks, x, changes.get("activation_bits", 8))
    g = timing["rounding_steps"] * 2.0**-24
    assert np.all(np.abs(out - expected) <= g / (1 - g) * magnitude + 1e-30)
    # The bound is not vacuous: it is far below the results themselves.
    assert np.median(np.abs(expected)) > 100 * np.median(g * magnitude)


@pytest.mark.parametrize("name", sorted(HALF_OFFSETS))
def test_every_ggml_type_is_within_the_stated_bound(name: str) -> None:
    check_against_reference(name, m=5, n=300, k=768, seed=3, nbw=3)
    check_against_reference(name, m=2, n=33, k=1536, seed=4, nbw_auto=True, slices=3, tile_k=512, tile_n=256)


@pytest.mark.parametrize("name", sorted(HALF_OFFSETS))
def test_integer_sums_are_exact_when_scales_are_powers_of_two(name: str) -> None:
    """With d = 2^-4 (and minima 2^-3) and short rows every fp32 operation is exact, so one wrong integer would show."""
    rng = np.random.default_rng(9)
    f = FORMATS[name]
    n, m, k = 270, 3, f["block_elements"]
    blocks = random_blocks(name, n, rng)
    for i, offset in enumerate(HALF_OFFSETS[name]):
        blocks[:, offset : offset + 2] = np.full(n, [2.0**-4, 2.0**-3][i], "<f2").view(np.uint8).reshape(n, 2)
    x = rng.integers(-127, 128, size=(m, k)).astype(np.float32)
    x[:, ::32] = 127.0  # d_a = 1 (q8_K: -1): activations are their own quantised values
    out, _ = engine.SramPim(params(nbw=3)).run_matmul(blocks.tobytes(), name, n, k, x)
    expected, _ = reference(name, blocks.reshape(n, 1, -1), x, 8)
    if f["activation"] == "q8_1":
        # s is rounded to fp16, which the reference knows.
        np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-3)
        return
    exact = np.abs(expected) < 2**20
    assert exact.mean() > 0.5
    np.testing.assert_array_equal(out[exact], expected[exact])


@pytest.mark.parametrize(
    ("name", "m", "n", "k"),
    [("q4_0", 1, 1, 32), ("q4_1", 40, 3, 576), ("q5_1", 2, 257, 1536), ("q8_0", 1, 64, 11008), ("q6_K", 7, 255, 256)],
)
def test_odd_shapes(name: str, m: int, n: int, k: int) -> None:
    check_against_reference(name, m, n, k, seed=m * n + k, nbw=2)


def test_small_activation_widths_follow_their_quantisation() -> None:
    for bits in (4, 5, 6, 7):
        check_against_reference("q4_0", m=3, n=70, k=192, seed=bits, activation_bits=bits)
        check_against_reference("q4_K", m=3, n=70, k=512, seed=bits, activation_bits=bits)


def test_values_do_not_depend_on_where_conversion_happens_or_on_pattern_reuse() -> None:
    rng = np.random.default_rng(21)
    blocks = random_blocks("q5_K", 40 * 2, rng, scale=0.02)
    x = rng.normal(size=(4, 512)).astype(np.float32)
    one_way_to_cut = params(slices=1, tile_k=256, tile_n=256)  # so that the order of additions is the same
    results = [
        engine.SramPim({**one_way_to_cut, **c}).run_matmul(blocks.tobytes(), "q5_K", 40, 512, x)[0]
        for c in ({}, {"convert_in_memory": False}, {"prt_enable": False}, {"prt_scope": "group", "nbw": 3})
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_bad_calls_name_what_is_wrong() -> None:
    device = engine.SramPim(params())
    x = np.ones((1, 64), np.float32)
    with pytest.raises(engine.ParamError, match="weights: 17 bytes, expected 36"):
        device.run_matmul(bytes(17), "q4_0", 1, 64, x)
    with pytest.raises(engine.ParamError, match="expected k = 96"):
        device.run_matmul(bytes(54), "q4_0", 1, 96, x)
    with pytest.raises(engine.ParamError, match="multiple of the block of 256"):
        device.run_matmul(bytes(54), "q4_K", 1, 64, x)
    with pytest.raises(engine.ParamError, match="float32"):
        device.run_matmul(bytes(36), "q4_0", 1, 64, x.astype(np.float64))
    with pytest.raises(engine.ParamError, match="not a block format"):
        device.time_matmul(1, 1, 64, "iq3_xxs")
    assert device.counters()["rejected_commands"] == 2
    w = np.array([[3]], np.int8)
    with pytest.raises(engine.ParamError, match="3 does not fit in 2 bits"):
        device.run_int_gemv(w, np.ones((1, 1), np.int8), 2)
    with pytest.raises(engine.ParamError, match="-9 does not fit in 4 bits"):
        device.run_int_gemv(w, np.full((1, 1), -9, np.int8), 4, 4)
    with pytest.raises(engine.ParamError, match="allowed are 2 to 8"):
        device.run_int_gemv(w, np.ones((1, 1), np.int8), 9)
    with pytest.raises(engine.ParamError, match="inner extents differ"):
        device.run_int_gemv(w, np.ones((1, 2), np.int8), 4)

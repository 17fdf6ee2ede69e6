# SPDX-License-Identifier: BSD-3-Clause
"""The integer view of ggml's block formats and its activation quantisation, against `gguf` and re-derivations.

Random bytes for every type (all-zero blocks have hidden layout errors in other projects).
"""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pim_reference import FORMATS, HALF_OFFSETS, random_blocks

from gempim import _engine as engine

LEGACY = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]


def test_formats_are_exactly_those_of_the_issue_with_ggmls_sizes() -> None:
    assert set(FORMATS) == set(HALF_OFFSETS)
    for name, f in FORMATS.items():
        elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name.upper()]]
        assert (f["block_elements"], f["block_bytes"]) == (elements, size)


@pytest.mark.parametrize("name", sorted(HALF_OFFSETS))
def test_decode_matches_the_gguf_package_on_random_bytes(name: str) -> None:
    """Every byte offset and scale magnitude, subnormals included; bit-exact because the operation order is ggml's."""
    blocks = random_blocks(name, 400, np.random.default_rng(len(name) * 7 + ord(name[1])))
    expected = gguf.dequantize(blocks.reshape(-1), gguf.GGMLQuantizationType[name.upper()]).reshape(-1)
    np.testing.assert_array_equal(engine.dequantize(blocks.tobytes(), name), expected)


@pytest.mark.parametrize("name", sorted(HALF_OFFSETS))
def test_integers_have_the_stated_width_and_give_the_same_reals(name: str) -> None:
    """What the arrays store: q in its bit width, and d * scale * q - dmin * min (or d * q + m) is the weight."""
    f = FORMATS[name]
    blocks = random_blocks(name, 200, np.random.default_rng(11), scale=0.01)
    view = engine.decode_blocks(blocks.tobytes(), name)
    q = view["q"].astype(np.int64)
    low = -(1 << (f["weight_bits"] - 1)) if f["weight_signed"] else 0
    assert q.min() == low, "random blocks reach the end of the range"
    assert q.max() == low + (1 << f["weight_bits"]) - 1
    d = view["d"].astype(np.float64)[:, None]
    m = view["m"].astype(np.float64)[:, None]
    if name in LEGACY:
        real = d * q + m
    else:
        scale = np.repeat(view["scale"].astype(np.int64), f["sub_elements"], axis=1)
        real = d * scale * q
        if f["sub_min_bits"]:
            real = real - m * np.repeat(view["min"].astype(np.int64), f["sub_elements"], axis=1)
            assert view["min"].max() == (1 << f["sub_min_bits"]) - 1
        bits = f["sub_scale_bits"]
        signed = name in ("q3_K", "q6_K")
        assert view["scale"].max() <= ((1 << (bits - 1)) - 1 if signed else (1 << bits) - 1)
        assert view["scale"].min() >= (-(1 << (bits - 1)) if signed else 0)
    expected = gguf.dequantize(blocks.reshape(-1), gguf.GGMLQuantizationType[name.upper()]).reshape(q.shape)
    np.testing.assert_allclose(real, expected, rtol=3e-7, atol=1e-6)


def test_wrong_bytes_and_names_are_errors_that_say_what_is_expected() -> None:
    with pytest.raises(engine.ParamError, match=r"q7_7.*allowed are q4_0"):
        engine.dequantize(b"", "q7_7")
    with pytest.raises(engine.ParamError, match="multiple of 18"):
        engine.dequantize(bytes(19), "q4_0")


# --- activations ---


def round_half_away(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.floor(np.abs(x) + np.float32(0.5))


def activations(rng: np.random.Generator, m: int, k: int) -> np.ndarray:
    """Magnitudes over several decades, with outliers, as activations of a language model have."""
    x = rng.normal(size=(m, k)) * 10.0 ** rng.uniform(-3, 2, size=(m, 1))
    x[rng.random((m, k)) < 0.01] *= 30
    return x.astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), bits=st.integers(4, 8))
def test_q8_0_and_q8_1_are_ggmls(seed: int, bits: int) -> None:
    x = activations(np.random.default_rng(seed), 3, 96)
    q_max = np.float32((1 << (bits - 1)) - 1)
    blocks = x.reshape(3, 3, 32)
    d = np.abs(blocks).max(axis=2) / q_max
    inverse = np.float32(1) / d
    q = round_half_away(blocks * inverse[..., None])
    got = engine.quantize_activations(x, "q8_0", bits)
    np.testing.assert_array_equal(got["q"], q.reshape(3, 96))
    np.testing.assert_array_equal(got["d"], d.astype(np.float16).astype(np.float32))
    got = engine.quantize_activations(x, "q8_1", bits)
    np.testing.assert_array_equal(got["q"], q.reshape(3, 96))
    # The sum takes the scale before it is rounded to fp16.
    s = (q.sum(axis=2).astype(np.float32) * d).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(got["s"], s)


def test_q8_0_is_bit_exact_with_the_gguf_package() -> None:
    x = activations(np.random.default_rng(5), 40, 256)
    packed = gguf.quantize(x, gguf.GGMLQuantizationType.Q8_0).reshape(-1, 34)
    got = engine.quantize_activations(x, "q8_0")
    np.testing.assert_array_equal(got["q"].reshape(-1, 32), packed[:, 2:].view(np.int8))
    np.testing.assert_array_equal(got["d"].reshape(-1, 1), packed[:, :2].copy().view("<f2").astype(np.float32))


def test_ties_round_as_ggml_does() -> None:
    """q8_0: halves away from zero; q8_K: halves to even, and the sign convention of the largest element."""
    x = np.zeros((1, 256), np.float32)
    x[0, 0] = 127.0
    x[0, 1:7] = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5]
    away = engine.quantize_activations(x, "q8_0")
    assert away["q"][0, :7].tolist() == [127, 1, 2, 3, -1, -2, -3]
    even = engine.quantize_activations(x, "q8_K")
    assert even["q"][0, :7].tolist() == [-127, 0, -2, -2, 0, 2, 2]
    assert even["d"][0, 0] == np.float32(-1.0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), bits=st.integers(4, 8))
def test_q8_k_is_ggmls(seed: int, bits: int) -> None:
    x = activations(np.random.default_rng(seed), 2, 512)
    q_max = np.float32((1 << (bits - 1)) - 1)
    blocks = x.reshape(4, 256)
    largest = blocks[np.arange(4), np.abs(blocks).argmax(axis=1)]  # the first of equals
    iscale = -q_max / largest
    q = np.minimum(q_max, np.rint(iscale[:, None] * blocks))
    got = engine.quantize_activations(x, "q8_K", bits)
    np.testing.assert_array_equal(got["q"].reshape(4, 256), q)
    np.testing.assert_array_equal(got["d"].reshape(4), np.float32(1) / iscale)
    np.testing.assert_array_equal(got["sums"].reshape(4, 16), q.reshape(4, 16, 16).sum(axis=2))


def test_largest_element_of_equal_magnitude_is_the_first() -> None:
    x = np.full((1, 256), 0.25, np.float32)
    x[0, 10], x[0, 20] = -3.0, 3.0
    got = engine.quantize_activations(x, "q8_K")
    assert (got["q"][0, 10], got["q"][0, 20]) == (-127, 127)
    assert got["d"][0, 0] > 0


@pytest.mark.parametrize("kind", ["q8_0", "q8_1", "q8_K"])
def test_a_silent_block_is_zero_and_bad_values_are_errors(kind: str) -> None:
    x = np.zeros((1, 512), np.float32)
    x[0, 256:] = 1.0
    got = engine.quantize_activations(x, kind)
    assert not got["q"][0, :256].any()
    assert got["d"].reshape(2, -1)[0].max() == 0
    assert np.abs(got["q"][0, 256:].astype(int)).min() == 127
    x[0, 3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        engine.quantize_activations(x, kind)
    with pytest.raises(ValueError, match="multiple of the block"):
        engine.quantize_activations(np.ones((1, 40), np.float32), kind)
    with pytest.raises(engine.ParamError, match="float32"):
        engine.quantize_activations(np.ones((1, 256)), kind)
    with pytest.raises(ValueError, match="allowed are 2 to 8"):
        engine.quantize_activations(np.ones((1, 256), np.float32), kind, 9)

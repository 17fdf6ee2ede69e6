"""llama.cpp's activation block formats, and the same scheme at 4..7 bits.

Source of the 8-bit rules: ggml-org/llama.cpp, ggml-quants.c (quantize_row_q8_0_ref, quantize_row_q8_1_ref,
quantize_row_q8_K_ref); rounding is to nearest, ties to even, as its vector kernels do.

q8_0 and q8_1 hold the same integers (q8_1 adds the block sum), so both are the kind "block32". q8_K is "block256": its
scale has the sign that maps the element of largest magnitude to -qmax, so its bit patterns differ from block32's.
At b bits the largest magnitude is qmax = 2^(b-1) - 1, of which 127 is the case b = 8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gempim.patterns.stats import KIND_OF_ACTIVATION_TYPE

BLOCK_LENGTH = {"block32": 32, "block256": 256}
"""Quantisation kind -> elements that share one scale."""

ACTIVATION_TYPE_OF_WEIGHT = {
    "f32": "f32",
    "f16": "f16",
    "q4_0": "q8_0",
    "q5_0": "q8_0",
    "q8_0": "q8_0",
    "q4_1": "q8_1",
    "q5_1": "q8_1",
    "q2_k": "q8_K",
    "q3_k": "q8_K",
    "q4_k": "q8_K",
    "q5_k": "q8_K",
    "q6_k": "q8_K",
}
"""Weight type (lower case) -> activation format of llama.cpp's CPU backend (its type traits' vec_dot_type)."""

MIN_BITS, MAX_BITS = 4, 8


def qmax_of(bits: int) -> int:
    """Largest integer magnitude at ``bits`` bits; ValueError outside 4..8."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"activation bits: expected {MIN_BITS}..{MAX_BITS}, got {bits}")
    return int(2 ** (bits - 1) - 1)


def quantize(x: NDArray[np.float32], kind: str, bits: int = 8) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise activations [m, k] along k; returns (integers int8 [m, k], scales float32 [m, blocks]).

    x is approximately integers * scale. When the block length does not divide k the last block is short; llama.cpp
    never does that (it picks another weight type for such a tensor), here it lets "block256" be measured at any k.
    A block of zeros has scale 0 and integers 0. Raises ValueError for an unknown kind or for bits outside 4..8.
    """
    if kind not in BLOCK_LENGTH:
        raise ValueError(f"quantisation kind: expected one of {', '.join(BLOCK_LENGTH)}, got {kind!r}")
    qmax = np.float32(qmax_of(bits))
    m, k = x.shape
    length = BLOCK_LENGTH[kind]
    blocks = -(-k // length)
    padded = np.zeros((m, blocks * length), dtype=np.float32)
    padded[:, :k] = x
    tiles = padded.reshape(m, blocks, length)
    largest_at = np.argmax(np.abs(tiles), axis=-1)[..., None]
    largest = np.take_along_axis(tiles, largest_at, axis=-1)
    with np.errstate(divide="ignore"):
        if kind == "block32":
            scale = np.abs(largest) / qmax
            inverse = np.where(scale > 0, np.float32(1) / scale, np.float32(0))
        else:
            inverse = np.where(largest != 0, -qmax / largest, np.float32(0))
            scale = np.where(largest != 0, np.float32(1) / inverse, np.float32(0))
    integers = np.clip(np.rint(tiles * inverse), -qmax, qmax).astype(np.int8).reshape(m, -1)[:, :k]
    return np.ascontiguousarray(integers), scale[..., 0].astype(np.float32)


def round_trip(x: NDArray[np.float32], activation_type: str) -> NDArray[np.float32]:
    """The float32 values llama.cpp's kernels effectively multiply with: quantise [m, k] and expand again.

    ``activation_type``: "f32" (unchanged), "f16" (rounded), "q8_0"/"q8_1" (float16 scale), "q8_K" (float32 scale).
    """
    if activation_type == "f32":
        return x
    if activation_type == "f16":
        return x.astype(np.float16).astype(np.float32)
    kind = KIND_OF_ACTIVATION_TYPE[activation_type]
    integers, scale = quantize(x, kind)
    if kind == "block32":
        scale = scale.astype(np.float16).astype(np.float32)
    per_element = np.repeat(scale, BLOCK_LENGTH[kind], axis=-1)[:, : x.shape[1]]
    return integers.astype(np.float32) * per_element

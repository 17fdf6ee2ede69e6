"""Random weights, made directly as ggml's quantised blocks: nothing is ever quantised, so gigabytes take seconds.

A block starts as random bytes, which are valid quants as they are; only its scale fields are then brought into a range
such that the dequantised weights have mean 0 and standard deviation `WEIGHT_STD`, uniform within a block.
Block layouts: ggml-common.h and the dequantize_row_* functions of ggml-quants.c (llama.cpp at 007dbbf3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from zlib import crc32

import numpy as np

from gempim.models.ggml import BLOCKS

WEIGHT_STD = 0.02
"""Standard deviation of the weights: what Llama checkpoints are initialised with (initializer_range)."""

CHUNK_BYTES = 8 << 20
"""About how many bytes are made at a time; bounds the memory."""

Blocks = np.ndarray
"""uint8, one block a row."""

# Scales differ by a quarter from block to block, so that a block read from the wrong place shows.
_LEAST, _SPREAD = 0.75, 0.5


def random_tensor(name: str, ggml_type: str, elements: int, seed: int) -> Iterator[bytes]:
    """The data of a tensor of random weights, in pieces of about `CHUNK_BYTES`.

    `elements` is a multiple of the type's block. The bytes depend on `name`, `ggml_type`, `elements` and `seed` alone:
    a file of more layers has the same first ones. Only the raw output of numpy's SFC64 is used, which is the same in
    every version of numpy.
    """
    make = _MAKERS[ggml_type]
    block, size = BLOCKS[ggml_type]
    left = elements // block
    # A multiple of 8 blocks, so that every chunk but the last is whole 64-bit numbers.
    chunk = max(CHUNK_BYTES // size // 8 * 8, 8)
    source = np.random.SFC64(np.random.SeedSequence([seed, crc32(name.encode())]))
    while left:
        count = min(chunk, left)
        words = np.asarray(source.random_raw(-(-count * size // 8)), dtype="<u8")
        yield make(words.view(np.uint8)[: count * size].reshape(count, size)).tobytes()
        left -= count


def ones(elements: int) -> bytes:
    """The data of an f32 vector of ones: the weights of an RMSNorm that scales nothing."""
    return np.ones(elements, dtype="<f4").tobytes()


def _mean_square(values: Iterable[float]) -> float:
    return float(np.mean(np.square(np.array(list(values), dtype=float))))


def _centred(levels: int) -> float:
    """Mean square of `levels` equally likely quants with their middle at 0."""
    return _mean_square(q - (levels - 1) / 2 for q in range(levels))


def _set_scale(blocks: Blocks, at: int, mean_square: float, *, signed: bool = False) -> np.ndarray:
    """Make the 16 random bits at byte `at` an f16 scale of weights whose mean square at scale 1 is `mean_square`.

    Returns the scales, f32. With `signed` half of them are negative, which gives mean 0 to types whose levels are not
    symmetric (q4_0 has -8 to 7).
    """
    bits = np.ascontiguousarray(blocks[:, at : at + 2]).view("<u2")[:, 0]
    spread = (1 + _SPREAD**2 / 12) * mean_square
    factor = (bits & 0x7FFF).astype(np.float32) * np.float32(_SPREAD / 0x8000) + np.float32(_LEAST)
    scale = factor * np.float32(WEIGHT_STD / np.sqrt(spread))
    if signed:
        scale = np.where(bits & 0x8000, -scale, scale)
    return _set_f16(blocks, at, scale)


def _set_f16(blocks: Blocks, at: int, values: np.ndarray) -> np.ndarray:
    stored = values.astype("<f2")
    blocks[:, at : at + 2] = stored[:, None].view(np.uint8)
    return stored.astype(np.float32)


def _symmetric(levels: int) -> Callable[[Blocks], Blocks]:
    """q4_0, q5_0: weight = d * (q - levels / 2)."""

    def make(blocks: Blocks) -> Blocks:
        _set_scale(blocks, 0, _mean_square(range(-levels // 2, levels // 2)), signed=True)
        return blocks

    return make


def _with_minimum(levels: int) -> Callable[[Blocks], Blocks]:
    """q4_1, q5_1: weight = d * q + m."""

    def make(blocks: Blocks) -> Blocks:
        scale = _set_scale(blocks, 0, _centred(levels))
        _set_f16(blocks, 2, scale * np.float32(-(levels - 1) / 2))
        return blocks

    return make


def _q8_0(blocks: Blocks) -> Blocks:
    quants = blocks[:, 2:].view(np.int8)
    # llama.cpp's quantiser makes -127 to 127, and kernels may rely on it.
    np.maximum(quants, -127, out=quants)
    _set_scale(blocks, 0, _mean_square([-127, *range(-127, 128)]))
    return blocks


def _q2_k(blocks: Blocks) -> Blocks:
    # A byte a sub-block: scale (low) and minimum (high nibble). Equal ones, with dmin 1.5 d, centre every sub-block.
    scales = blocks[:, :16] & 0x07 | 0x08
    blocks[:, :16] = scales | scales << 4
    scale = _set_scale(blocks, 80, _centred(4) * _mean_square(range(8, 16)))
    _set_f16(blocks, 82, scale * np.float32(1.5))
    return blocks


def _q3_k(blocks: Blocks) -> Blocks:
    # 16 scales of 6 bits, stored plus 32; the upper two bits of four of them are one byte. Equal upper bits leave the
    # scales -32 to -17 and 16 to 31: none is near 0, and the signs make the mean 0.
    upper = blocks[:, 104:108] & 0x55
    blocks[:, 104:108] = upper | upper << 1
    scales = [*range(-32, -16), *range(16, 32)]
    _set_scale(blocks, 108, _mean_square(range(-4, 4)) * _mean_square(scales))
    return blocks


def _q4_k_or_q5_k(levels: int) -> Callable[[Blocks], Blocks]:
    """q4_k, q5_k: weight = d * scale * q - dmin * minimum."""

    def make(blocks: Blocks) -> Blocks:
        # 8 scales and 8 minima of 6 bits in 12 bytes (get_scale_min_k4). Both are made 32 to 63, and minimum = scale
        # with dmin = d * (levels - 1) / 2 centres every sub-block.
        blocks[:, 4:8] |= 0xA0
        blocks[:, 8:12] = blocks[:, 4:8]
        low = blocks[:, 12:16] & 0x0F
        blocks[:, 12:16] = low | low << 4
        scale = _set_scale(blocks, 0, _centred(levels) * _mean_square(range(32, 64)))
        _set_f16(blocks, 2, scale * np.float32((levels - 1) / 2))
        return blocks

    return make


def _q6_k(blocks: Blocks) -> Blocks:
    # Scales are int8; bit 6 unlike the sign leaves 64 to 127 and -128 to -65.
    scales = blocks[:, 192:208]
    blocks[:, 192:208] = scales & 0xBF | ~scales >> 1 & 0x40
    allowed = [*range(-128, -64), *range(64, 128)]
    _set_scale(blocks, 208, _mean_square(range(-32, 32)) * _mean_square(allowed))
    return blocks


def _uniform(blocks: Blocks, bits: int) -> np.ndarray:
    """Uniform f32 weights from the upper `bits` of every element's random bits."""
    width = blocks.shape[1]
    integers = blocks.reshape(-1).view(f"<i{width}") >> (8 * width - bits)
    step = np.float32(WEIGHT_STD * np.sqrt(12) / (1 << bits))
    return (integers.astype(np.float32) + np.float32(0.5)) * step


def _f32(blocks: Blocks) -> np.ndarray:
    return _uniform(blocks, 24).astype("<f4", copy=False)


def _f16(blocks: Blocks) -> np.ndarray:
    return _uniform(blocks, 16).astype("<f2")


def _bf16(blocks: Blocks) -> np.ndarray:
    return (_uniform(blocks, 16).view(np.uint32) >> 16).astype("<u2")


_MAKERS: dict[str, Callable[[Blocks], np.ndarray]] = {
    "f32": _f32,
    "f16": _f16,
    "bf16": _bf16,
    "q8_0": _q8_0,
    "q6_k": _q6_k,
    "q5_k": _q4_k_or_q5_k(32),
    "q5_1": _with_minimum(32),
    "q5_0": _symmetric(32),
    "q4_k": _q4_k_or_q5_k(16),
    "q4_1": _with_minimum(16),
    "q4_0": _symmetric(16),
    "q3_k": _q3_k,
    "q2_k": _q2_k,
}

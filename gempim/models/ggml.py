"""ggml's tensor types: how many bytes a row of n elements takes.

The block sizes come from the `gguf` package (`gguf.GGML_QUANT_SIZES`), which llama.cpp maintains beside ggml-common.h;
the names here are ggml's own, in lower case ("q4_0", "q2_k", "f16").
"""

from __future__ import annotations

from gguf.constants import GGML_QUANT_SIZES

from gempim.quantity import DataError, suggest

BLOCKS: dict[str, tuple[int, int]] = {kind.name.lower(): size for kind, size in GGML_QUANT_SIZES.items()}
"""Type name -> (elements in a block, bytes of a block)."""

NAMES: dict[int, str] = {int(kind): kind.name.lower() for kind in GGML_QUANT_SIZES}
"""The number a GGUF file stores for a type -> its name."""

MATMUL_TYPES = (
    *("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k", "q5_1", "q5_0"),
    *("q4_k", "q4_1", "q4_0", "q3_k", "q2_k"),
)
"""Types a weight matrix may have in gempim."""

KV_TYPES = ("f16", "f32", "bf16", "q8_0")
"""Types the KV cache may have in gempim."""


def row_bytes(ggml_type: str, elements: int) -> int:
    """Bytes that `elements` consecutive elements of one row take in `ggml_type`.

    Raises DataError for an unknown type, or when the row is not a whole number of blocks (ggml refuses such tensors).
    """
    if ggml_type not in BLOCKS:
        raise DataError(
            f"unknown tensor type {ggml_type!r}{suggest(ggml_type, BLOCKS)} (allowed: {', '.join(sorted(BLOCKS))})"
        )
    block, size = BLOCKS[ggml_type]
    if elements % block:
        raise DataError(f"a row of {elements} elements is not a whole number of {ggml_type} blocks of {block}")
    return elements // block * size


def bits_per_weight(ggml_type: str) -> float:
    """Stored bits per element, scales and minima included (4.5 for q4_0)."""
    block, size = BLOCKS[ggml_type]
    return 8 * size / block

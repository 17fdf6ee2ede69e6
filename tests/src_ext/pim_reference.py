# SPDX-License-Identifier: BSD-3-Clause
"""Shared by the SRAM-PIM tests: random ggml blocks and parameter sets."""

from __future__ import annotations

from typing import Any

import numpy as np

from gempim import _engine as engine

FORMATS = {f["name"]: f for f in engine.ggml_formats()}
HALF_OFFSETS = {  # byte offsets of the fp16 fields of a block, from the table in ggml-common.h
    "q4_0": [0],
    "q4_1": [0, 2],
    "q5_0": [0],
    "q5_1": [0, 2],
    "q8_0": [0],
    "q2_K": [80, 82],
    "q3_K": [108],
    "q4_K": [0, 2],
    "q5_K": [0, 2],
    "q6_K": [208],
}


def random_blocks(name: str, count: int, rng: np.random.Generator, scale: float | None = None) -> np.ndarray:
    """Blocks of random bytes whose fp16 fields are finite (or of about `scale`)."""
    blocks = rng.integers(0, 256, size=(count, FORMATS[name]["block_bytes"]), dtype=np.uint8)
    for offset in HALF_OFFSETS[name]:
        if scale is None:
            half = rng.integers(0, 1 << 16, size=count, dtype=np.uint16)
            half = np.where((half & 0x7C00) == 0x7C00, half & 0x83FF, half).astype("<u2")
        else:
            half = (rng.normal(size=count) * scale).astype("<f2").view("<u2")
        blocks[:, offset : offset + 2] = half.view(np.uint8).reshape(count, 2)
    return blocks


def params(**changes: Any) -> dict[str, Any]:
    """The default parameters of SramPim with some changed."""
    return {**engine.sram_pim_default_params(), **changes}

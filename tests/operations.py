"""Random `lutmm` operations, for every test that runs some."""

from __future__ import annotations

import numpy as np

from gempim import _engine as engine
from gempim.workloads.ops_file import TYPE_NUMBERS, Operation, pack_activations

FORMATS = {f["name"]: f for f in engine.ggml_formats()}
NAMES = {number: name for name, number in TYPE_NUMBERS.items()}
HALVES = {"q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "q8_0": [0]}
HALVES |= {"q2_K": [80, 82], "q3_K": [108], "q4_K": [0, 2], "q5_K": [0, 2], "q6_K": [208]}
"""Offsets of the fp16 scales in a block: random bytes there would be infinities."""


def random_operation(name: str, m: int, n: int, blocks: int, rng: np.random.Generator) -> tuple[Operation, np.ndarray]:
    """An operation of random blocks, and its activations float32 [m, k] before quantisation."""
    form = FORMATS[name]
    k = blocks * form["block_elements"]
    weights = rng.integers(0, 256, size=(n * blocks, form["block_bytes"]), dtype=np.uint8)
    for offset in HALVES[name]:
        scale = (rng.normal(size=n * blocks) * 0.01).astype("<f2")
        weights[:, offset : offset + 2] = scale.view(np.uint8).reshape(-1, 2)
    x = rng.normal(size=(m, k)).astype(np.float32)
    activations = pack_activations(engine.quantize_activations(x, form["activation"]), form["activation"])
    return Operation(TYPE_NUMBERS[name], m, n, k, weights.tobytes(), activations), x

"""Files of `lutmm` operations and of their results, as the micro program `lutmm_ops` reads and writes them.

The format is drawn in workloads/micro/ops_file.hh. Activations are blocks as ggml stores them; `pack_activations`
makes them from what `gempim._engine.quantize_activations` gives.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gempim.quantity import DataError

TYPE_NUMBERS = {
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "q2_K": 10,
    "q3_K": 11,
    "q4_K": 12,
    "q5_K": 13,
    "q6_K": 14,
}
"""enum ggml_type of the weight types that the device multiplies."""

STATUS_DONE = 1
"""GEMPIM_STATUS_DONE of isa/lutmm.h."""

_OPS_MAGIC = b"GEMPOPS1"
_RESULTS_MAGIC = b"GEMPRES1"
_OP_HEAD = struct.Struct("<4I2Q")
_RESULT_HEAD = struct.Struct("<3I")


@dataclass(frozen=True)
class Operation:
    """results[m, n] = activations[m, k] . weights[n, k]^T, both operands as ggml's blocks, row after row."""

    weight_type: int
    """Number of the ggml type; `TYPE_NUMBERS` has the valid ones."""
    m: int
    n: int
    k: int
    weights: bytes
    activations: bytes


@dataclass(frozen=True)
class Result:
    """What became of one operation: a gempim_lutmm_status, and float32 [m, n] if it is `STATUS_DONE`."""

    status: int
    values: np.ndarray | None


def pack_activations(quantized: Mapping[str, np.ndarray], kind: str) -> bytes:
    """The blocks [m, k / block] that ggml stores for quantised activations.

    `quantized` has q int8 [m, k], d float32 [m, k / block] and, for q8_1, s float32, for q8_K, sums int16 [m, k / 16].
    Raises DataError for a kind that ggml pairs with no weight type.
    """
    q, d = quantized["q"], quantized["d"]
    m, blocks = d.shape
    parts: list[np.ndarray]
    if kind == "q8_0":
        parts = [d.astype("<f2")]
    elif kind == "q8_1":
        parts = [d.astype("<f2"), quantized["s"].astype("<f2")]
    elif kind == "q8_K":
        parts = [d.astype("<f4")]
    else:
        raise DataError(f"activation kind {kind!r}: expected q8_0, q8_1 or q8_K")
    columns = [np.ascontiguousarray(part).reshape(m * blocks, 1).view(np.uint8) for part in parts]
    columns.append(np.ascontiguousarray(q).reshape(m * blocks, -1).view(np.uint8))
    if kind == "q8_K":
        sums = np.ascontiguousarray(quantized["sums"].astype("<i2"))
        columns.append(sums.reshape(m * blocks, -1).view(np.uint8))
    return np.concatenate(columns, axis=1).tobytes()


def write_operations(path: Path, operations: Sequence[Operation]) -> None:
    """Write a file of operations. Raises DataError for a number that its field cannot hold."""
    parts = [_OPS_MAGIC, struct.pack("<I", len(operations))]
    for index, op in enumerate(operations):
        try:
            head = _OP_HEAD.pack(op.weight_type, op.m, op.n, op.k, len(op.weights), len(op.activations))
        except struct.error as error:
            raise DataError(f"{path}: operation {index}: type, m, n and k must be 0 to 2^32 - 1") from error
        parts += [head, op.weights, op.activations]
    path.write_bytes(b"".join(parts))


class _Reader:
    """The bytes of a file, from its beginning."""

    def __init__(self, path: Path, magic: bytes) -> None:
        self._path = path
        try:
            self._data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
        self._at = 0
        if self.take(len(magic)) != magic:
            raise DataError(f"{path}: does not begin with {magic.decode()}")

    def take(self, count: int) -> bytes:
        out = self._data[self._at : self._at + count]
        if len(out) != count:
            raise DataError(f"{self._path}: ends after {len(self._data)} bytes, within an entry")
        self._at += count
        return out

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def expect_end(self) -> None:
        if self._at != len(self._data):
            raise DataError(f"{self._path}: {len(self._data) - self._at} bytes after the last entry")


def read_operations(path: Path) -> list[Operation]:
    """The operations of a file. Raises DataError if it is not one, or not whole."""
    reader = _Reader(path, _OPS_MAGIC)
    out = []
    for _ in range(reader.unpack(struct.Struct("<I"))[0]):
        weight_type, m, n, k, weight_bytes, activation_bytes = reader.unpack(_OP_HEAD)
        out.append(Operation(weight_type, m, n, k, reader.take(weight_bytes), reader.take(activation_bytes)))
    reader.expect_end()
    return out


def read_results(path: Path) -> list[Result]:
    """The results of a file, in the order of the operations. Raises DataError if it is not one, or not whole."""
    reader = _Reader(path, _RESULTS_MAGIC)
    out = []
    for _ in range(reader.unpack(struct.Struct("<I"))[0]):
        status, m, n = reader.unpack(_RESULT_HEAD)
        values = None
        if status == STATUS_DONE:
            values = np.frombuffer(reader.take(4 * m * n), "<f4").reshape(m, n).copy()
        out.append(Result(status, values))
    reader.expect_end()
    return out

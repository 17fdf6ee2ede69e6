"""How llama.cpp splits an operator over threads: the rules of ggml's scheduler, as formulas.

Sources: ggml_compute_forward_mul_mat in ggml-cpu.c (chunks of vec_dot products), tensor_traits::forward_mul_mat and
forward_mul_mat_id in repack.cpp (chunks of repacked products, experts), both as in the pinned llama.cpp
(gempim/pins.py).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

CHUNK_ROWS = 16
"""Rows of a chunk of a vec_dot product, and of the square blocks inside it."""

CHUNK_ROWS_VECTOR = 64
"""Rows of a chunk when one of the operands is a single row."""

CHUNKS_PER_THREAD = 4
"""Fewer chunks than this per thread: the work is split evenly by thread instead."""


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


@dataclass(frozen=True)
class Chunks:
    """A product of `rows` weight rows and `columns` activation rows cut into chunks.

    `count` chunks, each of at most `chunk_rows` x `chunk_columns`; `along_columns` of them lie side by side along
    the activation rows.
    """

    rows: int
    columns: int
    chunk_rows: int
    chunk_columns: int
    count: int
    along_columns: int

    def most_per_thread(self, threads: int, instances: int = 1) -> int:
        """Chunks of the thread that gets most, when `instances` such products share the threads."""
        return ceil_div(self.count * instances, threads)

    def critical(self, threads: int, instances: int = 1) -> float:
        """Products of a weight row and an activation row that the busiest thread computes.

        The smallest of three upper bounds: its number of chunks times a whole chunk; everything; and, when threads
        fetch a chunk whenever they are free, Graham's bound total / threads + (1 - 1 / threads) * one chunk.
        """
        total = self.rows * self.columns * instances
        chunk = self.chunk_rows * self.chunk_columns
        graham = total / threads + (1 - 1 / threads) * chunk
        return min(self.most_per_thread(threads, instances) * chunk, total, graham)


def dot_chunks(rows: int, columns: int, threads: int) -> Chunks:
    """Chunks of a vec_dot product.

    16 x 16 rows (64 when one side is a single row); with fewer than 4 chunks a thread, one slice of the longer side
    per thread.
    """
    size = CHUNK_ROWS_VECTOR if rows == 1 or columns == 1 else CHUNK_ROWS
    n0, n1 = ceil_div(rows, size), ceil_div(columns, size)
    if n0 * n1 < CHUNKS_PER_THREAD * threads:
        n0, n1 = (threads, 1) if rows > columns else (1, threads)
    chunk_rows, chunk_columns = ceil_div(rows, n0), ceil_div(columns, n1)
    # Slices past the end are empty: with 3 rows on 16 threads there are 3 chunks.
    along_rows, along_columns = ceil_div(rows, chunk_rows), ceil_div(columns, chunk_columns)
    return Chunks(rows, columns, chunk_rows, chunk_columns, along_rows * along_columns, along_columns)


def repacked_chunks(rows: int, columns: int, threads: int, tile_rows: int) -> Chunks:
    """Chunks of a repacked product: about 4 a thread along the weight rows, whole tiles, all activation rows in
    each."""
    size = ceil_div(rows, CHUNKS_PER_THREAD * threads)
    count = ceil_div(rows, size)
    if rows // count < tile_rows <= rows:
        count = ceil_div(rows, tile_rows)
    chunk = ceil_div(rows, count)
    if threads == 1 or (count < threads and ceil_div(rows, threads) >= tile_rows):
        count = threads
        chunk = ceil_div(rows, count)
    count = min(count, ceil_div(rows, tile_rows))
    chunk = min(rows, tile_rows * ceil_div(chunk, tile_rows))
    return Chunks(rows, columns, chunk, columns, min(count, ceil_div(rows, chunk)), 1)


def expert_rows(rows: int, threads: int, tile_rows: int) -> int:
    """Weight rows of the thread that gets most in a repacked product of an expert: an even split, ends rounded up to
    whole tiles."""
    ends = [min(rows, tile_rows * ceil_div(thread * rows // threads, tile_rows)) for thread in range(threads + 1)]
    return max(after - before for before, after in itertools.pairwise(ends))
